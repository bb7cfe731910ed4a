"""Make every mechanical edit of a file of kernels, and see whether the suite finds it.

    python -m tlora_ref mutate --file by_hand/ops.py
    python -m tlora_ref mutate --file by_hand/methods/tlora.py --file by_hand/methods/lora.py --out mutants

An edit exchanges or drops one operator, constant, transpose, argument, condition or statement. It is planted in a
process of its own: there the checks of the job check run on the kernels that it reaches, and if they find nothing,
the property tests of the file. Every edit that nothing finds is printed, unless it is listed as equivalent with the
reason (verification/equivalent.json); one that is listed is tried by the checks alone. The score of a file is the share
of the other edits that were found.

What was found is kept in the folder --out: a call that was interrupted goes on where it was, and a later call repeats
only the edits of changed functions, and those that nothing had found if the tests have changed since. After a check or
a test was taken out, begin in another folder. The tests are needed, so this job runs in the repository only.

The exit code is 1 if an edit was not found that is not listed, or if one was found that is listed as equivalent.
"""

from __future__ import annotations

import argparse
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...shapes import InputError
from ...tables import table
from ...verification import mutate
from ..runs import read_store, run_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``mutate``."""
    names = ", ".join(mutate.files())
    parser.add_argument(
        "--file", action="append", required=True, help=f"The file to edit. Repeat it for several. One of {names}."
    )
    parser.add_argument("--function", help="Edit only the function of this name.")
    parser.add_argument(
        "--out", type=Path, default=Path("out/mutate"), help="The folder of the results. Default: out/mutate."
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="How many edits are tried at once. Default: as many as cores."
    )


def by_check(_: None, task: tuple[str, str, str, str]) -> str:
    """The check that finds an edit."""
    file, function, says = task[:3]
    return mutate.found_by_check(file, mutate.edits_of(file)[function, says])


def by_tests(_: None, task: tuple[str, str, str, str]) -> str:
    """The test that finds an edit."""
    file, function, says = task[:3]
    return mutate.found_by_tests(file, mutate.edits_of(file)[function, says])


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 if every edit was found or is listed as equivalent, and none is both."""
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers}, expected at least 1")
    args.out.mkdir(parents=True, exist_ok=True)
    rows, wrong = [], 0
    for file in args.file:
        row, lines = score(file, args.function, args.out, args.workers)
        rows.append(row)
        wrong += len(lines)
        for line in lines:
            print(line)
    if not args.function:
        _write(args.out / "mutate.json", {"job": "mutate", "rows": rows})
    print(results_table(rows))
    return 1 if wrong else 0


def score(file: str, function: str | None, out: Path, workers: int | None) -> tuple[dict[str, Any], list[str]]:
    """The row of a file, and a line on everything that should not be."""
    every = [e for e in mutate.edits_of(file).values() if function in (None, e.function)]
    if not every:
        raise InputError(f"{file} has no function {function!r} with anything to edit")
    equivalent = mutate.equivalents(file)
    for name in dict.fromkeys(e.function for e in every):
        spoilt = mutate.found_by_check(file, mutate.no_edit(file, name))
        if spoilt:
            raise InputError(f"{file}, {name}: the checks fail without any edit, so they say nothing: {spoilt}")
    store = out / f"{file.removesuffix('.py').replace('/', '_')}.jsonl"
    tasks = [(file, e.function, e.says, e.of) for e in every]
    checked = run_all(by_check, None, tasks, f"{file}, checks", workers, store)
    left = [task for task, by in zip(tasks, checked, strict=True) if not by]
    unseen = len(left)
    left = [task for task in left if task[1:3] not in equivalent]
    earlier = {key for path in out.glob(f"{store.stem}.tests-*.jsonl") for key, by in read_store(path).items() if by}
    again = [task for task in left if f"{by_tests.__name__} {task!r}" not in earlier]
    if again:
        name = again[0][1]
        spoilt = mutate.found_by_tests(file, mutate.no_edit(file, name))
        if spoilt:
            raise InputError(f"{file}, {name}: the tests fail without any edit, so they say nothing: {spoilt}")
    tested = run_all(by_tests, None, again, f"{file}, tests", workers, out / f"{store.stem}.tests-{_tests()}.jsonl")
    survived = [task[1:3] for task, by in zip(again, tested, strict=True) if not by]
    lines = [f"not found: {file}, {name}: {says}" for name, says in survived]
    lines += [
        f"listed as equivalent, but found: {file}, {name}: {says}, by {by}"
        for (_, name, says, _), by in zip(tasks, checked, strict=True)
        if by and (name, says) in equivalent
    ]
    row = {
        "file": file,
        "edits": len(every),
        "by check": len(every) - unseen,
        "by tests": len(left) - len(survived),
        "equivalent": unseen - len(left),
        "not found": len(survived),
    }
    return row, lines


def _tests() -> str:
    """A few characters that change with the tests."""
    paths = sorted(mutate.TESTS.glob("*.py"))
    return sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:8]


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def results_table(rows: list[dict[str, Any]]) -> str:
    """The score of every file: what was found of the edits that are not equivalent."""
    columns = ("edits", "by check", "by tests", "equivalent", "not found")
    lines = []
    for row in rows:
        found = row["by check"] + row["by tests"]
        others = row["edits"] - row["equivalent"]
        lines.append([row["file"], *(str(row[c]) for c in columns), f"{100 * found / others:.1f} %" if others else "-"])
    return table(["file", *columns, "score"], lines)
