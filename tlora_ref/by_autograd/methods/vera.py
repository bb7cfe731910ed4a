"""VeRA in PyTorch: one frozen random pair for all layers, and two trained vectors for each.

Paper       arXiv 2310.11454, equation 2.
Equation    y = x W0 + b + ((dropout(x) A) * lambda_d) B * lambda_b;  lambda_d (R,) and lambda_b (O,) train.
Twin        by_hand/methods/vera.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py, and tests/test_peers.py against Hugging Face PEFT.
"""

from __future__ import annotations

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked


@shaped
def vera_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    lambda_d_R: Tensor,
    lambda_b_O: Tensor,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """VeRA's layer (arXiv 2310.11454, eq. 2): A (I, R), B (R, O) frozen, lambda_d (R,), lambda_b (O,) trained.
    Raises ShapeError."""
    # y = x W0 + b + (((keep * x) A) * lambda_d) B * lambda_b
    y_NO = frozen_linear(x_NI, W0_IO, b_O)
    return vera_layer(x_NI, y_NO, W0_IO, b_O, masked(keep_NI), A_IR, B_RO, lambda_d_R, lambda_b_O)


def vera_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    lambda_d_R: Tensor,
    lambda_b_O: Tensor,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I)."""
    # v = (drop(x) A) * lambda_d,   update = (v B) * lambda_b
    v_NR = (drop(x_NI) @ A_IR.detach()) * lambda_d_R
    return y_NO + (v_NR @ B_RO.detach()) * lambda_b_O


@shaped
def vera_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, lambda_d_R: Tensor, lambda_b_O: Tensor) -> Tensor:
    """dW = A diag(lambda_d) B diag(lambda_b), (I, O)."""
    return (A_IR * lambda_d_R) @ B_RO * lambda_b_O


TWIN = Twin(vera_linear, vera_layer, vera_delta_w)
