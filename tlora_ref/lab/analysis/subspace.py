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
            thousandth. What the mean does not say is the spread over draws, which does depend on D: over 2,000 draws
            with I = O = 32, R = 16 the share is 0.250 on average, with a standard deviation of 0.087 for D of rank 1,
            0.040 for singular values 0.8^k, 0.011 for the identity.
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


def best_share(D_IO: Array, rank: int) -> float:
    """The share of ||D||_F^2 in the best matrix of that rank, LoRA's optimum. Raises InputError for a zero D."""
    total = _square(D_IO)
    return float(np.square(singular_values(D_IO)[:rank]).sum() / total)


def _square(D_IO: Array) -> float:
    total = float(np.square(np.asarray(D_IO, dtype=np.float64)).sum())
    if total == 0:
        raise InputError("the target update is zero: no share of it can be captured")
    return total
