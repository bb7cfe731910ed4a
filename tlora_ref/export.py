"""A trained adapter as a LoRA that Hugging Face PEFT loads.

Equation    dW = alpha A B C has rank r, so a TLoRA layer is a LoRA layer:  down = A,  up = alpha B C,
            scaling lora_alpha / r = 1; and so for every method with dW = A (...). Exact in algebra; ``up`` is
            computed in float64 and rounded once. DoRA and EDoRA, V * m / n with V = W0 + A (...), become PEFT's
            DoRA: the same two factors, and m as its magnitude. Adapter-H and -P have no dW at all.
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
from numpy.linalg import multi_dot

from .adapter_file import Adapter
from .by_hand.methods import METHODS
from .config import NOT_FROM_SEED
from .files import write_folder
from .model import Model
from .peft_folder import config_of, tensors_of
from .shapes import InputError

TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""PEFT's word for what a model of transformers does, by the end of its class's name."""


HEADED, HEADS = ("SEQ_CLS", "TOKEN_CLS"), ("classifier.", "score.")
"""Tasks for which PEFT takes a whole head of one of these names from the file, without being told."""


def export_lora(model: Any, directory: str | Path, base: str | None = None, task_type: str | None = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors for ``PeftModel.from_pretrained(base, directory)``.

    model: a torch model with adapters, a Model, or an Adapter read from a file. What was trained beside the
    adapter goes into PEFT's modules_to_save, which holds whole modules.
    base, task_type: the folder or name of the base model and one of TASKS' values, by which PEFT's AutoPeftModel finds
    the base. None: what a model of transformers says of itself.

    Raises InputError, and writes nothing, if the directory exists and is not empty, for a method that is no LoRA, if
    a module was trained only in part, if it is not known which module a trained array belongs to, or for a task_type
    that is none.
    """
    if task_type is not None and task_type not in TASKS.values():
        raise InputError(f"task_type is {task_type!r}, expected one of {', '.join(sorted(set(TASKS.values())))}")
    adapter = model if isinstance(model, Adapter) else _adapter_of(model)
    says = getattr(model, "config", None)
    task = task_type or _task_of(model, adapter)
    config = peft_config(adapter, task) | {
        "base_model_name_or_path": base or getattr(says, "_name_or_path", None) or None,
    }
    _write(directory, adapter, lora_tensors(adapter), config)


def export_tlora(model: Any, directory: str | Path, save_projection: bool = False) -> None:
    """Write the adapter as TLoRA, for ``PeftModel.from_pretrained(base, directory)`` after ``import tlora_ref.peft``.

    model           a torch model with adapters, a Model, or an Adapter read from a file
    save_projection  keep A and C in the folder; without, their fingerprints. What no seed draws is always kept

    Raises InputError, and writes nothing, as ``export_lora`` does, for another method than TLoRA, and without
    ``save_projection`` for an A or C that is not what the seed draws.
    """
    adapter = model if isinstance(model, Adapter) else _adapter_of(model)
    save_projection = save_projection or adapter.config.init in NOT_FROM_SEED
    tensors = tensors_of(adapter, save_projection)
    _write(directory, adapter, tensors, config_of(adapter, _whole_modules(adapter), save_projection))


def _write(directory: str | Path, adapter: Adapter, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    tensors = tensors | {f"base_model.model.{name}": _widen(a) for name, a in adapter.also.items()}
    files = {
        "adapter_config.json": json.dumps(config, indent=2) + "\n",
        "adapter_model.safetensors": safetensors.numpy.save(tensors, {"format": "pt"}),
    }
    write_folder(Path(directory), files)


def _task_of(model: Any, adapter: Adapter) -> str | None:
    """What the class of a model of transformers is for; None where PEFT would look for a head that was not trained, and
    for what does not read ids of tokens, which PEFT's classes for tasks pass on."""
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        return None
    task = next((task for end, task in TASKS.items() if type(model).__name__.endswith(end)), None)
    if task not in HEADED:
        return task
    heads = [name for name, _ in model.named_parameters() if name.startswith(HEADS)]
    return task if heads and set(heads) <= set(adapter.also) else None


def _adapter_of(model: Any) -> Adapter:
    """A Model of NumPy arrays is by_hand's, everything else by_autograd's."""
    if isinstance(model, Model) and isinstance(model.params["head.W"], np.ndarray):
        from .by_hand.adapter_io import adapter_of
    else:
        from .by_autograd.adapter_io import adapter_of
    return adapter_of(model)


def lora_tensors(adapter: Adapter) -> dict[str, np.ndarray]:
    """PEFT's tensors by their names in its file. Raises InputError for a method that adds no product A (...) to W0."""
    config, method, tensors = adapter.config, METHODS[adapter.config.method], {}
    if not method.mergeable:
        raise InputError(f"{config.method} is no LoRA: what it adds is not linear in x, so there is no W' - W0 at all")
    if not (method.additive or method.rescales):
        raise InputError(f"{config.method} is no LoRA: its W' - W0 is not a matrix of rank r")
    for name, matrix in adapter.matrices.items():
        arrays = {arg.base: adapter.arrays[method.full_name(config.home(name), arg.base)] for arg in method.arrays}
        site = config.site(name, *matrix.shape)
        given = method.arguments(arrays, site) | dict.fromkeys(method.constants, config.scale_at(site.R))
        dtype = given["A_IR"].dtype
        exact = {key: a.astype(np.float64) if isinstance(a, np.ndarray) else a for key, a in given.items()}
        O, R = site.O, site.R
        if method.rescales:
            # V = W0 + s A B, or s A M C
            behind = [arg.name for arg in method.kernel.args if arg.name in exact and len(arg.letters) == 2]
            up_RO = exact["scale"] * multi_dot([np.eye(R), *(exact[factor] for factor in behind if factor != "A_IR")])
            tensors[f"base_model.model.{name}.lora_magnitude_vector"] = exact["magnitude_O"].astype(dtype)
        else:
            # dW = A (...) is linear in A: what stands behind A is dW with the identity for A
            up_RO = method.delta_w(np.zeros((R, O)), **exact | {"A_IR": np.eye(R)})
        for local, factor in (("lora_A", exact["A_IR"]), ("lora_B", up_RO)):
            tensors[f"base_model.model.{name}.{local}.weight"] = np.asarray(factor.T.astype(dtype), order="C")
    return tensors


def peft_config(adapter: Adapter, task_type: str | None = None) -> dict[str, Any]:
    """A stock LoraConfig, with use_dora where the method is one. target_modules is a regular expression of full names:
    PEFT takes the names of a list as suffixes, which could match a module that was not adapted. Raises InputError for a
    task whose head was not trained."""
    names = "|".join(re.escape(name) for name in adapter.matrices)
    whole = _whole_modules(adapter)
    if task_type in HEADED:
        if not any(name.startswith(HEADS) for name in adapter.also):
            raise InputError(f"PEFT takes the head of a {task_type} model from the file, and none was trained")
        whole = [name for name in whole if not f"{name}.".startswith(HEADS)]
    others = {re.escape(name): R for name, R in adapter.config.ranks if R not in (0, adapter.config.rank)}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": adapter.config.rank,
        "lora_alpha": adapter.config.rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": METHODS[adapter.config.method].rescales,
        "fan_in_fan_out": adapter.conv1d,
        "target_modules": f"(?:{names})",
        "modules_to_save": whole or None,
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
