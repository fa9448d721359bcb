"""What a figure shows as a table, and writing both to disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from capmismatch._utils.files import replacing, write_text
from capmismatch.errors import InputError, must_be_one_of

_DRAWN: WeakKeyDictionary[Axes, list[pd.DataFrame]] = WeakKeyDictionary()
_NAMES: WeakKeyDictionary[Axes, dict[str, str]] = WeakKeyDictionary()  # short name -> full name
_PROBES: WeakKeyDictionary[Axes, list[str]] = WeakKeyDictionary()
_POINTS: WeakKeyDictionary[Artist, list[str]] = WeakKeyDictionary()  # what each point of a line or scatter says
_CANVASES = {"pdf": ("pdf", "print_pdf"), "png": ("agg", "print_png"), "svg": ("svg", "print_svg")}
_OF_SAVING = ("auto", "auto", False)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # of texts that a spreadsheet runs
PROBE_COLUMNS = ("probe", "quantity")  # of a table: names of probes, or of quantities that may be probes


def attach(ax: Axes, frame: pd.DataFrame, *, probes: Iterable[str] = ()) -> None:
    """Remember which rows were just drawn into Axes: they become `drawn_data` and the CSV that `save` writes.

    A second drawing into the same Axes adds to the first. A function of your own that draws a table calls this once
    for all that it drew.

    Parameters
    ----------
    ax : Axes
        Where the rows were drawn.
    frame : DataFrame
        The rows. What its columns ``probe`` and ``quantity`` name gets its formula in `drawn_data`.
    probes : iterable of str, optional
        Further probes that the drawing shows, whose names stand in no such column.

    See Also
    --------
    drawn_data : What was attached, as one table.

    Examples
    --------
    >>> from matplotlib import pyplot as plt
    >>> ax = plt.figure().add_subplot()
    >>> attach(ax, pd.DataFrame({"teacher": ["mlp12"], "accuracy": [0.81]}), probes=["accuracy"])
    >>> drawn_data(ax).attrs["probes"]["accuracy"]["formula"]
    'mean of [arg max f = y]'
    """
    _DRAWN.setdefault(ax, []).append(frame.reset_index(drop=True))
    named = [str(name) for column in PROBE_COLUMNS if column in frame for name in frame[column].unique()]
    _PROBES.setdefault(ax, []).extend([*named, *probes])


def note_names(ax: Axes, names: Mapping[str, str]) -> None:
    """Remember which names `ax` shows in short: short name -> full name."""
    _NAMES.setdefault(ax, {}).update(names)


def note_points(artist: Line2D | PathCollection, tips: Sequence[str]) -> None:
    """Remember what each point of a line or of a scatter says: its teacher and its values."""
    _POINTS[artist] = list(tips)


def points_of(figure: Figure) -> list[tuple[float, float, str]]:
    """Where each point of a figure lies, as shares of its width (from the left) and height (from the top); its text."""
    width, height = figure.bbox.width, figure.bbox.height
    points = []
    for artist in figure.findobj(lambda one: one in _POINTS):
        if isinstance(artist, Line2D):
            places, transform = artist.get_xydata(), artist.get_transform()
        elif isinstance(artist, PathCollection):
            places, transform = artist.get_offsets(), artist.get_offset_transform()
        else:
            continue
        seen = transform.transform(np.asarray(places, float))
        points += [
            (round(float(x / width), 4), round(float(1 - y / height), 4), tip)
            for (x, y), tip in zip(seen, _POINTS[artist], strict=True)
            if np.isfinite([x, y]).all()
        ]
    return points


def drawn_data(target: Figure | Axes | np.ndarray) -> pd.DataFrame:
    """Return the table of exactly what a figure shows.

    Each plotting function attaches the rows that it drew to the Axes that it drew them into. For a figure, or an array
    of Axes, the tables of its panels follow each other.

    Parameters
    ----------
    target : Figure, Axes or ndarray of Axes
        What a function of ``capmismatch.plots`` drew into.

    Returns
    -------
    DataFrame
        The rows. Columns are those of the figure's table; for a figure or an array, the panel's number leads as
        ``panel``. Names are in full. Its ``attrs`` hold, where there is anything to tell,

        * ``"names"``: the full name of each name that the figure shows in short, for a caption;
        * ``"probes"``: ``formula`` and ``source`` of each probe that is drawn, by its name.

    Raises
    ------
    InputError
        If nothing there was drawn by capmismatch.

    See Also
    --------
    save : Write a figure and this table.
    attach : What a plotting function calls.

    Examples
    --------
    >>> from capmismatch.plots import logit_statistics
    >>> probes = pd.DataFrame({"teacher": ["mlp12"], "params": [648.0], "probe": "logit_std", "value": [2.0]})
    >>> axes = logit_statistics(probes.assign(family="mlp", split="test", seed=0, tau=np.nan), statistics=["logit_std"])
    >>> drawn_data(axes)[["panel", "probe", "label", "x", "mean"]].to_dict("records")
    [{'panel': 0, 'probe': 'logit_std', 'label': 'mlp12', 'x': 648.0, 'mean': 2.0}]
    >>> drawn_data(axes).attrs["probes"]["logit_std"]["formula"]
    'std of f over classes, ddof 0'
    """
    if isinstance(target, Axes):
        axes, frames = [target], _DRAWN.get(target, [])
    else:
        axes = target.axes if isinstance(target, Figure) else list(np.ravel(target))
        filled = [ax for ax in axes if ax in _DRAWN]
        frames = [frame.assign(panel=number) for number, ax in enumerate(filled) for frame in _DRAWN[ax]]
        frames = [frame[["panel", *frame.columns.drop("panel")]] for frame in frames]
    if not frames:
        raise InputError("expected a figure or Axes drawn by capmismatch.plots; this one holds no drawn data")
    table = pd.concat(frames, ignore_index=True)
    table.attrs = {key: value for key, value in (("names", _names_of(axes)), ("probes", _probes_of(axes))) if value}
    return table


def _names_of(axes: Iterable[Axes]) -> dict[str, str]:
    """Full name of each name that Axes show in short."""
    return {short: name for ax in axes for short, name in _NAMES.get(ax, {}).items()}


def _probes_of(axes: Iterable[Axes]) -> dict[str, dict[str, str]]:
    """Formula and source of each probe that Axes show, from the registry."""
    names = dict.fromkeys(name for ax in axes for name in _PROBES.get(ax, []))
    if not names:
        return {}
    from capmismatch.probes import REGISTRY  # it loads torch, which drawing does without

    registered = {name: REGISTRY[name] for name in names if name in REGISTRY}
    return {name: {"formula": probe.formula, "source": probe.source} for name, probe in registered.items()}


def file_name(text: object) -> str:
    """Escape a name for use in a file name, reversibly: what is not a letter, digit or one of ``_.-~=+,`` becomes %XX.

    Parameters
    ----------
    text : object
        The name; taken as ``str(text)``.

    Returns
    -------
    str
        The escaped name.

    Raises
    ------
    InputError
        If nothing but dots would be left.

    Examples
    --------
    >>> file_name("KD tau=4/$best$")
    'KD%20tau=4%2F%24best%24'
    """
    escaped = quote(str(text), safe="=+,")
    if not escaped.strip("."):
        raise InputError(f"expected a name that can name a file, got {text!r}")
    return escaped


FORMATS = ("pdf", "png", "svg", "pgf")
LATEX = ("lualatex", "xelatex")
"""What matplotlib measures text with for PGF: the first that is installed, if its own setting is not."""


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that `save` does not write.

    Parameters
    ----------
    formats : sequence of str
        What was asked for.

    Raises
    ------
    InputError
        If there is none, or one is unknown.

    Examples
    --------
    >>> check_formats(["pdf", "svg"])
    """
    if isinstance(formats, str) or not formats:
        raise InputError(f"expected formats as a list of {list(FORMATS)}, got {formats!r}")
    for name in formats:
        must_be_one_of(name, FORMATS, "format")
    if "pgf" in formats:
        _latex()


def _latex() -> str:
    """The LaTeX that measures the text of a PGF file."""
    names = dict.fromkeys((str(mpl.rcParams["pgf.texsystem"]), *LATEX))
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        raise InputError(f"format pgf needs LaTeX, one of {list(names)}, which is not installed; pdf and svg do not")
    return found


def save(
    target: Figure | Axes | np.ndarray,
    path_stem: str | Path,
    table: pd.DataFrame | None = None,
    *,
    formats: Sequence[str] = ("pdf", "png"),
) -> tuple[Path, ...]:
    """Write a figure as PDF and PNG (or SVG, or PGF), and the CSV of what it shows.

    The PDF embeds TrueType fonts; the PNG has 300 dots per inch; none holds a date, so that the same figure gives the
    same bytes. Each file appears whole or not at all. The figure stays open: ``plt.close`` it in long scripts.

    PNG and PDF carry what a caption needs, one line each. Where names are shown in short: ``short = full``, as the
    PNG's "Description". For each probe drawn: ``name: formula (source)``, as the PNG's "Formulas". The PDF has both as
    its "Subject".

    Parameters
    ----------
    target : Figure, Axes or ndarray of Axes
        What to write; all Axes of one figure.
    path_stem : str or Path
        Path without an ending; the folder is made, and the last part is escaped by `file_name`.
    table : DataFrame, optional
        The CSV's rows, if not those of `drawn_data`.
    formats : sequence of {"pdf", "png", "svg", "pgf"}
        Of the pictures. PGF is drawn by LaTeX in the fonts of the document, and needs one here to measure text with.

    Returns
    -------
    tuple of Path
        The pictures in the order of `formats`, by default the PDF and the PNG, then the CSV.

    Raises
    ------
    InputError
        If the Axes are of several figures, or nothing there was drawn by capmismatch and there is no `table`; for PGF
        without LaTeX, or of a figure that shows an image.

    See Also
    --------
    drawn_data : The rows, with the formulas in its ``attrs``.

    Examples
    --------
    >>> import tempfile
    >>> from matplotlib import pyplot as plt
    >>> ax = plt.figure().add_subplot()
    >>> attach(ax, pd.DataFrame({"teacher": ["mlp12"], "accuracy": [0.81]}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save(ax, Path(folder) / "my accuracy")]
    ['my%20accuracy.pdf', 'my%20accuracy.png', 'my%20accuracy.csv']
    """
    figure = _figure_of(target)
    table = drawn_data(figure) if table is None else table
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    check_formats(formats)
    *pictures, csv = (stem.parent / f"{file_name(stem.name)}.{ending}" for ending in (*formats, "csv"))
    _write_pictures(figure, pictures)
    write_text(csv, _for_spreadsheets(table).to_csv(index=False, lineterminator="\n"))
    return (*pictures, csv)


def _for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before texts that a spreadsheet would run as formulas."""

    def safe(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value

    return table.rename(columns=safe).apply(lambda column: column if column.dtype.kind in "biuf" else column.map(safe))


def _about(figure: Figure) -> dict[str, dict[str, Any]]:
    """What the files of each format say of themselves."""
    names = "\n".join(f"{short} = {name}" for short, name in _names_of(figure.axes).items())
    probes = _probes_of(figure.axes).items()
    formulas = "\n".join(f"{name}: {probe['formula']} ({probe['source']})" for name, probe in probes)
    subject = "\n".join(filter(None, [names, formulas]))
    points = json.dumps(points_of(figure), ensure_ascii=False) if _has_points(figure) else ""
    texts = {"Description": names, "Formulas": formulas, "Points": points}
    return {
        "pdf": {"CreationDate": None, **({"Subject": subject} if subject else {})},
        "png": {"Software": "capmismatch", **{key: text for key, text in texts.items() if text}},
        "svg": {"Date": None, "Creator": "capmismatch", **({"Description": subject} if subject else {})},
    }


def _has_points(figure: Figure) -> bool:
    return bool(figure.findobj(lambda one: one in _POINTS))


def _write_pictures(figure: Figure, pictures: Sequence[Path]) -> None:
    """Write all with one layout: a second pass of it would move things by a hair."""
    figure.draw_without_rendering()
    about = _about(figure)
    engine = figure.get_layout_engine()
    if engine is not None:
        figure.set_layout_engine("none")
    try:
        with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "capmismatch", "savefig.bbox": None}):
            for picture in pictures:
                kind = picture.suffix[1:]
                with replacing(picture) as file:
                    if kind == "pgf":
                        _write_pgf(figure, file)
                    else:
                        _print(figure, file, kind, about[kind])
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)


def _print(figure: Figure, file: Any, kind: str, about: dict[str, Any]) -> None:
    """Write a figure that has its layout: `savefig` would go over all of it once more, to lay it out."""
    settings = mpl.rcParams
    of_saving = settings["savefig.facecolor"], settings["savefig.edgecolor"], settings["savefig.transparent"]
    if of_saving != _OF_SAVING:  # which `savefig` obeys
        figure.savefig(file, format=kind, metadata=about, dpi=300 if kind == "png" else "figure")
        return
    name, method = _CANVASES[kind]
    canvas, dpi = figure.canvas, figure.dpi
    try:
        backend = import_module(f"matplotlib.backends.backend_{name}")
        figure.dpi = 300 if kind == "png" else dpi
        getattr(backend.FigureCanvas(figure), method)(file, metadata=about)
    finally:
        figure.set_canvas(canvas)
        figure.dpi = dpi


def _write_pgf(figure: Figure, file: Any) -> None:
    """Write a figure as code for LaTeX, in the fonts of the document that includes it."""
    if figure.findobj(AxesImage):
        raise InputError("a figure with an image cannot be written as pgf, which holds no images: write pdf")
    with mpl.rc_context({"pgf.texsystem": _latex(), "pgf.rcfonts": False}):
        figure.savefig(file, format="pgf")


def _figure_of(target: Figure | Axes | np.ndarray) -> Figure:
    """The one figure that holds the target."""
    if isinstance(target, Figure):
        return target
    figures = {ax.get_figure(root=True) for ax in np.ravel(np.asarray(target, dtype=object))}
    if len(figures) != 1:
        raise InputError(f"expected Axes of one figure, got Axes of {len(figures)} figures")
    return figures.pop()
