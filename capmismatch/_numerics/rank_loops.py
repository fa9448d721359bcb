"""Exact integer counts behind the class ranks, compiled by numba.

`rank_tensors` has the same as tensor operations; `rank_blocks` shows on one row what is counted, and defines `order`,
`position`, `first`, `last` and `mid`. The loops are serial and release the interpreter's lock; they are compiled on
first use and cached on disk.

**Spans.** A class's position, and the first of its tie group and one past its last, are packed in 21 bits each: one
gather instead of three, on which the speed of the pair loop depends. Class 2 of teacher A there: 3 | 2 << 21 | 4 << 42.

**Sorting.** A class and its key, an integer that ascends as the float, are packed into one word, and NumPy sorts the
words: it does so with the processor's vector instructions, several times as fast as any `argsort`. The lower bits count
classes from the last, so that ties come in descending class index::

    16 bits a float, up to 65,536 classes   key 16 | class 16
    16 and 32 bits                          key 32 | class 21
    64 bits, first                          lower part of the key 43 | class 21
    64 bits, then                           upper part of the key 21 | rank of the lower part 21 | class 21

**Discordant pairs.** Teacher A's order is walked, and bits are set at teacher B's positions: how many of those inserted
so far lie at a position or above is a popcount in its word of 64 bits, plus a running count of the words
above: nodes of a tree, four children each, that hold, in three 21-bit lanes, how many lie below their second, third and
fourth child. `rank_flat` has a quicker way for 64 to 1023 classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from capmismatch._numerics.rank_tensors import MAX_CLASSES, Ints

FIELD = np.uint64(MAX_CLASSES)
LOW, HIGH, ONE = np.uint64(21), np.uint64(42), np.uint64(1)
_INFINITY = {2: 0x7C00, 4: 0x7F80_0000, 8: 0x7FF0 << 48}  # bit patterns of +inf by bytes a float

compiled = njit(cache=True, nogil=True)
# Kernels that only other kernels call have no wrappers for calls from Python: a fifth of the time to compile.
_bare: Any = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = njit(**_bare)
_inlined = njit(forceinline=True, **_bare)  # around calls that are not inlined, numba counts references to their arrays

_SIX, _WORD = np.uint64(6), np.uint64(63)
_LOWER = (ONE << np.uint64(43)) - ONE  # the bits of a double's key that fit above a class
_FIELDS = ONE | ONE << LOW | ONE << HIGH  # one in each field of a span, and in each lane of a node
_FEW_TIES = 8  # tied pairs a class up to which looking at each beats ordering them by both teachers


def _count_bits(typing_context: Any, word: Any) -> Any:
    """Set bits of a 64-bit word, as the processor's own instruction."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


_popcount: Any = intrinsic(_count_bits)


@_inlined
def _key(word: Any, infinity: Any, sign_bit: Any) -> Any:
    """Integer that ascends as the float of these bits, both zeros alike, every NaN the same and above infinity's."""
    sign = ONE << sign_bit
    size = word & (sign - ONE)
    negative = word >> sign_bit
    # sign + size, or sign - size for negatives, without a branch
    return sign + (sign - ONE) if size > infinity else sign + ((size ^ (np.uint64(0) - negative)) + negative)


@compiled
def _pack(bits: Any, infinity: Any, low: Any, shift: Any, words: Any, nans: Any) -> None:
    """Fill words with the bits `low` of each key above `shift` bits for the class, and count NaNs."""
    n, teachers, classes = bits.shape
    sign_bit = np.uint64(8 * bits.itemsize - 1)
    for r in range(n):
        for t in range(teachers):
            missing = 0
            for c in range(classes):
                word = np.uint64(bits[r, t, c])
                last = classes - 1 - c  # the last class stands first: a stable sort leaves ties as they are
                words[r, t, last] = (_key(word, infinity, sign_bit) & low) << shift | np.uint64(last)
                missing += word & ((ONE << sign_bit) - ONE) > infinity
            nans[r, t] = missing


@compiled
def _pack_again(bits: Any, infinity: Any, low: Any, words: Any) -> None:
    """Turn words sorted by the lower part of their keys into those that sort by the whole."""
    n, teachers, classes = bits.shape
    sign_bit = np.uint64(8 * bits.itemsize - 1)
    for r in range(n):
        for t in range(teachers):
            rank, before = np.uint64(0), words[r, t, 0] >> LOW
            for i in range(classes):
                word = words[r, t, i]
                rank += np.uint64(word >> LOW != before)
                before = word >> LOW
                c = classes - 1 - np.int64(word & FIELD)
                high = _key(np.uint64(bits[r, t, c]), infinity, sign_bit) & ~low
                words[r, t, i] = high >> np.uint64(1) | rank << LOW | word & FIELD


@part
def _place_ties(words: Any, shift: Any, order: Any, spans: Any, mid: Any, repeats: Any) -> Any:
    """Widen the spans of tied classes; list the positions of those that repeat another; return how many pairs tie."""
    classes, tied, last, repeated = order.size, 0, 0, 0
    for i in range(1, classes):
        if np.uint64(words[i] ^ words[i - 1]) >> shift == 0 and i >= last:
            first, last = i - 1, i + 1
            while last < classes and np.uint64(words[last] ^ words[i]) >> shift == 0:
                last += 1
            for j in range(first, last):
                c = order[j]
                spans[c] = np.uint64(j) | (np.uint64(first) << LOW) | (np.uint64(last) << HIGH)
                mid[c] = first + last - classes
                repeats[repeated] = j
                repeated += j > first
            tied += (last - first) * (last - first - 1) // 2
    repeats[repeated] = 0  # no repeat stands first: here the list ends
    return tied


@compiled
def _place(words: Any, shift: Any, order: Any, spans: Any, mid: Any, ties: Any, repeats: Any) -> None:
    """Fill where each class stands, from the sorted words, and the number of tied pairs."""
    n, teachers, classes = words.shape
    mask = (ONE << shift) - ONE
    for r in range(n):
        for t in range(teachers):
            span = ONE << HIGH
            for i in range(classes):
                c = np.uint32(classes - 1 - np.int64(np.uint64(words[r, t, i]) & mask))
                order[r, t, i] = c
                spans[r, t, c] = span
                mid[r, t, c] = 2 * i + 1 - classes
                span += _FIELDS
            ties[r, t] = _place_ties(words[r, t], shift, order[r, t], spans[r, t], mid[r, t], repeats[r, t])


@_inlined
def _below(bits: Any, counts: Any, position: Any) -> Any:
    """How many of the inserted positions are less than `position`."""
    word = position >> _SIX
    inside: Any = _popcount(bits[word] & ((ONE << (position & _WORD)) - ONE))
    for level in range(counts.shape[0]):
        shift = np.uint64(63) - LOW * (word & np.uint64(3))
        word >>= np.uint64(2)
        inside += (counts[level, word] >> shift) & FIELD
    return inside


@_inlined
def _insert(bits: Any, counts: Any, position: Any) -> None:
    """Set the bit of a position and raise the running counts of the words above."""
    word = position >> _SIX
    bits[word] |= ONE << (position & _WORD)
    for level in range(counts.shape[0]):
        shift = LOW * (word & np.uint64(3))
        word >>= np.uint64(2)
        counts[level, word] += _FIELDS >> shift


@part
def _discordant(order: Any, spans: Any, bits: Any, counts: Any) -> Any:
    """Discordant pairs, as if the teacher whose order is walked had no ties (the other may)."""
    inversions: Any = 0
    for i in range(order.size):
        span = spans[order[i]]
        inversions += i - np.int64(_below(bits, counts, span >> HIGH))
        _insert(bits, counts, span & FIELD)
    return inversions


@_inlined
def _discordant_of_few(order: Any, spans: Any) -> Any:
    """The same for up to 63 classes, whose positions are the bits of one word."""
    inversions: Any = 0
    inserted = np.uint64(0)
    for i in range(order.size):
        span = spans[order[i]]
        inversions += i - np.int64(_popcount(inserted & ((ONE << (span >> HIGH)) - ONE)))
        inserted |= ONE << (span & FIELD)
    return inversions


@part
def _within_ties(repeats: Any, order: Any, walked: Any, spans: Any) -> Any:
    """Of the pairs tied with the walked teacher: those that `_discordant` counts, and those tied with both."""
    counted: Any = 0
    joint: Any = 0
    for i in repeats:
        if i == 0:
            break
        span = spans[order[i]]
        for j in range(np.int64((walked[order[i]] >> LOW) & FIELD), np.int64(i)):
            before = spans[order[j]]
            counted += before & FIELD >= span >> HIGH
            joint += before >> LOW == span >> LOW
    return counted, joint


@part
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


@compiled
def _concordance(order: Any, spans: Any, ties: Any, repeats: Any, pairs: Any, counts: Any) -> Any:
    """Concordant less discordant pairs of classes of each pair of teachers: walk the one with fewer ties."""
    n, _, classes = order.shape
    bits = np.empty(classes // 64 + 1, np.uint64)
    walk = np.empty(classes, np.uint64)
    ends, runs = np.empty(classes, np.int64), np.empty(classes, np.int64)
    in_turn = np.arange(classes).astype(np.uint32)
    total = classes * (classes - 1) // 2
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        for p in range(pairs.shape[0]):
            a, b = pairs[p, 0], pairs[p, 1]
            if a == b:
                out[p, r] = total - ties[r, a]
                continue
            if ties[r, a] > ties[r, b]:
                a, b = b, a
            counted = joint = 0
            walked, positions = order[r, a], spans[r, b]
            if ties[r, a] > _FEW_TIES * classes:
                joint = _walk_by_both(order[r, b], spans[r, a], spans[r, b], walk, ends, runs)
                walked, positions = in_turn, walk
            elif ties[r, a]:
                counted, joint = _within_ties(repeats[r, a], walked, spans[r, a], positions)
            if classes < 64:
                inversions = _discordant_of_few(walked, positions)
            else:
                bits[:] = 0
                counts[:] = 0
                inversions = _discordant(walked, positions, bits, counts)
            out[p, r] = total - ties[r, a] - ties[r, b] + joint - 2 * (inversions - counted)
    return out


@compiled
def target_concordance(mid: Any, labels: Any, pairs: Any) -> Any:
    """The part of the concordance that pairs with the target make."""
    n, _, classes = mid.shape
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        for p in range(pairs.shape[0]):
            left, right = mid[r, pairs[p, 0]], mid[r, pairs[p, 1]]
            x, y = left[labels[r]], right[labels[r]]
            net: Any = 0
            for c in range(classes):
                net += ((left[c] < x) - (left[c] > x)) * ((right[c] < y) - (right[c] > y))
            out[p, r] = net
    return out


@compiled
def rank_products(mid: Any, labels: Any, pairs: Any, wide: Any) -> Any:
    """Sum of the products of doubled, centred ranks over all classes but the target, in the integers of `wide`."""
    n, _, classes = mid.shape
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        for p in range(pairs.shape[0]):
            left, right = mid[r, pairs[p, 0]], mid[r, pairs[p, 1]]
            total: Any = wide.dtype.type(0)
            if labels[r] < 0:
                for c in range(classes):
                    total += wide.dtype.type(left[c]) * wide.dtype.type(right[c])
            else:
                x, y = left[labels[r]], right[labels[r]]
                # leaving the target out moves a doubled, centred rank by one towards the target's
                for c in range(classes):
                    moved = mid.dtype.type(left[c] + (left[c] < x) - (left[c] > x))
                    of_other = mid.dtype.type(right[c] + (right[c] < y) - (right[c] > y))
                    total += wide.dtype.type(moved) * wide.dtype.type(of_other)
                total -= wide.dtype.type(x) * wide.dtype.type(y)
            out[p, r] = total
    return out


@compiled
def shared_top(order: Any, spans: Any, labels: Any, pairs: Any, k: Any) -> Any:
    """How many of one teacher's top k, the target left out, are among the other's."""
    n, _, classes = order.shape
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        target = labels[r]
        for p in range(pairs.shape[0]):
            left, right = order[r, pairs[p, 0]], spans[r, pairs[p, 1]]
            lowest = classes - k
            if target >= 0 and np.int64(right[target] & FIELD) >= lowest:
                lowest -= 1
            shared, taken, i = 0, 0, classes - 1
            while taken < k and i >= 0:
                c = left[i]
                if c != target:
                    taken += 1
                    shared += np.int64(right[c] & FIELD) >= lowest
                i -= 1
            out[p, r] = shared
    return out


class Sorted:
    """Memory for the logits of up to `rows` rows of T teachers, (rows, T, C), and for the words that are sorted."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.short = dtype.itemsize == 2 and shape[2] <= 1 << 16  # then 32 bits have room for a key and a class
        self.values, self.words = np.empty(shape, dtype), np.empty(shape, np.uint32 if self.short else np.uint64)
        self.nans = np.empty(shape[:2], np.int64)


def sorted_words(
    logits: list[NDArray[Any]], space: Sorted, sort: Callable[[NDArray[Any], Any], None] | None = None
) -> tuple[NDArray[Any], Any, Ints]:
    """Sorted words (n, T, C) of T teachers' logits, below which of their bits the class stands, and NaNs (n, T).

    `sort` is another way than NumPy's to sort words by all bits from that one on.
    """
    n = len(logits[0])
    values, words, nans = space.values[:n], space.words[:n], space.nans[:n]
    for t, rows in enumerate(logits):
        values[:, t] = rows
    bits, infinity = values.view(f"u{values.itemsize}"), np.uint64(_INFINITY[values.itemsize])
    shift = np.uint64(16) if space.short else LOW
    low = _LOWER if values.itemsize == 8 else ~np.uint64(0)
    _pack(bits, infinity, low, shift, words, nans)
    if sort is None:
        words.sort(axis=2)
    else:
        sort(words, shift)
    if values.itemsize == 8:
        _pack_again(bits, infinity, low, words)
        words.sort(axis=2)
    return words, shift, nans


class Space:
    """Memory for blocks of up to `rows` rows of T teachers, (rows, T, C): new pages cost as much time as sorting."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.sorted = Sorted(shape, dtype)
        self.order, self.spans = np.empty(shape, np.uint32), np.empty(shape, np.uint64)
        self.mid = np.empty(shape, np.int32)
        self.repeats = np.empty(shape, np.uint32)
        self.ties = np.empty(shape[:2], np.int64)


class LoopRanks:
    """Ranks of T teachers' (n, C) logits, as `rank_tensors.TensorRanks`, until `space` is used again."""

    def __init__(self, logits: list[NDArray[Any]], space: Space) -> None:
        self.shape = n, _ = logits[0].shape
        self.order, self.spans, self.mid = space.order[:n], space.spans[:n], space.mid[:n]
        self.repeats = space.repeats[:n]
        words, shift, nans = sorted_words(logits, space.sorted)
        _place(words, shift, self.order, self.spans, self.mid, space.ties[:n], self.repeats)
        self.ties, self.nans = space.ties[:n].T, nans.T

    def target(self, labels: Ints) -> tuple[Ints, Ints, Ints]:
        """Position, first of the tie group, one past its last."""
        spans = self.spans[np.arange(len(labels)), :, labels].T
        fields = (spans & FIELD, (spans >> LOW) & FIELD, spans >> HIGH)
        return tuple(field.astype(np.int64) for field in fields)  # type: ignore[return-value]

    def concordance(self, pairs: Ints) -> Ints:
        """Concordant less discordant pairs of classes."""
        words = self.order.shape[2] // 64 + 1
        counts = np.empty((-(-(words - 1).bit_length() // 2), words // 4 + 1), np.uint64)
        return _concordance(self.order, self.spans, self.ties.T, self.repeats, pairs, counts)

    def target_concordance(self, labels: Ints, pairs: Ints) -> Ints:
        """Of the pairs (target, other class) alone."""
        return target_concordance(self.mid, labels, pairs)

    def rank_products(self, labels: Ints, pairs: Ints) -> Ints:
        """Over the classes but the target."""
        return rank_products(self.mid, labels, pairs, np.empty(0, np.int64))

    def shared_top(self, labels: Ints, pairs: Ints, k: int) -> Ints:
        """Of the k top classes, the target left out."""
        return shared_top(self.order, self.spans, labels, pairs, k)
