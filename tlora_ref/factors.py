"""Frozen pairs A (I, R) and C (R, O) that span chosen directions and not just any: what the three-factor methods may
use in place of two random draws.

Equation    D = U S V^T,   A = U_R times its scale,  C = V_R^T times its scale:  dW = A B C then ranges over
            span(U_R) x span(V_R), which holds the best approximation of D of rank R (Eckart and Young, 1936).
D           W0 itself: LoRA-XS (arXiv 2405.17604), which freezes U_R S_R and V_R^T as here; PiSSA (arXiv 2404.02948)
            trains from there.
            the gradient of the loss with respect to W0: LoRA-GA (arXiv 2407.05000) starts LoRA's two trained factors
            there; GaLore (arXiv 2403.03507) projects every gradient on its own; LoRA-SB (arXiv 2411.19557) freezes the
            gradient's singular vectors around a trained R x R core. With that, TLoRA's A and C are LoRA-SB's; what
            is TLoRA's own is the start at B = 0, where nothing has changed yet, and the trained alpha.
            random: Q of a Gaussian's QR, as for LoRA's frozen factor in arXiv 2402.16842.
Checked by  tests/test_factors.py.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

Array = np.ndarray


def singular_vectors(D_IO: Array, R: int) -> tuple[Array, Array, Array]:
    """U_R (I, R), S_R (R,), V_R^T (R, O) of the R largest singular values, in float64.

    A singular vector's sign is free: the largest entry of each column of U is made positive, so that two libraries
    agree.
    """
    U_IK, S_K, Vt_KO = np.linalg.svd(np.asarray(D_IO, dtype=np.float64), full_matrices=False)
    sign_R = np.sign(np.take_along_axis(U_IK, np.abs(U_IK).argmax(axis=0)[None], axis=0))[0, :R]
    return U_IK[:, :R] * sign_R, S_K[:R], Vt_KO[:R] * sign_R[:, None]


def orthonormal(G_IR: Array) -> Array:
    """Orthonormal columns with the span of G's: of a Gaussian G, uniformly distributed over all such matrices."""
    Q_IR, T_RR = np.linalg.qr(G_IR)
    # with a positive diagonal the factorization is unique, and the distribution uniform (F. Mezzadri, 2007)
    return Q_IR * np.sign(np.diag(T_RR))


def with_released_norms(U_IR: Array, V_OR: Array) -> tuple[Array, Array]:
    """A and C along orthonormal columns, with the Frobenius norms that the released draw has on average: those of
    N(0, 1 / (3 R)) and N(0, 1 / (3 O)) are I / 3 and R / 3 squared."""
    I, R = U_IR.shape
    return sqrt(I / (3 * R)) * U_IR, sqrt(1 / 3) * V_OR.T


def along_singular_vectors(D_IO: Array, R: int) -> tuple[Array, Array]:
    """A and C along the R first singular vectors of D, with the released norms."""
    U_IR, _, Vt_RO = singular_vectors(D_IO, R)
    return with_released_norms(U_IR, Vt_RO.T)
