"""Around the notebooks: glossary, syllabus, points, exam bank, slides, and words for what cannot be seen."""

import html
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

import tlora_ref.course.job as job
from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.counts import activations, trained
from tlora_ref.course import exercises, notebooks
from tlora_ref.course.exam import BANK, bank, quiz, sheet
from tlora_ref.course.glossary import WORDS, anchors, linked
from tlora_ref.course.slides import LECTURES, lecture

PATHS = job.solved()
TUTORIALS = Path(__file__).parents[1] / "tutorials"

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


# --- figures in words -------------------------------------------------------------------------------


@each_notebook
def test_every_figure_has_a_text_of_its_own(path):
    texts = []
    for cell in read(path).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                texts.append(output.metadata["image/png"].get("alt", ""))
            if "<script" in output.get("data", {}).get("text/html", ""):  # a film, with a still below it
                assert output.metadata["text/html"]["alt"] in html.unescape(output.data["text/html"])
                assert 'rel="stylesheet"' not in output.data["text/html"], "a film asks for nothing from elsewhere"
    assert len(set(texts)) == len(texts) > 0
    assert all(50 < len(text) < 300 for text in texts), texts


def test_there_are_three_films_each_with_a_still():
    films = []
    for path in PATHS:
        for cell in read(path).cells:
            kinds = [kind for o in cell.get("outputs", []) for kind in o.get("data", {}) if kind != "text/plain"]
            if "animate(" in cell.source and cell.cell_type == "code" and "import" not in cell.source:
                assert kinds == ["text/html", "image/png"]
                films.append(job.number(path))
    assert films == ["00", "03", "10"]


# --- the glossary -----------------------------------------------------------------------------------


def test_every_linked_word_is_in_the_glossary_and_its_headings_are_in_order():
    assert set(WORDS) <= anchors()
    headings = re.findall(r"^## (.+)$", (TUTORIALS / "glossary.md").read_text(), re.M)
    assert [h.lower() for h in headings] == headings
    assert len(set(headings)) == len(headings) >= 40


@each_notebook
def test_words_are_linked_where_they_first_occur_and_only_there(path):
    notebook = read(path)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.findall(r"\]\(glossary\.md#([\w-]+)\)", text)
    assert len(set(found)) == len(found) > 0
    assert set(found) <= anchors()
    assert nbformat.writes(linked(read(path))) == nbformat.writes(notebook), "python -m tlora_ref.course.glossary"


def test_a_word_is_no_link_in_code_formulas_headings_and_links():
    sources = ["# A rank", "`rank` $rank$ [rank](x.md) [A rank](glossary.md#rank), a rank and a rank"]
    cells = [nbformat.v4.new_markdown_cell(source) for source in sources]
    first, second = linked(nbformat.v4.new_notebook(cells=cells)).cells
    assert first.source == "# A rank"
    assert second.source == "`rank` $rank$ [rank](x.md) A [rank](glossary.md#rank), a rank and a rank"


# --- the syllabus -----------------------------------------------------------------------------------


def points(path):
    """(by running, by hand) of a notebook."""
    found = [0, 0]
    for cell in read(path).cells:
        meta = cell.metadata.get("nbgrader", {})
        found[bool(meta.get("solution"))] += meta.get("points", 0)
    return tuple(found)


def test_the_syllabus_lists_every_notebook_with_its_points():
    page = (TUTORIALS / "syllabus.md").read_text()
    rows = re.findall(r"^\| \[([\w ]+?) .*?\]\((\w+\.ipynb)\) \| (.*?) \| (\d+) \| (\d+) \|$", page, re.M)
    assert [row[1] for row in rows] == [path.name for path in PATHS]
    for row, path in zip(rows, PATHS, strict=True):
        assert (int(row[3]), int(row[4])) == points(path)
    total = np.sum([points(path) for path in PATHS], axis=0)
    assert f"{total[0]} points by running and {total[1]} by hand" in page


def test_prerequisites_come_before_and_every_route_fits_its_hours():
    page = (TUTORIALS / "syllabus.md").read_text()
    books = [job.number(path) for path in PATHS]
    arrows = re.findall(r"^    N(\w+) --> N(\w+)", page, re.M)
    assert {b for arrow in arrows for b in arrow} == set(books)
    assert all(books.index(a) < books.index(b) for a, b in arrows)
    said = {job.number(path): re.search(r"Time\.\*\* (\w+)", read(path).cells[0].source)[1] for path in PATHS}
    minutes = {book: 180 if time == "Three" else int(time) for book, time in said.items()}
    for hours, listed in re.findall(r"^\| (\d+) hours \| ([\d, ]+) \|", page, re.M):
        route = listed.split(", ")
        assert set(route) <= set(books)
        assert sum(minutes[b] for b in route) <= 60 * int(hours)
        needed = {a for a, b in arrows if b in route}
        assert needed <= set(route), f"{hours} hours: {needed - set(route)} is needed"


@each_notebook
def test_there_is_a_question_to_answer_in_words(path):
    cells = read(path).cells
    texts = [i for i, c in enumerate(cells) if c.cell_type == "markdown" and "nbgrader" in c.metadata]
    assert texts
    for i in texts:
        assert len(cells[i].source) > 250, "an answer that a student can compare with"
        assert cells[i].metadata.nbgrader["points"] >= 2


# --- the exam ---------------------------------------------------------------------------------------


def test_the_bank_has_forty_questions_of_every_notebook_each_with_an_answer():
    asked = bank(0)
    assert len(asked) == len(BANK) >= 40
    assert list(dict.fromkeys(q.notebook for q in asked)) == [job.number(path) for path in PATHS]
    assert len({q.asks for q in asked}) == len(asked)
    assert all(q.answer and "{" not in q.asks + q.answer for q in asked)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_in_answers_are_the_librarys(seed):
    for q in bank(seed):
        n = q.numbers
        if "How many numbers does TLoRA of rank" in q.asks:
            assert n["a"] == trained("tlora", [(n["I"], n["O"])] * n["M"], n["R"])
        if "How many does LoRA of rank" in q.asks:
            assert n["a"] == trained("lora", [(n["I"], n["O"])] * n["M"], n["R"])
        if "How many numbers does VeRA" in q.asks:
            assert n["a"] == trained("vera", [(n["I"], n["O"])] * n["M"], n["R"])
        if "autograd keep" in q.asks:
            assert n["a"] == activations("tlora", n["N"], n["I"], n["O"], n["R"])
        if "largest rank at which TLoRA" in q.asks:
            assert trained("tlora", [(99, 99)], n["a"]) <= n["n"] < trained("tlora", [(99, 99)], n["a"] + 1)


def test_variants_differ_and_each_is_the_same_every_time():
    assert bank(3) == bank(3)
    assert sum(a.asks != b.asks for a, b in zip(bank(3), bank(4), strict=True)) >= 10
    assert [q.notebook for q in quiz(3)] == [job.number(path) for path in PATHS]
    assert quiz(3) == quiz(3) != quiz(4)


def test_answers_are_in_the_instructors_part_alone(tmp_path, capsys):
    assert main(["course", "--out", str(tmp_path / "course"), "--instructor", "--variant", "7"]) == 0
    folder = tmp_path / "course"
    assert (folder / "quiz.md").read_text() == sheet("Quiz 7", quiz(7), answers=False)
    exam, answers = (folder / "instructor" / name for name in ("exam.md", "quiz_answers.md"))
    given = "".join(path.read_text() for path in folder.glob("*") if path.is_file())
    for q in bank(7):
        assert f"**{q.answer}**" in exam.read_text()
        assert f"**{q.answer}**" not in given
    assert all(f"**{q.answer}**" in answers.read_text() for q in quiz(7))
    assert (folder / "glossary.md").read_text() == (TUTORIALS / "glossary.md").read_text()
    assert main(["course", "--out", str(tmp_path / "other"), "--variant", "-1"]) == 2
    assert "--variant is -1" in capsys.readouterr().err


# --- slides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lecture_has_ten_slides_at_most_with_the_notebooks_figures(number):
    slides = list(LECTURES.values())[number - 1]
    notebook = lecture(number, PATHS)
    nbformat.validate(notebook)
    kinds = [cell.metadata.slideshow.slide_type for cell in notebook.cells]
    assert kinds.count("slide") == len(slides) <= 10
    figures = [cell for cell in notebook.cells if "attachments" in cell]
    assert len(figures) == sum(bool(slide.figure) for slide in slides) >= 8
    for cell in figures:
        assert re.search(r"!\[[^\]]{50,}\]\(attachment:figure\.png\)", cell.source), "a figure has a text"
        assert cell.attachments["figure.png"]["image/png"]


@pytest.mark.slow
def test_the_slides_become_a_page(tmp_path):
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is in the extra 'tutorials'")
    page, _ = nbconvert.SlidesExporter().from_notebook_node(lecture(1, PATHS))
    slides = next(iter(LECTURES.values()))
    assert page.count("<section") >= len(slides)
    assert page.count("data:image/png;base64") >= sum(bool(slide.figure) for slide in slides)
    assert "No description has been provided" not in page


def test_a_slide_whose_figure_is_gone_is_an_error():
    with pytest.raises(InputError, match="no cell 02-04 with a figure"):
        lecture(2, [path for path in PATHS if job.number(path) != "02"])


def test_every_exercise_is_worth_something_and_the_hardest_three():
    worth = {}
    for path in PATHS:
        for cell in read(path).cells:
            meta = cell.metadata.get("nbgrader", {})
            if meta.get("grade") and not meta["solution"]:
                worth[cell.id.removesuffix("-check")] = meta["points"]
    assert len(worth) == sum(len(exercises(number)) for number in notebooks())
    assert set(worth.values()) == {1, 2, 3}
    assert {name for name, p in worth.items() if p == 3} == {
        "02-backward",
        "03-check",
        "07-attention",
        "12-dora",
        "12-lorta",
    }
