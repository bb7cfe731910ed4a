"""Notebook 00, the update matrix: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "rank": (
        "The share that k directions hold is a running sum of squared singular values, divided by their "
        "whole sum. Write down that list for a small matrix.",
        "You need the first place of the list at which it is at least the share, less a rounding. "
        "`np.argmax` of a list of truths is the place of the first True; ranks are counted from one.",
    ),
    "captured": (
        "Columns of A are neither of length one nor orthogonal, so products with them do not measure "
        "lengths. Which NumPy function makes an orthonormal basis of the same span?",
        "With bases of the columns of A and of the rows of C, the nearest point has as many coordinates as "
        "R squared. Its squared length is the sum of their squares; divide by that of dW.",
    ),
    "expected": (
        "All directions of the space of I x O matrices are alike for such a target. How many directions has "
        "the space, and how many the subspace?",
        "A M C has one coordinate for each entry of M. The share is one count of dimensions over the other.",
    ),
}


def rank(dW_IO, share):
    """The smallest rank k whose best approximation holds `share` of ||dW||^2."""
    squares_K = np.linalg.svd(dW_IO, compute_uv=False) ** 2
    held_K = np.cumsum(squares_K) / squares_K.sum()
    # the last of the sums is 1 but for rounding
    return 1 + int(np.argmax(held_K >= share - 1e-9))


def captured(dW_IO, A_IR, C_RO):
    """The share of ||dW||^2 that some A M C can reach."""
    Q_IR, _ = np.linalg.qr(A_IR)
    Q_OR, _ = np.linalg.qr(C_RO.T)
    return np.sum((Q_IR.T @ dW_IO @ Q_OR) ** 2) / np.sum(dW_IO**2)


def expected(I, O, R):
    """The expected captured share for an isotropic target."""
    return R * R / (I * O)
