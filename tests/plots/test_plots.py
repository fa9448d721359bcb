"""Figures are looked at through their Axes and drawn tables, not through pixels."""

from __future__ import annotations

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tables
from drawing import FIGURES, draw, figure_of, seed_means, texts_of
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from messages import naming
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from capmismatch import plots
from capmismatch.errors import InputError
from capmismatch.plots import _style

MLPS, RESNETS = tables.MLPS, tables.RESNETS


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
    plots.capacity_curve(tables.results_table(), ax=axes[0])
    plots.variance_vs_capacity(tables.probes_table(), ax=axes[1], quantity="target_prob")
    plots.rank_distribution(tables.ranks_table(), ax=axes[2])
    plots.reliability_diagram(tables.reliability_table(), ax=axes[3])
    axes[0].figure.draw_without_rendering()
    for ax in axes:
        assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


# ------------------------------------------------------------------------------------------------ what lines show


def test_capacity_curve_draws_means_over_seeds_and_the_plain_baseline():
    results = tables.results_table(MLPS, seeds=4)
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
    results = tables.results_table(MLPS, seeds=4)
    ax = plots.capacity_curve(results, teachers=tables.probes_table())
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
    results = tables.results_table(MLPS)
    results["accuracy"] = results["accuracy"].where(results["method"] == "CE", 0.7)
    results.loc[results["teacher"] == "mlp96", "accuracy"] = 0.75
    results = results[results["label"].isin(["KD tau=4", "CE"])]
    ax = plots.capacity_curve(results)
    (ring,) = [line for line in ax.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (dict((t, p) for _, t, p in MLPS)["mlp96"], 0.75)
    labels = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert labels[0] == "KD τ=4 (\N{MINUS SIGN}5.0 from peak)"


@pytest.mark.parametrize("draw", [plots.capacity_curve, plots.capacity_grid])
def test_likelihoods_are_best_where_they_are_lowest(draw):
    """The same students by their NLL: the ring is at the least, the change above zero, and nothing is in percent."""
    results = tables.results_table(MLPS)
    results = results[results["label"].isin(["KD tau=4", "CE"])].assign(nll=0.9)
    results.loc[results["teacher"] == "mlp96", "nll"] = 0.75
    probes = pd.concat([tables.probes_table(), tables.probes_table().query("probe == 'accuracy'").assign(probe="nll")])
    axes = np.atleast_1d(draw(results, metric="nll", teachers=probes))
    (ring,) = [line for line in axes[0].lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert ring.get_ydata()[0] == 0.75
    shown = " ".join(text.get_text() for text in axes[0].figure.findobj(matplotlib.text.Text))
    assert "+0.150" in shown and "NLL (nats)" in shown and "%" not in shown
    with pytest.raises(InputError, match="lacks the column 'kl'"):
        draw(results, metric="kl")
    with pytest.raises(InputError, match=r"metric must be one of .*, not 'loss'"):
        draw(results, metric="loss")


def test_capacity_curve_rising_to_the_largest_teacher_has_no_ring():
    results = tables.results_table(MLPS)
    results["accuracy"] = 0.6 + 1e-8 * results["params"].fillna(0)
    ax = plots.capacity_curve(results)
    assert not [line for line in ax.lines if line.get_markerfacecolor() == "none"]


def test_capacity_curve_shows_the_teachers_in_a_panel_above():
    probes = tables.probes_table(RESNETS, seeds=2)
    only_a = [teacher for teacher in RESNETS if teacher[0] == "A"]
    ax = plots.capacity_curve(tables.results_table(only_a), teachers=probes)
    above = ax.figure.axes[0]
    (line,) = [line for line in above.lines if line.get_marker() == "o"]
    own = probes[(probes["probe"] == "accuracy") & (probes["family"] == "A")]
    np.testing.assert_allclose(line.get_ydata(), seed_means(own), err_msg="B/resnet20 must not mix into A's resnet20")
    with pytest.raises(InputError, match=r"ax .*teachers"):
        plots.capacity_curve(tables.results_table(MLPS), teachers=probes, ax=ax)


def test_capacity_grid_has_a_panel_a_setting_with_the_numbers_of_the_curve():
    results, probes = tables.results_table(MLPS), tables.probes_table(MLPS)
    axes = plots.capacity_grid(results, teachers=probes)
    taught = results[(results["method"] != "CE") & (results["split"] == "test")]
    settings = list(dict.fromkeys(taught["label"]))
    titles = [ax.get_title(loc="left").split("\n") for ax in axes]
    shown = [setting.replace("tau=", "τ=") for setting in settings]
    assert [title[0] for title in titles] == [*shown, "the teachers themselves"]
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
    with pytest.raises(InputError, match=r"\['CE'\]"):
        plots.capacity_grid(results[results["method"] == "CE"])


def test_capacity_curve_wants_one_student():
    results = tables.results_table(MLPS[:3], students=("mlp12", "mlp24"))
    with pytest.raises(InputError, match=r"student.*\['mlp12', 'mlp24'\]"):
        plots.capacity_curve(results)
    drawn = plots.drawn_data(plots.capacity_curve(results, student="mlp24"))
    rows = results[(results["student"] == "mlp24") & (results["split"] == "test") & (results["method"] != "CE")]
    expected = rows.groupby(["label", "teacher"])["accuracy"].mean()
    got = drawn[drawn["setting"] != "CE"].set_index(["setting", "label"])["mean"]
    np.testing.assert_allclose(got.sort_index(), expected.sort_index())
    with pytest.raises(InputError, match=r"\['CE'\]"):
        plots.capacity_curve(results[results["method"] == "CE"], student="mlp24")


def test_variance_is_never_alone():
    probes = tables.probes_table()
    axes = plots.variance_vs_capacity(probes, quantity="derived_variance")
    names = [plots.drawn_data(ax)["probe"].unique().tolist() for ax in axes]
    assert names == [["derived_variance"], ["inherent_variance"], ["target_prob"]]
    _, ax = plt.subplots()
    with pytest.raises(InputError, match="quantity="):
        plots.variance_vs_capacity(probes, ax=ax)
    with pytest.raises(InputError, match="'derived_std'"):
        plots.variance_vs_capacity(probes, quantity="derived_sdt")


def test_variance_vs_capacity_lines_hold_the_table():
    probes = tables.probes_table()
    _, ax = plt.subplots()
    assert plots.variance_vs_capacity(probes, ax=ax, quantity="derived_std", taus=[2, 8]) is ax
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(MLPS)]
    for line, tau in zip(lines, (2, 8), strict=True):
        rows = probes[(probes["probe"] == "derived_std") & (probes["tau"] == tau)]
        np.testing.assert_allclose(line.get_ydata(), seed_means(rows))
    assert len([line for line in ax.lines if len(line.get_xdata()) == 2 * len(MLPS)]) == 2  # single runs, faint


def test_variance_vs_temperature_takes_the_smallest_and_the_largest():
    probes = tables.probes_table(taus=[0.5, 1, 2, 3, 4, 6, 8, 16])
    axes = plots.variance_vs_temperature(probes)
    for ax, name in zip(axes, ["derived_average", "derived_std", "inherent_variance", "target_prob"], strict=True):
        rows = probes[(probes["probe"] == name) & probes["teacher"].isin(["mlp12", "mlp1024"])]
        means = rows.groupby(["teacher", "tau"])["value"].mean()
        lines = [line for line in ax.lines if len(line.get_xdata()) == 8]
        for line, teacher in zip(lines, ["mlp12", "mlp1024"], strict=True):
            np.testing.assert_allclose(line.get_xdata(), means[teacher].index)
            np.testing.assert_allclose(line.get_ydata(), means[teacher])
    with pytest.raises(InputError, match=r"label of the probes table must be one of .*'mlp1024'.*, not 'mlp13'"):
        plots.variance_vs_temperature(probes, teachers=["mlp13"])


def test_restored_rows_join_the_temperature_panels():
    restored = tables.restored_table()
    axes = plots.variance_vs_temperature(tables.probes_table(), restored=restored, teachers=["mlp48"])
    drawn = plots.drawn_data(axes[1])
    rows = restored[(restored["teacher"] == "mlp48") & (restored["quantity"] == "derived_std")]
    for method in ("ATS", "ISATS"):
        expected = rows[rows["method"] == method].groupby("tau_other", dropna=False)["value"].mean()
        np.testing.assert_allclose(drawn[drawn["method"] == method]["mean"], expected)


def test_heatmap_cells_are_means_and_the_best_is_framed():
    results = tables.temperature_grid_table()
    ax = plots.temperature_heatmap(results)
    expected = results.groupby(["tau_other", "tau"])["accuracy"].mean().unstack() * 100
    np.testing.assert_allclose(ax.collections[0].get_array(), expected)
    row, column = np.unravel_index(np.argmax(expected), expected.shape)
    frame = next(patch for patch in ax.patches if isinstance(patch, matplotlib.patches.Rectangle))
    assert frame.get_xy() == (column, row)
    assert ax.get_ylim() == (0, len(expected)), "small temperatures stand below"


def test_heatmap_leaves_incomplete_cells_blank_and_refuses_mixed_settings():
    results = tables.temperature_grid_table(MLPS[-2:])
    gone = (results["teacher"] == "mlp768") & (results["tau"] == 2) & (results["tau_other"] == 1)
    ax = plots.temperature_heatmap(results[~gone])
    image = np.ma.filled(ax.collections[0].get_array(), np.nan)
    assert np.isnan(image).sum() == 1 and np.isnan(image[1, 1])
    mixed = pd.concat([results.assign(weight=0.5), results.assign(weight=0.9)])
    with pytest.raises(InputError, match=r"weight.*\[0.5, 0.9\]"):
        plots.temperature_heatmap(mixed)
    with pytest.raises(InputError, match=r"method 'DKD'.*\['ATS'\]"):
        plots.temperature_heatmap(results, method="DKD")


def test_probe_vs_student_places_each_teacher_at_its_means():
    probes, results = tables.probes_table(RESNETS), tables.results_table(RESNETS)
    ax = plots.probe_vs_student(
        probes, results, probe="derived_std", tau=4, label="KD tau=4", links=tables.links_table()
    )
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
    probes, results = tables.probes_table(), tables.results_table()
    kd = {"probe": "derived_std", "tau": 4, "label": "KD tau=4"}
    nameless = results.assign(family="")
    got, expected = (plots.probe_vs_student(probes, frame, **kd) for frame in (nameless, results))
    pd.testing.assert_frame_equal(plots.drawn_data(got), plots.drawn_data(expected))
    above = plots.capacity_curve(nameless, teachers=probes).figure.axes[0]
    assert len(above.lines[0].get_xdata()) == len(MLPS)


def test_grid_has_short_titles_and_a_key_to_the_teachers():
    probes, results = tables.probes_table(), tables.results_table()
    chosen = ["derived_std", "inherent_variance", "nll", "accuracy"]
    links = pd.concat([tables.links_table(probe, np.nan if probe in ("nll", "accuracy") else 4.0) for probe in chosen])
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
    keys = [f"{number} {teacher}" for number, (_, teacher, _) in enumerate(MLPS, 1)]
    assert [text.get_text() for text in legend.get_texts()] == keys
    for ax in axes:
        assert sorted(text.get_text() for text in ax.texts) == [str(number) for number in range(1, 9)]
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
    probes, results = tables.probes_table(), tables.results_table()
    with pytest.raises(InputError, match="probe 'derivedstd'"):
        plots.probe_vs_student(probes, results, probe="derivedstd", tau=4, label="KD tau=4")
    with pytest.raises(InputError, match=r"tau 3.*\[1.0, 2.0, 4.0, 8.0\]"):
        plots.probe_vs_student(probes, results, probe="derived_std", tau=3, label="KD tau=4")
    with pytest.raises(InputError, match=r"tau.*\[1.0, 2.0, 4.0, 8.0\]"):
        plots.probe_vs_student(probes, results, probe="derived_std", label="KD tau=4")
    with pytest.raises(InputError, match=r"label.*KD tau=4.*DKD tau=4"):
        plots.probe_vs_student(probes, results, probe="derived_std", tau=4)
    with pytest.raises(InputError, match=r"2 .*'nll'.* 1"):
        plots.probe_vs_student(probes[probes["teacher"] == "mlp12"], results, probe="nll", label="KD tau=4")
    with pytest.raises(InputError, match="chosen"):
        plots.probe_vs_student_grid(probes, results, chosen=[])
    assert not plt.get_fignums()


def test_rank_matrix_has_the_noise_floor_on_its_diagonal():
    ranks = tables.ranks_table(MLPS[:4], seeds=3)
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
    ax = plots.rank_matrix(tables.ranks_table(MLPS[:4], seeds=1))
    assert len([patch for patch in ax.patches if patch.get_hatch() and not patch.get_label()]) == 4
    told = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert told == ["one run: no floor of its own"]
    ax.figure.canvas.draw()
    with pytest.raises(InputError, match="metric 'tau_c'"):
        plots.rank_matrix(tables.ranks_table(MLPS[:3]), metric="tau_c")


def test_rank_distribution_counts_steps_within_families():
    drawn = plots.drawn_data(plots.rank_distribution(tables.ranks_table(RESNETS)))
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
    affinity = tables.affinity_table(MLPS, classes=12)
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
    axes = plots.affinity_map(tables.affinity_table(MLPS[:1], classes=9))
    image = np.ma.filled(axes[0, 0].images[0].get_array(), 0.0)
    near, far = np.diagonal(image, 1), np.diagonal(image, 5)
    assert np.median(near) > 2 * np.median(far)


def test_a_hundred_classes_have_no_names_and_ten_do():
    with plots.figure_style("icml"):
        assert not plots.affinity_map(tables.affinity_table(MLPS[:2], classes=100))[0, 0].get_yticklabels()
        assert len(plots.affinity_map(tables.affinity_table(MLPS[:2], classes=10))[0, 0].get_yticklabels()) == 10


def test_logit_statistics_and_reliability_hold_their_tables():
    probes, bins = tables.probes_table(), tables.reliability_table(MLPS[:2])
    names = ["target_logit", "max_wrong_logit", "logit_std", "confidence"]
    for ax, name in zip(plots.logit_statistics(probes), names, strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), seed_means(probes[probes["probe"] == name]))
    ax = plots.reliability_diagram(bins, teachers=["mlp24"])
    filled = bins[(bins["teacher"] == "mlp24") & (bins["n"] > 0)]
    line = next(line for line in ax.lines if len(line.get_xdata()) == len(filled))
    np.testing.assert_allclose(line.get_xydata(), filled[["confidence", "accuracy"]])


def test_isats_restored_draws_every_quantity_of_each_setting():
    restored = tables.restored_table()
    axes = plots.isats_restored(restored, tau_others=[2])
    names = ["derived_std", "inherent_variance", "target_prob", "flipped", "overtaken"]
    for ax, name in zip(np.delete(axes, 3), names, strict=True):
        drawn = plots.drawn_data(ax)
        assert list(drawn["setting"].unique()) == ["TS", "ATS other tau=2", "ISATS order m=1"]
        rows = restored[(restored["quantity"] == name) & (restored["method"] == "ISATS")]
        np.testing.assert_allclose(drawn[drawn["setting"] == "ISATS order m=1"]["mean"], seed_means(rows))
    medians = restored[restored["quantity"] == "tau_other_q50"]
    np.testing.assert_allclose(axes[3].lines[0].get_ydata(), seed_means(medians))
    with pytest.raises(InputError, match=r"tau_other \[5\].*\[1.0, 2.0, 3.0\]"):
        plots.isats_restored(restored, tau_others=[5])
    with pytest.raises(InputError, match=r"quantity \['flipped'\]"):
        plots.isats_restored(restored[restored["quantity"] != "flipped"])


def test_dark_knowledge_shows_the_wrong_classes_and_tells_the_target():
    example = tables.dark_knowledge_table()
    axes = plots.dark_knowledge(example, image=np.zeros((4, 4)), top=5)
    assert len(axes) == 2 and len(axes[0].figure.axes) == 3
    assert "cat" not in [label.get_text() for label in axes[0].get_yticklabels()]
    drawn = plots.drawn_data(axes[0])
    rows = example[(example["teacher"] == "mlp12") & ~example["is_target"]]
    rows = rows.set_index(["method", "class"])["probability"]
    for row in drawn.itertuples():
        assert row.probability == rows[row.method, row[drawn.columns.get_loc("class") + 1]]
    marks = np.concatenate([line.get_xdata() for line in axes[0].lines])
    np.testing.assert_allclose(sorted(marks), sorted(drawn["probability"]))
    assert axes[0].figure.axes[0].get_title() == "cat"
    assert axes[0].figure.legends[0].get_title().get_text() == "true class: cat"
    target = example[example["is_target"] & example["teacher"].eq("mlp12")].set_index("method")["probability"]
    told = ", ".join(f"{method} {value:.2f}" for method, value in target.items())
    assert axes[0].get_title().split("\n")[1] == f"$p_y$: {told}"
    with pytest.raises(InputError, match="0 for 'mlp12' and 'TS'"):
        plots.dark_knowledge(example.assign(is_target=False))


@pytest.mark.parametrize("sign", [1, -1])
def test_pick_chart_has_the_first_row_on_top_and_marks_ties(sign):
    table = tables.choice_table()[::sign]  # a rule such as "lowest nll" has the lowest score first
    axes = plots.pick_chart(table)
    assert len(axes) == 3
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names[::-1] == list(table["teacher"])
    drawn = plots.drawn_data(axes[0])
    fills = next(c for c in axes[0].collections if len(c.get_offsets()) == len(table)).get_facecolors()[:, :3]
    assert [tuple(fill) == to_rgb(_style.BLUE) for fill in fills] == list(drawn["tie"])


@pytest.mark.parametrize("how", ["absent", "nan"])
def test_pick_chart_without_results_has_scores_alone(how):
    table = tables.choice_table(with_results=False)
    if how == "nan":
        table = table.assign(p_best=np.nan, regret=np.nan)
    assert len(plots.pick_chart(table)) == 1
    _, ax = plt.subplots()
    assert plots.pick_chart(tables.choice_table(), ax=ax)[0] is ax


def test_the_front_is_filled_and_its_line_is_the_best_up_to_each_cost():
    table = tables.front_table()
    ax = plots.pareto_front(table)
    taught = table[table["teacher"].ne("")].sort_values("params")
    line = next(line for line in ax.get_lines() if len(line.get_xdata()) > 2)
    steps = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    for cost, best in zip(taught["params"], taught["accuracy"].cummax(), strict=True):
        assert steps[max(x for x in steps if x <= cost)] == pytest.approx(best)
    shown = [text.get_text() for text in ax.texts]
    assert sorted(shown) == sorted(taught.loc[taught["on_front"].astype(bool), "teacher"])
    drawn = plots.drawn_data(ax)
    assert set(drawn["label"]) == {"CE", *taught["teacher"]}
    with pytest.raises(InputError, match="cost 'macs' of no teacher"):
        plots.pareto_front(table.assign(macs=np.nan), cost="macs")


def test_reliability_bars_are_wilson_intervals_over_the_examples():
    bins = tables.reliability_table(MLPS[:2]).query("teacher == 'mlp24'")
    drawn = plots.drawn_data(plots.reliability_diagram(bins))
    for row in drawn.itertuples():
        low, high = proportion_confint(row.accuracy * row.n, row.n, method="wilson")
        assert (row.low, row.high) == pytest.approx((low, high))


def test_bins_of_few_examples_are_faint_and_not_joined():
    bins = tables.reliability_table(MLPS[:2]).query("teacher == 'mlp24'")
    bins.loc[bins["bin_low"].between(0.35, 0.45), "n"] = 3
    ax = plots.reliability_diagram(bins)
    line, few = (line for line in ax.lines[1:])
    assert np.isnan(line.get_ydata()).sum() == 1, "the line is broken there"
    assert len(few.get_xdata()) == 1 and few.get_alpha() == 0.5 and few.get_linestyle() == "None"
    (bars,) = [bars for bars in ax.collections if isinstance(bars, LineCollection)]
    assert sum(len(segment) > 0 and np.isfinite(segment).all() for segment in bars.get_segments()) == 8


def test_reliability_counts_stand_below_and_runs_are_averaged():
    bins = pd.concat([tables.reliability_table(MLPS[:2]).assign(seed=seed) for seed in (0, 1)])
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
    table = tables.choice_table().drop(columns=columns)
    axes = plots.pick_chart(table, **options)
    assert axes[0].get_xlabel() == name
    points = next(c for c in axes[0].collections if len(c.get_offsets()) == len(table)).get_offsets()
    np.testing.assert_allclose(points[::-1, 0], scale * table["score"])
    assert [ax.get_xlabel() for ax in axes[1:]] == ["P(best)\n(%)", "regret\n(points)"]


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
    with pytest.raises(InputError, match=naming("4 done", "3 runs", "'CE'")):
        plots.study_progress(status.assign(done=4))


def test_fidelity_has_a_panel_a_measure_with_means_over_runs():
    results = tables.with_fidelity(tables.results_table(MLPS))
    axes = plots.fidelity_vs_capacity(results, measures=["fidelity", "train_kl"])
    drawn = plots.drawn_data(axes[0].figure)
    assert set(drawn["measure"]) == {"fidelity", "train_kl"}
    setting = drawn["setting"].iloc[0]
    rows = results[results["label"].eq(setting) & results["split"].eq("test")]
    wanted = rows.groupby("params")["train_kl"].mean().to_numpy()
    mine = drawn[drawn["setting"].eq(setting) & drawn["measure"].eq("train_kl")]
    np.testing.assert_allclose(mine["mean"], wanted)
    for changes in ({"measures": ["speed"]}, {"labels": ["none"]}):
        with pytest.raises(InputError):
            plots.fidelity_vs_capacity(results, **changes)
    with pytest.raises(InputError):
        plots.fidelity_vs_capacity(results.assign(fidelity=np.nan))
