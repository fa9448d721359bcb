"""The short answer to each question of the report: one sentence that counts and sums up its statements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import isnan
from typing import TypeVar

from capmismatch._utils.text import join, start
from capmismatch.report.facts import (
    ClassSpread,
    Facts,
    Gain,
    IsatsGain,
    LateGain,
    LinkCounts,
    ProbeCourse,
    RankAgreement,
    Restored,
    RestoredByRows,
    StudentCourse,
    StudentCourses,
    Subject,
    TeacherDifferences,
)
from capmismatch.report.sentences import late_gain
from capmismatch.selection.rules import NAMES
from capmismatch.stats.estimates import Estimate

__all__ = ["headline"]

Kind = TypeVar("Kind")


def headline(topic: str, facts: Sequence[Facts]) -> str:
    """The answer to a question in one sentence.

    Parameters
    ----------
    topic : str
        A key of `capmismatch.report.narrative.TOPICS`.
    facts : sequence of dataclass
        All that its statements rest on.

    Returns
    -------
    str
        A sentence with its numbers; empty where the statements themselves are all there is to say.

    Examples
    --------
    >>> headline("students", [StudentCourses(combinations=8, peaked=5, paired=8, both_ends_worse=4)])
    'In 5 of 8 combinations of student and method, accuracy rises, then falls, with teacher size.'
    """
    return HEADLINES[topic](facts) if topic in HEADLINES else ""


def _teachers(facts: Sequence[Facts]) -> str:
    sentences = []
    for counts in _of(facts, TeacherDifferences):
        if not counts.shown:
            sentences.append("The teachers do not differ significantly.")
        elif counts.shown == counts.combinations:
            sentences.append("Yes, in every combination of student and method.")
        else:
            sentences.append(
                f"In {counts.shown} of {counts.combinations} combinations of student and method they do; in the others "
                "they do not differ significantly."
            )
    return " ".join(sentences)


def _students(facts: Sequence[Facts]) -> str:
    sentences = []
    for counts in _of(facts, StudentCourses):
        if counts.peaked == 0:
            sentences.append("Student accuracy has no significant peak over teacher size.")
        elif counts.combinations == 1:
            sentences.append("Yes: accuracy rises, then falls, with teacher size.")
        else:
            sentences.append(
                f"In {counts.peaked} of {counts.combinations} combinations of student and method, accuracy rises, then "
                "falls, with teacher size."
            )
    courses = _of(facts, StudentCourse)
    if courses and all(course.shape is None for course in courses):
        return "Unknown: there are too few teachers, or their sizes are unknown."
    return " ".join(sentences)


def _variance(facts: Sequence[Facts]) -> str:
    by_family: dict[str, list[str]] = {}
    for course in _of(facts, ProbeCourse):
        name = NAMES[course.probe]
        if course.shape is None:
            text = f"for {name} this is unknown"
        elif course.shape.shown:
            peak = join(list(course.shape.likely)).replace(" and ", " or ")
            text = f"{name} does, with a peak at {peak}" + (" (single runs)" if course.shape.single else "")
        else:
            text = f"{name} has no significant peak"
        by_family.setdefault(course.family, []).append(text)
    return _sentences(
        (f"in family {family}, " if family else "") + "; ".join(parts) for family, parts in by_family.items()
    )


UNKNOWN = "unknown"
"""The verdict of an interval that cannot be computed."""


def _ranks(facts: Sequence[Facts]) -> str:
    """How close neighbours are; measures of one family with the same verdict share a sentence."""
    by_verdict: dict[tuple[str, str], list[str]] = {}
    for agreement in _of(facts, RankAgreement):
        unit = "per class" if agreement.metric == "affinity_tau_b" else "per example"
        found = f"{agreement.agreement['neighbours'].value:.2f}"
        verdict = ""
        if "neighbours" in agreement.below_floor:
            found += f" against {agreement.floor.value:.2f}"
            below = agreement.below_floor["neighbours"]
            verdict = UNKNOWN if isnan(below.low) else below.verdict("less than", "more than", "about as well as")
        by_verdict.setdefault((agreement.family, verdict), []).append(f"{found} {unit}")
    return _sentences(_neighbours(family, verdict, join(found)) for (family, verdict), found in by_verdict.items())


def _neighbours(family: str, verdict: str, found: str) -> str:
    where = f"in family {family}, " if family else ""
    if not verdict:
        return f"{where}neighbours in size have tau-b {found}; no teacher has two runs to compare it with"
    if verdict == UNKNOWN:
        return f"{where}neighbours in size and two runs of one teacher have tau-b {found}: too few runs for an interval"
    return f"{where}neighbours in size agree {verdict} two runs of one teacher: tau-b {found}"


def _classes(facts: Sequence[Facts]) -> str:
    sentences = []
    for spread in _of(facts, ClassSpread):
        classes, where = spread.difference.n, f"in family {spread.family}, " if spread.family else ""
        sentences.append(
            where
            + spread.difference.verdict(
                f"no: {spread.largest} tells them apart more than {spread.against}, in {classes - spread.lower} of "
                f"{classes} classes",
                f"yes: {spread.largest} tells them apart less than {spread.against}, in {spread.lower} of {classes} "
                "classes",
                f"{spread.largest} and {spread.against} do not differ significantly in that",
            )
        )
    return _sentences(sentences)


def _restored(facts: Sequence[Facts]) -> str:
    by_rows = {(rows.family, rows.teacher): rows for rows in _of(facts, RestoredByRows)}
    sentences = []
    for restored in _of(facts, Restored):
        variance, confidence = restored.quantities["derived_variance"], restored.quantities["target_prob"]
        if restored.size != "largest" or not {"TS", "ISATS"} <= set(variance) or not variance["TS"].value > 0:
            continue
        ratio = variance["ISATS"].value / variance["TS"].value
        text = (
            (f"in family {restored.family}, " if restored.family else "")
            + f"ISATS multiplies the derived variance of the largest teacher, {restored.teacher}, by {ratio:.2g}, and "
            f"its p_y goes from {confidence['TS'].value:.2f} to {confidence['ISATS'].value:.2f}"
        )
        rows = by_rows.get((restored.family, restored.teacher))
        if rows is not None and "ISATS" in rows.ratios.get("right", {}):
            text += f"; on examples that it gets right, by {rows.ratios['right']['ISATS'].value:.2g}"
        sentences.append(text)
    return _sentences(sentences)


def _links(facts: Sequence[Facts]) -> str:
    return _sentences(
        _some_probe(counts)
        + (
            f"; the {NAMES[counts.probe]} does in {counts.linked} of {counts.with_variance}, and in {counts.surviving} "
            "also with p_y held fixed"
            if counts.probe
            else ""
        )
        for counts in _of(facts, LinkCounts)
    )


def _some_probe(counts: LinkCounts) -> str:
    """Whether probes correlate with accuracy; without counting where there is one combination."""
    rest = "correlates significantly with accuracy (corrected for the number of probes)"
    if counts.combinations == 1:
        return f"{'some' if counts.significant else 'no'} probe {rest}"
    return f"in {counts.significant} of {counts.combinations} combinations of student and method some probe {rest}"


def _trained(facts: Sequence[Facts]) -> str:
    measured = _of(facts, LateGain)
    late = [fact for fact in measured if fact.gain.low > 0]
    if not measured:
        return ""
    if not late:
        return "In the last fifth of the epochs no students gained significantly on validation rows."
    most = max(late, key=lambda fact: fact.gain.value)
    return (
        f"In the last fifth of the epochs students still gained in {len(late)} of {len(measured)} combinations of "
        f"student and method, at most {late_gain(most)}: {_subject(most.subject)}."
    )


def _gain(facts: Sequence[Facts]) -> str:
    gains = _of(facts, Gain)
    if not gains:
        return ""
    text = _tally([gain.gain for gain in gains], "gain", "lose")
    best = max(gains, key=lambda gain: gain.gain.value)
    if best.gain.low > 0:
        text += f"; the largest gain is {best.gain.points()}: {_subject(best.subject)}"
    return _sentences([text])


def _large(facts: Sequence[Facts]) -> str:
    gains = _of(facts, IsatsGain)
    return _sentences([_tally([gain.gain for gain in gains], "do better with ISATS", "do worse")]) if gains else ""


def _tally(estimates: Sequence[Estimate], above: str, below: str) -> str:
    """How many combinations lie above zero, below it, and on neither side for sure."""
    signs = Counter(estimate.verdict("above", "below", "neither") for estimate in estimates)
    verbs = {"above": above, "below": below, "neither": "show no significant difference"}
    numbers = {verb: signs[sign] for sign, verb in verbs.items()}
    numbers["have too few runs"] = len(estimates) - sum(numbers.values())
    found = {verb: number for verb, number in numbers.items() if number}
    if len(estimates) == 1:
        return f"in 1 combination of student and method, students {next(iter(found))}"
    parts = [f"{number} {_singular(verb) if number == 1 else verb}" for verb, number in found.items()]
    return f"of {len(estimates)} combinations of student and method, {join(parts)}"


def _singular(words: str) -> str:
    """What one does, from what several do.

    Examples
    --------
    >>> _singular("do better with ISATS"), _singular("have too few runs"), _singular("lose")
    ('does better with ISATS', 'has too few runs', 'loses')
    """
    verb, space, rest = words.partition(" ")
    return {"do": "does", "have": "has"}.get(verb, f"{verb}s") + space + rest


def _subject(subject: Subject) -> str:
    family = f", family {subject.family}" if subject.family else ""
    return f"student {subject.student}, {subject.label}{family}"


def _of(facts: Sequence[Facts], kind: type[Kind]) -> list[Kind]:
    return [fact for fact in facts if isinstance(fact, kind)]


def _sentences(parts: Iterable[str]) -> str:
    return " ".join(f"{start(part)}." for part in parts)


HEADLINES: dict[str, Callable[[Sequence[Facts]], str]] = {
    "teachers": _teachers,
    "students": _students,
    "variance": _variance,
    "ranks": _ranks,
    "classes": _classes,
    "restored": _restored,
    "links": _links,
    "trained": _trained,
    "gain": _gain,
    "large": _large,
}
"""Topic -> what makes its sentence."""
