"""What a teacher says about the wrong classes of one example, before and after restoring the variance."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import legend_above, panels, small_points
from capmismatch.plots._common import listed, literal, teacher_labels
from capmismatch.plots._labels import names_on
from capmismatch.plots._save import attach
from capmismatch.plots._style import setting_looks

NEEDS: tuple[str, ...] = ()  # drawn from the bank itself
CAPTION = (
    "One example: the probabilities that the smallest and the largest teacher give the wrong classes under TS, ATS "
    "and ISATS."
)
WHAT = "the example table"
HATCHES = ("", "/////", "\\\\\\\\\\")  # tell methods without colour


def dark_knowledge(
    example: pd.DataFrame, *, image: np.ndarray | None = None, top: int = 9, among: pd.DataFrame | None = None
) -> np.ndarray:
    """Draw the probabilities that teachers give the wrong classes of one example, a bar for each method.

    Parameters
    ----------
    example : DataFrame
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
        A panel for each teacher in table order, shape (number of teachers,). Titles tell the target's probability
        under each method.

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
    shown, class_names = names_on(axes[before], everyone), names_on(axes[before], map(str, classes))
    bars: dict[str, BarContainer] = {}
    for ax, teacher in zip(axes[before:], teachers, strict=True):
        bars = _draw_bars(ax, wrong[wrong["teacher"] == teacher], classes, methods)
        ax.set_yticks(range(len(classes)), [literal(class_names[str(name)]) for name in classes])
        ax.tick_params(axis="y", length=0)
        probabilities = targets[targets["teacher"] == teacher].set_index("method")["probability"].reindex(methods)
        of_target = " → ".join(f"{value:.2f}" for value in probabilities)
        ax.set_title(f"{literal(shown[teacher])}\n$p_y$ = {of_target}", fontsize=mpl.rcParams["legend.fontsize"])
    _share_axis(axes[before:], wrong["probability"].max() * 1.05)
    legend_above(axes[0], list(bars.values()), list(bars), own_figure=True)
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


def _draw_bars(ax: Axes, wrong: pd.DataFrame, classes: list, methods: list) -> dict[str, BarContainer]:
    """Draw one teacher's bars, one per class and method; returns those of each method."""
    looks = setting_looks({str(method): str(method) for method in methods})
    thickness = 0.8 / len(methods)
    bars = {}
    for index, method in enumerate(methods):
        rows = wrong[wrong["method"] == method].set_index("class").reindex(classes)
        positions = np.arange(len(classes)) + ((len(methods) - 1) / 2 - index) * thickness
        look = {"color": looks[str(method)]["color"], "hatch": HATCHES[index % len(HATCHES)]}
        bars[str(method)] = ax.barh(positions, rows["probability"], thickness, **look, edgecolor="white", linewidth=0)
        attach(ax, rows.dropna(subset=["probability"]).reset_index(), probes=["target_prob"])  # p_y is in the title
    return bars


def _share_axis(axes: np.ndarray, largest: float) -> None:
    """Give all panels one probability axis with few ticks, named at the lowest, and classes named at the left."""
    for ax in axes:
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlim(0, largest)
        if ax.get_subplotspec().is_last_row():
            ax.set_xlabel("probability")
        if ax is not axes[0] and not ax.get_subplotspec().is_first_col():
            ax.tick_params(labelleft=False)
