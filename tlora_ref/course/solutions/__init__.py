"""Hints and worked solutions, a file for each notebook (nbNN.py): HINTS, and a function for each exercise.

The functions stand as they do in the solved notebooks, without annotations, and are shown as they stand.
Checked by  tests/test_graders.py: each is the solved notebook's, passes its grader, and no mechanical edit of it does.
"""
