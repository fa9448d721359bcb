"""How sure a statistic of the examples is: the bootstrap, and paired differences between teachers.

The sampling unit here is the example: what would other examples of the same kind have said of these teachers?
(Statements about teachers need teachers as the unit, as in `capmismatch.correlate`.) Values per example come from
`capmismatch.probes`, `capmismatch.ranks` and `capmismatch.temperature`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch._numerics.arrays import ArrayLike
from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.errors import MOST_RESAMPLES, InputError, must_be_one_of, must_count

Floats = NDArray[np.float64]

_CELLS = 1 << 20  # counts of resampled examples held at a time: 8 MB


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A statistic of the examples, and what it was on resampled ones.

    Attributes
    ----------
    value : array
        The statistic of the examples themselves; a scalar statistic has shape ().
    replicates : array of shape (n_boot, ...)
        The statistic of each resample. All columns saw the same resamples.
    n : int
        Number of examples.
    level : float
        Of the interval, in (0, 1).

    Examples
    --------
    >>> print(bootstrap([1.0, 2.0, 3.0, 4.0], n_boot=500))
    2.5 [1.5, 3.5], se 0.531, n 4
    """

    value: Floats
    replicates: Floats
    n: int
    level: float

    @cached_property
    def se(self) -> Floats:
        """Standard error: the standard deviation of the replicates that are defined."""
        return _ignoring_nan(np.nanstd, self.replicates, ddof=1)

    @property
    def low(self) -> Floats:
        """Lower end of the percentile interval."""
        return self._ends[0]

    @property
    def high(self) -> Floats:
        """Upper end of the percentile interval."""
        return self._ends[1]

    @cached_property
    def _ends(self) -> Floats:
        return _ignoring_nan(np.nanquantile, self.replicates, q=[(1 - self.level) / 2, (1 + self.level) / 2])

    def against(self, column: int) -> Bootstrap:
        """All columns less one of them, paired: both were taken on the same resamples.

        Examples
        --------
        >>> small = np.arange(100.0); large = small + np.tile([1.0, 2.0], 50)
        >>> print(bootstrap(np.stack([small, large], axis=1)).against(0).table(["small", "large"]).round(2))
               value  low  high    se    n
        small    0.0  0.0   0.0  0.00  100
        large    1.5  1.4   1.6  0.05  100
        """
        if self.value.ndim != 1 or not -len(self.value) <= column < len(self.value):
            raise InputError(f"expected one of {self.value.shape} columns to compare with, got {column}")
        differences = self.replicates - self.replicates[:, column, None]
        return replace(self, value=self.value - self.value[column], replicates=differences)

    def table(self, names: Sequence[object] | None = None) -> pd.DataFrame:
        """The columns of the values as the rows of a table, named by `names`: ``value, low, high, se, n``."""
        columns = {name: np.atleast_1d(getattr(self, name)) for name in ("value", "low", "high", "se")}
        return pd.DataFrame(columns, index=None if names is None else list(names)).assign(n=self.n)

    def __str__(self) -> str:
        if self.value.ndim:
            return self.table().to_string()
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], se {self.se:.3g}, n {self.n}"


def bootstrap(
    values: ArrayLike,
    statistic: str | Callable[[Floats], Any] = "mean",
    *,
    strata: ArrayLike | None = None,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    r"""Resample the examples with replacement.

    Means are products of counts and values: with :math:`w_{bi}` how often example i is drawn in resample b, a
    replicate is :math:`\sum_i w_{bi} x_i / \sum_i w_{bi}`, for all columns and many resamples in one matrix product.

    Parameters
    ----------
    values : array or tensor of shape (N,) or (N, K)
        Values of N examples, or of K teachers, probes or pairs on the same examples. NaN (an example on which the
        quantity is not defined) is left out of its column's means.
    statistic : str or callable
        "mean", or a function from resampled values (N,) or (N, K) to a number or an array, called once per resample.
    strata : array of shape (N,), optional
        Such as the labels: draw within each stratum, so that every resample has as many examples of it as the data.
    n_boot : int
        Number of resamples, two or more.
    level : float
        Of the percentile interval, in (0, 1).
    seed : int
        Equal seeds draw equal resamples, so that results for the same examples can be compared in pairs.

    Returns
    -------
    Bootstrap
        With `value`, `low`, `high`, `se`; `against` gives paired differences. Replicates that are NaN are left out.

    Raises
    ------
    InputError
        Values that are not (N,) or (N, K) real numbers of at least two examples, infinite values under a mean, strata
        of another length, an unknown statistic, numbers out of range.

    References
    ----------
    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 1979.

    Examples
    --------
    >>> hits = np.repeat([0.0, 1.0], [300, 700])
    >>> print(bootstrap(hits))
    0.7 [0.673, 0.728], se 0.0139, n 1000
    >>> print(bootstrap(hits, np.median, n_boot=200))
    1 [1, 1], se 0, n 1000
    """
    data = _as_floats(values)
    n = len(data)
    if not isinstance(n_boot, int | np.integer) or n_boot < 2:
        raise InputError(f"expected n_boot to be a whole number of at least 2, got {n_boot!r}")
    must_count(n_boot, "n_boot", most=MOST_RESAMPLES)
    if not 0 < level < 1:
        raise InputError(f"expected a level in (0, 1), got {level!r}")
    draws = _draws(n, None if strata is None else np.asarray(strata), n_boot, seed)
    if callable(statistic):
        value = np.asarray(statistic(data), dtype=np.float64)
        replicates = np.stack([np.asarray(statistic(data[drawn]), dtype=np.float64) for drawn in draws])
    else:
        must_be_one_of(statistic, ["mean"], "statistic")
        columns = data.reshape(n, -1)
        if np.isinf(columns).any():
            row, column = np.argwhere(np.isinf(columns))[0]
            raise InputError(f"expected finite values (or NaN) under a mean, got {columns[row, column]} at row {row}")
        shape = data.shape[1:]
        value = _means(np.ones((1, n)), columns)[0].reshape(shape)
        replicates = np.concatenate([_means(counts, columns) for counts in _counted(draws, n)]).reshape(-1, *shape)
    return Bootstrap(value, replicates, n, level)


def _as_floats(values: ArrayLike) -> Floats:
    data = plain_array(values, "values").astype(np.float64, copy=False)
    if data.ndim not in (1, 2) or len(data) < 2 or data.size == 0:
        raise InputError(f"expected values of shape (N,) or (N, K) with N >= 2, got shape {data.shape}")
    return data


def _draws(n: int, strata: NDArray[Any] | None, n_boot: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The examples of each resample."""
    rng = np.random.default_rng(seed)
    if strata is None:
        return (rng.integers(n, size=n) for _ in range(n_boot))
    if strata.shape != (n,):
        raise InputError(f"expected {n} strata, one per example, got shape {strata.shape}")
    _, member, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    order = np.argsort(member, kind="stable")
    last = np.cumsum(sizes)
    first, last = np.repeat(last - sizes, sizes), np.repeat(last, sizes)
    return (order[rng.integers(first, last)] for _ in range(n_boot))


def _counted(draws: Iterator[NDArray[np.int64]], n: int) -> Iterator[Floats]:
    """How often each example was drawn, (resamples, N), a few resamples at a time; each overwrites the last."""
    counts = np.empty((max(1, _CELLS // n), n))
    filled = 0
    for drawn in draws:
        counts[filled] = np.bincount(drawn, minlength=n)
        filled += 1
        if filled == len(counts):
            yield counts
            filled = 0
    if filled:
        yield counts[:filled]


def _means(counts: Floats, columns: Floats) -> Floats:
    """Weighted means of the columns, (resamples, K)."""
    defined = ~np.isnan(columns)
    if defined.all():
        return counts @ columns / counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # no defined value in a resample: 0/0
        return (counts @ np.where(defined, columns, 0)) / (counts @ defined)


def _ignoring_nan(function: Callable[..., Floats], replicates: Floats, **options: Any) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns that are NaN throughout
        return function(replicates, axis=0, **options)
