"""The checker for torch users: a torch.autograd.Function, a module or a function of tensors, in float64.

Equation    as in checker.py; the oracle is forward-mode differentiation (dual numbers: torch.autograd.forward_ad),
            which shares no backward formula, and Richardson's differences where something has no forward mode.
Twin        checker.py: protocol, cotangents, tolerances, verdicts and report are the same ones.
Checked by  tests/test_check_torch.py, on bugs that torch.autograd.gradcheck lets pass at its defaults.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..shapes import InputError
from .checker import Run, usable
from .oracles import ORACLES, Line, Oracle, OracleError, spell
from .pair import Array, Pair, leaves
from .points import POINTS, chosen
from .report import Report


def check_torch(
    fn_or_module: Any,
    inputs: Sequence[Any] | Mapping[str, Any],
    mode: str = "directional",
    cotangents: int = 2,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    points: Collection[str] = POINTS,
) -> Report:
    """Hold the backward of a torch function against forward-mode derivatives, at the given point and around it.

    fn_or_module  a subclass of torch.autograd.Function, a module (its parameters are checked too, as
                  ``self.NAME``), or any function of tensors; outputs are tensors, nested as they like
    inputs        its arguments in order, or by name; floating-point tensors are taken in float64

    Differentiated by: the parameters and the floating-point inputs that require a gradient or, when no input
    does, all floating-point inputs. Nothing that is given changes. Raises InputError for inputs that do not fit.
    """
    usable(mode, cotangents)
    call = Call.of(fn_or_module, inputs)
    pair = Pair(call.forward, call.backward, shared_memory=True)
    forward_mode = Oracle("forward-mode", call.forward_mode, ORACLES["complex"].rtol, ORACLES["complex"].atol)
    oracle = forward_mode if call.has_forward_mode() else ORACLES["richardson"]
    run = Run(pair, call.wrt, oracle, oracle is forward_mode, mode, cotangents, seed, rtol, atol)
    return run.report(call.inputs, chosen(points))


@dataclass(frozen=True)
class Call:
    """A torch function seen as a pair of NumPy functions; arrays and tensors share memory and layout."""

    run: Callable[..., Any]  # {name: tensor} -> outputs
    inputs: Mapping[str, Any]  # arrays, and what is no tensor as it is
    wrt: Sequence[str]
    devices: Mapping[str, torch.device]

    @staticmethod
    def of(fn: Any, arguments: Sequence[Any] | Mapping[str, Any]) -> Call:
        """Take apart what the caller gave."""
        module = fn if isinstance(fn, nn.Module) else None
        apply = fn.apply if isinstance(fn, type) and issubclass(fn, torch.autograd.Function) else fn
        if not callable(apply):
            raise InputError(f"got a {type(fn).__name__}, expected an autograd.Function, a module or a function")
        if isinstance(arguments, Tensor) or not isinstance(arguments, (Sequence, Mapping)):
            raise InputError(f"inputs is a {type(arguments).__name__}, expected a sequence of arguments or a mapping")
        by_name = isinstance(arguments, Mapping)
        named = dict(arguments) if by_name else dict(zip(_argument_names(fn, len(arguments)), arguments, strict=True))
        own = dict(module.named_parameters()) if module else {}
        buffers = {k: v.double() if v.is_floating_point() else v for k, v in module.named_buffers()} if module else {}

        def run(values: Mapping[str, Any]) -> Any:
            arguments = {name: values[name] for name in named}
            args, kwargs = ((), arguments) if by_name else (tuple(arguments.values()), {})
            if module is None:
                return apply(*args, **kwargs)
            state = {name: values[f"self.{name}"] for name in own} | {k: v.clone() for k, v in buffers.items()}
            return torch.func.functional_call(module, state, args, kwargs)

        every = {**named, **{f"self.{name}": parameter for name, parameter in own.items()}}
        tensors = {name: value for name, value in every.items() if isinstance(value, Tensor)}
        floats = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
        asked = [name for name in floats if tensors[name].requires_grad]
        inputs = [name for name in floats if name in named]
        wrt = asked if any(name in named for name in asked) else inputs + asked
        arrays = {name: _array(tensor) for name, tensor in tensors.items()}
        return Call(run, {**every, **arrays}, wrt, {name: tensor.device for name, tensor in tensors.items()})

    def tensors(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, on their devices and in the memory layout of the arrays."""
        return {name: _tensor(value, self.devices[name]) if name in self.devices else value
                for name, value in arrays.items()}  # fmt: skip

    def forward(self, **arrays: Any) -> tuple[Any, Any]:
        """(outputs as arrays, what the backward needs)."""
        tensors = self.tensors(arrays)
        for name in self.wrt:
            tensors[name].requires_grad_()
        out = self.run(tensors)
        return _arrays(out), (tensors, out)

    def backward(self, dout: Any, cache: Any) -> dict[str, Array]:
        """Torch's gradients; what the outputs do not depend on, by torch's account, has a gradient of zeros."""
        tensors, out = cache
        outs, sources = _flat(out), [tensors[name] for name in self.wrt]
        seeds = [_tensor(g, o.device) for g, o in zip(leaves(dout), outs, strict=True)]
        tracked = [(o, g) for o, g in zip(outs, seeds, strict=True) if o.requires_grad]
        if not tracked:
            raise RuntimeError("no output requires a gradient: was it detached?")
        grads = torch.autograd.grad(
            [o for o, _ in tracked], sources, [g for _, g in tracked], retain_graph=True, allow_unused=True
        )
        return {
            name: np.zeros(source.shape) if g is None else g.detach().cpu().numpy()
            for name, source, g in zip(self.wrt, sources, grads, strict=True)
        }

    def forward_mode(self, line: Line) -> tuple[Array, float]:
        """The oracle: the outputs' tangents along ``line``. Raises OracleError where something has no forward mode."""
        with forward_ad.dual_level():
            tensors = self.tensors(line.inputs)
            for name, v in line.v.items():
                tensors[name] = forward_ad.make_dual(tensors[name], _tensor(v, self.devices[name]))
            try:
                tangents = [forward_ad.unpack_dual(out).tangent for out in _flat(self.run(tensors))]
            except (RuntimeError, NotImplementedError) as error:
                raise OracleError(f"no forward mode: {spell(error)}") from error
            arrays = [0.0 if t is None else t.detach().cpu().numpy() for t in tangents]
        return np.array([sum((g * t).sum() for g, t in zip(gs, arrays, strict=True)) for gs in line.cotangents]), 0.0

    def has_forward_mode(self) -> bool:
        """Whether everything in the function can be differentiated forwards."""
        with warnings.catch_warnings(), forward_ad.dual_level():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own, at the first dual number
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))
        v = {name: np.zeros_like(self.inputs[name]) for name in self.wrt}
        try:
            self.forward_mode(Line(lambda inputs: [], self.inputs, v, []))
        except OracleError:
            return False
        return True


def _argument_names(fn: Any, count: int) -> list[str]:
    """The names of the first arguments, for the report: those of ``forward``, without self or ctx."""
    try:
        parameters = list(signature(getattr(fn, "forward", fn)).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    names = names[1:] if names[:1] == ["ctx"] else names
    return [names[i] if i < len(names) else f"input {i}" for i in range(count)]


def _array(tensor: Tensor) -> Array:
    """A copy in the same memory layout, real numbers in float64."""
    array = tensor.detach().cpu().numpy()
    return np.array(array, dtype=np.float64 if tensor.is_floating_point() else array.dtype, order="K")


def _tensor(array: Any, device: torch.device) -> Tensor:
    """A tensor over the same memory, or a copy with the same strides on another device."""
    tensor = torch.from_numpy(np.asarray(array))
    if device.type == "cpu":
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device).copy_(tensor)


def _flat(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    items = out.values() if isinstance(out, Mapping) else out if isinstance(out, (tuple, list)) else ()
    return [tensor for item in items for tensor in _flat(item)]


def _arrays(out: Any) -> Any:
    """The same nesting, of arrays."""
    if isinstance(out, Tensor):
        return out.detach().cpu().numpy()
    if isinstance(out, Mapping):
        return {key: _arrays(item) for key, item in out.items()}
    return tuple(map(_arrays, out)) if isinstance(out, (tuple, list)) else None
