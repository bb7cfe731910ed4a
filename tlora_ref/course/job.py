"""Write the course: the tutorials as a student gets them, without solutions and outputs, with the graders.

    python -m tlora_ref course --out DIR
    python -m tlora_ref course --out DIR --instructor
    python -m tlora_ref course --out DIR --variant 7

DIR is a new or empty folder, written whole or not at all. --instructor adds DIR/instructor with the solved
notebooks in nbgrader's layout, for marks (source/tlora; run nbgrader in DIR/instructor), a teaching note per
notebook: what its graders say, and what they were tried on; short questions for an exam with their answers; and
slides for three lectures. --variant adds a quiz, a question for each notebook, with questions and numbers of
that variant; its answers are the instructor's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import Any

from ..files import write_folder
from ..shapes import InputError
from . import exercises, notebooks
from .edition import instructor_edition, requirements, student_edition
from .exam import bank, quiz, sheet
from .mutation import stored
from .slides import LECTURES, lecture

CHECKOUT = Path(__file__).parents[2] / "tutorials"
INSTALLED = Path(__file__).parent / "tutorials"
"""Where the notebooks are: in the repository, and in a wheel, which carries them beside this file."""

CONFIG = """c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "tlora"
c.ExecutePreprocessor.timeout = 120
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``course``."""
    parser.add_argument("--out", required=True, metavar="DIR", help="A new or empty folder.")
    parser.add_argument(
        "--instructor", action="store_true", help="Add the solved notebooks, teaching notes, an exam bank and slides."
    )
    parser.add_argument("--variant", type=int, metavar="N", help="Add a quiz, the questions and numbers of variant N.")


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 when the folder is written."""
    if args.variant is not None and args.variant < 0:
        raise InputError(f"--variant is {args.variant}, expected a whole number from 0 on")
    files = student_files(args.variant) | (instructor_files(args.variant) if args.instructor else {})
    write_folder(Path(args.out), files)
    count = sum(name.endswith(".ipynb") and "/" not in name for name in files)
    graded = sum(len(exercises(one)) for one in notebooks())
    print(f"{count} notebooks with {graded} exercises: {args.out}")
    if args.instructor:
        print(f"solved, for nbgrader, with notes, exam bank and slides: {Path(args.out) / 'instructor'}")
    # a fresh environment lacks this package as well as what it needs, and the notebooks need both
    here = solved()[0].parent == CHECKOUT
    package = "-e " + quote(f"{CHECKOUT.parent}[tutorials]") if here else "'tlora_ref[tutorials]'"
    print(f"start: python -m pip install {package} && python -m jupyter lab {quote(args.out)}")
    return 0


def student_files(variant: int | None = None) -> dict[str, str]:
    """The student edition by file name."""
    import nbformat

    written = {path.name: nbformat.writes(student_edition(_read(path))) + "\n" for path in solved()}
    glossary = (solved()[0].parent / "glossary.md").read_text(encoding="utf-8")
    quizzes = {} if variant is None else {"quiz.md": sheet(f"Quiz {variant}", quiz(variant), answers=False)}
    return {**written, "glossary.md": glossary, **quizzes, "requirements.txt": requirements()}


def instructor_files(variant: int | None = None) -> dict[str, str]:
    """The instructor's part by file name."""
    import nbformat

    files, paths = {}, solved()
    for path in paths:
        files[f"instructor/source/tlora/{path.name}"] = nbformat.writes(instructor_edition(_read(path))) + "\n"
        files[f"instructor/notes/{path.stem}.md"] = teaching_note(path)
    for place in range(1, len(LECTURES) + 1):
        files[f"instructor/slides/lecture_{place}.ipynb"] = nbformat.writes(lecture(place, paths)) + "\n"
    files["instructor/exam.md"] = sheet("Short questions for an exam, with answers", bank(variant or 0), answers=True)
    if variant is not None:
        files["instructor/quiz_answers.md"] = sheet(f"Quiz {variant}, with answers", quiz(variant), answers=True)
    return {**files, "instructor/nbgrader_config.py": CONFIG, "instructor/requirements.txt": requirements()}


def number(path: Path) -> str:
    """The number that a notebook's file name begins with: "02". Before 00 there is "000"."""
    return path.name.partition("_")[0]


def solved() -> list[Path]:
    """The solved notebooks, in order. Raises InputError where there are none."""
    for folder in (INSTALLED, CHECKOUT):
        paths = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
        if paths:
            return paths
    raise InputError(f"no notebooks in {INSTALLED} or in {CHECKOUT}, expected those of a wheel or of the repository")


def teaching_note(path: Path) -> str:
    """The note beside the notebook, and what its graders recognise, from the exercises themselves."""
    lines = [(path.parent / "notes" / f"{path.stem}.md").read_text(encoding="utf-8").rstrip(), ""]
    if number(path) in notebooks():
        lines += ["## What the graders say", "", "The message a student gets for each mistake that is recognised."]
        for exercise in exercises(number(path)).values():
            lines += ["", f"**{exercise.name}**", ""]
            lines += [f"- {misconception.says}" for misconception in exercise.misconceptions]
        lines += ["", *_tried(number(path))]
    return "\n".join(lines) + "\n"


def _tried(book: str) -> list[str]:
    """What the graders of a notebook were tried on, and how many of it they refused."""
    lines = [
        "## How the graders were tried",
        "",
        "Mechanical edits of each worked solution (signs, factors, transposes, dropped terms, axes, counts off by one, "
        "arguments changed in place, a seed left out), handed in as answers. An exercise with few edits has a short "
        "solution. All were refused but those that change nothing that is asked for.",
        "",
        "| exercise | refused | equivalent |",
        "|---|---|---|",
    ]
    tried = {name: found for name, found in stored().items() if name.startswith(f"{book} ")}
    for name, found in tried.items():
        lines.append(f"| {name[3:]} | {found['refused']} | {sum(map(len, found['equivalent'].values()))} |")
    for name, found in tried.items():
        if found["equivalent"]:
            lines += ["", f"**{name[3:]}**, equivalent", ""]
        for reason, edits in found["equivalent"].items():
            lines.append(f"- {reason}: {'; '.join(f'`{edit}`' for edit in edits)}")
    return lines


def _read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)
