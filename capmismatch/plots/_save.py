"""What a figure shows as a table, and writing both to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capmismatch._utils.files import replacing, write_text
from capmismatch.errors import InputError

_DRAWN: WeakKeyDictionary[Axes, list[pd.DataFrame]] = WeakKeyDictionary()
_NAMES: WeakKeyDictionary[Axes, dict[str, str]] = WeakKeyDictionary()


def attach(ax: Axes, frame: pd.DataFrame) -> None:
    """Remember `frame` as what was just drawn into `ax`; a second drawing adds to the first."""
    _DRAWN.setdefault(ax, []).append(frame.reset_index(drop=True))


def note_names(ax: Axes, names: Mapping[str, str]) -> None:
    """Remember which names `ax` shows in short: short name -> full name."""
    _NAMES.setdefault(ax, {}).update(names)


def drawn_data(target: Figure | Axes | np.ndarray) -> pd.DataFrame:
    """Return the table of exactly what a figure shows.

    Each plotting function attaches the rows that it drew to the Axes that it drew them into. For a figure, or an array
    of Axes, the tables of its panels follow each other, with the panel's number in a leading column `panel`.

    Names are whole here. Where a figure shows long ones in short, the table's ``attrs["names"]`` holds the full name of
    each short one, for a caption.

    Parameters
    ----------
    target
        An Axes, an array of Axes or a Figure that a function of ``capmismatch.plots`` drew into.

    Raises
    ------
    InputError
        If nothing there was drawn by capmismatch.

    Examples
    --------
    >>> from capmismatch.plots import study_progress
    >>> ax = study_progress(pd.DataFrame({"stage": ["collect"], "done": [3], "total": [4], "failed": [0]}))
    >>> drawn_data(ax).to_dict("records")
    [{'stage': 'collect', 'done': 3, 'total': 4, 'failed': 0}]
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
    if names := _names_of(axes):
        table.attrs["names"] = names
    return table


def _names_of(axes: Sequence[Axes]) -> dict[str, str]:
    return {short: name for ax in axes for short, name in _NAMES.get(ax, {}).items()}


def file_name(text: object) -> str:
    """Escape a name for use in a file name, reversibly: what is not a letter, digit or one of ``_.-~=+,`` becomes %XX.

    Examples
    --------
    >>> file_name("KD tau=4/$best$")
    'KD%20tau=4%2F%24best%24'
    """
    escaped = quote(str(text), safe="=+,")
    if not escaped.strip("."):
        raise InputError(f"expected a name that can name a file, got {text!r}")
    return escaped


def save(
    target: Figure | Axes | np.ndarray, path_stem: str | Path, table: pd.DataFrame | None = None
) -> tuple[Path, Path, Path]:
    """Write a figure as PDF and PNG, and the CSV of what it shows.

    The PDF embeds TrueType fonts; the PNG has 300 dots per inch; both hold no date, so that the same figure gives the
    same bytes. Where names are shown in short, the PNG's "Description" and the PDF's "Subject" tell the full ones,
    a line each: ``short = full``. Each file appears whole or not at all. The figure stays open: ``plt.close`` it in
    long scripts.

    Parameters
    ----------
    target
        A Figure, an Axes, or an array of Axes of one figure.
    path_stem
        Path without an ending; the folder is made, and the last part is escaped by `file_name`.
    table
        The CSV's rows, if not those of `drawn_data`.

    Returns
    -------
    tuple of Path
        The PDF, the PNG and the CSV.

    Examples
    --------
    >>> import tempfile
    >>> from capmismatch.plots import study_progress
    >>> ax = study_progress(pd.DataFrame({"stage": ["collect"], "done": [3], "total": [4], "failed": [0]}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save(ax, Path(folder) / "my progress")]
    ['my%20progress.pdf', 'my%20progress.png', 'my%20progress.csv']
    """
    figure = _figure_of(target)
    table = drawn_data(figure) if table is None else table
    names = "\n".join(f"{short} = {name}" for short, name in _names_of(figure.axes).items())
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png, csv = (stem.parent / f"{file_name(stem.name)}.{ending}" for ending in ("pdf", "png", "csv"))
    figure.draw_without_rendering()
    engine = figure.get_layout_engine()
    if engine is not None:
        figure.set_layout_engine("none")  # a second pass of the layout would move things by a hair
    try:
        with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "capmismatch", "savefig.bbox": None}):
            with replacing(pdf) as file:
                about = {"Subject": names} if names else {}
                figure.savefig(file, format="pdf", metadata={"CreationDate": None, **about})
            with replacing(png) as file:
                about = {"Description": names} if names else {}
                figure.savefig(file, format="png", dpi=300, metadata={"Software": "capmismatch", **about})
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)
    write_text(csv, table.to_csv(index=False, lineterminator="\n"))
    return pdf, png, csv


def _figure_of(target: Figure | Axes | np.ndarray) -> Figure:
    if isinstance(target, Figure):
        return target
    figures = {ax.get_figure(root=True) for ax in np.ravel(np.asarray(target, dtype=object))}
    if len(figures) != 1:
        raise InputError(f"expected Axes of one figure, got Axes of {len(figures)} figures")
    return figures.pop()
