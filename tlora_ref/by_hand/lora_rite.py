"""LoRA-RITE: an Adam for LoRA's two factors whose steps do not depend on how their product is split into them.

Paper       J.-N. Yen et al., LoRA done RITE, arXiv 2410.20625, in the form of the authors' code.
Equation    for dW = A B, of step t = 0, 1, ..., shown for A; for B the same with B^T and A^T in their places:
                B^T = U_B R_B                                   a basis of B's rows, by QR
                g = dA R_B^+                                    the unmagnified gradient, K U_B for K = d loss / d dW
                P = U_B^T U_B(old)                              what turns the old basis into the new one
                V = c2 P V P^T + (1 - c2) g^T g / I             a whole (R, R) second moment, not one of every entry
                M = c1 M P^T + (1 - c1) g (V^(1/2) + eps)^-1    of the gradients already divided by it
                A = A - lr wd A - lr M R_B^+T
            c = beta (1 - beta^t) / (1 - beta^(t + 1)), so that both averages are weighted right from the first step on;
            A and B both move from the old ones. Everything else that trains is AdamW's (optimizers.py).
Twin        by_autograd/lora_rite.py.
Checked by  tests/test_lora_rite.py.

Special to it: (A, B) and (A M, M^-1 B) are the same dW and move in the same way, for every invertible M; Adam's steps
on the two have little in common. Where a factor is 0, as B at the start, the other has no direction yet and stays.

Readings. The code's average of V, and not the paper's growing sum with an escape term rho; without the code's "skip" of
a large g and its common clipping of all g, both of which change nothing of the above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import TrainConfig
from .ops import Array


@dataclass
class Side:
    """What is remembered of one factor of a pair, written (D, R): its moments, and the other factor's basis that they
    are expressed in."""

    m_DR: Array
    v_RR: Array
    basis_KR: Array


@dataclass
class Pair:
    """A's side, B's side, and how many steps they have taken."""

    of_A: Side
    of_B: Side
    t: int


def pair_init(A_IR: Array, B_RO: Array) -> Pair:
    """Zero moments."""
    left_IR, right_OR, core_RR = np.zeros_like(A_IR), np.zeros_like(B_RO.T), np.zeros_like(B_RO[:, :1] @ A_IR[:1])
    return Pair(Side(left_IR, core_RR, right_OR), Side(right_OR, core_RR, left_IR), 0)


def pair_step(
    A_IR: Array, B_RO: Array, dA_IR: Array, dB_RO: Array, pair: Pair, config: TrainConfig
) -> tuple[Array, Array]:
    """What lr is to be multiplied with and subtracted from A (I, R) and B (R, O), decay apart. ``pair`` advances in
    place."""
    c1, c2 = (beta * (1 - beta**pair.t) / (1 - beta ** (pair.t + 1)) for beta in config.betas)
    (U_IR, inverse_A), (U_OR, inverse_B) = basis(A_IR), basis(B_RO.T)
    step_IR, pair.of_A = side_step(pair.of_A, dA_IR, U_OR, inverse_B, c1, c2, config.eps)
    step_OR, pair.of_B = side_step(pair.of_B, dB_RO.T, U_IR, inverse_A, c1, c2, config.eps)
    pair.t += 1
    return step_IR, step_OR.T


def basis(factor_KR: Array) -> tuple[Array, Array]:
    """U (K, R) with orthonormal columns, and R^+ (R, R), of factor = U R. A direction that the factor lacks, up to
    rounding, is 0 in R^+."""
    U_KR, R_RR = np.linalg.qr(factor_KR)
    return U_KR, np.linalg.pinv(R_RR, rcond=len(R_RR) * np.finfo(R_RR.dtype).eps)


def side_step(
    side: Side, d_DR: Array, U_KR: Array, inverse_RR: Array, c1: float, c2: float, eps: float
) -> tuple[Array, Side]:
    """M R^+T (D, R) of a factor with the gradient d, and its side one step on; U and R^+ are the other factor's."""
    # g = d R^+,   P = U^T U(old)
    g_DR = d_DR @ inverse_RR
    p_RR = U_KR.T @ side.basis_KR
    # V = c2 P V P^T + (1 - c2) g^T g / D
    v_RR = c2 * (p_RR @ side.v_RR @ p_RR.T) + ((1 - c2) / len(g_DR)) * (g_DR.T @ g_DR)
    # M = c1 M P^T + (1 - c1) g (V^(1/2) + eps)^-1;   no eigenvalue is known better than to rounding of the largest
    values_R, vectors_RR = np.linalg.eigh(v_RR)
    least = len(v_RR) * np.finfo(v_RR.dtype).eps * values_R[-1]
    divided_DR = ((g_DR @ vectors_RR) / (np.sqrt(np.maximum(values_R, least)) + eps)) @ vectors_RR.T
    m_DR = c1 * (side.m_DR @ p_RR.T) + (1 - c1) * divided_DR
    return m_DR @ inverse_RR.T, Side(m_DR, v_RR, U_KR)
