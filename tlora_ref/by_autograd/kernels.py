"""The PyTorch twin of every kernel pair, by the names of by_hand/kernels.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ..by_hand.methods import METHODS
from . import ops
from .methods import TWINS, bottleneck, dora, hta, lora_xs, lorta, soda

KERNEL_TWINS: dict[str, Callable[..., Tensor]] = {
    **{METHODS[name].kernel.name: twin.linear for name, twin in TWINS.items()},
    "linear": ops.linear,
    "frozen_linear": ops.frozen_linear,
    "layer_norm": ops.layer_norm,
    "gelu": ops.gelu,
    "tanh": ops.tanh,
    "softmax": ops.softmax,
    "attention": ops.attention,
    "embedding": ops.embedding,
    "mean_pool": ops.mean_pool,
    "first_token": ops.first_token,
    "cross_entropy": ops.cross_entropy,
    "tri_linear": lora_xs.tri_linear,
    "column_norm": dora.column_norm,
    "rescale": dora.rescale,
    "relu": bottleneck.relu,
    "cp_factor": lorta.cp_factor,
    "kron": soda.kron,
    "reflect": hta.reflect,
    "reflect_unit": partial(hta.reflect, unit=True),
}
