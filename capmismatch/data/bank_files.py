"""The files of a bank: making the folder, writing shards, joining them, and reading it back, every byte verified.

Whatever differs from what was written (a flipped byte, a cut file, another schema or data set) is a BankError that
names the file. Nothing is ever repaired, and nothing removed but joined shards and temporary files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from capmismatch._utils.files import hash_file, hash_of, locked, remove_temporaries, replacing, write_json, write_table
from capmismatch.data.logit_checks import NOT_LOGITS, LogitScale
from capmismatch.data.records import TeacherRecord
from capmismatch.data.rows import Rows
from capmismatch.errors import BankError
from capmismatch.findings import join_codes

SCHEMA = 1
TOKENS_SCHEMA = 2
"""Of banks whose rows are condensed: see `capmismatch.data.token_files`."""

SHARD = "shard"
"""Name of the files that hold some rows of logits while a teacher is collected."""

Arrays = Mapping[str, NDArray[Any]]
_SAFE_NAMES = {"float32": "F32", "float16": "F16", "uint16": "U16", "uint32": "U32", "int8": "I8"}


# --- the folder and its rows ---------------------------------------------------------------------------------------


def create(path: str | os.PathLike[str], rows: Rows, tokens: Mapping[str, Any] | None = None) -> Path:
    """Make the folder of a bank, or check that the one there was made from the same data set.

    `tokens` are the settings of a bank of condensed rows.
    """
    folder = Path(path)
    if not (folder / "bank.json").exists():
        with locked(folder / ".lock"):  # two processes with different data sets must not mix their rows
            if not (folder / "bank.json").exists():
                remove_temporaries(folder)
                frame = pd.DataFrame({"id": rows.ids, "label": rows.labels, "split": rows.split})
                if rows.sequences is not None:
                    frame["sequence"] = rows.sequences
                write_table(folder / "rows.parquet", frame)
                _write_manifest(folder, rows, tokens)  # last: a folder with a bank.json is complete
    stored = _read_rows(folder, _read_manifest(folder / "bank.json"))
    if stored.fingerprint != rows.fingerprint:
        raise BankError(
            f"{folder} holds a bank of data set {stored.name!r} with fingerprint {stored.fingerprint[:12]}, not of "
            f"{rows.name!r} with fingerprint {rows.fingerprint[:12]}: other rows, labels, classes or splits. "
            "Give another folder, or remove that one."
        )
    if _read_manifest(folder / "bank.json").tokens != dict(tokens or {}):
        raise BankError(
            f"{folder} holds a bank of the same data, kept in another way: {_settings(folder)}, not "
            f"{dict(tokens or {}) or 'all logits'}. Give another folder, or remove that one."
        )
    if stored.name != rows.name:  # it decides nothing, but the report shows it
        with locked(folder / ".lock"):
            _write_manifest(folder, rows, tokens)
    return folder


def _settings(folder: Path) -> dict[str, Any] | str:
    return _read_manifest(folder / "bank.json").tokens or "all logits"


def _write_manifest(folder: Path, rows: Rows, tokens: Mapping[str, Any] | None) -> None:
    head = {
        "schema": TOKENS_SCHEMA if tokens else SCHEMA,
        "name": rows.name,
        "classes": list(rows.classes),
        "rows": len(rows.labels),
        "inputs_hash": rows.inputs_hash,
        "fingerprint": rows.fingerprint,
        "rows_sha256": hash_file(folder / "rows.parquet"),
        **({"tokens": dict(tokens)} if tokens else {}),
    }
    write_json(folder / "bank.json", head)


@dataclass(frozen=True)
class _Manifest:
    """What bank.json says of the rows."""

    name: str
    classes: tuple[str, ...]
    count: int
    inputs_hash: str
    fingerprint: str
    rows_sha256: str
    tokens: dict[str, Any] = field(default_factory=dict)  # settings of condensed rows, empty where all logits are kept


def read_rows(folder: Path) -> Rows:
    """The rows of the bank of logits in a folder, checked against the fingerprint in bank.json."""
    manifest = _read_manifest(folder / "bank.json")
    if manifest.tokens:
        raise BankError(f"{folder} holds condensed rows, no logits: open it with capmismatch.open_bank")
    return _read_rows(folder, manifest)


def read_token_rows(folder: Path) -> tuple[Rows, dict[str, Any]]:
    """The rows of any bank, and how it keeps them: the settings of condensed rows, nothing where it keeps logits."""
    manifest = _read_manifest(folder / "bank.json")
    return _read_rows(folder, manifest), manifest.tokens


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of condensed rows; nothing where a bank keeps logits. The rows are not read."""
    return _read_manifest(folder / "bank.json").tokens


def has_sequences(folder: Path) -> bool:
    """Whether the rows of a bank are positions of sequences, by the names of their columns alone."""
    file = _verified_rows(folder, _read_manifest(folder / "bank.json"))
    try:
        return "sequence" in pq.read_schema(file).names
    except (OSError, ValueError) as error:
        raise BankError(f"{file} is damaged: {_reason(error)}") from None


def _verified_rows(folder: Path, manifest: _Manifest) -> Path:
    """The file of rows, its bytes checked before it is parsed: a parser may do anything with damaged ones."""
    file = folder / "rows.parquet"
    if not file.exists():
        raise BankError(f"{file} is missing: expected the {manifest.count} rows of the bank")
    if hash_file(file) != manifest.rows_sha256:
        raise BankError(f"{file} or bank.json is damaged: expected rows of SHA-256 {manifest.rows_sha256[:12]}")
    return file


def _read_rows(folder: Path, manifest: _Manifest) -> Rows:
    file = _verified_rows(folder, manifest)
    try:
        frame = pd.read_parquet(file)
        labels = frame["label"].to_numpy(np.int64)
        ids, split = (frame[column].to_numpy().astype(str) for column in ("id", "split"))
        sequences = frame["sequence"].to_numpy(np.int64) if "sequence" in frame else None
        rows = Rows(manifest.name, labels, ids, split, manifest.classes, manifest.inputs_hash, sequences)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(f"{file} is damaged: {_reason(error)}") from None
    if len(labels) != manifest.count:
        raise BankError(f"{file} has {len(labels)} rows, bank.json says {manifest.count}")
    if rows.fingerprint != manifest.fingerprint:
        raise BankError(
            f"{file} or bank.json is damaged: expected rows of fingerprint {manifest.fingerprint[:12]}, "
            f"got {rows.fingerprint[:12]}"
        )
    return rows


def _read_manifest(file: Path) -> _Manifest:
    if not file.exists():
        raise BankError(f"{file.parent} holds no bank: there is no bank.json in it")
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
        schema = head["schema"]
        if schema in (SCHEMA, TOKENS_SCHEMA):
            return _Manifest(
                str(head["name"]),
                tuple(map(str, head["classes"])),
                int(head["rows"]),
                str(head["inputs_hash"]),
                str(head["fingerprint"]),
                str(head["rows_sha256"]),
                dict(head["tokens"]) if schema == TOKENS_SCHEMA else {},
            )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BankError(f"{file} is damaged: expected the JSON of a bank, got {_reason(error)}") from None
    raise BankError(
        f"{file} has schema {schema!r}, this version of capmismatch reads schema {SCHEMA} and {TOKENS_SCHEMA}"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


# --- shards ----------------------------------------------------------------------------------------------------------


def write_shard(folder: Path, index: int, logits: NDArray[Any], made_from: str) -> None:
    """Write one shard of rows atomically; `made_from` stands for the weights, preprocessing and data behind it."""
    write_arrays(folder, index, {"logits": logits}, made_from)


def write_arrays(folder: Path, index: int, arrays: Arrays, made_from: str, name: str = SHARD) -> None:
    """The same for several arrays of the same rows, in shards of another name."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    head = {"made_from": made_from, "sha256": _hash_arrays(whole)}
    with replacing(shard_file(folder, index, name)) as temporary:
        temporary.write_bytes(save(whole, head))


def _hash_arrays(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def read_shard(folder: Path, index: int, made_from: str) -> NDArray[Any] | None:
    """The logits of a shard; None where it is missing or damaged, so that it is to be collected again."""
    arrays = read_arrays(folder, index, made_from)
    return None if arrays is None else arrays.get("logits")


def read_arrays(folder: Path, index: int, made_from: str, name: str = SHARD) -> dict[str, NDArray[Any]] | None:
    """All arrays of a shard; None where it is missing or damaged, so that it is to be collected again."""
    file = shard_file(folder, index, name)
    try:
        with safe_open(file, "np") as opened:
            head = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (FileNotFoundError, SafetensorError):
        return None
    if _hash_arrays(arrays) != head.get("sha256"):
        return None
    if head.get("made_from") != made_from:
        raise BankError(
            f"{file} was collected with other weights, preprocessing, dtype or rows than those given now: remove "
            f"{folder} to collect again, or give the teacher another name"
        )
    return arrays


def join_shards(folder: Path, record: TeacherRecord, rows: Rows, shards: int) -> TeacherRecord:
    """Join the shards into logits.safetensors, with accuracy and hash in its header, and remove them.

    safetensors cannot append, and joining in memory would need the whole array: the header is written by hand (8 bytes
    of length, JSON, then the raw rows), and read back through the library.
    """
    digest, correct, start, scale = hashlib.sha256(), 0, 0, LogitScale()
    for index in range(shards):
        logits = load_file(shard_file(folder, index))["logits"]
        digest.update(logits.data)
        scale.add(logits)
        correct += int((logits.argmax(1) == rows.labels[start : start + len(logits)]).sum())
        start += len(logits)
    if scale.name in NOT_LOGITS:
        record = replace(record, findings=join_codes([*filter(None, record.findings.split(",")), "CM016"]))
    record = replace(record.with_accuracy(correct, len(rows.labels)), sha256=digest.hexdigest())
    with replacing(folder / "logits.safetensors") as temporary, open(temporary, "wb") as file:
        file.write(_head(record, rows))
        for index in range(shards):
            file.write(load_file(shard_file(folder, index))["logits"].data)
    remove_shards(folder)
    return record


def _head(record: TeacherRecord, rows: Rows) -> bytes:
    """The first bytes of a logits.safetensors, up to the logits."""
    return head_of(record, rows, {"logits": (record.dtype, (len(rows.labels), len(rows.classes)))})


def head_of(record: TeacherRecord, rows: Rows, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The first bytes of a teacher's file, up to the data: its tensors, given by dtype and shape, in their order."""
    return file_head(record.header | {"fingerprint": rows.fingerprint}, tensors)


def file_head(about: dict[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The same of any file of tensors, with what is known about it."""
    head: dict[str, Any] = {
        "__metadata__": {"capmismatch": json.dumps(about | {"check": hash_of(about)}, sort_keys=True)}
    }
    start = 0
    for name, (dtype, shape) in tensors.items():
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        head[name] = {"dtype": _SAFE_NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return len(text).to_bytes(8, "little") + text


def rewrite_record(file: Path, record: TeacherRecord, rows: Rows) -> None:
    """Give a logits.safetensors another record of its teacher; the logits stay as they are."""
    size = len(rows.labels) * len(rows.classes) * np.dtype(record.dtype).itemsize
    with open(file, "rb") as old, replacing(file) as temporary, open(temporary, "wb") as new:
        old.seek(-size, os.SEEK_END)  # as they are: whoever reads them compares them with their hash
        new.write(_head(record, rows))
        shutil.copyfileobj(old, new, 1 << 20)


def shard_files(folder: Path, name: str = SHARD) -> list[Path]:
    """The shards of a teacher, also those that a killed process has left beside the joined file."""
    return sorted(folder.glob(f"{name}-*.safetensors"))


def remove_shards(folder: Path, name: str = SHARD) -> None:
    """Remove a teacher's shards."""
    for shard in shard_files(folder, name):
        shard.unlink(missing_ok=True)


def shard_file(folder: Path, index: int, name: str = SHARD) -> Path:
    """Where a shard lies."""
    return folder / f"{name}-{index:05d}.safetensors"


# --- finished logits -------------------------------------------------------------------------------------------------


def read_record(file: Path, tensor: str = "logits") -> tuple[TeacherRecord, str]:
    """The teacher's record in its file, and the fingerprint of the data set; `tensor` has the record's dtype."""
    try:
        with safe_open(file, "np") as opened:
            head = json.loads(opened.metadata()["capmismatch"])
            stored = opened.get_slice(tensor).get_dtype()
        check, teacher = head.pop("check"), dict(head)
        fingerprint = head.pop("fingerprint")
        record = TeacherRecord(**head)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BankError(f"{file} is damaged or not a bank's: expected whole logits, got {_reason(error)}") from None
    if hash_of(teacher) != check or _SAFE_NAMES.get(record.dtype) != stored:
        raise BankError(f"{file} is damaged: its header does not match the hash stored with it")
    return record, fingerprint


MOST_OPEN = 64
"""Files of logits that a process keeps open at a time: systems allow 256 or 1024, and a study has more."""


class _Descriptor:
    """A file that is open for as long as someone reads it."""

    def __init__(self, file: Path) -> None:
        self.number = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


_recent: OrderedDict[int, _Descriptor] = OrderedDict()  # of which `LogitFile`, by its id; the latest last
_recent_lock = threading.Lock()


class LogitFile:
    """(N, C) logits in a file, of which rows are read; the files that were read last are kept open.

    Not a memory map: where one row of a map is touched, the system may count megabytes around it to this process.
    """

    def __init__(self, file: Path, dtype: str, start: int, shape: tuple[int, int]) -> None:
        self.file, self.start, self.shape = file.resolve(), start, shape
        self.identity: tuple[int, ...] = ()
        weakref.finalize(self, _recent.pop, id(self), None)
        self._descriptor()
        self.dtype = np.dtype(dtype)
        self.nbytes = shape[0] * shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """(n, C) as a new array, which may be written to."""
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        logits = np.empty((len(index), self.shape[1]), self.dtype)
        if not len(index):
            return logits
        if index.min() < 0 or index.max() >= len(self):
            raise IndexError(f"expected rows in [0, {len(self)}), got {index.min()} to {index.max()}")
        width = self.shape[1] * self.dtype.itemsize
        # One read for each stretch of consecutive rows. Rows scattered over the file, as those of some classes are,
        # make a read each, so this loop does little else.
        ends = [*(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
        offsets = (self.start + width * index[[0, *ends[:-1]]]).tolist()
        raw, filled, descriptor = logits.reshape(-1).view(np.uint8).data, 0, self._descriptor()
        for end, offset in zip(ends, offsets, strict=True):
            stretch = raw[filled : end * width]
            count = os.preadv(descriptor.number, [stretch], offset)
            if count < len(stretch):
                self._read_remaining(descriptor, stretch[count:], offset + count)
            filled = end * width
        return logits

    def _descriptor(self) -> _Descriptor:
        """The file, opened again where others were read since; it must be the one that was opened first."""
        with _recent_lock:
            opened = _recent.pop(id(self), None)
            if opened is None:
                try:
                    opened = _Descriptor(self.file)
                except OSError as error:
                    raise BankError(f"cannot read {self.file}: {error.strerror}") from None
                facts = os.fstat(opened.number)
                identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
                if self.identity not in ((), identity):
                    raise BankError(f"{self.file} was replaced while it was read: open the bank again")
                self.identity = identity
            _recent[id(self)] = opened
            while len(_recent) > MOST_OPEN:
                _recent.popitem(last=False)
        return opened

    def _read_remaining(self, descriptor: _Descriptor, stretch: memoryview, offset: int) -> None:
        """Read on where one call gave less than asked for: the system gives 2 GiB at a time at most."""
        while stretch:
            count = os.preadv(descriptor.number, [stretch], offset)
            if not count:
                raise BankError(f"{self.file} was cut while it was open")
            stretch, offset = stretch[count:], offset + count


def record_in_place(file: Path, rows: Rows, tensor: str = "logits") -> TeacherRecord:
    """The teacher's record in its file, which must be of this data set and lie in the teacher's folder."""
    record, fingerprint = read_record(file, tensor)
    if fingerprint != rows.fingerprint:
        raise BankError(f"{file} was collected on another data set (fingerprint {fingerprint[:12]}) than this bank's")
    key = "/".join(file.parts[-3:-1])
    if key != record.key:
        raise BankError(f"{file} lies in {key!r}, but its header says that it belongs in {record.key!r}")
    return record


def open_logits(file: Path, rows: Rows) -> tuple[TeacherRecord, Any]:
    """The teacher's record and its logits (N, C), to be read by rows; not yet compared with their hash."""
    record = record_in_place(file, rows)
    with safe_open(file, "np") as opened:
        shape = tuple(opened.get_slice("logits").get_shape())
    expected = (len(rows.labels), len(rows.classes))
    if shape != expected:
        raise BankError(f"{file} has logits of shape {shape}, the bank's rows need {expected}")
    size = shape[0] * shape[1] * np.dtype(record.dtype).itemsize
    start = file.stat().st_size - size  # safetensors has checked that the data end with the file
    return record, open_array(file, record.dtype, start, shape)


def open_array(file: Path, dtype: str, start: int, shape: tuple[int, int]) -> Any:
    """(N, C) numbers in a file from a byte on, to be read by rows."""
    if not hasattr(os, "preadv"):  # Windows
        return np.memmap(file, dtype, "r", start, shape)
    return LogitFile(file, dtype, start, shape)


def hash_logits(logits: Any, rows: int) -> str:
    """SHA-256 of the bytes of logits (N, C), read some rows at a time."""
    digest = hashlib.sha256()
    for start in range(0, len(logits), rows):
        digest.update(np.ascontiguousarray(logits[start : start + rows]).data)
    return digest.hexdigest()
