"""LoRA-RITE: trajectories of A B do not depend on how the product is split, and Adam's do; both rooms take one path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoder import tiny
from test_family import config as adapter_config

from tlora_ref import InputError, TrainConfig, attach, by_autograd, by_hand, fold, train
from tlora_ref.by_autograd import to_numpy, to_torch
from tlora_ref.by_autograd.inject import adapted, inject
from tlora_ref.by_autograd.lora_rite import LoRARite
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.methods import factor_pairs

SEEDS = st.integers(0, 2**32 - 1)
CONFIG = TrainConfig(lr=0.05, weight_decay=0.0)
STEPS = 20


def problem(seed, rank):
    """x (9, 5), a target (9, 7) and factors A (5, R), B (R, 7) with singular values from 0.7 to 2; the loss, sum of
    log cosh(x A B - target), is one of the product."""
    r = np.random.default_rng(seed)
    x, target = r.standard_normal((9, 5)), 3 * r.standard_normal((9, 7))
    long = np.geomspace(0.7, 2.0, rank)
    A, B = (np.linalg.qr(r.standard_normal((size, rank)))[0] * long for size in (5, 7))
    return x, target, A, B.T


def gradients(x, target, A, B):
    K = x.T @ np.tanh(x @ A @ B - target) / len(x)
    return {"m.A": K @ B.T, "m.B": A.T @ K}


def path(optimizer, x, target, A, B, config=CONFIG):
    """The products A B (20, 5, 7) behind each step by hand."""
    params, products = {"m.A": A, "m.B": B}, []
    optimizer = by_hand.OPTIMIZERS[optimizer]
    state = optimizer.init(params, config)
    for _ in range(STEPS):
        grads = gradients(x, target, params["m.A"], params["m.B"])
        params = optimizer.step(params, grads, state, config.lr, config)
        products.append(params["m.A"] @ params["m.B"])
    return np.array(products)


def torch_path(optimizer, x, target, A, B, config=CONFIG):
    """The same in PyTorch."""
    params, products = {"m.A": torch.from_numpy(A.copy()), "m.B": torch.from_numpy(B.copy())}, []
    optimizer = by_autograd.OPTIMIZERS[optimizer]
    state = optimizer.init(params, config)
    for _ in range(STEPS):
        grads = gradients(x, target, params["m.A"].numpy(), params["m.B"].numpy())
        grads = {name: torch.from_numpy(g) for name, g in grads.items()}
        params = optimizer.step(params, grads, state, config.lr, config)
        products.append((params["m.A"] @ params["m.B"]).numpy())
    return np.array(products)


def split(seed, rank):
    """An invertible M (R, R), far from a multiple of a rotation but well-conditioned, and its inverse."""
    r = np.random.default_rng([seed, 1])
    left, right = (np.linalg.qr(r.standard_normal((rank, rank)))[0] for _ in range(2))
    stretch = np.geomspace(0.2, 3.0, rank) if rank > 1 else np.array([0.2])
    return (left * stretch) @ right, right.T @ (left / stretch).T


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 4), st.sampled_from([path, torch_path]), st.sampled_from([0.0, 0.1]))
def test_the_products_path_does_not_depend_on_how_it_is_split(seed, rank, room, decay):
    x, target, A, B = problem(seed, rank)
    M, inverse = split(seed, rank)
    config = replace(CONFIG, weight_decay=decay)
    one, other = room("lora_rite", x, target, A, B, config), room("lora_rite", x, target, A @ M, inverse @ B, config)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-12)
    assert np.abs(one[-1] - A @ B).max() > 0.1  # it has gone somewhere


@settings(max_examples=10)
@given(SEEDS, st.integers(2, 4))
def test_adams_path_does(seed, rank):
    x, target, A, B = problem(seed, rank)
    M, inverse = split(seed, rank)
    one, other = path("adamw", x, target, A, B), path("adamw", x, target, A @ M, inverse @ B)
    assert np.abs(other - one).max() > 0.1


@settings(max_examples=10)
@given(SEEDS, st.integers(1, 4))
def test_from_loras_start_as_well_and_there_a_waits_for_b(seed, rank):
    x, target, A, B = problem(seed, rank)
    M, _ = split(seed, rank)
    one, other = path("lora_rite", x, target, A, 0 * B), path("lora_rite", x, target, A @ M, 0 * B)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-12)
    optimizer, params = by_hand.OPTIMIZERS["lora_rite"], {"m.A": A, "m.B": 0 * B}
    state = optimizer.init(params, CONFIG)
    after = optimizer.step(params, gradients(x, target, A, 0 * B), state, 0.05, CONFIG)
    np.testing.assert_array_equal(after["m.A"], A)
    assert np.abs(after["m.B"]).max() > 0


@settings(max_examples=10)
@given(SEEDS, st.integers(1, 4))
def test_both_rooms_take_one_path(seed, rank):
    x, target, A, B = problem(seed, rank)
    for optimizer in ("lora_rite", "adamw"):
        found = torch_path(optimizer, x, target, A, B)
        np.testing.assert_allclose(found, path(optimizer, x, target, A, B), rtol=0, atol=1e-12)


@settings(max_examples=10)
@given(SEEDS, st.integers(1, 4))
def test_the_steps_are_those_of_the_papers_list_with_a_polar_basis(seed, rank):
    """Written once more, with what the choice of a basis leaves open chosen differently: U of the polar decomposition,
    and Adam's bias corrections divided out of plain averages instead of decays that change."""
    x, target, A, B = problem(seed, rank)
    expected, eps, (b1, b2) = [], CONFIG.eps, CONFIG.betas
    old, first, second = {}, {"A": 0.0, "B": 0.0}, {"A": 0.0, "B": 0.0}

    def root(matrix, power):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * power(values)) @ vectors.T

    for t in range(1, STEPS + 1):
        grads = gradients(x, target, A, B)
        factors, d = {"A": A, "B": B.T}, {"A": grads["m.A"], "B": grads["m.B"].T}
        # factor = U H with H symmetric
        H = {key: root(F.T @ F, np.sqrt) for key, F in factors.items()}
        U = {key: F @ np.linalg.inv(H[key]) for key, F in factors.items()}
        step = {}
        for key, other in (("A", "B"), ("B", "A")):
            g = d[key] @ np.linalg.inv(H[other])
            P = U[other].T @ old[other] if old else np.zeros((rank, rank))
            second[key] = b2 * (P @ (second[key] * np.ones((rank, rank))) @ P.T) + (1 - b2) * g.T @ g / len(g)
            S = g @ root(second[key] / (1 - b2**t), lambda v: 1 / (np.sqrt(np.maximum(v, 0)) + eps))
            first[key] = b1 * (first[key] * np.ones_like(g)) @ P.T + (1 - b1) * S
            step[key] = first[key] / (1 - b1**t) @ np.linalg.inv(H[other]).T
        A, B, old = A - CONFIG.lr * step["A"], B - CONFIG.lr * step["B"].T, U
        expected.append(A @ B)
    x, target, A, B = problem(seed, rank)
    np.testing.assert_allclose(path("lora_rite", x, target, A, B), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["lora", "dora", "dora_full"])
def test_whole_models_train_alike_in_both_rooms(method):
    """What is no pair, a magnitude and the head's bias here, moves as AdamW moves it."""
    base, inputs, labels, _ = tiny()
    model = attach(base, adapter_config(method, rank=2, targets=("query", "value")), train_also=("head.b",))
    run = TrainConfig(epochs=6, batch_size=3, lr=1e-2, optimizer="lora_rite", no_decay=("B",))
    after, history = train(by_hand, model, inputs, labels, run)
    twin = to_numpy(train(by_autograd, to_torch(model), inputs, labels, run)[0])
    for name in model.trained:
        np.testing.assert_allclose(twin.params[name], after.params[name], rtol=0, atol=1e-9, err_msg=name)
    assert by_hand.loss_and_logits(after, inputs, labels, None, None)[0] < history.loss[0]
    modules, rest = factor_pairs(sorted(model.trained))
    assert set(modules) == set(model.adapted)
    assert "head.b" in rest
    assert len(rest) == 1 + (0 if method == "lora" else len(modules))


@pytest.mark.parametrize("room", [by_hand, by_autograd], ids=["by_hand", "by_autograd"])
def test_a_pair_that_stays_keeps_its_moments_when_the_model_changes(room):
    """A fresh pair beside it takes a first step; its own is the second one, as if nothing had happened."""
    optimizer, shapes = room.OPTIMIZERS["lora_rite"], {"m.A": (5, 2), "m.B": (2, 7), "rest": (4,)}

    def draw(shapes, seed):
        r = np.random.default_rng(seed)
        made = {name: r.standard_normal(shape) for name, shape in shapes.items()}
        return made if room is by_hand else {name: torch.from_numpy(a) for name, a in made.items()}

    def two_steps(before, after):
        params = draw(shapes | before, 0)
        state = optimizer.init(params, CONFIG)
        params = optimizer.step(params, draw(shapes | before, 1), state, 0.1, CONFIG)
        changed = {name: params[name] for name in shapes} | draw(after, 2)
        state = optimizer.carry(state, params, changed, CONFIG)
        params = optimizer.step(changed, draw(shapes | after, 3), state, 0.1, CONFIG)
        of_A = state.pairs if room is by_hand else {m: state.rite.state[changed[f"{m}.A"]] for m in ("m", "n")}
        steps = [of_A[m].t if room is by_hand else of_A[m].get("t") for m in ("m", "n") if m in of_A]
        return {name: np.asarray(params[name]) for name in shapes}, steps

    found, steps = two_steps({"n.A": (5, 3), "n.B": (3, 7)}, {"n.A": (5, 2), "n.B": (2, 7)})
    expected, _ = two_steps({"n.A": (5, 2), "n.B": (2, 7)}, {"n.A": (5, 2), "n.B": (2, 7)})
    assert steps == [2, 1]
    for name in shapes:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_foreign_torch_model_trains_with_it():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 8)).double()
    x, target = torch.randn(20, 8, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    inject(model, ("0", "2"), rank=2, method="lora")
    optimizer, losses = LoRARite([(layer.A, layer.B) for layer in adapted(model)], lr=3e-2), []
    for _ in range(40):
        loss = ((model(x) - target) ** 2).mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].product])
def test_what_has_no_pair_of_factors_is_refused(method):
    base, inputs, labels, _ = tiny()
    model = attach(base, adapter_config(method))
    expected = f"optimizer is 'lora_rite', expected another for {method}: it moves the two factors of a product"
    with pytest.raises(InputError, match=expected):
        train(by_hand, model, inputs, labels, TrainConfig(optimizer="lora_rite"))


def test_no_adapter_and_a_common_clipping_are_refused():
    base, inputs, labels, _ = tiny()
    with pytest.raises(InputError, match="expected another for a model without an adapter"):
        train(by_hand, base.training({"head.b"}), inputs, labels, TrainConfig(optimizer="lora_rite"))
    model = attach(base, adapter_config("lora"))
    with pytest.raises(InputError, match=r"clip is 1, expected None for lora_rite"):
        train(by_hand, model, inputs, labels, TrainConfig(optimizer="lora_rite", clip=1.0))


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].product])
def test_what_may_be_split_differently_is_a_function_of_the_product(method):
    """The claim of the table's ``product``: the update is the same for (A M, M^-1 B)."""
    model = tiny(3, adapter_config(method, rank=2))[0]
    M, inverse = split(0, 2)
    for name in model.adapted:
        A, B = model.params[f"{name}.A"], model.params[f"{name}.B"]
        again = model.with_params({f"{name}.A": A @ M, f"{name}.B": inverse @ B})
        np.testing.assert_allclose(by_hand.delta_w(again, name), by_hand.delta_w(model, name), rtol=0, atol=1e-12)
    assert fold(by_hand, model).adapter is None
