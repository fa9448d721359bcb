"""How far students follow their teacher, against its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from capmismatch._utils.setting_labels import must_be_a_label
from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.plots._axes import (
    family_handles,
    family_styles,
    legend_above,
    outer_labels_only,
    panels,
    run_line,
    size_axis,
    size_positions,
    value_axis,
)
from capmismatch.plots._common import by_size, groups, lines_over_runs, listed
from capmismatch.plots._options import drawing
from capmismatch.plots._save import attach
from capmismatch.plots._style import setting_looks
from capmismatch.plots.capacity_curve import BESIDE, WHAT, student_rows

NEEDS = ("results",)
CAPTION = (
    "How far students follow their teacher against its size: share of examples for which both name the same class, and "
    "divergence, on held-out and on training rows. Bars: 95 % intervals from three runs on, else single runs as points."
)
NAMES = {
    "fidelity": "agreement, held out",
    "train_fidelity": "agreement, training",
    "kl": "KL at τ = 1, held out (nats)",
    "train_kl": "KL at τ = 1, training (nats)",
    "kl_tau4": "KL at τ = 4, held out (nats)",
    "train_kl_tau4": "KL at τ = 4, training (nats)",
}
DRAWN = ("fidelity", "train_fidelity", "kl", "train_kl")


@drawing(results="results")
def fidelity_vs_capacity(
    results: pd.DataFrame,
    *,
    measures: Sequence[str] = DRAWN,
    student: str | None = None,
    settings: Sequence[str] | None = None,
    split: str = "test",
    by: str = "params",
) -> np.ndarray:
    """Draw how far students follow their teacher against its size, a panel for each measure, a line for each setting.

    Parameters
    ----------
    results : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, student, method, label, seed, split, accuracy``, and those of `measures`.
    measures : sequence of str
        Of ``fidelity``, ``kl``, ``kl_tau4``, and the same on training rows, ``train_fidelity``, ...
    student : str, optional
        Needed where the table has several.
    settings : sequence of str, optional
        Labels of the settings to draw; by default all.
    split : str
        Held-out rows to draw.
    by : str
        Column that holds the size. Where it is NaN for any teacher, teachers stand side by side in table order.

    Returns
    -------
    ndarray of Axes
        Shape (number of measures,).

    Raises
    ------
    InputError
        If a column, the split, or the student is missing, a measure is unknown or has no values, as in tables of
        students that were not trained here.

    See Also
    --------
    capacity_curve : How accurate the students are.
    capmismatch.load_results : Says what the columns mean.

    Examples
    --------
    >>> rows = {"family": "mlp", "teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0], "student": "mlp12"}
    >>> results = pd.DataFrame({**rows, "method": "KD", "label": "KD", "split": "test", "accuracy": [0.81, 0.79]})
    >>> axes = fidelity_vs_capacity(results.assign(fidelity=[0.9, 0.8]), measures=["fidelity"])
    >>> axes[0].lines[0].get_ydata()
    array([0.9, 0.8])
    """
    for measure in measures:
        must_be_one_of(measure, NAMES, "a measure")
    require_columns(results, measures, WHAT)
    students, _ = student_rows(results, student=student, teachers=None, split=split, by=by)
    if settings is not None:
        for setting in settings:
            must_be_a_label(setting, listed(students["setting"]), "a setting")
        students = students[students["setting"].isin(settings)]
    empty = next((measure for measure in measures if students[measure].isna().all()), None)
    if empty is not None:
        raise InputError(f"{WHAT} has no values of {empty}: the grid measures it on students that it trains")
    sizes = by_size(students, by)
    students = students.assign(x=students["label"].map(size_positions(sizes)))
    looks = setting_looks(dict(zip(students["setting"], students["method"], strict=True)))
    families = listed(students["family"])
    styles = family_styles(families)
    axes = panels(len(measures), narrowest=2.6, inches=1.8)
    handles: dict[str, Line2D] = {}
    for ax, measure in zip(axes, measures, strict=True):
        for number, (setting, rows) in enumerate(groups(students, "setting")):
            shift = BESIDE * (number - (len(looks) - 1) / 2)
            for (_, family), table, runs in lines_over_runs(rows, ["setting", "family"], measure):
                look = {**looks[setting], **({"linestyle": styles[family]} if len(families) > 1 else {})}
                line = run_line(ax, table, runs.rename(columns={measure: "value"}), shift=shift, name=setting, **look)
                handles.setdefault(setting, line)
                attach(ax, table.assign(measure=measure))
        size_axis(ax, sizes, by)
        value_axis(ax, NAMES[measure], students[measure], percent="fidelity" in measure, on_top=True)
    outer_labels_only(axes)
    lines, names = family_handles(axes[0], families)
    legend_above(axes, [*handles.values(), *lines], [*handles, *names], own_figure=True)
    return axes
