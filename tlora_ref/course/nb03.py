"""The exercises of notebook 03: is a gradient right?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..by_hand.kernels import KERNELS
from ..verification.mutants import mutant
from ..verification.scenarios import scenarios
from .grader import Judged, Misconception, Values

Array = np.ndarray

# --- central(f, x, h) and complex_step(f, x): gradients of a scalar function, entry by entry ------


def _cubic(x: Array) -> Any:
    return (x * x * x).sum() - 2 * x.sum()


def _mixed(x: Array) -> Any:
    return np.exp(-0.3 * (x * x).sum()) * (1 + x.ravel()[0])


def _differences() -> list[tuple[str, tuple[Any, ...]]]:
    rng = np.random.default_rng(3)
    return [
        ("a cubic of 4 numbers", (_cubic, rng.standard_normal(4), 1e-2)),
        ("exp on a 2 x 3 matrix", (_mixed, rng.standard_normal((2, 3)), 1e-2)),
        ("one number", (_cubic, rng.standard_normal(1), 1e-3)),
    ]


def _steps(x: Array) -> Iterator[tuple[Any, Array]]:
    """(index, a one in that place)"""
    for index in np.ndindex(x.shape):
        e = np.zeros(x.shape)
        e[index] = 1
        yield index, e


def _by_entry(slope: Callable[[Any, Array, Array, Any], Any]) -> Callable[..., Array]:
    """A gradient from ``slope(f, x, e, h)``, the derivative along one entry."""

    def gradient(f: Any, x: Array, h: Any = None) -> Array:
        grad = np.zeros(x.shape)
        for index, e in _steps(x):
            grad[index] = slope(f, x, e, h)
        return grad

    return gradient


def _never_put_back(f: Any, x: Array, h: float) -> Array:
    grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        x[index] += h
        up = f(x)
        x[index] -= 2 * h
        grad[index] = (up - f(x)) / (2 * h)
    return grad


CENTRAL = Values(
    "03",
    "central",
    _by_entry(lambda f, x, e, h: (f(x + h * e) - f(x - h * e)) / (2 * h)),
    (
        Misconception(
            "That is the forward difference: its error halves with h, the central one's quarters. "
            "Where is your second point?",
            _by_entry(lambda f, x, e, h: (f(x + h * e) - f(x)) / h),
        ),
        Misconception(
            "That is the backward difference, which looks to one side only. What would make its error even in h?",
            _by_entry(lambda f, x, e, h: (f(x) - f(x - h * e)) / h),
        ),
        Misconception(
            "Your slopes are twice too large. How far apart are your two points?",
            _by_entry(lambda f, x, e, h: (f(x + h * e) - f(x - h * e)) / h),
        ),
        Misconception(
            "Your slopes have the wrong sign. Which of your two points is the one further up?",
            _by_entry(lambda f, x, e, h: (f(x - h * e) - f(x + h * e)) / (2 * h)),
        ),
        Misconception(
            "You move all entries of x at once, and get the slope along the diagonal. What must stand still for a "
            "partial derivative?",
            _by_entry(lambda f, x, e, h: (f(x + h) - f(x - h)) / (2 * h)),
        ),
        Misconception(
            "An entry of x that you moved stays moved while you look at the next one. Where do you put it back?",
            _never_put_back,
        ),
    ),
    points=_differences,
)

COMPLEX_STEP = Values(
    "03",
    "complex_step",
    _by_entry(lambda f, x, e, h: f(x + 1e-30j * e).imag / 1e-30),
    (
        Misconception(
            "You read the real part, which is f itself. In which part does f(x + ih) hold h f'(x)?",
            _by_entry(lambda f, x, e, h: f(x + 1e-30j * e).real / 1e-30),
        ),
        Misconception(
            "Your numbers are far below one part in a million of ours: the step is still in them. "
            "What did f'(x) come multiplied with?",
            _by_entry(lambda f, x, e, h: f(x + 1e-30j * e).imag),
        ),
        Misconception(
            "Your gradient is zero. x + 1e-30 is x again in float64: in which direction is so small a step not lost?",
            _by_entry(lambda f, x, e, h: (f(x + 1e-30 * e) - f(x)) / 1e-30),
        ),
        Misconception(
            "None of your slopes is negative. What does a modulus do to a sign?",
            _by_entry(lambda f, x, e, h: abs(f(x + 1e-30j * e) - f(x)) / 1e-30),
        ),
        Misconception(
            "You move all entries of x at once. Whose derivative is in the imaginary part then?",
            _by_entry(lambda f, x, e, h: f(x + 1e-30j).imag / 1e-30),
        ),
        Misconception(
            "Your error is about h^2: a step of 1e-3 is large. Nothing is subtracted here, so what keeps you from a "
            "smaller one?",
            _by_entry(lambda f, x, e, h: f(x + 1e-3j * e).imag / 1e-3),
        ),
        Misconception(
            "Your slopes have the wrong sign. Did you step along i or against it?",
            _by_entry(lambda f, x, e, h: f(x - 1e-30j * e).imag / 1e-30),
        ),
    ),
    points=lambda: [(label, (f, x)) for label, (f, x, _) in _differences()],
)

# --- check(fn, vjp, inputs, wrt, seed): a checker, graded on right and on wrong gradients ---------


@dataclass(frozen=True)
class _Case:
    """What a checker is asked about."""

    fn: Callable[..., Any]
    vjp: Callable[..., Any]
    inputs: Mapping[str, Array]
    wrt: tuple[str, ...]

    def accepted(self, checker: Any, seed: int) -> bool:
        inputs = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in self.inputs.items()}
        return bool(checker(self.fn, self.vjp, inputs, self.wrt, seed))


def _case(op: str, bug: str = "", change: Callable[[dict[str, Array]], dict[str, Array]] = dict) -> _Case:
    """A kernel at a generic point, right or with a seeded bug, its gradients changed further by ``change``."""
    args = dict(scenarios(KERNELS[op], 2))["different sizes"].args
    fwd, bwd = mutant(bug).pair() if bug else (KERNELS[op].fwd, KERNELS[op].bwd)
    names = {arg.base: arg.name for arg in KERNELS[op].args}

    def vjp(dout: Any, cache: Any) -> dict[str, Array]:
        return {names[key]: grad for key, grad in change(bwd(dout, cache)).items()}

    return _Case(fwd, vjp, args, tuple(names[key] for key in KERNELS[op].wrt))


def _shifted_softmax() -> _Case:
    """softmax(x + c): c shifts every entry, so dc is zero; computed, it is a few roundings."""
    row = KERNELS["softmax"]
    x = dict(scenarios(row, 2))["different sizes"].args["x_NV"]

    def fn(x: Array, c: Array) -> Any:
        return row.fwd(x + c)

    def vjp(dout: Array, cache: Any) -> dict[str, Array]:
        dx = row.bwd(dout, cache)["x"]
        return {"x": dx, "c": np.asarray(dx.sum())}

    return _Case(fn, vjp, {"x": x, "c": np.array(0.3)}, ("x", "c"))


def _wrong_at_the_end(grads: dict[str, Array]) -> dict[str, Array]:
    dB = grads["B"].copy()
    dB[-1, -1] *= 1.1
    return {**grads, "B": dB}


def _dloss_ignored(grads: dict[str, Array]) -> dict[str, Array]:
    return {name: np.zeros_like(grad) for name, grad in grads.items()}


ACCEPTS_ALL = "Your checker accepted gradients that are wrong in every entry of every array. Is its result ever False?"
ALARM = (
    "Your checker rejects a gradient that is right. How close can your oracle come, and is your tolerance above that?"
)
ZERO = (
    "Your checker rejects a right gradient that is zero but for rounding. What do you divide by when both are "
    "almost zero?"
)
ONE_ARRAY = "A wrong dalpha got past your checker. Do you look at every name in wrt?"
SIGN = "A dalpha of the wrong sign got past your checker. Where do you take absolute values?"
ONE_ENTRY = "A gradient with one wrong entry, the last one, got past your checker. Which entries does it look at?"
LOOSE = (
    "A gradient that is wrong by one part in ten thousand got past your checker. What is the largest error that "
    "your oracle itself makes?"
)
ONES = (
    "A softmax whose backward returns zeros got past your checker. Its rows sum to one: which cotangent makes its "
    "right gradient zero as well?"
)


def _judge_check(checker: Any) -> str:
    right = [
        _case("tlora_linear"),
        _case("layer_norm"),
        _case("softmax"),
        _case("tlora_linear", "control_tlora_dB_einsum"),
    ]
    nonsense = _case("tlora_linear", change=lambda grads: {name: grad + 1 for name, grad in grads.items()})
    bugs = [
        (nonsense, ACCEPTS_ALL),
        (_case("tlora_linear", "tlora_dalpha_with_alpha"), ONE_ARRAY),
        (_case("tlora_linear", "tlora_dalpha_sign"), SIGN),
        (_case("tlora_linear", change=_wrong_at_the_end), ONE_ENTRY),
        (_case("tlora_linear", "tlora_dB_relative_1e-4"), LOOSE),
        (_case("softmax", change=_dloss_ignored), ONES),
    ]
    for seed in range(3):
        if not all(case.accepted(checker, seed) for case in right):
            return ALARM
        if not _shifted_softmax().accepted(checker, seed):
            return ZERO
        for case, message in bugs:
            if case.accepted(checker, seed):
                return message
    return ""


def _checker(
    cotangent: Callable[[Any, Any], Array] = lambda rng, shape: rng.standard_normal(shape),
    direction: Callable[[Any, Any], Array] = lambda rng, shape: rng.standard_normal(shape),
    names: Callable[[Any], Any] = tuple,
    tolerance: float = 1e-6,
    absolute: bool = False,
    floor: float = 1e-8,
) -> Callable[..., bool]:
    """Central differences along one direction per array, and the ways to get it wrong."""

    def check(fn: Any, vjp: Any, inputs: Any, wrt: Any, seed: int) -> bool:
        rng, h = np.random.default_rng(seed), 1e-5
        out, cache = fn(**inputs)
        dout = cotangent(rng, np.shape(out))
        grads = vjp(dout, cache)
        for name in names(wrt):
            v = direction(rng, inputs[name].shape)
            up, down = (fn(**{**inputs, name: inputs[name] + s * h * v})[0] for s in (1, -1))
            truth, hand = np.sum(dout * (up - down)) / (2 * h), np.sum(grads[name] * v)
            if absolute:
                truth, hand = abs(truth), abs(hand)
            if abs(hand - truth) > tolerance * max(abs(hand), abs(truth)) + floor:
                return False
        return True

    return check


def _first_entry(rng: Any, shape: tuple[int, ...]) -> Array:
    v = np.zeros(shape)
    v[(0,) * len(shape)] = 1
    return v


CHECK = Judged(
    "03",
    "check",
    _checker(),
    (
        Misconception(ACCEPTS_ALL, lambda fn, vjp, inputs, wrt, seed: True),
        Misconception(ALARM, _checker(tolerance=1e-14, floor=0.0)),
        Misconception(ZERO, _checker(floor=0.0)),
        Misconception(ONE_ARRAY, _checker(names=lambda wrt: wrt[:1])),
        Misconception(SIGN, _checker(absolute=True)),
        Misconception(ONE_ENTRY, _checker(direction=_first_entry)),
        Misconception(LOOSE, _checker(tolerance=1e-2)),
        Misconception(ONES, _checker(cotangent=lambda rng, shape: np.ones(shape))),
    ),
    rule=_judge_check,
    passes="right gradients accepted, one of them zero, and six wrong ones rejected, for three seeds each",
)

EXERCISES = (CENTRAL, COMPLEX_STEP, CHECK)
