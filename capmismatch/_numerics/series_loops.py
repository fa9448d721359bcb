r"""A compiled loop over the rows of a softmax: its sums at all temperatures near one, as a series.

With x = r b, the sum of exp over wrong classes at the inverse temperature r (1 + h) is :math:`\sum_k a_k h^k` with
:math:`a_k = \sum_c e^{x_c} x_c^k / k!`. `rate_series` has the same in tensor operations, and says how exact it is.
"""

from __future__ import annotations

import math
from typing import Any

from capmismatch._numerics.softmax_loops import LOG2_E, _exponential, compiled, vectorised

ORDERS = 14  # written out below
I1, I2, I3, I4, I5, I6, I7, I8, I9, I10, I11, I12, I13 = (1 / math.factorial(k) for k in range(1, ORDERS))


@vectorised
def _sum_powers(b: Any, rate: float) -> Any:
    """Sum of exp(rate b) (rate b)^k / k! for k below 14."""
    s0, s1, s2, s3, s4, s5, s6 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    s7, s8, s9, s10, s11, s12, s13 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(b)):
        x = rate * b[i]
        x = x if x > -800.0 else -800.0  # exp(x) is 0 there, and x^13 finite
        p = _exponential(LOG2_E * x)
        s0 += p
        p *= x
        s1 += p
        p *= x
        s2 += p
        p *= x
        s3 += p
        p *= x
        s4 += p
        p *= x
        s5 += p
        p *= x
        s6 += p
        p *= x
        s7 += p
        p *= x
        s8 += p
        p *= x
        s9 += p
        p *= x
        s10 += p
        p *= x
        s11 += p
        p *= x
        s12 += p
        p *= x
        s13 += p
    low = (s0, I1 * s1, I2 * s2, I3 * s3, I4 * s4, I5 * s5, I6 * s6)
    return low + (I7 * s7, I8 * s8, I9 * s9, I10 * s10, I11 * s11, I12 * s12, I13 * s13)  # noqa: RUF005


@compiled
def series_of_rows(below: Any, rate: float, out: Any, start: int, stop: int) -> None:
    """Fill out[:, row] with the series of rows start to stop: below (n, K), out (14, n)."""
    for row in range(start, stop):
        terms = _sum_powers(below[row], rate)
        for k in range(ORDERS):
            out[k, row] = terms[k]
