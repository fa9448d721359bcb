"""Exact integer counts behind the class ranks, twice: compiled by numba, and in plain NumPy where numba is missing.

Both give the same integers, so that every number built on them is the same whichever ran. The compiled functions are
serial and release the GIL; `capmismatch.ranks` runs them on blocks of rows in threads.

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

try:
    from numba import njit, types
    from numba.extending import intrinsic
except ImportError:  # the NumPy functions stand in
    njit = None  # type: ignore[assignment]

Ints = NDArray[Any]

FIELD_BITS = 21
MAX_CLASSES = (1 << FIELD_BITS) - 1
_FIELD = np.uint64(MAX_CLASSES)
_LOW, _HIGH = np.uint64(FIELD_BITS), np.uint64(2 * FIELD_BITS)

_ONE, _SIX, _WORD, _BYTE = np.uint64(1), np.uint64(6), np.uint64(63), np.uint64(255)
_INSERTION_MAX = 24  # below this many classes insertion sort beats the 256 buckets of a radix pass
_FLAT_MAX = 1023  # places 0..C lie in 16 words of 64 bits, whose running counts are 16-bit lanes of four integers


def _lane_steps() -> NDArray[np.uint64]:
    """Row w: what one more element in word w adds to the running counts of the words above it, 16 bits a word."""
    above = np.arange(16) > np.arange(16)[:, None]
    return above.astype("<u2").view("<u8").astype(np.uint64)


_LANES = _lane_steps()


def unpack(spans: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Position, first of the tie group, one past its last."""
    fields = (spans & _FIELD, (spans >> _LOW) & _FIELD, spans >> _HIGH)
    return tuple(field.astype(np.int64) for field in fields)  # type: ignore[return-value]


# --------------------------------------------------------------------------------------------------------------- NumPy


class NumpyBackend:
    """Vectorised over rows; `pairs` is (P, 2) int64, `labels` (n,) int64, -1 throughout for leaving no class out."""

    @staticmethod
    def rank_rows(bits: Ints, infinity: np.uint64, order: Ints, spans: Ints, mid: Ints, ties: Ints, nans: Ints) -> None:
        """Fill one teacher's (n, C) ranks from the bit patterns of its logits; `infinity` is +inf's."""
        n, classes = bits.shape
        sign = _ONE << np.uint64(8 * bits.itemsize - 1)
        wide = bits.astype(np.uint64)
        size = wide & (sign - _ONE)
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


# --------------------------------------------------------------------------------------------------------------- numba

if njit is not None:

    def _count_bits(typing_context: Any, word: Any) -> Any:
        """Set bits of a 64-bit word, as the processor's own instruction."""
        return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])

    _popcount: Any = intrinsic(_count_bits)

    @njit(cache=True, nogil=True)
    def _sort_classes(order: Any, keys: Any, spare: Any, counts: Any) -> None:
        """Stable sort of the classes in `order` by `keys[class]`: by bytes, lowest first."""
        if order.size <= _INSERTION_MAX:
            for i in range(1, order.size):
                moved = order[i]
                j = i
                while j > 0 and keys[order[j - 1]] > keys[moved]:
                    order[j] = order[j - 1]
                    j -= 1
                order[j] = moved
            return
        counts[:] = 0
        for key in keys:
            for d in range(counts.size // 256):
                counts[np.uint64(256 * d) + ((key >> np.uint64(8 * d)) & _BYTE)] += _ONE
        source, drain = order, spare
        for d in range(counts.size // 256):  # an even number of passes: the last one writes to `order`
            start = np.uint64(0)
            for b in range(256 * d, 256 * d + 256):
                start, counts[b] = start + counts[b], start
            for i in range(order.size):
                c = source[i]
                bucket = np.uint64(256 * d) + ((keys[c] >> np.uint64(8 * d)) & _BYTE)
                place = counts[bucket]
                drain[place] = c
                counts[bucket] = place + _ONE
            source, drain = drain, source

    @njit(cache=True, nogil=True)
    def _rank_rows(bits: Any, infinity: Any, order: Any, spans: Any, mid: Any, ties: Any, nans: Any) -> None:
        n, classes = bits.shape
        sign_bit = np.uint64(8 * bits.itemsize - 1)
        sign = _ONE << sign_bit
        keys = np.empty(classes, np.uint64)
        spare = np.empty(classes, np.uint32)
        counts = np.empty(256 * bits.itemsize, np.uint64)
        for r in range(n):
            ranked = order[r]
            missing = 0
            for c in range(classes):
                word = np.uint64(bits[r, c])
                size = word & (sign - _ONE)
                negative = word >> sign_bit
                # sign + size, or sign - size for negatives, without a branch: ascending as the floats, both zeros alike
                key = sign + ((size ^ (np.uint64(0) - negative)) + negative)
                keys[c] = sign + (sign - _ONE) if size > infinity else key
                missing += size > infinity
                ranked[classes - 1 - c] = c
            nans[r] = missing
            _sort_classes(ranked, keys, spare, counts)

            last, above = classes, keys[ranked[classes - 1]]
            for i in range(classes - 1, -1, -1):
                key = keys[ranked[i]]
                last = i + 1 if key != above else last
                above = key
                spare[i] = last
            first, below, tied = 0, keys[ranked[0]], 0
            for i in range(classes):
                c = ranked[i]
                key = keys[c]
                first = i if key != below else first
                below = key
                last = np.int64(spare[i])
                spans[r, c] = np.uint64(i) | (np.uint64(first) << _LOW) | (np.uint64(last) << _HIGH)
                mid[r, c] = first + last - classes
                tied += i - first
            ties[r] = tied

    @njit(cache=True, nogil=True)
    def _below(bits: Any, counts: Any, place: Any, lanes: Any) -> Any:
        """How many of the inserted places are less than `place`."""
        word = place >> _SIX
        inside: Any = _popcount(bits[word] & ((_ONE << (place & _WORD)) - _ONE))
        if lanes is not None:
            shift = (word & np.uint64(3)) << np.uint64(4)
            return inside + ((counts[word >> np.uint64(2)] >> shift) & np.uint64(65535))
        while word:
            inside += counts[word]
            word &= word - _ONE
        return inside

    @njit(cache=True, nogil=True)
    def _insert(bits: Any, counts: Any, place: Any, lanes: Any) -> None:
        word = place >> _SIX
        bits[word] |= _ONE << (place & _WORD)
        if lanes is not None:
            counts[0] += lanes[word, 0]
            counts[1] += lanes[word, 1]
            counts[2] += lanes[word, 2]
            counts[3] += lanes[word, 3]
        else:  # a Fenwick tree over the words
            word += _ONE
            while word < counts.size:
                counts[word] += _ONE
                word += word & (~word + _ONE)

    @njit(cache=True, nogil=True)
    def _discordant_without_ties(order: Any, spans: Any, bits: Any, counts: Any, lanes: Any) -> Any:
        """Discordant pairs where the walked teacher has no ties (the other may)."""
        found: Any = 0
        for i in range(order.size):
            span = spans[order[i]]
            found += i - np.int64(_below(bits, counts, span >> _HIGH, lanes))
            _insert(bits, counts, span & _FIELD, lanes)
        return found

    @njit(cache=True, nogil=True)
    def _discordant_and_joint(
        order: Any, walked: Any, spans: Any, bits: Any, counts: Any, lanes: Any, seen: Any
    ) -> Any:
        """Discordant pairs, and pairs tied with both teachers: a tie group is queried before it is inserted."""
        found: Any = 0
        joint: Any = 0
        first: Any = 0
        while first < order.size:
            last = np.int64(walked[order[first]] >> _HIGH)
            for i in range(first, last):
                found += first - np.int64(_below(bits, counts, spans[order[i]] >> _HIGH, lanes))
            for i in range(first, last):
                _insert(bits, counts, spans[order[i]] & _FIELD, lanes)
            if last > first + 1:
                for i in range(first, last):
                    group = (spans[order[i]] >> _LOW) & _FIELD
                    joint += seen[group]
                    seen[group] += 1
                for i in range(first, last):
                    seen[(spans[order[i]] >> _LOW) & _FIELD] = 0
            first = last
        return found, joint

    @njit(cache=True, nogil=True)
    def _concordance(order: Any, spans: Any, ties: Any, pairs: Any, lanes: Any) -> Any:
        _, n, classes = order.shape
        words = classes // 64 + 1
        bits = np.empty(words, np.uint64)
        counts = np.empty(4 if lanes is not None else words + 1, np.uint64)
        seen = np.zeros(classes, np.int32)
        total = classes * (classes - 1) // 2
        out = np.empty((pairs.shape[0], n), np.int64)
        for r in range(n):
            for p in range(pairs.shape[0]):
                a, b = pairs[p, 0], pairs[p, 1]
                if a == b:
                    out[p, r] = total - ties[a, r]
                    continue
                if ties[a, r] and not ties[b, r]:
                    a, b = b, a
                bits[:] = 0
                counts[:] = 0
                joint = 0
                if ties[a, r]:
                    found, joint = _discordant_and_joint(
                        order[a, r], spans[a, r], spans[b, r], bits, counts, lanes, seen
                    )
                else:
                    found = _discordant_without_ties(order[a, r], spans[b, r], bits, counts, lanes)
                out[p, r] = total - ties[a, r] - ties[b, r] + joint - 2 * found
        return out

    @njit(cache=True, nogil=True)
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

    @njit(cache=True, nogil=True)
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

    @njit(cache=True, nogil=True)
    def _shared_top(order: Any, spans: Any, labels: Any, pairs: Any, k: Any) -> Any:
        _, n, classes = order.shape
        out = np.empty((pairs.shape[0], n), np.int64)
        for r in range(n):
            target = labels[r]
            for p in range(pairs.shape[0]):
                left, right = order[pairs[p, 0], r], spans[pairs[p, 1], r]
                lowest = classes - k
                if target >= 0 and np.int64(right[target] & _FIELD) >= lowest:
                    lowest -= 1
                found, taken, i = 0, 0, classes - 1
                while taken < k:
                    c = left[i]
                    if c != target:
                        taken += 1
                        found += np.int64(right[c] & _FIELD) >= lowest
                    i -= 1
                out[p, r] = found
        return out

    class NumbaBackend:
        """Compiled on first use, kept on disk by numba."""

        rank_rows = staticmethod(_rank_rows)
        target_concordance = staticmethod(_target_concordance)
        rank_products = staticmethod(_rank_products)
        shared_top = staticmethod(_shared_top)

        @staticmethod
        def concordance(order: Ints, spans: Ints, ties: Ints, pairs: Ints) -> NDArray[np.int64]:
            """Choose the running counts by the number of classes."""
            return _concordance(order, spans, ties, pairs, _LANES if order.shape[2] <= _FLAT_MAX else None)
