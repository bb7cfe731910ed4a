"""Many independent training runs on all cores, in a fixed order, with progress and remaining time."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tqdm import tqdm

_shared: Any = None


def one_thread() -> Any:
    """Hold BLAS to one thread, here and now: the matrices are small, the processes are many, and the bits
    of a result do not depend on the number of cores."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def _start(shared: Any) -> None:
    global _shared
    _shared = shared
    one_thread()


def _call(job: tuple[Callable[[Any, Any], Any], Any]) -> Any:
    work, task = job
    return work(_shared, task)


def run_all(
    work: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], label: str, workers: int | None = None
) -> list[Any]:
    """[work(shared, task) for task in tasks], in as many processes as there are cores.

    ``work`` is a module's function; ``shared`` goes to each process once. Results come in the order of tasks.
    """
    workers = workers or min(len(tasks), os.cpu_count() or 1)
    if workers == 1:
        with one_thread():
            return list(with_progress((work(shared, task) for task in tasks), len(tasks), label))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (shared,)) as pool:
        try:
            return list(with_progress(pool.map(_call, [(work, task) for task in tasks]), len(tasks), label))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def with_progress(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """Pass the items on; show a bar with the remaining time on a terminal, about five plain lines elsewhere."""
    if sys.stderr.isatty():
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
