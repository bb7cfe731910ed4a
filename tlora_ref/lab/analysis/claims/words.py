"""How a measurement reads: a mean over seeds with its interval, a difference in points, the released logs' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from ....paper import RELEASED_LOGS
from ..statistics import mean_interval

Measured = Mapping[str, Any]


def interval(values: Sequence[float], digits: int = 3, factor: float = 1, sign: bool = False) -> str:
    """ "mean [low, high]" over seeds; the mean alone where there is one seed."""
    found, form = mean_interval(values), f"{'+' if sign else ''}.{digits}f"
    # + 0.0 turns a rounded minus zero into zero
    numbers = [found.mean] if found.high == inf else [found.mean, found.low, found.high]
    mean, *bounds = (format(round(factor * v, digits) + 0.0, form) for v in numbers)
    return f"{mean} [{', '.join(bounds)}]".replace("-", "−") if bounds else mean.replace("-", "−")


def gaps(m: Measured, one: str, other: str) -> list[float]:
    """Accuracy of one setup minus that of another, seed by seed."""
    return [a - b for a, b in zip(m["accuracy"][one], m["accuracy"][other], strict=True)]


def logged(key: str, form: str, factor: float = 1) -> str:
    """A quantity of the released logs, task by task: "MRPC 3.3, QNLI 0.7, SST-2 1.4, CoLA 2.8"."""
    values = ((task, f"{factor * found[key]:{form}}") for task, found in RELEASED_LOGS.items())
    return ", ".join(f"{task} {value.replace('-', '−')}" for task, value in values)
