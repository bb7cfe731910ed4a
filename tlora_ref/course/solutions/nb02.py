"""Notebook 02, gradients by hand: two hints for each exercise, and its worked solution."""

HINTS = {
    "dB": (
        "Carry dy back through C first: that gives an array with a row for each row of x and a column for "
        "each column of B.",
        "What is left is a sum over the rows of one entry of u times one entry of that array: a product of "
        "two matrices, one of them transposed. The shape (R, S) says which. How often does alpha stand "
        "before B?",
    ),
    "dalpha": (
        "Every entry of B meets alpha once. What does the loss gain if alpha grows a little: for each entry "
        "of B, its value times what?",
        "It is the inner product of B with dB without its alpha: multiply entry by entry and add everything "
        "up, at the size of B.",
    ),
    "dx": (
        "x has two roads to y. Write down the gradient along each of them alone, and add.",
        "Along the adapter's road dy is carried back through C, then B, then A, each of them transposed, "
        "and alpha is in it once.",
    ),
    "backward": (
        "Two of your three functions above need one change, and dx needs it in one of its two terms. What "
        "reaches y of an update that was dropped?",
        "Multiply dy by the mask once, where the update's road begins, and use that in place of dy for g. "
        "The frozen road keeps dy as it is; without a mask nothing is multiplied.",
    ),
}


def dB(dy_NO, u_NR, C_SO, alpha):
    """dB (R, S)"""
    # dB = alpha u^T g,   g = dy C^T
    return alpha * (u_NR.T @ (dy_NO @ C_SO.T))


def dalpha(dy_NO, u_NR, B_RS, C_SO):
    """dalpha, a scalar"""
    # dalpha = sum(B * u^T g),   g = dy C^T
    return (B_RS * (u_NR.T @ (dy_NO @ C_SO.T))).sum()


def dx(dy_NO, W0_IO, A_IR, B_RS, C_SO, alpha):
    """dx (N, I)"""
    # dx = dy W0^T + alpha g B^T A^T,   g = dy C^T
    return dy_NO @ W0_IO.T + (alpha * (dy_NO @ C_SO.T) @ B_RS.T) @ A_IR.T


def backward(dy_NO, cache):
    """{"x": dx (N, I), "B": dB (R, S), "alpha": dalpha}"""
    u_NR, W0_IO, A_IR, B_RS, C_SO, alpha, keep_NO = cache
    # dupdate = dy * keep,   g = dupdate C^T
    dupdate_NO = dy_NO if keep_NO is None else keep_NO * dy_NO
    g_NS = dupdate_NO @ C_SO.T
    # u^T g serves two of the three
    utg_RS = u_NR.T @ g_NS
    dx_NI = dy_NO @ W0_IO.T + (alpha * g_NS @ B_RS.T) @ A_IR.T
    return {"x": dx_NI, "B": alpha * utg_RS, "alpha": (B_RS * utg_RS).sum()}
