"""Do the statistics keep their promises? Simulated families of teachers with known truth.

    python benchmarks/bench_coverage.py [--families 1000] [--replicates 500]

Prints, for links between a probe and the students' accuracy: how often 95 % intervals of several kinds cover the truth,
and how often permutation p-values fall below 0.01, 0.05, 0.1, 0.5 where there is no link; for peaks: how often three
tests call a course of teachers a peak; for picks: coverage of the teachers' true accuracies and calibration of P(best).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from capmismatch.selection.links import _Block, resampled
from capmismatch.stats import correlations as st
from capmismatch.stats.groups import Group, seed_noise
from capmismatch.stats.peak import peak
from capmismatch.stats.posterior import posterior_draws
from capmismatch.stats.two_lines import two_lines

SIZES = ([5], [6], [8], [12], [4, 4], [6, 6], [4, 8])
"""Teachers of each family whose links are looked at."""

SEEDS = ((1, 1), (1, 2), (1, 4), (2, 3))
"""Runs of a teacher, and student seeds of a run."""

_COLUMNS = 100  # of a matrix at a time

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def simulate(
    rng: np.random.Generator, tail: str, rho: float, shape: tuple[int, ...], runs: int, seeds: int
) -> tuple[Floats, Floats]:
    """Probes (*shape, runs, 1) and accuracies (*shape, runs, seeds); seed noise has 0.3-0.5 of the teachers' spread."""
    x = rng.standard_normal(shape)
    y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(shape)
    if tail == "lognormal":
        x = (np.exp(x) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    shared = rng.standard_normal((*shape, runs))
    probe = x[..., None] + 0.3 * shared
    run = y[..., None] + 0.3 * (0.6 * shared + 0.8 * rng.standard_normal((*shape, runs)))
    return probe[..., None], run[..., None] + 0.5 * rng.standard_normal((*shape, runs, seeds))


def truth(rng: np.random.Generator, tail: str, rho: float, runs: int, seeds: int) -> dict[str, float]:
    """The correlations of the means as measured, over very many teachers."""
    x, y = simulate(rng, tail, rho, (200_000,), runs, seeds)
    x, y = x.mean((1, 2)), y.mean((1, 2))
    return {
        "pearson": float(np.corrcoef(x, y)[0, 1]),
        "spearman": float(stats.spearmanr(x, y)[0]),
        "kendall": float(stats.kendalltau(x[:50_000], y[:50_000])[0]),
    }


def paired(x: Floats, y: Floats, groups: Integers, metric: str) -> Floats:
    """Correlation of each column of x (..., n, p) with the same column of y, `_COLUMNS` of them at a time."""
    parts = []
    for start in range(0, x.shape[-1], _COLUMNS):
        here = slice(start, start + _COLUMNS)
        left, right = (st.unit_vectors(values[..., here], groups, metric) for values in (x, y))
        parts.append(np.clip((left * right).sum(axis=-2), -1, 1))
    return np.concatenate(parts, axis=-1)


def intervals(value: Floats, drawn: Floats, left: Floats, metric: str, n: float) -> dict[str, tuple[Floats, Floats]]:
    """95 % intervals of links (p,) of several kinds; "ours" is the one `correlate` gives.

    From bootstrap replicates (B, p), and the values with one teacher left out each (n, p).
    """
    below = np.nanmean((drawn < value) + 0.5 * (drawn == value), axis=0)
    bias = stats.norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    apart = left.mean(axis=0) - left
    skew = (apart**3).sum(axis=0) / (6 * np.maximum((apart**2).sum(axis=0), 1e-12) ** 1.5)
    ends = np.array([[-1.96], [1.96]])
    corrected = stats.norm.cdf(bias + (bias + ends) / (1 - skew * (bias + ends)))
    z, spread = (np.arctanh(np.clip(values, -0.9999, 0.9999)) for values in (value, drawn))
    bca = [[np.nanquantile(drawn[:, i], q) for i, q in enumerate(row)] for row in corrected]
    kinds = {
        "ours": st.fisher_interval(value, metric, n, drawn),
        "normal theory": st.fisher_interval(value, metric, n),
        "bootstrap error on z": np.tanh(z + ends * np.nanstd(spread, axis=0)),
        "percentile": np.nanquantile(drawn, [0.025, 0.975], axis=0),
        "BCa": np.array(bca),
    }
    return {kind: (low, high) for kind, (low, high) in kinds.items()}


def links(families: int, replicates: int) -> None:
    """Coverage of intervals, and the level of p-values."""
    print(
        "Links: coverage of 95 % intervals in per cent (teachers of each family x runs x seeds, truth before seed "
        "noise, probe's tail)"
    )
    rows = []
    for sizes, (runs, seeds), tail, rho in product(SIZES, SEEDS, ("normal", "lognormal"), (0.0, 0.5, 0.8)):
        rng = np.random.default_rng(0)
        true = truth(rng, tail, rho, runs, seeds)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        n = len(groups)
        x, y = (np.moveaxis(part, 0, -1) for part in simulate(rng, tail, rho, (families, n), runs, seeds))
        block = _Block(x, y, groups, np.zeros((3, n, families)))
        means = st.nested_mean(x), st.nested_mean(y)
        redrawn = list(resampled(block, replicates, 0))
        print(f"  {'+'.join(map(str, sizes))} x {runs} x {seeds} {rho} {tail}")
        for metric in st.METRICS:
            value = paired(*means, groups, metric)
            drawn = np.concatenate([paired(*both, groups, metric) for both in redrawn])
            left = [[np.delete(part, i, 0) for part in (*means, groups)] for i in range(n)]
            without = np.array([paired(*part, metric) for part in left])
            kinds = intervals(value, drawn, without, metric, st.effective_size(groups, metric))
            rates = {
                kind: 100 * float(np.mean((low <= true[metric]) & (true[metric] <= high)))
                for kind, (low, high) in kinds.items()
            }
            rows.append({"teachers": n, "families": len(sizes), "metric": metric, **rates})
            print(f"    {metric:9s}{', '.join(f'{kind} {rate:.1f}' for kind, rate in rates.items())}", flush=True)
            if rho == 0:
                p = np.array(
                    [
                        st.permutation_test(means[0][:, [i]], means[1][:, [i]], groups, metric, draws=2000)[0][0, 0]
                        for i in range(families)
                    ]
                )
                levels = [f"{np.mean(p <= level):.3f} <= {level}" for level in (0.01, 0.05, 0.1, 0.5)]
                print(f"    {'':9s}no link: p {', '.join(levels)}", flush=True)
    table = pd.DataFrame(rows)
    print("Links: lowest and highest of these rates, and those of our own by coefficient")
    print(table.groupby(["teachers", "families"])[list(kinds)].agg(["min", "max"]).round(1).to_string())
    print(table.groupby(["metric", "teachers", "families"])["ours"].agg(["min", "max"]).round(1).to_string())


def slope_p(design: Floats, y: Floats, contrast: Floats) -> float:
    """One-sided p of a positive contrast of least-squares coefficients."""
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    free = len(y) - design.shape[1]
    noise = ((y - design @ coefficients) ** 2).sum() / free
    error = np.sqrt(noise * contrast @ np.linalg.inv(design.T @ design) @ contrast)
    return float(stats.t.sf(contrast @ coefficients / error, free))


def lind_mehlum(x: Floats, y: Floats) -> float:
    """A quadratic that rises at the lower end and falls at the upper."""
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    return max(slope_p(design, y, sign * np.array([0, 1, 2 * end])) for end, sign in ((x.min(), 1), (x.max(), -1)))


COURSES: dict[str, Callable[[Floats], Floats]] = {
    "flat": lambda x: 0 * x,
    "straight": lambda x: 4 * x,
    "saturating": lambda x: 4 * (1 - np.exp(-5 * x)),
    "steep, saturating": lambda x: 8 * (1 - np.exp(-20 * x)),
    "hinge": lambda x: 20 * np.minimum(x, 0.3),
    "step": lambda x: 4.0 * (x > 0.4),
    "jump": lambda x: 4.0 * (x > 0),
    "U": lambda x: 8 * (x - 0.5) ** 2,
    "PEAK in the middle": lambda x: 3 - 12 * (x - 0.5) ** 2,
    "PEAK early": lambda x: 4 * (1 - np.exp(-8 * x)) - 2.5 * x,
    "PEAK late": lambda x: 3 * np.where(x < 0.8, x / 0.8, 1.8 - x),
}


def peaks(families: int) -> None:
    """How often each test calls a course a peak; noise has one standard deviation for each of three runs."""
    print("Peaks: called at 5 %, in per cent (ours, quadratic, two lines); PEAK marks courses that have one")
    for n in (7, 12):
        x = np.linspace(0, 1, n)
        for name, course in COURSES.items():
            rng = np.random.default_rng(0)
            called = np.zeros(3)
            for family in range(families):
                y = course(x)[:, None] + rng.standard_normal((n, 3))
                ours = peak(x, y, n_boot=1000, seed=family).p_value
                others = lind_mehlum(np.repeat(x, 3), y.ravel()), two_lines(x, y).p_value
                called += np.array([ours, *others]) < 0.05
            print(f"  {n} {name:20s}{(100 * called / families).round(1)}", flush=True)


def picks(families: int) -> None:
    """Whether intervals of true accuracies cover, and whether P(best) and expected regret come true."""
    print("Picks: coverage in % of teachers with and without students; P(best) claimed, true; regret expected, real")
    for n in (4, 8, 12):
        for between, slope in ((0.4, 0.0), (0.4, 0.5), (1.0, 0.0)):
            for absent in (0, n // 3):
                rng, rows = np.random.default_rng(0), []
                for _ in range(families):
                    probes = rng.standard_normal((n, 3))
                    true = slope * probes[:, 0] + between * rng.standard_normal(n)
                    seeds = true[:, None, None] + 0.5 * rng.standard_normal((n, 1, 3))
                    seeds[:absent] = np.nan
                    means = np.where(np.arange(n) < absent, np.nan, seeds.mean((1, 2)))
                    group = Group(means, seed_noise(seeds), probes, range(n), ["one"] * n)
                    draws = posterior_draws(group, 1000, rng).means
                    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
                    covered, best = (low <= true) & (true <= high), int(draws.mean(axis=0).argmax())
                    expected = (draws.max(axis=1) - draws[:, best]).mean()
                    unseen = covered[:absent].mean() if absent else np.nan
                    claimed = (draws.argmax(axis=1) == best).mean()
                    real = true.max() - true[best]
                    rows.append((covered[absent:].mean(), unseen, claimed, real == 0, expected, real))
                seen, unseen, claimed, hit, expected, real = np.mean(np.array(rows, dtype=float), axis=0)
                print(
                    f"  {n} teachers, {absent} without students, spread {between}, slope {slope}: {100 * seen:.1f} "
                    f"{100 * unseen:.1f}; {claimed:.2f} {hit:.2f}; {expected:.2f} {real:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=500)
    given = parser.parse_args()
    links(given.families, given.replicates)
    peaks(given.families)
    picks(given.families // 4)
