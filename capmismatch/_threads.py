"""Rows cut into blocks, and blocks worked on in threads: for kernels that let go of the interpreter's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
_here = threading.local()


def blocks(n: int, rows: int) -> list[slice]:
    """Slices of at most `rows` that cover range(n).

    Examples
    --------
    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def each(run: Callable[[Part], None], parts: Iterable[Part], threads: int) -> None:
    """Call `run` for every part, in up to `threads` threads; a call from within such a thread starts no more."""
    waiting: Sequence[Part] = list(parts)
    if threads == 1 or len(waiting) <= 1 or getattr(_here, "is_worker", False):
        for part in waiting:
            run(part)
    else:
        with ThreadPoolExecutor(threads, initializer=lambda: setattr(_here, "is_worker", True)) as pool:
            list(pool.map(run, waiting))
