"""``bank:FOLDER``: the teachers of a bank that was collected before: saved logits, rows and names, and features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._utils.files import hash_of
from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import Dataset
from capmismatch.data.rows import Rows
from capmismatch.sources.families import Teacher


def load(folder: str, *, base: str | Path = ".") -> tuple[list[Teacher], Dataset]:
    """Load the teachers of a bank.

    Parameters
    ----------
    folder : str
        Of the bank.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and Dataset
        The teachers, and the data set that the bank's rows make.
    """
    bank = LogitBank(Path(base, Path(folder).expanduser()))
    teachers = [
        Teacher(
            family=record.family,
            name=record.teacher,
            seed=record.seed,
            params=record.params,
            macs=record.macs,
            source=record.source,
            weights_hash=record.weights_hash,
            preprocessing=record.preprocessing,
            saved=partial(_saved, bank, record.key),
            built_by=hash_of([record.sha256, record.built_by, record.options]),
            role=record.role,
            **_features(bank, record.key),
        )
        for record in bank.records
    ]
    return teachers, Dataset(bank.rows, np.empty((len(bank.rows.labels), 0), np.float32))


def _saved(bank: LogitBank, key: str) -> tuple[Rows, NDArray[Any]]:
    return bank.rows, bank.logits(key)


def _features(bank: LogitBank, key: str) -> dict[str, Any]:
    """What a teacher says of its features, where the bank has some."""
    if not bank.has_features(key):
        return {}
    return {"feature_layer": bank.features_of(key).record.layer, "saved_features": partial(bank.features_of, key)}
