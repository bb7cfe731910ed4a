"""TLoRA: three matrices beside a frozen weight, of which only the small one in the middle is trained.

Paper       T. Islam, TLoRA: Tri-Matrix Low-Rank Adaptation of Large Language Models, arXiv 2504.18735, section 2.2.
Equation    y = x W0 + b + dropout(alpha * x A B C),   so that evaluation is a linear layer with W0 + alpha A B C.
Arrays      B (R, R) and the scalar alpha are trained;  A (I, R) and C (R, O) are random and frozen, as are W0 and b.
Start       B = 0 and alpha = 1: at first nothing changes. A and C are normal, by one of two rules (section 2.4):
                released (kaiming_normal_(a = sqrt 5) on A stored (I, R) and C stored (R, O), where torch takes the
                second axis as fan-in):         A ~ N(0, 1 / (3 R)),   C ~ N(0, 1 / (3 O))
                fan_in (the axis summed over):  A ~ N(0, 1 / (3 I)),   C ~ N(0, 1 / (3 R))
            or, beyond the paper, orthogonal with the norms of the released rule (factors.py has the sources):
                orthonormal: random;   weight_svd: singular vectors of W0, as in LoRA-XS;
                gradient: singular vectors of dL/dW0 on given examples, as in LoRA-SB (gradient_factors.py)
Twin        by_autograd/methods/tlora.py.
Checked by  tests/test_kernels.py (oracles, exact rationals) and tests/test_laws.py (the laws of the method).

Special to it: at B = 0 the gradient of alpha is exactly zero and the adapter's share of dx is too, so the starting
point hides every mistake in either. <B, dB> = alpha dalpha holds at every point. Only u = x A (N x R) has to be kept
for the backward, never x itself.
"""

from __future__ import annotations

from collections.abc import Collection
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from ...draws import normal
from ...factors import along_singular_vectors, orthonormal, with_released_norms
from ...methods import Kernel, Method, Site
from ...shapes import InputError, shaped
from ..ops import Array, Cache, Grads, rows, wanted

if TYPE_CHECKING:
    from ...config import AdapterConfig


def factor_stds(rule: str, I: int, O: int, R: int) -> tuple[float, float]:
    """The standard deviations of A (I, R) and C (R, O) under a rule of config.INITS; all but "fan_in" have the released
    ones."""
    fan_A, fan_C = (I, R) if rule == "fan_in" else (R, O)
    return 1 / sqrt(3 * fan_A), 1 / sqrt(3 * fan_C)


def tlora_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start. Raises InputError for the rule "gradient": W0 has no gradient in it."""
    name, I, O, R = site.name, site.I, site.O, site.R
    if config.init == "gradient":
        raise InputError(f"init is 'gradient', and no factors are given for {name}: gradient_factors makes them")
    if config.init == "weight_svd":
        A_IR, C_RO = along_singular_vectors(W0_IO, R)
    else:
        std_A, std_C = factor_stds(config.init, I, O, R)
        A_IR = normal(config.seed, f"{name}.A", (I, R), std_A)
        C_RO = normal(config.seed, f"{name}.C", (R, O), std_C)
        if config.init == "orthonormal":
            A_IR, C_RO = with_released_norms(orthonormal(A_IR), orthonormal(C_RO.T))
    return tlora_start(A_IR, C_RO)


def tlora_start(A_IR: Array, C_RO: Array) -> dict[str, Array]:
    """The arrays of one matrix at the start, between frozen factors that are given."""
    return {"A": A_IR, "B": np.zeros((A_IR.shape[1], C_RO.shape[0])), "C": C_RO, "alpha": np.ones(())}


@shaped
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
    """TLoRA's adapted linear layer (arXiv 2504.18735, section 2.2): x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None, A (I, R), C (S, O) frozen; B (R, S) and the scalar alpha trained; S = R in the
    paper. Dropout acts on the scaled update, not on x: keep (..., O), or None. Raises ShapeError.
    """
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


@shaped
def tlora_delta_w(W0_IO: Array, A_IR: Array, B_RS: Array, C_SO: Array, alpha: Array | float) -> Array:
    """dW = W' - W0 = alpha A B C, (I, O): what evaluation adds to W0. W0 enters methods that are not additive."""
    return A_IR @ (alpha * B_RS) @ C_SO


METHOD = Method(
    name="tlora",
    label="TLoRA",
    paper="arXiv 2504.18735",
    kernel=Kernel("tlora_linear", tlora_linear_fwd, tlora_linear_bwd, ("x", "B", "alpha"), "NO", exact=True),
    trained=("B", "alpha"),
    frozen=("A", "C"),
    draw=tlora_draw,
    delta_w=tlora_delta_w,
    rank=16,
)
