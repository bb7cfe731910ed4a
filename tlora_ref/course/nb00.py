"""The exercises of notebook 00: the update matrix."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from ..lab.analysis.spectra import singular_values
from ..lab.analysis.subspace import best_share, captured_share, isotropic_share
from .grader import Misconception, Values

Array = np.ndarray

# --- rank: how many singular values hold a share of dW? -------------------------------------------


ROUNDING = 1e-9
"""A share that is missing by no more counts as reached, says the exercise: the last sum of shares is 1 but for it."""


def _rank(dW_IO: Array, share: float) -> int:
    return 1 + _reached(singular_values(dW_IO) ** 2, share)


def _reached(held_K: Array, share: float, short: float = ROUNDING) -> int:
    """The first place at which the running share is large enough, counted from zero."""
    return int(np.argmax(np.cumsum(held_K) / held_K.sum() >= share - short))


def _spectra() -> list[tuple[str, tuple[Any, ...]]]:
    rng = np.random.default_rng(0)
    U_II, V_OO = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (9, 7))
    decaying = U_II[:, :7] * 0.6 ** np.arange(7) @ V_OO.T
    slow = U_II[:, :7] * np.array([5.0, 4.0, 3.5, 3.0, 1.0, 0.5, 0.1]) @ V_OO.T
    return [
        ("a fast decay, half", (decaying, 0.5)),
        ("a fast decay, 99 %", (decaying, 0.99)),
        ("a slow decay, 90 %", (slow, 0.9)),
        ("turned, 70 %", (slow.T.copy(), 0.7)),
        ("a slow decay, 10 %", (slow, 0.1)),
        ("noise, 90 %", (rng.standard_normal((12, 20)), 0.9)),
        ("four equal ones, exactly half", (np.eye(4), 0.5)),
        ("rank 2, all of it", (rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5)), 1.0)),
        *((f"noise {i}, all of it", (rng.standard_normal((40, 25)), 1.0)) for i in range(1, 7)),
    ]


RANK = Values(
    "00",
    "rank",
    _rank,
    (
        Misconception(
            "You add up singular values as they are. Of which power of them is the squared Frobenius norm the sum?",
            lambda dW, share: 1 + _reached(singular_values(dW), share),
        ),
        Misconception(
            "Your rank is one too small everywhere. From which number does Python count places, and ranks?",
            lambda dW, share: _reached(singular_values(dW) ** 2, share),
        ),
        Misconception(
            "You begin with the smallest singular value. Which ones does the best approximation keep?",
            lambda dW, share: 1 + _reached(singular_values(dW)[::-1] ** 2, share),
        ),
        Misconception(
            "That is the rank of the matrix, whatever the share. Where does the share enter?",
            lambda dW, share: int(np.linalg.matrix_rank(dW)),
        ),
        Misconception(
            "That would be right if all singular values were equal. Did you look at how large they are?",
            lambda dW, share: ceil(share * min(dW.shape)),
        ),
        Misconception(
            "You count the singular values above a share of the largest. What do those that you keep add up to?",
            lambda dW, share: int((singular_values(dW) >= share * singular_values(dW)[0]).sum()),
        ),
        Misconception(
            "You compare norms where squared norms are asked for. Which power of a norm has shares that add to one?",
            lambda dW, share: 1 + _reached(singular_values(dW) ** 2, share**2),
        ),
        Misconception(
            "A share that is just reached does not count in your answer. What does 'at least' say about equality?",
            lambda dW, share: 1 + _reached(singular_values(dW) ** 2, share, short=-ROUNDING),
        ),
        Misconception(
            "At a share of 1 rounding decides in your answer: the last sum may be one part in 10^16 below it. How much "
            "may be missing, says the exercise?",
            lambda dW, share: 1 + _reached(singular_values(dW) ** 2, share, short=0.0),
        ),
    ),
    points=_spectra,
    whole=True,
    may_use=("singular_values",),
)

# --- captured: the share of dW in the subspace that A and C fix -----------------------------------


def _targets() -> list[tuple[str, tuple[Any, ...]]]:
    rng = np.random.default_rng(1)

    def draw(I: int, O: int, R: int, scale: float) -> tuple[Array, Array, Array]:
        return rng.standard_normal((I, O)), scale * rng.standard_normal((I, R)), rng.standard_normal((R, O))

    A_IR, C_RO = rng.standard_normal((8, 3)), rng.standard_normal((3, 6))
    return [
        ("different sizes", draw(9, 7, 3, 1.0)),
        ("square", draw(6, 6, 2, 0.3)),
        ("rank 1", draw(5, 8, 1, 2.0)),
        ("all of it", (A_IR @ rng.standard_normal((3, 3)) @ C_RO, A_IR, C_RO)),
    ]


def _basis(M: Array) -> Array:
    return np.linalg.qr(M)[0]


def _share(part: Array, dW: Array) -> float:
    return float((part**2).sum() / (dW**2).sum())


CAPTURED = Values(
    "00",
    "captured",
    captured_share,
    (
        Misconception(
            "Your share changes when A is doubled, but the subspace does not. What must hold for the columns of a "
            "matrix before its products measure lengths?",
            lambda dW, A, C: _share(A.T @ dW @ C.T, dW),
        ),
        Misconception(
            "You project the columns of dW and leave its rows free. What does C rule out?",
            lambda dW, A, C: _share(_basis(A).T @ dW, dW),
        ),
        Misconception(
            "You project the rows of dW and leave its columns free. What does A rule out?",
            lambda dW, A, C: _share(dW @ _basis(C.T), dW),
        ),
        Misconception(
            "That is a ratio of norms. Of what is a share taken here, and which power of the norm adds up?",
            lambda dW, A, C: np.sqrt(captured_share(dW, A, C)),
        ),
        Misconception(
            "That is the best share at this rank, for subspaces chosen after seeing dW. When are A and C drawn?",
            lambda dW, A, C: best_share(dW, A.shape[1]),
        ),
        Misconception(
            "That is what an isotropic target would have on average. Where does this dW enter?",
            lambda dW, A, C: isotropic_share(*dW.shape, A.shape[1]),
        ),
        Misconception(
            "That is what the subspace misses. What is left of one, if you take it away?",
            lambda dW, A, C: 1 - captured_share(dW, A, C),
        ),
        Misconception(
            "That is a squared length, not a share of one. What is the length of all of dW?",
            lambda dW, A, C: float(((_basis(A).T @ dW @ _basis(C.T)) ** 2).sum()),
        ),
    ),
    points=_targets,
)

# --- expected: the mean share of a target without a preferred direction ---------------------------

EXPECTED = Values(
    "00",
    "expected",
    isotropic_share,
    (
        Misconception(
            "You count the two matrices of LoRA. How many coordinates does a dW have in a basis of this subspace?",
            lambda I, O, R: (I * R + R * O) / (I * O),
        ),
        Misconception(
            "You count the dimensions of A's columns only. A share of the rows is lost as well: which one?",
            lambda I, O, R: R / I,
        ),
        Misconception(
            "You count the dimensions of C's rows only. A share of the columns is lost as well: which one?",
            lambda I, O, R: R / O,
        ),
        Misconception(
            "The share of possible ranks is not the share of dimensions. What is the dimension of all I x O matrices?",
            lambda I, O, R: R / min(I, O),
        ),
        Misconception(
            "alpha is a number, but does it add a direction to what B alone can reach?",
            lambda I, O, R: (R * R + 1) / (I * O),
        ),
        Misconception(
            "That is a share of the norm. Does the mean of the squared norm have the same power?",
            lambda I, O, R: R / np.sqrt(I * O),
        ),
        Misconception(
            "You add the two widths. How many entries has a matrix with I rows and O columns?",
            lambda I, O, R: R * R / (I + O),
        ),
    ),
    points=lambda: [
        ("R = 1", (4, 6, 1)),
        ("the digits", (32, 64, 8)),
        ("R = I = O", (5, 5, 5)),
        ("RoBERTa-large", (1024, 1024, 32)),
        ("narrow", (3, 50, 2)),
        ("wide", (50, 3, 2)),
    ],
)

EXERCISES = (RANK, CAPTURED, EXPECTED)
