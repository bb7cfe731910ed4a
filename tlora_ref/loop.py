"""The half of training that both rooms share: which examples, masks and learning rate each step gets, what has to
hold before and during a run, and what a run leaves behind.

Equation    step s of S with w = warmup * S:  lr (s + 1) / w  for s < w,   then  lr (S - s) / (S - w)
Checked by  tests/test_train.py, and tests/test_twin.py: both rooms' trajectories agree.

The draws are NumPy's, in float64, whatever the room: with the same seed the twins see the same batches and the
same dropout masks. Data are NumPy arrays here; a room moves them to where its model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any

import numpy as np

from .config import TrainConfig
from .model import Model, check_inputs, matrix_shape
from .registry import METHODS
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


def batches(n: int, config: TrainConfig) -> Iterator[Array]:
    """Index arrays: every example once an epoch, in an order that depends on the seed only."""
    rng = np.random.default_rng([config.seed, 0])
    for _ in range(config.epochs):
        order = rng.permutation(n)
        for start in range(0, n, config.batch_size):
            yield order[start : start + config.batch_size]


def dropout_stream(config: TrainConfig) -> np.random.Generator:
    """The generator of a run's dropout masks, apart from the one of its batches."""
    return np.random.default_rng([config.seed, 1])


def dropout_masks(model: Model, rng: np.random.Generator, lead: tuple[int, ...]) -> dict[str, Array]:
    """One float64 mask per adapted matrix, divided by (1 - p), of the width the method's dropout acts on."""
    if model.adapter is None or model.adapter.dropout == 0:
        return {}
    on_input = METHODS[model.adapter.method].keep.endswith("I")
    p, keep = model.adapter.dropout, {}
    for name in sorted(model.adapted):
        I, O = matrix_shape(model.config, name.rpartition(".")[2])
        keep[name] = (rng.random((*lead, I if on_input else O)) >= p) / (1 - p)
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
    """Raise InputError unless the model has something to train and ``config`` speaks of it."""
    if model.merged:
        raise InputError("the adapter is merged; unmerge it before training")
    if not model.trained:
        raise InputError("nothing to train: the model's set of trained names is empty")
    unknown = sorted(set(config.no_decay) - {name.rpartition(".")[2] for name in model.trained})
    if unknown:
        raise InputError(f"no_decay names {unknown[0]!r}, which no trained array is called")


def check_finite(
    step: int,
    lr: float,
    params: Mapping[str, Any],
    logits: Any,
    loss: Any,
    grads: Mapping[str, Any],
    isfinite: Callable[[Any], Any] = np.isfinite,
) -> None:
    """Raise NonFiniteError if the loss or a gradient is not finite, naming the first array that is not.
    ``isfinite`` is the room's own, elementwise."""
    if isfinite(loss) and all(isfinite(g).all() for g in grads.values()):
        return
    gradients = {f"the gradient of {name}": g for name, g in grads.items()}
    for name, array in {**params, "logits": logits, "loss": loss, **gradients}.items():
        if not isfinite(array).all():
            raise NonFiniteError(
                f"training stopped at step {step}, learning rate {lr:.3g}, loss {loss.item():.4g}: "
                f"the first array that is not finite is {name}"
            )


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
