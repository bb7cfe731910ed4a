"""The suite, tested: every mechanical edit of a file (edits.py) is planted, and something has to turn red.

An edit is planted in a process of its own, which first runs the suite of checks, on the kernels that reach the edited
function (or on encoders), and then, where that finds nothing, the property tests of the file. An edit that nothing can
find, because it changes nothing that is promised, is listed in equivalent.json with the reason.

Checked by  tests/test_mutate.py.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from .. import by_hand
from ..by_hand.kernels import KERNELS
from ..by_hand.methods import METHODS
from ..gradcheck import check
from ..shapes import InputError
from .edits import Edit, edits, plant
from .forwards import forwards
from .scenarios import encoder_scenarios, scenarios
from .suite import ENCODERS

PACKAGE = Path(__file__).parents[1]
TESTS = PACKAGE.parent / "tests"
EQUIVALENT = Path(__file__).parent / "equivalent.json"

SECONDS = 600
"""An edit that runs longer has made an endless loop: it is found. All tests of a file take a minute."""

OF_FILE: dict[str, tuple[str, ...]] = {
    "by_hand/ops.py": ("test_numerics.py", "test_masks_and_extremes.py", "test_fast.py"),
    "by_hand/encoder.py": ("test_encoder.py", "test_numerics.py", "test_promises.py", "test_activations.py"),
    "by_hand/optimizers.py": ("test_train.py", "test_promises.py", "test_lora_rite.py", "test_triadapt.py"),
}
"""The property tests of a file, beside those of its kernels."""

OF_KERNEL = ("test_numerics.py", "test_activations.py")
OF_START = ("test_init.py", "test_family.py", "test_adapter_file.py", "test_numerics.py")
"""Those of a method's page that is not named above: for what a kernel calls, and for everything else."""

QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
"""What the process has imported before its copies run pytest is no warning."""

KERNELS_TESTED = 4
"""The properties of so many kernels are run; the checks, which are faster, run on all that an edit reaches."""


def files() -> list[str]:
    """The files that can be mutated: the kernels, the encoder, the optimizers."""
    pages = sorted(path.name for path in (PACKAGE / "by_hand" / "methods").glob("*.py") if path.name != "__init__.py")
    ours = ("ops", "encoder", "optimizers")
    return [*(f"by_hand/{name}.py" for name in ours), *(f"by_hand/methods/{page}" for page in pages)]


@cache
def edits_of(file: str) -> dict[tuple[str, str], Edit]:
    """All edits of a file by function and text. Raises InputError for a file that is not among ``files``."""
    if file not in files():
        raise InputError(f"the file is {file!r}, expected one of {', '.join(files())}")
    made = edits((PACKAGE / file).read_text(encoding="utf-8"))
    return {(edit.function, edit.says): edit for edit in made}


def equivalents(file: str) -> dict[tuple[str, str], str]:
    """The reason of every edit of a file that is listed as equivalent. Raises InputError for one that is no edit."""
    listed = json.loads(EQUIVALENT.read_text(encoding="utf-8")).get(file, {})
    reasons = {
        (function, says): reason
        for function, reasons in listed.items()
        for reason, all_of_them in reasons.items()
        for says in all_of_them
    }
    unknown = sorted(set(reasons) - set(edits_of(file)))
    if unknown:
        raise InputError(f"{EQUIVALENT.name} lists what is no edit of {file}: {unknown[0][0]}: {unknown[0][1]}")
    return reasons


# --- what finds an edit ----------------------------------------------------------------------------


def found_by_check(file: str, edit: Edit) -> str:
    """The check that finds an edit, "" if none does."""
    module, names = _module(file), _reached(file, edit.function)
    _warm(file, names)
    return _planted(edit, module, lambda: _check(file, edit.function, names))


def no_edit(file: str, function: str) -> Edit:
    """An edit that changes nothing. What finds it says nothing."""
    own = next(edit for edit in edits_of(file).values() if edit.function == function)
    return replace(own, says="no edit", after=own.before)


def found_by_tests(file: str, edit: Edit) -> str:
    """The test that finds an edit, "" if none does. Raises InputError without the folder of tests."""
    if not TESTS.is_dir():
        raise InputError(f"there is no folder {TESTS}: the tests are in the repository, not in the installed package")
    # once here, and not in every copy; and where they are missing, no test is missing in their place
    import hypothesis.strategies  # noqa: F401
    import pytest  # noqa: F401

    names = _reached(file, edit.function)
    _warm(file, names)
    return _planted(edit, _module(file), lambda: _test(file, names))


def _module(file: str) -> ModuleType:
    return sys.modules[f"{by_hand.__name__}{file.removeprefix('by_hand').removesuffix('.py').replace('/', '.')}"]


def _planted(edit: Edit, module: ModuleType, search: Callable[[], str]) -> str:
    """``search()`` in a copy of this process, in which the edit is planted. An error and an endless loop are finds."""
    if not hasattr(os, "fork"):
        raise InputError("planting an edit needs os.fork, which this system does not have")
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: those of BLAS, held to one
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            warnings.simplefilter("ignore")
            plant(edit, module)
            says = search()
        except BaseException as error:
            says = f"{type(error).__name__}: {error}"
        os.write(writing, says.encode()[:2000] + b".")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told[:-1].decode(errors="replace") if told else f"no end within {SECONDS} seconds, or a crash"


def _check(file: str, function: str, names: tuple[str, ...]) -> str:
    for subject, points in _subjects(file, names):
        arrays, tested, flat = set(), set(), set()
        for scenario, fn, vjp, inputs, wrt, oracle, never in points:
            report = check(fn, vjp, inputs, wrt, oracle, points=("given",))
            if not report.ok:
                return f"{subject}, {scenario}"
            arrays |= {row.array for row in report.rows}
            tested |= {row.array for row in report.rows if row.verdict != "VACUOUS"}
            flat |= never
        if arrays - tested - flat:
            return f"{subject}: never above noise: {', '.join(sorted(arrays - tested - flat))}"
    for forward in forwards({*names, *_methods(file, function)}):
        if not forward.ok:
            return f"{forward.subject}, {forward.way}"
    return ""


def _subjects(file: str, names: tuple[str, ...]) -> Iterator[tuple[str, list[Any]]]:
    for name in names:
        op = KERNELS[name]
        yield name, [(s, op.fwd, op.bwd, case.args, op.wrt, "auto", frozenset()) for s, case in _scenarios(name)]
    if file == "by_hand/encoder.py":
        # against PyTorch, which is faster on whole encoders and tells a wrong forward as well
        for method in ENCODERS:
            yield (
                f"encoder + {method}",
                [(s, loss.fn, loss.vjp, loss.inputs, None, loss.twin, loss.flat) for s, loss in _losses(method)],
            )


@cache
def _scenarios(name: str) -> list[Any]:
    return list(scenarios(KERNELS[name]))


@cache
def _losses(method: str | None) -> list[Any]:
    return list(encoder_scenarios(method))


@cache
def _warm(file: str, names: tuple[str, ...]) -> None:
    """Make here, once, what every copy of this process then finds made."""
    for _ in _subjects(file, names):
        pass
    if find_spec("torch"):
        from .. import by_autograd  # noqa: F401


def _alone(name: str) -> str:
    """The gradients of a kernel asked for one by one, and none: a property that most of what the checks leave breaks,
    and that is tested in no time."""
    op, case = KERNELS[name], dict(_scenarios(name))["different sizes"]
    _, cache = op.fwd(**case.args)
    every = op.bwd(case.cotangent(), cache)
    for wrt in ([], *([key] for key in op.wrt)):
        grads = op.bwd(case.cotangent(), cache, wrt=wrt)
        if list(grads) != wrt or any(not np.array_equal(grads[key], every[key]) for key in wrt):
            return f"{name}: the gradients {wrt} alone"
    return ""


def _test(file: str, names: tuple[str, ...]) -> str:
    for name in names[:KERNELS_TESTED]:
        if says := _alone(name):
            return says
    import pytest

    class First:
        first_failure = ""

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed and not self.first_failure:
                self.first_failure = report.nodeid

    every = OF_FILE.get(file, OF_KERNEL if names else OF_START)
    runs: list[tuple[list[str], list[str]]] = [([name], []) for name in every]
    if names:
        runs.append((["test_kernels.py"], ["-k", " or ".join(f"[{name}]" for name in names[:KERNELS_TESTED])]))
    if every is OF_START:
        page = Path(file).stem
        runs.insert(0, (["test_family.py"], ["-k", f"[{page}"]))  # the start of its own methods, in no time
    os.chdir(PACKAGE.parent)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what else is installed takes longer to load than these tests
    for paths, chosen in runs:
        first = First()
        arguments = [*(str(TESTS / path) for path in paths), *chosen]
        # addopts speaks to xdist, which is not loaded
        options = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "not (job or slow)", *QUIET]
        code = pytest.main([*options, *arguments], plugins=[first])
        if code != 0 and not (chosen and code == pytest.ExitCode.NO_TESTS_COLLECTED):
            return first.first_failure or f"{paths[0]} ends with {code!r}"
    return ""


# --- which kernels an edit can reach ----------------------------------------------------------------


@cache
def _reached(file: str, function: str) -> tuple[str, ...]:
    """The kernels that call a function, those first whose forward or backward it is."""
    target = _plain(getattr(_module(file), function))
    named = []
    for name, op in KERNELS.items():
        ends = [_plain(op.fwd), _plain(op.bwd)]
        called = set().union(*(_called(end) for end in ends))
        if target in called:
            named.append((target not in ends, name))
    return tuple(name for _, name in sorted(named, key=lambda pair: pair[0]))


@cache
def _methods(file: str, function: str) -> tuple[str, ...]:
    """The methods whose dW, constants or kernel call a function; of the encoder's functions, all methods."""
    target, named = _plain(getattr(_module(file), function)), []
    for name, method in METHODS.items():
        ends = [end for end in (method.kernel.fwd, method.kernel.bwd, method.delta_w, method.constants_of) if end]
        if file == "by_hand/encoder.py" or any(target in _called(_plain(end)) for end in ends):
            named.append(name)
    return tuple(named)


def _plain(function: Any) -> FunctionType:
    return inspect.unwrap(getattr(function, "func", function))


@cache
def _called(function: FunctionType) -> frozenset[FunctionType]:
    """The function, and the functions of by_hand that it calls by name, and those that they call."""
    reached = {function}
    for name in function.__code__.co_names:
        other = function.__globals__.get(name)
        if callable(other) and ".by_hand." in getattr(other, "__module__", ""):
            other = _plain(other)
            if isinstance(other, FunctionType) and other not in reached:
                reached |= _called(other)
    return frozenset(reached)
