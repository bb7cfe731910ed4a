"""The measurements: that the clock is read as it says, the contestants compute the same, and formulas equal what
is there."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import threadpoolctl
import torch
from torch import nn

from tlora_ref import AdapterConfig, EncoderConfig, InputError, attach, by_hand, init_encoder
from tlora_ref.__main__ import main
from tlora_ref.by_autograd.linear import TLoRALinear
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.counts import count, trained
from tlora_ref.lab.bench import check, encoder, gpu, kernels, layers, memory, methods, minilm, peers, timing
from tlora_ref.lab.bench.candidates import CANDIDATES
from tlora_ref.lab.jobs import bench

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


def test_in_bfloat16_a_larger_bias_rounds_a_part_of_a_small_update_away():
    """0.7 and 1.0 in fused.py: at the smallest size of the table."""
    width, rows, rank = layers.SIZES[0]
    x, shares = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).bfloat16(), {}
    for biased in (True, False):
        found = layers.contestants(width, rank, torch.bfloat16)
        floor, ours = found[layers.FLOOR], found[layers.OURS]
        if not biased:
            nn.init.zeros_(floor.bias)
            nn.init.zeros_(ours.base.bias)
        shares[biased] = layers.update_share(ours, floor, x)
    assert 0.6 < shares[True] < 0.85
    assert 0.9 < shares[False] < 1.1


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


@pytest.mark.parametrize(("capability", "count"), [("AVX512", 4), ("AVX2", 1), ("DEFAULT", 1)])
def test_bfloat16_is_timed_where_the_processor_multiplies_it(capability, count, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    cases = [case for case in bench.TASKS["layers"](False) if case[1] == "size"]
    assert [case[5] for case in cases] == ["float32"] * 4 + ["bfloat16"] * count
    quick = [case for case in bench.TASKS["layers"](True) if case[1] == "size"]
    assert [case[2] for case in quick] == [64, 768, *[64, 768][: count // 2 or 1]]
    row = {"over": "size", "layer": "TLoRA", "ratio": 1.5, "kept_bytes": 0, "update_share": 1.0}
    found = bench.layers_table(
        [row | dict(zip(("width", "rows", "rank", "dtype"), case[2:6], strict=True)) for case in cases]
    )
    assert ("no time to judge by" in found) == (count < 4)
    assert f"leaves of a small one at d = {cases[-1][2]}" in found
    assert "at d = 4096 in float32" in found
    assert found.splitlines()[2].split() == ["TLoRA", *["1.50"] * (4 + count), "0.0", "MiB", "1.00"]


# --- the encoder ---------------------------------------------------------------------------------


SIZES = EncoderConfig(width=8, layers=2, heads=4, hidden=12, time=5, features=3, classes=4)
BATCH, R = 6, 3


def small_step(dtype):
    """A model in which every array is away from its start, tokens and labels."""
    rng = np.random.default_rng(0)
    model = attach(init_encoder(SIZES), AdapterConfig(rank=R), train_also=("head.W", "head.b"))
    moved = {name: (p + 0.3 * rng.standard_normal(p.shape)).astype(dtype) for name, p in model.params.items()}
    x = rng.standard_normal((BATCH, SIZES.time, SIZES.features)).astype(dtype)
    return model.with_params(moved), x, rng.integers(0, SIZES.classes, BATCH)


def assert_is_our_step(loss, grads, dtype):
    """Loss and gradients against those by hand. Two orders of the same sums differ by at most the roundings one after
    another, each u of what is added up: sums of D, R, T and F terms and a dozen single operations in each layer, twice
    for the way back, then the rows; and a gradient is the mean of those of single sequences, alpha's also the sum over
    B, whose sizes and not whose sum, in which they cancel, the roundings are of."""
    D, T, F, K = SIZES.width, SIZES.time, SIZES.hidden, SIZES.width // SIZES.heads
    layer = 3 * (D + 2 * R) + K + 2 * T + D + 2 * 2 * D + D + F + 24
    roundings = 2 * (SIZES.layers * layer + SIZES.features + 2 * D + T + D + SIZES.classes) + BATCH * T
    bound = roundings * np.finfo(dtype).eps / 2
    model, x, y = small_step(dtype)
    expected, ours, _ = by_hand.loss_and_grads(model, x, y)
    assert np.asarray(loss).dtype == dtype
    assert abs(float(loss) - float(expected)) <= bound * float(expected)
    assert set(grads) == set(ours) == set(model.trained)
    single = [by_hand.loss_and_grads(model, x[n : n + 1], y[n : n + 1])[1] for n in range(BATCH)]
    for name, ours_of_it in ours.items():
        size = np.mean([np.abs(g[name]).max() for g in single])
        if name.endswith(".alpha"):  # <B, dB> = alpha dalpha
            B = name.removesuffix("alpha") + "B"
            size = np.mean([(np.abs(model.params[B]) * np.abs(g[B])).sum() for g in single]) / abs(model.params[name])
        theirs = np.asarray(grads[name])
        assert theirs.dtype == dtype, name
        assert theirs.shape == ours_of_it.shape, name
        assert np.abs(theirs - ours_of_it).max() <= bound * size, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_step_in_torch_is_the_one_by_hand(dtype):
    loss, grads = encoder.step_in_torch(*small_step(dtype))()
    assert_is_our_step(loss.numpy(), {name: g.numpy() for name, g in grads.items()}, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_step_in_hips_autograd_is_the_one_by_hand(dtype):
    pytest.importorskip("autograd")
    assert_is_our_step(*peers.hips_step(*small_step(dtype))(), dtype)


IN_JAX = """
import pickle, sys, time
from tlora_ref.lab.bench import peers

jax, found = peers.jax_on_one_thread(), {}
for dtype, name, step in pickle.load(sys.stdin.buffer):
    jax.config.update("jax_enable_x64", dtype == "float64")
    found[dtype] = jax.device_get(peers.jax_steps(*step)[name]())
a = jax.numpy.ones((400, 400))
product = jax.jit(lambda a: jax.numpy.tanh(a @ a) / 400)
for run in range(40):
    if run == 2:  # what compiles has compiled
        own, of_all = time.thread_time(), time.process_time()
    a = product(jax.numpy.exp(a) / 400)
own, of_all = time.thread_time() - own, time.process_time() - of_all
sys.stdout.buffer.write(pickle.dumps((found, own / of_all)))
"""


@pytest.mark.slow
def test_the_steps_in_jax_are_the_one_by_hand_and_run_on_the_thread_that_asks():
    """In a process of its own: how many threads JAX has is settled when it starts, and once it has started every fork
    of the process warns."""
    if not find_spec("jax"):
        pytest.skip("JAX is not installed")
    asked = {"float64": peers.JAX, "float32": peers.JIT}  # each compiles for seconds, of one and the same function
    steps = [(dtype, name, small_step(dtype)) for dtype, name in asked.items()]
    done = subprocess.run([sys.executable, "-c", IN_JAX], input=pickle.dumps(steps), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found, own_share = pickle.loads(done.stdout)
    assert list(found) == list(asked)
    for dtype, (loss, grads) in found.items():
        assert_is_our_step(loss, grads, dtype)
    assert own_share > 0.9


def test_libraries_that_are_not_installed_take_no_part(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.installed_steps(*small_step(np.float32)) == {}


def without_jax(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "jax" else find_spec(name))


def test_a_widths_row_has_ratios_and_the_closed_form_of_what_is_kept(monkeypatch):
    """The clock is made up: the n-th thing that is timed takes n seconds."""
    now, readings = [0.0], []

    def clock():
        readings.append(now[0])
        now[0] += len(readings) // 2
        return readings[-1]

    taken = {}
    monkeypatch.setattr(
        encoder,
        "interleaved",
        lambda *args, **kwargs: taken.update(timing.interleaved(*args, **kwargs | {"clock": clock})) or taken,
    )
    without_jax(monkeypatch)
    row = encoder.measure(32, seconds=0.0)
    hand, torchs, products = (np.array(taken[key].seconds) for key in (encoder.HAND, encoder.TORCH, encoder.PRODUCTS))
    assert (np.diff(hand) > 0).all()
    assert row["seconds_by_hand"] == np.median(hand)
    assert row["seconds_torch"] == np.median(torchs)
    assert (row["low_torch"], row["ratio_torch"], row["high_torch"]) == tuple(
        np.quantile(hand / torchs, [0.25, 0.5, 0.75])
    )
    assert row["ratio_products"] == np.median(hand / products)
    peer = [peers.HIPS] if find_spec("autograd") else []
    assert list(row["others"]) == [*peer, encoder.PRODUCTS]
    for name, summary in row["others"].items():
        assert summary["ratio"] == np.median(np.array(taken[name].seconds) / torchs)
    assert list(row["cpu_over_wall"]) == [encoder.HAND, encoder.TORCH, *peer, encoder.PRODUCTS]
    assert row["kept_bytes"] == row["closed_form_bytes"] < row["peak_bytes"] < 1.5 * row["kept_bytes"]


def test_cpu_over_wall_is_the_most_of_the_rounds(monkeypatch):
    walls, cpus = iter([0, 4, 10, 12, 20, 30]), iter([0, 2, 5, 8, 8, 9])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(walls))
    monkeypatch.setattr(timing.time, "process_time", lambda: next(cpus))
    assert timing.cpu_over_wall(lambda: None, rounds=3) == 1.5


def test_the_encoders_table_has_a_column_for_each_that_took_part_and_a_row_for_minilm():
    old = {"width": 32, "ratio_torch": 0.5, "low_torch": 0.4, "high_torch": 0.6, "ratio_products": 3.0,
           "kept_bytes": 1_000, "closed_form_bytes": 1_000, "peak_bytes": 2_000}  # fmt: skip
    table = bench.encoder_table([old]).splitlines()
    assert table[-1].split() == ["32", "0.50", "0.40", "to", "0.60", "3.00", "1,000", "1,000", "2,000"]
    new = old | {"width": 64, "others": {peers.JIT: {"ratio": 0.71}, encoder.PRODUCTS: {"ratio": 0.12}},
                 "cpu_over_wall": {peers.JIT: 1.004}}  # fmt: skip
    larger = {"model": "MiniLM", "rank": 32, "ratio": 0.93, "low": 0.9, "high": 0.96, "batch": 32, "tokens": 24,
              "by_hand_ms": 321.0, "torch_ms": 345.0}  # fmt: skip
    table = bench.encoder_table([old, new, larger]).splitlines()
    assert peers.JIT in table[0]
    assert table[2].split()[:6] == ["32", "0.50", "0.40", "to", "0.60", "3.00"]
    assert table[3].split()[:8] == ["64", "0.50", "0.40", "to", "0.60", "0.71", "0.12", "3.00"]
    assert table[4].split() == ["MiniLM", "0.93", "0.90", "to", "0.96"]
    assert "rank 32" in table[5]
    assert "321 ms" in table[5]
    assert "345 ms" in table[5]
    assert f"{peers.JIT} 1.00" in table[6]


def test_minilms_step_is_that_of_its_shape_with_an_adapter_on_all_layers(monkeypatch):
    assert minilm.SHAPE.layers == 6
    sizes = replace(minilm.SHAPE, layers=2, width=8, heads=2, hidden=12, vocab=20)
    models = []
    monkeypatch.setattr(minilm, "SHAPE", sizes)
    monkeypatch.setattr(minilm, "find_spec", lambda name: None if name == minilm.PACKAGE else find_spec(name))
    monkeypatch.setattr(minilm, "loss_and_grads", lambda model, *batch: models.append((model, batch)))
    row = minilm.measure(2)
    assert (row["model"], row["weights"], row["batch"], row["tokens"]) == ("MiniLM", "random", 32, 24)
    assert row["low"] <= row["ratio"] <= row["high"]
    model, (ids, labels, mask) = models[0]
    assert len(models) == 4
    assert set(model.adapted) == {f"layers.{layer}.{name}" for layer in (0, 1) for name in ("query", "value")}
    assert ids.shape == mask.shape == (32, 24)
    assert labels.max() < 6
    assert set(mask.sum(axis=1)) <= set(range(6, 25))


@pytest.mark.skipif(not find_spec(minilm.PACKAGE), reason="needs the package of MiniLM")
def test_the_shape_is_the_one_of_the_packages_model():
    config = json.loads((minilm.minilm() / "config.json").read_text())
    shape = minilm.SHAPE
    assert (shape.layers, shape.width, shape.heads, shape.hidden) == tuple(
        config[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    )
    assert (shape.types, shape.eps) == (config["type_vocab_size"], config["layer_norm_eps"])


# --- kernels -------------------------------------------------------------------------------------


def test_the_kernels_in_use_are_written_down_with_library_version_and_architecture():
    found = timing.environment(threads=1)["kernels"]
    assert all(set(kernel) == {"library", "version", "architecture", "of"} for kernel in found)
    loaded = {(info["internal_api"], info["version"]) for info in threadpoolctl.threadpool_info()
              if info["user_api"] == "blas"}  # fmt: skip
    assert loaded <= {(kernel["library"], kernel["version"]) for kernel in found}
    assert all(kernel["architecture"] in kernels.in_words(found) for kernel in found)


def test_without_a_library_that_tells_of_itself_numpy_and_torch_are_asked(monkeypatch):
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: [])
    found = {kernel["of"]: kernel for kernel in kernels.kernels()}
    assert found["numpy"]["library"] == np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    assert ("torch" in found) == torch.backends.mkl.is_available()
    if "torch" in found:
        assert found["torch"]["version"] in torch.__config__.show()
        assert found["torch"]["version"][0].isdigit()
        assert found["torch"]["architecture"] == torch.backends.cpu.get_cpu_capability()


@pytest.mark.parametrize("name", kernels.HOLDS_BACK)
def test_a_variable_that_holds_the_kernels_back_is_warned_of(name):
    assert kernels.held_back({"OMP_NUM_THREADS": "1", "PATH": "/bin"}) is None
    assert f"{name}=x" in kernels.held_back({"PATH": "/bin", name: "x"})


@pytest.mark.job
def test_the_job_measures_every_width_and_minilm(monkeypatch, capsys, tmp_path):
    without_jax(monkeypatch)
    monkeypatch.setattr(encoder, "WIDTHS", (8, 16))
    monkeypatch.setattr(minilm, "measure", lambda repeats: {
        "model": "MiniLM", "rank": 32, "ratio": 0.9, "low": 0.8, "high": 1.0, "batch": 32, "tokens": 24,
        "by_hand_ms": 1.0, "torch_ms": 2.0})  # fmt: skip
    assert main(["bench", "encoder", "--quick", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [row.get("width", row.get("model")) for row in report["encoder"]] == [8, 16, "MiniLM"]
    assert bench.encoder_table(report["encoder"]) in capsys.readouterr().out
    assert (tmp_path / "encoder.png").stat().st_size > 10_000


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
def test_the_job_prints_a_table_writes_its_results_and_restores_the_threads(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    threads = torch.get_num_threads()
    assert main(["bench", "memory", "--quick", "--out", str(tmp_path)]) == 0
    printed, error = capsys.readouterr()
    assert "roberta-large" in printed
    assert kernels.in_words(kernels.kernels()) in printed
    assert error.count("OPENBLAS_CORETYPE=Prescott") == 1
    assert torch.get_num_threads() == threads
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["threads"] == 1
    assert {"memory", "processor", "kernels", "versions", "date"} <= set(report)
    assert (tmp_path / "memory.png").stat().st_size > 10_000


@pytest.mark.job
def test_an_interrupted_job_goes_on_where_it_was(monkeypatch, tmp_path):
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
