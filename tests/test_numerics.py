"""Numbers far from one: offsets of 1,000, scales of 1e-3 and 1e3, logits of 1e4, half precision. Each bound is derived
from the unit roundoff u and holds for any order of summation; gamma(n) = n u / (1 - n u) bounds a sum or product of n
roundings (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1)."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from tlora_ref import EncoderConfig, InputError, ShapeError, init_encoder
from tlora_ref.by_hand import encoder_fwd, loss_and_grads, ops
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.by_hand.methods import bottleneck, edora, lora_xs, mtlora
from tlora_ref.gradcheck import check
from tlora_ref.verification.scenarios import scenarios

U = 2.0**-24
"""The unit roundoff of float32."""


def gamma(n: float, u: float = U) -> float:
    return n * u / (1 - n * u)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# --- layer_norm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 1e-3, 1e3, -1e3])
def test_layer_norm_in_float32_at_offsets_and_scales(offset, scale):
    """The mean is off by shift <= gamma(D) max|x|, and so is every x - mean. That moves the variance, the mean square
    of x - mean, by shift^2 only: what a product of x - mean with x would move by shift times the offset."""
    rows, D, eps = 20, 64, 1e-5
    x = (offset + scale * normal(rows, D)).astype(np.float32)
    g, b, dy = (a.astype(np.float32) for a in normal(3, rows, D, seed=1))
    g, b = g[0], b[0]
    y, cache = ops.layer_norm_fwd(x, g, b, eps)
    dx = ops.layer_norm_bwd(dy, cache)["x"]
    exact, (xhat, rstd, _) = ops.layer_norm_fwd(*(a.astype(np.float64) for a in (x, g, b)), eps)
    right = ops.layer_norm_bwd(dy.astype(np.float64), (xhat, rstd, g.astype(np.float64)))["x"]
    assert y.dtype == dx.dtype == np.float32
    largest = np.abs(x).max(axis=-1, keepdims=True).astype(np.float64)
    shift = gamma(D + 2) * largest * rstd  # of x - mean, in units of the standard deviation; the subtraction rounds too
    relative = (shift**2 + gamma(D + 8)) * 1.1  # of rstd: half of the variance's, and a few roundings of its own
    of_xhat = shift + np.abs(xhat) * (relative + gamma(4))
    bound = np.abs(g) * of_xhat + gamma(4) * (np.abs(g * xhat) + np.abs(b))
    assert (np.abs(y - exact) <= bound).all()
    # dx = rstd (dxhat - mean(dxhat) - xhat along), along = mean(dxhat xhat)
    dxhat = g * dy.astype(np.float64)
    size = np.abs(dxhat).mean(axis=-1, keepdims=True)
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    of_along = (np.abs(dxhat) * of_xhat).mean(axis=-1, keepdims=True)
    of_along = of_along + gamma(D + 3) * (np.abs(dxhat) * (np.abs(xhat) + of_xhat)).mean(axis=-1, keepdims=True)
    inner = of_xhat * np.abs(along) + (np.abs(xhat) + of_xhat) * of_along
    inner = inner + gamma(D + 4) * (np.abs(dxhat) + size + np.abs(xhat * along))
    centred = np.abs(dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along)
    bound = rstd * (inner * (1 + relative) + (relative + gamma(2)) * centred)
    assert (np.abs(dx - right) <= bound).all()


def test_layer_norm_does_not_see_an_offset_that_costs_no_digits():
    """64 + k / 8 and k / 8 are exact, and so are the sums: the same bits with the offset and without."""
    x = np.random.default_rng(0).integers(-8, 9, (5, 16)) / 8.0
    g, b, dy = normal(16), normal(16, seed=1), normal(5, 16, seed=2)
    y, cache = ops.layer_norm_fwd(x, g, b)
    moved, moved_cache = ops.layer_norm_fwd(x + 64, g, b)
    np.testing.assert_allclose(moved, y, rtol=1e-13, atol=1e-13)
    one, other = ops.layer_norm_bwd(dy, cache), ops.layer_norm_bwd(dy, moved_cache)
    for key in one:
        np.testing.assert_allclose(other[key], one[key], rtol=1e-13, atol=1e-12)


# --- softmax, cross-entropy -------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("masked", [False, True])
def test_softmax_at_logits_of_1e4(offset, masked):
    """x - max is exact where both have the same order of magnitude (Sterbenz); exp and the sum of V terms round, a
    vectorised exp by 4 units at most."""
    V = 11
    x = (offset + normal(7, V)).astype(np.float32)
    mask = np.random.default_rng(1).random((7, V)) < 0.6 if masked else None
    p, cache = ops.softmax_fwd(x, mask)
    exact, _ = ops.softmax_fwd(x.astype(np.float64), mask)
    exponent = np.abs(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    rtol = gamma(2 * (4 + 2 * exponent.max()) + V)
    np.testing.assert_allclose(p, exact, rtol=rtol, atol=0)
    dp = normal(7, V, seed=3)
    right = ops.softmax_bwd(dp, (exact,))["x"]
    bound = 4 * (rtol + gamma(V + 4)) * exact * (np.abs(dp) + (np.abs(dp) * exact).sum(-1, keepdims=True))
    assert (np.abs(ops.softmax_bwd(dp.astype(np.float32), cache)["x"] - right) <= bound).all()


def test_softmax_of_huge_logits_is_a_choice():
    x = np.array([[1e4, -1e4, 9e3], [-1e4, -1e4, -2e4]], dtype=np.float32)
    np.testing.assert_array_equal(ops.softmax_fwd(x)[0], [[1, 0, 0], [0.5, 0.5, 0]])
    mask = np.array([[False, True, True], [True, False, True]])
    np.testing.assert_array_equal(ops.softmax_fwd(x, mask)[0], [[0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_at_logits_of_1e4(dtype):
    """loss = max - z[label] where one logit is far above the others: three roundings of 2e4 at most."""
    u = np.finfo(dtype).eps / 2
    logits = np.array([[1e4, -1e4, 0], [0, 1e4, -5e3]], dtype=dtype)
    loss, cache = ops.cross_entropy_fwd(logits, np.array([1, 0]))
    assert loss.dtype == dtype
    np.testing.assert_allclose(float(loss), (2e4 + 1e4) / 2, rtol=4 * u)
    np.testing.assert_array_equal(ops.cross_entropy_bwd(1.0, cache)["logits"], [[0.5, -0.5, 0], [-0.5, 0.5, 0]])
    loss, cache = ops.cross_entropy_fwd(logits, np.array([0, 1]))
    assert loss == 0
    assert not ops.cross_entropy_bwd(1.0, cache)["logits"].any()


def test_attention_at_scores_of_1e4_attends_to_the_largest():
    q = np.full((1, 2, 4), 100.0, dtype=np.float32)
    k = np.array([[[100.0] * 4, [-100.0] * 4]], dtype=np.float32)
    v = normal(1, 2, 4).astype(np.float32)
    out, cache = ops.attention_fwd(q, k, v, 1)
    np.testing.assert_array_equal(out, np.broadcast_to(v[:, :1], out.shape))
    grads = ops.attention_bwd(np.ones_like(out), cache)
    np.testing.assert_array_equal(grads["v"][0], [[2] * 4, [0] * 4])
    assert not grads["q"].any()
    assert not grads["k"].any()


# --- half precision ---------------------------------------------------------------------------------

HALF = 2.0**-11
"""The unit roundoff of float16; its largest number is 65,504, its smallest normal one 6.1e-5."""


@pytest.mark.parametrize("size", [1e-2, 1.0, 30.0])
def test_linear_and_relu_in_float16(size):
    x, W = ((size * normal(5, 8)).astype(np.float16), normal(8, 3, seed=1).astype(np.float16))
    y, cache = ops.linear_fwd(x, W, None)
    grads = ops.linear_bwd(np.ones_like(y), cache)
    wide = np.abs(x.astype(float)) @ np.abs(W.astype(float))
    assert (np.abs(y - x.astype(float) @ W.astype(float)) <= gamma(8, HALF) * wide + 8 * 2.0**-25).all()
    exact = x.astype(float).sum(axis=0)[:, None]
    spread = np.abs(x.astype(float)).sum(axis=0)[:, None]
    assert (np.abs(grads["W"] - exact) <= gamma(5, HALF) * spread + 5 * 2.0**-25).all()
    r, cache = bottleneck.relu_fwd(x)
    np.testing.assert_array_equal(r, np.maximum(x, 0))
    for array in (y, r, grads["W"], grads["x"], bottleneck.relu_bwd(x, cache)["x"]):
        assert array.dtype == np.float16


@pytest.mark.parametrize("offset", [0.0, 6e4, -6e4])
def test_softmax_in_float16_up_to_its_largest_numbers(offset):
    """At 6e4 the numbers of float16 are 32 apart; their differences are exact, and so is the choice."""
    x = (offset + np.array([[0, 32, 64], [64, 64, 0]])).astype(np.float16)
    p, cache = ops.softmax_fwd(x)
    exact, _ = ops.softmax_fwd(x.astype(float))
    assert p.dtype == np.float16
    np.testing.assert_allclose(p, exact, rtol=0, atol=4 * HALF)
    assert np.isfinite(ops.softmax_bwd(np.ones_like(p), cache)["x"]).all()


@pytest.mark.parametrize("op", KERNELS.values(), ids=list(KERNELS))
def test_float16_stays_float16(op):
    case = dict(scenarios(op))["different sizes"]
    args = {k: v.astype(np.float16) if getattr(v, "dtype", None) == np.float64 else v for k, v in case.args.items()}
    out, cache = op.fwd(**args)
    grads = op.bwd(case.cotangent().astype(np.float16), cache)
    for array in (out, *grads.values()):
        assert array.dtype == np.float16
        assert np.isfinite(array).all()


def test_gelu_in_float16_over_its_whole_range():
    """One rounding of the result to float16, and two of Phi and x Phi; float32's own are far below."""
    x = np.array([-65504, -300, -3, -1e-3, 0, 1e-3, 3, 300, 65504], dtype=np.float16)
    y, cache = ops.gelu_fwd(x)
    exact, _ = ops.gelu_fwd(x.astype(float))
    assert (np.abs(y - exact) <= gamma(3, HALF) * np.abs(exact) + 2.0**-24).all()
    np.testing.assert_allclose(ops.gelu_bwd(np.ones_like(x), cache)["x"][[0, 1, 4, 7, 8]], [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("size", [1e-2, 1.0, 20.0])
def test_layer_norm_in_float16_where_its_squares_fit(size):
    """The squares of a row add up to less than 65,504. The bound is that of float32 above, with float16's roundoff."""
    D = 16
    x, g, b = ((size * normal(4, D)).astype(np.float16), np.ones(D, np.float16), np.zeros(D, np.float16))
    y, _ = ops.layer_norm_fwd(x, g, b)
    exact, (xhat, rstd, _) = ops.layer_norm_fwd(x.astype(float), g.astype(float), b.astype(float))
    shift = (gamma(D + 2, HALF) * np.abs(x).max(axis=-1, keepdims=True) + 2.0**-24) * rstd
    lost = (D * 2.0**-24 + 2.0**-25) * rstd**2  # of squares and of eps, which are subnormal numbers
    of_xhat = shift + np.abs(xhat) * ((shift**2 + gamma(D + 8, HALF) + lost) * 1.1 + gamma(4, HALF))
    assert (np.abs(y - exact) <= of_xhat + gamma(4, HALF) * np.abs(xhat)).all()


# --- corners that a random point does not meet ------------------------------------------------------


def test_relus_gradient_at_zero_is_zero():
    x = np.array([0.0, -0.0, 1e-300, -1e-300])
    y, cache = bottleneck.relu_fwd(x)
    np.testing.assert_array_equal(y, [0, 0, 1e-300, 0])
    np.testing.assert_array_equal(bottleneck.relu_bwd(np.full(4, 3.0), cache)["x"], [0, 0, 3, 0])


def test_relu_bottlenecks_gradient_at_a_dead_unit_is_zero():
    """A unit whose input is exactly 0: the start of an adapter with ``down`` and ``down_b`` of zeros."""
    z, up = normal(3, 4), normal(2, 4, seed=1)
    _, cache = bottleneck.bottleneck_fwd(z, np.zeros((4, 2)), np.zeros(2), up, np.zeros(4), act="relu")
    grads = bottleneck.bottleneck_bwd(normal(3, 4, seed=2), cache)
    for key in ("z", "down", "down_b", "up"):
        assert not grads[key].any(), key


@pytest.mark.parametrize("heads", [0, -1, -2])
def test_heads_are_at_least_one(heads):
    q, k, v = normal(3, 2, 5, 6)
    with pytest.raises(ShapeError, match=rf"attention: {heads} heads do not divide q_NTD's last axis, D = 6"):
        ops.attention_fwd(q, k, v, heads)
    with pytest.raises(InputError, match=rf"heads is {heads}, expected a whole number, at least 1"):
        EncoderConfig(width=6, heads=heads, features=3)


def test_continuous_tokens_with_default_token_types():
    """Token types are (N, T) also where the tokens themselves have a third axis."""
    config = EncoderConfig(width=6, layers=1, heads=2, hidden=5, time=4, classes=3, features=3, types=2)
    model = init_encoder(config, 0, np.float64)
    x, labels = normal(2, 4, 3), np.array([0, 2])
    zeros = np.zeros((2, 4), dtype=int)
    np.testing.assert_array_equal(encoder_fwd(model, x)[0], encoder_fwd(model, x, types_NT=zeros)[0])
    one, other = (loss_and_grads(model, x, labels, types_NT=types)[1] for types in (None, zeros))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert one["type.W"][0].any()
    assert not one["type.W"][1].any()


def test_every_name_without_a_gradient_is_named_in_order():
    with pytest.raises(InputError, match=r"^no gradient with respect to A1, A2, A3, A4, A5, A6; there are x, W$"):
        ops.wanted(["A4", "x", "A2", "A6", "A1", "A5", "A3"], "x", "W")


@pytest.mark.parametrize(
    ("call", "label"),
    [
        (lambda: ops.embedding_fwd(np.array([4]), np.ones((4, 2))), "embedding: ids_N has values"),
        (lambda: ops.cross_entropy_fwd(np.ones((2, 3)), np.array([0, 3])), "cross_entropy: labels_N has values"),
        (lambda: ops.softmax_fwd(np.ones((2, 3)), np.ones((2, 3))), "softmax: mask_NV has dtype"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named_with_its_operation(call, label):
    with pytest.raises(InputError, match=f"^{label}"):
        call()


def test_a_bottleneck_is_houlsbys_unless_told_otherwise():
    z, down, up = normal(3, 4), normal(4, 2), normal(2, 4, seed=1)
    plain, _ = bottleneck.bottleneck_fwd(z, down, np.zeros(2), up, np.zeros(4))
    np.testing.assert_array_equal(plain, ops.gelu_fwd(z @ down)[0] @ up)


# --- what a cache keeps -----------------------------------------------------------------------------


def kept(cache, *given):
    """The shapes of the arrays of a cache that are none of the given ones."""
    found = []
    for item in cache:
        if isinstance(item, tuple):
            found += kept(item, *given)
        elif isinstance(item, np.ndarray) and not any(item is a for a in given):
            found.append(item.shape)
    return found


N, I, O, R, S = 7, 6, 5, 3, 2


@pytest.mark.parametrize("trains", [t for n in range(4) for t in itertools.combinations("AMC", n)], ids="".join)
@pytest.mark.parametrize("dropout", [False, True])
def test_the_three_factor_layer_keeps_what_its_trained_factors_need(trains, dropout):
    """x for A, u = x A for M, v = u M for C, and nothing else."""
    x, W0, A, M, C = normal(N, I), normal(I, O), normal(I, R), normal(R, S), normal(S, O)
    keep = np.full((N, I), 2.0) if dropout else None
    _, cache = lora_xs.tri_linear_fwd(x, W0, None, A, M, C, 0.5, keep, trains=trains)
    found = kept(cache, W0, A, M, C, keep)
    assert found == [shape for factor, shape in (("A", (N, I)), ("M", (N, R)), ("C", (N, S))) if factor in trains]
    assert any(item is x for item in cache) == ("A" in trains and not dropout)


def test_edora_keeps_no_input():
    """u for M, y0 for the magnitudes; neither x nor v, since A and C are frozen."""
    x, W0, A, M, C = normal(N, I), normal(I, O), normal(I, R), normal(R, S), normal(S, O)
    m, n = 1 + np.ones(O), np.ones(O)
    _, cache = edora.edora_linear_fwd(x, W0, normal(O), A, M, C, m, 0.5, n)
    assert kept(cache, W0, A, M, C, m, n) == [(N, R), (N, O)]


# --- MTLoRA's core, alone ---------------------------------------------------------------------------

CORES = {
    "shim": lambda C: C,
    "icfm": lambda C: C @ C.T,
    "ctcm": lambda C, D: D @ C,
    "dtsm": lambda C, D: C + D,
}


@pytest.mark.parametrize("form", CORES)
def test_mtloras_core_and_its_gradients(form):
    inputs = {"C_RR": normal(4, 4), **({"D_RR": normal(4, 4, seed=1)} if form in mtlora.WITH_D else {})}
    M, cache = mtlora.mtlora_core_fwd(**inputs, form=form)
    np.testing.assert_allclose(M, CORES[form](*inputs.values()), rtol=1e-14, atol=1e-14)
    wrt = ("C", "D")[: len(inputs)]
    report = check(partial(mtlora.mtlora_core_fwd, form=form), mtlora.mtlora_core_bwd, inputs, wrt)
    assert report.ok, report.table()
    dM = normal(4, 4, seed=2)
    grads = mtlora.mtlora_core_bwd(dM, cache)
    assert set(grads) == set(wrt)
    for one in (M, *grads.values()):
        assert not any(np.shares_memory(one, other) for other in (dM, *inputs.values()))
    assert len({id(a) for a in grads.values()}) == len(grads)
