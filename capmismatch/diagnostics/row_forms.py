"""Which rows of a teacher are no whole set of logits: never written, one-hot, or kept for the top classes alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from capmismatch._numerics.condensing import Condensed
from capmismatch._utils.text import format_percent

Floats = NDArray[np.float64]

CONSTANT = 0.01
"""From this share of rows on whose columns are all equal, rows were not written; no network gives such a row."""

STAND_INS = 0.25
"""From this share of rows on whose lowest columns stand apart, they hold stand-ins; logits in few digits tie."""

ONE_HOT = 0.9
"""The same for rows in which all columns but one are equal; probabilities that saturated have many, too."""

TIED = 0.9
"""The same for rows in which one number of columns, half or more, share a value."""

ALONE = 5
"""Fewest classes at which a single column can be told to stand apart from the others."""

FAR_TOKENS = 30.0
"""From this many times the tail's distance on, the standard deviation of a condensed row is that of stand-ins."""

LOWEST_LOG = -110.0
"""A logarithm of a float32 probability is not lower: rows of such ones saturate, and nobody put a stand-in there."""


def incomplete_rows(logits: NDArray) -> Floats:
    """How many rows are constant, have stand-ins in their lowest columns, and have all columns but one equal.

    A stand-in is a value that the lowest columns share and that is far below the others: by the range of these where
    half of the columns or more have it, by 10 times that for two or more, by 100 times for one.

    Parameters
    ----------
    logits : ndarray of shape (n, C)
        Finite numbers.

    Returns
    -------
    ndarray of shape (3,)
        Three counts; of two classes only the first can be told.

    Examples
    --------
    >>> rows = [[0, 0, 0, 0, 0], [3, -1e4, 4, -1e4, -1e4], [0, 0, 1, 0, 0], [1.5, 0.2, -1, -2, 0.3]]
    >>> incomplete_rows(np.array(rows)).tolist()
    [1.0, 2.0, 1.0]
    """
    values = _ascending(logits)
    classes = values.shape[1]
    lowest, highest = values[:, :1].astype(np.float64), values[:, -1].astype(np.float64)
    as_low = (values == values[:, :1]).sum(axis=1)
    above = values[np.arange(len(values)), np.minimum(as_low, classes - 1)].astype(np.float64)
    constant = as_low == classes
    if classes < 3:
        return np.array([constant.sum(), 0, 0], float)
    times = np.select([(as_low >= 2) & (2 * as_low >= classes), as_low >= 2], [1.0, 10.0], 100.0)
    gap, others = above - lowest[:, 0], highest - above
    far = ~constant & ((as_low >= 2) | (classes >= ALONE)) & (gap >= times * others)
    saturated = (highest <= 1e-3) & (lowest[:, 0] >= LOWEST_LOG)
    saturated[saturated] = np.abs(logsumexp(values[saturated].astype(np.float64), axis=1)) <= 0.02
    one_hot = as_low == classes - 1
    return np.array([constant.sum(), (far & ~saturated).sum(), one_hot.sum()], float)


def incomplete_tokens(rows: Condensed) -> Floats:
    """`incomplete_rows` of condensed rows, as far as they tell.

    Stand-ins are told by a standard deviation far beyond the distance of the tail, weighted at the lowest beta, where
    they count nothing, from the largest wrong logit.

    Examples
    --------
    >>> from capmismatch import condense
    >>> logits = np.random.default_rng(0).normal(size=(3, 500))
    >>> logits[1, :20] = -1e4
    >>> logits[2] = 7
    >>> incomplete_tokens(condense(logits, [40, 41, 42])).tolist()
    [1.0, 1.0, 0.0]
    """
    if not len(rows):
        return np.zeros(3)
    below, std = rows.below.astype(np.float64), rows.std.astype(np.float64)
    has_tail = np.isfinite(rows.log_sum[:, 0])
    depth = np.where(has_tail, -rows.slope[:, 0].astype(np.float64), -below[:, -1])
    constant = std == 0
    level = (below[:, 1] == below[:, -1]) & (np.abs(depth + below[:, -1]) <= 1e-6 * depth)
    one_hot = ~constant & level & ((rows.label_rank == 0) | (below[:, 1] < 0))
    stand_ins = ~constant & ~one_hot & has_tail & (std >= FAR_TOKENS * depth)
    return np.array([constant.sum(), stand_ins.sum(), one_hot.sum()], float)


def _ascending(logits: NDArray) -> NDArray:
    """Each row in ascending order; the rows themselves where they are."""
    return logits if (logits[:, 1:] >= logits[:, :-1]).all() else np.sort(logits, axis=1)


def lowest_apart(logits: NDArray) -> Floats:
    """The lowest value of each row that stands apart from the others, by their range or more.

    That many rows share such a value shows that it is a stand-in, where a single column was cut.

    Examples
    --------
    >>> lowest_apart(np.array([[0, 1, 2, -100, 3], [4, 3, 2, 1, 0], [-100, 1, 3, 8, 2]], float)).tolist()
    [-100.0, -100.0]
    """
    if logits.shape[1] < ALONE:
        return np.zeros(0)
    values = _ascending(logits)
    two, highest = values[:, :2].astype(np.float64), values[:, -1]
    apart = (two[:, 1] > two[:, 0]) & (two[:, 1] - two[:, 0] >= highest - two[:, 1])
    logs = apart & (highest <= 1e-3)
    logs[logs] = np.abs(logsumexp(np.asarray(values[logs], np.float64), axis=1)) <= 0.02
    lowest: Floats = two[apart & ~logs, 0]  # logarithms of probabilities saturate
    return lowest


def tied_columns(logits: NDArray) -> NDArray[np.int64]:
    """How many columns share one value in rows whose other columns, two or more, all differ; 0 in other rows.

    Half of the columns or more, and three at least, have to share it. That all rows have the same number of them shows
    that a fixed number of top classes was kept: of logits in few digits, or cut at 0, it varies.

    Examples
    --------
    >>> tied_columns(np.array([[3, 2, 2, 2, 5], [3, 2, 2, 1, 1], [1, 2, 3, 4, 5.0]])).tolist()
    [3, 0, 0]
    """
    values = _ascending(logits)
    classes = values.shape[1]
    equal = values[:, 1:] == values[:, :-1]
    starts = equal[:, :1].sum(axis=1) + (equal[:, 1:] & ~equal[:, :-1]).sum(axis=1)
    tied = equal.sum(axis=1) + 1
    held = (starts == 1) & (tied >= max(3, classes / 2)) & (tied <= classes - 2)
    if held.any():  # logarithms of probabilities saturate
        logs = held & (values[:, -1] <= 1e-3)
        logs[logs] = np.abs(logsumexp(np.asarray(values[logs], np.float64), axis=1)) <= 0.02
        held &= ~logs
    return np.asarray(np.where(held, tied, 0), np.int64)


def incomplete(counts: Floats, rows: int, first: Floats, lowest: Floats, tied: NDArray[np.int64]) -> str:
    """Why a teacher's rows are no whole sets of logits; "" if they are.

    Parameters
    ----------
    counts : ndarray of shape (3,)
        Of `incomplete_rows`, over all rows that were looked at.
    rows : int
        How many these were.
    first : ndarray of shape (K, C)
        Some of them: of two classes hard predictions are told by these.
    lowest : ndarray of shape (n,)
        Of `lowest_apart`, over all rows that were looked at.
    tied : ndarray of shape (n,)
        Of `tied_columns`, over the same.

    Examples
    --------
    >>> incomplete(np.array([10.0, 0.0, 0.0]), 100, np.zeros((0, 10)), np.zeros(0), np.zeros(0, int))
    '10.0 % of its rows are constant: they were not written, or hold no logits'
    """
    constant, stand_ins, one_hot = counts / max(1, rows)
    gaps = np.abs(first[:, 0] - first[:, 1]) if len(first) > 1 and first.shape[1] == 2 else np.array([0.0, 1.0])
    if one_hot >= ONE_HOT or np.ptp(gaps) <= 1e-6 * gaps.mean():
        return "its rows are one-hot: predictions or labels, no logits"
    if constant >= CONSTANT:
        return (
            f"{format_percent(constant, digits=1)} of its rows are constant: they were not written, or hold no logits"
        )
    shared = float(np.unique(lowest, return_counts=True)[1].max(initial=0)) / max(1, rows)
    if max(stand_ins, shared) >= STAND_INS:
        stand_ins = max(stand_ins, shared)
        return (
            f"in {format_percent(stand_ins, digits=1)} of its rows the lowest columns hold a stand-in far below the "
            "others: masked, or only the top classes were kept"
        )
    numbers, times = np.unique(tied[tied > 0], return_counts=True)
    if len(times) and times.max() >= TIED * rows:
        share, number = format_percent(float(times.max()) / rows, digits=1), numbers[times.argmax()]
        return f"in {share} of its rows {number} columns have one value: the top classes were kept"
    return ""
