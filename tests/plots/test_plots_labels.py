"""Names and looks of teachers in figures: long names in short, one name and one colour in all of them, legible text."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import tables
from drawing import FIGURES, draw, figure_of, texts_of
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection, PathCollection
from PIL import Image
from scipy import stats

from capmismatch import plots
from capmismatch.plots import _style
from capmismatch.plots._labels import MOST, short_names

MLPS, RESNETS = tables.MLPS, tables.RESNETS


# -------------------------------------------------------------------------------------------------------- long names

LONG = [
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch16_clip_224.openai_ft_in12k_in1k",
    "vit_large_patch14_clip_224.openai_ft_in12k_in1k",
    "vit_large_patch14_clip_336.openai_ft_in12k_in1k",
    "vit_large_patch14_clip_336.laion2b_ft_in12k_in1k",
    "vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k",
    "convnext_xxlarge.clip_laion2b_soup_ft_in12k_in1k",
    "facebook/dinov2-large-imagenet1k-1-layer-finetuned",
    "microsoft/swinv2-large-patch4-window12to24-192to384",
    "google/mobilenet_v2_1.4_224-quantised-for-a-demonstration",
]
LONGS = [("imagenet", name, 1e6 * 2**place) for place, name in enumerate(LONG)]


def words(alphabet):
    return st.lists(st.text(alphabet, min_size=1, max_size=9), min_size=1, max_size=9).map("_".join)


@given(
    st.lists(st.one_of(words("ab1"), st.text("abc./-_… ", max_size=40)), max_size=12, unique=True),
    st.integers(4, 24),
    st.randoms(),
)
def test_short_names_stay_apart_whatever_their_order(names, most, random):
    shown = short_names(names, most)
    assert list(shown) == names and len(set(shown.values())) == len(names)
    assert all(shown[name] == name for name in names if len(name) <= most)
    random.shuffle(names)
    assert short_names(names, most) == shown


def test_short_names_keep_what_tells_teachers_apart():
    shown = short_names(LONG)
    assert max(map(len, shown.values())) <= MOST
    assert shown["vit_large_patch14_clip_336.openai_ft_in12k_in1k"] == "large…336.openai"
    assert shown["vit_tiny_patch16_224.augreg_in21k_ft_in1k"] == "tiny_patch16…augreg"
    for name, short in shown.items():
        places = [name.find(part) for part in short.split("…")]
        assert -1 not in places and places == sorted(places), "parts of the name, in its order"


LABELLED = [
    "rank_matrix",
    "affinity_map",
    "pick_chart",
    "probe_vs_student_grid",
    "variance_vs_temperature",
    "reliability_diagram",
]


@pytest.mark.parametrize(("venue", "width"), [("icml", "column"), ("default", "text")])
@pytest.mark.parametrize("name", [*LABELLED, "probe_vs_student", "capacity_curve alone", "dark_knowledge"])
def test_twelve_long_names_fit(name, venue, width):
    with plots.figure_style(venue, width):
        if name == "dark_knowledge":
            drawn = plots.dark_knowledge(tables.dark_knowledge_table(teachers=(LONG[0], LONG[-1])))
        elif name == "capacity_curve alone":  # the names stand on the axis where the sizes are unknown
            drawn = plots.capacity_curve(tables.results_table(LONGS).assign(params=np.nan))
        else:
            drawn = draw(name, LONGS)
        figure = figure_of(drawn)
        figure.draw_without_rendering()
        renderer, page, texts = figure.canvas.get_renderer(), figure.bbox.padded(1), texts_of(figure)
        for text in texts:
            box = text.get_window_extent(renderer)
            assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1), f"{text.get_text()!r} is clipped"
        assert figure.axes[0].get_window_extent(renderer).width > 0.15 * figure.bbox.width, "names leave the data room"
        titles = [ax.title.get_window_extent(renderer) for ax in figure.axes if ax.title.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(titles, 2))
        shown = {text.get_text() for text in texts}
        assert not shown & set(LONG)
        assert set(plots.drawn_data(figure).attrs["names"].values()) <= set(LONG)


def test_a_teacher_has_one_short_name_in_all_figures():
    with plots.figure_style("default"):
        for name in LABELLED:
            names = plots.drawn_data(figure_of(draw(name, LONGS))).attrs["names"]
            assert names == {short: name for name, short in short_names(LONG).items()}, name
        two = tables.dark_knowledge_table(teachers=(LONG[3], LONG[4])).assign(family="imagenet")
        axes = plots.dark_knowledge(two, among=tables.probes_table(LONGS, seeds=1))
    assert [ax.get_title().split("\n")[0] for ax in axes] == [short_names(LONG)[name] for name in LONG[3:5]]


def test_files_tell_the_full_names(tmp_path):
    pdf, png, csv = plots.save(draw("pick_chart", LONGS), tmp_path / "figure")
    with Image.open(png) as picture:
        told = dict(line.split(" = ") for line in picture.info["Description"].splitlines())
    assert told == {short: name for name, short in short_names(LONG).items()}
    assert b"/Subject" in pdf.read_bytes()
    assert set(pd.read_csv(csv)["teacher"]) == set(LONG)
    _, plain, _ = plots.save(draw("pick_chart", MLPS), tmp_path / "plain")
    with Image.open(plain) as picture:
        assert "Description" not in picture.info


# ------------------------------------------------------------------------------------- what an art editor looks at


@pytest.mark.parametrize("venue", ["icml", "nature"])
@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_smaller_than_six_points(name, venue):
    with plots.figure_style(venue):
        assert min(text.get_fontsize() for text in texts_of(figure_of(draw(name, RESNETS)))) >= 6


def test_a_teacher_has_one_colour_in_all_figures():
    kd = {"probe": "nll", "label": "KD tau=4"}
    probes, few = tables.probes_table(RESNETS), ["resnet8", "wrn16_4"]
    results = tables.results_table(RESNETS).query("teacher in @few")
    ax = plots.probe_vs_student(probes, results, **kd)
    dots = [dots for dots in ax.collections if isinstance(dots, PathCollection)]
    seen = {tuple(color) for one in dots for color in one.get_facecolors()}
    axes = plots.variance_vs_temperature(probes, teachers=few)
    assert {tuple(line.get_color()) for line in axes[0].lines if line.get_marker() != "."} == seen
    bins = tables.reliability_table(RESNETS).merge(probes[["family", "teacher", "params"]].drop_duplicates())
    ax = plots.reliability_diagram(bins, teachers=few)
    assert {tuple(line.get_color()) for line in ax.lines if line.get_linestyle() == "-"} == seen


def test_temperatures_and_teachers_have_other_colours():
    taus = _style.tau_looks(["τ=1", "τ=2", "τ=4", "τ=8"])
    teachers = _style.teacher_looks({teacher: family for family, teacher, _ in MLPS})
    assert not {look["color"] for look in taus.values()} & {look["color"] for look in teachers.values()}


def test_probe_vs_student_shows_the_interval_over_runs():
    probes, results = tables.probes_table(), tables.results_table(seeds=4)
    ax = plots.probe_vs_student(probes, results, probe="nll", label="KD tau=4")
    (bars,) = [bars for bars in ax.collections if isinstance(bars, LineCollection)]
    taught = results[(results["label"] == "KD tau=4") & (results["split"] == "test")]
    values = taught.groupby("teacher")["accuracy"]
    expected = {teacher: stats.t.interval(0.95, len(of) - 1, of.mean(), stats.sem(of)) for teacher, of in values}
    drawn = plots.drawn_data(ax)
    for segment, teacher in zip(bars.get_segments(), drawn["teacher"], strict=True):
        np.testing.assert_allclose(segment[:, 1], expected[teacher])


def test_affinity_maps_are_as_many_as_leave_room_for_names():
    with plots.figure_style("default"):
        shapes = {
            classes: plots.affinity_map(tables.affinity_table(MLPS, classes=classes)) for classes in (10, 26, 100)
        }
    assert {classes: axes.shape[1] for classes, axes in shapes.items()} == {10: 4, 26: 2, 100: 3}
    assert [len(axes[0, 0].get_yticklabels()) for axes in shapes.values()] == [10, 26, 0]
    for axes in shapes.values():
        assert axes[0, 0].get_ylabel() == "true class" and axes[1, -1].get_xlabel() == "wrong class"
