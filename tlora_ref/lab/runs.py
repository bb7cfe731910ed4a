"""Many independent training runs on all cores, with progress and remaining time, and kept on disk as they finish."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from hashlib import sha256
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ..files import read_file
from ..shapes import InputError

_shared: Any = None


def one_thread() -> Any:
    """Hold BLAS to one thread, here and now: the matrices are small, the processes are many, and the bits
    of a result do not depend on the number of cores."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """The same for PyTorch, which counts its threads itself."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start(shared: Any) -> None:
    global _shared
    _shared = shared
    one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # a parent that was killed can tell nobody: without this its workers would wait for the next task for ever
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _call(work: Callable[[Any, Any], Any], task: Any) -> Any:
    return work(_shared, task)


def run_all(
    work: Callable[[Any, Any], Any],
    shared: Any,
    tasks: Sequence[Any],
    label: str,
    workers: int | None = None,
    store: Path | None = None,
) -> list[Any]:
    """[work(shared, task) for task in tasks], in as many processes as there are cores.

    ``work`` is a module's function; ``shared`` goes to each process once. Results come in the order of tasks.
    With ``store`` every result (JSON) is on disk once it is there, and a later call does not repeat it: tasks are
    told apart by ``work`` and their repr. Raises InputError for a store that is not one.
    """
    done = read_store(store) if store is not None else {}
    keys = [f"{work.__name__} {task!r}" for task in tasks]
    left = [i for i, key in enumerate(keys) if key not in done]
    results = {i: done[key] for i, key in enumerate(keys) if key in done}
    # closed here, and not whenever: an interruption ends the processes before it is told of
    with closing(_run(work, shared, tasks, left, workers)) as finished:
        for i, result in with_progress(finished, len(left), label):
            results[i] = result
            if store is not None:
                _append(store, keys[i], result)
    return [results[i] for i in range(len(tasks))]


def _run(
    work: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], left: Sequence[int], workers: int | None
) -> Generator[tuple[int, Any], None, None]:
    """(index, result) as they finish."""
    workers = workers or min(len(left), os.cpu_count() or 1)
    if workers <= 1:
        with one_thread():
            for i in left:
                yield i, work(shared, tasks[i])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (shared,)) as pool:
        try:
            with interrupts_held():
                futures = {pool.submit(_call, work, tasks[i]): i for i in left}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            # nobody waits for what they are at
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Inside, Ctrl-C waits, and processes that are started never hear of it: it goes to all that run in a terminal,
    and it is for their parent to end them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- finished runs on disk -----------------------------------------------------------------------


def read_store(path: Path) -> dict[str, Any]:
    """The finished results of a store by key; a last line cut off by an interruption is dropped, also on disk. Raises
    InputError for a line that is not as it was written."""
    if not os.path.lexists(path):
        return {}
    data = read_file(path)
    whole = data[: data.rfind(b"\n") + 1]
    found = {}
    for number, text in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
            right = line["sha256"] == _digest(line["key"], line["result"])
            found[line["key"]] = line["result"]
        except (ValueError, TypeError, KeyError, RecursionError):
            right = False
        if not right:
            raise InputError(
                f"{path}, line {number}, is damaged or no finished run; move the file away or choose another --out"
            )
    if whole != data:
        with _writing(path), open(path, "r+b") as file:
            file.truncate(len(whole))
    return found


def _append(path: Path, key: str, result: Any) -> None:
    line = {"key": key, "result": result, "sha256": _digest(key, result)}
    with _writing(path), open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _digest(key: str, result: Any) -> str:
    return sha256(json.dumps([key, result], sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def with_progress(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """Pass the items on; show a bar with the remaining time on a terminal, about five plain lines elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False)
        return
    start, printed = time.monotonic(), 0
    for done, item in enumerate(items, 1):
        yield item
        if done * 5 // total > printed:
            printed = done * 5 // total
            elapsed = time.monotonic() - start
            left = elapsed / done * (total - done)
            print(f"{label}: {done}/{total}, {elapsed:.0f} s, {left:.0f} s left", file=sys.stderr, flush=True)
