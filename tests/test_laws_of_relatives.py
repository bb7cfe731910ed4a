"""Laws of HTA's reflections, of SODA's spectrum and the optimizer that keeps its rotations, and of LoRTA's store."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref import (
    AdapterConfig,
    EncoderConfig,
    InputError,
    TrainConfig,
    attach,
    by_autograd,
    by_hand,
    init_encoder,
    train,
)
from tlora_ref.by_autograd import to_numpy, to_torch
from tlora_ref.by_hand.encoder import delta_w
from tlora_ref.by_hand.methods import METHODS, hta, lorta, soda
from tlora_ref.by_hand.optimizers import OPTIMIZERS
from tlora_ref.counts import count, held
from tlora_ref.gradcheck import complex_step_gradient
from tlora_ref.methods import MATRICES, Site

SEEDS = st.integers(0, 2**32 - 1)


def reflection(v, unit):
    """H (D, D), as what it makes of the identity's rows."""
    return hta.reflect_fwd(np.eye(v.size), v, unit)[0]


# --- HTA -----------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 9))
def test_htas_reflection_is_symmetric_and_orthogonal_when_its_vector_is_normalised(seed, width):
    v = np.random.default_rng(seed).standard_normal(width)
    H = reflection(v, unit=True)
    np.testing.assert_allclose(H, np.eye(width) - 2 * np.outer(v, v) / (v @ v), rtol=0, atol=1e-14)
    np.testing.assert_allclose(H @ H, np.eye(width), rtol=0, atol=1e-14)
    # as printed, H = I - v v^T has the eigenvalue 1 - |v|^2 along v: a reflection at |v|^2 = 2 and nowhere else
    printed = reflection(v, unit=False)
    np.testing.assert_allclose(printed @ v, (1 - v @ v) * v, rtol=0, atol=1e-12 * (1 + v @ v) ** 2)
    drawn = v * np.sqrt(2 / (v @ v))
    np.testing.assert_allclose(reflection(drawn, unit=False), H, rtol=0, atol=1e-14)
    assert np.abs(reflection(1.1 * drawn, unit=False) @ v + v).max() > 0.1 * np.abs(v).max()


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.sampled_from(["hta", "hta_unit"]))
def test_htas_update_is_the_product_of_its_matrices(seed, I, O, R, method):
    """Against H and D written out, for matrices wider in than out, out than in, and square; where the vectors are
    normalised, W' without the patch has the singular values |diag|, and is as far from W0 as diag is long."""
    r = np.random.default_rng(seed)
    left, right, diag = r.standard_normal(I), r.standard_normal(O), r.standard_normal(min(I, O))
    p, q = r.standard_normal((I, R)), r.standard_normal((R, O))
    D = np.zeros((I, O))
    np.fill_diagonal(D, diag)
    unit = method == "hta_unit"
    expected = p @ q + reflection(left, unit) @ D @ reflection(right, unit)
    dW = METHODS[method].delta_w(np.zeros((I, O)), left, right, diag, p, q)
    np.testing.assert_allclose(dW, expected, rtol=0, atol=1e-13 * (1 + np.abs(expected).max()))
    if unit:
        bare = METHODS[method].delta_w(np.zeros((I, O)), left, right, diag, p, 0 * q)
        found = np.linalg.svd(bare, compute_uv=False)
        np.testing.assert_allclose(found, np.sort(np.abs(diag))[::-1], rtol=0, atol=1e-13 * np.abs(diag).max())


@given(SEEDS)
def test_the_length_of_a_normalised_vector_changes_nothing(seed):
    """H is the same for v and c v, so dv is orthogonal to v; for the printed form neither holds."""
    r = np.random.default_rng(seed)
    x, v, dy = r.standard_normal((4, 5)), r.standard_normal(5), r.standard_normal((4, 5))
    y, cache = hta.reflect_fwd(x, v, unit=True)
    np.testing.assert_allclose(hta.reflect_fwd(x, -3.0 * v, unit=True)[0], y, rtol=0, atol=1e-13)
    dv = hta.reflect_bwd(dy, cache)["v"]
    assert abs(v @ dv) <= 1e-13 * np.linalg.norm(x) * np.linalg.norm(dy)
    y, cache = hta.reflect_fwd(x, v, unit=False)
    dv = hta.reflect_bwd(dy, cache)["v"]
    # d/dc of <dy, x H(c v)> at c = 1
    assert v @ dv == pytest.approx(2 * np.sum(dy * (y - x)), rel=1e-9, abs=1e-9)


def test_htas_diagonal_moves_first_and_its_vectors_after_it():
    """diag = 0 and q = 0 at the start: only they have a gradient; with diag moved, the vectors have one, too."""
    from test_encoder import tiny
    from test_family import config

    from tlora_ref.by_hand import loss_and_grads

    for method in ("hta", "hta_unit"):
        base, inputs, labels, _ = tiny()
        model = attach(base, config(method))
        grads = loss_and_grads(model, inputs, labels)[1]
        moving = {name.rpartition(".")[2] for name, g in grads.items() if g.any()}
        assert moving == {"diag", "q"}
        moved = model.with_params({n: a + 0.1 for n, a in model.params.items() if n.endswith((".diag", ".q"))})
        assert all(g.any() for g in loss_and_grads(moved, inputs, labels)[1].values())


@pytest.mark.parametrize(("patch", "printed"), [(0, 110_592), (1, 184_320), (2, 258_048), (4, 405_504)])
def test_htas_counts_over_the_rank_of_its_patch(patch, printed):
    """Its ablation on ViT-B: 0.15M, 0.22M, 0.30M and 0.44M with a head of 0.04M."""
    from tlora_ref.counts import trained

    count = trained("hta", [(768, 768)] * 48, max(patch, 1)) - (0 if patch else 48 * 2 * 768)
    assert count == printed


# --- SODA ----------------------------------------------------------------------------------------------


def orthogonal(r, size):
    return np.linalg.qr(r.standard_normal((size, size)))[0]


def soda_at(seed, I=12, O=7):
    """W0 and SODA's arrays there, with drawn rotations and a shift that cuts off some singular values."""
    r = np.random.default_rng(seed)
    W0 = r.standard_normal((I, O))
    arrays = soda.soda_draw(Site("m", I, O, 1), W0, AdapterConfig("soda", rank=1))
    arrays |= {f"Q{i}": orthogonal(r, len(arrays[f"Q{i}"])) for i in (1, 2, 3)}
    arrays["delta"] = r.uniform(-1.2, 0.8, min(I, O)) * arrays["sigma"]
    return W0, {METHODS["soda"].array(base).name: array for base, array in arrays.items()}


@given(SEEDS, st.sampled_from([(12, 7), (6, 9), (7, 7), (8, 1)]))
def test_sodas_singular_values_are_the_shifted_ones(seed, shape):
    """Whatever the rotations are: W' has exactly relu(sigma + delta)."""
    W0, arrays = soda_at(seed, *shape)
    found = np.linalg.svd(W0 + soda.soda_delta_w(W0, **arrays), compute_uv=False)
    expected = np.sort(np.maximum(arrays["sigma_M"] + arrays["delta_M"], 0))[::-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * arrays["sigma_M"].max())


@given(SEEDS)
def test_without_a_shift_soda_only_turns_the_weight(seed):
    """delta = 0:  W'^T W' = W0^T W0, and W' = (Q1 x Q2 x Q3) W0 with NumPy's Kronecker product."""
    W0, arrays = soda_at(seed)
    arrays["delta_M"] = 0 * arrays["delta_M"]
    W = W0 + soda.soda_delta_w(W0, **arrays)
    np.testing.assert_allclose(W.T @ W, W0.T @ W0, rtol=0, atol=1e-12 * np.abs(W0.T @ W0).max())
    R = np.kron(np.kron(arrays["Q1_XX"], arrays["Q2_YY"]), arrays["Q3_ZZ"])
    np.testing.assert_allclose(W, R @ W0, rtol=0, atol=1e-13 * np.abs(W0).max())


def test_sodas_start_is_the_base_to_the_bit_and_can_train():
    """The start of the released code, delta = 1e-3, is another function; at 0 delta has a gradient as well."""
    from test_encoder import tiny

    W0 = soda_at(0)[0]
    start = soda.soda_draw(Site("m", *W0.shape, 1), W0, AdapterConfig("soda", rank=1))
    given_arrays = {METHODS["soda"].array(base).name: array for base, array in start.items()}
    np.testing.assert_array_equal(soda.soda_delta_w(W0, **given_arrays), 0)
    released = soda.soda_delta_w(W0, **given_arrays | {"delta_M": np.full(7, 1e-3)})
    np.testing.assert_allclose(released, 1e-3 * start["U"] @ start["Vt"], rtol=0, atol=1e-14)
    np.testing.assert_allclose((start["U"] * start["sigma"]) @ start["Vt"], W0, rtol=0, atol=1e-14)
    base, inputs, labels, _ = tiny()
    grads = by_hand.loss_and_grads(attach(base, AdapterConfig("soda", rank=1)), inputs, labels)[1]
    assert {name for name, g in grads.items() if not g.any()} == set()


@pytest.mark.parametrize("width", [1, 2, 6, 7, 32, 64, 640, 768, 1024, 1280, 2048])
def test_sodas_factors_are_the_released_ones_or_the_most_even(width):
    released = {640: (8, 8, 10), 768: (6, 8, 16), 1280: (4, 16, 20), 2048: (4, 8, 64)}
    X, Y, Z = soda.three_factors(width)
    assert width == X * Y * Z
    assert released.get(width, (X, Y, Z)) == (X, Y, Z)
    if width not in released:
        assert X <= Y <= Z
    assert soda.three_factors(1024) == (8, 8, 16)


def gap_to_orthogonal(Q):
    return np.abs(Q.T @ Q - np.eye(len(Q))).max()


def thousand_steps(name):
    """The largest gap to orthogonal of a 6 x 6 matrix over 1,000 steps towards a matrix that is not orthogonal."""
    r, config = np.random.default_rng(0), TrainConfig(lr=3e-2)
    params, target, worst = {"m.Q1": np.eye(6)}, r.standard_normal((6, 6)), 0.0
    optimizer = OPTIMIZERS[name]
    state, losses = optimizer.init(params, config), []
    for _ in range(1000):
        away = params["m.Q1"] - target
        losses.append((away * away).sum() / 2)
        params = optimizer.step(params, {"m.Q1": away + 0.1 * r.standard_normal((6, 6))}, state, config.lr, config)
        worst = max(worst, gap_to_orthogonal(params["m.Q1"]))
    return worst, losses


def test_a_thousand_stiefel_steps_stay_orthogonal_where_adamws_do_not():
    worst, losses = thousand_steps("stiefel")
    assert worst < 1e-12
    assert losses[-1] < 0.8 * losses[0]
    assert thousand_steps("adamw")[0] > 1


def test_sodas_training_keeps_its_rotations_in_both_rooms_and_adamw_is_refused():
    """SODA trains with the Stiefel step, and W' keeps the spectrum that delta says."""
    from test_encoder import tiny

    base, inputs, labels, _ = tiny()
    model = attach(base, AdapterConfig("soda", rank=1))
    config = TrainConfig(epochs=40, batch_size=2, lr=3e-2)
    trained = train(by_hand, model, inputs, labels, config)[0]
    twin = to_numpy(train(by_autograd, to_torch(model), inputs, labels, config)[0])
    with pytest.raises(InputError, match="'adamw', expected 'stiefel': soda needs Q1, Q2, Q3 to stay orthogonal"):
        train(by_hand, model, inputs, labels, replace(config, optimizer="adamw"))
    turned = [name for name in model.trained if name.endswith((".Q2", ".Q3"))]
    for name in turned:
        assert gap_to_orthogonal(trained.params[name]) < 1e-14
        assert gap_to_orthogonal(twin.params[name]) < 1e-14
        assert np.abs(trained.params[name] - model.params[name]).max() > 0.1
    for name in model.adapted:
        W = trained.params[f"{name}.W"] + delta_w(trained, name)
        shifted = trained.params[f"{name}.sigma"] + trained.params[f"{name}.delta"]
        found = np.linalg.svd(W, compute_uv=False)
        np.testing.assert_allclose(found, np.sort(np.maximum(shifted, 0))[::-1], rtol=0, atol=1e-13)


def test_soda_in_a_foreign_torch_model_stays_orthogonal_with_the_stiefel_optimizer():
    import torch

    from tlora_ref.by_autograd.inject import inject
    from tlora_ref.by_autograd.optimizers import Stiefel

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 8)).double()
    x, target = torch.randn(20, 8, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    inject(model, ("0", "2"), rank=1, method="soda")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    turned = [p for name, p in named.items() if name.endswith((".Q1", ".Q2", ".Q3"))]
    rest = [p for name, p in named.items() if name.endswith(".delta")]
    assert len(turned) + len(rest) == len(named) == 8
    optimizers, losses = [Stiefel(turned, lr=1e-2), torch.optim.AdamW(rest, lr=1e-2)], []
    for _ in range(50):
        loss = ((model(x) - target) ** 2).mean()
        losses.append(loss.item())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert max(gap_to_orthogonal(Q.detach().numpy()) for Q in turned) < 1e-14


# --- LoRTA ---------------------------------------------------------------------------------------------

ATTENTION = MATRICES[:4]


@pytest.mark.parametrize(
    ("width", "layers", "heads", "rank", "published"),
    [(768, 12, 12, 4, 3_440), (1024, 24, 16, 8, 9_056), (4096, 32, 32, 8, 34_336)],
    ids=["roberta-base", "roberta-large", "llama-2-7b"],
)
def test_lortas_store_counts_once(width, layers, heads, rank, published):
    """R (D + D / H + H + L + 4) for the four matrices of the attention in every layer."""
    config = EncoderConfig(width=width, layers=layers, heads=heads, features=1)
    assert count(config, AdapterConfig("lorta", rank)).trained == published
    assert published == rank * (width + width // heads + heads + layers + 4)


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("layers.3.query", 3, 0),
        ("encoder.layer.11.attention.self.value", 11, 2),
        ("encoder.layer.11.attention.output.dense", 11, 3),
        ("encoder.layer.11.intermediate.dense", 11, 4),
        ("encoder.layer.11.output.dense", 11, 5),
        ("model.layers.7.self_attn.k_proj", 7, 1),
        ("model.layers.7.self_attn.o_proj", 7, 3),
        ("model.layers.7.mlp.down_proj", 7, 5),
        ("bert2.unquery", 0, 6),
        ("0", 0, 6),
    ],
)
def test_a_matrixs_place_is_read_from_its_name(name, layer, kind):
    assert lorta.place(name) == (layer, kind)


def lorta_model(seed, targets=ATTENTION, **changes):
    from test_encoder import tiny

    return tiny(seed, AdapterConfig("lorta", 2, targets, lora_alpha=5.0), **changes)


@pytest.mark.parametrize("seed", range(5))
def test_lortas_updates_are_slices_of_one_tensor(seed):
    """The tensor of five axes, by einsum: side by side the heads of query, key and value in their columns, and those
    of output in its rows. Each dW has rank R at most, in the columns (output: the rows) of one and the same A."""
    model = lorta_model(seed)[0]
    A, B, heads, layer, matrix = (model.params[f"shared.{base}"] for base in ("A", "B", "heads", "layer", "matrix"))
    whole = 2.5 * np.einsum("dr,kr,hr,lr,mr->lmdhk", A, B.T, heads, layer, matrix).reshape(2, 4, 6, 6)
    for l in (0, 1):
        for m, target in enumerate(ATTENTION):
            dW, expected = delta_w(model, f"layers.{l}.{target}"), whole[l, m]
            expected = expected.T if target == "output" else expected
            np.testing.assert_allclose(dW, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
            assert np.linalg.matrix_rank(dW, tol=1e-9 * np.linalg.norm(dW)) == 2
            side = dW.T if target == "output" else dW
            inside = A @ np.linalg.lstsq(A, side, rcond=None)[0]
            np.testing.assert_allclose(inside, side, rtol=0, atol=1e-10 * np.abs(side).max())


@pytest.mark.parametrize("targets", [ATTENTION, ("output",), ("key", "ffn_in", "ffn_out")], ids="-".join)
@pytest.mark.parametrize("seed", range(2))
def test_lortas_gradients_add_up_over_layers_matrices_and_heads(seed, targets):
    """Of the whole model's loss, for every array of the store: against the complex step, and as the sum of what the
    matrices give one at a time."""
    model, inputs, labels, mask = lorta_model(seed, targets)
    grads = by_hand.loss_and_grads(model, inputs, labels, mask)[1]
    assert set(grads) == {f"shared.{base}" for base in lorta.STORE}
    largest = max(np.abs(g).max() for g in grads.values())
    for name, gradient in grads.items():

        def loss(array, name=name):
            return by_hand.loss_and_grads(model.with_params({name: array}), inputs, labels, mask)[0]

        expected = complex_step_gradient(loss, model.params[name])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12 * largest, err_msg=name)
        assert np.abs(gradient).max() > 1e-6


def test_lortas_rows_that_no_matrix_reads_stay():
    """On layer 1 and value alone, the rows of layer 0, query and key have no gradient."""
    from test_encoder import tiny

    model, inputs, labels, mask = tiny(0, AdapterConfig("lorta", 2, ("value",), layers=(1,)))
    grads = by_hand.loss_and_grads(model, inputs, labels, mask)[1]
    for base, read in (("layer", 1), ("matrix", 2)):
        rows = np.abs(grads[f"shared.{base}"]).max(axis=1) > 0
        assert rows.tolist() == [row == read for row in range(read + 1)]
    config = AdapterConfig("lorta", 2, ("value",), layers=(1,))
    assert count(model.config, config) == held(model)


def test_lorta_takes_the_heads_of_its_encoder_and_no_other_method_takes_any():
    base = init_encoder(EncoderConfig(width=12, heads=3, features=2))
    assert attach(base, AdapterConfig("lorta", 2)).adapter.heads == 3
    assert attach(base, AdapterConfig("lorta", 2)).params["shared.heads"].shape == (3, 2)
    assert attach(base, AdapterConfig("lorta", 2, heads=4)).params["shared.heads"].shape == (4, 2)
    assert attach(base, AdapterConfig("lora", 2)).adapter.heads is None
    with pytest.raises(InputError, match="heads is 3, expected None: lora has no heads"):
        AdapterConfig("lora", 2, heads=3)
    with pytest.raises(InputError, match="heads is 0, expected a whole number, at least 1"):
        AdapterConfig("lorta", 2, heads=0)


def test_lorta_in_a_published_torch_model_has_one_store_and_the_update_by_hand():
    import torch
    from transformers import BertConfig, BertModel

    from tlora_ref.by_autograd.inject import adapted, inject, merge, unmerge

    torch.manual_seed(0)
    size = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    model = BertModel(BertConfig(vocab_size=11, **size)).eval()
    ids = torch.arange(8).reshape(2, 4)
    before = model(ids).last_hidden_state.detach()
    told = inject(model, ("query", "key", "value", "attention.output.dense"), rank=2, method="lorta", lora_alpha=3.0)
    assert told.counts.trained == 2 * (12 + 4 + 3 + 2 + 4)
    assert told.also == ()
    torch.testing.assert_close(model(ids).last_hidden_state, before, rtol=0, atol=0)
    layers = adapted(model)
    assert len({id(layer.shared) for layer in layers}) == 1
    with torch.no_grad():
        for parameter in layers[0].shared.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    A, B, heads, layer, matrix = (layers[0].array(base).detach().numpy() for base in lorta.STORE)
    whole = 1.5 * np.einsum("dr,rk,hr,lr,mr->lmdhk", A, B, heads, layer, matrix).reshape(2, 4, 12, 12)
    for one in layers:
        l, m = lorta.place(one.name)
        expected = whole[l, m].T if m == lorta.OUTPUT else whole[l, m]
        np.testing.assert_allclose(one.delta_w().detach().numpy(), expected, rtol=0, atol=1e-6)
    beside = model(ids).last_hidden_state.detach()
    assert (beside - before).abs().max() > 1e-3
    merge(model)
    torch.testing.assert_close(model(ids).last_hidden_state, beside, rtol=0, atol=1e-5)
    unmerge(model)
    model(ids).last_hidden_state.square().sum().backward()
    assert all(bool(p.grad.any()) for p in layers[0].shared.parameters())
