"""Do the teachers differ at all? An F test on teachers and seeds, and how reliable the teachers' means are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy  # whose parts load when first used: those for statistics take a second
from numpy.typing import NDArray

from capmismatch._utils.text import join
from capmismatch.errors import InputError
from capmismatch.stats.copies import SEEDS_AGREE, seeds_agree, warn_same_students
from capmismatch.stats.matching import (
    MOST_CELLS,
    UNIT,
    many_effects,
    require_results,
    require_single_rows,
    resolve_split,
    with_teacher,
)

Floats = NDArray[np.float64]

COLUMNS = (
    "student",
    "label",
    "split",
    "teachers",
    "runs",
    "error",
    "F",
    "df1",
    "df2",
    "p",
    "reliability",
    "low",
    "high",
    "ceiling",
    "seeds_for_80",
)
WANTED_RELIABILITY = 0.8
CONFIDENCE = 0.95


def teacher_differences(results: pd.DataFrame, *, split: str = "test") -> pd.DataFrame:
    r"""Test whether the students' accuracy depends on the teacher at all, beyond what the seed does.

    For each student and setting, with teachers t and seeds s,

    .. math:: y_{ts} = m + a_t + b_s + e_{ts}, \qquad F = \frac{MS_{teacher}}{MS_{error}},

    where :math:`b_s` is left out if teachers do not share their seeds. Where teachers have several training runs
    (column ``teacher_seed``), the model gets a term :math:`u_{r(t)}` for each run, and the error is that between runs
    of a teacher, :math:`F = MS_{teacher} / MS_{run(teacher)}`: two students of one run are no replicates of the
    teacher. With :math:`\hat r = 1 - 1/F` the reliability of a teacher's mean, no probe is expected to correlate with
    these means by more than :math:`\sqrt{\hat r}`.

    Parameters
    ----------
    results : DataFrame
        Students' results with the columns ``teacher, student, label, seed, split, accuracy`` and, where known,
        ``family`` and ``teacher_seed``. Rows without a teacher are left out.
    split : str
        The split to test on. Where the results have only the other one of "val" and "test", that is taken.

    Returns
    -------
    DataFrame
        One row per student and setting, in the order of the results:

        ``student``, ``label``
            The student's architecture, and the setting (method and temperature) it was trained with.
        ``split``
            The split whose accuracies are tested.
        ``teachers``, ``runs``
            How many teachers and students enter.
        ``error``
            What differences between teachers are measured against: "seeds" of the students, or "training runs" of the
            teachers, where some teacher has several.
        ``F``, ``df1``, ``df2``, ``p``
            The F test of "all teachers teach alike". NaN where no teacher has two students, or all students of each
            teacher have one accuracy (with a warning), so that noise cannot be told from differences, or where nothing
            varies.
        ``reliability``, ``low``, ``high``
            The share of the variance of the teachers' means that is due to the teachers, in [0, 1], with its 95 %
            interval (exact for equal numbers of runs and normal noise).
        ``ceiling``
            The square root of ``reliability``: the highest correlation to expect of any probe.
        ``seeds_for_80``
            Seeds, or training runs, per teacher at which the reliability would reach 0.8; infinite where no difference
            shows.

    Raises
    ------
    InputError
        If a column is missing, no row with a teacher is left on the split, or a row is there twice.

    See Also
    --------
    capmismatch.correlate : Correlations that this ceiling bounds.
    capmismatch.pick : Choosing among the teachers.

    Notes
    -----
    The reliability is the intraclass correlation of the means, ICC(C, k) of McGraw & Wong (1996, two-way), or ICC(1, k)
    where no seed is shared; the interval is theirs. The number of runs follows Spearman and Brown (1910). The bound on
    correlations is Spearman's attenuation (1904). The test against runs within teachers is that of a nested design
    (Scheffé 1959, section 5.3), exact where each run has as many students.

    Examples
    --------
    >>> rows = [
    ...     {"family": "f", "teacher": t, "student": "s", "label": "KD", "seed": k, "split": "val", "accuracy": a + e}
    ...     for t, a in (("small", 0.70), ("middle", 0.72), ("large", 0.71))
    ...     for k, e in ((0, 0.001), (1, -0.001), (2, 0.001 * (t == "small")))
    ... ]
    >>> teacher_differences(pd.DataFrame(rows))[["label", "df1", "df2", "reliability", "seeds_for_80"]].round(2)
      label  df1  df2  reliability  seeds_for_80
    0    KD    2    4          1.0           1.0
    """
    rows = taught_rows(results, split)
    found = tested(rows)
    warn_same_students(rows)
    alike = []
    for (student, label), setting in rows.groupby(["student", "label"], sort=False):
        teacher = setting.groupby(UNIT, sort=False).ngroup().to_numpy().astype(np.int64)
        if seeds_agree(setting["accuracy"].to_numpy(float), teacher):
            alike.append(f"{student!r}, {label!r}")
    if alike:
        warnings.warn(
            f"{SEEDS_AGREE} ({join(alike)}), so teachers are not tested there: are they copies?", stacklevel=2
        )
    return found


def taught_rows(results: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of students with a teacher and an accuracy on a split, each there once, with family and training run."""
    require_results(results, ["teacher", "student", "label", "seed", "split", "accuracy"])
    split = resolve_split(results["split"], split)
    rows = with_teacher(results[results["split"].eq(split)])
    if rows.empty:
        raise InputError(f"the results table has no students of a teacher on the split {split!r}")
    rows = rows.assign(
        family=rows["family"].fillna("") if "family" in rows else "",
        teacher_seed=rows["teacher_seed"].fillna(0) if "teacher_seed" in rows else 0,
    )
    setting = [name for name in ("student", "label", "method") if name in rows]
    require_single_rows(rows, [*UNIT, *setting], ["teacher_seed", "seed"], "the results table")
    return rows


def tested(rows: pd.DataFrame) -> pd.DataFrame:
    """`teacher_differences` of `taught_rows`, without its warnings."""
    return pd.DataFrame(_settings(rows), columns=list(COLUMNS))


def _settings(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
    for (student, label), setting in rows.groupby(["student", "label"], sort=False):
        teacher, run = (
            setting.groupby(by, sort=False).ngroup().to_numpy().astype(np.int64)
            for by in (UNIT, [*UNIT, "teacher_seed"])
        )
        seed = pd.factorize(setting["seed"])[0].astype(np.int64)
        test = f_test(setting["accuracy"].to_numpy(float), teacher, seed, run)
        yield {"student": student, "label": label, "split": setting["split"].iloc[0], **test}


def f_test(
    values: Floats, teacher: NDArray[np.int64], seed: NDArray[np.int64], run: NDArray[np.int64] | None = None
) -> dict[str, float | str]:
    """The F test of `teacher_differences` for one setting.

    Parameters
    ----------
    values : (R,) array of float
        Accuracy of each student.
    teacher, seed : (R,) arrays of int
        Codes from 0 on, of the student's teacher and of its seed.
    run : (R,) array of int, optional
        Codes from 0 on, of the teacher's training run; by default each teacher has one.

    Returns
    -------
    dict
        The columns of `teacher_differences` from ``teachers`` on.
    """
    teachers, students = int(teacher.max()) + 1, len(values)
    levels = seed if _crossed(teacher, seed) else np.zeros(students, np.int64)
    (base_rank, base_rss), (full_rank, full_rss) = _fits(values, teacher, levels)
    run_rank, run_rss, trials, error = students, 0.0, np.arange(students), "seeds"
    if run is not None and run.max() > teacher.max():  # students of one run are no trials of a teacher; its runs are
        run_rank, run_rss = _fits(values, run, levels)[1]
        trials, error = np.unique(run, return_index=True)[1], "training runs"
    counts = np.bincount(teacher[trials], minlength=teachers)
    df1, df2 = full_rank - base_rank, run_rank - full_rank
    result: dict[str, float | str] = {"teachers": teachers, "runs": students, "error": error, "df1": df1, "df2": df2}
    nothing_varies = base_rss < 1e-24 or seeds_agree(values, teacher)
    if df1 < 1 or df2 < 1 or nothing_varies:  # a single teacher, single runs, or no noise to compare with
        unknown = ("F", "p", "reliability", "low", "high", "ceiling", "seeds_for_80")
        return result | dict.fromkeys(unknown, math.nan)
    between, within = (base_rss - full_rss) / df1, (full_rss - run_rss) / df2
    ratio = between / within if within > 1e-24 else math.inf
    tail = (1 - CONFIDENCE) / 2
    low, high = (ratio / float(scipy.stats.f.isf(tail, df1, df2)), ratio * float(scipy.stats.f.isf(tail, df2, df1)))
    reliability = _reliability(ratio)
    per_teacher = (len(trials) - (counts**2).sum() / len(trials)) / max(teachers - 1, 1)
    return result | {
        "F": ratio,
        "p": float(scipy.stats.f.sf(ratio, df1, df2)),
        "reliability": reliability,
        "low": _reliability(low),
        "high": _reliability(high),
        "ceiling": math.sqrt(reliability),
        "seeds_for_80": _runs_needed(reliability, per_teacher),
    }


def _crossed(teacher: NDArray[np.int64], seed: NDArray[np.int64]) -> bool:
    """Whether seeds can be told from teachers: some seed has several teachers, and some teacher several seeds."""
    pairs = np.unique(np.stack([teacher, seed]), axis=1)
    return bool(np.bincount(pairs[0]).max() > 1 and np.bincount(pairs[1]).max() > 1)


def _fits(
    values: Floats, teacher: NDArray[np.int64], seed: NDArray[np.int64]
) -> tuple[tuple[int, float], tuple[int, float]]:
    """Rank and residual sum of squares by the seeds alone, and by seeds and teachers.

    Examples
    --------
    >>> teacher, seed = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    >>> values = np.random.default_rng(0).random(12)
    >>> [(rank, round(rss, 9)) for rank, rss in _fits(values, teacher, seed)] == [
    ...     (rank, round(rss, 9)) for rank, rss in _many_fits(values, teacher, seed)]
    True
    """
    seeds, teachers = int(seed.max()) + 1, int(teacher.max()) + 1
    if len(values) * (seeds + teachers) > MOST_CELLS:
        return _many_fits(values, teacher, seed)
    by_seed = np.eye(seeds)[seed]
    return _fit(by_seed, values), _fit(np.hstack([by_seed, np.eye(teachers)[teacher]]), values)


def _many_fits(
    values: Floats, teacher: NDArray[np.int64], seed: NDArray[np.int64]
) -> tuple[tuple[int, float], tuple[int, float]]:
    """As `_fits`, without a matrix of runs times seeds: the ranks are those of the graph of teachers and seeds."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    seeds, teachers = int(seed.max()) + 1, int(teacher.max()) + 1
    left = values - _group_means(values, seed)[seed]
    rest = values - many_effects(teacher, seed, values)[seed]
    rest = rest - _group_means(rest, teacher)[teacher]
    links = coo_array((np.ones(len(values)), (seed, seeds + teacher)), shape=(seeds + teachers,) * 2)
    parts = int(connected_components(links, directed=False, return_labels=False))
    return (seeds, float((left**2).sum())), (seeds + teachers - parts, float((rest**2).sum()))


def _group_means(values: Floats, group: NDArray[np.int64]) -> Floats:
    return np.bincount(group, values) / np.bincount(group)


def _fit(design: Floats, values: Floats) -> tuple[int, float]:
    """Rank of a design and the residual sum of squares of its least-squares fit."""
    fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    return int(rank), float(((values - design @ fitted) ** 2).sum())


def _reliability(ratio: float) -> float:
    return 0.0 if ratio <= 1 else 1 - 1 / ratio


def _runs_needed(reliability: float, runs: float) -> float:
    """Runs per teacher for the wanted reliability, from that of the mean over `runs`: Spearman-Brown."""
    if reliability <= 0:
        return math.inf
    single = reliability / (runs - (runs - 1) * reliability)  # of one run
    odds = WANTED_RELIABILITY / (1 - WANTED_RELIABILITY)
    return float(max(1, math.ceil(odds * (1 - single) / single - 1e-9))) if single < 1 else 1.0
