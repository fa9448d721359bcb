"""Logits and labels in pandas objects: column names and row labels say what belongs together, and are heeded."""

from __future__ import annotations

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

    Examples
    --------
    >>> columns_in_order(pd.DataFrame({"b": [1.0], "a": [2.0]}), ["a", "b"], "logits")
         a    b
    0  2.0  1.0
    """
    if not isinstance(values, pd.DataFrame):
        return values
    names = [str(name) for name in values.columns]
    beside = [name for name in names if name == "index" or name.startswith("Unnamed:")]
    if beside:
        raise InputError(f"{place} have a column {beside[0]!r}, row numbers: expected one column per class")
    wanted = [str(name) for name in (classes if classes is not None else sorted(range(len(names))))]
    if names == wanted or not set(names) & set(wanted):
        return values
    if sorted(names) != sorted(wanted):
        odd = next((name for name in names if name not in wanted), None)
        what = f"got {odd!r}" if odd is not None else f"got no {next(name for name in wanted if name not in names)!r}"
        raise InputError(f"expected the names of the classes as columns of the {place}, {what}")
    return values.iloc[:, [names.index(name) for name in wanted]]


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
