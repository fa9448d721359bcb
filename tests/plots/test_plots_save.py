"""Styles of venues, and what is written of a figure: pictures, rows, names and formulas."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import time

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tables
from drawing import FIGURES, draw, figure_of
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from capmismatch import plots
from capmismatch.distillation.methods import METHODS
from capmismatch.errors import CapmismatchError, InputError
from capmismatch.plots import _style
from capmismatch.plots._save import LATEX
from capmismatch.probes import REGISTRY

MLPS, RESNETS = tables.MLPS, tables.RESNETS


@pytest.mark.parametrize(
    ("venue", "column", "text"),
    [
        ("neurips", 5.5, 5.5),
        ("icml", 3.25, 6.75),
        ("iclr", 5.5, 5.5),
        ("jmlr", 6.0, 6.0),
        ("aistats", 3.25, 6.75),
        ("aaai", 3.3, 6.975),
        ("acl", 3.03, 6.3),
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
    with pytest.raises(InputError, match="'neurips'"):
        plots.figure_style("neuripss")
    with pytest.raises(InputError, match=r"\['column', 'text'\]"):
        plots.figure_style("icml", "half")
    with pytest.raises(InputError, match="-1"):
        plots.figure_style("icml", -1)


def test_built_in_widths_agree_with_tueplots():
    pytest.importorskip("tueplots")
    for venue in ("neurips", "iclr", "jmlr", "icml", "aistats", "aaai", "cvpr"):
        theirs, ours = _style._from_tueplots(venue), _style.VENUES[venue]
        assert (theirs.column, theirs.text) == (ours.column, ours.text)
        assert venue not in ("neurips", "icml", "cvpr") or theirs.size == ours.size
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
        with pytest.raises(InputError, match="name"):
            plots.file_name(name)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    ax = plots.study_progress(tables.status_table())
    before = plots.save(ax, tmp_path / "figure")[0].read_bytes()

    def broken(canvas, file, **_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.backends.backend_pdf.FigureCanvasPdf.print_pdf", broken)
    with pytest.raises(CapmismatchError, match="disk full"):
        plots.save(ax, tmp_path / "figure")
    assert (tmp_path / "figure.pdf").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_pictures_are_those_that_savefig_writes(tmp_path):
    ax = draw("forest", MLPS)
    figure, dpi = ax.figure, ax.figure.dpi
    direct = plots.save(ax, tmp_path / "direct", formats=["png", "pdf"])
    assert figure.dpi == dpi and figure.canvas.figure is figure
    with matplotlib.rc_context({"savefig.facecolor": figure.get_facecolor()}):  # what is asked of `savefig` goes there
        saved = plots.save(ax, tmp_path / "saved", formats=["png", "pdf"])
    assert [file.read_bytes() for file in direct] == [file.read_bytes() for file in saved]


def test_pgf_without_latex_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="LaTeX"):
        plots.save(draw("forest", MLPS), tmp_path / "forest", formats=["pdf", "pgf"])
    assert not list(tmp_path.iterdir())


def test_pgf_of_a_figure_with_an_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    axes = draw("forest", MLPS)
    axes.imshow([[0.0, 1.0]])
    with pytest.raises(InputError, match="image"):
        plots.save(axes, tmp_path / "forest", formats=["pgf"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, LATEX)), reason="needs LaTeX")
@pytest.mark.parametrize("name", ["capacity_curve", "rank_matrix"])
def test_latex_typesets_the_pgf(name, tmp_path):
    plots.save(draw(name, MLPS), tmp_path / "figure", formats=["pgf"])
    page = r"\documentclass{article}\usepackage{pgf}\begin{document}\input{figure.pgf}\end{document}"
    (tmp_path / "page.tex").write_text(page)
    latex = next(filter(shutil.which, LATEX))
    done = subprocess.run([latex, "-interaction=nonstopmode", "page.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_drawn_data_wants_a_drawn_figure():
    figure, ax = plt.subplots()
    for target in (figure, ax):
        with pytest.raises(InputError, match="drawn"):
            plots.drawn_data(target)
    with pytest.raises(InputError, match="2 figures"):
        plots.save(np.array([ax, plt.subplots()[1]]), "nowhere", table=pd.DataFrame())


def test_names_that_a_spreadsheet_would_run(tmp_path):
    ax = plt.subplots()[1]
    plots.attach(ax, pd.DataFrame({"teacher": ["=1+1", "-net", "mlp"], "value": [-1.5, 2.0, 3.0]}))
    csv = plots.save(ax, tmp_path / "figure")[2]
    assert csv.read_text() == "panel,teacher,value\n0,'=1+1,-1.5\n0,'-net,2.0\n0,mlp,3.0\n"


def test_png_has_300_dots_per_inch(tmp_path):
    with plots.figure_style("icml"):
        png = plots.save(draw("study_progress", MLPS), tmp_path / "p")[1]
    assert plt.imread(png).shape[1] == 975


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


def test_plots_do_not_import_torch():
    code = "import sys, capmismatch.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------------- from a number to its formula

DRAWN_PROBES = {
    "capacity_curve": {"accuracy"},
    "capacity_grid": {"accuracy"},
    "variance_vs_capacity": {"derived_std", "inherent_variance", "target_prob"},
    "variance_vs_temperature": {"derived_average", "derived_std", "inherent_variance", "target_prob"},
    "isats_restored": {"derived_std", "inherent_variance", "target_prob"},
    "probe_vs_student": {"derived_std"},
    "probe_vs_student_grid": {"derived_std", "inherent_variance", "target_prob", "accuracy"},
    "logit_statistics": {"target_logit", "max_wrong_logit", "logit_std", "confidence"},
    "reliability_diagram": {"accuracy", "confidence"},
    "dark_knowledge": {"target_prob"},
}


@pytest.mark.parametrize("name", FIGURES)
def test_drawn_data_hold_the_formula_of_each_probe(name):
    drawn = draw(name, MLPS[:4])
    formulas = plots.drawn_data(figure_of(drawn)).attrs.get("probes", {})
    assert set(formulas) == DRAWN_PROBES.get(name, set())
    for probe, told in formulas.items():
        assert told == {"formula": REGISTRY[probe].formula, "source": REGISTRY[probe].source}


def test_each_panel_holds_its_own_formulas_and_a_pick_that_of_its_probe():
    axes = plots.variance_vs_capacity(tables.probes_table())
    assert [list(plots.drawn_data(ax).attrs["probes"]) for ax in axes] == [
        ["derived_std"],
        ["inherent_variance"],
        ["target_prob"],
    ]
    table = tables.choice_table(with_results=False)
    scores = [plots.pick_chart(table, probe=probe) for probe in ("nll", "params", None)]
    assert [list(plots.drawn_data(axes).attrs.get("probes", {})) for axes in scores] == [["nll"], [], []]
    by_students = plots.pick_chart(tables.choice_table(), probe="nll")
    assert "probes" not in plots.drawn_data(by_students).attrs, "the score is the students' accuracy"


def test_a_drawing_of_the_users_takes_part(tmp_path):
    _, ax = plt.subplots()
    rows = pd.DataFrame({"teacher": ["a", "b"], "probe": ["nll", "mine"], "value": [0.5, 0.2]})
    plots.attach(ax, rows, probes=["ece"])
    plots.attach(ax, rows.assign(probe="nll"))
    drawn = plots.drawn_data(ax)
    pd.testing.assert_frame_equal(drawn, pd.concat([rows, rows.assign(probe="nll")], ignore_index=True))
    assert list(drawn.attrs["probes"]) == ["nll", "ece"]
    pdf, png, _ = plots.save(ax, tmp_path / "mine")
    with Image.open(png) as picture:
        lines = dict(line.split(": ", 1) for line in picture.info["Formulas"].splitlines())
        assert "Description" not in picture.info
    assert lines == {name: f"{REGISTRY[name].formula} ({REGISTRY[name].source})" for name in ("nll", "ece")}
    assert b"/Subject" in pdf.read_bytes()


def test_each_method_has_a_look_of_its_own_in_every_figure():
    together = _style.setting_looks({name: name for name in [*METHODS, "TS", "Mine", "Yours"]})
    alone = {name: _style.setting_looks({name: name})[name] for name in together}
    assert together == alone
    assert len({(look["color"], look["marker"]) for look in together.values()}) == len(METHODS) + 2, "TS is as KD"
    assert set(METHODS) <= set(_style.METHOD_LOOKS)
