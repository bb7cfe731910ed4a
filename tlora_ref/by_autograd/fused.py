"""TLoRA's layer without dropout as one node of autograd's graph, its backward written by hand.

Equation    y = x W0 + b + u M C,   u = x A,   M = alpha B   (arXiv 2504.18735, section 2.2)
            dM = u^T g,   g = dy C^T;   dx = dy W0^T + g M^T A^T
Twin        by_hand/adapters.py. The gradients of B and alpha are autograd's, through alpha * B.
Checked by  tests/test_fused.py: against the same layer in torch's own operations; tests/test_inject.py.

Left to itself, autograd computes x W0 and x A M C into two arrays and adds them afterwards; it does the same with the
two halves of dx. Here the small product is computed first, and the matrix product of the large one adds onto it. That
saves two passes over N x O numbers in the forward, and two over N x I in the backward, for N rows. It is also the more
exact order: in bfloat16 an update far below the last digit of x W0 is rounded away when it is added to x W0, but it
survives when the matrix product sums x W0 onto it, term by term, in float32.
``python -m tlora_ref bench layers`` measures both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class FrozenAndUpdate(torch.autograd.Function):
    """(x (N, I), W0 (I, O), b (O,) or None, A (I, R), M (R, S), C (S, O)), all of one dtype -> y (N, O).

    x and M have gradients; W0, b, A and C are constants. What is kept has N x R numbers of N rows. A second
    derivative raises RuntimeError. Not for torch.func, whose protocol costs a small layer a fifth of its time.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, W0_IO: Tensor, b_O: Tensor | None, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor
    ) -> Tensor:
        # u = x A,   y = u M C + b,   then += x W0
        u_NR = x_NI @ A_IR
        v_NS = u_NR @ M_RS
        y_NO = v_NS @ C_SO if b_O is None else torch.addmm(b_O, v_NS, C_SO)
        ctx.save_for_backward(u_NR, W0_IO, A_IR, M_RS, C_SO)
        return y_NO.addmm_(x_NI, W0_IO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        u_NR, W0_IO, A_IR, M_RS, C_SO = ctx.saved_tensors
        # g = dy C^T,   dM = u^T g
        g_NS = dy_NO @ C_SO.T
        dM_RS = u_NR.T @ g_NS if ctx.needs_input_grad[4] else None
        # dx = g M^T A^T,   then += dy W0^T
        dx_NI = None
        if ctx.needs_input_grad[0]:
            dx_NI = ((g_NS @ M_RS.T) @ A_IR.T).addmm_(dy_NO, W0_IO.T)
        return dx_NI, None, None, None, dM_RS, None


def tlora_linear_fused(
    x_NI: Tensor, W0_IO: Tensor, b_O: Tensor | None, A_IR: Tensor, B_RS: Tensor, C_SO: Tensor, alpha: Tensor
) -> Tensor | None:
    """``by_autograd.adapters.tlora_linear`` without dropout: x (..., I) -> y (..., O).

    Under autocast everything is taken in its dtype, as autocast takes the factors of a product. None where it does not
    apply: the arrays differ in dtype, autocast meets float64, which it leaves alone, or torch.func is at work.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    arrays = [x_NI, W0_IO, b_O, A_IR, alpha * B_RS, C_SO]
    dtypes = {a.dtype for a in arrays if a is not None}
    if torch.is_autocast_enabled(x_NI.device.type):
        if torch.float64 in dtypes:
            return None
        dtype = torch.get_autocast_dtype(x_NI.device.type)
        arrays = [a if a is None else a.to(dtype) for a in arrays]
    elif len(dtypes) > 1:
        return None
    x_NI, *constants = arrays
    y_NO = FrozenAndUpdate.apply(x_NI.reshape(-1, x_NI.shape[-1]), *constants)
    return y_NO.reshape(*x_NI.shape[:-1], -1)
