"""Questions about six kinds of things, for the capstone: what is asked for, a person, a place, a number, ...?

    parts = questions()                 {"train", "validation", "test"}: texts and labels
    parts = questions(unseen=False)     nouns may be in several parts

Every question asks "what" or "which", so that this word tells nothing: the kind is decided by the noun behind it
(author, river, distance, ...), and a second noun, of another kind, stands somewhere else. No noun that is tested was in
training. Whoever knows words only by having seen them there can but guess; whoever knows that a novelist is something
like an author still has to find out which of the two nouns is meant. The questions are composed here, after the coarse
classes of TREC's (Li and Roth, COLING 2002), which lab/questions.py reads where its file was downloaded.

Checked by  tests/test_questions.py.
"""

from __future__ import annotations

import numpy as np

from ..lab.questions import Questions

KINDS: dict[str, str] = {
    "person": "author painter king president scientist singer explorer inventor emperor actress composer poet senator "
    "novelist philosopher sculptor queen general astronaut architect chemist athlete",
    "place": "city river country mountain island village lake state desert continent harbour valley town province "
    "ocean region capital peninsula street forest kingdom bay",
    "number": "number percentage age distance temperature price speed height weight population length salary amount "
    "year date score depth fraction duration quantity width rate",
    "thing": "animal colour fruit language game instrument metal food drink bird flower tool vehicle book disease "
    "plant fish tree sport insect vegetable garment",
    "group": "company team university army band church newspaper airline bank party museum hospital orchestra school "
    "agency ministry union club court laboratory publisher committee",
    "reason": "reason cause purpose motive explanation argument meaning origin definition justification excuse goal "
    "intention benefit aim rationale consequence effect use function significance ground",
}
"""Nouns by the kind of thing that is asked for."""

FRAMES = (
    "Which {noun} has something to do with the {other}?",
    "What {noun} did they mention beside the {other}?",
    "About the {other}, what {noun} is known to you?",
    "Do you know what {noun} belongs to this {other}?",
)
"""What is put around a noun, and another one of another kind; the same for all kinds."""

SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}


def questions(seed: int = 0, unseen: bool = True) -> dict[str, Questions]:
    """The three parts. ``unseen``: no noun is in two of them; else no question is."""
    rng = np.random.default_rng(seed)
    nouns = {kind: list(rng.permutation(sorted(listed.split()))) for kind, listed in KINDS.items()}
    if not unseen:
        return _divided(_asked(nouns, rng), rng)
    parts: dict[str, dict[str, list[str]]] = {name: {} for name in SHARES}
    for kind, listed in nouns.items():
        for name, cut in _cuts(len(listed)):
            parts[name][kind] = listed[cut]
    return {name: _shuffled(_asked(own, rng), rng) for name, own in parts.items()}


def _asked(nouns: dict[str, list[str]], rng: np.random.Generator) -> list[tuple[str, int]]:
    """Every noun in every frame, beside one of another kind."""
    found = []
    for label, (kind, listed) in enumerate(nouns.items()):
        others = [noun for other, own in nouns.items() if other != kind for noun in own]
        for noun in listed:
            for frame in FRAMES:
                found.append((frame.format(noun=noun, other=rng.choice(others)), label))
    return found


def _cuts(n: int) -> list[tuple[str, slice]]:
    """Where each part's share of n begins and ends."""
    ends = [0, *np.round(np.cumsum(list(SHARES.values())) * n).astype(int)]
    return [(name, slice(a, b)) for name, a, b in zip(SHARES, ends[:-1], ends[1:], strict=True)]


def _divided(found: list[tuple[str, int]], rng: np.random.Generator) -> dict[str, Questions]:
    order = [found[i] for i in rng.permutation(len(found))]
    return {name: _shuffled(order[cut], rng) for name, cut in _cuts(len(order))}


def _shuffled(found: list[tuple[str, int]], rng: np.random.Generator) -> Questions:
    texts, y = zip(*(found[i] for i in rng.permutation(len(found))), strict=True)
    return Questions(texts, np.array(y), tuple(KINDS))


def other_kinds(asked: Questions) -> np.ndarray:
    """Of which kind the other noun of each question is (N,)."""
    kind = {noun: label for label, listed in enumerate(KINDS.values()) for noun in listed.split()}
    nouns = [[kind[word] for word in words(text) if word in kind] for text in asked.texts]
    return np.array([next(k for k in found if k != y) for found, y in zip(nouns, asked.y, strict=True)])


def words(text: str) -> list[str]:
    """The words of a question, in small letters."""
    return text.lower().replace("?", "").replace(",", "").split()


def bag_of_words(parts: dict[str, Questions]) -> dict[str, np.ndarray]:
    """Counts of the training part's words, (N, words) for every part."""
    known = {word: i for i, word in enumerate(sorted({w for text in parts["train"].texts for w in words(text)}))}
    found = {}
    for name, part in parts.items():
        found[name] = np.zeros((len(part), len(known)))
        for row, text in zip(found[name], part.texts, strict=True):
            for word in words(text):
                if word in known:
                    row[known[word]] += 1
    return found


def nearest_mean(train_NF: np.ndarray, y_N: np.ndarray, test_MF: np.ndarray) -> np.ndarray:
    """The class whose mean is nearest by the cosine, for each row of the test part: what needs no training."""
    means_VF = np.stack([train_NF[y_N == label].mean(axis=0) for label in range(y_N.max() + 1)])
    unit = [a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (test_MF, means_VF)]
    return (unit[0] @ unit[1].T).argmax(axis=1)
