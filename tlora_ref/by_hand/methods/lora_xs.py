"""LoRA-XS: a small trained core between frozen singular vectors of the weight itself.

Paper       K. Bałazy et al., arXiv 2405.17604.
Equation    y = x W0 + b + s dropout(x) A M C,   s = lora_alpha / R a constant.
Arrays      M (R, R) is trained;  A (I, R) and C (R, O) are frozen.
Start       W0 = U S V^T;  A = U_r S_r, C = V_r^T, M ~ N(0, 1e-5^2): near zero, not zero.
Twin        by_autograd/methods/lora_xs.py.
Checked by  tests/test_kernels.py and tests/test_family.py.

Special to it: A and C follow from W0 and not from a seed, so an adapter file has to hold them. The kernel is the
general three-factor layer ``tri_linear``, of which MTLoRA and EDoRA are made as well: what is kept for the backward
follows from who trains: x for A, u = x A for M, v = u M for C, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from ...draws import normal
from ...factors import singular_vectors
from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted

if TYPE_CHECKING:
    from ...config import AdapterConfig


def lora_xs_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start."""
    R = site.R
    U_IR, S_R, C_RO = singular_vectors(W0_IO, R)
    return {"A": U_IR * S_R, "M": normal(config.seed, f"{site.name}.M", (R, R), 1e-5), "C": C_RO}


@shaped
def tri_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    M_RS: Array,
    C_SO: Array,
    scale: float,
    keep_NI: Array | None = None,
    trains: Collection[str] = ("A", "M", "C"),
) -> tuple[Array, Cache]:
    """A frozen linear layer with the update s A M C: x (..., I) -> y (..., O). Raises ShapeError.

    A (I, R), M (R, S), C (S, O), scale a constant; dropout on the branch's x. Those of A, M, C in ``trains``
    have a gradient, and what only the others would need is not kept. LoRA-XS is trains = ("M",).
    """
    # u = drop(x) A,   v = u M
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    u_NR = xd_NI @ A_IR
    v_NS = u_NR @ M_RS
    # y = x W0 + b + s v C
    y_NO = x_NI @ W0_IO + (scale * v_NS) @ C_SO
    if b_O is not None:
        y_NO = y_NO + b_O
    kept = (xd_NI if "A" in trains else None, u_NR if "M" in trains else None, v_NS if "C" in trains else None)
    return y_NO, (*kept, W0_IO, A_IR, M_RS, C_SO, scale, keep_NI, tuple(trains))


def tri_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"} and those of {"A", "M", "C"} that train."""
    xd_NI, u_NR, v_NS, W0_IO, A_IR, M_RS, C_SO, scale, keep_NI, trains = cache
    want, grads = wanted(wrt, "x", *trains), {}
    # dC = s v^T dy
    if "C" in want:
        grads["C"] = scale * (rows(v_NS).T @ rows(dy_NO))
    if want & {"x", "A", "M"}:
        # g = s dy C^T,   dM = u^T g
        g_NS = scale * (dy_NO @ C_SO.T)
        if "M" in want:
            grads["M"] = rows(u_NR).T @ rows(g_NS)
        # du = g M^T,   dA = drop(x)^T du
        du_NR = g_NS @ M_RS.T
        if "A" in want:
            grads["A"] = rows(xd_NI).T @ rows(du_NR)
        # dx = dy W0^T + keep * (du A^T)
        if "x" in want:
            dxd_NI = du_NR @ A_IR.T
            grads["x"] = dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI)
    return grads


@shaped
def tri_delta_w(W0_IO: Array, A_IR: Array, M_RS: Array, C_SO: Array, scale: float) -> Array:
    """dW = s A M C, (I, O)."""
    return (scale * A_IR) @ M_RS @ C_SO


TRI = Kernel("tri_linear", tri_linear_fwd, tri_linear_bwd, ("x", "A", "M", "C"), "NO", exact=True)
"""The kernel with all three factors trained."""

METHOD = Method(
    name="lora_xs",
    label="LoRA-XS",
    paper="arXiv 2405.17604",
    kernel=Kernel(
        "lora_xs_linear", partial(tri_linear_fwd, trains=("M",)), tri_linear_bwd, ("x", "M"), "NO", exact=True
    ),
    trained=("M",),
    frozen=("A", "C"),
    draw=lora_xs_draw,
    delta_w=tri_delta_w,
    from_seed=False,
    rank=16,
)
