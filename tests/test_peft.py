"""TLoRA as a method of the real Hugging Face PEFT: on every architecture what PEFT's own tests ask of LoRA, on small
random models built from configurations; equal to ``inject``; and what is refused."""

import copy

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from tlora_ref.by_autograd.inject import adapted, inject, merge
from tlora_ref.peft import TLoraConfig, TLoraLayer, TLoraModel

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
