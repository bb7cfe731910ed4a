"""Frozen factors that are not two random draws: their norms, what they span, the start they give, their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ENCODER, net
from torch import nn

from tlora_ref import AdapterConfig, InputError, attach, init_encoder, merge, unmerge
from tlora_ref import by_autograd as torch_room
from tlora_ref import by_hand as hand_room
from tlora_ref.by_autograd import inject as injected
from tlora_ref.by_autograd.gradient_factors import gradient_arrays
from tlora_ref.by_hand import encoder_fwd, gradient_factors, load_adapter, save_adapter
from tlora_ref.by_hand.gradient_factors import weight_gradient
from tlora_ref.by_hand.methods.tlora import tlora_draw
from tlora_ref.counts import count, held
from tlora_ref.factors import orthonormal, singular_vectors, with_released_norms
from tlora_ref.lab.analysis.subspace import best_share, captured_share
from tlora_ref.methods import Site
from tlora_ref.tensor_file import read_tensors

RNG = np.random.default_rng(0)
BASE = init_encoder(ENCODER, seed=3)
BATCHES = [(RNG.standard_normal((n, 5, 6)).astype(np.float32), RNG.integers(3, size=n)) for n in (4, 3)]
TARGETS = ("query", "ffn_in")
GRADIENT = AdapterConfig(rank=3, targets=TARGETS, init="gradient")


def sizes():
    return st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda IO: st.tuples(st.just(IO[0]), st.just(IO[1]), st.integers(1, min(IO)))
    )


# --- the rules -----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(sizes(), st.integers(0, 99), st.sampled_from(["orthonormal", "weight_svd"]))
def test_orthogonal_factors_have_the_norms_of_the_released_rule(IOR, seed, rule):
    I, O, R = IOR
    W0_IO = np.random.default_rng(seed).standard_normal((I, O))
    arrays = tlora_draw(Site("m", I, O, R), W0_IO, AdapterConfig(rank=R, init=rule, seed=seed))
    np.testing.assert_allclose(arrays["A"].T @ arrays["A"], I / (3 * R) * np.eye(R), atol=1e-12)
    np.testing.assert_allclose(arrays["C"] @ arrays["C"].T, np.eye(R) / 3, atol=1e-12)
    assert not arrays["B"].any()
    assert arrays["alpha"] == 1


def test_the_released_draw_has_those_norms_on_average():
    site, draws = Site("m", 20, 12, 4), [AdapterConfig(rank=4, seed=s) for s in range(200)]
    arrays = [tlora_draw(site, np.zeros((20, 12)), config) for config in draws]
    for base, expected in (("A", 20 / 3), ("C", 4 / 3)):
        found = [np.square(a[base]).sum() for a in arrays]
        assert abs(np.mean(found) - expected) < 5 * np.std(found) / np.sqrt(len(found))


def test_the_orthonormal_draw_spans_what_the_released_one_of_that_seed_spans():
    """So the share of an update that fits is the same, and only the scales within differ."""
    site, D_IO = Site("m", 9, 7, 3), RNG.standard_normal((9, 7))
    released, straight = (
        tlora_draw(site, D_IO, AdapterConfig(rank=3, init=rule, seed=5)) for rule in ("released", "orthonormal")
    )
    share = captured_share(D_IO, released["A"], released["C"])
    assert captured_share(D_IO, straight["A"], straight["C"]) == pytest.approx(share)


def test_an_orthonormal_draw_prefers_no_direction():
    """Every entry of E[Q Q^T] = (R / I) 1, and QR's own signs would make the first entry of every column negative."""
    drawn = [orthonormal(np.random.default_rng(s).standard_normal((5, 2))) for s in range(2000)]
    mean = np.mean([Q @ Q.T for Q in drawn], axis=0)
    np.testing.assert_allclose(mean, 0.4 * np.eye(5), atol=0.05)
    assert abs(np.mean([Q[0, 0] > 0 for Q in drawn]) - 0.5) < 0.06


@settings(max_examples=25, deadline=None)
@given(sizes(), st.integers(0, 99))
def test_singular_vectors_span_the_best_approximation(IOR, seed):
    I, O, R = IOR
    D_IO = np.random.default_rng(seed).standard_normal((I, O))
    U_IR, S_R, Vt_RO = singular_vectors(D_IO, R)
    np.testing.assert_allclose(U_IR.T @ D_IO @ Vt_RO.T, np.diag(S_R), atol=1e-12)
    assert (np.take_along_axis(U_IR, np.abs(U_IR).argmax(axis=0)[None], axis=0) > 0).all()
    A_IR, C_RO = with_released_norms(U_IR, Vt_RO.T)
    assert captured_share(D_IO, A_IR, C_RO) == pytest.approx(best_share(D_IO, R))


# --- by hand -------------------------------------------------------------------------------------


def test_at_the_start_B_has_the_largest_gradient_there_is_and_it_is_diagonal():
    factors = gradient_factors(BASE, GRADIENT, BATCHES)
    every = tuple(np.concatenate(parts) for parts in zip(*BATCHES, strict=True))
    model = attach(BASE, GRADIENT, factors=factors)
    _, grads, _ = hand_room.loss_and_grads(model, *every)
    random = attach(BASE, AdapterConfig(rank=3, targets=TARGETS, init="orthonormal"))
    _, of_random, _ = hand_room.loss_and_grads(random, *every)
    for name in factors:
        dW0_IO = weight_gradient(BASE, f"{name}.W", [every])
        _, S_R, _ = singular_vectors(dW0_IO, 3)
        I = len(dW0_IO)
        np.testing.assert_allclose(grads[f"{name}.B"], np.sqrt(I / 27) * np.diag(S_R), atol=1e-6)
        assert np.square(grads[f"{name}.B"]).sum() > np.square(of_random[f"{name}.B"]).sum()
        assert captured_share(dW0_IO, *factors[name]) == pytest.approx(best_share(dW0_IO, 3), rel=1e-5)


def test_the_gradient_is_that_of_the_mean_over_all_examples():
    every = tuple(np.concatenate(parts) for parts in zip(*BATCHES, strict=True))
    one, two = (weight_gradient(BASE, "layers.1.value.W", batches) for batches in ([every], BATCHES))
    np.testing.assert_allclose(one, two, atol=1e-7)
    whole = BASE.training(BASE.params)
    np.testing.assert_allclose(one, hand_room.loss_and_grads(whole, *every)[1]["layers.1.value.W"], atol=1e-7)


def test_nothing_changes_at_the_start_and_merging_is_exact():
    model = attach(BASE, GRADIENT, factors=gradient_factors(BASE, GRADIENT, BATCHES))
    x = BATCHES[0][0]
    np.testing.assert_array_equal(encoder_fwd(model, x)[0], encoder_fwd(BASE, x)[0])
    moved = model.with_params({n: model.params[n] + np.float32(0.3) for n in model.trained})
    merged = merge(hand_room, moved)
    np.testing.assert_allclose(encoder_fwd(merged, x)[0], encoder_fwd(moved, x)[0], atol=1e-5)
    for name in BASE.params:
        np.testing.assert_array_equal(unmerge(merged).params[name], BASE.params[name])


@pytest.mark.parametrize("rule", ["gradient", "weight_svd"])
def test_such_factors_are_stored_counted_and_named_in_the_file(rule, tmp_path):
    config = AdapterConfig(rank=3, targets=TARGETS, init=rule)
    factors = gradient_factors(BASE, config, BATCHES) if rule == "gradient" else None
    model = attach(BASE, config, factors=factors)
    counts = count(ENCODER, config)
    assert counts == held(model)
    assert counts.stored == counts.trained + counts.frozen_random
    path = tmp_path / "adapter"
    save_adapter(model, path, compact=True)
    content, tensors = read_tensors(path, "tlora_ref", "an adapter file", 1)
    assert (content["compact"], content["adapter"]["init"]) == (False, rule)
    assert sum(a.size for a in tensors.values()) == counts.stored
    loaded = load_adapter(BASE, path)
    assert loaded.adapter == config
    in_torch = torch_room.to_numpy(torch_room.load_adapter(torch_room.to_torch(BASE), path))
    for name, array in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], array)
        np.testing.assert_array_equal(in_torch.params[name], array)


def test_orthonormal_factors_follow_from_the_seed():
    config = AdapterConfig(rank=3, init="orthonormal")
    assert config.from_seed
    assert count(ENCODER, config).stored == count(ENCODER, config).trained


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: attach(BASE, GRADIENT), "init is 'gradient', and no factors are given for layers.0.query"),
        (lambda: attach(BASE, AdapterConfig(rank=3), factors={}), "factors are given and init is 'released'"),
        (lambda: attach(BASE, GRADIENT, factors={}), r"factors of layers.0.query have shapes \(\), expected"),
        (lambda: gradient_factors(BASE, GRADIENT, []), "batches is empty"),
        (
            lambda: gradient_factors(attach(BASE, AdapterConfig(rank=3)), GRADIENT, BATCHES),
            "has a tlora adapter, expected the base",
        ),
        (
            lambda: gradient_factors(BASE.with_params({"head.W": 0 * BASE.params["head.W"]}), GRADIENT, BATCHES),
            "the gradient of layers.0.query.W is zero",
        ),
        (lambda: AdapterConfig("lora", init="gradient"), "lora has no rules"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()


# --- in any torch model ----------------------------------------------------------------------------


def square(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


X = [torch.from_numpy(np.random.default_rng(s).standard_normal((6, 7))) for s in range(3)]


@pytest.mark.parametrize("target", ["query", "value", "mix"])
def test_the_hooks_find_the_singular_vectors_of_the_weights_gradient(target):
    model = net(dtype=torch.float64)
    names = [f"blocks.{i}.{target}" for i in (0, 1)]
    chosen = {name: model.get_submodule(name) for name in names}
    arrays = gradient_arrays(model, chosen, AdapterConfig(rank=2, init="gradient"), X, square)
    model.requires_grad_(True)
    sum(square(model, x) for x in X).backward()
    for name in names:
        weight = model.get_submodule(name).weight
        dW0_IO = (weight.grad if target == "mix" else weight.grad.T).numpy()
        U_IR, _, Vt_RO = singular_vectors(dW0_IO, 2)
        A_IR, C_RO = with_released_norms(U_IR, Vt_RO.T)
        # the sign of each pair is free
        sign_R = np.sign((A_IR * arrays[f"{name}.A"]).sum(axis=0))
        np.testing.assert_allclose(arrays[f"{name}.A"], A_IR * sign_R, atol=1e-8)
        np.testing.assert_allclose(arrays[f"{name}.C"], C_RO * sign_R[:, None], atol=1e-8)


def test_wide_layers_lose_next_to_nothing():
    """64 x 48, R = 3: K = 11 of 48 columns, singular values that decay slowly (1 / sqrt k)."""
    torch.manual_seed(0)
    wide = nn.Linear(64, 48, bias=False).double()
    U, V = (np.linalg.qr(np.random.default_rng(s).standard_normal((n, 48)))[0] for s, n in ((0, 64), (1, 48)))
    D_IO = U / np.sqrt(np.arange(1, 49)) @ V.T
    # <D, W> has the gradient D:  x = the identity, dy = D
    arrays = gradient_arrays(
        wide, {"": wide}, AdapterConfig(rank=3, init="gradient"), [torch.eye(64).double()],
        lambda model, x: (model(x) * torch.from_numpy(D_IO)).sum(),
    )  # fmt: skip
    share = captured_share(D_IO, arrays[".A"], arrays[".C"])
    assert 0.985 * best_share(D_IO, 3) < share < best_share(D_IO, 3)


def test_injected_with_batches_the_model_starts_as_it_was_and_says_what_it_stores(tmp_path):
    model, x = net(), X[0].float()
    model.blocks[0].norm.train()
    model.classifier.requires_grad_(False)
    before, y = [p.requires_grad for p in model.parameters()], model(x)
    training = [m.training for m in model.modules()]
    with pytest.raises(InputError, match="the two go together"):
        injected.inject(model, ("query",), 2, init="gradient")
    with pytest.raises(InputError, match="batches is empty"):
        injected.inject(model, ("query",), 2, init="gradient", batches=[], loss=square)
    with pytest.raises(InputError, match=r"gradient of blocks.0.query is zero"):
        injected.inject(model, ("query",), 2, init="gradient", batches=[x], loss=lambda m, x: 0 * m(x).sum())
    with pytest.raises(InputError, match="depends on none of the targets"):
        injected.inject(model, ("query",), 2, init="gradient", batches=[x], loss=lambda m, x: x.sum())
    assert [p.requires_grad for p in model.parameters()] == before
    assert [m.training for m in model.modules()] == training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    report = injected.inject(model, ("query",), 2, init="gradient", batches=[x], loss=square)
    assert torch.equal(model(x), y)
    assert report.counts.stored == report.counts.trained + report.counts.frozen_random == 2 * (5 + 2 * (7 + 5))
    assert "from the gradient of a loss and therefore stored as well" in str(report)
    torch_room.save_adapter(model, tmp_path / "a")
    again = net()
    torch_room.load_adapter(again, tmp_path / "a")
    for layer, other in zip(injected.adapted(model), injected.adapted(again), strict=True):
        assert torch.equal(layer.A, other.A)
        assert torch.equal(layer.C, other.C)


def test_a_frozen_model_of_ids_and_one_in_half_precision_give_factors_too():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.query = nn.Embedding(9, 6), nn.Linear(6, 4)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> object:
            logits = self.query(self.words(input_ids)).mean(dim=1).float()
            return type("Output", (), {"loss": nn.functional.cross_entropy(logits, labels)})

    torch.manual_seed(0)
    model = Words().requires_grad_(False)
    batch = {"input_ids": torch.arange(6).reshape(2, 3), "labels": torch.tensor([1, 3])}
    chosen, config = {"query": model.query}, AdapterConfig(rank=1, init="gradient")
    whole = gradient_arrays(model, chosen, config, [batch])
    half = gradient_arrays(model.bfloat16(), chosen, config, [batch])
    cosine = (whole["query.A"] * half["query.A"]).sum() / (np.linalg.norm(whole["query.A"]) ** 2)
    assert abs(cosine) > 0.99
