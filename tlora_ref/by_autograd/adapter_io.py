"""An adapter out of a model and into a file, and back: for any torch model that ``inject`` was given, and for a Model
of tensors.

Equation    none: tensors by name. The file is that of adapter_file.py, and both rooms write the same bytes.
Twin        by_hand/adapter_io.py, same names, which also does a Model's part here: its tensors are read as arrays.
Checked by  tests/test_adapter_file.py.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..adapter_file import (
    Adapter,
    Stored,
    array_shapes,
    check_fits,
    check_same,
    check_shapes,
    matrix_beneath,
    naming,
    read_stored,
    unmoved,
    write_adapter,
)
from ..by_hand import adapter_io as by_hand
from ..methods import SHARED
from ..model import Model
from ..peft_folder import PREFIX
from ..peft_folder import adapter_of as adapter_from_peft
from ..shapes import InputError
from ..tensor_file import array_dtype, shown
from .beside import named_tensors
from .inject import adapted, check_unwrapped, is_adapted, named_modules, place, trained_beside
from .linear import AdaptedLinear, adapter_dtype, check_method, is_conv1d, is_linear, weight_IO


def save_adapter(model: nn.Module | Model, path: str | Path, compact: bool = True) -> None:
    """Write the adapter of a model, merged or not.

    compact: leave out the frozen arrays that the seed draws again; those from W0 or a gradient (LoRA-XS, TLoRA's
    init "gradient") are stored all the same. What is trained beside the adapter is stored too. Raises InputError if
    there is no adapter, or if ``compact`` and an array is not what the seed draws. Warns if nothing that starts from
    zero has moved: such an adapter does nothing, and ``verify`` finds out why.
    """
    adapter = adapter_of(model)
    if unmoved(adapter):
        warnings.warn(
            f"the adapter that goes to {path} is as it was drawn and does nothing: was its training reached? "
            "verify(model, batch) says which adapters take part",
            UserWarning,
            stacklevel=2,
        )
    write_adapter(adapter, path, compact)


def load_adapter(model: Any, path: str | Path, check_base: bool = True) -> Any:
    """The model with the adapter of a file: the given torch model, changed in place, or a new Model.

    The model is the base (the file says where the adapter goes), or has an adapter of the same configuration. A folder
    that tlora_ref.peft has written is read too; it does not say which base it belongs to. What is compared with the
    base that the adapter was trained on is every adapted matrix, by its numbers; of biases, of what lies between the
    matrices, and of the rest of the model the file knows nothing. ``check_base=False`` leaves that comparison out for a
    torch model, and takes a base in another dtype, as of a file from training in float32 on a base in bfloat16: shapes
    have to agree.

    Raises AdapterFileError, and leaves the model as it was, for a file that is damaged or does not fit.
    """
    if os.path.isdir(path) and any(Path(path).glob("adapter_*")):
        with naming(path):
            check_unwrapped(model)
            adapter = _of_folder(model, Path(path))
            _check_module(model, adapter, check_base)
            _into_module(model, adapter)
            return model
    stored = read_stored(path)
    with naming(path):
        if isinstance(model, Model):
            return _with_adapter(model, stored)
        check_unwrapped(model)
        _check_module(model, stored, check_base)
        _into_module(model, stored.complete())
        return model


def adapter_of(model: nn.Module | Model) -> Adapter:
    """The adapter that a model holds. Raises InputError if there is none."""
    return by_hand.adapter_of(_as_arrays(model)) if isinstance(model, Model) else _of_module(model)


def _with_adapter(model: Model, stored: Stored) -> Model:
    arrays = _as_arrays(model)
    by_hand.check_adapter(arrays, stored)
    loaded, like = by_hand.with_adapter(arrays, stored.complete()), model.params["head.W"]
    new = {name: tensor_of(a, like) for name, a in loaded.params.items() if a is not arrays.params.get(name)}
    return replace(model, params={**model.params, **new}, trained=loaded.trained, adapter=loaded.adapter)


# --- tensors and arrays --------------------------------------------------------------------------


def array_of(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers as a NumPy array; NumPy has no bfloat16, and gets its bits as uint16."""
    if tensor.is_meta:
        raise InputError("the model is on the meta device: it has shapes and no numbers")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def tensor_of(array: np.ndarray, like: Tensor) -> Tensor:
    """A copy of an array of ``array_of``, on the device of ``like``."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(like.device)
    return torch.from_numpy(array.copy()).to(like.device)


def _as_arrays(model: Model) -> Model:
    if not all(isinstance(tensor, Tensor) for tensor in model.params.values()):
        raise InputError("the model holds NumPy arrays, expected tensors: by_hand takes those")
    params, merged = ({n: array_of(t) for n, t in held.items()} for held in (model.params, model.merged))
    return replace(model, params=params, merged=merged)


# --- any torch model -----------------------------------------------------------------------------


def _of_module(model: nn.Module) -> Adapter:
    check_unwrapped(model)
    layers, modules = adapted(model), named_modules(model)
    config = layers[0].adapter
    for layer in layers:
        layer.check_drawn()
    for layer in layers:
        if modules.get(layer.name) is not layer:
            raise InputError(f"the adapter {layer.name!r} has another name here: give the model that was injected into")
        if layer.adapter != config:
            raise InputError(f"{layer.name} and {layers[0].name} have different configurations, expected one")
        if layer.shared is not layers[0].shared:
            raise InputError(f"{layer.name} and {layers[0].name} have frozen arrays of their own, expected shared ones")
    also = trained_beside(model)
    bases = {id(parameter): layer.name for layer in layers for parameter in layer.base.parameters()}
    for name, parameter in also.items():
        if id(parameter) in bases:
            raise InputError(f"{name} is trained, and an adapter file holds no base: freeze it before saving")
    owners = {owner: tuple(modules[owner].state_dict()) for owner in {n.rpartition(".")[0] for n in also} if owner}
    matrices = {
        layer.name: matrix_beneath((layer.in_features, layer.out_features), array_of(weight_IO(layer.base)))
        for layer in layers
    }
    shapes = array_shapes(config, matrices)
    held = _arrays(layers, shapes)
    return Adapter(
        config=config,
        matrices=matrices,
        # a shared array is as large as the largest of these matrices needs, also when there was a larger one before
        arrays={name: array_of(held[name][tuple(map(slice, shape))]) for name, shape in shapes.items()},
        also={name: array_of(parameter) for name, parameter in also.items()},
        owners=dict(sorted(owners.items())),
        conv1d=any(is_conv1d(layer.base) for layer in layers),
    )


def _arrays(layers: Sequence[AdaptedLinear], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of an adapter by their full names; any layer has those of SHARED."""
    by_name = {SHARED: layers[0]} | {layer.name: layer for layer in layers}
    return {name: by_name[name.rpartition(".")[0]].array(name.rpartition(".")[2]) for name in names}


def _check_module(model: nn.Module, adapter: Adapter, same_base: bool) -> None:
    """Raise InputError unless the model can take the adapter."""
    check_method(adapter.config.method)
    modules = named_modules(model)
    if is_adapted(model):
        layers = {n: m for n, m in modules.items() if isinstance(m, AdaptedLinear) and m.name == n}
        if any(layer.merged_IO is not None for layer in layers.values()):
            raise InputError("the model's adapter is merged; unmerge it before loading")
        for layer in layers.values():
            check_same(adapter, layer.adapter, set(layers), set(trained_beside(model)))
    bases = {name: module.base if isinstance(module, AdaptedLinear) else module for name, module in modules.items()}
    weights = {name: weight_IO(base) for name, base in bases.items() if is_linear(base)}
    tensors = named_tensors(model)
    if same_base:
        check_fits(
            adapter,
            {name: array_of(weights[name]) for name in adapter.matrices if name in weights},
            {name: array_of(tensors[name]) for name in adapter.also if name in tensors},
        )
    else:
        check_shapes(
            adapter,
            {name: tuple(weight.shape) for name, weight in weights.items()},
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        )
    first = next(iter(adapter.matrices))
    for name, array in adapter.arrays.items():
        matrix = name.rpartition(".")[0]
        expected = adapter_dtype(weights[matrix if matrix in adapter.matrices else first].dtype)
        if same_base and f"torch.{array_dtype(array)}" != str(expected):
            raise InputError(f"{name} is {array_dtype(array)}, expected {expected} beside this base")


def _of_folder(model: nn.Module, folder: Path) -> Adapter:
    """The adapter of a folder of PEFT, on a torch model."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = {name: array_of(t) for name, t in load_file(folder / "adapter_model.safetensors").items()}
        names = {key.removeprefix(PREFIX).rpartition(".")[0] for key in tensors}
        modules = {name: module for name, module in named_modules(model).items() if name in names}
        bases = {name: m.base if isinstance(m, AdaptedLinear) else m for name, m in modules.items()}
        linears = {name: base for name, base in bases.items() if is_linear(base)}
        weights = {name: array_of(weight_IO(base)) for name, base in linears.items()}
        adapter = adapter_from_peft(config, tensors, weights, any(map(is_conv1d, linears.values())))
    except InputError:
        raise
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"no whole adapter folder of PEFT ({shown(error)})") from None
    if is_adapted(model):  # the patterns that chose the matrices stand for the same names
        adapter = replace(adapter, config=replace(adapter.config, targets=adapted(model)[0].adapter.targets))
    return adapter


def _into_module(model: nn.Module, adapter: Adapter) -> None:
    """Put an adapter that fits into the model, in place."""
    if not is_adapted(model):
        place(model, list(adapter.matrices), adapter.config, list(adapter.also), adapter.arrays)
    held, tensors = _arrays(adapted(model), adapter.arrays), named_tensors(model)
    with torch.no_grad():
        for name, array in adapter.arrays.items():
            held[name][tuple(map(slice, array.shape))].copy_(tensor_of(array, held[name]))
        for name, array in adapter.also.items():
            tensors[name].copy_(tensor_of(array, tensors[name]))
    for layer in adapted(model):
        layer.undrawn = False
        if layer.shared is not None:
            layer.shared.undrawn = False
