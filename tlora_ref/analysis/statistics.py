"""What a handful of seeds can say.

Source      paired bootstrap, percentile interval: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993.
Checked by  tests/test_compare.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..shapes import InputError


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval."""

    mean: float
    low: float
    high: float


def paired_difference(
    one: Sequence[float], other: Sequence[float], level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of one - other over pairs (same seed, same data) with a percentile bootstrap interval over the pairs.

    With five pairs the interval is a rough one, and too narrow rather than too wide. Raises InputError for
    sequences of different or no length.
    """
    if len(one) != len(other) or len(one) == 0:
        raise InputError(f"{len(one)} and {len(other)} values, expected pairs")
    difference = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    chosen = np.random.default_rng(seed).integers(0, len(difference), (draws, len(difference)))
    low, high = np.quantile(difference[chosen].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference.mean()), float(low), float(high))
