"""Hand-written gradients of one point against one oracle: how close they must come, and what to say if they do not.

    hand and oracle agree   |hand - oracle| <= rtol * max(|hand|, |oracle|) + atol * |dout| * max(1, largest),
                            norms over the entries of one scale, ``largest`` over all gradients of the call: an
                            entry that is zero by symmetry is measured against what is not. Along a direction:
                            times ||v||_2.

Entries a million times smaller than the largest of their array are another scale, with a direction of its own; an
error in one of them would drown in the tolerance of the large ones.

Before a gradient is called wrong three other causes are asked for: a kink, where both one-sided slopes are right
(kinks.py); a forward whose own noise explains the difference; an oracle that differences contradict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod, sqrt
from typing import Any

import numpy as np

from .hints import hint
from .kinks import Kinks
from .oracles import Line, Oracle, OracleError, central, complex_step, noise, richardson, spell
from .pair import Array, leaves
from .point import Point, finite, norm
from .report import VERDICTS, Row

FLOAT32 = (1e-4, 1e-6)
"""rtol and atol for float32 arguments, whose gradients are held against float64 derivatives."""

SHARP = (1e-11, 1e-13)
"""rtol and atol of an oracle that is exact to rounding; no tolerance is sharper."""

SCALES = (1e-6, 1e-10)
"""Where one scale of entries ends and the next begins, as shares of the largest."""

LOOSEST = 1e-4
"""The largest error, as a share of the gradient, that the noise of a forward is allowed to excuse in a PASS."""


@dataclass
class Probe:
    """One array's derivatives along P directions, for G cotangents. ``V`` (P, n), None for the n unit vectors."""

    V: Array | None
    truth: Array  # (P, G)
    off: float  # how far the oracle may be off, by its own account
    scales: Sequence[Array]  # the entries of each scale, largest first

    def read(self, gradients: Sequence[Array]) -> Array:
        """The same derivatives (P, G) from whole gradients."""
        flat = [np.asarray(g).reshape(-1) for g in gradients]
        return np.stack(flat if self.V is None else [self.V @ g for g in flat], axis=-1)

    @property
    def lengths(self) -> Array:
        """||v||_2 of every direction."""
        return np.ones(len(self.truth)) if self.V is None else np.sqrt((self.V.astype(float) ** 2).sum(axis=1))

    def sizes(self, gradients: Sequence[Array]) -> Array:
        """(P, G): the largest entry that each direction sees, by hand or by the oracle."""
        truth = np.abs(self.truth.astype(float)) / self.lengths[:, None]
        scale = np.empty(truth.shape)
        for g, gradient in enumerate(gradients):
            flat = np.abs(np.asarray(gradient).reshape(-1).astype(float))
            if self.V is None:
                for entries in self.scales:
                    scale[entries, g] = max(norm(flat[entries]), norm(truth[entries, g]))
            else:
                scale[:, g] = [max(norm(flat[v != 0]), t) for v, t in zip(self.V, truth[:, g], strict=True)]
        return scale

    def tolerance(self, gradients: Sequence[Array], rtol: float, floors: Sequence[float]) -> Array:
        """(P, G): what the errors may be."""
        return self.lengths[:, None] * (rtol * self.sizes(gradients) + np.asarray(floors))


class Comparison:
    """All arrays of a point against one oracle. ``support``: by array, how far the oracle may be off along a
    direction where differences have ``confirmed`` it; ``traced``: it is known to be exact."""

    def __init__(self, point: Point, oracle: Oracle, rtol: float | None, atol: float | None):
        self.point, self.oracle = point, oracle
        self.given_tolerances = (rtol, atol)
        self.single = point.dtype == np.float32
        single = FLOAT32 if self.single else (0.0, 0.0)
        # Richardson's differences know how good they are: as strict as an exact oracle where that allows
        self.adaptive = oracle.derivative is richardson and (rtol, atol, self.single) == (None, None, False)
        self.rtol = max(oracle.rtol, single[0]) if rtol is None else rtol
        self.atol = max(oracle.atol, single[1]) if atol is None else atol
        self.inputs = {k: oracle.lift(widened(v)) for k, v in point.arrays.items()}
        self.plain = {k: widened(v) for k, v in point.arrays.items()}
        self.douts = [[widened(a) for a in dout] for dout in point.douts]
        self.floors = [self.floor(g, self.atol) for g in range(len(self.douts))]
        self.hundredths = [self.floor(g, 0.01) for g in range(len(self.douts))]
        self.support: dict[str, float] = {}
        self.thorough = oracle.derivative is complex_step
        self.traced = self.confirmed = False
        self.kinks = Kinks(self)

    def floor(self, g: int, atol: float) -> float:
        """atol * |dout| * max(1, largest gradient)."""
        largest = max((norm(hand) for hand in self.point.hands[g].values()), default=0.0)
        return atol * max((norm(a) for a in self.douts[g]), default=0.0) * max(1.0, largest)

    def hand(self, name: str) -> list[Array]:
        """The hand-written gradients of one array, one a cotangent."""
        return [widened(hand[name]) for hand in self.point.hands]

    def line(self, name: str, v: Array, lifted: bool = True) -> Line:
        """fn along v; ``lifted`` in the oracle's numbers, else in float64."""
        inputs = self.inputs if lifted else self.plain
        x = inputs[name]
        rounding = self.rounding if self.oracle.derivative is richardson else 0.0
        start = (lambda: self.start) if lifted else None
        return Line(self.point.pair.outputs, inputs, {name: v.reshape(x.shape)}, self.douts, unit(x), rounding, start)

    @cached_property
    def start(self) -> Array:
        """Where every line begins: <dout, fn> at the point, in the oracle's numbers."""
        return Line(self.point.pair.outputs, self.inputs, {}, self.douts)(0)

    def together(self) -> Line:
        """fn along one random direction through all arrays at once, in float64."""
        names = [name for name in self.point.hands[0] if self.plain[name].size]
        v = {name: unit(self.plain[name]) * self.direction(self.plain[name].size) for name in names}
        shaped = {name: direction.reshape(self.plain[name].shape) for name, direction in v.items()}
        return Line(self.point.pair.outputs, self.plain, shaped, self.douts)

    @cached_property
    def noises(self) -> Array:
        """Per cotangent: how far <dout, fn> is off by rounding."""
        if self.oracle.name == "exact":
            return np.zeros(len(self.douts))
        try:
            noises = noise(self.together(), self.sums)
        except Exception:
            noises = np.zeros(len(self.douts))
        return np.where(np.isfinite(noises), noises, 0.0)

    @cached_property
    def noise_share(self) -> float:
        """The noise as a share of the values."""
        return max(n / s if s else 0.0 for n, s in zip(self.noises, self.sums, strict=True))

    @cached_property
    def sums(self) -> Array:
        """Per cotangent: the sum of |dout| |fn|."""
        outs = leaves(self.point.out)
        return np.array([sum(float(np.abs(d * o).sum()) for d, o in zip(ds, outs, strict=True)) for ds in self.douts])

    @cached_property
    def rounding(self) -> float:
        """The largest of the noises."""
        return float(self.noises.max())

    def direction(self, size: int) -> Array:
        """Entries of both signs and of different sizes near one, none near zero; whole numbers for fractions."""
        rng = self.point.rng
        sign = rng.choice([-1.0, 1.0], size)
        if self.oracle.name == "exact":
            return (sign * rng.integers(1, 8, size)).astype(int).astype(object)
        return sign * rng.uniform(0.5, 1.5, size)

    # --- asking the oracle

    def scales(self, hand: Sequence[Array]) -> list[Array]:
        """The entries by the scale of their gradient, the largest first."""
        size = np.max([np.abs(h.reshape(-1).astype(float)) for h in hand], axis=0)
        edges = np.array(SCALES) * size.max(initial=0.0)
        sharp = self.oracle.derivative in (complex_step, richardson) or self.oracle.gradients is not None
        if self.single or not sharp or not edges.any():
            return [np.arange(size.size)]
        scale = (size[:, None] < edges).sum(axis=1)
        return [entries for s in range(len(edges) + 1) if (entries := np.flatnonzero(scale == s)).size]

    def probe(self, name: str, mode: str, without: Sequence[int] = ()) -> Probe:
        """Ask the oracle: along two random directions, or along every entry. ``without``: entries to leave out.
        Raises OracleError."""
        try:
            probe = self._probe(name, mode, without)
        except (OracleError, ModuleNotFoundError):
            raise
        except Exception as error:
            raise OracleError(f"the {self.oracle.name} oracle failed: {spell(error)}") from error
        if not finite(probe.truth):
            raise OracleError(f"the {self.oracle.name} oracle gives NaN or infinity: is fn finite around the point?")
        return probe

    def _probe(self, name: str, mode: str, without: Sequence[int]) -> Probe:
        scales = self.scales(self.hand(name))
        if self.oracle.gradients is not None:
            truth = np.stack([np.ravel(g[name]) for g in self.truths], axis=-1)
            return Probe(None, truth, 0.0, scales)
        size = prod(self.inputs[name].shape)
        if mode == "full":
            whole = self.oracle.name == "exact"
            V, directions = None, np.eye(size, dtype=int).astype(object) if whole else np.eye(size)
        else:
            V = directions = self._directions(size, scales, without)
        derivatives = [self.oracle.derivative(self.line(name, v)) for v in directions]
        return Probe(V, np.stack([values for values, _ in derivatives]), max(off for _, off in derivatives), scales)

    def _directions(self, size: int, scales: Sequence[Array], without: Sequence[int]) -> Array:
        """Directions for the array, and one for each further scale of entries. Errors may cancel along one, so there
        are two where they cost one evaluation each, or where nothing else is asked."""
        chosen = []
        for number, entries in enumerate(scales):
            for _ in range(2 if self.thorough and not number else 1):
                v = self.direction(size)
                if len(scales) > 1:
                    only = np.zeros(size)
                    only[entries] = v[entries]
                    v = only
                v[list(without)] = 0
                if v.any() or not without:
                    chosen.append(v)
        return np.stack(chosen)

    @cached_property
    def truths(self) -> Sequence[Mapping[str, Array]]:
        """All gradients of an oracle that gives them at once."""
        return self.oracle.gradients(self.inputs, self.point.names, self.douts)

    def tolerance(self, probe: Probe, gradients: Sequence[Array], floors: Sequence[float], name: str) -> Array:
        """(P, G): what the errors may be."""
        allowed = probe.tolerance(gradients, self.rtol, floors)
        if not self.adaptive:
            return allowed + self.support.get(name, 0.0)
        sharp = [floor * SHARP[1] / self.atol for floor in floors]
        return np.minimum(allowed, np.maximum(probe.tolerance(gradients, SHARP[0], sharp), 10 * probe.off))

    # --- verdicts

    def row(self, name: str, mode: str) -> Row:
        """The verdict on one array."""
        hand = self.hand(name)
        if hand[0].size == 0:
            return Row(name, "VACUOUS", self.oracle.name, note="it has no entries")
        try:
            probe = self.probe(name, mode)
        except OracleError as error:
            return Row(name, "ORACLE_INVALID", self.oracle.name, note=str(error))
        row, at = self._judged(name, probe)
        if row.verdict != "FAIL":
            return row
        if self.oracle.name == "exact":
            return self._named(row, name, probe, at)
        p, _ = at
        v = np.eye(1, hand[0].size, p)[0] if probe.V is None else probe.V[p]
        kinked = self.kinks.row(row, v)
        if kinked is not None:
            return kinked
        excused = self._excused(row, name, probe, at)
        if excused is not None:
            return excused
        if self.oracle.derivative is richardson and abs(row.hand) * unit(self.plain[name]) > 1e9 * self.sums.max():
            note = "with the gradient by hand fn would be too ill-conditioned here for differences to see it"
            return replace(row, verdict="ORACLE_INVALID", note=note)
        doubt = self.doubt(self.line(name, v, lifted=False), probe.truth[p].astype(float))
        if doubt:
            return replace(row, verdict="ORACLE_INVALID", note=doubt)
        return self._named(row, name, probe, at)

    def _judged(self, name: str, probe: Probe) -> tuple[Row, tuple[int, int]]:
        """PASS, VACUOUS, FAIL or ORACLE_INVALID from the numbers of a probe alone, and which of them is the worst."""
        hand = self.hand(name)
        values, tolerance = probe.read(hand), self.tolerance(probe, hand, self.floors, name)
        error = np.abs(values - probe.truth).astype(float)
        p, g = at = worst(error, tolerance)
        index = np.unravel_index(p, hand[0].shape) if probe.V is None else None
        row = Row(name, "PASS", self.oracle.name, float(error[p, g]), float(tolerance[p, g]),
                  None if index is None else tuple(map(int, index)),
                  float(values[p, g]), float(probe.truth[p, g]),
                  relative=float((error / probe.tolerance(hand, 1.0, self.hundredths)).max()))  # fmt: skip
        if (error <= tolerance).all():
            silent = all(norm(h) <= floor for h, floor in zip(hand, self.floors, strict=True))
            return (replace(row, verdict="VACUOUS", note=VERDICTS["VACUOUS"]) if silent else row), at
        off = 10 * probe.off
        if (error <= tolerance + off).all():
            size = probe.lengths[p] * max(norm(h) for h in hand)
            if self.adaptive and off <= LOOSEST * size:
                note = "the tolerance is as wide as fn's own noise makes differences uncertain"
                return replace(row, tolerance=float(tolerance[p, g] + off), note=note), at
            note = f"the oracle is off by up to {probe.off:.1e} itself, by its own estimate"
            return replace(row, verdict="ORACLE_INVALID", note=note), at
        return replace(row, verdict="FAIL"), at

    def _excused(self, row: Row, name: str, probe: Probe, at: tuple[int, int]) -> Row | None:
        """The noise of an ill-conditioned fn, where it explains the difference: fn's values are off by this share,
        and so are its derivatives, by hand and by the oracle, each in its own way."""
        hand, share = self.hand(name), 100 * self.noise_share
        largest = max(norm(h) for h in hand)
        error = np.abs(probe.read(hand) - probe.truth).astype(float)
        size = probe.lengths[:, None] * np.maximum(probe.sizes(hand), largest)
        if not (error <= share * size).all():
            return None
        spoken = (
            f"fn is ill-conditioned here: its values are off by {self.noise_share:.0e} of themselves through rounding"
        )
        if share <= LOOSEST:
            return replace(row, verdict="PASS", tolerance=float(share * size[at]), note=spoken)
        note = f"{spoken}, which explains the difference"
        return replace(row, verdict="ORACLE_INVALID", note=note)

    def doubt(self, line: Line, truth: Array) -> str:
        """Why not to trust the oracle's derivatives along a line: differences disagree with them. "" if not.

        A gradient is never called wrong before this was asked."""
        if self.traced:
            return ""
        method = central if self.oracle.derivative is richardson else richardson
        try:
            other, off = method(line)
        except Exception:
            return ""
        length = sqrt(sum((v.astype(float) ** 2).sum() for v in line.v.values()))
        rtol, atol = SHARP if self.confirmed else (1e-6, 1e-8)
        floors = length * np.array([self.floor(g, atol) for g in range(len(self.douts))])
        away = np.abs(other - truth)
        if not (away > rtol * np.maximum(np.abs(other), np.abs(truth)) + floors + 10 * off).any():
            return ""
        g = int(away.argmax())
        named = "the complex step" if self.oracle.derivative is complex_step else f"the {self.oracle.name} oracle"
        return f"{named} gives {truth[g]:.8g} along a line where differences give {other[g]:.8g}"

    def _named(self, row: Row, name: str, probe: Probe, at: tuple[int, int]) -> Row:
        """The FAIL with what the error looks like, and where it is."""
        hand = self.hand(name)
        tolerance = self.tolerance(probe, hand, self.floors, name)
        failed = replace(row, note=hint(self, name, probe, tolerance))
        return failed if probe.V is None else self._localised(failed, probe.V[at[0]], at[1])

    def _localised(self, row: Row, direction: Array, g: int) -> Row:
        """The row with an entry that is wrong: halve the array, follow the half with the larger error."""
        hand = self.hand(row.array)[g].reshape(-1)
        v, entries = self.direction(hand.size), np.flatnonzero(direction != 0)

        def error_along(chosen: Array) -> Any:
            only = np.zeros_like(v)
            only[chosen] = v[chosen]
            return (only * hand).sum() - self.oracle.derivative(self.line(row.array, only))[0][g]

        error = error_along(entries)
        while len(entries) > 1:
            left, right = np.array_split(entries, 2)
            error_left = error_along(left)
            keep_left = abs(error_left) >= abs(error - error_left)
            entries, error = (left, error_left) if keep_left else (right, error - error_left)
        only = np.zeros_like(v)
        only[entries] = 1
        truths, off = self.oracle.derivative(self.line(row.array, only))
        by_hand, truth = hand[entries[0]], truths[g]
        probe = Probe(only[None], np.array([[truth]]), off, [])
        error = float(abs(by_hand - truth))
        tolerance = float(self.tolerance(probe, [hand], [self.floors[g]], row.array)[0, 0])
        if error <= tolerance:
            return row
        index = tuple(map(int, np.unravel_index(entries[0], self.inputs[row.array].shape)))
        return replace(row, error=error, tolerance=tolerance, index=index, hand=float(by_hand), truth=float(truth))


def widened(value: Any) -> Any:
    """float32 in float64; anything else as it is."""
    return value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value


def unit(x: Array) -> float:
    """The size of the steps that make sense for an array: its largest entry, or 0.01 where it is smaller."""
    return max(norm(x.astype(float)), 1e-2)


def worst(error: Array, tolerance: Array) -> tuple[int, int]:
    """Where error / tolerance is largest; by the error where no error is allowed."""
    ratio = np.divide(error, tolerance, out=np.where(error > 0, np.inf, 0.0), where=tolerance > 0)
    at = error.argmax() if np.isinf(ratio).any() else ratio.argmax()
    return tuple(map(int, np.unravel_index(at, error.shape)))
