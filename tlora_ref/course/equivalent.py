"""Edits of worked solutions that change nothing an exercise asks for, by the reason.

An edit is named as mutation.py names it: line and column in the worked solution, what stood there, what does now.
Checked by  tests/test_graders.py: each of them is made, and passes.
"""

from __future__ import annotations

EQUIVALENT: dict[str, dict[str, tuple[str, ...]]] = {
    "00 rank": {
        "np.int64 is a whole number too": (
            "line 6:15: int(np.argmax(held_K >= share - 1e-09))  ->  np.argmax(held_K >= share - 1e-09)",
        ),
        "a matrix and its transpose have the same singular values": ("line 3:30: dW_IO  ->  dW_IO.T",),
        "with a rounding allowed for, a share that is just reached is above the bound": (
            "line 6:29: held_K >= share - 1e-09  ->  held_K > share - 1e-09",
        ),
        "the exercise asks for some 10^-9, and no share lies between": ("line 6:47: 1e-09  ->  2e-09",),
    },
    "00 captured": {
        "the squared norm of a matrix is that of its transpose": ("line 5:57: dW_IO  ->  dW_IO.T",),
    },
    "01 start": {
        "another stream, and as good a one": ("line 3:32: seed  ->  seed + 1",),
    },
    "03 central": {
        "every entry is written over": ("line 3:11: np.zeros(x.shape)  ->  np.ones(x.shape)",),
        "only the shape of it is read": (
            "line 3:20: x  ->  x + 1",
            "line 3:20: x  ->  x - 1",
            "line 4:28: x  ->  x + 1",
            "line 4:28: x  ->  x - 1",
            "line 5:21: x  ->  x + 1",
            "line 5:21: x  ->  x - 1",
        ),
    },
    "03 complex_step": {
        "every entry is written over": ("line 3:14: np.zeros(x.shape)  ->  np.ones(x.shape)",),
        "the step is free, as long as its square is lost": (
            "line 3:33: 1e-30  ->  2e-30",
            "line 3:33: 1e-30  ->  -1e-30",
        ),
        "only the shape of it is read": (
            "line 4:28: x  ->  x + 1",
            "line 4:28: x  ->  x - 1",
            "line 3:23: x  ->  x + 1",
            "line 3:23: x  ->  x - 1",
            "line 5:21: x  ->  x + 1",
            "line 5:21: x  ->  x - 1",
        ),
    },
    "03 check": {
        "a step near the best one is as good": ("line 3:42: 1e-05  ->  2e-05",),
        "the comparison is symmetric": (
            "line 16:22: ((dout * (up - down .. name] * v).sum())  ->  ((grads[name] * v). .. .sum() / (2 * h))",
            "line 18:19: slope - hand  ->  hand - slope",
        ),
        "another stream, and as good a one": ("line 3:35: seed  ->  seed + 1",),
        "a floor of another size, still made of the rounding of f": (
            "line 8:12: 1e-15  ->  2e-15",
            "line 8:20: np.abs(dout * out).sum()  ->  np.abs(dout * out).mean()",
            "line 8:20: np.abs(dout * out).sum()  ->  np.abs(dout * out).max()",
            "line 8:27: dout * out  ->  out",
        ),
        "nobody lies exactly on the bound": (
            "line 18:15: abs(slope - hand) < .. bs(hand)) + noise  ->  abs(slope - hand) < .. bs(hand)) + noise",
        ),
        "the step is so good that the floor alone suffices where these gradients are asked for": (
            "line 18:36: 1e-06 * max(abs(slo .. bs(hand)) + noise  ->  noise",
            "line 18:36: 1e-06  ->  0.0",
        ),
        "a tolerance of the same order": ("line 18:36: 1e-06  ->  2e-06",),
        "the two agree to the tolerance wherever it matters": (
            "line 18:43: max(abs(slope), abs(hand))  ->  min(abs(slope), abs(hand))",
            "line 18:43: max(abs(slope), abs(hand))  ->  abs(slope)",
            "line 18:47: abs(slope)  ->  slope",
            "line 18:59: abs(hand)  ->  hand",
        ),
    },
    "04 points": {
        "other random numbers, as generic": (
            "line 3:10: np.random.default_rng(0)  ->  np.random.default_rng()",
            "line 3:10: np.random.default_rng(0)  ->  np.random",
            "line 3:32: 0  ->  1",
        ),
        "the order of the points is free": ("line 5:13: (3, 1)  ->  (1, 3)",),
        "another point with sizes, a mask and an alpha that are special in nothing": (
            "line 5:14: 3  ->  4",
            "line 5:14: 3  ->  2",
            "line 6:21: (5, 6, 2, 4)  ->  (6, 2, 4, 5)",
            "line 10:18: (rng.random((N, O)) >= 0.25) / 0.75  ->  (rng.random((N, O)) >= 0.25) * 0.75",
            "line 6:21: 5  ->  6",
            "line 6:21: 5  ->  4",
            "line 6:24: 6  ->  7",
            "line 6:24: 6  ->  5",
            "line 6:27: 2  ->  3",
            "line 6:30: 4  ->  5",
            "line 6:30: 4  ->  3",
            "line 10:19: rng.random((N, O)) >= 0.25  ->  rng.random((N, O)) > 0.25",
            "line 10:19: rng.random((N, O)) >= 0.25  ->  rng.random((N, O)) <= 0.25",
            "line 10:49: 0.75  ->  1.5",
            "line 10:49: 0.75  ->  0.76",
            "line 10:49: 0.75  ->  -0.75",
            "line 10:41: 0.25  ->  0.5",
            "line 10:41: 0.25  ->  0.26",
            "line 11:50: 1.7  ->  3.4",
            "line 11:50: 1.7  ->  1.71",
            "line 11:50: 1.7  ->  -1.7",
        ),
    },
    "04 cotangent": {
        "normal numbers of another sign, scale or mean are as good": (
            "line 3:4: return rng.standard_normal(shape)  ->  return -rng.standard_normal(shape)",
            "line 3:4: return rng.standard_normal(shape)  ->  return rng.standard_normal(shape) * 2",
            "line 3:4: return rng.standard_normal(shape)  ->  return rng.standard .. hape) * 1.0000001",
            "line 3:4: return rng.standard_normal(shape)  ->  return rng.standard_normal(shape) + 1",
        ),
    },
    "07 attention": {
        "with four axes the last one is 3 and -1, the one before 2 and -2": (
            "line 6:34: -2  ->  2",
            "line 7:46: -2  ->  2",
            "line 6:35: 2  ->  -2",
            "line 7:47: 2  ->  -2",
            "line 12:62: -2  ->  2",
            "line 12:63: 2  ->  -2",
        ),
        "the rows of ds sum to zero, so a constant added to k or v changes nothing": (
            "line 12:33: k_NHTK  ->  k_NHTK + 1",
            "line 12:33: k_NHTK  ->  k_NHTK - 1",
            "line 7:26: v_NHTK  ->  v_NHTK + 1",
            "line 7:26: v_NHTK  ->  v_NHTK - 1",
        ),
        "only the shape of it is read": (
            "line 3:11: q_NHTK  ->  k_NHTK",
            "line 3:11: q_NHTK  ->  v_NHTK",
            "line 3:11: q_NHTK  ->  p_NHTT",
            "line 3:11: q_NHTK  ->  q_NHTK + 1",
            "line 3:11: q_NHTK  ->  q_NHTK - 1",
            "line 3:29: q_NHTK  ->  k_NHTK",
            "line 3:29: q_NHTK  ->  v_NHTK",
            "line 3:29: q_NHTK  ->  q_NHTK + 1",
            "line 3:29: q_NHTK  ->  q_NHTK - 1",
        ),
    },
    "07 cross_entropy": {
        "only the size of it is read": (
            "line 5:40: labels_N  ->  labels_N + 1",
            "line 5:40: labels_N  ->  labels_N - 1",
            "line 4:23: p_NV  ->  p_NV + 1",
            "line 4:23: p_NV  ->  p_NV - 1",
        ),
    },
    "08 choose": {
        "the largest entry stays where it is": (
            "line 3:15: validation_KL  ->  validation_KL + 1",
            "line 3:15: validation_KL  ->  validation_KL - 1",
        ),
        "a table has two axes, 1 is the last": ("line 3:41: 1  ->  -1",),
        "only its length is read, and both tables have the same": (
            "line 4:33: test_KL  ->  validation_KL",
            "line 4:33: test_KL  ->  test_KL + 1",
            "line 4:33: test_KL  ->  test_KL - 1",
        ),
    },
    "08 interval": {
        "a table has two axes, 1 is the last": ("line 4:48: 1  ->  -1",),
    },
    "08 fan_in": {
        "a factor of one": (
            "line 3:15: 1 / np.sqrt(3 * R) * 1  ->  1 / np.sqrt(3 * R) / 1",
            "line 3:15: 1 / np.sqrt(3 * R) * 1  ->  1 / np.sqrt(3 * R)",
            "line 4:13: 1 / np.sqrt(3 * I) * 1  ->  1 / np.sqrt(3 * I) / 1",
            "line 4:13: 1 / np.sqrt(3 * I) * 1  ->  1 / np.sqrt(3 * I)",
        ),
    },
    "09 merged": {
        "less than the rounding of a weight": (
            "line 5:4: return (weight_OI.f .. (weight_OI.dtype)  ->  return (weight_OI.f .. type) * 1.0000001",
        ),
        "only the dtype of it is read": (
            "line 5:44: weight_OI  ->  weight_OI + 1",
            "line 5:44: weight_OI  ->  weight_OI - 1",
            "line 5:44: weight_OI  ->  weight_OI.T",
        ),
        "one rounding of float64 in place of float32: the nearest weight either way": (
            "line 5:12: weight_OI.float()  ->  weight_OI.double()",
        ),
    },
    "10 balanced": {
        "the norm of a matrix is that of its transpose": ("line 3:31: B_RR  ->  B_RR.T",),
    },
    "10 change": {
        "the norm of a matrix is that of its transpose": ("line 4:33: dB_RR  ->  dB_RR.T",),
    },
    "10 shrink": {
        "an even power knows no sign": ("line 4:12: 1 - lr * decay  ->  lr * decay - 1",),
    },
    "11 cosine": {
        "the norm of a matrix is that of its transpose": (
            "line 3:49: X_IO  ->  X_IO.T",
            "line 3:72: Y_IO  ->  Y_IO.T",
        ),
    },
    "11 best": {
        "the norm of a matrix is that of its transpose": ("line 5:65: D_IO  ->  D_IO.T",),
    },
    "14 concentration": {
        "the singular values of a matrix are those of its transpose": ("line 3:30: dW_IO  ->  dW_IO.T",),
    },
    "14 factors": {
        "only its length is read": (
            "line 4:23: dW0_IO  ->  dW0_IO + 1",
            "line 4:23: dW0_IO  ->  dW0_IO - 1",
        ),
    },
}
