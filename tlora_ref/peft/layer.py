"""Adapters of PEFT beside a linear layer, any number of them under their names.

Equation    y = base(x) + sum of dropout(alpha * x A B C) over the active adapters;  W' = W0 + alpha A B C.
Twin        by_autograd/linear.py: one adapter beside a layer, for ``inject``. With one active adapter the outputs are
            its outputs bit for bit, as both call the kernels of by_autograd/methods/tlora.py and by_autograd/fused.py.
Checked by  tests/test_peft.py.

A (I, R), C (R, O) and B (R, R) are kept as in the equation, whichever way the base keeps its weight. alpha is (1,),
since FSDP2 shards no scalars.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from torch import Tensor, nn

from ..by_autograd.fused import autocasting, tlora_linear_fused
from ..by_autograd.linear import adapter_dtype, hooked, is_conv1d, is_linear, weight_IO
from ..by_autograd.methods.tlora import tlora_delta_w, tlora_layer
from ..config import AdapterConfig
from ..methods import Site
from ..peft_folder import drawn, marks
from ..shapes import InputError
from .config import GRADIENT, TLoraConfig


class TLoraLayer(BaseTunerLayer):
    """What an adapted layer holds, by the names of its adapters."""

    adapter_layer_names = ("tlora_B", "tlora_alpha")
    other_param_names = ("tlora_A", "tlora_C", "tlora_dropout", "adapter", "site", "marks", "given")

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.in_features, self.out_features = _get_in_out_features(base_layer)
        self.tlora_A, self.tlora_C = BufferDict(persistent=True), BufferDict(persistent=True)
        self.tlora_B, self.tlora_alpha = nn.ParameterDict(), nn.ParameterDict()
        self.tlora_dropout = nn.ModuleDict()
        self.adapter: dict[str, AdapterConfig] = {}
        self.site: dict[str, Site] = {}
        self.marks: dict[str, Tensor] = {}
        self.given: dict[str, bool] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.register_buffer("unmerged_weight", None, persistent=False)

    def update_layer(self, adapter_name: str, name: str, r: int, config: TLoraConfig) -> None:
        """Add an adapter of rank r; ``name`` is the layer's in the base model, from which A and C follow."""
        self.adapter[adapter_name] = config.adapter(r)
        self.site[adapter_name] = self.adapter[adapter_name].site(name, self.in_features, self.out_features)
        if config.init_weights in ("orthonormal", GRADIENT) and r > min(self.in_features, self.out_features):
            raise InputError(f"{name} is {(self.in_features, self.out_features)}: it has no {r} orthonormal columns")
        like = self.get_base_layer().weight
        dtype = adapter_dtype(like.dtype)
        self.given[adapter_name] = self.adapter[adapter_name].from_seed
        if self.given[adapter_name]:
            arrays = self.draw(adapter_name)
            self.marks[adapter_name] = torch.from_numpy(marks(arrays["A"], arrays["C"]))
        else:
            arrays = {"A": np.full((self.in_features, r), np.nan), "C": np.full((r, self.out_features), np.nan)}
        # on meta there is nothing to hold, and loading brings A and C as it brings the rest
        for local, held in (("A", self.tlora_A), ("C", self.tlora_C)):
            held[adapter_name] = torch.tensor(arrays[local], dtype=dtype, device=like.device)
        B_RR = torch.zeros(r, r, dtype=dtype, device=like.device)
        if config.init_weights is False:
            nn.init.normal_(B_RR, std=r**-0.5)
        self.tlora_B[adapter_name] = nn.Parameter(B_RR)
        self.tlora_alpha[adapter_name] = nn.Parameter(torch.ones(1, dtype=dtype, device=like.device))
        self.tlora_dropout[adapter_name] = nn.Dropout(config.tlora_dropout)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def draw(self, adapter_name: str) -> dict[str, np.ndarray]:
        """The adapter's arrays at the start, float64. Raises InputError where no seed draws them."""
        return drawn(self.site[adapter_name], self.adapter[adapter_name])

    def mark(self, adapter_name: str) -> Tensor:
        """What a file without A and C holds in their place. Raises InputError where the seed does not draw them."""
        start = self.draw(adapter_name) if self.adapter[adapter_name].from_seed else {}
        for local, held in (("A", self.tlora_A), ("C", self.tlora_C)):
            array = held[adapter_name].detach().cpu()
            if not start or not torch.equal(array, torch.from_numpy(start[local]).to(array.dtype)):
                raise InputError(
                    f"{local} of {self.site[adapter_name].name} is not what projection_prng_key "
                    f"{self.adapter[adapter_name].seed} draws: save with save_projection=True"
                )
        return self.marks[adapter_name]

    def arrays(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A (I, R), B (R, R), C (R, O), alpha (1,). Raises InputError if A and C are from a gradient and were not given
        yet: between factors without numbers nothing can be computed, trained or saved."""
        if not self.given[adapter_name]:
            raise InputError(
                f"the adapter {adapter_name} on {self.site[adapter_name].name} has init_weights='gradient' and no A "
                "and C yet: initialize_tlora_gradient_weights(model, batches) makes them, or a file has them"
            )
        held = (self.tlora_A, self.tlora_B, self.tlora_C, self.tlora_alpha)
        A, B, C, alpha = (arrays[adapter_name] for arrays in held)
        return A, B, C, alpha

    @torch.no_grad()
    def give(self, adapter_name: str, A_IR: Tensor, C_RO: Tensor) -> None:
        """Take these for the adapter's A and C, rounded to its dtype."""
        self.tlora_A[adapter_name].copy_(A_IR)
        self.tlora_C[adapter_name].copy_(C_RO)
        self.given[adapter_name] = True

    def cast(self, adapter_name: str, dtype: torch.dtype) -> None:
        """Keep the adapter in that dtype."""
        for held in (self.tlora_A, self.tlora_B, self.tlora_C, self.tlora_alpha):
            held[adapter_name].data = held[adapter_name].data.to(dtype)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """To the device alone: a dtype of 16 bits would round A, C and a loaded B, and nothing gives their digits back.
        TLoraModel._cast_adapter_dtype has the last word on dtypes."""
        device = self.get_base_layer().weight.device if device is None else device
        for held in (self.tlora_A, self.tlora_B, self.tlora_C, self.tlora_alpha):
            if adapter_name in held and "meta" not in (device.type, held[adapter_name].device.type):
                held[adapter_name].data = held[adapter_name].data.to(device)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """A B C is of rank r at most: a LoRA of rank r is the same adapter."""
        return True


class Linear(nn.Module, TLoraLayer):
    """TLoRA's adapters beside an nn.Linear or a Conv1D: x (..., I) -> (..., O)."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, name: str, r: int, config: TLoraConfig) -> None:
        super().__init__()
        TLoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, name, r, config)

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """x (..., I) -> (..., O). ``adapter_names``: an adapter, or "__base__", for each row of a batch."""
        if adapter_names is not None:
            return self._mixed_batch(x, adapter_names, *args, **kwargs)
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [name for name in self.active_adapters if name in self.tlora_B]
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        if len(names) == 1 and not args and not kwargs and self._takes_fused(names[0]):
            y = tlora_linear_fused(x, self.base_layer, weight_IO(self.base_layer), *self.arrays(names[0]))
            if y is not None:
                return y
        y = self.base_layer(x, *args, **kwargs)
        dtype = y.dtype
        for name in names:
            y = self._beside(x, y, name)
        return y.to(dtype)

    def _takes_fused(self, name: str) -> bool:
        """Does one node of the graph give the gradients that are asked for? It takes the base for constant."""
        base, drop = self.base_layer, self.tlora_dropout[name]
        plain = is_linear(base) and not hooked(base)
        return plain and not (drop.training and drop.p > 0) and not any(p.requires_grad for p in base.parameters())

    def _beside(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """y and the update of one adapter."""
        A, B, C, alpha = self.arrays(name)
        if not autocasting(x):
            x = self._cast_input_dtype(x, B.dtype)
        base = self.base_layer
        return tlora_layer(x, y, weight_IO(base), base.bias, self.tlora_dropout[name], A, B, C, alpha)

    def _mixed_batch(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Every row of the batch with the adapter that is named for it."""
        if len(x) != len(adapter_names):
            raise InputError(
                f"adapter_names has {len(adapter_names)} names and {self.site_name} got {len(x)} rows, expected one "
                "name a row (beam search multiplies the rows, and is not to be had in a mixed batch)"
            )
        if self.merged:
            raise InputError(
                "Cannot pass `adapter_names` when there are merged adapters: call `unmerge_adapter` first."
            )
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        for name in sorted(set(adapter_names) & set(self.tlora_B)):
            rows = torch.tensor([i for i, given in enumerate(adapter_names) if given == name], device=x.device)
            y = y.index_copy(0, rows, self._beside(x[rows], y[rows], name).to(y.dtype))
        return y

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name in self.given:
            if all(f"{prefix}tlora_{local}.{name}" in state_dict for local in ("A", "C")):
                self.given[name] = True

    @property
    def site_name(self) -> str:
        """The layer's name in the base model."""
        return next(iter(self.site.values())).name

    def get_delta_weight(self, adapter: str) -> Tensor:
        """dW = W' - W0 in the layout of the base's weight, float32 (float64 beside a float64 base)."""
        W0_IO = weight_IO(self.base_layer)
        A, B, C, alpha = (array.detach().to(adapter_dtype(W0_IO.dtype)) for array in self.arrays(adapter))
        dW_IO = tlora_delta_w(W0_IO, A, B, C, alpha.squeeze())
        return dW_IO if is_conv1d(self.base_layer) else dW_IO.T

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put W' = W0 + dW, rounded to the dtype of W0, in the place of W0, which is kept: unmerging is exact.

        ``safe_merge``: raise InputError, with nothing changed, if W' has entries that are not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) or () if name in self.tlora_B]
        before = weight = self.get_base_weight()
        for name in names:
            weight = (weight + self.get_delta_weight(name)).to(weight.dtype)
            if safe_merge and not weight.isfinite().all():
                raise InputError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        if names:
            if not self.merged:
                self.unmerged_weight = before
            self.set_base_weight(weight)
            self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """W0 again, bit for bit."""
        if self.merged:
            self.set_base_weight(self.unmerged_weight)
            self.unmerged_weight = None
            self.merged_adapters.clear()

    def __repr__(self) -> str:
        return "tlora." + super().__repr__()
