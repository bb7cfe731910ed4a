"""The experiment that several jobs share: an encoder pretrained on upright digits, adapted to shifted ones.

A ``Setup`` is a row of a table: a method at a rank, the head only, everything, or nothing. ``adapt`` is one run of
one setup. Which learning rate each of them gets is decided in learning_rates.py, on validation images.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..config import AdapterConfig, EncoderConfig, TrainConfig
from ..counts import Counts, count
from ..init import attach, init_encoder
from ..model import Model
from ..training import NonFiniteError
from .data import Part
from .rooms import Room

ENCODER = EncoderConfig(width=32, layers=2, heads=4, hidden=64, time=8, features=8, classes=10)


@dataclass(frozen=True)
class Plan:
    """How long everything is: epochs of pretraining and of a run; and how a learning rate is searched: the rates it
    begins with, the seeds that judge one, and whether it goes on beyond the first and the last of them."""

    pretrain: int = 28
    epochs: int = 18
    rates: tuple[float, ...] = (3e-2, 1e-1, 3e-1)
    trials: int = 3
    widen: bool = True


FULL, QUICK = Plan(), Plan(12, 6, (1e-2, 1e-1), trials=1, widen=False)


@dataclass(frozen=True)
class Setup:
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


@dataclass(frozen=True)
class Variant(Setup):
    """A setup, with what is changed about it to see what that does."""

    dropout: float = 0.0
    lora_alpha: float | None = None
    learn_alpha: bool = True

    def adapter(self, seed: int = 0) -> AdapterConfig | None:
        """The adapter it attaches, if any."""
        plain = super().adapter(seed)
        changes = {"dropout": self.dropout, "lora_alpha": self.lora_alpha}
        return None if plain is None else replace(plain, **changes)

    def prepare(self, base: Model, seed: int) -> Model:
        """The base, made ready; without alpha among what trains if it is to stay 1."""
        model = super().prepare(base, seed)
        return model.training({name for name in model.trained if self.learn_alpha or not name.endswith(".alpha")})


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
    """One run: a setup at a learning rate, for some epochs, from a seed; its accuracy on a part of the data."""

    setup: Setup
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
    model, history = room.train(task.setup.prepare(base, task.seed), parts["train"].x, parts["train"].y, config)
    seconds = time.perf_counter() - start
    accuracy = room.evaluate(model, parts[task.part].x, parts[task.part].y)[1]
    trained = {name: model.params[name] for name in model.trained}
    return {"accuracy": accuracy, "seconds": seconds, "history": asdict(history), "trained": trained}


def score(shared: Shared, task: Task) -> dict[str, float]:
    """Only the accuracy and the seconds of one run: what fits a line of JSON. A run that diverges has accuracy 0."""
    start = time.perf_counter()
    try:
        result = adapt(shared, task)
    except NonFiniteError:
        return {"accuracy": 0.0, "seconds": time.perf_counter() - start}
    return {"accuracy": result["accuracy"], "seconds": result["seconds"]}
