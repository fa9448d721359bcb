"""How far a study's grid of students has come."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.plots._axes import legend_above, one_axes, roomy
from capmismatch.plots._common import literal, teacher_labels
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import color_of, drawing
from capmismatch.plots._save import attach
from capmismatch.plots._style import BLUE, SKY, VERMILLION

NEEDS = ("status",)
CAPTION = "How many students are done, running, failed and waiting, and the computing time left."
WHAT = "the status table"
LOOKS: dict[str, dict[str, Any]] = {
    "done": {"color": BLUE},
    "running": {"color": SKY},
    "failed": {"color": VERMILLION, "hatch": "/////", "edgecolor": "white", "linewidth": 0},
    "waiting": {"color": "0.92"},
}


@drawing(status="status")
def study_progress(status: pd.DataFrame, *, by: str = "teacher", ax: Axes | None = None) -> Axes:
    """Draw how many students are done, running, failed and waiting: one bar for each teacher or method setting.

    Beside each bar stands how many of its students are done, and the computing time that running and waiting ones
    still need, where it is known.

    Parameters
    ----------
    status : DataFrame or Study
        What `capmismatch.Study.status` returns. Columns ``family, teacher, label, runs, done, running, failed, waiting,
        seconds_left``; one row per teacher and method setting.
    by : {"teacher", "method"}
        What the students are counted by. Students without a teacher (plain training) have a bar of their own.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
        That with the bars.

    Raises
    ------
    InputError
        If a column is missing, or the four counts do not add up to the runs.

    See Also
    --------
    capmismatch.Study.status : Makes the table.

    Examples
    --------
    >>> status = pd.DataFrame({"label": ["KD", "ATS"], "runs": 4, "done": [3, 2], "running": [1, 0], "failed": [0, 1]})
    >>> status = status.assign(family="mlp", teacher="mlp12", waiting=[0, 1], seconds_left=[60.0, 120.0])
    >>> study_progress(status).texts[0].get_text()
    '5/8, 3 min left'
    """
    counts = _counts(status, by)

    own_figure = ax is None
    ax = one_axes(ax, inches=roomy() * (0.24 * len(counts) + 0.45))
    positions = np.arange(len(counts))
    handles = _draw_bars(ax, counts, positions)
    for position, row in enumerate(counts.to_dict("records")):
        text = f"{row['done']}/{row['runs']}" + _time_left(row["seconds_left"])
        ax.text(1.02, position, text, va="center", fontsize=mpl.rcParams["legend.fontsize"])
    names = names_on(ax, counts["label"])
    ax.set_yticks(positions, [literal(names[label]) for label in counts["label"]])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    legend_above(ax, list(handles.values()), list(handles), own_figure=own_figure)
    attach(ax, counts)
    return ax


def _counts(status: pd.DataFrame, by: str) -> pd.DataFrame:
    """Runs in each state and the seconds left, one row per teacher or method setting, called `label`."""
    must_be_one_of(by, ["teacher", "method"], "by")
    numbers = ["runs", *LOOKS, "seconds_left"]
    require_columns(status, ["family", "teacher", "label", *numbers], WHAT)
    states = status[list(LOOKS)]
    wrong = (states < 0).any(axis=1) | (states.sum(axis=1) != status["runs"])
    if wrong.any():
        row = status[wrong].iloc[0]
        counts = " + ".join(f"{row[state]} {state}" for state in LOOKS)
        raise InputError(
            f"expected counts of at least 0 that add up to the runs, got {counts} of {row['runs']} runs "
            f"for {row['teacher']!r} and {row['label']!r}"
        )
    if by == "teacher":
        status = status.assign(label=teacher_labels(status).replace("", "no teacher"))
    sums = status.groupby("label", sort=False)[numbers].sum()
    unknown = status["seconds_left"].isna().groupby(status["label"], sort=False).any()
    return sums.assign(seconds_left=sums["seconds_left"].mask(unknown)).reset_index()


def _draw_bars(ax: Axes, counts: pd.DataFrame, positions: np.ndarray) -> dict[str, Any]:
    """Draw the share of each state, one after the other; returns those that occur anywhere."""
    runs = counts["runs"].where(counts["runs"] > 0).to_numpy(float)
    start, bars = np.zeros(len(counts)), {}
    for state, look in LOOKS.items():
        share = np.nan_to_num(counts[state].to_numpy(float) / runs)
        if share.any():
            bars[state] = ax.barh(
                positions, share, 0.62, left=start, **{**look, "color": color_of(state, look["color"])}
            )
        start = start + share
    return bars


def _time_left(seconds: float) -> str:
    """The computing time left, in words; empty where there is none or nobody knows it."""
    if np.isnan(seconds) or seconds == 0:
        return ""
    if seconds < 60:
        return f", {seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f", {minutes} min left" if minutes < 60 else f", {minutes // 60} h {minutes % 60:02d} min left"
