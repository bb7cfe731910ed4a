"""The optimizers by hand, over arrays by name.

Equation    AdamW:  m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   step t = 1, 2, ...
                    p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
            (decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)
            Stiefel, for the orthogonal Q of SODA (arXiv 2405.21050), and AdamW for everything else:
                    g = Q^T dQ - (Q^T dQ)^T,   m, v and the step as above without decay, of g
                    Q = polar(Q (I - step)),   polar(M) = M (M^T M)^(-1/2), the orthogonal matrix nearest to M
            LoRA-RITE, for the pairs A, B of LoRA: lora_rite.py; and AdamW for everything else
Twin        by_autograd/optimizers.py.
Checked by  tests/test_train.py, tests/test_laws_of_relatives.py.

As in the released code the decay acts on every trained array: it pulls alpha and B towards zero, although
alpha starts at one and alpha = 0 with B = 0 is a point where nothing can train. ``no_decay`` exempts names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from ..config import TrainConfig
from ..methods import factor_pairs
from ..room import Optimizer, longer_axis
from .lora_rite import Pair, pair_init, pair_step
from .methods import METHODS
from .ops import Array


@dataclass
class AdamWState:
    """First and second moments by array name, and how many steps each array has taken: a number, or one for every entry
    of an array that has grown."""

    m: dict[str, Array]
    v: dict[str, Array]
    t: dict[str, Any]


def adamw_init(params: Mapping[str, Array], config: TrainConfig) -> AdamWState:
    """Zero moments: two more numbers for every trained one."""
    m, v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    return AdamWState(m, v, dict.fromkeys(params, 0))


def adamw_step(
    params: Mapping[str, Array], grads: Mapping[str, Array], state: AdamWState, lr: float, config: TrainConfig
) -> dict[str, Array]:
    """The arrays one step on (new ones; ``params`` stays as it is). ``state`` advances in place."""
    b1, b2 = config.betas
    after = {}
    for name, p in params.items():
        g = grads[name]
        state.t[name] = t = state.t[name] + 1
        # m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
        state.m[name] = m = b1 * state.m[name] + (1 - b1) * g
        state.v[name] = v = b2 * state.v[name] + (1 - b2) * (g * g)
        # p = p (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
        root = sqrt(1 - b2**t) if isinstance(t, int) else np.sqrt(1 - b2**t)
        denominator = np.sqrt(v) * (1 / root) + config.eps
        step = (lr / (1 - b1**t)) * m / denominator
        after[name] = np.asarray(p * (1 - lr * config.decay_of(name)) - step, dtype=p.dtype)
    return after


def adamw_carry(
    state: AdamWState, before: Mapping[str, Array], after: Mapping[str, Array], config: TrainConfig
) -> AdamWState:
    """An array of the same name and shape keeps its moments and its count of steps, one that has got longer keeps them
    for what it was; everything else starts afresh."""
    carried = adamw_init(after, config)
    for name, p in after.items():
        if name not in before:
            continue
        if before[name].shape == p.shape:
            carried.m[name], carried.v[name], carried.t[name] = state.m[name], state.v[name], state.t[name]
        elif longer_axis(before[name].shape, p.shape) is not None:
            old = tuple(map(slice, before[name].shape))
            carried.m[name][old], carried.v[name][old] = state.m[name], state.v[name]
            carried.t[name] = np.zeros(p.shape, dtype=int)
            carried.t[name][old] = state.t[name]
    return carried


# --- Stiefel: matrices that stay orthogonal --------------------------------------------------------

ORTHOGONAL = frozenset(base for method in METHODS.values() for base in method.orthogonal)
"""The local names of trained arrays that have to stay orthogonal: SODA's Q1, Q2 and Q3."""


def polar(M_DD: Array) -> Array:
    """M (M^T M)^(-1/2) (D, D): of M = U S V^T the orthogonal U V^T."""
    U_DD, _, Vt_DD = np.linalg.svd(M_DD)
    return U_DD @ Vt_DD


def stiefel_step(
    params: Mapping[str, Array], grads: Mapping[str, Array], state: AdamWState, lr: float, config: TrainConfig
) -> dict[str, Array]:
    """The arrays one step on, AdamW's but for the orthogonal ones, which do not decay. The moments are Adam's, of the
    skew gradient: v is symmetric, so the step is skew, and Q (I - step) is orthogonal to first order already."""
    b1, b2 = config.betas
    flat = {name: p for name, p in params.items() if name.rpartition(".")[2] not in ORTHOGONAL}
    after = adamw_step(flat, grads, state, lr, config)
    for name in params.keys() - flat.keys():
        Q_DD = params[name]
        state.t[name] = t = state.t[name] + 1
        # g = Q^T dQ - (Q^T dQ)^T
        z_DD = Q_DD.T @ grads[name]
        g_DD = z_DD - z_DD.T
        # m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
        state.m[name] = m_DD = b1 * state.m[name] + (1 - b1) * g_DD
        state.v[name] = v_DD = b2 * state.v[name] + (1 - b2) * (g_DD * g_DD)
        # Q = polar(Q - Q step)
        step_DD = (lr / (1 - b1**t)) * m_DD / (np.sqrt(v_DD) * (1 / sqrt(1 - b2**t)) + config.eps)
        after[name] = polar(Q_DD - Q_DD @ step_DD)
    return after


# --- LoRA-RITE: factors of which only the product matters -------------------------------------------


@dataclass
class RiteState:
    """What lora_rite.py remembers of each module's pair, and AdamW's state of all other arrays."""

    pairs: dict[str, Pair]
    rest: AdamWState


def rite_init(params: Mapping[str, Array], config: TrainConfig) -> RiteState:
    """Zero moments."""
    modules, rest = factor_pairs(params)
    pairs = {module: pair_init(params[f"{module}.A"], params[f"{module}.B"]) for module in modules}
    return RiteState(pairs, adamw_init({name: params[name] for name in rest}, config))


def rite_step(
    params: Mapping[str, Array], grads: Mapping[str, Array], state: RiteState, lr: float, config: TrainConfig
) -> dict[str, Array]:
    """The arrays one step on (new ones; ``params`` stays as it is). ``state`` advances in place."""
    modules, rest = factor_pairs(params)
    after = adamw_step({name: params[name] for name in rest}, grads, state.rest, lr, config)
    for module in modules:
        A, B = f"{module}.A", f"{module}.B"
        # both from the old A and B
        steps = pair_step(params[A], params[B], grads[A], grads[B], state.pairs[module], config)
        for name, step in zip((A, B), steps, strict=True):
            after[name] = params[name] * (1 - lr * config.decay_of(name)) - lr * step
    return after


def rite_carry(
    state: RiteState, before: Mapping[str, Array], after: Mapping[str, Array], config: TrainConfig
) -> RiteState:
    """A pair of the same names and shapes keeps what is remembered of it; every other starts afresh."""
    carried = rite_init(after, config)
    for module in carried.pairs.keys() & state.pairs.keys():
        if all(before[f"{module}.{base}"].shape == after[f"{module}.{base}"].shape for base in "AB"):
            carried.pairs[module] = state.pairs[module]
    kept, new = ({name: params[name] for name in factor_pairs(params)[1]} for params in (before, after))
    carried.rest = adamw_carry(state.rest, kept, new, config)
    return carried


OPTIMIZERS = {
    "adamw": Optimizer(adamw_init, adamw_step, adamw_carry),
    "stiefel": Optimizer(adamw_init, stiefel_step, adamw_carry),
    "lora_rite": Optimizer(rite_init, rite_step, rite_carry),
}
