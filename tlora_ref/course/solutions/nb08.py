"""Notebook 08, fine-tuning: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "choose": (
        "Choosing and reporting are two steps, with two tables. Which table is each step allowed to see?",
        "For each row of the validation table take the place of its largest entry, and read the test table "
        "there, row by row.",
    ),
    "interval": (
        "Make the S differences first, one per seed. Everything after that is about this one list.",
        "Indexing the differences with the draws gives a table of D rows; its mean over each row is one "
        "draw of the mean. The quantiles are of these, the mean is of the differences themselves.",
    ),
    "fan_in": (
        "An entry of A C is as large as an entry of A times an entry of C, but for a factor that both rules share.",
        "Multiply the two entries of each row of the table, and divide one product by the other. What is "
        "left of I, O and R?",
    ),
}


def choose(validation_KL, test_KL):
    """Test accuracies (K,), each way at its chosen learning rate."""
    chosen_K = validation_KL.argmax(axis=1)
    return test_KL[np.arange(len(test_KL)), chosen_K]


def interval(one_S, other_S, chosen_DS):
    """Mean, low, high of one - other, with a 95 % bootstrap interval over the pairs."""
    difference_S = one_S - other_S
    means_D = difference_S[chosen_DS].mean(axis=1)
    low, high = np.quantile(means_D, [0.025, 0.975])
    return difference_S.mean(), low, high


def fan_in(I, O, R):
    """Size of alpha A B C under "released", over its size under "fan_in"."""
    released = 1 / np.sqrt(3 * R) * 1 / np.sqrt(3 * O)
    fan_in = 1 / np.sqrt(3 * I) * 1 / np.sqrt(3 * R)
    return released / fan_in
