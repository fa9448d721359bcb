"""Rows cut into blocks, and blocks worked on in threads: for kernels that let go of the interpreter's lock."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
_here = threading.local()


def _be_worker(yes: bool = True) -> None:
    _here.is_worker = yes


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: a new one shares its maker's core for milliseconds, one that waited wakes on a free core."""
    return ThreadPoolExecutor(threads, thread_name_prefix="capmismatch", initializer=_be_worker)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads


def blocks(n: int, rows: int) -> list[slice]:
    """Slices of at most `rows` that cover range(n).

    Examples
    --------
    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def each(run: Callable[[Part], object], parts: Iterable[Part], threads: int) -> None:
    """Call `run` for every part, in up to `threads` threads; a call from within such a thread starts no more.

    The calling thread is one of them: parts that take a millisecond are not kept waiting by a thread that starts.
    """
    waiting = deque(parts)

    def work() -> None:
        try:
            while True:
                try:
                    part = waiting.popleft()
                except IndexError:
                    return
                run(part)
        finally:
            waiting.clear()  # after an error, nobody starts another

    helpers = min(threads, len(waiting)) - 1
    if helpers < 1 or getattr(_here, "is_worker", False):
        return work()
    others = [_pool(threads).submit(work) for _ in range(helpers)]
    _be_worker()
    try:
        work()
    finally:
        _be_worker(False)
        wait(others)
    for other in others:
        other.result()


def in_order(run: Callable[[Part], Result], parts: Iterable[Part], threads: int) -> Iterator[Result]:
    """Yield what `run` returns for one part after the other, made in threads; none is kept after it was yielded.

    Examples
    --------
    >>> list(in_order(abs, [-3, 2, -1], threads=2))
    [3, 2, 1]
    """
    waiting: Sequence[Part] = list(parts)
    if threads == 1 or len(waiting) <= 1 or getattr(_here, "is_worker", False):
        yield from map(run, waiting)
    else:
        yield from _pool(threads).map(run, waiting)
