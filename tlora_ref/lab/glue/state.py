"""What a run leaves on disk after every epoch, and goes on from after an interruption.

Format      safetensors: every trained array under its name in the model, AdamW's state of it under
            NAME/exp_avg, NAME/exp_avg_sq and NAME/step. The metadata hold one entry, "tlora_ref_run": JSON with
                version  of this format
                run      what the run is: the recipe, the seed, and the fingerprints of model and data
                record   the loss of every step and what every epoch was evaluated to
                scaler   the state of the gradient scaler (fp16), else empty
Checked by  tests/test_glue.py: a killed run goes on to the same bits as one that was left alone.

Nothing is pickled, a file is whole or the one before it, and no state of a random generator is kept: every epoch
starts its generators from the seed and its number (run.py), and the step of the schedule follows from the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ...files import write_atomic
from ...shapes import InputError

VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Record:
    """What a run did: the loss of every step; per epoch its number from 1, the loss on the validation set, the task's
    metrics, and the seconds that training and evaluating took."""

    loss: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


def save_state(
    path: Path,
    params: Mapping[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    run: Mapping[str, Any],
    record: Record,
) -> None:
    """Write the state of a run between two epochs, whole or not at all."""
    tensors = {name: p.detach() for name, p in params.items()}
    for name, p in params.items():
        # empty before the first step, which a gradient scaler may have left out
        state = optimizer.state.get(p, {})
        tensors |= {f"{name}/{moment}": state[moment] for moment in MOMENTS if state}
    content = {"version": VERSION, "run": run, "record": asdict(record), "scaler": scaler.state_dict()}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, safetensors.torch.save(tensors, {"tlora_ref_run": json.dumps(content)}))


def load_state(
    path: Path,
    params: Mapping[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    run: Mapping[str, Any],
) -> Record:
    """Put a saved state in place and return its record. Raises InputError, before anything is changed, for a file
    that is no saved state, or that belongs to another run; the message names the first difference."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = json.loads(metadata["tlora_ref_run"])
    except (OSError, SafetensorError, ValueError, KeyError):
        raise InputError(f"{path} is damaged or no checkpoint of a run; move it away or choose another --out") from None
    if content["version"] != VERSION:
        raise InputError(f"{path} has format version {content['version']}, expected {VERSION}")
    check_same(content["run"], run, path)
    for name, p in params.items():
        if name not in tensors or tensors[name].shape != p.shape:
            raise InputError(f"{path} has no array {name} of shape {tuple(p.shape)}; choose another --out")
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(tensors[name])
    state = optimizer.state_dict()
    moments = [{m: tensors[f"{name}/{m}"] for m in MOMENTS if f"{name}/{m}" in tensors} for name in params]
    state["state"] = {i: of_one for i, of_one in enumerate(moments) if of_one}
    optimizer.load_state_dict(state)
    scaler.load_state_dict(content["scaler"])
    return Record(**content["record"])


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    """Raise InputError unless a file of ``path`` describes this run."""
    for key in dict.fromkeys((*here, *there)):
        if there.get(key) != here.get(key):
            raise InputError(
                f"{path} is of another run: {key} is {there.get(key)!r} there and {here.get(key)!r} here; "
                "choose another --out"
            )
