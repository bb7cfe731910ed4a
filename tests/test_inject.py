"""TLoRA and its relatives in torch models: what inject does and refuses, merging, dtypes, removal; the field's own
layers; RoBERTa-large's real shape."""

import copy
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_family import START
from tiny import ON_MATRICES, Block, Conv1D, bits, inputs, net, scramble
from torch import nn
from torch.nn.functional import dropout

from tlora_ref import AdapterConfig, InputError
from tlora_ref.by_autograd import save_adapter
from tlora_ref.by_autograd.inject import adapted, disable, held, inject, merge, remove, report, unmerge
from tlora_ref.by_autograd.linear import AdaptedLinear, TLoRALinear, weight_IO
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.counts import frozen, trained
from tlora_ref.init import shared_arrays
from tlora_ref.methods import Site

TARGETS = ("query", "value", "mix")
every_method = pytest.mark.parametrize("method", ON_MATRICES)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


def injected(seed=0, dtype=torch.float32, **options):
    model = net(seed, dtype)
    inject(model, **{"targets": TARGETS, "rank": 3} | options)
    return scramble(model)


def gap(a, b):
    return (a.detach().double() - b.detach().double()).abs().max().item()


# --- the layer -----------------------------------------------------------------------------------


def single(base, adapter):
    """One layer, its adapter away from the start."""
    kind = TLoRALinear if adapter.method == "tlora" else AdaptedLinear
    return scramble(nn.ModuleDict({"layer": kind(base, adapter, "some.layer")}))["layer"]


def numpy(tensor):
    return tensor.detach().numpy() if isinstance(tensor, torch.Tensor) else tensor


@every_method
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), conv1d=st.booleans(), bias=st.booleans(), p=st.sampled_from([0.0, 0.4]))
def test_the_layer_equals_the_kernel_by_hand_forward_and_backward(method, seed, conv1d, bias, p):
    rng, row = np.random.default_rng(seed), METHODS[method]
    I, O, R = map(int, rng.permutation([6, 7, 4]))
    base = (Conv1D(O, I) if conv1d else nn.Linear(I, O, bias=bias)).double()
    layer = single(base, AdapterConfig(method, min(I, O, R), dropout=p, lora_alpha=5.0)).train()
    x = torch.from_numpy(rng.standard_normal((2, 3, I))).requires_grad_()
    dy = rng.standard_normal((2, 3, O))
    torch.manual_seed(seed)
    y = layer(x)
    y.backward(torch.from_numpy(dy))

    # the mask that the layer drew, out of the same generator
    torch.manual_seed(seed)
    width = {"keep_NI": I, "keep_NO": O}[row.keep]
    keep = dropout(torch.ones(2, 3, width, dtype=torch.float64), p, True).numpy()
    x_NI, W0_IO, b_O = numpy(x), numpy(weight_IO(base)), numpy(layer.bias)
    arguments = {name: numpy(value) for name, value in layer.arguments().items()}
    constants = row.constants_of(W0_IO, **arguments) if row.constants_of else {}
    y_hand, cache = row.kernel.fwd(x_NI, W0_IO, b_O, **arguments, **constants, **{row.keep: keep})
    grads = row.kernel.bwd(dy, cache)
    arrays = {arg.base: numpy(layer.array(arg.base)) for arg in row.arrays}
    grads = {"x": grads.pop("x")} | row.gradients(grads, arrays, layer.site)
    np.testing.assert_allclose(numpy(y), y_hand, rtol=0, atol=1e-12 * np.abs(y_hand).max())
    for name, tensor in [("x", x)] + [(arg.base, layer.array(arg.base)) for arg in row.trained_args]:
        largest = np.abs(grads[name]).max()
        np.testing.assert_allclose(tensor.grad.numpy(), grads[name], rtol=0, atol=1e-12 * largest, err_msg=name)
        assert largest > 0
    assert all(p.grad is None for p in base.parameters())
    np.testing.assert_allclose(
        numpy(layer.delta_w()), row.delta_w(W0_IO, **arguments), rtol=0, atol=1e-12 * np.abs(W0_IO).max()
    )


@pytest.mark.parametrize(("method", "init"), [("tlora", "fan_in"), *((name, "released") for name in ON_MATRICES)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_draws_are_those_of_init_under_the_modules_name(method, init, dtype):
    base, model = net(dtype=dtype), net(dtype=dtype)
    inject(model, ("value", "mix"), rank=4, init=init, seed=5, method=method)
    config = AdapterConfig(method, rank=4, init=init, seed=5)
    for name in ("blocks.1.value", "blocks.0.mix"):
        W0_IO = numpy(weight_IO(base.get_submodule(name)))
        drawn = METHODS[method].draw(Site(name, *W0_IO.shape, 4), W0_IO, config)
        drawn |= shared_arrays([Site("blocks.1.value", 5, 9, 4), Site("blocks.1.mix", 9, 7, 4)], config)
        assert set(drawn) == {arg.base for arg in METHODS[method].arrays}
        for local, array in drawn.items():
            given = model.get_submodule(name).array(local).detach()
            assert torch.equal(given, torch.from_numpy(array).to(dtype)), local


def test_the_update_is_dropped_elementwise_and_divided_and_only_in_training():
    p, base = 0.4, nn.Linear(40, 50, bias=False)
    layer = TLoRALinear(base, AdapterConfig(rank=8, dropout=p), "x")
    with torch.no_grad():
        layer.B.normal_()
    x = torch.randn(60, 40)
    layer.eval()
    update = layer(x) - base(x)
    layer.train()
    dropped = layer(x) - base(x)
    kept = dropped.abs() > 1e-6
    assert abs(1 - p - kept.float().mean()) < 0.04
    assert torch.allclose(dropped[kept], (update / (1 - p))[kept], atol=1e-5)
    assert gap(layer(x), layer(x)) > 0


@pytest.mark.parametrize("method", ["tlora", "lora_fa", "lora_xs"])
def test_autograd_keeps_no_row_of_model_width(method):
    layer = single(nn.Linear(64, 48), AdapterConfig(method, rank=4))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(100, 64, requires_grad=True))
    with_rows = [tuple(t.shape) for t in kept if t.shape[:1] == (100,)]
    assert with_rows == [(100, 4)]


def test_state_dict_names_deepcopy_and_pickle():
    model = injected(dropout=0.5)
    names = set(model.blocks[0].query.state_dict())
    assert names == {"A", "B", "C", "alpha", "base.weight", "base.bias"}
    merge(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert bits(twin) == bits(model)
        assert torch.equal(twin(inputs()), model(inputs()))
        unmerge(twin)
        assert not torch.equal(twin(inputs()), model(inputs()))


# --- inject --------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attached_and_untrained_the_outputs_are_the_bases_and_the_mode_stays(method, dtype):
    """Bit for bit, the update being added to what the base returns; near where a method starts near (START). Where
    columns are rescaled each layer is off by rounding: m and n are the roots of two sums of the same I squares, in
    orders of their own and either off by at most I + 2 roundings, and y0 m / n - y0 + y takes five more."""
    model, base, x = net(dtype=dtype), net(dtype=dtype), inputs(dtype=dtype)
    inject(model, TARGETS, rank=3, dropout=0.5, method=method)
    assert not any(m.training for m in model.modules())
    if method in START:
        assert 64 * torch.finfo(dtype).eps < gap(model(x), base(x)) <= START[method]
    elif not METHODS[method].rescales:
        assert torch.equal(model(x), base(x))
    else:
        for layer in adapted(model):
            I, u = layer.in_features, torch.finfo(dtype).eps / 2
            x = torch.randn(50, I, dtype=dtype)
            y = layer.base(x)
            y0 = y if layer.bias is None else y - layer.bias
            roundings = (2 * (I + 2) + 5) * u / (1 - (2 * (I + 2) + 5) * u)
            assert bool(((layer(x) - y).abs() <= roundings * (y0.abs() + y.abs())).all())


@every_method
def test_training_moves_what_trains_and_nothing_else(method):
    """Three steps of AdamW in training mode: the trained arrays of every layer move, every other bit stays."""
    model = net()
    inject(model, TARGETS, rank=3, dropout=0.25, method=method)
    local = {arg.base for arg in METHODS[method].trained_args}
    trained_names = {f"blocks.{i}.{target}.{name}" for i in (0, 1) for target in TARGETS for name in local}
    if METHODS[method].shared_names >= local:  # one store, found under every layer, of which torch names the first
        trained_names = {f"blocks.0.{TARGETS[0]}.shared.{name}" for name in local}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trained_names
    before = bits(model.train())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        (model(inputs(step)) - 1).square().sum().backward()
        optimizer.step()
    after = bits(model)
    moved = {name for name in before if before[name] != after[name]}
    assert moved == trained_names


def test_what_trains_is_b_alpha_and_train_also_and_all_of_it_gets_a_gradient():
    model = net()
    told = inject(model, ("query", re.compile(r"blocks\.1\.v.*")), rank=3, train_also=("classifier.1", "norm.bias"))
    expected = {f"blocks.{i}.query.{n}" for i in (0, 1) for n in ("B", "alpha")}
    expected |= {"blocks.1.value.B", "blocks.1.value.alpha", "classifier.1.weight", "classifier.1.bias"}
    expected |= {"blocks.0.norm.bias", "blocks.1.norm.bias"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
    assert list(told.matrices.items()) == [
        ("blocks.0.query", (7, 5)), ("blocks.1.query", (7, 5)), ("blocks.1.value", (5, 9))
    ]  # fmt: skip
    scramble(model)
    model(inputs()).square().sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.abs().max() > 0)) == (name in expected), name


def test_the_report_counts_what_is_there_and_prints_it():
    model = net()
    base = sum(p.numel() for p in model.parameters())
    told = inject(model, TARGETS, rank=3, train_also=("classifier",))
    head = 7 * 6 + 6 + 6 * 3 + 3
    n = 6 * (3 * 3 + 1) + head
    c = told.counts
    assert (c.base, c.trained, c.stored, c.optimizer) == (base, n, n, 2 * n)
    assert c.frozen_random == 2 * 3 * ((7 + 5) + (5 + 9) + (9 + 7))
    assert (told.stored_bytes, told.optimizer_bytes) == (4 * n, 8 * n)
    assert told.also == tuple(f"classifier.{i}.{w}" for i in (0, 1) for w in ("weight", "bias"))
    text = str(told)
    for expected in ("rank 3 on 6 matrices", "2 x blocks.*.query  7 x 5", "classifier.1.bias", f"{n} ", f"{base:,}"):
        assert expected in text
    assert str(report(model)) == text
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    model(inputs()).sum().backward()
    optimizer.step()
    moments = [s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
    assert sum(t.numel() * t.element_size() for t in moments) == told.optimizer_bytes


@every_method
def test_the_report_of_every_method_has_its_closed_forms_and_says_what_a_file_holds(method, tmp_path):
    model, row = net(), METHODS[method]
    told = inject(model, TARGETS, rank=3, method=method)
    scramble(model)
    n, still = trained(method, told.matrices, 3), frozen(method, told.matrices, 3)
    assert (told.counts.trained, told.counts.frozen_random, told.counts.from_seed) == (n, still, row.from_seed)
    assert told.counts.stored == n + (0 if row.from_seed else still)
    assert (told.stored_bytes, told.optimizer_bytes) == (4 * told.counts.stored, 8 * n)
    save_adapter(model, tmp_path / "adapter")
    header = int.from_bytes((tmp_path / "adapter").read_bytes()[:8], "little")
    assert (tmp_path / "adapter").stat().st_size == told.stored_bytes + 8 + header
    lines = str(told).splitlines()
    assert lines[0].lower().startswith(f"{method} of rank 3 on 6 matrices")
    said = next(line for line in lines if line.strip().startswith("frozen"))
    assert f" {still:,}" in said
    assert ("from the seed" in said, "from W0" in said) == (still > 0 and row.from_seed, not row.from_seed)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)


BAD = {
    "a pattern that matches nothing, beside one that does": (
        {"targets": ("query", "valeu")}, r"target 'valeu' matches nothing; the nearest names are value, "),
    "a regular expression that matches nothing": (
        {"targets": ("query", re.compile(r"block\.\d\.value"))},
        r"regular expression .* nearest names are blocks\.\*\.value"),
    "part of a name": ({"targets": ("uery",)}, r"target 'uery' matches nothing; the nearest names are query"),
    "a regular expression that matches part of a name": (
        {"targets": (re.compile("query"),)}, r"regular expression 'query' matches nothing"),
    "no linear layer": (
        {"targets": ("query", "norm")}, r"blocks.0.norm is a LayerNorm, expected .* nn.Linear or Conv1D"),
    "a container": ({"targets": ("blocks.0",)}, "blocks.0 is a Block, expected"),
    "a rank that is too large": (
        {"targets": ("value", "query"), "rank": 6}, r"rank 6 .* min\(I, O\) = 5 of blocks.0.query"),
    "rank 0": ({"rank": 0}, "rank is 0, expected a whole number"),
    "dropout 1": ({"dropout": 1.0}, "dropout is 1.0, expected"),
    "an unknown init": ({"init": "zeros"}, "init is 'zeros', expected one of"),
    "a string for targets": ({"targets": "query"}, "targets is 'query', expected a tuple"),
    "no targets": ({"targets": ()}, "targets is .* at least one"),
    "a train_also that matches nothing": (
        {"train_also": ("clasifier",)}, "train_also 'clasifier' matches nothing; .* classifier"),
    "a train_also that the adapter freezes": (
        {"train_also": ("query.bias",)},
        "train_also names blocks.0.query.bias, which the adapter on blocks.0.query freezes"),
    "a method that sits in a block": (
        {"method": "adapter_h"}, "adapter_h sits in a block of the encoder and not on a linear layer"),
    "another method that sits in a block": (
        {"method": "adapter_p"}, "adapter_p sits in a block of the encoder and not on a linear layer"),
    "an unknown method": ({"method": "nora"}, "method is 'nora', expected one of tlora, lora,"),
    "lora_alpha without a constant scale": (
        {"lora_alpha": 16}, "lora_alpha is 16, expected None: tlora has no constant scale"),
    "lora_alpha 0": ({"lora_alpha": 0, "method": "lora"}, "lora_alpha is 0, expected None or a positive number"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=list(BAD))
def test_what_cannot_be_is_refused_and_nothing_has_changed(options, message):
    model = net()
    before, flags = dict(model.named_modules()), [p.requires_grad for p in model.parameters()]
    with pytest.raises(InputError, match=message):
        inject(model, **{"targets": ("query", "value"), "rank": 3} | options)
    assert dict(model.named_modules()) == before
    assert [p.requires_grad for p in model.parameters()] == flags


def test_injecting_twice_is_refused_also_elsewhere_in_the_model():
    model = injected()
    before = bits(model)
    with pytest.raises(InputError, match="already has adapters"):
        inject(model, ("classifier.0",), rank=2)
    assert bits(model) == before


def test_layers_that_torch_reads_without_calling_are_refused():
    with pytest.raises(InputError, match=r"lies in a torch.nn.MultiheadAttention"):
        inject(Attention(), ("out_proj",), rank=2)
    with pytest.raises(InputError, match=r"lies in a torch.nn.MultiheadAttention"):
        inject(nn.MultiheadAttention(4, 2), ("out_proj",), rank=2)


def test_functions_on_a_model_without_adapters_say_so():
    for function in (merge, unmerge, remove, report):
        with pytest.raises(InputError, match="has no adapters"):
            function(net())
    with pytest.raises(InputError, match="has no adapters"), disable(net()):
        pass
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module"):
        inject("roberta-large")


def test_a_module_at_two_places_is_adapted_once_and_put_at_both():
    model = nn.ModuleDict({"a": Block(), "b": Block()})
    shared = model["a"].query
    model["b"].query = shared
    told = inject(model, ("query",), rank=2)
    assert list(told.matrices) == ["a.query"]
    assert model["a"].query is model["b"].query
    assert isinstance(model["a"].query, TLoRALinear)
    remove(model)
    assert model["a"].query is model["b"].query is shared


def test_an_embedding_tied_to_an_adapted_matrix_stays_as_it_was():
    model = nn.ModuleDict({"embedding": nn.Embedding(11, 6), "head": nn.Linear(6, 11)}).eval()
    model["head"].weight = model["embedding"].weight
    before = model["embedding"].weight.clone()
    scramble((inject(model, ("head",), rank=3), model)[1])
    merge(model)
    assert torch.equal(model["embedding"].weight, before)
    assert model["head"].base.weight is model["embedding"].weight


# --- merge, unmerge, remove, disable -------------------------------------------------------------


def magnitude(layer, x):
    """|x| (|W0| + |A| |alpha B| |C|) + |b|: what rounding errors of the layer are relative to, entry by entry."""
    W = weight_IO(layer.base).double().abs() + layer.A.double().abs() @ (layer.alpha * layer.B).double().abs() @ (
        layer.C.double().abs()
    )
    return x.double().abs() @ W + (0 if layer.bias is None else layer.bias.double().abs())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("conv1d", [False, True])
@torch.no_grad()
def test_merged_equals_unmerged_to_a_bound_from_the_dtype(dtype, conv1d):
    """A chain of n roundings is off by at most n u / (1 - n u) of its magnitude, u = eps / 2 (Higham, Accuracy and
    Stability, section 3.1). Either side has at most I + 2 R + 4, in float32 beside a half-precision base. There
    come at most seven roundings to half precision: x W0, + b, the update, their sum; W', x W', + b."""
    torch.manual_seed(3)
    I, O, R = 24, 20, 4
    base = (Conv1D(O, I) if conv1d else nn.Linear(I, O)).to(dtype)
    layer = TLoRALinear(base, AdapterConfig(rank=R), "x").eval()
    layer.B.normal_()
    layer.alpha.fill_(-1.4)
    x = torch.randn(50, I).to(dtype)
    unmerged = layer(x)
    assert unmerged.dtype == dtype
    layer.merge()
    half = dtype in (torch.bfloat16, torch.float16)
    chain = (I + 2 * R + 4) * torch.finfo(layer.B.dtype).eps / 2
    few = 7 * torch.finfo(dtype).eps / 2 if half else 0.0
    bound = (2 * chain / (1 - chain) + few / (1 - few)) * magnitude(layer, x)
    difference = (layer(x).double() - unmerged.double()).abs()
    assert bool((difference <= bound).all())
    assert bool(((unmerged - base(x)).double().abs() > bound).any())  # the update itself is larger than the bound


def test_merging_is_explicit_idempotent_and_undone_bit_for_bit():
    model = injected(dropout=0.5)
    x, before = inputs(), bits(model)
    y = model(x)
    model.train().eval()
    assert all(layer.merged_IO is None for layer in adapted(model))
    merge(model)
    once = model(x)
    merge(model)
    assert torch.equal(model(x), once)
    assert 0 < gap(once, y) < 1e-5
    model.train().eval()
    assert torch.equal(model(x), once)
    assert bits(model) == before
    unmerge(model)
    assert bits(model) == before
    assert torch.equal(model(x), y)
    unmerge(model)
    assert torch.equal(model(x), y)


def test_a_merged_layer_refuses_training_mode_and_a_state_dict():
    model = injected(dropout=0.5)
    state = copy.deepcopy(model.state_dict())
    merge(model)
    with pytest.raises(InputError, match=r"blocks.0.query is merged and in training mode: unmerge"):
        model.train()(inputs())
    with pytest.raises(RuntimeError, match=r"blocks.0.query is merged"):
        model.load_state_dict(state)
    unmerge(model)
    model.load_state_dict(state)


@every_method
@torch.no_grad()
def test_every_method_merges_unmerges_is_switched_off_and_taken_out(method):
    """In float64, where the update is far above the rounding; the merged weight is W0 + dW, the bits come back."""
    model, base, x = net(dtype=torch.float64), net(dtype=torch.float64), inputs(dtype=torch.float64)
    inject(model, TARGETS, rank=3, dropout=0.5, method=method)
    scramble(model)
    y, before = model(x), bits(model)
    assert gap(y, base(x)) > 1e-2
    merge(model)
    for layer in adapted(model):
        assert torch.equal(layer.merged_IO, weight_IO(layer.base) + layer.delta_w())
    assert gap(model(x), y) <= 1e-13 * y.abs().max().item()
    with disable(model):
        assert torch.equal(model(x), base(x))
    assert bits(model) == before
    unmerge(model)
    assert torch.equal(model(x), y)
    assert bits(model) == before
    remove(model)
    assert bits(model) == bits(base)
    assert torch.equal(model(x), base(x))


@pytest.mark.parametrize("merged", [False, True])
def test_remove_gives_the_original_objects_back_bit_identical(merged):
    model = net()
    modules, before = dict(model.named_modules()), bits(model)
    inject(model, TARGETS, rank=3)
    scramble(model)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    model.train()(inputs()).square().sum().backward()
    optimizer.step()
    model.eval()
    if merged:
        merge(model)
    remove(model)
    assert dict(model.named_modules()) == modules
    assert bits(model) == before
    assert torch.equal(model(inputs()), net()(inputs()))
    inject(model, ("query",), rank=2)  # and again


@pytest.mark.parametrize("merged", [False, True])
def test_disable_gives_the_bases_outputs_and_ends_also_on_an_exception(merged):
    model, base, x = injected(), net(), inputs()
    if merged:
        merge(model)
    y = model(x)
    with disable(model):
        assert torch.equal(model(x), base(x))
        with disable(model):
            pass
        assert torch.equal(model(x), base(x))
    assert torch.equal(model(x), y)
    with pytest.raises(KeyError), disable(model):
        raise KeyError
    assert torch.equal(model(x), y)


# --- dtypes and devices --------------------------------------------------------------------------


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_adapters_stay_float32_beside_a_half_precision_base_and_train(half):
    for model in (injected(dtype=half), injected().to(half)):
        for layer in adapted(model):
            assert layer.base.weight.dtype == half
            assert {t.dtype for t in (layer.A, layer.B, layer.C, layer.alpha)} == {torch.float32}
        y = model(inputs(dtype=half))
        assert y.dtype == half
        y.float().square().sum().backward()
        assert {layer.B.grad.dtype for layer in adapted(model)} == {torch.float32}
        # a step that half precision would round away
        layer = adapted(model)[0]
        before = layer.B.detach().clone()
        with torch.no_grad():
            layer.B.add_(1e-4 * before)
        assert bool((before != layer.B).all())


@every_method
def test_every_method_stays_float32_beside_a_half_precision_base_and_trains_and_merges(method):
    """The draws that need W0 get its numbers, and the merged layer is off by roundings of the half precision."""
    half, x = torch.bfloat16, inputs(dtype=torch.bfloat16)
    model = net(dtype=half)
    inject(model, TARGETS, rank=3, method=method)
    assert gap(model(x), net(dtype=half)(x)) <= START.get(method, 0)
    scramble(model, scale=0.2)
    y = model(x)
    assert y.dtype == half
    y.float().square().sum().backward()
    for layer in adapted(model):
        for arg in METHODS[method].arrays:
            assert layer.array(arg.base).dtype == torch.float32
        for arg in METHODS[method].trained_args:
            assert layer.array(arg.base).grad.dtype == torch.float32
            assert bool(layer.array(arg.base).grad.isfinite().all())
    with torch.autocast("cpu", dtype=half):
        assert gap(model(x), y) <= 16 * torch.finfo(half).eps * y.abs().max().item()
    merge(model)
    assert gap(model(x), y) <= 16 * torch.finfo(half).eps * y.abs().max().item()


def test_the_update_beside_a_half_precision_base_is_rounded_once():
    layer = TLoRALinear(nn.Linear(16, 12).to(torch.bfloat16), AdapterConfig(rank=4), "x").eval()
    with torch.no_grad():
        layer.B.normal_()
    x = torch.randn(30, 16).to(torch.bfloat16)
    exact = layer.base(x).double() + x.double() @ layer.delta_w().double()
    # half a unit in the last place of bfloat16, and what float32 adds
    half = 0.5 * torch.finfo(torch.bfloat16).eps * exact.abs() + 1e-5
    assert bool(((layer(x).double() - exact).abs() <= half).all())


def test_under_autocast_products_run_in_bfloat16_and_parameters_and_gradients_stay_float32():
    model, x = injected(), inputs()
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.blocks[0].query(x).dtype == torch.bfloat16
        y = model(x)
        y.float().square().sum().backward()
    assert 0 < gap(y, exact) < 0.1 * exact.abs().max().item()
    for layer in adapted(model):
        assert {t.dtype for t in (layer.A, layer.B, layer.C, layer.alpha)} == {torch.float32}
        assert {layer.B.grad.dtype, layer.alpha.grad.dtype} == {torch.float32}
    merge(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gap(model(x), y) < 0.1 * exact.abs().max().item()


@pytest.mark.parametrize("merged", [False, True])
def test_dtypes_and_devices_follow_to(merged):
    model, x = injected(), inputs()
    y = model(x)
    B = model.blocks[0].query.B.detach().clone()
    if merged:
        merge(model)
    double = model.double()
    assert {t.dtype for t in double.state_dict().values()} == {torch.float64}
    assert gap(double(x.double()), y) < 1e-5
    again = double.to(torch.bfloat16)
    assert again.blocks[0].query.B.dtype == torch.float32
    assert torch.equal(again.blocks[0].query.B, B)  # float32 -> float64 -> float32 loses nothing
    assert again(x.bfloat16()).dtype == torch.bfloat16
    assert all(t.is_meta for t in again.to("meta").state_dict().values())


def test_adapted_layers_look_like_the_linear_they_replace():
    model = injected()
    layer = model.blocks[0].value
    assert (layer.in_features, layer.out_features, layer.bias) == (5, 9, None)
    W = layer.base.weight + layer.delta_w().T
    assert torch.equal(layer.weight, W)
    with disable(model):
        assert layer.weight is layer.base.weight
    merge(model)
    assert torch.equal(layer.weight, W)
    assert torch.allclose(model.blocks[0].mix.weight, model.blocks[0].mix.base.weight + model.blocks[0].mix.delta_w())
    assert "rank=3" in repr(layer)
    assert "merged" in repr(layer)


def test_other_methods_and_quantised_linears_are_refused():
    with pytest.raises(InputError, match="the method is 'lora', expected 'tlora'"):
        TLoRALinear(nn.Linear(4, 4), AdapterConfig(method="lora", rank=2))
    for kind in (TLoRALinear, AdaptedLinear):
        with pytest.raises(InputError, match=r"is 'adapter_p', expected 'tlora'|adapter_p sits in a block"):
            kind(nn.Linear(4, 4), AdapterConfig(method="adapter_p", rank=2))

    class Linear4bit(nn.Linear):
        def forward(self, x):
            return x

    with pytest.raises(InputError, match="is a Linear4bit"):
        inject(nn.Sequential(Linear4bit(4, 4)), ("0",), rank=2)


@pytest.mark.parametrize("method", ["dora", "dora_full", "edora", "lora_xs"])
def test_weights_that_a_method_cannot_start_from_are_refused_and_nothing_has_changed(method):
    number, message = (0.0, "a column of zeros") if METHODS[method].rescales else (np.nan, "that are not finite")
    model = net()
    with torch.no_grad():
        model.blocks[1].value.weight[3] = number
    before = dict(model.named_modules())
    with pytest.raises(InputError, match=rf"blocks\.1\.value has .*{message}"):
        inject(model, TARGETS, rank=3, method=method)
    assert dict(model.named_modules()) == before
    assert all(p.requires_grad for p in model.parameters())


# --- VeRA's shared pair --------------------------------------------------------------------------


def shared_of(model):
    """The pair, and that there is one."""
    pairs = {id(layer.shared): layer.shared for layer in adapted(model)}
    assert len(pairs) == 1
    return next(iter(pairs.values()))


def test_veras_pair_is_one_object_cut_to_every_layer_wherever_the_model_goes():
    model = injected(method="vera")
    pair = shared_of(model)
    assert (pair.A.shape, pair.B.shape) == ((9, 3), (3, 9))
    assert len([t for t in model.buffers() if t.numel() == 27]) == 2  # each counts once
    assert held(model).frozen_random == 2 * 27
    assert {layer.arguments()["A_IR"].data_ptr() for layer in adapted(model)} == {pair.A.data_ptr()}
    assert [tuple(layer.arguments()["B_RO"].shape) for layer in adapted(model)] == [(3, 5), (3, 9), (3, 7)] * 2
    x, y = inputs(), model(inputs())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert shared_of(twin) is not pair
        assert torch.equal(twin(x), y)
    assert shared_of(model.double()) is pair
    assert pair.A.dtype == torch.float64
    assert gap(model(x.double()), y) < 1e-5
    assert shared_of(model.to(torch.bfloat16)) is pair
    assert pair.A.dtype == torch.float32
    assert shared_of(model.to("meta")).A.is_meta
    assert not any("shared" in name for name, _ in model.named_parameters())


def test_veras_pair_in_a_state_dict_is_one_storage_and_comes_back():
    model = injected(method="vera")
    state = model.state_dict()
    pairs = {n: t for n, t in state.items() if n.endswith(("shared.A", "shared.B"))}
    assert set(pairs) == {"blocks.0.query.shared.A", "blocks.0.query.shared.B"}
    other = net()
    inject(other, TARGETS, rank=3, method="vera", seed=8)
    other.load_state_dict(state)
    assert torch.equal(other(inputs()), model(inputs()))


# --- the field's own layers ----------------------------------------------------------------------


def peft_net(method):
    """Stock PEFT's adapters in a Net in float64, with the names of their parameters in ours."""
    import peft

    targets = ["query", "value"]
    config = {
        "lora": lambda: peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets),
        "dora": lambda: peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets, use_dora=True),
        "vera": lambda: peft.VeraConfig(r=3, target_modules=targets),
    }[method]()
    names = {"lora_A": "A", "lora_B": "B", "lora_magnitude_vector": "magnitude"}
    names |= {"vera_lambda_d": "lambda_d", "vera_lambda_b": "lambda_b"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own deprecations
        model = peft.get_peft_model(net(dtype=torch.float64), config).base_model.model.double().eval()
    ours = {}
    for name, parameter in model.named_parameters():
        layer, _, local = name.replace(".default", "").removesuffix(".weight").rpartition(".")
        if parameter.requires_grad:
            ours[f"{layer}.{names[local]}"] = parameter
    return model, ours


@pytest.mark.parametrize("method", ["lora", "dora", "vera"])
def test_the_injected_model_is_pefts(method):
    """With the same weights, the outputs and every gradient of stock PEFT in the same model, in float64."""
    model = net(dtype=torch.float64)
    scale = {} if method == "vera" else {"lora_alpha": 6}
    inject(model, ("query", "value"), rank=3, method=method, **scale)
    scramble(model)
    theirs, parameters = peft_net(method)
    ours = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(ours) == set(parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(ours[name].T if ours[name].ndim == 2 else ours[name])
        if method == "vera":
            pair = shared_of(model)
            for layer in theirs.modules():
                if hasattr(layer, "vera_A"):
                    layer.vera_A["default"], layer.vera_B["default"] = pair.A.T.clone(), pair.B.T.clone()
    outputs = []
    for one in (model, theirs):
        x = inputs(dtype=torch.float64).requires_grad_()
        y = one(x)
        y.sin().sum().backward()
        outputs.append((y, x.grad))
    for mine, peers in zip(*outputs, strict=True):
        assert gap(mine, peers) <= 1e-12 * peers.abs().max().item()
    for name, parameter in parameters.items():
        grad = parameter.grad.T if parameter.ndim == 2 else parameter.grad
        assert gap(ours[name].grad, grad) <= 1e-12 * grad.abs().max().item(), name
        assert bool(grad.any())


# --- the real shape of RoBERTa-large -------------------------------------------------------------


@pytest.fixture(scope="module")
def roberta_large():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=3,
    )  # fmt: skip
    with torch.device("meta"):
        return RobertaForSequenceClassification(config)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers for it
@pytest.mark.parametrize(("rank", "tlora", "lora"), [(8, 3120, 786432), (16, 12336, 1572864), (32, 49200, 3145728)])
def test_roberta_large_has_the_published_counts(roberta_large, rank, tlora, lora):
    from peft import LoraConfig, get_peft_model

    assert held(roberta_large).base == 355_362_819
    told = inject(roberta_large, rank=rank)
    assert (told.counts.trained, told.counts.base, len(told.matrices)) == (tlora, 355_362_819, 48)
    assert trained("lora", told.matrices.values(), rank) == lora
    remove(roberta_large)
    peft = get_peft_model(roberta_large, LoraConfig(r=rank, target_modules=["query", "value"]))
    assert held(peft).trained == lora
    peft.unload()


FOUR = ("query", "value", "attention.output.dense", re.compile(r".*\.\d+\.output\.dense"))


@pytest.mark.parametrize(
    ("method", "targets", "rank", "published"),
    [
        ("vera", ("query", "value"), 256, 61_440),  # 0.061M, arXiv 2310.11454
        ("lora_xs", FOUR, 16, 24_576),  # 24.6K, arXiv 2405.17604
        ("dora", ("query", "value"), 8, 48 * (8 * 2048 + 1024)),
    ],
)
def test_roberta_large_has_the_published_counts_of_relatives(roberta_large, method, targets, rank, published):
    told = inject(roberta_large, targets, rank=rank, method=method)
    remove(roberta_large)
    assert told.counts.trained == published


def test_lortas_heads_are_the_models_or_an_error_and_never_silently_one():
    """Of configs by every name that models have for them; where none says it, the caller has to."""
    from types import SimpleNamespace

    for name in ("num_attention_heads", "n_head", "n_heads", "num_heads"):
        model = net()
        model.config = SimpleNamespace(**{name: 5})
        assert inject(model, ("query",), rank=2, method="lorta").adapter.heads == 5
    for config in (None, SimpleNamespace(), SimpleNamespace(num_attention_heads=None)):
        model = net()
        model.config = config
        before = bits(model)
        with pytest.raises(InputError, match="heads is None, expected the number of the attention's heads"):
            inject(model, ("query",), rank=2, method="lorta")
        assert bits(model) == before
        assert inject(model, ("query",), rank=2, method="lorta", heads=3).adapter.heads == 3
        assert inject(net(), ("query",), rank=2).adapter.heads is None
