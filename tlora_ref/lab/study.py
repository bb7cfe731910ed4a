"""The runs behind the claims at one scale: every setup over the seeds, at one length or several.

Besides the setups it is given there is "alpha_matched": alpha fixed at 1, with TLoRA's learning rate times the mean
alpha along TLoRA's runs, so that a step of the optimizer moves alpha B as far.

Checked by  tests/test_audit.py and tests/test_text.py, by the two jobs that judge claims.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .analysis.measures import Run, mean_alpha
from .digits import Setup, Task
from .runs import run_all


def study(
    shared: Any,
    setups: Mapping[str, Setup],
    rates: Mapping[str, float],
    seeds: int,
    lengths: Sequence[int],
    store: Path,
    observe: Callable[[Any, Task], Any],
    as_run: Callable[[Setup, int, Any], Run],
) -> dict[int, dict[str, list[Run]]]:
    """Epochs -> setup -> one run a seed. ``observe`` makes one run and gives what a line of JSON holds, ``as_run``
    makes a Run of it again. ``setups`` holds "tlora" and "alpha_own". An interrupted study goes on where it stopped,
    and has whole seeds of the first length before it begins with the next."""

    def runs(setups: Mapping[str, Setup], rates: Mapping[tuple[int, str], float]) -> dict[int, dict[str, list[Run]]]:
        planned = [(epochs, seed, key) for epochs in lengths for seed in range(seeds) for key in setups]
        tasks = [Task(setups[key], rates[epochs, key], seed, epochs, "test") for epochs, seed, key in planned]
        found: dict[int, dict[str, list[Run]]] = {epochs: {key: [] for key in setups} for epochs in lengths}
        results = run_all(observe, shared, tasks, "runs for the claims", store=store)
        for (epochs, seed, key), result in zip(planned, results, strict=True):
            found[epochs][key].append(as_run(setups[key], seed, result))
        return found

    found = runs(setups, {(epochs, key): rates[key] for epochs in lengths for key in setups})
    matched = {(e, "alpha_matched"): matched_rate(rates["tlora"], found[e]["tlora"]) for e in lengths}
    others = runs({"alpha_matched": setups["alpha_own"]}, matched)
    return {epochs: found[epochs] | others[epochs] for epochs in lengths}


def matched_rate(rate: float, tlora: Sequence[Run]) -> float:
    """The learning rate at which alpha fixed at 1 moves as far as TLoRA does at ``rate``."""
    return rate * mean_alpha(tlora)
