"""An adapter out of a model and into a file, and back.

Equation    none: arrays by name. The file is that of adapter_file.py, and both rooms write the same bytes.
Twin        by_autograd/adapter_io.py, same names, for tensors and for any torch model.
Checked by  tests/test_adapter_file.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..adapter_file import (
    Adapter,
    array_shapes,
    check_fits,
    check_same,
    matrix_beneath,
    naming,
    read_stored,
    same_names,
    write_adapter,
)
from ..model import Model, sites, trained_names
from ..shapes import InputError
from ..tensor_file import array_dtype


def save_adapter(model: Model, path: str | Path, compact: bool = True) -> None:
    """Write the adapter of a model, merged or not.

    compact: leave out the frozen arrays that the seed draws again; those from W0 or a gradient (LoRA-XS, TLoRA's
    init "gradient") are stored all the same. What is trained beside the adapter is stored too. Raises InputError if
    there is no adapter, or if ``compact`` and an array is not what the seed draws.
    """
    write_adapter(adapter_of(model), path, compact)


def load_adapter(model: Model, path: str | Path) -> Model:
    """A new model: the given one with the adapter of a file.

    The model is the base (the file says where the adapter goes), or has an adapter of the same configuration.
    Raises AdapterFileError for a file that is damaged or does not fit.
    """
    stored = read_stored(path)
    with naming(path):
        check_adapter(model, stored)
        return with_adapter(model, stored.complete())


def adapter_of(model: Model) -> Adapter:
    """The adapter that a model holds. Raises InputError if there is none."""
    _check_kind(model)
    if model.adapter is None:
        raise InputError("the model has no adapter to save")
    weights = base_matrices(model)
    shapes = {site.name: (site.I, site.O) for site in sites(model.config, model.adapter)}
    matrices = {name: matrix_beneath(shape, weights.get(name)) for name, shape in shapes.items()}
    names = array_shapes(model.adapter, matrices)
    arrays = {name: np.asarray(model.params[name]) for name in names}
    also = {name: np.asarray(model.params[name]) for name in sorted(model.trained - set(names))}
    return Adapter(model.adapter, matrices, arrays, also)


def check_adapter(model: Model, adapter: Adapter) -> None:
    """Raise InputError unless the model can take the adapter."""
    _check_kind(model)
    if model.merged:
        raise InputError("the model's adapter is merged; unmerge it before loading")
    shapes = {site.name: (site.I, site.O) for site in sites(model.config, adapter.config)}
    names = array_shapes(adapter.config, adapter.matrices)
    same_names("adapter on", set(adapter.matrices), set(shapes))
    if model.adapter is not None:
        check_same(adapter, model.adapter, set(adapter.matrices), {n for n in model.trained if n not in names})
    check_fits(adapter, base_matrices(model), {name: a for name, a in model.params.items() if name not in names})
    for name, shape in shapes.items():
        if adapter.matrices[name].shape != shape:
            raise InputError(f"{name} of the model is {shape}, expected {adapter.matrices[name].shape}")
    dtype = array_dtype(model.params["head.W"])
    for name, array in adapter.arrays.items():
        if array_dtype(array) != dtype:
            raise InputError(f"{name} is {array_dtype(array)}, expected {dtype} as the model")


def with_adapter(model: Model, adapter: Adapter) -> Model:
    """The model with copies of the arrays of an adapter that fits."""
    loaded = {name: array.copy() for name, array in (*adapter.arrays.items(), *adapter.also.items())}
    trained = trained_names(model.config, adapter.config) | set(adapter.also)
    return replace(model, params={**model.params, **loaded}, trained=frozenset(trained), adapter=adapter.config)


def base_matrices(model: Model) -> dict[str, np.ndarray]:
    """W0 (I, O) of every matrix, also when W' is in its place."""
    weights = {name[: -len(".W")]: array for name, array in model.params.items() if name.endswith(".W")}
    return weights | dict(model.merged)


def _check_kind(model: Model) -> None:
    if not isinstance(model, Model):
        raise InputError(f"the model is a {type(model).__name__}, expected a Model: by_autograd takes torch models")
    if not all(isinstance(array, (np.ndarray, np.generic)) for array in model.params.values()):
        raise InputError("the model holds tensors, expected NumPy arrays: by_autograd takes those")
