"""Calling a stranger's functions: the two forms of a backward, outputs nested as they like, memory layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from numbers import Number
from typing import Any

import numpy as np

from ..shapes import InputError

Array = np.ndarray


@dataclass(frozen=True)
class Pair:
    """A function and its hand-written backward, called in whichever of the two forms they have."""

    fn: Callable[..., Any]
    vjp: Callable[..., Any]
    shared_memory: bool = False  # whether gradients may be views of the cotangent, as autograd's are

    def forward(self, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        """(out, cache), the cache None in the form ``vjp(dout, **inputs)``."""
        returned = self.fn(**inputs)
        pair = isinstance(returned, tuple) and len(returned) == 2
        if self._by_inputs(inputs) is None:
            if not pair:
                raise InputError(
                    f"fn returned {kind(returned)}, expected (out, cache): "
                    f"vjp's arguments are not named as the inputs {', '.join(inputs)} are"
                )
            return returned
        # (out, cache) here too, where the second is no array: two outputs are two arrays
        return (returned[0] if pair and not is_number(returned[1]) else returned), None

    def outputs(self, inputs: Mapping[str, Any]) -> list[Array]:
        """The outputs in order, as oracles call it: on copies, which fn may spoil."""
        return leaves(self.forward(relayout(inputs, "K"))[0])

    def backward(self, dout: Any, cache: Any, inputs: Mapping[str, Any]) -> Any:
        """What vjp returns."""
        names = self._by_inputs(inputs)
        return self.vjp(dout, cache) if names is None else self.vjp(dout, **{name: inputs[name] for name in names})

    def _by_inputs(self, inputs: Mapping[str, Any]) -> list[str] | None:
        """The inputs that vjp takes by name; None if it takes the cache."""
        names, required, takes_any = self._parameters
        if not all(name in inputs for name in required) or not (required or takes_any):
            return None
        return list(inputs) if takes_any else [name for name in names if name in inputs]

    @cached_property
    def _parameters(self) -> tuple[list[str], list[str], bool]:
        """What vjp takes after the cotangent: the names, those without a default, and whether any other."""
        try:
            parameters = list(signature(self.vjp).parameters.values())[1:]
        except (TypeError, ValueError):
            return [], [], False
        takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        kinds = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
        required = [p.name for p in parameters if p.default is Parameter.empty and p.kind not in kinds]
        return [p.name for p in parameters], required, takes_any


def leaves(value: Any) -> list[Any]:
    """The arrays of a nested output or cache, in order; what is no number is left out."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [np.asarray(value)] if isinstance(value, Number) else []


def rebuilt(value: Any, arrays: list[Array]) -> Any:
    """``value`` with its leaves taken from ``arrays``, in order."""
    if isinstance(value, Mapping):
        return {key: rebuilt(item, arrays) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [rebuilt(item, arrays) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return arrays.pop(0) if is_number(value) else value


def relayout(value: Any, order: str) -> Any:
    """A copy in memory order "C", "F" or "K" (as it is), or "gaps": every second entry of a larger array."""
    if isinstance(value, (tuple, list)):
        return type(value)([relayout(item, order) for item in value])
    if not isinstance(value, np.ndarray):
        if isinstance(value, Mapping):
            return {key: relayout(item, order) for key, item in value.items()}
        return value
    if order != "gaps" or value.ndim == 0:
        return value.copy(order="K" if order == "gaps" else order)
    wide = np.zeros((*value.shape[:-1], 2 * value.shape[-1]), dtype=value.dtype)
    wide[..., ::2] = value
    return wide[..., ::2]


def is_number(value: Any) -> bool:
    """An array, or a number of any kind."""
    return isinstance(value, (np.ndarray, Number))


def kind(value: Any) -> str:
    """ "a tuple of 3", "a float" """
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
