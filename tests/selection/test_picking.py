from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from tables import RESULT_COLUMNS

from capmismatch.data.bank import LogitBank, bank_from_arrays
from capmismatch.diagnostics import tables
from capmismatch.diagnostics.tables import example_values
from capmismatch.errors import InputError
from capmismatch.selection.candidates import mean_probes, measured, rule_choices
from capmismatch.selection.choice_parts import PilotRecord
from capmismatch.selection.picking import Choice, draw_summary, pick
from capmismatch.selection.reasons import ALIKE, SHOWN_STUDENTS
from capmismatch.selection.rules import DEFAULT_RULE, RULES, VARIANCE_RULE
from capmismatch.stats.matching import rows_of_split

GOLDEN = Path(__file__).with_name("choice.txt")
SIZES = np.array([8, 14, 20, 26, 32, 56])
QUALITY = np.array([-2.0, -1.0, 0.0, 2.0, 0.5, -1.5])  # of the students: the fourth teacher is the best


def probe_table(rng, runs=1, taus=(4.0,), family="resnet"):
    rows = []
    for size, quality in zip(SIZES, QUALITY, strict=True):
        for run in range(runs):
            kinds = [("accuracy", np.nan, 0.8 + size / 1000), ("ece", np.nan, 0.01 + size / 1000)]
            kinds += [("derived_std", tau, 0.05 + 0.004 * quality) for tau in taus]
            for probe, tau, value in kinds:
                noise = 0.0005 * rng.standard_normal() if runs > 1 else 0.0
                rows.append((family, f"resnet{size}", size * 1e4, "val", run, tau, probe, value + noise, 0.0004, 5000))
    columns = ["family", "teacher", "params", "split", "seed", "tau", "probe", "value", "se", "n"]
    return pd.DataFrame(rows, columns=columns)


def result_table(rng, students=("cnn",), noise=0.001, step=0.006, plain=0.70, seeds=3, family="resnet"):
    rows = []
    for student, split in ((s, p) for s in students for p in ("val", "test")):
        for seed in range(seeds):

            def accuracy(mean):
                return mean + noise * rng.standard_normal()

            rows.append(("", "", 0, student, "CE", "CE", np.nan, seed, split, accuracy(plain), 10_000))
            for size, quality in zip(SIZES, QUALITY, strict=True):
                for label, method, tau, gain in (("KD tau=4", "KD", 4.0, 1.0), ("ATS tau=2", "ATS", 2.0, 0.5)):
                    mean = 0.72 + gain * step * quality
                    rows.append(
                        (family, f"resnet{size}", 0, student, label, method, tau, seed, split, accuracy(mean), 10_000)
                    )
    return pd.DataFrame(rows, columns=RESULT_COLUMNS)


@pytest.fixture
def probes():
    return probe_table(np.random.default_rng(0))


@pytest.fixture
def results():
    return result_table(np.random.default_rng(1))


def test_without_results_the_lowest_nll_decides(probes):
    """By `data/evidence`; where it was not measured, the accuracy does."""
    nll = probes[probes["probe"].eq("accuracy")].assign(probe="nll", se=0.0001)
    nll["value"] = nll["value"].rank()  # the least accurate has the lowest
    choice = pick(pd.concat([probes, nll]))
    assert (choice.teacher, choice.rule) == ("resnet8", DEFAULT_RULE) and DEFAULT_RULE == "lowest nll"
    choice = pick(probes)
    assert (choice.teacher, choice.rule, choice.tau) == ("resnet56", "most accurate", None)
    assert choice.table["score"].is_monotonic_decreasing and choice.grade == "none"
    for lacking, rule in (("accuracy", VARIANCE_RULE), ("derived_std", "most accurate")):
        assert pick(probes[probes["probe"].ne(lacking)]).rule == rule


def test_without_results_a_probe_decides(probes):
    choice = pick(probes, rule=VARIANCE_RULE)
    assert (choice.teacher, choice.family, choice.rule, choice.tau) == ("resnet26", "resnet", VARIANCE_RULE, 4.0)
    assert (choice.student, choice.label, choice.method) == (None, None, None)
    assert choice.table["teacher"].iloc[0] == "resnet26" and choice.table["score"].is_monotonic_decreasing
    best = choice.table.iloc[0]
    assert (best["low"], best["high"]) == pytest.approx((0.058 - 1.96 * 0.0004, 0.058 + 1.96 * 0.0004), abs=1e-6)
    taken = choice.rules.set_index("rule")["teacher"]
    assert (
        taken["largest"] == taken["most accurate"] == "resnet56"
        and taken["smallest"] == taken["lowest ece"] == "resnet8"
    )
    assert choice.rules["regret"].isna().all() and choice.students.empty
    by_rule = choice.rules.set_index("rule")["score"]
    assert (by_rule["largest"], by_rule[VARIANCE_RULE]) == pytest.approx((0.044, 0.058))
    assert "lowest nll" in choice.basis.missing.rules and choice.basis.evidence is choice.basis.seeds is None


@pytest.mark.parametrize(("rule", "teacher"), [("largest", "resnet56"), ("lowest ece", "resnet8")])
def test_another_rule(probes, rule, teacher):
    choice = pick(probes, rule=rule)
    assert (choice.teacher, choice.rule, choice.tau) == (teacher, rule, None)
    assert choice.setting.label is None and choice.trust.empty and choice.rungs.empty


def test_ties_go_to_the_smallest(probes):
    wide = probes.assign(se=np.where(probes["probe"].eq("derived_std"), 0.004, 0.001))
    choice = pick(wide, rule=VARIANCE_RULE)
    tied = choice.table[choice.table["tie"]]
    apart = 0.058 - tied["score"]
    assert (apart <= 1.96 * np.sqrt(2) * 0.004).all() and len(tied) > 1
    assert choice.teacher == tied.loc[tied["params"].idxmin(), "teacher"] != "resnet26"
    assert choice.findings == ["CM007"] and pick(wide, rule=VARIANCE_RULE, mute=["CM007"]).findings == []
    unsized = wide.assign(params=np.nan)
    assert pick(unsized, rule=VARIANCE_RULE).teacher == "resnet26"  # of unknown sizes none is the smallest


def test_the_nearest_temperature_is_taken():
    by_std = {"rule": VARIANCE_RULE}
    assert pick(probe_table(np.random.default_rng(0), taus=(1.0, 3.0, 8.0)), **by_std).tau == 3.0
    assert pick(probe_table(np.random.default_rng(0), taus=(2.2, 6.1)), **by_std).tau == 6.1  # nearer to 4


def with_companions(probes):
    derived = probes[probes["probe"].eq("derived_std")]
    rising = derived["params"] / 1e6
    beside = {"target_prob": rising, "inherent_variance": rising / 9}
    return pd.concat([probes, *(derived.assign(probe=name, value=values) for name, values in beside.items())])


def test_a_derived_probe_has_p_y_and_iv_beside_it(probes):
    choice = pick(with_companions(probes), rule=VARIANCE_RULE)
    table, rules = choice.table.set_index("teacher"), choice.rules.set_index("rule")
    assert table.loc["resnet26", ["target_prob", "inherent_variance"]].tolist() == pytest.approx([0.26, 0.26 / 9])
    beside = ["score", "target_prob", "inherent_variance"]
    assert rules.loc["largest", beside].tolist() == pytest.approx([0.044, 0.56, 0.56 / 9])
    assert all(name in page for name in beside[1:] for page in (repr(choice), choice.to_markdown()))
    # Without them a risk more: the probe may only restate confidence.
    assert len(pick(probes, rule=VARIANCE_RULE).risks) == len(choice.risks) + 1
    accurate, alone = pick(with_companions(probes), rule="most accurate"), pick(probes, rule="most accurate")
    assert "target_prob" not in accurate.table and len(accurate.risks) == len(alone.risks)


def test_reasons_are_few(probes, results):
    many = result_table(np.random.default_rng(6), students=("a", "b", "c", "d", "e"))
    by_std = pick(with_companions(probes), rule=VARIANCE_RULE)
    for choice in (by_std, pick(with_companions(probes)), pick(with_companions(probes), results)):
        assert len(choice.reasons) <= 7
    choice = pick(with_companions(probes), many)
    of_students = [reason for reason in choice.reasons if reason.startswith("Student '")]
    assert len(choice.students) == 5 and len(of_students) == SHOWN_STUDENTS


def test_the_sentences_are_made_from_the_numbers_when_they_are_shown(probes, results):
    choice = pick(probes, results)
    again = pickle.loads(pickle.dumps(choice))
    assert repr(again) == repr(choice) and again.reasons == choice.reasons
    largest = choice.table.loc[choice.table["teacher"].eq("resnet56")].iloc[0]
    other = replace(choice, teacher="resnet56", setting=replace(choice.setting, student=None))
    assert f"{largest['regret']:.2f}" in other.reasons[0] and "resnet56" in other.title and "cnn" not in other.title
    record = PilotRecord(pd.DataFrame(), reasons=("first",), risks=("careful",))
    piloted = replace(choice, rule="pilot", pilot=record)
    assert piloted.reasons == ["first", *choice.reasons] and piloted.risks == ["careful", *choice.risks]


def test_the_page_of_a_choice(probes, results):
    """The words of a whole choice, once; elsewhere tests compare numbers, names and codes."""
    assert repr(pick(with_companions(probes), results)) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_a_tie_is_a_difference_whose_95_percent_interval_covers_zero():
    best, other = np.full(1000, 0.7), np.full(1000, 0.6)
    for share, tied in ((0.04, True), (0.03, True), (0.02, False)):
        other[:] = np.where(np.arange(1000) < share * 1000, 0.71, 0.6)  # the other is better in this share of draws
        summary = draw_summary(np.stack([best, other], axis=1), tolerance=5)
        assert summary["tie"].tolist() == [True, tied] and summary["p_best"][1] == share
        assert summary["within"].tolist() == [1.0, pytest.approx(share)]  # never 10 points behind, and 1 where it is


def test_seed_spread_enters_the_error():
    table = probe_table(np.random.default_rng(2), runs=3)
    long = mean_probes(rows_of_split(table, "val", "probes")).query("probe == 'derived_std'")
    runs = table.query("probe == 'derived_std'").groupby("teacher")["value"]
    expected = np.sqrt(0.0004**2 + runs.var().mean() / 3)
    np.testing.assert_allclose(long["se"], expected)
    np.testing.assert_allclose(long.set_index("teacher")["value"].sort_index(), runs.mean().sort_index())


def test_rules_by_an_obvious_loop(probes):
    wide = mean_probes(probes).pivot(index=["family", "teacher"], columns="probe", values="value")
    wide["params"] = probes.groupby(["family", "teacher"])["params"].first()
    choices, missing = rule_choices(wide)
    for row in choices.itertuples():
        rule = RULES[row.rule]
        values = {teacher: value for (_, teacher), value in wide[rule.probe].items()}
        assert row.teacher == (max if rule.sign > 0 else min)(values, key=values.get)
    everywhere = {name for name, rule in RULES.items() if not rule.on_request}
    assert set(missing) | set(choices["rule"]) == everywhere


def test_with_results_the_students_decide(probes, results):
    choice = pick(probes, results)
    assert (choice.teacher, choice.rule, choice.student) == ("resnet26", "results", "cnn")
    assert (choice.label, choice.method, choice.tau) == ("KD tau=4", "KD", 4.0)
    best = choice.table.iloc[0]
    assert best["p_best"] > 0.95 and best["regret"] < 0.05 and best["low"] < 0.732 < best["high"]
    assert choice.table["p_best"].sum() == pytest.approx(1)
    test = results.query("split == 'test' and label == 'KD tau=4' and teacher == 'resnet26'")["accuracy"].mean()
    assert best["accuracy"] == pytest.approx(test, abs=2e-4)  # drawn toward its peers, a little
    regret = choice.rules.set_index("rule")
    assert regret.loc["largest", "regret"] == pytest.approx(100 * 0.006 * 3.5, abs=0.3)
    assert regret.loc["largest", "low"] < regret.loc["largest", "regret"] < regret.loc["largest", "high"]
    assert regret.loc["highest derived_std", "regret"] < 0.05
    student = choice.students.iloc[0]
    assert student["gain"] == pytest.approx(100 * (0.732 - 0.70), abs=0.3)
    assert student["gain_low"] < student["gain"] < student["gain_high"]
    assert best[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx(
        student[["gain", "gain_low", "gain_high"]].tolist()
    )


def test_choosing_takes_no_notice_of_the_report_split(probes, results):
    upset = results.copy()
    test = upset["split"].eq("test")
    upset.loc[test, "accuracy"] = upset.loc[test, "accuracy"].to_numpy()[::-1]
    columns = ["teacher", "score", "p_best", "tie"]
    pd.testing.assert_frame_equal(pick(probes, results).table[columns], pick(probes, upset).table[columns])


def banked() -> tuple[LogitBank, pd.DataFrame]:
    """Three teachers whose values go up and down together from example to example, the small one a little ahead."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((300, 6))
    scales = {"small": 1.02, "middle": 1.0, "large": 0.5}
    arrays = {name: (logits + 0.01 * rng.standard_normal(logits.shape)) * scale for name, scale in scales.items()}
    params = {"small": 1000, "middle": 2000, "large": 4000}
    labels = np.where(rng.random(300) < 0.2, logits.argmax(axis=1), rng.integers(0, 6, 300))
    bank = bank_from_arrays(arrays, labels, params=params)
    return bank, tables.probe(bank, [1, 4], progress=False)


def test_intervals_over_examples_are_those_of_a_paired_bootstrap():
    bank, probes = banked()
    values = example_values(bank, ["derived_std"], [4])
    by_std = {"rule": VARIANCE_RULE}
    choice, independent = pick(probes, values=values, n_boot=10_000, **by_std), pick(probes, **by_std)
    columns = ["teacher", "score"]
    pd.testing.assert_frame_equal(choice.table[columns], independent.table[columns])
    wide = values.astype({"teacher": str}).pivot(index="id", columns="teacher", values="value")[choice.table["teacher"]]
    drawn = wide.to_numpy()[np.random.default_rng(9).integers(0, 300, (10_000, 300))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    se = drawn.std(axis=0)
    assert (abs(choice.table["low"] - low) < 0.2 * se).all() and (abs(choice.table["high"] - high) < 0.2 * se).all()
    # together they go up and down: what independent errors cannot tell apart, pairs can
    assert independent.table["tie"].sum() == 2 and choice.table["tie"].sum() == 1
    assert repr(pick(probes, values=values, n_boot=10_000, **by_std)) == repr(choice)


def test_a_bootstrap_over_examples_keeps_what_runs_differ_by():
    bank, probes = banked()
    upset = probes.assign(seed=1, value=probes["value"] * 1.3)
    both = pd.concat([probes, upset])
    values = pd.concat([example_values(bank, ["derived_std"], [4]).assign(seed=seed) for seed in (0, 1)])
    by_std = {"rule": VARIANCE_RULE}
    table, independent = pick(both, values=values, **by_std).table, pick(both, **by_std).table
    width, expected = table["high"] - table["low"], independent["high"] - independent["low"]
    np.testing.assert_allclose(width, expected, rtol=0.1)


def test_values_of_other_examples_or_temperatures_are_refused():
    bank, probes = banked()
    for values in (example_values(bank, ["derived_std"], [1]), example_values(bank, ["entropy"], [4])):
        with pytest.raises(InputError, match="lacks 'derived_std' at tau 4 on some examples of logits/"):
            pick(probes, values=values, rule=VARIANCE_RULE)
    values = example_values(bank, ["derived_std"], [4], teachers=["logits/small", "logits/large"])
    with pytest.raises(InputError, match="on some examples of logits/middle"):
        pick(probes, values=values, rule=VARIANCE_RULE)
    assert pick(probes, values=values, rule="smallest").teacher == "small"
    nll = pick(probes, values=example_values(bank, ["nll"]), rule="lowest nll")
    assert nll.table["low"].lt(nll.table["score"]).all()


@pytest.mark.parametrize("only", ["val", "test"])
def test_results_of_one_split_serve_for_choosing_and_reporting(probes, results, only):
    some = results[results["split"].eq(only)]
    choice, twice = pick(probes, some), pick(probes, pd.concat([some.assign(split=s) for s in ("val", "test")]))
    assert choice.teacher == twice.teacher
    pd.testing.assert_frame_equal(choice.table, twice.table)
    assert choice.basis.missing.split == only and twice.basis.missing.split == ""
    assert len(choice.risks) == len(twice.risks) + 1 and set(twice.risks) < set(choice.risks)
    by_evidence = pick(probes, evidence=[(probes, some)])
    assert len(by_evidence.trust) and by_evidence.teacher == pick(probes, evidence=[(probes, results)]).teacher


def test_deterministic_whatever_the_order_of_rows(probes, results):
    shuffled = (probes.sample(frac=1, random_state=1), results.sample(frac=1, random_state=2))
    first, second = pick(probes, results, seed=4), pick(*shuffled, seed=4)
    assert repr(first) == repr(second)
    pd.testing.assert_frame_equal(first.table, second.table)


def test_close_results_are_too_close_to_call(probes):
    close = result_table(np.random.default_rng(3), noise=0.01, step=0.0005)
    choice = pick(probes, close)
    assert choice.table["tie"].sum() > 2 and "CM007" in choice.findings
    raw = close.query("split == 'val'").groupby(["label", "teacher"])["accuracy"].mean()[choice.label]
    assert choice.table["score"].std() < 0.9 * raw.std()  # shrunken toward the peers


def test_no_gain_over_plain_training(probes):
    choice = pick(probes, result_table(np.random.default_rng(4), noise=0.003, plain=0.74))
    assert (choice.table["gain_low"] < 0).all()
    lacking = pick(probes, result_table(np.random.default_rng(4)).query("method != 'CE'"))
    assert lacking.table[["gain", "gain_low", "gain_high"]].isna().all(axis=None)
    assert lacking.students[["ce", "gain"]].isna().all(axis=None)


def test_teachers_without_students_are_predicted(probes, results):
    partly = results[~results["teacher"].eq("resnet26")]
    choice = pick(probes, partly)
    table = choice.table.set_index("teacher")
    assert not table.loc["resnet26", "measured"] and table["measured"].sum() == 5
    width = table["high"] - table["low"]
    assert width["resnet26"] > 1.5 * width.drop("resnet26").max()
    assert table.loc["resnet26", "score"] > table.loc["resnet20", "score"]  # its probe says so
    assert any("resnet/resnet26" in risk for risk in choice.risks)


def test_of_tied_teachers_one_with_students_is_taken_before_one_that_is_predicted(probes):
    close = result_table(np.random.default_rng(3), noise=0.01, step=0.0005)
    best = pick(probes, close, label="KD tau=4")
    own = close["teacher"].eq(best.teacher) & close["label"].eq("KD tau=4")
    promising = probes.assign(value=probes["value"] + 0.1 * (probes["teacher"].eq(best.teacher)))
    choice = pick(promising, close[~own], label="KD tau=4")
    table = choice.table.set_index("teacher")
    assert table.loc[best.teacher, "tie"] and not table.loc[best.teacher, "measured"]
    assert table.loc[choice.teacher, "measured"] and table.loc[choice.teacher, "tie"]
    taken = choice.students.iloc[0]
    assert taken["teacher"] == choice.teacher and np.isfinite(taken["accuracy"])
    higher = table.index[table["tie"] & ~table["measured"] & (table["score"] > table.loc[choice.teacher, "score"])]
    ties = next(reason for reason in choice.reasons if reason.startswith("Too close to call"))
    assert all(f"resnet/{teacher}" in ties for teacher in higher)


def test_other_families_teach_what_to_expect(results):
    rng = np.random.default_rng(5)
    both = pd.concat([probe_table(rng), probe_table(rng, family="wrn")])
    choice = pick(both, results)
    wrn = choice.table[choice.table["family"].eq("wrn")]
    assert not wrn["measured"].any() and wrn.sort_values("score")["teacher"].iloc[-1] == "resnet26"


def test_several_students(probes):
    results = result_table(np.random.default_rng(6), students=("cnn", "mlp"))
    results.loc[results["student"].eq("mlp") & results["label"].eq("ATS tau=2"), "accuracy"] += 0.05
    choice = pick(probes, results)
    assert choice.student is None and choice.label is None and choice.method is None and choice.tau is None
    assert choice.students["student"].tolist() == ["cnn", "mlp"]
    assert choice.students["label"].tolist() == ["KD tau=4", "ATS tau=2"]
    assert choice.teacher == "resnet26"
    one = pick(probes, results, student="mlp", label="KD tau=4")
    assert (one.student, one.label) == ("mlp", "KD tau=4")


def test_a_rule_with_results_shows_its_price(probes, results):
    choice = pick(probes, results, rule="largest")
    assert choice.teacher == "resnet56" and choice.rule == "largest"
    assert f"{choice.table.set_index('teacher').loc['resnet56', 'regret']:.2f}" in choice.reasons[0]


def test_single_seeds_fall_back_to_the_examples(probes):
    single = result_table(np.random.default_rng(7), seeds=1)
    choice = pick(probes, single)
    assert choice.basis.seeds.single and not choice.basis.seeds.alike
    width = (choice.table["high"] - choice.table["low"]).median()
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.72 * 0.28 / 10_000), rel=0.3)
    with pytest.raises(InputError, match=r"no column 'n'"):
        pick(probes, single.drop(columns="n"))


def test_few_teachers(probes):
    assert "CM003" in pick(probes[probes["teacher"].isin(["resnet8", "resnet14"])]).findings


def test_links_and_pictures_in_names_stay_text(probes):
    names = {"resnet8": "[x](javascript:alert)", "resnet14": "![i](http://host/p.png)"}
    markdown = pick(probes.replace({"teacher": names})).to_markdown()
    assert "[x]\\(javascript" in markdown and "![i]\\(http" in markdown and "](" not in markdown


def test_a_results_table_made_by_hand_is_told_what_fills_it_in(probes):
    with pytest.raises(InputError, match=r"lacks the column.*'teacher_seed'.*load_results"):
        pick(probes, pd.DataFrame({"teacher": ["resnet8"], "method": "KD", "accuracy": 0.9}))


def test_pages_are_readable_and_escaped(probes, results):
    renamed = results.replace({"student": {"cnn": "<b>cnn|1</b>"}})
    choice = pick(probes, renamed)
    assert isinstance(choice, Choice)
    text, page, markdown = repr(choice), choice._repr_html_(), choice.to_markdown()
    assert max(len(line) for line in text.split("\n")) <= 100
    assert text.startswith(choice.title[:60])
    assert "<b>" not in page and "&lt;b&gt;cnn|1" in page
    assert "| &lt;b&gt;cnn\\|1&lt;/b&gt; |" in markdown and "<b>" not in markdown
    for name in ("Why", "Teachers", "Students", "Rules"):
        assert f"\n{name}\n" in text and f"<h4>{name}</h4>" in page and f"### {name}\n" in markdown
    assert re.search(r"^\| largest \| resnet56 \| 560,000 \|", markdown, flags=re.M)
    assert all(" 260,000 " in shown or ">260,000<" in shown for shown in (text, page, markdown))
    assert not any("e+0" in shown for shown in (text, page, markdown))


def test_results_without_a_family_go_by_the_teachers_name(probes, results):
    nameless = results.assign(family="")
    expected, got = pick(probes, results), pick(probes, nameless)
    assert repr(got) == repr(expected) and got.family == "resnet"
    with pytest.raises(InputError, match="do not say which teacher 'resnet14' they mean, that of family resnet or wrn"):
        pick(pd.concat([probes, probe_table(np.random.default_rng(5), family="wrn")]), nameless)
    with pytest.raises(InputError, match=r"results of \['other'\]"):
        pick(probes, nameless.assign(teacher=np.where(nameless["teacher"].eq(""), "", "other")).drop_duplicates())


def test_errors(probes, results):
    with pytest.raises(InputError, match=r"rule must be one of .*'biggest'"):
        pick(probes, rule="biggest")
    with pytest.raises(
        InputError, match=r"needs the probe 'nll'; the probes table has \['accuracy', 'derived_std', 'ece'\]"
    ):
        pick(probes, rule="lowest nll")
    with pytest.raises(InputError, match="needs the probe 'nll'; there are"):
        pick(probes, results, rule="lowest nll")
    with pytest.raises(InputError, match="needs the probe 'derived_std'"):
        pick(probes[probes["probe"].ne("derived_std")], rule=VARIANCE_RULE)
    with pytest.raises(InputError, match="the probes table lacks the column 'se'"):
        pick(probes.drop(columns="se"))
    with pytest.raises(InputError, match="the results table lacks the column 'label'"):
        pick(probes, results.drop(columns="label"))
    with pytest.raises(InputError, match=r"no rows for the split 'train'; it has \['val'\]"):
        pick(probes, split="train")
    with pytest.raises(InputError, match=r"the results table has no rows for the split 'val'; it has \['train'\]"):
        pick(probes, results.assign(split="train").drop_duplicates(["teacher", "label", "seed"]))
    with pytest.raises(InputError, match=r"student must be one of .*'cnn'.*not 'cn'"):
        pick(probes, results, student="cn")
    with pytest.raises(InputError, match=r"label must be one of .*'KD tau=4'"):
        pick(probes, results, label="KD tau=5")
    with pytest.raises(InputError, match=r"probes are of \['resnet/resnet14', .*results of \['vgg/resnet14'"):
        pick(probes, results.replace({"family": {"resnet": "vgg"}}))
    with pytest.raises(InputError, match="on both 'val' and 'test'"):
        pick(probes, results[results["split"].eq("val") | results["method"].eq("CE")])


# --- evidence: other families, other students ------------------------------------------------------------------------


def world(rng, families, slope=0.02, spread=0.002, teachers=8, students=("cnn",), base=0.6):
    """Probes and results of families in which `derived_std` is worth `slope` and the teacher's size nothing."""
    probes, results = [], []
    for number, family in enumerate(families):
        quality = rng.permutation(np.linspace(-1.5, 1.5, teachers))
        for t, own in enumerate(quality):
            unit = (family, f"t{t}")
            kinds = {("derived_std", 4.0): 0.05 + 0.01 * own, ("accuracy", np.nan): 0.8 + 0.01 * rng.standard_normal()}
            for (probe, tau), value in kinds.items():
                probes.append((*unit, 1e4 * (t + 1), "val", 0, tau, probe, value, 1e-4, 5000))
            true = base + 0.1 * number + slope * own + spread * rng.standard_normal()
            for student in students:
                for seed, split in ((seed, split) for seed in range(3) for split in ("val", "test")):
                    accuracy = true + 0.002 * rng.standard_normal()
                    results.append((*unit, 0, student, "KD tau=4", "KD", 4.0, seed, split, accuracy, 10_000))
    columns = ["family", "teacher", "params", "split", "seed", "tau", "probe", "value", "se", "n"]
    taught = ["family", "teacher", "teacher_seed", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    taught.append("n")
    return pd.DataFrame(probes, columns=columns), pd.DataFrame(results, columns=taught)


def test_a_new_family_is_predicted_from_its_probes():
    rng = np.random.default_rng(0)
    new, truth = world(rng, ["new"])
    choice = pick(new, evidence=[world(rng, ["a", "b"]), world(rng, ["c", "d"])])
    best = truth.query("split == 'test'").groupby("teacher")["accuracy"].mean().idxmax()
    assert (choice.teacher, choice.rule, choice.label, choice.method, choice.tau) == (
        best,
        "evidence",
        "KD tau=4",
        "KD",
        4.0,
    )
    table = choice.table
    assert table["p_best"].sum() == pytest.approx(1) and table["p_best"].iloc[0] > 0.6
    assert table["score"].mean() == pytest.approx(0, abs=1e-9) and table["regret"].iloc[0] < 0.5
    lead = 100 * (truth.query("split == 'test'").groupby("teacher")["accuracy"].mean())
    lead = (lead - lead.mean())[table["teacher"]].to_numpy()
    assert ((table["low"] <= lead) & (lead <= table["high"])).mean() > 0.8
    trust = choice.trust.set_index("probe")
    assert trust.index.tolist() == ["derived_std", "accuracy", "log_params"]
    assert trust.loc["derived_std", "low"] > 1 and abs(trust.loc["log_params", "points"]) < 0.5
    rules = choice.rules.set_index("rule")
    assert rules.loc["highest derived_std", "elsewhere"] < 0.5 < rules.loc["largest", "elsewhere"]
    facts = choice.basis.evidence
    assert facts.new_family and (facts.groups, facts.families, facts.students, facts.best_in) == (4, 4, 1, 4)
    assert facts.teachers == 32 and facts.losses["evidence"] < 1 and choice.settings.empty
    for page in (repr(choice), choice._repr_html_(), choice.to_markdown()):
        assert "Trust" in page and "elsewhere" in page
    largest = pick(new, evidence=[world(rng, ["a", "b"])], rule="largest")
    assert largest.teacher == "t7" and largest.rule == "largest"


def test_probes_that_mislead_elsewhere_are_not_trusted():
    rng = np.random.default_rng(1)
    new, _ = world(rng, ["new"])
    useless = [world(rng, ["a", "b", "c"], slope=0.0, spread=0.02)]
    choice = pick(new, evidence=useless)
    assert choice.table["p_best"].max() < 0.4 and choice.table["tie"].all() and "CM007" in choice.findings
    assert (choice.trust["low"] < 0).all() and (choice.trust["high"] > 0).all()
    against = pick(new, evidence=[world(rng, ["a", "b", "c"], slope=-0.02)])
    assert against.teacher == new.query("probe == 'derived_std'").set_index("teacher")["value"].idxmin()
    one = pick(new, evidence=[world(rng, ["a"])])
    assert one.basis.evidence.families == 1
    assert one.table["p_best"].iloc[0] < pick(new, evidence=[world(rng, ["a", "b", "c", "d"])]).table["p_best"].iloc[0]


def test_a_family_of_the_same_tables_is_chosen_from_with_the_others_as_evidence():
    probes, results = world(np.random.default_rng(2), ["a", "b", "c"])
    others = probes["family"].ne("c")
    taught = results[results["family"].ne("c")]
    one = pick(probes, taught, family="c")
    two = pick(probes[~others], evidence=[(probes[others], taught)])
    assert repr(one) == repr(two) and one.rule == "evidence"
    own = pick(probes, results, family="c")
    assert own.rule == "results" and set(own.table["family"]) == {"c"} and own.table["measured"].all()
    assert (own.basis.evidence.teachers, own.basis.evidence.families) == (16, 2)
    alone = pick(probes, results[results["family"].eq("c")], family="c")
    assert alone.rule == "results" and alone.basis.evidence is None
    assert pick(probes, family="c").rule == "most accurate"
    with pytest.raises(InputError, match="family must be one of"):
        pick(probes, results, family="d")


def test_evidence_helps_where_students_are_few():
    rng = np.random.default_rng(3)
    probes, results = world(rng, ["a", "b", "c", "new"])
    new, few = probes[probes["family"].eq("new")], results.query("family == 'new' and teacher in ['t0', 't1', 't2']")
    rest = (probes[probes["family"].ne("new")], results[results["family"].ne("new")])
    alone, helped = pick(new, few), pick(new, few, evidence=[rest])
    width = [(c.table.query("~measured")["high"] - c.table.query("~measured")["low"]).mean() for c in (alone, helped)]
    assert width[1] < 0.6 * width[0]


def test_other_students_of_the_same_teachers_say_more_than_other_teachers_do():
    rng = np.random.default_rng(4)
    probes, results = world(rng, ["a"], slope=0.0, spread=0.02, students=("x", "y", "z"))
    order = results.query("split == 'val'").groupby("teacher")["accuracy"].mean()
    same = pick(probes, evidence=[(probes, results)])
    assert same.teacher == order.idxmax() and same.table["p_best"].iloc[0] > 0.6
    assert not same.basis.evidence.new_family and same.basis.evidence.students == 3
    renamed = probes.assign(teacher=probes["teacher"] + "'")  # the same probes under other names: other networks
    other = pick(renamed, evidence=[(probes, results)])
    assert other.table["p_best"].iloc[0] < 0.6 * same.table["p_best"].iloc[0]
    # The same name with other probes is another network too.
    moved = probes.assign(value=probes["value"] * 1.1)
    assert pick(moved, evidence=[(probes, results)]).table["p_best"].iloc[0] < 0.6 * same.table["p_best"].iloc[0]


def test_evidence_errors(probes, results):
    good = world(np.random.default_rng(5), ["a"])
    with pytest.raises(InputError, match="evidence number 2: the results table lacks the column 'label'"):
        pick(probes, evidence=[good, (good[0], good[1].drop(columns="label"))])
    with pytest.raises(InputError, match=r"evidence number 1: no teacher has both probes and results"):
        pick(probes, evidence=[(probes, good[1])])
    two = good[1][good[1]["teacher"].isin(["t0", "t1"])]
    with pytest.raises(InputError, match="no family has 3 teachers with students in one setting"):
        pick(probes, evidence=[(good[0], two)])


# --- seeds that teachers share ---------------------------------------------------------------------------------------


def test_what_a_seed_does_to_all_teachers_is_no_noise_between_them(probes):
    results = result_table(np.random.default_rng(8), noise=0.001)
    shifted = results.assign(accuracy=results["accuracy"] + 0.01 * results["seed"])
    before, after = pick(probes, results), pick(probes, shifted)
    assert after.teacher == before.teacher
    width = [(choice.table["high"] - choice.table["low"]).mean() for choice in (before, after)]
    assert width[1] == pytest.approx(width[0], rel=0.05)
    np.testing.assert_allclose(after.table["score"] - 0.01, before.table["score"], atol=2e-4)
    assert after.table["gain"].iloc[0] == pytest.approx(before.table["gain"].iloc[0], abs=0.02)


def test_seed_effects_equal_a_regression_on_teacher_and_seed():
    rng = np.random.default_rng(9)
    rows = result_table(rng, noise=0.01).query("split == 'val' and method == 'KD'")
    rows = rows[~(rows["teacher"].eq("resnet8") & rows["seed"].eq(2))]  # unbalanced
    fit = smf.ols("accuracy ~ C(teacher) + C(seed)", rows).fit()
    units, means, noise = measured(rows)
    teachers = [unit[1] for unit in units]
    effect = [fit.params.get(f"C(teacher)[T.{teacher}]", 0.0) for teacher in teachers]
    np.testing.assert_allclose(means - means[0], np.array(effect) - effect[0], atol=1e-12)
    assert noise.free == fit.df_resid
    counts = rows.groupby("teacher")["seed"].nunique()[teachers]
    np.testing.assert_allclose(noise.variances, fit.mse_resid / counts, rtol=1e-9)


def test_seeds_of_their_own_are_left_as_they_are(probes):
    rows = result_table(np.random.default_rng(10), noise=0.01).query("split == 'val' and method == 'KD'")
    own = rows.assign(seed=rows["seed"] + 10 * rows.groupby("teacher").ngroup())
    units, means, noise = measured(own)
    np.testing.assert_allclose(means, own.groupby("teacher")["accuracy"].mean()[[unit[1] for unit in units]])
    assert noise.free == len(own) - len(units)


def test_rules_say_what_the_used_probe_thinks_of_their_teachers(probes):
    rules = pick(with_companions(probes), rule=VARIANCE_RULE).rules.set_index("rule")
    assert rules.loc["largest", ["score", "target_prob"]].tolist() == pytest.approx([0.044, 0.56])
    assert not rules.loc["largest", "tie"] and rules.loc["highest derived_std", "tie"]


def test_a_teacher_without_the_probe_is_named(probes):
    full = with_companions(probes)
    lost = full["teacher"].eq("resnet56") & full["probe"].eq("derived_std")
    for broken in (full.assign(value=full["value"].mask(lost)), full[~lost]):
        choice = pick(broken, rule=VARIANCE_RULE)
        assert "resnet56" not in set(choice.table["teacher"])
        assert choice.basis.missing.teachers == (("resnet", "resnet56"),)
        assert any("derived_std" in risk and "resnet/resnet56" in risk for risk in choice.risks)
        largest = choice.rules.set_index("rule").loc["largest"]
        assert np.isnan(largest["score"]) and largest["target_prob"] == pytest.approx(0.56)
        by_evidence = pick(broken, evidence=[world(np.random.default_rng(0), ["a", "b"])])
        assert by_evidence.basis.missing.probes["derived_std"] == [("resnet", "resnet56")]
    assert pick(full, rule=VARIANCE_RULE).basis.missing.teachers == ()
    nothing = full.assign(value=full["value"].mask(full["teacher"].eq("resnet56")))
    assert pick(nothing).basis.missing.teachers == (("resnet", "resnet56"),)


# --- which setting ---------------------------------------------------------------------------------------------------


def test_settings_too_close_to_call_are_a_tie_and_a_risk(probes):
    rng = np.random.default_rng(11)
    rows = result_table(rng, noise=0.004)
    twin = rows[rows["label"].eq("KD tau=4")].assign(label="DKD", method="DKD", tau=np.nan)
    twin["accuracy"] += 0.004 * rng.standard_normal(len(twin))
    choice = pick(probes, pd.concat([rows, twin]))
    table = choice.settings.set_index("label")
    assert choice.label == choice.settings["label"].iloc[0] and table["p_best"].sum() == pytest.approx(1)
    assert (
        table.loc[["KD tau=4", "DKD"], "tie"].all() and table.loc[["KD tau=4", "DKD"], "p_best"].between(0.1, 0.9).all()
    )
    assert table.loc["DKD", "method"] == "DKD" and table.loc["KD tau=4", "tau"] == 4
    other = choice.settings["label"].iloc[1]
    row = table.loc[other]
    assert row["low"] < 0 < row["high"] and abs(row["behind"]) < 0.5
    lead = next(reason for reason in choice.reasons if reason.startswith("Setting: "))
    assert f"{100 * table['p_best'].iloc[0]:.0f} %" in lead and f"'{other}'" in lead
    assert any(f"'{other}'" in risk and f"'{choice.label}'" in risk for risk in choice.risks)
    assert "\nSettings\n" in repr(choice) and "### Settings" in choice.to_markdown()


def test_a_setting_that_leads_is_no_tie(probes, results):
    choice = pick(probes, results)
    ahead = choice.settings.set_index("label").loc["ATS tau=2"]
    val = results[results["split"].eq("val") & results["teacher"].eq("resnet26")]
    lead = 100 * val.groupby("label")["accuracy"].mean().loc[["KD tau=4", "ATS tau=2"]].diff().iloc[-1]
    assert ahead["behind"] == pytest.approx(-lead, abs=0.1) and ahead["low"] < 100 * 0.5 * 0.006 * 2 < ahead["high"]
    assert not ahead["tie"] and not any("ATS" in risk for risk in choice.risks)
    assert pick(probes, results, label="KD tau=4").settings.empty


def test_what_a_seed_does_to_all_students_does_not_blur_the_settings(probes, results):
    shifted = results.assign(accuracy=results["accuracy"] + 0.02 * results["seed"])
    before, after = pick(probes, results).settings, pick(probes, shifted).settings
    columns = ["label", "behind", "low", "high", "p_best"]
    pd.testing.assert_frame_equal(before[columns], after[columns], atol=0.02, rtol=0)


@pytest.mark.slow
def test_chances_of_settings_come_true():
    claimed, true, covered = [], [], []
    for number in range(60):
        rng = np.random.default_rng(number)
        apart = 0.004 * rng.standard_normal(3) + 0.003 * rng.standard_normal((6, 3))
        means = 0.6 + 0.007 * rng.standard_normal((6, 1)) + apart
        blank = result_table(rng, seeds=2).query("label == 'KD tau=4'")
        rows = pd.concat([blank.assign(label=f"L{place}") for place in range(3)])
        place = [np.searchsorted(SIZES, rows["teacher"].str[6:].astype(int)), rows["label"].str[1:].astype(int)]
        luck = 0.007 * rng.standard_normal((2, 2))[rows["split"].eq("val").astype(int), rows["seed"]]
        rows["accuracy"] = means[tuple(place)] + luck + 0.005 * rng.standard_normal(len(rows))
        found = pick(probe_table(rng), rows, n_boot=500).settings
        own = means[np.searchsorted(SIZES, found["teacher"].str[6:].astype(int)), found["label"].str[1:].astype(int)]
        claimed.append(found["p_best"].iloc[0])
        true.append(own.argmax() == 0)
        behind = 100 * (own[0] - own[1:])
        covered.append(((found["low"][1:] <= behind) & (behind <= found["high"][1:])).mean())
    assert np.mean(claimed) == pytest.approx(np.mean(true), abs=0.15)
    assert np.mean(covered) > 0.85


def test_the_setting_of_the_evidence_is_as_sure_as_its_lead():
    rng = np.random.default_rng(12)
    probes, results = world(rng, ["a", "b", "c"])
    near = results.assign(label="DKD", method="DKD", tau=np.nan)
    near["accuracy"] += 0.002 * rng.standard_normal(len(near))
    far = results.assign(label="ATS", method="ATS", tau=2.0, accuracy=results["accuracy"] - 0.05)
    both = pd.concat([results, near, far])
    choice = pick(world(rng, ["new"])[0], evidence=[(probes, both)])
    table = choice.settings.set_index("label")
    assert choice.label == choice.settings["label"].iloc[0] and table["p_best"].sum() == pytest.approx(1)
    assert table.loc[["KD tau=4", "DKD"], "tie"].all() and not table.loc["ATS", "tie"]
    best = both.query("split == 'val'").groupby(["family", "label", "teacher"])["accuracy"].mean()
    mean = 100 * best.groupby(["family", "label"]).max().groupby("label").mean()
    assert table.loc["ATS", "behind"] == pytest.approx(mean.max() - mean["ATS"], abs=0.3)
    assert any("'DKD'" in risk and "'KD tau=4'" in risk and "'ATS'" not in risk for risk in choice.risks)
    one = pick(world(rng, ["new"])[0], evidence=[(probes, both[both["family"].eq("a")])])
    assert len(one.settings) == 3 and (one.basis.evidence.groups, one.basis.evidence.best_in) == (1, 1)


def test_settings_of_which_some_were_not_tried_everywhere_go_by_how_often_they_were_best():
    probes, results = world(np.random.default_rng(13), ["a", "b", "c"])
    alone = results["family"].eq("a")
    results = results.assign(label=results["label"].mask(alone, "DKD"), method=results["method"].mask(alone, "DKD"))
    choice = pick(world(np.random.default_rng(14), ["new"])[0], evidence=[(probes, results)])
    assert choice.label == "KD tau=4" and choice.settings.empty
    assert (choice.basis.evidence.best_in, choice.basis.evidence.groups) == (2, 3)


# --- noise -----------------------------------------------------------------------------------------------------------


def test_what_seeds_do_to_all_students_alike_is_measured(probes):
    results = result_table(np.random.default_rng(15))
    luck = np.array([-0.01, 0.0, 0.01])  # standard deviation 1 point
    choice = pick(probes, results.assign(accuracy=results["accuracy"] + luck[results["seed"]]))
    assert choice.basis.seeds.shared == pytest.approx(1.0, abs=0.1)
    assert sum(f"{choice.basis.seeds.shared:.1f} points" in risk for risk in choice.risks) == 1
    own = results.assign(seed=results["seed"] + 10 * results.groupby(["label", "teacher"]).ngroup())
    assert pick(probes, own).basis.seeds.shared == 0


def test_equal_accuracies_are_a_tie(probes, results):
    choice = pick(probes, results.assign(accuracy=0.5))
    assert choice.table["tie"].all() and choice.table["p_best"].max() < 0.6 and choice.settings["tie"].all()
    assert choice.basis.seeds.alike
    half = (choice.table["high"] - choice.table["low"]).mean() / 2
    of_examples = 1.96 * np.sqrt(0.25 / 10_000)  # of a share of 10,000; six equal teachers lean on each other
    assert of_examples / 6**0.5 < half < of_examples
    assert pick(probes, results.assign(accuracy=0.0)).table["tie"].all()


def test_copies_of_one_run_do_not_make_a_teacher_certain(probes, results):
    copies = results.assign(accuracy=results.groupby(["label", "teacher", "split"])["accuracy"].transform("first"))
    choice, single = pick(probes, copies), pick(probes, results[results["seed"].eq(0)])
    pd.testing.assert_frame_equal(choice.table, single.table)
    assert choice.basis.seeds.alike and choice.risks.count(ALIKE) == 1 and single.basis.seeds.single
    with pytest.raises(
        InputError, match="the student seeds of every teacher agree and the results table has no column"
    ):
        pick(probes, copies.drop(columns="n"))
    by_evidence = pick(probes, evidence=[(probes, copies)])
    assert by_evidence.basis.evidence.alike and ALIKE in by_evidence.risks


# --- what is refused, and how it is said -----------------------------------------------------------------------------


def test_wrong_numbers_and_shapes_are_refused(probes, results):
    with pytest.raises(InputError, match=r"n_boot.* whole number.* got 0"):
        pick(probes, results, n_boot=0)
    for evidence in ((probes, results), probes, [(probes,)]):
        with pytest.raises(InputError, match=r"a list of pairs of tables, such as \[\(probes, results\)\]"):
            pick(probes, evidence=evidence)
    percent = results.assign(accuracy=100 * results["accuracy"])
    shares = r"expected shares in \[0, 1\] as accuracies, got \d\d\.\d+ for student 'cnn'"
    with pytest.raises(InputError, match=shares):
        pick(probes, percent)
    with pytest.raises(InputError, match=f"evidence number 1: {shares}"):
        pick(probes, evidence=[(probes, percent)])


def test_a_single_teacher_is_compared_with_nothing(probes, results):
    one = probes[probes["teacher"].eq("resnet26")]
    kinds = {"evidence": [world(np.random.default_rng(0), ["a", "b"])]}
    for choice in (pick(one), pick(one, results), pick(one, **kinds)):
        text = " ".join([*choice.reasons, *choice.risks])
        assert choice.teacher == "resnet26" and choice.findings == ["CM003"] and len(choice.table) == 1
        assert not any(word in text for word in ("every other teacher", "100 %", "Only 1", "expected regret"))
    two = pick(probes[probes["teacher"].isin(["resnet8", "resnet14"])])
    assert any("2 teachers" in risk for risk in two.risks)


def test_what_would_tell_where_one_teacher_has_students(probes, results):
    """More seeds of the only teacher with students would not."""
    one = results[results["teacher"].isin(["", "resnet8"])]
    text = " ".join(pick(probes, one).risks)
    assert "students of the other teachers would decide" in text and "more seeds would decide" not in text


def test_no_accuracy_is_above_one(probes, results):
    perfect = pick(probes, results.assign(accuracy=1.0))
    frames = (
        perfect.table[["score", "low", "high", "accuracy"]],
        perfect.students[["accuracy", "ce"]],
        perfect.settings[["score"]],
    )
    assert all(frame.to_numpy().max() == 1 for frame in frames)


def test_a_loss_says_on_which_split(probes, results):
    for table, choosing, reporting in (
        (results, "validation", "test"),
        (results[results["split"].eq("val")],) + ("validation",) * 2,
    ):
        reasons = pick(probes, table).reasons
        assert reasons[0].endswith(f"points on {choosing} rows.")
        assert next(reason for reason in reasons if "'largest'" in reason).startswith(f"On {reporting} rows: ")


def test_the_extent_of_the_evidence(probes):
    rng = np.random.default_rng(2)
    single = pick(world(rng, ["new"])[0], evidence=[world(rng, ["a"], teachers=4)])
    facts = single.basis.evidence
    assert (facts.teachers, facts.families, facts.students) == (4, 1, 1)
    assert any("4 teachers in 1 family, " in reason for reason in single.reasons)  # neither "1 families" nor "kinds"
    kinds = pick(probes, evidence=[world(rng, ["a"], teachers=4, students=("x", "y"))])
    assert (kinds.basis.evidence.teachers, kinds.basis.evidence.students) == (4, 2)


def test_a_tie_is_not_taken_for_equality():
    rng = np.random.default_rng(1)
    choice = pick(world(rng, ["new"])[0], evidence=[world(rng, ["a", "b", "c"], slope=0.0, spread=0.02)])
    table = choice.table
    assert choice.teacher == table["teacher"].iloc[0] and table["tie"].all()  # the highest prediction is kept
    small = table[table["params"].eq(table["params"].min())].iloc[0]
    assert small["teacher"] != choice.teacher and small["within"] < 0.9 and choice.cheapest is None
    assert choice.grade == "toss-up" and 0 < choice.expected_regret == table["regret"].iloc[0]


# Grades, tolerance, and whether the teachers differ at all -----------------------------------------------------------


def test_the_grade_follows_the_chance_and_the_title_the_grade(probes, results):
    clear = pick(probes, results)
    assert clear.grade == "clear" and clear.p_best >= 0.8 and clear.title.startswith("Take teacher ")
    chances = clear.table["p_best"].where(clear.table["teacher"].ne(clear.teacher), 0.6)
    leaning = replace(clear, comparison=replace(clear.comparison, teachers=clear.table.assign(p_best=chances)))
    assert leaning.grade == "leaning" and leaning.title.startswith("Leaning to teacher ")
    unsure = replace(clear, comparison=replace(clear.comparison, teachers=clear.table.assign(p_best=0.2)))
    coin = clear.table.head(2).assign(p_best=[0.55, 0.45])  # of two teachers one always has half or more
    assert replace(clear, comparison=replace(clear.comparison, teachers=coin)).grade == "toss-up"
    assert unsure.grade == "toss-up" and unsure.title.startswith("Toss-up: ")
    guess = pick(probes)
    assert guess.grade == "none" and guess.title.startswith("First guess: ") and np.isnan(guess.p_best)
    assert guess.cheapest is None


def test_the_cheapest_is_the_smallest_within_the_tolerance(probes, results):
    for tolerance in (0.0, 0.3, 2.0, 50.0):
        choice = pick(probes, results, tolerance=tolerance)
        enough = choice.table[choice.table["within"] >= 0.9]
        expected = None if enough.empty else enough.loc[enough["params"].idxmin(), "teacher"]
        assert choice.cheapest == expected
        assert choice.table["within"].between(0, 1).all()
    assert choice.cheapest == choice.table.loc[choice.table["params"].idxmin(), "teacher"]  # 50 points: any will do
    with pytest.raises(InputError, match=r"tolerance .* >= 0, got -1"):
        pick(probes, results, tolerance=-1)


def test_teachers_that_do_not_differ_are_said_not_to(probes, results):
    rng = np.random.default_rng(0)
    same = results.assign(accuracy=0.7 + 0.01 * rng.standard_normal(len(results)))
    choice = pick(probes, same, label="KD tau=4")
    test = choice.basis.differences.iloc[0]
    assert test["reliability"] < 0.8 and "CM015" in choice.findings
    assert choice.title.endswith("do not differ significantly") == (test["p"] >= 0.05)
    assert any(f"{test['F']:.2f}" in reason and f"{test['reliability']:.2f}" in reason for reason in choice.reasons)
    single = pick(probes, results[results["seed"].eq(results["seed"].min())], label="KD tau=4")
    assert single.basis.differences["p"].isna().all() and single.grade != "clear"
    assert "cannot be tested" in single.title and "significantly" not in single.title
    clear = pick(probes, results, label="KD tau=4")
    assert "CM015" not in clear.findings and clear.basis.differences.iloc[0]["p"] < 1e-3


def test_the_reported_accuracy_and_gain_are_not_too_high():
    """Chosen as the best by the same seeds that are reported, on average within 0.1 points of the truth."""
    rng, errors, gains = np.random.default_rng(5), [], []
    rows = result_table(rng, noise=0.0)
    rows = rows[rows["teacher"].eq("") | rows["label"].eq("KD tau=4")]
    names = sorted(rows["teacher"].unique())
    run = rows.groupby(["teacher", "seed"]).ngroup().to_numpy()
    for number in range(60):
        spread = (0.0, 0.004, 0.008)[number % 3]
        true = dict(zip(names, 0.70 + spread * rng.standard_normal(len(names)), strict=True)) | {"": 0.69}
        noise = 0.008 * rng.standard_normal(run.max() + 1)  # val and test of a run share it
        choice = pick(probe_table(rng), rows.assign(accuracy=rows["teacher"].map(true) + noise[run]), n_boot=400)
        row = choice.table[choice.table["teacher"].eq(choice.teacher)].iloc[0]
        seeds = noise[run[rows["teacher"].eq("")]].mean()
        errors.append(100 * (row["accuracy"] - true[choice.teacher]))
        gains.append(row["gain"] - 100 * (true[choice.teacher] - 0.69 - seeds))
    assert abs(np.mean(errors)) < 0.1 and abs(np.mean(gains)) < 0.12


def test_values_that_are_no_table_are_refused():
    with pytest.raises(InputError, match=r"the table of values, a DataFrame, got int"):
        pick(probe_table(np.random.default_rng(0)), values=3)
