"""Notebook 06, counting: two hints for each exercise, and its worked solution."""

HINTS = {
    "trained": (
        "Two things train for each adapted matrix. How many numbers has each of them, and does either "
        "depend on I and O?",
        "B has R rows and R columns, and alpha is one number more, for every matrix in the list.",
    ),
    "ratio": (
        "LoRA trains a matrix of I x R and one of R x O for each matrix. Add up over the list before you divide.",
        "The sum of LoRA's counts over the sum of TLoRA's. TLoRA's has the alphas in it; do not round.",
    ),
    "bytes": (
        "What must be in the file so that someone else can go on? What is trained always; what is frozen "
        "only if nobody can draw it again.",
        "AdamW keeps two moving averages for every trained number, and none for frozen ones. Multiply both "
        "counts by the bytes of one number.",
    ),
    "rank_for": (
        "Write down both counts and put the one below the other: R squared and one, at most r (I + O). What "
        "is the largest R?",
        "Take one away, then the whole root, rounded down. A rank beyond either side of the matrix is cut "
        "back to that side.",
    ),
}


def trained(matrices, R):
    """Numbers that TLoRA trains on the matrices [(I, O), ...] at rank R"""
    # B is R x R, and every matrix has an alpha of its own
    return sum(R * R + 1 for _ in matrices)


def ratio(matrices, R):
    """LoRA's trained numbers over TLoRA's, both at rank R, on [(I, O), ...]"""
    # ratio = sum R (I + O) / sum (R^2 + 1)
    lora = sum(R * (I + O) for I, O in matrices)
    return lora / sum(R * R + 1 for _ in matrices)


def bytes(n, frozen, from_seed, itemsize):
    """(bytes of the file, bytes of AdamW's state)"""
    # stored = n, and what no seed draws again;   AdamW: m and v of every trained number
    stored = n if from_seed else n + frozen
    return stored * itemsize, 2 * n * itemsize


def rank_for(I, O, r):
    """TLoRA's largest rank within the budget of LoRA of rank r"""
    from math import isqrt

    # R^2 + 1 <= r (I + O)
    return min(isqrt(r * (I + O) - 1), I, O)
