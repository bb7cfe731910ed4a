"""The operations of a transformer encoder in PyTorch: forward only, the gradients are autograd's.

Equation    y = f(x), written out per operation above the line that computes it.
Twin        by_hand/ops.py, same names with ``_fwd``.
Checked by  tests/test_twin.py: forward and backward against by_hand, CPU and GPU, four dtypes.

Where PyTorch has the same definition its own function stands here, so that the two rooms agree with the
library too. Nothing here mutates an input or changes its dtype; masks, ids and labels are tensors.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from ..shapes import ShapeError, check_ids, check_mask, shaped

# --- linear --------------------------------------------------------------------------------------


@shaped
def linear(x_NI: Tensor, W_IO: Tensor, b_O: Tensor | None) -> Tensor:
    """A trained linear layer, y = x W + b.  x (..., I), W (I, O), b (O,) or None -> y (..., O)."""
    # y = x W + b
    y_NO = x_NI @ W_IO
    return y_NO if b_O is None else y_NO + b_O


@shaped
def frozen_linear(x_NI: Tensor, W0_IO: Tensor, b_O: Tensor | None) -> Tensor:
    """A frozen linear layer, y = x W0 + b.  W0 and b are detached: dx flows through, but no gradient of
    theirs exists, so autograd does not keep x."""
    # y = x W0 + b
    y_NO = x_NI @ W0_IO.detach()
    return y_NO if b_O is None else y_NO + b_O.detach()


# --- layer_norm (Ba, Kiros and Hinton 2016, arXiv 1607.06450, eq. 4) -----------------------------


@shaped
def layer_norm(x_ND: Tensor, gamma_D: Tensor, beta_D: Tensor, eps: float = 1e-5) -> Tensor:
    """y = gamma * (x - mean) / sqrt(var + eps) + beta over the last axis; var is the biased one (1/D)."""
    return functional.layer_norm(x_ND, gamma_D.shape, gamma_D, beta_D, eps)


# --- gelu (Hendrycks and Gimpel 2016, arXiv 1606.08415): the exact one, with erf -----------------


@shaped
def gelu(x_NF: Tensor) -> Tensor:
    """y = x Phi(x), Phi the normal distribution function, elementwise on any shape."""
    # Phi(x) = erfc(-x / sqrt 2) / 2: unlike the 1 + erf of torch's own gelu, exact in the lower tail
    return x_NF * (0.5 * torch.erfc(x_NF * (-1 / sqrt(2))))


# --- tanh ----------------------------------------------------------------------------------------


@shaped
def tanh(x_NF: Tensor) -> Tensor:
    """y = tanh(x), elementwise on any shape."""
    return torch.tanh(x_NF)


# --- softmax -------------------------------------------------------------------------------------


@shaped
def softmax(x_NV: Tensor, mask_NV: Tensor | None = None) -> Tensor:
    """p = exp(x) / sum exp(x) over the last axis, among the entries where ``mask`` is True.

    A row with no True entry is defined as zeros: nothing to attend to, nothing passed on, finite gradients.
    """
    if mask_NV is None:
        return torch.softmax(x_NV, dim=-1)
    check_mask("softmax: mask_NV", mask_NV)
    # the lowest finite number and not -inf: a row without a True entry is uniform, not NaN, before it is zeroed
    lowest = torch.finfo(x_NV.dtype).min
    return torch.softmax(x_NV.masked_fill(~mask_NV, lowest), dim=-1).masked_fill(~mask_NV, 0)


# --- attention (Vaswani et al. 2017, arXiv 1706.03762, eq. 1 and section 3.2.2) ------------------


def split_heads(a_NTD: Tensor, heads: int) -> Tensor:
    """(..., T, H * K) -> (..., H, T, K): head h owns the columns h * K to (h + 1) * K."""
    *lead, T, D = a_NTD.shape
    return a_NTD.reshape(*lead, T, heads, D // heads).transpose(-3, -2)


def join_heads(a_NHTK: Tensor) -> Tensor:
    """(..., H, T, K) -> (..., T, H * K), the inverse of split_heads."""
    *lead, H, T, K = a_NHTK.shape
    return a_NHTK.transpose(-3, -2).reshape(*lead, T, H * K)


@shaped
def attention(
    q_NTD: Tensor, k_NTD: Tensor, v_NTD: Tensor, heads: int, mask_NT: Tensor | None = None, causal: bool = False
) -> Tensor:
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
        past_TT = torch.ones(T, T, dtype=torch.bool, device=q_NTD.device).tril()
        allowed = past_TT if allowed is None else allowed & past_TT
    # s = q k^T / sqrt(K),   p = softmax(s)
    s_NHTT = (q_NHTK @ k_NHTK.transpose(-1, -2)) * (1 / sqrt(D // heads))
    # out = p v, head by head
    p_NHTT = softmax(s_NHTT, None if allowed is None else allowed.expand(s_NHTT.shape))
    return join_heads(p_NHTT @ v_NHTK)


# --- embedding -----------------------------------------------------------------------------------


@shaped
def embedding(ids_N: Tensor, W_VD: Tensor) -> Tensor:
    """out = W[ids].  ids (...) integers in 0..V-1, W (V, D) -> out (..., D). On a GPU nothing looks at the ids before
    torch does, whose assertion there ends the program's use of it."""
    check_ids("embedding: ids_N", ids_N, W_VD.shape[0])
    return functional.embedding(ids_N, W_VD)


# --- pooling: one vector per sequence ------------------------------------------------------------


@shaped
def mean_pool(x_NTD: Tensor, mask_NT: Tensor | None = None) -> Tensor:
    """out = mean of x over the real tokens.  x (..., T, D), mask (..., T) or None -> out (..., D).
    A sequence without a real token gives zeros."""
    if mask_NT is None:
        return x_NTD.mean(dim=-2)
    # weight = mask / number of real tokens,   out = sum over T of weight * x
    weight_NT = mask_NT.to(x_NTD.dtype) / mask_NT.sum(dim=-1, keepdim=True).clamp(min=1)
    return (weight_NT[..., None] * x_NTD).sum(dim=-2)


@shaped
def first_token(x_NTD: Tensor) -> Tensor:
    """out = x[0], the pooling of BERT and RoBERTa classifiers.  x (..., T, D) -> out (..., D)."""
    # out = x at t = 0
    return x_NTD[..., 0, :].clone()


# --- cross_entropy -------------------------------------------------------------------------------


@shaped
def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """loss = mean over rows of -log softmax(logits)[label].  logits (..., V), labels (...) -> scalar. Labels on a GPU
    are looked at as ``embedding`` says."""
    check_ids("cross_entropy: labels_N", labels_N, logits_NV.shape[-1])
    if labels_N.numel() == 0:
        raise ShapeError(f"cross_entropy: logits_NV has shape {tuple(logits_NV.shape)}: a mean over no rows")
    # torch leaves rows with the label -100 out of the mean unless another label is named: here no label is special
    none = torch.iinfo(torch.int64).min
    return functional.cross_entropy(logits_NV.reshape(-1, logits_NV.shape[-1]), labels_N.reshape(-1), ignore_index=none)
