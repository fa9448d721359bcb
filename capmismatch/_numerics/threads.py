"""Rows cut into blocks, and blocks worked on in threads: for kernels that release the interpreter's lock."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

KEPT_BYTES = 9 << 20  # more than a thread's block of float64 takes
Item = TypeVar("Item")
Result = TypeVar("Result")
Given = ParamSpec("Given")
_this_thread = threading.local()


@contextmanager
def _working() -> Iterator[None]:
    """What is called from here starts no threads."""
    _this_thread.working = True
    try:
        yield
    finally:
        _this_thread.working = False


def _is_working() -> bool:
    return getattr(_this_thread, "working", False)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: a new one shares its maker's core for milliseconds, one that waited wakes on a free core."""
    return ThreadPoolExecutor(max(64, os.cpu_count() or 1), thread_name_prefix="capmismatch")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads


def keep_memory() -> None:
    """Have the C library keep blocks of memory that are freed, rather than hand each back to the system.

    New pages cost as much time as the sums over them. glibc keeps blocks smaller than the largest that was ever freed;
    this one is never touched, so it takes none.
    """
    np.empty(KEPT_BYTES, np.uint8)


@cache
def _linear_algebra() -> ThreadpoolController:
    """The libraries for linear algebra that NumPy and SciPy have loaded."""
    return ThreadpoolController()


def in_one_blas_thread(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Have the linear algebra of a function start no threads: for many small matrices, one after the other.

    A library that has a thread for each core shares even a system of 96 unknowns among them, and each waits, busily,
    for the last. Where other work shares the cores, that takes a hundred times as long as the sums.

    Parameters
    ----------
    function : callable
        Such as one that draws from a posterior.

    Returns
    -------
    callable
        The same, of the same signature.

    Examples
    --------
    >>> in_one_blas_thread(np.linalg.inv)(2 * np.eye(1))
    array([[0.5]])
    """

    @wraps(function)
    def alone(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with _linear_algebra().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return alone


def blocks(n: int, rows: int) -> list[slice]:
    """Slices of at most `rows` that cover range(n).

    Examples
    --------
    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def run_in_threads(run: Callable[[Item], object], items: Iterable[Item], threads: int) -> None:
    """Call ``run(item)`` for every item, in any order; a call from within such a thread starts no more threads.

    The calling thread is one of them, so that items of a millisecond do not wait until another thread wakes up. After
    an error no further item is started, and the error is raised here.

    Parameters
    ----------
    run : callable
        Takes one item.
    items : iterable
        Such as the slices of `blocks`.
    threads : int
        How many work side by side, at most.

    Examples
    --------
    >>> squares = [0, 0, 0]
    >>> run_in_threads(lambda i: squares.__setitem__(i, i * i), range(3), threads=2)
    >>> squares
    [0, 1, 4]
    """
    waiting = deque(items)

    def work() -> None:
        try:
            with _working():
                while waiting:
                    try:
                        item = waiting.popleft()
                    except IndexError:  # another thread was faster
                        return
                    run(item)
        finally:
            waiting.clear()  # after an error, no thread starts another

    if _is_working():
        for item in waiting:
            run(item)
        return
    helpers = [_submit(_pool(), work) for _ in range(min(threads, len(waiting)) - 1)]
    try:
        work()
    finally:
        wait([helper for helper in helpers if not helper.cancel()])  # one still in the queue has nothing to do
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def rows_in_threads(run: Callable[[slice], object], n: int, rows: int, threads: int) -> None:
    """Call ``run`` for slices of at most `rows` that cover range(n), or for all at once where no threads are started.

    Examples
    --------
    >>> rows_in_threads(print, 5, 2, threads=1)
    slice(0, 5, None)
    """
    run_in_threads(run, blocks(n, max(1, n if threads == 1 or _is_working() else rows)), threads)


def map_in_threads(run: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``run(item)`` for every item, in their order, computed in threads at most two items per thread ahead.

    Parameters
    ----------
    run : callable
        Takes one item.
    items : iterable
        Read as results are taken, not all at once.
    threads : int
        How many work side by side, at most.

    Yields
    ------
    object
        What `run` returns.

    Examples
    --------
    >>> list(map_in_threads(abs, [-3, 2, -1], threads=2))
    [3, 2, 1]
    """
    if threads == 1 or _is_working():
        yield from map(run, items)
        return

    def work(item: Item) -> Result:
        with _working():
            return run(item)

    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(_submit(pool, work, item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _submit(pool: ThreadPoolExecutor, work: Callable[..., Result], *arguments: object) -> Future[Result]:
    """Call `work` in a thread, or in this one when the interpreter is shutting down and starts no more."""
    try:
        return pool.submit(work, *arguments)
    except RuntimeError:
        done: Future[Result] = Future()
        try:
            done.set_result(work(*arguments))
        except BaseException as error:
            done.set_exception(error)
        return done
