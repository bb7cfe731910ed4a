"""The job that damages files: a small number of them, and that it can fail."""

import json

import numpy as np
import pytest
import safetensors
import torch

from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.by_autograd import adapter_io
from tlora_ref.lab import damage
from tlora_ref.lab.glue import state
from tlora_ref.lab.jobs import fuzz
from tlora_ref.tensor_file import read_tensors

pytestmark = pytest.mark.slow  # damaged files by the hundred


def column(printed: str, row: str, name: str) -> int:
    lines = printed.splitlines()
    (line,) = [line for line in lines if line.startswith(row)]
    numbers = line[len(row) :].split()
    return int(numbers[fuzz.OUTCOMES.index(name)].replace(",", ""))


def test_damaged_files_are_refused_in_a_sentence_and_change_nothing(capsys):
    assert main(["fuzz", "--adapters", "200", "--checkpoints", "100", "--seed", "7"]) == 0
    printed = capsys.readouterr().out
    assert sum(column(printed, "all", name) for name in fuzz.OUTCOMES) == 300
    assert column(printed, "all", "refused") > 250
    for what in ("adapter", "checkpoint"):
        assert column(printed, f"{what}, bytes", "other") == 0
    for name in ("crashed", "changed", "memory"):
        assert column(printed, "all", name) == 0


@pytest.fixture
def subject():
    return fuzz.adapters()[0]


@pytest.mark.parametrize("kind", damage.BYTES)
def test_every_damage_to_bytes_changes_the_file(subject, kind):
    rng = np.random.default_rng(0)
    made = {bytes(damage.BYTES[kind](rng, bytearray(subject.data))) for _ in range(20)}
    assert len(made - {subject.data}) >= 3


def test_what_a_file_is_made_to_say_has_a_right_sha256(subject, tmp_path):
    rng, read, reasons = np.random.default_rng(0), 0, []
    for _ in range(40):
        _, data = damage.say_otherwise(rng, subject.kind, *subject.said)
        (tmp_path / "a").write_bytes(data)
        try:
            content, arrays = read_tensors(tmp_path / "a", subject.kind, "a file", 1)
        except InputError as error:
            reasons.append(str(error))
        else:
            read += 1
            assert (content, str(arrays)) != (subject.said[0], str(subject.said[1]))
    assert not any("sha256" in reason for reason in reasons)
    assert read >= 10


def test_a_reader_without_a_sha256_is_found_out(monkeypatch):
    def trusting(path, kind, called, version):
        try:
            with safetensors.safe_open(path, "np") as file:
                content = json.loads(file.metadata()[kind])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception:
            raise InputError("damaged") from None
        content.pop("sha256", None)
        return content, arrays

    monkeypatch.setattr(fuzz.adapter_file, "read_tensors", trusting)
    found = fuzz.work(None, ("adapter", 0, 300, 0))
    assert found["counts"]["bytes other"] > 0
    assert any(": other: " in line for line in found["bad"])


def test_a_loader_that_changes_before_it_checks_is_found_out(capsys, monkeypatch):
    checks = state._check_arrays

    def late(arrays, params, steps):
        with torch.no_grad():
            for p in params.values():
                p.zero_()
        checks(arrays, params, steps)

    monkeypatch.setattr(state, "_check_arrays", late)
    assert main(["fuzz", "--adapters", "0", "--checkpoints", "50"]) == 1
    assert column(capsys.readouterr().out, "checkpoint, content", "changed") > 0


def test_a_reader_that_crashes_and_one_that_takes_too_much_are_found_out(monkeypatch):
    def crashes(model, adapter, same_base):
        raise KeyError("B")

    monkeypatch.setattr(adapter_io, "_check_module", crashes)
    monkeypatch.setattr(fuzz, "MEMORY", 1000)
    found = fuzz.work(None, ("adapter", 0, 24, 0))
    assert found["counts"]["content memory"] > 0
    monkeypatch.setattr(fuzz, "MEMORY", 10**9)
    found = fuzz.work(None, ("adapter", 0, 300, 0))
    assert any("crashed: KeyError: 'B'" in line for line in found["bad"])
