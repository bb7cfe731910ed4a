"""LoRA-XS in PyTorch: a small trained core between frozen singular vectors of the weight itself.

Paper       arXiv 2405.17604.
Equation    y = x W0 + b + s dropout(x) A M C;  M (R, R) trains, s = lora_alpha / R is a constant.
Twin        by_hand/methods/lora_xs.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked


@shaped
def tri_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    M_RS: Tensor,
    C_SO: Tensor,
    scale: float,
    keep_NI: Tensor | None = None,
    trains: Collection[str] = ("A", "M", "C"),
) -> Tensor:
    """A frozen linear layer with the update s A M C: x (..., I) -> y (..., O). Those of A, M, C that are not in
    ``trains`` are detached. LoRA-XS is trains = ("M",). Raises ShapeError."""
    A_IR = A_IR if "A" in trains else A_IR.detach()
    M_RS = M_RS if "M" in trains else M_RS.detach()
    C_SO = C_SO if "C" in trains else C_SO.detach()
    # y = x W0 + b + (keep * x) A (s M) C
    return frozen_linear(x_NI, W0_IO, b_O) + tri_update(masked(keep_NI)(x_NI), A_IR, M_RS, C_SO, scale)


def tri_update(xd_NI: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, scale: float) -> Tensor:
    """What is added, s xd A M C (..., O), from the input after dropout."""
    return ((xd_NI @ A_IR) @ (scale * M_RS)) @ C_SO


def lora_xs_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    M_RS: Tensor,
    C_SO: Tensor,
    scale: float,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I)."""
    return y_NO + tri_update(drop(x_NI), A_IR.detach(), M_RS, C_SO.detach(), scale)


@shaped
def tri_delta_w(W0_IO: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, scale: float) -> Tensor:
    """dW = s A M C, (I, O)."""
    return (scale * A_IR) @ M_RS @ C_SO


TWIN = Twin(partial(tri_linear, trains=("M",)), lora_xs_layer, tri_delta_w)
