"""How alike teachers order the wrong classes, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from capmismatch.plots._axes import one_axes, root
from capmismatch.plots._common import literal
from capmismatch.plots._labels import names_on, tiny_points
from capmismatch.plots._ranks import METRIC_NAMES, pair_rows
from capmismatch.plots._save import attach

NEEDS = ("ranks",)
CAPTION = (
    "How far teachers order the wrong classes alike: mean Kendall tau-b per example. The diagonal is the noise floor: "
    "two runs of one teacher that differ in the seed; hatched where there is one run."
)


def rank_matrix(
    ranks: pd.DataFrame, *, metric: str = "wrong_tau_b", split: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the rank agreement between teachers as a triangle, with the seed noise floor on its diagonal.

    A cell is the mean over the seeds of both teachers; on the diagonal stands the mean over pairs of runs of one
    teacher that differ in seed alone, hatched where a teacher has one run. No two teachers can be expected to agree
    more than that.

    Parameters
    ----------
    ranks
        Columns ``family_a, teacher_a, seed_a, family_b, teacher_b, seed_b, split, metric, value``, teachers in order of
        size.
    metric
        Which measure of agreement.
    split
        By default the only one, or ``"test"`` where there are several.
    ax
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If a column, the metric or the split is missing.

    Examples
    --------
    >>> pair = {"family_a": "mlp", "teacher_a": "mlp12", "seed_a": 0, "family_b": "mlp", "split": "test"}
    >>> ranks = pd.DataFrame({**pair, "teacher_b": ["mlp12", "mlp96"], "seed_b": [1, 0], "value": [0.8, 0.6]})
    >>> ax = rank_matrix(ranks.assign(metric="wrong_tau_b"))
    >>> [text.get_text() for text in ax.texts]
    ['.80', '.60']
    """
    pairs, order = pair_rows(ranks, metric, split)
    cells = pairs.groupby(["a", "b"], sort=False)["value"].mean()
    grid = cells.unstack().reindex(index=order, columns=order)
    both = grid.combine_first(grid.T).reindex(index=order, columns=order).to_numpy(float)
    below = np.tril(np.ones_like(both, dtype=bool))

    own = ax is None
    ax = one_axes(ax, ratio=0.8)
    if own:
        root(ax).set_layout_engine("compressed")  # keeps a square in the middle of its figure
    room = 72 * 0.7 * root(ax).get_figwidth() * ax.get_position().width / len(order)  # points a cell, names left out
    names = [literal(name) for name in names_on(ax, order).values()]
    texts = np.array([[f"{value:.2f}".replace("0.", ".", 1) for value in row] for row in both])
    sns.heatmap(
        both,
        mask=~below,
        square=True,
        cmap="viridis",
        xticklabels=names,
        yticklabels=names,
        ax=ax,
        annot=texts if room >= 1.9 * tiny_points() else None,
        fmt="",
        annot_kws={"fontsize": tiny_points()},
        cbar_kws={"label": METRIC_NAMES.get(metric, metric), "shrink": 0.8, "pad": 0.02},
    )
    ax.set_xticks(ax.get_xticks(), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="y", labelrotation=0)
    ax.tick_params(length=0)
    hatched: dict[str, Any] = {"facecolor": "0.93", "hatch": "/////", "edgecolor": "0.7", "linewidth": 0}
    for row, column in np.argwhere(below & np.isnan(both)).tolist():
        ax.add_patch(Rectangle((column, row), 1, 1, **hatched))
    shown = np.argwhere(below & np.isfinite(both))
    attach(ax, pd.DataFrame([(order[i], order[j], both[i, j]) for i, j in shown], columns=["a", "b", metric]))
    return ax
