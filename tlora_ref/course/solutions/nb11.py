"""Notebook 11, is TLoRA like LoRA?: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "cosine": (
        "Read both matrices as long vectors: the inner product is a sum over all entries, and so are the norms.",
        "Divide the sum of the entrywise product by both Frobenius norms, which are `np.linalg.norm` "
        "without a second argument.",
    ),
    "unrelated": (
        "Set the norm of W0 to one. What is the inner product of W0 + D1 and W0 + D2, if all three are orthogonal?",
        "Pythagoras gives the squared norm of each sum: 1 + rho^2. The cosine is the inner product over the two norms.",
    ),
    "read": (
        "Undo the division of the last exercise: which inner product belongs to the cosine that is seen?",
        "Of that inner product W0's share is 1; the rest is rho1 rho2 times the cosine of the updates.",
    ),
    "best": (
        "The largest cosine is that with the nearest point in the subspace. What is it called, and what is "
        "its angle with D?",
        "For a projection P of D the inner product of D and P is ||P||^2, so the cosine is ||P|| / ||D||. "
        "Use orthonormal bases of both spans, as in notebook 00.",
    ),
}


def cosine(X_IO, Y_IO):
    """The cosine over all entries"""
    return (X_IO * Y_IO).sum() / (np.linalg.norm(X_IO) * np.linalg.norm(Y_IO))


def unrelated(rho1, rho2):
    """The cosine of W0 + D1 and W0 + D2; ||D|| = rho ||W0||, everything orthogonal"""
    # <W0 + D1, W0 + D2> = ||W0||^2,   ||W0 + D||^2 = (1 + rho^2) ||W0||^2
    return 1 / np.sqrt((1 + rho1**2) * (1 + rho2**2))


def read(seen, rho1, rho2):
    """cos(D1, D2) from cos(W0 + D1, W0 + D2)"""
    # with ||W0|| = 1: <W0 + D1, W0 + D2> = 1 + rho1 rho2 cos(D1, D2)
    inner = seen * np.sqrt((1 + rho1**2) * (1 + rho2**2))
    return (inner - 1) / (rho1 * rho2)


def best(D_IO, A_IR, C_RO):
    """The largest cosine of D with any alpha A B C"""
    Q_IR, Q_OR = np.linalg.qr(A_IR)[0], np.linalg.qr(C_RO.T)[0]
    # the projection P of D has <D, P> = ||P||^2, so the cosine is ||P|| / ||D||
    return np.linalg.norm(Q_IR.T @ D_IO @ Q_OR) / np.linalg.norm(D_IO)
