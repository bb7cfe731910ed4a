"""What a handful of seeds can say.

Source      bootstrap, percentile interval, and permutation test: B. Efron and R. Tibshirani, An Introduction to the
            Bootstrap, 1993.
Checked by  tests/test_compare.py, tests/test_analysis.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...shapes import InputError


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


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean of one value per seed with a percentile bootstrap interval over the seeds."""
    return paired_difference(values, [0.0] * len(values), level)


def column_effect(tables: Sequence[np.ndarray], draws: int = 2_000, seed: int = 0) -> float:
    """p of the hypothesis that the columns of every (seeds, layers) table are exchangeable: a permutation test.

    Statistic: the variance between the columns' means, summed over the tables. Under the hypothesis the entries
    of a row, which are one run's, may be permuted. Raises InputError for a table without two columns.
    """
    if not tables or any(np.ndim(t) != 2 or np.shape(t)[0] < 1 or np.shape(t)[1] < 2 for t in tables):
        raise InputError(f"tables of shapes {[np.shape(t) for t in tables]}, expected (seeds, two columns or more)")
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(t, dtype=float) for t in tables]

    def statistic(given: Sequence[np.ndarray]) -> float:
        return float(sum(t.mean(axis=0).var() for t in given))

    observed = statistic(arrays) * (1 - 1e-12)  # a permutation that changes nothing counts as equal
    as_large = sum(statistic([rng.permuted(t, axis=1) for t in arrays]) >= observed for _ in range(draws))
    return (1 + as_large) / (1 + draws)
