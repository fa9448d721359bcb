"""What a student gains by a costlier teacher: the Pareto front of student accuracy against teacher size."""

from __future__ import annotations

import numpy as np
import pandas as pd

from capmismatch.errors import MOST_RESAMPLES, InputError, must_be_one_of, must_count
from capmismatch.selection.candidates import Candidates, Floats, read_probes
from capmismatch.selection.students import StudentResults, checked_results, draw_students, resolve_splits
from capmismatch.stats.matching import UNIT, shared_teachers, with_families, with_teacher
from capmismatch.stats.usable import usable_tables

COSTS = ("params", "macs")
"""What a teacher may cost: parameters, or multiply-accumulates for one example."""

COLUMNS = (
    *("student", "label", "family", "teacher", "params", "macs", "accuracy", "low", "high"),
    *("p_front", "on_front"),
)


def pareto_front(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    *,
    cost: str = "params",
    student: str | None = None,
    label: str | None = None,
    split: str = "val",
    report_split: str = "test",
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Which teachers no cheaper one equals: student accuracy against what the teacher costs.

    A teacher is on the Pareto front if every teacher that costs as much or less has students of lower accuracy. A
    student without a teacher (plain cross-entropy), where the results have it, costs nothing and takes part: a teacher
    whose students it equals is not on the front. Accuracies are those of `capmismatch.pick`, drawn toward the teacher's
    peers, on the split to report; teachers without students are left out.

    Parameters
    ----------
    probes : DataFrame
        The probes table, with ``params`` and, for that cost, ``macs``.
    results : DataFrame
        The results table; accuracies are shares in [0, 1].
    cost : str
        ``"params"``, or ``"macs"`` (multiply-accumulates for one example).
    student : str, optional
        Default: all students, each with a front of its own.
    label : str, optional
        The setting. Default: for each student the one in which its best teacher does best on `split`.
    split, report_split : str
        The setting is chosen on the first; accuracies are of the second. As for `capmismatch.pick`.
    n_boot : int
        Number of draws.
    seed : int
        Equal seeds give equal tables.

    Returns
    -------
    DataFrame
        One row per student and teacher, cheapest first, that without a teacher (``teacher`` "") before all:

        ``student, label``
            The student and its setting.
        ``family, teacher, params, macs``
            The teacher and what it costs; 0 without a teacher, NaN where unknown.
        ``accuracy, low, high``
            Estimated accuracy and its 95 % interval, a share. As those of `capmismatch.pick` it is for these seeds.
        ``p_front``
            Chance of being on the front: the share of draws in which all that costs as much or less does worse. NaN
            where the cost is unknown.
        ``on_front``
            Whether it is on the front by the estimated accuracies.

    Raises
    ------
    InputError
        As `capmismatch.pick` for columns, splits, students and labels; if the cost is none of the two, or is known of
        no teacher.

    See Also
    --------
    capmismatch.pick : Chooses one teacher; `Choice.cheapest` is the smallest within a tolerance.
    capmismatch.plots.pareto_front : Draws this table.

    Examples
    --------
    >>> probes = pd.DataFrame({"family": "mlp", "teacher": ["small", "middle", "large"], "params": [1e5, 4e5, 9e5],
    ...     "split": "val", "seed": 0, "tau": float("nan"), "probe": "accuracy", "value": [0.7, 0.8, 0.9], "se": 0.01})
    >>> results = pd.DataFrame([
    ...     {"family": "mlp", "teacher": t, "teacher_seed": 0, "student": "net", "label": "KD", "method": "KD",
    ...      "tau": 4.0, "seed": s, "split": split, "accuracy": a + 0.001 * s}
    ...     for t, a in (("small", 0.60), ("middle", 0.64), ("large", 0.62))
    ...     for s in (0, 1) for split in ("val", "test")
    ... ])
    >>> results["accuracy"] += 0.0005 * results["teacher"].eq("small") * results["seed"]
    >>> pareto_front(probes, results)[["teacher", "on_front"]].to_numpy().tolist()
    [['small', True], ['middle', True], ['large', False]]
    """
    must_be_one_of(cost, COSTS, "cost")
    must_count(n_boot, "n_boot", most=MOST_RESAMPLES)
    probes, usable, _ = usable_tables(probes, results)
    results = results if usable is None else usable
    measurements, profiles = read_probes(probes, split)
    costs = _costs(probes, profiles.index)
    if costs[cost].isna().all():
        raise InputError(f"the probes table has no {cost!r} for any teacher; use another cost of {COSTS}")
    splits = resolve_splits(checked_results(results), split, report_split)
    results = with_families(results, measurements)
    shared_teachers(measurements, with_teacher(results))
    students = draw_students(
        results,
        Candidates.of(profiles),
        ((), ()),
        splits,
        student=student,
        label=label,
        n_boot=n_boot,
        seed=seed,
    )
    return pd.concat([_front_of(one, costs, cost) for one in students], ignore_index=True)[list(COLUMNS)]


def _costs(probes: pd.DataFrame, teachers: pd.Index) -> pd.DataFrame:
    """Parameters and multiply-accumulates of each teacher."""
    known = [name for name in COSTS if name in probes]
    return probes.groupby(UNIT)[known].first().reindex(teachers).reindex(columns=list(COSTS)).astype(float)


def _front_of(student: StudentResults, costs: pd.DataFrame, cost: str) -> pd.DataFrame:
    """One student's rows, cheapest first."""
    taught = np.isfinite(student.reporting.means)
    table, draws = costs[taught].reset_index(), student.reporting.draws[:, taught]
    if student.cross_entropy is not None:
        plain = pd.DataFrame({"family": [""], "teacher": [""], "params": [0.0], "macs": [0.0]})
        table = pd.concat([plain, table], ignore_index=True)
        draws = np.column_stack([student.cross_entropy, draws])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    price = table[cost].to_numpy(float)
    known = np.isfinite(price)
    table = table.assign(
        student=student.student,
        label=student.label,
        accuracy=draws.mean(axis=0),
        low=low,
        high=high,
        p_front=np.where(known, on_front(draws, price).mean(axis=0), np.nan),
        on_front=on_front(draws.mean(axis=0, keepdims=True), price)[0],
    )
    return table.sort_values(cost, kind="stable", na_position="last")


def on_front(accuracy: Floats, cost: Floats) -> np.ndarray:
    """Whether all that costs as much or less is less accurate.

    Parameters
    ----------
    accuracy : array of shape (n, T)
        Accuracies, draw by draw.
    cost : array of shape (T,)
        What each costs; NaN where unknown.

    Returns
    -------
    array of shape (n, T) of bool
        Never true where the cost is unknown; of equals the first is taken.

    Examples
    --------
    >>> on_front(np.array([[0.6, 0.5, 0.7, 0.9]]), np.array([1.0, 2.0, 2.0, np.nan])).tolist()
    [[True, False, True, False]]
    """
    front = np.zeros(accuracy.shape, dtype=bool)
    for one in np.flatnonzero(np.isfinite(cost)):
        before = (cost <= cost[one]) & (np.arange(len(cost)) < one) | (cost < cost[one])
        beside = (cost == cost[one]) & (np.arange(len(cost)) > one)
        mine = accuracy[:, [one]]
        front[:, one] = (accuracy[:, before] < mine).all(axis=1) & (accuracy[:, beside] <= mine).all(axis=1)
    return front
