"""TLoRA on MiniLM and questions, between released factors and those of a gradient, as informed.py does on the digits.

The gradient is that of the training questions' first 512, under a head that was fitted to the frozen model; the runs
themselves start from the fresh head, as every other one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..by_hand import load_pretrained, loss_and_grads
from ..config import AdapterConfig, TrainConfig
from ..factors import along_singular_vectors
from ..init import attach
from ..model import Model, sites
from . import language
from .digits import Task
from .language import BATCH, Plan, Tokens, minilm, read_tokenizer, run_text, tokenize
from .learning_rates import FIRST_SEED
from .questions import load_questions
from .rooms import Room

Array = np.ndarray

EXAMPLES = 512
PLAN = Plan(epochs=4, rates=(3e-3, 1e-2), trials=1)
HEAD_RATE = 1e-2


@dataclass(frozen=True)
class TextChoice(language.Setup):
    """A setup on questions with a rule for TLoRA's factors; those of "gradient" are in ``factors`` of what is given."""

    init: str = "released"

    def adapter(self, seed: int = 0) -> AdapterConfig | None:
        """The adapter it attaches, if any."""
        plain = super().adapter(seed)
        return None if plain is None else replace(plain, init=self.init)


@dataclass(frozen=True)
class Informed(TextChoice):
    """The same, made ready with the singular vectors of D, which are no part of what tells setups apart."""

    D: Any = None

    def prepare(self, base: Model, seed: int) -> Model:
        """The base with the adapter between the factors."""
        adapter = self.adapter(seed)
        assert adapter is not None
        factors = {site.name: along_singular_vectors(self.D[site.name], site.R) for site in sites(base.config, adapter)}
        return attach(base, adapter, self.also(base), factors)


Given = tuple[Room, Model, Mapping[str, Tokens], Mapping[str, Array]]


def given_text(room: Room, data: str, plan: Plan) -> Given:
    """The room, MiniLM, the questions as tokens, and the gradient of every adapted matrix."""
    path = minilm()
    tokenizer = read_tokenizer(path)
    parts = load_questions(data, dict(zip(("train", "validation", "test"), plan.sizes, strict=True)))
    base = load_pretrained(path, classes=len(parts["train"].classes), pool="mean")
    tokens = {name: tokenize(tokenizer, base, questions, plan.time) for name, questions in parts.items()}
    train = tokens["train"]
    config = TrainConfig(epochs=plan.epochs, batch_size=BATCH, lr=HEAD_RATE, seed=FIRST_SEED)
    headed, _ = room.train(base.training({"head.W", "head.b"}), train.ids, train.y, config, train.mask)
    names = [f"{site.name}.W" for site in sites(base.config, AdapterConfig(rank=1))]
    only, total = headed.training(names), dict.fromkeys(names, 0.0)
    for at in range(0, EXAMPLES, BATCH):
        chosen = slice(at, at + BATCH)
        _, grads, _ = loss_and_grads(only, train.ids[chosen], train.y[chosen], train.mask[chosen])
        total = {name: total[name] + grads[name] for name in names}
    return room, base, tokens, {name.removesuffix(".W"): D_IO for name, D_IO in total.items()}


def informed_text(given: Given, task: Task) -> dict[str, float]:
    """The accuracy of one run."""
    room, base, tokens, D = given
    if isinstance(task.setup, TextChoice) and task.setup.init == "gradient":
        setup = task.setup
        task = replace(task, setup=Informed(setup.label, setup.kind, setup.rank, init=setup.init, D=D))
    return {"accuracy": run_text((room, base, tokens), task)["accuracy"]}


def rows_on_text(ranks: Sequence[int]) -> list[TextChoice]:
    """TLoRA by both rules at every rank, and LoRA."""
    found = [TextChoice(f"TLoRA r={r}", "tlora", r, init=rule) for r in ranks for rule in ("released", "gradient")]
    return [*found, TextChoice("LoRA r=1", "lora", 1), TextChoice("LoRA r=8", "lora", 8)]
