"""AdaptedLinear: an existing linear layer of a torch model, and any adapter method beside it.

Equation    y = base(x) + update(dropout(x)), or dropout(update(x)) as TLoRA has it (arXiv 2504.18735, section 2.2):
                y = base(x) + dropout(alpha * x A B C);  the base, A and C are frozen, B and alpha are trained.
            Where a method rescales the columns (DoRA, EDoRA):  y = (x W0 + update) * m / n + b.
Twin        by_hand/methods/; what a method makes of y = base(x) is its METHOD_layer in by_autograd/methods/.
Checked by  tests/test_inject.py.

The base may be an nn.Linear, whose weight is (out, in), or the Conv1D of transformers' GPT-2, whose weight is
(in, out). ``weight_IO`` is the one place where the two become the (in, out) of the equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout, linear

from ..by_hand.methods import METHODS
from ..config import AdapterConfig
from ..init import shared_arrays
from ..methods import Site
from ..shapes import InputError
from .fused import tlora_linear_fused
from .methods import TWINS

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


def site_of(name: str, base: nn.Module, adapter: AdapterConfig) -> Site:
    """Where the adapter of that name sits: the layer's width in and out, and the rank there."""
    I, O = weight_IO(base).shape
    return adapter.site(name, I, O)


def _tensor(local: str, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """One array of an adapter, where ``like`` is and in its adapter's dtype."""
    dtype = adapter_dtype(like.dtype)
    if like.is_meta:  # shapes only: nothing was drawn
        return torch.empty(shape, dtype=dtype, device="meta")
    return torch.tensor(arrays[local], dtype=dtype, device=like.device)


def _hold(module: nn.Module, local: str, tensor: Tensor, trained: bool) -> None:
    """Keep a tensor under its local name: a parameter if it trains, a buffer if it is frozen."""
    if trained:
        module.register_parameter(local, nn.Parameter(tensor))
    else:
        module.register_buffer(local, tensor)


def _following(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What nn.Module does to its tensors in .to, .half, .cuda and the like, as the arrays of an adapter follow it:
    to the device in full, to the dtype only up to the rule of adapter_dtype."""

    def moved(tensor: Tensor) -> Tensor:
        after = fn(tensor)
        if not after.is_floating_point():
            return after
        dtype = adapter_dtype(after.dtype)
        return after if after.dtype == dtype else tensor.to(after.device, dtype)

    return moved


class SharedArrays(nn.Module):
    """The arrays that all adapted layers of a model read, such as VeRA's frozen A and B: one module, held by every
    layer, so its numbers are in memory once; as large as the largest of the matrices needs. What trains is a parameter.

    ``arrays``, by local name, are taken instead of a draw. A state_dict lists the pair under each layer, with one
    storage.
    """

    def __init__(
        self, bases: Mapping[str, nn.Module], adapter: AdapterConfig, arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        super().__init__()
        method, like = METHODS[adapter.method], weight_IO(next(iter(bases.values())))
        where = [site_of(name, base, adapter) for name, base in bases.items()]
        if arrays is None and not like.is_meta:
            arrays = shared_arrays(where, adapter)
        for full, shape in method.shared_shapes(where).items():
            base = full.rpartition(".")[2]
            _hold(self, base, _tensor(base, arrays, shape, like), trained=base in method.trained)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SharedArrays:
        return super()._apply(_following(fn), recurse)


class AdaptedLinear(nn.Module):
    """An adapter method around a linear layer: x (..., I) -> y (..., O).

    Its trained arrays are parameters and its frozen ones buffers, under their local names (for LoRA: A and B) and
    drawn by init.py under ``name``; ``arrays``, by local name, are taken instead of a draw. What all layers of a
    model share is in ``shared``, a pair of its own unless one is given. The given layer stays as it is, frozen,
    under ``base``.

    dtypes    The adapter is float32 (float64 beside a float64 base) whatever ``.to(bfloat16)`` or ``.half()`` does
              to the base; it follows the device. Outside autocast the update is computed in that dtype and the sum
              with base(x) rounded once, to the dtype of base(x); under autocast products run in its dtype.
    merging   ``merge`` keeps W' = W0 + dW beside the untouched W0, outside the state_dict: a checkpoint is the same
              merged or not, and unmerging is exact. A merged layer runs in evaluation only: dropout cannot be
              applied to an update that is inside W', and what trains would get no gradient.
    dropout   A method that drops x drops it for the update alone, and x W0 stays whole. PEFT's DoRA layer, in training,
              also drops the x of its term (m / n - 1) x W0 (peft.tuners.lora.dora); without dropout the two agree.

    Raises InputError for a base that is no linear layer, a method that does not sit on one, a rank above min(I, O),
    a weight that the method cannot start from.
    """

    def __init__(
        self,
        base: nn.Module,
        adapter: AdapterConfig,
        name: str = "",
        shared: SharedArrays | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        check_base(name or "the base", base, adapter)
        method, W0_IO = METHODS[adapter.method], weight_IO(base)
        if method.shared and shared is None:
            shared = SharedArrays({name: base}, adapter)
        self.base, self.adapter, self.name, self.shared, self.disabled = base, adapter, name, shared, False
        self.site = site_of(name, base, adapter)
        if arrays is None and not W0_IO.is_meta:
            arrays = method.draw(self.site, _to_numpy(W0_IO), adapter)
        for full, shape in method.shapes([self.site]).items():
            local = full.rpartition(".")[2]
            if local not in method.shared:
                _hold(self, local, _tensor(local, arrays, shape, W0_IO), trained=local in method.trained)
        self.register_buffer("merged_IO", None, persistent=False)
        base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O). Raises InputError when merged and in training mode."""
        if self.disabled:
            return self.base(x)
        if self.merged_IO is not None:
            if self.training:
                raise InputError(
                    f"{self.name or type(self).__name__} is merged and in training mode: unmerge(model) to train it, "
                    "or model.eval() to run it"
                )
            return linear(x, self.merged_IO.T, self.base.bias)
        y = self.base(x)
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.update_dtype)
        layer = TWINS[self.adapter.method].layer
        return layer(x, y, weight_IO(self.base), self.bias, self._drop, **self.arguments()).to(y.dtype)

    def _drop(self, tensor: Tensor) -> Tensor:
        return dropout(tensor, self.adapter.dropout, self.training)

    def array(self, local: str) -> Tensor:
        """One of the adapter's arrays by its local name, the layer's own or a shared one in its full size."""
        return getattr(self.shared if local in METHODS[self.adapter.method].shared_names else self, local)

    def arguments(self) -> dict[str, Any]:
        """The adapter's arrays and constants by argument name: {"A_IR": ..., "scale": ...}. What all layers share
        is cut to this one's size."""
        method = METHODS[self.adapter.method]
        arrays = {arg.base: self.array(arg.base) for arg in method.arrays}
        like = arrays[method.trained[0]]
        arrays |= {base: arrays[base].to(like) for base in method.shared}
        constants = {constant: self.adapter.scale_at(self.site.R) for constant in method.constants}
        return method.arguments(arrays, self.site) | constants

    def delta_w(self) -> Tensor:
        """dW = W' - W0, (I, O), in the adapter's dtype."""
        return TWINS[self.adapter.method].delta_w(weight_IO(self.base), **self.arguments())

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
    def update_dtype(self) -> torch.dtype:
        """The dtype of the adapter's arrays, in which the update is computed."""
        return self.array(METHODS[self.adapter.method].trained_args[0].base).dtype

    @property
    def in_features(self) -> int:
        """I, as nn.Linear names it."""
        return weight_IO(self.base).shape[0]

    @property
    def out_features(self) -> int:
        """O, as nn.Linear names it."""
        return weight_IO(self.base).shape[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptedLinear:
        # nn.Module sends .to, .half, .cuda and the like through here; the base and W' follow in full
        if recurse:
            for child in self.children():
                child._apply(fn)
        following = _following(fn)
        return super()._apply(lambda t: fn(t) if t is self.merged_IO else following(t), recurse=False)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self.merged_IO is not None:
            args[-1].append(f"{prefix[:-1]} is merged: W' would not follow what is loaded; unmerge(model) first")
            return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """What print(model) shows beside the base."""
        flags = [word for word, on in (("merged", self.merged_IO is not None), ("disabled", self.disabled)) if on]
        config = self.adapter
        shown = ["rank", "dropout", *METHODS[config.method].constants]
        return ", ".join([f"method={config.method!r}", *(f"{k}={getattr(config, k)}" for k in shown), *flags])


class TLoRALinear(AdaptedLinear):
    """The AdaptedLinear of TLoRA (arXiv 2504.18735): y = base(x) + dropout(alpha * x A B C).

    Parameters B (R, R) and alpha (), buffers A (I, R) and C (R, O). In a state_dict: base.weight, base.bias, A, B,
    C, alpha. Raises InputError as AdaptedLinear does, and for another method than "tlora".
    """

    def __init__(
        self,
        base: nn.Module,
        adapter: AdapterConfig,
        name: str = "",
        shared: SharedArrays | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if adapter.method != "tlora":
            raise InputError(f"the method is {adapter.method!r}, expected 'tlora': AdaptedLinear takes the others")
        super().__init__(base, adapter, name, shared, arrays)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O). Raises InputError when merged and in training mode.

        Without dropout, second derivatives are not to be had (fused.py); hooks on the base are honoured.
        """
        dropping = self.training and self.adapter.dropout > 0
        if not (self.disabled or self.merged_IO is not None or dropping or hooked(self.base)):
            y = tlora_linear_fused(x, self.base, weight_IO(self.base), self.A, self.B, self.C, self.alpha)
            if y is not None:
                return y
        return super().forward(x)

    def extra_repr(self) -> str:
        """What print(model) shows beside the base."""
        return f"{super().extra_repr()}, init={self.adapter.init!r}"


def hooked(module: nn.Module) -> bool:
    """Does anything wait for the module to be called? Then its weight must not be read in its place."""
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(kinds)


def check_method(method: str) -> None:
    """Raise InputError unless the method sits on linear layers."""
    if not METHODS[method].on_matrices:
        raise InputError(f"{method} sits in a block of the encoder and not on a linear layer of a torch model")


def check_base(name: str, base: nn.Module, adapter: AdapterConfig, parent: nn.Module | None = None) -> None:
    """Raise InputError unless the adapter can sit on this layer."""
    check_method(adapter.method)
    if not is_linear(base):
        dtype = f" of {base.weight.dtype}" if isinstance(base, nn.Linear) else ""
        raise InputError(f"{name} is a {type(base).__name__}{dtype}, expected a floating-point nn.Linear or Conv1D")
    if isinstance(parent, FUSED):
        raise InputError(
            f"{name} lies in a torch.nn.{type(parent).__name__}, which may read its weight without calling it: "
            "an adapter there would do nothing"
        )
    W0_IO, method = weight_IO(base), METHODS[adapter.method]
    I, O = W0_IO.shape
    if adapter.rank > min(I, O):
        raise InputError(f"rank {adapter.rank} is larger than min(I, O) = {min(I, O)} of {name}, {(I, O)}")
    if W0_IO.is_meta:
        return
    if adapter.origin == "W0" and not W0_IO.isfinite().all():
        raise InputError(
            f"{name} has entries that are not finite, and {adapter.method} starts from its singular vectors"
        )
    if method.rescales and not W0_IO.any(dim=0).all():
        raise InputError(f"{name} has a column of zeros, and {adapter.method} divides by the length of each column")


def _to_numpy(W0_IO: Tensor) -> np.ndarray:
    """The numbers of a weight, float64 as it is and every other in float32."""
    return W0_IO.detach().to("cpu", adapter_dtype(W0_IO.dtype)).numpy()
