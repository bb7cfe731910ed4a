"""An encoder whose gradients are a student's: the exercises' functions in the place of the library's backwards.

    with by_mine(backward=my_backward, gelu=my_gelu_dx) as calls:
        train(by_hand, ...)
    print(calls)        how often each was called

The pieces are called as the exercises call them. What is not given stays the library's; ``by_mine()`` alone only counts
what the library's backwards do. A piece is a function of the argument's gradient alone, so gamma, beta, W and b cannot
train while their piece is replaced: adapt, do not pretrain.

Checked by  tests/test_mine.py: with the worked solutions training goes the library's way, with a wrong piece not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from ..by_hand import encoder, ops
from ..by_hand.methods import METHODS
from ..shapes import InputError

Bwd = Callable[..., dict[str, Any]]


def _tlora(mine: Any) -> Bwd:
    # x, B and alpha at once, from the library's own cache
    return lambda dy, cache: mine(dy, cache)


def _frozen(mine: Any) -> Bwd:
    def bwd(dy: Any, cache: Any) -> dict[str, Any]:
        # a frozen matrix is TLoRA's layer with an update of zero
        (W0,) = cache
        I, O = W0.shape
        return {"x": mine(dy, W0, np.zeros((I, 1)), np.zeros((1, 1)), np.zeros((1, O)), 1.0)}

    return bwd


def _gelu(mine: Any) -> Bwd:
    return lambda dy, cache: {"x": mine(dy, *cache)}


def _layer_norm(mine: Any) -> Bwd:
    return lambda dy, cache: {"x": mine(dy, *cache)}


def _attention(mine: Any) -> Bwd:
    def bwd(dout: Any, cache: Any) -> dict[str, Any]:
        q, k, v, (p,) = cache
        return mine(dout, q, k, v, p)

    return bwd


def _cross_entropy(mine: Any) -> Bwd:
    def bwd(dloss: Any, cache: Any) -> dict[str, Any]:
        p, at = cache
        return {"logits": np.asarray(mine(dloss, p, at[..., 0]), dtype=p.dtype)}

    return bwd


def _mean_pool(mine: Any) -> Bwd:
    return lambda dout, cache: {"x": mine(dout, cache[0].shape[-1])}


PIECES: Mapping[str, tuple[Callable[[Any], Bwd], str]] = {
    "backward": (_tlora, ""),
    "dx": (_frozen, "frozen_linear_bwd"),
    "gelu": (_gelu, "gelu_bwd"),
    "layer_norm": (_layer_norm, "layer_norm_bwd"),
    "attention": (_attention, "attention_bwd"),
    "cross_entropy": (_cross_entropy, "cross_entropy_bwd"),
    "mean_pool": (_mean_pool, "mean_pool_bwd"),
}
"""What may be given: how it is called, and the library's backward that it replaces ("": that of TLoRA's layer)."""


@contextmanager
def by_mine(**mine: Callable[..., Any]) -> Iterator[Counter[str]]:
    """While it is entered, an encoder's gradients are made by the given functions. Yields how often each was called,
    and under ``ours: NAME`` how often each backward of the library was. Raises InputError for an unknown piece."""
    unknown = sorted(set(mine) - set(PIECES))
    if unknown:
        raise InputError(f"there is no piece {unknown[0]!r}; there are {', '.join(PIECES)}")
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for name in [name for name in vars(encoder) if name.endswith("_bwd") and hasattr(ops, name)]:
            stack.enter_context(patch.object(encoder, name, _counted(calls, f"ours: {name}", getattr(ops, name))))
        kernel = METHODS["tlora"].kernel
        stack.callback(object.__setattr__, kernel, "bwd", kernel.bwd)
        object.__setattr__(kernel, "bwd", _counted(calls, "ours: tlora_linear_bwd", kernel.bwd))
        for name, function in mine.items():
            as_called, place = PIECES[name]
            bwd = _counted(calls, name, _as_library(as_called(function)))
            if place:
                stack.enter_context(patch.object(encoder, place, bwd))
            else:
                object.__setattr__(kernel, "bwd", bwd)
        if "gelu" in mine:  # the library keeps the slope, and the exercise asks for x
            stack.enter_context(patch.object(encoder, "gelu_fwd", lambda x: (ops.gelu_fwd(x)[0], (x,))))
        if "cross_entropy" in mine:  # a loss as a function is made of it, too (verification/scenarios.py)
            stack.enter_context(patch.object(ops, "cross_entropy_bwd", encoder.cross_entropy_bwd))
        yield calls


def _counted(calls: Counter[str], name: str, bwd: Bwd) -> Bwd:
    def counted(dout: Any, cache: Any, wrt: Any = None) -> dict[str, Any]:
        calls[name] += 1
        return bwd(dout, cache) if wrt is None else bwd(dout, cache, wrt=wrt)

    return counted


def _as_library(bwd: Bwd) -> Bwd:
    """All gradients of it, in the dtype of what comes back from above: exercises are solved in float64."""

    def called(dout: Any, cache: Any, wrt: Any = None) -> dict[str, Any]:
        dtype = getattr(dout, "dtype", None)
        return {key: np.asarray(gradient, dtype=dtype) for key, gradient in bwd(dout, cache).items()}

    return called
