"""The exercises of notebook 01: one layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..by_hand import tlora_linear_bwd, tlora_linear_fwd
from ..by_hand.kernels import KERNELS
from ..shapes import ShapeError, bind
from ..verification.scenarios import scenarios
from .answers import numbers
from .grader import Judged, Misconception, Values
from .watch import same

Array = np.ndarray

# --- forward: y = x W0 + b + alpha x A B C --------------------------------------------------------

PLACES = ("different sizes", "square", "rank 1", "one row", "two leading axes", "initial point")


def _layers() -> list[tuple[str, tuple[Any, ...]]]:
    cases = [(label, case.args) for label, case in scenarios(KERNELS["tlora_linear"]) if label in PLACES]
    return [(label, tuple(args[n] for n in args if n != "keep_NO")) for label, args in cases]


FORWARD = Values(
    "01",
    "forward",
    lambda x, W0, b, A, B, C, alpha: tlora_linear_fwd(x, W0, b, A, B, C, alpha)[0],
    (
        Misconception(
            "alpha scales the frozen path too. What should your layer give at alpha = 0, and what does it give?",
            lambda x, W0, b, A, B, C, alpha: alpha * (x @ W0 + x @ A @ B @ C) + b,
        ),
        Misconception(
            "Your output does not depend on alpha. Which of the two paths is it meant to make louder or quieter?",
            lambda x, W0, b, A, B, C, alpha: x @ W0 + b + x @ A @ B @ C,
        ),
        Misconception(
            "At B = 0 your layer gives zeros. What did the layer give before the adapter was attached?",
            lambda x, W0, b, A, B, C, alpha: alpha * x @ A @ B @ C,
        ),
        Misconception(
            "Your output differs from ours by the same row everywhere. Which argument did you not use?",
            lambda x, W0, b, A, B, C, alpha: x @ W0 + alpha * x @ A @ B @ C,
        ),
        Misconception(
            "You multiply by B the wrong way round, which only a square B allows. Which axis of B must meet u's?",
            lambda x, W0, b, A, B, C, alpha: x @ W0 + b + alpha * x @ A @ B.T @ C,
        ),
        Misconception(
            "Your W0 is stored (out, in), as in torch.nn.Linear. How is it stored here, says its name?",
            lambda x, W0, b, A, B, C, alpha: x @ W0.T + b + alpha * x @ A @ B @ C,
        ),
        Misconception(
            "The bias goes through alpha in your layer. Is it part of the frozen layer or of the update?",
            lambda x, W0, b, A, B, C, alpha: x @ W0 + alpha * (x @ A @ B @ C + b),
        ),
    ),
    points=_layers,
)

# --- start: draws of A, B, C and alpha ------------------------------------------------------------

SIZES = ((6, 2, 4, 0), (3, 3, 3, 1), (5, 1, 7, 2), (9, 3, 8, 3))  # I, R, O, seed

NOT_THE_SAME = (
    "With your draw the layer is no longer the one that was pretrained: y changes before any training. "
    "Which single array, set to zero, makes A B C vanish?"
)
A_OR_C_ZERO = (
    "Nothing has changed, but nothing can: with your draw dB is zero, and dalpha too. dB holds A and C. "
    "Which of the three matrices may be zero without stopping its own gradient?"
)
ALPHA_ZERO = (
    "Nothing has changed, but B stands still on the first step: dB = 0. "
    "What does dB = alpha u^T g need alpha to be, for B to move?"
)
ALL_ZERO = (
    "This is a stationary point: dB and dalpha are both zero for every input, and training would never leave it. "
    "Which of your zeros can you do without?"
)
NOT_RANDOM = (
    "A and C are the same whatever the seed. Every adapted matrix would then search in the same directions. "
    "What in your code depends on the seed?"
)
WRONG_ALPHA = "The paper starts at the one value of alpha at which W0 + alpha A B C is W0 + A B C. Which one is it?"
UNSEEDED = (
    "Called twice with the same seed, you draw different numbers. Nobody could repeat your run: which of your draws "
    "does not come from the seed?"
)
ONE_STREAM = (
    "Your C is made of the same random numbers as your A. Two draws from one seed, each begun anew, are one draw: "
    "how many generators do you need?"
)
SAME_RANDOM = (
    "Every column of your A, or every row of your C, is a multiple of the first one: its rank is one, so B's R x R "
    "numbers do no more than a single one could. How many numbers did you draw?"
)


def _start(I: int, R: int, O: int, seed: int) -> tuple[Array, Array, Array, float]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((I, R)), np.zeros((R, R)), rng.standard_normal((R, O)), 1.0


def _judge_start(answer: Any) -> str:
    for I, R, O, seed in SIZES:
        returned = answer(I, R, O, seed)
        if not isinstance(returned, (tuple, list)) or len(returned) != 4:
            return "Four things are asked for, in this order: A_IR, B_RR, C_RO, alpha."
        A_IR, B_RR, C_RO, alpha = map(numbers, returned)
        try:
            bind("your start", A_IR=A_IR, B_RR=B_RR, C_RO=C_RO)
        except ShapeError as error:
            return f"The shapes do not fit each other for I = {I}, R = {R}, O = {O}: {error}."
        if (np.shape(A_IR), np.shape(C_RO), np.shape(alpha)) != ((I, R), (R, O), ()):
            shapes = f"A has shape {A_IR.shape}, C {C_RO.shape}, alpha {np.shape(alpha)}"
            return f"For I = {I}, R = {R}, O = {O}: {shapes}, expected {(I, R)}, {(R, O)} and ()."
        rng = np.random.default_rng(100 + seed)
        x_NI, W0_IO, dy_NO = (rng.standard_normal(shape) for shape in ((8, I), (I, O), (8, O)))
        y_NO, cache = tlora_linear_fwd(x_NI, W0_IO, None, A_IR, B_RR, C_RO, alpha)
        grads = tlora_linear_bwd(dy_NO, cache)
        if not np.array_equal(y_NO, x_NI @ W0_IO):
            return NOT_THE_SAME
        if not np.any(grads["B"]):
            if not np.any(A_IR) or not np.any(C_RO):
                return A_OR_C_ZERO
            return ALL_ZERO if not np.any(B_RR) else ALPHA_ZERO
        if alpha != 1:
            return WRONG_ALPHA
        other = answer(I, R, O, seed + 1)
        if np.array_equal(other[0], A_IR) or np.array_equal(other[2], C_RO):
            return NOT_RANDOM
        if not same((A_IR, C_RO), tuple(map(numbers, answer(I, R, O, seed)))[::2]):
            return UNSEEDED
        if _one_stream(A_IR, C_RO):
            return ONE_STREAM
        if np.linalg.matrix_rank(A_IR) < min(I, R) or np.linalg.matrix_rank(C_RO) < min(R, O):
            return SAME_RANDOM
    return ""


def _one_stream(A_IR: Array, C_RO: Array) -> bool:
    """Whether one is made of the other's numbers, in any order of the axes and at any scale."""
    for A, C in ((A_IR, C_RO), (A_IR.T, C_RO), (A_IR, C_RO.T), (A_IR.T, C_RO.T)):
        n = min(A.size, C.size)
        if n > 3 and abs(np.corrcoef(A.ravel()[:n], C.ravel()[:n])[0, 1]) > 1 - 1e-9:
            return True
    return False


def _ranks_of_one(I: int, R: int, O: int, seed: int) -> tuple[Array, Array, Array, float]:
    rng = np.random.default_rng(seed)
    A_IR, C_RO = rng.standard_normal((I, 1)) * np.ones((1, R)), np.ones((R, 1)) * rng.standard_normal((1, O))
    return A_IR, np.zeros((R, R)), C_RO, 1.0


def _with(**changes: Any) -> Any:
    """The reference with some of its four results exchanged: A, B, C or alpha -> function of what was drawn."""

    def start(I: int, R: int, O: int, seed: int) -> tuple[Any, ...]:
        drawn = dict(zip("ABC", _start(I, R, O, seed), strict=False)) | {"alpha": 1.0}
        return tuple(changes[name](value) if name in changes else value for name, value in drawn.items())

    return start


START = Judged(
    "01",
    "start",
    _start,
    (
        Misconception(NOT_THE_SAME, _with(B=lambda B: np.eye(len(B)))),
        Misconception(A_OR_C_ZERO, _with(A=np.zeros_like, B=lambda B: B + 1)),
        Misconception(ALPHA_ZERO, _with(B=lambda B: B + 1, alpha=lambda alpha: 0.0)),
        Misconception(ALL_ZERO, _with(alpha=lambda alpha: 0.0)),
        Misconception(WRONG_ALPHA, _with(alpha=lambda alpha: 0.5)),
        Misconception(NOT_RANDOM, lambda I, R, O, seed: _start(I, R, O, 0)),
        Misconception(SAME_RANDOM, _ranks_of_one),
        Misconception(UNSEEDED, _with(A=lambda A: np.random.default_rng().standard_normal(A.shape))),
        Misconception(
            ONE_STREAM,
            lambda I, R, O, seed: (
                np.random.default_rng(seed).standard_normal((I, R)),
                np.zeros((R, R)),
                np.random.default_rng(seed).standard_normal((R, O)),
                1.0,
            ),
        ),
    ),
    rule=_judge_start,
    passes=f"the pretrained layer to the last bit, B can move, and A and C are apart, at {len(SIZES)} sizes and seeds",
)

# --- cost: multiply-adds of x A B C, from left to right -------------------------------------------

COST = Values(
    "01",
    "cost",
    lambda N, I, R, O: N * I * R + N * R * R + N * R * O,
    (
        Misconception(
            "That is the price of building A B C first. Which product do you start with, read from left to right?",
            lambda N, I, R, O: I * R * R + I * R * O + N * I * O,
        ),
        Misconception(
            "Your count does not grow with the number of rows. What does x have N of?",
            lambda N, I, R, O: I * R + R * R + R * O,
        ),
        Misconception(
            "That is every size multiplied with every other. How many numbers has u = x A, and what does each cost?",
            lambda N, I, R, O: N * I * R * R * O,
        ),
        Misconception(
            "You counted multiplications and additions apart. A multiply-add is both: how many does a dot product of "
            "length I take?",
            lambda N, I, R, O: 2 * (N * I * R + N * R * R + N * R * O),
        ),
        Misconception(
            "The frozen product x W0 is in your count. What was asked for is the update alone: what does it add?",
            lambda N, I, R, O: N * I * O + N * I * R + N * R * R + N * R * O,
        ),
        Misconception(
            "That is LoRA's count, of two products. How many products are there in x A B C?",
            lambda N, I, R, O: N * I * R + N * R * O,
        ),
    ),
    points=lambda: [
        ("N = 1", (1, 7, 2, 5)),
        ("a small layer", (8, 6, 2, 4)),
        ("a square one", (3, 3, 3, 3)),
        ("RoBERTa-large", (512, 1024, 32, 1024)),
    ],
    whole=True,
)

EXERCISES = (FORWARD, START, COST)
