"""The examples of a GLUE task, from GLUE's own TSV files, from a saved dataset, or by name; and as tokens.

Formats     a folder with train.tsv and dev.tsv, or with MRPC's original msr_paraphrase_train.txt and GLUE's
            dev_ids.tsv beside it; or the folder above it, as GLUE's archive unpacks (glue_data/MRPC/...)
            a folder that ``datasets`` wrote with save_to_disk, with the parts "train" and "validation"
            a name on the Hugging Face hub, such as "glue": the only one that needs a network
Checked by  tests/test_glue.py.

GLUE's files are tab-separated without quoting: a quotation mark is text. Lines end at "\\n" alone, since sentences
hold other characters that Unicode counts as line ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ...files import kind_of
from ...shapes import InputError
from .tasks import GlueTask

PARTS = ("train", "validation")
FILES = {"train": "train.tsv", "validation": "dev.tsv"}


@dataclass(frozen=True)
class Examples:
    """Texts, one or two each, and the numbers of their labels."""

    texts: list[tuple[str, ...]]
    labels_N: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def read(task: GlueTask, where: str) -> dict[str, Examples]:
    """The parts "train" and "validation". Raises InputError for what is not there, cannot be read, or holds a label
    that the task does not have."""
    if not is_folder("--data", where):
        return _by_name(task, where)
    for folder in (Path(where), Path(where) / task.title):
        if (folder / "train.tsv").exists() or (folder / "dev.tsv").exists():
            return {part: _read_tsv(task, folder / name) for part, name in FILES.items()}
        if task.name == "mrpc" and (folder / "msr_paraphrase_train.txt").exists():
            return _read_msr(task, folder)
        if (folder / "dataset_dict.json").exists():
            return _saved(task, folder)
    raise InputError(
        f"--data {where} holds neither train.tsv and dev.tsv nor a dataset that `datasets` saved, "
        f"and so does no folder {task.title} in it"
    )


def is_folder(argument: str, where: str) -> bool:
    """Is this a folder here, as opposed to a name on the hub? Raises InputError for a path that leads nowhere, and for
    a folder in which a file is a pipe or a device: whoever reads it would wait for ever."""
    try:
        if Path(where).is_dir():
            check_files(argument, Path(where))
            return True
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{argument} {where!r} is no folder here: {getattr(error, 'strerror', None) or error}"
        ) from None
    if Path(where).exists():
        raise InputError(f"{argument} {where} is a file, expected a folder")
    if where.startswith((".", "/", "~")) or where.count("/") > 1 or where.endswith("/") or not where:
        raise InputError(f"{argument} {where!r} is no folder here")
    return False


def check_files(argument: str, folder: Path) -> None:
    """Raise InputError if the folder holds anything but files and folders."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            if path.exists() and kind_of(path) not in (None, "a folder"):
                raise InputError(f"{argument} {folder}: {path} is {kind_of(path)}, expected a file")


# --- the formats ---------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _read_tsv(task: GlueTask, path: Path) -> Examples:
    lines, first = _lines(path), 1
    columns = list(task.columns)
    if task.header:
        columns, first = lines[0].split("\t"), 2
        missing = [name for name in (*task.tsv_texts, task.tsv_label) if name not in columns]
        if missing:
            raise InputError(f"{path}: its columns are {', '.join(columns)}; {task.title}'s {missing[0]!r} is missing")
    texts, labels = [], []
    for number, line in enumerate(lines[first - 1 :], first):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise InputError(f"{path}, line {number}: {len(cells)} columns, expected {len(columns)}")
        row = dict(zip(columns, cells, strict=True))
        texts.append(tuple(row[name] for name in task.tsv_texts))
        labels.append(_label(task, row[task.tsv_label], f"{path}, line {number}"))
    return _examples(texts, labels, str(path))


def _read_msr(task: GlueTask, folder: Path) -> dict[str, Examples]:
    """MRPC as Microsoft distributes it; GLUE's validation set is the pairs whose ids are in dev_ids.tsv."""
    whole = _read_tsv(task, folder / "msr_paraphrase_train.txt")
    columns, *rows = (line.split("\t") for line in _lines(folder / "msr_paraphrase_train.txt"))
    where = [columns.index(name) for name in ("#1 ID", "#2 ID")]
    held_out = {tuple(line.split("\t")) for line in _lines(folder / "dev_ids.tsv")}
    dev = np.array([tuple(row[i] for i in where) in held_out for row in rows])
    return {
        part: _examples([whole.texts[i] for i in np.flatnonzero(rows)], whole.labels_N[rows], f"{folder}: {part}")
        for part, rows in (("train", ~dev), ("validation", dev))
    }


def _saved(task: GlueTask, folder: Path) -> dict[str, Examples]:
    import datasets

    try:
        return _parts(task, datasets.load_from_disk(str(folder)), str(folder))
    except InputError:
        raise
    except Exception as error:  # a damaged folder may fail anywhere in it
        raise InputError(f"{folder} is no whole saved dataset: {first_line(error)}") from None


def _by_name(task: GlueTask, name: str) -> dict[str, Examples]:
    import datasets

    try:
        found = datasets.load_dataset(name, task.name)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--data {name!r} is neither a folder here nor a dataset that could be fetched: {first_line(error)}"
        ) from None
    return _parts(task, found, name)


def _parts(task: GlueTask, found: Mapping[str, Any], where: str) -> dict[str, Examples]:
    parts = {}
    for part in PARTS:
        if part not in found:
            raise InputError(f"{where} has no part {part!r}, only {', '.join(map(str, found))}")
        table = found[part]
        missing = [name for name in (*task.texts, "label") if name not in table.column_names]
        if missing:
            columns = ", ".join(table.column_names)
            raise InputError(f"{where}, {part}: its columns are {columns}; {task.title}'s {missing[0]!r} is missing")
        texts = list(zip(*(table[name] for name in task.texts), strict=True))
        labels = [_label(task, label, f"{where}, {part}, row {i}") for i, label in enumerate(table["label"])]
        parts[part] = _examples(texts, labels, f"{where}, {part}")
    return parts


def _label(task: GlueTask, given: Any, where: str) -> int:
    """The number of a label that is given as a number, by name, or as a TSV file writes it."""
    for names in (range(len(task.labels)), task.written, task.labels):
        if given in names:
            return names.index(given)
    raise InputError(f"{where}: the label is {given!r}, expected one of {', '.join(task.written)} in {task.title}")


def _examples(texts: Iterable[tuple[str, ...]], labels: Sequence[int], where: str) -> Examples:
    examples = Examples(list(texts), np.asarray(labels, dtype=np.int64))
    if not len(examples):
        raise InputError(f"{where}: no example")
    return examples


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- tokens --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Examples as a tokenizer made them: per example a list of ids by the name of a model's input."""

    features: list[dict[str, list[int]]]
    labels_N: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def fingerprint(self) -> str:
        """sha256 over every id and label: of the data, the tokenizer and the length that they were cut to."""
        digest = sha256(self.labels_N.astype("<i8").tobytes())
        for feature in self.features:
            for name in sorted(feature):
                digest.update(f"{name} {len(feature[name])}\n".encode())
                digest.update(np.asarray(feature[name], dtype="<i8").tobytes())
        return digest.hexdigest()


def tokenize(tokenizer: Any, examples: Examples, max_length: int) -> Tokens:
    """Ids of at most ``max_length`` tokens; the longer of two texts is cut first."""
    columns = [list(column) for column in zip(*examples.texts, strict=True)]
    found = tokenizer(*columns, truncation=True, max_length=max_length)
    features = [
        {name: list(found[name][i]) for name in tokenizer.model_input_names if name in found}
        for i in range(len(examples))
    ]
    return Tokens(features, examples.labels_N)


def collate(tokenizer: Any, tokens: Tokens, chosen: np.ndarray, device: Any) -> tuple[dict[str, Any], Any]:
    """(inputs by name, padded to the longest; labels) of the chosen examples as tensors on the device."""
    import torch

    inputs = tokenizer.pad([tokens.features[i] for i in chosen], return_tensors="pt")
    labels = torch.from_numpy(tokens.labels_N[chosen])
    return {name: tensor.to(device) for name, tensor in inputs.items()}, labels.to(device)
