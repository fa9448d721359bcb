"""Numbers with their intervals, for sentences: means of teachers and of pairs of teachers, differences, ratios."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from capmismatch.stats.best import gap_to_best
from capmismatch.stats.correlations import fisher_interval
from capmismatch.stats.run_means import half_width, mean_over_runs, runs_by_unit

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution; SciPy would take half a second to load

Floats = NDArray[np.float64]


def excludes_zero(low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
    """Whether intervals lie on one side of zero; NaN do not."""
    return (np.asarray(low) > 0) | (np.asarray(high) < 0)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes
    ----------
    value : float
        The estimate; NaN where it is unknown.
    low, high : float
        Its 95 % interval; NaN where there are too few units for one.
    n : int
        Number of units that it comes from.

    Examples
    --------
    >>> Estimate(0.7123, 0.70, 0.72).text(), Estimate(0.7123, 0.70, 0.72).percent()
    ('0.712 [0.700, 0.720]', '71.2 % [70.0, 72.0]')
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    n: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known and lies on one side of zero."""
        return bool(excludes_zero(self.low, self.high))

    def verdict(self, above: str, below: str, neither: str) -> str:
        """What the interval says of the sign."""
        if np.isnan(self.low):
            return "too few runs to give an interval, so nothing is established"
        return above if self.low > 0 else below if self.high < 0 else neither

    def text(self, form: str = "#.3g", scale: float = 1.0, unit: str = "") -> str:
        """``value unit [low, high]``."""
        if np.isnan(self.value):
            return "unknown"
        value, low, high = (format(scale * number, form).rstrip(".") for number in (self.value, self.low, self.high))
        return value + unit + ("" if np.isnan(self.low) else f" [{low}, {high}]")

    def percent(self) -> str:
        """A share of one, in percent."""
        return self.text(".1f", 100, " %")

    def points(self) -> str:
        """A difference of shares, in percentage points."""
        return self.text("+.2f", 100, " points")


def course(frame: pd.DataFrame, value: str) -> dict[str, Estimate]:
    """Mean of each teacher of one family, by size.

    The interval is Student's t with the variance of runs pooled over teachers (results with several runs of a teacher
    are averaged within a run first); where no teacher has two runs, the standard error over examples.

    Examples
    --------
    >>> frame = pd.DataFrame({"teacher": ["b", "b", "a", "a"], "params": [9, 9, 1, 1], "value": [2.0, 4.0, 0.0, 2.0]})
    >>> {teacher: mean.value for teacher, mean in course(frame, "value").items()}
    {'a': 1.0, 'b': 3.0}
    """
    runs = frame
    if "teacher_seed" in frame and frame.groupby("teacher")["teacher_seed"].nunique().gt(1).any():
        runs = frame.groupby(["teacher", "teacher_seed"])[value].mean().reset_index()
    units, values = runs_by_unit(runs, "teacher", value)
    over_runs = mean_over_runs(values, pool=True)
    by_teacher = frame.groupby("teacher")
    teachers = units["teacher"]
    half = over_runs.half_widths
    if not over_runs.free.any() and "se" in frame:
        half = Z95 * by_teacher["se"].mean()[teachers].to_numpy(float)
    elif not over_runs.free.any() and value == "accuracy" and "n" in frame:
        examples = by_teacher["n"].first()[teachers].to_numpy(float)
        half = Z95 * (over_runs.means * (1 - over_runs.means) / examples) ** 0.5
    numbers = zip(over_runs.means, over_runs.means - half, over_runs.means + half, over_runs.runs, strict=True)
    estimates = {
        teacher: Estimate(float(mean), float(low), float(high), int(n))
        for teacher, (mean, low, high, n) in zip(teachers, numbers, strict=True)
    }
    by_size = by_teacher["params"].first().sort_values(kind="stable").index
    return {str(teacher): estimates[teacher] for teacher in by_size}


def times(over: Estimate, under: Estimate) -> Estimate:
    """Ratio of two means that are independent; the intervals are joined on the log scale.

    Examples
    --------
    >>> times(Estimate(2.0, 1.8, 2.2), Estimate(1.0, 1.0, 1.0)).text()
    '2.00 [1.81, 2.21]'
    """
    if not (over.value > 0 and under.value > 0):
        return Estimate(np.nan)
    ratio = over.value / under.value
    if over == under:
        return Estimate(ratio)
    half = np.hypot((over.high - over.value) / over.value, (under.high - under.value) / under.value)
    return Estimate(ratio, float(ratio * np.exp(-half)), float(ratio * np.exp(half)))


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each student seed (rows) with each teacher (columns); seeds that lack a teacher are left out."""
    return rows.pivot_table(index="seed", columns="teacher", values="accuracy").dropna()


def against_best(seeds: pd.DataFrame, teacher: str) -> Estimate:
    """How the students of a teacher do against those of the best of the other teachers, paired by seed.

    Parameters
    ----------
    seeds : DataFrame
        Accuracies: one row per seed (two or more), one column per teacher.
    teacher : str
        A column.

    Returns
    -------
    Estimate
        Difference of means, a share, negative where the students of `teacher` do worse, with the interval of
        `capmismatch.stats.best.gap_to_best`: its noise is what teacher and seed leave of a run, pooled over teachers.
        The value is as measured: the best of many is so by luck as well, so a gap is on average smaller than it looks.

    Examples
    --------
    >>> seeds = pd.DataFrame({"s": [0.60, 0.62, 0.61], "m": [0.70, 0.71, 0.72], "l": [0.66, 0.69, 0.68]})
    >>> against_best(seeds, "l").points()
    '-3.33 points [-5.14, -1.53]'
    """
    values = seeds.to_numpy(float)
    noise = mean_over_runs((values - values.mean(axis=1, keepdims=True)).T, pool=True, paired=True)
    position = list(seeds.columns).index(teacher)
    gap = gap_to_best(values.mean(axis=0), noise.of_means, float(noise.free[0]), position)
    return Estimate(*gap, len(seeds))


def held_fixed(partial: float, teachers: int, effective: float) -> Estimate:
    """A partial Spearman correlation with normal theory's interval; the variable held fixed costs one teacher.

    Parameters
    ----------
    partial : float
        The correlation.
    teachers : int
        That it comes from.
    effective : float
        How many of a single family would scatter as much: `capmismatch.stats.correlations.effective_size`.

    Examples
    --------
    >>> held_fixed(0.7, 12, 12).text(".2f"), held_fixed(0.7, 12, 9.5).text(".2f")
    ('0.70 [0.09, 0.93]', '0.70 [-0.07, 0.95]')
    """
    low, high = fisher_interval(np.array(partial, dtype=float), "spearman", effective - 1)
    return Estimate(float(partial), float(low), float(high), int(teachers))


def pair_mean(alike: Floats, distances: Iterable[int], *, below_floor: bool = False) -> Estimate:
    """Mean over pairs of teachers that are some ranks apart in size.

    The interval is Student's t with the jackknife's standard error, which leaves out one teacher at a time, because
    pairs that share a teacher are not independent. (Percentiles of a bootstrap over eight teachers are too narrow.)

    Parameters
    ----------
    alike : (T, T) array
        Agreement of teachers in order of size, NaN where unknown; on the diagonal that of runs of one teacher.
    distances : iterable of int
        Which pairs: 0 the diagonal, 1 neighbours, and so on.
    below_floor : bool
        Instead of the agreement, how far it lies below the mean of the two teachers' own diagonals.

    Returns
    -------
    Estimate
        Mean over the pairs; `n` is their number.

    Examples
    --------
    >>> alike = np.array([[0.8, 0.7, 0.5], [0.7, 0.9, 0.8], [0.5, 0.8, 1.0]])
    >>> round(pair_mean(alike, [1]).value, 3), round(pair_mean(alike, [1], below_floor=True).value, 3)
    (0.75, 0.15)
    """
    ranks = np.arange(len(alike))
    distance = ranks[None] - ranks[:, None]
    if below_floor:
        floor = np.diag(alike)
        alike = (floor[:, None] + floor[None]) / 2 - alike
    first, second = np.nonzero(np.isin(distance, list(distances)) & np.isfinite(alike))
    values = alike[first, second]
    if not len(values):
        return Estimate(np.nan)
    mean, n = float(values.mean()), len(alike)
    without = [values[(first != left_out) & (second != left_out)] for left_out in ranks]
    if not all(len(remaining) for remaining in without):
        return Estimate(mean, n=len(values))
    means = np.array([remaining.mean() for remaining in without])
    error = np.sqrt((n - 1) / n * ((means - means.mean()) ** 2).sum())
    half = float(half_width(error**2, n - 1))
    bound = 2.0 if below_floor else 1.0  # an agreement is at most perfect
    return Estimate(mean, max(mean - half, -bound), min(mean + half, bound), len(values))
