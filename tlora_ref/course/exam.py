"""Short questions for an exam, with answers: the instructor's, and a quiz for each variant of the course.

    bank(seed)          every question with its numbers drawn from the seed, and its answer
    quiz(seed)          some of them, one for each notebook

A question with numbers in it has other ones for every seed; its answer is computed from them. The others are the same
for everyone.

Checked by  tests/test_syllabus.py: numbers against the library's own counts, and no answer in what students get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Draw = Callable[[np.random.Generator], dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """A question and its answer, both ``str.format``-ed with the numbers of ``draw``; which notebook it belongs to."""

    notebook: str
    asks: str
    answer: str
    draw: Draw = lambda rng: {}


@dataclass(frozen=True)
class Asked:
    """A question with its numbers in it."""

    notebook: str
    asks: str
    answer: str
    numbers: dict[str, Any]


def _one(rng: np.random.Generator, *values: int) -> int:
    return int(rng.choice(values))


def _layer(rng: np.random.Generator) -> dict[str, Any]:
    I, O, R = _one(rng, 512, 768, 1024, 2048), _one(rng, 512, 768, 1024, 2048), _one(rng, 4, 8, 16, 32)
    return {"I": I, "O": O, "R": R, "M": _one(rng, 12, 24, 36, 48), "N": _one(rng, 64, 128, 256)}


def _with(**more: Callable[[dict[str, Any]], Any]) -> Draw:
    """The numbers of a layer, and others made of them."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        numbers = _layer(rng)
        return numbers | {name: make(numbers) for name, make in more.items()}

    return draw


def _number(value: float) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


BANK: tuple[Question, ...] = (
    Question(
        "000",
        "Training a model of {n:,} numbers with AdamW in float32: how many bytes do weights, gradient and "
        "optimizer take together?",
        "{a:,}: four numbers of four bytes for each weight.",
        lambda rng: (n := _one(rng, 10, 50, 125, 355) * 10**6) and {"n": n, "a": 16 * n},
    ),
    Question(
        "000",
        "What is the difference between the head of a model and the heads of its attention?",
        "The head is the last layer, which chooses among classes and is new for every task; the heads of attention "
        "are slices of the width that look at tokens separately.",
    ),
    Question("000", "A matrix has equal rows. What is its rank?", "1 (0 if the rows are zero)."),
    Question(
        "00",
        "A and C are random, of shapes ({I}, {R}) and ({R}, {O}). Which share of the squared norm of a fixed "
        "ΔW does the subspace of all A M C hold on average?",
        "R² / (I O) = {a}.",
        _with(a=lambda d: _number(d["R"] ** 2 / (d["I"] * d["O"]))),
    ),
    Question(
        "00",
        "The singular values of a matrix are {s0}, {s1} and {s2}. Which share of its squared norm does its "
        "best approximation of rank 1 hold?",
        "{a}",
        lambda rng: (
            (s := sorted((int(v) for v in rng.choice(np.arange(1, 10), 3, replace=False)), reverse=True))
            and {"s0": s[0], "s1": s[1], "s2": s[2], "a": _number(s[0] ** 2 / sum(v * v for v in s))}
        ),
    ),
    Question(
        "00",
        "Why can training in a random subspace reach more than the projection of full fine-tuning's update into it?",
        "That update is one solution of many. Training finds another one, which lies in the subspace.",
    ),
    Question(
        "00",
        "How many dimensions has the set of all A M C with fixed A ({I}, {R}) and C ({R}, {O})?",
        "R² = {a}.",
        _with(a=lambda d: d["R"] ** 2),
    ),
    Question(
        "01",
        "How many multiplications does ((x A) B) C take for {N} rows, A ({I}, {R}), C ({R}, {O})?",
        "N R (I + R + O) = {a:,}.",
        _with(a=lambda d: d["N"] * d["R"] * (d["I"] + d["R"] + d["O"])),
    ),
    Question(
        "01",
        "Which of TLoRA's arrays starts at which value, and why does nothing change at first?",
        "A and C random, B = 0, alpha = 1. The update alpha A B C is zero because B is.",
    ),
    Question(
        "01",
        "Why may A and C not both be drawn from one stream started at the same seed?",
        "They would hold the same numbers, and the subspace would be a special one.",
    ),
    Question("02", "Write dB of y = x W0 + alpha x A B C.", "dB = alpha u^T g, with u = x A and g = dy C^T."),
    Question(
        "02",
        "At one point <B, dB> = {v} and alpha = {alpha}. What is dalpha?",
        "<B, dB> / alpha = {a}.",
        lambda rng: (
            (v := _one(rng, 3, 6, 12, 24))
            and (alpha := _one(rng, 2, 4, 8))
            and {"v": v, "alpha": alpha, "a": _number(v / alpha)}
        ),
    ),
    Question(
        "02", "Which term of dx knows nothing of dropout on the update?", "dy W0^T: the frozen road drops nothing."
    ),
    Question(
        "02", "What is dalpha at TLoRA's starting point, and why?", "0: it is the sum of B times u^T g, and B = 0."
    ),
    Question(
        "03",
        "Central differences are used with step {h:g} where the third derivative is of order one. Of which order "
        "is the error of truncation?",
        "h² / 6, about {a:.1e}.",
        lambda rng: (h := 10.0 ** -_one(rng, 2, 3, 4)) and {"h": h, "a": h * h / 6},
    ),
    Question(
        "03",
        "Why does the error of a difference grow again when the step gets smaller?",
        "f is rounded; the rounding of the difference, about eps |f|, is divided by the step.",
    ),
    Question(
        "03",
        "Name an operation that silently breaks the complex step.",
        "abs, a norm, a comparison or maximum of complex numbers, a cast to real, a conjugate.",
    ),
    Question(
        "03",
        "A checker compares only norms of gradients. Name a wrong gradient that it accepts.",
        "Any with the right numbers in wrong places, or of the wrong sign.",
    ),
    Question(
        "04",
        "Which bugs of TLoRA's backward can a check at B = 0 and alpha = 1 not see?",
        "A missing or surplus alpha, a wrong dalpha, a wrong adapter part of dx.",
    ),
    Question(
        "04",
        "What does VACUOUS mean in the checker's table?",
        "The gradient is below the noise at this point, so nothing was tested there.",
    ),
    Question(
        "04",
        "Why is a cotangent of ones a bad question for a softmax?",
        "Its rows sum to one, so the right gradient for that cotangent is zero, and many wrong ones are as well.",
    ),
    Question(
        "05",
        "How many numbers does autograd keep for the backward of a TLoRA layer in its leanest form, for {N} rows, "
        "I = {I}, R = {R}, without dropout?",
        "N R + R² = {a:,}: u = x A, and alpha B.",
        _with(a=lambda d: d["N"] * d["R"] + d["R"] ** 2),
    ),
    Question("05", "Why does LoRA keep the input x and TLoRA not?", "LoRA trains A, and dA = x^T du reads x."),
    Question(
        "05",
        "A and C are frozen. May the gradient be cut there on its way down?",
        "No: x still reaches y through them, and the layer below learns from that.",
    ),
    Question(
        "06",
        "How many numbers does TLoRA of rank {R} train on {M} matrices of {I} x {O}?",
        "M (R² + 1) = {a:,}.",
        _with(a=lambda d: d["M"] * (d["R"] ** 2 + 1)),
    ),
    Question(
        "06",
        "How many does LoRA of rank {R} train on {M} matrices of {I} x {O}?",
        "M R (I + O) = {a:,}.",
        _with(a=lambda d: d["M"] * d["R"] * (d["I"] + d["O"])),
    ),
    Question(
        "06",
        "How many bytes does AdamW's state take for {n:,} trained numbers in float32?",
        "{a:,}: two moments.",
        lambda rng: (n := _one(rng, 1000, 4100, 49200)) and {"n": n, "a": 8 * n},
    ),
    Question(
        "06",
        "TLoRA's frozen factors are as large as LoRA's trained ones. Why are they not in its file?",
        "They are drawn again from a seed.",
    ),
    Question(
        "06",
        "Which is the largest rank at which TLoRA trains at most {n:,} numbers on one matrix that is large enough?",
        "{a}",
        lambda rng: (R := _one(rng, 7, 15, 31)) and {"n": (R + 1) ** 2, "a": R},
    ),
    Question(
        "07",
        "Which two directions does LayerNorm's backward remove from gamma times dy?",
        "The row of ones, and x-hat.",
    ),
    Question("07", "The softmax of a row is p, the cotangent dp. Write ds.", "ds = p (dp - sum(dp p))."),
    Question(
        "07",
        "The logits' gradient of cross-entropy over {N} rows: what is it?",
        "(p - onehot) / {N}, times dloss.",
        _with(),
    ),
    Question(
        "07",
        "Why is the gradient of the keys' bias zero?",
        "It adds the same number to all scores of a row, and no softmax notices.",
    ),
    Question(
        "08", "Why is the best rate at the end of a search's grid a bad sign?", "The best one may lie beyond the grid."
    ),
    Question(
        "08",
        "By which factor is ΔW larger under the rule released than under fan_in, for a matrix of {I} x {O}?",
        "sqrt(I / O) = {a}.",
        _with(a=lambda d: _number((d["I"] / d["O"]) ** 0.5)),
    ),
    Question(
        "08",
        "Why are two ways compared in pairs of equal seeds?",
        "What both runs of a pair have in common, batches and their order, drops out of the difference.",
    ),
    Question(
        "08",
        "{n} test images, accuracy near {p}: of which size is the standard error from the images alone?",
        "sqrt(p (1 - p) / n) = {a}.",
        lambda rng: (
            (n := _one(rng, 100, 360, 1000))
            and (p := float(rng.choice([0.7, 0.8, 0.9])))
            and {"n": n, "p": p, "a": _number((p * (1 - p) / n) ** 0.5)}
        ),
    ),
    Question(
        "09",
        "A weight of about 1 in bfloat16, 8 binary digits: an update of which size is lost in a merge?",
        "Below about 2^-9: half the distance to the next number, 2^-8 at most.",
    ),
    Question("09", "As which LoRA is alpha A B C exported?", "down = A, up = alpha B C, with a scale of one."),
    Question(
        "10",
        "Which quantity does gradient flow keep for each TLoRA layer, and what is it at the start?",
        "alpha² - ||B||², which is 1.",
    ),
    Question(
        "10",
        "Under gradient flow alpha = {alpha} at the end of a run from the start. What is ||B||?",
        "sqrt(alpha² - 1) = {a}.",
        lambda rng: (alpha := _one(rng, 2, 3, 5)) and {"alpha": alpha, "a": _number((alpha**2 - 1) ** 0.5)},
    ),
    Question(
        "10",
        "Why may alpha after training not be read as the importance of a layer?",
        "The layer sees alpha B; how the product is split depends on the start and on the optimizer.",
    ),
    Question(
        "11",
        "Two unrelated updates, each {rho} times as long as W0. What is the cosine of the adapted weights?",
        "1 / (1 + rho²) = {a}.",
        lambda rng: (rho := float(rng.choice([0.1, 0.2, 0.3, 0.5]))) and {"rho": rho, "a": _number(1 / (1 + rho**2))},
    ),
    Question(
        "11",
        "Why does a histogram of an adapted weight look normal whatever was learned?",
        "It is W0's histogram: the update is small beside it.",
    ),
    Question(
        "12",
        "DoRA: which direction of a column does dV not have, when the norm is differentiated?",
        "That of the column V_j itself.",
    ),
    Question(
        "12",
        "How many numbers does VeRA of rank {R} train on {M} matrices of {I} x {O}?",
        "M (R + O) = {a:,}.",
        _with(a=lambda d: d["M"] * (d["R"] + d["O"])),
    ),
    Question("12", "Why do LoRTA's gradients add over the matrices?", "All matrices read the same store."),
    Question(
        "13",
        "Name two controls that a report on adapting a language model needs.",
        "Guessing, and what needs no training, such as the frozen model's embeddings with the nearest mean; the head "
        "alone.",
    ),
    Question(
        "14",
        "For which updates does the share that a random subspace captures vary most from draw to draw?",
        "For updates of few directions: there is little to average over.",
    ),
)
"""Every question; by notebook."""


def bank(seed: int = 0) -> list[Asked]:
    """Every question, its numbers drawn from the seed and its own place."""
    found = []
    for place, question in enumerate(BANK):
        numbers = question.draw(np.random.default_rng([seed, place]))
        asks, answer = (text.format(**numbers) if numbers else text for text in (question.asks, question.answer))
        found.append(Asked(question.notebook, asks, answer, numbers))
    return found


def quiz(seed: int) -> list[Asked]:
    """One question for each notebook."""
    asked, rng = bank(seed), np.random.default_rng(seed)
    notebooks = dict.fromkeys(question.notebook for question in asked)
    return [asked[rng.choice([i for i, q in enumerate(asked) if q.notebook == book])] for book in notebooks]


def sheet(title: str, asked: list[Asked], answers: bool) -> str:
    """A page of questions, with answers or without."""
    lines = [f"# {title}", ""]
    for number, question in enumerate(asked, 1):
        lines.append(f"{number}. ({question.notebook}) {question.asks}")
        if answers:
            lines.append(f"   **{question.answer}**")
    return "\n".join(lines) + "\n"
