"""Which teacher to take, and how sure that is."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from capmismatch.errors import require_columns
from capmismatch.plots._axes import SIZE_NAMES, legend_above, small_points, symbol
from capmismatch.plots._common import literal, teacher_labels
from capmismatch.plots._labels import names_on
from capmismatch.plots._save import attach
from capmismatch.plots._style import BLUE, GREY

NEEDS = ("pick",)
CAPTION = (
    "The teachers, best first: what they were chosen by, with its 95 % interval, and with students the chance of being "
    "the best and the accuracy points expected to be lost. Those too close to call are coloured."
)
WHAT = "the pick table"
PANELS = {"p_best": "P(best)", "regret": "expected regret\n(points)"}


def pick_chart(
    table: pd.DataFrame, *, probe: str | None = None, tau: float | None = None, ax: Axes | None = None
) -> np.ndarray:
    r"""Draw each teacher's score with its interval, its chance of being the best, and its expected regret.

    The first row of the table, the best teacher, stands on top. Teachers too close to call with the best (``tie``) are
    filled and coloured, the others hollow and grey.

    Parameters
    ----------
    table
        The table of a choice, best teacher first: columns ``family, teacher, score, low, high, tie``, and ``p_best,
        regret`` where the choice was made with results; panels without any value are left out.
    probe, tau
        What `score` is where the choice was made by a probe alone, and the probe's temperature: such a table does not
        tell. With results it is the students' accuracy, by evidence the points by which they are predicted to stand
        above their mean over the teachers.
    ax
        Draw the scores alone into it.

    Returns
    -------
    ndarray of Axes
        One to three panels.

    Raises
    ------
    InputError
        If a column is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"family": "mlp", "teacher": ["mlp12", "mlp96"], "score": [0.7, 0.8]})
    >>> table = table.assign(low=table["score"] - 0.01, high=table["score"] + 0.01, tie=[False, True])
    >>> axes = pick_chart(table.iloc[::-1], probe="derived_std", tau=4.0)
    >>> [label.get_text() for label in axes[0].get_yticklabels()], axes[0].get_xlabel()
    (['mlp12', 'mlp96'], 'std of wrong $p$ at $\\tau$=4')
    """
    require_columns(table, ["family", "teacher", "score", "low", "high", "tie"], WHAT)
    rows = table.assign(label=teacher_labels(table)).iloc[::-1].reset_index(drop=True)
    more = [] if ax is not None else [name for name in PANELS if name in rows and rows[name].notna().any()]
    if ax is None:
        width = mpl.rcParams["figure.figsize"][0]
        axes = plt.subplots(
            1,
            1 + len(more),
            figsize=(width, 0.19 * len(rows) + 0.6),
            sharey=True,
            squeeze=False,
            layout="constrained",
            width_ratios=[2, *[1] * len(more)],
        )[1].ravel()
    else:
        axes = np.array([ax])
    places = np.arange(len(rows))
    tie = rows["tie"].fillna(False).to_numpy(bool)
    colors = np.where(tie, BLUE, GREY)
    score = axes[0]
    name, scale = _score(table, probe, tau)
    middle, low, high = (scale * rows[column] for column in ("score", "low", "high"))
    score.hlines(places, low, high, colors=colors, linewidth=1.2)
    score.scatter(middle, places, facecolors=np.where(tie, BLUE, "white"), edgecolors=colors, zorder=3, s=16)
    shown = names_on(score, rows["label"])
    score.set_yticks(places, [literal(shown[label]) for label in rows["label"]])
    score.set_xlabel(name, fontsize=small_points())
    score.margins(y=0.06)
    for panel, name in zip(axes[1:], more, strict=True):
        panel.barh(places, rows[name].to_numpy(float), 0.65, facecolor="none", edgecolor=colors, linewidth=0.8)
        panel.barh(places, rows[name].where(tie).to_numpy(float), 0.65, color=BLUE, edgecolor=BLUE, linewidth=0.8)
        panel.set_xlabel(PANELS[name], fontsize=small_points())
    for panel in axes:
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4 if panel is score else 3))
        panel.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:.6g}"))
    filled = Line2D([], [], marker="o", color=BLUE)
    hollow = Line2D([], [], marker="o", color=GREY, markerfacecolor="white")
    legend_above(score, [filled, hollow], ["best, or too close to call", "worse"], own=ax is None)
    columns = ["label", "family", "teacher", "score", "low", "high", "tie"]
    attach(score, rows[columns])
    for panel, name in zip(axes[1:], more, strict=True):
        attach(panel, rows[["label", "family", "teacher", name, "tie"]])
    return axes


def _score(table: pd.DataFrame, probe: str | None, tau: float | None) -> tuple[str, float]:
    """What the score is, with its unit, and by what to multiply it."""
    if "accuracy" in table:
        return "students' accuracy (%)", 100.0
    if "measured" in table:
        return "predicted students' accuracy\n(points above their mean)", 1.0
    at = "" if tau is None or np.isnan(tau) else rf" at $\tau$={tau:g}"
    return ("score of the rule" if probe is None else SIZE_NAMES.get(probe) or symbol(probe) + at), 1.0
