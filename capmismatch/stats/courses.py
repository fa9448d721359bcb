"""A quantity over teachers of growing size, as tests of its course take it: runs by teacher, smallest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from capmismatch.errors import InputError, require_columns

Floats = NDArray[np.float64]
QUANTITY = ("family", "split", "probe", "tau", "student", "label")
"""Columns that tell one quantity from another."""


@dataclass(frozen=True)
class Course:
    """One quantity of the teachers of one family.

    Attributes
    ----------
    names : list of str
        Of the teachers, in the order of the next three.
    params : ndarray of shape (T,)
        Their sizes.
    values : list of T arrays
        A number for each run.
    errors : ndarray of shape (T,), optional
        Standard errors of their means over examples, where the table has them.
    paired : bool
        Whether every teacher has the same runs, in the same order.
    """

    names: list[str]
    params: Floats
    values: list[Floats]
    errors: Floats | None
    paired: bool


def course_of(frame: pd.DataFrame, value: str, paired: bool) -> Course:
    """The course in rows of a probes or results table, filtered to one quantity; see `capmismatch.peak_of`.

    Raises
    ------
    InputError
        If columns are missing or the rows mix quantities.
    """
    require_columns(frame, ["teacher", "params", value], "the table")
    for column in QUANTITY:
        if column in frame and frame[column].nunique(dropna=False) > 1:
            raise InputError(f"expected rows of one {column}, got {frame[column].unique().tolist()}; choose one")
    frame = frame[frame[value].notna()]
    paired = paired and _same_runs(frame)
    frame = frame.sort_values("seed", kind="stable") if paired else frame
    if "teacher_seed" in frame and frame.groupby("teacher")["teacher_seed"].nunique().gt(1).any():
        runs = frame.groupby(["teacher", "teacher_seed"])[value].mean().groupby("teacher", sort=False)
    else:
        runs = frame.groupby("teacher")[value]
    values = {str(teacher): run.to_numpy(float) for teacher, run in runs}
    by_teacher = frame.groupby("teacher")
    se = None
    if "se" in frame:
        se = np.sqrt(by_teacher["se"].apply(lambda e: (e**2).mean()))
    elif value == "accuracy" and "n" in frame:
        mean = by_teacher[value].mean()
        se = np.sqrt((mean * (1 - mean)).clip(lower=1e-12) / by_teacher["n"].first())
    names = list(values)
    params = by_teacher["params"].first()[names].to_numpy(float)
    errors = None if se is None else se[names].to_numpy(float)
    return Course(names, params, list(values.values()), errors, paired)


def _same_runs(frame: pd.DataFrame) -> bool:
    """Whether every teacher has the same runs, each once, and more than one."""
    keys = [name for name in ("teacher_seed", "seed") if name in frame]
    if "seed" not in keys or frame.duplicated(["teacher", *keys]).any():
        return False
    each = frame.groupby(keys)["teacher"].count()
    return len(each) > 1 and bool(each.eq(frame["teacher"].nunique()).all())


def ordered_runs(
    size: ArrayLike, values: Sequence[ArrayLike] | Floats, teachers: Sequence[str] | None
) -> tuple[list[str], list[Floats], NDArray[np.int64]]:
    """Names and runs of the teachers, smallest first, and their order as given; runs that are no numbers are left out.

    Raises
    ------
    InputError
        With fewer than three teachers, equal or unknown sizes, or a teacher without values.
    """
    sizes = np.asarray(size, dtype=float)
    runs = [np.atleast_1d(np.asarray(run, dtype=float)) for run in values]
    runs = [run[np.isfinite(run)] for run in runs]
    names = [str(i) for i in range(len(sizes))] if teachers is None else [str(name) for name in teachers]
    order = _checked_order(sizes, runs, names)
    return [names[i] for i in order], [runs[i] for i in order], order


def _checked_order(sizes: Floats, runs: list[Floats], names: list[str]) -> NDArray[np.int64]:
    """The order of the teachers by size, after checks of what was given."""
    if not len(sizes) == len(runs) == len(names):
        lengths = f"{len(sizes)}, {len(runs)} and {len(names)}"
        raise InputError(f"expected as many sizes as values and teachers, got {lengths}")
    if len(sizes) < 3:
        raise InputError(f"a rise and a fall need at least 3 teachers, got {len(sizes)}")
    if not np.isfinite(sizes).all():
        raise InputError(f"the size of teacher {names[int(np.argmin(np.isfinite(sizes)))]!r} is not a finite number")
    order = np.argsort(sizes, kind="stable")
    for smaller, larger in pairwise(order):
        if sizes[smaller] == sizes[larger]:
            pair = f"{names[smaller]!r} and {names[larger]!r}"
            raise InputError(f"teachers {pair} have the same size {sizes[smaller]:g}; their order is undefined")
    for name, run in zip(names, runs, strict=True):
        if not run.size:
            raise InputError(f"teacher {name!r} has no finite value")
    return order
