"""LoRA-RITE in PyTorch: an Adam for LoRA's two factors whose steps do not depend on how their product is split.

Paper       arXiv 2410.20625, in the form of the authors' code.
Equation    B^T = U_B R_B,   g = dA R_B^+,   P = U_B^T U_B(old),   V = c2 P V P^T + (1 - c2) g^T g / I,
            M = c1 M P^T + (1 - c1) g (V^(1/2) + eps)^-1,   A = A - lr wd A - lr M R_B^+T,   and for B with B^T and A^T
            in their places;  c = beta (1 - beta^t) / (1 - beta^(t + 1)) in step t = 0, 1, ...
Twin        by_hand/lora_rite.py, where the readings stand.
Checked by  tests/test_lora_rite.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LoRARite(torch.optim.Optimizer):
    """The optimizer of pairs (A, B), by itself: for LoRA in any torch model, beside another one for the rest.

    LoRARite([(layer.A, layer.B) for layer in adapted(model)], lr=1e-3)

    Each pair, or dictionary with a pair under "params", becomes a group of its own.
    """

    def __init__(
        self,
        pairs: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        groups = [pair if isinstance(pair, dict) else {"params": list(pair)} for pair in pairs]
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of every pair that has gradients."""
        for group in self.param_groups:
            A_IR, B_RO = group["params"]
            if A_IR.grad is None or B_RO.grad is None:
                continue
            of_A, of_B, lr = self.state[A_IR], self.state[B_RO], group["lr"]
            # both from the old A and B
            (U_IR, inverse_A), (U_OR, inverse_B) = basis(A_IR), basis(B_RO.T)
            step_IR = side_step(of_A, A_IR.grad, U_OR, inverse_B, group["betas"], group["eps"])
            step_OR = side_step(of_B, B_RO.grad.T, U_IR, inverse_A, group["betas"], group["eps"])
            for p, step, decay in zip((A_IR, B_RO), (step_IR, step_OR.T), group["weight_decay"], strict=True):
                p.mul_(1 - lr * decay).sub_(lr * step)


def basis(factor_KR: Tensor) -> tuple[Tensor, Tensor]:
    """U (K, R) with orthonormal columns, and R^+ (R, R), of factor = U R. A direction that the factor lacks, up to
    rounding, is 0 in R^+."""
    U_KR, R_RR = torch.linalg.qr(factor_KR)
    return U_KR, torch.linalg.pinv(R_RR, rtol=len(R_RR) * torch.finfo(R_RR.dtype).eps)


def side_step(
    state: dict[str, Any], d_DR: Tensor, U_KR: Tensor, inverse_RR: Tensor, betas: tuple[float, float], eps: float
) -> Tensor:
    """M R^+T (D, R) of a factor with the gradient d; U and R^+ are the other factor's. Its ``state`` advances."""
    if not state:
        state |= {"m": torch.zeros_like(d_DR), "v": torch.zeros_like(inverse_RR), "U": torch.zeros_like(U_KR), "t": 0}
    c1, c2 = (beta * (1 - beta ** state["t"]) / (1 - beta ** (state["t"] + 1)) for beta in betas)
    # g = d R^+,   P = U^T U(old)
    g_DR = d_DR @ inverse_RR
    p_RR = U_KR.T @ state["U"]
    # V = c2 P V P^T + (1 - c2) g^T g / D
    state["v"] = v_RR = c2 * (p_RR @ state["v"] @ p_RR.T) + ((1 - c2) / len(g_DR)) * (g_DR.T @ g_DR)
    # M = c1 M P^T + (1 - c1) g (V^(1/2) + eps)^-1;   no eigenvalue is known better than to rounding of the largest
    values_R, vectors_RR = torch.linalg.eigh(v_RR)
    least = len(v_RR) * torch.finfo(v_RR.dtype).eps * values_R[-1]
    divided_DR = ((g_DR @ vectors_RR) / (values_R.clamp(min=least).sqrt() + eps)) @ vectors_RR.T
    state["m"] = m_DR = c1 * (state["m"] @ p_RR.T) + (1 - c1) * divided_DR
    state |= {"U": U_KR, "t": state["t"] + 1}
    return m_DR @ inverse_RR.T
