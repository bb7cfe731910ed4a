"""The state of a run on disk: what comes back, and damaged files that are refused with nothing changed."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from tlora_ref import InputError
from tlora_ref.lab.glue.state import KIND, VERSION, Plan, Record, load_state, save_state
from tlora_ref.tensor_file import digest, read_tensors

PLAN = Plan(per_epoch=2, epochs=3, metrics=("accuracy",))
RUN = {"task": "mrpc", "seed": 0}


def small_state(seed=0, steps=4):
    """Two parameters after some steps: what ``save_state`` and ``load_state`` take, but for the path."""
    torch.manual_seed(seed)
    params = dict(torch.nn.Linear(3, 2).named_parameters())
    optimizer = torch.optim.AdamW(params.values(), lr=0.1)
    for _ in range(steps):
        for p in params.values():
            p.grad = torch.randn_like(p)
        optimizer.step()
    return params, optimizer, torch.amp.GradScaler("cpu", enabled=False)


def small_record():
    epochs = [{"epoch": n, "loss": 0.5, "accuracy": 0.25 * n, "seconds": 1.0} for n in (1, 2)]
    return Record([0.7, 0.6, 0.5, 0.4], epochs)


def all_of(params, optimizer, scaler):
    """Every bit that loading could change."""
    held = {name: p.detach().numpy().tobytes() for name, p in params.items()}
    state = {i: {k: v.numpy().tobytes() for k, v in of.items()} for i, of in optimizer.state_dict()["state"].items()}
    return held, state, scaler.state_dict()


@pytest.fixture
def small(tmp_path):
    save_state(tmp_path / "a", *small_state(), RUN, small_record())
    return tmp_path / "a"


def refuses(path, message):
    there = small_state(seed=1, steps=1)
    before = all_of(*there)
    with pytest.raises(InputError, match=message) as error:
        load_state(path, *there, RUN, PLAN)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert all_of(*there) == before


def test_a_checkpoint_comes_back(small):
    there = small_state(seed=1, steps=1)
    assert load_state(small, *there, RUN, PLAN) == small_record()
    assert all_of(*there) == all_of(*small_state())


def test_every_flipped_byte_of_a_checkpoint_is_noticed(small):
    data = small.read_bytes()
    for place in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        small.write_bytes(damaged)
        refuses(small, "truncated, damaged|does not match its sha256|not a checkpoint|format version")


def test_every_truncated_checkpoint_is_noticed(small):
    data = small.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        small.write_bytes(data[:length])
        refuses(small, "truncated, damaged or no safetensors file")


def edit_of(change):
    return change.__name__


def drop_weight(content, arrays):
    del arrays["weight"]


def drop_moment(content, arrays):
    del arrays["bias/exp_avg_sq"]


def add_array(content, arrays):
    arrays["other"] = np.zeros(2, np.float32)


def reshape_weight(content, arrays):
    arrays["weight"] = arrays["weight"].T.copy()


def double_moment(content, arrays):
    arrays["weight/exp_avg"] = arrays["weight/exp_avg"].astype(np.float64)


def nan_moment(content, arrays):
    arrays["weight/exp_avg"][0, 1] = np.nan


def negative_square(content, arrays):
    arrays["weight/exp_avg_sq"][0, 1] = -1e-3


def half_a_step(content, arrays):
    arrays["weight/step"] = np.array(3.5, np.float32)


def too_many_steps(content, arrays):
    for name in ("weight/step", "bias/step"):
        arrays[name] = np.array(1e6, np.float32)


def other_steps(content, arrays):
    arrays["bias/step"] = np.array(2, np.float32)


def lose_a_loss(content, arrays):
    content["record"]["loss"].pop()


def skip_an_epoch(content, arrays):
    content["record"]["epochs"][1]["epoch"] = 3


def nan_loss(content, arrays):
    content["record"]["loss"][1] = float("nan")


def endless_epochs(content, arrays):
    content["record"]["epochs"] *= 9


def rename_metric(content, arrays):
    content["record"]["epochs"][0]["f1"] = content["record"]["epochs"][0].pop("accuracy")


def no_record(content, arrays):
    content["record"] = None


def run_as_list(content, arrays):
    content["run"] = ["mrpc"]


def surplus_scaler(content, arrays):
    content["scaler"] = {"scale": -1.0}


def deep_scaler(content, arrays):
    content["scaler"] = json.loads("[" * 300 + "]" * 300)


ALTERED = {
    drop_weight: "lacks array weight",
    drop_moment: "lacks array bias/exp_avg_sq",
    add_array: "has a surplus array other",
    reshape_weight: r"has weight as \(3, 2\) float32, expected \(2, 3\) float32",
    double_moment: r"has weight/exp_avg as \(2, 3\) float64, expected \(2, 3\) float32",
    nan_moment: "weight/exp_avg holds numbers that are not finite, 1 of 6",
    negative_square: "has numbers below 0 in weight/exp_avg_sq",
    half_a_step: r"has AdamW after \[3.5, 4.0\] steps, expected one whole number up to 4",
    too_many_steps: r"has AdamW after \[1000000.0\] steps",
    other_steps: r"has AdamW after \[2.0, 4.0\] steps",
    lose_a_loss: "holds 3 losses, expected 2 in each of 2 epochs",
    skip_an_epoch: "as epoch 2, expected its accuracy, epoch, loss, seconds",
    nan_loss: "holds nan in its record, expected finite numbers",
    endless_epochs: "holds 18 epochs, expected 1 to 3",
    rename_metric: "as epoch 1, expected its accuracy",
    no_record: "makes no sense",
    run_as_list: r"describes a run as \['mrpc'\]",
    surplus_scaler: r"holds \['scale'\] of a gradient scaler, expected \[\]",
    deep_scaler: "makes no sense",
}


@pytest.mark.parametrize("change", ALTERED, ids=edit_of)
def test_a_checkpoint_that_makes_no_sense_is_refused_and_nothing_has_changed(small, change):
    """Its sha256 is right, as another program would write it."""
    content, arrays = read_tensors(small, KIND, "a checkpoint", VERSION)
    change(content, arrays)
    entry = json.dumps(content | {"sha256": digest(content, arrays)})
    small.write_bytes(safetensors.numpy.save(arrays, {KIND: entry}))
    refuses(small, ALTERED[change])
