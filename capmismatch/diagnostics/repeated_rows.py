"""Whether a block of a teacher's rows repeats others: a loader gave its last batch twice, or filled it up."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAST = 8
"""Fewest rows of such a block, one after the other."""

ELSEWHERE = 0.1
"""Share of the other rows that have an equal one, up to which a block stands out: networks whose units are dead, trees
and logits in few digits repeat rows anywhere."""

DIFFER = 0.5
"""Share of a block whose examples are others than those of the rows it repeats, by labels or by peers."""

NEAR = 1e-3
"""Rows of a peer that differ by less, in standard deviations of its logits, are those of one example."""

MOST_ROWS, MOST_NUMBERS = 20_000, 1 << 20
"""Of each teacher so many rows at the end of the bank are looked at, and so many logits."""


def last_rows(total: int, classes: int) -> Ints:
    """The rows at the end of a bank that are looked at, all of a small one.

    Examples
    --------
    >>> last_rows(5, 10).tolist(), len(last_rows(10**6, 1000))
    ([0, 1, 2, 3, 4], 1048)
    """
    return np.arange(max(0, total - min(MOST_ROWS, max(256, MOST_NUMBERS // max(1, classes)))), total)


def earlier_ones(rows: NDArray) -> Ints:
    """The row before each row that is equal to it, the nearest one; -1 where there is none.

    Examples
    --------
    >>> earlier_ones(np.array([[1, 2], [3, 4], [1, 2], [1, 2]])).tolist()
    [-1, -1, 0, 2]
    """
    seen: dict[bytes, int] = {}
    found = np.full(len(rows), -1, np.int64)
    for number, row in enumerate(np.ascontiguousarray(rows)):
        key = row.tobytes()
        found[number] = seen.get(key, -1)
        seen[key] = number
    return found


def repeated_block(earlier: Ints, other: Bools) -> tuple[int, int] | None:
    """The first and the last row of a block that repeats others; None if there is none.

    Parameters
    ----------
    earlier : array of shape (n,)
        Of `earlier_ones`.
    other : array of shape (n,)
        Whether the example is another one than that of the row that is repeated.

    Examples
    --------
    >>> earlier = np.r_[np.full(100, -1), np.arange(90, 100)]
    >>> repeated_block(earlier, np.ones(110, bool)), repeated_block(earlier, np.zeros(110, bool))
    ((100, 109), None)
    """
    behind = np.where(earlier >= 0, np.arange(len(earlier)) - earlier, 0)
    starts = np.flatnonzero(np.diff(behind, prepend=-1) != 0)
    ends = np.r_[starts[1:], len(behind)]
    repeats = behind > 0
    for start, end in zip(starts, ends, strict=True):
        if behind[start] == 0 or end - start < LEAST or other[start:end].mean() < DIFFER:
            continue
        outside = repeats.copy()
        outside[start:end] = False
        if outside.sum() <= ELSEWHERE * max(1, len(repeats) - (end - start)):
            return int(start), int(end - 1)
    return None


def other_examples(earlier: Ints, labels: Ints, peers: Iterable[NDArray]) -> Bools:
    """Whether a row and the one that it repeats are of two examples: their labels differ, or most peers' rows do."""
    at = np.flatnonzero(earlier >= 0)
    other = np.zeros(len(earlier), bool)
    before = earlier[at]
    other[at] = labels[at] != labels[before]
    apart = [np.abs(rows[at] - rows[before]).max(axis=1, initial=0) > NEAR * max(1e-30, rows.std()) for rows in peers]
    if apart:
        other[at] |= np.mean(apart, axis=0) > 0.5
    return other
