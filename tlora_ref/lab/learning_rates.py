"""A learning rate for every setup, by one rule for all: the best mean accuracy on validation data over several seeds,
in runs as long as the ones it is for.

1. Every rate of the plan runs once, with the first seed.
2. A rate that is hopeless there, ``HOPELESS`` or more behind the best, is dropped; the others get all seeds.
3. A best rate at the end of what was tried says only that better ones may lie beyond: the next rate of the series
   1, 3, 10, 30, ... joins, and 2. is repeated, until rates on both sides of the best one were tried and lost.

Checked by  tests/test_compare.py: objectives whose best rate lies far outside the first ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..shapes import InputError
from .digits import Plan, Setup, Task, score
from .runs import run_all

HOPELESS = 0.03
"""Accuracy by which a rate may trail the best one after the first seed. On the 240 validation images of the digits the
standard deviation between seeds is about 0.015: twice that."""

FIRST_SEED = 1_000
"""The first seed of a search: none of its runs is one whose test accuracy is reported."""

SERIES = tuple(float(f"{digit}e{power}") for power in range(-7, 4) for digit in (1, 3))
"""Where a search may go. Each rate is about three times the one before."""


def search(
    shared: Any,
    setups: Sequence[Setup],
    plan: Plan,
    store: Path | None = None,
    work: Callable[[Any, Task], Mapping[str, float]] = score,
) -> dict[Setup, float]:
    """The learning rate of each setup. ``work`` makes one run on validation data and gives its "accuracy".

    With ``store`` an interrupted search goes on where it stopped. Raises InputError for a setup that still gets
    better at an end of ``SERIES``.
    """
    found: dict[Setup, dict[float, list[float]]] = {setup: {rate: [] for rate in plan.rates} for setup in setups}
    while left := [(setup, *run) for setup in setups for run in missing(found[setup], plan)]:
        tasks = [Task(setup, rate, FIRST_SEED + i, plan.epochs, "validation") for setup, rate, i in left]
        results = run_all(work, shared, tasks, "learning rates", store=store)
        for (setup, rate, _), result in zip(left, results, strict=True):
            found[setup].setdefault(rate, []).append(result["accuracy"])
    return {setup: best_rate(of_one) for setup, of_one in found.items()}


def at_rates(
    shared: Any,
    rates: Mapping[Setup, float],
    epochs: int,
    seeds: int,
    store: Path | None = None,
    work: Callable[[Any, Task], Mapping[str, Any]] = score,
) -> dict[Setup, list[Mapping[str, Any]]]:
    """What ``work`` finds on test data with each setup at its rate, one result a seed in their order."""
    tasks = [Task(setup, lr, seed, epochs, "test") for setup, lr in rates.items() for seed in range(seeds)]
    found: dict[Setup, list[Mapping[str, Any]]] = {setup: [] for setup in rates}
    for task, result in zip(tasks, run_all(work, shared, tasks, "seeds", store=store), strict=True):
        found[task.setup].append(result)
    return found


def described(plan: Plan) -> str:
    """The search in words, for the foot of a table."""
    seeds = f"{plan.trials} seeds a rate" if plan.trials > 1 else "one seed a rate"
    rates = ", ".join(f"{rate:g}" for rate in plan.rates)
    outwards = " and outwards until none is at an end" if plan.widen else ""
    return f"from {rates}{outwards}, {seeds}, on validation data"


def missing(found: Mapping[float, Sequence[float]], plan: Plan) -> list[tuple[float, int]]:
    """(rate, number of the seed) of the runs to make next, given the accuracies so far, one a seed in their order.
    Empty when the choice is made."""
    untried = [(rate, 0) for rate, accuracies in found.items() if not accuracies]
    if untried:
        return untried
    hopeful = _hopeful(found)
    left = [(rate, seed) for rate in hopeful for seed in range(len(found[rate]), plan.trials)]
    if plan.widen:
        best = fmean(found[best_rate(found)])
        ends = [(end, up) for end, up in ((min(found), False), (max(found), True)) if end in hopeful]
        left += [(_beyond(end, up), 0) for end, up in ends if fmean(found[end]) >= best]
    return left


def best_rate(found: Mapping[float, Sequence[float]]) -> float:
    """The rate of the best mean accuracy among those that are not hopeless, the smallest of equal ones."""
    return max(_hopeful(found), key=lambda rate: fmean(found[rate]))


def _hopeful(found: Mapping[float, Sequence[float]]) -> list[float]:
    best = max(accuracies[0] for accuracies in found.values())
    return sorted(rate for rate, accuracies in found.items() if accuracies[0] > best - HOPELESS)


def _beyond(rate: float, up: bool) -> float:
    """The next rate of the series, at least twice (half) as large."""
    candidates = [r for r in SERIES if r >= 2 * rate] if up else [r for r in reversed(SERIES) if r <= rate / 2]
    if not candidates:
        raise InputError(
            f"accuracy is still best at the last learning rate tried, {rate:g}: expected a best one between "
            f"{SERIES[0]:g} and {SERIES[-1]:g}"
        )
    return candidates[0]
