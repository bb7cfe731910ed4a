"""The job that edits our own files: what is an edit, that each is planted and undone, and that the job can fail."""

import json

import numpy as np
import pytest

from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.by_hand import ops
from tlora_ref.by_hand.methods import METHODS, lora_fa
from tlora_ref.verification import mutate
from tlora_ref.verification.edits import edits, plant

pytestmark = pytest.mark.slow  # edits of whole files, tests run in processes of their own

SOURCE = '''
def helper(a):
    return -a

TABLE = helper(1)

@decorated
def f_fwd(x_NI: Array, W_IO: Array, b_O: Array | None = None, want={"x", "W"}):
    """y = x W"""
    u_NI = x_NI
    if b_O is not None and len(x_NI) > 1:
        raise ValueError(f"{x_NI + 1}")
    return (u_NI @ W_IO.T - b_O).sum(axis=0)
'''


def test_the_edits_of_a_function():
    found = edits(SOURCE)
    assert {edit.function for edit in found} == {"f_fwd"}  # helper has run when the file is loaded
    says = [edit.says for edit in found]
    assert len(set(says)) == len(says)
    head, returned = "if b_O is not None and len(x_NI) > 1:", "return (u_NI @ W_IO.T - b_O).sum(axis=0)"
    for before, after in [
        (head, "if b_O is None and len(x_NI) > 1:"),
        (head, "if b_O is not None or len(x_NI) > 1:"),
        (head, "if len(x_NI) > 1:"),
        (head, "if b_O is not None and len(x_NI) >= 1:"),
        (head, "if b_O is not None and len(u_NI) > 1:"),
        (head, "if b_O is not None and len(x_NI) > 2:"),
        (head, "if False:"),
        (returned, "return (u_NI @ W_IO.T + b_O).sum(axis=0)"),
        (returned, "return (u_NI @ W_IO.T).sum(axis=0)"),
        (returned, "return (b_O - u_NI @ W_IO.T).sum(axis=0)"),
        (returned, "return (u_NI @ W_IO - b_O).sum(axis=0)"),
        (returned, "return (x_NI @ W_IO.T - b_O).sum(axis=0)"),
        (returned, "return (u_NI * W_IO.T - b_O).sum(axis=0)"),
        (returned, "return (u_NI @ W_IO.T - b_O).mean(axis=0)"),
        (returned, "return (u_NI @ W_IO.T - b_O).sum(axis=1)"),
        (returned, "return (u_NI @ W_IO.T - b_O).sum()"),
        (returned, "return u_NI @ W_IO.T - b_O"),
    ]:
        assert f"{before}  ->  {after}" in says
    assert any("want={'W'}" in text for text in says)
    changed = "".join(edit.after for edit in found)
    assert "y = x W" not in changed
    assert "x_NI - 1" not in changed  # the message of an error


def test_an_edit_is_planted_for_everybody_who_holds_the_function_and_only_in_a_copy_of_the_process():
    file = "by_hand/methods/lora_fa.py"
    edit = mutate.edits_of(file)["lora_fa_linear_bwd", "grads['B'] = scale * (rows(u_NR).T @ rows(dy_NO))  ->  "
                                 "grads['B'] = rows(u_NR).T @ rows(dy_NO)"]  # fmt: skip
    assert mutate.found_by_check(file, edit).startswith("lora_fa_linear, ")
    kernel, eye = METHODS["lora_fa"].kernel, np.eye(2)

    def dB():
        return kernel.bwd(eye, kernel.fwd(eye, eye, None, eye, eye, 3.0)[1])["B"]

    np.testing.assert_array_equal(dB(), 3 * eye)
    held = lora_fa.lora_fa_linear_bwd.__code__
    plant(edit, lora_fa)
    try:
        np.testing.assert_array_equal(dB(), eye)
    finally:
        lora_fa.lora_fa_linear_bwd.__code__ = held
    np.testing.assert_array_equal(dB(), 3 * eye)


def test_the_job_on_one_function_goes_on_where_it_was(tmp_path, capsys):
    words = ["mutate", "--file", "by_hand/ops.py", "--function", "tanh_bwd", "--out", str(tmp_path), "--workers", "1"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "100.0 %" in printed.out
    store = tmp_path / "by_hand_ops.jsonl"
    lines = store.read_text().splitlines()
    # the condition on wrt is the one that the checks leave to the properties
    (tested,) = tmp_path.glob("by_hand_ops.tests-*.jsonl")
    assert [json.loads(line)["result"] for line in tested.read_text().splitlines()] == ["tanh: the gradients [] alone"]
    tested.rename(tmp_path / "by_hand_ops.tests-0.jsonl")  # with other tests: what is found stays found
    store.write_text("".join(line + "\n" for line in lines[:-9]))
    assert main(words) == 0
    assert capsys.readouterr().out == printed.out
    assert sorted(store.read_text().splitlines()) == sorted(lines)
    assert not tested.exists()


def test_what_nothing_finds_is_printed_and_what_is_listed_wrongly_too(tmp_path, capsys, monkeypatch):
    edit = next(e for e in mutate.edits_of("by_hand/ops.py").values() if e.function == "tanh_bwd")
    monkeypatch.setattr(mutate, "equivalents", lambda file: {("tanh_bwd", edit.says): "so it is said"})
    monkeypatch.setattr(mutate, "found_by_tests", lambda file, edit: "")
    words = ["mutate", "--file", "by_hand/ops.py", "--function", "tanh_bwd", "--out", str(tmp_path), "--workers", "1"]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "not found: by_hand/ops.py, tanh_bwd: if 'x' in want:  ->  if True:" in printed
    assert f"listed as equivalent, but found: by_hand/ops.py, tanh_bwd: {edit.says}, by " in printed


def test_checks_that_fail_without_an_edit_say_nothing(tmp_path, capsys, monkeypatch):
    right = ops.tanh_bwd.__code__
    monkeypatch.setattr(ops.tanh_bwd, "__code__", (lambda dy_NF, cache, wrt=None: {"x": 2 * dy_NF}).__code__)
    words = ["mutate", "--file", "by_hand/ops.py", "--function", "tanh_fwd", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "tanh_fwd: the checks fail without any edit, so they say nothing: tanh, " in capsys.readouterr().err
    assert ops.tanh_bwd.__code__ is not right


def test_tests_that_fail_without_an_edit_say_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mutate, "OF_FILE", {"by_hand/ops.py": ("no_such_test.py",)})
    words = ["mutate", "--file", "by_hand/ops.py", "--function", "tanh_bwd", "--out", str(tmp_path), "--workers", "1"]
    assert main(words) == 2
    assert "tanh_bwd: the tests fail without any edit, so they say nothing: no_such_test.py ends with " in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--file", "by_hand/fast.py"], "the file is 'by_hand/fast.py', expected one of by_hand/ops.py, "),
        (["--file", "by_hand/ops.py", "--function", "tanh"], "has no function 'tanh' with anything to edit"),
        (["--file", "by_hand/ops.py", "--workers", "0"], "--workers is 0, expected at least 1"),
    ],
)
def test_bad_words_are_named(words, message, tmp_path, capsys):
    assert main(["mutate", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", mutate.files())
def test_every_edit_that_is_listed_as_equivalent_is_an_edit_and_has_a_reason(file):
    for key, reason in mutate.equivalents(file).items():
        assert len(reason.split()) >= 4, key


def test_a_listed_edit_that_is_none_is_refused(tmp_path, monkeypatch):
    listed = tmp_path / "equivalent.json"
    listed.write_text(json.dumps({"by_hand/ops.py": {"tanh_bwd": {"a reason": ["x  ->  y"]}}}))
    monkeypatch.setattr(mutate, "EQUIVALENT", listed)
    with pytest.raises(InputError, match=r"lists what is no edit of by_hand/ops\.py: tanh_bwd: x  ->  y"):
        mutate.equivalents("by_hand/ops.py")
