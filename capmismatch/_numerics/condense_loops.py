"""Compiled loops that condense rows over a large vocabulary: head, tail sums and scalars of each row, in one pass each.

`condensing` says what is kept and has the same in tensor operations. The work is in single precision, eight numbers at
a time: one exponential per token, squared from octave to octave. Errors of the sums stay below some 1e-6 of
themselves, as lanes of a block are added in single precision, blocks in double.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from capmismatch._numerics.softmax_loops import compiled, inside, of_finite, vectorised

BLOCK = 1024  # tokens whose exponentials are held at a time: they stay in the fastest cache
GLANCE = 64  # tokens that are passed over together where none of them belongs to the head
LOG2_E = 1 / math.log(2)
MASKED = np.float32(-1e30)  # of a token that is not of the tail: its exponential is 0 at every rate
ROUNDER = np.float32(1.5 * 2.0**23)  # adding it rounds to a whole number, which then stands in the lowest bits
SMALLEST = np.float32(-127.0)  # of exponents of two: a float whose exponent has no bit set is 0
LARGEST = np.float32(1e30)  # logit that a network gives
LEAST_ROOT = np.float32(1.1e-19)  # whose square is a normal float
SHIFT, BIAS = np.int32(23), np.int32(127 << 23)
ONE, ZERO = np.float32(1.0), np.float32(0.0)
# 2^f - 1 = f (P1 + P2 f + ...): Taylor's series, cut where its rest is below the last digit for |f| <= 1/2
P1, P2, P3, P4, P5, P6, P7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))


@compiled
def powers(x: Any, rate: Any, e: Any, bits: Any, w: Any) -> None:
    """Fill e = 2^(rate x) for rate x <= 0; `bits` is e seen as int32. Not reassociated: that removes the rounding."""
    for i in range(len(x)):
        power = max(x[i] * rate, SMALLEST)
        e[i] = power + ROUNDER
        f = power - (e[i] - ROUNDER)
        w[i] = f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * (P5 + f * (P6 + f * P7))))))
    for i in range(len(x)):
        bits[i] = (bits[i] << SHIFT) + BIAS
    for i in range(len(x)):
        e[i] = e[i] + e[i] * w[i]


@vectorised
def _square(e: Any) -> None:
    """Square numbers >= 0; those whose squares are no normal floats become 0, as processors are slow at the others."""
    for i in range(len(e)):
        root = e[i] if e[i] > LEAST_ROOT else ZERO
        e[i] = root * root


@vectorised
def _sums(e: Any, x: Any) -> tuple[float, float]:
    total, first = ZERO, ZERO
    for i in range(len(e)):
        total += e[i]
        first += e[i] * x[i]
    return float(total), float(first)


@vectorised
def _odd(values: Any, largest: Any) -> int:
    """How many values are NaN, or larger than `largest` in size."""
    count = np.int32(0)
    for i in range(len(values)):
        count += np.int32(not abs(values[i]) <= largest)
    return int(count)


@of_finite
def _largest(values: Any) -> Any:
    largest = values[0]
    for i in range(len(values)):
        largest = max(largest, values[i])
    return largest


@vectorised
def _below(values: Any, origin: Any, x: Any) -> tuple[float, float]:
    """Fill x = values - origin; its sum and that of its squares."""
    total, squares = ZERO, ZERO
    for i in range(len(values)):
        less = np.float32(values[i] - origin)
        x[i] = less
        total += less
        squares += less * less
    return float(total), float(squares)


@vectorised
def _count_above(values: Any, value: Any) -> int:
    count = np.int32(0)
    for i in range(len(values)):
        count += np.int32(values[i] > value)
    return int(count)


@vectorised
def _count_from(values: Any, value: Any) -> int:
    count = np.int32(0)
    for i in range(len(values)):
        count += np.int32(values[i] >= value)
    return int(count)


@inside
def _worse(f: Any, one: int, other: int) -> bool:
    """Whether token `one` comes after `other`: a lower logit, or the same and a higher number."""
    return f[one] < f[other] or (f[one] == f[other] and one > other)


@inside
def _sift(heap: Any, size: int, f: Any) -> None:
    """Let the first of a heap sink to its place; the worst token is on top."""
    place, token = 0, heap[0]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _worse(f, heap[child + 1], heap[child]):
            child += 1
        if not _worse(f, heap[child], token):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = token


@inside
def _rise(heap: Any, place: int, f: Any) -> None:
    """Let a token that was put at the end of a heap rise to its place."""
    token = heap[place]
    while place > 0:
        parent = (place - 1) // 2
        if not _worse(f, token, heap[parent]):
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = token


@inside
def _least_of_head(f: Any, want: int, peaks: Any) -> float:
    """A logit that at least `want` tokens reach, close to that of the last of them; fills the peak of each glance."""
    for glance in range(len(peaks)):
        peaks[glance] = _largest(f[glance * GLANCE : min((glance + 1) * GLANCE, len(f))])
    if len(peaks) < want:
        return -math.inf
    return float(np.partition(peaks, len(peaks) - want)[len(peaks) - want])


@inside
def _select(f: Any, y: int, best: Any, peaks: Any) -> None:
    """Fill `best` with the wrong tokens of the highest logits, in order; of equal ones the lower number first."""
    want, size = len(best), 0
    least = _least_of_head(f, want + 1, peaks)  # one more: the label may be among them
    for glance in range(len(peaks)):
        if peaks[glance] < least or (size == want and peaks[glance] <= f[best[0]]):
            continue
        for token in range(glance * GLANCE, min((glance + 1) * GLANCE, len(f))):
            if token == y or f[token] < least:
                continue
            if size < want:
                best[size] = token
                size += 1
                _rise(best, size - 1, f)
            elif f[token] > f[best[0]]:
                best[0] = token
                _sift(best, want, f)
    for last in range(want - 1, 0, -1):  # the worst goes to the end
        worst = best[0]
        best[0] = best[last]
        best[last] = worst
        _sift(best, last, f)


@inside
def _rank(f: Any, y: int, best: Any) -> int:
    """How many wrong tokens come before the label."""
    if _worse(f, best[len(best) - 1], y):
        rank = 0
        while _worse(f, y, best[rank]):
            rank += 1
        return rank
    return _count_from(f[:y], f[y]) + _count_above(f[y + 1 :], f[y])


@compiled
def condense_rows(
    logits: Any,
    labels: Any,
    rates: Any,
    ids: Any,
    below: Any,
    log_sum: Any,
    slope: Any,
    scalars: Any,
    label_rank: Any,
    odd: Any,
) -> None:
    """Condense each row of logits (n, V).

    `rates` (G,) are inverse temperatures, each double follows its half. Filled are ids and below (n, k), log_sum and
    slope (n, G), scalars (6, n): target, largest and second largest wrong logit, mean, std, and whether the label is on
    top; label_rank (n,); odd (n,): whether a logit is NaN or larger than any network's, and the rest was left out.
    """
    n, size = logits.shape
    k = ids.shape[1]
    best = np.empty(min(k + 1, size - 1), np.int64)
    x, e, w = np.empty(size, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bits, peaks = e.view(np.int32), np.empty((size + GLANCE - 1) // GLANCE, logits.dtype)
    sums = np.empty((len(rates), 2))
    for row in range(n):
        f, y = logits[row], labels[row]
        odd[row] = _odd(f, LARGEST) > 0
        if odd[row]:
            continue
        _select(f, y, best, peaks)
        label_rank[row] = _rank(f, y, best)
        top, last = f[best[0]], f[best[len(best) - 1]]
        total, squares = 0.0, 0.0
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            one, two = _below(f[start:stop], last, x[start:stop])
            total, squares = total + one, squares + two
        scalars[0, row], scalars[1, row] = f[y], top
        scalars[2, row] = f[best[1]] if len(best) > 1 else -math.inf
        scalars[3, row] = last + total / size
        scalars[4, row] = math.sqrt(max(squares - total * total / size, 0.0) / size)
        scalars[5, row] = 1.0 if label_rank[row] == 0 else 0.0
        x[y] = MASKED
        for j in range(k):
            ids[row, j] = best[j]
            below[row, j] = f[best[j]] - top
            x[best[j]] = MASKED
        _tail(x, rates, e, bits, w, sums)
        for g in range(len(rates)):
            if len(best) > k:
                log_sum[row, g] = math.log(sums[g, 0]) - rates[g] * (top - last)
                slope[row, g] = sums[g, 1] / sums[g, 0] - (top - last)
            else:  # every wrong token is in the head
                log_sum[row, g], slope[row, g] = -math.inf, 0.0


@inside
def _tail(x: Any, rates: Any, e: Any, bits: Any, w: Any, sums: Any) -> None:
    """Fill (G, 2): the sum of exp(rate x), and of that times x, at each rate."""
    sums[:] = 0.0
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        n = len(part)
        for g in range(len(rates)):
            if g > 0 and rates[g] == 2.0 * rates[g - 1]:
                _square(e[:n])
            else:
                powers(part, np.float32(rates[g] * LOG2_E), e[:n], bits[:n], w[:n])
            total, first = _sums(e[:n], part)
            sums[g, 0] += total
            sums[g, 1] += first
