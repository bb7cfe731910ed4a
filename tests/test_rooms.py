"""The main job from either room: the same runs, the same table, and devices that are not there."""

import json

import numpy as np
import pytest

from tlora_ref import init_encoder
from tlora_ref.__main__ import main
from tlora_ref.lab.data import Part
from tlora_ref.lab.digits import ENCODER, Plan, Setup, Task, adapt
from tlora_ref.lab.jobs import demo
from tlora_ref.lab.rooms import ByAutograd, ByHand


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--device", "cuda"], "--device is 'cuda', expected cpu: by_hand is NumPy; add --room by_autograd"),
        (["--room", "by_autograd", "--device", "cuda:99"], "device is 'cuda:99', expected one of this machine's: cpu"),
        (["--room", "by_autograd", "--device", "abacus"], "device is 'abacus', expected one of this machine's: cpu"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence_and_writes_nothing(args, message, tmp_path, capsys):
    assert main(["demo", *args, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setup", demo.setups(8), ids=lambda setup: setup.label)
def test_one_run_is_the_same_in_either_room(setup):
    """float32 as in the job: the losses of 12 steps agree to its digits, and so does what is trained."""
    rng = np.random.default_rng(0)
    data = Part(rng.random((300, 8, 8), dtype=np.float32), rng.integers(0, 10, 300))
    base = init_encoder(ENCODER)
    if setup.kind == "nothing":
        logits = [room.logits(base, data.x) for room in (ByHand(), ByAutograd())]
        np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-5)
        return
    outcomes = [
        adapt((room, base, {"train": data, "test": data}), Task(setup, lr=1e-2, seed=3, epochs=3, part="test"))
        for room in (ByHand(), ByAutograd())
    ]
    hand, twin = outcomes
    assert len(hand["history"]["loss"]) == 15
    np.testing.assert_allclose(twin["history"]["loss"][:12], hand["history"]["loss"][:12], rtol=1e-4)
    assert set(twin["trained"]) == set(hand["trained"])
    for name, array in hand["trained"].items():
        assert isinstance(twin["trained"][name], np.ndarray)
        assert twin["trained"][name].dtype == array.dtype
    assert abs(twin["accuracy"] - hand["accuracy"]) < 0.05


@pytest.mark.job
def test_the_job_runs_from_by_autograd_and_holds_the_hand_gradients_against_autograds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "setups", lambda rank: [Setup("nothing", "nothing"), Setup("TLoRA r=32", "tlora", 32)])
    monkeypatch.setattr(demo, "QUICK", Plan(pretrain=12, epochs=6, rates=(1e-1,), trials=1, widen=False))
    args = ["demo", "--quick", "--rank", "32", "--seeds", "1", "--json", "--out", str(tmp_path)]
    assert main([*args, "--room", "by_autograd"]) == 0
    printed = capsys.readouterr()
    assert "central difference  complex step  autograd" in printed.err
    report = json.loads(printed.out)
    assert report == json.loads((tmp_path / "demo.json").read_text())
    assert (report["room"], report["device"]) == ("by_autograd", "cpu")
    assert all(row["autograd"] < 1e-12 for row in report["gradients"])
    nothing, adapted = report["methods"]
    assert report["base"]["upright"] > 0.9
    assert nothing["accuracy_mean"] == report["base"]["shifted"] < 0.2
    assert adapted["accuracy_mean"] > 0.6
