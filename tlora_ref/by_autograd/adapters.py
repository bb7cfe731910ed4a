"""The heart in PyTorch: a frozen linear layer and what is trained beside it; the gradients are autograd's.

Equation    TLoRA (arXiv 2504.18735):  y = x W0 + b + dropout(alpha * x A B C);  only B and alpha are trained.
            LoRA  (arXiv 2106.09685):  y = x W0 + b + scale * dropout(x) A B;    only A and B are trained.
Twin        by_hand/adapters.py, same names with ``_fwd``.
Checked by  tests/test_twin.py: forward, backward, CPU and GPU; tests/test_activations.py: what autograd keeps.

Frozen arguments are detached: they have no gradient, whatever their requires_grad says, and autograd has no
reason to keep the x they are multiplied with. The gradient of x flows through them all the same.
A keep-mask is the dropout mask already divided by (1 - p); None means no dropout.
"""

from __future__ import annotations

from torch import Tensor

from ..shapes import bind
from .ops import frozen_linear


def tlora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RS: Tensor,
    C_SO: Tensor,
    alpha: Tensor | float,
    keep_NO: Tensor | None = None,
) -> Tensor:
    """TLoRA's adapted linear layer (arXiv 2504.18735, section 3): x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None, A (I, R), C (S, O) frozen; B (R, S) and the scalar alpha trained; S = R in the
    paper. Dropout acts on the scaled update, not on x: keep (..., O), or None. Raises ShapeError.

    Autograd keeps u (N x R), alpha * B (R x S) and the mask: the order of the products decides. Written
    alpha * (x A B C), the product with alpha would keep the N x O update as well.
    """
    bind(
        "tlora_linear",
        x_NI=x_NI,
        W0_IO=W0_IO,
        b_O=b_O,
        A_IR=A_IR,
        B_RS=B_RS,
        C_SO=C_SO,
        keep_NO=keep_NO,
        alpha=alpha,
    )
    # update = alpha x A B C
    update_NO = tlora_update(x_NI, A_IR, B_RS, C_SO, alpha)
    if keep_NO is not None:
        update_NO = keep_NO * update_NO
    # y = x W0 + b + update
    return frozen_linear(x_NI, W0_IO, b_O) + update_NO


def tlora_update(x_NI: Tensor, A_IR: Tensor, B_RS: Tensor, C_SO: Tensor, alpha: Tensor | float) -> Tensor:
    """What TLoRA adds before dropout, alpha * x A B C (..., O), in the order that keeps least."""
    # u = x A
    u_NR = x_NI @ A_IR.detach()
    # update = u (alpha B) C: the product with B needs u and alpha B later, the one with the frozen C nothing of N rows
    return (u_NR @ (alpha * B_RS)) @ C_SO.detach()


def tlora_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RS: Tensor, C_SO: Tensor, alpha: Tensor | float) -> Tensor:
    """dW = W' - W0 = alpha A B C, (I, O): what evaluation adds to W0. W0 enters methods that are not additive."""
    bind("tlora_delta_w", W0_IO=W0_IO, A_IR=A_IR, B_RS=B_RS, C_SO=C_SO, alpha=alpha)
    return A_IR @ (alpha * B_RS) @ C_SO


def lora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    scale: float,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """LoRA's adapted linear layer (arXiv 2106.09685, section 4.1): x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None frozen; A (I, R) and B (R, O) trained; scale a constant, lora_alpha / R.
    Dropout acts on the x of the branch: keep (..., I), or None. Raises ShapeError.

    Autograd keeps the whole (dropped) input N x I for A, scale * u (N x R) for B, and the mask.
    """
    bind("lora_linear", x_NI=x_NI, W0_IO=W0_IO, b_O=b_O, A_IR=A_IR, B_RO=B_RO, keep_NI=keep_NI)
    # xd = dropout(x)
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    # y = x W0 + b + update
    return frozen_linear(x_NI, W0_IO, b_O) + lora_update(xd_NI, A_IR, B_RO, scale)


def lora_update(xd_NI: Tensor, A_IR: Tensor, B_RO: Tensor, scale: float) -> Tensor:
    """What LoRA adds, scale * xd A B (..., O), from the input after dropout."""
    # u = xd A
    u_NR = xd_NI @ A_IR
    # update = scale u B
    return (scale * u_NR) @ B_RO


def lora_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, scale: float) -> Tensor:
    """dW = W' - W0 = scale A B, (I, O)."""
    bind("lora_delta_w", W0_IO=W0_IO, A_IR=A_IR, B_RO=B_RO)
    return (scale * A_IR) @ B_RO
