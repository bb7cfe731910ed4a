"""The exercises of notebook 12: the landscape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..by_hand.methods.dora import dora_linear_bwd, dora_linear_fwd
from ..by_hand.methods.lorta import cp_factor_bwd
from .grader import Gradient, Misconception, Values

Array = np.ndarray

# --- VeRA: dlambda_d and dlambda_b ------------------------------------------------------------------


def _vera(
    dv: Callable[[Array, Array, Array], Array] = lambda dy, B, lb: (dy * lb) @ B.T,
    dd: Callable[[Array, Array, Array], Array] = lambda dv, u, ld: (dv * u).sum(axis=0),
    db: Callable[[Array, Array, Array, Array, Array], Array] = lambda dy, u, B, ld, lb: (dy * ((u * ld) @ B)).sum(
        axis=0
    ),
) -> Callable[..., dict[str, Array]]:
    """The two gradients, and the ways to get them wrong."""
    return lambda dy, u, B, ld, lb: {"lambda_d": dd(dv(dy, B, lb), u, ld), "lambda_b": db(dy, u, B, ld, lb)}


VERA = Gradient(
    "12",
    "vera",
    _vera(),
    (
        Misconception(
            "Your dlambda_d does not know lambda_b. Which of the two vectors stands between lambda_d and y?",
            _vera(dv=lambda dy, B, lb: dy @ B.T),
        ),
        Misconception(
            "Your dlambda_b does not know lambda_d. What does lambda_b multiply, entry by entry, in the forward?",
            _vera(db=lambda dy, u, B, ld, lb: (dy * (u @ B)).sum(axis=0)),
        ),
        Misconception(
            "Your dlambda_b is multiplied by lambda_b itself. Is a slope with respect to a factor a multiple of that "
            "factor?",
            _vera(db=lambda dy, u, B, ld, lb: (dy * ((u * ld) @ B) * lb).sum(axis=0)),
        ),
        Misconception(
            "Your dlambda_d is multiplied by lambda_d itself. Is a slope with respect to a factor a multiple of that "
            "factor?",
            _vera(dd=lambda dv, u, ld: (dv * u * ld).sum(axis=0)),
        ),
        Misconception(
            "You averaged over the rows. What do the rows of a batch do to the gradient of a vector that all of them "
            "share?",
            _vera(
                dd=lambda dv, u, ld: (dv * u).mean(axis=0),
                db=lambda dy, u, B, ld, lb: (dy * ((u * ld) @ B)).mean(axis=0),
            ),
        ),
        Misconception(
            "Your dlambda_d leaves out u. What multiplies lambda_d, entry by entry, in the forward?",
            _vera(dd=lambda dv, u, ld: dv.sum(axis=0)),
        ),
    ),
    op="vera_linear",
    keys=("lambda_d", "lambda_b"),
    takes=("dout", "u_NR", "B_RO", "lambda_d_R", "lambda_b_O"),
    derived={"u_NR": lambda a: a["x_NI"] @ a["A_IR"]},
)

# --- DoRA: the backward, through the norm -----------------------------------------------------------


def _ours(dy: Array, x: Array, W0: Array, A: Array, B: Array, m: Array, scale: float) -> dict[str, Array]:
    _, cache = dora_linear_fwd(x, W0, None, A, B, m, scale)
    return dora_linear_bwd(dy, cache, wrt=("A", "B", "magnitude"))


def _dora(
    dV: Callable[[Array, Array, Array, Array], Array],
    dm: Callable[[Array, Array, Array, Array], Array] = lambda G, V, n, m: (G * V).sum(axis=0) / n,
    s: Callable[[float], float] = lambda scale: scale,
) -> Callable[..., dict[str, Array]]:
    """From G = x^T dy, V, its column norms n and m: dV and dm; then dA and dB."""

    def answer(dy: Array, x: Array, W0: Array, A: Array, B: Array, m: Array, scale: float) -> dict[str, Array]:
        V, G = W0 + scale * A @ B, x.T @ dy
        n = np.sqrt((V * V).sum(axis=0))
        back = s(scale) * dV(G, V, n, m)
        return {"A": back @ B.T, "B": A.T @ back, "magnitude": dm(G, V, n, m)}

    return answer


def _through(G: Array, V: Array, n: Array, m: Array) -> Array:
    return (m / n) * (G - V * ((G * V).sum(axis=0) / n**2))


DORA = Gradient(
    "12",
    "dora",
    _ours,
    (
        Misconception(
            "You hold the norms constant. That is the released code's shortcut, and a good one; but here they are "
            "differentiated: along which direction of a column can dV have no part, then?",
            _dora(lambda G, V, n, m: (m / n) * G),
        ),
        Misconception(
            "Your dA and dB are LoRA's: they do not know that the columns are rescaled. By which factor is a step of V "
            "longer or shorter in W'?",
            _dora(lambda G, V, n, m: G),
        ),
        Misconception(
            "Your dm is too large, or too small, by the length of the column. Which vector does m_j multiply: the "
            "column, or its direction?",
            _dora(_through, dm=lambda G, V, n, m: (G * V).sum(axis=0)),
        ),
        Misconception(
            "The constant s is missing in your dA and dB. How do A and B enter V?",
            _dora(_through, s=lambda scale: 1.0),
        ),
        Misconception(
            "You divide the part along the column by its length once too rarely. How long must a vector be for its "
            "outer product with itself to be a projection?",
            _dora(lambda G, V, n, m: (m / n) * (G - V * ((G * V).sum(axis=0) / n))),
        ),
        Misconception(
            "You add the part along the column instead of removing it. If a column gets longer, what does the division "
            "by its norm do?",
            _dora(lambda G, V, n, m: (m / n) * (G + V * ((G * V).sum(axis=0) / n**2))),
        ),
        Misconception(
            "You remove one multiple of the whole V, as if the matrix were a single column. How many magnitudes does "
            "the layer have?",
            _dora(
                lambda G, V, n, m: (m / n) * (G - V * ((G * V).sum() / (V * V).sum())),
            ),
        ),
    ),
    op="dora_full_linear",
    keys=("A", "B", "magnitude"),
    takes=("dout", "x_NI", "W0_IO", "A_IR", "B_RO", "magnitude_O", "scale"),
)

# --- LoRTA: what all matrices and heads share -------------------------------------------------------


def _shared(dF: Array, B: Array, heads: Array, layer: Array, matrix: Array) -> tuple[Array, Array]:
    dB, dheads = np.zeros(B.shape), np.zeros(heads.shape)
    for dF_RHK, layer_R, matrix_R in zip(dF, layer, matrix, strict=True):
        grads = cp_factor_bwd(dF_RHK.reshape(len(B), -1), (B, heads, layer_R, matrix_R))
        dB, dheads = dB + grads["B"], dheads + grads["heads"]
    return dB, dheads


def _lorta(dB: str, dheads: str) -> Callable[..., tuple[Array, Array]]:
    """The two sums as einsum spells them, over dF (m r h k), B, heads, layer and matrix."""

    def answer(dF: Array, B: Array, heads: Array, layer: Array, matrix: Array) -> tuple[Array, Array]:
        known = {"F": dF, "B": B, "h": heads, "l": layer, "m": matrix}
        found = []
        for spelled in (dB, dheads):
            names, _, subscripts = spelled.partition(" ")
            found.append(np.einsum(subscripts, *(known[name] for name in names)))
        return found[0], found[1]

    return answer


_DB, _DHEADS = "Fhlm mrhk,hr,mr,mr->rk", "FBlm mrhk,rk,mr,mr->hr"
"""The right ones."""


def _first_only(dF: Array, B: Array, heads: Array, layer: Array, matrix: Array) -> tuple[Array, Array]:
    return _shared(dF[:1], B, heads, layer[:1], matrix[:1])


def _last_wins(dF: Array, B: Array, heads: Array, layer: Array, matrix: Array) -> tuple[Array, Array]:
    return _shared(dF[-1:], B, heads, layer[-1:], matrix[-1:])


def _mean(dF: Array, B: Array, heads: Array, layer: Array, matrix: Array) -> tuple[Array, Array]:
    dB, dheads = _shared(dF, B, heads, layer, matrix)
    return dB / len(dF), dheads / len(dF)


def _points() -> list[tuple[str, tuple[Any, ...]]]:
    sizes = {
        "different sizes": (3, 2, 4, 5),
        "one matrix": (1, 3, 2, 4),
        "one head": (4, 3, 1, 2),
        "rank 1": (2, 1, 3, 4),
    }
    found = []
    for seed, (label, (M, R, H, K)) in enumerate(sizes.items()):
        rng = np.random.default_rng(seed)
        shapes = ((M, R, H, K), (R, K), (H, R), (M, R), (M, R))
        found.append((label, tuple(rng.standard_normal(shape) for shape in shapes)))
    return found


LORTA = Values(
    "12",
    "lorta",
    _shared,
    (
        Misconception(
            "Only the first matrix is heard. Whose store is B: that of one matrix, or of all of them?",
            _first_only,
        ),
        Misconception(
            "Only the last matrix is heard: what the others said was written over. Who adds up?",
            _last_wins,
        ),
        Misconception(
            "You averaged over the matrices. If two matrices read the same number, what does the chain rule do with "
            "their two slopes?",
            _mean,
        ),
        Misconception(
            "Your dB leaves out the heads' vectors. By what is B multiplied before it stands in a head's columns?",
            _lorta("Flm mrhk,mr,mr->rk", _DHEADS),
        ),
        Misconception(
            "Your gradients do not know in which layer a matrix is. Which three vectors make its coefficients?",
            _lorta("Fhm mrhk,hr,mr->rk", "FBm mrhk,rk,mr->hr"),
        ),
        Misconception(
            "Your gradients do not know which kind of matrix it is. Which three vectors make its coefficients?",
            _lorta("Fhl mrhk,hr,mr->rk", "FBl mrhk,rk,mr->hr"),
        ),
        Misconception(
            "Your dheads leaves out B. What does a head's vector multiply, row by row?",
            _lorta(_DB, "Flm mrhk,mr,mr->hr"),
        ),
    ),
    points=_points,
)

EXERCISES = (VERA, DORA, LORTA)
