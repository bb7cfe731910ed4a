"""PyTorch, forward only, with the gradients by autograd. The same file and function names as by_hand.

methods/        one page per adapter method: its twin
ops.py          linear, layer_norm, gelu, tanh, softmax, attention, embedding, pooling, cross_entropy
encoder.py      the ops and an adapter composed; to_torch and to_numpy carry a model from one room to the other
optimizers.py   torch's AdamW, and Stiefel for matrices that stay orthogonal
lora_rite.py    LoRARite: steps that depend on the product A B and not on how it is split
twin.py         what the twin of a method is
kernels.py      the twin of every kernel pair by name
linear.py       AdaptedLinear, TLoRALinear: a method beside a linear layer of any torch model
fused.py        TLoRA's layer without dropout in one node of autograd's graph
inject.py       inject, merge, unmerge, remove, disable, merge_and_unload: by the names of a model's modules
beside.py       what trains beside the adapters of such a model, and what it was before
verify.py       verify: does every adapter of such a model do something?
gradient_factors.py  TLoRA's A and C along the singular vectors of a loss's gradient, in any torch model
adapter_io.py   save_adapter, load_adapter: adapter files

Forward, backward and optimizers stay on the device of their arguments, and read no number from it: tests/test_meta.py.

The training loop is tlora_ref.training: ``train(by_autograd, to_torch(model), inputs, labels, config)``.
"""

from .adapter_io import load_adapter, save_adapter
from .encoder import (
    delta_w,
    encoder,
    hidden_states,
    loss_and_grads,
    loss_and_logits,
    own,
    to_numpy,
    to_torch,
)
from .kernels import KERNEL_TWINS
from .methods import TWINS
from .methods.lora import lora_delta_w, lora_linear
from .methods.tlora import tlora_delta_w, tlora_linear
from .optimizers import OPTIMIZERS

__all__ = [
    "KERNEL_TWINS",
    "OPTIMIZERS",
    "TWINS",
    "delta_w",
    "encoder",
    "hidden_states",
    "load_adapter",
    "lora_delta_w",
    "lora_linear",
    "loss_and_grads",
    "loss_and_logits",
    "own",
    "save_adapter",
    "tlora_delta_w",
    "tlora_linear",
    "to_numpy",
    "to_torch",
]
