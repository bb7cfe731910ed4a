"""Train TLoRA, or another method, on a GLUE task with a transformers model, by the paper's recipe.

    python -m tlora_ref glue --task mrpc --model FacebookAI/roberta-large-mnli --data glue
    python -m tlora_ref glue --task mrpc --model roberta-large-mnli/ --data glue_data/ --seeds 5 --device cuda
    python -m tlora_ref glue --task rte --model my-roberta/ --data glue_data/RTE --method lora --rank 8 --out out/rte
    torchrun --nproc-per-node 4 -m tlora_ref glue --task qnli --model my-roberta/ --data glue_data/ --precision bf16

Model and data are folders (a transformers checkpoint with its tokenizer; GLUE's TSV files or a saved dataset), and
then nothing touches the network, or names on the Hugging Face hub. What is not given is the paper's recipe: r = 32 on
query and value, dropout 0.5 on the update, AdamW, batches of 32, 30 epochs, linear decay; and where the paper is silent
the released code's: learning rate 1e-3, 6 % warm-up, weight decay 0.01, head frozen. Texts are cut at 128 tokens, where
the released code cuts them at the tokenizer's maximum. The paper starts from RoBERTa-large fine-tuned on MNLI, whose
head of three classes it keeps for tasks of two; a model without a head needs --head new. LoRA's dropout is 0 and its
scale 16 / r, as in the released control; --method full wants a far smaller --lr, 1e-5 say.

Every epoch leaves a checkpoint in --out/seed-N. The same command again goes on from there, also after a kill, with the
losses that it would have had; finished seeds are not repeated. A folder of another run is refused.

Under torchrun the batch stays --batch-size, split over the processes. If one is lost, all end with an error, and the
same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ...config import TrainConfig
from ...files import read_file
from ...paper import TABLE_3, VALIDATION
from ...shapes import InputError
from ...tables import output_folder, table, write_json
from ..glue.recipe import HEADS, PRECISIONS, WAYS, Recipe, paper_recipe
from ..glue.tasks import METRICS, TASKS, GlueTask, find_task

if TYPE_CHECKING:
    from ...counts import Counts
    from ..glue.distributed import Processes
    from ..glue.state import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``glue``."""
    paper = TrainConfig()
    add = parser.add_argument
    add("--task", required=True, help=f"One of {', '.join(TASKS)}.")
    add("--model", required=True, help="The folder of a transformers checkpoint, or a name on the Hugging Face hub.")
    add("--data", required=True, help="A folder of TSV files or of a saved dataset, or a name on the hub such as glue.")
    add("--method", default="tlora", help=f"One of {', '.join(WAYS)}. Default: tlora.")
    add("--rank", type=int, default=32, help="The rank of the adapter. Default: 32.")
    add("--targets", default="query,value", help="The modules that are adapted, by comma. Default: query,value.")
    add(
        "--dropout",
        type=float,
        help="The adapter's dropout; the model's own stays as it is. Default: 0.5 for tlora, 0 for others.",
    )
    add("--lora-alpha", type=float, help="The constant scale times the rank, for methods that have one. Default: 16.")
    add("--head", help="The classifier: " + "; ".join(f"{name} is {what}" for name, what in HEADS.items()) +
        ". Default: frozen for adapters, trained for the methods head and full.")  # fmt: skip
    add("--epochs", type=int, default=paper.epochs, help=f"Passes over the training examples. Default: {paper.epochs}.")
    add(
        "--batch-size",
        type=int,
        default=paper.batch_size,
        help=f"Examples in a batch, of all processes together. Default: {paper.batch_size}.",
    )
    add("--lr", type=float, default=paper.lr, help=f"The largest learning rate. Default: {paper.lr:g}.")
    add(
        "--weight-decay",
        type=float,
        default=paper.weight_decay,
        help=f"Weight decay on all that trains. Default: {paper.weight_decay:g}.",
    )
    add(
        "--warmup",
        type=float,
        default=paper.warmup,
        help=f"The share of all steps in which the rate rises. Default: {paper.warmup:g}.",
    )
    add(
        "--max-length",
        type=int,
        default=128,
        help="The most tokens of an example; the paper does not say. Default: 128.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--seeds", type=int, default=1, help="How many runs there are, from the seeds 0, 1, ... Default: 1."
    )
    which.add_argument("--seed", type=int, help="Make one run, from this seed.")
    add(
        "--precision",
        default="fp32",
        help=f"The precision of products, {', '.join(PRECISIONS)}; what trains stays float32. Default: fp32.",
    )
    add(
        "--device",
        help="Where it computes: cpu, cuda or cuda:1; cuda under torchrun is one GPU a process. Default: a GPU if any.",
    )
    add("--json", action="store_true", help="Print the results as JSON, not as a table.")
    add("--out", help="The folder for checkpoints and results. Default: out/glue/TASK-METHOD.")


def run(args: argparse.Namespace) -> int:
    """Run all seeds; 0 when they are done."""
    recipe = _recipe(args)
    if args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}, expected at least 1")
    seeds = range(args.seeds) if args.seed is None else [args.seed]
    recipes = [recipe.at(seed) for seed in seeds]
    out = args.out or f"out/glue/{args.task}-{args.method}"

    from ..glue.distributed import processes

    with processes(args.device) as here:
        report = train_all(recipes, args.model, args.data, out, here)
        if here.first:
            write_json(Path(out) / "glue.json", report)
            print(json.dumps(report, indent=1) if args.json else page(report, out))
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    train = TrainConfig(
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        weight_decay=args.weight_decay,
        warmup=args.warmup,
    )
    targets = tuple(dict.fromkeys(name.strip() for name in args.targets.split(",")))
    return paper_recipe(
        args.task,
        args.method,
        args.rank,
        targets,
        args.dropout,
        args.lora_alpha,
        args.head,
        train,
        args.max_length,
        args.precision,
    )


# --- the runs ------------------------------------------------------------------------------------


def train_all(recipes: Sequence[Recipe], model_at: str, data_at: str, out: str, here: Processes) -> dict[str, Any]:
    """One run per recipe, which differ in the seed, and what came of them. Nothing is written before model, data and
    folder are known to be right."""
    from ...by_autograd.inject import held
    from ..glue.data import read, tokenize
    from ..glue.model import load_base, load_tokenizer, prepare
    from ..glue.run import train
    from ..glue.state import check_same

    recipe = recipes[0]
    examples = read(find_task(recipe.task), data_at)
    tokenizer = load_tokenizer(model_at)
    parts = {part: tokenize(tokenizer, those, recipe.max_length) for part, those in examples.items()}
    data = {f"{part} data": tokens.fingerprint()[:16] for part, tokens in parts.items()}
    records: list[Record] = []
    for number, one in enumerate(recipes):
        seed = one.train.seed
        model, mark = load_base(model_at, one)
        prepare(model, one)
        counts = held(model)
        same = one.described() | {"model": mark[:16], **data}
        described = Path(out) / "recipe.json"
        # a first run that failed before its first checkpoint has described nothing
        if any(Path(out).glob("seed-*/checkpoint.safetensors")) and os.path.lexists(described):
            check_same(_read_json(described), same, described)
        folder = Path(out) / f"seed-{seed}"
        if here.first:
            if number == 0:
                _announce(model, one, counts, examples, here)
            output_folder(str(folder), "checkpoint.safetensors", "best.safetensors", "last.safetensors")
            output_folder(out, "glue.json")
            write_json(described, same)
        watch = _watch(seed, one, len(recipes) - number - 1, here)
        records.append(train(model.to(here.device), tokenizer, parts, one, folder, here, same | {"seed": seed}, watch))
    return {
        "job": "glue",
        "task": recipe.task,
        "label": recipe.label,
        "model": model_at,
        "data": data_at,
        "recipe": same,
        "examples": {part: len(those) for part, those in examples.items()},
        "trained": counts.trained,
        "base": counts.base,
        "processes": here.count,
        "device": str(here.device),
        "exchanged_bytes": exchanged_bytes(counts.trained, here),
        **summary(find_task(recipe.task), [one.train.seed for one in recipes], records),
        "paper": dict(zip(("columns", "rows"), _paper(find_task(recipe.task)), strict=True)),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError):  # an InputError is one, too
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is no description of a run; move it away or choose another --out")
    return found


def exchanged_bytes(trained: int, here: Processes) -> int:
    """Bytes of the gradients, float32, that the processes add up in every step."""
    return 4 * trained if here.count > 1 else 0


def _announce(model: Any, recipe: Recipe, counts: Counts, examples: Mapping[str, Any], here: Processes) -> None:
    from ...by_autograd.inject import is_adapted, report

    what = report(model) if is_adapted(model) else f"{recipe.label}: {counts.trained:,} of {counts.base:,} train"
    sizes = ", ".join(f"{part} {len(those):,}" for part, those in examples.items())
    where = f"{here.count} processes on {here.device.type}" if here.count > 1 else str(here.device)
    print(f"{what}\nexamples: {sizes}; {where}, {recipe.precision}", file=sys.stderr)
    if here.count > 1:
        print(f"a step exchanges {exchanged_bytes(counts.trained, here):,} bytes of gradients", file=sys.stderr)


def _watch(seed: int, recipe: Recipe, later: int, here: Processes) -> Any:
    """What tells of a run: a bar with the remaining time on a terminal, a line an epoch elsewhere and below the bar;
    nothing in all processes but the first. ``later`` runs are still to come."""
    from ..glue.run import Watch

    if not here.first:
        return Watch()
    epochs, metrics = recipe.train.epochs, find_task(recipe.task).metrics

    class Told(Watch):
        bar: Any = None
        found = 0

        def started(self, record: Record, steps: int) -> None:
            self.found = len(record.epochs)
            if self.found:
                finished = " and is finished" if self.found == epochs else ", and goes on from there"
                print(f"seed {seed}: was left after epoch {self.found}/{epochs}{finished}", file=sys.stderr)
            if sys.stderr.isatty() and self.found < epochs:
                from tqdm import tqdm

                done = steps // epochs * self.found
                self.bar = tqdm(total=steps, initial=done, desc=f"seed {seed}", unit="step", leave=False)

        def step(self, done: int) -> None:
            if self.bar is not None:
                self.bar.update()

        def epoch(self, record: Record) -> None:
            last, own = record.epochs[-1], record.epochs[self.found :]
            done = len(record.epochs)
            left = fmean(e["seconds"] for e in own) * (epochs - done + later * epochs)
            per_epoch = len(record.loss) // done
            scores = ", ".join(f"{METRICS[m]} {100 * last[m]:.1f}" for m in metrics)
            line = (
                f"seed {seed}, epoch {done}/{epochs}: loss {fmean(record.loss[-per_epoch:]):.4f}, "
                f"validation {last['loss']:.4f}, {scores}; {last['seconds']:.1f} s, {left:.0f} s left"
            )
            if self.bar is None:
                print(line, file=sys.stderr, flush=True)
                return
            self.bar.write(line, file=sys.stderr)
            if done == epochs:
                self.bar.close()

    return Told()


# --- what came of it -----------------------------------------------------------------------------


def summary(task: GlueTask, seeds: Sequence[int], records: Sequence[Record]) -> dict[str, Any]:
    """Per run the best and the last epoch; per metric and over the runs mean and standard deviation of both."""
    from ..glue.run import best_epoch

    runs = []
    for seed, record in zip(seeds, records, strict=True):
        best = record.epochs[best_epoch(record, task.metrics[0]) - 1]
        runs.append({"seed": seed, "best": best, "last": record.epochs[-1], **asdict(record)})
    scores = {
        metric: {when: _mean_and_std([one[when][metric] for one in runs]) for when in ("best", "last")}
        for metric in task.metrics
    }
    return {"scores": scores, "runs": runs}


def _mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}


def _paper(task: GlueTask) -> tuple[list[str], list[tuple[str, str, float]]]:
    """The paper's Table 3 on the task: (method, trained, accuracy of the best epoch in %)."""
    columns = ["method", "trained", "accuracy, best epoch"]
    if task.title not in VALIDATION:
        return columns, []
    place = list(VALIDATION).index(task.title)
    return columns, [(*name.rsplit(" ", 1), row[place]) for name, row in TABLE_3.items()]


def results_table(report: Mapping[str, Any]) -> str:
    """What was measured above the paper's rows, in %."""

    def cell(found: Mapping[str, float | None]) -> str:
        spread = "" if found["std"] is None else f" ± {100 * found['std']:.1f}"
        return f"{100 * found['mean']:.1f}{spread}"

    metrics = report["scores"]
    header = ["", "trained", *(f"{METRICS[metric]}, {when}" for metric in metrics for when in ("best", "last"))]
    rows = [
        [f"here: {report['label']}", f"{report['trained']:,}",
         *(cell(metrics[metric][when]) for metric in metrics for when in ("best", "last"))],
        *([f"paper: {name}", trained, f"{accuracy:.1f}", *[""] * (2 * len(metrics) - 1)]
          for name, trained, accuracy in report["paper"]["rows"]),
    ]  # fmt: skip
    return table(header, rows)


def page(report: Mapping[str, Any], out: str) -> str:
    """The table, and what has to be known to read it."""
    task, seeds = find_task(report["task"]), [run["seed"] for run in report["runs"]]
    found, expected = report["examples"]["validation"], task.validation
    spread = f"± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"one run, from seed {seeds[0]}"
    lines = [
        results_table(report),
        "",
        f"{task.title}, in %; best: the epoch of the best {METRICS[task.metrics[0]]} on the validation set itself, as "
        f"in the paper; {spread}.",
    ]
    if report["paper"]["rows"]:
        lines.append("The paper's rows: arXiv 2504.18735, Table 3, best epoch of a run.")
    else:
        lines.append(f"The paper's Table 3 (arXiv 2504.18735) does not have {task.title}.")
    if found != expected:
        lines.append(f"Not a result on GLUE: these are {found:,} validation examples, GLUE's are {expected:,}.")
    lines.append(f"Results: {out}/glue.json; trained arrays: {out}/seed-{seeds[0]}/best.safetensors, last.safetensors")
    return "\n".join(lines)
