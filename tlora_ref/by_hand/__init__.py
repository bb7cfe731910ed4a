"""NumPy, with every gradient written by hand. Imports no torch.

methods/        one page per adapter method, TLoRA's first: arrays, start, forward, backward
ops.py          linear, layer_norm, gelu, tanh, softmax, attention, embedding, pooling, cross_entropy
encoder.py      the ops and an adapter composed; the backward is the forward read upwards
optimizers.py   AdamW, and Stiefel for matrices that stay orthogonal
lora_rite.py    LoRA-RITE: steps that depend on the product A B and not on how it is split
pretrained.py   a published BERT or RoBERTa, from its folder of files
kernels.py      every kernel pair by name
fast.py         tricks for speed, each with its measured gain
gradient_factors.py  TLoRA's A and C along the singular vectors of a loss's gradient
adapter_io.py   save_adapter, load_adapter: adapter files

The training loop is tlora_ref.training: ``train(by_hand, model, inputs, labels, config)``.
"""

from .adapter_io import load_adapter, save_adapter
from .encoder import delta_w, encoder_bwd, encoder_fwd, hidden_states, loss_and_grads, loss_and_logits, own, to_numpy
from .gradient_factors import gradient_factors
from .kernels import KERNELS
from .methods import METHODS
from .methods.lora import lora_delta_w, lora_linear_bwd, lora_linear_fwd
from .methods.tlora import tlora_delta_w, tlora_linear_bwd, tlora_linear_fwd
from .optimizers import OPTIMIZERS
from .pretrained import load_pretrained

__all__ = [
    "KERNELS",
    "METHODS",
    "OPTIMIZERS",
    "delta_w",
    "encoder_bwd",
    "encoder_fwd",
    "gradient_factors",
    "hidden_states",
    "load_adapter",
    "load_pretrained",
    "lora_delta_w",
    "lora_linear_bwd",
    "lora_linear_fwd",
    "loss_and_grads",
    "loss_and_logits",
    "own",
    "save_adapter",
    "tlora_delta_w",
    "tlora_linear_bwd",
    "tlora_linear_fwd",
    "to_numpy",
]
