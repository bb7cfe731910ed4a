"""The graders are graded, and what a student gets holds no solution."""

import re
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import tlora_ref.course.job as job
from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.course import ExerciseError, check, exercises, notebooks
from tlora_ref.course.edition import (
    BEGIN,
    END,
    STUB,
    TEXT_STUB,
    instructor_edition,
    requirements,
    student_edition,
    without_solution,
)

EXERCISES = [e for number in notebooks() for e in exercises(number).values()]
PATHS = job.solved()

each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: f"{e.notebook}-{e.name}")
GRADED = [path for path in PATHS if job.number(path) in notebooks()]

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
each_graded = pytest.mark.parametrize("path", GRADED, ids=lambda p: p.stem)


def graded(exercise, answer):
    """What ``check`` raises with."""
    with pytest.raises(ExerciseError) as caught:
        check(exercise.notebook, **{exercise.name: answer})
    return str(caught.value)


# --- every exercise -------------------------------------------------------------------------------


@each_exercise
def test_the_reference_passes(exercise, capsys):
    check(exercise.notebook, **{exercise.name: exercise.reference})
    assert capsys.readouterr().out.startswith(f"{exercise.notebook} {exercise.name}: right. ")


@each_exercise
def test_the_stub_is_not_implemented(exercise):
    def stub(*arguments):
        raise NotImplementedError()

    for answer in (stub, lambda *arguments: stub(), None, ...):
        assert graded(exercise, answer).startswith(f"{exercise.notebook} {exercise.name}: not implemented")


@pytest.mark.slow
@each_exercise
def test_every_wrong_solution_gets_the_message_meant_for_it(exercise):
    for misconception in exercise.misconceptions:
        expected = f"{exercise.notebook} {exercise.name}: {misconception.says}"
        assert graded(exercise, misconception.planted) == expected


@each_exercise
def test_there_are_five_misconceptions_each_with_a_question_of_its_own_and_no_solution(exercise):
    says = [misconception.says for misconception in exercise.misconceptions]
    assert len(set(says)) == len(says) >= 5
    for text in says:
        assert "?" in text, text
        assert not re.search(r" @ |\.T\b|\breturn\b|np\.", text), f"code in {text!r}"


@each_exercise
def test_an_answer_that_is_no_function_or_stops_or_returns_nonsense_is_told_so(exercise):
    def stops(*arguments):
        raise KeyError("nothing here")

    assert "expected a function" in graded(exercise, np.ones(3))
    assert "KeyError" in graded(exercise, stops)
    for nonsense in ("text", np.ones((2, 3, 5, 7)), {}, [None]):
        graded(exercise, lambda *arguments, nonsense=nonsense: nonsense)


# --- check ----------------------------------------------------------------------------------------


def test_check_grades_several_answers_and_says_what_is_right_as_well_as_what_is_not(capsys):
    dB, dx = exercises("02")["dB"], exercises("02")["dx"]
    with pytest.raises(AssertionError, match="02 dx: Only the frozen path"):
        check("02", dB=dB.reference, dx=dx.misconceptions[0].planted)
    assert capsys.readouterr().out.startswith("02 dB: right.")


@pytest.mark.parametrize(
    ("number", "answers", "message"),
    [
        ("99", {"dB": print}, "no exercises for notebook '99'; there are for 0"),
        ("02", {"dC": print}, "no exercise 'dC'; its exercises are dB, dalpha, dx, backward"),
        ("02", {}, "needs an answer"),
    ],
)
def test_check_names_what_there_is(number, answers, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check(number, **answers)


def test_jupyter_shows_the_message_and_no_traceback():
    shown = ExerciseError("02 dB: " + "many words " * 30)._render_traceback_()
    assert len(shown) == 1
    assert max(map(len, shown[0].split("\n"))) <= 88


# --- recognising ----------------------------------------------------------------------------------


def transposed_by_einsum(dy, u, C, alpha):
    return np.einsum("nr,no,so->sr", u, dy, C) * alpha


def right_by_a_loop(dy, u, C, alpha):
    return alpha * sum(np.outer(u[n], C @ dy[n]) for n in range(len(u)))


def two_mistakes(dy, u, C, alpha):
    return -(u.T @ dy @ C.T)


def in_place(dy, u, C, alpha):
    dy *= alpha
    return u.T @ dy @ C.T


def wrong_in_one_place(dy, u, C, alpha):
    dB = alpha * u.T @ dy @ C.T
    dB[0, 0] *= 1 + 1e-6
    return dB


def test_a_mistake_is_recognised_however_it_is_written():
    assert "equals the right one transposed" in graded(exercises("02")["dB"], transposed_by_einsum)


def test_a_right_answer_passes_however_it_is_written(capsys):
    check("02", dB=right_by_a_loop)
    assert "right" in capsys.readouterr().out


def test_a_mistake_nobody_planted_is_described_by_what_can_be_seen():
    message = graded(exercises("02")["dB"], two_mistakes)
    assert "At the point 'different sizes' dB is not right" in message
    assert "hand / oracle = -0.588235" in message


def test_one_entry_off_by_one_part_in_a_million_is_found():
    assert "dB is not right" in graded(exercises("02")["dB"], wrong_in_one_place)


def test_changing_an_argument_in_place_is_a_matter_of_manners():
    assert "not the manners" in graded(exercises("02")["dB"], in_place)


def test_a_wrong_forward_is_told_the_shape():
    message = graded(exercises("01")["forward"], lambda x, W0, b, A, B, C, alpha: (x @ W0).sum(axis=-1))
    assert re.search(r"The result has shape \(\d+,\), expected \(\d+, \d+\)", message)


# --- the student edition --------------------------------------------------------------------------


def regions(text):
    """What stands between the markers."""
    return re.findall(rf"{BEGIN}\n(.*?)\n[^\n]*{END}", text, re.S)


def lines(notebook):
    return Counter(line.strip() for cell in notebook.cells for line in cell.source.split("\n"))


def marked_by_hand(cell):
    meta = cell.metadata.get("nbgrader", {})
    return meta.get("grade") and meta.get("solution")


@each_notebook
def test_no_solution_survives_in_the_student_edition(path):
    solved = nbformat.read(path, as_version=4)
    student = student_edition(solved)
    nbformat.validate(student)
    found = [region for cell in solved.cells for region in regions(cell.source)]
    answers = [cell for cell in solved.cells if cell.cell_type == "markdown" and "nbgrader" in cell.metadata]
    by_hand = [cell for cell in solved.cells if cell.cell_type == "code" and marked_by_hand(cell)]
    graded = exercises(job.number(path)) if path in GRADED else {}
    assert len(found) == len(graded) + len(by_hand)
    text = "\n".join(cell.source for cell in student.cells)
    for region in found:
        assert region not in text
        for line in map(str.strip, region.split("\n")):
            assert len(line) < 20 or not line.startswith(("return", "#")) or line not in text, line
    # line by line: the solved one, less the regions and their markers, plus the stubs; nothing else has changed
    removed = Counter(line.strip() for region in found for line in [*region.split("\n"), BEGIN, END])
    removed += Counter(line.strip() for cell in answers for line in cell.source.split("\n"))
    stubs = Counter([*STUB * len(found), *[TEXT_STUB] * len(answers)])
    assert lines(student) == lines(solved) - removed + stubs
    assert lines(solved)[BEGIN] == len(found)
    assert all(cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in student.cells)


@each_notebook
def test_graders_and_metadata_are_the_same_in_both_editions(path):
    solved = nbformat.read(path, as_version=4)
    for a, b in zip(solved.cells, student_edition(solved).cells, strict=True):
        assert (a.id, a.cell_type, a.metadata) == (b.id, b.cell_type, b.metadata)
        if a.metadata.get("nbgrader", {}).get("grade"):
            assert (a.source == b.source) != bool(marked_by_hand(a))


@pytest.mark.notebook
@each_graded
def test_a_student_notebook_runs_to_its_first_exercise_and_stops_with_its_message(path, tmp_path):
    student = student_edition(nbformat.read(path, as_version=4))
    client = NotebookClient(student, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    with pytest.raises(CellExecutionError) as caught:
        client.execute()
    first = next(iter(exercises(job.number(path))))
    assert f"{job.number(path)} {first}: not implemented yet" in caught.value.evalue
    stopped = [cell for cell in student.cells if any(o.output_type == "error" for o in cell.get("outputs", []))]
    assert [cell.id for cell in stopped] == [f"{job.number(path)}-{first}-check"]
    (error,) = (o for o in stopped[0].outputs if o.output_type == "error")
    assert "File" not in "".join(error.traceback)


@pytest.mark.parametrize(
    "source",
    [f"x = 1\n{END}\n{BEGIN}", f"{BEGIN}\nx = 1", f"{BEGIN}\n{BEGIN}\n{END}", f"{BEGIN}\n{END}\n{END}"],
)
def test_markers_out_of_order_are_an_error(source):
    with pytest.raises(InputError, match=r"marker was expected|without"):
        without_solution(source)


def test_markers_outside_a_solution_cell_are_an_error():
    for source, metadata in ((f"{BEGIN}\nx = 1\n{END}", {}), ("x = 1", {"nbgrader": {"solution": True}})):
        cell = nbformat.v4.new_code_cell(source, metadata=metadata)
        with pytest.raises(InputError, match="a solution cell has markers"):
            student_edition(nbformat.v4.new_notebook(cells=[cell]))


def test_the_stub_is_indented_as_the_solution_was():
    source = f"def f(x):\n    if x:\n        {BEGIN}\n        y = 1\n        return y\n        {END}\n    return 2"
    assert without_solution(source) == f"def f(x):\n    if x:\n        {STUB[0]}\n        {STUB[1]}\n    return 2"


# --- python -m tlora_ref course -------------------------------------------------------------------


def written(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def test_the_command_writes_the_student_edition(tmp_path, capsys):
    assert main(["course", "--out", str(tmp_path / "new" / "course")]) == 0
    folder = tmp_path / "new" / "course"
    assert written(folder) == {*(path.name for path in PATHS), "glossary.md", "requirements.txt"}
    assert f"{len(PATHS)} notebooks with {len(EXERCISES)} exercises" in capsys.readouterr().out
    for path in PATHS:
        text = (folder / path.name).read_text()
        assert "SOLUTION" not in text
        assert nbformat.reads(text, as_version=4) == student_edition(nbformat.read(path, as_version=4))


def test_the_command_adds_what_an_instructor_needs(tmp_path):
    assert main(["course", "--out", str(tmp_path / "course"), "--instructor"]) == 0
    folder = tmp_path / "course" / "instructor"
    for path in PATHS:
        source = nbformat.read(folder / "source" / "tlora" / path.name, as_version=4)
        assert source == instructor_edition(nbformat.read(path, as_version=4))
        note = (folder / "notes" / f"{path.stem}.md").read_text()
        assert note.startswith((path.parent / "notes" / f"{path.stem}.md").read_text().rstrip())
        for exercise in exercises(job.number(path)).values() if path in GRADED else ():
            assert all(f"- {misconception.says}\n" in note for misconception in exercise.misconceptions)
    student = {name for name in written(tmp_path / "course") if not name.startswith("instructor/")}
    assert student == {*(path.name for path in PATHS), "glossary.md", "requirements.txt"}
    compile((folder / "nbgrader_config.py").read_text(), "nbgrader_config.py", "exec")


@pytest.mark.parametrize("what", ["a file", "a full folder", "under a file"])
def test_a_bad_output_folder_is_an_input_error_and_changes_nothing(tmp_path, capsys, what):
    (tmp_path / "file").write_text("kept")
    out = {"a file": tmp_path / "file", "a full folder": tmp_path, "under a file": tmp_path / "file" / "course"}[what]
    assert main(["course", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert str(out) in error
    assert "Traceback" not in error
    assert written(tmp_path) == {"file"}
    assert (tmp_path / "file").read_text() == "kept"


def test_a_package_without_its_notebooks_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(job, "INSTALLED", tmp_path / "of the wheel")
    monkeypatch.setattr(job, "CHECKOUT", tmp_path / "of the repository")
    assert main(["course", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "of the wheel") in error
    assert str(tmp_path / "of the repository") in error
    assert not (tmp_path / "out").exists()


def test_the_requirements_are_those_of_the_package_and_of_its_extras():
    text = requirements()
    names = [re.match(r"[\w-]+", line).group() for line in text.splitlines() if not line.startswith("#")]
    assert names == sorted(names)
    assert {"numpy", "scipy", "matplotlib", "scikit-learn", "tqdm", "torch", "jupyter"} <= set(names)
    assert not {"pytest", "ruff", "tlora_ref", "transformers"} & set(names)


# --- what the notebooks say ------------------------------------------------------------------------


def notebook(number):
    return nbformat.read(next(path for path in PATHS if path.name.startswith(number)), as_version=4)


def printed(number):
    """Everything that the committed notebook printed."""
    outputs = [o for cell in notebook(number).cells for o in cell.get("outputs", [])]
    return "".join(o.text for o in outputs if o.get("name") == "stdout")


@each_notebook
def test_no_notebook_reads_a_file_of_solutions_and_each_says_where_help_is(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells)
    assert not re.search(r"course\.(nb\d\d|solutions)", text)
    if path not in GRADED:
        return
    number = job.number(path)
    first = next(iter(exercises(number)))
    assert f'`hint("{number}", "{first}")`' in cells[0].source
    assert f'`solution("{number}", "{first}")`' in cells[0].source


def test_what_autograd_keeps_is_counted_once_and_without_the_weights():
    import torch

    from tlora_ref.course.kept import kept_by_torch

    x, W = torch.ones(5, 4, requires_grad=True), torch.ones(4, 3, requires_grad=True)
    assert kept_by_torch(lambda: x @ W) == [20, 12]
    assert kept_by_torch(lambda: x @ W, apart=(W,)) == [20]
    assert kept_by_torch(lambda: x * x.view(5, 4), apart=()) == [20]


def test_no_learning_rate_was_chosen_at_an_end_of_the_search():
    rows = [line.split() for line in printed("08").splitlines()]
    start = next(i for i, row in enumerate(rows) if row[:1] == ["rate"])
    end = next(i for i, row in enumerate(rows) if row[:1] == ["chosen"])
    rates = [float(row[0]) for row in rows[start + 1 : end]]
    assert len(rates) >= 5
    assert not {rates[0], rates[-1]} & set(map(float, rows[end][1:]))


def test_the_kurtosis_of_what_random_factors_see_falls_with_the_rank_from_that_of_a_product():
    found = [float(line.split()[-1]) for line in printed("11").splitlines() if re.match(r"rank \d", line)]
    R = 16
    assert abs(found[0] - ((3 * R / (R + 2)) ** 2 - 3)) < 0.2, "of a product of two normal vectors of length R"
    assert found == sorted(found, reverse=True)
    assert abs(found[-1]) < 0.3
    text = "\n".join(cell.source for cell in notebook("11").cells)
    assert "normal *whatever* is learned" not in text
    assert "Left both spectra contain W0" not in text


def test_a_score_is_recommended_with_what_an_always_stopping_checker_loses_by():
    from tlora_ref.verification.mutants import BUGS, CONTROLS
    from tlora_ref.verification.scorers import score

    def stops(fn, vjp, inputs, wrt, seed):
        raise AssertionError

    layer = [m for m in (*BUGS, *CONTROLS) if m.op == "tlora_linear"]
    found = score(stops, layer, "generic")
    assert found.missed == ()
    assert len(found.false_alarms) == sum(m in CONTROLS for m in layer) > 0
    last = notebook("04").cells[-1].source
    assert "tlora_ref.verification.scorers.score" in last
    assert "false_alarms" in last


def test_the_picture_of_the_backward_says_where_alpha_went():
    cells = notebook("02").cells
    at = next(i for i, cell in enumerate(cells) if "draw_graph(right" in cell.source)
    assert "α comes after $g$" in cells[at].source
    assert "we leave it out of the step through $C$" in cells[at + 1].source
