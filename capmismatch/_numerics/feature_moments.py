"""Sums over features from which all probes of features are made: rows are read once, and none is held."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.errors import InputError

Floats = NDArray[np.float64]


def as_features(features: ArrayLike, place: str = "features") -> Floats:
    """Finite features (n, D) in float64.

    Raises
    ------
    InputError
        Another shape, or a value that is not finite.
    """
    array = np.asarray(plain_array(features, place), dtype=np.float64)
    if array.ndim != 2 or not array.shape[1]:
        raise InputError(f"expected {place} of shape (N, D), got {array.shape}")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputError(f"expected finite {place}, got {array[row, column]} at row {row}, column {column}")
    return array


class FeatureMoments:
    """Counts and sums by class, and the sum of outer products, of features (N, D) that come in chunks.

    Parameters
    ----------
    classes : int
        C, number of classes.

    Examples
    --------
    >>> moments = FeatureMoments(2)
    >>> moments.add(np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0, 1]))
    >>> moments.n, moments.mean.tolist()
    (2, [2.0, 0.0])
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros(classes, dtype=np.int64)
        self.sums: Floats = np.zeros((classes, 0))
        self.outer: Floats = np.zeros((0, 0))

    @classmethod
    def of(cls, features: ArrayLike, labels: ArrayLike) -> FeatureMoments:
        """Those of one array of features (N, D) with labels (N,)."""
        array, classes = as_features(features), np.asarray(plain_array(labels, "labels"))
        if classes.shape != (len(array),) or not np.issubdtype(classes.dtype, np.integer) or (classes < 0).any():
            raise InputError(f"expected labels of shape ({len(array)},), whole numbers from 0 on, got {classes.shape}")
        if not len(array):
            raise InputError("expected features of at least one example, got none")
        moments = cls(int(classes.max()) + 1)
        moments.add(array, classes.astype(np.int64))
        return moments

    def add(self, features: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
        """Take in more rows."""
        wide = features.astype(np.float64)
        if not self.outer.size:
            self.sums = np.zeros((len(self.counts), wide.shape[1]))
            self.outer = np.zeros((wide.shape[1], wide.shape[1]))
        self.counts += np.bincount(labels, minlength=len(self.counts))
        order = np.argsort(labels, kind="stable")
        present, starts = np.unique(labels[order], return_index=True)
        self.sums[present] += np.add.reduceat(wide[order], starts, axis=0) if len(order) else 0.0
        self.outer += wide.T @ wide
        self.__dict__.pop("eigen", None)

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    @property
    def width(self) -> int:
        """D, number of features."""
        return self.outer.shape[0]

    @property
    def mean(self) -> Floats:
        """(D,) mean over all rows."""
        return self.sums.sum(axis=0) / self.n

    @property
    def present(self) -> NDArray[np.int64]:
        """Classes that have a row."""
        return np.flatnonzero(self.counts)

    @property
    def class_means(self) -> Floats:
        """(G, D) means of the classes that have a row."""
        return self.sums[self.present] / self.counts[self.present, None]

    @property
    def covariance(self) -> Floats:
        """(D, D) covariance over all rows, divided by N."""
        mean = self.mean
        return self.outer / self.n - np.outer(mean, mean)

    @property
    def between(self) -> Floats:
        """(D, D) covariance of the class means as the rows have them: each class counts as often as it has rows."""
        less = (self.class_means - self.mean) * np.sqrt(self.counts[self.present] / self.n)[:, None]
        product: Floats = less.T @ less
        return product

    @cached_property
    def eigen(self) -> tuple[Floats, Floats]:
        """Eigenvalues (D,), none below 0, and eigenvectors (D, D), of the sum of outer products."""
        values, vectors = np.linalg.eigh(self.outer)
        return np.where(values > values.max(initial=0.0) * rounding(self.width), values, 0.0), vectors


def rounding(width: int) -> float:
    """Below this share of the largest eigenvalue of a sum of products one counts as 0."""
    return width * float(np.finfo(np.float64).eps) * 16
