"""One description of how soft labels are made of logits: `SoftLabelSpec`.

Settings, files and tables need it before torch is loaded, so nothing here loads it. `capmismatch.temperature` applies
it: `soft_labels` returns the probabilities of a spec, `soften_parts` also what the search of ISATS found.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Self

from capmismatch.errors import InputError, must_be_one_of, must_be_temperature

SOFT_METHODS = ("TS", "ATS", "ISATS")
CENTERS = ("mean", "none")
CONSTRAINTS = ("order", "anchor", "none")
TAU = 4.0  # of the target's logit
TAU_OTHER = 3.0  # of the wrong classes' logits under ATS
BOUNDS = (0.5, 8.0)  # of the search of ISATS
LARGEST_MARGIN = 1e30
MARGIN = 1.0  # of the constraint "order"; `capmismatch.temperature.isats` names the studies that it rests on


@dataclass(frozen=True)
class SoftLabelSpec:
    """How soft labels are made of a teacher's logits.

    Fields that the method does not read are checked like the others, and have no effect.

    Attributes
    ----------
    method : str
        "TS" (plain temperature scaling, which KD uses), "ATS" or "ISATS"; see `capmismatch.temperature`.
    tau : float
        Temperature > 0 of all logits under TS, and of the target's logit under ATS and ISATS.
    tau_other : float
        Temperature > 0 of the wrong classes' logits. Read by ATS.
    constraint : str
        "order", "anchor" or "none". Read by ISATS.
    margin : float or None
        How far the target has to stay on top, in logits, >= 0; only with the constraint "order". None takes the
        default of the constraint. Read by ISATS.
    center : str
        "mean" subtracts each row's mean logit first, "none" takes the logits as they are. Read by ATS and ISATS.
    bounds : tuple of float
        (low, high) with 0 < low < high, between which ISATS searches its tau_other.

    Raises
    ------
    InputError
        An unknown method, constraint or center, or a number out of its range.

    Examples
    --------
    >>> SoftLabelSpec("ATS", tau=4.0, tau_other=2.0).label
    'ATS tau=4/2'
    >>> SoftLabelSpec("ISATS").label, SoftLabelSpec("ISATS", constraint="anchor", center="none").label
    ('ISATS order m=1 tau=4', 'ISATS anchor tau=4 uncentred')
    """

    method: str = "ISATS"
    tau: float = TAU
    tau_other: float = TAU_OTHER
    constraint: str = "order"
    margin: float | None = None
    center: str = "mean"
    bounds: tuple[float, float] = BOUNDS

    def __post_init__(self) -> None:
        must_be_one_of(self.method, SOFT_METHODS, "method")
        must_be_temperature(self.tau, "tau")
        must_be_temperature(self.tau_other, "tau_other")
        must_be_one_of(self.constraint, CONSTRAINTS, "constraint")
        must_be_one_of(self.center, CENTERS, "center")
        object.__setattr__(self, "bounds", _checked_bounds(self.bounds))
        margin = margin_of(self.constraint, self.margin)
        if not (isinstance(margin, Real) and 0 <= margin <= LARGEST_MARGIN):
            raise InputError(f"margin must be a number >= 0, got {margin!r}")
        if margin and self.constraint != "order":
            raise InputError(
                f"margin belongs to constraint 'order', got margin={margin!r} with constraint={self.constraint!r}"
            )
        object.__setattr__(self, "margin", margin)

    @property
    def plain(self) -> Self:
        """Plain temperature scaling at the same temperature: what ATS and ISATS are compared with."""
        return type(self)("TS", self.tau)

    @property
    def label(self) -> str:
        """A readable name with the settings that the method reads."""
        words = [self.method]
        if self.method == "ISATS":
            words += [self.constraint, *([f"m={self.margin:g}"] if self.constraint == "order" else [])]
        words.append(f"tau={self.tau:g}" + (f"/{self.tau_other:g}" if self.method == "ATS" else ""))
        if self.center == "none" and self.method != "TS":
            words.append("uncentred")
        if self.bounds != BOUNDS and self.method == "ISATS":
            words.append(f"bounds={self.bounds[0]:g}..{self.bounds[1]:g}")
        return " ".join(words)


def compared_specs(
    tau: float = TAU,
    tau_other: float = TAU_OTHER,
    constraint: str = "order",
    margin: float | None = None,
    center: str = "mean",
    bounds: tuple[float, float] = BOUNDS,
) -> list[SoftLabelSpec]:
    """TS, ATS and ISATS with the same settings, as tables and figures compare them.

    Examples
    --------
    >>> [spec.label for spec in compared_specs(tau_other=2.0)]
    ['TS tau=4', 'ATS tau=4/2', 'ISATS order m=1 tau=4']
    """
    return [SoftLabelSpec(method, tau, tau_other, constraint, margin, center, bounds) for method in SOFT_METHODS]


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


def _checked_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in bounds)
    except (TypeError, ValueError):
        raise InputError(f"bounds must be two numbers (low, high), got {bounds!r}") from None
    if not 0 < low < high < float("inf"):
        raise InputError(f"bounds must be two numbers with 0 < low < high, got {bounds!r}")
    for end, name in ((low, "the lower of the bounds"), (high, "the upper of the bounds")):
        must_be_temperature(end, name)
    return low, high
