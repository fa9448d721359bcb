r"""Probes of a teacher's features: what its last linear layer reads, rather than what comes out.

They are rivals from two fields: neural collapse, and the choice of a network to transfer from. All are functions of
sums (`FeatureMoments`), so that tables read features once and hold no rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from capmismatch._numerics.feature_moments import FeatureMoments, as_features, rounding
from capmismatch.errors import InputError
from capmismatch.probes._registry import Probe

STEPS = 200  # of the fixed point; it takes about ten


def nc1(features: ArrayLike, labels: ArrayLike) -> float:
    r"""How far features have collapsed to the means of their classes; 0 where all of a class are alike.

    :math:`\mathrm{tr}(\Sigma_W \Sigma_B^+) / C`, with :math:`\Sigma_W` the mean over examples of the outer product of
    what they differ by from their class's mean, :math:`\Sigma_B` the mean over classes of that of the class means less
    their mean, and :math:`A^+` the pseudo-inverse of A.

    Parameters
    ----------
    features : array_like, shape (N, D)
        Finite.
    labels : array_like of int, shape (N,)
        Class of each row.

    Returns
    -------
    float
        >= 0; NaN with fewer than two classes, or class means that are all the same.

    Raises
    ------
    InputError
        Features or labels that do not fit.

    References
    ----------
    Papyan, Han and Donoho 2020, "Prevalence of neural collapse during the terminal phase of deep learning training",
    PNAS, arXiv 2008.08186.

    Examples
    --------
    >>> nc1([[1.0], [1.0], [3.0], [3.0]], [0, 0, 1, 1])
    0.0
    """
    return _nc1(FeatureMoments.of(features, labels))


def _nc1(moments: FeatureMoments) -> float:
    means = moments.class_means
    if len(means) < 2:
        return math.nan
    less = means - means.mean(axis=0)
    _, sizes, directions = np.linalg.svd(less, full_matrices=False)
    # The differences have the rounding of the means, which may be far larger, and one direction less than classes.
    kept = sizes > np.linalg.norm(means) * rounding(max(less.shape))
    kept[len(means) - 1 :] = False
    if not kept.any():
        return math.nan
    within = moments.covariance - moments.between
    along = directions[kept]
    spread = np.maximum(np.einsum("kd,de,ke->k", along, within, along), 0.0)
    return float((spread / (sizes[kept] ** 2 / len(means))).sum() / len(means))


def effective_rank(features: ArrayLike) -> float:
    r"""How many directions the features take, all of them counted by their size.

    :math:`\exp(-\sum_i p_i \log p_i)`, :math:`p_i = \sigma_i / \sum_j \sigma_j`, with :math:`\sigma_i` the singular
    values of the features less their mean (the source takes a matrix as it is; without the mean it would be one
    direction).

    Parameters
    ----------
    features : array_like, shape (N, D)
        Finite.

    Returns
    -------
    float
        In [1, min(N - 1, D)]; NaN where all rows are the same.

    Raises
    ------
    InputError
        Features of another shape, or not finite.

    References
    ----------
    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO.

    Examples
    --------
    >>> round(effective_rank([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), 6)
    2.0
    """
    rows = as_features(features)
    return _effective_rank(FeatureMoments.of(rows, np.zeros(len(rows), dtype=np.int64)))


def _effective_rank(moments: FeatureMoments) -> float:
    values = np.linalg.eigvalsh(moments.covariance)
    scale = np.trace(moments.outer) / moments.n  # what the covariance is a difference of
    values = values[values > scale * rounding(moments.width)]
    if not len(values):
        return math.nan
    shares = np.sqrt(values) / np.sqrt(values).sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    r"""How much of the features' spread lies between classes, in units of their covariance.

    :math:`\mathrm{tr}(\mathrm{cov}(f)^+ \, \mathrm{cov}(E[f | y]))`; a linear classifier on features with more of it
    does better to first order.

    Parameters
    ----------
    features : array_like, shape (N, D)
        Finite.
    labels : array_like of int, shape (N,)
        Class of each row.

    Returns
    -------
    float
        In [0, min(C - 1, D)].

    Raises
    ------
    InputError
        Features or labels that do not fit.

    References
    ----------
    Bao et al. 2019, "An information-theoretic approach to transferability in task transfer learning", ICIP.

    Examples
    --------
    >>> round(h_score([[1.0], [1.0], [3.0], [3.0]], [0, 0, 1, 1]), 6)
    1.0
    """
    return _h_score(FeatureMoments.of(features, labels))


def _h_score(moments: FeatureMoments) -> float:
    scale = np.trace(moments.outer) / moments.n
    values, vectors = np.linalg.eigh(moments.covariance)
    kept = values > scale * rounding(moments.width)
    along = vectors[:, kept]
    return float((np.einsum("dk,de,ek->k", along, moments.between, along) / values[kept]).sum())


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    r"""Logarithm of the maximum evidence of a linear model of the labels on the features, an example and class.

    For each class, with y in {0, 1} and weights :math:`w \sim N(0, \alpha^{-1} I)`,
    :math:`y \sim N(F w, \beta^{-1} I)`, the largest :math:`\log p(y | F) / N` over :math:`\alpha, \beta`; the mean over
    the classes that have an example.

    Parameters
    ----------
    features : array_like, shape (N, D)
        Finite.
    labels : array_like of int, shape (N,)
        Class of each row.

    Returns
    -------
    float
        Higher where a linear head would fit the classes better.

    Raises
    ------
    InputError
        Features or labels that do not fit.

    Notes
    -----
    The maximum is found by MacKay's fixed point, as in the source, to convergence; directions without any feature count
    with the evidence that they have.

    References
    ----------
    You et al. 2021, "LogME: practical assessment of pre-trained models for transfer learning", ICML, arXiv 2102.11005.

    Examples
    --------
    >>> labels = [0, 1] * 50
    >>> draws = np.random.default_rng(0).normal(size=(100, 3))
    >>> logme(np.eye(2)[labels] + 0.1 * draws[:, :2], labels) > logme(draws, labels)
    True
    """
    return _logme(FeatureMoments.of(features, labels))


def _logme(moments: FeatureMoments) -> float:
    values, vectors = moments.eigen
    kept = values > 0
    projected = (vectors[:, kept].T @ moments.sums[moments.present].T) ** 2 / values[kept, None]
    counts = moments.counts[moments.present].astype(np.float64)
    evidence = [
        _evidence(values[kept], squares, float(count), moments.n)
        for squares, count in zip(projected.T, counts, strict=True)
    ]
    return float(np.mean(evidence)) if evidence else math.nan


def _evidence(values: np.ndarray, squares: np.ndarray, total: float, n: int) -> float:
    """The largest log evidence over n, of a target with these squared projections and this squared length."""
    rest, least = max(total - float(squares.sum()), 0.0), 1e-12 * n
    ratio = 1.0  # alpha over beta
    alpha = beta = 1.0
    for _ in range(STEPS):
        share = values / (values + ratio)
        effective = float(share.sum())
        weights = float((squares * values / (values + ratio) ** 2).sum())
        residual = float((squares * (1 - share) ** 2).sum()) + rest
        alpha, beta = effective / max(weights, least), (n - effective) / max(residual, least)
        before, ratio = ratio, alpha / beta
        if abs(ratio - before) <= 1e-10 * before:
            break
    share = values / (values + ratio)
    weights = float((squares * values / (values + ratio) ** 2).sum())
    residual = float((squares * (1 - share) ** 2).sum()) + rest
    # log|A| of the directions that have a feature; all others have alpha alone, which cancels.
    log = n * math.log(beta) + float(np.log(alpha / (alpha + beta * values)).sum())
    return (log - beta * residual - alpha * weights - n * math.log(2 * math.pi)) / (2 * n)


def cka(first: ArrayLike, second: ArrayLike) -> float:
    r"""Linear centred kernel alignment: how alike two networks place the same examples, whatever their widths.

    :math:`\|Y^\top X\|_F^2 / (\|X^\top X\|_F \, \|Y^\top Y\|_F)` of the features less their means.

    Parameters
    ----------
    first, second : array_like, shapes (N, D) and (N, E)
        Features of the same examples.

    Returns
    -------
    float
        In [0, 1]; NaN where one gives all examples the same features.

    Raises
    ------
    InputError
        Features of another shape, not finite, or of other numbers of examples.

    References
    ----------
    Kornblith et al. 2019, "Similarity of neural network representations revisited", ICML, arXiv 1905.00414.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(20, 3))
    >>> round(cka(rows, 5 * rows[:, ::-1] + 1), 6)
    1.0
    """
    x, y = as_features(first), as_features(second)
    if len(x) != len(y):
        raise InputError(f"expected features of the same examples, got {len(x)} and {len(y)} rows")
    alike = FeatureAlignment()
    alike.add(x, y)
    return alike.value


class FeatureAlignment:
    """Linear CKA of rows that come in chunks: only sums of products are held.

    Examples
    --------
    >>> alike = FeatureAlignment()
    >>> alike.add(np.eye(3), np.eye(3))
    >>> round(alike.value, 6)
    1.0
    """

    def __init__(self) -> None:
        self.n = 0
        self._sums: list[np.ndarray] = []
        self._products: list[np.ndarray] = []

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Take in more examples' features, (n, D) and (n, E)."""
        x, y = first.astype(np.float64), second.astype(np.float64)
        new = [x.sum(axis=0), y.sum(axis=0)], [x.T @ x, y.T @ y, y.T @ x]
        if self.n:
            for total, more in zip((*self._sums, *self._products), (*new[0], *new[1]), strict=True):
                total += more
        else:
            self._sums, self._products = new
        self.n += len(x)

    @property
    def value(self) -> float:
        """The alignment of all that was taken in."""
        if not self.n:
            return math.nan
        (of_x, of_y), (xx, yy, yx) = self._sums, self._products
        centred = [xx - np.outer(of_x, of_x) / self.n, yy - np.outer(of_y, of_y) / self.n]
        least = [np.trace(product) * rounding(len(product)) for product in (xx, yy)]
        if any(np.trace(product) <= bound for product, bound in zip(centred, least, strict=True)):
            return math.nan
        cross = yx - np.outer(of_y, of_x) / self.n
        return float((cross**2).sum() / (np.linalg.norm(centred[0]) * np.linalg.norm(centred[1])))


FEATURES: dict[str, Probe] = {
    name: Probe(name, formula, source, sign, False, "features", compute)
    for name, compute, formula, source, sign in (
        ("nc1", _nc1, "tr(Sigma_W Sigma_B^+) / C of the features", "Papyan et al. 2020, arXiv 2008.08186", 0),
        ("effective_rank", _effective_rank, "exp(entropy of singular values' shares)", "Roy and Vetterli 2007", 0),
        ("h_score", _h_score, "tr(cov(f)^+ cov(E[f | y]))", "Bao et al. 2019, ICIP", 1),
        ("logme", _logme, "max over alpha, beta of log p(y | F) / N", "You et al. 2021, arXiv 2102.11005", 1),
    )
}
"""Every probe of features by its name; what each computes takes a `FeatureMoments`."""
