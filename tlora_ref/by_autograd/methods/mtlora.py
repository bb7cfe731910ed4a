"""MTLoRA in PyTorch: LoRA with a small trained map between its two factors, in four forms.

Paper       arXiv 2403.07440.
Equation    y = x W0 + b + s dropout(x) A M B;  M = C, C C^T, D C or C + D, and all of A, B, C, D train.
Twin        by_hand/methods/mtlora.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked
from .lora_xs import tri_delta_w, tri_update


@shaped
def mtlora_core(C_RR: Tensor, D_RR: Tensor | None = None, form: str = "shim") -> Tensor:
    """M (R, R) of the four forms: shim C, icfm C C^T, ctcm D C, dtsm C + D."""
    if form == "shim":
        return C_RR
    if form == "icfm":
        return C_RR @ C_RR.T
    if form == "ctcm":
        return D_RR @ C_RR
    return C_RR + D_RR


@shaped
def mtlora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    C_RR: Tensor,
    scale: float,
    D_RR: Tensor | None = None,
    keep_NI: Tensor | None = None,
    form: str = "shim",
) -> Tensor:
    """LoRA with a trained map between its factors, s A M B; M as in mtlora_core. Raises ShapeError."""
    # y = x W0 + b + s (keep * x) A M B
    y_NO = frozen_linear(x_NI, W0_IO, b_O)
    return mtlora_layer(x_NI, y_NO, W0_IO, b_O, masked(keep_NI), A_IR, B_RO, C_RR, scale, D_RR, form)


def mtlora_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    C_RR: Tensor,
    scale: float,
    D_RR: Tensor | None = None,
    form: str = "shim",
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I)."""
    return y_NO + tri_update(drop(x_NI), A_IR, mtlora_core(C_RR, D_RR, form), B_RO, scale)


@shaped
def mtlora_delta_w(
    W0_IO: Tensor,
    A_IR: Tensor,
    B_RO: Tensor,
    C_RR: Tensor,
    scale: float,
    D_RR: Tensor | None = None,
    form: str = "shim",
) -> Tensor:
    """dW = s A M B, (I, O)."""
    return tri_delta_w(W0_IO, A_IR, mtlora_core(C_RR, D_RR, form), B_RO, scale)


SHIM, ICFM, CTCM, DTSM = (
    Twin(*(partial(function, form=form) for function in (mtlora_linear, mtlora_layer, mtlora_delta_w)))
    for form in ("shim", "icfm", "ctcm", "dtsm")
)
