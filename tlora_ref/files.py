"""Files and folders that are whole or absent: an interruption leaves what was there before.

Checked by  tests/test_adapter_file.py, tests/test_export.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .shapes import InputError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write the file whole: a temporary file beside it, fsync, rename. An interruption leaves the old one.

    Raises InputError if it cannot be written.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _write(path: Path, content: bytes | str) -> None:
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_folder(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """A new folder with all the files in it, subfolders too, made under another name and renamed at the end.

    Raises InputError if it exists already and holds anything, or if its parent cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} exists already, expected a new or an empty folder")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _write(temporary / name, content)
        temporary.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write the folder {folder}: {error.strerror}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
