"""Rows cut into blocks, and blocks worked on in threads: for kernels that let go of the interpreter's lock."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
_here = threading.local()


@contextmanager
def _working() -> Iterator[None]:
    """What is called from here starts no threads."""
    _here.working = True
    try:
        yield
    finally:
        _here.working = False


def _is_working() -> bool:
    return getattr(_here, "working", False)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: a new one shares its maker's core for milliseconds, one that waited wakes on a free core."""
    return ThreadPoolExecutor(max(64, os.cpu_count() or 1), thread_name_prefix="capmismatch")


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


def run_in_threads(run: Callable[[Part], object], parts: Iterable[Part], threads: int) -> None:
    """Call `run` for every part, in up to `threads` threads; a call from within such a thread starts no more.

    The calling thread is one of them: parts that take a millisecond are not kept waiting by a thread that wakes.
    """
    waiting = deque(parts)

    def work() -> None:
        try:
            with _working():
                while waiting:
                    try:
                        part = waiting.popleft()
                    except IndexError:  # another thread was faster
                        return
                    run(part)
        finally:
            waiting.clear()  # after an error, nobody starts another

    if _is_working():
        for part in waiting:
            run(part)
        return
    helpers = [_submit(_pool(), work) for _ in range(min(threads, len(waiting)) - 1)]
    try:
        work()
    finally:
        wait([helper for helper in helpers if not helper.cancel()])  # one still in the queue has nothing left to do
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def map_in_threads(run: Callable[[Part], Result], parts: Iterable[Part], threads: int) -> Iterator[Result]:
    """Yield what `run` returns for one part after the other, made in threads, at most two parts a thread ahead.

    Examples
    --------
    >>> list(map_in_threads(abs, [-3, 2, -1], threads=2))
    [3, 2, 1]
    """
    if threads == 1 or _is_working():
        yield from map(run, parts)
        return

    def work(part: Part) -> Result:
        with _working():
            return run(part)

    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for part in parts:
                ahead.append(_submit(pool, work, part))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _submit(pool: ThreadPoolExecutor, work: Callable[..., Result], *parts: object) -> Future[Result]:
    """Have it called by a thread, or by this one when the interpreter is on its way out and starts no more."""
    try:
        return pool.submit(work, *parts)
    except RuntimeError:
        done: Future[Result] = Future()
        try:
            done.set_result(work(*parts))
        except BaseException as error:
            done.set_exception(error)
        return done
