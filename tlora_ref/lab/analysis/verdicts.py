"""Verdicts on claims: the words, the rules that choose between them, and the row that one stands in.

Checked by  tests/test_audit.py: every rule on constructed values, and the share of wrong verdicts by simulation.

Nobody writes a verdict. A claim brings what decides it: ``settled`` is the answer of arithmetic; ``Evidence``, made by
``within``, ``apart`` or ``beyond_chance``, that of the seeds; ``unjudged`` says why there is neither. A verdict from
seeds is published only where

1. there are ``MIN_SEEDS`` of them,
2. p is below ``LEVEL`` after Holm's correction over all claims that seeds decide: one wrong verdict among all of them
   in at most 5 % of all audits,
3. runs of half the length say the same: longer training has stopped to matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from ...paper import CLAIMS
from .statistics import holm, p_above

MIN_SEEDS = 30
LEVEL = 0.05

HOLDS, HOLDS_NOT = "holds", "does not hold"
HOLDS_HERE, HOLDS_NOT_HERE = "holds here", "does not hold here"
CANNOT = "not judged"
VERDICTS = {
    HOLDS: "settled by arithmetic or by construction, whatever the model",
    HOLDS_NOT: "the same, the other way",
    HOLDS_HERE: f"measured on this model and data over at least {MIN_SEEDS} seeds, the same from runs of half the "
    f"length, and p below {LEVEL:g} after Holm's correction over all claims that are judged by a test",
    HOLDS_NOT_HERE: "the same, the other way",
    CANNOT: "too few seeds, a difference that chance or the length of training could make, or a claim about another "
    "model and data",
}


@dataclass(frozen=True)
class Evidence:
    """What seeds say: on which side of the rule's bound they are, how likely chance alone puts them there (p, without
    correction), and how many they are."""

    holds: bool
    p: float
    n: int


@dataclass(frozen=True)
class Logged:
    """A quantity here, and in the logs of the released code."""

    quantity: str
    here: str
    released: str


@dataclass(frozen=True)
class Claim:
    """A claim, by its key in paper.py: what was measured, the key figure, the rule, what decides, and why it is so."""

    key: str
    measured: str
    figure: str
    rule: str
    why: str
    evidence: Evidence | None = None
    settled: bool | None = None
    unjudged: str = ""
    logs: Logged | None = None


@dataclass(frozen=True)
class Row:
    """A claim with its verdict, as tables, pages and JSON have it. n: seeds; p: after Holm's correction, None for
    what no test decides; reason: why nothing is judged."""

    key: str
    claim: str
    source: str
    n: int | None
    measured: str
    figure: str
    logs: Logged | None
    rule: str
    p: float | None
    verdict: str
    reason: str
    why: str


def in_words(row: Mapping[str, Any]) -> str:
    """The verdict of a row of a report, with its reason where there is one."""
    return f"{row['verdict']}: {row['reason']}" if row["reason"] else str(row["verdict"])


# --- what seeds say ------------------------------------------------------------------------------


def within(values: Sequence[float], low: float = -inf, high: float = inf) -> Evidence | None:
    """Whether the mean over seeds lies between the bounds. p is below 5 % exactly where the 95 % interval lies inside
    the bounds, or outside them. None for fewer than two values."""
    if len(values) < 2:
        return None
    negative = [-value for value in values]
    inside = max(p_above(values, low), p_above(negative, -high))
    outside = min(p_above(negative, -low), p_above(values, high))
    return Evidence(inside <= outside, min(1.0, 2 * min(inside, outside)), len(values))


def apart(values: Sequence[float]) -> Evidence | None:
    """Whether a difference exists at all. It can hold, or not be told: no number of seeds shows that there is none."""
    if len(values) < 2:
        return None
    one_sided = min(p_above(values, 0), p_above([-value for value in values], 0))
    return Evidence(True, min(1.0, 2 * one_sided), len(values))


def beyond_chance(p: float, seeds: int) -> Evidence:
    """The same from the p of a permutation test over that many seeds."""
    return Evidence(True, p, seeds)


# --- verdicts ------------------------------------------------------------------------------------


def rows(claims: Sequence[Claim], shorter: Sequence[Claim] | None = None) -> list[Row]:
    """Every claim with its verdict. ``shorter``: the same claims, measured on runs of half the length."""
    corrected = _corrected(claims)
    half = None if shorter is None else {c.key: _said(c, p) for c, p in zip(shorter, _corrected(shorter), strict=True)}
    found = []
    for claim, p in zip(claims, corrected, strict=True):
        verdict, reason = _verdict(claim, p, half)
        text, source = CLAIMS[claim.key]
        n = None if claim.evidence is None else claim.evidence.n
        found.append(
            Row(claim.key, text, source, n, claim.measured, claim.figure, claim.logs, claim.rule, p, verdict, reason,
                claim.why)
        )  # fmt: skip
    return found


def _corrected(claims: Sequence[Claim]) -> list[float | None]:
    """p after Holm's correction, in the claims' order; None where no test decides."""
    corrected = holm({claim.key: claim.evidence.p for claim in claims if claim.evidence is not None})
    return [corrected.get(claim.key) for claim in claims]


def _said(claim: Claim, p: float | None) -> bool | None:
    """What the seeds say beyond chance: it holds, it does not, or nothing."""
    if claim.evidence is None or p is None or p >= LEVEL:
        return None
    return claim.evidence.holds


def _verdict(claim: Claim, p: float | None, half: dict[str, bool | None] | None) -> tuple[str, str]:
    if claim.settled is not None:
        return (HOLDS if claim.settled else HOLDS_NOT), ""
    if claim.evidence is None:
        return CANNOT, claim.unjudged
    if claim.evidence.n < MIN_SEEDS:
        return CANNOT, f"{claim.evidence.n} of {MIN_SEEDS} seeds"
    said = _said(claim, p)
    if said is None:
        return CANNOT, "chance could do it"
    if half is None or half[claim.key] != said:
        return CANNOT, "longer training could change it"
    return (HOLDS_HERE if said else HOLDS_NOT_HERE), ""
