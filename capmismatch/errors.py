"""The errors that users see, and the few helpers that word them alike.

Every message names the value that was wrong, the place where it stood, and what was expected instead; where there are
choices, it lists them.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from itertools import islice
from numbers import Integral, Real
from typing import Any

MOST_RESAMPLES = 1_000_000  # of a bootstrap: its intervals end to three digits, and more ask for memory for nothing
MOST_TEMPERATURES = 1_000  # in one list
TEMPERATURES = (1e-100, 1e100)  # beyond, logits over a temperature lose all digits or overflow


class CapmismatchError(Exception):
    """Base of every error that capmismatch raises on purpose."""


class InputError(CapmismatchError, ValueError):
    """A value that the user gave does not fit; the message says which, where, and what would."""


class BankError(CapmismatchError):
    """What lies on disk is damaged, of another schema, or made from other data."""


def must_be_one_of(value: object, choices: Iterable[object], name: str) -> None:
    """Raise unless `value` is among `choices`, naming the nearest one.

    Examples
    --------
    >>> must_be_one_of("oder", ["order", "none"], "constraint")
    Traceback (most recent call last):
    capmismatch.errors.InputError: constraint must be one of ['order', 'none'], not 'oder'; did you mean 'order'?
    """
    options = list(choices)
    if isinstance(value, Hashable) and value in options:  # an array is in no list, and numpy asks which of its values
        return
    near = nearest(value, options)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(f"{name} must be one of {options}, not {value!r}{hint}")


def nearest(value: object, choices: Iterable[object]) -> list[str]:
    """The choice that is spelt most like a value, as a list of one; of choices such as "family/name" also by the name.

    Examples
    --------
    >>> nearest("oder", ["order", "none"]), nearest("cnn_w5", ["logits/cnn_w4", "logits/cnn_w32"])
    (['order'], ['logits/cnn_w4'])
    """
    options = [str(choice) for choice in choices]
    whole = difflib.get_close_matches(str(value), options, n=1)
    by_name = {option.rpartition("/")[2]: option for option in reversed(options) if "/" in option}
    return whole or [by_name[name] for name in difflib.get_close_matches(str(value), by_name, n=1)]


def must_be_positive(value: float, name: str) -> None:
    """Raise unless `value` is a positive, finite number."""
    if isinstance(value, bool) or not (isinstance(value, Real) and 0 < value < float("inf")):
        raise InputError(f"{name} must be a positive number, got {value!r}")


def must_be_temperature(value: float, name: str) -> None:
    """Raise unless `value` is a temperature that numbers of 64 bits can divide by and compare.

    Examples
    --------
    >>> must_be_temperature(1e-310, "tau")
    Traceback (most recent call last):
    capmismatch.errors.InputError: tau must be a positive number in [1e-100, 1e+100], got 1e-310
    """
    must_be_positive(value, name)
    least, most = TEMPERATURES
    if not least <= value <= most:
        raise InputError(f"{name} must be a positive number in [{least:g}, {most:g}], got {value!r}")


def must_be_temperatures(values: Iterable[Any], name: str, least: int = 1) -> list[float]:
    """The temperatures of a list; raise where they are fewer or more than there may be, or one is no temperature.

    Examples
    --------
    >>> must_be_temperatures([], "taus")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected taus, at least one, got none
    """
    listed = list(islice(values, MOST_TEMPERATURES + 1))
    if len(listed) < least:
        raise InputError(f"expected {name}, at least one, got none")
    if len(listed) > MOST_TEMPERATURES:
        raise InputError(f"expected at most {MOST_TEMPERATURES} temperatures as {name}, got more")
    for value in listed:
        must_be_temperature(value, name)
    return listed


def must_be_within(value: object, name: str, least: float, most: float) -> None:
    """Raise unless `value` is a number from `least` to `most`.

    Examples
    --------
    >>> must_be_within(float("nan"), "weight_decay", 0, 1e6)
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected weight_decay a number in [0, 1e+06], got nan
    """
    if isinstance(value, bool) or not (isinstance(value, Real) and least <= float(value) <= most):
        raise InputError(f"expected {name} a number in [{least:g}, {most:g}], got {value!r}")


def must_count(value: object, name: str, least: int = 1, most: int = 2**63 - 1) -> None:
    """Raise unless `value` is a whole number, 1 or more, or within other bounds."""
    if isinstance(value, bool) or not (isinstance(value, Integral) and int(value) >= least):
        raise InputError(f"expected {name} a whole number >= {least}, got {value!r}")
    if int(value) > most:
        raise InputError(f"expected {name} a whole number <= {most}, got {value!r}")


def must_be_a_count(value: Any, name: str) -> None:
    """Raise unless `value` is a whole number from 0 on that a file can hold, or None for unknown.

    Examples
    --------
    >>> must_be_a_count(1.5, "params of teacher 'a'")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected a whole number as params of teacher 'a', got 1.5
    """
    if value is None:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 2**63 or value % 1:
        shown = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "one of more than 30 digits"
        raise InputError(f"expected a whole number as {name}, got {shown}")


OF_NUMBERS = ("accuracy", "value", "se", "params")
"""Columns of tables that are computed with wherever they are asked for."""


def require_columns(frame: Any, columns: Iterable[str], what: str, *, as_text: bool = False) -> None:
    """Raise unless `frame` is a data frame and has all `columns`; `what` names it in the message.

    Numbers must be numbers, unless they may be text (`as_text`), as where a file is read.

    Examples
    --------
    >>> import pandas as pd
    >>> require_columns(pd.DataFrame({"teacher": []}), ["teacher", "probe"], "the probes table")
    Traceback (most recent call last):
    capmismatch.errors.InputError: the probes table lacks the column 'probe'; it has ['teacher']
    """
    if not hasattr(frame, "columns"):
        raise InputError(f"expected {what}, a DataFrame, got {type(frame).__name__}")
    columns = list(columns)
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        names = ", ".join(repr(column) for column in missing)
        near = [name for name in frame.columns if str(name).strip().casefold() in map(str.casefold, missing)]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{what} lacks the column{plural} {names}; it has {list(frame.columns)}{hint}")
    if not as_text:
        require_numbers(frame, [column for column in OF_NUMBERS if column in columns], what)


def require_numbers(frame: Any, columns: Iterable[str], what: str) -> None:
    """Raise unless those of `columns` that the data frame has hold numbers, or nothing.

    Examples
    --------
    >>> import pandas as pd
    >>> require_numbers(pd.DataFrame({"accuracy": [0.7, "0.71"]}), ["accuracy"], "the results table")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected numbers as accuracy in the results table, got '0.71' (str) in row 1
    """
    for column in columns:
        values = frame[column] if column in frame.columns else None
        if values is None or getattr(getattr(values, "dtype", None), "kind", "O") in "fiub":
            continue
        for place, value in enumerate(values):
            if value is not None and not isinstance(value, Real) and value == value and str(value) != "<NA>":
                raise InputError(
                    f"expected numbers as {column} in {what}, got {value!r} ({type(value).__name__}) in row {place}"
                )


def must_be_sizes(value: Any, name: str = "params") -> None:
    """Raise unless `value` is a mapping, from names of teachers to numbers, or None.

    Examples
    --------
    >>> must_be_sizes([1, 2])
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected params by teacher, {'small': 1000, ...}, got list
    """
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"expected {name} by teacher, {{'small': 1000, ...}}, got {type(value).__name__}")


def must_be_a_table(value: Any, what: str, instead: str) -> None:
    """Raise unless `value` is a data frame; `instead` is code that has one.

    Examples
    --------
    >>> must_be_a_table("students.csv", "the results table", "cm.load_results(file)")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected the results table, a DataFrame, got str: cm.load_results(file)
    """
    if not hasattr(value, "columns"):
        raise InputError(f"expected {what}, a DataFrame, got {type(value).__name__}: {instead}")
