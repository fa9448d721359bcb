"""Student accuracy against teacher size, a panel a setting: for more settings than one panel can hold."""

from __future__ import annotations

from collections import defaultdict

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.plots._axes import family_handles, legend_above, panels, size_axis, size_positions, value_axis
from capmismatch.plots._common import by_size, groups, listed, literal
from capmismatch.plots.capacity_curve import (
    RING,
    distilled,
    draw_baseline,
    draw_students,
    draw_teachers,
    teacher_accuracy,
)

NEEDS = ("results", "probes")
CAPTION = (
    "Accuracy of the student against its teacher's size, a panel for each method setting, beside the teachers' own "
    "accuracy. Bars: 95 % intervals from three runs on, else single runs as points; band: plain training."
)


def capacity_grid(
    results: pd.DataFrame,
    *,
    student: str | None = None,
    teachers: pd.DataFrame | None = None,
    split: str = "test",
    by: str = "params",
) -> np.ndarray:
    r"""Draw `capacity_curve` as small multiples: a panel for each method setting (``label``), one scale a row.

    Parameters
    ----------
    results, student, split, by
        As for `capacity_curve`.
    teachers
        A probes table; its ``accuracy`` rows get a panel of their own, the last, with its own axis.

    Returns
    -------
    ndarray of Axes
        Shape (number of panels,).

    Raises
    ------
    InputError
        If a column, the split, or the student is missing.

    Examples
    --------
    >>> rows = {"family": "mlp", "teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0], "student": "mlp12"}
    >>> results = pd.DataFrame({**rows, "method": "KD", "label": "KD", "split": "test", "accuracy": [0.81, 0.79]})
    >>> both = pd.concat([results, results.assign(label="KD tau=2")])
    >>> [ax.get_title(loc="left").split("\n") for ax in capacity_grid(both)]
    [['KD', '−2.0'], ['KD tau=2', '−2.0']]
    """
    taught, plain = distilled(results, student=student, teachers=teachers, split=split, by=by)
    sizes = by_size(taught, by)
    positions = size_positions(sizes)
    taught = taught.assign(x=taught["label"].map(positions))
    accuracy = None if teachers is None else teacher_accuracy(teachers, taught, split)
    axes = panels(taught["setting"].nunique() + (accuracy is not None), inches=1.6)
    shown = pd.concat([taught["accuracy"], plain["accuracy"]])
    of_students = axes[: taught["setting"].nunique()]
    ringed = False
    for ax, (setting, some) in zip(of_students, groups(taught, "setting"), strict=True):
        _, (told, *_), peaks = draw_students(ax, some)
        ringed |= peaks
        _title(ax, setting, told)
        baseline = [draw_baseline(ax, plain)] if len(plain) else []
        value_axis(ax, "", shown, percent=True)
        ax.set_ylabel("")
    _rows_share(of_students)
    if accuracy is not None:
        draw_teachers(axes[-1], accuracy.assign(x=accuracy["label"].map(positions)))
        axes[-1].set_ylabel("")
        _title(axes[-1], "the teachers themselves", "")
    for ax in axes:
        size_axis(ax, sizes, by)
        what = ax.get_xlabel()
        ax.set_xlabel("")
    axes[0].figure.supxlabel(what)
    axes[0].figure.supylabel("accuracy (%)" if shown.max() <= 1 else "accuracy")
    handles, labels = family_handles(axes[0], listed(taught["family"]))
    if baseline:
        handles += baseline
        labels.append("CE (no teacher)")
    if ringed:
        handles.append(Line2D([], [], **RING))
        labels.append("peak (change to the largest teacher)")
    legend_above(axes[0], handles, labels, own=True)
    return axes


def _rows_share(axes: np.ndarray) -> None:
    """Give the panels of a row one accuracy axis: one poor setting would flatten all others if all shared it."""
    row: dict[int, list[Axes]] = defaultdict(list)
    for ax in axes:
        row[ax.get_subplotspec().rowspan.start].append(ax)
        ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
    for together in row.values():
        low, high = zip(*(ax.get_ylim() for ax in together), strict=True)
        for ax in together:
            ax.set_ylim(min(low), max(high))


def _title(ax: Axes, setting: str, told: str) -> None:
    """The setting, and below it what is told of its peaks."""
    changes = told.removeprefix(setting).strip(" ()")
    ax.set_title(f"{literal(setting)}\n{literal(changes)}", fontsize=mpl.rcParams["legend.fontsize"], loc="left")
