"""Notebook 12, the landscape: hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "vera": (
        "Both vectors multiply entry by entry, and all rows of the batch share them. Which sum is the "
        "backward of being shared?",
        "Go back one step at a time: dy is met by lambda_b first, then by B transposed. Call what arrives dv, (N, R).",
        "dlambda_d is the sum over the rows of dv times u. dlambda_b is the sum over the rows of dy times what "
        "lambda_b multiplied, v B with v = u times lambda_d.",
    ),
    "dora": (
        "Everything goes through V. Write G = x^T dy for the gradient of W', and find dV and dm from it, column "
        "by column.",
        "W'_j = m_j V_j / |V_j|. Its derivative with respect to V_j removes the part along V_j and scales the rest "
        "by m_j / |V_j|.",
        "dm_j = <G_j, V_j> / n_j. dV_j = (m_j / n_j) (G_j - V_j <G_j, V_j> / n_j^2). Then LoRA's step: dA = s dV B^T, "
        "dB = s A^T dV.",
    ),
    "lorta": (
        "Write one entry with all its indices: F[m, r, h, k] = heads[h, r] layer[m, r] matrix[m, r] B[r, k]. Over "
        "which of the four does B[r, k] not care?",
        "dB sums over matrices and heads, dheads over matrices and the columns of a head. What is multiplied is "
        "everything else in the product.",
        "With c[m, r] = layer[m, r] matrix[m, r]: in dB, dF is weighed by c and heads; in dheads by c and B.",
    ),
}


def vera(dy_NO, u_NR, B_RO, lambda_d_R, lambda_b_O):
    """{"lambda_d": (R,), "lambda_b": (O,)}"""
    # dlambda_b = sum over rows of dy * (v B),   v = u * lambda_d
    v_NR = u_NR * lambda_d_R
    dlambda_b_O = (dy_NO * (v_NR @ B_RO)).sum(axis=0)
    # dv = (dy * lambda_b) B^T,   dlambda_d = sum over rows of dv * u
    dv_NR = (dy_NO * lambda_b_O) @ B_RO.T
    return {"lambda_d": (dv_NR * u_NR).sum(axis=0), "lambda_b": dlambda_b_O}


def dora(dy_NO, x_NI, W0_IO, A_IR, B_RO, magnitude_O, scale):
    """{"A": dA (I, R), "B": dB (R, O), "magnitude": dm (O,)}"""
    # V = W0 + s A B,   n = its column norms,   G = x^T dy
    V_IO = W0_IO + scale * (A_IR @ B_RO)
    n_O = np.sqrt((V_IO * V_IO).sum(axis=0))
    G_IO = x_NI.T @ dy_NO
    # dm = <G, V> / n,   dV = (m / n) (G - V <G, V> / n^2), column by column
    along_O = (G_IO * V_IO).sum(axis=0) / n_O
    dV_IO = magnitude_O / n_O * (G_IO - V_IO * (along_O / n_O))
    # dA = s dV B^T,   dB = s A^T dV
    return {
        "A": scale * (dV_IO @ B_RO.T),
        "B": scale * (A_IR.T @ dV_IO),
        "magnitude": along_O,
    }


def lorta(dF_MRHK, B_RK, heads_HR, layer_MR, matrix_MR):
    """dB (R, K) and dheads (H, R)"""
    # F[m, r, h, k] = c[m, r] heads[h, r] B[r, k],   c = layer * matrix
    c_MR = layer_MR * matrix_MR
    dB_RK = np.einsum("mrhk,mr,hr->rk", dF_MRHK, c_MR, heads_HR)
    dheads_HR = np.einsum("mrhk,mr,rk->hr", dF_MRHK, c_MR, B_RK)
    return dB_RK, dheads_HR
