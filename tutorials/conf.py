"""The book: pip install -e ".[book]" && python -m sphinx -b html tutorials out/book

Sphinx reads the pages and the executed notebooks of this folder as they are; nothing is run. What follows from the
package is written into generated/ when a build begins: the API reference, a page for each method of the gallery, the
``--help`` of each job. A new page or notebook needs no line here: ``contents`` puts it under its part, and one that no
part names under "More".
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parent
ROOT = TUTORIALS.parent
sys.path.insert(0, str(ROOT))

import tlora_ref  # noqa: E402
from tlora_ref.__main__ import JOBS, build_parser  # noqa: E402
from tlora_ref.counts import closed_forms  # noqa: E402
from tlora_ref.lab import gallery  # noqa: E402

REPOSITORY = "tlora-ref/tlora_ref"
"""OWNER/NAME on GitHub: the links to sources, Colab and Binder follow from it."""
BRANCH = "main"
SOURCE = f"https://github.com/{REPOSITORY}/blob/{BRANCH}"

# --- Sphinx ----------------------------------------------------------------------------------------

project = "tlora_ref"
author = copyright = "The tlora_ref authors"
version = release = tlora_ref.__version__
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["**/.ipynb_checkpoints", "_static"]
suppress_warnings = ["mystnb.unknown_mime_type"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block"]
myst_heading_anchors = 3

autodoc_mock_imports = ["torch", "transformers"]
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "imported-members": True, "no-value": True}
autodoc_inherit_docstrings = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = "tlora_ref"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_copy_source = False
html_theme_options = {
    "source_repository": f"https://github.com/{REPOSITORY}/",
    "source_branch": BRANCH,
    "source_directory": "tutorials/",
    # WCAG AA on the theme's own backgrounds
    "light_css_variables": {
        "color-brand-primary": "#0b5394",
        "color-brand-content": "#0b5394",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8ab8ff",
        "color-brand-content": "#8ab8ff",
    },
}
mathjax_path = "mathjax/tex-chtml.js"
copybutton_selector = (
    "div.cell_input pre, div.highlight-python pre, div.highlight-bash pre"
)
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# --- contents --------------------------------------------------------------------------------------

PARTS = {
    "Learn": ("course", "[0-9]*", "interactive", "glossary", "syllabus"),
    "Methods": ("family", "gallery"),
    "Use": ("in_your_model", "gradient_checker", "generated/jobs"),
    "Evidence": ("paper_and_audit", "subspace", "real_language", "benchmarks", "glue"),
    "Reference": ("generated/api/*", "generated/contributing", "generated/changelog"),
    "Teach": ("notes/*",),
}
"""The parts of the book: names of pages, or patterns for them."""


def pages(folder: Path) -> list[str]:
    """The name of every page and notebook below a folder, without its suffix, sorted."""
    found = [
        path.relative_to(folder).with_suffix("")
        for path in folder.rglob("*")
        if path.suffix in (".md", ".ipynb")
    ]
    hidden = (".", "_")
    return sorted(
        page.as_posix()
        for page in found
        if not any(part.startswith(hidden) for part in page.parts)
    )


def contents(names: list[str]) -> dict[str, list[str]]:
    """The pages of every part; those of one method are reached from the gallery."""
    left = [
        name
        for name in names
        if name != "index" and not name.startswith("generated/methods/")
    ]
    parts: dict[str, list[str]] = {}
    for part, patterns in PARTS.items():
        parts[part] = [name for pattern in patterns for name in left if Path(name).match(pattern)
                       and name.count("/") == pattern.count("/")]  # fmt: skip
        left = [name for name in left if name not in parts[part]]
    return {part: names for part, names in {**parts, "More": left}.items() if names}


def toctree(names: list[str], caption: str) -> str:
    """A hidden table of contents, which the sidebar shows."""
    return "\n".join(
        ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""]
    )


# --- what is generated -----------------------------------------------------------------------------

MODULES = {
    "tlora_ref": "What is imported first: configurations, a model, training.",
    "tlora_ref.by_hand": "NumPy, with gradients by hand.",
    "tlora_ref.by_autograd": "The same in PyTorch.",
    "tlora_ref.by_autograd.inject": "In any torch model.",
    "tlora_ref.by_autograd.linear": "One adapted linear layer.",
    "tlora_ref.by_autograd.fused": "TLoRA's layer in one node of autograd's graph.",
    "tlora_ref.gradcheck": "Oracles and a checker for anyone's gradients.",
    "tlora_ref.gradcheck.torch_check": "The same for torch.",
    "tlora_ref.counts": "Closed forms of what is trained, stored and kept.",
    "tlora_ref.chains": "Chains of adapters.",
    "tlora_ref.allocate": "Ranks and matrices from data.",
    "tlora_ref.export": "An adapter as a LoRA for stock PEFT.",
    "tlora_ref.methods": "What a method and a kernel are, as data.",
    "tlora_ref.course": "Exercises, hints and graders.",
}
"""The modules of the API reference, and what each is for."""


def api_page(module: str) -> str:
    """The public names of one module, from their docstrings."""
    own = (
        ""
        if (ROOT / module.replace(".", "/")).is_dir()
        else "\n   :no-imported-members:"
    )
    directive = f"```{{eval-rst}}\n.. automodule:: {module}{own}\n```"
    return f"# {module}\n\n{MODULES[module]}\n\n{directive}\n"


def method_page(entry: gallery.Entry) -> str:
    """One method: its picture, its facts, what its page says, and that page itself."""
    file = Path(entry.module.__file__).relative_to(ROOT)
    equation = re.sub(r",? {3,}", "\n", entry.equation)  # a part a line
    rows = [("in commands", f"`{entry.name}`"), ("paper", entry.paper), ("trained on RoBERTa-large", entry.trained),
            ("needs", entry.needs), ("merges into the weight", entry.merges)]  # fmt: skip
    facts = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"# {entry.label}\n\n![{entry.label}, {entry.picture}](../../images/gallery_{entry.name}.png)\n\n"
        f"Dark is trained, light is frozen. [All methods](../../gallery.md) are in the gallery.\n\n"
        f"| property | value |\n|---|---|\n{facts}\n\n```text\n{equation}\n```\n\n"
        f"The whole page `{file.as_posix()}`, as it runs:\n\n"
        f"```{{literalinclude}} ../../../{file.as_posix()}\n:language: python\n```\n"
    )


def jobs_page() -> str:
    """The ``--help`` of every job."""
    os.environ["COLUMNS"] = "88"
    text = "# The jobs\n\n`python -m tlora_ref JOB` runs a job; this is what each says with `--help`.\n"
    for name, summary in JOBS.items():
        job = (
            build_parser(name)._subparsers._group_actions[0].choices[name]
        )  # argparse has no public way to it
        text += f"\n## {name}\n\n{summary}\n\n```text\n{job.format_help()}```\n"
    return text


def generated() -> dict[str, str]:
    """Every generated page by its name in generated/."""
    return {
        "jobs.md": jobs_page(),
        "contributing.md": (ROOT / ".github" / "CONTRIBUTING.md").read_text(
            encoding="utf-8"
        ),
        "changelog.md": (ROOT / ".github" / "CHANGELOG.md").read_text(encoding="utf-8"),
        **{
            f"api/{module}.md": api_page(module)
            for module in MODULES
            if find_spec(module)
        },
        **{
            f"methods/{entry.name}.md": method_page(entry)
            for entry in gallery.entries()
        },
    }


def write_generated(app: Any) -> None:
    """Write what has changed, so that a second build reads only that, and remove what is no longer generated."""
    folder, every = Path(app.srcdir) / "generated", generated()
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).as_posix() not in every:
            path.unlink()
    for name, text in every.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


# --- what is changed on the way to the site --------------------------------------------------------


def launch(name: str) -> str:
    """The links above a notebook."""
    path = f"tutorials/{name}.ipynb"
    colab = (
        f"https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/{path}"
    )
    binder = f"https://mybinder.org/v2/gh/{REPOSITORY}/{BRANCH}?labpath={path.replace('/', '%2F')}"
    install = (
        f'%pip install "tlora_ref[tutorials] @ git+https://github.com/{REPOSITORY}"'
    )
    return f"Run it: [in Colab]({colab}) or [in Binder]({binder}), with `{install}` in a first cell."


def graph(found: re.Match[str]) -> str:
    """A Mermaid graph of plain arrows as a picture: a row for all that is equally far from the start."""
    arrows = re.findall(r"(\w+) --> (\w+)", found[1])
    level: dict[str, int] = {}
    for _ in arrows:  # the longest way to each
        for a, b in arrows:
            level[b] = max(level.get(b, 0), level.setdefault(a, 0) + 1)
    rows = [
        sorted(n for n in level if level[n] == row)
        for row in range(max(level.values()) + 1)
    ]
    at = {
        n: (310 + 90 * (i - (len(row) - 1) / 2), 30 + 80 * y)
        for y, row in enumerate(rows)
        for i, n in enumerate(row)
    }
    lines = "".join(
        f'<line x1="{at[a][0]}" y1="{at[a][1] + 16}" x2="{at[b][0]}" y2="{at[b][1] - 17}" marker-end="url(#head)"/>'
        for a, b in arrows
    )
    boxes = "".join(
        f'<rect x="{x - 35}" y="{y - 16}" width="70" height="32" rx="6"/><text x="{x}" y="{y + 5}">{n}</text>'
        for n, (x, y) in at.items()
    )
    words = "; ".join(
        f"{b} needs {', '.join(x for x, y in arrows if y == b)}"
        for b in level
        if level[b]
    )
    head = '<marker id="head" orient="auto" markerWidth="9" markerHeight="9" refX="8" refY="4"><path d="M0 0 9 4 0 8z"/></marker>'
    box = f"0 0 620 {80 * len(rows) - 20}"
    return f'<svg class="graph" viewBox="{box}" role="img" aria-label="{words}">{head}{lines}{boxes}</svg>\n'


def read(app: Any, name: str, source: list[str]) -> None:
    """Links that leave this folder lead to the repository; a notebook gets its launch links, the first page the
    contents, and the gallery links to the pages of its methods."""
    depth = name.count("/")
    text = source[0]
    if name == "gallery":
        text = re.sub(
            r"\[([^\]]+)\]\(\.\./[^)]+\) (`(\w+)`)",
            r"[\1](generated/methods/\3.md) \2",
            text,
        )
        text += toctree(
            sorted(
                n for n in pages(Path(app.srcdir)) if n.startswith("generated/methods/")
            ),
            "Methods",
        )
    up = "../" * (depth + 1)
    text = re.sub(rf"\]\({re.escape(up)}\.github/(CONTRIBUTING|CHANGELOG)\.md\)",
                  lambda found: f"]({'../' * depth}generated/{found[1].lower()}.md)", text)  # fmt: skip
    if name in ("generated/contributing", "generated/changelog"):
        text = text.replace("](../tutorials/", "](../")
    if not name.startswith("generated/"):
        text = re.sub(rf"\]\({re.escape(up)}(?!\.\./)", f"]({SOURCE}/", text)
    text = re.sub(r"^```mermaid\n(.*?)```\n", graph, text, flags=re.M | re.S)
    if name == "index":
        text += "".join(
            toctree(names, part)
            for part, names in contents(pages(Path(app.srcdir))).items()
        )
    if Path(app.env.doc2path(name)).suffix == ".ipynb":
        notebook = json.loads(text)
        notebook["cells"].insert(
            1,
            {
                "cell_type": "markdown",
                "id": "launch",
                "metadata": {},
                "source": launch(name),
            },
        )
        text = json.dumps(notebook)
    source[0] = text


MARKS = re.compile(r"(``.+?``)|([\\*`|_])", re.S)


def plain(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """The docstrings are plain text. A paragraph whose lines are laid out stays as it is; in the others, what the
    markup would read as its own is escaped."""
    paragraphs = re.split(r"\n\s*\n", cleandoc("\n".join(lines)))
    lines.clear()
    for paragraph in paragraphs:
        rows = paragraph.split("\n")
        if any(
            re.match(r" ", row) or re.search(r"\S {3,}\S|^[-=]{3,}$", row)
            for row in rows
        ):
            lines += ["::", "", *(f"    {row}" for row in rows), ""]
        else:
            # a literal may stand against a letter or a bracket
            text = MARKS.sub(
                lambda m: rf"\ {m[1]}\ " if m[1] else "\\" + m[2], paragraph
            )
            lines += [*text.split("\n"), ""]


def complete(
    app: Any, name: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """The closed forms, as data beside the sliders that evaluate them; and the level of the sidebar's captions, which
    the theme says are headings."""
    sidebar = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = sidebar.replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )
    if 'class="counts' in context.get("body", ""):
        forms = html.escape(json.dumps(closed_forms()), quote=False)
        context["body"] += (
            f'<script type="application/json" id="closed-forms">{forms}</script>'
        )


def copy_mathjax(app: Any, error: Exception | None) -> None:
    """MathJax and its fonts, from the package that carries them: only what these pages can ask for."""
    if error is None and app.builder.format == "html":
        shipped = (
            Path(find_spec("sphinx-mathjax-offline").origin).parent
            / "static"
            / "mathjax"
        )
        there = Path(app.outdir) / "_static" / "mathjax"
        for part in ("output/chtml/fonts/woff-v2", "input/tex/extensions"):
            shutil.copytree(shipped / part, there / part, dirs_exist_ok=True)
        shutil.copy(shipped / "tex-chtml.js", there)


def setup(app: Any) -> None:
    """Sphinx calls this when it has read the file."""
    app.connect("builder-inited", write_generated)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", plain)
    app.connect("html-page-context", complete, priority=900)  # after the theme
    app.connect("build-finished", copy_mathjax)
