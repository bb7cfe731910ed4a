"""Damaged and hostile adapter files and checkpoints, by the thousand: what becomes of each.

    python -m tlora_ref fuzz
    python -m tlora_ref fuzz --adapters 20000 --checkpoints 10000 --seed 1

Half of the files have damaged bytes, half say something else and have a right sha256 (lab/damage.py). Columns: taken as
whole with the very content that was saved, with another content, refused with a sentence, anything else than a
sentence (crashed), refused when the model had been changed already, more memory than a hundred times the file.
Adapter files are read in both rooms where torch is installed; checkpoints (the state of a run of ``glue``) need it.

Exit code 1 if a file crashed, changed a model or took too much, or if damaged bytes were taken for another content.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ... import adapter_file
from ...config import AdapterConfig, EncoderConfig
from ...init import attach, init_encoder
from ...shapes import InputError
from ...tables import table
from ...tensor_file import fingerprint, read_tensors
from ..damage import damage_bytes, say_otherwise
from ..runs import run_all

OUTCOMES = ("same", "other", "refused", "crashed", "changed", "memory")
DAMAGES = ("bytes", "content")
BLOCK = 50
"""Files of one task."""

MEMORY = 30_000_000
"""Bytes that reading one of these files may take; they are of a few thousand."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``fuzz``."""
    parser.add_argument(
        "--adapters", type=int, default=2000, help="The number of damaged adapter files. Default: 2000."
    )
    parser.add_argument(
        "--checkpoints", type=int, default=1000, help="The number of damaged checkpoints. Default: 1000."
    )
    parser.add_argument("--seed", type=int, default=0, help="The seed of the damage. Default: 0.")


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 if every file was refused with a sentence or rightly taken."""
    for name in ("adapters", "checkpoints", "seed"):
        if getattr(args, name) < 0:
            raise InputError(f"--{name} is {getattr(args, name)}, expected at least 0")
    if args.checkpoints and not find_spec("torch"):
        print("torch is not installed: no checkpoints, and adapter files by hand only", file=sys.stderr)
    tasks = [
        (what, first, min(BLOCK, total - first), args.seed)
        for what, total in (("adapter", args.adapters), ("checkpoint", args.checkpoints if find_spec("torch") else 0))
        for first in range(0, total, BLOCK)
    ]
    counts, bad = Counter(), []
    for (what, *_), found in zip(tasks, run_all(work, None, tasks, "files"), strict=True):
        counts.update({(what, *key.split()): n for key, n in found["counts"].items()})
        bad += found["bad"]
    rows = [(what, damage) for what in ("adapter", "checkpoint") for damage in DAMAGES]
    lines = [[f"{what}, {damage}", *(f"{counts[what, damage, outcome]:,}" for outcome in OUTCOMES)]
             for what, damage in rows]  # fmt: skip
    totals = [f"{sum(counts[what, damage, outcome] for what, damage in rows):,}" for outcome in OUTCOMES]
    print(table(["damaged", *OUTCOMES], [*lines, ["all", *totals]]))
    for line in bad:
        print(line)
    return 1 if bad else 0


def work(_: None, task: tuple[str, int, int, int]) -> dict[str, Any]:
    """The outcomes of one block of files, counted, and a line on every one that should not be."""
    what, first, count, seed = task
    subjects = adapters() if what == "adapter" else checkpoints()
    counts, bad = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for number in range(first, first + count):
            subject = subjects[number // 2 % len(subjects)]
            damage = DAMAGES[number % 2]
            rng = np.random.default_rng([seed, what == "adapter", number])
            if damage == "bytes":
                done, data = damage_bytes(rng, subject.data)
            else:
                done, data = say_otherwise(rng, subject.kind, *subject.said)
            path.write_bytes(data)
            outcome, told = what_becomes(subject, path)
            counts[f"{damage} {outcome}"] += 1
            if outcome in ("crashed", "changed", "memory") or (damage, outcome) == ("bytes", "other"):
                bad.append(f"{what} {number}, {subject.name}, {done}: {outcome}: {told}")
    return {"counts": counts, "bad": bad}


@dataclass(frozen=True)
class Subject:
    """A file, and what reads it: ``fresh`` makes a model, ``load`` puts the file into it and returns the model that
    has it, ``bits`` are the fingerprints of all that loading could change."""

    name: str
    kind: str
    data: bytes
    said: tuple[dict[str, Any], dict[str, np.ndarray]]
    fresh: Callable[[], Any]
    load: Callable[[Any, Path], Any]
    bits: Callable[[Any], Any]
    whole: Any  # the bits after the file was loaded as it was saved


def what_becomes(subject: Subject, path: Path) -> tuple[str, str]:
    """(outcome, what was told) of one file."""
    model = subject.fresh()
    before = subject.bits(model)
    tracemalloc.start()
    try:
        loaded = subject.load(model, path)
        outcome, told = ("same" if subject.bits(loaded) == subject.whole else "other"), ""
    except InputError as error:
        outcome, told = "refused", str(error)
        if "\n" in told or len(told) > 1000:
            outcome, told = "crashed", f"a message of {len(told)} characters: {told[:200]!r}"
        elif subject.bits(model) != before:
            outcome = "changed"
    except Exception as error:
        outcome, told = "crashed", f"{type(error).__name__}: {str(error)[:200]}"
        if subject.bits(model) != before:
            outcome = "changed"
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return ("memory", f"{most:,} bytes") if most > MEMORY else (outcome, told)


def _subject(
    name: str,
    kind: str,
    version: int,
    save: Callable[[Path], None],
    fresh: Callable[[], Any],
    load: Callable[[Any, Path], Any],
    bits: Callable[[Any], Any],
) -> Subject:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        save(path)
        whole = bits(load(fresh(), path))
        return Subject(name, kind, path.read_bytes(), read_tensors(path, kind, name, version), fresh, load, bits, whole)


# --- adapter files -------------------------------------------------------------------------------

ENCODER = EncoderConfig(width=8, layers=2, heads=2, hidden=12, time=5, features=6, classes=3)
METHODS = (("tlora", True), ("tlora", False), ("lora", True), ("vera", True), ("edora", False), ("adapter_h", True))
"""(method, compact): all kinds of files."""


@cache
def adapters() -> list[Subject]:
    """Files of a Model by hand, and of a torch model where torch is installed."""
    found = [_by_hand(method, compact) for method, compact in METHODS]
    if find_spec("torch"):
        found += [_by_autograd(method, compact) for method, compact in METHODS if method != "adapter_h"]
    return found


def _by_hand(method: str, compact: bool) -> Subject:
    from ...by_hand import load_adapter, save_adapter

    base = init_encoder(ENCODER, 0).training(())
    trained = attach(base, AdapterConfig(method, rank=3, seed=4), train_also=("head.W", "head.b"))
    rng = np.random.default_rng(5)
    moved = {n: (trained.params[n] + rng.standard_normal(trained.params[n].shape)).astype(np.float32)
             for n in sorted(trained.trained)}  # fmt: skip
    trained = trained.with_params(moved)

    def bits(model: Any) -> Any:
        params = {name: fingerprint(np.asarray(array)) for name, array in model.params.items()}
        return params, model.trained, model.adapter

    return _subject(
        name=f"{method} by hand",
        kind=adapter_file.KIND,
        version=adapter_file.VERSION,
        save=lambda path: save_adapter(trained, path, compact),
        fresh=lambda: base.with_params({name: array.copy() for name, array in base.params.items()}),
        load=load_adapter,
        bits=bits,
    )


def _by_autograd(method: str, compact: bool) -> Subject:
    import re

    import torch
    from torch import nn

    from ...by_autograd import load_adapter, save_adapter
    from ...by_autograd.adapter_io import array_of
    from ...by_autograd.inject import inject

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        blocks = [nn.ModuleDict({"query": nn.Linear(7, 5), "value": nn.Linear(5, 9)}) for _ in range(2)]
        return nn.ModuleDict({"blocks": nn.ModuleList(blocks), "head": nn.Linear(9, 3)})

    trained = fresh()
    inject(trained, (re.compile(r"blocks\.\d\.query"), "value"), rank=3, seed=4, train_also=("head",), method=method)
    with torch.no_grad():
        for p in trained.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))

    def bits(model: nn.Module) -> Any:
        tensors = {name: fingerprint(array_of(tensor)) for name, tensor in model.state_dict().items()}
        settings = [str(getattr(module, "adapter", "")) for module in model.modules()]
        return tensors, settings, [name for name, p in model.named_parameters() if p.requires_grad]

    return _subject(
        name=f"{method} by autograd",
        kind=adapter_file.KIND,
        version=adapter_file.VERSION,
        save=lambda path: save_adapter(trained, path, compact),
        fresh=fresh,
        load=load_adapter,
        bits=bits,
    )


# --- checkpoints ---------------------------------------------------------------------------------


@cache
def checkpoints() -> list[Subject]:
    """The state of a run in each precision that keeps something of its own, as ``glue`` leaves it."""
    return [_checkpoint(scaled) for scaled in (False, True)]


def _checkpoint(scaled: bool) -> Subject:
    import torch
    from torch import nn

    from ...by_autograd.adapter_io import array_of
    from ..glue.state import KIND, VERSION, Plan, Record, load_state, save_state

    described = {"task": "mrpc", "method": "tlora", "lr": 1e-3, "seed": 0}
    plan = Plan(per_epoch=2, epochs=3, metrics=("accuracy",))
    epochs = [{"epoch": n, "loss": 0.5, "accuracy": 0.25 * n, "seconds": 1.0} for n in (1, 2)]
    record = Record([0.7, 0.6, 0.5, 0.4], epochs)

    def state(seed: int, steps: int) -> Any:
        torch.manual_seed(seed)
        params = dict(nn.Linear(3, 2).named_parameters())
        optimizer = torch.optim.AdamW(params.values(), lr=0.1)
        for _ in range(steps):
            for p in params.values():
                p.grad = torch.randn_like(p)
            optimizer.step()
        return params, optimizer, torch.amp.GradScaler("cpu", enabled=scaled), []

    def load(there: Any, path: Path) -> Any:
        params, optimizer, scaler, records = there
        records.append(load_state(path, params, optimizer, scaler, described, plan))
        return there

    def bits(there: Any) -> Any:
        params, optimizer, scaler, records = there
        held = {name: fingerprint(array_of(p)) for name, p in params.items()}
        moments = optimizer.state_dict()["state"].items()
        return (
            held,
            {i: {k: fingerprint(array_of(v)) for k, v in of.items()} for i, of in moments},
            str((scaler.state_dict(), records)),
        )

    return _subject(
        name="a run in fp16" if scaled else "a run",
        kind=KIND,
        version=VERSION,
        save=lambda path: save_state(path, *state(0, 4)[:3], described, record),
        fresh=lambda: state(1, 1),
        load=load,
        bits=bits,
    )
