"""The reasons and risks of a choice by what other students taught, in words with numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from capmismatch._utils.text import count, join
from capmismatch.selection.evidence import Lesson
from capmismatch.selection.reasons import ALIKE, chance, lead, named, percent
from capmismatch.selection.rules import RELEVANT

FEW_FAMILIES = 3
"""With fewer families elsewhere than this, leaving one out tells little."""


def predicted(table: pd.DataFrame, chosen: pd.Series) -> str:
    """What the evidence predicts of the chosen teacher."""
    if len(table) < 2:
        return f"{named(chosen)} is the only teacher that there is to choose."
    return (
        f"{named(chosen)}: the accuracy of its students is predicted to differ from the mean over these teachers by "
        f"{chosen['score']:+.2f} points [{chosen['low']:+.2f}, {chosen['high']:+.2f}]{chance(table, chosen)}."
    )


def trusted(trust: pd.DataFrame, lessons: Sequence[Lesson]) -> list[str]:
    """How far each probe is trusted."""
    if trust.empty:
        return []
    worth = [f"{r['probe']} {r['points']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for _, r in trust.iterrows()]
    where = f"Learnt from the students of {_lessons(lessons)}, in points for a standard deviation more of a probe"
    sentence = f"{where}: {join(worth)}."
    if not ((trust["low"] > 0) | (trust["high"] < 0)).any():
        sentence += " All these intervals cover zero: no probe is shown to matter."
    return [sentence]


def cost_elsewhere(there: pd.Series, new_family: bool) -> list[str]:
    """What choosing in this way, and the rules that people go by, lost in the evidence."""
    known = [rule for rule in RELEVANT if rule in there]
    costs = [f"'{rule}' {there[rule]:.2f}" for rule in known]
    if "evidence" not in there:
        return [f"There the rules lost on average (points): {join(costs)}."] if costs else []
    unit = "family" if new_family else "kind of student"
    others = f", against {join(costs)}" if costs else ""
    return [f"Chosen so for each {unit} there from the others, teachers lost {there['evidence']:.2f} points{others}."]


def setting_elsewhere(label: str, compared: pd.DataFrame, lessons: Sequence[Lesson]) -> list[str]:
    """The setting that did best in the evidence, and how sure that is."""
    on_average = " on average" if len(lessons) > 1 and len(compared) else ""
    often = sum(lesson.label == label for lesson in lessons)
    families, kinds = len({lesson.kin for lesson in lessons}), len({lesson.student for lesson in lessons})
    unit = "families" if kinds == 1 else "kinds of student" if families == 1 else "kinds of student in their families"
    where = f" (for {often} of {len(lessons)} {unit})" if len(lessons) > 1 else ""
    return [f"Setting: '{label}' did best there{on_average}{where}{lead(compared)}."]


def from_elsewhere(lessons: Sequence[Lesson]) -> list[str]:
    """That an estimate leans on evidence as well."""
    return [f"Estimates lean on other students too: those of {_lessons(lessons)}."] if lessons else []


def evidence_risks(table: pd.DataFrame, chosen: pd.Series, lessons: Sequence[Lesson], new_family: bool) -> list[str]:
    """What could make a choice by evidence wrong."""
    risks = ["No student of this kind has been taught by these teachers yet: all is predicted."]
    families = len({lesson.kin for lesson in lessons})
    if new_family:
        risks[0] = "No student of this family has been taught yet: all is predicted from its probes."
        if families < FEW_FAMILIES:
            risks.append(f"With {_families(families)} to learn from, how far probes carry over is hardly known.")
    if any(lesson.choosing.noise.alike for lesson in lessons):
        risks.append(ALIKE)
    risks.append("Points are on the scale of the evidence's students; other data may spread them more or less.")
    if named(chosen) == named(table.iloc[0]) and chosen["p_best"] < 0.5:
        another = percent(1 - chosen["p_best"])
        risks.append(f"Another teacher is the best with a chance of {another}; a pilot (--pilot) would tell.")
    return risks


def _families(number: int) -> str:
    """``1 family``, ``2 families``."""
    return f"{number} {'family' if number == 1 else 'families'}"


def _lessons(lessons: Sequence[Lesson]) -> str:
    families = _families(len({lesson.kin for lesson in lessons}))
    kinds = len({lesson.student for lesson in lessons})
    teachers = count(len({name for lesson in lessons for name in lesson.candidates.teachers}), "teacher")
    return f"{teachers} in {families}" + (f" ({kinds} kinds of student)" if kinds > 1 else "")
