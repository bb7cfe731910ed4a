"""The exercises of notebook 09: the torch twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .answers import numbers
from .grader import Judged, Misconception

Size = tuple[int, int, int, int]

SIZES: tuple[Size, ...] = ((5, 6, 3, 4), (4, 5, 5, 5), (1, 3, 1, 2))
"""(N, I, R, O) of the points: different sizes, square, one row."""


def _torch() -> Any:
    import torch

    return torch


def _layer(size: Size, dtype: str = "float64", scale: float = 1.0) -> tuple[Any, ...]:
    """Random x, W0, b, A, B, C, alpha as tensors."""
    torch, (N, I, R, O) = _torch(), size
    rng = np.random.default_rng(sum(size))
    shapes = ((N, I), (I, O), (O,), (I, R), (R, R), (R, O))
    drawn = [torch.tensor(rng.standard_normal(shape), dtype=getattr(torch, dtype)) for shape in shapes]
    return *drawn, torch.tensor(1.7 * scale, dtype=getattr(torch, dtype))


def _same(a: Any, b: Any, rtol: float = 1e-9) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= rtol * b.abs().max())


# --- forward(x, W0, b, A, B, C, alpha): the graph that autograd is to see -------------------------

NO_TENSOR = "You returned no tensor. What does autograd need at the end of the graph?"
SHAPE = "The result has shape {found}, expected {shape}. What is left of x when the layer has been applied?"
NUMBERS = (
    "The numbers are not those of the layer, whatever the gradients. Which term is missing, or has a wrong factor?"
)
NO_GRAPH = "The result has no graph behind it at all. What did you call on it, or around it, that cuts the graph?"
FROZEN_TRAINED = "The frozen {name} gets a gradient in your layer. How does one tell autograd that it is a constant?"
NO_B = "B gets no gradient in your layer, or a wrong one. Is there a place where the graph is cut before it?"
NO_ALPHA = "alpha gets no gradient in your layer, or a wrong one. Is it still a tensor where it is multiplied?"
NO_X = (
    "Nothing comes through the adapter to the layer below. What is constant there, the matrix or what it is "
    "multiplied with?"
)
NO_X_BASE = "Nothing comes through the frozen layer to the layer below. Is frozen the same as not differentiable?"
WRITES = "Your layer changes what it is given. Which operation wrote into its argument?"


def _judge_forward(answer: Any) -> str:
    torch = _torch()
    from ..by_autograd import tlora_linear

    for size in SIZES:
        arguments = [tensor.requires_grad_() for tensor in _layer(size)]
        y_NO = answer(*arguments)
        if not isinstance(y_NO, torch.Tensor):
            return NO_TENSOR
        right_NO = tlora_linear(*arguments)
        if y_NO.shape != right_NO.shape:
            return SHAPE.format(found=tuple(y_NO.shape), shape=tuple(right_NO.shape))
        if not _same(y_NO.detach(), right_NO.detach()):
            return NUMBERS
        if not y_NO.requires_grad:
            return NO_GRAPH
        dy_NO = torch.randn(right_NO.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(y_NO, arguments, dy_NO, allow_unused=True)
        right = torch.autograd.grad(right_NO, arguments, dy_NO, allow_unused=True)
        for name, gradient in zip(
            ("W0", "b", "A", "C"), (gradients[1], gradients[2], gradients[3], gradients[5]), strict=True
        ):
            if gradient is not None:
                return FROZEN_TRAINED.format(name=name)
        for at, message in ((4, NO_B), (6, NO_ALPHA)):
            if gradients[at] is None or not _same(gradients[at], right[at]):
                return message
        if gradients[0] is None or not _same(gradients[0], right[0]):
            base_NI = dy_NO @ arguments[1].detach().T
            return NO_X if gradients[0] is not None and _same(gradients[0], base_NI) else NO_X_BASE
    return ""


def _right_forward(x: Any, W0: Any, b: Any, A: Any, B: Any, C: Any, alpha: Any) -> Any:
    return x @ W0.detach() + b.detach() + (x @ A.detach()) @ (alpha * B) @ C.detach()


def _changed(change: Callable[..., Any]) -> Callable[..., Any]:
    """The right forward of arguments that ``change`` has made others of."""
    return lambda *arguments: _right_forward(*change(*arguments))


def _under_no_grad(*arguments: Any) -> Any:
    with _torch().no_grad():
        return _right_forward(*arguments)


def _in_place(x: Any, W0: Any, b: Any, A: Any, B: Any, C: Any, alpha: Any) -> Any:
    y = _right_forward(x, W0, b, A, B, C, alpha)
    W0.data += alpha.detach() * A.detach() @ B.detach() @ C.detach()
    return y


FORWARD = Judged(
    "09",
    "forward",
    _right_forward,
    (
        Misconception(
            FROZEN_TRAINED.format(name="W0"), lambda x, W0, b, A, B, C, alpha: x @ W0 + b + alpha * (x @ A) @ B @ C
        ),
        Misconception(
            FROZEN_TRAINED.format(name="A"),
            lambda x, W0, b, A, B, C, alpha: x @ W0.detach() + b.detach() + alpha * (x @ A) @ B @ C,
        ),
        Misconception(NO_GRAPH, _under_no_grad),
        Misconception(NO_TENSOR, lambda *arguments: _right_forward(*arguments).detach().numpy()),
        Misconception(NO_B, _changed(lambda x, W0, b, A, B, C, alpha: (x, W0, b, A, B.detach(), C, alpha))),
        Misconception(NO_ALPHA, _changed(lambda x, W0, b, A, B, C, alpha: (x, W0, b, A, B, C, alpha.item()))),
        Misconception(
            NO_X,
            lambda x, W0, b, A, B, C, alpha: (
                x @ W0.detach() + b.detach() + (x.detach() @ A.detach()) @ (alpha * B) @ C.detach()
            ),
        ),
        Misconception(
            NO_X_BASE,
            lambda x, W0, b, A, B, C, alpha: (x @ W0 + b).detach() + (x @ A.detach()) @ (alpha * B) @ C.detach(),
        ),
        Misconception(NUMBERS, _changed(lambda x, W0, b, A, B, C, alpha: (x, W0, b, A, B, C, alpha * alpha))),
        Misconception(WRITES, _in_place),
    ),
    rule=_judge_forward,
    passes="the same output and the same gradients as ours at three sizes, and none where nothing is trained",
    writes=WRITES,
)

# --- merged(weight_OI, A, B, C, alpha): one rounding ----------------------------------------------

MERGED_NO_TENSOR = "You returned no tensor. What takes the place of a layer's weight?"
MERGED_SHAPE = "The result has shape {found}, expected {shape}. In which order does torch keep the axes of a weight?"
TRANSPOSED = "In a square layer your update lies the wrong way round. How does torch store the weight of a layer?"
NO_BASE = "That is the update alone. What does the merged layer do with its input besides?"
ALPHA_LOST = "At alpha = 1 this would be right. Where is alpha?"
MINUS = "You took the adapter out of a weight it is not in. Which sign has a merge, and which an unmerge?"
DTYPE = "The result has dtype {found}, and the model is {dtype}. What would the next layer say?"
ROUNDED = (
    "In half precision your result is not the nearest that can be stored. How often did you round, and in which dtype "
    "did you compute?"
)
MERGED_WRITES = "You changed a tensor that you were given, the weight or a part of the adapter. How would one unmerge?"
MERGED_OTHER = "The numbers are not those of a merged layer. Try the smallest case, 1 x 1: what should come out?"


def _weight(size: Size, dtype: str, scale: float) -> tuple[Any, ...]:
    """weight (O, I) in ``dtype``, and A, B, C, alpha in float32 as adapters are."""
    _, W0_IO, _, *adapter = _layer(size, "float32", scale)
    return (W0_IO.T.contiguous().to(getattr(_torch(), dtype)), *adapter)


def _judge_merged(answer: Any) -> str:
    torch = _torch()
    for size in ((5, 6, 3, 4), (4, 16, 5, 16)):
        for dtype in ("float32", "bfloat16", "float16"):
            weight_OI, *adapter = _weight(size, dtype, 0.3)
            merged = answer(weight_OI, *adapter)
            if not isinstance(merged, torch.Tensor):
                return MERGED_NO_TENSOR
            if merged.shape != weight_OI.shape:
                return MERGED_SHAPE.format(found=tuple(merged.shape), shape=tuple(weight_OI.shape))
            message = _verdict_on(merged, weight_OI, *adapter)
            if message:
                return message
    return ""


def _verdict_on(merged: Any, weight_OI: Any, A: Any, B: Any, C: Any, alpha: Any) -> str:
    torch = _torch()
    W_OI, (A, B, C, alpha) = weight_OI.double(), (t.double() for t in (A, B, C, alpha))
    dW_OI = (A @ (alpha * B) @ C).T
    right, near = W_OI + dW_OI, merged.double()
    close = {"torch.float32": 1e-5, "torch.bfloat16": 2e-2, "torch.float16": 4e-3}[str(weight_OI.dtype)]
    for message, other in (
        (NO_BASE, dW_OI),
        (MINUS, W_OI - dW_OI),
        (ALPHA_LOST, W_OI + dW_OI / alpha),
        (TRANSPOSED, W_OI + dW_OI.T if dW_OI.shape[0] == dW_OI.shape[1] else None),
    ):
        if other is not None and _same(near, other, close):
            return message
    if not _same(near, right, close):
        return MERGED_OTHER
    if merged.dtype != weight_OI.dtype:
        return DTYPE.format(found=str(merged.dtype)[6:], dtype=str(weight_OI.dtype)[6:])
    if weight_OI.dtype == torch.float32:
        return ""
    # the distance of the nearest number of this dtype, and a little for the sums in float32
    nearest = (right.to(weight_OI.dtype).double() - right).abs()
    return "" if bool(((near - right).abs() <= nearest + 1e-5 * right.abs().max()).all()) else ROUNDED


def _right_merged(W: Any, A: Any, B: Any, C: Any, alpha: Any) -> Any:
    return (W.float() + (A @ (alpha * B) @ C).T).to(W.dtype)


def _merged_in_place(W: Any, A: Any, B: Any, C: Any, alpha: Any) -> Any:
    W += (A @ (alpha * B) @ C).T
    return W


def _square_transposed(W: Any, A: Any, B: Any, C: Any, alpha: Any) -> Any:
    update = A @ (alpha * B) @ C
    return (W.float() + (update if update.shape == W.shape else update.T)).to(W.dtype)


def _rounded_often(W: Any, A: Any, B: Any, C: Any, alpha: Any) -> Any:
    A, B, C, alpha = (tensor.to(W.dtype) for tensor in (A, B, C, alpha))
    return W + (A @ (alpha * B) @ C).T


MERGED = Judged(
    "09",
    "merged",
    _right_merged,
    (
        Misconception(
            MERGED_SHAPE.format(found=(6, 4), shape=(4, 6)),
            lambda W, A, B, C, alpha: (W.float().T + A @ (alpha * B) @ C).to(W.dtype),
        ),
        Misconception(TRANSPOSED, _square_transposed),
        Misconception(NO_BASE, lambda W, A, B, C, alpha: (A @ (alpha * B) @ C).T.to(W.dtype)),
        Misconception(ALPHA_LOST, lambda W, A, B, C, alpha: (W.float() + (A @ B @ C).T).to(W.dtype)),
        Misconception(MINUS, lambda W, A, B, C, alpha: (W.float() - alpha * (A @ B @ C).T).to(W.dtype)),
        Misconception(
            DTYPE.format(found="float32", dtype="bfloat16"),
            lambda W, A, B, C, alpha: W.float() + (A @ (alpha * B) @ C).T,
        ),
        Misconception(ROUNDED, _rounded_often),
        Misconception(MERGED_WRITES, _merged_in_place),
        Misconception(MERGED_NO_TENSOR, lambda W, A, B, C, alpha: _right_merged(W, A, B, C, alpha).tolist()),
    ),
    rule=_judge_merged,
    passes="the nearest weight that can be stored, in float32, bfloat16 and float16, square or not",
    writes=MERGED_WRITES,
)

# --- lora(A, B, C, alpha): TLoRA's update as two matrices of PEFT's -------------------------------

PAIR = "You returned no pair of arrays. How many matrices has a LoRA?"
LORA_SHAPES = "Your matrices have shapes {found}, expected {shapes}. PEFT stores (out, in): which axis comes first?"
TWICE = "alpha is in both of your matrices. What is in their product?"
LORA_ALPHA = "alpha is in neither of your matrices. PEFT's own factor is 1 here: who multiplies by alpha?"
B_TWICE = "B is in both of your matrices. How often does it stand in A B C?"
B_LOST = "B is in neither of your matrices. Where has all that was trained gone?"
B_TURNED = "B lies the wrong way round. What is the transpose of a product?"
LORA_OTHER = "The product of your matrices is not TLoRA's update. Try R = 1: what are they there?"


def _judge_lora(answer: Any) -> str:
    for size in SIZES:
        A, B, C, alpha = (tensor.numpy() for tensor in _layer(size)[3:])
        (_, I, R, O), returned = size, answer(A, B, C, float(alpha))
        if not isinstance(returned, (tuple, list)) or len(returned) != 2:
            return PAIR
        down_RI, up_OR = map(numbers, returned)
        if (down_RI.shape, up_OR.shape) != ((R, I), (O, R)):
            return LORA_SHAPES.format(
                found=f"{down_RI.shape} and {up_OR.shape}", shapes=f"{(R, I)} (down) and {(O, R)} (up)"
            )
        product_IO = (up_OR @ down_RI).T
        for message, other in (
            ("", alpha * A @ B @ C),
            (TWICE, alpha**2 * A @ B @ C),
            (LORA_ALPHA, A @ B @ C),
            (B_TWICE, alpha * A @ B @ B @ C),
            (B_LOST, alpha * A @ C),
            (B_TURNED, alpha * A @ B.T @ C),
        ):
            if np.allclose(product_IO, other, rtol=1e-9, atol=1e-12):
                if message:
                    return message
                break
        else:
            return LORA_OTHER
    return ""


LORA = Judged(
    "09",
    "lora",
    lambda A, B, C, alpha: (A.T, (alpha * B @ C).T),
    (
        Misconception(PAIR, lambda A, B, C, alpha: alpha * A @ B @ C),
        Misconception(
            LORA_SHAPES.format(found="(6, 3) and (3, 4)", shapes="(3, 6) (down) and (4, 3) (up)"),
            lambda A, B, C, alpha: (A, alpha * B @ C),
        ),
        Misconception(
            LORA_SHAPES.format(found="(4, 3) and (3, 6)", shapes="(3, 6) (down) and (4, 3) (up)"),
            lambda A, B, C, alpha: ((alpha * B @ C).T, A.T),
        ),
        Misconception(TWICE, lambda A, B, C, alpha: (alpha * A.T, (alpha * B @ C).T)),
        Misconception(LORA_ALPHA, lambda A, B, C, alpha: (A.T, (B @ C).T)),
        Misconception(B_TWICE, lambda A, B, C, alpha: ((A @ B).T, (alpha * B @ C).T)),
        Misconception(B_LOST, lambda A, B, C, alpha: (A.T, alpha * C.T)),
        Misconception(B_TURNED, lambda A, B, C, alpha: (A.T, alpha * C.T @ B)),
    ),
    rule=_judge_lora,
    passes="the product is TLoRA's update at three sizes, however it is split",
)

EXERCISES = (FORWARD, MERGED, LORA)
