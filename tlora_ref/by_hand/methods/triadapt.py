"""TriAdaptLoRA: LoRA with a core of two triangles between its factors, whose rank grows where it is needed.

Paper       arXiv 2501.08008; read from the abstract and the authors' code.
Equation    y = x W0 + b + s dropout(x) A T B,   s = lora_alpha / R a constant at every R, and T (R, R) = lower + upper,
            the one on and below the block diagonal, the other on and above it.
Arrays      A (I, R), B (R, O), lower (Q,) and upper (Q,) are trained. R is made of blocks, ``block`` wide but for the
            first; of each, lower has the rows and upper the columns, from 0 to the block's own end, one block behind
            the other: Q = sum over blocks of width * (rank with it), R (R + 1) / 2 for blocks of 1.
Start       A and B ~ N(0, 0.02^2), lower = upper = 0: at first nothing changes.
Twin        by_autograd/methods/triadapt.py.
Checked by  tests/test_kernels.py, tests/test_family.py and tests/test_triadapt.py.

Special to it: a larger rank appends to every array, so what was trained stays where it is. With T = 0 in the new rows
and columns A T B does not change; growth.py says which matrices grow and when. A number on the block diagonal is the
sum of two that get one and the same gradient.

Readings. The paper's layout is the transpose. As released, A ~ N(0, 0.02^2) and B = T = 0: then no array has a gradient
and nothing ever trains; A and B random and T = 0 is what the code that it extends does. The importance of a matrix is
the norm of T over the number of blocks, as in the code. lora_alpha / R falls when R grows: T is multiplied by what it
falls by, so the function is continuous, which the released code's is not.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache as remembered
from typing import TYPE_CHECKING, Any

import numpy as np

from ...draws import normal
from ...methods import Arrays, Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, wanted
from .lora_xs import tri_delta_w, tri_linear_bwd, tri_linear_fwd

if TYPE_CHECKING:
    from ...config import AdapterConfig

# --- the triangles ---------------------------------------------------------------------------------


def blocks(R: int, block: int) -> list[tuple[int, int]]:
    """(start, stop) of each block of a rank: all are ``block`` wide but for the first, which has what is left over."""
    starts = [0, *range((R - 1) % block + 1, R, block)]
    return list(zip(starts, [*starts[1:], R], strict=True))


@remembered
def triangle(R: int, block: int) -> Array:
    """True (R, R) on and below the block diagonal."""
    inside_RR = np.zeros((R, R), dtype=bool)
    for start, stop in blocks(R, block):
        inside_RR[start:stop, :stop] = True
    return inside_RR


@remembered
def places(R: int, block: int) -> Array:
    """(R, R), where in ``lower`` the number of each place of the triangle stands; 0 outside, where nothing is read.
    ``upper`` is laid out as the lower triangle of its transpose."""
    inside_RR = triangle(R, block)
    # row by row is block by block: the rows of a block all end where the block does
    return np.where(inside_RR, inside_RR.cumsum().reshape(R, R) - 1, 0)


def triadapt_sizes(site: Site) -> dict[str, int]:
    """The size of the letter Q on a matrix."""
    return {"Q": int(triangle(site.R, site.block).sum())}


def triadapt_view(arrays: Arrays, site: Site) -> Arrays:
    """The kernel's arguments for one matrix."""
    return read_at(places(site.R, site.block), arrays, site.block)


def read_at(at_RR: Any, arrays: Arrays, block: int) -> Arrays:
    """The kernel's arguments, given where each place of the triangles stands in their arrays; of arrays and tensors
    alike."""
    lower_RR, upper_RR = arrays["lower"][at_RR], arrays["upper"][at_RR].T
    return {
        "A_IR": arrays["A"],
        "B_RO": arrays["B"],
        "lower_RR": lower_RR,
        "upper_RR": upper_RR,
        "block": block,
    }


def triadapt_scatter(grads: Grads, arrays: Arrays, site: Site) -> Grads:
    """The gradients of the arrays from those of the kernel's arguments."""
    inside_RR = triangle(site.R, site.block)
    return grads | {"lower": grads["lower"][inside_RR], "upper": grads["upper"].T[inside_RR]}


def triadapt_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start. Each block has a stream of its own: a larger rank begins with the same."""
    name, I, O, spans = site.name, site.I, site.O, blocks(site.R, site.block)
    Q = triadapt_sizes(site)["Q"]
    columns = [normal(config.seed, f"{name}.A.{start}", (I, stop - start), 0.02) for start, stop in spans]
    rows = [normal(config.seed, f"{name}.B.{start}", (stop - start, O), 0.02) for start, stop in spans]
    return {"A": np.hstack(columns), "B": np.vstack(rows), "lower": np.zeros(Q), "upper": np.zeros(Q)}


# --- the layer -------------------------------------------------------------------------------------


@shaped
def triadapt_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    lower_RR: Array,
    upper_RR: Array,
    scale: float,
    keep_NI: Array | None = None,
    block: int = 1,
) -> tuple[Array, Cache]:
    """LoRA with two triangles between its factors: x (..., I) -> y (..., O). What of lower (R, R) stands above the
    block diagonal, and of upper (R, R) below it, is not read. Raises ShapeError."""
    # T = lower + upper, each in its triangle,   y = tri(x; A, T, B)
    inside_RR = triangle(len(lower_RR), block)
    T_RR = inside_RR * lower_RR + inside_RR.T * upper_RR
    y_NO, c_tri = tri_linear_fwd(x_NI, W0_IO, b_O, A_IR, T_RR, B_RO, scale, keep_NI)
    return y_NO, (inside_RR, c_tri)


def triadapt_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "A", "B", "lower", "upper"}"""
    inside_RR, c_tri = cache
    want, grads = wanted(wrt, "x", "A", "B", "lower", "upper"), {}
    # dx, dA, dT and dB from tri, whose names for T and B are M and C
    inner = {"M"} | (want & {"x", "A"}) | ({"C"} if "B" in want else set())
    tri = tri_linear_bwd(dy_NO, c_tri, wrt=inner)
    for ours, theirs in (("x", "x"), ("A", "A"), ("B", "C")):
        if ours in want:
            grads[ours] = tri[theirs]
    # dlower = dT on and below the block diagonal,   dupper = dT on and above it
    if "lower" in want:
        grads["lower"] = inside_RR * tri["M"]
    if "upper" in want:
        grads["upper"] = inside_RR.T * tri["M"]
    return grads


@shaped
def triadapt_delta_w(
    W0_IO: Array, A_IR: Array, B_RO: Array, lower_RR: Array, upper_RR: Array, scale: float, block: int = 1
) -> Array:
    """dW = s A T B, (I, O)."""
    inside_RR = triangle(len(lower_RR), block)
    return tri_delta_w(W0_IO, A_IR, inside_RR * lower_RR + inside_RR.T * upper_RR, B_RO, scale)


def triadapt_importance(arrays: Arrays, site: Site) -> float:
    """|T| / (number of blocks), by whose growth the rank grows."""
    given = triadapt_view(arrays, site)
    inside_RR = triangle(site.R, site.block)
    T_RR = inside_RR * given["lower_RR"] + inside_RR.T * given["upper_RR"]
    return float(np.linalg.norm(T_RR)) / len(blocks(site.R, site.block))


METHOD = Method(
    name="triadapt",
    label="TriAdaptLoRA",
    paper="arXiv 2501.08008",
    kernel=Kernel(
        "triadapt_linear",
        triadapt_linear_fwd,
        triadapt_linear_bwd,
        ("x", "A", "B", "lower", "upper"),
        "NO",
        options={"block": (1, 2, 3)},
        exact=True,
    ),
    trained=("A", "B", "lower", "upper"),
    draw=triadapt_draw,
    delta_w=triadapt_delta_w,
    view=triadapt_view,
    scatter=triadapt_scatter,
    letters={"lower": "Q", "upper": "Q"},
    sizes_of=triadapt_sizes,
    core=("lower", "upper"),
    importance=triadapt_importance,
)
