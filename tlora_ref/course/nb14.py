"""The exercises of notebook 14: the random subspace and how to choose a better one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..factors import along_singular_vectors
from ..lab.analysis.steps import carried_rate
from ..lab.analysis.subspace import spectral_concentration
from .grader import Misconception, Values

Array = np.ndarray


def _draw(seed: int, shape: tuple[int, int]) -> Array:
    return np.random.default_rng([14, seed]).standard_normal(shape)


# --- concentration: what of an update decides how much luck there is in its share -------------------


def _updates() -> list[tuple[str, tuple[Any, ...]]]:
    return [
        ("rank one", (np.outer([1.0, -2, 0.5], [3.0, 1, 4, 1]),)),
        ("the identity", (np.eye(5),)),
        ("tall", (3 * _draw(0, (7, 4)),)),
        ("wide, nearly of rank two", (_draw(1, (3, 2)) @ _draw(2, (2, 6)) + 0.01 * _draw(3, (3, 6)),)),
    ]


def _singular(D: Array) -> Array:
    return np.linalg.svd(D, compute_uv=False)


CONCENTRATION = Values(
    "14",
    "concentration",
    spectral_concentration,
    (
        Misconception(
            "That is how many directions the update effectively has, the reciprocal. Which of the two is 1 / d "
            "for the identity?",
            lambda D: 1 / spectral_concentration(D),
        ),
        Misconception(
            "The denominator has the power four in each term, and is the numerator then. Is the square outside of the "
            "sum?",
            lambda D: 1.0 + 0 * D.sum(),
        ),
        Misconception(
            "You took the singular values where their squares belong: what adds up to the squared norm?",
            lambda D: (_singular(D) ** 2).sum() / _singular(D).sum() ** 2,
        ),
        Misconception(
            "That is the share of the largest direction alone. The others count as well, each with its own share: how?",
            lambda D: _singular(D)[0] ** 2 / (D**2).sum(),
        ),
        Misconception(
            "Yours changes when the update is doubled. Which power of the squared norm takes the length out?",
            lambda D: (_singular(D) ** 4).sum() / (D**2).sum(),
        ),
        Misconception(
            "You took the entries in place of the singular values: what happens to yours when the update is turned?",
            lambda D: (D**4).sum() / (D**2).sum() ** 2,
        ),
    ),
    points=_updates,
)

# --- factors: along the gradient --------------------------------------------------------------------


def _gradients() -> list[tuple[str, tuple[Any, ...]]]:
    sizes = {"square": (6, 6, 2), "tall": (9, 4, 3), "wide": (4, 7, 2), "rank 1": (5, 3, 1), "all of it": (4, 4, 4)}
    return [(label, (_draw(10 + i, (I, O)), R)) for i, (label, (I, O, R)) in enumerate(sizes.items())]


def _product(D: Array, R: int) -> Array:
    A_IR, C_RO = along_singular_vectors(D, R)
    return A_IR @ C_RO


def _svd_product(D: Array, chosen: slice, scale: float) -> Array:
    U, _, Vt = np.linalg.svd(D, full_matrices=False)
    return scale * U[:, chosen] @ Vt[chosen]


def _best(D: Array, R: int) -> Array:
    U, S, Vt = np.linalg.svd(D, full_matrices=False)
    return (U[:, :R] * S[:R]) @ Vt[:R]


FACTORS = Values(
    "14",
    "factors",
    _product,
    (
        Misconception(
            "The directions are right, their lengths are those of orthonormal vectors. What squared norm does a "
            "released draw of A have on average, and what do R columns of length one have?",
            lambda D, R: _svd_product(D, slice(R), 1.0),
        ),
        Misconception(
            "Each entry is scaled like one of the draw: its standard deviation. A unit vector's entries have a size "
            "already, 1 / sqrt(I). What are the norms of the two?",
            lambda D, R: _svd_product(D, slice(R), 1 / np.sqrt(3 * R) / np.sqrt(3 * D.shape[1])),
        ),
        Misconception(
            "That is the best approximation of the gradient itself: the singular values are in it. Which of the three "
            "factors of an SVD say where, and which how far?",
            _best,
        ),
        Misconception(
            "You took the last singular vectors. In which order does NumPy give them?",
            lambda D, R: _svd_product(D, slice(min(D.shape) - R, None), np.sqrt(len(D) / (9 * R))),
        ),
        Misconception(
            "The scale of A has the width O in it. Along which axis of A do its I entries lie?",
            lambda D, R: _svd_product(D, slice(R), np.sqrt(D.shape[1] / (9 * R))),
        ),
        Misconception(
            "A's scale lacks the rank: if R columns have the squared norm I / 3 together, how long is one?",
            lambda D, R: _svd_product(D, slice(R), np.sqrt(len(D) / 9)),
        ),
        Misconception(
            "You used the square of A's norm, or of C's. A squared norm of I / 3 in R columns: how long is each?",
            lambda D, R: _svd_product(D, slice(R), len(D) / (9 * R)),
        ),
    ),
    points=_gradients,
)

# --- carried: a learning rate for another size -------------------------------------------------------


def _sizes() -> list[tuple[str, tuple[Any, ...]]]:
    return [
        ("twice the rank", (0.3, 32, 32, 8, 32, 32, 16)),
        ("four times the width", (0.1, 32, 32, 8, 128, 128, 8)),
        ("from query to a feed-forward matrix", (0.2, 64, 64, 4, 64, 256, 4)),
        ("everything", (0.05, 48, 20, 6, 30, 90, 2)),
    ]


def _carried(lr: float, I: int, O: int, R: int, I2: int, O2: int, R2: int) -> float:
    return carried_rate(lr, (I, O, R), (I2, O2, R2))


CARRIED = Values(
    "14",
    "carried",
    _carried,
    (
        Misconception(
            "You keep the rate. Does a step of that size move the output as far at twice the rank?",
            lambda lr, I, O, R, I2, O2, R2: lr + 0.0 * R2,
        ),
        Misconception(
            "You went the other way: at twice the rank the same rate moves the output twice as far. Larger or smaller?",
            lambda lr, I, O, R, I2, O2, R2: lr**2 / _carried(lr, I, O, R, I2, O2, R2),
        ),
        Misconception(
            "That keeps the size of an entry of dW. What does a row feel that agrees with the signs of a step, so that "
            "its R sums add up?",
            lambda lr, I, O, R, I2, O2, R2: carried_rate(lr, (I, O, R), (I2, O2, R2), "entry"),
        ),
        Misconception(
            "The ranks are in it and the widths are not. They cancel on square matrices: are all of these square?",
            lambda lr, I, O, R, I2, O2, R2: lr * R / R2,
        ),
        Misconception(
            "The widths are in it and the ranks are not. How many signs agree in a step?",
            lambda lr, I, O, R, I2, O2, R2: lr * np.sqrt(I * O2 / (O * I2)),
        ),
        Misconception(
            "I and O changed places: which of the two makes x A larger, and which makes C smaller?",
            lambda lr, I, O, R, I2, O2, R2: lr * R / R2 * np.sqrt(O * I2 / (I * O2)),
        ),
        Misconception(
            "The ratio of the widths has lost its root. Of what order are the entries of x A and of C?",
            lambda lr, I, O, R, I2, O2, R2: lr * R / R2 * I * O2 / (O * I2),
        ),
    ),
    points=_sizes,
)

EXERCISES = (CONCENTRATION, FACTORS, CARRIED)
