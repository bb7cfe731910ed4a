"""Adapter files: what training made, without the base. Both rooms write and read the same file.

Format      safetensors. Its metadata holds one entry, "tlora_ref": JSON with
                version    of this format
                adapter    the AdapterConfig: method, rank, targets, layers, dropout, init, seed, ...
                compact    are the frozen arrays (A and C of TLoRA) left out, to be drawn again from the seed? Never
                           for a method that takes them from W0 (LoRA-XS, EDoRA): those files are always full
                matrices   by name: the shape (I, O) and dtype of the base matrix, its fingerprint, and the
                           fingerprint of each frozen array
                shared     the fingerprints of frozen arrays that all matrices share
                also       other arrays that were trained (a classifier head), and of which module
                sha256     over all of the above and every tensor
            Tensors: NAME.B, NAME.alpha, ..., stored (in, out); the arrays of ``also`` under their own names
            and in their own layout. NumPy has no bfloat16: an array of it is stored as its bits, uint16.
Fingerprint sha256 over dtype, shape and the bytes of the array, (in, out), little-endian, C order.
Checked by  tests/test_checkpoint.py.

Nothing is pickled. A save is whole or has not happened; a load is checked to the end before anything changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from .by_hand.methods import METHODS
from .config import AdapterConfig
from .files import write_atomic
from .init import shared_arrays
from .methods import SHARED, Site
from .model import Model, sites, trained_names
from .shapes import InputError, dtype_name

VERSION = 1


class AdapterFileError(InputError):
    """A file that is no whole adapter file, or one that does not belong to the model; the message says why."""


@dataclass(frozen=True)
class Matrix:
    """The base matrix an adapter sits on: its (I, O), its dtype by name, its fingerprint."""

    shape: tuple[int, int]
    dtype: str
    base: str


@dataclass(frozen=True)
class Adapter:
    """An adapter apart from its model, as NumPy arrays."""

    config: AdapterConfig
    matrices: Mapping[str, Matrix]
    arrays: Mapping[str, np.ndarray]  # NAME.B, NAME.alpha, NAME.A, NAME.C for every matrix; shared.A for VeRA's
    also: Mapping[str, np.ndarray] = field(default_factory=dict)  # trained beside the adapter
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the modules of ``also``, with all they hold
    conv1d: bool = False  # does the torch model keep these weights (in, out)?


# --- save and load -------------------------------------------------------------------------------


def save_adapter(model: Any, path: str | Path, compact: bool = True) -> None:
    """Write the adapter of a Model or of a torch model that ``inject`` was given, merged or not.

    compact: leave out the frozen arrays that the seed draws again; those that a method takes from W0 (LoRA-XS,
    EDoRA) are stored all the same. What is trained beside the adapter is stored too. Raises InputError if there
    is no adapter, or if ``compact`` and an array is not what the seed draws.
    """
    write_adapter(adapter_of(model), path, compact)


def load_adapter(model: Any, path: str | Path) -> Any:
    """The model with the adapter of a file: a new Model, or the given torch model, changed in place.

    The model is the base (the file says where the adapter goes), or has an adapter of the same configuration.
    Raises AdapterFileError, and leaves the model as it was, for a file that is damaged or does not fit.
    """
    adapter = read_adapter(path)
    try:
        return (_load_model if isinstance(model, Model) else _load_module)(model, adapter)
    except InputError as error:
        raise AdapterFileError(f"{path}: {error}") from None


def adapter_of(model: Any) -> Adapter:
    """The adapter that a Model or a torch model holds."""
    return _of_model(model) if isinstance(model, Model) else _of_module(model)


# --- the file ------------------------------------------------------------------------------------


def fingerprint(array: Any) -> str:
    """sha256 over dtype, shape and bytes of a NumPy array or a tensor; a matrix is given as (in, out)."""
    bits = _to_numpy(array)
    little = np.asarray(bits, dtype=bits.dtype.newbyteorder("<"), order="C")
    return sha256(f"{_dtype(little)} {bits.shape}\n".encode() + little.tobytes()).hexdigest()


def write_adapter(adapter: Adapter, path: str | Path, compact: bool = True) -> None:
    """Write one adapter file, whole or not at all. See ``save_adapter``."""
    marks = {name: fingerprint(adapter.arrays[name]) for name in _frozen(adapter.config, adapter.matrices)}
    # a factor that follows from W0 and not from the seed cannot be left out: the file is read without a base, too
    compact = compact and METHODS[adapter.config.method].from_seed
    if compact:
        for name, drawn in _redraw(adapter.config, adapter.matrices, adapter.arrays).items():
            if fingerprint(drawn) != marks[name]:
                raise InputError(f"{name} is not what seed {adapter.config.seed} draws: save with compact=False")
    tensors = {name: a for name, a in adapter.arrays.items() if not (compact and name in marks)} | dict(adapter.also)
    config = {
        "version": VERSION,
        "adapter": _encode(adapter.config),
        "compact": compact,
        "conv1d": adapter.conv1d,
        "matrices": {name: asdict(m) | _under(name, marks) for name, m in adapter.matrices.items()},
        "shared": _under(SHARED, marks),
        "also": sorted(adapter.also),
        "owners": dict(adapter.owners),
    }
    config = json.loads(json.dumps(config))  # as it will be read
    metadata = {"tlora_ref": json.dumps(config | {"sha256": _digest(config, tensors)}, separators=(",", ":"))}
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_atomic(Path(path), safetensors.numpy.save(tensors, metadata))


def read_adapter(path: str | Path) -> Adapter:
    """Read and check a file; draw the frozen factors again if it is compact. Raises AdapterFileError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AdapterFileError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        tensors = safetensors.numpy.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterFileError(f"{path}: truncated, damaged or no safetensors file ({error})") from None
    try:
        config = json.loads(metadata.get("tlora_ref", "null"))
        if not isinstance(config, dict):
            raise AdapterFileError("a safetensors file, but not an adapter file of tlora_ref")
        if config.get("version") != VERSION:
            raise AdapterFileError(f"format version {config.get('version')!r}, expected {VERSION}")
        digest = config.pop("sha256", None)
        if digest != _digest(config, tensors):
            raise AdapterFileError("its content does not match its sha256: the file was altered or damaged")
        return _decode(config, tensors)
    except InputError as error:
        raise AdapterFileError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, re.error) as error:
        raise AdapterFileError(f"{path}: its configuration does not make sense ({error!r})") from None


def _digest(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    lines = [json.dumps(config, sort_keys=True), *(f"{name} {fingerprint(tensors[name])}" for name in sorted(tensors))]
    return sha256("\n".join(lines).encode()).hexdigest()


def _encode(config: AdapterConfig) -> dict[str, Any]:
    targets = [{"regex": t.pattern, "flags": t.flags} if isinstance(t, re.Pattern) else t for t in config.targets]
    return asdict(config) | {"targets": targets}


def _decode(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Adapter:
    """The adapter of a file's configuration and tensors. Raises InputError for what is missing, surplus or
    of the wrong shape or dtype, and for a factor that does not come out as it was when drawn again."""
    given = config["adapter"]
    targets = [re.compile(t["regex"], t["flags"]) if isinstance(t, dict) else t for t in given["targets"]]
    layers = None if given["layers"] is None else tuple(given["layers"])
    adapter = AdapterConfig(**(given | {"targets": tuple(targets), "layers": layers}))
    matrices = {n: Matrix(tuple(e["shape"]), e["dtype"], e["base"]) for n, e in config["matrices"].items()}
    if not matrices:
        raise InputError("adapts no matrix")
    shapes, frozen = _shapes(adapter, matrices), _frozen(adapter, matrices)
    stored = {name: shape for name, shape in shapes.items() if not (config["compact"] and name in frozen)}
    _same_names("tensor", set(tensors), set(stored) | set(config["also"]))
    for name, shape in stored.items():
        if tensors[name].shape != shape:
            raise InputError(f"{name} has shape {tensors[name].shape}, expected {shape}")
    drawn, dtypes = (
        _redraw(adapter, matrices, tensors) if config["compact"] else {},
        _dtypes(adapter, matrices, tensors),
    )
    arrays = {name: tensors[name] if name in stored else drawn[name] for name in shapes}
    for name, array in arrays.items():
        module, _, local = name.rpartition(".")
        if array.dtype != dtypes[module]:
            raise InputError(f"{name} is {array.dtype}, expected {dtypes[module]} as beside it")
        if name in frozen:
            shared = local in METHODS[adapter.method].shared_names
            if fingerprint(array) != (config["shared"] if shared else config["matrices"][module])[local]:
                raise InputError(f"{name}, drawn from seed {adapter.seed}, is not what it was when saved")
    also = {name: tensors[name] for name in config["also"]}
    owners = {name: tuple(held) for name, held in config["owners"].items()}
    return Adapter(adapter, matrices, arrays, also, owners, config["conv1d"])


def _sites(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> list[Site]:
    """Where the adapter sits."""
    return [Site(name, *matrix.shape, config.rank_of(name)) for name, matrix in matrices.items()]


def _shapes(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> dict[str, tuple[int, ...]]:
    """The shape of every array of the adapter, by full name."""
    return METHODS[config.method].shapes(_sites(config, matrices))


def _frozen(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> list[str]:
    """The full names of the adapter's arrays that are not trained."""
    local = {arg.base for arg in METHODS[config.method].trained_args}
    return [name for name in _shapes(config, matrices) if name.rpartition(".")[2] not in local]


def _redraw(
    config: AdapterConfig, matrices: Mapping[str, Matrix], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The frozen arrays from the seed alone, in the dtype of the trained ``arrays`` beside them."""
    where, draw = _sites(config, matrices), METHODS[config.method].draw
    drawn = {f"{SHARED}.{local}": array for local, array in shared_arrays(where, config).items()}
    for site in where:
        of_matrix = draw(site, np.broadcast_to(0.0, (site.I, site.O)), config)
        drawn |= {f"{site.name}.{local}": array for local, array in of_matrix.items()}
    dtypes = _dtypes(config, matrices, arrays)
    return {name: drawn[name].astype(dtypes[name.rpartition(".")[0]]) for name in _frozen(config, matrices)}


def _dtypes(
    config: AdapterConfig, matrices: Mapping[str, Matrix], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.dtype]:
    """The dtype of the adapter on each matrix, which is that of its first trained array, and of what they share."""
    method = METHODS[config.method]
    of_matrix = {name: arrays[method.full_name(name, method.trained[0])].dtype for name in matrices}
    return {SHARED: next(iter(of_matrix.values())), **of_matrix}


def _under(module: str, marks: Mapping[str, str]) -> dict[str, str]:
    return {name.rpartition(".")[2]: mark for name, mark in marks.items() if name.rpartition(".")[0] == module}


def _same_names(kind: str, given: set[str], expected: set[str]) -> None:
    missing, surplus = sorted(expected - given), sorted(given - expected)
    for word, names in (("is missing", missing), ("is not expected", surplus)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"{kind} {names[0]}{more} {word}")


def _dtype(array: Any) -> str:
    return "bfloat16" if dtype_name(array) == "uint16" else dtype_name(array)


def _to_numpy(array: Any) -> np.ndarray:
    """A tensor or array as a NumPy array; bfloat16 as its bits."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np.asarray(array)
    import torch

    if array.is_meta:
        raise InputError("the model is on the meta device: it has shapes and no numbers")
    array = array.detach().cpu()
    if array.dtype == torch.bfloat16:
        return array.view(torch.int16).numpy().view(np.uint16)
    return array.numpy()


def _like(array: np.ndarray, other: Any) -> Any:
    """A copy of ``array`` of the kind of ``other``: a NumPy array, or a tensor on the same device."""
    if isinstance(other, (np.ndarray, np.generic)):
        return array.copy()
    import torch

    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(other.device)
    return torch.from_numpy(array.copy()).to(other.device)


# --- does the file belong to the model? ----------------------------------------------------------


def _check_fits(adapter: Adapter, weights: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Raise InputError unless the base is the one of the file: ``weights`` (in, out) by matrix, and ``others``
    the arrays that ``also`` may name."""
    beneath = {name: matrix for name, matrix in adapter.matrices.items() if matrix.base}
    for name, matrix in beneath.items():
        if name not in weights:
            raise InputError(f"adapts {name}, which is no linear layer of the model")
        given = tuple(weights[name].shape), _dtype(weights[name])
        if given != (matrix.shape, matrix.dtype):
            raise InputError(f"{name} of the model is {given[0]} {given[1]}, expected {matrix.shape} {matrix.dtype}")
    for name, array in adapter.also.items():
        if name not in others:
            raise InputError(f"holds {name}, which the model does not have")
        given = tuple(others[name].shape), _dtype(others[name])
        if given != (array.shape, _dtype(array)):
            raise InputError(f"{name} of the model is {given[0]} {given[1]}, expected {array.shape} {_dtype(array)}")
    wrong = [name for name, matrix in beneath.items() if fingerprint(weights[name]) != matrix.base]
    if wrong:
        raise InputError(
            f"another base: {len(wrong)} of {len(beneath)} adapted matrices have other numbers than when "
            f"saved, the first is {wrong[0]}"
        )


def _check_same(adapter: Adapter, config: AdapterConfig, matrices: set[str], also: set[str]) -> None:
    """Raise InputError unless a model's present adapter is the same but for its numbers."""
    for entry in fields(AdapterConfig):
        here, there = getattr(config, entry.name), getattr(adapter.config, entry.name)
        if here != there:
            raise InputError(f"{entry.name} is {there!r}, the model's adapter has {here!r}")
    _same_names("adapter on", set(adapter.matrices), matrices)
    _same_names("trained array", set(adapter.also), also)


# --- the rooms -----------------------------------------------------------------------------------


def _base_matrices(model: Model) -> dict[str, Any]:
    """W0 (I, O) of every matrix, also when W' is in its place."""
    held = {name[: -len(".W")]: array for name, array in model.params.items() if name.endswith(".W")}
    return held | dict(model.merged)


def _of_model(model: Model) -> Adapter:
    if model.adapter is None:
        raise InputError("the model has no adapter to save")
    weights = _base_matrices(model)
    shapes = {site.name: (site.I, site.O) for site in sites(model.config, model.adapter)}
    matrices = {name: _matrix(weights.get(name), shape) for name, shape in shapes.items()}
    names = _shapes(model.adapter, matrices)
    arrays = {name: _to_numpy(model.params[name]) for name in names}
    also = {name: _to_numpy(model.params[name]) for name in sorted(model.trained - set(names))}
    return Adapter(model.adapter, matrices, arrays, also)


def _load_model(model: Model, adapter: Adapter) -> Model:
    if model.merged:
        raise InputError("the model's adapter is merged; unmerge it before loading")
    config, arrays, weights = adapter.config, adapter.arrays, _base_matrices(model)
    _same_names("adapter on", set(adapter.matrices), {site.name for site in sites(model.config, config)})
    if model.adapter is not None:
        _check_same(adapter, model.adapter, set(adapter.matrices), {n for n in model.trained if n not in arrays})
    _check_fits(adapter, weights, {name: a for name, a in model.params.items() if name not in arrays})
    like = model.params["head.W"]
    for name, array in arrays.items():
        if _dtype(array) != _dtype(like):
            raise InputError(f"{name} is {_dtype(array)}, expected {_dtype(like)} as the model")
    loaded = {name: _like(array, like) for name, array in (*arrays.items(), *adapter.also.items())}
    trained = trained_names(model.config, config) | set(adapter.also)
    return replace(model, params={**model.params, **loaded}, trained=frozenset(trained), adapter=config)


def _matrix(W0_IO: Any | None, shape: tuple[int, int]) -> Matrix:
    """A method that is put between layers has no matrix beneath it, and nothing to take a fingerprint of."""
    return Matrix(shape, "", "") if W0_IO is None else Matrix(shape, _dtype(W0_IO), fingerprint(W0_IO))


def _of_module(model: Any) -> Adapter:
    from .by_autograd.inject import adapted, named_modules, trained_beside
    from .by_autograd.linear import is_conv1d, weight_IO

    layers, modules = adapted(model), named_modules(model)
    config = layers[0].adapter
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
    matrices = {layer.name: _matrix(weight_IO(layer.base), (layer.in_features, layer.out_features)) for layer in layers}
    shapes = _shapes(config, matrices)
    held = _arrays(layers, shapes)
    return Adapter(
        config=config,
        matrices=matrices,
        # a shared array is as large as the largest of these matrices needs, also when there was a larger one before
        arrays={name: _to_numpy(held[name][tuple(map(slice, shape))]) for name, shape in shapes.items()},
        also={name: _to_numpy(parameter) for name, parameter in also.items()},
        owners=dict(sorted(owners.items())),
        conv1d=any(is_conv1d(layer.base) for layer in layers),
    )


def _arrays(layers: Sequence[Any], names: Iterable[str]) -> dict[str, Any]:
    """The tensors of an adapter by their full names; any layer has those of SHARED."""
    by_name = {SHARED: layers[0]} | {layer.name: layer for layer in layers}
    return {name: by_name[name.rpartition(".")[0]].array(name.rpartition(".")[2]) for name in names}


def _load_module(model: Any, adapter: Adapter) -> Any:
    import torch

    from .by_autograd.inject import adapted, is_adapted, named_modules, place, trained_beside
    from .by_autograd.linear import AdaptedLinear, adapter_dtype, check_method, is_linear, weight_IO

    check_method(adapter.config.method)
    modules = named_modules(model)
    if is_adapted(model):
        layers = {n: m for n, m in modules.items() if isinstance(m, AdaptedLinear) and m.name == n}
        if any(layer.merged_IO is not None for layer in layers.values()):
            raise InputError("the model's adapter is merged; unmerge it before loading")
        for layer in layers.values():
            _check_same(adapter, layer.adapter, set(layers), set(trained_beside(model)))
    bases = {name: module.base if isinstance(module, AdaptedLinear) else module for name, module in modules.items()}
    weights = {name: weight_IO(base) for name, base in bases.items() if is_linear(base)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _check_fits(adapter, weights, parameters)
    first = next(iter(adapter.matrices))
    for name, array in adapter.arrays.items():
        matrix = name.rpartition(".")[0]
        expected = adapter_dtype(weights[matrix if matrix in adapter.matrices else first].dtype)
        if f"torch.{_dtype(array)}" != str(expected):
            raise InputError(f"{name} is {_dtype(array)}, expected {expected} beside this base")
    if not is_adapted(model):
        place(model, list(adapter.matrices), adapter.config, list(adapter.also), adapter.arrays)
    held = _arrays(adapted(model), adapter.arrays)
    with torch.no_grad():
        for name, array in adapter.arrays.items():
            held[name][tuple(map(slice, array.shape))].copy_(_like(array, held[name]))
        for name, array in adapter.also.items():
            parameters[name].copy_(_like(array, parameters[name]))
    return model
