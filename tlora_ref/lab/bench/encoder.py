"""A step of the encoder by hand beside eager PyTorch, HIPS autograd and JAX, and beside its matrix products alone.

Equation    loss and gradients of the adapters, without an optimizer; 2 layers, hidden width 4 D, 64 sequences of 16
            tokens, TLoRA of rank 8 on query and value, float32
Checked by  tests/test_bench.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import by_autograd, by_hand
from ...by_autograd.encoder import leaves
from ...config import AdapterConfig, EncoderConfig
from ...counts import encoder_activations
from ...init import attach, init_encoder
from ...model import Model
from .memory import cached_bytes, peak_bytes
from .peers import Step, installed_steps
from .timing import cpu_over_wall, interleaved

WIDTHS = (32, 64, 128, 256, 384)
SEQUENCES, TIME = 64, 16
ADAPTER = AdapterConfig(rank=8)
HAND, TORCH, PRODUCTS = "by hand", "PyTorch", "matrix products alone"


def encoder_config(width: int) -> EncoderConfig:
    """The encoder of one width."""
    return EncoderConfig(width=width, layers=2, heads=4, hidden=4 * width, time=TIME, features=8)


def data() -> tuple[np.ndarray, np.ndarray]:
    """Tokens (64, 16, 8) and labels (64,)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((SEQUENCES, TIME, 8)).astype(np.float32), rng.integers(0, 10, SEQUENCES)


def step_by_hand(model: Model, x: np.ndarray, y: np.ndarray) -> Step:
    """One step in NumPy: its loss and gradients."""
    return lambda: by_hand.loss_and_grads(model, x, y)[:2]


def step_in_torch(model: Model, x: np.ndarray, y: np.ndarray) -> Step:
    """The same in eager PyTorch."""
    import torch

    twin, tokens, labels = leaves(by_autograd.to_torch(model)), torch.from_numpy(x), torch.from_numpy(y)
    return lambda: by_autograd.loss_and_grads(twin, tokens, labels)[:2]


def products(config: EncoderConfig) -> Callable[[], Any]:
    """The step's large matrix products and nothing else: per layer 4 of D x D and 2 of D x F forward, and as many
    backward, the gradients of what each reads."""
    D, F, N = config.width, config.hidden, SEQUENCES * TIME
    rng = np.random.default_rng(0)
    x_ND, h_NF, W_DD, W_DF, W_FD = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((N, D), (N, F), (D, D), (D, F), (F, D))
    )

    def call() -> None:
        for _ in range(config.layers):
            for _ in range(4):
                x_ND @ W_DD
            x_ND @ W_DF
            h_NF @ W_FD
        for _ in range(config.layers):
            for _ in range(4):
                x_ND @ W_DD.T
            x_ND @ W_FD.T
            h_NF @ W_DF.T

    return call


def measure(width: int, seconds: float) -> dict[str, Any]:
    """One width: the CPU time of everyone's step over PyTorch's, how many threads they kept busy, and the memory of the
    step by hand over the closed form."""
    x, y = data()
    config = encoder_config(width)
    model = attach(init_encoder(config), ADAPTER)
    hand = step_by_hand(model, x, y)
    contestants = {HAND: hand, TORCH: step_in_torch(model, x, y), **installed_steps(model, x, y),
                   PRODUCTS: products(config)}  # fmt: skip
    times = interleaved(contestants, TORCH, seconds, clock=time.process_time)
    over_torch = times[HAND].summary()
    over_products = np.array(times[HAND].seconds) / np.array(times[PRODUCTS].seconds)
    _, cache = by_hand.encoder_fwd(model, x)
    return {
        "width": width,
        "seconds_by_hand": over_torch["seconds"],
        "seconds_torch": times[TORCH].summary()["seconds"],
        "ratio_torch": over_torch["ratio"],
        "low_torch": over_torch["low"],
        "high_torch": over_torch["high"],
        "ratio_products": float(np.median(over_products)),
        "others": {name: found.summary() for name, found in times.items() if name not in (HAND, TORCH)},
        "cpu_over_wall": {name: cpu_over_wall(call) for name, call in contestants.items()},
        "kept_bytes": cached_bytes(cache, model.params.values()),
        "closed_form_bytes": 4 * encoder_activations(config, ADAPTER, SEQUENCES, TIME),
        "peak_bytes": peak_bytes(hand),
    }
