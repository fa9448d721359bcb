"""Means over runs and how noisy they are: one function for every table, figure, sentence and test of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy  # whose parts load when first used: those for statistics take a second
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RunMeans:
    """Means of units over their runs, and the noise of a run.

    Attributes
    ----------
    means : array of shape (n,)
        Mean of each unit; NaN where it has no run.
    runs : array of int, shape (n,)
        Number of runs of each unit.
    variances : array of shape (n,)
        Variance of a single run: each unit's own, or that pooled over units; NaN where no unit has two runs.
    free : array of int, shape (n,)
        Degrees of freedom behind these variances.
    """

    means: Floats
    runs: NDArray[np.int64]
    variances: Floats
    free: NDArray[np.int64]

    @property
    def of_means(self) -> Floats:
        """Variance (n,) of each mean; NaN for a unit without runs."""
        return np.divide(self.variances, self.runs, out=np.full(len(self.runs), np.nan), where=self.runs > 0)

    @property
    def errors(self) -> Floats:
        """Standard error (n,) of each mean."""
        return np.sqrt(self.of_means)

    @property
    def half_widths(self) -> Floats:
        """Half the width (n,) of the 95 % interval of each mean, Student's t; NaN without degrees of freedom."""
        return half_width(self.of_means, self.free)


def half_width(variance: ArrayLike, free: ArrayLike) -> Floats:
    """Half the width of the 95 % interval of an estimate: Student's t times its standard error.

    Parameters
    ----------
    variance : float or array
        Of the estimate.
    free : float or array
        Degrees of freedom behind the variance; infinite where it is known.

    Returns
    -------
    array
        NaN without degrees of freedom.

    Examples
    --------
    >>> half_width([1.0, 1.0, 1.0], [0, 1, np.inf]).round(2).tolist()
    [nan, 12.71, 1.96]
    """
    free = np.asarray(free, dtype=float)
    estimated = free > 0
    quantiles = scipy.stats.t.ppf(0.975, np.where(estimated, free, 1))
    return np.where(estimated, quantiles, np.nan) * np.sqrt(np.asarray(variance, dtype=float))


def mean_over_runs(values: Floats, *, pool: bool | NDArray[Any] = False, paired: bool = False) -> RunMeans:
    """Mean of each unit over its runs, with the variance of a run.

    Parameters
    ----------
    values : array of shape (n, R)
        One row per unit (a teacher, a point of a figure), one column per run; NaN where there is no run.
    pool : bool or array of group codes, shape (n,)
        Whether (or within which groups) to pool the variance over units, weighted by degrees of freedom. Two or three
        runs of one teacher say little of the noise, those of all teachers say more: pooling is right where runs are
        equally noisy for all units, as for the teachers of one family. Not pooled, every unit has its own variance, as
        for the points of a figure, where units may be on different scales.
    paired : bool
        Whether what a run has in common for all units was taken out of the values (the columns' means). It costs each
        group one degree of freedom for every run but one.

    Returns
    -------
    RunMeans
        Means, and variances with their degrees of freedom.

    Examples
    --------
    >>> means = mean_over_runs(np.array([[0.1, 0.3], [0.5, 0.9]]))
    >>> means.means.round(2).tolist(), means.variances.round(2).tolist(), means.free.tolist()
    ([0.2, 0.7], [0.02, 0.08], [1, 1])
    >>> pooled = mean_over_runs(np.array([[0.1, 0.3], [0.5, 0.9]]), pool=True)
    >>> pooled.variances.round(2).tolist(), pooled.free.tolist()
    ([0.05, 0.05], [2, 2])
    """
    measured = np.isfinite(values)
    runs = measured.sum(axis=1)
    means = np.divide(
        np.where(measured, values, 0.0).sum(axis=1), runs, out=np.full(len(values), np.nan), where=runs > 0
    )
    squares = (np.where(measured, values - means[:, None], 0.0) ** 2).sum(axis=1)
    if isinstance(pool, bool):
        groups = np.zeros(len(values), dtype=np.int64) if pool else np.arange(len(values))
    else:
        groups = np.unique(pool, return_inverse=True)[1]
    free = np.bincount(groups, np.maximum(runs - 1, 0)).astype(np.int64)
    if paired:
        most = np.zeros(len(free), dtype=np.int64)
        np.maximum.at(most, groups, runs)
        free = free - np.maximum(most - 1, 0)
    pooled = np.divide(np.bincount(groups, squares), free, out=np.full(len(free), np.nan), where=free > 0)
    return RunMeans(means, runs, pooled[groups], np.maximum(free, 0)[groups])


def runs_by_unit(frame: pd.DataFrame, unit: str | Sequence[str], value: str) -> tuple[pd.DataFrame, Floats]:
    """The runs of each unit as the rows of an array, from a table with one row per run.

    Parameters
    ----------
    frame : DataFrame
        One row per run.
    unit : str or sequence of str
        The columns that tell units apart; a missing value is a value of its own.
    value : str
        The column of the runs' values.

    Returns
    -------
    units : DataFrame
        The columns of `unit`, in order of first appearance.
    values : array of shape (n, R)
        For `mean_over_runs`; NaN where there is no run.
    """
    columns = [unit] if isinstance(unit, str) else list(unit)
    groups = frame.groupby(columns, sort=False, dropna=False, observed=True)
    number, run = groups.ngroup().to_numpy(), groups.cumcount().to_numpy()
    values = np.full((number.max(initial=-1) + 1, run.max(initial=-1) + 1), np.nan)
    values[number, run] = frame[value].to_numpy(float)
    return frame.loc[run == 0, columns].reset_index(drop=True), values
