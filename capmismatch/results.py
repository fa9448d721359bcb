"""The results table: how well students did. Made by `distill`, or brought in from another trainer as CSV."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from capmismatch.errors import InputError, require_columns
from capmismatch.methods import METHODS, Method

COLUMNS = (
    "family", "teacher", "params", "teacher_seed", "student", "label", "method", "tau", "tau_other", "tau_student", "weight",
    "constraint", "margin", "seed", "split", "accuracy", "n",
)  # fmt: skip
NUMBERS = ("params", "tau", "tau_other", "tau_student", "weight", "margin", "n")


def load_results(
    path: str | os.PathLike[str], columns: Mapping[str, str] | None = None, *, percent: bool = False
) -> pd.DataFrame:
    """Read a results table that another trainer made.

    Parameters
    ----------
    path : CSV file (or Parquet, by its ending). It needs the columns teacher, method and accuracy; student, seed, split,
        family and the rest of the vocabulary are filled in where they are missing ("student", 0, "test", ...).
    columns : the file's column names where they differ: {"their name": "our name"}
    percent : whether accuracies are percentages; otherwise they must lie in [0, 1]

    Returns
    -------
    DataFrame of the columns family, teacher, params, teacher_seed, student, label, method, tau, tau_other, tau_student,
    weight, constraint, margin, seed, split, accuracy, n.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "mine.csv"
    ...     _ = file.write_text("model,method,tau,top1\\nr20,KD,4,0.71\\nr56,KD,4,0.69\\n")
    ...     load_results(file, {"model": "teacher", "top1": "accuracy"})[["teacher", "label", "accuracy"]]
      teacher     label  accuracy
    0     r20  KD tau=4      0.71
    1     r56  KD tau=4      0.69
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"there is no results file {file}")
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, keep_default_na=True)
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is not a readable table: {error}") from None
    if columns:
        require_columns(frame, columns, f"the results in {file}")
        frame = frame.rename(columns=dict(columns))
    require_columns(frame, ["teacher", "method", "accuracy"], f"the results in {file}")
    if frame.empty:
        raise InputError(f"expected at least one result in {file}, got none")
    accuracy = pd.to_numeric(frame["accuracy"], errors="coerce")
    if percent:
        accuracy = accuracy / 100
    bad = accuracy.isna() | (accuracy < 0) | (accuracy > 1)
    if bad.any():
        row = int(bad.to_numpy().argmax())
        hint = "; say percent=True if they are percentages" if not percent else ""
        raise InputError(f"expected accuracies in [0, 1], got {frame['accuracy'].iloc[row]!r} at row {row} of {file}{hint}")
    return complete(frame.assign(accuracy=accuracy))


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the columns of the vocabulary that are missing, in their order and types."""
    full = frame.copy()
    fill: dict[str, object] = {"family": "results", "teacher_seed": 0, "student": "student", "seed": 0, "split": "test"}
    for column, value in fill.items():
        full[column] = full[column].fillna(value) if column in full else value
    for column in NUMBERS:
        full[column] = pd.to_numeric(full[column], errors="coerce") if column in full else float("nan")
    full["teacher"] = full["teacher"].fillna("").astype(str)
    full["constraint"] = full["constraint"].fillna("").astype(str) if "constraint" in full else ""
    plain = full["method"] == "CE"
    full.loc[plain, ["family", "teacher"]] = ""
    for column in ("teacher_seed", "seed"):
        full[column] = full[column].astype(int)
    if "label" not in full:
        full["label"] = [_label(row) for row in full.to_dict("records")]
    return full[[*COLUMNS, *[c for c in full.columns if c not in COLUMNS]]]


def _label(row: dict) -> str:  # type: ignore[type-arg]
    """The label of a setting; methods that capmismatch does not know keep their name."""
    if row["method"] not in METHODS:
        return str(row["method"])
    given = {k: row[k] for k in ("tau", "tau_other", "tau_student", "weight", "constraint", "margin")}
    kept = {k: v for k, v in given.items() if pd.notna(v) and v != ""}
    try:
        return Method(row["method"], **kept).label
    except InputError:
        return str(row["method"])
