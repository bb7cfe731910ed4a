"""LoRA-FA: LoRA with the down factor frozen, so that the input need not be kept.

Paper       L. Zhang et al., arXiv 2308.03303.
Equation    y = x W0 + b + s dropout(x) A B,   s = lora_alpha / R a constant.
Arrays      B (R, O) is trained;  A (I, R) is random and frozen.
Start       as LoRA: A uniform in +-1 / sqrt(I), B = 0.
Twin        by_autograd/methods/lora_fa.py.
Checked by  tests/test_kernels.py and tests/test_family.py.

Special to it: nothing that trains reads x, so u = dropout(x) A (N x R) is all that is kept of it.
"""

from __future__ import annotations

from collections.abc import Collection

from ...methods import Kernel, Method
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted
from .lora import lora_delta_w, lora_draw


@shaped
def lora_fa_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    scale: float,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    """LoRA-FA's layer (arXiv 2308.03303): x (..., I) -> y (..., O).  A (I, R) frozen, B (R, O) trained, scale a
    constant; dropout on the branch's x: keep (..., I). Raises ShapeError."""
    # u = drop(x) A
    u_NR = (x_NI if keep_NI is None else keep_NI * x_NI) @ A_IR
    # y = x W0 + b + s u B
    y_NO = x_NI @ W0_IO + (scale * u_NR) @ B_RO
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (u_NR, W0_IO, A_IR, B_RO, scale, keep_NI)


def lora_fa_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "B"}: as in LoRA, but nothing reads x, so only u (N x R) was kept."""
    u_NR, W0_IO, A_IR, B_RO, scale, keep_NI = cache
    want, grads = wanted(wrt, "x", "B"), {}
    # dB = s u^T dy
    if "B" in want:
        grads["B"] = scale * (rows(u_NR).T @ rows(dy_NO))
    # dx = dy W0^T + keep * (s dy B^T A^T)
    if "x" in want:
        dxd_NI = (scale * (dy_NO @ B_RO.T)) @ A_IR.T
        grads["x"] = dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI)
    return grads


METHOD = Method(
    name="lora_fa",
    label="LoRA-FA",
    paper="arXiv 2308.03303",
    kernel=Kernel("lora_fa_linear", lora_fa_linear_fwd, lora_fa_linear_bwd, ("x", "B"), "NO", exact=True),
    trained=("B",),
    frozen=("A",),
    draw=lora_draw,
    delta_w=lora_delta_w,
)
