"""README.md and the pages of tutorials/: what they show is what the code does, and nothing they point at is missing."""

import ast
import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tlora_ref
from tlora_ref.__main__ import build_parser

PACKAGE = Path(tlora_ref.__file__).parent
ROOT = PACKAGE.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "tutorials").glob("*.md"))]
RESULTS = PACKAGE / "lab" / "bench" / "results"

TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
EVERYTHING = "\n".join(TEXT.values())


# --- code -----------------------------------------------------------------------------------------

GIVEN = {
    "a folder of BERT, and token ids, labels, mask and token types": """
import numpy as np
from transformers import BertConfig, BertForSequenceClassification
size = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40)
BertForSequenceClassification(BertConfig(vocab_size=23, **size)).save_pretrained("folder/of/bert")
rng = np.random.default_rng(0)
ids, types = rng.integers(0, 23, (4, 6)), np.zeros((4, 6), int)
labels, mask = np.array([0, 1, 0, 1]), np.ones((4, 6), bool)
"""
}
"""What a block needs that a reader brings along; the comment above the block names it."""

BLOCK = re.compile(
    r"(?:<!-- given: (?P<given>.*?) -->\n\n)?```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<shown>.*?)```)?", re.S
)
BLOCKS = [(page, match) for page in PAGES for match in BLOCK.finditer(TEXT[page])]


def without_rounding(lines):
    """Rounding errors, like 1.8e-15, differ between machines; everything else does not."""
    return [re.sub(r"\d\.\de[-+]\d\d", "#", line.rstrip()) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page.stem}-{m.start()}" for page, m in BLOCKS])
def test_a_python_block_prints_what_the_page_says(page, block, tmp_path):
    """What stands under the block, or behind each print; and nothing is left in the folder, so it can run again."""
    beside = re.findall(r"^print\(.*\)  # (.*)$", block["code"], re.M)
    expected = block["shown"].splitlines() if block["shown"] else beside
    assert expected or block["given"], "the page does not say what this block prints"
    script = GIVEN[block["given"]] + block["code"] if block["given"] else block["code"]
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    if expected:
        assert without_rounding(result.stdout.splitlines()) == without_rounding(expected)
        assert not list(tmp_path.iterdir())


COMMANDS = sorted(set(re.findall(r"-m tlora_ref ([^`\n|&()]+)", EVERYTHING)) - {"JOB", "--help"})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_pages_is_understood(command):
    words = shlex.split(command)
    assert build_parser(words[0]).parse_args(words).job == words[0]


# --- tables and figures ---------------------------------------------------------------------------


def table_of_a_run(name):
    """The table of a job's stored results, made by the job's own function."""
    report = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    module = import_module(f"tlora_ref.lab.jobs.{report['job']}")
    return module.results_table(report["methods" if name == "demo" else "rows"])


def table_of_a_part(name):
    """The table of one part of the stored results of the random subspace."""
    report = json.loads((RESULTS / "subspace.json").read_text(encoding="utf-8"))
    assert not report["quick"]
    return import_module("tlora_ref.lab.jobs.subspace").TABLES[name](report[name])


def table_of_a_benchmark(part):
    """The table of one part of the benchmark, which was not a quick one, and the machine it ran on."""
    report = json.loads((RESULTS / f"bench_{part}.json").read_text(encoding="utf-8"))
    assert not report["quick"]
    bench = import_module("tlora_ref.lab.jobs.bench")
    return f"{bench.TABLES[part](report[part])}\n\n{bench.machine(report)}"


SHOWN = re.findall(r"<!-- table: (.*?) -->\n\n```text\n(.*?)```\n\n<!-- end -->", EVERYTHING, re.S)


def test_every_stored_result_has_its_table_on_one_page():
    runs = {path.stem for path in RESULTS.glob("*.json")} - {"subspace"}
    parts = {name.replace("_", " ") for name in runs if name.startswith("bench_")}
    runs = {name for name in runs if not name.startswith("bench_")}
    stored = json.loads((RESULTS / "subspace.json").read_text(encoding="utf-8"))
    parts |= {f"subspace {part}" for part in import_module("tlora_ref.lab.jobs.subspace").PARTS if part in stored}
    assert sorted(name for name, _ in SHOWN) == sorted(runs | parts)
    assert EVERYTHING.count("<!-- table: ") == len(SHOWN)


@pytest.mark.parametrize(("name", "shown"), SHOWN, ids=[name for name, _ in SHOWN])
def test_a_table_of_the_pages_is_the_one_of_its_results(name, shown):
    job, _, part = name.partition(" ")
    makers = {"bench": table_of_a_benchmark, "subspace": table_of_a_part}
    expected = makers[job](part) if job in makers else table_of_a_run(name)
    assert shown == expected + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_link_and_figure_of_a_page_is_there(page):
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", TEXT[page]):
        assert text, f"{target} has no text, which a reader who cannot see it needs"
        # what a build of the book writes is looked for by test_book.py
        if not target.startswith(("https://", "generated/")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_figure_is_on_a_page_and_every_page_is_reached_from_the_readme():
    for figure in (ROOT / "tutorials" / "images").iterdir():
        assert f"images/{figure.name})" in EVERYTHING, figure.name
    reached, left = {README}, [README]
    while left:
        page = left.pop()
        targets = {page.parent / link for link in re.findall(r"\]\(([^)\s#]+\.md)", TEXT[page])}
        new = {target for target in targets if target in TEXT} - reached
        reached |= new
        left += new
    assert set(PAGES) - reached == set()


def test_the_readme_is_short():
    assert len(TEXT[README].split()) <= 1600


# --- the map --------------------------------------------------------------------------------------

MAP = re.search(r"^    tlora_ref/\n(?:    .*\n)+", TEXT[README], re.M).group(0)
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def test_the_map_names_every_folder_and_every_module_at_the_top():
    for folder in FOLDERS:
        assert f"{folder.name}/" in MAP, f"the README's map lacks the folder {folder.relative_to(ROOT)}"
    for path in PACKAGE.glob("*.py"):
        if path.name != "__init__.py":
            assert re.search(rf"\b{path.name}\b", MAP), f"the README's map lacks {path.name}"


def test_the_map_names_nothing_that_is_not_there():
    names = {path.name for path in PACKAGE.rglob("*.py")}
    assert set(re.findall(r"\w+\.py\b", MAP)) - names == set()
    folders = {path.name for path in [*ROOT.iterdir(), *ROOT.glob("tutorials/*"), *FOLDERS]}
    assert set(re.findall(r"(\w+)/", MAP)) - folders == set()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_docstring_of_a_folder_names_each_of_its_files(folder):
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    for path in folder.iterdir():
        is_folder = (path / "__init__.py").exists()
        if is_folder or (path.suffix == ".py" and path.name != "__init__.py"):
            name = f"{path.name}/" if is_folder else re.sub(r"^nb\d\d\.py$", "nbNN.py", path.name)
            assert re.search(rf"(?<!\w){re.escape(name)}", text), f"{folder.name}/__init__.py does not name {name}"
