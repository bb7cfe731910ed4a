"""The table of GLUE tasks: where their texts and labels are, what counts as a result, and how large they are.

Source      A. Wang et al., GLUE, arXiv 1804.07461: metrics in table 1; columns, labels and sizes as the sets are
            distributed. A label's number is its place in ``labels``, as in the ``datasets`` library's "glue".
Checked by  tests/test_glue.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...paper import VALIDATION
from ...shapes import InputError

METRICS = {"accuracy": "accuracy", "f1": "F1", "matthews": "Matthews"}
"""Metrics by their keys, as tables call them."""


@dataclass(frozen=True)
class GlueTask:
    """One task. A TSV file has the columns ``columns``, of which ``tsv_texts`` and ``tsv_label`` are read; a dataset
    has ``texts`` and "label"."""

    name: str
    title: str  # and the name of its folder in GLUE's archive
    texts: tuple[str, ...]  # one or two
    labels: tuple[str, ...]
    metrics: tuple[str, ...]  # the first one chooses the best epoch
    train: int  # examples
    validation: int
    columns: tuple[str, ...]
    tsv_texts: tuple[str, ...]
    tsv_label: str
    written: tuple[str, ...]  # the labels in a TSV file
    header: bool = True  # does a TSV file open with the names of its columns?


TASKS: Mapping[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            "mrpc", "MRPC", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1"),
            3_668, VALIDATION["MRPC"], ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
            ("#1 String", "#2 String"), "Quality", ("0", "1"),
        ),
        GlueTask(
            "rte", "RTE", ("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",),
            2_490, VALIDATION["RTE"], ("index", "sentence1", "sentence2", "label"), ("sentence1", "sentence2"),
            "label", ("entailment", "not_entailment"),
        ),
        GlueTask(
            "qnli", "QNLI", ("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",),
            104_743, VALIDATION["QNLI"], ("index", "question", "sentence", "label"), ("question", "sentence"),
            "label", ("entailment", "not_entailment"),
        ),
        GlueTask(
            "sst2", "SST-2", ("sentence",), ("negative", "positive"), ("accuracy",),
            67_349, VALIDATION["SST-2"], ("sentence", "label"), ("sentence",), "label", ("0", "1"),
        ),
        GlueTask(
            "cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews",),
            8_551, 1_043, ("source", "label", "mark", "sentence"), ("sentence",), "label", ("0", "1"), header=False,
        ),
    )
}  # fmt: skip


def find_task(name: str) -> GlueTask:
    """The task of that name. Raises InputError, naming all of them, if there is none."""
    if name not in TASKS:
        raise InputError(f"--task is {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]
