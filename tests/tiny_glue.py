"""A small random RoBERTa with its tokenizer, and generated examples of every GLUE task, on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tlora_ref.lab.glue.tasks import TASKS, GlueTask

ANIMALS = ("cat", "dog", "horse", "crow", "toad")
VERBS = ("sees", "hears", "follows", "finds")
ENDS = ('the "old" house', "a river", "the moon, slowly", "caf\u00e9\u2028tables", "nothing")


def examples(task: GlueTask, n: int, seed: int) -> list[tuple[tuple[str, ...], int]]:
    """(texts, label): pairs are of label 1 where both are of one animal, sentences where the animal is a cat. Texts
    hold quotation marks, commas and a line separator of Unicode."""
    rng = np.random.default_rng([seed, n])
    found = []
    for i in range(n):
        first, second = rng.choice(ANIMALS, 2, replace=False)
        label = i % 2
        if len(task.texts) == 1:
            first = "cat" if label else rng.choice(ANIMALS[1:])
        subjects = (first, first if label else second)[: len(task.texts)]
        ends = rng.choice(ENDS, 2)
        texts = tuple(f"The {s} {rng.choice(VERBS)} {end}." for s, end in zip(subjects, ends, strict=False))
        found.append((texts, label))
    return found


def write_tsv(folder: Path, task: GlueTask, sizes: dict[str, int]) -> Path:
    """train.tsv and dev.tsv as GLUE has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in sizes.items():
        lines = ["\t".join(task.columns)] if task.header else []
        for i, (texts, label) in enumerate(examples(task, n, 0)):
            cells = dict.fromkeys(task.columns, str(i)) | dict(zip(task.tsv_texts, texts, strict=True))
            cells[task.tsv_label] = task.written[label]
            lines.append("\t".join(cells[column] for column in task.columns))
        bom = "\ufeff" if task.name == "mrpc" else ""
        (folder / f"{name}.tsv").write_bytes((bom + "\n".join(lines) + "\n").encode())
    return folder


def write_dataset(folder: Path, task: GlueTask, sizes: dict[str, int]) -> Path:
    """The same examples by ``datasets``, as "glue" has them on the hub, its unlabelled test part included."""
    from datasets import ClassLabel, Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    parts = {}
    for part, n in {"train": sizes["train"], "validation": sizes["dev"], "test": 3}.items():
        made = examples(task, n, 0)
        columns = {name: [texts[i] for texts, _ in made] for i, name in enumerate(task.texts)}
        labels = [-1 if part == "test" else label for _, label in made]
        table = Dataset.from_dict({**columns, "label": labels, "idx": list(range(n))})
        parts[part] = table.cast_column("label", ClassLabel(names=list(task.labels)))
    DatasetDict(parts).save_to_disk(str(folder))
    return folder


def write_model(folder: Path, classes: int = 3, dropout: float = 0.1, body: bool = False) -> Path:
    """A RoBERTa of two layers with a head of ``classes`` (``body``: without a head) and a byte-level BPE tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification, RobertaModel
    from transformers.utils import logging

    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special |= {"mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}
    bpe = ByteLevelBPETokenizer()
    texts = (text for task in TASKS.values() for both, _ in examples(task, 200, 1) for text in both)
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(texts, vocab_size=340, special_tokens=names, show_progress=False)
    inner = bpe._tokenizer
    inner.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=62, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=340, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, type_vocab_size=1, num_labels=classes, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    logging.disable_progress_bar()
    (RobertaModel if body else RobertaForSequenceClassification)(config).save_pretrained(folder)
    logging.enable_progress_bar()
    return folder
