"""Tables and texts of a choice as its pages show them."""

from __future__ import annotations

import html

import pandas as pd

from capmismatch._utils.text import format_number


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
