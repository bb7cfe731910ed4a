"""Which share of a wanted update fits into TLoRA's fixed subspace, and what LoRA could do at that rank.

Equation    TLoRA's updates are {A M C}: col(A) x row(C), of R^2 dimensions. The best of them in Frobenius norm is
            P_A D P_C with the orthogonal projectors, so the captured share is ||Q_A^T D Q_C||^2 / ||D||^2.
            LoRA may choose its subspaces: at best sum of the R largest s^2 / sum of all s^2 (Eckart and Young, 1936).

Theorem     For every fixed D (I, O), and A (I, R), C (R, O) drawn independently of D and of each other, of full rank,
            A with the same law as U A for every orthogonal U, and C^T likewise (Gaussian entries will do):
            E[captured share] = R^2 / (I O).
Proof       U P_A U^T is the projector on col(U A) and has the law of P_A, so U E[P_A] U^T = E[P_A] for every
            orthogonal U: E[P_A] commutes with all of them and is a multiple of the identity. Its trace is R, so
            E[P_A] = (R / I) 1, and E[P_C] = (R / O) 1 in the same way. Then, P_A and P_C being projectors,
            E||P_A D P_C||^2 = E tr(P_A D P_C D^T) = tr(E[P_A] D E[P_C] D^T) = R^2 / (I O) ||D||^2.   The second step
            takes the expectation over C first, which independence allows.

            So no D fits better on average than any other, LoRA's update included: on RoBERTa-large at R = 32 a
            thousandth. What the mean does not say is the spread over draws, which does depend on D.

Theorem     Under the same conditions, with k = sum s^4 / (sum s^2)^2 over D's singular values s (1 for rank one, 1 / d
            for the identity), and with b(d) = R (d - R) / (d (d - 1) (d + 2)),  a(d) = (R / d)^2 - 2 b(d) / d,
                E[share^2] = a(I) a(O) + 2 b(I) b(O) + 2 k (a(I) b(O) + b(I) a(O) + b(I) b(O)).
            The variance E[share^2] - R^4 / (I O)^2 is a straight line in k: it is the spectrum that decides, by k
            alone.
Proof       By the same invariance E[P_ij P_kl] = a d_ij d_kl + b (d_ik d_jl + d_il d_jk) for P = P_A, with numbers a,
            b. Two contractions give them: of ij and of kl, where (tr P)^2 = R^2 = a d^2 + 2 b d, and of jk and of il,
            where tr P^2 = R = a d + b (d^2 + d). With M = D P_C D^T, ||P_A D P_C||^2 = tr(P_A M) has the second moment
            a(I) (tr M)^2 + 2 b(I) tr M^2 over A. Over C, with N = D^T D:  E (tr P_C N)^2 = a(O) (tr N)^2 + 2 b(O) tr
            N^2, and E tr(P_C N P_C N) = (a(O) + b(O)) tr N^2 + b(O) (tr N)^2.   k = tr N^2 / (tr N)^2.
            With I = O = 64, R = 16 the coefficient of variation is 0.43 for D of rank one and 0.07 for the identity.
Checked by  tests/test_analysis.py.
"""

from __future__ import annotations

import numpy as np

from ...shapes import InputError, bind
from .spectra import singular_values

Array = np.ndarray


def captured_share(D_IO: Array, A_IR: Array, C_RO: Array) -> float:
    """The share of ||D||_F^2 that some alpha A B C can reach. Raises ShapeError, InputError for a zero D."""
    bind("captured_share", D_IO=D_IO, A_IR=A_IR, C_RO=C_RO)
    total = _square(D_IO)
    Q_IR, Q_OR = np.linalg.qr(A_IR.astype(np.float64))[0], np.linalg.qr(C_RO.T.astype(np.float64))[0]
    return float(np.square(Q_IR.T @ D_IO @ Q_OR).sum() / total)


def isotropic_share(I: int, O: int, R: int) -> float:
    """R^2 / (I O): the mean captured share of any target over random A, C."""
    return R * R / (I * O)


def spectral_concentration(D_IO: Array) -> float:
    """k = sum s^4 / (sum s^2)^2 over the singular values: 1 / k is how many directions D effectively has. Raises
    InputError for a zero D."""
    total = _square(D_IO)
    return float((singular_values(D_IO) ** 4).sum() / total**2)


def share_std(I: int, O: int, R: int, k: float) -> float:
    """The standard deviation of the captured share over random A, C, for a target of that spectral concentration."""

    def moments(d: int) -> tuple[float, float]:
        # (d - 1) of a single dimension is 0, and so is d - R there
        b = R * (d - R) / (d * (d - 1) * (d + 2)) if d > 1 else 0.0
        return (R / d) ** 2 - 2 * b / d, b

    (a_I, b_I), (a_O, b_O) = moments(I), moments(O)
    square = a_I * a_O + 2 * b_I * b_O + 2 * k * (a_I * b_O + b_I * a_O + b_I * b_O)
    return float(np.sqrt(max(0.0, square - isotropic_share(I, O, R) ** 2)))


def best_share(D_IO: Array, rank: int) -> float:
    """The share of ||D||_F^2 in the best matrix of that rank, LoRA's optimum. Raises InputError for a zero D."""
    total = _square(D_IO)
    return float(np.square(singular_values(D_IO)[:rank]).sum() / total)


def _square(D_IO: Array) -> float:
    total = float(np.square(np.asarray(D_IO, dtype=np.float64)).sum())
    if total == 0:
        raise InputError("the target update is zero: no share of it can be captured")
    return total
