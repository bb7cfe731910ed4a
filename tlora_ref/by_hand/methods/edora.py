"""EDoRA: DoRA's trained column lengths on LoRA-XS's small trained core.

Paper       arXiv 2501.12067.
Equation    y = x (V * m / n) + b,   V = W0 + s A M C,   n (O,) the column norms of V,   s = lora_alpha / R a constant.
Arrays      M (R, R) and the magnitudes m (O,) are trained;  A (I, R) and C (R, O) are frozen.
Start       A, C and M as LoRA-XS (singular vectors of W0, M near zero), m = the column norms of W0.
Twin        by_autograd/methods/edora.py.
Checked by  tests/test_kernels.py and tests/test_family.py.

Special to it: n is held constant in the backward, as released. The released merge helper leaves the rescaling out;
``edora_delta_w`` does not.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, wanted
from .dora import column_norm_fwd, rescale_bwd, rescale_fwd, rescaled
from .lora_xs import lora_xs_draw, tri_delta_w, tri_linear_bwd, tri_linear_fwd

if TYPE_CHECKING:
    from ...config import AdapterConfig


def edora_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one matrix at the start."""
    return lora_xs_draw(site, W0_IO, config) | {"magnitude": column_norm_fwd(W0_IO)[0]}


@shaped
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


def edora_constants(
    W0_IO: Array, A_IR: Array, M_RS: Array, C_SO: Array, magnitude_O: Array, scale: float
) -> dict[str, Array]:
    """{"norm_O"}: the column norms of V = W0 + s A M C."""
    return {"norm_O": column_norm_fwd(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale))[0]}


@shaped
def edora_delta_w(W0_IO: Array, A_IR: Array, M_RS: Array, C_SO: Array, magnitude_O: Array, scale: float) -> Array:
    """dW = V * m / n - W0, (I, O)."""
    return rescaled(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale), magnitude_O) - W0_IO


METHOD = Method(
    name="edora",
    label="EDoRA",
    paper="arXiv 2501.12067",
    kernel=Kernel("edora_linear", edora_linear_fwd, edora_linear_bwd, ("x", "M", "magnitude"), "NO"),
    trained=("M", "magnitude"),
    frozen=("A", "C"),
    draw=edora_draw,
    delta_w=edora_delta_w,
    constants_of=edora_constants,
    from_seed=False,
    additive=False,
    rescales=True,
    rank=16,
)
