"""GLUE: every task's data, the whole command on generated data, resuming after a kill, and several processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tiny_glue import examples, write_dataset, write_model, write_tsv

from tlora_ref import InputError, TrainConfig
from tlora_ref.__main__ import main
from tlora_ref.by_autograd import load_adapter
from tlora_ref.by_autograd.inject import inject
from tlora_ref.counts import trained
from tlora_ref.known import KNOWN
from tlora_ref.lab.glue import model as glue_model
from tlora_ref.lab.glue.data import read, tokenize
from tlora_ref.lab.glue.distributed import Processes
from tlora_ref.lab.glue.metrics import score
from tlora_ref.lab.glue.model import head_names, load_base, load_tokenizer, positions, prepare
from tlora_ref.lab.glue.recipe import paper_recipe
from tlora_ref.lab.glue.run import Watch, best_epoch, evaluate, seed_everything
from tlora_ref.lab.glue.state import Record
from tlora_ref.lab.glue.tasks import TASKS
from tlora_ref.lab.jobs import glue as job
from tlora_ref.paper import TABLE_3, VALIDATION

pytestmark = pytest.mark.xdist_group("glue")  # its models are built once

ROOT = Path(__file__).parent.parent
HANGS = 600
"""Seconds after which a process that does not end is taken to hang."""

SIZES = {"train": 36, "dev": 13}
MRPC, COLA = TASKS["mrpc"], TASKS["cola"]
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """model (a head of three classes, dropout 0.1), dry (no dropout), body (no head); tsv and saved, every task's."""
    folder = tmp_path_factory.mktemp("glue")
    write_model(folder / "model")
    write_model(folder / "dry", dropout=0.0)
    write_model(folder / "body", body=True)
    for task in TASKS.values():
        write_tsv(folder / "tsv" / task.title, task, SIZES)
        write_dataset(folder / "saved" / task.name, task, SIZES)
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def offline(monkeypatch):
    """Whatever connects anywhere fails the test."""

    def refuse(*args):
        raise AssertionError(f"the network was asked for: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def words(disk, out, **options):
    """The command line: a short run on MRPC, and what differs."""
    chosen = {
        "task": "mrpc", "model": disk / "model", "data": disk / "tsv", "rank": 4, "max-length": 40, "epochs": 3,
        "batch-size": 8, "lr": 0.01, "device": "cpu", "out": out,
    } | {name.replace("_", "-"): value for name, value in options.items()}  # fmt: skip
    return ["glue", *(word for name, value in chosen.items() for word in (f"--{name}", str(value)))]


def run(disk, out, **options):
    """The record of seed 0's run."""
    assert main(words(disk, out, **options)) == 0
    return json.loads((Path(out) / "glue.json").read_text())["runs"][0]


def without_seconds(record):
    return record["loss"], [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in record["epochs"]]


def arrays(folder, name="checkpoint"):
    """Every array of one of seed 0's files, by name, as bytes."""
    found = safetensors.torch.load_file(folder / "seed-0" / f"{name}.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


def state(out):
    """What the checkpoint of seed 0 holds beside arrays."""
    with safetensors.safe_open(out / "seed-0" / "checkpoint.safetensors", "pt") as file:
        return json.loads(file.metadata()["tlora_ref_run"])


def environment():
    """For a process of its own."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


def everything_in(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


# --- data ----------------------------------------------------------------------------------------


@every_task
def test_every_task_reads_the_same_from_each_format(disk, task, offline):
    written = {"train": examples(task, 36, 0), "validation": examples(task, 13, 0)}
    for where in (disk / "tsv", disk / "tsv" / task.title, disk / "saved" / task.name):
        parts = read(task, str(where))
        for part, expected in written.items():
            assert list(zip(parts[part].texts, parts[part].labels_N.tolist(), strict=True)) == expected


def test_a_name_is_fetched_from_the_hub_as_glue_is_there(disk, monkeypatch):
    import datasets

    saved = {task.name: datasets.load_from_disk(str(disk / "saved" / task.name)) for task in TASKS.values()}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, part: saved[part] if name == "glue" else None)
    for task in TASKS.values():
        assert read(task, "glue")["train"].texts == read(task, str(disk / "tsv"))["train"].texts


def test_mrpc_as_microsoft_distributes_it(tmp_path):
    rows = examples(MRPC, 20, 0)
    write_tsv(tmp_path, MRPC, {"train": 20})
    (tmp_path / "train.tsv").rename(tmp_path / "msr_paraphrase_train.txt")
    with pytest.raises(InputError, match=r"dev_ids\.tsv: cannot be read"):
        read(MRPC, str(tmp_path))
    (tmp_path / "dev_ids.tsv").write_text("3\t3\n7\t7\n16\t16\n")
    parts = read(MRPC, str(tmp_path))
    found = list(zip(parts["validation"].texts, parts["validation"].labels_N.tolist(), strict=True))
    assert found == [rows[3], rows[7], rows[16]]
    assert parts["train"].texts == [texts for i, (texts, _) in enumerate(rows) if i not in (3, 7, 16)]


def test_the_sizes_are_those_of_the_audit():
    assert {task.title: task.validation for task in TASKS.values() if task is not COLA} == VALIDATION
    assert VALIDATION == {"SST-2": 872, "QNLI": 5_463, "RTE": 277, "MRPC": 408}  # GLUE, as distributed


DAMAGE = {
    "a missing file": ("mrpc", "dev.tsv", None, r"dev\.tsv: cannot be read: No such file"),
    "a label outside": ("rte", "train.tsv", (b"\tentailment", b"\tneutral"),
                        r"train\.tsv, line \d+: the label is 'neutral', expected one of entailment, not_entailment"),
    "a number outside": ("cola", "dev.tsv", (b"\t1\t", b"\t2\t"),
                         r"dev\.tsv, line \d+: the label is '2', expected one of 0, 1"),
    "another header": ("qnli", "train.tsv", (b"question", b"premise"),
                       r"columns are index, premise.*'question' is missing"),
    "a short line": ("sst2", "dev.tsv", (b"\t1\n", b"\n"), r"dev\.tsv, line \d+: 1 columns, expected 2"),
    "another encoding": ("mrpc", "train.tsv", ("é".encode(), b"\xe9"), r"train\.tsv: not UTF-8 at byte \d+"),
    "no line": ("sst2", "dev.tsv", (b"", b""), r"no example|line 2: 1 columns"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_file_is_named(tmp_path, damage):
    name, file, change, message = DAMAGE[damage]
    folder = write_tsv(tmp_path / "data", TASKS[name], {"train": 12, "dev": 6})
    if change is None:
        (folder / file).unlink()
    elif damage == "no line":
        (folder / file).write_bytes((folder / file).read_bytes().split(b"\n")[0] + b"\n")
    else:
        before = (folder / file).read_bytes()
        (folder / file).write_bytes(before.replace(*change))
        assert (folder / file).read_bytes() != before
    with pytest.raises(InputError, match=message) as error:
        read(TASKS[name], str(folder))
    assert "\n" not in str(error.value)


def test_a_dataset_that_is_not_the_tasks_is_refused(disk, tmp_path):
    with pytest.raises(InputError, match=r"RTE's 'sentence1' is missing"):
        read(TASKS["rte"], str(disk / "saved" / "qnli"))
    from datasets import load_from_disk

    whole = load_from_disk(str(disk / "saved" / "sst2"))
    whole["validation"] = whole["test"]
    whole.save_to_disk(str(tmp_path / "a"))
    with pytest.raises(InputError, match=r"validation, row 0: the label is -1, expected one of 0, 1 in SST-2"):
        read(TASKS["sst2"], str(tmp_path / "a"))
    del whole["validation"]
    whole.save_to_disk(str(tmp_path / "b"))
    with pytest.raises(InputError, match=r"has no part 'validation', only train, test"):
        read(TASKS["sst2"], str(tmp_path / "b"))


def test_tokens_are_cut_to_the_length_and_their_fingerprint_tells_them_apart(disk):
    tokenizer, parts = load_tokenizer(str(disk / "model")), read(MRPC, str(disk / "tsv"))
    tokens = tokenize(tokenizer, parts["train"], 12)
    assert max(len(f["input_ids"]) for f in tokens.features) == 12
    assert tokenizer.decode(tokenize(tokenizer, parts["train"], 60).features[1]["input_ids"]).count("</s></s>") == 1
    other = replace(tokens, labels_N=1 - tokens.labels_N)
    marks = {t.fingerprint() for t in (tokens, other, tokenize(tokenizer, parts["train"], 13))}
    assert len(marks) == 3
    assert tokens.fingerprint() == tokenize(tokenizer, parts["train"], 12).fingerprint()


# --- metrics -------------------------------------------------------------------------------------


@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=2, max_size=30))
def test_metrics_are_glues_definitions(pairs):
    y, p = (np.array(column) for column in zip(*pairs, strict=True))
    tp, fp, fn = ((y == 1) & (p == 1)).sum(), ((y == 0) & (p == 1)).sum(), ((y == 1) & (p != 1)).sum()
    found = score(("accuracy", "f1", "matthews"), y, p)
    assert found["accuracy"] == pytest.approx((y == p).mean())
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)
    # Matthews' coefficient is the correlation of the two, where both are of two classes
    if set(p) == set(y) == {0, 1}:
        assert found["matthews"] == pytest.approx(np.corrcoef(y, p)[0, 1])


def test_the_best_epoch_is_the_first_of_equals():
    record = Record(epochs=[{"epoch": i, "accuracy": a} for i, a in enumerate((0.5, 0.7, 0.6, 0.7), 1)])
    assert best_epoch(record, "accuracy") == 2


# --- the model -----------------------------------------------------------------------------------


def tiny_recipe(**options):
    return paper_recipe(**{"task": "mrpc", "rank": 4, "max_length": 40} | options)


def test_the_defaults_are_the_papers_recipe():
    recipe = paper_recipe("mrpc")
    assert recipe.adapter.rank == 32
    assert recipe.adapter.targets == ("query", "value")
    assert (recipe.adapter.dropout, recipe.head, recipe.precision) == (0.5, "frozen", "fp32")
    assert recipe.train == TrainConfig(epochs=30, batch_size=32, lr=1e-3, weight_decay=0.01, warmup=0.06)
    lora = paper_recipe("mrpc", "lora", 8)
    assert (lora.adapter.dropout, lora.adapter.scale) == (0.0, 2.0)


@pytest.mark.parametrize(("method", "head"), [("tlora", "frozen"), ("lora", "trained"), ("vera", "new"),
                                              ("head", "trained"), ("full", "new")])  # fmt: skip
def test_what_trains_is_what_the_recipe_says(disk, method, head):
    recipe = tiny_recipe(method=method, head=head)
    model, _ = load_base(str(disk / "model"), recipe)
    names, classes = set(head_names(model)), model.get_parameter("classifier.out_proj.weight").shape[0]
    everything = {name for name, _ in model.named_parameters()}
    assert names == {f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")}
    assert classes == (2 if head == "new" else 3)
    prepare(model, recipe)
    train = {name for name, p in model.named_parameters() if p.requires_grad}
    assert train & names == (set() if head == "frozen" else names)
    if method == "full":
        assert train == everything
    elif method == "head":
        assert train == names
    else:
        assert {name.rpartition(".")[2] for name in train - names} == set(
            {"tlora": ["B", "alpha"], "lora": ["A", "B"], "vera": ["lambda_d", "lambda_b"]}[method]
        )
        assert len({name.rpartition(".")[0] for name in train - names}) == 4


def test_a_new_head_comes_from_the_seed_and_the_rest_from_the_folder(disk):
    def load(where, seed):
        return load_base(str(disk / where), tiny_recipe(method="head", head="new").at(seed))

    (a, mark), (b, same), (c, _) = load("model", 0), load("model", 0), load("model", 1)
    weight = "classifier.out_proj.weight"
    assert torch.equal(a.get_parameter(weight), b.get_parameter(weight))
    assert not torch.equal(a.get_parameter(weight), c.get_parameter(weight))
    assert mark == same != load_base(str(disk / "model"), tiny_recipe())[1]
    assert mark != load("body", 0)[1]
    body = "roberta.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(a.get_parameter(body), c.get_parameter(body))


def test_positions_are_what_the_model_takes(disk):
    model, _ = load_base(str(disk / "model"), tiny_recipe())
    assert positions(model) == 62
    model(input_ids=torch.full((1, 62), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 63), 7))


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.job
def test_the_command_prints_the_result_beside_the_papers(disk, tmp_path, capsys, offline):
    out = tmp_path / "out"
    assert main(words(disk, out, seeds=2)) == 0
    printed, report = capsys.readouterr(), json.loads((out / "glue.json").read_text())
    assert job.results_table(report) in printed.out
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    assert report["trained"] == trained("tlora", [(32, 32)] * 4, 4) == 68
    for name, row in TABLE_3.items():
        method, size = name.rsplit(" ", 1)
        assert re.search(rf"^paper: {method} +{re.escape(size)} +{row[3]}$", printed.out, re.M)
    best = [max(e["accuracy"] for e in run["epochs"]) for run in report["runs"]]
    last = [run["epochs"][-1]["f1"] for run in report["runs"]]
    assert report["scores"]["accuracy"]["best"]["mean"] == pytest.approx(np.mean(best))
    assert report["scores"]["f1"]["last"]["std"] == pytest.approx(np.std(last, ddof=1))
    assert re.search(r"^here: TLoRA r=4 +68 +\d+\.\d ± \d+\.\d ", printed.out, re.M)
    assert "Not a result on GLUE: these are 13 validation examples, GLUE's are 408." in printed.out
    assert len(re.findall(r"^seed [01], epoch \d/3: loss .* s left$", printed.err, re.M)) == 6
    assert "TLoRA of rank 4 on 4 matrices, dropout 0.5" in printed.err

    # again: nothing is trained, nothing changes, --json prints what the file holds
    before = everything_in(out)
    assert main([*words(disk, out, seeds=2), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == report
    assert "seed 1: was left after epoch 3/3 and is finished" in printed.err
    assert everything_in(out) == before


@pytest.mark.job
def test_the_files_hold_what_was_evaluated(disk, tmp_path):
    out = tmp_path / "out"
    run(disk, out, epochs=4, lr=0.1, head="trained", data=disk / "saved" / "sst2", task="sst2")
    report = json.loads((out / "glue.json").read_text())["runs"][0]
    recipe = tiny_recipe(task="sst2", head="trained")
    tokens = tokenize(load_tokenizer(str(disk / "model")), read(TASKS["sst2"], str(disk / "tsv"))["validation"], 40)
    for when in ("best", "last"):
        model, _ = load_base(str(disk / "model"), recipe)
        load_adapter(model, out / "seed-0" / f"{when}.safetensors")
        found = evaluate(model, load_tokenizer(str(disk / "model")), tokens, recipe, Processes(torch.device("cpu")))
        assert found["accuracy"] == report[when]["accuracy"]
        assert found["loss"] == pytest.approx(report[when]["loss"], rel=1e-6)


@pytest.mark.job
def test_a_model_learns(disk, tmp_path):
    found = run(disk, tmp_path / "out", task="cola", method="full", head="new", lr=3e-3, epochs=16)
    assert found["loss"][-1] < 0.5 * found["loss"][0]
    assert found["last"]["matthews"] == 1.0


SMALL = {"vocab_size": 340, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHERS = {
    "bert": (SMALL | {"intermediate_size": 48, "max_position_embeddings": 64}, "query,value", 4),
    "distilbert": ({"vocab_size": 340, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}, "q_lin,v_lin", 4),
    "gpt2": ({"vocab_size": 340, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 2,
              "pad_token_id": 1}, "c_attn", 2),
}  # fmt: skip


@pytest.mark.job
@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_than_roberta(disk, tmp_path, kind):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config, targets, matrices = OTHERS[kind]
    folder = tmp_path / kind
    AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **config)).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(disk / "model" / file, folder / file)
    found = run(disk, tmp_path / "out", model=folder, targets=targets, head="new", epochs=1)
    assert np.isfinite(found["loss"]).all()
    names = set(safetensors.torch.load_file(tmp_path / "out" / "seed-0" / "best.safetensors"))
    assert len([name for name in names if name.endswith(".alpha")]) == matrices
    assert len(names) > 2 * matrices


@pytest.mark.job
@pytest.mark.parametrize("method", ["tlora", "full"])
def test_the_losses_are_those_of_a_plain_loop(disk, tmp_path, method):
    """transformers' own loss, torch's AdamW and a schedule written out, without dropout."""
    found = run(disk, tmp_path / "out", method=method, model=disk / "dry", dropout=0, lr=2e-3, epochs=4, warmup=0.3)
    recipe = tiny_recipe(method=method, dropout=0.0)
    model, _ = load_base(str(disk / "dry"), recipe)
    if method == "tlora":
        inject(model, rank=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (s + 1) / 6 if s < 6 else (20 - s) / (20 - 6))
    tokenizer, parts = load_tokenizer(str(disk / "dry")), read(MRPC, str(disk / "tsv"))
    draw, losses = np.random.default_rng([0, 0]), []
    for _ in range(4):
        order = draw.permutation(36)
        for start in range(0, 36, 8):
            chosen = order[start : start + 8]
            texts = [[parts["train"].texts[i][k] for i in chosen] for k in (0, 1)]
            inputs = tokenizer(*texts, padding=True, return_tensors="pt")
            loss = model(**inputs, labels=torch.from_numpy(parts["train"].labels_N[chosen])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    np.testing.assert_allclose(found["loss"], losses, rtol=2e-6)
    assert abs(losses[-1] - losses[0]) > 1e-4


@pytest.mark.job
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_is_near_single_precision_and_not_it(disk, tmp_path, precision):
    options = {"model": disk / "dry", "dropout": 0, "method": "full", "lr": 1e-3, "epochs": 2}
    half = run(disk, tmp_path / precision, precision=precision, **options)
    single = run(disk, tmp_path / "fp32", **options)
    np.testing.assert_allclose(half["loss"], single["loss"], rtol=0.02)
    assert half["loss"] != single["loss"]
    stored = safetensors.torch.load_file(tmp_path / precision / "seed-0" / "last.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_a_gradient_scaler_is_used_in_fp16_alone(disk, tmp_path):
    for precision, used in (("fp16", True), ("bf16", False)):
        run(disk, tmp_path / precision, precision=precision, epochs=1)
        scaler = state(tmp_path / precision)["scaler"]
        assert bool(scaler) == used
        if used:
            assert scaler["_growth_tracker"] == 5


WRONG = {
    "an unknown task": ({"task": "mnli2"}, "--task is 'mnli2', expected one of mrpc, rte, qnli, sst2, cola"),
    "an unknown method": ({"method": "adapter_h"}, "--method is 'adapter_h', expected one of tlora, lora"),
    "an unknown head": ({"head": "big"}, "--head is 'big', expected one of frozen, trained, new"),
    "a frozen head alone": ({"method": "head", "head": "frozen"},
                            "expected trained or new: --method head trains the head"),
    "an unknown precision": ({"precision": "fp8"}, "--precision is 'fp8', expected one of fp32, bf16, fp16"),
    "no such data": ({"data": "/no/such/folder"}, "--data '/no/such/folder' is no folder here"),
    "data of another kind": ({"data": "{disk}/model"}, "holds neither train.tsv and dev.tsv nor a dataset"),
    "no such model": ({"model": "./no-such-folder"}, "--model './no-such-folder' is no folder here"),
    "a file for a model": ({"model": "{disk}/model/config.json"}, "config.json is a file, expected a folder"),
    "a folder without a model": ({"model": "{disk}/tsv"}, "--model '{disk}/tsv' cannot be used: "),
    "no head": ({"model": "{disk}/body"},
                "has no classification head (classifier.dense.bias is missing); add --head new"),
    "no such target": ({"targets": "query,q_proj"}, "target 'q_proj' matches nothing; the nearest names are"),
    "too large a rank": ({"rank": 33}, "rank 33 is larger than min(I, O) = 32"),
    "too many tokens": ({"max_length": 63}, "--max-length is 63, expected at most 62, the positions of"),
    "no seed": ({"seeds": 0}, "--seeds is 0, expected at least 1"),
    "a negative seed": ({"seed": -1}, "seed is -1, expected a whole number, at least 0"),
    "no such device": ({"device": "gpu"}, "--device is 'gpu', expected cpu, cuda or cuda:NUMBER"),
    "no such GPU": ({"device": "cuda:99"}, "--device is 'cuda:99' number 99, and there are"),
    "a rate of -1": ({"lr": -1}, "lr is -1.0, expected a finite number, at least 0"),
    "dropout 1": ({"dropout": 1}, "dropout is 1.0, expected a number in [0, 1)"),
    "out in a file": ({"out": "{disk}/model/config.json"}, "cannot write to the output folder"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_cannot_be_run_is_one_sentence_and_leaves_nothing(disk, tmp_path, capsys, monkeypatch, offline, wrong):
    options, message = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    options = {name: str(value).format(disk=disk) for name, value in options.items()}
    before = everything_in(disk)
    assert main(words(disk, **{"out": tmp_path / "out"} | options)) == 2
    printed = capsys.readouterr()
    said = [line for line in printed.err.splitlines() if line.startswith("tlora-ref glue: ")]
    assert len(said) == 1
    assert message.format(disk=disk) in said[0]
    assert not printed.out
    assert not any(tmp_path.iterdir())
    assert everything_in(disk) == before


def test_a_head_that_is_too_small_and_missing_weights_are_refused(disk, tmp_path):
    small = write_model(tmp_path / "small", classes=1)
    with pytest.raises(InputError, match="has a head of 1 classes, MRPC has 2; add --head new"):
        load_base(str(small), tiny_recipe())
    tensors = safetensors.torch.load_file(small / "model.safetensors")
    name = "roberta.encoder.layer.1.output.dense.bias"
    del tensors[name]
    safetensors.torch.save_file(tensors, small / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"lacks weights: {name}"):
        load_base(str(small), tiny_recipe(head="new"))
    (small / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be used"):
        load_base(str(small), tiny_recipe())


def test_a_tokenizer_that_cannot_pad_is_refused(disk, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(str(disk / "model"))
    tokenizer.pad_token = None
    monkeypatch.setattr(glue_model, "_from_pretrained", lambda *args: tokenizer)
    with pytest.raises(InputError, match="its tokenizer has no padding token"):
        load_tokenizer(str(disk / "model"))


@pytest.mark.parametrize("what", ["model", "data"])
def test_a_name_that_cannot_be_fetched_is_one_sentence(disk, tmp_path, capsys, monkeypatch, what):
    """Offline, as HF_HUB_OFFLINE makes the libraries when they are imported, so that they refuse at once."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert main(words(disk, tmp_path / "out", **{what: "none/such"})) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"tlora-ref glue: --{what} 'none/such' is neither a folder here nor a " in line
    assert not (tmp_path / "out").exists()


# --- a folder of another run ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(disk, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    run(disk, out, epochs=1)
    return out


@pytest.mark.job
@pytest.mark.parametrize(("options", "key"), [
    ({"lr": 0.02}, "lr is 0.01 there and 0.02 here"),
    ({"rank": 2}, "rank is 4 there and 2 here"),
    ({"method": "head"}, "method is 'tlora' there and 'head' here"),
    ({"task": "rte"}, "task is 'mrpc' there and 'rte' here"),
    ({"epochs": 2}, "epochs is 1 there and 2 here"),
    ({"max-length": 20}, "max_length is 40 there and 20 here"),
    ({"precision": "bf16"}, "precision is 'fp32' there and 'bf16' here"),
    ({"model": "{disk}/other"}, "model is '"),
    ({"data": "{disk}/other-data"}, "train data is '"),
    ({"seed": 1, "lr": 0.02}, "lr is 0.01 there and 0.02 here"),
])  # fmt: skip
def test_a_folder_of_another_run_is_refused_and_left_as_it_is(disk, finished, capsys, options, key):
    if "other" in str(options) and not (disk / "other").exists():
        write_model(disk / "other", dropout=0.2)
        tensors = safetensors.torch.load_file(disk / "other" / "model.safetensors")
        tensors["classifier.out_proj.bias"] += 1e-3
        safetensors.torch.save_file(tensors, disk / "other" / "model.safetensors", {"format": "pt"})
        write_tsv(disk / "other-data", MRPC, {"train": 37, "dev": 13})
    before = everything_in(finished)
    options = {name: str(value).format(disk=disk) for name, value in {"epochs": 1, **options}.items()}
    assert main(words(disk, finished, **options)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "recipe.json is of another run: " + key in error
    assert error.endswith("choose another --out")
    assert everything_in(finished) == before


@pytest.mark.job
def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(disk, finished, tmp_path, capsys):
    for content, message in (
        (
            (finished / "seed-0" / "checkpoint.safetensors").read_bytes(),
            "is of another run: seed is 0 there and 3 here",
        ),
        (b"\x08\x00\x00", "truncated, damaged or no safetensors file"),
        ((finished / "seed-0" / "best.safetensors").read_bytes(), "but not a checkpoint of a run"),
    ):
        folder = tmp_path / "out" / "seed-3"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.safetensors").write_bytes(content)
        assert main(words(disk, tmp_path / "out", seed=3, epochs=1)) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert (folder / "checkpoint.safetensors").read_bytes() == content
        assert not (tmp_path / "out" / "glue.json").exists()


# --- damaged and hostile folders -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["best", "last"])
@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_finished_seed_whose_files_are_gone_is_not_reported_as_having_them(disk, finished, tmp_path, name, damage):
    shutil.copytree(finished, tmp_path / "out")
    file = tmp_path / "out" / "seed-0" / f"{name}.safetensors"
    before = file.read_bytes()
    file.unlink()
    if damage == "cut off":
        file.write_bytes(before[:-9])
    run(disk, tmp_path / "out", epochs=1)
    # of one epoch, so the checkpoint still has the numbers
    assert file.read_bytes() == before


def test_the_file_of_an_earlier_epoch_that_is_gone_is_not_made_up(disk, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tlora_ref.lab.glue.run.best_epoch", lambda record, metric: 1)
    run(disk, tmp_path / "out", epochs=2)
    (tmp_path / "out" / "seed-0" / "best.safetensors").unlink()
    assert main(words(disk, tmp_path / "out", epochs=2)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "best.safetensors, of epoch 1, is gone or damaged and cannot be made again: move" in error
    assert not (tmp_path / "out" / "seed-0" / "best.safetensors").exists()


def test_a_first_run_that_failed_does_not_refuse_the_corrected_command(disk, tmp_path):
    assert main(words(disk, tmp_path / "out", method="full", lr=1e30, epochs=1)) == 2
    run(disk, tmp_path / "out", method="full", lr=1e-3, epochs=1)


def nothing_but_a_pipe(path):
    os.mkfifo(path)


def nothing_but_a_folder(path):
    path.mkdir()


def nothing_but_noise(path):
    path.write_bytes(b"\xff\x00" * 500)


def nothing_but_brackets(path):
    path.write_bytes(b"[" * 100_000)


@pytest.mark.parametrize("make", [nothing_but_a_pipe, nothing_but_a_folder, nothing_but_noise, nothing_but_brackets])
@pytest.mark.parametrize("place", ["seed-0/checkpoint.safetensors", "recipe.json", "glue.json", "seed-0"])
def test_a_hostile_folder_for_results_is_refused_in_a_sentence(disk, finished, tmp_path, capsys, place, make):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    path = out / place
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)
    file_in_place = make in (nothing_but_noise, nothing_but_brackets)
    if (place == "glue.json" and file_in_place) or (place == "seed-0" and make is nothing_but_a_folder):
        assert main(words(disk, out, epochs=1)) == 0  # results are written again, and so is an empty folder filled
        return
    assert main(words(disk, out, epochs=1)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("tlora-ref glue: ")
    assert str(out) in lines[-1]


@pytest.mark.parametrize("make", [nothing_but_a_pipe, nothing_but_a_folder, nothing_but_noise, nothing_but_brackets])
@pytest.mark.parametrize("place", [
    "model/config.json", "model/model.safetensors", "model/tokenizer.json", "tsv/MRPC/train.tsv", "tsv/MRPC/dev.tsv",
    "saved/mrpc/dataset_dict.json", "saved/mrpc/train/state.json", "saved/mrpc/train/dataset_info.json",
])  # fmt: skip
def test_a_hostile_model_or_dataset_is_refused_in_a_sentence(disk, tmp_path, capsys, place, make):
    for part in ("model", "tsv/MRPC", "saved/mrpc"):
        shutil.copytree(disk / part, tmp_path / part)
    path = tmp_path / place
    path.unlink()
    make(path)
    data = tmp_path / ("saved/mrpc" if place.startswith("saved") else "tsv")
    assert main(words(disk, tmp_path / "out", model=tmp_path / "model", data=data, epochs=1)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("tlora-ref glue: ")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_ends_the_run_before_its_checkpoint(disk, tmp_path, capsys):
    assert main(words(disk, tmp_path / "out", method="full", lr=1e30)) == 2
    assert re.search(r"training stopped: the loss of step \d is nan, at learning rate", capsys.readouterr().err)
    assert not (tmp_path / "out" / "seed-0" / "checkpoint.safetensors").exists()


# --- going on ------------------------------------------------------------------------------------


def test_every_seed_epoch_and_process_has_its_own_masks():
    drawn = set()
    for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        seed_everything(*numbers)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 4


class Stop(Watch):
    """An interruption in the middle of an epoch."""

    def __init__(self, at):
        self.at = at

    def step(self, done):
        if done == self.at:
            raise KeyboardInterrupt


def interrupted(disk, out, monkeypatch, at, **options):
    """A run that is interrupted after each of the steps ``at`` and started again, and its record."""
    for step in at:
        with monkeypatch.context() as patch:
            patch.setattr(job, "_watch", lambda *args, step=step: Stop(step))
            assert main(words(disk, out, **options)) == 130
    return run(disk, out, **options)


@pytest.mark.job
@pytest.mark.parametrize(("method", "precision", "head"), [
    ("tlora", "fp32", "frozen"), ("lora", "bf16", "trained"), ("full", "fp16", "new"), ("head", "fp32", "trained"),
])  # fmt: skip
def test_an_interrupted_run_ends_in_the_same_bits(disk, tmp_path, monkeypatch, method, precision, head):
    """With dropout, in the model and on the update."""
    options = {"method": method, "precision": precision, "head": head, "dropout": 0.3, "epochs": 4}
    whole = run(disk, tmp_path / "whole", **options)
    # in the first epoch, at the very end of the second, in the third
    parts = interrupted(disk, tmp_path / "parts", monkeypatch, (3, 10, 12), **options)
    assert without_seconds(parts) == without_seconds(whole)
    for name in ("checkpoint", "best", "last"):
        assert arrays(tmp_path / "parts", name) == arrays(tmp_path / "whole", name)
    assert state(tmp_path / "parts")["scaler"] == state(tmp_path / "whole")["scaler"]
    losses = np.reshape(whole["loss"], (4, 5))
    assert len({tuple(np.round(row, 4)) for row in losses}) == 4


def started(command, out):
    """The command's process, once it has left its first checkpoint and while it has epochs to go."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoint, deadline = Path(out) / "seed-0" / "checkpoint.safetensors", time.monotonic() + HANGS
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no checkpoint after {HANGS} s"
        time.sleep(0.005)
    return process


def epochs_left_by(out):
    return len(state(out)["record"]["epochs"])


@pytest.mark.job
def test_a_killed_process_goes_on_to_the_losses_of_one_that_was_not(disk, tmp_path, capsys):
    options = {"epochs": 30, "method": "lora", "dropout": 0.3}
    whole = run(disk, tmp_path / "whole", **options)
    command = [sys.executable, "-m", "tlora_ref", *words(disk, tmp_path / "killed", **options)]
    process = started(command, tmp_path / "killed")
    process.kill()
    process.communicate(timeout=HANGS)
    assert process.returncode == -signal.SIGKILL
    left = epochs_left_by(tmp_path / "killed")
    assert 1 <= left < 30
    capsys.readouterr()
    after = run(disk, tmp_path / "killed", **options)
    assert f"seed 0: was left after epoch {left}/30, and goes on from there" in capsys.readouterr().err
    assert without_seconds(after) == without_seconds(whole)
    assert arrays(tmp_path / "killed") == arrays(tmp_path / "whole")


# --- several processes ---------------------------------------------------------------------------


@given(n=st.integers(0, 20), count=st.integers(1, 5))
def test_every_example_is_in_one_share(n, count):
    shares = [Processes(torch.device("cpu"), rank, count).share(np.arange(n)) for rank in range(count)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.distributed
def test_two_processes_are_one_and_a_lost_one_ends_the_run_which_then_goes_on(disk, tmp_path):
    """Without dropout, whose masks depend on the process; shares are of 4 and 3 examples, and of 1 and 0 in an epoch's
    last batch."""
    options = {"batch-size": 7, "epochs": 30, "model": disk / "dry", "dropout": 0, "lr": 3e-3, "head": "trained"}
    out = tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tlora_ref", *words(disk, out, **options)]
    process = started(command, out)
    ranks = {child.environ()["RANK"]: child for child in psutil.Process(process.pid).children()}
    ranks["1"].kill()
    _, error = process.communicate(timeout=HANGS)
    assert process.returncode not in (0, None)
    assert "exitcode  : -9" in error
    left = epochs_left_by(out)
    assert 1 <= left < 30
    assert not (out / "glue.json").exists()

    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=HANGS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("here: TLoRA r=4") == 1
    assert f"seed 0: was left after epoch {left}/30, and goes on from there" in result.stderr
    both, one = json.loads((out / "glue.json").read_text()), run(disk, tmp_path / "one", **options)
    assert (both["processes"], both["exchanged_bytes"]) == (2, 4 * both["trained"])
    two = both["runs"][0]
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=2e-6)
    for a, b in zip(two["epochs"], one["epochs"], strict=True):
        assert (a["accuracy"], a["f1"]) == (b["accuracy"], b["f1"])
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-6)
    found, expected = (
        safetensors.torch.load_file(f / "seed-0" / "checkpoint.safetensors") for f in (out, tmp_path / "one")
    )
    assert set(found) == set(expected)
    moved = 0
    for name in expected:
        if "/" not in name:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=2e-6)
            moved = max(moved, expected[name].abs().max().item() if name.endswith(".B") else 0)
    assert moved > 0.01


@pytest.fixture
def alone(offline):
    """A group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Processes(torch.device("cpu"))
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize(("method", "n_bytes"), [("tlora", 196_800), ("lora", 12_582_912)])
def test_a_step_exchanges_the_gradients_of_what_trains_and_no_more(alone, method, n_bytes):
    """RoBERTa-large's adapted matrices; of the rest, which is frozen and never sent, as little as can be."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shape = KNOWN["roberta-large"]
    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig(
            vocab_size=9, hidden_size=1024, num_hidden_layers=shape.layers, num_attention_heads=16,
            intermediate_size=1, max_position_embeddings=8, type_vocab_size=1,
        ))  # fmt: skip
        matrices = inject(model, rank=32, method=method).matrices
    model = model.to_empty(device="cpu")
    model.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()})
    # no state dict has the model's own indices, and to_empty leaves in them what the memory held
    for name, buffer in model.named_buffers():
        if name.endswith("_ids"):
            buffer.zero_()
    assert n_bytes == 4 * trained(method, matrices.values(), 32)
    assert len(matrices) == 2 * shape.layers
    held = []

    def hook(_, bucket):
        held.append(bucket.buffer().nbytes)
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])

    wrapped = alone.wrap(model.train())
    wrapped.register_comm_hook(None, hook)

    def step():
        held.clear()
        wrapped(input_ids=torch.full((1, 3), 5)).logits.sum().backward()
        assert sum(held) == n_bytes

    step()
    step()
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    sent = [(e.name, np.prod(e.input_shapes[0], dtype=int)) for e in profile.events() if e.name.startswith("gloo:")]
    # in the first steps the reducer also agrees on its buckets
    assert {name for name, _ in sent} == {"gloo:all_reduce"}
    assert 4 * sum(n for _, n in sent) == n_bytes


@pytest.mark.distributed
def test_processes_that_see_different_checkpoints_do_not_start(alone, monkeypatch):
    alone.agree(3)
    monkeypatch.setattr(dist, "all_reduce", lambda span, op: span.copy_(torch.tensor([3, -2])))
    with pytest.raises(InputError, match="read checkpoints of 2 and of 3 epochs"):
        alone.agree(3)


@pytest.mark.job
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_a_run_is_near_the_cpus_and_goes_on_to_the_same_bits(disk, tmp_path, monkeypatch, precision):
    options = {"model": disk / "dry", "dropout": 0, "lr": 1e-3, "precision": precision}
    whole = run(disk, tmp_path / "whole", device="cuda", **options)
    parts = interrupted(disk, tmp_path / "parts", monkeypatch, (7,), device="cuda", **options)
    assert without_seconds(parts) == without_seconds(whole)
    cpu = run(disk, tmp_path / "cpu", **options | {"precision": "fp32"})
    np.testing.assert_allclose(whole["loss"], cpu["loss"], rtol=1e-4 if precision == "fp32" else 0.02)
