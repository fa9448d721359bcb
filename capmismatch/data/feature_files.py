"""A teacher's features on disk: what its last linear layer reads, or a layer that is named, beside its logits.

::

    bank/<family>/<teacher>/
      features.safetensors               (N, D) float16; its header says which layer and whose
      features-00000.safetensors ...     while they are collected

A bank without features has none of these files, and its other files are the same with them and without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from capmismatch._utils.files import hash_of, replacing
from capmismatch.data.bank_files import (
    file_head,
    hash_logits,
    open_array,
    read_arrays,
    remove_shards,
    shard_file,
    write_arrays,
)
from capmismatch.data.records import TeacherRecord
from capmismatch.data.rows import Rows
from capmismatch.errors import BankError, InputError

FILE = "features.safetensors"
SHARD = "features"
DTYPE = "float16"
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class FeatureRecord:
    """What a bank knows of one teacher's features.

    Attributes
    ----------
    key : str
        Of the teacher.
    layer : str
        Whose output they are; "" of what the last linear layer reads.
    weights_hash : str
        Of the weights behind them.
    fingerprint : str
        Of the data set.
    sha256 : str
        Of the stored bytes.
    """

    key: str
    layer: str = ""
    weights_hash: str = ""
    fingerprint: str = ""
    sha256: str = ""


def as_stored(features: NDArray[Any], place: str, first_row: int = 0) -> NDArray[np.float16]:
    """Features (n, D) in the precision that a bank keeps.

    Parameters
    ----------
    features : ndarray
        Of some rows.
    place : str
        Whose they are, for messages.
    first_row : int
        Number of the first of them.

    Raises
    ------
    InputError
        Where they are no rows of numbers, or one is too large for float16, infinite or NaN.

    Examples
    --------
    >>> as_stored(np.ones((2, 3)), "teacher 'a'").dtype
    dtype('float16')
    """
    if features.ndim != 2 or not features.shape[1]:
        raise InputError(f"expected features of shape (rows, D), got {features.shape} from {place}")
    if features.size and not (float(features.max()) <= LARGEST and float(features.min()) >= -LARGEST):  # NaN, too
        row, column = np.argwhere(~(np.abs(features) <= LARGEST))[0].tolist()
        raise InputError(
            f"expected features up to {LARGEST:g} in size, as float16 holds them, got {features[row, column]:g} at row "
            f"{first_row + row}, column {column} of {place}: name another layer with feature_layer"
        )
    stored: NDArray[np.float16] = np.asarray(features).astype(DTYPE)
    return stored


def write_feature_shard(folder: Path, index: int, features: NDArray[np.float16], made_from: str) -> None:
    """Write the features of some rows atomically."""
    write_arrays(folder, index, {"features": features}, made_from, SHARD)


def has_feature_shard(folder: Path, index: int, rows: int, made_from: str) -> bool:
    """Whether the features of a shard are there, whole and of so many rows."""
    arrays = read_arrays(folder, index, made_from, SHARD)
    return arrays is not None and arrays.get("features", np.empty(0)).shape[:1] == (rows,)


def join_feature_shards(folder: Path, record: FeatureRecord, rows: Rows, shards: int) -> None:
    """Join the shards into features.safetensors, with their hash in its header, and remove them."""
    digest, width = hashlib.sha256(), -1
    record = replace(record, sha256=digest.hexdigest(), fingerprint=rows.fingerprint)
    with replacing(folder / FILE) as temporary, open(temporary, "wb") as file:
        for index in range(shards):
            part = load_file(shard_file(folder, index, SHARD))["features"]
            if index == 0:
                width = part.shape[1]
                file.write(_head(record, rows, width))  # with another hash of the same length: it is known at the end
            if part.shape[1] != width:
                found = sorted({part.shape[1], width})
                raise InputError(f"expected as many features of every row, got {found} from teacher {record.key}")
            digest.update(part.data)
            file.write(part.data)
        file.seek(0)
        file.write(_head(replace(record, sha256=digest.hexdigest()), rows, width))
    remove_shards(folder, SHARD)


def _head(record: FeatureRecord, rows: Rows, width: int) -> bytes:
    """The first bytes of a file of features; as many for all records that differ in their hash alone."""
    return file_head(asdict(record), {"features": (DTYPE, (len(rows.labels), width))})


def read_feature_record(file: Path) -> tuple[FeatureRecord, tuple[int, int]]:
    """What the header of a file of features says, and their shape."""
    try:
        with safe_open(file, "np") as opened:
            head = json.loads(opened.metadata()["capmismatch"])
            stored = opened.get_slice("features")
            shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
        check = head.pop("check")
        record = FeatureRecord(**head)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BankError(f"{file} is damaged or not a bank's: expected whole features, got {reason}") from None
    if hash_of(head) != check or dtype != "F16" or len(shape) != 2:
        raise BankError(f"{file} is damaged: its header does not match the hash stored with it")
    return record, (shape[0], shape[1])


class Features:
    """Features (N, D) of one teacher of a bank, to be read by rows; their bytes are checked when they are first read.

    Parameters
    ----------
    record : FeatureRecord
        What is known of them.
    stored : array of shape (N, D)
        In memory, or on disk.
    place : str
        Where they lie, for messages.
    """

    def __init__(self, record: FeatureRecord, stored: Any, place: str) -> None:
        self.record, self.stored, self._place = record, stored, place
        self._is_verified = not record.sha256

    @property
    def width(self) -> int:
        """D, how many features a row has."""
        return int(self.stored.shape[1])

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D) features of some rows, in the order given."""
        if not self._is_verified:
            self.verify()
        taken: NDArray[np.float16] = np.asarray(self.stored[rows])
        return taken

    def verify(self) -> None:
        """Raise a BankError where the bytes are not those of the hash stored with them."""
        if (
            self.record.sha256
            and hash_logits(self.stored, max(1, (32 << 20) // (2 * self.width))) != self.record.sha256
        ):
            raise BankError(f"{self._place} is damaged: its features do not match the hash stored with them")
        self._is_verified = True

    def cut(self, index: NDArray[np.int64]) -> Features:
        """Those of some rows, in memory."""
        return Features(replace(self.record, sha256="", fingerprint=""), self.take(index), self._place)


def open_features(file: Path, rows: Rows, record: TeacherRecord) -> Features:
    """The features of a teacher, which must be of this data set and of these weights; not yet compared with their hash.

    Raises
    ------
    BankError
        Where the file is damaged, or belongs to another teacher, other weights or other data.
    """
    about, shape = read_feature_record(file)
    expected = (record.key, record.weights_hash, rows.fingerprint)
    if (about.key, about.weights_hash, about.fingerprint) != expected:
        raise BankError(f"{file} belongs to another teacher, other weights or other data than {record.key} in its bank")
    if shape[0] != len(rows.labels):
        raise BankError(f"{file} has features of {shape[0]} rows, the bank has {len(rows.labels)}")
    start = file.stat().st_size - shape[0] * shape[1] * np.dtype(DTYPE).itemsize
    return Features(about, open_array(file, DTYPE, start, shape), str(file))


def features_in(folder: Path, rows: Rows, records: Iterable[TeacherRecord]) -> dict[str, Features]:
    """The features of all teachers of a bank that have some, by their keys."""
    files = {record.key: folder / record.key / FILE for record in records}
    return {
        record.key: open_features(files[record.key], rows, record) for record in records if files[record.key].exists()
    }
