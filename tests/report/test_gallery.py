"""Which figures a study draws, in which order, and what their files say of them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tables as synthetic
from PIL import Image

from capmismatch import plots
from capmismatch.data.bank import bank_from_arrays
from capmismatch.errors import InputError
from capmismatch.report import gallery, page_figures
from capmismatch.study.config import IsatsConfig, RanksConfig

FILES = sorted(file.stem for file in Path(plots.__path__[0]).glob("[a-z]*.py"))


@pytest.mark.parametrize("name", FILES)
def test_a_figures_file_says_what_it_needs_and_shows(name):
    file = import_module(f"capmismatch.plots.{name}")
    assert name in plots.__all__ and callable(getattr(plots, name))
    assert isinstance(file.NEEDS, tuple) and file.CAPTION.endswith(".")
    if name in gallery.FIGURES:
        assert gallery.FIGURES[name][:2] == (file.NEEDS, file.CAPTION)
        assert gallery.caption(name) == file.CAPTION


def test_captions_of_students_curves_and_of_other_files():
    curve = import_module("capmismatch.plots.capacity_curve").CAPTION
    assert gallery.caption("capacity_curve_mlp12") == curve
    assert gallery.caption("mine") == "mine"


def test_figures_are_drawn_in_order_where_their_tables_are(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save", lambda axes, stem, formats: (None, stem.with_suffix(".png"), None))
    tables = {
        "probes": synthetic.probes_table(synthetic.MLPS[:3], splits=("val", "test")),
        "ranks": synthetic.ranks_table(synthetic.MLPS[:3]),
        "results": synthetic.results_table(synthetic.MLPS[:3]),
    }
    study = SimpleNamespace(
        folder=tmp_path,
        progress=False,
        config=SimpleNamespace(isats=IsatsConfig(), ranks=RanksConfig()),
        bank=bank_from_arrays({"net": 3 * np.eye(4)}, [0, 1, 2, 3], split=["val", "val", "test", "test"]),
        has=tables.__contains__,
        load=tables.__getitem__,
    )
    names = [
        "variance_vs_capacity",
        "rank_matrix",
        "rank_distribution",
        "logit_statistics",
        "dark_knowledge",
        "pareto_front",
        "capacity_curve_mlp12",
    ]
    assert gallery.draw_all(study) == [tmp_path / "figures" / f"{name}.png" for name in names]
    tables["ranks"] = tables["ranks"].assign(metric="another")  # what cannot be drawn does not cost the others
    drawn = [file.stem for file in gallery.draw_all(study)]
    assert drawn == [name for name in names if not name.startswith("rank")]


def test_some_figures_in_a_venues_size_and_in_other_formats(tmp_path):
    tables = {"ranks": synthetic.ranks_table(synthetic.MLPS[:3]), "probes": synthetic.probes_table(synthetic.MLPS[:3])}
    study = SimpleNamespace(
        folder=tmp_path,
        progress=False,
        config=SimpleNamespace(ranks=RanksConfig()),
        bank=bank_from_arrays({"net": 3 * np.eye(4)}, [0, 1, 2, 3]),
        has=tables.__contains__,
        load=tables.__getitem__,
    )
    drawn = gallery.draw_all(study, tmp_path / "out", "icml", only=["rank"], formats=["pdf", "svg"])
    assert [file.name for file in drawn] == ["rank_matrix.pdf", "rank_distribution.pdf"]
    endings = {file.name for file in (tmp_path / "out").iterdir()}
    assert endings == {f"rank_{what}.{kind}" for what in ("matrix", "distribution") for kind in ("pdf", "svg", "csv")}
    assert 'width="234pt"' in (tmp_path / "out" / "rank_matrix.svg").read_text(encoding="utf-8"), "3.25 inches"
    with pytest.raises(InputError, match="did you mean 'rank_matrix'"):
        gallery.draw_all(study, only=["rank_matrices"])
    with pytest.raises(InputError, match="'gif'"):
        gallery.draw_all(study, formats=["gif"])


def test_points_of_a_figure_are_shown_under_the_pointer(tmp_path):
    with plots.figure_style("default"):
        ax = plots.capacity_curve(synthetic.results_table(synthetic.MLPS[:3]))
        _, png, _ = plots.save(ax, tmp_path / "curve")
    (tmp_path / "made_from.json").write_text(json.dumps({"figures": ["curve.png"]}))
    (figure,) = page_figures.figures(tmp_path)
    drawn = plots.drawn_data(ax).dropna(subset="label")
    drawn = drawn[drawn["setting"] != "CE"]
    assert len(figure.points) == len(drawn)
    pixels = np.asarray(Image.open(png).convert("RGB"))
    for (x, y, text), row in zip(figure.points, drawn.to_dict("records"), strict=True):
        assert text.startswith(f"{row['label']}: {row['setting']}: {row['mean']:.4g}")
        assert pixels[y - 2 : y + 3, x - 2 : x + 3].min() < 200, "there is ink"
