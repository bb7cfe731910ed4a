"""The tutorials are executed afresh, and have the structure that a reader relies on."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tlora_ref.course import exercises, notebooks
from tlora_ref.course.job import number

TUTORIALS = Path(__file__).parents[1] / "tutorials"
PATHS = sorted(TUTORIALS.glob("*.ipynb"))
BYTES = 1_000_000
HANGS = 600
"""Seconds after which a cell that does not end is taken to hang."""

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


def title(path):
    """What a notebook is called in headings: the one before 00 has no number of its own."""
    return {"000": "Before 00"}.get(number(path), number(path))


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def sources(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_there_are_tutorials_and_every_file_of_exercises_belongs_to_one():
    numbers = [number(path) for path in PATHS]
    assert len(numbers) == len(set(numbers)) >= 4
    assert set(notebooks()) <= set(numbers)


@pytest.mark.notebook
@each_notebook
def test_a_notebook_runs_from_top_to_bottom_without_a_warning(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=HANGS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    # an error while a figure is drawn is an output and stops nothing, so it is looked for here
    assert [o for o in outputs(notebook) if o.output_type == "error"] == []
    assert [o.text for o in outputs(notebook) if o.get("name") == "stderr"] == []


@each_notebook
def test_what_is_committed_was_executed_and_is_small_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < BYTES
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"] == []
    text = nbformat.writes(notebook)
    assert not re.search(r"/home/|/root/|/tmp/|/work/|/Users/|site-packages|ipykernel_\d", text)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


@each_notebook
def test_a_notebook_says_what_it_is_for_and_ends_with_what_was_learnt(path):
    notebook = nbformat.read(path, as_version=4)
    first, *_, summary, after = sources(notebook, "markdown")
    assert re.match(rf"# {title(path)} · \w", first)
    for heading in ("Objective.", "Prerequisites.", "Time."):
        assert f"**{heading}** " in first
    assert summary.startswith("## Summary\n")
    assert after.startswith("## What to try next\n")
    assert any("image/png" in o.get("data", {}) for o in outputs(notebook)), "no figure"
    assert max(map(len, "\n".join(sources(notebook, "code")).split("\n"))) <= 100, "a line is cut off on a page"
    assert max(source.count("\n") + 1 for source in sources(notebook, "code")) <= 40, "a cell is too long"


@each_notebook
def test_the_exercises_of_a_notebook_are_those_that_are_graded(path):
    """A heading, a solution cell and a grader cell for each, in this order, with nbgrader's metadata."""
    notebook, book = nbformat.read(path, as_version=4), number(path)
    known = exercises(book) if book in notebooks() else {}
    assert 2 <= len(known) <= 4 or not known
    graded = []
    for i, cell in enumerate(notebook.cells):
        meta = cell.metadata.get("nbgrader")
        if meta is None:
            assert "BEGIN SOLUTION" not in cell.source
            assert not re.search(r"^check\(", cell.source, re.M)
            continue
        assert set(meta) == {"schema_version", "grade_id", "grade", "solution", "locked", "task"} | (
            {"points"} if meta["grade"] else set()
        )
        assert (meta["schema_version"], meta["task"]) == (3, False)
        assert meta["locked"] == (not meta["solution"])
        assert cell.id == meta["grade_id"]
        if meta["grade"] and meta["solution"]:  # marked by hand
            assert meta["points"] >= 2
            continue
        assert meta["grade"] == (not meta["solution"])
        if not meta["grade"]:
            graded.append(meta["grade_id"].removeprefix(f"{book}-"))
            heading, check = notebook.cells[i - 1], notebook.cells[i + 1]
            assert heading.source.startswith(f"## Exercise {len(graded)}: ")
            function = re.search(r"^def (\w+)\(", cell.source, re.M).group(1)
            assert check.source == f'check("{book}", {graded[-1]}={function})'
            assert check.metadata["nbgrader"]["grade_id"] == f"{meta['grade_id']}-check"
            assert 1 <= check.metadata["nbgrader"]["points"] <= 3
    assert graded == list(known)


@each_notebook
def test_cell_ids_follow_from_the_place(path):
    notebook = nbformat.read(path, as_version=4)
    for i, cell in enumerate(notebook.cells):
        assert cell.id == cell.metadata.get("nbgrader", {}).get("grade_id", f"{number(path)}-{i:02d}")


@each_notebook
def test_every_notebook_has_a_teaching_note(path):
    note = (TUTORIALS / "notes" / f"{path.stem}.md").read_text()
    assert note.startswith(f"# {title(path)} · ")
    for heading in ("## Timing", "## Common mistakes", "## Discussion"):
        assert len(note.split(heading)[1].split("##")[0]) > 100, heading
