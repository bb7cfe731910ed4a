"""TLoRA's layer without dropout as one node of autograd's graph, its backward written by hand.

Equation    y = x W0 + b + u M C,   u = x A,   M = alpha B   (arXiv 2504.18735, section 2.2)
            dM = u^T dy C^T,   dB = alpha dM,   dalpha = sum(dM * B);   dx = dy W'^T,   W' = W0 + A M C
Twin        by_hand/methods/tlora.py.
Checked by  tests/test_fused.py: against the same layer in torch's own operations; tests/test_inject.py.

Left to itself, autograd makes x W0 and x A M C, and the two halves of dx, in arrays of their own and adds them
afterwards. Here one product adds onto the array of the other: for N rows two passes over N x O numbers fewer going
forward and two over N x I going back. M is multiplied with C, or with A, before anything of N rows is.

Which one adds onto which? Going forward the time is the same: the layer with the update added last takes 0.99 to 1.01
times that of the layer with x W0 added last (medians over rounds in one process on one thread of an AMD EPYC without
AVX-512; d = 768, 1024, 4096; r = 32; float32 and bfloat16; forward alone, and with the backward but for bfloat16 at
4096). So exactness decides.

float32, float64   The update is added to what the frozen layer itself returns. At B = 0 it is zero, and the output is
                   the frozen layer's bit for bit, on every processor. The other way round x W0 and b may be summed in
                   another order than the frozen layer's: off by 1.2e-7 and 4.4e-16 in tests/test_inject.py's model.
half precision     (under autocast) x W0 is added to the update, so that what is far below the last digit of x W0 is
                   rounded once, in the sum, and not away: of a small update all is left (1.00), and a fifth (0.20) when
                   it is added to x W0 in bfloat16 (bench layers). b is added to it first and rounds away what is
                   below its own last digit: at d = 64, where torch's first biases are larger, 0.7 of the same update
                   is left, and 1.0 of it without b. At B = 0 the output is the frozen layer's to rounding: one last
                   digit in half precision, and in float32 one for every term of the sum.

Going back nothing is promised about the bits of dx, and the cheaper of two orders is taken. With many rows (N >= O) W'
is summed first, which costs I x R x O products, and dx is one product with it. With fewer, and in half precision, where
the sum W' would round a small update away, dx = dy W0^T is added to g M^T A^T, g = dy C^T, which costs N x R x I.
``python -m tlora_ref bench layers`` measures the layer beside other orders.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HALF = (torch.bfloat16, torch.float16)


class FrozenAndUpdate(torch.autograd.Function):
    """(x (..., I), the frozen layer, its W0 (I, O) and b (O,) or None, A (I, R), M = alpha B (R, S), C (S, O), and B
    (R, S) and alpha () themselves) -> y (..., O). All but B and alpha are of one dtype, in half precision that of
    autocast; otherwise W0 and b are the layer's own.

    x, B and alpha have gradients; W0, b, A and C are constants. What is kept has N x R numbers of N rows. A second
    derivative raises RuntimeError. Not for torch.func, whose protocol costs a small layer a fifth of its time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: nn.Module,
        W0_IO: Tensor,
        b_O: Tensor | None,
        A_IR: Tensor,
        M_RS: Tensor,
        C_SO: Tensor,
        B_RS: Tensor,
        alpha: Tensor,
    ) -> Tensor:
        # u = x A,   update = u (M C)
        x_NI = x.reshape(-1, W0_IO.shape[0])
        u_NR, MC_RO = x_NI @ A_IR, M_RS @ C_SO
        ctx.save_for_backward(u_NR, W0_IO, A_IR, M_RS, C_SO, B_RS, alpha)
        # .data, twice: the layer's rows as one matrix are a view of its output, which a node must not hand out
        if x.dtype in HALF:
            # y = u (M C) + b,   then += x W0
            y_NO = u_NR @ MC_RO if b_O is None else torch.addmm(b_O, u_NR, MC_RO)
            return y_NO.addmm_(x_NI, W0_IO).view(*x.shape[:-1], W0_IO.shape[1]).data
        # y = x W0 + b,   then += u (M C)
        y = base(x).data
        y.view(-1, W0_IO.shape[1]).addmm_(u_NR, MC_RO)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        u_NR, W0_IO, A_IR, M_RS, C_SO, B_RS, alpha = ctx.saved_tensors
        I, O = W0_IO.shape
        dy_NO = dy.reshape(-1, O)
        dx_NI = None
        if dy.dtype in HALF or len(dy_NO) < O:
            # g = dy C^T,   dM = u^T g
            g_NS = dy_NO @ C_SO.T
            dM_RS = u_NR.T @ g_NS
            if ctx.needs_input_grad[0]:
                # dx = g (A M)^T,   then += dy W0^T
                dx_NI = (g_NS @ (A_IR @ M_RS).T).addmm_(dy_NO, W0_IO.T)
        else:
            # dM = (u^T dy) C^T
            dM_RS = (u_NR.T @ dy_NO) @ C_SO.T
            if ctx.needs_input_grad[0]:
                # dx = dy W'^T,   W'^T = W0^T + (M C)^T A^T
                dx_NI = dy_NO @ torch.addmm(W0_IO.T, (M_RS @ C_SO).T, A_IR.T)
        dx = None if dx_NI is None else dx_NI.view(*dy.shape[:-1], I)
        # dB = alpha dM,   dalpha = sum(dM * B)
        dM_RS = dM_RS.to(B_RS.dtype)
        return dx, None, None, None, None, None, None, alpha * dM_RS, (dM_RS * B_RS).sum().reshape(alpha.shape)


def autocasting(x: Tensor) -> bool:
    """Is autocast at work where x is? torch has none on the meta device, and raises when it is asked there."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def tlora_linear_fused(
    x: Tensor, base: nn.Module, W0_IO: Tensor, A_IR: Tensor, B_RS: Tensor, C_SO: Tensor, alpha: Tensor
) -> Tensor | None:
    """``tlora_linear`` without dropout, beside the layer ``base``: x (..., I) -> y (..., O).

    Under autocast everything is taken in its dtype, as autocast takes the factors of a product. None where it does not
    apply: the arrays differ in dtype, autocast meets float64, which it leaves alone, or torch.func is at work.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    with torch.no_grad():
        arrays = [x, W0_IO, base.bias, A_IR, alpha * B_RS, C_SO]
    dtypes = {a.dtype for a in arrays if a is not None}
    if autocasting(x):
        if torch.float64 in dtypes:
            return None
        dtype = torch.get_autocast_dtype(x.device.type)
        arrays = [a if a is None else a.to(dtype) for a in arrays]
    elif len(dtypes) > 1:
        return None
    x, *others = arrays
    return FrozenAndUpdate.apply(x, base, *others, B_RS, alpha)
