"""The gallery, tutorials/gallery.md: every method and procedure as a row of one table, for a lesson or a slide.

    python -m tlora_ref count --gallery tutorials

Nothing is written down here that stands elsewhere: equation and readings are those of a page's docstring, needs and
merging follow from its METHOD, counts from counts.py, accuracies from the stored comparison, and the pictures are drawn
from the letters of the arrays (analysis/pictures.py).

Checked by  tests/test_gallery.py: the page in tutorials/ is the one that is generated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import allocate, chains
from ..by_hand import lora_rite
from ..by_hand import methods as pages
from ..by_hand.methods import METHODS
from ..config import GROWTHS, AdapterConfig
from ..counts import trained
from ..files import write_atomic
from ..known import KNOWN
from ..methods import Method, Site
from .bench.stored import stored
from .jobs.count import everywhere, places

MODEL = "roberta-large"


@dataclass(frozen=True)
class Entry:
    """A row: its name in commands, its title, the module whose docstring tells of it, and what the table says."""

    name: str
    label: str
    paper: str
    module: ModuleType
    equation: str
    trained: str  # on MODEL
    needs: str
    merges: str
    picture: str  # what it shows, in words
    row: str = ""  # its name in a comparison

    @property
    def file(self) -> str:
        """The page's file, from tutorials/."""
        return "../" + self.module.__name__.replace(".", "/") + ".py"


# --- what a docstring says -------------------------------------------------------------------------


def section(module: ModuleType, title: str) -> list[str]:
    """The lines of a part of a module's docstring, such as "Equation": from its title to the next part."""
    text = re.search(rf"^{title}[ .]+(.*?)(?=^\S|\n\n|\Z)", module.__doc__ or "", re.M | re.S)
    return [] if text is None else [line.strip() for line in text[1].splitlines()]


def readings(module: ModuleType) -> str:
    """The paragraph of a docstring that says what was read in one of several ways; "" where there is none."""
    text = re.search(r"^Readings?\. (.*?)(?=\n\n|\Z)", module.__doc__ or "", re.M | re.S)
    return "" if text is None else " ".join(text[1].split())


def part(lines: list[str], label: str) -> str:
    """Of an equation of several procedures, the lines of one: from its label to the next label."""
    labels = [x.label for x in (*chains.CHAINS.values(), *allocate.RULES.values())]
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{label} "))
    end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith(tuple(labels))), len(lines))
    return "\n".join([lines[start].removeprefix(label).strip(), *lines[start + 1 : end]])


# --- the rows --------------------------------------------------------------------------------------


def page_of(method: Method) -> ModuleType:
    """The page whose row this is."""
    modules = [module for module in vars(pages).values() if isinstance(module, ModuleType)]
    return next(m for m in modules if any(value is method for value in vars(m).values()))


def of_method(name: str, method: Method) -> Entry:
    """The row of an adapter method at its natural rank, on its own targets."""
    shape, adapter = KNOWN[MODEL], AdapterConfig(name, method.rank)
    n = trained(name, everywhere(places(shape, adapter), shape), method.rank, shape.heads)
    module = page_of(method)
    frozen = [arg.base for arg in method.arrays if arg.base in method.frozen]
    picture = (
        f"trained: {', '.join(method.trained)}; frozen: {', '.join([*(['W0'] if method.on_matrices else []), *frozen])}"
    )
    rank = "" if not any("R" in arg.letters for arg in method.arrays) else f", R = {method.rank}"
    return Entry(name, method.label, method.paper, module, "\n".join(section(module, "Equation")), f"{n:,}{rank}",
                 needs(method), "yes" if method.mergeable else "no", picture,
                 f"{name}+{GROWTHS[0]}" if method.core else name)  # fmt: skip


def needs(method: Method) -> str:
    """What it asks for beside a linear layer, from its row."""
    kind = "trained" if set(method.shared) & set(method.trained) else "frozen"
    asked = {
        "a place in the block": not method.on_matrices,
        "an SVD of W0": not method.from_seed,
        f"one {kind} store for all matrices": bool(method.shared),
        "the number of heads": method.per_head,
        "column norms of W0 + dW": method.rescales,
        "a step that keeps Q orthogonal": bool(method.orthogonal),
        "a schedule by which the rank grows": bool(method.core),
    }
    return ", ".join(need for need, holds in asked.items() if holds) or "nothing"


def of_chain(name: str, chain: chains.Chain) -> Entry:
    """The row of a chain of LoRA's."""
    shape, adapter = KNOWN[MODEL], AdapterConfig("lora", chain.rank)
    where = [Site(f"layers.{layer}.{place}", I, O, chain.rank)
             for layer in range(shape.layers) for place, (I, O) in places(shape, adapter)]  # fmt: skip
    n = f"{chains.trained_in_link(name, 'lora', where):,}{'' if chain.links == 1 else ' at a time'}, R = {chain.rank}"
    equation = section(chains, "Equation")
    lines = f"{equation[0].split(',')[0]}\n{part(equation, chain.label.split(',')[0])}"
    trains = " and ".join(chain.trains or ("A", "B"))
    picture = f"{'one pair' if chain.links == 1 else 'pair after pair'}, trained: {trains}"
    picture += ", each on some layers" if chain.sampled else ""
    asked = "nothing" if chain.links == 1 else "weights that take every link up"
    return Entry(name, chain.label, chain.paper, chains, lines, n, asked, "yes", picture,
                 f"lora+{name}")  # fmt: skip


def of_rule(name: str, rule: allocate.Rule) -> Entry:
    """The row of a rule that chooses ranks or matrices."""
    equation = part(section(allocate, "Equation"), rule.label)
    return Entry(name, rule.label, rule.paper, allocate, equation, "depends on the data", rule.needs, "yes",
                 f"LoRA of {rule.chooses}", f"lora+{name}")  # fmt: skip


def of_optimizer() -> Entry:
    """The row of LoRA-RITE."""
    lora = of_method("lora", METHODS["lora"])
    steps = [line.split("    ")[0] for line in section(lora_rite, "Equation") if line[:4] in ("V = ", "M = ", "A = ")]
    return Entry("lora_rite", "LoRA-RITE", "arXiv 2410.20625", lora_rite, "\n".join(steps), lora.trained,
                 "an optimizer for pairs", "yes", lora.picture, "lora+lora_rite")  # fmt: skip


def entries() -> list[Entry]:
    """All rows, in the order of their tables."""
    methods = [of_method(name, method) for name, method in METHODS.items()]
    procedures = [of_chain(name, chain) for name, chain in chains.CHAINS.items()]
    return [*methods, of_optimizer(), *procedures, *(of_rule(name, rule) for name, rule in allocate.RULES.items())]


# --- the page --------------------------------------------------------------------------------------

HEAD = """# The gallery

Every method of this project as one row. Dark is trained, light is frozen, and a second frame behind a box means that
all matrices share it. Numbers trained are those on RoBERTa-large, each method at its natural rank and on its own
targets; the accuracy is that of `python -m tlora_ref compare` on the turned digits, with the standard deviation over
its seeds, where that run has the method.
"""

FOOT = """
[The family](family.md) has them side by side in one equation, and the comparison with its intervals. This page is
written by `python -m tlora_ref count --gallery tutorials`.
"""


def accuracies(report: Mapping[str, Any]) -> dict[str, str]:
    """Mean and standard deviation of a comparison's rows at natural rank, by method; of a procedure's, which is run
    on LoRA, by the name of the procedure."""
    return {
        row["method"].removeprefix("lora+"): f"{row['accuracy_mean']:.3f} ± {row['accuracy_std']:.3f}"
        for row in report["rows"]
        if row["setting"] == "natural"
    }


def cell(equation: str) -> str:
    """An equation as the lines of one cell of a table."""
    lines = [
        piece.strip(" ,.") for line in equation.splitlines() for piece in re.split(r",? {3,}", line) if piece.strip()
    ]
    return "<br>".join(f"`{line}`".replace("|", "\\|") for line in lines)


def page() -> str:
    """The text of tutorials/gallery.md."""
    found, digits = entries(), accuracies(stored("compare"))
    rows = [
        f"| [{e.label}]({e.file}) `{e.name}` | ![{e.label}, {e.picture}](images/gallery_{e.name}.png) "
        f"| {cell(e.equation)} | {e.trained} | {e.needs} | {e.merges} | {digits.get(e.row, '')} |"
        for e in found
    ]
    header = "| method | what is trained | equation | trained on RoBERTa-large | needs | merges | on the digits |"
    modules = {e.module.__name__: e for e in found if readings(e.module)}
    read = [f"- [`{Path(e.file).name}`]({e.file}): {readings(e.module)}" for e in modules.values()]
    return "\n".join([HEAD, header, "|---" * 7 + "|", *rows, "", "## Readings", "",
                      "Where a source is ambiguous, this is how it was read.", "", *read, FOOT])  # fmt: skip


def write(folder: Path) -> None:
    """gallery.md and its pictures, into tutorials/ or a folder like it."""
    from .analysis.pictures import draw

    (folder / "images").mkdir(parents=True, exist_ok=True)
    for entry in entries():
        draw(folder / "images" / f"gallery_{entry.name}.png", entry.name)
    write_atomic(folder / "gallery.md", page())
