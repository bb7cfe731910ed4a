"""Arrays and a JSON description in one file, with a sha256 over everything: adapters, and the state of a run.

Format      safetensors. Its metadata holds one entry, named after what the file is: JSON with what the caller gave and
                sha256     over the rest of the JSON and every array
            NumPy has no bfloat16: an array of it is stored as its bits, uint16.
Fingerprint sha256 over dtype, shape and the bytes of an array, little-endian, C order.
Checked by  tests/test_adapter_file.py, tests/test_glue.py; damaged by the thousand in the job ``fuzz``.

Nothing is pickled. A write is whole or has not happened. A read is checked to the end before anything is returned, and
takes no more memory than the file is large.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from .files import read_file, write_atomic
from .shapes import InputError, dtype_name

DTYPES = ("float16", "bfloat16", "float32", "float64", "int64")
"""What arrays hold; int64 for what counts, such as a BatchNorm's batches."""


def fingerprint(array: np.ndarray) -> str:
    """sha256 over dtype, shape and bytes of an array; a matrix is given as (in, out)."""
    little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return sha256(f"{array_dtype(little)} {array.shape}\n".encode() + little.tobytes()).hexdigest()


def array_dtype(array: np.ndarray) -> str:
    """The name of an array's dtype, where uint16 stands for the bits of bfloat16."""
    return "bfloat16" if dtype_name(array) == "uint16" else dtype_name(array)


def check_numbers(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise InputError unless all arrays are of a dtype in DTYPES, and finite."""
    for name, array in arrays.items():
        if array_dtype(array) not in DTYPES:
            raise InputError(f"{name} is {dtype_name(array)}, expected one of {', '.join(DTYPES)}")
        # in bfloat16 what is not finite has all eight bits of the exponent set
        finite = array & 0x7F80 != 0x7F80 if array.dtype == np.uint16 else np.isfinite(array)
        if not finite.all():
            wrong = array.size - finite.sum()
            raise InputError(f"{name} holds numbers that are not finite, {wrong:,} of {array.size:,}")


def write_tensors(path: str | Path, kind: str, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the file whole or not at all. Raises InputError if it cannot be written, or for a number not finite."""
    check_numbers(arrays)
    read: dict[str, Any] = json.loads(json.dumps(content))  # as it will be read
    entry = json.dumps(read | {"sha256": digest(read, arrays)}, separators=(",", ":"))
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomic(Path(path), safetensors.numpy.save(arrays, {kind: entry}))


def read_tensors(
    path: str | Path, kind: str, called: str, version: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What ``write_tensors`` was given. ``called``: what such a file is, in words; ``version``: of its content.

    Raises InputError for what is no such file, of another version, or not as it was written.
    """
    data = read_file(path)
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        content = json.loads((header.get("__metadata__") or {}).get(kind, "null"))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: truncated, damaged or no safetensors file ({reason[:200]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a safetensors file, but not {called}")
    if content.get("version") != version or isinstance(content["version"], bool):
        raise InputError(f"{path}: format version {shown(content.get('version'))}, expected {version}")
    written = content.pop("sha256", None)
    try:
        right = written == digest(content, arrays)
    except RecursionError:  # nested too deep to be written, though not to be read
        right = False
    if not right:
        raise InputError(f"{path}: its content does not match its sha256: the file was altered or damaged")
    try:
        check_numbers(arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return content, arrays


def digest(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over a description without its own ``sha256``, and arrays."""
    lines = [json.dumps(content, sort_keys=True), *(f"{name} {fingerprint(arrays[name])}" for name in sorted(arrays))]
    return sha256("\n".join(lines).encode()).hexdigest()


def shown(value: Any) -> str:
    """A value as a message shows it: never longer than a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of more digits than Python spells; nested too deep
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 100 else f"{text[:97]}..."
