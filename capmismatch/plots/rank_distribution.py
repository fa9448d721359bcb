"""Rank agreement of pairs of teachers by their distance in capacity, beside the seed noise floor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.plots._axes import legend_above, one_axes, value_axis
from capmismatch.plots._common import groups
from capmismatch.plots._options import color_of, drawing
from capmismatch.plots._ranks import METRIC_NAMES, floor_value, main_metric, pair_rows
from capmismatch.plots._save import attach, note_points
from capmismatch.plots._style import BLUE, GREY, PURPLE

NEEDS = ("ranks",)
CAPTION = (
    "Agreement of two teachers on the order of the wrong classes, by their difference in size: one point per pair of "
    "runs, with the noise floor of seeds."
)


SAME, OTHER = "pair in a family", "pair across families"
FLOOR = "noise floor: runs that differ in seed"


@drawing(ranks="ranks")
def rank_distribution(
    ranks: pd.DataFrame,
    *,
    metric: str | None = None,
    split: str | None = None,
    floor: float | pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a point for each pair of runs, by how many steps of capacity lie between the two teachers of a family.

    Runs of one teacher that differ in seed are the noise floor: their range is a band across the figure. Pairs across
    families stand apart at the right. Bars are means.

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
        That with the points.

    Raises
    ------
    InputError
        If a column, the metric or the split is missing.

    See Also
    --------
    capmismatch.rank_stability : Makes the table.
    capmismatch.ranks.rank_metrics : The formulas of the metrics.
    rank_matrix : The same agreement by pair of teachers.

    Examples
    --------
    >>> pair = {"family_a": "mlp", "teacher_a": "mlp12", "seed_a": 0, "family_b": "mlp", "split": "test"}
    >>> ranks = pd.DataFrame({**pair, "teacher_b": ["mlp12", "mlp96"], "seed_b": [1, 0], "value": [0.8, 0.6]})
    >>> ax = rank_distribution(ranks.assign(metric="wrong_tau_b"))
    >>> [label.get_text().split() for label in ax.get_xticklabels()]
    [['same,', 'other', 'seed'], ['1']]
    """
    metric = main_metric(ranks, metric)
    table, ticks = _select(ranks, metric, split)
    given_floor = floor_value(floor, metric, split)

    own_figure = ax is None
    ax = one_axes(ax)
    own = table[table["steps"] == 0]["value"]
    handles: list[Artist] = []
    labels: list[str] = []
    grey = color_of(FLOOR, GREY)
    if len(own):
        handles.append(ax.axhspan(own.min(), own.max(), color=grey, alpha=0.2, linewidth=0))
        labels.append(FLOOR)
    if given_floor is not None:
        handles.append(ax.axhline(given_floor, color=grey, linestyle="--", linewidth=1.2))
        labels.append(FLOOR if not len(own) else "given noise floor")
    dots, mean = _draw_points(ax, table, {SAME: color_of(SAME, BLUE), OTHER: color_of(OTHER, PURPLE), FLOOR: grey})
    handles += [*dots.values(), mean]
    labels += dots
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlabel("steps in size between the teachers")
    value_axis(ax, METRIC_NAMES.get(metric, metric), table["value"])
    legend_above(ax, handles, [*labels, "mean"], own_figure=own_figure)
    attach(ax, table[["a", "seed_a", "b", "seed_b", "steps", "x", "value"]])
    return ax


def _select(ranks: pd.DataFrame, metric: str, split: str | None) -> tuple[pd.DataFrame, dict[float, str]]:
    """Pairs with their distance as `steps` (NaN across families) and position `x`, and the name of each position."""
    pairs, order = pair_rows(ranks, metric, split)
    table = pairs.assign(steps=_steps(pairs, order))
    steps = sorted(int(step) for step in table["steps"].dropna().unique())
    positions = {step: float(position) for position, step in enumerate(steps)}
    across = len(positions) + 0.5
    ticks = {positions[step]: "same, other\nseed" if step == 0 else str(step) for step in steps}
    if table["steps"].isna().any():
        ticks[across] = "other\nfamily"
    return table.assign(x=table["steps"].map(positions).fillna(across)), ticks


def _draw_points(ax: Axes, table: pd.DataFrame, colors: dict[str, Any]) -> tuple[dict[str, Line2D], Line2D]:
    """Draw the pairs of each position as points beside each other, and their mean as a bar; returns one of each."""
    kinds: dict[str, Line2D] = {}
    for x, rows in groups(table.sort_values("x", kind="stable"), "x"):
        steps = rows["steps"].iloc[0]
        kind = OTHER if np.isnan(steps) else FLOOR if steps == 0 else SAME
        jitter = 0.28 * (2 * ((np.arange(len(rows)) * 0.618034) % 1) - 1)  # golden ratio: even and deterministic
        look = {"color": colors[kind], "markersize": 2.5, "alpha": 0.5, "markeredgewidth": 0}
        (dots,) = ax.plot(x + jitter, rows["value"], "o", **look)
        note_points(dots, [f"{row['a']}, {row['b']}: {row['value']:.3f}" for row in rows.to_dict("records")])
        if kind != FLOOR:
            kinds.setdefault(kind, dots)
        (mean,) = ax.plot([x - 0.36, x + 0.36], [rows["value"].mean()] * 2, color="black", linewidth=1.2)
    return kinds, mean


def _steps(pairs: pd.DataFrame, order: list[str]) -> pd.Series:
    """Steps between the two teachers within their family; NaN across families."""
    family = pd.concat([pairs.set_index("a")["family_a"], pairs.set_index("b")["family_b"]]).groupby(level=0).first()
    rank = family.reindex(order).groupby(family.reindex(order)).cumcount()
    distance = (pairs["b"].map(rank) - pairs["a"].map(rank)).abs()
    return distance.where(pairs["family_a"] == pairs["family_b"])
