"""LoRA with a gate in PyTorch: what DiffoRA searches with.

Paper       DiffoRA, arXiv 2502.08905; the form of the gate is a reading.
Equation    y = x W0 + b + sigmoid(logit) s dropout(x) A B;  A (I, R), B (R, O) and the scalar logit train.
Twin        by_hand/methods/lora_gated.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked


@shaped
def lora_gated_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    logit: Tensor,
    scale: float,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """The adapted linear layer: x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None frozen; A (I, R), B (R, O) and the scalar logit trained; scale a constant, lora_alpha / R.
    Dropout acts on the x of the branch: keep (..., I), or None. Raises ShapeError.
    """
    y_NO, drop = frozen_linear(x_NI, W0_IO, b_O), masked(keep_NI)
    return lora_gated_layer(x_NI, y_NO, W0_IO, b_O, drop, A_IR, B_RO, logit, scale)


def lora_gated_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    logit: Tensor,
    scale: float,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I)."""
    # u = drop(x) A,   update = gate scale u B
    u_NR = drop(x_NI) @ A_IR
    return y_NO + (torch.sigmoid(logit) * scale * u_NR) @ B_RO


@shaped
def lora_gated_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, logit: Tensor, scale: float) -> Tensor:
    """dW = W' - W0 = gate scale A B, (I, O)."""
    return (torch.sigmoid(logit) * scale * A_IR) @ B_RO


TWIN = Twin(lora_gated_linear, lora_gated_layer, lora_gated_delta_w)
