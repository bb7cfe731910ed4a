"""TriAdaptLoRA in PyTorch: LoRA with a core of two triangles between its factors, whose rank grows where it is needed.

Paper       arXiv 2501.08008.
Equation    y = x W0 + b + s dropout(x) A T B,   T = lower + upper, on and below and on and above the block diagonal;
            A, B and the two triangles train, s = lora_alpha / R is a constant.
Twin        by_hand/methods/triadapt.py, same names with ``_fwd``, whose ``triadapt_view`` unpacks the triangles in both
            rooms; how the arrays start, and what is a reading, stands there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...by_hand.methods.triadapt import triangle
from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked
from .lora_xs import tri_delta_w, tri_update


def core(lower_RR: Tensor, upper_RR: Tensor, block: int) -> Tensor:
    """T (R, R) = lower + upper, each in its triangle."""
    inside_RR = torch.from_numpy(triangle(len(lower_RR), block)).to(lower_RR.device)
    return inside_RR * lower_RR + inside_RR.T * upper_RR


@shaped
def triadapt_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    lower_RR: Tensor,
    upper_RR: Tensor,
    scale: float,
    keep_NI: Tensor | None = None,
    block: int = 1,
) -> Tensor:
    """LoRA with two triangles between its factors: x (..., I) -> y (..., O). What of lower (R, R) stands above the
    block diagonal, and of upper (R, R) below it, is not read. Raises ShapeError."""
    y_NO = frozen_linear(x_NI, W0_IO, b_O)
    return triadapt_layer(x_NI, y_NO, W0_IO, b_O, masked(keep_NI), A_IR, B_RO, lower_RR, upper_RR, scale, block)


def triadapt_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    lower_RR: Tensor,
    upper_RR: Tensor,
    scale: float,
    block: int = 1,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I)."""
    # y = x W0 + b + s drop(x) A T B
    return y_NO + tri_update(drop(x_NI), A_IR, core(lower_RR, upper_RR, block), B_RO, scale)


@shaped
def triadapt_delta_w(
    W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, lower_RR: Tensor, upper_RR: Tensor, scale: float, block: int = 1
) -> Tensor:
    """dW = s A T B, (I, O)."""
    return tri_delta_w(W0_IO, A_IR, core(lower_RR, upper_RR, block), B_RO, scale)


TWIN = Twin(triadapt_linear, triadapt_layer, triadapt_delta_w)
