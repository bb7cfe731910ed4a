"""Notebook 07, a tiny transformer by hand: two hints for each exercise, and its worked solution."""

import numpy as np
from scipy.special import ndtr

from ...by_hand.ops import join_heads, split_heads

HINTS = {
    "gelu": (
        "GELU is a product, x times Phi(x). Which rule has two terms?",
        "The derivative of Phi is the normal density, exp(-x^2 / 2) over the root of 2 pi. Multiply the sum "
        "of both terms by dy.",
    ),
    "layer_norm": (
        "Begin with the gradient of xhat, which is gamma times dy. Then x reaches xhat along three roads: "
        "itself, the mean and the deviation.",
        "From dxhat take away its mean over the row, and xhat times the mean of dxhat xhat over the row; "
        "multiply by rstd. Means are over the last axis, kept as a column.",
    ),
    "attention": (
        "Go backwards step by step: out = p v, p = softmax(s), s = q k^T over the root of K. Each product "
        "gives two gradients, one for each factor.",
        "For the softmax of a row: ds = p (dp - sum of dp p over the row). The scale goes into ds once. dk "
        "takes ds transposed, dv takes p transposed, in the last two axes.",
    ),
    "cross_entropy": (
        "For one row, the slope by a logit is its share, less one for the right class.",
        "The forward took the mean over all rows, so divide by how many labels there are in all, and "
        "multiply by dloss. A one-hot array is a row of the identity for each label.",
    ),
}


def gelu(dy_NF, x_NF):
    """dx (N, F)"""
    # dx = dy (Phi(x) + x phi(x))
    density_NF = np.exp(-x_NF * x_NF / 2) / np.sqrt(2 * np.pi)
    return dy_NF * (ndtr(x_NF) + x_NF * density_NF)


def layer_norm(dy_ND, xhat_ND, rstd_N1, gamma_D):
    """dx (N, D)"""
    # dx = r (dxhat - mean(dxhat) - xhat mean(dxhat xhat)),   dxhat = gamma dy
    dxhat_ND = gamma_D * dy_ND
    mean_N1 = dxhat_ND.mean(axis=-1, keepdims=True)
    along_N1 = (dxhat_ND * xhat_ND).mean(axis=-1, keepdims=True)
    return rstd_N1 * (dxhat_ND - mean_N1 - xhat_ND * along_N1)


def attention(dout_NTD, q_NHTK, k_NHTK, v_NHTK, p_NHTT):
    """{"q": dq, "k": dk, "v": dv}, each (N, T, D)"""
    H, K = q_NHTK.shape[-3], q_NHTK.shape[-1]
    dout_NHTK = split_heads(dout_NTD, H)
    # dv = p^T dout,   dp = dout v^T
    dv_NHTK = p_NHTT.swapaxes(-1, -2) @ dout_NHTK
    dp_NHTT = dout_NHTK @ v_NHTK.swapaxes(-1, -2)
    # ds = p (dp - sum(dp p)) / sqrt(K)
    row_NHT1 = (dp_NHTT * p_NHTT).sum(axis=-1, keepdims=True)
    ds_NHTT = p_NHTT * (dp_NHTT - row_NHT1) / np.sqrt(K)
    # dq = ds k,   dk = ds^T q
    dq_NHTK, dk_NHTK = ds_NHTT @ k_NHTK, ds_NHTT.swapaxes(-1, -2) @ q_NHTK
    return {
        "q": join_heads(dq_NHTK),
        "k": join_heads(dk_NHTK),
        "v": join_heads(dv_NHTK),
    }


def cross_entropy(dloss, p_NV, labels_N):
    """dlogits (N, V)"""
    # dz = dloss (p - onehot) / number of rows
    onehot_NV = np.eye(p_NV.shape[-1])[labels_N]
    return dloss * (p_NV - onehot_NV) / labels_N.size
