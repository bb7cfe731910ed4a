"""Verdicts on claims: the words, the rules that choose between them, and the row that one stands in.

Checked by  tests/test_audit.py: every rule on constructed values.

Nobody writes a verdict: ``settled`` is for what arithmetic decides, ``within``, ``apart`` and ``beyond_chance`` for
what was measured over seeds, ``elsewhere`` for what needs the paper's own model and data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from .statistics import mean_interval

HOLDS, HOLDS_NOT = "holds", "does not hold"
HOLDS_HERE, HOLDS_NOT_HERE = "holds here", "does not hold here"
CANNOT = "cannot be judged at this scale"
VERDICTS = {
    HOLDS: "settled by arithmetic or by construction, whatever the model",
    HOLDS_NOT: "the same, the other way",
    HOLDS_HERE: "measured on the digits, the 95 % interval over seeds on the claim's side of the rule's bound",
    HOLDS_NOT_HERE: "measured on the digits, the interval on the other side",
    CANNOT: "the interval reaches across the bound, there are fewer than three seeds, or the claim is about another "
    "model and data",
}
MIN_SEEDS = 3


@dataclass(frozen=True)
class Claim:
    """A row: the claim, where the paper has it, what was measured, its key figure, the rule, the verdict and why."""

    key: str
    claim: str
    source: str
    measured: str
    figure: str
    rule: str
    verdict: str
    why: str


# --- the rules -----------------------------------------------------------------------------------


def settled(holds: bool) -> str:
    """What arithmetic decides."""
    return HOLDS if holds else HOLDS_NOT


def within(values: Sequence[float], low: float = -inf, high: float = inf) -> str:
    """Whether the mean over seeds lies between the bounds: it does if its whole 95 % interval does, it does not if
    none of the interval does, and it cannot be said otherwise, or from fewer than three seeds."""
    if len(values) < MIN_SEEDS:
        return CANNOT
    interval = mean_interval(values)
    if low <= interval.low and interval.high <= high:
        return HOLDS_HERE
    return HOLDS_NOT_HERE if interval.high < low or interval.low > high else CANNOT


def apart(values: Sequence[float]) -> str:
    """Whether a difference exists at all: the 95 % interval of its mean over seeds leaves out zero."""
    if len(values) < MIN_SEEDS:
        return CANNOT
    interval = mean_interval(values)
    return HOLDS_NOT_HERE if interval.low <= 0 <= interval.high else HOLDS_HERE


def beyond_chance(p: float, seeds: int, level: float = 0.05) -> str:
    """Whether a permutation test rejects that there is nothing but the seed's noise."""
    if seeds < MIN_SEEDS:
        return CANNOT
    return HOLDS_HERE if p < level else HOLDS_NOT_HERE


def elsewhere() -> str:
    """What only the paper's own model and data can decide."""
    return CANNOT
