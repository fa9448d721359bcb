"""Accuracy against confidence: is a teacher as right as it says?"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

from capmismatch.errors import require_columns
from capmismatch.plots._axes import legend_above, one_axes
from capmismatch.plots._common import listed, rows_where, teacher_labels
from capmismatch.plots._save import attach
from capmismatch.plots._style import ordered_looks

WHAT = "the reliability table"


def reliability_diagram(bins: pd.DataFrame, *, teachers: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw accuracy against mean confidence, bin by bin, for each teacher; the diagonal is perfect calibration.

    A marker's area follows the share of the teacher's examples in its bin; empty bins are left out. Below the diagonal
    a teacher is overconfident.

    Parameters
    ----------
    bins
        Columns ``family, teacher, bin_low, bin_high, confidence, accuracy, n``, teachers from small to large.
    teachers
        Display labels; by default all.
    ax
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If a column or a teacher is missing.

    Examples
    --------
    >>> bins = pd.DataFrame({"bin_low": [0.0, 0.5], "bin_high": [0.5, 1.0], "confidence": [0.4, 0.9]})
    >>> bins = bins.assign(accuracy=[0.4, 0.8], n=[20, 80], family="mlp", teacher="mlp12")
    >>> reliability_diagram(bins).lines[1].get_ydata()
    array([0.4, 0.8])
    """
    require_columns(bins, ["family", "teacher", "bin_low", "bin_high", "confidence", "accuracy", "n"], WHAT)
    rows = bins.assign(label=teacher_labels(bins))
    if teachers is not None:
        rows = rows_where(rows, WHAT, label=list(teachers))
    rows = rows[rows["n"] > 0]

    own = ax is None
    ax = one_axes(ax, ratio=0.85)
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    handles = []
    looks = ordered_looks(listed(rows["label"]))
    for label, look in looks.items():
        table = rows[rows["label"] == label].sort_values("bin_low", ignore_index=True)
        ax.plot(table["confidence"], table["accuracy"], linewidth=0.9, **{**look, "marker": ""})
        share = table["n"] / table["n"].sum()
        area = (mpl.rcParams["lines.markersize"] * 1.8) ** 2 * share
        ax.scatter(table["confidence"], table["accuracy"], s=area + 2, linewidth=0, **look)
        handles.append(Line2D([], [], **look))
        attach(ax, table)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    legend_above(ax, handles, list(looks), own=own)
    return ax
