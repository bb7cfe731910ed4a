"""Where TLoRA's adapters go in a model, what their file holds, and the weighted sum of several.

File        peft_folder.py has the format.
Checked by  tests/test_peft.py.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    AuxiliaryTrainingWrapper,
    resolve_quantization_backend,
)
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..by_autograd.linear import DTYPES, FUSED, adapter_dtype
from ..peft_folder import PREFIX
from ..shapes import InputError
from .config import TLoraConfig
from .layer import Linear, TLoraLayer

MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
READ_BY_MAMBA = ("out_proj", "x_proj", "dt_proj")
"""Layers of these architectures where an adapter does nothing, on a GPU or everywhere; PEFT refuses the first for LoRA
as well."""


class TLoraModel(BaseTuner):
    """The tuner of TLoRA, which get_peft_model and PeftModel.from_pretrained make."""

    prefix = "tlora_"
    tuner_layer_cls = TLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        tlora_config: TLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        name = current_key.replace("_orig_mod.", "")  # of torch.compile
        ranks = tlora_config.rank_pattern
        r = ranks.get(get_pattern_key(list(ranks), name), tlora_config.r)
        if isinstance(target, TLoraLayer):
            target.update_layer(adapter_name, name, r, tlora_config)
            return
        check_target(name, target, parent)
        self._replace_module(parent, target_name, Linear(target, adapter_name, name, r, tlora_config), target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own goes on to give the new module the child's weight, which a trained head of several layers lacks;
        # an adapter was made on the base's device, and a base taken out has its weight
        setattr(parent, child_name, new_module)

    def _check_target_module_compatiblity(self, peft_config: TLoraConfig, model: nn.Module, target_name: str) -> None:
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind in MAMBA and target_name in READ_BY_MAMBA:
            raise InputError(f"{kind}'s kernels read the weight of {target_name} without calling it: exclude_modules")

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Float32 beside a base of 16 bits, or with ``autocast_adapter_dtype=False`` the base's own dtype."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for layer in layers_of(self, adapter_name).values():
            dtype = layer.get_base_layer().weight.dtype
            layer.cast(adapter_name, adapter_dtype(dtype) if autocast_adapter_dtype else dtype)

    # --- files -------------------------------------------------------------------------------------

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: TLoraConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """Without A and C their fingerprints, which say that the seed draws them. Raises InputError where it does not,
        and where A and C have not been given yet."""
        held = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        for name, layer in layers_of(model, adapter_name).items():
            layer.arrays(adapter_name)
            if not config.save_projection:
                for local in ("A", "C"):
                    held.pop(f"{name}.tlora_{local}.{adapter_name}", None)
                held[f"{name}.tlora_mark.{adapter_name}"] = layer.mark(adapter_name)
        return held

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: TLoraConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """A and C where the file lacks them. Raises InputError if they are not those that it was trained with."""
        held = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        unmarked = []
        for name, layer in layers_of(model, adapter_name).items():
            mark = held.pop(f"{name}.tlora_mark", held.pop(f"{PREFIX}{name}.tlora_mark", None))
            keys = {local: f"{name}.tlora_{local}.{adapter_name}" for local in ("A", "C")}
            if all(key in held for key in keys.values()):
                continue
            site = layer.site[adapter_name]
            if not layer.adapter[adapter_name].from_seed:
                raise InputError(
                    f"the file lacks A and C of {site.name}, which are from a gradient: no seed draws them"
                )
            if mark is None:
                unmarked.append(site.name)
            elif not torch.equal(mark.cpu(), layer.marks[adapter_name]):
                raise InputError(
                    f"A and C of {site.name}, drawn from projection_prng_key {config.projection_prng_key}, are not "
                    "those that the adapter was trained with: its key, init_weights, rank or module's name was "
                    "another, or this NumPy draws other numbers; save_projection=True keeps A and C in the file"
                )
            A, C = layer.tlora_A[adapter_name], layer.tlora_C[adapter_name]
            if A.is_meta:
                start = layer.draw(adapter_name)
                A, C = (torch.tensor(start[local], dtype=A.dtype) for local in ("A", "C"))
            held |= {keys["A"]: A, keys["C"]: C}
        if unmarked:
            warnings.warn(
                f"The adapter of {unmarked[0]} (of {len(unmarked)} modules) comes without A and C and without their "
                f"fingerprints: they are drawn from projection_prng_key {config.projection_prng_key}, unchecked.",
                stacklevel=2,
            )
        return held

    # --- several adapters --------------------------------------------------------------------------

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Inside, every adapted layer is told ``adapter_names``, an adapter for each row of the batch."""
        names = kwargs.get("adapter_names")
        if kwargs.get("alora_offsets") is not None:
            raise InputError("alora_offsets are for aLoRA, and TLoRA has no activation tokens")
        if names is None:
            yield
            return
        if self.training:
            raise InputError("Cannot pass `adapter_names` when the model is in training mode.")
        if isinstance(kwargs.get("num_beams"), int) and kwargs["num_beams"] > 1:
            raise InputError("Cannot pass `adapter_names` with beam search, which multiplies the rows of the batch.")
        unknown = sorted(set(names) - {"__base__"} - set(self.peft_config))
        if unknown:
            raise InputError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}")
        told = (TLoraLayer, AuxiliaryTrainingWrapper)
        hook = partial(_tell, adapter_names=list(names))
        handles = [
            module.register_forward_pre_hook(hook, with_kwargs=True)
            for module in self.modules()
            if isinstance(module, told)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str, combination_type: str = "linear"
    ) -> None:
        """A new adapter whose dW is the weighted sum of the given ones' dW, exactly: B = sum of weight alpha B.

        Raises InputError, with nothing changed, unless the adapters share A and C, that is have one
        projection_prng_key, init_weights and rank on each matrix: the sum of two A B C with different A and C is of
        another form. Modules and biases that were trained beside the adapters are no differences to a base, and have no
        sum.
        """
        if combination_type != "linear":
            raise InputError(
                f"combination_type is {combination_type!r}, expected 'linear', which is exact: the others build new A "
                "and C, and TLoRA's are drawn from a seed (convert_to_lora makes LoRAs of the adapters)"
            )
        if len(adapters) != len(weights) or not adapters:
            raise InputError(f"{len(adapters)} adapters have {len(weights)} weights, expected one for each")
        if adapter_name in self.peft_config:
            raise InputError(f"Adapter {adapter_name} already exists")
        for name in adapters:
            if name not in self.peft_config:
                raise InputError(f"Adapter {name} does not exist")
            if self.peft_config[name].modules_to_save or self.peft_config[name].bias != "none":
                raise InputError(
                    f"Adapter {name} has trained modules or biases beside it, and these have no weighted sum"
                )
        layers = [layer for layer in self.modules() if isinstance(layer, TLoraLayer)]
        held = {layer: [name for name in adapters if name in layer.tlora_B] for layer in layers}
        held = {layer: names for layer, names in held.items() if names}
        for layer, names in held.items():
            A, _, C, _ = layer.arrays(names[0])
            for name in names[1:]:
                A_other, _, C_other, _ = layer.arrays(name)
                if not (torch.equal(A, A_other) and torch.equal(C, C_other)):
                    raise InputError(
                        f"the adapters {names[0]} and {name} have other A and C on {layer.site_name}, expected one "
                        "projection_prng_key, init_weights and rank: else their sum is no A B C"
                    )
        first = self.peft_config[adapters[0]]
        sites = [layer.site[names[0]] for layer, names in held.items()]
        self.peft_config[adapter_name] = replace(
            first,
            target_modules="|".join(re.escape(site.name) for site in sites),
            exclude_modules=None,
            layers_to_transform=None,
            layers_pattern=None,
            rank_pattern={f"^{re.escape(site.name)}": site.R for site in sites if first.r != site.R},
        )
        self.inject_adapter(self.model, adapter_name)
        weight_of = dict(zip(adapters, weights, strict=True))
        with torch.no_grad():
            for layer, names in held.items():
                A, B, C, _ = layer.arrays(names[0])
                layer.cast(adapter_name, B.dtype)
                layer.give(adapter_name, A, C)
                total = sum(weight_of[n] * layer.tlora_alpha[n] * layer.tlora_B[n] for n in names)
                layer.tlora_B[adapter_name].copy_(total)
                layer.tlora_alpha[adapter_name].fill_(1.0)


def _tell(module: nn.Module, args: Any, kwargs: dict[str, Any], adapter_names: list[str]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"adapter_names": adapter_names}


def layers_of(model: nn.Module, adapter_name: str) -> Mapping[str, TLoraLayer]:
    """The layers that have the adapter, by their names in the state_dict (FSDP's wrapper has none there)."""
    return {
        name.removeprefix("_fsdp_wrapped_module."): module
        for name, module in model.named_modules()
        if isinstance(module, TLoraLayer) and adapter_name in module.tlora_B
    }


def check_target(name: str, target: nn.Module, parent: nn.Module) -> None:
    """Raise InputError unless an adapter on this module has an effect that can be computed."""
    if isinstance(target, BaseTunerLayer):
        raise InputError(f"Target module {name} already has an adapter of another method, {type(target).__name__}")
    if not isinstance(target, (nn.Linear, Conv1D)):
        raise InputError(
            f"Target module {name}, a {type(target).__name__}, is not supported: TLoRA adapts `torch.nn.Linear` and "
            "`transformers.pytorch_utils.Conv1D`."
        )
    if target.weight.dtype not in DTYPES or resolve_quantization_backend(target) is not None:
        raise InputError(f"{name} has a quantised weight of {target.weight.dtype}, expected floating point")
    if isinstance(parent, FUSED):
        raise InputError(
            f"{name} lies in a torch.nn.{type(parent).__name__}, which may read its weight without calling it: an "
            "adapter there would do nothing"
        )
