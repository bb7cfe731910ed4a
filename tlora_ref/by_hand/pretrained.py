"""A published BERT or RoBERTa, from its folder of files into the encoder by hand.

Equation    W = weight^T: torch keeps a linear layer (out, in), here it is (in, out), so that y = x W + b.
Twin        none: ``by_autograd.to_torch`` carries the model that is read here into the other room.
Checked by  tests/test_pretrained.py: hidden states, logits and gradients against Hugging Face transformers.

A folder as ``save_pretrained`` writes it: config.json and model.safetensors, of BertModel, RobertaModel or their
ForSequenceClassification; of a masked language model, whose own head is left out; of a sentence-transformers model
(MiniLM), which is a BertModel with mean pooling. Every tensor of the file is read or known to be left out, and
every array of the model has a tensor: nothing is skipped in silence and nothing keeps random numbers by accident.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ..config import EncoderConfig
from ..draws import normal
from ..model import Model, encoder_shapes
from ..shapes import InputError

Array = np.ndarray

EMBEDDINGS = {
    "embed": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "type": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
}
LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
HEAD = {
    "bert": {"pooler": "bert.pooler.dense", "head": "classifier"},
    "roberta": {"pooler": "classifier.dense", "head": "classifier.out_proj"},
}
"""Modules here -> modules there. What BERT calls its pooler and RoBERTa the first half of its classifier is the same:
a matrix and a tanh on the first token."""

LEFT_OUT = (
    r"(\w+\.)?embeddings\.(position|token_type)_ids",  # buffers 0, 1, 2, ... and 0, 0, 0, ...
    r"(cls|lm_head)\..*",  # heads for other tasks: masked words, the next sentence
    r"(\w+\.)?pooler\.dense\.(weight|bias)",  # where the pooling is another: RoBERTa's classifier, a mean
)
"""Tensors that may be in a file and are not read, unless the model has an array for them."""


def load_pretrained(
    folder: str | Path,
    classes: int | None = None,
    dtype: Any = np.float32,
    seed: int = 0,
    pool: str | None = None,
) -> Model:
    """The model of a folder, nothing of it trained.

    classes: None keeps the file's classifier, or draws one of the size in config.json where it has none; a number
    draws a fresh one of so many classes. dtype: float32 or float64. seed: of what is drawn, N(0, initializer_range^2)
    with biases 0 as in transformers. pool: "first" (token, with BERT's or RoBERTa's matrix and tanh), "mean"
    (without), or None, which is the folder's own: the mean if 1_Pooling/config.json of sentence-transformers says
    so, else the first token.

    Raises InputError for a folder without one of the two files, a damaged file, an architecture or an activation
    that the encoder does not have, and a tensor that is missing, surplus, or of another shape or kind.
    """
    folder = Path(folder)
    try:
        published = _read_config(folder)
        with _open(folder) as file:
            return _model(folder, published, file, classes, dtype, seed, pool)
    except SafetensorError as error:
        path = folder / "model.safetensors"
        raise InputError(f"{path}: truncated, damaged or no safetensors file ({error})") from None
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


# --- the configuration ---------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path.name} is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path.name} holds a {type(value).__name__}, expected an object")
    return value


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json, once what it says is what the encoder computes."""
    published = _read_json(folder / "config.json")
    expected = {
        "model_type": tuple(HEAD),
        "hidden_act": ("gelu",),
        "position_embedding_type": (None, "absolute"),
        "is_decoder": (None, False),
    }
    for key, values in expected.items():
        if published.get(key) not in values:
            names = " or ".join(str(v) for v in values if v is not None)
            raise InputError(f"{key} is {published.get(key)!r} in config.json, expected {names}")
    return published


def _number(published: Mapping[str, Any], key: str, kind: type = int, default: float | None = None) -> Any:
    value = published.get(key, default)
    if not isinstance(value, (int, kind)) or isinstance(value, bool):
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{key} is {value!r} in config.json, expected {expected}")
    return kind(value)


def _encoder_config(published: Mapping[str, Any], classes: int, pool: str, pooler: bool) -> EncoderConfig:
    number = partial(_number, published)
    roberta = published["model_type"] == "roberta"
    pad_id: int | None = number("pad_token_id") if roberta else None
    return EncoderConfig(
        width=number("hidden_size"),
        layers=number("num_hidden_layers"),
        heads=number("num_attention_heads"),
        hidden=number("intermediate_size"),
        time=number("max_position_embeddings") - (0 if pad_id is None else pad_id + 1),
        classes=classes,
        vocab=number("vocab_size"),
        pool=pool,
        eps=number("layer_norm_eps", float, 1e-12),
        types=number("type_vocab_size"),
        pad_id=pad_id,
        pooler=pooler,
    )


def _own_pooling(folder: Path) -> str:
    """ "mean" for a sentence-transformers folder that says so, else "first"."""
    path = folder / "1_Pooling" / "config.json"
    return "mean" if path.exists() and _read_json(path).get("pooling_mode_mean_tokens") is True else "first"


# --- the tensors ---------------------------------------------------------------------------------


def _open(folder: Path) -> Any:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise InputError("model.safetensors is not there; a checkpoint in several files or in pickle is not read")
    return safe_open(path, framework="np")


def _published_names(config: EncoderConfig, model_type: str, prefix: str) -> dict[str, str]:
    """Every array here -> its tensor there; ``prefix`` is what the file puts before the encoder's own names."""
    names = {}
    for name in encoder_shapes(config):
        module, _, local = name.rpartition(".")
        _, _, rest = module.partition(".")
        if module in HEAD[model_type]:
            there = HEAD[model_type][module]
            there = there if there.startswith("classifier") else prefix + there.partition(".")[2]
        elif module in EMBEDDINGS:
            there = prefix + EMBEDDINGS[module]
        else:
            number, _, part = rest.partition(".")
            there = f"{prefix}encoder.layer.{number}.{LAYER[part]}"
        names[name] = f"{there}.{'bias' if local in ('b', 'beta') else 'weight'}"
    return names


def _model(
    folder: Path, published: Mapping[str, Any], file: Any, classes: int | None, dtype: Any, seed: int, pool: Any
) -> Model:
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype is {dtype!r}, expected np.float32 or np.float64")
    model_type = published["model_type"]
    # LayerNorm's arrays were called gamma and beta in the first published checkpoints
    stored = {re.sub(r"LayerNorm\.(gamma|beta)$", _torch_name, name): name for name in file.keys()}  # noqa: SIM118
    prefix = f"{model_type}." if any(name.startswith(f"{model_type}.") for name in stored) else ""
    head = [f"{HEAD[model_type]['head']}.{local}" for local in ("weight", "bias")]
    has_head = any(name in stored for name in head)
    pool = _pool(pool, _own_pooling(folder), has_head)
    if classes is None:
        labels = len(published.get("id2label") or ("LABEL_0", "LABEL_1"))
        own = file.get_slice(head[0]).get_shape()[0] if head[0] in stored else labels
    config = _encoder_config(published, own if classes is None else classes, pool, pooler=pool == "first")
    names = _published_names(config, model_type, prefix)
    drawn = _not_stored(names, stored, has_head, keep_head=classes is None)
    _check_names(stored, names, drawn, head)
    std = _number(published, "initializer_range", float, 0.02)
    params = {}
    for name, shape in encoder_shapes(config).items():
        if name in drawn:
            array = np.zeros(shape) if name.endswith(".b") else normal(seed, name, shape, std)
        else:
            array = _tensor(file, stored[names[name]], name, shape)
        params[name] = array.astype(dtype, order="C")
    return Model(config, params)


def _torch_name(match: re.Match[str]) -> str:
    return "LayerNorm." + {"gamma": "weight", "beta": "bias"}[match.group(1)]


def _pool(pool: Any, own: str, has_head: bool) -> str:
    if pool not in (None, "first", "mean"):
        raise InputError(f"pool is {pool!r}, expected 'first', 'mean' or None")
    if has_head and (pool or own) == "mean":
        raise InputError("pool is 'mean', expected 'first': the file's classifier reads the first token")
    return pool or own


def _not_stored(names: Mapping[str, str], stored: Mapping[str, str], has_head: bool, keep_head: bool) -> set[str]:
    """What is drawn: a fresh head, and, for a file without any classifier, the pooler if that is not there either."""
    drawn = set() if has_head and keep_head else {"head.W", "head.b"}
    pooler = {name for name in ("pooler.W", "pooler.b") if name in names}
    if not has_head and not any(names[name] in stored for name in pooler):
        drawn |= pooler
    return drawn


def _check_names(stored: Mapping[str, str], names: Mapping[str, str], drawn: set[str], head: list[str]) -> None:
    """Raise InputError unless every array has a tensor, and every tensor an array or a place in LEFT_OUT; a head
    that is drawn afresh replaces the stored one."""
    read = [names[name] for name in names if name not in drawn]
    missing = [name for name in read if name not in stored]
    known = {*read, *head}
    surplus = [name for name in sorted(stored) if name not in known and not re.fullmatch("|".join(LEFT_OUT), name)]
    for word, words in (("is missing", missing), ("is not expected", surplus)):
        if words:
            more = f" (and {len(words) - 1} more)" if len(words) > 1 else ""
            raise InputError(f"tensor {words[0]}{more} {word} in model.safetensors")


def _tensor(file: Any, stored: str, name: str, shape: tuple[int, ...]) -> Array:
    """The tensor ``stored`` of array ``name``, (in, out) if it is the matrix of a linear layer."""
    module, _, local = name.rpartition(".")
    transposed = local == "W" and module not in EMBEDDINGS
    part = file.get_slice(stored)
    read, expected = tuple(part.get_shape()), shape[::-1] if transposed else shape
    if read != expected:
        raise InputError(f"tensor {stored} has shape {read}, expected {expected} by config.json")
    if part.get_dtype() not in ("F16", "F32", "F64"):
        raise InputError(f"tensor {stored} is stored as {part.get_dtype()}, expected F16, F32 or F64")
    array = file.get_tensor(stored)
    return array.T if transposed else array
