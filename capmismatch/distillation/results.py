"""The results table: how well students did. Made by `distill`, or brought in from another trainer as CSV."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from capmismatch.data.bank import SPLITS
from capmismatch.distillation.methods import METHODS, Method
from capmismatch.errors import InputError, must_be_one_of, require_columns

COLUMNS = (
    "family",
    "teacher",
    "params",
    "teacher_seed",
    "student",
    "label",
    "method",
    "tau",
    "tau_other",
    "tau_student",
    "weight",
    "constraint",
    "margin",
    "seed",
    "split",
    "accuracy",
    "n",
)
NAMES = ("family", "teacher", "student", "label", "method", "constraint", "split")
NUMBERS = ("params", "tau", "tau_other", "tau_student", "weight", "margin", "n")
SEEDS = ("teacher_seed", "seed")
OTHER_SPLITS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
"""What else splits are called."""

SETTING = ("tau", "tau_other", "tau_student", "weight", "constraint", "margin")


def load_results(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    *,
    percent: bool = False,
    splits: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    r"""Read a results table that another trainer made.

    Parameters
    ----------
    path : CSV file (or Parquet, by its ending). It needs the columns teacher, method and accuracy; student, seed,
        split and the rest of the vocabulary are filled in where they are missing ("student", 0, "test", ...). A family
        left out stays empty: `correlate`, `pick` and the figures then go by the teacher's name alone, and refuse one
        that several families of the probes have. Rows of plain cross-entropy have the method "CE" and no teacher.
        Spaces around names do not count, nor do capitals in splits and in the names of methods that capmismatch knows.
    columns : the file's column names where they differ: {"their name": "our name"}
    percent : whether accuracies are percentages; otherwise they must lie in [0, 1]
    splits : the file's names of splits where they differ: {"held out": "test"}; "valid", "validation" and "dev" are
        known for "val", "training" and "testing" for what they say

    Returns
    -------
    DataFrame of the columns family, teacher, params, teacher_seed, student, label, method, tau, tau_other, tau_student,
    weight, constraint, margin, seed, split, accuracy, n.

    Raises
    ------
    InputError : where the file or a column is missing, a number is none, an accuracy is missing or lies outside [0, 1],
        a seed is not whole, a split is unknown, or a distilled student has no teacher

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "mine.csv"
    ...     _ = file.write_text("model,method,tau,top1\nr20,KD,4,0.71\nr56,KD,4,0.69\n")
    ...     load_results(file, {"model": "teacher", "top1": "accuracy"})[["teacher", "label", "accuracy"]]
      teacher     label  accuracy
    0     r20  KD tau=4      0.71
    1     r56  KD tau=4      0.69
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"there is no results file {file}")
    renamed = dict(columns or {})
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else _read_csv(file, renamed)
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is not a readable table: {error}") from None
    place = f"the results file {file}"
    require_columns(frame, renamed, place)
    frame = frame.rename(columns=renamed)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"expected each column once, got {twice[0]!r} twice in {place}, after renaming")
    require_columns(frame, ["teacher", "method", "accuracy"], place)
    if frame.empty:
        raise InputError(f"expected at least one result in {file}, got none")
    for column in set(NAMES) & set(frame.columns):
        frame[column] = _trimmed(frame[column])
    _reject(frame, "method", frame["method"].isna(), "the name of a method", place)
    known = {name.lower(): name for name in METHODS}
    frame["method"] = [known.get(name.lower(), name) for name in frame["method"]]
    untaught = frame["teacher"].isna() & (frame["method"] != "CE")
    _reject(frame, "teacher", untaught, "a name (all methods but CE have a teacher)", place)
    for column in {"accuracy", *NUMBERS, *SEEDS} & set(frame.columns):
        frame[column] = _numbers(frame, column, place)
    for column in set(SEEDS) & set(frame.columns):
        _reject(frame, column, frame[column] % 1 > 0, "a whole number", place)
    _reject(frame, "accuracy", frame["accuracy"].isna(), "a number (leave out students without a result)", place)
    most, expected = (100, "a percentage in [0, 100]") if percent else (1, "a share in [0, 1] (else say percent=True)")
    _reject(frame, "accuracy", ~frame["accuracy"].between(0, most), expected, place)
    frame["accuracy"] /= most
    if "split" in frame:
        frame["split"] = _our_splits(frame, splits or {}, place)
    return complete(frame)


def _read_csv(file: Path, renamed: Mapping[str, str]) -> pd.DataFrame:
    """A CSV file whose names stay text: a teacher called 20 is no number, and one called NA is not missing."""
    frame, text = pd.read_csv(file), pd.read_csv(file, dtype="str", keep_default_na=False, na_values=[""])
    frame.columns = text.columns = text.columns.str.strip()
    names = [column for column in frame if renamed.get(str(column), column) in NAMES]
    return frame.assign(**{str(name): text[name] for name in names})


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the columns of the vocabulary that are missing, in their order and types."""
    full = frame.copy()
    fill: dict[str, str | int] = {
        "family": "",
        "teacher_seed": 0,
        "student": "student",
        "seed": 0,
        "split": "test",
    }
    for column, value in fill.items():
        full[column] = full[column].fillna(value) if column in full else value
    for column in NUMBERS:
        full[column] = full[column].astype(float) if column in full else float("nan")
    full["teacher"] = full["teacher"].fillna("").astype(str)
    full["constraint"] = full["constraint"].fillna("").astype(str) if "constraint" in full else ""
    plain = full["method"] == "CE"
    full.loc[plain, ["family", "teacher"]] = ""
    full.loc[plain, "params"] = float("nan")
    for column in SEEDS:
        full[column] = full[column].astype(int)
    own = pd.Series([_label(row) for row in full.to_dict("records")], index=full.index)
    full["label"] = full["label"].fillna(own) if "label" in full else own
    return full[[*COLUMNS, *[c for c in full.columns if c not in COLUMNS]]]


def _trimmed(names: pd.Series) -> pd.Series:
    """Names without the spaces around them; what is empty then is missing."""
    text = names.astype(str).str.strip()
    return text.mask(names.isna() | text.eq(""))


def _our_splits(frame: pd.DataFrame, splits: Mapping[str, str], place: str) -> pd.Series:
    for theirs, ours in splits.items():
        must_be_one_of(ours, SPLITS, f"what splits gives for {theirs!r}")
    lower = frame["split"].replace(dict(splits)).str.lower()
    found = lower.replace(OTHER_SPLITS)
    unknown = found.notna() & ~found.isin(SPLITS)
    _reject(frame, "split", unknown, f"one of {list(SPLITS)} (map other names by `splits`)", place)
    return found


def _numbers(frame: pd.DataFrame, column: str, place: str) -> pd.Series:
    numbers = pd.to_numeric(frame[column], errors="coerce")
    _reject(frame, column, numbers.isna() & frame[column].notna(), "a number", place)
    return numbers


def _reject(frame: pd.DataFrame, column: str, bad: pd.Series, expected: str, place: str) -> None:
    """Raise where any value of a column is bad, naming the first and the student that it is of."""
    if bad.any():
        number = int(bad.to_numpy().argmax())
        row = frame.iloc[[number]].to_dict("records")[0]
        given = "nothing" if pd.isna(row[column]) else repr(row[column])
        names = [name for name in ("teacher", "student", "label", "method", "seed", "split") if name != column]
        whose = ", ".join(f"{name} {row[name]!r}" for name in names if name in row and pd.notna(row[name]))
        raise InputError(f"expected {expected} as {column}, got {given} at row {number} ({whose}) of {place}")


def _label(row: Mapping[Hashable, Any]) -> str:
    """The label of a setting; a method that capmismatch does not know is told with what was given of it."""
    given = {k: row[k] for k in SETTING if pd.notna(row[k]) and row[k] != ""}
    if row["method"] in METHODS:
        with suppress(InputError):  # a value that the method does not take here, but did where the results come from
            return Method(row["method"], **given).label
    shown = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in given.items())
    return " ".join([str(row["method"]), *shown])
