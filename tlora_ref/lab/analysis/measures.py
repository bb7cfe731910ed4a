"""From the audit's runs to the plain numbers that its claims are judged by.

Checked by  tests/test_audit.py.

Every list holds one value per seed, a mean over the adapted matrices. A control is what the same measure gives where
nothing was learned, a ceiling what it gives for two LoRA runs that differ in the seed only: any measure of likeness is
read between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean
from typing import Any

import numpy as np

from ...config import TrainConfig
from ...draws import normal
from ...model import Model
from ...training import learning_rate
from .conserved import OPTIMIZERS, conserved, drift
from .distribution import describe
from .norms import late_growth, validation_rise
from .similarity import cosine, overlap, principal_angles, relative_difference, unrelated
from .spectra import effective_rank, positive_share, real_parts, singular_values, spectral_distance
from .subspace import best_share, captured_share
from .updates import update

Array = np.ndarray

RATES, TIME = (0.005, 0.00125, 0.0003125), 1.0
"""Learning rates, and learning rate x steps, at which alpha^2 - ||B||^2 is followed."""

DRAWS = 8
"""Random updates behind each value of a control."""


@dataclass(frozen=True)
class Run:
    """A finished run: test accuracy, training loss without dropout, history, and the model as far as its query and
    value matrices go."""

    accuracy: float
    train_loss: float
    history: Mapping[str, Any]
    model: Model


Runs = Mapping[str, Sequence[Run]]
Updates = Mapping[str, Sequence[Mapping[str, Array]]]
"""dW by setup, seed and matrix."""


def mean_alpha(runs: Sequence[Run]) -> float:
    """The mean of |alpha| over runs, matrices and epochs."""
    return fmean(abs(a) for run in runs for values in run.history["alpha"].values() for a in values)


def measure(base: Model, runs: Runs, draws: int = DRAWS) -> dict[str, Any]:
    """Everything that follows from the runs. ``runs`` has at least "tlora", "lora" (of the same rank) and "dropout",
    each over the same seeds, two or more; what is measured on "full" is left out where there is none. ``draws``: random
    updates behind each value of a control."""
    tlora = runs["tlora"]
    matrices = sorted(tlora[0].model.adapted, key=lambda name: (name.rpartition(".")[2], name))
    rank, seeds = tlora[0].model.adapter.rank, range(len(tlora))
    W0 = {name: base.params[f"{name}.W"].astype(np.float64) for name in matrices}
    dW = {
        key: [{name: update(run.model, base, name) for name in matrices} for run in runs[key]]
        for key in ("tlora", "lora", "full")
        if key in runs
    }

    def per_seed(value: Callable[[int, str], float]) -> list[float]:
        """The mean over matrices of value(seed, matrix)."""
        return [fmean(value(s, name) for name in matrices) for s in seeds]

    def per_setup(value: Callable[[Array, str], float]) -> dict[str, list[float]]:
        """The same of value(dW, matrix), for every setup."""
        return {key: per_seed(lambda s, name, key=key: value(dW[key][s][name], name)) for key in dW}

    def frobenius(matrix: Array) -> float:
        return float(np.linalg.norm(matrix))

    def spectral(matrix: Array) -> float:
        return float(singular_values(matrix)[0])

    def ratio(norm: Callable[[Array], float]) -> list[float]:
        """The norm of TLoRA's dW over that of LoRA's: the geometric mean over matrices."""
        return [exp(v) for v in between("tlora", "lora", lambda x, y, _: log(norm(x) / norm(y)))]

    def last(key: str, kind: str) -> list[list[float]]:
        """(seeds, layers): the final value of the history's ``key``."""
        return [[run.history[key][name][-1] for name in matrices if name.endswith(kind)] for run in tlora]

    def between(one: str, other: str, value: Callable[[Array, Array, str], float]) -> list[float]:
        return per_seed(lambda s, name: value(dW[one][s][name], dW[other][s][name], name))

    return {
        "seeds": len(tlora),
        "matrices": len(matrices),
        "width": base.config.width,
        "rank": rank,
        "accuracy": {key: [run.accuracy for run in found] for key, found in runs.items()},
        "generalisation": {
            key: [run.history["eval_loss"][-1] - run.train_loss for run in runs[key]] for key in ("tlora", "dropout")
        },
        "validation_rise": {key: [validation_rise(run.history["eval_loss"]) for run in runs[key]] for key in dW},
        "distribution": _distribution(tlora, dW.get("full"), matrices),
        "late_growth": per_seed(lambda s, name: late_growth(tlora[s].history["B_norm"][name])),
        "schedule_share": schedule_share(len(tlora[0].history["eval_loss"]) - 1),
        "alpha": {kind: last("alpha", kind) for kind in ("query", "value")},
        "B_norm": {kind: last("B_norm", kind) for kind in ("query", "value")},
        "alpha_B_correlation": [
            float(np.corrcoef(alpha, B_norm)[0, 1])
            for alpha, B_norm in zip(last("alpha", ""), last("B_norm", ""), strict=True)
        ],
        "alpha_mean": mean_alpha(tlora),
        "conserved_end": per_seed(
            lambda s, name: conserved(
                *(tlora[s].model.params[f"{name}.{k}"].astype(np.float64) for k in ("alpha", "B"))
            )
        ),
        "norm_ratio": {"spectral": ratio(spectral), "frobenius": ratio(frobenius)},
        "relative_norm": per_setup(lambda D, name: frobenius(D) / frobenius(W0[name])),
        "effective_rank": per_setup(lambda D, _: effective_rank(D)),
        "relative_difference": {
            "adapted": between("tlora", "lora", lambda x, y, name: relative_difference(W0[name] + x, W0[name] + y)),
            "update": between("tlora", "lora", lambda x, y, _: relative_difference(x, y)),
        },
        "eigenvalues": _eigenvalues(W0, dW, tlora, matrices, draws),
        "cosine": _cosines(W0, dW, runs["lora"][0].model.adapter.scale, rank, matrices, draws),
        "captured": _captured(dW, tlora, rank, matrices) if "full" in dW else None,
        "conserved": {
            "rates": list(RATES),
            "time": TIME,
            "drift": {o: [fmean(drift(o, lr, TIME, seed) for seed in range(3)) for lr in RATES] for o in OPTIMIZERS},
        },
    }


def _distribution(
    tlora: Sequence[Run], full: Sequence[Mapping[str, Array]] | None, matrices: Sequence[str]
) -> dict[str, list[float]]:
    """Moments of B; and of full fine-tuning's dW as it is, and seen through the frozen factors, A^T dW C^T."""
    rows = []
    for s, run in enumerate(tlora):
        params = run.model.params
        shapes = [describe(params[f"{name}.B"]) for name in matrices]
        row = {
            "skewness": fmean(abs(d.skewness) for d in shapes),
            "excess_kurtosis": fmean(abs(d.excess_kurtosis) for d in shapes),
            "gaussian_share": fmean(abs(d.skewness) < 0.5 and abs(d.excess_kurtosis) < 1 for d in shapes),
            "rejected_share": fmean(d.p_normal < 0.05 for d in shapes),
        }
        if full is not None:
            dW = full[s]
            seen = [describe(params[f"{name}.A"].T @ dW[name] @ params[f"{name}.C"].T) for name in matrices]
            row["projected_kurtosis"] = fmean(abs(d.excess_kurtosis) for d in seen)
            row["full_kurtosis"] = fmean(abs(describe(dW[name]).excess_kurtosis) for name in matrices)
        rows.append(row)
    return {key: [row[key] for row in rows] for key in rows[0]}


def _trained(model: Model, name: str, arrays: Sequence[str]) -> list[Array]:
    return [model.params[f"{name}.{key}"].astype(np.float64) for key in arrays]


def schedule_share(epochs: int, share: float = 0.25) -> float:
    """The last quarter's share of the sum of all learning rates, in the schedule of training.py."""
    config, per_epoch = TrainConfig(epochs=epochs, lr=1.0), 100
    rates = [learning_rate(step, epochs * per_epoch, config) for step in range(epochs * per_epoch)]
    return sum(rates[-max(1, round(share * epochs)) * per_epoch :]) / sum(rates)


def _eigenvalues(
    W0: Mapping[str, Array], dW: Updates, tlora: Sequence[Run], matrices: Sequence[str], draws: int
) -> dict[str, list[float]]:
    """Distances to LoRA's spectrum: of TLoRA; of TLoRA with a random B and the same norm of dW (control); of LoRA with
    another seed (ceiling)."""
    # a seed's spectra under LoRA are its own and the ceiling of the seed before
    lora = {key: [{name: real_parts(W + D[name]) for name, W in bases.items()} for D in dW["lora"]]
            for key, bases in (("adapted", W0), ("update", dict.fromkeys(W0, 0.0)))}  # fmt: skip
    found: dict[str, list[float]] = {}
    for s, run in enumerate(tlora):
        rows = []
        for name in matrices:
            ours = dW["tlora"][s][name]
            A_IR, B_RR, C_RO = _trained(run.model, name, "ABC")
            drawn = [A_IR @ normal(i, f"audit.{s}.{name}", B_RR.shape, 1.0) @ C_RO for i in range(draws)]
            random = [D * (np.linalg.norm(ours) / np.linalg.norm(D)) for D in drawn]
            row = {}
            for key, W in (("adapted", W0[name]), ("update", 0.0)):
                here, mine = lora[key][s][name], real_parts(W + ours)
                row[key] = spectral_distance(mine, here)
                row[f"{key}_control"] = fmean(spectral_distance(real_parts(W + D), here) for D in random)
                row[f"{key}_ceiling"] = spectral_distance(lora[key][(s + 1) % len(tlora)][name], here)
                if key == "adapted":
                    row |= {"positive_tlora": positive_share(mine), "positive_lora": positive_share(here)}
            rows.append(row)
        for key in rows[0]:
            found.setdefault(key, []).append(fmean(row[key] for row in rows))
    return found


def _cosines(
    W0: Mapping[str, Array], dW: Updates, scale: float, rank: int, matrices: Sequence[str], draws: int
) -> dict[str, Any]:
    """Cosines per seed, and per matrix for the figure; controls are means over random pairs of the same norms.

    "published" is what the released code computes: LoRA's update without its scale, and both updates, which are
    (in, out), added to W0 as torch stores it, (out, in).
    """
    seeds = len(dW["tlora"])
    per_matrix: dict[str, list[list[float]]] = {}
    for s in range(seeds):
        rows = []
        for name in matrices:
            W, ours, lora = W0[name], dW["tlora"][s][name], dW["lora"][s][name]
            ours_after, lora_after = (dW[key][(s + 1) % seeds][name] for key in ("tlora", "lora"))
            pairs = [(unrelated(ours, i, f"{s}.{name}.1"), unrelated(lora, i, f"{s}.{name}.2")) for i in range(draws)]
            row = {
                "published": cosine(W.T + ours, W.T + lora / scale),
                "published_control": fmean(cosine(W.T + x, W.T + y / scale) for x, y in pairs),
                "published_ceiling": cosine(W.T + lora_after / scale, W.T + lora / scale),
                "with_scale": cosine(W.T + ours, W.T + lora),
                "with_transpose": cosine(W + ours, W + lora / scale),
                "adapted": cosine(W + ours, W + lora),
                "adapted_control": fmean(cosine(W + x, W + y) for x, y in pairs),
                "update": cosine(ours, lora),
                "update_control": fmean(cosine(x, y) for x, y in pairs),
                "update_ceiling": cosine(lora_after, lora),
                "tlora_ceiling": cosine(ours_after, ours),
                "overlap": overlap(principal_angles(ours, lora, rank)),
            }
            if "full" in dW:
                row["full_lora"] = cosine(dW["full"][s][name], lora)
            rows.append(row)
        for key in rows[0]:
            per_matrix.setdefault(key, []).append([row[key] for row in rows])
    found = {key: [fmean(values) for values in runs] for key, runs in per_matrix.items()}
    return {**found, "overlap_random": rank / W0[matrices[0]].shape[0], "per_matrix": per_matrix}


def _captured(dW: Updates, tlora: Sequence[Run], rank: int, matrices: Sequence[str]) -> dict[str, list[float]]:
    """Shares of targets in TLoRA's subspace; and of full fine-tuning's dW in the best matrix of the same rank."""
    rows = []
    for s, run in enumerate(tlora):
        lora, full = dW["lora"][s], dW["full"][s]

        def share(D: Array, name: str, run: Run = run) -> float:
            return captured_share(D, run.model.params[f"{name}.A"], run.model.params[f"{name}.C"])

        rows.append(
            {
                "lora": fmean(share(lora[name], name) for name in matrices),
                "full": fmean(share(full[name], name) for name in matrices),
                "isotropic": fmean(
                    share(unrelated(full[name], i, f"{s}.{name}"), name) for name in matrices for i in range(DRAWS)
                ),
                "best": fmean(best_share(full[name], rank) for name in matrices),
            }
        )
    return {key: [row[key] for row in rows] for key in rows[0]}
