"""The student edition of a notebook: nbgrader's rules, so that its tools and this one agree.

A cell with metadata nbgrader.solution holds a solution between two marker lines; the student edition has, in its
place, a comment and ``raise NotImplementedError()``. A cell with nbgrader.grade is a grader and stays as it is.
Markers     ### BEGIN SOLUTION, ### END SOLUTION, each on a line of its own, indented as the solution is
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
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
"""nbgrader's own stub, so that both editions are the same."""


def student_edition(notebook: Any) -> Any:
    """A copy without solutions and outputs. ``notebook`` is nbformat's; raises InputError for markers out of order."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        has_markers = BEGIN in cell.source or END in cell.source
        if has_markers != bool(cell.metadata.get("nbgrader", {}).get("solution")):
            raise InputError(f"cell {cell.id}: a solution cell has markers, and only a solution cell has")
        if has_markers:
            cell.source = without_solution(cell.source, cell.id)
    return notebook


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
