"""What other families and students teach: how far probes can be trusted, and what each rule cost there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from capmismatch._candidates import Candidates, kinships, long_and_wide, of_family, predictors
from capmismatch._matching import with_families
from capmismatch._posterior import Group, posterior_draws
from capmismatch._rules import rule_choices
from capmismatch._taught import on_both_splits, usable, with_columns, with_teacher
from capmismatch.correlating import shared_teachers
from capmismatch.errors import InputError

FEW = 3
"""A family with fewer teachers taught than this teaches nothing of its probes."""


@dataclass(frozen=True)
class Lesson:
    """One family that taught one student, in the setting that was best for it.

    Attributes
    ----------
    family, student, label, method, tau : whose, and the setting
    candidates : the family's teachers
    choosing, reporting : their students, on the split to choose on and on that to report
    """

    family: str
    student: str
    label: str
    method: str
    tau: float
    candidates: Candidates
    choosing: Group
    reporting: Group

    @property
    def kin(self) -> object:
        """What tells families apart across tables."""
        return self.candidates.families[0]


def learn(
    wide: pd.DataFrame,
    evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]],
    *,
    split: str,
    report_split: str,
    label: str | None,
) -> tuple[Candidates, list[Lesson]]:
    """The teachers to choose among, and a lesson of each family and student in the evidence.

    Parameters
    ----------
    wide : DataFrame
        The teachers to choose among, by probe.
    evidence : pairs of a probes and a results table
    split, report_split : str
        Of the evidence, too.
    label : str, optional
        Take this setting where a student has it; else, and by default, that whose best teacher did best on `split`.

    Raises
    ------
    InputError
        If a pair lacks columns or splits, has no teacher in common, or no family with three teachers that taught.
    """
    known = []
    for number, (probes, results) in enumerate(evidence):
        try:
            known += _families(probes, results, split, report_split)
        except InputError as error:
            raise InputError(f"evidence number {number + 1}: {error}") from error
    names = predictors(wide)
    labels = kinships([wide, *(frame for frame, _ in known)])
    candidates = Candidates(wide, names, tuple(labels[0]))
    lessons = []
    for (frame, rows), kin in zip(known, labels[1:], strict=True):
        own = Candidates(frame, names, tuple(kin))
        best = _best_label(rows[rows["split"].eq(split)])
        chosen = label if label is not None and label in set(rows["label"]) else best
        groups = [own.groups(rows[rows["split"].eq(name)])[chosen] for name in (split, report_split)]
        first = rows[rows["label"].eq(chosen)].iloc[0]
        setting = (str(first["student"]), str(first["label"]), str(first["method"]), float(first["tau"]))
        lessons.append(Lesson(str(first["family"]), *setting, own, *groups))
    return candidates, lessons


def elsewhere(lessons: Sequence[Lesson], new_family: bool, n_boot: int, rng: np.random.Generator) -> pd.Series:
    """Accuracy points that each rule lost on average in the lessons, on the split to report; best first.

    The rule ``"evidence"`` chooses without the lesson's own students: for a new family from the lessons of other
    families, else from all other lessons. It is left out where there are none.
    """
    lost: list[dict[str, float]] = []
    for lesson in lessons:
        draws = posterior_draws(lesson.reporting, n_boot, rng).means
        loss = 100 * (draws.max(axis=1, keepdims=True) - draws).mean(axis=0)
        index = lesson.candidates.wide.index
        rules, _ = rule_choices(lesson.candidates.wide)
        places = index.get_indexer(pd.MultiIndex.from_frame(rules[["family", "teacher"]]))
        own = dict(zip(rules["rule"], loss[places], strict=True))
        others = [other for other in lessons if (other.kin != lesson.kin if new_family else other is not lesson)]
        if others:
            group, known = lesson.candidates.unmeasured(), [other.choosing for other in others]
            guessed = posterior_draws(group, n_boot, rng, known).means
            own["evidence"] = float(loss[int(guessed.mean(axis=0).argmax())])
        lost.append(own)
    return pd.DataFrame(lost).mean().sort_values(kind="stable")


def best_setting(lessons: Sequence[Lesson]) -> tuple[Lesson, int]:
    """A lesson with the setting that was best most often, and how often it was."""
    labels = pd.Series([lesson.label for lesson in lessons])
    counts = labels.value_counts(sort=False)
    best = str(counts.idxmax())
    return next(lesson for lesson in lessons if lesson.label == best), int(counts.max())


def _families(
    probes: pd.DataFrame, results: pd.DataFrame, split: str, report_split: str
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Each family and student of a pair of tables: its teachers by probe, and its rows in settings that teach."""
    wide = long_and_wide(probes, split)[1]
    results, _ = on_both_splits(with_columns(results), split, report_split)
    results = with_families(results, probes)
    shared_teachers(probes, with_teacher(results))
    rows = usable(results, wide, split, report_split)
    found = []
    for _, own in rows.groupby(["family", "student"], sort=True):
        enough = own.groupby("label")["teacher"].transform("nunique").ge(FEW)
        if enough.any():
            found.append((of_family(wide, str(own["family"].iloc[0])), own[enough]))
    if not found:
        raise InputError(f"no family has {FEW} teachers with students in one setting: there is nothing to learn from")
    return found


def _best_label(rows: pd.DataFrame) -> str:
    """The setting whose best teacher did best."""
    means = rows.groupby(["label", "teacher"])["accuracy"].mean()
    return str(means.groupby("label").max().idxmax())
