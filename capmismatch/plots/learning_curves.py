"""Learning curves of students: validation score and training loss over epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.plots._axes import legend_above, outer_labels_only, panels, value_axis
from capmismatch.plots._common import groups, listed, literal, over_runs, sole
from capmismatch.plots._options import drawing, shown_setting
from capmismatch.plots._save import attach
from capmismatch.plots._style import setting_looks
from capmismatch.stats.late_gains import LAST

NEEDS = ("curves",)
CAPTION = (
    "Students after each epoch: validation score, and the training loss, which is in the unit of each method. Lines: "
    "mean over teachers and seeds; bands: 95 % intervals from three runs on. Grey: the last fifth of the training."
)
WHAT = "the curves table"
NAMES = {
    "val_accuracy": "validation accuracy",
    "val_nll": "validation NLL (nats)",
    "loss": "training loss",
}


@drawing(curves="curves")
def learning_curves(
    curves: pd.DataFrame,
    *,
    student: str | None = None,
    settings: Sequence[str] | None = None,
    teacher: str | None = None,
) -> np.ndarray:
    """Draw how a student learns: a panel for its validation score, where it was measured, and one for its loss.

    Parameters
    ----------
    curves : DataFrame or Study
        Of `capmismatch.Study.curves`. Columns ``family, teacher, student, method, label, seed, epoch, loss``, and
        ``val_accuracy`` or ``val_nll``.
    student : str, optional
        Needed where the table has several.
    settings : sequence of str, optional
        Labels of the settings to draw; by default all.
    teacher : str, optional
        Draw the students of this teacher alone, by its name; by default those of all, and plain ones.

    Returns
    -------
    ndarray of Axes
        Shape (1,) or (2,).

    Raises
    ------
    InputError
        If a column, student, setting or teacher is missing.

    See Also
    --------
    capmismatch.late_gains : What students still gained at the end, with intervals.

    Examples
    --------
    >>> curves = pd.DataFrame({"epoch": [1, 2, 3], "val_accuracy": [0.5, 0.6, 0.65], "loss": [1.5, 1.2, 1.1]})
    >>> curves = curves.assign(family="mlp", teacher="mlp96", student="mlp12", method="KD", label="KD", seed=0)
    >>> learning_curves(curves)[0].lines[0].get_ydata()
    array([0.5 , 0.6 , 0.65])
    """
    require_columns(curves, ["family", "teacher", "student", "method", "label", "seed", "epoch", "loss"], WHAT)
    rows = sole(curves, "student", WHAT, student)
    if teacher is not None:
        must_be_one_of(teacher, listed(rows["teacher"]), "teacher")
        rows = rows[rows["teacher"].eq(teacher)]
    for setting in settings or ():
        must_be_one_of(setting, listed(rows["label"]), "a setting")
    rows = rows if settings is None else rows[rows["label"].isin(settings)]
    measured = [name for name in NAMES if name in rows and rows[name].notna().any()]
    if not measured:
        raise InputError(f"{WHAT} has no epoch that has ended")
    looks = setting_looks(dict(zip(rows["label"], rows["method"], strict=True)))
    axes = panels(len(measured), narrowest=2.6, inches=1.8)
    handles: dict[str, Line2D] = {}
    for ax, name in zip(axes, measured, strict=True):
        _draw(ax, rows, name, looks, handles)
    outer_labels_only(axes)
    legend_above(axes, list(handles.values()), list(handles), own_figure=True)
    return axes


def _draw(ax: Axes, rows: pd.DataFrame, name: str, looks: dict[str, dict], handles: dict[str, Line2D]) -> None:
    """A line with its band for each setting, and the last part of the training in grey."""
    table = over_runs(rows, ["label", "epoch"], name).sort_values("epoch", kind="stable")
    for setting, of_setting in groups(table, "label"):
        look = {key: value for key, value in looks[setting].items() if key != "marker"}
        marker = looks[setting]["marker"] if len(of_setting) < 2 else None  # a line needs two epochs to show
        (line,) = ax.plot(
            of_setting["epoch"], of_setting["mean"], marker=marker, label=literal(shown_setting(setting)), **look
        )
        band = {"color": look["color"], "alpha": 0.15, "lw": 0}
        ax.fill_between(of_setting["epoch"], of_setting["low"], of_setting["high"], **band)
        handles.setdefault(setting, line)
    last = rows["epoch"].max()
    if last > 1:
        ax.axvspan(last * (1 - LAST), last, color="0.93", zorder=0, lw=0)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=2))
    ax.set_xlabel("epoch")
    value_axis(ax, NAMES[name], table["mean"], percent=name == "val_accuracy", on_top=True)
    attach(ax, table.assign(measure=name))
