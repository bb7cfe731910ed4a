"""Real data that needs no download: scikit-learn's 1,797 handwritten digits, and shifts of them.

Each 8 x 8 image is a sequence of eight tokens, one image row each, values 0..1.
Source      E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (sklearn.load_digits).
Checked by  tests/test_data.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..shapes import InputError

Array = np.ndarray

SPLIT = {"train": 1197, "validation": 240, "test": 360}
"""Images per part. The parts are fixed, and the digits are equally frequent in each of them."""

SHIFTS = {
    "none": lambda x_NTI: x_NTI.copy(),
    "rot90": lambda x_NTI: np.rot90(x_NTI, axes=(1, 2)).copy(),
    "rot180": lambda x_NTI: np.rot90(x_NTI, 2, axes=(1, 2)).copy(),
    "transpose": lambda x_NTI: x_NTI.swapaxes(1, 2).copy(),
    "flip": lambda x_NTI: x_NTI[:, :, ::-1].copy(),
    "invert": lambda x_NTI: 1 - x_NTI,
    "noise": lambda x_NTI: _noise(x_NTI),
}
"""What can happen to the images; the labels stay. All but ``noise`` lose nothing."""


def _noise(x_NTI: Array) -> Array:
    """Gaussian noise of half the value range, clipped back to 0..1; the same noise every time."""
    noise = np.random.default_rng(0).standard_normal(x_NTI.shape)
    return np.clip(x_NTI + 0.5 * noise, 0, 1).astype(x_NTI.dtype)


@dataclass(frozen=True)
class Part:
    """Images x (N, 8, 8) float32 and labels y (N,)."""

    x: Array
    y: Array


def load_digits(shift: str = "none") -> dict[str, Part]:
    """{"train", "validation", "test"}, shifted. Raises InputError for a shift that is not in SHIFTS."""
    if shift not in SHIFTS:
        raise InputError(f"unknown shift {shift!r}, expected one of {', '.join(SHIFTS)}")
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    data = load()
    x_NTI = SHIFTS[shift]((data.images / 16).astype(np.float32))
    rest, test = train_test_split(np.arange(len(x_NTI)), test_size=SPLIT["test"], stratify=data.target, random_state=0)
    train, validation = train_test_split(
        rest, test_size=SPLIT["validation"], stratify=data.target[rest], random_state=0
    )
    parts = {"train": train, "validation": validation, "test": test}
    return {name: Part(x_NTI[chosen], data.target[chosen]) for name, chosen in parts.items()}
