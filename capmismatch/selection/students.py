"""From rows of results to draws of what each candidate teacher's students reach, in every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from capmismatch._utils.setting_labels import must_be_a_label
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.selection.candidates import Candidates, Floats, measured
from capmismatch.stats.groups import Group, Noise
from capmismatch.stats.matching import UNIT, require_results, resolve_split, rows_of_split, with_teacher
from capmismatch.stats.posterior import joint_draws


class Splits(NamedTuple):
    """The split of the results to choose on, and the one to report on; equal where the results have one alone."""

    choosing: str
    reporting: str


@dataclass(frozen=True)
class SplitDraws:
    """What the candidates' students reach on one split.

    Attributes
    ----------
    draws : array of shape (n_boot, T)
        Draws of the true accuracies.
    means : array of shape (T,)
        Measured mean accuracies; NaN for teachers without students.
    noise : Noise
        How noisy these means are.
    """

    draws: Floats
    means: Floats
    noise: Noise

    @classmethod
    def of_settings(
        cls, groups: Mapping[str, Group], evidence: Sequence[Group], n_boot: int, rng: np.random.Generator
    ) -> dict[str, SplitDraws]:
        """Draws for every setting of one student, from one posterior over settings and teachers."""
        draws = joint_draws(list(groups.values()), n_boot, rng, evidence).means
        return {
            label: cls(draws[:, number], group.means, group.noise)
            for number, (label, group) in enumerate(groups.items())
        }


@dataclass(frozen=True)
class SettingDraws:
    """The settings of one student, each judged by what its best teacher reaches.

    That teacher is the one with the highest estimate, so that a setting is not better for having many that might be.
    What a seed does to all students alike is not in the draws: settings are compared within seeds.

    Attributes
    ----------
    labels : tuple of str
        The S settings.
    teachers : tuple of int
        Position of each setting's best teacher among the candidates.
    draws : array of shape (n_boot, S)
        Draws of that teacher's accuracy.
    """

    labels: tuple[str, ...]
    teachers: tuple[int, ...]
    draws: Floats

    @classmethod
    def of(cls, splits: Mapping[str, SplitDraws]) -> SettingDraws:
        """From what the students of every setting reach on the split to choose on."""
        scores = [np.where(np.isfinite(split.means), split.draws.mean(axis=0), -np.inf) for split in splits.values()]
        teachers = [int(score.argmax()) for score in scores]
        draws = [split.draws[:, teacher] for split, teacher in zip(splits.values(), teachers, strict=True)]
        return cls(tuple(splits), tuple(teachers), np.stack(draws, axis=1))

    @property
    def best(self) -> str:
        """The setting with the highest estimate."""
        return self.labels[int(self.draws.mean(axis=0).argmax())]

    def table(self) -> pd.DataFrame:
        """The settings, best first; empty where there is nothing to compare.

        Returns
        -------
        DataFrame
            One row per setting:

            - ``label`` : the setting
            - ``position`` : of its best teacher among the candidates
            - ``score`` : estimated accuracy of that teacher's students
            - ``behind, low, high`` : points behind the best setting, with their 95 % interval
            - ``p_best`` : chance of being the best setting
            - ``tie`` : whether that interval covers zero

        Examples
        --------
        >>> draws = np.array([[0.60, 0.61, 0.50], [0.62, 0.60, 0.51], [0.63, 0.62, 0.52]])
        >>> SettingDraws(("KD", "ATS", "DKD"), (0, 0, 1), draws).table()[["label", "behind", "p_best", "tie"]].round(2)
          label  behind  p_best    tie
        0    KD    0.00    0.67   True
        1   ATS    0.67    0.33   True
        2   DKD   10.67    0.00  False
        """
        score = self.draws.mean(axis=0)
        behind = 100 * (self.draws[:, [int(score.argmax())]] - self.draws)
        low, high = np.quantile(behind, [0.025, 0.975], axis=0)
        table = pd.DataFrame(
            {
                "label": self.labels,
                "position": self.teachers,
                "score": score,
                "behind": behind.mean(axis=0),
                "low": low,
                "high": high,
                "p_best": chances(self.draws),
                "tie": low <= 0,
            }
        )
        table = table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
        return table if len(table) > 1 else table[:0]


@dataclass(frozen=True)
class StudentResults:
    """What one student reaches with every candidate teacher, in its best setting.

    Attributes
    ----------
    student, label : str
        The student, and its best setting (or the one asked for).
    settings : SettingDraws
        How its settings compare.
    methods : mapping from label to (str, float)
        Method and temperature of each setting.
    choosing, reporting : SplitDraws
        On the split to choose on and on the one to report.
    cross_entropy : array of shape (n_boot,), or None
        Draws of its accuracy with plain cross-entropy, on the split to report.
    cross_entropy_mean : float
        That accuracy as measured; NaN where there is none.
    """

    student: str
    label: str
    settings: SettingDraws
    methods: Mapping[str, tuple[str, float]]
    choosing: SplitDraws
    reporting: SplitDraws
    cross_entropy: Floats | None
    cross_entropy_mean: float


@dataclass(frozen=True)
class SeedFacts:
    """What the seeds of the students say of the noise.

    Attributes
    ----------
    alike : bool
        Whether the seeds of some student agree to less than one example.
    single : bool
        Whether some student has single seeds, so that only the least size of its noise is known, from the examples.
    shared : float
        Accuracy points (one standard deviation) by which a seed moves all students alike; 0 where that is unknown.
    """

    alike: bool
    single: bool
    shared: float

    @classmethod
    def of(cls, students: Sequence[StudentResults]) -> SeedFacts:
        """The facts of several students, on the split to choose on."""
        noises = [student.choosing.noise for student in students]
        return cls(
            alike=any(noise.alike for noise in noises),
            single=any(bool(np.isinf(noise.free)) for noise in noises),
            shared=max((100 * noise.shared for noise in noises if np.isfinite(noise.shared)), default=0.0),
        )


def checked_results(results: pd.DataFrame) -> pd.DataFrame:
    """The results, after a check of their columns and accuracies.

    Raises
    ------
    InputError
        If a column is missing, an accuracy is not in [0, 1], or `n` is below 1.
    """
    columns = [*UNIT, "teacher_seed", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    require_results(results, columns)
    accuracy = results["accuracy"]
    wrong = results[accuracy.notna() & ~accuracy.between(0, 1)]
    if len(wrong):
        row = wrong.iloc[0]
        raise InputError(
            f"expected shares in [0, 1] as accuracies, got {row['accuracy']} for student {row['student']!r} and "
            f"teacher {row['teacher']!r} in the results table; divide percentages by 100"
        )
    wrong = results[results["n"].lt(1) | (results["n"] % 1).gt(0)] if "n" in results else results[:0]
    if len(wrong):
        row = wrong.iloc[0]
        raise InputError(
            f"expected a whole number of examples, 1 or more, as n, got {row['n']} for student {row['student']!r} and "
            f"teacher {row['teacher']!r} in the results table"
        )
    return results


def resolve_splits(results: pd.DataFrame, split: str, report_split: str) -> Splits:
    """The splits to choose and to report on; results that have only one of the two serve for both.

    Other trainers keep one accuracy per student. Choosing by it is better than not choosing, and `Choice.risks` says
    so.
    """
    asked = (split, report_split)
    return Splits(*(resolve_split(results["split"], name, among=asked) for name in asked))


def usable_rows(
    results: pd.DataFrame, profiles: pd.DataFrame, splits: Splits, student: str | None = None
) -> pd.DataFrame:
    """Rows of these teachers, in settings that can be both chosen and reported.

    Raises
    ------
    InputError
        If a split or student is not there, or no row is left.
    """
    for split in splits:
        rows_of_split(results, split, "the results table")
    rows = with_teacher(results)
    if student is not None:
        must_be_one_of(student, sorted(rows["student"].unique()), "student")
        rows = rows[rows["student"].eq(student)]
    rows = rows[pd.MultiIndex.from_frame(rows[UNIT]).isin(profiles.index) & rows["split"].isin(splits)]
    rows = rows[rows.groupby(["student", "label"])["split"].transform("nunique").eq(len(set(splits)))]
    if rows.empty:
        where = f"both {splits.choosing!r} and {splits.reporting!r}" if len(set(splits)) > 1 else repr(splits.choosing)
        raise InputError(f"no student and label has results with these teachers on {where}")
    return rows


def draw_students(
    results: pd.DataFrame,
    candidates: Candidates,
    evidence: tuple[Sequence[Group], Sequence[Group]],
    splits: Splits,
    *,
    student: str | None,
    label: str | None,
    n_boot: int,
    seed: int,
) -> list[StudentResults]:
    """Every student in its best setting (or the one asked for), with draws of the teachers' accuracies.

    Parameters
    ----------
    results : DataFrame
        The results table.
    candidates : Candidates
        The teachers to choose among.
    evidence : pair of sequences of Group
        Other families and students, on their split to choose on and on that to report.
    splits : Splits
        The setting is chosen on the first.
    student, label : str, optional
        Only this student; only this setting, where a student has it.
    n_boot, seed : int
        Number of draws; equal seeds draw equally.

    Returns
    -------
    list of StudentResults
        One per student, by name.

    Raises
    ------
    InputError
        As `usable_rows`, and if the label is not there or the noise of the seeds is unknown.
    """
    rows = usable_rows(results, candidates.profiles, splits, student)
    if label is not None:
        must_be_a_label(label, sorted(rows["label"].unique()))
        rows = rows[rows.groupby("student")["label"].transform(lambda labels: label in set(labels))]
    rng = np.random.default_rng(seed)
    students = []
    for name, of_student in rows.groupby("student", sort=True):
        groups = candidates.groups(of_student[of_student["split"].eq(splits.choosing)])
        asked = {key: group for key, group in groups.items() if label in (None, key)}
        by_setting = SplitDraws.of_settings(asked, evidence[0], n_boot, rng)
        settings = SettingDraws.of(by_setting)
        reported = of_student[of_student["split"].eq(splits.reporting)]
        baseline = _cross_entropy_rows(results, str(name), splits.reporting)
        beside = pd.concat([reported, baseline]) if len(baseline) else reported
        found = measured(beside)
        groups = candidates.groups_of(*found)
        reporting = SplitDraws.of_settings({key: groups[key] for key in asked}, evidence[1], n_boot, rng)
        students.append(
            StudentResults(
                student=str(name),
                label=settings.best,
                settings=settings,
                methods=methods_by_label(reported),
                choosing=by_setting[settings.best],
                reporting=reporting[settings.best],
                cross_entropy=_cross_entropy_draws(*found, n_boot, rng),
                cross_entropy_mean=float(baseline["accuracy"].mean()),
            )
        )
    return students


def methods_by_label(rows: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Method and temperature of each label."""
    first = rows.drop_duplicates("label")
    return {
        str(label): (str(method), float(tau))
        for label, method, tau in zip(first["label"], first["method"], first["tau"], strict=True)
    }


def average_settings(students: Sequence[SettingDraws]) -> SettingDraws | None:
    """Settings on the mean over several students; None where the best of some student was not tried with all."""
    shared = set(students[0].labels).intersection(*(student.labels for student in students))
    if not shared >= {student.best for student in students}:
        return None
    labels = tuple(label for label in students[0].labels if label in shared)
    draws = [student.draws[:, [student.labels.index(label) for label in labels]] for student in students]
    return SettingDraws(labels, (-1,) * len(labels), np.mean(draws, axis=0))


def chances(draws: Floats) -> Floats:
    """The share of draws (n_boot, S) in which each column is the highest."""
    return np.bincount(draws.argmax(axis=1), minlength=draws.shape[1]) / len(draws)


def draw_summary(draws: Floats, tolerance: float) -> dict[str, Floats]:
    """What draws of accuracies say of each teacher.

    Parameters
    ----------
    draws : array of shape (n_boot, T)
        Draws of the teachers' accuracies, shares.
    tolerance : float
        Accuracy points, >= 0.

    Returns
    -------
    dict of arrays of shape (T,)
        ``score`` (mean), ``low, high`` (95 % interval), ``p_best`` (chance of being the best), ``regret`` (points
        expected to be lost by taking this teacher), ``within`` (chance of losing no more than the tolerance) and
        ``tie`` (whether the 95 % interval of the difference from the teacher with the highest score covers zero).
    """
    score = draws.mean(axis=0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    best = int(np.argmax(score))
    losses = 100 * (draws.max(axis=1, keepdims=True) - draws)
    return {
        "score": score,
        "low": low,
        "high": high,
        "p_best": chances(draws),
        "regret": losses.mean(axis=0),
        "within": (losses <= tolerance + 1e-9).mean(axis=0),
        "tie": np.quantile(draws[:, [best]] - draws, 0.025, axis=0) <= 0,
    }


def _cross_entropy_rows(results: pd.DataFrame, student: str, split: str) -> pd.DataFrame:
    """A student's rows of plain cross-entropy on a split: those without a teacher."""
    rows = results[results["teacher"].fillna("").eq("") & results["student"].eq(student)]
    return rows[rows["split"].eq(split) & rows["accuracy"].notna()].assign(family="", teacher="")


def _cross_entropy_draws(
    units: pd.MultiIndex, means: Floats, noise: Noise, n_boot: int, rng: np.random.Generator
) -> Floats | None:
    """Draws of plain cross-entropy's mean; measured with distilled students that have the same seeds (`measured`)."""
    position = np.flatnonzero(units.get_level_values("teacher") == "")
    if not len(position):
        return None
    spread = rng.standard_t(noise.free, n_boot) if np.isfinite(noise.free) else rng.standard_normal(n_boot)
    return means[position[0]] + np.sqrt(noise.variances[position[0]]) * spread
