"""Teachers of results that do not say their family."""

from __future__ import annotations

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
