"""Damage to tensor files, drawn at random: to the bytes, and to what they say with the sha256 made right again.

Damaged bytes are an accident: a disk, a transfer. A file that says something else and whose sha256 is right was written
by another program, in error or on purpose. The first must never be taken for whole; the second may, if what it says is
consistent, but must not crash a reader or change a model and then fail.
Checked by  tests/test_fuzz.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy

from ..tensor_file import digest

HOSTILE: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 10**9, 2**63, -(2**64), 10**30, 10**400, 0.5, 1e308, float("nan"), float("inf"), None, True, False,
    "", "x", "no", "\n", "\u0000", "\ud800", "n" * 5000, "blocks.0.query", "(", "(" * 3000 + ")" * 3000, "a{99999}" * 9,
    [], [0, 0], [10**9, 10**9], [1], [-3, 5], [[[]]], {}, {"regex": "(", "flags": 0}, {"regex": "a", "flags": 10**30},
    {"": None}, json.loads("[" * 400 + "]" * 400),
)  # fmt: skip
"""What a description is made to say."""


# --- bytes ---------------------------------------------------------------------------------------


def damage_bytes(rng: np.random.Generator, data: bytes) -> tuple[str, bytes]:
    """(what was done, the file): different from the one that was given."""
    while True:
        kind = str(rng.choice(list(BYTES)))
        damaged = BYTES[kind](rng, bytearray(data))
        if damaged != data:
            return kind, bytes(damaged)


def _place(rng: np.random.Generator, data: bytearray) -> int:
    # half of all in the description, half in the numbers: nothing but the sha256 tells these from others
    header = min(8 + int.from_bytes(data[:8], "little"), len(data))
    low, high = (0, header) if rng.random() < 0.5 or header == len(data) else (header, len(data))
    return int(rng.integers(low, high))


def _flip(rng: np.random.Generator, data: bytearray) -> bytearray:
    data[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return data


def _flip_many(rng: np.random.Generator, data: bytearray) -> bytearray:
    for _ in range(int(rng.integers(2, 20))):
        data = _flip(rng, data)
    return data


def _overwrite(rng: np.random.Generator, data: bytearray) -> bytearray:
    start, length = _place(rng, data), int(rng.integers(1, 64))
    filling = [bytes(length), b"\xff" * length, rng.bytes(length)][int(rng.integers(3))]
    data[start : start + length] = filling[: len(data) - start]
    return data


def _truncate(rng: np.random.Generator, data: bytearray) -> bytearray:
    return data[: _place(rng, data)]


def _extend(rng: np.random.Generator, data: bytearray) -> bytearray:
    return data + rng.bytes(int(rng.integers(1, 64)))


def _delete(rng: np.random.Generator, data: bytearray) -> bytearray:
    start = _place(rng, data)
    del data[start : start + int(rng.integers(1, 64))]
    return data


def _insert(rng: np.random.Generator, data: bytearray) -> bytearray:
    start = _place(rng, data)
    data[start:start] = rng.bytes(int(rng.integers(1, 64)))
    return data


def _swap(rng: np.random.Generator, data: bytearray) -> bytearray:
    one, other = _place(rng, data), _place(rng, data)
    length = min(int(rng.integers(1, 32)), len(data) - max(one, other))
    data[one : one + length], data[other : other + length] = data[other : other + length], data[one : one + length]
    return data


def _length(rng: np.random.Generator, data: bytearray) -> bytearray:
    stated = [0, 1, 2**63, 2**64 - 1, len(data), int.from_bytes(data[:8], "little") + 1][int(rng.integers(6))]
    data[:8] = stated.to_bytes(8, "little")
    return data


def _digit(rng: np.random.Generator, data: bytearray) -> bytearray:
    """Another digit in the description: a shape, a place in the file, a number of the configuration."""
    header = 8 + int.from_bytes(data[:8], "little")
    digits = [i for i in range(8, header) if chr(data[i]).isdigit()]
    data[int(rng.choice(digits))] = ord(str(rng.integers(10)))
    return data


BYTES: dict[str, Callable[[np.random.Generator, bytearray], bytearray]] = {
    "bit flipped": _flip, "bits flipped": _flip_many, "overwritten": _overwrite, "cut off": _truncate,
    "extended": _extend, "part deleted": _delete, "part inserted": _insert, "parts swapped": _swap,
    "length of the header": _length, "digit of the header": _digit,
}  # fmt: skip


# --- what the file says --------------------------------------------------------------------------


def say_otherwise(
    rng: np.random.Generator, kind: str, content: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[str, bytes]:
    """(what was done, the file): description or arrays are changed, one to three times, and the sha256 is right."""
    content, arrays = json.loads(json.dumps(content)), {name: array.copy() for name, array in arrays.items()}
    done = []
    for _ in range(int(rng.integers(1, 4))):
        what = edit_description(rng, content) if rng.random() < 0.6 else edit_array(rng, arrays)
        done.append(what)
    entry = json.dumps(content | {"sha256": digest(content, arrays)})
    whole = {name: np.array(array, order="C") for name, array in arrays.items()}
    return "; ".join(done), safetensors.numpy.save(whole, {kind: entry})


def edit_description(rng: np.random.Generator, content: dict[str, Any]) -> str:
    """Change one entry anywhere in it, in place."""
    inside: Any = content
    key: Any = str(rng.choice(list(content)))
    path = [key]
    while isinstance(inside[key], (dict, list)) and len(inside[key]) and rng.random() < 0.8:
        inside = inside[key]
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        key = keys[int(rng.integers(len(keys)))]
        path.append(str(key))
    where = ".".join(path)
    if rng.random() < 0.15:
        del inside[key]
        return f"{where} deleted"
    value = HOSTILE[int(rng.integers(len(HOSTILE)))]
    if rng.random() < 0.15 and isinstance(inside, dict):
        inside[f"{key}_"] = value
        return f"an entry beside {where}"
    inside[key] = value
    return f"{where} set to a {type(value).__name__}"


def edit_array(rng: np.random.Generator, arrays: dict[str, np.ndarray]) -> str:
    """Change, rename, add or drop one of the arrays, in place."""
    if not arrays:
        arrays["x"] = np.zeros(3, np.float32)
        return "x added"
    name = str(rng.choice(list(arrays)))
    kind, array = str(rng.choice(list(ARRAYS))), arrays.pop(name)
    arrays |= ARRAYS[kind](rng, name, array)
    return f"{name} {kind}"


def _with(rng: np.random.Generator, array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy().reshape(-1)
    if changed.size and changed.dtype.kind == "f":
        changed[int(rng.integers(changed.size))] = value
    return changed.reshape(array.shape)


ARRAYS: dict[str, Callable[[np.random.Generator, str, np.ndarray], dict[str, np.ndarray]]] = {
    "dropped": lambda rng, name, a: {},
    "renamed": lambda rng, name, a: {f"{name}x": a},
    "twice": lambda rng, name, a: {name: a, f"{name}.B": a},
    "not finite": lambda rng, name, a: {name: _with(rng, a, float(rng.choice([np.nan, np.inf, -np.inf])))},
    "negative": lambda rng, name, a: {name: _with(rng, a, -1.0)},
    "of another dtype": lambda rng, name, a: {
        name: a.astype(str(rng.choice(["f2", "f4", "f8", "u2", "i4", "i8", "u1", "?"])))
    },
    "turned": lambda rng, name, a: {name: a.T},
    "flat": lambda rng, name, a: {name: a.reshape(-1)},
    "with an axis more": lambda rng, name, a: {name: a[None]},
    "empty": lambda rng, name, a: {name: a.reshape(-1)[:0]},
    "longer": lambda rng, name, a: {name: np.concatenate([a.reshape(-1)] * 3)},
}
