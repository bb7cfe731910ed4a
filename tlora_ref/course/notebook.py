"""What the notebooks draw with: one style, matrices to scale, heat-maps that can be read in grey.

Needs matplotlib; only notebooks import it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..lab.analysis.plots import STYLE
from .mine import start_keeping

FROZEN, TRAINED, DATA = "#BFC5CC", "#0072B2", "#F0E442"
"""What is frozen, what is trained, and activations: told apart in grey too, and hatched where it matters."""


def start() -> None:
    """The style of all figures (analysis/plots.py), sharp on screen and in print, and one thread for matrix products,
    which are small here: on a busy machine two threads wait for each other far longer than they compute. From here on
    right answers are kept in mine.py beside the notebook. First cell of every notebook."""
    import matplotlib.pyplot as plt
    from threadpoolctl import threadpool_limits

    start_keeping(Path("mine.py"))
    threadpool_limits(limits=1)
    plt.rcParams.update(STYLE)
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ModuleNotFoundError:  # outside Jupyter there is no inline figure to sharpen
        return
    set_matplotlib_formats("retina")


def show(alt: str) -> None:
    """Show the figure that was drawn last, and say in words what it shows: for those who do not see it, and where it
    cannot be drawn."""
    import matplotlib.pyplot as plt
    from IPython.display import display

    figure = plt.gcf()
    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


ICONS = {"minus": "−", "plus": "+", "fast-backward": "|&lt;", "step-backward": "◂", "play fa-flip-horizontal": "◀",
         "pause": "||", "play": "▶", "step-forward": "▸", "fast-forward": "&gt;|"}  # fmt: skip
"""The buttons of an animation, as characters: matplotlib takes them from a server."""


def animate(figure: Any, draw: Callable[[Any], Any], frames: Sequence[Any], alt: str) -> None:
    """A film that runs in the page, without a kernel, and below it a still: the last of the ``frames``. ``draw`` makes
    the figure what it is at one frame; ``alt`` says what moves, in words."""
    import matplotlib.pyplot as plt
    from IPython.display import HTML, display
    from matplotlib.animation import FuncAnimation

    with plt.rc_context({"figure.dpi": 54, "savefig.dpi": 54, "animation.embed_limit": 2}):
        figure.set_dpi(54)
        film = FuncAnimation(figure, draw, frames, init_func=lambda: []).to_jshtml(fps=4, default_mode="reflect")
    film = re.sub(r"<link rel=\"stylesheet\"\s+href=[^>]*>\s*", "", film)
    for icon, character in ICONS.items():
        film = film.replace(f'<i class="fa fa-{icon}"></i>', character)
    film = film.replace('class="anim-slider"', 'class="anim-slider" aria-label="frame"')
    film = film.replace("<img id=", f'<img alt="{escape(alt, quote=True)}" id=')
    display(HTML(film), metadata={"text/html": {"alt": alt}})
    draw(frames[-1])
    show(f"The last frame: {alt}")


def draw_product(axis: Any, factors: Sequence[tuple[str, int, int, str]]) -> None:
    """Matrices side by side, to scale: (label, rows, columns, colour) each. A trained matrix is hatched.

    One without rows is no matrix: its label is a sign between two of them, "+" or "=".
    """
    from matplotlib.patches import Rectangle

    unit = max(rows for _, rows, _, _ in factors)
    gap, x = 0.22 * unit, 0.0
    for label, rows, columns, colour in factors:
        if rows == 0:
            axis.text(x, 0, label, ha="center", va="center", fontsize=16)
            x += gap
            continue
        hatch = "////" if colour == TRAINED else None
        axis.add_patch(Rectangle((x, -rows / 2), columns, rows, fc=colour, ec="black", lw=0.8, hatch=hatch))
        middle = x + columns / 2
        axis.text(middle, 0.56 * unit, label, ha="center", va="bottom", fontsize=12)
        axis.text(middle, -0.56 * unit, f"{rows} × {columns}", ha="center", va="top", fontsize=9)
        x += columns + gap
    axis.set_xlim(-0.02 * x, x - gap + 0.02 * x)
    axis.set_ylim(-0.75 * unit, 0.75 * unit)
    axis.set_aspect("equal")
    axis.axis("off")


def draw_graph(
    axis: Any,
    nodes: dict[str, tuple[float, float]],
    arrows: Sequence[tuple[str, str, str, float]],
    labels: dict[str, str] | None = None,
    marked: Sequence[str] = (),
) -> None:
    """Quantities in boxes, and what leads from one to the other: arrows (from, to, text, bend).

    ``labels`` are written in place of the nodes' names; arrows whose text is in ``marked`` are in the colour of
    what is trained.
    """
    for a, b, text, bend in arrows:
        (xa, ya), (xb, yb) = nodes[a], nodes[b]
        colour = TRAINED if text in marked else "black"
        style = {"arrowstyle": "-|>", "color": colour, "lw": 2.2 if text in marked else 1.3, "shrinkA": 16,
                 "shrinkB": 16, "connectionstyle": f"arc3,rad={bend}"}  # fmt: skip
        axis.annotate("", (xb, yb), (xa, ya), arrowprops=style)
        # an arc of matplotlib's bends by half of rad times the distance, to the right of its direction
        middle = ((xa + xb) / 2 + bend / 2 * (yb - ya), (ya + yb) / 2 - bend / 2 * (xb - xa))
        axis.annotate(text, middle, xytext=(0, 5), textcoords="offset points", ha="center", va="bottom", color=colour,
                      fontsize=11)  # fmt: skip
    for name, (x, y) in nodes.items():
        axis.text(x, y, (labels or {}).get(name, name), ha="center", va="center", fontsize=11,
                  bbox={"boxstyle": "round,pad=0.35", "fc": "white", "ec": "black"})  # fmt: skip
    xs, ys = zip(*nodes.values(), strict=True)
    axis.set_xlim(min(xs) - 0.5, max(xs) + 0.5)
    axis.set_ylim(min(ys) - 0.7, max(ys) + 1.0)
    axis.axis("off")


def draw_matrix(axis: Any, values: Any, title: str = "", numbers: bool = False, limit: float | None = None) -> Any:
    """A matrix as a heat-map: orange negative, white zero, blue positive; ``numbers`` writes its entries in."""
    from matplotlib.colors import LinearSegmentedColormap

    values = np.atleast_2d(values)
    limit = limit or float(np.abs(values).max()) or 1.0
    colours = LinearSegmentedColormap.from_list("orange_blue", ["#D55E00", "#FFFFFF", "#0072B2"])
    image = axis.imshow(values, cmap=colours, vmin=-limit, vmax=limit)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(True)
    axis.set_title(title)
    if numbers:
        for (i, j), value in np.ndenumerate(values):
            dark = abs(value) > 0.7 * limit
            axis.text(j, i, f"{value:.2g}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
    return image


def draw_yes_no(axis: Any, yes: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    """A table of truths: blue with a dot where True, white with a cross where False; readable without colour."""
    from matplotlib.colors import ListedColormap

    yes = np.asarray(yes, dtype=bool)
    axis.imshow(yes, cmap=ListedColormap(["#FFFFFF", "#9CC9E5"]), vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.tick_params(length=0, labelbottom=False, labeltop=True)
    axis.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axis.grid(False)
    axis.grid(which="minor", color="#CCCCCC", lw=0.6)
    axis.tick_params(which="minor", length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    for (i, j), value in np.ndenumerate(yes):
        axis.text(j, i, "●" if value else "✗", ha="center", va="center", fontsize=8,
                  color="black" if value else "#B00020")  # fmt: skip
