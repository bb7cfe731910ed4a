"""The counting job: published figures, and the known shapes against the models transformers builds."""

import json

import pytest
import torch
from tiny import ON_MATRICES

from tlora_ref.__main__ import main
from tlora_ref.by_autograd.inject import inject
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.known import KNOWN, chosen


def counted(capsys, *arguments):
    assert main(["count", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("rank", "tlora", "lora"), [(8, 3120, 786432), (16, 12336, 1572864), (32, 49200, 3145728)])
def test_roberta_large_has_the_published_counts(capsys, rank, tlora, lora):
    report = counted(capsys, "--model", "roberta-large", "--rank", str(rank), "--targets", "query,value")
    ours, theirs = report["methods"]
    assert (ours["method"], ours["trained"], ours["stored"], ours["optimizer_bytes"]) == (
        "tlora",
        tlora,
        tlora,
        8 * tlora,
    )
    assert (theirs["method"], theirs["trained"], theirs["frozen_random"]) == ("lora", lora, 0)
    assert ours["frozen_random"] == lora
    assert ours["ratio_to_lora"] == lora / tlora


def test_the_table_shows_them(capsys):
    assert main(["count", "--model", "roberta-large", "--rank", "32"]) == 0
    out = capsys.readouterr().out
    for expected in ("rank 32, 48 matrices", "24 x roberta.encoder.layer.*.attention.self.value  1024 x 1024",
                     "49,200", "196.8 kB", "393.6 kB", "3,145,728", "63.94 times"):  # fmt: skip
        assert expected in out


def test_one_matrix_with_several_roles_counts_once(capsys):
    report = counted(capsys, "--model", "gpt2", "--rank", "4", "--targets", "query,value,c_attn")
    assert report["methods"][0]["trained"] == 12 * (4 * 4 + 1)
    assert report["methods"][1]["trained"] == 12 * 4 * (768 + 3 * 768)


def test_explicit_sizes(capsys):
    report = counted(capsys, "--layers", "5", "--width", "12", "--rank", "2", "--targets", "key,ffn_in,ffn_out")
    assert report["methods"][0]["trained"] == 5 * 3 * (2 * 2 + 1)
    assert report["methods"][1]["trained"] == 5 * 2 * (24 + 60 + 60)
    only = counted(capsys, "--layers", "5", "--width", "12", "--rank", "2", "--method", "lora")
    assert [row["method"] for row in only["methods"]] == ["lora"]
    assert only["methods"][0]["ratio_to_lora"] == 1


@pytest.mark.parametrize("method", ON_MATRICES)
def test_every_method_counts_as_the_arrays_of_an_injected_model(capsys, method):
    targets = ("query", "ffn_in", "ffn_out")
    shapes = {"query": (12, 12), "ffn_in": (12, 48), "ffn_out": (48, 12)}
    layer = {name: torch.nn.Linear(*shape) for name, shape in shapes.items()}
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleDict(layer)])})
    heads = 1 if METHODS[method].per_head else None  # of a width by itself
    counts = inject(model, targets, rank=2, method=method, heads=heads).counts
    report = counted(capsys, "--layers", "1", "--width", "12", "--rank", "2", "--targets", ",".join(targets),
                     "--method", method)  # fmt: skip
    row = report["methods"][0]
    assert (row["trained"], row["stored"], row["frozen_random"], row["from_seed"], row["optimizer"]) == (
        counts.trained, counts.stored, counts.frozen_random, counts.from_seed, counts.optimizer,
    )  # fmt: skip
    assert report["methods"][-1]["trained"] == 2 * (24 + 60 + 60)
    assert [r["method"] for r in report["methods"]] == [method, "lora"][: 1 + (method != "lora")]


@pytest.mark.parametrize(
    ("method", "rank", "trained", "blocks"),
    [
        ("adapter_h", 64, 6_343_680, ["attn_block", "ffn_block"]),  # 6M, arXiv 2106.09685
        ("adapter_h", 8, 835_968, ["attn_block", "ffn_block"]),  # 0.8M
        ("adapter_p", 64, 3_171_840, ["norm_block"]),  # 3M
        ("adapter_p", 16, 811_392, ["norm_block"]),  # 0.8M
    ],
)
def test_bottlenecks_count_blocks_of_the_models_width(capsys, method, rank, trained, blocks):
    report = counted(capsys, "--model", "roberta-large", "--rank", str(rank), "--method", method)
    ours, lora = report["methods"]
    assert (ours["trained"], ours["stored"], ours["frozen_random"]) == (trained, trained, 0)
    assert [entry["name"].rpartition(".")[2] for entry in report["matrices"]] == blocks
    assert {tuple(entry["shape"]) for entry in report["matrices"]} == {(1024, 1024)}
    assert lora["trained"] == 48 * rank * 2048  # on query and value
    arguments = ["--model", "gpt2", "--rank", "4", "--method", method]
    one = counted(capsys, *arguments, "--targets", "ffn_block")["methods"][0]["trained"]
    assert one == 12 * (2 * 768 * 4 + 4 + 768)
    assert main(["count", *arguments]) == 0
    out = capsys.readouterr().out
    assert f"rank 4, {12 * len(blocks)} blocks" in out
    assert "LoRA of the same rank on query and value trains" in out


def test_the_table_says_where_frozen_factors_come_from(capsys):
    assert main(["count", "--model", "gpt2", "--rank", "4", "--method", "lora_xs"]) == 0
    assert "lora_xs takes its frozen factors from W0: a file holds them too" in capsys.readouterr().out


BAD = {
    "--model roberta-larg": "expected one of roberta-base, roberta-large",
    "--model gpt2 --layers 3": "either --model, or both --layers and --width",
    "--layers 3": "either --model, or both --layers and --width",
    "--layers 0 --width 4": "expected whole numbers, at least 1",
    "--model gpt2 --targets querry": "target 'querry' matches nothing; the nearest names are query",
    "--model gpt2 --targets ,": "target '' matches nothing",
    "--model gpt2 --rank 0": "rank is 0, expected a whole number",
    "--model gpt2 --rank 769": r"--rank is 769, larger than min(I, O) = 768 of attn.c_attn",
    "--model gpt2 --method nora": "method is 'nora', expected one of tlora",
    "--model gpt2 --method adapter_h --targets query": "unknown target 'query' for adapter_h, expected some of",
    "--model gpt2 --method adapter_p --rank 769": r"--rank is 769, larger than min(I, O) = 768 of norm_block",
}


@pytest.mark.parametrize("arguments", BAD)
def test_what_cannot_be_counted_is_refused_with_exit_code_2(capsys, arguments):
    assert main(["count", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert BAD[arguments] in captured.err
    assert captured.out == ""


def transformers_model(name):
    """The model as transformers builds it from the published configuration, without numbers."""
    import transformers as t

    roberta = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    seventy = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
               "intermediate_size": 28672}  # fmt: skip
    build = {
        "roberta-base": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**roberta)),
        "roberta-large": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**roberta, **large)),
        "bert-base": lambda: t.BertForSequenceClassification(t.BertConfig()),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config()),
        "llama-2-7b": lambda: t.LlamaForCausalLM(t.LlamaConfig()),
        "llama-2-70b": lambda: t.LlamaForCausalLM(t.LlamaConfig(**seventy)),
        "vit-b": lambda: t.ViTForImageClassification(t.ViTConfig()),
    }
    with torch.device("meta"):
        return build[name]()


@pytest.mark.parametrize("name", KNOWN)
def test_known_shapes_are_those_of_the_models_transformers_builds(name):
    shape, model = KNOWN[name], transformers_model(name)
    expected = {
        f"{shape.prefix}.{layer}.{linear.name}": linear.shape for layer in range(shape.layers) for linear in shape.block
    }
    import re

    told = inject(model, (re.compile(rf"{re.escape(shape.prefix)}\.\d+\..*({'|'.join(ends(shape))})"),), rank=2)
    assert dict(told.matrices) == expected
    assert model.config.num_attention_heads == shape.heads
    linears = chosen(shape, ("query", "value"))
    assert all({"query", "value"} & set(linear.roles) for linear in linears)


def ends(shape):
    """The last part of every name, so that a layer missing in the table would be matched all the same."""
    return sorted({linear.name.rpartition(".")[2] for linear in shape.block})


def test_a_folder_with_a_config_is_counted_without_weights(tmp_path, capsys):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 3}
    LlamaConfig(vocab_size=20, architectures=["LlamaForCausalLM"], **sizes).save_pretrained(tmp_path)
    assert main(["count", "--model", str(tmp_path), "--rank", "4", "--targets", "q_proj,v_proj"]) == 0
    out = capsys.readouterr().out
    for expected in ("a LlamaForCausalLM:", "3 x model.layers.*.self_attn.q_proj  8 x 8", f"{6 * 17:,}"):
        assert expected in out
    assert main(["count", "--model", str(tmp_path), "--rank", "4", "--targets", "query"]) == 2
    assert "target 'query' matches nothing" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert main(["count", "--model", str(tmp_path)]) == 2
    assert "transformers builds no model from its config.json" in capsys.readouterr().err
