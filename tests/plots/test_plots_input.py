"""Which rows a figure draws of the tables that users have, and what it says of those that do not fit."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tables
from drawing import seed_means, texts_of
from scipy import stats

from capmismatch import plots
from capmismatch.errors import InputError
from capmismatch.plots._common import literal, over_runs, spread_out, teacher_labels

MLPS, RESNETS = tables.MLPS, tables.RESNETS


@pytest.mark.parametrize(
    ("call", "table", "column"),
    [
        (plots.capacity_curve, tables.results_table(MLPS[:2]), "label"),
        (plots.variance_vs_capacity, tables.probes_table(MLPS[:2]), "value"),
        (plots.variance_vs_temperature, tables.probes_table(MLPS[:2]), "tau"),
        (plots.temperature_heatmap, tables.temperature_grid_table(), "tau_other"),
        (
            lambda probes: plots.probe_vs_student(
                probes, tables.results_table(MLPS[:2]), probe="nll", label="KD tau=4"
            ),
            tables.probes_table(MLPS[:2]),
            "teacher",
        ),
        (plots.rank_matrix, tables.ranks_table(MLPS[:2]), "seed_b"),
        (plots.rank_distribution, tables.ranks_table(MLPS[:2]), "metric"),
        (plots.affinity_map, tables.affinity_table(MLPS[:2]), "other_class"),
        (plots.logit_statistics, tables.probes_table(MLPS[:2]), "params"),
        (plots.reliability_diagram, tables.reliability_table(MLPS[:2]), "n"),
        (plots.isats_restored, tables.restored_table(MLPS[:2]), "constraint"),
        (plots.dark_knowledge, tables.dark_knowledge_table(), "is_target"),
        (plots.pick_chart, tables.choice_table(), "tie"),
        (plots.pareto_front, tables.front_table(), "on_front"),
        (plots.study_progress, tables.status_table(), "failed"),
    ],
)
def test_a_missing_column_is_named(call, table, column):
    with pytest.raises(InputError, match=f"'{column}'"):
        call(table.drop(columns=column))
    assert not plt.get_fignums(), "an error must not leave a figure open"


def test_absent_probes_taus_and_splits_are_told_with_what_is_there():
    probes = tables.probes_table()
    with pytest.raises(InputError, match="probe 'inherent_variance'"):
        plots.variance_vs_capacity(probes[probes["probe"] != "inherent_variance"])
    with pytest.raises(InputError, match=r"tau 3.0.*\[1.0, 2.0, 4.0, 8.0\]"):
        plots.variance_vs_capacity(probes, taus=[3])
    with pytest.raises(InputError, match=r"split 'val'.*\['test'\]"):
        plots.variance_vs_capacity(probes, split="val")
    assert not plt.get_fignums()


def test_two_splits_fall_back_on_test():
    probes = tables.probes_table(splits=("val", "test"))
    axes = plots.logit_statistics(probes)
    rows = probes[(probes["probe"] == "target_logit") & (probes["split"] == "test")]
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), seed_means(rows))


def test_filtered_frames_work():
    probes, results = tables.probes_table(RESNETS), tables.results_table(RESNETS)
    one = probes[(probes["family"] == "A") & (probes["seed"] == 1) & (probes["params"] > 2e5)]
    assert list(plots.drawn_data(plots.variance_vs_capacity(one)[0])["label"].unique()) == [
        "resnet14",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
    ]
    kd = results[(results["method"] == "KD") & (results["family"] == "B") & (results["seed"] == 0)]
    assert len(plots.drawn_data(plots.capacity_curve(kd))) == 6
    plots.rank_matrix(tables.ranks_table(RESNETS).query("family_a == 'A' and family_b == 'A'"))
    plots.rank_distribution(tables.ranks_table(MLPS, seeds=1))
    plots.affinity_map(tables.affinity_table(MLPS).query("teacher == 'mlp48'"))


@pytest.mark.parametrize("unknown", ["all", "one"])
def test_teachers_without_a_size_stand_side_by_side_in_table_order(unknown):
    results, probes = tables.results_table(), tables.probes_table()
    chosen = slice(None) if unknown == "all" else results["teacher"] == "mlp48"
    results.loc[chosen, "params"] = np.nan
    ax = plots.capacity_curve(results, teachers=probes.assign(params=np.nan))
    assert ax.get_xscale() == "linear"
    assert [label.get_text() for label in ax.get_xticklabels()] == [teacher for _, teacher, _ in MLPS]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), range(8))


def test_sizes_that_the_probes_know_are_taken_from_them():
    results, probes = tables.results_table(MLPS[:3]), tables.probes_table(MLPS[:3])
    ax = plots.capacity_curve(results.assign(params=np.nan), teachers=probes)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [size for *_, size in MLPS[:3]])


def test_sizes_read_plainly():
    ax = plots.capacity_curve(tables.results_table())
    ax.figure.draw_without_rendering()
    shown = [label.get_text() for label in texts_of(ax.figure) if label in ax.get_xticklabels()]
    assert {"1k", "10k", "100k", "1M"} <= set(shown)


def test_small_values_have_their_unit_in_the_name_and_no_offset():
    probes = tables.probes_table()
    probes.loc[probes["probe"] == "derived_variance", "value"] *= 1e-4
    axes = plots.variance_vs_capacity(probes, quantity="derived_variance")
    axes[0].figure.draw_without_rendering()
    assert re.search(r"\[\$10\^\{-\d\}\$\]$", axes[0].get_title(loc="left"))
    for ax in axes:
        assert ax.yaxis.get_offset_text().get_text() == ""
        assert not any("e-" in label.get_text() for label in ax.get_yticklabels())


WILD = "a_$x^2$_<b>"


def test_users_text_is_drawn_literally():
    results, probes = tables.results_table(MLPS[:3]), tables.probes_table(MLPS[:3])
    for frame in (results, probes):
        frame["teacher"] = frame["teacher"].replace({"mlp24": WILD})
        frame["params"] = np.nan
    results["label"] = results["label"].replace({"KD tau=4": "_$KD$"})
    ax = plots.capacity_curve(results)
    label = ax.get_xticklabels()[1]
    assert label._preprocess_math(label.get_text()) == (WILD, False)
    entry = ax.figure.legends[0].get_texts()[0]
    assert entry._preprocess_math(entry.get_text())[0].startswith("_$KD$")
    ax = plots.probe_vs_student(probes, results, probe="nll", label="_$KD$")
    assert WILD in [text._preprocess_math(text.get_text())[0] for text in ax.texts]
    axes = plots.dark_knowledge(tables.dark_knowledge_table(names=["$a$", "b_c", "<d>", "t", *"efghij"]))
    names = [text._preprocess_math(text.get_text()) for text in axes[0].get_yticklabels()]
    assert ("$a$", False) in names and ("<d>", False) in names


def test_over_runs_is_students_interval_from_three_runs_on():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"key": ["a"] * 5 + ["b"] * 2 + ["c"], "value": [*rng.normal(size=7), np.nan]})
    table = over_runs(frame, ["key"]).set_index("key")
    values = frame["value"][:5]
    expected = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    np.testing.assert_allclose(table.loc["a", ["low", "high"]].astype(float), expected)
    assert table.loc["b", ["low", "high"]].isna().all() and table.loc["b", "runs"] == 2
    assert "c" not in table.index


def test_labels_carry_the_family_only_where_names_repeat():
    frame = pd.DataFrame({"family": list("AABB"), "teacher": ["r20", "r20", "r20", "w"]})
    assert list(teacher_labels(frame)) == ["A/r20", "A/r20", "B/r20", "w"]
    assert list(teacher_labels(frame[:2])) == ["r20", "r20"]
    assert list(teacher_labels(frame[:2], among=frame)) == ["A/r20", "A/r20"]


def test_spread_out_keeps_both_ends():
    assert spread_out(range(100), 4) == [0, 33, 66, 99]
    assert spread_out([1, 2], 4) == [1, 2]


def test_literal_escapes_dollars_alone():
    assert literal("a_$b$<") == r"a_\$b\$<"


def test_a_label_of_an_earlier_version_is_named_with_what_it_is_called_now():
    probes, results = tables.probes_table(MLPS[:3]), tables.results_table(MLPS[:3])
    now = {"label": "KD tau=4 student tau=1", "tau": 4.0, "tau_student": 1.0}
    ours = pd.concat([results[results["label"].eq("KD tau=4")].assign(**now), results[results["method"].ne("KD")]])
    with pytest.raises(InputError, match="did you mean 'KD tau=4 student tau=1'"):
        plots.probe_vs_student(probes, ours, probe="derived_std", tau=4, label="KD tau=4")


def test_a_wrong_argument_names_the_figure():
    with pytest.raises(TypeError, match="probe_vs_student"):
        plots.probe_vs_student(tables.probes_table(), tables.results_table(), "nll")


def test_panels_and_rows_grow_with_the_text():
    heights = {}
    for size in (8, 12):
        with plt.rc_context({"legend.fontsize": size, "figure.figsize": (6.5, 4)}):
            names = [tables.choice_table(MLPS), tables.probes_table(MLPS)]
            heights[size] = [
                np.ravel(draw(table))[0].figure.get_figheight()
                for draw, table in zip((plots.pick_chart, plots.logit_statistics), names, strict=True)
            ]
            plt.close("all")
    assert all(large > 1.2 * small for small, large in zip(heights[8], heights[12], strict=True))
