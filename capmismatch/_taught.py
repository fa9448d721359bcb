"""From rows of results to draws of what each candidate teacher's students reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch import _statistics as st
from capmismatch._posterior import posterior_draws, seed_noise
from capmismatch.correlating import pack_columns, rows_of
from capmismatch.errors import InputError, must_be_one_of, require_columns

FEATURES = ("derived_std", "accuracy", "log_params")
"""Probes from which students are predicted for teachers that have none: few, for teachers are few."""

_UNIT = ["family", "teacher"]
_SETTING = ["student", "label", "method", "tau"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """One split: draws (n_boot, T) of the candidates' accuracies, measured means (T,), whether seeds give the noise."""

    draws: Floats
    means: Floats
    has_seeds: bool


@dataclass(frozen=True)
class Taught:
    """One student in one setting: the splits to choose on and to report, draws (n_boot,) of plain cross-entropy."""

    student: str
    label: str
    method: str
    tau: float
    choosing: Split
    reporting: Split
    plain: Floats | None
    plain_mean: float


def with_columns(results: pd.DataFrame) -> pd.DataFrame:
    """The results, after a check that they have the columns to choose by."""
    wanted = [*_UNIT, "teacher_seed", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    require_columns(results, wanted, "the results table")
    return results


def with_teacher(results: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a teacher and an accuracy."""
    return results[results["teacher"].fillna("").ne("") & results["accuracy"].notna()]


def draw_students(
    results: pd.DataFrame,
    wide: pd.DataFrame,
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
    wide : DataFrame
        Candidates (index of family and teacher) by probe, with ``params``.
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
        If a split, student or label is not there.
    """
    for name in (split, report_split):
        rows_of(results, name, "the results table")
    rows = with_teacher(results)
    if student is not None:
        must_be_one_of(student, sorted(rows["student"].unique()), "student")
        rows = rows[rows["student"].eq(student)]
    if label is not None:
        must_be_one_of(label, sorted(rows["label"].unique()), "label")
        rows = rows[rows["label"].eq(label)]
    rows = rows[pd.MultiIndex.from_frame(rows[_UNIT]).isin(wide.index) & rows["split"].isin([split, report_split])]
    # Only settings that can be both chosen and reported take part.
    rows = rows[rows.groupby(["student", "label"])["split"].transform("nunique").eq(len({split, report_split}))]
    if rows.empty:
        raise InputError(f"no student and label has results with these teachers on both {split!r} and {report_split!r}")
    rng = np.random.default_rng(seed)
    features, folds = _features(wide), _folds(wide, rows)
    teachers = pd.MultiIndex.from_tuples(wide.index, names=_UNIT)
    taught = []
    for own_name, own in rows.groupby("student", sort=True):
        settings = {
            key: _draw(part[part["split"].eq(split)], teachers, features, folds, n_boot, rng)
            for key, part in own.groupby("label", sort=True)
        }
        best = max(settings, key=lambda key: settings[key].draws.mean(axis=0)[np.isfinite(settings[key].means)].max())
        part = own[own["label"].eq(best)]
        reporting = _draw(part[part["split"].eq(report_split)], teachers, features, folds, n_boot, rng)
        plain = results[results["teacher"].fillna("").eq("") & results["student"].eq(own_name)]
        plain = plain[plain["split"].eq(report_split) & plain["accuracy"].notna()]
        draws, mean = _plain(plain, part[part["split"].eq(report_split)], n_boot, rng)
        method, tau = part[["method", "tau"]].iloc[0]
        taught.append(Taught(str(own_name), str(best), str(method), float(tau), settings[best], reporting, draws, mean))
    return taught


def _draw(
    rows: pd.DataFrame,
    teachers: pd.MultiIndex,
    features: Floats,
    folds: list[str],
    n_boot: int,
    rng: np.random.Generator,
) -> Split:
    values = pack_columns(rows, teachers, ["student"], ["teacher_seed", "seed"], "accuracy", "the results table").values
    means = st.nested_mean(values)[:, 0]
    examples = (
        rows.groupby(_UNIT)["n"].first().reindex(teachers).to_numpy(float)
        if "n" in rows
        else np.full(len(means), np.nan)
    )
    noise = seed_noise(values[..., 0], means * (1 - means) / examples)
    if np.isnan(noise.variances[np.isfinite(means)]).any():
        raise InputError(
            "every teacher has a single student seed and the results table has no column 'n' (examples): "
            "the noise is unknown"
        )
    draws = posterior_draws(means, noise, features, folds, n_boot, rng)
    return Split(draws, means, bool(np.isfinite(noise.free)))


def _plain(
    plain: pd.DataFrame, taught: pd.DataFrame, n_boot: int, rng: np.random.Generator
) -> tuple[Floats | None, float]:
    """Draws of plain cross-entropy's mean; the variance of seeds is pooled with that of the taught students."""
    if plain.empty:
        return None, float("nan")
    groups = [plain["accuracy"], *(run for _, run in taught.groupby([*_UNIT, "teacher_seed"])["accuracy"])]
    free = sum(len(group) - 1 for group in groups)
    mean, count = float(plain["accuracy"].mean()), len(plain)
    if free:
        pooled = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / free
        return mean + np.sqrt(pooled / count) * rng.standard_t(free, n_boot), mean
    examples = float(plain["n"].iloc[0]) if "n" in plain else np.nan
    if not np.isfinite(examples):
        return None, mean
    return mean + np.sqrt(mean * (1 - mean) / examples) * rng.standard_normal(n_boot), mean


def _features(wide: pd.DataFrame) -> Floats:
    """Standardised probes (T, p); what is unknown stands at the mean, what is constant drops out."""
    frame = wide.assign(log_params=np.log(wide["params"].where(wide["params"] > 0)))
    columns = [frame[name].to_numpy(float) for name in FEATURES if name in frame and frame[name].nunique() > 1]
    scaled = [np.nan_to_num((column - np.nanmean(column)) / np.nanstd(column)) for column in columns]
    return np.stack(scaled, axis=1) if scaled else np.zeros((len(wide), 0))


def _folds(wide: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """What is left out to judge the regression's strength: families where three have students, else teachers."""
    if rows["family"].nunique() >= 3:
        return [str(family) for family, _ in wide.index]
    return [f"{family}/{teacher}" for family, teacher in wide.index]
