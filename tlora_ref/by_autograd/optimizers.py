"""The optimizers in PyTorch, over tensors by name.

Equation    AdamW:  m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   step t = 1, 2, ...
                    p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
            (decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)
            Stiefel, for the orthogonal Q of SODA (arXiv 2405.21050), and AdamW for everything else:
                    g = Q^T dQ - (Q^T dQ)^T,   m, v and the step as above without decay, of g
                    Q = polar(Q (I - step)),   polar(M) = M (M^T M)^(-1/2), the orthogonal matrix nearest to M
            LoRA-RITE, for the pairs A, B of LoRA: lora_rite.py; and AdamW for everything else
Twin        by_hand/optimizers.py.
Checked by  tests/test_twin.py: torch's AdamW takes the steps of the one by hand, and so does the whole loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from ..by_hand.methods import METHODS
from ..config import TrainConfig
from ..methods import factor_pairs
from ..room import Optimizer, longer_axis
from .lora_rite import LoRARite

Part = tuple[int, int, int]
"""(axis, start, stop): a part of a tensor along an axis. torch counts the steps of a tensor as a whole, so of a tensor
that has grown each part is a tensor of its own, in the same memory."""


def _parts_of(optimizer: torch.optim.Optimizer) -> dict[str, dict[Part | None, Tensor]]:
    """What an optimizer trains: for every name its parts, {None: the tensor} for one that has not grown."""
    found: dict[str, dict[Part | None, Tensor]] = {}
    for group in optimizer.param_groups:
        for (name, part), tensor in zip(group["parts"], group["params"], strict=True):
            found.setdefault(name, {})[part] = tensor
    return found


def _part(tensor: Tensor, part: Part | None) -> Tensor:
    return tensor if part is None else tensor.detach().narrow(part[0], part[1], part[2] - part[1])


def adamw_init(
    params: Mapping[str, Tensor], config: TrainConfig, cuts: Mapping[str, Sequence[Part]] | None = None
) -> torch.optim.AdamW:
    """torch's AdamW with the names of ``no_decay`` in a group of their own, without decay; ``cuts`` has the parts of
    the tensors that have grown."""
    exempt = {name: name.rpartition(".")[2] in config.no_decay for name in params}
    parts = {name: (cuts or {}).get(name, (None,)) for name in params}
    groups = []
    for flag, decay in ((False, config.weight_decay), (True, 0.0)):
        chosen = [(name, part) for name in params if exempt[name] == flag for part in parts[name]]
        tensors = [_part(params[name], part) for name, part in chosen]
        groups.append({"params": tensors, "weight_decay": decay, "parts": chosen})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps)


def adamw_step(
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: torch.optim.Optimizer,
    lr: float,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """The same tensors one step on, changed in place, as torch's optimizers do."""
    for name, parts in _parts_of(state).items():
        for part, tensor in parts.items():
            tensor.grad = _part(grads[name], part)
    _step(state, lr)
    return dict(params)


def plain_step(
    params: Mapping[str, Tensor], grads: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, lr: float
) -> None:
    """One step of an optimizer that trains whole tensors."""
    for name, p in params.items():
        p.grad = grads[name]
    _step(optimizer, lr)


def _step(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    try:
        optimizer.step()
    except torch.linalg.LinAlgError as error:
        # as NumPy says it, which the training loop knows
        raise np.linalg.LinAlgError(str(error).partition(":")[0]) from None
    optimizer.zero_grad()


def adamw_carry(
    state: torch.optim.AdamW, before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: TrainConfig
) -> torch.optim.AdamW:
    """A tensor of the same name and shape keeps its moments and its count of steps, one that has got longer keeps them
    for what it was; everything else starts afresh."""
    old, cuts, moved = _parts_of(state), {}, {}
    for name, p in after.items():
        if name not in before:
            continue
        shape, parts = tuple(before[name].shape), old[name]
        axis = longer_axis(shape, tuple(p.shape))
        if axis is not None and all(part is None or part[0] == axis for part in parts):
            # what was whole is a part from here on
            moved[name] = {part or (axis, 0, shape[axis]): tensor for part, tensor in parts.items()}
            cuts[name] = [*moved[name], (axis, shape[axis], p.shape[axis])]
        elif shape == tuple(p.shape):
            moved[name] = parts
            cuts |= {} if None in parts else {name: list(parts)}
    carried = adamw_init(after, config, cuts)
    for name, parts in _parts_of(carried).items():
        for part, tensor in parts.items():
            source = moved.get(name, {}).get(part)
            if source is not None and source in state.state:
                carried.state[tensor] = state.state[source]
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
    flat, turned = _parts(params)
    if state.adamw is not None:
        adamw_step(flat, grads, state.adamw, lr, config)
    if state.stiefel is not None:
        plain_step(turned, grads, state.stiefel, lr)
    return dict(params)


def stiefel_carry(
    state: StiefelState, before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: TrainConfig
) -> StiefelState:
    """A tensor of the same name and shape keeps its moments and its count of steps; every other starts afresh."""
    carried = stiefel_init(after, config)
    if state.adamw is not None and carried.adamw is not None:
        carried.adamw = adamw_carry(state.adamw, _parts(before)[0], _parts(after)[0], config)
    if state.stiefel is not None and carried.stiefel is not None:
        keep_moments(state.stiefel, carried.stiefel, before, after)
    return carried


# --- LoRA-RITE: factors of which only the product matters -------------------------------------------


@dataclass
class RiteState:
    """The two optimizers, each None where nothing is its own."""

    adamw: torch.optim.AdamW | None
    rite: LoRARite | None


def rite_init(params: Mapping[str, Tensor], config: TrainConfig) -> RiteState:
    """AdamW for all but the pairs of factors, LoRA-RITE for these."""
    modules, rest = factor_pairs(params)
    pairs = [[f"{module}.A", f"{module}.B"] for module in modules]
    groups = [
        {"params": [params[name] for name in pair], "weight_decay": tuple(map(config.decay_of, pair))} for pair in pairs
    ]
    adamw = adamw_init({name: params[name] for name in rest}, config) if rest else None
    return RiteState(adamw, LoRARite(groups, config.lr, config.betas, config.eps) if groups else None)


def rite_step(
    params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RiteState, lr: float, config: TrainConfig
) -> dict[str, Tensor]:
    """The same tensors one step on, changed in place."""
    rest = factor_pairs(params)[1]
    if state.adamw is not None:
        adamw_step({name: params[name] for name in rest}, grads, state.adamw, lr, config)
    if state.rite is not None:
        plain_step({name: p for name, p in params.items() if name not in rest}, grads, state.rite, lr)
    return dict(params)


def rite_carry(
    state: RiteState, before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: TrainConfig
) -> RiteState:
    """A pair of the same names and shapes keeps what is remembered of it; every other starts afresh."""
    carried = rite_init(after, config)
    if state.adamw is not None and carried.adamw is not None:
        kept, new = ({name: params[name] for name in factor_pairs(params)[1]} for params in (before, after))
        carried.adamw = adamw_carry(state.adamw, kept, new, config)
    if state.rite is not None and carried.rite is not None:
        same = [
            module
            for module in factor_pairs(after)[0]
            if all(f"{module}.{base}" in before for base in "AB")
            and all(before[f"{module}.{base}"].shape == after[f"{module}.{base}"].shape for base in "AB")
        ]
        pairs = {f"{module}.{base}": after[f"{module}.{base}"] for module in same for base in "AB"}
        keep_moments(state.rite, carried.rite, before, pairs)
    return carried


OPTIMIZERS = {
    "adamw": Optimizer(adamw_init, adamw_step, adamw_carry),
    "stiefel": Optimizer(stiefel_init, stiefel_step, stiefel_carry),
    "lora_rite": Optimizer(rite_init, rite_step, rite_carry),
}
