"""tlora_ref: TLoRA (arXiv 2504.18735) from scratch, W' = W0 + alpha * A @ B @ C with only B and alpha trained.

The rooms:
    by_hand/       NumPy, with every gradient written out; imports no torch
    by_autograd/   PyTorch, forward only, and TLoRA in any torch model
    gradcheck/     oracles and a checker for anyone's gradients
    verification/  the gradients of this project, checked, and seeded bugs that test the checker
    lab/           the experiments, and the jobs that ``python -m tlora_ref JOB`` runs
    course/        the exercises of the tutorials, and their graders
Shared by all rooms:
    shapes.py        the table of dimension letters
    methods.py       what a method is, and the table of all
    config.py        what can be chosen
    model.py         arrays by name, and which of them train
    init.py          seeded draws of every weight
    counts.py        how many numbers a method trains, stores and keeps in the optimizer
    training.py      the one loop: batches, masks, learning rate and history
    paper.py         what the paper and its released code claim
    known.py         the shapes of well-known models
    adapter_file.py  the format of an adapter file
    export.py        an adapter as a LoRA for PEFT
    files.py         files and folders that are whole or absent
    targets.py       modules chosen by name
    tables.py        the tables and JSON files of the jobs
    __main__.py      the command line

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
