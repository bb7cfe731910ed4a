"""GeLoRA's ranks and DiffoRA's choice of matrices: what dimension is measured, what a gate learns, what is kept."""

import inspect
from dataclasses import replace
from math import ceil
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_encoder import tiny

from tlora_ref import (
    AdapterConfig,
    InputError,
    TrainConfig,
    allocate,
    attach,
    by_autograd,
    by_hand,
    detach,
    merge,
    train,
)
from tlora_ref.by_autograd import to_torch
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.by_hand.ops import cross_entropy_fwd
from tlora_ref.config import ALLOCATIONS
from tlora_ref.counts import count
from tlora_ref.gradcheck import complex_step_gradient

SEEDS = st.integers(0, 2**32 - 1)
MATRICES = ("query", "key", "value")
LORA = AdapterConfig("lora", 2, MATRICES)
SHORT = TrainConfig(epochs=8, batch_size=4, lr=3e-2, no_decay=("logit",))


def data(seed=0, n=24):
    """A tiny encoder without an adapter, inputs and labels."""
    base = tiny(seed, layers=3)[0]
    r = np.random.default_rng(seed)
    return base, r.standard_normal((n, 4, 3)), r.integers(0, 3, n)


def planted(right, wrong):
    """allocate.py with an edit made, as a module of its own."""
    text = inspect.getsource(allocate)
    assert text.count(right) == 1
    module = ModuleType(allocate.__name__)
    module.__package__ = allocate.__package__
    exec(text.replace(right, wrong), vars(module))
    return module


# --- GeLoRA: the dimension -----------------------------------------------------------------------------


def manifold(r, dimension, n, width=30):
    """n Gaussian points on a plane of that dimension in R^width, at a random angle and place."""
    return r.standard_normal((n, dimension)) @ r.standard_normal((dimension, width)) + r.standard_normal(width)


def check_dimensions(code=allocate, n=2000, seeds=8):
    """The dimension of linear manifolds within 5 %, in the mean over seeds: one estimate has a standard deviation of 2
    to 3 %. The largest error is returned."""
    found = {
        d: np.mean([code.two_nn(manifold(np.random.default_rng(seed), d, n)) for seed in range(seeds)])
        for d in (1, 2, 5, 8)
    }
    errors = [abs(value / d - 1) for d, value in found.items()]
    assert max(errors) < 0.05, found
    return max(errors)


@pytest.mark.slow
def test_two_nn_recovers_the_dimension_of_linear_manifolds():
    check_dimensions()


def check_invariance(seed, code=allocate):
    """Turning, moving, scaling, reordering and repeating points does not change their dimension."""
    r = np.random.default_rng(seed)
    points = manifold(r, 3, 60, width=5)
    dimension = code.two_nn(points)
    assert dimension > 0
    turned = points @ np.linalg.qr(r.standard_normal((5, 5)))[0]
    for same in (turned, points + 100, 1e-3 * points, points[::-1], np.concatenate([points, points[:7]])):
        assert code.two_nn(same) == pytest.approx(dimension, rel=1e-8)


@given(SEEDS)
def test_two_nn_does_not_depend_on_the_coordinates(seed):
    check_invariance(seed)


TWO_NN_BUGS = {
    "the third neighbour": ("distances_NN, 1, axis=1)[:, :2]", "distances_NN, 2, axis=1)[:, 1:3]"),
    "the ratio upside down": ("nearest_N2[:, 1] / nearest_N2[:, 0]", "nearest_N2[:, 0] / nearest_N2[:, 1]"),
    "ratios that are not sorted": ("np.sort(np.log(", "(np.log("),
    "no logarithm": ("np.sort(np.log(", "np.sort(abs("),
    "the slope of the other axis": ("(x @ y) / (x @ x)", "(y @ y) / (x @ y) * 0.9"),
    "each point its own neighbour": ("np.fill_diagonal(distances_NN, np.inf)", "pass"),
    "points counted twice": ("np.unique(np.asarray(points_ND, dtype=np.float64), axis=0)", "np.asarray(points_ND)"),
    "the share of all but the last": ("np.arange(1, kept + 1) / n", "np.arange(1, kept + 1) / (2 * n)"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TWO_NN_BUGS))
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_planted_bug_breaks_a_law_of_two_nn(name):
    code = planted(*TWO_NN_BUGS[name])

    def laws():
        check_invariance(0, code)
        check_dimensions(code, n=600)

    with pytest.raises(AssertionError):
        laws()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.ones((9, 2)), "1 different points have no intrinsic dimension, expected at least 3"),
        (np.arange(9.0)[:, None], "the two nearest neighbours of all points are equally far"),
    ],
)
def test_points_without_a_dimension_are_named(points, message):
    points = np.concatenate([points, points])
    if len(np.unique(points)) > 1:
        points = np.stack([np.cos(2 * np.pi * points[:, 0] / 8), np.sin(2 * np.pi * points[:, 0] / 8)], axis=1).round(8)
    with pytest.raises(InputError, match=message):
        allocate.two_nn(points)


# --- GeLoRA: the ranks ---------------------------------------------------------------------------------


def check_ranks(dimensions, code=allocate):
    """At least 1, 1 where nothing grows, the bound of the paper, and a rank that rises with what is above it."""
    ranks = code.gelora_ranks(dimensions)
    assert len(ranks) == len(dimensions) - 1
    for i, R in enumerate(ranks):
        growth = dimensions[i + 1] - dimensions[i]
        assert R >= 1
        assert 0 <= R - max(growth, 0) < 2
        assert (R == 1) == (growth <= 0)
        higher = [d + (j == i + 1) for j, d in enumerate(dimensions)]
        assert code.gelora_ranks(higher)[i] >= R
        higher = [d + (j == i) for j, d in enumerate(dimensions)]
        assert code.gelora_ranks(higher)[i] <= R


@given(st.lists(st.floats(0.5, 40), min_size=2, max_size=6))
def test_geloras_ranks_follow_the_growth_of_the_dimension(dimensions):
    check_ranks(dimensions)
    assert allocate.gelora_ranks([3.7] * 5) == [1] * 4


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("max(above - below, 0)) + 1", "max(above - below, 0))"),
        ("max(above - below, 0)) + 1", "max(below - above, 0)) + 1"),
        ("ceil(max(above - below, 0)) + 1", "int(max(above - below, 0)) + 1"),
        ("ceil(max(above - below, 0)) + 1", "ceil(abs(above - below)) + 1"),
        ("ceil(max(above - below, 0)) + 1", "ceil(above)"),
        ("in pairwise(dimensions)", "in zip(dimensions, dimensions)"),
    ],
)
def test_a_planted_bug_breaks_a_law_of_geloras_ranks(right, wrong):
    with pytest.raises(AssertionError):
        check_ranks([2.0, 5.5, 3.0, 3.2, 9.9], planted(right, wrong))


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_gelora_in_both_rooms(pool):
    """The dimensions are those of the hidden states, pooled by hand, and every matrix has its layer's rank."""
    base, inputs, labels, mask = tiny(vocab=None, layers=3, pool=pool)
    r = np.random.default_rng(1)
    inputs, labels, mask = r.standard_normal((40, 4, 3)), r.integers(0, 3, 40), r.random((40, 4)) < 0.7
    mask[:, 0] = True
    found = allocate.hidden_dimensions(by_hand, base, inputs, mask)
    for layer, dimension in zip((0, 1, 2, None), found, strict=True):
        states = by_hand.hidden_states(base, inputs, mask, layer=layer)
        mean = np.stack([x[m].mean(axis=0) for x, m in zip(states, mask, strict=True)])
        points = mean if pool == "mean" else states[:, 0]
        assert dimension == pytest.approx(allocate.two_nn(points), rel=1e-9)
    there = allocate.hidden_dimensions(by_autograd, to_torch(base), inputs, mask)
    assert there == pytest.approx(found, rel=1e-6)
    asked = replace(LORA, allocation="gelora")
    adapter = allocate.allocate(by_hand, base, asked, inputs, labels, mask)
    assert adapter.allocation is None
    ranks = [min(R, 6) for R in allocate.gelora_ranks(found)]
    assert dict(adapter.ranks) == {f"layers.{l}.{t}": ranks[l] for l in range(3) for t in MATRICES}
    assert allocate.allocate(by_autograd, to_torch(base), asked, inputs, labels, mask) == adapter
    assert count(base.config, adapter).trained == sum(3 * R * 12 for R in ranks)
    assert attach(base, adapter).params["layers.1.query.A"].shape == (6, ranks[1])


# --- DiffoRA: the gate ---------------------------------------------------------------------------------


def gated(seed, logit=0.3):
    """x, W0, b, A, B of the gated layer, its logit, and dy."""
    r = np.random.default_rng(seed)
    x, W0, b, A, B = (r.standard_normal(shape) for shape in ((5, 4), (4, 3), 3, (4, 2), (2, 3)))
    return (x, W0, b, A, B, np.asarray(logit), 1.7), r.standard_normal((5, 3))


@given(SEEDS, st.floats(-6, 6))
def test_the_gradient_of_a_gate(seed, logit):
    """dlogit = (1 - gate) <B, dB>, and the complex step's; nothing moves a gate whose B is 0."""
    kernel, (arguments, dy) = METHODS["lora_gated"].kernel, gated(seed, logit)
    _, cache = kernel.fwd(*arguments)
    grads = kernel.bwd(dy, cache)
    B, gate = arguments[4], 1 / (1 + np.exp(-logit))
    assert grads["logit"] == pytest.approx((1 - gate) * (B * grads["B"]).sum(), rel=1e-11, abs=1e-11)

    def along(value):
        return (dy * kernel.fwd(*arguments[:5], value, 1.7)[0]).sum()

    assert grads["logit"] == pytest.approx(complex_step_gradient(along, np.asarray(logit)), rel=1e-11, abs=1e-12)
    start = (*arguments[:4], 0 * B, *arguments[5:])
    assert kernel.bwd(dy, kernel.fwd(*start)[1])["logit"] == 0


@given(SEEDS)
def test_an_open_gate_is_lora_and_a_closed_one_the_base(seed):
    (*arrays, _, scale), dy = gated(seed)
    kernel, lora = METHODS["lora_gated"].kernel, METHODS["lora"].kernel
    y, cache = kernel.fwd(*arrays, np.asarray(800.0), scale)
    as_lora, lora_cache = lora.fwd(*arrays, scale)
    np.testing.assert_allclose(y, as_lora, rtol=1e-14, atol=1e-14)
    for base, gradient in lora.bwd(dy, lora_cache).items():
        np.testing.assert_allclose(kernel.bwd(dy, cache)[base], gradient, rtol=1e-13, atol=1e-13)
    x, W0, b = arrays[:3]
    closed = kernel.fwd(*arrays, np.asarray(-800.0), scale)[0]
    np.testing.assert_array_equal(closed, x @ W0 + b)


# --- DiffoRA: the choice -------------------------------------------------------------------------------


def check_choice(seed, code=allocate, share=0.5):
    """Exactly ceil(share N) of each layer, none below one left out; a rising function of the gates changes nothing."""
    r = np.random.default_rng(seed)
    rows = [r.permutation(["query", "key", "value", "output", "ffn_in"][: r.integers(1, 6)]) for _ in range(3)]
    gates = {f"layers.{l}.{t}": float(r.integers(0, 4)) / 4 for l, names in enumerate(rows) for t in names}
    chosen = code.choose(gates, share)
    for l, names in enumerate(rows):
        full = [f"layers.{l}.{t}" for t in names]
        kept = [name for name in full if name in chosen]
        assert len(kept) == ceil(round(share * len(full), 9))
        left = [name for name in full if name not in chosen]
        assert all(gates[a] >= gates[b] for a in kept for b in left)
        # of equal gates the first
        assert all(full.index(a) < full.index(b) for a in kept for b in left if gates[a] == gates[b])
    assert chosen == code.choose({name: np.exp(3 * g) for name, g in gates.items()}, share)


@given(SEEDS, st.sampled_from([0.01, 0.2, 0.4, 0.5, 0.7, 1.0]))
def test_diffora_keeps_its_share_of_every_layer(seed, share):
    check_choice(seed, share=share)


CHOICE_BUGS = {
    "the lowest": ("key=lambda name: -gates[name]", "key=lambda name: gates[name]"),
    "rounded down": ("kept = ceil(round(share * len(names), 9))", "kept = int(share * len(names))"),
    "over all layers at once": ("rows.setdefault(layer_of(name), [])", "rows.setdefault(0, [])"),
    "one too many": ("[:kept])", "[: kept + 1])"),
    "a threshold": ("set(sorted(names, key=lambda name: -gates[name])[:kept])", "{n for n in names if gates[n] > 0.5}"),
    "of equal ones the last": ("sorted(names, key", "sorted(names[::-1], key"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CHOICE_BUGS))
def test_a_planted_bug_breaks_a_law_of_the_choice(name):
    code = planted(*CHOICE_BUGS[name])

    def laws():
        for seed in range(20):
            check_choice(seed, code)

    with pytest.raises(AssertionError):
        laws()


def test_a_share_of_seven_tenths_of_ten_is_seven():
    gates = {f"layers.0.m{i}": i / 10 for i in range(10)}
    assert len(allocate.choose(gates, 0.7)) == 7
    with pytest.raises(InputError, match=r"share is 1.5, expected a number in \(0, 1\]"):
        allocate.choose(gates, 1.5)


# --- DiffoRA: the search -------------------------------------------------------------------------------


def check_search(code=allocate):
    """The search, step by step: A and B by the first half of the data, then the logits by the second, with the weights
    just found. The largest difference is returned."""
    base, inputs, labels = data(n=10)
    config = TrainConfig(epochs=3, batch_size=5, lr=3e-2, no_decay=("logit",), warmup=0)
    gates = code.search_gates(by_hand, base, LORA, inputs, labels, config)
    assert list(gates) == [f"layers.{l}.{t}" for l in range(3) for t in MATRICES]
    model = attach(base, replace(LORA, method="lora_gated"))
    first, second = np.array_split(np.random.default_rng([config.seed, 2]).permutation(10), 2)
    logits = {name for name in model.trained if name.endswith(".logit")}
    moments = dict.fromkeys(model.trained, (0.0, 0.0))
    for step in range(3):
        rate = 3e-2 * (3 - step) / 3
        for half, names in ((first, model.trained - logits), (second, logits)):
            grads = by_hand.loss_and_grads(model, inputs[half], labels[half])[1]
            assert (step, names is logits) == (0, False) or all(grads[name].any() for name in logits)
            for name in names:
                m, v = moments[name]
                g = grads[name]
                moments[name] = m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                move = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
                decay = 0 if name in logits else 0.01
                model = model.with_params({name: model.params[name] * (1 - rate * decay) - rate * move})
    expected = {site: 1 / (1 + np.exp(-model.params[f"{site}.logit"])) for site in gates}
    error = max(abs(gates[site] - expected[site]) for site in gates)
    assert error < 1e-12
    return error


def test_the_search_moves_weights_and_gates_in_turns_on_two_halves_of_the_data():
    check_search()


SEARCH_BUGS = {
    "gates by the weights' half": ("(sorted(logits), halves[1])", "(sorted(logits), halves[0])"),
    "weights by the gates' half": ("- logits), halves[0])", "- logits), halves[1])"),
    "gates before weights": ("for names, state, draws in sides:", "for names, state, draws in sides[::-1]:"),
    "weights with the gates": ("(sorted(logits), halves[1])", "(sorted(model.trained), halves[1])"),
    "both along the old point": ("turn = model.", "turn = turns.setdefault(step, model)."),
    "the logit for the gate": ("(1 + np.tanh(found[f\"{site}.logit\"] / 2)) / 2", "found[f\"{site}.logit\"]"),
    "an order without a seed": ("default_rng([config.seed, 2])", "default_rng()"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SEARCH_BUGS))
def test_a_planted_bug_breaks_a_law_of_the_search(name):
    code = planted(*SEARCH_BUGS[name])
    vars(code)["turns"] = {}
    with pytest.raises(AssertionError):
        check_search(code)


def test_diffora_in_both_rooms():
    base, inputs, labels = data()
    asked = replace(LORA, allocation="diffora", layers=(0, 2))
    adapter = allocate.allocate(by_hand, base, asked, inputs, labels, search=SHORT, share=0.6)
    kept = [R for _, R in adapter.ranks if R]
    assert kept == [2] * 4
    assert len(adapter.ranks) == 6
    assert count(base.config, adapter).trained == 4 * 2 * 12
    there = allocate.allocate(by_autograd, to_torch(base), asked, inputs, labels, search=SHORT, share=0.6)
    assert there == adapter
    model, history = train(by_hand, attach(base, adapter), inputs, labels, TrainConfig(epochs=3, lr=1e-2))
    assert set(model.adapted) == {name for name, R in adapter.ranks if R}
    assert history.loss[-1] < history.loss[0]


# --- DiffoRA: one pair for the rest --------------------------------------------------------------------


def tied_model(seed=0, groups=(("layers.2.query", "layers.0.query"), ("layers.0.value", "layers.1.value"))):
    """A tiny encoder at a generic point, with LoRA on query and value of three layers, some of them tied."""
    return tiny(seed, AdapterConfig("lora", 2, ("query", "value"), tied=groups), layers=3)


def test_tied_matrices_share_a_pair_that_counts_once():
    base, inputs, labels = data()
    search = replace(SHORT, epochs=2)
    asked = replace(LORA, allocation="diffora")
    plain = allocate.allocate(by_hand, base, asked, inputs, labels, search=search, share=0.3)
    adapter = allocate.allocate(by_hand, base, asked, inputs, labels, search=search, share=0.3, tie_rest=True)
    left = [name for name, R in plain.ranks if R == 0]
    assert len(left) == 6
    groups = [tuple(n for n in left if n.endswith(t)) for t in MATRICES]
    assert set(adapter.tied) == {group for group in groups if len(group) > 1}
    private = 9 - sum(map(len, adapter.tied))
    assert count(base.config, adapter).trained == (private + len(adapter.tied)) * 2 * 12
    model = attach(base, adapter)
    assert sum(model.params[n].size for n in model.trained) == count(base.config, adapter).trained
    assert set(model.adapted) == {f"layers.{l}.{t}" for l in range(3) for t in MATRICES}


def test_the_gradient_of_a_tied_pair_is_the_sum_over_its_matrices():
    """Against the complex step, in both rooms, and as the sum of what the matrices would get apart."""
    model, inputs, labels, mask = tied_model()
    _, grads, _ = by_hand.loss_and_grads(model, inputs, labels, mask)
    assert set(grads) == model.trained
    assert len(grads) == 2 * 4
    homes = {name: model.adapter.home(name) for name in model.adapted}
    apart = replace(model, adapter=replace(model.adapter, tied=()), trained=frozenset())
    apart = apart.with_params({f"{n}.{b}": model.params[f"{home}.{b}"] for n, home in homes.items() for b in "AB"})
    apart = apart.training({f"{name}.{base}" for name in homes for base in "AB"})
    single = by_hand.loss_and_grads(apart, inputs, labels, mask)[1]
    there = by_autograd.loss_and_grads(to_torch(model), inputs, labels, mask)[1]
    for name, gradient in grads.items():
        home, base = name.rsplit(".", 1)
        added = sum(single[f"{n}.{base}"] for n, at in homes.items() if at == home)
        np.testing.assert_allclose(gradient, added, rtol=0, atol=1e-13)
        np.testing.assert_allclose(there[name].numpy(), gradient, rtol=0, atol=1e-12)

        def loss(array, name=name):
            logits = by_hand.encoder_fwd(model.with_params({name: array}), inputs, mask)[0]
            return cross_entropy_fwd(logits, labels)[0]

        expected = complex_step_gradient(loss, model.params[name])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


def test_a_tied_adapter_merges_and_survives_a_file(tmp_path):
    model, inputs, *_ = tied_model()
    logits = by_hand.encoder_fwd(model, inputs)[0]
    np.testing.assert_allclose(by_hand.encoder_fwd(merge(by_hand, model), inputs)[0], logits, rtol=0, atol=1e-12)
    by_hand.save_adapter(model, tmp_path / "tied.safetensors")
    loaded = by_hand.load_adapter(detach(model), tmp_path / "tied.safetensors")
    assert loaded.adapter == model.adapter
    assert loaded.trained == model.trained
    np.testing.assert_array_equal(by_hand.encoder_fwd(loaded, inputs)[0], logits)
    pairs = {name for name in loaded.params if name.endswith(".A")}
    assert pairs == {f"{at}.A" for at in ("layers.2.query", "layers.1.query", "layers.0.value", "layers.2.value")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tied": [("layers.0.query",)]}, "expected groups of two matrices or more, each matrix in one"),
        ({"tied": [("a", "b"), ("b", "c")]}, "expected groups of two matrices or more, each matrix in one"),
        ({"method": "tlora", "tied": [("a", "b")]}, "expected none: tlora's arrays cannot be tied"),
        ({"tied": [("layers.0.query", "layers.9.query")]}, "tied names 'layers.9.query', expected some of the adapted"),
        (
            {"tied": [("layers.0.query", "layers.1.query")], "ranks": {"layers.1.query": 1}},
            "tied are layers.0.query, layers.1.query, expected matrices of one shape and one rank",
        ),
    ],
)
def test_what_cannot_be_tied_is_named(given, message):
    base = data()[0]
    with pytest.raises(InputError, match=message):
        attach(base, AdapterConfig(**{"method": "lora", "rank": 2, **given}))


def test_a_chain_of_tied_matrices_is_an_error():
    model, inputs, labels, _ = tied_model()
    with pytest.raises(InputError, match="chain is 'rac', expected None for matrices that are tied"):
        train(by_hand, model, inputs, labels, TrainConfig(chain="rac"))


# --- what cannot go together ---------------------------------------------------------------------------


def test_the_names_are_those_of_the_rules():
    assert ALLOCATIONS == ("gelora", "diffora")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"allocation": "adalora"}, "allocation is 'adalora', expected None or one of gelora, diffora"),
        (
            {"method": "tlora", "allocation": "gelora"},
            "allocation is 'gelora', expected None for tlora: it is made for lora",
        ),
        ({"allocation": "diffora", "ranks": {"layers.0.query": 3}}, "expected none: diffora chooses them"),
        ({"allocation": "gelora", "lora_alpha": 4.0}, "lora_alpha is 4.0, expected None: with gelora"),
    ],
)
def test_what_no_allocation_can_be(given, message):
    with pytest.raises(InputError, match=message):
        AdapterConfig(**{"method": "lora", **given})


def test_an_adapter_whose_ranks_are_not_chosen_cannot_be_attached():
    base, inputs, labels = data()
    with pytest.raises(InputError, match=r"the ranks are not chosen yet: allocate\.allocate makes them by gelora"):
        attach(base, replace(LORA, allocation="gelora"))
    with pytest.raises(InputError, match="allocation is None, expected the name of a rule"):
        allocate.allocate(by_hand, base, LORA, inputs, labels)
    with pytest.raises(InputError, match="take its upper layers before attaching"):
        allocate.allocate(by_hand, attach(base, LORA), replace(LORA, allocation="gelora"), inputs, labels)
