"""The exercises of notebook 07: a tiny transformer by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi, sqrt
from typing import Any

import numpy as np
from scipy.special import ndtr

from ..by_hand.ops import (
    attention_bwd,
    attention_fwd,
    cross_entropy_bwd,
    gelu_bwd,
    gelu_fwd,
    join_heads,
    layer_norm_bwd,
    layer_norm_fwd,
    softmax_fwd,
    split_heads,
)
from .grader import Gradient, Misconception

Array = np.ndarray

EVERYWHERE = ("different sizes", "square", "one row", "two leading axes", "Fortran order")

# --- GELU: dx = dy (Phi(x) + x phi(x)) ------------------------------------------------------------


def _density(x_NF: Array) -> Array:
    return np.exp(-x_NF * x_NF / 2) / sqrt(2 * pi)


def _tanh_gelu(dy_NF: Array, x_NF: Array) -> Array:
    t_NF = np.tanh(sqrt(2 / pi) * (x_NF + 0.044715 * x_NF**3))
    inner_NF = sqrt(2 / pi) * (1 + 3 * 0.044715 * x_NF**2)
    return dy_NF * 0.5 * (1 + t_NF + x_NF * (1 - t_NF**2) * inner_NF)


GELU = Gradient(
    "07",
    "gelu",
    lambda dy, x: gelu_bwd(dy, gelu_fwd(x)[1])["x"],
    (
        Misconception(
            "You treat Phi as a constant that x is multiplied with. Does it change when x moves?",
            lambda dy, x: dy * ndtr(x),
            "gelu_without_second_term",
        ),
        Misconception(
            "You differentiated Phi alone. The function is a product with x: what does the product rule add?",
            lambda dy, x: dy * _density(x),
        ),
        Misconception(
            "One of your two terms has the wrong sign. Does Phi rise or fall?",
            lambda dy, x: dy * (ndtr(x) - x * _density(x)),
            "gelu_second_term_sign",
        ),
        Misconception(
            "Your density is too narrow. What stands in the exponent beside the square of x?",
            lambda dy, x: dy * (ndtr(x) + x * np.exp(-x * x) / sqrt(2 * pi)),
            "gelu_pdf_without_half",
        ),
        Misconception(
            "Your density does not integrate to one. Which constant is missing?",
            lambda dy, x: dy * (ndtr(x) + x * np.exp(-x * x / 2)),
            "gelu_pdf_not_normalised",
        ),
        Misconception(
            "That is the derivative of the tanh approximation. Is it the forward of this notebook?",
            _tanh_gelu,
            "gelu_tanh_derivative",
        ),
        Misconception(
            "That is the slope of the function, and somebody multiplies it from behind. Where is dy?",
            lambda dy, x: ndtr(x) + x * _density(x),
        ),
    ),
    op="gelu",
    keys=("x",),
    takes=("dout", "x_NF"),
    at=EVERYWHERE,
)

# --- LayerNorm: dx = (dxhat - mean(dxhat) - xhat mean(dxhat xhat)) rstd ---------------------------


def _norm_cache(index: int) -> Callable[[Mapping[str, Any]], Array]:
    return lambda a: layer_norm_fwd(a["x_ND"], a["gamma_D"], a["beta_D"])[1][index]


def _mean(a_ND: Array) -> Array:
    return a_ND.mean(axis=-1, keepdims=True)


def _norm_dx(change: Callable[[Array, Array, Array], Array]) -> Callable[..., Array]:
    """dx from what ``change`` makes of (dxhat, xhat, rstd)."""
    return lambda dy, xhat, rstd, gamma: change(gamma * dy, xhat, rstd)


LAYER_NORM = Gradient(
    "07",
    "layer_norm",
    lambda dy, xhat, rstd, gamma: layer_norm_bwd(dy, (xhat, rstd, gamma))["x"],
    (
        Misconception(
            "You only undo the scaling. Mean and deviation were computed from x too: what happens to them when one "
            "entry of x moves?",
            _norm_dx(lambda d, xhat, rstd: rstd * d),
            "layer_norm_without_both_means",
        ),
        Misconception(
            "One road is missing, that through the mean. What must the entries of a row of dx sum to?",
            _norm_dx(lambda d, xhat, rstd: rstd * (d - xhat * _mean(d * xhat))),
            "layer_norm_without_mean_of_dxhat",
        ),
        Misconception(
            "One road is missing, that through the deviation. What happens to y when a row of x is stretched?",
            _norm_dx(lambda d, xhat, rstd: rstd * (d - _mean(d))),
            "layer_norm_without_mean_along_xhat",
        ),
        Misconception(
            "gamma is missing. What stands between xhat and y?",
            lambda dy, xhat, rstd, gamma: rstd * (dy - _mean(dy) - xhat * _mean(dy * xhat)),
            "layer_norm_dx_without_gamma",
        ),
        Misconception(
            "Your mean runs over all rows. Which numbers did the forward take the mean of?",
            _norm_dx(lambda d, xhat, rstd: rstd * (d - d.mean() - xhat * _mean(d * xhat))),
            "layer_norm_mean_over_all_rows",
        ),
        Misconception(
            "You divide by D - 1 in one place. Which variance did the forward use?",
            _norm_dx(
                lambda d, xhat, rstd: (
                    rstd * (d - _mean(d) - xhat * (d * xhat).sum(axis=-1, keepdims=True) / (d.shape[-1] - 1))
                )
            ),
            "layer_norm_unbiased_variance",
        ),
        Misconception(
            "Your bracket is right, what stands before it is not. Was the row multiplied by rstd, or divided by it?",
            _norm_dx(lambda d, xhat, rstd: (d - _mean(d) - xhat * _mean(d * xhat)) / rstd),
        ),
    ),
    op="layer_norm",
    keys=("x",),
    takes=("dout", "xhat_ND", "rstd_N1", "gamma_D"),
    derived={"xhat_ND": _norm_cache(0), "rstd_N1": _norm_cache(1)},
    at=(*EVERYWHERE, "initial point"),
)

# --- attention: dv = p^T dout,  ds = softmax'(dout v^T) / sqrt(K),  dq = ds k,  dk = ds^T q -------


def _attention_cache(a: Mapping[str, Any]) -> tuple[Any, ...]:
    q, k, v, (p,) = attention_fwd(a["q_NTD"], a["k_NTD"], a["v_NTD"], a["heads"], None, a["causal"])[1]
    return q, k, v, p


def _head(index: int) -> Callable[[Mapping[str, Any]], Array]:
    return lambda a: _attention_cache(a)[index]


def _row_term(dp: Array, p: Array) -> Array:
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))


def _attention(
    softmax: Callable[[Array, Array], Array] = _row_term,
    scale: Callable[[int, int], float] = lambda K, H: 1 / sqrt(K),
    dv_from: Callable[[Array], Array] = lambda p: p.swapaxes(-1, -2),
    dk_from: Callable[[Array], Array] = lambda ds: ds.swapaxes(-1, -2),
    swapped: bool = False,
) -> Callable[..., dict[str, Array]]:
    """The backward with one of its steps exchanged."""

    def backward(dout_NTD: Array, q: Array, k: Array, v: Array, p: Array) -> dict[str, Array]:
        H, K = q.shape[-3], q.shape[-1]
        dout = split_heads(dout_NTD, H)
        ds = softmax(dout @ v.swapaxes(-1, -2), p) * scale(K, H)
        for_q, for_k = (q, k) if swapped else (k, q)
        return {
            "q": join_heads(ds @ for_q),
            "k": join_heads(dk_from(ds) @ for_k),
            "v": join_heads(dv_from(p) @ dout),
        }

    return backward


ATTENTION = Gradient(
    "07",
    "attention",
    lambda dout, q, k, v, p: attention_bwd(dout, (q, k, v, (p,))),
    (
        Misconception(
            "The scale is missing from your scores' gradient. What was the product of q and k divided by?",
            _attention(scale=lambda K, H: 1.0),
            "attention_without_scale",
        ),
        Misconception(
            "The scale is in your gradient twice. How often did the forward divide?",
            _attention(scale=lambda K, H: 1 / K),
            "attention_scale_twice",
        ),
        Misconception(
            "You scale by the width of a token. How many numbers of it does one head see?",
            _attention(scale=lambda K, H: 1 / sqrt(K * H)),
            "attention_scale_by_width",
        ),
        Misconception(
            "Your softmax treats each entry alone. If one share rises, what do the others of its row do?",
            _attention(softmax=lambda dp, p: p * dp),
            "attention_without_row_term",
        ),
        Misconception(
            "You went from the shares to the scores without a step. Which function turned scores into shares?",
            _attention(softmax=lambda dp, p: dp),
            "attention_without_softmax",
        ),
        Misconception(
            "Your dv mixes up who looks and who is looked at. Which index of p is summed over on the way back?",
            _attention(dv_from=lambda p: p),
            "attention_dv_p_untransposed",
        ),
        Misconception(
            "Your dk mixes up who looks and who is looked at. Along which axis of the scores do keys lie?",
            _attention(dk_from=lambda ds: ds),
            "attention_dk_ds_untransposed",
        ),
        Misconception(
            "Queries and keys have changed places. What was q multiplied with in the forward?",
            _attention(swapped=True),
        ),
    ),
    op="attention",
    keys=("q", "k", "v"),
    takes=("dout", "q_NHTK", "k_NHTK", "v_NHTK", "p_NHTT"),
    derived={name: _head(i) for i, name in enumerate(("q_NHTK", "k_NHTK", "v_NHTK", "p_NHTT"))},
    at=("different sizes", "square", "one row", "Fortran order", "one token", "causal=True"),
    may_use=("split_heads", "join_heads"),
)

# --- cross-entropy: dlogits = dloss (p - onehot) / N ----------------------------------------------


def _onehot(p_NV: Array, labels_N: Array) -> Array:
    return np.eye(p_NV.shape[-1])[labels_N]


CROSS_ENTROPY = Gradient(
    "07",
    "cross_entropy",
    lambda dloss, p, labels: cross_entropy_bwd(dloss, (p, labels[..., None]))["logits"],
    (
        Misconception(
            "Your gradient pushes the other way. Should the logit of the right class have a positive slope, or a "
            "negative one?",
            lambda dloss, p, labels: dloss * (_onehot(p, labels) - p) / labels.size,
            "cross_entropy_sign",
        ),
        Misconception(
            "You forgot which class was right. What would a batch of other labels change?",
            lambda dloss, p, labels: dloss * p / labels.size,
            "cross_entropy_without_onehot",
        ),
        Misconception(
            "Your gradient is that of the sum. What did the forward do to the losses of the rows?",
            lambda dloss, p, labels: dloss * (p - _onehot(p, labels)),
            "cross_entropy_sum_for_mean",
        ),
        Misconception(
            "You divide by the number of classes. Over what was the mean taken?",
            lambda dloss, p, labels: dloss * (p - _onehot(p, labels)) / p.shape[-1],
            "cross_entropy_over_classes",
        ),
        Misconception(
            "You count the first axis alone. How many rows has a batch of sequences, each with several tokens?",
            lambda dloss, p, labels: dloss * (p - _onehot(p, labels)) / len(labels),
            "cross_entropy_over_first_axis",
        ),
        Misconception(
            "You assume that the loss is the end of the road. Where is dloss?",
            lambda dloss, p, labels: (p - _onehot(p, labels)) / labels.size,
            "cross_entropy_cotangent_ignored",
        ),
        Misconception(
            "Only the logit of the right class gets a gradient. Do the others stand in the loss, too?",
            lambda dloss, p, labels: dloss * _onehot(p, labels) * (p - 1) / labels.size,
        ),
    ),
    op="cross_entropy",
    keys=("logits",),
    takes=("dout", "p_NV", "labels_N"),
    derived={"p_NV": lambda a: softmax_fwd(a["logits_NV"])[0]},
    at=EVERYWHERE,
)

EXERCISES = (GELU, LAYER_NORM, ATTENTION, CROSS_ENTROPY)
