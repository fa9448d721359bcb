"""The search of ISATS in numba, row after row; `capmismatch.temperature` says what is searched, and why.

With b the wrong logits less their maximum m, beta = 1 / tau_other, K = C - 1 and q~ the softmax of beta b, the
logarithm of the derived variance is, up to a constant,

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

from capmismatch._kernels import compiled, exponentials, inside, scratch, vectorised

CLOSE = 3e-6  # relative length of Newton's step after which the next would be shorter than 1e-10
MOST_STEPS = 60
CHAINS = 3  # of the scan: neighbours are a factor 2^(1/3) apart; where there are two maxima, they lie wider apart


@inside
def _log_odds_terms(odds: float) -> tuple[float, float, float]:
    """p_y, 1 - p_y and log(1 - p_y), without overflow at either end."""
    if odds > 0.0:
        small = math.exp(-odds)
        return 1.0 / (1.0 + small), small / (1.0 + small), -odds - math.log1p(small)
    large = math.exp(odds)
    return large / (1.0 + large), 1.0 / (1.0 + large), -math.log1p(large)


@vectorised
def _height_sums(e: Any, x: Any) -> tuple[float, float, float]:
    total, excess, squares = 0.0, 0.0, 0.0
    for i in range(len(e)):
        total += e[i]
        excess += x[i]
        squares += x[i] * x[i]
    return total, excess, squares


@vectorised
def _doubled(e: Any, x: Any) -> tuple[float, float, float]:
    """Double beta: squaring replaces the exponential."""
    total, excess, squares = 0.0, 0.0, 0.0
    for i in range(len(e)):
        e[i] *= e[i]
        x[i] *= 2.0 + x[i]  # (1 + x)^2 - 1
        total += e[i]
        excess += x[i]
        squares += x[i] * x[i]
    return total, excess, squares


@inside
def _height(sums: Any, k: int, beta: float, a: float, m: float) -> float:
    total, excess, squares = sums
    spread = (squares - excess * excess / k) / (total * total)
    if spread <= 0.0:
        return -math.inf
    return 2.0 * _log_odds_terms(a - beta * m - math.log(total))[2] + math.log(spread)


@vectorised
def _slope_sums(b: Any, e: Any, x: Any) -> tuple[float, float, float, float, float, float, float, float]:
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
def _slope(b: Any, e: Any, bits: Any, x: Any, beta: float, a: float, m: float) -> tuple[float, float]:
    """G' and G'' at beta; 0 where the variance is 0."""
    exponentials(b, beta, e, bits, x)
    total, excess, squares, both, e1, e2, x1, x2 = _slope_sums(b, e, x)
    k = len(b)
    spread = squares - excess * excess / k  # D times total^2, as are q1 and q2
    if spread <= 0.0:
        return 0.0, 0.0
    p, rest, _ = _log_odds_terms(a - beta * m - math.log(total))
    mean = e1 / total
    variance = e2 / total - mean * mean
    q1 = x1 - mean * both
    q2 = (e2 + x2) - 2.0 * mean * (e1 + x1) + mean * mean * (total + both)
    expected = mean + m
    ratio = 2.0 * q1 / spread
    slope = 2.0 * p * expected + ratio
    bend = 4.0 * q2 / spread - 2.0 * variance * (1.0 + total * total / (k * spread))
    return slope, 2.0 * p * (variance - rest * expected * expected) + bend - ratio * ratio


@inside
def _search_row(
    b: Any, e: Any, bits: Any, x: Any, a: float, m: float, low: float, high: float, otherwise: float
) -> float:
    """The beta in [low, high] that maximises G; `otherwise` where the variance is zero at every beta."""
    if not low < high:
        return low
    k = len(b)
    # Scan: interleaved chains of doublings, and the upper end.
    best, best_height = low, -math.inf
    ratio = 2.0 ** (1.0 / CHAINS)
    for chain in range(CHAINS + 1):
        beta = low * ratio**chain if chain < CHAINS else high
        if beta >= high and chain < CHAINS:
            continue
        exponentials(b, beta, e, bits, x)
        height = _height(_height_sums(e, x), k, beta, a, m)
        while True:
            if height > best_height or (height == best_height and beta > best):  # of equal ones, the least tau_other
                best, best_height = beta, height
            beta *= 2.0
            if beta >= high:
                break
            height = _height(_doubled(e, x), k, beta, a, m)
    if best_height == -math.inf:
        return min(max(otherwise, low), high)
    # Bracket: from the best point uphill to the next one, which is not higher.
    beta = best
    slope, curve = _slope(b, e, bits, x, beta, a, m)
    if slope > 0.0:
        if best == high:
            return high
        left, right = best, min(best * ratio, high)
    else:
        if best == low:
            return low
        left, right = max(best / ratio, low), best
    # Newton's steps on G' inside the bracket, bisection where one leaves it.
    for _ in range(MOST_STEPS):
        if slope > 0.0:
            left = beta
        else:
            right = beta
        step = -slope / curve if curve < 0.0 else math.inf
        new = beta + step
        if not left < new < right:
            new = 0.5 * (left + right)
            step = right - left
        if abs(step) <= CLOSE * beta:
            return new
        beta = new
        slope, curve = _slope(b, e, bits, x, beta, a, m)
    return beta


@compiled
def search_rows(tau_target: float, below: Any, a: Any, m: Any, lower: Any, upper: Any, found: Any) -> None:
    """Fill `found` with tau_other of each row: below (n, K), a = f_y / tau_target, m, and each row's [lower, upper]."""
    n, k = below.shape
    e, bits, x = scratch(k)
    for row in range(n):
        low, high = 1.0 / upper[row], 1.0 / lower[row]
        beta = _search_row(below[row], e, bits, x, a[row], m[row], low, high, 1.0 / tau_target)
        # The ends themselves, not their inverse's inverse: whether tau_other sits on one is told by equality.
        found[row] = upper[row] if beta <= low else lower[row] if beta >= high else 1.0 / beta
