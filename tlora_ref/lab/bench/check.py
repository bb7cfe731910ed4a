"""What a gradient check costs: calls of the forward, and time over one forward and
backward, against the numbers checked.

Equation    directional mode asks for <v, gradient> along a few random v: its calls do not depend on the size.
            full mode asks for every number: its calls grow with it.
Checked by  tests/test_bench.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...by_hand.kernels import KERNELS
from ...gradcheck import check
from .timing import interleaved

RANKS = (4, 16, 64, 256)
"""R of a layer with I = O = 2 R: R^2 + 1 trained numbers, and 8 rows of x."""


def arguments(rank: int) -> dict[str, Any]:
    """tlora_linear away from its starting point."""
    rng = np.random.default_rng(0)
    I = O = 2 * rank
    shapes = {"x_NI": (8, I), "W0_IO": (I, O), "b_O": (O,), "A_IR": (I, rank), "B_RS": (rank, rank),
              "C_SO": (rank, O)}  # fmt: skip
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {"alpha": np.array(1.7)}


def measure(rank: int, seconds: float, most_numbers: int = 5000) -> list[dict[str, Any]]:
    """One row a mode. Full mode is left out where it would ask for more than ``most_numbers``."""
    op, given, calls, trained = KERNELS["tlora_linear"], arguments(rank), [0], rank * rank + 1

    def forward(**inputs: Any) -> Any:
        calls[0] += 1
        return op.fwd(**inputs)

    def backward(dout: Any, cache: Any) -> Any:
        return op.bwd(dout, cache, wrt=("B", "alpha"))

    def once() -> None:
        y, cache = op.fwd(**given)
        backward(np.ones_like(y), cache)

    lines = []
    for mode in ("directional",) if trained > most_numbers else ("directional", "full"):

        def checked(mode: str = mode) -> None:
            if not check(forward, backward, given, wrt=("B_RS", "alpha"), mode=mode, points=("given",)).ok:
                raise AssertionError("a correct gradient failed its check")

        calls[0] = 0
        checked()
        made = calls[0]
        times = interleaved({"check": checked, "once": once}, "once", seconds, rounds=(3, 20))
        lines.append({"rank": rank, "numbers": trained, "mode": mode, "calls": made, **times["check"].summary()})
    return lines
