"""This project's own gradients, verified: the points, the suite, and the seeded bugs that test a checker.

scenarios.py   the points that together expose what one random point hides
suite.py       every kernel and the encoder's loss, by every oracle, over every scenario
forwards.py    every forward against a second way to compute it
mutants/       seeded bugs, the test of a checker
everyday/      functions of every day with right and wrong gradients, the other test
edits.py       mechanical edits of a file, one place at a time
mutate.py      whether the suite and the tests find them; equivalent.json: those that nothing can find, and why
scorers.py     score(checker): which of them it finds; the checkers in common use
"""

from .scorers import score

__all__ = ["score"]
