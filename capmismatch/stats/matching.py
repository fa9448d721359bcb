"""Rows of results made comparable: families not told, splits and probes not there, and what seeds do to all alike."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch._utils.text import count, join
from capmismatch.errors import InputError

OF_STUDENTS = ("val", "test")
"""Splits on which students are measured."""


def with_families(results: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Results in which each teacher with an empty family has that of the probes' teacher of its name.

    Parameters
    ----------
    results : DataFrame
        Has columns ``family`` and ``teacher``; rows without a teacher, and teachers that `probes` lacks, stay as they
        are.
    probes : DataFrame
        Has columns ``family`` and ``teacher``.

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
    known = probes[["family", "teacher"]].drop_duplicates()
    several = known[known["teacher"].duplicated(keep=False) & known["teacher"].isin(results["teacher"][nameless])]
    if len(several):
        teacher, families = next(iter(several.groupby("teacher")["family"]))
        raise InputError(
            f"the results do not say which teacher {teacher!r} they mean, that of family {' or '.join(families)}: give "
            "them a column 'family'"
        )
    found = results["teacher"].map(known.set_index("teacher")["family"])
    return results.assign(family=results["family"].mask(nameless, found.fillna("")))


def only_split(results: pd.DataFrame, wanted: str = "test") -> str:
    """The wanted split; where the results have only the other one of "val" and "test", that.

    Examples
    --------
    >>> only_split(pd.DataFrame({"split": ["val", "val"]})), only_split(pd.DataFrame({"split": ["val", "test"]}))
    ('val', 'test')
    """
    there = set(results["split"]).intersection(OF_STUDENTS)
    return there.pop() if there and wanted in OF_STUDENTS and wanted not in there else wanted


def warn_unmatched(probes: pd.DataFrame, results: pd.DataFrame) -> None:
    """Warn of teachers that have students but no probes: as a rule a name is written in two ways.

    Teachers without students are usual, but where the warning is given they are told too: the other way to write it may
    be among them. Where no teacher has both, that is an error, and not of this function.
    """
    probed, taught = (
        {"/".join(filter(None, unit)) for unit in frame[["family", "teacher"]].drop_duplicates().to_numpy()}
        for frame in (probes, results)
    )
    lost, idle = sorted(taught - probed), sorted(probed - taught)
    if not lost or not taught & probed:
        return
    text = f"left out, for the results have students of {join(lost)} but the probes lack "
    text += "that teacher" if len(lost) == 1 else "these teachers"
    if idle:
        text += f"; {count(len(idle), 'teacher')} with probes but without students: {join(idle)}"
    warnings.warn(text, stacklevel=3)


def runs_as_units(probes: pd.DataFrame, results: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with every training run as a teacher of its own."""
    runs = probes.assign(teacher=probes["teacher"] + " seed " + probes["seed"].astype(str), seed=0)
    taught = results.assign(teacher=results["teacher"] + " seed " + results["teacher_seed"].astype(str), teacher_seed=0)
    return runs, taught


def compared(
    rows: NDArray[np.int64], families: NDArray[np.int64], within_family: bool | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The teachers that can be compared, and the group within which each is.

    By default within families where at least half of the teachers are in families of three or more. What sets families
    apart would else pass for what sets teachers apart; but where most are single, little is left to compare.

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


def share_seeds(rows: pd.DataFrame, by: list[str]) -> bool:
    """Whether the units (by columns), three or more, all have a seed in common, and there is more than one seed."""
    sharing = rows.groupby("seed")[by].apply(lambda units: len(units.drop_duplicates()))
    return len(sharing) > 1 and bool(sharing.max() == len(rows[by].drop_duplicates()) >= 3)


def seed_effects(rows: pd.DataFrame, by: list[str]) -> pd.Series:
    """What each row's seed does to all units alike, by least squares; their mean over the rows is zero.

    A seed stands for initial weights and an order of batches, the same for all students that have it.

    Examples
    --------
    >>> rows = pd.DataFrame({"teacher": list("aabbc"), "seed": [0, 1, 0, 1, 0], "accuracy": [0.5, 0.7, 0.6, 0.8, 0.9]})
    >>> (rows["accuracy"] - seed_effects(rows, ["teacher"])).round(3).tolist()
    [0.58, 0.58, 0.68, 0.68, 0.98]
    """
    codes = [rows.groupby(by).ngroup().to_numpy(), pd.factorize(rows["seed"])[0]]
    unit, seed = (np.eye(code.max() + 1)[code] for code in codes)
    fitted = np.linalg.lstsq(np.hstack([unit, seed]), rows["accuracy"].to_numpy(float), rcond=None)[0]
    effects = seed @ fitted[unit.shape[1] :]
    return pd.Series(effects - effects.mean(), index=rows.index)


def level_seeds(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Rows in which units that lack some of the seeds are no better or worse for the luck of those that they have.

    Where every unit has every seed, or none is shared by all, nothing is changed.
    """
    pairs = rows[[*by, "seed"]].drop_duplicates()
    if len(pairs) == len(rows[by].drop_duplicates()) * rows["seed"].nunique() or not share_seeds(rows, by):
        return rows
    return rows.assign(accuracy=rows["accuracy"] - seed_effects(rows, by))
