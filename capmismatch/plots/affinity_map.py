"""Which classes a teacher takes for kin: class-by-class means of the wrong-class distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist

from capmismatch.errors import require_columns
from capmismatch.plots._axes import small_points
from capmismatch.plots._common import listed, literal, rows_where, sole, spread_out, teacher_labels
from capmismatch.plots._labels import SMALLEST, names_on
from capmismatch.plots._save import attach

NEEDS = ("affinity",)
CAPTION = (
    "Which classes a teacher considers similar: mean softmax over the wrong classes, by true class; below, how larger "
    "teachers differ from the smallest. Classes stand beside those that the smallest teacher considers similar."
)
WHAT = "the affinity table"
PANELS = 4  # teachers at most by default: more than that need no figure but a table


def affinity_map(
    affinity: pd.DataFrame, *, tau: float | None = None, teachers: Sequence[str] | None = None
) -> np.ndarray:
    """Draw the class affinity of a few teachers, and below it the difference to the smallest of them.

    A cell is the mean of q~ (softmax over the wrong classes alone) of a column's class over the examples of a row's
    class, averaged over seeds. Classes stand in one order in all panels, that of an average-linkage clustering of the
    smallest teacher's rows, so that kindred classes are neighbours; names are drawn where there is room to read them.
    By default as many teachers are drawn, evenly from the first to the last and at most four, as leave that room.

    Parameters
    ----------
    affinity
        Columns ``family, teacher, seed, tau, true_class, other_class, value``, teachers from small to large.
    tau
        Needed where the table has several temperatures.
    teachers
        Display labels, the one to compare with first.

    Returns
    -------
    ndarray of Axes
        Shape (2, number of teachers); below the first teacher stand the colour bars.

    Raises
    ------
    InputError
        If a column, temperature or teacher is missing.

    Examples
    --------
    >>> pairs = [("cat", "dog", 0.7), ("cat", "car", 0.3), ("dog", "cat", 0.8), ("car", "cat", 0.5)]
    >>> affinity = pd.DataFrame(pairs, columns=["true_class", "other_class", "value"])
    >>> axes = affinity_map(affinity.assign(family="mlp", teacher="mlp12", seed=0, tau=4.0))
    >>> [label.get_text() for label in axes[0, 0].get_yticklabels()]
    ['car', 'cat', 'dog']
    """
    require_columns(affinity, ["family", "teacher", "seed", "tau", "true_class", "other_class", "value"], WHAT)
    rows = sole(affinity, "tau", WHAT, tau)
    rows = rows.assign(label=teacher_labels(rows))
    everyone, classes = listed(rows["label"]), listed(rows["true_class"])
    width = mpl.rcParams["figure.figsize"][0]
    chosen = spread_out(everyone, _most(width, len(classes))) if teachers is None else list(teachers)
    rows = rows_where(rows, WHAT, label=chosen)
    maps = {label: _matrix(rows[rows["label"] == label], classes) for label in chosen}
    order = _kin_order(maps[chosen[0]])
    names = [str(classes[index]) for index in order]
    maps = {label: matrix[np.ix_(order, order)] for label, matrix in maps.items()}
    changes = {label: maps[label] - maps[chosen[0]] for label in chosen[1:]}

    height = width / len(chosen) * (2.15 if len(chosen) > 1 else 0.85)
    tiers = 2 if changes else 1
    axes = plt.subplots(tiers, len(chosen), figsize=(width, height), squeeze=False, layout="constrained")[1]
    room = _room(width, len(chosen), len(names))
    shown = {label: literal(name) for label, name in names_on(axes[0, 0], everyone).items()}
    top = max(np.nanmax(matrix) for matrix in maps.values())
    for column, label in enumerate(chosen):
        sides = "left" * (column == 0) + "bottom" * (tiers == 1)
        image = _draw(axes[0, column], maps[label], names, sides=sides, room=room, cmap="viridis", vmin=0, vmax=top)
        axes[0, column].set_title(shown[label], fontsize=small_points())
        attach(axes[0, column], _long(maps[label], names).assign(teacher=label, shown="affinity"))
    if not changes:
        axes[0, 0].set(xlabel="wrong class", ylabel="true class")
        axes[0, 0].figure.colorbar(image, ax=axes[0, 0], label=r"mean $\tilde{q}$")
        return axes
    largest = max(np.nanmax(np.abs(change)) for change in changes.values()) or 1.0
    for column, (label, change) in enumerate(changes.items(), start=1):
        span = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
        difference = _draw(axes[1, column], change, names, sides="bottom", room=room, **span)
        attach(axes[1, column], _long(change, names).assign(teacher=label, shown="difference"))
    axes[0, 0].set_ylabel("true class")
    axes[1, 1].set_ylabel(f"minus {shown[chosen[0]]}", fontsize=small_points())
    for ax in axes[1, 1:]:
        ax.set_xlabel("wrong class")
    _colour_bars(axes[1, 0], image, difference)
    return axes


def _room(width: float, teachers: int, classes: int) -> float:
    """Points that a class has in a panel."""
    return 72 * 0.75 * width / teachers / classes


def _most(width: float, classes: int) -> int:
    """How many teachers fit with readable names; three where no two do."""
    fitting = [count for count in range(PANELS, 1, -1) if _room(width, count, classes) >= SMALLEST]
    return fitting[0] if fitting else 3


def _matrix(rows: pd.DataFrame, classes: list) -> np.ndarray:
    table = rows.pivot_table(index="true_class", columns="other_class", values="value", aggfunc="mean")
    matrix = table.reindex(index=classes, columns=classes).to_numpy(float, copy=True)
    np.fill_diagonal(matrix, np.nan)  # a class is no wrong class of its own
    return matrix


def _kin_order(matrix: np.ndarray) -> np.ndarray:
    """Order classes so that those with much mutual affinity are neighbours."""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    mutual = np.nan_to_num((matrix + matrix.T) / 2)
    np.fill_diagonal(mutual, mutual.max())  # a class is nearest to itself
    distances = pdist(mutual)
    return leaves_list(optimal_leaf_ordering(linkage(distances, "average"), distances))


def _draw(ax: Axes, matrix: np.ndarray, names: list[str], *, sides: str, room: float, **options: Any) -> AxesImage:
    """Draw a matrix, with class names at the given sides ("left", "bottom", both) where `room` points hold one."""
    ax.set_facecolor("0.85")
    image = ax.imshow(matrix, interpolation="nearest", **options)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    shown = [literal(name) for name in names_on(ax, names).values()] if room >= SMALLEST else []
    size = min(max(room * 0.95, SMALLEST), small_points())
    left, bottom = shown if "left" in sides else [], shown if "bottom" in sides else []
    ax.set_yticks(range(len(left)), left, fontsize=size)
    ax.set_xticks(range(len(bottom)), bottom, fontsize=size, rotation=90)
    return image


def _colour_bars(ax: Axes, affinity: AxesImage, difference: AxesImage) -> None:
    ax.set_axis_off()
    for place, image, label in ((0.7, affinity, r"mean $\tilde{q}$"), (0.2, difference, "difference")):
        inset = ax.inset_axes((0.08, place, 0.84, 0.08))
        ax.figure.colorbar(image, cax=inset, orientation="horizontal")
        inset.set_title(label, fontsize=mpl.rcParams["legend.fontsize"], pad=3)
        inset.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))


def _long(matrix: np.ndarray, names: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(matrix, index=names, columns=names).rename_axis(index="true_class", columns="other_class")
    return table.reset_index().melt(id_vars="true_class", value_name="value").dropna(ignore_index=True)
