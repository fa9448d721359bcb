"""Sums of rows by class: what class means, class affinities and within-class probes are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capmismatch._softened import Softened, compare_with_classes


@dataclass
class ClassMeans:
    """Sums and counts from which the mean of the rows of each class follows; feed it chunk by chunk.

    Attributes
    ----------
    sums : (C, C) row y holds the sum of the rows given for class y
    counts : (C,) how many rows each class got

    Examples
    --------
    >>> found = ClassMeans.empty(2)
    >>> found.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    >>> found.means
    tensor([[0.5000, 0.5000],
            [   nan,    nan]], dtype=torch.float64)
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, num_classes: int, dtype: torch.dtype = torch.float64) -> ClassMeans:
        """Nothing seen yet."""
        return cls(torch.zeros(num_classes, num_classes, dtype=dtype), torch.zeros(num_classes, dtype=dtype))

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Add rows (n, C) of the classes `labels` (n,), one after the other: the same sums whatever the chunks."""
        kept = rows.detach().to(self.sums)
        if kept.device.type == "cpu":  # torch's index_add_ takes 80 ns a number on the CPU, this takes 2
            _add_rows(self.sums.numpy(), labels.numpy(), kept.numpy())
        else:
            self.sums.index_add_(0, labels, kept)
        self.counts += torch.bincount(labels, minlength=len(self.counts)).to(self.counts)

    @property
    def means(self) -> Tensor:
        """(C, C), NaN in the rows of classes that were never seen."""
        return self.sums / self.counts[:, None]


class AroundClass:
    """How the soft labels of examples lie around the mean soft labels of their classes.

    Parameters
    ----------
    softened : of N examples
    means : (G, C) mean soft labels of G classes
    group : (N,) which of them is each example's
    """

    def __init__(self, softened: Softened, means: Tensor, group: Tensor) -> None:
        self.softened, self.means, self.group = softened, means, group

    @classmethod
    def of_each(cls, softened: Sequence[Softened], means: Tensor, group: Tensor) -> list[AroundClass]:
        """The same at T temperatures, means (T, G, C), for which the rows are read once."""
        found = [cls(part, mean, group) for part, mean in zip(softened, means, strict=True)]
        if softened and softened[0].raw.compiled:
            cross, distance = compare_with_classes(softened, means, _log(means), group)
            for part, *values in zip(found, cross, distance, strict=True):
                part.cross_entropy, part.squared_distance = values
        return found

    @property
    def mean(self) -> Tensor:
        """(N, C) mean soft label m of each example's class."""
        return self.means[self.group]

    @cached_property
    def cross_entropy(self) -> Tensor:
        """(N,) -sum p log m."""
        return -torch.einsum("nc,nc->n", self.softened.probs, _log(self.means)[self.group])

    @cached_property
    def squared_distance(self) -> Tensor:
        """(N,) sum (p - m)^2."""
        return (self.softened.probs - self.mean).square().sum(1)


def _log(means: Tensor) -> Tensor:
    """Finite where a mean is 0."""
    return means.clamp_min(torch.finfo(means.dtype).tiny).log()


def _row_adder() -> Callable[[Any, Any, Any], None]:
    try:
        from numba import njit
    except ImportError:
        return np.add.at

    @njit(cache=True, nogil=True)
    def add_rows(sums: Any, labels: Any, rows: Any) -> None:
        for i in range(len(labels)):
            sums[labels[i]] += rows[i]

    return add_rows


_add_rows = _row_adder()
