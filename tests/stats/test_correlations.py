from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats
from statsmodels.stats.multitest import multipletests

from capmismatch.errors import InputError
from capmismatch.stats import correlations as st
from capmismatch.stats.groups import Group, Noise, seed_noise
from capmismatch.stats.peak import _noise, peak, peak_of
from capmismatch.stats.posterior import posterior_draws

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


def one_group(n):
    return np.zeros(n, dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(
    some.integers(3, 12).flatmap(
        lambda n: some.tuples(*(some.lists(some.integers(0, 6), min_size=n, max_size=n) for _ in range(2)))
    )
)
def test_correlations_equal_scipys_with_ties(columns):
    x, y = (np.array(column, dtype=float) for column in columns)
    for metric in st.METRICS:
        value = st.correlations(x[:, None], y[:, None], one_group(len(x)), metric)[0, 0]
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(SCIPY[metric](x, y)[0], abs=1e-12)


def test_constant_column_with_rounding_noise_is_undefined():
    x = np.full((7, 1), 0.1) * 3
    assert np.isnan(st.correlations(x, np.arange(7.0)[:, None], one_group(7), "pearson")).all()


def test_within_groups_is_the_pooled_correlation():
    rng = np.random.default_rng(0)
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    x, y = rng.standard_normal((2, 10)) + 5 * groups
    frame = pd.DataFrame({"x": x, "y": y, "g": groups})
    centred = frame.groupby("g")[["x", "y"]].transform(lambda v: v - v.mean())
    ranked = frame.groupby("g")[["x", "y"]].rank()
    ranked = ranked.groupby(frame["g"]).transform(lambda v: v - v.mean())
    pairs = [(i, j) for i, j in itertools.combinations(range(10), 2) if groups[i] == groups[j]]
    agreement = np.mean([np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs])
    expected = {"pearson": centred.corr().iloc[0, 1], "spearman": ranked.corr().iloc[0, 1], "kendall": agreement}
    for metric, value in expected.items():
        assert st.correlations(x[:, None], y[:, None], groups, metric)[0, 0] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("metric", st.METRICS)
def test_partial_is_the_correlation_of_residuals(metric):
    rng = np.random.default_rng(1)
    x, y, c = rng.standard_normal((3, 12))
    pairwise = [SCIPY[metric](a, b)[0] for a, b in ((x, y), (x, c), (y, c))]
    value = st.partial_correlation(*(np.array(v) for v in pairwise))
    if metric == "kendall":  # residuals of the pairs' signs
        first, second = np.triu_indices(12, k=1)
        x, y, c = (np.sign(v[first] - v[second]) for v in (x, y, c))
        left, right = (v - (v @ c) / (c @ c) * c for v in (x, y))
        assert value == pytest.approx(left @ right / np.sqrt((left @ left) * (right @ right)))
        return
    if metric == "spearman":
        x, y, c = (stats.rankdata(v) for v in (x, y, c))
    left, right = (v - np.polyval(np.polyfit(c, v, 1), c) for v in (x, y))
    assert value == pytest.approx(stats.pearsonr(left, right)[0])


def test_partial_is_undefined_where_the_control_decides():
    assert np.isnan(st.partial_correlation(np.array(0.5), np.array(1.0), np.array(0.5)))


@pytest.mark.parametrize("metric", st.METRICS)
@pytest.mark.parametrize("ties", [False, True])
def test_exact_p_equals_scipys_permutation_test(metric, ties):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 6))
    if ties:
        x, y = np.round(x), np.round(y)
    ours = st.permutation_test(x[:, None], y[:, None], one_group(6), metric)[0][0, 0]
    # Each permutation's |statistic| against the observed one, counted by SciPy.
    expected = stats.permutation_test(
        (x,),
        lambda v: abs(SCIPY[metric](v, y)[0]),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert ours == pytest.approx(expected.pvalue, abs=1e-12)


def test_exact_p_of_untied_spearman_and_kendall_at_nine():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 9))
    ours = st.permutation_test(x[:, None], y[:, None], one_group(9), "kendall")[0][0, 0]
    assert ours == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue, abs=1e-9)


def test_permutations_stay_within_groups():
    groups = np.array([0, 1, 0, 1, 1])
    orders, exact = st._permutations(tuple(groups.tolist()), 0, 100)
    assert exact and len(orders) == 12 and len(np.unique(orders, axis=0)) == 12
    assert (groups[orders] == groups).all()
    many, exact = st._permutations((0,) * 7 + (1,) * 7, 0, 50)
    assert not exact and many.shape == (50, 14)
    assert (np.sort(many, axis=1) == np.arange(14)).all()


def test_monte_carlo_p_is_near_the_exact_and_never_zero():
    x = np.arange(12.0)[:, None]
    p, _ = st.permutation_test(x, x, one_group(12), "spearman", draws=999)
    assert p[0, 0] == pytest.approx(1 / 1000)


@pytest.mark.parametrize("metric", st.METRICS)
def test_max_t_is_that_of_a_slow_loop(metric):
    rng = np.random.default_rng(12)
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    x[:, 2] = 1.0  # constant: never the largest, and has no p-value itself
    p, p_max = st.permutation_test(x, y, one_group(5), metric)
    for column in range(2):
        largest = [
            max(abs(SCIPY[metric](x[:, i], y[list(order), column])[0]) for i in range(2))
            for order in itertools.permutations(range(5))
        ]
        for i in range(2):
            observed = abs(SCIPY[metric](x[:, i], y[:, column])[0])
            assert p_max[i, column] == pytest.approx(np.mean(np.array(largest) >= observed - 1e-9))
    assert np.isnan(p_max[2]).all() and (p_max[:2] >= p[:2]).all()


def test_max_t_holds_its_level_and_costs_less_for_probes_that_are_alike():
    rng, called = np.random.default_rng(13), []
    for _ in range(150):
        alike = rng.standard_normal((7, 2)) @ rng.standard_normal((2, 40)) + 0.1 * rng.standard_normal((7, 40))
        none = rng.standard_normal((7, 1))
        strong = 0.9 * stats.zscore(alike[:, :1]) + 0.45 * none
        p, p_max = st.permutation_test(alike, np.hstack([none, strong]), one_group(7), "spearman")
        bonferroni = np.minimum(40 * p[0, 1], 1)
        called.append(((p_max[:, 0] < 0.05).any(), (p[:, 0] < 0.05).any(), p_max[0, 1] < 0.05, bonferroni < 0.05))
    any_max, any_alone, found, found_by_bonferroni = np.mean(called, axis=0)
    assert any_max < 0.1 < any_alone and found > found_by_bonferroni + 0.1


def test_holm_equals_statsmodels():
    p = np.random.default_rng(4).random(12) ** 3
    np.testing.assert_allclose(st.holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(st.holm(np.insert(p, 3, np.nan))[np.arange(13) != 3], st.holm(p))


def test_benjamini_hochberg_equals_statsmodels():
    p = np.random.default_rng(4).random(30) ** 2
    np.testing.assert_allclose(st.benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1])
    with_gaps = np.insert(p, [3, 10], np.nan)
    adjusted = st.benjamini_hochberg(with_gaps)
    np.testing.assert_allclose(adjusted[np.isfinite(with_gaps)], st.benjamini_hochberg(p))
    assert np.isnan(adjusted[np.isnan(with_gaps)]).all()


def test_fisher_interval_without_replicates_is_scipys():
    r = stats.pearsonr(np.arange(10.0), np.arange(10.0) ** 2 % 17)
    expected = r.confidence_interval(0.95)
    low, high = st.fisher_interval(np.array(r.statistic), "pearson", 10)
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("sizes", [[7], [4, 4], [6, 6], [4, 8], [3, 3, 5, 1]])
@pytest.mark.parametrize("metric", ["spearman", "kendall"])
def test_effective_size_gives_the_variance_over_all_orders(sizes, metric):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((len(groups), 1))
    orders = st._permutations(tuple(groups.tolist()), 0, 40_000)[0][:, :, None]
    null = st.correlations(x, x[orders[..., 0]], groups, metric)
    n = st.effective_size(groups, metric)
    expected = 1 / (n - 1) if metric == "spearman" else 2 * (2 * n + 5) / (9 * n * (n - 1))
    assert null.var() == pytest.approx(expected, rel=0.02)
    assert st.effective_size(groups, "pearson") == len(groups) - len(sizes) + 1


def test_fisher_interval_says_nothing_with_few_and_stays_finite_at_one():
    low, high = st.fisher_interval(np.array([0.5, np.nan]), "kendall", 3)
    assert (low[0], high[0]) == (-1, 1) and np.isnan(low[1])
    low, high = st.fisher_interval(np.array(1.0), "spearman", 8)
    assert 0 < low < high <= 1


@pytest.mark.parametrize("metric", st.METRICS)
@pytest.mark.parametrize("n", [4, 8, 40])
def test_fisher_interval_holds_its_value(metric, n):
    value = np.array([-1.0, -0.3, 0.0, 0.99, 1.0])
    for replicates in (None, np.broadcast_to(value, (50, 5))):
        low, high = st.fisher_interval(value, metric, n, replicates)
        assert (low <= value).all() and (value <= high).all()


def test_kendalls_interval_at_eight_teachers_by_the_published_variance():
    # Kendall (Biometrika 1938), without a link: var(tau) = 2 (2n + 5) / (9n (n - 1)); delta method on the z scale.
    n, tau = 8, 0.5
    null = 2 * (2 * n + 5) / (9 * n * (n - 1))
    assert null == pytest.approx(1 / 12)  # as it happens at n = 8
    half = 1.959964 * np.sqrt(null / (1 - null) ** 2 * (1 + tau**2 / 2))
    low, high = st.fisher_interval(np.array(tau), "kendall", n)
    assert [low, high] == pytest.approx(np.tanh([np.arctanh(tau) - half, np.arctanh(tau) + half]), abs=1e-6)


@pytest.mark.parametrize(("n", "weight"), [(4, 0), (5, 0), (6.5, 1 / 8), (8, 1 / 4), (30, 1 / 4)])
def test_the_bootstrap_has_weight_from_five_units_on(n, weight):
    replicates = np.tanh(np.random.default_rng(0).normal(0, 2.0, 4000))
    spread = np.arctanh(np.clip(replicates, -(1 - 1e-4), 1 - 1e-4)).var()
    half = 1.959964 * np.sqrt((1 - weight) / (n - 3) + weight * spread)
    _, high = st.fisher_interval(np.array(0.0), "pearson", n, replicates)
    assert float(np.arctanh(high)) == pytest.approx(half, rel=1e-6)


def test_resample_nested_mean_of_means_by_a_slow_loop():
    rng = np.random.default_rng(5)
    values = rng.standard_normal((4, 3, 2, 2))
    values[1, 2:], values[2, 0, 1] = np.nan, np.nan
    values[3, :, :, 1] = np.nan
    units, runs, seeds = rng.integers(0, 4, (6, 4)), rng.random((6, 4, 3)), rng.random((6, 4, 3, 2))
    drawn = st.resample_nested(values, units, runs, seeds)
    for b, place, column in itertools.product(range(6), range(4), range(2)):
        cells = [run[np.isfinite(run)] for run in values[units[b, place], :, :, column]]
        cells = [cell for cell in cells if cell.size]
        if not cells:
            assert np.isnan(drawn[b, place, column])
            continue
        means = []
        for r in range(len(cells)):
            cell = cells[int(runs[b, place, r] * len(cells))]
            means.append(np.mean([cell[int(seeds[b, place, r, k] * len(cell))] for k in range(len(cell))]))
        assert drawn[b, place, column] == pytest.approx(np.mean(means))


def test_same_runs_are_drawn_from_both_tables():
    x = np.arange(12.0).reshape(4, 3, 1, 1)
    rng = np.random.default_rng(6)
    units, runs = rng.integers(0, 4, (5, 4)), rng.random((5, 4, 3))
    first = st.resample_nested(x, units, runs, rng.random((5, 4, 3, 1)))
    second = st.resample_nested(2 * x, units, runs, rng.random((5, 4, 3, 1)))
    np.testing.assert_allclose(second, 2 * first)


def test_seed_noise_pools_runs_first_then_seeds_then_examples():
    values = np.array([[[0.1, 0.3], [0.5, 0.7]], [[0.2, 0.2], [np.nan, np.nan]]])
    noise = seed_noise(values)
    run_variance = np.var([0.2, 0.6], ddof=1)
    np.testing.assert_allclose(noise.variances, [run_variance / 2, run_variance])
    assert noise.free == 1
    seeds = seed_noise(values[:, :1])
    np.testing.assert_allclose(seeds.variances, [0.02 / 2 / 2, 0.02 / 2 / 2])
    single = seed_noise(values[:, :1, :1], np.array([1e-4, 2e-4]))
    np.testing.assert_allclose(single.variances, [1e-4, 2e-4])
    assert np.isinf(single.free)


def test_posterior_shrinks_to_the_peers_and_predicts_from_the_probes():
    rng = np.random.default_rng(7)
    x = np.linspace(-1.5, 1.5, 8)[:, None]
    means = 2 * x[:, 0] + 0.01 * rng.standard_normal(8)
    means[3] = np.nan
    group = Group(means, Noise(np.full(8, 0.01**2), np.inf), x, range(8), ["f"] * 8)
    draws = posterior_draws(group, 4000, rng).means
    assert draws.mean(axis=0)[3] == pytest.approx(2 * x[3, 0], abs=0.1)
    assert draws[:, 3].std() > 2 * draws[:, 2].std()

    noisy = rng.standard_normal(8)
    group = Group(noisy, Noise(np.ones(8), np.inf), np.zeros((8, 0)), range(8), ["f"] * 8)
    shrunk = posterior_draws(group, 4000, rng).means.mean(axis=0)
    assert shrunk.std() < 0.8 * noisy.std()
    assert shrunk.mean() == pytest.approx(noisy.mean(), abs=0.05)


def test_few_seeds_widen_the_intervals():
    """With three degrees of freedom behind the noise they are wider than Student's t: it may be larger still."""
    means, variances = np.array([0.5, 0.6, 0.7, 0.8]), np.full(4, 1e-5)
    halves = []
    for free in (3.0, 1e6):
        group = Group(means, Noise(variances, free), np.zeros((4, 0)), teachers="abcd", families="ffff")
        draws = posterior_draws(group, 40_000, np.random.default_rng(0)).means[:, 0]
        halves.append(np.diff(np.quantile(draws, [0.025, 0.975]))[0] / 2)
    assert stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975) < halves[0] / halves[1] < 4
    assert halves[1] == pytest.approx(1.96 * 1e-5**0.5, rel=0.1)


def test_posterior_intervals_cover_and_p_best_is_calibrated():
    rng = np.random.default_rng(8)
    covered, claimed, hit = [], [], []
    for _ in range(150):
        true = 0.6 * rng.standard_normal(8)
        seeds = true[:, None, None] + 0.5 * rng.standard_normal((8, 1, 3))
        group = Group(seeds.mean((1, 2)), seed_noise(seeds), np.zeros((8, 0)), range(8), ["f"] * 8)
        draws = posterior_draws(group, 400, rng).means
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        covered.append(np.mean((low <= true) & (true <= high)))
        best = draws.mean(axis=0).argmax()
        claimed.append(np.mean(draws.argmax(axis=1) == best))
        hit.append(true.argmax() == best)
    assert 0.9 < np.mean(covered) < 0.98
    assert abs(np.mean(claimed) - np.mean(hit)) < 0.12


def new_family(rng, slopes, name, measured=True):
    """True accuracies of eight teachers whose three probes are worth `slopes`, and the group that is known of them."""
    x = rng.standard_normal((8, 3))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    true = x @ slopes + 0.5 * rng.standard_normal(8)
    seeds = true[:, None, None] + 0.3 * rng.standard_normal((8, 1, 3))
    nothing = np.full(8, np.nan)
    known = (seeds.mean((1, 2)), seed_noise(seeds)) if measured else (nothing, Noise(nothing, np.inf))
    return true, Group(*known, x, [(name, t) for t in range(8)], [name] * 8)


@pytest.mark.parametrize("differ", [0.0, 0.4])
def test_p_best_and_intervals_of_a_family_that_has_only_probes_come_true(differ):
    rng, rows = np.random.default_rng(11), []
    for _ in range(60):
        common = 0.6 * rng.standard_normal(3)
        slopes = common + differ * rng.standard_normal((5, 3))
        evidence = [new_family(rng, own, f"f{i}")[1] for i, own in enumerate(slopes[:4])]
        true, group = new_family(rng, slopes[4], "new", measured=False)
        draws = posterior_draws(group, 400, rng, evidence).means
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        lead, best = true - true.mean(), int(draws.mean(axis=0).argmax())
        regret = (draws.max(axis=1) - draws[:, best]).mean()
        claimed = (draws.argmax(axis=1) == best).mean()
        rows.append(
            (
                ((low <= lead) & (lead <= high)).mean(),
                claimed,
                lead.argmax() == best,
                regret,
                lead.max() - lead[best],
                lead.max() - lead[0],
            )
        )
    covered, claimed, hit, expected, real, by_chance = np.mean(np.array(rows, dtype=float), axis=0)
    assert 0.87 < covered < 0.99
    assert claimed == pytest.approx(hit, abs=0.15) and expected == pytest.approx(real, abs=0.25)
    assert real < 0.6 * by_chance


def test_slopes_and_teachers_in_common_are_learnt():
    rng = np.random.default_rng(12)
    evidence = [new_family(rng, np.array([1.0, 0.0, 0.0]), f"f{i}")[1] for i in range(4)]
    _, group = new_family(rng, np.array([1.0, 0.0, 0.0]), "new", measured=False)
    low, high = np.quantile(posterior_draws(group, 2000, rng, evidence).slopes, [0.025, 0.975], axis=0)
    assert (low <= [1, 0, 0]).all() and (high >= [1, 0, 0]).all() and low[0] > 0.3

    true = np.arange(6.0)
    nothing = np.full(6, np.nan)
    unseen = Group(nothing, Noise(nothing, np.inf), np.zeros((6, 0)), list("abcdef"), ["f"] * 6)
    exact = Noise(np.full(6, 1e-4), np.inf)
    students = [Group(true + level, exact, np.zeros((6, 0)), list("abcdef"), ["f"] * 6) for level in (0.0, 10.0)]
    draws = posterior_draws(unseen, 2000, rng, students).means
    assert draws.mean(axis=1) == pytest.approx(np.zeros(2000)) and draws.mean(axis=0).argmax() == 5
    assert np.corrcoef(draws.mean(axis=0), true)[0, 1] > 0.99
    others = [Group(g.means, g.noise, g.features, list("uvwxyz"), ["g"] * 6) for g in students]
    strange = posterior_draws(unseen, 2000, rng, others).means.mean(axis=0)
    assert np.ptp(strange) < 0.2 * np.ptp(draws.mean(axis=0))


RUNS = [[0.60, 0.61], [0.65, 0.64], [0.70, 0.71], [0.66, 0.67], [0.62, 0.61]]


def test_peak_is_found_whatever_the_order():
    found = peak([1, 2, 4, 8, 16], RUNS, teachers=list("abcde"))
    assert found.teacher == "c" and found.p_value < 0.01 and found.interior
    assert sum(found.probability.values()) == pytest.approx(1) and list(found.probability) == list("abcde")
    order = [3, 0, 4, 1, 2]
    shuffled = peak(
        [[1, 2, 4, 8, 16][i] for i in order], [RUNS[i] for i in order], teachers=[list("abcde")[i] for i in order]
    )
    assert shuffled == found
    assert "rises, then falls" in repr(found) and "Peak at c" in repr(found)


def test_peak_of_an_upside_down_or_rising_course_is_refused():
    assert peak([1, 2, 4, 8, 16], [[1 - v for v in run] for run in RUNS]).p_value > 0.5
    rising = peak(range(6), np.arange(6.0), se=np.full(6, 0.1))
    assert rising.p_value > 0.5 and not rising.interior and rising.teacher == "5"
    assert "not established" in repr(rising)


def test_the_peak_lies_among_the_likely_ones_in_95_per_cent():
    rng, held, sizes = np.random.default_rng(14), [], []
    for i in range(150):
        mean = 2 - 4 * np.abs(np.linspace(0, 1, 8) - rng.random())
        found = peak(range(8), mean[:, None] + rng.standard_normal((8, 2)), n_boot=50, seed=i)
        held.append(str(mean.argmax()) in found.likely)
        sizes.append(len(found.likely))
    assert np.mean(held) > 0.92 and np.mean(sizes) < 7


def test_single_runs_are_told():
    single = peak(range(5), np.array([0, 2, 4, 3, 1.0]), se=np.full(5, 0.1))
    assert single.single and "CM028" in repr(single)
    assert not peak([1, 2, 4, 8, 16], RUNS).single


@pytest.mark.parametrize("course", ["flat", "saturating"])
def test_peak_is_honest_where_there_is_none(course):
    rng = np.random.default_rng(9)
    x = np.linspace(0, 1, 7)
    mean = {"flat": 0 * x, "saturating": 4 * (1 - np.exp(-5 * x))}[course]
    p = [peak(x, mean[:, None] + rng.standard_normal((7, 3)), n_boot=300, seed=i).p_value for i in range(200)]
    assert np.mean(np.array(p) < 0.05) <= 0.07
    raised = mean + 14 * x * (1 - x)
    p = [peak(x, raised[:, None] + rng.standard_normal((7, 3)), n_boot=300, seed=i).p_value for i in range(100)]
    assert np.mean(np.array(p) < 0.05) > (0.6 if course == "flat" else 0.1)


def test_what_a_run_does_to_all_teachers_is_no_noise_when_paired():
    rng = np.random.default_rng(4)
    own = np.array([0, 2, 4, 3, 1.0])[:, None] + rng.standard_normal((5, 3))
    lifted = own + np.array([-30.0, 0.0, 30.0])
    plain, paired = (peak(range(5), lifted, paired=paired) for paired in (False, True))
    assert not plain.paired and paired.paired and paired.p_value < 0.05 < plain.p_value
    unlifted = peak(range(5), own, paired=True)
    assert (paired.rise, paired.fall) == pytest.approx((unlifted.rise, unlifted.fall))
    # its noise is the residual of the two-way layout
    layout = pd.DataFrame(own).stack().rename_axis(["teacher", "run"]).rename("y").reset_index()
    residual = smf.ols("y ~ C(teacher) + C(run)", layout).fit()
    variances, free = _noise(list(own), None, True)
    assert free == residual.df_resid
    np.testing.assert_allclose(variances, residual.mse_resid / 3)
    for runs in ([*own[:4], own[4, :2]], own[:, :1]):
        with pytest.raises(InputError, match="paired runs need two or more of every teacher"):
            peak(range(5), runs, paired=True)


def test_paired_courses_without_a_peak_are_not_called_one():
    rng = np.random.default_rng(5)
    for mean in (np.zeros(7), 3 * (1 - np.exp(-np.arange(7)))):
        runs = mean[:, None] + 2 * rng.standard_normal((200, 1, 2)) + rng.standard_normal((200, 7, 2))
        p = [peak(range(7), run, n_boot=300, seed=i, paired=True).p_value for i, run in enumerate(runs)]
        assert np.mean(np.array(p) < 0.05) < 0.08


def test_tables_are_paired_where_all_teachers_have_the_same_runs():
    rng = np.random.default_rng(6)
    rows = [
        (t, 10**i, run, seed, 0.7 + 0.02 * [0, 2, 4, 3, 1][i] + 0.3 * run + 0.02 * seed + 0.002 * rng.standard_normal())
        for i, t in enumerate("abcde")
        for run in (0, 1)
        for seed in (run, run + 2)
    ]
    frame = pd.DataFrame(rows, columns=["teacher", "params", "teacher_seed", "seed", "accuracy"]).assign(n=1000)
    shuffled = frame.sample(frac=1, random_state=0)
    means = [own.groupby("teacher_seed")["accuracy"].mean() for _, own in frame.groupby("teacher")]
    got, expected = (peak_of(shuffled, value="accuracy", paired=True), peak(range(5), means, paired=True))
    assert got.paired and (got.rise, got.fall) == pytest.approx((expected.rise, expected.fall))
    one = shuffled[shuffled["teacher_seed"].eq(0)]
    assert peak_of(one, value="accuracy", paired=True).paired
    for lacking in (frame[1:], frame.drop(columns="seed"), frame[frame["seed"].eq(0)]):
        assert not peak_of(lacking, value="accuracy", paired=True).paired


def test_peak_of_tables():
    frame = pd.DataFrame(
        [
            (name, size, 0, seed, v)
            for name, size, run in zip("abcde", (1, 2, 4, 8, 16), RUNS, strict=True)
            for seed, v in enumerate(run)
        ],
        columns=["teacher", "params", "teacher_seed", "seed", "accuracy"],
    )
    assert peak_of(frame, value="accuracy") == peak([1, 2, 4, 8, 16], RUNS, teachers=list("abcde"))
    runs = frame.rename(columns={"teacher_seed": "seed", "seed": "teacher_seed"})
    assert peak_of(runs, value="accuracy").teacher == "c"
    single = frame[frame["seed"].eq(0)].assign(n=1000)
    assert peak_of(single, value="accuracy").p_value > peak_of(frame, value="accuracy").p_value
    with pytest.raises(InputError, match=r"expected rows of one tau, got \[1.0, 4.0\]; choose one"):
        peak_of(frame.assign(tau=np.where(frame["seed"].eq(0), 1.0, 4.0)), value="accuracy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [[1, 2], [2, 3]]), "at least 3 teachers, got 2"),
        (([1, 2, 2], [[1, 2], [2, 3], [3, 4]]), "'1' and '2' have the same size 2"),
        (([1, 2, np.nan], [[1, 2], [2, 3], [3, 4]]), "teacher '2' is not a finite number"),
        (([1, 2, 3], [[1, 2], [], [3, 4]]), "teacher '1' has no finite value"),
        (([1, 2, 3], [[1], [2], [3]]), "give standard errors"),
        (([1, 2, 3], [[1], [2]]), "got 3, 2 and 3"),
    ],
)
def test_peak_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        peak(*arguments)


def test_peak_needs_positive_errors():
    with pytest.raises(InputError, match="expected positive standard errors"):
        peak([1, 2, 3], [[1], [2], [3]], se=[0.1, 0.0, 0.1])
