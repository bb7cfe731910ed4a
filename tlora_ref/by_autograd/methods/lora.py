"""LoRA in PyTorch: a product of two small matrices beside a frozen weight, both trained.

Paper       arXiv 2106.09685, section 4.1.
Equation    y = x W0 + b + s dropout(x) A B;  A (I, R) and B (R, O) train, s = lora_alpha / R is a constant.
Twin        by_hand/methods/lora.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py, tests/test_activations.py, and tests/test_peers.py against Hugging Face PEFT.
"""

from __future__ import annotations

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked


@shaped
def lora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    scale: float,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """LoRA's adapted linear layer (arXiv 2106.09685, section 4.1): x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None frozen; A (I, R) and B (R, O) trained; scale a constant, lora_alpha / R.
    Dropout acts on the x of the branch: keep (..., I), or None. Raises ShapeError.
    """
    # y = x W0 + b + update(keep * x)
    return lora_layer(x_NI, frozen_linear(x_NI, W0_IO, b_O), W0_IO, b_O, masked(keep_NI), A_IR, B_RO, scale)


def lora_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    scale: float,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I).

    Autograd keeps the whole (dropped) input N x I for A, scale * u (N x R) for B, and the mask.
    """
    # u = drop(x) A,   update = scale u B
    u_NR = drop(x_NI) @ A_IR
    return y_NO + (scale * u_NR) @ B_RO


@shaped
def lora_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, scale: float) -> Tensor:
    """dW = W' - W0 = scale A B, (I, O)."""
    return (scale * A_IR) @ B_RO


TWIN = Twin(lora_linear, lora_layer, lora_delta_w)
