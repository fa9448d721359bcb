"""Several probes against the accuracy of the students, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import PlainNumbers, legend_above, panels, root, symbol
from capmismatch.plots._labels import label_points, names_on
from capmismatch.plots._options import Composed, drawing, shown_setting
from capmismatch.plots._style import teacher_looks
from capmismatch.plots.probe_vs_student import ceiling_text, draw_probe, teacher_points

NEEDS = ("probes", "results", "links")
CAPTION = (
    "Each probe of the teachers against the accuracy of their students, with the rank correlation and its interval. "
    "The ceiling is the highest correlation to expect of any probe. Bars: 95 % intervals over the students' runs, with "
    "three or more."
)
SHORT = {"derived_variance": "DV", "inherent_variance": "IV", "derived_average": "DA"}


GRID_PROBES = (
    "derived_std",
    "inherent_variance",
    "target_prob",
    "accuracy",
    "classwise_ace",
    "entropy",
    "logit_std",
    "cmi",
)
"""The probes that are drawn where none are chosen, as far as the table has them."""


@drawing(probes="probes", results="results", links="links")
def probe_vs_student_grid(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    *,
    chosen: Sequence[str] | None = None,
    tau: float | None = None,
    student: str | None = None,
    label: str | None = None,
    split: str = "test",
    links: pd.DataFrame | None = None,
    names: bool = True,
) -> np.ndarray:
    """Draw `probe_vs_student` for several probes as small multiples with one accuracy axis and one key to the teachers.

    Parameters
    ----------
    probes : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, split, seed, tau, probe, value``.
    results : DataFrame, optional
        Needed with a table of probes. Columns ``family, teacher, student, method, label, split, accuracy``.
    chosen : sequence of str, optional
        The probes, one panel each; by default up to eight that tell most.
    tau : float, optional
        Temperature of the probes that have one.
    student, label, split : str, optional
        As in `probe_vs_student`.
    links : DataFrame, optional
        A table of links; each panel's title is the Spearman correlation with its interval, and the key tells the
        highest one that these students let expect of any probe.
    names : bool
        Whether to number the teachers' points, as the key does.

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
    if chosen is None:
        require_columns(probes, ["probe"], "the probes table")
        chosen = [name for name in GRID_PROBES if name in set(probes["probe"])]
    if not chosen:
        raise InputError("expected at least one probe in chosen, got none")
    if links is not None:
        require_columns(links, ["metric"], "the links table")
        links = links[links["metric"] == "spearman"]
    asked = (tau, student, label, split)
    # all of them first: fail before a figure is open
    selected = [teacher_points(probes, results, probe, *asked) for probe in chosen]
    points, everyone = pd.concat([rows for rows, _ in selected]), selected[0][1]
    there = [name for name in everyone if name in set(points["label"])]
    numbers = {name: str(number) for number, name in enumerate(there, 1)}

    axes = panels(len(chosen), sharex=False, inches=1.45)
    for ax in axes[1:]:
        ax.sharey(axes[0])
    figure = axes[0].figure
    figure.supylabel("student accuracy" + (" (%)" if points["accuracy"].max() <= 1 else ""))
    taus = points["tau"].dropna().unique()
    figure.supxlabel(
        "probe of the teacher" + (rf" (at $\tau$={taus[0]:g}, where it has a temperature)" if len(taus) else "")
    )
    looks = {name: look for name, look in teacher_looks(everyone).items() if name in numbers}
    keys = [Line2D([], [], **{"linestyle": "", **look}) for look in looks.values()]
    shown = names_on(axes[0], everyone)
    texts = [Composed(f"{numbers[name]} {shown[name]}" if names else shown[name]) for name in looks]
    legend_above(axes, keys, texts, own_figure=True, title=_title(points.iloc[0], links))
    for ax, probe in zip(axes, chosen, strict=True):
        draw_probe(probes, results, probe, *asked, links=links, names=False, ax=ax)
        ax.set_xlabel(SHORT.get(probe) or symbol(probe))
        ax.set_ylabel("")
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(PlainNumbers())
        ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
    if names:
        root(axes[0]).draw_without_rendering()  # one layout for all panels
        for ax, (rows, _) in zip(axes, selected, strict=True):
            beside = [numbers[name] for name in rows["label"]]
            label_points(ax, rows["x"].to_numpy(), rows["accuracy"].to_numpy(), beside, settled=True)
    return axes


def _title(point: pd.Series, links: pd.DataFrame | None) -> str:
    """Which students they are, and how high a correlation with them can be, on a line of its own."""
    ceiling = "" if links is None else ceiling_text(links, point)
    return f"student {point['student']}, {shown_setting(point['setting'])}" + (ceiling and f"\n{ceiling}")
