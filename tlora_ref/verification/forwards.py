"""Forwards, held against a second way to compute the same numbers: a gradient can be right for a wrong function.

twin           the kernel in PyTorch, for every kernel
bias           y with b less y without it is b
delta_w        W' - W0 by hand against PyTorch's
layer          the kernel against x (W0 + dW)
column norms   the norms by hand against PyTorch's; after rescaling, the columns are as long as the magnitudes
merging        the logits of an encoder with its adapter, and with the adapter merged into its weights

Checked by  tests/test_check_job.py: each of them fails when its forward is spoilt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from typing import Any

import numpy as np

from .. import by_hand
from ..by_hand.kernels import KERNELS
from ..by_hand.methods import METHODS
from ..gradcheck import relative_error
from ..merging import merge
from ..methods import Method
from .scenarios import Case, encoder_loss, scenarios
from .suite import twin_of

RTOL = 1e-11
"""The largest error, relative to the largest number of the result."""


@dataclass(frozen=True)
class Forward:
    """One comparison: ``subject`` is a kernel or a method, ``way`` one of those above."""

    subject: str
    way: str
    error: float

    @property
    def ok(self) -> bool:
        """Close enough; NaN is not."""
        return self.error <= RTOL


def forwards(subjects: Collection[str] | None = None) -> list[Forward]:
    """All of them, or those of some kernels and methods; the worst scenario of each subject. The two ways that need
    torch only where it is installed."""
    comparisons = [*_kernels(subjects), *_methods(subjects)]
    worst: dict[tuple[str, str], Forward] = {}
    for forward in comparisons:
        before = worst.get((forward.subject, forward.way))
        if before is None or not forward.error <= before.error:
            worst[forward.subject, forward.way] = forward
    return list(worst.values())


def _kernels(subjects: Collection[str] | None) -> Iterator[Forward]:
    for name, op in KERNELS.items():
        if subjects is not None and name not in subjects:
            continue
        for scenario, case in scenarios(op):
            if scenario == "float32":
                continue
            y = op.fwd(**case.args)[0]
            if find_spec("torch"):
                yield Forward(name, "twin", relative_error(y, _torch(twin_of(op.name), case.args)))
            b = case.args.get("b_O")
            if b is not None:
                plain = op.fwd(**{**case.args, "b_O": None})[0]
                yield Forward(name, "bias", relative_error(y, plain + b))


def _methods(subjects: Collection[str] | None) -> Iterator[Forward]:
    for name, method in METHODS.items():
        if not method.mergeable or (subjects is not None and name not in subjects):
            continue
        for scenario, case in scenarios(method.kernel):
            if scenario not in ("float32", "initial point"):
                yield from _method(name, method, case)
        yield Forward(name, "merging", _merging(name))


def _method(name: str, method: Method, case: Case) -> Iterator[Forward]:
    args = {**case.args, **{key: None for key in case.args if key.startswith("keep")}}
    twin = _twin(name) if find_spec("torch") else None
    delta = _called(method.delta_w, args)
    if twin is not None:
        yield Forward(name, "delta_w", relative_error(delta, _torch(twin.delta_w, args)))
    if method.rescales:
        lengths = np.linalg.norm(args["W0_IO"] + delta, axis=0)
        yield Forward(name, "column norms", relative_error(lengths, np.abs(args["magnitude_O"])))
    if method.constants_of is not None:
        constants = _called(method.constants_of, args)
        if twin is not None:
            for key, tensor in _torch(twin.constants_of, args).items():
                yield Forward(name, "column norms", relative_error(constants[key], tensor.numpy()))
        args |= constants
    y = method.kernel.fwd(**args)[0]
    b = 0 if args.get("b_O") is None else args["b_O"]
    yield Forward(name, "layer", relative_error(y, args["x_NI"] @ (args["W0_IO"] + delta) + b))


def _merging(name: str) -> float:
    loss = encoder_loss(name)
    merged = merge(by_hand, loss.model)
    logits = [by_hand.encoder_fwd(model, loss.x, loss.mask)[0] for model in (loss.model, merged)]
    return relative_error(*logits)


def _called(function: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    """The function on those of the arguments that it takes."""
    return function(**{key: args[key] for key in signature(function).parameters if key in args})


def _twin(method: str) -> Any:
    from ..by_autograd.methods import TWINS

    return TWINS[method]


def _torch(function: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    import torch

    tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in args.items()}
    with torch.no_grad():
        result = _called(function, tensors)
    return result if isinstance(result, dict) else result.numpy()
