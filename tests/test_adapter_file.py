"""Adapter files: round trips through a fresh process and between the rooms; everything that must be refused."""

import copy
import json
import os
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import ENCODER, ON_MATRICES, bits, inputs, net, scramble
from torch import nn

from tlora_ref import AdapterConfig, InputError, Model, adapter_file, attach, init_encoder
from tlora_ref import merge as merge_model
from tlora_ref.adapter_file import AdapterFileError, read_adapter
from tlora_ref.by_autograd import encoder, load_adapter, save_adapter, to_numpy, to_torch
from tlora_ref.by_autograd.adapter_io import array_of
from tlora_ref.by_autograd.inject import adapted, inject, merge, unmerge
from tlora_ref.by_hand import adapter_io as numpy_io
from tlora_ref.by_hand import encoder as by_hand
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.by_hand.methods.tlora import tlora_draw
from tlora_ref.methods import Site
from tlora_ref.tensor_file import digest, fingerprint

TESTS = Path(__file__).parent
TARGETS = (re.compile(r"blocks\.\d\.(query|mix)"), "1.value")
every_method = pytest.mark.parametrize("method", ON_MATRICES)


def fresh(code: str, *arguments: object) -> str:
    """What the code prints in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def trained_net(dtype=torch.float32, **options):
    """A Net as after training: adapters and the last layer are away from where they started."""
    model = net(dtype=dtype)
    inject(
        model, **{"targets": TARGETS, "rank": 3, "dropout": 0.25, "seed": 4, "train_also": ("classifier.1",)} | options
    )
    with torch.no_grad():
        for p in model.classifier[1].parameters():
            p.mul_(1.5).add_(0.25)
    return scramble(model)


def trained_model(method="tlora", dtype=np.float32, layers=(1,)) -> tuple[Model, Model]:
    """A base encoder, and the same with an adapter and a head as after training."""
    base = init_encoder(ENCODER, 0, dtype).training(())
    model = attach(base, AdapterConfig(method=method, rank=3, layers=layers, seed=4), train_also=("head.W", "head.b"))
    rng = np.random.default_rng(5)
    moved = {
        name: (model.params[name] + 0.5 * rng.standard_normal(model.params[name].shape)).astype(dtype)
        for name in sorted(model.trained)
    }
    return base, model.with_params(moved)


def mark(x) -> str:
    """The fingerprint of an array or of a tensor."""
    return fingerprint(array_of(x) if isinstance(x, torch.Tensor) else x)


def digits_in(model: Model):
    return np.random.default_rng(6).standard_normal((2, 4, 6)).astype(model.params["embed.W"].dtype)


def state(model: nn.Module):
    """All there is to change: modules, bits, what trains."""
    return dict(model.named_modules()), bits(model), [(n, p.requires_grad) for n, p in model.named_parameters()]


def same_arrays(one: Model, two: Model) -> bool:
    return one.params.keys() == two.params.keys() and all(
        fingerprint(one.params[n]) == fingerprint(two.params[n]) for n in one.params
    )


# --- round trips ---------------------------------------------------------------------------------

LOAD_NET = """
import sys, torch
from tiny import inputs, net
from tlora_ref.by_autograd import load_adapter
for path, name in zip(sys.argv[1::2], sys.argv[2::2]):
    dtype = getattr(torch, name)
    model = load_adapter(net(dtype=dtype), path)
    print(model(inputs(dtype=dtype)).detach().double().numpy().tobytes().hex())
    print(sorted(name for name, p in model.named_parameters() if p.requires_grad))
    print([layer.adapter for layer in model.modules() if hasattr(layer, "adapter")][0])
"""


@pytest.mark.slow
def test_torch_models_come_back_bit_for_bit_in_a_fresh_process(tmp_path):
    """One process reads them all: a start with torch takes longer than the rest."""
    saved = [("tlora", dtype, compact) for dtype in ("float32", "float64", "bfloat16") for compact in (True, False)]
    saved += [("vera", "float32", True), ("edora", "bfloat16", True)]
    arguments, expected = [], []
    for number, (method, dtype, compact) in enumerate(saved):
        model, path = trained_net(getattr(torch, dtype), method=method), tmp_path / f"{number}.safetensors"
        save_adapter(model, path, compact)
        arguments += [path, dtype]
        y = model(inputs(dtype=getattr(torch, dtype))).detach().double().numpy()
        trains = sorted(n for n, p in model.named_parameters() if p.requires_grad)
        expected.append([y.tobytes().hex(), str(trains), str(adapted(model)[0].adapter)])
    lines = fresh(LOAD_NET, *arguments).splitlines()
    for what, found, right in zip(saved, np.reshape(lines, (-1, 3)).tolist(), expected, strict=True):
        assert found == right, what


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_torch_model_of_every_method_comes_back_bit_for_bit_from_either_form(tmp_path, method, dtype):
    scale = {"lora_alpha": 5.0} if "scale" in METHODS[method].constants else {}
    model = trained_net(dtype, method=method, **scale)
    trained = [(n, p.requires_grad) for n, p in model.named_parameters()]
    for compact in (True, False):
        save_adapter(model, tmp_path / "a", compact)
        fresh_net = load_adapter(net(dtype=dtype), tmp_path / "a")
        other = load_adapter(scramble(trained_net(dtype, method=method, **scale), seed=9), tmp_path / "a")
        for loaded in (fresh_net, other):
            assert bits(loaded) == bits(model)
            assert [(n, p.requires_grad) for n, p in loaded.named_parameters()] == trained
        assert adapted(fresh_net)[0].adapter == adapted(model)[0].adapter
        local = {name.rpartition(".")[2] for name in safetensors.numpy.load((tmp_path / "a").read_bytes())}
        row = METHODS[method]
        frozen = {arg.base for arg in row.arrays} - {arg.base for arg in row.trained_args}
        # what follows from W0 and not from the seed is in either form
        assert local & frozen == (set() if compact and row.from_seed else frozen)
    merge(model)
    save_adapter(model, tmp_path / "merged", compact=False)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "merged").read_bytes()


@every_method
def test_loading_draws_nothing_for_the_model(tmp_path, method, monkeypatch):
    """A singular value decomposition of every matrix, only to be overwritten, would take minutes on a large model."""
    from tlora_ref.by_autograd import linear

    model, drawn = trained_net(method=method), []
    save_adapter(model, tmp_path / "a")
    draw = METHODS[method].draw
    counted = replace(METHODS[method], draw=lambda site, *rest: drawn.append(site.name) or draw(site, *rest))
    monkeypatch.setitem(METHODS, method, counted)
    monkeypatch.setattr(linear, "shared_arrays", None)
    read_adapter(tmp_path / "a")  # which draws the frozen arrays that the file leaves out, and those only
    by_the_file = len(drawn)
    assert bits(load_adapter(net(), tmp_path / "a")) == bits(model)
    assert len(drawn) == 2 * by_the_file


def test_veras_pair_is_stored_once_and_as_large_as_the_matrices_of_the_file_need(tmp_path):
    model = trained_net(method="vera", targets=("query", "value"))
    save_adapter(model, tmp_path / "a", compact=False)
    tensors = safetensors.numpy.load((tmp_path / "a").read_bytes())
    assert {n: a.shape for n, a in tensors.items() if n.endswith((".A", ".B"))} == {
        "shared.A": (7, 3), "shared.B": (3, 9),
    }  # fmt: skip
    for block in model.blocks:  # the widest matrices are taken out
        block.value = block.value.base
    save_adapter(model, tmp_path / "b", compact=False)
    tensors = safetensors.numpy.load((tmp_path / "b").read_bytes())
    assert tensors["shared.B"].shape == (3, 5)
    assert torch.equal(load_adapter(net(), tmp_path / "b")(inputs()), model(inputs()))


LOAD_MODEL = """
import sys, numpy as np
from tlora_ref import EncoderConfig, init_encoder
from tlora_ref.by_hand import encoder_fwd
from tlora_ref.by_hand import load_adapter
config = EncoderConfig(width=8, layers=2, heads=2, hidden=12, time=5, features=6, classes=3)
for path, dtype in zip(sys.argv[1::2], sys.argv[2::2]):
    model = load_adapter(init_encoder(config, 0, getattr(np, dtype)), path)
    x = np.random.default_rng(6).standard_normal((2, 4, 6)).astype(dtype)
    print(encoder_fwd(model, x)[0].tobytes().hex())
    print(sorted(model.trained))
    print(model.adapter)
print("torch" in sys.modules)
"""


def test_models_by_hand_come_back_bit_for_bit_in_a_fresh_process_without_torch(tmp_path):
    saved = [(method, *form) for method in METHODS for form in ((True, "float32"), (False, "float64"))]
    arguments, expected = [], []
    for number, (method, compact, dtype) in enumerate(saved):
        _, model = trained_model(method, getattr(np, dtype))
        path = tmp_path / f"{number}.safetensors"
        numpy_io.save_adapter(model, path, compact)
        arguments += [path, dtype]
        y = by_hand.encoder_fwd(model, digits_in(model))[0]
        expected.append([y.tobytes().hex(), str(sorted(model.trained)), str(model.adapter)])
    *lines, torch_loaded = fresh(LOAD_MODEL, *arguments).splitlines()
    assert torch_loaded == "False"
    for what, found, right in zip(saved, np.reshape(lines, (-1, 3)).tolist(), expected, strict=True):
        assert found == right, what


def test_both_rooms_write_the_same_bytes_and_read_each_others_files(tmp_path):
    base, model = trained_model()
    hand, auto = tmp_path / "hand", tmp_path / "auto"
    numpy_io.save_adapter(model, hand)
    save_adapter(to_torch(model), auto)
    assert hand.read_bytes() == auto.read_bytes()
    here, there = numpy_io.load_adapter(base, auto), load_adapter(to_torch(base), hand)
    assert same_arrays(here, model)
    assert same_arrays(to_numpy(there), model)
    assert here.trained == there.trained == model.trained
    x = digits_in(model)
    logits = by_hand.encoder_fwd(model, x)[0]
    np.testing.assert_allclose(encoder(there, x).detach().numpy(), logits, rtol=0, atol=1e-5 * np.abs(logits).max())


@every_method
def test_an_nn_module_with_the_same_names_reads_the_file_of_an_encoder_by_hand(tmp_path, method):
    base, model = trained_model(method, layers=None)
    head = ("head.W", "head.b")
    model = model.with_params({n: base.params[n] for n in head}).training(model.trained - set(head))
    numpy_io.save_adapter(model, tmp_path / "a")
    module = nn.ModuleDict({"layers": nn.ModuleList()})
    for i in range(ENCODER.layers):
        block = nn.ModuleDict({t: nn.Linear(8, 8) for t in ("query", "key", "value", "output")})
        module["layers"].append(block)
        for target, linear in block.items():
            linear.weight.data = torch.from_numpy(base.params[f"layers.{i}.{target}.W"].T.copy())
    load_adapter(module, tmp_path / "a")
    for layer in adapted(module):
        expected = by_hand.delta_w(model, layer.name)
        np.testing.assert_allclose(layer.delta_w().detach().numpy(), expected, rtol=0, atol=1e-6)
        assert np.abs(expected).max() > 1e-3
    save_adapter(module, tmp_path / "b")
    assert same_arrays(numpy_io.load_adapter(base, tmp_path / "b"), model)


def test_saving_merged_is_saving_unmerged(tmp_path):
    model = trained_net()
    save_adapter(model, tmp_path / "plain")
    merge(model)
    save_adapter(model, tmp_path / "merged")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "merged").read_bytes()
    _, numbers = trained_model()
    numpy_io.save_adapter(numbers, tmp_path / "plain")
    numpy_io.save_adapter(merge_model(by_hand, numbers), tmp_path / "merged")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "merged").read_bytes()


def test_loading_into_a_model_with_the_same_adapter_replaces_its_numbers(tmp_path):
    saved = trained_net()
    save_adapter(saved, tmp_path / "a")
    model = scramble(trained_net(), seed=9)
    assert bits(model) != bits(saved)
    assert load_adapter(model, tmp_path / "a") is model
    assert bits(model) == bits(saved)
    _, hand = trained_model()
    numpy_io.save_adapter(hand, tmp_path / "b")
    other = hand.with_params({n: a + 1 for n, a in hand.params.items() if n in hand.trained})
    assert same_arrays(numpy_io.load_adapter(other, tmp_path / "b"), hand)


def test_the_given_model_by_hand_is_not_changed_and_shares_nothing_it_could_change(tmp_path):
    base, model = trained_model()
    numpy_io.save_adapter(model, tmp_path / "a")
    before = {name: fingerprint(array) for name, array in base.params.items()}
    loaded = numpy_io.load_adapter(base, tmp_path / "a")
    for name in loaded.trained:
        loaded.params[name][...] = 0
    assert {name: fingerprint(array) for name, array in base.params.items()} == before
    assert base.adapter is None


def named(names: list[str], make) -> nn.Module:
    """A model with a module under each dotted name."""
    root = nn.Module()
    for name in names:
        at = root
        *parents, last = name.split(".")
        for part in parents:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at._modules[part]
        at.add_module(last, make())
    return root


def test_the_compact_file_of_roberta_large_holds_49200_numbers_in_less_than_250_kB(tmp_path):
    names = [f"roberta.encoder.layer.{i}.attention.self.{t}" for i in range(24) for t in ("query", "value")]
    model = named(names, lambda: nn.utils.skip_init(nn.Linear, 1024, 1024))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    inject(model, rank=32, dropout=0.5)
    scramble(model)
    save_adapter(model, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    assert sum(a.size for a in safetensors.numpy.load(data).values()) == 49_200
    assert len(data) < 250_000


def test_the_format_needs_no_torch():
    rooms = "'tlora_ref.by_autograd', 'torch'"
    assert fresh(f"import sys, tlora_ref.adapter_file; print([m for m in ({rooms}) if m in sys.modules])") == "[]"


# --- what a file says ----------------------------------------------------------------------------


def test_the_metadata_names_everything(tmp_path):
    model = trained_net()
    save_adapter(model, tmp_path / "a")
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as file:
        config = json.loads(file.metadata()["tlora_ref"])
    assert (config["version"], config["compact"], config["conv1d"]) == (1, True, True)
    assert config["adapter"] | {"targets": None} == {
        "method": "tlora", "rank": 3, "targets": None, "layers": None, "dropout": 0.25, "init": "released", "seed": 4,
        "lora_alpha": None, "ranks": [], "heads": None, "block": 1, "allocation": None,
        "tied": [],
    }  # fmt: skip
    assert config["adapter"]["targets"] == [{"regex": TARGETS[0].pattern, "flags": TARGETS[0].flags}, "1.value"]
    entry = config["matrices"]["blocks.0.query"]
    layer = model.blocks[0].query
    assert entry == {"shape": [7, 5], "dtype": "float32", "base": mark(layer.base.weight.T),
                     "A": mark(layer.A), "C": mark(layer.C)}  # fmt: skip
    assert config["also"] == ["classifier.1.bias", "classifier.1.weight"]


def test_fingerprints_agree_between_rooms_and_tell_dtype_shape_and_layout_apart():
    a = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert mark(a) == mark(torch.from_numpy(a)) == mark(np.asfortranarray(a))
    assert mark(a) == mark(torch.from_numpy(a.T.copy()).T) == mark(a.astype(">f4"))
    half = torch.from_numpy(a).to(torch.bfloat16)
    different = [a, a.T, a.reshape(4, 3), a.astype(np.float64), half, half.half(), -a]
    assert len({mark(x) for x in different}) == len(different)
    zeros = [np.zeros(4, np.float16), torch.zeros(4, dtype=torch.bfloat16), np.zeros(4, np.int16)]
    assert len({mark(x) for x in zeros}) == 3
    nudged = a.copy()
    nudged[2, 3] = np.nextafter(nudged[2, 3], 99)
    assert mark(nudged) != mark(a)


# --- what is refused -----------------------------------------------------------------------------


def rewrite(path: Path, edit) -> None:
    """Change a file and make its sha256 right again, as another program would write it."""
    tensors = safetensors.numpy.load(path.read_bytes())
    with safetensors.safe_open(path, framework="numpy") as file:
        config = json.loads(file.metadata()["tlora_ref"])
    del config["sha256"]
    edit(config, tensors)
    config["sha256"] = digest(config, tensors)
    path.write_bytes(safetensors.numpy.save(tensors, {"tlora_ref": json.dumps(config)}))


def set_version(config, tensors):
    config["version"] = 2


def set_seed(config, tensors):
    config["adapter"]["seed"] = 5


def set_rank(config, tensors):
    config["adapter"]["rank"] = 2


def set_rank_text(config, tensors):
    config["adapter"]["rank"] = "three"


def set_method(config, tensors):
    config["adapter"]["method"] = "nora"


def add_setting(config, tensors):
    config["adapter"]["colour"] = "red"


def break_regex(config, tensors):
    config["adapter"]["targets"][0]["regex"] = "("


def drop_matrices(config, tensors):
    del config["matrices"]


def drop_tensor(config, tensors):
    del tensors["blocks.0.query.B"]


def add_tensor(config, tensors):
    tensors["blocks.0.query.D"] = np.zeros(3, np.float32)


def drop_head(config, tensors):
    del tensors["classifier.1.bias"]


def reshape_b(config, tensors):
    tensors["blocks.0.query.B"] = tensors["blocks.0.query.B"].reshape(1, 9)


def alpha_axis(config, tensors):
    tensors["blocks.0.query.alpha"] = tensors["blocks.0.query.alpha"].reshape(1)


def mix_dtypes(config, tensors):
    tensors["blocks.0.query.alpha"] = tensors["blocks.0.query.alpha"].astype(np.float64)


def all_float64(config, tensors):
    for name in tensors:
        tensors[name] = tensors[name].astype(np.float64)
    for name, entry in config["matrices"].items():
        drawn = tlora_draw(Site(name, *entry["shape"], 3), np.zeros(entry["shape"]), AdapterConfig(rank=3, seed=4))
        entry.update({k: fingerprint(drawn[k]) for k in ("A", "C")})


def rename_matrix(config, tensors):
    config["matrices"]["blocks.0.key"] = config["matrices"].pop("blocks.0.query")
    for local in ("B", "alpha"):
        tensors[f"blocks.0.key.{local}"] = tensors.pop(f"blocks.0.query.{local}")
    drawn = tlora_draw(Site("blocks.0.key", 7, 5, 3), np.zeros((7, 5)), AdapterConfig(rank=3, seed=4))
    for k in ("A", "C"):
        config["matrices"]["blocks.0.key"][k] = fingerprint(drawn[k].astype(np.float32))


def no_columns(config, tensors):
    config["matrices"]["blocks.0.query"]["shape"] = [0, 0]


def huge_matrix(config, tensors):
    config["matrices"]["blocks.0.query"]["shape"] = [10**9, 10**9]


def half_a_shape(config, tensors):
    config["matrices"]["blocks.0.query"]["shape"] = [7]


def no_base(config, tensors):
    config["matrices"]["blocks.0.query"]["base"] = ""


def huge_flags(config, tensors):
    config["adapter"]["targets"][0]["flags"] = 10**30


def flags_that_print(config, tensors):
    config["adapter"]["targets"][0]["flags"] = int(re.DEBUG)


def deep_regex(config, tensors):
    config["adapter"]["targets"][0]["regex"] = "(" * 5000 + ")" * 5000


def huge_seed(config, tensors):
    config["adapter"]["lora_alpha"] = 10**400


def deep_owners(config, tensors):
    config["owners"] = json.loads("[" * 200 + "]" * 200)


def compact_as_text(config, tensors):
    config["compact"] = "no"


def also_twice(config, tensors):
    config["also"].append("blocks.0.query.B")


def layers_as_text(config, tensors):
    config["adapter"]["layers"] = "01"


def nan_in_b(config, tensors):
    tensors["blocks.0.query.B"][0, 1] = np.nan


def infinite_alpha(config, tensors):
    tensors["blocks.0.query.alpha"] = np.array(np.inf, np.float32)


def whole_numbers(config, tensors):
    tensors["classifier.1.bias"] = np.zeros(3, np.int32)


def rename_head(config, tensors):
    config["also"] = [name.replace("1", "2") for name in config["also"]]
    for name in [n for n in tensors if n.startswith("classifier")]:
        tensors[name.replace("1", "2")] = tensors.pop(name)


def reshape_head(config, tensors):
    tensors["classifier.1.bias"] = np.zeros(4, np.float32)


ALTERED = {
    set_version: r"format version 2, expected 1",
    set_seed: r"blocks.0.query.A, drawn from seed 5, is not what it was when saved",
    set_rank: r"blocks.0.query.B has shape \(3, 3\), expected \(2, 2\)",
    set_rank_text: r"rank is 'three', expected a whole number",
    set_method: r"method is 'nora', expected one of",
    add_setting: r"does not make sense .*colour",
    break_regex: r"does not make sense",
    drop_matrices: r"does not make sense .*matrices",
    drop_tensor: r"tensor blocks.0.query.B is missing",
    add_tensor: r"tensor blocks.0.query.D is not expected",
    drop_head: r"tensor classifier.1.bias is missing",
    reshape_b: r"blocks.0.query.B has shape \(1, 9\), expected \(3, 3\)",
    alpha_axis: r"blocks.0.query.alpha has shape \(1,\), expected \(\)",
    mix_dtypes: r"blocks.0.query.alpha is float64, expected float32",
    all_float64: r"is float64, expected torch.float32 beside this base|classifier.1.\w+ of the model is .* float32",
    rename_matrix: r"adapts blocks.0.key, which is no linear layer of the model",
    rename_head: r"holds classifier.2.\w+, which the model does not have",
    no_columns: r"shape of blocks.0.query is \[0, 0\], expected two whole numbers, at least 1",
    huge_matrix: r"blocks.0.query of the model is \(7, 5\) float32, expected \(1000000000, 1000000000\) float32",
    half_a_shape: r"shape of blocks.0.query is \[7\], expected two whole numbers",
    no_base: r"base of blocks.0.query is '', expected a name",
    huge_flags: r"flags of a regular expression is 10+.*, expected flags of re",
    flags_that_print: r"flags of a regular expression is 128, expected flags of re",
    deep_regex: r"does not make sense",
    huge_seed: r"does not make sense",
    deep_owners: r"owners is \[+.*, expected lists of names by module",
    compact_as_text: r"compact is 'no', expected true or false",
    also_twice: r"holds blocks.0.query.B twice",
    layers_as_text: r"layers is '01', expected None or a list of numbers",
    nan_in_b: r"blocks.0.query.B holds numbers that are not finite, 1 of 9",
    infinite_alpha: r"blocks.0.query.alpha holds numbers that are not finite, 1 of 1",
    whole_numbers: r"classifier.1.bias is int32, expected one of float16",
    reshape_head: r"classifier.1.bias of the model is \(3,\) float32, expected \(4,\) float32",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    save_adapter(trained_net(), path)
    return path


@pytest.fixture
def copied(saved, tmp_path):
    (tmp_path / "a").write_bytes(saved.read_bytes())
    return tmp_path / "a"


def refuses(model: nn.Module, path: Path, message: str) -> None:
    before = state(model)
    with pytest.raises(AdapterFileError, match=message) as error:
        load_adapter(model, path)
    assert str(path) in str(error.value)
    assert state(model) == before


@pytest.mark.parametrize("edit", ALTERED, ids=lambda edit: edit.__name__)
def test_a_file_that_does_not_fit_is_refused_and_the_model_stays(copied, edit):
    rewrite(copied, edit)
    refuses(net(), copied, ALTERED[edit])


@pytest.mark.parametrize("method", ["tlora", "lora_fa", "vera"])
def test_nothing_as_large_as_a_file_says_is_made_before_it_is_compared(tmp_path, monkeypatch, method):
    model = trained_net(method=method, targets=("query",), train_also=())
    save_adapter(model, tmp_path / "a")

    def enlarge(config, tensors):
        for entry in config["matrices"].values():
            entry["shape"][0] = 10**7

    rewrite(tmp_path / "a", enlarge)
    model = net()
    tracemalloc.start()
    refuses(model, tmp_path / "a", r"of the model is \(7, 5\) float32, expected \(10000000, 5\)")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10**7
    monkeypatch.setattr(adapter_file, "LARGEST", 10**6)
    with pytest.raises(AdapterFileError, match=r"expected at most 1,000,000 without a base"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("key", ["tlora_ref", "__metadata__"])
def test_a_description_nested_too_deep_is_refused(tmp_path, key):
    deep = "[" * 2000 + "]" * 2000
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, tmp_path / "a", {"tlora_ref": deep})
    if key == "__metadata__":
        header = f'{{"__metadata__":{deep}}}'.encode()
        (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header)
    refuses(net(), tmp_path / "a", "truncated, damaged or no safetensors file")


def test_what_is_no_file_is_neither_read_nor_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "pipe", "it is a pipe, expected a file"),
        (tmp_path / "folder", "it is a folder, expected a file"),
        (Path(os.devnull), "it is a device, expected a file"),
        (tmp_path / "a\0b", "null byte"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        model, before = trained_net(), state(net())
        with pytest.raises(AdapterFileError, match=f"cannot be read: {message}|cannot be read: .*{message}"):
            load_adapter(net(), path)
        assert state(net())[1] == before[1]
        with pytest.raises(InputError, match=f"cannot write .*{message}"):
            save_adapter(model, path)
    assert Path(os.devnull).is_char_device()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_saved(tmp_path, dtype, value):
    model = trained_net(dtype)
    with torch.no_grad():
        model.blocks[0].query.B[1, 2] = value
    with pytest.raises(InputError, match=r"blocks.0.query.B holds numbers that are not finite, 1 of 9"):
        save_adapter(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_rewriting_alone_changes_nothing(copied):
    rewrite(copied, lambda config, tensors: None)
    assert bits(load_adapter(net(), copied)) == bits(trained_net())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.sampled_from([0x01, 0x10, 0x80, 0xFF]))
def test_a_flipped_byte_anywhere_is_noticed(saved, tmp_path, where, flip):
    data = bytearray(saved.read_bytes())
    data[int(where * len(data))] ^= flip
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(AdapterFileError):
        read_adapter(tmp_path / "b")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_noticed(saved, tmp_path, where):
    data = saved.read_bytes()
    (tmp_path / "b").write_bytes(data[: int(where * len(data))])
    with pytest.raises(AdapterFileError, match="truncated, damaged or no safetensors file"):
        read_adapter(tmp_path / "b")


def test_other_files_and_no_file_are_refused(tmp_path):
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "foreign")
    refuses(net(), tmp_path / "foreign", "a safetensors file, but not an adapter file of tlora_ref")
    refuses(net(), tmp_path / "absent", "cannot be read: No such file")
    refuses(net(), tmp_path, "cannot be read: it is a folder, expected a file")


@pytest.mark.parametrize("where", ["blocks.0.query", "blocks.1.value"])
def test_a_base_that_differs_in_one_number_is_refused(copied, where):
    model = net()
    with torch.no_grad():
        model.get_submodule(where).weight[1, 2].mul_(1.001)
    refuses(model, copied, f"another base: 1 of 5 adapted matrices .* the first is {where}")


def test_other_bases_are_refused(copied):
    refuses(net(seed=1), copied, "another base: 5 of 5 adapted matrices")
    refuses(
        net(dtype=torch.bfloat16),
        copied,
        r"blocks.0.query of the model is \(7, 5\) bfloat16, expected \(7, 5\) float32",
    )
    refuses(nn.Sequential(nn.Linear(7, 5)), copied, "adapts blocks.0.query, which is no linear layer of the model")


@pytest.mark.parametrize("method", ["adapter_h", "adapter_p"])
def test_a_file_of_a_method_that_sits_in_blocks_is_refused(tmp_path, method):
    _, model = trained_model(method)
    numpy_io.save_adapter(model, tmp_path / "a")
    refuses(net(), tmp_path / "a", f"{method} sits in a block of the encoder and not on a linear layer")


DIFFERENT = {
    "method": ({"method": "lora"}, "method is 'tlora', the model's adapter has 'lora'"),
    "rank": ({"rank": 2}, "rank is 3, the model's adapter has 2"),
    "dropout": ({"dropout": 0.5}, "dropout is 0.25, the model's adapter has 0.5"),
    "seed": ({"seed": 0}, "seed is 4, the model's adapter has 0"),
    "targets": ({"targets": ("query",)}, "targets is "),
    "train_also": ({"train_also": ()}, "trained array classifier.1.bias .* is not expected"),
}


@pytest.mark.parametrize(("options", "message"), DIFFERENT.values(), ids=list(DIFFERENT))
def test_a_model_with_another_adapter_is_refused(copied, options, message):
    refuses(trained_net(**options), copied, message)


def test_a_merged_model_is_refused_until_it_is_unmerged(copied):
    model = trained_net()
    merge(model)
    refuses(model, copied, "is merged; unmerge it before loading")
    unmerge(model)
    load_adapter(model, copied)
    _, numbers = trained_model()
    numpy_io.save_adapter(numbers, copied)
    with pytest.raises(AdapterFileError, match="is merged; unmerge it before loading"):
        numpy_io.load_adapter(merge_model(by_hand, numbers), copied)


def test_the_room_by_hand_refuses_as_well(tmp_path):
    base, model = trained_model()
    numpy_io.save_adapter(model, tmp_path / "a")
    other = base.with_params({"layers.1.value.W": base.params["layers.1.value.W"] * 2})
    with pytest.raises(AdapterFileError, match=r"another base: 1 of 2 .* layers.1.value"):
        numpy_io.load_adapter(other, tmp_path / "a")
    small = init_encoder(replace(ENCODER, layers=1))
    with pytest.raises(AdapterFileError, match="layer 1 does not exist"):
        numpy_io.load_adapter(small, tmp_path / "a")
    with pytest.raises(AdapterFileError, match=r"float64, expected \(8, 8\) float32"):
        numpy_io.load_adapter(init_encoder(ENCODER, 0, np.float64), tmp_path / "a")
    again = attach(base, AdapterConfig(rank=2, layers=(1,), seed=4))
    with pytest.raises(AdapterFileError, match="rank is 3, the model's adapter has 2"):
        numpy_io.load_adapter(again, tmp_path / "a")
    save_adapter(trained_net(), tmp_path / "b")
    with pytest.raises(AdapterFileError, match=r"unknown target|adapter on"):
        numpy_io.load_adapter(base, tmp_path / "b")
    _, lora = trained_model("lora")
    numpy_io.save_adapter(lora, tmp_path / "c")
    with pytest.raises(AdapterFileError):
        load_adapter(net(), tmp_path / "c")


# --- saving --------------------------------------------------------------------------------------


def test_what_cannot_be_saved_is_refused_and_no_file_appears(tmp_path):
    drifted = trained_net().double()
    with torch.no_grad():
        drifted.blocks[0].query.C[0, 0] += 1
    unfrozen = trained_net()
    unfrozen.blocks[0].query.base.weight.requires_grad_(True)
    renamed = nn.ModuleDict({"inner": trained_net()})
    torn = trained_net(method="vera")
    torn.blocks[1].mix = copy.deepcopy(torn.blocks[1].mix)
    cases = {
        "has no adapters": net(),
        "holds NumPy arrays, expected tensors": trained_model()[1],
        "has no adapter to save": to_torch(trained_model()[0]),
        r"blocks.0.query.[AC] is not what seed 4 draws: save with compact=False": drifted,
        r"blocks.0.query.base.weight is trained": unfrozen,
        r"another name here": renamed,
        "on the meta device": trained_net().to("meta"),
        "have frozen arrays of their own, expected shared ones": torn,
    }
    for message, model in cases.items():
        with pytest.raises(InputError, match=message):
            save_adapter(model, tmp_path / "a")
    by_hand_cases = {
        "has no adapter to save": trained_model()[0],
        "holds tensors, expected NumPy arrays": to_torch(trained_model()[1]),
        "is a Net, expected a Model": trained_net(),
    }
    for message, model in by_hand_cases.items():
        with pytest.raises(InputError, match=message):
            numpy_io.save_adapter(model, tmp_path / "a")
    for path in (tmp_path / "absent" / "a", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            save_adapter(trained_net(), path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_seed_does_not_draw_is_saved_in_full(tmp_path):
    model = trained_net()
    with torch.no_grad():
        model.blocks[0].query.C[0, 0] += 1
    save_adapter(model, tmp_path / "a", compact=False)
    assert bits(load_adapter(net(), tmp_path / "a")) == bits(model)


KILLED = """
import os, signal, sys
from tlora_ref import files
from test_adapter_file import save_adapter, scramble, trained_net
setattr(os, sys.argv[2], lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
save_adapter(scramble(trained_net(), seed=9), sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_save_killed_half_way_leaves_the_old_file_whole(tmp_path, call):
    save_adapter(trained_net(), tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a"), call]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode == -9
    assert (tmp_path / "a").read_bytes() == before
    assert bits(load_adapter(net(), tmp_path / "a")) == bits(trained_net())


def test_a_full_disk_leaves_the_old_file_whole_and_no_other(tmp_path, monkeypatch):
    save_adapter(trained_net(), tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        save_adapter(scramble(trained_net(), seed=9), tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == before
