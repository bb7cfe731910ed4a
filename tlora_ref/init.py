"""A fresh encoder, and an adapter attached to one or taken off again. Both rooms start from these arrays.

How each method's arrays start stands on its page, by_hand/methods/; the seeded draws are draws.py's.

Checked by  tests/test_init.py, tests/test_family.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np

from .by_hand.methods import METHODS
from .by_hand.methods.tlora import tlora_start
from .config import AdapterConfig, EncoderConfig
from .draws import normal
from .methods import SHARED, Site
from .model import Model, encoder_shapes, sites, trained_names, with_heads
from .shapes import InputError

Array = np.ndarray


def shared_arrays(where: Sequence[Site], adapter: AdapterConfig) -> dict[str, Array]:
    """The arrays that all matrices share, by local name: {} for methods that share none."""
    draw = METHODS[adapter.method].draw_shared
    return {} if draw is None else draw(where, adapter)


def init_encoder(config: EncoderConfig, seed: int = 0, dtype: type = np.float32) -> Model:
    """A fresh encoder, all of it trained: weights N(0, 1 / fan_in), embeddings of ids, positions and token
    types N(0, 0.02^2), biases 0, gamma 1."""
    params: dict[str, Array] = {}
    for name, shape in encoder_shapes(config).items():
        local = name.rpartition(".")[2]
        if local == "gamma":
            array = np.ones(shape)
        elif local in ("b", "beta"):
            array = np.zeros(shape)
        else:
            embeds = name in ("position.W", "type.W") or (name == "embed.W" and config.vocab is not None)
            array = normal(seed, name, shape, 0.02 if embeds else 1 / sqrt(shape[0]))
        params[name] = array.astype(dtype)
    return Model(config, params, trained=frozenset(params))


def attach(
    model: Model,
    adapter: AdapterConfig,
    train_also: Collection[str] = (),
    factors: Mapping[str, tuple[Array, Array]] | None = None,
) -> Model:
    """The model with a fresh adapter beside the chosen matrices; only the adapter's trained arrays and
    ``train_also`` (names of the model's arrays) train from here on. The given model is left as it is.

    ``factors``: A and C by matrix for init "gradient", from by_hand.gradient_factors. Raises InputError for an unknown
    target or layer, a rank above min(I, O), a second adapter, factors that are missing or that no rule asks for.
    """
    if model.adapter is not None:
        raise InputError(
            f"the model already has a {model.adapter.method} adapter; fold it into the weights with merging.fold, "
            "or detach it"
        )
    adapter = with_heads(model.config, adapter)
    where, draw = sites(model.config, adapter), METHODS[adapter.method].draw
    check_factors(where, adapter, factors)
    arrays = {f"{SHARED}.{base}": array for base, array in shared_arrays(where, adapter).items()}
    for site in (site for site in where if site.own):
        # a block has no weight beneath it
        W0_IO = model.params.get(f"{site.name}.W", np.broadcast_to(0.0, (site.I, site.O)))
        of_site = tlora_start(*factors[site.name]) if factors is not None else draw(site, W0_IO, adapter)
        arrays |= {f"{site.name}.{base}": array for base, array in of_site.items()}
    dtype = model.params["head.W"].dtype
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    unknown = sorted(set(train_also) - set(model.params))
    if unknown:
        raise InputError(f"train_also names {unknown[0]!r}, which the model does not have")
    return replace(
        model,
        params={**model.params, **arrays},
        trained=trained_names(model.config, adapter) | frozenset(train_also),
        adapter=adapter,
    )


def check_factors(
    where: Sequence[Site], adapter: AdapterConfig, factors: Mapping[str, tuple[Array, Array]] | None
) -> None:
    """Raise InputError unless there is a pair A, C for every matrix just if the rule is "gradient"."""
    if factors is None:
        return  # whether there should be some, the draw knows
    if adapter.init != "gradient":
        raise InputError(f"factors are given and init is {adapter.init!r}, expected 'gradient'")
    for site in where:
        given = tuple(array.shape for array in factors.get(site.name, ()))
        if given != ((site.I, site.R), (site.R, site.O)):
            raise InputError(
                f"the factors of {site.name} have shapes {given}, expected {((site.I, site.R), (site.R, site.O))}"
            )


def detach(model: Model) -> Model:
    """The base as it was before ``attach``, with nothing trained."""
    if model.merged:
        raise InputError("the adapter is merged; unmerge it before detaching")
    params: Mapping[str, Array] = {n: model.params[n] for n in encoder_shapes(model.config)}
    return Model(model.config, params)
