"""Mean soft labels of classes: what class means, class affinities and within-class probes are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from capmismatch._numerics.cached import cached_property
from capmismatch._numerics.softmax import Softened, add_to_classes, compare_with_classes

SERIES_WITHIN = (
    1 / 16
)  # of log ratios: this near to 0, p log(p / m) - p + m comes from its series; as in `softmax_loops`


def mean_by_class(parts: Iterable[tuple[Sequence[Softened], Tensor]], sums: Tensor) -> Tensor:
    """Mean soft labels p of each class at T temperatures, from rows that come in parts.

    Parameters
    ----------
    parts : iterable of (sequence of Softened, Tensor of int)
        Of each part the same n rows at T temperatures, and which of G classes each row belongs to, (n,).
    sums : Tensor, shape (T, G, C)
        Zeros; filled and returned.

    Returns
    -------
    Tensor
        Shape (T, G, C); NaN for classes without rows.

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
    """How far the soft labels of N examples lie from the mean soft labels of their classes.

    Parameters
    ----------
    softened : Softened
        The examples.
    means : Tensor, shape (G, C)
        Mean soft labels of G classes.
    group : Tensor of int, shape (N,)
        Which of the G classes each example belongs to.
    counts : Tensor of int, shape (G,), optional
        How many examples the mean of each class was taken over, where these examples are among them.
    """

    def __init__(self, softened: Softened, means: Tensor, group: Tensor, counts: Tensor | None = None) -> None:
        self.softened, self.means, self.group, self.counts = softened, means, group, counts

    @classmethod
    def of_each(
        cls, softened: Sequence[Softened], means: Tensor, group: Tensor, counts: Tensor | None = None
    ) -> list[AroundClass]:
        """One per temperature, with means (T, G, C); the rows are read once."""
        around = [cls(rows, mean, group, counts) for rows, mean in zip(softened, means, strict=True)]
        if softened and softened[0].raw.compiled and not means.requires_grad:
            divergence, distance = compare_with_classes(softened, means, _log(means), means.argmax(2), group)
            for rows, *values in zip(around, divergence, distance, strict=True):
                rows.divergence, rows.squared_distance = values
        return around

    @property
    def scale(self) -> Tensor | None:
        """(N,) n / (n - 1) of an example's class, NaN where it is the only one; None where n is not known.

        An example lies nearer to a mean that it is part of: the expected squared distance is low by (n - 1) / n, the
        divergence to first order. With a single example both are 0, whatever the teacher.
        """
        if self.counts is None:
            return None
        n = self.counts.to(self.means.dtype)
        return torch.where(n > 1, n / (n - 1), torch.nan)[self.group]

    @property
    def mean(self) -> Tensor:
        """(N, C) mean soft label m of each example's class."""
        return self.means[self.group]

    @cached_property
    def difference(self) -> Tensor:
        """(N, C) p - m.

        Where p and m round to 1 their difference has no digits. As both add up to 1, it is minus the sum of the other
        differences; so the difference of the class of the largest m is always computed that way.
        """
        less = (self.softened.probs - self.mean).scatter(1, self._pivot, 0.0)
        return less.scatter(1, self._pivot, -less.sum(1, keepdim=True))

    @cached_property
    def divergence(self) -> Tensor:
        """(N,) KL(p || m), the sum of p log(p / m) - p + m >= 0, so that no digits cancel between classes."""
        p, m, less = self.softened.probs, self.mean, self.difference
        ratio = (less / m).gather(1, self._pivot).clamp_min(torch.finfo(m.dtype).eps - 1.0)
        d = (self.softened.log_probs - _log(self.means)[self.group]).scatter(1, self._pivot, ratio.log1p())
        near, nested = d.clamp(-SERIES_WITHIN, SERIES_WITHIN), torch.ones_like(d)
        for k in range(8, 2, -1):  # exp(-d) - 1 + d = d^2 / 2 (1 - d / 3 (1 - d / 4 (...)))
            nested = 1 - near / k * nested
        return torch.where(d.abs() < SERIES_WITHIN, p * near.square() / 2 * nested, p * d - less).sum(1)

    @cached_property
    def squared_distance(self) -> Tensor:
        """(N,) sum (p - m)^2."""
        return self.difference.square().sum(1)

    @property
    def _pivot(self) -> Tensor:
        """(N, 1) the class of the largest m."""
        return self.means.argmax(1)[self.group, None]


def _log(means: Tensor) -> Tensor:
    """Finite where a mean is 0."""
    return means.clamp_min(torch.finfo(means.dtype).tiny).log()
