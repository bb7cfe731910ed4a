"""The encoder: every gradient against the complex step, what is computed and what is not, merging."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlora_ref import (
    AdapterConfig,
    EncoderConfig,
    InputError,
    ShapeError,
    attach,
    by_hand,
    detach,
    init_encoder,
    merge,
    unmerge,
)
from tlora_ref.by_hand import encoder as encoder_module
from tlora_ref.by_hand import encoder_bwd, encoder_fwd, hidden_states, loss_and_grads
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.by_hand.ops import cross_entropy_fwd
from tlora_ref.counts import encoder_size
from tlora_ref.gradcheck import complex_step_gradient
from tlora_ref.methods import MATRICES
from tlora_ref.model import Model, adapter_arguments, encoder_shapes, padded_positions, upper_layers
from tlora_ref.training import dropout_masks


def tiny(seed=0, adapter=None, train_also=(), dtype=np.float64, **changes):
    """A small encoder at a generic point (B != 0, alpha != 1, gamma != 1), with one batch of inputs."""
    size = {"width": 6, "layers": 2, "heads": 2, "hidden": 5, "time": 4, "classes": 3, "features": 3}
    config = EncoderConfig(**{**size, **changes})
    rng = np.random.default_rng([seed, 5])
    model = init_encoder(config, seed, dtype)
    if adapter:
        model = attach(model, adapter, train_also)
    noise = {n: np.asarray(a + 0.3 * rng.standard_normal(a.shape)).astype(dtype) for n, a in model.params.items()}
    model = model.with_params(noise)
    shape = (3, 4)
    inputs = rng.integers(0, config.vocab, shape) if config.vocab else rng.standard_normal((*shape, 3)).astype(dtype)
    mask = np.array([[True] * 4, [True, True, False, True], [True, False, False, False]])
    return model, inputs, rng.integers(0, config.classes, 3), mask


@contextmanager
def constant_norms(model):
    """Hold the column norms that DoRA and EDoRA take as constants at their values here: what the released methods
    do not differentiate, an oracle must not differentiate either."""
    method = model.method if model.adapter else None
    if method is None or method.constants_of is None:
        yield
        return
    W0s = {name: model.params[f"{name}.W"] for name in model.adapted}
    held = {id(W0): method.constants_of(W0, **adapter_arguments(model, name)) for name, W0 in W0s.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, method.name, replace(method, constants_of=lambda W0_IO, **_: held[id(W0_IO)]))
        yield


def assert_gradients_agree(model, inputs, labels, mask, keep=None, types=None):
    with constant_norms(model):
        _assert_gradients_agree(model, inputs, labels, mask, keep, types)


def _assert_gradients_agree(model, inputs, labels, mask, keep, types):
    _, grads, _ = loss_and_grads(model, inputs, labels, mask, keep, types)
    assert set(grads) == set(model.trained)
    largest = max(np.abs(g).max() for g in grads.values())
    for name in sorted(model.trained):

        def loss(array, name=name):
            logits, _ = encoder_fwd(model.with_params({name: array}), inputs, mask, keep, types)
            return cross_entropy_fwd(logits, labels)[0]

        expected = complex_step_gradient(loss, model.params[name])
        assert grads[name].shape == expected.shape
        np.testing.assert_allclose(grads[name], expected, rtol=0, atol=1e-11 * max(largest, 1e-2), err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [{}, {"features": None, "vocab": 7}, {"pool": "first", "causal": True, "time": 6}, {"heads": 1, "layers": 1}],
    ids=["continuous", "ids", "first-causal-short", "one-head"],
)
def test_every_gradient_of_a_fully_trained_encoder(changes):
    assert_gradients_agree(*tiny(**changes))


BERT = {"features": None, "vocab": 7, "pool": "first", "pooler": True, "types": 3}
ROBERTA = {**BERT, "types": 1, "pad_id": 2}
TYPES = np.array([[0, 0, 2, 1], [2, 0, 1, 1], [1, 1, 0, 2]])


@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=2)], ids=["full", "tlora"])
@pytest.mark.parametrize("changes", [BERT, ROBERTA, {**BERT, "pool": "mean", "pooler": False}], ids=str)
def test_every_gradient_of_an_encoder_like_a_published_one(changes, adapter):
    model, inputs, labels, mask = tiny(3, adapter, ("pooler.W", "type.W") if adapter and "pad_id" in changes else (),
                                       **changes)  # fmt: skip
    inputs[1, 1] = 2
    assert_gradients_agree(model, inputs, labels, mask, types=TYPES % model.config.types)


@pytest.mark.parametrize("name", sorted(encoder_shapes(EncoderConfig(**{**ROBERTA, "layers": 1}))))
def test_any_single_array_of_a_published_encoder_can_be_trained_alone(name):
    model, inputs, labels, mask = tiny(**{**ROBERTA, "layers": 1})
    everything = loss_and_grads(model, inputs, labels, mask)[1]
    alone = loss_and_grads(model.training([name]), inputs, labels, mask)[1]
    assert list(alone) == [name]
    np.testing.assert_array_equal(alone[name], everything[name])


def test_token_types_are_zero_unless_given():
    model, inputs, _, mask = tiny(**BERT)
    logits = encoder_fwd(model, inputs, mask)[0]
    np.testing.assert_array_equal(logits, encoder_fwd(model, inputs, mask, types_NT=np.zeros((3, 4), dtype=int))[0])
    assert np.abs(logits - encoder_fwd(model, inputs, mask, types_NT=TYPES)[0]).min() > 1e-3


def test_padded_positions_are_robertas():
    """fairseq's rule, by its own example: padding 1, three sequences of different lengths."""
    ids = np.array([[0, 5, 6, 2], [0, 5, 2, 1], [1, 1, 0, 2]])
    np.testing.assert_array_equal(padded_positions(ids, 1), [[2, 3, 4, 5], [2, 3, 4, 1], [1, 1, 2, 3]])


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("kind", [{}, BERT, ROBERTA], ids=["features", "bert", "roberta"])
def test_upper_layers_on_hidden_states_are_the_whole_model(kind, first):
    """Logits, loss and every gradient, and the numbers that are held; arrays are shared, not copied."""
    base, inputs, labels, mask = tiny(layers=3, **kind)
    types = TYPES % base.config.types if base.config.types else None
    adapter = AdapterConfig(rank=2, layers=tuple(range(first, 3)), seed=5)
    trained = [f"layers.{first}.query.B", "layers.2.value.alpha", "head.W"]
    x_NTD = hidden_states(base, inputs, mask, types, layer=first) if first else inputs
    upper = upper_layers(base.training(["embed.W", "head.b"]), first)
    assert upper.trained == ({"head.b"} if first else {"embed.W", "head.b"})
    assert all(upper.params[name] is base.params[name] for name in upper.params)
    assert encoder_size(upper.config) == sum(a.size for a in upper.params.values())
    noise = np.random.default_rng(1).standard_normal((2, 2))
    found = []
    for model, x, x_types in ((base, inputs, types), (upper, x_NTD, None if first else types)):
        model = attach(model, adapter).with_params({trained[0]: noise, trained[1]: np.array(1.7)}).training(trained)
        found.append(loss_and_grads(model, x, labels, mask, types_NT=x_types))
    (loss, grads, logits), (upper_loss, upper_grads, upper_logits) = found
    np.testing.assert_array_equal(upper_logits, logits)
    assert upper_loss == loss
    assert set(upper_grads) == set(trained)
    for name in trained:
        np.testing.assert_array_equal(upper_grads[name], grads[name])
    np.testing.assert_array_equal(hidden_states(upper, x_NTD, mask, None if first else types),
                                  hidden_states(base, inputs, mask, types))  # fmt: skip


@pytest.mark.parametrize("method", [pytest.param(m, marks=[] if m == "tlora" else pytest.mark.slow) for m in METHODS])
def test_every_gradient_of_an_adapted_encoder(method):
    """Any places, layers and ranks, with dropout, and with other arrays trained beside the adapter or not."""
    places = METHODS[method].places
    also = ("head.W", "head.b", "layers.0.attn_norm.gamma", "layers.1.ffn_norm.beta")

    @settings(max_examples=12)
    @given(
        seed=st.integers(0, 2**16),
        rank=st.integers(1, 5),
        targets=st.sets(st.sampled_from(places), min_size=1).map(lambda s: tuple(sorted(s))),
        layers=st.sampled_from([None, (0,), (1,)]),
        dropout=st.sampled_from([0.0, 0.25] if METHODS[method].keep else [0.0]),
        head=st.booleans(),
    )
    def check(seed, rank, targets, layers, dropout, head):
        adapter = AdapterConfig(method, rank, targets, layers, dropout, lora_alpha=2.0)
        model, inputs, labels, mask = tiny(seed, adapter, also if head else ())
        keep = dropout_masks(model, np.random.default_rng(seed), (3, 4))
        assert_gradients_agree(model, inputs, labels, mask, keep)

    check()


@pytest.mark.parametrize("name", sorted(encoder_shapes(EncoderConfig(features=3))))
def test_any_single_array_can_be_trained_alone(name):
    """The backward stops as low as it may and no lower, whichever array is the only one that trains."""
    model, inputs, labels, mask = tiny()
    _, everything, _ = loss_and_grads(model, inputs, labels, mask)
    _, alone, _ = loss_and_grads(model.training([name]), inputs, labels, mask)
    assert list(alone) == [name]
    np.testing.assert_array_equal(alone[name], everything[name])


def test_upper_adapters_keep_no_cache_below_and_read_nothing_there(monkeypatch):
    model, inputs, _, mask = tiny(adapter=AdapterConfig(rank=2, layers=(1,)))
    calls = []
    original = encoder_module.layer_bwd
    monkeypatch.setattr(encoder_module, "layer_bwd", lambda m, at, *rest: calls.append(at) or original(m, at, *rest))
    logits, cache = encoder_fwd(model, inputs, mask)
    assert cache.embedding is None
    assert cache.layers[0] is None
    encoder_bwd(np.ones_like(logits), cache)
    assert calls == ["layers.1"]


@pytest.mark.parametrize("pool", ["mean", "first"])
@pytest.mark.parametrize("kind", [{}, ROBERTA], ids=["features", "roberta"])
def test_leaving_padding_out_changes_nothing(kind, pool, monkeypatch):
    """Logits, loss and every gradient are those of a run that computes all tokens, one with an empty text and one with
    a first token of padding among them; and only the rows of the others are computed."""
    model, inputs, labels, mask = tiny(adapter=AdapterConfig(rank=2, dropout=0.5), **{**kind, "pool": pool})
    also = {name for name in model.params if name.rpartition(".")[0] not in model.adapted}
    model = model.training(model.trained | also)
    mask[1], mask[2] = False, [False, True, False, True]
    keep = dropout_masks(model, np.random.default_rng(0), (3, 4))
    rows, packed = [], encoder_module.packed
    monkeypatch.setattr(encoder_module, "packed", lambda x, real: rows.append(packed(x, real).shape) or packed(x, real))
    loss, grads, logits = loss_and_grads(model, inputs, labels, mask, keep)
    assert set(rows) == {(int(mask.sum()) + (2 if pool == "first" else 0), 6)}
    monkeypatch.setattr(encoder_module, "real_tokens", lambda model, mask: None)
    whole = loss_and_grads(model, inputs, labels, mask, keep)
    np.testing.assert_allclose(logits, whole[2], rtol=1e-12)
    assert loss == pytest.approx(whole[0], rel=1e-12)
    assert set(grads) == set(whole[1]) == model.trained
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, whole[1][name], rtol=1e-9, atol=1e-12, err_msg=name)
    # a run that forgets which tokens are real is another
    other = loss_and_grads(model, inputs, labels, None, keep)
    assert np.abs(other[2] - logits).max() > 1e-3


def test_a_frozen_matrix_keeps_no_input():
    model, inputs, _, mask = tiny(adapter=AdapterConfig(rank=2, targets=("query",)))
    layer = encoder_fwd(model, inputs, mask)[1].layers[0]
    assert [a.shape for a in layer.key] == [(6, 6)]
    assert layer.query[0].shape == (mask.sum(), 2)


@pytest.mark.parametrize("method", ["tlora", "lora"])
def test_attaching_changes_no_logit_and_no_array(method):
    base, inputs, _, mask = tiny(dtype=np.float32)
    before = {name: a.copy() for name, a in base.params.items()}
    adapted = attach(base, AdapterConfig(method, rank=3, targets=MATRICES, seed=4))
    np.testing.assert_array_equal(encoder_fwd(adapted, inputs, mask)[0], encoder_fwd(base, inputs, mask)[0])
    for name, array in before.items():
        np.testing.assert_array_equal(adapted.params[name], array)
        assert adapted.params[name] is base.params[name]
    assert set(detach(adapted).params) == set(base.params)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.mergeable])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-13)])
def test_merged_equals_unmerged_and_unmerging_is_exact(method, dtype, tolerance):
    model, inputs, _, mask = tiny(adapter=AdapterConfig(method, rank=3, targets=MATRICES, dropout=0.5), dtype=dtype)
    before = {name: a.copy() for name, a in model.params.items()}
    merged = merge(by_hand, model)
    logits, _ = encoder_fwd(model, inputs, mask)
    plain, _ = encoder_fwd(merged, inputs, mask)
    np.testing.assert_allclose(plain, logits, rtol=0, atol=tolerance * np.abs(logits).max())
    assert plain.dtype == dtype
    assert (merged.params["layers.0.query.W"] != model.params["layers.0.query.W"]).all()
    back = unmerge(merged)
    for name, array in before.items():
        np.testing.assert_array_equal(model.params[name], array)
        np.testing.assert_array_equal(back.params[name], array)
    np.testing.assert_array_equal(encoder_fwd(back, inputs, mask)[0], logits)
    for name in model.adapted:
        np.testing.assert_array_equal(encoder_module.delta_w(merged, name), encoder_module.delta_w(model, name))


def test_padding_does_not_reach_the_logits():
    model, inputs, _, mask = tiny()
    other = np.where(mask[..., None], inputs, 99.0)
    np.testing.assert_array_equal(encoder_fwd(model, other, mask)[0], encoder_fwd(model, inputs, mask)[0])
    shorter, _ = encoder_fwd(model, inputs[2:, :1], mask[2:, :1])
    np.testing.assert_allclose(shorter, encoder_fwd(model, inputs, mask)[0][2:], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, k: attach(m, AdapterConfig(targets=("qeury",))), "unknown target 'qeury' for tlora"),
        (lambda m, x, k: attach(m, AdapterConfig(rank=7)), r"rank 7 is larger than min\(I, O\) = 6"),
        (lambda m, x, k: attach(m, AdapterConfig(rank=6, targets=("ffn_in",))), r"= 5 of layers.0.ffn_in, \(6, 5\)"),
        (lambda m, x, k: attach(m, AdapterConfig(rank=1, layers=(2,))), "layer 2 does not exist"),
        (lambda m, x, k: attach(m, AdapterConfig(rank=1), ["hed.W"]), "train_also names 'hed.W'"),
        (lambda m, x, k: attach(m, AdapterConfig(rank=1), ["layers.0.query.W"]), "has no gradient"),
        (lambda m, x, k: attach(attach(m, AdapterConfig(rank=1)), AdapterConfig(rank=1)), "already has a tlora"),
        (lambda m, x, k: merge(by_hand, m), "no adapter"),
        (lambda m, x, k: unmerge(m), "nothing to unmerge"),
        (lambda m, x, k: merge(by_hand, merge(by_hand, attach(m, AdapterConfig(rank=1)))), "already merged"),
        (lambda m, x, k: detach(merge(by_hand, attach(m, AdapterConfig(rank=1)))), "unmerge it"),
        (lambda m, x, k: m.training(["nothing"]), "not in the model: nothing"),
        (lambda m, x, k: encoder_fwd(m, x[..., :2], k), r"shape \(3, 4, 2\), expected \(N, T, 3\)"),
        (lambda m, x, k: encoder_fwd(m, np.ones((1, 5, 3))), "T must be 1 to 4"),
        (lambda m, x, k: encoder_fwd(m, x, k[:2]), r"mask has shape \(2, 4\)"),
        (lambda m, x, k: encoder_fwd(m, x, k.astype(int)), "dtype int64"),
        (lambda m, x, k: encoder_fwd(m, x, types_NT=TYPES), "token types are given, expected None"),
        (lambda m, x, k: hidden_states(m, x, layer=2), "layer 2 does not exist, the encoder has layers 0 to 1"),
        (lambda m, x, k: upper_layers(m, 2), "layer 2 does not exist, the encoder has layers 0 to 1"),
        (lambda m, x, k: upper_layers(upper_layers(m, 1), 0), "layer 0 does not exist, the encoder has layers 1 to 1"),
        (lambda m, x, k: upper_layers(attach(m, AdapterConfig(rank=1)), 1), "take its upper layers before attaching"),
        (lambda m, x, k: encoder_fwd(upper_layers(m, 1), x), r"shape \(3, 4, 3\), expected \(N, T, 6\)"),
    ],
)
def test_bad_input_is_named(call, message):
    model, inputs, _, mask = tiny()
    with pytest.raises(InputError, match=message):
        call(model, inputs, mask)


def test_ids_outside_the_vocabulary_are_named():
    model, inputs, _, _ = tiny(features=None, vocab=7)
    with pytest.raises(InputError, match="values from 0 to 7, expected 0 to 6"):
        encoder_fwd(model, np.array([[0, 7]]))
    with pytest.raises(ShapeError, match=r"expected \(N, T\)"):
        encoder_fwd(model, inputs[0])
    model, inputs, _, _ = tiny(**BERT)
    with pytest.raises(InputError, match="token types has values from 0 to 3, expected 0 to 2"):
        encoder_fwd(model, inputs, types_NT=TYPES + (TYPES == 2))
    with pytest.raises(ShapeError, match=r"token types have shape \(2, 4\), expected \(3, 4\)"):
        encoder_fwd(model, inputs, types_NT=TYPES[:2])


def test_a_model_is_not_an_adapter_without_its_arrays():
    config = EncoderConfig(features=3)
    with pytest.raises(InputError, match=r"to be trained, but not in the model: layers.0.query.B"):
        Model(config, {}, trained=frozenset({"layers.0.query.B"}))
