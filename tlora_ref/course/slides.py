"""Three lectures of ten slides at most, made of the notebooks' own figures: for nbconvert's reveal.

    jupyter nbconvert --to slides lecture_1.ipynb

Checked by  tests/test_syllabus.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shapes import InputError


@dataclass(frozen=True)
class Slide:
    """A heading, what is said in short lines, and the figure of a notebook's cell, by its id; "" for none."""

    heading: str
    lines: tuple[str, ...]
    figure: str = ""


LECTURES: dict[str, tuple[Slide, ...]] = {
    "Why adapt a little, and how": (
        Slide("Why adapt a little, and how", ("Notebooks Before 00, 00, 01, 05 and 06",)),
        Slide(
            "What fine-tuning costs",
            ("Four numbers for each weight, and activations", "A whole file for each task"),
            "000-09",
        ),
        Slide("What a rank is", ("A column times a row has rank 1", "Two of them: rank 2"), "000-13"),
        Slide(
            "LoRA and TLoRA",
            ("Two thin matrices, trained", "One small square between two random ones, and α"),
            "000-17",
        ),
        Slide("What full fine-tuning changes", ("The singular values of ΔW fall faster than those of noise",), "00-14"),
        Slide("What a random subspace holds", ("R² / (I O) of any fixed update, on average",), "00-30"),
        Slide("What training in it reaches", ("There is more than one solution",), "00-35"),
        Slide("The order of multiplications", ("From the left, the update is nearly free",), "01-36"),
        Slide("What has the width of the model", ("LoRA's count has it; TLoRA's has the square of the rank",), "06-21"),
        Slide("Where few numbers matter", ("Freezing saves the memory; few numbers save the file",), "06-36"),
    ),
    "Gradients by hand, and how to know that they are right": (
        Slide("Gradients by hand, and how to know that they are right", ("Notebooks 02, 03, 04 and 07",)),
        Slide(
            "The roads of the layer",
            ("g = dy Cᵀ serves all three gradients", "Where roads meet, gradients add"),
            "02-04",
        ),
        Slide("A gradient is a slope", ("dB touches the loss",), "02-23"),
        Slide("The U-curve, and an oracle without one", ("Too large a step bends, too small a one rounds",), "03-14"),
        Slide("What a checker sees", ("Bugs of TLoRA's backward, by how far they are outside",), "03-37"),
        Slide("The start hides bugs", ("At B = 0 and α = 1 a missing α is not missing",), "04-18"),
        Slide("So does the cotangent", ("Ask with random numbers",), "04-28"),
        Slide("LayerNorm's backward is a projection", ("Nothing along 1, nothing along x-hat",), "07-16"),
        Slide("One bug spoils what lies below it", ("Down to the embedding",), "07-36"),
        Slide("And training forgives it", ("The loss is no checker",), "07-40"),
    ),
    "Experiments that mean something": (
        Slide("Experiments that mean something", ("Notebooks 08, 10, 11, 12 and 13",)),
        Slide("Each way has a rate of its own", ("The same search for all, chosen on validation data",), "08-11"),
        Slide("Seeds, with bands", ("One seed is an anecdote",), "08-20"),
        Slide("Differences in pairs", ("What both runs share drops out",), "08-29"),
        Slide("α and B move on hyperbolas", ("α² − ‖B‖² is kept, and the start decides",), "10-20"),
        Slide("Similar to what?", ("Small updates score near 1 with nothing in common",), "11-29"),
        Slide("The landscape", ("What trains, what is frozen, who shares",), "12-04"),
        Slide("Accuracy over trained numbers", ("At equal budgets most bars overlap",), "12-30"),
        Slide("A language model, against controls", ("What needs no training belongs into the same table",), "13-16"),
    ),
}
"""The slides of each lecture; figures by the id of their cell."""


def lecture(number: int, paths: list[Path]) -> Any:
    """A lecture as a notebook with slideshow metadata. Raises InputError where a figure is missing."""
    import nbformat

    title = list(LECTURES)[number - 1]
    cells = []
    for place, slide in enumerate(LECTURES[title]):
        text = f"## {slide.heading}\n\n" + "\n".join(f"- {line}" for line in slide.lines)
        cell = nbformat.v4.new_markdown_cell(text, id=f"s{place}", metadata={"slideshow": {"slide_type": "slide"}})
        if slide.figure:
            figure = _figure(slide.figure, paths)
            cell.source += f"\n\n![{figure.metadata['image/png']['alt']}](attachment:figure.png)"
            cell.attachments = {"figure.png": {"image/png": figure.data["image/png"]}}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": title, "kernelspec": kernel})


def _figure(cell_id: str, paths: list[Path]) -> Any:
    """The figure that a cell of a solved notebook left."""
    import nbformat

    book = cell_id.partition("-")[0]
    for path in (path for path in paths if path.name.startswith(f"{book}_")):
        for cell in nbformat.read(path, as_version=4).cells:
            found = [o for o in cell.get("outputs", []) if cell.id == cell_id and "image/png" in o.get("data", {})]
            if found:
                return found[0]
    raise InputError(f"no cell {cell_id} with a figure in the notebooks")
