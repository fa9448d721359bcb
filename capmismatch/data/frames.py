"""Logits and labels in pandas objects: column names and row labels say what belongs together, and are heeded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from capmismatch.errors import InputError


def columns_in_order(values: Any, classes: Sequence[str] | None, place: str) -> Any:
    """A data frame's columns in the order of the classes, where they have their names; all else as it is.

    Raises
    ------
    InputError
        Where some columns have names of classes and others do not, or row numbers stand beside the logits.

    Notes
    -----
    Where nobody has named the classes, columns are put in the order of the numbers that end their names.

    Examples
    --------
    >>> columns_in_order(pd.DataFrame({"b": [1.0], "a": [2.0]}), ["a", "b"], "logits")
         a    b
    0  2.0  1.0
    """
    if not isinstance(values, pd.DataFrame):
        return values
    names = _column_names(values)
    beside = [name for name in names if name == "index" or name.startswith("Unnamed:")]
    if beside:
        raise InputError(f"{place} have a column {beside[0]!r}, row numbers: expected one column per class")
    wanted = [str(name) for name in (classes if classes is not None else sorted(range(len(names))))]
    if names == wanted:
        return values
    if not set(names) & set(wanted):
        return values if classes is not None else _by_their_numbers(values, names)
    if sorted(names) != sorted(wanted):
        odd = next((name for name in names if name not in wanted), None)
        what = f"got {odd!r}" if odd is not None else f"got no {next(name for name in wanted if name not in names)!r}"
        raise InputError(f"expected the names of the classes as columns of the {place}, {what}")
    return values.iloc[:, [names.index(name) for name in wanted]]


def _column_names(frame: pd.DataFrame) -> list[str]:
    """Names of columns as text: the last level where there are several, and whole numbers without a fraction."""
    last = frame.columns.get_level_values(-1)
    return [str(int(name)) if isinstance(name, float) and name.is_integer() else str(name) for name in last]


def _by_their_numbers(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Columns such as "logit_0", "logit_1", "logit_10", "logit_2" by their numbers, as no class has another name."""
    split = [re.fullmatch(r"(.*\D)(\d+)", name) for name in names]
    numbers = {int(match[2]): column for column, match in enumerate(split) if match}
    if len({match[1] if match else None for match in split}) != 1 or sorted(numbers) != list(range(len(names))):
        return frame
    return frame.iloc[:, [numbers[number] for number in range(len(names))]]


def check_columns_together(tables: Mapping[str, Any], classes: Sequence[str] | None) -> None:
    """Refuse frames that have the same columns in another order where nobody says which order the labels have.

    Raises
    ------
    InputError
        Naming the two frames and the first place where they differ.

    Examples
    --------
    >>> check_columns_together({"logits": pd.DataFrame({"cat": [1.0], "dog": [2.0]})}, None)
    """
    frames = {name: _column_names(one) for name, one in tables.items() if isinstance(one, pd.DataFrame)}
    if classes is not None or not frames:
        return
    first, wanted = next(iter(frames.items()))
    for name, columns in frames.items():
        if columns != wanted and sorted(columns) == sorted(wanted):
            place = next(number for number, column in enumerate(columns) if column != wanted[number])
            raise InputError(
                f"expected the columns of {name} in the order of {first}, got {columns[place]!r} instead of "
                f"{wanted[place]!r} at place {place}: give classes, the names in the order of the labels"
            )


def check_rows_together(tables: Mapping[str, Any]) -> None:
    """Refuse pandas objects whose rows have the same labels in another order: one of them was shuffled or sorted.

    Raises
    ------
    InputError
        Naming the two.

    Examples
    --------
    >>> check_rows_together({"labels": pd.Series([0, 1]), "logits": pd.DataFrame([[1, 2], [3, 4]])})
    """
    indexed = {name: one.index for name, one in tables.items() if isinstance(one, pd.DataFrame | pd.Series)}
    names = list(indexed)
    for name in names[1:]:
        first, other = indexed[names[0]], indexed[name]
        if len(first) == len(other) and not first.equals(other) and first.is_unique and first.isin(other).all():
            row = int(np.flatnonzero(first != other)[0])
            raise InputError(
                f"expected the rows of {name} in the order of {names[0]}, got {other[row]!r} instead of "
                f"{first[row]!r} at row {row}: give both in one order, as by .loc[...]"
            )
