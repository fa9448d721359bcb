"""One description of how soft labels are made of logits: `SoftLabelSpec`.

Settings, files and tables need it before torch is loaded, so nothing here loads it. `capmismatch.temperature` applies
it: `soft_labels` returns the probabilities of a spec, `soften_parts` also what the search of ISATS found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, Self

from capmismatch.errors import InputError, must_be_one_of, must_be_temperature

SOFT_METHODS = ("TS", "ATS", "ISATS")
CENTERS = ("mean", "none")
CONSTRAINTS = ("order", "anchor", "none")
WRONG = ("plain", "target", "free")
TAU = 4.0  # of the target's logit
TAU_OTHER = 3.0  # of the wrong classes' logits under ATS
BOUNDS = (0.5, 8.0)  # of the search of ISATS
LARGEST_MARGIN = 1e30
MARGIN = 1.0  # of the constraint "order"; `capmismatch.temperature.isats` names the studies that it rests on
WRONG_ROWS = "free"  # what ISATS does with rows that the teacher gets wrong, where nobody says

CLASS_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"tau": TAU, "tau_other": TAU_OTHER, "bounds": BOUNDS, "wrong": WRONG_ROWS}
)
"""Settings of ATS and ISATS where nobody says."""

TOKEN_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"tau": 1.0, "tau_other": 0.75, "bounds": (0.5, 2.0), "wrong": "plain"}
)
"""The same over a vocabulary: at tau 4 a soft label is the background of unlikely tokens, and most rows are wrong."""

LITERAL: Mapping[str, str] = MappingProxyType({"constraint": "none", "center": "none", "wrong": "free"})
"""ISATS as it is told in one sentence: whatever temperature maximises the variance, of the logits as they are.

No constraint, no centring, all rows alike: what the announcement of the paper literally says, for those who want to
repeat it. It is no claim about what the paper's code does.
"""


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
    wrong : str
        What happens to the rows that the teacher gets wrong: "plain", "target" or "free"; see
        `capmismatch.temperature.isats`. Read by ISATS.

    Raises
    ------
    InputError
        An unknown method, constraint, center or wrong, or a number out of its range.

    Examples
    --------
    >>> SoftLabelSpec("ATS", tau=4.0, tau_other=2.0).label
    'ATS tau=4 other tau=2'
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
    wrong: str = WRONG_ROWS

    @classmethod
    def literal(cls, tau: float = TAU, bounds: tuple[float, float] = BOUNDS) -> Self:
        """ISATS with the settings of `LITERAL`.

        Examples
        --------
        >>> spec = SoftLabelSpec.literal()
        >>> spec.constraint, spec.center, spec.wrong
        ('none', 'none', 'free')
        """
        constraint, center, wrong = (LITERAL[name] for name in ("constraint", "center", "wrong"))
        return cls("ISATS", tau, constraint=constraint, center=center, bounds=bounds, wrong=wrong)

    def __post_init__(self) -> None:
        must_be_one_of(self.method, SOFT_METHODS, "method")
        must_be_temperature(self.tau, "tau")
        must_be_temperature(self.tau_other, "tau_other")
        must_be_one_of(self.constraint, CONSTRAINTS, "constraint")
        must_be_one_of(self.center, CENTERS, "center")
        must_be_one_of(self.wrong, WRONG, "wrong")
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
            words += ["unconstrained" if self.constraint == "none" else self.constraint]
            words += [*([f"m={self.margin:g}"] if self.constraint == "order" else [])]
            words += wrong_words(self.wrong)
        words.append(f"tau={self.tau:g}")
        words += [f"other tau={self.tau_other:g}"] if self.method == "ATS" else []
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
    wrong: str = WRONG_ROWS,
) -> list[SoftLabelSpec]:
    """TS, ATS and ISATS with the same settings, as tables and figures compare them.

    Examples
    --------
    >>> [spec.label for spec in compared_specs(tau_other=2.0)]
    ['TS tau=4', 'ATS tau=4 other tau=2', 'ISATS order m=1 tau=4']
    """
    return [SoftLabelSpec(method, tau, tau_other, constraint, margin, center, bounds, wrong) for method in SOFT_METHODS]


def wrong_words(wrong: str) -> list[str]:
    """What a label says of the rows that the teacher gets wrong: nothing where they are treated as by default.

    Examples
    --------
    >>> wrong_words(WRONG_ROWS), wrong_words("target")
    ([], ['wrong=target'])
    """
    return [] if wrong == WRONG_ROWS else [f"wrong={wrong}"]


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
        ends = tuple(bounds)
        if any(isinstance(end, str | bytes | bool) for end in ends):
            raise TypeError
        low, high = map(float, ends)
    except (TypeError, ValueError):
        raise InputError(f"bounds must be two numbers (low, high), got {bounds!r}") from None
    if not 0 < low < high < float("inf"):
        raise InputError(f"bounds must be two numbers with 0 < low < high, got {bounds!r}")
    for end, name in ((low, "the lower of the bounds"), (high, "the upper of the bounds")):
        must_be_temperature(end, name)
    return low, high
