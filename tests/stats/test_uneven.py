"""Noise that differs between teachers, or has heavy tails: told by the repeats, and believed less for it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import invgamma

from capmismatch.stats import posterior, uneven
from capmismatch.stats.groups import Group, Noise, seed_noise
from capmismatch.stats.posterior import joint_draws, posterior_draws
from capmismatch.stats.uneven import SCALES, Repeats, kinds_of

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench_reliability.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(BENCH.parent))
    return runpy.run_path(str(BENCH))


def group(runs: np.ndarray) -> Group:
    """Teachers without probes, by their students' accuracies (T, seeds)."""
    noise = seed_noise(runs[:, None], np.full(len(runs), 1e-5))
    return Group(runs.mean(axis=1), noise, np.zeros((len(runs), 0)), range(len(runs)), ["f"] * len(runs))


def chance_uneven(runs: np.ndarray) -> float:
    noise = seed_noise(runs[:, None])
    assert noise.squares is not None and noise.own_free is not None
    return 1 - kinds_of(Repeats(noise.squares, noise.own_free, np.arange(len(runs))), SCALES, 0 * SCALES)[0].weight


def test_each_units_squares_sum_to_the_pooled_ones() -> None:
    runs = np.random.default_rng(0).standard_normal((5, 1, 4))
    runs[3, 0, 2:] = np.nan
    noise = seed_noise(runs - np.nanmean(runs, axis=0), paired=True)
    assert noise.squares is not None and noise.own_free is not None and noise.repeats is not None
    assert noise.squares.sum() == pytest.approx(noise.free) == noise.own_free.sum()
    there = noise.at(np.array([3, -1]))
    assert there.repeats is not None and there.repeats.tolist() == [2, 0]


def test_repeats_tell_whether_noise_is_even() -> None:
    rng = np.random.default_rng(1)
    even = rng.standard_normal((40, 4))
    assert chance_uneven(even) < 0.6 < 0.99 < chance_uneven(even * np.exp(rng.standard_normal((40, 1))))
    assert chance_uneven(rng.standard_t(2.5, (40, 4))) > 0.9


@pytest.mark.parametrize("tail", uneven.TAILS.tolist())
def test_a_typical_unit_has_the_noise_that_is_told(tail: float) -> None:
    """The median of the relative variances is one, whatever the tails."""
    width = float(uneven._width(tail))
    assert invgamma(tail / 2, scale=width / 2).median() == pytest.approx(1)


def test_the_likelihood_of_repeats_is_the_integral_over_their_noise() -> None:
    """Differences between scales of the density of a sum of squares, by quadrature over g."""
    tail, square, free = 3.0, 7.0, 2.0
    alone, scales = Repeats(np.array([square]), np.array([free]), np.zeros(1, np.int64)), np.array([0.5, 1.0, 3.0])
    prior = invgamma(tail / 2, scale=float(uneven._width(tail)) / 2)

    def density(scale: float) -> float:
        return quad(lambda g: prior.pdf(g) * (scale * g) ** (-free / 2) * np.exp(-square / (2 * scale * g)), 0, np.inf)[
            0
        ]

    expected = np.log([density(scale) for scale in scales])
    found = uneven._likelihood(alone, scales, tail, by_teacher=False)
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-6)


@pytest.mark.parametrize("units", [uneven.WIDE - 1, uneven.WIDE + 1])
def test_triangular_systems_are_solved_either_way(units: int) -> None:
    rng = np.random.default_rng(units)
    roots = np.tril(rng.standard_normal((3, units, units))) + units * np.eye(units)
    sides = rng.standard_normal((3, units, 2))
    np.testing.assert_allclose(roots @ uneven._solved(roots, sides), sides, atol=1e-9)
    np.testing.assert_allclose(roots.mT @ uneven._solved(roots, sides, transposed=True), sides, atol=1e-9)


def test_a_noisy_teachers_lead_is_believed_less_than_a_quiet_ones() -> None:
    """Two of ten teachers lead by as much; one of them by seeds that are far apart."""
    rng = np.random.default_rng(0)
    runs = np.linspace(0.69, 0.71, 10)[:, None] + 0.002 * rng.standard_normal((10, 4))
    runs[0], runs[1] = 0.712 + np.array([-0.03, 0.03, -0.02, 0.02]), 0.712 + 0.002 * np.array([-1, 1, -1, 1])
    draws = posterior_draws(group(runs), 2000, rng).means
    assert (draws[:, 1] == draws.max(axis=1)).mean() > 0.4 > 0.15 > (draws[:, 0] == draws.max(axis=1)).mean()
    assert draws[:, 0].std() > 1.5 * draws[:, 1].std() and draws[:, 0].mean() < draws[:, 1].mean() - 0.003


def test_chains_with_all_noise_nearly_alike_agree_with_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two settings and a teacher that one of them lacks; nu = 400 hardly differs from none."""
    rng = np.random.default_rng(3)
    truth = np.array([0.0, 0.01, 0.02, 0.03, 0.04])
    runs = np.concatenate([truth, truth])[:, None] + 0.01 * rng.standard_normal((10, 3))
    noise, means = seed_noise(runs[:, None]), runs.mean(axis=1)
    means[7] = np.nan
    places = (np.arange(5), np.array([5, 6, -1, 8, 9]))
    settings = [
        Group(means[5 * k : 5 * k + 5], noise.at(place), np.zeros((5, 0)), "abcde", "f" * 5)
        for k, place in enumerate(places)
    ]
    found = []
    for even, tails in ((1 - 1e-9, [3.0]), (1e-9, [400.0])):
        for name, value in (("EVEN_WEIGHT", even), ("TAILS", np.array(tails)), ("TAIL_WEIGHTS", np.ones(1))):
            monkeypatch.setattr(uneven, name, value)
        found.append(joint_draws(settings, 8000, rng).means)
    one, other = found
    spread = one.std(axis=0)
    np.testing.assert_allclose(other.mean(axis=0), one.mean(axis=0), atol=0.15 * spread.max())
    np.testing.assert_allclose(other.std(axis=0), spread, rtol=0.12)


def test_noise_without_repeats_is_as_it_is_said() -> None:
    """Variances that are given, not estimated: no chain is needed."""
    means = np.array([0.70, 0.72, 0.74])
    known = Group(means, Noise(np.full(3, 1e-8), 1e6), np.zeros((3, 0)), "abc", "fff")
    data = posterior._measured([known], [])
    assert not data.by_unit and data.number == 1


def test_picks_come_true_whatever_the_noise(bench: dict[str, Any]) -> None:
    """A small version of benchmarks/bench_reliability.py for seeds that scatter unevenly; generous bounds."""
    shipped = np.random.default_rng(0).standard_normal((12, 3))
    trials = [
        bench["trial"](np.random.default_rng([number, 5]), bench["Design"](0, 2 + number % 2, 1, kind), shipped)
        for kind in bench["UNEVEN"]
        for number in range(25)
    ]
    claimed, true, expected, real = np.array(trials).T
    assert abs(claimed.mean() - true.mean()) < 0.05 + 2.5 * 0.5 / np.sqrt(len(trials))
    assert expected.mean() == pytest.approx(real.mean(), rel=0.5)
    sure = claimed > 0.7
    assert true[sure].mean() > claimed[sure].mean() - 0.07 - 2.5 * 0.4 / np.sqrt(sure.sum())
