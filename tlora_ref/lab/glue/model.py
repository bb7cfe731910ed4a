"""A sequence classifier of transformers and its tokenizer, and which of its parameters a recipe trains.

Checked by  tests/test_glue.py.

The released code fine-tunes RoBERTa-large on MNLI first and keeps that head of three classes, frozen, also for tasks
of two: --head frozen. Labels 0 and 1 of the task are then the head's first two classes, whatever these meant.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import torch
from torch import nn

from ...by_autograd.adapter_io import array_of
from ...by_autograd.inject import inject, named_modules
from ...shapes import InputError
from ...tensor_file import fingerprint
from .data import first_line, is_folder
from .recipe import Recipe
from .tasks import find_task


def load_tokenizer(where: str) -> Any:
    """The tokenizer of a folder or a name. Raises InputError if there is none, or none that can pad."""
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, where, {})
    if tokenizer.pad_token is None:
        raise InputError(f"--model {where}: its tokenizer has no padding token")
    # the advice to pad while tokenizing is not for batches that are drawn anew every epoch
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    return tokenizer


def load_base(where: str, recipe: Recipe) -> tuple[nn.Module, str]:
    """The model in float32, with the head that the recipe wants, and the fingerprint of what the checkpoint holds.

    A new head is drawn from the recipe's seed. Raises InputError for a checkpoint that cannot be read, lacks weights,
    has no head (unless a new one is wanted) or one of fewer classes than the task, or too few positions.
    """
    import transformers

    task, new = find_task(recipe.task), recipe.head == "new"
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if new:
        options |= {"num_labels": len(task.labels), "ignore_mismatched_sizes": True}
    model, info = _from_pretrained(transformers.AutoModelForSequenceClassification, where, options)
    head = head_names(model)
    missing = sorted(info["missing_keys"])
    lacking = [name for name in missing if name not in head]
    if lacking:
        raise InputError(f"--model {where} lacks weights: {lacking[0]}" + _more(lacking))
    if missing and not new:
        raise InputError(f"--model {where} has no classification head ({missing[0]} is missing); add --head new")
    if model.config.num_labels < len(task.labels):
        raise InputError(
            f"--model {where} has a head of {model.config.num_labels} classes, {task.title} has {len(task.labels)}; "
            "add --head new"
        )
    longest = positions(model)
    if longest is not None and recipe.max_length > longest:
        raise InputError(f"--max-length is {recipe.max_length}, expected at most {longest}, the positions of {where}")
    held = {name: tensor for name, tensor in model.state_dict().items() if not (new and name in head)}
    lines = [f"{name} {fingerprint(array_of(tensor))}" for name, tensor in sorted(held.items())]
    if new:
        _draw_head(model, head, recipe.train.seed)
    return model, sha256("\n".join(lines).encode()).hexdigest()


def _draw_head(model: nn.Module, head: list[str], seed: int) -> None:
    """The head as transformers draws it for a model of this configuration."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    fresh = dict(AutoModelForSequenceClassification.from_config(model.config).named_parameters())
    with torch.no_grad():
        for name in head:
            model.get_parameter(name).copy_(fresh[name])


def _from_pretrained(kind: Any, where: str, options: dict[str, Any]) -> Any:
    """from_pretrained without a word on the terminal; a folder never asks the network."""
    from transformers.utils import logging

    local, verbosity, bar = is_folder("--model", where), logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return kind.from_pretrained(where, local_files_only=local, **options)
    except ImportError:
        raise
    except Exception as error:  # a damaged folder may fail anywhere in it
        what = "cannot be used" if local else "is neither a folder here nor a model that could be fetched"
        raise InputError(f"--model {where!r} {what}: {first_line(error)}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def head_names(model: nn.Module) -> list[str]:
    """The parameters of the classification head: those outside the model's base, as transformers calls its body."""
    prefix = f"{model.base_model_prefix}."
    return [name for name, _ in model.named_parameters() if not name.startswith(prefix)]


def positions(model: nn.Module) -> int | None:
    """The longest sequence that a table of learned positions takes; None without one. RoBERTa counts positions from
    one after its padding id, so the first rows of its table are no positions."""
    for name, module in named_modules(model).items():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def prepare(model: nn.Module, recipe: Recipe) -> None:
    """Put the adapter in and choose what trains, in place. Raises InputError for targets that the model does not
    have, and whatever else ``inject`` refuses."""
    head = head_names(model)
    if recipe.adapter is None:
        model.requires_grad_(recipe.method == "full")
        for name in head:
            model.get_parameter(name).requires_grad_(True)
        return
    config = recipe.adapter
    inject(
        model,
        config.targets,
        config.rank,
        config.dropout,
        seed=config.seed,
        train_also=() if recipe.head == "frozen" else head,
        method=config.method,
        lora_alpha=config.lora_alpha,
    )


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
