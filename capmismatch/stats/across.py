"""Across families: means with intervals over clusters, and correlations of several families taken together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # whose parts load when first used: those for statistics take a second
from numpy.typing import ArrayLike, NDArray

from capmismatch.stats.run_means import half_width

Floats = NDArray[np.float64]
LEAST_TEACHERS = 5
"""A rank correlation of fewer teachers than this says nothing of its own uncertainty."""


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval.

    Attributes
    ----------
    value, low, high : float
        The mean; its interval is NaN with fewer than two units.
    units : int
        Independent units behind it: families, or papers.
    """

    value: float
    low: float
    high: float
    units: int


def mean_over(values: ArrayLike, clusters: ArrayLike | None = None) -> Mean:
    r"""Mean of values, with an interval by what differs between clusters of them.

    .. math:: s^2 = \frac{G}{G - 1} \frac{1}{n^2} \sum_g \Big(\sum_{i \in g} (x_i - \bar x)\Big)^2

    with G clusters and Student's t of G - 1 degrees of freedom. With clusters of one value it is the usual interval.

    Parameters
    ----------
    values : array_like of float, shape (n,)
        NaN is left out.
    clusters : array_like, shape (n,), optional
        What is independent: values of one cluster are not. By default every value.

    Returns
    -------
    Mean
        The mean and its interval.

    References
    ----------
    Liang & Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73, 1986: cluster-robust
    variances.

    Examples
    --------
    >>> mean = mean_over([0.0, 1.0, 2.0])
    >>> mean.value, round(mean.low, 2), round(mean.high, 2), mean.units
    (1.0, -1.48, 3.48, 3)
    """
    x = np.asarray(values, dtype=float)
    names = np.arange(len(x)) if clusters is None else np.asarray(clusters)
    x, names = x[np.isfinite(x)], names[np.isfinite(x)]
    if not len(x):
        return Mean(np.nan, np.nan, np.nan, 0)
    groups = np.unique(names, return_inverse=True)[1]
    count, mean = int(groups.max()) + 1, float(x.mean())
    if count < 2:
        return Mean(mean, np.nan, np.nan, count)
    sums = np.bincount(groups, x - mean)
    half = float(half_width(count / (count - 1) * (sums**2).sum() / len(x) ** 2, count - 1))
    return Mean(mean, mean - half, mean + half, count)


@dataclass(frozen=True)
class PooledCorrelation:
    """Correlations of several families taken together.

    Attributes
    ----------
    value, low, high : float
        The mean correlation and its 95 % interval.
    heterogeneity : float
        I2, the share of the variance between families that is more than chance, in [0, 1].
    families : int
        How many count.
    """

    value: float
    low: float
    high: float
    heterogeneity: float
    families: int


def pooled_correlation(correlations: ArrayLike, teachers: ArrayLike) -> PooledCorrelation:
    r"""Random-effects mean of rank correlations, each over the teachers of one family.

    In Fisher's :math:`z = \mathrm{atanh}\, r` with variances :math:`1.06/(n - 3)` (Fieller's, for Spearman's
    coefficient), the variance between families by DerSimonian & Laird, and the interval by Hartung & Knapp, never
    narrower than by these variances.

    Parameters
    ----------
    correlations : array_like of float, shape (F,)
        In [-1, 1]; NaN is left out.
    teachers : array_like of int, shape (F,)
        Behind each; families of fewer than `LEAST_TEACHERS` are left out.

    Returns
    -------
    PooledCorrelation
        NaN where no family counts; no interval with a single one.

    References
    ----------
    DerSimonian & Laird, Controlled Clinical Trials 7, 1986. Hartung & Knapp, Statistics in Medicine 20, 2001; made no
    narrower: Roever, Knapp & Friede, BMC Medical Research Methodology 15, 2015. Fieller, Hartley & Pearson,
    Biometrika 44, 1957.

    Examples
    --------
    >>> pooled = pooled_correlation([0.9, 0.8, 0.7], [8, 8, 12])
    >>> round(pooled.value, 2), pooled.families, pooled.low < pooled.value < pooled.high
    (0.8, 3, True)
    """
    r, n = np.asarray(correlations, dtype=float), np.asarray(teachers, dtype=float)
    counts = np.isfinite(r) & (n >= LEAST_TEACHERS)
    # A perfect order of n teachers is no infinite z: it is the last correlation that could have been seen below it.
    most = 1 - 3 / (n[counts] * (n[counts] ** 2 - 1))
    z, variances = np.arctanh(np.clip(r[counts], -most, most)), 1.06 / (n[counts] - 3)
    families = len(z)
    if not families:
        return PooledCorrelation(np.nan, np.nan, np.nan, np.nan, 0)
    weights = 1 / variances
    if families == 1:
        return PooledCorrelation(float(np.tanh(z[0])), np.nan, np.nan, np.nan, 1)
    fixed = (weights * z).sum() / weights.sum()
    spread = (weights * (z - fixed) ** 2).sum()
    between = max(0.0, (spread - (families - 1)) / (weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (variances + between)
    mean = (weights * z).sum() / weights.sum()
    # At least what the variances alone say: few families may agree by chance, and the interval would shrink to nothing.
    scale = max(1.0, (weights * (z - mean) ** 2).sum() / (families - 1)) / weights.sum()
    half = float(half_width(scale, families - 1))
    heterogeneity = max(0.0, 1 - (families - 1) / spread) if spread > 0 else 0.0
    low, value, high = (float(np.tanh(end)) for end in (mean - half, mean, mean + half))
    return PooledCorrelation(value, low, high, float(heterogeneity), families)


@dataclass(frozen=True)
class Contrast:
    """How much more of something one of several measures has than a reference, in the same families.

    Attributes
    ----------
    value, low, high : float
        The mean difference and its 95 % interval.
    p : float
        Two-sided, of no difference; NaN of the reference itself.
    """

    value: float
    low: float
    high: float
    p: float


def contrasts(values: ArrayLike, reference: int = 0) -> list[Contrast]:
    r"""Differences of measures from one of them, by a mixed model with the family as random effect.

    .. math:: z_{fm} = \mu_m + b_f + e_{fm}, \qquad b_f \sim N(0, \sigma_b^2),\; e_{fm} \sim N(0, \sigma^2)

    Every family has every measure, so the restricted likelihood has a closed form: a difference of two measures does
    not hold the family's effect, and its variance is :math:`2 \hat\sigma^2 / F` with :math:`(F-1)(M-1)` degrees of
    freedom of the residual mean square.

    Parameters
    ----------
    values : array_like of float, shape (F, M)
        One row per family, one column per measure, such as correlations in Fisher's z. Rows with NaN are left out.
    reference : int, default 0
        Column to compare with.

    Returns
    -------
    list of Contrast
        One for each column; NaN where there are no two families or measures.

    References
    ----------
    Laird & Ware, "Random-effects models for longitudinal data", Biometrics 38, 1982.

    Examples
    --------
    >>> [round(one.value, 2) for one in contrasts([[0.1, 0.5], [0.3, 0.6], [0.2, 0.7]])]
    [0.0, 0.4]
    """
    z = np.asarray(values, dtype=float)
    z = z[np.isfinite(z).all(axis=1)]
    families, measures = z.shape
    if families < 2 or measures < 2:
        return [Contrast(np.nan, np.nan, np.nan, np.nan)] * measures
    residual = z - z.mean(axis=1, keepdims=True) - z.mean(axis=0) + z.mean()
    free = (families - 1) * (measures - 1)
    error = float(np.sqrt(2 * (residual**2).sum() / free / families))
    differences = z.mean(axis=0) - z[:, reference].mean()
    half = float(half_width(error**2, free))
    found = []
    for number, difference in enumerate(differences.tolist()):
        if number == reference:
            found.append(Contrast(0.0, 0.0, 0.0, np.nan))
        else:
            p = float(2 * scipy.stats.t.sf(abs(difference) / error, free)) if error > 0 else np.nan
            found.append(Contrast(difference, difference - half, difference + half, p))
    return found
