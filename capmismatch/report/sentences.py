"""The facts of a report in English: all wording of `capmismatch.report.narrative` in one place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import numpy as np

from capmismatch._utils.text import count, format_percent, join, start
from capmismatch.report.facts import (
    ClassSpread,
    ClosestLink,
    Gain,
    IsatsGain,
    LateGain,
    Link,
    LinkCounts,
    LogitCheck,
    Means,
    ProbeCourse,
    RankAgreement,
    Restored,
    RestoredByRows,
    RestoredRatios,
    Shape,
    StudentCourse,
    StudentCourses,
    Subject,
    TeacherDifference,
    TeacherDifferences,
    Unknown,
    VarianceLink,
)
from capmismatch.selection.rules import NAMES

__all__ = ["UNKNOWN", "sentence"]

UNKNOWN = {
    "probes": "the probes table lacks {lacking}, and these are only reported together",
    "pairs": "the table has no wrong_tau_b between two teachers of one family",
    "restored": "the table lacks sizes of teachers, or {lacking} under TS",
    "runs": "no teacher has students of two seeds in any setting, so the noise of seeds is unknown",
    "links": "the links table has no Spearman correlation that can be reported",
    "plain": "the results have no CE baseline (plain cross-entropy)",
    "two classes": "with two classes there is one wrong class, and {lacking} are 0 by definition",
    "classes": "there is one teacher, or one wrong class, so that nothing can be compared",
    "order": "with two classes there is one wrong class, so there is no order to compare",
    "isats": "no student has results with both KD and ISATS at the same temperatures",
}
"""Reason that a question has no answer -> what is missing."""

NO_DIFFERENCE = "no significant difference"
NO_SHAPE = "whether there is a peak is unknown"
PAIRS = {"neighbours": "neighbours in size", "any": "any two different teachers"}
HELD_FIXED = {"target_prob": "p_y", "accuracy": "the teacher's accuracy", "params": "the log parameters"}
ORDERS = {
    "affinity_tau_b": (
        "over the wrong classes of each class's mean soft label (the relative class affinity that the paper's "
        "abstract calls consistent)"
    ),
    "wrong_tau_b": "over the wrong classes of each example",
    "vocab_tau_b": "over a sample of the vocabulary at each position",
}


@singledispatch
def sentence(facts: object) -> str:
    """Facts in words, the numbers with their intervals.

    Parameters
    ----------
    facts : dataclass
        One of those in `capmismatch.report.facts`.

    Returns
    -------
    str
        One sentence or more; what they are about comes first, up to a colon.
    """
    raise TypeError(f"there are no words for {type(facts).__name__}")


@sentence.register
def _(facts: Unknown) -> str:
    return f"Not known: {UNKNOWN[facts.reason].format(lacking=join(list(facts.lacking)))}."


@sentence.register
def _(facts: TeacherDifferences) -> str:
    if facts.combinations == 1:
        differ = "differ" if facts.shown else "do not differ"
        text = f"The teachers {differ} significantly, against the noise of {facts.error} (F test, p < 0.05)."
        return text if facts.shown else f"{text} An order of teachers or of probes may be chance."
    text = (
        f"In {facts.shown} of {count(facts.combinations, 'combination')} of student and method the teachers differ "
        f"significantly, against the noise of {facts.error} (F test, p < 0.05 each)."
    )
    if facts.shown < facts.combinations:
        text += " In the others they do not, and an order of teachers or of probes there may be chance."
    return text


@sentence.register
def _(facts: TeacherDifference) -> str:
    verdict = "the teachers differ" if facts.shown else "the teachers do not differ significantly"
    low, high = (f"{end:.2f}" for end in (facts.reliability.low, facts.reliability.high))
    text = (
        f"{_name(facts.subject)}: F({facts.free}, {facts.free_of_runs}) = {facts.f:.3g}, p = {facts.p_value:.2g}: "
        f"{verdict}. Reliability of their means: {facts.reliability.value:.2f} [{low}, {high}]"
    )
    if not facts.ceiling:
        return f"{text}; no probe can be expected to correlate with them."
    seeds = (
        "" if facts.reliability.value >= 0.8 else f"; {facts.seeds:g} {facts.error} would reach a reliability of 0.8"
    )
    return f"{text}; highest correlation to expect of a probe: {facts.ceiling:.2f}{seeds}."


@sentence.register
def _(facts: StudentCourses) -> str:
    course = "rises, then falls, with" if facts.peaked else "has no significant peak over"
    text = f"Student accuracy {course} teacher size (p < 0.05, uncorrected)."
    if facts.combinations > 1:
        text = (
            f"Student accuracy rises, then falls, with teacher size in {facts.peaked} of "
            f"{facts.combinations} combinations of student and method (p < 0.05, uncorrected)."
        )
    if facts.paired:
        text += (
            " Paired by seed, both the smallest and the largest teacher are worse than the best in "
            f"{facts.both_ends_worse} of {facts.paired}."
        )
    return text


@sentence.register
def _(facts: StudentCourse) -> str:
    name = _name(facts.subject)
    if facts.shape is None:
        return f"{name}: {NO_SHAPE}: {facts.why_unknown}."
    heights = join([f"{mean.percent()} with {teacher}" for teacher, mean in (facts.accuracy or {}).items()])
    text = f"{name}: accuracy {_shape(facts.shape)}. It is {heights}."
    if facts.gaps is not None:
        verdicts = [
            f"{gap.points()} with {end} ({gap.verdict('better', 'worse', NO_DIFFERENCE)})"
            for end, gap in facts.gaps.items()
        ]
        text += f" Paired by seed, against the best of the other teachers: {join(verdicts)}."
    return text + (f" {facts.best_end} is itself the best on average." if facts.best_end else "")


@sentence.register
def _(facts: ProbeCourse) -> str:
    title = start(f"{_family(facts.family)}{NAMES[facts.probe]} at tau={facts.tau:g}")
    shape = f" {_shape(facts.shape)}." if facts.shape else f": {NO_SHAPE}: {facts.why_unknown}."
    values = [
        f"{NAMES[probe]} is {join([f'{mean.text()} for {teacher}' for teacher, mean in means.items()])}"
        for probe, means in facts.means.items()
    ]
    return f"{title}{shape} {start('; '.join(values))}."


@sentence.register
def _(facts: RankAgreement) -> str:
    parts = [f"{facts.agreement[pairs].text()} between {which}" for pairs, which in PAIRS.items()]
    parts.append(f"{facts.of_ends:.3g} between the smallest and the largest ({facts.smallest} and {facts.largest})")
    text = (
        f"{start(_family(facts.family) + 'Kendall')}'s tau-b {ORDERS[facts.metric]}: mean "
        f"{join(parts)}; 1 is the same order, 0 is chance."
    )
    if not facts.below_floor:
        return f"{text} No teacher has two runs: there is no noise floor to compare with."
    text += f" Runs of one teacher that differ only in the seed, the noise floor, reach {facts.floor.text()}."
    for pairs, lost in facts.below_floor.items():
        verdict = lost.verdict(
            "size changes the order more than a new seed",
            "size changes the order less than a new seed",
            "no significant difference from a new seed",
        )
        text += f" Between {PAIRS[pairs]} it is {lost.text()} below the floor of the same teachers: {verdict}."
    return text


@sentence.register
def _(facts: ClassSpread) -> str:
    name = start(f"{_family(facts.family)}largest teacher, {facts.largest}")
    has = "highest mean" if facts.against == facts.highest else "smallest size"
    spread = join([f"{value:.3g} with {teacher}" for teacher, value in facts.values.items()])
    verdict = facts.difference.verdict("it tells them apart more", "it tells them apart less", NO_DIFFERENCE)
    text = (
        f"{name}, against {facts.against}, the one with the {has}: standard deviation over the wrong classes of each "
        f"class's mean soft label at tau={facts.tau:g}: {spread}; difference {facts.difference.text()}, paired by "
        f"class: {verdict}. It is lower in {facts.lower} of {facts.difference.n} classes."
    )
    if facts.least_lost:
        text += f" Lowest difference: {join(list(facts.most_lost))}; highest: {join(list(facts.least_lost))}."
    return text


@sentence.register
def _(facts: Restored) -> str:
    parts = [f"{NAMES[name]} is {_under(means)}" for name, means in facts.quantities.items()]
    if facts.flipped:
        moved = [f"{share.percent()} under {method}" for method, share in facts.flipped.items()]
        parts.append(f"the most likely class changes for {join(moved)} of examples")
    if facts.at_bound is not None:
        parts.append(f"the search of ISATS ends on its bound for {facts.at_bound.percent()} of examples")
    return f"{start(f'{_family(facts.family)}{facts.size} teacher, {facts.teacher}')}: {'; '.join(parts)}."


@sentence.register
def _(facts: RestoredRatios) -> str:
    parts = [f"{NAMES[name]} is {_under(ratios, ' times')}" for name, ratios in facts.ratios.items()]
    name = start(f"{_family(facts.family)}largest teacher, {facts.largest}")
    against = f"against the one with the highest derived variance under TS, {facts.highest}"
    return f"{name}, {against}: {'; '.join(parts)}."


@sentence.register
def _(facts: RestoredByRows) -> str:
    name = start(f"{_family(facts.family)}{facts.size} teacher, {facts.teacher}")
    parts = [
        f"on examples that it gets {kind}, the derived variance is {_under(ratios, ' times')} that of TS"
        for kind, ratios in facts.ratios.items()
    ]
    shares = join([f"{format_percent(share)} under {method}" for method, share in facts.from_wrong.items()])
    return f"{name}: {'; '.join(parts)}. Examples that it gets wrong hold {shares} of the total derived variance."


@sentence.register
def _(facts: LinkCounts) -> str:
    text = (
        f"In {facts.significant} of {facts.combinations} combinations of student and method some probe "
        "correlates significantly with student accuracy (p < 0.05, corrected for the number of probes), in "
        f"{facts.overall} with correction for students and settings as well."
    )
    if facts.combinations == 1:
        some = "some probe" if facts.significant else "no probe"
        text = (
            f"In the only combination of student and method {some} correlates significantly with student accuracy "
            "(p < 0.05, corrected for the number of probes)."
        )
    return text + (
        f" {start(NAMES[facts.probe])} at tau={facts.tau:g} correlates significantly in {facts.linked} of "
        f"{facts.with_variance}; given p_y, and given the teacher's accuracy, in {facts.surviving}."
        if facts.probe
        else ""
    )


@sentence.register
def _(facts: ClosestLink) -> str:
    link = facts.link
    text = (
        f"{_name(facts.subject)}: of {count(facts.probes, 'probe')} and temperatures, {_probe(link)} has the strongest "
        f"correlation with accuracy over {count(link.correlation.n, 'teacher')}: Spearman {_correlation(link)}, "
        f"{'' if link.p_adjusted < 0.05 else 'not '}significant after correction for all of them "
        f"(p = {link.p_adjusted:.2g}; max-T p = {link.p_max:.2g}).{_ceiling(link)}"
    )
    return text + (f" For comparison: {_companions(facts.companions)}." if facts.companions else "")


@sentence.register
def _(facts: VarianceLink) -> str:
    link = facts.link
    if not link.significant:
        verdict = "not significant"
    elif facts.survives:
        verdict = "significant given either"
    else:
        verdict = f"not significant given {join([HELD_FIXED[name] for name in facts.lost_to])}"
    corrected = "the settings (probe named beforehand)" if link.primary else "all probes"
    p = link.p_overall if link.primary else link.p_adjusted
    fixed = join([f"{partial.text('.2f')} given {HELD_FIXED[name]}" for name, partial in facts.held_fixed.items()])
    text = (
        f"{_name(facts.subject)}: {_probe(link)} correlates with accuracy by {_correlation(link)}, p = {p:.2g} "
        f"corrected for {corrected}; {fixed}: {verdict}.{_ceiling(link)}"
    )
    if facts.collinear:
        text += (
            f" Over these teachers {join([HELD_FIXED[name] for name in facts.collinear])} explain 90 % or more of its "
            "variance, so they may be the cause as well."
        )
    if facts.controls_alike:
        text += " The teacher's accuracy and p_y are collinear: the two partial correlations are one result, not two."
    return f"{text} For comparison: {_companions(facts.companions)}."


def _ceiling(link: Link) -> str:
    """How high a correlation can be expected, where seeds tell."""
    return "" if np.isnan(link.ceiling) else f" Highest correlation to expect with these seeds: {link.ceiling:.2f}."


@sentence.register
def _(facts: LateGain) -> str:
    return (
        f"{_name(facts.subject)}: {late_gain(facts)} on validation rows in the last fifth of "
        f"{count(facts.epochs, 'epoch')}, mean over {count(facts.gain.n, 'run')}."
    )


@sentence.register
def _(facts: Gain) -> str:
    verdict = facts.gain.verdict("a gain", "a loss", f"{NO_DIFFERENCE}: the interval covers zero")
    return (
        f"{_name(facts.subject)}: {facts.gain.points()} over plain cross-entropy, "
        f"mean over {count(facts.teachers, 'teacher')} and {count(facts.gain.n, 'seed')}: {verdict}."
    )


@sentence.register
def _(facts: IsatsGain) -> str:
    subject, gain = facts.subject, facts.gain
    verdict = gain.verdict("ISATS is better", "plain soft labels are better", NO_DIFFERENCE)
    return (
        f"{start(f'{_family(subject.family)}student')} {subject.student}, largest third of the teachers "
        f"({join(list(facts.teachers))}): {subject.label} minus {facts.plain_label} is {gain.points()}, mean over "
        f"{count(gain.n, 'seed')}: {verdict}."
    )


@sentence.register
def _(facts: LogitCheck) -> str:
    return facts.sentence


def late_gain(facts: LateGain) -> str:
    """A gain at the end of training with its interval and unit."""
    form, unit = ("+.3f", " nats") if facts.in_nats else ("+.2f", " points")
    return facts.gain.text(form, unit=unit)


def _name(subject: Subject) -> str:
    return start(f"{_family(subject.family)}student {subject.student}, {subject.label}")


def _family(family: str) -> str:
    return f"family {family}, " if family else ""


def _shape(shape: Shape) -> str:
    """Whether there is a rise and a fall, and where the peak lies."""
    course = "rises, then falls, with teacher size" if shape.shown else "has no significant peak over teacher size"
    peak = shape.likely[0] if len(shape.likely) == 1 else f"one of {join(list(shape.likely))}"
    whose = "single runs, so of these networks only; " if shape.single else ""
    lines = "" if np.isnan(shape.two_lines) else f"; by two lines p = {shape.two_lines:.2g}"
    return f"{course} ({whose}p = {shape.p_value:.2g}{lines}); the peak is {peak} (95 % confidence)"


def _under(means: Means, unit: str = "") -> str:
    return join([f"{mean.text()}{unit} under {method}" for method, mean in means.items()])


def _probe(link: Link) -> str:
    return NAMES.get(link.probe, link.probe) + ("" if np.isnan(link.tau) else f" at tau={link.tau:g}")


def _correlation(link: Link) -> str:
    return link.correlation.text(".2f")


def _companions(links: Sequence[Link]) -> str:
    return join([f"{NAMES[link.probe]} {_correlation(link)}" for link in links])
