"""How alike two updates are, and how alike two unrelated ones would be.

Equation    cosine = <X, Y> / (||X|| ||Y||) of the entries.   For X = W0 + D1, Y = W0 + D2, with D1, D2 orthogonal
            to each other and to W0, and rho = ||D|| / ||W0||:
            cosine = 1 / sqrt((1 + rho1^2) (1 + rho2^2))
            which is near 1 for any two small updates, alike or not.
Checked by  tests/test_analysis.py.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from ...draws import stream
from ...shapes import InputError, ShapeError

Array = np.ndarray


def cosine(one: Array, other: Array) -> float:
    """Between -1 and 1, over all entries. Raises ShapeError for different shapes, InputError for a zero matrix."""
    _same_shape(one, other)
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    if norms == 0:
        raise InputError("a zero matrix has no direction: the cosine is undefined")
    return float((np.asarray(one, dtype=np.float64) * other).sum() / norms)


def relative_difference(one: Array, other: Array) -> float:
    """||one - other||_F / ||other||_F."""
    _same_shape(one, other)
    norm = float(np.linalg.norm(other))
    if norm == 0:
        raise InputError("the second matrix is zero: no difference can be relative to it")
    return float(np.linalg.norm(np.asarray(one, dtype=np.float64) - other) / norm)


def principal_angles(one_IO: Array, other_IO: Array, rank: int) -> Array:
    """(rank,) angles in radians, the largest first, between the leading ``rank`` left singular subspaces: between
    the column spaces, where the matrices have that rank. Transpose both for the row spaces."""
    from scipy.linalg import subspace_angles

    _same_shape(one_IO, other_IO)
    if not 1 <= rank <= min(one_IO.shape):
        raise InputError(f"rank is {rank}, expected 1 to {min(one_IO.shape)}")
    leading = [np.linalg.svd(np.asarray(W, dtype=np.float64))[0][:, :rank] for W in (one_IO, other_IO)]
    return subspace_angles(*leading)


def overlap(angles: Array) -> float:
    """The mean squared cosine of principal angles: 1 for equal subspaces, rank / I for random ones in I dimensions."""
    return float((np.cos(angles) ** 2).mean())


def unrelated(like: Array, seed: int, name: str) -> Array:
    """A Gaussian matrix of the same shape and Frobenius norm, with a stream of its own: the control."""
    drawn = stream(seed, f"unrelated.{name}").standard_normal(like.shape)
    return drawn * (np.linalg.norm(like) / np.linalg.norm(drawn))


def unrelated_cosine(rho1: float, rho2: float) -> float:
    """The cosine of W0 + D1 and W0 + D2 for orthogonal updates whose norms are rho1 and rho2 times that of W0."""
    return 1 / sqrt((1 + rho1**2) * (1 + rho2**2))


def _same_shape(one: Array, other: Array) -> None:
    if one.shape != other.shape:
        raise ShapeError(f"matrices of shapes {one.shape} and {other.shape}, expected equal ones")
