"""Help on request: two or three hints for each exercise, one after the other, and the worked solution.

    hint("02", "dB")        the first hint; called again, the next
    solution("02", "dB")    a worked solution with its derivation

A course that gives marks turns both off: ``for_marks()``, which the instructor's edition of a notebook calls first.
"""

from __future__ import annotations

from importlib import import_module
from inspect import getsource
from typing import Any

from ..shapes import InputError
from .grader import chosen, wrapped

_given: dict[tuple[str, str], int] = {}
_marks = False


def for_marks() -> None:
    """From here on the exercises are for marks: no hints and no solutions."""
    global _marks
    _marks = True


def hint(notebook: str, name: str) -> None:
    """Print the first hint for an exercise; called again, the next, and from there on the last."""
    hints = _of(notebook, name).HINTS[name]
    times = _given[notebook, name] = _given.get((notebook, name), 0) + 1
    number = min(times, len(hints))
    more = f'\nThere is another: call hint("{notebook}", "{name}") again.' if number < len(hints) else ""
    last = f'\nThat was the last one; solution("{notebook}", "{name}") shows a worked solution.' if not more else ""
    print(wrapped(f"{notebook} {name}, hint {number} of {len(hints)}: {hints[number - 1]}{more}{last}"))


def solution(notebook: str, name: str) -> None:
    """Print a worked solution of an exercise."""
    print(getsource(getattr(_of(notebook, name), name)).rstrip())


def _of(notebook: str, name: str) -> Any:
    """The file with the hints and solutions of a notebook; InputError for an exercise that does not exist."""
    chosen(notebook, [name])
    if _marks:
        raise InputError("this notebook is for marks: hints and solutions are off. Your teacher has both.")
    return import_module(f".solutions.nb{notebook}", __package__)
