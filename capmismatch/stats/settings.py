"""How settings of students differ: accuracies crossed by setting, teacher and seed, with one model of their noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # whose parts load when first used: those for statistics take a second
from numpy.typing import NDArray

from capmismatch._utils.setting_labels import must_be_a_label
from capmismatch.stats.estimates import Estimate
from capmismatch.stats.matching import (
    UNIT,
    require_results,
    require_single_rows,
    resolve_split,
    rows_of_split,
)
from capmismatch.stats.run_means import half_width

__all__ = ["RunNoise", "Square", "run_noise", "setting_differences"]

COLUMNS = (
    *("student", "label", "against", "split", "teachers", "seeds", "value", "low", "high", "p"),
    *("low_of_others", "high_of_others", "run_sd", "seed_setting_sd", "p_seed_setting"),
)
PLAIN = "CE"
"""The label of students without a teacher."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Square:
    """A mean square.

    Attributes
    ----------
    value : float
        NaN without degrees of freedom.
    free : int
        Its degrees of freedom.
    share : float
        How often its own variance is in its expectation, the rest being that of a run.
    """

    value: float
    free: int
    share: float


@dataclass(frozen=True)
class RunNoise:
    """The noise of students' accuracies, of all settings of one student together.

    Attributes
    ----------
    run : Square
        What is left of a run when its setting with its teacher, and its setting with its seed, are known.
    by_seed : Square
        Seed x setting: what a seed does to all students of a setting, beyond what it does to those of all settings.
    by_teacher : Square
        Teacher x setting: how much more a setting does for one teacher's students than for another's.
    """

    run: Square
    by_seed: Square
    by_teacher: Square

    @property
    def p_by_seed(self) -> float:
        """Of the F test that a seed does the same to all settings."""
        if not (self.run.value > 0 and self.by_seed.free):
            return math.nan
        return float(scipy.stats.f.sf(self.by_seed.value / self.run.value, self.by_seed.free, self.run.free))

    def sd(self, square: Square) -> float:
        """Standard deviation of what a mean square adds to that of a run; 0 where it adds nothing."""
        return math.sqrt(max(square.value - self.run.value, 0.0) / square.share) if square.free else math.nan

    def of_difference(self, seeds: int, arms: tuple[float, float], *, teachers_drawn: int = 0) -> tuple[float, float]:
        """Variance of the difference of two settings' means, and its degrees of freedom (Satterthwaite 1946).

        Parameters
        ----------
        seeds : int
            Seeds that both settings have.
        arms : tuple of two floats
            Teachers that each mean is over; 1 for students without a teacher.
        teachers_drawn : int
            Over how many teachers the statement goes, where it is about others like them; 0 for these very teachers.

        Returns
        -------
        tuple of two floats
            NaN and 0 where no run is repeated.
        """
        if not self.run.free:
            # A single teacher: what a seed does to a run and to a setting are one, which the paired seeds show.
            paired = self.by_seed
            return (2 * paired.value / (seeds * paired.share), paired.free) if paired.free else (math.nan, 0.0)
        noise = self.run.value
        weights = {"run": sum(1 / (seeds * teachers) for teachers in arms)}
        parts = {"run": (noise, self.run.free)}
        drawn = {"by_seed": (self.by_seed, seeds), "by_teacher": (self.by_teacher, teachers_drawn)}
        # Of plain training the runs themselves are the larger doubt: one degree of freedom would only hide them.
        least = {"by_seed": 2 if min(arms) == 1 else 1, "by_teacher": 1}
        for name, (square, units) in drawn.items():
            if units and square.free >= least[name]:
                # A mean square below that of a run shows no variance of its own, but has no more certainty for that.
                parts[name] = (max(square.value, noise), square.free)
                weights[name] = 2 / (units * square.share)
                weights["run"] -= weights[name]
        variance = sum(weights[name] * value for name, (value, _) in parts.items())
        doubt = sum((weights[name] * value) ** 2 / free for name, (value, free) in parts.items())
        return float(variance), float(variance**2 / doubt) if doubt > 0 else math.inf


def run_noise(rows: pd.DataFrame) -> RunNoise:
    r"""The noise of accuracies in one model of all settings of a student.

    .. math:: y_{mts} = c_{mt} + b_s + d_{ms} + e_{mts}

    for setting m, teacher t and seed s: c fixed, d and e random. Mean squares are those of least squares, with the
    terms in this order; seeds may be lacking.

    Parameters
    ----------
    rows : DataFrame
        ``label, teacher, seed, accuracy`` of one student and split; with "" as the teacher of plain training.

    Returns
    -------
    RunNoise
        Mean squares in squared units of `accuracy`.

    References
    ----------
    Henderson 1953, method 3, Biometrics 9: expectations of mean squares of least squares; with equal numbers of runs
    they are those of the analysis of variance, and the estimates those of REML where none is negative.

    Examples
    --------
    >>> cells = [(m, t, s) for m in ("KD", "ATS") for t in "abc" for s in (0, 1)]
    >>> rows = pd.DataFrame(cells, columns=["label", "teacher", "seed"]).assign(accuracy=[.6, .7, .6, .7, .6, .7] * 2)
    >>> noise = run_noise(rows)
    >>> noise.run.free, noise.by_seed.free, noise.by_teacher.free, round(noise.run.value, 12)
    (4, 1, 2, 0.0)
    """
    cells = rows.groupby(["label", "teacher", "seed"], as_index=False)["accuracy"].mean()
    y = cells["accuracy"].to_numpy(float) - cells["accuracy"].mean()
    seed, label, teacher = (_indicators(cells[name]) for name in ("seed", "label", "teacher"))
    by_teacher = _indicators(cells["label"] + "\n" + cells["teacher"])
    by_seed = _indicators(cells["label"] + "\n" + cells["seed"].astype(str))
    without_seeds = _Fit(np.hstack([by_teacher, seed]), y)
    everything = _Fit(np.hstack([by_teacher, by_seed]), y)
    additive = _Fit(np.hstack([label, teacher, by_seed]), y)
    free = len(y) - everything.rank
    run = Square(everything.rss / free if free else math.nan, free, 1.0)
    return RunNoise(run, _drop(without_seeds, everything, by_seed), _drop(additive, everything, by_teacher))


def setting_differences(results: pd.DataFrame, *, against: str | None = None, split: str = "test") -> pd.DataFrame:
    r"""Compare settings (methods with their temperatures) by their students' accuracy, teachers and seeds in common.

    The noise is that of one model of all settings, which knows what a run, and what a seed in one setting does
    (`capmismatch.stats.settings.run_noise`). With few seeds that last part is the largest doubt: a setting may be ahead
    with all teachers because its two seeds were lucky.

    Parameters
    ----------
    results : DataFrame
        Students' results: ``teacher, student, label, seed, split, accuracy`` and, where known, ``family``. Rows without
        a teacher are plain cross-entropy, "CE".
    against : str, optional
        The label to compare with. Default: each label with each that stands before it in the table, and with "CE".
    split : str
        The split to compare on. Where the results have only the other one of "val" and "test", that is taken.

    Returns
    -------
    DataFrame
        One row per student and pair of settings:

        ``student``, ``label``, ``against``, ``split``
            The student, the two settings, the split.
        ``teachers``, ``seeds``
            How many of them both settings have, each seed with each teacher.
        ``value``, ``low``, ``high``, ``p``
            The difference of the mean accuracies as a share, `label` less `against`, with its 95 % interval and
            two-sided p-value (Student's t). The seeds count as drawn, the teachers as given. NaN with single seeds.
        ``low_of_others``, ``high_of_others``
            The interval for other teachers like these; NaN against plain training.
        ``run_sd``, ``seed_setting_sd``
            Standard deviations: of a run within setting, teacher and seed; of what a seed does to a setting.
        ``p_seed_setting``
            Of the F test that there is no such effect of seed and setting.

    Raises
    ------
    InputError
        If a column is missing, the split has no rows, or `against` is no label.

    See Also
    --------
    capmismatch.teacher_differences : The same question of teachers.

    Notes
    -----
    With :math:`T` teachers and :math:`S` seeds in both settings, the variance of the difference is
    :math:`2 MS_{seed \times setting} / (TS)`, with the degrees of freedom of that mean square, so that with two
    settings it is the t test on paired seeds. For other teachers
    :math:`2 (MS_{teacher \times setting} - MS_{run}) / (TS)` is added. Mean squares below that of a run count as that.
    Degrees of freedom of sums are Satterthwaite's (Biometrics 1946). Simulated in ``benchmarks/bench_inference.py``.

    Examples
    --------
    >>> rows = [("f", t, "s", m, k, "test", 0.6 + 0.02 * (m == "ATS") + 0.001 * ((i + k * j) % 3))
    ...         for i, t in enumerate("abcd") for j, m in enumerate(["KD", "ATS"]) for k in range(3)]
    >>> results = pd.DataFrame(rows, columns=["family", "teacher", "student", "label", "seed", "split", "accuracy"])
    >>> setting_differences(results)[["label", "against", "teachers", "seeds", "value"]].round(3)
      label against  teachers  seeds  value
    0   ATS      KD         4      3   0.02
    """
    columns = ["teacher", "student", "label", "seed", "split", "accuracy"]
    require_results(results, columns)
    split = resolve_split(results["split"], split)
    rows = rows_of_split(results, split, "the results table")
    rows = rows[rows["accuracy"].notna()]
    _require_single_runs(rows)
    if against is not None:
        must_be_a_label(against, dict.fromkeys(rows["label"]), "against")
    teacher = rows["teacher"].fillna("").astype(str)
    family = rows["family"].fillna("").astype(str) + "/" if "family" in rows else ""
    rows = rows.assign(teacher=(family + teacher).where(teacher.ne(""), ""))
    rows = rows.assign(label=rows["label"].where(teacher.ne(""), PLAIN))
    found = (
        {"student": student, "split": split, **row}
        for student, of_student in rows.groupby("student", sort=False)
        for row in _of_student(of_student, against)
    )
    return pd.DataFrame(found, columns=list(COLUMNS))


def _require_single_runs(rows: pd.DataFrame) -> None:
    """Raise unless every run is there once: a copy would make the noise look smaller than it is."""
    runs = rows.assign(
        teacher=rows["teacher"].fillna(""),
        family=rows["family"].fillna("") if "family" in rows else "",
        teacher_seed=rows["teacher_seed"].fillna(0) if "teacher_seed" in rows else 0,
    )
    require_single_rows(runs, [*UNIT, "student", "label"], ["teacher_seed", "seed"], "the results table")


def _of_student(rows: pd.DataFrame, against: str | None) -> Iterator[dict[str, object]]:
    noise, labels = run_noise(rows), list(dict.fromkeys(rows["label"]))
    labels = [name for name in (PLAIN,) if name in labels] + [name for name in labels if name != PLAIN]
    if against is None:
        pairs = [(label, other) for position, label in enumerate(labels) for other in labels[:position]]
    else:
        pairs = [(label, against) for label in labels if label != against]
    for label, other in pairs:
        left, right = (rows[rows["label"].eq(name)] for name in (label, other))
        estimate, of_others, p = compare(left, right, noise)
        yield {
            "label": label,
            "against": other,
            "teachers": len(_shared(left, right)),
            "seeds": estimate.n,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "p": p,
            "low_of_others": of_others.low,
            "high_of_others": of_others.high,
            "run_sd": math.sqrt(noise.run.value),
            "seed_setting_sd": noise.sd(noise.by_seed),
            "p_seed_setting": noise.p_by_seed,
        }


def compare(left: pd.DataFrame, right: pd.DataFrame, noise: RunNoise) -> tuple[Estimate, Estimate, float]:
    """Mean accuracy of a setting less that of another, over the teachers and seeds that they share.

    Parameters
    ----------
    left, right : DataFrame
        ``teacher, seed, accuracy`` of the students of a setting; the teacher is "" in plain training.
    noise : RunNoise
        Of the student's settings.

    Returns
    -------
    Estimate
        The difference, a share, with the interval for these teachers; `n` is the number of seeds.
    Estimate
        The same, with the interval for other teachers like these; NaN where one of the two is plain training.
    float
        Two-sided p-value of no difference with these teachers.
    """
    shared = _shared(left, right)
    tables = [_by_seed(rows, shared if rows["teacher"].ne("").any() else [""]) for rows in (left, right)]
    seeds = tables[0].index.intersection(tables[1].index)
    if not len(seeds):
        return Estimate(math.nan), Estimate(math.nan), math.nan
    means = [float(table.loc[seeds].to_numpy().mean()) for table in tables]
    value, arms = means[0] - means[1], (tables[0].shape[1], tables[1].shape[1])
    both_taught = all(rows["teacher"].ne("").any() for rows in (left, right))
    variance, free = noise.of_difference(len(seeds), arms)
    half = float(half_width(variance, free))
    p = 2 * float(scipy.stats.t.sf(abs(value) / math.sqrt(variance), free)) if variance > 0 else math.nan
    of_others = math.nan
    if both_taught:  # more degrees of freedom never make the wider statement the surer one
        of_others = max(half, float(half_width(*noise.of_difference(len(seeds), arms, teachers_drawn=len(shared)))))
    these, others = (Estimate(value, value - width, value + width, len(seeds)) for width in (half, of_others))
    return these, others, p


def _shared(left: pd.DataFrame, right: pd.DataFrame) -> list[str]:
    """Teachers of both settings; those of the one where the other is plain training."""
    names = [list(dict.fromkeys(rows["teacher"][rows["teacher"].ne("")])) for rows in (left, right)]
    if not (names[0] and names[1]):
        return names[0] or names[1]
    return [name for name in names[0] if name in names[1]]


def _by_seed(rows: pd.DataFrame, teachers: list[str]) -> pd.DataFrame:
    """Accuracies by seed (rows) and teacher (columns); seeds that lack a teacher are left out."""
    table = rows.groupby(["seed", "teacher"])["accuracy"].mean().unstack()
    return table.reindex(columns=teachers).dropna()


class _Fit:
    """Least squares on indicators: the rank, what is left, and an orthonormal basis of what is explained."""

    def __init__(self, design: Floats, y: Floats) -> None:
        left, singular, _ = np.linalg.svd(design, full_matrices=False)
        self.basis = left[:, singular > 1e-9 * singular[0]]
        self.rank = self.basis.shape[1]
        self.rss = float(((y - self.basis @ (self.basis.T @ y)) ** 2).sum())


def _indicators(column: pd.Series) -> Floats:
    codes = pd.factorize(column)[0]
    return np.eye(codes.max() + 1)[codes]


def _drop(small: _Fit, large: _Fit, effect: Floats) -> Square:
    """The mean square of what `large` explains beyond `small`, and how often the effect's variance is in it."""
    free = large.rank - small.rank
    if not free:
        return Square(math.nan, 0, math.nan)
    explained = ((large.basis.T @ effect) ** 2).sum() - ((small.basis.T @ effect) ** 2).sum()
    return Square((small.rss - large.rss) / free, free, float(explained / free))
