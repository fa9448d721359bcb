"""Exact integer counts behind the class ranks, compiled by numba.

`capmismatch._rank_tensors` has the same as tensor operations, and says what `order`, `first`, `last` and `mid` are. The
loops are serial and release the interpreter's lock; they are compiled on first use and kept on disk.

**Spans.** A class's position, and the first of its tie group and one past its last, are packed in 21 bits each: one
gather instead of three is what the pair loop's speed hangs on.

**Sorting.** A row's values, brought linearly to [0, 65535], are sorted by two counting passes; an insertion sort by
the exact keys then moves the few classes that were too close. Rows that are not so tame (infinities, a few values far
from the others) are sorted by all bytes of their keys.

**Discordant pairs.** Teacher A's order is walked, and bits are set at teacher B's ranks: how many of those inserted so
far lie below a rank is a popcount in its word of 64 bits, plus a running count of the words below. Up to 1023 classes
the counts of 16 words are 16-bit lanes of four integers; above, they are the nodes of a tree, four children each: a
node holds, in three 21-bit lanes, how many lie below its second, third and fourth child.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._rank_tensors import MAX_CLASSES, Ints

FIELD = np.uint64(MAX_CLASSES)
LOW, HIGH, ONE = np.uint64(21), np.uint64(42), np.uint64(1)
_INFINITY = {2: 0x7C00, 4: 0x7F80_0000, 8: 0x7FF0 << 48}  # bit patterns of +inf by bytes a float

_compiled = njit(cache=True, nogil=True)
# What only other kernels call goes without the wrappers for calls from elsewhere: a fifth of the time to compile.
_bare: Any = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_part = njit(**_bare)
_inlined = njit(forceinline=True, **_bare)  # around calls that are not, numba counts references to their arrays

_SIX, _WORD, _BYTE = np.uint64(6), np.uint64(63), np.uint64(255)
_STEP = np.uint32(1)
_FIELDS = ONE | ONE << LOW | ONE << HIGH  # one in each field of a span, and in each lane of a node
_INSERTION_MAX = 24  # up to so many classes insertion sort beats the 256 buckets of a counting pass
_MOVES = 8  # of the insertion sort a class, before the row is sorted by its exact keys
_FLAT_MAX = 1023  # places 0..C lie in 16 words of 64 bits
_FEW_TIES = 8  # tied pairs a class up to which looking at each beats ordering them by both teachers


def _lane_steps() -> NDArray[np.uint64]:
    """Row w: what one more element in word w adds to the running counts of the words above it, 16 bits a word."""
    above = np.arange(16) > np.arange(16)[:, None]
    return above.astype("<u2").view("<u8").astype(np.uint64)


_LANES = _lane_steps()


def _count_bits(typing_context: Any, word: Any) -> Any:
    """Set bits of a 64-bit word, as the processor's own instruction."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


_popcount: Any = intrinsic(_count_bits)


@_part
def _sort_by_bytes(order: Any, keys: Any, spare: Any, counts: Any) -> None:
    """Sort the classes by `keys[class]`, byte after byte, the lowest first; ties in descending class index.

    One pass a row of `counts`, an even number: the last one writes to `order`.
    """
    counts[:] = 0
    for d in range(counts.shape[0]):
        shift = np.uint64(8 * d)
        for key in keys:
            counts[d, (key >> shift) & _BYTE] += _STEP
        start = np.uint32(0)
        for b in range(256):
            start, counts[d, b] = start + counts[d, b], start
    for i in range(order.size):
        order[i] = order.size - 1 - i
    source, drain = order, spare
    for d in range(counts.shape[0]):
        shift = np.uint64(8 * d)
        for c in source:
            bucket = (keys[c] >> shift) & _BYTE
            place = counts[d, bucket]
            drain[place] = c
            counts[d, bucket] = place + _STEP
        source, drain = drain, source


@_part
def _settle(order: Any, keys: Any, ranked: Any, moves: Any) -> Any:
    """Insertion sort of nearly sorted classes, their keys left in `ranked`; False if `moves` did not suffice."""
    highest = keys[order[0]]
    ranked[0] = highest
    for i in range(1, order.size):
        c = order[i]
        key = keys[c]
        if key >= highest:
            highest = key
            ranked[i] = key
            continue
        j = i
        while j > 0 and ranked[j - 1] > key:
            ranked[j], order[j] = ranked[j - 1], order[j - 1]
            j -= 1
        ranked[j], order[j] = key, c
        moves -= i - j
        if moves < 0:
            return False
    return True


@_part
def _place(order: Any, ranked: Any, spans: Any, mid: Any) -> Any:
    """Fill where each class stands, from the order and its keys; return the number of tied pairs."""
    classes = order.size
    span = ONE << HIGH
    for i in range(classes):
        c = order[i]
        spans[c] = span
        mid[c] = 2 * i + 1 - classes
        span += _FIELDS
    tied, last = 0, 0
    for i in range(1, classes):
        if ranked[i] == ranked[i - 1] and i >= last:
            first, last = i - 1, i + 1
            while last < classes and ranked[last] == ranked[i]:
                last += 1
            for j in range(first, last):
                c = order[j]
                spans[c] = np.uint64(j) | (np.uint64(first) << LOW) | (np.uint64(last) << HIGH)
                mid[c] = first + last - classes
            tied += (last - first) * (last - first - 1) // 2
    return tied


@_compiled
def _rank_rows(
    bits: Any, infinity: Any, values: Any, low: Any, scale: Any, order: Any, spans: Any, mid: Any, ties: Any, nans: Any
) -> None:
    n, classes = bits.shape
    sign_bit = np.uint64(8 * bits.itemsize - 1)
    sign = ONE << sign_bit
    keys = np.empty(classes, bits.dtype)
    rough = keys if bits.itemsize == 2 else np.empty(classes, bits.dtype)
    ranked = np.empty(classes, bits.dtype)
    spare = np.empty(classes, np.uint32)
    counts = np.empty((bits.itemsize, 256), np.uint32)
    for r in range(n):
        missing = 0
        for c in range(classes):
            word = np.uint64(bits[r, c])
            size = word & (sign - ONE)
            negative = word >> sign_bit
            # sign + size, or sign - size for negatives, without a branch: ascending as the floats, both zeros alike
            key = sign + ((size ^ (np.uint64(0) - negative)) + negative)
            keys[c] = sign + (sign - ONE) if size > infinity else key
            missing += size > infinity
        nans[r] = missing

        done = False
        if classes <= _INSERTION_MAX:
            for i in range(classes):
                order[r, i] = classes - 1 - i
            done = _settle(order[r], keys, ranked, classes * classes)
        elif scale[r] > 0:
            if bits.itemsize > 2:
                for c in range(classes):
                    rough[c] = np.int32((values[r, c] - low[r]) * scale[r])
            _sort_by_bytes(order[r], rough, spare, counts[:2])
            done = _settle(order[r], keys, ranked, _MOVES * classes)
        if not done:
            _sort_by_bytes(order[r], keys, spare, counts)
            for i in range(classes):
                ranked[i] = keys[order[r, i]]
        ties[r] = _place(order[r], ranked, spans[r], mid[r])


@_inlined
def _below(bits: Any, counts: Any, place: Any, lanes: Any) -> Any:
    """How many of the inserted places are less than `place`."""
    word = place >> _SIX
    inside: Any = _popcount(bits[word] & ((ONE << (place & _WORD)) - ONE))
    if lanes is not None:
        shift = (word & np.uint64(3)) << np.uint64(4)
        return inside + ((counts[0, word >> np.uint64(2)] >> shift) & np.uint64(65535))
    for level in range(counts.shape[0]):
        shift = np.uint64(63) - LOW * (word & np.uint64(3))
        word >>= np.uint64(2)
        inside += (counts[level, word] >> shift) & FIELD
    return inside


@_inlined
def _insert(bits: Any, counts: Any, place: Any, lanes: Any) -> None:
    word = place >> _SIX
    bits[word] |= ONE << (place & _WORD)
    if lanes is not None:
        counts[0, 0] += lanes[word, 0]
        counts[0, 1] += lanes[word, 1]
        counts[0, 2] += lanes[word, 2]
        counts[0, 3] += lanes[word, 3]
    else:
        for level in range(counts.shape[0]):
            shift = LOW * (word & np.uint64(3))
            word >>= np.uint64(2)
            counts[level, word] += _FIELDS >> shift


@_part
def _discordant(walk: Any, bits: Any, counts: Any, lanes: Any) -> Any:
    """Discordant pairs, as if the walked teacher had no ties (the other may)."""
    found: Any = 0
    for i in range(walk.size):
        found += i - np.int64(_below(bits, counts, walk[i] >> HIGH, lanes))
        _insert(bits, counts, walk[i] & FIELD, lanes)
    return found


@_part
def _within_ties(order: Any, walked: Any, walk: Any) -> Any:
    """Of the pairs tied with the walked teacher: those that `_discordant` counts, and those tied with both."""
    counted: Any = 0
    joint: Any = 0
    for i in range(order.size):
        first = np.int64((walked[order[i]] >> LOW) & FIELD)
        for j in range(first, i):
            counted += walk[j] & FIELD >= walk[i] >> HIGH
            joint += walk[j] >> LOW == walk[i] >> LOW
    return counted, joint


@_part
def _walk_by_both(order: Any, walked: Any, spans: Any, walk: Any, ends: Any, runs: Any) -> Any:
    """Fill `walk` in the walked teacher's order, its ties in the other's: `_discordant` then counts none of those.

    Goes through the other's `order` and puts each class behind what its tie group holds so far. Returns the pairs that
    are tied with both: there they come in runs.
    """
    for i in range(order.size):
        ends[i] = i
    joint: Any = 0
    for c in order:
        first = (walked[c] >> LOW) & FIELD
        end = ends[first]
        walk[end] = spans[c]
        runs[first] = runs[first] + 1 if end > first and walk[end - 1] >> LOW == walk[end] >> LOW else 0
        joint += runs[first]
        ends[first] = end + 1
    return joint


@_compiled
def _concordance(order: Any, spans: Any, ties: Any, pairs: Any, counts: Any, lanes: Any) -> Any:
    _, n, classes = order.shape
    bits = np.empty(classes // 64 + 1, np.uint64)
    walk = np.empty(classes, np.uint64)
    ends, runs = np.empty(classes, np.int64), np.empty(classes, np.int64)
    total = classes * (classes - 1) // 2
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        for p in range(pairs.shape[0]):
            a, b = pairs[p, 0], pairs[p, 1]
            if a == b:
                out[p, r] = total - ties[a, r]
                continue
            if ties[a, r] > ties[b, r]:
                a, b = b, a
            counted = joint = 0
            if ties[a, r] > _FEW_TIES * classes:
                joint = _walk_by_both(order[b, r], spans[a, r], spans[b, r], walk, ends, runs)
            else:
                for i in range(classes):
                    walk[i] = spans[b, r, order[a, r, i]]
                if ties[a, r]:
                    counted, joint = _within_ties(order[a, r], spans[a, r], walk)
            bits[:] = 0
            counts[:] = 0
            discordant = _discordant(walk, bits, counts, lanes) - counted
            out[p, r] = total - ties[a, r] - ties[b, r] + joint - 2 * discordant
    return out


@_compiled
def _target_concordance(mid: Any, labels: Any, pairs: Any) -> Any:
    _, n, classes = mid.shape
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        for p in range(pairs.shape[0]):
            left, right = mid[pairs[p, 0], r], mid[pairs[p, 1], r]
            x, y = left[labels[r]], right[labels[r]]
            found: Any = 0
            for c in range(classes):
                found += ((left[c] < x) - (left[c] > x)) * ((right[c] < y) - (right[c] > y))
            out[p, r] = found
    return out


@_compiled
def _rank_products(mid: Any, labels: Any, pairs: Any) -> Any:
    _, n, classes = mid.shape
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        for p in range(pairs.shape[0]):
            left, right = mid[pairs[p, 0], r], mid[pairs[p, 1], r]
            found: Any = 0
            if labels[r] < 0:
                for c in range(classes):
                    found += np.int64(left[c]) * np.int64(right[c])
            else:
                x, y = left[labels[r]], right[labels[r]]
                # leaving the target out moves a doubled, centred rank by one towards the target's
                for c in range(classes):
                    moved = left[c] + (left[c] < x) - (left[c] > x)
                    found += moved * (right[c] + (right[c] < y) - (right[c] > y))
                found -= np.int64(x) * np.int64(y)
            out[p, r] = found
    return out


@_compiled
def _shared_top(order: Any, spans: Any, labels: Any, pairs: Any, k: Any) -> Any:
    _, n, classes = order.shape
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        target = labels[r]
        for p in range(pairs.shape[0]):
            left, right = order[pairs[p, 0], r], spans[pairs[p, 1], r]
            lowest = classes - k
            if target >= 0 and np.int64(right[target] & FIELD) >= lowest:
                lowest -= 1
            found, taken, i = 0, 0, classes - 1
            while taken < k:
                c = left[i]
                if c != target:
                    taken += 1
                    found += np.int64(right[c] & FIELD) >= lowest
                i -= 1
            out[p, r] = found
    return out


class LoopRanks:
    """Ranks of T teachers' (n, C) logits, as `capmismatch._rank_tensors.TensorRanks`."""

    def __init__(self, logits: list[Tensor]) -> None:
        shape = (len(logits), *logits[0].shape)
        self.order, self.spans = np.empty(shape, np.uint32), np.empty(shape, np.uint64)
        self.mid = np.empty(shape, np.int32)
        self.ties, self.nans = np.empty(shape[:2], np.int64), np.empty(shape[:2], np.int64)
        for t, rows in enumerate(logits):
            self._rank(rows.numpy(), self.order[t], self.spans[t], self.mid[t], self.ties[t], self.nans[t])

    @staticmethod
    def _rank(floats: NDArray[Any], *ranks: NDArray[Any]) -> None:
        """Bring each row's values to [0, 65535], which sorts all but the close ones."""
        bits = floats.view(f"u{floats.itemsize}")
        low = scale = np.ones(len(floats), np.float32 if floats.itemsize == 2 else floats.dtype)
        if floats.itemsize > 2 and floats.shape[1] > _INSERTION_MAX:
            with np.errstate(all="ignore"):
                low = floats.min(axis=1)
                scale = 65535 / (floats.max(axis=1) - low)
            scale[~np.isfinite(scale)] = 0  # constant rows, infinities, NaN
        values = floats if floats.itemsize > 2 else bits
        _rank_rows(bits, np.uint64(_INFINITY[floats.itemsize]), values, low, scale, *ranks)

    def target(self, labels: Ints) -> tuple[Ints, Ints, Ints]:
        """Position, first of the tie group, one past its last."""
        spans = self.spans[:, np.arange(len(labels)), labels]
        parts = (spans & FIELD, (spans >> LOW) & FIELD, spans >> HIGH)
        return tuple(part.astype(np.int64) for part in parts)  # type: ignore[return-value]

    def concordance(self, pairs: Ints) -> Ints:
        """Choose the running counts by the number of classes."""
        words, lanes = self.order.shape[2] // 64 + 1, None
        counts = np.empty((-(-(words - 1).bit_length() // 2), words // 4 + 1), np.uint64)
        if self.order.shape[2] <= _FLAT_MAX:
            counts, lanes = np.empty((1, 4), np.uint64), _LANES
        return _concordance(self.order, self.spans, self.ties, pairs, counts, lanes)

    def target_concordance(self, labels: Ints, pairs: Ints) -> Ints:
        """Of the pairs (target, other class) alone."""
        return _target_concordance(self.mid, labels, pairs)

    def rank_products(self, labels: Ints, pairs: Ints) -> Ints:
        """Over the classes but the target."""
        return _rank_products(self.mid, labels, pairs)

    def shared_top(self, labels: Ints, pairs: Ints, k: int) -> Ints:
        """Of the k top classes, the target left out."""
        return _shared_top(self.order, self.spans, labels, pairs, k)
