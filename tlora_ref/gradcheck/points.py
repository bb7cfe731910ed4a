"""Further points, made from the one that was given: what one point hides, another shows.

wide        entries two to eight times as large, and of either sign where both occur: a branch for x < -2.5
small       entries a hundredth as large
many rows   twice as many rows and two more
one row     the first row alone

Only arrays that have a gradient are moved; zeros stay zero, and an array of one sign keeps it, since logarithms and
roots need it. What the rows are nobody says: the arrays whose first letter is N or, without letters, whatever
fn takes with another length of the first axis, one array alone or all that are as long as it.

Checked by  tests/test_gradcheck.py, on bugs that only one of these points shows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..shapes import InputError, split_name

POINTS = ("given", "wide", "small", "many rows", "one row")

Fits = Callable[[Mapping[str, Any]], bool]
"""Does fn take these inputs?"""


def chosen(points: Collection[str]) -> tuple[str, ...]:
    """The points in the order of POINTS, "given" always among them. Raises InputError for what is none."""
    if isinstance(points, str):
        raise InputError(f"points is the text {points!r}, expected a collection of names")
    unknown = [name for name in points if name not in POINTS]
    if unknown:
        raise InputError(f"points has {unknown[0]!r}, expected some of {', '.join(POINTS)}")
    return tuple(name for name in POINTS if name == "given" or name in points)


def elsewhere(
    name: str, inputs: Mapping[str, Any], moving: Sequence[str], fits: Fits, rng: np.random.Generator
) -> dict[str, Any] | None:
    """The inputs of a further point; None where fn takes none of that kind."""
    if name in ("wide", "small"):
        moved = {**inputs, **{key: _scaled(inputs[key], name, rng) for key in moving}}
        return moved if fits(moved) else None
    return next(_rows(name, inputs, moving, fits, rng), None)


def _scaled(x: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    factor = rng.uniform(2.0, 8.0, x.shape) if name == "wide" else rng.uniform(0.005, 0.02, x.shape)
    return _times(x, factor, rng)


def _times(x: np.ndarray, factor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x * factor, with signs changed at random where both occur."""
    if x.min(initial=0.0) < 0 < x.max(initial=0.0):
        factor = factor * rng.choice([-1.0, 1.0], x.shape)
    return np.asarray(x * factor, dtype=x.dtype)


def _rows(
    name: str, inputs: Mapping[str, Any], moving: Sequence[str], fits: Fits, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    for group in _groups(inputs, moving):
        n = len(inputs[group[0]])
        # one row alone fits by broadcasting where it is no row at all, so both lengths are asked for
        variants = {"many rows": np.arange(2 * n + 2) % n, "one row": np.zeros(1, dtype=int)}
        if n == 1 and name == "one row":
            continue
        moved = {key: _taken(inputs, group, rows, moving, rng) for key, rows in variants.items()}
        if fits(moved["many rows"]) and fits(moved[name]):
            yield moved[name]


def _groups(inputs: Mapping[str, Any], moving: Sequence[str]) -> Iterator[list[str]]:
    """Arrays that may share an axis of rows."""
    arrays = {key: x for key, x in inputs.items() if isinstance(x, np.ndarray) and x.ndim and len(x)}
    letters = {key: split_name(key)[1] for key in inputs}
    if any(axes[:1] == "N" for axes in letters.values()):
        rows = [key for key, x in arrays.items() if letters[key][:1] == "N" and x.ndim >= len(letters[key])]
        if rows and len({len(arrays[key]) for key in rows}) == 1:
            yield rows
        return
    for key in (key for key in moving if key in arrays):
        yield [key]
        same = [other for other, x in arrays.items() if len(x) == len(arrays[key])]
        if len(same) > 1:
            yield same


def _taken(
    inputs: Mapping[str, Any], group: Sequence[str], rows: np.ndarray, moving: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    """Those rows of the group, moved each, so that no two are equal."""
    taken = {key: inputs[key][rows] for key in group}
    for key in (key for key in group if key in moving):
        taken[key] = _times(taken[key], rng.uniform(0.5, 3.0, taken[key].shape), rng)
    return {**inputs, **taken}
