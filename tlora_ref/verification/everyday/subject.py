"""What a subject of the benchmark is: a function with a right backward, and backwards that are wrong in one way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
Pair = tuple[Callable[..., Any], Callable[..., Any]]


@dataclass(frozen=True)
class Subject:
    """``pair()`` makes fn(**inputs) -> (out, cache) and vjp(dout, cache) -> {name: gradient}, sharing no state with an
    earlier one; so does every value of ``wrong``, whose key says in words what is wrong with it."""

    name: str
    inputs: Mapping[str, Any]
    pair: Callable[[], Pair]
    wrong: Mapping[str, Callable[[], Pair]] = field(default_factory=dict)

    @property
    def wrt(self) -> tuple[str, ...]:
        """The inputs with a gradient: the floating-point arrays."""
        return tuple(k for k, v in self.inputs.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f")


Back = Callable[..., Mapping[str, Any]]


def subject(name: str, inputs: Mapping[str, Any], f: Callable[..., Any], back: Back, **wrong: Back) -> Subject:
    """A subject without state from plain functions: ``f`` of the inputs in order and ``back(d, **inputs)``; the
    cache is the inputs. A wrong backward is called by what it does, with _ for a space."""

    def pair(backward: Back) -> Callable[[], Pair]:
        return lambda: (lambda **inputs: (f(*inputs.values()), inputs), lambda d, cache: backward(d, **cache))

    return Subject(name, inputs, pair(back), {says.replace("_", " "): pair(b) for says, b in wrong.items()})


def stateful(name: str, inputs: Mapping[str, Any], pair: Callable[[], Pair], **wrong: Callable[[], Pair]) -> Subject:
    """A subject whose pairs are made anew each time, for state may hide in them."""
    return Subject(name, inputs, pair, {says.replace("_", " "): make for says, make in wrong.items()})


def normal(*shape: int, seed: int = 0) -> Array:
    """Normal numbers."""
    return np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape))


def positive(*shape: int, seed: int = 0) -> Array:
    """Numbers from 0.5 to 2."""
    return np.random.default_rng([seed, *shape]).uniform(0.5, 2.0, shape)
