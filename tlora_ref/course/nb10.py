"""The exercises of notebook 10: what training does to alpha and B."""

from __future__ import annotations

from typing import Any

import numpy as np

from .grader import Misconception, Values

Array = np.ndarray

ALPHAS = (("alpha above 0", 1.7, 3), ("alpha below 0", -0.6, 2), ("small alpha, rank 1", 0.3, 1))
"""(label, alpha, R) of the points."""


def _B(R: int, seed: int) -> Array:
    return np.random.default_rng([10, seed]).standard_normal((R, R))


# --- dalpha from B, dB and alpha alone: <B, dB> = alpha dalpha ------------------------------------


def _gradients() -> list[tuple[str, tuple[Any, ...]]]:
    return [(label, (alpha, _B(R, 0), _B(R, 1))) for label, alpha, R in ALPHAS]


DALPHA = Values(
    "10",
    "dalpha",
    lambda alpha, B, dB: (B * dB).sum() / alpha,
    (
        Misconception(
            "Your dalpha still holds the alpha that dB brings along. How many are in dB, and how many in dalpha?",
            lambda alpha, B, dB: (B * dB).sum(),
        ),
        Misconception(
            "Your dalpha grows with alpha, and twice over. On which side of the identity does alpha stand?",
            lambda alpha, B, dB: (B * dB).sum() * alpha,
        ),
        Misconception(
            "You take the trace of a matrix product: it pairs entry (i, j) with entry (j, i). Which entries does an "
            "inner product pair?",
            lambda alpha, B, dB: np.trace(B @ dB) / alpha,
        ),
        Misconception(
            "Yours is a matrix, one number for each entry of B. How many alphas does a layer have?",
            lambda alpha, B, dB: B * dB / alpha,
        ),
        Misconception(
            "The sign is the wrong way round. If dB points along B, the loss rises as B grows: what if alpha grows?",
            lambda alpha, B, dB: -(B * dB).sum() / alpha,
        ),
        Misconception(
            "That is the mean over the entries of B. Does a larger B not move the loss more?",
            lambda alpha, B, dB: (B * dB).mean() / alpha,
        ),
        Misconception(
            "You divide by the size of alpha and lose its sign. What happens to dB when alpha changes its sign?",
            lambda alpha, B, dB: (B * dB).sum() / abs(alpha),
        ),
    ),
    points=_gradients,
)

# --- the balanced pair: the same layer with |alpha| = ||B|| ---------------------------------------


def _pairs() -> list[tuple[str, tuple[Any, ...]]]:
    return [(label, (alpha, _B(R, 2))) for label, alpha, R in ALPHAS]


def _balanced(alpha: float, B: Array) -> tuple[float, Array]:
    c = np.sqrt(np.linalg.norm(B) / abs(alpha))
    return c * alpha, B / c


def _signless(alpha: float, B: Array) -> tuple[float, Array]:
    c = np.sqrt(np.linalg.norm(B) / abs(alpha))
    return c * abs(alpha), B / c


def _square(alpha: float, B: Array) -> tuple[float, Array]:
    c = np.linalg.norm(B) / abs(alpha)
    return c * alpha, B / c


def _both(alpha: float, B: Array) -> tuple[float, Array]:
    c = np.sqrt(np.linalg.norm(B) / abs(alpha))
    return c * alpha, B * c


def _upside_down(alpha: float, B: Array) -> tuple[float, Array]:
    c = np.sqrt(np.linalg.norm(B) / abs(alpha))
    return alpha / c, B * c


def _unit(alpha: float, B: Array) -> tuple[float, Array]:
    c = np.linalg.norm(B)
    return c * alpha, B / c


BALANCED = Values(
    "10",
    "balanced",
    _balanced,
    (
        Misconception(
            "The product alpha B has changed its sign where alpha is negative: that is another layer. Which of the two "
            "may c change, the size or the sign?",
            _signless,
        ),
        Misconception(
            "With your c the two norms have changed places. Both alpha and B move when c does: how far does the ratio "
            "of their norms move?",
            _square,
        ),
        Misconception(
            "alpha and B have both been multiplied by c. What has become of their product?",
            _both,
        ),
        Misconception(
            "The product is right, but the two norms are further apart than before. Which of them has to grow?",
            _upside_down,
        ),
        Misconception(
            "Your B has norm one, whatever alpha is. What is asked of the two norms is something else: what?",
            _unit,
        ),
        Misconception(
            "That is the pair that came in. Are its norms the same size?",
            lambda alpha, B: (alpha, B.copy()),
        ),
        Misconception(
            "Your alpha is right, but B is what it was: the layer has changed. What has to happen to B when alpha is "
            "multiplied by c?",
            lambda alpha, B: (_balanced(alpha, B)[0], B.copy()),
        ),
    ),
    points=_pairs,
)

# --- what one step of gradient descent adds to alpha^2 - ||B||^2 ----------------------------------


def _steps() -> list[tuple[str, tuple[Any, ...]]]:
    found = []
    for i, (label, alpha, R) in enumerate(ALPHAS):
        B, dB = _B(R, 3), _B(R, 4)
        # the gradients of one layer: <B, dB> = alpha dalpha
        found.append((label, (alpha, B, (B * dB).sum() / alpha, dB, (0.1, 0.02, 0.3)[i])))
    return found


def _after(alpha: float, B: Array, dalpha: float, dB: Array, lr: float) -> float:
    return (alpha - lr * dalpha) ** 2 - ((B - lr * dB) ** 2).sum()


def _change(alpha: float, B: Array, dalpha: float, dB: Array, lr: float) -> float:
    return lr**2 * (dalpha**2 - (dB**2).sum())


CHANGE = Values(
    "10",
    "change",
    _change,
    (
        Misconception(
            "You give zero: that is the flow, with steps without length. Which terms does a square leave when lr is "
            "not infinitely small?",
            lambda alpha, B, dalpha, dB, lr: 0.0 * alpha,
        ),
        Misconception(
            "That is the quantity after the step. How much of it was there before?",
            _after,
        ),
        Misconception(
            "Your change is one power of lr too large: such terms are there, but what do they add up to?",
            lambda alpha, B, dalpha, dB, lr: lr * (dalpha**2 - (dB**2).sum()),
        ),
        Misconception(
            "The sign is turned round. In alpha^2 - ||B||^2, which of the two gradients makes the quantity grow?",
            lambda alpha, B, dalpha, dB, lr: -_change(alpha, B, dalpha, dB, lr),
        ),
        Misconception(
            "You add the two squares. With which sign does ||B||^2 stand in the quantity?",
            lambda alpha, B, dalpha, dB, lr: lr**2 * (dalpha**2 + (dB**2).sum()),
        ),
        Misconception(
            "You took the first-order terms, with the signs that make them add. What does the identity of exercise 2 "
            "say about their difference?",
            lambda alpha, B, dalpha, dB, lr: -2 * lr * (alpha * dalpha + (B * dB).sum()),
        ),
        Misconception(
            "Half of it: this is no Taylor series with a factor in front. What is the square of a difference?",
            lambda alpha, B, dalpha, dB, lr: _change(alpha, B, dalpha, dB, lr) / 2,
        ),
        Misconception(
            "You took norms where squares of norms are asked for. What does the quantity hold, ||B|| or its square?",
            lambda alpha, B, dalpha, dB, lr: lr**2 * (abs(dalpha) - np.linalg.norm(dB)),
        ),
    ),
    points=_steps,
    rtol=1e-7,  # an answer that subtracts before from after loses digits to cancellation
)

# --- how far weight decay alone shrinks the update ------------------------------------------------


def _decays() -> list[tuple[str, tuple[Any, ...]]]:
    return [("one step", (0.1, 0.5, 1)), ("ten steps", (0.05, 0.2, 10)), ("no decay", (0.1, 0.0, 5))]


SHRINK = Values(
    "10",
    "shrink",
    lambda lr, decay, steps: (1 - lr * decay) ** (2 * steps),
    (
        Misconception(
            "That is what becomes of B, or of alpha. The update is their product: how many factors of it shrink?",
            lambda lr, decay, steps: (1 - lr * decay) ** steps,
        ),
        Misconception(
            "Your decay does not depend on the learning rate. By what does AdamW multiply the weights in every step?",
            lambda lr, decay, steps: (1 - decay) ** (2 * steps),
        ),
        Misconception(
            "You subtract the same amount in every step. Does a step take a share of the weight as it was at the "
            "start, or as it is now?",
            lambda lr, decay, steps: 1 - 2 * steps * lr * decay,
        ),
        Misconception(
            "That is the share that was lost. Which share is left?",
            lambda lr, decay, steps: 1 - (1 - lr * decay) ** (2 * steps),
        ),
        Misconception(
            "An exponential is the limit of small steps. Do the steps here have a length?",
            lambda lr, decay, steps: np.exp(-2 * lr * decay * steps),
        ),
        Misconception(
            "You shrink four arrays. Which of alpha, A, B and C does the optimizer know?",
            lambda lr, decay, steps: (1 - lr * decay) ** (4 * steps),
        ),
    ),
    points=_decays,
)

EXERCISES = (BALANCED, DALPHA, CHANGE, SHRINK)
