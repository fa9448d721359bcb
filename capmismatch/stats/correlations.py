"""Statistics over a handful of teachers, as pure functions on arrays.

Three correlations share one form, so that one matrix product gives them for all columns at once: an inner product of
two unit vectors. For Pearson the vectors are the centred values, for Spearman the centred average ranks, for Kendall's
tau-b the signs of all pairwise differences. Groups (families) enter in the same way for all three: only
comparisons within a group count.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import scipy  # whose parts load when first used: those for statistics take a second
from numpy.typing import NDArray

METRICS = ("spearman", "pearson", "kendall")
"""The correlations, in the order in which the tables list them."""

FEW_TEACHERS = 5
"""Fewer teachers of one family carry finding CM003: no order of their ranks has p < 0.05."""

EXACT_PERMUTATIONS = math.factorial(9)
"""Up to this many permutations all are enumerated, above it they are drawn at random."""

_ROWS = 1024  # permutations at a time: blocks that stay in cache are five times as fast

Floats = NDArray[np.float64]


def unit_vectors(values: Floats, groups: NDArray[np.int64], metric: str) -> Floats:
    """The vectors whose inner products are the correlations.

    Parameters
    ----------
    values : array of shape (..., n, p)
        `p` columns observed on `n` units. Leading axes are replicates.
    groups : array of shape (n,)
        Group of each unit; units are compared only within their group.
    metric : {"pearson", "spearman", "kendall"}
        Which correlation.

    Returns
    -------
    array of shape (..., n, p), or (..., m, p) with `m` the number of pairs within groups for Kendall
        Of length one along the last axis but one; NaN where a column is constant within every group.
    """
    if metric == "kendall":
        first, second = _pairs(tuple(groups.tolist()))
        vectors = np.sign(values[..., first, :] - values[..., second, :])
    else:
        same = (groups[:, None] == groups[None, :]).astype(float)
        if metric == "spearman":
            values = _centred_ranks(values, same)
        vectors = values - same / same.sum(axis=1, keepdims=True) @ values
    length = np.sqrt((vectors**2).sum(axis=-2, keepdims=True))
    # A constant column leaves rounding noise, not zeros, after centring.
    floor = 1e-12 * np.sqrt((values**2).sum(axis=-2, keepdims=True)) if metric == "pearson" else np.float64(1e-12)
    return np.divide(vectors, length, out=np.full_like(vectors, np.nan), where=length > floor)


def correlations(x: Floats, y: Floats, groups: NDArray[np.int64], metric: str) -> Floats:
    """Correlation of every column of `x` with every column of `y`, within groups.

    Without groups these are Pearson's r, Spearman's rho and Kendall's tau-b (average ranks for ties). With groups
    they are the pooled within-group versions: Pearson of the values less their group's mean, Spearman of ranks taken
    within the group less their mean, tau-b over pairs within groups.

    Parameters
    ----------
    x, y : array of shape (..., n, p) and (..., n, q)
        Columns observed on n units; leading axes are replicates.
    groups : array of shape (n,)
        Group of each unit.
    metric : {"pearson", "spearman", "kendall"}
        Which correlation.

    Returns
    -------
    array of shape (..., p, q)
        In [-1, 1]; NaN where a column is constant.

    Examples
    --------
    >>> x = np.array([[1.0], [2.0], [3.0], [4.0]]); y = np.array([[1.0], [3.0], [2.0], [4.0]])
    >>> [round(float(correlations(x, y, np.zeros(4, int), metric)[0, 0]), 3) for metric in METRICS]
    [0.8, 0.8, 0.667]
    """
    inner = np.swapaxes(unit_vectors(x, groups, metric), -1, -2) @ unit_vectors(y, groups, metric)
    return np.clip(inner, -1.0, 1.0)


def partial_correlation(xy: Floats, xc: Floats, yc: Floats) -> Floats:
    """Correlation of x and y with c held fixed, from the three pairwise ones (elementwise, broadcasting).

    ``(r_xy - r_xc r_yc) / sqrt((1 - r_xc^2)(1 - r_yc^2))``. With Spearman's rho it is the partial rank correlation,
    with tau-b Kendall's partial tau (Kendall, Biometrika 1942). NaN where c determines x or y.

    Examples
    --------
    >>> round(float(partial_correlation(np.array(0.8), np.array(0.6), np.array(0.5))), 3)
    0.722
    """
    unexplained = (1 - xc**2) * (1 - yc**2)
    defined = unexplained > 1e-9
    value = np.divide(xy - xc * yc, np.sqrt(np.where(defined, unexplained, 1.0)))
    return np.where(defined, np.clip(value, -1.0, 1.0), np.nan)


def effective_size(groups: NDArray[np.int64], metric: str) -> float:
    """The number of units of a single group whose correlation would be as noisy as that of these groups.

    Its variance without a link is the same: of Pearson's r ``1 / (n - 1)``, of Spearman's rho the same, of
    Kendall's tau ``2 (2n + 5) / (9n (n - 1))`` (Kendall, Biometrika 1938), pooled over groups by the squares of their
    shares of the sum of squared ranks or of the pairs.

    Examples
    --------
    >>> two = np.repeat([0, 1], [4, 8])
    >>> [round(effective_size(two, metric), 1) for metric in METRICS]
    [9.5, 11.0, 9.7]
    """
    sizes = np.unique(groups, return_counts=True)[1].astype(float)
    sizes = sizes[sizes > 1]
    if not len(sizes):
        return 1.0
    if metric == "pearson":
        return float((sizes - 1).sum()) + 1
    shares = sizes * (sizes**2 - 1) if metric == "spearman" else sizes * (sizes - 1)
    by_group = 1 / (sizes - 1) if metric == "spearman" else _kendall_variance(sizes)
    variance = float((shares**2 * by_group).sum() / shares.sum() ** 2)
    if metric == "spearman":
        return 1 + 1 / variance
    linear = 9 * variance + 4  # of the quadratic equation that variance = 2 (2n + 5) / (9n (n - 1)) is for n
    return (linear + math.sqrt(linear**2 + 360 * variance)) / (18 * variance)


def _kendall_variance(n: Floats) -> Floats:
    """Of tau over `n` units without a link and without ties."""
    return 2 * (2 * n + 5) / (9 * n * (n - 1))


def fisher_interval(
    value: Floats, metric: str, n: float, replicates: Floats | None = None, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Confidence interval of a correlation on Fisher's z scale, ``tanh(atanh(r) +- q s)``.

    ``s^2`` is a weighted mean of two estimates of the variance of ``atanh(r)``: the variance of the bootstrap
    `replicates`, and normal theory's, 1/(n-3) for Pearson (Fisher 1915), (1 + r^2/2)/(n-3) for Spearman (Bonett &
    Wright, Psychometrika 2000), v/(1-v)^2 (1 + r^2/2) for Kendall, with v the variance of tau without a link (Kendall
    1938; the usual 0.437/(n-4) of Fieller, Hartley & Pearson, Biometrika 1957, is twice too large at five units).
    Theory alone does not see heavy tails or the seeds; the bootstrap alone is noisy and off, the more so the fewer
    units there are: a resample of five holds 3.4 of them on average. It has a quarter of the weight from eight units
    on, less below, none at five, which covers best (``benchmarks/bench_coverage.py``). A perfect rank agreement is
    taken as half of one discordance short of perfect, for else no finite interval exists; the interval always holds
    the value itself.

    Parameters
    ----------
    value : array
        Correlations.
    metric : {"pearson", "spearman", "kendall"}
        Which correlation they are.
    n : float
        Number of units: `effective_size` of their groups, less one for each variable held fixed.
    replicates : array of shape (B, *value.shape), optional
        Bootstrap replicates of `value`, NaN where undefined. Without them normal theory stands alone.
    level : float
        Of confidence, in (0, 1).

    Returns
    -------
    low, high : arrays shaped like `value`
        [-1, 1] where `n` is too small for any statement, NaN where `value` is.

    Examples
    --------
    >>> low, high = fisher_interval(np.array(0.8), "pearson", 12)
    >>> print(round(float(low), 3), round(float(high), 3))
    0.418 0.942
    """
    limit = _largest(metric, n)
    z = np.arctanh(np.clip(value, -limit, limit))
    if n <= 3:
        return np.where(np.isnan(value), np.nan, -1.0), np.where(np.isnan(value), np.nan, 1.0)
    null = _kendall_variance(np.asarray(n, dtype=float))
    scale = null / (1 - null) ** 2 if metric == "kendall" else 1 / (n - 3)
    variance = scale * (np.ones_like(value) if metric == "pearson" else 1 + value**2 / 2)
    if replicates is not None:
        defined = np.isfinite(replicates)
        count = defined.sum(axis=0)
        replicate_z = np.where(defined, np.arctanh(np.clip(replicates, -limit, limit)), 0.0)
        mean = replicate_z.sum(axis=0) / np.maximum(count, 1)
        spread = (np.where(defined, replicate_z - mean, 0.0) ** 2).sum(axis=0) / np.maximum(count, 1)
        share = float(np.clip((n - 5) / 12, 0, 1 / 4))
        variance = np.where(count > 1, (1 - share) * variance + share * spread, variance)
    half = scipy.stats.norm.ppf((1 + level) / 2) * np.sqrt(variance)
    return np.minimum(np.tanh(z - half), value), np.maximum(np.tanh(z + half), value)


def permutation_test(
    x: Floats, y: Floats, groups: NDArray[np.int64], metric: str, seed: int = 0, draws: int = 10_000
) -> tuple[Floats, Floats]:
    """Two-sided permutation p-values of every correlation between columns of `x` and `y`: alone, and of all of `x`.

    Units are permuted within their group. Exact where there are at most 9! permutations; else `draws` random ones with
    ``(1 + hits) / (1 + draws)`` (Phipson & Smyth, 2010), so that no p is zero.

    Parameters
    ----------
    x, y : array of shape (n, p) and (n, q)
        Columns observed on n units.
    groups : array of shape (n,)
        Group of each unit.
    metric : {"pearson", "spearman", "kendall"}
        Which correlation.
    seed : int
        Of the random permutations.
    draws : int
        Number of random permutations.

    Returns
    -------
    array of shape (p, q)
        How often permuted units reach the correlation of these columns: in (0, 1]; NaN where it is undefined.
    array of shape (p, q)
        How often the largest magnitude over all columns of `x` reaches it: max-T of Westfall and Young (1993), the
        p-value corrected for all of them (family-wise). Columns that are alike cost little, unlike with Bonferroni's.

    Examples
    --------
    >>> x = np.arange(5.0)[:, None]
    >>> p, p_max = permutation_test(np.hstack([x, x**2, x**3]), x, np.zeros(5, int), "spearman")
    >>> p.round(4).ravel().tolist(), p_max.round(4).ravel().tolist()  # 2 of 120 orders agree or disagree perfectly
    ([0.0167, 0.0167, 0.0167], [0.0167, 0.0167, 0.0167])
    """
    orders, exact = _permutations(tuple(groups.tolist()), seed, draws)
    of_x = unit_vectors(x, groups, metric).astype(np.float32)
    of_y = unit_vectors(y, groups, metric).astype(np.float32)
    observed = of_x.T @ of_y
    bar = np.abs(observed) - 1e-6  # equal statistics must count as equal in spite of rounding
    known = np.nan_to_num(of_x)  # a constant column is never the largest
    # Lengths and means stay, so permuting a column only reorders its unit vector (for Kendall its table of signs).
    table = _sign_table(of_y, groups) if metric == "kendall" else None
    first, second = _pairs(tuple(groups.tolist()))
    hits = np.zeros(observed.shape)
    largest = np.empty((len(orders), of_y.shape[1]), dtype=np.float32)
    for start in range(0, len(orders), _ROWS):
        block = orders[start : start + _ROWS]
        shuffled = of_y[block] if table is None else table[block[:, first], block[:, second]]
        for column in range(of_y.shape[1]):
            reached = np.abs(np.ascontiguousarray(shuffled[..., column]) @ known)
            largest[start : start + _ROWS, column] = reached.max(axis=1)
            hits[:, column] += (reached >= bar[:, column]).view(np.uint8).sum(axis=0, dtype=np.uint16)
    largest.sort(axis=0)
    below = [np.searchsorted(largest[:, column], bar[:, column]) for column in range(of_y.shape[1])]
    all_hits = len(orders) - np.stack(below, axis=1)
    defined = ~np.isnan(observed)
    p, p_max = (
        np.where(defined, reached / len(orders) if exact else (1 + reached) / (1 + len(orders)), np.nan)
        for reached in (hits, all_hits)
    )
    return p, p_max


def least_p(groups: NDArray[np.int64]) -> float:
    """The smallest two-sided permutation p-value that ranks without ties can have: of perfect (dis)agreement.

    Examples
    --------
    >>> [round(least_p(np.array(groups)), 3) for groups in ([0] * 4, [0] * 5, [0, 0, 0, 1, 1, 1])]
    [0.083, 0.017, 0.056]
    """
    return min(1.0, 2 / _count(groups))


def holm(p: Floats) -> Floats:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 1979): family-wise; NaN do not count as tests.

    Examples
    --------
    >>> [round(float(q), 3) for q in holm(np.array([0.01, 0.04, np.nan, 0.03]))]
    [0.03, 0.06, nan, 0.06]
    """
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    left = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(left * p[order]), 1.0)
    return adjusted


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini-Hochberg adjusted p-values; NaN stay NaN and do not count as tests.

    Examples
    --------
    >>> [round(float(q), 3) for q in benjamini_hochberg(np.array([0.01, 0.04, np.nan]))]
    [0.02, 0.04, nan]
    """
    adjusted = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        adjusted[tested] = scipy.stats.false_discovery_control(p[tested], method="bh")
    return adjusted


def stratified_resample(groups: NDArray[np.int64], n_boot: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (n_boot, n) of units drawn with replacement, each from the group of the unit whose place it takes."""
    drawn = np.empty((n_boot, len(groups)), dtype=np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        drawn[:, members] = rng.choice(members, (n_boot, len(members)))
    return drawn


def resample_nested(values: Floats, units: NDArray[np.int64], runs: Floats, seeds: Floats) -> Floats:
    """Means over runs and seeds redrawn with replacement within the drawn units.

    Parameters
    ----------
    values : array of shape (n, R, K, p)
        Unit, run within the unit, seed within the run, column; packed: what exists comes first along R and K, then
        NaN.
    units : array of shape (B, n)
        The unit that stands in each place of each replicate.
    runs : array of shape (B, n, R')
        Uniform numbers in [0, 1), R' >= R. Equal numbers draw equal runs from two tables that have the same runs.
    seeds : array of shape (B, n, R, K)
        Uniform numbers in [0, 1).

    Returns
    -------
    array of shape (B, n, p)
        Mean over drawn runs of the mean over drawn seeds.
    """
    _, n_runs, n_seeds, n_columns = values.shape
    per_run = np.isfinite(values).sum(axis=2)
    per_unit = (per_run > 0).sum(axis=1)
    column = np.arange(n_columns)
    total = np.zeros((*units.shape, n_columns))
    runs_here = per_unit[units]
    for r in range(n_runs):
        run = (runs[:, :, r, None] * runs_here).astype(np.int64)
        seeds_here = per_run[units[..., None], run, column]
        within = np.zeros_like(total)
        for k in range(n_seeds):
            seed = (seeds[:, :, r, k, None] * seeds_here).astype(np.int64)
            drawn = values[units[..., None], run, seed, column]
            within += np.where(k < seeds_here, drawn, 0.0)
        total += np.where(r < runs_here, within / np.maximum(seeds_here, 1), 0.0)
    return np.where(runs_here > 0, total / np.maximum(runs_here, 1), np.nan)


def nested_mean(values: Floats) -> Floats:
    """Mean over runs of the mean over seeds: (n, R, K, p) to (n, p), NaN where there is nothing."""
    measured = np.isfinite(values)
    per_run = measured.sum(axis=2)
    run_mean = np.where(measured, values, 0.0).sum(axis=2) / np.maximum(per_run, 1)
    per_unit = (per_run > 0).sum(axis=1)
    return np.where(per_unit > 0, run_mean.sum(axis=1) / np.maximum(per_unit, 1), np.nan)


def _centred_ranks(values: Floats, same: Floats) -> Floats:
    """Average ranks within groups, up to a constant per group: half the number of units below less those above."""
    above = values[..., :, None, :] > values[..., None, :, :]
    below = values[..., :, None, :] < values[..., None, :, :]
    return np.einsum("...ijp,ij->...ip", above.astype(np.float32) - below.astype(np.float32), same) / 2


def _largest(metric: str, n: float) -> float:
    """The largest magnitude that a correlation is given on the z scale."""
    if n < 2 or metric == "pearson":
        return 1 - 1e-4
    return 1 - 6 / (n * (n**2 - 1)) if metric == "spearman" else 1 - 2 / (n * (n - 1))


@lru_cache(maxsize=64)
def _pairs(groups: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = np.triu_indices(len(groups), k=1)
    label = np.array(groups)
    keep = label[first] == label[second]
    return first[keep], second[keep]


def _sign_table(pairs: NDArray[np.float32], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """Antisymmetric (n, n, q) table of what `unit_vectors` gives for each pair."""
    first, second = _pairs(tuple(groups.tolist()))
    table = np.zeros((len(groups), len(groups), pairs.shape[1]), dtype=pairs.dtype)
    table[first, second], table[second, first] = pairs, -pairs
    return table


def _count(groups: NDArray[np.int64]) -> int:
    """How many permutations of the units within groups there are."""
    return math.prod(math.factorial(int(size)) for size in np.unique(groups, return_counts=True)[1])


@lru_cache(maxsize=8)
def _permutations(groups: tuple[int, ...], seed: int, draws: int) -> tuple[NDArray[np.int8], bool]:
    """Permutations of the units within groups (P, n), and whether these are all there are."""
    label = np.array(groups)
    members = [np.flatnonzero(label == group) for group in np.unique(label)]
    if _count(label) > EXACT_PERMUTATIONS:
        rng = np.random.default_rng(seed)
        orders = np.empty((draws, len(label)), dtype=np.int8)
        for group in members:
            orders[:, group] = rng.permuted(np.tile(group, (draws, 1)), axis=1)
        return orders, False
    orders = np.empty((1, len(label)), dtype=np.int8)
    for group in members:
        within = group[_all_orders(len(group))].astype(np.int8)
        repeats = len(orders)
        orders = np.repeat(orders, len(within), axis=0)
        orders[:, group] = np.tile(within, (repeats, 1))
    return orders, True


@lru_cache(maxsize=16)
def _all_orders(n: int) -> NDArray[np.int64]:
    """All n! orders of range(n), by inserting n-1 at every place of the orders of range(n-1)."""
    if n == 0:
        return np.zeros((1, 0), dtype=np.int64)
    shorter = _all_orders(n - 1)
    return np.concatenate([np.insert(shorter, position, n - 1, axis=1) for position in range(n)])
