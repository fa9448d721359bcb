"""Student accuracy against teacher size, one panel per setting: for more settings than one panel can hold."""

from __future__ import annotations

from collections import defaultdict

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.plots._axes import RING, family_handles, legend_above, panels, size_axis, size_positions, value_axis
from capmismatch.plots._common import by_size, groups, listed, literal
from capmismatch.plots._options import drawing, shown_setting
from capmismatch.plots.capacity_curve import (
    METRICS,
    draw_baseline,
    draw_students,
    draw_teachers,
    measured_by,
    ring_name,
    student_rows,
    teacher_accuracy,
)

NEEDS = ("results", "probes")
CAPTION = (
    "Accuracy of the student against its teacher's size, one panel per method setting, with the teachers' own "
    "accuracy. Bars: 95 % intervals with three or more runs, else single runs as points; band: plain training."
)


@drawing(results="results", teachers="probes")
def capacity_grid(
    results: pd.DataFrame,
    *,
    student: str | None = None,
    teachers: pd.DataFrame | None = None,
    split: str = "test",
    by: str = "params",
    metric: str = "accuracy",
) -> np.ndarray:
    r"""Draw `capacity_curve` as small multiples: a panel for each method setting (``label``), one scale per row.

    Parameters
    ----------
    results : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, student, method, label, seed, split, accuracy``.
    student : str, optional
        Needed where the table has several.
    teachers : DataFrame, optional
        A probes table; its ``accuracy`` rows get a panel of their own, the last, with its own axis.
    split : str
        Which rows to draw.
    by : str
        Column that holds the size. Where it is NaN for any teacher, teachers stand side by side in table order.
    metric : str
        What is drawn, as in `capacity_curve`.

    Returns
    -------
    ndarray of Axes
        Shape (number of panels,).

    Raises
    ------
    InputError
        If a column, the split, or the student is missing.

    See Also
    --------
    capacity_curve : The same in one panel.
    capmismatch.load_results : Makes the table.

    Examples
    --------
    >>> rows = {"family": "mlp", "teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0], "student": "mlp12"}
    >>> results = pd.DataFrame({**rows, "method": "KD", "label": "KD", "split": "test", "accuracy": [0.81, 0.79]})
    >>> both = pd.concat([results, results.assign(label="KD tau=2")])
    >>> [ax.get_title(loc="left").split("\n") for ax in capacity_grid(both)]
    [['KD', '−2.0 from peak'], ['KD τ=2', '−2.0 from peak']]
    """
    results = measured_by(results, metric)
    students, baseline = student_rows(results, student=student, teachers=teachers, split=split, by=by)
    sizes = by_size(students, by)
    positions = size_positions(sizes)
    students = students.assign(x=students["label"].map(positions))
    accuracy = teacher_accuracy(teachers, students, split, metric)

    settings = students["setting"].nunique()
    axes = panels(settings + (accuracy is not None), inches=1.6)
    shown = pd.concat([students["accuracy"], baseline["accuracy"]])
    ringed = False
    baseline_lines: list[Line2D] = []
    for ax, (setting, rows) in zip(axes[:settings], groups(students, "setting"), strict=True):
        _, (label, *_), peaks = draw_students(ax, rows, metric)
        label = label.removeprefix(shown_setting(setting))
        ringed |= peaks
        _title(ax, shown_setting(setting), label)
        baseline_lines = [draw_baseline(ax, baseline)] if len(baseline) else []
        value_axis(ax, "", shown, percent=metric == "accuracy")
        ax.set_ylabel("")
    _share_rows(axes[:settings])
    if accuracy is not None:
        draw_teachers(axes[-1], accuracy.assign(x=accuracy["label"].map(positions)), metric)
        axes[-1].set_ylabel("")
        _title(axes[-1], "the teachers themselves", "")
    for ax in axes:
        size_axis(ax, sizes, by)
        size_name = ax.get_xlabel()
        ax.set_xlabel("")
    axes[0].figure.supxlabel(size_name)
    axes[0].figure.supylabel(METRICS[metric] + (" (%)" if metric == "accuracy" and shown.max() <= 1 else ""))
    handles, labels = family_handles(axes[0], listed(students["family"]))
    if baseline_lines:
        handles += baseline_lines
        labels.append("CE (no teacher)")
    if ringed:
        handles.append(Line2D([], [], **RING))
        labels.append(ring_name(metric))
    legend_above(axes, handles, labels, own_figure=True)
    return axes


def _share_rows(axes: np.ndarray) -> None:
    """Give the panels of a row one accuracy axis: one poor setting would flatten all others if all shared it."""
    rows: dict[int, list[Axes]] = defaultdict(list)
    for ax in axes:
        rows[ax.get_subplotspec().rowspan.start].append(ax)
        ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
    for neighbours in rows.values():
        low, high = zip(*(ax.get_ylim() for ax in neighbours), strict=True)
        for ax in neighbours:
            ax.set_ylim(min(low), max(high))


def _title(ax: Axes, setting: str, changes: str) -> None:
    """The setting, and below it the changes from its peaks."""
    changes = changes.strip(" ()")
    ax.set_title(f"{literal(setting)}\n{literal(changes)}", fontsize=mpl.rcParams["legend.fontsize"], loc="left")
