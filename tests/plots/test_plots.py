"""Figures are looked at through their Axes and drawn tables, not through pixels."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
import time

import matplotlib

matplotlib.use("agg")


import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plot_tables as tables
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from capmismatch import plots
from capmismatch.errors import CapmismatchError, InputError
from capmismatch.plots import _style
from capmismatch.plots._common import literal, over_runs, spread_out, teacher_labels

MLPS, RESNETS = tables.MLPS, tables.RESNETS


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def draw(name, teachers):
    """Draw one figure from synthetic tables."""
    probes, results = tables.probes(teachers), tables.results(teachers)
    kd = {"tau": 4, "label": "KD tau=4"}
    return {
        "capacity_curve": lambda: plots.capacity_curve(results, teachers=probes),
        "capacity_curve alone": lambda: plots.capacity_curve(results),
        "capacity_grid": lambda: plots.capacity_grid(results, teachers=probes),
        "variance_vs_capacity": lambda: plots.variance_vs_capacity(probes),
        "variance_vs_temperature": lambda: plots.variance_vs_temperature(probes, restored=tables.restored(teachers)),
        "temperature_heatmap": lambda: plots.temperature_heatmap(tables.temperature_grid(teachers)),
        "probe_vs_student": lambda: plots.probe_vs_student(
            probes, results, probe="derived_std", links=tables.links(), **kd
        ),
        "probe_vs_student_grid": lambda: plots.probe_vs_student_grid(
            probes, results, chosen=["derived_std", "inherent_variance", "target_prob", "accuracy"], **kd
        ),
        "rank_matrix": lambda: plots.rank_matrix(tables.ranks(teachers)),
        "rank_distribution": lambda: plots.rank_distribution(tables.ranks(teachers)),
        "affinity_map": lambda: plots.affinity_map(tables.affinity(teachers)),
        "logit_statistics": lambda: plots.logit_statistics(probes),
        "reliability_diagram": lambda: plots.reliability_diagram(tables.reliability(teachers)),
        "isats_restored": lambda: plots.isats_restored(tables.restored(teachers)),
        "dark_knowledge": lambda: plots.dark_knowledge(tables.dark_knowledge()),
        "pick_chart": lambda: plots.pick_chart(tables.choice(teachers)),
        "study_progress": lambda: plots.study_progress(tables.status_table()),
    }[name]()


FIGURES = [
    "capacity_curve",
    "capacity_curve alone",
    "capacity_grid",
    "variance_vs_capacity",
    "variance_vs_temperature",
    "temperature_heatmap",
    "probe_vs_student",
    "probe_vs_student_grid",
    "rank_matrix",
    "rank_distribution",
    "affinity_map",
    "logit_statistics",
    "reliability_diagram",
    "isats_restored",
    "dark_knowledge",
    "pick_chart",
    "study_progress",
]


def figure_of(drawn):
    return np.ravel(np.asarray(drawn, dtype=object))[0].figure


def texts_of(figure):
    """All visible, non-empty texts of a figure, tick labels within the limits alone."""
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    outside = set()
    for ax in figure.findobj(matplotlib.axes.Axes):
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not low <= tick.get_loc() <= high:
                    outside |= {tick.label1, tick.label2}
    return [text for text in found if text not in outside]


@pytest.mark.parametrize(
    ("name", "teachers", "venue"),
    [(name, RESNETS, "icml") for name in FIGURES]
    + [
        (name, MLPS, "default") for name in ("capacity_curve", "variance_vs_capacity", "affinity_map", "dark_knowledge")
    ],
)
def test_nothing_is_clipped_overlaps_or_covers_data(name, teachers, venue):
    with plots.figure_style(venue) as style:
        figure = figure_of(draw(name, teachers))
        figure.draw_without_rendering()
        assert plt.get_fignums() == [figure.number]
        assert figure.get_figwidth() == style["figure.figsize"][0]
        assert len(plots.drawn_data(figure))
        renderer = figure.canvas.get_renderer()
        page, texts = figure.bbox.padded(1), texts_of(figure)
        for text in texts:
            box = text.get_window_extent(renderer)
            assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1), f"{text.get_text()!r} is clipped"
        for ax in figure.axes:
            upright = [label for label in ax.get_xticklabels() if label in texts and label.get_rotation() == 0]
            boxes = sorted((label.get_window_extent(renderer) for label in upright), key=lambda box: box.x0)
            assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes)), "tick labels overlap"
            assert ax.get_window_extent(renderer).height > 0.2 * figure.dpi
        for legend in figure.legends:
            box = legend.get_window_extent(renderer)
            assert not any(box.overlaps(ax.get_window_extent(renderer)) for ax in figure.axes)


@pytest.mark.parametrize("layout", ["constrained", None])
def test_in_axes_of_the_users_the_legend_stands_above_the_data(layout):
    _, axes = plt.subplots(1, 4, figsize=(12, 3), layout=layout)
    plots.capacity_curve(tables.results(), ax=axes[0])
    plots.variance_vs_capacity(tables.probes(), ax=axes[1], quantity="target_prob")
    plots.rank_distribution(tables.ranks(), ax=axes[2])
    plots.reliability_diagram(tables.reliability(), ax=axes[3])
    axes[0].figure.draw_without_rendering()
    for ax in axes:
        assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


@pytest.mark.parametrize(
    "name", ["capacity_curve alone", "probe_vs_student", "affinity_map", "dark_knowledge", "pick_chart"]
)
def test_save_writes_pdf_png_and_what_was_drawn(name, tmp_path):
    drawn = draw(name, MLPS[:4])
    table = plots.drawn_data(figure_of(drawn))
    pdf, png, csv = plots.save(drawn, tmp_path / "figure")
    assert b"/Type3" not in pdf.read_bytes() and b"/CIDFontType2" in pdf.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")
    pd.testing.assert_frame_equal(pd.read_csv(csv), pd.read_csv(io.StringIO(table.to_csv(index=False))))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.csv", "figure.pdf", "figure.png"]


# ------------------------------------------------------------------------------------------------ what lines show


def seed_means(frame, value="value"):
    return frame.groupby(["params", "teacher"])[value].mean().sort_index()


def test_capacity_curve_draws_means_over_seeds_and_the_plain_baseline():
    results = tables.results(MLPS, seeds=4)
    ax = plots.capacity_curve(results)
    test = results[results["split"] == "test"]
    expected = seed_means(test[test["label"] == "KD tau=4"], "accuracy")
    line = next(line for line in ax.lines if to_hex(line.get_color()) == to_hex(_style.BLUE))
    np.testing.assert_allclose(line.get_xdata(), expected.index.get_level_values("params"))
    np.testing.assert_allclose(line.get_ydata(), expected)
    plain = test[test["method"] == "CE"]["accuracy"]
    baseline = next(line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "--")
    np.testing.assert_allclose(baseline.get_ydata(), plain.mean())
    low, high = stats.t.interval(0.95, len(plain) - 1, plain.mean(), stats.sem(plain))
    drawn = plots.drawn_data(ax)
    band = drawn[drawn["setting"] == "CE"]
    np.testing.assert_allclose(band[["low", "high"]].to_numpy()[0], [low, high])
    assert ax.get_xscale() == "log"


def test_settings_stand_beside_each_other_and_within_the_limits():
    results = tables.results(MLPS, seeds=4)
    ax = plots.capacity_curve(results, teachers=tables.probes())
    ax.figure.draw_without_rendering()
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(MLPS)]
    seen = [line.get_transform().transform(line.get_xydata())[0, 0] for line in lines]
    point = ax.figure.dpi / 72
    np.testing.assert_allclose(np.diff(sorted(seen)), 1.6 * point, atol=1e-6)
    for panel in ax.figure.axes:
        low, high = panel.get_ylim()
        values = np.concatenate([line.get_ydata() for line in panel.lines])
        assert low < values.min() and values.max() < high
        assert high - low < 3 * np.ptp(values), "limits that follow other marks than those drawn"


def test_capacity_curve_marks_the_peak_and_tells_the_drop():
    results = tables.results(MLPS)
    results["accuracy"] = results["accuracy"].where(results["method"] == "CE", 0.7)
    results.loc[results["teacher"] == "mlp96", "accuracy"] = 0.75
    results = results[results["label"].isin(["KD tau=4", "CE"])]
    ax = plots.capacity_curve(results)
    (ring,) = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (dict((t, p) for _, t, p in MLPS)["mlp96"], 0.75)
    labels = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert labels[0] == "KD tau=4 (\N{MINUS SIGN}5.0)"


def test_capacity_curve_rising_to_the_largest_teacher_has_no_ring():
    results = tables.results(MLPS)
    results["accuracy"] = 0.6 + 1e-8 * results["params"].fillna(0)
    ax = plots.capacity_curve(results)
    assert not [line for line in ax.lines if line.get_markerfacecolor() == "none"]


def test_capacity_curve_shows_the_teachers_in_a_panel_above():
    probes = tables.probes(RESNETS, seeds=2)
    only_a = [teacher for teacher in RESNETS if teacher[0] == "A"]
    ax = plots.capacity_curve(tables.results(only_a), teachers=probes)
    above = ax.figure.axes[0]
    (line,) = [line for line in above.lines if line.get_marker() == "o"]
    own = probes[(probes["probe"] == "accuracy") & (probes["family"] == "A")]
    np.testing.assert_allclose(line.get_ydata(), seed_means(own), err_msg="B/resnet20 must not mix into A's resnet20")
    with pytest.raises(InputError, match="either ax or teachers"):
        plots.capacity_curve(tables.results(MLPS), teachers=probes, ax=ax)


def test_capacity_grid_has_a_panel_a_setting_with_the_numbers_of_the_curve():
    results, probes = tables.results(MLPS), tables.probes(MLPS)
    axes = plots.capacity_grid(results, teachers=probes)
    taught = results[(results["method"] != "CE") & (results["split"] == "test")]
    settings = list(dict.fromkeys(taught["label"]))
    titles = [ax.get_title(loc="left").split("\n") for ax in axes]
    assert [title[0] for title in titles] == [*settings, "the teachers themselves"]
    columns = ["setting", "mean", "low", "high"]
    curve = plots.drawn_data(plots.capacity_curve(results, teachers=probes))
    for setting, ax in zip(settings, axes, strict=False):
        own = plots.drawn_data(ax)
        for name in (setting, "CE"):
            drawn, expected = (table.loc[table["setting"] == name, columns] for table in (own, curve))
            pd.testing.assert_frame_equal(drawn.reset_index(drop=True), expected.reset_index(drop=True))
    rows = {ax.get_subplotspec().rowspan.start for ax in axes[:-1]}
    for row in rows:
        assert len({ax.get_ylim() for ax in axes[:-1] if ax.get_subplotspec().rowspan.start == row}) == 1
    for setting, ax in zip(settings, axes, strict=False):
        low, high = ax.get_ylim()
        assert taught[taught["label"] == setting]["accuracy"].between(low, high).all()
    with pytest.raises(InputError, match="no distilled students"):
        plots.capacity_grid(results[results["method"] == "CE"])


def test_capacity_curve_wants_one_student():
    results = tables.results(MLPS[:3], students=("mlp12", "mlp24"))
    with pytest.raises(InputError, match=r"several values of student: \['mlp12', 'mlp24'\]; choose one with student="):
        plots.capacity_curve(results)
    drawn = plots.drawn_data(plots.capacity_curve(results, student="mlp24"))
    rows = results[(results["student"] == "mlp24") & (results["split"] == "test") & (results["method"] != "CE")]
    expected = rows.groupby(["label", "teacher"])["accuracy"].mean()
    got = drawn[drawn["setting"] != "CE"].set_index(["setting", "label"])["mean"]
    np.testing.assert_allclose(got.sort_index(), expected.sort_index())
    with pytest.raises(InputError, match="no distilled students"):
        plots.capacity_curve(results[results["method"] == "CE"], student="mlp24")


def test_variance_is_never_alone():
    probes = tables.probes()
    axes = plots.variance_vs_capacity(probes, quantity="derived_variance")
    names = [plots.drawn_data(ax)["probe"].unique().tolist() for ax in axes]
    assert names == [["derived_variance"], ["inherent_variance"], ["target_prob"]]
    _, ax = plt.subplots()
    with pytest.raises(InputError, match="expected quantity="):
        plots.variance_vs_capacity(probes, ax=ax)
    with pytest.raises(InputError, match="did you mean 'derived_std'"):
        plots.variance_vs_capacity(probes, quantity="derived_sdt")


def test_variance_vs_capacity_lines_hold_the_table():
    probes = tables.probes()
    _, ax = plt.subplots()
    assert plots.variance_vs_capacity(probes, ax=ax, quantity="derived_std", taus=[2, 8]) is ax
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(MLPS)]
    for line, tau in zip(lines, (2, 8), strict=True):
        rows = probes[(probes["probe"] == "derived_std") & (probes["tau"] == tau)]
        np.testing.assert_allclose(line.get_ydata(), seed_means(rows))
    assert len([line for line in ax.lines if len(line.get_xdata()) == 2 * len(MLPS)]) == 2  # single runs, faint


def test_variance_vs_temperature_takes_the_smallest_and_the_largest():
    probes = tables.probes(taus=[0.5, 1, 2, 3, 4, 6, 8, 16])
    axes = plots.variance_vs_temperature(probes)
    for ax, name in zip(axes, ["derived_average", "derived_std", "inherent_variance", "target_prob"], strict=True):
        rows = probes[(probes["probe"] == name) & probes["teacher"].isin(["mlp12", "mlp1024"])]
        means = rows.groupby(["teacher", "tau"])["value"].mean()
        lines = [line for line in ax.lines if len(line.get_xdata()) == 8]
        for line, teacher in zip(lines, ["mlp12", "mlp1024"], strict=True):
            np.testing.assert_allclose(line.get_xdata(), means[teacher].index)
            np.testing.assert_allclose(line.get_ydata(), means[teacher])
    with pytest.raises(InputError, match="no rows with label 'mlp13'"):
        plots.variance_vs_temperature(probes, teachers=["mlp13"])


def test_restored_rows_join_the_temperature_panels():
    restored = tables.restored()
    axes = plots.variance_vs_temperature(tables.probes(), restored=restored, teachers=["mlp48"])
    drawn = plots.drawn_data(axes[1])
    rows = restored[(restored["teacher"] == "mlp48") & (restored["quantity"] == "derived_std")]
    for method in ("ATS", "ISATS"):
        expected = rows[rows["method"] == method].groupby("tau_other", dropna=False)["value"].mean()
        np.testing.assert_allclose(drawn[drawn["method"] == method]["mean"], expected)


def test_heatmap_cells_are_means_and_the_best_is_framed():
    results = tables.temperature_grid()
    ax = plots.temperature_heatmap(results)
    expected = results.groupby(["tau_other", "tau"])["accuracy"].mean().unstack() * 100
    np.testing.assert_allclose(ax.collections[0].get_array(), expected)
    row, column = np.unravel_index(np.argmax(expected), expected.shape)
    frame = next(patch for patch in ax.patches if isinstance(patch, matplotlib.patches.Rectangle))
    assert frame.get_xy() == (column, row)
    assert ax.get_ylim() == (0, len(expected)), "small temperatures stand below"


def test_heatmap_leaves_incomplete_cells_blank_and_refuses_mixed_settings():
    results = tables.temperature_grid(MLPS[-2:])
    gone = (results["teacher"] == "mlp768") & (results["tau"] == 2) & (results["tau_other"] == 1)
    ax = plots.temperature_heatmap(results[~gone])
    image = np.ma.filled(ax.collections[0].get_array(), np.nan)
    assert np.isnan(image).sum() == 1 and np.isnan(image[1, 1])
    mixed = pd.concat([results.assign(weight=0.5), results.assign(weight=0.9)])
    with pytest.raises(InputError, match=r"several values of weight: \[0.5, 0.9\]"):
        plots.temperature_heatmap(mixed)
    with pytest.raises(InputError, match="no rows with method 'DKD'; it has \\['ATS'\\]"):
        plots.temperature_heatmap(results, method="DKD")


def test_probe_vs_student_places_each_teacher_at_its_means():
    probes, results = tables.probes(RESNETS), tables.results(RESNETS)
    ax = plots.probe_vs_student(probes, results, probe="derived_std", tau=4, label="KD tau=4", links=tables.links())
    drawn = plots.drawn_data(ax).set_index(["family", "teacher"])
    rows = probes[(probes["probe"] == "derived_std") & (probes["tau"] == 4)]
    taught = results[(results["label"] == "KD tau=4") & (results["split"] == "test")]
    for key, point in drawn.iterrows():
        assert point["x"] == pytest.approx(rows.set_index(["family", "teacher"]).loc[[key], "value"].mean())
        assert point["accuracy"] == pytest.approx(taught.set_index(["family", "teacher"]).loc[[key], "accuracy"].mean())
    offsets = np.concatenate([dots.get_offsets() for dots in ax.collections if isinstance(dots, PathCollection)])
    np.testing.assert_allclose(np.sort(offsets[:, 0]), np.sort(drawn["x"]))
    assert "0.81 [0.51, 0.91]" in ax.get_title(loc="left")


def test_results_without_a_family_go_by_the_teachers_name():
    probes, results = tables.probes(), tables.results()
    kd = {"probe": "derived_std", "tau": 4, "label": "KD tau=4"}
    nameless = results.assign(family="")
    got, expected = (plots.probe_vs_student(probes, frame, **kd) for frame in (nameless, results))
    pd.testing.assert_frame_equal(plots.drawn_data(got), plots.drawn_data(expected))
    above = plots.capacity_curve(nameless, teachers=probes).figure.axes[0]
    assert len(above.lines[0].get_xdata()) == len(MLPS)


def test_grid_has_short_titles_and_a_key_to_the_teachers():
    probes, results = tables.probes(), tables.results()
    chosen = ["derived_std", "inherent_variance", "nll", "accuracy"]
    links = pd.concat([tables.links(probe, np.nan if probe in ("nll", "accuracy") else 4.0) for probe in chosen])
    with plots.figure_style("icml"):
        axes = plots.probe_vs_student_grid(probes, results, chosen=chosen, tau=4, label="KD tau=4", links=links)
        figure = axes[0].figure
        figure.draw_without_rendering()
        titles = [ax.title.get_text() or ax.get_title(loc="left") for ax in axes]
        assert titles == [r"$\rho$ = 0.76 [0.46, 0.86]"] * 4
        assert [ax.get_xlabel() for ax in axes] == [r"std of wrong $p$", "IV", "NLL", "accuracy"]
        boxes = [ax._left_title.get_window_extent() for ax in axes]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [teacher for _, teacher, _ in MLPS]
    (dots,) = [dots for dots in axes[0].collections if isinstance(dots, PathCollection)]
    shown = dict(zip([key.get_color() for key in legend.legend_handles], MLPS, strict=True))
    sizes = plots.drawn_data(axes[0])["teacher"]
    assert [shown[tuple(color)][1] for color in dots.get_facecolors()] == sizes.tolist()


def test_teacher_names_do_not_overlap():
    with plots.figure_style("icml"):
        ax = draw("probe_vs_student", RESNETS)
        ax.figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in ax.texts]
        assert len(boxes) == len(RESNETS)
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert {text.get_text() for text in ax.texts} >= {"A/resnet20", "B/resnet20", "resnet44"}


def test_probe_vs_student_says_what_is_absent():
    probes, results = tables.probes(), tables.results()
    with pytest.raises(InputError, match="no rows with probe 'derivedstd'"):
        plots.probe_vs_student(probes, results, probe="derivedstd", tau=4, label="KD tau=4")
    with pytest.raises(InputError, match=r"no rows with tau 3; it has \[1.0, 2.0, 4.0, 8.0\]"):
        plots.probe_vs_student(probes, results, probe="derived_std", tau=3, label="KD tau=4")
    with pytest.raises(InputError, match="several values of tau"):
        plots.probe_vs_student(probes, results, probe="derived_std", label="KD tau=4")
    with pytest.raises(InputError, match="several values of label"):
        plots.probe_vs_student(probes, results, probe="derived_std", tau=4)
    with pytest.raises(InputError, match="at least 2 teachers"):
        plots.probe_vs_student(probes[probes["teacher"] == "mlp12"], results, probe="nll", label="KD tau=4")
    with pytest.raises(InputError, match="at least one probe"):
        plots.probe_vs_student_grid(probes, results, chosen=[])
    assert not plt.get_fignums()


def test_rank_matrix_has_the_noise_floor_on_its_diagonal():
    ranks = tables.ranks(MLPS[:4], seeds=3)
    ax = plots.rank_matrix(ranks)
    image = np.ma.filled(ax.collections[0].get_array(), np.nan)
    names = [teacher for _, teacher, _ in MLPS[:4]]
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            ab = (ranks["teacher_a"] == a) & (ranks["teacher_b"] == b)
            ba = (ranks["teacher_a"] == b) & (ranks["teacher_b"] == a)
            pair = ranks[ab | ba]
            assert image[i, j] == pytest.approx(pair["value"].mean()) if j <= i else np.isnan(image[i, j])
    assert [label.get_text() for label in ax.get_yticklabels()] == names


def test_rank_matrix_hatches_what_was_not_measured():
    ax = plots.rank_matrix(tables.ranks(MLPS[:4], seeds=1))
    assert len([patch for patch in ax.patches if patch.get_hatch()]) == 4
    with pytest.raises(InputError, match="no rows with metric 'tau_c'"):
        plots.rank_matrix(tables.ranks(MLPS[:3]), metric="tau_c")


def test_rank_distribution_counts_steps_within_families():
    drawn = plots.drawn_data(plots.rank_distribution(tables.ranks(RESNETS)))
    same = drawn["a"] == drawn["b"]
    assert (drawn.loc[same, "steps"] == 0).all() and (drawn.loc[~same, "steps"].dropna() > 0).all()
    row = drawn[(drawn["a"] == "resnet8") & (drawn["b"] == "resnet32")]
    assert (row["steps"] == 3).all()
    assert drawn[(drawn["a"] == "A/resnet20") & (drawn["b"] == "B/resnet20")]["steps"].isna().all()
    floor = drawn.loc[same, "value"]
    ax = plt.gcf().axes[0]
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((floor.min(), floor.max()))


def test_affinity_maps_share_one_order_and_show_differences():
    affinity = tables.affinity(MLPS, classes=12)
    axes = plots.affinity_map(affinity, teachers=["mlp12", "mlp1024"])
    drawn = plots.drawn_data(axes)
    orders = drawn.groupby("panel")["true_class"].unique().map(list)
    assert all(order == orders.iloc[0] for order in orders) and set(orders.iloc[0]) == set(affinity["true_class"])
    means = affinity.set_index(["teacher", "true_class", "other_class"])["value"]
    expected = means["mlp1024"] - means["mlp12"]
    got = drawn[drawn["shown"] == "difference"].set_index(["true_class", "other_class"])["value"]
    pd.testing.assert_series_equal(got.sort_index(), expected.sort_index())
    assert np.isnan(np.ma.filled(axes[0, 0].images[0].get_array(), np.nan).diagonal()).all()


def test_kindred_classes_become_neighbours():
    axes = plots.affinity_map(tables.affinity(MLPS[:1], classes=9))
    image = np.ma.filled(axes[0, 0].images[0].get_array(), 0.0)
    near, far = np.diagonal(image, 1), np.diagonal(image, 5)
    assert np.median(near) > 2 * np.median(far)


def test_a_hundred_classes_have_no_names_and_ten_do():
    with plots.figure_style("icml"):
        assert not plots.affinity_map(tables.affinity(MLPS[:2], classes=100))[0, 0].get_yticklabels()
        assert len(plots.affinity_map(tables.affinity(MLPS[:2], classes=10))[0, 0].get_yticklabels()) == 10


def test_logit_statistics_and_reliability_hold_their_tables():
    probes, bins = tables.probes(), tables.reliability(MLPS[:2])
    names = ["target_logit", "max_wrong_logit", "logit_std", "confidence"]
    for ax, name in zip(plots.logit_statistics(probes), names, strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), seed_means(probes[probes["probe"] == name]))
    ax = plots.reliability_diagram(bins, teachers=["mlp24"])
    filled = bins[(bins["teacher"] == "mlp24") & (bins["n"] > 0)]
    line = next(line for line in ax.lines if len(line.get_xdata()) == len(filled))
    np.testing.assert_allclose(line.get_xydata(), filled[["confidence", "accuracy"]])


def test_isats_restored_draws_every_quantity_of_each_setting():
    restored = tables.restored()
    axes = plots.isats_restored(restored, tau_others=[2])
    names = ["derived_std", "inherent_variance", "target_prob", "flipped", "overtaken"]
    for ax, name in zip(np.delete(axes, 3), names, strict=True):
        drawn = plots.drawn_data(ax)
        assert list(drawn["setting"].unique()) == ["TS", "ATS other=2", "ISATS order m=1"]
        rows = restored[(restored["quantity"] == name) & (restored["method"] == "ISATS")]
        np.testing.assert_allclose(drawn[drawn["setting"] == "ISATS order m=1"]["mean"], seed_means(rows))
    medians = restored[restored["quantity"] == "tau_other_q50"]
    np.testing.assert_allclose(axes[3].lines[0].get_ydata(), seed_means(medians))
    with pytest.raises(InputError, match=r"no ATS rows with tau_other \[5\]; it has \[1.0, 2.0, 3.0\]"):
        plots.isats_restored(restored, tau_others=[5])
    with pytest.raises(InputError, match=r"no rows with quantity \['flipped'\]"):
        plots.isats_restored(restored[restored["quantity"] != "flipped"])


def test_dark_knowledge_shows_the_wrong_classes_and_tells_the_target():
    example = tables.dark_knowledge()
    axes = plots.dark_knowledge(example, image=np.zeros((4, 4)), top=5)
    assert len(axes) == 2 and len(axes[0].figure.axes) == 3
    assert "cat" not in [label.get_text() for label in axes[0].get_yticklabels()]
    drawn = plots.drawn_data(axes[0])
    rows = example[(example["teacher"] == "mlp12") & ~example["is_target"]]
    rows = rows.set_index(["method", "class"])["probability"]
    for row in drawn.itertuples():
        assert row.probability == rows[row.method, row[drawn.columns.get_loc("class") + 1]]
    widths = [bar.get_width() for bar in axes[0].patches]
    np.testing.assert_allclose(sorted(widths), sorted(drawn["probability"]))
    assert axes[0].figure.axes[0].get_title() == "cat"
    with pytest.raises(InputError, match="expected one target for each teacher and method, got 0 for 'mlp12' and 'TS'"):
        plots.dark_knowledge(example.assign(is_target=False))


@pytest.mark.parametrize("sign", [1, -1])
def test_pick_chart_has_the_first_row_on_top_and_marks_ties(sign):
    table = tables.choice()[::sign]  # a rule such as "lowest nll" has the lowest score first
    axes = plots.pick_chart(table)
    assert len(axes) == 3
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names[::-1] == list(table["teacher"])
    drawn = plots.drawn_data(axes[0])
    fills = next(c for c in axes[0].collections if len(c.get_offsets()) == len(table)).get_facecolors()[:, :3]
    assert [tuple(fill) == to_rgb(_style.BLUE) for fill in fills] == list(drawn["tie"])


@pytest.mark.parametrize("how", ["absent", "nan"])
def test_pick_chart_without_results_has_scores_alone(how):
    table = tables.choice(with_results=False)
    if how == "nan":
        table = table.assign(p_best=np.nan, regret=np.nan)
    assert len(plots.pick_chart(table)) == 1
    _, ax = plt.subplots()
    assert plots.pick_chart(tables.choice(), ax=ax)[0] is ax


def test_reliability_bars_are_wilson_intervals_over_the_examples():
    bins = tables.reliability(MLPS[:2]).query("teacher == 'mlp24'")
    drawn = plots.drawn_data(plots.reliability_diagram(bins))
    for row in drawn.itertuples():
        low, high = proportion_confint(row.accuracy * row.n, row.n, method="wilson")
        assert (row.low, row.high) == pytest.approx((low, high))


def test_bins_of_few_examples_are_faint_and_not_joined():
    bins = tables.reliability(MLPS[:2]).query("teacher == 'mlp24'")
    bins.loc[bins["bin_low"].between(0.35, 0.45), "n"] = 3
    ax = plots.reliability_diagram(bins)
    line, few = (line for line in ax.lines[1:])
    assert np.isnan(line.get_ydata()).sum() == 1, "the line is broken there"
    assert len(few.get_xdata()) == 1 and few.get_alpha() == 0.5 and few.get_linestyle() == "None"
    (bars,) = [bars for bars in ax.collections if isinstance(bars, LineCollection)]
    assert sum(len(segment) > 0 and np.isfinite(segment).all() for segment in bars.get_segments()) == 8


def test_reliability_counts_stand_below_and_runs_are_averaged():
    bins = pd.concat([tables.reliability(MLPS[:2]).assign(seed=seed) for seed in (0, 1)])
    second = bins["seed"] == 1
    bins.loc[second, "n"] *= 3
    bins.loc[second, "accuracy"] -= 0.08
    ax = plots.reliability_diagram(bins)
    below = ax.figure.axes[1]
    assert below.get_ylabel() == "examples" and below.get_xlabel() == "confidence" and below.get_yscale() == "log"
    first = bins[(bins["teacher"] == "mlp12") & (bins["n"] > 0)].groupby("bin_low")
    weighted = first.apply(lambda rows: np.average(rows["accuracy"], weights=rows["n"]), include_groups=False)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), weighted)
    steps = below.patches[0].get_data()
    np.testing.assert_allclose(steps.values, first["n"].mean())
    _, alone = plt.subplots()
    assert plots.reliability_diagram(bins, ax=alone) is alone and len(alone.figure.axes) == 1


@pytest.mark.parametrize(
    ("columns", "options", "name", "scale"),
    [
        ([], {}, "students' accuracy (%)", 100),
        (["accuracy"], {}, "predicted students' accuracy\n(points above their mean)", 1),
        (["accuracy", "measured"], {}, "score of the rule", 1),
        (["accuracy", "measured"], {"probe": "params", "tau": np.nan}, "teacher parameters", 1),
        (["accuracy", "measured"], {"probe": "derived_std", "tau": 4.0}, r"std of wrong $p$ at $\tau$=4", 1),
    ],
)
def test_pick_chart_says_what_the_score_is(columns, options, name, scale):
    table = tables.choice().drop(columns=columns)
    axes = plots.pick_chart(table, **options)
    assert axes[0].get_xlabel() == name
    points = next(c for c in axes[0].collections if len(c.get_offsets()) == len(table)).get_offsets()
    np.testing.assert_allclose(points[::-1, 0], scale * table["score"])
    assert [ax.get_xlabel() for ax in axes[1:]] == ["P(best)", "expected regret\n(points)"]


@pytest.mark.parametrize("by", ["teacher", "method"])
def test_study_progress_bars_are_shares(by):
    status = tables.status_table()
    ax = plots.study_progress(status, by=by)
    keys = status["teacher"].replace("", "no teacher") if by == "teacher" else status["label"]
    expected = status.groupby(keys, sort=False)[["runs", "done", "running", "failed", "waiting", "seconds_left"]].sum()
    pd.testing.assert_frame_equal(plots.drawn_data(ax).set_index("label"), expected, check_names=False)
    for bars, state in zip(ax.containers, ["done", "running", "failed", "waiting"], strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in bars], expected[state] / expected["runs"])
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in ax.containers[-1]], 1)
    shown = [text.get_text().split(",")[0] for text in ax.texts]
    assert shown == [f"{row.done}/{row.runs}" for row in expected.itertuples()]


def test_study_progress_draws_no_state_that_does_not_occur_and_no_time_that_is_not_known():
    status = tables.status_table().iloc[:2]
    ax = plots.study_progress(status.assign(seconds_left=np.nan))
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["done"]
    assert [text.get_text() for text in ax.texts] == ["3/3", "3/3"]
    with pytest.raises(InputError, match=r"4 done .* 3 runs for '' and 'CE'"):
        plots.study_progress(status.assign(done=4))


# --------------------------------------------------------------------------------------------- frames that users give


@pytest.mark.parametrize(
    ("call", "table", "column"),
    [
        (plots.capacity_curve, tables.results(MLPS[:2]), "label"),
        (plots.variance_vs_capacity, tables.probes(MLPS[:2]), "value"),
        (plots.variance_vs_temperature, tables.probes(MLPS[:2]), "tau"),
        (plots.temperature_heatmap, tables.temperature_grid(), "tau_other"),
        (
            lambda probes: plots.probe_vs_student(probes, tables.results(MLPS[:2]), probe="nll", label="KD tau=4"),
            tables.probes(MLPS[:2]),
            "teacher",
        ),
        (plots.rank_matrix, tables.ranks(MLPS[:2]), "seed_b"),
        (plots.rank_distribution, tables.ranks(MLPS[:2]), "metric"),
        (plots.affinity_map, tables.affinity(MLPS[:2]), "other_class"),
        (plots.logit_statistics, tables.probes(MLPS[:2]), "params"),
        (plots.reliability_diagram, tables.reliability(MLPS[:2]), "n"),
        (plots.isats_restored, tables.restored(MLPS[:2]), "constraint"),
        (plots.dark_knowledge, tables.dark_knowledge(), "is_target"),
        (plots.pick_chart, tables.choice(), "tie"),
        (plots.study_progress, tables.status_table(), "failed"),
    ],
)
def test_a_missing_column_is_named(call, table, column):
    with pytest.raises(InputError, match=f"lacks the column.*'{column}'; it has"):
        call(table.drop(columns=column))
    assert not plt.get_fignums(), "an error must not leave a figure open"


def test_absent_probes_taus_and_splits_are_told_with_what_is_there():
    probes = tables.probes()
    with pytest.raises(InputError, match="no rows with probe 'inherent_variance'; it has"):
        plots.variance_vs_capacity(probes[probes["probe"] != "inherent_variance"])
    with pytest.raises(InputError, match=r"no rows with tau 3.0; it has \[1.0, 2.0, 4.0, 8.0\]"):
        plots.variance_vs_capacity(probes, taus=[3])
    with pytest.raises(InputError, match=r"no rows with split 'val'; it has \['test'\]"):
        plots.variance_vs_capacity(probes, split="val")
    assert not plt.get_fignums()


def test_two_splits_fall_back_on_test():
    probes = tables.probes(splits=("val", "test"))
    axes = plots.logit_statistics(probes)
    rows = probes[(probes["probe"] == "target_logit") & (probes["split"] == "test")]
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), seed_means(rows))


def test_filtered_frames_work():
    probes, results = tables.probes(RESNETS), tables.results(RESNETS)
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
    plots.rank_matrix(tables.ranks(RESNETS).query("family_a == 'A' and family_b == 'A'"))
    plots.rank_distribution(tables.ranks(MLPS, seeds=1))
    plots.affinity_map(tables.affinity(MLPS).query("teacher == 'mlp48'"))


@pytest.mark.parametrize("unknown", ["all", "one"])
def test_teachers_without_a_size_stand_side_by_side_in_table_order(unknown):
    results, probes = tables.results(), tables.probes()
    chosen = slice(None) if unknown == "all" else results["teacher"] == "mlp48"
    results.loc[chosen, "params"] = np.nan
    ax = plots.capacity_curve(results, teachers=probes.assign(params=np.nan))
    assert ax.get_xscale() == "linear"
    assert [label.get_text() for label in ax.get_xticklabels()] == [teacher for _, teacher, _ in MLPS]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), range(8))


def test_sizes_read_plainly():
    ax = plots.capacity_curve(tables.results())
    ax.figure.draw_without_rendering()
    shown = [label.get_text() for label in texts_of(ax.figure) if label in ax.get_xticklabels()]
    assert {"1k", "10k", "100k", "1M"} <= set(shown)


def test_small_values_have_their_unit_in_the_name_and_no_offset():
    probes = tables.probes()
    probes.loc[probes["probe"] == "derived_variance", "value"] *= 1e-4
    axes = plots.variance_vs_capacity(probes, quantity="derived_variance")
    axes[0].figure.draw_without_rendering()
    assert re.search(r"\[\$10\^\{-\d\}\$\]$", axes[0].get_title(loc="left"))
    for ax in axes:
        assert ax.yaxis.get_offset_text().get_text() == ""
        assert not any("e-" in label.get_text() for label in ax.get_yticklabels())


WILD = "a_$x^2$_<b>"


def test_users_text_is_drawn_literally():
    results, probes = tables.results(MLPS[:3]), tables.probes(MLPS[:3])
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
    axes = plots.dark_knowledge(tables.dark_knowledge(names=["$a$", "b_c", "<d>", "t", *"efghij"]))
    names = [text._preprocess_math(text.get_text()) for text in axes[0].get_yticklabels()]
    assert ("$a$", False) in names and ("<d>", False) in names


# -------------------------------------------------------------------------------------------------- style and saving


@pytest.mark.parametrize(
    ("venue", "column", "text"),
    [
        ("neurips", 5.5, 5.5),
        ("icml", 3.25, 6.75),
        ("cvpr", 3.25, 6.875),
        ("ieee", 3.5, 7.16),
        ("nature", 3.5, 7.2),
        ("springer", 3.31, 6.85),
        ("default", 6.5, 6.5),
    ],
)
def test_style_widths(venue, column, text):
    assert plots.figure_style(venue)["figure.figsize"][0] == column
    assert plots.figure_style(venue, "text")["figure.figsize"][0] == text
    assert plots.figure_style(venue, 4.0, ratio=0.5)["figure.figsize"] == (4.0, 2.0)


def test_style_is_a_context_that_ends():
    before = dict(matplotlib.rcParams)
    with plots.figure_style("nature") as style:
        assert matplotlib.rcParams["font.size"] == style["font.size"] == 7
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_style_errors_list_the_choices():
    with pytest.raises(InputError, match=r"venue must be one of .*'neurips'.*; did you mean 'neurips'"):
        plots.figure_style("neuripss")
    with pytest.raises(InputError, match=r"width must be one of \['column', 'text'\]"):
        plots.figure_style("icml", "half")
    with pytest.raises(InputError, match="positive number of inches, got -1"):
        plots.figure_style("icml", -1)


def test_built_in_widths_agree_with_tueplots():
    pytest.importorskip("tueplots")
    for venue in ("neurips", "icml", "cvpr"):
        assert _style._from_tueplots(venue) == _style.VENUES[venue]
    assert plots.figure_style("tmlr2023")["figure.figsize"][0] == 6.5


def test_methods_differ_in_marker_and_settings_of_one_in_tint():
    looks = _style.setting_looks({name: name for name in ("CE", "KD", "ATS", "ISATS", "DKD", "Mine", "Yours")})
    assert len({look["marker"] for look in looks.values()}) == 7
    assert len({look["color"] for look in looks.values()}) == 7
    grey = [np.dot(to_rgb(looks[name]["color"]), [0.2126, 0.7152, 0.0722]) for name in ("KD", "ISATS", "DKD", "ATS")]
    assert grey == sorted(grey)
    many = _style.setting_looks({"KD a": "KD", "KD b": "KD", "KD c": "KD"})
    assert len({look["color"] for look in many.values()}) == 3
    assert to_hex(many["KD a"]["color"]) == to_hex(_style.BLUE)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    with plots.figure_style("icml"):
        ax = draw("capacity_curve alone", MLPS[:4])
        first = [path.read_bytes() for path in plots.save(ax, tmp_path / "one")]
        time.sleep(1.1)  # dates, if any, have seconds
        second = [path.read_bytes() for path in plots.save(ax, tmp_path / "two")]
        again = [path.read_bytes() for path in plots.save(draw("capacity_curve alone", MLPS[:4]), tmp_path / "three")]
    assert first == second == again
    assert b"CreationDate" not in first[0]


def test_save_escapes_names_and_takes_another_table(tmp_path):
    _, ax = plt.subplots()
    plots.study_progress(tables.status_table(), ax=ax)
    paths = plots.save(ax, tmp_path / "new" / "KD tau=4 $x$", table=pd.DataFrame({"a": [1]}))
    assert [path.name for path in paths] == [f"KD%20tau=4%20%24x%24.{ending}" for ending in ("pdf", "png", "csv")]
    assert paths[2].read_text() == "a\n1\n"
    for name in ("", ".."):
        with pytest.raises(InputError, match="a name that can name a file"):
            plots.file_name(name)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    ax = plots.study_progress(tables.status_table())
    before = plots.save(ax, tmp_path / "figure")[0].read_bytes()

    def broken(file, **_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(ax.figure, "savefig", broken)
    with pytest.raises(CapmismatchError, match="disk full"):
        plots.save(ax, tmp_path / "figure")
    assert (tmp_path / "figure.pdf").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_drawn_data_wants_a_drawn_figure():
    figure, ax = plt.subplots()
    for target in (figure, ax):
        with pytest.raises(InputError, match="holds no drawn data"):
            plots.drawn_data(target)
    with pytest.raises(InputError, match="Axes of 2 figures"):
        plots.save(np.array([ax, plt.subplots()[1]]), "nowhere", table=pd.DataFrame())


def test_png_has_300_dots_per_inch(tmp_path):
    with plots.figure_style("icml"):
        png = plots.save(draw("study_progress", MLPS), tmp_path / "p")[1]
    assert plt.imread(png).shape[1] == 975


# ---------------------------------------------------------------------------------------------------------- helpers


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


def test_plots_do_not_import_torch():
    code = "import sys, capmismatch.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
