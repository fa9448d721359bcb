"""Tables made comparable: splits, families and temperatures resolved, teachers aligned, seed effects taken out."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch._utils.setting_labels import with_current_labels
from capmismatch._utils.text import count, join
from capmismatch.errors import InputError, must_be_a_table, require_columns, require_numbers
from capmismatch.stats.correlations import nested_mean

UNIT = ["family", "teacher"]
"""Columns that name a teacher, the unit of all statements about teachers."""

MOST_CELLS = 1 << 22  # of a dense matrix of rows by units and seeds: 32 MB

STUDENT_SPLITS = ("val", "test")
"""Splits on which students are measured, the one to choose on first."""


# Splits and temperatures --------------------------------------------------------------------------------------------


def resolve_split(
    splits: Iterable[str], preferred: str = "test", among: Collection[str] | None = STUDENT_SPLITS
) -> str:
    """The split to read from a table: the preferred one, or the only other one that may stand in for it.

    Parameters
    ----------
    splits : iterable of str
        The table's column ``split``.
    preferred : str
        The split asked for.
    among : collection of str, optional
        Splits that may stand in for each other; None: any.

    Returns
    -------
    str
        `preferred` also where nothing can stand in for it (the table then has no rows of it).

    See Also
    --------
    splits_present : All of a table's splits on which students are measured.
    rows_of_split : The rows of one split.

    Examples
    --------
    >>> resolve_split(["val", "val"]), resolve_split(["val", "test"]), resolve_split(["train"])
    ('val', 'test', 'test')
    >>> resolve_split(["train"], among=None)
    'train'
    """
    if among is not None and preferred not in among:
        return preferred
    present = {split for split in pd.unique(np.asarray(splits)) if among is None or split in among}
    return str(present.pop()) if preferred not in present and len(present) == 1 else preferred


def splits_present(splits: Iterable[str]) -> list[str]:
    """The splits of `STUDENT_SPLITS` that are in a table or bank, the one to choose on first.

    Examples
    --------
    >>> splits_present(["test", "train", "val", "test"])
    ['val', 'test']
    """
    present = set(pd.unique(np.asarray(splits)))
    return [split for split in STUDENT_SPLITS if split in present]


def rows_of_kind(restored: pd.DataFrame, kind: str = "all") -> pd.DataFrame:
    """The rows of a table of restored variance that tell of one kind of examples: "all", "right" or "wrong".

    A table without the column ``rows`` tells of all examples.

    Examples
    --------
    >>> table = pd.DataFrame({"rows": ["all", "right"], "value": [1.0, 2.0]})
    >>> rows_of_kind(table)["value"].tolist(), len(rows_of_kind(table[["value"]])), len(rows_of_kind(table, "wrong"))
    ([1.0], 2, 0)
    """
    if "rows" not in restored:
        return restored if kind == "all" else restored.iloc[:0]
    return restored[restored["rows"] == kind]


def rows_of_split(frame: pd.DataFrame, split: str, what: str) -> pd.DataFrame:
    """The rows of one split.

    Raises
    ------
    InputError
        If there are none; the message lists the splits of the table, which it calls `what`.
    """
    rows = with_current_labels(frame[frame["split"].eq(split)])
    if rows.empty:
        raise InputError(f"{what} has no rows for the split {split!r}; it has {sorted(frame['split'].unique())}")
    return rows


def nearest_tau(taus: Iterable[float], target: float) -> float:
    """The temperature nearest to a target on a log scale (of two equally near ones the first).

    A ratio is what counts: 2 and 8 are equally far from 4.

    Parameters
    ----------
    taus : iterable of float
        Temperatures; NaN is left out.
    target : float
        The temperature looked for.

    Returns
    -------
    float
        One of `taus`; NaN where there is none.

    Examples
    --------
    >>> nearest_tau([1.0, 3.0, 8.0], 4.0), nearest_tau([1.0, 2.0], 1.45)
    (3.0, 2.0)
    """
    measured = pd.unique(np.asarray(taus, dtype=float))
    measured = measured[np.isfinite(measured)]
    return float(measured[np.argmin(np.abs(np.log(measured / target)))]) if len(measured) else float("nan")


# Students -----------------------------------------------------------------------------------------------------------


def of_student(probes: pd.DataFrame, student: str | None = None) -> pd.DataFrame:
    """The rows of a probes table that speak of one student: those of teachers alone, and those of pairs with it.

    Parameters
    ----------
    probes : DataFrame
        The probes table. Without the column ``student`` it is of teachers alone, and is given as it is.
    student : str, optional
        By the name that results have for it. With None the means over all students that the table has.

    Returns
    -------
    DataFrame
        Without the column ``student``.

    Examples
    --------
    >>> table = pd.DataFrame({"teacher": "a", "probe": ["accuracy", "kl", "kl"], "student": [None, "s", "t"],
    ...     "value": [0.9, 1.0, 3.0]})
    >>> of_student(table, "t")["value"].tolist(), of_student(table)["value"].tolist()
    ([0.9, 3.0], [0.9, 2.0])
    """
    if "student" not in probes:
        return probes
    named = students_of(probes).to_numpy()  # tables that were joined repeat numbers of rows
    alone, pairs = probes[named == ""].drop(columns="student"), probes[named != ""]
    if student is not None:
        return pd.concat([alone, probes[named == student].drop(columns="student")])
    numbers = [name for name in ("value", "se") if name in pairs]
    by = [name for name in pairs if name not in (*numbers, "student", "known")]
    means = pairs.groupby(by, dropna=False, sort=False)[numbers]
    merged = means.agg({name: "mean" if name == "value" else _root_mean_square for name in numbers}).reset_index()
    return pd.concat([alone, merged], ignore_index=True) if len(pairs) else alone


def only_student(probes: pd.DataFrame, results: pd.DataFrame | None, student: str | None) -> str | None:
    """The student whose pairs with the teachers count: the one asked for, or the only one that there is."""
    if "student" not in probes or student is not None or results is None:
        return student
    taught = set(with_teacher(results)["student"]) if "student" in results else set()
    return str(taught.pop()) if len(taught) == 1 else None


def students_of(probes: pd.DataFrame) -> pd.Series:
    """The student of each row of a probes table; "" of the rows of teachers alone."""
    if "student" not in probes:
        return pd.Series("", index=probes.index, dtype=object)
    return probes["student"].astype(object).where(probes["student"].notna(), "").astype(str)


def _root_mean_square(values: pd.Series) -> float:
    return float(np.sqrt((values.to_numpy(float) ** 2).mean()))


# Teachers -----------------------------------------------------------------------------------------------------------


def require_results(results: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise unless a results table has all `columns`, and numbers as they are to be in "accuracy" and "n".

    The message says what fills in the columns of a table made by hand.

    Examples
    --------
    >>> require_results(pd.DataFrame({"teacher": []}), ["teacher", "teacher_seed"])
    Traceback (most recent call last):
    capmismatch.errors.InputError: the results table lacks the column 'teacher_seed'; it has ['teacher']: \
capmismatch.load_results takes tables made by hand, and fills in all but teacher, method and accuracy
    """
    must_be_a_table(results, "the results table", 'results = cm.load_results("students.csv")')
    try:
        require_columns(results, columns, "the results table")
        require_numbers(results, ["n"], "the results table")
    except InputError as error:
        raise InputError(
            f"{error}: capmismatch.load_results takes tables made by hand, and fills in all but teacher, method and "
            "accuracy"
        ) from None
    if "accuracy" in results:
        infinite = np.isinf(results["accuracy"].to_numpy(float, na_value=np.nan))
        if infinite.any():
            row = results.iloc[int(infinite.argmax())]
            raise InputError(
                f"expected finite numbers as accuracies, got {row['accuracy']} for student {row['student']!r} and "
                f"teacher {row['teacher']!r} in the results table"
            )


def require_single_rows(frame: pd.DataFrame, columns: Sequence[str], levels: Sequence[str], what: str) -> None:
    """Raise unless every row is there once: a copy of a run is no second run.

    Parameters
    ----------
    frame : DataFrame
        Has `columns` and `levels`.
    columns : sequence of str
        What tells one quantity from another, such as the teacher and the student.
    levels : sequence of str
        The columns that number runs, and seeds within a run.
    what : str
        What an error calls the table.

    Raises
    ------
    InputError
        If a seed is missing or a row is there twice.

    Examples
    --------
    >>> require_single_rows(pd.DataFrame({"teacher": ["a", "a"], "seed": [0, 0]}), ["teacher"], ["seed"], "the table")
    Traceback (most recent call last):
    capmismatch.errors.InputError: the table holds more than one row for teacher='a', seed=0; give each run a number \
of its own in the column 'seed'
    """
    for wrong, problem, advice in (
        (frame[list(levels)].isna().any(axis=1), "has no number for a seed in the row of", ""),
        (
            frame.duplicated([*columns, *levels]),
            "holds more than one row for",
            f"; give each run a number of its own in the column {levels[-1]!r}",
        ),
    ):
        if wrong.any():
            (row,) = frame[wrong].iloc[:1].to_dict("records")  # with Python's numbers rather than NumPy's
            named = ", ".join(f"{name}={row[name]!r}" for name in [*columns, *levels])
            raise InputError(f"{what} {problem} {named}{advice}")


def shared_teachers(probes: pd.DataFrame, results: pd.DataFrame) -> pd.MultiIndex:
    """The teachers (family and name) that both tables have, sorted.

    Raises
    ------
    InputError
        If there are none; the message lists those of each table.
    """
    probed, with_students = (pd.MultiIndex.from_frame(frame[UNIT].drop_duplicates()) for frame in (probes, results))
    shared = probed.intersection(with_students).sort_values()
    if shared.empty:
        lists = [["/".join(filter(None, unit)) for unit in index.sort_values()] for index in (probed, with_students)]
        raise InputError(f"no teacher has both probes and results: probes are of {lists[0]}, results of {lists[1]}")
    return shared


def with_teacher(results: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a teacher and an accuracy, their settings called as they are now."""
    results = with_current_labels(results)
    return results[results["teacher"].fillna("").ne("") & results["accuracy"].notna()]


@dataclass(frozen=True)
class PackedColumns:
    """The columns of a tidy table as an array.

    Attributes
    ----------
    values : array of shape (n, R, K, p)
        Teacher, run, seed and column; NaN where there is none.
    keys : DataFrame
        What names each of the p columns.
    """

    values: NDArray[np.float64]
    keys: pd.DataFrame

    @property
    def means(self) -> NDArray[np.float64]:
        """Means (n, p) over runs of the means over seeds."""
        return nested_mean(self.values)


def pack_columns(
    frame: pd.DataFrame, teachers: pd.MultiIndex, columns: list[str], levels: Sequence[str], value: str, what: str
) -> PackedColumns:
    """Lay a tidy table out as an array: teacher, run, seed within the run, column.

    Parameters
    ----------
    frame : DataFrame
        Has ``family``, ``teacher``, `columns`, `levels` and `value`.
    teachers : MultiIndex
        Family and name of each teacher; rows of others are left out.
    columns : list of str
        What tells one column of the array from another.
    levels : sequence of str
        The column that numbers runs and, where there is one, that which numbers seeds within a run.
    value : str
        The column that fills the array.
    what : str
        What an error calls the table.

    Returns
    -------
    PackedColumns
        The array, and the key of each of its columns.

    Raises
    ------
    InputError
        If a seed is missing or a row is there twice.
    """
    unit = teachers.get_indexer(pd.MultiIndex.from_frame(frame[UNIT]))
    frame = frame[unit >= 0].assign(unit=unit[unit >= 0])
    levels = list(levels)
    require_single_rows(frame, [*UNIT, *columns], levels, what)
    by_column = frame.groupby(columns, dropna=False, sort=True)
    frame = frame.assign(column=by_column.ngroup())
    keys = frame.drop_duplicates("column").sort_values("column")[columns].reset_index(drop=True)
    numbers, outer = [], ["unit", "column"]
    for level in levels:
        numbers.append(frame.groupby(outer)[level].rank("dense").astype(int).to_numpy() - 1)
        outer = [*outer, level]
    run = numbers[0]
    seed = numbers[1] if len(numbers) > 1 else np.zeros_like(run)
    values = np.full((len(teachers), run.max() + 1, seed.max() + 1, len(keys)), np.nan)
    values[frame["unit"], run, seed, frame["column"]] = frame[value]
    return PackedColumns(values, keys)


def with_families(results: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Results in which a teacher with an empty family gets the family that the probes table gives to its name.

    Parameters
    ----------
    results : DataFrame
        Has columns ``family`` and ``teacher``; rows without a teacher, and teachers that `probes` lacks, stay as they
        are.
    probes : DataFrame
        Has columns ``family`` and ``teacher``.

    Returns
    -------
    DataFrame
        The results with their column ``family`` filled in.

    Raises
    ------
    InputError
        If teachers of several families have that name.

    Examples
    --------
    >>> probes = pd.DataFrame({"family": ["resnet", "wrn"], "teacher": ["r20", "w16"]})
    >>> with_families(pd.DataFrame({"family": "", "teacher": ["w16", "r20", ""]}), probes)["family"].tolist()
    ['wrn', 'resnet', '']
    """
    nameless = results["family"].fillna("").eq("") & results["teacher"].fillna("").ne("")
    if not nameless.any():
        return results
    probed = probes[UNIT].drop_duplicates()
    ambiguous = probed[probed["teacher"].duplicated(keep=False) & probed["teacher"].isin(results["teacher"][nameless])]
    if len(ambiguous):
        teacher, families = next(iter(ambiguous.groupby("teacher")["family"]))
        raise InputError(
            f"the results do not say which teacher {teacher!r} they mean, that of family {' or '.join(families)}: give "
            "them a column 'family'"
        )
    family = results["teacher"].map(probed.set_index("teacher")["family"])
    return results.assign(family=results["family"].mask(nameless, family.fillna("")))


def warn_unmatched(probes: pd.DataFrame, results: pd.DataFrame) -> None:
    """Warn of teachers that have students but no probes: usually a name is spelled in two ways.

    Teachers without students are normal, but the warning lists them too, because the other spelling may be among them.
    Where no teacher has both, `shared_teachers` raises an error instead.
    """
    probed, with_students = (
        {"/".join(filter(None, unit)) for unit in frame[UNIT].drop_duplicates().to_numpy()}
        for frame in (probes, results)
    )
    unmatched, unused = sorted(with_students - probed), sorted(probed - with_students)
    if not unmatched or not with_students & probed:
        return
    text = f"left out, because the results have students of {join(unmatched)} but the probes lack "
    text += "that teacher" if len(unmatched) == 1 else "these teachers"
    if unused:
        text += f"; {count(len(unused), 'teacher')} with probes but without students: {join(unused)}"
    warnings.warn(text, stacklevel=3)


def runs_as_units(probes: pd.DataFrame, results: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with every training run as a teacher of its own."""
    runs = probes.assign(teacher=probes["teacher"] + " seed " + probes["seed"].astype(str), seed=0)
    names = results["teacher"] + " seed " + results["teacher_seed"].astype(str)
    return runs, results.assign(teacher=names, teacher_seed=0)


def compared(
    rows: NDArray[np.int64], families: NDArray[np.int64], within_family: bool | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The teachers that can be compared, and the group within which each is.

    By default teachers are compared within families where at least half of them are in families of three or more:
    else a difference between families would pass for one between teachers. Where most families have a single teacher,
    little would be left to compare, and all are compared with all.

    Examples
    --------
    >>> families = np.repeat([0, 1, 2], [4, 2, 1])
    >>> compared(np.arange(7), families)
    (array([0, 1, 2, 3, 4, 5]), array([0, 0, 0, 0, 1, 1]))
    >>> compared(np.arange(2, 7), families)
    (array([2, 3, 4, 5, 6]), array([0, 0, 0, 0, 0]))
    """
    family = families[rows]
    size = np.bincount(family, minlength=1)
    within = 2 * size[size >= 3].sum() >= len(rows) if within_family is None else within_family
    if not within:
        return rows, np.zeros(len(rows), dtype=np.int64)
    rows = rows[size[family] > 1]
    return rows, families[rows]


# Seeds --------------------------------------------------------------------------------------------------------------


def share_seeds(rows: pd.DataFrame, by: list[str]) -> bool:
    """Whether three or more units (distinguished by the columns `by`) all have some seed, and there are several seeds.

    Then what a seed does to all units alike can be estimated, and taken out.

    Examples
    --------
    >>> rows = pd.DataFrame({"teacher": list("abcab"), "seed": [0, 0, 0, 1, 1]})
    >>> share_seeds(rows, ["teacher"]), share_seeds(rows[rows["seed"].eq(0)], ["teacher"])
    (True, False)
    """
    units_with_seed = rows[[*by, "seed"]].drop_duplicates().groupby("seed").size()
    return len(units_with_seed) > 1 and bool(units_with_seed.max() == len(rows[by].drop_duplicates()) >= 3)


def seed_effects(rows: pd.DataFrame, by: list[str]) -> pd.Series:
    """What each row's seed does to all units alike, by least squares; their mean over the rows is zero.

    A seed stands for initial weights and an order of batches, the same for all students that have it.

    Examples
    --------
    >>> rows = pd.DataFrame({"teacher": list("aabbc"), "seed": [0, 1, 0, 1, 0], "accuracy": [0.5, 0.7, 0.6, 0.8, 0.9]})
    >>> (rows["accuracy"] - seed_effects(rows, ["teacher"])).round(3).tolist()
    [0.58, 0.58, 0.68, 0.68, 0.98]
    """
    unit = rows.groupby(by).ngroup().to_numpy().astype(np.int64)
    seed = pd.factorize(rows["seed"])[0].astype(np.int64)
    accuracy = rows["accuracy"].to_numpy(float)
    units, seeds = unit.max() + 1, seed.max() + 1
    if len(rows) * (units + seeds) <= MOST_CELLS:
        design = np.hstack([np.eye(units)[unit], np.eye(seeds)[seed]])
        effects = np.linalg.lstsq(design, accuracy, rcond=None)[0][units:][seed]
    else:
        effects = many_effects(unit, seed, accuracy)[seed]
    return pd.Series(effects - effects.mean(), index=rows.index)


def many_effects(unit: NDArray[np.int64], seed: NDArray[np.int64], accuracy: NDArray[np.float64]) -> Any:
    """Effects of seeds, up to a constant, by the normal equations of units alone: memory for units times seeds.

    Examples
    --------
    >>> effects = many_effects(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([0.5, 0.7, 0.6, 0.8]))
    >>> round(float(effects[1] - effects[0]), 12)
    0.2
    """
    if seed.max() < unit.max():  # the fewer are solved for; then the others' effects are means of what is left
        own = many_effects(seed, unit, accuracy)
        return np.bincount(seed, accuracy - own[unit]) / np.bincount(seed)
    counts = np.zeros((unit.max() + 1, seed.max() + 1))
    np.add.at(counts, (unit, seed), 1.0)
    of_seed = counts.sum(0)
    mean = np.bincount(seed, accuracy) / of_seed
    matrix = np.diag(counts.sum(1)) - (counts / of_seed) @ counts.T
    own = np.linalg.lstsq(matrix, np.bincount(unit, accuracy) - counts @ mean, rcond=None)[0]
    return mean - counts.T @ own / of_seed


def level_seeds(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Rows without seed effects, so that units that lack some seeds are not favoured by the seeds that they have.

    Nothing is changed where every unit has every seed, or where no seed is shared by all.
    """
    pairs = rows[[*by, "seed"]].drop_duplicates()
    if len(pairs) == len(rows[by].drop_duplicates()) * rows["seed"].nunique() or not share_seeds(rows, by):
        return rows
    return rows.assign(accuracy=rows["accuracy"] - seed_effects(rows, by))
