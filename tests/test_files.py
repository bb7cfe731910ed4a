"""Writing files and folders: whole or absent, onto nothing but files, and nothing left by those that were killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tlora_ref import InputError, files
from tlora_ref.files import check_writable, read_file, write_atomic, write_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from tlora_ref.files import write_atomic, write_folder
path = Path(sys.argv[1])
os.replace = Path.rename = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "file":
    write_atomic(path, "new")
else:
    write_folder(path, {"a": "new", "b/c": "new"})
"""


def killed(path: Path, kind: str) -> None:
    command = [sys.executable, "-c", KILLED, str(path), kind]
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    assert subprocess.run(command, env=environment).returncode == -9


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_save_left_is_removed_by_the_next_of_the_same_name(tmp_path, kind):
    for name in ("a", "other"):
        killed(tmp_path / name, kind)
    left = set(tmp_path.iterdir())
    assert len(left) == 2
    if kind == "file":
        write_atomic(tmp_path / "a", "whole")
        assert (tmp_path / "a").read_text() == "whole"
    else:
        write_folder(tmp_path / "a", {"a": "whole"})
        assert (tmp_path / "a" / "a").read_text() == "whole"
    # what was left beside another name is that name's business
    assert len(set(tmp_path.iterdir()) & left) == 1


def test_a_save_that_is_still_going_on_is_not_taken_for_abandoned(tmp_path, monkeypatch):
    """The second begins and ends inside the first."""
    real, inner = os.fsync, []

    def fsync(handle):
        real(handle)
        if not inner:
            inner.append(True)
            write_atomic(tmp_path / "a", "second")
            assert (tmp_path / "a").read_text() == "second"

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a", "first")
    assert (tmp_path / "a").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_only_a_file_is_replaced(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")

    def never(*_):
        raise AssertionError("it would have been replaced")

    monkeypatch.setattr(os, "replace", never)
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "to_pipe", "a pipe"),
        (tmp_path / "folder", "a folder"),
        (Path(os.devnull), "a device"),
    ):
        for write in (lambda p: write_atomic(p, "x"), check_writable):
            with pytest.raises(InputError, match=f"cannot write {path}: it is {kind}, expected a file"):
                write(path)
        with pytest.raises(InputError, match=f"{path}: cannot be read: it is {kind}, expected a file"):
            read_file(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe", "to_pipe"]


def test_a_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for text in ("new", "newer"):
        write_atomic(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == text


def test_names_as_long_as_names_can_be_are_written_and_longer_ones_refused(tmp_path):
    longest, longer = tmp_path / ("n" * 255), tmp_path / ("n" * 256)
    write_atomic(longest, "x")
    assert longest.read_text() == "x"
    longest.unlink()
    write_folder(longest, {"a": "x"})
    for act in (lambda: write_atomic(longer, "x"), lambda: check_writable(longer), lambda: read_file(longer)):
        with pytest.raises(InputError, match="File name too long"):
            act()
    with pytest.raises(InputError, match=r"cannot write the folder .*File name too long"):
        write_folder(longer, {"a": "x"})
    assert [p.name for p in tmp_path.iterdir()] == [longest.name]


def test_a_nul_in_a_name_is_refused(tmp_path):
    for act in (
        lambda p: write_atomic(p, "x"),
        check_writable,
        read_file,
        lambda p: write_folder(p, {"a": "x"}),
    ):
        with pytest.raises(InputError, match="null"):
            act(tmp_path / "a\0b")
    assert list(tmp_path.iterdir()) == []


def test_checking_a_place_leaves_it_as_it_is(tmp_path):
    check_writable(tmp_path / "a")
    write_atomic(tmp_path / "a", "x")
    check_writable(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
