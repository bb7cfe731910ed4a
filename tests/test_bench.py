"""The measurements: that the clock is read as it says, the contestants compute the same, and formulas equal what
is there."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tlora_ref import AdapterConfig, InputError
from tlora_ref.__main__ import main
from tlora_ref.by_autograd.linear import TLoRALinear
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.counts import count, trained
from tlora_ref.lab.bench import check, encoder, gpu, layers, memory, methods, timing
from tlora_ref.lab.bench.candidates import CANDIDATES

SMALL = (24, 32, 4)

# --- the clock -----------------------------------------------------------------------------------


def test_rounds_are_interleaved_warmed_up_and_divided_by_their_own_floor(monkeypatch):
    now, ran = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def contestant(name, share):
        def call():
            ran.append(name)
            now[0] += share * (len(ran) // 2 + 1)  # the machine gets slower and slower

        return call

    contestants = {"floor": contestant("floor", 1.0), "twice": contestant("twice", 2.0)}
    times = timing.interleaved(contestants, "floor", seconds=0.0, rounds=(6, 6))
    turns = [tuple(ran[i : i + 2]) for i in range(0, len(ran), 2)]
    assert len(turns) == 8
    assert set(turns) == {("floor", "twice"), ("twice", "floor")}  # and neither always comes after the other
    assert len(times["twice"].seconds) == 6
    assert times["floor"].ratios == (1.0,) * 6
    # in a round the second runs one step later: 2 (n + 1) / n or 2 n / (n + 1), never the 8 of the first to the last
    assert all(1.4 < ratio < 2.8 for ratio in times["twice"].ratios)
    assert max(times["twice"].seconds) > 2 * min(times["twice"].seconds)
    summary = times["twice"].summary()
    assert summary["low"] <= summary["ratio"] <= summary["high"]
    assert summary["ratio"] == np.median(times["twice"].ratios)


def test_time_ends_the_rounds_but_not_below_the_least(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += 1.0

    assert len(timing.interleaved({"a": call}, "a", seconds=0.0, rounds=(3, 9))["a"].seconds) == 3
    assert len(timing.interleaved({"a": call}, "a", seconds=7.0, rounds=(3, 9))["a"].seconds) == 5
    assert len(timing.interleaved({"a": call}, "a", seconds=99.0, rounds=(3, 9))["a"].seconds) == 9


def test_the_machine_is_written_down():
    found = timing.environment(threads=1)
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == 1
    assert found["processor"]


# --- layers --------------------------------------------------------------------------------------


def test_the_contestants_are_ours_and_every_peer_and_all_update_the_same_frozen_layer():
    found = layers.contestants(16, 4, torch.float32)
    assert list(found)[:2] == [layers.FLOOR, layers.OURS]
    assert list(found)[-4:] == ["LoRA, PEFT", "DoRA, PEFT", "VeRA, PEFT", "LoRA, loralib"]
    x = torch.randn(2, 5, 16)
    floor, ours = found[layers.FLOOR](x), found[layers.OURS](x)
    for name, layer in found.items():
        y = layer(x)
        assert y.requires_grad == (name != layers.FLOOR)
        assert torch.equal(y, floor) == (name == layers.FLOOR), name
        trains = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        method = {"TLoRA": "tlora", "LoRA": "lora", "DoRA": "dora", "VeRA": "vera"}.get(name.split(",")[0])
        assert trains == (trained(method, [(16, 16)], 4) if method else 0), name
        if name.startswith("TLoRA"):
            torch.testing.assert_close(y, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", CANDIDATES.values(), ids=CANDIDATES)
def test_every_candidate_has_the_values_and_gradients_of_the_layer(kind):
    torch.manual_seed(0)
    layer = TLoRALinear(nn.Linear(9, 7).double(), AdapterConfig(rank=3), "x")
    nn.init.normal_(layer.B)
    candidate, found = kind(layer), []
    x, dy = torch.randn(2, 5, 9, dtype=torch.float64), torch.randn(2, 5, 7, dtype=torch.float64)
    for module in (layer, candidate):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.backward(dy)
        found.append([y.detach(), leaf.grad, module.B.grad, module.alpha.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-11, atol=1e-11)


def test_in_bfloat16_the_layer_keeps_a_small_update_that_every_other_order_rounds_away():
    found, x = layers.contestants(256, 8, torch.bfloat16), torch.randn(1000, 256).bfloat16()
    before = {name: [p.clone() for p in layer.parameters()] for name, layer in found.items()}
    shares = {name: layers.update_share(layer, found[layers.FLOOR], x) for name, layer in found.items()}
    assert 0.9 < shares.pop(layers.OURS) < 1.1  # the bias, to which it is added first, is small but not zero
    others = {name: share for name, share in shares.items() if share is not None}
    assert len(others) == len(CANDIDATES)
    assert all(0 <= share < 0.4 for share in others.values()), others
    for name, layer in found.items():
        assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), before[name], strict=True))
    single = layers.contestants(256, 8, torch.float32)
    for name, layer in single.items():
        share = layers.update_share(layer, single[layers.FLOOR], x.float())
        assert share is None or abs(share - 1) < 0.01, name


@pytest.mark.parametrize("dtype", layers.DTYPES)
def test_a_layers_row_has_its_time_its_bytes_and_its_closed_form(dtype):
    rows = layers.measure(*SMALL, dtype, seconds=0.01)
    by_name = {row["layer"]: row for row in rows}
    assert by_name[layers.FLOOR]["ratio"] == 1.0
    assert by_name[layers.FLOOR]["kept_bytes"] == 0
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in rows)
    exact = [row for row in rows if row["closed_form_bytes"] is not None]
    assert len(exact) == (6 if dtype == torch.float32 else 0)
    assert all(row["kept_bytes"] == row["closed_form_bytes"] for row in exact)
    assert by_name[layers.OURS]["kept_bytes"] < by_name["TLoRA, textbook order"]["kept_bytes"]
    # 2 N (2 I R + 2 R O + ...) of small products beside 2 N (2 I O): see counts.py
    assert by_name[layers.OURS]["flops_over_floor"] > 1


# --- the encoder ---------------------------------------------------------------------------------


def test_the_steps_by_hand_and_in_torch_are_the_same_step():
    from tlora_ref.init import attach, init_encoder

    model, (x, y) = attach(init_encoder(encoder.encoder_config(32)), encoder.ADAPTER), encoder.data()
    after = encoder.step_by_hand(model, x, y)()
    params = encoder.step_in_torch(model, x, y)()
    assert set(after) == set(params) == set(model.trained)
    for name, array in after.items():
        np.testing.assert_allclose(array, params[name].detach().numpy(), rtol=0, atol=1e-6, err_msg=name)
        assert not np.array_equal(array, model.params[name])


def test_a_widths_row_has_ratios_and_the_closed_form_of_what_is_kept(monkeypatch):
    """The clock is made up: the n-th thing that is timed takes n seconds."""
    now, readings = [0.0], []

    def clock():
        readings.append(now[0])
        now[0] += len(readings) // 2
        return readings[-1]

    taken = {}
    monkeypatch.setattr(
        encoder, "interleaved", lambda *args: taken.update(timing.interleaved(*args, clock=clock)) or taken
    )
    row = encoder.measure(32, seconds=0.0)
    hand, torchs, products = (np.array(taken[key].seconds) for key in (encoder.HAND, encoder.TORCH, encoder.PRODUCTS))
    assert (np.diff(hand) > 0).all()
    assert row["seconds_by_hand"] == np.median(hand)
    assert row["seconds_torch"] == np.median(torchs)
    assert (row["low_torch"], row["ratio_torch"], row["high_torch"]) == tuple(
        np.quantile(hand / torchs, [0.25, 0.5, 0.75])
    )
    assert row["ratio_products"] == np.median(hand / products)
    assert row["kept_bytes"] == row["closed_form_bytes"] < row["peak_bytes"] < 1.5 * row["kept_bytes"]


# --- memory --------------------------------------------------------------------------------------


def test_bytes_over_rank_and_model():
    rows = {(r["model"], r["method"], r["rank"]): r for r in memory.over_rank_and_model(rows=4096)}
    large = rows["roberta-large", "tlora", 32]
    assert (large["adapter"], large["optimizer"]) == (196_800, 393_600)
    assert rows["roberta-large", "lora", 32]["adapter"] == 12_582_912
    # Llama 2 70B: 80 layers of query 8192 x 8192 and value 8192 x 1024
    assert rows["llama-2-70b", "tlora", 16]["adapter"] == 4 * 80 * 2 * 257
    assert rows["llama-2-70b", "lora", 16]["adapter"] == 4 * 80 * 16 * (8192 + 8192 + 8192 + 1024)
    # u of query and of value; x once and u twice
    assert large["activations"] == 4 * 24 * 2 * (4096 * 32 + 32 * 32)
    assert rows["roberta-large", "lora", 32]["activations"] == 4 * 24 * (4096 * 1024 + 2 * 4096 * 32)


def test_formula_and_layer_agree_where_a_layer_fits():
    rows = memory.measured(rows=8)
    assert {(r["model"], r["method"]) for r in rows} == {
        (m, k) for m in ("roberta-base", "roberta-large") for k in ("tlora", "lora")
    }
    for row in rows:
        for kind in ("adapter", "optimizer", "activations"):
            assert row[kind] == row[f"{kind}_formula"], (row["model"], row["method"], kind)


def test_a_peak_is_what_is_held_at_one_time():
    def call():
        a = np.ones(1_000_000, dtype=np.uint8)
        b = np.ones(500_000, dtype=np.uint8)
        del a, b
        return np.ones(700_000, dtype=np.uint8)

    assert 1_500_000 <= memory.peak_bytes(call) < 1_510_000


def test_nothing_to_differentiate_is_not_nothing_kept():
    with pytest.raises(ValueError, match="gradient"):
        memory.kept_bytes(lambda: torch.ones(3), [])


# --- a gradient check ----------------------------------------------------------------------------


def test_directional_checks_cost_the_same_at_every_size_and_full_ones_do_not():
    rows = [row for rank in (3, 6) for row in check.measure(rank, seconds=0.0, most_numbers=30)]
    calls = {(r["numbers"], r["mode"]): r["calls"] for r in rows}
    assert set(calls) == {(10, "directional"), (10, "full"), (37, "directional")}
    assert calls[10, "directional"] == calls[37, "directional"] < calls[10, "full"]


# --- a device ------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
TINY = gpu.Shape(layers=2, width=32, heads=2, hidden=48, vocab=50, batch=3, time=7, rank=4)


def test_the_models_step_runs_on_the_cpu_as_it_would_on_a_device():
    rows = gpu.measure("eager", 0.0, "cpu", TINY)
    assert [r["model"] for r in rows] == [gpu.FLOOR, "TLoRA", "LoRA, PEFT", "VeRA, PEFT"]
    assert rows[0]["ratio"] == 1.0
    assert [r["peak_bytes"] for r in rows] == [None] * 4


def test_a_mode_that_torch_cannot_run_is_one_row_with_its_reason(monkeypatch):
    def fails(call):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(gpu, "recorded", fails)
    rows = gpu.measure("CUDA graph", 0.0, "cpu", TINY)
    assert rows == [{"mode": "CUDA graph", "error": "RuntimeError: operation not permitted"}]


def test_the_floor_trains_nothing_and_differentiates_down_to_the_embeddings():
    net = gpu.model(TINY, "cpu", gpu.FLOOR)
    assert not any(p.requires_grad for p in net.parameters())
    embedded = torch.randn(3, 7, 32, requires_grad=True)
    gpu.step(net, embedded, torch.tensor([0, 1, 0]), None, "cpu")()
    assert embedded.grad.abs().sum() > 0
    ours = gpu.model(TINY, "cpu", "TLoRA")
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == 4 * (4 * 4 + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_mode_runs_on_a_device():
    rows = [row for mode in gpu.MODES for row in gpu.measure(mode, 0.0, "cuda", TINY)]
    assert len(rows) == 4 * len(gpu.MODES)
    assert all(r["peak_bytes"] > 0 for r in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_gpu_part_says_so(capsys):
    with pytest.raises(InputError, match="CUDA"):
        gpu.measure("eager", 0.0)
    assert main(["bench", "gpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "CUDA" in error


# --- every method ---------------------------------------------------------------------------------


@pytest.mark.job
def test_every_registered_method_is_measured_in_both_rooms(capsys, tmp_path):
    assert main(["bench", "methods", "--quick", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["methods"]
    assert [row["method"] for row in rows] == [method.label for method in METHODS.values()]
    encoder_of, adapter = encoder.encoder_config(methods.WIDTH), AdapterConfig(rank=METHODS["tlora"].rank)
    assert rows[0]["trained"] == count(encoder_of, adapter, ("head.W", "head.b")).trained
    printed = capsys.readouterr().out
    assert all(row["method"] in printed and f"{row['trained']:,}" in printed for row in rows)


# --- the job -------------------------------------------------------------------------------------


@pytest.mark.job
def test_the_job_prints_a_table_writes_its_results_and_restores_the_threads(capsys, tmp_path):
    threads = torch.get_num_threads()
    assert main(["bench", "memory", "--quick", "--out", str(tmp_path)]) == 0
    assert "roberta-large" in capsys.readouterr().out
    assert torch.get_num_threads() == threads
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["threads"] == 1
    assert {"memory", "processor", "versions", "date"} <= set(report)
    assert (tmp_path / "memory.png").stat().st_size > 10_000


@pytest.mark.job
def test_an_interrupted_job_goes_on_where_it_was(monkeypatch, tmp_path):
    from tlora_ref.lab.jobs import bench

    asked = []

    def until_the_third(rank, seconds):
        asked.append(rank)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return [{"rank": rank, "numbers": rank, "mode": mode, "calls": 7, "ratio": 1.0}
                for mode in ("directional", "full")]  # fmt: skip

    monkeypatch.setattr(check, "measure", until_the_third)
    arguments = ["bench", "check", "--quick", "--out", str(tmp_path)]
    assert main(arguments) == 130
    assert not (tmp_path / "bench.json").exists()
    assert main(arguments) == 0
    first, second, third = (task[1] for task in bench.TASKS["check"](True))
    assert asked == [first, second, third, third]
    rows = json.loads((tmp_path / "bench.json").read_text())["check"]
    assert [row["rank"] for row in rows] == [first, first, second, second, third, third]


@pytest.mark.job
def test_the_job_prints_json(capsys, tmp_path):
    assert main(["bench", "check", "--quick", "--json", "--out", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "bench.json").read_text())
    assert {row["mode"] for row in printed["check"]} == {"directional", "full"}
