"""Accuracy against confidence: is a teacher as right as it says?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator
from scipy.stats import norm

from capmismatch.errors import require_columns
from capmismatch.plots._axes import legend_above
from capmismatch.plots._common import families_by_size, groups, literal, rows_where, teacher_labels
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import drawing, new_panels, page_width
from capmismatch.plots._save import attach
from capmismatch.plots._style import teacher_looks

NEEDS = ("reliability",)
CAPTION = (
    "Accuracy against confidence per bin: below the diagonal a teacher is overconfident. Bars: 95 % Wilson "
    "intervals; faint points: bins of fewer than 20 examples."
)
WHAT = "the reliability table"
FEW = 20  # examples; the interval of a bin of fewer is wider than 0.4 at worst


@drawing(bins="reliability")
def reliability_diagram(bins: pd.DataFrame, *, teachers: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw accuracy against mean confidence, bin by bin, for each teacher; the diagonal is perfect calibration.

    Bars are 95 % Wilson intervals of a bin's accuracy. A bin of fewer than 20 examples is a faint, hollow point without
    bar or line, and an empty one is left out. A slim panel below tells how many examples each bin has. Bins of several
    runs of a teacher are averaged, each run weighted with its examples; `n` is then that of a run. Below the diagonal a
    teacher is overconfident.

    Parameters
    ----------
    bins : DataFrame, Study or Diagnosis
        Columns ``family, teacher, bin_low, bin_high, confidence, accuracy, n``, teachers from small to large.
    teachers : sequence of str, optional
        Display labels; by default all.
    ax : Axes, optional
        Draw the accuracies alone into it; by default a new figure.

    Returns
    -------
    Axes
        That of the accuracies.

    Raises
    ------
    InputError
        If a column or a teacher is missing.

    See Also
    --------
    capmismatch.reliability : Makes the table.
    capmismatch.probes.ece : The expected calibration error, which sums the distances to the diagonal up.

    Examples
    --------
    >>> bins = pd.DataFrame({"bin_low": [0.0, 0.5], "bin_high": [0.5, 1.0], "confidence": [0.4, 0.9]})
    >>> bins = bins.assign(accuracy=[0.4, 0.8], n=[20, 80], family="mlp", teacher="mlp12")
    >>> reliability_diagram(bins).lines[1].get_ydata()
    array([0.4, 0.8])
    """
    table, looks = _select(bins, teachers)

    own_figure, counts = ax is None, None
    if ax is None:
        size = (page_width(), min(page_width() * 1.05, 4.6))
        ax, counts = new_panels(2, 1, size, sharex=True, height_ratios=[4, 1]).ravel()
        _draw_counts(counts, table, looks)
    names, labels = names_on(ax, looks), list(dict.fromkeys(table["label"]))
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    for label, rows in groups(table, "label"):
        _draw(ax, rows, looks[label], literal(names[label]))
        attach(ax, rows, probes=["accuracy", "confidence"])
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    (ax if counts is None else counts).set_xlabel("confidence")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    handles = [Line2D([], [], **looks[label]) for label in labels]
    legend_above(ax, handles, [names[label] for label in labels], own_figure=own_figure)
    return ax


def _select(bins: pd.DataFrame, teachers: Sequence[str] | None) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Bins of the chosen teachers, averaged over runs, and the look of every teacher."""
    require_columns(bins, ["family", "teacher", "bin_low", "bin_high", "confidence", "accuracy", "n"], WHAT)
    rows = bins.assign(label=teacher_labels(bins))
    looks = teacher_looks(families_by_size(rows))
    if teachers is not None:
        rows = rows_where(rows, WHAT, label=list(teachers))
    return _over_runs(rows), looks


def _over_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per teacher and bin that holds examples, with the interval ``low, high`` of its accuracy."""
    rows = rows[rows["n"] > 0]
    sums = rows.assign(confidence=rows["confidence"] * rows["n"], accuracy=rows["accuracy"] * rows["n"], runs=1)
    keys = ["family", "teacher", "label", "bin_low", "bin_high"]
    table = sums.groupby(keys, sort=False)[["confidence", "accuracy", "n", "runs"]].sum().reset_index()
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(table["n"], axis=0)
    table["n"] /= table.pop("runs")
    table["low"], table["high"] = _wilson(table["accuracy"].to_numpy(float), table["n"].to_numpy(float))
    order = table["label"].map({label: number for number, label in enumerate(dict.fromkeys(table["label"]))})
    return table.assign(order=order).sort_values(["order", "bin_low"], ignore_index=True).drop(columns="order")


def _wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a share of n examples (Wilson, 1927)."""
    square = norm.ppf(0.975) ** 2 / n
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return middle - half, middle + half


def _draw(ax: Axes, table: pd.DataFrame, look: dict, name: str) -> None:
    """Draw one teacher: a line with intervals over bins of many examples, hollow points for those of few."""
    many = table["n"] >= FEW
    sure, few = table.where(many), table[~many]  # NaN breaks the line
    ax.plot(sure["confidence"], sure["accuracy"], linewidth=0.9, clip_on=False, label=name, **look)
    ax.vlines(sure["confidence"], sure["low"], sure["high"], color=look["color"], linewidth=0.6, alpha=0.7, zorder=1.9)
    ax.plot(
        few["confidence"],
        few["accuracy"],
        linestyle="",
        **look,
        markersize=2.5,
        markerfacecolor="none",
        markeredgewidth=0.5,
        alpha=0.5,
        zorder=1.8,
    )


def _draw_counts(ax: Axes, table: pd.DataFrame, looks: dict) -> None:
    """Examples by bin, on a log axis: nearly all of a good teacher's lie in the last bin."""
    edges = np.unique(table[["bin_low", "bin_high"]])
    for label, rows in groups(table, "label"):
        counts = rows.groupby("bin_low")["n"].sum().reindex(edges[:-1]).fillna(0)
        ax.stairs(counts, edges, color=looks[label]["color"], linewidth=0.9)
    ax.set(yscale="log", ylim=(0.8, 2 * table["n"].max()), ylabel="examples")
    ax.yaxis.set_major_locator(LogLocator(numticks=3))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
