"""Notebook 05, frozen but differentiable: two hints for each exercise, and its worked solution."""

HINTS = {
    "below": (
        "First find dh, the gradient of what lies between the two layers: it is the dx of the upper one. "
        "Then the lower layer is that of notebook 02.",
        "dh has two terms, one through W2 and one through C2, B2 and A2, transposed and with the upper "
        "alpha. For dB1, dh takes the place of dy, and the lower alpha stands before it.",
    ),
    "keep": (
        "Go through the three equations above, and look at the left factor of each product only: which "
        "array of the forward is it?",
        "One trained factor needs one array, the one that goes into it. For several take all of theirs; "
        "when nothing trains nothing is needed.",
    ),
    "memory": (
        "Add up, for each method, the arrays with N rows that its gradients read. Torch keeps one small "
        "product more for TLoRA; the figures above name it.",
        "TLoRA: u, and alpha B. LoRA: x, and u. A mask has the size of what it multiplies: the update for "
        "TLoRA, the input for LoRA.",
    ),
    "lean": (
        "For a product of two things autograd keeps each one if the other needs a gradient. Which products "
        "in your order have an array with N rows beside something that is trained?",
        "Let the two trained factors meet before they meet the data: what they make is R x S. Then multiply "
        "u by that, and only then by C.",
    ),
}


def below(dy_NO, u1_NR, C1_SD, alpha1, W2_DO, A2_DR, B2_RS, C2_SO, alpha2):
    """dB1 (R, S) of the lower layer"""
    # dh = dy W2^T + alpha2 dy C2^T B2^T A2^T
    dh_ND = dy_NO @ W2_DO.T + (alpha2 * (dy_NO @ C2_SO.T) @ B2_RS.T) @ A2_DR.T
    # dB1 = alpha1 u1^T (dh C1^T)
    return alpha1 * (u1_NR.T @ (dh_ND @ C1_SD.T))


def keep(trains):
    """The set of what must be kept, out of "x", "u", "v"."""
    read_by = {"A": "x", "M": "u", "C": "v"}
    return {read_by[factor] for factor in trains}


def memory(N, I, O, R, dropout):
    """(numbers kept by TLoRA, numbers kept by LoRA)"""
    # u, alpha B, and the mask of the update;   x, u, and the mask of x
    return N * R + R * R + dropout * N * O, N * I + N * R + dropout * N * I


def lean(x_NI, A_IR, B_RS, C_SO, alpha):
    """alpha x A B C (N, O), tensors all"""
    # both trained factors meet before the data: alpha B is R x S, and needs u alone
    return (x_NI @ A_IR) @ (alpha * B_RS) @ C_SO
