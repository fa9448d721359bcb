"""Student accuracy against what the teacher costs, and the teachers that no cheaper one equals."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import legend_above, one_axes, size_axis, value_axis
from capmismatch.plots._common import listed, literal, sole, teacher_labels
from capmismatch.plots._labels import label_points, names_on
from capmismatch.plots._options import color_of, drawing, shown_setting
from capmismatch.plots._save import attach, note_points
from capmismatch.plots._style import BLUE, GREY, METHOD_LOOKS

NEEDS = ("results", "probes")
CAPTION = (
    "Accuracy of the student against its teacher's size, with 95 % intervals. Teachers on the Pareto front, which no "
    "smaller one equals, are filled; the line is the best accuracy for a teacher of at most that size."
)
WHAT = "the table of the Pareto front"
COLUMNS = ("student", "label", "family", "teacher", "accuracy", "low", "high", "on_front")


@drawing(table="pareto_front")
def pareto_front(
    table: pd.DataFrame, *, cost: str = "params", student: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw student accuracy against teacher cost on a log axis, with intervals, and the Pareto front as a line.

    Teachers on the front are filled and named, the others hollow and grey. Plain cross-entropy, which has no teacher
    and so no cost, is a dashed line with its interval as a band.

    Parameters
    ----------
    table : DataFrame, Study or Diagnosis
        That of `capmismatch.pareto_front`, made for the same cost.
    cost : str
        Column with the teachers' cost. Teachers of unknown cost are left out.
    student : str, optional
        Needed where the table has several.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
        That with the points.

    Raises
    ------
    InputError
        If a column or the student is missing, or the cost is known of no teacher.

    See Also
    --------
    capmismatch.pareto_front : Makes the table.
    capacity_curve : Every setting, as measured.

    Examples
    --------
    >>> table = pd.DataFrame({"student": "net", "label": "KD", "family": "mlp", "teacher": ["a", "b", "c"],
    ...     "params": [1e5, 4e5, 9e5], "accuracy": [0.60, 0.64, 0.62], "on_front": [True, True, False]})
    >>> table = table.assign(low=table["accuracy"] - 0.01, high=table["accuracy"] + 0.01)
    >>> ax = pareto_front(table)
    >>> [text.get_text() for text in ax.texts], ax.get_xlabel()
    (['a', 'b'], 'teacher parameters')
    """
    require_columns(table, [*COLUMNS, cost], WHAT)
    rows = sole(table, "student", WHAT, student)
    plain, taught = rows[rows["teacher"].eq("")], rows[rows["teacher"].ne("") & rows[cost].notna()]
    if taught.empty:
        raise InputError(f"{WHAT} knows the cost {cost!r} of no teacher")
    taught = taught.assign(label=teacher_labels(taught), setting=taught["label"]).sort_values(cost, kind="stable")
    own_figure, ax = ax is None, one_axes(ax)
    front, beside = taught[taught["on_front"]], taught[~taught["on_front"].astype(bool)]
    handles, labels = [], []
    blue, grey = color_of("Pareto front", BLUE), color_of("other teachers", GREY)
    if len(front):
        ends = np.append(front[cost], taught[cost].max())
        ax.step(ends, np.append(front["accuracy"], front["accuracy"].iloc[-1]), where="post", color=blue, linewidth=0.9)
    for part, face, edge, name in ((front, blue, blue, "Pareto front"), (beside, "white", grey, "other teachers")):
        if len(part):
            ax.vlines(part[cost], part["low"], part["high"], colors=edge, linewidth=0.9, zorder=1.9)
            dots = ax.scatter(part[cost], part["accuracy"], facecolors=face, edgecolors=edge, s=16, zorder=3)
            note_points(dots, [f"{row['label']}: {row['accuracy']:.4g}" for row in part.to_dict("records")])
            handles.append(Line2D([], [], marker="o", color=edge, markerfacecolor=face))
            labels.append(name)
    if len(plain):
        row, color = plain.iloc[0], color_of("CE", METHOD_LOOKS["CE"][0])
        ax.axhspan(row["low"], row["high"], color=color, alpha=0.18, linewidth=0)
        handles.append(ax.axhline(row["accuracy"], color=color, linestyle="--", linewidth=0.9))
        labels.append("CE (no teacher)")
        attach(ax, plain.assign(label="CE"))
    size_axis(ax, taught.set_index("label")[cost], cost)
    value_axis(ax, "student accuracy", rows[["low", "high"]], percent=True)
    setting = ", ".join(shown_setting(name) for name in listed(taught["setting"]))
    ax.set_title(
        f"{literal(listed(rows['student'])[0])}, {literal(setting)}",
        fontsize=mpl.rcParams["legend.fontsize"],
        loc="left",
    )
    legend_above(ax, handles, labels, own_figure=own_figure)
    if len(front):
        names = names_on(ax, taught["label"])
        shown = list(front["label"].map(names))
        label_points(ax, front[cost].to_numpy(float), front["high"].to_numpy(float), shown)  # clear of the line
    attach(ax, taught)
    return ax
