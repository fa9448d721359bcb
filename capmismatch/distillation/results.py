"""The results table: how well students did. Made by `distill`, or brought in from another trainer as a file."""

from __future__ import annotations

import codecs
import json
import os
import re
import warnings
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from capmismatch._utils.files import no_device
from capmismatch._utils.setting_labels import with_current_labels
from capmismatch._utils.text import DECIMAL_COMMA
from capmismatch.data.rows import PARTS, SPLITS
from capmismatch.distillation.methods import METHODS, Method
from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.selection.handover import RARE, SETTING

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
FRACTIONS = ("accuracy", "tau", "tau_other", "tau_student", "weight", "margin")
"""Columns in which a comma is that of a decimal fraction, as in 0,713; in whole numbers it may part thousands."""

SEPARATORS = (",", ";", "\t", "|")
THOUSANDS = r"[1-9]\d{0,2}(\.\d{3})+"
MOST = 2**53  # whole numbers up to here are exact as floats
WIDE = re.compile(
    r"(?P<first>[a-z]+)[ _./-](?P<what>accuracy|acc|top1|acc1|n)"
    r"|(?P<rest>accuracy|acc|top1|acc1|n)[ _./-](?P<last>[a-z]+)"
)
"""Names such as val_accuracy and accuracy_test, or n_test: one column for each split."""

OUTCOMES = ("accuracy", "fidelity", "kl", "kl_tau4")
"""What is measured of a student; the grid also measures it on training rows, in columns that begin with train_."""

RANGES: dict[str, tuple[Callable[[pd.Series], pd.Series], str]] = {
    **dict.fromkeys(("tau", "tau_other", "tau_student"), (lambda values: values.gt(0), "a temperature > 0")),
    **dict.fromkeys(("params", "weight", "margin"), (lambda values: values.ge(0), "a number >= 0")),
}
"""Columns whose numbers have bounds that no trainer leaves, and what is expected of them."""

TEMPERATURES = ("temperature", "temp", "T", "kd_temperature", "kd_temp", "kd_T", "kd_tau", "tau_teacher")
"""What other trainers call the column tau, beside other capitals of all but "T"."""

NO_TEACHER = ("none", "no teacher", "no_teacher", "null")
"""What tables write where there is no teacher."""


def rare_columns(method: Method) -> dict[str, Any]:
    """What makes a setting beside the columns that each results table has, where it is not the method's default.

    Examples
    --------
    >>> rare_columns(Method("ClassKD", share=0.3)), rare_columns(Method("TopK", options={"k": 5}))
    ({'share': 0.3}, {'options': '{"k": 5}'})
    """
    values = {name: value for name in RARE if (value := getattr(method, name)) is not None}
    if values.get("center") == method.spec.fields.get("center"):
        values.pop("center", None)
    return values | ({"options": json.dumps(method.options, sort_keys=True)} if method.options else {})


def load_results(
    path: str | os.PathLike[str] | pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    *,
    percent: bool | None = False,
    splits: Mapping[str, str] | None = None,
    method: Method | str | None = None,
) -> pd.DataFrame:
    r"""Read a results table that another trainer made.

    Parameters
    ----------
    path : str, path or DataFrame
        A table in memory, which stays as it is; or a CSV file (separated by commas, semicolons, tabs or bars) or
        Parquet, whatever its ending. It needs the columns teacher, method and accuracy; the others are filled in where
        they are missing. Instead of ``accuracy`` there may be one column for each split, such as ``val_accuracy`` and
        ``test_acc`` (and ``n_val``). Spaces around names do not count, nor do capitals in splits and in the names of
        methods that capmismatch knows. Decimal commas and percent signs (``71,3 %``) are understood, empty rows are
        skipped.
    columns : mapping of str to str, optional
        The file's column names where they differ: {"their name": "our name"}.
    percent : bool, default False
        Whether accuracies without a percent sign are percentages; otherwise they must lie in [0, 1]. None: they are if
        all of them are above 1.
    splits : mapping of str to str, optional
        The file's names of splits where they differ: {"held out": "test"}. "valid", "validation" and "dev" are known
        for "val", "training" for "train", "testing" for "test".
    method : Method or str, optional
        The one setting of all distilled students, where the table has no column for it: "KD" (its temperature is
        then that of the table, or not known), or ``Method("KD", tau=2.0)`` with its temperatures.
        Rows without a teacher are plain cross-entropy, "CE".

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
        * ``tau`` (also read as ``temperature``, ``temp``, ``T``, ``kd_temp`` or ``kd_T``),
          ``tau_other``, ``tau_student``, ``weight``, ``constraint``, ``margin``, ``wrong``: of the setting,
          see `Method`; NaN or empty where the method takes none, or where the file does not say
        * ``seed``: which of the student's training runs; 0 by default
        * ``split``: "train", "val" or "test"; "test" by default
        * ``accuracy``: share of right predictions, in [0, 1]
        * ``n``: number of examples; NaN where unknown

        and, of students that were trained here,

        * ``fidelity``: share of the examples for which student and teacher name the same class; NaN without a teacher
        * ``kl``, ``kl_tau4``: mean Kullback-Leibler divergence from the teacher's probabilities to the student's, in
          nats, at temperatures 1 and 4; NaN without a teacher
        * ``train_accuracy``, ``train_fidelity``, ``train_kl``, ``train_kl_tau4``: the same on the training rows, in
          their first stored view; equal in all rows of a student

        and of settings that have them, ``center`` (where it is "none"), ``other``, ``match`` and ``share`` of
        `Method`, and its ``options`` as JSON; and further columns of the file as they are.

    Raises
    ------
    InputError
        The file or a column is missing, a number is none, an accuracy is missing or lies outside [0, 1], accuracies are
        shares and percentages in turn or shares with ``percent=True``, a seed is not whole, `n` is not 1 or more, a
        split is unknown, or a distilled student has no teacher.

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
    if percent is not None and not isinstance(percent, bool):
        raise InputError(f"expected percent=True, False or None, got {percent!r}")
    if isinstance(path, pd.DataFrame):
        source, frame = "the results table", path.reset_index(drop=True)
    else:
        source, frame = f"the results file {path}", _read_file(path, _renaming(columns))
    frame = _named(frame, _renaming(columns), method, source)
    _clean_names(frame, source)
    hint = "else say percent=True, in a study.toml [results] percent = true"
    if percent is None:
        percent, hint = _are_percentages(frame["accuracy"]), "or percentages throughout, all of them above 1"
    _clean_numbers(frame, percent, source, hint)
    if "split" in frame:
        frame["split"] = _clean_splits(frame, splits or {}, source)
    return complete(frame).reset_index(drop=True)


def _read_file(path: Any, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table of a file, its columns as they are called there."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"expected a results file or a DataFrame, got {type(path).__name__}")
    file = Path(path)
    if not file.exists():
        raise InputError(f"there is no results file {file}")
    no_device(file, "a results file")
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
        if magic[:2] == b"PK":
            raise InputError(f"{file} is an archive or a spreadsheet: expected CSV or Parquet; save the sheet as CSV")
        if magic[:2] == b"\x1f\x8b":
            raise InputError(f"{file} is compressed: expected CSV or Parquet; unpack it first")
        parquet = magic == b"PAR1" or file.suffix in (".parquet", ".pq")
        return pd.read_parquet(file) if parquet else _read_csv(file, columns)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is no text in UTF-8 (byte {error.object[error.start]:#x}): save it as CSV UTF-8, as spreadsheets "
            "call it"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is not a readable table: {error}") from None


def _named(frame: pd.DataFrame, columns: dict[str, str], method: Method | str | None, source: str) -> pd.DataFrame:
    """The table with our names of columns; the necessary ones are there, each column once, and at least one row."""
    require_columns(frame, columns, source, as_text=True)
    frame = _with_our_spelling(frame.rename(columns=columns), source)
    frame = _long(frame.dropna(how="all"), source)
    duplicates = frame.columns[frame.columns.duplicated()]
    if len(duplicates):
        raise InputError(f"expected each column once, got {duplicates[0]!r} twice in {source}, after renaming")
    if method is not None:
        frame = _with_method(frame, method, source)
    if "method" not in frame and {"teacher", "accuracy"} <= set(frame.columns):
        raise InputError(
            f"{source} lacks the column 'method'; it has {list(frame.columns)}. If all its students were taught alike, "
            'say how: method="KD", or method=Method("KD", tau=2)'
        )
    require_columns(frame, ["teacher", "method", "accuracy"], source, as_text=True)
    if frame.empty:
        raise InputError(f"expected at least one result in {source.removeprefix('the results file ')}, got none")
    return frame


def _with_our_spelling(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table with its temperature called tau; refused where a column is there twice but for its spelling."""
    for column in map(str, frame.columns):
        ours = column.strip().lower()
        if ours in COLUMNS and column != ours and ours in frame:
            raise InputError(f"expected one column {ours!r}, got {ours!r} and {column!r} in {source}: remove one")
    lower = {name.lower() for name in TEMPERATURES if name != "T"}
    if "nll_calibrated" in frame:
        lower.discard("temperature")  # of students of texts: the one that calibrates them
    theirs = [name for name in frame if str(name).strip() == "T" or str(name).strip().lower() in lower]
    there = [*(["tau"] if "tau" in frame else []), *theirs]
    if theirs and len(there) > 1:
        raise InputError(f"expected one column of temperatures, tau, got {there} in {source}: remove or rename others")
    return frame.rename(columns=dict.fromkeys(theirs, "tau"))


def _with_method(frame: pd.DataFrame, method: Method | str, source: str) -> pd.DataFrame:
    """The table with one setting for all students that have a teacher; a name alone says no temperature."""
    if isinstance(method, str):
        given = {"method": Method(method).name}
    else:
        said = {name: value for name in SETTING if (value := getattr(method, name)) is not None}
        given = {"method": method.name, **said}
    there = [name for name in given if name in frame]
    if there:
        raise InputError(f"{source} has a column {there[0]!r}: leave the argument method out, or that column")
    require_columns(frame, ["teacher"], source)
    taught = _trimmed(frame["teacher"]).notna()
    columns: dict[str, Any] = {name: pd.Series(value, frame.index).where(taught) for name, value in given.items()}
    return frame.assign(**columns | {"method": columns["method"].fillna("CE")})


def _are_percentages(accuracy: pd.Series) -> bool:
    """Whether all accuracies without a percent sign are above 1: shares never are."""
    bare = accuracy[~accuracy.astype(str).str.strip().str.endswith("%")].dropna()
    numbers = _numbers(bare, "accuracy")
    return len(numbers) > 0 and bool(numbers.gt(1).all())


def _clean_names(frame: pd.DataFrame, source: str) -> None:
    """Trim names in place, spell methods as we do, and refuse rows without a method or a teacher."""
    for column in set(NAMES) & set(frame.columns):
        frame[column] = _trimmed(frame[column])
    _reject(frame, "method", frame["method"].isna(), "the name of a method", source)
    our_spelling = {name.lower(): name for name in METHODS}
    frame["method"] = [our_spelling.get(name.lower(), name) for name in frame["method"]]
    without_teacher = frame["teacher"].isna() & (frame["method"] != "CE")
    _reject(frame, "teacher", without_teacher, "a name (all methods but CE have a teacher)", source)
    called_none = frame["teacher"].str.lower().isin(NO_TEACHER) & (frame["method"] != "CE")
    _reject(frame, "teacher", called_none, "a name (rows without a teacher have the method CE)", source)


def _clean_numbers(frame: pd.DataFrame, percent: bool, source: str, hint: str) -> None:
    """Turn numbers into numbers in place, accuracies into shares, and refuse values out of range.

    `hint` says what else accuracies without a percent sign might be.
    """
    signed = frame["accuracy"].astype(str).str.strip().str.endswith("%")
    for column in [name for name in ("accuracy", *NUMBERS, *SEEDS) if name in frame]:
        numbers = _numbers(frame[column], column)
        _reject(frame, column, numbers.isna() & frame[column].notna(), "a number", source)
        _reject(frame, column, np.isinf(numbers), "a finite number", source)
        frame[column] = numbers
    for column in set(SEEDS) & set(frame.columns):
        whole = (frame[column] % 1).eq(0) & frame[column].abs().le(MOST)
        _reject(frame, column, frame[column].notna() & ~whole, "a whole number", source)
    for column, (is_valid, expected) in RANGES.items():
        if column in frame:
            _reject(frame, column, frame[column].notna() & ~is_valid(frame[column]), expected, source)
    if "n" in frame:
        not_whole = frame["n"].lt(1) | (frame["n"] % 1).gt(0) | frame["n"].gt(MOST)
        _reject(frame, "n", not_whole, "a whole number of examples, 1 or more,", source)
    _reject(frame, "accuracy", frame["accuracy"].isna(), "a number (leave out students without a result)", source)
    percentages = signed | percent
    expected = "a percentage in [0, 100]"
    _reject(frame, "accuracy", percentages & ~frame["accuracy"].between(0, 100), expected, source)
    expected = f"a share in [0, 1] ({hint})"
    _reject(frame, "accuracy", ~percentages & ~frame["accuracy"].between(0, 1), expected, source)
    if percent:
        _reject_shares(frame, ~signed, source)
    frame["accuracy"] = frame["accuracy"].where(~percentages, frame["accuracy"] / 100)
    _warn_of_scales(frame, source)


def _numbers(values: pd.Series, column: str) -> pd.Series:
    """The values as numbers, NaN where they are none; of a text also with a decimal comma or a percent sign."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values
    text = values.astype(str).str.strip()
    if column == "accuracy":
        text = text.str.replace(r"\s*%$", "", regex=True)
    if column not in FRACTIONS:
        text = text.mask(text.str.fullmatch(THOUSANDS))
    else:
        text = text.str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
    return pd.to_numeric(text.where(values.notna()), errors="coerce")


def _reject_shares(frame: pd.DataFrame, bare: pd.Series, source: str) -> None:
    """Raise if accuracies that are said to be percentages are shares: all of them, or some among percentages.

    One that is low is no share yet: a student that failed has 1 % of a hundred classes. It is where it would be among
    the others if it were one.
    """
    accuracy = frame["accuracy"]
    small = bare & accuracy.le(1)
    if not small.any() or not accuracy[small].gt(0).any():
        return
    if small.all():
        raise InputError(
            f"expected percentages as accuracies, because of percent=True, got none above {accuracy.max():g} in "
            f"{source}: they seem to be shares; leave percent=True out"
        )
    others = accuracy[~small]
    among = (100 * accuracy).between(0.8 * others.min(), min(100.0, 1.2 * others.max()))
    expected = f"a percentage like the others ({others.min():g} to {others.max():g})"
    _reject(frame, "accuracy", small & among, expected, source)


def _warn_of_scales(frame: pd.DataFrame, source: str) -> None:
    """Warn of accuracies that lie a hundred times below the others: were they percentages, or failed runs?"""
    accuracy = frame["accuracy"]
    low = accuracy.gt(0) & accuracy.lt(accuracy.median() / 30)
    if low.any():
        names = ", ".join(dict.fromkeys(str(name) for name in frame.loc[low, "teacher"].fillna("no teacher")))
        warnings.warn(
            f"{int(low.sum())} of {len(low)} accuracies in {source} are far below the others (up to "
            f"{accuracy[low].max():g}, of {names}; the median is {accuracy.median():g}): failed, or another scale?",
            stacklevel=4,
        )


def _long(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """A table with one column of accuracies for each split, as one with a row for each split; others as they are."""
    if "split" in frame:
        return frame
    if "accuracy" in frame:
        beside = [name for name in map(str, frame.columns) if _split_of_accuracy(name) in ("val", "test")]
        if beside:
            raise InputError(
                f"expected either accuracy or a column for each split, got 'accuracy' and {beside} in {source}: remove "
                "or rename one"
            )
        return frame
    columns: dict[str, dict[str, str]] = {}
    for name in map(str, frame.columns):
        if (match := WIDE.fullmatch(name.strip().lower())) is None:
            continue
        split, what = match["first"] or match["last"], match["what"] or match["rest"]
        split = PARTS.get(split, split)
        kind = "n" if what == "n" else "accuracy"
        if split in SPLITS and kind in columns.setdefault(split, {}):
            raise InputError(f"expected one column of {kind} for {split!r}, got {columns[split][kind]!r} and {name!r}")
        if split in SPLITS:
            columns[split][kind] = name
    columns = {split: names for split, names in columns.items() if "accuracy" in names}
    if not columns:
        return frame
    wide = [name for names in columns.values() for name in names.values()]
    parts = [
        frame.drop(columns=wide).assign(split=split, **{kind: frame[name] for kind, name in names.items()})
        for split, names in columns.items()
    ]
    long = pd.concat(parts).dropna(subset="accuracy")
    return long.sort_index(kind="stable")


def _split_of_accuracy(name: str) -> str:
    """The split in the name of a column of accuracies; "" in other names."""
    match = WIDE.fullmatch(name.strip().lower())
    if match is None or "n" in (match["what"], match["rest"]):
        return ""
    split = match["first"] or match["last"]
    return PARTS.get(split, split)


def _clean_splits(frame: pd.DataFrame, splits: Mapping[str, str], source: str) -> pd.Series:
    """The column of splits by our names."""
    for theirs, ours in splits.items():
        must_be_one_of(ours, SPLITS, f"what splits gives for {theirs!r}")
    names = frame["split"].replace(dict(splits)).str.lower().replace(PARTS)
    unknown = names.notna() & ~names.isin(SPLITS)
    _reject(frame, "split", unknown, f"one of {list(SPLITS)} (map other names by `splits`)", source)
    return names


def _renaming(columns: object) -> dict[str, str]:
    """The renaming that was asked for, checked to be one."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns.values()):
        raise InputError(f"expected columns as a mapping from their names to ours, got {columns!r}")
    return {str(theirs): ours for theirs, ours in columns.items()}


def _read_csv(file: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A CSV file whose names stay text: a teacher called 20 is no number, and one called NA is not missing."""
    with file.open("rb") as raw:  # "Unicode text" of spreadsheets is UTF-16
        encoding = "utf-16" if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    with file.open(encoding=encoding) as stream:
        header = stream.readline()
        said = re.fullmatch(r"sep=(.)", header.strip(), re.IGNORECASE)  # of spreadsheets, in front of the header
        header = stream.readline() if said else header
    # Names of columns hold letters: what parts most of them is the separator.
    sep = said[1] if said else max(SEPARATORS, key=header.count)
    how: dict[str, Any] = {"sep": sep, "encoding": encoding, "skiprows": 1 if said else 0}
    names_given = pd.read_csv(file, **how, header=None, nrows=1, dtype="str").iloc[0].dropna().str.strip()
    twice = names_given[names_given.duplicated()]
    if len(twice):
        raise InputError(f"expected each column once, got {twice.iloc[0]!r} twice in {file}: rename or remove one")
    frame = _without_counter(pd.read_csv(file, **how), file)
    text = pd.read_csv(file, **how, dtype="str", keep_default_na=False, na_values=[""]).reset_index(drop=True)
    frame.columns = text.columns = text.columns.str.strip()
    names = [column for column in frame if columns.get(str(column), column) in NAMES]
    if sep != ",":  # where commas are decimal, dots may part thousands: 10.000 is no ten, and stays text
        whole = [column for column in frame if columns.get(str(column), column) in ("n", "params", *SEEDS)]
        names += [column for column in whole if text[column].str.fullmatch(THOUSANDS).any()]
    return frame.assign(**{str(name): text[name] for name in names})


def _without_counter(frame: pd.DataFrame, file: Path) -> pd.DataFrame:
    """A table without the unnamed counter of rows that R writes; refused where rows have other fields than the header.

    Where rows have more fields than the header names, pandas takes the first ones as names of rows.
    """
    index, counter = frame.index, [str(number) for number in range(1, len(frame) + 1)]
    if index.equals(pd.RangeIndex(len(frame))):
        return frame
    if index.nlevels > 1 or list(map(str, index)) != counter:
        names = frame.columns.size
        row = (
            index[0] if index.nlevels > 1 else next(one for one, n in zip(index, counter, strict=True) if str(one) != n)
        )
        raise InputError(
            f"{file} has {names + index.nlevels} fields in its rows, its header names {names}: expected as many, or in "
            f"front a counter of rows (1, 2, ...), got {row!r} there in line {list(index).index(row) + 2}"
        )
    return frame.reset_index(drop=True)


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
    full = with_current_labels(full)
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
        missing = pd.api.types.is_scalar(row[column]) and pd.isna(row[column])
        value = "nothing" if missing else repr(row[column])
        names = [name for name in ("teacher", "student", "label", "method", "seed", "split") if name != column]
        student = ", ".join(f"{name} {row[name]!r}" for name in names if name in row and pd.notna(row[name]))
        place = f"row {frame.index[number]}{f' ({student})' if student else ''}"
        raise InputError(f"expected {expected} as {column}, got {value} at {place} of {source}")


def _label(row: Mapping[Hashable, Any]) -> str:
    """The label of a row's setting; of an unknown method, its name and the values that the row has."""
    values = {name: row[name] for name in SETTING if pd.notna(row[name]) and row[name] != ""}
    if row["method"] in METHODS:
        student = {"tau_student": values["tau"]} if row["method"] == "KD" and "tau" in values else {}  # one for both
        fields = METHODS[str(row["method"])].fields
        values |= {name: row[name] for name in RARE if name in fields and pd.notna(row.get(name)) and row[name] != ""}
        with suppress(InputError):  # values that the other trainer knows for this method, and we do not
            label = Method(row["method"], **{**student, **values}).label
            if "tau" in values:
                return label
            # Temperatures that the table does not say are not known: those of the label would be defaults.
            if not {"tau_other", "tau_student"} & set(values):
                return re.sub(r"( other| student)? tau=\S+", "", label)
    shown = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())
    return " ".join([str(row["method"]), *shown])
