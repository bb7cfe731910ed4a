"""Closed forms: how many numbers a method trains, stores, and what the optimizer keeps.

Equation    per adapted matrix:  TLoRA  R^2 + 1   (arXiv 2504.18735, Table 1)     LoRA  R (I + O)
Checked by  tests/test_counts.py: against the arrays held and against every published figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .config import AdapterConfig, EncoderConfig
from .model import Model, adapted_matrices, encoder_shapes

TRAINED = {
    "tlora": lambda I, O, R: R * R + 1,  # noqa: E741 - the shape letters
    "lora": lambda I, O, R: R * (I + O),  # noqa: E741
}
"""Trained numbers of one adapted (I, O) matrix at rank R."""

FROZEN = {
    "tlora": lambda I, O, R: R * (I + O),  # noqa: E741 - A and C: drawn from a seed, not trained
    "lora": lambda I, O, R: 0,  # noqa: E741
}
"""Frozen random numbers that the method adds to one matrix."""


@dataclass(frozen=True)
class Counts:
    """Numbers (not bytes) unless the name says bytes."""

    base: int  # of the model without the adapter
    trained: int
    frozen_random: int  # A and C: in memory, but drawn again from the seed when only the file is at hand
    optimizer: int  # AdamW's two moments of every trained number

    @property
    def stored(self) -> int:
        """What an adapter file must hold when the frozen factors are drawn from the seed."""
        return self.trained

    def stored_bytes(self, itemsize: int = 4) -> int:
        """Bytes of ``stored`` at a given size of one number."""
        return self.stored * itemsize

    def optimizer_bytes(self, itemsize: int = 4) -> int:
        """Bytes of the optimizer's state at a given size of one number."""
        return self.optimizer * itemsize


def trained(method: str, matrices: Iterable[tuple[int, int]], rank: int) -> int:
    """Trained numbers of a method on matrices given as (I, O)."""
    return sum(TRAINED[method](I, O, rank) for I, O in matrices)  # noqa: E741


def frozen(method: str, matrices: Iterable[tuple[int, int]], rank: int) -> int:
    """Frozen random numbers of a method on matrices given as (I, O)."""
    return sum(FROZEN[method](I, O, rank) for I, O in matrices)  # noqa: E741


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def encoder_size(config: EncoderConfig) -> int:
    """V D or (I + 1) D embedding + T D positions + 2 D + L (4 D (D + 1) + 2 D F + F + D + 4 D) + head, all arrays."""
    D, F, L = config.width, config.hidden, config.layers
    embed = config.vocab * D if config.vocab else (config.features + 1) * D
    layer = 4 * D * (D + 1) + 2 * D * F + F + D + 4 * D
    return embed + config.time * D + 2 * D + L * layer + (D + 1) * config.classes


def count(config: EncoderConfig, adapter: AdapterConfig | None, train_also: Iterable[str] = ()) -> Counts:
    """Counts from the configurations alone; no array is made. ``train_also`` names further trained arrays."""
    shapes = encoder_shapes(config)
    also = sum(_size(shapes[name]) for name in set(train_also))
    matrices = [] if adapter is None else list(adapted_matrices(config, adapter).values())
    n = also + (trained(adapter.method, matrices, adapter.rank) if adapter else 0)
    random = frozen(adapter.method, matrices, adapter.rank) if adapter else 0
    return Counts(base=encoder_size(config), trained=n, frozen_random=random, optimizer=2 * n)


def held(model: Model) -> Counts:
    """The same figures counted from the arrays of a model."""
    base = set(encoder_shapes(model.config))
    n = sum(model.params[name].size for name in model.trained)
    random = sum(a.size for name, a in model.params.items() if name not in base and name not in model.trained)
    return Counts(sum(model.params[name].size for name in base), n, random, 2 * n)
