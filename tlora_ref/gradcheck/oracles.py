"""Gradients from function values alone, to hold hand-written ones against.

complex step   df/dx_i = Im f(x + i h e_i) / h: no subtraction, so h can be tiny and the result is exact to
               rounding (Squire and Trapp, Using complex variables to estimate derivatives of real functions,
               SIAM Review 40(1), 1998).
central        df/dx_i = (f(x + h e_i) - f(x - h e_i)) / 2h: truncation h^2 against cancellation 1/h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..shapes import InputError

Array = np.ndarray


def complex_step_gradient(f: Callable[[Array], Array], x: Array, h: float = 1e-30) -> Array:
    """Gradient (shape of x) of a scalar f, which must carry complex128 through.

    Raises InputError when f returns a real number: somewhere it dropped the imaginary part.
    """
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        shifted = np.array(x, dtype=complex)
        shifted[index] += 1j * h
        value = np.asarray(f(shifted))
        if not np.iscomplexobj(value):
            raise InputError("the complex step needs a function that keeps complex128, and this one returned a real")
        gradient[index] = value.imag / h
    return gradient


def central_gradient(f: Callable[[Array], Array], x: Array, h: float = 1e-5) -> Array:
    """Gradient (shape of x) of a scalar f by central differences in float64."""
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        up, down = np.array(x), np.array(x)
        up[index] += h
        down[index] -= h
        gradient[index] = (f(up) - f(down)) / (2 * h)
    return gradient


def relative_error(value: Array, truth: Array) -> float:
    """max |value - truth| / max |truth|, over the whole array; 0 where both vanish."""
    scale = max(np.abs(value).max(initial=0.0), np.abs(truth).max(initial=0.0))
    return 0.0 if scale == 0 else float(np.abs(value - truth).max() / scale)
