"""The bottleneck adapters in PyTorch: a small non-linear network inside a block.

Paper       Houlsby et al., arXiv 1902.00751 (act = GELU); Pfeiffer et al., arXiv 2005.00247 (act = ReLU).
Equation    f(z) = act(z D + b_D) U + b_U;  the encoder adds the skip connection around it.
Twin        by_hand/methods/bottleneck.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...shapes import shaped
from ..ops import gelu
from ..twin import Twin


@shaped
def relu(x_NF: Tensor) -> Tensor:
    """y = max(x, 0), elementwise on any shape; at x = 0 the gradient is 0."""
    return torch.relu(x_NF)


ACTIVATIONS = {"gelu": gelu, "relu": relu}


@shaped
def bottleneck(
    z_ND: Tensor, down_DR: Tensor, down_b_R: Tensor, up_RD: Tensor, up_b_D: Tensor, act: str = "gelu"
) -> Tensor:
    """f(z) = act(z down + b_down) up + b_up.  z (..., D), down (D, R), up (R, D), all four trained. ShapeError."""
    # f = act(z down + b_down) up + b_up
    return ACTIVATIONS[act](z_ND @ down_DR + down_b_R) @ up_RD + up_b_D


HOULSBY, PFEIFFER = (Twin(partial(bottleneck, act=act)) for act in ("gelu", "relu"))
