"""The logit bank: what every teacher said about every example, kept on disk.

::

    bank/
      bank.json                          schema version, data set's name, fingerprint and class names
      rows.parquet                       one row an example: id, label, split
      <family>/<teacher>[-s<seed>]/
        logits.safetensors               (N, C) logits; its header says where they come from
        shard-00000.safetensors ...      while it is being collected

Rows are keyed by example id. Logits are stored, never probabilities: half-precision probabilities tie. A teacher's
bytes are compared with their hash when they are first read, so a damaged file is an error, never a wrong number.
Nothing here knows of torch modules; `capmismatch.collecting` fills a bank from a family.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from capmismatch._bank_files import hash_logits, open_logits, read_rows
from capmismatch._records import SPLITS, Rows, TeacherRecord, check_logits, make_rows, teacher_key
from capmismatch.errors import BankError, InputError, must_be_one_of

__all__ = [
    "SPLITS", "LogitBank", "Rows", "TeacherRecord", "bank_from_arrays", "make_rows", "teacher_key",
]  # fmt: skip

CHUNK_BYTES = 32 << 20  # how much of a bank is read at a time: memory stays bounded however many rows there are


class LogitBank:
    """Logits of many teachers on the same examples; open one with ``LogitBank(path)`` or make one with `collect`.

    Examples
    --------
    >>> import numpy as np
    >>> bank = bank_from_arrays({"small": np.eye(3), "large": 9 * np.eye(3)}, [0, 1, 2])
    >>> [record.teacher for record in bank.teachers], bank.logits("logits/large").shape
    (['small', 'large'], (3, 3))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path | None = Path(path)
        found = sorted(self.path.glob("*/*/logits.safetensors"))
        rows = read_rows(self.path)
        self._fill(rows, [open_logits(file, rows) for file in found])

    def _fill(self, rows: Rows, opened: Iterable[tuple[TeacherRecord, NDArray[Any]]]) -> None:
        self.rows = rows
        self.teachers: list[TeacherRecord] = []
        self._stored: dict[str, NDArray[Any]] = {}
        self._verified: set[str] = set()
        for record, logits in opened:
            self.teachers.append(record)
            self._stored[record.key] = logits
        self.teachers.sort(key=lambda r: (r.family, r.params is None, r.params or 0, r.order, r.teacher, r.seed or 0))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the columns."""
        return self.rows.classes

    @property
    def keys(self) -> list[str]:
        """The teachers' keys, smallest first within a family."""
        return [record.key for record in self.teachers]

    def __getitem__(self, key: str) -> TeacherRecord:
        must_be_one_of(key, self.keys, "teacher key")
        return self.teachers[self.keys.index(key)]

    def select(self, split: str | None) -> NDArray[np.int64]:
        """Row numbers of a split, or of all rows with None."""
        if split is None:
            return np.arange(len(self.rows.labels))
        present = [name for name in SPLITS if (self.rows.split == name).any()]
        must_be_one_of(split, present, "split")
        return np.flatnonzero(self.rows.split == split)

    def labels(self, split: str | None = None) -> NDArray[np.int64]:
        """(n,) labels of a split."""
        return self.rows.labels[self.select(split)]

    def logits(self, key: str, split: str | None = None) -> NDArray[Any]:
        """(n, C) logits of one teacher on a split, in the stored precision; all of it in memory."""
        return np.concatenate([part for part, _ in self.chunks(key, split)])

    def row(self, key: str, row: int) -> NDArray[Any]:
        """(C,) logits of one example, by its row in the bank."""
        return np.array(self._whole(key)[row])

    def chunks(
        self, key: str, split: str | None = None, rows: int | None = None
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Logits and labels of a split, some thousand rows at a time, so that memory stays bounded."""
        for part, labels in self.aligned_chunks([key], split, rows):
            yield part[0], labels

    def aligned_chunks(
        self, keys: Sequence[str], split: str | None = None, rows: int | None = None
    ) -> Iterator[tuple[list[NDArray[Any]], NDArray[np.int64]]]:
        """The same rows of several teachers at once: a list of (n, C) logits, and labels (n,)."""
        step = self._step(len(keys)) if rows is None else rows
        chosen = self.select(split)
        for start in range(0, len(chosen), step):
            here = chosen[start : start + step]
            yield [np.asarray(self._whole(key)[here]) for key in keys], self.rows.labels[here]

    def _whole(self, key: str) -> NDArray[Any]:
        """The (N, C) logits of a teacher as stored; their bytes are checked when they are first asked for."""
        if key not in self._verified:
            self._verify(self[key])
        return self._stored[key]

    def _verify(self, record: TeacherRecord) -> None:
        if record.sha256 and hash_logits(self._stored[record.key], self._step(1)) != record.sha256:
            place = record.key if self.path is None else self.path / record.key / "logits.safetensors"
            raise BankError(f"{place} is damaged: its logits do not match the hash stored with them")
        self._verified.add(record.key)

    def _step(self, teachers: int) -> int:
        return max(1, CHUNK_BYTES // (8 * len(self.classes) * max(1, teachers)))

    def table(self) -> pd.DataFrame:
        """One row a teacher: identity, size, accuracy over all rows, where it comes from."""
        columns = ["family", "teacher", "seed", "params", "macs", "accuracy", "dtype", "source"]
        known = [field.name for field in fields(TeacherRecord)]
        return pd.DataFrame([asdict(record) for record in self.teachers], columns=known)[columns]

    def verify(self) -> None:
        """Read every byte and compare with the stored hashes; raises BankError at the first difference."""
        for record in self.teachers:
            self._verify(record)

    def __repr__(self) -> str:
        counts = {name: int((self.rows.split == name).sum()) for name in SPLITS}
        splits = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        head = f"LogitBank of {self.rows.name!r}: {len(self.teachers)} teachers, {len(self.classes)} classes, {splits}"
        return f"{head}\n{self.table().to_string(index=False)}" if self.teachers else head

    def _repr_html_(self) -> str:
        head = escape(repr(self).split("\n", 1)[0])
        return f"<p><b>{head}</b></p>{self.table().to_html(index=False, escape=True, border=0)}"


def bank_from_arrays(
    logits: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    params: Mapping[str, int] | None = None,
    family: str = "logits",
    split: ArrayLike | None = None,
    name: str = "arrays",
) -> LogitBank:
    """Make a bank in memory from one array of logits (N, C) a teacher; nothing is written.

    Parameters
    ----------
    logits : teacher's name -> (N, C) array of logits
    labels : (N,) integers in [0, C)
    classes : names of the columns; their numbers by default
    params : teacher's name -> number of parameters; orders the family
    split : (N,) of "train", "val", "test"; all "val" by default
    """
    arrays = {teacher: _float_array(values, f"logits of {teacher!r}") for teacher, values in logits.items()}
    if not arrays:
        raise InputError("expected the logits of at least one teacher, got none")
    first = next(iter(arrays.values()))
    given = np.asarray(labels)
    rows = make_rows(
        name, given, classes if classes is not None else [str(c) for c in range(first.shape[1])], split=split
    )
    for teacher in params or {}:
        must_be_one_of(teacher, arrays, "teacher in params")
    opened = []
    for order, (teacher, values) in enumerate(arrays.items()):
        check_logits(values, rows, f"teacher {teacher!r}")
        record = TeacherRecord(
            family, teacher, params=(params or {}).get(teacher), source="arrays", dtype=str(values.dtype), order=order,
            accuracy=float((values.argmax(1) == rows.labels).mean()),
        )
        opened.append((record, values))
    bank = object.__new__(LogitBank)
    bank.path = None
    bank._fill(rows, opened)
    return bank


def _float_array(values: ArrayLike, place: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 2:
        raise InputError(f"expected {place} of shape (N, C), got shape {array.shape}")
    return array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
