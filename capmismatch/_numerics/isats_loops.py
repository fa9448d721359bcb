"""The search of ISATS in numba, row after row.

`isats_search` describes the search and lists its steps here and in `isats_tensors`, the reference; `isats_problem` has
the bounds that make it sure, the package `_numerics` the letters. The logarithm of the derived variance is, up to a
constant,

    G(beta) = 2 log(1 - p_y) + log D,       D = sum (q~ - 1/K)^2,       logit(p_y) = a - beta m - log sum exp(beta b)

and with E = sum q~ (b + m), V = sum q~ (b - mean)^2, Q1 = sum q~ (q~ - 1/K) (b - mean), Q2 = sum q~^2 (b - mean)^2

    G'  = 2 p_y E + 2 Q1 / D
    G'' = 2 p_y (V - (1 - p_y) E^2) + (4 Q2 - 2 (D + 1/K) V) / D - (2 Q1 / D)^2.

All follow from sums of e = exp(beta b) and x = e - 1 times powers of b, taken in one go; as x and b are 0 at the
largest wrong class, the differences of sums lose no more digits than K has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from capmismatch._numerics.isats_problem import MOST_SPLITS, SLACK, SLACK_AT_MAXIMUM, TIE, UNEXPLAINED
from capmismatch._numerics.softmax_loops import compiled, exponentials, inside, scratch, vectorised

CLOSE = 3e-5  # relative length of Newton's step after which the next would be shorter than 1e-8
MOST_STEPS = 60
MOST_OCTAVES = 2100.0  # between the least and the largest double; NaN and infinity get no room
# What is stored of a point: the fields of `isats_tensors.Points`, and SURE: whether nothing higher lies between it and
# the next one.
BETA, HEIGHT, WRONG_MASS, SPREAD, LOSS, RISE, FALL, SLOPE, BEND, PEAK, SURE, FIELDS = range(12)


@inside
def _log_odds_terms(odds: float) -> tuple[float, float, float]:
    """p_y, 1 - p_y and log(1 - p_y), without overflow at either end."""
    if odds > 0.0:
        small = math.exp(-odds)
        return 1.0 / (1.0 + small), small / (1.0 + small), -odds - math.log1p(small)
    large = math.exp(odds)
    return large / (1.0 + large), 1.0 / (1.0 + large), -math.log1p(large)


@vectorised
def _double(e: Any, x: Any) -> None:
    """Double beta: squaring replaces the exponential."""
    for i in range(len(e)):
        e[i] *= e[i]
        x[i] *= 2.0 + x[i]  # (1 + x)^2 - 1


@vectorised
def _sums(b: Any, e: Any, x: Any) -> tuple[float, float, float, float, float, float, float, float]:
    total, excess, squares, both, e1, e2, x1, x2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(b)):
        eb = e[i] * b[i]
        ebb = eb * b[i]
        total += e[i]
        excess += x[i]
        squares += x[i] * x[i]
        both += e[i] * x[i]
        e1 += eb
        e2 += ebb
        x1 += x[i] * eb
        x2 += x[i] * ebb
    return total, excess, squares, both, e1, e2, x1, x2


@inside
def _fill(points: Any, i: int, b: Any, e: Any, x: Any, beta: float, a: float, m: float) -> None:
    """Fill all fields of point i, at beta, from e and x there."""
    total, excess, squares, both, e1, e2, x1, x2 = _sums(b, e, x)
    k = len(b)
    log_total = math.log(total)
    p, wrong, log_wrong = _log_odds_terms(a - beta * m - log_total)
    spread = squares - excess * excess / k  # D times total^2, as are q1 and q2
    mean = e1 / total
    expected = mean + m
    points[i, BETA], points[i, WRONG_MASS], points[i, LOSS] = beta, 2.0 * log_wrong, 2.0 * (log_total - log_wrong)
    points[i, FALL], points[i, PEAK], points[i, SURE] = 2.0 * (mean - p * expected), 0.0, 0.0
    if spread <= 0.0:
        points[i, SPREAD] = points[i, HEIGHT] = -math.inf
        points[i, RISE] = points[i, SLOPE] = points[i, BEND] = 0.0
        return
    variance = e2 / total - mean * mean
    q1 = x1 - mean * both
    q2 = (e2 + x2) - 2.0 * mean * (e1 + x1) + mean * mean * (total + both)
    ratio = 2.0 * q1 / spread
    bend = 4.0 * q2 / spread - 2.0 * variance * (1.0 + total * total / (k * spread))
    points[i, SPREAD] = math.log(spread) - 2.0 * log_total
    points[i, HEIGHT] = points[i, WRONG_MASS] + points[i, SPREAD]
    points[i, RISE] = ratio + 2.0 * mean - 2.0 / beta
    points[i, SLOPE] = 2.0 * p * expected + ratio
    points[i, BEND] = 2.0 * p * (variance - wrong * expected * expected) + bend - ratio * ratio


@inside
def _most(height: float, slope: float, start: float, left: float, right: float) -> float:
    """The largest value in [left, right] of height + slope (beta - start) + 2 log(beta / start)."""
    beta = right if slope >= 0.0 else min(max(-2.0 / slope, left), right)
    return height + slope * (beta - start) + 2.0 * math.log(beta / start)


@inside
def _below(points: Any, left: int, right: int, limit: float) -> bool:
    """Whether G surely stays below the limit between two points, or is monotone, so that no inner point is higher."""
    if points[right, SPREAD] + max(points[left, WRONG_MASS], points[right, WRONG_MASS]) <= limit:
        return True
    start, end = points[left, BETA], points[right, BETA]
    fall, steepest = points[left, FALL], points[right, FALL]
    if points[left, RISE] - steepest + 2.0 / end > 0.0 or points[right, RISE] - fall + 2.0 / start < 0.0:
        return True
    height, last = points[left, HEIGHT], points[right, HEIGHT]
    if not height > -math.inf or not fall < steepest:
        return False
    width, loss = end - start, points[right, LOSS] - points[left, LOSS]
    chord = (last - height + loss - 2.0 * math.log(end / start)) / width
    cross = min(max(start + (steepest * width - loss) / (steepest - fall), start), end)  # of the tangents
    return (
        _most(height, chord - fall, start, start, cross) <= limit
        and _most(last, chord - steepest, end, cross, end) <= limit
    )


@inside
def _holds_maximum(points: Any, left: int, right: int) -> bool:
    """Whether G climbs from both sides, and neither is the maximum itself."""
    return points[left, SLOPE] > 0.0 and points[right, SLOPE] <= 0.0 and points[left, PEAK] + points[right, PEAK] == 0.0


@inside
def _looks_simple(points: Any, left: int, right: int) -> bool:
    """Whether G falls from the maximum at one of two points to the other just as its slopes there have it.

    In log beta, the cubic with these slopes and their derivatives has to keep its sign, and to have G's change as its
    integral, nearly.
    """
    start, end = points[left, BETA], points[right, BETA]
    h = math.log(end / start)
    first, last = start * points[left, SLOPE], end * points[right, SLOPE]
    bend, final = start * start * points[left, BEND] + first, end * end * points[right, BEND] + last
    if points[left, PEAK] > 0.0:
        one_sign = last < 0.0 and 3.0 * last < h * final
    else:
        one_sign = first > 0.0 and 3.0 * first > -h * bend
    change = points[right, HEIGHT] - points[left, HEIGHT]
    return one_sign and abs(h / 2.0 * (first + last) + h * h / 12.0 * (bend - final) - change) <= UNEXPLAINED * abs(
        change
    )


@inside
def _settled(points: Any, left: int, right: int, most: float) -> bool:
    """Whether nothing between two points has to be looked at, `most` being the highest maximum so far."""
    if points[left, SURE] == 0.0:
        touches = points[left, PEAK] + points[right, PEAK] > 0.0
        slack = SLACK_AT_MAXIMUM if touches and _looks_simple(points, left, right) else SLACK
        if _holds_maximum(points, left, right):
            slack = 0.0
        points[left, SURE] = 1.0 if _below(points, left, right, most + slack) else 0.0
    return points[left, SURE] > 0.0


@inside
def _climb(points: Any, new: int, left: int, right: int, b: Any, e: Any, bits: Any, x: Any, a: float, m: float) -> None:
    """Fill the maximum between two points: Newton's steps on G', bisection where one leaves the bracket."""
    low, high = points[left, BETA], points[right, BETA]
    points[new] = points[left if points[left, HEIGHT] > points[right, HEIGHT] else right]
    for _ in range(MOST_STEPS):
        beta, slope, bend = points[new, BETA], points[new, SLOPE], points[new, BEND]
        if slope > 0.0:
            low = beta
        else:
            high = beta
        step = -slope / bend if bend < 0.0 else math.inf
        to = beta + step
        if not low < to < high:
            to = 0.5 * (low + high)
            step = high - low
        if abs(step) <= CLOSE * beta:
            points[new, BETA] = to  # the other fields differ by less than matters from here on
            break
        exponentials(b, to, e, bits, x)
        _fill(points, new, b, e, x, to, a, m)
    points[new, PEAK], points[new, SURE] = 1.0, 0.0


@inside
def _scan(
    points: Any, after: Any, b: Any, e: Any, bits: Any, x: Any, a: float, m: float, low: float, high: float
) -> int:
    """Fill points a factor 4 apart, and the upper end; `after` links each to the next. Returns which is the last."""
    last, beta = 0, low
    most = len(points) - MOST_SPLITS - 1  # leaves room for the first maximum, and for what is split
    exponentials(b, beta, e, bits, x)
    while beta < high * (1.0 - 1e-12) and last < most:
        _fill(points, last, b, e, x, beta, a, m)
        after[last] = last + 1
        last += 1
        beta *= 4.0
        if beta > high * (1.0 + 1e-12):
            exponentials(b, high, e, bits, x)
            break
        _double(e, x)
        _double(e, x)
    _fill(points, last, b, e, x, high, a, m)
    return last


@inside
def _split(points: Any, after: Any, i: int, new: int, b: Any, e: Any, bits: Any, x: Any, a: float, m: float) -> None:
    """Put a new point after point i: the maximum up to the next one where there is one, else the middle."""
    right = after[i]
    if _holds_maximum(points, i, right):
        _climb(points, new, i, right, b, e, bits, x, a, m)
    else:
        beta = math.sqrt(points[i, BETA] * points[right, BETA])
        exponentials(b, beta, e, bits, x)
        _fill(points, new, b, e, x, beta, a, m)
    after[new], after[i] = right, new


@inside
def _is_maximum(points: Any, i: int, last: int) -> bool:
    """Ends count where G climbs towards them."""
    slope = points[i, SLOPE]
    return points[i, PEAK] > 0.0 or (i == 0 and slope <= 0.0) or (i == last and slope >= 0.0)


@inside
def _search_row(  # noqa: C901 - one numeric kernel, whose phases share the points and their links
    b: Any,
    e: Any,
    bits: Any,
    x: Any,
    points: Any,
    after: Any,
    a: float,
    m: float,
    low: float,
    high: float,
    otherwise: float,
) -> float:
    """The beta in [low, high] that maximises G; `otherwise` where the variance is zero at every beta."""
    if not low < high:
        return low
    last = _scan(points, after, b, e, bits, x, a, m, low, high)
    top = 0
    for i in range(last + 1):
        if points[i, HEIGHT] >= points[top, HEIGHT]:
            top = i
    if points[top, HEIGHT] == -math.inf:
        return min(max(otherwise, low), high)
    count = last + 1
    # The maximum next to the best point goes first: the higher it is, the less is left to look at.
    i = top if points[top, SLOPE] > 0.0 and top < last else max(top - 1, 0)
    if i < last and _holds_maximum(points, i, i + 1):
        _split(points, after, i, count, b, e, bits, x, a, m)
        count += 1
    most = -math.inf
    for i in range(count):
        if _is_maximum(points, i, last):
            most = max(most, points[i, HEIGHT])
    # Rounds: whatever may still hold a higher one is split.
    before = 0
    while before < count:
        before, i = count, 0
        while i != last:
            follower = after[i]
            if count < len(points) and not _settled(points, i, follower, most):
                _split(points, after, i, count, b, e, bits, x, a, m)
                if points[count, PEAK] > 0.0:
                    most = max(most, points[count, HEIGHT])
                count += 1
            i = follower
    # Of maxima as high as each other up to rounding, the least tau_other.
    best = 0.0
    for i in range(count):
        if _is_maximum(points, i, last) and points[i, HEIGHT] >= most - TIE:
            best = max(best, points[i, BETA])
    return best if best > 0.0 else points[top, BETA]


@compiled
def search_rows(tau_target: float, below: Any, a: Any, m: Any, lower: Any, upper: Any, tau_other: Any) -> None:
    """Fill `tau_other` of each row: below (n, K), a = f_y / tau_target, m, and each row's [lower, upper]."""
    n, k = below.shape
    e, bits, x = scratch(k)
    octaves = 0
    for row in range(n):
        wide = math.log2(upper[row]) - math.log2(lower[row])  # apart, as their ratio may overflow
        if 0.0 < wide < MOST_OCTAVES:
            octaves = max(octaves, math.ceil(wide))
    points, after = np.empty((octaves + 2 + MOST_SPLITS, FIELDS)), np.empty(octaves + 2 + MOST_SPLITS, np.int64)
    for row in range(n):
        low, high = 1.0 / upper[row], 1.0 / lower[row]
        beta = _search_row(below[row], e, bits, x, points, after, a[row], m[row], low, high, 1.0 / tau_target)
        # The ends themselves, not their inverse's inverse: callers compare tau_other with them for equality.
        tau_other[row] = upper[row] if beta <= low else lower[row] if beta >= high else 1.0 / beta
