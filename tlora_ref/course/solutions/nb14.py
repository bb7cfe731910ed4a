"""Notebook 14, the random subspace: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "concentration": (
        "`np.linalg.svd(dW_IO, compute_uv=False)` gives the singular values. What are the sums of their second and of "
        "their fourth powers?",
        "The sum of the fourth powers over the square of the sum of the second powers. Rank one has one term in each: "
        "1. The identity has d terms of one in each: d / d^2.",
    ),
    "factors": (
        "`np.linalg.svd` gives U, the singular values and V transposed, largest first. Which R columns and rows?",
        "A released A has I R entries of variance 1 / (3 R), C has R O of variance 1 / (3 O): squared norms of I / 3 "
        "and R / 3. R unit vectors have R. So A's are scaled by sqrt(I / (3 R)), C's by sqrt(1 / 3).",
    ),
    "carried": (
        "A step moves an aligned output by lr R sqrt(I / O) / 3. At the new size it shall move it as far.",
        "Set both equal and solve for the new rate: the thirds cancel.",
    ),
}


def concentration(dW_IO):
    """sum s^4 / (sum s^2)^2 over the singular values"""
    squares_K = np.linalg.svd(dW_IO, compute_uv=False) ** 2
    return (squares_K**2).sum() / squares_K.sum() ** 2


def factors(dW0_IO, R):
    """A @ C along the R first singular vectors, with the released norms"""
    U_IK, _, Vt_KO = np.linalg.svd(dW0_IO)
    A_IR = np.sqrt(len(dW0_IO) / (3 * R)) * U_IK[:, :R]
    C_RO = np.sqrt(1 / 3) * Vt_KO[:R]
    return A_IR @ C_RO


def carried(lr, I, O, R, I2, O2, R2):
    """The rate at (I2, O2, R2) that moves an output as far as lr at (I, O, R)"""
    # lr R sqrt(I / O) / 3 is to stay the same
    return lr * R * np.sqrt(I / O) / (R2 * np.sqrt(I2 / O2))
