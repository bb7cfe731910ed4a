"""Output folders, result files and text tables."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import check_writable, write_atomic
from .shapes import InputError


def output_folder(path: str, *names: str) -> Path:
    """The folder, made if need be. Raises InputError, before any work is done, if it cannot be written, or if something
    else than a file is where one of these names will be."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to the output folder {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in its name
        raise InputError(f"cannot write to the output folder {path!r}: {error}") from None
    for name in names:
        check_writable(folder / name)
    return folder


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys left as given, one value a line."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """CSV with the keys of the first row as its header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned for a terminal: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in [header, ["-" * w for w in widths], *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def size(n_bytes: float) -> str:
    """Bytes for a person: "1.0 kB" (1 kB = 1,000 bytes)."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        n_bytes /= 1000
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:.1f} {unit}"
    raise AssertionError
