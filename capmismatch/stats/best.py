"""Comparisons with the best of several: how far behind it a unit is, and which units may be the best."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy  # whose parts load when first used: those for statistics take a second
from numpy.typing import NDArray

__all__ = ["dunnett_quantile", "gap_to_best", "may_be_best"]

Floats = NDArray[np.float64]

LEVEL = 0.95
_NODES = 80  # of the quadratures: quantiles are right to four digits


@lru_cache(maxsize=256)
def dunnett_quantile(others: int, free: float, *, two_sided: bool) -> float:
    r"""Quantile of the largest of the t statistics that compare one unit with each of the others, at 95 %.

    .. math:: P\left(\max_j \frac{\bar y_0 - \bar y_j - (\mu_0 - \mu_j)}{s \sqrt{2/n}} \le d\right) = 0.95

    Parameters
    ----------
    others : int
        Units that one is compared with, 1 or more.
    free : float
        Degrees of freedom of the variance; infinite where it is known.
    two_sided : bool
        Whether of the magnitudes.

    Returns
    -------
    float
        d; with one other unit Student's t.

    References
    ----------
    Dunnett, "A multiple comparison procedure for comparing several treatments with a control", JASA 1955.

    Examples
    --------
    >>> round(dunnett_quantile(1, 10, two_sided=True), 3), round(dunnett_quantile(9, 20, two_sided=False), 2)
    (2.228, 2.6)
    """
    z, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    scale, chances = np.ones(1), np.ones(1)
    if np.isfinite(free):
        nodes, chances = np.polynomial.legendre.leggauss(_NODES)
        scale, chances = np.sqrt(scipy.stats.chi2.ppf((nodes + 1) / 2, free) / free), chances / 2

    def short(d: float) -> float:
        reach = np.sqrt(2) * d * scale[:, None]
        one = scipy.special.ndtr(z + reach) - (scipy.special.ndtr(z - reach) if two_sided else 0.0)
        return float(chances @ (one**others) @ weights) - LEVEL

    return float(scipy.optimize.brentq(short, 0.0, 1e3))


def gap_to_best(means: Floats, variances: Floats, free: float, unit: int) -> tuple[float, float, float]:
    """Mean of a unit less the highest mean of the others, with its 95 % interval.

    Comparing with each other unit at once, by Dunnett's two-sided quantile, bounds the distance from the best of them,
    whichever that is: the interval covers it in at least 95 %.

    Parameters
    ----------
    means, variances : arrays of shape (n,)
        Of two units or more, and the variances of these means.
    free : float
        Degrees of freedom of the variances; infinite where they are known.
    unit : int
        Which unit.

    Returns
    -------
    tuple of three floats
        The gap as measured, and its interval; NaN ends without degrees of freedom.

    References
    ----------
    Hsu, "Simultaneous confidence intervals for all distances from the best", Annals of Statistics 1981; Edwards and
    Hsu, "Multiple comparisons with the best treatment", JASA 1983.

    Examples
    --------
    >>> gap = gap_to_best(np.array([1.0, 2.0, 4.0]), np.full(3, 0.1), 6, 1)
    >>> [round(end, 2) for end in gap]
    [-2.0, -3.28, -0.72]
    """
    gaps = means[unit] - np.delete(means, unit)
    if not free > 0:
        return float(gaps.min()), np.nan, np.nan
    errors = np.sqrt(variances[unit] + np.delete(variances, unit))
    half = dunnett_quantile(len(gaps), free, two_sided=True) * errors
    return float(gaps.min()), float((gaps - half).min()), float((gaps + half).min())


def may_be_best(means: Floats, variances: Floats, free: float) -> NDArray[np.bool_]:
    """Units that no other is shown to be better than: the best one is among them with a confidence of 95 %.

    Parameters
    ----------
    means, variances : arrays of shape (n,)
        Of the units, and the variances of these means.
    free : float
        Degrees of freedom of the variances; infinite where they are known.

    Returns
    -------
    array of bool, shape (n,)
        All, without degrees of freedom.

    References
    ----------
    Gupta, "On some multiple decision (selection and ranking) rules", Technometrics 1965; Hsu 1981, with it the upper
    ends of his intervals.

    Examples
    --------
    >>> may_be_best(np.array([1.0, 3.5, 4.0]), np.full(3, 0.1), 6).tolist()
    [False, True, True]
    """
    if not free > 0 or len(means) < 2:
        return np.ones(len(means), dtype=bool)
    reach = dunnett_quantile(len(means) - 1, free, two_sided=False) * np.sqrt(variances[:, None] + variances)
    np.fill_diagonal(reach, 0.0)
    return np.asarray((means[:, None] - means + reach >= 0).all(axis=1))
