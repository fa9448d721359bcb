"""What every timed benchmark ends with: its table as a CSV and on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def show(table: pd.DataFrame, out: Path | None, hidden: Sequence[str] = ()) -> None:
    """Write the whole table to `out`, if given, and print it without some columns; numbers to four digits."""
    if out is not None:
        table.to_csv(out, index=False, float_format="%.4g")
    with pd.option_context("display.width", 250, "display.max_columns", None, "display.max_colwidth", None):
        print(table.drop(columns=list(hidden)).to_string(index=False, float_format=lambda value: f"{value:.4g}"))
