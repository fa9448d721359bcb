"""Probes of features, from a bank: rows are read in chunks, and only sums are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.feature_moments import FeatureMoments
from capmismatch.data.bank import LogitBank
from capmismatch.diagnostics.table_rows import identity, seed_of
from capmismatch.probes.features import FEATURES, FeatureAlignment

NUMBERS = 1 << 21  # features that are read at a time


def features_asked(names: Iterable[str] | None, bank: LogitBank) -> list[str]:
    """Those of some names that are of features; of None all, where the bank has features of each teacher."""
    if names is None:
        return list(FEATURES) if bank.all_have_features else []
    return [name for name in names if name in FEATURES]


def feature_rows(
    bank: LogitBank, names: Iterable[str] | None, split: str | None, marks: Mapping[str, Mapping[str, object]]
) -> list[dict[str, Any]]:
    """Rows of the probes table of the probes of features among `names`.

    Values are NaN, of no example, where the bank has no features of a teacher; they are functions of all examples
    together, with no standard error.
    """
    chosen, rows = features_asked(names, bank), bank.select(split)
    found = []
    for record in bank.teachers if chosen else ():
        known, moments = bank.has_features(record.key) and len(rows) > 0, FeatureMoments(len(bank.classes))
        if known:
            features = bank.features_of(record.key)
            for some in _chunks(rows, features.width):
                moments.add(features.take(some), bank.rows.labels[some])
        for name in chosen:
            value = FEATURES[name].compute(moments) if known else np.nan
            head = {**identity(record), "split": split or "all", "seed": seed_of(record), "tau": np.nan, "probe": name}
            measured = {"value": value, "se": np.nan, "n": len(rows) if known else 0}
            found.append(head | measured | dict(marks.get(record.key, {})))
    return found


def alignment(bank: LogitBank, first: str, second: str, rows: NDArray[np.int64]) -> float:
    """Linear CKA of two networks on some rows of a bank; NaN where it lacks the features of one."""
    if not (bank.has_features(first) and bank.has_features(second)):
        return float("nan")
    sides, alike = [bank.features_of(key) for key in (first, second)], FeatureAlignment()
    for some in _chunks(rows, max(side.width for side in sides)):
        alike.add(*(side.take(some) for side in sides))
    return alike.value


def _chunks(rows: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    step = max(1, NUMBERS // width)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
