"""The exercises of notebook 11: is TLoRA like LoRA?"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..lab.analysis.similarity import cosine, unrelated_cosine
from ..lab.analysis.subspace import captured_share
from .grader import Misconception, Values

Array = np.ndarray


def _draw(seed: int, *shapes: tuple[int, int]) -> tuple[Array, ...]:
    rng = np.random.default_rng([11, seed])
    return tuple(rng.standard_normal(shape) for shape in shapes)


# --- cosine of two matrices -----------------------------------------------------------------------


def _matrices() -> list[tuple[str, tuple[Any, ...]]]:
    square, tall, wide = (_draw(i, s, s) for i, s in enumerate(((4, 4), (6, 3), (2, 5))))
    return [
        ("square", square),
        ("tall, the one nearly minus the other", (tall[0], -2 * tall[0] + 0.1 * tall[1])),
        ("wide, of different norms", (wide[0], 30 * wide[1])),
    ]


COSINE = Values(
    "11",
    "cosine",
    cosine,
    (
        Misconception(
            "Yours grows with the matrices. What is the cosine of X and 10 X?",
            lambda X, Y: (X * Y).sum(),
        ),
        Misconception(
            "You divide by the largest singular values: that is a matrix's norm of order two. Which norm belongs "
            "to the sum over all entries?",
            lambda X, Y: (X * Y).sum() / (np.linalg.norm(X, 2) * np.linalg.norm(Y, 2)),
        ),
        Misconception(
            "Yours is never negative. What is the cosine of X and -X?",
            lambda X, Y: abs(cosine(X, Y)),
        ),
        Misconception(
            "That is the mean of the cosines of the columns: a column of small numbers counts as much as a large one. "
            "How many vectors is a matrix here, many or one?",
            lambda X, Y: np.mean((X * Y).sum(0) / (np.linalg.norm(X, axis=0) * np.linalg.norm(Y, axis=0))),
        ),
        Misconception(
            "You divide by the squares of the norms. What does that make of the cosine of X and X, if X is large?",
            lambda X, Y: (X * Y).sum() / ((X * X).sum() * (Y * Y).sum()),
        ),
        Misconception(
            "That is a correlation: the means have been taken away. Does a cosine know of means?",
            lambda X, Y: np.corrcoef(X.ravel(), Y.ravel())[0, 1],
        ),
        Misconception(
            "You give the angle. What is asked for is a function of it: which?",
            lambda X, Y: np.arccos(cosine(X, Y)),
        ),
    ),
    points=_matrices,
)

# --- what two updates without anything in common score --------------------------------------------


def _sizes() -> list[tuple[str, tuple[Any, ...]]]:
    return [("small updates", (0.1, 0.05)), ("different sizes", (0.3, 0.8)), ("larger than W0", (2.0, 1.5))]


UNRELATED = Values(
    "11",
    "unrelated",
    unrelated_cosine,
    (
        Misconception(
            "Zero is the cosine of the two updates. What do the two adapted matrices have in common besides them?",
            lambda r1, r2: 0.0 * r1,
        ),
        Misconception(
            "The norms stand in the denominator squared. How long is the sum of two orthogonal vectors?",
            lambda r1, r2: 1 / ((1 + r1**2) * (1 + r2**2)),
        ),
        Misconception(
            "You add lengths as if W0 and its update pointed the same way. They are orthogonal: how long is their sum?",
            lambda r1, r2: 1 / ((1 + r1) * (1 + r2)),
        ),
        Misconception(
            "Your numerator has a term of both updates together. What is their inner product, if they are unrelated?",
            lambda r1, r2: (1 + r1 * r2) * unrelated_cosine(r1, r2),
        ),
        Misconception(
            "You put both updates into one norm. Of how many adapted matrices is this the cosine?",
            lambda r1, r2: 1 / np.sqrt(1 + r1**2 + r2**2),
        ),
        Misconception(
            "That is the cosine of the first adapted matrix and W0. Where is the second update?",
            lambda r1, r2: 1 / np.sqrt(1 + r1**2),
        ),
        Misconception(
            "The norms of the updates are there without their squares. What does Pythagoras say?",
            lambda r1, r2: 1 / np.sqrt((1 + r1) * (1 + r2)),
        ),
    ),
    points=_sizes,
)

# --- the cosine of the updates, read off a figure of the adapted matrices -------------------------


def _readings() -> list[tuple[str, tuple[Any, ...]]]:
    return [
        (label, ((1 + c * r1 * r2) * unrelated_cosine(r1, r2), r1, r2))
        for label, c, r1, r2 in (
            ("alike", 0.9, 0.1, 0.3),
            ("little in common", 0.15, 0.5, 0.8),
            ("opposite", -0.6, 1.2, 0.7),
        )
    ]


def _read(seen: float, r1: float, r2: float) -> float:
    return (seen / unrelated_cosine(r1, r2) - 1) / (r1 * r2)


READ = Values(
    "11",
    "read",
    _read,
    (
        Misconception(
            "That is what the figure shows, the cosine of the adapted matrices. Where has W0 gone?",
            lambda seen, r1, r2: seen + 0.0,
        ),
        Misconception(
            "You take away what unrelated updates would score. Does a difference of cosines lie between -1 and 1, and "
            "is it 1 for equal updates?",
            lambda seen, r1, r2: seen - unrelated_cosine(r1, r2),
        ),
        Misconception(
            "That is an inner product, in units of the square of W0's norm. What turns it into a cosine?",
            lambda seen, r1, r2: seen / unrelated_cosine(r1, r2) - 1,
        ),
        Misconception(
            "W0's share of the inner product is still in it. How large is W0's inner product with itself, if its norm "
            "is one?",
            lambda seen, r1, r2: seen / unrelated_cosine(r1, r2) / (r1 * r2),
        ),
        Misconception(
            "You took the cosine itself for the inner product. By what was it divided?",
            lambda seen, r1, r2: (seen - 1) / (r1 * r2),
        ),
        Misconception(
            "You divided by the ratio of two cosines and took away one: that rescales between unrelated and equal "
            "matrices. Are updates of different norms ever equal?",
            lambda seen, r1, r2: (seen - unrelated_cosine(r1, r2)) / (1 - unrelated_cosine(r1, r2)),
        ),
    ),
    points=_readings,
    may_use=("unrelated_cosine",),
)

# --- the best cosine that any TLoRA update can have with a given one ------------------------------


def _targets() -> list[tuple[str, tuple[Any, ...]]]:
    sizes = {"different sizes": (7, 5, 3), "square, rank 1": (4, 4, 1), "everything within reach": (3, 3, 3)}
    return [(label, _draw(20 + i, (I, O), (I, R), (R, O))) for i, (label, (I, O, R)) in enumerate(sizes.items())]


def _best(D: Array, A: Array, C: Array) -> float:
    return float(np.sqrt(captured_share(D, A, C)))


def _without_qr(D: Array, A: Array, C: Array) -> float:
    P = A @ (A.T @ D @ C.T) @ C
    return float(np.linalg.norm(P) / np.linalg.norm(D))


def _one_side(D: Array, Q: Array, left: bool) -> float:
    Q = np.linalg.qr(Q)[0]
    return float(np.linalg.norm(Q.T @ D if left else D @ Q) / np.linalg.norm(D))


BEST = Values(
    "11",
    "best",
    _best,
    (
        Misconception(
            "That is the share of the squared norm within reach. How are a squared cosine and a cosine related?",
            captured_share,
        ),
        Misconception(
            "You project with the columns of A and the rows of C as they are: neither of length one nor orthogonal. "
            "What does such a projection do when you apply it twice?",
            _without_qr,
        ),
        Misconception(
            "You kept to the columns of A only. What may the rows of an update be?",
            lambda D, A, C: _one_side(D, A, True),
        ),
        Misconception(
            "You kept to the rows of C only. What may the columns of an update be?",
            lambda D, A, C: _one_side(D, C.T, False),
        ),
        Misconception(
            "That is the mean over random targets. Which target were you handed?",
            lambda D, A, C: A.shape[1] / np.sqrt(D.size),
        ),
        Misconception(
            "You let the update choose its own singular vectors, as LoRA may. Which directions did TLoRA get?",
            lambda D, A, C: np.sqrt(np.square(np.linalg.svd(D)[1][: A.shape[1]]).sum() / np.square(D).sum()),
        ),
        Misconception(
            "You took B as the identity, or A C as the only update. What is B free to do?",
            lambda D, A, C: cosine(D, A @ C),
        ),
    ),
    points=_targets,
    may_use=("cosine",),
)

EXERCISES = (COSINE, UNRELATED, READ, BEST)
