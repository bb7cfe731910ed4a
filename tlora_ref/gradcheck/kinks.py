"""Kinks: points where a function has two slopes, and a gradient that takes either of them is right.

A relu at 0, a clip at its bound, a tie in a maximum. Differences across a kink give the mean of the two slopes,
which is neither; so before a gradient is called wrong the slopes on both sides are compared. Where they differ the
entries at the kink are found by halving, the others are checked without them, and an entry at a kink is wrong only
if its value lies outside its two slopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .oracles import one_sided
from .pair import Array
from .report import Row

MOST = 200
"""How many lines may be followed in search of the entries at a kink."""


class Kinks:
    """The kinks of the function of one Comparison."""

    def __init__(self, comparison: Any):
        self.comparison = comparison

    def row(self, row: Row, v: Array) -> Row | None:
        """What to say of an array whose gradient disagrees along ``v``; None if there is no kink along it."""
        slopes = self.slopes(row.array, v)
        if slopes is None:
            return None
        size = self.comparison.plain[row.array].size
        entries = self._entries(row.array, np.arange(size))
        if not entries or self.comparison.oracle.gradients is not None:
            g = int(np.abs(slopes[1] - slopes[0]).argmax())
            return _kink(row, None, slopes[0][g], slopes[1][g], "along a random direction ")
        if len(entries) < size:
            probe = self.comparison.probe(row.array, "directional", entries)
            rest, at = self.comparison._judged(row.array, probe)
            if rest.verdict == "FAIL" and self.slopes(row.array, probe.V[at[0]]) is None:
                return self.comparison._named(rest, row.array, probe, at)
        return self._at(row, entries)

    def slopes(self, name: str, v: Array) -> tuple[Array, Array] | None:
        """The slopes to the left and to the right along ``v``, per cotangent, where they differ."""
        line = replace(self.comparison.line(name, v, lifted=False), noise=self.comparison.rounding)
        # where the oracle is known to be exact, a kink counts that is here, and not one nearby
        start = 1e-8 if self.comparison.traced else 0.05
        try:
            (left, off_left), (right, off_right) = one_sided(line, -1, start), one_sided(line, +1, start)
        except Exception:
            return None
        size = np.maximum(np.abs(left), np.abs(right))
        return (left, right) if (np.abs(right - left) > 1e-4 * size + 10 * (off_left + off_right)).any() else None

    def _entries(self, name: str, candidates: Array) -> list[int]:
        """The entries at a kink; none if they are too many to find."""
        entries: list[int] = []
        left = MOST
        parts = [candidates]
        while parts:
            part = parts.pop()
            left -= 1
            if left < 0:
                return []
            if not self._kinked(name, part):
                continue
            if len(part) == 1:
                entries.append(int(part[0]))
            else:
                parts += np.array_split(part, 2)
        return sorted(entries)

    def _kinked(self, name: str, entries: Array) -> bool:
        size = self.comparison.plain[name].size
        v = np.zeros(size)
        v[entries] = 1.0 if len(entries) == 1 else self.comparison.direction(size)[entries]
        return self.slopes(name, v) is not None

    def _at(self, row: Row, entries: Sequence[int]) -> Row:
        """KINK, or FAIL for an entry outside its two slopes."""
        shape = self.comparison.plain[row.array].shape
        hands = self.comparison.hand(row.array)
        steepest, marked = -1.0, row
        for entry in entries:
            slopes = self.slopes(row.array, np.eye(1, int(np.prod(shape)), entry)[0])
            if slopes is None:
                continue
            index = tuple(map(int, np.unravel_index(entry, shape)))
            for hand, left, right in zip(hands, *slopes, strict=True):
                value, slack = float(hand[index]), 1e-5 * max(abs(left), abs(right))
                if not min(left, right) - slack <= value <= max(left, right) + slack:
                    note = f"{_spelt(left, right)}, and hand, {value:.8g}, is outside of both"
                    return replace(_kink(row, index, left, right), verdict="FAIL", note=note)
                if abs(right - left) > steepest:
                    steepest = abs(right - left)
                    marked = _kink(row, index, left, right, f"hand {value:.8g} is right, as ")
        return marked


def _kink(row: Row, index: Any, left: float, right: float, more: str = "") -> Row:
    note = f"{more}{_spelt(left, right)}"
    return replace(row, verdict="KINK", index=index, hand=None, truth=None, error=None, tolerance=None, note=note)


def _spelt(left: float, right: float) -> str:
    return f"fn has a kink here: slope {left:.8g} to the left and {right:.8g} to the right"
