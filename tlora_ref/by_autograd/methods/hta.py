"""HTA in PyTorch: a reflection, a trained diagonal and another reflection, beside a patch of low rank.

Paper       arXiv 2410.22952.
Equation    y = x W0 + b + dropout(x) (p q + H_left D H_right),   H = I - v v^T as printed, or I - 2 w w^T, w = v / |v|;
            p, q, the diagonal of D and the v of the two H train.
Twin        by_hand/methods/hta.py, same names with ``_fwd``; how the arrays start, and what is a reading, stands there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked


@shaped
def reflect(x_ND: Tensor, v_D: Tensor, unit: bool = False) -> Tensor:
    """x H (..., D):  H = I - v v^T as the paper prints it; ``unit``: H = I - 2 w w^T with w = v / |v|."""
    # y = x - c (x w) w^T,   c = 1 or 2
    w_D = v_D / (v_D * v_D).sum().sqrt() if unit else v_D
    return x_ND - ((2 if unit else 1) * (x_ND @ w_D))[..., None] * w_D


def hta_update(
    xd_NI: Tensor, left_I: Tensor, right_O: Tensor, diag_M: Tensor, p_IR: Tensor, q_RO: Tensor, unit: bool
) -> Tensor:
    """What is added, xd (p q + H_left D H_right) (..., O), from the input after dropout."""
    # t = the first M columns of xd H_left,   h = (t * diag, filled up with zeros) H_right
    M, O = diag_M.shape[0], right_O.shape[0]
    t_NM = reflect(xd_NI, left_I, unit)[..., :M]
    return reflect(pad(t_NM * diag_M, (0, O - M)), right_O, unit) + (xd_NI @ p_IR) @ q_RO


@shaped
def hta_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    left_I: Tensor,
    right_O: Tensor,
    diag_M: Tensor,
    p_IR: Tensor,
    q_RO: Tensor,
    keep_NI: Tensor | None = None,
    unit: bool = False,
) -> Tensor:
    """HTA's layer (arXiv 2410.22952): all of left (I,), right (O,), diag (M,), p (I, R), q (R, O) trained,
    M = min(I, O). Raises ShapeError."""
    y_NO = frozen_linear(x_NI, W0_IO, b_O)
    return y_NO + hta_update(masked(keep_NI)(x_NI), left_I, right_O, diag_M, p_IR, q_RO, unit)


def hta_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    left_I: Tensor,
    right_O: Tensor,
    diag_M: Tensor,
    p_IR: Tensor,
    q_RO: Tensor,
    unit: bool = False,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I)."""
    return y_NO + hta_update(drop(x_NI), left_I, right_O, diag_M, p_IR, q_RO, unit)


@shaped
def hta_delta_w(
    W0_IO: Tensor, left_I: Tensor, right_O: Tensor, diag_M: Tensor, p_IR: Tensor, q_RO: Tensor, unit: bool = False
) -> Tensor:
    """dW = p q + H_left D H_right, (I, O): what the branch makes of the rows of the identity."""
    eye_II = torch.eye(left_I.shape[0], dtype=left_I.dtype, device=left_I.device)
    return hta_update(eye_II, left_I, right_O, diag_M, p_IR, q_RO, unit)


PRINTED = Twin(hta_linear, hta_layer, hta_delta_w)
UNIT = Twin(*(partial(function, unit=True) for function in (hta_linear, hta_layer, hta_delta_w)))
