"""Student accuracy over the two temperatures of asymmetric temperature scaling."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import one_axes
from capmismatch.plots._common import listed, rows_where, sole, teacher_labels
from capmismatch.plots._labels import tiny_points
from capmismatch.plots._options import color_map, drawing
from capmismatch.plots._save import attach

NEEDS = ("results",)
CAPTION = "Accuracy of the students over the two temperatures of ATS, mean over runs. A frame marks the best pair."
WHAT = "the results table"


@drawing(results="results")
def temperature_heatmap(
    results: pd.DataFrame,
    *,
    student: str | None = None,
    teacher: str | None = None,
    method: str = "ATS",
    split: str = "test",
    ax: Axes | None = None,
) -> Axes:
    """Draw student accuracy over tau (target class) and tau_other (the wrong classes) as a heatmap.

    A cell is the mean over runs. With several teachers it is the mean of their means, and cells that lack any teacher
    stay blank (hatched), since their mean would not compare. The best cell has a frame.

    Parameters
    ----------
    results : DataFrame, Study or Diagnosis
        Columns ``family, teacher, student, method, tau, tau_other, split, accuracy``.
    student : str, optional
        Needed where the table has several.
    teacher : str, optional
        Display label of one teacher; by default all.
    method : str
        A method with two temperatures.
    split : str
        Which rows to draw.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
        That with the cells.

    Raises
    ------
    InputError
        If a column, student, teacher, method or split is missing, or other settings (weight, margin, ...) vary.

    See Also
    --------
    capmismatch.load_results : Makes the table.
    capmismatch.temperature.ats : The method with two temperatures.

    Examples
    --------
    >>> results = pd.DataFrame({"tau": [4, 4], "tau_other": [2, 4], "accuracy": [0.8, 0.7], "family": "mlp"})
    >>> results = results.assign(teacher="mlp96", student="mlp12", method="ATS", split="test")
    >>> temperature_heatmap(results).collections[0].get_array().ravel().tolist()
    [80.0, 70.0]
    """
    grid, teachers = _select(results, student, teacher, method, split)

    ax = one_axes(ax, ratio=0.75)
    ax.set_facecolor("0.92")
    ax.patch.set(hatch="////", edgecolor="0.75")
    _draw_cells(ax, grid, f", mean over {teachers} teachers" if teachers > 1 else "")
    ax.invert_yaxis()
    ax.set(xlabel=r"$\tau$ (target class)", ylabel=r"$\tau_{other}$ (wrong classes)")
    ax.tick_params(length=0, labelrotation=0)
    attach(ax, grid.reset_index().melt(id_vars="tau_other", value_name="accuracy").dropna(ignore_index=True))
    return ax


def _select(
    results: pd.DataFrame, student: str | None, teacher: str | None, method: str, split: str
) -> tuple[pd.DataFrame, int]:
    """Mean accuracy by `tau_other` (rows) and `tau` (columns), NaN where a teacher lacks it; how many teachers."""
    require_columns(results, ["family", "teacher", "student", "method", "tau", "tau_other", "split", "accuracy"], WHAT)
    rows = sole(rows_where(results, WHAT, method=method, split=split), "student", WHAT, student)
    rows = rows.assign(label=teacher_labels(rows))
    if teacher is not None:
        rows = rows_where(rows, WHAT, label=teacher)
    for column in ("tau_student", "weight", "constraint", "margin"):
        if column in rows and len(several := listed(rows[column])) > 1:
            raise InputError(f"{WHAT} has {method} with several values of {column}: {several}; filter to one")
    count = rows["label"].nunique()
    means = rows.groupby(["tau_other", "tau", "label"])["accuracy"].mean().groupby(level=["tau_other", "tau"])
    grid = means.mean().where(means.count() == count).unstack("tau")
    if grid.isna().all(axis=None):
        raise InputError(f"{WHAT} has no {method} setting with which all {count} teachers taught; name a teacher")
    return grid, count


def _draw_cells(ax: Axes, grid: pd.DataFrame, over: str) -> None:
    """Draw the cells with a colour bar, numbers where there are few, and a frame around the best."""
    percent = np.nanmax(grid) <= 1
    values = grid.to_numpy() * (100 if percent else 1)
    sns.heatmap(
        values,
        cmap=color_map("viridis"),
        ax=ax,
        annot=max(values.shape) <= 8,
        fmt=".1f",
        annot_kws={"fontsize": tiny_points()},
        xticklabels=[f"{tau:g}" for tau in grid.columns],
        yticklabels=[f"{tau:g}" for tau in grid.index],
        cbar_kws={"label": "student accuracy" + (" (%)" if percent else "") + over},
    )
    best_row, best_column = divmod(int(np.nanargmax(values)), values.shape[1])
    frame = Rectangle((best_column, best_row), 1, 1, fill=False, edgecolor="black", linewidth=1.5, clip_on=False)
    ax.add_patch(frame)
