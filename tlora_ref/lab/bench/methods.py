"""A training step with every registered method, in both rooms, over the step that trains the head alone.

Equation    forward and gradients of an encoder of 2 layers, width 128, 64 sequences of 16 tokens, float32, each method
            at its natural rank and on its own targets
Checked by  tests/test_bench.py; tests/test_house.py: a new method is measured unasked
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ... import by_autograd, by_hand
from ...by_hand.methods import METHODS
from ...config import AdapterConfig
from ...counts import held
from ...init import attach, init_encoder
from .encoder import data, encoder_config
from .timing import interleaved

WIDTH = 128
FLOOR = "head alone"


def measure(seconds: float) -> list[dict[str, Any]]:
    """A row per method: what it trains, and its step's time over the head's, by hand and by autograd."""
    import torch

    from ...by_autograd.encoder import leaves

    x, y = data()
    tokens, labels = torch.from_numpy(x), torch.from_numpy(y)
    base = init_encoder(encoder_config(WIDTH))
    models = {FLOOR: replace(base, trained=frozenset({"head.W", "head.b"}))}
    models |= {
        name: attach(base, AdapterConfig(method=name, rank=method.rank), train_also=("head.W", "head.b"))
        for name, method in METHODS.items()
    }
    hand = {name: lambda m=model: by_hand.loss_and_grads(m, x, y) for name, model in models.items()}
    twins = {name: leaves(by_autograd.to_torch(model)) for name, model in models.items()}
    twin = {name: lambda m=model: by_autograd.loss_and_grads(m, tokens, labels) for name, model in twins.items()}
    by_hand_times, twin_times = interleaved(hand, FLOOR, seconds), interleaved(twin, FLOOR, seconds)
    return [
        {
            "method": METHODS[name].label,
            "rank": METHODS[name].rank,
            "trained": held(models[name]).trained,
            **{f"{key}_by_hand": value for key, value in by_hand_times[name].summary().items()},
            **{f"{key}_torch": value for key, value in twin_times[name].summary().items()},
        }
        for name in METHODS
    ]
