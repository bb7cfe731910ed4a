"""The exercises of the tutorials and their graders.

    from tlora_ref.course import check, hint, solution
    check("02", dB=my_dB)       is it right, and if not, which mistake is it?
    hint("02", "dB")            the first of two or three hints; again, the next
    solution("02", "dB")        a worked solution

grader.py     check, and what an exercise is: a reference, a judge, and misconceptions with the message for each
watch.py      calling a student's function, and seeing what it does beside returning
answers.py    the one rule by which what came back is read
hints.py      hint and solution, off in a course for marks
marks.py      grading for marks, out of a notebook's reach
mine.py       right answers kept in a file, for later notebooks; by_mine.py, an encoder with their gradients
edition.py    the student edition of a notebook, and the instructor's
mutation.py   mechanical edits of the worked solutions: the graders, graded
equivalent.py the edits that change nothing, each with its reason
notebook.py   what the notebooks draw with; kept.py, what autograd keeps, for notebook 05
questions.py  the capstone's questions; reader.py, the model that reads them
glossary.py   links from the notebooks to the glossary
exam.py       short questions with answers; slides.py, three lectures made of the notebooks' figures
job.py        ``python -m tlora_ref course``
nbNN.py       the exercises of notebook NN; solutions/nbNN.py, their hints and worked solutions

Nothing is registered anywhere else: a file nbNN.py with a tuple EXERCISES is found by its name.
"""

from .grader import Exercise, ExerciseError, check, exercises, notebooks
from .hints import for_marks, hint, solution

__all__ = ["Exercise", "ExerciseError", "check", "exercises", "for_marks", "hint", "notebooks", "solution"]
