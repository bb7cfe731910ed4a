"""Matrix products, einsum, inverses, determinants."""

from __future__ import annotations

import numpy as np
from scipy.linalg import hilbert

from .subject import normal, subject

X, W, B = normal(5, 4), normal(4, 3), normal(3)
S = normal(3, 3) + 4 * np.eye(3)
T = normal(2, 3, 4)
inv = np.linalg.inv


def _bilinear_back(d, x, M, y):
    return {
        "x": np.einsum("n,ij,nj->ni", d, M, y),
        "M": np.einsum("n,ni,nj->ij", d, x, y),
        "y": np.einsum("n,ij,ni->nj", d, M, x),
    }


def _attention(q, k):
    s = q @ k.T / np.sqrt(q.shape[1])
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _attention_back(d, q, k, scaled=True):
    p = _attention(q, k)
    ds = p * (d - (d * p).sum(axis=1, keepdims=True))
    ds = ds / np.sqrt(q.shape[1]) if scaled else ds
    return {"q": ds @ k, "k": ds.T @ q}


SUBJECTS = (
    subject(
        "matrix product",
        {"x": X, "w": W},
        lambda x, w: x @ w,
        lambda d, x, w: {"x": d @ w.T, "w": x.T @ d},
        one_entry_by_a_millionth=lambda d, x, w: {
            "x": d @ w.T,
            "w": (x.T @ d) * (1 + 1e-6 * (np.arange(12).reshape(4, 3) == 5)),
        },
        off_by_1e4=lambda d, x, w: {"x": d @ w.T, "w": 1.0001 * (x.T @ d)},
    ),
    subject(
        "linear layer",
        {"x": X, "w": W, "b": B},
        lambda x, w, b: x @ w + b,
        lambda d, x, w, b: {"x": d @ w.T, "w": x.T @ d, "b": d.sum(axis=0)},
        mean_for_db=lambda d, x, w, b: {"x": d @ w.T, "w": x.T @ d, "b": d.mean(axis=0)},
    ),
    subject(
        "linear layer, one row",
        {"x": X[:1], "w": W, "b": B},
        lambda x, w, b: x @ w + b,
        lambda d, x, w, b: {"x": d @ w.T, "w": x.T @ d, "b": d.sum(axis=0)},
        first_row_for_db=lambda d, x, w, b: {"x": d @ w.T, "w": x.T @ d, "b": d[0].copy()},
    ),
    subject(
        "square linear layer",
        {"x": normal(4, 4), "w": normal(4, 4, seed=1)},
        lambda x, w: x @ w,
        lambda d, x, w: {"x": d @ w.T, "w": x.T @ d},
        not_transposed=lambda d, x, w: {"x": d @ w, "w": x.T @ d},
    ),
    subject(
        "weights of two scales",
        {"x": X * np.array([1e6, 1, 1e-3, 1e-6]), "w": W},
        lambda x, w: x @ w,
        lambda d, x, w: {"x": d @ w.T, "w": x.T @ d},
        smallest_row_doubled=lambda d, x, w: {"x": d @ w.T, "w": (x.T @ d) * np.array([1, 1, 1, 2])[:, None]},
    ),
    subject(
        "low-rank update",
        {"x": X, "a": normal(4, 2), "b": normal(2, 3)},
        lambda x, a, b: 2.0 * (x @ a @ b),
        lambda d, x, a, b: {"x": 2 * d @ b.T @ a.T, "a": 2 * x.T @ (d @ b.T), "b": 2 * (x @ a).T @ d},
        scale_left_out=lambda d, x, a, b: {"x": 2 * d @ b.T @ a.T, "a": 2 * x.T @ (d @ b.T), "b": (x @ a).T @ d},
    ),
    subject(
        "einsum, bilinear",
        {"x": normal(5, 3), "M": normal(3, 4), "y": normal(5, 4)},
        lambda x, M, y: np.einsum("ni,ij,nj->n", x, M, y),
        _bilinear_back,
        x_for_y=lambda d, x, M, y: {**_bilinear_back(d, x, M, y), "y": np.einsum("n,ij,nj->nj", d, M, y)},
    ),
    subject(
        "einsum, batched",
        {"x": T, "w": normal(4, 5)},
        lambda x, w: np.einsum("bti,io->bto", x, w),
        lambda d, x, w: {"x": np.einsum("bto,io->bti", d, w), "w": np.einsum("bti,bto->io", x, d)},
        first_batch_only=lambda d, x, w: {"x": np.einsum("bto,io->bti", d, w), "w": x[0].T @ d[0]},
    ),
    subject(
        "outer product",
        {"x": normal(4), "y": normal(3)},
        np.outer,
        lambda d, x, y: {"x": d @ y, "y": d.T @ x},
        sums_for_products=lambda d, x, y: {"x": d.sum(axis=1), "y": d.T @ x},
    ),
    subject(
        "quadratic form",
        {"x": normal(3), "A": S},
        lambda x, A: x @ A @ x,
        lambda d, x, A: {"x": d * (A + A.T) @ x, "A": d * np.outer(x, x)},
        as_if_symmetric=lambda d, x, A: {"x": 2 * d * A @ x, "A": d * np.outer(x, x)},
    ),
    subject(
        "trace of a product",
        {"A": normal(3, 4), "B": normal(4, 3)},
        lambda A, B: np.trace(A @ B),
        lambda d, A, B: {"A": d * B.T, "B": d * A.T},
        diagonal_only=lambda d, A, B: {"A": d * B.T * np.eye(3, 4), "B": d * A.T},
    ),
    subject(
        "inverse",
        {"A": S},
        inv,
        lambda d, A: {"A": -inv(A).T @ d @ inv(A).T},
        not_transposed=lambda d, A: {"A": -inv(A) @ d @ inv(A)},
    ),
    subject(
        "inverse of a Hilbert matrix",
        {"A": hilbert(6)},
        inv,
        lambda d, A: {"A": -inv(A).T @ d @ inv(A).T},
        off_by_a_hundredth=lambda d, A: {"A": -1.01 * inv(A).T @ d @ inv(A).T},
    ),
    subject(
        "linear system",
        {"A": S, "b": B},
        np.linalg.solve,
        lambda d, A, b: {"A": -np.outer(np.linalg.solve(A.T, d), np.linalg.solve(A, b)), "b": np.linalg.solve(A.T, d)},
        A_for_its_transpose=lambda d, A, b: {
            "A": -np.outer(np.linalg.solve(A, d), np.linalg.solve(A, b)),
            "b": np.linalg.solve(A, d),
        },
    ),
    subject(
        "determinant",
        {"A": S},
        np.linalg.det,
        lambda d, A: {"A": d * np.linalg.det(A) * inv(A).T},
        of_the_logarithm=lambda d, A: {"A": d * inv(A).T},
    ),
    subject(
        "log of the determinant",
        {"A": S},
        lambda A: np.linalg.slogdet(A)[1],
        lambda d, A: {"A": d * inv(A).T},
        not_transposed=lambda d, A: {"A": d * inv(A)},
    ),
    subject(
        "frobenius norm",
        {"A": normal(3, 4)},
        lambda A: np.linalg.norm(A),
        lambda d, A: {"A": d * A / np.linalg.norm(A)},
        divided_by_its_size=lambda d, A: {"A": d * A / np.sqrt(A.size)},
    ),
    subject(
        "attention weights",
        {"q": normal(4, 3), "k": normal(5, 3)},
        _attention,
        _attention_back,
        unscaled=lambda d, q, k: _attention_back(d, q, k, scaled=False),
    ),
    subject(
        "kronecker product",
        {"A": normal(2, 3), "B": normal(3, 2)},
        np.kron,
        lambda d, A, B: {
            "A": np.einsum("aibj,ij->ab", d.reshape(2, 3, 3, 2), B),
            "B": np.einsum("aibj,ab->ij", d.reshape(2, 3, 3, 2), A),
        },
        reshaped_wrongly=lambda d, A, B: {
            "A": np.einsum("iabj,ij->ab", d.reshape(3, 2, 3, 2), B),
            "B": np.einsum("aibj,ab->ij", d.reshape(2, 3, 3, 2), A),
        },
    ),
)
