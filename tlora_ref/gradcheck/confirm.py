"""How far an oracle is to be believed, before any gradient is held against it.

The complex step is exact through analytic functions and silently wrong through others. Either a trace shows that
only analytic ones were met (trace.py), and then its digits count to the last; or Richardson's differences confirm
it, and then no verdict is sharper than they are. Where neither holds, the differences are the oracle themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .comparison import SHARP, Comparison, unit
from .oracles import ORACLES, Line, OracleError, central, complex_step, one_sided, richardson
from .pair import Array
from .point import norm
from .report import Row
from .trace import Trace, trace


@dataclass
class Trust:
    """A comparison, and for arrays that its oracle cannot be believed on the reason why."""

    comparison: Comparison
    invalid: dict[str, str]

    def row(self, name: str, mode: str) -> Row:
        """The verdict on one array, by Richardson's differences where the oracle cannot be used."""
        reason = self.invalid.get(name, "")
        if not reason:
            row = self.comparison.row(name, mode)
            size = max(norm(h) for h in self.comparison.hand(name))
            loose = self.comparison.support.get(name, 0.0) > 1e-8 * size
            if self.comparison.traced or (row.verdict != "ORACLE_INVALID" and not loose):
                return row
            reason = row.note if not loose else "differences confirm the oracle to few digits only"
        row = self.differences.row(name, mode)
        if row.verdict == "FAIL" and self.comparison.oracle.derivative is not complex_step:
            own = Comparison(self.comparison.point, self.comparison.oracle, *self.comparison.given_tolerances)
            if own.row(name, mode).verdict in ("PASS", "VACUOUS"):  # a detached part: no derivative by intent, it seems
                note = f"{self.comparison.oracle.name} agrees with the backward, and the values of fn do not: {reason}"
                return replace(row, verdict="ORACLE_INVALID", oracle=self.comparison.oracle.name, note=note)
        note = f"by differences, as {reason}"
        return replace(row, note=f"{row.note}; {note}" if row.note else note)

    @cached_property
    def differences(self) -> Comparison:
        """The comparison with Richardson's differences."""
        comparison = Comparison(self.comparison.point, ORACLES["richardson"], *self.comparison.given_tolerances)
        comparison.thorough = True
        return comparison


def confirmation(comparison: Comparison) -> Trust:
    """Confirm the oracle of a comparison; what that leaves uncertain goes into ``comparison.support``."""
    line = comparison.together()
    names = list(line.v)
    if not names:
        return Trust(comparison, {})
    derivative, met = comparison.oracle.derivative, _met(comparison, line)
    try:
        slopes, _ = derivative(line)
    except OracleError as error:
        return Trust(comparison, dict.fromkeys(names, _reason(comparison, met) if met.unsafe else str(error)))
    if met.clean and _agrees_roughly(comparison, line, slopes):
        comparison.traced = True
        return Trust(comparison, {})
    comparison.confirmed = True
    if met.unsafe and not met.lost:
        invalid = {name: reason for name in names if (reason := _unsafe(comparison, line, name))}
        return Trust(comparison, invalid)
    offs = []
    for _ in range(2):  # along one direction alone two terms may cancel
        line = replace(comparison.together(), noise=comparison.rounding)
        offs.append(_distance(line, derivative(line)[0]))
    known = [off for off in offs if off is not None]
    if len(known) == len(offs):
        comparison.support = {name: 10 * max(known) / unit(comparison.plain[name]) for name in names}
        return Trust(comparison, {})
    invalid = {}
    for name in names:
        alone = replace(comparison.line(name, comparison.direction(comparison.plain[name].size)), noise=line.noise)
        try:
            off = _distance(alone, derivative(alone)[0])
        except OracleError as error:
            invalid[name] = str(error)
            continue
        if off is None:
            invalid[name] = _reason(comparison, met)
        else:
            comparison.support[name] = 10 * off
    return Trust(comparison, invalid or dict.fromkeys(names, _reason(comparison, met)))


def _unsafe(comparison: Comparison, line: Line, name: str) -> str:
    """Why the complex step cannot follow fn along this array, "" if it can."""
    met = _met(comparison, replace(line, v={name: line.v[name]}))
    return "" if met.clean else _reason(comparison, met)


def _met(comparison: Comparison, line: Line) -> Trace:
    if comparison.oracle.derivative is not complex_step:
        return Trace(lost=True)
    pair, out = comparison.point.pair, comparison.point.out
    if comparison.single:
        out = pair.outputs(comparison.plain)

    def run(shake: float) -> Trace:
        return trace(lambda inputs: pair.forward(inputs)[0], dict(comparison.plain), line.v, out, shake)

    met = run(0.0)
    if set(met.unsafe) == {"real"} and not met.lost and run(0.1).away < 1e-12:
        # a softmax takes the largest real part away, a relu looks at signs: the result does not depend on them
        met = replace(met, unsafe=())
    # other values mean another branch for complex numbers, unless fn itself is off by as much
    return replace(met, lost=met.lost or bool(met.away > 1e-9 and met.away > 100 * comparison.noise_share))


def _agrees_roughly(comparison: Comparison, line: Line, value: Array) -> bool:
    """Two evaluations, that the traced function is the one that runs on real numbers; a kink is not against it."""
    floors = np.array([comparison.floor(g, 1e-8) for g in range(len(comparison.douts))])
    for step in (1e-5, 1e-8, 1e-11, 1e-13):  # short steps for what is ill-conditioned
        try:
            other, off = central(line, step)
        except Exception:
            return True
        if not (np.abs(other - value) > 1e-6 * np.maximum(np.abs(other), np.abs(value)) + floors + 10 * off).any():
            return True
        line = replace(line, noise=comparison.rounding)
    try:
        sides = [one_sided(line, side)[0] for side in (-1, 1)]
    except Exception:
        return False
    return any(bool((np.abs(side - value) <= 1e-4 * np.abs(value) + floors).all()) for side in sides)


def _distance(line: Line, value: Array) -> float | None:
    """How far off ``found`` may be, as far as differences can tell; None where they contradict it."""
    try:
        other, off = richardson(line)
    except Exception:
        return None
    return off if (np.abs(other - value) <= 10 * off + SHARP[0] * np.abs(value)).all() else None


def _reason(comparison: Comparison, met: Trace) -> str:
    named = "the complex step" if comparison.oracle.derivative is complex_step else comparison.oracle.name
    through = f" through {', '.join(met.unsafe[:3])}" if met.unsafe else " through a comparison of equals" * met.tie
    return f"{named} cannot follow fn{through}"
