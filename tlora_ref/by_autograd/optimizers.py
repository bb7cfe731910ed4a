"""The optimizers in PyTorch, over tensors by name.

Equation    AdamW:  m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   step t = 1, 2, ...
                    p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
            (decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)
Twin        by_hand/optimizers.py.
Checked by  tests/test_twin.py: torch's AdamW takes the steps of the one by hand, and so does the whole loop.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import TrainConfig
from ..room import Optimizer


def adamw_init(params: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """torch's AdamW with the names of ``no_decay`` in a group of their own, without decay."""
    exempt = {name: name.rpartition(".")[2] in config.no_decay for name in params}
    groups = [
        {"params": [p for name, p in params.items() if exempt[name] == flag], "weight_decay": decay}
        for flag, decay in ((False, config.weight_decay), (True, 0.0))
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps)


def adamw_step(
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: torch.optim.AdamW,
    lr: float,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """The same tensors one step on, changed in place, as torch's optimizers do."""
    for name, p in params.items():
        p.grad = grads[name]
    for group in state.param_groups:
        group["lr"] = lr
    state.step()
    state.zero_grad()
    return dict(params)


def adamw_carry(
    state: torch.optim.AdamW, before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: TrainConfig
) -> torch.optim.AdamW:
    """A tensor of the same name and shape keeps its moments and its count of steps; every other starts afresh."""
    carried = adamw_init(after, config)
    for name, p in after.items():
        if name in before and before[name].shape == p.shape and before[name] in state.state:
            carried.state[p] = state.state[before[name]]
    return carried


OPTIMIZERS = {"adamw": Optimizer(adamw_init, adamw_step, adamw_carry)}
