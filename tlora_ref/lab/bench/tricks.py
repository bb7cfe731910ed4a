"""What the tricks of by_hand/fast.py gain: the plain expression over the trick, medians of interleaved rounds.

python -m tlora_ref.lab.bench.tricks
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import numpy as np
from scipy.special import erfc

from ...by_hand import fast
from ...by_hand.ops import gelu_and_slope
from ...tables import table
from ..runs import one_thread
from .timing import interleaved


def contestants() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """By trick: the plain expression and the trick, at sizes of the encoder of width 128 with 64 x 16 tokens, and of
    RoBERTa-base's hidden layer with 2,048 tokens."""
    rng = np.random.default_rng(0)
    shapes = ((1024, 512), (2048, 3072), (64, 4, 16, 16))
    hidden, large, scores = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return {
        "in_pieces": (lambda: gelu_and_slope(hidden), lambda: fast.in_pieces(gelu_and_slope, hidden)),
        "in_pieces, 6 million": (lambda: gelu_and_slope(large), lambda: fast.in_pieces(gelu_and_slope, large)),
        "normal_float32": (
            lambda: (0.5 * erfc(hidden * -(0.5**0.5)), np.exp(hidden * hidden * -0.5) * (1 / sqrt(2 * pi))),
            lambda: fast.normal_float32(hidden),
        ),
        "row_max": (lambda: scores.max(axis=-1, keepdims=True), lambda: fast.row_max(scores)),
    }


def main() -> None:
    """Print the table."""
    rows = []
    with one_thread():
        for name, (plain, trick) in contestants().items():
            times = interleaved({"trick": trick, "plain": plain}, "trick", seconds=3.0, rounds=(20, 400))
            rows.append([name, f"{times['plain'].summary()['ratio']:.1f}"])
    print(table(["trick", "plain / trick"], rows))


if __name__ == "__main__":
    main()
