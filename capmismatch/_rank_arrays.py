"""Exact integer counts behind the class ranks in plain NumPy: what runs where numba is missing.

`capmismatch._rank_kernels` holds the same functions compiled. Both give the same integers, so that every number built
on them is the same whichever ran; `capmismatch._rank_blocks` calls them on blocks of rows in threads.

A row of C classes is sorted once, and everything else reads what that left:

* `order[i]`: the class at ascending position i, NaN last; tied classes stand in descending class index, so that reading
  from the end breaks ties by ascending class index.
* `spans[c]`: position of class c, first position of its tie group, and the position after the group's last, packed
  in 21 bits each. One gather instead of three is what the pair loop's speed hangs on.
* `mid[c]`: twice the average rank of class c, minus its mean: an integer, 0 in the middle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]

FIELD_BITS = 21
MAX_CLASSES = (1 << FIELD_BITS) - 1
FIELD = np.uint64(MAX_CLASSES)
LOW, HIGH = np.uint64(FIELD_BITS), np.uint64(2 * FIELD_BITS)
ONE = np.uint64(1)
_INFINITY = {2: 0x7C00, 4: 0x7F80_0000, 8: 0x7FF0 << 48}  # bit patterns of +inf by bytes a float


def unpack(spans: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Position, first of the tie group, one past its last."""
    fields = (spans & FIELD, (spans >> LOW) & FIELD, spans >> HIGH)
    return tuple(field.astype(np.int64) for field in fields)  # type: ignore[return-value]


def bits_of(floats: NDArray[np.floating[Any]]) -> tuple[NDArray[np.unsignedinteger[Any]], np.uint64]:
    """Bit patterns of floats, and that of +inf."""
    return floats.view(f"u{floats.itemsize}"), np.uint64(_INFINITY[floats.itemsize])


class NumpyBackend:
    """Vectorised over rows; `pairs` is (P, 2) int64, `labels` (n,) int64, -1 throughout for leaving no class out."""

    @staticmethod
    def rank_rows(floats: Any, order: Ints, spans: Ints, mid: Ints, ties: Ints, nans: Ints) -> None:
        """Fill one teacher's (n, C) ranks from its logits."""
        bits, infinity = bits_of(floats)
        n, classes = bits.shape
        sign = ONE << np.uint64(8 * bits.itemsize - 1)
        wide = bits.astype(np.uint64)
        size = wide & (sign - ONE)
        keys = np.where(wide & sign, sign - size, sign + size)
        is_nan = size > infinity
        keys[is_nan] = np.iinfo(np.uint64).max
        nans[:] = is_nan.sum(axis=1)

        order[:] = classes - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable")
        keys = np.take_along_axis(keys, order, axis=1)
        edges = np.ones((n, classes + 1), dtype=bool)
        edges[:, 1:-1] = keys[:, 1:] != keys[:, :-1]
        places = np.arange(classes + 1)
        first = np.maximum.accumulate(np.where(edges[:, :-1], places[:-1], 0), axis=1)
        last = np.minimum.accumulate(np.where(edges[:, 1:], places[1:], classes)[:, ::-1], axis=1)[:, ::-1]
        packed = (places[:-1] | first << FIELD_BITS | last << 2 * FIELD_BITS).astype(np.uint64)
        np.put_along_axis(spans, order, packed, axis=1)
        np.put_along_axis(mid, order, (first + last - classes).astype(np.int32), axis=1)
        ties[:] = (last - first - 1).sum(axis=1) // 2

    @staticmethod
    def concordance(order: Ints, spans: Ints, ties: Ints, pairs: Ints) -> NDArray[np.int64]:
        """Concordant minus discordant pairs of classes, (P, n).

        Knight's algorithm (JASA 1966): sort by a, then b; count b's inversions while merging.
        """
        classes = order.shape[2]
        firsts = [unpack(teacher)[1] for teacher in spans]
        out = np.empty((len(pairs), order.shape[1]), np.int64)
        for p, (a, b) in enumerate(pairs):
            both = np.sort(firsts[a] * classes + firsts[b], axis=1)
            starts = np.ones((both.shape[0], classes), dtype=bool)
            starts[:, 1:] = both[:, 1:] != both[:, :-1]
            places = np.arange(classes)
            joint = (places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)).sum(axis=1)
            total = classes * (classes - 1) // 2
            out[p] = total - ties[a] - ties[b] + joint - 2 * _inversions(both % classes)
        return out

    @staticmethod
    def target_concordance(mid: Ints, labels: Ints, pairs: Ints) -> NDArray[np.int64]:
        """Return the part of `concordance` that the pairs (target, other class) make, (P, n)."""
        signs = _signs_against_target(mid, labels)
        return np.stack([(signs[a] * signs[b]).sum(axis=1) for a, b in pairs])

    @staticmethod
    def rank_products(mid: Ints, labels: Ints, pairs: Ints) -> NDArray[np.int64]:
        """Sum over the classes but the target of products of the doubled, centred average ranks, (P, n)."""
        values = mid.astype(np.int64)
        if (labels >= 0).all():
            values += _signs_against_target(mid, labels)
            values[:, np.arange(len(labels)), labels] = 0
        return np.stack([(values[a] * values[b]).sum(axis=1) for a, b in pairs])

    @staticmethod
    def shared_top(order: Ints, spans: Ints, labels: Ints, pairs: Ints, k: int) -> NDArray[np.int64]:
        """How many of their k top classes, the target left out, two teachers share, (P, n)."""
        top = order[:, :, ::-1][:, :, : k + 1]
        kept = np.where(labels[:, None] == top, 0, 1)
        kept *= np.cumsum(kept, axis=2) <= k
        members = np.zeros(order.shape, dtype=bool)
        np.put_along_axis(members, top, kept.astype(bool), axis=2)
        return np.stack([(members[a] & members[b]).sum(axis=1) for a, b in pairs])


def _signs_against_target(mid: Ints, labels: Ints) -> NDArray[np.int64]:
    """Sign of (target's rank - class's rank), (T, n, C)."""
    target = mid[:, np.arange(len(labels)), labels].astype(np.int64)
    return np.sign(target[:, :, None] - mid)


def _inversions(values: Ints) -> NDArray[np.int64]:
    """Pairs i < j with values[i] > values[j] in each row, by merging blocks bottom up."""
    n, classes = values.shape
    length = 1 << max(0, classes - 1).bit_length()
    runs = np.full((n, length), classes, np.int64)
    runs[:, :classes] = values
    count = np.zeros(n, np.int64)
    width = 1
    while width < length:
        runs = runs.reshape(n, length // (2 * width), 2 * width)
        merged = np.argsort(runs, axis=2, kind="stable")
        # where the right half's elements land tells how many of the left half's are not greater
        landed = np.where(merged >= width, np.arange(2 * width), 0).sum(axis=(1, 2))
        not_greater = landed - (length // (2 * width)) * (width * (width - 1) // 2)
        count += (length // (2 * width)) * width * width - not_greater
        runs = np.take_along_axis(runs, merged, axis=2)
        width *= 2
    return count
