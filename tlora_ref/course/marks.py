"""Grading for marks, as the hidden tests of the instructor's edition call it.

    grade("02", dB=my_dB)

It raises for what is not right yet, like ``check``; and for an answer that is the library's own solution, handed in
or called. The hidden tests import this module afresh (edition.py), so that whatever a notebook has made of the name
``check``, or of a module of this package, has no part in it.
"""

from __future__ import annotations

from typing import Any

from .grader import grade as graded


def grade(notebook: str, **answers: Any) -> None:
    """Grade answers for marks. Raises ExerciseError for what is not right."""
    graded(notebook, answers, marks=True)
