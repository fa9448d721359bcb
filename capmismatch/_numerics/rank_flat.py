"""The counts of `rank_loops` for 64 to 1023 classes: every number of a class fits into 16 bits.

**Sorting.** Floats of 16 and 32 bits are sorted by their bytes, from the last to the first: a pass counts how often
each byte comes, and puts each word behind those of lower bytes. From `LEAST_BYTEWISE` classes on that is quicker than
NumPy's sort; fewer, and doubles, are left to that one.

**Discordant pairs.** Ties are in one order in all teachers, by descending class, so that each teacher's classes are in
some order. Two such orders disagree in `inversions`: one is walked, and bits are set at the other's positions. How many
of those set before lie above is a popcount in a word of 64 bits, plus counts of 16 words that are the lanes of one
vector. Every class adds one to its word's lane, and the lanes above it to the sum. Tied pairs, of which there are few,
are listed, and what they added is taken off. Where they are many, ties are put in the other teacher's order first, and
then add nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from capmismatch._numerics.rank_loops import (
    ONE,
    Sorted,
    compiled,
    part,
    rank_products,
    shared_top,
    sorted_words,
)
from capmismatch._numerics.rank_tensors import Ints

MOST_CLASSES = 1023  # positions lie in 16 words of 64 bits
LEAST_BYTEWISE = 256
LISTED = 2  # tied pairs a class up to which each is looked at
_ROW = np.arange(16)
# Row w of the first: one in the lane of word w; of the second: all bits in the lanes of the words above.
_LANES = np.stack([_ROW[:, None] == _ROW, np.where(_ROW[:, None] < _ROW, 0xFFFF, 0)]).astype(np.uint16)


def _sum_above(typing_context: Any, order: Any, place: Any, bits: Any, lanes: Any) -> Any:
    """Sum over the classes in `order` of how many before them stand at a higher place.

    A lane's sum is 64 for each class at most, and fits into 16 bits. numba keeps no vector in a register over a loop,
    so this one is written in the compiler's own terms: lanes[0] and lanes[1] as `_LANES` says.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [context.make_array(t)(context, builder, v) for t, v in zip(signature.args, arguments, strict=True)]
        order, place, bits, lanes = (array.data for array in arrays)
        word = ir.IntType(64)
        vector = ir.VectorType(ir.IntType(16), 16)
        counts, sums = (cgutils.alloca_once_value(builder, ir.Constant(vector, [0] * 16)) for _ in range(2))
        total = cgutils.alloca_once_value(builder, ir.Constant(word, 0))
        for zero, to in ((ir.Constant(vector, [0] * 16), counts), (ir.Constant(vector, [0] * 16), sums)):
            builder.store(zero, to)
        builder.store(ir.Constant(word, 0), total)
        table = builder.bitcast(lanes, vector.as_pointer())

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        def add(to: Any, value: Any) -> None:
            builder.store(builder.add(builder.load(to), value), to)

        def row(index: Any) -> Any:
            return builder.load(builder.gep(table, [index]), align=2)

        with cgutils.for_range(builder, cgutils.unpack_tuple(builder, arrays[0].shape)[0]) as loop:
            c = builder.zext(builder.load(builder.gep(order, [loop.index])), word)
            position = builder.zext(builder.load(builder.gep(place, [c])), word)
            of_word, within = builder.lshr(position, number(6)), builder.and_(position, number(63))
            add(sums, builder.and_(builder.load(counts), row(builder.add(of_word, number(16)))))
            add(counts, row(of_word))
            to = builder.gep(bits, [of_word])
            before = builder.load(to)
            add(total, builder.ctpop(builder.lshr(before, within)))
            builder.store(builder.or_(before, builder.shl(number(1), within)), to)
        found, last = builder.load(total), builder.load(sums)
        for lane in range(16):
            found = builder.add(found, builder.zext(builder.extract_element(last, ir.IntType(32)(lane)), word))
        return found

    return types.int64(order, place, bits, lanes), generate


_inversions: Any = intrinsic(_sum_above)


@compiled
def _sort_by_bytes(words: Any, low: Any, other: Any, starts: Any) -> None:
    """Sort each row of words by its bytes from bit `low` on; `other` (C,) and `starts` (bytes, 256) are scratch."""
    n, teachers, classes = words.shape
    byte = np.uint64(255)
    for r in range(n):
        for t in range(teachers):
            row = words[r, t]
            starts[:] = 0
            shift = low
            for place in range(0, len(starts), 2):
                even, odd = starts[place], starts[place + 1]
                for i in range(classes):
                    word = np.uint64(row[i]) >> shift
                    even[word & byte] += 1
                    odd[(word >> np.uint64(8)) & byte] += 1
                of_even, of_odd = 0, 0
                for value in range(256):
                    even[value], of_even = of_even, of_even + even[value]
                    odd[value], of_odd = of_odd, of_odd + odd[value]
                shift += np.uint64(16)
            shift = low
            for place in range(0, len(starts), 2):
                _move(row, other, starts[place], shift)
                _move(other, row, starts[place + 1], shift + np.uint64(8))
                shift += np.uint64(16)


@part
def _move(words: Any, to: Any, starts: Any, shift: Any) -> None:
    """Put words behind those of a lower byte, in their order."""
    for i in range(len(words)):
        word = words[i]
        value = (np.uint64(word) >> shift) & np.uint64(255)
        at = starts[value]
        to[at] = word
        starts[value] = at + 1


@compiled
def _place(words: Any, shift: Any, order: Any, place: Any, mid: Any, ties: Any, tied: Any) -> None:
    """Fill where each class stands, from the sorted words; the number of tied pairs, and the classes of the first."""
    n, teachers, classes = words.shape
    mask = (ONE << shift) - ONE
    again = np.empty(classes, np.uint16)
    for r in range(n):
        for t in range(teachers):
            row, order_of, place_of, mid_of, pairs = words[r, t], order[r, t], place[r, t], mid[r, t], tied[r, t]
            repeats = 0
            for i in range(1, classes):  # without a branch: nobody can foresee where ties are
                again[repeats] = i
                repeats += np.uint64(row[i] ^ row[i - 1]) >> shift == 0
            for i in range(classes):
                c = np.uint16(classes - 1 - np.int64(np.uint64(row[i]) & mask))
                order_of[i] = c
                place_of[c] = i
                mid_of[c] = 2 * i + 1 - classes
            found, last, after = 0, np.int64(0), 0
            for following in range(1, repeats + 1):
                if following < repeats and again[following] == again[following - 1] + 1:
                    continue
                first, last = np.int64(again[after]) - 1, np.int64(again[following - 1]) + 1
                after = following
                for j in range(first, last):
                    mid_of[order_of[j]] = first + last - classes
                    for k in range(j + 1, last):
                        if found < len(pairs):
                            pairs[found, 0], pairs[found, 1] = order_of[j], order_of[k]
                        found += 1
            ties[r, t] = found


@part
def _of_tied(tied: Any, count: Any, place: Any, mid: Any) -> Any:
    """Of pairs tied in one teacher: how many are in another order in the other, and how many tied there, too."""
    other_way, joint = 0, 0
    for i in range(count):
        one, two = tied[i, 0], tied[i, 1]
        other_way += place[one] > place[two]
        joint += mid[one] == mid[two]
    return other_way, joint


@part
def _first_of_ties(order: Any, mid: Any, first: Any, following: Any) -> None:
    """Fill each class's first position of its ties, and with each position itself what is filled next from there."""
    start = 0
    for i in range(len(order)):
        start = start if i > 0 and mid[order[i]] == mid[order[i - 1]] else i
        first[order[i]] = start
        following[i] = i


@part
def _untie(order: Any, mid: Any, walked: Any, of_walked: Any, scratch: Any) -> Any:
    """Fill scratch[0] and scratch[1] with a walk and places whose inversions are the discordant pairs.

    The walk is that of `walked`, its ties in the other's order; and then the other's ties are in that of the walk.
    Returns the pairs that are tied in both: where the first are put in order, these come in runs.
    """
    walk, place, first, following, runs = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    _first_of_ties(walked, of_walked, first, following)
    joint = np.int64(0)
    for c in order:
        start = first[c]
        at = following[start]
        walk[at] = c
        runs[start] = runs[start] + 1 if at > start and mid[walk[at - 1]] == mid[c] else 0
        joint += np.int64(runs[start])
        following[start] = at + 1
    _first_of_ties(order, mid, first, following)
    for c in walk:
        place[c] = following[first[c]]
        following[first[c]] += 1
    return joint


@compiled
def _concordance(order: Any, place: Any, mid: Any, ties: Any, tied: Any, pairs: Any, lanes: Any) -> Any:
    """Concordant less discordant pairs of classes of each pair of teachers."""
    n, _, classes = order.shape
    bits = np.empty(16, np.uint64)
    scratch = np.empty((5, classes), np.uint16)
    total, most = classes * (classes - 1) // 2, tied.shape[2]
    out = np.empty((pairs.shape[0], n), np.int64)
    for r in range(n):
        for p in range(pairs.shape[0]):
            a, b = pairs[p, 0], pairs[p, 1]
            if a == b:
                out[p, r] = total - ties[r, a]
                continue
            bits[:] = 0
            in_a, in_b = ties[r, a], ties[r, b]
            if max(in_a, in_b) > most:
                joint = _untie(order[r, b], mid[r, b], order[r, a], mid[r, a], scratch)
                out[p, r] = total - in_a - in_b + joint - 2 * _inversions(scratch[0], scratch[1], bits, lanes)
                continue
            discordant = _inversions(order[r, a], place[r, b], bits, lanes)
            other_way, joint = _of_tied(tied[r, a], in_a, place[r, b], mid[r, b])
            discordant -= other_way
            other_way, _ = _of_tied(tied[r, b], in_b, place[r, a], mid[r, a])
            discordant -= other_way
            out[p, r] = total - in_a - in_b + joint - 2 * discordant
    return out


@compiled
def _targets(order: Any, place: Any, mid: Any, labels: Any, out: Any) -> None:
    """Fill position, first of the tie group and one past its last of each row's label, (3, T, n)."""
    n, teachers, classes = order.shape
    for r in range(n):
        for t in range(teachers):
            row, ranks = order[r, t], mid[r, t]
            position = np.int64(place[r, t, labels[r]])
            first = position
            while first > 0 and ranks[row[first - 1]] == ranks[labels[r]]:
                first -= 1
            out[0, t, r], out[1, t, r] = position, first
            out[2, t, r] = np.int64(ranks[labels[r]]) + classes - first


def _add_product(typing_context: Any, total: Any, left: Any, right: Any) -> Any:
    """The sum of a total of 32 bits and the product of numbers of 16: numba's own are of 64, for a quarter as many."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        so_far, one, two = arguments
        wide = ir.IntType(32)
        return builder.add(so_far, builder.mul(builder.sext(one, wide), builder.sext(two, wide)))

    return types.int32(types.int32, types.int16, types.int16), generate


_multiply_add: Any = intrinsic(_add_product)


@part
def _dot(left: Any, right: Any) -> Any:
    total = np.int32(0)
    for c in range(len(left)):
        total = _multiply_add(total, left[c], right[c])
    return np.int64(total)


@compiled
def _products(mid: Any, labels: Any, pairs: Any) -> Any:
    """Sums over all classes of r_a r_b, r_a s_b + s_a r_b and s_a s_b, (3, P, n), for pairs of teachers a and b.

    r are doubled, centred ranks, s the side of the target that a class stands on: 1 below, -1 above, 0 if tied.
    """
    n, teachers, classes = mid.shape
    out, side = np.empty((3, pairs.shape[0], n), np.int64), np.empty((teachers, classes), np.int16)
    for row in range(n):
        for t in range(teachers):
            ranks, of_target = mid[row, t], mid[row, t, labels[row]]
            for c in range(classes):
                side[t, c] = np.int16(ranks[c] < of_target) - np.int16(ranks[c] > of_target)
        for p in range(pairs.shape[0]):
            a, b = pairs[p, 0], pairs[p, 1]
            out[0, p, row] = _dot(mid[row, a], mid[row, b])
            out[1, p, row] = _dot(mid[row, a], side[b]) + _dot(side[a], mid[row, b])
            out[2, p, row] = _dot(side[a], side[b])
    return out


class FlatSpace:
    """Memory for blocks of up to `rows` rows of T teachers, (rows, T, C): new pages cost as much time as sorting."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.sorted = Sorted(shape, dtype)
        self.order, self.place = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
        self.mid, self.ties = np.empty(shape, np.int16), np.empty(shape[:2], np.int64)
        self.tied = np.empty((*shape[:2], LISTED * shape[2], 2), np.uint16)
        words = self.sorted.words
        bytewise = shape[2] >= LEAST_BYTEWISE and dtype.itemsize < 8
        self.scratch = (
            (np.empty(shape[2], words.dtype), np.empty((dtype.itemsize, 256), np.int32)) if bytewise else None
        )

    def sort(self, words: NDArray[Any], low: Any) -> None:
        """Sort each row by all bits from that one on."""
        if self.scratch is None:
            words.sort(axis=2)
        else:
            _sort_by_bytes(words, low, *self.scratch)


class FlatRanks:
    """Ranks of T teachers' (n, C) logits, as `rank_tensors.TensorRanks`, until `space` is used again."""

    def __init__(self, logits: list[NDArray[Any]], space: FlatSpace) -> None:
        self.shape = n, _ = logits[0].shape
        self.order, self.place, self.mid = space.order[:n], space.place[:n], space.mid[:n]
        self._ties, self.tied = space.ties[:n], space.tied[:n]
        self._known: dict[bytes, Ints] = {}
        words, shift, nans = sorted_words(logits, space.sorted, space.sort)
        _place(words, shift, self.order, self.place, self.mid, self._ties, self.tied)
        self.ties, self.nans = self._ties.T, nans.T

    def target(self, labels: Ints) -> tuple[Ints, Ints, Ints]:
        """Position, first of the tie group, one past its last."""
        out = np.empty((3, *self.ties.shape), np.int64)
        _targets(self.order, self.place, self.mid, labels, out)
        return out[0], out[1], out[2]

    def concordance(self, pairs: Ints) -> Ints:
        """Concordant less discordant pairs of classes."""
        return _concordance(self.order, self.place, self.mid, self._ties, self.tied, pairs, _LANES)

    def target_concordance(self, labels: Ints, pairs: Ints) -> Ints:
        """Of the pairs (target, other class) alone."""
        return self._sums(labels, pairs)[2]

    def rank_products(self, labels: Ints, pairs: Ints) -> Ints:
        """Over the classes but the target; the sum of 1023 squares fits into 32 bits."""
        known = self._known.get(pairs.tobytes())
        if (labels < 0).any():
            return rank_products(self.mid, labels, pairs, np.empty(0, np.int32)) if known is None else known[0]
        everything, crossed, sides = self._sums(labels, pairs)
        of_target = self.mid[np.arange(len(labels)), :, labels].T.astype(np.int64)
        # leaving the target out moves a doubled, centred rank by one towards the target's
        return everything + crossed + sides - of_target[pairs[:, 0]] * of_target[pairs[:, 1]]

    def _sums(self, labels: Ints, pairs: Ints) -> Ints:
        """`_products` of some pairs, which metrics share: the labels are always those of the rows."""
        key = pairs.tobytes()
        if key not in self._known:
            self._known[key] = _products(self.mid, labels, pairs)
        return self._known[key]

    def shared_top(self, labels: Ints, pairs: Ints, k: int) -> Ints:
        """Of the k top classes, the target left out."""
        return shared_top(self.order, self.place, labels, pairs, k)
