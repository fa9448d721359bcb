from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from capmismatch.errors import InputError
from capmismatch.selection.links import LINK_COLUMNS, correlate

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
SIGNS = {"derived_std": 1, "ece": -1}


def tables(rng, sizes, *, runs=1, seeds=2, link=0.8, students=("cnn",), labels=("KD tau=4", "ISATS tau=4")):
    """A probes and a results table of families with `sizes` teachers, where one latent quality drives most."""
    probes, results = [], []
    for f, count in enumerate(sizes):
        for t in range(count):
            unit, quality = (f"f{f}", f"t{t}"), rng.standard_normal()
            for run in range(runs):
                kinds = {
                    ("derived_std", 4.0): quality + 0.3 * rng.standard_normal() + 10 * f,
                    ("derived_std", 1.0): rng.standard_normal(),
                    ("target_prob", 4.0): rng.standard_normal(),
                    ("inherent_variance", 4.0): rng.standard_normal(),
                    ("ece", np.nan): rng.standard_normal(),
                    ("accuracy", np.nan): rng.standard_normal(),
                }
                for (probe, tau), value in kinds.items():
                    probes.append((*unit, 1e5 * (t + 1), "val", run, tau, probe, value))
                for student in students:
                    for label in labels:
                        for seed in range(seeds):
                            y = link * quality + 0.6 * rng.standard_normal()
                            results.append((*unit, run, student, label, "KD", seed, "test", y))
    for student in students:
        results.append(("", "", 0, student, "CE", "CE", 0, "test", 0.0))
    return (
        pd.DataFrame(probes, columns=["family", "teacher", "params", "split", "seed", "tau", "probe", "value"]),
        pd.DataFrame(
            results,
            columns=["family", "teacher", "teacher_seed", "student", "label", "method", "seed", "split", "accuracy"],
        ),
    )


@pytest.fixture
def one_family():
    return tables(np.random.default_rng(0), [8], runs=2)


def means(probes, results, probe, tau, label):
    at = probes["tau"].isna() if np.isnan(tau) else probes["tau"].eq(tau)
    x = probes[probes["probe"].eq(probe) & at].groupby("teacher")["value"].mean()
    y = results[results["label"].eq(label)].groupby(["teacher", "teacher_seed"])["accuracy"].mean()
    return x, y.groupby("teacher").mean()


def test_values_and_p_equal_scipys(one_family):
    links = correlate(*one_family, expected_signs=SIGNS, n_boot=50)
    assert list(links.columns) == list(LINK_COLUMNS)
    assert len(links) == 6 * 2 * 3 and links["n"].eq(8).all()
    assert "CE" not in set(links["label"])
    for row in links.itertuples():
        x, y = means(*one_family, row.probe, row.tau, row.label)
        assert row.value == pytest.approx(SCIPY[row.metric](x, y)[0], abs=1e-12)
        if row.metric == "kendall":
            assert row.p == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue, abs=1e-9)
        assert row.low <= row.value <= row.high


def test_partials_are_correlations_of_residuals(one_family):
    probes, results = one_family
    links = correlate(*one_family, expected_signs=SIGNS, n_boot=20).query(
        "label == 'KD tau=4' and metric == 'spearman'"
    )
    row = links.query("probe == 'derived_std' and tau == 4").iloc[0]
    x, y = means(probes, results, "derived_std", 4.0, "KD tau=4")
    controls = {
        "partial_accuracy": means(probes, results, "accuracy", np.nan, "KD tau=4")[0],
        "partial_params": pd.Series({f"t{t}": t for t in range(8)}),
        "partial_target_prob": means(probes, results, "target_prob", 4.0, "KD tau=4")[0],
    }
    for column, control in controls.items():
        a, b, c = (stats.rankdata(v) for v in (x, y, control))
        left, right = (v - np.polyval(np.polyfit(c, v, 1), c) for v in (a, b))
        assert row[column] == pytest.approx(stats.pearsonr(left, right)[0])
    ranks = [stats.rankdata(controls[column]) for column in ("partial_accuracy", "partial_params")]
    design = np.column_stack([np.ones(8), *ranks])
    left, right = (a - design @ np.linalg.lstsq(design, a, rcond=None)[0] for a in map(stats.rankdata, (x, y)))
    assert row["partial_accuracy_params"] == pytest.approx(stats.pearsonr(left, right)[0])
    assert np.isnan(links.query("probe == 'accuracy'")[["partial_accuracy", "partial_accuracy_params"]]).all(axis=None)
    assert np.isnan(links.query("probe == 'ece'")["partial_target_prob"]).all()


def test_a_control_that_another_determines_changes_nothing(one_family):
    probes, results = one_family
    order = probes["teacher"].str[1:].astype(float)
    ordered = probes.assign(value=probes["value"].where(probes["probe"].ne("accuracy"), order))  # as the parameters
    links = correlate(ordered, results, expected_signs={}, n_boot=20).query("metric != 'pearson'")
    known = links[links["probe"].ne("accuracy")]
    assert known["partial_accuracy_params"].notna().all()
    np.testing.assert_allclose(known["partial_accuracy_params"], known["partial_accuracy"])


def test_correction_is_over_probes_of_the_same_student_label_and_metric(one_family):
    links = correlate(*one_family, expected_signs=SIGNS, n_boot=20)
    for _, part in links.groupby(["student", "label", "metric"]):
        np.testing.assert_allclose(part["p_adjusted"], multipletests(part["p"], method="fdr_bh")[1])


def test_the_correction_for_settings_spares_the_primary_probe():
    one_family = tables(np.random.default_rng(5), [6])
    links = correlate(*one_family, expected_signs=SIGNS, n_boot=20, primary="ece")
    assert set(links.loc[links["primary"], "probe"]) == {"ece"}
    for _, part in links.groupby("metric"):
        assert len(part) == 6 * 2
        others = part[~part["primary"]]
        np.testing.assert_allclose(others["p_overall"], np.minimum(2 * others["p_max"], 1))
        named = part[part["primary"]]
        np.testing.assert_allclose(named["p_overall"], multipletests(named["p"], method="holm")[1])
    default = correlate(*one_family, expected_signs=SIGNS, n_boot=20, primary_tau=1.2).query("primary")
    assert set(zip(default["probe"], default["tau"], strict=True)) == {("derived_std", 1.0)}
    with pytest.raises(InputError, match="primary must be one of"):
        correlate(*one_family, expected_signs={}, n_boot=20, primary="derivd_std")


def test_max_t_of_probes_that_lack_some_teachers_counts_both_sets():
    probes, results = tables(np.random.default_rng(6), [6])
    lacking = probes[~(probes["probe"].eq("ece") & probes["teacher"].eq("t5"))]
    whole, parts = (correlate(p, results, expected_signs={}, n_boot=20) for p in (probes, lacking))
    alone = correlate(lacking.query("probe == 'ece'"), results.query("teacher != 't5'"), expected_signs={}, n_boot=20)
    keys = ["student", "label", "metric"]
    twice = parts.query("probe == 'ece'").sort_values(keys)["p_max"].to_numpy()
    np.testing.assert_allclose(twice, np.minimum(2 * alone.sort_values(keys)["p_max"], 1))
    assert (whole["p_max"] >= whole["p"]).all()


def test_probes_that_a_control_explains_are_marked():
    probes, results = tables(np.random.default_rng(7), [4, 8])
    size = probes["params"] * (1 + 1e-3 * np.random.default_rng(0).random(len(probes)))
    probes["value"] = probes["value"].where(probes["probe"].ne("ece"), -size)
    accuracy = probes.query("probe == 'accuracy'").set_index(["family", "teacher"])["value"]
    like = probes["probe"].eq("inherent_variance")
    keys = pd.MultiIndex.from_frame(probes.loc[like, ["family", "teacher"]])
    probes.loc[like, "value"] = accuracy.reindex(keys).to_numpy() * 3 + 1
    links = correlate(probes, results, expected_signs={}, n_boot=20)
    marked = links[links["metric"].ne("pearson")].groupby("probe")["collinear"].agg(set)
    assert marked["ece"] == {"params"} and marked["inherent_variance"] == {"accuracy"}
    assert marked["accuracy"] == {""} and links["collinear"].ne("").eq(links["findings"].str.contains("CM027")).all()
    sizes = links.groupby("metric")["n_effective"].first()
    assert sizes["spearman"] == pytest.approx(9.5, abs=0.05) and sizes["pearson"] == 11 and links["n"].eq(12).all()


def test_few_teachers_for_many_probes_are_told():
    rng = np.random.default_rng(8)
    probes, results = tables(rng, [6], labels=("KD",))
    more = [probes.query("probe == 'ece'").assign(probe=f"p{i}", value=rng.standard_normal(6)) for i in range(30)]
    few, many = (correlate(p, results, expected_signs={}, n_boot=20) for p in (probes, pd.concat([probes, *more])))
    # two of 720 orders agree or disagree perfectly: six probes can be told apart from chance, thirty-six cannot
    assert not few["findings"].str.contains("CM003").any() and many["findings"].str.contains("CM003").all()


def test_sorted_by_spearman_and_deterministic(one_family):
    links = correlate(*one_family, expected_signs=SIGNS, n_boot=100, seed=3)
    strength = links.query("metric == 'spearman'")["value"].abs()
    assert strength.is_monotonic_decreasing
    pd.testing.assert_frame_equal(links, correlate(*one_family, expected_signs=SIGNS, n_boot=100, seed=3))
    shuffled = [frame.sample(frac=1, random_state=1) for frame in one_family]
    pd.testing.assert_frame_equal(links, correlate(*shuffled, expected_signs=SIGNS, n_boot=100, seed=3))


def test_expected_signs_come_from_the_registry(one_family):
    from capmismatch.probes import expected_signs

    links = correlate(*one_family, n_boot=20)
    known = links.set_index("probe")["expected_sign"].to_dict()
    assert known["ece"] == expected_signs()["ece"]


def test_families_are_compared_within():
    probes, results = tables(np.random.default_rng(1), [5, 4, 1])
    within = correlate(probes, results, expected_signs={}, n_boot=50)
    assert within["n"].eq(9).all()  # a single teacher has nobody to be compared with
    row = within.query("probe == 'derived_std' and tau == 4 and metric == 'pearson' and label == 'KD tau=4'").iloc[0]
    frame = pd.DataFrame(
        {
            "x": probes.query("probe == 'derived_std' and tau == 4").groupby(["family", "teacher"])["value"].mean(),
            "y": results.query("label == 'KD tau=4'").groupby(["family", "teacher"])["accuracy"].mean(),
        }
    ).drop("f2")
    centred = frame - frame.groupby("family").transform("mean")
    assert row["value"] == pytest.approx(centred.corr().iloc[0, 1])
    across = correlate(probes, results, expected_signs={}, n_boot=50, within_family=False)
    assert across["n"].eq(10).all()
    value = across.query("probe == 'derived_std' and tau == 4 and metric == 'pearson' and label == 'KD tau=4'")["value"]
    both = pd.DataFrame(
        {
            "x": probes.query("probe == 'derived_std' and tau == 4").groupby(["family", "teacher"])["value"].mean(),
            "y": results.query("label == 'KD tau=4'").groupby(["family", "teacher"])["accuracy"].mean(),
        }
    )
    assert value.iloc[0] == pytest.approx(both["x"].corr(both["y"]))


def pooled_against_within(sizes):
    """Accuracy falls with the probe within every family, and rises from family to family; the links of each rule."""
    units = [(f, t) for f, count in enumerate(sizes) for t in range(count)]
    teachers = pd.DataFrame({"family": [f"f{f}" for f, _ in units], "teacher": [f"t{t}" for _, t in units]})
    value = np.array([100.0 * f + t for f, t in units])
    probes = teachers.assign(params=1e5, split="val", seed=0, tau=np.nan, probe="ece", value=value)
    accuracy = np.array([0.1 * f - 0.01 * t for f, t in units])
    results = teachers.assign(
        teacher_seed=0, student="cnn", label="KD", method="KD", seed=0, split="test", accuracy=accuracy
    )
    return correlate(probes, results, expected_signs={}, n_boot=20).query("metric == 'pearson'").iloc[0]


@pytest.mark.parametrize("sizes", [[6, 2], [5, 4, 1], [3, 3], [4, 2, 2]])
def test_families_are_compared_within_where_that_keeps_most_teachers(sizes):
    link = pooled_against_within(sizes)
    assert link["value"] == pytest.approx(-1) and "CM012" not in link["findings"]
    assert link["n"] == sum(size for size in sizes if size > 1)


@pytest.mark.parametrize("sizes", [[2, 2, 2], [3, 2, 2], [1] * 6])
def test_families_that_are_compared_with_one_another_are_told(sizes):
    link = pooled_against_within(sizes)
    assert link["value"] > 0.9 and "CM012" in link["findings"] and link["n"] == sum(sizes)


def test_results_of_the_other_split_alone_are_taken_and_told(one_family):
    probes, results = one_family
    expected = correlate(probes, results, n_boot=50)
    found = correlate(probes, results.assign(split="val"), n_boot=50)
    assert found["findings"].str.contains("CM013").all() and not expected["findings"].str.contains("CM013").any()
    pd.testing.assert_frame_equal(found.drop(columns="findings"), expected.drop(columns="findings"))
    asked = correlate(probes, results.assign(split="val"), split="val", n_boot=50)
    pd.testing.assert_frame_equal(asked, expected)


def test_teachers_with_students_but_no_probes_are_named(one_family):
    probes, results = one_family
    mistyped = results.assign(teacher=results["teacher"].replace({"t3": "t03"}))
    told = "students of f0/t03 but the probes lack that teacher; 1 teacher with probes but without students: f0/t3"
    for unit in ("teacher", "run"):
        with pytest.warns(UserWarning, match=told) as caught:
            correlate(probes, mistyped, n_boot=20, unit=unit)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # some teachers without students are usual
        assert correlate(probes, results[results["teacher"].ne("t3")], n_boot=20)["n"].eq(7).all()


def test_results_without_a_family_go_by_the_teachers_name(one_family):
    probes, results = one_family
    links = correlate(probes, results.assign(family=""), n_boot=50)
    pd.testing.assert_frame_equal(links, correlate(probes, results, n_boot=50))
    with pytest.raises(InputError, match="do not say which teacher 't0' they mean, that of family f0 or other"):
        correlate(pd.concat([probes, probes.assign(family="other")]), results.assign(family=""))


def test_gaps_only_cost_the_links_they_touch(one_family):
    probes, results = one_family
    gone = probes["probe"].eq("ece") & probes["teacher"].isin(["t0", "t1"])
    untaught = results["label"].eq("ISATS tau=4") & results["teacher"].eq("t7")
    links = correlate(probes[~gone], results[~untaught], expected_signs={}, n_boot=20)
    counts = links.groupby(["probe", "label"])["n"].first()
    assert counts["ece", "KD tau=4"] == 6 and counts["ece", "ISATS tau=4"] == 5
    assert counts["accuracy", "KD tau=4"] == 8 and counts["accuracy", "ISATS tau=4"] == 7


def test_findings():
    rng = np.random.default_rng(2)
    probes, results = tables(rng, [9], link=3.0)
    # A second probe that is confidence in disguise.
    confident = probes["probe"].eq("target_prob")
    quality = probes.query("probe == 'derived_std' and tau == 4").set_index("teacher")["value"]
    probes.loc[confident, "value"] = probes.loc[confident, "teacher"].map(-quality)
    links = correlate(probes, results, expected_signs={"derived_std": -1}, n_boot=200)
    strong = links.query("probe == 'derived_std' and tau == 4")
    assert strong["findings"].str.contains("CM005").all() and strong["findings"].str.contains("CM006").all()
    assert not strong["findings"].str.contains("CM004").any()
    noise = links.query("low < 0 and high > 0")
    assert len(noise) and noise["findings"].str.contains("CM004").all()
    assert not noise["findings"].str.contains("CM005").any()
    assert not links["findings"].str.contains("CM003").any()
    muted = correlate(probes, results, expected_signs={}, n_boot=20, mute=["CM004", "CM005", "CM027"])
    assert muted["findings"].eq("").all()


def share_called_confidence(rng, truth, families=60, teachers=7):
    """Of simulated probes whose Spearman correlation excludes zero; and their number. Each has a temperature."""
    names, accuracy = [f"t{t}" for t in range(teachers)], rng.standard_normal(teachers)
    kept = {"family": "f", "teacher": names, "params": 1e5, "split": "val", "seed": 0}
    probes = []
    for tau in range(families):
        kinds = zip(("derived_std", "target_prob"), truth(accuracy, rng.standard_normal((2, teachers))), strict=True)
        probes += [pd.DataFrame(kept | {"tau": float(tau), "probe": name, "value": value}) for name, value in kinds]
    taught = {"family": "f", "teacher": names, "teacher_seed": 0, "student": "cnn", "label": "KD", "method": "KD"}
    results = pd.DataFrame(taught | {"seed": 0, "split": "test", "accuracy": accuracy})
    links = correlate(pd.concat(probes), results, expected_signs={}, n_boot=50)
    found = links.query("probe == 'derived_std' and metric == 'spearman'")["findings"]
    clear = found[~found.str.contains("CM004")]
    return clear.str.contains("CM005").mean(), len(clear)


def test_confidence_is_called_where_it_explains_the_link_and_hardly_elsewhere():
    rng = np.random.default_rng(3)
    share, clear = share_called_confidence(rng, lambda y, noise: (y + 0.3 * noise[0], noise[1]))
    assert clear > 40 and share < 0.1

    def restated(y, noise):
        confidence = -y + 0.3 * noise[0]
        return -confidence + 0.3 * noise[1], confidence

    share, clear = share_called_confidence(rng, restated)
    assert clear > 30 and share > 0.7


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_teachers(count):
    links = correlate(*tables(np.random.default_rng(4), [count]), expected_signs={}, n_boot=20)
    assert links["findings"].str.contains("CM003").all() and links["n"].eq(count).all()
    assert links["value"].isna().all() == (count < 3)


def test_few_teachers_within_each_family():
    links = correlate(*tables(np.random.default_rng(4), [3, 3]), expected_signs={}, n_boot=20)
    assert links["n"].eq(6).all() and links["findings"].str.contains("CM003").all()
    assert links.query("metric == 'spearman'")["p"].min() > 0.05
    enough = correlate(*tables(np.random.default_rng(4), [4, 4]), expected_signs={}, n_boot=20)
    assert not enough["findings"].str.contains("CM003").any()


def test_a_partial_that_can_only_be_one_is_not_given():
    for count, given in ((3, []), (4, ["partial_params"]), (5, ["partial_params", "partial_accuracy_params"])):
        links = correlate(*tables(np.random.default_rng(4), [count]), expected_signs={}, n_boot=20)
        pearson = links.query("metric == 'pearson' and probe == 'ece'")
        known = [name for name in ("partial_params", "partial_accuracy_params") if pearson[name].notna().all()]
        assert known == given
        assert pearson[given].abs().max(axis=None) < 1 - 1e-6 if given else True


def test_a_seed_that_some_teachers_lack_does_not_count_for_those_that_have_it():
    probes, results = tables(np.random.default_rng(7), [8], seeds=3, labels=("KD tau=4",))
    lucky = results.assign(accuracy=results["accuracy"] + 5 * results["seed"].eq(2))
    pd.testing.assert_frame_equal(
        correlate(probes, results, n_boot=20)[["value", "p"]], correlate(probes, lucky, n_boot=20)[["value", "p"]]
    )
    lacking = results["teacher"].isin(["t0", "t1", "t2"]) & results["seed"].eq(2)
    before, after = (correlate(probes, frame[~lacking], n_boot=20) for frame in (results, lucky))
    np.testing.assert_allclose(before["value"], after["value"], atol=1e-9)


def test_runs_as_units(one_family):
    links = correlate(*one_family, expected_signs={}, n_boot=20, unit="run")
    assert links["n"].eq(16).all()


def test_a_constant_probe_has_no_link(one_family):
    probes, results = one_family
    probes = probes.assign(value=probes["value"].where(probes["probe"].ne("ece"), 0.3))
    row = correlate(probes, results, expected_signs={"ece": 1}, n_boot=20).query("probe == 'ece'")
    assert row[["value", "low", "high", "p", "p_adjusted"]].isna().all(axis=None)
    assert row["findings"].eq("CM014").all()
    same = correlate(probes, results.assign(accuracy=0.7), expected_signs={}, n_boot=20)
    assert same["value"].isna().all() and same["findings"].eq("CM014").all()


def test_errors(one_family):
    probes, results = one_family
    with pytest.raises(InputError, match="the probes table lacks the column 'tau'"):
        correlate(probes.drop(columns="tau"), results)
    with pytest.raises(InputError, match="the results table lacks the column 'label'"):
        correlate(probes, results.drop(columns="label"))
    with pytest.raises(InputError, match=r"the probes table has no rows for the split 'train'; it has \['val'\]"):
        correlate(probes, results, probe_split="train")
    with pytest.raises(InputError, match=r"the results table has no rows for the split 'tset'; it has \['test'\]"):
        correlate(probes, results, split="tset")
    for n_boot in (0, -1, 2.5):
        with pytest.raises(InputError, match=f"expected n_boot a whole number >= 1, got {n_boot}"):
            correlate(probes, results, n_boot=n_boot)
    with pytest.raises(InputError, match="no row with a teacher and an accuracy on split 'test'"):
        correlate(probes, results[results["method"].eq("CE")])
    other = results.assign(family=results["family"].replace("f0", "other"))
    with pytest.raises(InputError, match=r"probes are of \['f0/t0', .*results of \['other/t0'"):
        correlate(probes, other)
    with pytest.raises(InputError, match="holds more than one row for family='f0', teacher='t0', probe="):
        correlate(pd.concat([probes, probes.iloc[:1]]), results)
    with pytest.raises(InputError, match="the results table has no number for a seed in the row of family='f0', teach"):
        correlate(probes, results.assign(teacher_seed=results["teacher_seed"].where(results.index > 0)))
    message = r"family='f0', teacher='t0', .*teacher_seed=0, seed=0; give each run a number .* in the column 'seed'$"
    with pytest.raises(InputError, match=message):
        correlate(probes, results.assign(seed=0))
    with pytest.raises(InputError, match="unit must be one of"):
        correlate(probes, results, unit="example")


def test_p_values_are_uniform_without_a_link_and_intervals_cover():
    """A quick look at 200 families in one table: every label is a family's worth of independent students."""
    rng = np.random.default_rng(5)
    labels = tuple(f"l{i}" for i in range(200))
    probes, results = tables(rng, [8], link=0.0, labels=labels)
    probes = probes.query("probe == 'inherent_variance'")
    links = correlate(probes, results, expected_signs={}, n_boot=200)
    for _, part in links.groupby("metric"):
        assert part["low"].lt(0).mul(part["high"].gt(0)).mean() == pytest.approx(0.95, abs=0.045)
    assert stats.kstest(links.query("metric == 'pearson'")["p"], "uniform").pvalue > 0.01
