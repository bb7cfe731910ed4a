"""TLoRA in torch models: what inject does and refuses, merging, dtypes, removal; RoBERTa-large's real shape."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Block, Conv1D, bits, inputs, net, scramble
from torch import nn

from tlora_ref import AdapterConfig, InputError
from tlora_ref.by_autograd.inject import adapted, disable, held, inject, merge, remove, report, unmerge
from tlora_ref.by_autograd.linear import TLoRALinear, weight_IO
from tlora_ref.by_hand import tlora_linear_bwd, tlora_linear_fwd
from tlora_ref.counts import trained
from tlora_ref.init import tlora_arrays

TARGETS = ("query", "value", "mix")


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


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_the_layer_equals_the_kernel_by_hand_forward_and_backward(seed, conv1d, bias):
    rng = np.random.default_rng(seed)
    I, O, R = map(int, rng.permutation([6, 7, 4]))
    base = (Conv1D(O, I) if conv1d else nn.Linear(I, O, bias=bias)).double()
    layer = TLoRALinear(base, AdapterConfig(rank=min(I, O, R)), "some.layer")
    with torch.no_grad():
        layer.B.copy_(torch.from_numpy(rng.standard_normal(layer.B.shape)))
        layer.alpha.copy_(torch.tensor(-1.3))
    x = torch.from_numpy(rng.standard_normal((2, 3, I))).requires_grad_()
    dy = rng.standard_normal((2, 3, O))
    y = layer(x)
    y.backward(torch.from_numpy(dy))

    b_O = None if layer.bias is None else layer.bias.detach().numpy()
    arrays = [t.detach().numpy() for t in (x, weight_IO(base))]
    A, B, C, alpha = (getattr(layer, n).detach().numpy() for n in ("A", "B", "C", "alpha"))
    y_hand, cache = tlora_linear_fwd(*arrays, b_O, A, B, C, alpha)
    grads = tlora_linear_bwd(dy, cache)
    np.testing.assert_allclose(y.detach().numpy(), y_hand, rtol=0, atol=1e-12 * np.abs(y_hand).max())
    for name, tensor in (("x", x), ("B", layer.B), ("alpha", layer.alpha)):
        np.testing.assert_allclose(tensor.grad.numpy(), grads[name], rtol=0, atol=1e-12 * np.abs(grads[name]).max())
    assert all(p.grad is None for p in base.parameters())


@pytest.mark.parametrize("init", ["released", "fan_in"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_draws_are_those_of_init_under_the_modules_name(init, dtype):
    model = net(dtype=dtype)
    inject(model, ("value",), rank=4, init=init, seed=5)
    layer = model.blocks[1].value
    drawn = tlora_arrays("blocks.1.value", np.zeros((5, 9)), AdapterConfig(rank=4, init=init, seed=5))
    for name, array in drawn.items():
        assert torch.equal(getattr(layer, name).detach(), torch.from_numpy(array).to(dtype)), name


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


def test_autograd_keeps_no_row_of_model_width():
    layer = TLoRALinear(nn.Linear(64, 48), AdapterConfig(rank=4), "x")
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


def test_attached_and_untrained_the_outputs_are_the_bases_bit_for_bit_and_the_mode_stays():
    model, base = net(), net()
    inject(model, TARGETS, rank=3, dropout=0.5)
    assert torch.equal(model(inputs()), base(inputs()))
    assert not any(m.training for m in model.modules())


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
    assert (told.trained_bytes, told.optimizer_bytes) == (4 * n, 8 * n)
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
        {"train_also": ("query.bias",)}, "train_also names blocks.0.query.bias, which TLoRA on blocks.0.query freezes"),
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
    with pytest.raises(InputError, match="already has TLoRA adapters"):
        inject(model, ("classifier.0",), rank=2)
    assert bits(model) == before


def test_layers_that_torch_reads_without_calling_are_refused():
    with pytest.raises(InputError, match=r"lies in a torch.nn.MultiheadAttention"):
        inject(Attention(), ("out_proj",), rank=2)
    with pytest.raises(InputError, match=r"lies in a torch.nn.TransformerEncoderLayer"):
        inject(nn.Sequential(nn.TransformerEncoderLayer(4, 2)), ("linear1",), rank=2)


def test_functions_on_a_model_without_adapters_say_so():
    for function in (merge, unmerge, remove, report):
        with pytest.raises(InputError, match="has no TLoRA adapters"):
            function(net())
    with pytest.raises(InputError, match="has no TLoRA adapters"), disable(net()):
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


def test_the_update_beside_a_half_precision_base_is_rounded_once():
    layer = TLoRALinear(nn.Linear(16, 12).to(torch.bfloat16), AdapterConfig(rank=4), "x").eval()
    with torch.no_grad():
        layer.B.normal_()
    x = torch.randn(30, 16).to(torch.bfloat16)
    exact = x.double() @ layer.delta_w().double()
    update = layer(x) - layer.base(x)
    expected = layer.base(x) + exact.to(torch.bfloat16)
    assert gap(update, expected - layer.base(x)) <= torch.finfo(torch.bfloat16).eps * expected.abs().max().item()


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
    assert layer.weight is layer.base.weight
    merge(model)
    W = layer.base.weight + layer.delta_w().T
    assert torch.allclose(layer.weight, W)
    assert torch.allclose(model.blocks[0].mix.weight, model.blocks[0].mix.base.weight + model.blocks[0].mix.delta_w())
    assert "rank=3" in repr(layer)
    assert "merged" in repr(layer)


def test_other_methods_and_quantised_linears_are_refused():
    with pytest.raises(InputError, match="the method is 'lora', expected 'tlora'"):
        TLoRALinear(nn.Linear(4, 4), AdapterConfig(method="lora", rank=2))

    class Linear4bit(nn.Linear):
        def forward(self, x):
            return x

    with pytest.raises(InputError, match="is a Linear4bit"):
        inject(nn.Sequential(Linear4bit(4, 4)), ("0",), rank=2)


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
