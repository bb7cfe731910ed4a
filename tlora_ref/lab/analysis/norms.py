"""Norms of an adapter's factors, and alpha, ||B|| and the loss along a run.

Source      the quantities of figures 3, 5 (Frobenius norm), 6 and 7 (spectral norm) of arXiv 2504.18735.
Checked by  tests/test_analysis.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...model import Model, adapter_arguments
from ...shapes import InputError, split_name
from ...training import History


def factor_norms(model: Model) -> dict[str, dict[str, float]]:
    """matrix -> {"A": ||A||_2, "B": ..., "C": ...}: the spectral norm of every factor that is a matrix."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted(model.adapted):
        arrays = adapter_arguments(model, name).items()
        found[name] = {split_name(k)[0]: float(np.linalg.norm(a, 2)) for k, a in arrays if np.ndim(a) == 2}
    return found


def trajectory(history: History) -> list[dict[str, float | str]]:
    """One row per matrix and epoch (0: the start): {"matrix", "epoch", "alpha", "B_norm"}, what the run recorded."""
    rows: list[dict[str, float | str]] = []
    for matrix in sorted(set(history.alpha) | set(history.B_norm)):
        recorded = {"alpha": history.alpha.get(matrix), "B_norm": history.B_norm.get(matrix)}
        recorded = {key: values for key, values in recorded.items() if values is not None}
        for epoch in range(len(next(iter(recorded.values())))):
            values = {key: values[epoch] for key, values in recorded.items()}
            rows.append({"matrix": matrix, "epoch": epoch, **values})
    return rows


def late_growth(norms: Sequence[float], share: float = 0.25) -> float:
    """By how much of itself a norm still changes in the last ``share`` of the epochs: |end / before - 1|.

    norms: one per epoch, the start included. Raises InputError for fewer than two, or a norm of zero before.
    """
    last = max(1, round(share * (len(norms) - 1)))
    if len(norms) < 2 or norms[-1 - last] == 0:
        raise InputError(f"norms {list(norms)!r} have no growth at the end: expected two or more, not zero before")
    return abs(norms[-1] / norms[-1 - last] - 1)


def validation_rise(losses: Sequence[float]) -> float:
    """By how much of its lowest value the validation loss has risen at the end of a run: end / lowest - 1. Zero for a
    run that does not overfit.

    losses: one per epoch, the start included. Raises InputError for fewer than two.
    """
    if len(losses) < 2:
        raise InputError(f"losses {list(losses)!r} have no course, expected two or more")
    return losses[-1] / min(losses) - 1
