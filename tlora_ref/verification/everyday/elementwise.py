"""Functions of single entries."""

from __future__ import annotations

import numpy as np
from scipy.special import erf, expit, gammaln, psi

from .subject import normal, positive, subject

X, P = normal(4, 3), positive(4, 3)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _phi(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _cdf(x):
    return (1 + erf(x / np.sqrt(2))) / 2


def _huber(x):
    return np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5)


def _softplus(x):
    return np.logaddexp(0.0, x)


def _silu_bend(d, x):
    s = _sigmoid(x)
    return {"x": d * (s + x * s * (1 - s)) * np.where(x < -2.5, 1.001, 1.0)}


SUBJECTS = (
    subject(
        "square", {"x": X}, lambda x: x**2, lambda d, x: {"x": 2 * d * x}, without_the_two=lambda d, x: {"x": d * x}
    ),
    subject(
        "cube",
        {"x": X},
        lambda x: x**3,
        lambda d, x: {"x": 3 * d * x * x},
        a_sign_lost=lambda d, x: {"x": 3 * d * x * np.abs(x)},
    ),
    subject(
        "exp",
        {"x": X},
        np.exp,
        lambda d, x: {"x": d * np.exp(x)},
        in_float32=lambda d, x: {"x": d * np.exp(x.astype(np.float32)).astype(float)},
    ),
    subject("log", {"x": P}, np.log, lambda d, x: {"x": d / x}, with_an_eps=lambda d, x: {"x": d / (x + 1e-8)}),
    subject(
        "sqrt",
        {"x": P},
        np.sqrt,
        lambda d, x: {"x": d / (2 * np.sqrt(x))},
        without_the_half=lambda d, x: {"x": d / np.sqrt(x)},
    ),
    subject(
        "reciprocal", {"x": P}, lambda x: 1 / x, lambda d, x: {"x": -d / (x * x)}, sign=lambda d, x: {"x": d / (x * x)}
    ),
    subject(
        "power",
        {"x": P, "p": positive(4, 3, seed=1)},
        lambda x, p: x**p,
        lambda d, x, p: {"x": d * p * x ** (p - 1), "p": d * x**p * np.log(x)},
        log_of_the_exponent=lambda d, x, p: {"x": d * p * x ** (p - 1), "p": d * x**p * np.log(p)},
    ),
    subject(
        "sine",
        {"x": X},
        np.sin,
        lambda d, x: {"x": d * np.cos(x)},
        a_taylor_series=lambda d, x: {"x": d * (1 - x**2 / 2 + x**4 / 24)},
    ),
    subject(
        "tanh",
        {"x": X},
        np.tanh,
        lambda d, x: {"x": d * (1 - np.tanh(x) ** 2)},
        square_left_out=lambda d, x: {"x": d * (1 - np.tanh(x))},
    ),
    subject(
        "sigmoid",
        {"x": X},
        _sigmoid,
        lambda d, x: {"x": d * _sigmoid(x) * (1 - _sigmoid(x))},
        of_the_output_of_the_output=lambda d, x: {"x": d * _sigmoid(_sigmoid(x)) * (1 - _sigmoid(_sigmoid(x)))},
    ),
    subject(
        "expit of scipy",
        {"x": X},
        expit,
        lambda d, x: {"x": d * expit(x) * expit(-x)},
        one_factor=lambda d, x: {"x": d * expit(x)},
    ),
    subject(
        "softplus",
        {"x": X},
        _softplus,
        lambda d, x: {"x": d * expit(x)},
        one_above_twenty_and_above_two=lambda d, x: {"x": d * np.where(x > 2, 1.0, expit(x))},
    ),
    subject(
        "silu",
        {"x": X},
        lambda x: x * _sigmoid(x),
        lambda d, x: {"x": d * (_sigmoid(x) + x * _sigmoid(x) * (1 - _sigmoid(x)))},
        wrong_below_minus_two_and_a_half=_silu_bend,
    ),
    subject(
        "gelu",
        {"x": X},
        lambda x: x * _cdf(x),
        lambda d, x: {"x": d * (_cdf(x) + x * _phi(x))},
        of_the_tanh_form=lambda d, x: {"x": d * (_cdf(x) + x * _phi(x) * (1 - 1e-4 * x))},
    ),
    subject(
        "relu",
        {"x": X},
        lambda x: np.maximum(x, 0),
        lambda d, x: {"x": d * (x > 0)},
        of_the_cotangent=lambda d, x: {"x": d * (d > 0)},
    ),
    subject(
        "leaky relu",
        {"x": X},
        lambda x: np.where(x > 0, x, 0.01 * x),
        lambda d, x: {"x": d * np.where(x > 0, 1, 0.01)},
        slope_forgotten=lambda d, x: {"x": d * (x > 0)},
    ),
    subject("absolute value", {"x": X}, np.abs, lambda d, x: {"x": d * np.sign(x)}, zero=lambda d, x: {"x": 0 * d}),
    subject(
        "a small absolute value",
        {"x": X},
        lambda x: x**2 + 1e-8 * np.abs(x),
        lambda d, x: {"x": d * (2 * x + 1e-8 * np.sign(x))},
        left_out=lambda d, x: {"x": 2 * d * x},
    ),
    subject(
        "clip",
        {"x": X},
        lambda x: np.clip(x, -1, 1),
        lambda d, x: {"x": d * ((x > -1) & (x < 1))},
        upper_bound_only=lambda d, x: {"x": d * (x < 1)},
    ),
    subject(
        "huber", {"x": 2 * X}, _huber, lambda d, x: {"x": d * np.clip(x, -1, 1)}, not_clipped=lambda d, x: {"x": d * x}
    ),
    subject(
        "hypot",
        {"x": X, "y": normal(4, 3, seed=1)},
        np.hypot,
        lambda d, x, y: {"x": d * x / np.hypot(x, y), "y": d * y / np.hypot(x, y)},
        swapped=lambda d, x, y: {"x": d * y / np.hypot(x, y), "y": d * x / np.hypot(x, y)},
    ),
    subject(
        "angle",
        {"x": X, "y": normal(4, 3, seed=1)},
        np.arctan2,
        lambda d, x, y: {"x": d * y / (x**2 + y**2), "y": -d * x / (x**2 + y**2)},
        one_sign=lambda d, x, y: {"x": d * y / (x**2 + y**2), "y": d * x / (x**2 + y**2)},
    ),
    subject(
        "log gamma",
        {"x": P},
        gammaln,
        lambda d, x: {"x": d * psi(x)},
        an_asymptotic_form=lambda d, x: {"x": d * (np.log(x) - 0.5 / x)},
    ),
    subject(
        "product",
        {"x": X, "y": normal(4, 3, seed=1)},
        lambda x, y: x * y,
        lambda d, x, y: {"x": d * y, "y": d * x},
        of_itself=lambda d, x, y: {"x": d * x, "y": d * y},
    ),
    subject(
        "quotient",
        {"x": X, "y": P},
        lambda x, y: x / y,
        lambda d, x, y: {"x": d / y, "y": -d * x / y**2},
        divisor_not_squared=lambda d, x, y: {"x": d / y, "y": -d * x / y},
    ),
)
