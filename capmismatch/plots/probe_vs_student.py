"""A probe of the teachers against the accuracy of their students: does the diagnosis predict the outcome?"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import inches_wide, one_axes, symbol, value_axis
from capmismatch.plots._common import (
    families_by_size,
    groups,
    literal,
    over_runs,
    probe_rows,
    rows_where,
    sole,
    teacher_labels,
)
from capmismatch.plots._labels import label_points, names_on
from capmismatch.plots._options import drawing, page_width
from capmismatch.plots._save import attach, note_points
from capmismatch.plots._style import teacher_looks
from capmismatch.stats.matching import of_student, with_families

NEEDS = ("probes", "results")
CAPTION = (
    "A probe of the teachers against the accuracy of their students, one point per teacher. Bars: 95 % intervals over "
    "the students' runs, with three or more."
)
WHAT = "the results table"
LINKS = "the links table"
NARROW = 4.5  # inches, below which each coefficient has a line of its own
COEFFICIENTS = {"pearson": r"$r$", "spearman": r"$\rho$", "kendall": r"$\tau_b$"}


@drawing(probes="probes", results="results", links="links")
def probe_vs_student(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    *,
    probe: str,
    tau: float | None = None,
    student: str | None = None,
    label: str | None = None,
    split: str = "test",
    links: pd.DataFrame | None = None,
    names: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a point per teacher: a probe's value against the mean accuracy of the students it taught.

    Both are means over runs (seeds), the accuracy with its 95 % t interval from three runs on; points go from dark to
    light with teacher size, and families have their own markers.

    Parameters
    ----------
    probes : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, split, seed, tau, probe, value``.
    results : DataFrame, optional
        Needed with a table of probes. Columns ``family, teacher, student, method, label, split, accuracy``.
    probe : str
        Which probe.
    tau : float, optional
        Needed where the table has the probe at several temperatures.
    student : str, optional
        Needed where the results have several students.
    label : str, optional
        Needed where the results have several method settings.
    split : str
        Of the results; the probes' is the same where they have it, else their only one.
    links : DataFrame, optional
        A table of links; its coefficients and intervals for this probe, temperature, student and setting are the title,
        with the highest correlation that these students let expect of any probe.
    names : bool
        Whether to write the teachers' names.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
        That with the points.

    Raises
    ------
    InputError
        If a column, probe, temperature, student or setting is missing, or fewer than two teachers are in both tables.

    See Also
    --------
    capmismatch.correlate : Makes the table of links.
    capmismatch.probe : Makes the table of probes.
    probe_vs_student_grid : The same for several probes.

    Examples
    --------
    >>> teachers = pd.DataFrame({"family": "mlp", "teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0]})
    >>> probes = teachers.assign(split="test", seed=0, tau=np.nan, probe="nll", value=[0.9, 0.5])
    >>> results = teachers.assign(student="mlp12", method="KD", label="KD", split="test", accuracy=[0.75, 0.77])
    >>> ax = probe_vs_student(probes, results, probe="nll")
    >>> [text.get_text() for text in ax.texts]
    ['mlp12', 'mlp96']
    """
    ax = draw_probe(probes, results, probe, tau, student, label, split, links=links, names=names, ax=ax)[0]
    return ax


def draw_probe(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    probe: str,
    tau: float | None,
    student: str | None,
    label: str | None,
    split: str,
    *,
    links: pd.DataFrame | None,
    names: bool,
    ax: Axes | None,
) -> tuple[Axes, pd.DataFrame]:
    """Draw one panel, and return it with its points."""
    points, everyone = teacher_points(probes, results, probe, tau, student, label, split)
    coefficients = ""
    if links is not None:
        narrow = (page_width() if ax is None else inches_wide(ax)) < NARROW
        coefficients = _title(links, points.iloc[0], ",\n" if narrow else ",  ")
        if coefficients and names and (ceiling := ceiling_text(links, points.iloc[0])):
            coefficients += f"\n{ceiling}"  # without names it is a panel of many, whose key tells it

    ax = one_axes(ax, ratio=0.75)
    _draw_points(ax, points, teacher_looks(everyone))
    value_axis(ax, "student accuracy", points["accuracy"], percent=True)
    ax.margins(0.12)
    at = points["tau"].iloc[0]
    ax.set_xlabel(symbol(probe) + (rf" at $\tau$={at:g}" if np.isfinite(at) else ""))
    if coefficients:
        ax.set_title(coefficients, fontsize=mpl.rcParams["legend.fontsize"], loc="left")
    if names:
        shown = names_on(ax, everyone)
        label_points(ax, points["x"].to_numpy(), points["accuracy"].to_numpy(), list(points["label"].map(shown)))
    attach(ax, points)
    return ax, points


def _draw_points(ax: Axes, points: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    """Draw a point per teacher with the interval of its students' accuracy, family by family."""
    size = (mpl.rcParams["lines.markersize"] + 1) ** 2
    for _, rows in groups(points, "family"):
        colors, marker = [looks[name]["color"] for name in rows["label"]], looks[rows["label"].iloc[0]]["marker"]
        ax.vlines(rows["x"], rows["low"], rows["high"], colors=colors, linewidth=0.6, alpha=0.7, zorder=1)
        dots = ax.scatter(rows["x"], rows["accuracy"], c=colors, s=size, marker=marker, linewidth=0, zorder=2)
        dots.set_label(literal(rows["family"].iloc[0]))
        tips = rows[["label", "probe", "x", "accuracy"]].itertuples(index=False)
        note_points(dots, [f"{name}: {probe} {x:.4g}, student {y:.4g}" for name, probe, x, y in tips])


def teacher_points(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    probe: str,
    tau: float | None,
    student: str | None,
    label: str | None,
    split: str,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """One row per teacher: its mean probe value ``x`` and the mean ``accuracy`` of its students, with its interval.

    Beside it the family of each teacher that has the probe, smallest first.
    """
    require_columns(results, ["family", "teacher", "student", "method", "label", "split", "accuracy"], WHAT)
    require_columns(probes, ["family", "teacher", "params"], "the probes table")
    students = with_families(rows_where(results, WHAT, split=split), probes)
    students = sole(sole(students[students["method"] != "CE"], "student", WHAT, student), "label", WHAT, label)
    probes = of_student(probes, str(students["student"].iloc[0]))
    splits = set(probes["split"]) if "split" in probes else set()
    rows = probe_rows(probes, probe, tau=tau, split=split if split in splits else None)
    teacher = ["family", "teacher"]
    x = rows.groupby(teacher, sort=False).agg(x=("value", "mean"), params=("params", "mean"), tau=("tau", "mean"))
    y = over_runs(students, teacher, "accuracy").rename(columns={"mean": "accuracy"}).set_index(teacher)
    points = x.join(y, how="inner").reset_index().dropna(subset=["x", "accuracy"])
    if len(points) < 2:
        raise InputError(f"expected at least 2 teachers with both {probe!r} and students, got {len(points)}")
    setting = students["label"].iloc[0]
    points = points.assign(label=teacher_labels(points, among=probes), probe=probe, setting=setting)
    return points.assign(student=students["student"].iloc[0]), families_by_size(rows)


def ceiling_text(links: pd.DataFrame, point: pd.Series) -> str:
    """How high a correlation with these students can be expected; "" where the links do not say."""
    if "ceiling" not in links:
        return ""
    keys = {"student": point["student"], "label": point["setting"]}
    ceilings = rows_where(links, LINKS, **keys)["ceiling"].dropna()
    return f"ceiling of correlations {ceilings.iloc[0]:.2f}" if len(ceilings) else ""


def _title(links: pd.DataFrame, point: pd.Series, between: str) -> str:
    """The coefficients between this probe and these students, with their intervals."""
    require_columns(links, ["probe", "tau", "student", "label", "metric", "value", "low", "high"], LINKS)
    keys = {"probe": point["probe"], "tau": point["tau"], "student": point["student"], "label": point["setting"]}
    coefficients = [
        f"{COEFFICIENTS.get(row['metric'], row['metric'])} = {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        for row in rows_where(links, LINKS, **keys).to_dict("records")
    ]
    return between.join(coefficients).replace("-", "\N{MINUS SIGN}")
