"""What other families and students teach: how far probes can be trusted, and what each rule cost there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from capmismatch.errors import InputError
from capmismatch.selection.candidates import Candidates, kinships, long_and_wide, of_family, predictors
from capmismatch.selection.links import shared_teachers
from capmismatch.selection.rules import rule_choices
from capmismatch.selection.settings import Settings, Split, on_average
from capmismatch.selection.students import named, on_both_splits, usable, with_columns, with_teacher
from capmismatch.stats.matching import with_families
from capmismatch.stats.posterior import Group, posterior_draws

FEW = 3
"""A family with fewer teachers taught than this teaches nothing of its probes."""


@dataclass(frozen=True)
class Lesson:
    """One family that taught one student, in the setting that was best for it.

    Attributes
    ----------
    family, student, label : whose, and the setting
    settings, named : how all its settings did on the split to choose on, and method and temperature of each
    candidates : the family's teachers
    choosing, reporting : their students, on the split to choose on and on that to report
    """

    family: str
    student: str
    label: str
    settings: Settings
    named: Mapping[str, tuple[str, float]]
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
    n_boot: int = 2000,
    seed: int = 0,
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
    n_boot, seed : int
        Of the draws that settings are compared by.

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
    lessons, rng = [], np.random.default_rng(seed)
    for (frame, rows), kin in zip(known, labels[1:], strict=True):
        own = Candidates(frame, names, tuple(kin))
        choosing, reporting = (own.groups(rows[rows["split"].eq(name)]) for name in (split, report_split))
        wanted = [label] if label is not None and label in choosing else list(choosing)
        settings = Settings.of({name: Split.of(choosing[name], (), n_boot, rng) for name in wanted})
        best, first = settings.best, rows.iloc[0]
        whose = (str(first["family"]), str(first["student"]))
        lessons.append(Lesson(*whose, best, settings, named(rows), own, choosing[best], reporting[best]))
    return candidates, lessons


def as_pairs(evidence: Iterable[object]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The evidence as a list of pairs of tables.

    Raises
    ------
    InputError
        If it is anything else, such as a single pair.
    """
    pairs = []
    for number, pair in enumerate(evidence):
        match pair:
            case (pd.DataFrame() as probes, pd.DataFrame() as results):
                pairs.append((probes, results))
            case _:
                raise InputError(
                    "expected evidence to be a list of pairs of tables, such as [(probes, results)], got "
                    f"{type(pair).__name__} as its item {number + 1}"
                )
    return pairs


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


def best_setting(lessons: Sequence[Lesson]) -> tuple[str, pd.DataFrame]:
    """The setting that did best on average, and how the others compare with it (see `Settings.table`).

    Where the lessons do not have the same settings it is the one that was best most often, and the table is empty.
    """
    together = on_average([lesson.settings for lesson in lessons])
    if together is not None:
        table = together.table().drop(columns="place")
        methods, taus = zip(*lessons[0].named.values(), strict=True)
        ways = pd.DataFrame({"label": list(lessons[0].named), "method": methods, "tau": taus})
        return together.best, ways.merge(table, on="label", how="right")
    counts = pd.Series([lesson.label for lesson in lessons]).value_counts(sort=False)
    return str(counts.idxmax()), pd.DataFrame()


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
