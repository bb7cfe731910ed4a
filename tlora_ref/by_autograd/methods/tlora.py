"""TLoRA in PyTorch: three matrices beside a frozen weight, of which only the small one in the middle is trained.

Paper       arXiv 2504.18735, section 2.2.
Equation    y = x W0 + b + dropout(alpha * x A B C);  B (R, R) and alpha train, A (I, R) and C (R, O) are frozen.
Twin        by_hand/methods/tlora.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py: forward, backward, CPU and GPU; tests/test_activations.py: what autograd keeps.

Frozen arguments are detached: they have no gradient, whatever their requires_grad says, and autograd has no reason to
keep the x they are multiplied with. The gradient of x flows through them all the same.
"""

from __future__ import annotations

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked


@shaped
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
    """TLoRA's adapted linear layer (arXiv 2504.18735, section 2.2): x (..., I) -> y (..., O).

    W0 (I, O), b (O,) or None, A (I, R), C (S, O) frozen; B (R, S) and the scalar alpha trained; S = R in the
    paper. Dropout acts on the scaled update, not on x: keep (..., O), or None. Raises ShapeError.
    """
    # y = x W0 + b + keep * update
    return tlora_layer(x_NI, frozen_linear(x_NI, W0_IO, b_O), W0_IO, b_O, masked(keep_NO), A_IR, B_RS, C_SO, alpha)


def tlora_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RS: Tensor,
    C_SO: Tensor,
    alpha: Tensor | float,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O) for the input x (..., I).

    Autograd keeps u (N x R), alpha * B (R x S) and the mask: the order of the products decides. Written
    alpha * (x A B C), the product with alpha would keep the N x O update as well.
    """
    # u = x A
    u_NR = x_NI @ A_IR.detach()
    # update = u (alpha B) C: the product with B needs u and alpha B later, the one with the frozen C nothing of N rows
    update_NO = (u_NR @ (alpha * B_RS)) @ C_SO.detach()
    return y_NO + drop(update_NO)


@shaped
def tlora_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RS: Tensor, C_SO: Tensor, alpha: Tensor | float) -> Tensor:
    """dW = W' - W0 = alpha A B C, (I, O): what evaluation adds to W0. W0 enters methods that are not additive."""
    return A_IR @ (alpha * B_RS) @ C_SO


TWIN = Twin(tlora_linear, tlora_layer, tlora_delta_w)
