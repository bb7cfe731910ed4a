"""The glossary of the course, and its links: in each notebook a word is linked where it first occurs.

    python -m tlora_ref.course.glossary        put the links into the notebooks of this checkout, anew

A word counts where it stands in running text: not in a heading, in code, in a formula or in another link. Answers that
are marked by hand are the student's and have no links.

Checked by  tests/test_syllabus.py: every notebook is as this leaves it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .job import CHECKOUT, INSTALLED, solved

PAGE = "glossary.md"

WORDS: dict[str, str] = {
    "adamw": r"AdamW",
    "central-difference": r"[Cc]entral differences?",
    "complex-step": r"[Cc]omplex step",
    "cross-entropy": r"[Cc]ross-entropy",
    "fan-in": r"[Ff]an-in",
    "fine-tuning": r"[Ff]ine-tuning",
    "frobenius-norm": r"Frobenius norm",
    "gelu": r"GELU",
    "glue": r"GLUE",
    "layernorm": r"LayerNorm",
    "learning-rate": r"[Ll]earning rates?",
    "lora": r"LoRA(?!-)",
    "mrpc": r"MRPC",
    "peft": r"PEFT",
    "roberta": r"RoBERTa",
    "singular-values": r"[Ss]ingular values?",
    "u-curve": r"U-curve",
    "weight-decay": r"[Ww]eight decay",
    "eps": r"eps",
    "activations": r"[Aa]ctivations?",
    "adapter": r"[Aa]dapters?",
    "attention": r"[Aa]ttention",
    "autograd": r"[Aa]utograd",
    "backward": r"[Bb]ackward",
    "bootstrap": r"[Bb]ootstrap",
    "cotangent": r"[Cc]otangents?",
    "dropout": r"[Dd]ropout",
    "encoder": r"[Ee]ncoders?",
    "frozen": r"[Ff]rozen",
    "head": r"[Hh]ead",
    "kurtosis": r"[Kk]urtosis",
    "logits": r"[Ll]ogits",
    "merge": r"[Mm]erg(?:e|ed|es|ing)",
    "mutant": r"[Mm]utants?",
    "oracle": r"[Oo]racles?",
    "optimizer": r"[Oo]ptimizers?",
    "pretraining": r"[Pp]retrain(?:ing|ed|s)?",
    "rank": r"[Rr]anks?",
    "seed": r"[Ss]eeds?",
    "softmax": r"[Ss]oftmax",
    "subspace": r"[Ss]ubspaces?",
    "token": r"[Tt]okens?",
    "transformer": r"[Tt]ransformers?",
    "vacuous": r"VACUOUS|[Vv]acuous",
}
"""The anchor of each word on the page, and how the word may stand in a text."""

_APART = r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|!?\[[^\]]*\]\([^)]*\)|^#.*?$|^\|[-:| ]+\|$|https?://\S+"
_LINK = re.compile(rf"\[([^\]]*)\]\({re.escape(PAGE)}#[\w-]*\)")


def page() -> Path:
    """The page, in a wheel or in the repository."""
    return next(folder / PAGE for folder in (INSTALLED, CHECKOUT) if (folder / PAGE).exists())


def anchors() -> set[str]:
    """What the page has a heading for, as links spell it."""
    headings = re.findall(r"^## (.+)$", page().read_text(encoding="utf-8"), re.M)
    return {heading.replace(" ", "-") for heading in headings}


def linked(notebook: Any) -> Any:
    """The notebook with a link at the first occurrence of every word, and none elsewhere; changed in place."""
    seen: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "nbgrader" not in cell.metadata:
            cell.source = _with_links(_LINK.sub(r"\1", cell.source), seen)
    return notebook


def _with_links(text: str, seen: set[str]) -> str:
    pieces, end = [], 0
    for apart in re.finditer(_APART, text, re.S | re.M):
        pieces += [_first(text[end : apart.start()], seen), apart.group()]
        end = apart.end()
    return "".join([*pieces, _first(text[end:], seen)])


def _first(text: str, seen: set[str]) -> str:
    """The text with the words linked that were not seen before, the leftmost first."""
    every = "|".join(rf"(?P<{anchor.replace('-', '_')}>\b(?:{word})\b)" for anchor, word in WORDS.items())

    def link(match: re.Match[str]) -> str:
        anchor = str(match.lastgroup).replace("_", "-")
        if anchor in seen:
            return match.group()
        seen.add(anchor)
        return f"[{match.group()}]({PAGE}#{anchor})"

    return re.sub(every, link, text)


def main() -> None:
    """Put the links into every notebook."""
    import nbformat

    for path in solved():
        notebook = linked(nbformat.read(path, as_version=4))
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
