"""Compiled loops of the adaptive calibration error: ranges of equal count of each class's probabilities.

In place of a sort: positive floats are ordered like their bits, so the leading bits tell an example's bucket, and only
the buckets that a range ends in are sorted, by probability and then by row. Rows tie whose probabilities are no more
than `tie` floats apart, each with the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capmismatch._numerics.softmax_loops import LOG2_E, _exponential, compiled, inside, vectorised
from capmismatch._numerics.ties import CALIBRATED

BUCKETS = 2048


@inside
def _fill_probabilities(logits: Any, logsumexp: Any, rate: float, p: Any) -> None:
    """exp(rate f - logsumexp) of one class."""
    for i in range(len(p)):
        p[i] = _exponential(LOG2_E * (rate * np.float64(logits[i]) - logsumexp[i]))


@vectorised
def _ends(words: Any) -> Any:
    """The least and the largest of some integers; those below 0 count as 0."""
    least, most = words[0], words[0]
    for i in range(len(words)):
        least, most = min(least, words[i]), max(most, words[i])
    return max(least, 0), max(most, 0)


@inside
def _number_buckets(words: Any, shift: int, base: int, bucket_of: Any) -> None:
    for i in range(len(words)):
        bucket_of[i] = (max(words[i], 0) >> shift) - base  # -0 is 0: every place below lies within the buckets


@inside
def _extend_ties(in_range: Any, start: Any, lowest: Any, highest: Any, tie: int) -> bool:
    """Mark by -1 also the buckets whose values may tie across the end of a range; return whether there are any.

    A range may end between two buckets, and ties go on from one bucket to the next: once upwards, once downwards.
    """
    before, extended = -1, False
    for bucket in range(BUCKETS):
        if start[bucket + 1] > start[bucket]:
            if before >= 0 and lowest[bucket] - highest[before] <= tie and in_range[bucket] != in_range[before]:
                in_range[bucket] = in_range[before] = -1
                extended = True
            before = bucket
    before = -1
    for bucket in range(BUCKETS - 1, -1, -1):
        if start[bucket + 1] > start[bucket]:
            if before >= 0 and lowest[before] - highest[bucket] <= tie and in_range[before] == -1:
                extended |= in_range[bucket] != -1
                in_range[bucket] = -1
            before = bucket
    return extended


@inside
def _ties_at_ends(near: Any, in_range: Any, lowest: Any, highest: Any, tie: int) -> bool:
    """Whether values of buckets that stand next to one another at the end of a range may tie across it."""
    for i in range(1, len(near)):
        before, bucket = near[i - 1], near[i]
        if lowest[bucket] - highest[before] <= tie and in_range[bucket] != in_range[before]:
            return True
    return False


@inside
def _at_ends(in_range: Any, start: Any, used: int) -> Any:
    """Whether a range ends in each bucket, or between it and the next one that holds any."""
    near, before = np.zeros(BUCKETS, np.bool_), -1
    for bucket in range(used):
        if start[bucket + 1] > start[bucket]:
            if in_range[bucket] < 0:
                near[bucket] = True
            if before >= 0 and in_range[bucket] != in_range[before]:
                near[bucket] = near[before] = True
            before = bucket
    return near


@inside
def _rows_in(near: Any, bucket_of: Any, words: Any, lowest: Any, highest: Any) -> Any:
    """The rows of some buckets, in order; lowers and raises the least and the largest bits of these buckets."""
    rows, count = np.empty(len(words) + 1, np.int64), 0
    for i in range(len(words)):  # without a branch: nobody can foresee which rows these are
        rows[count] = i
        count += near[bucket_of[i]]
    rows = rows[:count]
    for row in rows:
        bucket, word = bucket_of[row], max(words[row], 0)
        lowest[bucket], highest[bucket] = min(lowest[bucket], word), max(highest[bucket], word)
    return rows


@inside
def _rows_to_sort(in_range: Any, bucket_of: Any, words: Any, start: Any, used: int, tie: int) -> Any:
    """The rows of the buckets that a range ends in, in order; marks by -1 those across whose ends values tie, too."""
    lowest, highest = np.full(BUCKETS, np.int64(1) << 62), np.full(BUCKETS, -(np.int64(1) << 62))
    near = _at_ends(in_range, start, used)
    rows = _rows_in(near, bucket_of, words, lowest, highest)
    if _ties_at_ends(np.flatnonzero(near), in_range, lowest, highest, tie):
        rows = _rows_in(np.ones(BUCKETS, np.bool_), bucket_of, words, lowest, highest)
        _extend_ties(in_range, start, lowest, highest, tie)
    split = 0
    for row in rows:
        rows[split] = row
        split += in_range[bucket_of[row]] < 0
    return rows[:split]


@inside
def _group_by_bucket(rows: Any, bucket_of: Any, in_range: Any, start: Any, used: int) -> Any:
    """The same rows, bucket after bucket, in order within each; where each bucket's begin, and how many these are."""
    at, begins, buckets, total = np.zeros(BUCKETS, np.int64), np.empty(len(rows) + 1, np.int64), 0, 0
    for bucket in range(used):
        if in_range[bucket] < 0 and start[bucket + 1] > start[bucket]:
            at[bucket] = begins[buckets] = total
            total += start[bucket + 1] - start[bucket]
            buckets += 1
    begins[buckets] = total
    grouped = np.empty(len(rows), np.int64)
    for row in rows:
        grouped[at[bucket_of[row]]] = row
        at[bucket_of[row]] += 1
    return grouped, begins[: buckets + 1]


@inside
def _put_ties_in_order(rows: Any, words: Any, tie: int) -> None:
    """Put rows that tie, each with the next, in order: rows that are sorted by p, and by row where p is equal."""
    tied = False
    for i in range(1, len(rows)):
        tied |= 0 < max(words[rows[i]], 0) - max(words[rows[i - 1]], 0) <= tie
    if not tied:
        return
    first, value = np.empty(len(words), np.float64), 0.0
    for i in range(len(rows)):
        if i > 0 and max(words[rows[i]], 0) - max(words[rows[i - 1]], 0) > tie:
            value = float(i)
        first[rows[i]] = value
    rows.sort()
    _sort_stably(rows, first)


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


@compiled
def adaptive_class(p: Any, hits: Any, ranges: int, share: Any, tie: int) -> None:  # noqa: C901 - steps share counts
    """Add to `share` (N,) what each example has in the adaptive calibration error of one class.

    p (N,) are the class's probabilities, `hits` the rows of its own examples.
    """
    n = len(p)
    if n == 0:
        return
    words, bucket_of = p.view(np.int64), np.empty(n, np.uint16)
    least, most = _ends(words)
    shift = 0
    while (most >> shift) - (least >> shift) >= BUCKETS:
        shift += 1
    base = least >> shift
    used = (most >> shift) - base + 1
    _number_buckets(words, shift, base, bucket_of)
    start, total = np.zeros(BUCKETS + 1, np.int64), np.zeros(BUCKETS)
    for i in range(n):
        start[np.int64(bucket_of[i]) + 1] += 1
        total[bucket_of[i]] += p[i]
    # The range of each bucket, or -1 where a range ends within it
    in_range = np.full(BUCKETS, ranges - 1, np.int32)
    last, end = 0, n // ranges
    for bucket in range(used):
        start[bucket + 1] += start[bucket]
        while last + 1 < ranges and start[bucket] >= end:
            last += 1
            end = (last + 1) * n // ranges
        in_one_range = last + 1 == ranges or start[bucket + 1] <= end
        in_range[bucket] = last if in_one_range else -1
    start[used + 1 :] = n
    rows = _rows_to_sort(in_range, bucket_of, words, start, used, tie)
    rows, begins = _group_by_bucket(rows, bucket_of, in_range, start, used)
    for i in range(len(begins) - 1):
        _sort_stably(rows[begins[i] : begins[i + 1]], p)
    _put_ties_in_order(rows, words, tie)
    gap, range_of = np.zeros(ranges), np.empty(n, np.int32)  # the latter of rows in sorted buckets only
    i = 0
    for bucket in range(used):
        if in_range[bucket] >= 0:
            gap[in_range[bucket]] += total[bucket]
            continue
        for position in range(start[bucket], start[bucket + 1]):
            r = ((position + 1) * ranges - 1) // n  # the last range that starts at or before this position
            range_of[rows[i]] = r
            gap[r] += p[rows[i]]
            i += 1
    for row in hits:
        r = in_range[bucket_of[row]]
        gap[r if r >= 0 else range_of[row]] -= 1.0
    weight = np.zeros(ranges + 1)  # the last, of buckets that are sorted, stays 0
    for r in range(ranges):
        count = (r + 1) * n // ranges - r * n // ranges
        near_frequency = CALIBRATED * count
        weight[r] = (int(gap[r] > near_frequency) - int(gap[r] < -near_frequency)) * n / (ranges * count)
    of_bucket = weight[in_range]  # -1 is the last
    for i in range(n):
        share[i] += of_bucket[bucket_of[i]] * p[i]
    for row in rows:
        share[row] += weight[range_of[row]] * p[row]
    for row in hits:
        r = in_range[bucket_of[row]]
        share[row] -= weight[r if r >= 0 else range_of[row]]


@compiled
def adaptive_classes(
    logits: Any, logsumexp: Any, rate: float, hits: Any, begins: Any, ranges: int, share: Any, tie: int
) -> None:
    """The same of K classes by their logits (K, N); rows of the examples of class c: hits[begins[c]:begins[c + 1]]."""
    p = np.empty(logits.shape[1])
    for c in range(len(logits)):
        _fill_probabilities(logits[c], logsumexp, rate, p)
        adaptive_class(p, hits[begins[c] : begins[c + 1]], ranges, share, tie)
