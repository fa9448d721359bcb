"""Which classes a teacher considers similar: class-by-class means of the wrong-class distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist

from capmismatch.errors import require_columns
from capmismatch.plots._axes import PlainNumbers, small_points, text_inches
from capmismatch.plots._common import listed, literal, rows_where, sole, spread_out, teacher_labels
from capmismatch.plots._labels import SMALLEST, names_on
from capmismatch.plots._options import color_map, drawing, new_panels, page_width
from capmismatch.plots._save import attach

NEEDS = ("affinity",)
CAPTION = (
    "Which classes a teacher considers similar: mean softmax over the wrong classes, by true class; below, how larger "
    "teachers differ from the smallest. Classes are sorted by their similarity to the smallest teacher."
)
WHAT = "the affinity table"
AFFINITY = r"mean share of the wrong classes, $\tilde{q}$"
MOST_CELLS = (
    0.995  # share of cells that the colours tell apart: one cell far beyond the others would make them all alike
)
ROOM_FOR_TICKS = 1.2  # inches of a colour bar that has more than two numbers
PANELS = 4  # teachers at most by default: more than that need no figure but a table


@drawing(affinity="affinity")
def affinity_map(
    affinity: pd.DataFrame, *, tau: float | None = None, teachers: Sequence[str] | None = None
) -> np.ndarray:
    """Draw the class affinity of a few teachers, and below it the difference to the smallest of them.

    A cell is the mean of q~ (softmax over the wrong classes alone) of a column's class over the examples of a row's
    class, averaged over seeds. Classes stand in one order in all panels, that of an average-linkage clustering of the
    smallest teacher's rows, so that similar classes are neighbours; names are drawn where there is room to read them.
    By default as many teachers are drawn, evenly from the first to the last and at most four, as leave that room.

    Parameters
    ----------
    affinity : DataFrame, Study or Diagnosis
        Columns ``family, teacher, seed, tau, true_class, other_class, value``, teachers from small to large.
    tau : float, optional
        Needed where the table has several temperatures.
    teachers : sequence of str, optional
        Display labels, the one to compare with first.

    Returns
    -------
    ndarray of Axes
        Shape (2, number of teachers); below the first teacher stand the colour bars. Shape (1, 1) for one teacher.

    Raises
    ------
    InputError
        If a column, temperature or teacher is missing.

    See Also
    --------
    capmismatch.affinity : Makes the table.
    rank_matrix : How far teachers order the wrong classes alike, example by example.

    Examples
    --------
    >>> pairs = [("cat", "dog", 0.7), ("cat", "car", 0.3), ("dog", "cat", 0.8), ("car", "cat", 0.5)]
    >>> affinity = pd.DataFrame(pairs, columns=["true_class", "other_class", "value"])
    >>> axes = affinity_map(affinity.assign(family="mlp", teacher="mlp12", seed=0, tau=4.0))
    >>> [label.get_text() for label in axes[0, 0].get_yticklabels()]
    ['car', 'cat', 'dog']
    """
    maps, everyone = _select(affinity, tau, teachers)
    first, *larger = maps
    changes = {label: maps[label] - maps[first] for label in larger}

    width = page_width()
    size = (width, width / len(maps) * (2.15 if changes else 0.85))
    axes = new_panels(2 if changes else 1, len(maps), size)
    shown = {label: literal(name) for label, name in names_on(axes[0, 0], everyone).items()}
    affinities = _draw_affinities(axes[0], maps, shown, sides="left" if changes else "left and bottom")
    if not changes:
        axes[0, 0].set(xlabel="wrong class", ylabel="true class")
        axes[0, 0].figure.colorbar(affinities, ax=axes[0, 0], label=AFFINITY)
        return axes
    differences = _draw_differences(axes[1, 1:], changes)
    axes[0, 0].set_ylabel("true class")
    axes[1, 1].set_ylabel(f"difference to {shown[first]}", fontsize=small_points())
    for ax in axes[1, 1:]:
        ax.set_xlabel("wrong class")
    _colour_bars(axes[1, 0], affinities, differences)
    return axes


def _select(
    affinity: pd.DataFrame, tau: float | None, teachers: Sequence[str] | None
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The map of each teacher that is drawn, classes in drawing order, and the labels of all teachers."""
    require_columns(affinity, ["family", "teacher", "seed", "tau", "true_class", "other_class", "value"], WHAT)
    rows = sole(affinity, "tau", WHAT, tau)
    rows = rows.assign(label=teacher_labels(rows))
    everyone, classes = listed(rows["label"]), listed(rows["true_class"])
    most = _most(page_width(), len(classes))
    chosen = spread_out(everyone, most) if teachers is None else list(teachers)
    rows = rows_where(rows, WHAT, label=chosen)
    maps = {label: _matrix(rows[rows["label"] == label], classes) for label in chosen}
    order = _similar_first(maps[chosen[0]].to_numpy())
    return {label: matrix.iloc[order, order].rename(index=str, columns=str) for label, matrix in maps.items()}, everyone


def _room(width: float, teachers: int, classes: int) -> float:
    """Points that a class has in a panel."""
    return 72 * 0.75 * width / teachers / classes


def _most(width: float, classes: int) -> int:
    """How many teachers fit with readable names; three where no two do."""
    fitting = [count for count in range(PANELS, 1, -1) if _room(width, count, classes) >= SMALLEST]
    return fitting[0] if fitting else 3


def _matrix(rows: pd.DataFrame, classes: list) -> pd.DataFrame:
    """Mean over runs by true class (rows) and other class (columns); NaN on the diagonal."""
    table = rows.pivot_table(index="true_class", columns="other_class", values="value", aggfunc="mean")
    matrix = table.reindex(index=classes, columns=classes).to_numpy(float, copy=True)
    np.fill_diagonal(matrix, np.nan)  # a class is not among its own wrong classes
    return pd.DataFrame(matrix, index=classes, columns=classes)


def _similar_first(matrix: np.ndarray) -> np.ndarray:
    """Order classes so that those with much mutual affinity are neighbours."""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    mutual = np.nan_to_num((matrix + matrix.T) / 2)
    np.fill_diagonal(mutual, mutual.max())  # a class is nearest to itself
    distances = pdist(mutual)
    return leaves_list(optimal_leaf_ordering(linkage(distances, "average"), distances))


def _draw_affinities(
    axes: np.ndarray, maps: dict[str, pd.DataFrame], shown: dict[str, str], *, sides: str
) -> AxesImage:
    """Draw a map per Axes on one scale, class names beside the first one; returns an image for the colour bar."""
    largest = float(np.nanquantile(np.stack(list(maps.values())), MOST_CELLS))
    for ax, (label, matrix) in zip(axes, maps.items(), strict=True):
        room = _room(page_width(), len(axes), len(matrix))
        image = _draw(
            ax, matrix, sides=sides if ax is axes[0] else "", room=room, cmap=color_map("viridis"), vmin=0, vmax=largest
        )
        ax.set_title(shown[label], fontsize=small_points())
        attach(ax, _long(matrix).assign(teacher=label, shown="affinity"))
    return image


def _draw_differences(axes: np.ndarray, changes: dict[str, pd.DataFrame]) -> AxesImage:
    """Draw a difference per Axes on one scale around zero; returns an image for the colour bar."""
    largest = float(np.nanquantile(np.abs(np.stack(list(changes.values()))), MOST_CELLS)) or 1.0
    for ax, (label, change) in zip(axes, changes.items(), strict=True):
        room = _room(page_width(), len(axes) + 1, len(change))
        image = _draw(ax, change, sides="bottom", room=room, cmap="RdBu_r", vmin=-largest, vmax=largest)
        attach(ax, _long(change).assign(teacher=label, shown="difference"))
    return image


def _draw(ax: Axes, matrix: pd.DataFrame, *, sides: str, room: float, **options: Any) -> AxesImage:
    """Draw a matrix, with class names at the given sides ("left", "bottom", both) where `room` points hold one."""
    ax.set_facecolor("0.85")
    image = ax.imshow(matrix.to_numpy(), interpolation="nearest", **options)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    shown = [literal(name) for name in names_on(ax, matrix.index).values()] if room >= SMALLEST else []
    size = min(max(room * 0.95, SMALLEST), small_points())
    rows, columns = shown if "left" in sides else [], shown if "bottom" in sides else []
    ax.set_yticks(range(len(rows)), rows, fontsize=size)
    ax.set_xticks(range(len(columns)), columns, fontsize=size, rotation=90)
    return image


def _colour_bars(ax: Axes, affinities: AxesImage, differences: AxesImage) -> None:
    """Draw both colour bars into the panel that has no map."""
    ax.set_axis_off()
    place = ax.get_subplotspec()
    room = 0.84 * page_width() / (place.get_gridspec().ncols if place is not None else 1)
    for bottom, image, label in ((0.7, affinities, AFFINITY), (0.2, differences, "difference")):
        inset = ax.inset_axes((0.08, bottom, 0.84, 0.08))
        ax.figure.colorbar(image, cax=inset, orientation="horizontal", extend="max" if image is affinities else "both")
        narrow = text_inches(label) > room
        shown = label.replace(" of the ", " of the\n") if narrow else label
        inset.set_title(shown, fontsize=mpl.rcParams["legend.fontsize"], pad=3)
        low, high = image.get_clim()
        ticks = [tick for tick in mpl.ticker.MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
        inset.set_xticks(ticks if room >= ROOM_FOR_TICKS else [ticks[0], ticks[-1]])
        inset.xaxis.set_major_formatter(PlainNumbers())


def _long(matrix: pd.DataFrame) -> pd.DataFrame:
    """A matrix as one row per cell that has a value."""
    table = matrix.rename_axis(index="true_class", columns="other_class").reset_index()
    return table.melt(id_vars="true_class", value_name="value").dropna(ignore_index=True)
