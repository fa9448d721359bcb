"""Mean soft labels of classes: what class means, class affinities and within-class probes are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from capmismatch._softened import Softened, add_to_classes, compare_with_classes


def mean_by_class(parts: Iterable[tuple[Sequence[Softened], Tensor]], sums: Tensor) -> Tensor:
    """Mean soft labels p of each class, (T, G, C), whatever the parts that its rows come in.

    Parameters
    ----------
    parts : T Softened of the same rows, and which of G classes each of the rows belongs to, (n,)
    sums : zeros (T, G, C), filled and returned; NaN for classes without rows

    Examples
    --------
    >>> softened = Softened([[0.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> mean_by_class([([softened], torch.tensor([1, 1]))], torch.zeros((1, 2, 2), dtype=torch.float64))
    tensor([[[   nan,    nan],
             [0.5000, 0.5000]]], dtype=torch.float64)
    """
    counts = sums.new_zeros(sums.shape[1])
    for softened, group in parts:
        add_to_classes(softened, group, sums)
        counts += torch.bincount(group, minlength=len(counts))
    return sums.div_(counts[:, None])


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
