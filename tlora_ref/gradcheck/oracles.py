"""Derivatives from function values alone, to hold hand-written gradients against.

Every oracle differentiates along a line, t -> f(x + t v), at t = 0:

complex      Im f(x + i h v) / h: no subtraction, so h can be 1e-30 and the result is exact to rounding
             (Squire and Trapp, Using complex variables to estimate derivatives of real functions, SIAM
             Review 40(1), 1998). Silently wrong through abs, conj, np.var, np.linalg.norm, astype(float).
central      (f(x + h v) - f(x - h v)) / 2h: truncation h^2 against cancellation 1/h.
richardson   central differences at twelve steps, extrapolated to h = 0; the entry of the tableau that agrees
             best with its neighbours is taken, and their distance is its own estimate of its error
             (Richardson, Phil. Trans. A 210, 1911; the adaptive choice is Ridders, Accurate computation of
             F'(x) and F'(x)F''(x), Advances in Engineering Software 4(2), 1982).
exact        central differences in fractions.Fraction. What is linear or quadratic in t, and every kernel of
             + and * is along one array, has no third derivative, so its central difference has no truncation
             error at any step: the result is the derivative, and equality is ``==``.
mpmath       a forward difference in 50-digit arithmetic with a step of 1e-25, which leaves 25 digits to truncation
             and 25 to cancellation: to settle disputes.

torch        all gradients at once by torch's autograd, from the twin of a kernel in by_autograd.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np

from ..shapes import InputError
from .arithmetic import DIGITS, to_fractions, to_mpmath

Array = np.ndarray


class OracleError(InputError):
    """The oracle cannot differentiate this function; nothing is said about the gradient."""


@dataclass(frozen=True)
class Line:
    """t -> <cotangent, f(x + t v)>, one number per cotangent: a function seen along one line.

    ``v`` has entries near ``unit`` times one, so that steps can be chosen as pure numbers. ``noise``: how far the
    values may be off by rounding, where that was measured. ``start``: the values at t = 0, where other lines begin at
    the same point and have them.
    """

    f: Callable[[Mapping[str, Any]], Sequence[Array]]  # inputs by name -> outputs
    inputs: Mapping[str, Any]
    v: Mapping[str, Array]
    cotangents: Sequence[Sequence[Array]]
    unit: float = 1.0
    noise: float = 0.0
    start: Callable[[], Array] | None = None

    def __call__(self, t: Any) -> Array:
        if self.start is not None and t == 0:
            return self.start()
        # v first: an ndarray knows how to multiply by a Fraction or an mpf, they do not know how to by it
        moved = {name: _like(self.inputs[name] + v * t, self.inputs[name]) for name, v in self.v.items()}
        outs = self.f({**self.inputs, **moved})
        return np.array([sum((g * out).sum() for g, out in zip(gs, outs, strict=True)) for gs in self.cotangents])


Derivative = Callable[[Any], "tuple[Array, float]"]
"""Line -> (one derivative per cotangent, how far they may be off by the method's own account)."""


def complex_step(line: Line, h: float = 1e-30) -> tuple[Array, float]:
    """Raises OracleError where f does not take complex128, discards the imaginary part or returns a real."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            values = line(1j * h)
    except Exception as error:
        raise OracleError(f"the complex step needs fn to carry complex128: {spell(error)}") from error
    if not np.iscomplexobj(values):
        raise OracleError("the complex step needs fn to carry complex128, and it returned a real result")
    return values.imag / h, 0.0


def central(line: Line, h: float = 1e-5) -> tuple[Array, float]:
    """The estimate of the error is that of cancellation alone."""
    h = h * line.unit
    up, down = line(h), line(-h)
    return (up - down) / (2 * h), _rounding(line, up) / h


def richardson(line: Line, levels: int = 12) -> tuple[Array, float]:
    """Steps from 0.1 units downwards by factors of two: the error of a central difference is a series in h^2."""

    def difference(h: float) -> tuple[Array, float]:
        up, down = line(h), line(-h)
        return (up - down) / (2 * h), _rounding(line, up) / h

    best, off = _extrapolated(difference, 0.1 * line.unit, 4, levels)
    # beside a pole or a kink the wide steps agree with each other and not with the derivative: narrow ones know
    for step in (1e-6, 1e-11):
        with np.errstate(all="ignore"):
            narrow, rounding = difference(step * line.unit)
        away = np.abs(narrow - best)
        strange = away > 1e-3 * np.maximum(np.abs(narrow), np.abs(best)) + 20 * rounding
        off = max(off, float(away[strange].max(initial=0.0)))
    return best, off


def one_sided(line: Line, side: int, start: float = 0.05, levels: int = 14) -> tuple[Array, float]:
    """The slope on one side, +1 or -1, from ``start`` units downwards: the error of a one-sided difference is a series
    in h."""
    here = line(0.0)

    def difference(h: float) -> tuple[Array, float]:
        there = line(side * h)
        return side * (there - here) / h, 2 * _rounding(line, there) / h

    return _extrapolated(difference, start * line.unit, 2, levels)


def _extrapolated(
    difference: Callable[[float], tuple[Array, float]], h: float, ratio: int, levels: int, columns: int = 6
) -> tuple[Array, float]:
    """The limit at h = 0 of differences at h, h / 2, h / 4 ..., whose errors fall by ``ratio``, ratio^2, ..."""
    best, off, above = None, np.inf, []
    for level in range(levels):
        with np.errstate(all="ignore"):  # the first steps may leave the domain of f
            first, rounding = difference(h / 2**level)
            # T[j, k] = T[j, k-1] + (T[j, k-1] - T[j-1, k-1]) / (ratio^k - 1) removes the term of order k
            row = [first]
            for k, upper in enumerate(above[: columns - 1], 1):
                row.append(row[-1] + (row[-1] - upper) / (ratio**k - 1))
                distance = np.maximum(np.abs(row[k] - row[k - 1]), np.abs(row[k] - upper)).max(initial=0.0)
                if distance + rounding < off:
                    best, off = row[k], float(distance + rounding)
        above = row
        if off < 2 * rounding and level > 2:  # smaller steps only lose digits
            break
    if best is None:
        raise OracleError("differences did not converge: fn is not finite around the point")
    return best, off


def _rounding(line: Line, values: Array) -> float:
    """How far a value of the function may be off by rounding."""
    return max(float(np.finfo(float).eps * np.abs(values).max(initial=0.0)), line.noise)


def noise(line: Line, size: Array, order: int = 6) -> Array:
    """How far the values are off by rounding, per cotangent, from a table of differences: of order 6 nothing is
    left of a smooth function on points so close, and of independent errors their size times sqrt(924).

    (More and Wild, Estimating computational noise, SIAM J. Sci. Comput. 33(3), 2011.) The points lie on a grid of
    numbers that are exact, or the rounding of the inputs would be taken for that of the function. A fine grid is
    smooth for all but the worst conditioned; a coarse one shows a function that computes in float32, and counts
    only if three orders agree, as they do on noise, and on no more than float32 loses of values of this ``size``.
    """
    fine, coarse = _table(line, 2.0**-44, order), _table(line, 2.0**-22, order)
    alike = coarse.max(axis=0) <= np.minimum(4 * coarse.min(axis=0), 1e-6 * size)
    return np.maximum(fine[-1], np.where(alike, coarse[-1], 0.0))


def _table(line: Line, grid: float, order: int) -> Array:
    """The estimates of the last three orders, (3, cotangents)."""
    snapped, whole = {}, {}
    for name, v in line.v.items():
        size = 2.0 ** np.round(np.log2(max(float(np.abs(v).max(initial=0.0)) * line.unit, 1e-300)))
        exact = 2.0**-44 * size
        snapped[name] = _like(np.round(line.inputs[name] / exact) * exact, line.inputs[name])
        whole[name] = np.asarray(np.sign(v) * size)
    at = replace(line, inputs={**line.inputs, **snapped}, v=whole)
    with np.errstate(all="ignore"):
        values = np.array([at(i * grid) for i in range(order + 1)])
    orders = range(order - 2, order + 1)
    return np.array([np.abs(np.diff(values, k, axis=0)).max(axis=0) / np.sqrt(comb(2 * k, k)) for k in orders])


def exact(line: Line) -> tuple[Array, float]:
    """Raises OracleError where f leaves the fractions, or is of a higher degree than two along the line."""
    try:
        at = {t: line(Fraction(t)) for t in (-1, 0, 1, 2)}
    except Exception as error:
        raise OracleError(f"exact arithmetic needs fn to use + and * only: {spell(error)}") from error
    if not all(isinstance(value, (Fraction, int)) for values in at.values() for value in values):
        raise OracleError("exact arithmetic needs fn to use + and * only, and it left the fractions")
    if (at[2] - 3 * at[1] + 3 * at[0] - at[-1] != 0).any():
        raise OracleError("fn is not linear or quadratic along the array: its central difference is not exact")
    return (at[1] - at[-1]) / 2, 0.0


def in_mpmath(line: Line) -> tuple[Array, float]:
    """Raises OracleError where f calls what has no 50-digit version here."""
    import mpmath

    try:
        with mpmath.workdps(DIGITS):
            h = mpmath.mpf(10) ** (-DIGITS // 2) * line.unit
            return ((line(h) - line(0)) / h).astype(float), 0.0
    except Exception as error:
        raise OracleError(f"fn does not run in mpmath: {spell(error)}") from error


def _like(value: Any, array: Array) -> Array:
    """NumPy turns an array without axes into a scalar; this turns it back."""
    return value if isinstance(value, np.ndarray) else np.asarray(value).view(type(array))


def spell(error: BaseException) -> str:
    """ "ValueError: what it says", on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


# --- the oracles by name -------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """How to differentiate along a line, in which numbers, and how close a right gradient comes.

    ``gradients``, where there is one, gives all gradients at once, (inputs, wrt, cotangents) -> one dictionary
    per cotangent, and is used instead of lines.
    """

    name: str
    derivative: Derivative | None
    rtol: float
    atol: float
    lift: Callable[[Any], Any] = lambda value: value
    gradients: Callable[..., Sequence[Mapping[str, Array]]] | None = None


def torch_oracle(twin: Callable[..., Any]) -> Oracle:
    """All gradients by torch's autograd, from a function of tensors with fn's arguments and outputs."""

    def gradients(inputs: Mapping[str, Any], wrt: Sequence[str], cotangents: Any) -> list[dict[str, Array]]:
        import torch

        tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
        leaves = [tensors[name].requires_grad_() for name in wrt]
        out = twin(**tensors)
        outs = (
            list(out.values()) if isinstance(out, Mapping) else list(out) if isinstance(out, (tuple, list)) else [out]
        )
        gradients = []
        for cotangent in cotangents:
            seeds = [torch.tensor(g) for g in cotangent]
            grads = torch.autograd.grad(outs, leaves, seeds, retain_graph=True, allow_unused=True)
            pairs = zip(wrt, leaves, grads, strict=True)
            gradients.append({name: (torch.zeros_like(x) if g is None else g).detach().numpy() for name, x, g in pairs})
        return gradients

    return Oracle("torch", None, 1e-11, 1e-13, gradients=gradients)


ORACLES = {
    oracle.name: oracle
    for oracle in (
        # Largest error on right gradients as a share of these, over 5,300 random points of all kernels with inputs
        # of scales 1e-3, 1 and 1e3: complex 0.05; richardson 0.11 of its adaptive tolerance (checker.py); central
        # 0.36, and 1.0 at scale 1e3, where its fixed step is too long.
        Oracle("complex", complex_step, 1e-11, 1e-13),
        Oracle("exact", exact, 0.0, 0.0, to_fractions),
        Oracle("richardson", richardson, 1e-8, 1e-10),
        Oracle("central", central, 1e-6, 1e-8),
        Oracle("mpmath", in_mpmath, 1e-11, 1e-13, to_mpmath),
    )
}


# --- whole gradients of a scalar function --------------------------------------------------------


def gradient(derivative: Derivative, f: Callable[[Array], Array], x: Array) -> Array:
    """The gradient (shape of x) of a scalar f, one entry at a time."""
    result = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        v = np.zeros(x.shape)
        v[index] = 1
        line = Line(lambda inputs: [np.asarray(f(inputs["x"]))], {"x": x}, {"x": v}, [[np.ones(())]])
        result[index] = derivative(line)[0][0]
    return result


def complex_step_gradient(f: Callable[[Array], Array], x: Array) -> Array:
    """Gradient (shape of x) of a scalar f, which must carry complex128 through. Raises OracleError if not."""
    return gradient(complex_step, f, x)


def central_gradient(f: Callable[[Array], Array], x: Array) -> Array:
    """Gradient (shape of x) of a scalar f by central differences in float64."""
    return gradient(central, f, x)


def relative_error(value: Array, truth: Array) -> float:
    """max |value - truth| / max |truth|, over the whole array; 0 where both vanish."""
    scale = max(np.abs(value).max(initial=0.0), np.abs(truth).max(initial=0.0))
    return 0.0 if scale == 0 else float(np.abs(value - truth).max() / scale)
