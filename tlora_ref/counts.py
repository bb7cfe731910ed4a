"""Closed forms: how many numbers a method trains, stores, keeps for the backward, and what the optimizer keeps.

Equation    per adapted matrix:  TLoRA  R^2 + 1   (arXiv 2504.18735, Table 1)     LoRA  R (I + O)
            kept for the backward by N rows:  TLoRA  N R + R^2      LoRA  N (I + R)
Checked by  tests/test_counts.py: against the arrays held and against every published figure;
            tests/test_activations.py: against what autograd keeps and against torch's counter of FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .by_hand.methods import METHODS
from .config import AdapterConfig, EncoderConfig
from .methods import Site
from .model import Model, encoder_shapes, sites

ACTIVATIONS = {
    # u for dB and dalpha, alpha B for dx, the mask of the update
    "tlora": lambda N, I, O, R, dropout, dx: N * R + dx * R * R + dropout * N * O,
    # x for dA, scale * u for dB, the mask of x for dx
    "lora": lambda N, I, O, R, dropout, dx: N * I + N * R + dropout * dx * N * I,
}
"""Numbers that by_autograd keeps from the forward of one adapted matrix on N rows, weights apart; ``dx`` is whether
something below needs the gradient of x. by_hand's caches hold the same but for TLoRA's alpha B, which it multiplies
again."""

FORWARD_FLOPS = {
    "tlora": lambda N, I, O, R: 2 * N * (I * O + I * R + R * R + R * O),  # x W0, x A, u B, (u B) C
    "lora": lambda N, I, O, R: 2 * N * (I * O + I * R + R * O),  # x W0, x A, u B
}
"""FLOPs of the matrix products of one adapted matrix on N rows: 2 for each multiplication and its addition."""

BACKWARD_FLOPS = {
    # g = dy C^T and dB = u^T g;   dx = dy W0^T + g B^T A^T
    "tlora": lambda N, I, O, R, dx: 2 * N * (R * O + R * R + dx * (I * O + R * R + I * R)),
    # dB = u^T dy, du = dy B^T and dA = x^T du;   dx = dy W0^T + du A^T
    "lora": lambda N, I, O, R, dx: 2 * N * (R * O + R * O + I * R + dx * (I * O + I * R)),
}
"""The same for the backward."""


@dataclass(frozen=True)
class Counts:
    """Numbers (not bytes) unless the name says bytes."""

    base: int  # of the model without the adapter
    trained: int
    frozen_random: int  # A and C: in memory, but drawn again from the seed when only the file is at hand
    optimizer: int  # AdamW's two moments of every trained number
    from_seed: bool = True  # do the frozen numbers follow from the seed? LoRA-XS has its from W0, TLoRA may

    @property
    def stored(self) -> int:
        """What an adapter file must hold: what was trained, and the frozen factors if no seed draws them again."""
        return self.trained + (0 if self.from_seed else self.frozen_random)

    def stored_bytes(self, itemsize: int = 4) -> int:
        """Bytes of ``stored`` at a given size of one number."""
        return self.stored * itemsize

    def optimizer_bytes(self, itemsize: int = 4) -> int:
        """Bytes of the optimizer's state at a given size of one number."""
        return self.optimizer * itemsize


Matrices = Mapping[str, tuple[int, int]] | Iterable[tuple[int, int]]
"""The (I, O) of some matrices, by their full names where a method has to know which ones they are (LoRTA)."""


def trained(method: str, matrices: Matrices, rank: int, heads: int = 1) -> int:
    """Trained numbers of a method on some matrices: what the letters of its trained arrays say."""
    return METHODS[method].size(_on(matrices, rank, heads), METHODS[method].trained)


def frozen(method: str, matrices: Matrices, rank: int, heads: int = 1) -> int:
    """Frozen numbers of a method on some matrices. What all matrices share counts once, at the largest size."""
    return METHODS[method].size(_on(matrices, rank, heads), METHODS[method].frozen)


def _on(matrices: Matrices, rank: int, heads: int) -> list[Site]:
    if not isinstance(matrices, Mapping):
        matrices = {f"matrices.{number}": shape for number, shape in enumerate(matrices)}
    return [Site(name, I, O, rank, heads) for name, (I, O) in matrices.items()]


WIDTHS = (64, 128, 256, 384, 512, 768, 1024, 1280, 1600, 2048, 2560, 4096, 5120, 8192)
"""Model widths that ``closed_forms`` has the factors of; a head is 64 wide."""


def closed_forms() -> dict[str, Any]:
    """``trained`` as data, for whoever evaluates it elsewhere, with square matrices (I = O = D) and heads 64 wide.

    "methods": of every method the letters of its trained arrays, and whether all matrices share one; "blocks" is how
    many a layer has of what sits in blocks, 0 for what sits on matrices. "factors": the X, Y and Z of every width. The
    other letters: S = R, M = D, H = D / 64, K = 64, L the layers, P the matrices of a layer, Q = R (R + 1) / 2."""
    forms = {
        name: {
            "label": method.label,
            "blocks": 0 if method.on_matrices else len(method.targets),
            "arrays": [{"letters": arg.letters, "shared": arg.base in method.shared} for arg in method.trained_args],
        }
        for name, method in METHODS.items()
    }
    factors = {D: [METHODS["soda"].sizes(Site("", D, D, 1))[letter] for letter in "XYZ"] for D in WIDTHS}
    return {"methods": forms, "factors": factors}


def activations(
    method: str,
    rows: int,
    I: int,
    O: int,
    rank: int,
    dropout: bool = False,
    dx: bool = True,
) -> int:
    """Numbers kept from the forward of one adapted (I, O) matrix for its backward, the weights apart; without
    ``dx`` nothing below it trains."""
    return ACTIVATIONS[method](rows, I, O, rank, bool(dropout), bool(dx))


def encoder_activations(config: EncoderConfig, adapter: AdapterConfig, sequences: int, time: int) -> int:
    """Numbers that by_hand's encoder keeps for the backward of an adapter, without dropout and nothing else trained: a
    layer's q, k, v and attention weights, what its two LayerNorms and GELU keep, and the adapter's own. Layers below
    the lowest adapted one keep nothing."""
    N, D = sequences * time, config.width
    layers = range(config.first, config.layers) if adapter.layers is None else adapter.layers
    # q, k, v;   p;   xhat and 1 / std of two norms;   GELU's slope
    layer = 3 * N * D + sequences * config.heads * time**2 + 2 * (N * D + N) + N * config.hidden
    # the weights of the mean;   tanh's own output
    kept = (config.layers - min(layers)) * layer + (N if config.pool == "mean" else 0) + config.pooler * sequences * D
    kept += sum(activations(adapter.method, N, site.I, site.O, site.R, dx=False) for site in sites(config, adapter))
    # query, key and value read the same x, and what LoRA keeps of it is there once
    readers = len({"query", "key", "value"} & set(adapter.targets))
    if adapter.method == "lora" and readers > 1:
        kept -= (readers - 1) * len(layers) * N * D
    return kept


def textbook_activations(rows: int, O: int, rank: int, dropout: bool = False) -> int:
    """The same for TLoRA written alpha * (x A B C): N R + N O (+ N O), for the product with the trained alpha
    needs the whole update again."""
    return rows * rank + rows * O + (rows * O if dropout else 0)


def forward_flops(method: str, rows: int, I: int, O: int, rank: int) -> int:
    """FLOPs of the matrix products in the forward of one adapted (I, O) matrix."""
    return FORWARD_FLOPS[method](rows, I, O, rank)


def backward_flops(method: str, rows: int, I: int, O: int, rank: int, dx: bool = True) -> int:
    """FLOPs of the matrix products in its backward; without ``dx`` nothing below it trains."""
    return BACKWARD_FLOPS[method](rows, I, O, rank, bool(dx))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def encoder_size(config: EncoderConfig) -> int:
    """V D or (I + 1) D embedding + T D positions + token types + 2 D + L (4 D (D + 1) + 2 D F + F + D + 4 D)
    + D (D + 1) pooler + head, all arrays."""
    D, F, L = config.width, config.hidden, config.layers - config.first
    tokens = config.inputs * D + (0 if config.vocab else D)
    embed = 0 if config.first else tokens + (config.positions + config.types + 2) * D
    layer = 4 * D * (D + 1) + 2 * D * F + F + D + 4 * D
    return embed + L * layer + config.pooler * D * (D + 1) + (D + 1) * config.classes


def count(config: EncoderConfig, adapter: AdapterConfig | None, train_also: Iterable[str] = ()) -> Counts:
    """Counts from the configurations alone; no array is made. ``train_also`` names further trained arrays."""
    shapes = encoder_shapes(config)
    beside = sum(_size(shapes[name]) for name in set(train_also))
    if adapter is None:
        return Counts(base=encoder_size(config), trained=beside, frozen_random=0, optimizer=2 * beside)
    method, where = METHODS[adapter.method], sites(config, adapter)
    n, random = beside + method.size(where, method.trained), method.size(where, method.frozen)
    return Counts(encoder_size(config), n, random, optimizer=2 * n, from_seed=adapter.from_seed)


def held(model: Model) -> Counts:
    """The same figures counted from the arrays of a model."""
    base = set(encoder_shapes(model.config))
    n = sum(model.params[name].size for name in model.trained)
    random = sum(a.size for name, a in model.params.items() if name not in base and name not in model.trained)
    from_seed = model.adapter is None or model.adapter.from_seed
    return Counts(sum(model.params[name].size for name in base), n, random, 2 * n, from_seed)
