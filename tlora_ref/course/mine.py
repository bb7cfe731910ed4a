"""What a student wrote, kept for the notebooks after: right answers go into the file mine.py beside them.

    check("02", backward=my_backward)    in a notebook: it is right, and written into mine.py
    from mine import my_backward         in a later one

Only answers that a later notebook uses are kept (FOLLOWED), with the imports and the functions of the notebook that
they call. What mine.py lacks, the worked solution stands in for, and says so: the file hands the names that it does not
have to ``stand_in``.

Checked by  tests/test_mine.py.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ..files import write_atomic
from .grader import after_right

FOLLOWED: dict[str, tuple[str, str]] = {
    "my_rank": ("00", "rank"),
    "my_dx": ("02", "dx"),
    "my_backward": ("02", "backward"),
    "my_check": ("03", "check"),
    "my_trained": ("06", "trained"),
    "my_gelu_dx": ("07", "gelu"),
    "my_layer_norm_dx": ("07", "layer_norm"),
    "my_attention_backward": ("07", "attention"),
    "my_cross_entropy_dlogits": ("07", "cross_entropy"),
}
"""The answers that a later notebook uses: the name there -> notebook and exercise."""

HEAD = '''"""Your right answers, written here by `check`, for later notebooks.

What is missing, the worked solution stands in for, and says so. To be rid of an answer, delete its part.
"""

from tlora_ref.course.mine import stand_in as __getattr__  # noqa: F401
'''


class NotKept(Exception):
    """A right answer that cannot stand in a file of its own; the message says why."""


def start_keeping(path: Path) -> None:
    """From here on right answers are kept in that file, which is made if there is none."""
    if not path.exists():
        write_atomic(path, HEAD)
    after_right[:] = [lambda notebook, name, answer: keep(path, notebook, name, answer)]


def keep(path: Path, notebook: str, name: str, answer: Callable[..., Any]) -> str:
    """Write a right answer into the file, in the place of an earlier one. Returns what to tell the student, "" for an
    answer that no later notebook uses."""
    called = next((mine for mine, exercise in FOLLOWED.items() if exercise == (notebook, name)), "")
    if not called:
        return ""
    try:
        lines = [_begin(called), *_text(answer)]
        if answer.__name__ != called:
            lines += ["", f"{called} = {answer.__name__}"]
        written = path.read_text(encoding="utf-8") if path.exists() else HEAD
        write_atomic(path, f"{_without(written, called)}\n\n" + "\n".join([*lines, _end(called)]) + "\n")
    except (NotKept, OSError) as error:
        return f"It is not kept in {path.name}: {error}."
    sys.modules.pop(path.stem, None)  # what was read of the file before is out of date
    return f"Kept in {path.name}, for later notebooks."


def stand_in(called: str) -> Any:
    """The worked solution of an exercise, by the name that the notebooks give to its answer, with a line that says so.
    Raises AttributeError for any other name."""
    if called not in FOLLOWED:
        raise AttributeError(f"neither you nor the course has a function {called!r} to keep")
    notebook, name = FOLLOWED[called]
    print(f"mine.py has no {called} yet (notebook {notebook}): the worked solution stands in for it.")
    return getattr(import_module(f".solutions.nb{notebook}", __package__), name)


# --- a function and what it needs, as text ---------------------------------------------------------


def _begin(called: str) -> str:
    return f"# --- {called}, notebook {FOLLOWED[called][0]} ---"


def _end(called: str) -> str:
    return f"# --- end of {called} ---"


def _without(written: str, called: str) -> str:
    """The file without the part of that name."""
    return re.sub(
        rf"\n*{re.escape(_begin(called))}\n.*?\n{re.escape(_end(called))}\n", "\n", written, flags=re.S
    ).rstrip()


def _text(answer: Callable[..., Any]) -> list[str]:
    """The lines of a function: imports first, then functions and numbers of the notebook, then its own."""
    imports: dict[str, None] = {}
    own: dict[str, list[str]] = {}
    _collect(answer, imports, own)
    between = [line for lines in own.values() for line in ["", "", *lines]]
    return [*imports, *(between if imports else between[2:])]


def _collect(answer: Any, imports: dict[str, None], own: dict[str, list[str]]) -> None:
    """Fill ``imports`` and ``own``, what is needed before what needs it. Raises NotKept."""
    if not inspect.isfunction(answer) or answer.__name__ == "<lambda>":
        raise NotKept("only a function written with `def` can be")
    if answer.__closure__:
        raise NotKept(f"{answer.__name__} uses {answer.__code__.co_freevars[0]!r} of the function around it")
    try:
        source = textwrap.dedent(inspect.getsource(answer))
    except (OSError, TypeError):
        raise NotKept(f"the source of {answer.__name__} cannot be found") from None
    own[answer.__name__] = []  # it may call itself
    for name in dict.fromkeys(_globals(answer.__code__)):
        if name in own or name not in answer.__globals__ or hasattr(builtins, name):
            continue
        value = answer.__globals__[name]
        home = getattr(value, "__module__", None) or _home(value, apart=answer.__module__)
        if isinstance(value, ModuleType):
            imports[f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"] = None
        elif home and home != answer.__module__ and _found(home, value):
            same = value.__name__ == name
            imports[f"from {home} import {value.__name__}" + ("" if same else f" as {name}")] = None
        elif inspect.isfunction(value):
            _collect(value, imports, own)
        elif _literal(value):
            own[name] = [f"{name} = {value!r}"]
        else:
            kind = type(value).__name__
            raise NotKept(f"{answer.__name__} reads {name}, of type {kind}, which is no argument of it")
    del own[answer.__name__]
    own[answer.__name__] = source.rstrip().split("\n")


def _globals(code: CodeType) -> Iterator[str]:
    """The names that a function and those inside of it may look up globally."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _found(home: str, value: Any) -> bool:
    return getattr(sys.modules.get(home), getattr(value, "__name__", ""), None) is value


def _home(value: Any, apart: str) -> str:
    """The public module that holds it, for what does not say so itself, as SciPy's ufuncs; "" for anything else."""
    name = getattr(value, "__name__", None)
    holds = [
        home for home in list(sys.modules) if name and _found(home, value) and "._" not in f".{home}" and home != apart
    ]
    return min(holds, key=lambda home: (len(home), home), default="")


def _literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError):
        return False
