"""What the core promises to methods that are not there yet: shared arrays that train, chains, models that change on
the way, other optimizers, ranks of single matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tlora_ref import (
    AdapterConfig,
    EncoderConfig,
    InputError,
    TrainConfig,
    attach,
    by_autograd,
    by_hand,
    fold,
    init_encoder,
    merge,
    train,
)
from tlora_ref.by_autograd import to_numpy, to_torch
from tlora_ref.by_hand.methods import METHODS, lora
from tlora_ref.by_hand.optimizers import adamw_carry, adamw_init, adamw_step
from tlora_ref.counts import count, held
from tlora_ref.gradcheck import check
from tlora_ref.room import Optimizer

ENCODER = EncoderConfig(width=8, layers=2, heads=2, hidden=10, time=4, features=3, classes=3)
CONFIG = TrainConfig(epochs=2, batch_size=4, lr=1e-2)
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((11, 4, 3)), rng.integers(0, 3, 11)


def base():
    return init_encoder(ENCODER, 0, np.float64)


# --- a store that all matrices share, and train ---------------------------------------------------------


@pytest.fixture
def tied(monkeypatch):
    """LoRA with one pair for all matrices, both factors trained: the simplest shared store that trains."""

    def draw_shared(sites, config):
        site = sites[0]._replace(name="shared", I=max(s.I for s in sites), O=max(s.O for s in sites))
        return lora.lora_draw(site, None, config)

    method = replace(lora.METHOD, name="tied", shared=("A", "B"), draw=lambda *_: {}, draw_shared=draw_shared)
    monkeypatch.setitem(METHODS, "tied", method)
    monkeypatch.setitem(by_autograd.TWINS, "tied", by_autograd.TWINS["lora"])
    return AdapterConfig("tied", rank=2, targets=("query", "ffn_in", "ffn_out"), lora_alpha=3.0)


def moved(model):
    generator = np.random.default_rng(1)
    return model.with_params(
        {n: model.params[n] + 0.3 * generator.standard_normal(model.params[n].shape) for n in model.trained}
    )


def test_gradients_of_a_shared_trained_store_add_up_over_its_uses(tied):
    model = moved(attach(base(), tied))
    assert model.trained == {"shared.A", "shared.B"}

    def loss(**arrays):
        value, grads, _ = by_hand.loss_and_grads(model.with_params(arrays), X, Y)
        return value, grads

    inputs = {name: model.params[name] for name in sorted(model.trained)}
    report = check(loss, lambda d, grads: {name: d * g for name, g in grads.items()}, inputs, points=("given",))
    assert report.ok, report.table()
    _, grads, _ = by_hand.loss_and_grads(model, X, Y)
    _, twin, _ = by_autograd.loss_and_grads(to_torch(model), X, Y)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, twin[name].numpy(), rtol=0, atol=1e-12)


def test_a_shared_trained_store_is_counted_once_trained_and_merged(tied):
    model = attach(base(), tied)
    assert count(ENCODER, tied).trained == held(model).trained == 2 * (10 + 10)
    after, _ = train(by_hand, model, X, Y, CONFIG)
    twin, _ = train(by_autograd, to_torch(model), X, Y, CONFIG)
    np.testing.assert_allclose(after.params["shared.B"], to_numpy(twin).params["shared.B"], rtol=0, atol=1e-10)
    assert (after.params["shared.B"] != 0).any()
    logits = by_hand.encoder_fwd(after, X)[0]
    np.testing.assert_allclose(by_hand.encoder_fwd(merge(by_hand, after), X)[0], logits, rtol=0, atol=1e-12)


def test_a_shared_array_that_the_method_freezes_cannot_be_trained():
    model = attach(base(), AdapterConfig("vera", rank=2))
    with pytest.raises(InputError, match=r"shared\.A cannot be trained"):
        model.training({"shared.A"})


# --- chains: fold and attach again -----------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.mergeable])
def test_an_adapter_is_folded_and_another_attached(method):
    first, _ = train(by_hand, attach(base(), AdapterConfig(method, rank=2)), X, Y, CONFIG)
    folded = fold(by_hand, first)
    assert folded.adapter is None
    assert not folded.trained
    assert set(folded.params) == set(base().params)
    logits = by_hand.encoder_fwd(first, X)[0]
    np.testing.assert_allclose(by_hand.encoder_fwd(folded, X)[0], logits, rtol=0, atol=1e-11)
    again = attach(folded, AdapterConfig("lora", rank=1, seed=5))
    np.testing.assert_allclose(by_hand.encoder_fwd(again, X)[0], logits, rtol=0, atol=1e-11)
    twin = to_numpy(fold(by_autograd, to_torch(first)))
    np.testing.assert_allclose(twin.params["layers.0.query.W"], folded.params["layers.0.query.W"], rtol=0, atol=1e-12)


def test_a_merged_adapter_folds_too_and_a_bottleneck_does_not():
    model, _ = train(by_hand, attach(base(), AdapterConfig(rank=2)), X, Y, CONFIG)
    merged = merge(by_hand, model)
    np.testing.assert_array_equal(fold(by_hand, merged).params["layers.1.value.W"], merged.params["layers.1.value.W"])
    with pytest.raises(InputError, match="adapter_h cannot be merged"):
        fold(by_hand, attach(base(), AdapterConfig("adapter_h", rank=2)))
    with pytest.raises(InputError, match="the model has no adapter"):
        fold(by_hand, base())


# --- a run that goes on, and one that changes its model ---------------------------------------------------


def test_a_second_run_goes_on_with_the_batches_that_follow():
    """Two epochs are one and one more: the second call does not repeat the first one's batches."""
    model = attach(base(), AdapterConfig(rank=2))
    seen = []

    class Room:
        OPTIMIZERS = by_hand.OPTIMIZERS
        own, loss_and_logits, delta_w = by_hand.own, by_hand.loss_and_logits, by_hand.delta_w

        @staticmethod
        def loss_and_grads(model, inputs, labels, *rest):
            seen.append(inputs[:, 0, 0].tolist())
            return by_hand.loss_and_grads(model, inputs, labels, *rest)

    train(Room, model, X, Y, TrainConfig(epochs=2, batch_size=4))
    whole, seen[:] = list(seen), []
    one = TrainConfig(epochs=1, batch_size=4)
    after, history = train(Room, model, X, Y, one)
    _, history = train(Room, after, X, Y, one, after=history)
    assert seen == whole
    assert history.epochs == 2
    train(Room, after, X, Y, one)
    assert seen[-3:] == whole[:3]  # without the history it is the first epoch again


@pytest.mark.parametrize("room", [by_hand, by_autograd], ids=["by_hand", "by_autograd"])
def test_between_two_steps_a_run_may_change_its_model(room):
    """Folded and attached again after the second step: the function stays, and what trains from there on is new."""
    model = attach(base(), AdapterConfig("lora", rank=2))
    model = model if room is by_hand else to_torch(model)
    seen = {}

    def between(run):
        if run.step != 2:
            return None
        folded = room.to_numpy(fold(room, run.model))
        again = attach(folded, AdapterConfig("lora", rank=1, seed=9))
        seen["before"], seen["after"] = run.model, again if room is by_hand else to_torch(again)
        return again  # of NumPy arrays, in either room

    after, history = train(room, model, X, Y, CONFIG, between=between)
    assert len(history.loss) == 6
    assert tuple(after.params["layers.0.query.B"].shape) == (1, 8)
    logits = [np.asarray(room.loss_and_logits(seen[at], X, Y, None, None)[1]) for at in ("before", "after")]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-6)


def test_what_the_optimizer_carries_when_arrays_change():
    config = TrainConfig()
    before = {"a.B": np.ones((2, 2)), "b.B": np.ones(3)}
    state = adamw_init(before, config)
    adamw_step(before, {name: np.full_like(p, 0.5) for name, p in before.items()}, state, 0.1, config)
    after = {"a.B": np.zeros((2, 2)), "b.B": np.ones(2), "c.B": np.ones(1)}
    carried = adamw_carry(state, before, after, config)
    assert (carried.m["a.B"] == state.m["a.B"]).all()
    assert carried.t == {"a.B": 1, "b.B": 0, "c.B": 0}
    assert not carried.v["b.B"].any()
    adamw_step(after, {name: np.ones_like(p) for name, p in after.items()}, carried, 0.1, config)


def test_another_optimizer_is_one_row_of_a_table(monkeypatch):
    from tlora_ref import config as config_module

    plain = Optimizer(
        init=lambda params, config: None,
        step=lambda params, grads, state, lr, config: {n: p - lr * grads[n] for n, p in params.items()},
        carry=lambda state, before, after, config: None,
    )
    monkeypatch.setitem(by_hand.OPTIMIZERS, "plain", plain)
    monkeypatch.setattr(config_module, "OPTIMIZERS", ("adamw", "plain"))
    model = attach(base(), AdapterConfig(rank=2))
    config = TrainConfig(epochs=1, batch_size=11, lr=0.1, warmup=0.0, optimizer="plain")
    after, _ = train(by_hand, model, X, Y, config)
    _, grads, _ = by_hand.loss_and_grads(model, X, Y)
    np.testing.assert_allclose(after.params["layers.0.query.B"], -0.1 * grads["layers.0.query.B"], rtol=1e-9)
    with pytest.raises(InputError, match="optimizer is 'sgd', expected None or one of adamw, plain"):
        TrainConfig(optimizer="sgd")


# --- ranks of single matrices -----------------------------------------------------------------------------


def test_ranks_of_single_matrices_and_none_at_all():
    adapter = AdapterConfig("lora", rank=3, ranks={"layers.0.query": 1, "layers.1.value": 0}, lora_alpha=6.0)
    model = attach(base(), adapter)
    assert set(model.adapted) == {"layers.0.query", "layers.0.value", "layers.1.query"}
    assert model.params["layers.0.query.A"].shape == (8, 1)
    assert model.params["layers.0.value.A"].shape == (8, 3)
    assert count(ENCODER, adapter).trained == held(model).trained == 16 * (1 + 3 + 3)
    # the scale is lora_alpha over the matrix's own rank: 6 and 2
    model = moved(model)
    for name, scale in (("layers.0.query", 6.0), ("layers.0.value", 2.0)):
        expected = scale * model.params[f"{name}.A"] @ model.params[f"{name}.B"]
        np.testing.assert_allclose(by_hand.delta_w(model, name), expected, rtol=1e-12)
    twin = by_autograd.loss_and_grads(to_torch(model), X, Y)[1]
    for name, gradient in by_hand.loss_and_grads(model, X, Y)[1].items():
        np.testing.assert_allclose(gradient, twin[name].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"layers.0.query": -1}, r"rank of layers\.0\.query is -1, expected a whole number, at least 0"),
        ({"layers.0.key": 2}, r"ranks names 'layers\.0\.key', expected some of the adapted layers\.0\.query"),
        ({"layers.0.query": 9}, r"rank 9 is larger than min\(I, O\) = 8 of layers\.0\.query"),
        ({f"layers.{i}.{t}": 0 for i in (0, 1) for t in ("query", "value")}, "the rank of every matrix is 0"),
    ],
)
def test_ranks_that_cannot_be(ranks, message):
    with pytest.raises(InputError, match=message):
        attach(base(), AdapterConfig("lora", rank=2, ranks=ranks))
