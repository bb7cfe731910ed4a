"""Is a hand-written gradient right? Two extra evaluations per array, whatever its size.

Equation    <dout, J v> = <J^T dout, v> for every direction v: the left side from function values by an oracle,
            the right side from the hand-written gradient. One random v tests all entries at once (the
            dot-product test of adjoint codes: Claerbout, Earth Soundings Analysis, 1992).
Twin        torch_check.py: the same for torch.
Checked by  tests/test_gradcheck.py, and by planted bugs in tests/test_mutants.py.

    hand and oracle agree   |hand - oracle| <= rtol * max(|hand|, |oracle|) + atol * |dout| * max(1, largest),
                            norms over an array, ``largest`` over all gradients of the call: an entry that is
                            zero by symmetry is measured against what is not. Along a direction: times ||v||_2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod, sqrt
from typing import Any

import numpy as np

from ..shapes import InputError
from .hints import named
from .oracles import ORACLES, Line, Oracle, OracleError, central, complex_step, richardson, spell, torch_oracle
from .pair import Array, Pair
from .point import Point, finite, norm, row_of, same_bits
from .report import VERDICTS, Report, Row

FLOAT32 = (1e-4, 1e-6)
"""rtol and atol for float32 arguments, whose gradients are held against float64 derivatives."""

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
) -> Report:
    """Hold the gradients that ``vjp`` returns against derivatives of ``fn``, at one point.

    fn          ``fn(**inputs) -> out`` or ``(out, cache)``; several outputs are a tuple, list or dictionary
    vjp         ``vjp(dout, cache)`` or ``vjp(dout, **inputs)`` -> {name: gradient}; dout is built as out is
    inputs      arrays by name, float64 or float32; integers, booleans, None and Python numbers are held fixed
    wrt         the names that must have a gradient. None: what the registry declares for one of its kernels,
                all floating-point arrays for any other function
    oracle      "auto" (the complex step, compared with central differences first), "complex", "richardson",
                "central", "exact", "mpmath", "torch" (a kernel's twin), or a twin: a function of torch tensors
    mode        "directional": two directions per array; "full": every entry, to find the worst one
    cotangents  how many random dout; the same seed gives the same ones
    rtol, atol  instead of the oracle's own tolerances

    A gradient may be called as its input is, or without the letters of its shape: ``x`` for ``x_NI``.
    Raises InputError when the point cannot be used (NaN, no floating-point array, fn fails on it); whatever
    is wrong with a gradient is in the report.
    """
    usable(mode, cotangents)
    chosen = choose_oracle(oracle, fn)
    point = Point(Pair(fn, vjp), inputs, wrt, chosen, cotangents, seed)
    return compare(point, chosen, oracle == "auto", mode, rtol, atol)


def usable(mode: str, cotangents: int) -> None:
    """Raise InputError for an unknown mode, or for fewer than one cotangent."""
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    if not isinstance(cotangents, int) or cotangents < 1:
        raise InputError(f"cotangents is {cotangents!r}, expected a whole number, at least 1")


def choose_oracle(oracle: Any, fn: Any) -> Oracle:
    """The oracle of that name, or of that twin. Raises InputError."""
    if isinstance(oracle, Oracle):
        return oracle
    if callable(oracle):
        return torch_oracle(oracle)
    if oracle == "torch":
        row = row_of(fn)
        if row is None:
            raise InputError("oracle='torch' needs a kernel of the registry; give the twin itself for your function")
        from ..by_autograd.kernels import KERNEL_TWINS

        return torch_oracle(KERNEL_TWINS[row.name])
    if oracle != "auto" and oracle not in ORACLES:
        raise InputError(f"oracle is {oracle!r}, expected auto, {', '.join(ORACLES)}, torch or a twin")
    return ORACLES["complex" if oracle == "auto" else oracle]


# --- the comparison ------------------------------------------------------------------------------


@dataclass
class Probe:
    """One array's derivatives along P directions, for G cotangents. ``V`` (P, n), None for the n unit vectors."""

    V: Array | None
    truth: Array  # (P, G)
    off: float  # how far the oracle may be off, by its own account

    def read(self, gradients: Sequence[Array]) -> Array:
        """The same derivatives (P, G) from whole gradients."""
        flat = [np.asarray(g).reshape(-1) for g in gradients]
        return np.stack(flat if self.V is None else [self.V @ g for g in flat], axis=-1)

    def tolerance(self, gradients: Sequence[Array], rtol: float, floors: Sequence[float]) -> Array:
        """(P, G): what the errors may be."""
        lengths = np.ones(len(self.truth)) if self.V is None else np.sqrt((self.V.astype(float) ** 2).sum(axis=1))
        truth = np.abs(self.truth.astype(float)) / lengths[:, None]
        columns = [rtol * max(norm(g), norm(t)) + floor for g, t, floor in zip(gradients, truth.T, floors, strict=True)]
        return lengths[:, None] * np.array(columns)


class Comparison:
    """All arrays of a point against one oracle."""

    def __init__(self, point: Point, oracle: Oracle, rtol: float | None, atol: float | None):
        self.point, self.oracle = point, oracle
        single = FLOAT32 if point.dtype == np.float32 else (0.0, 0.0)
        # Richardson's differences know how good they are: up to a hundred times stricter where that allows
        self.adaptive = oracle.derivative is richardson and (rtol, atol, single[0]) == (None, None, 0.0)
        self.rtol = max(oracle.rtol, single[0]) if rtol is None else rtol
        self.atol = max(oracle.atol, single[1]) if atol is None else atol
        self.inputs = {k: oracle.lift(widened(v)) for k, v in point.given.items()}
        self.douts = [[widened(a) for a in dout] for dout in point.douts]
        self.floors = [self.floor(g, self.atol) for g in range(len(self.douts))]
        self.hundredths = [self.floor(g, 0.01) for g in range(len(self.douts))]

    def floor(self, g: int, atol: float) -> float:
        """atol * |dout| * max(1, largest gradient)."""
        largest = max((norm(hand) for hand in self.point.hands[g].values()), default=0.0)
        return atol * max((norm(a) for a in self.douts[g]), default=0.0) * max(1.0, largest)

    def hand(self, name: str) -> list[Array]:
        """The hand-written gradients of one array, one a cotangent."""
        return [widened(hand[name]) for hand in self.point.hands]

    def line(self, name: str, v: Array, lifted: bool = True) -> Line:
        """fn along v; ``lifted`` in the oracle's numbers, else in float64."""
        x = self.inputs[name]
        inputs = self.inputs if lifted else {k: widened(a) for k, a in self.point.given.items()}
        return Line(self.point.pair.outputs, inputs, {name: v.reshape(x.shape)}, self.douts, unit(x))

    def direction(self, size: int) -> Array:
        """Entries of both signs and of different sizes near one, none near zero; whole numbers for fractions."""
        rng = self.point.rng
        sign = rng.choice([-1.0, 1.0], size)
        if self.oracle.name == "exact":
            return (sign * rng.integers(1, 8, size)).astype(int).astype(object)
        return sign * rng.uniform(0.5, 1.5, size)

    def probe(self, name: str, mode: str) -> Probe:
        """Ask the oracle: along two random directions, or along every entry. Raises OracleError."""
        try:
            probe = self._probe(name, mode)
        except (OracleError, ModuleNotFoundError):
            raise
        except Exception as error:
            raise OracleError(f"the {self.oracle.name} oracle failed: {spell(error)}") from error
        if not finite(probe.truth):
            raise OracleError(f"the {self.oracle.name} oracle gives NaN or infinity: is fn finite around the point?")
        return probe

    def _probe(self, name: str, mode: str) -> Probe:
        if self.oracle.gradients is not None:
            return Probe(None, np.stack([np.ravel(g[name]) for g in self.truths], axis=-1), 0.0)
        size = prod(self.inputs[name].shape)
        if mode == "full":
            whole = self.oracle.name == "exact"
            V, directions = None, np.eye(size, dtype=int).astype(object) if whole else np.eye(size)
        else:
            V = directions = np.stack([self.direction(size) for _ in range(self.directions)])
        found = [self.oracle.derivative(self.line(name, v)) for v in directions]
        return Probe(V, np.stack([values for values, _ in found]), max(off for _, off in found))

    @property
    def directions(self) -> int:
        """Two evaluations per array: the complex step needs one a direction, a central difference two."""
        return 2 if self.oracle.derivative is complex_step else 1

    @cached_property
    def truths(self) -> Sequence[Mapping[str, Array]]:
        """All gradients of an oracle that gives them at once."""
        return self.oracle.gradients(self.inputs, self.point.names, self.douts)

    def tolerance(self, probe: Probe, gradients: Sequence[Array], floors: Sequence[float]) -> Array:
        """(P, G): what the errors may be."""
        allowed = probe.tolerance(gradients, self.rtol, floors)
        return np.minimum(allowed, np.maximum(allowed / 100, 10 * probe.off)) if self.adaptive else allowed

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
        values, tolerance = probe.read(hand), self.tolerance(probe, hand, self.floors)
        error = np.abs(values - probe.truth).astype(float)
        p, g = worst(error, tolerance)
        index = np.unravel_index(p, hand[0].shape) if probe.V is None else None
        row = Row(name, "PASS", self.oracle.name, float(error[p, g]), float(tolerance[p, g]),
                  None if index is None else tuple(map(int, index)),
                  float(values[p, g]), float(probe.truth[p, g]),
                  relative=float((error / probe.tolerance(hand, 1.0, self.hundredths)).max()))  # fmt: skip
        if (error <= tolerance).all():
            silent = all(norm(h) <= floor for h, floor in zip(hand, self.floors, strict=True))
            return replace(row, verdict="VACUOUS", note=VERDICTS["VACUOUS"]) if silent else row
        if (error <= tolerance + 10 * probe.off).all():
            note = f"the oracle is off by up to {probe.off:.1e} itself, by its own estimate"
            return replace(row, verdict="ORACLE_INVALID", note=note)
        v = np.eye(1, hand[0].size, p)[0] if probe.V is None else probe.V[p]
        doubt = self.doubt(self.line(name, v, lifted=False), probe.truth[p].astype(float))
        if doubt:
            return replace(row, verdict="ORACLE_INVALID", note=doubt)
        row = replace(row, verdict="FAIL", note=self.hint(name, probe, values, tolerance))
        return row if probe.V is None else self.localised(row, g)

    def doubt(self, line: Line, truth: Array, quick: bool = False) -> str:
        """Why not to trust the oracle's derivatives along a line: differences disagree with them. "" if not.

        A gradient is never called wrong before this was asked. ``quick``: two evaluations if they settle it."""
        if self.oracle.name == "exact":
            return ""
        length = sqrt(sum((v.astype(float) ** 2).sum() for v in line.v.values()))
        floors = length * np.array([self.floor(g, 1e-8) for g in range(len(self.douts))])
        settling = (central,) if self.oracle.derivative is richardson else (richardson,)
        for method in (central, richardson) if quick else settling:
            try:
                other, off = method(line)
            except Exception:
                return ""
            away = np.abs(other - truth)
            if not (away > 1e-6 * np.maximum(np.abs(other), np.abs(truth)) + floors + 10 * off).any():
                return ""
        g = int(away.argmax())
        named = "the complex step" if self.oracle.derivative is complex_step else f"the {self.oracle.name} oracle"
        reason = " (fn is not complex-safe: abs, conj, np.var, norm, astype(float)?); use oracle='richardson'"
        return (f"{named} gives {truth[g]:.8g} along a line where differences give {other[g]:.8g}"
                + (reason if self.oracle.derivative is complex_step else ""))  # fmt: skip

    def doubts(self) -> dict[str, str]:
        """Before anything is compared: the oracle against differences, in one direction through all arrays at
        once; only if they disagree, array by array, to name the ones."""
        names = [name for name in self.point.hands[0] if self.inputs[name].size]
        lines = {name: self.line(name, self.direction(self.inputs[name].size)) for name in names}
        every = {name: unit(self.inputs[name]) * line.v[name] for name, line in lines.items()}
        together = Line(self.point.pair.outputs, self.inputs, every, self.douts)
        try:
            if not self.doubt(together, self.oracle.derivative(together)[0], quick=True):
                return {}
            found = {name: self.doubt(line, self.oracle.derivative(line)[0]) for name, line in lines.items()}
        except OracleError as error:
            return dict.fromkeys(names, str(error))
        found = {name: doubt for name, doubt in found.items() if doubt}
        return found or dict.fromkeys(names, "differences disagree with the oracle in a common direction")

    def localised(self, row: Row, g: int) -> Row:
        """The row with an entry that is wrong: halve the array, follow the half with the larger error."""
        hand = self.hand(row.array)[g].reshape(-1)
        v, entries = self.direction(hand.size), np.arange(hand.size)

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
        found, off = self.oracle.derivative(self.line(row.array, only))
        by_hand, truth = hand[entries[0]], found[g]
        probe = Probe(only[None], np.array([[truth]]), off)
        error, tolerance = float(abs(by_hand - truth)), float(self.tolerance(probe, [hand], [self.floors[g]])[0, 0])
        if error <= tolerance:
            return row
        index = tuple(map(int, np.unravel_index(entries[0], self.inputs[row.array].shape)))
        return replace(row, error=error, tolerance=tolerance, index=index, hand=float(by_hand), truth=float(truth))

    # --- hints

    def hint(self, name: str, probe: Probe, values: Array, tolerance: Array) -> str:
        """What the error looks like: a known factor, a transpose, another array's gradient."""
        hand = self.hand(name)
        if not any(norm(h) for h in hand):
            return "hand is zero everywhere"

        def agree(gradients: Sequence[Array]) -> bool:
            return bool((np.abs(probe.read(gradients) - probe.truth) <= tolerance).all())

        if hand[0].ndim == 2 and len(set(hand[0].shape)) == 1 and agree([h.T for h in hand]):
            return "hand is the transpose of the gradient"
        for other, gradient in self.point.hands[0].items():
            if other != name and gradient.shape == hand[0].shape and agree(self.hand(other)):
                return f"d{other} is the gradient that belongs here"
        truth, values = probe.truth.astype(float).ravel(), values.astype(float).ravel()
        single = hand[0].dtype == np.float64 and all(same_bits(h, h.astype(np.float32).astype(float)) for h in hand)
        if single and norm(values - truth) < 1e-5 * norm(truth):
            return "hand has only the digits of float32"
        counts = np.abs(truth) > 1e-3 * norm(truth)
        ratios = values[counts] / truth[counts]
        slack = max(1e-6, 100 * self.rtol)
        ratio = float(np.median(ratios)) if ratios.size else 0.0
        if ratio == 0 or np.abs(ratios / ratio - 1).max() > slack or abs(ratio - 1) < slack:
            return ""
        return named(ratio, self.point.given, slack)


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


def compare(point: Point, oracle: Oracle, verify: bool, mode: str, rtol: float | None, atol: float | None) -> Report:
    """The report on one point. ``verify``: ask differences first whether the oracle can be used."""
    comparison = Comparison(point, oracle, rtol, atol)
    protocol = point.protocol(comparison.rtol, comparison.floors[0])
    invalid = comparison.doubts() if verify and point.hands[0] else {}
    rows = []
    for name in point.names:
        if name in point.problems:
            rows.append(Row(name, "FAIL", oracle.name, note=point.problems[name]))
        elif name in point.unstable:
            rows.append(Row(name, "NONDETERMINISTIC", oracle.name, note=VERDICTS["NONDETERMINISTIC"]))
        elif name in invalid:
            rows.append(Row(name, "ORACLE_INVALID", oracle.name, note=invalid[name]))
        else:
            rows.append(comparison.row(name, mode))
    malformed = protocol[0].note if point.problems else ""
    return Report(rows, protocol, malformed)
