"""Every checker on every everyday pair: accepted, rejected, or neither.

This project's checker can say of a pair that it cannot be checked; all others accept or reject, and an exception
is a rejection. Rules and tolerances are those of scorers.py, each at the given point, as their authors wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...gradcheck import Report, check
from ...shapes import InputError
from ..scorers import CHECKERS, Problem
from . import choices, elementwise, matrices, state, sums, windows
from .subject import Subject

SUBJECTS = (
    *elementwise.SUBJECTS,
    *sums.SUBJECTS,
    *matrices.SUBJECTS,
    *windows.SUBJECTS,
    *choices.SUBJECTS,
    *state.SUBJECTS,
)
"""All of them; names are taken once."""

OWN = "tlora_ref"

LEFT_OUT = ("loss falls",)
"""No gradient checker: it asks whether training goes down."""


@dataclass(frozen=True)
class Case:
    """One pair: a subject with its right backward, or with a wrong one, ``says``."""

    subject: Subject
    says: str = ""

    @property
    def name(self) -> str:
        """ "convolution", "convolution: kernel not turned" """
        return f"{self.subject.name}: {self.says}" if self.says else self.subject.name

    def problem(self) -> Problem:
        """What a checker is called with, sharing no state with the last one."""
        fn, vjp = (self.subject.wrong[self.says] if self.says else self.subject.pair)()
        return Problem(fn, vjp, dict(self.subject.inputs), self.subject.wrt)


def cases() -> Iterator[Case]:
    """All pairs, the right one of a subject before its wrong ones."""
    for subject in SUBJECTS:
        yield Case(subject)
        yield from (Case(subject, says) for says in subject.wrong)


def checkers() -> tuple[str, ...]:
    """The checkers that are scored."""
    return tuple(name for name in CHECKERS if name not in LEFT_OUT)


def own(problem: Problem, seed: int = 0) -> tuple[str, Report | None]:
    """This project's verdict, with its report."""
    try:
        report = check(problem.fn, problem.vjp, problem.inputs, wrt=problem.wrt, seed=seed)
    except InputError:
        return "neither", None
    return verdict(report), report


def verdict(report: Report) -> str:
    """ "rejected" for a gradient that is wrong or none at all; "accepted" where every array was tested."""
    if report.wrong or (report.malformed and not report.random):
        return "rejected"
    return "accepted" if report.ok and not report.untested else "neither"


def verdicts(checker: str, seed: int = 0) -> dict[str, str]:
    """What a checker says of every pair, by the name of the pair."""
    if checker == OWN:
        return {case.name: own(case.problem(), seed)[0] for case in cases()}
    by_name: dict[str, str] = {}
    for case in cases():
        accepted = case.problem().accepted_by(CHECKERS[checker], seed)
        by_name[case.name] = "accepted" if accepted else "rejected"
    return by_name


def summary(by_name: dict[str, str]) -> dict[str, Any]:
    """The mistakes of a checker: wrong pairs accepted, right ones rejected, and what it could not decide."""
    right = [case.name for case in cases() if not case.says]
    wrong = [case.name for case in cases() if case.says]
    return {
        "right": len(right),
        "wrong": len(wrong),
        "false_fail": [name for name in right if by_name[name] == "rejected"],
        "false_pass": [name for name in wrong if by_name[name] == "accepted"],
        "neither": [name for name in right + wrong if by_name[name] == "neither"],
    }
