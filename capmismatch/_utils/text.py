"""Small pieces of sentences."""

from __future__ import annotations


def start(text: str) -> str:
    """The text with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def join(parts: list[str]) -> str:
    """``a, b and c``."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def short(value: float) -> str:
    """Four significant digits, or a whole number with separators from a thousand on; a dash for NaN.

    Examples
    --------
    >>> [short(value) for value in (0.0358312, 698.0, 32666.0, float("nan"))]
    ['0.03583', '698', '32,666', '-']
    """
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def count(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" + ("s" if number != 1 else "")
