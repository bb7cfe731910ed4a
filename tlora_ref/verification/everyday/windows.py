"""Convolutions, pooling, padding, shifts."""

from __future__ import annotations

import numpy as np

from .subject import normal, subject

X = normal(3, 8)
IMAGES, KERNEL = normal(2, 5, 6), normal(3, 2)
windows = np.lib.stride_tricks.sliding_window_view


def _conv(x, k):
    return np.einsum("nijab,ab->nij", windows(x, k.shape, axis=(1, 2)), k)


def _conv_back(d, x, k, flip=True):
    a, b = k.shape
    wide = np.pad(d, ((0, 0), (a - 1, a - 1), (b - 1, b - 1)))
    turned = k[::-1, ::-1] if flip else k
    dx = np.einsum("nijab,ab->nij", windows(wide, k.shape, axis=(1, 2)), turned)
    return {"x": dx, "k": np.einsum("nijab,nij->ab", windows(x, k.shape, axis=(1, 2)), d)}


def _conv1_back(d, x, k, last=0):
    dx = np.zeros_like(x)
    for i in range(len(k)):
        dx[:, i : i + d.shape[1]] += d * k[i]
    windowed = windows(x, len(k), axis=1)
    return {"x": dx, "k": np.einsum("nti,nt->i", windowed, d * (np.arange(d.shape[1]) < d.shape[1] - last))}


def _pairs(x):
    return x.reshape(len(x), -1, 2)


def _max_pool_back(d, x, everywhere=False):
    y = _pairs(x)
    chosen = y == y.max(axis=2, keepdims=True)
    return {"x": (d[..., None] * (np.ones_like(y) if everywhere else chosen)).reshape(x.shape)}


def _overlapping_back(d, x, add=True):
    dx = np.zeros_like(x)
    at = windows(x, 3, axis=1).argmax(axis=2) + np.arange(d.shape[1])
    if add:
        np.add.at(dx, (np.arange(len(x))[:, None], at), d)
    else:
        dx[np.arange(len(x))[:, None], at] = d
    return {"x": dx}


SUBJECTS = (
    subject(
        "convolution",
        {"x": X, "k": normal(3)},
        lambda x, k: np.einsum("nti,i->nt", windows(x, 3, axis=1), k),
        _conv1_back,
        last_window_left_out_of_dk=lambda d, x, k: _conv1_back(d, x, k, last=1),
    ),
    subject(
        "convolution of numpy",
        {"x": normal(7), "k": normal(3)},
        lambda x, k: np.convolve(x, k, "valid"),
        lambda d, x, k: {
            "x": np.convolve(d, k[::-1]),
            "k": np.convolve(x[::-1], d, "valid") if len(d) > 1 else d * x[::-1],
        },
        kernel_not_turned=lambda d, x, k: {"x": np.convolve(d, k), "k": np.convolve(x[::-1], d, "valid")},
    ),
    subject(
        "convolution of images",
        {"x": IMAGES, "k": KERNEL},
        _conv,
        _conv_back,
        kernel_not_turned=lambda d, x, k: _conv_back(d, x, k, flip=False),
    ),
    subject(
        "mean pooling",
        {"x": X},
        lambda x: _pairs(x).mean(axis=2),
        lambda d, x: {"x": np.repeat(d, 2, axis=1) / 2},
        not_divided=lambda d, x: {"x": np.repeat(d, 2, axis=1)},
    ),
    subject(
        "max pooling",
        {"x": X},
        lambda x: _pairs(x).max(axis=2),
        _max_pool_back,
        to_all=lambda d, x: _max_pool_back(d, x, everywhere=True),
    ),
    subject(
        "max pooling at a tie",
        {"x": np.array([[1.0, 1.0, 2.0, 3.0, 0.5, -1.0]])},
        lambda x: _pairs(x).max(axis=2),
        lambda d, x: {"x": (d[..., None] * np.eye(2)[_pairs(x).argmax(axis=2)]).reshape(x.shape)},
        off_by_a_hundredth=lambda d, x: {
            "x": 1.01 * (d[..., None] * np.eye(2)[_pairs(x).argmax(axis=2)]).reshape(x.shape)
        },
    ),
    subject(
        "overlapping max pooling",
        {"x": X},
        lambda x: windows(x, 3, axis=1).max(axis=2),
        _overlapping_back,
        assigned_where_it_should_add=lambda d, x: _overlapping_back(d, x, add=False),
    ),
    subject(
        "zero padding",
        {"x": X},
        lambda x: np.pad(x, ((0, 0), (1, 2))),
        lambda d, x: {"x": d[:, 1:-2].copy()},
        shifted_by_one=lambda d, x: {"x": d[:, 2:-1].copy()},
    ),
    subject(
        "roll",
        {"x": X},
        lambda x: np.roll(x, 2, axis=1),
        lambda d, x: {"x": np.roll(d, -2, axis=1)},
        rolled_on=lambda d, x: {"x": np.roll(d, 2, axis=1)},
    ),
    subject(
        "upsampling",
        {"x": X},
        lambda x: np.repeat(x, 3, axis=1),
        lambda d, x: {"x": d.reshape(*x.shape, 3).sum(axis=2)},
        first_of_three=lambda d, x: {"x": d.reshape(*x.shape, 3)[..., 0].copy()},
    ),
    subject(
        "triangle",
        {"x": normal(4, 4)},
        np.tril,
        lambda d, x: {"x": np.tril(d)},
        the_other_triangle=lambda d, x: {"x": np.triu(d)},
    ),
    subject(
        "transpose and reshape",
        {"x": normal(3, 4)},
        lambda x: x.T.reshape(6, 2),
        lambda d, x: {"x": d.reshape(4, 3).T.copy()},
        reshaped_only=lambda d, x: {"x": d.reshape(3, 4).copy()},
    ),
)
