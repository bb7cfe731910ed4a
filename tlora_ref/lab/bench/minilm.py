"""A step at a real size: loss and gradients of MiniLM with TLoRA on query and value of every layer, by hand and in
PyTorch.

Equation    6 layers, width 384, 12 heads, hidden width 1,536; 32 questions of up to 24 tokens
Checked by  tests/test_bench.py, tests/test_text.py
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...by_hand import load_pretrained, loss_and_grads
from ...config import AdapterConfig, EncoderConfig
from ...init import attach, init_encoder
from ...model import Model
from ..language import BATCH, PACKAGE, Tokens, minilm
from ..runs import one_thread, one_torch_thread
from .timing import interleaved

RANK = 32
SHAPE = EncoderConfig(width=384, layers=6, heads=12, hidden=1536, time=24, classes=6, vocab=1000, types=2, eps=1e-12)
"""MiniLM's, with fewer words: of a word's row nothing is computed, it is looked up."""


def step_times(model: Model, tokens: Tokens, repeats: int = 5) -> dict[str, Any] | None:
    """Milliseconds of CPU time for loss and gradients of one batch by hand and in PyTorch, TLoRA on every layer:
    medians of interleaved repeats on one thread each, and the quartiles of the ratio. None where PyTorch is not
    installed."""
    if find_spec("torch") is None:
        return None
    from ...by_autograd import loss_and_grads as autograd_loss_and_grads
    from ...by_autograd import to_torch

    model = attach(model, AdapterConfig("tlora", rank=min(RANK, model.config.width)))
    twin, batch = to_torch(model), (tokens.ids[:BATCH], tokens.y[:BATCH], tokens.mask[:BATCH])
    steps = {"by_hand": lambda: loss_and_grads(model, *batch), "torch": lambda: autograd_loss_and_grads(twin, *batch)}
    with one_thread(), one_torch_thread():
        times = interleaved(steps, "torch", rounds=(repeats, repeats), clock=time.process_time)
    found = {name: of_one.summary() for name, of_one in times.items()}
    return {"batch": len(batch[1]), "tokens": tokens.ids.shape[1],
            **{f"{name}_ms": 1000 * of_one["seconds"] for name, of_one in found.items()},
            **{key: found["by_hand"][key] for key in ("ratio", "low", "high")}}  # fmt: skip


def measure(repeats: int) -> dict[str, Any]:
    """The step of the package's model, or of one of its shape with random numbers where the package is not installed;
    of random words, the shortest questions a quarter as long as the longest."""
    packaged = find_spec(PACKAGE) is not None
    model = load_pretrained(minilm(), classes=SHAPE.classes, pool="mean") if packaged else init_encoder(SHAPE)
    rng, T = np.random.default_rng(0), SHAPE.time
    ids, mask = rng.integers(0, SHAPE.vocab, (BATCH, T)), np.arange(T) < rng.integers(T // 4, T + 1, (BATCH, 1))
    step = step_times(model, Tokens(ids, mask, rng.integers(0, SHAPE.classes, BATCH)), repeats)
    assert step is not None
    return {"model": "MiniLM", "weights": PACKAGE if packaged else "random", "rank": RANK, **step}
