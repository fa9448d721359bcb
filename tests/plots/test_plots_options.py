"""What every figure takes besides its own options: colours, names, legends, a figure to draw into, and sources."""

from __future__ import annotations

import ast
import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tables
from drawing import FIGURES, draw, figure_of, texts_of
from matplotlib.colors import to_hex
from numpydoc.docscrape import FunctionDoc

from capmismatch import plots
from capmismatch.errors import InputError
from capmismatch.plots import _style
from capmismatch.plots._common import ladders
from capmismatch.plots._options import ADDED

TEACHERS = tables.RESNETS[:4] + tables.RESNETS[6:8]
HELPERS = {"FigureStyle", "attach", "drawn_data", "figure_style", "file_name", "save"}
PLOTS = sorted(set(plots.__all__) - HELPERS)
HEATMAPS = {"temperature_heatmap", "rank_matrix", "affinity_map"}  # what they show has no legend of colours
NAMELESS = {
    "fidelity_vs_capacity",
    "learning_curves",
    "variance_vs_capacity",
    "logit_statistics",
    "rank_distribution",
} | {*("capacity_curve", "capacity_curve alone", "capacity_grid", "temperature_heatmap", "isats_restored")}
"""Figures that show no teacher by name."""


def drawn_with(name, **options):
    """One figure from synthetic tables, with options of all figures."""
    function = name.split()[0]
    plain = getattr(plots, function)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, function, lambda *args, **own: plain(*args, **own, **options))
        return draw(name, TEACHERS)


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_takes_and_documents_the_shared_options(name):
    function = getattr(plots, name)
    parameters = inspect.signature(function).parameters
    assert set(ADDED) <= set(parameters)
    documented = [each for entry in FunctionDoc(function)["Parameters"] for each in entry.name.split(", ")]
    assert documented == [*parameters]
    assert len([drawn for drawn in FIGURES if drawn.split()[0] == name]) >= 1, "is among the figures of all tests"


ENTRY = {
    **dict.fromkeys(
        ["capacity_curve", "capacity_curve alone", "capacity_grid", "fidelity_vs_capacity", "learning_curves"], "KD"
    ),
    **dict.fromkeys(["variance_vs_temperature", "probe_vs_student", "probe_vs_student_grid"], "resnet8"),
    **{"forest": "family", "variance_vs_capacity": "τ=4", "rank_distribution": "pair in a family"},
    **{"logit_statistics": "A", "reliability_diagram": "resnet8", "isats_restored": "ISATS", "dark_knowledge": "TS"},
    **{"pick_chart": "worse", "pareto_front": "Pareto front", "study_progress": "done"},
}
"""What each figure shows in a colour of its own, by name."""


@pytest.mark.parametrize("name", FIGURES)
def test_a_subfigure_keeps_its_size_and_a_legend_of_the_users_has_the_same_entries(name):
    figure = plt.figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    drawn = drawn_with(name, figure=right)
    figure.draw_without_rendering()
    assert tuple(figure.get_size_inches()) == (12, 5) and plt.get_fignums() == [figure.number]
    assert not left.axes and all(ax in right.axes for ax in np.ravel(np.asarray(drawn, dtype=object)))
    assert right.bbox.width == pytest.approx(left.bbox.width)
    own = [*right.legends, *(ax.get_legend() for ax in right.axes if ax.get_legend())]
    entries = {text.get_text() for legend in own for text in legend.get_texts()}

    colours = {ENTRY[name]: "#123456", "somebody of another figure": "red"} if name not in HEATMAPS else None
    without = drawn_with(name, legend=False, colors=colours)
    figure = figure_of(without).figure
    ax = np.ravel(np.asarray(without, dtype=object))[0]
    assert not figure.legends and not any(panel.get_legend() for panel in figure.axes)
    names = ax.get_legend_handles_labels()[1]
    more = {"capacity_grid", "probe_vs_student_grid", "probe_vs_student", "forest", "logit_statistics"}
    assert entries <= set(names) if name in more else entries == set(names), "ax.legend() makes the same one"
    assert len(names) == len(set(names))
    used = {to_hex(color) for artist in ax.get_children() for color in _colours(artist)}
    assert name in HEATMAPS or "#123456" in used


def _colours(artist):
    for what in ("get_color", "get_facecolor", "get_edgecolor"):
        if hasattr(artist, what):
            colour = getattr(artist, what)()
            rows = np.atleast_2d(np.asarray(colour, float)) if not isinstance(colour, str) else [colour]
            yield from (row for row in rows if len(row))


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in NAMELESS])
def test_teachers_are_shown_by_the_names_that_were_asked_for(name):
    if name == "forest":
        names = {"letters": "UCI letters"}
    elif name == "dark_knowledge" or name == "study_progress":
        names = {"mlp12": "MLP-12"}
    elif name == "pareto_front":
        names = {"resnet8": "ResNet-8"}
    else:
        names = {"resnet8": "ResNet-8"}
    drawn = drawn_with(name, labels={**names, "somebody of another figure": "X"})
    shown = " ".join(text.get_text() for text in texts_of(figure_of(drawn).figure))
    (new,) = names.values()
    assert new in shown
    table = plots.drawn_data(figure_of(drawn)).astype(str)
    assert new not in table.to_numpy().ravel(), "the data keep the names of the table"


def test_names_that_nothing_has_are_refused_and_a_function_names_teachers():
    for option in ({"labels": {"nobody": "X"}}, {"colors": {"nobody": "red"}}):
        with pytest.raises(InputError, match="nobody"):
            drawn_with("pick_chart", **option)
        assert not plt.get_fignums(), "an error leaves no figure open"
    ax = drawn_with("pick_chart", labels=str.upper)[0]
    assert "RESNET8" in {text.get_text() for text in ax.get_yticklabels()}


def test_a_full_name_names_a_teacher_and_settings_have_names_too():
    results, probes = tables.results_table(TEACHERS), tables.probes_table(TEACHERS)
    ax = plots.probe_vs_student(probes, results, probe="nll", label="KD tau=4", labels={"B/resnet20": "mine"})
    assert {"mine", "A/resnet20"} <= {text.get_text() for text in ax.texts}
    ax = plots.capacity_curve(results, labels={"KD tau=4": "classic"}, colors={"KD": "black"})
    (line,) = [line for line in ax.lines if line.get_label().startswith("classic")]
    assert to_hex(line.get_color()) == "#000000"


def test_palettes_and_places_of_legends():
    results = tables.results_table(tables.MLPS[:4])
    ax = plots.capacity_curve(results, palette=["#111111", "#222222", "#333333", "#444444"], legend="lower right")
    assert [to_hex(line.get_color()) for line in ax.get_legend().get_lines()][:4] == [
        "#111111",
        "#222222",
        "#333333",
        "#444444",
    ]
    assert not ax.figure.legends
    axes = plots.capacity_grid(results, legend={"loc": "outside right upper", "title": "what"})
    assert axes[0].figure.legends[0].get_title().get_text() == "what"
    ax = plots.rank_matrix(tables.ranks_table(tables.MLPS[:3]), palette="magma")
    assert ax.collections[0].get_cmap().name == "magma"


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"colors": {"KD": "no colour"}}, "no colour"),
        ({"colors": "viridis"}, "palette"),
        ({"palette": "no palette"}, "no palette"),
        ({"palette": []}, "palette"),
        ({"labels": 3}, "3"),
        ({"legend": 7}, "7"),
        ({"legend": "nowhere"}, "nowhere"),
        ({"figure": "mine"}, "str"),
    ],
)
def test_wrong_options_are_told(option, word):
    with pytest.raises(InputError, match=word):
        plots.capacity_curve(tables.results_table(tables.MLPS[:3]), **option)
    assert not plt.get_fignums()


class Source:
    """Tables by their names, as a study or a diagnosis gives them to figures."""

    def __init__(self, **given):
        self.given = given

    def plot_table(self, name):
        return self.given.get(name)


def test_figures_take_sources_of_tables():
    probes, results = tables.probes_table(), tables.results_table()
    source = Source(probes=probes, results=results, pick=tables.choice_table())
    ax = plots.capacity_curve(source)
    expected = plots.drawn_data(plots.capacity_curve(results, teachers=probes).figure)
    assert plots.drawn_data(ax.figure).equals(expected)
    _, alone = plt.subplots()
    assert len(plots.capacity_curve(source, ax=alone).figure.axes) == 1
    points = plots.drawn_data(plots.probe_vs_student(source, probe="nll", label="KD tau=4"))
    assert len(points) == len(tables.MLPS)
    assert len(plots.pick_chart(source)) == 3
    with pytest.raises(InputError, match="'ranks'"):
        plots.rank_matrix(source)
    with pytest.raises(InputError, match="list"):
        plots.rank_matrix([1, 2])
    with pytest.raises(InputError, match="ax or figure"):
        plots.capacity_curve(results, ax=alone, figure=alone.figure)


def test_lines_join_teachers_of_one_ladder():
    wide = ["wrn16_1", "wrn16_2", "wrn16_4", "wrn40_2"]
    assert ladders(wide) == dict(zip(wide, ["wrn16_#"] * 3 + ["wrn40_#"], strict=True))
    assert set(ladders(["vit_tiny", "vit_small"]).values()) == {""}
    assert len(set(ladders(["A/resnet20", "resnet56", "mlp3"]).values())) == 2
    ax = plots.capacity_curve(tables.results_table([*TEACHERS, ("B", "wrn16_1", 4e5), ("B", "wrn16_2", 1.6e6)]))
    line = next(line for line in ax.lines if len(line.get_xdata()) == 5)  # of B: two of each ladder and a gap
    assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [2]


def test_the_noise_floor_of_other_teachers_is_drawn():
    ranks, twice = tables.ranks_table(tables.MLPS[:4], seeds=1), tables.ranks_table(tables.MLPS[4:6], seeds=2)
    same = twice[twice["teacher_a"] == twice["teacher_b"]]["value"].mean()
    for floor in (twice, same):
        ax = plots.rank_distribution(ranks, floor=floor)
        (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
        np.testing.assert_allclose(line.get_ydata(), same)
    ax = plots.rank_matrix(ranks, floor=twice)
    (line,) = [line for line in ax.collections[0].colorbar.ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(line.get_ydata(), same)
    for wrong in (1.5, ranks):
        with pytest.raises(InputError):
            plots.rank_distribution(ranks, floor=wrong)


def test_venues_have_their_fonts_first(monkeypatch):
    monkeypatch.setattr(_style.font_manager, "get_font_names", lambda: ["Arial", "Helvetica", "DejaVu Sans"])
    assert plots.figure_style("nature")["font.family"][:2] == ["Arial", "Helvetica"]
    monkeypatch.setattr(_style.font_manager, "get_font_names", lambda: ["DejaVu Sans"])
    assert plots.figure_style("nature")["font.family"] == ["DejaVu Sans"]
    style = plots.figure_style("icml")
    assert {style[name] for name in ("xtick.labelsize", "legend.fontsize", "axes.labelsize")} == {8}


@pytest.mark.parametrize("name", PLOTS)
def test_wrong_axes_are_told_by_the_figure(name):
    function = getattr(plots, name)
    for wrong in (3, plt.figure().subplots(1, 2)):
        with pytest.raises(InputError, match=f"{name} .*figure="):
            function(pd.DataFrame(), ax=wrong)
    if "ax" not in inspect.signature(function).parameters:
        with pytest.raises(InputError, match=f"{name} takes no ax"):
            function(pd.DataFrame(), ax=None)


@pytest.mark.parametrize("name", ["capacity_curve", "probe_vs_student_grid", "isats_restored"])
def test_an_error_lists_only_names_that_are_options(name):
    with pytest.raises(InputError, match="somebody") as caught:
        drawn_with(name, labels={"somebody": "X"})
    names = ast.literal_eval(str(caught.value).partition("it shows ")[2])
    assert names and all(names) and len(names) == len(set(names))
    assert not [text for text in names if "from peak" in text or text[:2] in {"1 ", "2 "}]
    for each in names:
        drawn_with(name, labels={each: "X"})


def test_a_figure_without_colours_by_name_says_so_and_none_keeps_a_name():
    ranks = tables.ranks_table(tables.MLPS[:3])
    with pytest.raises(InputError, match="palette="):
        plots.rank_matrix(ranks, colors={"zz": "red"})
    ax = drawn_with("pick_chart", labels=lambda name: None)[0]
    assert "resnet8" in {text.get_text() for text in ax.get_yticklabels()}
