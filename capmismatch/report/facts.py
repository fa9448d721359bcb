"""The numbers that a study shows, as `capmismatch.report.narrative` computes and `sentences` words them.

An `Estimate` holds a value, its 95 % interval (NaN where there is none), and how many units it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan

from capmismatch.stats.estimates import Estimate

Means = Mapping[str, Estimate]
"""Estimates by teacher, or by method."""


@dataclass(frozen=True)
class Subject:
    """Whose numbers these are.

    Attributes
    ----------
    student, label : str
        Of the students and their setting.
    family : str
        Of the teachers; empty where the table has one family.
    """

    student: str
    label: str
    family: str = ""


@dataclass(frozen=True)
class Unknown:
    """Why a question has no answer.

    Attributes
    ----------
    reason : str
        A key of `sentences.UNKNOWN`.
    lacking : tuple of str
        What the table lacks.
    """

    reason: str
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """Whether something rises, then falls, as teachers grow.

    Attributes
    ----------
    p_value : float
        Of there being no rise followed by a fall.
    peak : str
        The teacher where it is highest.
    likely : tuple of str
        Teachers among which the peak lies with a confidence of 95 %, by size.
    single : bool
        Whether each teacher has one run, so that all of this is about these very networks or students.
    two_lines : float
        The same p-value by two lines with a break; NaN where there are too few rows for it.
    """

    p_value: float
    peak: str
    likely: tuple[str, ...]
    single: bool = False
    two_lines: float = nan

    @property
    def shown(self) -> bool:
        """Whether there is a rise followed by a fall in what was measured (p < 0.05)."""
        return self.p_value < 0.05

    @property
    def established(self) -> bool:
        """Whether another training would show it as well, as far as runs tell."""
        return self.shown and not self.single


@dataclass(frozen=True)
class TeacherDifference:
    """Whether the students of some setting depend on the teacher at all.

    Attributes
    ----------
    subject : Subject
        Which students.
    f, free, free_of_runs, p_value : float
        The F test of "all teachers teach alike", with its degrees of freedom; NaN where no teacher has two runs.
    reliability : Estimate
        Of the teachers' means; `n` is the number of teachers.
    ceiling : float
        The highest correlation to expect of any probe.
    seeds : float
        Seeds, or training runs, of each teacher at which the reliability would reach 0.8; infinite where no difference
        shows.
    error : str
        What differences are measured against, "seeds" or "training runs".
    """

    subject: Subject
    f: float
    free: int
    free_of_runs: int
    p_value: float
    reliability: Estimate
    ceiling: float
    seeds: float
    error: str

    @property
    def known(self) -> bool:
        """Whether runs tell noise from differences."""
        return not isnan(self.p_value)

    @property
    def shown(self) -> bool:
        """Whether the teachers are shown to differ (p < 0.05)."""
        return self.p_value < 0.05


@dataclass(frozen=True)
class TeacherDifferences:
    """In how many combinations of student and method the teachers are shown to differ.

    Attributes
    ----------
    combinations : int
        Those where it can be tested.
    shown : int
        Those where they differ (p < 0.05 each).
    error : str
        What differences are measured against, "seeds" or "training runs" or both.
    """

    combinations: int
    shown: int
    error: str


@dataclass(frozen=True)
class StudentCourse:
    """How students do as teachers grow.

    Attributes
    ----------
    subject : Subject
        Which students.
    shape : Shape or None
        None where it is not known.
    why_unknown : str
        Why the shape is not known.
    accuracy : mapping from teacher to Estimate
        Of the smallest, the best and the largest teacher, as shares.
    gaps : mapping from teacher to Estimate
        Smallest and largest teacher less the best of the others, paired by seed; of those that are not the best
        themselves.
    best_end : str
        The smallest or largest teacher where it is the best itself; else empty.
    both_ends_worse : bool or None
        Whether smallest and largest are shown to be worse; None where they cannot be paired by seed.
    """

    subject: Subject
    shape: Shape | None
    why_unknown: str = ""
    accuracy: Means | None = None
    gaps: Means | None = None
    best_end: str = ""
    both_ends_worse: bool | None = None


@dataclass(frozen=True)
class StudentCourses:
    """How many combinations of student and method do better, then worse, as teachers grow.

    Attributes
    ----------
    combinations : int
        All of them.
    peaked : int
        Those with an established rise followed by a fall.
    paired : int
        Those whose teachers can be compared seed by seed.
    both_ends_worse : int
        Of these, where both the smallest and the largest teacher are worse than the best.
    """

    combinations: int
    peaked: int
    paired: int
    both_ends_worse: int


@dataclass(frozen=True)
class ProbeCourse:
    """How a probe of the variance over wrong classes changes as teachers grow.

    Attributes
    ----------
    probe : str
        Its name.
    tau : float
        Temperature.
    family : str
        Of the teachers; empty where there is one family.
    shape : Shape or None
        None where it is not known.
    why_unknown : str
        Why the shape is not known.
    means : mapping from probe to mapping from teacher to Estimate
        Of this probe, p_y and the inherent variance: of the smallest, the highest and the largest teacher.
    """

    probe: str
    tau: float
    family: str
    shape: Shape | None
    why_unknown: str
    means: Mapping[str, Means]


@dataclass(frozen=True)
class ClassSpread:
    """How far the largest teacher tells the wrong classes of each class apart, against another teacher.

    Attributes
    ----------
    tau : float
        Temperature of the class affinities.
    family : str
        Of the teachers; empty where the table has one family.
    largest, against, highest : str
        The largest teacher; the one that it is compared with, which is that with the highest mean, or the smallest
        where the largest has the highest; the one with the highest mean.
    values : mapping from teacher to float
        Mean over classes of the standard deviation over the wrong classes, of the two that are compared.
    difference : Estimate
        Of the largest less the other, paired by class; `n` is the number of classes, which are taken as a sample.
    lower : int
        In how many classes the largest has less.
    most_lost, least_lost : tuple of str
        Classes with the lowest and the highest difference, in this order.
    """

    tau: float
    family: str
    largest: str
    against: str
    highest: str
    values: Mapping[str, float]
    difference: Estimate
    lower: int
    most_lost: tuple[str, ...]
    least_lost: tuple[str, ...]


@dataclass(frozen=True)
class RankAgreement:
    """How far teachers order the wrong classes alike: Kendall's tau-b, 1 for the same order, 0 for chance.

    Attributes
    ----------
    metric : str
        "affinity_tau_b", of the mean soft labels of each class; "wrong_tau_b", of each example; or "vocab_tau_b", of
        each position of a text.
    family : str
        Of the teachers; empty where there is one family.
    agreement : mapping from str to Estimate
        Of "neighbours" in size, and of "any" two different teachers.
    smallest, largest : str
        Teachers.
    of_ends : float
        Agreement of the smallest and the largest.
    floor : Estimate
        Agreement of runs of one teacher that differ in the seed; NaN where no teacher has two.
    below_floor : mapping from str to Estimate
        How far "neighbours" and "any" lie below the floor of the same teachers; empty without a floor.
    """

    metric: str
    family: str
    agreement: Means
    smallest: str
    largest: str
    of_ends: float
    floor: Estimate
    below_floor: Means


@dataclass(frozen=True)
class Restored:
    """What TS, ATS and ISATS make of one teacher's soft labels.

    Attributes
    ----------
    family : str
        Of the teacher; empty where there is one family.
    size : str
        "largest" or "smallest".
    teacher : str
        Its name.
    quantities : mapping from quantity to mapping from method to Estimate
        Derived variance, p_y and inherent variance.
    flipped : mapping from method to Estimate
        Share of examples whose arg max moves.
    at_bound : Estimate or None
        Share of examples whose search for ISATS' temperature ends on its bound.
    """

    family: str
    size: str
    teacher: str
    quantities: Mapping[str, Means]
    flipped: Means
    at_bound: Estimate | None


@dataclass(frozen=True)
class RestoredRatios:
    """The largest teacher's soft labels over those of the teacher with the highest derived variance under TS.

    Attributes
    ----------
    family : str
        Of the teachers; empty where there is one family.
    largest, highest : str
        The two teachers.
    ratios : mapping from quantity to mapping from method to Estimate
        The largest under the method over the highest under TS.
    """

    family: str
    largest: str
    highest: str
    ratios: Mapping[str, Means]


@dataclass(frozen=True)
class RestoredByRows:
    """Where the derived variance of one teacher comes from: the rows it gets right, and those it gets wrong.

    Attributes
    ----------
    family : str
        Of the teacher; empty where there is one family.
    size : str
        "largest" or "smallest".
    teacher : str
        Its name.
    ratios : mapping from "right" or "wrong" to mapping from method to Estimate
        The derived variance of these rows over that under TS; the interval is that of the method's mean.
    from_wrong : mapping from method to float
        Share of the derived variance of all rows that the wrong ones hold.
    """

    family: str
    size: str
    teacher: str
    ratios: Mapping[str, Means]
    from_wrong: Mapping[str, float]


@dataclass(frozen=True)
class Link:
    """A probe's Spearman correlation with the students' accuracy over teachers.

    Attributes
    ----------
    probe : str
        Its name.
    tau : float
        Temperature, NaN where the probe has none.
    correlation : Estimate
        With the number of teachers.
    p_adjusted, p_max : float
        p-values, corrected for the number of probes: by false discoveries, and for the chance of any.
    p_overall : float
        p_max, corrected for students and settings too; of the primary probe its own p-value, for these alone.
    primary : bool
        Whether it is the probe that was named beforehand.
    ceiling : float
        The highest correlation to expect of any probe; NaN where runs are single.
    """

    probe: str
    tau: float
    correlation: Estimate
    p_adjusted: float
    p_max: float = nan
    p_overall: float = nan
    primary: bool = False
    ceiling: float = nan

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 0.05 when corrected: for the settings if primary, else for the probes."""
        return (self.p_overall if self.primary else self.p_adjusted) < 0.05


@dataclass(frozen=True)
class ClosestLink:
    """The probe that tracks the accuracy of some students most closely.

    Attributes
    ----------
    subject : Subject
        Which students.
    probes : int
        Probes and temperatures to choose from.
    link : Link
        The strongest.
    companions : tuple of Link
        For a derived probe those of p_y and the inherent variance at its temperature.
    """

    subject: Subject
    probes: int
    link: Link
    companions: tuple[Link, ...]


@dataclass(frozen=True)
class VarianceLink:
    """The link of the derived variance, and what is left of it when another variable is held fixed.

    Attributes
    ----------
    subject : Subject
        Which students.
    link : Link
        The primary probe if it is a derived one; else the derived variance at the temperature nearest to that of
        interest.
    held_fixed : mapping from str to Estimate
        Partial correlation given "target_prob" (p_y), and given "accuracy" (the teacher's).
    companions : tuple of Link
        Those of p_y and the inherent variance at the same temperature.
    collinear : tuple of str
        What explains 90 % of the probe over these teachers: of "target_prob", "accuracy", "params".
    controls_alike : bool
        Whether p_y and the teacher's accuracy do so of each other.
    """

    subject: Subject
    link: Link
    held_fixed: Means
    companions: tuple[Link, ...]
    collinear: tuple[str, ...] = ()
    controls_alike: bool = False

    @property
    def lost_to(self) -> tuple[str, ...]:
        """Variables given which the link is no longer established."""
        return tuple(name for name, partial in self.held_fixed.items() if not partial.excludes_zero)

    @property
    def survives(self) -> bool:
        """Whether the link is significant when corrected, and its interval stays off zero with either held fixed."""
        return self.link.significant and not self.lost_to


@dataclass(frozen=True)
class LinkCounts:
    """In how many combinations of student and method probes track accuracy.

    Attributes
    ----------
    combinations : int
        All of them.
    significant : int
        Those where some probe's link is significant when corrected for the number of probes.
    overall : int
        Those where one is when corrected for students and settings as well.
    probe : str
        The derived probe that is looked at; empty where none was measured.
    tau : float
        Its temperature.
    with_variance : int
        Combinations where it was measured.
    linked : int
        Of these, where its link is significant when corrected: for the settings if it was named beforehand, else for
        the probes.
    surviving : int
        Of these, where it stays so with p_y, and with the teacher's accuracy, held fixed.
    """

    combinations: int
    significant: int
    overall: int
    probe: str
    tau: float
    with_variance: int
    linked: int
    surviving: int


@dataclass(frozen=True)
class LateGain:
    """What students gained on validation rows in the last fifth of their training.

    Attributes
    ----------
    subject : Subject
        Which students.
    gain : Estimate
        In points of accuracy, or in nats by which the NLL fell; with the number of runs.
    epochs : int
        Of the longest run.
    in_nats : bool
        Whether the gain is one of likelihood.
    """

    subject: Subject
    gain: Estimate
    epochs: int
    in_nats: bool = False


@dataclass(frozen=True)
class Gain:
    """What a method gains over plain cross-entropy.

    Attributes
    ----------
    subject : Subject
        Which students.
    gain : Estimate
        Difference of accuracies as a share, paired by seed; with the number of seeds.
    teachers : int
        Over which accuracies are averaged.
    """

    subject: Subject
    gain: Estimate
    teachers: int


@dataclass(frozen=True)
class IsatsGain:
    """What ISATS gains over plain soft labels at the same temperatures, with the largest third of the teachers.

    Attributes
    ----------
    subject : Subject
        Which students; the label is that of ISATS.
    plain_label : str
        The setting with plain soft labels.
    teachers : tuple of str
        The largest third, by size.
    gain : Estimate
        ISATS less plain soft labels, as a share, paired by seed; with the number of seeds.
    """

    subject: Subject
    plain_label: str
    teachers: tuple[str, ...]
    gain: Estimate


@dataclass(frozen=True)
class LogitCheck:
    """What a look at the logits showed.

    Attributes
    ----------
    sentence : str
        As `capmismatch.data.bank_checks.tell_checks` words it.
    """

    sentence: str


Facts = (
    Unknown
    | TeacherDifference
    | TeacherDifferences
    | StudentCourse
    | StudentCourses
    | ProbeCourse
    | ClassSpread
    | RankAgreement
    | Restored
    | RestoredRatios
    | ClosestLink
    | VarianceLink
    | LinkCounts
    | LateGain
    | Gain
    | IsatsGain
    | RestoredByRows
    | LogitCheck
)
"""What one statement of the report rests on."""
