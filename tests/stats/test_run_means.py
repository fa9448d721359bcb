from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from capmismatch.stats.run_means import mean_over_runs, runs_by_unit

RUNS = [[1.0, 3.0, 2.0], [5.0, 9.0], [4.0], []]
VALUES = np.array([run + [np.nan] * (3 - len(run)) for run in RUNS])


def test_each_unit_by_itself_has_students_interval():
    over = mean_over_runs(VALUES)
    assert over.runs.tolist() == [3, 2, 1, 0] and over.free.tolist() == [2, 1, 0, 0]
    np.testing.assert_allclose(over.means, [2, 7, 4, np.nan])
    for unit in (0, 1):
        low, high = stats.t.interval(0.95, len(RUNS[unit]) - 1, over.means[unit], stats.sem(RUNS[unit]))
        assert over.half_widths[unit] == pytest.approx((high - low) / 2)
    assert np.isnan(over.half_widths[2:]).all()


def test_pooled_variances_are_weighted_by_degrees_of_freedom():
    over = mean_over_runs(VALUES, pool=True)
    pooled = (2 * np.var(RUNS[0], ddof=1) + np.var(RUNS[1], ddof=1)) / 3
    np.testing.assert_allclose(over.variances, pooled)
    np.testing.assert_allclose(over.errors, np.sqrt(pooled / np.array([3, 2, 1, np.nan])))
    np.testing.assert_allclose(over.half_widths[2], stats.t.ppf(0.975, 3) * np.sqrt(pooled))
    by_group = mean_over_runs(VALUES, pool=np.array([7, 7, 2, 2]))
    assert by_group.free.tolist() == [3, 3, 0, 0] and np.isnan(by_group.variances[2:]).all()


def test_paired_runs_have_the_degrees_of_freedom_of_a_two_way_table():
    values = np.random.default_rng(0).standard_normal((5, 3))
    residuals = values - values.mean(axis=0)
    over = mean_over_runs(residuals, pool=True, paired=True)
    two_way = residuals - residuals.mean(axis=1, keepdims=True)
    assert over.free.tolist() == [(5 - 1) * (3 - 1)] * 5
    np.testing.assert_allclose(over.variances, (two_way**2).sum() / 8)


def test_runs_of_a_table_in_order_of_appearance():
    frame = pd.DataFrame({"teacher": ["b", "a", "b", "a", None], "value": [1.0, 2.0, 3.0, np.nan, 5.0]})
    units, values = runs_by_unit(frame, "teacher", "value")
    assert units["teacher"].tolist()[:2] == ["b", "a"] and len(units) == 3
    np.testing.assert_array_equal(values, [[1, 3], [2, np.nan], [5, np.nan]])
