"""A choice as text and back, so that a choice that took a pilot to make can be shown later as it was made."""

from __future__ import annotations

import base64
import dataclasses
import io
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from capmismatch.errors import BankError
from capmismatch.selection.choice import Choice


def as_entries(choice: Choice) -> dict[str, Any]:
    """All that a choice holds, as values of JSON; tables are Parquet in base64.

    Examples
    --------
    >>> from capmismatch.selection.choice_parts import Basis, Comparison, Setting
    >>> table = pd.DataFrame({"family": ["f"], "teacher": ["a"], "score": [float("nan")]})
    >>> choice = Choice("a", "f", "largest", Setting(tau=4.0), Comparison(table, table), Basis(), ["CM003"])
    >>> again = from_entries(as_entries(choice))
    >>> again.tau, again.findings, again.table.equals(table)
    (4.0, ['CM003'], True)
    """
    entries: dict[str, Any] = _entry(choice)
    return entries


def from_entries(entries: Mapping[str, Any]) -> Choice:
    """The choice of `as_entries`.

    Raises
    ------
    BankError
        Where the entries are not those of a choice.
    """
    try:
        choice: Choice = _value(Choice, entries)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, ArrowException) as error:
        raise BankError(f"not a saved choice: {type(error).__name__}: {error}") from None
    return choice


def _entry(value: Any) -> Any:
    if isinstance(value, pd.Series):
        index = value.rename("value").rename_axis("index")
        return _entry(index.reset_index())
    if isinstance(value, pd.DataFrame):
        file = io.BytesIO()
        value.to_parquet(file)
        return base64.b64encode(file.getvalue()).decode("ascii")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _entry(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _entry(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_entry(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _value(hint: Any, entry: Any) -> Any:
    """An entry as the type of its field wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        chosen = next(argument for argument in arguments if argument is not types.NoneType)
        return None if entry is None else _value(chosen, entry)
    if hint is pd.DataFrame:
        return pd.read_parquet(io.BytesIO(base64.b64decode(entry)))
    if hint is pd.Series:
        return _value(pd.DataFrame, entry).set_index("index")["value"].rename(None).rename_axis(None)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        make: Any = hint
        names = [field.name for field in dataclasses.fields(hint) if field.name in entry]  # the others fail, or default
        return make(**{name: _value(hints[name], entry[name]) for name in names})
    if origin is list:
        return [_value(arguments[0], item) for item in entry]
    if origin is tuple:
        inner = arguments[:1] * len(entry) if arguments[1:] == (...,) else arguments
        return tuple(_value(kind, item) for kind, item in zip(inner, entry, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _value(arguments[1], item) for key, item in entry.items()}
    return entry
