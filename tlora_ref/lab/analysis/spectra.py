"""Eigenvalues, singular values, and how many directions a matrix really uses.

Equation    effective rank = exp(-sum p log p),  p = s / sum(s), s the singular values
            (O. Roy and M. Vetterli, The effective rank, EUSIPCO 2007): k equal singular values give k.
Checked by  tests/test_analysis.py.
"""

from __future__ import annotations

import numpy as np

from ...shapes import InputError, ShapeError

Array = np.ndarray


def eigenvalues(W: Array) -> Array:
    """(n,) complex, the largest modulus first. Raises ShapeError unless W is square: others have none."""
    if W.ndim != 2 or W.shape[0] != W.shape[1]:
        raise ShapeError(f"a matrix of shape {W.shape} has no eigenvalues, expected a square one")
    found = np.linalg.eigvals(np.asarray(W, dtype=np.float64)).astype(np.complex128)
    return found[np.argsort(-np.abs(found), kind="stable")]


def singular_values(W_IO: Array) -> Array:
    """(min(I, O),), the largest first."""
    return np.linalg.svd(np.asarray(W_IO, dtype=np.float64), compute_uv=False)


def effective_rank(W_IO: Array) -> float:
    """Between 1 and min(I, O). Raises InputError for a zero matrix."""
    s_K = singular_values(W_IO)
    if s_K.sum() == 0:
        raise InputError("a zero matrix has no effective rank")
    p_K = s_K[s_K > 0] / s_K.sum()
    return float(np.exp(-(p_K * np.log(p_K)).sum()))


def real_parts(W: Array) -> Array:
    """(n,) of a square matrix's eigenvalues, in order. Raises as ``eigenvalues``."""
    return np.sort(eigenvalues(W).real)


def positive_share(real_N: Array) -> float:
    """The share of real parts above zero."""
    return float((real_N > 0).mean())


def spectral_distance(one_N: Array, other_N: Array) -> float:
    """Wasserstein-1 distance between the real parts of two spectra of one size, each in order: the mean distance
    between them. The histograms of figure 8 of arXiv 2504.18735 are of real parts, by their sign."""
    if one_N.shape != other_N.shape:
        raise ShapeError(f"spectra of shapes {one_N.shape} and {other_N.shape}, expected equal ones")
    return float(np.abs(one_N - other_N).mean())
