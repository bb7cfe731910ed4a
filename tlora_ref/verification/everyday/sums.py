"""Sums, means, norms, and what is normalised by them."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax

from .subject import normal, positive, subject

X = normal(5, 3)


def _row(a):
    return a.sum(axis=-1, keepdims=True)


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / _row(e)


def _softmax_back(d, x):
    p = _softmax(x)
    return {"x": p * (d - _row(p * d))}


def _logsumexp(x):
    top = x.max(axis=-1)
    return top + np.log(np.exp(x - top[..., None]).sum(axis=-1))


def _cross_entropy(x, labels):
    return np.mean(_logsumexp(x) - np.take_along_axis(x, labels[:, None], 1)[:, 0])


def _cross_entropy_back(d, x, labels):
    return {"x": d * (_softmax(x) - np.eye(x.shape[1])[labels]) / len(x)}


def _batch_norm(x, gamma, beta):
    centred = x - x.mean(axis=0)
    return gamma * centred / np.sqrt((centred**2).mean(axis=0) + 1e-5) + beta


def _batch_norm_back(d, x, gamma, beta, axis=0, terms=2):
    centred = x - x.mean(axis=axis, keepdims=True)
    sigma = np.sqrt((centred**2).mean(axis=axis, keepdims=True) + 1e-5)
    xhat, dxhat = centred / sigma, d * gamma
    dx = dxhat - dxhat.mean(axis=axis, keepdims=True)
    if terms == 2:
        dx = dx - xhat * (dxhat * xhat).mean(axis=axis, keepdims=True)
    return {"x": dx / sigma, "gamma": (d * xhat).sum(axis=0), "beta": d.sum(axis=0)}


def _layer_norm(x, gamma, beta):
    centred = x - x.mean(axis=-1, keepdims=True)
    return gamma * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) + beta


def _layer_norm_back(d, x, gamma, beta):
    return _batch_norm_back(d, x, gamma, beta, axis=-1)


def _layer_norm_no_gamma(d, x, gamma, beta):
    return {**_layer_norm_back(d, x, gamma, beta), "x": _batch_norm_back(d, x, 1 + 0 * gamma, beta, axis=-1)["x"]}


def _rms(x):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)


def _rms_back(d, x, n=None):
    r = np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
    return {"x": d / r - x * _row(d * x) / ((n or x.shape[-1]) * r**3)}


def _norm_back(d, x):
    return {"x": d * x / max(np.linalg.norm(x), 1e-300)}


def _cosine(x, y):
    return (x * y).sum(axis=-1) / np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))


def _cosine_back(d, x, y, whole=True):
    nx, ny = np.sqrt(_row(x * x)), np.sqrt(_row(y * y))
    c, d = _row(x * y) / (nx * ny), d[:, None]
    return {"x": d * (y / (nx * ny) - whole * c * x / nx**2), "y": d * (x / (nx * ny) - whole * c * y / ny**2)}


NORM = {"x": X, "gamma": 1 + 0.3 * normal(3), "beta": normal(3, seed=1)}
LABELS = np.array([0, 2, 1, 1, 0])

SUBJECTS = (
    subject(
        "sum over rows",
        {"x": X},
        lambda x: x.sum(axis=0),
        lambda d, x: {"x": np.tile(d, (len(x), 1))},
        mean_for_sum=lambda d, x: {"x": np.tile(d, (len(x), 1)) / len(x)},
    ),
    subject(
        "mean",
        {"x": X},
        lambda x: x.mean(),
        lambda d, x: {"x": np.full(x.shape, d / x.size)},
        rows_for_entries=lambda d, x: {"x": np.full(x.shape, d / len(x))},
    ),
    subject(
        "variance",
        {"x": X},
        lambda x: np.var(x, axis=0),
        lambda d, x: {"x": 2 * d * (x - x.mean(axis=0)) / len(x)},
        unbiased=lambda d, x: {"x": 2 * d * (x - x.mean(axis=0)) / max(len(x) - 1, 1)},
    ),
    subject(
        "standard deviation",
        {"x": X},
        lambda x: np.std(x),
        lambda d, x: {"x": d * (x - x.mean()) / (x.size * x.std())},
        not_centred=lambda d, x: {"x": d * x / (x.size * x.std())},
    ),
    subject(
        "product of entries",
        {"x": positive(5)},
        np.prod,
        lambda d, x: {"x": d * np.prod(x) / x},
        not_divided=lambda d, x: {"x": d * np.prod(x) + 0 * x},
    ),
    subject(
        "cumulative sum",
        {"x": X},
        lambda x: np.cumsum(x, axis=0),
        lambda d, x: {"x": np.cumsum(d[::-1], axis=0)[::-1]},
        not_turned_round=lambda d, x: {"x": np.cumsum(d, axis=0)},
    ),
    subject(
        "cumulative product",
        {"x": positive(5)},
        np.cumprod,
        lambda d, x: {"x": np.cumsum((d * np.cumprod(x))[::-1])[::-1] / x},
        first_term_only=lambda d, x: {"x": d * np.cumprod(x) / x},
    ),
    subject(
        "differences",
        {"x": X},
        lambda x: np.diff(x, axis=1),
        lambda d, x: {"x": np.pad(d, ((0, 0), (1, 0))) - np.pad(d, ((0, 0), (0, 1)))},
        plus=lambda d, x: {"x": np.pad(d, ((0, 0), (1, 0))) + np.pad(d, ((0, 0), (0, 1)))},
    ),
    subject(
        "log-sum-exp",
        {"x": X},
        _logsumexp,
        lambda d, x: {"x": d[:, None] * _softmax(x)},
        over_the_other_axis=lambda d, x: {"x": d[:, None] * _softmax(x.T).T},
    ),
    subject(
        "log-sum-exp of scipy",
        {"x": X},
        lambda x: logsumexp(x, axis=1),
        lambda d, x: {"x": d[:, None] * softmax(x, axis=1)},
        not_normalised=lambda d, x: {"x": d[:, None] * np.exp(x)},
    ),
    subject(
        "softmax",
        {"x": X},
        _softmax,
        _softmax_back,
        without_the_row_term=lambda d, x: {"x": _softmax(x) * d},
        zeros=lambda d, x: {"x": 0 * x},
    ),
    subject(
        "log-softmax",
        {"x": X},
        lambda x: x - _logsumexp(x)[:, None],
        lambda d, x: {"x": d - _softmax(x) * _row(d)},
        mean_of_the_cotangent=lambda d, x: {"x": d - _softmax(x) * d.mean(axis=-1, keepdims=True)},
    ),
    subject(
        "cross-entropy",
        {"x": X, "labels": LABELS},
        _cross_entropy,
        _cross_entropy_back,
        sum_for_mean=lambda d, x, labels: {"x": d * (_softmax(x) - np.eye(3)[labels])},
        divided_by_classes=lambda d, x, labels: {"x": d * (_softmax(x) - np.eye(3)[labels]) / 3},
    ),
    subject(
        "batch norm",
        NORM,
        _batch_norm,
        _batch_norm_back,
        without_the_variance=lambda d, **i: _batch_norm_back(d, **i, terms=1),
        dbeta_as_a_mean=lambda d, **i: {**_batch_norm_back(d, **i), "beta": d.mean(axis=0)},
    ),
    subject("layer norm", NORM, _layer_norm, _layer_norm_back, without_gamma=_layer_norm_no_gamma),
    subject("rms norm", {"x": X}, _rms, _rms_back, rows_for_columns=lambda d, x: _rms_back(d, x, len(x))),
    subject(
        "euclidean norm",
        {"x": normal(6)},
        lambda x: np.linalg.norm(x),
        _norm_back,
        squared=lambda d, x: {"x": 2 * d * x},
    ),
    subject(
        "euclidean norm at zero",
        {"x": np.zeros(4)},
        lambda x: np.sqrt((x * x).sum()),
        _norm_back,
        one_at_zero=lambda d, x: {"x": d * 2 * np.ones_like(x)},
    ),
    subject(
        "sum of norms of rows",
        {"x": X},
        lambda x: np.linalg.norm(x, axis=1),
        lambda d, x: {"x": d[:, None] * x / np.linalg.norm(x, axis=1, keepdims=True)},
        norm_of_all=lambda d, x: {"x": d[:, None] * x / np.linalg.norm(x)},
    ),
    subject(
        "cosine",
        {"x": X, "y": normal(5, 3, seed=1)},
        _cosine,
        _cosine_back,
        norms_held_fixed=lambda d, x, y: _cosine_back(d, x, y, whole=False),
    ),
    subject(
        "squared error",
        {"x": X, "target": normal(5, 3, seed=1)},
        lambda x, target: ((x - target) ** 2).mean(),
        lambda d, x, target: {"x": 2 * d * (x - target) / x.size, "target": 2 * d * (target - x) / x.size},
        same_sign=lambda d, x, target: {"x": 2 * d * (x - target) / x.size, "target": 2 * d * (x - target) / x.size},
    ),
)
