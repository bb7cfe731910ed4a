"""How the entries of a matrix are distributed: moments, a histogram with its normal fit, a test of normality.

Source      skewness and excess kurtosis are 0 for a normal distribution; their standard errors in n draws are
            about sqrt(6 / n) and sqrt(24 / n).
            The test is R. D'Agostino and E. Pearson, Biometrika 60, 1973 (scipy.stats.normaltest).
Checked by  tests/test_analysis.py.

A p-value says as much about n as about the shape: of 256 entries (r = 16) the test overlooks mild departures, of a
million (a W0 of RoBERTa-large) it finds departures nobody would see in a histogram. "Gaussian-like" is a
statement about the size of the moments; the p-value stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...shapes import InputError

Array = np.ndarray


@dataclass(frozen=True)
class Distribution:
    """n entries: mean, standard deviation, skewness, excess kurtosis, and p of the test that they are normal."""

    n: int
    mean: float
    std: float
    skewness: float
    excess_kurtosis: float
    p_normal: float


def describe(values: Array) -> Distribution:
    """The distribution of the entries. Raises InputError for fewer than 20, which the test needs, or equal ones."""
    from scipy import stats

    flat = _entries(values)
    return Distribution(
        len(flat),
        float(flat.mean()),
        float(flat.std()),
        float(stats.skew(flat)),
        float(stats.kurtosis(flat)),
        float(stats.normaltest(flat).pvalue),
    )


@dataclass(frozen=True)
class Histogram:
    """``density`` in the bins between ``edges``, and ``normal``, the fitted normal's density at their middles."""

    edges: Array
    density: Array
    normal: Array


def histogram(values: Array, bins: int = 24) -> Histogram:
    """Both densities integrate to one (the normal's tails beyond the last bins apart). Raises as ``describe``."""
    flat = _entries(values)
    density, edges = np.histogram(flat, bins=bins, density=True)
    z = ((edges[1:] + edges[:-1]) / 2 - flat.mean()) / flat.std()
    return Histogram(edges, density, np.exp(-z * z / 2) / (flat.std() * np.sqrt(2 * np.pi)))


def _entries(values: Array) -> Array:
    flat = np.asarray(values, dtype=np.float64).ravel()
    if len(flat) < 20 or flat.min() == flat.max():
        raise InputError(f"{len(flat)} values from {flat.min(initial=0):g} to {flat.max(initial=0):g}, "
                         "expected at least 20, not all equal")  # fmt: skip
    return flat
