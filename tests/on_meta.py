"""A GPU's rules without a GPU: calls on torch's meta device, watched.

Tensors on the meta device have a shape, a dtype and a device, and no numbers. What a first run on a GPU finds raises
there, or is made to by ``nothing_from_the_host``: a tensor left on the CPU, a number read from the device (the program
waits then until the device has done all that it was given), a copy from the host. torch alone lets some of it pass: a
scalar on the CPU may meet tensors anywhere, and what is made on the CPU may be copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tlora_ref.by_autograd.encoder import leaves
from tlora_ref.model import Model

META = "meta"

COPIES = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor, Tensor.numpy)
"""Between numbers of Python's or NumPy's and tensors. On a device most of it happens where no operation is seen."""

INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class HostError(AssertionError):
    """Something that is not on the device, or has to come from there, within a call that is to stay on it."""


def _devices(values: Any) -> set[str]:
    """The kinds of devices that tensors are on, and of those that are named."""
    held = (leaf.device if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(values))
    return {device.type for device in held if isinstance(device, torch.device)}


def _scalars(values: Any) -> bool:
    return all(leaf.ndim == 0 for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


class _Operations(TorchDispatchMode):
    """Every operation that torch carries out. Numbers of Python's are not tensors here."""

    def __init__(self, counting: bool) -> None:
        super().__init__()
        self.counting = counting

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _devices((args, kwargs))
        if len(given) > 1:
            raise HostError(f"{op} meets {' and '.join(sorted(given))}")
        if op is torch.ops.aten._local_scalar_dense.default and META in given:
            raise HostError("a number is read: .item(), float(), int(), bool() or an if")
        try:
            found = op(*args, **(kwargs or {}))
        except NotImplementedError as error:
            raise HostError(f"{op} needs numbers: {str(error).splitlines()[0]}") from error
        there = given | _devices(found)
        counts = self.counting and there == {"cpu"} and _scalars((args, kwargs, found))
        if there - {META} and not counts:
            raise HostError(f"{op} has to do with {' and '.join(sorted(there - {META}))}")
        return found


class _Functions(TorchFunctionMode):
    """Every function of torch that is called, before torch takes it apart into operations."""

    def __init__(self, counting: bool) -> None:
        super().__init__()
        self.counting = counting

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        index = args[1] if function in INDEXING else ()
        lists = any(isinstance(each, list) for each in (index if isinstance(index, tuple) else (index,)))
        arrays = any(isinstance(leaf, np.ndarray) for leaf in tree_leaves((args, kwargs)))
        on_cpu = str(kwargs.get("device", "cpu")) == "cpu"
        counts = self.counting and on_cpu and function is torch.tensor and isinstance(args[0], (int, float))
        if lists or arrays or (function in COPIES and not counts):
            raise HostError(f"{getattr(function, '__name__', function)} copies from or to the host")
        return function(*args, **kwargs)


@contextmanager
def nothing_from_the_host(counting: bool = False) -> Iterator[None]:
    """Inside, tensors are on the meta device: HostError for an operation with any other, for a number that is read from
    the device, for numbers that are copied there, for an operation whose result depends on numbers by its shape.

    counting  scalars on the CPU may be made, changed and read, and meet nothing else: torch's optimizers count their
              steps in such, beside tensors on a GPU too
    """
    with _Operations(counting), _Functions(counting):
        yield


def on_meta(value: Any) -> Any:
    """Arrays, tensors, a model of tensors and dictionaries of these on the meta device; anything else as it is."""
    if isinstance(value, Model):
        return leaves(replace(value, params=on_meta(value.params), merged=on_meta(value.merged)))
    if isinstance(value, dict):
        return {name: on_meta(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
    return value.to(META) if isinstance(value, Tensor) else value
