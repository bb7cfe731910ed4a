"""What a handful of seeds can say.

Equation    interval of a mean over n seeds:   mean +- t(n - 1) s / sqrt(n),   s the standard deviation with n - 1
Source      Student (W. S. Gosset), The probable error of a mean, Biometrika 6, 1908.  Many tests at once: S. Holm,
            Scandinavian Journal of Statistics 6, 1979.  Permutation test: B. Efron and R. Tibshirani, An Introduction
            to the Bootstrap, 1993.
Checked by  tests/test_compare.py, tests/test_analysis.py: coverage by simulation.

A "95 % interval" earns its name by how often it holds the truth. For normal data Student's does in 95 % of all cases
from two values on. For skewed ones it falls short: of an exponential distribution, whose skewness is 2, it holds
the mean in 88 / 88 / 90 / 93 % of all cases at n = 3 / 5 / 10 / 30. In the difference of two setups over the same
seeds the skewness of the two cancels: of the difference of two exponential values it holds the mean in
97 / 97 / 96 / 95 %. (A percentile bootstrap, which assumes no distribution, holds the mean of normal data in
75 / 83 / 89 / 94 %: from few values it is too narrow.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from ...shapes import InputError


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean of one value per seed with Student's interval. One value has an infinite one: it says nothing about
    how far the next would be. Raises InputError for no value."""
    from scipy import stats

    if len(values) == 0:
        raise InputError("no values, expected at least one")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, -inf, inf)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * _standard_error(values)
    return Interval(mean, mean - half, mean + half)


def paired_difference(one: Sequence[float], other: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of one - other over pairs (same seed, same data) with Student's interval over the pairs.

    Raises InputError for sequences of different or no length.
    """
    if len(one) != len(other) or len(one) == 0:
        raise InputError(f"{len(one)} and {len(other)} values, expected pairs")
    return mean_interval(list(np.subtract(one, other)), level)


def differences(one: Sequence[float], others: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """For a row of a table: under "minus_" and each name the paired difference to it, as mean, low and high."""
    found = {name: paired_difference(one, other) for name, other in others.items()}
    return {f"minus_{name}": [interval.mean, interval.low, interval.high] for name, interval in found.items()}


def p_above(values: Sequence[float], bound: float) -> float:
    """One-sided p of Student's test: how likely values with so large a mean are, if the true one is ``bound``. Equal
    values show no spread to test by: they count as so many coins that fell on one side.

    Raises InputError for fewer than two values.
    """
    from scipy import stats

    if len(values) < 2:
        raise InputError(f"{len(values)} values, expected at least two")
    if abs(bound) == inf:
        return float(bound > 0)
    distance, error = float(np.mean(values)) - bound, _standard_error(values)
    if error == 0:
        return 0.5 ** len(values) if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, len(values) - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Every p, corrected for all of them being asked at once: rejecting where the corrected one is below 5 % is
    wrong about any of the true hypotheses in at most 5 % of all cases, however they depend on each other.

    The smallest p is multiplied by the number of tests, the next one by one less, and so on; none falls below the
    one before it or rises above 1.
    """
    corrected, largest = {}, 0.0
    for i, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - i) * p))
        corrected[key] = largest
    return {key: corrected[key] for key in p_values}


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


@dataclass(frozen=True)
class Components:
    """Variances that add up to that of one run: by what the rows stand for, by what the columns do, and the rest."""

    rows: float
    columns: float
    rest: float


def variance_components(table: np.ndarray) -> Components:
    """Of a table (rows, columns) with one value for every pair, by the mean squares of a two-way layout: with n
    columns, E[mean square of rows] = rest + n * rows. An estimate may come out negative, where there is nothing to
    find; it is left so, for cut off at zero it would be too large on average.

    Source: S. Searle, G. Casella and C. McCulloch, Variance Components, 1992, chapter 4. Raises InputError for a table
    without two rows and two columns.
    """
    table = np.asarray(table, dtype=float)
    if table.ndim != 2 or min(table.shape) < 2:
        raise InputError(f"the table has shape {table.shape}, expected two rows and two columns at least")
    n_rows, n_columns = table.shape
    of_rows, of_columns, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    residual = table - of_rows[:, None] - of_columns + mean
    rest = float(np.square(residual).sum()) / ((n_rows - 1) * (n_columns - 1))
    return Components(
        rows=float(of_rows.var(ddof=1)) - rest / n_columns,
        columns=float(of_columns.var(ddof=1)) - rest / n_rows,
        rest=rest,
    )


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / sqrt(len(values))
