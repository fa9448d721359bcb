"""Tables and texts of a choice as its pages show them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import pandas as pd

from capmismatch._utils.text import format_number
from capmismatch.selection.metric import Metric

CHANCES = {"p_best": "P(best)", "within": "P(within {tolerance:g})"}
"""Columns of probabilities -> what they are called on a page."""


def rung_summary(arms: pd.DataFrame) -> pd.DataFrame:
    """One row per rung of a pilot: its arms, and which of them was likeliest the best."""
    if arms.empty:
        return arms
    by = ["stage", "rung", "epochs", "seeds"]
    best = arms.loc[arms.groupby(by, sort=False)["p_best"].idxmax()]
    counts = arms.groupby(by, sort=False)["kept"].agg(arms="size", kept="sum").reset_index()
    return counts.merge(best[[*by, "teacher", "label", "p_best"]], on=by)


def shown_settings(settings: pd.DataFrame) -> pd.DataFrame:
    """Settings for the page: all of a single student, those that are tied of several."""
    if "student" in settings:
        single = settings["student"].nunique() <= 1
        settings = settings.drop(columns="student") if single else settings[settings["tie"]]
    return settings.drop(columns=["method", "tau", "family"], errors="ignore")


def in_units(
    table: pd.DataFrame,
    metric: Metric,
    *,
    levels: Sequence[str] = (),
    differences: Sequence[str] = (),
    tolerance: float = 0.0,
) -> pd.DataFrame:
    """A table of a choice as a page shows it: units in the headers, as many decimals as mean something.

    Parameters
    ----------
    table : DataFrame
        As the choice holds it: accuracies and probabilities are shares of one.
    metric : Metric
        By what students are compared.
    levels, differences : sequence of str
        Columns in the metric's numbers, and of its differences; those that are missing are passed over.
    tolerance : float
        What ``within`` is about.

    Examples
    --------
    >>> from capmismatch.selection.metric import ACCURACY
    >>> table = pd.DataFrame({"score": [0.6619], "regret": [0.2323], "p_best": [0.6655], "tie": [True]})
    >>> in_units(table, ACCURACY, levels=["score"], differences=["regret"]).to_dict("records")
    [{'score %': '66.19', 'regret, points': '0.23', 'P(best)': '67 %', 'tie': 'yes'}]
    """
    in_nats = metric.less_is_better
    times, unit = (1, f", {metric.unit}") if in_nats else (100, " %")
    digits = 3 if in_nats else 2
    columns: dict[str, list[Any]] = {}
    for name in map(str, table):
        values = table[name]
        if name in levels:
            columns[f"{name}{unit}"] = [_fixed(times * value, digits) for value in values]
        elif name in differences:
            end = name.endswith(("low", "high"))  # of the interval of a column that says its unit
            columns[name if end else f"{name}, {metric.unit}"] = [_fixed(value, digits) for value in values]
        elif name in CHANCES:
            columns[CHANCES[name].format(tolerance=tolerance)] = [_chance(value) for value in values]
        elif name == "tie":
            columns[name] = ["yes" if tie else "" for tie in values]
        else:
            columns[name] = values.to_list()
    return pd.DataFrame(columns, index=table.index)


def _chance(value: float) -> str:
    """A probability that is estimated from draws, so never 0 or 1."""
    if pd.isna(value) or 0.01 <= value <= 0.99:
        return "-" if pd.isna(value) else f"{100 * value:.0f} %"
    return ">99 %" if value > 0.5 else "<1 %"


def _fixed(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Without columns that are all NaN, such as those that need results where there are none."""
    return frame.dropna(axis="columns", how="all")


def cell(value: object) -> str:
    """A value as the cell of a Markdown table."""
    if isinstance(value, float):
        return format_number(value)
    return plain(str(value)).replace("|", "\\|").replace("\n", " ")


def plain(text: str) -> str:
    """Text in which names that look like tags, links or pictures are shown as text."""
    return html.escape(text, quote=False).replace("](", "]\\(")
