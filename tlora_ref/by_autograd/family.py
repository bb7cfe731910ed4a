"""TLoRA's relatives in PyTorch: other factors trained, or the columns rescaled; the gradients are autograd's.

Equation    LoRA-FA   y = x W0 + b + s drop(x) A B, only B trained                             (arXiv 2308.03303)
            LoRA-XS   y = x W0 + b + s drop(x) A M C, only M trained                           (arXiv 2405.17604)
            MTLoRA    y = x W0 + b + s drop(x) A M B, M = C, C C^T, D C or C + D, all trained  (arXiv 2403.07440)
            VeRA      y = x W0 + b + ((drop(x) A) * lambda_d) B * lambda_b                     (arXiv 2310.11454)
            DoRA      y = x (V * m / n) + b,  V = W0 + s A B,  n = column norms of V           (arXiv 2402.09353)
            EDoRA     the same with V = W0 + s A M C, M trained                                (arXiv 2501.12067)
Twin        by_hand/family.py, same names with ``_fwd``.
Checked by  tests/test_twin.py, and tests/test_peers.py against Hugging Face PEFT.

Frozen arguments are detached, so autograd keeps nothing for them.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from ..shapes import bind
from .adapters import lora_delta_w, lora_update
from .ops import frozen_linear


def _drop(x_NI: Tensor, keep_NI: Tensor | None) -> Tensor:
    return x_NI if keep_NI is None else keep_NI * x_NI


# --- LoRA-FA -----------------------------------------------------------------------------------------


def lora_fa_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    scale: float,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """LoRA-FA's layer: x (..., I) -> y (..., O).  A (I, R) frozen, B (R, O) trained. Raises ShapeError."""
    bind("lora_fa_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI)
    # y = x W0 + b + s drop(x) A B
    return frozen_linear(x_NI, W0_IO, b_O) + lora_update(_drop(x_NI, keep_NI), A_IR.detach(), B_RO, scale)


# --- tri: LoRA-XS and the inside of MTLoRA -------------------------------------------------------------


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
    bind("tri_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, M_RS=M_RS, C_SO=C_SO, keep_NI=keep_NI)
    factors = {"A": A_IR, "M": M_RS, "C": C_SO}
    A_IR, M_RS, C_SO = (factor if name in trains else factor.detach() for name, factor in factors.items())
    # y = x W0 + b + drop(x) A (s M) C
    return frozen_linear(x_NI, W0_IO, b_O) + tri_update(_drop(x_NI, keep_NI), A_IR, M_RS, C_SO, scale)


def tri_update(xd_NI: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, scale: float) -> Tensor:
    """What is added, s xd A M C (..., O), from the input after dropout."""
    return ((xd_NI @ A_IR) @ (scale * M_RS)) @ C_SO


def tri_delta_w(W0_IO: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, scale: float) -> Tensor:
    """dW = s A M C, (I, O)."""
    bind("tri_delta_w", W0_IO=W0_IO, A_IR=A_IR, M_RS=M_RS, C_SO=C_SO)
    return (scale * A_IR) @ M_RS @ C_SO


# --- MTLoRA --------------------------------------------------------------------------------------------


def mtlora_core(C_RR: Tensor, D_RR: Tensor | None = None, form: str = "shim") -> Tensor:
    """M (R, R) of the four forms: shim C, icfm C C^T, ctcm D C, dtsm C + D."""
    bind("mtlora_core", C_RR=C_RR, D_RR=D_RR)
    if form == "shim":
        return C_RR
    if form == "icfm":
        return C_RR @ C_RR.T
    return D_RR @ C_RR if form == "ctcm" else C_RR + D_RR


def mtlora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    C_RR: Tensor,
    scale: float,
    D_RR: Tensor | None = None,
    keep_NI: Tensor | None = None,
    form: str = "shim",
) -> Tensor:
    """LoRA with a trained map between its factors, s A M B; M as in mtlora_core. Raises ShapeError."""
    bind("mtlora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, C_RR=C_RR, D_RR=D_RR, keep_NI=keep_NI)
    # y = x W0 + b + s drop(x) A M B
    xd_NI = _drop(x_NI, keep_NI)
    return frozen_linear(x_NI, W0_IO, b_O) + mtlora_update(xd_NI, A_IR, B_RO, C_RR, scale, D_RR, form)


def mtlora_update(
    xd_NI: Tensor,
    A_IR: Tensor,
    B_RO: Tensor,
    C_RR: Tensor,
    scale: float,
    D_RR: Tensor | None = None,
    form: str = "shim",
) -> Tensor:
    """What MTLoRA adds, s xd A M B (..., O) with M = core(C, D), from the input after dropout."""
    return tri_update(xd_NI, A_IR, mtlora_core(C_RR, D_RR, form), B_RO, scale)


def mtlora_delta_w(
    W0_IO: Tensor,
    A_IR: Tensor,
    B_RO: Tensor,
    C_RR: Tensor,
    scale: float,
    D_RR: Tensor | None = None,
    form: str = "shim",
) -> Tensor:
    """dW = s A M B, (I, O)."""
    return tri_delta_w(W0_IO, A_IR, mtlora_core(C_RR, D_RR, form), B_RO, scale)


# --- VeRA ----------------------------------------------------------------------------------------------


def vera_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    lambda_d_R: Tensor,
    lambda_b_O: Tensor,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """VeRA's layer (arXiv 2310.11454, eq. 2): A (I, R), B (R, O) frozen, lambda_d (R,), lambda_b (O,) trained.
    Raises ShapeError."""
    vectors = {"lambda_d_R": lambda_d_R, "lambda_b_O": lambda_b_O}
    bind("vera_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI, **vectors)
    # y = x W0 + b + ((drop(x) A) * lambda_d) B * lambda_b
    return frozen_linear(x_NI, W0_IO, b_O) + vera_update(_drop(x_NI, keep_NI), A_IR, B_RO, lambda_d_R, lambda_b_O)


def vera_update(xd_NI: Tensor, A_IR: Tensor, B_RO: Tensor, lambda_d_R: Tensor, lambda_b_O: Tensor) -> Tensor:
    """What VeRA adds, ((xd A) * lambda_d) B * lambda_b (..., O), from the input after dropout."""
    v_NR = (xd_NI @ A_IR.detach()) * lambda_d_R
    return (v_NR @ B_RO.detach()) * lambda_b_O


def vera_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, lambda_d_R: Tensor, lambda_b_O: Tensor) -> Tensor:
    """dW = A diag(lambda_d) B diag(lambda_b), (I, O)."""
    return (A_IR * lambda_d_R) @ B_RO * lambda_b_O


# --- DoRA and EDoRA --------------------------------------------------------------------------------------


def column_norm(V_IO: Tensor) -> Tensor:
    """n (O,): the Euclidean norm of each column of V, one output unit each."""
    bind("column_norm", V_IO=V_IO)
    return (V_IO * V_IO).sum(dim=0).sqrt()


def rescale(y0_NO: Tensor, magnitude_O: Tensor, norm_O: Tensor) -> Tensor:
    """y = y0 * m / n: a layer's columns brought from length n to length m.  y0 (..., O), m and n (O,)."""
    bind("rescale", y0_NO=y0_NO, magnitude_O=magnitude_O, norm_O=norm_O)
    return y0_NO * (magnitude_O / norm_O)


def dora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    magnitude_O: Tensor,
    scale: float,
    norm_O: Tensor | None = None,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """DoRA's layer (arXiv 2402.09353, eq. 5): A (I, R), B (R, O), m (O,) trained. norm (O,): the column norms as
    a constant, as released; None: computed here and differentiated. Raises ShapeError."""
    vectors = {"magnitude_O": magnitude_O, "norm_O": norm_O}
    bind("dora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI, **vectors)
    # y0 = x V,   y = y0 * m / n + b
    update_NO = dora_update(_drop(x_NI, keep_NI), A_IR, B_RO, magnitude_O, scale)
    y0_NO = frozen_linear(x_NI, W0_IO, None) + update_NO
    n_O = dora_norm(W0_IO, A_IR, B_RO, magnitude_O, scale) if norm_O is None else norm_O.detach()
    y_NO = rescale(y0_NO, magnitude_O, n_O)
    return y_NO if b_O is None else y_NO + b_O.detach()


def dora_update(xd_NI: Tensor, A_IR: Tensor, B_RO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """What DoRA adds to x W0 before the columns are rescaled: LoRA's s xd A B (..., O)."""
    return lora_update(xd_NI, A_IR, B_RO, scale)


def dora_norm(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """n (O,): the column norms of V = W0 + s A B, W0 frozen; given to dora_linear they are a constant."""
    return column_norm(W0_IO.detach() + lora_delta_w(W0_IO, A_IR, B_RO, scale))


def dora_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """dW = V * m / n - W0, (I, O)."""
    return _rescaled(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale), magnitude_O) - W0_IO


def _rescaled(V_IO: Tensor, magnitude_O: Tensor) -> Tensor:
    return V_IO * (magnitude_O / column_norm(V_IO))


def edora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    M_RS: Tensor,
    C_SO: Tensor,
    magnitude_O: Tensor,
    scale: float,
    norm_O: Tensor,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """EDoRA's layer (arXiv 2501.12067): V = W0 + s A M C, M (R, S) and m (O,) trained; norm (O,) is a constant.
    Raises ShapeError."""
    factors = {"A_IR": A_IR, "M_RS": M_RS, "C_SO": C_SO, "magnitude_O": magnitude_O, "norm_O": norm_O}
    bind("edora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, keep_NI=keep_NI, **factors)
    # y0 = x V,   y = y0 * m / n + b
    y0_NO = frozen_linear(x_NI, W0_IO, None) + edora_update(_drop(x_NI, keep_NI), A_IR, M_RS, C_SO, magnitude_O, scale)
    y_NO = rescale(y0_NO, magnitude_O, norm_O.detach())
    return y_NO if b_O is None else y_NO + b_O.detach()


def edora_update(xd_NI: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """What EDoRA adds to x W0 before the columns are rescaled: LoRA-XS's s xd A M C (..., O), A and C frozen."""
    return tri_update(xd_NI, A_IR.detach(), M_RS, C_SO.detach(), scale)


def edora_norm(W0_IO: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """n (O,): the column norms of V = W0 + s A M C; given to edora_linear they are a constant."""
    return column_norm(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale))


def edora_delta_w(W0_IO: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """dW = V * m / n - W0, (I, O)."""
    return _rescaled(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale), magnitude_O) - W0_IO
