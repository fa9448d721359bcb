"""What a study shows class by class: where large teachers tell the wrong classes apart less."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from capmismatch.errors import require_columns
from capmismatch.report.facts import ClassSpread
from capmismatch.stats.estimates import Estimate
from capmismatch.stats.run_means import half_width

COLUMNS = ("family", "teacher", "seed", "tau", "true_class", "other_class", "value")
NAMED = 3  # classes that a sentence names


def class_spreads(affinity: pd.DataFrame) -> Iterator[tuple[str, ClassSpread | None]]:
    """For each family of a table of class affinities: how far its largest teacher tells the wrong classes apart.

    Of each class the standard deviation over the wrong classes of its row of the affinity matrix, which is the mean
    soft label over the wrong classes alone: by how much the teacher thinks some of them likelier. Teachers are compared
    on the same classes.

    Parameters
    ----------
    affinity : DataFrame
        Of `capmismatch.affinity`: its rows go by the size of the teachers.

    Yields
    ------
    tuple of str and ClassSpread
        The family, and what was found; None where there are fewer than three classes, or one teacher.
    """
    require_columns(affinity, list(COLUMNS), "the affinity table")
    for family, rows in affinity.groupby("family", sort=False, observed=True):
        yield str(family), _class_spread(rows)


def _class_spread(rows: pd.DataFrame) -> ClassSpread | None:
    teachers = [str(name) for name in pd.unique(rows["teacher"])]
    by = ["teacher", "seed", "true_class"]
    spread = rows.groupby(by, sort=False, observed=True)["value"].std(ddof=0)
    of_classes = spread.groupby(["teacher", "true_class"], sort=False, observed=True).mean().unstack("teacher")
    of_classes = of_classes[teachers].dropna()
    if len(teachers) < 2 or len(of_classes) < 2 or rows["other_class"].nunique() < 3:
        return None
    largest, means = teachers[-1], of_classes.mean()
    against = str(means.idxmax())
    if against == largest:
        against = teachers[0]
    lost = of_classes[largest] - of_classes[against]
    count = len(lost)
    half = float(half_width(lost.var(ddof=1) / count, count - 1))
    value = float(lost.mean())
    order = [str(name) for name in lost.sort_values(kind="stable").index]
    return ClassSpread(
        tau=float(rows["tau"].iloc[0]),
        family="",
        largest=largest,
        against=against,
        highest=str(means.idxmax()),
        values={name: float(means[name]) for name in dict.fromkeys((against, largest))},
        difference=Estimate(value, value - half, value + half, count),
        lower=int((lost < 0).sum()),
        most_lost=tuple(order[:NAMED]),
        least_lost=tuple(order[-NAMED:][::-1]) if np.ptp(lost.to_numpy()) > 0 and count >= 2 * NAMED else (),
    )
