"""The experiment that several jobs share: an encoder pretrained on upright digits, adapted to shifted ones.

A ``Way`` is a row of a table: a method at a rank, the head only, everything, or nothing. ``adapt`` is one run of
one way. ``search`` gives every way the same learning rates to choose from, on validation images.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config import AdapterConfig, EncoderConfig, TrainConfig
from ..counts import Counts, count
from ..init import attach, init_encoder
from ..model import Model
from .data import Part
from .rooms import Room
from .runs import run_all

ENCODER = EncoderConfig(width=32, layers=2, heads=4, hidden=64, time=8, features=8, classes=10)
LEARNING_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@dataclass(frozen=True)
class Plan:
    """How long everything is: epochs of pretraining, of a full run, of a run of the learning-rate search."""

    pretrain: int = 28
    epochs: int = 18
    search: int = 7
    rates: tuple[float, ...] = LEARNING_RATES


FULL, QUICK = Plan(), Plan(12, 6, 2, LEARNING_RATES[1:4:2])


@dataclass(frozen=True)
class Way:
    """A way to adapt: a method at a rank, the head only, everything, or nothing."""

    label: str
    kind: str  # "nothing", "head", "full", or an adapter method
    rank: int | None = None

    def adapter(self, seed: int = 0) -> AdapterConfig | None:
        """The adapter it attaches, if any."""
        return None if self.rank is None else AdapterConfig(method=self.kind, rank=self.rank, seed=seed)

    def also(self, base: Model) -> frozenset[str]:
        """The base's own arrays that it trains."""
        return frozenset({"head": ("head.W", "head.b"), "full": base.params}.get(self.kind, ()))

    def prepare(self, base: Model, seed: int) -> Model:
        """The base, made ready: the adapter attached, if there is one, and the right arrays trained."""
        return attach(base, self.adapter(seed), self.also(base)) if self.rank else base.training(self.also(base))

    def counts(self, base: Model) -> Counts:
        """What it trains and stores, by formula."""
        return count(base.config, self.adapter(), train_also=self.also(base))


def pretrain(room: Room, upright: Part, plan: Plan, encoder: EncoderConfig = ENCODER) -> Model:
    """The base: trained on upright digits, from seed 0."""
    config = TrainConfig(epochs=plan.pretrain, batch_size=64, lr=3e-3)
    return room.train(init_encoder(encoder), upright.x, upright.y, config)[0]


def fingerprint(base: Model) -> str:
    """Tells bases apart, so that runs from another base are not taken for runs from this one."""
    digest = hashlib.sha256()
    for name in sorted(base.params):
        digest.update(base.params[name].tobytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Task:
    """One run: a way at a learning rate, for some epochs, from a seed; its accuracy on a part of the data."""

    way: Way
    lr: float
    seed: int
    epochs: int
    part: str


Shared = tuple[Room, Model, dict[str, Part]]


def adapt(shared: Shared, task: Task) -> dict[str, Any]:
    """Accuracy, seconds, history and trained arrays of one run."""
    room, base, parts = shared
    start = time.perf_counter()
    config = TrainConfig(epochs=task.epochs, batch_size=64, lr=task.lr, seed=task.seed)
    model, history = room.train(task.way.prepare(base, task.seed), parts["train"].x, parts["train"].y, config)
    seconds = time.perf_counter() - start
    accuracy = room.evaluate(model, parts[task.part].x, parts[task.part].y)[1]
    trained = {name: model.params[name] for name in model.trained}
    return {"accuracy": accuracy, "seconds": seconds, "history": asdict(history), "trained": trained}


def score(shared: Shared, task: Task) -> dict[str, float]:
    """Only the accuracy and the seconds of one run: what fits a line of JSON."""
    result = adapt(shared, task)
    return {"accuracy": result["accuracy"], "seconds": result["seconds"]}


def search(
    shared: Any,
    ways: Sequence[Way],
    plan: Plan,
    store: Path | None = None,
    work: Callable[[Any, Task], dict[str, float]] = score,
) -> dict[Way, float]:
    """The learning rate of each way: the best of the same few on validation data, after a short run each."""
    tasks = [Task(way, lr, 0, plan.search, "validation") for way in ways for lr in plan.rates]
    results = run_all(work, shared, tasks, "learning rates", store=store)
    found = {(task.way, task.lr): r["accuracy"] for task, r in zip(tasks, results, strict=True)}
    return {way: max(plan.rates, key=lambda lr: found[way, lr]) for way in ways}
