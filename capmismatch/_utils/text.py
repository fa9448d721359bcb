"""Small pieces of sentences, and how numbers and shares are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

DECIMAL_COMMA = r"^([+-]?\d*),(\d+)$"
"""A number as tables of many countries have it, 0,713."""


def start(text: str) -> str:
    """The text with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def join(parts: list[str]) -> str:
    """``a, b and c``."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def count(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" + ("s" if number != 1 else "")


def format_number(value: float | None, *, padded: bool = False, whole: bool | None = None, missing: str = "-") -> str:
    """A number with four significant digits, or as a whole number with separators from a thousand on.

    Parameters
    ----------
    value : float or None
        The number.
    padded : bool
        Keep trailing zeros, so that the numbers of a column have equally many digits. Whole numbers stay whole.
    whole : bool, optional
        With `padded`, whether the numbers of this column are whole. Default: whether this one is.
    missing : str
        Stands for NaN, infinity and None.

    Returns
    -------
    str
        The number as text.

    Examples
    --------
    >>> [format_number(value) for value in (0.0358312, 698.0, 32666.0, float("nan"))]
    ['0.03583', '698', '32,666', '-']
    >>> [format_number(value, padded=True) for value in (0.00123456, 0.5, 4)]
    ['0.001235', '0.5000', '4']
    >>> format_number(4, padded=True, whole=False)
    '4.000'
    """
    if value is None or value != value or abs(value) == float("inf"):
        return missing
    shown_whole = value == round(value) if whole is None else whole
    if abs(value) >= 1000 or (padded and shown_whole):
        return f"{value:,.0f}"
    return f"{value:#.4g}" if padded else f"{value:.4g}"


def format_count(number: float | None, *, missing: str = "-") -> str:
    """A whole number, such as of parameters, with separators of thousands.

    Examples
    --------
    >>> format_count(1234567.0), format_count(float("nan")), format_count(None, missing="")
    ('1,234,567', '-', '')
    """
    return missing if number is None or number != number else f"{number:,.0f}"


def format_percent(share: float, digits: int = 0, *, at_most: float = float("inf")) -> str:
    """A share in percent.

    Parameters
    ----------
    share : float
        A share of one.
    digits : int
        Decimals.
    at_most : float
        A larger share is written as "over" this one: a chance that is estimated from draws is never certain.

    Returns
    -------
    str
        With a space before the sign.

    Examples
    --------
    >>> format_percent(0.734), format_percent(0.734, 1), format_percent(0.9996, at_most=0.99)
    ('73 %', '73.4 %', 'over 99 %')
    """
    capped = min(share, at_most)
    return ("over " if share > at_most else "") + f"{100 * capped:.{digits}f} %"


def format_chance(chance: float) -> str:
    """A chance that is estimated from draws: a whole percentage, at most "over 99 %"."""
    return format_percent(chance, at_most=0.99)


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    Examples
    --------
    >>> duration(42), duration(600), duration(8000), duration(float("nan"))
    ('42 s', '10 min', '2 h 13 min', 'not known yet')
    """
    if seconds != seconds:
        return "not known yet"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def table_text(table: pd.DataFrame, rows: int = 24) -> str:
    """The first rows of a table for a terminal, and how many more there are."""
    shown: str = table.head(rows).to_string(index=False, float_format=format_number)
    return shown if len(table) <= rows else f"{shown}\n... {len(table) - rows} more rows"


def to_json(value: object) -> str:
    """A value as JSON, two spaces in; numbers that are not finite, and missing values, are null.

    Examples
    --------
    >>> to_json({"p": float("nan"), "names": ("a", "b")}).split()
    ['{', '"p":', 'null,', '"names":', '[', '"a",', '"b"', ']', '}']
    """
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):  # of NumPy
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if value != value else str(value)  # what pandas calls missing
