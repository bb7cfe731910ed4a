"""The exercises of notebook 04: why the starting point hides bugs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from ..by_hand.kernels import KERNELS
from ..gradcheck import check
from ..shapes import InputError
from ..verification.mutants import BUGS, Mutant, holds, mutant
from ..verification.scenarios import draw_case
from .answers import NotIt, numbers
from .grader import Judged, Misconception
from .watch import same

Array = np.ndarray

LAYER = KERNELS["tlora_linear"]
LAYER_BUGS = tuple(m for m in BUGS if m.op == LAYER.name)

CHECKER = ("check", "mutant", "pair", "scenarios", "draw_case", "ok", "wrt")
"""What an answer may use: to ask the checker is as good as to predict what it says."""

# --- hidden(): which of twelve bugs cannot be seen at B = 0, alpha = 1? ---------------------------

ASKED = (
    "tlora_dB_sign",
    "tlora_dB_without_alpha",
    "tlora_dB_alpha_twice",
    "tlora_dB_transposed",
    "tlora_dalpha_sign",
    "tlora_dalpha_with_alpha",
    "tlora_dalpha_without_B",
    "tlora_dx_adapter_sign",
    "tlora_dx_without_alpha",
    "tlora_dx_B_untransposed",
    "tlora_dx_adapter_path_dropped",
    "tlora_dx_base_path_dropped",
)
"""The twelve, all of them visible at a generic point."""


def start_point(seed: int = 0) -> dict[str, Any]:
    """Arguments of the layer at TLoRA's initial point, R = S, without bias and dropout."""
    size = {"I": 6, "R": 3, "S": 3, "O": 4}
    args = draw_case(LAYER, seed, (5,), size, generic=True).args
    return {**args, "b_O": None, "keep_NO": None, "B_RS": np.zeros((3, 3)), "alpha": np.array(1.0)}


def seen(bug: str | Mutant, inputs: Mapping[str, Any], seed: int = 0) -> bool:
    """Does gradcheck.check reject the mutant at this point?"""
    fwd, bwd = (mutant(bug) if isinstance(bug, str) else bug).pair()
    return not check(fwd, bwd, inputs, wrt=LAYER.wrt, seed=seed, points=("given",)).ok


@cache
def _hidden() -> frozenset[str]:
    return frozenset(name for name in ASKED if not seen(name, start_point()))


NOT_NAMES = "Some of what you named is not among the twelve. How are they spelt in the list above?"
EVERYTHING = "You named all twelve. dB is not zero at the start: can a bug in it always hide there?"
DB_SHOWS = (
    "You named a bug of dB that shows at the start: dB is not zero there. Which of its bugs does alpha = 1 cover up?"
)
BASE_SHOWS = "You named a bug in the frozen path of dx. Is dy W0^T zero at B = 0?"
WITHOUT_B = (
    "You named a dalpha that is not zero at the start. The right one is: can a checker not tell zero from non-zero?"
)
NO_ALPHA = (
    "alpha = 1 hides something that you did not name. Which of the twelve are wrong by nothing but powers of alpha?"
)
NO_DALPHA = "dalpha = <B, u^T g> is zero at the start. What would its other bugs have to change to be seen?"
NO_DX = "At B = 0 the update's share of dx is zero. Which bugs are in that share alone?"
EMPTY = "You named none. What is -0, and what is 1 * 1?"


def _judge_hidden(answer: Any) -> str:
    named = set(answer())
    if not named <= set(ASKED):
        return NOT_NAMES
    if not named:
        return EMPTY
    if named == set(ASKED):
        return EVERYTHING
    surplus, missing = named - _hidden(), _hidden() - named
    for name, message in (("tlora_dB", DB_SHOWS), ("tlora_dx", BASE_SHOWS), ("tlora_dalpha", WITHOUT_B)):
        if any(bug.startswith(name) for bug in surplus):
            return message
    for name, message in (("alpha", NO_ALPHA), ("tlora_dalpha", NO_DALPHA), ("tlora_dx", NO_DX)):
        powers = {bug for bug in missing if mutant(bug).family == "alpha"}
        if powers if name == "alpha" else any(bug.startswith(name) for bug in missing):
            return message
    return ""


def _named(leave: tuple[str, ...] = (), add: tuple[str, ...] = ()) -> Callable[[], set[str]]:
    """The right set, without what begins with one of ``leave`` and with ``add``."""
    return lambda: (
        {name for name in _hidden() if not name.startswith(leave)} | set(add) if leave else _hidden() | set(add)
    )


HIDDEN = Judged(
    "04",
    "hidden",
    lambda: set(_hidden()),
    (
        Misconception(EMPTY, lambda: set()),
        Misconception(EVERYTHING, lambda: set(ASKED)),
        Misconception(DB_SHOWS, _named(add=("tlora_dB_transposed",))),
        Misconception(BASE_SHOWS, _named(add=("tlora_dx_base_path_dropped",))),
        Misconception(WITHOUT_B, _named(add=("tlora_dalpha_without_B",))),
        Misconception(NO_ALPHA, _named(leave=("tlora_dB",))),
        Misconception(NO_DALPHA, _named(leave=("tlora_dalpha_sign",))),
        Misconception(NO_DX, _named(leave=("tlora_dx_adapter",))),
        Misconception(NOT_NAMES, _named(add=("dalpha",))),
    ),
    rule=_judge_hidden,
    passes="the same as a checker finds at B = 0, alpha = 1",
    may_use=CHECKER,
)

# --- points(): inputs that together show every bug of the layer -----------------------------------

AT_MOST = 3

NO_POINTS = "You returned no list of dictionaries. What are the names of the arguments that a point has to give?"
TOO_MANY = f"That is more than {AT_MOST} points. Which two of yours could be one?"
UNUSABLE = "At one of your points the forward cannot run: {error}. What do the letters in the names say?"
NOT_RIGHT = (
    "At one of your points a checker rejects the right gradient too, so a bug that is rejected there proves nothing. "
    "What is out of the ordinary about that point?"
)
NOT_FLOAT64 = "At one of your points {name} is {dtype}. How many digits does float64 have, and how many are left here?"
NO_SINGLE = (
    "Every condition holds somewhere, but a bug needs two of them at one point, and it never gets both. "
    "Which of your points is special in two ways at once?"
)
ASKS = {
    "B != 0": "Bugs are left that B = 0 hides at all of your points. What is multiplied by B in the backward?",
    "alpha != 0": "Bugs are left that alpha = 0 hides at all of your points. Which gradients does it switch off?",
    "alpha != 1": "Bugs are left that alpha = 1 hides at all of your points. What is 1 * 1?",
    "dropout": "Bugs are left in the dropout. Is there a point whose mask keeps some entries and drops others?",
    "more than one row": "A bug is left that one row hides. When are a mean and a sum over rows the same?",
    "R or S > 1": "Bugs are left that a rank of one hides. Which matrices are their own transpose?",
    "R or S = 1": "A bug is left that only shows where an axis has length one. What does squeeze() do there?",
}
"""Condition of verification/mutants -> what to ask when it holds at none of the points."""


def _judge_points(answer: Any) -> str:
    points = answer()
    points = list(points) if isinstance(points, (list, tuple)) else []
    if not points or not all(isinstance(point, dict) for point in points):
        return NO_POINTS
    if len(points) > AT_MOST:
        return TOO_MANY
    for point in points:
        other = [name for name, array in point.items() if array is not None and np.asarray(array).dtype != np.float64]
        if other:
            return NOT_FLOAT64.format(name=other[0], dtype=np.asarray(point[other[0]]).dtype)
        try:
            report = check(LAYER.fwd, LAYER.bwd, point, wrt=LAYER.wrt)
        except (InputError, TypeError) as error:
            return UNUSABLE.format(error=" ".join(str(error).split()))
        if not report.ok:
            return NOT_RIGHT
    left = [bug for bug in LAYER_BUGS if not any(seen(bug, point) for point in points)]
    for condition, message in ASKS.items():
        if any(condition in bug.visible and not any(holds(condition, p) for p in points) for bug in left):
            return message
    return NO_SINGLE if left else ""


def point(
    N: int = 5, I: int = 6, R: int = 3, S: int = 2, O: int = 4, alpha: float = 1.7, B: float = 1.0, drop: float = 0.25
) -> dict[str, Any]:
    """A random point of the layer: sizes, alpha, the scale of B, and the share of the update that is dropped."""
    rng = np.random.default_rng(0)
    shapes = {"x_NI": (N, I), "W0_IO": (I, O), "b_O": (O,), "A_IR": (I, R), "B_RS": (R, S), "C_SO": (S, O)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    keep_NO = (rng.random((N, O)) >= drop) / (1 - drop) if drop else None
    return {**arrays, "B_RS": B * arrays["B_RS"], "alpha": np.array(alpha), "keep_NO": keep_NO}


POINTS = Judged(
    "04",
    "points",
    lambda: [point(), point(R=1)],
    (
        Misconception(ASKS["B != 0"], lambda: [point(B=0.0), point(R=1, B=0.0)]),
        Misconception(ASKS["alpha != 0"], lambda: [point(alpha=0.0), point(R=1, alpha=0.0)]),
        Misconception(ASKS["alpha != 1"], lambda: [point(alpha=1.0), point(R=1, alpha=1.0)]),
        Misconception(ASKS["dropout"], lambda: [point(drop=0.0), point(R=1, drop=0.0)]),
        Misconception(ASKS["more than one row"], lambda: [point(N=1), point(N=1, R=1)]),
        Misconception(ASKS["R or S > 1"], lambda: [point(R=1, S=1)]),
        Misconception(ASKS["R or S = 1"], lambda: [point()]),
        Misconception(NO_SINGLE, lambda: [point(B=0.0), point(N=1, alpha=1.0, drop=0.0), point(R=1, alpha=0.0)]),
        Misconception(NOT_RIGHT, lambda: [point(), point(R=0)]),
        Misconception(
            NOT_FLOAT64.format(name="x_NI", dtype="float32"),
            lambda: [point(), {**point(R=1), "x_NI": point()["x_NI"].astype(np.float32)}],
        ),
        Misconception(NO_POINTS, lambda: point()),
        Misconception(TOO_MANY, lambda: [point(R=1 + i) for i in range(4)]),
    ),
    rule=_judge_points,
    passes=f"all {len(LAYER_BUGS)} bugs of the layer are found at one of your points at least",
    may_use=CHECKER,
)

# --- cotangent(shape, rng): what to multiply an output with ---------------------------------------

NORM_BUGS = tuple(
    f"layer_norm_{name}"
    for name in ("without_both_means", "without_mean_of_dxhat", "without_mean_along_xhat", "unbiased_variance",
                 "mean_over_all_rows")
)  # fmt: skip

COTANGENT_SHAPE = "Your cotangent has shape {found} for an output of shape {shape}. How many numbers weigh an output?"
ZEROS = "Your cotangent is zero: every gradient is zero then, right or wrong. What question does that ask?"
SOME_ZEROS = (
    "Some entries of your cotangent are zero: nobody asks about those outputs. What could be wrong with them unseen?"
)
TINY = (
    "The entries of your cotangent are far from one in size, and so is every error that it shows. What is a tolerance "
    "worth then?"
)
ALL_EQUAL = (
    "All entries of your cotangent are equal. The entries of a LayerNorm row sum to zero when gamma = 1: what is the "
    "gradient of their sum?"
)
BY_ROW = (
    "Your cotangent is constant along each row. LayerNorm and softmax fix the sum of a row: what can you learn from "
    "a question about it?"
)
BY_COLUMN = (
    "All rows of your cotangent are the same. How would a mean over all rows, in place of one a row, show itself?"
)
PRODUCT = (
    "Your cotangent is a product of a row and a column: a few random numbers used again and again. A backward that "
    "mixes up rows could be right for it: how many numbers did you draw?"
)
FEW_VALUES = (
    "Your cotangent takes very few different values. Two outputs with the same weight can be exchanged, and who would "
    "know?"
)
SCALAR_ONE = "The cotangent of a scalar is 1 in your hands. Which bug could a loss's backward have that 1 hides?"
FIXED = "Your cotangent is the same for every rng. Why may the next bug be one that this very question hides?"
NOT_FROM_RNG = (
    "With an rng of the same seed your cotangent is another one each time. Who could repeat a check that failed? Where "
    "do your numbers come from?"
)
STILL_HIDDEN = "A bug of LayerNorm is still hidden from your cotangent. What do its entries have in common?"


def _judge_cotangent(answer: Any) -> str:
    def ask(shape: tuple[int, ...], seed: int) -> Array:
        drawn = numbers(answer(shape, np.random.default_rng(seed)))
        if drawn.shape != shape:
            raise NotIt(COTANGENT_SHAPE.format(found=drawn.shape, shape=shape))
        return drawn.astype(float)

    scalars = [ask((), seed) for seed in range(8)]
    dy_ND = ask((5, 6), 0)
    message = SOME_ZEROS if dy_ND.any() and not dy_ND.all() else _weak(dy_ND)
    if message:
        return message
    if any(scalar == 1 for scalar in scalars):
        return SCALAR_ONE
    for shape, drawn in (((5, 6), dy_ND), ((), scalars[0]), ((7,), ask((7,), 0)), ((2, 3, 4), ask((2, 3, 4), 0))):
        if not same(drawn, ask(shape, 0)):
            return NOT_FROM_RNG
        if same(drawn, ask(shape, 1)):
            return FIXED
        if not drawn.all():
            return SOME_ZEROS
        if np.abs(drawn).max() < 1e-3 or np.abs(drawn).max() > 1e3:
            return TINY
        if any(n > 1 and np.ptp(drawn, axis=axis).min() == 0 for axis, n in enumerate(shape)):
            return BY_COLUMN if np.ptp(drawn, axis=-1).min() > 0 else BY_ROW
        if len(np.unique(drawn)) < drawn.size / 2:
            return FEW_VALUES
    return PRODUCT if np.linalg.matrix_rank(dy_ND) < 5 else ""


def _weak(dy_ND: Array) -> str:
    """Why a bug of LayerNorm is hidden from this cotangent, "" if none is."""
    row = KERNELS["layer_norm"]
    case = draw_case(row, 2, (5,), {"D": 6}, generic=True)
    args = {**case.args, "gamma_D": np.ones(6), "beta_D": np.zeros(6)}
    if not dy_ND.any():
        return ZEROS
    right = row.bwd(dy_ND, row.fwd(**args)[1])["x"]
    scale = np.abs(dy_ND).max()
    for name in NORM_BUGS:
        fwd, bwd = mutant(name).pair()
        if np.abs(bwd(dy_ND, fwd(**args)[1])["x"] - right).max() < 1e-9 * scale:
            same_rows, same_columns = np.ptp(dy_ND, axis=0).max() == 0, np.ptp(dy_ND, axis=1).max() == 0
            if same_rows and same_columns:
                return ALL_EQUAL
            return BY_ROW if same_columns else BY_COLUMN if same_rows else STILL_HIDDEN
    return ""


def _first_left_out(shape: tuple[int, ...], rng: Any) -> Array:
    drawn = np.array(rng.standard_normal(shape))
    drawn.reshape(-1)[: drawn.size > 1] = 0
    return drawn


COTANGENT = Judged(
    "04",
    "cotangent",
    lambda shape, rng: rng.standard_normal(shape),
    (
        Misconception(
            COTANGENT_SHAPE.format(found=(), shape=(5, 6)),
            lambda shape, rng: rng.standard_normal(),
        ),
        Misconception(ZEROS, lambda shape, rng: np.zeros(shape)),
        Misconception(ALL_EQUAL, lambda shape, rng: np.ones(shape)),
        Misconception(
            BY_ROW, lambda shape, rng: np.ones(shape) * rng.standard_normal((*shape[:-1], *[1] * len(shape[-1:])))
        ),
        Misconception(BY_COLUMN, lambda shape, rng: np.ones(shape) * rng.standard_normal(shape[-1:])),
        Misconception(SCALAR_ONE, lambda shape, rng: rng.standard_normal(shape) if shape else np.ones(())),
        Misconception(FIXED, lambda shape, rng: np.random.default_rng(7).standard_normal(shape)),
        Misconception(NOT_FROM_RNG, lambda shape, rng: np.random.default_rng().standard_normal(shape)),
        Misconception(SOME_ZEROS, _first_left_out),
        Misconception(TINY, lambda shape, rng: 1e-9 * rng.standard_normal(shape)),
        Misconception(FEW_VALUES, lambda shape, rng: 0.5 * rng.choice([-3.0, -1.0, 1.0, 3.0], shape)),
        Misconception(
            PRODUCT,
            lambda shape, rng: (
                rng.standard_normal(shape[:-1] + (1,) * len(shape[-1:])) * rng.standard_normal(shape[-1:])
            ),
        ),
    ),
    rule=_judge_cotangent,
    passes="every bug of LayerNorm's dx shows, also at gamma = 1, no output goes unasked, and rng alone decides",
)

EXERCISES = (HIDDEN, POINTS, COTANGENT)
