"""How far one step moves dW, and what that says about carrying a learning rate from one size to another.

Equation    The first step from B = 0, with every entry of B moved by the learning rate eta, as Adam does (its first
            update is the gradient's sign), moves dW = A B C to A S C eta with signs S (R, R). Its entries have the root
            mean square
                TLoRA released   eta sqrt(R / (9 O))        TLoRA fan_in   eta sqrt(R / (9 I))
                LoRA             s eta sqrt(R / (3 I))
Proof       ||A S C||^2 = tr(A^T A S C C^T S^T). For the orthogonal factors A^T A = I / (3 R) 1 and C C^T = 1 / 3, so it
            is I / (9 R) ||S||^2 = I R / 9 whatever the signs, exactly; divided by I O it is R / (9 O). For the released
            draw both hold on average and up to sqrt(R / I) and sqrt(R / O), and the signs, which depend on A and C,
            change nothing else. LoRA's A^T A is 1 / 3 (uniform in +-1 / sqrt(I)), so ||A S||^2 = R O / 3.
            Plain gradient descent moves B by -eta A^T D C^T, and dW by -eta A A^T D C^T C: along the captured
            directions that is eta I / (9 R) times the full gradient's step for the released rule, eta O / (9 R) for
            fan_in, eta s^2 / 3 for LoRA: with the released rule it grows with the width, and so must 1 / eta.
Units       Two quantities may be what has to stay the same when the size changes:
                "entry"   the root mean square of dW's entries, eta sqrt(R / (9 O)): then the best eta goes as sqrt(O /
                          R)
                "output"  what a row x with entries of size 1 feels when all signs agree with it. u = x A has entries of
                          size sqrt(I / (3 R)), u S entries of size R sqrt(I / (3 R)) eta, and (u S) C of size
                          eta R sqrt(I / O) / 3: then the best eta goes as 1 / R on square matrices, of any width.
            The second is the argument of muP (G. Yang and E. Hu, arXiv 2203.03466), in which a hidden matrix's Adam
            rate goes as 1 / width: there an aligned output is eta I, here A and C have the width in them already.
Checked by  tests/test_subspace.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np

from ...shapes import InputError

UNITS: dict[str, Callable[[float, int, int, int], float]] = {
    "rate": lambda lr, I, O, R: lr,
    "entry": lambda lr, I, O, R: lr * sqrt(R / (9 * O)),
    "output": lambda lr, I, O, R: lr * R * sqrt(I / O) / 3,
}
"""In which unit a learning rate of the released TLoRA is measured: as it is, or by what its first step moves."""

FIRST_STEP: dict[str, Callable[[float, int, int, int], float]] = {
    "released": UNITS["entry"],
    "orthonormal": UNITS["entry"],
    "fan_in": lambda lr, I, O, R: lr * sqrt(R / (9 * I)),
    "lora": lambda lr, I, O, R: lr * sqrt(R / (3 * I)),
}
"""The root mean square of dW's entries after Adam's first step: TLoRA by its rule, LoRA with scale 1."""


def carried_rate(lr: float, before: tuple[int, int, int], after: tuple[int, int, int], unit: str = "output") -> float:
    """The learning rate for TLoRA on (I, O, R) = ``after`` that is the given one for ``before``, in that unit.

    Raises InputError for an unknown unit.
    """
    if unit not in UNITS:
        raise InputError(f"unit is {unit!r}, expected one of {', '.join(UNITS)}")
    return lr * UNITS[unit](1.0, *before) / UNITS[unit](1.0, *after)


def best_of_curve(curve: Mapping[float, float]) -> float:
    """Where a curve of losses over learning rates is lowest: the vertex of the parabola in log rate through the lowest
    point and its neighbours, or the lowest point where it is at an end."""
    rates = sorted(curve)
    lowest = min(range(len(rates)), key=lambda i: curve[rates[i]])
    if lowest in (0, len(rates) - 1):
        return rates[lowest]
    three = rates[lowest - 1 : lowest + 2]
    square, linear, _ = np.polyfit(np.log(three), [curve[rate] for rate in three], 2)
    return float(np.exp(-linear / (2 * square)))


def exponents(best: Sequence[tuple[int, int, float]]) -> tuple[float, float]:
    """(a, b) of the fit  best rate = constant * width^a * rank^b  to triples (width, rank, best rate)."""
    width, rank, rate = (np.log(np.array(column, dtype=float)) for column in zip(*best, strict=True))
    solution = np.linalg.lstsq(np.stack([np.ones_like(width), width, rank], axis=1), rate, rcond=None)[0]
    return float(solution[1]), float(solution[2])


def spread(best: Sequence[tuple[int, int, float]], unit: str) -> float:
    """By which factor the best rates differ from size to size, measured in a unit: the exponential of the standard
    deviation of their logarithms, 1 where they all agree."""
    values = [UNITS[unit](rate, width, width, rank) for width, rank, rate in best]
    return float(np.exp(np.std(np.log(values))))
