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

INITS = ("released", "fan_in", "orthonormal", "weight_svd", "gradient")
"""Rules for TLoRA's frozen factors; by_hand/methods/tlora.py has the formulas."""

NOT_FROM_SEED = {"weight_svd": "W0", "gradient": "the gradient of a loss"}
"""The rules whose factors no seed draws again, and what they follow from."""

OPTIMIZERS = ("adamw", "stiefel", "lora_rite")
"""The optimizers by name; each room has them in its optimizers.py."""

GROWTHS = ("linear", "exponential")
"""The schedules by which the rank of an adapter grows while it trains, by name; training.BETWEEN has them."""

CHAINS = ("cola", "rac", "rac_a", "asymm", "asymm_a", "xgblora")
"""The chains of adapters that are trained one after the other, each folded into the weights, by name; chains.py says
what each of them does."""

ALLOCATIONS = ("gelora", "diffora")
"""The rules that choose ranks or matrices from data, by name; allocate.py has them."""


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
    heads: int | None = None  # of the attention, for LoRTA; None: the encoder's own, and 1 for matrices by themselves
    allocation: str | None = None  # the rule that is to choose the ranks from data; None: they are chosen
    tied: tuple[tuple[str, ...], ...] = ()  # groups of matrices with one pair of LoRA's factors, by their full names
    block: int = 1  # by how much a rank of TriAdaptLoRA grows at once; its triangles are made of blocks of that width

    def __post_init__(self) -> None:
        _require(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        _positive(rank=self.rank, block=self.block)
        _require(
            self.block == 1 or bool(METHODS[self.method].core), "block", self.block, f"1: {self.method} has no blocks"
        )
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

        groups = tuple(tuple(group) for group in self.tied)
        object.__setattr__(self, "tied", groups)
        names = [name for group in groups for name in group]
        apart = len(set(names)) == len(names) and all(len(group) > 1 for group in groups)
        _require(apart, "tied", groups, "groups of two matrices or more, each matrix in one")
        _require(not groups or self.method == "lora", "tied", groups, f"none: {self.method}'s arrays cannot be tied")
        if self.allocation is not None:
            known = self.allocation in ALLOCATIONS
            _require(known, "allocation", self.allocation, f"None or one of {', '.join(ALLOCATIONS)}")
            _require(
                self.method == "lora", "allocation", self.allocation, f"None for {self.method}: it is made for lora"
            )
            _require(not self.ranks, "ranks", dict(self.ranks), f"none: {self.allocation} chooses them")
            _require(
                self.allocation != "gelora" or self.lora_alpha is None,
                "lora_alpha",
                self.lora_alpha,
                "None: with gelora, lora_alpha / rank is the same at every rank",
            )

    def site(self, name: str, I: int, O: int) -> Site:
        """Where the adapter sits on a matrix of that full name, I wide in and O wide out."""
        return Site(name, I, O, self.rank_of(name), self.heads or 1, self.block, self.home(name))

    def home(self, matrix: str) -> str:
        """The matrix under whose name the arrays of this one are kept: itself, or the first of those it is tied to."""
        return next((group[0] for group in self.tied if matrix in group), matrix)

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

    @property
    def from_seed(self) -> bool:
        """Do the frozen arrays follow from the seed alone? If not, an adapter file has to hold them."""
        return METHODS[self.method].from_seed and self.init not in NOT_FROM_SEED

    @property
    def origin(self) -> str:
        """What the frozen arrays follow from, in words."""
        return "the seed" if self.from_seed else NOT_FROM_SEED.get(self.init, "W0")


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
    growth: str | None = None  # the schedule by which the adapter's rank grows; None: it does not
    grow_to: int = 8  # the mean rank at which it stops
    grow_every: int = 10  # steps from one growth to the next
    chain: str | None = None  # the chain that the adapter is the first link of; None: it stays the only one
    links: int | None = None  # of the chain; None: as many as it has by itself

    def __post_init__(self) -> None:
        _positive(epochs=self.epochs, batch_size=self.batch_size, grow_to=self.grow_to, grow_every=self.grow_every)
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
        for name, known in (("growth", GROWTHS), ("chain", CHAINS)):
            given = getattr(self, name)
            _require(given is None or given in known, name, given, f"None or one of {', '.join(known)}")
        _require(
            self.growth is None or self.chain is None, "growth, chain", (self.growth, self.chain), "one of the two"
        )
        if self.links is not None:
            _positive(links=self.links)
            _require(self.chain is not None, "links", self.links, "None: there is no chain")
            one = self.chain in ("asymm", "asymm_a")
            _require(not one or self.links == 1, "links", self.links, f"None or 1: {self.chain} has one link")

    def decay_of(self, name: str) -> float:
        """The weight decay of an array, by its full name."""
        return 0.0 if name.rpartition(".")[2] in self.no_decay else self.weight_decay


def check_together(adapter: AdapterConfig | None, config: TrainConfig) -> None:
    """Raise InputError unless the adapter can be trained in this way: the one place that knows what does not go
    together. Everything that trains asks it before it starts."""
    method = None if adapter is None else METHODS[adapter.method]
    name = "a model without an adapter" if method is None else method.name
    if config.optimizer == "adamw" and method is not None and method.orthogonal:
        arrays = ", ".join(method.orthogonal)
        raise InputError(f"optimizer is 'adamw', expected 'stiefel': {name} needs {arrays} to stay orthogonal")
    if config.optimizer == "lora_rite":
        if method is None or not method.product:
            pairs = ", ".join(other.name for other in METHODS.values() if other.product)
            raise InputError(
                f"optimizer is 'lora_rite', expected another for {name}: it moves the two factors of a product, which "
                f"{pairs} have"
            )
        if config.clip is not None:
            raise InputError(
                f"clip is {config.clip:g}, expected None for lora_rite: the norm of dA and dB depends on how the "
                "product A B is split into A and B"
            )
    if config.growth is not None:
        if adapter is None or method is None or not method.core:
            growing = ", ".join(other.name for other in METHODS.values() if other.core)
            raise InputError(f"growth is {config.growth!r}, expected None for {name}: only the rank of {growing} grows")
        if config.grow_to <= adapter.rank:
            raise InputError(f"grow_to is {config.grow_to}, expected more than the rank {adapter.rank} it grows from")
    if config.chain is not None:
        if config.optimizer == "lora_rite" and config.chain not in ("cola", "xgblora"):
            raise InputError(
                f"chain is {config.chain!r}, expected cola or xgblora with lora_rite: it moves a pair of factors, and "
                "the others freeze one of them"
            )
        if method is None:
            raise InputError(f"chain is {config.chain!r}, expected None for {name}")
        if not method.mergeable:
            raise InputError(
                f"chain is {config.chain!r}, expected None for {name}: a link is folded into the weights at its end, "
                "and this cannot be merged"
            )
        if config.chain not in ("cola", "xgblora") and name != "lora":
            raise InputError(
                f"chain is {config.chain!r}, expected cola or xgblora for {name}: the others train a factor of LoRA"
            )
        if adapter is not None and adapter.tied:
            raise InputError(f"chain is {config.chain!r}, expected None for matrices that are tied")
        if config.chain == "xgblora" and method.shared:
            raise InputError(
                f"chain is 'xgblora', expected another for {name}: it trains some layers at a time, and all share this"
            )
