"""The comparison job and what it stands on: budgets, paired intervals, runs that survive an interruption."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tlora_ref
from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.counts import count
from tlora_ref.init import init_encoder
from tlora_ref.lab.analysis import statistics
from tlora_ref.lab.analysis.statistics import Interval, differences, mean_interval, paired_difference
from tlora_ref.lab.data import Part, load_digits
from tlora_ref.lab.digits import ENCODER, FULL, Setup, Task, adapt, named_setup, score
from tlora_ref.lab.jobs.compare import (
    NATURAL,
    RANKS,
    TRAINED_OTHERWISE,
    matched_rank,
    natural_rank,
    summary,
    trained_count,
)
from tlora_ref.lab.learning_rates import at_rates, search
from tlora_ref.lab.rooms import ByHand
from tlora_ref.lab.runs import read_store, run_all


def square(shared, task):
    """A run that leaves a trace, so that repeats can be counted."""
    folder, slow = shared
    (folder / f"{task}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(slow if task > 3 else 0)
    return {"value": task * task}


def traces(folder):
    return sorted(int(p.name.split("-")[0]) for p in folder.iterdir())


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_runs_come_in_order_and_are_not_repeated(tmp_path, workers):
    seen = tmp_path / "seen"
    seen.mkdir()
    store = tmp_path / "runs.jsonl"
    first = run_all(square, (seen, 0), [3, 1], "runs", workers, store)
    assert [r["value"] for r in first] == [9, 1]
    again = run_all(square, (seen, 0), [1, 2, 3], "runs", workers, store)
    assert [r["value"] for r in again] == [1, 4, 9]
    assert traces(seen) == [1, 2, 3]
    assert len(read_store(store)) == 3


def test_a_line_cut_off_by_an_interruption_is_dropped_and_run_again(tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()
    store = tmp_path / "runs.jsonl"
    run_all(square, (seen, 0), [1, 2], "runs", 1, store)
    whole = store.read_text()
    store.write_text(whole[:-7])
    assert [r["value"] for r in run_all(square, (seen, 0), [1, 2], "runs", 1, store)] == [1, 4]
    assert traces(seen) == [1, 2, 2]
    assert store.read_text() == whole


def test_a_file_that_is_no_store_is_left_alone(tmp_path):
    store = tmp_path / "runs.jsonl"
    store.write_text("my notes\n")
    with pytest.raises(InputError, match="line 1, is damaged or no finished run"):
        run_all(square, (tmp_path, 0), [1], "runs", 1, store)
    assert store.read_text() == "my notes\n"


INTERRUPTED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_compare import square
from tlora_ref.lab.runs import run_all
if __name__ == "__main__":
    run_all(square, (Path({seen!r}), 60), list(range(8)), "runs", 2, Path({store!r}))
"""


@pytest.mark.distributed
def test_a_killed_job_goes_on_where_it_stopped(tmp_path):
    seen, store = tmp_path / "seen", tmp_path / "runs.jsonl"
    seen.mkdir()
    script = tmp_path / "job.py"
    script.write_text(INTERRUPTED.format(tests=os.path.dirname(__file__), seen=str(seen), store=str(store)))
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (not store.exists() or len(store.read_text().splitlines()) < 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = set(read_store(store))
    assert 3 <= len(finished) < 8
    before = len(traces(seen))
    results = run_all(square, (seen, 0), list(range(8)), "runs", 1, store)
    assert [r["value"] for r in results] == [n * n for n in range(8)]
    assert len(traces(seen)) == before + 8 - len(finished)


def test_a_failing_run_ends_the_job_and_keeps_what_was_done(tmp_path):
    store = tmp_path / "runs.jsonl"
    with pytest.raises(TypeError):
        run_all(square, (tmp_path, 0), [2, None], "runs", 1, store)
    assert [r["value"] for r in read_store(store).values()] == [4]


def test_matched_ranks_are_nearest_to_the_budget():
    for method in METHODS:
        rank = matched_rank(method, 1000)
        distance = abs(trained_count(method, rank) - 1000)
        assert all(distance <= abs(trained_count(method, other) - 1000) for other in range(1, 33)), method
    assert [matched_rank(m, 1028) for m in ("tlora", "lora", "lora_xs")] == [16, 4, 16]
    assert trained_count("tlora", 16) == 1_028
    assert set(NATURAL) == set(RANKS) == set(METHODS)


# --- intervals -----------------------------------------------------------------------------------


def test_the_paired_interval_on_constructed_cases():
    # t(2) = 4.3027 at 97.5 %; the differences 1, 2, 3 have the standard deviation 1
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2)
    assert (found.low, found.high) == (pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4), pytest.approx(4.4841, abs=1e-4))
    # the pairs count, not the level of a seed
    assert paired_difference([12.0, 4.0, 106.0], [11.0, 2.0, 103.0]) == found
    constant = paired_difference([1.5, 2.5, 3.5], [1.0, 2.0, 3.0])
    assert (constant.mean, constant.low, constant.high) == (0.5, 0.5, 0.5)
    assert paired_difference([3.0], [1.0]) == Interval(2.0, -math.inf, math.inf)
    with pytest.raises(InputError, match="2 and 3 values, expected pairs"):
        paired_difference([1, 2], [1, 2, 3])


DRAWN = {
    "normal": lambda r, size: r.standard_normal(size),
    "difference of skewed": lambda r, size: r.exponential(size=size) - r.exponential(size=size),
    "skewed": lambda r, size: r.exponential(size=size) - 1,
}
"""Distributions of mean 0."""


def coverage(distribution, n, simulations=6_000):
    """How often the interval from n values holds the true mean, and three standard errors of that share."""
    values = DRAWN[distribution](np.random.default_rng(n), (simulations, n))
    share = np.mean([found.low <= 0 <= found.high for found in map(mean_interval, values)])
    return share, 3 * math.sqrt(0.95 * 0.05 / simulations)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10, 30])
@pytest.mark.parametrize("distribution", ["normal", "difference of skewed"])
def test_an_interval_of_95_percent_holds_the_mean_in_95_percent_of_all_cases(n, distribution):
    share, error = coverage(distribution, n)
    assert share > 0.94
    assert share > 0.95 - error
    if distribution == "normal":
        assert share < 0.95 + error


@pytest.mark.slow
@pytest.mark.parametrize(("n", "held"), [(3, 0.883), (5, 0.883), (10, 0.901), (30, 0.927)])
def test_of_skewed_values_it_holds_the_mean_less_often_and_the_docstring_says_how_often(n, held):
    share, _ = coverage("skewed", n)
    assert share == pytest.approx(held, abs=0.015)
    rounded = "88 / 88 / 90 / 93 %"
    assert rounded in statistics.__doc__
    assert f"{100 * held:.0f}" == rounded.removesuffix(" %").split(" / ")[[3, 5, 10, 30].index(n)]


# --- learning rates ------------------------------------------------------------------------------


def hill(shared, task):
    """A run whose accuracy falls with the distance to the best rate, in factors of ten; ``shared``: label -> best."""
    made, best = shared
    made.append(task)
    wobble = 0.004 * math.sin(100 * task.seed + 10 * task.lr)
    return {"accuracy": 0.9 - 0.1 * abs(math.log10(task.lr / best[task.setup.label])) + wobble}


def searched(best, plan=FULL, store=None, work=hill):
    """The rates found for objectives whose best rates are given, and the runs that were made."""
    made, setups = [], [Setup(label, "tlora", 2) for label in best]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)
        found = search((made, best), setups, plan, store, work)
    return {setup.label: rate for setup, rate in found.items()}, made


def test_a_best_rate_outside_the_first_grid_is_found_and_tried_on_both_sides():
    best = {"below": 1e-4, "far above": 100.0, "inside": 1e-1, "at the end": 3e-1}
    found, made = searched(best)
    assert found == best
    for label in best:
        tried = {task.lr for task in made if task.setup.label == label}
        assert min(tried) < best[label] < max(tried), label


def test_a_chosen_rate_had_all_seeds_and_full_length_and_hopeless_ones_had_one():
    _, made = searched({"inside": 1e-1})
    seeds = {lr: {task.seed for task in made if task.lr == lr} for lr in {task.lr for task in made}}
    assert seeds == {3e-2: {1000}, 1e-1: {1000, 1001, 1002}, 3e-1: {1000}}
    assert {(task.epochs, task.part) for task in made} == {(FULL.epochs, "validation")}
    assert len(made) == len(set(made))


def near(shared, task):
    """Two rates that one seed cannot tell apart: the first one favours the worse."""
    made, _ = shared
    made.append(task)
    table = {3e-2: (0.6,), 1e-1: (0.86, 0.82, 0.82), 3e-1: (0.85, 0.86, 0.86), 1.0: (0.7,)}
    return {"accuracy": table[task.lr][task.seed - 1000]}


def test_several_seeds_decide_where_one_would_choose_wrongly():
    found, made = searched({"near": None}, work=near)
    assert found == {"near": 3e-1}
    assert 1.0 in {task.lr for task in made}
    assert searched({"near": None}, replace(FULL, trials=1, widen=False), work=near)[0] == {"near": 1e-1}


def test_a_search_without_widening_stays_where_it_is():
    found, made = searched({"far": 1e-6}, replace(FULL, widen=False))
    assert found == {"far": FULL.rates[0]}
    assert {task.lr for task in made} == set(FULL.rates)


def rising(shared, task):
    return {"accuracy": task.lr}


def falling(shared, task):
    return {"accuracy": -task.lr}


def level(shared, task):
    return {"accuracy": 0.1}


@pytest.mark.parametrize(("work", "last"), [(rising, "3000"), (falling, "1e-07"), (level, "3000")])
def test_a_setup_without_a_best_rate_is_an_error_that_says_where_the_search_ended(work, last):
    with pytest.raises(InputError, match=rf"still best at the last learning rate tried, {last}: expected .* and 3000"):
        searched({"endless": None}, work=work)


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path):
    best = {"below": 1e-3, "inside": 1e-1}
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    found, made = searched(best, store=whole)
    assert len(whole.read_text().splitlines()) == len(made)
    stopped.write_text("".join(whole.read_text().splitlines(keepends=True)[:5]))
    again, rest = searched(best, store=stopped)
    assert again == found
    assert len(rest) == len(made) - 5
    assert stopped.read_text() == whole.read_text()


def test_a_run_that_diverges_has_accuracy_zero():
    base, part = init_encoder(ENCODER), load_digits("rot90")["train"]
    few = Part(part.x[:64], part.y[:64])
    task = Task(Setup("everything", "full"), 1e30, 0, 3, "train")
    with np.errstate(all="ignore"):
        assert score((ByHand(), base, {"train": few}), task)["accuracy"] == 0


# --- words ---------------------------------------------------------------------------------------


def report(n, **gaps):
    """A comparison in which each method's accuracy differs from LoRA's by a gap, with noise of one point."""
    r, lora = np.random.default_rng(0), [0.9] * n
    rows = [{"method": "lora", "setting": setting, "accuracies": lora} for setting in ("natural", "matched")]
    rows += [{"method": method, "setting": setting, "accuracies": list(0.9 + gap + 0.01 * r.standard_normal(n))}
             for setting in ("natural", "matched") for method, gap in gaps.items()]  # fmt: skip
    return {"seeds": n, "rows": rows}


def test_the_words_beside_lora_follow_from_the_runs_and_few_runs_say_nothing():
    said = summary(report(30, tlora=-0.04, dora=0.03, vera=0.0))
    assert said.count("ahead: dora; behind: tlora; not told apart from it: vera.") == 2
    assert summary(report(29, tlora=-0.04)) == (
        "29 seeds are too few to say which method is ahead of LoRA and which behind: 30 are asked for."
    )


def test_the_page_says_what_the_stored_comparison_says():
    root = Path(tlora_ref.__file__).parent
    stored = json.loads((root / "lab/bench/results/compare.json").read_text())
    page = (root.parent / "tutorials" / "family.md").read_text(encoding="utf-8")
    assert f"<!-- text: compare -->\n\n```text\n{summary(stored)}\n```" in page


# --- the job -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "tlora,lroa"], "--methods names 'lroa'"),
        (["--methods", ""], "--methods names ''"),
        (["--budget", "0"], "--budget is 0"),
        (["--seeds", "-1"], "--seeds is -1"),
        (["--shift", "up"], "unknown shift 'up'"),
    ],
)
def test_bad_arguments_are_one_sentence(args, message, tmp_path, capsys):
    assert main(["compare", *args, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora+sgd", r"'lora\+sgd': 'sgd' is none of adamw, stiefel, lora_rite"),
        ("tlora+lora_rite", "optimizer is 'lora_rite', expected another for tlora"),
        ("lora+linear", "growth is 'linear', expected None for lora: only the rank of triadapt grows"),
        ("soda+adamw", "optimizer is 'adamw', expected 'stiefel': soda needs Q1, Q2, Q3 to stay orthogonal"),
        ("lora+lora_rite+adamw", r"expected one optimizer and not lora_rite and adamw"),
        ("lora+lora_rite+rac", "chain is 'rac', expected cola or xgblora with lora_rite"),
        ("triadapt+linear+cola", "expected one of the two"),
        ("dora+gelora", "expected None for dora"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(name, message, tmp_path, capsys):
    assert main(["compare", "--methods", f"lora,{name}", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert printed.startswith(f"tlora-ref compare: --methods names {name!r}")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("row", [*TRAINED_OTHERWISE, "triadapt+exponential", "dora+lora_rite"])
def test_every_row_that_is_trained_otherwise_runs_as_it_says(row):
    """A short run; what trained at its end is what the row's count says, where the data have no say in it."""
    base, data = init_encoder(ENCODER), load_digits("rot90")
    few = {name: Part(part.x[:64], part.y[:64]) for name, part in data.items()}
    setup = named_setup("--methods", row, natural_rank(row))
    result = adapt((ByHand(), base, few), Task(setup, 1e-2, 0, 30 if setup.chosen("growth") else 2, "test"))
    model, numbers = result["model"], sum(array.size for array in result["trained"].values())
    assert 0 <= result["accuracy"] <= 1
    if setup.chosen("growth"):
        ranks = [site.R for site in model.adapted.values()]
        assert sum(ranks) > len(ranks)
        assert numbers == count(ENCODER, model.adapter).trained
    elif setup.chosen("allocation") != "gelora":
        beside = sum(base.params[name].size for name in setup.also(base))
        assert numbers == setup.trained(ENCODER) + beside
    if row.endswith("+norms"):
        assert set(result["trained"]) >= {"head.W", "head.b", "layers.0.attn_norm.gamma", "embed_norm.beta"}
        assert (model.params["layers.1.ffn_norm.gamma"] != base.params["layers.1.ffn_norm.gamma"]).any()
    assert abs(trained_count(row, matched_rank(row, 1000)) - 1000) < 200 or setup.chosen("allocation") == "gelora"


@pytest.mark.job
def test_the_job_end_to_end(tmp_path, capsys):
    args = ["compare", "--quick", "--methods", "tlora,edora", "--seeds", "2", "--json", "--out", str(tmp_path)]
    assert main(args) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "compare.json").read_text())
    assert {p.suffix for p in tmp_path.glob("compare.*")} == {".json", ".csv", ".png", ".svg"}
    rows = {(r["method"], r["setting"]): r for r in report["rows"]}
    assert list(dict.fromkeys(m for m, _ in rows)) == ["head", "full", "lora", "tlora", "edora"]
    for (method, setting), row in rows.items():
        assert 0 <= row["accuracy_mean"] <= 1
        if method in METHODS:
            assert row["trained"] == trained_count(method, row["rank"])
            assert abs(row["trained"] - 1000) < 200 or setting == "natural"
        assert (row["minus_lora"] is None) == (method in ("head", "full", "lora"))
        assert row["accuracy_mean"] == pytest.approx(np.mean(row["accuracies"]))
        if row["minus_lora"] is not None:
            pairs = paired_difference(row["accuracies"], rows["lora", setting]["accuracies"])
            assert (row["minus_lora"], row["minus_lora_low"], row["minus_lora_high"]) == tuple(vars(pairs).values())
    (store,) = tmp_path.glob("runs-*.jsonl")
    finished = store.read_text()
    assert main(args) == 0
    assert store.read_text() == finished
    assert json.loads(capsys.readouterr().out) == report


def told(shared, task):
    return {"told": (shared, task.setup.label, task.lr, task.seed, task.epochs, task.part)}


def test_at_the_chosen_rates_every_setup_has_a_result_a_seed():
    one, other = Setup("one", "tlora", 2), Setup("other", "lora", 1)
    found = at_rates("given", {one: 0.1, other: 0.3}, 4, 2, None, told)
    assert {setup: [result["told"] for result in results] for setup, results in found.items()} == {
        setup: [("given", setup.label, lr, seed, 4, "test") for seed in (0, 1)]
        for setup, lr in ((one, 0.1), (other, 0.3))
    }


def test_differences_stand_under_their_names_with_both_bounds():
    values = [0.9, 0.8, 0.85]
    found = differences(values, {"other": [0.5, 0.5, 0.5], "itself": values})
    expected = paired_difference(values, [0.5, 0.5, 0.5])
    assert found == {"minus_other": [expected.mean, expected.low, expected.high], "minus_itself": [0, 0, 0]}
    assert expected.low < expected.mean < expected.high
