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
    "wrong",
    "seed",
    "split",
    "accuracy",
    "n",
)
NAMES = ("family", "teacher", "student", "label", "method", "constraint", "wrong", "split")
NUMBERS = ("params", "tau", "tau_other", "tau_student", "weight", "margin", "n")
SEEDS = ("teacher_seed", "seed")
SPLIT_SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
SETTING = ("tau", "tau_other", "tau_student", "weight", "constraint", "margin", "wrong")


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
    path : str or path
        CSV file (or Parquet, by its ending). It needs the columns teacher, method and accuracy; the others are filled
        in where they are missing. Spaces around names do not count, nor do capitals in splits and in the names of
        methods that capmismatch knows.
    columns : mapping of str to str, optional
        The file's column names where they differ: {"their name": "our name"}.
    percent : bool, default False
        Whether accuracies are percentages; otherwise they must lie in [0, 1].
    splits : mapping of str to str, optional
        The file's names of splits where they differ: {"held out": "test"}. "valid", "validation" and "dev" are known
        for "val", "training" for "train", "testing" for "test".

    Returns
    -------
    DataFrame
        One row per student, training run and split, with the columns

        * ``family``: of the teacher. Where it is empty, `correlate`, `pick` and the figures go by the teacher's name
          alone, and refuse a name that several families of the probes have
        * ``teacher``: name; empty for plain cross-entropy
        * ``params``: of the teacher; NaN where unknown
        * ``teacher_seed``: which of the teacher's training runs; 0 by default
        * ``student``: name; "student" by default
        * ``label``: readable name of the setting, see `Method.label`
        * ``method``: name of the method; "CE" is plain cross-entropy
        * ``tau``, ``tau_other``, ``tau_student``, ``weight``, ``constraint``, ``margin``, ``wrong``: of the setting,
          see `Method`; NaN or empty where the method takes none, or where the file does not say
        * ``seed``: which of the student's training runs; 0 by default
        * ``split``: "train", "val" or "test"; "test" by default
        * ``accuracy``: share of right predictions, in [0, 1]
        * ``n``: number of examples; NaN where unknown

        and further columns of the file as they are.

    Raises
    ------
    InputError
        The file or a column is missing, a number is none, an accuracy is missing or lies outside [0, 1], a seed is not
        whole, a split is unknown, or a distilled student has no teacher.

    See Also
    --------
    capmismatch.distill : Train the students here.

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
    source = f"the results file {file}"
    frame = _read_table(file, dict(columns or {}), source)
    _clean_names(frame, source)
    _clean_numbers(frame, percent, source)
    if "split" in frame:
        frame["split"] = _clean_splits(frame, splits or {}, source)
    return complete(frame)


def _read_table(file: Path, columns: Mapping[str, str], source: str) -> pd.DataFrame:
    """Read a file and rename its columns; the necessary ones are there, each column once, and at least one row."""
    if not file.exists():
        raise InputError(f"there is no results file {file}")
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else _read_csv(file, columns)
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is not a readable table: {error}") from None
    require_columns(frame, columns, source)
    frame = frame.rename(columns=dict(columns))
    duplicates = frame.columns[frame.columns.duplicated()]
    if len(duplicates):
        raise InputError(f"expected each column once, got {duplicates[0]!r} twice in {source}, after renaming")
    require_columns(frame, ["teacher", "method", "accuracy"], source)
    if frame.empty:
        raise InputError(f"expected at least one result in {file}, got none")
    return frame


def _clean_names(frame: pd.DataFrame, source: str) -> None:
    """Trim names in place, spell methods as we do, and refuse rows without a method or a teacher."""
    for column in set(NAMES) & set(frame.columns):
        frame[column] = _trimmed(frame[column])
    _reject(frame, "method", frame["method"].isna(), "the name of a method", source)
    our_spelling = {name.lower(): name for name in METHODS}
    frame["method"] = [our_spelling.get(name.lower(), name) for name in frame["method"]]
    without_teacher = frame["teacher"].isna() & (frame["method"] != "CE")
    _reject(frame, "teacher", without_teacher, "a name (all methods but CE have a teacher)", source)


def _clean_numbers(frame: pd.DataFrame, percent: bool, source: str) -> None:
    """Turn numbers into numbers in place, accuracies into shares, and refuse values out of range."""
    for column in {"accuracy", *NUMBERS, *SEEDS} & set(frame.columns):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        _reject(frame, column, numbers.isna() & frame[column].notna(), "a number", source)
        frame[column] = numbers
    for column in set(SEEDS) & set(frame.columns):
        _reject(frame, column, frame[column] % 1 > 0, "a whole number", source)
    _reject(frame, "accuracy", frame["accuracy"].isna(), "a number (leave out students without a result)", source)
    most, expected = (100, "a percentage in [0, 100]") if percent else (1, "a share in [0, 1] (else say percent=True)")
    _reject(frame, "accuracy", ~frame["accuracy"].between(0, most), expected, source)
    frame["accuracy"] /= most


def _clean_splits(frame: pd.DataFrame, splits: Mapping[str, str], source: str) -> pd.Series:
    """The column of splits by our names."""
    for theirs, ours in splits.items():
        must_be_one_of(ours, SPLITS, f"what splits gives for {theirs!r}")
    names = frame["split"].replace(dict(splits)).str.lower().replace(SPLIT_SYNONYMS)
    unknown = names.notna() & ~names.isin(SPLITS)
    _reject(frame, "split", unknown, f"one of {list(SPLITS)} (map other names by `splits`)", source)
    return names


def _read_csv(file: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A CSV file whose names stay text: a teacher called 20 is no number, and one called NA is not missing."""
    frame, text = pd.read_csv(file), pd.read_csv(file, dtype="str", keep_default_na=False, na_values=[""])
    frame.columns = text.columns = text.columns.str.strip()
    names = [column for column in frame if columns.get(str(column), column) in NAMES]
    return frame.assign(**{str(name): text[name] for name in names})


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a results table with all columns of `load_results`, in their order and types."""
    full = frame.copy()
    defaults: dict[str, str | int] = {
        "family": "",
        "teacher_seed": 0,
        "student": "student",
        "seed": 0,
        "split": "test",
    }
    for column, value in defaults.items():
        full[column] = full[column].fillna(value) if column in full else value
    for column in NUMBERS:
        full[column] = full[column].astype(float) if column in full else float("nan")
    full["teacher"] = full["teacher"].fillna("").astype(str)
    for column in ("constraint", "wrong"):
        full[column] = full[column].fillna("").astype(str) if column in full else ""
    without_teacher = full["method"] == "CE"
    full.loc[without_teacher, ["family", "teacher"]] = ""
    full.loc[without_teacher, "params"] = float("nan")
    for column in SEEDS:
        full[column] = full[column].astype(int)
    labels = pd.Series([_label(row) for row in full.to_dict("records")], index=full.index)
    full["label"] = full["label"].fillna(labels) if "label" in full else labels
    return full[[*COLUMNS, *[c for c in full.columns if c not in COLUMNS]]]


def _trimmed(names: pd.Series) -> pd.Series:
    """Names without the spaces around them; empty names are missing."""
    text = names.astype(str).str.strip()
    return text.mask(names.isna() | text.eq(""))


def _reject(frame: pd.DataFrame, column: str, bad: pd.Series, expected: str, source: str) -> None:
    """Raise if any value of a column is bad, naming the first and its student."""
    if bad.any():
        number = int(bad.to_numpy().argmax())
        row = frame.iloc[[number]].to_dict("records")[0]
        value = "nothing" if pd.isna(row[column]) else repr(row[column])
        names = [name for name in ("teacher", "student", "label", "method", "seed", "split") if name != column]
        student = ", ".join(f"{name} {row[name]!r}" for name in names if name in row and pd.notna(row[name]))
        raise InputError(f"expected {expected} as {column}, got {value} at row {number} ({student}) of {source}")


def _label(row: Mapping[Hashable, Any]) -> str:
    """The label of a row's setting; of an unknown method, its name and the values that the row has."""
    values = {name: row[name] for name in SETTING if pd.notna(row[name]) and row[name] != ""}
    if row["method"] in METHODS:
        with suppress(InputError):  # values that the other trainer knows for this method, and we do not
            return Method(row["method"], **values).label
    shown = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())
    return " ".join([str(row["method"]), *shown])
