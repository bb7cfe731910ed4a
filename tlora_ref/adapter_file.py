"""The file of an adapter: what training made, without the base. Both rooms write and read the same file.

Format      a tensor file (tensor_file.py) of the kind "tlora_ref", with
                version    of this format
                adapter    the AdapterConfig: method, rank, targets, layers, dropout, init, seed, ...
                compact    are the frozen arrays (A and C of TLoRA) left out, to be drawn again from the seed? Never
                           where they come from W0 or from a gradient (LoRA-XS, EDoRA, SODA, and TLoRA's init
                           weight_svd and gradient, which ``adapter`` names): those files are always full
                conv1d     does the torch model keep its weights (in, out)?
                matrices   by name: the shape (I, O) and dtype of the base matrix, its fingerprint, and the
                           fingerprint of each frozen array
                shared     the fingerprints of frozen arrays that all matrices share
                also       other arrays that were trained (a classifier head)
                owners     the modules that hold those, and the names of all that they hold
            Tensors: NAME.B, NAME.alpha, ..., stored (in, out); the arrays of ``also`` under their own names
            and in their own layout.
Rooms       by_hand/adapter_io.py and by_autograd/adapter_io.py take an adapter out of a model and put one into it.
Checked by  tests/test_adapter_file.py.

A load is checked to the end, against the model too, before any array is made and before anything changes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .by_hand.methods import METHODS
from .config import AdapterConfig
from .init import shared_arrays
from .methods import SHARED, Site
from .shapes import InputError
from .tensor_file import array_dtype, fingerprint, read_tensors, shown, write_tensors

KIND, VERSION = "tlora_ref", 1

LARGEST = 2**28
"""The most numbers that an adapter is drawn with where no base says how large its matrices are."""

FLAGS = int(re.ASCII | re.IGNORECASE | re.MULTILINE | re.DOTALL | re.UNICODE | re.VERBOSE)
"""What may be asked of a target's regular expression."""


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


@dataclass(frozen=True)
class Stored(Adapter):
    """An adapter as it stands in a file that is right in itself: of a compact one ``arrays`` lack what the seed draws.

    Whether it belongs to a model is found out from this, before anything as large as the file says is made.
    """

    marks: Mapping[str, str] = field(default_factory=dict)  # the fingerprints of the frozen arrays, by full name

    def complete(self) -> Adapter:
        """With the frozen arrays. Raises InputError for one that does not come out as it was when saved."""
        missing = [name for name in self.marks if name not in self.arrays]
        drawn = _redraw(self.config, self.matrices, self.arrays) if missing else {}
        every = {**drawn, **self.arrays}
        arrays = {name: every[name] for name in array_shapes(self.config, self.matrices)}
        for name, mark in self.marks.items():
            if fingerprint(arrays[name]) != mark:
                raise InputError(f"{name}, drawn from seed {self.config.seed}, is not what it was when saved")
        return Adapter(self.config, self.matrices, arrays, self.also, self.owners, self.conv1d)


# --- the file ------------------------------------------------------------------------------------


def write_adapter(adapter: Adapter, path: str | Path, compact: bool = True) -> None:
    """Write one adapter file, whole or not at all.

    Raises InputError for a number that is not finite, or if ``compact`` and a frozen array is not what the seed draws.
    """
    marks = {name: fingerprint(adapter.arrays[name]) for name in _frozen(adapter.config, adapter.matrices)}
    # a factor that does not follow from the seed cannot be left out: the file is read without a base, too
    compact = compact and adapter.config.from_seed
    if compact:
        for name, drawn in _redraw(adapter.config, adapter.matrices, adapter.arrays).items():
            if fingerprint(drawn) != marks[name]:
                raise InputError(f"{name} is not what seed {adapter.config.seed} draws: save with compact=False")
    tensors = {name: a for name, a in adapter.arrays.items() if not (compact and name in marks)} | dict(adapter.also)
    content = {
        "version": VERSION,
        "adapter": _encode(adapter.config),
        "compact": compact,
        "conv1d": adapter.conv1d,
        "matrices": {name: asdict(m) | _under(name, marks) for name, m in adapter.matrices.items()},
        "shared": _under(SHARED, marks),
        "also": sorted(adapter.also),
        "owners": dict(adapter.owners),
    }
    write_tensors(path, KIND, content, tensors)


def read_adapter(path: str | Path) -> Adapter:
    """Read and check a file without a base; draw the frozen arrays again if it is compact. Raises AdapterFileError,
    also if these would have more than LARGEST numbers: nothing but the base can say whether that is right."""
    stored = read_stored(path)
    with naming(path):
        size = sum(prod(shape) for shape in array_shapes(stored.config, stored.matrices).values())
        if size > LARGEST:
            raise InputError(
                f"has {size:,} numbers with its frozen arrays, expected at most {LARGEST:,} without a base"
            )
        return stored.complete()


def read_stored(path: str | Path) -> Stored:
    """Read a file, and check it as far as that goes without its base. Raises AdapterFileError."""
    try:
        content, tensors = read_tensors(path, KIND, "an adapter file of tlora_ref", VERSION)
    except InputError as error:
        raise AdapterFileError(str(error)) from None
    with naming(path):
        try:
            return _decode(content, tensors)
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError, re.error) as error:
            raise InputError(f"its configuration does not make sense ({shown(error)})") from None


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Inside, an InputError becomes an AdapterFileError of one line that names the file."""
    try:
        yield
    except InputError as error:
        message = " ".join(str(error).split())
        raise AdapterFileError(f"{path}: {message if len(message) <= 500 else message[:497] + '...'}") from None


def _encode(config: AdapterConfig) -> dict[str, Any]:
    targets = [{"regex": t.pattern, "flags": t.flags} if isinstance(t, re.Pattern) else t for t in config.targets or ()]
    return asdict(config) | {"targets": targets}


def _decode(content: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Stored:
    """The adapter of a file's content and tensors. Raises InputError for what is missing, surplus or of the wrong
    kind, shape or dtype."""
    given = content["adapter"]
    layers = given["layers"]
    if layers is not None:
        _check(isinstance(layers, list) and all(map(_whole, layers)), "layers", layers, "None or a list of numbers")
        layers = tuple(layers)
    config = AdapterConfig(**(given | {"targets": tuple(map(_target, given["targets"])), "layers": layers}))
    method = METHODS[config.method]
    for name in ("compact", "conv1d"):
        _check(isinstance(content[name], bool), name, content[name], "true or false")
    compact, names = content["compact"], content["also"]
    if compact and not config.from_seed:
        raise InputError(
            f"lacks the frozen arrays of {config.method}, which no seed draws: they are from {config.origin}"
        )
    matrices = {name: _matrix(name, entry, config) for name, entry in content["matrices"].items()}
    if not matrices:
        raise InputError("adapts no matrix")
    _check(_texts(names) and len(set(names)) == len(names), "also", names, "a list of different names")
    owners = content["owners"]
    _check(isinstance(owners, dict) and all(map(_texts, owners.values())), "owners", owners, "lists of names by module")

    shapes, frozen = array_shapes(config, matrices), _frozen(config, matrices)
    stored = {name: shape for name, shape in shapes.items() if not (compact and name in frozen)}
    same_names("tensor", set(tensors), set(stored) | set(names))
    for name in names:
        if name in shapes:
            raise InputError(f"holds {name} twice, as an array of the adapter and beside it")
    for name, shape in stored.items():
        if tensors[name].shape != shape:
            raise InputError(f"{name} has shape {tensors[name].shape}, expected {shape}")
    dtypes = _dtypes(config, matrices, tensors)
    for name in stored:
        expected = dtypes[name.rpartition(".")[0]]
        if tensors[name].dtype != expected:
            raise InputError(f"{name} is {tensors[name].dtype}, expected {expected} as beside it")
    marks = {}
    for name in frozen:
        module, _, local = name.rpartition(".")
        marks[name] = (content["shared"] if local in method.shared_names else content["matrices"][module])[local]
    also = {name: tensors[name] for name in names}
    return Stored(
        config=config,
        matrices=matrices,
        arrays={name: tensors[name] for name in stored},
        also=also,
        owners={name: tuple(held) for name, held in owners.items()},
        conv1d=content["conv1d"],
        marks=marks,
    )


def _matrix(name: str, entry: Mapping[str, Any], config: AdapterConfig) -> Matrix:
    shape = entry["shape"]
    right = isinstance(shape, list) and len(shape) == 2 and all(map(_whole, shape)) and min(shape) >= 1
    _check(right, f"the shape of {name}", shape, "two whole numbers, at least 1")
    rank = config.rank_of(name)
    if not 1 <= rank <= min(shape):
        raise InputError(f"rank {rank} of {name} is not in 1 to min(I, O) = {min(shape)}")
    beneath = METHODS[config.method].on_matrices
    for key in ("dtype", "base"):
        expected = "a name" if beneath else "no name: there is no matrix beneath"
        _check(isinstance(entry[key], str) and bool(entry[key]) == beneath, f"{key} of {name}", entry[key], expected)
    return Matrix(tuple(shape), entry["dtype"], entry["base"])


def _target(given: Any) -> Any:
    """A target as it was given: a name, or a compiled regular expression."""
    if not isinstance(given, dict):
        _check(isinstance(given, str) and given != "", "a target", given, "a name or a regular expression")
        return given
    flags = given["flags"]
    _check(_whole(flags) and not flags & ~FLAGS, "the flags of a regular expression", flags, "flags of re")
    with warnings.catch_warnings():  # a doubtful expression was the business of the one who wrote it
        warnings.simplefilter("ignore")
        return re.compile(given["regex"], flags)


def _check(holds: bool, name: str, given: Any, expected: str) -> None:
    if not holds:
        raise InputError(f"{name} is {shown(given)}, expected {expected}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def sites_of(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> list[Site]:
    """Where the adapter sits."""
    return [config.site(name, *matrix.shape) for name, matrix in matrices.items()]


def array_shapes(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> dict[str, tuple[int, ...]]:
    """The shape of every array of the adapter, by full name."""
    return METHODS[config.method].shapes(sites_of(config, matrices))


def _frozen(config: AdapterConfig, matrices: Mapping[str, Matrix]) -> list[str]:
    """The full names of the adapter's arrays that are not trained."""
    local = {arg.base for arg in METHODS[config.method].trained_args}
    return [name for name in array_shapes(config, matrices) if name.rpartition(".")[2] not in local]


def _redraw(
    config: AdapterConfig, matrices: Mapping[str, Matrix], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The frozen arrays from the seed alone, in the dtype of the trained ``arrays`` beside them."""
    where, draw = sites_of(config, matrices), METHODS[config.method].draw
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
    of_matrix = {name: arrays[method.full_name(config.home(name), method.trained[0])].dtype for name in matrices}
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


def check_shapes(
    adapter: Adapter, matrices: Mapping[str, tuple[int, ...]], others: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise InputError unless a base has what the file adapts and holds, in the same shapes: the shapes of its matrices
    (in, out) by name, and of everything else."""
    wanted = {name: (matrix.shape, matrices) for name, matrix in adapter.matrices.items()}
    for name, (shape, there) in (wanted | {name: (a.shape, others) for name, a in adapter.also.items()}).items():
        if name not in there:
            raise InputError(f"holds {name}, which the model does not have")
        if there[name] != shape:
            raise InputError(f"{name} of the model is {there[name]}, expected {shape}")


def _spell(array: np.ndarray) -> str:
    return f"{array.shape} {array_dtype(array)}"


def unmoved(adapter: Adapter) -> bool:
    """Is every array that starts from zero still zero? Then the adapter does nothing."""
    method, where = METHODS[adapter.config.method], sites_of(adapter.config, adapter.matrices)
    if not adapter.config.from_seed:
        return False  # the start follows from what is not in the file
    start = method.draw(where[0], np.broadcast_to(0.0, (where[0].I, where[0].O)), adapter.config)
    zeros = [base for base in method.trained if base in start and not np.any(start[base])]
    names = [method.full_name(site.name, base) for site in where for base in zeros]
    return bool(names) and not any(np.any(adapter.arrays[name]) for name in names)


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
