"""Exact integer counts behind the class ranks, as tensor operations: on any device, and where numba is missing.

`rank_loops` has the same as compiled loops. Both give the same integers, so that every number built on them is the same
wherever it was computed. `rank_blocks` shows on one row what is counted, and defines `order`, `position`, `first`,
`last`, `mid`, `ties` and `nans`; here T teachers and n rows come first in their shapes.

**Discordant pairs.** The classes in one teacher's order are a sequence of positions in the other's, and its inversions
are counted. The leading bit splits the positions into halves: every one of the upper half that stands before one
of the lower half is an inversion; then each half, its sequence kept, is split by its next bit. These are log2 C rounds
of a running sum and a scatter, O(C log C) for any C, and no array is larger than the sequences. Of few classes the
signs of all differences are compared.

**Cost**, estimated: 45 pairs of 10 teachers on 50,000 rows of 1000 classes are 2.3e9 classes in a sequence, four times
over for the ties, in 10 rounds of about 100 bytes each: 9 TB, 3 to 5 seconds of an accelerator's memory at 2 to 3 TB/s.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._numerics.devices import to_numpy

Ints = NDArray[np.int64]

FEW_CLASSES = 64
MAX_CLASSES = (1 << 21) - 1  # that the compiled loops have bits for
_BITS = {torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


class TensorRanks:
    """Ranks of T teachers' (n, C) logits, which may differ in float type; counts come as NumPy integers.

    In all methods `pairs` is (P, 2), and `labels` (n,), all -1 where no class is left out.
    """

    def __init__(self, logits: list[Tensor]) -> None:
        self.order, self.position, self.first, self.last = (
            torch.stack(values) for values in zip(*map(_ranked, logits), strict=True)
        )
        self.shape = len(logits[0]), logits[0].shape[1]
        self.mid = self.first + self.last - self.order.shape[2]
        self.ties = to_numpy((self.last - self.first - 1).sum(2) // 2)
        self.nans = to_numpy(torch.stack([rows.isnan().sum(1) for rows in logits]))

    def target(self, labels: Ints) -> tuple[Ints, Ints, Ints]:
        """Where each row's target stands: position, first of its tie group, one past the last; (T, n) each."""
        of_target = (self._of_target(values, labels)[:, :, 0] for values in (self.position, self.first, self.last))
        position, first, last = map(to_numpy, of_target)
        return position, first, last

    def concordance(self, pairs: Ints) -> Ints:
        """Concordant minus discordant pairs of classes, (P, n).

        It is the mean over both ways to break each teacher's ties: a tied pair is concordant in half of them.
        """
        classes = self.order.shape[2]
        if classes <= FEW_CLASSES:
            return self._concordance_of_few(pairs)
        a, b = self._on_device(pairs.T)
        ways = self.position, self.first + self.last - 1 - self.position
        orders = [torch.empty_like(way).scatter_(2, way, self._classes.expand_as(way)) for way in ways]
        discordant = torch.stack([_inversions(way[b].gather(2, order[a])) for order in orders for way in ways])
        return to_numpy(classes * (classes - 1) // 2 - discordant.sum(0) // 2)

    def _concordance_of_few(self, pairs: Ints) -> Ints:
        """The same from the signs of all differences: products of teachers, exact in floats as C^2 < 2^24."""
        mid = self.mid.transpose(0, 1).float()
        left, right = torch.triu_indices(mid.shape[2], mid.shape[2], 1, device=mid.device)
        signs = (mid[..., left] - mid[..., right]).sign_()
        together = to_numpy(signs @ signs.mT).astype(np.int64)
        return np.ascontiguousarray(together[:, pairs[:, 0], pairs[:, 1]].T)

    def target_concordance(self, labels: Ints, pairs: Ints) -> Ints:
        """Return the part of `concordance` that the pairs (target, other class) make, (P, n)."""
        return self._products(self._against_target(labels), pairs)

    def rank_products(self, labels: Ints, pairs: Ints) -> Ints:
        """Sum over the classes but the target of products of the doubled, centred average ranks, (P, n)."""
        if (labels < 0).all():
            return self._products(self.mid, pairs)
        # leaving the target out moves a doubled, centred rank by one towards the target's
        moved = self.mid + self._against_target(labels)
        return self._products(moved.masked_fill(self._classes == self._on_device(labels)[:, None], 0), pairs)

    def shared_top(self, labels: Ints, pairs: Ints, k: int) -> Ints:
        """How many of their k top classes, the target left out, two teachers share, (P, n)."""
        top = self.order.flip(2)[:, :, : k + 1]
        is_member = top != self._on_device(labels)[:, None]
        is_member &= is_member.cumsum(2) <= k
        members = torch.zeros_like(self.order).scatter_(2, top, is_member.to(self.order.dtype))
        return self._products(members, pairs)

    @property
    def _classes(self) -> Tensor:
        return torch.arange(self.order.shape[2], device=self.order.device)

    def _on_device(self, counts: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(counts)).to(self.order.device)

    def _of_target(self, values: Tensor, labels: Ints) -> Tensor:
        """(T, n, 1)."""
        return values.gather(2, self._on_device(labels)[None, :, None].expand(len(values), -1, 1))

    def _against_target(self, labels: Ints) -> Tensor:
        """Sign of (target's rank - class's rank), (T, n, C)."""
        return (self._of_target(self.mid, labels) - self.mid).sign()

    def _products(self, values: Tensor, pairs: Ints) -> Ints:
        a, b = self._on_device(pairs.T)
        return to_numpy((values[a] * values[b]).sum(2))


def _ranked(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Order, position, first and last of one teacher."""
    bits = logits.view(_BITS[logits.dtype])
    most = torch.iinfo(bits.dtype).max
    size = bits & most
    keys = torch.where(bits < 0, -size, size).masked_fill(logits.isnan(), most)  # ascending as the floats, zeros alike
    classes = keys.shape[1]
    places = torch.arange(classes, device=keys.device)
    keys, reversed_class = keys.flip(1).sort(dim=1, stable=True)
    order = classes - 1 - reversed_class
    changes, always = keys[:, 1:] != keys[:, :-1], torch.ones_like(keys[:, :1], dtype=torch.bool)
    first = torch.where(torch.cat([always, changes], 1), places, 0).cummax(1).values
    last = torch.where(torch.cat([changes, always], 1), places + 1, classes).flip(1).cummin(1).values.flip(1)
    by_class = (torch.empty_like(order).scatter_(1, order, values) for values in (places.expand_as(order), first, last))
    position, first, last = by_class
    return order, position, first, last


def _inversions(sequence: Tensor) -> Tensor:
    """Pairs i < j with sequence[i] > sequence[j] in each row (..., C), an order of range(C)."""
    *lead, classes = sequence.shape
    half = 1 << max(0, classes - 1).bit_length() >> 1
    values = torch.arange(2 * half, dtype=torch.int32, device=sequence.device).repeat(*lead, 1)
    values[..., :classes] = sequence  # the filling up to a power of two is last and largest
    inversions = torch.zeros(lead, dtype=torch.int64, device=sequence.device)
    while half:
        values = values.view(*lead, -1, 2 * half)
        upper = (values & half) != 0
        before = upper.cumsum(-1, dtype=torch.int32)  # of the upper half, up to here
        inversions += before.masked_fill(upper, 0).sum((-2, -1))
        index = torch.arange(2 * half, device=values.device)
        values = torch.empty_like(values).scatter_(-1, torch.where(upper, before + (half - 1), index - before), values)
        half >>= 1
    return inversions
