"""One style for all figures: Okabe and Ito's colours, and a marker and a dash per series, so that they can be
told apart in print, in grey and by the colour-blind. Every figure is written as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class Looks(dict[str, str]):
    """A colour or marker for every name: the chosen ones, and for any other name one of the spare ones, always the
    same for the same name."""

    def __init__(self, chosen: dict[str, str], spare: str) -> None:
        super().__init__(chosen)
        self.spare = spare.split()

    def __missing__(self, name: str) -> str:
        return self.spare[sum(name.encode()) % len(self.spare)]


COLOURS = Looks(
    {
        "tlora": "#0072B2",
        "lora": "#D55E00",
        "head": "#009E73",
        "full": "#000000",
        "nothing": "#7f7f7f",
        "lora_fa": "#E69F00",
        "lora_gated": "#D55E00",
        "vera": "#009E73",
        "lora_xs": "#56B4E9",
        "dora": "#CC79A7",
        "dora_full": "#CC79A7",
        "edora": "#6A3D9A",
        "mtlora_shim": "#8C510A",
        "mtlora_icfm": "#8C510A",
        "mtlora_ctcm": "#8C510A",
        "mtlora_dtsm": "#8C510A",
        "adapter_h": "#666666",
        "adapter_p": "#999999",
        "lorta": "#332288",
        "hta": "#117733",
        "hta_unit": "#117733",
        "soda": "#AA4499",
    },
    spare="#882255 #44AA99 #999933 #661100",
)
MARKERS = Looks(
    {
        "tlora": "o",
        "lora": "s",
        "head": "^",
        "full": "D",
        "nothing": "x",
        "lora_fa": "v",
        "lora_gated": "+",
        "vera": "P",
        "lora_xs": "h",
        "dora": "d",
        "dora_full": "D",
        "edora": "X",
        "mtlora_shim": "<",
        "mtlora_icfm": ">",
        "mtlora_ctcm": "1",
        "mtlora_dtsm": "2",
        "adapter_h": "^",
        "adapter_p": "*",
        "lorta": "H",
        "hta": "3",
        "hta_unit": "4",
        "soda": "p",
    },
    spare="8 1 2 .",
)
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "tlora_ref",
    "figure.constrained_layout.use": True,
}


@contextmanager
def figure(path: Path, rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.0) -> Iterator[Any]:
    """``with figure(path, ...) as axes``: a figure in the style, written to path.png and path.svg at the end."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    from ...files import write_atomic

    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
        try:
            yield axes
            for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
                content = io.BytesIO()
                fig.savefig(content, format=suffix[1:], metadata=metadata)
                write_atomic(path.with_suffix(suffix), content.getvalue())
        finally:
            plt.close(fig)


def demo_figures(folder: Path, shift: str, results: Mapping[str, Any]) -> None:
    """The four figures of the main job."""
    digits(folder / "digits", shift, results)
    accuracy_against_trained(folder / "accuracy", shift, results["rows"])
    loss_curves(folder / "loss", results["rows"], results["histories"])
    alpha_and_norm(folder / "alpha", results["middle"], results["histories"][results["middle"]])


def digits(path: Path, shift: str, results: Mapping[str, Any], columns: int = 10) -> None:
    """One test digit of each class, upright and shifted, with what each model reads in it."""
    upright, shifted = results["upright"], results["shifted"]
    chosen = [int(np.flatnonzero(upright.y == digit)[0]) for digit in range(columns)]
    middle = results["middle"]
    lines = [
        ("upright,\nbase reads", upright, results["upright_predictions"]),
        (f"{shift},\nbase reads", shifted, results["predictions"]["nothing"]),
        (f"{shift},\n{middle}\nreads", shifted, results["predictions"][middle]),
    ]
    with figure(path, len(lines), columns, 8.4, 3.6) as axes:
        for line, (label, part, predicted) in zip(axes, lines, strict=True):
            for axis, index in zip(line, chosen, strict=True):
                axis.imshow(part.x[index], cmap="gray_r", vmin=0, vmax=1)
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(False)
                for side in axis.spines.values():
                    side.set_visible(True)
                hit = predicted[index] == part.y[index]
                axis.set_xlabel(
                    f"{predicted[index]}" if hit else f"{predicted[index]} ✗",
                    color="black" if hit else "#B00020",
                    weight="bold",
                )
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)


def accuracy_against_trained(path: Path, shift: str, rows: list[Mapping[str, Any]]) -> None:
    """Test accuracy over the number of trained parameters, one marker per row, standard deviation as bars."""
    with figure(path) as ((axis,),):
        for kind in dict.fromkeys(row["kind"] for row in rows):
            chosen = [row for row in rows if row["kind"] == kind]
            if kind == "nothing":
                axis.axhline(chosen[0]["accuracy_mean"], color=COLOURS[kind], ls=":")
                axis.annotate("nothing trained", (0.99, chosen[0]["accuracy_mean"]), xytext=(0, 3),
                              xycoords=("axes fraction", "data"), textcoords="offset points", ha="right")  # fmt: skip
                continue
            axis.errorbar(
                [row["trained_formula"] for row in chosen],
                [row["accuracy_mean"] for row in chosen],
                [row["accuracy_std"] for row in chosen],
                color=COLOURS[kind],
                marker=MARKERS[kind],
                ls="-" if kind == "tlora" else "--",
                capsize=3,
                label=chosen[0]["method"].split(" r=")[0],
            )
            for row in chosen:
                if row["rank"]:
                    below = kind == "tlora"
                    axis.annotate(f"r={row['rank']}", (row["trained_formula"], row["accuracy_mean"]),
                                  xytext=(7, -13 if below else 7), textcoords="offset points",
                                  color=COLOURS[kind], fontsize=9)  # fmt: skip
        axis.set_xscale("log")
        axis.set_ylim(0, 1)
        axis.set_xlabel("trained parameters")
        axis.set_ylabel("test accuracy")
        axis.set_title(f"Adapting to {shift} digits: mean and standard deviation over seeds")
        axis.legend(loc="lower right", bbox_to_anchor=(1, 0.12))


def loss_curves(path: Path, rows: list[Mapping[str, Any]], histories: Mapping[str, list[Mapping[str, Any]]]) -> None:
    """Training loss per step: mean over seeds, smoothed over eleven steps."""
    with figure(path) as ((axis,),):
        used: dict[str, int] = {}
        for row in rows:
            losses = [history["loss"] for history in histories[row["method"]]]
            if not losses:
                continue
            mean = np.mean(losses, axis=0)
            window = min(11, len(mean))
            smooth = np.convolve(mean, np.ones(window) / window, mode="valid")
            dash = DASHES[used.setdefault(row["kind"], 0) % len(DASHES)]
            used[row["kind"]] += 1
            axis.plot(np.arange(len(smooth)) + window // 2, smooth, color=COLOURS[row["kind"]], ls=dash,
                      label=row["method"])  # fmt: skip
        axis.set_yscale("log")
        axis.set_xlabel("step")
        axis.set_ylabel("training loss (cross-entropy)")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def alpha_and_norm(path: Path, label: str, histories: list[Mapping[str, Any]]) -> None:
    """alpha and the Frobenius norm of B per adapted matrix and epoch: mean over seeds, band from least to most."""
    with figure(path, 1, 2, 8.4, 3.6) as ((left, right),):
        for axis, key, name in ((left, "alpha", r"$\alpha$"), (right, "B_norm", r"$\|B\|_F$")):
            for i, matrix in enumerate(histories[0][key]):
                runs = np.array([history[key][matrix] for history in histories])
                colour = COLOURS["tlora"] if "query" in matrix else COLOURS["lora"]
                epochs = np.arange(runs.shape[1])
                axis.plot(epochs, runs.mean(axis=0), color=colour, ls=DASHES[i // 2 % len(DASHES)],
                          marker="o" if "query" in matrix else "s", ms=3, label=matrix)  # fmt: skip
                axis.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.12, lw=0)
            axis.set_xlabel("epoch")
            axis.set_title(f"{name}, {label}")
        right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def accuracy_of_setups(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Test accuracy over trained parameters, a mark for every seed, the mean and its interval; what trains nothing
    of the model as lines, or as a note at the foot where a line would lie far below every row."""
    lowest = min(min(r["accuracies"]) for r in rows if r["stored_bytes"] is not None) - 0.05
    with figure(path, width=8.4, height=4.8) as ((axis,),):
        for row, dash in zip((r for r in rows if r["stored_bytes"] is None), DASHES[1:], strict=False):
            accuracy, at = row["accuracy_mean"], {"textcoords": "offset points", "fontsize": 9}
            if accuracy < lowest:
                axis.annotate(
                    f"{row['method']}: {accuracy:.3f}", (0.01, 0), xytext=(0, 4), xycoords="axes fraction", **at
                )
                continue
            axis.axhline(accuracy, color=COLOURS["nothing"], ls=dash, lw=1.2)
            axis.annotate(row["method"], (0.01, accuracy), xytext=(0, 3), xycoords=("axes fraction", "data"), **at)
        for row in (r for r in rows if r["stored_bytes"] is not None):
            colour, marker, n = COLOURS[row["kind"]], MARKERS[row["kind"]], len(row["accuracies"])
            axis.scatter([row["trained"]] * n, row["accuracies"], color=colour, marker=marker, s=18, alpha=0.45)
            bars = None if row["low"] is None else [[row["high"] - row["accuracy_mean"]]] * 2
            axis.errorbar(row["trained"], row["accuracy_mean"], bars, color=colour, marker=marker, ms=9,
                          capsize=4, ls="none", label=f"{row['method']}, {row['trained']:,}")  # fmt: skip
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set_xlabel("trained parameters")
        axis.set_ylabel("test accuracy")
        axis.set_title("Kinds of questions: every seed, mean and 95 % interval")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def methods_over_rank(
    path: Path, shift: str, references: list[Mapping[str, Any]], curves: list[Mapping[str, Any]]
) -> None:
    """Test accuracy over trained parameters, one curve per method over its ranks, standard deviation as bars."""
    with figure(path, width=9.6, height=4.6) as ((axis,),):
        for row, dash in zip(references, (":", "--"), strict=True):
            axis.axhline(row["accuracy_mean"], color="#7f7f7f", ls=dash, lw=1)
            axis.annotate(f"{row['method']}, {row['trained']:,} trained", (0.01, row["accuracy_mean"]), xytext=(0, 3),
                          xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9)  # fmt: skip
        # "lora+rac" is hollow, in a colour and with a mark of its own; "adapter_h+norms" in those of adapter_h
        for i, method in enumerate(dict.fromkeys(row["method"] for row in curves)):
            kind, _, otherwise = method.partition("+")
            look = otherwise if kind == "lora" and otherwise else kind
            chosen = sorted((r for r in curves if r["method"] == method), key=lambda r: r["trained"])
            axis.errorbar(
                [r["trained"] for r in chosen],
                [r["accuracy_mean"] for r in chosen],
                [r["accuracy_std"] for r in chosen],
                color=COLOURS[look],
                marker=MARKERS[look],
                fillstyle="none" if otherwise else "full",
                ls=DASHES[i % len(DASHES)],
                lw=2.4 if method == "tlora" else 1.4,
                capsize=2,
                label=method,
            )
        axis.set_xscale("log")
        axis.set_xlabel("trained parameters")
        axis.set_ylabel("test accuracy")
        axis.set_title(f"Adapting to {shift} digits: mean and standard deviation over seeds")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), ncols=1 + len(axis.containers) // 16, fontsize=8)
