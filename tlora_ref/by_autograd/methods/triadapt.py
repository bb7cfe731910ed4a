"""TriAdaptLoRA in PyTorch: LoRA with a core of two triangles between its factors, whose rank grows where it is needed.

Paper       arXiv 2501.08008.
Equation    y = x W0 + b + s dropout(x) A T B,   T = lower + upper, on and below and on and above the block diagonal;
            A, B and the two triangles train, s = lora_alpha / R is a constant.
Twin        by_hand/methods/triadapt.py, same names with ``_fwd``; how the arrays start, and what is a reading, stands
            there. There the triangles and the places in them are NumPy's, which every call would copy to a GPU; here
            they are made where the arrays are.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...by_hand.methods.triadapt import read_at
from ...methods import Site
from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked
from .lora_xs import tri_delta_w, tri_update

# --- the triangles ---------------------------------------------------------------------------------


def triangle(R: int, block: int, device: torch.device) -> Tensor:
    """True (R, R) on and below the block diagonal."""
    # all blocks are of one width but for the first, which has what is left over
    number_R = (torch.arange(R, device=device) + -R % block) // block
    return number_R[:, None] >= number_R


def places(R: int, block: int, device: torch.device) -> Tensor:
    """(R, R), where in ``lower`` the number of each place of the triangle stands; 0 outside, where nothing is read."""
    inside_RR = triangle(R, block, device)
    return inside_RR * (inside_RR.flatten().cumsum(0).reshape(R, R) - 1)


def triadapt_view(arrays: dict[str, Tensor], site: Site) -> dict[str, Any]:
    """The arguments for one matrix."""
    return read_at(places(site.R, site.block, arrays["lower"].device), arrays, site.block)


def core(lower_RR: Tensor, upper_RR: Tensor, block: int) -> Tensor:
    """T (R, R) = lower + upper, each in its triangle."""
    inside_RR = triangle(len(lower_RR), block, lower_RR.device)
    return inside_RR * lower_RR + inside_RR.T * upper_RR


# --- the layer -------------------------------------------------------------------------------------


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


TWIN = Twin(triadapt_linear, triadapt_layer, triadapt_delta_w, view=triadapt_view)
