"""Distillation methods as settings: which soft labels a teacher's logits become, and which loss a student trains on.

The soft labels of KD, ATS and ISATS depend on the teacher alone, so they are made once from the bank and serve every
student and seed; the other methods compare logits with logits in every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from capmismatch._numerics.soft_label_spec import CENTERS, CONSTRAINTS, margin_of
from capmismatch.errors import InputError, must_be_one_of, must_be_positive

if TYPE_CHECKING:
    from torch import Tensor, nn

SOFT = ("KD", "ATS", "ISATS")
# name in tables -> name in capmismatch.losses.LOSSES, of the methods that compare logits in every step
LOGIT_LOSSES = {
    "DKD": "dkd",
    "NormKD": "norm_kd",
    "StdKD": "standardized_kd",
    "DIST": "dist",
    "CorrKD": "correlation_kd",
    "CTKD": "curriculum_kd",
}
METHODS = ("CE", *SOFT, *LOGIT_LOSSES)
# Options of every method with a teacher; the loss of a method takes its own besides.
REMEDIES = ("rank_weight", "gate", "stop_after", "assistants")
# As in capmismatch.temperature, which needs torch: naming a setting should not have to load it.


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
    options : of every method with a teacher, and of the loss in `capmismatch.losses` for those that compare logits

        * "rank_weight": of `capmismatch.losses.rank_kd`, added to the method's own term
        * "gate": keep the teacher's part while its gradient's cosine with the labels' is at least this, in [-1, 1];
          see `criteria.GradientGate`
        * "stop_after": the share of the epochs, in (0, 1), after which the cross-entropy goes on alone; see
          `criteria.EarlyStopped`
        * "assistants": names of architectures that the teacher's knowledge passes through on its way to the student;
          see `remedies.teach_through`

    Examples
    --------
    >>> Method("KD").label, Method("ISATS", margin=1.0).label
    ('KD tau=4', 'ISATS order m=1 tau=4')
    >>> Method("DKD", options={"beta": 2.0, "stop_after": 0.5, "assistants": ["mlp96", "mlp48"]}).label
    'DKD via mlp96>mlp48 beta=2.0 stop_after=0.5'
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
            defaults |= {"constraint": "order", "margin": margin_of(self.constraint or "order", None), "center": "mean"}
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
        self._check_options()
        if self.tau is not None and "tau" in self.options:
            twice = f"{self.tau!r}, and {self.options['tau']!r} in its options"
            raise InputError(f"method {self.name} got tau twice: {twice}")

    def _check_options(self) -> None:
        if self.options and self.name == "CE":
            raise InputError(f"method CE takes no options, got {self.options!r}")
        if self.name in SOFT:
            for option in self.options:
                must_be_one_of(option, REMEDIES, f"option of method {self.name}")
        for option, (low, high), inside in (
            ("rank_weight", (0, math.inf), "> 0"),
            ("stop_after", (0, 1), "in (0, 1)"),
        ):
            value = self.options.get(option)
            if value is not None and not (_is_number(value) and low < value < high):
                raise InputError(f"expected {option} of method {self.name} {inside}, got {value!r}")
        gate = self.options.get("gate")
        if gate is not None and not (_is_number(gate) and -1 <= gate <= 1):
            raise InputError(f"expected gate of method {self.name}, a cosine, in [-1, 1], got {gate!r}")
        if gate is not None and self.weight == 1:
            raise InputError(f"a gate compares with the cross-entropy: method {self.name} with weight=1 has none")
        names = self.options.get("assistants", ["some"])
        if not (isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names)):
            raise InputError(f"expected assistants of method {self.name} a list of architectures, got {names!r}")

    @property
    def assistants(self) -> tuple[str, ...]:
        """Architectures between the teacher and the student; none by default."""
        return tuple(self.options.get("assistants", ()))

    @property
    def label(self) -> str:
        """A readable name, unique among the settings of a study that differ in what it shows."""
        if self.name == "CE":
            return "CE"
        parts = [self.name]
        if self.name == "ISATS":
            parts += [str(self.constraint), *([f"m={self.margin:g}"] if self.constraint == "order" else [])]
        if self.tau is not None:
            taus = f"{self.tau:g}" if self.tau_other is None else f"{self.tau:g}/{self.tau_other:g}"
            parts.append(f"tau={taus}")
        if self.tau_student not in (None, 1.0):
            parts.append(f"student tau={self.tau_student:g}")
        if self.weight is not None and not (self.name in SOFT and self.weight == 0.5):
            parts.append(f"w={self.weight:g}")
        if self.center == "none":
            parts.append("uncentred")
        if self.assistants:
            parts.append(f"via {'>'.join(self.assistants)}")
        parts += [f"{key}={value}" for key, value in sorted(self.options.items()) if key != "assistants"]
        return " ".join(parts)

    def soft_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the student is given of the teacher's logits (N, C).

        Soft labels (N, C) for KD, ATS and ISATS, and (N, 2, C), soft labels and logits, where they have a
        ``rank_weight``; for the other methods the logits themselves.
        """
        import torch

        if self.name not in SOFT:
            return logits.float()
        probs = self._probabilities(logits, labels)
        return torch.stack([probs.float(), logits.float()], 1) if "rank_weight" in self.options else probs

    def _probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        from capmismatch import temperature

        if self.name == "KD":
            return temperature.soften(logits, labels, self.tau or 4.0)
        if self.name == "ATS":
            return temperature.ats(logits, labels, self.tau or 4.0, self.tau_other or 3.0, center=self.center or "mean")
        return temperature.isats(
            logits,
            labels,
            self.tau or 4.0,
            constraint=self.constraint or "order",
            center=self.center or "mean",
            margin=self.margin,
        ).probs

    def criterion(self, network: nn.Module | None = None, epochs: int | None = None) -> nn.Module:
        """The loss: a module called with student logits, labels, and what `soft_labels` gave.

        Parameters
        ----------
        network : the student, which the option "gate" needs
        epochs : of its training, which the option "stop_after" needs
        """
        from capmismatch.distillation.criteria import EarlyStopped, GradientGate
        from capmismatch.losses import Criterion

        must_be_one_of(self.name, (*SOFT, *LOGIT_LOSSES), "a method with a teacher")
        own = {key: value for key, value in self.options.items() if key not in REMEDIES or key == "rank_weight"}
        if self.name in SOFT:
            weight = float(self.weight or 0.5)
            plain = Criterion(
                "soft_cross_entropy", ce_weight=1 - weight, kd_weight=weight, tau_student=self.tau_student or 1.0, **own
            )
        else:
            ce_weight, kd_weight = (None, None) if self.weight is None else (1 - self.weight, self.weight)
            own = own if self.tau is None else {"tau": self.tau, **own}
            plain = Criterion(LOGIT_LOSSES[self.name], ce_weight=ce_weight, kd_weight=kd_weight, **own)
        found: Criterion | GradientGate = plain
        if "gate" in self.options:
            if network is None:
                raise InputError(f"the gate of method {self.name} needs the student: criterion(network, epochs)")
            found = GradientGate(plain, network, self.options["gate"])
        if "stop_after" not in self.options:
            return found
        if epochs is None:
            raise InputError(f"stop_after of method {self.name} needs the epochs: criterion(network, epochs)")
        return EarlyStopped(found, max(1, round(self.options["stop_after"] * epochs)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
