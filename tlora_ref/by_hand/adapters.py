"""The heart: a frozen linear layer and what is trained beside it, forward and backward by hand.

Equation    TLoRA (arXiv 2504.18735):  y = x W0 + b + dropout(alpha * x A B C);  only B and alpha are trained.
            LoRA  (arXiv 2106.09685):  y = x W0 + b + scale * dropout(x) A B;    only A and B are trained.
Twin        by_autograd/adapters.py, same names without ``_fwd``.
Checked by  tests/test_kernels.py (oracles, exact rationals) and tests/test_laws.py (the laws of the method).

The kernels use + and * only, so they run unchanged on float32, float64, complex128 and on object arrays of
fractions.Fraction. A keep-mask is the dropout mask already divided by (1 - p); None means no dropout.
"""

from __future__ import annotations

from collections.abc import Collection

from ..shapes import bind
from .ops import Array, Cache, Grads, rows, wanted


def tlora_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RS: Array,
    C_SO: Array,
    alpha: Array | float,
    keep_NO: Array | None = None,
) -> tuple[Array, Cache]:
    """TLoRA's adapted linear layer (arXiv 2504.18735, section 3): x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None, A (I, R), C (S, O) frozen; B (R, S) and the scalar alpha trained; S = R in the
    paper. Dropout acts on the scaled update, not on x: keep (..., O), or None. Raises ShapeError.
    """
    bind(
        "tlora_linear",
        x_NI=x_NI,
        W0_IO=W0_IO,
        b_O=b_O,
        A_IR=A_IR,
        B_RS=B_RS,
        C_SO=C_SO,
        keep_NO=keep_NO,
        alpha=alpha,
    )
    # u = x A
    u_NR = x_NI @ A_IR
    # update = alpha u B C, scaled while it is still N x S
    update_NO = (alpha * (u_NR @ B_RS)) @ C_SO
    if keep_NO is not None:
        update_NO = keep_NO * update_NO
    # y = x W0 + b + update
    y_NO = x_NI @ W0_IO + update_NO
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (u_NR, W0_IO, A_IR, B_RS, C_SO, alpha, keep_NO)


def tlora_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "B", "alpha"}. A and C have no entry, yet the gradient of x flows through both."""
    u_NR, W0_IO, A_IR, B_RS, C_SO, alpha, keep_NO = cache
    want, grads = wanted(wrt, "x", "B", "alpha"), {}
    # dupdate = dy * keep,   g = dupdate C^T
    dupdate_NO = dy_NO if keep_NO is None else keep_NO * dy_NO
    g_NS = dupdate_NO @ C_SO.T
    # dB = alpha u^T g,   dalpha = sum(B * u^T g): so <B, dB> = alpha dalpha at every point
    if want & {"B", "alpha"}:
        utg_RS = rows(u_NR).T @ rows(g_NS)
        if "B" in want:
            grads["B"] = alpha * utg_RS
        if "alpha" in want:
            grads["alpha"] = (B_RS * utg_RS).sum()
    # dx = dy W0^T + alpha g B^T A^T
    if "x" in want:
        grads["x"] = dy_NO @ W0_IO.T + (alpha * (g_NS @ B_RS.T)) @ A_IR.T
    return grads


def tlora_delta_w(W0_IO: Array, A_IR: Array, B_RS: Array, C_SO: Array, alpha: Array | float) -> Array:
    """dW = W' - W0 = alpha A B C, (I, O): what evaluation adds to W0. W0 enters methods that are not additive."""
    bind("tlora_delta_w", W0_IO=W0_IO, A_IR=A_IR, B_RS=B_RS, C_SO=C_SO, alpha=alpha)
    return A_IR @ (alpha * B_RS) @ C_SO


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
    bind("lora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI)
    # xd = dropout(x),   u = xd A
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    u_NR = xd_NI @ A_IR
    # y = x W0 + b + scale u B
    y_NO = x_NI @ W0_IO + (scale * u_NR) @ B_RO
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (xd_NI, u_NR, W0_IO, A_IR, B_RO, scale, keep_NI)


def lora_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "A", "B"}. dA needs the whole (dropped) input: where TLoRA keeps N x R numbers, LoRA keeps N x I."""
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


def lora_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, scale: float) -> Array:
    """dW = W' - W0 = scale A B, (I, O)."""
    bind("lora_delta_w", W0_IO=W0_IO, A_IR=A_IR, B_RO=B_RO)
    return (scale * A_IR) @ B_RO
