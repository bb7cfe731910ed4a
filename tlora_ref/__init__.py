"""tlora_ref: TLoRA (arXiv 2504.18735) from scratch, W' = W0 + alpha * A @ B @ C with only B and alpha trained.

The rooms:
    by_hand       NumPy, every gradient written out; imports no torch. Start at by_hand/methods/tlora.py
    by_autograd   PyTorch, forward only, and TLoRA into any torch model
    gradcheck     oracles and a checker for anyone's gradients
    verification  this project's own gradients: scenarios, the suite, seeded bugs
    course        exercises of the tutorials, and their graders
    lab           experiments: what ``python -m tlora_ref JOB`` runs
Shared by the rooms:
    shapes        the table of dimension letters     methods    what a kernel and a method are
    config        what can be chosen                 model      arrays by name, and which of them train
    draws         seeded draws, a stream per array   init       a fresh encoder; attach and detach
    counts        closed forms                       training   the one training loop
    room          what a room offers to both         merging    merge, unmerge, fold
    checkpoint    adapter files                      export     an adapter as a LoRA for PEFT
    known         shapes of well-known models        paper      what the paper published
    targets       modules chosen by name             files      files that are whole or absent
    tables        tables and result files

Importing this package loads NumPy and SciPy, and neither torch nor matplotlib nor scikit-learn.
"""

# by_hand comes first: config knows the methods by name, and their pages are in there
from . import by_hand
from .config import AdapterConfig, EncoderConfig, TrainConfig
from .init import attach, detach, init_encoder
from .merging import fold, merge, unmerge
from .model import Model
from .shapes import InputError, ShapeError
from .training import evaluate, train

__all__ = [
    "AdapterConfig",
    "EncoderConfig",
    "InputError",
    "Model",
    "ShapeError",
    "TrainConfig",
    "attach",
    "by_hand",
    "detach",
    "evaluate",
    "fold",
    "init_encoder",
    "merge",
    "train",
    "unmerge",
]
__version__ = "0.1.0"
