"""What a teacher says about the wrong classes of one example, before and after restoring the variance."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd

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
    example
        Columns ``teacher, method, class, probability, is_target``, and ``family`` where teachers of several families
        share names; one row for each teacher, method and class.
    image
        The example, shape (H, W) or (H, W, 3), drawn in a panel of its own before the teachers'.
    top
        How many wrong classes to draw: those with the largest probability anywhere.
    among
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

    Examples
    --------
    >>> example = pd.DataFrame({"class": ["cat", "dog", "car"], "probability": [0.7, 0.25, 0.05]})
    >>> example = example.assign(teacher="mlp12", method="TS", is_target=[True, False, False])
    >>> [label.get_text() for label in dark_knowledge(example)[0].get_yticklabels()]
    ['car', 'dog']
    """
    require_columns(example, ["teacher", "method", "class", "probability", "is_target"], WHAT)
    everyone = example["teacher"]
    if "family" in example:
        everyone = teacher_labels(example if among is None else among)
        example = example.assign(teacher=teacher_labels(example, among))
    targets = example[example["is_target"].astype(bool)]
    counts = (
        targets.groupby(["teacher", "method"])
        .size()
        .reindex(pd.MultiIndex.from_frame(example[["teacher", "method"]].drop_duplicates()), fill_value=0)
    )
    if (counts != 1).any():
        teacher, method = counts[counts != 1].index[0]
        count = counts[teacher, method]
        raise InputError(f"expected one target for each teacher and method, got {count} for {teacher!r} and {method!r}")
    wrong = example[~example["is_target"].astype(bool)]
    classes = list(wrong.groupby("class", sort=False)["probability"].max().nlargest(top).index)[::-1]
    teachers, methods = listed(example["teacher"]), listed(example["method"])
    looks = setting_looks({str(method): str(method) for method in methods})

    extra = 0 if image is None else 1
    inches = max(small_points() / 72 * (1.8 * len(classes) + 5), 1.7 * extra)  # an image needs some height to be seen
    axes = panels(len(teachers) + extra, sharex=False, inches=inches)
    if image is not None:
        axes[0].imshow(image, cmap="gray" if np.ndim(image) == 2 else None)
        axes[0].set_axis_off()
        axes[0].set_title(literal(targets["class"].iloc[0]))
    bars = {}
    shown, kinds = names_on(axes[extra], everyone), names_on(axes[extra], map(str, classes))
    thick = 0.8 / len(methods)
    for ax, teacher in zip(axes[extra:], teachers, strict=True):
        rows = wrong[(wrong["teacher"] == teacher) & wrong["class"].isin(classes)]
        for index, method in enumerate(methods):
            some = rows[rows["method"] == method].set_index("class").reindex(classes)
            places = np.arange(len(classes)) + ((len(methods) - 1) / 2 - index) * thick
            look = {"color": looks[str(method)]["color"], "hatch": HATCHES[index % len(HATCHES)]}
            bars[method] = ax.barh(places, some["probability"], thick, **look, edgecolor="white", linewidth=0)
            attach(ax, some.dropna(subset=["probability"]).reset_index())
        ax.set_yticks(range(len(classes)), [literal(kinds[str(name)]) for name in classes])
        ax.tick_params(axis="y", length=0)
        own = targets[targets["teacher"] == teacher].set_index("method")["probability"].reindex(methods)
        told = " → ".join(f"{value:.2f}" for value in own)
        ax.set_title(f"{literal(shown[teacher])}\n$p_y$ = {told}", fontsize=mpl.rcParams["legend.fontsize"])
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    most = wrong["probability"].max() * 1.05
    for index, ax in enumerate(axes[extra:]):
        ax.set_xlim(0, most)
        if ax.get_subplotspec().is_last_row():
            ax.set_xlabel("probability")
        if index > 0 and not ax.get_subplotspec().is_first_col():
            ax.tick_params(labelleft=False)
    legend_above(axes[0], list(bars.values()), [str(method) for method in bars], own=True)
    return axes[extra:]
