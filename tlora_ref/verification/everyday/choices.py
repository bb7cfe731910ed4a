"""Sorting, largest entries, selections, lookups by integers."""

from __future__ import annotations

import numpy as np

from .subject import normal, subject

X = normal(4, 6)
IDS = np.array([2, 0, 2, 4, 2])


def _scattered(d, x, at):
    dx = np.zeros_like(x)
    np.put_along_axis(dx, at, d, axis=1)
    return {"x": dx}


def _top2(x):
    return np.sort(x, axis=1)[:, :-3:-1]


def _top2_at(x):
    return np.argsort(x, axis=1)[:, :-3:-1]


def _lookup_back(d, w, ids, add=True):
    dw = np.zeros_like(w)
    if add:
        np.add.at(dw, ids, d)
    else:
        dw[ids] = d
    return {"w": dw}


def _segments(x, ids):
    out = np.zeros((5, x.shape[1]), dtype=x.dtype)
    np.add.at(out, ids, x)
    return out


def _median_back(d, x):
    return {"x": _scattered(d[:, None], x, np.argsort(x, axis=1)[:, 2:3])["x"]}


SUBJECTS = (
    subject(
        "largest entry",
        {"x": X},
        lambda x: x.max(axis=1),
        lambda d, x: _scattered(d[:, None], x, x.argmax(axis=1)[:, None]),
        smallest_entry=lambda d, x: _scattered(d[:, None], x, x.argmin(axis=1)[:, None]),
    ),
    subject(
        "elementwise maximum",
        {"x": X, "y": normal(4, 6, seed=1)},
        np.maximum,
        lambda d, x, y: {"x": d * (x > y), "y": d * (x <= y)},
        swapped=lambda d, x, y: {"x": d * (x <= y), "y": d * (x > y)},
    ),
    subject(
        "sort",
        {"x": X},
        lambda x: np.sort(x, axis=1),
        lambda d, x: _scattered(d, x, np.argsort(x, axis=1)),
        gathered_for_scattered=lambda d, x: {"x": np.take_along_axis(d, np.argsort(x, axis=1), axis=1)},
    ),
    subject(
        "top-2",
        {"x": X},
        _top2,
        lambda d, x: _scattered(d, x, _top2_at(x)),
        the_two_swapped=lambda d, x: _scattered(d, x, _top2_at(x)[:, ::-1]),
    ),
    subject(
        "median",
        {"x": normal(4, 5)},
        lambda x: np.median(x, axis=1),
        _median_back,
        mean=lambda d, x: {"x": d[:, None] / x.shape[1] + 0 * x},
    ),
    subject(
        "range",
        {"x": X},
        lambda x: np.ptp(x, axis=1),
        lambda d, x: {
            "x": _scattered(d[:, None], x, x.argmax(axis=1)[:, None])["x"]
            - _scattered(d[:, None], x, x.argmin(axis=1)[:, None])["x"]
        },
        smallest_added=lambda d, x: {
            "x": _scattered(d[:, None], x, x.argmax(axis=1)[:, None])["x"]
            + _scattered(d[:, None], x, x.argmin(axis=1)[:, None])["x"]
        },
    ),
    subject(
        "where",
        {"x": X, "y": normal(4, 6, seed=1)},
        lambda x, y: np.where(x > 0, x * x, y),
        lambda d, x, y: {"x": 2 * d * x * (x > 0), "y": d * (x <= 0)},
        condition_of_y=lambda d, x, y: {"x": 2 * d * x * (y > 0), "y": d * (y <= 0)},
    ),
    subject(
        "masked fill",
        {"x": X, "mask": X > -0.3},
        lambda x, mask: np.where(mask, x, -1.0),
        lambda d, x, mask: {"x": d * mask},
        mask_forgotten=lambda d, x, mask: {"x": 1 * d},
    ),
    subject(
        "embedding",
        {"w": normal(5, 3), "ids": IDS},
        lambda w, ids: w[ids],
        _lookup_back,
        assigned_where_it_should_add=lambda d, w, ids: _lookup_back(d, w, ids, add=False),
    ),
    subject(
        "segment sums",
        {"x": normal(5, 3), "ids": IDS},
        _segments,
        lambda d, x, ids: {"x": d[ids]},
        unsorted_ids_taken_as_sorted=lambda d, x, ids: {"x": d[np.sort(ids)]},
    ),
    subject(
        "columns chosen",
        {"x": X},
        lambda x: x[:, [0, 3, 0]],
        lambda d, x: {
            "x": np.stack([d[:, 0] + d[:, 2], *np.zeros((2, len(x))), d[:, 1], *np.zeros((2, len(x)))], axis=1)
        },
        the_repeated_one_once=lambda d, x: {
            "x": np.stack([d[:, 0], *np.zeros((2, len(x))), d[:, 1], *np.zeros((2, len(x)))], axis=1)
        },
    ),
    subject(
        "an integer power",
        {"x": X, "n": 3},
        lambda x, n: x**n,
        lambda d, x, n: {"x": d * n * x ** (n - 1)},
        exponent_not_lowered=lambda d, x, n: {"x": d * n * x**n},
    ),
    subject(
        "integer counts as weights",
        {"x": X, "n": np.arange(6)},
        lambda x, n: (n * x).sum(axis=1),
        lambda d, x, n: {"x": d[:, None] * n},
        zero_counts_as_one=lambda d, x, n: {"x": d[:, None] * np.maximum(n, 1)},
    ),
    subject(
        "concatenation",
        {"x": X, "y": normal(4, 2)},
        lambda x, y: np.concatenate([x, y], axis=1),
        lambda d, x, y: {"x": d[:, :6].copy(), "y": d[:, 6:].copy()},
        from_the_front=lambda d, x, y: {"x": d[:, :6].copy(), "y": d[:, :2].copy()},
    ),
)
