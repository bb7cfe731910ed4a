"""Times as ratios: the contestants run in turn, round after round, and a round's times are divided by its floor's.

A time on a shared machine says little alone. What disturbs one round disturbs all who run in it, and the median over
rounds forgets the rounds that were disturbed in the middle. Each round has an order of its own: what one contestant
leaves behind in the caches and in the allocator costs the next one up to 6 % of a layer's time.
"""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from .kernels import kernels


@dataclass(frozen=True)
class Times:
    """Seconds of each round, and the same divided by the floor's of that round."""

    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    def summary(self) -> dict[str, float]:
        """Median seconds; the median ratio and its quartiles."""
        low, middle, high = np.quantile(self.ratios, [0.25, 0.5, 0.75])
        return {"seconds": float(np.median(self.seconds)), "ratio": float(middle), "low": float(low),
                "high": float(high)}  # fmt: skip


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    floor: str,
    seconds: float = 2.0,
    rounds: tuple[int, int] = (5, 60),
    wait: Callable[[], Any] = lambda: None,
    clock: Callable[[], float] | None = None,
) -> dict[str, Times]:
    """Run all in turn for about ``seconds``, at least and at most ``rounds`` times; ``wait`` ends a measurement on a
    device that works on while Python goes ahead; ``clock`` None is time.perf_counter. Two rounds before the first are
    not counted."""
    now = clock or time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    names, order = list(contestants), random.Random(0)
    began, done = time.perf_counter(), -2
    while done < rounds[0] or (done < rounds[1] and time.perf_counter() - began < seconds):
        for name in order.sample(names, len(names)):
            wait()
            start = now()
            contestants[name]()
            wait()
            if done >= 0:
                taken[name].append(now() - start)
        done += 1
    base = np.array(taken[floor])
    return {name: Times(tuple(t), tuple((np.array(t) / base).tolist())) for name, t in taken.items()}


def cpu_over_wall(call: Callable[[], Any], rounds: int = 5) -> float:
    """The CPU time of a call over its wall-clock time, the most of some rounds: 1 on one thread that nothing held up,
    more where several threads computed at a time."""
    found = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found.append((time.process_time() - cpu) / (time.perf_counter() - wall))
    return max(found)


def environment(threads: int) -> dict[str, Any]:
    """Processor, kernels, versions, threads, date: what a time is worth nothing without."""
    names = ("numpy", "scipy", "torch", "peft", "loralib", "transformers", "autograd", "jax", "jaxlib")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "kernels": kernels(),
        "python": platform.python_version(),
        "versions": {name: version for name in names if (version := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
