"""Bugs of by_hand/methods/triadapt.py: the gradients of two triangles."""

from .mutant import Mutant

LOWER, UPPER = 'grads["lower"] = inside_RR * tri["M"]', 'grads["upper"] = inside_RR.T * tri["M"]'

MUTANTS = (
    Mutant("triadapt_dlower_whole", "triadapt_linear", "dropped path", LOWER, 'grads["lower"] = tri["M"]',
           "What of lower stands above the block diagonal is not read, so its gradient is 0.", ("B != 0", "R > block")),
    Mutant("triadapt_dupper_in_the_lower_triangle", "triadapt_linear", "transpose", UPPER,
           'grads["upper"] = inside_RR * tri["M"]', "The mask of upper is the transpose of that of lower.",
           ("B != 0", "R > block")),
    Mutant("triadapt_dlower_transposed", "triadapt_linear", "transpose", LOWER,
           'grads["lower"] = inside_RR * tri["M"].T', "That is the transpose of dT: a square core hides it.",
           ("B != 0", "R > 1")),
    Mutant("triadapt_dupper_transposed_whole", "triadapt_linear", "transpose", UPPER,
           'grads["upper"] = (inside_RR * tri["M"]).T', "The triangle is that of upper, but what is in it is dT^T.",
           ("B != 0", "R > 1")),
    Mutant("triadapt_diagonal_counted_once", "triadapt_linear", "dropped path", UPPER,
           'grads["upper"] = ~inside_RR * tri["M"]',
           "On the block diagonal T is a sum of two, and each gets all of dT.", ("B != 0",)),
    Mutant("triadapt_dlower_half", "triadapt_linear", "mean for sum", LOWER,
           'grads["lower"] = inside_RR * tri["M"] / 2',
           "In a sum lower + upper each gets all of dT, not a half.", ("B != 0",)),
)  # fmt: skip
