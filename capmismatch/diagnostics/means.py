"""Means of values and their standard errors, as tables show them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def mean(values: NDArray[np.float64]) -> dict[str, float]:
    """value, se and n of a table; NaN where there is nothing to tell."""
    n = len(values)
    se = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return {"value": float(values.mean()) if n else math.nan, "se": se, "n": n}


class Means:
    """Mean and standard error of each row of (P, n) values that come in chunks, NaN left out (Chan's update)."""

    def __init__(self, rows: int) -> None:
        self.n, self.mean, self.square = np.zeros((3, rows))

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in more examples' values (K, n); NaN counts as missing."""
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
