"""The posterior over settings and teachers: closed forms, invariances, and whether its chances come true."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capmismatch.selection.candidates import measured
from capmismatch.stats import posterior
from capmismatch.stats.groups import Group, Noise, errors_of_seed_effects
from capmismatch.stats.posterior import joint_draws, posterior_draws

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench_reliability.py"


def group(means: list[float] | np.ndarray, variance: float, free: float = 1e6, name: str = "f", p: int = 0) -> Group:
    """Teachers with a common variance of their means, and no probes by default."""
    count = len(means)
    features = np.random.default_rng(count).standard_normal((count, p))
    values = np.asarray(means, float)
    variances = np.where(np.isfinite(values), variance, np.nan)
    return Group(values, Noise(variances, free), features, [(name, t) for t in range(count)], [name] * count)


def test_at_one_grid_point_it_is_the_normal_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known noise, known ratio, no probes: each mean is pulled toward the common one by ratio / (1 + ratio)."""
    for name, grid in (("RATIOS", [4.0]), ("RATIO_WEIGHTS", [1.0])):
        monkeypatch.setattr(posterior, name, np.array(grid))
    means = np.array([0.50, 0.52, 0.57, 0.61])
    draws = posterior_draws(group(means, 1e-4, free=1e9), 40_000, np.random.default_rng(0)).means
    pull = 4 / 5
    np.testing.assert_allclose(draws.mean(axis=0), means.mean() + pull * (means - means.mean()), atol=4e-4)
    # Known level: pull * v; the flat level adds (1 - pull)^2 (v + ratio v) / T.
    variance = 1e-4 * (pull + (1 - pull) ** 2 * 5 / 4)
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.05)


def test_scale_and_level_do_not_matter() -> None:
    means = np.array([[0.50, 0.52, 0.57, 0.61, 0.55], [0.40, 0.46, 0.44, 0.49, 0.47]])
    settings = [group(row, 1e-4, free=12.0) for row in means]
    moved = [group(3 + 10 * row, 1e-2, free=12.0) for row in means]
    first, second = (joint_draws(groups, 500, np.random.default_rng(3)).means for groups in (settings, moved))
    np.testing.assert_allclose(second, 3 + 10 * first, rtol=1e-6)


def test_settings_lend_each_other_strength() -> None:
    """The same teachers in the same order in a second setting make the first one surer."""
    truth = np.linspace(0, 0.02, 8)
    noisy = group(truth, 1e-4, free=8.0)
    alone = joint_draws([noisy], 4000, np.random.default_rng(0)).means[:, 0]
    both = joint_draws([noisy, group(truth + 0.1, 1e-6, free=8.0)], 4000, np.random.default_rng(0)).means[:, 0]
    assert (both[:, 7] > both[:, 0]).mean() > (alone[:, 7] > alone[:, 0]).mean()


def test_equally_measured_settings_fall_into_parts_that_are_the_whole() -> None:
    """Weights of the grid by the small problems equal those by the large one; so do means and covariances of draws."""
    rng = np.random.default_rng(2)
    means = 0.02 * (rng.standard_normal(6) + rng.standard_normal((3, 6)))
    others = [group(0.02 * rng.standard_normal(5), 1e-5, free=10.0, name="g", p=2)]
    settings = [group(row, 1e-4, free=15.0, p=2) for row in means]
    parts = posterior._measured(settings, others)
    whole = posterior._Measured(**vars(parts))
    assert isinstance(parts, posterior._Balanced)
    priors = posterior.prior_points(settings, others)
    difference = parts.scores(parts.points(priors)) - whole.scores(whole.points(priors))
    assert np.ptp(difference) < 1e-9
    counts = np.zeros(difference.shape, dtype=np.int64)
    counts[-3, 4, 15] = 40_000
    small, large = (data.draw(data.points(priors), counts, np.random.default_rng(0)) for data in (parts, whole))
    scale = large.std(axis=0)
    np.testing.assert_allclose(small.mean(axis=0) / scale, large.mean(axis=0) / scale, atol=0.04)
    np.testing.assert_allclose(np.cov(small / scale, rowvar=False), np.cov(large / scale, rowvar=False), atol=0.04)


def test_an_unmeasured_teacher_is_predicted_with_more_doubt() -> None:
    draws = posterior_draws(group([0.50, 0.52, np.nan, 0.54], 1e-5, free=9.0), 4000, np.random.default_rng(0)).means
    assert np.isfinite(draws).all() and draws[:, 2].std() > 3 * draws[:, 0].std()


def test_teachers_that_lack_a_seed_are_compared_as_least_squares_would() -> None:
    """The covariance of differences is that of a regression on teacher and seed, by its design matrix."""
    counts = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 0]])
    unit, seed = np.nonzero(counts)
    design = np.hstack([np.eye(5)[unit], np.eye(3)[seed]])
    expected = 0.25 * np.linalg.pinv(design.T @ design)[:5, :5]
    errors = errors_of_seed_effects(counts, 0.25)
    found = np.diag(0.25 / counts.sum(axis=1)) + errors @ errors.T
    contrasts = np.eye(5) - 0.2
    np.testing.assert_allclose(contrasts @ found @ contrasts, contrasts @ expected @ contrasts, atol=1e-12)


def test_finalists_chosen_by_their_first_seed_stay_as_unsure_as_that_seed() -> None:
    """A second seed of two teachers alone tells them apart, and not from the others: its own effect is unknown."""
    rng = np.random.default_rng(0)
    first = 0.7 + 0.01 * rng.standard_normal(8)
    best = np.argsort(first)[-2:]
    rows = [(f"t{t}", 0, value) for t, value in enumerate(first)]
    rows += [(f"t{t}", 1, first[t] + 0.05 + 0.005 * sign) for t, sign in zip(best, (1, -1), strict=True)]
    table = pd.DataFrame(rows, columns=["teacher", "seed", "accuracy"])
    units, _, noise = measured(table.assign(family="f", label="KD", student="s", teacher_seed=0))
    place = units.get_level_values("teacher").get_indexer([f"t{t}" for t in best])
    other = int(units.get_level_values("teacher").get_loc(f"t{np.argmin(first)}"))
    covariance = np.diag(noise.variances) + noise.seeds @ noise.seeds.T

    def variance(one: int, two: int) -> float:
        return float(covariance[one, one] + covariance[two, two] - 2 * covariance[one, two])

    run = 2 * noise.variances[place[0]]
    assert variance(*place) == pytest.approx(run) and variance(place[0], other) == pytest.approx(1.75 * run)


@pytest.mark.slow
def test_chances_come_true_bin_by_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small version of benchmarks/bench_reliability.py: wide bins, generous bounds."""
    monkeypatch.syspath_prepend(str(BENCH.parent))
    bench = runpy.run_path(str(BENCH))
    designs = [number for number, design in enumerate(bench["DESIGNS"]) if design.settings == 1 and design.evidence < 3]
    table = bench["bins"](pd.concat([bench["simulate"](number, block) for number in designs for block in range(2)]))
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
        rows = table[(table["low"] >= low) & (table["high"] <= high + 1e-9)]
        claimed, true, n = (np.average(rows[name], weights=rows["n"]) for name in ("claimed", "true", "n"))
        assert abs(claimed - true) < 0.05 + 3 * np.sqrt(claimed * (1 - claimed) / rows["n"].sum()), (low, high, n)
    expected, real = (np.average(table[name], weights=table["n"]) for name in ("regret", "real_regret"))
    assert expected == pytest.approx(real, rel=0.3)
