"""TriAdaptLoRA: its triangles, its counts, its start, and the growth of its rank between the steps of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoder import tiny
from tiny import inputs as torch_inputs
from tiny import net, scramble

from tlora_ref import (
    AdapterConfig,
    EncoderConfig,
    InputError,
    TrainConfig,
    attach,
    by_autograd,
    by_hand,
    merge,
    train,
    unmerge,
)
from tlora_ref.by_autograd import to_numpy, to_torch
from tlora_ref.by_autograd.adapter_io import load_adapter as load_into_torch
from tlora_ref.by_autograd.adapter_io import save_adapter as save_from_torch
from tlora_ref.by_autograd.inject import inject
from tlora_ref.by_hand.methods import METHODS, mtlora, triadapt
from tlora_ref.counts import count, held, trained
from tlora_ref.growth import gaining, grow, how_many
from tlora_ref.methods import Site
from tlora_ref.model import adapter_arrays

SEEDS = st.integers(0, 2**32 - 1)
ROOMS = pytest.mark.parametrize("room", [by_hand, by_autograd], ids=["by_hand", "by_autograd"])


def adapter(rank=3, block=2, **changes):
    return AdapterConfig("triadapt", rank, block=block, lora_alpha=6.0, **changes)


def generic(seed=0, **changes):
    """A model with TriAdaptLoRA away from its start, and its inputs and labels."""
    model, inputs, labels, _ = tiny(seed, adapter(**changes))
    return model, inputs, labels


# --- the triangles ------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 9), st.integers(1, 5))
def test_the_triangles_are_slabs_one_behind_the_other(seed, R, block):
    """Against the slabs put in place one by one: of a block of ranks, b rows of lower and b columns of upper."""
    r = np.random.default_rng(seed)
    site = Site("m", 10, 11, R, block=block)
    Q = triadapt.triadapt_sizes(site)["Q"]
    lower, upper, T, rank, at = r.standard_normal(Q), r.standard_normal(Q), np.zeros((R, R)), 0, 0
    while rank < R:
        b = block if rank else (R - 1) % block + 1
        here = slice(at, at + b * (rank + b))
        T[rank : rank + b, : rank + b] += lower[here].reshape(b, rank + b)
        T[: rank + b, rank : rank + b] += upper[here].reshape(b, rank + b).T
        rank, at = rank + b, here.stop
    assert at == Q
    arrays = {"A": np.zeros((10, R)), "B": np.zeros((R, 11)), "lower": lower, "upper": upper}
    assert triadapt.triadapt_importance(arrays, site) == pytest.approx(
        np.linalg.norm(T) / len(triadapt.blocks(R, block))
    )
    arrays = {"A": np.eye(10, R), "B": np.eye(R, 11), "lower": lower, "upper": upper}
    dW = triadapt.triadapt_delta_w(np.zeros((10, 11)), scale=1.0, **triadapt.triadapt_view(arrays, site))
    np.testing.assert_allclose(dW[:R, :R], T, rtol=0, atol=0)


@given(SEEDS, st.integers(1, 4))
def test_one_block_is_mtloras_sum_of_two_cores(seed, R):
    """With the whole rank in one block nothing is cut off: DTSM's T = C + D, forward and backward."""
    r = np.random.default_rng(seed)
    x, W0, A, B = (r.standard_normal(shape) for shape in ((6, 5), (5, 4), (5, R), (R, 4)))
    lower, upper, dy = r.standard_normal((R, R)), r.standard_normal((R, R)), r.standard_normal((6, 4))
    ours, cache = triadapt.triadapt_linear_fwd(x, W0, None, A, B, lower, upper, 0.5, block=R)
    theirs, their_cache = mtlora.mtlora_linear_fwd(x, W0, None, A, B, lower, 0.5, D_RR=upper, form="dtsm")
    np.testing.assert_array_equal(ours, theirs)
    found = triadapt.triadapt_linear_bwd(dy, cache)
    expected = mtlora.mtlora_linear_bwd(dy, their_cache)
    for base, other in (("x", "x"), ("A", "A"), ("B", "B"), ("lower", "C"), ("upper", "D")):
        np.testing.assert_array_equal(found[base], expected[other])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_gradients_of_the_packed_triangles(block):
    """Through the whole encoder, packed and unpacked: against autograd's, which unpacks by itself."""
    model, inputs, labels = generic(block=block)
    twin = by_autograd.loss_and_grads(to_torch(model), inputs, labels)[1]
    for name, gradient in by_hand.loss_and_grads(model, inputs, labels)[1].items():
        np.testing.assert_allclose(gradient, twin[name].numpy(), rtol=0, atol=1e-12, err_msg=name)


def test_counts():
    """R (I + O) + sum over blocks of 2 width (rank with it): RoBERTa-large at rank 8 from blocks of 1, and two of 4."""
    large = EncoderConfig(width=1024, layers=24, heads=16, hidden=4096, features=1)
    assert count(large, AdapterConfig("triadapt", 8)).trained == 789_888
    assert trained("triadapt", [(1024, 1024)] * 48, 8) == 789_888
    assert count(large, AdapterConfig("triadapt", 8, block=4)).trained == 786_432 + 48 * 96
    assert count(large, AdapterConfig("triadapt", 8, block=8)).trained == trained("mtlora_dtsm", [(1024, 1024)] * 48, 8)


# --- the start ----------------------------------------------------------------------------------------------


@ROOMS
def test_the_released_start_is_dead_and_the_one_here_is_not(room):
    """A random and B = T = 0: no array of the adapter has a gradient, so nothing would ever train."""
    base, inputs, labels, _ = tiny()
    model = attach(base, adapter())
    released = model.with_params({name: 0 * p for name, p in model.params.items() if name.endswith(".B")})

    def gradients(model):
        model = model if room is by_hand else to_torch(model)
        return {name: np.asarray(g) for name, g in room.loss_and_grads(model, inputs, labels)[1].items()}

    assert not any(g.any() for g in gradients(released).values())
    assert {name.rpartition(".")[2] for name, g in gradients(model).items() if g.any()} == {"lower", "upper"}
    config = TrainConfig(epochs=2, batch_size=3, lr=0.1, weight_decay=0.0)
    for start, moves in ((released, False), (model, True)):
        after = train(room, start if room is by_hand else to_torch(start), inputs, labels, config)[0]
        changed = [name for name in start.trained if (np.asarray(after.params[name].data) != start.params[name]).any()]
        assert bool(changed) == moves


def test_a_larger_rank_starts_with_the_smaller_one():
    small, large = (METHODS["triadapt"].draw(Site("m", 7, 6, R, block=2), np.zeros((7, 6)), adapter(R)) for R in (3, 5))
    for base, array in small.items():
        np.testing.assert_array_equal(large[base][tuple(map(slice, array.shape))], array)


# --- growth -------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(SEEDS, st.integers(1, 2), st.integers(1, 3), st.sampled_from([None, 6.0]))
def test_the_function_is_continuous_where_the_rank_grows(seed, rank, block, lora_alpha):
    """The scale lora_alpha / R falls, and T is multiplied by what it falls by; without that dW shrinks by R / (R + b).
    A T B itself keeps its bits where the scale is 1."""
    model, inputs, _ = generic(seed % 1000, rank=rank, block=block, targets=("query", "ffn_in"))
    model = replace(model, adapter=replace(model.attached, lora_alpha=lora_alpha))
    names = ["layers.0.query", "layers.1.ffn_in"]
    larger = grow(model, names)
    for name in model.adapted:
        dW, after = by_hand.delta_w(model, name), by_hand.delta_w(larger, name)
        np.testing.assert_allclose(after, dW, rtol=0, atol=1e-13 * np.abs(dW).max())
        assert rank + (block if name in names else 0) == larger.adapted[name].R
    before, now = (by_hand.encoder_fwd(m, inputs)[0] for m in (model, larger))
    np.testing.assert_allclose(now, before, rtol=0, atol=1e-12 * np.abs(before).max())
    # as released: the core keeps its numbers, and the function jumps
    name = names[0]
    if lora_alpha is not None:
        cores = {f"{name}.{base}": model.params[f"{name}.{base}"] for base in ("lower", "upper")}
        kept = {key: np.pad(p, (0, len(larger.params[key]) - len(p))) for key, p in cores.items()}
        jumped = by_hand.delta_w(larger.with_params(kept), name)
        expected = rank / (rank + block) * by_hand.delta_w(model, name)
        np.testing.assert_allclose(jumped, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    assert held(larger).trained == count(larger.config, larger.adapter).trained > held(model).trained


@ROOMS
def test_what_the_optimizer_remembers_of_the_old_blocks_is_carried(room):
    """After a growth the old part of every array steps as it would have without it, and the new part as an array of its
    own in its first steps: against AdamW on the two parts apart."""
    optimizer, config, r = room.OPTIMIZERS["adamw"], TrainConfig(weight_decay=0.1), np.random.default_rng(0)

    def given_to(arrays):
        return arrays if room is by_hand else {name: torch.from_numpy(a.copy()) for name, a in arrays.items()}

    def given_back(arrays):
        return {name: np.array(p if room is by_hand else p.numpy()) for name, p in arrays.items()}

    axes = {"m.A": 1, "m.B": 0, "m.lower": 0}
    start = {"m.A": r.standard_normal((4, 2)), "m.B": r.standard_normal((2, 5)), "m.lower": r.standard_normal(3)}
    whole, parts = given_to(start), [given_to(start)]
    state, states = optimizer.init(whole, config), [optimizer.init(parts[0], config)]
    for sizes in ((4, 2, 1), (3, 1, 2), ()):
        for _ in range(3):
            every = [{name: r.standard_normal(p.shape) for name, p in part.items()} for part in parts]
            joined = {name: np.concatenate([g[name] for g in every], axis) for name, axis in axes.items()}
            whole = optimizer.step(whole, given_to(joined), state, 0.1, config)
            parts = [
                optimizer.step(part, given_to(g), s, 0.1, config)
                for part, g, s in zip(parts, every, states, strict=True)
            ]
            here = given_back(whole)
            for name, axis in axes.items():
                expected = np.concatenate([given_back(part)[name] for part in parts], axis)
                np.testing.assert_allclose(here[name], expected, rtol=0, atol=1e-14)
        if sizes:
            shapes = {"m.A": (4, sizes[1]), "m.B": (sizes[1], 5), "m.lower": (sizes[0],)}
            new = {name: r.standard_normal(shape) for name, shape in shapes.items()}
            parts.append(given_to(new))
            states.append(optimizer.init(parts[-1], config))
            larger = given_to({name: np.concatenate([here[name], new[name]], axis) for name, axis in axes.items()})
            state, whole = optimizer.carry(state, whole, larger, config), larger
    # what stays as it is keeps its parts
    state = optimizer.carry(state, whole, {**whole}, config)
    again = optimizer.step(whole, given_to({name: 0 * g for name, g in joined.items()}), state, 0.1, config)
    assert all(np.isfinite(p).all() for p in given_back(again).values())


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_a_run_that_grows_is_the_same_in_both_rooms(schedule):
    base, inputs, labels, _ = tiny(features=3)
    model = attach(base, adapter(1, 2, targets=("query", "value", "ffn_in")))
    config = TrainConfig(
        epochs=12, batch_size=3, lr=2e-2, warmup=0.1, growth=schedule, grow_to=4, grow_every=2, weight_decay=0.01
    )
    after, history = train(by_hand, model, inputs, labels, config)
    twin = to_numpy(train(by_autograd, to_torch(model), inputs, labels, config)[0])
    assert twin.attached == after.attached
    for name in after.trained:
        np.testing.assert_allclose(twin.params[name], after.params[name], rtol=0, atol=1e-9, err_msg=name)
    ranks = [site.R for site in after.adapted.values()]
    assert sum(ranks) > len(ranks)
    assert set(ranks) <= {1, 3, 5}
    assert history.loss[-1] < history.loss[0]
    assert model.attached.ranks == ()  # the given one stays


def test_the_sum_of_the_ranks_never_falls_and_ends_about_where_it_should():
    """Between two growths by ``grow_every`` steps; below the target plus a block a matrix; never at the last step."""
    from tlora_ref.growth import Growth
    from tlora_ref.training import History, Run

    model = attach(tiny()[0], adapter(1, 2, targets=("query", "value", "output", "ffn_in")))
    for schedule in ("linear", "exponential"):
        config = TrainConfig(growth=schedule, grow_to=4, grow_every=3, warmup=0.1)
        grower, now, sums, steps = Growth(by_hand, config), model, [8], 40
        for step in range(1, steps + 1):
            rng = np.random.default_rng(step)
            moved = {n: p + 0.1 * rng.standard_normal(p.shape) for n, p in now.params.items() if n in now.trained}
            now = now.with_params(moved)
            changed = grower(Run(now, step, steps, History()))
            assert changed is None or ((step - 4) % 3 == 0 and 4 < step < steps)
            now = changed or now
            sums.append(sum(site.R for site in now.adapted.values()))
        assert sums == sorted(sums)
        assert 4 * len(now.adapted) <= sums[-1] < (4 + 2) * len(now.adapted)
        assert all(site.R in (1, 3, 5) for site in now.adapted.values())  # no side is longer than 5 or 6


def test_the_schedules_and_who_grows():
    assert [how_many("linear", 10, u) for u in (0.0, 0.25, 0.5, 1.0)] == [0, 2, 5, 10]
    assert [how_many("exponential", 10, u) for u in (0.0, 0.25, 0.5, 1.0)] == [1, 1, 3, 10]
    assert [how_many("exponential", 10, u) for u in (0.3, 0.7)] == [int(np.exp(u * np.log(10))) for u in (0.3, 0.7)]
    gains = {"a": 0.1, "b": 0.4, "c": -0.2, "d": 0.4}
    assert gaining(gains, 1) == gaining(gains, 2) == ["b", "d"]
    assert gaining(gains, 3) == ["a", "b", "d"]


def test_a_matrix_grows_by_what_it_gained_since_the_last_time():
    """The first time by its importance, later by the difference: what is large and stays so is not needed."""
    from tlora_ref.growth import Growth
    from tlora_ref.training import History, Run

    model, _, _ = generic(rank=1, block=1, layers=(0,))
    query, value = "layers.0.query.lower", "layers.0.value.lower"
    zero = {name: 0 * p for name, p in model.params.items() if name.endswith((".lower", ".upper"))}
    model = model.with_params(zero | {query: np.array([5.0]), value: np.array([1.0])})
    grower = Growth(by_hand, TrainConfig(growth="linear", grow_to=3, grow_every=1, warmup=0.0))
    once = grower(Run(model, 1, 100, History()))
    assert {name: site.R for name, site in once.adapted.items()} == {"layers.0.query": 2, "layers.0.value": 1}
    once = once.with_params({value: np.array([3.0])})
    assert grower(Run(once, 100, 100, History())) is None  # at the last step nothing grows: it would not be trained
    twice = grower(Run(once, 2, 100, History()))
    assert {name: site.R for name, site in twice.adapted.items()} == {"layers.0.query": 2, "layers.0.value": 2}


# --- files, merging, foreign models ---------------------------------------------------------------------------


@ROOMS
def test_a_grown_adapter_is_saved_loaded_merged_and_exported(room, tmp_path):
    from tlora_ref.export import lora_tensors

    model, inputs, _ = generic(rank=1, block=2)
    grown = grow(model, ["layers.0.query"])
    ours = grown if room is by_hand else to_torch(grown)
    room.save_adapter(ours, tmp_path / "grown.safetensors")
    from tlora_ref import detach

    bare = detach(grown)
    again = room.load_adapter(bare if room is by_hand else to_torch(bare), tmp_path / "grown.safetensors")
    again = again if room is by_hand else to_numpy(again)
    assert again.attached == grown.attached
    for name in grown.trained:
        np.testing.assert_array_equal(again.params[name], grown.params[name])
    merged = merge(room, ours)
    before, after = (room.loss_and_logits(m, inputs, np.zeros(3, int), None, None)[1] for m in (ours, merged))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    back = unmerge(merged)
    name = "layers.0.query.W"
    np.testing.assert_array_equal(np.asarray(back.params[name].data), grown.params[name])
    if room is by_hand:
        from tlora_ref.by_hand.adapter_io import adapter_of

        tensors = lora_tensors(adapter_of(grown))
        for name, site in grown.adapted.items():
            down, up = (tensors[f"base_model.model.{name}.{f}.weight"] for f in ("lora_A", "lora_B"))
            assert down.shape[0] == site.R
            np.testing.assert_allclose((up @ down).T, by_hand.delta_w(grown, name), rtol=0, atol=1e-12)


def test_in_a_foreign_torch_model(tmp_path):
    model, x = net(dtype=torch.float64), torch_inputs(dtype=torch.float64)
    before = model(x).detach()
    report = inject(model, ("query", "mix"), rank=3, method="triadapt")
    assert report.counts.trained == 2 * (3 * (7 + 5) + 3 * (9 + 7) + 2 * 12)
    np.testing.assert_array_equal(model(x).detach(), before)
    scramble(model)
    ours = model(x).detach()
    assert (ours - before).abs().max() > 0.01
    save_from_torch(model, tmp_path / "a.safetensors")
    other = net(dtype=torch.float64)
    load_into_torch(other, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(other(x).detach(), ours)
    loss = model(x).square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


# --- what does not go together --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("lora", {"growth": "linear"}, "growth is 'linear', expected None for lora: only the rank of triadapt grows"),
        ("triadapt", {"growth": "linear", "grow_to": 3}, "grow_to is 3, expected more than the rank 3 it grows from"),
    ],
)
def test_growth_without_a_core_or_without_a_way_to_go_is_refused(method, changes, message):
    base, inputs, labels, _ = tiny()
    with pytest.raises(InputError, match=message):
        train(by_hand, attach(base, AdapterConfig(method, 3)), inputs, labels, TrainConfig(**changes))


def test_names_that_are_none_and_blocks_that_are_not_there():
    with pytest.raises(InputError, match="growth is 'cubic', expected None or one of linear, exponential"):
        TrainConfig(growth="cubic")
    with pytest.raises(InputError, match="block is 2, expected 1: lora has no blocks"):
        AdapterConfig("lora", block=2)
    base, inputs, labels, _ = tiny()
    with pytest.raises(InputError, match="expected None for a model without an adapter"):
        train(by_hand, base.training({"head.b"}), inputs, labels, TrainConfig(growth="linear"))
    model = attach(base, adapter(1))
    with pytest.raises(InputError, match="the configuration names 'linear' and between is given as well"):
        train(by_hand, model, inputs, labels, TrainConfig(growth="linear"), between=lambda run: None)
    assert adapter_arrays(model, "layers.0.query")["lower"].shape == (1,)
