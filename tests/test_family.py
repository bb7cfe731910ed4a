"""The family around TLoRA: every method of the table is covered by every property here, unasked; then the
reductions, the symmetries and the dead starting points of single methods."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_encoder import tiny

from tlora_ref import AdapterConfig, EncoderConfig, InputError, TrainConfig, attach, by_hand, init_encoder, merge, train
from tlora_ref.by_hand import encoder as encoder_module
from tlora_ref.by_hand import encoder_fwd, loss_and_grads
from tlora_ref.by_hand.methods import METHODS, dora, edora, lora, lora_fa, lora_xs, mtlora, tlora, vera
from tlora_ref.counts import count, held
from tlora_ref.methods import BLOCKS, Site

SEEDS = st.integers(0, 2**32 - 1)
every_method = pytest.mark.parametrize("method", METHODS)
MERGEABLE = [name for name, method in METHODS.items() if method.mergeable]

# Largest change of a logit when the adapter is attached; the others change nothing at all. LoRA-XS and EDoRA start
# at M ~ 1e-5, the bottleneck adapters at weights ~ 0.02: near zero, not zero (sources in init.py).
START = {"lora_xs": 1e-3, "edora": 1e-3, "adapter_h": 0.05, "adapter_p": 0.05}


def config(method, **changes):
    return AdapterConfig(
        **{"method": method, "rank": 3, "targets": METHODS[method].places, "lora_alpha": 6.0} | changes
    )


@every_method
def test_the_start_is_the_base(method):
    base, inputs, _, mask = tiny(dtype=np.float32)
    model = attach(base, config(method))
    before, after = (encoder_fwd(m, inputs, mask)[0] for m in (base, model))
    assert np.abs(after - before).max() <= START.get(method, 0)
    assert (method in START) == (np.abs(after - before).max() > 0)


@every_method
def test_counts_equal_formula_and_arrays_held(method):
    shape = EncoderConfig(width=6, heads=3, hidden=5, layers=3, time=4, classes=3, features=3)
    model = attach(init_encoder(shape), config(method))
    assert count(shape, config(method)) == held(model)


def can_move(model, name):
    """Does it train, and is it not an orthogonal matrix of one entry, which is 1 or -1 and stays so?"""
    orthogonal = model.adapter is not None and name.rpartition(".")[2] in model.method.orthogonal
    alone = orthogonal and model.params[name].size == 1 and abs(model.params[name].item()) == 1
    return name in model.trained and not alone


@every_method
def test_training_moves_what_trains_and_nothing_else(method):
    base, inputs, labels, _ = tiny()
    model = attach(base, config(method, dropout=0.1 if METHODS[method].keep else 0.0))
    before = {name: a.copy() for name, a in model.params.items()}
    after, _ = train(by_hand, model, inputs, labels, TrainConfig(epochs=4, batch_size=2, lr=1e-2))
    for name, array in before.items():
        np.testing.assert_array_equal(model.params[name], array)
        assert (after.params[name] != array).any() == can_move(model, name), name
    local = {arg.base for arg in METHODS[method].trained_args}
    assert {name.rpartition(".")[2] for name in model.trained} == local


def is_dead(model, inputs, labels):
    """No trained array has a gradient: training cannot begin."""
    return not any(g.any() for g in loss_and_grads(model, inputs, labels)[1].values())


@every_method
def test_the_start_is_not_dead(method):
    base, inputs, labels, _ = tiny()
    assert not is_dead(attach(base, config(method)), inputs, labels)


@pytest.mark.parametrize("method", ["mtlora_shim", "mtlora_icfm", "mtlora_ctcm", "mtlora_dtsm"])
def test_mtloras_zero_core_is_dead_for_icfm_and_ctcm(method):
    """Its LLaVA code starts at A, B ~ N(0, 0.02^2) and C = D = 0. Where the core is a product of two zeros, all
    gradients vanish; where it is C or C + D, that of the core does not."""
    base, inputs, labels, _ = tiny()
    model, rng = attach(base, config(method)), np.random.default_rng(0)
    drawn = {n: 0.02 * rng.standard_normal(model.params[n].shape) for n in model.trained}
    zero = {n: a if n.endswith((".A", ".B")) else 0 * a for n, a in drawn.items()}
    assert is_dead(model.with_params(zero), inputs, labels) == (method in ("mtlora_icfm", "mtlora_ctcm"))


@pytest.mark.parametrize("method", MERGEABLE)
def test_the_update_is_the_difference_merging_makes(method):
    model, inputs, _, mask = tiny(adapter=config(method))
    merged = merge(by_hand, model)
    for name in model.adapted:
        dW = encoder_module.delta_w(model, name)
        expected = model.params[f"{name}.W"] + dW
        np.testing.assert_array_equal(merged.params[f"{name}.W"], expected)
        assert np.abs(dW).max() > 1e-3
    logits, plain = encoder_fwd(model, inputs, mask)[0], encoder_fwd(merged, inputs, mask)[0]
    np.testing.assert_allclose(plain, logits, rtol=0, atol=1e-12 * np.abs(logits).max())


@pytest.mark.parametrize("method", ["adapter_h", "adapter_p"])
def test_what_is_not_linear_cannot_be_merged(method):
    model, _, _, _ = tiny(adapter=config(method))
    with pytest.raises(InputError, match=f"{method} cannot be merged"):
        merge(by_hand, model)


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.additive])
def test_an_additive_update_has_rank_r_and_the_columns_of_A(method):
    model, _, _, _ = tiny(adapter=config(method, rank=2))
    for name in model.adapted:
        dW = encoder_module.delta_w(model, name)
        assert np.linalg.matrix_rank(dW, tol=1e-9 * np.linalg.norm(dW)) == 2
        A = encoder_module.adapter_arguments(model, name)["A_IR"]
        inside = A @ np.linalg.lstsq(A, dW, rcond=None)[0]
        np.testing.assert_allclose(inside, dW, rtol=0, atol=1e-10 * np.abs(dW).max())


@pytest.mark.parametrize("method", ["dora", "dora_full", "edora"])
def test_the_columns_of_a_rescaled_weight_are_as_long_as_the_magnitudes(method):
    model, _, _, _ = tiny(adapter=config(method))
    for name in model.adapted:
        W = model.params[f"{name}.W"] + encoder_module.delta_w(model, name)
        lengths = np.linalg.norm(W, axis=0)
        np.testing.assert_allclose(lengths, np.abs(model.params[f"{name}.magnitude"]), rtol=1e-12)


def test_veras_pair_is_one_for_all_matrices_and_cut_to_size():
    """A 6 x 3 and 5 x 3 matrix read the same A; it counts once."""
    model, _, _, _ = tiny(adapter=config("vera", targets=("query", "ffn_out", "ffn_in")))
    assert model.params["shared.A"].shape == (6, 3)
    assert model.params["shared.B"].shape == (3, 6)
    assert not [n for n in model.params if n.endswith((".A", ".B")) and not n.startswith("shared.")]
    A = {n: encoder_module.adapter_arguments(model, n)["A_IR"] for n in model.adapted}
    assert A["layers.0.ffn_out"].shape == (5, 3)
    np.testing.assert_array_equal(A["layers.0.ffn_out"], A["layers.1.query"][:5])


# --- reductions: one method is another at a chosen point -------------------------------------------------


def pieces(seed, I=7, O=5, R=3):
    r = np.random.default_rng(seed)
    x, W0, b, A, B, dy = (r.standard_normal(s) for s in ((6, I), (I, O), (O,), (I, R), (R, O), (6, O)))
    return x, W0, b, A, B, dy, r


def same(one, two, **keys):
    """The gradients of one and two agree, under the keys of each."""
    for key, other in keys.items():
        np.testing.assert_allclose(one[key], two[other], rtol=1e-9, atol=1e-9, err_msg=key)


@given(SEEDS, st.sampled_from(["shim", "icfm", "ctcm", "dtsm"]))
def test_mtlora_with_the_identity_as_core_is_lora(seed, form):
    x, W0, b, A, B, dy, _ = pieces(seed)
    D = {"ctcm": np.eye(3), "dtsm": np.zeros((3, 3))}.get(form)
    y, cache = mtlora.mtlora_linear_fwd(x, W0, b, A, B, np.eye(3), 0.5, D, form=form)
    plain, lora_cache = lora.lora_linear_fwd(x, W0, b, A, B, 0.5)
    np.testing.assert_allclose(y, plain, rtol=1e-12, atol=1e-12)
    same(mtlora.mtlora_linear_bwd(dy, cache), lora.lora_linear_bwd(dy, lora_cache), x="x", A="A", B="B")


@given(SEEDS)
def test_lora_xs_is_tlora_between_singular_vectors_with_alpha_fixed(seed):
    x, W0, b, _, _, dy, r = pieces(seed)
    arrays = lora_xs.lora_xs_draw(Site("m", *W0.shape, 3), W0, AdapterConfig("lora_xs", rank=3))
    M = r.standard_normal((3, 3))
    y, cache = lora_xs.tri_linear_fwd(x, W0, b, arrays["A"], M, arrays["C"], 0.5, trains=("M",))
    core, tlora_cache = tlora.tlora_linear_fwd(x, W0, b, arrays["A"], M, arrays["C"], 0.5)
    np.testing.assert_allclose(y, core, rtol=1e-11, atol=1e-11)
    same(lora_xs.tri_linear_bwd(dy, cache), tlora.tlora_linear_bwd(dy, tlora_cache), x="x", M="B")


@given(SEEDS)
def test_edora_at_its_own_column_norms_is_lora_xs(seed):
    x, W0, b, A, C, dy, r = pieces(seed)
    M = r.standard_normal((3, 3))
    norm = edora.edora_constants(W0, A, M, C, None, 0.5)["norm_O"]
    y, cache = edora.edora_linear_fwd(x, W0, b, A, M, C, norm, 0.5, norm)
    plain, plain_cache = lora_xs.tri_linear_fwd(x, W0, b, A, M, C, 0.5, trains=("M",))
    np.testing.assert_allclose(y, plain, rtol=1e-12, atol=1e-12)
    same(edora.edora_linear_bwd(dy, cache), lora_xs.tri_linear_bwd(dy, plain_cache), x="x", M="M")
    np.testing.assert_allclose(
        edora.edora_delta_w(W0, A, M, C, norm, 0.5), lora_xs.tri_delta_w(W0, A, M, C, 0.5), rtol=1e-9, atol=1e-9
    )


@given(SEEDS)
def test_vera_is_the_tri_matrix_form_with_diagonal_factors(seed):
    x, W0, b, A, B, dy, r = pieces(seed)
    d, e = r.standard_normal(3), r.standard_normal(5)
    y, cache = vera.vera_linear_fwd(x, W0, b, A, B, d, e)
    tri, tri_cache = lora_xs.tri_linear_fwd(x, W0, b, A, np.diag(d), B * e, 1.0)
    np.testing.assert_allclose(y, tri, rtol=1e-11, atol=1e-11)
    grads, tri_grads = vera.vera_linear_bwd(dy, cache), lora_xs.tri_linear_bwd(dy, tri_cache)
    same(grads, tri_grads, x="x")
    np.testing.assert_allclose(grads["lambda_d"], np.diag(tri_grads["M"]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(grads["lambda_b"], (tri_grads["C"] * B).sum(axis=0), rtol=1e-9, atol=1e-9)


@given(SEEDS)
def test_lora_fa_is_lora_without_dA(seed):
    x, W0, b, A, B, dy, _ = pieces(seed)
    y, cache = lora_fa.lora_fa_linear_fwd(x, W0, b, A, B, 0.5)
    plain, lora_cache = lora.lora_linear_fwd(x, W0, b, A, B, 0.5)
    np.testing.assert_array_equal(y, plain)
    same(lora_fa.lora_fa_linear_bwd(dy, cache), lora.lora_linear_bwd(dy, lora_cache), x="x", B="B")
    assert not any(part is x for part in cache)
    assert any(part is x for part in lora_cache)


# --- symmetries and single laws --------------------------------------------------------------------------


@given(SEEDS)
def test_the_full_dora_gradient_is_orthogonal_to_each_column_and_the_detached_one_is_not(seed):
    """Lengthening a column of V changes nothing that is divided by its length: 1^T (V * dV) = 0 per column. With
    x = I, W0 = 0 and A = I the kernel's V is B, so its dB is dV."""
    r = np.random.default_rng(seed)
    V, dy, m = r.standard_normal((4, 5)), r.standard_normal((4, 5)), 0.5 + r.random(5)
    zero, eye = np.zeros((4, 5)), np.eye(4)
    norm = dora.column_norm_fwd(V)[0]
    full = dora.dora_linear_bwd(dy, dora.dora_linear_fwd(eye, zero, None, eye, V, m, 1.0)[1])
    detached = dora.dora_linear_bwd(dy, dora.dora_linear_fwd(eye, zero, None, eye, V, m, 1.0, norm)[1])
    np.testing.assert_allclose((V * full["B"]).sum(axis=0), 0, atol=1e-12 * (1 + np.abs(detached["B"]).max()))
    assert (np.abs((V * detached["B"]).sum(axis=0)) > 1e-9).any()
    same(full, detached, x="x", magnitude="magnitude")


@given(SEEDS)
def test_mtloras_two_summands_get_the_same_gradient_and_icfm_a_symmetric_core(seed):
    x, W0, b, A, B, dy, r = pieces(seed)
    C, D = r.standard_normal((2, 3, 3))
    grads = mtlora.mtlora_linear_bwd(dy, mtlora.mtlora_linear_fwd(x, W0, b, A, B, C, 0.5, D, form="dtsm")[1])
    np.testing.assert_array_equal(grads["C"], grads["D"])
    M = mtlora.mtlora_core_fwd(C, form="icfm")[0]
    np.testing.assert_allclose(M, M.T, rtol=1e-12)
    assert np.linalg.eigvalsh(M).min() > -1e-12


def test_lora_xs_starts_from_the_top_singular_directions():
    W0 = np.random.default_rng(0).standard_normal((7, 5))
    arrays = lora_xs.lora_xs_draw(Site("m", *W0.shape, 3), W0, AdapterConfig("lora_xs", rank=3))
    A, C = arrays["A"], arrays["C"]
    singular = np.linalg.svd(W0, compute_uv=False)
    np.testing.assert_allclose(C @ C.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(A.T @ A, np.diag(singular[:3] ** 2), atol=1e-12)
    # M = diag(t): the singular values of W0 + A M C are s_i (1 + t_i) on the top block
    t = np.array([0.3, 0.2, 0.1])
    after = np.linalg.svd(W0 + lora_xs.tri_delta_w(W0, A, np.diag(t), C, 1.0), compute_uv=False)
    np.testing.assert_allclose(after, [*(singular[:3] * (1 + t)), *singular[3:]], rtol=1e-12)


def test_bottlenecks_sit_where_they_are_put_and_nowhere_else():
    base, inputs, _, mask = tiny()
    for block in BLOCKS:
        model = attach(base, config("adapter_h", targets=(block,), layers=(1,)))
        assert set(model.adapted) == {f"layers.1.{block}"}
        moved = model.with_params({f"layers.1.{block}.up_b": np.arange(6.0)})
        assert (encoder_fwd(moved, inputs, mask)[0] != encoder_fwd(base, inputs, mask)[0]).all()
    with pytest.raises(InputError, match="unknown target 'query' for adapter_h, expected some of attn_block"):
        attach(base, config("adapter_h", targets=("query",)))
    with pytest.raises(InputError, match=r"dropout is 0\.5, expected 0: adapter_p has none"):
        config("adapter_p", dropout=0.5)
