"""What a choice is careful about: repeated results, crashed runs, students that disagree, nothing to compare."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from tables import RESULT_COLUMNS

from capmismatch.errors import InputError
from capmismatch.selection.links import correlate
from capmismatch.selection.picking import pick
from capmismatch.selection.repeats import without_repeats
from capmismatch.stats.differences import teacher_differences
from capmismatch.stats.outliers import outlying_runs


def probe_table(**sizes: float) -> pd.DataFrame:
    """Teachers with these sizes, larger ones more accurate."""
    rows = [
        ("f", name, size, "val", 0, np.nan if probe == "accuracy" else 4.0, probe, value + k / 100, 0.001)
        for k, (name, size) in enumerate(sizes.items())
        for probe, value in (("accuracy", 0.8), ("derived_std", 0.05))
    ]
    return pd.DataFrame(rows, columns=["family", "teacher", "params", "split", "seed", "tau", "probe", "value", "se"])


def result_table(
    means: dict[str, float], seeds: int = 3, sd: float = 0.002, plain: float | None = None, rng: int = 0, **more: object
) -> pd.DataFrame:
    """Students of teachers with these mean accuracies, and of plain cross-entropy."""
    noise = np.random.default_rng(rng)
    labels = {name: ("f", "KD tau=4", "KD", 4.0) for name in means}
    every = means if plain is None else {**means, "": plain}
    rows = [
        (family, name, 0, "s", label, method, tau, seed, split, mean + sd * noise.normal(), 10_000)
        for name, mean in every.items()
        for family, label, method, tau in [labels.get(name, ("", "CE", "CE", np.nan))]
        for seed in range(seeds)
        for split in ("val", "test")
    ]
    return pd.DataFrame(rows, columns=RESULT_COLUMNS).assign(**more)


PROBES = probe_table(t0=1e5, t1=2e5, t2=3e5, t3=4e5)
MEANS = {"t0": 0.70, "t1": 0.702, "t2": 0.703, "t3": 0.701}


# Results that are given twice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [{}, {"family": "g"}, {"student": "other"}, {"label": "again", "family": "g"}, {"teacher": "x_"}],
    ids=lambda names: "+".join(names) or "same",
)
def test_the_studys_own_results_are_no_evidence(names: dict[str, str]) -> None:
    results = result_table(MEANS)
    probes, theirs = PROBES.copy(), results.copy()
    for column, name in names.items():
        for table in (probes, theirs):
            if column in table:
                table[column] = name + table["teacher"] if column == "teacher" else name
    alone = pick(PROBES, results)
    with pytest.warns(UserWarning, match="evidence number 1"):
        choice = pick(PROBES, results, evidence=[(probes, theirs)])
    pd.testing.assert_frame_equal(choice.table, alone.table)
    assert "evidence number 1" in choice.basis.missing.repeated and choice.basis.evidence is None


def test_a_setting_under_a_second_label_counts_once() -> None:
    results = result_table(MEANS)
    with pytest.warns(UserWarning, match=r"'KD again', repeats"):
        choice = pick(PROBES, pd.concat([results, results.assign(label="KD again")]))
    pd.testing.assert_frame_equal(choice.table, pick(PROBES, results).table)


def test_evidence_that_is_given_twice_counts_once() -> None:
    evidence = (PROBES, result_table(MEANS, student="other"))
    once = pick(PROBES, result_table(MEANS, rng=1), evidence=[evidence])
    with pytest.warns(UserWarning, match="evidence number 2"):
        twice = pick(PROBES, result_table(MEANS, rng=1), evidence=[evidence, evidence])
    pd.testing.assert_frame_equal(once.table, twice.table)


def test_what_agrees_by_chance_is_kept() -> None:
    """Accuracies of 200 examples often agree; another study of the same names is another study."""
    results, others = (result_table(MEANS, sd=0.01, rng=rng) for rng in (1, 2))
    coarse = [table.assign(accuracy=(table["accuracy"] * 200).round() / 200) for table in (results, others)]
    kept, pairs, told = without_repeats(coarse[0], [(PROBES, coarse[1])])
    assert kept is coarse[0] and pairs[0][1] is coarse[1] and not told
    same = results.assign(accuracy=0.7)
    assert without_repeats(same, [(PROBES, same)])[2] == ""  # one value everywhere says nothing


def test_other_measures_and_methods_tell_equal_accuracies_apart() -> None:
    results = result_table(MEANS)
    told = {
        kl: without_repeats(pd.concat([results.assign(kl=0.3), results.assign(kl=kl, label="KD again")]), [])[2]
        for kl in (0.3, 0.4)
    }
    assert told[0.3] and not told[0.4]
    own = results.assign(kl=0.3)  # of students trained here each method has its own runs
    both = pd.concat([own, own.assign(label="MatchKD", method="MatchKD")])
    assert not without_repeats(both, [])[2]
    assert not without_repeats(None, [(PROBES, both)])[2]
    assert "evidence number 2" in without_repeats(None, [(PROBES, both), (PROBES, own)])[2]


def test_groups_that_share_no_accuracies_are_compared_in_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence that comes with the package has hundreds of groups, and each is compared with all others."""
    monkeypatch.setattr("capmismatch.selection.repeats._differ", None)
    mine, others = (result_table(MEANS, rng=rng).assign(kl=0.3) for rng in (1, 2))
    assert without_repeats(mine, [(PROBES, others)])[2] == ""
    with pytest.raises(TypeError):
        without_repeats(mine, [(PROBES, mine.assign(family="g"))])


@pytest.mark.parametrize("splits", [["val", "test"], ["val"]])
def test_rows_that_are_there_twice_are_refused(splits: list[str]) -> None:
    results = result_table(MEANS, plain=0.69)
    results = results[results["split"].isin(splits)]
    with pytest.raises(InputError, match="more than one row"):
        pick(PROBES, pd.concat([results, results]))


def test_probes_that_are_there_twice_are_refused() -> None:
    with pytest.raises(InputError, match="more than one row for family='f', teacher='t2', probe='accuracy'"):
        pick(pd.concat([PROBES, PROBES[PROBES["teacher"].eq("t2")]]), result_table(MEANS))


# Students that disagree, and runs that do not fit --------------------------------------------------------------------


def test_students_that_want_different_teachers_are_a_risk() -> None:
    first = result_table({"t0": 0.70, "t1": 0.714, "t2": 0.72, "t3": 0.70}, sd=0.001)
    second = result_table({"t0": 0.72, "t1": 0.714, "t2": 0.70, "t3": 0.70}, sd=0.001, rng=1, student="s2")
    choice = pick(PROBES, pd.concat([first, second]))
    students = choice.students.set_index("student")
    assert students["teacher"].to_dict() == {"s": "t2", "s2": "t0"}
    (risk,) = [risk for risk in choice.risks if "differs between students" in risk]
    for student in ("s", "s2"):
        alone = pick(PROBES, pd.concat([first, second]), student=student).table.set_index("teacher")
        assert students.loc[student, "regret"] == pytest.approx(alone.loc[choice.teacher, "regret"], abs=0.15)
        assert f"'{student}' {students.loc[student, 'regret']:.2f} against f/" in risk
    agreeing = result_table({**MEANS, "t2": 0.72}, rng=1, student="s2")
    alike = pick(PROBES, pd.concat([first, agreeing]), n_boot=500)
    assert not any("differs between students" in risk for risk in alike.risks)


def test_a_run_that_crashed_is_named() -> None:
    results = result_table({**MEANS, "t2": 0.72})
    crashed = results.copy()
    crashed.loc[crashed["teacher"].eq("t2") & crashed["seed"].eq(0), "accuracy"] = 0.1
    choice = pick(PROBES, crashed)
    assert "CM023" in choice.findings and "CM023" not in pick(PROBES, results).findings
    assert all("f/t2" in run and "seed 0: 0.1" in run for run in choice.basis.outliers) and choice.basis.outliers
    assert any("f/t2" in risk and "seed 0" in risk for risk in choice.risks)
    assert "CM023" not in pick(PROBES, crashed, mute=["CM023"]).findings


@pytest.mark.parametrize("crashed", [[1], [1, 2]])
def test_of_few_runs_those_that_crashed_are_named(crashed: list[int]) -> None:
    results = result_table(MEANS).query("split == 'val'").reset_index(drop=True)
    results.loc[results["teacher"].eq("t1") & results["seed"].isin(crashed), "accuracy"] = 0.1
    assert sorted(run.split("seed ")[1].split(":")[0] for run in outlying_runs(results)) == list(map(str, crashed))


# Nothing to take, nothing to compare ---------------------------------------------------------------------------------


def test_no_teacher_has_no_command() -> None:
    choice = pick(PROBES, result_table(MEANS, plain=0.74))
    assert choice.takes_none and (choice.grade, choice.cheapest, choice.command, choice.loss) == ("none", None, "", "")
    assert choice.title.startswith("Take no teacher") and "CM022" in choice.findings
    assert any("costs accuracy" in reason for reason in choice.reasons)
    assert not any("do not show that distillation helps" in reason for reason in choice.reasons)
    assert choice.smallest_pilot is None and "soften" not in str(choice)


def test_a_sure_choice_is_not_called_too_close() -> None:
    two = probe_table(t0=1e5, t1=2e5)
    choice = pick(two, result_table({"t0": 0.70, "t1": 0.706}, seeds=2, sd=0.003, rng=5))
    assert "CM007" in choice.findings and choice.table["tie"].all() and choice.p_best >= 0.8
    assert any("not significant" in reason for reason in choice.reasons)
    assert not any("Too close" in reason for reason in choice.reasons)


def test_a_single_teacher_has_no_grade_and_unknown_ones_are_named() -> None:
    one = PROBES[PROBES["teacher"].eq("t1")]
    choice = pick(one, result_table(MEANS))
    assert choice.grade == "none" and choice.title.startswith("Nothing to compare: f/t1")
    assert choice.basis.missing.unknown == (("f", "t0"), ("f", "t2"), ("f", "t3"))
    assert any("f/t0, f/t2 and f/t3" in risk for risk in choice.risks)
    by_probe = pick(one)
    assert by_probe.title.startswith("Nothing to compare") and by_probe.smallest_pilot is None
    assert not any("rules" in reason and "All" in reason for reason in by_probe.reasons)


def test_unknown_sizes_are_not_taken_for_bad_teachers() -> None:
    results = result_table({**MEANS, "t2": 0.72})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice = pick(PROBES.assign(params=np.nan), results)
    assert choice.cheapest is None and choice.table["within"].max() > 0.9
    assert any("Sizes unknown" in reason for reason in choice.reasons)
    assert not any("No teacher is within" in reason for reason in choice.reasons)
    some = pick(PROBES.assign(params=PROBES["params"].where(PROBES["teacher"].ne("t2"))), results, tolerance=5)
    assert some.cheapest == "t0" and any("The size of f/t2 is unknown" in reason for reason in some.reasons)


# What was not measured, and copies -----------------------------------------------------------------------------------

APART = {"t0": 0.70, "t1": 0.72, "t2": 0.75, "t3": 0.71}


def without(results: pd.DataFrame, teacher: str, split: str) -> pd.DataFrame:
    return results[~(results["teacher"].eq(teacher) & results["split"].eq(split))]


def test_a_prediction_is_no_test_result() -> None:
    choice = pick(PROBES, without(result_table(APART, plain=0.65), "t2", "test"))
    assert choice.teacher == "t2" and np.isnan(choice.students["accuracy"].iloc[0])
    first = choice.table.iloc[0]
    assert np.isnan([first["accuracy"], first["gain"], choice.students["gain"].iloc[0]]).all()
    assert sum("o test results of f/t2" in reason for reason in choice.reasons) == 2


def test_a_teacher_without_rows_to_choose_by_has_students() -> None:
    choice = pick(PROBES, without(result_table(APART, plain=0.65), "t2", "val"))
    assert any("no students on validation rows in this setting: f/t2" in risk for risk in choice.risks)


def test_an_unknown_temperature_is_not_made_up() -> None:
    choice = pick(PROBES, result_table(APART).assign(tau=np.nan, label="KD"))
    assert "tau=..." in choice.loss and "4" not in choice.loss and any("temperature" in risk for risk in choice.risks)
    with pytest.raises(InputError, match="temperature of 'KD'"):
        choice.soften(object(), split="val")


def test_copied_seeds_are_no_certainty() -> None:
    one = result_table(APART, seeds=1)
    results = pd.concat([one.assign(seed=seed) for seed in range(3)])
    with pytest.warns(UserWarning, match="seeds of each teacher have the same accuracy"):
        found = teacher_differences(results)
    assert found[["F", "p", "reliability", "ceiling"]].isna().all(axis=None)
    with pytest.warns(UserWarning, match="seeds of each teacher have the same accuracy"):
        assert correlate(PROBES.assign(n=100), results, n_boot=20)["ceiling"].isna().all()
    assert pick(PROBES, results).basis.seeds.alike


def test_teachers_with_the_same_students_are_told() -> None:
    results = result_table(APART, seeds=4)
    copy = results[results["teacher"].eq("t2")].assign(teacher="t3")
    results = pd.concat([results[results["teacher"].ne("t3")], copy])
    assert any("f/t2 and f/t3" in risk for risk in pick(PROBES, results).risks)
    with pytest.warns(UserWarning, match="f/t2 and f/t3"):
        correlate(PROBES, results, n_boot=20)


def test_only_probes_of_the_evidence_teach() -> None:
    others = PROBES.assign(family="g", value=np.nan)
    choice = pick(PROBES, evidence=[(others, result_table(APART).assign(family="g"))])
    assert choice.trust["probe"].tolist() == ["log_params"]


@pytest.mark.parametrize(
    "options",
    [
        *({"tolerance": value} for value in ("0.3", True, np.array([1, 2]))),
        *({"seed": value} for value in (-1, "a")),
        {"evidence": 3},
        {"report_split": "tset"},
    ],
    ids=str,
)
def test_options_of_another_type_are_refused(options) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        pick(PROBES, result_table(APART), **options)


def test_expectations_and_the_primary_probe_are_checked() -> None:
    results = result_table(APART)
    with pytest.raises(InputError, match="derived_std"):
        correlate(PROBES, results, expected_signs={"derived_std": "x"})
    with pytest.warns(UserWarning, match="'nope'"):
        correlate(PROBES, results, expected_signs={"nope": 1}, n_boot=20)
    with pytest.warns(UserWarning, match="primary_tau=9"):
        correlate(PROBES, results, primary_tau=9, n_boot=20)
    with pytest.raises(InputError, match="params >= 0, got -100000 for teacher 't0'"):
        pick(PROBES.assign(params=PROBES["params"].replace(1e5, -1e5)))
