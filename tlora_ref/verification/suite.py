"""Every kernel and the whole encoder's loss, by every oracle that applies, over every scenario.

One check at one point says little; the suite passes only if nothing fails anywhere and every array's gradient
was above noise somewhere, so that VACUOUS verdicts cannot add up to a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from ..by_hand.kernels import KERNELS
from ..gradcheck.checker import check_by_each
from ..gradcheck.comparison import FLOAT32
from ..gradcheck.oracles import ORACLES
from ..gradcheck.report import Report
from .scenarios import Loss, encoder_scenarios, scenarios

NEEDS = {"torch": "torch", "mpmath": "mpmath"}
"""Oracles that need a package of their own."""

UNAWARE = ("exact", "richardson", "mpmath")
"""Slow oracles that see numbers and not where in memory they lie: in Fortran order they would repeat, number by number,
what they did for the scenario of the same sizes."""

ENCODERS = (None, "tlora", "lora", "lorta")
"""What is attached to the encoders; every method's kernel has lines of its own. LoRTA's store is read by
all matrices, which only an encoder shows."""


@dataclass(frozen=True)
class Task:
    """One subject, a kernel of by_hand or "encoder", with one of its scenarios; small enough to be sent
    to another process."""

    subject: str
    method: str | None
    scenario: str
    oracles: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What one check of the suite found."""

    task: Task
    oracle: str
    report: Report
    flat: frozenset[str] = frozenset()  # gradients that are zero everywhere


def available() -> tuple[str, ...]:
    """The oracles that can run on this machine."""
    names = ("auto", *(name for name in ORACLES if name != "complex"), "torch")
    return tuple(name for name in names if name not in NEEDS or find_spec(NEEDS[name]))


def twin_of(kernel: str) -> Callable[..., Any]:
    """The PyTorch twin of a kernel. It is imported here, since the other oracles need no torch."""
    from ..by_autograd.kernels import KERNEL_TWINS

    return KERNEL_TWINS[kernel]


def tasks() -> list[Task]:
    """The whole suite. On encoders the slow oracles run at the first scenario only, and none for another layout."""
    all_tasks = []
    for name, op in KERNELS.items():
        for scenario in _scenarios(name, None):
            oracles = ("auto",) if scenario == "float32" else available()
            left_out = UNAWARE if scenario == "Fortran order" else () if op.exact else ("exact",)
            all_tasks.append(Task(name, None, scenario, tuple(o for o in oracles if o not in left_out)))
    every = tuple(o for o in available() if o != "exact")
    quick = tuple(o for o in every if o not in ("richardson", "mpmath"))
    for method in ENCODERS:
        names = _scenarios("encoder", method)
        all_tasks += [Task("encoder", method, name, quick if i else every) for i, name in enumerate(names)]
    return all_tasks


def run_task(_: Any, task: Task) -> list[Found]:
    """All checks of one scenario."""
    at = _scenarios(task.subject, task.method)[task.scenario]
    if task.subject == "encoder":
        return _encoder_task(task, at)
    op = KERNELS[task.subject]
    oracles = [twin_of(op.name) if oracle == "torch" else oracle for oracle in task.oracles]
    reports = check_by_each(op.fwd, op.bwd, at.args, oracles, op.wrt)
    return [Found(task, oracle, report) for oracle, report in zip(task.oracles, reports, strict=True)]


def _encoder_task(task: Task, loss: Loss) -> list[Found]:
    """Array by array against the complex step, and against PyTorch, which has all gradients at once; the others, along
    one direction through all arrays, confirm the complex step."""
    own = [oracle for oracle in task.oracles if oracle in ("auto", "torch")]
    others = [oracle for oracle in task.oracles if oracle not in own]
    twins = [loss.twin if oracle == "torch" else oracle for oracle in own]
    reports = check_by_each(loss.fn, loss.vjp, loss.inputs, twins)
    reports += check_by_each(*loss.in_one(), others, protocol=reports[0].protocol)
    return [Found(task, oracle, report, loss.flat) for oracle, report in zip(own + others, reports, strict=True)]


@cache
def _scenarios(subject: str, method: str | None) -> dict[str, Any]:
    return dict(encoder_scenarios(method) if subject == "encoder" else scenarios(KERNELS[subject]))


@dataclass(frozen=True)
class Summary:
    """One subject: the worst over its scenarios.

    ``errors`` by oracle, relative as in report.Row; ``ratios``: error / tolerance.
    """

    subject: str
    checks: int
    errors: dict[str, float]
    ratios: dict[str, float]
    untested: tuple[str, ...]
    failed: tuple[Found, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed, and every array was tested somewhere."""
        return not self.failed and not self.untested


def summary(outcomes: Sequence[Found]) -> Iterator[Summary]:
    """One line per subject, in the order of the suite."""
    subjects: dict[str, list[Found]] = {}
    for item in outcomes:
        method = f" + {item.task.method}" if item.task.method else ""
        subjects.setdefault(f"{item.task.subject}{method}", []).append(item)
    for subject, items in subjects.items():
        errors: dict[str, float] = {}
        ratios: dict[str, float] = {}
        for item in items:
            column = "float32" if item.task.scenario == "float32" else COLUMNS.get(item.oracle, item.oracle)
            for row in item.report.rows:
                if row.verdict != "VACUOUS" and row.relative is not None:
                    errors[column] = max(errors.get(column, 0.0), row.relative)
                    ratios[column] = max(ratios.get(column, 0.0), row.ratio)
        arrays = {row.array for item in items for row in item.report.rows}
        tested = {row.array for item in items for row in item.report.rows if row.verdict != "VACUOUS"}
        flat = frozenset().union(*(item.flat for item in items))
        failed = tuple(item for item in items if not item.report.ok)
        yield Summary(subject, len(items), errors, ratios, tuple(sorted(arrays - tested - flat)), failed)


COLUMNS = {"auto": "complex"}
RTOL = {name: oracle.rtol for name, oracle in ORACLES.items()}
RTOL |= {"auto": RTOL["complex"], "torch": RTOL["complex"], "float32": FLOAT32[0]}
"""The tolerance of each column; richardson's is up to a hundred times stricter (checker.py)."""
