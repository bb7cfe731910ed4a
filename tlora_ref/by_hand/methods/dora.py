"""DoRA: LoRA turns the columns of the weight, and a trained vector sets their lengths.

Paper       S.-Y. Liu et al., arXiv 2402.09353, equation 5; the detached norm is its section 4.3.
Equation    y = x (V * m / n) + b,   V = W0 + s A B,   n (O,) the column norms of V,   s = lora_alpha / R a constant.
Arrays      A (I, R), B (R, O) and the magnitudes m (O,) are trained.
Start       A and B as LoRA, m = the column norms of W0: m / n = 1, at first nothing changes.
Twin        by_autograd/methods/dora.py.
Checked by  tests/test_kernels.py, tests/test_family.py, and tests/test_peers.py against Hugging Face PEFT.

Special to it: a column is what one output unit reads, and its norm is m_j whatever A and B are. ``dora`` holds n
constant in the backward, as released; ``dora_full`` differentiates it, and then each column of dV is orthogonal to that
of V.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, rows, wanted
from .lora import lora_delta_w, lora_draw, lora_linear_bwd, lora_linear_fwd

if TYPE_CHECKING:
    from ...config import AdapterConfig

# --- columns brought to a trained length -----------------------------------------------------------


@shaped
def column_norm_fwd(V_IO: Array) -> tuple[Array, Cache]:
    """n (O,): the Euclidean norm of each column of V, one output unit each."""
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


@shaped
def rescale_fwd(y0_NO: Array, magnitude_O: Array, norm_O: Array) -> tuple[Array, Cache]:
    """y = y0 * m / n: a layer's columns brought from length n to length m.  y0 (..., O), m and n (O,)."""
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


COLUMN_NORM = Kernel("column_norm", column_norm_fwd, column_norm_bwd, ("V",), "O")
RESCALE = Kernel("rescale", rescale_fwd, rescale_bwd, ("y0", "magnitude", "norm"), "NO")


def rescaled(V_IO: Array, magnitude_O: Array) -> Array:
    """V * m / n: the columns of V (I, O) brought to the lengths m (O,)."""
    return V_IO * (magnitude_O / column_norm_fwd(V_IO)[0])


# --- DoRA ------------------------------------------------------------------------------------------


def dora_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start; the norms in the dtype of W0, so that m / n is exactly 1."""
    return lora_draw(site, W0_IO, config) | {"magnitude": column_norm_fwd(W0_IO)[0]}


@shaped
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


def dora_constants(W0_IO: Array, A_IR: Array, B_RO: Array, magnitude_O: Array, scale: float) -> dict[str, Array]:
    """{"norm_O"}: the column norms of V = W0 + s A B, which dora_linear_fwd takes as a constant."""
    return {"norm_O": column_norm_fwd(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale))[0]}


@shaped
def dora_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, magnitude_O: Array, scale: float) -> Array:
    """dW = V * m / n - W0, (I, O): not s A B, the columns are rescaled as well."""
    return rescaled(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale), magnitude_O) - W0_IO


WRT = ("x", "A", "B", "magnitude")

DETACHED = Method(
    name="dora",
    label="DoRA",
    paper="arXiv 2402.09353",
    kernel=Kernel("dora_linear", dora_linear_fwd, dora_linear_bwd, WRT, "NO", required=("norm_O",)),
    trained=("A", "B", "magnitude"),
    draw=dora_draw,
    delta_w=dora_delta_w,
    constants_of=dora_constants,
    additive=False,
    product=True,
    rescales=True,
)

FULL = Method(
    name="dora_full",
    label="DoRA, norm differentiated",
    paper="arXiv 2402.09353",
    kernel=Kernel("dora_full_linear", partial(dora_linear_fwd, norm_O=None), dora_linear_bwd, WRT, "NO"),
    trained=("A", "B", "magnitude"),
    draw=dora_draw,
    delta_w=dora_delta_w,
    additive=False,
    product=True,
    rescales=True,
)
