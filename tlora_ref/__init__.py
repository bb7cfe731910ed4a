"""tlora_ref: TLoRA (arXiv 2504.18735) from scratch, W' = W0 + alpha * A @ B @ C with only B and alpha trained.

The rooms:
    by_hand/       NumPy, with every gradient written out; imports no torch. Start at by_hand/methods/tlora.py
    by_autograd/   PyTorch, forward only, and TLoRA in any torch model
    peft/          TLoRA as a method of Hugging Face PEFT
    gradcheck/     oracles and a checker for anyone's gradients
    verification/  the gradients of this project, checked, and seeded bugs that test the checker
    lab/           the experiments, and the jobs that ``python -m tlora_ref JOB`` runs
    course/        the exercises of the tutorials, and their graders
Shared by all rooms:
    shapes.py        the table of dimension letters, and the decorator that checks arrays by their names
    methods.py       what a kernel and an adapter method are, as data
    config.py        what can be chosen
    model.py         arrays by name, and which of them train
    draws.py         seeded draws, a stream for every array
    factors.py       frozen factors that are orthogonal: random, of W0, of a gradient
    init.py          a fresh encoder; an adapter attached and detached
    counts.py        how many numbers a method trains, stores and keeps in the optimizer
    room.py          what a room offers to the code that both share
    training.py      the one loop: batches, masks, learning rate and history
    growth.py        the rank of an adapter, grown while it trains
    merging.py       merge, unmerge and fold
    chains.py        chains of adapters, each folded into the weights: RAC-LoRA, COLA, AsymmLoRA, XGBLoRA
    allocate.py      which matrices get an adapter, and of which rank, from data: GeLoRA, DiffoRA
    paper.py         what the paper and its released code claim
    known.py         the shapes of well-known models
    tensor_file.py   files of tensors, read whole and checked
    adapter_file.py  the format of an adapter file
    export.py        an adapter as a LoRA, or as TLoRA, for PEFT
    peft_folder.py   the folder of a TLoRA adapter in PEFT
    files.py         files and folders that are whole or absent
    targets.py       modules chosen by name
    tables.py        the tables and JSON files of the jobs
    terminal.py      what Ctrl-C and a closed output do to a job
    __main__.py      the command line

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
