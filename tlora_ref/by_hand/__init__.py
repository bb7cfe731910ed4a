"""NumPy, with every gradient written by hand. Imports no torch.

adapters.py    tlora_linear, lora_linear: the heart
family.py      the relatives: LoRA-FA, VeRA, LoRA-XS, DoRA, EDoRA, MTLoRA
bottleneck.py  Houlsby's and Pfeiffer's adapters
ops.py         linear, layer_norm, gelu, tanh, softmax, attention, embedding, pooling, cross_entropy
encoder.py     the ops composed; the backward is the forward read upwards
train.py       AdamW, warm-up and linear decay, the loop
pretrained.py  a published BERT or RoBERTa, from its folder of files
"""

from ..model import Model, unmerge
from .adapters import lora_delta_w, lora_linear_bwd, lora_linear_fwd, tlora_delta_w, tlora_linear_bwd, tlora_linear_fwd
from .encoder import encoder_bwd, encoder_fwd, hidden_states, loss_and_grads, merge
from .pretrained import load_pretrained
from .train import evaluate, train

__all__ = [
    "Model",
    "encoder_bwd",
    "encoder_fwd",
    "evaluate",
    "hidden_states",
    "load_pretrained",
    "lora_delta_w",
    "lora_linear_bwd",
    "lora_linear_fwd",
    "loss_and_grads",
    "merge",
    "tlora_delta_w",
    "tlora_linear_bwd",
    "tlora_linear_fwd",
    "train",
    "unmerge",
]
