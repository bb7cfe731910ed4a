"""The charts of ``bench``, in the style of analysis/plots.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..analysis.plots import COLOURS, DASHES, MARKERS, figure

Rows = Sequence[Mapping[str, Any]]

LABELS = {"rows": "rows N (d = 768, r = 32)", "width": "width d (N = 1,024, r = 32)",
          "rank": "rank r (d = 768, N = 1,024)"}  # fmt: skip


def _style(method: str, dash: str = "-") -> dict[str, Any]:
    return {"color": COLOURS[method], "marker": MARKERS[method], "ls": dash, "ms": 5}


def overhead(path: Path, rows: Rows) -> None:
    """A layer's time over the frozen layer's, along N, d and r, with the FLOP count's beside it."""
    with figure(path, 1, 3, 9.6, 3.4) as axes:
        for axis, (over, label) in zip(axes[0], LABELS.items(), strict=True):
            for method, layer in (("tlora", "TLoRA"), ("lora", "LoRA, PEFT")):
                line = [r for r in rows if r["over"] == over and r["layer"] == layer]
                x = [r[over] for r in line]
                axis.plot(x, [r["ratio"] for r in line], label=layer, **_style(method))
                axis.fill_between(x, [r["low"] for r in line], [r["high"] for r in line], color=COLOURS[method],
                                  alpha=0.15, lw=0)  # fmt: skip
                axis.plot(x, [r["flops_over_floor"] for r in line], label=f"{layer}: FLOPs",
                          **_style(method, ":") | {"mfc": "white"})  # fmt: skip
            axis.set_xscale("log", base=2)
            axis.set_xlabel(label)
            axis.set_ylim(bottom=1)
        axes[0][0].set_ylabel("time over the frozen layer's")
        axes[0][2].legend(fontsize=8)


def size_over_rank(path: Path, rows: Rows) -> None:
    """Bytes of adapter, optimizer and activations over the rank, a column per model."""
    models = list(dict.fromkeys(r["model"] for r in rows))
    kinds = (("adapter", "-"), ("optimizer", "--"), ("activations", ":"))
    with figure(path, 1, len(models), 11.0, 3.6) as axes:
        for axis, model in zip(axes[0], models, strict=True):
            for method, name in (("tlora", "TLoRA"), ("lora", "LoRA")):
                line = [r for r in rows if r["model"] == model and r["method"] == method]
                for kind, dash in kinds:
                    axis.plot([r["rank"] for r in line], [r[kind] for r in line], label=f"{name}: {kind}",
                              **_style(method, dash) | {"ms": 3.5})  # fmt: skip
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_ylim(1e2, 1e12)
            axis.set_title(model)
            axis.set_xlabel("rank r")
        axes[0][0].set_ylabel("bytes (float32, query and value)")
        axes[0][-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def check_cost(path: Path, rows: Rows) -> None:
    """Calls of the forward, and time over one forward and backward, against the numbers that are checked."""
    with figure(path, 1, 2, 8.4, 3.4) as axes:
        for axis, key, label in zip(axes[0], ("calls", "ratio"), ("calls of the forward", "time over one step's"),
                                    strict=True):  # fmt: skip
            for mode, method, dash in zip(("directional", "full"), ("tlora", "lora"), DASHES, strict=False):
                line = [r for r in rows if r["mode"] == mode]
                axis.plot([r["numbers"] for r in line], [r[key] for r in line], label=f'mode="{mode}"',
                          **_style(method, dash))  # fmt: skip
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel("trained numbers checked")
            axis.set_ylabel(label)
        axes[0][0].legend()


def encoder(path: Path, rows: Rows) -> None:
    """The step by hand over torch's and over the matrix products', along the width."""
    rows = [r for r in rows if "width" in r]
    x = [r["width"] for r in rows]
    with figure(path) as axes:
        axis = axes[0][0]
        axis.plot(x, [r["ratio_torch"] for r in rows], label="over eager PyTorch's step", **_style("tlora"))
        axis.fill_between(x, [r["low_torch"] for r in rows], [r["high_torch"] for r in rows], color=COLOURS["tlora"],
                          alpha=0.15, lw=0)  # fmt: skip
        axis.plot(x, [r["ratio_products"] for r in rows], label="over its matrix products", **_style("lora", "--"))
        axis.axhline(1, color="black", lw=0.8)
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [str(v) for v in x])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("width D")
        axis.set_ylabel("time of the step by hand")
        axis.legend()
