"""Modules chosen by name: a suffix of whole parts, or a regular expression.

    "query"                         x.query, but not x.subquery and not x.query.base
    "self.query"                    x.self.query
    re.compile(r".*\\.1[0-9]\\..*")   what the whole name matches (fullmatch)
Checked by  tests/test_inject.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from .shapes import InputError

Pattern = str | re.Pattern[str]


def matches(pattern: Pattern, name: str) -> bool:
    """Does a dotted name end in the pattern, or match it as a whole if it is a regular expression?"""
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    return name == pattern or name.endswith(f".{pattern}")


def select(
    what: str, patterns: Iterable[Pattern], names: Iterable[str], near: Iterable[str] | None = None
) -> list[str]:
    """The names that some pattern matches, in the order of ``names``.

    Raises InputError for every pattern that matches nothing, also when others match; the message says
    ``what`` it is and lists the nearest names out of ``near`` (default: ``names``).
    """
    names = list(names)
    patterns = list(patterns)
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            close = nearest(pattern, names if near is None else near)
            raise InputError(f"{what} {spell(pattern)} matches nothing; the nearest names are {', '.join(close)}")
    return [name for name in names if any(matches(pattern, name) for pattern in patterns)]


def nearest(pattern: Pattern, names: Iterable[str]) -> list[str]:
    """Up to five names, the most similar first: endings as long as the pattern in parts, or, for a regular
    expression, whole names with * for every number."""
    if isinstance(pattern, re.Pattern):
        text, near = pattern.pattern, [re.sub(r"\b\d+\b", "*", name) for name in names]
    else:
        parts = pattern.count(".") + 1
        text, near = pattern, [".".join(name.split(".")[-parts:]) for name in names]
    return get_close_matches(text, list(dict.fromkeys(near)), n=5, cutoff=0.0) or ["(none)"]


def spell(pattern: Pattern) -> str:
    """The pattern as a message shows it."""
    return f"the regular expression {pattern.pattern!r}" if isinstance(pattern, re.Pattern) else repr(pattern)
