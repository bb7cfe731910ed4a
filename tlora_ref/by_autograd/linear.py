"""TLoRALinear: an existing linear layer of a torch model, and TLoRA beside it.

Equation    y = base(x) + dropout(alpha * x A B C);  the base, A and C are frozen, B and alpha are trained
            (TLoRA, arXiv 2504.18735, section 3).
Twin        by_hand/adapters.py, tlora_linear_fwd; the product is adapters.tlora_update of this room.
Checked by  tests/test_inject.py.

The base may be an nn.Linear, whose weight is (out, in), or the Conv1D of transformers' GPT-2, whose weight is
(in, out). ``weight_IO`` is the one place where the two become the (in, out) of the equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout, linear

from ..config import AdapterConfig
from ..init import DRAWS
from ..registry import METHODS
from ..shapes import InputError
from .adapters import tlora_delta_w, tlora_update

Tensor = torch.Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules of torch that read the weights of their linear layers and may not call them: an adapter in there
would silently do nothing."""


def is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D, known by its name and its weight (in, nf), so that transformers is not needed."""
    weight = getattr(module, "weight", None)
    named = type(module).__name__ == "Conv1D" and isinstance(weight, Tensor)
    return named and weight.ndim == 2 and weight.shape[1] == getattr(module, "nf", None)


def is_linear(module: nn.Module) -> bool:
    """A layer that computes x W + b from a floating-point weight, and nothing else (no quantised subclass)."""
    plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    return (plain or is_conv1d(module)) and module.weight.dtype in DTYPES


def weight_IO(module: nn.Module) -> Tensor:
    """The weight of a linear layer as (in, out): the transpose of nn.Linear's (a view), Conv1D's as it is."""
    return module.weight if is_conv1d(module) else module.weight.T


def adapter_dtype(base: torch.dtype) -> torch.dtype:
    """float64 beside a float64 base, float32 beside every other: half precision would round away small steps."""
    return torch.float64 if base == torch.float64 else torch.float32


class TLoRALinear(nn.Module):
    """TLoRA around a linear layer: x (..., I) -> y (..., O).

    Parameters B (R, R) and alpha (), buffers A (I, R) and C (R, O), all drawn by init.py under ``name``; the
    given layer stays as it is, frozen, under ``base``. In a state_dict: base.weight, base.bias, A, B, C, alpha.

    dtypes    B, alpha, A and C are float32 (float64 beside a float64 base) whatever ``.to(bfloat16)`` or
              ``.half()`` does to the base; they follow the device. Outside autocast the update is computed in
              that dtype and rounded once, to the dtype of base(x); under autocast products run in its dtype.
    merging   ``merge`` keeps W' = W0 + alpha A B C beside the untouched W0, outside the state_dict: a checkpoint
              is the same merged or not, and unmerging is exact. A merged layer runs in evaluation only:
              dropout cannot be applied to an update that is inside W', and B and alpha would get no gradient.

    Raises InputError for a base that is no linear layer, another method than "tlora", a rank above min(I, O).
    """

    def __init__(self, base: nn.Module, adapter: AdapterConfig, name: str = "") -> None:
        super().__init__()
        check_base(name or "the base", base, adapter)
        W0_IO = weight_IO(base)
        self.base, self.adapter, self.name, self.disabled = base, adapter, name, False
        method = METHODS[adapter.method]
        trained = [arg.base for arg in method.trained_args]
        for local, tensor in self._draw(W0_IO, adapter, name).items():
            if local in trained:
                self.register_parameter(local, nn.Parameter(tensor))
            else:
                self.register_buffer(local, tensor)
        self.register_buffer("merged_IO", None, persistent=False)
        base.requires_grad_(False)
        self.train(base.training)

    @staticmethod
    def _draw(W0_IO: Tensor, adapter: AdapterConfig, name: str) -> dict[str, Tensor]:
        I, O = W0_IO.shape
        dtype = adapter_dtype(W0_IO.dtype)
        if W0_IO.is_meta:  # shapes only: nothing to draw
            size = {"I": I, "O": O, "R": adapter.rank, "S": adapter.rank}
            args = METHODS[adapter.method].arrays
            return {a.base: torch.empty([size[x] for x in a.letters], dtype=dtype, device="meta") for a in args}
        arrays = DRAWS[adapter.method](name, np.broadcast_to(0.0, (I, O)), adapter)
        return {local: torch.from_numpy(array).to(W0_IO.device, dtype) for local, array in arrays.items()}

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O). Raises InputError when merged and in training mode."""
        if self.disabled:
            return self.base(x)
        if self.merged_IO is not None:
            if self.training:
                raise InputError(
                    f"{self.name or 'TLoRALinear'} is merged and in training mode: unmerge(model) to train it, "
                    "or model.eval() to run it"
                )
            return linear(x, self.merged_IO.T, self.base.bias)
        y = self.base(x)
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.A.dtype)
        update = tlora_update(x, self.A, self.B, self.C, self.alpha)
        return y + dropout(update, self.adapter.dropout, self.training).to(y.dtype)

    def delta_w(self) -> Tensor:
        """dW = alpha A B C, (I, O), in the adapter's dtype."""
        return tlora_delta_w(weight_IO(self.base), self.A, self.B, self.C, self.alpha)

    @torch.no_grad()
    def merge(self) -> None:
        """Keep W' = W0 + dW, rounded to the dtype of W0, and run it instead. Merged already: nothing happens."""
        if self.merged_IO is None:
            W0_IO = weight_IO(self.base)
            self.merged_IO = (W0_IO + self.delta_w()).to(W0_IO.dtype)

    def unmerge(self) -> None:
        """Forget W'; W0 was never touched."""
        self.merged_IO = None

    @property
    def weight(self) -> Tensor:
        """The weight in the base's layout, W' when merged and W0 otherwise: models look at its dtype or device."""
        if self.merged_IO is None:
            return self.base.weight
        return self.merged_IO if is_conv1d(self.base) else self.merged_IO.T

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """I, as nn.Linear names it."""
        return self.A.shape[0]

    @property
    def out_features(self) -> int:
        """O, as nn.Linear names it."""
        return self.C.shape[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TLoRALinear:
        # nn.Module sends .to, .half, .cuda and the like through here. The base and W' follow in full; the
        # adapter follows the device, and the dtype only up to the rule of adapter_dtype.
        if recurse:
            self.base._apply(fn)

        def moved(tensor: Tensor) -> Tensor:
            after = fn(tensor)
            if tensor is self.merged_IO or not after.is_floating_point():
                return after
            dtype = adapter_dtype(after.dtype)
            return after if after.dtype == dtype else tensor.to(after.device, dtype)

        return super()._apply(moved, recurse=False)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self.merged_IO is not None:
            args[-1].append(f"{prefix[:-1]} is merged: W' would not follow what is loaded; unmerge(model) first")
            return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """What print(model) shows beside the base."""
        flags = [word for word, on in (("merged", self.merged_IO is not None), ("disabled", self.disabled)) if on]
        config = self.adapter
        return ", ".join([f"rank={config.rank}", f"dropout={config.dropout}", f"init={config.init!r}", *flags])


def check_base(name: str, base: nn.Module, adapter: AdapterConfig, parent: nn.Module | None = None) -> None:
    """Raise InputError unless TLoRA can sit on this layer."""
    if adapter.method != "tlora":
        raise InputError(f"the method is {adapter.method!r}, expected 'tlora' for a torch model")
    if not is_linear(base):
        dtype = f" of {base.weight.dtype}" if isinstance(base, nn.Linear) else ""
        raise InputError(f"{name} is a {type(base).__name__}{dtype}, expected a floating-point nn.Linear or Conv1D")
    if isinstance(parent, FUSED):
        raise InputError(
            f"{name} lies in a torch.nn.{type(parent).__name__}, which may read its weight without calling it: "
            "an adapter there would do nothing"
        )
    I, O = weight_IO(base).shape
    if adapter.rank > min(I, O):
        raise InputError(f"rank {adapter.rank} is larger than min(I, O) = {min(I, O)} of {name}, {(I, O)}")
