"""What a teacher says about the wrong classes of one example, before and after restoring the variance."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import legend_above, panels, small_points, wrapped
from capmismatch.plots._common import listed, literal, teacher_labels
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import drawing, page_width, shown_setting
from capmismatch.plots._save import attach, note_points
from capmismatch.plots._style import setting_looks

NEEDS: tuple[str, ...] = ()  # drawn from the bank itself
CAPTION = (
    "One example: the probabilities that the smallest and the largest teacher give the wrong classes under TS, ATS "
    "and ISATS."
)
WHAT = "the example table"
FEWEST_DECADES = 1.0  # of the probability axis, so that one that is hardly less than another does not look much less


@drawing(example="dark_knowledge")
def dark_knowledge(
    example: pd.DataFrame, *, image: np.ndarray | None = None, top: int = 9, among: pd.DataFrame | None = None
) -> np.ndarray:
    """Draw the probabilities that teachers give the wrong classes of one example, a mark for each method.

    The axis is logarithmic: most wrong classes have probabilities far below those of the first.

    Parameters
    ----------
    example : DataFrame, Study or Diagnosis
        Columns ``teacher, method, class, probability, is_target``, and ``family`` where teachers of several families
        share names; one row for each teacher, method and class.
    image : ndarray, optional
        The example, shape (H, W) or (H, W, 3), drawn in a panel of its own before the teachers'.
    top : int
        How many wrong classes to draw: those with the largest probability anywhere.
    among : DataFrame, optional
        A table of all the study's teachers (columns ``family, teacher``), so that these here are called as they are in
        its other figures; needs the column ``family``.

    Returns
    -------
    ndarray of Axes
        A panel for each teacher in table order, shape (number of teachers,). Titles tell the probability of the true
        class under each method; the legend names that class.

    Raises
    ------
    InputError
        If a column is missing, or not every teacher and method has exactly one target.

    See Also
    --------
    capmismatch.dark_knowledge : Makes the table.
    variance_vs_temperature : The variance over the wrong classes, as a mean over examples.

    Examples
    --------
    >>> example = pd.DataFrame({"class": ["cat", "dog", "car"], "probability": [0.7, 0.25, 0.05]})
    >>> example = example.assign(teacher="mlp12", method="TS", is_target=[True, False, False])
    >>> [label.get_text() for label in dark_knowledge(example)[0].get_yticklabels()]
    ['car', 'dog']
    """
    targets, wrong, everyone = _select(example, among)
    classes = list(wrong.groupby("class", sort=False)["probability"].max().nlargest(top).index)[::-1]
    teachers, methods = listed(targets["teacher"]), listed(targets["method"])

    before = 0 if image is None else 1
    inches = max(small_points() / 72 * (1.8 * len(classes) + 5), 1.7 * before)  # an image needs some height to be seen
    axes = panels(len(teachers) + before, sharex=False, inches=inches)
    if image is not None:
        axes[0].imshow(image, cmap="gray" if np.ndim(image) == 2 else None)
        axes[0].set_axis_off()
        axes[0].set_title(literal(targets["class"].iloc[0]))
    shown = names_on(axes[before], everyone)
    class_names = names_on(axes[before], [*map(str, classes), str(targets["class"].iloc[0])], "class")
    marks: dict[str, Line2D] = {}
    for ax, teacher in zip(axes[before:], teachers, strict=True):
        marks = _draw_marks(ax, wrong[wrong["teacher"] == teacher], classes, methods)
        ax.set_yticks(range(len(classes)), [literal(class_names[str(name)]) for name in classes])
        ax.tick_params(axis="y", length=0)
        probabilities = targets[targets["teacher"] == teacher].set_index("method")["probability"].reindex(methods)
        of_target = [literal(f"{shown_setting(name)} {value:.2f}") for name, value in probabilities.items()]
        of_target[0] = f"$p_y$: {of_target[0]}"
        values = wrapped(of_target, 0.75 * page_width() / ax.get_subplotspec().get_gridspec().ncols)
        ax.set_title(f"{literal(shown[teacher])}\n{values}", fontsize=mpl.rcParams["legend.fontsize"])
    _share_axis(axes[before:], wrong[wrong["class"].isin(classes)]["probability"])
    true_class = f"true class: {class_names[str(targets['class'].iloc[0])]}"
    legend_above(axes[before:], list(marks.values()), list(marks), own_figure=True, title=true_class)
    return axes[before:]


def _select(example: pd.DataFrame, among: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Rows of the target and of the wrong classes under the teachers' display labels, and all teachers' labels."""
    require_columns(example, ["teacher", "method", "class", "probability", "is_target"], WHAT)
    everyone = example["teacher"]
    if "family" in example:
        everyone = teacher_labels(example if among is None else among)
        example = example.assign(teacher=teacher_labels(example, among))
    is_target = example["is_target"].astype(bool)
    counts = is_target.groupby([example["teacher"], example["method"]], sort=False).sum()
    if (counts != 1).any():
        teacher, method = counts[counts != 1].index[0]
        count = counts[teacher, method]
        raise InputError(f"expected one target for each teacher and method, got {count} for {teacher!r} and {method!r}")
    return example[is_target], example[~is_target], everyone


def _draw_marks(ax: Axes, wrong: pd.DataFrame, classes: list, methods: list) -> dict[str, Line2D]:
    """Draw one teacher's marks, one per class and method; returns those of each method."""
    looks = setting_looks({str(method): str(method) for method in methods})
    marks = {}
    ends = wrong[wrong["probability"] > 0].groupby("class")["probability"].agg(["min", "max"]).reindex(classes)
    ax.hlines(np.arange(len(classes)), ends["min"], ends["max"], color="0.8", linewidth=0.8, zorder=1)
    for method in methods:
        rows = wrong[wrong["method"] == method].set_index("class").reindex(classes)
        look = {**looks[str(method)], "linestyle": "", "label": literal(shown_setting(str(method)))}
        positive = rows["probability"].where(rows["probability"] > 0)  # the axis is logarithmic
        (marks[str(method)],) = ax.plot(positive, np.arange(len(classes)), **look)
        tips = [f"{name}: {method}: {value:.3g}" for name, value in rows["probability"].items()]
        note_points(marks[str(method)], tips)
        attach(ax, rows.dropna(subset=["probability"]).reset_index(), probes=["target_prob"])  # p_y is in the title
    return marks


def _share_axis(axes: np.ndarray, shown: pd.Series) -> None:
    """Give all panels one logarithmic axis of probability, named at the lowest, and classes named at the left."""
    positive = shown[shown > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    low = min(low, high / 10**FEWEST_DECADES)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlim(low / 1.3, high * 1.3)
        ax.set_ylim(-0.6, len(ax.get_yticks()) - 0.4)
        ax.xaxis.set_major_locator(mpl.ticker.LogLocator(numticks=4))
        ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        if ax.get_subplotspec().is_last_row():
            ax.set_xlabel("probability")
        if ax is not axes[0] and not ax.get_subplotspec().is_first_col():
            ax.tick_params(labelleft=False)
