"""The student edition of a notebook, and the instructor's: nbgrader's rules, so that its tools and these agree.

A cell with metadata nbgrader.solution holds a solution between two marker lines; the student edition has, in its
place, a comment and ``raise NotImplementedError()``. A cell with nbgrader.grade is a grader and stays as it is. A cell
with both is marked by hand: code between the marker lines, or a text, which is an answer as a whole.

The instructor's edition is for marks. Its second code cell turns hints and solutions off, and every grader has a
hidden test, which nbgrader takes out of what students get and puts back when it grades: the package is imported anew,
from where it is installed and not from beside the notebook, and grades the answer. Whatever the notebook has made of
the name ``check``, or of a module of the package, has no part in that. It runs in the student's kernel, as all of
nbgrader's tests do: it guards against shortcuts, not against a program that means to break in.
Markers     ### BEGIN SOLUTION, ### END SOLUTION, each on a line of its own, indented as the solution is;
            ### BEGIN HIDDEN TESTS, ### END HIDDEN TESTS
Metadata    https://nbgrader.readthedocs.io, cell metadata of schema version 3
Checked by  tests/test_course.py.
"""

from __future__ import annotations

import copy
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from ..shapes import InputError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB, TEXT_STUB = ("# YOUR CODE HERE", "raise NotImplementedError()"), "YOUR ANSWER HERE"
"""nbgrader's own stubs, so that both editions are the same."""


HIDDEN = """
### BEGIN HIDDEN TESTS
import importlib
import os
import sys

_held = {n: sys.modules.pop(n) for n in list(sys.modules) if n.split(".")[0] == "PACKAGE"}
_path = list(sys.path)
sys.path[:] = [p for p in _path if p and os.path.realpath(p) != os.path.realpath(os.getcwd())]
try:
    importlib.import_module("PACKAGE.course.marks").grade(ANSWERS)
finally:
    for _n in [n for n in sys.modules if n.split(".")[0] == "PACKAGE"]:
        del sys.modules[_n]
    sys.modules.update(_held)
    sys.path[:] = _path
### END HIDDEN TESTS""".replace("PACKAGE", __package__.partition(".")[0])
"""Behind the line of a grader; ANSWERS are the arguments of its ``check``."""

FOR_MARKS = """# this copy is for marks: hint(...) and solution(...) are off
from tlora_ref.course import for_marks

for_marks()"""


def instructor_edition(notebook: Any) -> Any:
    """A copy for marks: solved, a hidden test in every grader. Raises InputError if one is no call of check."""
    import nbformat

    notebook = copy.deepcopy(notebook)
    number = next(cell.id.partition("-")[0] for cell in notebook.cells)
    for cell in notebook.cells:
        if is_grader(cell):
            match = re.fullmatch(r"check\((.+)\)", cell.source)
            if match is None:
                raise InputError(f"cell {cell.id}: a grader is one call of check, found {cell.source!r}")
            cell.source += HIDDEN.replace("ANSWERS", match.group(1))
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    locked = {"grade": False, "grade_id": f"{number}-marks", "locked": True, "schema_version": 3, "solution": False,
              "task": False}  # fmt: skip
    cell = nbformat.v4.new_code_cell(FOR_MARKS, id=f"{number}-marks", metadata={"nbgrader": locked})
    notebook.cells.insert(first + 1, cell)
    return notebook


def student_edition(notebook: Any) -> Any:
    """A copy without solutions and outputs. ``notebook`` is nbformat's; raises InputError for markers out of order."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        is_solution = bool(cell.metadata.get("nbgrader", {}).get("solution"))
        if cell.cell_type != "code":
            cell.source = TEXT_STUB if is_solution else cell.source
            continue
        has_markers = BEGIN in cell.source or END in cell.source
        if has_markers != is_solution:
            raise InputError(f"cell {cell.id}: a solution cell has markers, and only a solution cell has")
        if has_markers:
            cell.source = without_solution(cell.source, cell.id)
    return notebook


def is_grader(cell: Any) -> bool:
    """Does the cell grade an answer by running? What is marked by hand does not."""
    meta = cell.metadata.get("nbgrader", {})
    return bool(meta.get("grade")) and not meta.get("solution")


def without_solution(source: str, where: str = "the cell") -> str:
    """The source with the stub in place of each marked region."""
    lines, inside = [], False
    for line in source.split("\n"):
        if line.strip() in (BEGIN, END):
            if inside != (line.strip() == END):
                raise InputError(f"{where}: {line.strip()!r} where the other marker was expected")
            inside = not inside
            if inside:
                indent = line[: len(line) - len(line.lstrip())]
                lines += [indent + text for text in STUB]
        elif not inside:
            lines.append(line)
    if inside:
        raise InputError(f"{where}: {BEGIN!r} without {END!r}")
    return "\n".join(lines)


def requirements() -> str:
    """requirements.txt for the notebooks: what this package needs with its extra ``tutorials``."""
    try:
        declared, number = requires("tlora_ref") or [], version("tlora_ref")
    except PackageNotFoundError:
        raise InputError("tlora_ref is not installed here, so its requirements are unknown: pip install -e .") from None
    wanted, found = ["", "tutorials"], []
    for extra in wanted:  # grows: an extra may name others, tlora_ref[demo,torch]
        for line in declared:
            name, _, marker = line.partition(";")
            match = re.search(r"extra == ['\"](\w+)['\"]", marker)
            if (match.group(1) if match else "") != extra:
                continue
            own = re.fullmatch(r"tlora[_-]ref\[([\w,]+)\]", name.strip())
            if own:
                wanted += [other for other in own.group(1).split(",") if other not in wanted]
            else:
                found.append(name.strip())
    head = f"# for tlora_ref {number}, which itself is installed from its wheel or its repository (pip install -e .)\n"
    return head + "".join(f"{line}\n" for line in sorted(set(found)))
