"""Training: the optimizer against its definition, what moves and what may not, determinism, bad data."""

import numpy as np
import pytest
import scipy.linalg
from test_encoder import tiny

from tlora_ref import (
    AdapterConfig,
    InputError,
    ShapeError,
    TrainConfig,
    attach,
    by_hand,
    evaluate,
    init_encoder,
    merge,
    train,
)
from tlora_ref.by_hand.optimizers import ORTHOGONAL, adamw_init, adamw_step, stiefel_step
from tlora_ref.config import EncoderConfig
from tlora_ref.methods import MATRICES
from tlora_ref.training import NonFiniteError, batches, clip_gradients, dropout_masks, learning_rate

CONFIG = TrainConfig(epochs=3, batch_size=4, lr=1e-2)


def data(n=10, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 4, 3)), rng.integers(0, classes, n)


def adapted(method="tlora", **changes):
    return tiny(adapter=AdapterConfig(method, rank=2, targets=MATRICES, **changes))[0]


def test_adamw_against_its_definition():
    """Two steps on one number, written out from algorithm 2 of arXiv 1711.05101."""
    config = TrainConfig(weight_decay=0.1, betas=(0.9, 0.99), eps=1e-3)
    p, (g1, g2), (lr1, lr2) = 2.0, (0.5, -3.0), (0.01, 0.02)
    params = {"layers.0.query.alpha": np.array(p)}
    state = adamw_init(params, config)
    params = adamw_step(params, {"layers.0.query.alpha": np.array(g1)}, state, lr1, config)
    m, v = 0.1 * g1, 0.01 * g1**2
    p = p - lr1 * 0.1 * p - lr1 * (m / 0.1) / (np.sqrt(v / 0.01) + 1e-3)
    np.testing.assert_allclose(params["layers.0.query.alpha"], p, rtol=1e-14)
    params = adamw_step(params, {"layers.0.query.alpha": np.array(g2)}, state, lr2, config)
    m, v = 0.9 * m + 0.1 * g2, 0.99 * v + 0.01 * g2**2
    p = p - lr2 * 0.1 * p - lr2 * (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.99**2)) + 1e-3)
    np.testing.assert_allclose(params["layers.0.query.alpha"], p, rtol=1e-14)
    assert state.t == {"layers.0.query.alpha": 2}
    assert isinstance(params["layers.0.query.alpha"], np.ndarray)  # of a scalar too, not one of NumPy's numbers


def test_the_stiefel_step_against_its_definition():
    """Three steps on one orthogonal matrix: Adam on the skew part of Q^T dQ, entry by entry, then the nearest
    orthogonal one, here by SciPy. What is not orthogonal gets AdamW's step, and both are in one state."""
    config = TrainConfig(weight_decay=0.1, betas=(0.9, 0.99), eps=1e-3)
    rng = np.random.default_rng(0)
    name, other = "layers.0.query.Q1", "layers.0.query.alpha"
    assert "Q1" in ORTHOGONAL
    params = {name: np.linalg.qr(rng.standard_normal((4, 4)))[0], other: np.array(2.0)}
    state, plain = adamw_init(params, config), adamw_init({other: params[other]}, config)
    Q, alpha, m, v = params[name], {other: params[other]}, np.zeros((4, 4)), np.zeros((4, 4))
    for t, lr in enumerate((0.3, 0.2, 0.1), start=1):
        grads = {name: rng.standard_normal((4, 4)), other: rng.standard_normal(())}
        before = {key: array.copy() for key, array in params.items()}
        after = stiefel_step(params, grads, state, lr, config)
        assert all((params[key] == before[key]).all() for key in params)
        skew = Q.T @ grads[name] - grads[name].T @ Q
        m, v = 0.9 * m + 0.1 * skew, 0.99 * v + 0.01 * skew**2
        step = lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-3)
        Q = scipy.linalg.polar(Q @ (np.eye(4) - step))[0]
        alpha = adamw_step(alpha, {other: grads[other]}, plain, lr, config)
        np.testing.assert_allclose(after[name], Q, rtol=0, atol=1e-13)
        np.testing.assert_allclose(after[name].T @ after[name], np.eye(4), rtol=0, atol=1e-13)
        np.testing.assert_array_equal(after[other], alpha[other])
        params = after
    assert state.t == {name: 3, other: 3}


def test_the_decay_acts_on_alpha_unless_exempted():
    params = {"m.alpha": np.array(1.0), "m.B": np.ones((2, 2))}
    zero = {name: np.zeros_like(p) for name, p in params.items()}
    after = adamw_step(params, zero, adamw_init(params, CONFIG), 0.1, TrainConfig(weight_decay=0.01))
    assert after["m.alpha"] == 0.999
    np.testing.assert_array_equal(after["m.B"], np.full((2, 2), 0.999))
    after = adamw_step(
        params, zero, adamw_init(params, CONFIG), 0.1, TrainConfig(weight_decay=0.01, no_decay=("alpha",))
    )
    assert after["m.alpha"] == 1.0
    np.testing.assert_array_equal(after["m.B"], np.full((2, 2), 0.999))
    assert params["m.alpha"] == 1.0


def test_the_learning_rate_warms_up_and_decays_linearly():
    config = TrainConfig(lr=2.0, warmup=0.25)
    rates = [learning_rate(step, 8, config) for step in range(8)]
    np.testing.assert_allclose(rates, [1, 2, 2, 10 / 6, 8 / 6, 1, 4 / 6, 2 / 6])
    assert learning_rate(0, 5, TrainConfig(lr=2.0, warmup=0)) == 2.0


def test_clipping_bounds_the_common_norm_and_keeps_the_direction():
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    clipped = clip_gradients(grads, 1.0)
    np.testing.assert_allclose(clipped["a"], [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[0.8]], rtol=1e-6)
    np.testing.assert_array_equal(clip_gradients(grads, 10.0)["a"], grads["a"])


def test_an_epoch_shows_every_example_once():
    orders = [np.concatenate(list(batches(10, TrainConfig(epochs=2, batch_size=4, seed=s)))) for s in (0, 0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order[:10]), np.arange(10))
        np.testing.assert_array_equal(np.sort(order[10:]), np.arange(10))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    assert [len(b) for b in batches(10, TrainConfig(epochs=1, batch_size=4))] == [4, 4, 2]


@pytest.mark.parametrize("method", ["tlora", "lora"])
def test_frozen_arrays_are_bit_identical_and_trained_ones_move(method):
    model = attach(init_encoder(EncoderConfig(width=6, heads=2, hidden=5, time=4, classes=3, features=3)),
                   AdapterConfig(method, rank=2, targets=MATRICES, dropout=0.2), ["head.W"])  # fmt: skip
    before = {name: a.copy() for name, a in model.params.items()}
    x, y = data()
    after, history = train(by_hand, model, x.astype(np.float32), y, CONFIG)
    for name, array in before.items():
        np.testing.assert_array_equal(model.params[name], array, err_msg=f"{name} of the model given")
        moved = (after.params[name] != array).any()
        assert moved == (name in model.trained), name
        assert after.params[name].dtype == np.float32, name
        assert after.params[name].shape == array.shape, name
    assert len(history.loss) == 9


def test_training_learns():
    x, _ = data(40)
    y = (x.mean(axis=(1, 2)) > 0).astype(int)
    model, history = train(by_hand, adapted(), x, y, TrainConfig(epochs=100, batch_size=20, lr=3e-2))
    assert history.loss[-1] < 0.5 * history.loss[0]
    loss, accuracy = evaluate(by_hand, model, x, y)
    assert accuracy > 0.8
    assert abs(loss - history.loss[-1]) < 0.3


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    x, y = data()
    runs = [
        train(by_hand, adapted(dropout=0.5), x, y, TrainConfig(epochs=3, batch_size=4, lr=1e-2, seed=s))
        for s in (1, 1, 2)
    ]
    for name in runs[0][0].trained:
        np.testing.assert_array_equal(runs[0][0].params[name], runs[1][0].params[name])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1].loss != runs[2][1].loss


def test_the_history_has_the_start_and_every_epoch():
    x, y = data()
    seen = []
    model, history = train(by_hand, adapted(), x, y, CONFIG, validation=(x, y), progress=lambda *at: seen.append(at))
    assert seen == [(i + 1, 9) for i in range(9)]
    assert len(history.accuracy) == len(history.eval_loss) == 4
    assert history.accuracy[-1] == evaluate(by_hand, model, x, y)[1]
    assert set(history.alpha) == set(history.B_norm) == set(model.adapted)
    name = "layers.1.value"
    assert len(history.alpha[name]) == 4
    assert history.alpha[name][-1] == model.params[f"{name}.alpha"]
    np.testing.assert_allclose(history.B_norm[name][-1], np.linalg.norm(model.params[f"{name}.B"]))
    _, lora_history = train(by_hand, adapted("lora"), x, y, CONFIG)
    assert not lora_history.alpha
    assert set(lora_history.B_norm) == set(model.adapted)


def test_a_dropout_mask_keeps_the_mean_and_stands_where_the_method_has_it():
    for method, width in (("tlora", 5), ("lora", 6)):
        model = tiny(adapter=AdapterConfig(method, rank=2, targets=("ffn_in",), dropout=0.25))[0]
        keep = dropout_masks(model, np.random.default_rng(0), (400, 4))
        assert set(keep) == {"layers.0.ffn_in", "layers.1.ffn_in"}
        mask = keep["layers.0.ffn_in"]
        assert mask.shape == (400, 4, width)
        assert set(np.unique(mask)) == {0, 1 / 0.75}
        assert abs(mask.mean() - 1) < 0.03
        assert (mask != keep["layers.1.ffn_in"]).any()
    assert dropout_masks(tiny()[0], np.random.default_rng(0), (4, 4)) == {}


def test_evaluation_does_not_depend_on_the_batch_size():
    model = adapted(dropout=0.5)
    x, y = data(9)
    np.testing.assert_allclose(evaluate(by_hand, model, x, y, batch_size=4), evaluate(by_hand, model, x, y), rtol=1e-12)


def test_a_loss_that_is_not_finite_names_step_rate_and_array():
    x, y = data()
    with (
        pytest.raises(NonFiniteError, match=r"step 1, learning rate 9.33e\+199.*not finite is logits"),
        np.errstate(all="ignore"),
    ):
        train(by_hand, adapted(), x, y, TrainConfig(epochs=5, batch_size=4, lr=1e200, warmup=0))
    broken = adapted()
    broken = broken.with_params({"layers.0.key.B": np.full((2, 2), np.nan)})
    with pytest.raises(NonFiniteError, match=r"step 0.*not finite is layers.0.key.B"):
        train(by_hand, broken, x, y, CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (np.where(x == x[2, 1, 0], np.nan, x), y), r"inputs hold nan at \[2, 1, 0\]"),
        (lambda x, y: (np.where(x == x[0, 0, 0], np.inf, x), y), r"inputs hold inf at \[0, 0, 0\]"),
        (lambda x, y: (x, y + 1), "labels has values from 1 to 3, expected 0 to 2"),
        (lambda x, y: (x, y[:-1]), r"labels have shape \(9,\), inputs \(10, 4, 3\)"),
        (lambda x, y: (x, y.astype(float)), "dtype float64, expected integers"),
        (lambda x, y: (x[:0], y[:0]), "expected one label a row"),
    ],
)
def test_data_that_do_not_fit_are_named_before_anything_trains(change, message):
    x, y = change(*data())
    y = np.where(y == 0, 1, y) if "1 to 3" in message else y
    with pytest.raises(InputError, match=message):
        train(by_hand, adapted(), x, y, CONFIG)


def test_what_cannot_be_trained_is_named():
    x, y = data()
    with pytest.raises(InputError, match="unmerge it before training"):
        train(by_hand, merge(by_hand, adapted()), x, y, CONFIG)
    with pytest.raises(InputError, match="nothing to train"):
        train(by_hand, adapted().training([]), x, y, CONFIG)
    with pytest.raises(InputError, match="no_decay names 'alhpa'"):
        train(by_hand, adapted(), x, y, TrainConfig(no_decay=("alhpa",)))
    with pytest.raises(ShapeError, match="expected"):
        train(by_hand, adapted(), x[:, :, :2], y, CONFIG)
