"""TLoRA on the digits between frozen factors of every kind: which rule makes them, and from whose gradient.

A ``Choice`` is a Setup that also says the rule (config.INITS), whose gradient, and on how many examples;
``informed`` is one run of it, and ``moved`` one run of TLoRA in an encoder of another width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..by_hand.gradient_factors import weight_gradient
from ..config import AdapterConfig, TrainConfig
from ..factors import along_singular_vectors
from ..init import attach
from ..model import Model, sites
from ..training import NonFiniteError
from .data import Part
from .digits import Plan, Task, Variant
from .learning_rates import FIRST_SEED
from .rooms import Room

Array = np.ndarray

OTHERS = ("rot180", "transpose", "flip", "invert")
"""The shifts of the digits that stand for other tasks."""

Directions = Mapping[str, Mapping[str, Array]]
"""For each source of factors, the matrix D (I, O) whose singular vectors they are, by the adapted matrix's name."""


@dataclass(frozen=True)
class Choice(Variant):
    """A Variant with a rule for TLoRA's factors. ``source``: whose D, a key of ``directions`` below, or "" for the
    rules that need none; ``examples``: how many of the task's own to take the gradient on, drawn by the run's seed."""

    init: str = "released"
    source: str = ""
    examples: int | None = None
    decay: float = 0.01  # of the weights, AdamW's default

    def adapter(self, seed: int = 0) -> AdapterConfig | None:
        """The adapter it attaches, if any."""
        plain = super().adapter(seed)
        return None if plain is None else replace(plain, init=self.init)

    @property
    def stored_once(self) -> bool:
        """Are the factors another task's, so that one copy serves every task?"""
        return self.source in (*OTHERS, "upright", "mean of others")


@dataclass(frozen=True)
class Pair(Task):
    """A run whose draw of factors and whose batches have seeds of their own."""

    order: int = 0


@dataclass(frozen=True)
class Given:
    """What every run is given: the base, the task's data, and the directions by source."""

    room: Room
    base: Model
    parts: Mapping[str, Part]
    directions: Directions


def directions(room: Room, base: Model, task: Mapping[str, Part], tasks: Mapping[str, Mapping[str, Part]],
               full: TrainConfig) -> Directions:  # fmt: skip
    """The D of every source: ``task``'s own gradient; that after one epoch of the head; those of the other ``tasks``,
    by shift ("none" is "upright"), and their mean; and dW of full fine-tuning on the task itself, which nobody has
    beforehand."""
    names = [site.name for site in sites(base.config, AdapterConfig())]

    def gradient(model: Model, *data: Part) -> dict[str, Array]:
        return {name: weight_gradient(model, f"{name}.W", [(part.x, part.y) for part in data]) for name in names}

    own, others = task["train"], {shift: parts["train"] for shift, parts in tasks.items() if shift != "none"}
    head = base.training({"head.W", "head.b"})
    headed, _ = room.train(head, own.x, own.y, replace(full, epochs=1))
    after, _ = room.train(base.training(base.params), own.x, own.y, full)
    return {
        "own": gradient(base, own),
        "own, head trained": gradient(headed, own),
        "upright": gradient(base, tasks["none"]["train"]),
        **{shift: gradient(base, part) for shift, part in others.items()},
        "mean of others": gradient(base, *others.values()),
        "dW of full": {name: after.params[f"{name}.W"] - base.params[f"{name}.W"] for name in names},
    }


def full_config(plan: Plan, lr: float) -> TrainConfig:
    """The run of full fine-tuning whose dW is the one to be held: its seed is none that is reported."""
    return TrainConfig(epochs=plan.epochs, batch_size=64, lr=lr, seed=FIRST_SEED)


def prepared(given: Given, setup: Choice, seed: int) -> Model:
    """The base with the adapter attached, and what trains."""
    base, parts = given.base, given.parts
    if setup.source == "":
        return setup.prepare(base, seed)
    adapter, D = setup.adapter(seed), given.directions[setup.source]
    assert adapter is not None
    if setup.examples is not None:
        chosen = np.random.default_rng([seed, 2]).permutation(len(parts["train"].y))[: setup.examples]
        batch = (parts["train"].x[chosen], parts["train"].y[chosen])
        D = {name: weight_gradient(base, f"{name}.W", [batch]) for name in D}
    factors = {site.name: along_singular_vectors(D[site.name], site.R) for site in sites(base.config, adapter)}
    return attach(base, adapter, factors=factors)


def informed(given: Given, task: Task) -> dict[str, Any]:
    """The accuracy of one run, and its loss over the last epoch. A run that diverges has accuracy 0."""
    setup, train = task.setup, given.parts["train"]
    assert isinstance(setup, Choice)
    order = task.order if isinstance(task, Pair) else task.seed
    config = TrainConfig(epochs=task.epochs, batch_size=64, lr=task.lr, seed=order, weight_decay=setup.decay)
    try:
        model, history = given.room.train(prepared(given, setup, task.seed), train.x, train.y, config)
    except NonFiniteError:
        return {"accuracy": 0.0, "loss": None}
    part = given.parts[task.part]
    last = len(history.loss) // task.epochs
    return {
        "accuracy": given.room.evaluate(model, part.x, part.y)[1],
        "loss": float(np.mean(history.loss[-last:])),
        "alpha": [float(model.params[name]) for name in sorted(model.params) if name.endswith(".alpha")],
    }


def moved(bases: Mapping[int, Given], task: tuple[int, int, float, int, int]) -> float | None:
    """The training loss over the last epoch of released TLoRA, of (width, rank, rate, seed, epochs); None: diverged."""
    width, rank, lr, seed, epochs = task
    return informed(bases[width], Task(Choice("TLoRA", "tlora", rank), lr, seed, epochs, "validation"))["loss"]
