"""LoRTA in PyTorch: one small store, trained for all layers, heads and matrices of a model at once.

Paper       arXiv 2410.04060.
Equation    y = x W0 + b + s dropout(x) dW,   dW = [A diag(c_1) B | ... | A diag(c_H) B],   c_h = heads[h] * layer[l] *
            matrix[m], for output the transpose;  A, B and the three tables train, one of each in the whole model.
Twin        by_hand/methods/lorta.py, whose ``lorta_view`` makes LoRA's factors out of the store in both rooms; how the
            arrays start, and what is a reading, stands there. The layer is LoRA's.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...shapes import shaped
from ..twin import Twin
from .lora import TWIN as LORA


@shaped
def cp_factor(B_RK: Tensor, heads_HR: Tensor, layer_R: Tensor, matrix_R: Tensor) -> Tensor:
    """F (R, H K) = [diag(c_1) B | ... | diag(c_H) B],   c_h = heads[h] * layer * matrix."""
    return torch.cat([(head_R * layer_R * matrix_R)[:, None] * B_RK for head_R in heads_HR], dim=1)


TWIN = Twin(LORA.linear, LORA.layer, LORA.delta_w)
