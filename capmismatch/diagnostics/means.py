"""Means of values and their standard errors, as tables show them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def mean(values: NDArray[np.float64], clusters: NDArray[np.int64] | None = None) -> dict[str, float]:
    """value, se and n of a table; NaN where there is nothing to tell. `clusters` (n,) are those of `ClusteredMeans`."""
    n = len(values)
    if clusters is not None:
        running = ClusteredMeans(1, int(clusters.max(initial=-1)) + 1)
        running.add(values[None], clusters)
        return running.columns(0)
    se = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return {"value": float(values.mean()) if n else math.nan, "se": se, "n": n}


class Means:
    """Mean and standard error of each row of (P, n) values that come in chunks, NaN left out (Chan's update)."""

    def __init__(self, rows: int) -> None:
        self.n, self.mean, self.square = np.zeros((3, rows))

    def add(self, values: NDArray[np.float64], clusters: NDArray[np.int64] | None = None) -> None:
        """Take in more examples' values (K, n); NaN counts as missing. What clusters they are in does not count."""
        present = ~np.isnan(values)
        n = present.sum(1)
        mean = np.where(present, values, 0.0).sum(1) / np.maximum(n, 1)
        square = np.where(present, values - mean[:, None], 0.0)
        delta, total = mean - self.mean, self.n + n
        share = n / np.maximum(total, 1)
        self.square += np.einsum("pn,pn->p", square, square) + delta * delta * self.n * share
        self.mean += delta * share
        self.n = total

    def columns(self, row: int) -> dict[str, float]:
        """value, se and n of a table; NaN where there is nothing to tell."""
        n = int(self.n[row])
        se = math.sqrt(self.square[row] / (n - 1) / n) if n > 1 else math.nan
        return {"value": float(self.mean[row]) if n else math.nan, "se": se, "n": n}


class ClusteredMeans:
    r"""The same where values come in clusters, such as the positions of a text, that are alike.

    With :math:`d_g` the sum of a cluster's deviations from the mean, the standard error of the mean over n values in G
    clusters is :math:`\sqrt{\frac{G}{G - 1} \sum_g d_g^2} / n`: the sandwich of a regression on a constant, clustered.

    Parameters
    ----------
    rows : int
        P, how many means.
    clusters : int
        Numbers of clusters lie below this.

    References
    ----------
    Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986. Cameron and Miller,
    "A practitioner's guide to cluster-robust inference", J. Human Resources 2015.
    """

    def __init__(self, rows: int, clusters: int) -> None:
        self.n, self.total = np.zeros((2, rows, clusters))
        self.origin: NDArray[np.float64] | None = None

    def add(self, values: NDArray[np.float64], clusters: NDArray[np.int64] | None = None) -> None:
        """Take in more examples' values (P, n), and their clusters (n,); NaN counts as missing."""
        assert clusters is not None
        present = ~np.isnan(values)
        if self.origin is None:  # near the mean, so that no digits are lost where it is far from zero
            self.origin = np.where(present, values, 0.0).sum(1) / np.maximum(present.sum(1), 1)
        numbers, index = np.unique(clusters, return_inverse=True)
        less = np.where(present, values - self.origin[:, None], 0.0)
        for row in range(len(values)):
            self.total[row, numbers] += np.bincount(index, less[row], len(numbers))
            self.n[row, numbers] += np.bincount(index, present[row], len(numbers))

    def columns(self, row: int) -> dict[str, float]:
        """value, se and n of a table, and how many sequences; NaN where there is nothing to tell."""
        of_cluster, total = self.n[row], self.total[row]
        n, clusters = int(of_cluster.sum()), int((of_cluster > 0).sum())
        if not n or self.origin is None:
            return {"value": math.nan, "se": math.nan, "n": 0, "sequences": 0}
        shift = float(total.sum()) / n
        squares = float(np.square(total - shift * of_cluster).sum())
        se = math.sqrt(clusters / (clusters - 1) * squares) / n if clusters > 1 else math.nan
        return {"value": float(self.origin[row]) + shift, "se": se, "n": n, "sequences": clusters}


def running_means(rows: int, clusters: NDArray[np.int64] | None) -> Means | ClusteredMeans:
    """Means that take in examples, over clusters (all examples' numbers) where there are any."""
    return Means(rows) if clusters is None else ClusteredMeans(rows, int(clusters.max(initial=-1)) + 1)
