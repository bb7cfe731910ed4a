"""Check hand-written gradients against oracles.

    python -m tlora_ref check
        This checks every kernel and the loss of a whole encoder (alone, and under adapters) by every oracle that
        applies, over the scenarios that together expose what one point hides. It checks the forwards as well, where
        there is a second way to compute them.

    python -m tlora_ref check mymodule:forward mymodule:backward --shape x=2,5,6 --shape w=6,3
        This checks your own pair, from a module in this folder or an installed one. Write forward(x, w) ->
        (out, cache) and backward(dout, cache), or forward(x, w) -> out and backward(dout, x, w). The backward
        returns {"x": dx, "w": dw}. It is checked at random numbers, and at points around them: wide, small, many
        rows, one row.

The exit code is 0 if every gradient passed and 1 if one is wrong. It is 2 if something could not be checked: there is
no such module, the shapes do not fit, a value is NaN, a gradient has a wrong name or shape, the forward is random, no
oracle can follow it, or a gradient is below noise or at a kink at every point.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from math import isfinite, prod
from typing import Any

import numpy as np

from ...shapes import InputError
from ...tables import table

LARGEST = 10**8
"""The most numbers of one argument of a pair."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``check``."""
    parser.add_argument(
        "pair",
        nargs="*",
        metavar="MODULE:FUNCTION",
        help="Your forward and its backward. Without them all of this project's are checked.",
    )
    shape = "An argument and its shape, as in x=2,5,6; a scalar is alpha= with nothing behind it. Repeat it for each."
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=SIZES", help=shape)
    parser.add_argument(
        "--oracle", default="auto", help="One of auto, complex, richardson, central, exact, mpmath. Default: auto."
    )
    parser.add_argument(
        "--full", action="store_true", help="Check every entry, not random directions, and report the worst."
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="The seed that draws your pair's arguments and cotangents. Default: 0."
    )
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as a table.")


def run(args: argparse.Namespace) -> int:
    """Run the job: its exit code, as above."""
    if args.pair:
        return run_pair(args)
    if args.shape or args.full or args.oracle != "auto" or args.seed:
        raise InputError("--shape, --oracle, --full and --seed belong to a pair MODULE:FORWARD MODULE:BACKWARD")
    return run_suite(args)


# --- somebody's pair -----------------------------------------------------------------------------


def run_pair(args: argparse.Namespace) -> int:
    """Check one pair at a random point, and around it."""
    from ...gradcheck import check

    if len(args.pair) != 2:
        raise InputError(f"got {len(args.pair)} of MODULE:FUNCTION, expected two: a forward and its backward")
    if not args.shape:
        raise InputError("no --shape given, expected one for each argument, as in --shape x=2,5,6")
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}, expected at least 0")
    shapes = dict(map(parse_shape, args.shape))
    if len(shapes) < len(args.shape):
        raise InputError("a --shape is given twice for one argument")
    forward, backward = map(load, args.pair)
    rng = np.random.default_rng(args.seed)
    inputs = {name: np.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
    mode = "full" if args.full else "directional"
    report = check(forward, backward, inputs, oracle=args.oracle, mode=mode, seed=args.seed)
    print(report.to_json() if args.json else report.table())
    if report.malformed:
        raise InputError(report.malformed)
    if report.wrong:
        return 1
    return 0 if report.ok and not report.untested else 2


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """ "x=2,5,6" -> ("x", (2, 5, 6)); "alpha=" -> ("alpha", ()). Raises InputError."""
    name, equals, sizes = text.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        shape = (-1,)
    if not (equals and name.isidentifier() and all(size >= 1 for size in shape)):
        raise InputError(f"--shape is {text[:80]!r}, expected NAME=SIZES as in x=2,5,6")
    if prod(shape) > LARGEST:
        raise InputError(f"--shape is {text[:80]!r}, expected at most {LARGEST:,} numbers")
    return name, shape


def load(text: str) -> Callable[..., Any]:
    """The function "module:name", the current folder searched first. Raises InputError."""
    module_name, colon, name = text.partition(":")
    if not (colon and module_name and name):
        raise InputError(f"{text!r} is no function, expected MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if module_name == error.name or module_name.startswith(f"{error.name}."):
            raise InputError(f"no module {module_name!r} in this folder or among what is installed") from None
        raise InputError(f"module {module_name!r} imports {error.name!r}, which is not installed") from None
    except SystemExit as error:
        raise InputError(f"module {module_name!r} ends the program when it is imported: exit({error.code!r})") from None
    except Exception as error:
        raise InputError(f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        function = module
        for part in name.split("."):
            function = getattr(function, part)
    except AttributeError:
        raise InputError(f"module {module_name!r} has no attribute {name!r}") from None
    if not callable(function):
        raise InputError(f"{text!r} is a {type(function).__name__}, expected a function")
    return function


# --- all of ours ---------------------------------------------------------------------------------


def run_suite(args: argparse.Namespace) -> int:
    """Check everything, and print one table."""
    from ...verification.forwards import RTOL as FORWARD_RTOL
    from ...verification.suite import COLUMNS, NEEDS, RTOL, available, summary, tasks
    from ..runs import run_all

    start = time.perf_counter()
    held, *found = run_all(one_part, None, [None, *tasks()], "checks")
    lines = list(summary([item for items in found for item in items]))
    ok = all(line.ok for line in lines) and all(forward.ok for forward in held)
    seconds = time.perf_counter() - start
    missing = [name for name in NEEDS if name not in available()]
    if args.json:
        report = {
            "job": "check", "ok": ok, "seconds": seconds, "not_installed": missing,
            "lines": [{"subject": line.subject, "ok": line.ok, "checks": line.checks, "errors": line.errors,
                       "error_over_tolerance": {k: v if isfinite(v) else None for k, v in line.ratios.items()},
                       "untested": line.untested,
                       "failed": [{"scenario": item.task.scenario, "oracle": item.oracle, **item.report.as_dict()}
                                  for item in line.failed]} for line in lines],
            "forwards": [{"subject": f.subject, "way": f.way, "error": f.error if isfinite(f.error) else None,
                          "ok": f.ok} for f in held],
        }  # fmt: skip
        print(json.dumps(report, indent=1))
        return exit_code(lines, held)
    columns = {COLUMNS.get(oracle, oracle): RTOL[oracle] for oracle in (*available(), "float32")}
    rows = [
        [line.subject, str(line.checks), *(_spell(line.errors.get(c)) for c in columns), "ok" if line.ok else "FAILED"]
        for line in lines
    ]
    rows.append(["tolerance", "", *(_spell(rtol) for rtol in columns.values()), ""])
    print("Largest error of a hand-written gradient, relative to its largest entry (or to a hundredth of the largest")
    print("gradient of the call, where that is larger), over all scenarios")
    print(table(["subject", "checks", *columns, ""], rows))
    for line in lines:
        for item in line.failed:
            print(f"\n{line.subject}, {item.task.scenario}, {item.oracle}:\n{item.report.table()}")
        if line.untested:
            print(f"\n{line.subject}: below noise in every scenario, so never tested: {', '.join(line.untested)}")
    print("\nForwards, each against a second way to compute it: the largest relative error")
    ways = dict.fromkeys(forward.way for forward in held)
    rows = [[way, str(len(same)), _spell(max(f.error for f in same)), "ok" if all(f.ok for f in same) else "FAILED"]
            for way in ways if (same := [f for f in held if f.way == way])]  # fmt: skip
    print(table(["way", "subjects", "error", ""], [*rows, ["tolerance", "", _spell(FORWARD_RTOL), ""]]))
    for forward in held:
        if not forward.ok:
            print(f"{forward.subject}, {forward.way}: off by {forward.error:.1e}")
    if missing:
        print(f"Not installed, and left out: {', '.join(missing)}")
    print(f"{sum(line.checks for line in lines)} checks, {seconds:.0f} s: {'ok' if ok else 'FAILED'}")
    return exit_code(lines, held)


def one_part(_: Any, task: Any) -> list[Any]:
    """The checks of one task of the suite, and for None all forwards: as much work as a dozen tasks, so they go to the
    processes with the rest."""
    from ...verification import forwards, suite

    return forwards.forwards() if task is None else suite.run_task(None, task)


def exit_code(lines: Any, held: Any) -> int:
    """1 for something wrong; 2 if all that is known is that something was never tested."""
    wrong = any(item.report.wrong or item.report.malformed for line in lines for item in line.failed)
    if wrong or not all(forward.ok for forward in held):
        return 1
    return 0 if all(line.ok for line in lines) else 2


def _spell(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.0e}"
