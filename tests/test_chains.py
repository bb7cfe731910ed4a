"""Chains: what a link leaves as it is, what it may change, and the chain that gets there where one sketch stalls."""

import inspect
from dataclasses import replace
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
    attach,
    by_autograd,
    by_hand,
    chains,
    detach,
    fold,
    train,
    training,
)
from tlora_ref.by_autograd import to_numpy, to_torch
from tlora_ref.chains import CHAINS, begin_link
from tlora_ref.config import CHAINS as NAMES
from tlora_ref.init import init_encoder
from tlora_ref.lab.digits import ENCODER, named_setup
from tlora_ref.methods import Site

SEEDS = st.integers(0, 2**32 - 1)
CONFIG = TrainConfig(epochs=6, batch_size=2, lr=3e-2)


def lora(seed=0, method="lora", rank=1, layers=3, **changes):
    """A tiny encoder with an adapter in every layer, inputs and labels."""
    base, inputs, labels, _ = tiny(seed, layers=layers)
    return attach(base, AdapterConfig(method, rank, **changes), ("head.W", "head.b")), inputs, labels


def run(model, inputs, labels, chain, config=CONFIG, room=by_hand, code=chains):
    """A trained chain, its history, and the models around the begin of each link: (before it, after it)."""
    begun = []

    def watched(*given):
        between = code.chained(*given)

        def called(run):
            changed = between(run)
            begun.extend([] if changed is None else [(run.model, changed)])
            return changed

        return called

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training.BETWEEN, chain, watched)
        after, history = train(room, model, inputs, labels, replace(config, chain=chain))
    return after, history, begun


def trained_in(model, matrix):
    """The bases that train in a matrix: {"A", "B"}."""
    return {n.rpartition(".")[2] for n in model.trained if n.startswith(f"{matrix}.")}


def test_the_names_are_those_of_the_configuration():
    assert tuple(CHAINS) == NAMES


# --- the laws of a link --------------------------------------------------------------------------------


def check_links(chain, code=chains, seed=0):
    """The laws of a chain, of every link of a run; AssertionError where one fails. The largest error is returned."""
    kind, error = CHAINS[chain], 0.0
    model, inputs, labels = lora(seed)
    after, _, begun = run(model, inputs, labels, chain, code=code)
    assert len(begun) == kind.links
    still_ones, layers = set(), set()
    for before, now in begun:
        # the function stays as it is
        logits = [by_hand.encoder_fwd(m, inputs)[0] for m in (before, now)]
        error = max(error, np.abs(logits[1] - logits[0]).max())
        training = []
        for name in now.adapted:
            A, B = (now.params[f"{name}.{base}"] for base in "AB")
            # one factor is drawn, another one each time, and the other is 0
            moving, still = (A, B) if kind.trains == ("A",) else (B, A)
            assert not moving.any()
            assert still.all()
            still_ones.add(still.tobytes())
            # what trains is what the chain says, in all layers or in a third of them
            trains = trained_in(now, name)
            assert trains in (set(kind.trains) or {"A", "B"}, set())
            training += [name] if trains else []
            # the weight has taken the link up; where none was trained it keeps its bits
            W, new = before.params[f"{name}.W"], now.params[f"{name}.W"]
            link = before.params[f"{name}.A"] @ before.params[f"{name}.B"]
            np.testing.assert_allclose(new, W + link, rtol=0, atol=1e-14)
            assert trained_in(before, name) or W.tobytes() == new.tobytes()
        here = {name.split(".")[1] for name in training}
        assert len(here) == (1 if kind.sampled else 3)
        assert len(training) == 2 * len(here)
        layers |= here
        assert {"head.W", "head.b"} < now.trained
    assert error < 1e-12
    assert layers == {"0", "1", "2"}
    assert len(still_ones) == kind.links * len(model.adapted)
    # what no link has touched keeps its bits, and the rank grows by one a link at most
    whole = fold(by_hand, after)
    for name, W in ((n, a) for n, a in model.params.items() if n.endswith(".W")):
        matrix = name.removesuffix(".W")
        if matrix in model.adapted:
            touched = sum(bool(trained_in(now, matrix)) for _, now in begun)
            update = whole.params[name] - W
            assert 1 <= np.linalg.matrix_rank(update, tol=1e-12 * np.linalg.norm(update)) <= touched
        elif matrix != "head":
            assert whole.params[name].tobytes() == W.tobytes()
    return error


@pytest.mark.parametrize("chain", list(CHAINS))
def test_the_laws_of_a_link(chain):
    check_links(chain)


def planted(right, wrong):
    """chains.py with an edit made, as a module of its own."""
    text = inspect.getsource(chains)
    assert text.count(right) == 1
    module = ModuleType(chains.__name__)
    module.__package__ = chains.__package__
    vars(module)["detach"] = detach
    exec(text.replace(right, wrong), vars(module))
    return module


BUGS = {
    "a link is thrown away": ("rac", "fold(room, model)", "detach(model)"),
    "the same sketch again": ("rac", "link_seed(seed, number))", "seed)"),
    "both factors train": ("rac", "if kind.trains:", "if not kind.trains:"),
    "the frozen one trains": ("rac", "in trains}", "not in trains}"),
    "A keeps its draw": ("rac_a", "np.zeros_like(A_IR)", "A_IR"),
    "no factor is drawn": ("rac_a", "drawn_RO.astype(B_RO.dtype)", "B_RO"),
    "the head is forgotten": ("cola", "adapter, also)", "adapter)"),
    "the last link is cut short": ("cola", "run.step == run.steps or", ""),
    "a link is missing": ("cola", "run.step * links //", "run.step * (links - 1) //"),
    "the second link is the first": ("cola", "chain, seed, number)\n\n    return", "chain, seed, 0)\n\n    return"),
    "every layer is boosted": ("xgblora", "chosen = link_layers(layers, seed, number)", "chosen = layers"),
    "always the same layers": ("xgblora", "default_rng([seed, number])", "default_rng(seed)"),
    "the layers that were not drawn": ("xgblora", "not in chosen]", "in chosen]"),
    "two thirds of the layers": ("xgblora", "size=ceil(len(layers) / 3)", "size=ceil(len(layers) / 2)"),
    "the highest layer never": ("xgblora", "rng.choice(layers,", "rng.choice(layers[:-1],"),
    "the query alone": ("xgblora", "not in chosen]", 'not in chosen or "value" in name]'),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BUGS))
def test_a_planted_bug_breaks_a_law_of_its_chain(name):
    chain, right, wrong = BUGS[name]
    code = planted(right, wrong)
    with pytest.raises(AssertionError):
        check_links(chain, code)


def test_xgblora_starts_its_optimizer_afresh_and_rac_carries_it():
    """Adam's first step is the rate, whatever the gradient; the step after a merge is that only with fresh moments."""
    for chain, fresh in (("xgblora", True), ("rac", False)):
        model, inputs, labels = lora()
        config = TrainConfig(epochs=10, batch_size=3, lr=1e-3, warmup=0, links=10, chain=chain)
        _, _, begun = run(model, inputs, labels, chain, config)
        for step, (after, _) in enumerate(begun[2:], start=1):
            # a link of one step: its B is that step, from 0
            trained = np.concatenate([after.params[n].ravel() for n in after.trained if n.endswith(".B")])
            steps = np.abs(trained) / (1e-3 * (10 - step) / 10)
            assert (np.abs(steps - 1).max() < 1e-3) == fresh


def test_a_chain_of_one_link_is_its_adapter_trained_as_usual():
    """COLA of one link is LoRA, to the bit; AsymmLoRA is LoRA with A frozen."""
    model, inputs, labels = lora()
    model = attach(fold(by_hand, model), model.adapter)
    chained = run(model, inputs, labels, "cola", replace(CONFIG, links=1, chain="cola"))[0]
    plain = train(by_hand, model, inputs, labels, CONFIG)[0]
    for name in plain.params:
        np.testing.assert_array_equal(chained.params[name], plain.params[name])
    chained = run(model, inputs, labels, "asymm")[0]
    half = model.training({n for n in model.trained if not n.endswith(".A")})
    plain = train(by_hand, half, inputs, labels, CONFIG)[0]
    for name in plain.params:
        np.testing.assert_array_equal(chained.params[name], plain.params[name])


@pytest.mark.parametrize("chain", list(CHAINS))
def test_both_rooms_train_the_same_chain(chain):
    model, inputs, labels = lora()
    here = run(model, inputs, labels, chain)[0]
    there = to_numpy(run(to_torch(model), inputs, labels, chain, room=by_autograd)[0])
    assert there.trained == here.trained
    assert there.adapter == here.adapter
    for name, array in here.params.items():
        np.testing.assert_allclose(there.params[name], array, rtol=0, atol=1e-9)


def test_a_run_that_goes_on_begins_other_links():
    model, inputs, labels = lora()
    config = replace(CONFIG, links=2, chain="rac")
    first, history, begun = run(model, inputs, labels, "rac", config)
    on = train(by_hand, first, inputs, labels, config, after=history)[0]
    name = "layers.0.query.A"
    drawn = [now.params[name] for _, now in begun] + [on.params[name]]
    assert len({A.tobytes() for A in drawn}) == 3


# --- what it counts ------------------------------------------------------------------------------------


def test_the_published_counts_of_rac_lora():
    """Rank 1 on the perceptron 784-64-64-5 of its MNIST experiment: 133 with B trained, 912 with A trained."""
    where = [Site(f"layers.{i}.query", I, O, 1) for i, (I, O) in enumerate([(784, 64), (64, 64), (64, 5)])]
    assert chains.trained_in_link("rac", "lora", where) == 133
    assert chains.trained_in_link("rac_a", "lora", where) == 912
    assert chains.trained_in_link("cola", "lora", where) == 133 + 912


@pytest.mark.parametrize("chain", list(CHAINS))
def test_a_link_trains_as_many_numbers_as_are_counted(chain):
    model = begin_link(by_hand, lora()[0], chain, 0, 0)
    held = sum(model.params[n].size for n in model.trained if not n.startswith("head"))
    assert held == chains.trained_in_link(chain, "lora", list(model.adapted.values()))
    large = [Site(f"layers.{i}.{t}", 1024, 1024, 1) for i in range(24) for t in ("query", "value")]
    assert chains.trained_in_link("xgblora", "lora", large) == 8 * 4_096


@pytest.mark.parametrize(
    ("chain", "stored"), [("cola", 4 * 32 * 32), ("rac", 4 * 32 * 32), ("asymm_a", 4 * 2 * 32 * 8)]
)
def test_a_chain_of_the_digits_stores_weights_and_a_single_link_its_factors(chain, stored):
    setup = named_setup("--methods", f"lora+{chain}", 8)
    counted = setup.counts(init_encoder(ENCODER))
    assert counted.stored == stored
    assert counted.trained == (4 * 8 * 64 if chain == "cola" else 4 * 8 * 32)


# --- the form that the paper analyses ------------------------------------------------------------------


def check_projector(seed, code=chains, I=5, R=2):
    """H H = H = H^T of trace R; the solved link is a projected step, and with orthonormal columns a plain one."""
    r = np.random.default_rng(seed)
    A, gradient = r.standard_normal((I, R)), r.standard_normal((I, 3))
    H = code.projector(A)
    np.testing.assert_allclose(H @ H, H, rtol=0, atol=1e-12)
    np.testing.assert_allclose(H, H.T, rtol=0, atol=1e-12)
    assert np.trace(H) == pytest.approx(R, abs=1e-12)
    np.testing.assert_allclose(H @ A, A, rtol=0, atol=1e-12 * np.abs(A).max())
    B = code.sketched_minimiser(A, gradient, 0.3, 2.5)
    np.testing.assert_allclose(2.5 * A @ B, -0.3 * H @ gradient, rtol=0, atol=1e-12)
    Q = np.linalg.qr(A)[0]
    np.testing.assert_allclose(code.sketched_minimiser(Q, gradient, 0.3, 1.0), -0.3 * Q.T @ gradient, atol=1e-12)


@given(SEEDS, st.integers(1, 6))
def test_a_link_solved_exactly_is_a_projected_step(seed, R):
    check_projector(seed, I=6, R=R)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("return A_IR @ np.linalg.pinv(A_IR)", "return A_IR @ A_IR.T"),
        ("return A_IR @ np.linalg.pinv(A_IR)", "return np.eye(len(A_IR)) - A_IR @ np.linalg.pinv(A_IR)"),
        ("return -(rate / scale)", "return (rate / scale)"),
        ("return -(rate / scale)", "return -rate"),
        ("return -(rate / scale)", "return -(rate * scale)"),
        ("(np.linalg.pinv(A_IR) @ gradient_IO)", "(A_IR.T @ gradient_IO)"),
    ],
)
def test_a_planted_bug_breaks_a_law_of_the_projection(right, wrong):
    with pytest.raises(AssertionError):
        check_projector(0, planted(right, wrong))


def test_a_sketch_covers_every_direction_alike_on_average():
    """E[H] = (R / I) 1 over Gaussian draws: of 4,000 each entry's mean is within five standard errors."""
    r = np.random.default_rng(0)
    drawn = np.stack([chains.projector(r.standard_normal((4, 1))) for _ in range(4000)])
    error = np.abs(drawn.mean(axis=0) - np.eye(4) / 4)
    assert (error < 5 * drawn.std(axis=0) / np.sqrt(4000)).all()


def quadratic(links, redrawn, seed=0):
    """f(W) - f* along a chain of rank 1 on 3 x 3 numbers, with Hessian diag(10, 1, ..., 1) and rate 1 / 10."""
    r = np.random.default_rng(seed)
    curvature, target = np.ones((3, 3)), r.standard_normal((3, 3))
    curvature[0, 0] = 10
    W, A, gaps = np.zeros((3, 3)), r.standard_normal((3, 1)), []
    for _ in range(links):
        gaps.append((curvature * (W - target) ** 2).sum() / 2)
        A = r.standard_normal((3, 1)) if redrawn else A
        W = W + 2.5 * A @ chains.sketched_minimiser(A, curvature * (W - target), 0.1, 2.5)
    return np.array(gaps)


@pytest.mark.parametrize("seed", range(3))
def test_rac_gets_there_where_one_sketch_stalls(seed):
    moving, still = quadratic(900, True, seed), quadratic(900, False, seed)
    assert (np.diff(moving) <= 1e-15).all()
    assert moving[-1] < 1e-9
    assert still[-1] > 0.1
    assert still[-1] == pytest.approx(still[-100], rel=1e-3)


# --- what cannot go together ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "chain", "message"),
    [
        (None, "cola", "chain is 'cola', expected None for a model without an adapter"),
        (
            "adapter_p",
            "cola",
            "chain is 'cola', expected None for adapter_p: a link is folded into the weights at its end",
        ),
        ("tlora", "rac", "chain is 'rac', expected cola or xgblora for tlora: the others train a factor of LoRA"),
        ("lorta", "xgblora", "chain is 'xgblora', expected another for lorta: it trains some layers at a time"),
    ],
)
def test_a_method_that_a_chain_cannot_be_made_of_is_named(method, chain, message):
    base, inputs, labels, _ = tiny()
    model = attach(base, AdapterConfig(method, 1)) if method else base.training(base.params)
    with pytest.raises(InputError, match=message):
        train(by_hand, model, inputs, labels, TrainConfig(chain=chain))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chain": "boost"}, "chain is 'boost', expected None or one of cola, rac, rac_a, asymm"),
        ({"chain": "rac", "links": 0}, "links is 0, expected a whole number, at least 1"),
        ({"links": 3}, "links is 3, expected None: there is no chain"),
        ({"chain": "asymm", "links": 2}, "links is 2, expected None or 1: asymm has one link"),
    ],
)
def test_what_no_chain_can_be(given, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**given)
