"""Graders that tell a student which mistake it was, and never what the right answer is.

An exercise holds a reference solution, a way to judge an answer, and misconceptions: wrong solutions as people
write them, each with a message that names the mistake and asks a question. A wrong answer is told what the
misconception it behaves like says: its numbers are compared, at several points, with those of the seeded bug of
verification/mutants that the misconception names, or of its planted solution.

    Gradient   gradients of a kernel, held against an oracle with random cotangents at several points
    Values     any numbers, held against the reference at several points
    Judged     anything else: a function gives the verdict, in one of the messages

An answer is called through watch.py, which sees what it does to its arguments, and read by the rule of answers.py.
Checked by  tests/test_course.py: every reference passes, every stub is "not implemented", every planted wrong
            solution gets the message meant for it; tests/test_graders.py: mechanical edits of every worked solution
            are refused, and other right solutions accepted.
"""

from __future__ import annotations

import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from inspect import unwrap
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from ..by_hand.kernels import KERNELS
from ..gradcheck import Report
from ..gradcheck import check as check_gradient
from ..gradcheck.oracles import spell
from ..shapes import InputError
from ..verification.mutants import mutant
from ..verification.scenarios import Case, draw_case, scenarios
from .answers import MISSING, NotIt, kind, misfit, read, whole
from .watch import Stopped, Watch, same

UNCLEAR = "What it is we cannot tell. Try the smallest case you can work out on paper, a 1 x 1 matrix, say."
IN_PLACE = (
    "It changes what it was given: an argument, or an array inside of one. Whoever called it still needs that. Which "
    "of your lines writes into something that it did not make?"
)
MANNERS = "The numbers are right, but not the manners"
NOT_TWICE = (
    "Called twice with the same arguments it gives different numbers. What does it draw, or remember, that its "
    "arguments do not say?"
)
NO_WHOLE_NUMBER = (
    "The number is right, but its type is float, and a whole number is asked for: above 2^53 floats skip some. Which "
    "of your operations makes a float of whole numbers?"
)
TOO_LARGE = (
    "The number is right, but on the way to it an array is built that has as many numbers as dy. Which sum can be "
    "taken first, so that what is left is small?"
)


class ExerciseError(AssertionError):
    """An answer that is not right yet; the message is for the student, and Jupyter shows nothing else."""

    def _render_traceback_(self) -> list[str]:
        return [wrapped(str(self))]


@dataclass(frozen=True)
class Misconception:
    """A mistake that people make: a wrong solution as one would write it, and the message meant for it.

    ``mutant``: the seeded bug that an answer with this mistake behaves like; "" where there is none.
    """

    says: str
    planted: Any
    mutant: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a grader says: ``says`` is "" for a right answer, ``remark`` is told in either case."""

    says: str
    remark: str = ""


@dataclass(frozen=True)
class Exercise(ABC):
    """One exercise: ``check(notebook, name=answer)``.

    ``may_use``: functions of this package that an answer may call; any other one is the library's own solution.
    """

    notebook: str
    name: str
    reference: Any
    misconceptions: tuple[Misconception, ...]
    may_use: Collection[str] = field(default=(), kw_only=True)

    @abstractmethod
    def judge(self, answer: Watch) -> str:
        """What is wrong with the answer, "" if nothing is. Lets NotImplementedError through."""

    @property
    @abstractmethod
    def stood_up_to(self) -> str:
        """What a right answer has stood up to."""

    def verdict(self, answer: Any, marks: bool = False) -> Verdict:
        """The verdict on an answer. For ``marks`` the library's own solution is refused, else remarked upon."""
        if answer is ... or answer is None:
            return Verdict("not implemented yet: nothing was handed in.")
        if not callable(answer):
            return Verdict(
                f"handed in was {kind(answer)}, expected a function: write its name without brackets behind it."
            )
        watch = Watch(answer, self.may_use)
        try:
            says = self.judge(watch)
        except NotImplementedError:
            return Verdict("not implemented yet. Put your solution in the place of `raise NotImplementedError()`.")
        remark = f"\nYour function prints. From its first call: {_short(watch.printed)}" if watch.printed else ""
        ours = sorted({_name_of(answer)} if _is_ours(answer) else watch.library)
        if ours and not says:
            if marks:
                return Verdict(f"this is the library's own solution ({', '.join(ours)}). Your own lines are asked for.")
            remark += (
                f"\nIt is right because it is ours: {', '.join(ours)} of tlora_ref did the work. That is a fine thing "
                "to compare with; what the exercise can teach you is in lines of your own."
            )
        return Verdict(says, remark)


# --- answers that are functions of arrays ---------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What an answer did at one point: the arrays that came back, if any, and what keeps them from being compared."""

    arrays: list[Any] | None
    problem: str = ""


Trace = list[Seen]


@dataclass(frozen=True)
class Traced(Exercise):
    """An exercise whose answers are recognised by what they do at several points."""

    @abstractmethod
    def trace(self, answer: Watch) -> Trace:
        """What the answer does at every point. Lets NotImplementedError through."""

    @property
    @abstractmethod
    def labels(self) -> list[str]:
        """The names of the points."""

    @abstractmethod
    def wrong(self, answer: Watch, outcome: Trace) -> str:
        """What is wrong with the numbers, where all of them can be compared; "" if nothing is."""

    def manners(self, answer: Watch, outcome: Trace) -> str:
        """What else is asked of an answer with the right numbers."""
        if answer.changed:
            return IN_PLACE
        again = self.trace(answer)
        return "" if all(same(a.arrays, b.arrays) for a, b in zip(outcome, again, strict=True)) else NOT_TWICE

    def trace_of(self, misconception: Misconception) -> Trace:
        """What an answer with this mistake does."""
        return self.trace(Watch(misconception.planted))

    def judge(self, answer: Watch) -> str:
        outcome = self.trace(answer)
        problem = self.problem(outcome)
        seen = problem or self.wrong(answer, outcome)
        if not seen:
            return self.manners(answer, outcome)
        for i, misconception in enumerate(self.misconceptions):
            if _alike(outcome, _remembered(self, i, lambda m=misconception: self.trace_of(m))):
                return misconception.says
        if problem:
            return problem
        if answer.changed:
            return f"{MANNERS}. {IN_PLACE}" if seen.startswith(MANNERS) else f"{seen} {IN_PLACE}"
        if seen.startswith(MANNERS):
            return seen
        shape = _shape_of(outcome, _remembered(self, -1, lambda: self.trace(Watch(self.reference))), self.labels)
        return f"{seen} {shape or UNCLEAR}"

    def problem(self, outcome: Trace) -> str:
        """The first point at which there is nothing to compare, and why."""
        for label, seen in zip(self.labels, outcome, strict=True):
            if seen.problem:
                return f"At the point '{label}': {seen.problem}"
        return ""


def _read(returned: Any, like: Sequence[Any], keys: Sequence[str] = ()) -> Seen:
    if isinstance(returned, Stopped):
        return Seen(None, f"it stopped with {returned.says}")
    try:
        arrays = read(returned, like, keys)
    except NotIt as error:
        return Seen(None, str(error))
    problem = misfit(arrays, like, keys)
    if not problem and not all(np.isfinite(a).all() for a in arrays):
        problem = "The result holds numbers that are not finite."
    return Seen(arrays, problem)


@dataclass(frozen=True)
class Values(Traced):
    """``answer(*arguments)`` is compared with the reference at every point of ``points``.

    points   (label, arguments) pairs
    rtol     how close, relative to the largest number of the result; whole numbers must be equal
    whole    whether the results are whole numbers
    watched  (answer) -> message, for what numbers do not show; asked last
    """

    points: Callable[[], Sequence[tuple[str, tuple[Any, ...]]]]
    rtol: float = 1e-9
    whole: bool = False
    watched: Callable[[Watch], str] | None = None

    @property
    def stood_up_to(self) -> str:
        return f"the same numbers as ours at {_listed(self.labels)}"

    @property
    def labels(self) -> list[str]:
        return [label for label, _ in self.points()]

    def right(self) -> list[list[Any]]:
        """What the reference gives at every point."""
        outputs = [self.reference(*arguments) for _, arguments in self.points()]
        return [list(f) if isinstance(f, (tuple, list)) else [f] for f in outputs]

    def trace(self, answer: Watch) -> Trace:
        return [
            _read(answer.fresh(*arguments), like)
            for (_, arguments), like in zip(self.points(), self.right(), strict=True)
        ]

    def wrong(self, answer: Watch, outcome: Trace) -> str:
        for label, seen, right in zip(self.labels, outcome, self.right(), strict=True):
            if not _close(seen.arrays or [], right, 0.0 if self.whole else self.rtol):
                return f"At the point '{label}' the numbers are others than ours."
        return ""

    def manners(self, answer: Watch, outcome: Trace) -> str:
        if self.whole and not all(whole(array) for seen in outcome for array in seen.arrays or []):
            return NO_WHOLE_NUMBER
        return super().manners(answer, outcome) or (self.watched(answer) if self.watched else "")


LAYER_POINTS = ("different sizes", "square", "rank 1", "one row", "Fortran order", "initial point")
"""The scenarios an adapted layer is checked at, of those in verification/scenarios.py."""

WIDE = {"I": 8, "O": 512, "R": 2, "S": 2}
"""The sizes at which allocations are looked at, with 512 rows: dy is far larger than all that may be built,
the buffers of einsum (a quarter of a mebibyte) included."""


@dataclass(frozen=True)
class Gradient(Traced):
    """The answer gives gradients of a kernel of by_hand, ``answer(*takes)``: one of them, or a dictionary.

    keys     the gradients asked for, as in the kernel's own dictionary
    takes    its arguments in order: "dout", names of the kernel's arguments, or of ``derived``
    derived  name -> function of the kernel's arguments, for what a student is handed ready-made
    optional whether optional arguments (bias, dropout) are given at all points but "nothing optional"
    frugal   whether nothing of the size of dy may be built on the way
    """

    op: str
    keys: tuple[str, ...]
    takes: tuple[str, ...]
    derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    optional: bool = False
    at: tuple[str, ...] = LAYER_POINTS
    frugal: bool = False

    @property
    def stood_up_to(self) -> str:
        least = " and builds nothing of the size of dy" if self.frugal else ""
        return f"held against the complex step with random cotangents at {_listed(self.labels)}{least}"

    @property
    def labels(self) -> list[str]:
        return [label for label, _ in self.cases]

    @property
    def cases(self) -> tuple[tuple[str, Case], ...]:
        """The points, and one with alpha < 0 where the kernel has an alpha."""
        return _cases(self.op, self.at, self.optional)

    @property
    def asked_keys(self) -> tuple[str, ...]:
        """The keys of the dictionary that an answer returns; none where it returns the one gradient itself."""
        return self.keys if len(self.keys) > 1 else ()

    def arguments(self, dout: Any, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """What the answer is called with."""
        known = {"dout": dout, **inputs, **{name: make(inputs) for name, make in self.derived.items()}}
        return tuple(known[name] for name in self.takes)

    def trace(self, answer: Watch) -> Trace:
        return [
            _read(answer.fresh(*self.arguments(c.cotangent(), c.args)), self._like(c), self.asked_keys)
            for _, c in self.cases
        ]

    def _like(self, case: Case) -> list[Any]:
        return [case.differentiable[key] for key in self.keys]

    def trace_of(self, misconception: Misconception) -> Trace:
        if not misconception.mutant:
            return super().trace_of(misconception)
        fwd, bwd = mutant(misconception.mutant).pair()
        outcome = []
        for _, case in self.cases:
            grads = Watch(lambda c=case: bwd(c.cotangent(), fwd(**c.args)[1]))()
            ours = grads if isinstance(grads, Stopped) else {key: grads[key] for key in self.keys}
            outcome.append(_read(ours, self._like(case), self.keys))
        return outcome

    def wrong(self, answer: Watch, outcome: Trace) -> str:
        return next((_observation(label, report) for label, report in self.reports(answer) if not report.ok), "")

    def reports(self, answer: Watch) -> Iterator[tuple[str, Report]]:
        """What the checker of gradients finds at every point."""

        def vjp(dout: Any, inputs: Mapping[str, Any]) -> Any:
            returned = answer(*self.arguments(dout, inputs))
            if isinstance(returned, Stopped):
                raise RuntimeError(returned.says)
            return returned if self.asked_keys else {self.keys[0]: returned}

        for seed, (label, case) in enumerate(self.cases):
            arrays = {name: value for name, value in case.args.items() if value is not None}
            fixed = {name: None for name in case.args if name not in arrays}
            wrt = [key for key in self.keys if case.differentiable.get(key) is not None]
            yield (
                label,
                check_gradient(
                    KERNELS[self.op].fwd,
                    lambda dout, **inputs: vjp(dout, inputs),
                    {**arrays, **fixed},
                    wrt=wrt,
                    seed=seed,
                    points=("given",),
                ),
            )

    def manners(self, answer: Watch, outcome: Trace) -> str:
        return super().manners(answer, outcome) or (self._allocates(answer) if self.frugal else "")

    def _allocates(self, answer: Watch) -> str:
        """TOO_LARGE if the answer builds anything like as large as dy."""
        case = draw_case(KERNELS[self.op], 0, (512,), WIDE, generic=True)
        nothing = {arg.name: None for arg in KERNELS[self.op].args if arg.optional}
        arguments = self.arguments(case.cotangent(), {**case.args, **nothing})
        before = tracemalloc.is_tracing()
        tracemalloc.start()
        tracemalloc.reset_peak()
        at_start = tracemalloc.get_traced_memory()[0]
        try:
            answer.answer(*arguments)  # not through the watch, which copies
            peak = tracemalloc.get_traced_memory()[1] - at_start
        finally:
            if not before:
                tracemalloc.stop()
        return TOO_LARGE if peak > case.cotangent().nbytes / 2 else ""


def _observation(label: str, report: Report) -> str:
    if report.malformed:
        return f"At the point '{label}': {report.malformed.replace('vjp', 'your function')}."
    wrong = [row for row in report.rows if row.verdict not in ("PASS", "VACUOUS")]
    if wrong:
        return f"At the point '{label}' d{wrong[0].array.partition('_')[0]} is not right: {wrong[0].detail}."
    notes = [f"{p.name}: {p.note}" for p in report.protocol if not p.ok]
    return f"{MANNERS} ({'; '.join(notes).replace('vjp', 'your function')})."


@cache
def _cases(op: str, at: tuple[str, ...], optional: bool) -> tuple[tuple[str, Case], ...]:
    cases = [(label, case) for label, case in scenarios(KERNELS[op]) if label in at]
    if not optional:
        nothing = {arg.name: None for arg in KERNELS[op].args if arg.optional}
        cases = [(label, replace(case, args={**case.args, **nothing})) for label, case in cases]
    if any(arg.base == "alpha" for arg in KERNELS[op].args):
        case = cases[0][1]
        cases.append(("alpha < 0", replace(case, args={**case.args, "alpha": np.array(-0.6)})))
    return tuple(cases)


# --- answers of any other kind --------------------------------------------------------------------


@dataclass(frozen=True)
class Judged(Exercise):
    """``rule(answer)`` is the message, "" for a right answer; ``writes`` that for one which changes an argument."""

    rule: Callable[[Any], str]
    passes: str  # what a right answer has stood up to
    writes: str = IN_PLACE

    @property
    def stood_up_to(self) -> str:
        return self.passes

    def judge(self, answer: Watch) -> str:
        def asked(*arguments: Any) -> Any:
            returned = answer(*arguments)
            if isinstance(returned, Stopped):
                raise NotIt(f"It stopped with {returned.says}")
            if returned is None:
                raise NotIt(MISSING)
            if returned is ...:
                raise NotImplementedError
            if answer.changed:
                raise NotIt(self.writes)
            return returned

        try:
            return self.rule(asked)
        except NotIt as error:
            return str(error)
        except NotImplementedError:
            raise
        except Exception as error:  # a rule reads what a stranger's function gave
            return f"What it returned cannot be read: {spell(error)}."


# --- the exercises ---------------------------------------------------------------------------------


def notebooks() -> list[str]:
    """The numbers of the notebooks that have exercises: ["01", "02", ...]."""
    return sorted(path.stem[2:] for path in Path(__file__).parent.glob("nb[0-9][0-9].py"))


def exercises(notebook: str) -> dict[str, Exercise]:
    """The exercises of one notebook by name. Raises InputError for a number that has none."""
    if notebook not in notebooks():
        raise InputError(f"there are no exercises for notebook {notebook!r}; there are for {', '.join(notebooks())}")
    return {e.name: e for e in import_module(f".nb{notebook}", __package__).EXERCISES}


def chosen(notebook: str, names: Collection[str]) -> dict[str, Exercise]:
    """The exercises of these names. Raises InputError for none, and for one that does not exist."""
    known = exercises(notebook)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        problem = f"has no exercise {unknown[0]!r}" if unknown else "needs an answer, as in NAME=my_function"
        raise InputError(f"notebook {notebook} {problem}; its exercises are {', '.join(known)}")
    return {name: known[name] for name in names}


def check(notebook: str, **answers: Any) -> None:
    """Grade answers: ``check("02", dB=my_dB)``. Prints what is right; raises ExerciseError with a message for what
    is not, and InputError for an exercise that does not exist."""
    grade(notebook, answers, marks=False)


after_right: list[Callable[[str, str, Any], str]] = []
"""What is done with every right answer of ``check``, (notebook, exercise, answer) -> what to say: mine.py."""


def grade(notebook: str, answers: Mapping[str, Any], marks: bool) -> None:
    """What ``check`` does; for ``marks`` the library's own solutions are no answers."""
    failed = []
    for name, exercise in chosen(notebook, answers).items():
        verdict = exercise.verdict(answers[name], marks)
        if verdict.says:
            failed.append(f"{notebook} {name}: {verdict.says}{verdict.remark}")
        else:
            sentence = f"{exercise.stood_up_to[0].upper()}{exercise.stood_up_to[1:]}"
            done = [] if marks else [do(notebook, name, answers[name]) for do in after_right]
            print(wrapped("\n".join(filter(None, [f"{notebook} {name}: right. {sentence}.{verdict.remark}", *done]))))
    if failed:
        raise ExerciseError("\n".join(failed))


# --- comparing what answers do --------------------------------------------------------------------

_PLANTED: dict[tuple[str, str, int], Trace] = {}


def _remembered(exercise: Exercise, index: int, make: Callable[[], Trace]) -> Trace:
    """What a planted solution does is the same every time; -1 is the reference."""
    key = exercise.notebook, exercise.name, index
    if key not in _PLANTED:
        _PLANTED[key] = make()
    return _PLANTED[key]


def _close(values: Sequence[Any], right: Sequence[Any], rtol: float) -> bool:
    """Arrays of the same shapes and, to ``rtol`` of the largest number, of the same values."""
    if [np.shape(a) for a in values] != [np.shape(a) for a in right]:
        return False
    for a, b in zip(values, right, strict=True):
        size = float(np.max(np.abs(b), initial=0.0))
        if not np.all(np.abs(np.subtract(a, b, dtype=float)) <= rtol * size):
            return False
    return True


def _alike(outcome: Trace, other: Trace) -> bool:
    """The same at every point: numbers at the same ones, if any, and the same numbers there."""
    return any(seen.arrays is not None for seen in outcome) and all(
        a.arrays is None and b.arrays is None
        if a.arrays is None or b.arrays is None
        else _close(a.arrays, b.arrays, 1e-7)
        for a, b in zip(outcome, other, strict=True)
    )


def _shape_of(outcome: Trace, right: Trace, labels: Sequence[str]) -> str:
    """How the numbers are related to the right ones, where that can be said; "" where it cannot."""
    pairs = [(s.arrays or [], r.arrays or []) for s, r in zip(outcome, right, strict=True)]
    fits = [_close(a, b, 1e-7) for a, b in pairs]
    if all(fits):
        return "They are ours to seven digits, and no further: which of your steps loses the others?"
    if any(fits):
        bad = [label for label, fit in zip(labels, fits, strict=True) if not fit]
        return f"At {sum(fits)} of {len(fits)} points they are right; what is special about {_quoted(bad)}?"
    factors = [_factor(a, b) for a, b in pairs]
    if factors[0] and all(f is not None and np.isclose(f, factors[0], rtol=1e-7) for f in factors):
        return f"Everywhere they are the right ones times {factors[0]:.4g}: where might such a factor come from?"
    if all(f is not None for f in factors) and all(sum(map(np.size, b)) > 1 for _, b in pairs):
        return "At every point they are the right ones times one factor, but not always the same factor."
    return ""


def _factor(values: Sequence[Any], right: Sequence[Any]) -> float | None:
    """The one number by which ``right`` becomes ``found``; None where there is none."""
    a, b = (np.concatenate([np.ravel(x).astype(float) for x in side]) for side in (values, right))
    if not b.any():
        return None
    factor = float(a @ b / (b @ b))
    return factor if np.allclose(a, factor * b, rtol=1e-7, atol=1e-9 * np.abs(b).max()) else None


def _is_ours(answer: Any) -> bool:
    """Whether the answer is a function of this package, wrapped or not."""
    inner = unwrap(getattr(answer, "func", answer))
    return (getattr(inner, "__module__", "") or "").partition(".")[0] == __package__.partition(".")[0]


def _name_of(answer: Any) -> str:
    return getattr(unwrap(getattr(answer, "func", answer)), "__name__", type(answer).__name__)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]} ..."


def wrapped(text: str) -> str:
    """Lines as long as a cell's output is wide."""
    return "\n".join(fill(line, 88) for line in text.split("\n"))


def _listed(labels: Sequence[str]) -> str:
    return f"{len(labels)} points ({', '.join(dict.fromkeys(labels))})"


def _quoted(labels: Sequence[str]) -> str:
    return " and ".join(f"'{label}'" for label in dict.fromkeys(labels))
