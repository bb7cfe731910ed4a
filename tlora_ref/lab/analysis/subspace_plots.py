"""The figures of the job subspace: rules for A and C over the rank, on digits and on questions, and the best learning
rate in two units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .plots import DASHES, figure
from .steps import UNITS

RULES = {
    "released": ("#0072B2", "o"),
    "orthonormal": ("#56B4E9", "s"),
    "weight_svd": ("#009E73", "^"),
    "gradient": ("#D55E00", "D"),
}
"""A colour and a marker for every rule."""


def rules_over_rank(path: Path, rows: list[dict[str, Any]]) -> None:
    """Test accuracy over trained parameters: TLoRA by its rules, LoRA, and full fine-tuning as a line."""
    with figure(path, width=7.4) as ((axis,),):
        for i, (rule, (colour, marker)) in enumerate(RULES.items()):
            chosen = [r for r in rows if r["kind"] == "tlora" and r["init"] == rule and r["source"] != "dW of full"]
            _errorbars(axis, chosen, f"TLoRA, {rule}", colour, marker, DASHES[i % len(DASHES)])
        _errorbars(axis, [r for r in rows if r["kind"] == "lora"], "LoRA", "#000000", "x", "-")
        for row in (r for r in rows if r["kind"] == "full"):
            axis.axhline(row["accuracy_mean"], color="#7f7f7f", ls=":", lw=1.2, label="everything trained")
        axis.set_xscale("log")
        axis.set(xlabel="trained parameters", ylabel="test accuracy")
        axis.set_title("Rules for A and C: mean and standard deviation over seeds")
        axis.legend(loc="lower right")


def _errorbars(axis: Any, rows: list[dict[str, Any]], label: str, colour: str, marker: str, dash: str) -> None:
    columns = [[r[key] for r in rows] for key in ("trained", "accuracy_mean", "accuracy_std")]
    axis.errorbar(*columns, color=colour, marker=marker, ls=dash, capsize=2, mfc="none", label=label)


def rules_on_questions(path: Path, rows: list[dict[str, Any]]) -> None:
    """Test accuracy over trained numbers in adapters, with its interval: TLoRA by whose gradient, and LoRA."""
    looks = {
        ("tlora", ""): ("TLoRA, released", *RULES["released"]),
        ("tlora", "own"): ("TLoRA, own gradient", *RULES["gradient"]),
        ("lora", ""): ("LoRA", "#000000", "x"),
    }
    with figure(path, width=7.4) as ((axis,),):
        for i, key in enumerate(dict.fromkeys((row["kind"], row["source"]) for row in rows)):
            chosen = [row for row in rows if (row["kind"], row["source"]) == key]
            label, colour, marker = looks.get(key, (f"TLoRA, gradient of {key[1]}", "#009E73", "^"))
            trained, mean = ([row[key] for row in chosen] for key in ("trained", "accuracy_mean"))
            bars = [0.0 if row["high"] is None else row["high"] - row["accuracy_mean"] for row in chosen]  # one seed
            axis.errorbar(trained, mean, bars, color=colour, marker=marker, ls=DASHES[i % len(DASHES)], capsize=2,
                          mfc="none", label=label)  # fmt: skip
        axis.set_xscale("log")
        axis.set(xlabel="trained numbers in adapters", ylabel="test accuracy")
        axis.set_title("MiniLM on questions: mean and 95 % interval over seeds")
        axis.legend(loc="lower right")


def curves_by_unit(path: Path, part: Mapping[str, Any]) -> None:
    """The training loss over the learning rate, for every width and rank: as it is, and in the unit of the output."""
    ranks = sorted({rank for _, rank, _ in part["curves"]})
    widths = sorted({width for width, _, _ in part["curves"]})
    colours, markers = ("#0072B2", "#009E73", "#E69F00", "#D55E00"), "os^D"
    with figure(path, columns=2, width=9.2) as (axes,):
        for width, rank, curve in part["curves"]:
            rates, losses = zip(*curve, strict=True)
            look = {"color": colours[ranks.index(rank) % 4], "marker": markers[widths.index(width) % 4], "ms": 4,
                    "lw": 1, "mfc": "none"}  # fmt: skip
            for axis, unit in zip(axes, ("rate", "output"), strict=True):
                axis.loglog([UNITS[unit](rate, width, width, rank) for rate in rates], losses, **look)
        for rank in ranks:
            axes[0].plot([], [], color=colours[ranks.index(rank) % 4], label=f"r = {rank}")
        for width in widths:
            axes[0].plot([], [], color="#7f7f7f", ls="", marker=markers[widths.index(width) % 4], label=f"d = {width}")
        axes[0].set(xlabel="learning rate", ylabel="training loss", title="as it is")
        axes[1].set(xlabel="lr r / 3", title="by what an aligned output feels")
        axes[0].legend(fontsize=8, ncols=2)
