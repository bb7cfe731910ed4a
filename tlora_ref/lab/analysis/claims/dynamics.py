"""What training does to alpha and B: figures 4 to 6."""

from __future__ import annotations

from math import sqrt
from statistics import fmean

import numpy as np

from ....paper import RELEASED_CORRELATION
from ..statistics import column_effect
from ..verdicts import Claim, Logged, apart, beyond_chance, within
from .words import Measured, interval, logged


def gaussian(m: Measured) -> Claim:
    """Figure 4: do the entries of B become Gaussian-like?"""
    d, seen = m["distribution"], ""
    if "full_kurtosis" in d:
        seen = (
            " For comparison, everything's dW seen through the same frozen factors, Aᵀ dW Cᵀ: |excess kurtosis| "
            f"{interval(d['projected_kurtosis'], 2)}; dW itself: {interval(d['full_kurtosis'], 2)}."
        )
    return Claim(
        "B Gaussian-like",
        f"Over {m['seeds']} seeds and {m['matrices']} matrices of {m['rank']}² entries: |skewness| "
        f"{interval(d['skewness'], 2)}, |excess kurtosis| {interval(d['excess_kurtosis'], 2)}; share of matrices "
        f"below 0.5 and 1: {interval(d['gaussian_share'], 2)}. Normality rejected at 5 % in "
        f"{100 * fmean(d['rejected_share']):.0f} % of them.{seen}",
        f"{interval(d['gaussian_share'], 2)} of the matrices",
        "|skewness| < 0.5 and |excess kurtosis| < 1 in at least 80 % of the matrices.",
        "A sum of many entries weighted by random factors: dB = alpha (x A)ᵀ (G Cᵀ), and A and C are Gaussian, so B "
        "tends to look Gaussian whatever is learned, the more so the higher the rank of what is seen through them. A "
        "test of normality on few entries overlooks mild departures, on many it finds negligible ones; the rule goes "
        "by the size of the moments.",
        within(d["gaussian_share"], low=0.8),
    )


def stable_norms(m: Measured) -> Claim:
    """Figure 5: does the norm of B settle towards the end of training?"""
    return Claim(
        "norms settle",
        f"In the last quarter of the epochs ||B|| changes by {interval(m['late_growth'], 1, 100)} % of itself. The "
        f"schedule leaves {100 * m['schedule_share']:.1f} % of the summed learning rate to that quarter.",
        f"{interval(m['late_growth'], 1, 100)} %",
        "At most 5 % change in the last quarter of the epochs.",
        "The learning rate decays linearly to zero, so every norm settles, whatever was learned. The norms of A and C "
        "are constants: nothing trains them.",
        within(m["late_growth"], high=0.05),
        logs=Logged(
            "change of ||B|| in the last quarter, %",
            interval(m["late_growth"], 1, 100),
            logged("late_growth", ".1f", 100),
        ),
    )


def norm_layers(m: Measured) -> Claim:
    """Figure 5: does B grow by different amounts in different layers, by more than between seeds?"""
    tables = [np.array(m["B_norm"][kind]) for kind in ("query", "value")]
    p, between, noise = _layers(tables)
    depth = [float(np.corrcoef(np.tile(np.arange(tables[0].shape[1]), 2), np.r_[tables[0][s], tables[1][s]])[0, 1])
             for s in range(len(tables[0]))]  # fmt: skip
    return Claim(
        "B over layers",
        "Standard deviation of the final ||B|| between layers, of the means over seeds: "
        f"{between:.2f}; between seeds, of one and the same matrix: {noise:.2f}. Permutation test that layers are "
        f"exchangeable within a run: p = {p:.2g}. Correlation of ||B|| with the number of the layer: "
        f"{interval(depth, 2, sign=True)}.",
        f"{between:.2f} between layers, {noise:.2f} between seeds",
        "The permutation test rejects: the pattern over layers is the same in another seed's run.",
        "B starts at zero in every layer, so its norm is how far it grew.",
        beyond_chance(p, len(tables[0])),
    )


def alpha_layers(m: Measured) -> Claim:
    """Figure 6: does alpha differ between layers by more than between seeds?"""
    tables = [np.array(m["alpha"][kind]) for kind in ("query", "value")]
    p, between, noise = _layers(tables)
    spread = [fmean(np.ptp(t[s]) for t in tables) for s in range(len(tables[0]))]
    return Claim(
        "alpha over layers",
        f"Within a run the largest and the smallest alpha over layers differ by {interval(spread, 2)}. Standard "
        f"deviation between layers, of the means over seeds: {between:.2f}; between seeds, of one and the same matrix: "
        f"{noise:.2f}. Permutation test that layers are exchangeable within a run: p = {p:.2g}.",
        f"{between:.2f} between layers, {noise:.2f} between seeds",
        "The permutation test rejects: the pattern over layers is the same in another seed's run.",
        "One run always shows variation over layers, and a single run is what the figure shows. Only the part that "
        "comes back with another seed belongs to the layers. And alpha alone is not the strength of an update: "
        "alpha ||B|| is.",
        beyond_chance(p, len(tables[0])),
    )


def alpha_kinds(m: Measured) -> Claim:
    """Figure 6: does alpha differ between query and value matrices?"""
    query, value = (np.array(m["alpha"][kind]).mean(axis=1) for kind in ("query", "value"))
    return Claim(
        "alpha of q and v",
        f"Mean over layers of alpha: query {interval(query, 2)}, value {interval(value, 2)}; query minus value "
        f"{interval(query - value, 2, sign=True)}.",
        interval(query - value, 2, sign=True),
        "The difference over seeds is not zero.",
        "The null is the same difference in runs with other seeds: other A, C and batches. The logs are of one run a "
        "task, and their p is over layers.",
        apart(list(query - value)),
        logs=Logged(
            "alpha, query minus value", interval(query - value, 2, sign=True), logged("query_minus_value", "+.2f")
        ),
    )


def alpha_and_B(m: Measured) -> Claim:
    """Figures 5 and 6 together: is B larger where alpha is larger?"""
    found = m["alpha_B_correlation"]
    low, high = RELEASED_CORRELATION
    return Claim(
        "alpha and B",
        f"Correlation of alpha and ||B|| over the {m['matrices']} matrices of a run, at its end: "
        f"{interval(found, 2, sign=True)}.",
        interval(found, 2, sign=True),
        "The correlation within a run is positive.",
        "<B, dB> = alpha dalpha at every point: what lengthens B lengthens alpha. Under gradient flow from alpha = 1 "
        "and B = 0 it would even be alpha² = 1 + ||B||² in every matrix.",
        within(found, low=0),
        logs=Logged("correlation of alpha and ||B||", interval(found, 2, sign=True), f"{low:+.2f} to {high:+.2f}"),
    )


def _layers(tables: list[np.ndarray]) -> tuple[float, float, float]:
    """p that layers are exchangeable, and the standard deviations between layers and between seeds."""
    between = sqrt(fmean(t.mean(axis=0).var(ddof=1) for t in tables))
    noise = sqrt(fmean(t.var(axis=0, ddof=1).mean() for t in tables))
    return column_effect(tables), between, noise
