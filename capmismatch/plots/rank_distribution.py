"""Rank agreement of pairs of teachers by their distance in capacity, beside the seed noise floor."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.plots._axes import legend_above, one_axes, value_axis
from capmismatch.plots._common import groups
from capmismatch.plots._ranks import METRIC_NAMES, pair_rows
from capmismatch.plots._save import attach
from capmismatch.plots._style import BLUE, GREY, PURPLE

NEEDS = ("ranks",)
CAPTION = (
    "How far teachers order the wrong classes alike, by how many sizes apart two teachers are: one point per pair of "
    "runs, beside the noise floor of seeds."
)


def rank_distribution(
    ranks: pd.DataFrame, *, metric: str = "wrong_tau_b", split: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a point for each pair of runs, by how many steps of capacity lie between the two teachers of a family.

    Runs of one teacher that differ in seed are the noise floor: their range is a band across the figure. Pairs across
    families stand apart at the right. Bars are means.

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
    >>> ax = rank_distribution(ranks.assign(metric="wrong_tau_b"))
    >>> [label.get_text().split() for label in ax.get_xticklabels()]
    [['same,', 'other', 'seed'], ['1']]
    """
    pairs, order = pair_rows(ranks, metric, split)
    steps = _steps(pairs, order)
    table = pairs.assign(steps=steps)
    inside = sorted(int(step) for step in table["steps"].dropna().unique())
    places = {step: float(place) for place, step in enumerate(inside)}
    across = len(places) + 0.5
    table["x"] = table["steps"].map(places).fillna(across)

    own = ax is None
    ax = one_axes(ax)
    floor = table[table["steps"] == 0]["value"]
    handles, labels = [], []
    if len(floor):
        handles.append(ax.axhspan(floor.min(), floor.max(), color=GREY, alpha=0.2, linewidth=0))
        labels.append("seed noise floor (range)")
    for x, group in groups(table.sort_values("x", kind="stable"), "x"):
        color = GREY if places.get(0) == x else PURPLE if x == across else BLUE
        jitter = 0.28 * (2 * ((np.arange(len(group)) * 0.618034) % 1) - 1)  # golden ratio: even and deterministic
        ax.plot(x + jitter, group["value"], "o", color=color, markersize=2.5, alpha=0.5, markeredgewidth=0)
        (mean,) = ax.plot([x - 0.36, x + 0.36], [group["value"].mean()] * 2, color="black", linewidth=1.2)
    names = ["same, other\nseed" if step == 0 else str(step) for step in inside]
    ticks = [places[step] for step in inside]
    if table["steps"].isna().any():
        ticks, names = [*ticks, across], [*names, "other\nfamily"]
    ax.set_xticks(ticks, names)
    ax.set_xlabel("steps in size between the teachers")
    value_axis(ax, METRIC_NAMES.get(metric, metric), table["value"])
    legend_above(ax, [*handles, mean], [*labels, "mean"], own=own)
    attach(ax, table[["a", "seed_a", "b", "seed_b", "steps", "x", "value"]])
    return ax


def _steps(pairs: pd.DataFrame, order: list[str]) -> pd.Series:
    """Steps between the two teachers within their family; NaN across families."""
    family = pd.concat([pairs.set_index("a")["family_a"], pairs.set_index("b")["family_b"]]).groupby(level=0).first()
    rank = family.reindex(order).groupby(family.reindex(order)).cumcount()
    apart = (pairs["b"].map(rank) - pairs["a"].map(rank)).abs()
    return apart.where(pairs["family_a"] == pairs["family_b"])
