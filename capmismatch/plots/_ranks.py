"""Rows of a ranks table with display labels, for the two figures that draw them."""

from __future__ import annotations

import pandas as pd

from capmismatch.errors import require_columns
from capmismatch.plots._common import rows_where, sole, teacher_labels

WHAT = "the ranks table"
METRIC_NAMES = {
    "wrong_tau_b": r"Kendall $\tau_b$ over wrong classes",
    "tau_b": r"Kendall $\tau_b$",
    "wrong_spearman": r"Spearman $\rho$ over wrong classes",
    "spearman": r"Spearman $\rho$",
    "top1_overlap": "overlap of the top wrong class",
    "top3_overlap": "overlap of the top 3 wrong classes",
    "top5_overlap": "overlap of the top 5 wrong classes",
    "affinity_tau_b": r"Kendall $\tau_b$ of class affinity",
}


def pair_rows(ranks: pd.DataFrame, metric: str, split: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Rows of one metric with display labels ``a`` and ``b``, and the labels in order: a table lists a before b."""
    columns = ["family_a", "teacher_a", "seed_a", "family_b", "teacher_b", "seed_b", "split", "metric", "value"]
    require_columns(ranks, columns, WHAT)
    rows = rows_where(sole(ranks, "split", WHAT, split, prefer="test"), WHAT, metric=metric)
    sides = [rows[[f"family_{side}", f"teacher_{side}"]].set_axis(["family", "teacher"], axis=1) for side in "ab"]
    everyone = pd.concat(sides)
    names = [teacher_labels(side, among=everyone) for side in sides]
    return rows.assign(a=names[0], b=names[1]), list(pd.unique(pd.concat(names)))
