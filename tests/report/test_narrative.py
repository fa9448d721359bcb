from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from messages import naming
from scipy import stats
from tables import affinity_table, curves_table

from capmismatch.errors import InputError
from capmismatch.report.facts import LinkCounts, StudentCourses, Subject, Unknown
from capmismatch.report.narrative import TOPICS, statements
from capmismatch.report.sentences import sentence
from capmismatch.selection.links import correlate
from capmismatch.stats.estimates import Estimate, against_best, course, held_fixed, pair_mean, times
from capmismatch.stats.two_lines import TwoLines

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


def said(topic, **tables):
    return [statement for statement in statements(tables) if statement.topic == topic]


def facts_of(topic, **tables):
    return [statement.facts for statement in said(topic, **tables)]


def verdict(estimate):
    """Sign of what is established: 1, -1, 0 for no difference; None without an interval."""
    return None if np.isnan(estimate.low) else int(estimate.low > 0) - int(estimate.high < 0)


# Whether teachers differ ----------------------------------------------------------------------------------------------


def test_teachers_that_differ_and_those_that_do_not():
    alike = results_table(np.full(7, 0.65), "ATS tau=4/3", "ATS", noise=0.01, seeds=2, seed=5)
    summary, differ, same = said("teachers", results=pd.concat([results_table(HILL), alike]))
    assert (summary.facts.combinations, summary.facts.shown) == (2, 1)
    assert differ.facts.shown and differ.codes == () and differ.facts.ceiling > 0.99
    assert not same.facts.shown and same.codes == ("CM015",) and same.facts.free == same.facts.free_of_runs == 6


def test_what_differences_are_measured_against_is_named():
    heights = np.array([0.60, 0.61, 0.59, 0.60, 0.61, 0.60, 0.62])
    runs = [results_table(heights, noise=0.01, seed=run).assign(teacher_seed=run) for run in (0, 1)]
    by_seed, by_run = (said("teachers", results=table) for table in (runs[0], pd.concat(runs)))
    assert [one.facts.error for one in by_seed[:2]] == ["seeds"] * 2
    assert [one.facts.error for one in by_run[:2]] == ["training runs"] * 2
    assert "the noise of training runs" in sentence(by_run[0].facts) and "seeds" not in sentence(by_run[1].facts)


def test_single_seeds_cannot_tell_whether_teachers_differ():
    assert facts_of("teachers", results=results_table(HILL, seeds=1)) == [Unknown("runs")]


# Students' course ----------------------------------------------------------------------------------------------------


def test_a_peak_has_its_place_and_both_falls():
    summary, only = facts_of("students", results=results_table(HILL))
    assert summary == StudentCourses(combinations=1, peaked=1, paired=1, both_ends_worse=1)
    assert only.subject == Subject("cnn", "KD tau=4") and only.both_ends_worse and not only.best_end
    assert only.shape.p_value < 0.05 and only.shape.peak == "t4" and only.shape.likely == ("t4",)
    assert list(only.accuracy) == ["t1", "t4", "t7"]
    top = only.accuracy["t4"]
    assert 0.6 < top.low < top.value < top.high < 0.7 and top.value == pytest.approx(0.69, abs=0.01)
    assert {end: verdict(gap) for end, gap in only.gaps.items()} == {"t1": -1, "t7": -1}


def test_an_end_that_is_the_best_is_not_held_against_itself():
    only = facts_of("students", results=results_table(np.linspace(0.6, 0.7, 7)))[1]
    assert {end: verdict(gap) for end, gap in only.gaps.items()} == {"t1": -1} and only.best_end == "t7"


def test_a_flat_course_has_no_peak():
    summary, only = facts_of("students", results=results_table(np.full(7, 0.65), noise=0.01))
    assert (summary.peaked, summary.both_ends_worse, summary.paired) == (0, 0, 1)
    assert not only.shape.established and [verdict(gap) for gap in only.gaps.values()] == [0, 0]


def test_a_monotone_course_falls_at_one_end_only():
    summary, only = facts_of("students", results=results_table(np.linspace(0.6, 0.7, 7)))
    assert summary.peaked == 0 and only.shape.peak == "t7" and only.shape.likely == ("t7",)
    assert [verdict(gap) for gap in only.gaps.values()] == [-1]


def test_pairing_by_seed_finds_what_the_scatter_of_seeds_hides():
    table = results_table(0.65 + (HILL - 0.6) / 10, noise=0.0005)
    table["accuracy"] += 0.01 * np.array([-1.0, 1.0, 2.0, -2.0])[table["seed"]]
    assert facts_of("students", results=table)[0] == StudentCourses(1, 1, 1, 1)
    lacking = table.drop(index=table.index[table["split"].eq("test")][0])  # then runs cannot be paired
    assert facts_of("students", results=lacking)[0].peaked == 0


def test_two_teachers_cannot_rise_and_fall():
    only = said("students", results=results_table([0.6, 0.7], teachers=["t1", "t2"]))[1]
    assert only.facts.shape is None and "3 teachers, got 2" in only.facts.why_unknown
    assert only.codes == ("CM003",)


def test_single_runs_establish_nothing_about_another_training():
    summary, only = said("students", results=results_table(HILL, seeds=1))
    assert only.facts.shape.shown and not only.facts.shape.established and summary.facts.peaked == 0
    assert only.codes == ("CM028",)


def test_families_are_told_apart():
    both = pd.concat([results_table(HILL), results_table(HILL[:3], teachers=TEACHERS[:3], family="g")])
    assert [facts.subject.family for facts in facts_of("students", results=both)[1:]] == ["f", "g"]


# Variance ------------------------------------------------------------------------------------------------------------


def test_variance_peak_stands_beside_confidence_and_inherent_variance():
    std, variance = facts_of("variance", probes=probes_table())
    assert (std.probe, std.tau, variance.probe) == ("derived_std", 4.0, "derived_variance")
    assert std.shape.established and variance.shape.peak == "t4"
    for facts in (std, variance):
        assert list(facts.means) == [facts.probe, "target_prob", "inherent_variance"]
        assert all(list(means) == ["t1", "t4", "t7"] for means in facts.means.values())
    assert std.means["target_prob"]["t7"].value == pytest.approx(0.9, rel=0.02)


def test_no_variance_peak_is_reported():
    std, _ = facts_of("variance", probes=probes_table(shape=np.linspace(0.5, 0.7, 7)))
    assert not std.shape.established


def test_derived_probes_are_not_reported_alone():
    probes = probes_table()
    only = facts_of("variance", probes=probes[probes["probe"] != "target_prob"])
    assert only == [Unknown("probes", ("target_prob",))]


def test_the_nearest_temperature_is_taken():
    both = pd.concat([probes_table().assign(tau=1.0), probes_table()])
    assert {statement.facts.tau for statement in statements({"probes": both}, tau=1.4)} == {1.0}


# Ranks ---------------------------------------------------------------------------------------------------------------


def test_ranks_as_alike_as_runs_of_one_teacher():
    (only,) = facts_of("ranks", ranks=ranks_table(0.0))
    assert {pairs: verdict(lost) for pairs, lost in only.below_floor.items()} == {"neighbours": 0, "any": 0}


def test_ranks_that_drift_with_size():
    (only,) = facts_of("ranks", ranks=ranks_table(0.05))
    assert {pairs: verdict(lost) for pairs, lost in only.below_floor.items()} == {"neighbours": 1, "any": 1}
    assert (only.smallest, only.largest) == ("t1", "t7") and only.of_ends == pytest.approx(0.5, abs=0.01)
    assert only.agreement["neighbours"].value == pytest.approx(0.75, abs=0.01)
    assert only.floor.value == pytest.approx(0.8, abs=0.01)


def test_ranks_without_second_runs_have_no_floor():
    (only,) = facts_of("ranks", ranks=ranks_table(0.05, runs=1))
    assert np.isnan(only.floor.value) and not only.below_floor


def spreads(affinity):
    """Standard deviation over the wrong classes, by class and teacher, in a loop."""
    found = {}
    for (teacher, label), rows in affinity.groupby(["teacher", "true_class"], sort=False):
        found[label, teacher] = np.std(rows["value"].to_numpy())
    return pd.Series(found).unstack()


def test_classes_in_which_the_largest_teacher_tells_the_wrong_ones_apart_less():
    affinity = affinity_table()
    flat = affinity["teacher"].eq("mlp1024") & affinity["true_class"].ne("class 0")
    affinity.loc[flat, "value"] = 0.5 * affinity.loc[flat, "value"] + 0.5 / 9
    (facts,) = facts_of("classes", affinity=affinity)
    table = spreads(affinity)
    best = table.mean().idxmax()
    assert (facts.largest, facts.against, facts.highest) == ("mlp1024", best, best)
    lost = table["mlp1024"] - table[best]
    assert facts.difference.value == pytest.approx(lost.mean()) and facts.difference.n == 10
    assert facts.difference.low == pytest.approx(stats.ttest_1samp(lost, 0).confidence_interval().low)
    assert facts.lower == (lost < 0).sum() >= 9 and set(facts.most_lost) == set(lost.nsmallest(3).index)
    assert facts.least_lost[0] == "class 0" and facts.difference.high < 0
    again = pd.concat([affinity.assign(seed=seed) for seed in range(2)])
    assert facts_of("classes", affinity=again) == [facts]  # means over runs
    alone = affinity[affinity["teacher"].eq("mlp1024")]
    two = affinity[
        affinity["other_class"].isin(["class 0", "class 1"]) & affinity["true_class"].isin(["class 0", "class 1"])
    ]
    assert facts_of("classes", affinity=alone) == facts_of("classes", affinity=two) == [Unknown("classes")]


def test_the_largest_teacher_is_compared_with_the_smallest_where_it_has_the_highest_mean():
    affinity = affinity_table().replace({"teacher": {"mlp1024": "last"}})
    sharp = affinity["teacher"].eq("last")
    affinity.loc[sharp, "value"] = (
        affinity.loc[sharp].groupby("true_class")["value"].transform(lambda v: v**3 / (v**3).sum())
    )
    (facts,) = facts_of("classes", affinity=affinity)
    assert facts.highest == facts.largest == "last" and facts.against == affinity["teacher"].iloc[0]
    assert facts.lower == 0 and facts.difference.low > 0


def test_two_tests_of_a_peak_stand_beside_each_other_and_their_disagreement_is_a_finding(monkeypatch):
    course = next(s for s in statements({"results": results_table(HILL)}) if hasattr(s.facts, "shape"))
    assert course.facts.shape.two_lines < 0.05 and "CM051" not in course.codes
    flat = TwoLines("t4", 1.0, 1.0, 0.01, 0.2)
    monkeypatch.setattr("capmismatch.report.narrative.two_lines_of", lambda *rows, **options: flat)
    course = next(s for s in statements({"results": results_table(HILL)}) if hasattr(s.facts, "shape"))
    assert course.facts.shape.two_lines == 0.2 and "CM051" in course.codes


def test_class_affinity_is_told_beside_the_order_of_each_example():
    by_example = ranks_table(0.05)
    by_class = by_example.assign(metric="affinity_tau_b", value=0.9 - (0.8 - by_example["value"]) / 10)
    affinity, example = facts_of("ranks", ranks=pd.concat([by_example, by_class]))
    assert (affinity.metric, example.metric) == ("affinity_tau_b", "wrong_tau_b")
    assert affinity.agreement["neighbours"].value == pytest.approx(0.895, abs=1e-3)
    assert example.agreement["neighbours"].value == pytest.approx(0.75, abs=0.01)


def test_ranks_need_two_teachers():
    assert facts_of("ranks", ranks=ranks_table(0.0, teachers=["t1"])) == [Unknown("pairs")]


# Restored ------------------------------------------------------------------------------------------------------------


def test_restored_has_both_ends_and_the_ratio():
    large, small, against = facts_of("restored", restored=restored_table())
    assert [(facts.size, facts.teacher) for facts in (large, small)] == [("largest", "t7"), ("smallest", "t1")]
    for facts, target in ((large, 0.8), (small, 0.2)):
        for factor, method in enumerate(["TS", "ATS", "ISATS"], start=1):
            values = {name: by_method[method].value for name, by_method in facts.quantities.items()}
            inherent = 0.01 * factor
            expected = (1 - target) ** 2 * inherent, target, inherent
            assert tuple(values.values()) == pytest.approx(expected)
            assert list(values) == ["derived_variance", "target_prob", "inherent_variance"]
    assert {method: share.value for method, share in large.flipped.items()} == {"TS": 0.0, "ATS": 0.25, "ISATS": 0.0}
    assert large.at_bound.value == pytest.approx(0.1) and large.at_bound.low < 0.1 < large.at_bound.high
    assert (against.largest, against.highest) == ("t7", "t1")
    ratios = [ratio.value for ratio in against.ratios["derived_variance"].values()]
    assert ratios == pytest.approx([0.2**2 / 0.8**2 * factor for factor in (1, 2, 3)])
    assert [ratio.value for ratio in against.ratios["inherent_variance"].values()] == pytest.approx([1, 2, 3])


@pytest.mark.parametrize(("bound", "codes"), [(0.1, ()), (0.9, ("CM008",))])
def test_a_search_that_ends_on_its_bound_is_marked(bound, codes):
    large, small, _ = said("restored", restored=restored_table(bound=bound))
    assert large.codes == small.codes == codes


def test_restored_without_its_factors_is_not_reported():
    table = restored_table()
    unknown = Unknown("restored", ("derived_variance", "target_prob", "inherent_variance"))
    for broken in (table[table["quantity"] != "inherent_variance"], table.assign(params=np.nan)):
        assert facts_of("restored", restored=broken) == [unknown]


# Links ---------------------------------------------------------------------------------------------------------------


def links_table(heights, **options):
    accuracy = probe_rows(np.linspace(0.5, 0.9, 7), "accuracy", tau=np.nan)
    probes = pd.concat([probes_table(**options), accuracy], ignore_index=True)
    return correlate(probes, results_table(heights, noise=1e-5), expected_signs={}, n_boot=100)


def test_a_link_that_survives():
    # The hill is the course of the variance, not that of p_y, IV or the teacher's accuracy, which all grow.
    summary, best, variance = facts_of("links", links=links_table(HILL + 0.0001 * np.arange(7)))
    assert summary == LinkCounts(1, 1, 1, "derived_std", 4.0, with_variance=1, linked=1, surviving=1)
    assert variance.survives and variance.lost_to == ()
    assert best.link.probe in ("derived_variance", "derived_std") and best.link.tau == 4 and best.link.significant
    assert best.link.correlation.n == 7 and best.link.correlation.value > 0.9
    for facts in (best, variance):
        assert [link.probe for link in facts.companions] == ["target_prob", "inherent_variance"]


def test_a_link_that_restates_confidence():
    size = np.linspace(0.2, 0.9, 7)
    falling = 0.9 - 0.3 * size + np.array([0.0, 0.0, 0.02, -0.02, 0.0, 0.0, 0.0])
    _, _, variance = said("links", links=links_table(0.9 - size / 3, shape=falling))
    assert variance.facts.lost_to == ("target_prob", "accuracy") and not variance.facts.survives
    assert "CM005" in variance.codes


def test_partials_of_two_families_know_how_few_teachers_they_are():
    links = links_table(HILL + 0.0001 * np.arange(7))
    row = links["probe"].eq("derived_std")
    links.loc[row, ["partial_target_prob", "n", "n_effective"]] = [-0.67, 12, 9.5]
    *_, variance = facts_of("links", links=links)
    fixed = variance.held_fixed["target_prob"]
    # normal theory for nine and a half teachers less one: 1.06 / (8.5 - 3)
    half = stats.norm.ppf(0.975) * np.sqrt((1 + 0.67**2 / 2) / 5.5)
    assert fixed.low == pytest.approx(np.tanh(np.arctanh(-0.67) - half)) and fixed.high > 0 and fixed.n == 12


def test_no_link_is_reported_as_none():
    heights = 0.65 + 0.01 * np.array([1.0, -1.0, 0.4, 0.0, -0.4, 1.1, -1.2])
    summary, best, variance = said("links", links=links_table(heights))
    assert summary.facts == LinkCounts(1, 0, 0, "derived_std", 4.0, with_variance=1, linked=0, surviving=0)
    assert not best.facts.link.significant
    assert not variance.facts.link.correlation.excludes_zero and not variance.facts.survives
    assert variance.codes == ("CM004",)


def test_links_of_derived_probes_without_companions_are_left_out():
    links = links_table(HILL + 0.0001 * np.arange(7))
    summary, *facts = facts_of("links", links=links[links["probe"] != "inherent_variance"])
    assert summary.with_variance == 0 and facts
    assert not {fact.link.probe for fact in facts} & {"derived_std", "derived_variance"}


# Differences between methods -----------------------------------------------------------------------------------------


def assert_estimate(estimate, value, interval):
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], [value, *interval])


def test_gain_is_paired_by_seed_and_averaged_over_teachers():
    kd, ce = results_table(HILL), plain_table()
    kd["accuracy"] += 0.01 * np.array([-1.0, 1.0, 2.0, -2.0])[kd["seed"]]  # a seed does more to KD than to CE
    (only,) = facts_of("gain", results=pd.concat([kd, ce]))
    apart = (
        kd[kd["split"] == "test"].groupby("seed")["accuracy"].mean()
        - ce[ce["split"] == "test"].set_index("seed")["accuracy"]
    )
    assert_estimate(only.gain, apart.mean(), stats.ttest_1samp(apart, 0).confidence_interval(0.95))
    assert (only.teachers, only.gain.n, verdict(only.gain)) == (7, 4, 1)


@pytest.mark.parametrize(("plain", "sign"), [(0.70, -1), (0.641, 0)])
def test_a_loss_and_a_null_gain_are_reported(plain, sign):
    table = pd.concat([results_table(np.full(7, 0.64), noise=0.004), plain_table(plain, noise=0.004)])
    (only,) = facts_of("gain", results=table)
    assert verdict(only.gain) == sign


def test_one_seed_gives_no_interval():
    (only,) = said("gain", results=pd.concat([results_table(HILL, seeds=1), plain_table(seeds=1)]))
    assert verdict(only.facts.gain) is None and "[" not in only.text


def test_gain_without_plain_students():
    assert facts_of("gain", results=results_table(HILL)) == [Unknown("plain")]


def test_isats_against_kd_at_the_largest_third():
    kd = results_table(HILL, seed=1)
    isats = results_table(HILL + np.where(np.arange(7) >= 4, 0.02, -0.5), "ISATS order m=1 tau=4", "ISATS", seed=2)
    shifts = 0.002 * np.array([-1.0, 1.0, 2.0, -2.0])
    isats["accuracy"] += shifts[isats["seed"]]  # what a seed does to one setting is known from all seven teachers
    (only,) = facts_of("large", results=pd.concat([kd, isats]))
    y = np.stack(
        [t[t["split"].eq("test")].pivot_table(index="teacher", columns="seed", values="accuracy") for t in (isats, kd)]
    )
    by_teacher, by_seed = y.mean(2, keepdims=True), y.mean(1, keepdims=True)
    run = ((y - by_teacher - by_seed + y.mean((1, 2), keepdims=True)) ** 2).sum() / (2 * 6 * 3)
    of_seeds = (y[0] - y[1]).mean(0).var(ddof=1) * 7 / 2
    weights, squares, free = np.array([2 / 28, 2 / 12 - 2 / 28]), np.array([of_seeds, run]), np.array([3, 36])
    variance = weights @ squares
    half = stats.t.ppf(0.975, variance**2 / ((weights * squares) ** 2 / free).sum()) * variance**0.5
    apart = (y[0] - y[1])[4:].mean()
    assert_estimate(only.gain, apart, (apart - half, apart + half))
    assert (only.subject.label, only.plain_label) == ("ISATS order m=1 tau=4", "KD tau=4")
    assert only.teachers == ("t5", "t6", "t7") and only.gain.n == 4 and verdict(only.gain) == 1


def test_isats_is_held_against_kd_at_the_same_temperature_of_the_student():
    kd = results_table(HILL, seed=1).assign(tau_student=1.0)
    other = results_table(HILL - 0.3, "KD tau=4 student tau=4", seed=1).assign(tau_student=4.0)
    isats = results_table(HILL, "ISATS order m=1 tau=4", "ISATS", seed=2).assign(tau_student=1.0)
    (only,) = facts_of("large", results=pd.concat([kd, other, isats]))
    assert only.plain_label == "KD tau=4 student tau=1"
    assert facts_of("large", results=pd.concat([other, isats])) == [Unknown("isats")]


def test_isats_no_better_than_kd():
    kd = results_table(HILL, seed=1, noise=0.01)
    isats = results_table(HILL, "ISATS order m=1 tau=4", "ISATS", seed=2, noise=0.01)
    (only,) = facts_of("large", results=pd.concat([kd, isats]))
    assert verdict(only.gain) == 0


def test_isats_without_kd_is_not_compared():
    assert facts_of("large", results=results_table(HILL)) == [Unknown("isats")]


# Whole ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_table():
    checks = {"teacher": ["a", "b"], "seed": 0, "drift": [0.4, 0.0], "tied": 0.0, "findings": ["CM011", ""]}
    isats = results_table(HILL, "ISATS order m=1 tau=4", "ISATS", seed=2)
    return {
        "results": pd.concat([results_table(HILL), isats, plain_table()]),
        "probes": probes_table(),
        "ranks": ranks_table(0.02),
        "affinity": affinity_table(),
        "restored": restored_table(),
        "links": links_table(HILL),
        "checks": pd.DataFrame(checks),
    }


def test_topics_come_in_order_and_derived_probes_never_alone(every_table):
    found = statements(every_table)
    asked = [topic for topic, (_, table) in TOPICS.items() if table != "curves"]  # which these tables lack
    assert list(dict.fromkeys(statement.topic for statement in found)) == asked
    for statement in found:
        if re.search(r"derived (variance|std)", statement.text) and "combination" not in statement.text:
            assert "p_y" in statement.text and "inherent variance" in statement.text
    assert repr(found) == repr(statements(every_table))


def test_what_students_gained_at_the_end_is_a_finding_where_it_matters():
    plain, taught = [s for s in statements({"curves": curves_table(late=0.004)}) if s.topic == "trained"]
    assert plain.facts.gain.value == pytest.approx(0.0) and plain.codes == ()
    assert taught.facts.gain.value == pytest.approx(0.8) and taught.codes == ("CM057",)
    assert statements({"curves": curves_table().assign(val_accuracy=np.nan)}) == []


def test_the_narrative_as_it_is_worded(every_table, golden):
    """The one test of the sentences themselves, with some in which something is unknown or not established."""
    tables = [
        every_table,
        {"results": pd.concat([results_table(HILL, seeds=1), plain_table(seeds=1)])},
        {"results": results_table([0.6, 0.7], teachers=["t1", "t2"])},
        {"probes": probes_table(shape=np.linspace(0.5, 0.7, 7)), "ranks": ranks_table(0.0, runs=1)},
        {"probes": probes_table().query("probe != 'target_prob'"), "ranks": ranks_table(0.0, teachers=["t1"])},
        {"restored": restored_table().assign(params=np.nan), "links": links_table(HILL[::-1]).query("tau > 99")},
    ]
    lines = [
        " ".join([f"{statement.topic}:", statement.text, *statement.codes])
        for given in tables
        for statement in statements(given)
    ]
    golden("narrative.txt", "\n".join(lines) + "\n")


def test_absent_tables_leave_their_topics_out():
    assert {statement.topic for statement in statements({"ranks": ranks_table(0.0)})} == {"ranks"}
    assert statements({}) == []


@pytest.mark.parametrize("name", ["results", "probes", "ranks", "restored", "links"])
def test_missing_columns_are_named(name):
    with pytest.raises(InputError, match=f"the {name} table lacks the columns"):
        statements({name: pd.DataFrame({"other": []})})


def test_missing_split_is_named():
    with pytest.raises(InputError, match=naming("'holdout'", ["test", "val"])):
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


def test_against_best_takes_what_teachers_and_seeds_leave_as_its_noise():
    seeds = pd.DataFrame(np.random.default_rng(0).normal(size=(5, 2)), columns=list("ab"))
    low, high = stats.ttest_rel(seeds["a"], seeds["b"]).confidence_interval(0.95)  # the same of two teachers
    np.testing.assert_allclose([*vars(against_best(seeds, "a")).values()][1:3], [low, high], rtol=1e-4)
    many = pd.DataFrame(np.random.default_rng(0).normal(size=(2, 12)), columns=list("abcdefghijkl"))
    gap = against_best(many, "a")
    assert gap.value == pytest.approx(many["a"].mean() - many.drop(columns="a").mean().max())
    assert gap.high - gap.low < 10  # one degree of freedom would be 12.7 standard errors to either side


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
    assert not held_fixed(np.nan, 8, 8).excludes_zero
