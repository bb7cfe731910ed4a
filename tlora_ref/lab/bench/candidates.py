"""Other ways to compute TLoRA's layer in torch, measured beside the one in by_autograd/fused.py.

Equation    all of them y = x W0 + b + alpha x A B C (arXiv 2504.18735, section 2.2), in another order
Checked by  tests/test_bench.py: the same outputs and gradients
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ...by_autograd.linear import TLoRALinear
from ...by_autograd.methods.tlora import tlora_linear


class Candidate(nn.Module):
    """The base, A and C of a layer, and copies of its B and alpha."""

    def __init__(self, layer: TLoRALinear) -> None:
        super().__init__()
        self.base = layer.base
        self.register_buffer("A", layer.A)
        self.register_buffer("C", layer.C)
        self.B, self.alpha = nn.Parameter(layer.B.detach().clone()), nn.Parameter(layer.alpha.detach().clone())


class Textbook(Candidate):
    """As the paper writes it: the product with alpha keeps the whole N x O update."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> y (..., O)."""
        return self.base(x) + self.alpha * (x @ self.A @ self.B @ self.C)


class Operations(Candidate):
    """The twin of the kernel by hand, in torch's own operations."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> y (..., O)."""
        return tlora_linear(x, self.base.weight.T, self.base.bias, self.A, self.B, self.C, self.alpha)


class AddMM(Candidate):
    """The sum inside the last product: torch.addmm copies x W0 + b and adds onto the copy."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> y (..., O)."""
        y, v = self.base(x), x @ self.A @ (self.alpha * self.B)
        return torch.addmm(y.reshape(-1, y.shape[-1]), v.reshape(-1, v.shape[-1]), self.C).reshape(y.shape)


class Folded(Candidate):
    """A (alpha B) first, one product with x fewer; then the gradient of B needs x, and N x I numbers are kept."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> y (..., O)."""
        return self.base(x) + (x @ (self.A @ (self.alpha * self.B))) @ self.C


class _MergedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, b: Tensor, A: Tensor, M: Tensor, C: Tensor) -> Tensor:
        u = x @ A
        ctx.save_for_backward(u, weight, A, M, C)
        return linear(x, torch.addmm(weight, (M @ C).T, A.T), b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        u, weight, A, M, C = ctx.saved_tensors
        dx = dy @ torch.addmm(weight, (M @ C).T, A.T)
        return dx, None, None, None, u.T @ (dy @ C.T), None


class Merged(Candidate):
    """One product with W0 + alpha A B C, made anew in each direction. In bfloat16 the sum is rounded to W0's digits,
    and what is smaller than half of the last one is lost."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> y (..., O)."""
        arrays = [x.reshape(-1, x.shape[-1]), self.base.weight, self.base.bias, self.A, self.alpha * self.B, self.C]
        if torch.is_autocast_enabled(x.device.type):
            arrays = [a.to(torch.get_autocast_dtype(x.device.type)) for a in arrays]
        return _MergedProduct.apply(*arrays).reshape(*x.shape[:-1], -1)


CANDIDATES = {"textbook order": Textbook, "torch's operations": Operations, "addmm": AddMM,
              "A (alpha B) folded": Folded, "merged weight": Merged}  # fmt: skip
