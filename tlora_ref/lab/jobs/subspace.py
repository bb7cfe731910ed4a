"""Measure what TLoRA's random subspace costs, what a chosen one gains, and four laws about it, on turned digits.

Parts: capture (which share of an update fits, and how it varies), factors (rules for A and C at several ranks, against
LoRA), whose (from whose gradient the factors may come), steps (the learning rate over width and rank), variance (what
the draw and what the batches add to the spread), alpha (what training it brings), and, with --data as in the job
text, text (the rules on MiniLM, in the room of --room). Finished runs are kept in the output folder: an interrupted job
goes on where it stopped. Needs the optional dependencies "demo".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from ...counts import count
from ...model import Model, sites
from ...shapes import InputError
from ...tables import output_folder, table, write_json
from ...tensor_file import read_tensors, write_tensors
from .. import informed_text
from ..analysis.statistics import differences, variance_components
from ..analysis.steps import UNITS, best_of_curve, carried_rate, exponents, spread
from ..analysis.subspace import captured_share, isotropic_share, share_std, spectral_concentration
from ..analysis.subspace_plots import curves_by_unit, rules_on_questions, rules_over_rank
from ..data import load_digits
from ..digits import ENCODER, FULL, QUICK, Plan, Setup, Task, fingerprint, pretrain
from ..informed import OTHERS, Choice, Given, Pair, directions, full_config, informed, moved, prepared
from ..learning_rates import at_rates, described, search
from ..questions import WITHOUT_DATA
from ..rooms import ByHand, Room, add_room_arguments, chosen_room
from ..runs import one_thread, run_all

SHIFT = "rot90"
RULES = ("released", "orthonormal", "weight_svd", "gradient")
FULL_RATE = 3e-2
"""The learning rate of full fine-tuning where its dW is wanted; the main job's search found it."""

WIDTHS, STEP_RANKS, STEP_EPOCHS = (16, 32, 64, 128), (2, 4, 8, 16), 6
FEW_SEEDS = 10
"""With fewer a rate of the steps has one seed and not two, so that a call with few seeds is a short one."""

RATES = tuple(0.01 * 2.0**i for i in range(10))
DESIGN = 5
"""Draws and batch orders of the design that tells the two apart."""


@dataclass(frozen=True)
class Work:
    """What the parts share: the plan, the ranks, the seeds, and where finished runs are kept."""

    given: Given
    plan: Plan
    ranks: tuple[int, ...]
    seeds: int
    quick: bool
    store: Path
    data: str | None  # the questions, for the part "text"
    text_room: Room

    def rates(self, setups: Sequence[Choice]) -> dict[Setup, float]:
        """The learning rate of each setup, searched on validation images."""
        return search(self.given, setups, self.plan, self.store, informed)

    def accuracies(self, rates: Mapping[Setup, float]) -> dict[Setup, list[float]]:
        """Test accuracy by seed."""
        found = at_rates(self.given, rates, self.plan.epochs, self.seeds, self.store, informed)
        return {setup: [result["accuracy"] for result in results] for setup, results in found.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``subspace``."""
    parser.add_argument(
        "--parts",
        default=",".join(part for part in PARTS if part != "text"),
        help="Which parts to run, by comma. Default: %(default)s.",
    )
    parser.add_argument("--ranks", default="8,16", help="TLoRA's ranks, by comma. Default: %(default)s.")
    parser.add_argument("--seeds", type=int, default=5, help="How many runs each setup gets. Default: 5.")
    parser.add_argument("--quick", action="store_true", help="Make short runs with two seeds, one rank and two widths.")
    parser.add_argument(
        "--data",
        help="The questions of the job text, for the part text: its ranks are 8, 16, 32, its seeds at most five.",
    )
    add_room_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as tables.")
    parser.add_argument("--out", default="out/subspace", help="The folder for results and runs. Default: out/subspace.")


def run(args: argparse.Namespace) -> int:
    """Run the parts; 0 when they are done."""
    chosen = [name.strip() for name in args.parts.split(",")]
    for name in chosen:
        if name not in PARTS:
            raise InputError(f"--parts names {name!r}, expected some of {', '.join(PARTS)}")
    try:
        ranks = tuple(sorted({int(rank) for rank in args.ranks.split(",")}))
    except ValueError:
        raise InputError(f"--ranks is {args.ranks!r}, expected whole numbers by comma") from None
    if not 1 <= ranks[0] <= ranks[-1] <= ENCODER.width:
        raise InputError(f"--ranks is {args.ranks!r}, expected numbers from 1 to {ENCODER.width}")
    if args.seeds < 2:
        raise InputError(f"--seeds is {args.seeds}, expected at least 2")
    if "text" in chosen and args.data is None:
        raise InputError(WITHOUT_DATA)
    text_room = chosen_room(args)
    folder = output_folder(args.out, "subspace.json")
    plan, seeds, ranks = (QUICK, 2, ranks[:1]) if args.quick else (FULL, args.seeds, ranks)
    room = ByHand()
    tasks = {shift: load_digits(shift) for shift in (SHIFT, "none", *OTHERS)}
    task = tasks.pop(SHIFT)
    with one_thread():
        base = kept_base(folder / f"base-{plan.pretrain}", lambda: pretrain(room, tasks["none"]["train"], plan))
        found = directions(room, base, task, tasks, full_config(plan, FULL_RATE))
    store = folder / f"runs-{fingerprint(base)}.jsonl"
    work = Work(Given(room, base, task, found), plan, ranks, seeds, args.quick, store, args.data, text_room)
    report: dict[str, Any] = {"job": "subspace", "shift": SHIFT, "quick": args.quick, "seeds": seeds,
                              "ranks": list(ranks), "rates": described(plan)}  # fmt: skip
    for part in chosen:
        report[part] = PARTS[part](work)
        write_json(folder / "subspace.json", report)
        if part in FIGURES:
            FIGURES[part](folder / part, report[part])
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for part in chosen:
        print(f"{TITLES[part]}\n\n{TABLES[part](report[part])}\n")
    print("Differences are paired by seed, with Student's 95 % interval, each on its own.")
    if chosen != ["text"]:
        print(f"On the digits: test accuracy over {seeds} seeds, learning rates {described(plan)}.")
    print(f"Results and figures: {folder}/")
    return 0


def kept_base(path: Path, make: Callable[[], Model]) -> Model:
    """The pretrained base of an earlier call, or a new one that is kept: so that runs go on from the same numbers on
    another processor, too. Raises InputError for a file that is damaged."""
    if path.exists():
        _, params = read_tensors(path, "subspace", "the base of an earlier call", 1)
        return Model(ENCODER, params, frozenset(params))
    base = make()
    write_tensors(path, "subspace", {"version": 1}, base.params)
    return base


# --- capture: which share of an update fits ------------------------------------------------------


def capture(work: Work) -> list[dict[str, Any]]:
    """The share of some updates that random factors hold: predicted and drawn."""
    d, R, draws = 64, 16, 200 if work.quick else 2_000
    matrix = sites(work.given.base.config, Choice("", "tlora", 1).adapter())[0].name  # type: ignore[arg-type]
    targets = {
        f"rank one, {d} x {d}": (np.outer(np.eye(d)[0], np.eye(d)[0]), R),
        f"singular values 0.8^k, {d} x {d}": (np.diag(0.8 ** np.arange(d)), R),
        f"identity, {d} x {d}": (np.eye(d), R),
        "full's dW, layer 0's query": (work.given.directions["dW of full"][matrix], 8),
        "the gradient, layer 0's query": (work.given.directions["own"][matrix], 8),
    }
    rows = []
    for label, (D_IO, rank) in targets.items():
        I, O = D_IO.shape
        rng = np.random.default_rng(0)
        shares = [
            captured_share(D_IO, rng.standard_normal((I, rank)), rng.standard_normal((rank, O))) for _ in range(draws)
        ]
        k = spectral_concentration(D_IO)
        rows.append(
            {"target": label, "rank": rank, "concentration": k, "draws": draws,
             "mean": mean(shares), "mean_predicted": isotropic_share(I, O, rank),
             "std": stdev(shares), "std_predicted": share_std(I, O, rank, k)}
        )  # fmt: skip
    return rows


def capture_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    header = ["update", "r", "k", "share, predicted", "drawn", "std, predicted", "drawn"]
    return table(header, [
        [r["target"], str(r["rank"]), f"{r['concentration']:.3f}", f"{r['mean_predicted']:.4f}", f"{r['mean']:.4f}",
         f"{r['std_predicted']:.4f}", f"{r['std']:.4f}"] for r in rows
    ])  # fmt: skip


# --- factors: rules for A and C, against LoRA ----------------------------------------------------


def tlora(rank: int, rule: str = "released", **more: Any) -> Choice:
    """A row of TLoRA: the rule "gradient" is that of the task's own gradient unless a source is given."""
    if rule == "gradient":
        more = {"source": "own"} | more
    return Choice(f"TLoRA r={rank}", "tlora", rank, init=rule, **more)


def lora(rank: int) -> Choice:
    """A row of LoRA."""
    return Choice(f"LoRA r={rank}", "lora", rank)


def matched(work: Work, numbers: int) -> Choice:
    """LoRA of the rank whose count is nearest to a number of numbers."""
    counted = {rank: count(ENCODER, lora(rank).adapter()).trained for rank in range(1, ENCODER.width + 1)}
    return lora(min(counted, key=lambda rank: abs(counted[rank] - numbers)))


def factors(work: Work) -> list[dict[str, Any]]:
    """Every rule at every rank; LoRA of the same trained and of the same stored count; head only and everything."""
    chosen = [tlora(rank, rule) for rank in work.ranks for rule in RULES]
    chosen += [tlora(rank, "gradient", source="dW of full") for rank in work.ranks]
    beside = {setup: [matched(work, n) for n in (_counts(setup).trained, _counts(setup).stored)] for setup in chosen}
    loras = sorted({setup for pair in beside.values() for setup in pair}, key=lambda setup: setup.rank or 0)
    references = [Choice("head only", "head"), Choice("everything", "full")]
    rates = work.rates([*references, *chosen, *loras])
    found = work.accuracies(rates)
    rows = []
    for setup in rates:
        assert isinstance(setup, Choice)
        others = {}
        if setup in beside:
            by_trained, by_stored = beside[setup]
            others = {"released": tlora(setup.rank or 0), "lora_trained": by_trained, "lora_stored": by_stored}
        rows.append(_row(work, setup, rates, found, others))
    return rows


def _counts(setup: Choice) -> Any:
    return count(ENCODER, setup.adapter(), train_also={"head": ("head.W", "head.b")}.get(setup.kind, ()))


def _row(
    work: Work,
    setup: Choice,
    rates: Mapping[Setup, float],
    found: Mapping[Setup, list[float]],
    others: Mapping[str, Choice],
) -> dict[str, Any]:
    counts, values = setup.counts(work.given.base), found[setup]
    once = counts.frozen_random if setup.stored_once else 0
    row = {
        "label": setup.label, "kind": setup.kind, "rank": setup.rank, "init": setup.init, "source": setup.source,
        "examples": setup.examples, "trained": counts.trained, "stored": counts.stored - once, "stored_once": once,
        "learning_rate": rates[setup], "accuracies": values, "accuracy_mean": mean(values),
        "accuracy_std": stdev(values), "share": _share(work, setup) if setup.kind == "tlora" else None,
    }  # fmt: skip
    beside = {name: other for name, other in others.items() if other != setup}
    row |= differences(values, {name: found[other] for name, other in beside.items()})
    return row | {f"{name}_is": other.label for name, other in beside.items()}


def _share(work: Work, setup: Choice) -> float:
    """The share of full's dW, over all matrices together, that the factors hold; of drawn ones, the mean over draws."""
    wanted, shares = work.given.directions["dW of full"], []
    for seed in range(1 if setup.init in ("weight_svd", "gradient") and setup.examples is None else 20):
        model = prepared(work.given, setup, seed)
        weights = {name: float(np.square(D_IO).sum()) for name, D_IO in wanted.items()}
        held = [
            weights[name] * captured_share(D_IO, model.params[f"{name}.A"], model.params[f"{name}.C"])
            for name, D_IO in wanted.items()
        ]
        shares.append(sum(held) / sum(weights.values()))
    return mean(shares)


def factors_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    header = ["setup", "A and C", "trained", "stored", "holds", "lr", "accuracy", "std", "minus released",
              "minus LoRA, trained", "minus LoRA, stored"]  # fmt: skip
    return table(header, [
        [r["label"], _rule(r), f"{r['trained']:,}", f"{r['stored']:,}",
         "" if r["share"] is None else f"{r['share']:.2f}", f"{r['learning_rate']:g}", f"{r['accuracy_mean']:.3f}",
         f"{r['accuracy_std']:.3f}", _difference(r.get("minus_released")), _difference(r.get("minus_lora_trained")),
         _difference(r.get("minus_lora_stored"))] for r in rows
    ])  # fmt: skip


def _rule(row: Mapping[str, Any]) -> str:
    if row["kind"] != "tlora":
        return ""
    if row["init"] != "gradient":
        return row["init"]
    return "dW of full" if row["source"] == "dW of full" else "gradient"


def _difference(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:+.3f} [{bounds[1]:+.3f}, {bounds[2]:+.3f}]"


# --- whose: from whose gradient ------------------------------------------------------------------


def whose(work: Work) -> list[dict[str, Any]]:
    """The gradient of the task on few examples, with a trained head, of other tasks and of several, at one rank."""
    rank = 16 if 16 in work.ranks else work.ranks[-1]
    own, released = tlora(rank, "gradient"), tlora(rank)
    chosen = [own, *(tlora(rank, "gradient", examples=n) for n in (16, 64, 512))]
    sources = ("own, head trained", "upright", *OTHERS, "mean of others")
    chosen += [tlora(rank, "gradient", source=source) for source in sources]
    if work.quick:
        chosen = chosen[:1] + chosen[-1:]
    rates = work.rates([released, *chosen])
    found = work.accuracies(rates)
    rows = [_row(work, setup, rates, found, {"released": released, "own": own}) for setup in [released, *chosen]]
    for row in rows:
        row["held_of_gradient"] = _overlap(work, row["source"], rank) if row["source"] and not row["examples"] else None
    return rows


def _overlap(work: Work, source: str, rank: int) -> float:
    """The share of the task's own gradient that the source's factors hold."""
    own, factors = work.given.directions["own"], prepared(work.given, tlora(rank, "gradient", source=source), 0).params
    held = sum(captured_share(D, factors[f"{n}.A"], factors[f"{n}.C"]) * np.square(D).sum() for n, D in own.items())
    return float(held / sum(np.square(D_IO).sum() for D_IO in own.values()))


def whose_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    header = ["gradient of", "trained", "stored per task", "once", "holds of dW", "of own gradient", "lr", "accuracy",
              "std", "minus released", "minus own"]  # fmt: skip
    return table(header, [
        [_source(r), f"{r['trained']:,}", f"{r['stored']:,}", f"{r['stored_once']:,}", f"{r['share']:.2f}",
         "" if r["held_of_gradient"] is None else f"{r['held_of_gradient']:.2f}", f"{r['learning_rate']:g}",
         f"{r['accuracy_mean']:.3f}", f"{r['accuracy_std']:.3f}", _difference(r.get("minus_released")),
         _difference(r.get("minus_own"))] for r in rows
    ])  # fmt: skip


def _source(row: Mapping[str, Any]) -> str:
    if not row["source"]:
        return f"nobody ({row['init']})"
    return f"own, {row['examples']} examples" if row["examples"] else row["source"]


# --- steps: the learning rate over width and rank ------------------------------------------------


def steps(work: Work) -> dict[str, Any]:
    """The best learning rate of released TLoRA by width and rank, and in which unit it stays the same."""
    widths, ranks, seeds, epochs = WIDTHS, STEP_RANKS, 1 if work.seeds < FEW_SEEDS else 2, STEP_EPOCHS
    if work.quick:
        widths, ranks, seeds, epochs = widths[:2], ranks[1:3], 1, 2
    upright = load_digits("none")["train"]
    bases = {}
    with one_thread():
        for width in widths:
            encoder = replace(ENCODER, width=width, hidden=2 * width)
            base = pretrain(work.given.room, upright, work.plan, encoder)
            bases[width] = Given(work.given.room, base, work.given.parts, {})
    rates = RATES[::3] if work.quick else RATES
    tasks = [(width, rank, lr, seed, epochs) for width in widths for rank in ranks for lr in rates
             for seed in range(seeds)]  # fmt: skip
    losses: dict[tuple[int, int], dict[float, list[float | None]]] = {}
    for (width, rank, lr, *_), loss in zip(
        tasks, run_all(moved, bases, tasks, "learning rates by size", store=work.store), strict=True
    ):
        losses.setdefault((width, rank), {}).setdefault(lr, []).append(loss)
    curves = {
        size: {lr: mean(v for v in values if v is not None) for lr, values in of.items() if None not in values}
        for size, of in losses.items()
    }
    best = [(width, rank, best_of_curve(curve)) for (width, rank), curve in curves.items()]
    return {
        "curves": [[width, rank, list(curve.items())] for (width, rank), curve in curves.items()],
        "best": best,
        "exponents": exponents(best),
        "spread": {unit: spread(best, unit) for unit in UNITS},
        "seeds": seeds,
        "epochs": epochs,
    }


def steps_table(part: Mapping[str, Any]) -> str:
    """The table for a terminal: the best rate by width and rank, and the spread in every unit."""
    best = {(width, rank): rate for width, rank, rate in part["best"]}
    widths, ranks = (sorted({size[i] for size in best}) for i in (0, 1))
    lines = [[f"d = {width}", *(f"{best[width, rank]:.3f}" for rank in ranks)] for width in widths]
    a, b = part["exponents"]
    units = [[unit, f"{factor:.2f}"] for unit, factor in part["spread"].items()]
    return "\n".join([
        table(["best learning rate", *(f"r = {rank}" for rank in ranks)], lines), "",
        f"fit: best rate = constant * d^{a:+.2f} * r^{b:+.2f}   (entry predicts d^+0.50 r^-0.50, output d^0 r^-1)", "",
        table(["unit", "differs by a factor of"], units),
    ])  # fmt: skip


# --- variance: the draw, the batches, the rest ---------------------------------------------------


def variance(work: Work) -> list[dict[str, Any]]:
    """Draws and batch orders crossed, at the rates that a search gives."""
    setups = [tlora(rank, rule) for rank in work.ranks for rule in ("released", "orthonormal")]
    setups.append(matched(work, _counts(tlora(work.ranks[-1])).trained))
    rates, n = work.rates(setups), 2 if work.quick else DESIGN
    tasks = [Pair(setup, rates[setup], draw, work.plan.epochs, "test", order)
             for setup in setups for draw in range(n) for order in range(n)]  # fmt: skip
    results = run_all(informed, work.given, tasks, "draws and orders", store=work.store)
    rows = []
    for i, setup in enumerate(setups):
        values = [result["accuracy"] for result in results[i * n * n : (i + 1) * n * n]]
        found = variance_components(np.reshape(values, (n, n)))
        rows.append(
            {"label": setup.label, "init": setup.init if setup.kind == "tlora" else "", "accuracy_mean": mean(values),
             "draw": found.rows, "order": found.columns, "rest": found.rest, "std": stdev(values)}
        )  # fmt: skip
    return rows


def variance_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal: variances in units of 1e-5."""
    header = ["setup", "A and C", "accuracy", "std", "by draw", "by batches", "rest"]
    return table(header, [
        [r["label"], r["init"], f"{r['accuracy_mean']:.3f}", f"{r['std']:.3f}",
         *(f"{1e5 * r[key]:.1f}" for key in ("draw", "order", "rest"))] for r in rows
    ]) + "\nVariances in units of 1e-5; an estimate below zero says that there is nothing to see."  # fmt: skip


# --- alpha: trained or not -----------------------------------------------------------------------


def alpha(work: Work) -> list[dict[str, Any]]:
    """alpha trained and fixed at 1, with AdamW's default weight decay, with none and with ten times as much."""
    rank = work.ranks[-1] if 16 not in work.ranks else 16
    reference = tlora(rank)
    setups = [tlora(rank, decay=decay, learn_alpha=trained) for decay in (0.01, 0.0, 0.1) for trained in (True, False)]
    rates = work.rates(setups)
    found = work.accuracies(rates)
    ends = run_all(informed, work.given, [Task(s, rates[s], 0, work.plan.epochs, "test") for s in setups], "alpha",
                   store=work.store)  # fmt: skip
    rows = []
    for setup, end in zip(setups, ends, strict=True):
        other = replace(setup, learn_alpha=True)
        row = _row(work, setup, rates, found, {"trained_alpha": other, "released": reference})
        rows.append(row | {"decay": setup.decay, "trains_alpha": setup.learn_alpha, "alpha": mean(end["alpha"])})
    return rows


def alpha_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    header = ["alpha", "weight decay", "alpha at the end", "lr", "accuracy", "std", "minus alpha trained"]
    return table(header, [
        ["trained" if r["trains_alpha"] else "fixed at 1", f"{r['decay']:g}", f"{r['alpha']:.2f}",
         f"{r['learning_rate']:g}", f"{r['accuracy_mean']:.3f}", f"{r['accuracy_std']:.3f}",
         _difference(r.get("minus_trained_alpha"))] for r in rows
    ])  # fmt: skip


# --- text: the same on a language model ----------------------------------------------------------


def text(work: Work) -> list[dict[str, Any]]:
    """MiniLM on questions: both rules at three ranks, and LoRA, over five seeds at most."""
    assert work.data is not None
    if work.quick:
        plan, ranks, seeds = replace(informed_text.PLAN, sizes=(600, 100, 100), epochs=1, widen=False), (8,), 1
    else:
        plan, ranks, seeds = informed_text.PLAN, (8, 16, 32), min(5, work.seeds)
    return informed_text.compare(work.text_room, work.data, work.store.parent, seeds, ranks, plan)


def text_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    header = ["setup", "gradient of", "in adapters", "per task", "once", "lr", "accuracy", "minus released",
              "minus LoRA r=1", "minus LoRA, stored"]  # fmt: skip
    shown = table(header, [
        [r["label"], r["source"], f"{r['trained']:,}", f"{r['stored']:,}", f"{r['stored_once']:,}",
         f"{r['learning_rate']:g}", _bounded(r), _difference(r.get("minus_released")),
         _difference(r.get("minus_lora_trained")), _difference(r.get("minus_lora_stored"))] for r in rows
    ])  # fmt: skip
    n = len(rows[0]["accuracies"])
    return f"{shown}\naccuracy: on test questions, mean and interval (n = {n})\n{carried(rows)}"


def _bounded(row: Mapping[str, Any]) -> str:
    bounds = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['accuracy_mean']:.3f}{bounds}"


def carried(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the two rules of the part steps make of the first rank's learning rate at the others, which the search chose
    for itself. The width is the same for all, so it cancels."""
    first, *others = [row for row in rows if row["kind"] == "tlora" and not row["source"]]
    lr, start = first["learning_rate"], (1, 1, first["rank"])
    found = [
        f"r={row['rank']} {carried_rate(lr, start, (1, 1, row['rank']), 'output'):.2g} and "
        f"{carried_rate(lr, start, (1, 1, row['rank']), 'entry'):.2g}, chosen {row['learning_rate']:g}"
        for row in others
    ]
    told = f"Released at r={first['rank']} the chosen rate is {lr:g}."
    if found:
        told += f" Carried by what an output and an entry of dW feel: {'; '.join(found)}."
    return told


PARTS: dict[str, Callable[[Work], Any]] = {
    "capture": capture, "factors": factors, "whose": whose, "steps": steps, "variance": variance, "alpha": alpha,
    "text": text,
}  # fmt: skip
TABLES: dict[str, Callable[[Any], str]] = {
    "capture": capture_table, "factors": factors_table, "whose": whose_table, "steps": steps_table,
    "variance": variance_table, "alpha": alpha_table, "text": text_table,
}  # fmt: skip
FIGURES: dict[str, Callable[[Path, Any], None]] = {
    "factors": rules_over_rank, "steps": curves_by_unit, "text": rules_on_questions,
}  # fmt: skip
TITLES = {
    "capture": "The share of an update that random factors hold",
    "factors": "Rules for A and C",
    "whose": "Whose gradient the factors come from",
    "steps": "The best learning rate by width and rank",
    "variance": "What the spread comes from",
    "alpha": "What training alpha brings",
    "text": "MiniLM on questions",
}
