"""Modules chosen by name: a suffix of whole parts, or a regular expression.

    "query"                         x.query, but not x.subquery and not x.query.base
    "self.query"                    x.self.query
    re.compile(r".*\\.1[0-9]\\..*")   what the whole name matches (fullmatch)
    r"re:.*\\.1[0-9]\\..*"            the same, written as a string
Checked by  tests/test_inject.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from .shapes import InputError

Pattern = str | re.Pattern[str]


ALL_LINEAR, REGEX = "all-linear", "re:"
"""The word for every linear layer but the output layer, and the mark of a regular expression that is a string."""


def marked(pattern: Pattern) -> Pattern:
    """A string that begins with "re:" as the regular expression it is. Raises InputError for one that is none."""
    if not isinstance(pattern, str) or not pattern.startswith(REGEX):
        return pattern
    try:
        return re.compile(pattern.removeprefix(REGEX))
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from None


def in_layers(name: str, layers: Collection[int]) -> bool:
    """Is the first number in a dotted name one of these?"""
    number = next((int(part) for part in name.split(".") if part.isdigit()), None)
    return number in layers


def ranks_by_pattern(ranks: Mapping[Pattern, int], names: Iterable[str], rank: int) -> tuple[tuple[str, int], ...]:
    """(full name, rank) of the names whose rank is not ``rank``; the last pattern that matches a name counts. Raises
    InputError for a pattern that matches none of them."""
    names = list(names)
    chosen = {name: R for pattern, R in ranks.items() for name in select("ranks", [marked(pattern)], names)}
    return tuple((name, R) for name, R in chosen.items() if rank != R)


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
