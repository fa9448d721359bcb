"""Comparisons with the best: Dunnett's quantile, and what the intervals and sets promise in simulated families."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from capmismatch.stats.best import dunnett_quantile, gap_to_best, may_be_best
from capmismatch.stats.estimates import against_best


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("others", "free"), [(1, 3.0), (4, 10.0), (11, 11.0), (7, np.inf)])
def test_quantile_is_that_of_the_largest_of_correlated_t(others: int, free: float, two_sided: bool) -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((200_000, others + 1))
    largest = (z[:, :1] - z[:, 1:]) / np.sqrt(2)
    largest = (np.abs(largest) if two_sided else largest).max(axis=1)
    scale = np.sqrt(rng.chisquare(free, len(z)) / free) if np.isfinite(free) else 1.0
    assert (largest / scale <= dunnett_quantile(others, free, two_sided=two_sided)).mean() == pytest.approx(
        0.95, abs=0.003
    )


def test_one_other_is_students_t() -> None:
    assert dunnett_quantile(1, 7, two_sided=True) == pytest.approx(stats.t.ppf(0.975, 7), rel=1e-4)
    assert dunnett_quantile(1, 7, two_sided=False) == pytest.approx(stats.t.ppf(0.95, 7), rel=1e-4)


def test_gap_is_the_worst_of_the_pairs() -> None:
    means, variances = np.array([0.0, 3.0, 2.5, 1.0]), np.array([0.1, 0.9, 0.1, 0.1])
    d = dunnett_quantile(3, 9, two_sided=True)
    pairs = [(0.0 - means[j], d * np.sqrt(0.1 + variances[j])) for j in (1, 2, 3)]
    gap = gap_to_best(means, variances, 9, 0)
    assert gap == pytest.approx((-3.0, min(g - h for g, h in pairs), min(g + h for g, h in pairs)))
    assert np.isnan(gap_to_best(means, variances, 0, 0)[1:]).all()
    assert may_be_best(means, variances, 0).all() and may_be_best(means[:1], variances[:1], 5).all()


def simulated(seed: int, spread: float, families: int = 400, teachers: int = 12, seeds: int = 2) -> dict[str, float]:
    """How often sets and intervals keep their word, with what a seed does to all teachers alike."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(families):
        true = spread * rng.standard_normal(teachers)
        y = true + rng.standard_normal((seeds, 1)) + rng.standard_normal((seeds, teachers))
        frame = pd.DataFrame(y, columns=[str(i) for i in range(teachers)])
        gap, real = against_best(frame, "0"), true[0] - true[1:].max()
        means, noise = y.mean(0), (y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()).ravel()
        free = (teachers - 1) * (seeds - 1)
        could = may_be_best(means, np.full(teachers, (noise**2).sum() / free / seeds), free)
        found.append((could[true.argmax()], gap.low <= real <= gap.high, gap.high < 0, could.mean()))
    return dict(zip(("set", "gap", "worse", "size"), np.mean(found, axis=0), strict=True))


def test_sets_and_gaps_cover_with_two_seeds() -> None:
    equal, apart = simulated(0, 0.0), simulated(1, 2.0)
    assert min(equal["gap"], apart["gap"], apart["set"]) > 0.93
    assert equal["worse"] < 0.035  # of teachers that all teach alike, 2.5 % may look worse than the best
    assert apart["size"] < 0.6  # and the set says something
