"""hypothesis strategies: the arguments of any registry row, with pairwise different sizes where it matters.

A drawn case is a dictionary of keyword arguments for ``op.fwd``. Ranges follow what was measured to catch
every seeded bug: B and alpha away from their initial values, scales over six decades, F-ordered arrays half
the time, optional arguments given half the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tlora_ref.registry import OPS, Op

LEADS = ((), (1,), (4,), (2, 3))  # the leading axes that N stands for
ALPHAS = (1.7, -0.6, 1.0, 0.0, -1.0)


@dataclass(frozen=True)
class Case:
    """One set of arguments for a kernel, and the shape of its result."""

    op: Op
    args: dict[str, Any]
    out_shape: tuple[int, ...]
    seed: int

    def cotangent(self) -> np.ndarray:
        """A random one: a cotangent of ones hides bugs in softmax and LayerNorm."""
        return np.random.default_rng([self.seed, 1]).standard_normal(self.out_shape)

    @property
    def differentiable(self) -> dict[str, np.ndarray]:
        """The arguments that have a gradient, by the key of that gradient."""
        by_base = {arg.base: arg.name for arg in self.op.args}
        given = {key: self.args[by_base[key]] for key in self.op.wrt}
        return {key: value for key, value in given.items() if value is not None}

    def with_arg(self, key: str, value: Any) -> dict[str, Any]:
        """The arguments with the one of that gradient key exchanged."""
        name = next(arg.name for arg in self.op.args if arg.base == key)
        return {**self.args, name: value}


def sizes(rng: np.random.Generator, op: Op) -> dict[str, int]:
    """A size per letter: pairwise different, D = H * K where the op has heads, at least 2 classes."""
    letters = sorted({letter for arg in op.args for letter in arg.letters if letter != "N"})
    drawn = dict(zip(letters, map(int, rng.permutation(np.arange(2, 2 + len(letters) + 3))), strict=False))
    if "H" in op.options.get("heads", ()):
        drawn["H"] = int(rng.integers(1, 4))
        drawn["D"] = drawn["H"] * int(rng.integers(1, 5))
    return drawn


def draw_case(op: Op, seed: int, lead: tuple[int, ...], size: dict[str, int], scale: float = 1.0) -> Case:
    """Everything from one seed, so that a failing example is one number."""
    rng = np.random.default_rng(seed)

    def shape(letters: str) -> tuple[int, ...]:
        return sum(((lead if letter == "N" else (size[letter],)) for letter in letters), ())

    args: dict[str, Any] = {}
    for arg in op.args:
        want = shape(arg.letters)
        if arg.optional and rng.random() < 0.5:
            args[arg.name] = None
        elif arg.kind == "ids":
            args[arg.name] = rng.integers(0, size["V"], want)
        elif arg.kind == "mask":
            args[arg.name] = rng.random(want) < 0.7
        elif arg.kind == "keep":
            args[arg.name] = (rng.random(want) >= 0.25) / 0.75
        elif arg.base == "alpha":
            args[arg.name] = np.array(rng.choice(ALPHAS))
        elif arg.base == "scale":
            args[arg.name] = float(rng.choice([1.0, 0.5, -1.7]))
        else:
            factor = rng.choice([0.0, 1e-3, 1.0, 10.0]) if arg.base == "B" else scale if arg.base == "x" else 1.0
            args[arg.name] = factor * rng.standard_normal(want)
        if isinstance(args[arg.name], np.ndarray) and rng.random() < 0.5:
            args[arg.name] = np.array(args[arg.name], order="F")
    for option, values in op.options.items():
        args[option] = size["H"] if values == ("H",) else values[rng.integers(len(values))]
    return Case(op, args, shape(op.out), seed)


@st.composite
def cases(draw: st.DrawFn, op: Op | str, scales: tuple[float, ...] = (1.0,)) -> Case:
    """A Case for the op: seeds, leading axes, sizes and input scales drawn by hypothesis."""
    op = OPS[op] if isinstance(op, str) else op
    seed = draw(st.integers(0, 2**32 - 1))
    lead = draw(st.sampled_from(LEADS))
    return draw_case(op, seed, lead, sizes(np.random.default_rng([seed, 2]), op), draw(st.sampled_from(scales)))
