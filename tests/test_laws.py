"""The laws of TLoRA and LoRA: what follows from the equations, held as properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref.by_hand.methods import lora, tlora

SEEDS = st.integers(0, 2**32 - 1)


def layer(seed, I=7, O=5, R=3, S=4, alpha=-1.7, keep=True):
    r = np.random.default_rng(seed)
    shapes = {"x_NI": (6, I), "W0_IO": (I, O), "b_O": (O,), "A_IR": (I, R), "B_RS": (R, S), "C_SO": (S, O)}
    args = {name: r.standard_normal(shape) for name, shape in shapes.items()}
    args["alpha"] = np.array(alpha)
    args["keep_NO"] = (r.random((6, O)) < 0.75) / 0.75 if keep else None
    return args, r.standard_normal((6, O))


def run(args, dy):
    y, cache = tlora.tlora_linear_fwd(**args)
    return y, tlora.tlora_linear_bwd(dy, cache)


@given(SEEDS, st.sampled_from([1.7, -0.6, 1.0, -1.0, 0.0]), st.booleans())
def test_B_dB_equals_alpha_dalpha_at_every_point(seed, alpha, keep):
    args, dy = layer(seed, alpha=alpha, keep=keep)
    _, grads = run(args, dy)
    np.testing.assert_allclose((args["B_RS"] * grads["B"]).sum(), alpha * grads["alpha"], rtol=1e-11, atol=1e-11)


@given(SEEDS, st.booleans())
def test_at_the_start_nothing_has_changed_and_dalpha_is_exactly_zero(seed, keep):
    args, dy = layer(seed, alpha=1.0, keep=keep)
    args["B_RS"] = np.zeros((3, 4))
    y, grads = run(args, dy)
    np.testing.assert_array_equal(y, args["x_NI"] @ args["W0_IO"] + args["b_O"])
    assert grads["alpha"] == 0
    np.testing.assert_array_equal(grads["x"], dy @ args["W0_IO"].T)
    assert grads["B"].all()


@given(SEEDS, st.floats(0.1, 10))
def test_alpha_and_B_share_one_scale(seed, c):
    """(c alpha, B / c) is the same function; dB grows by c, dalpha shrinks by it."""
    args, dy = layer(seed)
    y, grads = run(args, dy)
    scaled = {**args, "alpha": c * args["alpha"], "B_RS": args["B_RS"] / c}
    y_scaled, grads_scaled = run(scaled, dy)
    np.testing.assert_allclose(y_scaled, y, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(grads_scaled["B"], c * grads["B"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(grads_scaled["alpha"], grads["alpha"] / c, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(grads_scaled["x"], grads["x"], rtol=1e-10, atol=1e-10)


def test_alpha_zero_with_B_zero_is_a_dead_point():
    args, dy = layer(0, alpha=0.0)
    args["B_RS"] = np.zeros((3, 4))
    _, grads = run(args, dy)
    assert grads["alpha"] == 0
    assert not grads["B"].any()


def drift(eta, steps):
    """The change of alpha^2 - ||B||_F^2 under plain gradient descent on a squared loss, over a fixed time."""
    args, target = layer(1, alpha=1.0, keep=False)
    args["B_RS"] = 0.1 * args["B_RS"]
    start = args["alpha"] ** 2 - (args["B_RS"] ** 2).sum()
    for _ in range(steps):
        y, cache = tlora.tlora_linear_fwd(**args)
        grads = tlora.tlora_linear_bwd((y - target) / 30, cache)
        args["B_RS"] = args["B_RS"] - eta * grads["B"]
        args["alpha"] = args["alpha"] - eta * grads["alpha"]
    return abs(args["alpha"] ** 2 - (args["B_RS"] ** 2).sum() - start)


def test_gradient_flow_conserves_alpha_squared_minus_B_squared():
    """One step changes it by O(eta^2), so over a fixed time half the step leaves half the drift."""
    coarse, fine, finest = drift(1e-2, 20), drift(5e-3, 40), drift(2.5e-3, 80)
    assert coarse > 1e-6
    assert 1.7 < coarse / fine < 2.3
    assert 1.8 < fine / finest < 2.2
    # a single step, exactly: eta^2 (dalpha^2 - ||dB||^2), the first-order terms cancel
    args, dy = layer(1, keep=False)
    _, grads = run(args, dy)
    eta = 1e-3
    before = args["alpha"] ** 2 - (args["B_RS"] ** 2).sum()
    after = (args["alpha"] - eta * grads["alpha"]) ** 2 - ((args["B_RS"] - eta * grads["B"]) ** 2).sum()
    expected = eta**2 * (grads["alpha"] ** 2 - (grads["B"] ** 2).sum())
    np.testing.assert_allclose(after - before, expected, rtol=1e-6)


@given(SEEDS)
def test_the_update_has_rank_r_and_lives_between_A_and_C(seed):
    args, _ = layer(seed, I=9, O=8, R=2, S=3)
    names = ("W0_IO", "A_IR", "B_RS", "C_SO", "alpha")
    dW = tlora.tlora_delta_w(*(args[n] for n in names))
    A, C = args["A_IR"], args["C_SO"]
    assert np.linalg.matrix_rank(dW, tol=1e-9 * np.linalg.norm(dW)) == 2
    columns = A @ np.linalg.lstsq(A, dW, rcond=None)[0]
    rows = (C.T @ np.linalg.lstsq(C.T, dW.T, rcond=None)[0]).T
    np.testing.assert_allclose(columns, dW, rtol=0, atol=1e-10 * np.abs(dW).max())
    np.testing.assert_allclose(rows, dW, rtol=0, atol=1e-10 * np.abs(dW).max())


def test_the_subspace_captures_r_squared_over_dd_of_an_isotropic_target():
    """Mean over random targets of the share of ||dW*||^2 that alpha A B C can reach: r^2 / (I O)."""
    r = np.random.default_rng(0)
    I, O, R = 12, 10, 4
    shares = []
    for _ in range(400):
        target = r.standard_normal((I, O))
        left = np.linalg.qr(r.standard_normal((I, R)))[0]
        right = np.linalg.qr(r.standard_normal((O, R)))[0]
        shares.append(((left.T @ target @ right) ** 2).sum() / (target**2).sum())
    assert abs(np.mean(shares) - R * R / (I * O)) < 4 * np.std(shares) / np.sqrt(len(shares))


@given(SEEDS)
def test_evaluation_is_a_plain_linear_layer_with_W0_plus_dW(seed):
    args, dy = layer(seed, keep=False)
    y, grads = run(args, dy)
    dW = tlora.tlora_delta_w(*(args[n] for n in ("W0_IO", "A_IR", "B_RS", "C_SO", "alpha")))
    W = args["W0_IO"] + dW
    np.testing.assert_allclose(y, args["x_NI"] @ W + args["b_O"], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(grads["x"], dy @ W.T, rtol=1e-11, atol=1e-11)


@given(SEEDS)
def test_a_tlora_layer_is_a_lora_layer(seed):
    """Down factor A, up factor alpha B C, scale 1: equal in exact arithmetic, here to rounding."""
    args, _ = layer(seed, keep=False)
    y, _ = tlora.tlora_linear_fwd(**args)
    up = args["alpha"] * args["B_RS"] @ args["C_SO"]
    same, _ = lora.lora_linear_fwd(args["x_NI"], args["W0_IO"], args["b_O"], args["A_IR"], up, 1.0)
    np.testing.assert_allclose(y, same, rtol=1e-11, atol=1e-11)


def test_the_cache_keeps_u_and_the_frozen_arrays_and_nothing_large_but_the_mask():
    args, _ = layer(0, I=40, O=50)
    _, cache = tlora.tlora_linear_fwd(**args)
    kept = [a for a in cache if isinstance(a, np.ndarray)]
    given_arrays = [args[n] for n in ("W0_IO", "A_IR", "B_RS", "C_SO", "alpha", "keep_NO")]
    new = [a for a in kept if not any(a is g for g in given_arrays)]
    assert [a.shape for a in new] == [(6, 3)]
    np.testing.assert_array_equal(new[0], args["x_NI"] @ args["A_IR"])
    assert not any(a is args["x_NI"] for a in kept)


def test_a_transposed_B_is_a_shape_error():
    args, _ = layer(0)
    with pytest.raises(ValueError, match=r"B_RS has shape \(4, 3\), so R = 4, but A_IR has shape \(7, 3\), so R = 3"):
        tlora.tlora_linear_fwd(**{**args, "B_RS": args["B_RS"].T})


# --- LoRA ---------------------------------------------------------------------------------------------


@given(SEEDS)
def test_lora_is_invariant_to_a_change_of_basis_and_balances_its_factors(seed):
    """(A M, M^-1 B) is the same update;  A^T dA = dB B^T."""
    r = np.random.default_rng(seed)
    x, W0, A, B, dy = (r.standard_normal(s) for s in ((6, 7), (7, 5), (7, 3), (3, 5), (6, 5)))
    M = np.eye(3) + 0.2 * r.standard_normal((3, 3))
    y, cache = lora.lora_linear_fwd(x, W0, None, A, B, 0.5)
    same, _ = lora.lora_linear_fwd(x, W0, None, A @ M, np.linalg.solve(M, B), 0.5)
    np.testing.assert_allclose(same, y, rtol=1e-9, atol=1e-9)
    grads = lora.lora_linear_bwd(dy, cache)
    np.testing.assert_allclose(A.T @ grads["A"], grads["B"] @ B.T, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(x @ (W0 + lora.lora_delta_w(W0, A, B, 0.5)), y, rtol=1e-10, atol=1e-10)


def test_lora_at_the_start_trains_B_only():
    r = np.random.default_rng(0)
    x, W0, A, dy = (r.standard_normal(s) for s in ((6, 7), (7, 5), (7, 3), (6, 5)))
    y, cache = lora.lora_linear_fwd(x, W0, None, A, np.zeros((3, 5)), 1.0)
    grads = lora.lora_linear_bwd(dy, cache)
    np.testing.assert_array_equal(y, x @ W0)
    assert not grads["A"].any()
    assert grads["B"].all()
