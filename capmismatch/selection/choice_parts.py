"""The parts of a choice: its setting, the tables that were compared, what it rests on, what a pilot adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from capmismatch.selection.evidence import EvidenceFacts
from capmismatch.selection.metric import ACCURACY, Metric
from capmismatch.selection.outlook import Outlook
from capmismatch.selection.students import SeedFacts

GAIN = ("gain", "gain_low", "gain_high")

STUDENT_COLUMNS = (
    *("student", "label", "method", "tau", "family", "teacher", "p_best"),
    *("accuracy", "ce", *GAIN, "regret", "regret_low"),
)
"""Columns of `Choice.students`."""

SETTING_COLUMNS = (
    *("student", "label", "method", "tau", "family", "teacher"),
    *("score", "behind", "low", "high", "p_best", "tie"),
)
"""Columns of `Choice.settings`."""


def _no_students() -> pd.DataFrame:
    return pd.DataFrame(columns=list(STUDENT_COLUMNS))


@dataclass(frozen=True)
class Setting:
    """A student and how it is distilled; None for what is unknown or differs between students.

    Attributes
    ----------
    student, label, method : str or None
        The student, its setting, and the setting's method.
    tau : float or None
        The teacher's temperature in that setting, or that at which the probe of a rule was taken.
    first_tau : float or None
        At which to teach where no student tells, if that is another one.
    """

    student: str | None = None
    label: str | None = None
    method: str | None = None
    tau: float | None = None
    first_tau: float | None = None

    @classmethod
    def shared(cls, students: pd.DataFrame) -> Setting:
        """What all rows of `Choice.students` have in common."""
        common = {name: students[name].iloc[0] for name in ("student", "label", "method", "tau")}
        common = {name: value for name, value in common.items() if students[name].nunique() == 1}
        if "tau" in common:
            common["tau"] = float(common["tau"])
        return cls(**common)


@dataclass(frozen=True)
class Comparison:
    """The tables of what was compared.

    Attributes
    ----------
    teachers, rules, students, settings : DataFrame
        See `Choice.table` and the attributes of `Choice` with these names.
    tolerance : float
        Accuracy points, or nats, that do not matter.
    metric : Metric
        By what students are compared; the tables here are as `Metric.compared` makes them, those of `Choice` as shown.
    """

    teachers: pd.DataFrame
    rules: pd.DataFrame
    students: pd.DataFrame = field(default_factory=_no_students)
    settings: pd.DataFrame = field(default_factory=pd.DataFrame)
    tolerance: float = 0.0
    metric: Metric = ACCURACY


@dataclass(frozen=True)
class Missing:
    """What the tables lacked.

    Attributes
    ----------
    rules : tuple of str
        Rules without their probe.
    teachers : tuple of (family, teacher)
        Teachers without the probe by which the others are ranked.
    probes : mapping from probe to list of (family, teacher)
        Probes that predict students, with the teachers for which they are unknown.
    split : str
        The only split of the results where they lack the other one, else "".
    unusable : str
        Teachers that `capmismatch.check` found not to be usable, each with the reason; else "".
    two_classes : bool
        Whether probes of the wrong classes were left out because they are zero by definition.
    repeated : str
        Results and evidence that repeat others (see `repeats.without_repeats`); else "".
    unknown : tuple of (family, teacher)
        Teachers of the results that the probes lack; their students are left out.
    same_students : tuple of str
        Teachers whose students have the same accuracies throughout; see `capmismatch.stats.copies.same_students`.
    unfit : tuple of str
        Teachers that are not taken although they were ranked, each with the reason: they guess, or are below a student
        without a teacher.
    """

    rules: tuple[str, ...] = ()
    teachers: tuple[tuple[str, str], ...] = ()
    probes: Mapping[str, list[tuple[str, str]]] = field(default_factory=dict)
    split: str = ""
    unusable: str = ""
    two_classes: bool = False
    repeated: str = ""
    unknown: tuple[tuple[str, str], ...] = ()
    same_students: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Basis:
    """What a choice rests on.

    Attributes
    ----------
    missing : Missing
        What the tables lacked.
    seeds : SeedFacts or None
        What the students' seeds say of the noise; None without results.
    evidence : EvidenceFacts or None
        What other families and students contributed; None without evidence.
    differences : DataFrame or None
        Rows of `capmismatch.teacher_differences` for the settings that were chosen; None without results.
    methods : mapping of str to mapping
        The settings of the results by their labels, see `handover.settings_in`.
    outliers : tuple of str
        Students far out of line with the others, in words; see `capmismatch.stats.outliers.outlying_runs`.
    outlook : Outlook or None
        What the studies of the package say; None with results or evidence of one's own.
    """

    missing: Missing = Missing()
    seeds: SeedFacts | None = None
    evidence: EvidenceFacts | None = None
    differences: pd.DataFrame | None = None
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outliers: tuple[str, ...] = ()
    outlook: Outlook | None = None


@dataclass(frozen=True)
class PilotRecord:
    """What a pilot adds to the choice from its students.

    Attributes
    ----------
    rungs : DataFrame
        See `Choice.rungs`.
    reasons, risks : tuple of str
        The pilot's own, shown before those of the choice.
    """

    rungs: pd.DataFrame
    reasons: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
