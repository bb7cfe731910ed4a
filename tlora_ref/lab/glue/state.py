"""What a run leaves on disk after every epoch, and goes on from after an interruption.

Format      a tensor file (tensor_file.py) of the kind "tlora_ref_run": every trained array under its name in the
            model, AdamW's state of it under NAME/exp_avg, NAME/exp_avg_sq and NAME/step; and
                version  of this format
                run      what the run is: the recipe, the seed, and the fingerprints of model and data
                record   the loss of every step and what every epoch was evaluated to
                scaler   the state of the gradient scaler (fp16), else empty
Checked by  tests/test_glue.py: a killed run goes on to the same bits as one that was left alone;
            tests/test_glue_state.py: damaged files are refused, and nothing has changed (by the thousand: job fuzz).

Nothing is pickled, a file is whole or the one before it, and no state of a random generator is kept: every epoch
starts its generators from the seed and its number (run.py), and the step of the schedule follows from the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...by_autograd.adapter_io import array_of, tensor_of
from ...shapes import InputError
from ...tensor_file import array_dtype, read_tensors, shown, write_tensors

KIND, VERSION = "tlora_ref_run", 2
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Record:
    """What a run did: the loss of every step; per epoch its number from 1, the loss on the validation set, the task's
    metrics, and the seconds that training and evaluating took."""

    loss: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What a record of a run must agree with: steps an epoch, epochs in all, and the names of what is measured."""

    per_epoch: int
    epochs: int
    metrics: Sequence[str]


def save_state(
    path: Path,
    params: Mapping[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    run: Mapping[str, Any],
    record: Record,
) -> None:
    """Write the state of a run between two epochs, whole or not at all. Raises InputError for a number in it that is
    not finite."""
    arrays = {name: array_of(p) for name, p in params.items()}
    for name, p in params.items():
        # empty before the first step, which a gradient scaler may have left out
        state = optimizer.state.get(p, {})
        arrays |= {f"{name}/{moment}": array_of(state[moment]) for moment in MOMENTS if state}
    content = {"version": VERSION, "run": run, "record": asdict(record), "scaler": scaler.state_dict()}
    write_tensors(path, KIND, content, arrays)


def load_state(
    path: Path,
    params: Mapping[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    run: Mapping[str, Any],
    plan: Plan,
) -> Record:
    """Put a saved state in place and return its record.

    Raises InputError, before anything is changed, for a file that is none, that is damaged or makes no sense, or one
    of another run; the message names the first difference.
    """
    try:
        content, arrays = read_tensors(path, KIND, "a checkpoint of a run", VERSION)
    except InputError as error:
        raise InputError(f"{error}; move it away or choose another --out") from None
    try:
        if not isinstance(content["run"], dict):
            raise InputError(f"describes a run as {shown(content['run'])}")
        check_same(content["run"], run, path)
        record = _record(content["record"], plan)
        _check_scaler(content["scaler"], scaler.state_dict())
        _check_arrays(arrays, params, plan.per_epoch * len(record.epochs))
    except AnotherRun:
        raise
    except InputError as error:
        raise InputError(f"{path} {error}; move it away or choose another --out") from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} makes no sense ({shown(error)}); move it away or choose another --out") from None

    with torch.no_grad():
        for name, p in params.items():
            p.copy_(tensor_of(arrays[name], p))
    state = optimizer.state_dict()
    moments = [{m: arrays[f"{name}/{m}"] for m in MOMENTS if f"{name}/{m}" in arrays} for name in params]
    state["state"] = {
        i: {m: torch.from_numpy(array.copy()) for m, array in of_one.items()}
        for i, of_one in enumerate(moments)
        if of_one
    }
    optimizer.load_state_dict(state)
    scaler.load_state_dict(content["scaler"])
    return record


def _record(given: Mapping[str, Any], plan: Plan) -> Record:
    """The record of a file. Raises InputError unless it is one of whole epochs of the plan."""
    losses, epochs = given["loss"], given["epochs"]
    if not (set(given) == {"loss", "epochs"} and isinstance(losses, list) and isinstance(epochs, list)):
        raise InputError(f"holds a record of {shown(list(given))}, expected the lists loss and epochs")
    if not 1 <= len(epochs) <= plan.epochs:
        raise InputError(f"holds {len(epochs)} epochs, expected 1 to {plan.epochs}")
    if len(losses) != plan.per_epoch * len(epochs):
        raise InputError(f"holds {len(losses)} losses, expected {plan.per_epoch} in each of {len(epochs)} epochs")
    names = {"epoch", "loss", "seconds", *plan.metrics}
    for number, epoch in enumerate(epochs, 1):
        if set(epoch) != names or epoch["epoch"] != number:
            raise InputError(f"holds {shown(epoch)} as epoch {number}, expected its {', '.join(sorted(names))}")
    for value in (*losses, *(value for epoch in epochs for value in epoch.values())):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            raise InputError(f"holds {shown(value)} in its record, expected finite numbers")
    return Record(losses, epochs)


def _check_scaler(given: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raise InputError unless the state of a gradient scaler can be that of this one."""
    if set(given) != set(present):
        raise InputError(f"holds {shown(sorted(given))} of a gradient scaler, expected {sorted(present)}")
    for name, value in given.items():
        kinds = int if isinstance(present[name], int) else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool) and isfinite(value)
        if not (right and (value > 0 or (name == "_growth_tracker" and value == 0))):
            raise InputError(f"holds {shown(value)} as the gradient scaler's {name}")


def _check_arrays(arrays: Mapping[str, np.ndarray], params: Mapping[str, nn.Parameter], steps: int) -> None:
    """Raise InputError unless the arrays, known to be finite, are these parameters and AdamW's state after at most
    ``steps`` steps."""
    moments = {name for name in arrays if name.rpartition("/")[0] in params}
    expected = dict.fromkeys(params) | {f"{name}/{m}": None for name in params for m in MOMENTS if moments}
    for names, word in ((expected, "lacks"), (arrays, "has a surplus")):
        other = arrays if names is expected else expected
        wrong = [name for name in names if name not in other]
        if wrong:
            raise InputError(f"{word} array {wrong[0]}")
    counts = set()
    for name, array in arrays.items():
        module, _, moment = name.rpartition("/")
        p = params[name] if name in params else params[module]
        step = name not in params and moment == "step"
        shape, dtype = ((), "float32") if step else (tuple(p.shape), str(p.dtype).removeprefix("torch."))
        if (array.shape, array_dtype(array)) != (shape, dtype):
            raise InputError(f"has {name} as {array.shape} {array_dtype(array)}, expected {shape} {dtype}")
        if name not in params and moment == "exp_avg_sq" and (array < 0).any():
            raise InputError(f"has numbers below 0 in {name}, expected a mean of squares")
        if step:
            counts.add(float(array))
    # a gradient scaler leaves steps out, for all arrays the same
    if len(counts) > 1 or not all(count.is_integer() and 1 <= count <= steps for count in counts):
        raise InputError(f"has AdamW after {shown(sorted(counts))} steps, expected one whole number up to {steps}")


class AnotherRun(InputError):
    """A file of another run than the one that was asked for; the message names the first difference."""


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    """Raise AnotherRun unless a file of ``path`` describes this run."""
    for key in dict.fromkeys((*here, *there)):
        if there.get(key) != here.get(key):
            raise AnotherRun(
                f"{path} is of another run: {str(key)[:100]} is {shown(there.get(key))} there and "
                f"{shown(here.get(key))} here; choose another --out"
            )
