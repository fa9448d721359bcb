r"""Gradients of a student's last layer in closed form, summed over examples without holding them.

For logits :math:`z = W h + b` and the cross-entropy of :math:`p = \mathrm{softmax}(z)` against a target q, the gradient
of one example with respect to W and b is the outer product :math:`(p - q) \otimes (h, 1)`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SKETCH = 512
"""How many random projections of a gradient are kept, where it has more numbers."""

SPLITS = 10
HELD_OUT = 0.1  # share of the examples in each split
SMOOTHED = 1e-3  # of the eigenvalues, toward their mean


def with_ones(features: NDArray[np.floating]) -> Floats:
    """(n, D + 1) features, and the constant that the bias sees."""
    wide = np.empty((len(features), features.shape[1] + 1))
    wide[:, :-1], wide[:, -1] = features, 1.0
    return wide


class GradientSketch:
    """Gradients of the last layer as vectors of at most `SKETCH` numbers, divided by the root of how many they have.

    Where there are more, each number is the inner product with random signs: the product of a sign for the class and
    one for the feature, so that neither the gradient nor the signs are ever written out.

    Parameters
    ----------
    classes, width : int
        C, and D + 1.
    seed : int
        Of the signs.
    """

    def __init__(self, classes: int, width: int, seed: int = 0) -> None:
        self.size, self.scale = min(SKETCH, classes * width), math.sqrt(classes * width)
        self._signs: tuple[Floats, Floats] | None = None
        if classes * width > SKETCH:
            draws = np.random.default_rng(seed)
            of_classes, of_features = (draws.choice([-1.0, 1.0], (count, SKETCH)) for count in (classes, width))
            self._signs = of_classes, of_features

    def __call__(self, residuals: Floats, features: Floats) -> Floats:
        """(n, size) of residuals p - q (n, C) and features with a constant (n, D + 1)."""
        if self._signs is None:
            return np.einsum("nc,nd->ncd", residuals, features).reshape(len(residuals), -1) / self.scale
        product: Floats = (residuals @ self._signs[0]) * (features @ self._signs[1]) / self.scale
        return product


class GraceSums:
    r"""Mean over random splits of :math:`\mathrm{tr}(S_{train}^{-1} S_{test})`, from rows that come in chunks.

    :math:`S` are means of outer products of gradients, those for training scaled to length 1 first; the eigenvalues of
    :math:`S_{train}` are drawn toward their mean by `SMOOTHED`.

    Parameters
    ----------
    groups : ndarray of int, shape (n,)
        Number of what each example belongs to, from 0: what is held out is held out whole.
    size : int
        Of the gradients.
    seed : int
        Of the splits.
    """

    def __init__(self, groups: NDArray[np.int64], size: int, seed: int = 0) -> None:
        count = int(groups.max(initial=-1)) + 1
        least = min(max(1, round(HELD_OUT * count)), max(count - 1, 0))
        draws = np.random.default_rng(seed)
        held = np.zeros((SPLITS, count), dtype=bool)
        for split in held:
            split[draws.permutation(count)[:least]] = True
        self._held, self._count = held[:, groups], count
        self._all = np.zeros((size, size))
        self._test, self._test_scaled = np.zeros((2, SPLITS, size, size))

    def add(self, rows: slice, gradients: Floats) -> None:
        """Take in the gradients (n, size) of some rows."""
        lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
        scaled = np.divide(gradients, lengths, out=np.zeros_like(gradients), where=lengths > 0)
        self._all += scaled.T @ scaled
        for split, held in enumerate(self._held[:, rows]):
            if held.any():
                self._test[split] += gradients[held].T @ gradients[held]
                self._test_scaled[split] += scaled[held].T @ scaled[held]

    @property
    def value(self) -> float:
        """The mean over the splits; NaN with fewer than two groups, or where no example has a gradient."""
        if self._count < 2:
            return math.nan
        traces, size = [], len(self._all)
        for held, test, test_scaled in zip(self._held, self._test, self._test_scaled, strict=True):
            train = (self._all - test_scaled) / (~held).sum()
            average = np.trace(train) / size
            if average <= 0:
                return math.nan
            train = (1 - SMOOTHED) * train + SMOOTHED * average * np.eye(size)
            traces.append(float(np.trace(np.linalg.solve(train, test / held.sum()))))
        return float(np.mean(traces))
