"""Rows of a ranks table with display labels, for the two figures that draw them."""

from __future__ import annotations

import pandas as pd

from capmismatch.errors import InputError, require_columns
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
    "vocab_tau_b": r"Kendall $\tau_b$ over random wrong tokens",
    "vocab_spearman": r"Spearman $\rho$ over random wrong tokens",
    "head_tau_b": r"Kendall $\tau_b$ over the likeliest wrong tokens",
}


def main_metric(ranks: pd.DataFrame, metric: str | None) -> str:
    """The metric that is asked for; by default Kendall's tau-b over wrong classes, or over a vocabulary's tokens.

    Examples
    --------
    >>> main_metric(pd.DataFrame({"metric": ["vocab_tau_b", "head_tau_b"]}), None)
    'vocab_tau_b'
    """
    if metric is not None:
        return metric
    require_columns(ranks, ["metric"], WHAT)
    found = set(ranks["metric"])
    return "vocab_tau_b" if "vocab_tau_b" in found and "wrong_tau_b" not in found else "wrong_tau_b"


def floor_value(floor: float | pd.DataFrame | None, metric: str, split: str | None) -> float | None:
    """The noise floor that was given: a number, or the mean of the pairs of one teacher's runs in a ranks table."""
    if floor is None:
        return None
    if not isinstance(floor, pd.DataFrame):
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not -1 <= floor <= 1:
            raise InputError(f"expected floor as an agreement in [-1, 1] or a ranks table, got {floor!r}")
        return float(floor)
    rows, _ = pair_rows(floor, metric, split if split in set(floor.get("split", [])) else None)
    same = rows[(rows["a"] == rows["b"]) & (rows["seed_a"] != rows["seed_b"])]
    if same.empty:
        raise InputError("expected a floor with two training runs of a teacher, which differ in seed; it has none")
    return float(same["value"].mean())


def pair_rows(ranks: pd.DataFrame, metric: str, split: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Rows of one metric with display labels ``a`` and ``b``, and the labels in order: a table lists a before b."""
    columns = ["family_a", "teacher_a", "seed_a", "family_b", "teacher_b", "seed_b", "split", "metric", "value"]
    require_columns(ranks, columns, WHAT)
    rows = rows_where(sole(ranks, "split", WHAT, split, prefer="test"), WHAT, metric=metric)
    sides = [rows[[f"family_{side}", f"teacher_{side}"]].set_axis(["family", "teacher"], axis=1) for side in "ab"]
    everyone = pd.concat(sides)
    names = [teacher_labels(side, among=everyone) for side in sides]
    return rows.assign(a=names[0], b=names[1]), list(pd.unique(pd.concat(names)))
