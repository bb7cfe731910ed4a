"""Masks, empty rows, huge values and bad indices: where kernels usually break."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref.by_hand import fast, ops
from tlora_ref.shapes import InputError, ShapeError

rng = np.random.default_rng(0)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_padding_changes_nothing(seed, causal):
    """Real tokens get the same output and gradient whatever stands in the padding after them."""
    r = np.random.default_rng(seed)
    q, k, v = r.standard_normal((3, 2, 5, 6))
    mask = np.array([[True] * 3 + [False] * 2, [True] * 5])
    garbage = np.where(mask[..., None], 0, 1e3 * r.standard_normal((2, 5, 6)))
    dout = np.where(mask[..., None], r.standard_normal((2, 5, 6)), 0)
    out, cache = ops.attention_fwd(q, k, v, 2, mask, causal)
    other, other_cache = ops.attention_fwd(q, k + garbage, v + garbage, 2, mask, causal)
    np.testing.assert_array_equal(out[mask], other[mask])
    grads, others = ops.attention_bwd(dout, cache), ops.attention_bwd(dout, other_cache)
    np.testing.assert_allclose(grads["q"], others["q"], rtol=1e-12, atol=1e-12)
    for key in "kv":
        assert not grads[key][~mask].any()


def test_a_fully_masked_sequence_is_zeros_with_zero_gradients():
    q, k, v, dout = rng.standard_normal((4, 2, 3, 4))
    mask = np.array([[False] * 3, [True] * 3])
    out, cache = ops.attention_fwd(q, k, v, 2, mask)
    assert not out[0].any()
    assert out[1].all()
    for value in ops.attention_bwd(dout, cache).values():
        assert not value[0].any()
        assert np.isfinite(value).all()
    pooled, cache = ops.mean_pool_fwd(q, mask)
    assert not pooled[0].any()
    assert not ops.mean_pool_bwd(rng.standard_normal((2, 4)), cache)["x"][0].any()


def test_causal_attention_sees_no_future():
    q, k, v = rng.standard_normal((3, 1, 5, 4))
    out, _ = ops.attention_fwd(q, k, v, 2, None, True)
    changed = v.copy()
    changed[:, 3:] += 1
    other, _ = ops.attention_fwd(q, k, changed, 2, None, True)
    np.testing.assert_array_equal(out[:, :3], other[:, :3])
    assert (out[:, 3:] != other[:, 3:]).all()
    np.testing.assert_array_equal(out[:, 0], v[:, 0])


def test_attention_against_a_loop():
    """Heads, scale and columns: one query, one head at a time, from the definition."""
    q, k, v = rng.standard_normal((3, 2, 3, 6))
    out, _ = ops.attention_fwd(q, k, v, 3)
    for n in range(2):
        for head in range(3):
            columns = slice(2 * head, 2 * head + 2)
            for t in range(3):
                weight = np.exp([q[n, t, columns] @ k[n, s, columns] / np.sqrt(2) for s in range(3)])
                expected = (weight / weight.sum()) @ v[n, :, columns]
                np.testing.assert_allclose(out[n, t, columns], expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_stay_finite(dtype):
    logits = np.array([[1e6, -1e6, 0], [-1e6, -1e6, -1e6]], dtype=dtype)
    loss, cache = ops.cross_entropy_fwd(logits, np.array([1, 2]))
    assert np.isfinite(loss)
    np.testing.assert_allclose(float(loss), (2e6 + np.log(3)) / 2, rtol=1e-6)
    np.testing.assert_allclose(ops.cross_entropy_bwd(1.0, cache)["logits"][0], [0.5, -0.5, 0])
    p, _ = ops.softmax_fwd(logits)
    np.testing.assert_allclose(p[1], 1 / 3, rtol=1e-6)
    masked, _ = ops.softmax_fwd(logits, np.array([[False, True, True], [False, False, False]]))
    np.testing.assert_array_equal(masked, [[0, 0, 1], [0, 0, 0]])
    for x in (logits, 0 * logits):
        y, cache = ops.gelu_fwd(x)
        assert np.isfinite(y).all()
        assert np.isfinite(ops.gelu_bwd(np.ones_like(x), cache)["x"]).all()
        y, cache = ops.layer_norm_fwd(x, np.ones(3, dtype), np.zeros(3, dtype))
        assert np.isfinite(ops.layer_norm_bwd(np.ones_like(x), cache)["x"]).all()


def test_gelu_keeps_its_digits_in_the_lower_tail():
    """x Phi(x) at -10: 1 + erf would give 0; the value is from the continued fraction of Mills' ratio."""
    x = 10.0
    ratio = 0.0
    for j in range(200, 0, -1):
        ratio = j / (x + ratio)
    tail = np.exp(-x * x / 2) / np.sqrt(2 * np.pi) / (x + ratio)
    np.testing.assert_allclose(ops.gelu_fwd(np.array([-x]))[0], [-x * tail], rtol=1e-13)


def test_a_repeated_token_collects_all_its_gradients():
    _, cache = ops.embedding_fwd(np.array([[1, 1], [0, 1]]), rng.standard_normal((4, 2)))
    grads = ops.embedding_bwd(np.ones((2, 2, 2)), cache)
    np.testing.assert_array_equal(grads["W"], [[1, 1], [3, 3], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.embedding_fwd(np.array([4]), np.ones((4, 2))), "values from 4 to 4, expected 0 to 3"),
        (lambda: ops.embedding_fwd(np.array([-1]), np.ones((4, 2))), "values from -1 to -1"),
        (lambda: ops.embedding_fwd(np.array([1.0]), np.ones((4, 2))), "dtype float64, expected integers"),
        (lambda: ops.cross_entropy_fwd(np.ones((2, 3)), np.array([0, 3])), "expected 0 to 2"),
        (lambda: ops.cross_entropy_fwd(np.ones((0, 3)), np.zeros(0, int)), "a mean over no rows"),
        (lambda: ops.attention_fwd(*np.ones((3, 2, 6)), 4), "4 heads do not divide"),
        (lambda: ops.softmax_fwd(np.ones((2, 3)), np.ones((2, 3))), "dtype float64, expected bool"),
        (lambda: ops.softmax_fwd(np.ones((2, 3)), np.ones((2, 4), bool)), r"mask_NV has shape \(2, 4\), so V = 4"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_shape_errors_are_input_errors():
    assert issubclass(ShapeError, InputError)
    assert issubclass(InputError, ValueError)


def test_gelu_in_float32_is_float64s_to_the_rounding_of_float32():
    x = np.concatenate([np.linspace(-12, 12, 50_001), [-1e4, -40.0, -0.0, 0.0, 1e-30, 40.0, 1e4]])
    y, cache = ops.gelu_fwd(x.astype(np.float32))
    dx = ops.gelu_bwd(np.ones_like(y), cache)["x"]
    exact, cache = ops.gelu_fwd(x)
    slope = ops.gelu_bwd(np.ones_like(x), cache)["x"]
    assert y.dtype == dx.dtype == np.float32
    # 7.5e-8 by the polynomial's own account, and a few roundings of numbers near one half
    assert (np.abs(y - exact) <= 4e-7 * np.maximum(1, np.abs(x))).all()
    assert np.abs(dx - slope).max() <= 6e-7


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 40_000])
def test_gelu_in_pieces_is_gelu(size):
    """To the last digits: exp and erfc may take another way at a piece's end, where a vector register is not full."""
    x = np.random.default_rng(0).standard_normal((2, size))
    y, (slope,) = ops.gelu_fwd(x)
    alone = [ops.gelu_fwd(part) for part in np.array_split(x.reshape(-1), 7)]
    y_F, (slope_F,) = ops.gelu_fwd(np.asfortranarray(x))
    for other in (np.concatenate([part[0] for part in alone]).reshape(x.shape), y_F):
        np.testing.assert_allclose(other, y, rtol=1e-14, atol=1e-14)
    for other in (np.concatenate([part[1][0] for part in alone]).reshape(x.shape), slope_F):
        np.testing.assert_allclose(other, slope, rtol=1e-14, atol=1e-14)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1,), (7,), (3, 5), (2, 1, 4), (6, 300)]))
def test_sums_and_maxima_of_rows(seed, shape):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal(shape), rng.standard_normal(shape)
    np.testing.assert_allclose(ops.row_sum(a), a.sum(axis=-1, keepdims=True), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ops.row_sum(a, b), (a * b).sum(axis=-1, keepdims=True), rtol=1e-12, atol=1e-12)
    assert np.array_equal(fast.row_max(a.T if a.ndim == 2 else a), (a.T if a.ndim == 2 else a).max(-1, keepdims=True))
