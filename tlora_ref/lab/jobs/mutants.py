"""Which seeded gradient bugs do gradient checkers find?

The rows of the table are families of bugs. Its columns are checkers, once at a generic point and once at the point
that TLoRA starts from, where many bugs cannot be seen. Below it stand every missed bug, by name, and how often right
gradients were rejected.

    python -m tlora_ref mutants
    python -m tlora_ref mutants --everyday
    python -m tlora_ref mutants --json

--everyday asks the same checkers about everyday functions, from convolution to batch norm, each with a right gradient
and with wrong ones: how often each checker rejects what is right and accepts what is wrong.

torch's checker takes part where torch is installed. Exit code 1 if this project's own checker, over all its
scenarios, misses a bug or rejects a right gradient.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from textwrap import fill
from typing import Any

from ...tables import table
from ...verification import everyday
from ...verification.mutants import ALL, BUGS, CONTROLS, FAMILIES, mutant
from ...verification.scorers import CHECKERS, clean, score
from ..runs import run_all

CONFIGURATIONS = 60
"""Right gradients that every checker is asked about."""

OWN, EVERYWHERE = "tlora_ref", "all"
"""The project's checker, and the point that stands for all scenarios: the only one asked there."""

PARTS = 4
"""Into how many tasks the mutants are divided, so that no core waits for the slowest checker."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``mutants``."""
    parser.add_argument(
        "--everyday", action="store_true", help="Score on everyday functions, not on this project's kernels."
    )
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as tables.")


def work(_: None, task: tuple[str, str, int]) -> list[str]:
    """The mutants of one part that a checker rejects at a point; for "clean", the numbers of the configurations."""
    name, point, part = task
    if point == "clean":
        problems = enumerate(clean(CONFIGURATIONS))
        return [str(i) for i, p in problems if i % PARTS == part and not p.accepted_by(CHECKERS[name])]
    return list(score(CHECKERS[name], ALL[part::PARTS], point).killed)


def run(args: argparse.Namespace) -> int:
    """Run the job."""
    if args.everyday:
        return run_everyday(args)
    names = [name for name in CHECKERS if find_spec("torch") or not name.startswith("torch")]
    asked = [(name, point) for name in names for point in ("generic", "initial", "clean")] + [(OWN, EVERYWHERE)]
    tasks = [(*pair, part) for pair in asked for part in range(PARTS)]
    rejected: dict[tuple[str, str], set[str]] = {pair: set() for pair in asked}
    for (name, point, _), found in zip(tasks, run_all(work, None, tasks, "checkers"), strict=True):
        rejected[name, point] |= set(found)
    own = rejected[OWN, EVERYWHERE]
    ok = own == {m.name for m in BUGS} and not rejected[OWN, "clean"]
    if args.json:
        print(json.dumps(_as_dict(names, rejected), indent=1))
    else:
        _print(names, rejected)
    if not ok:
        print("tlora-ref mutants: the project's own checker is not right about all of them", file=sys.stderr)
    return 0 if ok else 1


# --- everyday functions --------------------------------------------------------------------------


def work_everyday(_: None, name: str) -> dict[str, str]:
    """What one checker says of every pair."""
    return everyday.verdicts(name)


def run_everyday(args: argparse.Namespace) -> int:
    """Every checker on the everyday functions."""
    names = [name for name in everyday.checkers() if find_spec("torch") or not name.startswith("torch")]
    found = dict(zip(names, run_all(work_everyday, None, names, "checkers"), strict=True))
    scores = {name: everyday.summary(verdicts) for name, verdicts in found.items()}
    if args.json:
        print(json.dumps({"job": "mutants", "everyday": scores, "verdicts": found}, indent=1))
    else:
        _print_everyday(scores)
    own = scores[OWN]
    return 0 if not own["false_fail"] and not own["false_pass"] else 1


def _print_everyday(scores: dict[str, Any]) -> None:
    own = scores[OWN]
    right, wrong = own["right"], own["wrong"]
    print(f"{len(everyday.SUBJECTS)} everyday functions with {right} right gradients and {wrong} wrong ones: what each")
    print("checker, at its own tolerances, rejects though it is right, accepts though it is wrong, or cannot check\n")
    head = ["checker", "right, rejected", "wrong, accepted", "cannot be checked"]
    print(table(head, [[n, *(str(len(s[k])) for k in ("false_fail", "false_pass", "neither"))]
                       for n, s in scores.items()]))  # fmt: skip
    for key, title in (("false_fail", "Right, and rejected"), ("false_pass", "Wrong, and accepted"),
                       ("neither", "Cannot be checked")):  # fmt: skip
        print(f"\n{title}")
        for name, counted in scores.items():
            if counted[key]:
                text = f"{name} ({len(counted[key])}): {'; '.join(counted[key])}"
                print(fill(text, 116, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))


# --- this project's kernels ----------------------------------------------------------------------


def _missed(rejected: dict[tuple[str, str], set[str]], name: str, point: str) -> list[str]:
    return [m.name for m in BUGS if m.name not in rejected[name, point]]


def _print(names: list[str], rejected: dict[tuple[str, str], set[str]]) -> None:
    counted = f"{len(BUGS)} bugs in {len(FAMILIES)} families, {len(CONTROLS)} controls"
    print(f"{counted}; a cell is the number of bugs found, nothing where all were.")
    for point, spelt in (("generic", "a generic point"), ("initial", "the initial point: B = 0, alpha = 1, gamma = 1")):
        print(f"\nAt {spelt}\n")
        rows = []
        for family in (*FAMILIES, "all"):
            members = {m.name for m in BUGS if family in ("all", m.family)}
            found = [len(members & rejected[name, point]) for name in names]
            cells = ["" if n == len(members) and family != "all" else str(n) for n in found]
            rows.append([family, str(len(members)), *cells])
        alarms = [str(sum(m.name in rejected[name, point] for m in CONTROLS)) for name in names]
        rows.append(["controls rejected", str(len(CONTROLS)), *alarms])
        if point == "generic":
            clean_alarms = [str(len(rejected[name, "clean"])) for name in names]
            rows.append(["false alarms, clean", str(CONFIGURATIONS), *clean_alarms])
        print(table(["family", "bugs", *names], rows))
    alarms = sum(m.name in rejected[OWN, EVERYWHERE] for m in CONTROLS)
    found = len(BUGS) - len(_missed(rejected, OWN, EVERYWHERE))
    print(f"\n{OWN} over all scenarios: {found} of {len(BUGS)} bugs, {alarms} of {len(CONTROLS)} controls rejected")
    _print_missed(names, rejected)
    missed = _missed(rejected, OWN, EVERYWHERE)
    if missed:
        print("\nMissed over all scenarios")
        for name in missed:
            print(f"  {name}: {mutant(name).says}")


def _print_missed(names: list[str], rejected: dict[tuple[str, str], set[str]]) -> None:
    missed = {(name, point): set(_missed(rejected, name, point)) for name in names for point in ("generic", "initial")}
    print("\nMissed at the generic point")
    for name in names:
        _list(name, missed[name, "generic"])
    print("\nMissed at the initial point: by every checker, and besides those and its own above")
    hidden = set.intersection(*(missed[name, "initial"] for name in names))
    _list("every checker", hidden)
    for name in names:
        _list(name, missed[name, "initial"] - missed[name, "generic"] - hidden)


def _list(label: str, names: set[str]) -> None:
    """The names, or, if they are more than half of all, the names of the others."""
    few = len(names) <= len(BUGS) // 2
    chosen = [m.name for m in BUGS if (m.name in names) == few]
    text = f"{label} ({len(names)}): {'' if few else 'all but '}{', '.join(chosen) or 'none'}"
    print(fill(text, 116, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))


def _as_dict(names: list[str], rejected: dict[tuple[str, str], set[str]]) -> dict[str, Any]:
    def verdict(name: str, point: str) -> dict[str, Any]:
        members = {f: [m.name for m in BUGS if m.family == f] for f in FAMILIES}
        return {
            "found": len(BUGS) - len(_missed(rejected, name, point)),
            "by_family": {f: sum(m in rejected[name, point] for m in group) for f, group in members.items()},
            "missed": _missed(rejected, name, point),
            "controls_rejected": [m.name for m in CONTROLS if m.name in rejected[name, point]],
        }

    checkers = {name: {p: verdict(name, p) for p in ("generic", "initial")} for name in names}
    for name in names:
        checkers[name]["clean_rejected"] = sorted(map(int, rejected[name, "clean"]))
    checkers[OWN]["all_scenarios"] = verdict(OWN, EVERYWHERE)
    mutants = [{"name": m.name, "op": m.op, "family": m.family, "says": m.says, "visible": m.visible,
                "equivalent": m.equivalent, "diff": m.diff()} for m in ALL]  # fmt: skip
    return {"job": "mutants", "bugs": len(BUGS), "controls": len(CONTROLS), "clean": CONFIGURATIONS,
            "checkers": checkers, "mutants": mutants}  # fmt: skip
