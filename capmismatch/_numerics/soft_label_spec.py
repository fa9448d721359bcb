"""What ISATS can be asked for, apart from the arrays: settings and files need it before torch is loaded."""

from __future__ import annotations

CENTERS = ("mean", "none")
CONSTRAINTS = ("order", "anchor", "none")
MARGIN = 1.0  # of the constraint "order" by default; `capmismatch.temperature.isats` tells what it rests on


def margin_of(constraint: str, margin: float | None) -> float:
    """Return the margin, or its default: that of the constraint "order", which alone has one.

    Examples
    --------
    >>> margin_of("order", None), margin_of("anchor", None), margin_of("order", 0.5)
    (1.0, 0.0, 0.5)
    """
    if margin is not None:
        return margin
    return MARGIN if constraint == "order" else 0.0
