"""The exercises of notebook 08: fine-tuning."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..by_hand.methods.tlora import factor_stds
from .grader import Misconception, Values

Array = np.ndarray

# --- choose: every way's test accuracy at its own learning rate -----------------------------------


def _each(table_KL: Array, chosen_K: Array) -> Array:
    return np.take_along_axis(table_KL, np.asarray(chosen_K)[:, None], axis=1)[:, 0]


def _tables() -> list[tuple[str, tuple[Any, ...]]]:
    rng = np.random.default_rng(0)
    sizes = {"four ways, five rates": (4, 5), "two rates": (3, 2), "one way": (1, 6), "a long search": (5, 9)}
    return [(label, (rng.random(shape), rng.random(shape))) for label, shape in sizes.items()]


CHOOSE = Values(
    "08",
    "choose",
    lambda validation, test: _each(test, validation.argmax(axis=1)),
    (
        Misconception(
            "You chose the learning rate on the test images. What are they meant to tell you, and can they still?",
            lambda validation, test: test.max(axis=1),
        ),
        Misconception(
            "You report accuracies on the images that you chose with. Why is the best of several tries too good?",
            lambda validation, test: validation.max(axis=1),
        ),
        Misconception(
            "All ways get one learning rate, the best on average. Whom does that favour, if their best rates differ?",
            lambda validation, test: test[:, validation.mean(axis=0).argmax()],
        ),
        Misconception(
            "You chose the rate with the worst validation accuracy. Is it a loss that the table holds?",
            lambda validation, test: _each(test, validation.argmin(axis=1)),
        ),
        Misconception(
            "You average over all learning rates. Would anybody use a rate that is known to fail?",
            lambda validation, test: test.mean(axis=1),
        ),
        Misconception(
            "Your answer is which rate was chosen. What was asked for at that rate?",
            lambda validation, test: validation.argmax(axis=1),
        ),
        Misconception(
            "You choose a way for every rate. Along which axis of the table do the rates lie?",
            lambda validation, test: np.take_along_axis(test, validation.argmax(axis=0)[None], axis=0)[0],
        ),
    ),
    points=_tables,
)

# --- interval: the bootstrap over pairs -----------------------------------------------------------


def _interval(one: Array, other: Array, chosen: Array, level: float = 0.95) -> tuple[Any, Any, Any]:
    difference = np.asarray(one) - np.asarray(other)
    low, high = np.quantile(difference[chosen].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return difference.mean(), low, high


def _apart(one: Array, other: Array, chosen: Array) -> tuple[Any, Any, Any]:
    """The two groups resampled on their own."""
    means = one[chosen].mean(axis=1) - other[chosen[::-1]].mean(axis=1)
    return one.mean() - other.mean(), *np.quantile(means, [0.025, 0.975])


def _normal(one: Array, other: Array, chosen: Array) -> tuple[Any, Any, Any]:
    difference = one - other
    error = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    return difference.mean(), difference.mean() - error, difference.mean() + error


def _resampled(one: Array, other: Array, chosen: Array) -> Array:
    return (one - other)[chosen].mean(axis=1)


def _pairs() -> list[tuple[str, tuple[Any, ...]]]:
    rng = np.random.default_rng(1)
    found = []
    for label, n, seed_effect in (("five seeds", 5, 0.05), ("a hard pair", 8, 0.2), ("three seeds", 3, 0.02)):
        shared = 0.8 + seed_effect * rng.standard_normal(n)
        one, other = (shared + d + 0.02 * rng.standard_normal(n) for d in (0.03, 0.0))
        found.append((label, (one, other, rng.integers(0, n, (400, n)))))
    return found


INTERVAL = Values(
    "08",
    "interval",
    _interval,
    (
        Misconception(
            "You resample the two methods apart from each other. What do two runs of the same seed have in common?",
            _apart,
        ),
        Misconception(
            "Your interval holds the differences of single seeds, not their mean. What did you average, and when?",
            lambda one, other, chosen: ((one - other).mean(), *np.quantile((one - other)[chosen], [0.025, 0.975])),
        ),
        Misconception(
            "The sign of everything is the other one. If the first is better, is your difference positive?",
            lambda one, other, chosen: _interval(other, one, chosen),
        ),
        Misconception(
            "Your interval is one of 90 %. How much of 5 % lies below a 95 % interval?",
            lambda one, other, chosen: _interval(one, other, chosen, 0.9),
        ),
        Misconception(
            "You take the least and the largest of all draws. What happens to them with more draws?",
            lambda one, other, chosen: (
                (one - other).mean(),
                _resampled(one, other, chosen).min(),
                _resampled(one, other, chosen).max(),
            ),
        ),
        Misconception(
            "Your mean is that of the draws. It changes with every seed of the bootstrap: should it?",
            lambda one, other, chosen: (
                _resampled(one, other, chosen).mean(),
                *_interval(one, other, chosen)[1:],
            ),
        ),
        Misconception(
            "That is the interval of a normal distribution. Where did the draws that you were given go?",
            _normal,
        ),
    ),
    points=_pairs,
)

# --- fan_in: what the rule of A and C does to the size of dW --------------------------------------


def _factor(I: int, O: int, R: int) -> float:
    (A, C), (fan_A, fan_C) = (factor_stds(rule, I, O, R) for rule in ("released", "fan_in"))
    return A * C / (fan_A * fan_C)


FAN_IN = Values(
    "08",
    "fan_in",
    _factor,
    (
        Misconception(
            "Yours is the inverse. Under which of the two rules is dW larger if I is larger than O?",
            lambda I, O, R: 1 / _factor(I, O, R),
        ),
        Misconception(
            "You compare variances. By which power of it does an entry grow?",
            lambda I, O, R: _factor(I, O, R) ** 2,
        ),
        Misconception(
            "You compare A alone. What does the rule do to C at the same time?",
            lambda I, O, R: np.sqrt(I / R),
        ),
        Misconception(
            "You compare C alone. What does the rule do to A at the same time?",
            lambda I, O, R: np.sqrt(R / O),
        ),
        Misconception(
            "You say that the rules are the same. Are they, for a matrix that is not square?",
            lambda I, O, R: 1.0,
        ),
        Misconception(
            "That is the size of an entry of A C under one rule, not the ratio of two. What do you divide by?",
            lambda I, O, R: 1 / (3 * np.sqrt(R * O)),
        ),
        Misconception(
            "You add the two factors' ratios. How do the scales of A and C combine in A B C?",
            lambda I, O, R: np.sqrt(I / R) + np.sqrt(R / O),
        ),
    ),
    points=lambda: [
        ("the encoder's ffn_in", (32, 64, 8)),
        ("the encoder's ffn_out", (64, 32, 8)),
        ("a square matrix", (32, 32, 16)),
        ("RoBERTa-large's second FFN matrix", (4096, 1024, 32)),
    ],
)

EXERCISES = (CHOOSE, INTERVAL, FAN_IN)
