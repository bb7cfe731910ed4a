"""What a command owes its terminal: Ctrl-C ends it within three seconds, and a reader that has gone stops nothing.

Ctrl-C      The first raises KeyboardInterrupt, as ever; those after it are ignored, so that what has to be put in order
            is. If that takes longer than PATIENCE, or the interpreter is deep in a library, a thread ends the process.
Output      When the reader of standard output is gone (``| head -1``), or a disk is full, the rest of the text goes
            nowhere and the job goes on: its results are files. The exit code tells in the end.
Checked by  tests/test_terminal.py.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from errno import EPIPE
from typing import Any, TextIO

PATIENCE = 2.0
"""Seconds from Ctrl-C until the process ends, whatever it is doing."""

INTERRUPTED, BROKEN_PIPE = 130, 141
"""Exit codes: 128 and the number of the signal, SIGINT and SIGPIPE."""


class _Forgiving(io.RawIOBase):
    """A file descriptor that takes everything; ``error`` is the first that the system gave."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.error is None:
            try:
                return os.write(self.descriptor, data)
            except OSError as error:
                self.error = error
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)


def forgive_output() -> _Forgiving:
    """Put standard output and error on descriptors that take everything, from here to the end of the process; return
    that of standard output."""
    # where one is closed, the next file that is opened would get its number, and everybody's output with it
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out, err = _Forgiving(1), _Forgiving(2)
    sys.stdout, sys.stderr = _text(out, sys.stdout), _text(err, sys.stderr)
    return out


def _text(raw: io.RawIOBase, like: TextIO | None) -> TextIO:
    if like is not None:
        like.flush()
    encoding, errors = getattr(like, "encoding", "utf-8"), getattr(like, "errors", "backslashreplace")
    lines = raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)


def watch_interrupts(line: str) -> threading.Event:
    """From here on Ctrl-C ends the process within PATIENCE, also if it comes many times. Whoever prints the ``line``
    that tells of it sets the event that is returned; otherwise it is printed at the end."""
    said = threading.Event()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell
        return said
    # the interpreter writes a byte here at once, even while the main thread is deep in a library
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(heard, line, said), daemon=True).start()

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    _kept.append(told)
    return said


_kept: list[socket.socket] = []
"""Open to the end of the process."""


def _end_in_time(heard: socket.socket, line: str, said: threading.Event) -> None:
    while signal.SIGINT not in heard.recv(1):
        pass
    time.sleep(PATIENCE)
    if not said.is_set():
        with suppress(OSError):  # not through sys.stderr, which the main thread may hold
            os.write(2, f"{line}\n".encode())
    tidying = threading.Thread(target=_give_back, daemon=True)
    tidying.start()
    tidying.join(0.3)
    os._exit(INTERRUPTED)


def _give_back() -> None:
    """The semaphores of processes, which are the system's; a helper of Python's would give them back with a warning."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        with suppress(Exception):
            util._run_finalizers(0)


def exit_code(code: int, output: _Forgiving, command: str) -> int:
    """The exit code of a command that ended with ``code``, given what became of its output."""
    sys.stdout.flush()
    if code != 0 or output.error is None:
        return code
    if output.error.errno == EPIPE:
        return BROKEN_PIPE
    print(f"{command}: cannot write to standard output: {output.error.strerror}", file=sys.stderr)
    return 2
