"""The main job from the command line, as a stranger would use it."""

import csv
import json
import os
import subprocess
import sys

import pytest

from tlora_ref.__main__ import main
from tlora_ref.lab.data import SHIFTS

pytestmark = pytest.mark.xdist_group("demo")  # the demo runs once


def command(*args, cwd):
    return subprocess.run(
        [sys.executable, "-m", "tlora_ref", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, command(
        "demo", "--quick", "--json", "--seeds", "2", "--out", str(folder / "new" / "out"), cwd=folder
    )


@pytest.mark.job
def test_the_quick_job_writes_table_json_csv_and_figures(quick):
    folder, result = quick
    assert result.returncode == 0, result.stderr
    out = folder / "new" / "out"
    names = {f"{n}{s}" for n in ("digits", "accuracy", "loss", "alpha") for s in (".png", ".svg")}
    assert {p.name for p in out.iterdir()} == names | {"demo.json", "demo.csv"}
    assert all(p.stat().st_size > 500 for p in out.iterdir())
    report = json.loads(result.stdout)
    assert report == json.loads((out / "demo.json").read_text())
    with open(out / "demo.csv") as file:
        rows = list(csv.DictReader(file))
    assert [r["method"] for r in rows] == [m["method"] for m in report["methods"]]
    assert "seeds: 14/14" in result.stderr


@pytest.mark.job
def test_the_report_is_what_the_job_is_about(quick):
    report = json.loads(quick[1].stdout)
    assert [m["method"] for m in report["methods"]] == [
        "nothing", "head only", "TLoRA r=8", "TLoRA r=16", "TLoRA r=32", "LoRA r=1", "LoRA r=8", "everything",
    ]  # fmt: skip
    for row in report["methods"]:
        assert row["trained_formula"] == row["trained_counted"]
        assert row["stored_bytes"] == 4 * row["trained_formula"]
        assert 0 <= row["accuracy_mean"] <= 1
    by_name = {m["method"]: m["accuracy_mean"] for m in report["methods"]}
    assert report["base"]["upright"] > 0.9
    assert by_name["nothing"] == report["base"]["shifted"] < 0.2
    assert by_name["TLoRA r=32"] > 0.6
    assert by_name["everything"] > 0.85
    for row in report["gradients"]:
        assert row["central"] < 1e-7, row
        assert row["complex_step"] < 1e-12, row
    assert sum(row["numbers"] for row in report["gradients"]) > 500


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shift", "rot45"], "unknown shift 'rot45'"),
        (["--rank", "33"], "--rank is 33, expected 2 to 32"),
        (["--rank", "0"], "--rank is 0"),
        (["--seeds", "0"], "--seeds is 0, expected at least 1"),
        (["--method", "lroa"], "--method names 'lroa', expected some of tlora, lora"),
        (["--optimizer", "lora_rite"], "--optimizer is 'lora_rite', expected --method with it"),
        (["--method", "lora", "--optimizer", "sgd"], "--optimizer is 'sgd', expected one of adamw, stiefel, lora_rite"),
        (["--method", "vera", "--optimizer", "lora_rite"], "optimizer is 'lora_rite', expected another for vera"),
        (["--method", "lora", "--growth", "linear"], "growth is 'linear', expected None for lora"),
        (["--chain", "rac"], "--chain is 'rac', expected --method with it"),
        (["--method", "lora", "--chain", "boost"], "--chain is 'boost', expected one of cola, rac, rac_a, asymm"),
        (
            ["--method", "adapter_p", "--chain", "cola"],
            "chain is 'cola', expected None for adapter_p: a link is folded",
        ),
        (["--method", "lorta", "--chain", "xgblora"], "chain is 'xgblora', expected another for lorta"),
        (["--method", "dora", "--allocation", "gelora"], "allocation is 'gelora', expected None for dora"),
        (["--method", "lora", "--growth", "cubic"], "--growth is 'cubic', expected one of linear, exponential"),
    ],
)
def test_bad_arguments_are_one_sentence_and_write_nothing(args, message, tmp_path, capsys):
    assert main(["demo", *args, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_named_before_any_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    result = command("demo", "--quick", "--out", str(tmp_path / "file" / "out"), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        f"tlora-ref demo: cannot write to the output folder {tmp_path}/file/out: Not a directory\n"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_help_and_unknown_jobs(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(shift in text for shift in SHIFTS)
    assert "hand gradients against central differences" in text
    with pytest.raises(SystemExit) as stopped:
        main(["dmeo"])
    assert stopped.value.code == 2
    assert "invalid choice: 'dmeo'" in capsys.readouterr().err
