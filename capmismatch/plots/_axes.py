"""Drawing helpers: figures and panels, size axes, plain numbers, legends outside the data, peak marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    Formatter,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)
from matplotlib.transforms import ScaledTranslation

from capmismatch.errors import InputError
from capmismatch.plots._common import ladders, literal
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import new_panels, options_now, page_width, shown_setting
from capmismatch.plots._save import note_points
from capmismatch.plots._style import LINESTYLES

SIZE_NAMES = {"params": "teacher parameters", "macs": "teacher multiply-adds"}
RING: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 7,
    "markerfacecolor": "none",
    "markeredgecolor": "0.4",
}
"""How a ring at a peak looks in the legend."""

SYMBOLS = {
    "target_prob": r"$p_y$",
    "derived_average": r"mean wrong $p$ (DA)",
    "derived_std": r"std of wrong $p$",
    "derived_variance": r"variance of wrong $p$ (DV)",
    "inherent_variance": r"inherent variance (IV)",
    "nll": "NLL",
    "ece": "ECE",
    "classwise_ace": "classwise ACE",
    "cmi": "CMI",
    "flipped": "another top class",
    "overtaken": "target overtaken",
    "at_bound": "at the bound",
}


def symbol(name: str) -> str:
    """How a quantity is called on an axis."""
    return SYMBOLS.get(name) or literal(name.replace("_", " "))


def root(ax: Axes) -> Figure:
    """Return the figure that holds the Axes, past any subfigure."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # Axes without a figure do not exist in pyplot
    return figure


def inches_wide(ax: Axes) -> float:
    """Width of Axes in inches, also in a subfigure."""
    return float(ax.bbox.width / root(ax).dpi)


def small_points() -> float:
    """Size of the small text (tick labels, legends) in points."""
    return float(FontProperties(size=mpl.rcParams["legend.fontsize"]).get_size_in_points())


def roomy() -> float:
    """By how much sizes in inches grow for small text of more than 8 points, as of matplotlib's own defaults."""
    return max(1.0, small_points() / 8)


def panels(count: int, *, narrowest: float = 1.5, inches: float | None = None, sharex: bool = True) -> np.ndarray:
    """Make `count` panels in as few full rows as the width of ``figure.figsize`` allows; return Axes of shape (count,).

    A row holds a divisor of `count`, so no panel stays empty. `inches` is a panel's height. Both grow with the text.
    """
    width = page_width()
    columns = max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or width / n >= narrowest * roomy()))
    tall = min(max(0.78 * width / columns, 1.5), 2.2) if inches is None else inches
    if inches is None and columns == 1 and count > 1:
        tall = 1.4
    rows = count // columns
    return new_panels(rows, columns, (width, tall * roomy() * rows + 0.1), sharex=sharex).ravel()


def outer_labels_only(axes: np.ndarray) -> None:
    """Name the shared x axis once, below the panels."""
    name = axes[-1].get_xlabel()
    if len(axes) > 1:
        axes[0].figure.supxlabel(name, fontsize=mpl.rcParams["axes.labelsize"])
        for ax in axes:
            ax.set_xlabel("")


class PlainNumbers(Formatter):
    """Ticks as plain numbers with equally many digits, times a scale."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def format_ticks(self, values: Any) -> list[str]:
        """The texts of all ticks of an axis."""
        scaled = self.scale * np.asarray(values, dtype=float)
        digits = max(
            (len(f"{value:.6g}".partition(".")[2]) for value in scaled if "e" not in f"{value:.6g}"), default=0
        )
        texts = [f"{value:.6g}" if "e" in f"{value:.6g}" else f"{value + 0.0:.{digits}f}" for value in scaled]
        return [text.replace("-", "\N{MINUS SIGN}") for text in texts]

    def __call__(self, value: float, position: int | None = None) -> str:
        """The text of one value, as under the cursor."""
        return f"{self.scale * value:.6g}".replace("-", "\N{MINUS SIGN}")


def one_axes(ax: Axes | None, *, ratio: float | None = None, inches: float | None = None) -> Axes:
    """Return `ax`, or the Axes of a new figure: as tall as the style says, or by ratio, or by inches."""
    if ax is not None:
        return ax
    width, height = page_width(), mpl.rcParams["figure.figsize"][1]
    tall = inches or (height if ratio is None else min(width * ratio, 4.3))
    return new_panels(1, 1, (width, tall))[0, 0]


def size_positions(sizes: pd.Series) -> pd.Series:
    """Position of each teacher on a size axis: its size, or its rank where sizes are unknown."""
    return sizes if sizes.notna().all() else pd.Series(np.arange(len(sizes), dtype=float), index=sizes.index)


def size_axis(ax: Axes, sizes: pd.Series, by: str = "params") -> None:
    """Make x a log axis of sizes with readable ticks (10k, 1M), or one of teacher names where sizes are unknown."""
    if not sizes.notna().all():
        names = names_on(ax, sizes.index)
        ax.set_xticks(range(len(sizes)), [literal(names[label]) for label in sizes.index], rotation=45, ha="right")
        for tick in ax.get_xticklabels():
            tick.set_rotation_mode("anchor")
        ax.set_xlabel("teacher")
        return
    ax.set_xscale("log")
    low, high = float(sizes.min()), float(sizes.max())
    pad = (high / low) ** 0.06 if high > low else 2.0
    ax.set_xlim(low / pad, high * pad)
    ax.xaxis.set_major_locator(LogLocator(subs=_steps(ax, low / pad, high * pad), numticks=12))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(SIZE_NAMES.get(by) or literal(by))


def _steps(ax: Axes, low: float, high: float) -> tuple[float, ...]:
    """Steps within a decade that leave room between tick labels, but give at least two ticks."""
    decade = inches_wide(ax) / np.log10(high / low)
    room = 3.2 * small_points() / 72
    for steps, gap in (((1.0, 2.0, 5.0), 0.301), ((1.0, 3.0), 0.477)):
        if gap * decade >= room:
            return steps
    powers = np.floor(np.log10(high)) - np.ceil(np.log10(low)) + 1  # of ten between low and high
    return (1.0,) if powers >= 2 else (1.0, 3.0)


def tau_axis(ax: Axes, taus: Sequence[float], label: str = r"temperature $\tau$") -> None:
    """Make x a log axis with a tick at each power of two among the temperatures, or at each one if they are few."""
    ax.set_xscale("log", base=2)
    powers = [tau for tau in taus if float(np.log2(tau)).is_integer()]
    shown = sorted(powers if len(powers) >= 3 and len(taus) > 6 else taus)
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel(label)


def value_axis(ax: Axes, label: str, values: Any, *, percent: bool = False, on_top: bool = False) -> None:
    """Name the y axis; its ticks are plain numbers: percents of fractions, or small values in a unit of the name.

    In small panels the name stands `on_top`, where it has more room.
    """
    finite = np.abs(np.asarray(values, dtype=float))
    largest = finite[np.isfinite(finite)].max(initial=0.0)
    power = int(np.floor(np.log10(largest))) if 0 < largest < 1e-3 else 0
    scale, unit = 10.0**-power, f" [$10^{{{power}}}$]" if power else ""
    if percent and largest <= 1:
        scale, unit = 100.0, " (%)"
    ax.yaxis.set_major_formatter(PlainNumbers(scale))
    if on_top:
        ax.set_title(label + unit, loc="left", fontsize=mpl.rcParams["axes.labelsize"])
    else:
        ax.set_ylabel(label + unit)


def legend_above(
    axes: Axes | np.ndarray,
    handles: Sequence[Any],
    labels: Sequence[str],
    *,
    own_figure: bool,
    title: str | None = None,
) -> None:
    """Put the legend above the data, never over it, in as many columns as its width has room for.

    In Axes that the user gave the legend sits on them. A figure that was made here (`own_figure`) has it on top of all
    panels, and grows by its height; one that was given keeps its size. Where another place was asked for, it stands
    there. All `axes` get artists of these names, so that ``ax.legend()`` gives the same entries.
    """
    if not handles:
        return
    panels = list(np.ravel(np.asarray(axes, dtype=object)))
    ax, given, place = panels[0], options_now().figure, options_now().legend
    texts = [literal(shown_setting(label)) for label in labels]
    for panel in panels:
        _name_artists(panel, handles, texts)
    if place is False:
        return
    figure = given or root(ax)
    columns = _legend_columns(texts, page_width() if own_figure else inches_wide(ax))
    options: dict[str, Any] = dict(
        ncols=columns,
        handlelength=1.8,
        columnspacing=1.0,
        handletextpad=0.5,
        frameon=False,
        title=None if title is None else literal(title),
    )
    if place is not True:
        _legend_at(place, figure, ax, handles, texts, options)
    elif own_figure:
        if given is None:
            lines = -(-len(texts) // columns) + (0 if title is None else 1 + title.count("\n"))
            height = root(ax).get_figheight() + 1.5 * small_points() / 72 * lines
            root(ax).set_figheight(height)
        figure.legend(handles, texts, loc="outside upper center", borderaxespad=0.2, **options)
    else:
        ax.legend(handles, texts, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.3, **options)


def _legend_at(
    place: str | Mapping[str, Any], figure: Any, ax: Axes, handles: Sequence[Any], texts: list[str], options: Any
) -> None:
    """Put the legend where it was asked for: in the Axes, or "outside" of all panels; one column unless told."""
    own = {"loc": place} if isinstance(place, str) else dict(place)
    options = {**options, "ncols": 1, **({"ncols": own.pop("ncol")} if "ncol" in own else {}), **own}
    outside = str(options.get("loc", "")).startswith("outside")
    try:
        (figure if outside else ax).legend(handles, texts, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"expected legend as a location or options of matplotlib, got {place!r}: {error}") from None


def _name_artists(ax: Axes, handles: Sequence[Any], texts: Sequence[str]) -> None:
    """Give each entry of the legend an artist of its name on the Axes: one that is drawn, else one without data."""
    there = ax.get_legend_handles_labels()[1]
    for handle, text in zip(handles, texts, strict=True):
        if text in there:
            continue
        if getattr(handle, "axes", None) is ax or handle in ax.containers:
            handle.set_label(text)
        elif isinstance(handle, Line2D):
            named = Line2D([], [], label=text)
            looks = ("color", "linestyle", "linewidth", "marker", "markersize", "markerfacecolor", "markeredgecolor")
            named.set(**{look: getattr(handle, f"get_{look}")() for look in looks})
            ax.add_artist(named)
        else:
            patch = handle if isinstance(handle, Patch) else handle.patches[0]
            named_patch = Rectangle((0, 0), 0, 0, label=text, transform=ax.transAxes)
            named_patch.set(facecolor=patch.get_facecolor(), edgecolor=patch.get_edgecolor())
            named_patch.set(hatch=patch.get_hatch(), linewidth=patch.get_linewidth())
            ax.add_artist(named_patch)


def text_inches(text: str) -> float:
    """Width of small text."""
    return float(TextPath((0, 0), text, prop=FontProperties(size=small_points())).get_extents().width / 72)


def wrapped(parts: Sequence[str], inches: float) -> str:
    r"""The parts joined by commas, on as many lines as small text needs in a width.

    Examples
    --------
    >>> wrapped(["TS 0.70", "ATS 0.59", "ISATS 0.63"], 100), wrapped(["TS 0.70", "ATS 0.59", "ISATS 0.63"], 0.1)
    ('TS 0.70, ATS 0.59, ISATS 0.63', 'TS 0.70,\nATS 0.59,\nISATS 0.63')
    """
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if lines[-1] and text_inches(longer) > inches:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _legend_columns(texts: Sequence[str], inches: float) -> int:
    """Fewest rows, then columns, whose texts, with 3.5 ems for handle and gaps each, fit into a width."""
    widths = [text_inches(text) + 3.5 * small_points() / 72 for text in texts]
    for rows in range(1, len(texts)):
        columns = -(-len(texts) // rows)
        if sum(column.max() for column in np.array_split(widths, columns)) <= inches:
            return columns
    return 1


def family_handles(ax: Axes, families: Sequence[str]) -> tuple[list[Line2D], list[str]]:
    """Legend handles that tell families by line style, and their names on `ax`; none for a single family."""
    if len(families) < 2:
        return [], []
    handles = [Line2D([], [], color="0.3", linestyle=style) for style in family_styles(families).values()]
    return handles, list(names_on(ax, families, "family").values())


def family_styles(families: Sequence[str]) -> dict[str, Any]:
    """Line style of each family."""
    return {family: LINESTYLES[index % len(LINESTYLES)] for index, family in enumerate(families)}


def look_handles(looks: Mapping[str, Mapping[str, Any]]) -> list[Line2D]:
    """Legend handles of looks, for lines that several panels share."""
    return [Line2D([], [], **look) for look in looks.values()]


def _move(ax: Axes, points: float, *marks: Artist) -> None:
    """Move marks to the right by some points, so that they do not cover others; their data stay as they are.

    Only once they are drawn: the Axes take their limits from marks in data coordinates alone.
    """
    for mark in marks if points else ():
        mark.set_transform(ax.transData + ScaledTranslation(points / 72, 0, root(ax).dpi_scale_trans))


def run_line(
    ax: Axes, table: pd.DataFrame, runs: pd.DataFrame | None, *, shift: float = 0.0, name: str = "", **look: Any
) -> Line2D:
    """Draw means (`x, mean`) as a line, intervals (`low, high`) as bars, else `runs` (`x, value`) as faint points.

    The line joins teachers of one ladder (see `ladders`) and is labelled with its `name`, unless another one has it.
    All of it is moved `shift` points to the right.
    """
    color = look["color"]
    text = literal(shown_setting(name))
    if name and text not in ax.get_legend_handles_labels()[1]:
        look = {**look, "label": text}
    joined = _joined(table)
    (line,) = ax.plot(joined["x"], joined["mean"], **look)
    note_points(line, _tips(joined, name))
    marks: list[Artist] = [line]
    intervals = table[table["low"].notna()]
    if len(intervals):
        bars = {"color": color, "linewidth": 0.6, "alpha": 0.7, "zorder": 1.9}
        marks.append(ax.vlines(intervals["x"], intervals["low"], intervals["high"], **bars))
    elif runs is not None and len(runs) > len(table):
        marks += ax.plot(runs["x"], runs["value"], ".", color=color, markersize=2.5, alpha=0.45, zorder=1.8)
    _move(ax, shift, *marks)
    return line


def _joined(table: pd.DataFrame) -> pd.DataFrame:
    """The points of a line, ladder by ladder, with a gap between two: other teachers between them are no step of it."""
    if "label" not in table or not table["label"].is_unique:
        return table
    steps = table["label"].map(ladders(table["label"]))
    if steps.nunique() == 1:
        return table
    gap = pd.DataFrame({"x": [np.nan], "label": [""]})
    parts = [part for _, rows in table.groupby(steps, sort=False) for part in (rows, gap)]
    return pd.concat(parts[:-1], ignore_index=True)


def _tips(table: pd.DataFrame, name: str) -> list[str]:
    """What each point of a line says: its teacher, the line, the value and its interval."""
    tips = []
    for row in table.to_dict("records"):
        interval = f" [{row['low']:.4g}, {row['high']:.4g}]" if pd.notna(row.get("low")) else ""
        tips.append(": ".join(filter(None, [str(row["label"]), name, f"{row['mean']:.4g}{interval}"])))
    return tips


def mark_peak(ax: Axes, table: pd.DataFrame, color: Any, *, shift: float = 0.0, lowest: bool = False) -> float:
    """Ring the highest (or lowest) mean unless it is the last; return the change from it to the last, 0 if it is."""
    peak = table.iloc[int(table["mean"].argmin() if lowest else table["mean"].argmax())]
    change = float(table["mean"].iloc[-1] - peak["mean"])
    if change:
        ring = ax.plot(
            [peak["x"]],
            [peak["mean"]],
            "o",
            markersize=mpl.rcParams["lines.markersize"] + 4.5,
            markerfacecolor="none",
            markeredgecolor=color,
            markeredgewidth=0.8,
            zorder=3,
            clip_on=False,
        )
        _move(ax, shift, *ring)
    return change
