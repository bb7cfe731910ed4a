"""The comparison job and what it stands on: budgets, paired intervals, runs that survive an interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.lab.analysis.statistics import paired_difference
from tlora_ref.lab.jobs.compare import NATURAL, RANKS, matched_rank, trained_count
from tlora_ref.lab.runs import read_store, run_all


def square(shared, task):
    """A run that leaves a trace, so that repeats can be counted."""
    folder, slow = shared
    (folder / f"{task}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(slow)
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
    run_all(square, (Path({seen!r}), 0.4), list(range(8)), "runs", 2, Path({store!r}))
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


def test_the_paired_interval_on_constructed_cases():
    assert paired_difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]) == paired_difference([1, 2, 3], [0, 1, 2])
    constant = paired_difference([1.5, 2.5, 3.5], [1.0, 2.0, 3.0])
    assert (constant.mean, constant.low, constant.high) == (0.5, 0.5, 0.5)
    r = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        noise = r.standard_normal((2, 30))
        found = paired_difference(1 + noise[0], noise[1], draws=400)
        inside += found.low <= 1 <= found.high
    assert 0.88 <= inside / 200 <= 0.99
    with pytest.raises(InputError, match="2 and 3 values, expected pairs"):
        paired_difference([1, 2], [1, 2, 3])


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
    (store,) = tmp_path.glob("runs-*.jsonl")
    finished = store.read_text()
    assert main(args) == 0
    assert store.read_text() == finished
    assert json.loads(capsys.readouterr().out) == report
