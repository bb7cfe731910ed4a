"""The bottleneck adapters: a small non-linear network inside a block, so nothing can be merged into a weight.

Equation    f(z) = act(z D + b_D) U + b_U;  the encoder adds the skip connection around it
            Houlsby (arXiv 1902.00751): two a layer, act = GELU.   Pfeiffer (arXiv 2005.00247): one, act = ReLU.
Twin        by_autograd/bottleneck.py, same name without ``_fwd``.
Checked by  tests/test_kernels.py and tests/test_family.py.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..shapes import bind
from .ops import Array, Cache, Grads, gelu_bwd, gelu_fwd, rows, wanted


def relu_fwd(x_NF: Array) -> tuple[Array, Cache]:
    """y = max(x, 0), decided by the real part, elementwise on any shape."""
    bind("relu", x_NF=x_NF)
    # y = x where x > 0, else 0
    positive_NF = x_NF.real > 0
    return np.where(positive_NF, x_NF, 0), (positive_NF,)


def relu_bwd(dy_NF: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}; at x = 0 the gradient is taken to be 0."""
    (positive_NF,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = dy where x > 0, else 0
    if "x" in want:
        grads["x"] = np.where(positive_NF, dy_NF, 0)
    return grads


ACTIVATIONS = {"gelu": (gelu_fwd, gelu_bwd), "relu": (relu_fwd, relu_bwd)}


def bottleneck_fwd(
    z_ND: Array, down_DR: Array, down_b_R: Array, up_RD: Array, up_b_D: Array, act: str = "gelu"
) -> tuple[Array, Cache]:
    """f(z) = act(z down + b_down) up + b_up.  z (..., D), down (D, R), up (R, D), all four trained. ShapeError."""
    bind("bottleneck", z_ND=z_ND, down_DR=down_DR, down_b_R=down_b_R, up_RD=up_RD, up_b_D=up_b_D)
    # t = act(z down + b_down)
    t_NR, c_act = ACTIVATIONS[act][0](z_ND @ down_DR + down_b_R)
    # f = t up + b_up
    return t_NR @ up_RD + up_b_D, (z_ND, t_NR, c_act, down_DR, up_RD, act)


def bottleneck_bwd(df_ND: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"z", "down", "down_b", "up", "up_b"}"""
    z_ND, t_NR, c_act, down_DR, up_RD, act = cache
    want, grads = wanted(wrt, "z", "down", "down_b", "up", "up_b"), {}
    # dup_b = sum over rows of df,   dup = t^T df
    if "up_b" in want:
        grads["up_b"] = rows(df_ND).sum(axis=0)
    if "up" in want:
        grads["up"] = rows(t_NR).T @ rows(df_ND)
    if want & {"z", "down", "down_b"}:
        # dpre = act'(z down + b_down) * (df up^T)
        dpre_NR = ACTIVATIONS[act][1](df_ND @ up_RD.T, c_act)["x"]
        # ddown_b = sum over rows of dpre,   ddown = z^T dpre
        if "down_b" in want:
            grads["down_b"] = rows(dpre_NR).sum(axis=0)
        if "down" in want:
            grads["down"] = rows(z_ND).T @ rows(dpre_NR)
        # dz = dpre down^T
        if "z" in want:
            grads["z"] = dpre_NR @ down_DR.T
    return grads
