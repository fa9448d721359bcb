"""Means over clusters and pooled correlations, against statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from capmismatch.stats.across import contrasts, mean_over, pooled_correlation


def test_an_interval_over_single_values_is_students() -> None:
    x = np.random.default_rng(0).normal(size=12)
    mine = mean_over([*x, np.nan])
    low, high = sm.stats.DescrStatsW(x).tconfint_mean()
    assert (mine.value, mine.low, mine.high, mine.units) == pytest.approx((x.mean(), low, high, 12))


def test_an_interval_over_clusters_is_that_of_a_regression_with_clustered_errors() -> None:
    draws = np.random.default_rng(1)
    clusters = np.repeat(np.arange(6), [1, 4, 2, 5, 3, 2])
    x = draws.normal(size=6)[clusters] + draws.normal(size=len(clusters))
    options = {"groups": clusters, "df_correction": True, "use_correction": False}
    fit = sm.OLS(x, np.ones(len(x))).fit(cov_type="cluster", cov_kwds=options, use_t=True)
    mine = mean_over(x, clusters)
    half = (mine.high - mine.low) / 2
    theirs = float(np.diff(fit.conf_int()[0])[0]) / 2 * np.sqrt(6 / 5)
    assert (mine.value, half) == pytest.approx((x.mean(), theirs))


def test_one_unit_has_no_interval_and_none_no_mean() -> None:
    assert np.isnan(mean_over([1.0, 2.0], [0, 0]).low)
    assert np.isnan(mean_over([]).value)


def test_pooled_correlations_are_those_of_a_random_effects_meta_analysis() -> None:
    r, n = np.array([0.9, 0.2, -0.4, 0.6, 0.5]), np.array([8, 12, 6, 9, 20])
    mine = pooled_correlation([*r, 0.99, np.nan], [*n, 4, 9])  # too few teachers, no correlation
    theirs = combine_effects(np.arctanh(r), 1.06 / (n - 3), method_re="dl", use_t=True)
    table = theirs.summary_frame().loc["random effect wls"]
    assert mine.families == 5
    assert (mine.value, mine.low, mine.high) == pytest.approx(
        tuple(np.tanh([table["eff"], table["ci_low"], table["ci_upp"]])), abs=1e-6
    )
    assert mine.heterogeneity == pytest.approx(max(0.0, theirs.i2), abs=1e-9)


def test_families_that_agree_keep_an_interval() -> None:
    pooled = pooled_correlation([0.5, 0.5, 0.5], [12, 12, 12])
    half = stats.t.ppf(0.975, 2) * np.sqrt(1.06 / 9 / 3)
    assert (pooled.low, pooled.high) == pytest.approx(tuple(np.tanh(np.arctanh(0.5) + np.array([-half, half]))))


def test_a_perfect_order_stays_finite() -> None:
    pooled = pooled_correlation([1.0, 1.0, -1.0], [6, 6, 6])
    assert np.isfinite([pooled.value, pooled.low, pooled.high]).all()


def test_contrasts_are_those_of_a_mixed_model() -> None:
    """Every family has every measure: differences, their errors and p are those of REML."""
    generator = np.random.default_rng(0)
    z = generator.normal(0, 0.6, (12, 1)) + generator.normal(0, 0.3, (12, 4)) + np.array([0.2, 0.2, 0.6, -0.1])
    long = pd.DataFrame(z).reset_index().melt(id_vars="index", var_name="measure", value_name="z")
    fitted = smf.mixedlm("z ~ C(measure)", long, groups=long["index"]).fit(reml=True)
    found = contrasts(z)
    for measure in (1, 2, 3):
        name = f"C(measure)[T.{measure}]"
        assert found[measure].value == pytest.approx(fitted.params[name], abs=1e-6)
        half = stats.t.ppf(0.975, 33) * fitted.bse[name]
        assert found[measure].high - found[measure].low == pytest.approx(2 * half, rel=1e-3)
    assert (found[0].value, found[0].low, found[0].high) == (0, 0, 0)
    shifted = contrasts(np.vstack([z, np.full((1, 4), np.nan)]), reference=2)
    assert shifted[0].value == pytest.approx(-found[2].value)
    assert np.isnan(contrasts(z[:1])[1].value)
