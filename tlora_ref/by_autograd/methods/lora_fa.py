"""LoRA-FA in PyTorch: LoRA with the down factor frozen, so that the input need not be kept.

Paper       arXiv 2308.03303.
Equation    y = x W0 + b + s dropout(x) A B;  only B (R, O) trains, s = lora_alpha / R is a constant.
Twin        by_hand/methods/lora_fa.py, same names with ``_fwd``.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked
from .lora import lora_delta_w, lora_layer


@shaped
def lora_fa_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    scale: float,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """LoRA-FA's layer: x (..., I) -> y (..., O).  A (I, R) frozen, B (R, O) trained. Raises ShapeError."""
    # y = x W0 + b + s (keep * x) A B
    return lora_fa_layer(x_NI, frozen_linear(x_NI, W0_IO, b_O), W0_IO, b_O, masked(keep_NI), A_IR, B_RO, scale)


def lora_fa_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    scale: float,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O): LoRA's, with A detached."""
    return lora_layer(x_NI, y_NO, W0_IO, b_O, drop, A_IR.detach(), B_RO, scale)


TWIN = Twin(lora_fa_linear, lora_fa_layer, lora_delta_w)
