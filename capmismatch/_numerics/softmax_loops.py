r"""Compiled loops over the rows of a softmax: what probes, class means and calibration errors spend their time in.

The package `_numerics` lists the letters. Nearly all functions take rows of *below* and *rates*, the inverse
temperatures. Everything is float64, each row is computed by itself and in the same order, so results depend neither on
threads nor on how rows were cut into blocks. `softmax` has the same in tensor operations.

**One exponential a logit.** With S(r) = sum exp(r b) over the wrong classes, all that probes ask of a temperature
follows from S(r), its slope sum b exp(r b), and S(2 r), which is the sum of squares. So rates that double, as those
of octaves of temperatures do, cost a squaring each: exponentials are taken once, at the highest temperature. They are
good to 7e-16 of themselves, and a squaring doubles that. Sums of squares lose the digits that they share with the
square of the sum, and a divergence those that p and m share: where more than two would be lost (`PLAIN`, `NEAR`), the
row is computed again in the longer way below. So every value of a row keeps 12 digits at least, and all but the last
two or three nearly always.

In the longer way exponentials come in pairs, e = exp(r b) and x = e - 1, both to their last digits: differences
between nearly equal classes live on those of x. With exp(r b) = s (1 + w), s a power of two, and w = 2^f - 1, |f| <=
1/2, from a polynomial, x is (s - 1) + s w.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

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
# (2^f - 1) / f for |f| <= 1/2: a Chebyshev fit, with which 2^f is off by 7e-16 of itself at most
F0, F1, F2, F3, F4 = (
    0.6931471805599462,
    0.24022650695910075,
    0.05550410866465167,
    0.009618129107618665,
    0.0013333558200794592,
)
F5, F6, F7, F8, F9 = (
    0.00015403530424776529,
    1.5252672924850737e-05,
    1.3215451633221434e-06,
    1.0205905413765595e-07,
    7.070977866508138e-09,
)
PLAIN = 1e-2  # K sum q~^2 - 1 from which on a variance may be taken as a difference of sums
NEAR = 1e-3  # nats of divergence within the wrong classes from which on logarithms of p and m may be subtracted
DOMINANT = 0.9  # mean probability from which on p - m is taken from the other classes
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


def _bits_of(typing_context: Any, value: Any) -> Any:
    return types.int64(types.float64), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(64)
    )


def _double_of(typing_context: Any, bits: Any) -> Any:
    return types.float64(types.int64), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.DoubleType()
    )


_as_integer: Any = intrinsic(_bits_of)  # the same 64 bits
_as_double: Any = intrinsic(_double_of)


@inside
def _exponential(power: float) -> float:
    """2^power for powers <= 0, in operations that work on vectors; below 2^-1023 it is 0."""
    power = power if power > SMALLEST else SMALLEST
    rounded = power + ROUNDER
    f = power - (rounded - ROUNDER)
    s = _as_double((_as_integer(rounded) << 52) + (1023 << 52))
    series = F3 + f * (F4 + f * (F5 + f * (F6 + f * (F7 + f * (F8 + f * F9)))))
    return s + s * (f * (F0 + f * (F1 + f * (F2 + f * series))))


@inside
def _fill(b: Any, rate: float, e: Any) -> None:
    """E = exp(rate b), without the digits of e - 1."""
    scaled = rate * LOG2_E
    for i in range(len(b)):
        e[i] = _exponential(scaled * b[i])


@inside
def _exponentials_at(b: Any, rates: Any, t: int, row: int, e: Any) -> None:
    """The same at rates[t, row], from those at rates[t - 1, row] where that is half as large, or the same."""
    rate, before = rates[t, row], rates[t - 1, row] if t > 0 else 0.0
    if rate == 2.0 * before and t > 0:
        for i in range(len(b)):
            e[i] *= e[i]
    elif rate != before or t == 0:
        _fill(b, rate, e)


@compiled
def scratch(k: int) -> Any:
    """e, its bits, and x, of one value at least: loops that look for the largest class always find a place."""
    e = np.empty(max(k, 1))
    return e, e.view(np.int64), np.empty(max(k, 1))


@compiled
def class_probabilities(logits: Any, logsumexp: Any, out: Any) -> None:
    """exp(f - logsumexp) of (K, N) logits, a class a row."""
    for c in range(len(logits)):
        for i in range(logits.shape[1]):
            out[c, i] = _exponential(LOG2_E * (logits[c, i] - logsumexp[i]))


# --------------------------------------------------------------------------------------------------- statistics of rows


@of_finite
def _largest(values: Any) -> Any:
    """The largest value, -inf of none: of every eighth by itself, as one chain of comparisons uses no vectors."""
    least = values.dtype.type(-math.inf)
    a, b, c, d, e, f, g, h = least, least, least, least, least, least, least, least
    whole = len(values) - len(values) % 8
    for i in range(0, whole, 8):
        a, b, c, d = max(a, values[i]), max(b, values[i + 1]), max(c, values[i + 2]), max(d, values[i + 3])
        e, f, g, h = max(e, values[i + 4]), max(f, values[i + 5]), max(g, values[i + 6]), max(h, values[i + 7])
    for i in range(whole, len(values)):
        a = max(a, values[i])
    return max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))


@vectorised
def _count(values: Any, wanted: Any) -> int:
    count = 0
    for i in range(len(values)):
        count += values[i] == wanted
    return count


@inside
def _find(values: Any, wanted: Any) -> int:
    """The first place of a value; the number of values where it is not among them."""
    start = 0
    while start < len(values) and _count(values[start : start + 128], wanted) == 0:
        start += 128
    for i in range(start, len(values)):
        if values[i] == wanted:
            return i
    return len(values)


@vectorised
def _shift(values: Any, origin: float, out: Any) -> tuple[float, float]:
    """Values less their origin; their sum and that of their squares."""
    total, squares = 0.0, 0.0
    for i in range(len(values)):
        shifted = values[i] - origin
        out[i] = shifted
        total += shifted
        squares += shifted * shifted
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
        highest = max(_largest(f[:y]), _largest(f[y + 1 :]))
        first = _find(f[:y], highest)
        if first == y:
            first = min(y + 1 + _find(f[y + 1 :], highest), classes - 1)  # NaN is found nowhere
        low, high = min(first, y), max(first, y)
        second[row] = max(_largest(f[:low]), _largest(f[low + 1 : high]), _largest(f[high + 1 :]))
        largest = np.float64(highest)
        total, squares = _shift(f[:y], largest, b[:y])
        more = _shift(f[y + 1 :], largest, b[y:])
        total, squares = total + more[0], squares + more[1]
        gap = f[y] - largest
        total, squares = total + gap, squares + gap * gap
        mean[row] = largest + total / classes
        std[row] = math.sqrt(max(squares - total * total / classes, 0.0) / classes)
        target[row], top[row], top_class[row] = f[y], largest, first
        correct[row] = gap > 0.0 or (gap == 0.0 and y < first)


@vectorised
def _sums(e: Any, x: Any) -> tuple[float, float]:
    excess, squares = 0.0, 0.0
    for i in range(len(x)):
        excess += x[i]
        squares += x[i] * x[i]
    return excess, squares


@vectorised
def _plain_sums(b: Any, e: Any) -> tuple[float, float, float]:
    tail, squares, first = 0.0, 0.0, 0.0
    for i in range(len(b)):
        tail += e[i]
        squares += e[i] * e[i]
        first += e[i] * b[i]
    return tail, squares, first


@inside
def _sums_of(b: Any, rate: float, top: int, fine: Any, e: Any, bits: Any, x: Any) -> tuple[float, float, float]:
    """A row's tail, variance and mean below, from `fine`: e = exp(rate b), of which the largest becomes 0.

    The variance is (sum q~^2 - 1/K) / K; where that loses digits, squares are taken about the largest class, so
    x = e - 1 is 0 there: sum x^2 <= (K + 1) sum (x - mean)^2, and their difference loses no more than the digits of K.
    """
    k = len(b)
    fine[top] = 0.0
    rest, squares, first = _plain_sums(b, fine)
    everything = 1.0 + rest
    spread = k * (1.0 + squares) / (everything * everything) - 1.0
    if not spread > PLAIN:
        exponentials(b, rate, e, bits, x)
        excess, squares = _sums(e, x)
        spread = max(squares - excess * excess / k, 0.0) * k / (everything * everything)
    return rest, spread / k / k, first / everything


@compiled
def row_sums(below: Any, rates: Any, tail: Any, variance: Any, mean_below: Any, start: int, stop: int) -> None:
    """Sum of e = exp(rate b) without the largest, population variance of q~ = e / sum e, mean of b under q~: (T, n).

    Of rows start to stop. The largest e is 1, and would take the digits of a small tail: it is left out of all sums.
    """
    k = below.shape[1]
    e, bits, x = scratch(k)
    fine = np.empty(len(e))
    for row in range(start, stop):
        b = below[row]
        top = min(_find(b, 0.0), k - 1)
        for t in range(len(rates)):
            _exponentials_at(b, rates, t, row, fine)
            found = _sums_of(b, rates[t, row], top, fine, e, bits, x)
            tail[t, row], variance[t, row], mean_below[t, row] = found


@vectorised
def _add_scaled(e: Any, scale: float, out: Any) -> None:
    for i in range(len(e)):
        out[i] += scale * e[i]


@inside
def _add_to_class(e: Any, y: int, top: int, scale: float, target: float, into: Any) -> None:
    """Add scale e to the wrong classes, of which the largest e, 1, stands as 0; and `target` to the label."""
    _add_scaled(e[:y], scale, into[:y])
    _add_scaled(e[y:], scale, into[y + 1 :])
    into[top + 1 if top >= y else top] += scale
    into[y] += target


@compiled
def sums_with_classes(
    below: Any, labels: Any, gap: Any, taus: Any, group: Any, of_p: Any, of_q: Any, sums: Any, out: Any
) -> None:
    """`row_sums` into out (3, T, n), and with the same exponentials what `add_to_classes` adds at these temperatures.

    `gap` (n,) is the target's logit less the largest wrong one; of_p and of_q (T,) are the places in sums (S, G, C) of
    the softmax over all classes and over the wrong ones, -1 where it is not wanted.
    """
    n, k = below.shape
    e, bits, x = scratch(k)
    fine, rates = np.empty(len(e)), np.empty((len(taus), 1))
    for t in range(len(taus)):
        rates[t, 0] = 1.0 / taus[t]
    for row in range(n):
        b, y, g = below[row], labels[row], group[row]
        top = min(_find(b, 0.0), k - 1)
        for t in range(len(taus)):
            _exponentials_at(b, rates, t, 0, fine)
            rest, variance, mean = _sums_of(b, rates[t, 0], top, fine, e, bits, x)
            out[0, t, row], out[1, t, row], out[2, t, row] = rest, variance, mean
            total = 1.0 + rest
            if of_p[t] >= 0:
                odds = gap[row] / taus[t] - math.log1p(rest)
                p, wrong = 1.0 / (1.0 + math.exp(-odds)), 1.0 / (1.0 + math.exp(odds))
                _add_to_class(fine, y, top, wrong / total, p, sums[of_p[t], g])
            if of_q[t] >= 0:
                _add_to_class(fine, y, top, 1.0 / total, 0.0, sums[of_q[t], g])


@compiled
def add_to_classes(below: Any, labels: Any, rates: Any, scale: Any, target: Any, group: Any, sums: Any) -> None:
    """Add each row's p (C,), scale exp(rate b) for wrong classes and `target` for the label, to sums[t, group].

    Row after row; rates, scale and target are (T, n), sums (T, G, C).
    """
    n, k = below.shape
    e = np.empty(k)
    for row in range(n):
        y = labels[row]
        for t in range(len(rates)):
            _exponentials_at(below[row], rates, t, row, e)
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


@vectorised
def _log_ratios(
    b: Any, e: Any, rate: float, less: float, scale: float, mean: Any, log_mean: Any
) -> tuple[float, float]:
    """Sum e (rate b - less - log m), and sum (p - m)^2."""
    ratios, distance = 0.0, 0.0
    for i in range(len(e)):
        ratios += e[i] * ((rate * b[i] - less) - log_mean[i])
        short = scale * e[i] - mean[i]
        distance += short * short
    return ratios, distance


@inside
def _class_by_class(
    b: Any, e: Any, y: int, pivot: int, rate: float, scale: float, p: float, log_scale: float, mean: Any, log_mean: Any
) -> tuple[float, float]:
    """Sum p log(p / m) and sum (p - m)^2 of a row, from the gaps of its classes.

    Each class adds p log(p / m) - p + m, so that no digits cancel between classes. Where p and m round to 1 their
    difference has none left; it is that of all others, as both add up to 1. The pivot is the class of the largest m.
    """
    low, high = min(y, pivot), max(y, pivot)
    # Classes before both, between them, and after both; those after the target stand one place lower
    i, j = (low + 1, high) if pivot < y else (y, max(pivot - 1, y))
    one = _against(b[:low], e[:low], rate, scale, log_scale, mean[:low], log_mean[:low])
    two = _against(b[i:j], e[i:j], rate, scale, log_scale, mean[low + 1 : high], log_mean[low + 1 : high])
    three = _against(b[high:], e[high:], rate, scale, log_scale, mean[high + 1 :], log_mean[high + 1 :])
    gaps, squares, less = one[0] + two[0] + three[0], one[1] + two[1] + three[1], one[2] + two[2] + three[2]
    if pivot != y:
        of_target = p - mean[y]
        gaps += _gap(p, of_target, math.log(max(p, LEAST)) - log_mean[y])
        squares, less = squares + of_target * of_target, less + of_target
    ratio = max(-less / mean[pivot], EPSILON - 1.0)
    gaps += _gap(mean[pivot] * (1.0 + ratio), -less, math.log1p(ratio))
    return gaps, squares + less * less


@inside
def _log_ratio(less: float, m: float, otherwise: float) -> float:
    """log(p / m) from p - m where the two are near, else as given."""
    return math.log1p(less / m) if abs(less) < 0.5 * m else otherwise


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
    rest: Any,
    total: Any,
    divergence: Any,
    distance: Any,
) -> None:
    """With p as above and m its class's mean: sum p log(p / m) and sum (p - m)^2, each (T, n).

    By the chain rule: target or not, then which wrong class. `rest` (T, G) are the sums of m over the wrong classes,
    NaN where the rows of a group have several labels; these, and rows that would lose digits, go class by class.
    `total` (T, n) are the sums of exp(rate b).
    """
    n, k = below.shape
    e = np.empty(k)
    for row in range(n):
        y, g, b = labels[row], group[row], below[row]
        for t in range(len(rates)):
            _exponentials_at(b, rates, t, row, e)
            rate, first, p = rates[t, row], scale[t, row], target[t, row]
            mean, log_mean, pivot, others = means[t, g], logs[t, g], pivots[t, g], rest[t, g]
            mass, less, within, squares = first * total[t, row], 0.0, 0.0, 0.0
            if others > LEAST and (pivot == y or mean[pivot] < DOMINANT):
                less = math.log(total[t, row]) - math.log(others)
                left = _log_ratios(b[:y], e[:y], rate, less, first, mean[:y], log_mean[:y])
                right = _log_ratios(b[y:], e[y:], rate, less, first, mean[y + 1 :], log_mean[y + 1 :])
                within, squares = (left[0] + right[0]) / total[t, row], left[1] + right[1]
            if within > NEAR:
                short = mass - others
                of_target = -short if mean[y] > 0.5 else p - mean[y]
                gaps = _gap(mass, short, _log_ratio(short, others, log_scale[t, row] + less))
                gaps += _gap(p, of_target, _log_ratio(of_target, mean[y], math.log(max(p, LEAST)) - log_mean[y]))
                divergence[t, row], distance[t, row] = gaps + mass * within, squares + of_target * of_target
            else:
                divergence[t, row], distance[t, row] = _class_by_class(
                    b, e, y, pivot, rate, first, p, log_scale[t, row], mean, log_mean
                )
