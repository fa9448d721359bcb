"""A forest plot: the same difference in several families, and its mean."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import one_axes, roomy
from capmismatch.plots._common import literal
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import color_of, drawing
from capmismatch.plots._save import attach

NEEDS = ()
CAPTION = "A difference in each family with its 95 % interval, and the mean over families as a diamond."


QUANTITY = "points lost, less those of the largest teacher"


@drawing(table="forest")
def forest(table: pd.DataFrame, *, quantity: str = QUANTITY, ax: Axes | None = None) -> Axes:
    """Draw a value with its interval for each family, and their mean as a diamond below a line.

    Parameters
    ----------
    table : DataFrame or Meta
        Columns ``name, value, low, high, mean``, as `capmismatch.study.meta.Meta.forest` makes them; in rows of a mean,
        ``mean`` is True.
    quantity : str
        What the values are, under the axis.
    ax : Axes, optional
        Where to draw; by default a new figure, as tall as its rows need.

    Returns
    -------
    Axes
        The Axes.

    Raises
    ------
    InputError
        If a column is missing or the table is empty.

    See Also
    --------
    capmismatch.meta : Makes the table.

    Examples
    --------
    >>> rows = {"name": ["A", "B", "mean of 2"], "value": [-0.2, 0.1, -0.05], "low": [-0.4, -0.1, -1.9]}
    >>> ax = forest(pd.DataFrame({**rows, "high": [0.0, 0.3, 1.8], "mean": [False, False, True]}))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['A', 'B', 'mean of 2']
    """
    require_columns(table, ["name", "value", "low", "high", "mean"], "the table of a forest plot")
    if table.empty:
        raise InputError("the table of a forest plot has no rows")
    ax = one_axes(ax, inches=roomy() * (0.6 + 0.24 * len(table)))
    places = np.arange(len(table))
    numbers = table[["value", "low", "high"]].to_numpy(float)
    for place, (value, low, high), is_mean in zip(places, numbers, table["mean"], strict=True):
        if is_mean:
            low, high = (low, high) if np.isfinite(low) else (value, value)
            corners = [(low, place), (value, place - 0.28), (high, place), (value, place + 0.28)]
            (diamond,) = ax.fill(*zip(*corners, strict=True), color=color_of("mean", "black"), linewidth=1)
            diamond.set_label("mean")
        else:
            ax.plot([low, high], [place, place], color="0.45", linewidth=1.2)
            color = color_of(str(table["name"].iloc[place]), color_of("family", "C0"))
            (square,) = ax.plot(value, place, marker="s", markersize=4, color=color, linestyle="")
            if "family" not in ax.get_legend_handles_labels()[1]:
                square.set_label("family")
    for place in places[table["mean"].to_numpy(bool)]:
        ax.axhline(place - 0.5, color="0.7", linewidth=0.6)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    names = names_on(ax, map(str, table["name"]), "family")
    ax.set_yticks(places, [literal(names[str(name)]) for name in table["name"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(quantity)
    attach(ax, table)
    return ax
