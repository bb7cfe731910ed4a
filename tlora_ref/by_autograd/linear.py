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
from torch.nn.parameter import is_lazy

from ..by_hand.methods import METHODS
from ..config import AdapterConfig
from ..init import shared_arrays
from ..methods import Site
from ..shapes import InputError
from .beside import Beside
from .fused import autocasting, tlora_linear_fused
from .methods import TWINS

Tensor = torch.Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules of torch that read the weights of their linear layers and may not call them: an adapter in there
would silently do nothing."""

READ_IN_EVALUATION = ("linear1", "linear2")
"""The layers of an nn.TransformerEncoderLayer that its fast path, which training never takes, reads in place of calling
them: they have the adapter in their ``weight``. The projection inside its attention is read in training too, where
dropout would be passed by."""

LINEAR_LIKE: set[type[nn.Linear]] = set()
"""Subclasses of nn.Linear with a forward of their own that were declared to compute x W + b."""


def treat_as_linear(kind: type[nn.Linear]) -> None:
    """Let adapters sit on a subclass of nn.Linear that has a forward of its own and computes x W + b all the same, as
    transformers' FalconLinear does. Raises InputError for anything but a subclass of nn.Linear."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Linear)):
        raise InputError(f"the class is {kind!r}, expected a subclass of torch.nn.Linear")
    LINEAR_LIKE.add(kind)


def is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D, known by its name and its weight (in, nf), so that transformers is not needed."""
    weight = getattr(module, "weight", None)
    named = type(module).__name__ == "Conv1D" and isinstance(weight, Tensor)
    return named and weight.ndim == 2 and weight.shape[1] == getattr(module, "nf", None)


def is_linear(module: nn.Module) -> bool:
    """A layer that computes x W + b from a floating-point weight, and nothing else (no quantised subclass)."""
    plain = isinstance(module, nn.Linear) and (type(module).forward is nn.Linear.forward or type(module) in LINEAR_LIKE)
    return (plain or is_conv1d(module)) and _odd_weight(module) == "" and module.weight.dtype in DTYPES


def _odd_weight(module: nn.Module) -> str:
    """What keeps a weight from being read as a plain matrix, "" if nothing does."""
    weight = module.weight
    if is_lazy(weight):
        return "its shape is not known before a first batch has gone through it"
    if type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__}, expected a plain tensor"
    return ""


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

    ``arrays``, by local name, are taken instead of a draw. A state_dict lists the arrays once, under the first layer:
    files such as safetensors' refuse a tensor under two names.
    """

    def __init__(
        self, bases: Mapping[str, nn.Module], adapter: AdapterConfig, arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        super().__init__()
        method, like = METHODS[adapter.method], weight_IO(next(iter(bases.values())))
        self.home = next(iter(bases))  # the name of the layer under which a state_dict has them
        self.undrawn = arrays is None and like.is_meta
        where = [site_of(name, base, adapter) for name, base in bases.items()]
        if arrays is None and not like.is_meta:
            arrays = shared_arrays(where, adapter)
        for full, shape in method.shared_shapes(where).items():
            base = full.rpartition(".")[2]
            _hold(self, base, _tensor(base, arrays, shape, like), trained=base in method.trained)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SharedArrays:
        return super()._apply(_following(fn), recurse)

    def _at_home(self, prefix: str) -> bool:
        # the model may lie in another, whose names go before
        return f".{prefix}".endswith(f".{self.home}.shared.")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self._at_home(prefix):
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self._at_home(prefix) or any(name.startswith(prefix) for name in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)
            self.undrawn = False


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
        self.undrawn = arrays is None and W0_IO.is_meta
        self.beside = Beside({})  # of the whole model, which ``inject`` knows
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
        """x (..., I) -> (..., O). Raises InputError when merged and in training mode, and when its arrays were made on
        the meta device and have never been given numbers."""
        if self.disabled:
            return self.base(x)
        self.check_drawn()
        if self.merged_IO is not None:
            if self.training:
                raise InputError(
                    f"{self.name or type(self).__name__} is merged and in training mode: unmerge(model) to train it, "
                    "or model.eval() to run it"
                )
            return linear(x, self.merged_IO.T, self.base.bias)
        y = self.base(x)
        if not autocasting(x):
            x = x.to(self.update_dtype)
        layer = TWINS[self.adapter.method].layer
        return layer(x, y, weight_IO(self.base), self.bias, self._drop, **self.arguments()).to(y.dtype)

    def check_drawn(self) -> None:
        """Raise InputError if the arrays have memory and no numbers: made on meta, then ``to_empty``."""
        empty = self.undrawn or (self.shared is not None and self.shared.undrawn)
        if empty and not self.array(METHODS[self.adapter.method].trained[0]).is_meta:
            raise InputError(
                f"the adapter on {self.name or 'this layer'} was made on the meta device, where nothing is drawn, and "
                "has no numbers: load a state_dict or an adapter file with them, or inject after the weights are loaded"
            )

    def _drop(self, tensor: Tensor) -> Tensor:
        return dropout(tensor, self.adapter.dropout, self.training)

    def array(self, local: str) -> Tensor:
        """One of the adapter's arrays by its local name, the layer's own or a shared one in its full size."""
        return getattr(self.shared if local in METHODS[self.adapter.method].shared_names else self, local)

    def arguments(self) -> dict[str, Any]:
        """The adapter's arrays and constants by argument name: {"A_IR": ..., "scale": ...}. What all layers share
        is cut to this one's size."""
        method, twin = METHODS[self.adapter.method], TWINS[self.adapter.method]
        arrays = {arg.base: self.array(arg.base) for arg in method.arrays}
        like = arrays[method.trained[0]]
        arrays |= {base: arrays[base].to(like) for base in method.shared}
        constants = {constant: self.adapter.scale_at(self.site.R) for constant in method.constants}
        return (twin.view or method.arguments)(arrays, self.site) | constants

    def delta_w(self) -> Tensor:
        """dW = W' - W0, (I, O), in the adapter's dtype."""
        self.check_drawn()
        return TWINS[self.adapter.method].delta_w(weight_IO(self.base), **self.arguments())

    def merged_weight(self) -> Tensor:
        """W' = W0 + dW, (I, O), rounded to the dtype of W0."""
        W0_IO = weight_IO(self.base)
        return (W0_IO + self.delta_w()).to(W0_IO.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Keep W' and run it instead. Merged already: nothing happens."""
        if self.merged_IO is None:
            self.merged_IO = self.merged_weight()

    def check_unmerged(self) -> None:
        """Raise InputError for a merged layer."""
        if self.merged_IO is not None:
            raise InputError(f"{self.name or type(self).__name__} is merged; unmerge(model) first")

    def unmerge(self) -> None:
        """Forget W'; W0 was never touched."""
        self.merged_IO = None

    @property
    def weight(self) -> Tensor:
        """W' = W0 + dW in the base's layout and dtype, W0 while disabled. Some models multiply with a layer's weight
        and never call the layer: they get the adapter this way, with its gradients, and without dropout."""
        if self.disabled:
            return self.base.weight
        W_IO = self.merged_weight() if self.merged_IO is None else self.merged_IO
        return W_IO if is_conv1d(self.base) else W_IO.T

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
        own = (*self._parameters, *(name for name in self._buffers if name != "merged_IO"))
        if all(f"{prefix}{name}" in state_dict for name in own):
            self.undrawn = False

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
        if not (self.disabled or self.merged_IO is not None or dropping or self.undrawn or hooked(self.base)):
            y = tlora_linear_fused(x, self.base, weight_IO(self.base), self.A, self.B, self.C, self.alpha)
            if y is not None:
                return y
        return super().forward(x)

    def extra_repr(self) -> str:
        """What print(model) shows beside the base."""
        return f"{super().extra_repr()}, init={self.adapter.init!r}"


def hooked(module: nn.Module) -> bool:
    """Does anything wait for the module to be called, or stand in for its forward, as accelerate's offloading does?
    Then its weight must not be read in its place."""
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(kinds) or "forward" in module.__dict__


def check_method(method: str) -> None:
    """Raise InputError unless the method sits on linear layers."""
    if not METHODS[method].on_matrices:
        raise InputError(f"{method} sits in a block of the encoder and not on a linear layer of a torch model")


def check_base(name: str, base: nn.Module, adapter: AdapterConfig, parent: nn.Module | None = None) -> None:
    """Raise InputError unless the adapter can sit on this layer."""
    check_method(adapter.method)
    if not is_linear(base):
        linear_like = isinstance(base, nn.Linear)
        odd = _odd_weight(base) if linear_like else ""
        dtype = f" of {base.weight.dtype}" if linear_like and not odd else ""
        own = linear_like and not odd and base.weight.dtype in DTYPES
        more = "; treat_as_linear declares that a subclass computes x W + b" if own else f": {odd}" * bool(odd)
        raise InputError(
            f"{name} is a {type(base).__name__}{dtype}, expected a floating-point nn.Linear or Conv1D{more}"
        )
    supported = isinstance(parent, nn.TransformerEncoderLayer) and name.rpartition(".")[2] in READ_IN_EVALUATION
    if isinstance(parent, FUSED) and not supported:
        raise InputError(
            f"{name} lies in a torch.nn.{type(parent).__name__}, which may read its weight without calling it: "
            "an adapter there would do nothing"
        )
    W0_IO, method = weight_IO(base), METHODS[adapter.method]
    I, O = W0_IO.shape
    if adapter.rank_of(name) > min(I, O):
        raise InputError(f"rank {adapter.rank_of(name)} is larger than min(I, O) = {min(I, O)} of {name}, {(I, O)}")
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
