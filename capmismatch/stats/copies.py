"""Copies in a results table: seeds that are one run under several numbers, and teachers with the same students."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch._utils.text import join

LEAST_ROWS, LEAST_VALUES = 4, 3
"""Fewer accuracies in common, or fewer different ones among them, may agree by chance."""

DIGITS = 9
"""To which accuracies agree that went through a file."""

SEEDS_AGREE = "the seeds of each teacher have the same accuracy: they do not measure the noise between runs"
"""What it means that `seeds_agree`."""


def seeds_agree(values: NDArray[np.float64], teacher: NDArray[np.int64]) -> bool:
    """Whether all students of each teacher have one accuracy, and some teacher has several students.

    Parameters
    ----------
    values : array of shape (R,)
        Accuracies, shares.
    teacher : array of shape (R,)
        Code of each student's teacher.

    Returns
    -------
    bool
        Then nothing is known of what a seed does, and no test against it is possible.

    Examples
    --------
    >>> teacher = np.array([0, 0, 1, 1])
    >>> seeds_agree(np.array([0.6, 0.6, 0.7, 0.7]), teacher), seeds_agree(np.array([0.6, 0.6, 0.7, 0.71]), teacher)
    (True, False)
    """
    different = pd.Series(values.round(DIGITS)).groupby(teacher).nunique()
    return len(values) > len(different) and bool(different.eq(1).all())


def same_students(results: pd.DataFrame) -> list[str]:
    """Teachers whose students have the same accuracies in all settings, seeds and splits.

    Parameters
    ----------
    results : DataFrame
        Rows with ``family, teacher, student, label, seed, split, accuracy`` and, where known, ``teacher_seed``.

    Returns
    -------
    list of str
        The teachers that are alike, joined, such as ``"f/a and f/b"``. Few accuracies may agree by chance: they are
        not told.

    Examples
    --------
    >>> rows = [("f", t, "s", "KD", k, "test", 0.6 + 0.01 * k) for t in "ab" for k in range(4)]
    >>> columns = ["family", "teacher", "student", "label", "seed", "split", "accuracy"]
    >>> same_students(pd.DataFrame(rows, columns=columns))
    ['f/a and f/b']
    """
    keys = [name for name in ("student", "label", "teacher_seed", "seed", "split") if name in results]
    alike: dict[frozenset[object], list[str]] = {}
    for unit, rows in results.groupby(["family", "teacher"], sort=False, dropna=False):
        values = rows["accuracy"].round(DIGITS)
        if len(rows) >= LEAST_ROWS and values.nunique() >= LEAST_VALUES:
            names = [str(name) for name in unit if isinstance(name, str) and name]
            row_keys = rows[keys].itertuples(index=False, name=None)
            alike.setdefault(frozenset(zip(row_keys, values, strict=True)), []).append("/".join(names))
    return [join(names) for names in alike.values() if len(names) > 1]


def warn_same_students(results: pd.DataFrame, stacklevel: int = 3) -> None:
    """Warn of teachers whose students have the same accuracies."""
    for names in same_students(results):
        warnings.warn(
            f"the students of {names} have the same accuracies in all seeds and splits: is one a copy of the other?",
            stacklevel=stacklevel,
        )
