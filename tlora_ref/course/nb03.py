"""The exercises of notebook 03: is a gradient right?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..by_hand.kernels import KERNELS
from ..verification.mutants import BUGS, Mutant, mutant
from ..verification.scenarios import scenarios
from .answers import NotIt, kind
from .grader import Judged, Misconception, Values
from .watch import Watch, copied, same

Array = np.ndarray

# --- central(f, x, h) and complex_step(f, x): gradients of a scalar function, entry by entry ------


def _cubic(x: Array) -> Any:
    return (x * x * x).sum() - 2 * x.sum()


def _mixed(x: Array) -> Any:
    return np.exp(-0.3 * (x * x).sum()) * (1 + np.ravel(x)[0])


def _differences() -> list[tuple[str, tuple[Any, ...]]]:
    rng = np.random.default_rng(3)
    return [
        ("a cubic of 4 numbers", (_cubic, rng.standard_normal(4), 1e-2)),
        ("exp on a 2 x 3 matrix", (_mixed, rng.standard_normal((2, 3)), 1e-2)),
        ("one number", (_cubic, rng.standard_normal(1), 1e-3)),
        ("shape ()", (_mixed, np.array(0.7), 1e-2)),
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


DIFFERENCES = (
    "Your numbers are close, but no complex number ever went into f: these are differences. What is lost when two "
    "nearly equal numbers are subtracted, and where does the complex step subtract?"
)
LARGE_STEP = (
    "Your error is about h^2, and that can be seen: nothing is subtracted here, so what keeps you from a step that is "
    "far smaller?"
)


def _goes_complex(answer: Watch) -> str:
    """Whether f is asked at complex points, and the step is small enough for its square to be lost."""
    asked = []

    def f(x: Array) -> Any:
        asked.append(np.iscomplexobj(x))
        return np.exp(2 * x).sum()

    x = np.array([0.3, -1.2, 0.8])
    gradient = np.asarray(answer(f, x.copy()))
    if not any(asked):
        return DIFFERENCES
    return "" if np.allclose(gradient, 2 * np.exp(2 * x), rtol=1e-13, atol=0) else LARGE_STEP


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
        Misconception(LARGE_STEP, _by_entry(lambda f, x, e, h: f(x + 1e-5j * e).imag / 1e-5)),
        Misconception(DIFFERENCES, _by_entry(lambda f, x, e, h: (f(x + 1e-5 * e) - f(x - 1e-5 * e)) / 2e-5)),
        Misconception(
            "Your slopes have the wrong sign. Did you step along i or against it?",
            _by_entry(lambda f, x, e, h: f(x - 1e-30j * e).imag / 1e-30),
        ),
    ),
    points=lambda: [(label, (f, x)) for label, (f, x, _) in _differences()],
    watched=_goes_complex,
)

# --- check(fn, vjp, inputs, wrt, seed): a checker, graded as the project grades checkers ----------


@dataclass(frozen=True)
class _Case:
    """What a checker is asked about: a gradient that is right, or wrong in ``array``.

    ``missed``: the message for a checker that accepts it though it is wrong.
    """

    fn: Callable[..., Any]
    vjp: Callable[..., Any]
    inputs: Mapping[str, Array]
    wrt: tuple[str, ...]
    array: str = ""
    missed: str = ""

    def accepted(self, checker: Any, seed: int, asked: list[Array]) -> bool:
        """Whether the checker accepts; the cotangents that it asks about are added to ``asked``."""

        def vjp(dout: Any, cache: Any) -> dict[str, Array]:
            asked.append(np.array(dout, dtype=float))
            return self.vjp(dout, cache)

        try:
            accepted = checker(self.fn, vjp, copied(self.inputs), self.wrt, seed)
        except NotIt:  # to stop is no rejection
            if self.missed == SHAPE:
                raise NotIt(SHAPE) from None
            raise
        if not isinstance(accepted, (bool, np.bool_)):
            raise NotIt(f"It returned {kind(accepted)}, expected True or False.")
        return bool(accepted)


Change = Callable[[dict[str, Array]], dict[str, Array]]


def _case(op: str, bug: str = "", change: Change = dict, missed: str = "", array: str = "", size: float = 1.0) -> _Case:
    """A kernel at a generic point, right or with a seeded bug, its gradients changed further by ``change``.

    ``size`` multiplies the function, and with it its gradients.
    """
    args = dict(scenarios(KERNELS[op], 2))["different sizes"].args
    fwd, bwd = mutant(bug).pair() if bug else (KERNELS[op].fwd, KERNELS[op].bwd)
    names = {arg.base: arg.name for arg in KERNELS[op].args}

    def fn(**inputs: Any) -> Any:
        out, cache = fwd(**inputs)
        return size * out, cache

    def vjp(dout: Any, cache: Any) -> dict[str, Array]:
        grads = bwd(size * np.asarray(dout), cache)
        return {names[key]: grad for key, grad in change(grads).items()}

    return _Case(fn, vjp, args, tuple(names[key] for key in KERNELS[op].wrt), names.get(array, ""), missed)


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


def _entry(name: str, index: tuple[int, ...], factor: float) -> Change:
    """One entry of one gradient multiplied."""

    def change(grads: dict[str, Array]) -> dict[str, Array]:
        changed = grads[name].copy()
        changed[index] *= factor
        return {**grads, name: changed}

    return change


def _every(name: str, f: Callable[[Array], Any]) -> Change:
    """One gradient put through f."""
    return lambda grads: {**grads, name: np.asarray(f(grads[name]))}


ACCEPTS_ALL = "Your checker accepted gradients that are wrong in every entry of every array. Is its result ever False?"
REJECTS_ALL = (
    "Your checker rejects every gradient, the right ones too, and never even asks for one. Is its result ever True?"
)
ALARM = (
    "Your checker rejects a gradient that is right. How close can your oracle come, and is your tolerance above that?"
)
LARGE = (
    "Your checker rejects a right gradient because it is large, a million times what you tried. What is an error of "
    "one part in a million million there, as a number?"
)
ZERO = (
    "Your checker rejects a right gradient that is zero but for rounding. What do you divide by when both are "
    "almost zero?"
)
ONE_ARRAY = "Nothing that is wrong with d{array} was ever found by your checker. Do you look at every name in wrt?"
SHAPE = (
    "Your checker does not reject a gradient of the wrong shape: it stops there, or lets NumPy repeat what fits. Which "
    "shape has a gradient, and where do you look at it?"
)
NAN = "A gradient with a NaN in it got past your checker. Is NaN > tolerance true, or is NaN <= tolerance?"
SIGN = "A gradient of the wrong sign got past your checker. Where do you take absolute values, or squares?"
ORDER = (
    "A gradient with the right numbers in the wrong places got past your checker. What does a norm, or a sorted list, "
    "not know about an array?"
)
ONE_ENTRY = "A gradient with one wrong entry got past your checker. Which entries does it look at?"
SMALL = (
    "A gradient that is altogether wrong got past your checker, because it is small, 10^-12 of what you tried. Is your "
    "error measured by a fixed number, or by what the function is like?"
)
LOOSE = (
    "A gradient that is wrong by one part in ten thousand got past your checker. What is the largest error that "
    "your oracle itself makes?"
)
ONES = (
    "A wrong gradient got past your checker, which asks with the same number for every output. The rows of a softmax "
    "sum to one: which cotangent makes its right gradient zero, and many a wrong one as well?"
)
MISSED = "A wrong d{array} got past your checker: {says} Does your checker ask about all there is?"
UNSEEDED = "With the same seed your checker asks another question each time. Where do its random numbers come from?"
ONE_QUESTION = (
    "Your checker asks the same question for every seed, and whatever that one hides stays hidden. What is the seed "
    "for?"
)


def _right() -> list[_Case]:
    controls = ("dB_einsum", "dx_through_delta_w", "dalpha_trace")
    return [
        _case("tlora_linear"),
        _case("layer_norm"),
        _case("softmax"),
        *(_case("tlora_linear", f"control_tlora_{name}") for name in controls),
        _case("layer_norm", "control_layer_norm_centred_xhat"),
        _case("softmax", "control_softmax_shifted_cotangent"),
    ]


UNSEEN = {"tlora_dB_one_entry_1e-6", "tlora_float32_cache", "tlora_stale_accumulator", "tlora_dx_B_in_memory_order",
          "tlora_dB_squeezed", "layer_norm_without_eps"}  # fmt: skip
"""Bugs that are not asked about: too small for differences, or to be seen in a second call, another memory layout or
at other sizes only."""

SHAPES = {"tlora_dB_transposed", "tlora_dalpha_one_axis", "layer_norm_dgamma_wrong_axis"}


@cache
def _wrong() -> tuple[_Case, ...]:
    """Gradients to be rejected; a checker that misses several is told about the first."""
    layer = {"array": "B", "op": "tlora_linear"}
    named = [
        _case(**layer, change=_every("B", lambda g: g.T), missed=SHAPE),
        _case("tlora_linear", change=_every("alpha", lambda g: np.full(3, g)), missed=SHAPE, array="alpha"),
        _case(**layer, change=_every("B", np.negative), missed=SIGN),
        _case("tlora_linear", change=_every("x", np.negative), missed=SIGN, array="x"),
        _case("tlora_linear", "tlora_dalpha_sign", missed=SIGN, array="alpha"),
        _case(**layer, change=_every("B", lambda g: g[::-1, ::-1]), missed=ORDER),
        _case("tlora_linear", change=_every("x", lambda g: np.roll(g, 1, axis=0)), missed=ORDER, array="x"),
        _case(**layer, bug="tlora_dB_relative_1e-4", missed=LOOSE),
        _case(**layer, change=_entry("B", (-1, -1), 1.1), missed=ONE_ENTRY),
        _case(**layer, change=_entry("B", (0, 0), 1.1), missed=ONE_ENTRY),
        _case("tlora_linear", change=_entry("x", (2, 3), 1.1), missed=ONE_ENTRY, array="x"),
        _case(**layer, change=_entry("B", (0, 1), np.nan), missed=NAN),
        _case(**layer, change=_every("B", np.negative), missed=SMALL, size=1e-12),
        _case("tlora_linear", change=_every("alpha", lambda g: 2 * g), missed=SMALL, array="alpha", size=1e-12),
        _case("softmax", change=_every("x", np.zeros_like), missed=ONES, array="x"),
    ]
    seeded = [
        _case(m.op, m.name, array=_wrong_array(m), missed=MISSED.format(array=_wrong_array(m), says=m.says))
        for m in BUGS
        if m.op in ("tlora_linear", "layer_norm", "softmax") and m.name not in UNSEEN | SHAPES
    ]
    return (*named, *filter(_runs, seeded))


def _runs(case: _Case) -> bool:
    """Whether the wrong backward gets to its end at this point, where no two sizes are equal."""
    out, kept = case.fn(**case.inputs)
    try:
        case.vjp(np.ones_like(out), kept)
    except ValueError:
        return False
    return True


def _wrong_array(m: Mutant) -> str:
    """The base name of the gradient that the bug is in."""
    name = m.name.removeprefix("tlora_").removeprefix("layer_norm_")
    return next((key for key in ("gamma", "beta", "alpha", "B") if name.startswith(f"d{key}")), "x")


def _judge_check(checker: Any) -> str:
    nonsense = _case("tlora_linear", change=lambda grads: {name: grad + 1 for name, grad in grads.items()})
    first: list[list[Array]] = []
    for seed in range(3):
        asked: list[Array] = []
        accepted = [case.accepted(checker, seed, asked) for case in _right()]
        if not asked and not any(accepted):
            return REJECTS_ALL
        asked.clear()
        if not all(accepted):
            return ALARM
        if not _shifted_softmax().accepted(checker, seed, []):
            return ZERO
        if not _case("tlora_linear", size=1e6).accepted(checker, seed, asked):
            return LARGE
        if not _case("tlora_linear", size=1e-12).accepted(checker, seed, []):
            return ALARM
        if nonsense.accepted(checker, seed, []):
            return ACCEPTS_ALL
        again: list[Array] = []
        _case("tlora_linear", size=1e6).accepted(checker, seed, again)
        if not same(asked, again):
            return UNSEEDED
        first.append(asked)
        message = _missed([case for case in _wrong() if case.accepted(checker, seed, [])], asked)
        if message:
            return message
    # one-hot cotangents, one after the other, are a full answer without a seed; one fixed question is not
    return ONE_QUESTION if len(first[0]) == 1 and all(same(first[0], other) for other in first[1:]) else ""


def _missed(accepted: list[_Case], asked: list[Array]) -> str:
    """The message for the wrong gradients that were accepted, "" if none was."""
    if not accepted:
        return ""
    if all(np.ptp(dout) == 0 for dout in asked):
        return ONES
    for array in dict.fromkeys(case.array for case in accepted):
        if all(case in accepted for case in _wrong() if case.array == array):
            return ONE_ARRAY.format(array=array.partition("_")[0])
    return accepted[0].missed


def _checker(
    cotangent: Callable[[Any, Any], Array] = lambda rng, shape: rng.standard_normal(shape),
    direction: Callable[[Any, Any], Array] = lambda rng, shape: rng.standard_normal(shape),
    names: Callable[[Any], Any] = tuple,
    tolerance: float = 1e-6,
    size: Callable[[Any], Any] = float,
    floor: float = 1e-10,
    fixed: float = 0.0,
    shapes: bool = True,
    differs: Callable[[Any, Any], Any] = lambda error, bound: not error <= bound,
    draw: Callable[[int], Any] = np.random.default_rng,
) -> Callable[..., bool]:
    """Central differences along one direction per array, and the ways to get it wrong."""

    def check(fn: Any, vjp: Any, inputs: Any, wrt: Any, seed: int) -> bool:
        rng, h = draw(seed), 1e-5
        out, cache = fn(**inputs)
        dout = cotangent(rng, np.shape(out))
        grads = vjp(dout, cache)
        for name in names(wrt):
            if shapes and np.shape(grads[name]) != inputs[name].shape:
                return False
            v = direction(rng, inputs[name].shape)
            up, down = (fn(**{**inputs, name: inputs[name] + s * h * v})[0] for s in (1, -1))
            truth, hand = size(np.sum(dout * (up - down)) / (2 * h)), size(np.sum(grads[name] * v))
            if differs(
                abs(hand - truth),
                tolerance * max(abs(hand), abs(truth)) + floor * np.sum(np.abs(dout * out)) + fixed,
            ):
                return False
        return True

    return check


def _by_array(compare: Callable[[Array, Array], Any]) -> Callable[..., bool]:
    """A checker that has the whole derivative by differences, and compares it somehow."""

    def check(fn: Any, vjp: Any, inputs: Any, wrt: Any, seed: int) -> bool:
        out, cache = fn(**inputs)
        dout = np.random.default_rng(seed).standard_normal(np.shape(out))
        grads = vjp(dout, cache)
        for name in wrt:
            if np.shape(grads[name]) != inputs[name].shape:
                return False
            slopes = np.zeros(inputs[name].shape)
            for index, e in _steps(slopes):
                up, down = (fn(**{**inputs, name: inputs[name] + s * 1e-5 * e})[0] for s in (1, -1))
                slopes[index] = np.sum(dout * (up - down)) / 2e-5
            noise = 1e-10 * np.sum(np.abs(dout * out))
            error, size = compare(grads[name], slopes), np.max(np.abs(slopes), initial=0.0)
            if not np.all(np.abs(error) <= 1e-6 * size + noise):
                return False
        return True

    return check


def _first_entry(rng: Any, shape: tuple[int, ...]) -> Array:
    v = np.zeros(shape)
    v[(0,) * len(shape)] = 1
    return v


def _sorted(a: Array) -> Array:
    return np.sort(a, axis=None)


CHECK = Judged(
    "03",
    "check",
    _checker(),
    (
        Misconception(ACCEPTS_ALL, lambda fn, vjp, inputs, wrt, seed: True),
        Misconception(REJECTS_ALL, lambda fn, vjp, inputs, wrt, seed: False),
        Misconception(ALARM, _checker(tolerance=1e-14, floor=0.0)),
        Misconception(ZERO, _checker(floor=0.0)),
        Misconception(LARGE, _checker(tolerance=0.0, floor=0.0, fixed=1e-6)),
        Misconception(ONE_ARRAY.format(array="B"), _checker(names=lambda wrt: wrt[:1])),
        Misconception(SHAPE, _checker(shapes=False)),
        Misconception(NAN, _checker(differs=lambda error, bound: error > bound)),
        Misconception(SIGN, _checker(size=abs)),
        Misconception(ORDER, _by_array(lambda hand, slopes: _sorted(hand) - _sorted(slopes))),
        Misconception(ONE_ENTRY, _checker(direction=_first_entry)),
        Misconception(SMALL, _checker(fixed=1e-7)),
        Misconception(LOOSE, _checker(tolerance=1e-2)),
        Misconception(ONES, _checker(cotangent=lambda rng, shape: np.ones(shape))),
        Misconception(UNSEEDED, _checker(draw=lambda seed: np.random.default_rng())),
        Misconception(ONE_QUESTION, _checker(draw=lambda seed: np.random.default_rng(0))),
    ),
    rule=_judge_check,
    passes="right gradients accepted, small, large and zero ones too, and every wrong one rejected, for three seeds",
)

EXERCISES = (CENTRAL, COMPLEX_STEP, CHECK)
