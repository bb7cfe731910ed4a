"""What can be chosen: frozen dataclasses that are valid once they exist.

EncoderConfig  the shape of the encoder            AdapterConfig  the method, where it sits, how it starts
TrainConfig    the optimizer and its schedule

Every constructor raises InputError, naming the value given and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TypeGuard

from .by_hand.methods import METHODS
from .methods import Site
from .shapes import InputError

INITS = ("released", "fan_in")
"""Rules for TLoRA's frozen random factors; by_hand/methods/tlora.py has the formulas."""

OPTIMIZERS = ("adamw", "stiefel")
"""The optimizers by name; each room has them in its optimizers.py."""


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"{name} is {value!r}, expected {expected}")


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(**values: object) -> None:
    for name, value in values.items():
        at_least_one = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        _require(at_least_one, name, value, "a whole number, at least 1")


@dataclass(frozen=True)
class EncoderConfig:
    """A post-LayerNorm encoder as in BERT: exactly one of ``features`` (continuous tokens of that width,
    projected) and ``vocab`` (token ids, embedded) is given.

    With ``first`` above 0 only the layers from there on are held, and the inputs are the hidden states (N, T, D)
    that layer ``first`` reads: what lies below is frozen and has been computed (model.py, ``upper_layers``).
    """

    width: int = 32  # D
    layers: int = 2  # L
    heads: int = 4  # H
    hidden: int = 64  # F
    time: int = 8  # the longest sequence, T
    classes: int = 10  # V of the head
    features: int | None = None  # I of a continuous token
    vocab: int | None = None  # V of the embedding
    pool: str = "mean"  # or "first"
    causal: bool = False
    eps: float = 1e-5  # of LayerNorm
    types: int = 0  # token types (BERT's segments), 0: none
    pad_id: int | None = None  # RoBERTa's positions: counted over the ids other than this one, from pad_id + 1 on
    pooler: bool = False  # a matrix and a tanh between the pooling and the head
    first: int = 0  # the lowest layer that is held

    def __post_init__(self) -> None:
        _positive(width=self.width, layers=self.layers, heads=self.heads, hidden=self.hidden)
        _positive(time=self.time, classes=self.classes)
        _require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width = {self.width}")
        kinds = [n for n in ("features", "vocab") if getattr(self, n) is not None]
        _require(len(kinds) == 1, "features, vocab", (self.features, self.vocab), "exactly one of the two")
        _positive(**{kinds[0]: getattr(self, kinds[0])})
        _require(self.pool in ("mean", "first"), "pool", self.pool, "'mean' or 'first'")
        _require(self.eps > 0, "eps", self.eps, "a positive number")
        _require(_whole(self.types) and self.types >= 0, "types", self.types, "a whole number, at least 0")
        _require(
            self.pad_id is None or (self.vocab is not None and _whole(self.pad_id) and 0 <= self.pad_id < self.vocab),
            "pad_id",
            self.pad_id,
            "None or one of the vocabulary's ids",
        )
        _require(_whole(self.first) and 0 <= self.first < self.layers, "first", self.first, f"0 to {self.layers - 1}")

    @property
    def inputs(self) -> int:
        """Rows of the matrix that the inputs meet: V of the embedding, or I of a continuous token."""
        return self.vocab or self.features or 0

    @property
    def positions(self) -> int:
        """Rows of the table of positions: RoBERTa's has pad_id unused ones and one for padding before the first."""
        return self.time if self.pad_id is None else self.pad_id + 1 + self.time


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter method on the named matrices of the chosen layers (None: all).

    ``ranks`` has other ranks than ``rank`` for single matrices, by their full names ("layers.0.query"); a rank of 0
    leaves that matrix without an adapter. It may be given as a mapping and is kept as sorted pairs.
    """

    method: str = "tlora"
    rank: int = 8
    targets: tuple[str, ...] = None  # type: ignore[assignment]  # None becomes the method's own, query and value for most
    layers: tuple[int, ...] | None = None
    dropout: float = 0.0
    init: str = "released"  # rule for TLoRA's A and C
    seed: int = 0
    lora_alpha: float | None = None  # the constant scale is lora_alpha / rank; None is lora_alpha = rank, scale 1
    ranks: tuple[tuple[str, int], ...] = ()
    heads: int | None = None  # of the attention, for LoRTA; None: the encoder's own, and 1 where nothing says

    def __post_init__(self) -> None:
        _require(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        _positive(rank=self.rank)
        pairs = self.ranks.items() if isinstance(self.ranks, Mapping) else self.ranks
        object.__setattr__(self, "ranks", tuple(sorted((name, R) for name, R in pairs)))
        for name, R in self.ranks:
            _require(_whole(R) and R >= 0, f"the rank of {name}", R, "a whole number, at least 0")
        if self.targets is None:
            object.__setattr__(self, "targets", METHODS[self.method].targets)
        _require(
            isinstance(self.targets, tuple) and len(self.targets) > 0 and len(set(self.targets)) == len(self.targets),
            "targets",
            self.targets,
            "a tuple of different names, at least one",
        )
        _require(
            self.layers is None or (isinstance(self.layers, tuple) and len(self.layers) > 0),
            "layers",
            self.layers,
            "None (all) or a tuple of layer numbers",
        )
        _require(isfinite(self.dropout) and 0 <= self.dropout < 1, "dropout", self.dropout, "a number in [0, 1)")
        _require(
            self.dropout == 0 or METHODS[self.method].keep != "", "dropout", self.dropout, f"0: {self.method} has none"
        )
        _require(self.init in INITS, "init", self.init, f"one of {', '.join(INITS)}")
        _require(
            self.init == "released" or self.method == "tlora",
            "init",
            self.init,
            f"released: {self.method} has no rules",
        )
        _require(_whole(self.seed) and self.seed >= 0, "seed", self.seed, "a whole number, at least 0")
        _require(
            self.lora_alpha is None or (isfinite(self.lora_alpha) and self.lora_alpha > 0),
            "lora_alpha",
            self.lora_alpha,
            "None or a positive number",
        )
        if self.heads is not None:
            _positive(heads=self.heads)
            _require(METHODS[self.method].per_head, "heads", self.heads, f"None: {self.method} has no heads")

    def site(self, name: str, I: int, O: int) -> Site:
        """Where the adapter sits on a matrix of that full name, I wide in and O wide out."""
        return Site(name, I, O, self.rank_of(name), self.heads or 1)

    def rank_of(self, matrix: str) -> int:
        """The rank on a matrix, by its full name; 0 where it gets no adapter."""
        return dict(self.ranks).get(matrix, self.rank)

    @property
    def scale(self) -> float:
        """The constant s = lora_alpha / rank of LoRA and most of its relatives, at ``rank``."""
        return self.scale_at(self.rank)

    def scale_at(self, rank: int) -> float:
        """The same constant at another rank."""
        return 1.0 if self.lora_alpha is None else self.lora_alpha / rank


@dataclass(frozen=True)
class TrainConfig:
    """An optimizer with linear warm-up and linear decay; the defaults are those of the released code.

    ``weight_decay`` acts on every trained array, alpha and B included, as in the released code; the local
    names in ``no_decay`` ("alpha", "b", ...) are left out of it.
    """

    epochs: int = 30
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = ()
    warmup: float = 0.06  # share of all steps
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None  # largest norm of all gradients together
    seed: int = 0  # of the batches and of the dropout masks
    optimizer: str | None = None  # None: the one of the adapter's method, AdamW for most

    def __post_init__(self) -> None:
        _positive(epochs=self.epochs, batch_size=self.batch_size)
        _require(isfinite(self.lr) and self.lr >= 0, "lr", self.lr, "a finite number, at least 0")
        _require(
            isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            self.weight_decay,
            "a finite number, at least 0",
        )
        _require(isinstance(self.no_decay, tuple), "no_decay", self.no_decay, "a tuple of local names")
        _require(0 <= self.warmup <= 1, "warmup", self.warmup, "a share of the steps in [0, 1]")
        _require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two in [0, 1)")
        _require(self.eps > 0, "eps", self.eps, "a positive number")
        _require(self.clip is None or self.clip > 0, "clip", self.clip, "None or a positive number")
        _require(_whole(self.seed) and self.seed >= 0, "seed", self.seed, "a whole number, at least 0")
        _require(
            self.optimizer is None or self.optimizer in OPTIMIZERS,
            "optimizer",
            self.optimizer,
            f"None or one of {', '.join(OPTIMIZERS)}",
        )
