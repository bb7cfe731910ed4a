"""Notebook 10, what training does to alpha and B: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "balanced": (
        "Multiply alpha by c and divide B by c: the product stays for every c. Which c > 0 makes the two sizes equal?",
        "c |alpha| = ||B|| / c gives c squared. c is positive, so alpha keeps its sign.",
    ),
    "dalpha": (
        "Which identity of notebook 02 holds B, dB, alpha and dalpha, and nothing else?",
        "The inner product of B and dB, over all entries, is alpha times dalpha.",
    ),
    "change": (
        "Write alpha - lr dalpha and B - lr dB into the quantity, and expand both squares. Which terms are "
        "in lr, and which in lr squared?",
        "The terms in lr are twice lr times the two sides of the identity, with opposite signs. What is "
        "left is lr squared times a difference of squares.",
    ),
    "shrink": (
        "In one step each decayed array is multiplied by one number a little below 1. By which?",
        "alpha and B are both multiplied by it in each step, and dW is their product: two factors a step.",
    ),
}


def balanced(alpha, B_RR):
    """(alpha', B'): the same layer, with |alpha'| = ||B'||_F"""
    c = np.sqrt(np.linalg.norm(B_RR) / abs(alpha))
    return c * alpha, B_RR / c


def dalpha(alpha, B_RR, dB_RR):
    """dalpha, from alpha, B and dB alone"""
    return (B_RR * dB_RR).sum() / alpha


def change(alpha, B_RR, dalpha, dB_RR, lr):
    """(alpha'^2 - ||B'||^2) - (alpha^2 - ||B||^2)"""
    # the terms in lr cancel: -2 lr (alpha dalpha - <B, dB>) = 0
    return lr**2 * (dalpha**2 - (dB_RR**2).sum())


def shrink(lr, decay, steps):
    """dW after the steps, divided by dW before"""
    # alpha and B each lose the share lr decay in a step; A and C are frozen
    return (1 - lr * decay) ** (2 * steps)
