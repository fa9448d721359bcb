"""The search of ISATS in numba, row after row; `capmismatch.temperature` says what is searched, and why.

With b the wrong logits less their maximum m, beta = 1 / tau_other, K = C - 1 and q~ the softmax of beta b, the
logarithm of the derived variance is, up to a constant,

    G(beta) = 2 log(1 - p_y) + log D,       D = sum (q~ - 1/K)^2,       logit(p_y) = a - beta m - log sum exp(beta b)

and with E = sum q~ (b + m), V = sum q~ (b - mean)^2, Q1 = sum q~ (q~ - 1/K) (b - mean), Q2 = sum q~^2 (b - mean)^2

    G'  = 2 p_y E + 2 Q1 / D
    G'' = 2 p_y (V - (1 - p_y) E^2) + (4 Q2 - 2 (D + 1/K) V) / D - (2 Q1 / D)^2.

Exponentials are kept as x = exp(beta b) - 1: differences between nearly equal wrong classes then keep their digits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

CONVERGED = 1e-10  # relative width of the bracket in beta at which the search stops
MOST_STEPS = 60
CHAINS = 3  # of the scan: neighbours are a factor 2^(1/3) apart; where there are two maxima, they lie wider apart


@njit(cache=True, error_model="numpy", nogil=True)
def _slope(b: Any, x: Any, beta: float, a: float, m: float) -> tuple[float, float, float]:
    """G', G'' and G at beta; fills the scratch `x`, of b's length."""
    for i in range(len(b)):
        x[i] = math.expm1(beta * b[i])
    return _moments(b, x, beta, a, m)


@njit(cache=True, error_model="numpy", nogil=True)
def _moments(b: Any, x: Any, beta: float, a: float, m: float) -> tuple[float, float, float]:
    k = len(b)
    excess = 0.0
    first = 0.0
    for i in range(k):
        excess += x[i]
        first += (1.0 + x[i]) * b[i]
    total = k + excess
    average = excess / k
    uniform = 1.0 / k
    mean = first / total
    d = 0.0
    v = 0.0
    q1 = 0.0
    q2 = 0.0
    scale = 1.0 / total
    for i in range(k):
        q = (1.0 + x[i]) * scale
        away = (x[i] - average) * scale
        c = b[i] - mean
        qc = q * c
        d += away * away
        v += qc * c
        q1 += away * qc
        q2 += qc * qc
    odds = a - beta * m - math.log(total)
    # 1 - p_y and its logarithm, without overflow at either end
    if odds > 0.0:
        small = math.exp(-odds)
        p = 1.0 / (1.0 + small)
        wrong = small / (1.0 + small)
        log_wrong = -odds - math.log1p(small)
    else:
        large = math.exp(odds)
        p = large / (1.0 + large)
        wrong = 1.0 / (1.0 + large)
        log_wrong = -math.log1p(large)
    expected = mean + m
    if d <= 0.0:
        return 0.0, 0.0, -math.inf
    ratio = 2.0 * q1 / d
    slope = 2.0 * p * expected + ratio
    curve = 2.0 * p * (v - wrong * expected * expected) + (4.0 * q2 - 2.0 * (d + uniform) * v) / d - ratio * ratio
    return slope, curve, 2.0 * log_wrong + math.log(d)


@njit(cache=True, error_model="numpy", nogil=True)
def _search_row(b: Any, x: Any, a: float, m: float, low: float, high: float, otherwise: float) -> float:
    """The beta in [low, high] that maximises G; `otherwise` where the variance is zero at every beta."""
    if not low < high:
        return low
    # Scan: interleaved chains of doublings, so that squaring replaces exp, and the upper end.
    best, best_height, best_slope = low, -math.inf, 0.0
    ratio = 2.0 ** (1.0 / CHAINS)
    for chain in range(CHAINS):
        beta = low * ratio**chain
        fresh = True
        while beta < high:
            if fresh:
                slope, _, height = _slope(b, x, beta, a, m)
                fresh = False
            else:
                for i in range(len(b)):
                    x[i] *= 2.0 + x[i]  # (1 + x)^2 - 1
                slope, _, height = _moments(b, x, beta, a, m)
            if height > best_height:
                best, best_height, best_slope = beta, height, slope
            beta *= 2.0
    slope, _, height = _slope(b, x, high, a, m)
    if height >= best_height:
        best, best_height, best_slope = high, height, slope
    if best_height == -math.inf:
        return min(max(otherwise, low), high)
    # Bracket: from the best point uphill to the next one, which is not higher.
    if best_slope > 0.0:
        if best == high:
            return high
        left, right = best, min(best * ratio, high)
    else:
        if best == low:
            return low
        left, right = max(best / ratio, low), best
    # Newton's steps on G' inside the bracket, bisection where one leaves it.
    beta = best
    slope, curve, _ = _slope(b, x, beta, a, m)
    for _ in range(MOST_STEPS):
        if slope > 0.0:
            left = beta
        else:
            right = beta
        step = -slope / curve if curve < 0.0 else math.inf
        new = beta + step
        if not left < new < right:
            new = 0.5 * (left + right)
        if abs(new - beta) <= CONVERGED * beta or right - left <= CONVERGED * beta:
            return new
        beta = new
        slope, curve, _ = _slope(b, x, beta, a, m)
    return beta


@njit(cache=True, error_model="numpy", nogil=True)
def search_rows(logits: Any, labels: Any, tau_target: float, lower: Any, upper: Any, found: Any) -> None:
    """Fill `found` with tau_other of every row: logits (n, C) float64, labels (n,), and each row's [lower, upper]."""
    n, classes = logits.shape
    b = np.empty(classes - 1)
    x = np.empty(classes - 1)
    for row in range(n):
        y = labels[row]
        m = -math.inf
        j = 0
        for c in range(classes):
            if c != y:
                b[j] = logits[row, c]
                m = max(m, b[j])
                j += 1
        for i in range(classes - 1):
            b[i] -= m
        a = logits[row, y] / tau_target
        beta = _search_row(b, x, a, m, 1.0 / upper[row], 1.0 / lower[row], 1.0 / tau_target)
        found[row] = min(max(1.0 / beta, lower[row]), upper[row])
