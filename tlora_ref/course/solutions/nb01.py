"""Notebook 01, one layer: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "forward": (
        "Write the layer in two steps: what it gave before the adapter was attached, and what the adapter "
        "adds. Which of the arguments belong to which?",
        "The update is x times three matrices, read from left to right, and alpha multiplies that and "
        "nothing else. The bias belongs to the frozen layer.",
    ),
    "start": (
        "Which one of A, B and C may be all zeros, so that the layer is unchanged and that matrix still has "
        "a gradient?",
        "One generator, made from the seed, draws A first and then C: two draws from one stream are "
        "different numbers. alpha starts at the value at which it changes nothing.",
    ),
    "cost": (
        "A product of an (a, b) and a (b, c) matrix has a times c entries, and each takes b multiply-adds.",
        "There are three products: with A, with B and with C. Each of them has N rows. Add the three counts.",
    ),
}


def forward(x_NI, W0_IO, b_O, A_IR, B_RS, C_SO, alpha):
    """y (N, O) = x W0 + b + alpha x A B C"""
    return x_NI @ W0_IO + b_O + alpha * (x_NI @ A_IR @ B_RS) @ C_SO


def start(I, R, O, seed):
    """A (I, R), B (R, R), C (R, O), alpha"""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((I, R)),
        np.zeros((R, R)),
        rng.standard_normal((R, O)),
        1.0,
    )


def cost(N, I, R, O):
    """Multiply-adds of ((x A) B) C: x (N, I), A (I, R), B (R, R), C (R, O)"""
    return N * I * R + N * R * R + N * R * O
