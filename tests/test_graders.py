"""The graders, graded: mechanical edits refused, other right solutions accepted, honest mistakes seen and named."""

import csv
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from other_solutions import OTHER

import tlora_ref.course.hints as hints
from tlora_ref import InputError
from tlora_ref.by_hand import tlora_linear_bwd
from tlora_ref.course import ExerciseError, check, exercises, hint, notebooks, solution
from tlora_ref.course.answers import RULE, read
from tlora_ref.course.edition import instructor_edition, is_grader, student_edition
from tlora_ref.course.equivalent import EQUIVALENT
from tlora_ref.course.job import number, solved, teaching_note
from tlora_ref.course.marks import grade
from tlora_ref.course.mutation import edits, score, stored
from tlora_ref.course.watch import Watch
from tlora_ref.gradcheck import check as gradcheck

pytestmark = pytest.mark.slow  # every edit of every worked solution, and notebooks in processes of their own

EXERCISES = [e for number in notebooks() for e in exercises(number).values()]
PATHS = solved()
GRADED = [path for path in PATHS if number(path) in notebooks()]

each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: f"{e.notebook}-{e.name}")
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
each_graded = pytest.mark.parametrize("path", GRADED, ids=lambda p: p.stem)


def worked(number, name):
    return getattr(import_module(f"tlora_ref.course.solutions.nb{number}"), name)


def says(number, name, answer):
    """What the grader says to an answer."""
    return exercises(number)[name].verdict(answer).says


# --- edits, and other right solutions -------------------------------------------------------------


@each_exercise
def test_every_edit_of_the_worked_solution_is_refused_or_listed_and_the_figure_is_stored(exercise):
    key = f"{exercise.notebook} {exercise.name}"
    found, figure = score(exercise), stored()[key]
    assert found.passed == ()
    listed = {edit for edits in EQUIVALENT.get(key, {}).values() for edit in edits}
    assert listed == {edit for edits in figure["equivalent"].values() for edit in edits}
    assert listed <= {edit.says for edit in edits(exercise.notebook, exercise.name)}, "no such edit"
    # rounding may refuse on one processor what passes on another, and never the other way round
    assert found.refused >= figure["refused"]
    assert found.refused + sum(map(len, found.equivalent.values())) == figure["refused"] + len(listed)


def test_the_stored_figures_are_of_the_exercises_there_are_and_most_have_thirty_edits():
    assert list(stored()) == [f"{e.notebook} {e.name}" for e in EXERCISES]
    few = {name for name, found in stored().items() if found["refused"] < 30}
    assert few == {"04 hidden", "04 cotangent", "05 keep", "08 choose"}, "short solutions"


def test_an_edit_of_every_kind_is_made():
    made = [edit.says for number, name in (("02", "backward"), ("01", "start"), ("00", "rank")) for edit in
            edits(number, name)]  # fmt: skip
    for kind in (
        "+ -> ",
        "at the end: _touch(u_NR)",
        "default_rng(seed)  ->  np.random.default_rng()",
        "C_SO.T  ->  C_SO",
        ">= share - 1e-09  ->  held_K > share",
        "keep_NO is None  ->  keep_NO is not None",
    ):
        assert any(kind.replace("+ -> ", "  ->  ") in text for text in made), kind


@each_exercise
def test_a_second_right_solution_is_accepted_for_marks_as_well(exercise):
    verdict = exercise.verdict(OTHER[f"{exercise.notebook} {exercise.name}"], marks=True)
    assert (verdict.says, verdict.remark) == ("", "")


@each_graded
def test_the_worked_solutions_are_those_of_the_notebook(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution"):
            name = cell.id[3:]
            source = re.sub(r"\n *### (BEGIN|END) SOLUTION", "", cell.source)
            source = re.sub(r"def \w+\(", f"def {name}(", source, count=1)
            shown = inspect.getsource(worked(number(path), name))
            assert "".join(shown.split()) == "".join(source.split())


# --- what an answer does beside returning ----------------------------------------------------------


def adds_in_place(x, W0, b, A, B, C, alpha):
    W0 += alpha * A @ B @ C
    return x @ W0 + b


def spoils_the_cache(dy, cache):
    grads = tlora_linear_bwd(dy, cache)
    u = cache[0]
    u *= 2
    return grads


def spoils_what_was_made_for_it(dy, u, C, alpha):
    found = alpha * u.T @ (dy @ C.T)
    u[0, 0] = 0
    return found


def empties_the_list(matrices, R):
    return sum(R * R + 1 for _ in iter(lambda: matrices.pop() if matrices else None, None))


def spoils_a_tensor(A, B, C, alpha):
    found = A.T.copy(), (alpha * B @ C).T
    A *= 0
    return found


def empties_the_set(trains):
    kept = set()
    while trains:
        kept.add({"A": "x", "M": "u", "C": "v"}[trains.pop()])
    return kept


def spoils_the_inputs(fn, vjp, inputs, wrt, seed):
    found = worked("03", "check")(fn, vjp, inputs, wrt, seed)
    inputs[wrt[0]][...] += 1
    return found


def spoils_the_merged(weight, A, B, C, alpha):
    found = worked("09", "merged")(weight, A, B, C, alpha)
    B.mul_(2)
    return found


@pytest.mark.parametrize(
    ("number", "name", "answer"),
    [
        ("01", "forward", adds_in_place),
        ("02", "backward", spoils_the_cache),
        ("02", "dB", spoils_what_was_made_for_it),
        ("06", "trained", empties_the_list),
        ("09", "lora", spoils_a_tensor),
        ("09", "merged", spoils_the_merged),
        ("05", "keep", empties_the_set),
        ("03", "check", spoils_the_inputs),
    ],
)
def test_a_change_in_place_is_seen_however_deep(number, name, answer):
    assert re.search("changes what it was given|changed a tensor that you were given", says(number, name, answer))


def test_bad_manners_are_told_once_and_nothing_about_the_numbers():
    def in_place(dy, u, C, alpha):
        dy *= alpha
        return u.T @ (dy @ C.T)

    message = says("02", "dB", in_place)
    assert message.startswith("The numbers are right, but not the manners. It changes what it was given")
    assert "digits" not in message
    message = says("02", "dB", lambda dy, u, C, alpha: alpha * u.T @ (dy @ C.T) + 1e-14)
    assert message.startswith("The numbers are right, but not the manners (zero for a zero cotangent: ")
    assert "digits" not in message


def test_randomness_comes_from_the_seed_and_two_draws_are_two():
    def unseeded(I, R, O, seed):
        rng = np.random.default_rng()
        return rng.standard_normal((I, R)), np.zeros((R, R)), rng.standard_normal((R, O)), 1.0

    def same_stream(I, R, O, seed):
        A, C = (np.random.default_rng(seed).standard_normal(shape) for shape in ((I, R), (O, R)))
        return A, np.zeros((R, R)), 0.5 * C.T, 1.0

    own, calls = np.random.default_rng(), []

    def remembers(I, O, R):
        calls.append(I)
        return R * R / (I * O) + 1e-14 * R * len(calls) / I

    assert "with the same seed, you draw different numbers" in says("01", "start", unseeded)
    assert "made of the same random numbers" in says("01", "start", same_stream)
    assert "rng of the same seed" in says("04", "cotangent", lambda shape, rng: own.standard_normal(shape))
    assert "Called twice" in says("00", "expected", remembers)


def test_a_whole_number_is_no_float():
    def rank(dW, share):
        return float(worked("00", "rank")(dW, share))

    assert "its type is float" in says("00", "rank", rank)
    assert "its type is float" in says("06", "rank_for", lambda I, O, r: 1.0 * worked("06", "rank_for")(I, O, r))
    assert "its type is float" in says("05", "memory", lambda *a: np.array(worked("05", "memory")(*a)) / 1)


def test_what_may_not_be_built_is_looked_for():
    def whole_update(dy, u, B, C):
        return (dy * (u @ B @ C)).sum()

    def in_slices(dy, u, B, C):
        return sum(dy[n] @ ((u[n] @ B) @ C) for n in range(len(u)))

    assert "as many numbers as dy" in says("02", "dalpha", whole_update)
    assert says("02", "dalpha", in_slices) == ""
    assert says("02", "dalpha", lambda dy, u, B, C: np.einsum("no,nr,rs,so->", dy, u, B, C)) == ""


def test_the_complex_step_is_no_difference():
    def richardson(f, x):
        a, b = (worked("03", "central")(f, x, h) for h in (1e-3, 5e-4))
        return (4 * b - a) / 3

    assert "no complex number ever went into f" in says("03", "complex_step", richardson)


def test_a_share_of_one_has_an_answer_for_every_matrix():
    rng = np.random.default_rng(0)
    rank, ours = exercises("00")["rank"].reference, worked("00", "rank")
    for _ in range(200):
        matrix = rng.standard_normal((30, 20))
        assert rank(matrix, 1.0) == ours(matrix, 1.0) == 20


# --- checkers -------------------------------------------------------------------------------------


def always_stops(fn, vjp, inputs, wrt, seed):
    raise AssertionError("wrong")


def last_entries(fn, vjp, inputs, wrt, seed):
    return compared(fn, vjp, inputs, wrt, seed, lambda a: a.reshape(-1)[-1:])


def norms(fn, vjp, inputs, wrt, seed):
    return compared(fn, vjp, inputs, wrt, seed, np.linalg.norm)


def sorted_entries(fn, vjp, inputs, wrt, seed):
    return compared(fn, vjp, inputs, wrt, seed, lambda a: np.sort(a, axis=None))


def absolutely(fn, vjp, inputs, wrt, seed):
    return compared(fn, vjp, inputs, wrt, seed, lambda a: a, rtol=0, atol=1e-6)


def compared(fn, vjp, inputs, wrt, seed, by, rtol=1e-6, atol=None):
    """Every entry by the complex step, looked at through ``by``."""
    out, cache = fn(**inputs)
    dout = np.random.default_rng(seed).standard_normal(np.shape(out))
    grads = vjp(dout, cache)
    for name in wrt:
        if np.shape(grads[name]) != inputs[name].shape:
            return False
        slope = np.zeros(inputs[name].shape)
        for index in np.ndindex(slope.shape):
            moved = inputs[name].astype(complex)
            moved[index] += 1e-30j
            slope[index] = (dout * fn(**{**inputs, name: moved})[0]).sum().imag / 1e-30
        floor = 1e-12 * np.abs(dout * out).sum() if atol is None else atol
        if not np.allclose(by(np.asarray(grads[name])), by(slope), rtol=rtol, atol=floor):
            return False
    return True


def test_a_whole_jacobian_is_a_checker_and_what_looks_at_less_is_none():
    assert says("03", "check", lambda *given: compared(*given, lambda a: a)) == ""
    assert "one wrong entry" in says("03", "check", last_entries)
    assert "sign" in says("03", "check", norms)
    assert "wrong places" in says("03", "check", sorted_entries)
    assert re.search("because it is (large|small)", says("03", "check", absolutely))
    assert "stopped with AssertionError: wrong" in says("03", "check", always_stops)
    assert "True or False" in says("03", "check", lambda *given: "yes")


def test_the_models_of_a_checker_keep_the_rule_that_the_text_gives():
    """No fixed floor: a gradient that is all wrong is refused at any size of the function, the right one accepted."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(5)
    for checker in (worked("03", "check"), OTHER["03 check"], exercises("03")["check"].reference):
        for size in (1e-15, 1e-9, 1.0, 1e9):

            def fn(x, size=size):
                return size * np.sin(x), x

            def right(dout, cache, size=size):
                return {"x": size * dout * np.cos(cache)}

            def wrong(dout, cache, size=size):
                return {"x": -size * dout * np.cos(cache)}

            assert checker(fn, right, {"x": x}, ("x",), 0)
            assert not checker(fn, wrong, {"x": x}, ("x",), 0)


@pytest.mark.parametrize(
    ("cotangent", "message"),
    [
        (lambda shape, rng: np.eye(*shape) if len(shape) == 2 else rng.standard_normal(shape), "entries .* are zero"),
        (lambda shape, rng: 1e-12 * rng.standard_normal(shape), "far from one in size"),
        (lambda shape, rng: rng.choice([-1.0, 1.0], shape), "1 in your hands|few different"),
        (lambda shape, rng: np.outer(*map(rng.standard_normal, shape)) if len(shape) == 2 else
         rng.standard_normal(shape), "product of a row and a column"),
    ],
)  # fmt: skip
def test_a_weak_cotangent_is_told_why(cotangent, message):
    assert re.search(message, says("04", "cotangent", cotangent))


def test_a_point_at_which_the_right_gradient_fails_as_well_shows_nothing():
    from tlora_ref.course.nb04 import point

    assert "rejects the right gradient too" in says("04", "points", lambda: [point(), point(R=0)])


# --- the library's own ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name", "answer", "whose"),
    [
        ("02", "backward", tlora_linear_bwd, "tlora_linear_bwd"),
        ("02", "backward", lambda dy, cache: tlora_linear_bwd(dy, cache), "tlora_linear_bwd"),
        ("03", "check", lambda fn, vjp, inputs, wrt, seed: gradcheck(fn, vjp, inputs, wrt=wrt, seed=seed).ok, "check"),
        ("02", "dB", exercises("02")["dB"].reference, "lambda"),
        ("06", "trained", worked("06", "trained"), "trained"),
    ],
)
def test_ours_handed_in_is_told_kindly_and_refused_for_marks(number, name, answer, whose, capsys):
    check(number, **{name: answer})
    out = " ".join(capsys.readouterr().out.split())
    assert "right." in out
    assert "It is right because it is ours" in out
    assert whose in out
    with pytest.raises(ExerciseError, match="library's own solution"):
        grade(number, **{name: answer})


def test_what_the_exercise_hands_out_may_be_called(capsys):
    source = "from tlora_ref.course.solutions.nb07 import *\n"
    space = {"__name__": "__main__"}
    exec(source + inspect.getsource(worked("07", "attention")), space)
    grade("07", attention=space["attention"])
    assert "ours" not in capsys.readouterr().out


# --- one rule for containers ----------------------------------------------------------------------


def test_a_list_counts_as_a_tuple_and_one_array_as_several_numbers():
    for found in ((1, 2.5), [1, 2.5], np.array([1, 2.5]), (np.array(1), np.float64(2.5))):
        assert [float(a) for a in read(found, (0, 0))] == [1, 2.5]
    assert says("01", "start", lambda *given: list(worked("01", "start")(*given))) == ""
    assert says("08", "interval", lambda *given: np.array(worked("08", "interval")(*given))) == ""
    assert says("06", "bytes", lambda *given: list(worked("06", "bytes")(*given))) == ""


@each_graded
def test_an_exercise_that_asks_for_several_things_says_the_rule(path):
    cells = nbformat.read(path, as_version=4).cells
    for i, cell in enumerate(cells):
        if cell.cell_type != "code" or not cell.metadata.get("nbgrader", {}).get("solution"):
            continue
        known = ("01-start", "05-memory", "06-bytes", "08-interval", "09-lora", "10-balanced", "12-lorta")
        several = cell.id in known
        assert ("A list counts as a tuple" in cells[i - 1].source) == several, cell.id
        if cell.id in ("05-memory", "06-bytes", "08-interval"):
            assert RULE in cells[i - 1].source


# --- messages -------------------------------------------------------------------------------------


def no_return(dy, u, C, alpha):
    alpha * u.T @ (dy @ C.T)


def misspelt(dy, u, C, alpha):
    return alpha * u.T @ gg  # noqa: F821


def leaves(dy, u, C, alpha):
    sys.exit(1)


def ragged(dy, u, C, alpha):
    return [[1.0, 2.0], [3.0]]


def talks(dy, u, C, alpha):
    print("shape of dy", dy.shape)
    return alpha * u.T @ (dy @ C.T)


def test_no_return_is_told_as_such():
    assert says("02", "dB", no_return).endswith("reach one?")
    assert "It returned None: is there a `return`" in says("02", "dB", no_return)
    assert "It returned None" in says("03", "check", lambda *given: None)
    assert "It returned None" in says("04", "hidden", lambda: None)
    partial = says("02", "backward", lambda dy, cache: {"x": dy, "B": None, "alpha": 1.0})
    assert 'Under "B" your dictionary holds None' in partial


def test_an_exception_shows_the_students_own_line():
    message = says("02", "dB", misspelt)
    assert "NameError: name 'gg' is not defined, in your line" in message
    assert "return alpha * u.T @ gg" in message
    assert __file__ not in message

    def inside_numpy(x, W0, b, A, B, C, alpha):
        return np.linalg.solve(x, W0)

    assert "in your line" in says("01", "forward", inside_numpy)
    assert "return np.linalg.solve(x, W0)" in says("01", "forward", inside_numpy)


def test_ragged_lists_sys_exit_and_prints_are_handled(capsys):
    assert "rows of different lengths" in says("02", "dB", ragged)
    assert "sys.exit()" in says("02", "dB", leaves)
    assert "sys.exit()" in says("04", "hidden", lambda: sys.exit())
    check("02", dB=talks)
    out = capsys.readouterr().out
    assert out.count("shape of dy") == 1
    assert "Your function prints. From its first call: shape of dy" in " ".join(out.split())


@pytest.mark.parametrize(
    "answer",
    [
        misspelt,
        no_return,
        ragged,
        leaves,
        lambda dy, u, C, alpha: np.ones(3),
        lambda dy, u, C, alpha: {"dB": 1},
        lambda dy, u, C, alpha: 3 * alpha * u.T @ (dy @ C.T),
        lambda dy, u, C, alpha: alpha * u.T @ (dy @ C.T) if len(u) > 1 else 0 * (u.T @ (dy @ C.T)),
    ],
)
def test_nobody_is_told_that_we_cannot_tell_when_something_is_known(answer):
    message = says("02", "dB", answer)
    assert message
    assert "cannot tell" not in message


def test_we_cannot_tell_is_said_when_nothing_is_known():
    assert "cannot tell" in says("11", "cosine", lambda X, Y: np.tanh(X).sum() * 0.1 + 0.2 * Y[0, 0] ** 2)


def test_the_keys_in_a_message_are_those_of_the_exercise():
    message = says("02", "backward", lambda dy, cache: {"dx": dy, "dB": dy, "dalpha": 1.0})
    assert 'The keys of your dictionary are "dx", "dB", "dalpha", expected "x", "B", "alpha".' in message
    assert 'expected "q", "k", "v"' in says("07", "attention", lambda *given: {"x": 1})


def test_a_wide_product_is_not_said_to_be_two_arrays_of_n_rows():
    message = says("05", "lean", lambda x, A, B, C, alpha: (x @ A) @ ((alpha * B) @ C))
    assert "autograd keeps u alone, but also a trained product that reaches from R to O" in message


def test_ones_as_a_cotangent_are_named():
    def with_ones(fn, vjp, inputs, wrt, seed):
        out, cache = fn(**inputs)
        grads, h = vjp(np.ones_like(out), cache), 1e-30
        for name in wrt:
            v = np.random.default_rng(seed).standard_normal(inputs[name].shape)
            slope = np.sum(fn(**{**inputs, name: inputs[name] + 1j * h * v})[0]).imag / h
            if np.shape(grads[name]) != v.shape or not abs(slope - np.sum(grads[name] * v)) <= 1e-7 * abs(
                slope
            ) + 1e-12 * np.sum(np.abs(out)):
                return False
        return True

    assert "asks with the same number for every output" in says("03", "check", with_ones)


def test_a_known_factor_and_points_that_are_right_are_said():
    assert "the right ones times 3" in says("11", "unrelated", lambda a, b: 3 / np.sqrt((1 + a**2) * (1 + b**2)))
    message = says("00", "expected", lambda I, O, R: R * R / (I * O) if R > 1 else 0.5)
    assert "At 5 of 6 points they are right; what is special about 'R = 1'?" in message


def test_a_watch_sees_through_tuples_and_leaves_its_callers_arrays_alone():
    given = (np.ones(2), {"a": [np.zeros(3)]})
    watch = Watch(lambda pair, rest: rest["a"][0].fill(7))
    watch.fresh(*given)
    assert watch.changed
    assert not given[1]["a"][0].any()


# --- hints ----------------------------------------------------------------------------------------


@each_exercise
def test_there_are_hints_without_code_one_after_the_other_and_a_worked_solution(exercise, capsys, monkeypatch):
    monkeypatch.setattr(hints, "_given", {})
    number = 3 if exercise.notebook == "12" else 2
    for stage in (*range(1, number + 1), number):
        hint(exercise.notebook, exercise.name)
        out = " ".join(capsys.readouterr().out.split())
        assert out.startswith(f"{exercise.notebook} {exercise.name}, hint {stage} of {number}: ")
        assert not re.search(r" @ |\.T\b|np\.sum\(", out)
    solution(exercise.notebook, exercise.name)
    assert capsys.readouterr().out.startswith(f"def {exercise.name}(")


def test_hints_and_solutions_are_off_for_marks(monkeypatch):
    monkeypatch.setattr(hints, "_marks", False)
    hints.for_marks()
    for ask in (hint, solution):
        with pytest.raises(InputError, match="for marks"):
            ask("02", "dB")
    with pytest.raises(InputError, match="no exercise 'dC'"):
        hint("02", "dC")


# --- hidden tests ---------------------------------------------------------------------------------

CHEATS = {
    "check is a name": "check = lambda *a, **k: None",
    "the package's check": "import tlora_ref.course, tlora_ref.course.grader as g\n"
    "tlora_ref.course.check = g.check = g.grade = check = lambda *a, **k: None",
    "the module of marks": "import sys, types, tlora_ref.course\n"
    "m = types.ModuleType('marks')\nm.grade = check = lambda *a, **k: None\n"
    "sys.modules['tlora_ref.course.marks'] = tlora_ref.course.marks = m",
    "a package beside the notebook": "import os, sys\nfrom pathlib import Path\nsys.path.insert(0, os.getcwd())\n"
    "Path('tlora_ref/course').mkdir(parents=True, exist_ok=True)\n"
    "Path('tlora_ref/__init__.py').write_text('')\nPath('tlora_ref/course/__init__.py').write_text('')\n"
    "Path('tlora_ref/course/marks.py').write_text('def grade(*a, **k): pass')\ncheck = lambda *a, **k: None",
    "the library's own": "from tlora_ref.by_hand import tlora_linear_bwd as my_backward",
}


def points(notebook, folder):
    """How many graders of an executed notebook did not stop."""
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(folder)}}
    ).execute()
    graders = [c for c in notebook.cells if is_grader(c)]
    return {c.id: not any(o.output_type == "error" for o in c.outputs) for c in graders}


def for_marks(book="02"):
    path = next(path for path in PATHS if number(path) == book)
    return instructor_edition(nbformat.read(path, as_version=4))


def only_exercises(notebook):
    """The imports, the solutions and the graders: figures cost time."""
    first = next(c for c in notebook.cells if c.cell_type == "code")
    notebook.cells = [c for c in notebook.cells if c is first or "nbgrader" in c.metadata]
    return notebook


@pytest.mark.parametrize("cheat", CHEATS)
def test_no_redefinition_bypasses_the_hidden_tests(cheat, tmp_path):
    submitted = only_exercises(student_edition(for_marks()))
    last = next(i for i, c in enumerate(submitted.cells) if c.id == "02-backward-check")
    submitted.cells.insert(last, nbformat.v4.new_code_cell(CHEATS[cheat]))
    submitted.cells.insert(2, nbformat.v4.new_code_cell(CHEATS[cheat]))
    assert set(points(submitted, tmp_path).values()) == {False}


def test_the_solved_copy_for_marks_gets_every_point_and_a_partial_one_its_share(tmp_path):
    assert set(points(only_exercises(for_marks()), tmp_path).values()) == {True}
    partial = only_exercises(for_marks())
    wrong = next(c for c in partial.cells if c.id == "02-dB")
    wrong.source = wrong.source.replace("alpha * ", "")
    assert points(partial, tmp_path) == {
        "02-dB-check": False, "02-dalpha-check": True, "02-dx-check": True, "02-backward-check": True
    }  # fmt: skip


@each_notebook
def test_the_hidden_tests_stand_in_the_copy_for_marks_and_nowhere_else(path):
    plain = nbformat.read(path, as_version=4)
    copy = instructor_edition(plain)
    nbformat.validate(copy)
    assert "HIDDEN" not in "".join(c.source for c in [*plain.cells, *student_edition(plain).cells])
    graders = [c for c in copy.cells if is_grader(c)]
    assert len(graders) == (len(exercises(number(path))) if path in GRADED else 0)
    for cell in graders:
        visible, hidden = cell.source.split("\n### BEGIN HIDDEN TESTS\n")
        assert hidden.endswith("### END HIDDEN TESTS")
        assert f"grade({visible.removeprefix('check(')}" in hidden
    assert "for_marks()" in copy.cells[[c.id for c in copy.cells].index(f"{number(path)}-marks")].source


# --- nbgrader itself ------------------------------------------------------------------------------


def submitted(folder, student, answers, extra=""):
    """A released notebook with some solutions filled in, where nbgrader looks for it."""
    released = nbformat.read(folder / "release" / "tlora" / "02_gradients_by_hand.ipynb", as_version=4)
    for cell in released.cells:
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("solution") and meta["grade_id"] in answers:
            cell.source = answers[meta["grade_id"]]
    released.cells.insert(3, nbformat.v4.new_code_cell(extra))
    path = folder / "submitted" / student / "tlora" / "02_gradients_by_hand.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(released, path)


@pytest.mark.slow
def test_nbgrader_gives_the_points_that_were_earned(tmp_path):
    pytest.importorskip("nbgrader", reason="nbgrader is in the extra 'teaching'")
    from tlora_ref.__main__ import main

    assert main(["course", "--out", str(tmp_path / "course"), "--instructor"]) == 0
    folder = tmp_path / "course" / "instructor"

    def nbgrader(*arguments):
        paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        python = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PATH": paths, "PYTHONPATH": python}
        found = subprocess.run(
            [sys.executable, "-m", "nbgrader", *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr[-2000:]

    nbgrader("generate_assignment", "tlora", "--create", "--notebook=02_gradients_by_hand")
    released = (folder / "release" / "tlora" / "02_gradients_by_hand.ipynb").read_text()
    assert "HIDDEN" not in released
    assert "SOLUTION" not in released
    source = nbformat.read(folder / "source" / "tlora" / "02_gradients_by_hand.ipynb", as_version=4)
    solved = {
        c.id: c.source
        for c in source.cells
        if c.id.startswith("02-") and c.metadata.get("nbgrader", {}).get("solution")
    }
    submitted(folder, "right", solved)
    submitted(folder, "partial", {name: solved[name] for name in ("02-dB", "02-dx")})
    submitted(folder, "empty", {})
    submitted(folder, "cheating", {}, CHEATS["the package's check"])
    submitted(folder, "library", {"02-backward": CHEATS["the library's own"]}, CHEATS["check is a name"])
    nbgrader("autograde", "tlora", "--create", "--notebook=02_gradients_by_hand")
    nbgrader("export")
    with open(folder / "grades.csv", newline="") as file:
        points = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert points == {"right": 6, "partial": 2, "empty": 0, "cheating": 0, "library": 0}


# --- the teacher's notes ---------------------------------------------------------------------------


@each_graded
def test_the_note_says_what_the_graders_were_tried_on(path):
    note = teaching_note(path)
    for exercise in exercises(number(path)).values():
        found = stored()[f"{exercise.notebook} {exercise.name}"]
        count = sum(map(len, found["equivalent"].values()))
        assert f"| {exercise.name} | {found['refused']} | {count} |\n" in note
        assert all(f"- {reason}: `{edits[0]}`" in note for reason, edits in found["equivalent"].items())


def test_the_line_that_course_prints_installs_the_package_itself(tmp_path, capsys):
    from tlora_ref.__main__ import main

    assert main(["course", "--out", str(tmp_path / "my course")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    repository = Path(__file__).parents[1]
    assert line == (
        f"start: python -m pip install -e '{repository}[tutorials]' && python -m jupyter lab '{tmp_path / 'my course'}'"
    )
    extra = re.search(r"^tutorials = (.*)$", (repository / "pyproject.toml").read_text(), re.M).group(1)
    assert "jupyterlab" in extra
