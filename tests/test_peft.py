"""TLoRA as a method of the real Hugging Face PEFT: on every architecture what PEFT's own tests ask of LoRA, on small
random models built from configurations; equal to ``inject``; and what is refused."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from peft import (
    LoraConfig,
    PeftModel,
    PeftType,
    convert_to_lora,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.pytorch_utils import Conv1D

from tlora_ref import InputError
from tlora_ref.adapter_file import AdapterFileError
from tlora_ref.by_autograd import load_adapter, save_adapter
from tlora_ref.by_autograd.inject import adapted, inject, is_adapted, merge
from tlora_ref.export import export_tlora
from tlora_ref.peft import TLoraConfig, TLoraLayer, TLoraModel, initialize_tlora_gradient_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),  # what PEFT asks of transformers
]

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 7], [2, 7, 18, 28, 11, 8, 4]])
MASK = torch.ones_like(IDS)
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZE = WIDTHS | {"vocab_size": 50, "max_position_embeddings": 16}
GROUPED = SIZE | {"num_key_value_heads": 1, "head_dim": 8}
ENCODER_DECODER = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": IDS[:, :4]}


def of(config, model, **options):
    """An architecture of transformers, by the names of its configuration and its model."""
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**options))


class Mlp(nn.Module):
    """Layers of different widths, one of them named like another's end, and nested containers."""

    def __init__(self):
        super().__init__()
        self.lin0, self.drop, self.lin1 = nn.Linear(7, 20), nn.Dropout(0.5), nn.Linear(20, 5, bias=False)
        self.inner = nn.Sequential(nn.ModuleDict({"lin0": nn.Linear(5, 9)}), nn.Linear(9, 6))
        self.conv = Conv1D(4, 6)

    def forward(self, x):
        x = self.lin1(self.drop(self.lin0(x).relu())).tanh()
        return self.conv(self.inner[1](self.inner[0]["lin0"](x)))


X = {"x": torch.from_numpy(np.random.default_rng(0).standard_normal((4, 7))).float()}

DEBERTA = SIZE | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
MODELS = {
    "opt": (of("OPTConfig", "OPTForCausalLM", vocab_size=50, hidden_size=16, num_hidden_layers=2, ffn_dim=24,
               num_attention_heads=2, max_position_embeddings=16, word_embed_proj_dim=16), ["q_proj", "out_proj"]),
    "gpt2": (of("GPT2Config", "GPT2LMHeadModel", vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16,
                bos_token_id=0, eos_token_id=0), ["c_attn", "mlp.c_proj"]),
    "gptj": (of("GPTJConfig", "GPTJForCausalLM", vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16,
                rotary_dim=4, bos_token_id=0, eos_token_id=0), None),
    "llama": (of("LlamaConfig", "LlamaForCausalLM", **GROUPED), "all-linear"),
    "qwen2": (of("Qwen2Config", "Qwen2ForCausalLM", **GROUPED), None),
    "gemma3": (of("Gemma3TextConfig", "Gemma3ForCausalLM", **GROUPED), None),
    "mistral": (of("MistralConfig", "MistralForCausalLM", **GROUPED), r".*\.(q_proj|down_proj)"),
    "t5": (of("T5Config", "T5ForConditionalGeneration", vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2,
              num_heads=2, decoder_start_token_id=0), ["q", "v", "wo"]),
    "bart": (of("BartConfig", "BartForConditionalGeneration", vocab_size=50, d_model=16, encoder_layers=1,
                decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
                decoder_ffn_dim=24, max_position_embeddings=16), None),
    "bert": (of("BertConfig", "BertForSequenceClassification", **SIZE), None),
    "roberta": (of("RobertaConfig", "RobertaForSequenceClassification", **SIZE), None),
    "deberta": (of("DebertaConfig", "DebertaForSequenceClassification", **DEBERTA), None),
    "deberta_v2": (of("DebertaV2Config", "DebertaV2ForSequenceClassification", **DEBERTA), None),
    "mlp": (Mlp, ["lin0", "lin1", "conv"]),
}  # fmt: skip
"""By name: what builds it, and the targets; None: what PEFT takes for LoRA there."""

every_model = pytest.mark.parametrize("name", MODELS)


def base(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:  # far enough from 0 that every layer is seen in the output
                p.normal_(std=0.4)
    model = model.to(dtype).eval()
    return model.requires_grad_(False)  # attention of torch takes another kernel where a gradient is asked for


def config(name, **options):
    head = {"modules_to_save": ["classifier"]} if name in ("bert", "roberta") else {}
    return TLoraConfig(**{"r": 3, "target_modules": MODELS[name][1], "init_weights": False} | head | options)


def wrapped(name, dtype=torch.float32, **options):
    """The model with an adapter that is no identity, in evaluation."""
    model = get_peft_model(base(name, dtype), config(name, **options)).eval()
    with torch.no_grad():
        for layer in layers(model).values():
            layer.tlora_alpha["default"].fill_(-1.4)
    return model


def feed(name):
    if name == "mlp":
        return X
    return ENCODER_DECODER if name in ("t5", "bart") else {"input_ids": IDS, "attention_mask": MASK}


def out(model, name):
    y = model(**feed(name))
    return y if isinstance(y, torch.Tensor) else y.logits


def layers(model):
    return {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if isinstance(m, TLoraLayer)}


def gap(a, b):
    return (a.detach().double() - b.detach().double()).abs().max().item()


def close(a, b, tol=1e-5):
    return gap(a, b) <= tol * max(1.0, b.detach().abs().max().item())


# --- every architecture ---------------------------------------------------------------------------------


@every_model
def test_the_start_is_the_base_and_only_the_adapter_trains(name):
    model = get_peft_model(base(name), config(name, init_weights=True))
    assert type(model.base_model) is TLoraModel
    assert torch.equal(out(model.eval(), name), out(base(name), name))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = {f"base_model.model.{n}.tlora_{local}.default" for n in layers(model) for local in ("B", "alpha")}
    assert expected <= trained
    assert all("modules_to_save" in n for n in trained - expected)
    assert all(layer.tlora_alpha["default"].shape == (1,) for layer in layers(model).values())
    assert all(not torch.is_tensor(p) or p.ndim > 0 for p in model.parameters() if p.requires_grad)


@every_model
@pytest.mark.parametrize(("full", "low"), [(False, False), (True, False), (False, True)])
def test_save_and_load(name, full, low, tmp_path):
    """The default adapter in the folder and another beside it; what is loaded is what was saved, bit for bit."""
    options = {"save_projection": full}
    model = wrapped(name, **options)
    head = {"modules_to_save": None}
    model.add_adapter("other", config(name, r=2, projection_prng_key=4, **options | head))
    model.save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    adapter = {key.rpartition(".tlora_")[2] for key in held if ".tlora_" in key}
    assert adapter == ({"A", "B", "C", "alpha"} if full else {"B", "alpha", "mark"})
    assert "PEFT" in (tmp_path / "README.md").read_text()
    again = PeftModel.from_pretrained(base(name), tmp_path, low_cpu_mem_usage=low)
    assert not any(t.is_meta for t in (*again.parameters(), *again.buffers()))
    assert torch.equal(out(again, name), out(model, name))
    assert not any(p.requires_grad for p in again.parameters())
    saved, loaded = (get_peft_model_state_dict(m) for m in (model, again))
    assert saved.keys() == loaded.keys() == held.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)
    found = again.load_adapter(tmp_path / "other", "second", low_cpu_mem_usage=low)
    assert not found.missing_keys
    assert not found.unexpected_keys
    model.set_adapter("other")
    again.set_adapter("second")
    assert torch.equal(out(again, name), out(model, name))


def test_selected_adapters_and_pickles(tmp_path):
    model = wrapped("mlp")
    model.add_adapter("other", config("mlp"))
    model.save_pretrained(tmp_path, selected_adapters=["default"], safe_serialization=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.bin"]
    assert torch.equal(out(PeftModel.from_pretrained(base("mlp"), tmp_path), "mlp"), out(model, "mlp"))


@every_model
def test_merge_unmerge_and_unload(name):
    model = wrapped(name)
    expected, before = out(model, name), {n: p.clone() for n, p in model.named_parameters()}
    assert gap(expected, out(base(name), name)) > 1e-3
    model.merge_adapter()
    assert close(out(model, name), expected)
    model.unmerge_adapter()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert torch.equal(out(model, name), expected)
    merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    assert not layers(merged)
    assert close(out(merged, name), expected)
    plain = model.unload()
    assert not layers(plain)
    # a head that was trained stays where PEFT leaves it; the adapted matrices are the base's
    assert all(torch.equal(p, before[f"base_model.model.{n}"]) for n, p in plain.named_parameters() if "proj" in n
               and f"base_model.model.{n}" in before)  # fmt: skip


@every_model
def test_a_base_of_16_bits_has_a_float32_adapter_merges_and_refuses_nan(name):
    model = wrapped(name, torch.float16)
    layer = next(iter(layers(model).values()))
    assert {t.dtype for t in layer.arrays("default")} == {torch.float32}
    # A and C were not rounded on the way
    assert torch.equal(layer.tlora_A["default"], torch.from_numpy(layer.draw("default")["A"]).float())
    half = wrapped(name, torch.float16).base_model
    half._cast_adapter_dtype("default", autocast_adapter_dtype=False)
    assert {t.dtype for t in next(iter(layers(half).values())).arrays("default")} == {torch.float16}
    if name != "mlp":  # whose inputs are not ids
        assert out(half, name).dtype == torch.float16
    for m in (model, half):
        for layer in layers(m).values():
            before = layer.weight.clone()
            layer.merge(safe_merge=True)
            assert layer.weight.dtype == torch.float16
            assert not torch.equal(layer.weight, before)
            layer.unmerge()
            layer.tlora_B["default"].data[0] = torch.nan
    before = [layer.weight.clone() for layer in layers(model).values()]
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        model.merge_adapter(safe_merge=True)
    assert all(torch.equal(layer.weight, w) for layer, w in zip(layers(model).values(), before, strict=True))
    model.merge_and_unload()


@every_model
@pytest.mark.parametrize("reentrant", [None, False, True], ids=["plain", "checkpointed", "reentrant"])
def test_training_moves_the_adapter_and_nothing_else(name, reentrant):
    model = wrapped(name)
    if reentrant is not None:
        if name == "mlp":
            return
        model.base_model.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.train()
    out(model, name).square().mean().backward()
    for n, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == p.requires_grad, n
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad, n


@every_model
def test_disable_delete_and_mixed_batches(name):
    model = wrapped(name, modules_to_save=None)
    model.add_adapter("other", config(name, r=2, projection_prng_key=1, modules_to_save=None))
    plain, first = out(base(name), name), out(model, name)
    model.set_adapter("other")
    second = out(model, name)
    assert min(gap(first, second), gap(first, plain), gap(second, plain)) > 1e-4
    with model.disable_adapter():
        assert torch.equal(out(model, name), plain)
    assert torch.equal(out(model, name), second)
    rows = ["default", "other", "__base__", "default"][: len(plain)]
    expected = torch.stack([{"default": first, "other": second, "__base__": plain}[r][i] for i, r in enumerate(rows)])
    mixed = model(**feed(name), adapter_names=rows)
    assert close(mixed if name == "mlp" else mixed.logits, expected)
    assert torch.equal(out(model, name), second)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert "other" not in model.peft_config
    assert not any("other" in n for n in model.state_dict())
    assert torch.equal(out(model, name), first)


@every_model
def test_the_layer_is_injects_layer_bit_for_bit(name):
    """Outputs and gradients, in training and evaluation, whatever the dtype of the base."""
    for dtype in (torch.float32, torch.bfloat16):
        if name == "mlp" and dtype != torch.float32:
            continue
        model = wrapped(name, dtype, modules_to_save=None, projection_prng_key=5)
        twin = base(name, dtype)
        inject(twin, targets=tuple(layers(model)), rank=3, seed=5)
        with torch.no_grad():
            for layer in adapted(twin):
                A, B, C, _ = layers(model)[layer.name].arrays("default")
                assert torch.equal(layer.A, A)
                assert torch.equal(layer.C, C)
                layer.B.copy_(B)
                layer.alpha.fill_(-1.4)
        assert torch.equal(out(model, name), out(twin, name))
        for m in (model, twin):
            torch.manual_seed(1)
            out(m.train(), name).float().square().mean().backward()
        for layer in adapted(twin):
            _, B, _, alpha = layers(model)[layer.name].arrays("default")
            assert torch.equal(layer.B.grad, B.grad)
            assert torch.equal(layer.alpha.grad, alpha.grad[0])
        merge(twin)
        model.merge_adapter()
        for layer in adapted(twin):
            assert torch.equal(layer.weight, layers(model)[layer.name].weight)


# --- options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["lin1"]}, {"lin1": 3}),
        ({"target_modules": "all-linear"}, {"lin0": 3, "lin1": 3, "inner.0.lin0": 3, "inner.1": 3, "conv": 3}),
        ({"target_modules": r"inner\..*lin0"}, {"inner.0.lin0": 3}),
        ({"target_modules": ["lin0", "lin1"], "exclude_modules": ["0.lin0"]}, {"lin0": 3, "lin1": 3}),
        ({"target_modules": ["lin0", "conv"], "exclude_modules": "inner.*"}, {"lin0": 3, "conv": 3}),
        ({"target_modules": ["lin0"], "rank_pattern": {"^lin0": 5}}, {"lin0": 5, "inner.0.lin0": 3}),
        ({"target_modules": ["lin0"], "rank_pattern": {"lin0": 2}}, {"lin0": 2, "inner.0.lin0": 2}),
        ({"target_modules": ["lin0", "lin1"], "modules_to_save": ["inner"]}, {"lin0": 3, "lin1": 3}),
        ({"target_modules": ["lin0", "lin1"], "r": 9}, {"lin0": 9, "lin1": 9, "inner.0.lin0": 9}),
    ],
)
def test_the_options_choose_the_layers_and_their_ranks(options, expected):
    model = get_peft_model(base("mlp"), TLoraConfig(**{"r": 3} | options))
    assert {name: layer.tlora_B["default"].shape[0] for name, layer in layers(model).items()} == expected


@pytest.mark.parametrize("pattern", [None, "layers", ["h", "layers"]])
def test_the_layers_may_be_numbered(pattern):
    chosen = config("llama", target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=pattern)
    assert list(layers(get_peft_model(base("llama"), chosen))) == ["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("bias", ["all", "tlora_only"])
def test_biases_train_and_are_saved(bias, tmp_path):
    """Also where the fused kernel would take them for constant."""
    model = get_peft_model(base("mlp"), config("mlp", bias=bias, target_modules=["lin0"]))
    trained = {n for n, p in model.named_parameters() if p.requires_grad and n.endswith("bias")}
    expected = {"lin0.base_layer.bias", "inner.0.lin0.base_layer.bias"} | (
        {"inner.1.bias", "conv.bias"} if bias == "all" else set()
    )
    assert trained == {f"base_model.model.{n}" for n in expected}
    out(model.eval(), "mlp").square().sum().backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.warns(UserWarning, match="bias configured"), model.disable_adapter():
        assert gap(out(model, "mlp"), out(base("mlp"), "mlp")) > 1e-3
    model.save_pretrained(tmp_path)
    assert torch.equal(out(PeftModel.from_pretrained(base("mlp"), tmp_path), "mlp"), out(model, "mlp"))


def test_dropout_drops_the_update_in_training_alone():
    model = wrapped("mlp", tlora_dropout=0.5, target_modules=["inner.1"])
    layer, x = layers(model)["inner.1"], torch.randn(50, 9)
    update = layer(x) - layer.base_layer(x)
    layer.train()
    dropped = layer(x) - layer.base_layer(x)
    kept = dropped.abs() > 1e-6
    assert abs(0.5 - kept.float().mean()) < 0.1
    assert torch.allclose(dropped[kept], 2 * update[kept], atol=1e-5)


@pytest.mark.parametrize("rule", [True, "released", "fan_in", "orthonormal"])
def test_the_rule_of_the_start_is_injects(rule):
    model = get_peft_model(base("mlp"), config("mlp", init_weights=rule, projection_prng_key=3))
    twin = base("mlp")
    inject(twin, tuple(layers(model)), rank=3, init="released" if rule is True else rule, seed=3)
    for layer in adapted(twin):
        A, B, C, _ = layers(model)[layer.name].arrays("default")
        assert torch.equal(layer.A, A)
        assert torch.equal(layer.C, C)
        assert not B.any()


def test_several_active_adapters_add_up():
    model = wrapped("mlp", target_modules=["inner.1"])
    model.add_adapter("other", config("mlp", target_modules=["inner.1"], r=2, projection_prng_key=1))
    layer, x = layers(model)["inner.1"], torch.randn(5, 9)
    dW = layer.get_delta_weight("default") + layer.get_delta_weight("other")
    model.base_model.set_adapter(["default", "other"])
    expected = layer.base_layer(x) + x @ dW.T
    assert close(layer(x), expected)
    model.merge_adapter(["default", "other"])
    assert layer.merged_adapters == ["default", "other"]
    assert close(layer(x), expected)
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("other")


def test_a_layer_that_someone_waits_for_or_that_computes_more_is_called():
    """Hooks, a forward replaced on the instance, a subclass: none is bypassed by the fused kernel."""

    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Twice(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)).requires_grad_(False)
    x = torch.randn(2, 6, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    plain = copy.deepcopy(model)
    model = get_peft_model(model, TLoraConfig(r=2, target_modules=["0", "1", "2"]))
    found = layers(model)
    found["1"].base_layer.forward = lambda x: -nn.Linear.forward(found["1"].base_layer, x)
    found["2"].base_layer.register_forward_hook(lambda module, args, y: 3 * y)
    y, expected = model(x), 3 * plain[2](-plain[1](plain[0](again)))
    assert torch.allclose(y, expected)
    # the kernel would take the gradient of x from the weight alone
    y.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(x.grad, again.grad)


def test_trained_in_half_precision_under_autocast():
    model = wrapped("llama")
    with torch.autocast("cpu", torch.bfloat16):
        y = out(model.train(), "llama")
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


# --- several adapters -----------------------------------------------------------------------------------


def test_a_weighted_sum_is_exact():
    model = wrapped("mlp")
    model.add_adapter("other", config("mlp"))
    model.add_adapter("part", config("mlp", target_modules=["lin1"]))
    given = {name: {n: m.get_delta_weight(n) for n in m.tlora_B} for name, m in layers(model).items()}
    model.add_weighted_adapter(["default", "other", "part"], [0.5, -2.0, 3.0], "sum")
    for name, layer in layers(model).items():
        weights = {"default": 0.5, "other": -2.0, "part": 3.0}
        assert close(layer.get_delta_weight("sum"), sum(weights[n] * dW for n, dW in given[name].items()))
        assert layer.tlora_alpha["sum"].item() == 1
    model.set_adapter("sum")
    assert {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {"sum"}


def test_a_weighted_sum_reads_back_with_a_rank_for_each_module(tmp_path):
    """Also where one module's name is the end of another's."""
    ranks = {"^lin0": 2, r"inner.0.lin0": 4}
    model = wrapped("mlp", rank_pattern=ranks)
    model.add_adapter("other", config("mlp", rank_pattern=ranks))
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")
    model.set_adapter("sum")
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base("mlp"), tmp_path / "sum")
    assert torch.equal(out(again, "mlp"), out(model, "mlp"))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, "svd", "'linear', which is exact"),
        ({"projection_prng_key": 1}, "linear", "expected one projection_prng_key, init_weights and rank"),
        ({"init_weights": "fan_in"}, "linear", "expected one projection_prng_key, init_weights and rank"),
        ({"r": 2}, "linear", "expected one projection_prng_key, init_weights and rank"),
        ({"modules_to_save": ["inner"]}, "linear", "trained modules or biases beside it"),
    ],
)
def test_a_sum_that_is_no_tlora_is_refused(options, kind, message):
    model = wrapped("mlp", target_modules=["lin1", "conv"])
    model.add_adapter("other", config("mlp", target_modules=["lin1", "conv"], **options))
    before = list(model.state_dict())
    with pytest.raises(InputError, match=message):
        model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum", combination_type=kind)
    assert list(model.state_dict()) == before
    assert set(model.peft_config) == {"default", "other"}


def test_mixed_batches_say_what_they_refuse():
    model = wrapped("mlp")
    names = ["default"] * 4
    with pytest.raises(ValueError, match=r"non-existing adapter.*: nobody"):
        model(**X, adapter_names=["nobody", *names[1:]])
    with pytest.raises(ValueError, match="has 3 names and lin0 got 4 rows"):
        model(**X, adapter_names=names[1:])
    with (
        pytest.raises(ValueError, match="beam search"),
        model._enable_peft_forward_hooks(adapter_names=names, num_beams=2),
    ):
        pass
    with pytest.raises(ValueError, match="training mode"):
        model.train()(**X, adapter_names=names)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="merged adapters"):
        model(**X, adapter_names=names)
    # after an error the layers take every batch with the active adapter again
    model.unmerge_adapter()
    assert torch.equal(out(model, "mlp"), out(wrapped("mlp"), "mlp"))


def test_generate_with_an_adapter_for_each_row():
    model = wrapped("llama")
    rows = ["default", "__base__"]
    given = {"input_ids": IDS, "attention_mask": MASK, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    mixed = model.generate(**given, adapter_names=rows)
    assert torch.equal(mixed[0], model.generate(**given)[0])
    with model.disable_adapter():
        assert torch.equal(mixed[1], model.generate(**given)[1])


# --- A and C from a gradient ----------------------------------------------------------------------------


def square(model, batch):
    y = model(**batch)
    return (y if isinstance(y, torch.Tensor) else y.logits).float().square().mean()


def gradient_config(name, **options):
    return config(name, init_weights="gradient", **options)


def from_gradient(name, dtype=torch.float32, **options):
    """The model with an adapter between factors from a gradient, as if trained."""
    model = get_peft_model(base(name, dtype), gradient_config(name, **options)).eval()
    initialize_tlora_gradient_weights(model, [feed(name)], square)
    return as_if_trained(model)


def as_if_trained(model, adapter="default", seed=0):
    with torch.no_grad():
        for layer in layers(model).values():
            layer.tlora_B[adapter].normal_(generator=torch.Generator().manual_seed(seed))
            layer.tlora_alpha[adapter].fill_(-1.4)
    return model


def assert_injects_factors(model, twin, adapter="default"):
    found = layers(model)
    assert {layer.name for layer in adapted(twin)} == found.keys()
    for layer in adapted(twin):
        A, B, C, alpha = found[layer.name].arrays(adapter)
        assert torch.equal(A, layer.A)
        assert torch.equal(C, layer.C)
        assert A.isfinite().all()
        assert C.isfinite().all()
        assert not B.any()
        assert alpha == 1


@every_model
def test_factors_from_a_gradient_are_injects_bit_for_bit(name):
    """And so is the report of what is trained and stored; the model stays as it was."""
    model = get_peft_model(base(name), gradient_config(name, projection_prng_key=5))
    flags = {n: p.requires_grad for n, p in model.named_parameters()}, [m.training for m in model.modules()]
    report = initialize_tlora_gradient_weights(model, [feed(name), feed(name)], square)
    twin = base(name)
    head = ("classifier",) if name in ("bert", "roberta") else ()
    expected = inject(twin, tuple(f"re:{n}" for n in layers(model)), 3, init="gradient", seed=5, train_also=head,
                      batches=[feed(name)] * 2, loss=square)  # fmt: skip
    assert_injects_factors(model, twin)
    assert str(report) == str(expected)
    assert "A and C, from the gradient of a loss and therefore stored as well" in str(report)
    assert report.counts.stored == report.counts.trained + report.counts.frozen_random
    assert flags == ({n: p.requires_grad for n, p in model.named_parameters()}, [m.training for m in model.modules()])
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(out(model.eval(), name), out(base(name), name))


def test_the_report_on_factors_from_a_gradient_names_biases_as_the_base_does():
    model = get_peft_model(base("mlp"), gradient_config("mlp", bias="tlora_only"))
    report = initialize_tlora_gradient_weights(model, [X], square)
    biases = {n for n, _ in base("mlp").named_parameters() if n.endswith(".bias")}
    assert set(report.also) == {f"{name}.bias" for name in layers(model)} & biases != set()


def test_the_loss_may_be_the_models_own_and_ranks_and_dtypes_differ():
    batch = {"input_ids": IDS, "attention_mask": MASK, "labels": torch.tensor([0, 1])}
    targets = ("query", "value")
    for dtype in (torch.bfloat16, torch.float64):
        model = get_peft_model(
            base("roberta", dtype),
            gradient_config("roberta", target_modules=list(targets), rank_pattern={"value": 2}, task_type="SEQ_CLS"),
        )
        initialize_tlora_gradient_weights(model, [batch])
        twin = base("roberta", dtype)
        inject(twin, targets, 3, init="gradient", ranks={"value": 2}, batches=[batch])
        assert_injects_factors(model, twin)
        assert {tuple(layer.arrays("default")[1].shape) for layer in layers(model).values()} == {(3, 3), (2, 2)}


def test_a_subclass_of_linear_has_the_gradient_of_its_update():
    """PEFT puts adapters beside whatever a layer computes; ``inject`` asks for treat_as_linear first."""

    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = get_peft_model(nn.Sequential(Twice(6, 5)), TLoraConfig(r=1, target_modules=["0"], init_weights="gradient"))
    x, direction = torch.randn(7, 6), torch.randn(7, 5)
    initialize_tlora_gradient_weights(model, [x], lambda m, x: (m(x) * direction).sum())
    A, _, C, _ = layers(model)["0"].arrays("default")
    U, _, Vh = torch.linalg.svd(x.T @ direction)
    assert close((A @ C).abs() / A.norm() / C.norm(), torch.outer(U[:, 0], Vh[0]).abs())


def test_the_gradient_is_without_adapters_and_with_the_head_that_trains():
    model = wrapped("roberta")
    model.add_adapter("other", gradient_config("roberta", r=2))
    model.set_adapter("other")
    head = model.base_model.model.classifier.modules_to_save["other"]
    with torch.no_grad():
        head.out_proj.weight.normal_()
    initialize_tlora_gradient_weights(model, [feed("roberta")], square, adapter_name="other")
    twin = base("roberta")
    twin.classifier.load_state_dict(head.state_dict())
    inject(twin, tuple(layers(model)), 2, init="gradient", batches=[feed("roberta")], loss=square)
    assert_injects_factors(model, twin, "other")
    model.set_adapter("default")
    assert torch.equal(out(model, "roberta"), out(wrapped("roberta"), "roberta"))


def test_without_factors_nothing_is_computed_or_saved(tmp_path):
    """Rather than trained from a start at which B has no gradient."""
    model = get_peft_model(base("mlp"), gradient_config("mlp"))
    model.add_adapter("drawn", config("mlp"))
    for layer in layers(model).values():  # nothing that slips past the question below looks like a result
        assert all(held["default"].isnan().all() for held in (layer.tlora_A, layer.tlora_C))
    says = r"the adapter default on lin0 has init_weights='gradient' and no A and C yet: initialize_tlora_gradient"
    for refused in (
        lambda: out(model, "mlp"),
        lambda: model(**X, adapter_names=["drawn", "default", "drawn", "__base__"]),
        lambda: model.save_pretrained(tmp_path),
        lambda: get_peft_model_state_dict(model),
        lambda: model.merge_adapter(["drawn", "default"]),
        lambda: model.merge_and_unload(),
        lambda: model.add_weighted_adapter(["drawn", "default"], [1.0, 1.0], "sum"),
    ):
        model.eval()
        with pytest.raises(InputError, match=says):
            refused()
    assert not (tmp_path / "adapter_model.safetensors").exists()
    assert set(model.peft_config) == {"default", "drawn"}
    assert not any(layer.merged for layer in layers(model).values())
    with model.disable_adapter():
        assert torch.equal(out(model, "mlp"), out(base("mlp"), "mlp"))
    # what lacks nothing goes its way
    model.save_pretrained(tmp_path, selected_adapters=["drawn"])
    model.set_adapter("drawn")
    assert torch.equal(out(model, "mlp"), out(PeftModel.from_pretrained(base("mlp"), tmp_path / "drawn"), "mlp"))
    # a half of the factors is not enough, a state_dict of the model is
    state = from_gradient("mlp").state_dict()
    model.set_adapter("default")
    model.load_state_dict({n: t for n, t in state.items() if "tlora_C" not in n}, strict=False)
    with pytest.raises(InputError, match=says):
        out(model, "mlp")
    model.load_state_dict(state, strict=False)
    assert torch.equal(out(model, "mlp"), out(from_gradient("mlp"), "mlp"))


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", ["roberta", "gpt2", "mlp"])
def test_factors_from_a_gradient_are_in_the_file_and_only_they(name, low, tmp_path):
    """Beside an adapter whose factors the seed draws; merged and unmerged, read back, deleted."""
    head = {"modules_to_save": None}
    model = from_gradient(name)
    model.add_adapter("drawn", config(name, r=2, **head))
    model.add_adapter("second", gradient_config(name, r=2, projection_prng_key=1, **head))
    model.set_adapter("second")
    initialize_tlora_gradient_weights(model, [feed(name)], square, "second")
    as_if_trained(model, "second", seed=1)
    model.save_pretrained(tmp_path)
    for folder, expected in (
        ("", {"A", "B", "C", "alpha"}),
        ("second", {"A", "B", "C", "alpha"}),
        ("drawn", {"B", "alpha", "mark"}),
    ):
        held = load_file(tmp_path / folder / "adapter_model.safetensors")
        assert {key.rpartition(".tlora_")[2] for key in held if ".tlora_" in key} == expected
        written = json.loads((tmp_path / folder / "adapter_config.json").read_text())
        assert written["save_projection"] == ("A" in expected)
    again = PeftModel.from_pretrained(base(name), tmp_path, low_cpu_mem_usage=low)
    for adapter in ("second", "drawn"):
        again.load_adapter(tmp_path / adapter, adapter, low_cpu_mem_usage=low)
    for adapter in ("default", "second", "drawn"):
        for m in (model, again):
            m.set_adapter(adapter)
        y = out(model, name)
        assert gap(y, out(base(name), name)) > 1e-4
        assert torch.equal(out(again, name), y)
        again.merge_adapter()
        assert close(out(again, name), y)
        again.unmerge_adapter()
        assert torch.equal(out(again, name), y)
    again.set_adapter("default")
    again.delete_adapter("second")
    assert not any("second" in layer.given for layer in layers(again).values())
    assert torch.equal(out(again, name), out(from_gradient(name), name))
    assert close(out(again.merge_and_unload(safe_merge=True), name), out(from_gradient(name), name))


@pytest.mark.parametrize("name", ["roberta", "gpt2", "mlp"])
def test_factors_from_a_gradient_go_from_one_side_to_the_other(name, tmp_path):
    model = from_gradient(name, rank_pattern={"lin0": 2} if name == "mlp" else {})
    model.save_pretrained(tmp_path / "peft")
    twin = load_adapter(base(name), tmp_path / "peft")
    assert {layer.adapter.init for layer in adapted(twin)} == {"gradient"}
    assert torch.equal(out(twin, name), out(model, name))
    save_adapter(twin, tmp_path / "adapter.safetensors")
    ours = load_adapter(base(name), tmp_path / "adapter.safetensors")
    assert torch.equal(out(ours, name), out(model, name))
    export_tlora(ours, tmp_path / "back")
    again = PeftModel.from_pretrained(base(name), tmp_path / "back")
    assert again.peft_config["default"].init_weights == "gradient"
    assert torch.equal(out(again, name), out(model, name))
    first, last = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("peft", "back"))
    assert {n: t.tolist() for n, t in first.items()} == {n: t.tolist() for n, t in last.items()}


def test_a_weighted_sum_of_adapters_between_the_same_factors_reads_back(tmp_path):
    model = from_gradient("mlp")
    model.add_adapter("other", gradient_config("mlp"))
    model.set_adapter("other")
    initialize_tlora_gradient_weights(model, [X], square, "other")
    as_if_trained(model, "other", seed=1)
    expected = {n: m.get_delta_weight("default") - 2 * m.get_delta_weight("other") for n, m in layers(model).items()}
    model.add_weighted_adapter(["default", "other"], [1.0, -2.0], "sum")
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    again = PeftModel.from_pretrained(base("mlp"), tmp_path / "sum")
    assert all(close(m.get_delta_weight("default"), expected[n]) for n, m in layers(again).items())


def with_merged(model):
    model.add_adapter("drawn", config("mlp"))
    model.merge_adapter(["drawn"])


def with_other_active(model):
    model.add_adapter("other", gradient_config("mlp"))
    model.set_adapter("other")


@pytest.mark.parametrize(
    ("change", "batches", "loss", "message"),
    [
        (lambda model: model.delete_adapter("default"), [X], square, "the model has no TLoRA adapter 'default'"),
        (with_other_active, [X], square, "active on lin0 is other, expected default alone"),
        (lambda model: with_other_active(model) or model.base_model.set_adapter(["default", "other"]), [X], square,
         "active on lin0 is default, other, expected default alone"),
        (with_merged, [X], square, "lin0 is merged"),
        (as_if_trained, [X], square, "B of lin0 is not 0"),
        (lambda model: model.to("meta"), [X], square, "lin0 is on the meta device"),
        (lambda model: None, [], square, "batches is empty"),
        (lambda model: None, [X], lambda model, batch: 0 * square(model, batch), "the gradient of lin0 is zero"),
        (lambda model: None, [X], lambda model, batch: batch["x"].sum(), "depends on none of the targets"),
    ],
)  # fmt: skip
def test_a_gradient_that_is_not_to_be_had_is_refused(change, batches, loss, message):
    model = get_peft_model(base("mlp"), gradient_config("mlp"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about what the test does
        change(model)
    before = {n: p.requires_grad for n, p in model.named_parameters()}, [m.training for m in model.modules()]
    with pytest.raises(InputError, match=message):
        initialize_tlora_gradient_weights(model, batches, loss)
    assert ({n: p.requires_grad for n, p in model.named_parameters()}, [m.training for m in model.modules()]) == before
    for layer in layers(model).values():
        assert not layer.disable_adapters
        assert not layer.base_layer._forward_hooks
        assert not layer.given.get("default", False)


def test_what_the_seed_draws_is_not_taken_from_a_gradient():
    with pytest.raises(InputError, match="default has init_weights 'fan_in', expected 'gradient'"):
        initialize_tlora_gradient_weights(
            get_peft_model(base("mlp"), config("mlp", init_weights="fan_in")), [X], square
        )


def test_a_file_without_the_factors_of_a_gradient_is_refused(tmp_path):
    from_gradient("mlp").save_pretrained(tmp_path)
    with_tensors(lambda t: {n: a for n, a in t.items() if not n.endswith("lin1.tlora_C")})(tmp_path)
    with pytest.raises(InputError, match="the file lacks A and C of lin1, which are from a gradient: no seed"):
        PeftModel.from_pretrained(base("mlp"), tmp_path)
    model = base("mlp")
    with pytest.raises(
        AdapterFileError, match="has not both A and C of lin1, which follow from the gradient of a loss"
    ):
        load_adapter(model, tmp_path)
    assert not is_adapted(model)


def test_factors_from_a_gradient_cannot_be_left_out(tmp_path):
    assert gradient_config("mlp", save_projection=False).save_projection
    model = from_gradient("mlp")
    model.peft_config["default"].save_projection = False
    with pytest.raises(
        InputError, match="A of lin0 is not what projection_prng_key 0 draws: save with save_projection"
    ):
        model.save_pretrained(tmp_path)


# --- files ----------------------------------------------------------------------------------------------


def test_what_the_seed_does_not_draw_is_not_left_out(tmp_path):
    model = wrapped("mlp")
    layer = layers(model)["lin1"]
    with torch.no_grad():
        layer.tlora_C["default"][0, 0] += 1
    with pytest.raises(
        InputError, match=r"C of lin1 is not what projection_prng_key 0 draws: save with save_projection"
    ):
        model.save_pretrained(tmp_path)
    model.peft_config["default"].save_projection = True
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base("mlp"), tmp_path)
    assert torch.equal(layers(again)["lin1"].tlora_C["default"], layer.tlora_C["default"])
    assert torch.equal(out(again, "mlp"), out(model, "mlp"))


@pytest.mark.parametrize("damage", [{"projection_prng_key": 1}, {"init_weights": "fan_in"}])
def test_an_adapter_between_other_projections_is_refused(damage, tmp_path):
    """The seed, the rule; and the name of the module."""
    model = wrapped("mlp")
    model.save_pretrained(tmp_path)
    given = TLoraConfig.from_pretrained(tmp_path)
    for name, value in damage.items():
        setattr(given, name, value)
    given.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="are not those that the adapter was trained with"):
        PeftModel.from_pretrained(base("mlp"), tmp_path)


def test_an_adapter_without_fingerprints_is_loaded_with_a_warning(tmp_path):
    model = wrapped("mlp")
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if not n.endswith("tlora_mark")}, file)
    with pytest.warns(UserWarning, match="without A and C and without their fingerprints"):
        again = PeftModel.from_pretrained(base("mlp"), tmp_path)
    assert torch.equal(out(again, "mlp"), out(model, "mlp"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("full", [False, True])
def test_a_float32_file_fits_every_base_and_is_not_rounded(dtype, full, tmp_path):
    model = wrapped("llama", save_projection=full)
    model.save_pretrained(tmp_path)
    for low in (False, True):
        again = PeftModel.from_pretrained(base("llama", dtype), tmp_path, low_cpu_mem_usage=low)
        held, expected = get_peft_model_state_dict(again), get_peft_model_state_dict(model)
        assert all(torch.equal(held[key].to(expected[key].dtype), expected[key]) for key in expected)
        assert close(out(again, "llama"), out(model, "llama"), 0.1)


def test_without_peft_model_the_layers_are_those_of_peft():
    """inject_adapter_in_model, as transformers and diffusers call it, and its state dict."""
    model = inject_adapter_in_model(config("llama"), base("llama"), "mine")
    held = get_peft_model_state_dict(model, adapter_name="mine")
    twin = inject_adapter_in_model(config("llama"), base("llama"), "mine", low_cpu_mem_usage=True)
    found = set_peft_model_state_dict(twin, held, adapter_name="mine", low_cpu_mem_usage=True)
    assert not found.unexpected_keys
    assert torch.equal(out(twin, "llama"), out(model, "llama"))
    prefixed = {f"base_model.model.{key}": value for key, value in held.items()}
    assert not set_peft_model_state_dict(twin, prefixed, adapter_name="mine").unexpected_keys


def test_a_base_without_numbers_gets_its_projections_with_the_file(tmp_path):
    model = wrapped("mlp")
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = Mlp()
    again = PeftModel.from_pretrained(empty, tmp_path, low_cpu_mem_usage=True)
    for name, layer in layers(again).items():
        assert all(
            torch.equal(a, b)
            for a, b in zip(layer.arrays("default"), layers(model)[name].arrays("default"), strict=True)
        )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["roberta", "gpt2", "mlp"])
def test_each_side_reads_what_the_other_wrote(name, full, tmp_path):
    model = wrapped(name, save_projection=full, projection_prng_key=7)
    model.save_pretrained(tmp_path / "peft")
    twin = load_adapter(base(name), tmp_path / "peft")
    assert torch.equal(out(twin, name), out(model, name))
    also = {n for n, p in twin.named_parameters() if p.requires_grad and "classifier" in n}
    assert bool(also) == (name == "roberta")
    save_adapter(twin, tmp_path / "adapter.safetensors")
    assert torch.equal(out(load_adapter(base(name), tmp_path / "adapter.safetensors"), name), out(model, name))
    assert torch.equal(out(load_adapter(twin, tmp_path / "peft"), name), out(model, name))
    export_tlora(twin, tmp_path / "back", save_projection=full)
    again = PeftModel.from_pretrained(base(name), tmp_path / "back")
    assert torch.equal(out(again, name), out(model, name))
    first, last = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("peft", "back"))
    assert {n: t.tolist() for n, t in first.items()} == {n: t.tolist() for n, t in last.items()}


def test_several_ranks_go_from_one_side_to_the_other(tmp_path):
    model = wrapped("mlp", rank_pattern={"^lin0": 2, "conv": 4})
    model.save_pretrained(tmp_path / "peft")
    twin = load_adapter(base("mlp"), tmp_path / "peft")
    export_tlora(twin, tmp_path / "back")
    assert torch.equal(out(twin, "mlp"), out(model, "mlp"))
    assert torch.equal(out(PeftModel.from_pretrained(base("mlp"), tmp_path / "back"), "mlp"), out(model, "mlp"))


def test_a_folder_brings_its_dropout_and_fits_layers_that_were_named_by_patterns(tmp_path):
    model = wrapped("mlp", tlora_dropout=0.25)
    model.save_pretrained(tmp_path)
    assert {layer.adapter.dropout for layer in adapted(load_adapter(base("mlp"), tmp_path))} == {0.25}
    twin = base("mlp")
    inject(twin, tuple(MODELS["mlp"][1]), 3, dropout=0.25)
    load_adapter(twin, tmp_path)
    assert torch.equal(out(twin, "mlp"), out(model, "mlp"))
    other = base("mlp")
    inject(other, tuple(MODELS["mlp"][1]), 3)
    with pytest.raises(InputError, match=r"dropout is 0\.25, the model's adapter has 0\.0"):
        load_adapter(other, tmp_path)


def with_config(**changes):
    def damage(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def with_tensors(change):
    def damage(folder):
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return damage


B0 = "base_model.model.lin0.tlora_B"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_config(peft_type="LORA"), "PEFT's method 'LORA', expected 'TLORA'"),
        (with_config(bias="all"), "trained biases"),
        (with_config(projection_prng_key=1), "are not those of the training"),
        (with_config(r=None), "r"),
        (with_tensors(lambda t: {n: a for n, a in t.items() if "mark" not in n}), "nor their fingerprints"),
        (with_tensors(lambda t: {n: a for n, a in t.items() if n != B0}), "lin0.tlora_B is missing"),
        (with_tensors(lambda t: t | {B0: t[B0][:, :2].clone()}), r"\(3, 2\), expected \(3, 3\)"),
        (with_tensors(lambda t: t | {B0: t[B0] / 0}), "not finite"),
        (
            with_tensors(lambda t: {n.replace("lin1", "lin7"): a for n, a in t.items()}),
            "adapts lin7, which is no linear",
        ),
        (
            with_tensors(lambda t: t | {"base_model.model.lin9.weight": t[B0] + 1}),
            "holds lin9.weight, which the model does not",
        ),
        (with_tensors(lambda t: {"x": t[B0]}), "adapts no matrix"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "no whole adapter folder"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "no whole adapter folder"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "no whole adapter folder"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "no whole adapter folder"),
        (lambda folder: (folder / "adapter_config.json").write_bytes(b"\xff"), "no whole adapter folder"),
    ],
)
def test_a_folder_that_is_damaged_or_foreign_changes_nothing(damage, message, tmp_path):
    wrapped("mlp").save_pretrained(tmp_path)
    damage(tmp_path)
    model = base("mlp")
    with pytest.raises(AdapterFileError, match=message):
        load_adapter(model, tmp_path)
    assert not is_adapted(model)


def test_export_refuses_what_is_no_tlora_or_not_drawn(tmp_path):
    model = base("mlp")
    inject(model, ("lin1",), rank=3, method="lora")
    with pytest.raises(InputError, match="the method is 'lora', expected 'tlora'"):
        export_tlora(model, tmp_path / "a")
    model = base("mlp")
    inject(model, ("lin1",), rank=3)
    model.lin1.A.add_(1)
    with pytest.raises(InputError, match=r"lin1\.A is not what seed 0 draws"):
        export_tlora(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    export_tlora(model, tmp_path / "a", save_projection=True)
    assert torch.equal(out(PeftModel.from_pretrained(base("mlp"), tmp_path / "a"), "mlp"), out(model, "mlp"))


def test_a_projection_that_no_seed_draws_is_exported_in_full(tmp_path):
    model = base("mlp")
    inject(model, ("lin1", "conv"), rank=3, init="weight_svd")
    with torch.no_grad():
        model.lin1.B.normal_()
    export_tlora(model, tmp_path)
    assert torch.equal(out(PeftModel.from_pretrained(base("mlp"), tmp_path), "mlp"), out(model, "mlp"))


# --- with the rest of PEFT ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # by PEFT, about the LoRA that it makes
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_as_a_lora_it_is_the_same_adapter(name):
    model = wrapped(name)
    assert model.supports_lora_conversion()
    chosen, held = convert_to_lora(model, rank=3)
    twin = get_peft_model(base(name), chosen).eval()
    set_peft_model_state_dict(twin, held)
    assert close(out(twin, name), out(model, name), 1e-4)


def test_hotswapping_is_refused(tmp_path):
    model = wrapped("mlp")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Hotswapping .*TLORA"):
        hotswap_adapter(model, tmp_path, "default")
    with pytest.raises(ValueError, match="path_initial_model_for_weight_conversion"):
        model.save_pretrained(tmp_path, path_initial_model_for_weight_conversion=tmp_path / "x")


def test_the_status_and_the_card(tmp_path):
    model = wrapped("roberta")
    status = model.get_model_status()
    assert (status.adapter_model_type, status.peft_types, status.enabled) == ("TLoraModel", {"default": "TLORA"}, True)
    assert {layer.module_type for layer in model.get_layer_status()} == {"tlora.Linear", "ModulesToSaveWrapper"}
    assert model.peft_type is PeftType.TLORA is PeftType("TLORA") is PeftType["TLORA"]
    assert "TLORA" in list(PeftType)
    assert pickle.loads(pickle.dumps(PeftType.TLORA)) is PeftType.TLORA
    model.save_pretrained(tmp_path)
    assert "library_name: peft" in (tmp_path / "README.md").read_text()


def test_the_trainer_keeps_the_adapter_alone_and_resumes(tmp_path):
    rows = [{"input_ids": IDS[i % 2], "attention_mask": MASK[0], "labels": torch.tensor(i % 2)} for i in range(8)]

    def trained(steps, resume=False):
        model = get_peft_model(base("roberta"), TLoraConfig(r=3, task_type="SEQ_CLS"))
        arguments = transformers.TrainingArguments(
            output_dir=tmp_path, max_steps=steps, save_steps=2, logging_steps=100, report_to=[], use_cpu=True,
            per_device_train_batch_size=2, learning_rate=1e-2, lr_scheduler_type="constant", disable_tqdm=True,
        )  # fmt: skip
        transformers.Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=resume)
        return model

    straight = trained(4)
    names = {p.name for p in (tmp_path / "checkpoint-2").iterdir()}
    assert "adapter_model.safetensors" in names
    assert not {"model.safetensors", "pytorch_model.bin"} & names
    shutil.rmtree(tmp_path / "checkpoint-4")
    resumed = trained(4, resume=True)
    held, expected = get_peft_model_state_dict(resumed), get_peft_model_state_dict(straight)
    assert held.keys() == expected.keys()
    for key in held:
        assert torch.allclose(held[key].float(), expected[key].float(), atol=1e-6), key
    loaded = PeftModel.from_pretrained(base("roberta"), tmp_path / "checkpoint-4")
    assert torch.equal(out(loaded, "roberta"), out(resumed.eval(), "roberta"))


@pytest.mark.distributed
def test_fsdp2_shards_every_trained_array():
    """Which it refuses to do with a scalar; one process is a group of one."""
    model = wrapped("mlp")
    expected = out(model, "mlp")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        y = out(model, "mlp")
        y.square().mean().backward()
        assert torch.equal(y, expected)
        assert all(p.grad is not None and p.grad.full_tensor().any() for p in model.parameters() if p.requires_grad)
    finally:
        dist.destroy_process_group()


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "rank is 0"),
        ({"rank_pattern": {"x": -1}}, "rank is -1"),
        ({"tlora_dropout": 1.0}, r"dropout is 1\.0"),
        ({"projection_prng_key": -1}, "seed is -1"),
        ({"bias": "lora_only"}, "'none', 'all' or 'tlora_only'"),
        ({"init_weights": "weight_svd"}, "a bool or one of released, fan_in, orthonormal, gradient"),
        ({"target_modules": "q", "layers_to_transform": [1]}, "layers_to_transform"),
        ({"target_modules": "q", "layers_pattern": "h"}, "layers_pattern"),
        ({"target_modules": ["q"], "layers_pattern": "h"}, "must also be specified"),
        ({"task_type": "NOTHING"}, "Invalid task type"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TLoraConfig(**options)


class Odd(nn.Module):
    """Layers that no adapter of this kind can sit on."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Embedding(9, 8), nn.MultiheadAttention(8, 2)
        self.whole, self.fine = nn.Linear(8, 8), nn.Linear(8, 8)
        self.whole.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("embed", "an? Embedding, is not supported"),
        ("attention", "MultiheadAttention, is not supported"),
        ("out_proj", "an adapter there would do nothing"),
        ("whole", "whole has a quantised weight of torch.int8"),
    ],
)
def test_a_module_that_would_ignore_an_adapter_is_refused(target, message):
    with pytest.raises(ValueError, match=message):
        get_peft_model(Odd(), TLoraConfig(r=2, target_modules=[target]))


def test_what_peft_knows_as_quantised_is_refused_whatever_its_dtype(monkeypatch):
    monkeypatch.setattr("tlora_ref.peft.model.resolve_quantization_backend", lambda module: object())
    with pytest.raises(InputError, match=r"fine has a quantised weight of torch\.float32, expected floating"):
        get_peft_model(Odd(), TLoraConfig(r=2, target_modules=["fine"]))


@pytest.mark.parametrize("target", ["out_proj", "x_proj", "dt_proj"])
def test_what_mamba_reads_without_calling_is_refused(target):
    size = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 4}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**size))
    with pytest.raises(InputError, match=f"the weight of {target} without calling it"):
        get_peft_model(model, TLoraConfig(r=2, target_modules=["in_proj", target]))


def test_too_many_orthonormal_columns_and_a_second_method_are_refused():
    for rule in ("orthonormal", "gradient"):
        with pytest.raises(ValueError, match="it has no 6 orthonormal columns"):
            get_peft_model(base("mlp"), config("mlp", r=6, init_weights=rule))
    lora = get_peft_model(base("mlp"), LoraConfig(target_modules=["lin1"])).base_model.model
    with (
        pytest.warns(UserWarning, match="Already found a `peft_config`"),
        pytest.raises(ValueError, match="already has an adapter of another method"),
    ):
        inject_adapter_in_model(config("mlp", target_modules=["lin1"]), lora, "second")
    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(base("mlp"), TLoraConfig())


def test_without_peft_the_import_says_so_in_a_sentence():
    code = "import sys; sys.modules['peft'] = None\ntry: import tlora_ref.peft\nexcept ImportError as e: print(e)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("tlora_ref.peft needs Hugging Face PEFT, which cannot be imported")
    assert shown.strip().endswith("pip install 'peft>=0.21'")
    assert shown.count("\n") == 1
