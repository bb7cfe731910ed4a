"""Bugs of by_hand/family.py and by_hand/bottleneck.py: TLoRA's relatives."""

from .mutant import Mutant

FA_DX = 'grads["x"] = dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI)'

LORA_FA = (
    Mutant("lora_fa_dB_without_scale", "lora_fa_linear", "alpha", "scale * (rows(u_NR).T @ rows(dy_NO))",
           "rows(u_NR).T @ rows(dy_NO)", "The branch is scale x A B, so scale stays in dB.", ("scale != 1",)),
    Mutant("lora_fa_dx_adapter_path_dropped", "lora_fa_linear", "dropped path", FA_DX, 'grads["x"] = dy_NO @ W0_IO.T',
           "A is frozen, yet gradient flows through it to x.", ("B != 0",)),
    Mutant("lora_fa_dx_dropout_twice", "lora_fa_linear", "dropout", "keep_NI * dxd_NI", "keep_NI * keep_NI * dxd_NI",
           "The mask already holds 1 / (1 - p): once is enough.", ("B != 0", "dropout")),
)  # fmt: skip

TRI = (
    Mutant("tri_dC_without_M", "tri_linear", "dropped path", "rows(v_NS).T", "rows(u_NR).T",
           "C saw u M, so dC holds u M and not u."),
    Mutant("tri_g_without_scale", "tri_linear", "alpha", "g_NS = scale * (dy_NO @ C_SO.T)", "g_NS = dy_NO @ C_SO.T",
           "The branch is scale x A M C, so scale stays in dM, dA and dx.", ("scale != 1",)),
    Mutant("tri_du_M_untransposed", "tri_linear", "transpose", "g_NS @ M_RS.T", "g_NS @ M_RS",
           "Going back through u M needs M^T.", ("M != 0", "R or S > 1")),
    Mutant("lora_xs_dM_transposed", "lora_xs_linear", "transpose", "rows(u_NR).T @ rows(g_NS)",
           "rows(g_NS).T @ rows(u_NR)", "That is g^T u, the transpose of dM: a square M hides it.", ("R or S > 1",)),
    Mutant("lora_xs_dM_mean_for_sum", "lora_xs_linear", "mean for sum", "rows(u_NR).T @ rows(g_NS)",
           "rows(u_NR).T @ rows(g_NS) / len(rows(u_NR))",
           "Rows are summed here; the loss has done the averaging already.", ("more than one row",)),
)  # fmt: skip

ICFM = "(dM_RR + dM_RR.T) @ C_RR"

MTLORA = (
    Mutant("mtlora_shim_dC_transposed", "mtlora_shim_linear", "transpose",
           '{"C": dM_RR.copy()}', '{"C": dM_RR.T.copy()}',
           "That is the transpose of dM: a square C hides it.", ("B != 0", "R > 1"), at="mtlora_core_bwd"),
    Mutant("mtlora_icfm_one_side", "mtlora_icfm_linear", "dropped path", ICFM, "dM_RR @ C_RR",
           "C stands twice in C C^T, and a product has two terms.", ("B != 0",), at="mtlora_core_bwd"),
    Mutant("mtlora_icfm_twice_one_side", "mtlora_icfm_linear", "transpose", ICFM, "2 * dM_RR @ C_RR",
           "dM is not symmetric, although M is: both dM and dM^T are needed.", ("B != 0", "R > 1"),
           at="mtlora_core_bwd"),
    Mutant("mtlora_ctcm_dC_D_untransposed", "mtlora_ctcm_linear", "transpose", "D_RR.T @ dM_RR", "D_RR @ dM_RR",
           "D and C are square, so nothing warns you: dC = D^T dM.", ("B != 0", "R > 1"), at="mtlora_core_bwd"),
    Mutant("mtlora_ctcm_wrong_side", "mtlora_ctcm_linear", "A/C swapped", "dM_RR @ C_RR.T", "C_RR.T @ dM_RR",
           "M = D C has C on the right, and so has dD.", ("B != 0", "R > 1"), at="mtlora_core_bwd"),
    Mutant("mtlora_dtsm_mean_for_sum", "mtlora_dtsm_linear", "mean for sum", '"D": dM_RR.copy()}', '"D": dM_RR / 2}',
           "In a sum C + D each gets all of dM, not a half.", ("B != 0",), at="mtlora_core_bwd"),
)  # fmt: skip

VERA = (
    Mutant("vera_dlambda_b_without_lambda_d", "vera_linear", "dropped path", "rows(u_NR * lambda_d_R)", "rows(u_NR)",
           "lambda_b scales what lambda_d has scaled before.", ("B != 0",)),
    Mutant("vera_dv_without_lambda_b", "vera_linear", "dropped path", "(dy_NO * lambda_b_O) @ B_RO.T", "dy_NO @ B_RO.T",
           "Between y and v B stands lambda_b.", ("B != 0",)),
    Mutant("vera_dx_without_lambda_d", "vera_linear", "dropped path", "(dv_NR * lambda_d_R) @ A_IR.T", "dv_NR @ A_IR.T",
           "Between v and x stands lambda_d.", ("B != 0", "lambda_b != 0")),
    Mutant("vera_dlambda_d_mean_for_sum", "vera_linear", "mean for sum", "rows(dv_NR * u_NR).sum(axis=0)",
           "rows(dv_NR * u_NR).mean(axis=0)", "lambda_d was broadcast over rows, so its gradient is summed over rows.",
           ("B != 0", "lambda_b != 0", "more than one row")),
    Mutant("vera_dlambda_b_wrong_axis", "vera_linear", "broadcasting axis",
           "(B_RO * (rows(u_NR * lambda_d_R).T @ rows(dy_NO))).sum(axis=0)",
           "(B_RO * (rows(u_NR * lambda_d_R).T @ rows(dy_NO))).sum(axis=1)",
           "lambda_b has one entry per output: sum over R, the first axis.", ("B != 0", "R or O > 1")),
)  # fmt: skip

DORA = (
    Mutant("column_norm_without_root", "column_norm", "dropped path", "(dn_O / n_O)", "(2 * dn_O)",
           "That is the gradient of the squared norm."),
    Mutant("column_norm_over_square", "column_norm", "dropped path", "(dn_O / n_O)", "(dn_O / (n_O * n_O))",
           "The derivative of a norm is a unit vector: divide by n once."),
    Mutant("rescale_dnorm_sign", "rescale", "sign", "-dm_O * (magnitude_O / norm_O)", "dm_O * (magnitude_O / norm_O)",
           "A longer column makes y smaller: 1/n has a derivative of -1/n^2."),
    Mutant("rescale_dmagnitude_without_norm", "rescale", "dropped path", ".sum(axis=0) / norm_O", ".sum(axis=0)",
           "m enters y as m / n, so dm holds 1 / n."),
    Mutant("rescale_dmagnitude_mean_for_sum", "rescale", "mean for sum", "rows(dy_NO * y0_NO).sum(axis=0)",
           "rows(dy_NO * y0_NO).mean(axis=0)", "m was broadcast over rows, so its gradient is summed over rows.",
           ("more than one row",)),
    Mutant("dora_inner_gradient_not_rescaled", "dora_linear", "dropped path", 'lora_linear_bwd(outer["y0"], c_lora',
           "lora_linear_bwd(dy_NO, c_lora", "Between y and x V stands m / n, going back as well."),
    Mutant("dora_norm_taken_as_constant", "dora_full_linear", "dropped path", "c_norm is not None and want",
           "False and want", "Here the norm depends on A and B; with a detached norm this would be right."),
    Mutant("dora_norm_path_without_scale", "dora_full_linear", "alpha", "dV_IO = scale * column_norm_bwd",
           "dV_IO = column_norm_bwd", "V holds scale A B, so the path through the norm holds scale.", ("scale != 1",)),
    Mutant("edora_inner_gradient_not_rescaled", "edora_linear", "dropped path", 'tri_linear_bwd(outer["y0"], c_tri',
           "tri_linear_bwd(dy_NO, c_tri", "Between y and x V stands m / n, going back as well."),
)  # fmt: skip

BOTTLENECK = (
    Mutant("relu_passes_everything", "relu", "dropped path", "np.where(positive_NF, dy_NF, 0)", "dy_NF.copy()",
           "Where x < 0 nothing went forward, so nothing comes back.", ("an entry below 0",)),
    Mutant("bottleneck_gelu_without_activation", "bottleneck_gelu", "GELU",
           'ACTIVATIONS[act][1](df_ND @ up_RD.T, c_act)["x"]', "df_ND @ up_RD.T",
           "Between the two matrices stands an activation, going back as well."),
    Mutant("bottleneck_relu_ddown_b_mean_for_sum", "bottleneck_relu", "mean for sum", "rows(dpre_NR).sum(axis=0)",
           "rows(dpre_NR).mean(axis=0)", "b is added to every row, so its gradient is the sum over rows.",
           ("more than one row", "an active unit")),
    Mutant("bottleneck_relu_dup_transposed", "bottleneck_relu", "transpose", "rows(t_NR).T @ rows(df_ND)",
           "(rows(t_NR).T @ rows(df_ND)).T", "That is df^T t, the gradient of a matrix stored (D, R).",
           ("D or R > 1", "an active unit")),
)  # fmt: skip

HTA = (
    Mutant("reflect_dv_one_side", "reflect", "dropped path", "a_N1 * dy_ND + g_N1 * x_ND", "g_N1 * x_ND",
           "v stands twice in v v^T, and a product has two terms."),
    Mutant("reflect_dv_twice_one_side", "reflect", "transpose", "a_N1 * dy_ND + g_N1 * x_ND", "2 * g_N1 * x_ND",
           "(x v) dy and (dy v) x are different vectors, although H is symmetric: both are needed.", ("D > 1",)),
    Mutant("reflect_dv_sign", "reflect", "sign", "-rows(a_N1", "rows(a_N1", "v v^T is subtracted."),
    Mutant("reflect_dx_not_reflected", "reflect", "dropped path", "dy_ND - g_N1 * w_D", "dy_ND.copy()",
           "H is symmetric and not the identity: going back, dy meets it as well."),
    Mutant("reflect_unit_dv_without_projection", "reflect_unit", "dropped path",
           "(dw_D - (w_D @ dw_D) * w_D) / norm", "dw_D / norm",
           "The length of v is divided out: what of dw lies along v changes nothing."),
    Mutant("reflect_unit_dv_without_norm", "reflect_unit", "dropped path",
           "(dw_D - (w_D @ dw_D) * w_D) / norm", "dw_D - (w_D @ dw_D) * w_D",
           "w = v / |v|: twice as long a v turns half as far.", ("D > 1",)),
    Mutant("hta_ddiag_mean_for_sum", "hta_linear", "mean for sum", "rows(dt_NM * t_NM).sum(axis=0)",
           "rows(dt_NM * t_NM).mean(axis=0)", "The diagonal is the same for all rows, so its gradient is their sum.",
           ("more than one row",)),
    Mutant("hta_ddiag_before_right", "hta_linear", "dropped path", 'right["x"][..., : diag_M.size]',
           "dy_NO[..., : diag_M.size]", "Between the diagonal and y stands H_right, going back as well."),
    Mutant("hta_dz_without_diag", "hta_linear", "dropped path", "widened(dt_NM * diag_M, ", "widened(dt_NM, ",
           "Between the two reflections stands the diagonal, going back as well."),
    Mutant("hta_dx_patch_dropped", "hta_linear", "dropped path", 'left["x"] + du_NR @ p_IR.T', 'left["x"]',
           "x reaches y by the patch p q as well."),
    Mutant("hta_unit_dx_reflection_dropped", "hta_unit_linear", "dropped path", 'left["x"] + du_NR @ p_IR.T',
           "du_NR @ p_IR.T", "x reaches y by the reflections as well."),
)  # fmt: skip

SODA = (
    Mutant("kron_dQ1_transposed", "kron", "transpose", "(t_NXP @ dy_NXP.swapaxes(1, 2))",
           "(dy_NXP @ t_NXP.swapaxes(1, 2))", "That is dy t^T, the gradient of Q1^T: Q1 is square.", ("X > 1",)),
    Mutant("kron_dQ3_mean_for_sum", "kron", "mean for sum", "rows(x_NXYZ).T @ rows(ds_NXYZ)",
           "rows(x_NXYZ).T @ rows(ds_NXYZ) / len(x_NXYZ)",
           "Rows are summed here; the loss has done the averaging already.", ("more than one row",)),
    Mutant("kron_ds_Q2_transposed", "kron", "transpose", "ds_NXYZ = Q2_YY @", "ds_NXYZ = Q2_YY.T @",
           "Forward it was Q2^T s, so back it is Q2; at an orthogonal Q2 this undoes the rotation.", ("Y > 1",)),
    Mutant("kron_dx_Q3_untransposed", "kron", "transpose", "ds_NXYZ @ Q3_ZZ.T", "ds_NXYZ @ Q3_ZZ",
           "Going back through s = x Q3 needs Q3^T.", ("Z > 1",)),
    Mutant("kron_dQ2_before_Q1", "kron", "dropped path", "dt_NXYZ = (Q1_XX @ dy_NXP)", "dt_NXYZ = dy_NXP.copy()",
           "Between Q2 and y stands Q1, going back as well."),
    Mutant("soda_ddelta_without_relu", "soda_linear", "dropped path",
           'relu_bwd(rows(e_NM * v_NM).sum(axis=0), c_relu)["x"]', "rows(e_NM * v_NM).sum(axis=0)",
           "A singular value that was shifted below 0 is 0, and delta moves it no more.", ("a value cut off",)),
    Mutant("soda_ddelta_mean_for_sum", "soda_linear", "mean for sum", "rows(e_NM * v_NM).sum(axis=0)",
           "rows(e_NM * v_NM).mean(axis=0)", "delta is the same for all rows, so its gradient is their sum.",
           ("more than one row", "a value left")),
    Mutant("soda_dr_spectrum_dropped", "soda_linear", "dropped path", "dh_NI + (e_NM * g_M) @ U_IM.T", "dh_NI.copy()",
           "The rotated x meets the shift of the spectrum as well as W0."),
    Mutant("soda_dr_shift_left_out", "soda_linear", "dropped path", "(e_NM * g_M) @ U_IM.T", "e_NM @ U_IM.T",
           "Between v = r U and y stands g, the shift."),
    Mutant("soda_dx_dropout_twice", "soda_linear", "dropout", 'keep_NI * (kron["x"] - dh_NI)', 'keep_NI * kron["x"]',
           "What is dropped is the x of W' - W0: the rotation less the identity.", ("dropout",)),
)  # fmt: skip

LORTA = (
    Mutant("cp_factor_dB_mean_for_sum", "cp_factor", "mean for sum", "(c_HR.T[:, :, None] * dF_RHK).sum(axis=1)",
           "(c_HR.T[:, :, None] * dF_RHK).mean(axis=1)", "All heads read the same B, so its gradient is their sum.",
           ("more than one head",)),
    Mutant("cp_factor_dB_without_tables", "cp_factor", "dropped path", "(c_HR.T[:, :, None] * dF_RHK).sum(axis=1)",
           "dF_RHK.sum(axis=1)", "B reaches F times c_h, so its gradient holds c_h."),
    Mutant("cp_factor_dlayer_mean_for_sum", "cp_factor", "mean for sum",
           'grads["layer"] = (dc_HR * heads_HR).sum(axis=0)', 'grads["layer"] = (dc_HR * heads_HR).mean(axis=0)',
           "layer is the same for all heads, so its gradient is their sum.", ("B != 0", "more than one head")),
    Mutant("cp_factor_dheads_without_matrix", "cp_factor", "dropped path", "dc_HR * (layer_R * matrix_R)",
           "dc_HR * layer_R", "c is a product of three, and two of them stay in each gradient.", ("B != 0",)),
    Mutant("cp_factor_dmatrix_without_heads", "cp_factor", "dropped path",
           'grads["matrix"] = (dc_HR * heads_HR).sum(axis=0)', 'grads["matrix"] = dc_HR.sum(axis=0)',
           "c is a product of three, and two of them stay in each gradient.", ("B != 0",)),
    Mutant("cp_factor_dlayer_with_itself", "cp_factor", "dropped path",
           'grads["layer"] = (dc_HR * heads_HR).sum(axis=0) * matrix_R',
           'grads["layer"] = (dc_HR * heads_HR).sum(axis=0) * layer_R',
           "In the gradient of layer stands what layer was multiplied with: heads and matrix.", ("B != 0",)),
    Mutant("cp_factor_heads_interleaved", "cp_factor", "memory layout", "dF_RD.reshape(len(B_RK), len(heads_HR), -1)",
           "dF_RD.reshape(len(B_RK), -1, len(heads_HR)).swapaxes(1, 2)",
           "A head's columns stand side by side in F: the head is the slower axis.",
           ("more than one head", "K > 1 in B")),
)  # fmt: skip

DLOGIT = 'grads["logit"] = gate * (1 - gate) * (B_RO * utdy_RO).sum()'

LORA_GATED = (
    Mutant("lora_gated_dlogit_is_dgate", "lora_gated_linear", "dropped path", DLOGIT,
           'grads["logit"] = (B_RO * utdy_RO).sum()', "That is dgate: the slope of the sigmoid stands between.",
           ("B != 0",)),
    Mutant("lora_gated_dlogit_without_gate", "lora_gated_linear", "dropped path", DLOGIT,
           'grads["logit"] = (1 - gate) * (B_RO * utdy_RO).sum()', "The slope of a sigmoid is gate (1 - gate).",
           ("B != 0",)),
    Mutant("lora_gated_dlogit_without_B", "lora_gated_linear", "dropped path", DLOGIT,
           'grads["logit"] = gate * (1 - gate) * utdy_RO.sum()', "The gate scales x A B, so its gradient holds B."),
    Mutant("lora_gated_dlogit_sign", "lora_gated_linear", "sign", DLOGIT,
           'grads["logit"] = gate * (gate - 1) * (B_RO * utdy_RO).sum()', "A sigmoid rises: its slope is positive.",
           ("B != 0",)),
    Mutant("lora_gated_dlogit_mean_for_sum", "lora_gated_linear", "mean for sum", DLOGIT,
           'grads["logit"] = gate * (1 - gate) * (B_RO * utdy_RO).mean()',
           "One gate scales every entry of B, so it collects the sum over all of them.", ("B != 0", "R or O > 1")),
    Mutant("lora_gated_dB_without_gate", "lora_gated_linear", "alpha", 'grads["B"] = gate * utdy_RO',
           'grads["B"] = utdy_RO', "B reaches y through the gate."),
    Mutant("lora_gated_without_scale", "lora_gated_linear", "alpha", "utdy_RO = scale * (rows(u_NR).T @ rows(dy_NO))",
           "utdy_RO = rows(u_NR).T @ rows(dy_NO)", "The branch is gate scale x A B, so scale stays in dB and dlogit.",
           ("scale != 1",)),
    Mutant("lora_gated_dx_without_gate", "lora_gated_linear", "alpha", "du_NR = gate * scale * (dy_NO @ B_RO.T)",
           "du_NR = scale * (dy_NO @ B_RO.T)", "x reaches y through the gate, too.", ("B != 0",)),
)  # fmt: skip

MUTANTS = LORA_FA + LORA_GATED + TRI + MTLORA + VERA + DORA + HTA + SODA + LORTA + BOTTLENECK
