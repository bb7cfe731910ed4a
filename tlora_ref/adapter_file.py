"""The file of an adapter: what training made, without the base. Both rooms write and read the same file.

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
Rooms       by_hand/adapter_io.py and by_autograd/adapter_io.py take an adapter out of a model and put one into it.
Checked by  tests/test_adapter_file.py.

Nothing is pickled. A save is whole or has not happened; a load is checked to the end before anything changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from .config import AdapterConfig
from .files import write_atomic
from .init import DRAWS, shared_arrays
from .model import SHARED
from .registry import METHODS
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


# --- the file ------------------------------------------------------------------------------------


def fingerprint(array: np.ndarray) -> str:
    """sha256 over dtype, shape and bytes of an array; a matrix is given as (in, out)."""
    little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return sha256(f"{array_dtype(little)} {array.shape}\n".encode() + little.tobytes()).hexdigest()


def array_dtype(array: np.ndarray) -> str:
    """The name of an array's dtype, where uint16 stands for the bits of bfloat16."""
    return "bfloat16" if dtype_name(array) == "uint16" else dtype_name(array)


def write_adapter(adapter: Adapter, path: str | Path, compact: bool = True) -> None:
    """Write one adapter file, whole or not at all.

    Raises InputError if ``compact`` and a frozen array is not what the seed draws.
    """
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
    shapes, frozen = array_shapes(adapter, matrices), _frozen(adapter, matrices)
    stored = {name: shape for name, shape in shapes.items() if not (config["compact"] and name in frozen)}
    same_names("tensor", set(tensors), set(stored) | set(config["also"]))
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


def array_shapes(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> dict[str, tuple[int, ...]]:
    """The shape of every array of the adapter, by full name, those it trains before those it freezes."""
    method, rank, shapes = METHODS[config.method], config.rank, {}
    largest = tuple(max(sizes) for sizes in zip(*(m.shape for m in matrices.values()), strict=True))
    for arg in method.arrays:
        shared = arg.base in method.shared_names
        for name, (I, O) in {SHARED: largest}.items() if shared else ((n, m.shape) for n, m in matrices.items()):
            size = {"I": I, "O": O, "D": I, "R": rank, "S": rank}
            shapes[f"{name}.{arg.base}"] = tuple(size[letter] for letter in arg.letters)
    return shapes


def _frozen(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> list[str]:
    """The full names of the adapter's arrays that are not trained."""
    local = {arg.base for arg in METHODS[config.method].trained_args}
    return [name for name in array_shapes(config, matrices) if name.rpartition(".")[2] not in local]


def _redraw(
    config: AdapterConfig, matrices: Mapping[str, Matrix], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The frozen arrays from the seed alone, in the dtype of the trained ``arrays`` beside them."""
    drawn = {f"{SHARED}.{k}": a for k, a in shared_arrays({n: m.shape for n, m in matrices.items()}, config).items()}
    for name, matrix in matrices.items():
        of_matrix = DRAWS[config.method](name, np.broadcast_to(0.0, matrix.shape), config)
        drawn |= {f"{name}.{local}": array for local, array in of_matrix.items()}
    dtypes = _dtypes(config, matrices, arrays)
    return {name: drawn[name].astype(dtypes[name.rpartition(".")[0]]) for name in _frozen(config, matrices)}


def _dtypes(
    config: AdapterConfig, matrices: Mapping[str, Matrix], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.dtype]:
    """The dtype of the adapter on each matrix, which is that of its first trained array, and of what they share."""
    local = METHODS[config.method].trained_args[0].base
    of_matrix = {name: arrays[f"{name}.{local}"].dtype for name in matrices}
    return {SHARED: next(iter(of_matrix.values())), **of_matrix}


def _under(module: str, marks: Mapping[str, str]) -> dict[str, str]:
    return {name.rpartition(".")[2]: mark for name, mark in marks.items() if name.rpartition(".")[0] == module}


def same_names(kind: str, given: set[str], expected: set[str]) -> None:
    """Raise InputError, naming the first that is missing or not expected, unless both are the same names."""
    missing, surplus = sorted(expected - given), sorted(given - expected)
    for word, names in (("is missing", missing), ("is not expected", surplus)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"{kind} {names[0]}{more} {word}")


# --- does the file belong to the model? ----------------------------------------------------------


def check_fits(adapter: Adapter, weights: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> None:
    """Raise InputError unless the base is the one of the file: ``weights`` are W0 (in, out) of the matrices that the
    model has, ``others`` those of the arrays in ``also``."""
    beneath = {name: matrix for name, matrix in adapter.matrices.items() if matrix.base}
    for name, matrix in beneath.items():
        if name not in weights:
            raise InputError(f"adapts {name}, which is no linear layer of the model")
        given, expected = _spell(weights[name]), f"{matrix.shape} {matrix.dtype}"
        if given != expected:
            raise InputError(f"{name} of the model is {given}, expected {expected}")
    for name, array in adapter.also.items():
        if name not in others:
            raise InputError(f"holds {name}, which the model does not have")
        given, expected = _spell(others[name]), _spell(array)
        if given != expected:
            raise InputError(f"{name} of the model is {given}, expected {expected}")
    wrong = [name for name, matrix in beneath.items() if fingerprint(weights[name]) != matrix.base]
    if wrong:
        raise InputError(
            f"another base: {len(wrong)} of {len(beneath)} adapted matrices have other numbers than when "
            f"saved, the first is {wrong[0]}"
        )


def _spell(array: np.ndarray) -> str:
    return f"{array.shape} {array_dtype(array)}"


def check_same(adapter: Adapter, config: AdapterConfig, matrices: set[str], also: set[str]) -> None:
    """Raise InputError unless a model's present adapter is the same but for its numbers."""
    for entry in fields(AdapterConfig):
        here, there = getattr(config, entry.name), getattr(adapter.config, entry.name)
        if here != there:
            raise InputError(f"{entry.name} is {there!r}, the model's adapter has {here!r}")
    same_names("adapter on", set(adapter.matrices), matrices)
    same_names("trained array", set(adapter.also), also)


def matrix_beneath(shape: tuple[int, int], W0_IO: np.ndarray | None) -> Matrix:
    """The entry of a matrix. A method that is put between layers has none beneath it, and nothing to take a
    fingerprint of."""
    return Matrix(shape, "", "") if W0_IO is None else Matrix(shape, array_dtype(W0_IO), fingerprint(W0_IO))


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Inside, an InputError becomes an AdapterFileError that names the file."""
    try:
        yield
    except InputError as error:
        raise AdapterFileError(f"{path}: {error}") from None
