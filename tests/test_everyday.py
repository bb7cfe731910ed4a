"""The everyday functions: what each pair is, what this project's checker says of it, and the job that scores others."""

import json

import numpy as np
import pytest

from tlora_ref.__main__ import main
from tlora_ref.gradcheck import check
from tlora_ref.gradcheck.oracles import ORACLES
from tlora_ref.verification import scorers
from tlora_ref.verification.everyday import SUBJECTS, cases, summary
from tlora_ref.verification.everyday import score as everyday

UNDECIDED = {"euclidean norm at zero"}
"""It has a kink at every point that can be made from zeros."""

by_name = {"ids": lambda subject: subject.name}


def test_there_are_enough_of_both_and_every_name_is_taken_once():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    assert sum(not case.says for case in cases()) >= 60
    assert sum(bool(case.says) for case in cases()) >= 60
    assert all(subject.wrong for subject in SUBJECTS)


@pytest.mark.parametrize("subject", SUBJECTS, **by_name)
def test_right_is_accepted_and_wrong_is_rejected(subject):
    found = {case.name: everyday.own(case.problem()) for case in cases() if case.subject is subject}
    expected = {name: "rejected" if ":" in name else "accepted" for name in found}
    expected |= {name: "neither" for name in found if name in UNDECIDED}
    tables = {name: report.table() for name, (said, report) in found.items() if said != expected[name]}
    assert {name: said for name, (said, _) in found.items()} == expected, tables


STATEFUL = ("a layer", "dropout")


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if not s.name.startswith(STATEFUL)], **by_name)
def test_wrong_gradients_are_wrong_somewhere_and_the_forward_is_the_same(subject):
    """By plain numbers, without the checker: at the given point or with every entry several times as large."""
    rng = np.random.default_rng(0)
    far = {k: v * rng.uniform(2, 8, v.shape) if k in subject.wrt else v for k, v in subject.inputs.items()}
    more = {k: -v if k in subject.wrt and (v < 0).any() else v for k, v in far.items()}
    shown = dict.fromkeys(subject.wrong, False)
    for inputs in (dict(subject.inputs), far, more, _three_rows(subject)):
        right_fn, right = subject.pair()
        out, cache = right_fn(**inputs)
        d = rng.standard_normal(np.shape(out))
        grads = right(d, cache)
        for says, pair in subject.wrong.items():
            fn, vjp = pair()
            again, cache = fn(**inputs)
            np.testing.assert_array_equal(again, out)
            wrong = vjp(d, cache)
            shown[says] |= any(np.shape(wrong[k]) != np.shape(g) or (wrong[k] != g).any() for k, g in grads.items())
    assert all(shown.values()), shown


def _three_rows(subject):
    """For what is right with one row only."""
    x = subject.inputs.get("x")
    alone = subject.name == "linear layer, one row"
    return {**subject.inputs, **({"x": np.concatenate([x, 2 * x, -x])} if alone else {})}


@pytest.mark.parametrize("name", ["square", "softmax", "layer norm", "matrix product", "sort", "convolution"])
def test_fifty_digits_agree_with_the_right_gradient(name):
    """Another oracle, so that the list does not rest on the checker it is to score."""
    subject = next(s for s in SUBJECTS if s.name == name)
    oracle = "mpmath" if name in ("square", "matrix product") else "richardson"
    assert oracle in ORACLES
    check(*subject.pair(), subject.inputs, oracle=oracle, points=("given",)).raise_if_failed()


def test_a_summary_counts_what_is_wrong():
    said = {case.name: "rejected" if case.says else "accepted" for case in cases()}
    clean = summary(said)
    assert clean["false_fail"] == clean["false_pass"] == clean["neither"] == []
    assert summary(said | {"exp": "rejected"})["false_fail"] == ["exp"]
    assert summary(said | {"exp: in float32": "accepted"})["false_pass"] == ["exp: in float32"]
    assert summary(said | {"exp": "neither"})["neither"] == ["exp"]


@pytest.fixture
def few(monkeypatch):
    """The job in this process, with two checkers and five functions."""
    from tlora_ref.lab.jobs import mutants as job

    chosen = {s.name: s for s in SUBJECTS if s.name in ("exp", "sort", "sigmoid", "a layer and its cache", "log")}
    monkeypatch.setattr(everyday, "SUBJECTS", tuple(chosen.values()))
    monkeypatch.setattr(everyday, "CHECKERS", {n: scorers.CHECKERS[n] for n in ("tlora_ref", "JAX", "loss falls")})
    monkeypatch.setattr(job, "run_all", lambda work, shared, tasks, label: [work(shared, task) for task in tasks])
    return job


def test_the_job_prints_a_table(few, capsys):
    assert main(["mutants", "--everyday"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith(("tlora_ref", "JAX"))}
    assert rows["tlora_ref"] == ["0", "0", "0"]
    assert rows["JAX"][0] == "0"
    assert int(rows["JAX"][1]) >= 3
    assert "exp: in float32" in printed.partition("Wrong, and accepted")[2]
    assert max(map(len, printed.splitlines())) <= 120


def test_the_job_prints_json_and_fails_with_the_projects_checker(few, capsys, monkeypatch):
    assert main(["mutants", "--everyday", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["everyday"]["tlora_ref"]["false_pass"] == []
    assert report["verdicts"]["JAX"]["exp: in float32"] == "accepted"
    monkeypatch.setattr(everyday, "own", lambda problem, seed=0: ("accepted", None))
    assert main(["mutants", "--everyday", "--json"]) == 1
