r"""Compiled loops over the rows of a softmax: what probes, class means and calibration errors spend their time in.

The package `_numerics` lists the letters. Nearly all functions take rows of *below* and *rates*, the inverse
temperatures. Everything is float64, each row is computed by itself and in the same order, so results depend neither on
threads nor on how rows were cut into blocks. `softmax` has the same in tensor operations.

Exponentials come in pairs, e = exp(r b) and x = e - 1, both to their last digits: differences between nearly equal
classes live on those of x. With exp(r b) = s (1 + w), s a power of two, and w = 2^f - 1, |f| <= 1/2, from a polynomial,
x is (s - 1) + s w.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from capmismatch._numerics.ties import CALIBRATED

# "contract" allows a multiply and an add to be one instruction; "reassoc" lets sums use vectors; "nnan" the same for
# the largest of finite numbers. All loops release the interpreter's lock. Those that only other loops call cannot be
# called from Python: the wrappers would take time to compile.
OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
INSIDE: dict[str, Any] = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled = njit(**OPTIONS, fastmath={"contract"})
inside = njit(**INSIDE, fastmath={"contract"})
vectorised = njit(**INSIDE, fastmath={"contract", "reassoc", "nsz"})
of_finite = njit(**INSIDE, fastmath={"contract", "reassoc", "nsz", "nnan"})

LOG2_E = 1 / math.log(2)
SMALLEST = -1023.0  # of exponents of two: a float whose exponent has no bit set is 0
ROUNDER = 1.5 * 2.0**52  # adding it rounds to a whole number, which then stands in the lowest bits
# 2^f - 1 = f (P1 + P2 f + ...): Taylor's series, cut where its rest is below the last digit for |f| <= 1/2
P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12 = (math.log(2) ** k / math.factorial(k) for k in range(1, 13))
SERIES_WITHIN = 1 / 16  # of log ratios: this near to 0, p log(p / m) - p + m comes from its series
# exp(-d) - 1 + d = d^2 (R2 + R3 d + ...): Taylor's series, cut where its rest is below 1e-13 for |d| < SERIES_WITHIN
R2, R3, R4, R5, R6, R7, R8 = ((-1) ** k / math.factorial(k) for k in range(2, 9))
LEAST, EPSILON = 2.0**-1022, 2.0**-52  # the least normal number, and the distance of 1 from the next


# --------------------------------------------------------------------------------------------------------- exponentials


@compiled
def exponentials(b: Any, rate: float, e: Any, bits: Any, x: Any) -> None:
    """Fill e = exp(rate b) and x = e - 1, for rate b <= 0; `bits` is e seen as int64. Below 1e-308, e is 0."""
    for i in range(len(b)):
        power = max(b[i] * (rate * LOG2_E), SMALLEST)
        e[i] = power + ROUNDER
        f = power - (e[i] - ROUNDER)
        low = P7 + f * (P8 + f * (P9 + f * (P10 + f * (P11 + f * P12))))
        x[i] = f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * (P5 + f * (P6 + f * low))))))
    for i in range(len(b)):
        bits[i] = (bits[i] << 52) + (1023 << 52)  # the whole number becomes the exponent: e is s
    for i in range(len(b)):
        s, fraction = e[i], e[i] * x[i]
        e[i] = s + fraction
        x[i] = (s - 1.0) + fraction


@inside
def exponentials_at(b: Any, rates: Any, t: int, row: int, e: Any, bits: Any, x: Any) -> None:
    """The same at rates[t, row], from those at rates[t - 1, row] where that is half as large: squares are quicker."""
    if t > 0 and rates[t, row] == 2.0 * rates[t - 1, row]:
        for i in range(len(b)):
            e[i] *= e[i]
            x[i] *= 2.0 + x[i]  # (1 + x)^2 - 1
    else:
        exponentials(b, rates[t, row], e, bits, x)


@compiled
def scratch(k: int) -> Any:
    """e, its bits, and x, of one value at least: loops that look for the largest class always find a place."""
    e = np.empty(max(k, 1))
    return e, e.view(np.int64), np.empty(max(k, 1))


@compiled
def class_probabilities(logits: Any, logsumexp: Any, out: Any) -> None:
    """exp(f - logsumexp) of (K, N) logits, a class a row."""
    e, bits, x = scratch(1024)
    for c in range(len(logits)):
        for start in range(0, logits.shape[1], len(e)):
            f, less = logits[c, start : start + len(e)], logsumexp[start : start + len(e)]
            p, n = out[c, start : start + len(e)], len(f)
            for i in range(n):
                p[i] = f[i] - less[i]
            exponentials(p, 1.0, e[:n], bits[:n], x[:n])
            for i in range(n):
                p[i] = e[i]


# --------------------------------------------------------------------------------------------------- statistics of rows


@of_finite
def _largest(values: Any) -> float:
    largest = -math.inf
    for i in range(len(values)):
        largest = max(largest, float(values[i]))
    return largest


@vectorised
def _shift(values: Any, origin: float, out: Any) -> None:
    for i in range(len(values)):
        out[i] = values[i] - origin


@vectorised
def _moments(values: Any) -> tuple[float, float]:
    total, squares = 0.0, 0.0
    for i in range(len(values)):
        total += values[i]
        squares += values[i] * values[i]
    return total, squares


@compiled
def take_apart(
    logits: Any,
    labels: Any,
    below: Any,
    target: Any,
    top: Any,
    second: Any,
    top_class: Any,
    mean: Any,
    std: Any,
    correct: Any,
) -> None:
    """Target's, largest and second largest wrong logit, mean, std, [arg max = y] of each row; and the rows below."""
    n, classes = logits.shape
    for row in range(n):
        f, y, b = logits[row], labels[row], below[row]
        largest = max(_largest(f[:y]), _largest(f[y + 1 :]))
        first = 0
        while first < classes - 1 and (first == y or f[first] != largest):
            first += 1
        low, high = min(first, y), max(first, y)
        second[row] = max(_largest(f[:low]), _largest(f[low + 1 : high]), _largest(f[high + 1 :]))
        _shift(f[:y], largest, b[:y])
        _shift(f[y + 1 :], largest, b[y:])
        total, squares = _moments(b)
        gap = f[y] - largest
        total, squares = total + gap, squares + gap * gap
        mean[row] = largest + total / classes
        std[row] = math.sqrt(max(squares - total * total / classes, 0.0) / classes)
        target[row], top[row], top_class[row] = f[y], largest, first
        correct[row] = gap > 0.0 or (gap == 0.0 and y < first)


@vectorised
def _sums(b: Any, e: Any, x: Any) -> tuple[float, float, float, float]:
    tail, excess, squares, first = 0.0, 0.0, 0.0, 0.0
    for i in range(len(b)):
        tail += e[i]
        excess += x[i]
        squares += x[i] * x[i]
        first += e[i] * b[i]
    return tail, excess, squares, first


@compiled
def row_sums(below: Any, rates: Any, tail: Any, variance: Any, mean_below: Any) -> None:
    """Sum of e = exp(rate b) without the largest, population variance of q~ = e / sum e, mean of b under q~: (T, n).

    The largest e is 1, and would take the digits of a small tail. The squares are taken about the largest class, so
    x = e - 1 is 0 there: sum x^2 <= (K + 1) sum (x - mean)^2, and their difference loses no more than the digits of K.
    """
    n, k = below.shape
    e, bits, x = scratch(k)
    for row in range(n):
        b = below[row]
        top = 0
        while top < k - 1 and b[top] != 0.0:
            top += 1
        for t in range(len(rates)):
            exponentials_at(b, rates, t, row, e, bits, x)
            e[top] = 0.0
            tail[t, row], excess, squares, first = _sums(b, e, x)
            everything = 1.0 + tail[t, row]
            variance[t, row] = max(squares - excess * excess / k, 0.0) / (k * everything * everything)
            mean_below[t, row] = first / everything


@compiled
def _add_scaled(e: Any, scale: float, out: Any) -> None:
    for i in range(len(e)):
        out[i] += scale * e[i]


@compiled
def add_to_classes(below: Any, labels: Any, rates: Any, scale: Any, target: Any, group: Any, sums: Any) -> None:
    """Add each row's p (C,), scale exp(rate b) for wrong classes and `target` for the label, to sums[t, group].

    Row after row; rates, scale and target are (T, n), sums (T, G, C).
    """
    n, k = below.shape
    e, bits, x = scratch(k)
    for row in range(n):
        y = labels[row]
        for t in range(len(rates)):
            exponentials_at(below[row], rates, t, row, e, bits, x)
            into = sums[t, group[row]]
            _add_scaled(e[:y], scale[t, row], into[:y])
            into[y] += target[t, row]
            _add_scaled(e[y:], scale[t, row], into[y + 1 :])


@inside
def _gap(p: float, less: float, d: float) -> float:
    """One class's p log(p / m) - p + m >= 0, given p, less = p - m and d = log(p / m)."""
    series = R2 + d * (R3 + d * (R4 + d * (R5 + d * (R6 + d * (R7 + d * R8)))))
    return p * d * d * series if abs(d) < SERIES_WITHIN else p * d - less


@vectorised
def _against(b: Any, e: Any, rate: float, scale: float, log_scale: float, mean: Any, log_mean: Any) -> Any:
    divergence, distance, excess = 0.0, 0.0, 0.0
    for i in range(len(e)):
        p = scale * e[i]
        less = p - mean[i]
        divergence += _gap(p, less, rate * b[i] + log_scale - log_mean[i])
        distance += less * less
        excess += less
    return divergence, distance, excess


@compiled
def against_classes(
    below: Any,
    labels: Any,
    rates: Any,
    scale: Any,
    target: Any,
    log_scale: Any,
    group: Any,
    means: Any,
    logs: Any,
    pivots: Any,
    divergence: Any,
    distance: Any,
) -> None:
    """With p as above and m its class's mean: sum p log(p / m) and sum (p - m)^2, each (T, n).

    Each class adds p log(p / m) - p + m, so that no digits cancel between classes. Where p and m round to 1 their
    difference has none left; it is that of all others, as both add up to 1. Pivots are the classes of the largest m.
    """
    n, k = below.shape
    e, bits, x = scratch(k)
    for row in range(n):
        y, g, b = labels[row], group[row], below[row]
        for t in range(len(rates)):
            exponentials_at(b, rates, t, row, e, bits, x)
            mean, log_mean, pivot, p = means[t, g], logs[t, g], pivots[t, g], target[t, row]
            about = rates[t, row], scale[t, row], log_scale[t, row]
            low, high = min(y, pivot), max(y, pivot)
            # Classes before both, between them, and after both; those after the target stand one place lower
            i, j = (low + 1, high) if pivot < y else (y, max(pivot - 1, y))
            one = _against(b[:low], e[:low], *about, mean[:low], log_mean[:low])
            two = _against(b[i:j], e[i:j], *about, mean[low + 1 : high], log_mean[low + 1 : high])
            three = _against(b[high:], e[high:], *about, mean[high + 1 :], log_mean[high + 1 :])
            gaps, squares, less = one[0] + two[0] + three[0], one[1] + two[1] + three[1], one[2] + two[2] + three[2]
            if pivot != y:
                of_target = p - mean[y]
                gaps += _gap(p, of_target, math.log(max(p, LEAST)) - log_mean[y])
                squares, less = squares + of_target * of_target, less + of_target
            ratio = max(-less / mean[pivot], EPSILON - 1.0)
            gaps += _gap(mean[pivot] * (1.0 + ratio), -less, math.log1p(ratio))
            divergence[t, row] = gaps
            distance[t, row] = squares + less * less


# ------------------------------------------------------------------------------------------------- adaptive calibration

BUCKETS = 4096


@inside
def _extend_ties(in_range: Any, start: Any, lowest: Any, highest: Any, tie: int) -> None:
    """Mark by -1 also the buckets whose values may tie across the end of a range.

    A range may end between two buckets, and ties go on from one bucket to the next: once upwards, once downwards.
    """
    before = -1
    for bucket in range(BUCKETS):
        if start[bucket + 1] > start[bucket]:
            if before >= 0 and lowest[bucket] - highest[before] <= tie and in_range[bucket] != in_range[before]:
                in_range[bucket] = in_range[before] = -1
            before = bucket
    before = -1
    for bucket in range(BUCKETS - 1, -1, -1):
        if start[bucket + 1] > start[bucket]:
            if before >= 0 and lowest[before] - highest[bucket] <= tie and in_range[before] == -1:
                in_range[bucket] = -1
            before = bucket


@inside
def _put_ties_in_order(rows: Any, bits: Any, p: Any, tie: int) -> None:
    """Sort ascending rows by p; rows that tie, each with the next, keep their order."""
    _sort_stably(rows, p)
    first = np.empty(len(p), np.float64)
    value, tied = 0.0, False
    for i in range(len(rows)):
        step = bits[rows[i]] - bits[rows[i - 1]] if i > 0 else tie + 1
        tied |= 0 < step <= tie
        if step > tie:
            value = float(i)
        first[rows[i]] = value
    if tied:
        rows.sort()
        _sort_stably(rows, first)


@compiled
def adaptive_class(  # noqa: C901 - one numeric kernel: a bucket sort whose steps share their counts
    p: Any, hits: Any, ranges: int, share: Any, tie: int
) -> None:
    """Add to `share` (N,) what each example has in the adaptive calibration error of one class.

    p (N,) are the class's probabilities, `hits` the rows of its own examples. In place of a sort: positive floats are
    ordered like their bits, so the leading bits tell an example's bucket, and only buckets that a range ends in are
    sorted, by p and then by row. Rows tie whose p are no more than `tie` floats apart.
    """
    n = len(p)
    if n == 0:
        return
    bits = np.empty(n, np.int64)
    for i, word in enumerate(p.view(np.int64)):
        bits[i] = max(word, 0)  # -0 is 0: every place below lies within the buckets
    least, most = bits[0], bits[0]
    for i in range(n):
        least, most = min(least, bits[i]), max(most, bits[i])
    shift = 0
    while (most >> shift) - (least >> shift) >= BUCKETS:
        shift += 1
    base = least >> shift
    start = np.zeros(BUCKETS + 1, np.int64)
    lowest, highest = np.full(BUCKETS, most), np.full(BUCKETS, least)
    for i in range(n):
        bucket = (bits[i] >> shift) - base
        start[bucket + 1] += 1
        lowest[bucket], highest[bucket] = min(lowest[bucket], bits[i]), max(highest[bucket], bits[i])
    for bucket in range(BUCKETS):
        start[bucket + 1] += start[bucket]
    # The range of each bucket, or -1 where a range ends within it
    in_range = np.empty(BUCKETS, np.int32)
    last = 0
    for bucket in range(BUCKETS):
        while last + 1 < ranges and start[bucket] >= (last + 1) * n // ranges:
            last += 1
        in_one_range = last + 1 == ranges or start[bucket + 1] <= (last + 1) * n // ranges
        in_range[bucket] = last if in_one_range else -1
    _extend_ties(in_range, start, lowest, highest, tie)
    range_of = np.empty(n, np.int32)
    gap = np.zeros(ranges)
    split = 0
    for i in range(n):
        r = in_range[(bits[i] >> shift) - base]
        range_of[i] = r
        if r >= 0:
            gap[r] += p[i]
        else:
            split += 1
    rows = np.empty(split, np.int64)
    split = 0
    for i in range(n):
        if range_of[i] < 0:
            rows[split] = i
            split += 1
    _put_ties_in_order(rows, bits, p, tie)
    i = 0
    for bucket in range(BUCKETS):
        if in_range[bucket] >= 0:
            continue
        for position in range(start[bucket], start[bucket + 1]):
            r = ((position + 1) * ranges - 1) // n  # the last range that starts at or before this position
            range_of[rows[i]] = r
            gap[r] += p[rows[i]]
            i += 1
    for row in hits:
        gap[range_of[row]] -= 1.0
    weight = np.empty(ranges)
    for r in range(ranges):
        count = (r + 1) * n // ranges - r * n // ranges
        near = CALIBRATED * count
        weight[r] = (int(gap[r] > near) - int(gap[r] < -near)) * n / (ranges * count)
    for i in range(n):
        share[i] += weight[range_of[i]] * p[i]
    for row in hits:
        share[row] -= weight[range_of[row]]


@inside
def _sort_stably(rows: Any, p: Any) -> None:
    """Merge sort of rows by p, in place; rows of equal p keep their order."""
    n = len(rows)
    other = np.empty_like(rows)
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            left, right = low, middle
            for position in range(low, high):
                if left < middle and (right >= high or p[rows[left]] <= p[rows[right]]):
                    other[position] = rows[left]
                    left += 1
                else:
                    other[position] = rows[right]
                    right += 1
        for position in range(n):
            rows[position] = other[position]
        width *= 2
