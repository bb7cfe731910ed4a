"""Real sentence pairs that need no download: does the second sentence follow the first in Python's manual?

The text is that of ``pydoc_data.topics``, the language reference that every CPython carries for ``help()``. A pair
is two sentences of a paragraph, or of two neighbouring ones, that stand one after the other (label 1), or the same
first sentence with one that follows somewhere else, in another topic (label 0). Both labels have the same first
sentences and the same second ones, so that neither sentence alone tells anything.

Topics that share a sentence (the manual prints some sections under several names) count as one. No such group is in
two of train, validation and test, and so no sentence is either. The same CPython gives the same pairs in the same
order; another version of the manual gives a few more or fewer.

Checked by  tests/test_text.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

SHARES = {"train": 0.62, "validation": 0.14, "test": 0.24}
"""Shares of the pairs that the parts are filled to, group by group."""

WORDS = (4, 45)
"""The shortest and the longest sentence, in words."""


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs, their labels (N,), 1 where the second follows the first, and the group of each first one."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    y: np.ndarray
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)


def load_pairs() -> dict[str, Pairs]:
    """{"train", "validation", "test"} of this Python's manual, each half of either label."""
    from pydoc_data.topics import topics

    return make_pairs(topics)


def make_pairs(topics: Mapping[str, str], seed: int = 0) -> dict[str, Pairs]:
    """The same from any texts by name."""
    follows = {name: list(following(text)) for name, text in sorted(topics.items())}
    groups = _groups(follows)
    parts = _split({group: sorted({p for n in names for p in follows[n]}) for group, names in groups.items()})
    return {part: _with_others(pairs, np.random.default_rng(seed)) for part, pairs in parts.items()}


# --- sentences -----------------------------------------------------------------------------------

NOT_PROSE = re.compile(r"::=|>>>|\+--|\+==|\| |\*{4}|={4}|-{4}|~{4}|^\s*[.\[]", re.MULTILINE)
"""Grammar, interpreter sessions, tables, headings, footnotes."""

END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z\"*])")
SENTENCE = re.compile(r"[\"*]?[A-Z].*[a-z)\"*][.!?]")


def following(text: str) -> Iterator[tuple[str, str]]:
    """Every two sentences of one after the other in the text, code and tables between them not skipped."""
    before = None
    for paragraph in re.split(r"\n[ \t]*\n", text):
        if NOT_PROSE.search(paragraph):
            before = None
            continue
        # a word that is broken at a hyphen keeps it
        line = " ".join(re.sub(r"-\n\s*", "-", paragraph).split())
        for sentence in END.split(line):
            if not _is_sentence(sentence):
                before = None
                continue
            if before is not None and before != sentence:
                yield before, sentence
            before = sentence


def _is_sentence(text: str) -> bool:
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return (
        SENTENCE.fullmatch(text) is not None
        and WORDS[0] <= len(text.split()) <= WORDS[1]
        and letters >= 0.7 * len(text)
    )


# --- groups of topics, parts, and pairs that do not belong together ------------------------------


def _groups(follows: Mapping[str, list[tuple[str, str]]]) -> dict[str, list[str]]:
    """Topics by the first name of their group: two are in one group if they share a sentence."""
    group = {name: name for name in follows}
    seen: dict[str, str] = {}
    for name, pairs in follows.items():
        for sentence in {s for pair in pairs for s in pair}:
            other = group[seen.setdefault(sentence, name)]
            mine = group[name]
            if other != mine:
                group = {n: min(mine, other) if g in (mine, other) else g for n, g in group.items()}
    return {g: [name for name in group if group[name] == g] for g in sorted(set(group.values()))}


def _split(pairs: Mapping[str, list[tuple[str, str]]]) -> dict[str, list[tuple[str, str, str]]]:
    """(first, second, group) by part: the largest group first, each to the part that lacks most."""
    total = sum(map(len, pairs.values()))
    parts: dict[str, list[tuple[str, str, str]]] = {part: [] for part in SHARES}
    for group in sorted(pairs, key=lambda g: (-len(pairs[g]), g)):
        part = max(SHARES, key=lambda p: SHARES[p] * total - len(parts[p]))
        parts[part] += [(*pair, group) for pair in pairs[group]]
    return parts


def _with_others(found: list[tuple[str, str, str]], rng: np.random.Generator) -> Pairs:
    """The pairs that follow, then as many that do not: the second sentences in another order, such that each
    stands behind a first one of another group."""
    first, second, groups = zip(*found, strict=True)
    order = rng.permutation(len(found))
    while True:
        wrong = [i for i, j in enumerate(order) if groups[i] == groups[j]]
        if not wrong:
            break
        for i in wrong:
            k = rng.integers(len(order))
            order[i], order[k] = order[k], order[i]
    y = np.repeat(np.array([1, 0]), len(found))
    return Pairs(first * 2, (*second, *(second[j] for j in order)), y, groups * 2)
