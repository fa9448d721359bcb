"""Runs that are far out of line with the others of their setting, as those that crashed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch._utils.text import format_number
from capmismatch.stats.matching import UNIT

FAR = 15.0
"""Robust standard deviations from the teacher's other runs from which on a run is out of line."""

LEAST_SCALE = 0.001
"""Standard deviation of a run, a share of the examples, below which it is not taken to lie."""

LEAST_RUNS, LEAST_PAIRS, LEAST_SHARED = 6, 6, 3
"""Runs of a setting, pairs of runs of one teacher, and students with a seed, that it takes to know what is in line."""

MOST_STEPS = 200
"""Of more runs than these not all pairs are compared: they would be more than it takes to know the median."""

_MEDIAN_APART = 0.9539  # median of |a - b| for two standard normal numbers


def outlying_runs(results: pd.DataFrame) -> list[str]:
    """Students whose accuracy is far from that of the other students of their teacher, in words.

    In each student's setting and split, what a seed does to all (the median over its students) is taken off. A run is
    held against the median of its teacher's runs; of two runs, or where most of a teacher's are off, against the one
    that is nearest to the other teachers' runs. The scale is the median difference between two runs of a teacher, over
    the 0.954 that two standard normal numbers differ by: half of the runs may be wrong.

    Parameters
    ----------
    results : DataFrame
        Rows of the results table with a teacher and an accuracy.

    Returns
    -------
    list of str
        One per run and split, the furthest first.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = [("f", t, 0, "s", "KD", seed, "val", 0.7 + 0.002 * rng.normal()) for t in "abc" for seed in range(3)]
    >>> columns = [*UNIT, "teacher_seed", "student", "label", "seed", "split", "accuracy"]
    >>> table = pd.DataFrame(rows, columns=columns)
    >>> outlying_runs(table)
    []
    >>> table.loc[4, "accuracy"] = 0.1
    >>> outlying_runs(table)
    ["f/b, student 's' by 'KD', seed 1: 0.1 on 'val', its teacher's other runs 0.7005"]
    """
    found: list[tuple[float, str]] = []
    for (student, label, split), rows in results.groupby(["student", "label", "split"], sort=False):
        if len(rows) >= LEAST_RUNS:
            found += _of_setting(rows, f"student {student!r} by {label!r}", str(split))
    return [text for _, text in sorted(found, key=lambda one: -one[0])]


def _of_setting(rows: pd.DataFrame, setting: str, split: str) -> Iterator[tuple[float, str]]:
    seed = rows.groupby("seed")["accuracy"]
    shared = seed.transform("median").where(seed.transform("size") >= LEAST_SHARED, rows["accuracy"].median())
    values = (rows["accuracy"] - shared).to_numpy(float)
    teachers = [np.flatnonzero(code) for code in _indicators(rows)]
    far = FAR * max(_scale([values[of_one] for of_one in teachers]), LEAST_SCALE)
    for of_one in teachers:
        own = values[of_one]
        reference = _reference(own, far)
        for position in np.flatnonzero(np.abs(own - reference) > far):
            row = rows.iloc[of_one[position]]
            others = np.delete(rows["accuracy"].to_numpy(float)[of_one], position)
            run = f", run {row['teacher_seed']}" if rows["teacher_seed"].nunique() > 1 else ""
            name = "/".join(filter(None, [str(row["family"]), str(row["teacher"])]))
            text = f"{name}{run}, {setting}, seed {row['seed']}: {format_number(row['accuracy'])} on {split!r}"
            distance = abs(own[position] - reference) / far
            yield distance, f"{text}, its teacher's other runs {format_number(float(np.median(others)))}"


def _indicators(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """For each teacher, which rows are its own."""
    code = rows.groupby(UNIT, sort=False, dropna=False).ngroup().to_numpy()
    indicators: NDArray[np.bool_] = code == np.arange(code.max() + 1)[:, None]
    return indicators


def _scale(runs: Sequence[NDArray[np.float64]]) -> float:
    """Robust standard deviation of a run: the median difference between two runs of a teacher; infinite with few.

    Examples
    --------
    >>> _scale([np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 7.0])]) * _MEDIAN_APART
    2.5
    >>> 0.9 < _scale([np.random.default_rng(0).normal(size=5000)]) < 1.1
    True
    """
    apart = np.concatenate([_differences(own) for own in runs])
    return float(np.median(apart)) / _MEDIAN_APART if len(apart) >= LEAST_PAIRS else math.inf


def _differences(own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of all pairs of runs; of many runs, each with those that stand one to `MOST_STEPS` places behind it."""
    steps = range(1, min(len(own), MOST_STEPS + 1))
    return np.abs(np.concatenate([own[step:] - own[:-step] for step in steps] or [own[:0]]))


def _reference(own: NDArray[np.float64], far: float) -> float:
    """What a teacher's runs are held against; zero is the middle of all teachers' runs.

    Examples
    --------
    >>> _reference(np.array([0.0, 0.01, -0.6]), 0.1), _reference(np.array([0.0, -0.6, -0.6]), 0.1)
    (0.0, 0.0)
    >>> _reference(np.array([0.05, -0.1, -0.1]), 0.04)
    -0.1
    """
    middle = float(np.median(own))
    nearest = float(own[np.abs(own).argmin()])
    # most of a teacher's runs may have crashed: then the one that is where other teachers are is in line
    most_are_off = abs(middle) > far >= abs(nearest)
    return nearest if len(own) < 3 or most_are_off else middle
