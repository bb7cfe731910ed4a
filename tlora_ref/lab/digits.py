"""The experiment that several jobs share: an encoder pretrained on upright digits, adapted to shifted ones.

A ``Setup`` is a row of a table: a method at a rank, the head only, everything, or nothing; a method may be followed by
words that say how it is trained, as in "lora+lora_rite" (WORDS). ``adapt`` is one run of one setup. Which learning rate
each of them gets is decided in learning_rates.py, on validation images.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..by_hand.methods import METHODS
from ..chains import CHAINS as CHAINS_OF
from ..chains import trained_in_link
from ..config import (
    ALLOCATIONS,
    CHAINS,
    GROWTHS,
    OPTIMIZERS,
    AdapterConfig,
    EncoderConfig,
    TrainConfig,
    check_together,
)
from ..counts import Counts, count
from ..init import attach, init_encoder
from ..model import Model, sites
from ..shapes import InputError
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


NORMS = "norms"
"""The word for LayerNorms and head trained as well, as Houlsby and Pfeiffer do it."""

WORDS = {
    **dict.fromkeys(OPTIMIZERS, "optimizer"),
    **dict.fromkeys(GROWTHS, "growth"),
    **dict.fromkeys(CHAINS, "chain"),
    **dict.fromkeys(ALLOCATIONS, "allocation"),
    NORMS: NORMS,
}
"""What may follow a method's name, and what it chooses."""


@dataclass(frozen=True)
class Setup:
    """A way to adapt: a method at a rank, the head only, everything, or nothing. ``words`` are some of WORDS.

    Where the rank grows, ``rank`` is the mean that it grows to, from 1 and by half of it at a time.
    """

    label: str
    kind: str  # "nothing", "head", "full", or an adapter method
    rank: int | None = None
    words: tuple[str, ...] = ()

    def chosen(self, what: str) -> str | None:
        """The optimizer, growth, chain or allocation among the words, None for the usual one."""
        return next((word for word in self.words if WORDS[word] == what), None)

    def adapter(self, seed: int = 0) -> AdapterConfig | None:
        """The adapter it attaches, if any; with an allocation that is still to be made."""
        if self.rank is None:
            return None
        if self.chosen("growth") and METHODS[self.kind].core:
            return AdapterConfig(self.kind, 1, seed=seed, block=max(1, self.rank // 2))
        return AdapterConfig(self.kind, self.rank, seed=seed, allocation=self.chosen("allocation"))

    def train_config(self, **settings: Any) -> TrainConfig:
        """How it is trained."""
        growth = self.chosen("growth")
        grown = {"growth": growth, "grow_to": self.rank} if growth else {}
        return TrainConfig(optimizer=self.chosen("optimizer"), chain=self.chosen("chain"), **grown, **settings)

    def also(self, base: Model) -> frozenset[str]:
        """The base's own arrays that it trains."""
        also = {"head": ("head.W", "head.b"), "full": base.params}.get(self.kind, ())
        norms = [name for name in base.params if name.endswith((".gamma", ".beta"))] if NORMS in self.words else []
        return frozenset([*also, *norms, *(("head.W", "head.b") if norms else ())])

    def trained(self, base: EncoderConfig) -> int:
        """How many numbers of the adapter train at a time; half of the matrices have one where DiffoRA chooses them,
        and all have the rank asked for where it grows."""
        adapter = AdapterConfig(self.kind, self.rank or 1, block=(self.adapter() or AdapterConfig()).block)
        where, chain = sites(base, adapter), self.chosen("chain")
        if chain is not None:
            return trained_in_link(chain, self.kind, where)
        whole = METHODS[self.kind].size(where, METHODS[self.kind].trained)
        return whole // 2 if self.chosen("allocation") == "diffora" else whole

    def prepare(self, base: Model, seed: int) -> Model:
        """The base, made ready: the adapter attached, if there is one, and the right arrays trained."""
        return attach(base, self.adapter(seed), self.also(base)) if self.rank else base.training(self.also(base))

    def counts(self, base: Model) -> Counts:
        """What it trains and stores, by formula. A chain trains one link at a time, and leaves weights."""
        whole, chain = count(base.config, self.adapter(), train_also=self.also(base)), self.chosen("chain")
        if chain is None:
            return whole
        where = sites(base.config, self.adapter() or AdapterConfig())
        also = whole.trained - METHODS[self.kind].size(where, METHODS[self.kind].trained)
        n = self.trained(base.config) + also
        left = whole.trained if CHAINS_OF[chain].links == 1 else sum(site.I * site.O for site in where) + also
        return replace(whole, trained=n, frozen_random=left - n, optimizer=2 * n, from_seed=False)


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


def named_setup(argument: str, name: str, rank: int | None = None) -> Setup:
    """The setup of a row's name, "lora" or "lora+lora_rite", at a rank, None for the method's usual one.

    Raises InputError for a name that is none, and for words that do not go with the method or with each other.
    """
    kind, *words = name.split("+")
    if kind not in METHODS:
        raise InputError(f"{argument} names {name!r}, expected some of {', '.join(METHODS)}")
    for number, word in enumerate(words):
        if word not in WORDS:
            raise InputError(f"{argument} names {name!r}: {word!r} is none of {', '.join(WORDS)}")
        twice = [other for other in words[:number] if WORDS[other] == WORDS[word]]
        if twice:
            raise InputError(f"{argument} names {name!r}, expected one {WORDS[word]} and not {twice[0]} and {word}")
    setup = Setup(name, kind, rank or METHODS[kind].rank, tuple(words))
    try:
        adapter = setup.adapter()
        check_together(adapter, setup.train_config())
        sites(ENCODER, adapter if adapter.allocation is None else replace(adapter, allocation=None))
    except InputError as error:
        raise InputError(f"{argument} names {name!r}: {error}") from None
    return setup


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
    """Accuracy, seconds, history, trained arrays and model of one run."""
    room, base, parts = shared
    start = time.perf_counter()
    config = task.setup.train_config(epochs=task.epochs, batch_size=64, lr=task.lr, seed=task.seed)
    train, adapter = parts["train"], task.setup.adapter(task.seed)
    if adapter is not None and adapter.allocation is not None:
        model = attach(base, room.allocate(base, adapter, train.x, train.y), task.setup.also(base))
    else:
        model = task.setup.prepare(base, task.seed)
    model, history = room.train(model, train.x, train.y, config)
    seconds = time.perf_counter() - start
    accuracy = room.evaluate(model, parts[task.part].x, parts[task.part].y)[1]
    trained = {name: model.params[name] for name in model.trained}
    return {
        "accuracy": accuracy, "seconds": seconds, "history": asdict(history), "trained": trained, "model": model,
    }  # fmt: skip


def score(shared: Shared, task: Task) -> dict[str, float]:
    """Only the accuracy, the seconds and how many numbers trained at its end: what fits a line of JSON. A run that
    diverges has accuracy 0."""
    start = time.perf_counter()
    try:
        result = adapt(shared, task)
    except NonFiniteError:
        return {"accuracy": 0.0, "seconds": time.perf_counter() - start, "trained": 0}
    trained = sum(array.size for array in result["trained"].values())
    return {"accuracy": result["accuracy"], "seconds": result["seconds"], "trained": trained}
