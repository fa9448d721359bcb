"""How far a study has come, stage by stage."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import legend_above, one_axes
from capmismatch.plots._common import literal
from capmismatch.plots._save import attach
from capmismatch.plots._style import BLUE, VERMILLION

NEEDS = ("status",)
CAPTION = "How many students are trained, in training, failed and still to come."
WHAT = "the progress table"


def study_progress(progress: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the done, failed and open share of each stage's tasks as a bar, with the counts beside it.

    Parameters
    ----------
    progress
        Columns ``stage, done, total, failed``, stages in order; ``done + failed`` is at most ``total``.
    ax
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If a column is missing or the counts do not add up.

    Examples
    --------
    >>> progress = pd.DataFrame({"stage": ["collect"], "done": [3], "total": [4], "failed": [0]})
    >>> study_progress(progress).texts[0].get_text()
    '3/4'
    """
    require_columns(progress, ["stage", "done", "total", "failed"], WHAT)
    for stage, done, failed, total in progress[["stage", "done", "failed", "total"]].to_numpy():
        if done + failed > total or min(done, failed) < 0:
            counts = f"{done} + {failed} of {total}"
            raise InputError(f"expected 0 <= done + failed <= total, got {counts} in stage {stage!r}")
    own = ax is None
    ax = one_axes(ax, inches=0.24 * len(progress) + 0.45)
    places = np.arange(len(progress))
    totals = progress["total"].where(progress["total"] > 0).to_numpy(float)
    well, ill = (np.nan_to_num(progress[name].to_numpy(float) / totals) for name in ("done", "failed"))
    broken: dict[str, Any] = {"color": VERMILLION, "hatch": "/////", "edgecolor": "white", "linewidth": 0}
    ax.barh(places, 1.0, 0.62, color="0.92")
    handles = [ax.barh(places, well, 0.62, color=BLUE)]
    labels = ["done"]
    if ill.any():
        handles.append(ax.barh(places, ill, 0.62, left=well, **broken))
        labels.append("failed")
    for place, (stage_done, stage_total) in enumerate(progress[["done", "total"]].to_numpy().tolist()):
        ax.text(1.02, place, f"{stage_done}/{stage_total}", va="center", fontsize=mpl.rcParams["legend.fontsize"])
    ax.set_yticks(places, [literal(stage) for stage in progress["stage"]])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    legend_above(ax, handles, labels, own=own)
    attach(ax, progress[["stage", "done", "total", "failed"]])
    return ax
