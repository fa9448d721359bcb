r"""Slopes of the NLL at all inverse temperatures near one, from one reading of the rows.

The sum over wrong classes at r (1 + h) is a power series in h (`series_loops`), and its derivative is, too. What 14
terms leave out of the latter is, of each class, at most some :math:`14 |h|^{13} / \sqrt{28 \pi}` of the largest:
1.4e-14 for |h| <= 1/12.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._numerics import devices
from capmismatch._numerics.softmax import LogitParts, _in_blocks

if devices.HAS_NUMBA:
    from capmismatch._numerics.series_loops import series_of_rows

ORDERS = 14
WITHIN = 1 / 12
"""Relative distance of inverse temperatures from that of the series, up to which it is used."""

Floats = NDArray[np.float64]


def series(raw: LogitParts, rate: float) -> Tensor:
    """(14, N) terms sum exp(x) x^k / k! over the wrong classes of each row, x = rate (f - largest wrong f)."""
    if raw.compiled:
        out = torch.empty((ORDERS, len(raw.labels)), dtype=torch.float64)
        below, terms = raw.below.numpy(), out.numpy()
        _in_blocks(lambda rows: series_of_rows(below, rate, terms, rows.start, rows.stop), *below.shape)
        return out
    x = (rate * raw.below).clamp_min(-800.0)
    term, terms_so_far = x.exp(), []
    for k in range(ORDERS):
        terms_so_far.append(term.sum(1) / math.factorial(k))
        term = term * x
    return torch.stack(terms_so_far)


def slope_near(terms: Floats, gap: Floats, rate: float, at: float) -> Floats:
    """Slope in the inverse temperature of the NLL of each row, at one near that of its series.

    Parameters
    ----------
    terms : ndarray, shape (14, n)
        Of `series`.
    gap : ndarray, shape (n,)
        The target's logit less the largest wrong one.
    rate, at : float
        Inverse temperatures: of the series, and where the slope is wanted, at most `WITHIN` away by the quotient.

    Returns
    -------
    ndarray, shape (n,)
        (1 - p_y) (mean of f - largest wrong f under q~, less the gap).
    """
    h = at / rate - 1
    total, slope = np.zeros_like(gap), np.zeros_like(gap)
    for k in range(ORDERS - 1, -1, -1):  # Horner's scheme of the sum and its derivative
        slope = slope * h + total
        total = total * h + terms[k]
    log_odds = at * gap - np.log(total)
    wrong_mass = np.exp(-np.logaddexp(0.0, log_odds))
    found: Floats = wrong_mass * (slope / (rate * total) - gap)
    return found
