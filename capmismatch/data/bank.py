"""The logit bank: every teacher's logits on every example, kept on disk.

::

    bank/
      bank.json                          schema version, data set's name, fingerprint and class names
      rows.parquet                       one row per example: id, label, split
      <family>/<teacher>[-s<seed>]/
        logits.safetensors               (N, C) logits; its header says where they come from
        features.safetensors             only on request: (N, D) features, see `capmismatch.data.feature_files`
        shard-00000.safetensors ...      while it is being collected

Rows are keyed by example id. Logits are stored, never probabilities: half-precision probabilities tie. A teacher's
bytes are compared with their hash when they are first read, so a damaged file is an error, never a wrong number.
Nothing here imports torch; `capmismatch.sources.collecting` fills a bank from a family.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from html import escape
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from capmismatch._utils.optional import need
from capmismatch._utils.text import format_count
from capmismatch.data.bank_files import hash_logits, open_logits, read_rows
from capmismatch.data.class_names import listed
from capmismatch.data.feature_files import FeatureRecord, Features, as_stored, features_in
from capmismatch.data.frames import check_columns_together, check_rows_together, columns_in_order
from capmismatch.data.logit_checks import NOT_LOGITS, logit_array, looks_like
from capmismatch.data.records import STUDENT, TeacherRecord, keys_named, names_of_students, only_key, teacher_key
from capmismatch.data.rows import SPLITS, Rows, check_logits, make_rows, readable, stratified_order
from capmismatch.errors import BankError, InputError, must_be_a_count, must_be_one_of, must_be_sizes
from capmismatch.findings import explain

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

    Parameters
    ----------
    path : str or Path
        Folder of the bank.

    Attributes
    ----------
    path : Path or None
        Folder of the bank; None for one in memory.
    rows : Rows
        Labels, ids, splits and class names of the examples.
    teachers : list of TeacherRecord
        What is known of each teacher, smallest first within a family.
    students : list of TeacherRecord
        The same of networks with the role "student": those that are to be taught, which are no teachers.

    Raises
    ------
    BankError
        Where the folder holds no bank, or a file of it is damaged or does not belong to it.

    See Also
    --------
    bank_from_arrays : make a bank in memory.
    capmismatch.collect : run the teachers of a family and store their logits.

    Examples
    --------
    >>> import numpy as np
    >>> bank = bank_from_arrays({"small": 4 * np.eye(3), "large": 9 * np.eye(3)}, [0, 1, 2])
    >>> [record.teacher for record in bank.teachers], bank.logits("logits/large").shape
    (['small', 'large'], (3, 3))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path | None = Path(path)
        files = sorted(self.path.glob("*/*/logits.safetensors"))
        rows = read_rows(self.path)
        self._fill(rows, [open_logits(file, rows) for file in files])
        self._features.update(features_in(self.path, rows, self.records))

    def _fill(self, rows: Rows, opened: Iterable[tuple[TeacherRecord, Any]]) -> None:
        self.rows = rows
        self.teachers: list[TeacherRecord] = []
        self.students: list[TeacherRecord] = []
        self._stored: dict[str, Any] = {}
        self._features: dict[str, Features] = {}
        self._verified: set[str] = set()
        for record, logits in opened:
            (self.students if record.role == STUDENT else self.teachers).append(record)
            self._stored[record.key] = logits
        for records in (self.teachers, self.students):
            records.sort(key=lambda r: (r.family, r.params is None, r.params or 0, r.order, r.teacher, r.seed or 0))

    @property
    def records(self) -> list[TeacherRecord]:
        """What is known of each teacher, then of each student."""
        return [*self.teachers, *self.students]

    @property
    def condensed(self) -> bool:
        """Whether rows are condensed, as those of a `TokenBank` may be: then not all logits are kept."""
        return False

    @property
    def of_texts(self) -> bool:
        """Whether rows are positions of texts, as language models have them."""
        return self.rows.sequences is not None

    def must_keep_all(self, what: str) -> None:
        """Raise an InputError that names `what`, in the plural, where rows are condensed."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the columns."""
        return self.rows.classes

    @property
    def keys(self) -> list[str]:
        """The teachers' keys, smallest first within a family."""
        return [record.key for record in self.teachers]

    def __getitem__(self, key: str) -> TeacherRecord:
        key = self.key_of(key)
        return next(record for record in self.records if record.key == key)

    def key_of(self, teacher: str) -> str:
        """The key of one teacher by its key, ``family/name`` or name; of several training runs the first, told so.

        Students are found in the same way, where no teacher has that name.
        """
        if teacher in self.keys or any(record.key == teacher for record in self.students):
            return teacher
        students = _runs_of(self.students)
        named = any(teacher in (name, f"{family}/{name}") for _, family, name in students)
        is_student = named and not any(teacher in (name, f"{family}/{name}") for _, family, name in self._runs)
        return only_key(teacher, students if is_student else self._runs, stacklevel=4)

    def keys_of(self, teacher: str) -> list[str]:
        """The keys of all training runs of a teacher, by its key, ``family/name`` or name."""
        return keys_named(teacher, self._runs)

    @property
    def _runs(self) -> list[tuple[str, str, str]]:
        return _runs_of(self.teachers)

    def keep(self, keys: Iterable[str]) -> None:
        """Leave out all teachers and students but these; nothing on disk changes."""
        kept = set(keys)
        self.teachers = [record for record in self.teachers if record.key in kept]
        self.students = [record for record in self.students if record.key in kept]

    def has_features(self, key: str) -> bool:
        """Whether the bank has features of a teacher or student."""
        return self.key_of(key) in self._features

    @property
    def all_have_features(self) -> bool:
        """Whether the bank has features of each teacher."""
        return bool(self.teachers) and all(record.key in self._features for record in self.teachers)

    @property
    def feature_hashes(self) -> dict[str, str]:
        """SHA-256 of the stored features of each network that has some, by its key."""
        return {key: features.record.sha256 for key, features in sorted(self._features.items())}

    def features_of(self, key: str) -> Features:
        """The features (N, D) of one teacher, to be read by rows.

        Raises
        ------
        InputError
            Where the bank has none of it.
        """
        key = self.key_of(key)
        if key not in self._features:
            there = sorted(self._features)
            raise InputError(
                f"expected features of {key!r}, the bank has those of {there or 'no teacher'}: collect with "
                "features=True"
            )
        return self._features[key]

    def features(self, key: str, split: str | None = None) -> NDArray[np.float16]:
        """(n, D) features of one teacher on a split; all of it in memory."""
        return self.features_of(key).take(self.select(split))

    def select(self, split: str | None) -> NDArray[np.int64]:
        """Row numbers of a split, or of all rows with None."""
        return self.rows.select(split)

    def labels(self, split: str | None = None) -> NDArray[np.int64]:
        """(n,) labels of a split."""
        return self.rows.labels[self.select(split)]

    def logits(self, key: str, split: str | None = None) -> NDArray[Any]:
        """(n, C) logits of one teacher on a split, in the stored precision; all of it in memory."""
        return np.concatenate([logits for logits, _ in self.chunks(key, split)])

    def row(self, key: str, row: int) -> NDArray[Any]:
        """(C,) logits of one example, by its row in the bank."""
        return self.take(key, np.array([row]))[0]

    def take(self, key: str, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[Any]:
        """(n, K) logits of one teacher: chosen rows of the bank in the order given, all classes or a range of them."""
        return np.asarray(self._verified_logits(key)[rows][:, columns])

    def chunks(
        self, key: str, split: str | None = None, rows: int | None = None
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Logits and labels of a split, some thousand rows at a time, so that memory stays bounded."""
        for logits_of_keys, labels in self.aligned_chunks([key], split, rows):
            yield logits_of_keys[0], labels

    def aligned_chunks(
        self, keys: Sequence[str], split: str | None = None, rows: int | None = None
    ) -> Iterator[tuple[list[NDArray[Any]], NDArray[np.int64]]]:
        """The same rows of several teachers at once: a list of (n, C) logits, and labels (n,)."""
        step = self._step(len(keys)) if rows is None else rows
        chosen = self.select(split)
        for start in range(0, len(chosen), step):
            chunk = chosen[start : start + step]
            yield [self.take(key, chunk) for key in keys], self.rows.labels[chunk]

    def looked_at(self, key: str, rows: NDArray[np.int64]) -> tuple[float, float, str]:
        """Of some rows of one teacher: drift, share of tied rows, and what its logits look like.

        `capmismatch.data.bank_checks.check_bank` says what these are.
        """
        target = self.rows.labels[rows][:, None] == np.arange(len(self.classes))
        stored = self.take(key, rows)
        logits = stored.astype(np.float64)
        spread, mean = logits.std(axis=1).mean(), logits.mean()
        wide = stored.astype(np.promote_types(stored.dtype, np.float32), copy=False)  # no half is sorted quickly
        wrong = np.sort(np.where(target, np.inf, wide), axis=1)[:, : len(self.classes) - 1]
        tied = float((wrong[:, 1:] == wrong[:, :-1]).any(axis=1).mean())
        return float(mean / spread) if spread else 0.0, tied, looks_like(logits)

    def stored(self, key: str) -> Any:
        """The (N, C) logits of a teacher as they are stored, an array or a `LogitFile`; not checked against a hash."""
        return self._stored[self.key_of(key)]

    def resized(self, params: Mapping[str, int]) -> Self:
        """The same bank with other numbers of parameters, by the teachers' keys."""
        new = copy.copy(self)
        runs = [replace(run, params=params.get(run.key, run.params)) for run in self.records]
        new._fill(self.rows, [(run, self._stored[run.key]) for run in runs])
        new._features = self._features
        return new

    def _verified_logits(self, key: str) -> Any:
        """The (N, C) logits of a teacher as stored, an array or a `LogitFile`; checked when first asked for."""
        if key not in self._verified:
            record = self[key]
            if record.key not in self._verified:
                self._verify(record)
            key = record.key
        return self._stored[key]

    def _verify(self, record: TeacherRecord) -> None:
        if record.sha256 and hash_logits(self._stored[record.key], self._step(1)) != record.sha256:
            file = record.key if self.path is None else self.path / record.key / "logits.safetensors"
            raise BankError(f"{file} is damaged: its logits do not match the hash stored with them")
        self._verified.add(record.key)

    def _step(self, teachers: int) -> int:
        """How many rows of so many teachers are read at a time."""
        return max(1, CHUNK_BYTES // (8 * len(self.classes) * max(1, teachers)))

    def subset(self, *, classes: Sequence[str | int] | None = None, n: int | None = None, seed: int = 0) -> LogitBank:
        """A bank in memory with some classes or fewer examples, all teachers in it.

        Parameters
        ----------
        classes : sequence of str or int, optional
            Names, or numbers of columns: the examples of these classes remain, and the columns of these classes in the
            given order, as if the teachers knew no others. All by default.
        n : int, optional
            How many examples, drawn by class and split in proportion; all by default.
        seed : int
            Of that draw.

        Returns
        -------
        LogitBank
            In memory; accuracies and hashes are those of the subset.

        Examples
        --------
        >>> bank = bank_from_arrays({"net": 4 * np.eye(6)[:, :3]}, [0, 1, 2, 0, 1, 2], classes=["cat", "dog", "car"])
        >>> small = bank.subset(classes=["car", "cat"], n=2)
        >>> small.classes, small.labels().tolist()
        (('car', 'cat'), [1, 0])
        """
        columns = np.arange(len(self.classes)) if classes is None else self._columns(classes)
        new_label = np.full(len(self.classes), -1)
        new_label[columns] = np.arange(len(columns))
        index = np.flatnonzero(new_label[self.rows.labels] >= 0)
        if n is not None:
            index = self._drawn(index, n, seed)
        rows = make_rows(
            self.rows.name,
            new_label[self.rows.labels[index]],
            [self.classes[column] for column in columns],
            ids=self.rows.ids[index],
            split=self.rows.split[index],
            inputs_hash=self.rows.inputs_hash,
            sequences=None if self.rows.sequences is None else self.rows.sequences[index],
        )
        cut = bank_in_memory(rows, [self._cut(record, index, columns, rows) for record in self.records])
        cut._features = {key: features.cut(index) for key, features in self._features.items()}
        return cut

    def _drawn(self, index: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
        """Draw `n` of some rows, stratified by class and split; in the order of the bank."""
        if not isinstance(n, Integral) or isinstance(n, bool) or not 1 <= n <= len(index):
            raise InputError(f"expected n in [1, {len(index)}], the examples of these classes, got {n!r}")
        groups = self.rows.labels[index] * len(SPLITS) + np.searchsorted(sorted(SPLITS), self.rows.split[index])
        return np.sort(index[stratified_order(groups, seed)[:n]])

    def _cut(
        self, record: TeacherRecord, index: NDArray[np.int64], columns: NDArray[np.int64], rows: Rows
    ) -> tuple[TeacherRecord, NDArray[Any]]:
        """A teacher's logits at some rows and columns, and its record for these."""
        stored, step = self._verified_logits(record.key), self._step(1)
        chunks = [stored[index[start : start + step]][:, columns] for start in range(0, len(index), step)]
        logits = np.concatenate(chunks)
        return replace(record, accuracy=_accuracy(logits, rows), sha256=hash_logits(logits, step)), logits

    def _columns(self, classes: Sequence[str | int]) -> NDArray[np.int64]:
        for name in classes:
            if isinstance(name, str):
                must_be_one_of(name, self.classes, "class")
            elif not isinstance(name, Integral) or not 0 <= name < len(self.classes):
                raise InputError(f"expected classes in [0, {len(self.classes)}), got {name!r}")
        columns = [self.classes.index(name) if isinstance(name, str) else int(name) for name in classes]
        repeated = next((column for column in columns if columns.count(column) > 1), None)
        if repeated is not None:
            raise InputError(f"expected distinct classes, got {self.classes[repeated]!r} twice")
        return np.array(columns, int)

    def to_xarray(self) -> xarray.Dataset:
        """All logits in one labelled array, dimensions ``(teacher, example, class)``; needs the extra ``xarray``.

        Coordinates hold what the bank knows of each teacher (family, seed, params, ...) and of each example (id, label,
        split). Everything is read into memory.

        Returns
        -------
        xarray.Dataset
            With the variable ``logits``; the coordinate ``teacher`` holds the keys, ``name`` the teachers' names.

        Examples
        --------
        >>> bank = bank_from_arrays({"small": 4 * np.eye(3), "large": 9 * np.eye(3)}, [0, 1, 2], classes=list("abc"))
        >>> float(bank.to_xarray().logits.sel({"teacher": "logits/large", "class": "b"}).max())
        9.0
        """
        xr = need("xarray", "xarray", "to_xarray")
        table = pd.DataFrame([asdict(record) for record in self.teachers])
        of_teachers = {name: ("teacher", table[name].to_numpy()) for name in table.columns if name != "teacher"}
        return xr.Dataset(
            {"logits": (("teacher", "example", "class"), np.stack([self.logits(key) for key in self.keys]))},
            coords={
                "teacher": self.keys,
                "example": self.rows.ids,
                "class": list(self.classes),
                "label": ("example", self.rows.labels),
                "split": ("example", self.rows.split),
                "name": ("teacher", table["teacher"].to_numpy()),
                **of_teachers,
            },
            attrs={"data": self.rows.name, "fingerprint": self.rows.fingerprint},
        )

    def table(self) -> pd.DataFrame:
        """Tabulate the teachers, smallest first within a family.

        Returns
        -------
        pandas.DataFrame
            One row per teacher, with the columns

            * ``family``, ``teacher``, ``seed``: which training run of which teacher
            * ``params``, ``macs``: parameters, and multiply-accumulates for one example; missing where unknown
            * ``accuracy``: over all rows of the bank, in [0, 1]
            * ``dtype``: of the stored logits
            * ``source``: where the teacher comes from
            * ``options``, ``published``, ``findings``: as in `TeacherRecord`, each only if any teacher has some
        """
        columns = ["family", "teacher", "seed", "params", "macs", "accuracy", "dtype", "source"]
        all_columns = [field.name for field in fields(TeacherRecord)]
        frame = pd.DataFrame([asdict(record) for record in self.teachers], columns=all_columns)
        extra = ["options", "published", "findings"]
        return frame[columns + [name for name in extra if frame[name].map(bool, na_action="ignore").any()]]

    def verify(self) -> None:
        """Read every byte and compare with the stored hashes; raises BankError at the first difference."""
        for record in self.records:
            self._verify(record)
        for features in self._features.values():
            features.verify()

    def __repr__(self) -> str:
        splits = ", ".join(f"{count} {name}" for name, count in self.rows.split_counts.items())
        with_students = f" and {len(self.students)} students" if self.students else ""
        teachers = f"{len(self.teachers)} teachers{with_students}"
        head = f"LogitBank of {self.rows.name!r}: {teachers}, {len(self.classes)} classes, {splits}"
        return f"{head}\n{self.table().to_string(index=False)}" if self.teachers else head

    def _repr_html_(self) -> str:
        head = escape(repr(self).split("\n", 1)[0])
        where = "in memory" if self.path is None else f"in {self.path}, {_bytes(self._stored.values())}"
        shown = partial(format_count, missing="")
        table = self.table().to_html(
            index=False,
            escape=True,
            border=0,
            na_rep="",
            formatters={"params": shown, "macs": shown, "accuracy": "{:.4f}".format},
        )
        return f"<p><b>{head}</b><br>{escape(where)}</p>{table}"


def _runs_of(records: Iterable[TeacherRecord]) -> list[tuple[str, str, str]]:
    return [(record.key, record.family, record.teacher) for record in records]


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
    students: Sequence[str] = (),
    features: Mapping[str, ArrayLike] | None = None,
) -> LogitBank:
    """Make a bank in memory from one array of logits (N, C) per teacher; nothing is written.

    Parameters
    ----------
    logits : mapping of str to array_like of shape (N, C)
        Each teacher's name and its logits.
    labels : array_like of shape (N,)
        Integers in [0, C).
    classes : sequence of str, optional
        Names of the columns; their numbers by default.
    params : mapping of str to int, optional
        Each teacher's number of parameters; orders the family.
    family : str
        Name of the family.
    split : array_like of shape (N,), optional
        "train", "val" or "test" for each example; all "val" by default.
    name : str
        Name of the data set.
    students : sequence of str, optional
        Names among those of `logits` of networks that are to be taught: they get the role "student".
    features : mapping of str to array_like of shape (N, D), optional
        Features of some networks, such as what their last linear layer reads; kept as float16.

    Returns
    -------
    LogitBank
        In memory, with the keys ``family/teacher``.

    Raises
    ------
    InputError
        Where an array has another shape than the first one or the labels ask for, or holds NaN or infinity; where
        pandas objects have their rows in different orders, or columns that are named after some classes only.

    See Also
    --------
    LogitBank : open a bank on disk.

    Examples
    --------
    >>> bank_from_arrays({"small": 4 * np.eye(3)}, [0, 1, 2]).keys
    ['logits/small']
    """
    if isinstance(logits, Mapping):
        classes = listed(classes, name)
        check_rows_together({"the labels": labels} | {f"the logits of {str(name)!r}": z for name, z in logits.items()})
        logits = {name: columns_in_order(z, classes, f"logits of {str(name)!r}") for name, z in logits.items()}
        check_columns_together({f"the logits of {str(name)!r}": z for name, z in logits.items()}, classes)
    arrays = _arrays_by_name(logits)
    if classes is None:
        classes = [str(column) for column in range(next(iter(arrays.values())).shape[1])]
    rows = make_rows(name, labels, classes, split=split)
    must_be_sizes(params)
    sizes = {str(teacher): size for teacher, size in (params or {}).items()}
    for teacher, size in sizes.items():
        must_be_one_of(teacher, arrays, "teacher in params")
        must_be_a_count(size, f"params of teacher {teacher!r}")
    students = names_of_students(students, arrays)
    given = {
        str(teacher): logit_array(values, f"features of {teacher!r}") for teacher, values in (features or {}).items()
    }
    for teacher in given:
        must_be_one_of(teacher, arrays, "network in features")
    opened = []
    for order, (teacher, values) in enumerate(arrays.items()):
        check_logits(values, rows, f"teacher {teacher!r}")
        record = TeacherRecord(
            family,
            teacher,
            params=sizes.get(teacher),
            source="arrays",
            dtype=str(values.dtype),
            order=order,
            accuracy=_accuracy(values, rows),
            findings=_findings(values, teacher),
            role=STUDENT if teacher in students else "",
        )
        opened.append((record, values))
    bank = bank_in_memory(rows, opened)
    for teacher, values in given.items():
        place = f"teacher {teacher!r}"
        if len(values) != len(rows.labels):
            raise InputError(f"expected features of {len(rows.labels)} rows of {place}, got {len(values)}")
        key = teacher_key(family, teacher, None)
        bank._features[key] = Features(FeatureRecord(key), as_stored(values, place), place)
    return bank


def _arrays_by_name(logits: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Each teacher's logits; names that are no text, such as the 20 of a ResNet-20, become text."""
    if not isinstance(logits, Mapping):
        raise InputError(f"expected a mapping from teachers' names to logits, got {type(logits).__name__}")
    named = {readable(teacher, "the names of teachers"): values for teacher, values in logits.items()}
    if blank := [name for name in named if not name.strip()]:
        raise InputError(f"expected a name for each teacher, got {blank[0]!r}")
    arrays = {teacher: logit_array(values, f"logits of {teacher!r}") for teacher, values in named.items()}
    if not arrays:
        raise InputError("expected the logits of at least one teacher, got none")
    if len(arrays) < len(logits):
        raise InputError(f"expected distinct names of teachers, got {list(logits)}")
    return arrays


def _findings(logits: NDArray[Any], teacher: str) -> str:
    """CM016, with a warning, where the "logits" are something else."""
    kind = looks_like(logits)
    if kind not in NOT_LOGITS:
        return ""
    warnings.warn(f"CM016 {explain('CM016').title}: teacher {teacher!r} holds {kind}", stacklevel=3)
    return "CM016"


def _accuracy(logits: NDArray[Any], rows: Rows) -> float:
    return float((logits.argmax(1) == rows.labels).mean())


def bank_in_memory(rows: Rows, opened: Iterable[tuple[TeacherRecord, Any]]) -> LogitBank:
    """A bank of arrays of logits (N, C), each with what is known of its teacher; nothing is checked again."""
    bank = object.__new__(LogitBank)
    bank.path = None
    bank._fill(rows, opened)
    return bank
