"""Probes of features, from a bank: rows are read in chunks, and only sums are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.feature_moments import FeatureMoments
from capmismatch.data.bank import LogitBank
from capmismatch.probes import REGISTRY
from capmismatch.probes.features import FeatureAlignment

NUMBERS = 1 << 21  # features that are read at a time


def feature_columns(
    bank: LogitBank, key: str, names: Iterable[str], split: str | None
) -> dict[tuple[str, float | None], dict[str, float]]:
    """(probe, None) -> value, se and n of the probes of features among `names`, of one teacher.

    Values are NaN, of no example, where the bank has no features of it; they are functions of all examples together,
    with no standard error.
    """
    chosen = [name for name in names if REGISTRY[name].kind == "features"]
    if not chosen:
        return {}
    rows = bank.select(split)
    if not bank.has_features(key) or not len(rows):
        return {(name, None): {"value": np.nan, "se": np.nan, "n": 0} for name in chosen}
    moments = FeatureMoments(len(bank.classes))
    for some in _chunks(rows, bank.features_of(key).width):
        moments.add(bank.features_of(key).take(some), bank.rows.labels[some])
    return {(name, None): {"value": REGISTRY[name].compute(moments), "se": np.nan, "n": len(rows)} for name in chosen}


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
