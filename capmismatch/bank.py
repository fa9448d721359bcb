"""The logit bank: what every teacher said about every example, kept on disk.

::

    bank/
      bank.json                          schema version, data set's name, fingerprint and class names
      rows.parquet                       one row an example: id, label, split
      <family>/<teacher>[-s<seed>]/
        logits.safetensors               (N, C) logits; its header says where they come from
        shard-00000.safetensors ...      while it is being collected

Rows are keyed by example id. Logits are stored, never probabilities: half-precision probabilities tie. Nothing here
knows of torch modules; `capmismatch.collect` fills a bank from a family.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open

from capmismatch._files import replacing, write_json, write_table
from capmismatch.errors import BankError, InputError, must_be_one_of

SCHEMA = 1
SPLITS = ("train", "val", "test")
CHUNK_BYTES = 32 << 20  # how much of a bank is read at a time: memory stays bounded however many rows there are


@dataclass(frozen=True)
class TeacherRecord:
    """What a bank knows of one teacher.

    Attributes
    ----------
    family, teacher, seed : identity; `seed` numbers the training runs of one teacher, None where only one is known
    params, macs : None where unknown
    source, weights_hash, preprocessing : where the logits come from
    dtype : of the stored logits
    accuracy : over all rows of the bank
    order : place in its family as loaded
    sha256 : of the stored logits' bytes
    """

    family: str
    teacher: str
    seed: int | None = None
    params: int | None = None
    macs: int | None = None
    source: str = ""
    weights_hash: str = ""
    preprocessing: str = ""
    dtype: str = "float32"
    accuracy: float = float("nan")
    order: int = 0
    sha256: str = ""

    @property
    def key(self) -> str:
        """Unique in a bank: family/teacher, and -s<seed> where the seed is known."""
        return teacher_key(self.family, self.teacher, self.seed)


def teacher_key(family: str, teacher: str, seed: int | None) -> str:
    """The name under which a bank keeps a teacher; folder names of odd characters are escaped.

    Examples
    --------
    >>> teacher_key("mlp", "mlp48", 1)
    'mlp/mlp48-s1'
    """
    run = "" if seed is None else f"-s{seed}"
    return f"{quote(family, safe=' +=@')}/{quote(teacher, safe=' +=@')}{run}"


@dataclass(frozen=True, eq=False)
class Rows:
    """The examples of a bank, in order.

    Attributes
    ----------
    name : of the data set
    labels : (N,) int64
    ids : (N,) str, unique
    split : (N,) str, "train", "val" or "test"
    classes : names, in the order of the logits' columns
    fingerprint : of the whole data set: inputs, labels, ids, classes
    """

    name: str
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    split: NDArray[np.str_]
    classes: tuple[str, ...]
    fingerprint: str


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
        self.rows = _read_rows(self.path)
        self.teachers: list[TeacherRecord] = []
        self._read: dict[str, Callable[[int, int], NDArray[Any]]] = {}
        found = sorted(self.path.glob("*/*/logits.safetensors"))
        self._adopt(_open_logits(file, self.rows) for file in found)

    def _adopt(self, opened: Any) -> None:
        for record, read in opened:
            self.teachers.append(record)
            self._read[record.key] = read
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

    def chunks(
        self, key: str, split: str | None = None, rows: int | None = None
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Logits and labels of a split, some thousand rows at a time, so that memory stays bounded."""
        self[key]
        for part, labels in self.aligned_chunks([key], split, rows):
            yield part[0], labels

    def aligned_chunks(
        self, keys: Sequence[str], split: str | None = None, rows: int | None = None
    ) -> Iterator[tuple[list[NDArray[Any]], NDArray[np.int64]]]:
        """The same rows of several teachers at once: a list of (n, C) logits, and labels (n,)."""
        step = rows or max(1, CHUNK_BYTES // (8 * len(self.classes) * max(1, len(keys))))
        chosen = self.select(split)
        for start in range(0, len(chosen), step):
            here = chosen[start : start + step]
            low, high = int(here[0]), int(here[-1]) + 1
            whole = high - low == len(here)
            parts = [self._read[key](low, high) for key in keys]
            yield [part if whole else part[here - low] for part in parts], self.rows.labels[here]

    def table(self) -> pd.DataFrame:
        """One row a teacher: identity, size, accuracy over all rows, where it comes from."""
        columns = ["family", "teacher", "seed", "params", "macs", "accuracy", "dtype", "source"]
        frame = pd.DataFrame([asdict(record) for record in self.teachers], columns=[f.name for f in fields(TeacherRecord)])
        return frame[columns]

    def verify(self) -> None:
        """Read every byte and compare with the stored hashes; raises BankError at the first difference."""
        for record in self.teachers:
            digest = hashlib.sha256()
            step = max(1, CHUNK_BYTES // (4 * len(self.classes)))
            for start in range(0, len(self.rows.labels), step):
                part = self._read[record.key](start, min(start + step, len(self.rows.labels)))
                digest.update(np.ascontiguousarray(part).tobytes())
            if record.sha256 and digest.hexdigest() != record.sha256:
                raise BankError(f"{self._place(record.key)} is damaged: its logits do not match the hash stored with them")

    def _place(self, key: str) -> str:
        return str(self.path / key / "logits.safetensors") if self.path else key

    def __repr__(self) -> str:
        counts = {name: int((self.rows.split == name).sum()) for name in SPLITS}
        splits = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        lines = [f"LogitBank of {self.rows.name!r}: {len(self.teachers)} teachers, {len(self.classes)} classes, {splits}"]
        return "\n".join([*lines, self.table().to_string(index=False)] if self.teachers else lines)

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
    bank = object.__new__(LogitBank)
    bank.path, bank.rows, bank.teachers, bank._read = None, rows, [], {}
    opened = []
    for order, (teacher, values) in enumerate(arrays.items()):
        check_logits(values, rows, f"teacher {teacher!r}")
        record = TeacherRecord(
            family, teacher, params=(params or {}).get(teacher), source="arrays", dtype=str(values.dtype), order=order,
            accuracy=float((values.argmax(1) == rows.labels).mean()),
        )
        opened.append((record, lambda low, high, values=values: values[low:high]))
    bank._adopt(opened)
    return bank


def make_rows(
    name: str,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    ids: ArrayLike | None = None,
    split: ArrayLike | None = None,
    inputs_hash: str = "",
    place: str = "labels",
) -> Rows:
    """Check labels, ids, splits and class names against each other, and put a fingerprint on them."""
    y = np.asarray(labels)
    if y.ndim != 1 or len(y) == 0:
        raise InputError(f"expected {place} of shape (N,) with N > 0, got shape {y.shape}")
    names = tuple(str(c) for c in classes)
    if len(names) < 2:
        raise InputError(f"expected at least 2 classes, got {len(names)} ({', '.join(names)}) for {place}")
    if len(set(names)) != len(names):
        double = next(c for c in names if names.count(c) > 1)
        raise InputError(f"expected distinct class names, got {double!r} twice for {place}")
    whole = y.astype(np.int64)
    bad = np.flatnonzero((whole < 0) | (whole >= len(names)) | (whole != y))
    if len(bad):
        raise InputError(f"expected labels in [0, {len(names)}), got {y[bad[0]]} at row {bad[0]} of {place}")
    identity = np.arange(len(y)).astype(str) if ids is None else np.asarray(ids).astype(str)
    if identity.shape != y.shape:
        raise InputError(f"expected {len(y)} ids, one an example, got shape {identity.shape} for {place}")
    if len(np.unique(identity)) != len(identity):
        unique, count = np.unique(identity, return_counts=True)
        raise InputError(f"expected unique ids, got {unique[count > 1][0]!r} more than once for {place}")
    parts = np.full(len(y), "val") if split is None else np.asarray(split).astype(str)
    if parts.shape != y.shape:
        raise InputError(f"expected {len(y)} split names, got shape {parts.shape} for {place}")
    for part in np.unique(parts):
        must_be_one_of(str(part), SPLITS, "split")
    digest = hashlib.sha256()
    for piece in (inputs_hash, "\0".join(names), "\0".join(identity), "\0".join(parts)):
        digest.update(piece.encode())
        digest.update(b"\1")
    digest.update(whole.tobytes())
    return Rows(name, whole, identity, parts, names, digest.hexdigest())


def check_logits(logits: NDArray[Any], rows: Rows, place: str) -> None:
    """Raise unless `logits` are finite and of shape (N, C) for these rows."""
    expected = (len(rows.labels), len(rows.classes))
    if logits.ndim != 2 or logits.shape[0] != expected[0]:
        raise InputError(f"expected logits of shape {expected}, got {logits.shape} from {place}")
    if logits.shape[1] != expected[1]:
        raise InputError(f"expected {expected[1]} classes, got {logits.shape[1]} from {place}")
    check_finite(logits, place)


def check_finite(logits: NDArray[Any], place: str, first_row: int = 0) -> None:
    """Raise at the first NaN or infinite logit, naming its row and class."""
    bad = np.argwhere(~np.isfinite(logits))
    if len(bad):
        row, column = bad[0]
        raise InputError(f"expected finite logits, got {logits[row, column]} at row {row + first_row}, class {column} of {place}")


def _float_array(values: ArrayLike, place: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 2:
        raise InputError(f"expected {place} of shape (N, C), got shape {array.shape}")
    return array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)


# --- on disk -----------------------------------------------------------------------------------------------------------


def create(path: str | os.PathLike[str], rows: Rows) -> Path:
    """Make the folder of a bank, or check that the one there was made from the same data set."""
    folder = Path(path)
    if (folder / "bank.json").exists():
        there = _read_rows(folder)
        if there.fingerprint != rows.fingerprint:
            raise BankError(
                f"{folder} holds a bank of data set {there.name!r} with fingerprint {there.fingerprint[:12]}, not of "
                f"{rows.name!r} with fingerprint {rows.fingerprint[:12]}: other rows, labels, classes or splits. "
                "Give another folder, or remove that one."
            )
        return folder
    frame = pd.DataFrame({"id": rows.ids, "label": rows.labels, "split": rows.split})
    write_table(folder / "rows.parquet", frame)
    write_json(  # last: a folder with a bank.json is whole
        folder / "bank.json",
        {"schema": SCHEMA, "name": rows.name, "fingerprint": rows.fingerprint, "classes": list(rows.classes),
         "rows": len(rows.labels)},
    )
    return folder


def _read_rows(folder: Path) -> Rows:
    manifest = folder / "bank.json"
    if not manifest.exists():
        raise BankError(f"{folder} holds no bank: there is no bank.json in it")
    try:
        head = json.loads(manifest.read_text(encoding="utf-8"))
        schema = head["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise BankError(f"{manifest} is damaged: {error}") from None
    if schema != SCHEMA:
        raise BankError(f"{manifest} has schema {schema}, this version of capmismatch reads schema {SCHEMA}")
    try:
        frame = pd.read_parquet(folder / "rows.parquet")
        rows = Rows(
            head["name"], frame["label"].to_numpy(np.int64), frame["id"].to_numpy().astype(str),
            frame["split"].to_numpy().astype(str), tuple(head["classes"]), head["fingerprint"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise BankError(f"{folder / 'rows.parquet'} is missing or damaged: {error}") from None
    if len(rows.labels) != head["rows"]:
        raise BankError(f"{folder / 'rows.parquet'} has {len(rows.labels)} rows, bank.json says {head['rows']}")
    return rows


def write_shard(folder: Path, index: int, logits: NDArray[Any]) -> None:
    """Write one shard of rows atomically."""
    from safetensors.numpy import save

    with replacing(_shard(folder, index)) as temporary:
        temporary.write_bytes(save({"logits": np.ascontiguousarray(logits)}))


def shard_is_whole(folder: Path, index: int, shape: tuple[int, int], dtype: str) -> bool:
    """Whether the shard is there with this shape and precision; a damaged one counts as missing."""
    try:
        with safe_open(_shard(folder, index), "np") as file:
            part = file.get_slice("logits")
            return tuple(part.get_shape()) == shape and part.get_dtype() == _SAFE_NAMES[dtype]
    except (FileNotFoundError, SafetensorError):
        return False


def finish(folder: Path, record: TeacherRecord, rows: Rows, shards: int) -> TeacherRecord:
    """Join the shards into logits.safetensors, with accuracy and hash in its header, and remove them.

    safetensors cannot append, and joining in memory would need the whole array: the header is written by hand (8 bytes of
    length, JSON, then the raw rows), and read back through the library.
    """
    digest, right, start = hashlib.sha256(), 0, 0
    for index in range(shards):
        part = _load_shard(folder, index)
        digest.update(part.tobytes())
        right += int((part.argmax(1) == rows.labels[start : start + len(part)]).sum())
        start += len(part)
    record = replace(record, accuracy=right / len(rows.labels), sha256=digest.hexdigest())
    itemsize = np.dtype(record.dtype).itemsize
    shape = [len(rows.labels), len(rows.classes)]
    head = json.dumps(
        {"__metadata__": {"capmismatch": json.dumps({**asdict(record), "fingerprint": rows.fingerprint}, sort_keys=True)},
         "logits": {"dtype": _SAFE_NAMES[record.dtype], "shape": shape, "data_offsets": [0, shape[0] * shape[1] * itemsize]}}
    ).encode()
    head += b" " * (-len(head) % 8)  # the format aligns the data to 8 bytes
    with replacing(folder / "logits.safetensors") as temporary, open(temporary, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for index in range(shards):
            file.write(_load_shard(folder, index).tobytes())
    for shard in folder.glob("shard-*.safetensors"):
        shard.unlink()
    return record


_SAFE_NAMES = {"float32": "F32", "float16": "F16"}


def _shard(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def _load_shard(folder: Path, index: int) -> NDArray[Any]:
    from safetensors.numpy import load_file

    return load_file(_shard(folder, index))["logits"]


def read_record(file: Path) -> tuple[TeacherRecord, str]:
    """The teacher's record in a logits.safetensors, and the fingerprint of the data set it was collected on."""
    try:
        with safe_open(file, "np") as opened:
            head = json.loads(opened.metadata()["capmismatch"])
        fingerprint = head.pop("fingerprint")
        return TeacherRecord(**head), fingerprint
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(f"{file} is damaged or not a bank's: {error}") from None


def _open_logits(file: Path, rows: Rows) -> tuple[TeacherRecord, Callable[[int, int], NDArray[Any]]]:
    record, fingerprint = read_record(file)
    if fingerprint != rows.fingerprint:
        raise BankError(f"{file} was collected on another data set (fingerprint {fingerprint[:12]}) than this bank's")
    with safe_open(file, "np") as opened:
        shape = tuple(opened.get_slice("logits").get_shape())
    if shape != (len(rows.labels), len(rows.classes)):
        raise BankError(f"{file} has logits of shape {shape}, the bank's rows need {(len(rows.labels), len(rows.classes))}")

    def read(low: int, high: int) -> NDArray[Any]:
        with safe_open(file, "np") as opened:  # memory-mapped: only these rows are read
            return opened.get_slice("logits")[low:high]

    return record, read
