"""The exercises of notebook 02: gradients by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..by_hand import tlora_linear_bwd
from .grader import Gradient, Misconception

Array = np.ndarray

U = {"u_NR": lambda a: a["x_NI"] @ a["A_IR"]}

# --- dB = alpha u^T (dy C^T) ----------------------------------------------------------------------

DB = Gradient(
    "02",
    "dB",
    lambda dy, u, C, alpha: alpha * u.T @ (dy @ C.T),
    (
        Misconception(
            "Your dB equals the right one transposed. Which index of B does u multiply, and which one does g?",
            lambda dy, u, C, alpha: alpha * (dy @ C.T).T @ u,
            "tlora_dB_transposed",
        ),
        Misconception(
            "Your dB is right but for a factor: at alpha = 1 nobody would notice. How does B enter y?",
            lambda dy, u, C, alpha: u.T @ (dy @ C.T),
            "tlora_dB_without_alpha",
        ),
        Misconception(
            "alpha is in your dB twice. How often does it stand in the forward?",
            lambda dy, u, C, alpha: alpha * u.T @ (alpha * dy @ C.T),
            "tlora_dB_alpha_twice",
        ),
        Misconception(
            "Your dB has the wrong sign. dB is the slope of the loss; who is it that goes downhill, the gradient or "
            "the optimizer?",
            lambda dy, u, C, alpha: -alpha * u.T @ (dy @ C.T),
            "tlora_dB_sign",
        ),
        Misconception(
            "You averaged over the rows. The cotangent dy already holds whatever the loss divided by: what do rows do "
            "to dB?",
            lambda dy, u, C, alpha: alpha * u.T @ (dy @ C.T) / len(u),
            "tlora_dB_mean_for_sum",
        ),
        Misconception(
            "You carry dy back through a matrix of the wrong shape, which only a square layer allows. "
            "Through which of A and C does the update leave?",
            lambda dy, u, C, alpha: alpha * u.T @ (dy @ C),
        ),
    ),
    op="tlora_linear",
    keys=("B",),
    takes=("dout", "u_NR", "C_SO", "alpha"),
    derived=U,
)

# --- dalpha = sum(B * u^T (dy C^T)) ---------------------------------------------------------------

DALPHA = Gradient(
    "02",
    "dalpha",
    lambda dy, u, B, C: np.sum(B * (u.T @ (dy @ C.T))),
    (
        Misconception(
            "Your dalpha is not zero at B = 0. There the update vanishes whatever alpha is: what must the slope be?",
            lambda dy, u, B, C: np.sum(u.T @ (dy @ C.T)),
            "tlora_dalpha_without_B",
        ),
        Misconception(
            "Your dalpha has the wrong sign. Does <B, dB> = alpha dalpha hold for your two gradients?",
            lambda dy, u, B, C: -np.sum(B * (u.T @ (dy @ C.T))),
            "tlora_dalpha_sign",
        ),
        Misconception(
            "Your dalpha has shape (S,). alpha is one number: over how many axes of B is it repeated?",
            lambda dy, u, B, C: np.sum(B * (u.T @ (dy @ C.T)), axis=0),
            "tlora_dalpha_one_axis",
        ),
        Misconception(
            "Your dalpha is divided by the number of entries of B. Do the shares of the entries add up or average?",
            lambda dy, u, B, C: np.mean(B * (u.T @ (dy @ C.T))),
            "tlora_dalpha_mean_for_sum",
        ),
        Misconception(
            "Your dalpha is divided by the number of rows. Where would that division have been done already?",
            lambda dy, u, B, C: np.sum(B * (u.T @ (dy @ C.T))) / len(u),
        ),
        Misconception(
            "You summed the update's gradient without weighing it by the update. What multiplies alpha in y, entry by "
            "entry?",
            lambda dy, u, B, C: np.sum(dy @ C.T),
        ),
        Misconception(
            "You paired the entries of B with those of a transposed matrix. Which of the two is R x S as B is?",
            lambda dy, u, B, C: np.sum(B.T * (u.T @ (dy @ C.T))),
        ),
    ),
    op="tlora_linear",
    keys=("alpha",),
    takes=("dout", "u_NR", "B_RS", "C_SO"),
    derived=U,
    frugal=True,
)

# --- dx = dy W0^T + alpha (dy C^T) B^T A^T --------------------------------------------------------

DX = Gradient(
    "02",
    "dx",
    lambda dy, W0, A, B, C, alpha: dy @ W0.T + alpha * dy @ C.T @ B.T @ A.T,
    (
        Misconception(
            "Only the frozen path is in your dx. A and C are not trained, but does x not reach y through them?",
            lambda dy, W0, A, B, C, alpha: dy @ W0.T,
            "tlora_dx_adapter_path_dropped",
        ),
        Misconception(
            "Only the update's path is in your dx. W0 is frozen: does that stop the gradient of x, or of W0?",
            lambda dy, W0, A, B, C, alpha: alpha * dy @ C.T @ B.T @ A.T,
            "tlora_dx_base_path_dropped",
        ),
        Misconception(
            "The update's share of your dx has the wrong size wherever alpha is not 1. "
            "What stands before A B C in the forward?",
            lambda dy, W0, A, B, C, alpha: dy @ W0.T + dy @ C.T @ B.T @ A.T,
            "tlora_dx_without_alpha",
        ),
        Misconception(
            "alpha is in the update's share of your dx twice. Did your g already hold it?",
            lambda dy, W0, A, B, C, alpha: dy @ W0.T + alpha * (alpha * dy @ C.T) @ B.T @ A.T,
            "tlora_dx_alpha_twice",
        ),
        Misconception(
            "You go back through B as you went forward. What happens to a matrix in the chain rule of x B?",
            lambda dy, W0, A, B, C, alpha: dy @ W0.T + alpha * dy @ C.T @ B @ A.T,
            "tlora_dx_B_untransposed",
        ),
        Misconception(
            "The two paths are subtracted in your dx. How are they put together in y?",
            lambda dy, W0, A, B, C, alpha: dy @ W0.T - alpha * dy @ C.T @ B.T @ A.T,
            "tlora_dx_adapter_sign",
        ),
        Misconception(
            "You leave through C where x entered through A; with I = O the shapes allow it. "
            "Which matrix is the first that x meets?",
            lambda dy, W0, A, B, C, alpha: dy @ W0.T + alpha * dy @ C.T @ B.T @ C,
            "tlora_dx_C_for_A",
        ),
        Misconception(
            "alpha scales the frozen path of your dx as well. Which of the two terms of y holds alpha?",
            lambda dy, W0, A, B, C, alpha: alpha * (dy @ W0.T + dy @ C.T @ B.T @ A.T),
        ),
    ),
    op="tlora_linear",
    keys=("x",),
    takes=("dout", "W0_IO", "A_IR", "B_RS", "C_SO", "alpha"),
)

# --- the whole backward, with dropout -------------------------------------------------------------


def _cache(a: Any) -> tuple[Any, ...]:
    return (a["x_NI"] @ a["A_IR"], a["W0_IO"], a["A_IR"], a["B_RS"], a["C_SO"], a["alpha"], a["keep_NO"])


def _backward(update: Any = None, base: Any = None) -> Any:
    """A backward; ``update`` and ``base`` say what dy becomes on each path, given (dy, keep)."""

    def backward(dy_NO: Array, cache: tuple[Any, ...]) -> dict[str, Array]:
        u_NR, W0_IO, A_IR, B_RS, C_SO, alpha, keep_NO = cache
        keep_NO = np.ones_like(dy_NO) if keep_NO is None else keep_NO
        dropped_NO = update(dy_NO, keep_NO) if update else keep_NO * dy_NO
        g_NS = dropped_NO @ C_SO.T
        frozen_NO = base(dy_NO, keep_NO) if base else dy_NO
        dx_NI = frozen_NO @ W0_IO.T + alpha * g_NS @ B_RS.T @ A_IR.T
        return {"x": dx_NI, "B": alpha * u_NR.T @ g_NS, "alpha": np.sum(B_RS * (u_NR.T @ g_NS))}

    return backward


DROPOUT = Gradient(
    "02",
    "backward",
    lambda dy, cache: tlora_linear_bwd(dy, cache),
    (
        Misconception(
            "You ignore the mask. An entry of the update that was dropped did not reach y: what is its gradient?",
            _backward(update=lambda dy, keep: dy),
            "tlora_dropout_forgotten",
        ),
        Misconception(
            "You drop the right entries, but those that stay have the wrong size. "
            "What did the forward do to them, besides keeping them?",
            _backward(update=lambda dy, keep: np.where(keep > 0, dy, 0)),
            "tlora_dropout_unscaled",
        ),
        Misconception(
            "The mask is in your gradient twice. How often was it in the forward?",
            _backward(update=lambda dy, keep: keep * (keep * dy)),
            "tlora_dropout_twice",
        ),
        Misconception(
            "You dropped entries of the frozen path too. On which of the two paths does TLoRA's dropout act?",
            _backward(base=lambda dy, keep: keep * dy),
            "tlora_dropout_on_the_base_path",
        ),
        Misconception(
            "Your mask is not the one of the forward. Where is it kept for you?",
            _backward(update=lambda dy, keep: np.roll(keep, 1) * dy),
            "tlora_dropout_another_mask",
        ),
        Misconception(
            "The entries that were kept are dropped in your backward, and the others kept. What does keep = 0 mean?",
            _backward(update=lambda dy, keep: np.where(keep > 0, 0, dy)),
        ),
    ),
    op="tlora_linear",
    keys=("x", "B", "alpha"),
    takes=("dout", "cache"),
    derived={"cache": _cache},
    optional=True,
    at=("different sizes", "square", "one row", "nothing optional", "initial point"),
)

EXERCISES = (DB, DALPHA, DX, DROPOUT)
