"""Notebook 09, the torch twin: two hints for each exercise, and its worked solution."""

HINTS = {
    "forward": (
        "Which four of the seven are constants? `tensor.detach()` is the tensor without a history, and x, B "
        "and alpha need theirs.",
        "Detach W0, b, A and C where they are used, and nothing else. x goes through both roads as it is.",
    ),
    "merged": (
        "Compute in float32, where the adapter is; convert to the weight's dtype once, at the very end.",
        "The update is (in, out), and torch keeps weights as (out, in): transpose it. Make a new tensor, do "
        "not add into the old one.",
    ),
    "lora": (
        "The transpose of a product is the product of the transposes, in the other order. Cut it anywhere.",
        "One half is A transposed; the other holds alpha, B and C, transposed. alpha and B are in one of them only.",
    ),
}


def forward(x_NI, W0_IO, b_O, A_IR, B_RR, C_RO, alpha):
    """y (N, O)"""
    # y = x W0 + b + x A (alpha B) C, the frozen four as constants
    base_NO = x_NI @ W0_IO.detach() + b_O.detach()
    return base_NO + x_NI @ A_IR.detach() @ (alpha * B_RR) @ C_RO.detach()


def merged(weight_OI, A_IR, B_RR, C_RO, alpha):
    """W' (O, I)"""
    # W' = W0 + (A (alpha B) C)^T, in float32, then one rounding
    dW_IO = A_IR @ (alpha * B_RR) @ C_RO
    return (weight_OI.float() + dW_IO.T).to(weight_OI.dtype)


def lora(A_IR, B_RR, C_RO, alpha):
    """(lora_A (R, I), lora_B (O, R))"""
    # dW = A (alpha B C): lora_A = A^T, lora_B = (alpha B C)^T
    return A_IR.T, alpha * (B_RR @ C_RO).T
