"""Which teacher to take, and how sure that is."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.errors import require_columns
from capmismatch.plots._axes import SIZE_NAMES, PlainNumbers, legend_above, roomy, symbol
from capmismatch.plots._common import literal, teacher_labels
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import color_of, drawing, new_panels, page_width, shown_setting
from capmismatch.plots._save import attach, note_points
from capmismatch.plots._style import BLUE, GREY

NEEDS = ("pick",)
CAPTION = (
    "The teachers, best first: the score that they were ranked by, with its 95 % interval; with student results also "
    "P(best) and expected regret in accuracy points. Coloured: teachers that are too close to the best to call. One "
    "that is worse may score higher than one that is not told apart, if its own interval is narrower."
)
WHAT = "the pick table"
TIED, WORSE = "best, or too close to call", "worse"
PANELS = {"p_best": "P(best)\n(%)", "regret": "regret\n(points)"}


@drawing(table="pick")
def pick_chart(
    table: pd.DataFrame, *, probe: str | None = None, tau: float | None = None, ax: Axes | None = None
) -> np.ndarray:
    r"""Draw each teacher's score with its interval, its chance of being the best, and its expected regret.

    The first row of the table, the best teacher, stands on top. Teachers too close to call with the best (``tie``) are
    filled and coloured, the others hollow and grey.

    Parameters
    ----------
    table : DataFrame, Choice, Study or Diagnosis
        The table of a choice, best teacher first: columns ``family, teacher, score, low, high, tie``, and ``p_best,
        regret`` where the choice was made with results; panels without any value are left out.
    probe : str, optional
        What `score` is where the choice was made by a probe alone: such a table does not tell. With results it is the
        students' accuracy, by evidence the points by which they are predicted to stand above their mean over the
        teachers.
    tau : float, optional
        The probe's temperature.
    ax : Axes, optional
        Draw the scores alone into it.

    Returns
    -------
    ndarray of Axes
        One to three panels: the scores, the chance of being the best, the expected regret.

    Raises
    ------
    InputError
        If a column is missing.

    See Also
    --------
    capmismatch.pick : Makes the table; it is the ``table`` of a `capmismatch.Choice`.
    probe_vs_student : How well a probe predicts the students.

    Examples
    --------
    >>> table = pd.DataFrame({"family": "mlp", "teacher": ["mlp12", "mlp96"], "score": [0.7, 0.8]})
    >>> table = table.assign(low=table["score"] - 0.01, high=table["score"] + 0.01, tie=[False, True])
    >>> axes = pick_chart(table.iloc[::-1], probe="derived_std", tau=4.0)
    >>> [label.get_text() for label in axes[0].get_yticklabels()], axes[0].get_xlabel()
    (['mlp12', 'mlp96'], 'std of wrong $p$ at $\\tau$=4')
    """
    rows, extra = _select(table, one_panel=ax is not None)
    probe = table.attrs.get("probe") if probe is None else probe
    tau = table.attrs.get("tau") if tau is None else tau
    name, scale, probes = _score(table, probe, tau)
    tie = rows["tie"].fillna(False).to_numpy(bool)

    title = _title(table)
    axes = _new_axes(len(rows), len(extra), titled=bool(title)) if ax is None else np.array([ax])
    blue, grey = color_of(TIED, BLUE), color_of(WORSE, GREY)
    colors = [blue if with_best else grey for with_best in tie]
    _draw_scores(axes[0], rows, tie, colors, scale)
    axes[0].set_xlabel(name)
    if title:
        axes[0].set_title(literal(title), fontsize=mpl.rcParams["legend.fontsize"], loc="left")
    for panel, column in zip(axes[1:], extra, strict=True):
        _draw_column(panel, rows, column, tie, colors)
    for panel in axes:
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4 if panel is axes[0] else 2))
        panel.xaxis.set_major_formatter(PlainNumbers())
    filled = Line2D([], [], marker="o", color=blue)
    hollow = Line2D([], [], marker="o", color=grey, markerfacecolor="white")
    legend_above(axes, [filled, hollow], [TIED, WORSE], own_figure=ax is None)
    columns = ["label", "family", "teacher", "score", "low", "high", "tie"]
    attach(axes[0], rows[columns], probes=probes)
    for panel, column in zip(axes[1:], extra, strict=True):
        if column == "p_best":
            panel.xaxis.set_major_formatter(PlainNumbers(100.0))
        attach(panel, rows[["label", "family", "teacher", column, "tie"]])
    return axes


def _select(table: pd.DataFrame, *, one_panel: bool) -> tuple[pd.DataFrame, list[str]]:
    """Rows from the lowest to the highest on the page, with display labels, and the columns of the other panels."""
    require_columns(table, ["family", "teacher", "score", "low", "high", "tie"], WHAT)
    rows = table.assign(label=teacher_labels(table))
    extra = [] if one_panel else [name for name in PANELS if name in rows and rows[name].notna().any()]
    return rows.iloc[::-1].reset_index(drop=True), extra


def _new_axes(rows: int, extra: int, *, titled: bool) -> np.ndarray:
    """Make a wide panel and `extra` narrow ones, whose names take two lines, beside it, with room for so many rows."""
    around = 0.6 + 0.15 * (extra > 0) + 0.2 * titled
    size = (page_width(), roomy() * (0.19 * rows + around))
    return new_panels(1, 1 + extra, size, sharey=True, width_ratios=[2, *[1] * extra]).ravel()


def _title(table: pd.DataFrame) -> str:
    """The student and the setting that the table of a choice is for, where it tells."""
    about = [table.attrs.get("student"), table.attrs.get("label")]
    return ", ".join(shown_setting(str(part)) for part in about if part)


def _draw_scores(ax: Axes, rows: pd.DataFrame, tie: np.ndarray, colors: list[str], scale: float) -> None:
    """Draw each score as a point with its interval, and the teachers' names."""
    positions = np.arange(len(rows))
    middle, low, high = (scale * rows[column] for column in ("score", "low", "high"))
    ax.hlines(positions, low, high, colors=colors, linewidth=1.2)
    faces = [color if with_best else "white" for color, with_best in zip(colors, tie, strict=True)]
    dots = ax.scatter(middle, positions, facecolors=faces, edgecolors=colors, zorder=3, s=16)
    ends = zip(rows["label"], middle, low, high, strict=True)
    note_points(dots, [f"{label}: {value:.4g} [{least:.4g}, {most:.4g}]" for label, value, least, most in ends])
    names = names_on(ax, rows["label"])
    ax.set_yticks(positions, [literal(names[label]) for label in rows["label"]])
    ax.margins(y=0.06)


def _draw_column(ax: Axes, rows: pd.DataFrame, column: str, tie: np.ndarray, colors: list[str]) -> None:
    """Draw a column as bars, filled where the teacher ties with the best."""
    positions = np.arange(len(rows))
    ax.barh(positions, rows[column].to_numpy(float), 0.65, facecolor="none", edgecolor=colors, linewidth=0.8)
    filled = rows[column].where(tie).to_numpy(float)
    ax.barh(positions, filled, 0.65, color=colors, edgecolor=colors, linewidth=0.8)
    name = PANELS[column].replace("points", "nats") if "nll" in rows and "measured" in rows else PANELS[column]
    ax.set_xlabel(name)


def _score(table: pd.DataFrame, probe: str | None, tau: float | None) -> tuple[str, float, list[str]]:
    """What the score is, with its unit, by what to multiply it, and the probes that it shows."""
    if "accuracy" in table:
        return "students' accuracy (%)", 100.0, []
    if "nll" in table and "measured" in table:
        return "students' NLL (nats, less is better)", 1.0, []
    if "measured" in table:
        return "predicted students' accuracy\n(points above their mean)", 1.0, []
    if probe is None:
        return "score of the rule", 1.0, []
    at = "" if tau is None or np.isnan(tau) else rf" at $\tau$={tau:g}"
    return SIZE_NAMES.get(probe) or symbol(probe) + at, 1.0, [probe]
