"""Factors that hand-written gradients are wrong by, with the names a person would give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod, sqrt
from typing import Any

import numpy as np

from ..shapes import split_name
from .pair import Array
from .point import norm, same_bits


def factors(inputs: Mapping[str, Any]) -> dict[str, float]:
    """-1, alpha, 1/alpha, N, 1/N, 1/sqrt(K), ...: from the scalars and the axes of the inputs."""
    sizes: dict[str, float] = {}
    for name, value in inputs.items():
        base, letters = split_name(name)
        shape = np.shape(value)
        if shape and letters[:1] == "N" and len(letters) <= len(shape) + 1:
            lead = len(shape) - len(letters) + 1
            axes = [("N", prod(shape[:lead])), *zip(letters[1:], shape[lead:], strict=True)]
        elif len(letters) == len(shape) > 0:
            axes = list(zip(letters, shape, strict=True))
        elif shape:
            axes = [*((f"{name}.shape[{i}]", size) for i, size in enumerate(shape)), (f"{name}.size", prod(shape))]
        else:
            scalar = value is not None and np.asarray(value).dtype.kind in "fO"
            axes = [(base, float(value))] if scalar else []
        for label, size in axes:
            sizes.setdefault(label, size)
    if "D" in sizes and isinstance(inputs.get("heads"), int):
        sizes |= {"heads": inputs["heads"], "K": sizes["D"] // inputs["heads"]}
    named_factors = {"-1": -1.0, "2": 2.0, "1/2": 0.5, "-2": -2.0, "-1/2": -0.5}
    for label, x in sizes.items():
        if x not in (0, 1, -1):
            named_factors |= {label: x, f"1/{label}": 1 / x, f"-{label}": -x, f"-1/{label}": -1 / x}
            named_factors |= {f"{label}^2": x**2, f"1/{label}^2": x**-2.0}
            named_factors |= {f"sqrt({label})": sqrt(x), f"1/sqrt({label})": 1 / sqrt(x)} if x > 0 else {}
    return named_factors


def named(ratio: float, inputs: Mapping[str, Any], slack: float) -> str:
    """ "hand / oracle = 0.588235 = 1/alpha": the ratio and what it may be, within a share of ``slack``."""
    labels = [label for label, value in factors(inputs).items() if abs(value / ratio - 1) < slack]
    # plain names before roots and squares, which equal some other size by chance
    labels = [label for label in labels if "sqrt" not in label and "^" not in label] or labels
    number = f"{ratio:.6g}"
    meaning = "" if not labels or labels[0] == number else f" = {' or '.join(labels[:2])}"
    return f"hand / oracle = {number}{meaning}"


def hint(comparison: Any, name: str, probe: Any, tolerance: Array) -> str:
    """What the error of a gradient looks like: a known factor, a transpose, another array's gradient."""
    hand = comparison.hand(name)
    if not any(norm(h) for h in hand):
        return "hand is zero everywhere"

    def agree(gradients: Sequence[Array]) -> bool:
        return bool((np.abs(probe.read(gradients) - probe.truth) <= tolerance).all())

    if hand[0].ndim == 2 and len(set(hand[0].shape)) == 1 and agree([h.T for h in hand]):
        return "hand is the transpose of the gradient"
    for other, gradient in comparison.point.hands[0].items():
        if other != name and gradient.shape == hand[0].shape and agree(comparison.hand(other)):
            return f"d{other} is the gradient that belongs here"
    values = probe.read(hand).astype(float).ravel()
    truth = probe.truth.astype(float).ravel()
    single = hand[0].dtype == np.float64 and all(same_bits(h, h.astype(np.float32).astype(float)) for h in hand)
    if single and norm(values - truth) < 1e-5 * norm(truth):
        return "hand has only the digits of float32"
    counts = np.abs(truth) > 1e-3 * norm(truth)
    ratios = values[counts] / truth[counts]
    slack = max(1e-6, 100 * comparison.rtol)
    ratio = float(np.median(ratios)) if ratios.size else 0.0
    if ratio == 0 or np.abs(ratios / ratio - 1).max() > slack or abs(ratio - 1) < slack:
        return ""
    return named(ratio, comparison.point.arrays, slack)
