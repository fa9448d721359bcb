"""Two lines with a break between them: Simonsohn's test of a rise that is followed by a fall, beside `peak`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from capmismatch.stats.courses import course_of, ordered_runs

__all__ = ["TwoLines", "two_lines", "two_lines_of"]

Floats = NDArray[np.float64]
FEWEST = 3
"""Rows that a line needs for its slope to have a standard error."""


@dataclass(frozen=True)
class TwoLines:
    """A line up to a break and a line from it on.

    Attributes
    ----------
    break_at : str
        The largest teacher up to the break.
    rise, fall : float
        Slope of the first line and minus that of the second, by rank of the size; both positive where there is a peak.
    p_rise, p_fall : float
        Two-sided, of a slope of zero; NaN where a line has too few rows.
    """

    break_at: str
    rise: float
    fall: float
    p_rise: float
    p_fall: float

    @property
    def p_value(self) -> float:
        """Of a rise followed by a fall: the larger of the two, 1 where a slope has the other sign; NaN if unknown."""
        if math.isnan(self.p_rise) or math.isnan(self.p_fall):
            return math.nan
        return max(self.p_rise, self.p_fall) if self.rise > 0 and self.fall > 0 else 1.0

    @property
    def shown(self) -> bool:
        """Whether both lines have the slope of a peak (p < 0.05 each)."""
        return self.p_value < 0.05


def two_lines(
    size: ArrayLike,
    values: Sequence[ArrayLike] | Floats,
    *,
    se: ArrayLike | None = None,
    teachers: Sequence[str] | None = None,
    paired: bool = False,
) -> TwoLines:
    r"""Test whether a quantity rises and then falls with teacher size by two lines with a break.

    Parameters
    ----------
    size : array of shape (T,)
        Size of each teacher; only the order counts.
    values : T arrays, or one of shape (T,) or (T, S)
        The quantity for each teacher, one number for each run; NaN is left out.
    se : array of shape (T,), optional
        Standard errors of the teachers' means, by which the flat region is found where no teacher has two runs; the
        lines' own scatter is the noise in any case.
    teachers : T names, optional
        Default: "0", "1", ... in the order given.
    paired : bool
        Whether run s of every teacher shares something; what runs have in common is then taken out, as in `peak`.

    Returns
    -------
    TwoLines
        The break, both slopes and their p-values.

    Raises
    ------
    InputError
        As `capmismatch.stats.peak.peak`, but for the noise.

    Notes
    -----
    The break is set as in the source: the *flat* teachers are those inside whose mean is within a standard error of the
    highest one inside; two lines are fitted with the break at their median; then the break moves to that quantile of
    the flat ones at which the weaker line gets more rows, :math:`|t_2| / (|t_1| + |t_2|)` ("Robin Hood"). A teacher at
    the break belongs to both lines. Standard errors are those of HC3, with Student's t on the rows of a line less two.

    The source smooths the course with a spline first. Here its place is taken by the teachers' means, as there are few
    sizes; and x is the rank of the size, as in `peak`.

    Where means scatter about a straight line by more than runs do, this test sees noise, and `peak`, which is about
    these very teachers, sees a course.

    References
    ----------
    Simonsohn 2018, "Two lines: a valid alternative to the invalid testing of U-shaped relationships with quadratic
    regressions", Advances in Methods and Practices in Psychological Science.

    Examples
    --------
    >>> runs = [[0.60, 0.61], [0.65, 0.64], [0.70, 0.71], [0.66, 0.67], [0.62, 0.61]]
    >>> lines = two_lines([1, 2, 4, 8, 16], runs, teachers=["xs", "s", "m", "l", "xl"])
    >>> lines.break_at, lines.shown
    ('m', True)
    """
    names, runs, order = ordered_runs(size, values, teachers)
    errors = None if se is None else np.asarray(se, dtype=float)[order]
    x = np.repeat(np.arange(len(runs), dtype=float), [len(run) for run in runs])
    y, lost = np.concatenate(runs), 0
    if paired:
        table = np.stack(runs)
        y, lost = (table - table.mean(axis=0) + table.mean()).ravel(), table.shape[1] - 1
    flat = _flat([y[x == rank] for rank in range(len(runs))], errors)
    first = [_slope(x, y, side, lost) for side in (x <= np.median(flat), x >= np.median(flat))]
    weights = [abs(line.t) for line in first]
    at = float(np.median(flat))
    if np.isfinite(weights).all() and sum(weights) > 0:
        at = float(np.quantile(flat, weights[1] / sum(weights)))
    rise, fall = (_slope(x, y, side, lost) for side in (x <= at, x >= at))
    return TwoLines(names[math.floor(at)], rise.slope, -fall.slope, rise.p_value, fall.p_value)


def two_lines_of(frame: pd.DataFrame, *, value: str = "value", paired: bool = False) -> TwoLines:
    """`two_lines` of one quantity over the teachers of one family, from rows of a probes or results table.

    Parameters
    ----------
    frame : DataFrame
        As `capmismatch.peak_of` takes it.
    value : str
        Column to look at.
    paired : bool
        See `two_lines`; runs are not paired where some teacher lacks one.

    Returns
    -------
    TwoLines
        The break, both slopes and their p-values.

    Raises
    ------
    InputError
        As `capmismatch.peak_of`.
    """
    course = course_of(frame, value, paired)
    return two_lines(course.params, course.values, se=course.errors, teachers=course.names, paired=course.paired)


@dataclass(frozen=True)
class _Line:
    """Slope of a line through some rows, its t statistic and its degrees of freedom."""

    slope: float
    t: float
    free: int

    @property
    def p_value(self) -> float:
        """Two-sided, of a slope of zero."""
        return float(2 * stats.t.sf(abs(self.t), self.free)) if self.free > 0 and not math.isnan(self.t) else math.nan


def _flat(runs: Sequence[Floats], errors: Floats | None) -> Floats:
    """Ranks of the teachers inside whose mean is within a standard error of the highest one inside."""
    means, counts = np.array([run.mean() for run in runs]), np.array([len(run) for run in runs])
    free = int((counts - 1).sum())
    if free:
        pooled = sum(float(((run - run.mean()) ** 2).sum()) for run in runs) / free
        errors = np.sqrt(pooled / counts)
    elif errors is None:
        errors = np.zeros(len(runs))
    inside = np.arange(1, len(runs) - 1)
    return inside[means[inside] + errors[inside] >= means[inside].max()].astype(float)


def _slope(x: Floats, y: Floats, side: NDArray[np.bool_], lost: int) -> _Line:
    """The line through the rows of one side, with HC3's standard error; `lost` degrees of freedom are spent already."""
    x, y = x[side], y[side]
    less = x - x.mean() if len(x) else x
    square = float((less**2).sum())
    if square == 0:
        return _Line(math.nan, math.nan, 0)
    slope = float((less * y).sum()) / square
    if len(x) < FEWEST:
        return _Line(slope, math.nan, 0)
    leverage = 1 / len(x) + less**2 / square
    residuals = y - y.mean() - slope * less
    if (leverage > 1 - 1e-9).any():
        return _Line(slope, math.nan, 0)
    error = math.sqrt(float(((less * residuals / (1 - leverage)) ** 2).sum())) / square
    scale = abs(slope) * float(np.abs(less).max())
    if error * float(np.abs(less).max()) <= 1e-12 * max(scale, float(np.abs(y).max()), 1e-300):  # all on the line
        return _Line(slope, math.copysign(math.inf, slope) if scale > 1e-12 * np.abs(y).max() else 0.0, len(x) - 2)
    return _Line(slope, slope / error, len(x) - 2 - lost)
