"""One run on a GLUE task, epoch by epoch, in one process or many; interrupted anywhere, it goes on from the last epoch.

Equation    AdamW as in by_autograd/optimizers.py, learning rate and batches of training.py, the loss a mean over
            the whole batch (distributed.py).
Checked by  tests/test_glue.py.

This is a loop of its own beside training.py's: what trains lives in an nn.Module of somebody else's making and not in a
Model, the losses are scaled in float16, every process takes its share of a batch, and an epoch ends with a checkpoint
that a later process goes on from.

The batches follow from the seed alone. Dropout masks come from torch's generators, which every epoch starts anew from
(seed, epoch, process): an epoch is the same whatever was run before it, so a run that goes on takes the steps that it
would have taken, to the bit: on a GPU torch is held to kernels whose sums have a fixed order. Several processes draw
other masks than one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...adapter_file import read_stored
from ...by_autograd.adapter_io import save_adapter
from ...by_autograd.inject import is_adapted
from ...by_autograd.optimizers import adamw_init
from ...files import read_file, write_atomic
from ...shapes import InputError
from ...training import NonFiniteError, batches, learning_rate, steps_per_epoch
from .data import Tokens, collate
from .distributed import Processes
from .metrics import score
from .model import trained
from .recipe import Recipe
from .state import Plan, Record, load_state, save_state
from .tasks import find_task

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CHECKPOINT = "checkpoint.safetensors"


class Watch:
    """What a run tells while it goes; this one keeps it to itself."""

    def started(self, record: Record, steps: int) -> None:
        """Before the first of ``steps``, or the first that is left: the record as it was found."""

    def step(self, done: int) -> None:
        """After a step: the steps done."""

    def epoch(self, record: Record) -> None:
        """After an epoch is on disk: the record so far."""


def train(
    model: nn.Module,
    tokenizer: Any,
    parts: Mapping[str, Tokens],
    recipe: Recipe,
    folder: Path,
    processes: Processes,
    identity: Mapping[str, Any],
    watch: Watch,
) -> Record:
    """Train the prepared model, in place and on its device, from where ``folder`` says a run of this ``identity`` was
    left; write there, after every epoch, ``checkpoint.safetensors`` and, if it is the best so far,
    ``best.safetensors``, at the end ``last.safetensors``: adapter files, or the trained arrays where there is none.

    Raises InputError for a checkpoint that is damaged or of another run, and where the file of a finished epoch is gone
    that cannot be made again; NonFiniteError after an epoch in which a loss was not finite,
    which then leaves no checkpoint.
    """
    config, task, device = recipe.train, find_task(recipe.task), processes.device
    per_epoch = steps_per_epoch(len(parts["train"]), config)
    steps = per_epoch * config.epochs
    params = trained(model)
    optimizer = adamw_init(params, config)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    path, record = folder / CHECKPOINT, Record()
    if os.path.lexists(path):
        plan = Plan(per_epoch, config.epochs, task.metrics)
        record = load_state(path, params, optimizer, scaler, identity, plan)
    done = len(record.epochs)
    processes.agree(done)
    if done and processes.first:
        restore_trained(model, folder, record, config.epochs, task.metrics[0])
    watch.started(record, steps)
    if done == config.epochs:
        return record
    wrapped = processes.wrap(model)
    order = islice(batches(len(parts["train"]), config), done * per_epoch, None)
    with fixed_order(device):
        for epoch in range(done, config.epochs):
            start = time.monotonic()
            seed_everything(config.seed, epoch, processes.rank)
            model.train()
            losses = []
            for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
                chosen = next(order)
                loss = loss_of_share(wrapped, tokenizer, parts["train"], chosen, recipe, processes)
                scaler.scale(loss * processes.count).backward()
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, steps, config)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                losses.append(loss.detach())
                watch.step(step + 1)
            record.loss += processes.sum(torch.stack(losses).double()).tolist()
            check_losses(record.loss, epoch * per_epoch, steps, recipe)
            found = evaluate(model, tokenizer, parts["validation"], recipe, processes)
            record.epochs.append({"epoch": epoch + 1, **found, "seconds": time.monotonic() - start})
            if processes.first:
                if best_epoch(record, task.metrics[0]) == epoch + 1:
                    save_trained(model, folder / "best.safetensors")
                if epoch + 1 == config.epochs:
                    save_trained(model, folder / "last.safetensors")
                save_state(path, params, optimizer, scaler, identity, record)
            watch.epoch(record)
    return record


def loss_of_share(
    model: nn.Module, tokenizer: Any, tokens: Tokens, chosen: np.ndarray, recipe: Recipe, processes: Processes
) -> Tensor:
    """This process's part of the batch's mean loss: the sum over its share, divided by the size of the batch.

    A process without a share runs one example of the batch all the same and takes nothing of it, so that it takes
    part in the sum of the gradients.
    """
    mine = processes.share(chosen)
    inputs, labels = collate(tokenizer, tokens, mine if len(mine) else chosen[:1], processes.device)
    with autocast(recipe, processes.device):
        logits = model(**inputs).logits
    losses = cross_entropy(logits.float(), labels, reduction="none")
    return losses[: len(mine)].sum() / len(chosen)


@torch.no_grad()
def evaluate(
    model: nn.Module, tokenizer: Any, tokens: Tokens, recipe: Recipe, processes: Processes
) -> dict[str, float]:
    """{"loss": mean loss, and the task's metrics} on all examples, without dropout, the same in all processes."""
    model.eval()
    predicted = torch.zeros(len(tokens), dtype=torch.int64, device=processes.device)
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    mine = processes.share(np.arange(len(tokens)))
    for start in range(0, len(mine), recipe.train.batch_size):
        chosen = mine[start : start + recipe.train.batch_size]
        inputs, labels = collate(tokenizer, tokens, chosen, processes.device)
        with autocast(recipe, processes.device):
            logits = model(**inputs).logits.float()
        total += cross_entropy(logits, labels, reduction="sum")
        predicted[torch.from_numpy(chosen)] = logits.argmax(dim=-1)
    loss = processes.sum(total).item() / len(tokens)
    metrics = find_task(recipe.task).metrics
    return {"loss": loss, **score(metrics, tokens.labels_N, processes.sum(predicted).cpu().numpy())}


def best_epoch(record: Record, metric: str) -> int:
    """The number of the epoch with the largest metric, the first of equals: as the paper chooses, on the very set
    that it reports."""
    return max(record.epochs, key=lambda found: (found[metric], -found["epoch"]))["epoch"]


def check_losses(losses: list[float], since: int, steps: int, recipe: Recipe) -> None:
    """Raise NonFiniteError, naming the first step from ``since`` on whose loss is not finite."""
    for step, loss in enumerate(losses[since:], since):
        if not isfinite(loss):
            lr = learning_rate(step, steps, recipe.train)
            raise NonFiniteError(
                f"training stopped: the loss of step {step} is {loss}, at learning rate {lr:.3g} and --precision "
                f"{recipe.precision}; the last checkpoint is the one before this epoch"
            )


def restore_trained(model: nn.Module, folder: Path, record: Record, epochs: int, metric: str) -> None:
    """Write again what is gone or damaged of the files of finished epochs, from the model as the checkpoint left it.

    Raises InputError if that is the best epoch's and it was an earlier one: its numbers are nowhere else.
    """
    done, best = len(record.epochs), best_epoch(record, metric)
    expected = {"best.safetensors": best} | ({"last.safetensors": done} if done == epochs else {})
    for name, epoch in expected.items():
        if is_whole(model, folder / name):
            continue
        if epoch != done:
            raise InputError(
                f"{folder / name}, of epoch {epoch}, is gone or damaged and cannot be made again: "
                f"move {folder} away to repeat the run"
            )
        save_trained(model, folder / name)


def is_whole(model: nn.Module, path: Path) -> bool:
    """Is there a file as ``save_trained`` writes it, and can it be read?"""
    try:
        if is_adapted(model):
            read_stored(path)
        else:
            safetensors.torch.load(read_file(path))
    except (InputError, SafetensorError):
        return False
    return True


def save_trained(model: nn.Module, path: Path) -> None:
    """An adapter file, or the trained arrays by their names in the model where there is no adapter."""
    if is_adapted(model):
        save_adapter(model, path)
        return
    arrays = {name: p.detach().cpu().contiguous() for name, p in trained(model).items()}
    write_atomic(path, safetensors.torch.save(arrays))


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Products in the recipe's precision; what trains and its gradients stay float32."""
    dtype = AUTOCAST[recipe.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def seed_everything(seed: int, epoch: int, rank: int) -> None:
    """Start torch's, NumPy's and Python's generators from these three numbers."""
    from transformers import set_seed

    set_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]))


@contextmanager
def fixed_order(device: torch.device) -> Iterator[None]:
    """On a GPU, only kernels that add in a fixed order: torch raises RuntimeError, naming the operation, for a model
    with one that has no such kernel. On a CPU all add in a fixed order, and nothing changes."""
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads it at its first product
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # attention has such kernels too, and torch takes them only where it must not merely warn
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
