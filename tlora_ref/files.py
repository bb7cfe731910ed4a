"""Files and folders that are whole or absent: an interruption leaves what was there before.

A file or folder is made under a hidden temporary name beside its place, and renamed at the end. What a killed save left
under such a name is removed by the next save to the same place; a save that is still going on holds a lock on it.
Checked by  tests/test_files.py, tests/test_adapter_file.py, tests/test_export.py.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from .shapes import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks: what a killed save leaves there stays
    fcntl = None  # type: ignore[assignment]

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


# --- reading -------------------------------------------------------------------------------------


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file. Raises InputError for anything else, and never waits for a pipe or a device."""
    try:
        kind = kind_of(path)
        if kind is None:
            return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except MemoryError:
        raise InputError(f"{path}: cannot be read: it is larger than the memory") from None
    except ValueError as error:  # no file has a NUL in its name
        raise InputError(f"{str(path)!r}: cannot be read: {error}") from None
    raise InputError(f"{path}: cannot be read: it is {kind}, expected a file")


def kind_of(path: str | Path) -> str | None:
    """What is there, in words, if it is no regular file. Raises OSError if nothing is."""
    mode = os.stat(path).st_mode
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no file")


# --- writing -------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write the file whole: a temporary file beside it, fsync, rename. An interruption leaves the old one.

    A symbolic link is followed. Raises InputError if it cannot be written, or if there is something else than a file.
    """
    try:
        _write(_place(path), content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Raise InputError if ``write_atomic`` could not put a file there, because something else is there or because no
    file can have the name."""
    try:
        place = _place(path)
        handle, temporary = _temporary_file(place)
        os.close(handle)
        temporary.unlink()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _place(path: Path) -> Path:
    """Where the path leads. Raises InputError if what is there is no regular file."""
    try:
        place = Path(os.path.realpath(path))
        kind = kind_of(place)
    except FileNotFoundError:
        os.stat(place.parent)
        return place
    except ValueError as error:
        raise InputError(f"cannot write {str(path)!r}: {error}") from None
    if kind is not None:
        raise InputError(f"cannot write {path}: it is {kind}, expected a file")
    return place


def _write(path: Path, content: bytes | str) -> None:
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = _temporary_file(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            if fcntl is not None:  # the lock is held until the file has its name
                os.replace(temporary, path)
        if fcntl is None:  # Windows renames no open file
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_folder(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """A new folder with all the files in it, subfolders too, made under another name and renamed at the end.

    Raises InputError if it exists already and holds anything, or if its parent cannot be written.
    """
    temporary, handle = None, None
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise InputError(f"{folder} exists already, expected a new or an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _temporary_folder(folder)
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _write(temporary / name, content)
        temporary.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write the folder {folder}: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write the folder {str(folder)!r}: {error}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if handle is not None:
            os.close(handle)


# --- temporary names -----------------------------------------------------------------------------


def _temporary_file(place: Path) -> tuple[int, Path]:
    """A new hidden file beside the place, open and locked; what killed saves left is removed."""
    _remove_abandoned(place)
    while True:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=_prefix(place))
        if _lock(handle) and _same(handle, name):
            return handle, Path(name)
        os.close(handle)


def _temporary_folder(place: Path) -> tuple[Path, int | None]:
    """The same for a folder."""
    _remove_abandoned(place)
    while True:
        name = tempfile.mkdtemp(dir=place.parent, prefix=_prefix(place))
        if fcntl is None:
            return Path(name), None
        handle = os.open(name, os.O_RDONLY)
        if _lock(handle) and _same(handle, name):
            return Path(name), handle
        os.close(handle)


def _prefix(place: Path) -> str:
    """How temporary names for a place begin; of one length, since the place's own may be as long as names can be."""
    return f".{sha256(os.fsencode(place.name)).hexdigest()[:16]}."


def _lock(handle: int) -> bool:
    """Hold it until it is closed, also by a kill. False if it is held by another; true where there are no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have none
        return True
    return True


def _same(handle: int, name: str) -> bool:
    """Is it still there, or has another save taken it for abandoned before it was locked?"""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name))
    except FileNotFoundError:
        return False


def _remove_abandoned(place: Path) -> None:
    if fcntl is None:
        return
    prefix = _prefix(place)
    with os.scandir(place.parent) as entries:
        paths = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for name in paths:
        # what is not ours to open or to remove stays
        with suppress(OSError):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(name):
                    shutil.rmtree(name)
                else:
                    os.unlink(name)
            finally:
                os.close(handle)
