"""Seeded draws: every array has a random stream of its own, so that both rooms start from the same numbers.

A stream is seeded by (seed, the array's full name): adding, removing or reordering arrays changes no other draw, and
one array can be drawn again without the rest. Draws are float64; whoever keeps them rounds them to its own dtype.

Checked by  tests/test_init.py.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np

Array = np.ndarray


def stream(seed: int, name: str) -> np.random.Generator:
    """The random generator of one named array."""
    return np.random.default_rng([seed, *sha256(name.encode()).digest()[:8]])


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Array:
    """float64 draws of N(0, std^2)."""
    return std * stream(seed, name).standard_normal(shape)


def uniform(seed: int, name: str, shape: tuple[int, ...], bound: float) -> Array:
    """float64 draws from the interval from -bound to bound."""
    return stream(seed, name).uniform(-bound, bound, shape)
