"""Several probes against the accuracy of the students, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import legend_above, panels, symbol
from capmismatch.plots._labels import names_on
from capmismatch.plots._style import teacher_looks
from capmismatch.plots.probe_vs_student import ceiling_text, probe_vs_student, teacher_points

NEEDS = ("probes", "results", "links")
CAPTION = (
    "Each probe of the teachers against the accuracy of their students, with the rank correlation and its interval. "
    "The ceiling is the highest correlation to expect of any probe. Bars: 95 % intervals over the students' runs, with "
    "three or more."
)
SHORT = {"derived_variance": "DV", "inherent_variance": "IV", "derived_average": "DA"}


def probe_vs_student_grid(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    *,
    chosen: Sequence[str],
    tau: float | None = None,
    links: pd.DataFrame | None = None,
    **options: Any,
) -> np.ndarray:
    """Draw `probe_vs_student` for several probes as small multiples with one accuracy axis and one key to the teachers.

    Parameters
    ----------
    probes : DataFrame
        Columns ``family, teacher, params, split, seed, tau, probe, value``.
    results : DataFrame
        Columns ``family, teacher, student, method, label, split, accuracy``.
    chosen : sequence of str
        The probes, one panel each.
    tau : float, optional
        Temperature of the probes that have one.
    links : DataFrame, optional
        A table of links; each panel's title is the Spearman correlation with its interval, and the key tells the
        highest one that these students let expect of any probe.
    **options
        Passed on to `probe_vs_student`: ``student, label, split, names``.

    Returns
    -------
    ndarray of Axes
        Shape (number of probes,).

    Raises
    ------
    InputError
        If no probe is chosen, or for what `probe_vs_student` raises one.

    See Also
    --------
    probe_vs_student : One of the panels.
    capmismatch.correlate : Makes the table of links.

    Examples
    --------
    >>> teachers = pd.DataFrame({"family": "mlp", "teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0]})
    >>> probes = teachers.assign(split="test", seed=0, tau=np.nan)
    >>> probes = pd.concat([probes.assign(probe="nll", value=[0.9, 0.5]), probes.assign(probe="ece", value=[0.1, 0.2])])
    >>> results = teachers.assign(student="mlp12", method="KD", label="KD", split="test", accuracy=[0.75, 0.77])
    >>> [ax.get_xlabel() for ax in probe_vs_student_grid(probes, results, chosen=["nll", "ece"])]
    ['NLL', 'ECE']
    """
    if not chosen:
        raise InputError("expected at least one probe in chosen, got none")
    if links is not None:
        require_columns(links, ["metric"], "the links table")
        links = links[links["metric"] == "spearman"]
    student, label, split = options.get("student"), options.get("label"), options.get("split", "test")
    # all of them first: fail before a figure is open
    selected = [teacher_points(probes, results, probe, tau, student, label, split) for probe in chosen]
    points, everyone = pd.concat([rows for rows, _ in selected]), selected[0][1]

    axes = panels(len(chosen), sharex=False, inches=1.45)
    for ax, probe in zip(axes, chosen, strict=True):
        probe_vs_student(probes, results, probe=probe, tau=tau, links=links, ax=ax, **{"names": False, **options})
        ax.set_xlabel(SHORT.get(probe) or symbol(probe))
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:.6g}"))
        accuracy_name = ax.get_ylabel()
        ax.set_ylabel("")
        if ax is not axes[0]:
            ax.sharey(axes[0])
        ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
    figure = axes[0].figure
    figure.supylabel(accuracy_name)
    taus = points["tau"].dropna().unique()
    figure.supxlabel("the teacher's probe" + (rf", at $\tau$={taus[0]:g} if it has a temperature" if len(taus) else ""))
    looks = {name: look for name, look in teacher_looks(everyone).items() if name in set(points["label"])}
    keys = [Line2D([], [], **{"linestyle": "", **look}) for look in looks.values()]
    shown = names_on(axes[0], everyone)
    ceiling = "" if links is None else ceiling_text(links, points.iloc[0])
    taught = f"{points['student'].iloc[0]} taught with {points['setting'].iloc[0]}"
    setting = f"{taught}{ceiling and f' ({ceiling})'} by"
    legend_above(axes[0], keys, [shown[name] for name in looks], own_figure=True, title=setting)
    return axes
