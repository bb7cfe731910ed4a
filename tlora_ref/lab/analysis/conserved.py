"""What gradient descent cannot change: alpha^2 - ||B||_F^2.

Equation    (c alpha, B / c) is the same layer for every c, so <B, dB> = alpha dalpha, and under gradient flow
            d/dt (alpha^2 - ||B||^2) = -2 alpha dalpha + 2 <B, dB> = 0.
            A step of gradient descent of size eta adds eta^2 (dalpha^2 - ||dB||^2): over a fixed time, O(eta).
            Heavy ball with momentum mu and a step of (1 - mu) eta adds (1 + mu) / (1 - mu) times as much: its
            gradients are older than its position. Weight decay lambda on both makes it
            d/dt (alpha^2 - ||B||^2) = -2 lambda (alpha^2 - ||B||^2): it shrinks as exp(-2 lambda t), whatever the loss,
            so decay pulls the two towards the same norm, where alpha may be as far from 1 as ||B|| is. AdamW divides
            each entry by its own root mean square, which this symmetry does not survive: its drift stays however small
            the step.
Source      S. Du, W. Hu and J. Lee, arXiv 1806.00900, for products of layers; here for a scalar and a matrix.
Checked by  tests/test_analysis.py.
"""

from __future__ import annotations

import numpy as np

from ...by_hand.methods.tlora import tlora_linear_bwd, tlora_linear_fwd
from ...by_hand.optimizers import adamw_init, adamw_step
from ...config import TrainConfig
from ...shapes import InputError

Array = np.ndarray

OPTIMIZERS = ("gd", "momentum", "adamw")
MOMENTUM = 0.9


def conserved(alpha: Array | float, B_RR: Array) -> float:
    """alpha^2 - ||B||_F^2."""
    return float(alpha * alpha - (B_RR * B_RR).sum())


def descend(optimizer: str, lr: float, steps: int, seed: int = 0, decay: float = 0.0) -> Array:
    """(steps + 1,): alpha^2 - ||B||^2 while one TLoRA layer of 12 x 10, rank 4, learns a linear map by least squares.

    All in float64, full batch, decoupled weight decay, from B = 0, alpha = 1; ``momentum`` is heavy ball with 0.9 and a
    step of (1 - 0.9) lr, so that all three cover the same time in the same steps. Raises InputError.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer is {optimizer!r}, expected one of {', '.join(OPTIMIZERS)}")
    if lr <= 0 or steps < 1:
        raise InputError(f"lr is {lr} and steps {steps}, expected lr above 0 and at least one step")
    rng = np.random.default_rng(seed)
    x_NI, W0_IO, target_IO = (rng.standard_normal(shape) for shape in ((64, 12), (12, 10), (12, 10)))
    A_IR, C_RO = rng.standard_normal((12, 4)) / np.sqrt(12), rng.standard_normal((4, 10)) / np.sqrt(4)
    goal_NO = x_NI @ (W0_IO + target_IO)
    params = {"B": np.zeros((4, 4)), "alpha": np.ones(())}
    config, found = TrainConfig(weight_decay=decay), [1.0]
    adamw, velocity = adamw_init(params, config), {name: np.zeros_like(p) for name, p in params.items()}
    for _ in range(steps):
        y_NO, cache = tlora_linear_fwd(x_NI, W0_IO, None, A_IR, params["B"], C_RO, params["alpha"])
        # loss = ||y - goal||^2 / (2 N),   dy = (y - goal) / N
        grads = tlora_linear_bwd((y_NO - goal_NO) / len(x_NI), cache, ("B", "alpha"))
        if optimizer == "adamw":
            params = adamw_step(params, grads, adamw, lr, config)
        else:
            mu = MOMENTUM if optimizer == "momentum" else 0.0
            velocity = {name: mu * velocity[name] + grads[name] for name in params}
            params = {
                name: np.asarray((1 - lr * decay) * p - (1 - mu) * lr * velocity[name]) for name, p in params.items()
            }
        found.append(conserved(params["alpha"], params["B"]))
    return np.array(found)


def drift(optimizer: str, lr: float, time: float, seed: int = 0) -> float:
    """The largest |alpha^2 - ||B||^2 - 1| on the way to ``time`` = lr * steps."""
    return float(np.abs(descend(optimizer, lr, round(time / lr), seed) - 1).max())
