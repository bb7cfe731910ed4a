"""python -m tlora_ref check: a stranger's pair with every way it can go wrong, and the suite over all kernels."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest

import tlora_ref
from tlora_ref.__main__ import main
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.gradcheck import check
from tlora_ref.gradcheck.report import Report, Row
from tlora_ref.verification import forwards
from tlora_ref.verification.scenarios import DIFFERENT, encoder_scenarios, scenarios
from tlora_ref.verification.suite import Found, Task, available, run_task, summary, tasks

MINE = """
import numpy as np

def forward(x, w):
    return np.tanh(x @ w), (x, w)

def backward(dout, cache):
    x, w = cache
    dz = dout * (1 - np.tanh(x @ w) ** 2)
    rows = lambda a: a.reshape(-1, a.shape[-1])
    return {"x": dz @ w.T, "w": rows(x).T @ rows(dz)}

def doubled(dout, cache):
    grads = backward(dout, cache)
    return {**grads, "w": 2 * grads["w"]}

def wrong_key(dout, cache):
    grads = backward(dout, cache)
    return {"x": grads["x"], "W": grads["w"]}

def wrong_shape(dout, cache):
    grads = backward(dout, cache)
    return {**grads, "w": grads["w"].T}

def not_finite(dout, cache):
    grads = backward(dout, cache)
    return {**grads, "w": grads["w"] * np.nan}

def raises(dout, cache):
    raise KeyError("w")

def nan_forward(x, w):
    return np.tanh(x @ w) * np.nan, (x, w)

def unsafe(x, w):
    return np.abs(x @ w), (x, w)

def scaled(alpha, x):
    return alpha * x

def scaled_backward(dout, alpha, x):
    return {"alpha": (dout * x).sum(), "x": alpha * dout}

def constant(x, w):
    return 0 * (x @ w) + 1.0, (x, w)

def zeros(dout, cache):
    return {"x": 0 * cache[0], "w": 0 * cache[1]}

def noisy(x, w):
    return (x @ w) * np.random.default_rng().random(), (x, w)

def right_of_unsafe(dout, cache):
    x, w = cache
    dz = dout * np.sign(x @ w)
    rows = lambda a: a.reshape(-1, a.shape[-1])
    return {"x": dz @ w.T, "w": rows(x).T @ rows(dz)}

def ragged(dout, cache):
    return {"x": [[1.0], [2.0, 3.0]], "w": backward(dout, cache)["w"]}

def words(dout, cache):
    return "gradients"

def one_row_only(dout, cache):
    grads = backward(dout, cache)
    return {**grads, "w": grads["w"] * (1 + 1e-3 * (len(dout) > 4))}

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a stranger's module in it, as the current one."""
    (tmp_path / "mymodule.py").write_text(MINE)
    (tmp_path / "needs.py").write_text("import no_such_package_anywhere\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    yield tmp_path
    for name in ("mymodule", "needs", "broken", "leaves"):
        sys.modules.pop(name, None)


SHAPES = ["--shape", "x=2,5,6", "--shape", "w=6,3"]


def test_a_right_pair_passes(folder, capsys):
    assert main(["check", "mymodule:forward", "mymodule:backward", *SHAPES]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in printed.splitlines()[2:4]] == [["x", "PASS"], ["w", "PASS"]]
    assert main(["check", "mymodule:scaled", "mymodule:scaled_backward", "--shape", "alpha=", "--shape", "x=3"]) == 0
    for oracle in ("richardson", "central", "mpmath"):
        assert main(["check", "mymodule:forward", "mymodule:backward", *SHAPES, "--oracle", oracle, "--full"]) == 0


def test_the_current_folder_is_searched_by_the_command_itself(folder):
    command = [sys.executable, "-m", "tlora_ref", "check", "mymodule:forward", "mymodule:backward", *SHAPES]
    source = os.path.dirname(os.path.dirname(tlora_ref.__file__))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_pair_fails_with_one_and_says_how(folder, capsys):
    assert main(["check", "mymodule:forward", "mymodule:doubled", *SHAPES, "--seed", "1"]) == 1
    assert "hand / oracle = 2" in capsys.readouterr().out
    assert main(["check", "mymodule:forward", "mymodule:doubled", *SHAPES, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in report["rows"]] == ["PASS", "FAIL"]
    assert main(["check", "mymodule:unsafe", "mymodule:backward", *SHAPES]) == 1
    assert "by differences, as the complex step cannot follow fn through abs" in capsys.readouterr().out


def test_a_bug_of_many_rows_is_found_from_a_shape_of_few(folder, capsys):
    assert main(["check", "mymodule:forward", "mymodule:one_row_only", *SHAPES]) == 1
    printed = capsys.readouterr().out
    assert "at the point 'many rows'" in printed
    assert "points: given, wide, small, many rows, one row" in printed


def test_exit_code_two_says_that_nothing_is_known(folder, capsys):
    """Every gradient passed is 0; one is wrong is 1; anything between the two is 2."""
    unsafe = ["check", "mymodule:unsafe", "mymodule:right_of_unsafe", *SHAPES]
    assert main(unsafe) == 0
    assert main([*unsafe, "--oracle", "complex"]) == 2
    assert "ORACLE_INVALID" in capsys.readouterr().out
    assert main(["check", "mymodule:constant", "mymodule:zeros", *SHAPES]) == 2
    assert "VACUOUS" in capsys.readouterr().out
    assert main(["check", "mymodule:noisy", "mymodule:backward", *SHAPES]) == 2
    assert "NONDETERMINISTIC" in capsys.readouterr().out
    assert main(["check", "mymodule:forward", "mymodule:backward", *SHAPES]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nomodule:f", "mymodule:backward", *SHAPES], "no module 'nomodule' in this folder or among what"),
        (["needs:f", "mymodule:backward", *SHAPES], "module 'needs' imports 'no_such_package_anywhere'"),
        (["broken:f", "mymodule:backward", *SHAPES], "module 'broken' cannot be imported: ZeroDivisionError"),
        (["leaves:f", "mymodule:backward", *SHAPES], "module 'leaves' ends the program when it is imported: exit(3)"),
        (["mymodule:forward", "mymodule:ragged", *SHAPES], "its gradient is a list of unequal rows, expected an array"),
        (["mymodule:forward", "mymodule:words", *SHAPES], "vjp returned a str, expected a dictionary"),
        (["mymodule:forwards", "mymodule:backward", *SHAPES], "module 'mymodule' has no attribute 'forwards'"),
        (["mymodule:number", "mymodule:backward", *SHAPES], "'mymodule:number' is a int, expected a function"),
        (["mymodule", "mymodule:backward", *SHAPES], "'mymodule' is no function, expected MODULE:FUNCTION"),
        (["mymodule:forward", *SHAPES], "got 1 of MODULE:FUNCTION, expected two"),
        (["mymodule:forward", "mymodule:backward"], "no --shape given"),
        (["mymodule:forward", "mymodule:backward", "--shape", "x=2,a"], "--shape is 'x=2,a', expected NAME=SIZES"),
        (["mymodule:forward", "mymodule:backward", "--shape", "x=0"], "--shape is 'x=0'"),
        (["mymodule:forward", "mymodule:backward", "--shape", "x"], "--shape is 'x'"),
        (["mymodule:forward", "mymodule:backward", *SHAPES, "--shape", "w=1"], "given twice"),
        (["mymodule:forward", "mymodule:backward", *SHAPES, "--seed", "-1"], "--seed is -1"),
        (["mymodule:forward", "mymodule:backward", *SHAPES, "--oracle", "guess"], "oracle is 'guess'"),
        (["mymodule:forward", "mymodule:backward", "--shape", "x=2,5", "--shape", "w=6,3"],
         "fn failed on x (2, 5), w (6, 3): ValueError"),
        (["mymodule:forward", "mymodule:backward", "--shape", "x=2,5"], "fn failed on x (2, 5): TypeError"),
        (["mymodule:nan_forward", "mymodule:backward", *SHAPES], "fn's output 0 is nan at [0, 0, 0]"),
        (["mymodule:forward", "mymodule:wrong_key", *SHAPES], "vjp returned 'W', expected x, w"),
        (["mymodule:forward", "mymodule:wrong_shape", *SHAPES], "w: its gradient has shape (3, 6), expected (6, 3)"),
        (["mymodule:forward", "mymodule:not_finite", *SHAPES], "w: its gradient is nan at [0, 0]"),
        (["mymodule:forward", "mymodule:raises", *SHAPES], "vjp failed: KeyError: 'w'"),
        (["--shape", "x=2"], "belong to a pair"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_exits_with_two_and_a_sentence(folder, capsys, arguments, message):
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tlora-ref check: ")
    assert error.count("\n") == 1


# --- the suite -----------------------------------------------------------------------------------


@pytest.mark.job
def test_the_suite_passes_in_one_table(capsys):
    """The whole of it: every kernel and encoder, every scenario, every oracle."""
    assert main(["check"]) == 0
    printed = capsys.readouterr().out
    for op in KERNELS:
        assert f"\n{op} " in printed
    for subject in ("encoder ", "encoder + tlora", "encoder + lora"):
        assert f"\n{subject}" in printed
    assert "tolerance" in printed
    assert printed.rstrip().endswith(": ok")


@pytest.mark.slow
def test_the_suite_as_json_and_a_planted_bug(capsys, monkeypatch):
    """One worker, so that the planted bug is seen; few tasks, so that it is quick."""
    op = KERNELS["linear"]
    few = [task for task in tasks() if task.subject in ("linear", "frozen_linear")]
    monkeypatch.setattr("tlora_ref.verification.suite.tasks", lambda: few)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert main(["check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert [line["subject"] for line in report["lines"]] == ["linear", "frozen_linear"]
    assert report["lines"][0]["errors"]["exact"] == 0
    assert 0 < report["lines"][0]["errors"]["complex"] < 1e-14

    right = op.bwd
    spoilt = replace(op, bwd=lambda dy, cache: {**right(dy, cache), "b": dy.mean(axis=0)})
    monkeypatch.setitem(KERNELS, "linear", spoilt)
    assert main(["check", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [line["ok"] for line in report["lines"]] == [False, True]
    assert report["lines"][0]["failed"][0]["scenario"] == "different sizes"
    assert main(["check"]) == 1
    printed = capsys.readouterr().out
    assert "linear, different sizes, auto:" in printed
    assert "hand / oracle = 0.2 = 1/N" in printed
    assert printed.rstrip().endswith("FAILED")


class Spoilt:
    """A kernel or method with some of its functions exchanged."""

    def __init__(self, row, **changed):
        self.row, self.changed = row, changed

    def __getattr__(self, name):
        return self.changed[name] if name in self.changed else getattr(self.row, name)


def off_by(factor, function):
    """The function with its array (the first of a pair) times a factor."""

    @wraps(function)
    def spoilt(*args, **options):
        found = function(*args, **options)
        return (found[0] * factor, found[1]) if isinstance(found, tuple) else found * factor

    return spoilt


def failed_ways():
    return {(f.subject, f.way) for f in forwards.forwards() if not f.ok}


def test_every_forward_has_a_second_way_and_they_agree():
    found = forwards.forwards()
    assert all(f.ok for f in found), [f for f in found if not f.ok]
    assert {f.subject for f in found if f.way == "twin"} == set(KERNELS)
    mergeable = {name for name, method in METHODS.items() if method.mergeable}
    for way in ("delta_w", "layer", "merging"):
        assert {f.subject for f in found if f.way == way} == mergeable
    assert {f.subject for f in found if f.way == "column norms"} == {"dora", "dora_full", "edora"}
    assert {f.subject for f in found if f.way == "bias"} >= {"linear", "frozen_linear", "tlora_linear", "dora_linear"}


@pytest.mark.slow
def test_a_forward_that_is_off_is_found_by_its_second_way(monkeypatch):
    tanh, lora = KERNELS["tanh"], KERNELS["lora_linear"]

    def twice_biased(x_NI, W0_IO, b_O, **arrays):
        y, cache = lora.fwd(x_NI, W0_IO, b_O, **arrays)
        return (y if b_O is None else y + b_O), cache

    tlora, dora = METHODS["tlora"], METHODS["dora"]

    def longer(W0_IO, A_IR, B_RO, magnitude_O, scale):
        return {"norm_O": (1 + 1e-9) * dora.constants_of(W0_IO, A_IR, B_RO, magnitude_O, scale)["norm_O"]}

    spoilt = {
        ("tanh", "twin"): (KERNELS, "tanh", Spoilt(tanh, fwd=off_by(1 + 1e-9, tanh.fwd))),
        ("lora_linear", "bias"): (KERNELS, "lora_linear", Spoilt(lora, fwd=twice_biased)),
        ("tlora", "delta_w"): (METHODS, "tlora", Spoilt(tlora, delta_w=off_by(1 + 1e-9, tlora.delta_w))),
        ("tlora", "layer"): (METHODS, "tlora", Spoilt(tlora, delta_w=off_by(1 + 1e-9, tlora.delta_w))),
        ("dora", "column norms"): (METHODS, "dora", Spoilt(dora, constants_of=longer)),
    }
    for where, (table, name, row) in spoilt.items():
        with monkeypatch.context() as patch:
            patch.setitem(table, name, row)
            assert where in failed_ways()
    with monkeypatch.context() as patch:
        patch.setattr(forwards, "_merging", lambda name: 1e-9 if name == "vera" else 0.0)
        assert failed_ways() == {("vera", "merging")}


def test_the_job_fails_for_a_forward(monkeypatch, capsys):
    few = [task for task in tasks() if task.subject == "mean_pool"]
    monkeypatch.setattr("tlora_ref.verification.suite.tasks", lambda: few)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    wrong = [forwards.Forward("tanh", "twin", 1e-3), forwards.Forward("gelu", "twin", 1e-16)]
    monkeypatch.setattr(forwards, "forwards", lambda: wrong)
    assert main(["check"]) == 1
    printed = capsys.readouterr().out
    assert "tanh, twin: off by 1.0e-03" in printed
    assert printed.rstrip().endswith("FAILED")
    assert main(["check", "--json"]) == 1
    assert [f["ok"] for f in json.loads(capsys.readouterr().out)["forwards"]] == [False, True]


def test_vacuous_everywhere_is_not_a_pass():
    task = Task("tlora_linear", None, "initial point", ("auto",))
    (found,) = run_task(None, task)
    assert found.report.ok
    (line,) = summary([found])
    assert (line.ok, line.untested) == (False, ("alpha",))
    (line,) = summary([found, *run_task(None, Task("tlora_linear", None, "square", ("auto",)))])
    assert (line.ok, line.untested) == (True, ())
    flat = Found(task, "auto", Report([Row("k.b", "VACUOUS", "complex")]), frozenset({"k.b"}))
    assert next(summary([flat])).ok


@pytest.mark.parametrize("name", ["layers.0.query.W", "head.b"])
def test_an_encoder_is_checked_along_one_direction_too(name, monkeypatch):
    """Every oracle sees a wrong gradient of one array, large or small, also where it looks at all of them at once."""
    (loss,) = (loss for scenario, loss in encoder_scenarios(None) if scenario == "initial point")
    task = Task("encoder", None, "initial point", ("auto", "central", "torch", "richardson", "mpmath"))
    assert all(found.report.ok for found in run_task(None, task))
    right = type(loss).vjp
    monkeypatch.setattr(
        type(loss), "vjp", lambda self, *given: (grads := right(self, *given)) | {name: 1.01 * grads[name]}
    )
    found = run_task(None, task)
    assert {f.oracle for f in found} == set(task.oracles)
    for f in found:
        wrong = [row.array for row in f.report.rows if row.verdict == "FAIL"]
        assert wrong == ([name] if f.oracle in ("auto", "torch") else ["every"])


def test_every_oracle_and_every_kernel_has_its_turn():
    seen = {(task.subject, oracle) for task in tasks() for oracle in task.oracles}
    for name, op in KERNELS.items():
        expected = {"auto", "richardson", "central", "mpmath", "torch"} | ({"exact"} if op.exact else set())
        assert {oracle for subject, oracle in seen if subject == name} == expected
    assert set(available()) == {"auto", "exact", "richardson", "central", "mpmath", "torch"}
    assert {task.method for task in tasks() if task.subject == "encoder"} == {None, "tlora", "lora", "lorta"}


@pytest.mark.parametrize("op", KERNELS.values(), ids=list(KERNELS))
def test_the_scenarios_are_what_they_are_called(op):
    found = dict(scenarios(op))
    args = found["different sizes"].args
    pairs = [pair for arg in op.args for pair in zip(arg.letters, np.shape(args[arg.name]), strict=True)]
    sizes = {letter: size for letter, size in pairs if letter != "N"}
    inner = [n for letter, n in sizes.items() if letter not in "HKM"]  # M is the smaller one of I and O
    assert 5 not in inner
    assert len(set(inner)) == len(inner), sizes
    assert DIFFERENT["D"] == DIFFERENT["H"] * DIFFERENT["K"]
    for array in found["Fortran order"].args.values():
        assert not isinstance(array, np.ndarray) or array.flags.f_contiguous
    floats = [a for a in found["float32"].args.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    assert all(a.dtype == np.float32 for a in floats)
    if "rank 1" in found:
        assert all(1 in found["rank 1"].args[a.name].shape for a in op.args if set("RS") & set(a.letters))
    if op.name == "tlora_linear":
        start = found["initial point"].args
        assert not start["B_RS"].any()
        assert start["alpha"] == 1
        assert set(found) == {"different sizes", "square", "rank 1", "one row", "two leading axes", "nothing optional",
                              "Fortran order", "float32", "initial point"}  # fmt: skip


@pytest.mark.slow
def test_encoders_hide_only_what_is_flat():
    for method in (None, "tlora", "lora", "lorta"):
        for name, loss in encoder_scenarios(method):
            if name in ("continuous tokens", "ids, causal", "first token", "one row", "as BERT", "as RoBERTa"):
                report = check(loss.fn, loss.vjp, loss.inputs, points=("given",))
                assert report.ok
                assert set(report.untested) == loss.flat, (method, name)
