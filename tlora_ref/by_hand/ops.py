"""The operations of a transformer encoder: each forward with its hand-written backward directly under it.

Equation    y = f(x),   dx = J_f(x)^T dy, written out per operation above the line that computes it.
Twin        by_autograd/ops.py, same names without ``_fwd``, gradients by autograd.
Checked by  tests/test_kernels.py: complex step, central differences, shapes, layouts, masks.

Conventions (design of the room): ``NAME_fwd(...) -> (out, cache)``, ``NAME_bwd(dout, cache, wrt=None) -> grads``.
The cache holds what the backward reads and nothing else. ``wrt`` names the gradients wanted, None for all.
Nothing here mutates an input, returns a view of one, or changes its dtype; nothing here takes an absolute
value, a conjugate or a norm, so every kernel can be differentiated by the complex step.
"""

from __future__ import annotations

from collections.abc import Collection
from math import pi, sqrt
from typing import Any

import numpy as np
from scipy.special import erfc

from ..shapes import InputError, ShapeError, check_ids, check_mask, shaped
from . import fast

Array = np.ndarray
Cache = tuple[Any, ...]
Grads = dict[str, Array]


def wanted(wrt: Collection[str] | None, *names: str) -> frozenset[str]:
    """The gradients to compute: all of ``names``, or the chosen ones.

    Raises InputError for a name that has no gradient: a frozen argument has none, which is not a zero one.
    """
    if wrt is None:
        return frozenset(names)
    surplus = sorted(set(wrt) - set(names))
    if surplus:
        raise InputError(f"no gradient with respect to {', '.join(surplus)}; there are {', '.join(names)}")
    return frozenset(wrt)


def rows(a_NX: Array) -> Array:
    """(..., X) -> (rows, X): all leading axes as one, for the sums over rows in weight gradients."""
    return a_NX.reshape(-1, a_NX.shape[-1])


def row_sum(*factors_NX: Array) -> Array:
    """(..., X) -> (..., 1): the sum over the last axis of the product of the arrays. einsum makes no array of the
    product, and is several times faster than ``sum`` on short rows."""
    return np.einsum(",".join(["...x"] * len(factors_NX)) + "->...", *factors_NX)[..., None]


# --- linear --------------------------------------------------------------------------------------


@shaped
def linear_fwd(x_NI: Array, W_IO: Array, b_O: Array | None) -> tuple[Array, Cache]:
    """A trained linear layer, y = x W + b.  x (..., I), W (I, O), b (O,) or None -> y (..., O)."""
    # y = x W + b
    y_NO = x_NI @ W_IO if b_O is None else x_NI @ W_IO + b_O
    return y_NO, (x_NI, W_IO)


def linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "W", "b"}; needs the whole input x, which is why a frozen layer is cheaper to train through."""
    x_NI, W_IO = cache
    want, grads = wanted(wrt, "x", "W", "b"), {}
    # db = sum over rows of dy
    if "b" in want:
        grads["b"] = rows(dy_NO).sum(axis=0)
    # dW = x^T dy
    if "W" in want:
        grads["W"] = rows(x_NI).T @ rows(dy_NO)
    # dx = dy W^T
    if "x" in want:
        grads["x"] = dy_NO @ W_IO.T
    return grads


@shaped
def frozen_linear_fwd(x_NI: Array, W0_IO: Array, b_O: Array | None) -> tuple[Array, Cache]:
    """A frozen linear layer, y = x W0 + b.  Frozen is not the same as not differentiable: dx flows through,
    but no gradient of W0 exists, so x need not be kept."""
    # y = x W0 + b
    y_NO = x_NI @ W0_IO if b_O is None else x_NI @ W0_IO + b_O
    return y_NO, (W0_IO,)


def frozen_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}"""
    (W0_IO,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = dy W0^T
    if "x" in want:
        grads["x"] = dy_NO @ W0_IO.T
    return grads


# --- layer_norm (Ba, Kiros and Hinton 2016, arXiv 1607.06450, eq. 4) -----------------------------


@shaped
def layer_norm_fwd(x_ND: Array, gamma_D: Array, beta_D: Array, eps: float = 1e-5) -> tuple[Array, Cache]:
    """y = gamma * (x - mean) / sqrt(var + eps) + beta over the last axis; var is the biased one (1/D)."""
    # xhat = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)
    D = x_ND.shape[-1]
    xhat_ND = x_ND - row_sum(x_ND) / D
    var_N1 = row_sum(xhat_ND, xhat_ND) / D
    rstd_N1 = 1.0 / np.sqrt(var_N1 + eps)
    xhat_ND *= rstd_N1
    # y = gamma * xhat + beta
    return gamma_D * xhat_ND + beta_D, (xhat_ND, rstd_N1, gamma_D)


def layer_norm_bwd(dy_ND: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "gamma", "beta"}"""
    xhat_ND, rstd_N1, gamma_D = cache
    want, grads = wanted(wrt, "x", "gamma", "beta"), {}
    # dbeta = sum over rows of dy,   dgamma = sum over rows of dy * xhat
    if "beta" in want:
        grads["beta"] = rows(dy_ND).sum(axis=0)
    if "gamma" in want:
        grads["gamma"] = rows(dy_ND * xhat_ND).sum(axis=0)
    # dx = (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / sqrt(var + eps),   dxhat = gamma * dy
    if "x" in want:
        D = dy_ND.shape[-1]
        dxhat_ND = gamma_D * dy_ND
        mean_N1 = row_sum(dxhat_ND) / D
        along_N1 = row_sum(dxhat_ND, xhat_ND) / D
        grads["x"] = rstd_N1 * (dxhat_ND - mean_N1 - xhat_ND * along_N1)
    return grads


# --- gelu (Hendrycks and Gimpel 2016, arXiv 1606.08415): the exact one, with erf -----------------


def normal(x: Array) -> tuple[Array, Array]:
    """Phi(x) and phi(x), distribution function and density of the standard normal distribution, elementwise.

    Phi(x) = erfc(-x / sqrt 2) / 2: unlike 1 + erf, exact to the last digits in the lower tail.
    """
    if x.dtype == np.float32:
        return fast.normal_float32(x)
    if x.dtype == np.float16:  # which erfc would return as float64
        cdf, pdf = fast.normal_float32(x.astype(np.float32))
        return cdf.astype(np.float16), pdf.astype(np.float16)
    return 0.5 * erfc(x * (-1 / sqrt(2))), np.exp(x * x * -0.5) * (1 / sqrt(2 * pi))


def gelu_and_slope(x: Array) -> tuple[Array, Array]:
    """y = x Phi(x) and its derivative Phi(x) + x phi(x), elementwise."""
    cdf, slope = normal(x)
    slope *= x
    slope += cdf
    return x * cdf, slope


@shaped
def gelu_fwd(x_NF: Array) -> tuple[Array, Cache]:
    """y = x Phi(x), Phi the normal distribution function, elementwise on any shape."""
    # y = x Phi(x);   the slope dy/dx is all that the backward needs
    y_NF, slope_NF = fast.in_pieces(gelu_and_slope, x_NF)
    return y_NF, (slope_NF,)


def gelu_bwd(dy_NF: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}"""
    (slope_NF,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = dy * (Phi(x) + x phi(x))
    if "x" in want:
        grads["x"] = dy_NF * slope_NF
    return grads


# --- tanh ----------------------------------------------------------------------------------------


@shaped
def tanh_fwd(x_NF: Array) -> tuple[Array, Cache]:
    """y = tanh(x), elementwise on any shape."""
    # y = tanh(x)
    y_NF = np.tanh(x_NF)
    return y_NF, (y_NF,)


def tanh_bwd(dy_NF: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}; the output is all that has to be kept."""
    (y_NF,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = dy * (1 - y^2),   and (1 - y) (1 + y) keeps the digits where y is close to 1
    if "x" in want:
        grads["x"] = dy_NF * ((1 - y_NF) * (1 + y_NF))
    return grads


# --- softmax -------------------------------------------------------------------------------------


@shaped
def softmax_fwd(x_NV: Array, mask_NV: Array | None = None) -> tuple[Array, Cache]:
    """p = exp(x) / sum exp(x) over the last axis, among the entries where ``mask`` is True.

    A row with no True entry is defined as zeros: nothing to attend to, nothing passed on, finite gradients.
    """
    # p = e / sum(e),   e = exp(x - max): the largest exponent is 0. The shift cancels, so taking it from
    # the real part leaves the complex-step derivative intact.
    if mask_NV is None:
        e_NV = np.exp(x_NV - fast.row_max(x_NV.real))
        p_NV = e_NV / row_sum(e_NV)
        return p_NV, (p_NV,)
    check_mask("softmax: mask_NV", mask_NV)
    x_NV = np.where(mask_NV, x_NV, -np.inf)
    shift_N1 = fast.row_max(x_NV.real)
    e_NV = np.exp(x_NV - np.where(shift_N1 == -np.inf, 0, shift_N1))
    sum_N1 = row_sum(e_NV)
    p_NV = e_NV / np.where(sum_N1 == 0, 1, sum_N1)
    return p_NV, (p_NV,)


def softmax_bwd(dp_NV: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}; masked entries have p = 0 and so get no gradient."""
    (p_NV,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = p * (dp - sum(dp * p))
    if "x" in want:
        grads["x"] = p_NV * (dp_NV - row_sum(dp_NV, p_NV))
    return grads


# --- attention (Vaswani et al. 2017, arXiv 1706.03762, eq. 1 and section 3.2.2) ------------------


def split_heads(a_NTD: Array, heads: int) -> Array:
    """(..., T, H * K) -> (..., H, T, K): head h owns the columns h * K to (h + 1) * K."""
    *lead, T, D = a_NTD.shape
    return a_NTD.reshape(*lead, T, heads, D // heads).swapaxes(-3, -2)


def join_heads(a_NHTK: Array) -> Array:
    """(..., H, T, K) -> (..., T, H * K), the inverse of split_heads."""
    *lead, H, T, K = a_NHTK.shape
    return a_NHTK.swapaxes(-3, -2).reshape(*lead, T, H * K)


@shaped
def attention_fwd(
    q_NTD: Array, k_NTD: Array, v_NTD: Array, heads: int, mask_NT: Array | None = None, causal: bool = False
) -> tuple[Array, Cache]:
    """Multi-head scaled dot-product attention, softmax(q k^T / sqrt(K)) v per head, the heads side by side.

    q, k, v (..., T, D), D = H * K; mask (..., T), True where a token is real: padding is not attended to;
    causal: token t attends to tokens 0..t. A token that may attend to nothing gets zeros.
    """
    T, D = q_NTD.shape[-2:]
    if heads < 1 or D % heads:
        raise ShapeError(f"attention: {heads} heads do not divide q_NTD's last axis, D = {D}")
    q_NHTK, k_NHTK, v_NHTK = (split_heads(a, heads) for a in (q_NTD, k_NTD, v_NTD))
    allowed = None  # of a shape that broadcasts to (..., H, T, T)
    if mask_NT is not None:
        allowed = mask_NT[..., None, None, :]
    if causal:
        past_TT = np.tri(T, dtype=bool)
        allowed = past_TT if allowed is None else allowed & past_TT
    # s = q k^T / sqrt(K),   p = softmax(s)
    s_NHTT = (q_NHTK @ k_NHTK.swapaxes(-1, -2)) * (1 / sqrt(D // heads))
    p_NHTT, softmax_cache = softmax_fwd(s_NHTT, None if allowed is None else np.broadcast_to(allowed, s_NHTT.shape))
    # out = p v, head by head
    return join_heads(p_NHTT @ v_NHTK), (q_NHTK, k_NHTK, v_NHTK, softmax_cache)


def attention_bwd(dout_NTD: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"q", "k", "v"}"""
    q_NHTK, k_NHTK, v_NHTK, softmax_cache = cache
    (p_NHTT,) = softmax_cache
    want, grads = wanted(wrt, "q", "k", "v"), {}
    dout_NHTK = split_heads(dout_NTD, q_NHTK.shape[-3])
    # dv = p^T dout
    if "v" in want:
        grads["v"] = join_heads(p_NHTT.swapaxes(-1, -2) @ dout_NHTK)
    if want & {"q", "k"}:
        # dp = dout v^T,   ds = softmax's backward of dp, / sqrt(K) as in s
        dp_NHTT = dout_NHTK @ v_NHTK.swapaxes(-1, -2)
        ds_NHTT = softmax_bwd(dp_NHTT, softmax_cache)["x"] * (1 / sqrt(q_NHTK.shape[-1]))
        # dq = ds k,   dk = ds^T q
        if "q" in want:
            grads["q"] = join_heads(ds_NHTT @ k_NHTK)
        if "k" in want:
            grads["k"] = join_heads(ds_NHTT.swapaxes(-1, -2) @ q_NHTK)
    return grads


# --- embedding -----------------------------------------------------------------------------------


@shaped
def embedding_fwd(ids_N: Array, W_VD: Array) -> tuple[Array, Cache]:
    """out = W[ids].  ids (...) integers in 0..V-1, W (V, D) -> out (..., D)."""
    check_ids("embedding: ids_N", ids_N, W_VD.shape[0])
    # out = W[ids]
    return W_VD[ids_N], (ids_N, W_VD.shape[0])


def embedding_bwd(dout_ND: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"W"}"""
    ids_N, V = cache
    want, grads = wanted(wrt, "W"), {}
    # dW[v] = sum of dout over all places where v stands: += for every occurrence, not = for the last one
    if "W" in want:
        dW_VD = np.zeros((V, dout_ND.shape[-1]), dtype=dout_ND.dtype)
        np.add.at(dW_VD, ids_N.reshape(-1), rows(dout_ND))
        grads["W"] = dW_VD
    return grads


# --- pooling: one vector per sequence ------------------------------------------------------------


@shaped
def mean_pool_fwd(x_NTD: Array, mask_NT: Array | None = None) -> tuple[Array, Cache]:
    """out = mean of x over the real tokens.  x (..., T, D), mask (..., T) or None -> out (..., D).
    A sequence without a real token gives zeros."""
    # weight = mask / number of real tokens,   out = sum over T of weight * x
    mask_NT = np.ones(x_NTD.shape[:-1], dtype=bool) if mask_NT is None else mask_NT
    count_N1 = np.maximum(mask_NT.sum(axis=-1, keepdims=True), 1)
    weight_NT = (mask_NT / count_N1).astype(x_NTD.real.dtype)
    return (weight_NT[..., None] * x_NTD).sum(axis=-2), (weight_NT,)


def mean_pool_bwd(dout_ND: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}"""
    (weight_NT,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = weight * dout, the same dout for every token
    if "x" in want:
        grads["x"] = weight_NT[..., None] * dout_ND[..., None, :]
    return grads


@shaped
def first_token_fwd(x_NTD: Array) -> tuple[Array, Cache]:
    """out = x[0], the pooling of BERT and RoBERTa classifiers.  x (..., T, D) -> out (..., D)."""
    # out = x at t = 0
    return x_NTD[..., 0, :].copy(), (x_NTD.shape[-2],)


def first_token_bwd(dout_ND: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x"}"""
    (T,) = cache
    want, grads = wanted(wrt, "x"), {}
    # dx = dout at t = 0, zero elsewhere
    if "x" in want:
        dx_NTD = np.zeros((*dout_ND.shape[:-1], T, dout_ND.shape[-1]), dtype=dout_ND.dtype)
        dx_NTD[..., 0, :] = dout_ND
        grads["x"] = dx_NTD
    return grads


# --- cross_entropy -------------------------------------------------------------------------------


@shaped
def cross_entropy_fwd(logits_NV: Array, labels_N: Array) -> tuple[Array, Cache]:
    """loss = mean over rows of -log softmax(logits)[label].  logits (..., V), labels (...) -> scalar."""
    check_ids("cross_entropy: labels_N", labels_N, logits_NV.shape[-1])
    if labels_N.size == 0:
        raise ShapeError(f"cross_entropy: logits_NV has shape {logits_NV.shape}: a mean over no rows")
    # log p = z - log sum exp(z),   z = logits - max
    z_NV = logits_NV - logits_NV.real.max(axis=-1, keepdims=True)
    e_NV = np.exp(z_NV)
    sum_N1 = e_NV.sum(axis=-1, keepdims=True)
    # loss = -mean(log p[label])
    at_N1 = labels_N[..., None]
    loss = (np.log(sum_N1) - np.take_along_axis(z_NV, at_N1, axis=-1)).mean()
    return loss, (e_NV / sum_N1, at_N1)


def cross_entropy_bwd(dloss: Array | float, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"logits"}"""
    p_NV, at_N1 = cache
    want, grads = wanted(wrt, "logits"), {}
    # dlogits = (p - onehot(label)) / N * dloss: divided by the number of rows, not of classes
    if "logits" in want:
        onehot_NV = np.zeros(p_NV.shape, dtype=p_NV.real.dtype)
        np.put_along_axis(onehot_NV, at_N1, 1, axis=-1)
        grads["logits"] = (p_NV - onehot_NV) * (dloss / at_N1.size)
    return grads
