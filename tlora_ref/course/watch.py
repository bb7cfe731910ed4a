"""Calling a student's function: on arguments of its own, and with everything seen that it does beside returning.

A Watch is the answer as graders call it. It remembers, over all calls of one grading:

    changed   whether an argument was changed in place, however deep in a tuple or dictionary it lies
    printed   what the first call that printed anything printed
    library   functions of this package that the answer calls by itself, and is not meant to

and turns what stops a call into one sentence that shows the student's own line. An answer that is not written yet
(NotImplementedError) and Ctrl-C pass through.
"""

from __future__ import annotations

import io
import linecache
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np

PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Stopped:
    """A call that did not return: what it stopped with, in words."""

    says: str


@dataclass
class Watch:
    """The answer, watched. ``may_use``: names of this package's functions that an answer may call."""

    answer: Callable[..., Any]
    may_use: Collection[str] = ()
    changed: bool = False
    printed: str = ""
    library: set[str] = field(default_factory=set)

    def __call__(self, *arguments: Any) -> Any:
        """What the answer returns for these arguments, or Stopped."""
        before = copied(arguments)
        out = io.StringIO()
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(), redirect_stdout(out), self._profiled(arguments):
                warnings.simplefilter("ignore")
                returned = self.answer(*arguments)
        except (NotImplementedError, KeyboardInterrupt):
            raise
        except SystemExit:
            return Stopped("sys.exit(), which would end the whole notebook: a function ends with `return`")
        except Exception as error:
            return Stopped(f"{_named(error)}{_own_line(error.__traceback__)}")
        finally:
            self.printed = self.printed or out.getvalue()
            self.changed = self.changed or not same(arguments, before)
        return returned

    def fresh(self, *arguments: Any) -> Any:
        """The same on copies, so that whoever calls keeps the originals."""
        return self(*copied(arguments))

    def _profiled(self, arguments: Any) -> _Profile:
        return _Profile(self.library, {*_codes(arguments)}, self.may_use)


class _Profile:
    """While it is entered, functions of this package that are called from outside of it are noted down."""

    def __init__(self, calls: set[str], own_code: Collection[Any], may_use: Collection[str]):
        self.calls, self.own_code, self.may_use = calls, own_code, may_use

    def __enter__(self) -> None:
        self.before = sys.getprofile()
        sys.setprofile(self._seen)

    def __exit__(self, *_: Any) -> None:
        sys.setprofile(self.before)

    def _seen(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not _ours(frame) or _from_inside(frame):
            return
        name = frame.f_code.co_name
        if frame.f_code not in self.own_code and name not in self.may_use and not name.startswith(("<", "__")):
            self.calls.add(name)


def _from_inside(frame: FrameType) -> bool:
    """Is it called on behalf of a function of this package, be it by way of NumPy, and not by the answer itself?"""
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__") != __name__:
        if _ours(caller):
            return True
        caller = caller.f_back
    return False


def _ours(frame: FrameType) -> bool:
    # by the module and not by the file: seeded bugs are made of text, and have none
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == __name__.partition(".")[0]


def _codes(value: Any) -> list[Any]:
    """The code of the functions among the arguments: a checker may call what it is given."""
    if isinstance(value, (tuple, list)):
        return [code for item in value for code in _codes(item)]
    return [value.__code__] if hasattr(value, "__code__") else []


# --- what stopped it -----------------------------------------------------------------------------


def _named(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _own_line(traceback: TracebackType | None) -> str:
    """The innermost line that is neither this package's nor an installed library's: the student's."""
    own = ""
    while traceback is not None:
        code, number = traceback.tb_frame.f_code, traceback.tb_lineno
        path = code.co_filename
        line = linecache.getline(path, number).strip()
        if line and not path.startswith((PACKAGE, sys.base_prefix, sys.prefix)) and "site-packages" not in path:
            own = f", in your line {number}: {line}"
        traceback = traceback.tb_next
    return own


# --- arguments, however nested -------------------------------------------------------------------


def copied(value: Any) -> Any:
    """A copy of every array and container in it; functions and generators stay as they are."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return type(value)([copied(item) for item in value])
    if isinstance(value, np.ndarray):
        return value.copy(order="K")
    if _tensor(value):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value


def same(a: Any, b: Any) -> bool:
    """The same to the last bit, in every array; what is no data counts as the same."""
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        return bool(a == b)
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if _tensor(a):
        return a.shape == b.shape and bool((a.detach() == b.detach()).all())
    return True


def _tensor(value: Any) -> bool:
    return type(value).__module__ == "torch" and hasattr(value, "detach")
