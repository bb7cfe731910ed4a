"""What an answer may look like: one rule for containers, said in the exercises in the words of RULE.

A list counts as a tuple, a number as an array of shape (), nested lists of numbers as an array, and several numbers
or arrays of one shape as one array with these along its first axis. Order and shapes count. Nothing else is put
right: a dictionary needs the keys that were asked for, and 3.0 is no whole number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RULE = "A list counts as a tuple, and so does one array with the numbers along its first axis."

MISSING = "It returned None: is there a `return`, and does every way through the function reach one?"


class NotIt(Exception):
    """What came back cannot be compared; the message says why."""


def read(returned: Any, like: Sequence[Any], keys: Sequence[str] = ()) -> list[Any]:
    """What came back as a list of arrays, one for each of ``like``, or of its ``keys`` where those are asked for.

    The shapes are as they are; see ``misfit``. Raises NotIt with a sentence for what cannot be read, and
    NotImplementedError for ``...``.
    """
    if returned is None:
        raise NotIt(MISSING)
    if returned is ...:
        raise NotImplementedError
    if keys:
        return _of_keys(returned, keys)
    if isinstance(returned, Mapping):
        raise NotIt(f"It returned a dictionary, expected {_asked(like)}.")
    if len(like) == 1:
        return [numbers(returned)]
    several = isinstance(returned, (tuple, list)) or (isinstance(returned, np.ndarray) and returned.ndim > 0)
    if not several or len(returned) != len(like):
        raise NotIt(f"It returned {kind(returned)}, expected {_asked(like)}.")
    return [numbers(item) for item in returned]


def _of_keys(returned: Any, keys: Sequence[str]) -> list[Any]:
    wanted = _quoted(keys)
    if not isinstance(returned, Mapping):
        raise NotIt(f"It returned {kind(returned)}, expected a dictionary with the keys {wanted}.")
    if set(returned) != set(keys):
        raise NotIt(f"The keys of your dictionary are {_quoted(returned) or 'none at all'}, expected {wanted}.")
    missing = [key for key in keys if returned[key] is None]
    if missing:
        raise NotIt(f"Under {_quoted(missing)} your dictionary holds None, expected a gradient.")
    return [numbers(returned[key]) for key in keys]


def misfit(arrays: Sequence[Any], like: Sequence[Any], keys: Sequence[str] = ()) -> str:
    """Which array has another shape than the one it is held against, "" if none has."""
    for i, (array, right) in enumerate(zip(arrays, like, strict=True)):
        if array.shape != np.shape(right):
            what = f"d{keys[i]}" if keys else "The result" if len(like) == 1 else f"Number {i + 1} of the result"
            return f"{what} has shape {array.shape}, expected {np.shape(right)}."
    return ""


def numbers(value: Any) -> Any:
    """A number, an array or nested lists of numbers, as an array of real numbers. Raises NotIt for anything else."""
    if value is None:
        raise NotIt("A part of what it returned is None.")
    if type(value).__module__.partition(".")[0] == "torch":
        raise NotIt(f"It returned a {type(value).__name__} of torch, expected numbers or NumPy arrays.")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise NotIt("It returned rows of different lengths, expected an array.") from None
    if array.dtype.kind == "O" and isinstance(value, int):
        return np.asarray(float(value))  # a whole number beyond 64 bits: wrong, but a number
    if array.dtype.kind == "c":
        raise NotIt("It returned complex numbers, expected real ones.")
    if array.dtype.kind not in "biuf":
        raise NotIt(f"It returned {kind(value)}, expected numbers or NumPy arrays.")
    return array


def whole(array: Any) -> bool:
    """Whether these are whole numbers by their type: 3, but neither 3.0 nor True."""
    return np.asarray(array).dtype.kind in "iu"


def kind(value: Any) -> str:
    """ "a tuple of 3", "a str", "an array of shape (2, 3)" """
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _quoted(keys: Any) -> str:
    return ", ".join(f'"{key}"' for key in keys)


def _asked(like: Sequence[Any]) -> str:
    if len(like) > 1:
        return f"{len(like)} things"
    return "one number" if np.shape(like[0]) == () else f"an array of shape {np.shape(like[0])}"
