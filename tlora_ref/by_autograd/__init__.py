"""PyTorch, forward only, with the gradients by autograd. The same file and function names as by_hand.

adapters.py  tlora_linear, lora_linear: the heart
family.py    the relatives: LoRA-FA, VeRA, LoRA-XS, DoRA, EDoRA, MTLoRA
bottleneck.py  Houlsby's and Pfeiffer's adapters
ops.py       linear, layer_norm, gelu, tanh, softmax, attention, embedding, pooling, cross_entropy
encoder.py   the ops composed; to_torch and to_numpy carry a model from one room to the other
train.py     torch's AdamW, warm-up and linear decay, the loop
linear.py    AdaptedLinear, TLoRALinear: a method beside a linear layer of any torch model
fused.py     TLoRA's layer without dropout in one node of autograd's graph
inject.py    inject, merge, unmerge, remove, disable: by the names of a model's modules
"""

from ..model import Model, unmerge
from .adapters import lora_delta_w, lora_linear, tlora_delta_w, tlora_linear
from .encoder import encoder, hidden_states, loss_and_grads, merge, to_numpy, to_torch
from .train import evaluate, train

__all__ = [
    "Model",
    "encoder",
    "evaluate",
    "hidden_states",
    "lora_delta_w",
    "lora_linear",
    "loss_and_grads",
    "merge",
    "tlora_delta_w",
    "tlora_linear",
    "to_numpy",
    "to_torch",
    "train",
    "unmerge",
]
