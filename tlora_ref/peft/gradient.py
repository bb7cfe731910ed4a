"""A and C from a gradient, for adapters with ``init_weights="gradient"``: what ``inject(..., init="gradient")`` makes.

    model = get_peft_model(model, TLoraConfig(r=8, target_modules=["query", "value"], init_weights="gradient"))
    print(initialize_tlora_gradient_weights(model, batches))     # the sizes, with A and C among what is stored

Equation    A and C along the singular vectors of D = dL/dW0, as by_autograd/gradient_factors.py finds them.
Source      arXiv 2411.19557 (LoRA-SB); factors.py has the others. The call comes after get_peft_model, as PEFT's
            initialize_lora_eva_weights (arXiv 2410.07170) does and its preprocess_loraga does not: by then PEFT has
            chosen the layers and their ranks, and a model that already has adapters can be given another.
Checked by  tests/test_peft.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..by_autograd.gradient_factors import Loss, gradient_arrays
from ..by_autograd.inject import Report
from ..config import AdapterConfig
from ..counts import Counts
from ..shapes import InputError
from .config import GRADIENT
from .layer import TLoraLayer
from .model import TLoraModel, layers_of


def initialize_tlora_gradient_weights(
    model: nn.Module, batches: Iterable[Any], loss: Loss | None = None, adapter_name: str = "default"
) -> Report:
    """Give an adapter with ``init_weights="gradient"`` its A and C, in place, and say what it trains and stores.

    model         of get_peft_model or inject_adapter_in_model
    batches       the examples whose gradient is taken, a batch at a time as ``loss`` takes it
    loss          (model, batch) -> a scalar; None: ``model(**batch).loss``
    adapter_name  the adapter, which is the one that is active

    The gradient is that of W0 in evaluation mode, without any adapter; modules_to_save take part. Raises InputError,
    and leaves the model as it was, for an adapter that the model does not have, that starts in another way, has been
    trained or is not active alone, for merged layers, for no batch, and for a loss that does not depend on a layer.
    """
    layers = {layer.site[adapter_name].name: layer for layer in layers_of(model, adapter_name).values()}
    _check(layers, adapter_name)
    config = next(iter(layers.values())).adapter[adapter_name]
    ranks = {name: layer.site[adapter_name].R for name, layer in layers.items()}
    config = replace(config, ranks=tuple((name, R) for name, R in ranks.items() if config.rank != R))
    bases = {name: layer.get_base_layer() for name, layer in layers.items()}
    with _without_adapters(model):
        arrays = gradient_arrays(model, bases, config, batches, loss)
    for name, layer in layers.items():
        A_IR, C_RO = (torch.from_numpy(arrays[f"{name}.{local}"]) for local in ("A", "C"))
        layer.give(adapter_name, A_IR, C_RO)
    return _report(model, layers, config, adapter_name)


def _check(layers: Mapping[str, TLoraLayer], adapter_name: str) -> None:
    if not layers:
        raise InputError(f"the model has no TLoRA adapter {adapter_name!r}")
    for name, layer in layers.items():
        init, B_RR = layer.adapter[adapter_name].init, layer.tlora_B[adapter_name]
        if init != GRADIENT:
            raise InputError(f"the adapter {adapter_name} has init_weights {init!r}, expected {GRADIENT!r}")
        if layer.active_adapters != [adapter_name]:
            active = ", ".join(layer.active_adapters) or "no adapter"
            raise InputError(
                f"active on {name} is {active}, expected {adapter_name} alone: the loss depends on what is trained "
                "beside an adapter, and set_adapter says beside which"
            )
        if layer.merged:
            raise InputError(f"{name} is merged, and its gradient would not be that of W0: unmerge_adapter first")
        if not B_RR.is_meta and B_RR.any():
            raise InputError(f"B of {name} is not 0: between another A and C a trained adapter would be lost")


@contextmanager
def _without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, every adapted layer computes what its base does. PEFT's disable_adapter would take the trained modules
    beside the adapters away as well."""
    layers = [module for module in model.modules() if isinstance(module, TLoraLayer)]
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def _report(model: nn.Module, layers: Mapping[str, TLoraLayer], config: AdapterConfig, adapter_name: str) -> Report:
    """The report of ``inject`` on this adapter."""
    parameters = dict(model.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    base = [p for name, p in parameters.items() if not _is_added(name)]
    frozen = [held[adapter_name] for layer in layers.values() for held in (layer.tlora_A, layer.tlora_C)]
    n, n_bytes = _size(trained.values())
    stored, stored_bytes = _size(frozen)
    return Report(
        adapter=config,
        matrices={name: (layer.in_features, layer.out_features) for name, layer in layers.items()},
        also=tuple(_in_the_base(name, adapter_name) for name in trained if TLoraModel.prefix not in name),
        counts=Counts(_size(base)[0], n, stored, 2 * n, from_seed=False),
        stored_bytes=n_bytes + stored_bytes,
        optimizer_bytes=2 * n_bytes,
    )


def _size(tensors: Iterable[torch.Tensor]) -> tuple[int, int]:
    """How many numbers, and their bytes."""
    held = list(tensors)
    return sum(t.numel() for t in held), sum(t.numel() * t.element_size() for t in held)


def _is_added(name: str) -> bool:
    """Is a parameter of this name an adapter's, or a copy that trains in the place of the base's own?"""
    return TLoraModel.prefix in name or ".modules_to_save." in name


def _in_the_base(name: str, adapter_name: str) -> str:
    """A parameter's name in the base model."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return name.replace(f".modules_to_save.{adapter_name}.", ".")
