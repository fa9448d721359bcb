"""Do teachers differ at all: against statsmodels, the shipped study, and simulated families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from capmismatch.errors import InputError
from capmismatch.stats.differences import teacher_differences

SHIPPED = Path(__file__).parents[2] / "data" / "cifar10" / "results.csv"


def results(accuracy: np.ndarray, **columns: object) -> pd.DataFrame:
    """A results table of accuracies (teachers, seeds)."""
    teachers, seeds = accuracy.shape
    frame = pd.DataFrame(
        {
            "family": "f",
            "teacher": np.repeat([f"t{i}" for i in range(teachers)], seeds),
            "student": "s",
            "label": "KD tau=4",
            "seed": np.tile(np.arange(seeds), teachers),
            "split": "test",
            "accuracy": accuracy.ravel(),
        }
    )
    return frame.assign(**columns)


@pytest.mark.parametrize("lost", [0, 5])
def test_f_is_that_of_statsmodels(lost: int) -> None:
    rng = np.random.default_rng(3)
    frame = results(0.7 + 0.01 * rng.normal(size=(8, 1)) + 0.01 * rng.normal(size=(8, 4)) + 0.02 * rng.normal(size=4))
    frame = frame.drop(rng.choice(len(frame), lost, replace=False))
    table = sm.stats.anova_lm(smf.ols("accuracy ~ C(teacher) + C(seed)", frame).fit(), typ=2)
    row = teacher_differences(frame).iloc[0]
    assert row["F"] == pytest.approx(table.loc["C(teacher)", "F"], rel=1e-9)
    assert row["p"] == pytest.approx(table.loc["C(teacher)", "PR(>F)"], rel=1e-9)
    assert (row["df1"], row["df2"]) == (table.loc["C(teacher)", "df"], table.loc["Residual", "df"])


def test_seeds_that_no_teachers_share_are_not_taken_out() -> None:
    rng = np.random.default_rng(4)
    frame = results(rng.normal(0.7, 0.01, (6, 3))).assign(seed=range(18))
    table = sm.stats.anova_lm(smf.ols("accuracy ~ C(teacher)", frame).fit(), typ=2)
    row = teacher_differences(frame).iloc[0]
    assert row["F"] == pytest.approx(table.loc["C(teacher)", "F"], rel=1e-9) and row["df2"] == 12


def test_shipped_teachers_are_not_shown_to_differ_under_plain_distillation() -> None:
    table = teacher_differences(pd.read_csv(SHIPPED)).set_index("label")
    plain = table.loc["KD tau=4 student tau=1"]
    assert (plain["df1"], plain["df2"]) == (11, 11)
    assert plain["F"] == pytest.approx(1.797, abs=1e-3) and plain["p"] == pytest.approx(0.173, abs=1e-3)
    assert plain["reliability"] == pytest.approx(1 - 1 / plain["F"]) and plain["low"] == 0
    assert plain["ceiling"] == pytest.approx(plain["reliability"] ** 0.5)
    assert (
        table.loc["ISATS unconstrained tau=4", "p"] < 1e-5
        and table.loc["ISATS unconstrained tau=4", "reliability"] > 0.95
    )
    assert np.isinf(table.loc["ATS tau=4 other tau=3", "seeds_for_80"])


def test_runs_needed_reach_the_reliability() -> None:
    """Spearman and Brown, from the variances themselves: 4 (noise / difference)^2 runs."""
    rng = np.random.default_rng(5)
    row = teacher_differences(results(0.7 + 0.01 * rng.normal(size=(400, 1)) + 0.02 * rng.normal(size=(400, 6)))).iloc[
        0
    ]
    assert row["seeds_for_80"] == pytest.approx(4 * 2**2, abs=3)
    assert row["reliability"] == pytest.approx(6 / (6 + 2**2), abs=0.06)


def test_levels_and_coverage() -> None:
    """Equal teachers are said to differ in 5 % of families; the reliability's interval holds the truth in 95 %."""
    rng = np.random.default_rng(6)
    families = [results(rng.normal(0.7, 0.01, (8, 3)), student=f"equal{n}") for n in range(400)]
    for n in range(400):
        values = 0.7 + 0.01 * rng.normal(size=(8, 1)) + 0.01 * rng.normal(size=(8, 3))
        families.append(results(values, student=f"unequal{n}"))
    table = teacher_differences(pd.concat(families))  # one row per student, in one call: most of a call is pandas
    equal, unequal = table[:400], table[400:]
    assert equal["student"].str.startswith("equal").all() and len(unequal) == 400
    assert np.mean(equal["p"] < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean((unequal["low"] <= 3 / 4) & (unequal["high"] >= 3 / 4)) == pytest.approx(0.95, abs=0.035)


def of_runs(rng: np.random.Generator, teachers: int, lost: int = 0, **columns: object) -> pd.DataFrame:
    """Students of equal teachers with three training runs each that differ, four seeds per run, some students lost."""
    run, seed = 0.7 + 0.005 * rng.normal(size=(teachers * 3, 1)), 0.004 * rng.normal(size=4)
    frame = results(run + seed + 0.003 * rng.normal(size=(teachers * 3, 4)), **columns)
    number = np.repeat(np.arange(teachers * 3), 4)
    frame = frame.assign(teacher=[f"t{n // 3}" for n in number], teacher_seed=number % 3)
    return frame.drop(rng.choice(len(frame), lost, replace=False))


def test_training_runs_are_the_trials_of_a_teacher() -> None:
    """With three runs each, F is that of the run means, whatever the number of their students."""
    frame = of_runs(np.random.default_rng(7), 5)
    means = frame.groupby(["teacher", "teacher_seed"], as_index=False)["accuracy"].mean()
    table = sm.stats.anova_lm(smf.ols("accuracy ~ C(teacher)", means).fit())
    row = teacher_differences(frame).iloc[0]
    assert row["F"] == pytest.approx(table.loc["C(teacher)", "F"], rel=1e-9)
    assert (row["error"], row["df1"], row["df2"], row["runs"]) == ("training runs", 4, 10, 60)
    single = teacher_differences(frame.assign(teacher_seed=0, seed=range(60))).iloc[0]
    assert (single["error"], single["df2"]) == ("seeds", 55)


def test_a_seed_per_training_run_needs_no_other_test() -> None:
    frame = results(np.random.default_rng(8).normal(0.7, 0.01, (5, 3)))
    by_run = teacher_differences(frame.assign(teacher_seed=frame["seed"])).drop(columns="error")
    pd.testing.assert_frame_equal(by_run, teacher_differences(frame).drop(columns="error"))


@pytest.mark.parametrize("lost", [0, 12])
def test_level_with_training_runs(lost: int) -> None:
    """Teachers that differ by their runs alone are said to differ in 5 % of families."""
    rng = np.random.default_rng(9)
    table = teacher_differences(pd.concat([of_runs(rng, 6, lost, student=f"s{n}") for n in range(200)]))
    assert np.mean(table["p"] < 0.05) == pytest.approx(0.05, abs=0.035)
    assert table["reliability"].median() < 0.3


@pytest.mark.parametrize("columns", [{}, {"teacher_seed": 0}])
def test_rows_that_are_there_twice_are_refused(columns: dict[str, int]) -> None:
    frame = results(np.random.default_rng(0).normal(0.7, 0.01, (4, 3)), **columns)
    with pytest.raises(InputError, match=r"more than one row for family='f', teacher='t0', student='s'"):
        teacher_differences(pd.concat([frame, frame]))


def test_an_infinite_accuracy_is_refused() -> None:
    frame = results(np.random.default_rng(0).normal(0.7, 0.01, (4, 3)))
    frame.loc[3, "accuracy"] = np.inf
    with pytest.raises(InputError, match="finite numbers as accuracies, got inf for student 's' and teacher 't"):
        teacher_differences(frame)


def test_single_runs_say_nothing() -> None:
    row = teacher_differences(results(np.linspace(0.6, 0.8, 5)[:, None])).iloc[0]
    assert row["df2"] == 0 and row[["F", "p", "reliability", "ceiling", "seeds_for_80"]].isna().all()


def test_teachers_of_one_name_in_two_families_are_two() -> None:
    frame = results(np.array([[0.6, 0.61], [0.7, 0.72], [0.8, 0.79]]))
    both = pd.concat([frame, frame.assign(family="g")])
    assert teacher_differences(both).iloc[0]["teachers"] == 6


def test_each_student_and_setting_is_a_row() -> None:
    frame = results(np.random.default_rng(0).normal(0.7, 0.01, (4, 3)))
    table = teacher_differences(pd.concat([frame, frame.assign(label="ATS"), frame.assign(student="other")]))
    assert table[["student", "label"]].to_numpy().tolist() == [["s", "KD tau=4"], ["s", "ATS"], ["other", "KD tau=4"]]


def test_the_only_split_is_taken_and_none_is_an_error() -> None:
    frame = results(np.random.default_rng(0).normal(0.7, 0.01, (4, 3)), split="val")
    assert teacher_differences(frame)["split"].eq("val").all()
    with pytest.raises(InputError, match="no students of a teacher on the split 'val'"):
        teacher_differences(frame.assign(teacher=""))
    with pytest.raises(InputError, match="seed"):
        teacher_differences(frame.drop(columns="seed"))
