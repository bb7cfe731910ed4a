"""The exercises of notebook 06: counting."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

from ..counts import Counts, trained
from .grader import Misconception, Values

Matrices = list[tuple[int, int]]

LARGE: Matrices = [(1024, 1024)] * 48  # query and value of RoBERTa-large's 24 layers
MIXED: Matrices = [(6, 4), (4, 9), (7, 7)]

# --- trained: TLoRA's trained numbers -------------------------------------------------------------

TRAINED = Values(
    "06",
    "trained",
    lambda matrices, R: trained("tlora", matrices, R),
    (
        Misconception(
            "You count the entries of every B and nothing else. Which one number beside it is trained?",
            lambda matrices, R: sum(R * R for _ in matrices),
        ),
        Misconception(
            "You count one alpha for the whole model. Does each adapted matrix share it, or have its own?",
            lambda matrices, R: len(matrices) * R * R + 1,
        ),
        Misconception(
            "A and C are in your count. They are in memory, but does the optimizer ever see them?",
            lambda matrices, R: sum(R * R + 1 + R * (I + O) for I, O in matrices),
        ),
        Misconception(
            "That is LoRA's count: it grows with the width. Which of TLoRA's three factors has the width of the model, "
            "and is it trained?",
            lambda matrices, R: trained("lora", matrices, R),
        ),
        Misconception(
            "You counted for one matrix. How many of them are there?",
            lambda matrices, R: R * R + 1,
        ),
        Misconception(
            "Your count grows with R, the right one faster. How many rows does B have, and how many columns?",
            lambda matrices, R: sum(2 * R + 1 for _ in matrices),
        ),
    ),
    points=lambda: [
        ("RoBERTa-large, rank 8", (LARGE, 8)),
        ("rank 16", (LARGE, 16)),
        ("rank 32", (LARGE, 32)),
        ("three sizes, rank 3", (MIXED, 3)),
        ("one matrix, rank 1", ([(5, 8)], 1)),
    ],
    whole=True,
)

# --- ratio: how many times as many does LoRA of the same rank train? ------------------------------


def _full(matrices: Matrices) -> int:
    return sum(I * O for I, O in matrices)


RATIO = Values(
    "06",
    "ratio",
    lambda matrices, R: trained("lora", matrices, R) / trained("tlora", matrices, R),
    (
        Misconception(
            "That is the ratio to training the matrices themselves, which is the slip in the paper's sentence. Asked "
            "for is the one in its table: against what?",
            lambda matrices, R: _full(matrices) / trained("tlora", matrices, R),
        ),
        Misconception(
            "Your ratio is the right one upside down. Which of the two methods trains more?",
            lambda matrices, R: trained("tlora", matrices, R) / trained("lora", matrices, R),
        ),
        Misconception(
            "You compare with LoRA of rank 8 whatever the rank. Which rank is LoRA to have?",
            lambda matrices, R: trained("lora", matrices, 8) / trained("tlora", matrices, R),
        ),
        Misconception(
            "Your ratio is a little too large: something small is missing below the line. What does each matrix train "
            "beside B?",
            lambda matrices, R: trained("lora", matrices, R) / (len(matrices) * R * R),
        ),
        Misconception(
            "Your ratio is rounded down. Can the reader of a table tell 63.9 from 63 then?",
            lambda matrices, R: trained("lora", matrices, R) // trained("tlora", matrices, R),
        ),
        Misconception(
            "You count one of LoRA's two factors. Does LoRA train its A as well?",
            lambda matrices, R: trained("lora_fa", matrices, R) / trained("tlora", matrices, R),
        ),
    ),
    points=lambda: [
        ("RoBERTa-large, rank 8", (LARGE, 8)),
        ("rank 16", (LARGE, 16)),
        ("rank 32", (LARGE, 32)),
        ("three sizes, rank 2", (MIXED, 2)),
    ],
)

# --- bytes: the file and AdamW --------------------------------------------------------------------


def _counts(n: int, frozen: int, from_seed: bool, itemsize: int) -> tuple[int, int]:
    c = Counts(base=0, trained=n, frozen_random=frozen, optimizer=2 * n, from_seed=from_seed)
    return c.stored_bytes(itemsize), c.optimizer_bytes(itemsize)


BYTES = Values(
    "06",
    "bytes",
    _counts,
    (
        Misconception(
            "Your file holds the frozen factors whether or not a seed draws them again. Which methods need not write "
            "them?",
            lambda n, frozen, seed, b: ((n + frozen) * b, 2 * n * b),
        ),
        Misconception(
            "Your file never holds the frozen factors. Where does a reader get them if no seed draws them again?",
            lambda n, frozen, seed, b: (n * b, 2 * n * b),
        ),
        Misconception(
            "AdamW keeps more than one number for each trained one. Which two averages does it update at every step?",
            lambda n, frozen, seed, b: ((n + (0 if seed else frozen)) * b, n * b),
        ),
        Misconception(
            "Your optimizer keeps moments of the frozen factors too. Do they have a gradient to average?",
            lambda n, frozen, seed, b: ((n + (0 if seed else frozen)) * b, 2 * (n + frozen) * b),
        ),
        Misconception(
            "Those are numbers and not bytes. How long is one number?",
            lambda n, frozen, seed, b: (n + (0 if seed else frozen), 2 * n),
        ),
        Misconception(
            "Those are bits. What is the unit of the size that you were given?",
            lambda n, frozen, seed, b: (8 * (n + (0 if seed else frozen)) * b, 16 * n * b),
        ),
        Misconception(
            "Your two results are in the other order. Which one is asked for first?",
            lambda n, frozen, seed, b: (2 * n * b, (n + (0 if seed else frozen)) * b),
        ),
        Misconception(
            "You have the seed the wrong way round: which factors can be drawn again, and which must be written?",
            lambda n, frozen, seed, b: ((n + (frozen if seed else 0)) * b, 2 * n * b),
        ),
    ),
    points=lambda: [
        ("TLoRA, rank 32", (49_200, 3_145_728, True, 4)),
        ("LoRA-XS, rank 16", (24_576, 3_145_728, False, 4)),
        ("float16", (17, 30, False, 2)),
        ("nothing frozen", (260, 0, True, 8)),
    ],
    whole=True,
)

# --- rank_for: TLoRA's largest rank within LoRA's budget ------------------------------------------


def _largest(I: int, O: int, r: int) -> int:
    # R^2 + 1 <= r (I + O), and no larger than the matrix
    return min(isqrt(r * (I + O) - 1), I, O)


def _budget(change: Callable[[int, int, int], int]) -> Any:
    return lambda I, O, r: min(change(I, O, r), I, O)


RANK_FOR = Values(
    "06",
    "rank_for",
    _largest,
    (
        Misconception(
            "At 1024 x 1024 and rank 8 your rank trains one number too many. Which one did you forget?",
            _budget(lambda I, O, r: isqrt(r * (I + O))),
        ),
        Misconception(
            "Your rank goes over the budget: one size less would fit. In which direction must one round?",
            _budget(lambda I, O, r: isqrt(r * (I + O) - 1) + 1),
        ),
        Misconception(
            "Your rank is larger than a side of the matrix where the budget allows it. What rank can an I x O matrix "
            "have at most?",
            lambda I, O, r: isqrt(r * (I + O) - 1),
        ),
        Misconception(
            "That is LoRA's own rank. Does TLoRA at that rank train as many as LoRA?",
            lambda I, O, r: r,
        ),
        Misconception(
            "Your budget is that of one of LoRA's two factors. How many does it train?",
            _budget(lambda I, O, r: isqrt(r * I - 1)),
        ),
        Misconception(
            "You took no root: your rank is a number of parameters. How does TLoRA's count grow with its rank?",
            _budget(lambda I, O, r: r * (I + O) - 1),
        ),
        Misconception(
            "Your budget is that of the whole matrix. Whose count is TLoRA's to stay below?",
            _budget(lambda I, O, r: isqrt(I * O - 1)),
        ),
    ),
    points=lambda: [
        ("1024 x 1024, rank 8", (1024, 1024, 8)),
        ("768 x 3072, rank 4", (768, 3072, 4)),
        ("30 x 50, rank 3", (30, 50, 3)),
        ("64 x 64, rank 64", (64, 64, 64)),
        ("7 x 5, rank 1", (7, 5, 1)),
        ("10 x 7, rank 1", (10, 7, 1)),
        ("50 x 4, rank 8", (50, 4, 8)),
        ("4 x 50, rank 8", (4, 50, 8)),
    ],
    whole=True,
)

EXERCISES = (TRAINED, RATIO, BYTES, RANK_FOR)
