"""Bugs of by_hand/ops.py: the operations of the encoder."""

from .mutant import Mutant

LINEAR = (
    Mutant("linear_db_mean_for_sum", "linear", "mean for sum", "rows(dy_NO).sum(axis=0)", "rows(dy_NO).mean(axis=0)",
           "b is added to every row, so db is the sum over rows.", ("more than one row",)),
    Mutant("linear_db_first_axis_only", "linear", "broadcasting axis", "rows(dy_NO).sum(axis=0)", "dy_NO.sum(axis=0)",
           "b was broadcast over all leading axes: sum over all of them.", ("more than one leading axis",)),
    Mutant("linear_db_last_row", "linear", "scatter", "rows(dy_NO).sum(axis=0)", "rows(dy_NO)[-1].copy()",
           "Every row adds to db; with = in place of += the last one wins.", ("more than one row",)),
    Mutant("linear_dW_transposed", "linear", "transpose", "rows(x_NI).T @ rows(dy_NO)", "rows(dy_NO).T @ rows(x_NI)",
           "That is dy^T x, the gradient of a weight stored (out, in).", ("I or O > 1",)),
    Mutant("linear_dx_W_untransposed", "linear", "transpose", "dy_NO @ W_IO.T", "dy_NO @ W_IO",
           "Going back through x W needs W^T.", ("I or O > 1",)),
    Mutant("frozen_linear_stops_the_gradient", "frozen_linear", "dropped path", "dy_NO @ W0_IO.T",
           "np.zeros((*dy_NO.shape[:-1], len(W0_IO)))",
           "Frozen is not the same as not differentiable: dx flows through W0."),
    Mutant("frozen_linear_dx_W0_untransposed", "frozen_linear", "transpose", "dy_NO @ W0_IO.T", "dy_NO @ W0_IO",
           "Going back through x W0 needs W0^T.", ("I or O > 1",)),
    Mutant("frozen_linear_has_a_weight_gradient", "frozen_linear", "protocol", 'grads["x"] = dy_NO @ W0_IO.T',
           'grads["x"] = dy_NO @ W0_IO.T\n        grads["W0"] = np.zeros_like(W0_IO)',
           "A frozen array has no gradient; a gradient of zeros is another answer."),
)  # fmt: skip

NORM_DX = "(dxhat_ND - mean_N1 - xhat_ND * along_N1)"

LAYER_NORM = (
    Mutant("layer_norm_without_both_means", "layer_norm", "LayerNorm", NORM_DX, "dxhat_ND",
           "Mean and variance depend on x too: two terms are missing."),
    Mutant("layer_norm_without_mean_of_dxhat", "layer_norm", "LayerNorm", NORM_DX, "(dxhat_ND - xhat_ND * along_N1)",
           "The mean that was subtracted depends on x: its term is missing."),
    Mutant("layer_norm_without_mean_along_xhat", "layer_norm", "LayerNorm", NORM_DX, "(dxhat_ND - mean_N1)",
           "The variance that was divided by depends on x: its term is missing.", ("D > 1",)),
    Mutant("layer_norm_without_eps", "layer_norm", "LayerNorm", "(xhat_ND, rstd_N1,",
           "(xhat_ND, 1.0 / np.sqrt(var_N1),", "The forward divided by sqrt(var + eps), the backward by sqrt(var).",
           at="fwd"),
    Mutant("layer_norm_dx_without_gamma", "layer_norm", "LayerNorm", "dxhat_ND = gamma_D * dy_ND", "dxhat_ND = dy_ND",
           "Between y and xhat stands gamma: dxhat = gamma dy.", ("D > 1", "gamma != 1")),
    Mutant("layer_norm_dgamma_with_gamma", "layer_norm", "LayerNorm", "rows(dy_ND * xhat_ND)",
           "rows(gamma_D * dy_ND * xhat_ND)", "gamma multiplies xhat, so dgamma holds xhat and no gamma.",
           ("D > 1", "gamma != 1")),
    Mutant("layer_norm_dgamma_without_xhat", "layer_norm", "LayerNorm", "rows(dy_ND * xhat_ND)", "rows(dy_ND)",
           "gamma multiplies xhat, so dgamma is dy times xhat; dbeta is the one without."),
    Mutant("layer_norm_unbiased_variance", "layer_norm", "LayerNorm",
           "row_sum(dxhat_ND, xhat_ND) / D", "row_sum(dxhat_ND, xhat_ND) / (D - 1)",
           "The variance is the biased one, 1/D in both directions."),
    Mutant("layer_norm_mean_over_all_rows", "layer_norm", "broadcasting axis",
           "row_sum(dxhat_ND) / D", "dxhat_ND.mean(keepdims=True)",
           "Every row has a mean of its own: axis=-1 is missing.", ("more than one row",)),
    Mutant("layer_norm_dgamma_wrong_axis", "layer_norm", "broadcasting axis", "rows(dy_ND * xhat_ND).sum(axis=0)",
           "rows(dy_ND * xhat_ND).sum(axis=-1)",
           "gamma was broadcast over rows, so its gradient is summed over rows.", ("D > 1",)),
    Mutant("layer_norm_dbeta_mean_for_sum", "layer_norm", "mean for sum", "rows(dy_ND).sum(axis=0)",
           "rows(dy_ND).mean(axis=0)", "beta is added to every row, so dbeta is the sum over rows.",
           ("more than one row",)),
)  # fmt: skip

SLOPE = "slope += cdf"

TANH_SLOPE = """t = np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))
    inner = sqrt(2 / pi) * (1 + 3 * 0.044715 * x**2)
    slope = 0.5 * (1 + t + x * (1 - t**2) * inner)"""

GELU = (
    Mutant("gelu_without_second_term", "gelu", "GELU", SLOPE, "slope = cdf",
           "y = x Phi(x) is a product, and a product has two terms.", at="gelu_and_slope"),
    Mutant("gelu_second_term_sign", "gelu", "sign", SLOPE, "slope = cdf - slope",
           "The derivative of Phi is +phi.", at="gelu_and_slope"),
    Mutant("gelu_pdf_without_half", "gelu", "GELU", SLOPE, "slope = cdf + x * np.exp(-x * x) / sqrt(2 * pi)",
           "phi(x) is exp(-x^2 / 2): the half is missing.", at="gelu_and_slope"),
    Mutant("gelu_pdf_not_normalised", "gelu", "GELU", SLOPE, "slope = cdf + x * np.exp(x * x * -0.5)",
           "A density integrates to one: 1 / sqrt(2 pi) is missing.", at="gelu_and_slope"),
    Mutant("gelu_tanh_derivative", "gelu", "GELU", SLOPE, TANH_SLOPE,
           "That is the derivative of the tanh approximation, and the forward is the exact one.", at="gelu_and_slope"),
    Mutant("gelu_writes_into_the_cotangent", "gelu", "protocol", 'grads["x"] = dy_NF * slope_NF',
           'dy_NF *= slope_NF\n        grads["x"] = dy_NF.copy()',
           "*= wrote into the caller's dy: whoever uses it next computes with something else.", ("the second call",)),
)  # fmt: skip

TANH = (
    Mutant("tanh_sign", "tanh", "sign", "(1 - y_NF) * (1 + y_NF)", "1 + y_NF * y_NF", "It is 1 - y^2."),
    Mutant("tanh_as_a_sigmoid", "tanh", "tanh", "(1 - y_NF) * (1 + y_NF)", "y_NF * (1 - y_NF)",
           "y (1 - y) is the sigmoid's rule; tanh runs from -1 to 1."),
    Mutant("tanh_square_forgotten", "tanh", "tanh", "(1 - y_NF) * (1 + y_NF)", "1 - y_NF", "The square is missing."),
    Mutant("tanh_of_the_input", "tanh", "tanh", "(y_NF,)", "(x_NF,)",
           "1 - y^2 is written in the output, and you kept the input.", at="fwd"),
)  # fmt: skip

ROW_TERM = "row_sum(dp_NV, p_NV)"

SOFTMAX = (
    Mutant("softmax_without_row_term", "softmax", "softmax row term", f"(dp_NV - {ROW_TERM})", "dp_NV",
           "Every entry sits in the denominator of all others: the row term is missing.", ("two to attend to",)),
    Mutant("softmax_diagonal_only", "softmax", "softmax row term", f"(dp_NV - {ROW_TERM})", "(1 - p_NV) * dp_NV",
           "p (1 - p) is the sigmoid's rule, the diagonal of softmax's Jacobian and not all of it.",
           ("two to attend to",)),
    Mutant("softmax_row_term_mean_for_sum", "softmax", "mean for sum", ROW_TERM,
           "(dp_NV * p_NV).mean(axis=-1, keepdims=True)", "The row term is a sum: p is the weight already.",
           ("two to attend to",)),
    Mutant("softmax_row_term_first_axis", "softmax", "broadcasting axis", ROW_TERM,
           "(dp_NV * p_NV).sum(axis=0, keepdims=True)", "A row is the last axis; you summed over another one.",
           ("a leading axis", "two to attend to")),
)  # fmt: skip

DS = 'softmax_bwd(dp_NHTT, softmax_cache)["x"]'
SCALE = "(1 / sqrt(q_NHTK.shape[-1]))"

ATTENTION = (
    Mutant("attention_without_scale", "attention", "1/sqrt(K)", f" * {SCALE}", "",
           "s was divided by sqrt(K), so its gradient is too.", ("two to attend to", "K > 1")),
    Mutant("attention_scale_twice", "attention", "1/sqrt(K)", SCALE, "(1 / q_NHTK.shape[-1])",
           "1/sqrt(K) twice makes 1/K.", ("two to attend to", "K > 1")),
    Mutant("attention_scale_by_width", "attention", "1/sqrt(K)", SCALE,
           "(1 / sqrt(q_NHTK.shape[-1] * q_NHTK.shape[-3]))",
           "K is the width of one head, not of the model: one head hides it.", ("two to attend to", "H > 1")),
    Mutant("attention_without_row_term", "attention", "softmax row term", DS, "(p_NHTT * dp_NHTT)",
           "Going back through softmax needs its row term.", ("two to attend to",)),
    Mutant("attention_without_softmax", "attention", "dropped path", DS, "dp_NHTT",
           "dp is the gradient after softmax; ds, before it, is what q and k get."),
    Mutant("attention_mask_forgotten", "attention", "mask", "(p_NHTT,) = softmax_cache",
           f"softmax_cache = softmax_fwd(q_NHTK @ k_NHTK.swapaxes(-1, -2) * {SCALE})[1]\n    (p_NHTT,) = softmax_cache",
           "You computed p again for the backward and left the mask out.", ("some attention hidden",)),
    Mutant("attention_dv_p_untransposed", "attention", "transpose", "p_NHTT.swapaxes(-1, -2) @ dout_NHTK",
           "p_NHTT @ dout_NHTK", "p is T x T, so nothing warns you: dv = p^T dout.", ("two to attend to",)),
    Mutant("attention_dk_ds_untransposed", "attention", "transpose", "ds_NHTT.swapaxes(-1, -2) @ q_NHTK",
           "ds_NHTT @ q_NHTK", "ds is T x T, so nothing warns you: dk = ds^T q.", ("two to attend to",)),
    Mutant("attention_dq_from_q", "attention", "A/C swapped", "ds_NHTT @ k_NHTK", "ds_NHTT @ q_NHTK",
           "The gradient of q holds k, and that of k holds q.", ("two to attend to",)),
    Mutant("attention_heads_split_by_reshape", "attention", "head reshape", "split_heads(dout_NTD, q_NHTK.shape[-3])",
           "dout_NTD.reshape(q_NHTK.shape)", "T and H must change places; a reshape alone mixes tokens with heads.",
           ("H > 1", "two to attend to")),
    Mutant("attention_heads_joined_by_reshape", "attention", "head reshape",
           "join_heads(p_NHTT.swapaxes(-1, -2) @ dout_NHTK)",
           "(p_NHTT.swapaxes(-1, -2) @ dout_NHTK).reshape(dout_NTD.shape)",
           "H and T must change places before the heads are joined.", ("H > 1", "two to attend to")),
)  # fmt: skip

EMBEDDING = (
    Mutant("embedding_assign_for_add", "embedding", "scatter", "np.add.at(dW_VD, ids_N.reshape(-1), rows(dout_ND))",
           "dW_VD[ids_N.reshape(-1)] += rows(dout_ND)",
           "dW[ids] += keeps one of several equal ids: np.add.at adds them all.", ("an id twice",)),
    Mutant("embedding_mean_for_sum", "embedding", "mean for sum", 'grads["W"] = dW_VD',
           'grads["W"] = dW_VD / np.maximum(np.bincount(ids_N.reshape(-1), minlength=V), 1)[:, None]',
           "A token that stands in three places gets the sum of three gradients.", ("an id twice",)),
    Mutant("embedding_id_0_taken_for_padding", "embedding", "mask", 'grads["W"] = dW_VD',
           'dW_VD[0] = 0\n        grads["W"] = dW_VD', "Here id 0 is a token like any other.", ("id 0",)),
    Mutant("embedding_ids_in_memory_order", "embedding", "one layout or size", "ids_N.reshape(-1)",
           'ids_N.ravel(order="K")', "You read ids as they lie in memory: in F-order rows meet the wrong ids.",
           ("ids in F-order",)),
    Mutant("embedding_as_tall_as_the_largest_id", "embedding", "one layout or size", "(ids_N, W_VD.shape[0])",
           "(ids_N, int(np.max(ids_N)) + 1)", "dW has the shape of W, also when the last ids do not occur.",
           ("no last id",), at="fwd"),
)  # fmt: skip

POOLING = (
    Mutant("mean_pool_over_padding", "mean_pool", "mask", "(weight_NT,)", "(mask_NT / mask_NT.shape[-1],)",
           "The mean was over real tokens, so the divisor is their number, not T.", ("some tokens hidden",), at="fwd"),
    Mutant("mean_pool_mask_forgotten", "mean_pool", "mask", "(weight_NT,)",
           "(np.ones(mask_NT.shape) / np.maximum(mask_NT.sum(axis=-1, keepdims=True), 1),)",
           "Padding took no part, so it gets no gradient.", ("some tokens hidden",), at="fwd"),
    Mutant("mean_pool_sum_for_mean", "mean_pool", "mean for sum", "(weight_NT,)", "(mask_NT * 1.0,)",
           "out was divided by the number of tokens, so dx is too.", ("two to attend to",), at="fwd"),
    Mutant("first_token_gives_to_the_last", "first_token", "broadcasting axis", "dx_NTD[..., 0, :] = dout_ND",
           "dx_NTD[..., -1, :] = dout_ND", "The first token was taken, so the first one gets the gradient.",
           ("T > 1",)),
    Mutant("first_token_gives_to_all", "first_token", "broadcasting axis", "dx_NTD[..., 0, :] = dout_ND",
           "dx_NTD[...] = dout_ND[..., None, :]", "Only the first token reached the output.", ("T > 1",)),
)  # fmt: skip

CROSS_ENTROPY = (
    Mutant("cross_entropy_over_classes", "cross_entropy", "mean for sum", "dloss / at_N1.size",
           "dloss / p_NV.shape[-1]", "The mean is over N rows, and you divided by the number of classes.",
           ("V > 1", "rows not as many as classes")),
    Mutant("cross_entropy_sum_for_mean", "cross_entropy", "mean for sum", "dloss / at_N1.size", "dloss",
           "The loss is a mean over rows: 1/N is missing.", ("V > 1", "more than one row")),
    Mutant("cross_entropy_over_first_axis", "cross_entropy", "broadcasting axis", "dloss / at_N1.size",
           "dloss / len(at_N1)", "len() counts the first axis; the mean was over all rows.",
           ("V > 1", "more than one leading axis")),
    Mutant("cross_entropy_sign", "cross_entropy", "sign", "(p_NV - onehot_NV)", "(onehot_NV - p_NV)",
           "The loss falls when the label's logit rises: p - onehot.", ("V > 1",)),
    Mutant("cross_entropy_without_onehot", "cross_entropy", "dropped path", "(p_NV - onehot_NV)", "p_NV",
           "The label's own logit is missing: p comes from the log-sum, onehot from the label."),
    Mutant("cross_entropy_cotangent_ignored", "cross_entropy", "dropped path", "dloss / at_N1.size", "1.0 / at_N1.size",
           "dloss is ignored: a loss that is one of two terms gets the wrong weight.", ("V > 1", "cotangent != 1")),
    Mutant("cross_entropy_float32_cache", "cross_entropy", "float32 cache", "(e_NV / sum_N1, at_N1)",
           "((e_NV / sum_N1).real.astype(np.float32), at_N1)",
           "You kept the probabilities in float32, and half of the digits are gone.", ("V > 1",), at="fwd"),
)  # fmt: skip

MUTANTS = LINEAR + LAYER_NORM + GELU + TANH + SOFTMAX + ATTENTION + EMBEDDING + POOLING + CROSS_ENTROPY
