"""How alike teachers order the wrong classes, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from capmismatch.plots._axes import inches_wide, legend_above, one_axes, root
from capmismatch.plots._common import literal
from capmismatch.plots._labels import names_on, short_names, tiny_points
from capmismatch.plots._options import color_map, drawing, options_now
from capmismatch.plots._ranks import METRIC_NAMES, floor_value, main_metric, pair_rows
from capmismatch.plots._save import attach

NEEDS = ("ranks",)
HATCHED: dict[str, Any] = {"facecolor": "0.93", "hatch": "/////", "edgecolor": "0.7", "linewidth": 0}
CAPTION = (
    "Agreement of teachers on the order of the wrong classes: mean Kendall tau-b per example. The diagonal is the "
    "noise floor: two runs of one teacher with different seeds; hatched if there is one run only."
)


@drawing(ranks="ranks")
def rank_matrix(
    ranks: pd.DataFrame,
    *,
    metric: str | None = None,
    split: str | None = None,
    floor: float | pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the rank agreement between teachers as a triangle, with the seed noise floor on its diagonal.

    A cell is the mean over the seeds of both teachers; on the diagonal stands the mean over pairs of runs of one
    teacher that differ in seed alone, hatched where a teacher has one run. No two teachers can be expected to agree
    more than that. The colour bar has a mark at the mean of the noise floor; lines part families.

    Parameters
    ----------
    ranks : DataFrame, Study or Diagnosis
        Columns ``family_a, teacher_a, seed_a, family_b, teacher_b, seed_b, split, metric, value``, teachers in order of
        size.
    metric : str, optional
        Which measure of agreement; by default ``"wrong_tau_b"``, or ``"vocab_tau_b"`` of condensed rows.
    split : str, optional
        By default the only one, or ``"test"`` where there are several.
    floor : float or DataFrame, optional
        The noise floor where these teachers have one run each: the agreement of two runs that differ in seed, or a
        ranks table of other teachers with several runs.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
        That with the cells.

    Raises
    ------
    InputError
        If a column, the metric or the split is missing.

    See Also
    --------
    capmismatch.rank_stability : Makes the table.
    capmismatch.ranks.rank_metrics : The formulas of the metrics.
    rank_distribution : The same agreement by the distance in size.

    Examples
    --------
    >>> pair = {"family_a": "mlp", "teacher_a": "mlp12", "seed_a": 0, "family_b": "mlp", "split": "test"}
    >>> ranks = pd.DataFrame({**pair, "teacher_b": ["mlp12", "mlp96"], "seed_b": [1, 0], "value": [0.8, 0.6]})
    >>> ax = rank_matrix(ranks.assign(metric="wrong_tau_b"))
    >>> [text.get_text() for text in ax.texts]
    ['.80', '.60']
    """
    metric = main_metric(ranks, metric)
    matrix, families = _select(ranks, metric, split)
    given_floor = floor_value(floor, metric, split)

    own_figure = ax is None
    ax = one_axes(ax, ratio=0.8)
    if own_figure and options_now().figure is None:
        root(ax).set_layout_engine("compressed")  # keeps a square in the middle of its figure
    bar = _draw_cells(ax, matrix, METRIC_NAMES.get(metric, metric))
    own_floor = np.diag(matrix.to_numpy())
    hatched = not np.isfinite(own_floor).all()
    measured = float(np.nanmean(own_floor)) if np.isfinite(own_floor).any() else given_floor
    handles: list[Artist] = []
    labels: list[str] = []
    if measured is not None:
        handles.append(_mark_floor(bar, measured, matrix))
        whose = "mean of the diagonal" if np.isfinite(own_floor).any() else "other teachers"
        labels.append(f"noise floor, two seeds ({whose}): {measured:.2f}")
    if hatched:
        handles.append(Patch(**HATCHED))
        labels.append("one run: no floor of its own")
    legend_above(ax, handles, labels, own_figure=own_figure)
    _part_families(ax, list(families.values()))
    shown = names_on(ax, matrix.index)
    if len(set(families.values())) > 1:  # here all with their families, which the lines part
        plain = short_names([*families])
        full = short_names([f"{family}/{name.removeprefix(f'{family}/')}" for name, family in families.items()])
        by_label = dict(zip(families, full.values(), strict=True))
        shown = {name: by_label[name] if text == plain[name] else text for name, text in shown.items()}
    names = [literal(name) for name in shown.values()]
    ax.set_yticks(ax.get_yticks(), names)
    ax.set_xticks(ax.get_xticks(), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="y", labelrotation=0)
    ax.tick_params(length=0)
    cells = [(a, b, row[b]) for a, row in matrix.iterrows() for b in matrix.columns if np.isfinite(row[b])]
    attach(ax, pd.DataFrame(cells, columns=["a", "b", metric]))
    return ax


def _select(ranks: pd.DataFrame, metric: str, split: str | None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Mean agreement of each two teachers, both in the table's order; NaN above the diagonal and where not measured.

    Beside it the family of each.
    """
    pairs, order = pair_rows(ranks, metric, split)
    cells = pairs.groupby(["a", "b"], sort=False)["value"].mean()
    grid = cells.unstack().reindex(index=order, columns=order)
    both = grid.combine_first(grid.T).reindex(index=order, columns=order).astype(float)
    families = dict(zip(pairs["a"], pairs["family_a"], strict=True)) | dict(
        zip(pairs["b"], pairs["family_b"], strict=True)
    )
    triangle = both.where(np.tril(np.ones(both.shape, dtype=bool)))
    return triangle, {name: str(families[name]) for name in order}


def _mark_floor(bar: Axes, floor: float, matrix: pd.DataFrame) -> Line2D:
    """A line across the colour bar at the noise floor, which the bar is made to reach."""
    low, high = bar.get_ylim()
    if not low <= floor <= high:
        bar.set_ylim(min(low, floor), max(high, floor + 0.02 * (high - low)))
    return bar.axhline(floor, color="black", linewidth=1.2, linestyle="--")


def _part_families(ax: Axes, families: list[str]) -> None:
    """Lines between the families."""
    for place in range(1, len(families)):
        if families[place] != families[place - 1]:
            ax.plot([0, place], [place, place], color="white", linewidth=1.5)
            ax.plot([place, place], [place, len(families)], color="white", linewidth=1.5)


def _draw_cells(ax: Axes, matrix: pd.DataFrame, metric: str) -> Axes:
    """Draw the triangle, with numbers where a cell has room for them, and hatches where nothing was measured.

    Returns the Axes of the colour bar.
    """
    values = matrix.to_numpy()
    room = 72 * 0.7 * inches_wide(ax) / len(matrix)  # points a cell, names left out
    texts = np.array([[f"{value:.2f}".replace("0.", ".", 1) for value in row] for row in values])
    below = np.tril(np.ones(values.shape, dtype=bool))
    sns.heatmap(
        values,
        mask=~below,
        square=True,
        cmap=color_map("viridis"),
        xticklabels=1,
        yticklabels=1,
        ax=ax,
        annot=texts if room >= 1.9 * tiny_points() else None,
        fmt="",
        annot_kws={"fontsize": tiny_points()},
        cbar_kws={"label": metric, "shrink": 0.8, "pad": 0.02},
    )
    for row, column in np.argwhere(below & np.isnan(values)).tolist():
        ax.add_patch(Rectangle((column, row), 1, 1, **HATCHED))
    bar = ax.collections[0].colorbar
    assert bar is not None  # seaborn has just drawn it
    return bar.ax
