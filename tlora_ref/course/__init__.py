"""The exercises of the tutorials and their graders.

    from tlora_ref.course import check
    check("02", dB=my_dB)

grader.py    check, and what an exercise is: a reference, a judge, and misconceptions with the message for each
edition.py   the student edition of a notebook
notebook.py  what the notebooks draw with
job.py       ``python -m tlora_ref course``
nbNN.py      the exercises of notebook NN

Nothing is registered anywhere else: a file nbNN.py with a tuple EXERCISES is found by its name.
"""

from .grader import Exercise, ExerciseError, check, exercises, notebooks

__all__ = ["Exercise", "ExerciseError", "check", "exercises", "notebooks"]
