"""tlora_ref: TLoRA (arXiv 2504.18735) from scratch, W' = W0 + alpha * A @ B @ C with only B and alpha trained.

The rooms:
    by_hand      NumPy, every gradient written out; imports no torch
    by_autograd  PyTorch, forward only, and TLoRA into any torch model
    gradcheck    oracles for gradients
    analysis     what training did, and the plots
    glue         the paper's experiment: a transformers model on a GLUE task
    course       exercises of the tutorials, and their graders
    jobs         what ``python -m tlora_ref JOB`` runs
Shared by all rooms:
    shapes       the table of dimension letters     config    what can be chosen
    registry     one row per kernel and per method  model     arrays by name, and which of them train
    init         seeded draws of every weight       counts    closed forms
    data         digits and their shifts            adapter_file  adapters on disk
    tensor_file  arrays and JSON with a sha256      terminal  Ctrl-C, and output that nobody takes
    text_pairs   sentence pairs of Python's manual
    export       an adapter as a LoRA for PEFT      known     shapes of well-known models
    targets      modules chosen by name             files     files that are whole or absent
    loop         schedule, batches and masks of a training run, and its history

Importing this package loads NumPy and SciPy, and neither torch nor matplotlib nor scikit-learn.
"""

from .config import AdapterConfig, EncoderConfig, TrainConfig
from .init import attach, detach, init_encoder
from .model import Model
from .shapes import InputError, ShapeError

__all__ = [
    "AdapterConfig",
    "EncoderConfig",
    "InputError",
    "Model",
    "ShapeError",
    "TrainConfig",
    "attach",
    "detach",
    "init_encoder",
]
__version__ = "0.1.0"
