"""A second right solution of every exercise, not written as the worked one is: loops, einsum, other orders."""

import math

import numpy as np
from scipy.special import erf


def _00_rank(dW_IO, share):
    # the eigenvalues of dW dW^T are the squared singular values
    squares = sorted(np.linalg.eigvalsh(dW_IO @ dW_IO.T)[::-1][: min(dW_IO.shape)], reverse=True)
    total, held = sum(squares), 0.0
    for k, square in enumerate(squares, 1):
        held += square
        if held / total > share - 5e-10:
            return k
    return len(squares)


def _00_captured(dW_IO, A_IR, C_RO):
    # with projectors instead of bases
    P_II, P_OO = A_IR @ np.linalg.pinv(A_IR), np.linalg.pinv(C_RO) @ C_RO
    return np.linalg.norm(P_II @ dW_IO @ P_OO) ** 2 / np.linalg.norm(dW_IO) ** 2


def _00_expected(I, O, R):
    return np.float64(R / I * (R / O))


def _01_forward(x_NI, W0_IO, b_O, A_IR, B_RS, C_SO, alpha):
    return np.einsum("...i,io->...o", x_NI, W0_IO + alpha * A_IR @ B_RS @ C_SO) + b_O


def _01_start(I, R, O, seed):
    one, other = np.random.default_rng(seed).spawn(2)
    return [one.uniform(-1, 1, (I, R)), np.zeros((R, R)), other.uniform(-1, 1, (R, O)), np.array(1)]


def _01_cost(N, I, R, O):
    return R * N * (I + R + O)


def _02_dB(dy_NO, u_NR, C_SO, alpha):
    return sum(np.outer(u, alpha * (C_SO @ dy)) for u, dy in zip(u_NR, dy_NO, strict=True))


def _02_dalpha(dy_NO, u_NR, B_RS, C_SO):
    return np.trace(B_RS.T @ (u_NR.T @ (dy_NO @ C_SO.T)))


def _02_dx(dy_NO, W0_IO, A_IR, B_RS, C_SO, alpha):
    return dy_NO @ (W0_IO + alpha * A_IR @ B_RS @ C_SO).T


def _02_backward(dy_NO, cache):
    u_NR, W0_IO, A_IR, B_RS, C_SO, alpha, keep_NO = cache
    grads = {"alpha": 0.0, "B": np.zeros(B_RS.shape), "x": np.zeros((len(dy_NO), len(W0_IO)))}
    for n, dy_O in enumerate(dy_NO):
        g_S = C_SO @ (dy_O if keep_NO is None else dy_O * keep_NO[n])
        grads["x"][n] = W0_IO @ dy_O + alpha * A_IR @ (B_RS @ g_S)
        grads["B"] += alpha * np.outer(u_NR[n], g_S)
        grads["alpha"] += u_NR[n] @ B_RS @ g_S
    return grads


def _03_central(f, x, h):
    slopes = []
    for i in range(x.size):
        up, down = x.astype(float), x.astype(float)
        up.flat[i] += h
        down.flat[i] -= h
        slopes.append(0.5 * (f(up) - f(down)) / h)
    return np.reshape(slopes, x.shape)


def _03_complex_step(f, x):
    slopes = []
    for i in range(x.size):
        moved = x.astype(complex)
        moved.flat[i] += 1e-20j
        slopes.append(np.imag(f(moved)) * 1e20)
    return np.array(slopes).reshape(x.shape)


def _03_check(fn, vjp, inputs, wrt, seed):
    # every entry by the complex step, and no random direction
    out, cache = fn(**inputs)
    dout = np.random.default_rng(seed).uniform(-1, 1, np.shape(out))
    grads, size = vjp(dout, cache), np.abs(dout * out).sum()
    for name in wrt:
        x, hand = inputs[name], np.asarray(grads[name])
        if hand.shape != x.shape or np.isnan(hand).any():
            return False
        for index in np.ndindex(x.shape):
            moved = x.astype(complex)
            moved[index] += 1e-30j
            slope = (dout * fn(**{**inputs, name: moved})[0]).sum().imag / 1e-30
            if abs(slope - hand[index]) > 1e-8 * abs(slope) + 1e-13 * size:
                return False
    return np.bool_(True)


def _04_hidden():
    from tlora_ref.by_hand.kernels import KERNELS
    from tlora_ref.gradcheck import check
    from tlora_ref.verification.mutants import mutant

    rng, zero = np.random.default_rng(5), np.zeros((3, 3))
    shapes = {"x_NI": (4, 5), "W0_IO": (5, 6), "A_IR": (5, 3), "C_SO": (3, 6)}
    point = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    point |= {"b_O": None, "keep_NO": None, "B_RS": zero, "alpha": np.array(1.0)}
    wrt = KERNELS["tlora_linear"].wrt
    names = [f"tlora_dB_{bug}" for bug in ("sign", "without_alpha", "alpha_twice", "transposed")]
    names += [f"tlora_dalpha_{bug}" for bug in ("sign", "with_alpha", "without_B")]
    names += ["tlora_dx_adapter_sign", "tlora_dx_without_alpha", "tlora_dx_B_untransposed"]
    names += ["tlora_dx_adapter_path_dropped", "tlora_dx_base_path_dropped"]
    return [name for name in names if check(*mutant(name).pair(), point, wrt=wrt, points=("given",)).ok]


def _04_points():
    def point(S, alpha):
        rng = np.random.default_rng(S)
        sizes = {"N": 3, "I": 4, "R": 2, "S": S, "O": 7}
        arrays = {n: rng.normal(size=[sizes[c] for c in n.split("_")[1]]) for n in ("x_NI", "W0_IO", "A_IR", "b_O")}
        arrays |= {n: rng.normal(size=[sizes[c] for c in n.split("_")[1]]) for n in ("B_RS", "C_SO")}
        return arrays | {"alpha": np.array(alpha), "keep_NO": 2.0 * rng.integers(0, 2, (3, 7))}

    return point(5, -0.4), point(1, 2.5)


def _04_cotangent(shape, rng):
    return rng.uniform(0.5, 2.0, shape)


def _05_below(dy_NO, u1_NR, C1_SD, alpha1, W2_DO, A2_DR, B2_RS, C2_SO, alpha2):
    return alpha1 * np.einsum("nr,no,do,sd->rs", u1_NR, dy_NO, W2_DO + alpha2 * A2_DR @ B2_RS @ C2_SO, C1_SD)


def _05_keep(trains):
    kept = ["x"] if "A" in trains else []
    kept += ["u"] if "M" in trains else []
    return kept + (["v"] if "C" in trains else [])


def _05_memory(N, I, O, R, dropout):
    counts = np.array([N * R + R * R, N * (I + R)])
    return counts + dropout * np.array([N * O, N * I])


def _05_lean(x_NI, A_IR, B_RS, C_SO, alpha):
    from torch.nn.functional import linear

    return linear(linear(x_NI @ A_IR, B_RS.T * alpha), C_SO.T)


def _06_trained(matrices, R):
    return len(matrices) + len(matrices) * R**2


def _06_ratio(matrices, R):
    I, O = np.transpose(matrices)
    return R * np.sum(I + O) / (np.size(I) * (R**2 + 1.0))


def _06_bytes(n, frozen, from_seed, itemsize):
    return [itemsize * (n + frozen * (not from_seed)), itemsize * n + itemsize * n]


def _06_rank_for(I, O, r):
    return max(R for R in range(1, min(I, O) + 1) if r * I + r * O >= R * R + 1)


def _07_gelu(dy_NF, x_NF):
    return dy_NF * (0.5 + 0.5 * erf(x_NF / math.sqrt(2)) + x_NF / math.sqrt(2 * math.pi) * np.exp(-(x_NF**2) / 2))


def _07_layer_norm(dy_ND, xhat_ND, rstd_N1, gamma_D):
    # through the Jacobian of a row
    D, d = xhat_ND.shape[-1], dy_ND * gamma_D
    J = np.eye(D) - 1 / D - xhat_ND[..., :, None] * xhat_ND[..., None, :] / D
    return rstd_N1 * np.einsum("...ij,...j->...i", J, d)


def _07_attention(dout_NTD, q_NHTK, k_NHTK, v_NHTK, p_NHTT):
    N, H, T, K = q_NHTK.shape
    dout = dout_NTD.reshape(N, T, H, K).transpose(0, 2, 1, 3)
    dp = np.einsum("nhtk,nhsk->nhts", dout, v_NHTK)
    ds = (p_NHTT * dp - p_NHTT * np.einsum("nhts,nhts->nht", p_NHTT, dp)[..., None]) * K**-0.5
    dq = np.einsum("nhts,nhsk->nthk", ds, k_NHTK)
    dk = np.einsum("nhts,nhtk->nshk", ds, q_NHTK)
    dv = np.einsum("nhts,nhtk->nshk", p_NHTT, dout)
    return {name: array.reshape(N, T, H * K) for name, array in (("v", dv), ("k", dk), ("q", dq))}


def _07_cross_entropy(dloss, p_NV, labels_N):
    dz = p_NV * (dloss / labels_N.size)
    for index, label in np.ndenumerate(labels_N):
        dz[(*index, label)] -= dloss / labels_N.size
    return dz


def _08_choose(validation_KL, test_KL):
    return [test[list(row).index(max(row))] for row, test in zip(validation_KL, test_KL, strict=True)]


def _08_interval(one_S, other_S, chosen_DS):
    d = [a - b for a, b in zip(one_S, other_S, strict=True)]
    means = [np.mean([d[s] for s in draw]) for draw in chosen_DS]
    return np.array([np.mean(d), *np.percentile(means, (2.5, 97.5))])


def _08_fan_in(I, O, R):
    return math.sqrt(I / O)


def _09_forward(x_NI, W0_IO, b_O, A_IR, B_RR, C_RO, alpha):
    import torch

    with torch.no_grad():
        W0, b, A, C = (1 * frozen for frozen in (W0_IO, b_O, A_IR, C_RO))
    return torch.addmm(b, x_NI, W0 + alpha * A @ B_RR @ C)


def _09_merged(weight_OI, A_IR, B_RR, C_RO, alpha):
    import torch

    dW_OI = torch.einsum("ir,rs,so->oi", A_IR.double(), alpha.double() * B_RR.double(), C_RO.double())
    return (weight_OI + dW_OI).to(weight_OI.dtype)


def _09_lora(A_IR, B_RR, C_RO, alpha):
    return [(A_IR @ B_RR).T, C_RO.T * alpha]


def _10_balanced(alpha, B_RR):
    size = math.sqrt(abs(alpha) * np.sqrt((B_RR**2).sum()))
    return [math.copysign(size, alpha), B_RR * abs(alpha) / size]


def _10_dalpha(alpha, B_RR, dB_RR):
    return np.vdot(B_RR / alpha, dB_RR)


def _10_change(alpha, B_RR, dalpha, dB_RR, lr):
    before = alpha**2 - np.linalg.norm(B_RR) ** 2
    return (alpha - lr * dalpha) ** 2 - np.linalg.norm(B_RR - lr * dB_RR) ** 2 - before


def _10_shrink(lr, decay, steps):
    alpha = B = 1.0
    for _ in range(steps):
        alpha, B = alpha - lr * decay * alpha, B - lr * decay * B
    return alpha * B


def _11_cosine(X_IO, Y_IO):
    x, y = X_IO.ravel(), Y_IO.ravel()
    return np.dot(x, y) / math.sqrt(np.dot(x, x) * np.dot(y, y))


def _11_unrelated(rho1, rho2):
    W0, D1, D2 = np.diag([1.0, rho1, rho2])
    return (W0 + D1) @ (W0 + D2) / np.linalg.norm(W0 + D1) / np.linalg.norm(W0 + D2)


def _11_read(seen, rho1, rho2):
    return (seen * math.hypot(1, rho1) * math.hypot(1, rho2) - 1) / rho1 / rho2


def _11_best(D_IO, A_IR, C_RO):
    M, *_ = np.linalg.lstsq(A_IR, D_IO, rcond=None)
    M, *_ = np.linalg.lstsq(C_RO.T, M.T, rcond=None)
    near = A_IR @ M.T @ C_RO
    return (D_IO * near).sum() / np.linalg.norm(D_IO) / np.linalg.norm(near)


def _14_concentration(dW_IO):
    gram = dW_IO.T @ dW_IO
    return np.trace(gram @ gram) / np.trace(gram) ** 2


def _14_factors(dW0_IO, R):
    _, V = np.linalg.eigh(dW0_IO.T @ dW0_IO)
    V_OR = V[:, ::-1][:, :R]
    images = dW0_IO @ V_OR
    U_IR = images / np.linalg.norm(images, axis=0)
    return math.sqrt(dW0_IO.shape[0] / R) / 3 * np.einsum("ir,or->io", U_IR, V_OR)


def _14_carried(lr, I, O, R, I2, O2, R2):
    moved = lr * R * math.sqrt(I) / math.sqrt(O)
    return moved / R2 / math.sqrt(I2) * math.sqrt(O2)


def _12_vera(dy_NO, u_NR, B_RO, lambda_d_R, lambda_b_O):
    dd, db = np.zeros(len(lambda_d_R)), np.zeros(len(lambda_b_O))
    for dy_O, u_R in zip(dy_NO, u_NR, strict=True):
        dd += u_R * (B_RO @ (lambda_b_O * dy_O))
        db += dy_O * (B_RO.T @ (lambda_d_R * u_R))
    return {"lambda_b": db, "lambda_d": dd}


def _12_dora(dy_NO, x_NI, W0_IO, A_IR, B_RO, magnitude_O, scale):
    V_IO, G_IO = W0_IO + scale * A_IR @ B_RO, x_NI.T @ dy_NO
    dV_IO, dm_O = np.zeros(V_IO.shape), np.zeros(magnitude_O.shape)
    for j, m in enumerate(magnitude_O):
        n = np.linalg.norm(V_IO[:, j])
        direction_I = V_IO[:, j] / n
        dm_O[j] = direction_I @ G_IO[:, j]
        # m / n times the projector onto what is orthogonal to the column
        dV_IO[:, j] = m / n * (np.eye(len(V_IO)) - np.outer(direction_I, direction_I)) @ G_IO[:, j]
    return {"magnitude": dm_O, "A": scale * dV_IO @ B_RO.T, "B": scale * A_IR.T @ dV_IO}


def _12_lorta(dF_MRHK, B_RK, heads_HR, layer_MR, matrix_MR):
    dB_RK, dheads_HR = 0, 0
    for dF_RHK, layer_R, matrix_R in zip(dF_MRHK, layer_MR, matrix_MR, strict=True):
        for h, head_R in enumerate(heads_HR):
            dB_RK = dB_RK + (layer_R * matrix_R * head_R)[:, None] * dF_RHK[:, h]
        dheads_HR = dheads_HR + (dF_RHK * B_RK[:, None]).sum(axis=-1).T * (layer_R * matrix_R)
    return [dB_RK, dheads_HR]


OTHER = {name[1:3] + " " + name[4:]: value for name, value in globals().copy().items() if name[:2] in ("_0", "_1")}
