"""The models that people adapt, each as small as its configuration allows: what inject promises, on every one of them.

The table of the families in tutorials/in_your_model.md is what ``rows()`` finds; the last test compares them.
"""

import importlib
import re
from pathlib import Path

import pytest
import torch
from tiny import bits, scramble

import tlora_ref
from tlora_ref.by_autograd import load_adapter, save_adapter
from tlora_ref.by_autograd.inject import adapted, disable, inject, merge, merge_and_unload, remove, unmerge
from tlora_ref.by_autograd.linear import is_conv1d, treat_as_linear
from tlora_ref.by_autograd.verify import verify
from tlora_ref.export import export_lora
from tlora_ref.tables import table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # PEFT asks transformers for it
    pytest.mark.filterwarnings("ignore"),  # what transformers says of its own models
]
PAGE = Path(tlora_ref.__file__).parent.parent / "tutorials" / "in_your_model.md"
QV = ("q_proj", "v_proj")
SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 24, "max_position_embeddings": 32}  # fmt: skip
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GQA = SMALL | {"num_key_value_heads": 2, "head_dim": 4} | TOKENS
MOE = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts": 2, "num_experts_per_tok": 1}
SEQ2SEQ = {"vocab_size": 32, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 2,
           "max_position_embeddings": 32} | TOKENS  # fmt: skip
IMAGE = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 24}  # fmt: skip

FAMILIES = {
    "BERT": ("Bert", "BertModel", SMALL, ("query", "value"), "ids"),
    "RoBERTa": ("Roberta", "RobertaModel", SMALL | {"max_position_embeddings": 40}, ("query", "value"), "ids"),
    "DistilBERT": ("DistilBert", "DistilBertModel", {"vocab_size": 32, "dim": 16, "n_layers": 2, "n_heads": 4,
                   "hidden_dim": 24, "max_position_embeddings": 32}, ("q_lin", "v_lin"), "ids"),
    "DeBERTa v2": ("DebertaV2", "DebertaV2Model", SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                   "position_buckets": 8}, ("query_proj", "value_proj"), "ids"),
    "ALBERT": ("Albert", "AlbertModel", SMALL | {"embedding_size": 8}, ("query", "value"), "ids"),
    "ELECTRA": ("Electra", "ElectraModel", SMALL | {"embedding_size": 8}, ("query", "value"), "ids"),
    "ModernBERT": ("ModernBert", "ModernBertModel", SMALL | TOKENS | {"cls_token_id": 1, "sep_token_id": 2},
                   ("Wqkv", "mlp.Wo"), "ids"),
    "GPT-2": ("GPT2", "GPT2LMHeadModel", {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 4,
              "n_positions": 32}, ("c_attn", "mlp.c_proj"), "ids"),
    "Llama": ("Llama", "LlamaForCausalLM", GQA | {"tie_word_embeddings": True}, QV, "ids"),
    "Qwen2": ("Qwen2", "Qwen2ForCausalLM", GQA, QV, "ids"),
    "Qwen3": ("Qwen3", "Qwen3ForCausalLM", GQA, QV, "ids"),
    "Qwen2-MoE, attention": ("Qwen2Moe", "Qwen2MoeForCausalLM", GQA | MOE, QV, "ids"),
    "Mistral": ("Mistral", "MistralForCausalLM", GQA, QV, "ids"),
    "Gemma 2": ("Gemma2", "Gemma2ForCausalLM", GQA, QV, "ids"),
    "Gemma 3": ("Gemma3Text", "Gemma3ForCausalLM", GQA, QV, "ids"),
    "Phi-3": ("Phi3", "Phi3ForCausalLM", GQA, ("qkv_proj", "down_proj"), "ids"),
    "BLOOM": ("Bloom", "BloomForCausalLM", {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 4},
              ("query_key_value",), "ids"),
    "GPT-NeoX": ("GPTNeoX", "GPTNeoXForCausalLM", SMALL | TOKENS, ("query_key_value",), "ids"),
    "OPT": ("OPT", "OPTForCausalLM", {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "ffn_dim": 24,
            "num_attention_heads": 4, "max_position_embeddings": 32, "word_embed_proj_dim": 16} | TOKENS, QV, "ids"),
    "Falcon": ("Falcon", "FalconForCausalLM", {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2,
               "num_attention_heads": 4} | TOKENS, ("query_key_value",), "ids"),
    "T5": ("T5", "T5ForConditionalGeneration", {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1,
           "num_heads": 4, "decoder_start_token_id": 0}, ("q", "v"), "pairs"),
    "BART": ("Bart", "BartForConditionalGeneration", SEQ2SEQ, QV, "pairs"),
    "Whisper": ("Whisper", "WhisperForConditionalGeneration", SEQ2SEQ | {"num_mel_bins": 8, "max_source_positions": 8,
                "max_target_positions": 16, "suppress_tokens": None, "begin_suppress_tokens": None}, QV, "mel"),
    "ViT": ("ViT", "ViTModel", IMAGE, None, "image"),
    "DINOv2": ("Dinov2", "Dinov2Model", IMAGE | {"mlp_ratio": 2}, None, "image"),
    "Swin V2": ("Swinv2", "Swinv2Model", {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
                "num_heads": [2, 2], "window_size": 2}, ("query", "value"), "image"),
    "CLIP, vision": ("CLIPVision", "CLIPVisionModel", IMAGE, QV, "image"),
    "Wav2Vec2": ("Wav2Vec2", "Wav2Vec2Model", SMALL | {"conv_dim": [8, 8], "conv_stride": [4, 4], "conv_kernel": [4, 4],
                 "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}, QV,
                 "wave"),
    "WavLM": ("WavLM", "WavLMModel", SMALL | {"conv_dim": [8, 8], "conv_stride": [4, 4], "conv_kernel": [4, 4],
              "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}, QV,
              "wave"),
    "Mamba": ("Mamba", "MambaForCausalLM", {"vocab_size": 32, "hidden_size": 16, "state_size": 4,
              "num_hidden_layers": 2, "time_step_rank": 4}, ("out_proj", "dt_proj"), "ids"),
}  # fmt: skip
"""Its configuration's class, its own, the options, the targets (None: the first linear layers of each block), and what
it is given."""


def build(family):
    config, kind, options, _, _ = FAMILIES[family]
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, f"{config}Config")(**options)).float().eval()


def batch(family):
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 32, (2, 6), generator=rng)
    return {
        "ids": {"input_ids": ids},
        "pairs": {"input_ids": ids, "decoder_input_ids": ids[:, :4]},
        "mel": {"input_features": torch.randn(2, 8, 16, generator=rng), "decoder_input_ids": ids[:, :4]},
        "image": {"pixel_values": torch.randn(2, 3, 16, 16, generator=rng)},
        "wave": {"input_values": torch.randn(2, 200, generator=rng)},
    }[FAMILIES[family][-1]]


def targets(family, model):
    chosen = FAMILIES[family][3]
    if chosen is None:
        names = [name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
        chosen = tuple(dict.fromkeys(n for n in names if re.search("query|value|q_proj|v_proj", n)))
    return chosen


@torch.no_grad()  # attention chooses its kernel by what asks for a gradient
def output(model, given):
    found = model(**given)
    return getattr(found, "logits", None) if getattr(found, "logits", None) is not None else found[0]


def gap(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.fixture(params=FAMILIES)
def family(request):
    if request.param == "Falcon":
        from transformers.models.falcon.modeling_falcon import FalconLinear

        treat_as_linear(FalconLinear)
    return request.param


def test_what_inject_promises_holds(family, tmp_path):
    model, base, given = build(family), build(family), batch(family)
    before, start = bits(base), output(base, given)
    inject(model, targets(family, model), rank=2)
    found = verify(model, given)
    assert not found.silent, str(found)  # every adapter has a gradient

    def same(a, b):
        # a weight that is read is made anew each time, and a product with it may be summed in another order
        return gap(a, b) < 1e-6 if found.uncalled else torch.equal(a, b)

    assert same(output(model, given), start)  # the start is the base, bit for bit

    scramble(model)
    y = output(model, given)
    assert gap(y, start) > 1e-4
    layers = adapted(model)
    for layer in layers:  # every layer has an effect of its own
        layer.disabled = True
        assert not torch.equal(output(model, given), y), layer.name
        layer.disabled = False

    merge(model)  # dense equivalence, merging, unmerging
    assert gap(output(model, given), y) < 1e-4
    unmerge(model)
    assert same(output(model, given), y)
    with disable(model):
        assert same(output(model, given), start)

    save_adapter(model, tmp_path / "a")  # reload
    again = load_adapter(build(family), tmp_path / "a")
    assert same(output(again, given), y)
    assert gap(output(merge_and_unload(again), given), y) < 1e-4

    export_lora(model, tmp_path / "lora", task_type=None)  # export
    if not found.uncalled:  # PEFT's LoRA does nothing where a weight is read
        from peft import PeftModel

        peft = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
        assert gap(output(peft, given), y) < 1e-4

    remove(model)
    assert bits(model) == before


def rows():
    """A row of the page's table for every family."""
    lines = []
    for name, (_, kind, _, _, _) in FAMILIES.items():
        model = build(name)
        chosen = targets(name, model)
        inject(model, chosen, rank=2)
        layers = adapted(model)
        found = verify(model, batch(name))
        layer = "Conv1D" if is_conv1d(layers[0].base) else type(layers[0].base).__name__
        how = "called" if not found.uncalled else f"weight read in {len(found.uncalled)} of {len(layers)}"
        lines.append([name, kind, ", ".join(chosen), layer, str(len(layers)), how])
    return lines


def test_the_page_has_the_table_of_these_families():
    from transformers.models.falcon.modeling_falcon import FalconLinear

    treat_as_linear(FalconLinear)
    shown = table(["family", "class", "targets", "layer", "adapted", "how the layer is used"], rows())
    assert shown in PAGE.read_text(), shown
