"""Which matrices get an adapter, and of which rank: chosen from data before the training.

Papers      GeLoRA: A. Ed-dib et al., arXiv 2412.09250: ranks from how the dimension of the hidden states grows.
            DiffoRA, arXiv 2502.08905: matrices by a gate on each, searched for beside the weights.
Equation    GeLoRA   R_l = max(d_(l+1) - d_l, 0) + 1 rounded up, the same for all matrices of layer l;  d_l the
                     intrinsic dimension of what layer l reads, by TwoNN (Facco et al., arXiv 1803.06992):
                     d = sum ln mu (-ln(1 - F)) / sum (ln mu)^2,   mu = r_2 / r_1 the distances to two neighbours
            DiffoRA  y = x W0 + sigmoid(logit) s x A B on every matrix: A and B trained on one half of the data, the
                     logits on the other, in turns; the ceil(share N) highest gates of each layer then say where LoRA is
Twin        none: both rooms use these functions; ``room`` is the module by_hand or by_autograd.
Checked by  tests/test_allocate.py, where each law also fails for a rule with a planted bug.

    adapter = allocate(by_hand, base, AdapterConfig("lora", allocation="gelora"), inputs, labels)
    model = attach(base, adapter)

What comes out is an AdapterConfig with ``ranks``, which everything else knows already.

Readings. GeLoRA: a sequence is one point, pooled as the encoder pools; the difference of two dimensions is rounded up;
no rank is above what its matrix allows; lora_alpha / rank stays constant, so lora_alpha is not given. DiffoRA is the
least certain of all sources here, known from its abstracts and a summary. That the gate is a sigmoid and starts half
open, that the data are halved, that both steps are of first order and that each layer keeps its share are readings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from .config import AdapterConfig, TrainConfig
from .init import attach
from .model import Model, sites, upper_layers
from .room import Room
from .shapes import InputError
from .training import batches, check_data, check_finite, learning_rate, steps_per_epoch

Array = np.ndarray

MOST_POINTS = 2_000
"""Sequences that GeLoRA looks at: the first of those given."""

SEARCH = TrainConfig(epochs=10, lr=3e-2, no_decay=("logit",))
"""How DiffoRA searches unless told otherwise."""


@dataclass(frozen=True)
class Rule:
    """What a rule chooses of a LoRA, and what it needs for that."""

    label: str
    paper: str
    chooses: str
    needs: str


RULES = {
    "gelora": Rule("GeLoRA", "arXiv 2412.09250", "a rank for each layer", "a pass over data before"),
    "diffora": Rule("DiffoRA", "arXiv 2502.08905", "the same rank on chosen matrices", "a search on data before"),
}


def allocate(
    room: Room,
    model: Model,
    adapter: AdapterConfig,
    inputs: Array,
    labels_N: Array,
    mask_NT: Array | None = None,
    types_NT: Array | None = None,
    search: TrainConfig = SEARCH,
    share: float = 0.5,
    tie_rest: bool = False,
) -> AdapterConfig:
    """The adapter with the ranks that its ``allocation`` gives it on this model and these data, and no allocation left.

    ``search`` is how DiffoRA trains while it chooses, ``share`` the part of each layer's matrices that it keeps; with
    ``tie_rest`` the others are not left out: those of a kind (all queries, ...) share one pair of factors.
    Raises InputError for an adapter without an allocation, a model that has an adapter already, data that do not fit.
    """
    if adapter.allocation is None:
        raise InputError("allocation is None, expected the name of a rule in the adapter's configuration")
    check_data(model, inputs, labels_N, mask_NT, types_NT)
    plain = replace(adapter, allocation=None)
    if adapter.allocation == "gelora":
        ranks = gelora_ranks(hidden_dimensions(room, model, inputs, mask_NT, types_NT))
        of_layer = dict(zip(range(model.config.first, model.config.layers), ranks, strict=True))
        allowed = {site.name: min(site.I, site.O) for site in sites(model.config, plain)}
        return replace(plain, ranks={name: min(most, of_layer[layer_of(name)]) for name, most in allowed.items()})
    gates = search_gates(room, model, plain, inputs, labels_N, search, mask_NT, types_NT)
    chosen = choose(gates, share)
    if tie_rest:
        return replace(plain, tied=rest_by_kind(gates, chosen))
    return replace(plain, ranks={name: plain.rank_of(name) if name in chosen else 0 for name in gates})


def layer_of(name: str) -> int:
    """The layer of a matrix: 3 of ``layers.3.query``."""
    return int(name.split(".")[1])


# --- GeLoRA ----------------------------------------------------------------------------------------


def two_nn(points_ND: Array, left_out: float = 0.1) -> float:
    """The intrinsic dimension of points (N, D), from the ratios of the distances to the nearest and the next one: the
    slope, through the origin, of -ln(1 - F) over ln mu, F the share of ratios up to mu. Equal points count once, and
    the largest ratios, a share of ``left_out``, not at all.

    Raises InputError for fewer than three different points, or where all neighbours are equally far.
    """
    points_ND = np.unique(np.asarray(points_ND, dtype=np.float64), axis=0)
    n = len(points_ND)
    if n < 3:
        raise InputError(f"{n} different points have no intrinsic dimension, expected at least 3")
    distances_NN = cdist(points_ND, points_ND)
    np.fill_diagonal(distances_NN, np.inf)
    nearest_N2 = np.partition(distances_NN, 1, axis=1)[:, :2]
    log_mu_N = np.sort(np.log(nearest_N2[:, 1] / nearest_N2[:, 0]))
    kept = max(2, int(n * (1 - left_out)))
    x, y = log_mu_N[:kept], -np.log1p(-np.arange(1, kept + 1) / n)[:kept]
    if not x.any():
        raise InputError("the two nearest neighbours of all points are equally far: their dimension cannot be told")
    return float((x @ y) / (x @ x))


def hidden_dimensions(
    room: Room, model: Model, inputs: Array, mask_NT: Array | None = None, types_NT: Array | None = None
) -> list[float]:
    """The intrinsic dimension of what each layer held reads, and last of what the top one gives."""
    inputs, mask_NT, types_NT = (None if a is None else a[:MOST_POINTS] for a in (inputs, mask_NT, types_NT))
    first, layers = model.config.first, model.config.layers
    states = room.hidden_states(model, inputs, mask_NT, types_NT, first)
    found = [two_nn(pooled(model, states, mask_NT))]
    for layer in range(first, layers):
        # one layer at a time: what it gives is what the next one reads
        upper, read, types = (model, inputs, types_NT) if layer == first else (upper_layers(model, layer), states, None)
        states = room.hidden_states(upper, read, mask_NT, types, layer + 1 if layer + 1 < layers else None)
        found.append(two_nn(pooled(model, states, mask_NT)))
    return found


def pooled(model: Model, states_NTD: Any, mask_NT: Array | None) -> Array:
    """One point a sequence (N, D), a NumPy array: the first token, or the mean over the real ones."""
    if not isinstance(states_NTD, np.ndarray):  # a tensor, wherever it is
        states_NTD = states_NTD.cpu().double().numpy()
    if model.config.pool == "first":
        return states_NTD[:, 0]
    weight_NT = np.ones(states_NTD.shape[:2]) if mask_NT is None else mask_NT.astype(np.float64)
    return (weight_NT[:, :, None] * states_NTD).sum(axis=1) / weight_NT.sum(axis=1, keepdims=True)


def gelora_ranks(dimensions: Sequence[float]) -> list[int]:
    """R_l = max(d_(l+1) - d_l, 0) + 1, the difference rounded up: one rank a layer from one dimension more."""
    return [ceil(max(above - below, 0)) + 1 for below, above in pairwise(dimensions)]


# --- DiffoRA ---------------------------------------------------------------------------------------


def search_gates(
    room: Room,
    model: Model,
    adapter: AdapterConfig,
    inputs: Array,
    labels_N: Array,
    config: TrainConfig = SEARCH,
    mask_NT: Array | None = None,
    types_NT: Array | None = None,
) -> dict[str, float]:
    """The gate in (0, 1) of every matrix, by its full name, after the search.

    Each step moves A and B along the gradient of a batch of one half of the data, and then the logits along that of a
    batch of the other half, both with AdamW.
    """
    model = room.own(attach(room.to_numpy(model), replace(adapter, method="lora_gated")), like=model)
    optimizer, n = room.OPTIMIZERS["adamw"], len(labels_N)
    logits = {name for name in model.trained if name.endswith(".logit")}
    halves = np.array_split(np.random.default_rng([config.seed, 2]).permutation(n), 2)
    sides = []
    for names, half in ((sorted(model.trained - logits), halves[0]), (sorted(logits), halves[1])):
        state = optimizer.init({name: model.params[name] for name in names}, config)
        sides.append((names, state, _endless(half, config)))
    steps = config.epochs * steps_per_epoch(len(halves[0]), config)
    for step in range(steps):
        rate = learning_rate(step, steps, config)
        for names, state, draws in sides:
            chosen = next(draws)
            mask, types = (None if a is None else a[chosen] for a in (mask_NT, types_NT))
            turn = model.training(names)
            loss, grads, outputs = room.loss_and_grads(turn, inputs[chosen], labels_N[chosen], mask, None, types)
            params = {name: model.params[name] for name in names}
            check_finite(step, rate, params, outputs, loss, grads)
            model = model.with_params(optimizer.step(params, grads, state, rate, config))
    found = room.to_numpy(model).params
    return {site: float((1 + np.tanh(found[f"{site}.logit"] / 2)) / 2) for site in model.adapted}


def _endless(half: Array, config: TrainConfig) -> Iterator[Array]:
    """Batches of a half of the data, epoch after epoch."""
    while True:
        for chosen in batches(len(half), config):
            yield half[chosen]


def rest_by_kind(names: Iterable[str], chosen: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """The matrices that are not chosen, by kind, where there are two of a kind or more."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        if name not in chosen:
            kinds.setdefault(name.rpartition(".")[2], []).append(name)
    return tuple(tuple(group) for group in kinds.values() if len(group) > 1)


def choose(gates: Mapping[str, float], share: float) -> set[str]:
    """The ceil(share N) matrices of the highest gates in each layer, N the matrices of that layer; of equal gates the
    first ones. Raises InputError for a share outside (0, 1]."""
    if not 0 < share <= 1:
        raise InputError(f"share is {share!r}, expected a number in (0, 1]")
    rows: dict[int, list[str]] = {}
    for name in gates:
        rows.setdefault(layer_of(name), []).append(name)
    chosen = set()
    for names in rows.values():
        # 0.7 * 10 is 7.000000000000001 in floating point
        kept = ceil(round(share * len(names), 9))
        chosen |= set(sorted(names, key=lambda name: -gates[name])[:kept])
    return chosen
