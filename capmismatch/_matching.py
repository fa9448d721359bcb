"""Rows of results made comparable: teachers that do not say their family, and what seeds do to all students alike."""

from __future__ import annotations

import numpy as np
import pandas as pd

from capmismatch.errors import InputError


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
