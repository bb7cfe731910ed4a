"""The optimizers in PyTorch, over tensors by name.

Equation    AdamW:  m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   step t = 1, 2, ...
                    p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
            (decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)
            Stiefel, for the orthogonal Q of SODA (arXiv 2405.21050), and AdamW for everything else:
                    g = Q^T dQ - (Q^T dQ)^T,   m, v and the step as above without decay, of g
                    Q = polar(Q (I - step)),   polar(M) = M (M^T M)^(-1/2), the orthogonal matrix nearest to M
Twin        by_hand/optimizers.py.
Checked by  tests/test_twin.py: torch's AdamW takes the steps of the one by hand, and so does the whole loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from ..by_hand.methods import METHODS
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
    state: torch.optim.Optimizer,
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
    keep_moments(state, carried, before, after)
    return carried


def keep_moments(
    old: torch.optim.Optimizer, new: torch.optim.Optimizer, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Into ``new`` what ``old`` knows of a tensor of the same name and shape."""
    for name, p in after.items():
        if name in before and before[name].shape == p.shape and before[name] in old.state:
            new.state[p] = old.state[before[name]]


# --- Stiefel: matrices that stay orthogonal --------------------------------------------------------

ORTHOGONAL = frozenset(base for method in METHODS.values() for base in method.orthogonal)
"""The local names of trained arrays that have to stay orthogonal: SODA's Q1, Q2 and Q3."""


class Stiefel(torch.optim.Optimizer):
    """The optimizer of orthogonal matrices, by itself: for SODA in any torch model, beside another one for the rest.

    Stiefel([p for name, p in model.named_parameters() if name.endswith((".Q1", ".Q2", ".Q3"))], lr=1e-3)
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            (b1, b2), lr, eps = group["betas"], group["lr"], group["eps"]
            for Q_DD in group["params"]:
                if Q_DD.grad is None:
                    continue
                state = self.state[Q_DD]
                if not state:
                    state |= {"m": torch.zeros_like(Q_DD), "v": torch.zeros_like(Q_DD), "t": 0}
                state["t"] += 1
                # g = Q^T dQ - (Q^T dQ)^T,   m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
                z_DD = Q_DD.T @ Q_DD.grad
                g_DD = z_DD - z_DD.T
                state["m"] = m_DD = b1 * state["m"] + (1 - b1) * g_DD
                state["v"] = v_DD = b2 * state["v"] + (1 - b2) * (g_DD * g_DD)
                # Q = polar(Q - Q step)
                root_DD = v_DD.sqrt() * (1 / sqrt(1 - b2 ** state["t"])) + eps
                step_DD = (lr / (1 - b1 ** state["t"])) * m_DD / root_DD
                U_DD, _, Vt_DD = torch.linalg.svd(Q_DD - Q_DD @ step_DD)
                Q_DD.copy_(U_DD @ Vt_DD)


@dataclass
class StiefelState:
    """The two optimizers, each None where nothing is its own."""

    adamw: torch.optim.AdamW | None
    stiefel: Stiefel | None


def _parts(params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What AdamW trains, and what has to stay orthogonal."""
    turned = {name: p for name, p in params.items() if name.rpartition(".")[2] in ORTHOGONAL}
    return {name: p for name, p in params.items() if name not in turned}, turned


def stiefel_init(params: Mapping[str, Tensor], config: TrainConfig) -> StiefelState:
    """AdamW for all but the orthogonal matrices, Stiefel for these."""
    flat, turned = _parts(params)
    stiefel = Stiefel(turned.values(), config.lr, config.betas, config.eps) if turned else None
    return StiefelState(adamw_init(flat, config) if flat else None, stiefel)


def stiefel_step(
    params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: StiefelState, lr: float, config: TrainConfig
) -> dict[str, Tensor]:
    """The same tensors one step on, changed in place."""
    for optimizer, part in zip((state.adamw, state.stiefel), _parts(params), strict=True):
        if optimizer is not None:
            adamw_step(part, grads, optimizer, lr, config)
    return dict(params)


def stiefel_carry(
    state: StiefelState, before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: TrainConfig
) -> StiefelState:
    """A tensor of the same name and shape keeps its moments and its count of steps; every other starts afresh."""
    carried = stiefel_init(after, config)
    for old, new in ((state.adamw, carried.adamw), (state.stiefel, carried.stiefel)):
        if old is not None and new is not None:
            keep_moments(old, new, before, after)
    return carried


OPTIMIZERS = {
    "adamw": Optimizer(adamw_init, adamw_step, adamw_carry),
    "stiefel": Optimizer(stiefel_init, stiefel_step, stiefel_carry),
}
