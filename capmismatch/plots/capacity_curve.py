"""Student accuracy against teacher size: where a bigger teacher stops teaching better."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.plots._axes import (
    RING,
    family_handles,
    family_styles,
    legend_above,
    mark_peak,
    one_axes,
    run_line,
    size_axis,
    size_positions,
    value_axis,
)
from capmismatch.plots._common import (
    by_size,
    groups,
    labelled_as,
    lines_over_runs,
    listed,
    literal,
    over_runs,
    probe_rows,
    rows_where,
    sole,
    teacher_labels,
)
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import Composed, color_of, drawing, new_panels, page_width, shown_setting
from capmismatch.plots._save import attach
from capmismatch.plots._style import METHOD_LOOKS, setting_looks
from capmismatch.stats.matching import with_families

NEEDS = ("results", "probes")
CAPTION = (
    "Accuracy of the student against its teacher's size by method, with the teachers' own accuracy. "
    "Bars: 95 % intervals with three or more runs, else single runs as points; band: plain training. Rings: the peak "
    "where it comes before the largest teacher. KD by itself has the teacher's temperature for the student, too."
)
CAPTION_NLL = (
    "Negative log likelihood of the student against its teacher's size by method, with the teachers' own; lower is "
    "better. Bars: 95 % intervals with three or more runs, else single runs as points; band: plain training."
)
WHAT = "the results table"
METRICS = {
    "accuracy": "accuracy",
    "nll": "NLL (nats)",
    "nll_calibrated": "calibrated NLL (nats)",
    "bits_per_byte": "bits per byte",
    "kl": "KL to the teacher (nats)",
}
"""What may be drawn, and its name on the axis; but for accuracy lower is better."""
PROBES = {"accuracy": "accuracy", "nll": "nll", "nll_calibrated": "nll"}
"""The teachers' own number beside the students'; the others have none."""
BESIDE = 1.6  # points between the marks of two settings at one teacher, which would cover each other


@drawing(results="results", teachers="probes")
def capacity_curve(
    results: pd.DataFrame,
    *,
    student: str | None = None,
    teachers: pd.DataFrame | None = None,
    split: str = "test",
    by: str = "params",
    metric: str = "accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Draw student accuracy against teacher size, a line for each method setting (``label``).

    Each line is the mean over runs (teacher seeds and student seeds alike), with 95 % t intervals from three runs on,
    and single runs as faint points below that. A line joins teachers of one ladder, whose names differ in one number. A
    ring marks a line's peak where it comes before the largest teacher; the legend then tells the change from the peak
    to the largest teacher. Plain cross-entropy (method ``"CE"``) is a
    horizontal line with its interval, or with the range of fewer than three runs, as a band.

    Parameters
    ----------
    results : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, student, method, label, seed, split, accuracy``.
    student : str, optional
        Needed where the table has several.
    teachers : DataFrame, optional
        A probes table; its ``accuracy`` rows are drawn in a slim panel above. Needs a figure of its own.
    split : str
        Which rows to draw.
    by : str
        Column that holds the size. Where it is NaN for any teacher, teachers stand side by side in table order.
    metric : str
        What is drawn: "accuracy", or of language models "nll", "nll_calibrated", "bits_per_byte" or "kl", of which less
        is better.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
        The students' Axes.

    Raises
    ------
    InputError
        If a column, the split, or the student is missing, or both `ax` and `teachers` are given.

    See Also
    --------
    capacity_grid : The same with a panel for each setting.
    capmismatch.load_results : Makes the table.
    capmismatch.peak_of : Where a curve has its peak, with its uncertainty.

    Examples
    --------
    >>> rows = {"family": "mlp", "teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0], "student": "mlp12"}
    >>> results = pd.DataFrame({**rows, "method": "KD", "label": "KD", "split": "test", "accuracy": [0.81, 0.79]})
    >>> ax = capacity_curve(results)
    >>> [text.get_text() for text in ax.figure.legends[0].get_texts()]
    ['KD (−2.0 from peak)', 'peak before the largest teacher']
    """
    if teachers is not None and ax is not None:
        raise InputError("expected either ax or teachers: the teachers' own accuracy needs a panel of its own")
    results = measured_by(results, metric)
    students, baseline = student_rows(results, student=student, teachers=teachers, split=split, by=by)
    sizes = by_size(students, by)
    positions = size_positions(sizes)
    accuracy = teacher_accuracy(teachers, students, split, metric)

    own_figure = ax is None
    if accuracy is not None:
        size = (page_width(), mpl.rcParams["figure.figsize"][1] * 1.35)
        above, ax = new_panels(2, 1, size, sharex=True, height_ratios=[1, 2.6]).ravel()
        draw_teachers(above, accuracy.assign(x=accuracy["label"].map(positions)), metric)
    ax = one_axes(ax)
    handles, labels, ringed = draw_students(ax, students.assign(x=students["label"].map(positions)), metric)
    if len(baseline):
        handles.append(draw_baseline(ax, baseline))
        labels.append("CE (no teacher)")
    if ringed:
        handles.append(Line2D([], [], **RING))
        labels.append(ring_name(metric))
    size_axis(ax, sizes, by)
    shown = pd.concat([students["accuracy"], baseline["accuracy"]])
    value_axis(ax, f"student {METRICS[metric]}", shown, percent=metric == "accuracy")
    legend_above(ax, handles, labels, own_figure=own_figure)
    return ax


def measured_by(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The results with the metric to draw as their accuracy; rows without it are left out."""
    must_be_one_of(metric, METRICS, "metric")
    if metric == "accuracy":
        return results
    require_columns(results, [metric], WHAT)
    return results.assign(accuracy=results[metric]).dropna(subset="accuracy")


def student_rows(
    results: pd.DataFrame, *, student: str | None, teachers: pd.DataFrame | None, split: str, by: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of one student: with a teacher (`setting`, and the teacher's name as `label`), and of plain training."""
    require_columns(results, ["family", "teacher", by, "student", "method", "label", "split", "accuracy"], WHAT)
    if teachers is not None:
        require_columns(teachers, ["family", "teacher"], "the probes table")
        results = with_families(results, teachers)
        results = _with_sizes(results, teachers, by)
    rows = sole(rows_where(results, WHAT, split=split), "student", WHAT, student)
    distilled, baseline = rows[rows["method"] != "CE"], rows[rows["method"] == "CE"]
    if distilled.empty:
        raise InputError(f"{WHAT} has no distilled students with split {split!r}, only method {listed(rows['method'])}")
    everyone = results if teachers is None else teachers
    labels = teacher_labels(distilled, among=everyone)
    return distilled.rename(columns={"label": "setting"}).assign(label=labels), baseline


def _with_sizes(results: pd.DataFrame, teachers: pd.DataFrame, by: str) -> pd.DataFrame:
    """The results with the sizes that the teachers' table knows, where they lack them."""
    if by not in teachers or not results[by].isna().any():
        return results
    known = teachers.groupby(["family", "teacher"])[by].first()
    keys = pd.MultiIndex.from_frame(results[["family", "teacher"]])
    return results.assign(**{by: results[by].fillna(pd.Series(known.reindex(keys).to_numpy(), results.index))})


def teacher_accuracy(
    teachers: pd.DataFrame | None, students: pd.DataFrame, split: str, metric: str = "accuracy"
) -> pd.DataFrame | None:
    """Accuracy, or another metric, of the students' teachers, of the split where their table has it."""
    if teachers is None or metric not in PROBES:
        return None
    splits = list(teachers["split"].unique()) if "split" in teachers else []
    return labelled_as(probe_rows(teachers, PROBES[metric], split=split if split in splits else None), students)


def draw_teachers(ax: Axes, accuracy: pd.DataFrame, metric: str = "accuracy") -> None:
    """Draw one black line per family."""
    styles = family_styles(listed(accuracy["family"]))
    for (family,), table, runs in lines_over_runs(accuracy, ["family"]):
        color = color_of("teacher", "black")
        run_line(ax, table, runs, color=color, marker="o", linestyle=styles[family], name="teacher")
        attach(ax, table.assign(setting="teacher"), probes=[PROBES[metric]])
    value_axis(ax, "teacher", accuracy["value"], percent=metric == "accuracy")


def draw_students(ax: Axes, students: pd.DataFrame, metric: str = "accuracy") -> tuple[list, list[str], bool]:
    """Draw one line per setting, each a little beside the others.

    Returns handles and labels for a legend, settings (with the changes from their peaks) and families, and whether any
    peak has a ring.
    """
    looks = setting_looks(dict(zip(students["setting"], students["method"], strict=True)))
    families = listed(students["family"])
    several = len(families) > 1
    names = names_on(ax, families, "family")
    handles, labels, ringed = [], [], False
    is_accuracy = metric == "accuracy"
    scale, digits = (
        (100 if is_accuracy and students["accuracy"].max() <= 1 else 1),
        1 if is_accuracy else 3,
    )  # as on the axis
    for number, (setting, rows) in enumerate(groups(students, "setting")):
        changes: list[str] = []
        lines: list[Line2D] = []
        shift = BESIDE * (number - (len(looks) - 1) / 2)
        for (_, family), table, runs in lines_over_runs(rows, ["setting", "family"], "accuracy"):
            look = {**looks[setting], **({"linestyle": family_styles(families)[family]} if several else {})}
            runs = runs.rename(columns={"accuracy": "value"})
            lines.append(run_line(ax, table, runs, shift=shift, name=setting, **look))
            change = scale * mark_peak(ax, table, look["color"], shift=shift, lowest=not is_accuracy)
            if change:
                sign = "" if is_accuracy else "+"
                drop = f"{round(change, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no minus sign before 0.0
                changes.append(f"{names[family]} {drop}" if several else drop)
            attach(ax, table)
        handles.append(Line2D([], [], **looks[setting]) if several else lines[0])
        drops = ", ".join(changes).replace("-", "\N{MINUS SIGN}")
        shown = shown_setting(setting)
        labels.append(Composed(f"{shown} ({drops} from {peak_name(metric)})" if drops else shown))
        lines[0].set_label(literal(labels[-1]))
        ringed |= bool(changes)
    family_lines, family_names = family_handles(ax, families)
    return handles + family_lines, labels + family_names, ringed


def peak_name(metric: str) -> str:
    """What the best point of a curve is called."""
    return "peak" if metric == "accuracy" else "least"


def ring_name(metric: str) -> str:
    """What a ring means."""
    return f"{peak_name(metric)} before the largest teacher"


def draw_baseline(ax: Axes, baseline: pd.DataFrame) -> Line2D:
    """Draw plain training as a line and a band."""
    table = over_runs(baseline.assign(setting="CE"), ["setting"], "accuracy")
    low, high = baseline["accuracy"].min(), baseline["accuracy"].max()
    color = color_of("CE", METHOD_LOOKS["CE"][0])
    ax.axhspan(table["low"].fillna(low).item(), table["high"].fillna(high).item(), color=color, alpha=0.18, linewidth=0)
    attach(ax, table.fillna({"low": low, "high": high}))
    return ax.axhline(table["mean"].item(), color=color, linestyle="--", linewidth=0.9)
