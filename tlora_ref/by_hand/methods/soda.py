"""SODA, its SVD variant: the weight's own singular values shifted, its singular vectors rotated.

Paper       X. Zhang et al., Spectrum-aware parameter-efficient fine-tuning, arXiv 2405.21050.
Equation    y = x W' + b,   W' = (Q1 x Q2 x Q3) U diag(relu(sigma + delta)) V^T,   W0 = U diag(sigma) V^T,
            x the Kronecker product; with dropout  y = x W0 + b + dropout(x) (W' - W0)
Arrays      delta (M,) and Q1 (X, X), Q2 (Y, Y), Q3 (Z, Z), orthogonal, are trained;  U (I, M), sigma (M,) and V^T,
            Vt (M, O), are frozen;  X * Y * Z = I and M = min(I, O).
Start       Q1 = Q2 = Q3 = the identity, delta = 0.
Twin        by_autograd/methods/soda.py.
Checked by  tests/test_kernels.py, tests/test_family.py and tests/test_laws_of_relatives.py.

Special to it: W0 is replaced, not added to, and has no rank. With orthogonal Q the singular values of W' are
relu(sigma + delta), whatever Q is; so the optimizer has to keep Q orthogonal (optimizers.py, "stiefel"), and the rank
of the configuration means nothing. The rotation costs O(N I (X + Y + Z)), for it is never built.

Readings. The released code starts at delta = 1e-3, which moves every weight by 1e-3 U V^T before the first step; here
the start is the base itself, as it is for every other method, and delta has a gradient there all the same. That code
has factors for a few widths; they are kept, and any other width is split as evenly as it can be. The paper has no
dropout. W' - W0 is computed as ((Q1 x Q2 x Q3) - 1) W0 + (Q1 x Q2 x Q3) U diag(relu(sigma + delta) - sigma) V^T, which
is the same, and exactly 0 at the start, where the rounded product U diag(sigma) V^T is not W0.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache as remembered
from typing import TYPE_CHECKING

import numpy as np

from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted
from .bottleneck import relu_bwd, relu_fwd

if TYPE_CHECKING:
    from ...config import AdapterConfig

RELEASED = {768: (6, 8, 16), 1280: (4, 16, 20), 2048: (4, 8, 64)}
"""The released code's factors of a width, where they are not the most even ones."""


@remembered
def three_factors(width: int) -> tuple[int, int, int]:
    """(X, Y, Z) with X * Y * Z = width: as released, or with the smallest X^2 + Y^2 + Z^2, X <= Y <= Z."""
    if width in RELEASED:
        return RELEASED[width]
    divisors = [n for n in range(1, width + 1) if width % n == 0]
    triples = [(X, Y, width // (X * Y)) for X in divisors for Y in divisors if X <= Y and width % (X * Y) == 0]
    return min((t for t in triples if t[1] <= t[2]), key=lambda t: sum(n * n for n in t))


def soda_sizes(site: Site) -> dict[str, int]:
    """The sizes of the letters X, Y and Z on a matrix."""
    return dict(zip("XYZ", three_factors(site.I), strict=True))


def soda_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start."""
    U_IM, sigma_M, Vt_MO = np.linalg.svd(np.asarray(W0_IO, dtype=np.float64), full_matrices=False)
    # a singular vector's sign is free: its largest entry is made positive, so that draws agree between libraries
    sign_M = np.sign(np.take_along_axis(U_IM, np.abs(U_IM).argmax(axis=0)[None], axis=0))[0]
    rotations = {f"Q{i}": np.eye(size) for i, size in enumerate(three_factors(site.I), start=1)}
    return {"delta": np.zeros_like(sigma_M), **rotations} | {
        "U": U_IM * sign_M,
        "sigma": sigma_M,
        "Vt": Vt_MO * sign_M[:, None],
    }


# --- the rotation ----------------------------------------------------------------------------------


@shaped
def kron_fwd(x_NI: Array, Q1_XX: Array, Q2_YY: Array, Q3_ZZ: Array) -> tuple[Array, Cache]:
    """x (Q1 x Q2 x Q3) (..., I), the Kronecker product never built: I is taken apart into X * Y * Z, and each axis
    meets its own matrix."""
    X, Y, Z = len(Q1_XX), len(Q2_YY), len(Q3_ZZ)
    # s = x Q3 along Z,   t = s Q2 along Y,   y = t Q1 along X
    x_NXYZ = x_NI.reshape(-1, X, Y, Z)
    s_NXYZ = x_NXYZ @ Q3_ZZ
    t_NXYZ = Q2_YY.T @ s_NXYZ
    y_NXYZ = Q1_XX.T @ t_NXYZ.reshape(-1, X, Y * Z)
    return y_NXYZ.reshape(x_NI.shape), (x_NXYZ, s_NXYZ, t_NXYZ, Q1_XX, Q2_YY, Q3_ZZ)


def kron_bwd(dy_NI: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "Q1", "Q2", "Q3"}"""
    x_NXYZ, s_NXYZ, t_NXYZ, Q1_XX, Q2_YY, Q3_ZZ = cache
    want, grads = wanted(wrt, "x", "Q1", "Q2", "Q3"), {}
    X, Y, Z = len(Q1_XX), len(Q2_YY), len(Q3_ZZ)
    # dQ1 = sum over rows and the other axes of t dy^T,   dt = Q1 dy along X
    dy_NXP, t_NXP = dy_NI.reshape(-1, X, Y * Z), t_NXYZ.reshape(-1, X, Y * Z)
    if "Q1" in want:
        grads["Q1"] = (t_NXP @ dy_NXP.swapaxes(1, 2)).sum(axis=0)
    dt_NXYZ = (Q1_XX @ dy_NXP).reshape(-1, X, Y, Z)
    # dQ2 = sum of s dt^T,   ds = Q2 dt along Y
    if "Q2" in want:
        grads["Q2"] = (s_NXYZ @ dt_NXYZ.swapaxes(2, 3)).sum(axis=(0, 1))
    ds_NXYZ = Q2_YY @ dt_NXYZ
    # dQ3 = sum of x^T ds,   dx = ds Q3^T along Z
    if "Q3" in want:
        grads["Q3"] = rows(x_NXYZ).T @ rows(ds_NXYZ)
    if "x" in want:
        grads["x"] = (ds_NXYZ @ Q3_ZZ.T).reshape(dy_NI.shape)
    return grads


# --- SODA ------------------------------------------------------------------------------------------


@shaped
def soda_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    U_IM: Array,
    sigma_M: Array,
    Vt_MO: Array,
    delta_M: Array,
    Q1_XX: Array,
    Q2_YY: Array,
    Q3_ZZ: Array,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    """SODA's layer (arXiv 2405.21050): delta (M,), Q1 (X, X), Q2 (Y, Y), Q3 (Z, Z) trained, U (I, M), sigma (M,) and
    Vt (M, O) frozen; dropout on the x of W' - W0: keep (..., I). Raises ShapeError."""
    # r = drop(x) (Q1 x Q2 x Q3),   h = x + r - drop(x), which is r where nothing is dropped
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    r_NI, c_kron = kron_fwd(xd_NI, Q1_XX, Q2_YY, Q3_ZZ)
    h_NI = r_NI if keep_NI is None else x_NI + (r_NI - xd_NI)
    # g = relu(sigma + delta) - sigma,   v = r U
    shifted_M, c_relu = relu_fwd(sigma_M + delta_M)
    g_M = shifted_M - sigma_M
    v_NM = r_NI @ U_IM
    # y = h W0 + (v * g) V^T + b
    y_NO = h_NI @ W0_IO + (v_NM * g_M) @ Vt_MO
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (v_NM, g_M, W0_IO, U_IM, Vt_MO, keep_NI, c_relu, c_kron)


def soda_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "delta", "Q1", "Q2", "Q3"}"""
    v_NM, g_M, W0_IO, U_IM, Vt_MO, keep_NI, c_relu, c_kron = cache
    want, grads = wanted(wrt, "x", "delta", "Q1", "Q2", "Q3"), {}
    # e = dy V,   dg = sum over rows of e * v,   ddelta = dg where sigma + delta > 0
    e_NM = dy_NO @ Vt_MO.T
    if "delta" in want:
        grads["delta"] = relu_bwd(rows(e_NM * v_NM).sum(axis=0), c_relu)["x"]
    if want - {"delta"}:
        # dh = dy W0^T,   dr = dh + (e * g) U^T,   and through the rotation
        dh_NI = dy_NO @ W0_IO.T
        kron = kron_bwd(dh_NI + (e_NM * g_M) @ U_IM.T, c_kron, wrt=want - {"delta"})
        grads |= {key: gradient for key, gradient in kron.items() if key != "x"}
        # dx = dh + keep * (dx of the rotation - dh)
        if "x" in want:
            grads["x"] = kron["x"] if keep_NI is None else dh_NI + keep_NI * (kron["x"] - dh_NI)
    return grads


@shaped
def soda_delta_w(
    W0_IO: Array,
    U_IM: Array,
    sigma_M: Array,
    Vt_MO: Array,
    delta_M: Array,
    Q1_XX: Array,
    Q2_YY: Array,
    Q3_ZZ: Array,
) -> Array:
    """dW = W' - W0 = (Q1 x Q2 x Q3) (W0 + U diag(relu(sigma + delta) - sigma) V^T) - W0, (I, O)."""
    R_II = kron_fwd(np.eye(len(W0_IO), dtype=W0_IO.dtype), Q1_XX, Q2_YY, Q3_ZZ)[0]
    g_M = relu_fwd(sigma_M + delta_M)[0] - sigma_M
    return R_II @ (W0_IO + (U_IM * g_M) @ Vt_MO) - W0_IO


KRON = Kernel("kron", kron_fwd, kron_bwd, ("x", "Q1", "Q2", "Q3"), "NI", exact=True)

METHOD = Method(
    name="soda",
    label="SODA",
    paper="arXiv 2405.21050",
    kernel=Kernel("soda_linear", soda_linear_fwd, soda_linear_bwd, ("x", "delta", "Q1", "Q2", "Q3"), "NO"),
    trained=("delta", "Q1", "Q2", "Q3"),
    frozen=("U", "sigma", "Vt"),
    draw=soda_draw,
    delta_w=soda_delta_w,
    sizes_of=soda_sizes,
    orthogonal=("Q1", "Q2", "Q3"),
    optimizer="stiefel",
    from_seed=False,
    additive=False,
    rank=1,
)
