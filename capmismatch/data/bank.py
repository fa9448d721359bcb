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
Nothing here knows of torch modules; `capmismatch.sources.collecting` fills a bank from a family.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from capmismatch._utils.optional import need
from capmismatch.data.bank_files import hash_logits, open_logits, read_rows
from capmismatch.data.records import TeacherRecord, teacher_key
from capmismatch.data.rows import SPLITS, Rows, check_logits, make_rows, stratified_order
from capmismatch.errors import BankError, InputError, must_be_one_of

if TYPE_CHECKING:
    import xarray

__all__ = [
    "SPLITS",
    "LogitBank",
    "Rows",
    "TeacherRecord",
    "bank_from_arrays",
    "make_rows",
    "teacher_key",
]

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

    def _fill(self, rows: Rows, opened: Iterable[tuple[TeacherRecord, Any]]) -> None:
        self.rows = rows
        self.teachers: list[TeacherRecord] = []
        self._stored: dict[str, Any] = {}
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
        return self.take(key, np.array([row]))[0]

    def take(self, key: str, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[Any]:
        """(n, K) logits of one teacher: chosen rows of the bank in the order given, all classes or a range of them."""
        return np.asarray(self._whole(key)[rows][:, columns])

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
            yield [self.take(key, here) for key in keys], self.rows.labels[here]

    def _whole(self, key: str) -> Any:
        """The (N, C) logits of a teacher as stored, an array or a `LogitFile`; checked when first asked for."""
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

    def subset(self, *, classes: Sequence[str | int] | None = None, n: int | None = None, seed: int = 0) -> LogitBank:
        """A bank in memory with some classes or fewer examples, all teachers in it.

        Parameters
        ----------
        classes : names, or numbers of columns: the examples of these classes are kept, and the columns of these classes
            in the given order, as if the teachers knew no others
        n : how many examples, drawn by class and split in the shares that they have; all by default
        seed : of that draw

        Examples
        --------
        >>> bank = bank_from_arrays({"net": np.eye(6)[:, :3]}, [0, 1, 2, 0, 1, 2], classes=["cat", "dog", "car"])
        >>> part = bank.subset(classes=["car", "cat"], n=2)
        >>> part.classes, part.labels().tolist()
        (('car', 'cat'), [1, 0])
        """
        columns = np.arange(len(self.classes)) if classes is None else self._columns(classes)
        place = np.full(len(self.classes), -1)
        place[columns] = np.arange(len(columns))
        rows = np.flatnonzero(place[self.rows.labels] >= 0)
        if n is not None:
            if not 1 <= n <= len(rows):
                raise InputError(f"expected n in [1, {len(rows)}], the examples of these classes, got {n!r}")
            groups = self.rows.labels[rows] * len(SPLITS) + np.searchsorted(sorted(SPLITS), self.rows.split[rows])
            rows = np.sort(rows[stratified_order(groups, seed)[:n]])
        new = make_rows(
            self.rows.name,
            place[self.rows.labels[rows]],
            [self.classes[column] for column in columns],
            ids=self.rows.ids[rows],
            split=self.rows.split[rows],
            inputs_hash=self.rows.inputs_hash,
        )
        opened = []
        for record in self.teachers:
            whole, step = self._whole(record.key), self._step(1)
            parts = [whole[rows[start : start + step]][:, columns] for start in range(0, len(rows), step)]
            logits = np.concatenate(parts)
            right = float((logits.argmax(1) == new.labels).mean())
            opened.append((replace(record, accuracy=right, sha256=hash_logits(logits, step)), logits))
        return _in_memory(new, opened)

    def _columns(self, classes: Sequence[str | int]) -> NDArray[np.int64]:
        for name in classes:
            if isinstance(name, str):
                must_be_one_of(name, self.classes, "class")
            elif not 0 <= name < len(self.classes):
                raise InputError(f"expected classes in [0, {len(self.classes)}), got {name!r}")
        found = [self.classes.index(name) if isinstance(name, str) else int(name) for name in classes]
        double = next((column for column in found if found.count(column) > 1), None)
        if double is not None:
            raise InputError(f"expected distinct classes, got {self.classes[double]!r} twice")
        return np.array(found, int)

    def to_xarray(self) -> xarray.Dataset:
        """All logits in one labelled array, dimensions ``(teacher, example, class)``; needs the extra ``xarray``.

        Coordinates say what the bank knows of each teacher (family, seed, params, ...) and of each example (id, label,
        split). Everything is read into memory.

        Examples
        --------
        >>> bank = bank_from_arrays({"small": np.eye(3), "large": 9 * np.eye(3)}, [0, 1, 2], classes=["a", "b", "c"])
        >>> float(bank.to_xarray().logits.sel({"teacher": "logits/large", "class": "b"}).max())
        9.0
        """
        xr = need("xarray", "xarray", "to_xarray")
        table = pd.DataFrame([asdict(record) for record in self.teachers])
        known = {name: ("teacher", table[name].to_numpy()) for name in table.columns if name != "teacher"}
        return xr.Dataset(
            {"logits": (("teacher", "example", "class"), np.stack([self.logits(key) for key in self.keys]))},
            coords={
                "teacher": self.keys,
                "example": self.rows.ids,
                "class": list(self.classes),
                "label": ("example", self.rows.labels),
                "split": ("example", self.rows.split),
                "name": ("teacher", table["teacher"].to_numpy()),
                **known,
            },
            attrs={"data": self.rows.name, "fingerprint": self.rows.fingerprint},
        )

    def table(self) -> pd.DataFrame:
        """One row a teacher: identity, size, accuracy over all rows, where it comes from, findings where there are."""
        columns = ["family", "teacher", "seed", "params", "macs", "accuracy", "dtype", "source"]
        known = [field.name for field in fields(TeacherRecord)]
        frame = pd.DataFrame([asdict(record) for record in self.teachers], columns=known)
        extra = ["options", "published", "findings"]
        return frame[columns + [name for name in extra if frame[name].map(bool, na_action="ignore").any()]]

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
        place = "in memory" if self.path is None else f"in {self.path}, {_bytes(self._stored.values())}"
        table = self.table().to_html(
            index=False,
            escape=True,
            border=0,
            na_rep="",
            formatters={"params": _thousands, "macs": _thousands, "accuracy": "{:.4f}".format},
        )
        return f"<p><b>{head}</b><br>{escape(place)}</p>{table}"


def _thousands(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}"


def _bytes(arrays: Iterable[Any]) -> str:
    return f"{sum(array.nbytes for array in arrays) / 1e6:,.1f} MB of logits"


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
            family,
            teacher,
            params=(params or {}).get(teacher),
            source="arrays",
            dtype=str(values.dtype),
            order=order,
            accuracy=float((values.argmax(1) == rows.labels).mean()),
        )
        opened.append((record, values))
    return _in_memory(rows, opened)


def _in_memory(rows: Rows, opened: Iterable[tuple[TeacherRecord, Any]]) -> LogitBank:
    bank = object.__new__(LogitBank)
    bank.path = None
    bank._fill(rows, opened)
    return bank


def _float_array(values: ArrayLike, place: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 2:
        raise InputError(f"expected {place} of shape (N, C), got shape {array.shape}")
    return array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
