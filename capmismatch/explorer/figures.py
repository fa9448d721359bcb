"""The explorer's pictures: a table in, a PNG out, quick enough to be drawn at every change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, wraps
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.explorer._sheet import Sheet
from capmismatch.explorer.tables import QUANTITIES
from capmismatch.plots import FigureStyle, figure_style, rank_matrix
from capmismatch.plots._axes import symbol
from capmismatch.plots._common import listed, literal
from capmismatch.plots._labels import short_names
from capmismatch.plots._style import setting_looks
from capmismatch.stats.estimates import Z95
from capmismatch.stats.matching import rows_of_kind

WIDE, LEFT, RIGHT = 10.0, 4.0, 6.0  # inches: a whole row of the page, and the two pictures that share one
EDGE = 0.12  # inches around everything
HEAD = 0.5  # inches for the heading
GAP = 0.25  # inches between panels
MOST = 24  # characters of a name that are shown
NARROWEST = 1.2  # inches of a panel


@cache
def _style() -> FigureStyle:
    return figure_style("default")


def _styled(draw: Callable[..., Sheet]) -> Callable[..., bytes]:
    """Draw in the style that all figures have, and return the PNG."""

    @wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> bytes:
        with mpl.rc_context(cast(Any, _style())):
            return draw(*arguments, **options).png()

    return drawn


@_styled
def soft_labels(table: pd.DataFrame) -> Sheet:
    """Means of the four quantities with 95 % intervals, one row per teacher: before hollow, after filled.

    Parameters
    ----------
    table : DataFrame
        What `capmismatch.explorer.tables.Reader.soft_labels` returns.

    Returns
    -------
    bytes
        A PNG.
    """
    table = rows_of_kind(table)
    teachers, methods = listed(table["label"]), listed(table["method"])
    top, step = HEAD + 0.35, 0.3
    sheet = Sheet(WIDE, top + step * len(teachers) + 0.35)
    y = top + step * (np.arange(len(teachers)) + 0.5)
    panels_start = _names(sheet, _short(teachers), EDGE, y)
    table = table.assign(half=Z95 * table["se"].fillna(0))
    wide = [table.pivot(index="label", columns=["quantity", "method"], values=name) for name in ("value", "half")]
    for quantity, start, end in _columns(len(QUANTITIES), panels_start, WIDE, QUANTITIES):
        sheet.lines([[(start, row), (end, row)] for row in y], color="0.92", linewidth=0.6)
        means, halves = (values[quantity].loc[teachers, methods].to_numpy() for values in wide)
        low, high = (means - halves).min(), (means + halves).max()
        pad = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        position, power = sheet.number_axis(start, end, y[-1] + step / 2, low - pad, high + pad)
        for (shift, face, look, _), mean, half in zip(_steps(methods, 0.09), means.T, halves.T, strict=True):
            ends = [np.stack([position(x), y + shift], axis=-1) for x in (mean - half, mean + half)]
            sheet.lines(np.stack(ends, axis=1), color=look["color"], linewidth=1)
            dot = {"marker": look["marker"], "color": look["color"], "markerfacecolor": face, "markersize": 4}
            sheet.marks(position(mean), y + shift, **dot)
        sheet.text(start, top - 0.12, symbol(quantity) + (f" [$10^{{{power}}}$]" if power else ""))
    _heading(sheet, "Soft labels: means with 95 % intervals", methods)
    return sheet


@_styled
def class_ranks(table: pd.DataFrame, label: str) -> Sheet:
    """Kendall's tau-b between teachers over the wrong classes, on the examples of class ``label``.

    Parameters
    ----------
    table : DataFrame
        What `capmismatch.explorer.tables.Reader.class_ranks` returns. Without rows (a single teacher) or values (all
        wrong classes tie) the picture says so in words.
    label : str
        The class's name.

    Returns
    -------
    bytes
        A PNG.
    """
    if table.empty or table["value"].isna().all():
        sheet = Sheet(LEFT, 1.5)
        message = "All wrong classes tie: there is no order."
        if table.empty:
            message = "Choose two or more teachers\nto compare class ranks."
        sheet.text(LEFT / 2, 0.9, message, ha="center", color="0.35")
    else:
        count = pd.concat([table["teacher_a"], table["teacher_b"]]).nunique()
        below = 0.9  # inches for the names
        side = min(LEFT - 2.2, 0.55 * count + 0.6)
        sheet = Sheet(LEFT, HEAD + side + below)
        bounds = (1.3 / LEFT, below / sheet.height, side / 0.83 / LEFT, side / sheet.height)  # 17 % for the colour bar
        metric = str(table["metric"].iloc[0])
        ax = rank_matrix(table, metric=metric, ax=sheet.figure.add_axes(bounds))
        names = _short([text.get_text() for text in ax.get_yticklabels()], 14)
        ax.set_yticks(ax.get_yticks(), names)
        ax.set_xticks(ax.get_xticks(), names, rotation=45, ha="right", rotation_mode="anchor")
    _heading(sheet, f"Class ranks: class {_short([label])[0]}")
    return sheet


@_styled
def dark_knowledge(table: pd.DataFrame, image: NDArray[Any] | None = None, top: int = 9) -> Sheet:
    """Probabilities that each teacher gives the likeliest wrong classes of one example: before hollow, after filled.

    Parameters
    ----------
    table : DataFrame
        What `capmismatch.explorer.tables.Reader.example` returns.
    image : ndarray, optional
        The example, shape (H, W) or (H, W, 3 or 4).
    top : int
        How many wrong classes are shown: those with the largest probability anywhere.

    Returns
    -------
    bytes
        A PNG.
    """
    teachers, methods = listed(table["teacher"]), listed(table["method"])
    target = table.loc[table["is_target"], "class"].iloc[0]
    wide = table.pivot(index="class", columns=["teacher", "method"], values="probability")
    largest = wide.drop(index=target).max(axis=1).nlargest(top)
    classes, most = list(largest.index), max(float(largest.max()), 1e-12) * 1.05
    labels = _short(classes, MOST if image is None else 16)
    names_start = EDGE if image is None else EDGE + 1.4
    title, step = 0.4, 0.21
    panel_height = title + step * len(classes) + 0.35
    fit = max(1, int((RIGHT - names_start - _width(labels)) / (NARROWEST + GAP)))
    rows = [teachers[start : start + fit] for start in range(0, len(teachers), fit)]
    sheet = Sheet(RIGHT, max(HEAD + panel_height * len(rows), HEAD + 1.5))
    for row, row_teachers in enumerate(rows):
        y = HEAD + panel_height * row + title + step * (np.arange(len(classes)) + 0.5)
        panels_start = _names(sheet, labels, names_start, y)
        characters = int((RIGHT - panels_start) / len(rows[0]) / 0.085)
        titles = dict(zip(teachers, _short(teachers, characters), strict=True))
        for teacher, start, end in _columns(len(rows[0]), panels_start, RIGHT, row_teachers):
            position, _ = sheet.number_axis(start, end, y[-1] + step / 2, 0.0, most)
            probabilities = wide[teacher][methods]
            for shift, face, look, method in _steps(methods, step * 0.4):
                bars = {"facecolor": face, "edgecolor": look["color"], "linewidth": 0.8}
                lengths = position(probabilities.loc[classes, method].to_numpy()) - start
                sheet.bars(start, y + shift, lengths, step * 0.8 / len(methods), **bars)
            of_target = " → ".join(f"{value:.2f}" for value in probabilities.loc[target])
            text = f"{literal(titles[teacher])}\np_y {of_target}"
            sheet.text(start, y[0] - step / 2 - 0.04, text, va="bottom", fontsize="small")
    example, label = (_short([name], 18)[0] for name in (table["example"].iloc[0], target))
    _heading(sheet, f"{example} ({label}): wrong classes", methods)
    if image is not None:
        bounds = (EDGE / RIGHT, 1 - (HEAD + 1.3) / sheet.height, 1.3 / RIGHT, 1.3 / sheet.height)
        ax = sheet.figure.add_axes(bounds, anchor="NW")
        ax.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
        ax.set_axis_off()
    return sheet


def _steps(methods: list[str], distance: float) -> Iterator[tuple[float, Any, dict[str, Any], str]]:
    """For each method, how far it stands from the middle of a row, its fill (white but for the last), look and name."""
    looks = setting_looks({method: method for method in methods})
    last = len(methods) - 1
    for index, method in enumerate(methods):
        look = looks[method]
        yield (index - last / 2) * distance, look["color"] if index == last else "white", look, method


def _columns(count: int, left: float, right: float, items: Any) -> Iterator[tuple[Any, float, float]]:
    """Each item with the left and right end of its panel, of `count` that share the width from `left` to `right`."""
    width = (right - EDGE - left - GAP * (count - 1)) / count
    for index, item in enumerate(items):
        start = left + index * (width + GAP)
        yield item, start, start + width


def _heading(sheet: Sheet, text: str, methods: list[str] | None = None) -> None:
    """Write what the picture shows and, on the right, which mark is which method."""
    sheet.text(EDGE, 0.22, literal(text), fontweight="bold")
    right = sheet.width - EDGE
    for _, face, look, method in reversed(list(_steps(methods or [], 0))):
        sheet.text(right, 0.22, method, ha="right")
        right -= 0.08 * len(method) + 0.12
        sheet.marks([right], [0.22], marker="s", color=look["color"], markerfacecolor=face, markersize=6)
        right -= 0.2


def _names(sheet: Sheet, names: list[str], left: float, y: NDArray[Any]) -> float:
    """Write names that end at a common x, one per row `y`; returns where the panels may start."""
    end = left + _width(names)
    for name, row in zip(names, y, strict=True):
        sheet.text(end - 0.06, row, literal(name), ha="right", fontsize="small")
    return end


def _short(names: list[str], most: int = MOST) -> list[str]:
    """The names, long ones in short; see `capmismatch.plots._labels.short_names`."""
    shown = short_names(names, most)
    return [shown[name] for name in names]


def _width(names: list[str]) -> float:
    """Inches that the longest of the names takes, with a gap."""
    return 0.1 + 0.078 * max(map(len, names))
