"""Numbers other than floats: arrays of fractions, and arrays of 50-digit numbers that kernels run on unchanged.

Fractions need nothing more than an object array. For mpmath, NumPy hands every ufunc to ``__array_ufunc__``
(NEP 13) and every other function to ``__array_function__`` (NEP 18), so exp, sqrt and SciPy's erfc become
mpmath's where they stand.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

DIGITS = 50

MPMATH = {name: name for name in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "tanh", "sinh", "cosh",
                                  "erf", "erfc", "isfinite", "isnan", "isinf")} | {"arctan": "atan"}  # fmt: skip
"""ufunc -> mpmath's function of the same meaning."""


class MpArray(np.ndarray):
    """An object array of mpmath numbers on which NumPy and SciPy compute in mpmath."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:
            options["out"] = tuple(map(_plain, options["out"]))
        if method == "__call__" and ufunc.__name__ in MPMATH:
            return _wrapped(_elementwise(ufunc.__name__)(*map(_plain, inputs)))
        return _wrapped(getattr(ufunc, method)(*map(_plain, inputs), **options))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _wrapped(super().__array_function__(func, types, args, kwargs))


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, MpArray) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_wrapped, value))
    if hasattr(value, "_mpf_"):  # a sum over all axes, say: as a bare number it would lose the functions above
        value = np.asarray(value, dtype=object)
    return value.view(MpArray) if isinstance(value, np.ndarray) and value.dtype == object else value


def _elementwise(name: str) -> Any:
    import mpmath

    function = np.frompyfunc(getattr(mpmath, MPMATH[name]), 1, 1)
    return (lambda x: np.asarray(function(x), dtype=bool)) if name.startswith("is") else function


def to_mpmath(value: Any) -> Any:
    """A floating-point array as an MpArray of the same values; anything else as it is."""
    if not _is_real(value):
        return value
    import mpmath

    return _wrapped(np.asarray(np.frompyfunc(mpmath.mpf, 1, 1)(np.asarray(value).astype(object)), dtype=object))


def to_fractions(value: Any) -> Any:
    """A floating-point array or number as an object array of the same values; anything else as it is."""
    if not _is_real(value):
        return value
    return np.asarray(np.frompyfunc(Fraction, 1, 1)(np.asarray(value).astype(object)), dtype=object)


def _is_real(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, float)) and np.asarray(value).dtype.kind in "fO"
