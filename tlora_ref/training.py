"""The one training loop, for both rooms: which examples, masks and learning rate each step gets, what has to hold
before and during a run, and what a run leaves behind.

Equation    step s of S with w = warmup * S:  lr (s + 1) / w  for s < w,   then  lr (S - s) / (S - w)
Twin        none: ``room`` is the module by_hand or by_autograd, which computes losses and gradients.
Checked by  tests/test_train.py, and tests/test_twin.py: both rooms' trajectories agree.

The draws are NumPy's, in float64, whatever the room: with the same seed the twins see the same batches and the
same dropout masks. Data are NumPy arrays; a room moves them to where its model is.

A run can change its model on the way: ``between`` is called after every step and may return another model (grown,
folded and attached again, ...); the optimizer's ``carry`` says what becomes of its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from math import ceil, inf, sqrt
from operator import and_
from typing import Any

import numpy as np

from .chains import chained
from .config import CHAINS, GROWTHS, TrainConfig, check_together
from .growth import Growth
from .model import Model, check_inputs
from .room import Room
from .shapes import InputError, ShapeError, check_ids

Array = np.ndarray


class NonFiniteError(InputError):
    """Training met an infinity or a NaN; the message names the step, the learning rate and the array."""


# --- what every step gets ------------------------------------------------------------------------


def steps_per_epoch(n: int, config: TrainConfig) -> int:
    """Batches that n examples make, the last one perhaps smaller."""
    return ceil(n / config.batch_size)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up over the first share of the steps, then linear decay that would reach 0 at ``steps``."""
    warmup = int(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * (steps - step) / max(1, steps - warmup)


def batches(n: int, config: TrainConfig, done: int = 0) -> Iterator[Array]:
    """Index arrays: every example once an epoch, in an order that depends on the seed only. ``done``: epochs of an
    earlier run that this one goes on from, whose orders are not drawn again."""
    rng = np.random.default_rng([config.seed, 0])
    for epoch in range(done + config.epochs):
        order = rng.permutation(n)
        if epoch < done:
            continue
        for start in range(0, n, config.batch_size):
            yield order[start : start + config.batch_size]


def dropout_stream(config: TrainConfig, done: int = 0) -> np.random.Generator:
    """The generator of a run's dropout masks, apart from the one of its batches; another one after ``done`` epochs."""
    return np.random.default_rng([config.seed, 1, done] if done else [config.seed, 1])


def dropout_masks(model: Model, rng: np.random.Generator, lead: tuple[int, ...]) -> dict[str, Array]:
    """One float64 mask per adapted matrix, divided by (1 - p), of the width the method's dropout acts on."""
    if model.adapter is None or model.adapter.dropout == 0:
        return {}
    on_input = model.method.keep.endswith("I")
    p, keep = model.adapter.dropout, {}
    for name, site in sorted(model.adapted.items()):
        keep[name] = (rng.random((*lead, site.I if on_input else site.O)) >= p) / (1 - p)
    return keep


# --- what has to hold ----------------------------------------------------------------------------


def check_data(
    model: Model, inputs: Array, labels_N: Array, mask_NT: Array | None = None, types_NT: Array | None = None
) -> None:
    """Raise InputError unless the data fit the model: shapes, finite numbers, labels among the classes."""
    check_inputs(model, inputs, mask_NT, types_NT)
    if labels_N.shape != inputs.shape[:1] or len(labels_N) == 0:
        raise ShapeError(f"labels have shape {labels_N.shape}, inputs {inputs.shape}: expected one label a row")
    check_ids("labels", labels_N, model.config.classes)
    if not np.isfinite(inputs).all():
        where = np.argwhere(~np.isfinite(inputs))[0].tolist()
        raise NonFiniteError(f"inputs hold {inputs[tuple(where)]} at {where}, expected finite numbers")


def check_trainable(model: Model, config: TrainConfig) -> None:
    """Raise InputError unless the model has something to train, ``config`` speaks of it, and the two go together."""
    if model.merged:
        raise InputError("the adapter is merged; unmerge it before training")
    if not model.trained:
        raise InputError("nothing to train: the model's set of trained names is empty")
    unknown = sorted(set(config.no_decay) - {name.rpartition(".")[2] for name in model.trained})
    if unknown:
        raise InputError(f"no_decay names {unknown[0]!r}, which no trained array is called")
    check_together(model.adapter, config)


def check_finite(
    step: int, lr: float, params: Mapping[str, Any], logits: Any, loss: Any, grads: Mapping[str, Any]
) -> None:
    """Raise NonFiniteError if the loss or a gradient is not finite, naming the first array that is not. Where all are
    finite one number is read from the device, however many arrays there are."""
    if reduce(and_, map(_finite, (loss, *grads.values()))):
        return
    gradients = {f"the gradient of {name}": g for name, g in grads.items()}
    for name, array in {**params, "logits": logits, "loss": loss, **gradients}.items():
        if not _finite(array):
            raise NonFiniteError(
                f"training stopped at step {step}, learning rate {lr:.3g}, loss {loss.item():.4g}: "
                f"the first array that is not finite is {name}"
            )


def _finite(array: Any) -> Any:
    """True or False where the array is; of arrays and tensors alike."""
    # a NaN is not below infinity
    return (abs(array) < inf).all()


# --- what a run leaves behind --------------------------------------------------------------------


@dataclass
class History:
    """What training did: the loss of every step; per epoch (the start included) what was evaluated, and per
    adapted matrix alpha (methods that have one) and the Frobenius norm of B."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    eval_loss: list[float] = field(default_factory=list)
    alpha: dict[str, list[float]] = field(default_factory=dict)
    B_norm: dict[str, list[float]] = field(default_factory=dict)
    epochs: int = 0  # how many the run has had

    def record(self, model: Model, evaluated: tuple[float, float] | None) -> None:
        """Add an epoch: (loss, accuracy) if there was something to evaluate, and the adapters' alpha and norm."""
        if evaluated is not None:
            self.eval_loss.append(evaluated[0])
            self.accuracy.append(evaluated[1])
        for name in sorted(model.adapted):
            if f"{name}.alpha" in model.params:
                self.alpha.setdefault(name, []).append(model.params[f"{name}.alpha"].item())
            if f"{name}.B" in model.params:
                B = model.params[f"{name}.B"]
                self.B_norm.setdefault(name, []).append(sqrt((B * B).sum().item()))


# --- the loop --------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run as ``between`` sees it: the model after ``step`` of ``steps`` steps, and the history so far. Setting
    ``forget`` makes the optimizer start afresh with the model that is returned."""

    model: Model
    step: int
    steps: int
    history: History
    forget: bool = False


Between = Callable[[Run], Model | None]
"""Called after every step; the model that it returns is trained from there on. None: it stays as it is. Its arrays may
be NumPy's, which the room takes over."""

BETWEEN: dict[str, Callable[[Room, Model, TrainConfig], Between]] = {
    **dict.fromkeys(GROWTHS, lambda room, model, config: Growth(room, config)),
    **dict.fromkeys(CHAINS, chained),
}
"""What happens between the steps, for every name that ``TrainConfig.growth`` and ``TrainConfig.chain`` may have: from
the room, the model at the start and the configuration."""


def chosen_between(room: Room, model: Model, config: TrainConfig, given: Between | None) -> Between | None:
    """``given``, or what the configuration names. Raises InputError for both at once."""
    name = config.growth or config.chain
    if name is None:
        return given
    if given is not None:
        raise InputError(f"the configuration names {name!r} and between is given as well, expected one of the two")
    return BETWEEN[name](room, model, config)


def train(
    room: Room,
    model: Model,
    inputs: Array,
    labels_N: Array,
    config: TrainConfig,
    mask_NT: Array | None = None,
    validation: tuple[Array, ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
    types_NT: Array | None = None,
    between: Between | None = None,
    after: History | None = None,
) -> tuple[Model, History]:
    """Train the arrays named in ``model.trained``; return a new model and the history. The given model and every frozen
    array stay bit-identical. The same seed gives the same bits.

    room        by_hand for a model of NumPy arrays, by_autograd for one of tensors, trained on their device
    inputs      (N, T) ids, (N, T, I), or (N, T, D) for upper layers; labels (N,)
    mask_NT     (N, T), True where a token is real; types_NT: token types (N, T)
    validation  (inputs, labels) and if need be mask and types, to evaluate after every epoch
    progress    called with (steps done, all steps)
    between     called with the Run after every step; see Between. What ``config`` names is made here
    after       the history of an earlier run that this one goes on from: it sees the batches of the epochs that follow,
                in place of the same ones again

    Raises InputError for data that do not fit, NonFiniteError at the first loss or gradient that is not finite.
    """
    check_data(model, inputs, labels_N, mask_NT, types_NT)
    check_trainable(model, config)
    between = chosen_between(room, model, config, between)
    done = 0 if after is None else after.epochs
    per_epoch = steps_per_epoch(len(labels_N), config)
    steps = per_epoch * config.epochs
    dropout_rng = dropout_stream(config, done)
    optimizer = room.OPTIMIZERS[config.optimizer or (model.method.optimizer if model.adapter else "adamw")]
    model, history = room.own(model), History(epochs=done)
    if config.chain is not None and between is not None:
        # the first link of a chain begins as every other does
        model = room.own(between(Run(model, 0, steps, history)) or model, like=model)
    params = _trained(model)
    state = optimizer.init(params, config)
    history.record(model, evaluate(room, model, *validation) if validation else None)
    for step, chosen in enumerate(batches(len(labels_N), config, done)):
        keep = dropout_masks(model, dropout_rng, (len(chosen), inputs.shape[1]))
        mask, types = (None if a is None else a[chosen] for a in (mask_NT, types_NT))
        loss, grads, logits = room.loss_and_grads(model, inputs[chosen], labels_N[chosen], mask, keep, types)
        lr = learning_rate(step, steps, config)
        check_finite(step, lr, params, logits, loss, grads)
        if config.clip is not None:
            grads = clip_gradients(grads, config.clip)
        try:
            params = optimizer.step(params, grads, state, lr, config)
        except np.linalg.LinAlgError as error:
            raise NonFiniteError(
                f"training stopped at step {step}, learning rate {lr:.3g}, loss {loss.item():.4g}: the optimizer met "
                f"numbers that are not finite ({error})"
            ) from None
        model = model.with_params(params)
        history.loss.append(float(loss))
        run = Run(model, step + 1, steps, history)
        changed = between(run) if between is not None else None
        if changed is not None:
            model = room.own(changed, like=model)
            before, params = {} if run.forget else params, _trained(model)
            state = optimizer.carry(state, before, params, config)
        if (step + 1) % per_epoch == 0:
            history.epochs += 1
            history.record(model, evaluate(room, model, *validation) if validation else None)
        if progress is not None:
            progress(step + 1, steps)
    return model, history


def _trained(model: Model) -> dict[str, Any]:
    # a fixed order of names, so that sums over all gradients have the same bits every time
    return {name: model.params[name] for name in sorted(model.trained)}


def clip_gradients(grads: Mapping[str, Any], largest: float) -> dict[str, Any]:
    """All gradients scaled down together so that their common norm is at most ``largest``."""
    norm = sqrt(sum((g * g).sum() for g in grads.values()))
    factor = min(1.0, largest / (norm + 1e-6))
    return {name: factor * g for name, g in grads.items()}


def evaluate(
    room: Room,
    model: Model,
    inputs: Array,
    labels_N: Array,
    mask_NT: Array | None = None,
    types_NT: Array | None = None,
    *,
    batch_size: int = 256,
) -> tuple[float, float]:
    """(mean loss, accuracy) without dropout."""
    check_data(model, inputs, labels_N, mask_NT, types_NT)
    total, right = 0.0, 0
    for start in range(0, len(labels_N), batch_size):
        chosen = slice(start, start + batch_size)
        mask, types = (None if a is None else a[chosen] for a in (mask_NT, types_NT))
        loss, logits_NV = room.loss_and_logits(model, inputs[chosen], labels_N[chosen], mask, types)
        total += loss * len(labels_N[chosen])
        right += int((logits_NV.argmax(axis=-1) == labels_N[chosen]).sum())
    return total / len(labels_N), right / len(labels_N)


def predict(
    room: Room,
    model: Model,
    inputs: Array,
    mask_NT: Array | None = None,
    types_NT: Array | None = None,
    *,
    batch_size: int = 256,
) -> Array:
    """The likeliest class of every example (N,), without dropout."""
    any_N, found = np.zeros(len(inputs), dtype=int), []
    check_data(model, inputs, any_N, mask_NT, types_NT)
    for start in range(0, len(inputs), batch_size):
        chosen = slice(start, start + batch_size)
        mask, types = (None if a is None else a[chosen] for a in (mask_NT, types_NT))
        _, logits_NV = room.loss_and_logits(model, inputs[chosen], any_N[chosen], mask, types)
        found += logits_NV.argmax(axis=-1).tolist()
    return np.array(found)
