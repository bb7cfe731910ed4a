"""The figures of the TLoRA paper, 3 to 10, drawn from this project's runs, with what the paper leaves out beside it;
2, the counts; and 11, what only plain gradient descent conserves. In the style of plots.py.

Source      arXiv 2504.18735.
Checked by  tests/test_audit.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...counts import trained
from .conserved import OPTIMIZERS, descend
from .distribution import describe, histogram
from .plots import COLOURS, DASHES, MARKERS, figure
from .similarity import unrelated_cosine
from .spectra import eigenvalues, singular_values

Array = np.ndarray

NAMES = {"tlora": "TLoRA", "lora": "LoRA", "lora_equal": "LoRA", "full": "everything"}
GREYS = ("#000000", "#0072B2", "#D55E00", "#8c8c8c")
"""For lines in order: told apart by DASHES and SHAPES as well."""

SHAPES = ("o", "s", "^", "D")


def counts_and_accuracy(path: Path, measured: Mapping[str, Any]) -> None:
    """2: trained numbers over rank on RoBERTa-large; accuracy over trained numbers here."""
    with figure(path, 1, 2, 8.8, 3.6) as ((left, right),):
        ranks = [1, 2, 4, 8, 16, 32, 64, 128]
        for method in ("tlora", "lora"):
            numbers = [trained(method, [(1024, 1024)] * 48, r) for r in ranks]
            left.plot(ranks, numbers, color=COLOURS[method], marker=MARKERS[method], label=NAMES[method])
        for rank in (8, 16, 32):
            ours, lora = (trained(m, [(1024, 1024)] * 48, rank) for m in ("tlora", "lora"))
            left.annotate(f"{lora / ours:.0f}x", (rank, (ours * lora) ** 0.5), ha="center", fontsize=9)
        left.set_xscale("log", base=2)
        left.set_yscale("log")
        left.set_xticks(ranks, [str(r) for r in ranks])
        left.set_xlabel("rank")
        left.set_ylabel("trained numbers")
        left.set_title("RoBERTa-large, query and value")
        left.legend(loc="upper left")
        ranks_here = {"tlora": measured["rank"], "lora": measured["rank"], "lora_equal": measured["equal_rank"]}
        offsets = {"tlora": (-4, 14), "lora": (8, -12), "lora_equal": (8, -12), "full": (-8, -14)}
        for key in ("tlora", "lora", "lora_equal", "full"):
            kind, values = key.split("_")[0], measured["accuracy"][key]
            n = measured["counts"][key]
            look = {"color": COLOURS[kind], "marker": MARKERS[kind]}
            # TLoRA and LoRA of the same count stand side by side
            n *= {"tlora": 0.94, "lora_equal": 1.06}.get(key, 1.0)
            right.errorbar([n], [np.mean(values)], [np.std(values)], capsize=3, **look)
            label = f"{NAMES[key]} r={ranks_here[key]}" if key in ranks_here else NAMES[key]
            right.annotate(label, (n, np.mean(values)), xytext=offsets[key], textcoords="offset points", fontsize=9,
                           color=COLOURS[kind], ha="right" if key in ("full", "tlora") else "left")  # fmt: skip
        right.set_xscale("log")
        shown = {key: measured["counts"][key] for key in ("tlora", "lora", "full")}
        right.set_xticks(list(shown.values()), [f"{n:,}" for n in shown.values()])
        right.set_xticks([], minor=True)
        right.set_xlim(min(shown.values()) / 3.2, max(shown.values()) * 1.6)
        right.set_xlabel("trained numbers")
        right.set_ylabel("test accuracy")
        right.set_title("turned digits: mean and sd over seeds")


def losses(path: Path, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """3: training and validation loss per epoch, mean over seeds, band from least to most."""
    with figure(path, 1, len(histories), 8.8, 3.2) as (axes,):
        for axis, (kind, runs) in zip(axes, histories.items(), strict=True):
            validation = np.array([run["eval_loss"] for run in runs])
            epochs = validation.shape[1] - 1
            training = np.array([np.reshape(run["loss"], (epochs, -1)).mean(axis=1) for run in runs])
            for values, start, dash, label in ((training, 1, "-", "training"), (validation, 0, "--", "validation")):
                x = np.arange(start, epochs + 1)
                axis.plot(x, values.mean(axis=0), color=COLOURS[kind], ls=dash, label=label)
                axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=COLOURS[kind], alpha=0.12, lw=0)
            axis.set_yscale("log")
            axis.set_title(NAMES[kind])
            axis.set_xlabel("epoch")
            axis.legend(loc="upper right")
        low, high = (f(a.get_ylim()[j] for a in axes) for j, f in ((0, min), (1, max)))
        for axis in axes:
            axis.set_ylim(low, high)
        axes[0].set_ylabel("loss (cross-entropy)")


def histograms(path: Path, matrices: Mapping[str, Array], where: str) -> None:
    """4: entries of W0, A, B and C with their normal fits."""
    with figure(path, 1, len(matrices), 9.6, 3.0) as (axes,):
        for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
            found, shape = histogram(matrix), describe(matrix)
            axis.stairs(found.density, found.edges, fill=True, color="#b5b5b5")
            middles = (found.edges[1:] + found.edges[:-1]) / 2
            axis.plot(middles, found.normal, color="#000000", lw=1.4)
            axis.set_title(f"{name}\nskew {shape.skewness:+.2f}, kurt. {shape.excess_kurtosis:+.2f}\n"
                           f"p(normal) = {shape.p_normal:.2g}, n = {shape.n:,}", fontsize=9)  # fmt: skip
            axis.set_yticks([])
            axis.set_xlabel(f"entries of {name}")
        axes[0].set_ylabel(f"density, {where}")


def per_layer(path: Path, histories: Sequence[Mapping[str, Any]], key: str, symbol: str) -> None:
    """5 and 6: ||B|| or alpha per layer and epoch, query and value, mean over seeds, bars of one standard deviation
    between seeds at the end: the null against which layers differ."""
    with figure(path, 1, 2, 8.8, 3.6) as ((left, right),):
        for axis, kind in ((left, "query"), (right, "value")):
            matrices = [name for name in histories[0][key] if name.endswith(kind)]
            for i, matrix in enumerate(matrices):
                runs = np.array([history[key][matrix] for history in histories])
                epochs, mean = np.arange(runs.shape[1]), runs.mean(axis=0)
                look = {"color": GREYS[i % 4], "ls": DASHES[i % 4]}
                axis.plot(epochs, mean, **look, marker=SHAPES[i % 4], ms=3.5, markevery=2, label=f"layer {i}")
                axis.errorbar(epochs[-1] + 0.6 + 0.5 * i, mean[-1], runs[:, -1].std(), color=GREYS[i % 4],
                              marker=SHAPES[i % 4], ms=4, capsize=3)  # fmt: skip
            axis.set_title(kind)
            axis.set_xlabel("epoch; right of the end: sd between seeds")
        left.set_ylabel(symbol)
        low, high = (f(a.get_ylim()[j] for a in (left, right)) for j, f in ((0, min), (1, max)))
        left.set_ylim(low, high)
        right.set_ylim(low, high)
        right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def norm_table(path: Path, norms: Sequence[Mapping[str, Mapping[str, float]]]) -> None:
    """7: spectral norms of A, B, C per layer, query and value: mean over seeds, and the standard deviation between
    them."""
    with figure(path, 1, 2, 8.8, 2.9) as (axes,):
        image = None
        for axis, kind in zip(axes, ("query", "value"), strict=True):
            matrices = [name for name in norms[0] if name.endswith(kind)]
            found = np.array([[[run[name][factor] for name in matrices] for factor in "ABC"] for run in norms])
            mean, spread = found.mean(axis=0), found.std(axis=0)
            top = max(max(max(v.values()) for v in run.values()) for run in norms)
            image = axis.imshow(mean, cmap="Greys", vmin=0, vmax=top, aspect="auto")
            for (row, column), value in np.ndenumerate(mean):
                ink = "white" if value > 0.55 * top else "black"
                text = f"{value:.2f}\n± {spread[row, column]:.2f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
            axis.set_xticks(range(len(matrices)), [str(i) for i in range(len(matrices))])
            axis.set_yticks(range(3), ["A", "B", "C"])
            axis.set_xlabel("layer")
            axis.set_title(kind)
            axis.grid(False)
        axes[0].figure.colorbar(image, ax=list(axes), label="spectral norm", shrink=0.9)


def spectra(path: Path, W0: Array, updates: Mapping[str, Array], where: str) -> None:
    """8: real parts of the eigenvalues of W0 + dW, the negative ones lighter, with W0's as a line; those of dW in the
    complex plane; singular values of dW."""
    with figure(path, 1, 4, 12.6, 3.4) as (axes,):
        before = eigenvalues(W0).real
        found = {kind: eigenvalues(W0 + dW).real for kind, dW in updates.items()}
        reach = max(np.abs(real).max() for real in (before, *found.values()))
        edges = np.linspace(-reach, reach, 15)  # zero is an edge: no bar holds both signs
        for axis, (kind, real) in zip(axes, found.items(), strict=False):
            for part, alpha, sign in ((real[real <= 0], 0.4, "negative"), (real[real > 0], 0.9, "positive")):
                axis.hist(part, edges, color=COLOURS[kind], alpha=alpha, label=f"{sign}: {len(part)}")
            axis.hist(before, edges, histtype="step", color=COLOURS["full"], ls="--", label="W0 alone")
            axis.set_title(f"eigenvalues, W0 + dW of {NAMES[kind]}", fontsize=10)
            axis.set_xlabel("real part")
            axis.legend(loc="upper left", fontsize=8)
        for kind, dW in updates.items():
            look = {"color": COLOURS[kind], "marker": MARKERS[kind], "label": NAMES[kind]}
            values, s = eigenvalues(dW), singular_values(dW)
            axes[2].plot(values.real, values.imag, ls="", ms=5, mfc="none", **look)
            s = s[s > 1e-6 * s[0]]
            axes[3].plot(np.arange(1, len(s) + 1), s, ms=4, mfc="none", ls="-", lw=1, **look)
        top = max(axis.get_ylim()[1] for axis in axes[:2])
        for axis in axes[:2]:
            axis.set_ylim(0, 1.4 * top)
        axes[0].set_ylabel(f"number, {where}")
        axes[2].set_aspect("equal", adjustable="datalim")
        axes[2].set_title("eigenvalues of dW", fontsize=10)
        axes[2].set_xlabel("real part")
        axes[2].set_ylabel("imaginary part")
        axes[2].legend(loc="upper left", fontsize=8)
        axes[3].set_yscale("log")
        axes[3].set_xlabel("number")
        axes[3].set_title("singular values of dW", fontsize=10)


def differences(path: Path, tlora: Array, lora: Array, where: str) -> None:
    """9: the elementwise difference of the two adapted matrices, which is that of the two updates, beside them."""
    with figure(path, 1, 3, 9.6, 3.5) as (axes,):
        panels = {"|dW| of TLoRA": tlora, "|dW| of LoRA": lora, "|difference|": tlora - lora}
        top, image = max(float(np.abs(matrix).max()) for matrix in panels.values()), None
        for axis, (title, matrix) in zip(axes, panels.items(), strict=True):
            image = axis.imshow(np.abs(matrix), cmap="Greys", vmin=0, vmax=top)
            axis.set_title(f"{title}\nnorm {np.linalg.norm(matrix):.2f}")
            axis.grid(False)
            axis.set_xlabel("out")
        axes[0].set_ylabel(f"in, {where}")
        axes[0].figure.colorbar(image, ax=list(axes), shrink=0.85)


def cosines(path: Path, per_matrix: Mapping[str, Sequence[Sequence[float]]], rhos: tuple[float, float]) -> None:
    """10: cosine per matrix: of the adapted matrices, of the updates, each with its controls; and what two updates
    that have nothing in common score, over their norm relative to W0.

    per_matrix: "adapted" and the like -> (seeds, matrices); rhos: TLoRA's and LoRA's ||dW|| / ||W0||.
    """
    looks = {
        "published": ("TLoRA and LoRA, as released", COLOURS["lora_fa"], "v"),
        "adapted": ("TLoRA and LoRA, scale and transpose right", COLOURS["tlora"], "o"),
        "adapted_control": ("two unrelated updates", COLOURS["nothing"], "x"),
        "update": ("TLoRA and LoRA", COLOURS["tlora"], "o"),
        "update_ceiling": ("LoRA and LoRA, another seed", COLOURS["lora"], "s"),
        "update_control": ("two unrelated updates", COLOURS["nothing"], "x"),
    }
    panels = {"W0 + dW": ("published", "adapted", "adapted_control"),
              "dW": ("update", "update_ceiling", "update_control")}  # fmt: skip
    with figure(path, 1, 3, 11.0, 4.2) as (axes,):
        for axis, (title, keys) in zip(axes[:2], panels.items(), strict=True):
            for i, key in enumerate(keys):
                values = np.array(per_matrix[key])
                x = np.arange(values.shape[1]) + 0.18 * (i - 1)
                label, colour, marker = looks[key]
                axis.errorbar(x, values.mean(axis=0), values.std(axis=0), ls="", color=colour, marker=marker, ms=5,
                              capsize=2, label=label)  # fmt: skip
            half = values.shape[1] // 2
            ticks = [f"q{i}" for i in range(half)] + [f"v{i}" for i in range(half)]
            axis.set_xticks(range(len(ticks)), ticks)
            axis.set_ylim(-0.12, 1.02)
            axis.set_xlabel("matrix and layer")
            axis.set_title(title)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)
        axes[0].set_ylabel("cosine, mean and sd over seeds")
        curve = np.geomspace(0.01, 3, 200)
        axes[2].plot(curve, [unrelated_cosine(rho, rho) for rho in curve], color="#000000")
        axes[2].plot([(rhos[0] * rhos[1]) ** 0.5], [unrelated_cosine(*rhos)], "o", color=COLOURS["tlora"])
        axes[2].annotate("here", ((rhos[0] * rhos[1]) ** 0.5, unrelated_cosine(*rhos)), xytext=(8, 2),
                         textcoords="offset points")  # fmt: skip
        axes[2].set_xscale("log")
        axes[2].set_ylim(-0.12, 1.02)
        axes[2].set_xlabel("||dW|| / ||W0||")
        axes[2].set_title("W0 + dW, nothing in common")


def conservation(path: Path, rates: Sequence[float], time: float) -> None:
    """11: alpha^2 - ||B||^2 while one layer learns, per optimizer and learning rate."""
    with figure(path, 1, len(OPTIMIZERS), 9.6, 3.2) as (axes,):
        titles = {"gd": "gradient descent", "momentum": "with momentum", "adamw": "AdamW"}
        for axis, optimizer in zip(axes, OPTIMIZERS, strict=True):
            for i, lr in enumerate(rates):
                values = descend(optimizer, lr, round(time / lr))
                axis.plot(lr * np.arange(len(values)), values, color=GREYS[i % 4], ls=DASHES[i % 4], label=f"{lr:g}")
            axis.set_title(titles[optimizer])
            axis.set_xlabel("learning rate x steps")
        axes[0].set_ylabel(r"$\alpha^2 - \|B\|_F^2$")
        low, high = (f(a.get_ylim()[j] for a in axes) for j, f in ((0, min), (1, max)))
        for axis in axes:
            axis.set_ylim(low, high)
        axes[-1].legend(title="learning rate", loc="upper left", bbox_to_anchor=(1.0, 1.0))
