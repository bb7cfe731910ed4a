"""The pictures of the gallery: what is trained, dark, and what is frozen, light, drawn from the letters of the arrays.

A box is as high and wide as its letters say, a vector a thin bar or the diagonal that it is, a number a dot. A second
frame behind a box: all matrices share it. Everything is readable in grey.

Checked by  tests/test_gallery.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...allocate import RULES
from ...by_hand.methods import METHODS
from ...chains import CHAINS
from ...files import write_atomic
from ...methods import Arg, Method
from .plots import STYLE

SIZES = {"I": 1.0, "O": 0.8, "D": 1.0, "M": 0.8, "R": 0.3, "S": 0.3, "H": 0.24, "K": 0.26, "L": 0.45, "P": 0.3,
         "X": 0.2, "Y": 0.26, "Z": 0.34}  # fmt: skip
"""How long a side of a letter is drawn."""

THIN, GAP = 0.09, 0.16
DARK, LIGHT, EMPTY = "#333333", "#dddddd", "#ffffff"
HEIGHT = 1.55


@dataclass(frozen=True)
class Box:
    """Something drawn: its height and width, how it is filled, what stands under it, and its form."""

    height: float
    width: float
    fill: str
    label: str = ""
    form: str = "box"  # or "diagonal", "lower", "upper", "dot"
    shared: bool = False


def of_array(method: Method, arg: Arg) -> Box:
    """The box of one array of a method."""
    fill = DARK if arg.base in method.trained else LIGHT
    shared = arg.base in method.shared
    letters = arg.letters
    if not letters:
        return Box(THIN * 1.5, THIN * 1.5, fill, arg.base, "dot")
    if arg.base in method.core and len(letters) == 1:
        return Box(SIZES["R"], SIZES["R"], fill, arg.base, arg.base)
    if letters in ("R", "M") and not arg.base.endswith("_b"):
        return Box(SIZES[letters], SIZES[letters], fill, arg.base, "diagonal", shared)
    if letters == "I":
        return Box(SIZES["I"], THIN, fill, arg.base)
    if len(letters) == 1:
        return Box(THIN, SIZES[letters], fill, arg.base)
    return Box(SIZES[letters[0]], SIZES[letters[1]], fill, arg.base, shared=shared)


def of_method(method: Method) -> list[Box]:
    """W0, or the block, and the arrays in the order of the equation."""
    first = Box(SIZES["I"], SIZES["O"], LIGHT, "W0") if method.on_matrices else Box(0.5, SIZES["O"], LIGHT, "block")
    given = [arg.base for arg in method.kernel.args]
    order = sorted(method.arrays, key=lambda arg: given.index(arg.base) if arg.base in given else len(given))
    return [first, *(of_array(method, arg) for arg in order)]


def pair(rank: float, A: str, B: str, scale: float = 1.0, label: str = "") -> list[Box]:
    """A LoRA's A and B."""
    return [Box(scale * SIZES["I"], rank, A, f"A{label}"), Box(rank, scale * SIZES["O"], B, f"B{label}")]


# --- drawing ---------------------------------------------------------------------------------------


def draw_box(axis: Any, box: Box, x: float, middle: float) -> float:
    """Draw a box with its left edge at x around the height ``middle``; return where it ends."""
    from matplotlib.patches import Ellipse, Polygon, Rectangle

    low, h, w = middle - box.height / 2, box.height, box.width
    style = {"facecolor": box.fill, "edgecolor": "black", "linewidth": 0.8}
    if box.shared:
        axis.add_patch(Rectangle((x + 0.05, low + 0.05), w, h, facecolor=EMPTY, edgecolor="black", linewidth=0.8))
    if box.form == "dot":
        axis.add_patch(Ellipse((x + w / 2, middle), w, h, **style))
    elif box.form == "diagonal":
        t = 0.06
        axis.add_patch(Rectangle((x, low), w, h, facecolor=EMPTY, edgecolor="black", linewidth=0.8))
        band = [(x, low + h), (x + t, low + h), (x + w, low + t), (x + w, low), (x + w - t, low), (x, low + h - t)]
        axis.add_patch(Polygon(band, closed=True, **style))
    elif box.form in ("lower", "upper"):
        corner = (x, low) if box.form == "lower" else (x + w, low + h)
        axis.add_patch(Polygon([(x, low + h), corner, (x + w, low)], closed=True, **style))
    else:
        axis.add_patch(Rectangle((x, low), w, h, **style))
    if box.label:
        axis.text(x + w / 2, low - 0.07, box.label, ha="center", va="top", fontsize=7)
    return x + w


def row(axis: Any, boxes: list[Box], x: float = 0.0, middle: float = 0.0) -> float:
    """Boxes side by side; where they end. A label wider than its box pushes the next one away."""
    for box in boxes:
        text = 0.075 * len(box.label)
        extra = max(0.0, (text - box.width) / 2)
        x = draw_box(axis, box, x + extra, middle) + extra + GAP
    return x - GAP


def a_method(axis: Any, name: str) -> float:
    """A method: W0 + its arrays, or what they make of W0."""
    first, *boxes = of_method(METHODS[name])
    x = row(axis, [first]) + GAP
    axis.text(x, 0, "→" if METHODS[name].orthogonal else "+", ha="center", va="center", fontsize=11)
    return row(axis, boxes, x + GAP)


def a_chain(axis: Any, name: str) -> float:
    """A chain: W0, and link after link; on three layers where a link sits on some only."""
    chain = CHAINS[name]
    fills = [DARK if not chain.trains or base in chain.trains else LIGHT for base in "AB"]
    scale, heights = (0.3, (0.5, 0.0, -0.5)) if chain.sampled else (1.0, (0.0,))
    end = 0.0
    for level, middle in enumerate(heights):
        x = row(axis, [Box(scale * SIZES["I"], scale * SIZES["O"], LIGHT, "" if chain.sampled else "W0")], 0, middle)
        for link in range(1 if chain.links == 1 else 3):
            here = not chain.sampled or level == (2, 0, 1)[link]
            axis.text(x + GAP, middle, "+" if here else "", ha="center", va="center", fontsize=11)
            number = "" if chain.links == 1 else f"_{link + 1}"
            boxes = pair(0.08 if chain.sampled else 0.15, *fills, scale=scale, label="" if chain.sampled else number)
            x += 2 * GAP
            x = row(axis, boxes, x, middle) if here else x + sum(b.width for b in boxes) + GAP
        if chain.links > 1:
            axis.text(x + GAP, middle, "...", va="center", fontsize=9)
            x += 2.5 * GAP
        end = max(end, x)
    return end


def a_rule(axis: Any, name: str) -> float:
    """A rule: layers one above the other, with a LoRA on each of the matrices that have one."""
    end = 0.0
    for level in range(3):
        x, middle = 0.0, 0.5 * (level - 1)
        for matrix in range(3):
            x = row(axis, [Box(0.3, 0.24, LIGHT)], x, middle) + 0.08
            rank = (0.05, 0.2, 0.1)[level] if name == "gelora" else 0.1
            if name == "gelora" or matrix in ((0, 2), (1, 2), (0, 1))[level]:
                row(axis, pair(rank, DARK, DARK, scale=0.3)[:1], x, middle)
                row(axis, pair(rank, DARK, DARK, scale=0.3)[1:], x + rank + 0.06, middle)
            x += 0.2 + 0.06 + 0.24 + 2 * GAP
        end = max(end, x - GAP)
    return end


def without_labels(axis: Any) -> None:
    """A rule's A and B are too small for letters."""
    for text in list(axis.texts):
        text.remove()


def draw(path: Path, name: str) -> None:
    """The picture of a method, an optimizer, a chain or a rule, by its name, as PNG."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    drawings: dict[str, Callable[[Any, str], float]] = dict.fromkeys(METHODS, a_method)
    drawings |= dict.fromkeys(CHAINS, a_chain) | dict.fromkeys(RULES, a_rule)
    with plt.rc_context(STYLE | {"figure.constrained_layout.use": False}):
        fig = plt.figure()
        try:
            axis = fig.add_axes((0, 0, 1, 1))
            right = drawings[name](axis, name) if name in drawings else a_method(axis, "lora")
            if name in RULES:
                without_labels(axis)
            left, right = -0.1, right + 0.15
            axis.set_xlim(left, right)
            axis.set_ylim(-HEIGHT / 2 - 0.05, HEIGHT / 2 - 0.05)
            axis.set_axis_off()
            fig.set_size_inches(right - left, HEIGHT)
            content = io.BytesIO()
            fig.savefig(content, format="png", dpi=80)
            write_atomic(path, content.getvalue())
        finally:
            plt.close(fig)
