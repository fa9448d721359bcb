"""Distillation methods as settings: which soft labels a teacher's logits become, and which loss a student trains on.

The soft labels of KD, ATS and ISATS depend on the teacher alone, so they are made once from the bank and serve every
student and seed; the other methods compare logits with logits in every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from capmismatch.errors import InputError, must_be_one_of, must_be_positive

if TYPE_CHECKING:
    from torch import Tensor, nn

SOFT = ("KD", "ATS", "ISATS")
# name in tables -> name in capmismatch.losses.LOSSES, of the methods that compare logits in every step
LOGIT_LOSSES = {
    "DKD": "dkd", "NormKD": "norm_kd", "StdKD": "standardized_kd", "DIST": "dist", "CorrKD": "correlation_kd",
    "CTKD": "curriculum_kd",
}
METHODS = ("CE", *SOFT, *LOGIT_LOSSES)
# As in capmismatch.temperature, which needs torch: naming a setting should not have to load it.
CONSTRAINTS = ("order", "anchor", "none")
CENTERS = ("mean", "none")


@dataclass(frozen=True)
class Method:
    """One setting of a distillation method.

    Attributes
    ----------
    name : "CE" (no teacher), "KD", "ATS", "ISATS", "DKD", "NormKD", "StdKD", "DIST", "CorrKD", "CTKD"
    tau : of the teacher's logits (of the target's, for ATS and ISATS)
    tau_other : of the wrong classes' logits; ATS only
    tau_student : of the student's logits; the loss is multiplied by its square. KD, ATS and ISATS only
    weight : of the soft term; the cross-entropy gets 1 - weight. None takes the weights of the method's source
    constraint, margin : of `capmismatch.temperature.isats`; ISATS only
    center : "mean" or "none"; ATS and ISATS
    options : of the loss in `capmismatch.losses`, for the methods that are neither CE, KD, ATS nor ISATS

    Examples
    --------
    >>> Method("KD").label, Method("ISATS", margin=1.0).label
    ('KD tau=4', 'ISATS order m=1 tau=4')
    """

    name: str
    tau: float | None = None
    tau_other: float | None = None
    tau_student: float | None = None
    weight: float | None = None
    constraint: str | None = None
    margin: float | None = None
    center: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        must_be_one_of(self.name, METHODS, "method")
        defaults: dict[str, Any] = {}
        if self.name in SOFT:
            defaults = {"tau": 4.0, "tau_student": 1.0, "weight": 0.5}
        if self.name == "ATS":
            defaults |= {"tau_other": 3.0, "center": "mean"}
        if self.name == "ISATS":
            defaults |= {"constraint": "order", "margin": 0.0, "center": "mean"}
        fits = set(defaults)
        if self.name in LOGIT_LOSSES:
            fits = {"tau", "weight"}
        for name in ("tau", "tau_other", "tau_student", "weight", "constraint", "margin", "center"):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, defaults.get(name))
            elif name not in fits:
                raise InputError(f"method {self.name} takes no {name}, got {value!r}; it takes {sorted(fits)}")
        for name in ("tau", "tau_other", "tau_student"):
            if getattr(self, name) is not None:
                must_be_positive(getattr(self, name), f"{name} of method {self.name}")
        if self.weight is not None and not 0 < self.weight <= 1:
            raise InputError(f"expected weight of method {self.name} in (0, 1], got {self.weight!r}")
        if self.name == "ISATS":
            must_be_one_of(self.constraint, CONSTRAINTS, "constraint of method ISATS")
            if self.margin and self.constraint != "order":
                raise InputError(f"margin belongs to constraint 'order', got {self.margin!r} with {self.constraint!r}")
            if self.margin is not None and not 0 <= self.margin < float("inf"):
                raise InputError(f"expected margin of method ISATS >= 0, got {self.margin!r}")
        if self.center is not None:
            must_be_one_of(self.center, CENTERS, f"center of method {self.name}")
        if self.options and self.name not in LOGIT_LOSSES:
            raise InputError(f"method {self.name} takes no options, got {self.options!r}")
        if self.tau is not None and "tau" in self.options:
            twice = f"{self.tau!r}, and {self.options['tau']!r} in its options"
            raise InputError(f"method {self.name} got tau twice: {twice}")

    @property
    def label(self) -> str:
        """A readable name, unique among the settings of a study that differ in what it shows."""
        if self.name == "CE":
            return "CE"
        parts = [self.name]
        if self.name == "ISATS":
            parts += [str(self.constraint)] if not self.margin else [str(self.constraint), f"m={self.margin:g}"]
        if self.tau is not None:
            taus = f"{self.tau:g}" if self.tau_other is None else f"{self.tau:g}/{self.tau_other:g}"
            parts.append(f"tau={taus}")
        if self.tau_student not in (None, 1.0):
            parts.append(f"student tau={self.tau_student:g}")
        if self.weight is not None and not (self.name in SOFT and self.weight == 0.5):
            parts.append(f"w={self.weight:g}")
        if self.center == "none":
            parts.append("uncentred")
        parts += [f"{key}={value}" for key, value in sorted(self.options.items())]
        return " ".join(parts)

    def soft_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the student is given of the teacher: soft labels for KD, ATS and ISATS, else the logits themselves."""
        from capmismatch import temperature

        if self.name == "KD":
            return temperature.soften(logits, labels, self.tau or 4.0)
        if self.name == "ATS":
            return temperature.ats(
                logits, labels, self.tau or 4.0, self.tau_other or 3.0, center=self.center or "mean"
            )
        if self.name == "ISATS":
            return temperature.isats(
                logits, labels, self.tau or 4.0, constraint=self.constraint or "order", center=self.center or "mean",
                margin=self.margin or 0.0,
            ).probs
        return logits.float()

    def criterion(self) -> nn.Module:
        """The loss: a module called with student logits, labels, and what `soft_labels` gave."""
        from capmismatch.losses import Criterion

        if self.name in SOFT:
            weight = float(self.weight or 0.5)
            return Criterion(
                "soft_cross_entropy", ce_weight=1 - weight, kd_weight=weight, tau_student=self.tau_student or 1.0
            )
        must_be_one_of(self.name, LOGIT_LOSSES, "a method with a teacher")
        ce_weight, kd_weight = (None, None) if self.weight is None else (1 - self.weight, self.weight)
        options = self.options if self.tau is None else {"tau": self.tau, **self.options}
        return Criterion(LOGIT_LOSSES[self.name], ce_weight=ce_weight, kd_weight=kd_weight, **options)
