r"""Temperatures as probes: that which calibrates a teacher, and that which makes it as sure as another.

The NLL of the targets is convex in the inverse temperature :math:`\beta = 1/\tau`, with the slope
:math:`\mathrm{E}_p[f] - f_y` of an example. So one temperature calibrates best, where the mean slope is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from capmismatch._numerics.arrays import ArrayLike, as_pair
from capmismatch._numerics.softmax import Parts, Softened, take_apart
from capmismatch.errors import InputError, must_be_one_of, must_be_temperature
from capmismatch.probes._registry import REGISTRY, register

COOLEST, WARMEST = 1 / 32, 64.0
"""Temperatures between which is searched: beyond them a teacher counts as one that no temperature calibrates."""

STARTS = (0.25, 0.5, 1.0, 2.0)  # inverse temperatures that are looked at first, together
STEP = 1e-3  # relative, of the inverse temperatures whose slopes tell the curvature
TOLERANCE, EXACT = 1e-9, 1e-13  # relative; the latter so that ways of summing end at the same temperature

Floats = NDArray[np.float64]
Slopes = Callable[[Sequence[float]], Floats]
"""(T, n) slopes of each example's NLL at T inverse temperatures."""


def slope(softened: Softened) -> Tensor:
    """(N,) derivative of each example's NLL in the inverse temperature: mean logit under p, less the target's."""
    raw = softened.raw
    return softened.wrong_mass * (raw.max_wrong_logit - raw.target_logit + softened.sums.mean_below)


def slopes_of(raw: Parts, rates: Sequence[float]) -> Tensor:
    """(T, N) slopes of some rows at inverse temperatures."""
    return torch.stack([slope(softened) for softened in Softened.at_each(raw, [1 / rate for rate in rates])])


def calibrating_values(slopes: Slopes, bounds: tuple[float, float] = (1 / WARMEST, 1 / COOLEST)) -> Floats:
    r"""A value for each example whose mean is the calibrating temperature, and whose standard error is its own.

    Of an estimate where a mean slope is 0 an example's share is its slope over the curvature:
    :math:`\tau + \tau^2 g_i / H` (Huber's sandwich).

    Parameters
    ----------
    slopes : callable
        See `Slopes`.
    bounds : tuple of float
        Least and largest inverse temperature.

    Returns
    -------
    ndarray, shape (n,)
        NaN where no temperature within the bounds is the best.
    """
    rate = calibrating_rate(slopes, bounds)
    if math.isnan(rate):
        return np.full(slopes([bounds[0]]).shape[1], np.nan)
    low, high = max(rate * (1 - STEP), bounds[0]), min(rate * (1 + STEP), bounds[1])
    below, here, above = slopes([low, rate, high])
    curvature = float((above - below).mean()) / (high - low)
    if not curvature > 0:  # all rows are constant: every temperature is as good
        return np.full(len(here), np.nan)
    values: Floats = 1 / rate + (here - here.mean()) / (curvature * rate**2)
    return values


def calibrating_rate(slopes: Slopes, bounds: tuple[float, float], tolerance: float = EXACT) -> float:
    """The inverse temperature at which the mean slope is 0; NaN where that is not within the bounds."""
    least, most = bounds

    def means(rates: Sequence[float]) -> list[float]:
        return [float(mean) for mean in slopes(rates).mean(1)]

    starts = [rate for rate in STARTS if least < rate < most] or [math.sqrt(least * most)]
    known = dict(zip(starts, means(starts), strict=True))
    if known[starts[0]] > 0:
        known[least] = means([least])[0]
    if known[starts[-1]] < 0:
        known[most] = means([most])[0]
    low = max((rate for rate, value in known.items() if value <= 0), default=math.nan)
    high = min((rate for rate, value in known.items() if value >= 0), default=math.nan)
    if math.isnan(low) or math.isnan(high):
        return math.nan
    if not low < high:  # exactly 0
        return low if known[low] == 0 and max(known.values()) > 0 else math.nan

    def mean(rate: float) -> float:
        if rate not in known:
            known[rate] = means([rate])[0]
        return known[rate]

    return float(brentq(mean, low, high, xtol=1e-300, rtol=tolerance))


def calibration_tau(logits: ArrayLike, labels: ArrayLike) -> float:
    r"""The temperature that calibrates a teacher, :math:`\arg\min_\tau \mathrm{mean}(-\log p_y(f/\tau))`.

    Above 1 the teacher is too sure of itself, below 1 not sure enough.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits, of rows that the teacher was not trained on.
    labels : array_like of int, shape (N,)
        In [0, C).

    Returns
    -------
    float
        In [1/32, 64]; NaN where no temperature there is the best, as of a teacher that gets all rows right.

    Raises
    ------
    InputError
        No examples, logits or labels that do not fit.

    See Also
    --------
    matching_tau : The temperature at which a probe has a given value.

    References
    ----------
    Guo et al. 2017, arXiv 1706.04599.

    Examples
    --------
    >>> round(calibration_tau([[4.0, 0.0]] * 3 + [[0.0, 4.0]], [0, 0, 0, 0]), 4)  # right in 3 of 4: log 3 = 4/tau
    3.641
    """
    raw = _parts(logits, labels)
    return float(calibrating_values(lambda rates: slopes_of(raw, rates).detach().cpu().numpy()).mean())


def matching_tau(
    logits: ArrayLike, labels: ArrayLike, value: float, probe: str = "entropy", *, near: float = 4.0
) -> float:
    r"""The temperature at which the mean of a probe has a given value: that of another teacher, at its temperature.

    The entropy rises with tau. The variance over wrong classes rises and falls, so that there may be two temperatures:
    the one nearer to `near` is taken, by the quotient.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    value : float
        Of the probe.
    probe : str, default "entropy"
        Name of a probe that depends on tau and has a value for each example, such as "derived_std".
    near : float, default 4.0
        Temperature around which to search, up to a factor of 16.

    Returns
    -------
    float
        NaN where the probe does not have the value.

    Raises
    ------
    InputError
        No examples, logits or labels that do not fit, a probe of another kind.

    See Also
    --------
    capmismatch.matched_temperatures : The same for all teachers of a bank.

    Examples
    --------
    >>> logits, labels = [[4.0, 0.0, 1.0]], [0]
    >>> round(matching_tau(logits, labels, float(REGISTRY["entropy"].compute(Softened(logits, labels, 3.0)))), 6)
    3.0
    """
    compute = REGISTRY[must_depend_on_tau(probe)].compute
    raw = _parts(logits, labels)
    return matched(lambda taus: [float(compute(s).mean()) for s in Softened.at_each(raw, taus)], value, near)


def must_depend_on_tau(probe: str) -> str:
    """The name of a probe that has a value for each example at each tau; InputError for another."""
    must_be_one_of(probe, [name for name, p in REGISTRY.items() if p.tempered and p.kind == "example"], "probe")
    return probe


def matched(
    means: Callable[[Sequence[float]], Sequence[float]],
    value: float,
    near: float,
    within: tuple[float, float] = (0.0, math.inf),
) -> float:
    """The temperature nearest to `near`, by the quotient, at which a mean is `value`, up to a factor of 16; else NaN.

    Parameters
    ----------
    means : callable
        Gives the mean at each of some temperatures.
    value : float
        Wanted.
    near : float
        A temperature.
    within : tuple of float
        Lowest and highest temperature at which the mean is known; `near` lies between them.

    Examples
    --------
    >>> round(matched(lambda taus: [-((tau - 2) ** 2) for tau in taus], -0.01, near=2.0), 6)  # at 1.9 and 2.1
    2.1
    """
    must_be_temperature(near, "near")
    low, high = max(within[0], near / 16), min(within[1], near * 16)
    inside = [tau for tau in (near * 2 ** (step / 2) for step in range(-8, 9)) if low < tau < high]
    steps = [low, *inside, high]
    gaps = [mean - value for mean in means(steps)]
    if near in steps and gaps[steps.index(near)] == 0:
        return near

    def gap(tau: float) -> float:
        return means([tau])[0] - value

    steps, gaps = _with_turns(gap, steps, gaps)
    crossed = [
        float(brentq(gap, steps[at], steps[at + 1], rtol=TOLERANCE))
        for at, (before, after) in enumerate(pairwise(gaps))
        if before * after < 0
    ]
    crossed += [tau for tau, left in zip(steps, gaps, strict=True) if left == 0]
    return min(crossed, key=lambda tau: abs(math.log(tau / near)), default=math.nan)


def _with_turns(
    gap: Callable[[float], float], steps: Sequence[float], gaps: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The steps, and between them the temperatures where a gap of one sign turns and may cross zero twice."""
    points = dict(zip(steps, gaps, strict=True))
    last = len(steps) - 1
    for at, own in enumerate(gaps):
        below, above = max(at - 1, 0), min(at + 1, last)
        sign = math.copysign(1.0, own)
        if 0 < sign * own <= min(sign * gaps[below], sign * gaps[above]):
            bounds = (steps[below], steps[above])
            found = minimize_scalar(lambda tau, sign=sign: sign * gap(float(tau)), bounds=bounds, method="bounded")
            points[float(found.x)] = sign * float(found.fun)
    taus = sorted(points)
    return taus, [points[tau] for tau in taus]


def _parts(logits: ArrayLike, labels: ArrayLike) -> Parts:
    raw = take_apart(*as_pair(logits, labels))
    if not len(raw.labels):
        raise InputError("a temperature needs at least one example, got none")
    return raw


register(
    "calibration_tau",
    "temperature",
    calibrating_values,
    "arg min_tau mean(-log p_y at tau)",
    "Guo et al. 2017, arXiv 1706.04599; Fan et al., ICML 2024",
    0,
    False,
)
