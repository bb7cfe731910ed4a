"""Graders that tell a student which mistake it was, and never what the right answer is.

An exercise holds a reference solution, a way to judge an answer, and misconceptions: wrong solutions as people
write them, each with a message that names the mistake and asks a question. The numbers of a wrong answer are compared,
at several points, with those of every misconception (of the seeded bug in verification/mutants that it names, or of its
planted solution). Where they agree, the student gets the message of that misconception.

    Gradient   gradients of a kernel, held against an oracle with random cotangents at several points
    Values     any numbers, held against the reference at several points
    Judged     anything else: a function gives the verdict, in one of the messages

Checked by  tests/test_course.py: every reference passes, every stub is "not implemented", every planted wrong
            solution gets the message meant for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from ..by_hand.kernels import KERNELS
from ..gradcheck import Report
from ..gradcheck import check as check_gradient
from ..gradcheck.oracles import spell
from ..gradcheck.pair import leaves, relayout
from ..gradcheck.point import same_bits
from ..shapes import InputError
from ..verification.mutants import mutant
from ..verification.scenarios import Case, scenarios

Trace = list[Any]
"""What an answer does, point by point: its arrays, or the name of the exception it stopped with."""

UNCLEAR = "What it is we cannot tell. Try the smallest case you can work out on paper, a 1 x 1 matrix, say."


class ExerciseError(AssertionError):
    """An answer that is not right yet; the message is for the student, and Jupyter shows nothing else."""

    def _render_traceback_(self) -> list[str]:
        return [_wrapped(str(self))]


@dataclass(frozen=True)
class Misconception:
    """A mistake that people make: a wrong solution as one would write it, and the message meant for it.

    ``mutant``: the seeded bug that an answer with this mistake behaves like; "" where there is none.
    """

    says: str
    planted: Any
    mutant: str = ""


@dataclass(frozen=True)
class Exercise(ABC):
    """One exercise: ``check(notebook, name=answer)``."""

    notebook: str
    name: str
    reference: Any
    misconceptions: tuple[Misconception, ...]

    @abstractmethod
    def judge(self, answer: Any) -> str:
        """What is wrong with the answer, "" if nothing is."""

    @property
    @abstractmethod
    def held(self) -> str:
        """What a right answer has stood up to."""

    def verdict(self, answer: Any) -> str:
        """The message for an answer, "" for a right one."""
        if answer is ... or answer is None:
            return "not implemented yet: nothing was handed in."
        if not callable(answer):
            return f"handed in was {_kind(answer)}, expected a function: write its name without brackets behind it."
        try:
            return self.judge(answer)
        except NotImplementedError:
            return "not implemented yet. Put your solution in the place of `raise NotImplementedError()`."


# --- answers that are functions of arrays ---------------------------------------------------------


@dataclass(frozen=True)
class Traced(Exercise):
    """An exercise whose answers are recognised by what they do at several points."""

    @abstractmethod
    def trace(self, answer: Any) -> Trace:
        """What the answer does at every point. Lets NotImplementedError through."""

    @abstractmethod
    def observe(self, answer: Any) -> str:
        """What can be seen to be wrong with the answer, "" if nothing."""

    def trace_of(self, misconception: Misconception) -> Trace:
        """What an answer with this mistake does."""
        return self.trace(misconception.planted)

    def judge(self, answer: Any) -> str:
        found = self.trace(answer)
        seen = self.observe(answer)
        if not seen:
            return ""
        for misconception in self.misconceptions:
            if _alike(found, self.trace_of(misconception)):
                return misconception.says
        return f"{seen} {UNCLEAR}"


@dataclass(frozen=True)
class Values(Traced):
    """``answer(*arguments)`` is compared with the reference at every point of ``points``.

    points   (label, arguments) pairs; rtol: how close, relative to the largest number of the result
    """

    points: Callable[[], Sequence[tuple[str, tuple[Any, ...]]]]
    rtol: float = 1e-9

    @property
    def held(self) -> str:
        return f"the same numbers as ours at {_listed([label for label, _ in self.points()])}"

    def trace(self, answer: Any) -> Trace:
        return [_call(answer, arguments) for _, arguments in self.points()]

    def observe(self, answer: Any) -> str:
        for label, arguments in self.points():
            mine = relayout(list(arguments), "K")
            found, right = _call(answer, mine), _call(self.reference, arguments)
            if isinstance(found, str):
                return f"At the point '{label}' it stopped with {found}."
            if not found:
                return f"At the point '{label}' it returned no number: is there a `return`?"
            shapes, expected = [np.shape(a) for a in found], [np.shape(a) for a in right]
            if shapes != expected:
                return f"At the point '{label}' the result has shape {_shapes(shapes)}, expected {_shapes(expected)}."
            if not all(map(same_bits, leaves(mine), leaves(list(arguments)))):
                return "It changes its arguments in place: whoever called it still needs them."
            if not _close(found, right, self.rtol):
                return f"At the point '{label}' the numbers are others than ours."
        return ""


LAYER_POINTS = ("different sizes", "square", "rank 1", "one row", "Fortran order", "initial point")
"""The scenarios an adapted layer is checked at, of those in verification/scenarios.py."""


@dataclass(frozen=True)
class Gradient(Traced):
    """The answer gives gradients of a kernel of the registry, ``answer(*takes)``: one of them, or a dictionary.

    keys     the gradients asked for, as in the kernel's own dictionary
    takes    its arguments in order: "dout", names of the kernel's arguments, or of ``derived``
    derived  name -> function of the kernel's arguments, for what a student is handed ready-made
    optional whether optional arguments (bias, dropout) are given at all points but "nothing optional"
    """

    op: str
    keys: tuple[str, ...]
    takes: tuple[str, ...]
    derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    optional: bool = False
    at: tuple[str, ...] = LAYER_POINTS

    @property
    def held(self) -> str:
        return f"held against the complex step with random cotangents at {_listed([label for label, _ in self.cases])}"

    @property
    def cases(self) -> tuple[tuple[str, Case], ...]:
        """The points, and one with alpha < 0 where the kernel has an alpha."""
        return _cases(self.op, self.at, self.optional)

    def trace(self, answer: Any) -> Trace:
        return [self._entry(_call(self.backward(answer), (c.cotangent(), c.args), whole=True)) for _, c in self.cases]

    def trace_of(self, misconception: Misconception) -> Trace:
        if not misconception.mutant:
            return super().trace_of(misconception)
        fwd, bwd = mutant(misconception.mutant).pair()
        return [
            self._entry(_call(lambda c: bwd(c.cotangent(), fwd(**c.args)[1]), (case,), whole=True))
            for _, case in self.cases
        ]

    def _entry(self, found: Any) -> Any:
        """The gradients asked for, in order; a text where there are none."""
        if isinstance(found, str) or not isinstance(found, Mapping) or not all(key in found for key in self.keys):
            return found if isinstance(found, str) else "no dictionary of gradients"
        try:
            arrays = [np.asarray(found[key]) for key in self.keys]
        except ValueError:
            return "rows of different lengths"
        return arrays if all(array.dtype.kind in "iufc" for array in arrays) else "no numbers"

    def backward(self, answer: Any) -> Callable[..., Any]:
        """The answer as ``vjp(dout, inputs)`` of the kernel."""

        def vjp(dout: Any, inputs: Mapping[str, Any]) -> Any:
            known = {"dout": dout, **inputs, **{name: make(inputs) for name, make in self.derived.items()}}
            found = answer(*(known[name] for name in self.takes))
            return {self.keys[0]: found} if len(self.keys) == 1 and not isinstance(found, Mapping) else found

        return vjp

    def observe(self, answer: Any) -> str:
        vjp = self.backward(answer)
        for seed, (label, case) in enumerate(self.cases):
            given = {name: value for name, value in case.args.items() if value is not None}
            fixed = {name: None for name in case.args if name not in given}
            wrt = [key for key in self.keys if case.differentiable.get(key) is not None]
            report = check_gradient(
                KERNELS[self.op].fwd, lambda dout, **inputs: vjp(dout, inputs), {**given, **fixed}, wrt=wrt, seed=seed
            )
            if not report.ok:
                return _observation(label, report)
        return ""


def _observation(label: str, report: Report) -> str:
    if report.malformed:
        return f"At the point '{label}': {report.malformed.replace('vjp', 'your function')}."
    wrong = [row for row in report.rows if row.verdict not in ("PASS", "VACUOUS")]
    if wrong:
        return f"At the point '{label}' d{wrong[0].array.partition('_')[0]} is not right: {wrong[0].detail}."
    notes = [f"{p.name}: {p.note}" for p in report.protocol if not p.ok]
    return f"The numbers are right, but not the manners ({'; '.join(notes).replace('vjp', 'your function')})."


@cache
def _cases(op: str, at: tuple[str, ...], optional: bool) -> tuple[tuple[str, Case], ...]:
    found = [(label, case) for label, case in scenarios(KERNELS[op]) if label in at]
    if not optional:
        nothing = {arg.name: None for arg in KERNELS[op].args if arg.optional}
        found = [(label, replace(case, args={**case.args, **nothing})) for label, case in found]
    if any(arg.base == "alpha" for arg in KERNELS[op].args):
        case = found[0][1]
        found.append(("alpha < 0", replace(case, args={**case.args, "alpha": np.array(-0.6)})))
    return tuple(found)


# --- answers of any other kind --------------------------------------------------------------------


@dataclass(frozen=True)
class Judged(Exercise):
    """``rule(answer)`` is the message, "" for a right answer."""

    rule: Callable[[Any], str]
    passes: str  # what a right answer has stood up to

    @property
    def held(self) -> str:
        return self.passes

    def judge(self, answer: Any) -> str:
        try:
            return self.rule(answer)
        except NotImplementedError:
            raise
        except Exception as error:
            return f"It stopped with {spell(error)}."


# --- the registry ---------------------------------------------------------------------------------


def notebooks() -> list[str]:
    """The numbers of the notebooks that have exercises: ["01", "02", ...]."""
    return sorted(path.stem[2:] for path in Path(__file__).parent.glob("nb[0-9][0-9].py"))


def exercises(notebook: str) -> dict[str, Exercise]:
    """The exercises of one notebook by name. Raises InputError for a number that has none."""
    if notebook not in notebooks():
        raise InputError(f"there are no exercises for notebook {notebook!r}; there are for {', '.join(notebooks())}")
    return {e.name: e for e in import_module(f".nb{notebook}", __package__).EXERCISES}


def check(notebook: str, **answers: Any) -> None:
    """Grade answers: ``check("02", dB=my_dB)``. Prints what is right; raises ExerciseError with a message for what
    is not, and InputError for an exercise that does not exist."""
    known = exercises(notebook)
    unknown = [name for name in answers if name not in known]
    if unknown or not answers:
        given = f"has no exercise {unknown[0]!r}" if unknown else "needs an answer, as in NAME=my_function"
        raise InputError(f"notebook {notebook} {given}; its exercises are {', '.join(known)}")
    failed = []
    for name, answer in answers.items():
        message = known[name].verdict(answer)
        if message:
            failed.append(f"{notebook} {name}: {message}")
        else:
            held = known[name].held
            print(_wrapped(f"{notebook} {name}: right. {held[0].upper()}{held[1:]}."))
    if failed:
        raise ExerciseError("\n".join(failed))


# --- comparing what answers do --------------------------------------------------------------------


def _call(function: Callable[..., Any], arguments: Sequence[Any], whole: bool = False) -> Any:
    """The arrays that come back (``whole``: what comes back as it is), or the exception as text."""
    try:
        with np.errstate(all="ignore"):
            found = function(*relayout(list(arguments), "K"))
    except NotImplementedError:
        raise
    except Exception as error:
        return spell(error)
    return found if whole else leaves(found)


def _close(found: Sequence[Any], right: Sequence[Any], rtol: float) -> bool:
    """Arrays of the same shapes and, to ``rtol`` of the largest number, of the same values."""
    if [np.shape(a) for a in found] != [np.shape(a) for a in right]:
        return False
    for a, b in zip(found, right, strict=True):
        size = float(np.max(np.abs(b), initial=0.0))
        if not np.all(np.abs(a - b) <= rtol * size):
            return False
    return True


def _alike(found: Trace, other: Trace) -> bool:
    """The same at every point: stopped at the same ones, and gave the same numbers at the others, if any."""
    if all(isinstance(entry, str) for entry in found):
        return False
    return all(
        isinstance(a, str) and isinstance(b, str) if isinstance(a, str) or isinstance(b, str) else _close(a, b, 1e-7)
        for a, b in zip(found, other, strict=True)
    )


def _wrapped(text: str) -> str:
    return "\n".join(fill(line, 88) for line in text.split("\n"))


def _kind(answer: Any) -> str:
    return f"an array of shape {answer.shape}" if isinstance(answer, np.ndarray) else f"a {type(answer).__name__}"


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))


def _listed(labels: Sequence[str]) -> str:
    return f"{len(labels)} points ({', '.join(labels)})"
