r"""Condensed rows in place of logits: the sums over wrong tokens that `softmax.Softened` asks for.

With S(b) of `condensing`, K = V - 1 and b = 1 / tau, for f measured from the largest wrong logit,

.. math::

    \text{tail} = S(b) - 1, \qquad v(\tilde q) = \frac{S(2b)}{K S(b)^2} - \frac{1}{K^2}, \qquad
    \overline{f} = S'(b) / S(b).

Between two betas the logarithm of the tail's sum is the cubic in b with the kept values and slopes at both (Hermite).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from capmismatch._numerics.cached import cached_property
from capmismatch._numerics.condensing import Condensed
from capmismatch._numerics.softmax import Sums
from capmismatch.errors import InputError

SAME = 1e-9  # relative: betas that differ by less are one


@dataclass(frozen=True)
class CondensedParts:
    """Condensed rows, taken apart as `softmax.LogitParts` are; what needs all columns is refused.

    Attributes
    ----------
    labels, target_logit, max_wrong_logit, second_wrong_logit, top_wrong_class, mean_logit, logit_std, correct : Tensor
        As in `LogitParts`, shape (N,).
    head : Tensor, shape (N, k)
        Logits of the kept wrong tokens, less the largest.
    log_sum, slope : Tensor, shape (N, G)
        Of the tail, at each beta.
    betas : tuple of float
        The G inverse temperatures, ascending.
    wrong_classes : int
        K = V - 1.
    """

    labels: Tensor
    target_logit: Tensor
    max_wrong_logit: Tensor
    second_wrong_logit: Tensor
    top_wrong_class: Tensor
    mean_logit: Tensor
    logit_std: Tensor
    correct: Tensor
    head: Tensor
    log_sum: Tensor
    slope: Tensor
    betas: tuple[float, ...]
    wrong_classes: int

    @classmethod
    def of(cls, rows: Condensed, device: torch.device | None = None) -> CondensedParts:
        """Rows as tensors, in the widest float."""

        def wide(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.asarray(array, np.float64)).to(device)

        def whole(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.asarray(array, np.int64)).to(device)

        return cls(
            labels=whole(rows.labels),
            target_logit=wide(rows.target),
            max_wrong_logit=wide(rows.max_wrong),
            second_wrong_logit=wide(rows.second_wrong),
            top_wrong_class=whole(rows.ids[:, 0]),
            mean_logit=wide(rows.mean),
            logit_std=wide(rows.std),
            correct=wide(rows.label_rank == 0),
            head=wide(rows.below),
            log_sum=wide(rows.log_sum),
            slope=wide(rows.slope),
            betas=tuple(rows.betas.tolist()),
            wrong_classes=rows.vocabulary - 1,
        )

    def __getitem__(self, index: Tensor) -> CondensedParts:
        """Some of the rows."""
        of_rows = [field.name for field in fields(self) if field.name not in ("betas", "wrong_classes")]
        return replace(self, **{name: getattr(self, name)[index] for name in of_rows})

    @property
    def compiled(self) -> bool:
        """No compiled loop works on these rows."""
        return False

    @property
    def below(self) -> NoReturn:
        """Not kept."""
        raise needs_all_columns("what was asked for", self.head.shape[1], self.wrong_classes + 1)

    logits = below

    @property
    def wrong_logits(self) -> CondensedParts:
        """What the search of ISATS reads of the wrong tokens: these rows."""
        return self

    def sums_at(self, taus: Sequence[float | Tensor]) -> list[Sums]:
        """Sums over the wrong tokens at each temperature: a number, or (N,) with one per row."""
        return [self._sums(1 / tau) for tau in taus]

    def _sums(self, beta: float | Tensor) -> Sums:
        tail, slope = self.tail_at(beta)
        twice, _ = self.tail_at(2 * beta)
        e = (self.head * (beta[:, None] if isinstance(beta, Tensor) else beta)).exp()
        tail = tail.exp()
        total = e.sum(1) + tail
        squares = e.square().sum(1) + twice.exp()
        first = (e * self.head).sum(1) + slope * tail
        k = self.wrong_classes
        variance = (squares / (k * total.square()) - 1 / k**2).clamp_min(0.0)
        return Sums(e[:, 1:].sum(1) + tail, variance, first / total)

    def tail_at(self, beta: float | Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the tail's sum and its derivative, (N,) each, at inverse temperatures within the betas.

        Raises
        ------
        InputError
            The tail is not known there.
        """
        if not self._has_tail:
            return self.log_sum[:, 0], torch.zeros_like(self.log_sum[:, 0])
        self._must_be_known(beta)
        if not isinstance(beta, Tensor):
            kept = next((g for g, known in enumerate(self.betas) if is_kept(beta, [known])), None)
            if kept is not None:
                return self.log_sum[:, kept], self.slope[:, kept]
            beta = torch.full_like(self.target_logit, beta)
        return self._between(beta)

    @cached_property
    def _has_tail(self) -> bool:
        return self.head.shape[1] < self.wrong_classes

    def _must_be_known(self, beta: float | Tensor) -> None:
        least, most = self.betas[0] * (1 - SAME), self.betas[-1] * (1 + SAME)
        low, high = (float(beta.min()), float(beta.max())) if isinstance(beta, Tensor) and len(beta) else (beta, beta)
        if isinstance(low, Tensor) or (low >= least and high <= most):
            return
        span = f"between {1 / self.betas[-1]:g} and {1 / self.betas[0]:g}"
        raise InputError(
            f"expected temperatures whose sums over the vocabulary were kept, and half of them as well: {span}, got "
            f"{1 / (low if low < least else high):g}; condense with other betas for more"
        )

    def _between(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The Hermite cubic in beta, one beta per row."""
        betas = torch.tensor(self.betas, dtype=beta.dtype, device=beta.device)
        left = (torch.searchsorted(betas, beta.contiguous(), right=True) - 1).clamp(0, max(len(self.betas) - 2, 0))
        right = (left + 1).clamp_max(len(self.betas) - 1)
        width = betas[right] - betas[left]
        u = (beta - betas[left]) / torch.where(width > 0, width, 1.0)
        low, high = (self.log_sum.gather(1, at[:, None])[:, 0] for at in (left, right))
        start, end = (self.slope.gather(1, at[:, None])[:, 0] * width for at in (left, right))
        rise = high - low
        curve, bend = 3 * rise - 2 * start - end, start + end - 2 * rise
        value = low + u * (start + u * (curve + u * bend))
        slope = (start + u * (2 * curve + 3 * u * bend)) / torch.where(width > 0, width, 1.0)
        return value, slope


def is_kept(beta: float, betas: Sequence[float]) -> bool:
    """Whether an inverse temperature is among the betas.

    Examples
    --------
    >>> is_kept(1 / 8, (0.125, 0.25)), is_kept(1 / 1.5, (0.125, 0.25))
    (True, False)
    """
    return any(abs(known - beta) <= SAME * known for known in betas)


def needs_all_columns(what: str, k: int, vocabulary: int) -> InputError:
    """The one sentence for all that a condensed row cannot tell."""
    return InputError(
        f"{what} needs the logits of all {vocabulary} tokens: condensed rows keep the {k} likeliest wrong, and sums"
    )
