"""The bottleneck adapters: a small non-linear network inside a block, so nothing can be merged into a weight.

Paper       Houlsby et al., arXiv 1902.00751 (``adapter_h``, two a layer, act = GELU);
            Pfeiffer et al., arXiv 2005.00247 (``adapter_p``, one a layer, act = ReLU).
Equation    f(z) = act(z D + b_D) U + b_U;  the encoder adds the skip connection around it.
Arrays      down = D (D, R), down_b (R,), up = U (R, D), up_b (D,): all trained.
Start       D and U ~ N(0, 0.02^2), the biases 0, as AdapterHub's "bert" rule: near the identity, not at it.
Twin        by_autograd/methods/bottleneck.py.
Checked by  tests/test_kernels.py and tests/test_family.py.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...draws import normal
from ...methods import BLOCKS, Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, gelu_bwd, gelu_fwd, rows, wanted

if TYPE_CHECKING:
    from ...config import AdapterConfig


def bottleneck_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """The arrays of one block at the start."""
    name, D, R, seed = site.name, site.O, site.R, config.seed
    down_DR, up_RD = normal(seed, f"{name}.down", (D, R), 0.02), normal(seed, f"{name}.up", (R, D), 0.02)
    return {"down": down_DR, "down_b": np.zeros(R), "up": up_RD, "up_b": np.zeros(D)}


@shaped
def relu_fwd(x_NF: Array) -> tuple[Array, Cache]:
    """y = max(x, 0), decided by the real part, elementwise on any shape."""
    # y = x where x > 0, else 0
    positive_NF = x_NF.real > 0
    return np.where(positive_NF, x_NF, 0), (positive_NF,)


def relu_bwd(dy_NF: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}; at x = 0 the gradient is taken to be 0."""
    (positive_NF,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = dy where x > 0, else 0
    if "x" in want:
        grads["x"] = np.where(positive_NF, dy_NF, 0)
    return grads


ACTIVATIONS = {"gelu": (gelu_fwd, gelu_bwd), "relu": (relu_fwd, relu_bwd)}


@shaped
def bottleneck_fwd(
    z_ND: Array, down_DR: Array, down_b_R: Array, up_RD: Array, up_b_D: Array, act: str = "gelu"
) -> tuple[Array, Cache]:
    """f(z) = act(z down + b_down) up + b_up.  z (..., D), down (D, R), up (R, D), all four trained. ShapeError."""
    # t = act(z down + b_down)
    t_NR, c_act = ACTIVATIONS[act][0](z_ND @ down_DR + down_b_R)
    # f = t up + b_up
    return t_NR @ up_RD + up_b_D, (z_ND, t_NR, c_act, down_DR, up_RD, act)


def bottleneck_bwd(df_ND: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"z", "down", "down_b", "up", "up_b"}"""
    z_ND, t_NR, c_act, down_DR, up_RD, act = cache
    want, grads = wanted(wrt, "z", "down", "down_b", "up", "up_b"), {}
    # dup_b = sum over rows of df,   dup = t^T df
    if "up_b" in want:
        grads["up_b"] = rows(df_ND).sum(axis=0)
    if "up" in want:
        grads["up"] = rows(t_NR).T @ rows(df_ND)
    if want & {"z", "down", "down_b"}:
        # dpre = act'(z down + b_down) * (df up^T)
        dpre_NR = ACTIVATIONS[act][1](df_ND @ up_RD.T, c_act)["x"]
        # ddown_b = sum over rows of dpre,   ddown = z^T dpre
        if "down_b" in want:
            grads["down_b"] = rows(dpre_NR).sum(axis=0)
        if "down" in want:
            grads["down"] = rows(z_ND).T @ rows(dpre_NR)
        # dz = dpre down^T
        if "z" in want:
            grads["z"] = dpre_NR @ down_DR.T
    return grads


WRT = ("z", "down", "down_b", "up", "up_b")
RELU = Kernel("relu", relu_fwd, relu_bwd, ("x",), "NF")


def _method(name: str, label: str, paper: str, act: str, blocks: tuple[str, ...]) -> Method:
    """A bottleneck adapter with that activation, in those blocks of a layer."""
    return Method(
        name=name,
        label=label,
        paper=paper,
        kernel=Kernel(f"bottleneck_{act}", partial(bottleneck_fwd, act=act), bottleneck_bwd, WRT, "ND"),
        trained=WRT[1:],
        draw=bottleneck_draw,
        delta_w=None,
        additive=False,
        places=BLOCKS,
        targets=blocks,
    )


HOULSBY = _method("adapter_h", "Adapter-H", "arXiv 1902.00751", "gelu", ("attn_block", "ffn_block"))
PFEIFFER = _method("adapter_p", "Adapter-P", "arXiv 2005.00247", "relu", ("norm_block",))
