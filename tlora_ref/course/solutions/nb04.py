"""Notebook 04, why the starting point hides bugs: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "hidden": (
        "Put B = 0 and alpha = 1 into each of the twelve lines and into the right one. Where do both give "
        "the same, for any dy?",
        "A power of one is one, and a multiple of zero is zero: go through dB for factors of alpha, then "
        "through dalpha and the update's share of dx, which are zero. Then ask which wrong line is not zero "
        "there.",
    ),
    "points": (
        "Start from a point that is special in nothing: all sizes different, alpha neither 0 nor 1, a B, a "
        "mask, several rows. Which bugs does the figure show to survive it?",
        "One bug only shows where an axis has length one. A second point, with rank one and everything else "
        "as before, finds it.",
    ),
    "cotangent": (
        "Which shape and which numbers leave no output out, and treat no two outputs alike?",
        "Independent normal numbers from rng, one for each output, do all of it, for the shape () as well.",
    ),
}


def hidden():
    """The set of names, of those in `twelve`, that are hidden at the start."""
    return {
        "tlora_dB_without_alpha",
        "tlora_dB_alpha_twice",
        "tlora_dalpha_sign",
        "tlora_dalpha_with_alpha",
        "tlora_dx_adapter_sign",
        "tlora_dx_without_alpha",
        "tlora_dx_B_untransposed",
        "tlora_dx_adapter_path_dropped",
    }


def points():
    """A list of dictionaries, the arguments of tlora_linear_fwd."""
    rng = np.random.default_rng(0)
    found = []
    for R in (3, 1):
        N, I, S, O = 5, 6, 2, 4
        shapes = {"x_NI": (N, I), "W0_IO": (I, O), "b_O": (O,)}
        shapes |= {"A_IR": (I, R), "B_RS": (R, S), "C_SO": (S, O)}
        arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        keep_NO = (rng.random((N, O)) >= 0.25) / 0.75
        found.append({**arrays, "alpha": np.array(1.7), "keep_NO": keep_NO})
    return found


def cotangent(shape, rng):
    """An array of that shape."""
    return rng.standard_normal(shape)
