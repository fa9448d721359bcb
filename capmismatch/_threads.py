"""Rows cut into blocks, and blocks worked on in threads: for kernels that let go of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def blocks(n: int, rows: int) -> list[slice]:
    """Slices of at most `rows` that cover range(n).

    Examples
    --------
    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def each(run: Callable[[slice], None], parts: list[slice], threads: int) -> None:
    """Call `run` for every block, in up to `threads` threads."""
    if threads == 1 or len(parts) <= 1:
        for block in parts:
            run(block)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, parts))
