"""Is a hand-written gradient right? Two extra evaluations per array, whatever its size.

Equation    <dout, J v> = <J^T dout, v> for every direction v: the left side from function values by an oracle,
            the right side from the hand-written gradient. One random v tests all entries at once (the
            dot-product test of adjoint codes: Claerbout, Earth Soundings Analysis, 1992).
Twin        torch_check.py: the same for torch.
Checked by  tests/test_gradcheck.py, by planted bugs in tests/test_mutants.py, and by the everyday functions of
            tests/test_everyday.py.

comparison.py says how close hand and oracle must come, and confirm.py how far the oracle itself is to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..shapes import InputError
from .comparison import Comparison
from .confirm import confirmation
from .oracles import ORACLES, Oracle, torch_oracle
from .pair import Pair
from .point import Point, finite
from .points import POINTS, chosen, elsewhere
from .report import VERDICTS, Protocol, Report, Row

MODES = ("directional", "full")


def check(
    fn: Callable[..., Any],
    vjp: Callable[..., Any],
    inputs: Mapping[str, Any],
    wrt: Collection[str] | None = None,
    oracle: str | Callable[..., Any] = "auto",
    mode: str = "directional",
    cotangents: int = 2,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    points: Collection[str] = POINTS,
) -> Report:
    """Hold the gradients that ``vjp`` returns against derivatives of ``fn``, at the given point and around it.

    fn          ``fn(**inputs) -> out`` or ``(out, cache)``; several outputs are a tuple, list or dictionary
    vjp         ``vjp(dout, cache)`` or ``vjp(dout, **inputs)`` -> {name: gradient}; dout is built as out is
    inputs      arrays by name, float64 or float32; integers, booleans, None and Python numbers are held fixed
    wrt         the names that must have a gradient. None: those in an attribute ``gradients`` of vjp, if it has
                one; else all floating-point arrays
    oracle      "auto" (the complex step where it can be confirmed, and Richardson's differences elsewhere),
                "complex", "richardson", "central", "exact", "mpmath", or a twin: a function of torch tensors
    mode        "directional": two directions per array; "full": every entry of the given point, for the worst one
    cotangents  how many random dout; the same seed gives the same ones
    rtol, atol  instead of the oracle's own tolerances
    points      which points of points.py besides the given one: ("given",) for it alone

    A gradient may be called as its input is, or without the letters of its shape: ``x`` for ``x_NI``.
    Raises InputError when the point cannot be used (NaN, no floating-point array, fn fails on it); whatever
    is wrong with a gradient is in the report.
    """
    usable(mode, cotangents)
    run = Run(Pair(fn, vjp), wrt, choose_oracle(oracle), oracle == "auto", mode, cotangents, seed, rtol, atol)
    return run.report(inputs, chosen(points))


def check_by_each(
    fn: Callable[..., Any],
    vjp: Callable[..., Any],
    inputs: Mapping[str, Any],
    oracles: Sequence[str | Callable[..., Any]],
    wrt: Collection[str] | None = None,
    protocol: Sequence[Protocol] | None = None,
) -> list[Report]:
    """One report an oracle, each as ``check`` makes it at the given point. The gradients by hand and their protocol
    are the same for all of them and computed once; the exact oracle has its own gradients, in fractions.
    ``protocol``: its outcomes, where they are known."""
    pair, reports = Pair(fn, vjp), []
    runs = [Run(pair, wrt, choose_oracle(oracle), oracle == "auto") for oracle in oracles]
    points: dict[bool, Point] = {}
    for run in runs:
        in_fractions = run.oracle.name == "exact"
        point = points.get(in_fractions) or points.setdefault(in_fractions, run.point(inputs))
        reports.append(run.compare(point, run.mode, reports[0].protocol if reports else protocol))
    return reports


def usable(mode: str, cotangents: int) -> None:
    """Raise InputError for an unknown mode, or for fewer than one cotangent."""
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    if not isinstance(cotangents, int) or cotangents < 1:
        raise InputError(f"cotangents is {cotangents!r}, expected a whole number, at least 1")


def choose_oracle(oracle: Any) -> Oracle:
    """The oracle of that name, or of that twin. Raises InputError."""
    if isinstance(oracle, Oracle):
        return oracle
    if callable(oracle):
        return torch_oracle(oracle)
    if oracle == "torch":
        raise InputError("oracle is 'torch', expected the twin itself: the same function of torch tensors")
    if oracle != "auto" and oracle not in ORACLES:
        raise InputError(f"oracle is {oracle!r}, expected auto, {', '.join(ORACLES)} or a twin")
    return ORACLES["complex" if oracle == "auto" else oracle]


@dataclass(frozen=True)
class Run:
    """How to check, at any point. ``confirm``: see first how far the oracle can be believed, and take Richardson's
    differences where it cannot."""

    pair: Pair
    wrt: Collection[str] | None
    oracle: Oracle
    confirm: bool
    mode: str = "directional"
    cotangents: int = 2
    seed: int = 0
    rtol: float | None = None
    atol: float | None = None

    def report(self, inputs: Mapping[str, Any], points: Sequence[str]) -> Report:
        """The report on the given point and the others."""
        here = self.point(inputs)
        report = self.compare(here, self.mode)
        rows = {row.array: row for row in report.rows}
        covered, left_out = ["given"], []
        if report.malformed or report.random or not here.hands[0]:
            points = ("given",)
        for number, name in enumerate(points[1:], 1):
            rng = np.random.default_rng([self.seed, number])
            # where many rows do not do, one row is not a row either: it is broadcast
            alone = name == "one row" and "many rows" in left_out
            moved = None if alone else elsewhere(name, dict(inputs), here.names, self._fits, rng)
            reports = None if moved is None else self._at(moved, name, here)
            if reports is None:
                left_out.append(name)
                continue
            covered.append(name)
            for row in reports:
                rows[row.array] = worse(rows.get(row.array), row, name)
        return replace(report, rows=list(rows.values()), covered=tuple(covered), left_out=tuple(left_out))

    def point(self, inputs: Mapping[str, Any]) -> Point:
        """The gradients by hand at one point."""
        return Point(self.pair, inputs, self.wrt, self.oracle, self.cotangents, self.seed)

    def _at(self, inputs: Mapping[str, Any], name: str, here: Point) -> list[Row] | None:
        """The rows of a further point; None where it cannot be used."""
        with np.errstate(all="ignore"):
            try:
                there = self.point(inputs)
            except InputError:
                return None
            if "row" in name and any("nan" not in p and "inf" not in p for p in there.problems.values()):
                return None  # made for one length: others stop with an error or a wrong shape, which nobody overlooks
            return list(self.compare(there, "directional", ()).rows)

    def _fits(self, inputs: Mapping[str, Any]) -> bool:
        """Does fn take these inputs, and return finite numbers for them?"""
        try:
            with np.errstate(all="ignore"):
                return all(finite(a) for a in self.pair.outputs(inputs))
        except (Exception, SystemExit):
            return False

    def compare(self, point: Point, mode: str, protocol: Sequence[Protocol] | None = None) -> Report:
        """The report on one point; ``protocol``: its outcomes, where they are known or not asked for."""
        comparison = Comparison(point, self.oracle, self.rtol, self.atol)
        outcomes = point.protocol(comparison.rtol, comparison.floors[0]) if protocol is None else list(protocol)
        trust = confirmation(comparison) if self.confirm and point.hands[0] else None
        rows = []
        for name in point.names:
            if name in point.problems:
                rows.append(Row(name, "FAIL", self.oracle.name, note=point.problems[name]))
            elif name in point.unstable:
                rows.append(Row(name, "NONDETERMINISTIC", self.oracle.name, note=VERDICTS["NONDETERMINISTIC"]))
            else:
                rows.append(comparison.row(name, mode) if trust is None else trust.row(name, mode))
        malformed = outcomes[0].note if outcomes and point.problems else ""
        return Report(rows, outcomes, malformed, random=point.random)


def worse(row: Row | None, other: Row, name: str) -> Row:
    """The row of an array after a further point: a wrong gradient counts wherever it is found, and a point that
    tests what the given one could not test fills in for it."""
    placed = replace(other, note=f"at the point '{name}'" + (f": {other.note}" if other.note else ""))
    if row is None:
        return placed
    if row.verdict in ("FAIL", "NONDETERMINISTIC"):
        return row
    if other.verdict in ("FAIL", "NONDETERMINISTIC"):
        return placed
    return placed if row.verdict in ("VACUOUS", "KINK") and other.verdict == "PASS" else row
