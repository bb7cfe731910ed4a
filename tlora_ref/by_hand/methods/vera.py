"""VeRA: one frozen random pair for all layers, and two trained vectors for each.

Paper       D. Kopiczko et al., arXiv 2310.11454, equation 2.
Equation    y = x W0 + b + ((dropout(x) A) * lambda_d) B * lambda_b
Arrays      lambda_d (R,) and lambda_b (O,) are trained;  A (I, R) and B (R, O) are random, frozen, and shared by all
            matrices: as large as the largest needs, and cut to each one's size.
Start       lambda_d = 0.1, lambda_b = 0, A uniform in +-sqrt(6 / I), B in +-sqrt(6 / R), as in Hugging Face PEFT.
Twin        by_autograd/methods/vera.py.
Checked by  tests/test_kernels.py, tests/test_family.py, and tests/test_peers.py against Hugging Face PEFT.

Special to it: the only method here whose frozen store is one for the whole model. It is counted once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from ...draws import uniform
from ...methods import SHARED, Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted

if TYPE_CHECKING:
    from ...config import AdapterConfig


def vera_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The vectors of one matrix at the start."""
    return {"lambda_d": np.full(site.R, 0.1), "lambda_b": np.zeros(site.O)}


def vera_draw_shared(sites: Sequence[Site], config: AdapterConfig) -> dict[str, Array]:
    """The pair that all matrices share, as large as the largest of them needs."""
    I, O, R = (max(site.sizes[letter] for site in sites) for letter in "IOR")
    A_IR = uniform(config.seed, f"{SHARED}.A", (I, R), sqrt(6 / I))
    return {"A": A_IR, "B": uniform(config.seed, f"{SHARED}.B", (R, O), sqrt(6 / R))}


@shaped
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


@shaped
def vera_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, lambda_d_R: Array, lambda_b_O: Array) -> Array:
    """dW = A diag(lambda_d) B diag(lambda_b), (I, O)."""
    return (A_IR * lambda_d_R) @ B_RO * lambda_b_O


METHOD = Method(
    name="vera",
    label="VeRA",
    paper="arXiv 2310.11454",
    kernel=Kernel("vera_linear", vera_linear_fwd, vera_linear_bwd, ("x", "lambda_d", "lambda_b"), "NO", exact=True),
    trained=("lambda_d", "lambda_b"),
    frozen=("A", "B"),
    shared=("A", "B"),
    draw=vera_draw,
    draw_shared=vera_draw_shared,
    delta_w=vera_delta_w,
    rank=32,
)
