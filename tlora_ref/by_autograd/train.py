"""AdamW and the training loop in PyTorch; the schedule and the draws are loop.py's.

Equation    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   step t = 1, 2, ...
            p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
            (decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)
Twin        by_hand/train.py.
Checked by  tests/test_twin.py: torch's AdamW takes the steps of the one by hand, and so does the whole loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

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
from .encoder import encoder, leaves, loss_and_grads, to_tensor
from .ops import cross_entropy

Array = np.ndarray


# --- the optimizer -------------------------------------------------------------------------------


def adamw(params: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """torch's AdamW with the names of ``no_decay`` in a group of their own, without decay."""
    exempt = {name: name.rpartition(".")[2] in config.no_decay for name in params}
    groups = [
        {"params": [p for name, p in params.items() if exempt[name] == flag], "weight_decay": decay}
        for flag, decay in ((False, config.weight_decay), (True, 0.0))
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps)


def adamw_step(
    params: Mapping[str, Tensor], grads: Mapping[str, Tensor], optimizer: torch.optim.AdamW, lr: float
) -> None:
    """The tensors one step on, in place."""
    for name, p in params.items():
        p.grad = grads[name]
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


def clip_gradients(grads: Mapping[str, Tensor], largest: float) -> dict[str, Tensor]:
    """All gradients scaled down together so that their common norm is at most ``largest``."""
    norm = torch.nn.utils.get_total_norm(grads.values())
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
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
    """Train the tensors named in ``model.trained``, on the model's device; return a new model and the history.
    The given model and every frozen tensor stay bit-identical.

    The data are NumPy arrays as in by_hand: inputs (N, T) ids, (N, T, I), or (N, T, D) for upper layers; labels
    (N,); mask (N, T), True where a token is real; token types (N, T); validation: (inputs, labels) and if need be
    mask and types, to evaluate after every epoch; progress: called with (steps done, all steps). With the same seed
    the batches, the dropout masks and the learning rates are those of by_hand.

    Raises InputError for data that do not fit, NonFiniteError at the first loss or gradient that is not finite.
    """
    check_data(model, inputs, labels_N, mask_NT, types_NT)
    check_trainable(model, config)
    per_epoch = steps_per_epoch(len(labels_N), config)
    steps = per_epoch * config.epochs
    dropout_rng = dropout_stream(config)
    # copies, which the optimizer changes in place; a fixed order of names, so that sums over all gradients have
    # the same bits every time
    params = {name: model.params[name].detach().clone() for name in sorted(model.trained)}
    model = model.with_params(params)
    optimizer, history = adamw(params, config), History()
    history.record(model, evaluate(model, *validation) if validation else None)
    x, y = (to_tensor(data, model.params["head.W"]) for data in (inputs, labels_N))
    for step, chosen in enumerate(batches(len(labels_N), config)):
        keep = dropout_masks(model, dropout_rng, (len(chosen), inputs.shape[1]))
        mask, types = (None if a is None else a[chosen] for a in (mask_NT, types_NT))
        loss, grads, logits = loss_and_grads(model, x[chosen], y[chosen], mask, keep, types)
        lr = learning_rate(step, steps, config)
        check_finite(step, lr, params, logits, loss, grads, torch.isfinite)
        if config.clip is not None:
            grads = clip_gradients(grads, config.clip)
        adamw_step(params, grads, optimizer, lr)
        history.loss.append(loss.item())
        if (step + 1) % per_epoch == 0:
            history.record(model, evaluate(model, *validation) if validation else None)
        if progress is not None:
            progress(step + 1, steps)
    return leaves(model), history


@torch.no_grad()
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
        logits_NV = encoder(model, inputs[chosen], mask, types_NT=types)
        labels = to_tensor(labels_N[chosen], logits_NV)
        loss += cross_entropy(logits_NV, labels).item() * len(labels)
        right += int((logits_NV.argmax(dim=-1) == labels).sum())
    return loss / len(labels_N), right / len(labels_N)
