"""Were students trained to the end? What they still gained in the last part of their training."""

from __future__ import annotations

from math import ceil

import numpy as np
import pandas as pd

from capmismatch.errors import InputError, must_be_a_table, must_be_within, require_columns
from capmismatch.stats.run_means import mean_over_runs

__all__ = ["late_gains"]

LAST = 0.2
"""The last part of the training, by default a fifth of the epochs."""

MATTERS = {"val_accuracy": 0.3, "val_nll": 0.01}
"""A gain that is called one: in points of accuracy and in nats, as much as a choice of a teacher tolerates."""

RUN = ("family", "teacher", "teacher_seed", "student", "label", "seed")


def late_gains(curves: pd.DataFrame, *, last: float = LAST) -> pd.DataFrame:
    r"""What students still gained on validation rows in the last part of their training.

    A run of :math:`E` epochs gains :math:`s_E - s_e` with :math:`e = \lfloor (1 - \text{last}) E \rfloor`, and s the
    score after an epoch. A rate of learning that falls to zero brings part of it, also to students that longer training
    would not help; the surer test is a study of twice the epochs.

    Parameters
    ----------
    curves : DataFrame
        Of `capmismatch.Study.curves`; with ``val_accuracy`` or ``val_nll``.
    last : float, default 0.2
        Which share of the epochs is the last part, in (0, 1).

    Returns
    -------
    DataFrame
        One row per student and setting, with the columns

        * ``student, label``
        * ``runs``: over which the mean is taken; those of a single epoch are left out
        * ``epochs``: of the longest run
        * ``gain, low, high``: mean over runs and its 95 % t interval, in points of accuracy, or in nats by which the
          NLL falls
        * ``findings``: CM057 where the gain is above what matters (0.3 points, 0.01 nats) and its interval above 0

    Raises
    ------
    InputError
        If a column is missing, or no run of two epochs or more has measured its epochs.

    See Also
    --------
    capmismatch.plots.learning_curves : Draws the curves.

    Examples
    --------
    >>> rows = [("KD", seed, epoch, 0.5 + 0.01 * epoch + 0.002 * seed) for seed in (0, 1, 2) for epoch in range(1, 11)]
    >>> curves = pd.DataFrame(rows, columns=["label", "seed", "epoch", "val_accuracy"])
    >>> curves = curves.assign(family="mlp", teacher="mlp96", teacher_seed=0, student="mlp12")
    >>> late_gains(curves)[["student", "label", "runs", "gain", "findings"]].round(2).values.tolist()
    [['mlp12', 'KD', 3, 2.0, 'CM057']]
    """
    must_be_within(last, "last", 1e-3, 0.999)
    must_be_a_table(curves, "the curves table", "cm.late_gains(study.curves())")
    require_columns(curves, [*RUN, "epoch"], "the curves table")
    score = _score(curves)
    if score is None:
        raise InputError(
            "no run has measured its students after each epoch: set `curves = true` in [distill] before training them"
        )
    scale = 100.0 if score == "val_accuracy" else -1.0
    gains = _gains(curves.dropna(subset=[score]), score, last)
    if not len(gains):
        raise InputError("a gain of the last epochs needs runs of two epochs or more")
    rows = []
    for (student, label), of_setting in gains.groupby(["student", "label"], sort=False):
        means = mean_over_runs(scale * of_setting["gain"].to_numpy(float)[None])
        gain, half = float(means.means[0]), float(means.half_widths[0])
        late = gain > MATTERS[score] and gain - half > 0
        rows.append(
            {
                "student": student,
                "label": label,
                "runs": len(of_setting),
                "epochs": int(of_setting["epochs"].max()),
                "gain": gain,
                "low": gain - half,
                "high": gain + half,
                "findings": "CM057" if late else "",
            }
        )
    return pd.DataFrame(rows)


def is_measured(curves: pd.DataFrame) -> bool:
    """Whether any run has measured its students after each epoch."""
    return _score(curves) is not None


def _score(curves: pd.DataFrame) -> str | None:
    """The column with students' scores on validation rows; None where there is none."""
    return next((name for name in MATTERS if name in curves and curves[name].notna().any()), None)


def _gains(curves: pd.DataFrame, score: str, last: float) -> pd.DataFrame:
    """The gain of each run in the last part of its epochs."""
    rows = []
    for run, epochs in curves.groupby(list(RUN), sort=False, dropna=False):
        scores = epochs.sort_values("epoch")[score].to_numpy(float)
        if len(scores) > 1:
            first = min(ceil((1 - last) * len(scores)), len(scores) - 1)
            rows.append((*run, len(scores), scores[-1] - scores[first - 1]))
    return pd.DataFrame(rows, columns=[*RUN, "epochs", "gain"]).replace([np.inf, -np.inf], np.nan)
