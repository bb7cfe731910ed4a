"""AdamW, linear warm-up and linear decay, and the training loop.

Equation    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   step t = 1, 2, ...
            p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
            (decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)
Twin        by_autograd/train.py.
Checked by  tests/test_train.py.

As in the paper's recipe the decay acts on every trained array: it pulls alpha and B towards zero, although
alpha starts at one and alpha = 0 with B = 0 is a point where nothing can train. ``no_decay`` exempts names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, sqrt

import numpy as np

from ..config import TrainConfig
from ..model import Model, matrix_shape
from ..registry import METHODS
from ..shapes import InputError, ShapeError
from .encoder import Keep, check_inputs, encoder_fwd, loss_and_grads
from .ops import Array, check_ids, cross_entropy_fwd


class NonFiniteError(InputError):
    """Training met an infinity or a NaN; the message names the step, the learning rate and the array."""


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


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up over the first share of the steps, then linear decay that would reach 0 at ``steps``."""
    warmup = int(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * (steps - step) / max(1, steps - warmup)


def clip_gradients(grads: Mapping[str, Array], largest: float) -> dict[str, Array]:
    """All gradients scaled down together so that their common norm is at most ``largest``."""
    norm = sqrt(sum(float((g * g).sum()) for g in grads.values()))
    factor = min(1.0, largest / (norm + 1e-6))
    return {name: factor * g for name, g in grads.items()}


# --- the loop ------------------------------------------------------------------------------------


@dataclass
class History:
    """What training did: the loss of every step; per epoch (the start included) what was evaluated, and per
    adapted matrix alpha (methods that have one) and the Frobenius norm of B."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    eval_loss: list[float] = field(default_factory=list)
    alpha: dict[str, list[float]] = field(default_factory=dict)
    B_norm: dict[str, list[float]] = field(default_factory=dict)


def batches(n: int, config: TrainConfig) -> Iterator[Array]:
    """Index arrays: every example once an epoch, in an order that depends on the seed only."""
    rng = np.random.default_rng([config.seed, 0])
    for _ in range(config.epochs):
        order = rng.permutation(n)
        for start in range(0, n, config.batch_size):
            yield order[start : start + config.batch_size]


def dropout_masks(model: Model, rng: np.random.Generator, lead: tuple[int, ...]) -> Keep:
    """One mask per adapted matrix, divided by (1 - p), of the width the method's dropout acts on."""
    if model.adapter is None or model.adapter.dropout == 0:
        return {}
    on_input = METHODS[model.adapter.method].keep.endswith("I")
    p, keep = model.adapter.dropout, {}
    for name in sorted(model.adapted):
        I, O = matrix_shape(model.config, name.rpartition(".")[2])  # noqa: E741 - the shape letters
        dtype = model.params[f"{name}.W"].dtype
        keep[name] = ((rng.random((*lead, I if on_input else O)) >= p) / (1 - p)).astype(dtype)
    return keep


def check_data(model: Model, inputs: Array, labels_N: Array, mask_NT: Array | None = None) -> None:
    """Raise InputError unless the data fit the model: shapes, finite numbers, labels among the classes."""
    check_inputs(model, inputs, mask_NT)
    if labels_N.shape != inputs.shape[:1] or len(labels_N) == 0:
        raise ShapeError(f"labels have shape {labels_N.shape}, inputs {inputs.shape}: expected one label a row")
    check_ids("labels", labels_N, model.config.classes)
    if not np.isfinite(inputs).all():
        where = np.argwhere(~np.isfinite(inputs))[0].tolist()
        raise NonFiniteError(f"inputs hold {inputs[tuple(where)]} at {where}, expected finite numbers")


def train(
    model: Model,
    inputs: Array,
    labels_N: Array,
    config: TrainConfig,
    mask_NT: Array | None = None,
    validation: tuple[Array, Array] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Model, History]:
    """Train the arrays named in ``model.trained``; return a new model and the history. The given model and
    every frozen array stay bit-identical.

    inputs (N, T) ids or (N, T, I); labels (N,); validation: (inputs, labels) to evaluate after every epoch;
    progress: called with (steps done, all steps). The same seed gives the same bits.

    Raises InputError for data that do not fit, NonFiniteError at the first loss or gradient that is not finite.
    """
    check_data(model, inputs, labels_N, mask_NT)
    if model.merged:
        raise InputError("the adapter is merged; unmerge it before training")
    if not model.trained:
        raise InputError("nothing to train: the model's set of trained names is empty")
    unknown = sorted(set(config.no_decay) - {name.rpartition(".")[2] for name in model.trained})
    if unknown:
        raise InputError(f"no_decay names {unknown[0]!r}, which no trained array is called")
    per_epoch = ceil(len(labels_N) / config.batch_size)
    steps = per_epoch * config.epochs
    dropout_rng = np.random.default_rng([config.seed, 1])
    # a fixed order of names, so that sums over all gradients have the same bits every time
    params = {name: model.params[name] for name in sorted(model.trained)}
    state, history = adamw_init(params), History()
    _record(history, model, validation)
    for step, chosen in enumerate(batches(len(labels_N), config)):
        keep = dropout_masks(model, dropout_rng, (len(chosen), inputs.shape[1]))
        mask = None if mask_NT is None else mask_NT[chosen]
        loss, grads, logits = loss_and_grads(model, inputs[chosen], labels_N[chosen], mask, keep)
        lr = learning_rate(step, steps, config)
        _check_finite(step, lr, params, logits, loss, grads)
        if config.clip is not None:
            grads = clip_gradients(grads, config.clip)
        params = adamw_step(params, grads, state, lr, config)
        model = model.with_params(params)
        history.loss.append(float(loss))
        if (step + 1) % per_epoch == 0:
            _record(history, model, validation)
        if progress is not None:
            progress(step + 1, steps)
    return model, history


def _record(history: History, model: Model, validation: tuple[Array, Array] | None) -> None:
    if validation is not None:
        loss, accuracy = evaluate(model, *validation)
        history.eval_loss.append(loss)
        history.accuracy.append(accuracy)
    for name in sorted(model.adapted):
        if f"{name}.alpha" in model.params:
            history.alpha.setdefault(name, []).append(float(model.params[f"{name}.alpha"]))
        if f"{name}.B" in model.params:
            B = model.params[f"{name}.B"]
            history.B_norm.setdefault(name, []).append(float(np.sqrt((B * B).sum())))


def _check_finite(
    step: int, lr: float, params: Mapping[str, Array], logits: Array, loss: Array, grads: Mapping[str, Array]
) -> None:
    if np.isfinite(loss) and all(np.isfinite(g).all() for g in grads.values()):
        return
    gradients = {f"the gradient of {name}": g for name, g in grads.items()}
    for name, array in {**params, "logits": logits, "loss": loss, **gradients}.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(
                f"training stopped at step {step}, learning rate {lr:.3g}, loss {float(loss):.4g}: "
                f"the first array that is not finite is {name}"
            )


def evaluate(
    model: Model, inputs: Array, labels_N: Array, mask_NT: Array | None = None, batch_size: int = 256
) -> tuple[float, float]:
    """(mean loss, accuracy) without dropout."""
    check_data(model, inputs, labels_N, mask_NT)
    loss, right = 0.0, 0
    for start in range(0, len(labels_N), batch_size):
        chosen = slice(start, start + batch_size)
        logits_NV, _ = encoder_fwd(model, inputs[chosen], None if mask_NT is None else mask_NT[chosen])
        loss += float(cross_entropy_fwd(logits_NV, labels_N[chosen])[0]) * len(labels_N[chosen])
        right += int((logits_NV.argmax(axis=-1) == labels_N[chosen]).sum())
    return loss / len(labels_N), right / len(labels_N)
