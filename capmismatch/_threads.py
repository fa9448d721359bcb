"""Rows cut into blocks, and blocks worked on in threads: for kernels that let go of the interpreter's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
_here = threading.local()


def blocks(n: int, rows: int) -> list[slice]:
    """Slices of at most `rows` that cover range(n).

    Examples
    --------
    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def each(run: Callable[[Part], object], parts: Iterable[Part], threads: int) -> None:
    """Call `run` for every part, in up to `threads` threads; a call from within such a thread starts no more."""
    for _ in in_order(run, parts, threads):
        pass


def in_order(run: Callable[[Part], Result], parts: Iterable[Part], threads: int) -> Iterator[Result]:
    """The same, and what it returns for one part after the other; each is let go of when the next is asked for.

    Examples
    --------
    >>> list(in_order(abs, [-3, 2, -1], threads=2))
    [3, 2, 1]
    """
    waiting: Sequence[Part] = list(parts)
    if threads == 1 or len(waiting) <= 1 or getattr(_here, "is_worker", False):
        yield from map(run, waiting)
    else:
        with ThreadPoolExecutor(threads, initializer=lambda: setattr(_here, "is_worker", True)) as pool:
            yield from pool.map(run, waiting)
