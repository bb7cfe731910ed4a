"""Compare the family: every method on the turned digits, at its natural rank, over ranks, and at equal counts.

A row is a method, or a method and how it is trained, as in "lora+lora_rite": an optimizer, a growth of the rank, a
chain, a choice of ranks or matrices; "norms" trains LayerNorms and head as well, as Houlsby and Pfeiffer do it.

Every setting gets the same search over learning rates on validation images; accuracies are on test images, over
the same seeds for all, and the differences to LoRA are paired by seed, with Student's interval. Finished runs are
kept in the output folder: an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from ...by_hand.methods import METHODS
from ...shapes import InputError
from ...tables import output_folder, table, write_csv, write_json
from ..analysis.statistics import holm, paired_difference
from ..analysis.verdicts import LEVEL, MIN_SEEDS, within
from ..data import SHIFTS, load_digits
from ..digits import ENCODER, FULL, QUICK, WORDS, Setup, fingerprint, named_setup, pretrain
from ..learning_rates import at_rates, described, search
from ..rooms import ByHand
from ..runs import one_thread

NATURAL = {name: method.rank for name, method in METHODS.items()}
"""The rank of each method as its paper would choose it for a model of this width."""

RANKS = dict.fromkeys(METHODS, (2,)) | {
    "tlora": (2, 8, 32),
    "lora": (1, 2),
    "lora_fa": (2, 16),
    "vera": (8,),
    "dora": (1, 2),
    "hta": (2,),
    "soda": (1,),  # its rank means nothing
}
"""The ranks of each method's curve, beside the usual and the matched one."""

LEFT_OUT = ("lora_gated", "dora_full", "hta_unit", "mtlora_icfm", "mtlora_ctcm", "mtlora_dtsm")
"""Variants that only --methods brings in."""

TRAINED_OTHERWISE = (
    "lora+lora_rite",
    "triadapt+linear",
    "lora+cola",
    "lora+rac",
    "lora+xgblora",
    "lora+gelora",
    "lora+diffora",
    "adapter_h+norms",
    "adapter_p+norms",
)
"""Rows beside those of the methods themselves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``compare``."""
    default = [*(m for m in METHODS if m not in LEFT_OUT), *TRAINED_OTHERWISE]
    parser.add_argument(
        "--shift", default="rot90", help=f"What happens to the digits: {', '.join(SHIFTS)}. Default: rot90."
    )
    parser.add_argument(
        "--methods",
        default=",".join(default),
        help=f"Some of {', '.join(METHODS)}, by comma; each may be followed by + and one of {', '.join(WORDS)}. "
        "Default: %(default)s.",
    )
    parser.add_argument(
        "--budget", type=int, default=1000, help="How many numbers are trained in the matched setting. Default: 1000."
    )
    parser.add_argument("--seeds", type=int, default=5, help="How many runs each setting gets. Default: 5.")
    parser.add_argument("--quick", action="store_true", help="Make short runs with two seeds, and no curves over rank.")
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as a table.")
    parser.add_argument(
        "--out", default="out/compare", help="The folder for results, figure and runs. Default: out/compare."
    )


def trained_count(method: str, rank: int) -> int:
    """Trained numbers of a row's adapter on the job's encoder."""
    kind, *words = method.split("+")
    return Setup("", kind, rank, tuple(words)).trained(ENCODER)


def matched_rank(method: str, budget: int) -> int:
    """The rank whose count is nearest to the budget, the smaller one of two; the usual one where the ranks are chosen
    from the data."""
    if method.endswith("+gelora"):
        return natural_rank(method)
    return min(range(1, ENCODER.width + 1), key=lambda rank: abs(trained_count(method, rank) - budget))


def natural_rank(method: str) -> int:
    """The usual rank of a row; XGBLoRA's boosters have rank 1."""
    return 1 if method.endswith("+xgblora") else NATURAL[method.partition("+")[0]]


def run(args: argparse.Namespace) -> int:
    """Run the comparison; 0 when it is done."""
    methods = [name.strip() for name in args.methods.split(",")]
    for name in methods:
        named_setup("--methods", name)
    for name, value in (("--seeds", args.seeds), ("--budget", args.budget)):
        if value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
    methods = list(dict.fromkeys(["lora", *methods]))  # LoRA is what the others are held against
    upright, shifted = load_digits("none"), load_digits(args.shift)
    from ..analysis import plots

    folder = output_folder(args.out, "compare.json", "compare.csv")
    plan, seeds = (QUICK, min(2, args.seeds)) if args.quick else (FULL, args.seeds)
    room = ByHand()
    with one_thread():
        base = pretrain(room, upright["train"], plan)
    store = folder / f"runs-{args.shift}-{fingerprint(base)}.jsonl"

    settings = {
        method: {"natural": natural_rank(method), "matched": matched_rank(method, args.budget)}
        | ({} if args.quick or method not in RANKS else {f"rank {rank}": rank for rank in RANKS[method]})
        for method in methods
    }

    def setup_at(method: str, setting: str) -> Setup:
        return named_setup("--methods", method, settings[method][setting])

    adapters = list(dict.fromkeys(setup_at(method, setting) for method in methods for setting in settings[method]))
    setups = [Setup("head", "head"), Setup("full", "full"), *adapters]
    shared = (room, base, shifted)
    best = search(shared, setups, plan, store)
    results = at_rates(shared, best, plan.epochs, seeds, store)
    accuracies = {setup: [result["accuracy"] for result in found] for setup, found in results.items()}
    trained = {setup: [result["trained"] for result in found] for setup, found in results.items()}

    def row(setup: Setup, setting: str, against: Setup | None) -> dict[str, Any]:
        values = accuracies[setup]
        difference = paired_difference(values, accuracies[against]) if against else None
        bounded = difference if len(values) > 1 else None  # one pair has no interval
        return {
            "method": setup.label,
            "setting": setting,
            "rank": setup.rank,
            "trained": round(mean(trained[setup])),
            "learning_rate": best[setup],
            "accuracies": values,
            "accuracy_mean": mean(values),
            "accuracy_std": stdev(values) if len(values) > 1 else 0.0,
            "minus_lora": difference.mean if difference else None,
            "minus_lora_low": bounded.low if bounded else None,
            "minus_lora_high": bounded.high if bounded else None,
        }

    rows = [row(Setup(kind, kind), "reference", None) for kind in ("head", "full")]
    for setting in ("natural", "matched"):
        lora = setup_at("lora", setting)
        rows += [row(setup_at(m, setting), setting, None if m == "lora" else lora) for m in methods]
    curves = [row(setup, "curve", None) for setup in adapters]
    report = {"job": "compare", "shift": args.shift, "budget": args.budget, "quick": args.quick, "seeds": seeds,
              "rows": rows, "curves": curves}  # fmt: skip
    write_json(folder / "compare.json", report)
    write_csv(folder / "compare.csv", [{k: v for k, v in r.items() if k != "accuracies"} for r in rows])
    plots.methods_over_rank(folder / "compare", args.shift, rows[:2], curves)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    print(results_table(rows))
    print(summary(report))
    print(
        f"natural: each method's usual rank; matched: the rank whose count is nearest to {args.budget:,}, where that is"
    )
    print(f"far off the method has no nearer one. Test accuracy over {seeds} seeds; differences to LoRA of the same")
    print(
        "setting are paired by seed, with Student's 95 % interval over the pairs, each on its own: of 20 intervals one"
    )
    print("is expected to miss. Learning rates:")
    print(f"{described(plan)}.")
    print(f"Results and figure: {folder}/")
    return 0


def results_table(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    header = ["method", "setting", "rank", "trained", "lr", "accuracy", "std", "minus LoRA"]
    lines = [
        [
            r["method"],
            r["setting"],
            str(r["rank"] or ""),
            f"{r['trained']:,}",
            f"{r['learning_rate']:g}",
            f"{r['accuracy_mean']:.3f}",
            f"{r['accuracy_std']:.3f}",
            _difference(r),
        ]
        for r in rows
    ]
    return table(header, lines)


def summary(report: Mapping[str, Any]) -> str:
    """Which methods are ahead of LoRA and which behind, in words; from few seeds, that nothing can be said."""
    n, parts = report["seeds"], []
    if n < MIN_SEEDS:
        return (
            f"{n} seeds are too few to say which method is ahead of LoRA and which behind: {MIN_SEEDS} are asked for."
        )
    for setting in ("natural", "matched"):
        rows = {row["method"]: row["accuracies"] for row in report["rows"] if row["setting"] == setting}
        lora = rows.pop("lora")
        found = {m: within([a - b for a, b in zip(own, lora, strict=True)], low=0) for m, own in rows.items()}
        p = holm({method: evidence.p for method, evidence in found.items()})
        places: dict[str, list[str]] = {}
        for method, evidence in found.items():
            place = "not told apart from it" if p[method] >= LEVEL else "ahead" if evidence.holds else "behind"
            places.setdefault(place, []).append(method)
        listed = "; ".join(f"{place}: {', '.join(places[place])}" for place in sorted(places))
        parts.append(f"Beside LoRA, {setting} ranks, p below {LEVEL:g} after Holm's correction: {listed}.")
    return "\n".join(parts)


def _difference(row: Mapping[str, Any]) -> str:
    """ "+0.009 [-0.004, +0.022]", without bounds where there is one pair, and nothing for LoRA itself."""
    if row["minus_lora"] is None:
        return ""
    low, high = row["minus_lora_low"], row["minus_lora_high"]
    return f"{row['minus_lora']:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")
