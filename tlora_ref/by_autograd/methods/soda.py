"""SODA in PyTorch, its SVD variant: the weight's own singular values shifted, its singular vectors rotated.

Paper       arXiv 2405.21050.
Equation    y = x W' + b,   W' = (Q1 x Q2 x Q3) U diag(relu(sigma + delta)) V^T,   W0 = U diag(sigma) V^T,
            x the Kronecker product;  delta and the orthogonal Q1, Q2, Q3 train.
Twin        by_hand/methods/soda.py, same names with ``_fwd``; how the arrays start, and what is a reading, stands
            there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked


@shaped
def kron(x_NI: Tensor, Q1_XX: Tensor, Q2_YY: Tensor, Q3_ZZ: Tensor) -> Tensor:
    """x (Q1 x Q2 x Q3) (..., I), the Kronecker product never built: each axis of X * Y * Z meets its own matrix."""
    X, Y, Z = len(Q1_XX), len(Q2_YY), len(Q3_ZZ)
    # s = x Q3 along Z,   t = s Q2 along Y,   y = t Q1 along X
    t_NXYZ = Q2_YY.T @ (x_NI.reshape(-1, X, Y, Z) @ Q3_ZZ)
    return (Q1_XX.T @ t_NXYZ.reshape(-1, X, Y * Z)).reshape(x_NI.shape)


def soda_update(
    xd_NI: Tensor,
    W0_IO: Tensor,
    U_IM: Tensor,
    sigma_M: Tensor,
    Vt_MO: Tensor,
    delta_M: Tensor,
    Q1_XX: Tensor,
    Q2_YY: Tensor,
    Q3_ZZ: Tensor,
) -> Tensor:
    """What is added, xd (W' - W0) (..., O), from the input after dropout."""
    # r = xd (Q1 x Q2 x Q3),   g = relu(sigma + delta) - sigma
    r_NI = kron(xd_NI, Q1_XX, Q2_YY, Q3_ZZ)
    g_M = torch.relu(sigma_M.detach() + delta_M) - sigma_M.detach()
    # (r - xd) W0 + ((r U) * g) V^T
    return (r_NI - xd_NI) @ W0_IO.detach().to(r_NI.dtype) + ((r_NI @ U_IM.detach()) * g_M) @ Vt_MO.detach()


@shaped
def soda_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    U_IM: Tensor,
    sigma_M: Tensor,
    Vt_MO: Tensor,
    delta_M: Tensor,
    Q1_XX: Tensor,
    Q2_YY: Tensor,
    Q3_ZZ: Tensor,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """SODA's layer (arXiv 2405.21050): delta (M,), Q1 (X, X), Q2 (Y, Y), Q3 (Z, Z) trained, U (I, M), sigma (M,) and
    Vt (M, O) frozen. Raises ShapeError."""
    arrays = (U_IM, sigma_M, Vt_MO, delta_M, Q1_XX, Q2_YY, Q3_ZZ)
    return soda_layer(x_NI, frozen_linear(x_NI, W0_IO, b_O), W0_IO, b_O, masked(keep_NI), *arrays)


def soda_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    U_IM: Tensor,
    sigma_M: Tensor,
    Vt_MO: Tensor,
    delta_M: Tensor,
    Q1_XX: Tensor,
    Q2_YY: Tensor,
    Q3_ZZ: Tensor,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I)."""
    return y_NO + soda_update(drop(x_NI), W0_IO, U_IM, sigma_M, Vt_MO, delta_M, Q1_XX, Q2_YY, Q3_ZZ)


@shaped
def soda_delta_w(
    W0_IO: Tensor,
    U_IM: Tensor,
    sigma_M: Tensor,
    Vt_MO: Tensor,
    delta_M: Tensor,
    Q1_XX: Tensor,
    Q2_YY: Tensor,
    Q3_ZZ: Tensor,
) -> Tensor:
    """dW = W' - W0 = (Q1 x Q2 x Q3) (W0 + U diag(relu(sigma + delta) - sigma) V^T) - W0, (I, O)."""
    W0_IO = W0_IO.to(U_IM.dtype)
    R_II = kron(torch.eye(len(W0_IO), dtype=U_IM.dtype, device=U_IM.device), Q1_XX, Q2_YY, Q3_ZZ)
    return R_II @ (W0_IO + (U_IM * (torch.relu(sigma_M + delta_M) - sigma_M)) @ Vt_MO) - W0_IO


TWIN = Twin(soda_linear, soda_layer, soda_delta_w)
