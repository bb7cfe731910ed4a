"""What one run on GLUE is. The defaults are the paper's recipe and, where the paper is silent, the released code's.

Source      arXiv 2504.18735, section 3: r = 32 on query and value, dropout 0.5 on the update, AdamW, batches of 32,
            30 epochs, linear decay. The released code: learning rate 1e-3 (the paper's Table 2 prints 0), 6 % warm-up,
            weight decay 0.01, a frozen head, texts cut at the tokenizer's maximum, no seed and no clipping; its LoRA
            has the scale 16 / r and no dropout. 128 tokens are a choice of this project.
Checked by  tests/test_glue.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...by_hand.methods import METHODS
from ...config import AdapterConfig, TrainConfig
from ...shapes import InputError
from .tasks import find_task

ADAPTERS = tuple(name for name, method in METHODS.items() if method.on_matrices)
WAYS = (*ADAPTERS, "head", "full")
"""What may train: an adapter by its method, the classification head only, or everything."""

HEADS = {
    "frozen": "the model's own head as it is, also one of more classes than the task has",
    "trained": "the model's own head, trained as well",
    "new": "a new random head with the task's classes, trained",
}
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Recipe:
    """One run but for the model and the data: ``adapter`` is None for the methods "head" and "full"."""

    task: str
    method: str
    adapter: AdapterConfig | None
    head: str
    train: TrainConfig
    max_length: int = 128
    precision: str = "fp32"

    def __post_init__(self) -> None:
        find_task(self.task)
        if self.method not in WAYS:
            raise InputError(f"--method is {self.method!r}, expected one of {', '.join(WAYS)}")
        if self.head not in HEADS:
            raise InputError(f"--head is {self.head!r}, expected one of {', '.join(HEADS)}")
        if self.adapter is None and self.head == "frozen":
            raise InputError(f"--head is 'frozen', expected trained or new: --method {self.method} trains the head")
        if self.precision not in PRECISIONS:
            raise InputError(f"--precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if self.max_length < 4:
            raise InputError(f"--max-length is {self.max_length}, expected at least 4 tokens")

    def at(self, seed: int) -> Recipe:
        """The same from another seed, which draws the adapter, the batches and the dropout masks."""
        adapter = None if self.adapter is None else replace(self.adapter, seed=seed)
        return replace(self, adapter=adapter, train=replace(self.train, seed=seed))

    @property
    def label(self) -> str:
        """The row of a table: "TLoRA r=32"."""
        if self.adapter is None:
            return {"head": "head only", "full": "everything"}[self.method]
        name = {"tlora": "TLoRA", "lora": "LoRA"}.get(self.method, self.method)
        return f"{name} r={self.adapter.rank}"

    def described(self) -> dict[str, Any]:
        """All of it but the seed, flat, as JSON knows it."""
        own = {"task": self.task, "method": self.method, "head": self.head, "max_length": self.max_length}
        adapter = {} if self.adapter is None else json.loads(json.dumps(asdict(self.adapter)))
        train = json.loads(json.dumps(asdict(self.train)))
        both = {"precision": self.precision} | adapter | train
        return own | {key: value for key, value in both.items() if key != "seed"}


def paper_recipe(
    task: str,
    method: str = "tlora",
    rank: int = 32,
    targets: Sequence[str] = ("query", "value"),
    dropout: float | None = None,
    lora_alpha: float | None = None,
    head: str | None = None,
    train: TrainConfig | None = None,
    max_length: int = 128,
    precision: str = "fp32",
) -> Recipe:
    """The paper's recipe for a method: TLoRA's dropout is 0.5 and every other's 0; a constant scale is 16 / rank; an
    adapter leaves the head frozen. Raises InputError for what no run can be."""
    adapter = None
    if method in ADAPTERS:
        if lora_alpha is None and "scale" in METHODS[method].constants:
            lora_alpha = 16.0
        dropout = (0.5 if method == "tlora" else 0.0) if dropout is None else dropout
        adapter = AdapterConfig(method, rank, tuple(targets), dropout=dropout, lora_alpha=lora_alpha)
    head = head or ("trained" if adapter is None else "frozen")
    return Recipe(task, method, adapter, head, train or TrainConfig(), max_length, precision)
