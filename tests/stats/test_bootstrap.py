"""The bootstrap against SciPy's, against theory and against a slow, obvious loop."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from capmismatch.errors import InputError
from capmismatch.stats import bootstrap as resampling
from capmismatch.stats.bootstrap import bootstrap


def sample(n=200, columns=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(n, 1)) + 0.1 * rng.standard_normal((n, columns))


def loop(values, n_boot, seed, statistic, strata=None):
    """Resample by resample, group by group, from the same random numbers."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_boot):
        if strata is None:
            drawn = rng.integers(len(values), size=len(values))
        else:
            members = [np.flatnonzero(strata == name) for name in np.unique(strata)]
            high = np.concatenate([np.full(len(own), len(own)) for own in members])
            places = rng.integers(np.zeros(len(values), int), high)
            drawn, start = [], 0
            for own in members:
                drawn += own[places[start : start + len(own)]].tolist()
                start += len(own)
        found.append(statistic(values[drawn]))
    return np.array(found)


# ------------------------------------------------------------------------------------------------------------ against


@pytest.mark.parametrize("statistic", ["mean", np.std], ids=["mean", "std"])
def test_intervals_and_errors_like_scipy(statistic):
    values = sample(columns=1)[:, 0]
    ours = bootstrap(values, statistic, n_boot=8000, seed=1)
    function = np.mean if statistic == "mean" else statistic
    theirs = stats.bootstrap((values,), function, n_resamples=8000, method="percentile", rng=2)
    # two sets of 8000 resamples: quantiles at 2.5 % are good to about 0.03 standard errors
    tolerance = 0.15 * theirs.standard_error
    np.testing.assert_allclose(ours.low, theirs.confidence_interval.low, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.high, theirs.confidence_interval.high, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.se, theirs.standard_error, rtol=0.05)
    assert ours.value == pytest.approx(function(values), rel=1e-14)


def test_standard_error_of_a_mean_like_theory():
    values = sample(400)
    found = bootstrap(values, n_boot=4000)
    np.testing.assert_allclose(found.se, values.std(axis=0) / np.sqrt(400), rtol=0.05)


@settings(deadline=None, max_examples=30)
@given(
    values=arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 3)), elements=st.floats(-1e3, 1e3)),
    seed=st.integers(0, 5),
    stratified=st.booleans(),
)
def test_replicates_like_a_loop(values, seed, stratified):
    strata = np.arange(len(values)) % 2 if stratified else None
    expected = loop(values, 7, seed, lambda rows: rows.mean(axis=0), strata)
    for statistic in ("mean", lambda rows: rows.mean(axis=0)):
        found = bootstrap(values, statistic, strata=strata, n_boot=7, seed=seed)
        np.testing.assert_allclose(found.replicates, expected, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(found.value, values.mean(axis=0), rtol=1e-12, atol=1e-9)


def test_coverage_is_nominal():
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        found = bootstrap(rng.exponential(size=100), n_boot=300, seed=seed)
        hits += found.low <= 1 <= found.high
    assert stats.binomtest(hits, 200, 0.93).pvalue > 1e-4  # skewed values: a little below 95 %


# ----------------------------------------------------------------------------------------------------- what it promises


def test_blocks_do_not_matter(monkeypatch):
    values = sample(50)
    values[3, 1] = np.nan
    whole = bootstrap(values, n_boot=40).replicates
    for cells in (1, 120, 1999):
        monkeypatch.setattr(resampling, "_CELLS", cells)
        np.testing.assert_allclose(bootstrap(values, n_boot=40).replicates, whole, rtol=1e-14)


def test_equal_seeds_draw_the_same_examples():
    values = sample()
    both, alone = bootstrap(values, seed=4, n_boot=50), bootstrap(values[:, 1], seed=4, n_boot=50)
    np.testing.assert_allclose(both.replicates[:, 1], alone.replicates, rtol=1e-14)
    assert not np.allclose(alone.replicates, bootstrap(values[:, 1], seed=5, n_boot=50).replicates)


def test_differences_are_paired():
    rng = np.random.default_rng(5)
    hard = 10 * rng.standard_normal(500)  # what the examples share
    values = hard[:, None] + rng.standard_normal((500, 2)) + [0.0, 0.5]
    found = bootstrap(values)
    apart = found.against(0)
    assert apart.value[1] == pytest.approx((values[:, 1] - values[:, 0]).mean())
    direct = bootstrap(values[:, 1] - values[:, 0])
    np.testing.assert_allclose(apart.replicates[:, 1], direct.replicates, atol=1e-12)
    assert apart.low[1] > 0 and apart.se[1] < 0.2 * found.se.min()
    assert apart.value[0] == apart.low[0] == apart.high[0] == apart.se[0] == 0
    np.testing.assert_array_equal(found.against(-1).value, found.against(1).value)


def test_strata_keep_their_sizes_and_take_their_variance_out():
    labels = np.repeat([7, 3, 5], [50, 20, 30])
    counts = (labels[:, None] == [3, 5, 7]).astype(float)
    assert (bootstrap(counts, strata=labels, n_boot=20).replicates == [0.2, 0.3, 0.5]).all()
    shuffled = np.random.default_rng(6).permutation(labels)
    values = shuffled + 0.01 * sample(100, 1)[:, 0]
    kept, free = bootstrap(values, strata=shuffled), bootstrap(values)
    within = np.sqrt(np.mean([values[shuffled == own].var() for own in shuffled]) / 100)
    assert kept.se == pytest.approx(within, rel=0.1)
    assert kept.se < 0.05 * free.se


def test_nan_examples_are_left_out_of_their_column():
    values = sample(60, 2)
    values[:20, 0] = np.nan
    found = bootstrap(values, n_boot=3000)
    assert found.value[0] == pytest.approx(np.nanmean(values[:, 0]))
    np.testing.assert_allclose(found.replicates, loop(values, 3000, 0, lambda rows: np.nanmean(rows, axis=0)))
    assert found.se[0] == pytest.approx(np.nanstd(values[:, 0]) / np.sqrt(40), rel=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = bootstrap(np.full(5, np.nan), n_boot=10)
        rare = bootstrap([np.nan, np.nan, 1.0], n_boot=50)  # some resamples hold no value at all
        assert np.isnan([empty.value, empty.low, empty.high, empty.se]).all()
        assert np.isnan(rare.replicates).any() and rare.low == rare.high == 1


def test_any_statistic_of_rows():
    values = sample()
    found = bootstrap(values, lambda rows: np.corrcoef(rows.T), n_boot=30)
    assert found.value.shape == (3, 3) and found.replicates.shape == (30, 3, 3)
    assert (found.low <= found.value + 1e-12).all() and (np.diag(found.se) < 1e-12).all()
    scalar = bootstrap(values[:, 0], np.median, n_boot=30)
    assert scalar.value.shape == () and scalar.low <= scalar.value <= scalar.high


def test_tensors_and_narrow_floats_and_levels():
    values = torch.randint(0, 2, (100,)).bfloat16().requires_grad_()
    found = bootstrap(values, n_boot=500)
    assert found.n == 100 and found.value == pytest.approx(values.detach().double().mean().item())
    wide = bootstrap(values, n_boot=500, level=0.99)
    assert wide.low <= found.low <= found.value <= found.high <= wide.high


def test_reads_well():
    found = bootstrap(sample(), n_boot=50)
    table = found.table(["a", "b", "c"])
    assert table.columns.tolist() == ["value", "low", "high", "se", "n"] and table.index.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(table["se"], found.se)
    assert "value" in str(found)
    assert str(bootstrap([1.0, 3.0], n_boot=50)).startswith("2 [1, 3], se ")


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(np.zeros((2, 2, 2))), r"shape \(N,\) or \(N, K\) with N >= 2, got shape \(2, 2, 2\)"),
        (lambda: bootstrap([1.0]), r"got shape \(1,\)"),
        (lambda: bootstrap(np.zeros((5, 0))), r"got shape \(5, 0\)"),
        (lambda: bootstrap(["a", "b"]), "expected numbers as values, got 'a' at row 0"),
        (lambda: bootstrap([1.0, np.inf]), r"finite values \(or NaN\) under a mean, got inf at row 1"),
        (lambda: bootstrap([1.0, 2.0], "median"), r"statistic must be one of \['mean'\], not 'median'"),
        (lambda: bootstrap([1.0, 2.0], strata=[1]), r"expected 2 strata, one per example, got shape \(1,\)"),
        (lambda: bootstrap([1.0, 2.0], n_boot=1), "n_boot to be a whole number of at least 2, got 1"),
        (lambda: bootstrap([1.0, 2.0], n_boot=2.5), "got 2.5"),
        (lambda: bootstrap([1.0, 2.0], level=95), r"level in \(0, 1\), got 95"),
        (lambda: bootstrap([1.0, 2.0], n_boot=2).against(0), r"one of \(\) columns to compare with, got 0"),
        (lambda: bootstrap(np.eye(2), n_boot=2).against(2), r"one of \(2,\) columns to compare with, got 2"),
    ],
)
def test_errors_say_what_and_where(call, message):
    with pytest.raises(InputError, match=message):
        call()
