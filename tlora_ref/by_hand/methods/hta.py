"""HTA: a reflection, a trained diagonal and another reflection, beside a patch of low rank.

Paper       W. Dong et al., Householder transformation-based adaptation, arXiv 2410.22952, NeurIPS 2024.
Equation    y = x W0 + b + dropout(x) (p q + H_left D H_right),   H = I - v v^T as printed, or I - 2 w w^T, w = v / |v|
Arrays      p (I, R), q (R, O), the diagonal of D (M,), left (I,) and right (O,), the v of the two H, are trained.
Start       q = 0, diag = 0, p ~ N(0, 0.02^2), left and right random directions of |v|^2 = 2: nothing changes at first.
Twin        by_autograd/methods/hta.py.
Checked by  tests/test_kernels.py, tests/test_family.py and tests/test_laws_of_relatives.py.

Special to it: H_left D H_right has full rank, and costs O(N (I + O)), for no H is ever built. The printed I - v v^T is
orthogonal only while |v|^2 = 2, which nothing in training keeps; ``hta`` is that form, and ``hta_unit`` divides by |v|
and stays a reflection. Readings, where the paper is silent: how the arrays start; D of a matrix that is not square has
its M = min(I, O) entries on the leading diagonal; dropout acts on the branch's x.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from ...draws import normal
from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted

if TYPE_CHECKING:
    from ...config import AdapterConfig


def hta_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start."""
    I, O, R, seed = site.I, site.O, site.R, config.seed
    left_I, right_O = normal(seed, f"{site.name}.left", (I,), 1.0), normal(seed, f"{site.name}.right", (O,), 1.0)
    return {
        "left": left_I * (sqrt(2) / np.linalg.norm(left_I)),
        "right": right_O * (sqrt(2) / np.linalg.norm(right_O)),
        "diag": np.zeros(min(I, O)),
        "p": normal(seed, f"{site.name}.p", (I, R), 0.02),
        "q": np.zeros((R, O)),
    }


# --- a reflection ----------------------------------------------------------------------------------


@shaped
def reflect_fwd(x_ND: Array, v_D: Array, unit: bool = False) -> tuple[Array, Cache]:
    """x H (..., D):  H = I - v v^T as the paper prints it; ``unit``: H = I - 2 w w^T with w = v / |v|."""
    norm = np.sqrt((v_D * v_D).sum()) if unit else None
    w_D = v_D if norm is None else v_D / norm
    # y = x - c (x w) w^T,   c = 1 or 2
    a_N1 = (2 if unit else 1) * (x_ND @ w_D[:, None])
    return x_ND - a_N1 * w_D, (x_ND, w_D, a_N1, norm)


def reflect_bwd(dy_ND: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "v"}"""
    x_ND, w_D, a_N1, norm = cache
    want, grads = wanted(wrt, "x", "v"), {}
    # g = c (dy w)
    g_N1 = (1 if norm is None else 2) * (dy_ND @ w_D[:, None])
    # dx = dy H = dy - g w^T:  H is symmetric
    if "x" in want:
        grads["x"] = dy_ND - g_N1 * w_D
    # dw = -sum over rows of (a dy + g x)
    if "v" in want:
        dw_D = -rows(a_N1 * dy_ND + g_N1 * x_ND).sum(axis=0)
        # w = v / |v|:  dv = (dw - (w dw) w) / |v|
        grads["v"] = dw_D if norm is None else (dw_D - (w_D @ dw_D) * w_D) / norm
    return grads


def widened(t_NM: Array, width: int) -> Array:
    """The first M of ``width`` columns, and zeros in the others."""
    zeros = np.zeros((*t_NM.shape[:-1], width - t_NM.shape[-1]), dtype=t_NM.dtype)
    return np.concatenate([t_NM, zeros], axis=-1)


# --- HTA -------------------------------------------------------------------------------------------


@shaped
def hta_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    left_I: Array,
    right_O: Array,
    diag_M: Array,
    p_IR: Array,
    q_RO: Array,
    keep_NI: Array | None = None,
    unit: bool = False,
) -> tuple[Array, Cache]:
    """HTA's layer (arXiv 2410.22952): all of left (I,), right (O,), diag (M,), p (I, R), q (R, O) trained,
    M = min(I, O); dropout on the branch's x: keep (..., I). Raises ShapeError."""
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    # z = drop(x) H_left,   t = the first M columns of z
    z_NI, c_left = reflect_fwd(xd_NI, left_I, unit)
    t_NM = z_NI[..., : diag_M.size]
    # h = (t * diag, filled up with zeros) H_right
    h_NO, c_right = reflect_fwd(widened(t_NM * diag_M, right_O.size), right_O, unit)
    # u = drop(x) p,   y = x W0 + b + h + u q
    u_NR = xd_NI @ p_IR
    y_NO = x_NI @ W0_IO + h_NO + u_NR @ q_RO
    if b_O is not None:
        y_NO = y_NO + b_O
    return y_NO, (xd_NI, t_NM, u_NR, W0_IO, diag_M, p_IR, q_RO, keep_NI, c_left, c_right)


def hta_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "left", "right", "diag", "p", "q"}"""
    xd_NI, t_NM, u_NR, W0_IO, diag_M, p_IR, q_RO, keep_NI, c_left, c_right = cache
    want, grads = wanted(wrt, "x", "left", "right", "diag", "p", "q"), {}
    # dq = u^T dy,   du = dy q^T,   dp = drop(x)^T du
    if "q" in want:
        grads["q"] = rows(u_NR).T @ rows(dy_NO)
    du_NR = dy_NO @ q_RO.T
    if "p" in want:
        grads["p"] = rows(xd_NI).T @ rows(du_NR)
    # through H_right:  dright,   ds = dy H_right, of which D reads the first M columns
    right = reflect_bwd(dy_NO, c_right)
    dt_NM = right["x"][..., : diag_M.size]
    if "right" in want:
        grads["right"] = right["v"]
    # ddiag = sum over rows of ds * t
    if "diag" in want:
        grads["diag"] = rows(dt_NM * t_NM).sum(axis=0)
    # through H_left:  dz = ds * diag, filled up with zeros;   dleft
    left = reflect_bwd(widened(dt_NM * diag_M, p_IR.shape[0]), c_left)
    if "left" in want:
        grads["left"] = left["v"]
    # dx = dy W0^T + keep * (dz H_left + du p^T)
    if "x" in want:
        dxd_NI = left["x"] + du_NR @ p_IR.T
        grads["x"] = dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI)
    return grads


@shaped
def hta_delta_w(
    W0_IO: Array, left_I: Array, right_O: Array, diag_M: Array, p_IR: Array, q_RO: Array, unit: bool = False
) -> Array:
    """dW = p q + H_left D H_right, (I, O): what the branch makes of the rows of the identity."""
    z_II, _ = reflect_fwd(np.eye(left_I.size, dtype=left_I.dtype), left_I, unit)
    s_IO = widened(z_II[:, : diag_M.size] * diag_M, right_O.size)
    return reflect_fwd(s_IO, right_O, unit)[0] + p_IR @ q_RO


REFLECT = Kernel("reflect", reflect_fwd, reflect_bwd, ("x", "v"), "ND", exact=True)
REFLECT_UNIT = Kernel("reflect_unit", partial(reflect_fwd, unit=True), reflect_bwd, ("x", "v"), "ND")

TRAINED = ("left", "right", "diag", "p", "q")


def _method(name: str, label: str, unit: bool) -> Method:
    """One of the two readings of H."""
    fwd = partial(hta_linear_fwd, unit=unit)
    return Method(
        name=name,
        label=label,
        paper="arXiv 2410.22952",
        kernel=Kernel(f"{name}_linear", fwd, hta_linear_bwd, ("x", *TRAINED), "NO", exact=not unit),
        trained=TRAINED,
        draw=hta_draw,
        delta_w=partial(hta_delta_w, unit=unit),
        additive=False,
        rank=1,
    )


PRINTED = _method("hta", "HTA", unit=False)
UNIT = _method("hta_unit", "HTA, unit vectors", unit=True)
