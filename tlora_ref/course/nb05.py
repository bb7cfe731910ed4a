"""The exercises of notebook 05: frozen but differentiable, and what is kept for the backward."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations
from typing import Any

import numpy as np

from ..by_hand.methods.lora_xs import tri_linear_fwd
from ..counts import activations
from .grader import Judged, Misconception, Values
from .kept import kept_by_torch

Array = np.ndarray


# --- below: the gradient of a B that has another adapted layer above it ---------------------------


def _two_layers(seed: int, N: int, I: int, D: int, O: int, R: int, S: int, alphas: tuple[float, float]) -> Any:
    rng = np.random.default_rng(seed)
    shapes = ((N, O), (N, R), (S, D), (D, O), (D, S), (S, R), (R, O))
    dy, u1, C1, W2, A2, B2, C2 = (rng.standard_normal(shape) for shape in shapes)
    return dy, u1, C1, alphas[0], W2, A2, B2, C2, alphas[1]


def _stacks() -> list[tuple[str, tuple[Any, ...]]]:
    first = _two_layers(2, 4, 5, 6, 3, 2, 3, (1.7, 0.6))
    return [
        ("different sizes", _two_layers(0, 5, 7, 6, 4, 3, 2, (1.7, -0.6))),
        ("square", _two_layers(1, 4, 4, 4, 4, 4, 4, (0.7, 1.3))),
        ("upper B = 0", (*first[:6], np.zeros_like(first[6]), *first[7:])),
    ]


def _below(dh: Callable[..., Array]) -> Callable[..., Array]:
    """dB of the lower layer, with its dh computed by ``dh`` from (dy, W2, A2, B2, C2, alpha2)."""
    return lambda dy, u1, C1, a1, W2, A2, B2, C2, a2: a1 * u1.T @ (dh(dy, W2, A2, B2, C2, a2) @ C1.T)


def _dh(dy: Array, W2: Array, A2: Array, B2: Array, C2: Array, a2: float) -> Array:
    return dy @ W2.T + a2 * dy @ C2.T @ B2.T @ A2.T


BELOW = Values(
    "05",
    "below",
    _below(_dh),
    (
        Misconception(
            "The upper layer's update passes nothing down in your answer. Its A and C are frozen: does h no longer "
            "reach y through them?",
            _below(lambda dy, W2, A2, B2, C2, a2: dy @ W2.T),
        ),
        Misconception(
            "The upper layer's frozen weight passes nothing down in your answer. Who asked for the gradient of W2, "
            "and who asks for that of h?",
            _below(lambda dy, W2, A2, B2, C2, a2: a2 * dy @ C2.T @ B2.T @ A2.T),
        ),
        Misconception(
            "The upper layer's alpha is missing on the way down. How much of its update reaches y if alpha is small?",
            _below(lambda dy, W2, A2, B2, C2, a2: dy @ W2.T + dy @ C2.T @ B2.T @ A2.T),
        ),
        Misconception(
            "The upper layer's alpha stands before its frozen weight as well. Which of the two paths does it scale?",
            _below(lambda dy, W2, A2, B2, C2, a2: a2 * (dy @ W2.T + dy @ C2.T @ B2.T @ A2.T)),
        ),
        Misconception(
            "The lower layer's own alpha is missing. How does its B enter h?",
            lambda dy, u1, C1, a1, *upper: u1.T @ (_dh(dy, *upper) @ C1.T),
        ),
        Misconception(
            "The two paths of the upper layer are subtracted in your answer. How are they put together in y?",
            _below(lambda dy, W2, A2, B2, C2, a2: dy @ W2.T - a2 * dy @ C2.T @ B2.T @ A2.T),
        ),
        Misconception(
            "You scaled by the upper layer's alpha where the lower one's belongs. Whose B is it?",
            lambda dy, u1, C1, a1, *upper: upper[-1] * u1.T @ (_dh(dy, *upper) @ C1.T),
        ),
    ),
    points=_stacks,
)

# --- keep: which of x, u = x A, v = u M does the backward need? -----------------------------------

CHOICES = tuple(trains for n in range(4) for trains in combinations("AMC", n))
"""Every set of factors of x A M C that may be trained."""

NO_SET = "Expected is a set with some of the three names 'x', 'u', 'v'. What did your function give back?"
EVERYTHING = (
    "You keep all three even when nothing trains. The dx of a frozen layer is made of dy and weights: which of x, u, "
    "v is in it?"
)
FOR_W0 = "You keep x when nothing trains. A frozen W0 passes dy on; which gradient, not asked for, would read x?"
WHAT_IT_MAKES = (
    "For some factor you do not keep what its gradient reads. In dB = alpha u^T g, is u what goes into B, or what "
    "comes out?"
)
FOR_DU = (
    "With A alone trained you keep more than is read. Its gradient is x^T du: is du made of activations, or of dy "
    "and weights?"
)
X_FOR_M = "With M alone trained you keep x. It was needed to make u, in the forward: who asks for it afterwards?"
V_FOR_M = "With M alone trained you keep v. Whose gradient multiplies v by dy, and is that one trained?"
U_FOR_C = "With C alone trained you keep more than its gradient reads. What goes into C?"
ONE_FOR_ALL = "Your answer is right for one trained factor, but not for several. Can one of them do the other's work?"


def _needed(trains: Collection[str]) -> set[str]:
    """What the kernel keeps: the slots of its cache that are not None."""
    x_NI, W0_IO, A_IR, M_RS, C_SO = (np.ones(shape) for shape in ((1, 2), (2, 2), (2, 1), (1, 1), (1, 2)))
    _, kept = tri_linear_fwd(x_NI, W0_IO, None, A_IR, M_RS, C_SO, 1.0, trains=tuple(trains))
    return {name for name, array in zip("xuv", kept, strict=False) if array is not None}


def _judge_keep(answer: Any) -> str:
    kept_for = {}
    for trains in CHOICES:
        kept = answer(set(trains))
        if not isinstance(kept, (set, frozenset, list, tuple)) or not set(kept) <= set("xuv"):
            return NO_SET
        kept_for[trains] = set(kept)
    if kept_for[()]:
        return FOR_W0 if kept_for[()] == {"x"} else EVERYTHING
    for trains in CHOICES[1:4]:
        if not _needed(trains) <= kept_for[trains]:
            return WHAT_IT_MAKES
    if kept_for["A",] != _needed("A"):
        return FOR_DU
    if kept_for["M",] != _needed("M"):
        return X_FOR_M if "x" in kept_for["M",] else V_FOR_M
    if kept_for["C",] != _needed("C"):
        return U_FOR_C
    return ONE_FOR_ALL if any(kept_for[trains] != _needed(trains) for trains in CHOICES) else ""


def _keep(**names: str) -> Callable[[Collection[str]], set[str]]:
    """An answer that keeps the given names for each trained factor."""
    table = {"A": "x", "M": "u", "C": "v"} | names
    return lambda trains: {name for factor in trains for name in table[factor]}


KEEP = Judged(
    "05",
    "keep",
    _keep(),
    (
        Misconception(EVERYTHING, lambda trains: {"x", "u", "v"}),
        Misconception(FOR_W0, lambda trains: {"x"} | _needed(trains)),
        Misconception(WHAT_IT_MAKES, _keep(A="u", M="v", C="")),
        Misconception(FOR_DU, _keep(A="xuv")),
        Misconception(X_FOR_M, _keep(M="xu")),
        Misconception(V_FOR_M, _keep(M="uv")),
        Misconception(U_FOR_C, _keep(C="uv")),
        Misconception(ONE_FOR_ALL, lambda trains: set(sorted(_needed(trains), reverse=True)[:1])),
        Misconception(NO_SET, lambda trains: {"x_NI"} if "A" in trains else set()),
    ),
    rule=_judge_keep,
    passes=f"the same as the kernel keeps for all {len(CHOICES)} choices of what trains",
)

# --- memory: numbers kept by one adapted matrix, TLoRA and LoRA -----------------------------------


def _memory(
    tlora: Callable[..., int] | None = None, lora: Callable[..., int] | None = None
) -> Callable[..., tuple[int, int]]:
    """An answer with one of its two formulas, of (N, I, O, R, p), exchanged."""

    def right(method: str) -> Callable[..., int]:
        return lambda N, I, O, R, p: activations(method, N, I, O, R, p)

    first, second = tlora or right("tlora"), lora or right("lora")
    return lambda *sizes: (first(*sizes), second(*sizes))


MEMORY = Values(
    "05",
    "memory",
    _memory(),
    (
        Misconception(
            "Your TLoRA keeps x. Which gradient would read it, and is that one asked for?",
            _memory(tlora=lambda N, I, O, R, p: N * I + N * R + R * R + p * N * O),
        ),
        Misconception(
            "Your TLoRA keeps the update, for dalpha. Which smaller array, that is kept anyway, gives dalpha too?",
            _memory(tlora=lambda N, I, O, R, p: N * R + R * R + N * O + p * N * O),
        ),
        Misconception(
            "Your TLoRA keeps nothing for dx. On its way down dy meets a product of two trained things that torch made "
            "in the forward: which?",
            _memory(tlora=lambda N, I, O, R, p: N * R + p * N * O),
        ),
        Misconception(
            "Your counts are the same with dropout as without. Where does the backward find out what was dropped?",
            lambda N, I, O, R, p: (N * R + R * R, N * I + N * R),
        ),
        Misconception(
            "Your LoRA keeps x and no more. Its second factor trains as well: what does that one's gradient read?",
            _memory(lora=lambda N, I, O, R, p: N * I + p * N * I),
        ),
        Misconception(
            "Your LoRA's mask has the size of y. What is it that LoRA drops, the input of the branch or the update?",
            _memory(lora=lambda N, I, O, R, p: N * I + N * R + p * N * O),
        ),
        Misconception(
            "Your TLoRA's mask has the size of x. What is it that TLoRA drops, the input of the branch or the update?",
            _memory(tlora=lambda N, I, O, R, p: N * R + R * R + p * N * I),
        ),
        Misconception(
            "The weights are in your counts. They are there whether anything is trained or not: what comes on top of "
            "them?",
            lambda N, I, O, R, p: (
                N * R + R * R + p * N * O + R * (I + O) + R * R,
                N * I + N * R + p * N * I + R * (I + O),
            ),
        ),
    ),
    points=lambda: [
        ("different sizes", (5, 7, 4, 3, False)),
        ("with dropout", (5, 7, 4, 3, True)),
        ("rank 1", (6, 3, 8, 1, True)),
        ("RoBERTa-large", (4096, 1024, 1024, 32, False)),
    ],
    whole=True,
)

# --- lean: the update in torch, in an order that keeps N R + R S ----------------------------------

LEAN = {"N": 40, "I": 7, "O": 5, "R": 3, "S": 2}
NO_TENSOR = "What came back is no tensor of shape (N, O). Does your function give back the update?"
OTHER_NUMBERS = "The numbers are not those of alpha x A B C. Is every factor there once, and in this order?"
NO_GRADIENT = (
    "Nothing is kept, but nothing can be trained either: your update has no gradient. Which of the five arguments may "
    "be detached, and which not?"
)
LOST = "One of x, B and alpha gets no gradient, or a wrong one. What was cut off from the graph: is it really frozen?"
KEEPS_UPDATE = (
    "Autograd keeps an array of N x O. Multiplying by a trained alpha keeps the other factor: how large is that one "
    "in your order?"
)
KEEPS_X = "Autograd keeps x. What is it multiplied with in your order: something frozen, or something that trains?"
KEEPS_WIDE = (
    "Of the data autograd keeps u alone, but also a trained product that reaches from R to O: dx is made of it. Which "
    "trained product is smaller, and can meet u first?"
)
KEEPS_TWO = (
    "Autograd keeps two arrays of N rows, for the two trained factors. Is there an order in which both meet before "
    "they meet the data?"
)


def _lean_arguments() -> tuple[Any, ...]:
    """x, A, B, C, alpha as they stand inside a model: x, B and alpha need gradients."""
    import torch

    rng = torch.Generator().manual_seed(5)
    n = LEAN
    shapes = ((n["N"], n["I"]), (n["I"], n["R"]), (n["R"], n["S"]), (n["S"], n["O"]))
    x, A, B, C = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    alpha = torch.tensor(1.7, dtype=torch.float64)
    return x.requires_grad_(), A, B.requires_grad_(), C, alpha.requires_grad_()


def _judge_lean(answer: Any) -> str:
    import torch

    x, A, B, C, alpha = arguments = _lean_arguments()
    out, right = answer(*arguments), (x @ A) @ (alpha * B) @ C
    if not isinstance(out, torch.Tensor) or out.shape != right.shape:
        return NO_TENSOR
    if not torch.allclose(out, right, rtol=1e-10, atol=1e-10):
        return OTHER_NUMBERS
    if not out.requires_grad:
        return NO_GRADIENT
    dy = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).reshape(out.shape)
    wrt = (x, B, alpha)
    gradients, expected = (torch.autograd.grad(y, wrt, dy, allow_unused=True) for y in (out, right))
    if not all(
        a is not None and torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(gradients, expected, strict=True)
    ):
        return LOST
    sizes = kept_by_torch(lambda: answer(*arguments), (A, B, C, alpha))
    n = LEAN
    if sum(sizes) <= n["N"] * n["R"] + n["R"] * n["S"]:
        return ""
    if n["N"] * n["I"] in sizes:
        return KEEPS_X
    if n["N"] * n["O"] in sizes:
        return KEEPS_UPDATE
    return KEEPS_WIDE if n["R"] * n["O"] in sizes else KEEPS_TWO


LEAN_UPDATE = Judged(
    "05",
    "lean",
    lambda x, A, B, C, alpha: (x @ A) @ (alpha * B) @ C,
    (
        Misconception(KEEPS_UPDATE, lambda x, A, B, C, alpha: alpha * (x @ A @ B @ C)),
        Misconception(KEEPS_X, lambda x, A, B, C, alpha: x @ (A @ (alpha * B) @ C)),
        Misconception(KEEPS_TWO, lambda x, A, B, C, alpha: (alpha * (x @ A @ B)) @ C),
        Misconception(KEEPS_WIDE, lambda x, A, B, C, alpha: (x @ A) @ ((alpha * B) @ C)),
        Misconception(NO_GRADIENT, lambda x, A, B, C, alpha: (x @ A @ (alpha * B) @ C).detach()),
        Misconception(LOST, lambda x, A, B, C, alpha: (x @ A) @ (alpha.item() * B) @ C),
        Misconception(OTHER_NUMBERS, lambda x, A, B, C, alpha: (x @ A) @ B @ C),
        Misconception(NO_TENSOR, lambda x, A, B, C, alpha: (x @ A) @ (alpha * B)),
    ),
    rule=_judge_lean,
    passes="the right update, gradients for x, B and alpha, and no more than N R + R S numbers kept",
    may_use=("pack",),  # autograd calls the counter during the answer
)

EXERCISES = (BELOW, KEEP, MEMORY, LEAN_UPDATE)
