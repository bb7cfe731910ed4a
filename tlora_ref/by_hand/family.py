"""TLoRA's relatives: dW = s A M C with other factors trained, and the methods that rescale its columns.

Equation    LoRA-FA   y = x W0 + b + s drop(x) A B, only B trained                             (arXiv 2308.03303)
            LoRA-XS   y = x W0 + b + s drop(x) A M C, only M trained                           (arXiv 2405.17604)
            MTLoRA    y = x W0 + b + s drop(x) A M B, M = C, C C^T, D C or C + D, all trained  (arXiv 2403.07440)
            VeRA      y = x W0 + b + ((drop(x) A) * lambda_d) B * lambda_b                     (arXiv 2310.11454)
            DoRA      y = x (V * m / n) + b,  V = W0 + s A B,  n = column norms of V           (arXiv 2402.09353)
            EDoRA     the same with V = W0 + s A M C, M trained                                (arXiv 2501.12067)
Twin        by_autograd/family.py, same names without ``_fwd``.
Checked by  tests/test_kernels.py and tests/test_family.py: oracles, exact rationals, reductions, symmetries.

What is kept for the backward follows from who trains: x for A, u = x A for M, v = u M for C, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..shapes import bind
from .adapters import lora_delta_w, lora_linear_bwd, lora_linear_fwd
from .ops import Array, Cache, Grads, rows, wanted

# --- LoRA-FA: LoRA with the down factor frozen --------------------------------------------------------


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
    bind("lora_fa_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI)
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


# --- tri: any of the three factors of dW = s A M C trained ---------------------------------------------


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
    bind("tri_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, M_RS=M_RS, C_SO=C_SO, keep_NI=keep_NI)
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


def tri_delta_w(W0_IO: Array, A_IR: Array, M_RS: Array, C_SO: Array, scale: float) -> Array:
    """dW = s A M C, (I, O)."""
    bind("tri_delta_w", W0_IO=W0_IO, A_IR=A_IR, M_RS=M_RS, C_SO=C_SO)
    return (scale * A_IR) @ M_RS @ C_SO


# --- MTLoRA: the core M made of one or two trained matrices --------------------------------------------


def mtlora_core_fwd(C_RR: Array, D_RR: Array | None = None, form: str = "shim") -> tuple[Array, Cache]:
    """M (R, R) of the four forms: shim C, icfm C C^T (symmetric, no negative eigenvalue), ctcm D C, dtsm C + D."""
    bind("mtlora_core", C_RR=C_RR, D_RR=D_RR)
    # M = C   |   C C^T   |   D C   |   C + D
    if form == "shim":
        M_RR = C_RR.copy()
    elif form == "icfm":
        M_RR = C_RR @ C_RR.T
    else:
        M_RR = D_RR @ C_RR if form == "ctcm" else C_RR + D_RR
    return M_RR, (C_RR, D_RR, form)


def mtlora_core_bwd(dM_RR: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"C"}, and {"D"} for ctcm and dtsm."""
    C_RR, D_RR, form = cache
    want, grads = wanted(wrt, "C", *(["D"] if D_RR is not None else [])), {}
    # dC = dM   |   (dM + dM^T) C   |   D^T dM   |   dM
    if "C" in want:
        dC = {"icfm": lambda: (dM_RR + dM_RR.T) @ C_RR, "ctcm": lambda: D_RR.T @ dM_RR}
        grads["C"] = dC.get(form, dM_RR.copy)()
    # dD =                              dM C^T   |   dM
    if "D" in want:
        grads["D"] = dM_RR @ C_RR.T if form == "ctcm" else dM_RR.copy()
    return grads


def mtlora_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    C_RR: Array,
    scale: float,
    D_RR: Array | None = None,
    keep_NI: Array | None = None,
    form: str = "shim",
) -> tuple[Array, Cache]:
    """LoRA with a trained map between its factors, s A M B; M as in mtlora_core_fwd. Raises ShapeError."""
    bind("mtlora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, C_RR=C_RR, D_RR=D_RR, keep_NI=keep_NI)
    # M = core(C, D),   y = tri(x; A, M, B)
    M_RR, c_core = mtlora_core_fwd(C_RR, D_RR, form)
    y_NO, c_tri = tri_linear_fwd(x_NI, W0_IO, b_O, A_IR, M_RR, B_RO, scale, keep_NI)
    return y_NO, (c_core, c_tri)


def mtlora_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "A", "B", "C"}, and {"D"} for ctcm and dtsm."""
    c_core, c_tri = cache
    core = ("C",) if c_core[1] is None else ("C", "D")
    want = wanted(wrt, "x", "A", "B", *core)
    # dx, dA, dB (tri calls it C) and dM from tri,   then dC and dD from dM
    tri = tri_linear_bwd(dy_NO, c_tri, wrt=[{"B": "C"}.get(key, key) for key in want - set(core)] + ["M"])
    inner = mtlora_core_bwd(tri["M"], c_core, wrt=want & set(core))
    return {key: inner[key] if key in core else tri[{"B": "C"}.get(key, key)] for key in sorted(want)}


def mtlora_delta_w(
    W0_IO: Array, A_IR: Array, B_RO: Array, C_RR: Array, scale: float, D_RR: Array | None = None, form: str = "shim"
) -> Array:
    """dW = s A M B, (I, O)."""
    return tri_delta_w(W0_IO, A_IR, mtlora_core_fwd(C_RR, D_RR, form)[0], B_RO, scale)


# --- VeRA: a frozen pair shared by all layers, two trained vectors a layer -----------------------------


def vera_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    lambda_d_R: Array,
    lambda_b_O: Array,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    """VeRA's layer (arXiv 2310.11454, eq. 2): A (I, R), B (R, O) frozen, lambda_d (R,), lambda_b (O,) trained;
    dropout on x: keep (..., I). Raises ShapeError."""
    vectors = {"lambda_d_R": lambda_d_R, "lambda_b_O": lambda_b_O}
    bind("vera_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI, **vectors)
    # u = drop(x) A,   v = u * lambda_d
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    u_NR = xd_NI @ A_IR
    v_NR = u_NR * lambda_d_R
    # y = x W0 + b + (v B) * lambda_b
    y_NO = x_NI @ W0_IO + (v_NR @ B_RO) * lambda_b_O
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (u_NR, W0_IO, A_IR, B_RO, lambda_d_R, lambda_b_O, keep_NI)


def vera_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "lambda_d", "lambda_b"}"""
    u_NR, W0_IO, A_IR, B_RO, lambda_d_R, lambda_b_O, keep_NI = cache
    want, grads = wanted(wrt, "x", "lambda_d", "lambda_b"), {}
    # dlambda_b = sum over rows of dy * (v B) = sum over R of B * (v^T dy): nothing of size N x O is kept
    if "lambda_b" in want:
        grads["lambda_b"] = (B_RO * (rows(u_NR * lambda_d_R).T @ rows(dy_NO))).sum(axis=0)
    if want & {"x", "lambda_d"}:
        # dv = (dy * lambda_b) B^T
        dv_NR = (dy_NO * lambda_b_O) @ B_RO.T
        # dlambda_d = sum over rows of dv * u
        if "lambda_d" in want:
            grads["lambda_d"] = rows(dv_NR * u_NR).sum(axis=0)
        # dx = dy W0^T + keep * ((dv * lambda_d) A^T)
        if "x" in want:
            dxd_NI = (dv_NR * lambda_d_R) @ A_IR.T
            grads["x"] = dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI)
    return grads


def vera_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, lambda_d_R: Array, lambda_b_O: Array) -> Array:
    """dW = A diag(lambda_d) B diag(lambda_b), (I, O)."""
    return (A_IR * lambda_d_R) @ B_RO * lambda_b_O


# --- DoRA and EDoRA: the column-norm step on top of an additive update ----------------------------------


def column_norm_fwd(V_IO: Array) -> tuple[Array, Cache]:
    """n (O,): the Euclidean norm of each column of V, one output unit each."""
    bind("column_norm", V_IO=V_IO)
    # n_j = sqrt(sum_i V_ij^2)
    n_O = np.sqrt((V_IO * V_IO).sum(axis=0))
    return n_O, (V_IO, n_O)


def column_norm_bwd(dn_O: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"V"}"""
    V_IO, n_O = cache
    want, grads = wanted(wrt, "V"), {}
    # dV_ij = dn_j V_ij / n_j
    if "V" in want:
        grads["V"] = V_IO * (dn_O / n_O)
    return grads


def rescale_fwd(y0_NO: Array, magnitude_O: Array, norm_O: Array) -> tuple[Array, Cache]:
    """y = y0 * m / n: a layer's columns brought from length n to length m.  y0 (..., O), m and n (O,)."""
    bind("rescale", y0_NO=y0_NO, magnitude_O=magnitude_O, norm_O=norm_O)
    # y = y0 * m / n
    return y0_NO * (magnitude_O / norm_O), (y0_NO, magnitude_O, norm_O)


def rescale_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"y0", "magnitude", "norm"}"""
    y0_NO, magnitude_O, norm_O = cache
    want, grads = wanted(wrt, "y0", "magnitude", "norm"), {}
    # dy0 = dy * m / n
    if "y0" in want:
        grads["y0"] = dy_NO * (magnitude_O / norm_O)
    # dm = sum over rows of dy * y0 / n,   dn = -dm * m / n
    if want & {"magnitude", "norm"}:
        dm_O = rows(dy_NO * y0_NO).sum(axis=0) / norm_O
        if "magnitude" in want:
            grads["magnitude"] = dm_O
        if "norm" in want:
            grads["norm"] = -dm_O * (magnitude_O / norm_O)
    return grads


def dora_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    magnitude_O: Array,
    scale: float,
    norm_O: Array | None = None,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    """DoRA's layer (arXiv 2402.09353, eq. 5): A (I, R), B (R, O), m (O,) trained; dropout on the branch's x.

    norm (O,): the column norms of V as a constant, which is the released form (section 4.3 of the paper, the
    norm detached); None: the norms are computed here and differentiated. Raises ShapeError.
    """
    vectors = {"magnitude_O": magnitude_O, "norm_O": norm_O}
    bind("dora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI, **vectors)
    # y0 = x V,   V = W0 + s A B
    y0_NO, c_lora = lora_linear_fwd(x_NI, W0_IO, None, A_IR, B_RO, scale, keep_NI)
    c_norm = None
    if norm_O is None:
        norm_O, c_norm = column_norm_fwd(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale))
    # y = y0 * m / n + b
    y_NO, c_rescale = rescale_fwd(y0_NO, magnitude_O, norm_O)
    return (y_NO if b_O is None else y_NO + b_O), (c_lora, c_norm, c_rescale)


def dora_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "A", "B", "magnitude"}"""
    c_lora, c_norm, c_rescale = cache
    want = wanted(wrt, "x", "A", "B", "magnitude")
    A_IR, B_RO, scale = c_lora[3:6]
    # dm,   dy0 = dy * m / n, and dx, dA, dB as in LoRA with the cotangent dy0
    outer = rescale_bwd(dy_NO, c_rescale)
    grads = lora_linear_bwd(outer["y0"], c_lora, wrt=want - {"magnitude"})
    if c_norm is not None and want & {"A", "B"}:
        # through the norm:  dV from dn,   dA += s dV B^T,   dB += s A^T dV
        dV_IO = scale * column_norm_bwd(outer["norm"], c_norm)["V"]
        if "A" in want:
            grads["A"] = grads["A"] + dV_IO @ B_RO.T
        if "B" in want:
            grads["B"] = grads["B"] + A_IR.T @ dV_IO
    return grads | ({"magnitude": outer["magnitude"]} if "magnitude" in want else {})


def dora_norm(W0_IO: Array, A_IR: Array, B_RO: Array, magnitude_O: Array, scale: float) -> Array:
    """n (O,): the column norms of V = W0 + s A B, which dora_linear_fwd takes as a constant."""
    return column_norm_fwd(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale))[0]


def dora_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, magnitude_O: Array, scale: float) -> Array:
    """dW = V * m / n - W0, (I, O): not s A B, the columns are rescaled as well."""
    return _rescaled(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale), magnitude_O) - W0_IO


def _rescaled(V_IO: Array, magnitude_O: Array) -> Array:
    return V_IO * (magnitude_O / column_norm_fwd(V_IO)[0])


def edora_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    M_RS: Array,
    C_SO: Array,
    magnitude_O: Array,
    scale: float,
    norm_O: Array,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    """EDoRA's layer (arXiv 2501.12067): V = W0 + s A M C with A, C frozen, M (R, S) and m (O,) trained; norm (O,)
    is a constant, as released. Raises ShapeError."""
    factors = {"A_IR": A_IR, "M_RS": M_RS, "C_SO": C_SO, "magnitude_O": magnitude_O, "norm_O": norm_O}
    bind("edora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, keep_NI=keep_NI, **factors)
    # y0 = x V,   y = y0 * m / n + b
    y0_NO, c_tri = tri_linear_fwd(x_NI, W0_IO, None, A_IR, M_RS, C_SO, scale, keep_NI, trains=("M",))
    y_NO, c_rescale = rescale_fwd(y0_NO, magnitude_O, norm_O)
    return (y_NO if b_O is None else y_NO + b_O), (c_tri, c_rescale)


def edora_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "M", "magnitude"}"""
    c_tri, c_rescale = cache
    want = wanted(wrt, "x", "M", "magnitude")
    # dm,   dy0 = dy * m / n, and dx, dM as in LoRA-XS with the cotangent dy0
    outer = rescale_bwd(dy_NO, c_rescale, wrt=["y0", "magnitude"])
    grads = tri_linear_bwd(outer["y0"], c_tri, wrt=want - {"magnitude"})
    return grads | ({"magnitude": outer["magnitude"]} if "magnitude" in want else {})


def edora_norm(W0_IO: Array, A_IR: Array, M_RS: Array, C_SO: Array, magnitude_O: Array, scale: float) -> Array:
    """n (O,): the column norms of V = W0 + s A M C."""
    return column_norm_fwd(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale))[0]


def edora_delta_w(W0_IO: Array, A_IR: Array, M_RS: Array, C_SO: Array, magnitude_O: Array, scale: float) -> Array:
    """dW = V * m / n - W0, (I, O); the released merge helper leaves the rescaling out, this one does not."""
    return _rescaled(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale), magnitude_O) - W0_IO
