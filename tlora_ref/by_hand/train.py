"""AdamW and the training loop; the schedule and the draws are loop.py's.

Equation    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   step t = 1, 2, ...
            p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
            (decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)
Twin        by_autograd/train.py.
Checked by  tests/test_train.py.

As in the paper's recipe the decay acts on every trained array: it pulls alpha and B towards zero, although
alpha starts at one and alpha = 0 with B = 0 is a point where nothing can train. ``no_decay`` exempts names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np

from ..config import TrainConfig
from ..loop import (
    History,
    batches,
    check_data,
    check_finite,
    check_trainable,
    dropout_masks,
    dropout_stream,
    learning_rate,
    steps_per_epoch,
)
from ..model import Model
from .encoder import encoder_fwd, loss_and_grads
from .ops import Array, cross_entropy_fwd

# --- the optimizer -------------------------------------------------------------------------------


@dataclass
class AdamWState:
    """First and second moments by array name, and the number of steps taken."""

    m: dict[str, Array]
    v: dict[str, Array]
    t: int = 0


def adamw_init(params: Mapping[str, Array]) -> AdamWState:
    """Zero moments: two more numbers for every trained one."""
    return AdamWState(*({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2)))


def adamw_step(
    params: Mapping[str, Array], grads: Mapping[str, Array], state: AdamWState, lr: float, config: TrainConfig
) -> dict[str, Array]:
    """The arrays one step on (new ones; ``params`` stays as it is). ``state`` advances in place."""
    b1, b2 = config.betas
    state.t += 1
    after = {}
    for name, p in params.items():
        g = grads[name]
        # m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
        state.m[name] = m = b1 * state.m[name] + (1 - b1) * g
        state.v[name] = v = b2 * state.v[name] + (1 - b2) * (g * g)
        # p = p (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
        decay = 0.0 if name.rpartition(".")[2] in config.no_decay else config.weight_decay
        denominator = np.sqrt(v) * (1 / sqrt(1 - b2**state.t)) + config.eps
        after[name] = np.asarray(p * (1 - lr * decay) - (lr / (1 - b1**state.t)) * m / denominator)
    return after


def clip_gradients(grads: Mapping[str, Array], largest: float) -> dict[str, Array]:
    """All gradients scaled down together so that their common norm is at most ``largest``."""
    norm = sqrt(sum(float((g * g).sum()) for g in grads.values()))
    factor = min(1.0, largest / (norm + 1e-6))
    return {name: factor * g for name, g in grads.items()}


# --- the loop ------------------------------------------------------------------------------------


def train(
    model: Model,
    inputs: Array,
    labels_N: Array,
    config: TrainConfig,
    mask_NT: Array | None = None,
    validation: tuple[Array, ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
    types_NT: Array | None = None,
) -> tuple[Model, History]:
    """Train the arrays named in ``model.trained``; return a new model and the history. The given model and
    every frozen array stay bit-identical.

    inputs (N, T) ids, (N, T, I), or (N, T, D) for upper layers; labels (N,); mask (N, T), True where a token is
    real; token types (N, T); validation: (inputs, labels) and if need be mask and types, to evaluate after every
    epoch; progress: called with (steps done, all steps). The same seed gives the same bits.

    Raises InputError for data that do not fit, NonFiniteError at the first loss or gradient that is not finite.
    """
    check_data(model, inputs, labels_N, mask_NT, types_NT)
    check_trainable(model, config)
    per_epoch = steps_per_epoch(len(labels_N), config)
    steps = per_epoch * config.epochs
    dropout_rng, dtype = dropout_stream(config), model.params["head.W"].dtype
    # a fixed order of names, so that sums over all gradients have the same bits every time
    params = {name: model.params[name] for name in sorted(model.trained)}
    state, history = adamw_init(params), History()
    history.record(model, evaluate(model, *validation) if validation else None)
    for step, chosen in enumerate(batches(len(labels_N), config)):
        keep = dropout_masks(model, dropout_rng, (len(chosen), inputs.shape[1]))
        keep = {name: mask.astype(dtype) for name, mask in keep.items()}
        mask, types = (None if a is None else a[chosen] for a in (mask_NT, types_NT))
        loss, grads, logits = loss_and_grads(model, inputs[chosen], labels_N[chosen], mask, keep, types)
        lr = learning_rate(step, steps, config)
        check_finite(step, lr, params, logits, loss, grads)
        if config.clip is not None:
            grads = clip_gradients(grads, config.clip)
        params = adamw_step(params, grads, state, lr, config)
        model = model.with_params(params)
        history.loss.append(float(loss))
        if (step + 1) % per_epoch == 0:
            history.record(model, evaluate(model, *validation) if validation else None)
        if progress is not None:
            progress(step + 1, steps)
    return model, history


def evaluate(
    model: Model,
    inputs: Array,
    labels_N: Array,
    mask_NT: Array | None = None,
    types_NT: Array | None = None,
    batch_size: int = 256,
) -> tuple[float, float]:
    """(mean loss, accuracy) without dropout."""
    check_data(model, inputs, labels_N, mask_NT, types_NT)
    loss, right = 0.0, 0
    for start in range(0, len(labels_N), batch_size):
        chosen = slice(start, start + batch_size)
        mask, types = (None if a is None else a[chosen] for a in (mask_NT, types_NT))
        logits_NV, _ = encoder_fwd(model, inputs[chosen], mask, types_NT=types)
        loss += float(cross_entropy_fwd(logits_NV, labels_N[chosen])[0]) * len(labels_N[chosen])
        right += int((logits_NV.argmax(axis=-1) == labels_N[chosen]).sum())
    return loss / len(labels_N), right / len(labels_N)
