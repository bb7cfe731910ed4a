"""Equivalent controls: other ways to write the same gradient. A checker that rejects one gives a false alarm."""

from .encoder import FFN
from .mutant import Mutant

MUTANTS = (
    Mutant("control_tlora_dB_einsum", "tlora_linear", "control", "rows(u_NR).T @ rows(g_NS)",
           'np.einsum("nr,ns->rs", rows(u_NR), rows(g_NS))', "A sum over rows, spelt out.", equivalent=True),
    Mutant("control_tlora_dx_through_delta_w", "tlora_linear", "control",
           "dy_NO @ W0_IO.T + (alpha * (g_NS @ B_RS.T)) @ A_IR.T",
           "dy_NO @ W0_IO.T + dupdate_NO @ (alpha * (A_IR @ B_RS @ C_SO)).T",
           "A, B and C multiplied first: the same dx at a higher price.", equivalent=True),
    Mutant("control_tlora_dalpha_trace", "tlora_linear", "control", "(B_RS * utg_RS).sum()",
           "np.trace(B_RS.T @ utg_RS)", "sum(B * G) is trace(B^T G).", equivalent=True),
    Mutant("control_lora_scale_late", "lora_linear", "control", "du_NR = scale * (dy_NO @ B_RO.T)",
           "du_NR = dy_NO @ (scale * B_RO).T", "A factor may go anywhere in a product.", equivalent=True),
    Mutant("control_layer_norm_centred_xhat", "layer_norm", "control", "(dxhat_ND - mean_N1 - xhat_ND * along_N1)",
           "(dxhat_ND - mean_N1 - xhat_ND * ((dxhat_ND - mean_N1) * xhat_ND).mean(axis=-1, keepdims=True))",
           "xhat has mean zero, so subtracting the mean first changes nothing.", equivalent=True),
    Mutant("control_gelu_symmetric_distribution", "gelu", "control", "slope += cdf", "slope += 1 - normal(-x)[0]",
           "Phi(x) is 1 - Phi(-x).", equivalent=True, at="gelu_and_slope"),
    Mutant("control_softmax_shifted_cotangent", "softmax", "control",
           'grads["x"] = p_NV * (dp_NV - row_sum(dp_NV, p_NV)',
           "dp_NV = dp_NV - dp_NV[..., :1]\n        grads[\"x\"] = p_NV * (dp_NV - row_sum(dp_NV, p_NV)",
           "p sums to one, so shifting dp by a constant changes nothing: a cotangent of ones gives zero.",
           equivalent=True),
    Mutant("control_attention_scaled_keys", "attention", "control", "ds_NHTT @ k_NHTK)",
           "(ds_NHTT * q_NHTK.shape[-1]) @ (k_NHTK / q_NHTK.shape[-1]))", "K and 1/K cancel.", equivalent=True),
    Mutant("control_embedding_onehot", "embedding", "control", "np.add.at(dW_VD, ids_N.reshape(-1), rows(dout_ND))",
           "dW_VD += (np.arange(V)[:, None] == ids_N.reshape(-1)) @ rows(dout_ND)",
           "A lookup is a product with one-hot rows, and so is its gradient.", equivalent=True),
    Mutant("control_cross_entropy_subtract_at_label", "cross_entropy", "control",
           "(p_NV - onehot_NV) * (dloss / at_N1.size)",
           "p_NV * (dloss / at_N1.size) - onehot_NV * (dloss / at_N1.size)", "Multiplied out.", equivalent=True),
    Mutant("control_encoder_paths_first", "encoder", "control", FFN,
           FFN.replace("ds_NTD + ", "") + " + ds_NTD", "A sum has no order.", at="layer_bwd", equivalent=True),
)  # fmt: skip
