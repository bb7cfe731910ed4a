"""The exported LoRA under the real Hugging Face PEFT, on small random models built from configurations."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import net, scramble
from torch import nn

from tlora_ref import AdapterConfig, InputError, attach, init_encoder
from tlora_ref.__main__ import main
from tlora_ref.by_autograd.adapter_io import adapter_of, save_adapter
from tlora_ref.by_autograd.inject import inject, merge
from tlora_ref.by_hand import adapter_io as numpy_io
from tlora_ref.by_hand import encoder as by_hand
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.export import export_lora, lora_tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # PEFT asks transformers for it
]

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 7], [2, 7, 18, 28, 1, 8, 4]])


def roberta():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(RobertaConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=16, num_labels=3, pad_token_id=1,
    ))  # fmt: skip


def bert():
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=16,
    ))  # fmt: skip


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(
        vocab_size=50, n_embd=24, n_layer=2, n_head=3, n_positions=16, bos_token_id=0, eos_token_id=0,
    ))  # fmt: skip


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=40, max_position_embeddings=16,
    ))  # fmt: skip


MODELS = {
    "roberta": (roberta, ("query", "value", "intermediate.dense"), ("classifier",)),
    "bert": (bert, ("self.key", "0.output.dense"), ()),
    "gpt2": (gpt2, ("c_attn", "mlp.c_proj"), ("ln_f",)),
    "llama": (llama, ("q_proj", "v_proj", "down_proj"), ()),
}


def build(name, dtype):
    """A base model, the same every time."""
    torch.manual_seed(0)
    return MODELS[name][0]().to(dtype).eval()


def adapted(name, dtype, **options):
    """The same model as after training, adapters and what trained beside them away from the start."""
    model = build(name, dtype)
    _, targets, also = MODELS[name]
    inject(model, targets, rank=4, dropout=0.5, train_also=also, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return scramble(model)


@torch.no_grad()
def output(model):
    return model(input_ids=IDS)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_under_stock_peft_the_outputs_are_ours(name, dtype, tmp_path):
    from peft import PeftModel

    model, base = adapted(name, dtype), build(name, dtype)
    ours, before = output(model), output(base)
    export_lora(model, tmp_path / "lora")
    peft = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    largest = ours.abs().max().item()
    tolerance = {torch.float64: 1e-13, torch.float32: 5e-6}[dtype] * largest
    assert (output(peft) - ours).abs().max().item() <= tolerance
    assert (ours - before).abs().max().item() > 0.01 * largest

    # exactly the adapted modules, and nothing random in them
    targets = {n.removeprefix("base_model.model.") for n, m in peft.named_modules() if hasattr(m, "lora_A")}
    assert targets == set(adapter_of(model).matrices)
    config = peft.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (4, 4, 0.0, "none")
    assert config.fan_in_fan_out == (name == "gpt2")
    plain = peft.merge_and_unload()
    assert (output(plain) - ours).abs().max().item() <= 4 * tolerance


EXPORTED = [name for name, row in METHODS.items() if row.additive or row.rescales]


@pytest.mark.parametrize("method", EXPORTED)
def test_under_stock_peft_the_outputs_are_ours_for_every_method_that_adds_a_product(method, tmp_path):
    """From the model and from a file of it; the scale, a diagonal or a core goes into the up factor."""
    from peft import PeftModel

    scale = {"lora_alpha": 10.0} if "scale" in METHODS[method].constants else {}
    model, base = adapted("bert", torch.float64, method=method, **scale), build("bert", torch.float64)
    ours, before = output(model), output(base)
    export_lora(model, tmp_path / "lora")
    peft = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    largest = ours.abs().max().item()
    assert (output(peft) - ours).abs().max().item() <= 1e-13 * largest
    assert (ours - before).abs().max().item() > 0.01 * largest
    save_adapter(model, tmp_path / "a")
    assert main(["export", str(tmp_path / "a"), str(tmp_path / "job")]) == 0
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "job" / file).read_bytes() == (tmp_path / "lora" / file).read_bytes()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in EXPORTED])
def test_what_is_no_lora_is_refused_with_the_reason_and_nothing_is_written(method, tmp_path, capsys):
    from tiny import ENCODER

    row = METHODS[method]
    reason = "its W' - W0 is not a matrix of rank r" if row.mergeable else "what it adds is not linear in x"
    model = attach(init_encoder(ENCODER), AdapterConfig(method, 2))
    if row.on_matrices:
        model = adapted("bert", torch.float32, method=method)
    with pytest.raises(InputError, match=f"{method} is no LoRA: {reason}"):
        export_lora(model, tmp_path / "lora")
    save = save_adapter if row.on_matrices else numpy_io.save_adapter
    save(model, tmp_path / "a")
    assert main(["export", str(tmp_path / "a"), str(tmp_path / "lora")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "lora").exists()


def test_what_was_trained_beside_the_adapter_is_in_modules_to_save(tmp_path):
    from peft import PeftModel

    model = adapted("roberta", torch.float32)
    export_lora(model, tmp_path / "lora")
    peft = PeftModel.from_pretrained(build("roberta", torch.float32), tmp_path / "lora")
    assert peft.peft_config["default"].modules_to_save == ["classifier", "score"]  # PEFT's own words for a head
    head = peft.base_model.model.classifier.modules_to_save["default"].out_proj
    assert torch.equal(head.weight, model.classifier.out_proj.weight)
    assert not torch.equal(head.weight, build("roberta", torch.float32).classifier.out_proj.weight)


def test_a_half_precision_base_with_a_trained_head(tmp_path):
    from peft import PeftModel

    model = adapted("roberta", torch.bfloat16)
    export_lora(model, tmp_path / "lora")
    peft = PeftModel.from_pretrained(build("roberta", torch.bfloat16), tmp_path / "lora").eval()
    head = peft.base_model.model.classifier.modules_to_save["default"].out_proj
    assert torch.equal(head.weight.float(), model.classifier.out_proj.weight.float())
    ours = output(model)
    assert (output(peft) - ours).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps * ours.abs().max()


@pytest.mark.parametrize("compact", [True, False])
def test_the_job_writes_the_same_folder_from_an_adapter_file(compact, tmp_path, capsys):
    model = adapted("gpt2", torch.float32)
    save_adapter(model, tmp_path / "a.safetensors", compact)
    words = ["export", str(tmp_path / "a.safetensors"), str(tmp_path / "job"), "--task-type", "CAUSAL_LM"]
    assert main(words) == 0
    assert "LoRA of rank 4, lora_alpha 4" in capsys.readouterr().out
    merge(model)
    export_lora(model, tmp_path / "direct")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "job" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "job", "direct"}


def test_peft_finds_the_base_and_the_class_by_itself(tmp_path, capsys):
    from peft import AutoPeftModelForSequenceClassification

    build("roberta", torch.float32).save_pretrained(tmp_path / "base")
    model = adapted("roberta", torch.float32)
    model.config._name_or_path = str(tmp_path / "base")
    export_lora(model, tmp_path / "lora")
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "lora").eval()
    ours = output(model)
    assert (output(again) - ours).abs().max() <= 5e-6 * ours.abs().max()
    save_adapter(model, tmp_path / "a")
    words = ["export", str(tmp_path / "a"), str(tmp_path / "job"), "--base", str(tmp_path / "base")]
    assert main([*words, "--task-type", "SEQ_CLASS"]) == 2
    assert "task_type is 'SEQ_CLASS', expected one of CAUSAL_LM" in capsys.readouterr().err
    assert main([*words, "--task-type", "SEQ_CLS"]) == 0
    headless = build("roberta", torch.float32)
    inject(headless, ("query",), rank=4)
    export_lora(scramble(headless), tmp_path / "headless")
    assert json.loads((tmp_path / "headless" / "adapter_config.json").read_text())["task_type"] is None
    with pytest.raises(InputError, match="head of a SEQ_CLS model from the file, and none was trained"):
        export_lora(headless, tmp_path / "no", task_type="SEQ_CLS")
    assert (tmp_path / "job" / "adapter_config.json").read_bytes() == (
        tmp_path / "lora" / "adapter_config.json"
    ).read_bytes()


def test_trained_tied_embeddings_stay_tied_in_what_peft_computes(tmp_path):
    from peft import PeftModel

    model = build("gpt2", torch.float32)
    inject(model, ("c_attn",), rank=4, train_also=("wte",))
    with torch.no_grad():
        model.transformer.wte.weight.add_(torch.randn_like(model.transformer.wte.weight))
    scramble(model)
    export_lora(model, tmp_path / "lora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says of tied modules that they are tied
        again = PeftModel.from_pretrained(build("gpt2", torch.float32), tmp_path / "lora").eval()
    ours = output(model)
    assert (output(again) - ours).abs().max() <= 5e-6 * ours.abs().max()


def test_two_towers_of_which_one_is_adapted(tmp_path):
    """A list of full names would match teacher.blocks.0.query as well: PEFT takes names as suffixes."""
    import re

    model = nn.ModuleDict({"blocks": net().blocks, "teacher": nn.ModuleDict({"blocks": net().blocks})})
    inject(model, (re.compile(r"blocks\.\d\.query"),), rank=3)
    export_lora(model, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    names = [name for name, _ in model.named_modules() if re.fullmatch(config["target_modules"], name)]
    assert names == ["blocks.0.query", "blocks.1.query"]


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.additive])
def test_the_factors_of_every_additive_method_multiply_to_its_delta_w(method):
    from tiny import ENCODER

    model = attach(init_encoder(ENCODER, 0, np.float64), AdapterConfig(method=method, rank=3, lora_alpha=5.0))
    rng = np.random.default_rng(1)
    model = model.with_params({n: a + rng.standard_normal(a.shape) for n, a in model.params.items()})
    tensors = lora_tensors(numpy_io.adapter_of(model))
    assert len(tensors) == 2 * len(model.adapted)
    for name in model.adapted:
        down, up = (tensors[f"base_model.model.{name}.{f}.weight"] for f in ("lora_A", "lora_B"))
        expected = by_hand.delta_w(model, name)
        assert down.shape[0] == up.shape[1] == 3
        np.testing.assert_allclose((up @ down).T, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# --- whole or not at all -------------------------------------------------------------------------


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    model, calls = adapted("bert", torch.float32), []

    def second_fails(handle, original=os.fsync):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(InputError, match=r"cannot write the folder .*No space left"):
        export_lora(model, tmp_path / "lora")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone_and_an_empty_one_is_used(tmp_path):
    model = adapted("bert", torch.float32)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(InputError, match="exists already, expected a new or an empty folder"):
            export_lora(model, tmp_path / name)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    export_lora(model, tmp_path / "empty")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_what_cannot_be_exported_is_refused(tmp_path, capsys):
    partly = net()
    inject(partly, ("query",), rank=2, train_also=("classifier.1.weight",))
    with pytest.raises(InputError, match=r"of classifier.1 only a part was trained: classifier.1.bias not"):
        export_lora(partly, tmp_path / "lora")
    with pytest.raises(InputError, match="has no adapters"):
        export_lora(net(), tmp_path / "lora")
    from tiny import ENCODER

    head = attach(init_encoder(ENCODER), AdapterConfig(rank=2), train_also=("head.W",))
    with pytest.raises(InputError, match=r"head.W was trained, and PEFT saves whole modules"):
        export_lora(head, tmp_path / "lora")
    (tmp_path / "no").write_bytes(b"no adapter")
    assert main(["export", str(tmp_path / "no"), str(tmp_path / "lora")]) == 2
    assert "no safetensors file" in capsys.readouterr().err
    assert not Path(tmp_path / "lora").exists()
