"""Everyday functions with right and with wrong gradients: what a gradient checker is asked of a working day.

The mutants next door are one project's kernels with one edit each. These are functions that others write, from
convolution to batch norm, with the mistakes that are made in them. A good checker accepts every right pair and
rejects every wrong one; where it can say neither, it says so.

elementwise.py  single entries        sums.py     sums, means, norms and what is normalised by them
matrices.py     products, inverses    windows.py  convolution, pooling, padding
choices.py      sorting, lookups      state.py    caches, buffers, randomness, precision
subject.py      what a subject is     score.py    every checker on every pair
"""

from .score import SUBJECTS, cases, checkers, summary, verdicts

__all__ = ["SUBJECTS", "cases", "checkers", "summary", "verdicts"]
