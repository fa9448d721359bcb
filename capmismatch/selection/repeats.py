"""Results that are given twice, under whatever names: one training of a student is one piece of evidence."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from capmismatch._utils.text import count
from capmismatch.stats.copies import DIGITS, LEAST_ROWS, LEAST_VALUES
from capmismatch.stats.matching import UNIT, with_teacher

Pair = tuple[pd.DataFrame, pd.DataFrame]

TRAINING = ("teacher_seed", "seed", "split")
"""Columns that, with the teacher, tell one accuracy of a setting from another."""

ALIKE_SHARE = 0.9
"""Share of the accuracies that two groups of results have in common from which on one is a copy of the other."""

MEASURED = ("nll", "brier", "ece", "fidelity", "kl", "kl_tau4")
"""What else tells trainings apart whose accuracies are equal; of training rows with "train_" in front."""

Key = tuple[Hashable, ...]


@dataclass(frozen=True)
class _Accuracies:
    """The accuracies of one student's setting with one family: by teacher, then by training run, seed and split."""

    name: str
    family: str
    by_teacher: Mapping[str, Mapping[Key, float]]
    method: str
    more: Mapping[str, Mapping[str, Mapping[Key, float]]]  # what else was measured: by column, teacher and training
    table: int  # 0 for the study's own results, else the number of the evidence

    @cached_property
    def items(self) -> frozenset[tuple[str, Key, float]]:
        """All accuracies with their teachers: every group is compared with all others, and sets do that quickly."""
        return frozenset((one, key, value) for one, values in self.by_teacher.items() for key, value in values.items())

    @cached_property
    def values_of(self) -> dict[str, frozenset[tuple[Key, float]]]:
        """The accuracies of each teacher as a set."""
        return {one: frozenset(values.items()) for one, values in self.by_teacher.items()}

    @cached_property
    def teacher_with(self) -> dict[frozenset[tuple[Key, float]], str]:
        """The teacher that has these accuracies, if they are more than one."""
        return {values: one for one, values in self.values_of.items() if len(values) > 1}


def without_repeats(results: pd.DataFrame | None, pairs: Sequence[Pair]) -> tuple[pd.DataFrame | None, list[Pair], str]:
    """Results and evidence, each student's training once.

    A setting is left out where its accuracies are those of an earlier one: results that repeat another label or student
    of their family, and evidence that repeats the results or earlier evidence, also under other names of family,
    student, label or teachers. Trainings are told by their accuracies with the same numbers of run, seed and split,
    and by what else both measured of them (`MEASURED`).

    Parameters
    ----------
    results : DataFrame or None
        The study's own results.
    pairs : sequence of (probes, results)
        The evidence. Tables that lack a column are passed on as they are.

    Returns
    -------
    results : DataFrame or None
        Without settings that repeat another one.
    pairs : list of (probes, results)
        Without repeated rows; pairs of which nothing is left are left out.
    told : str
        What was left out, in words; "" where that is nothing.

    Examples
    --------
    >>> rows = [("f", t, 0, "s", "KD", seed, "val", 0.7 + 0.01 * i + 0.001 * seed)
    ...         for i, t in enumerate("abc") for seed in (0, 1)]
    >>> table = pd.DataFrame(rows, columns=[*UNIT, "teacher_seed", "student", "label", "seed", "split", "accuracy"])
    >>> _, pairs, told = without_repeats(table, [(table, table.assign(family="g"))])
    >>> len(pairs), told
    (0, "evidence number 1, g, student 's' by 'KD', repeats f, student 's' by 'KD' (6 rows)")
    """
    told: list[str] = []
    seen: list[_Accuracies] = []
    if results is not None:
        results = _kept(results, seen, 0, told)
    kept = []
    for number, (probes, theirs) in enumerate(pairs, 1):
        rows = _kept(theirs, seen, number, told)
        if len(rows) == len(theirs) or len(with_teacher(rows)):
            kept.append((probes, rows))
    return results, kept, "; ".join(told)


def _kept(results: pd.DataFrame, seen: list[_Accuracies], table: int, told: list[str]) -> pd.DataFrame:
    """The rows that repeat nothing seen; what is new is seen from now on, and what is left out is told."""
    if not {*UNIT, *TRAINING, "student", "label", "accuracy"} <= set(results.columns):
        return results
    where = f"evidence number {table}, " if table else ""
    numbered = results.reset_index(drop=True)
    repeated = pd.Series(False, index=numbered.index)
    for group, rows in _groups(numbered, table):
        earlier, teachers = _copied(group, [one for one in seen if _may_be_copied(group, one)])
        if teachers:
            copies = rows.index[rows["teacher"].isin(teachers)]
            repeated[copies] = True
            told.append(f"{where}{group.name}, repeats {earlier} ({count(len(copies), 'row')})")
        else:
            seen.append(group)
    return results[~repeated.to_numpy()] if repeated.any() else results


def _may_be_copied(group: _Accuracies, earlier: _Accuracies) -> bool:
    """Whether a group may be a copy: within one table no method is whose students were trained by capmismatch.

    These, known by what is measured against the teacher, have runs of their own, though methods may coincide: GRAFT
    with the wrong classes of the teacher itself is KD, and so is MatchKD with the teacher that it matches. The families
    of a study's own results are candidates beside each other, and may be equal.
    """
    if group.table != earlier.table:
        return True
    own_runs = "kl" in group.more and "kl" in earlier.more and group.method != earlier.method
    return not own_runs and (group.table > 0 or earlier.family == group.family)


def _copied(group: _Accuracies, seen: Sequence[_Accuracies]) -> tuple[str, set[str]]:
    """The earlier group that this one repeats, and which of its teachers; ("", empty) where it repeats none."""
    for earlier in seen:
        teachers = _same_names(group, earlier) or _same_values(group, earlier)
        if teachers:
            return earlier.name, teachers
    return "", set()


def _groups(results: pd.DataFrame, table: int) -> Iterator[tuple[_Accuracies, pd.DataFrame]]:
    rows = with_teacher(results)
    rows = rows.assign(family=rows["family"].fillna(""))
    wanted = {"train_accuracy", *MEASURED, *(f"train_{name}" for name in MEASURED)}
    measured = [name for name in rows if name in wanted and pd.api.types.is_numeric_dtype(rows[name])]
    for (family, student, label), group in rows.groupby(["family", "student", "label"], sort=False):
        by_teacher = _by_teacher(group, "accuracy")
        more = {column: _by_teacher(group, column) for column in measured if group[column].notna().any()}
        method = str(group["method"].iloc[0]) if "method" in group else ""
        name = ", ".join(filter(None, [str(family), f"student {student!r} by {label!r}"]))
        yield _Accuracies(name, str(family), by_teacher, method, more, table), group


def _by_teacher(group: pd.DataFrame, column: str) -> dict[str, dict[Key, float]]:
    """The values of a column by teacher, then by training and split; those that are missing are left out."""
    rows = group[group[column].notna()]
    values = rows[column].astype(float).round(DIGITS).tolist()
    by_teacher: dict[str, dict[Key, float]] = {}
    for teacher, key, value in zip(
        rows["teacher"], zip(*(rows[name] for name in TRAINING), strict=True), values, strict=True
    ):
        by_teacher.setdefault(str(teacher), {})[key] = value
    return by_teacher


def _differ(group: _Accuracies, teacher: str, earlier: _Accuracies, theirs: str) -> bool:
    """Whether something else that both measured differs, in most of the trainings of a teacher: no copy then."""
    for column in set(group.more) & set(earlier.more):
        own, other = group.more[column].get(teacher, {}), earlier.more[column].get(theirs, {})
        pairs = np.array([(value, other[key]) for key, value in own.items() if key in other])
        if len(pairs) and np.isclose(pairs[:, 0], pairs[:, 1], rtol=1e-6, atol=1e-8).sum() < ALIKE_SHARE * len(pairs):
            return True
    return False


def _same_names(group: _Accuracies, earlier: _Accuracies) -> set[str]:
    """The teachers of the group that are in both, if what both have in common agrees."""
    if len(group.items & earlier.items) < LEAST_ROWS:  # of nearly all groups; what else was measured changes nothing
        return set()
    shared = [
        teacher
        for teacher in group.by_teacher
        if teacher in earlier.by_teacher and not _differ(group, teacher, earlier, teacher)
    ]
    pairs = [
        (value, theirs[key])
        for teacher in shared
        for theirs in [earlier.by_teacher[teacher]]
        for key, value in group.by_teacher[teacher].items()
        if key in theirs
    ]
    equal = [one for one, other in pairs if one == other]
    if len(equal) < LEAST_ROWS or len(set(equal)) < LEAST_VALUES or len(equal) < ALIKE_SHARE * len(pairs):
        return set()
    return set(shared)


def _same_values(group: _Accuracies, earlier: _Accuracies) -> set[str]:
    """The teachers of the group all of whose accuracies are those of some teacher of the earlier one, renamed."""
    known = earlier.teacher_with
    equal = {
        teacher
        for teacher, values in group.values_of.items()
        if (theirs := known.get(values)) is not None and not _differ(group, teacher, earlier, theirs)
    }
    values = [value for teacher in equal for value in group.by_teacher[teacher].values()]
    enough = len(values) >= LEAST_ROWS and len(set(values)) >= LEAST_VALUES
    return equal if enough and len(equal) >= ALIKE_SHARE * len(group.by_teacher) else set()
