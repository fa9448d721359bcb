"""From rows of results to draws of what each candidate teacher's students reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.selection.candidates import UNIT, Candidates, Floats, measured
from capmismatch.selection.links import rows_of
from capmismatch.selection.settings import Settings, Split
from capmismatch.stats.posterior import Group


@dataclass(frozen=True)
class Taught:
    """One student in its best setting: the splits to choose on and to report, draws (n_boot,) of plain cross-entropy.

    `named` are the method and temperature of each of its `settings`.
    """

    student: str
    label: str
    settings: Settings
    named: Mapping[str, tuple[str, float]]
    choosing: Split
    reporting: Split
    plain: Floats | None
    plain_mean: float


def with_columns(results: pd.DataFrame) -> pd.DataFrame:
    """The results, after a check that they have the columns to choose by, and shares as accuracies.

    Raises
    ------
    InputError
        If a column is missing, or an accuracy is no share.
    """
    wanted = [*UNIT, "teacher_seed", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    require_columns(results, wanted, "the results table")
    accuracy = results["accuracy"]
    wrong = results[accuracy.notna() & ~accuracy.between(0, 1)]
    if len(wrong):
        row = wrong.iloc[0]
        raise InputError(
            f"expected shares in [0, 1] as accuracies, got {row['accuracy']} for student {row['student']!r} and "
            f"teacher {row['teacher']!r} in the results table; divide percentages by 100"
        )
    return results


def on_both_splits(results: pd.DataFrame, split: str, report_split: str) -> tuple[pd.DataFrame, str]:
    """Results of one of the splits alone count for both, and that split is named; else as they are, and "".

    Other trainers keep one accuracy a student. To choose by it is better than not to choose, and is told.
    """
    there = {split, report_split} & set(results["split"])
    if len(there) != 1 or split == report_split:
        return results, ""
    (only,) = there
    missing = report_split if only == split else split
    return pd.concat([results, results[results["split"].eq(only)].assign(split=missing)], ignore_index=True), only


def with_teacher(results: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a teacher and an accuracy."""
    return results[results["teacher"].fillna("").ne("") & results["accuracy"].notna()]


def usable(
    results: pd.DataFrame, wide: pd.DataFrame, split: str, report_split: str, student: str | None = None
) -> pd.DataFrame:
    """Rows of these teachers, in settings that can be both chosen and reported.

    Raises
    ------
    InputError
        If a split or student is not there, or nothing is left.
    """
    for name in (split, report_split):
        rows_of(results, name, "the results table")
    rows = with_teacher(results)
    if student is not None:
        must_be_one_of(student, sorted(rows["student"].unique()), "student")
        rows = rows[rows["student"].eq(student)]
    rows = rows[pd.MultiIndex.from_frame(rows[UNIT]).isin(wide.index) & rows["split"].isin([split, report_split])]
    rows = rows[rows.groupby(["student", "label"])["split"].transform("nunique").eq(len({split, report_split}))]
    if rows.empty:
        raise InputError(f"no student and label has results with these teachers on both {split!r} and {report_split!r}")
    return rows


def draw_students(
    results: pd.DataFrame,
    candidates: Candidates,
    evidence: tuple[Sequence[Group], Sequence[Group]],
    *,
    student: str | None,
    label: str | None,
    split: str,
    report_split: str,
    n_boot: int,
    seed: int,
) -> list[Taught]:
    """Every student in its best setting (or the one given), with draws of the teachers' accuracies.

    Parameters
    ----------
    results : DataFrame
    candidates : Candidates
    evidence : pair of sequences of Group
        What other families and students teach, on the split to choose on and on that to report.
    student, label : str, optional
    split, report_split : str
        The setting is chosen on the first.
    n_boot, seed : int

    Returns
    -------
    list of Taught

    Raises
    ------
    InputError
        As `usable`, and if the label is not there or the noise of the seeds is unknown.
    """
    rows = usable(results, candidates.wide, split, report_split, student)
    if label is not None:
        must_be_one_of(label, sorted(rows["label"].unique()), "label")
        rows = rows[rows.groupby("student")["label"].transform(lambda labels: label in set(labels))]
    rng = np.random.default_rng(seed)
    taught = []
    for own_name, own in rows.groupby("student", sort=True):
        choosing = candidates.groups(own[own["split"].eq(split)])
        splits = {
            key: Split.of(group, evidence[0], n_boot, rng) for key, group in choosing.items() if label in (None, key)
        }
        settings = Settings.of(splits)
        best = settings.best
        own = own[own["split"].eq(report_split)]
        plain = results[results["teacher"].fillna("").eq("") & results["student"].eq(own_name)]
        plain = plain[plain["split"].eq(report_split) & plain["accuracy"].notna()].assign(family="", teacher="")
        beside = pd.concat([own, plain]) if len(plain) else own
        reporting = Split.of(candidates.groups(beside)[best], evidence[1], n_boot, rng)
        draws, mean = _plain(beside, n_boot, rng), float(plain["accuracy"].mean())
        taught.append(Taught(str(own_name), best, settings, named(own), splits[best], reporting, draws, mean))
    return taught


def named(rows: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Method and temperature of each label."""
    first = rows.drop_duplicates("label")
    return {
        str(label): (str(method), float(tau))
        for label, method, tau in zip(first["label"], first["method"], first["tau"], strict=True)
    }


def _plain(beside: pd.DataFrame, n_boot: int, rng: np.random.Generator) -> Floats | None:
    """Draws of plain cross-entropy's mean, from rows in which taught students of the same seeds stand beside it."""
    units, means, noise = measured(beside)
    place = np.flatnonzero(units.get_level_values("teacher") == "")
    if not len(place):
        return None
    spread = rng.standard_t(noise.free, n_boot) if np.isfinite(noise.free) else rng.standard_normal(n_boot)
    return means[place[0]] + np.sqrt(noise.variances[place[0]]) * spread
