"""LoRA with a gate: what DiffoRA searches with, to see on which matrices a LoRA is worth having.

Paper       DiffoRA, arXiv 2502.08905. What its abstracts leave open, the form of the gate, is a reading.
Equation    y = x W0 + b + gate s dropout(x) A B,   gate = sigmoid(logit),   s = lora_alpha / R a constant.
Arrays      A (I, R), B (R, O) and the scalar logit are trained.
Start       A and B as LoRA's, so that at first nothing changes; logit = 0, so that the gate is half open.
Twin        by_autograd/methods/lora_gated.py.
Checked by  tests/test_kernels.py (oracles), tests/test_allocate.py (the search that it is for, and its laws).

Special to it: dlogit = (1 - gate) <B, dB> at every point, so no gate moves before its B has. An open gate, gate = 1, is
LoRA, and a closed one is the base. How the gates become a choice of matrices stands in allocate.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted
from .lora import lora_draw

if TYPE_CHECKING:
    from ...config import AdapterConfig


def lora_gated_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start."""
    return lora_draw(site, W0_IO, config) | {"logit": np.zeros(())}


def sigmoid(logit: Array | float) -> Array:
    """1 / (1 + exp(-logit)), written so that no logit overflows."""
    return (1 + np.tanh(logit / 2)) / 2


@shaped
def lora_gated_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    logit: Array | float,
    scale: float,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    """The adapted linear layer: x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None frozen; A (I, R), B (R, O) and the scalar logit trained; scale a constant, lora_alpha / R.
    Dropout acts on the x of the branch: keep (..., I), or None. Raises ShapeError.
    """
    # xd = dropout(x),   u = xd A,   gate = sigmoid(logit)
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    u_NR = xd_NI @ A_IR
    gate = sigmoid(logit)
    # y = x W0 + b + gate scale u B
    y_NO = x_NI @ W0_IO + (gate * scale * u_NR) @ B_RO
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (xd_NI, u_NR, W0_IO, A_IR, B_RO, gate, scale, keep_NI)


def lora_gated_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "A", "B", "logit"}"""
    xd_NI, u_NR, W0_IO, A_IR, B_RO, gate, scale, keep_NI = cache
    want, grads = wanted(wrt, "x", "A", "B", "logit"), {}
    # dB = gate scale u^T dy,   dgate = sum(B * scale u^T dy),   dlogit = gate (1 - gate) dgate
    if want & {"B", "logit"}:
        utdy_RO = scale * (rows(u_NR).T @ rows(dy_NO))
        if "B" in want:
            grads["B"] = gate * utdy_RO
        if "logit" in want:
            grads["logit"] = gate * (1 - gate) * (B_RO * utdy_RO).sum()
    if want & {"x", "A"}:
        # du = gate scale dy B^T
        du_NR = gate * scale * (dy_NO @ B_RO.T)
        # dA = xd^T du
        if "A" in want:
            grads["A"] = rows(xd_NI).T @ rows(du_NR)
        # dx = dy W0^T + keep * (du A^T)
        if "x" in want:
            dxd_NI = du_NR @ A_IR.T
            grads["x"] = dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI)
    return grads


@shaped
def lora_gated_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, logit: Array | float, scale: float) -> Array:
    """dW = W' - W0 = gate scale A B, (I, O)."""
    return (sigmoid(logit) * scale * A_IR) @ B_RO


METHOD = Method(
    name="lora_gated",
    label="gated LoRA",
    paper="arXiv 2502.08905",
    kernel=Kernel("lora_gated_linear", lora_gated_linear_fwd, lora_gated_linear_bwd, ("x", "A", "B", "logit"), "NO"),
    trained=("A", "B", "logit"),
    draw=lora_gated_draw,
    delta_w=lora_gated_delta_w,
)
