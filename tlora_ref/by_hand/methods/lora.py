"""LoRA: a product of two small matrices beside a frozen weight, both trained.

Paper       E. Hu et al., arXiv 2106.09685, section 4.1; started as in the authors' code.
Equation    y = x W0 + b + s dropout(x) A B,   s = lora_alpha / R a constant.
Arrays      A (I, R) and B (R, O) are trained.
Start       A uniform in +-1 / sqrt(I), B = 0: at first nothing changes.
Twin        by_autograd/methods/lora.py.
Checked by  tests/test_kernels.py, tests/test_laws.py, and tests/test_peers.py against Hugging Face PEFT.

Special to it: dA needs the whole input, so where TLoRA keeps N x R numbers for the backward, LoRA keeps N x I.
"""

from __future__ import annotations

from collections.abc import Collection
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from ...draws import uniform
from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted

if TYPE_CHECKING:
    from ...config import AdapterConfig


def lora_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start."""
    I, O, R = site.I, site.O, site.R
    return {"A": uniform(config.seed, f"{site.name}.A", (I, R), 1 / sqrt(I)), "B": np.zeros((R, O))}


@shaped
def lora_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    scale: float,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    """LoRA's adapted linear layer (arXiv 2106.09685, section 4.1): x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None frozen; A (I, R) and B (R, O) trained; scale a constant, lora_alpha / R.
    Dropout acts on the x of the branch: keep (..., I), or None. Raises ShapeError.
    """
    # xd = dropout(x),   u = xd A
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    u_NR = xd_NI @ A_IR
    # y = x W0 + b + scale u B
    y_NO = x_NI @ W0_IO + (scale * u_NR) @ B_RO
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (xd_NI, u_NR, W0_IO, A_IR, B_RO, scale, keep_NI)


def lora_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "A", "B"}. dA needs the whole (dropped) input."""
    xd_NI, u_NR, W0_IO, A_IR, B_RO, scale, keep_NI = cache
    want, grads = wanted(wrt, "x", "A", "B"), {}
    # dB = scale u^T dy
    if "B" in want:
        grads["B"] = scale * (rows(u_NR).T @ rows(dy_NO))
    if want & {"x", "A"}:
        # du = scale dy B^T
        du_NR = scale * (dy_NO @ B_RO.T)
        # dA = xd^T du
        if "A" in want:
            grads["A"] = rows(xd_NI).T @ rows(du_NR)
        # dx = dy W0^T + keep * (du A^T)
        if "x" in want:
            dxd_NI = du_NR @ A_IR.T
            grads["x"] = dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI)
    return grads


@shaped
def lora_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, scale: float) -> Array:
    """dW = W' - W0 = scale A B, (I, O)."""
    return (scale * A_IR) @ B_RO


METHOD = Method(
    name="lora",
    label="LoRA",
    paper="arXiv 2106.09685",
    kernel=Kernel("lora_linear", lora_linear_fwd, lora_linear_bwd, ("x", "A", "B"), "NO", exact=True),
    trained=("A", "B"),
    draw=lora_draw,
    delta_w=lora_delta_w,
    product=True,
)
