"""Distillation methods as settings: which soft labels a teacher's logits become, and which loss a student trains on.

A *method* is an entry of `METHODS`; a *setting* is a `Method`, a method with its temperatures, weight and options; its
*label* is the readable name of the setting in tables and figures (the class of an example is a label too, but always an
integer).

The soft labels of KD, ATS and ISATS depend on the teacher alone, so they are made once from the bank and serve every
student and seed. The other methods compare logits with logits in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from capmismatch._numerics.soft_label_spec import (
    CENTERS,
    CONSTRAINTS,
    WRONG,
    WRONG_ROWS,
    SoftLabelSpec,
    margin_of,
    wrong_words,
)
from capmismatch._utils.setting_labels import student_words
from capmismatch.errors import InputError, must_be_one_of, must_be_temperature

if TYPE_CHECKING:  # naming a setting does not load torch
    from torch import Tensor, nn

    from capmismatch.distillation.criteria import EarlyStopped, GradientGate
    from capmismatch.losses import Criterion


@dataclass(frozen=True)
class MethodSpec:
    """One entry of `METHODS`.

    Attributes
    ----------
    about : str
        How it differs from the others, in a line.
    kind : str
        What the student learns from: "labels" alone, the teacher's "soft labels", or its "logits".
    loss : str
        Name in `capmismatch.losses.LOSSES`; "" for plain cross-entropy.
    fields : mapping of str to Any
        The fields of `Method` that it takes, with their defaults. None is the default of the loss.
    loss_fields : tuple of str
        Those that are handed to the loss as options.
    """

    about: str
    kind: Literal["labels", "soft labels", "logits"]
    loss: str
    fields: Mapping[str, Any]
    loss_fields: tuple[str, ...]


def _soft_labels(about: str, **fields: Any) -> MethodSpec:
    """A method that makes soft labels of the teacher's logits."""
    common = {"tau": 4.0, "tau_student": 1.0, "weight": 0.5}
    return MethodSpec(about, "soft labels", "soft_cross_entropy", {**common, **fields}, ("tau_student",))


def _logits(loss: str, about: str) -> MethodSpec:
    """A method that compares logits in every step. Its loss has further options of its own."""
    return MethodSpec(about, "logits", loss, {"tau": None, "weight": None}, ("tau",))


METHODS: dict[str, MethodSpec] = {
    "CE": MethodSpec("no teacher: the baseline", "labels", "", {}, ()),
    "KD": _soft_labels("the teacher's probabilities at a temperature (Hinton et al.)"),
    "ATS": _soft_labels(
        "two temperatures, one of the target's logit and one of the others' (Li et al.)", tau_other=3.0, center="mean"
    ),
    # the margin follows from the constraint
    "ISATS": _soft_labels(
        "ATS with the second temperature chosen for each example (Fan et al.)",
        constraint="order",
        margin=None,
        center="mean",
        wrong=WRONG_ROWS,
    ),
    "DKD": _logits("dkd", "target and wrong-class parts of KL, weighted separately (Zhao et al.)"),
    "NormKD": _logits("norm_kd", "KL at temperatures from each example's spread of logits (Chi et al.)"),
    "StdKD": _logits("standardized_kd", "KL of z-scored logits (Sun et al.)"),
    "DIST": _logits("dist", "correlations along classes and along the batch (Huang et al.)"),
    "CorrKD": _logits("correlation_kd", "linear and rank correlation along classes (Niu et al.)"),
    "CTKD": _logits("curriculum_kd", "KL at a temperature that is learned adversarially (Li, Z. et al.)"),
    "RKD": _logits("reverse_kl", "reverse KL, student to teacher (Gu et al.)"),
    "JS": _logits("js", "Jensen-Shannon divergence, between both (Agarwal et al.)"),
    "SKD": _logits("skewed_kl", "KL of the teacher from a mixture with the student (Ko et al.)"),
    "SRKD": _logits("skewed_reverse_kl", "KL of the student from a mixture with the teacher (Ko et al.)"),
    "TopK": _logits("topk_kl", "KL over the teacher's k most likely classes"),
    "DTKD": _logits("dtkd", "KL at temperatures shared out by both sides' largest logits, plus KD (Wei and Bai)"),
    "TTM": _logits("ttm", "KL of the softened teacher and the plain student (Zheng and Yang)"),
    "WTTM": _logits("wttm", "TTM with more weight where the teacher is unsure (Zheng and Yang)"),
    "NKD": _logits("nkd", "cross-entropies of target and wrong classes, each by itself (Yang et al.)"),
    "PLD": _logits("pld", "likelihood of the order: label first, then the teacher's order (Bassam et al.)"),
    "ABKD": _logits("abkd", "alpha-beta divergence, with KL and reverse KL as corners (Wang et al.)"),
    "WKD": _logits("wkd", "cost of moving the wrong classes' probability, plus the target (Lv et al.)"),
    "MLKD": _logits("mlkd", "KD at several temperatures, between pairs of examples and pairs of classes (Jin et al.)"),
    "CalKD": _soft_labels(
        "KD with the temperature that calibrates the teacher on validation rows (Fan et al. 2024; Kim et al.)"
    ),
    "MatchKD": _soft_labels(
        "KD with a temperature per teacher that makes all equally confident, or equal in another probe",
        match="entropy",
        other=None,
    ),
    "ClassKD": _soft_labels("KD blended with the class's mean soft label", share=None, other=None),
    "GRAFT": _soft_labels("control: one teacher's p_y with the wrong classes of another", other=None),
    "SHUFFLE": _soft_labels("control: the wrong classes permuted in each example (Furlanello et al.)"),
    "FLAT": _soft_labels("control: the wrong classes made equal (Szegedy et al.)"),
}
"""The methods by their names in tables."""

CONTROLS = ("GRAFT", "SHUFFLE", "FLAT")
"""Methods that change the wrong classes alone, to tell what they are worth; see `capmismatch.distillation.controls`."""

PREPARED = ("CalKD", "MatchKD", "ClassKD")
"""Methods whose soft labels need more than a row's logits; see `capmismatch.distillation.prepared`."""

SOFT_LABEL_METHODS = tuple(
    name for name, spec in METHODS.items() if spec.kind == "soft labels" and name not in (*CONTROLS, *PREPARED)
)
NEED_OTHER = ("GRAFT", "MatchKD")
MATCHED = ("entropy", "derived_std", "target_prob")
"""Probes whose means "MatchKD" makes equal."""

_FIELDS = (
    *("tau", "tau_other", "tau_student", "weight", "constraint", "margin", "center", "wrong", "other"),
    *("match", "share"),
)
_LATER = {
    "wrong": "free",
    "other": None,
    "match": None,
    "share": None,
}  # fields that methods did not have at first -> what all of them did then


_OF_OTHER = {"GRAFT": "wrong of", "MatchKD": "as", "ClassKD": "classes of"}  # in labels


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(name, str) for name in value)


REMEDIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "rank_weight": (lambda value: _is_number(value) and 0 < value < math.inf, " > 0"),
    "gate": (lambda value: _is_number(value) and -1 <= value <= 1, ", a cosine, in [-1, 1]"),
    "stop_after": (lambda value: _is_number(value) and 0 < value < 1, " in (0, 1)"),
    "assistants": (_is_list_of_names, " a list of architectures"),
}
"""Options of every method with a teacher: how a value is checked, and what is expected of it."""


@dataclass(frozen=True)
class Method:
    """A setting: a distillation method with its temperatures, weight and options.

    Attributes
    ----------
    name : str
        "CE" (no teacher), "KD", "ATS", "ISATS", "DKD", "NormKD", "StdKD", "DIST", "CorrKD", "CTKD", "RKD", "JS", "SKD",
        "SRKD", "TopK", "DTKD", "TTM", "WTTM", "NKD", "PLD", "ABKD", "WKD", "MLKD", "CalKD",
        "MatchKD" or "ClassKD"; or a control, "GRAFT", "SHUFFLE" or "FLAT".
    tau : float or None
        Temperature of the teacher's logits (of the target's, for ATS and ISATS). CalKD multiplies it by the temperature
        that calibrates the teacher; for MatchKD it is that of the teacher `other`.
    tau_other : float or None
        Temperature of the wrong classes' logits. ATS only.
    tau_student : float or None
        Temperature of the student's logits; the loss is multiplied by its square. KD, ATS and ISATS only.
    weight : float or None
        Weight of the teacher's term, in (0, 1]; the cross-entropy gets 1 - weight. None takes the weights of the
        method's source.
    constraint : str or None
        As in `capmismatch.temperature.isats`: "order", "anchor" or "none". ISATS only.
    margin : float or None
        As in `capmismatch.temperature.isats`, >= 0. ISATS only.
    center : str or None
        "mean" or "none". ATS and ISATS only.
    options : dict
        Of every method with a teacher, and of the loss in `capmismatch.losses` for those that compare logits:

        * "rank_weight": weight of `capmismatch.losses.rank_kd`, added to the method's own term
        * "gate": keep the teacher's part while its gradient's cosine with the labels' is at least this, in [-1, 1];
          see `criteria.GradientGate`
        * "stop_after": the share of the epochs, in (0, 1), after which the cross-entropy goes on alone; see
          `criteria.EarlyStopped`
        * "assistants": names of architectures through which the teacher's knowledge is passed to the student; see
          `remedies.teach_through`
    wrong : str or None
        As in `capmismatch.temperature.isats`: "plain", "target" or "free". ISATS only.
    other : str or None
        The teacher whose distribution over the wrong classes goes with the confidence of the student's own: its name,
        or family/name. Its training run is that which the student's seed asks for. GRAFT needs it; MatchKD needs it as
        the teacher whose `match` all others get; ClassKD takes the class means of this teacher, by default the own.
    match : str or None
        The probe whose mean on held-out rows each teacher's temperature makes equal: "entropy", "derived_std" or
        "target_prob". MatchKD only.
    share : float or None
        Share of the class's mean soft label, in (0, 1]. ClassKD only, which needs it.

    See Also
    --------
    capmismatch.soft_labels : The soft labels of a setting, as a file.
    capmismatch.losses.Criterion : The loss of a setting, for any training loop.

    Examples
    --------
    >>> Method("KD").label, Method("ISATS", margin=1.0).label
    ('KD tau=4 student tau=1', 'ISATS order m=1 tau=4')
    >>> Method("KD", tau_student=4.0).label  # of Hinton et al.
    'KD tau=4'
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
    wrong: str | None = None
    other: str | None = None
    match: str | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        must_be_one_of(self.name, METHODS, "method")
        self._fill_in_defaults()
        self._check_fields()
        self._check_options()

    @property
    def spec(self) -> MethodSpec:
        """The method's entry in `METHODS`."""
        return METHODS[self.name]

    @property
    def has_teacher(self) -> bool:
        """Whether the student learns from more than the labels."""
        return self.spec.kind != "labels"

    def _fill_in_defaults(self) -> None:
        """Refuse fields that the method does not take, and give the others their defaults."""
        fields = self.spec.fields
        for name in _FIELDS:
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, fields.get(name))
            elif name not in fields:
                raise InputError(f"method {self.name} takes no {name}, got {value!r}; it takes {sorted(fields)}")
        if self.constraint is not None:
            object.__setattr__(self, "margin", margin_of(self.constraint, self.margin))

    def _check_fields(self) -> None:
        for name in ("tau", "tau_other", "tau_student"):
            if getattr(self, name) is not None:
                must_be_temperature(getattr(self, name), f"{name} of method {self.name}")
        if self.weight is not None and not 0 < self.weight <= 1:
            raise InputError(f"expected weight of method {self.name} in (0, 1], got {self.weight!r}")
        if self.constraint is not None:
            must_be_one_of(self.constraint, CONSTRAINTS, f"constraint of method {self.name}")
        if self.margin and self.constraint != "order":
            raise InputError(f"margin belongs to constraint 'order', got {self.margin!r} with {self.constraint!r}")
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise InputError(f"expected margin of method {self.name} >= 0, got {self.margin!r}")
        if self.center is not None:
            must_be_one_of(self.center, CENTERS, f"center of method {self.name}")
        if self.wrong is not None:
            must_be_one_of(self.wrong, WRONG, f"wrong of method {self.name}")
        self._check_second_teacher()

    def _check_second_teacher(self) -> None:
        named = isinstance(self.other, str) and self.other != ""
        if not named and (self.name in NEED_OTHER or self.other is not None):
            raise InputError(f"method {self.name} needs other, the name of a second teacher, got {self.other!r}")
        if self.match is not None:
            must_be_one_of(self.match, MATCHED, f"match of method {self.name}")
        if "share" in self.spec.fields and not (
            self.share is not None and _is_number(self.share) and 0 < self.share <= 1
        ):
            raise InputError(f"expected share of method {self.name} in (0, 1], got {self.share!r}")

    def _check_options(self) -> None:
        if self.options and not self.has_teacher:
            raise InputError(f"method {self.name} takes no options, got {self.options!r}")
        for option in ("ce_weight", "kd_weight"):
            if option in self.options:
                raise InputError(f"method {self.name} takes no option {option}: its weight shares out both terms")
        for option in self.options:
            if option not in REMEDIES:
                must_be_one_of(option, [*REMEDIES, *self._options_of_loss()], f"option of method {self.name}")
            elif self.name in (*CONTROLS, *PREPARED) and option in ("assistants", "rank_weight"):
                raise InputError(f"method {self.name} changes soft labels alone: it takes no {option}")
        for option, (is_valid, expected) in REMEDIES.items():
            if option in self.options and not is_valid(self.options[option]):
                raise InputError(f"expected {option} of method {self.name}{expected}, got {self.options[option]!r}")
        if "gate" in self.options and self.weight == 1:
            raise InputError(f"a gate compares with the cross-entropy: method {self.name} with weight=1 has none")
        if self.tau is not None and "tau" in self.options:
            both = f"{self.tau!r}, and {self.options['tau']!r} in its options"
            raise InputError(f"method {self.name} got tau twice: {both}")

    def _options_of_loss(self) -> list[str]:
        """Options of the loss itself; of those that compare logits alone, as soft labels have their own fields."""
        if self.spec.kind != "logits":
            return []
        from capmismatch.losses.criterion import options_of

        return [*options_of(self.spec.loss), "warmup_epochs", "ignore_index"]

    @property
    def assistants(self) -> tuple[str, ...]:
        """Architectures between the teacher and the student; none by default."""
        return tuple(self.options.get("assistants", ()))

    @property
    def label(self) -> str:
        """A readable name, unique among the settings of a study that differ in what it shows.

        "KD tau=4" by itself is that of Hinton et al. (2015): temperature 4 for teacher and student.
        """
        return self._label()

    @property
    def soft_label_name(self) -> str:
        """What its soft labels are called: the label less the student's temperature and weight, which they do not have.

        Examples
        --------
        >>> Method("KD").label, Method("KD").soft_label_name
        ('KD tau=4 student tau=1', 'KD tau=4')
        """
        return self._label(of_student=False)

    def _label(self, *, of_student: bool = True) -> str:
        defaults = self.spec.fields
        words = [self.name]
        if self.constraint is not None:
            words.append("unconstrained" if self.constraint == "none" else self.constraint)
        if self.constraint == "order":
            words.append(f"m={self.margin:g}")
        words += [] if self.wrong is None else wrong_words(self.wrong)
        if self.tau is not None:
            words.append(f"tau={self.tau:g}")
        words += [] if self.tau_other is None else [f"other tau={self.tau_other:g}"]
        if of_student:
            words += student_words(self.tau, self.tau_student, defaults.get("tau_student"), self.name)
        if of_student and self.weight != defaults.get("weight"):
            words.append(f"w={self.weight:g}")
        if self.center == "none":
            words.append("uncentred")
        words += [] if self.match is None else [f"same {self.match}"]
        words += [] if self.share is None else [f"share={self.share:g}"]
        words += [] if self.other is None else [f"{_OF_OTHER[self.name]} {self.other}"]
        if self.assistants:
            words.append(f"via {'>'.join(self.assistants)}")
        words += [f"{key}={value}" for key, value in sorted(self.options.items()) if key != "assistants"]
        return " ".join(words)

    @property
    def soft_label_spec(self) -> SoftLabelSpec:
        """How the soft labels of KD, ATS and ISATS are made of the teacher's logits; an error for other methods."""
        must_be_one_of(self.name, SOFT_LABEL_METHODS, "a method with soft labels")
        named = ("tau", "tau_other", "constraint", "margin", "center", "wrong")
        fields: dict[str, Any] = {name: value for name in named if (value := getattr(self, name)) is not None}
        return SoftLabelSpec("TS" if self.name == "KD" else self.name, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return all that decides what the setting means, to be written or hashed; `from_dict` reads it.

        A field that came later is left out where it stands for what was done before there was a choice. So a setting
        keeps its hash, and no hash or file of then is taken for another setting, whatever the default is now.

        Returns
        -------
        dict
            The fields by their names.

        Examples
        --------
        >>> "wrong" in Method("ISATS", wrong="free").to_dict(), Method("ISATS", wrong="plain").to_dict()["wrong"]
        (False, 'plain')
        """
        unsaid = {name for name, then in _LATER.items() if getattr(self, name) in (None, then)}
        return {name: value for name, value in asdict(self).items() if name not in unsaid}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Method:
        """Return the setting that `to_dict` told of, also by an earlier version.

        Parameters
        ----------
        fields : mapping of str to Any
            From `to_dict`.

        Returns
        -------
        Method
            The setting, with the meaning that it had when it was written.
        """
        takes = METHODS[fields["name"]].fields if fields.get("name") in METHODS else {}
        return cls(**{**{name: value for name, value in _LATER.items() if name in takes}, **fields})

    def soft_labels(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        other: Tensor | None = None,
        rows: Tensor | None = None,
        held_out: tuple[Tensor, Tensor] | None = None,
        class_means: Tensor | None = None,
    ) -> Tensor:
        """Return what the student is given of the teacher.

        Parameters
        ----------
        logits : Tensor, shape (N, C)
            The teacher's.
        labels : Tensor of int, shape (N,)
            Classes of the examples.
        other : Tensor, shape (N, C), optional
            Logits of the second teacher, which GRAFT needs; of ClassKD they give the class means. MatchKD needs them of
            the rows that are held out.
        rows : Tensor of int, shape (N,), optional
            Numbers of the examples, for SHUFFLE: an example that stands there in several views keeps its permutation.
            By default each row is an example.
        held_out : tuple of Tensor, optional
            The teacher's logits (M, C) of rows that it was not trained on, and their classes (M,), which CalKD and
            MatchKD need.
        class_means : Tensor, shape (C, C), optional
            Of ClassKD: mean soft labels at tau, such as `capmismatch.probes.class_means` gives of all training rows. By
            default those of the rows given, which then should be all.

        Returns
        -------
        Tensor, shape (N, C) or (N, 2, C)
            Soft labels for KD, ATS, ISATS and the controls, and with ``rank_weight`` soft labels and logits, (N, 2, C).
            For the other methods the logits themselves.
        """
        import torch

        from capmismatch import temperature

        if self.spec.kind != "soft labels":
            return logits.float()
        if self.name in CONTROLS:
            return self._control(logits, labels, other, rows)
        if self.name in PREPARED:
            return self._prepared(logits, labels, other, held_out, class_means)
        probs = temperature.soft_labels(self.soft_label_spec, logits, labels)
        return torch.stack([probs.float(), logits.float()], 1) if "rank_weight" in self.options else probs

    def _prepared(
        self,
        logits: Tensor,
        labels: Tensor,
        other: Tensor | None,
        held_out: tuple[Tensor, Tensor] | None,
        class_means: Tensor | None,
    ) -> Tensor:
        from capmismatch import probes, temperature
        from capmismatch.distillation import prepared

        tau = self.tau
        assert tau is not None
        if self.share is not None:
            if class_means is None:
                class_means = probes.class_means(logits if other is None else other, labels, tau)
            return prepared.blended(temperature.soften(logits, tau=tau), labels, class_means, self.share)
        if held_out is None:
            raise InputError(
                f"{self.label} needs the teacher's logits and classes of held-out rows: soft_labels(logits, labels, "
                "held_out=(...))"
            )
        if self.match is None:
            return temperature.soften(logits, tau=prepared.calibrated_tau(tau, held_out))
        if other is None:
            raise InputError(
                f"{self.label} needs the logits of {self.other} of the held-out rows: soft_labels(other=...)"
            )
        return temperature.soften(logits, tau=prepared.matched_tau(tau, self.match, held_out, other))

    def _control(self, logits: Tensor, labels: Tensor, other: Tensor | None, rows: Tensor | None) -> Tensor:
        import torch

        from capmismatch import temperature
        from capmismatch.distillation import controls

        assert self.tau is not None
        probs = temperature.soften(logits, tau=self.tau)
        if self.name == "FLAT":
            return controls.flat(probs, labels)
        if self.name == "SHUFFLE":
            return controls.shuffled(probs, labels, torch.arange(len(labels)) if rows is None else rows)
        if other is None:
            raise InputError(
                f"{self.label} needs the logits of a second teacher: soft_labels(logits, labels, other=...)"
            )
        return controls.grafted(probs, labels, other, self.tau)

    def criterion(
        self, network: nn.Module | None = None, epochs: int | None = None
    ) -> Criterion | GradientGate | EarlyStopped:
        """Return the loss: a module called with student logits, labels, and what `soft_labels` gave.

        Parameters
        ----------
        network : torch.nn.Module, optional
            The student, which the option "gate" needs.
        epochs : int, optional
            Of its training, which the option "stop_after" needs.

        Returns
        -------
        Criterion or GradientGate or EarlyStopped
            A `capmismatch.losses.Criterion`, within a `GradientGate` or an `EarlyStopped` where the options say so.
        """
        from capmismatch.distillation.criteria import EarlyStopped, GradientGate

        with_teacher = [name for name, spec in METHODS.items() if spec.kind != "labels"]
        must_be_one_of(self.name, with_teacher, "a method with a teacher")
        plain = self._plain_criterion()
        criterion: Criterion | GradientGate = plain
        if "gate" in self.options:
            if network is None:
                raise InputError(f"the gate of method {self.name} needs the student: criterion(network, epochs)")
            criterion = GradientGate(plain, network, self.options["gate"])
        if "stop_after" not in self.options:
            return criterion
        if epochs is None:
            raise InputError(f"stop_after of method {self.name} needs the epochs: criterion(network, epochs)")
        return EarlyStopped(criterion, max(1, round(self.options["stop_after"] * epochs)))

    def check_loss(self) -> None:
        """Refuse options that the loss does not take, by computing it once on a few made-up examples.

        Raises
        ------
        InputError
            For the first of them, or a loss that is not finite.
        """
        import torch

        if not self.has_teacher:
            return
        criterion = self._plain_criterion()
        if "gate" in self.options and not criterion.ce_weight:
            raise InputError(
                f"a gate compares with the cross-entropy: method {self.name} has none by default, give a weight < 1"
            )
        logits, labels = torch.eye(4, 8), torch.arange(4)
        teacher = torch.softmax(logits, 1) if self.spec.kind == "soft labels" else logits.roll(1, 1)
        if self.spec.kind == "soft labels" and "rank_weight" in self.options:
            teacher = torch.stack([teacher, logits], 1)
        with torch.no_grad():
            loss = float(criterion(logits, labels, teacher))
        if not math.isfinite(loss):
            raise InputError(f"expected options with a finite loss for method {self.name}, got {self.options!r}")

    def _plain_criterion(self) -> Criterion:
        """The loss without gate and stop."""
        from capmismatch.losses import Criterion

        weights: dict[str, Any] = (
            {} if self.weight is None else {"ce_weight": 1 - self.weight, "kd_weight": self.weight}
        )
        return Criterion(self.spec.loss, **weights, **self._loss_options())

    def _loss_options(self) -> dict[str, Any]:
        """The fields and options that the loss takes; of the remedies, it adds the rank term alone."""
        fields = {name: getattr(self, name) for name in self.spec.loss_fields if getattr(self, name) is not None}
        options = {key: value for key, value in self.options.items() if key not in REMEDIES or key == "rank_weight"}
        return {**fields, **options}
