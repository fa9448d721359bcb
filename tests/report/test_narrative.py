from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from capmismatch.errors import InputError
from capmismatch.report.narrative import TOPICS, statements
from capmismatch.selection.links import correlate
from capmismatch.stats.estimates import Estimate, against_best, course, difference, held_fixed, pair_mean, times

TEACHERS = ["t1", "t2", "t3", "t4", "t5", "t6", "t7"]
PARAMS = dict(zip(TEACHERS, [1e3, 3e3, 9e3, 3e4, 9e4, 3e5, 9e5], strict=True))
HILL = np.array([0.60, 0.63, 0.66, 0.69, 0.66, 0.63, 0.60])


def results_table(
    heights, label="KD tau=4", method="KD", noise=0.001, seeds=4, teachers=TEACHERS, student="cnn", family="f", seed=0
):
    rng = np.random.default_rng(seed)
    common = rng.normal(0, noise, seeds)  # what a seed does to every teacher's student
    return pd.DataFrame(
        [
            {
                "family": family,
                "teacher": teacher,
                "params": PARAMS[teacher],
                "teacher_seed": 0,
                "student": student,
                "label": label,
                "method": method,
                "tau": 4.0,
                "seed": s,
                "split": split,
                "n": 2000,
                "accuracy": height + common[s] + rng.normal(0, noise),
            }
            for teacher, height in zip(teachers, heights, strict=True)
            for s in range(seeds)
            for split in ("val", "test")
        ]
    )


def plain_table(height=0.60, seeds=4, noise=0.001, student="cnn"):
    rng = np.random.default_rng(9)
    return pd.DataFrame(
        [
            {
                "family": "",
                "teacher": "",
                "params": np.nan,
                "teacher_seed": 0,
                "student": student,
                "label": "CE",
                "method": "CE",
                "tau": np.nan,
                "seed": s,
                "split": split,
                "n": 2000,
                "accuracy": height + rng.normal(0, noise),
            }
            for s in range(seeds)
            for split in ("val", "test")
        ]
    )


def probe_rows(values, probe, tau=4.0, runs=2, noise=0.01, teachers=TEACHERS, family="f"):
    rng = np.random.default_rng(len(probe))
    return pd.DataFrame(
        [
            {
                "family": family,
                "teacher": teacher,
                "params": PARAMS[teacher],
                "macs": np.nan,
                "split": "val",
                "seed": run,
                "tau": tau,
                "probe": probe,
                "value": value * (1 + rng.normal(0, noise)),
                "se": 0.01 * value,
                "n": 500,
            }
            for teacher, value in zip(teachers, values, strict=True)
            for run in range(runs)
        ]
    )


def probes_table(teachers=TEACHERS, family="f", shape=HILL):
    size = np.linspace(0.2, 0.9, len(teachers))
    parts = {
        "target_prob": size,
        "inherent_variance": 0.01 * size,
        "derived_variance": 0.1 * shape**8,
        "derived_std": shape**4,
    }
    return pd.concat(
        [probe_rows(values, name, teachers=teachers, family=family) for name, values in parts.items()],
        ignore_index=True,
    )


def ranks_table(lost_a_step, runs=2, teachers=TEACHERS):
    rng = np.random.default_rng(3)
    keys = [(teacher, run) for teacher in teachers for run in range(runs)]
    rows = []
    for i, (a, run_a) in enumerate(keys):
        for b, run_b in keys[i + 1 :]:
            steps = teachers.index(b) - teachers.index(a)
            rows.append(
                ("f", a, run_a, "f", b, run_b, "val", "wrong_tau_b", 0.8 - lost_a_step * steps + rng.normal(0, 0.004))
            )
    names = ["family_a", "teacher_a", "seed_a", "family_b", "teacher_b", "seed_b", "split", "metric", "value"]
    return pd.DataFrame(rows, columns=names)


def restored_table(bound=0.1):
    rows = []
    for teacher, size in zip(TEACHERS, np.linspace(0.2, 0.8, len(TEACHERS)), strict=True):
        for method, factor in {"TS": 1.0, "ATS": 2.0, "ISATS": 3.0}.items():
            inherent = 0.01 * factor
            derived = (1 - size) ** 2 * inherent
            values = {
                "target_prob": size,
                "inherent_variance": inherent,
                "derived_variance": derived,
                "flipped": 0.25 if method == "ATS" else 0.0,
            }
            if method == "ISATS":
                values["at_bound"] = bound
            rows += [
                ("f", teacher, PARAMS[teacher], 0, method, 4.0, name, value, 0.01 * value)
                for name, value in values.items()
            ]
    columns = ["family", "teacher", "params", "seed", "method", "tau_target", "quantity", "value", "se"]
    return pd.DataFrame(rows, columns=columns)


def told(topic, **tables):
    return [statement for statement in statements(tables) if statement.topic == topic]


# Students' course ----------------------------------------------------------------------------------------------------


def test_a_peak_is_told_with_its_place_and_both_falls():
    summary, only = told("students", results=results_table(HILL))
    assert "shown in 1 of 1 combination of student and method" in summary.text
    assert "worse than the best in 1 of 1." in summary.text
    assert only.text.startswith("Student cnn, KD tau=4: accuracy rises, then falls, as teachers grow (p = 0.0")
    assert "the peak is t4 (95 % interval)" in only.text
    assert re.search(r"69\.\d % \[6\d\.\d, 69\.\d\] with t4", only.text)
    assert only.text.count("(worse)") == 2


def test_an_end_that_is_the_best_is_not_held_against_itself():
    only = told("students", results=results_table(np.linspace(0.6, 0.7, 7)))[1]
    assert only.text.count(" points ") == 1 and "with t1 (worse). t7 is itself the best on average." in only.text


def test_a_flat_course_is_told_as_no_peak():
    summary, only = told("students", results=results_table(np.full(7, 0.65), noise=0.01))
    assert "shown in 0 of 1 " in summary.text and "worse than the best in 0 of 1." in summary.text
    assert "shows no established rise followed by a fall" in only.text
    assert only.text.count("no difference is shown") == 2


def test_a_monotone_course_falls_at_one_end_only():
    summary, only = told("students", results=results_table(np.linspace(0.6, 0.7, 7)))
    assert "shown in 0 of 1 " in summary.text
    assert "the peak is t7" in only.text
    assert only.text.count("(worse)") == 1


def test_pairing_by_seed_finds_what_the_scatter_of_seeds_hides():
    table = results_table(0.65 + (HILL - 0.6) / 10, noise=0.0005)
    table["accuracy"] += 0.01 * np.array([-1.0, 1.0, 2.0, -2.0])[table["seed"]]
    summary, _ = told("students", results=table)
    assert "shown in 1 of 1 " in summary.text and "worse than the best in 1 of 1." in summary.text
    lacking = table.drop(index=table.index[table["split"].eq("test")][0])  # then runs cannot be paired
    unpaired, _ = told("students", results=lacking)
    assert "shown in 0 of 1 " in unpaired.text


def test_two_teachers_cannot_rise_and_fall():
    results = results_table([0.6, 0.7], teachers=["t1", "t2"])
    only = told("students", results=results)[1]
    assert "cannot be told, a rise and a fall need at least 3 teachers, got 2" in only.text
    assert only.codes == ("CM003",)


def test_families_are_told_apart():
    both = pd.concat([results_table(HILL), results_table(HILL[:3], teachers=TEACHERS[:3], family="g")])
    texts = [statement.text for statement in told("students", results=both)[1:]]
    assert [text.split(",")[0] for text in texts] == ["Family f", "Family g"]


# Variance ------------------------------------------------------------------------------------------------------------


def test_variance_peak_stands_beside_confidence_and_inherent_variance():
    std, variance = told("variance", probes=probes_table())
    assert std.text.startswith("Derived std at tau=4 rises, then falls,")
    assert "the peak is t4" in variance.text
    for statement in (std, variance):
        for name in ("p_y is 0.", "inherent variance is 0."):
            assert name in statement.text
        assert statement.text.count(" for t4") == 3


def test_no_variance_peak_is_told():
    std, _ = told("variance", probes=probes_table(shape=np.linspace(0.5, 0.7, 7)))
    assert "shows no established rise followed by a fall" in std.text


def test_derived_probes_are_not_told_alone():
    probes = probes_table()
    (only,) = told("variance", probes=probes[probes["probe"] != "target_prob"])
    assert only.text == "Not told: the probes lack target_prob, and these are only told together."


def test_the_nearest_temperature_is_told():
    other = probes_table().assign(tau=1.0)
    both = pd.concat([other, probes_table()])
    texts = [s.text for s in statements({"probes": both}, tau=1.4)]
    assert all("at tau=1 " in text for text in texts)


# Ranks ---------------------------------------------------------------------------------------------------------------


def test_ranks_as_alike_as_runs_of_one_teacher():
    (only,) = told("ranks", ranks=ranks_table(0.0))
    assert only.text.count("no more change is shown than a seed makes") == 2


def test_ranks_that_drift_with_size():
    (only,) = told("ranks", ranks=ranks_table(0.05))
    assert only.text.count("size changes the order more than a seed does") == 2
    ends = re.search(r"and (\S+) between the smallest and the largest \(t1 and t7\)", only.text)
    assert float(ends[1]) == pytest.approx(0.5, abs=0.01)


def test_ranks_without_second_runs_have_no_floor():
    (only,) = told("ranks", ranks=ranks_table(0.05, runs=1))
    assert "there is no noise floor" in only.text
    assert "below the floor" not in only.text


def test_ranks_need_two_teachers():
    (only,) = told("ranks", ranks=ranks_table(0.0, teachers=["t1"]))
    assert only.text.startswith("Not told")


# Restored ------------------------------------------------------------------------------------------------------------


def test_restored_tells_both_ends_and_the_ratio():
    large, small, against = told("restored", restored=restored_table())
    assert large.text.startswith("Largest teacher, t7: derived variance is 0.000400 [")
    assert small.text.startswith("Smallest teacher, t1: derived variance is 0.00640 [")
    assert "the arg max moves for 0.0 % [0.0, 0.0] under TS, 25.0 % [" in large.text
    assert "ends on its bound for 10.0 % [" in large.text
    assert "highest derived variance under TS, t1: derived variance is 0.0625 [" in against.text
    assert re.search(r"under TS, 0\.125 \[\S+ \S+ times under ATS and 0\.18[78] \[", against.text)
    assert "inherent variance is 1.00 times under TS, 2.00 [" in against.text
    assert large.codes == small.codes == ()


def test_a_search_that_ends_on_its_bound_is_marked():
    assert told("restored", restored=restored_table(bound=0.9))[0].codes == ("CM008",)


def test_restored_without_its_factors_is_not_told():
    table = restored_table()
    for broken in (table[table["quantity"] != "inherent_variance"], table.assign(params=np.nan)):
        (only,) = told("restored", restored=broken)
        assert only.text.startswith("Not told: the table lacks sizes of teachers, or derived_variance, target_prob and")


# Links ---------------------------------------------------------------------------------------------------------------


def links_table(heights, **options):
    accuracy = probe_rows(np.linspace(0.5, 0.9, 7), "accuracy", tau=np.nan)
    probes = pd.concat([probes_table(**options), accuracy], ignore_index=True)
    return correlate(probes, results_table(heights, noise=1e-5), expected_signs={}, n_boot=100)


def test_a_link_that_survives():
    # The hill is the course of the variance, not that of p_y, IV or the teacher's accuracy, which all grow.
    summary, best, variance = told("links", links=links_table(HILL + 0.0001 * np.arange(7)))
    assert "In 1 of 1 combination of student and method some probe's link is significant" in summary.text
    assert "in 1 of 1 the derived variance near tau=4 is linked" in summary.text
    assert "it survives both" in variance.text
    assert re.search(r"(derived variance|derived std) at tau=4 tracks accuracy most closely over 7 teachers", best.text)
    assert "Beside it: p_y" in best.text and "Beside it: p_y" in variance.text


def test_a_link_that_restates_confidence():
    size = np.linspace(0.2, 0.9, 7)
    falling = 0.9 - 0.3 * size + np.array([0.0, 0.0, 0.02, -0.02, 0.0, 0.0, 0.0])
    links = links_table(0.9 - size / 3, shape=falling)
    _, _, variance = told("links", links=links)
    assert "it cannot be told apart from p_y and the teacher's accuracy" in variance.text
    assert "CM005" in variance.codes


def test_no_link_is_told_as_none():
    heights = 0.65 + 0.01 * np.array([1.0, -1.0, 0.4, 0.0, -0.4, 1.1, -1.2])
    summary, best, variance = told("links", links=links_table(heights))
    assert "In 0 of 1 combination" in summary.text and "in 0 of 1 the derived variance" in summary.text
    assert ", not significant when corrected" in best.text
    assert "its interval covers zero, so there is no established link that could survive" in variance.text
    assert variance.codes == ("CM004",)


def test_links_of_derived_probes_without_companions_are_not_told():
    links = links_table(HILL + 0.0001 * np.arange(7))
    texts = [s.text for s in told("links", links=links[links["probe"] != "inherent_variance"])]
    assert not any("derived std" in text or "derived variance at" in text for text in texts)
    assert "in 0 of 0 the derived variance" in texts[0]


# Differences between methods -----------------------------------------------------------------------------------------


def test_gain_is_paired_by_seed_and_averaged_over_teachers():
    kd, ce = results_table(HILL), plain_table()
    (only,) = told("gain", results=pd.concat([kd, ce]))
    apart = (
        kd[kd["split"] == "test"].groupby("seed")["accuracy"].mean()
        - ce[ce["split"] == "test"].set_index("seed")["accuracy"]
    )
    low, high = 100 * np.array(stats.ttest_1samp(apart, 0).confidence_interval(0.95))
    assert f"{100 * apart.mean():+.2f} points [{low:+.2f}, {high:+.2f}] over plain cross-entropy" in only.text
    assert only.text.endswith("mean over 7 teachers and 4 seeds: a gain.")


@pytest.mark.parametrize(("plain", "verdict"), [(0.70, "a loss"), (0.641, "no difference is shown")])
def test_a_loss_and_a_null_gain_are_told_plainly(plain, verdict):
    table = pd.concat([results_table(np.full(7, 0.64), noise=0.004), plain_table(plain, noise=0.004)])
    (only,) = told("gain", results=table)
    assert f"seeds: {verdict}" in only.text


def test_one_seed_gives_no_interval():
    table = pd.concat([results_table(HILL, seeds=1), plain_table(seeds=1)])
    (only,) = told("gain", results=table)
    assert "[" not in only.text and "nothing is established" in only.text


def test_gain_without_plain_students():
    (only,) = told("gain", results=results_table(HILL))
    assert only.text.startswith("Not told: the results have no student taught by plain cross-entropy")


def test_isats_against_kd_at_the_largest_third():
    kd = results_table(HILL, seed=1)
    isats = results_table(HILL + np.where(np.arange(7) >= 4, 0.02, -0.5), "ISATS order m=1 tau=4", "ISATS", seed=2)
    (only,) = told("large", results=pd.concat([kd, isats]))
    means = [
        table[table["split"].eq("test") & table["teacher"].isin(TEACHERS[4:])].groupby("seed")["accuracy"].mean()
        for table in (isats, kd)
    ]
    low, high = 100 * np.array(stats.ttest_rel(*means).confidence_interval(0.95))
    gap = 100 * (means[0] - means[1]).mean()
    assert f"is {gap:+.2f} points [{low:+.2f}, {high:+.2f}], mean over 4 seeds: ISATS is better." in only.text
    assert "largest third of the teachers (t5, t6 and t7): ISATS order m=1 tau=4 less KD tau=4" in only.text


def test_isats_is_held_against_kd_at_the_same_temperature_of_the_student():
    kd = results_table(HILL, seed=1).assign(tau_student=1.0)
    other = results_table(HILL - 0.3, "KD tau=4 student tau=4", seed=1).assign(tau_student=4.0)
    isats = results_table(HILL, "ISATS order m=1 tau=4", "ISATS", seed=2).assign(tau_student=1.0)
    (only,) = told("large", results=pd.concat([kd, other, isats]))
    assert "less KD tau=4 is" in only.text
    (only,) = told("large", results=pd.concat([other, isats]))
    assert only.text.startswith("Not told")


def test_isats_no_better_than_kd():
    kd = results_table(HILL, seed=1, noise=0.01)
    isats = results_table(HILL, "ISATS order m=1 tau=4", "ISATS", seed=2, noise=0.01)
    (only,) = told("large", results=pd.concat([kd, isats]))
    assert "no difference is shown" in only.text


def test_isats_without_kd_is_not_compared():
    (only,) = told("large", results=results_table(HILL))
    assert only.text.startswith("Not told")


# Whole ---------------------------------------------------------------------------------------------------------------


def test_topics_come_in_order_and_derived_probes_never_alone():
    tables = {
        "results": pd.concat([results_table(HILL), plain_table()]),
        "probes": probes_table(),
        "ranks": ranks_table(0.02),
        "restored": restored_table(),
        "links": links_table(HILL),
        "checks": pd.DataFrame({"teacher": ["a"], "seed": 0, "drift": 0.0, "tied": 0.0, "findings": ""}),
    }
    found = statements(tables)
    assert list(dict.fromkeys(statement.topic for statement in found)) == list(TOPICS)
    for statement in found:
        if re.search(r"derived (variance|std)", statement.text) and "combination" not in statement.text:
            assert "p_y" in statement.text and "inherent variance" in statement.text
    assert found == statements(tables)


def test_absent_tables_leave_their_topics_out():
    assert {statement.topic for statement in statements({"ranks": ranks_table(0.0)})} == {"ranks"}
    assert statements({}) == []


@pytest.mark.parametrize("name", ["results", "probes", "ranks", "restored", "links"])
def test_missing_columns_are_named(name):
    with pytest.raises(InputError, match=f"the {name} table lacks the columns"):
        statements({name: pd.DataFrame({"other": []})})


def test_missing_split_is_named():
    with pytest.raises(InputError, match="no rows for the split 'holdout'; it has \\['test', 'val'\\]"):
        statements({"results": results_table(HILL)}, split="holdout")


# Estimates against independent oracles -------------------------------------------------------------------------------


def test_course_pools_the_variance_of_runs_as_a_linear_model_does():
    frame = probe_rows(HILL, "derived_std", runs=3, noise=0.1)
    design = pd.get_dummies(frame["teacher"]).astype(float)
    low, high = sm.OLS(frame["value"], design).fit().conf_int(0.05).to_numpy().T
    found = course(frame, "value")
    assert list(found) == TEACHERS
    np.testing.assert_allclose([mean.low for mean in found.values()], low)
    np.testing.assert_allclose([mean.high for mean in found.values()], high)


def test_course_averages_seeds_within_runs_of_the_teacher():
    table = results_table(HILL)
    table = table[table["split"] == "test"].assign(teacher_seed=lambda t: t["seed"] % 2)
    by_run = table.groupby(["teacher", "teacher_seed"], as_index=False).agg(
        params=("params", "first"), accuracy=("accuracy", "mean")
    )
    assert course(table, "accuracy") == course(by_run, "accuracy")


def test_course_of_single_runs_takes_errors_over_examples():
    single = course(probe_rows(HILL, "derived_std", runs=1, noise=0.0), "value")["t1"]
    assert single.high == pytest.approx(0.6 + stats.norm.ppf(0.975) * 0.006)
    table = results_table(HILL, seeds=1, noise=0.0)
    binomial = course(table[table["split"] == "test"], "accuracy")["t1"]
    assert binomial.low == pytest.approx(0.6 - stats.norm.ppf(0.975) * np.sqrt(0.6 * 0.4 / 2000))
    bare = course(pd.DataFrame({"teacher": ["a"], "params": [1.0], "value": [2.0]}), "value")["a"]
    assert bare.text() == "2.00" and bare.verdict("", "", "").startswith("too few")


def test_against_best_equals_a_slow_loop():
    seeds = pd.DataFrame(np.random.default_rng(0).normal(size=(5, 4)), columns=list("abcd"))
    gaps = []
    for seed in seeds.index:
        others = seeds.drop(index=seed).mean()
        gaps.append(seeds.loc[seed, "c"] - seeds.loc[seed, others.idxmax()])
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    found = against_best(seeds, "c")
    np.testing.assert_allclose([found.value, found.low, found.high], [np.mean(gaps), low, high])


def test_against_best_is_not_fooled_by_luck():
    rng = np.random.default_rng(1)
    found = [against_best(pd.DataFrame(rng.normal(size=(4, 6)), columns=list("abcdef")), "a") for _ in range(400)]
    assert abs(np.mean([gap.value for gap in found])) < 0.1  # choosing and judging on one seed gives about -1
    assert np.mean([gap.excludes_zero for gap in found]) < 0.09


def test_pair_mean_equals_a_slow_loop():
    rng = np.random.default_rng(2)
    alike = rng.uniform(0.5, 0.9, (6, 6))
    alike = (alike + alike.T) / 2
    pairs = [(i, j) for i in range(6) for j in range(6) if j - i in (1, 2)]
    assert pair_mean(alike, [1, 2]).value == pytest.approx(np.mean([alike[i, j] for i, j in pairs]))
    below = [(alike[i, i] + alike[j, j]) / 2 - alike[i, j] for i, j in pairs]
    lost = pair_mean(alike, [1, 2], below_floor=True)
    assert lost.value == pytest.approx(np.mean(below))
    assert lost.low < lost.value < lost.high
    assert np.isnan(pair_mean(alike[:2, :2], [1]).low)


def test_pair_mean_holds_its_level():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):  # pairs that share a teacher share its level; runs of one teacher agree no better than others
        level, seed = rng.normal(0, 0.03, 8), rng.normal(0, 0.01, (8, 8))
        wrong += pair_mean(0.8 + level[:, None] + level + seed + seed.T, range(1, 8), below_floor=True).excludes_zero
    assert wrong / 300 < 0.08


def test_small_estimates():
    assert times(Estimate(0.0), Estimate(1.0)).text() == "unknown"
    assert times(Estimate(2.0, 1.0, 3.0), Estimate(2.0, 1.0, 3.0)) == Estimate(1.0)
    assert difference(pd.Series([0.5]), pd.Series([0.4])).text(".1f") == "0.1"
    assert not held_fixed(np.nan, 8).excludes_zero
