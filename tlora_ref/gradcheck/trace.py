"""Which functions does a forward send its inputs through, and can the complex step follow all of them?

Equation    the complex step is exact where f is analytic, piece by piece, and silently wrong through abs, conj,
            real parts, casts, var and norm. One run on arrays that write down what is done to them (NEP 13 and
            NEP 18) tells the two apart without comparing a number: what differences can confirm to a few digits
            is then known to all of them.
Checked by  tests/test_gradcheck.py: every unsafe function is named, and what leaves the trace is noticed.

A Traced array holds its numbers in ``value``; its own memory is NaN. Whatever takes an array apart without
asking (float, a list, another library) reads the NaN and spoils the result, so nothing gets past.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pair import Array, leaves


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


ANALYTIC = _words(
    "add subtract multiply divide true_divide negative positive power float_power square sqrt reciprocal exp exp2",
    "expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh matmul",
    "matvec erf erfc erfcx dawsn wofz gamma loggamma rgamma psi",
    "sum mean average prod cumsum cumprod cumulative_sum diff trace diagonal diag diagflat tril triu dot inner outer",
    "tensordot einsum kron cross convolve multi_dot inv solve det matrix_power fft ifft fftn ifftn",
    "reshape ravel transpose permute_dims matrix_transpose swapaxes moveaxis rollaxis squeeze expand_dims",
    "atleast_1d atleast_2d atleast_3d broadcast_to broadcast_arrays concatenate stack vstack hstack dstack",
    "column_stack block split array_split hsplit vsplit dsplit tile repeat roll rot90 flip fliplr flipud pad insert",
    "delete append resize take take_along_axis put_along_axis choose select where compress extract copy copyto place",
    "putmask sliding_window_view as_strided meshgrid ix_ unstack",
)
"""Functions that are analytic, or only move numbers about."""

ABOUT = _words(
    "shape ndim size zeros_like ones_like empty_like full_like may_share_memory shares_memory result_type can_cast",
    "min_scalar_type common_type isfinite isnan isinf",
)
"""Functions that ask about an array and not about its numbers, as far as a derivative can tell."""

CHOICES = _words(
    "greater greater_equal less less_equal equal not_equal maximum minimum fmax fmin max min amax amin nanmax nanmin",
    "argmax argmin sort argsort partition argpartition lexsort searchsorted clip sort_complex logical_not",
    "logical_and logical_or any all nonzero count_nonzero argwhere flatnonzero isclose allclose array_equal",
    "unique digitize",
)
"""Functions that compare. NumPy compares complex numbers by their real parts first, so a choice is the right one
unless two real parts are equal: there the imaginary parts, which are a direction, would decide."""

IN_PLACE = frozenset({"copyto", "place", "putmask", "put_along_axis"})
"""Functions that write into their first argument."""

SPOKEN = {"absolute": "abs", "conjugate": "conj", "iscomplexobj": "a question whether the argument is complex"}


@dataclass(frozen=True)
class Trace:
    """What one run found. ``unsafe``: functions that the complex step cannot follow; ``tie``: two equal numbers
    were compared; ``lost``: the numbers left the trace, so that nothing is known."""

    unsafe: tuple[str, ...] = ()
    tie: bool = False
    lost: bool = False
    away: float = 0.0  # how far the traced values are from the others, as a share of the largest

    @property
    def clean(self) -> bool:
        """The complex step is exact here."""
        return not (self.unsafe or self.tie or self.lost)


_full, _asarray = np.full, np.asarray  # those of numpy, whatever stands in their place during a trace


class Traced(np.ndarray):
    """A complex array that writes down what is done with it."""

    value: Array
    log: _Log

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        log = _log_of((inputs, options))
        log.met(
            ufunc.__name__ if ufunc is not np.maximum or method != "reduce" else "maximum.reduce", (*inputs, options)
        )
        out = options.get("out", inputs[:1] if method == "at" else ())
        if not all(o is None or isinstance(o, Traced) for o in out):
            log.lost = True  # written into an array that keeps no record
        result = getattr(ufunc, method)(*_plain(inputs), **_plain(options))
        return out[0] if len(out) == 1 else _wrapped(result, log)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        log = _log_of((args, kwargs))
        log.met(func.__name__, (args, kwargs))
        written = [kwargs["out"]] if "out" in kwargs else args[:1] if func.__name__ in IN_PLACE else []
        if not all(isinstance(array, Traced) for array in written):
            log.lost = True
        log.inside += 1
        try:
            return _wrapped(func(*_plain(args), **_plain(kwargs)), log)
        finally:
            log.inside -= 1

    def __getitem__(self, index: Any) -> Any:
        return _wrapped(self.value[_plain(index)], self.log)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.value[_plain(index)] = _plain(value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    @property
    def T(self) -> Any:
        """The transpose."""
        return _wrapped(self.value.T, self.log)

    @property
    def mT(self) -> Any:
        """The transpose of the last two axes."""
        return _wrapped(self.value.mT, self.log)

    @property
    def real(self) -> Any:
        """Its real part, which the complex step cannot follow; shaken, to see whether the result depends on it."""
        real = self.value.real
        return self._noted("real", real * (1 + self.log.shake * self.log.rng.uniform(0.5, 1, real.shape)))

    @property
    def imag(self) -> Any:
        """Its imaginary part, likewise."""
        return self._noted("imag", self.value.imag)

    def astype(self, dtype: Any, *args: Any, **options: Any) -> Any:
        """A cast, safe among the complex types of full length."""
        if np.dtype(dtype) != np.complex128:
            self.log.met(f"astype({np.dtype(dtype)})", ())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            return _wrapped(_asarray(self.value.astype(dtype, *args, **options), dtype=complex), self.log)

    def _noted(self, name: str, value: Any) -> Any:
        self.log.met(name, ())
        return _wrapped(_asarray(value, dtype=complex), self.log)


def _method(name: str) -> Callable[..., Any]:
    def method(self: Traced, *args: Any, **options: Any) -> Any:
        self.log.met(name, (self, args, options))
        return _wrapped(getattr(self.value, name)(*_plain(args), **_plain(options)), self.log)

    return method


for _name in _words(
    "sum mean prod cumsum cumprod trace diagonal dot reshape ravel flatten transpose swapaxes squeeze repeat take copy",
    "max min argmax argmin argsort clip any all nonzero conj conjugate var std round compress choose",
):
    setattr(Traced, _name, _method(_name))


class _Log:
    def __init__(self, shake: float = 0.0) -> None:
        self.shake, self.rng = shake, np.random.default_rng(0)
        self.inside = 0  # how many functions of numpy are at work, on plain arrays
        self.unsafe: dict[str, None] = {}
        self.tie = self.lost = False

    def met(self, name: str, arguments: Any) -> None:
        """Write down that the function was met, with what it was given."""
        if name in CHOICES or name in LARGEST:
            self.tie = self.tie or _tied(name, arguments)
        elif name not in ANALYTIC and name not in ABOUT:
            self.unsafe[SPOKEN.get(name, name)] = None


def _numbers(arguments: Any) -> list[Array]:
    """The real parts of the arrays and numbers that are compared."""
    if isinstance(arguments, Traced):
        return [arguments.value.real]
    if isinstance(arguments, Mapping):
        return _numbers(tuple(arguments.values()))
    if isinstance(arguments, (tuple, list)):
        return [number for item in arguments for number in _numbers(item)]
    return [_asarray(arguments).real] if isinstance(arguments, (np.ndarray, float, complex, int)) else []


LARGEST = {"max": 1, "amax": 1, "argmax": 1, "maximum.reduce": 1, "min": -1, "amin": -1, "argmin": -1}
"""Functions that choose one number of many; 1 for the largest."""

ORDERED = {"sort", "argsort", "partition", "argpartition", "nanmax", "nanmin", "sort_complex", "unique"}
TRUTHS = {"any", "all", "nonzero", "count_nonzero", "argwhere", "flatnonzero"}


def _tied(name: str, arguments: Any) -> bool:
    """Are two of the numbers equal that are compared with each other?"""
    numbers = _numbers(arguments)
    if name in LARGEST:
        a = LARGEST[name] * numbers[0]
        axis = next(
            (options["axis"] for options in arguments if isinstance(options, Mapping) and "axis" in options), None
        )
        top = a.max(axis=axis, keepdims=True) if a.size else a
        return bool(((a == top) & np.isfinite(a)).sum() > top.size)
    if name in TRUTHS or name.startswith("logical"):
        return any(bool((a == 0).any()) for a in numbers)
    if len(numbers) >= 2 and name not in ORDERED:
        try:
            return any(bool((numbers[0] == other).any()) for other in numbers[1:])
        except ValueError:
            return True
    return bool(numbers) and np.unique(numbers[0]).size < numbers[0].size


def _log_of(arguments: Any) -> Any:
    if isinstance(arguments, Traced):
        return arguments.log
    items = arguments.values() if isinstance(arguments, Mapping) else arguments
    if isinstance(arguments, (tuple, list, Mapping)):
        for item in items:
            log = _log_of(item)
            if log is not None:
                return log
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Traced):
        return value.value
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value)) if not hasattr(value, "_fields") else value
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _wrapped(value: Any, log: _Log) -> Any:
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_wrapped(item, log) for item in value)
    if not (isinstance(value, (np.ndarray, np.generic)) and value.dtype == np.complex128):
        return value
    return traced(_asarray(value), log)


def traced(value: Array, log: _Log) -> Traced:
    """A Traced array of these numbers."""
    array = _full(np.shape(value), np.nan + 1j * np.nan).view(Traced)
    array.value, array.log = _asarray(value), log
    return array


MAKING = ("empty", "zeros", "ones", "full", "array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray")
"""Functions that make arrays, and that NumPy lets nobody replace from outside."""


@contextmanager
def _making(log: _Log) -> Iterator[None]:
    """Let numpy.empty and its like return Traced arrays where they make complex ones, so that a function may fill an
    array of its own piece by piece, or ask for one in another memory order."""
    before = {name: getattr(np, name) for name in MAKING}

    def instead(name: str) -> Callable[..., Any]:
        def function(*args: Any, **options: Any) -> Any:
            if log.inside:
                return before[name](*args, **options)
            made = before[name](*_plain(args), **options)
            if _log_of(args) is not None and made.dtype != np.complex128:
                log.met(f"{name}({made.dtype})", ())
            return _wrapped(made, log)

        return function

    try:
        for name in MAKING:
            setattr(np, name, instead(name))
        yield
    finally:
        for name in MAKING:
            setattr(np, name, before[name])


def trace(f: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any], v: Mapping[str, Array],
          out: Any, shake: float = 0.0) -> Trace:  # fmt: skip
    """Run ``f`` once, inputs -> outputs, on x + i h v. ``out`` is what it returns for x. Where a number got lost, or
    anything fails, the trace is lost. ``shake``: by how much real parts are changed on their way."""
    log, away = _Log(shake), 0.0
    started = {name: traced(inputs[name] + 1e-30j * direction, log) for name, direction in v.items()}
    try:
        with _making(log), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            outputs = leaves(f({**inputs, **started}))
            for ours, theirs in zip(outputs, leaves(out), strict=True):
                value = ours.value if isinstance(ours, Traced) else ours
                if value.shape != theirs.shape or np.isnan(value).any():
                    log.lost = True  # what read the memory of a Traced array has read NaN
                else:
                    size = np.abs(theirs).max(initial=0.0)
                    away = max(away, float(np.abs(value - theirs).max(initial=0.0) / (size or 1.0)))
    except Exception:
        log.lost = True
    return Trace(tuple(log.unsafe), log.tie, log.lost, away)
