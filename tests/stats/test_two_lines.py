"""Two lines with a break: against statsmodels, and how often courses without a peak are called one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

import capmismatch as cm
from capmismatch.errors import InputError
from capmismatch.stats.peaks import disagree
from capmismatch.stats.two_lines import two_lines, two_lines_of

NAMES = list("abcdefg")


def plain(x: np.ndarray, y: np.ndarray, at: float, first: bool) -> tuple[float, float]:
    """Slope and t (HC3) of one line of an interrupted regression of all rows; the break belongs to that line."""
    upper = x > at if first else x >= at
    design = np.stack([np.ones_like(x), (x - at) * ~upper, (x - at) * upper, upper], axis=1)
    fit = sm.OLS(y, design).fit(cov_type="HC3")
    index = 1 if first else 2
    return float(fit.params[index]), float(fit.tvalues[index])


def test_slopes_and_break_are_those_of_an_interrupted_regression() -> None:
    draws = np.random.default_rng(3)
    means = np.array([0.0, 1, 2, 2.1, 2, 1, 0])
    runs = means[:, None] + 0.3 * draws.standard_normal((7, 3))
    x, y = np.repeat(np.arange(7.0), 3), runs.ravel()
    errors = math.sqrt(runs.var(axis=1, ddof=1).mean() / 3)
    inside = runs.mean(axis=1)[1:-1]
    flat = 1 + np.flatnonzero(inside + errors >= inside.max())
    middle = float(np.median(flat))
    t = [abs(plain(x, y, middle, first)[1]) for first in (True, False)]
    at = float(np.quantile(flat, t[1] / sum(t)))
    found = two_lines(2.0 ** np.arange(7), runs, teachers=NAMES)
    expected = plain(x, y, at, True)[0], plain(x, y, at, False)[0]
    assert (found.rise, found.fall) == pytest.approx((expected[0], -expected[1]))
    for p, first in ((found.p_rise, True), (found.p_fall, False)):
        rows = (x <= at).sum() if first else (x >= at).sum()
        assert p == pytest.approx(2 * stats.t.sf(abs(plain(x, y, at, first)[1]), rows - 2))
    assert found.break_at == NAMES[math.floor(at)] and found.shown and found.p_value == max(found.p_rise, found.p_fall)


def test_hardly_a_course_without_a_peak_is_called_one() -> None:
    x = np.linspace(0, 1, 7)
    courses = {
        "flat": 0 * x,
        "saturating": 4 * (1 - np.exp(-5 * x)),
        "step": 4.0 * (x > 0.4),
        "hill": 4 - 20 * (x - 0.5) ** 2,
    }
    draws, called = np.random.default_rng(0), {}
    for name, course in courses.items():
        noise = draws.standard_normal((200, 7, 3))
        called[name] = np.mean([two_lines(x, course[:, None] + one).shown for one in noise])
    assert max(called[name] for name in ("flat", "saturating", "step")) <= 0.075  # 5 %, and two standard errors more
    assert called["hill"] > 0.8


def test_what_runs_share_is_no_noise_where_they_are_paired() -> None:
    draws = np.random.default_rng(0)
    hill = np.array([0.0, 1, 2, 3, 2, 1, 0])[:, None] + 0.2 * draws.standard_normal((7, 3))
    shared = hill + np.array([-5.0, 0, 5])
    alone, paired = (two_lines(range(7), shared, paired=flag) for flag in (False, True))
    assert not alone.shown and paired.shown
    assert paired.rise == pytest.approx(two_lines(range(7), hill).rise)


def test_single_runs_have_an_answer_where_lines_have_three_teachers_each() -> None:
    hill = [0.0, 1.1, 1.9, 3.0, 2.1, 0.9, 0.0]
    assert two_lines(range(7), hill, se=[0.1] * 7).shown
    few = two_lines(range(4), [0.0, 2, 1, 0])
    assert math.isnan(few.p_value) and not few.shown
    assert two_lines(range(7), [0.0, 1, 2, 3, 2, 1, 0]).p_value == 0  # all on two lines
    assert two_lines(range(6), [[1.0, 1]] * 6).p_value in (0.0, 1.0) and not two_lines(range(6), [[1.0, 1]] * 6).shown
    with pytest.raises(InputError, match="3 teachers"):
        two_lines([1, 2], [[1.0], [2.0]])


def table() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    rows = [
        ("f", name, 2.0**rank, seed, "val", probe, tau, value + 0.05 * draws.standard_normal(), 0.01)
        for rank, name in enumerate(NAMES)
        for seed in range(2)
        for probe, tau, value in (("derived_std", 4.0, 3 - abs(3 - rank)), ("nll", math.nan, -rank))
    ]
    columns = ["family", "teacher", "params", "seed", "split", "probe", "tau", "value", "se"]
    return pd.DataFrame(rows, columns=columns)


def test_peaks_of_a_table_are_those_of_each_quantity() -> None:
    found = cm.peaks(table()).set_index("probe")
    assert found["peak"].to_dict() == {"derived_std": "d", "nll": "a"} and (found["reason"] == "").all()
    for probe, rows in table().groupby("probe"):
        assert found.loc[probe, "p"] == pytest.approx(cm.peak_of(rows).p_value)
        assert found.loc[probe, "p_two_lines"] == pytest.approx(two_lines_of(rows).p_value)
    assert found.loc["derived_std", "p"] < 0.05 and found.loc["derived_std", "findings"] == ""
    assert found.loc["nll", "p"] > 0.5 and found.loc["nll", "teachers"] == 7
    single = cm.peaks(table().query("seed == 0 and teacher in ['a', 'b']").assign(se=math.nan))
    assert single["reason"].str.contains("3 teachers").all() and single["p"].isna().all()


def test_peaks_of_students_are_paired_by_seed_and_findings_say_where_tests_disagree() -> None:
    draws, rows = np.random.default_rng(0), []
    for rank, name in enumerate(NAMES):
        for seed in range(3):
            accuracy = 0.6 - 0.02 * abs(3 - rank) + 0.1 * seed + 0.002 * draws.standard_normal()
            rows.append(("f", name, 2.0**rank, 0, "s", "KD", "KD", seed, "test", accuracy, 1000))
    columns = [
        "family",
        "teacher",
        "params",
        "teacher_seed",
        "student",
        "label",
        "method",
        "seed",
        "split",
        "accuracy",
        "n",
    ]
    results = pd.DataFrame(rows, columns=columns)
    (found,) = cm.peaks(results).to_dict("records")
    assert found["peak"] == "d" and found["p"] < 0.05 and found["p_two_lines"] < 0.05 and not found["single"]
    few = cm.peaks(results[results["teacher"].isin(list("abcd")) & results["seed"].eq(0)]).iloc[0]
    assert few["single"] and few["findings"] == "CM003,CM028"
    assert disagree(0.01, 0.2) and not disagree(0.01, 0.01) and not disagree(0.01, math.nan)
