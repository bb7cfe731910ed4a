"""Does every adapter of a model do something? Found out by running a batch.

Equation    an adapter that takes part in the loss has a gradient other than zero, at the start too: dB = alpha u^T g
            of TLoRA (arXiv 2504.18735, section 2.2) vanishes only with u = x A or g = dy C^T
Twin        none: the encoder of this package calls every adapter.
Checked by  tests/test_inject.py, with models that pass an adapter by.

Some models read the weight of a linear layer in place of calling it, or call it for some inputs only. An adapter there
may sit in the model, be saved and do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..by_hand.methods import METHODS
from .inject import adapted
from .linear import AdaptedLinear


@dataclass(frozen=True)
class Verification:
    """What a batch did to the adapters, by the names of their modules.

    calls     how often each adapted layer was called
    uncalled  those that were not; if such a layer has a gradient, its weight is read in its place, with the adapter in
              it but without dropout
    silent    those without a gradient, or with one of zeros: what they do cannot train
    """

    calls: Mapping[str, int]
    uncalled: tuple[str, ...]
    silent: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Every adapter was called and has a gradient."""
        return not (self.uncalled or self.silent)

    def __str__(self) -> str:
        lines = [f"{len(self.calls)} adapters, {len(self.calls) - len(self.silent)} of them with a gradient"]
        for name in self.uncalled:
            what = "and has no gradient" if name in self.silent else "its weight is read instead, without dropout"
            lines.append(f"  {name}: not called, {what}")
        lines += [f"  {name}: called, and has no gradient" for name in self.silent if name not in self.uncalled]
        return "\n".join(lines)


def verify(model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor] | None = None) -> Verification:
    """Run a batch forward and back, in evaluation mode, and say which adapters took part. The model is left as it was:
    numbers, gradients, mode.

    batch  a mapping of keyword arguments, a tuple of arguments, or the one argument
    loss   (model, batch) -> a scalar; None: the output's ``loss`` if it has one, else the sum of all floating-point
           numbers in the output, each times a random number: behind a LayerNorm plain sums of them, or of their
           squares, are constant

    Raises InputError without adapters, and for merged ones, which are not called.
    """
    layers = adapted(model)
    for layer in layers:
        layer.check_unmerged()
    calls = dict.fromkeys((layer.name for layer in layers), 0)

    def count(layer: AdaptedLinear, *_: Any) -> None:
        calls[layer.name] += 1

    modes = {module: module.training for module in model.modules()}
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        model.eval()
        with torch.enable_grad():
            value = loss(model, batch) if loss is not None else _loss(_run(model, batch))
            trained = {layer: _trained(layer) for layer in layers}
            every = [tensor for tensors in trained.values() for tensor in tensors]
            gradients = torch.autograd.grad(value, every, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    by_id = {id(t): g for t, g in zip(every, gradients, strict=True)}
    silent = [
        layer.name
        for layer, tensors in trained.items()
        if not any(by_id[id(t)] is not None and bool(by_id[id(t)].any()) for t in tensors)
    ]
    return Verification(calls, tuple(name for name, n in calls.items() if n == 0), tuple(silent))


def _trained(layer: AdaptedLinear) -> list[Tensor]:
    """Its own trained arrays; if it has none, those that it shares."""
    method = METHODS[layer.adapter.method]
    own = [base for base in method.trained if base not in method.shared]
    return [layer.array(base) for base in own or method.trained]


def _run(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def _loss(output: Any) -> Tensor:
    own = getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    random = torch.Generator().manual_seed(0)
    weighted = [
        t.double() * torch.randn(t.shape, generator=random, dtype=torch.float64).to(t.device) for t in _floats(output)
    ]
    return torch.stack([t.sum() for t in weighted]).sum()


def _floats(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() and output.requires_grad else []
    if isinstance(output, Mapping):
        output = list(output.values())
    return [t for item in output for t in _floats(item)] if isinstance(output, (list, tuple)) else []
