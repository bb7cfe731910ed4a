"""Seeded draws of every weight. Both rooms start from these arrays, so twins start equal.

Equation    released (kaiming_normal_(a = sqrt 5) on A stored (I, R) and C stored (S, O), where torch takes
            the second axis as fan-in):     A ~ N(0, 1 / (3 R)),   C ~ N(0, 1 / (3 O))
            fan_in (the axis summed over):  A ~ N(0, 1 / (3 I)),   C ~ N(0, 1 / (3 S))
            TLoRA: B = 0, alpha = 1.        LoRA: A uniform in +-1 / sqrt(I), B = 0.
Checked by  tests/test_init.py.

Each array has a stream of its own, seeded by (seed, its name): adding, removing or reordering arrays changes
no other draw, and one array can be drawn again without the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from hashlib import sha256
from math import sqrt

import numpy as np

from .config import AdapterConfig, EncoderConfig
from .model import Model, adapted_matrices, encoder_shapes, trained_names
from .shapes import InputError

Array = np.ndarray


def stream(seed: int, name: str) -> np.random.Generator:
    """The random generator of one named array."""
    return np.random.default_rng([seed, *sha256(name.encode()).digest()[:8]])


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Array:
    """float64 draws of N(0, std^2)."""
    return std * stream(seed, name).standard_normal(shape)


def factor_stds(rule: str, I: int, O: int, R: int) -> tuple[float, float]:  # noqa: E741 - the shape letters
    """The standard deviations of TLoRA's A (I, R) and C (R, O) under a rule of config.INITS."""
    fan_A, fan_C = {"released": (R, O), "fan_in": (I, R)}[rule]
    return 1 / sqrt(3 * fan_A), 1 / sqrt(3 * fan_C)


def tlora_arrays(name: str, I: int, O: int, adapter: AdapterConfig) -> dict[str, Array]:  # noqa: E741
    """A (I, R), B (R, R), C (R, O), alpha () of TLoRA (arXiv 2504.18735, section 3) in float64."""
    R = adapter.rank
    std_A, std_C = factor_stds(adapter.init, I, O, R)
    return {
        "A": normal(adapter.seed, f"{name}.A", (I, R), std_A),
        "B": np.zeros((R, R)),
        "C": normal(adapter.seed, f"{name}.C", (R, O), std_C),
        "alpha": np.ones(()),
    }


def lora_arrays(name: str, I: int, O: int, adapter: AdapterConfig) -> dict[str, Array]:  # noqa: E741
    """A (I, R), B (R, O) of LoRA (arXiv 2106.09685) in float64; A as the authors' code draws it."""
    R = adapter.rank
    A_IR = stream(adapter.seed, f"{name}.A").uniform(-1 / sqrt(I), 1 / sqrt(I), (I, R))
    return {"A": A_IR, "B": np.zeros((R, O))}


DRAWS = {"tlora": tlora_arrays, "lora": lora_arrays}


def init_encoder(config: EncoderConfig, seed: int = 0, dtype: type = np.float32) -> Model:
    """A fresh encoder, all of it trained: weights N(0, 1 / fan_in), positions N(0, 0.02^2), biases 0, gamma 1."""
    params = {}
    for name, shape in encoder_shapes(config).items():
        local = name.rpartition(".")[2]
        if local == "gamma":
            array = np.ones(shape)
        elif local in ("b", "beta"):
            array = np.zeros(shape)
        else:
            embeds = name == "position.W" or (name == "embed.W" and config.vocab is not None)
            array = normal(seed, name, shape, 0.02 if embeds else 1 / sqrt(shape[0]))
        params[name] = array.astype(dtype)
    return Model(config, params, trained=frozenset(params))


def attach(model: Model, adapter: AdapterConfig, train_also: Collection[str] = ()) -> Model:
    """The model with a fresh adapter beside the chosen matrices; only the adapter's trained arrays and
    ``train_also`` (names of the model's arrays) train from here on. The given model is left as it is.

    Raises InputError for an unknown target or layer, a rank above min(I, O), a second adapter.
    """
    if model.adapter is not None:
        raise InputError(f"the model already has a {model.adapter.method} adapter; merge or detach it first")
    draw, arrays = DRAWS[adapter.method], {}
    for name, (I, O) in adapted_matrices(model.config, adapter).items():  # noqa: E741
        dtype = model.params[f"{name}.W"].dtype
        arrays.update({f"{name}.{k}": a.astype(dtype) for k, a in draw(name, I, O, adapter).items()})
    unknown = sorted(set(train_also) - set(model.params))
    if unknown:
        raise InputError(f"train_also names {unknown[0]!r}, which the model does not have")
    return replace(
        model,
        params={**model.params, **arrays},
        trained=trained_names(model.config, adapter) | frozenset(train_also),
        adapter=adapter,
    )


def detach(model: Model) -> Model:
    """The base as it was before ``attach``, with nothing trained."""
    if model.merged:
        raise InputError("the adapter is merged; unmerge it before detaching")
    params: Mapping[str, Array] = {n: model.params[n] for n in encoder_shapes(model.config)}
    return Model(model.config, params)
