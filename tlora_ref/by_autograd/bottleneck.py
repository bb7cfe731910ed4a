"""The bottleneck adapters in PyTorch: a small non-linear network inside a block; the gradients are autograd's.

Equation    f(z) = act(z D + b_D) U + b_U;  the encoder adds the skip connection around it
            Houlsby (arXiv 1902.00751): two a layer, act = GELU.   Pfeiffer (arXiv 2005.00247): one, act = ReLU.
Twin        by_hand/bottleneck.py, same name with ``_fwd``.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import bind
from .ops import gelu


def relu(x_NF: Tensor) -> Tensor:
    """y = max(x, 0), elementwise on any shape; at x = 0 the gradient is 0."""
    bind("relu", x_NF=x_NF)
    return torch.relu(x_NF)


ACTIVATIONS = {"gelu": gelu, "relu": relu}


def bottleneck(
    z_ND: Tensor, down_DR: Tensor, down_b_R: Tensor, up_RD: Tensor, up_b_D: Tensor, act: str = "gelu"
) -> Tensor:
    """f(z) = act(z down + b_down) up + b_up.  z (..., D), down (D, R), up (R, D), all four trained. ShapeError."""
    bind("bottleneck", z_ND=z_ND, down_DR=down_DR, down_b_R=down_b_R, up_RD=up_RD, up_b_D=up_b_D)
    # f = act(z down + b_down) up + b_up
    return ACTIVATIONS[act](z_ND @ down_DR + down_b_R) @ up_RD + up_b_D
