"""A trained adapter as a LoRA that Hugging Face PEFT loads.

Equation    dW = alpha A B C has rank r, so a TLoRA layer is a LoRA layer:  down = A,  up = alpha B C,
            scaling lora_alpha / r = 1; and so for every method with dW = A (...). Exact in algebra; ``up`` is
            computed in float64 and rounded once. DoRA and EDoRA rescale the columns of W0 and are no LoRA;
            Adapter-H and -P have no dW at all.
Checked by  tests/test_export.py, with the real PEFT and transformers.

PEFT stores (out, in): lora_A.weight is down^T (r, I), lora_B.weight is up^T (O, r). The exported LoRA has no
dropout: LoRA drops entries of x, TLoRA drops entries of the update, and evaluation knows neither.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from .adapter_file import Adapter
from .by_hand.methods import METHODS
from .files import write_folder
from .model import Model
from .shapes import InputError


def export_lora(model: Any, directory: str | Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors for ``PeftModel.from_pretrained(base, directory)``.

    model: a torch model with adapters, a Model, or an Adapter read from a file. What was trained beside the
    adapter goes into PEFT's modules_to_save, which holds whole modules.

    Raises InputError, and writes nothing, if the directory exists and is not empty, for a method that is no LoRA, if
    a module was trained only in part, or if it is not known which module a trained array belongs to.
    """
    adapter = model if isinstance(model, Adapter) else _adapter_of(model)
    tensors = lora_tensors(adapter) | {f"base_model.model.{name}": _widen(a) for name, a in adapter.also.items()}
    config = peft_config(adapter)
    files = {
        "adapter_config.json": json.dumps(config, indent=2) + "\n",
        "adapter_model.safetensors": safetensors.numpy.save(tensors, {"format": "pt"}),
    }
    write_folder(Path(directory), files)


def _adapter_of(model: Any) -> Adapter:
    """A Model of NumPy arrays is by_hand's, everything else by_autograd's."""
    if isinstance(model, Model) and isinstance(model.params["head.W"], np.ndarray):
        from .by_hand.adapter_io import adapter_of
    else:
        from .by_autograd.adapter_io import adapter_of
    return adapter_of(model)


def lora_tensors(adapter: Adapter) -> dict[str, np.ndarray]:
    """PEFT's tensors by their names in its file. Raises InputError for a method whose dW is no product A (...)."""
    config, method, tensors = adapter.config, METHODS[adapter.config.method], {}
    if not method.mergeable:
        raise InputError(f"{config.method} is no LoRA: what it adds is not linear in x, so there is no W' - W0 at all")
    if not method.additive:
        reason = "it rescales the columns of W0, so " if method.rescales else ""
        raise InputError(f"{config.method} is no LoRA: {reason}its W' - W0 is not a matrix of rank r")
    for name, matrix in adapter.matrices.items():
        arrays = {arg.base: adapter.arrays[method.full_name(name, arg.base)] for arg in method.arrays}
        site = config.site(name, *matrix.shape)
        given = method.arguments(arrays, site) | dict.fromkeys(method.constants, config.scale_at(site.R))
        dtype = given["A_IR"].dtype
        exact = {key: a.astype(np.float64) if isinstance(a, np.ndarray) else a for key, a in given.items()}
        O, R = site.O, site.R
        # dW = A (...) is linear in A: what stands behind A is dW with the identity for A
        down_IR, up_RO = exact["A_IR"], method.delta_w(np.zeros((R, O)), **exact | {"A_IR": np.eye(R)})
        for local, factor in (("lora_A", down_IR), ("lora_B", up_RO)):
            tensors[f"base_model.model.{name}.{local}.weight"] = np.asarray(factor.T.astype(dtype), order="C")
    return tensors


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """A stock LoraConfig. target_modules is a regular expression of full names: PEFT takes the names of a list
    as suffixes, which could match a module that was not adapted."""
    names = "|".join(re.escape(name) for name in adapter.matrices)
    others = {re.escape(name): R for name, R in adapter.config.ranks if R not in (0, adapter.config.rank)}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": adapter.config.rank,
        "lora_alpha": adapter.config.rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": adapter.conv1d,
        "target_modules": f"(?:{names})",
        "modules_to_save": _whole_modules(adapter) or None,
    }


def _whole_modules(adapter: Adapter) -> list[str]:
    held = {f"{owner}.{local}": owner for owner, names in adapter.owners.items() for local in names}
    unknown = sorted(set(adapter.also) - set(held))
    if unknown:
        raise InputError(f"{unknown[0]} was trained, and PEFT saves whole modules: the module it is in is not known")
    partly = sorted(set(held) - set(adapter.also))
    if partly:
        raise InputError(f"PEFT saves whole modules, and of {held[partly[0]]} only a part was trained: {partly[0]} not")
    return sorted(o for o in adapter.owners if not any(o.startswith(f"{other}.") for other in adapter.owners))


def _widen(array: np.ndarray) -> np.ndarray:
    """bfloat16 is stored as its bits (adapter_file.py): as float32, exactly. Everything else stays."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array
