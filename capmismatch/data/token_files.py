"""Condensed rows on disk: one file per teacher, with a tensor for each part of `Condensed`.

::

    bank/
      bank.json                     schema 2; "tokens" says how rows are kept
      rows.parquet                  one row per position: id, label, split, sequence
      <family>/<teacher>[-s<seed>]/
        tokens.safetensors          log_sum, slope (N, G), scalars (N, 5), label_rank (N, 1), ids, below (N, k),
                                    columns (N, R), reference, below_rest (N, k)
        shard-00000.safetensors ... while it is being collected

`below` are the distances of the k likeliest wrong tokens from the largest of them, `below_rest` what rounding them to
float16 took (`finer_halves`; banks in plain float16 or float32 have none). `columns` are logits at R random tokens, the
same for all teachers, less the row's mean; `reference` those at the k likeliest wrong tokens of the bank's reference
teacher, less the teacher's own largest wrong logit. Making the folder, shards, hashes and locks are those of
`bank_files`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from capmismatch._numerics.condensing import BEYOND, SCALARS, Condensed
from capmismatch._numerics.finer_halves import as_halves, from_halves
from capmismatch._numerics.token_columns import random_columns
from capmismatch._utils.files import hash_of, locked, remove_temporaries, replacing
from capmismatch.data.bank_files import (
    Arrays,
    head_of,
    join_shards,
    open_array,
    read_arrays,
    read_record,
    record_in_place,
    remove_shards,
    shard_file,
    write_arrays,
)
from capmismatch.data.logit_checks import SHARES, SUMS_TO_ONE
from capmismatch.data.records import TeacherRecord
from capmismatch.data.rows import Rows
from capmismatch.errors import BankError
from capmismatch.findings import join_codes

FILE = "tokens.safetensors"
SHARD_ROWS = 8192
CHUNK = 1 << 16  # rows that are read or hashed at a time


@dataclass(frozen=True)
class TokenSettings:
    """How a bank keeps its rows.

    Attributes
    ----------
    vocabulary : int
        V.
    k : int
        How many wrong tokens of each row are kept.
    betas : tuple of float
        Inverse temperatures at which sums over all other tokens are kept.
    columns : int
        R, how many random tokens' logits are kept.
    seed : int
        Of the choice of these.
    reference : str
        Key of the teacher whose likeliest tokens all others are read at.
    dtype : str
        "float24", "float16" or "float32", of the kept tokens' logits.
    """

    vocabulary: int
    k: int
    betas: tuple[float, ...]
    columns: int
    seed: int
    reference: str
    dtype: str

    @classmethod
    def of(cls, stored: Mapping[str, Any], folder: Path) -> TokenSettings:
        """The settings in a bank.json."""
        try:
            return cls(**{**stored, "betas": tuple(stored["betas"])})
        except (TypeError, KeyError) as error:
            raise BankError(
                f"{folder / 'bank.json'} is damaged: expected settings of condensed rows: {error}"
            ) from None

    @property
    def stored(self) -> dict[str, Any]:
        """As a bank.json holds them."""
        return {**asdict(self), "betas": list(self.betas)}

    @property
    def has_rest(self) -> bool:
        """Whether what rounding to float16 took is kept as well."""
        return self.dtype == "float24"

    @property
    def dtype_of_below(self) -> str:
        """Of the tensor `below`, and of a teacher's record."""
        return "float16" if self.has_rest else self.dtype

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors that rows are made of again, see `condensed_of`."""
        rest = ("below_rest",) if self.has_rest else ()
        return ("log_sum", "slope", "scalars", "label_rank", "ids", "below", *rest)

    def tensors(self, rows: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> dtype and shape of what is kept of so many rows; four bytes first, so that all are aligned."""
        token = "uint16" if self.vocabulary <= 1 << 16 else "uint32"
        widths = {
            "log_sum": ("float32", len(self.betas)),
            "slope": ("float32", len(self.betas)),
            "scalars": ("float32", len(SCALARS)),
            "label_rank": ("uint32", 1),
            "ids": (token, self.k),
            "below": (self.dtype_of_below, self.k),
            "columns": ("float16", self.columns),
            "reference": ("float16", self.k),
            "below_rest": ("int8", self.k if self.has_rest else 0),
        }
        return {name: (dtype, (rows, width)) for name, (dtype, width) in widths.items() if width}

    def column_ids(self, numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, R) the random tokens of rows with these numbers and labels."""
        return random_columns(numbers, labels, self.vocabulary, self.columns, self.seed)


def arrays_of(
    values: Any, condensed: Condensed, numbers: NDArray[np.int64], reference: NDArray[Any], settings: TokenSettings
) -> dict[str, NDArray[Any]]:
    """What is kept of some rows.

    Parameters
    ----------
    values : ndarray or Tensor, shape (n, V)
        Their logits.
    condensed : Condensed
        The same, condensed.
    numbers : ndarray of int, shape (n,)
        Rows of the bank.
    reference : ndarray of int, shape (n, k)
        The reference teacher's likeliest wrong tokens.
    settings : TokenSettings
        How they are kept.
    """
    arrays = {
        "log_sum": condensed.log_sum,
        "slope": condensed.slope,
        "scalars": np.stack([getattr(condensed, name) for name in SCALARS], axis=1),
        "label_rank": condensed.label_rank[:, None],
        "ids": condensed.ids,
        "reference": _at(values, reference, condensed.max_wrong),
    }
    if settings.has_rest:
        arrays["below"], arrays["below_rest"] = as_halves(condensed.below)
    else:
        arrays["below"] = condensed.below.astype(settings.dtype)
    if settings.columns:
        arrays["columns"] = _at(values, settings.column_ids(numbers, condensed.labels), condensed.mean)
    return arrays


def _at(values: Any, tokens: NDArray[Any], origin: NDArray[Any]) -> NDArray[np.float16]:
    """Logits at some tokens of each row, less the row's origin: near it, half precision has most digits."""
    index = np.arange(len(tokens))[:, None], tokens.astype(np.int64)
    picked = values[index] if isinstance(values, np.ndarray) else values.cpu().numpy()[index]
    return np.clip(picked - origin[:, None], -BEYOND, BEYOND).astype(np.float16)


def condensed_of(
    arrays: Arrays, rows: NDArray[np.int64], labels: NDArray[np.int64], settings: TokenSettings
) -> Condensed:
    """Rows as they were condensed, from what is kept of them."""
    parts: dict[str, Any] = {name: arrays[name] for name in ("ids", "below", "log_sum", "slope")}
    if settings.has_rest:
        parts["below"] = from_halves(arrays["below"], arrays["below_rest"])
    parts |= {name: arrays["scalars"][:, column] for column, name in enumerate(SCALARS)}
    betas, rank = np.array(settings.betas), arrays["label_rank"][:, 0]
    return Condensed(settings.vocabulary, betas, rows, labels, label_rank=rank, **parts)


class TokenFile:
    """The tensors of one teacher, in memory or in a file that is kept open, of which rows are read."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = arrays
        self.nbytes = sum(array.nbytes for array in arrays.values())

    def take(self, rows: NDArray[np.int64] | slice, names: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
        """Some rows of some tensors; of all by default."""
        return {name: np.asarray(self.arrays[name][rows]) for name in names or self.arrays}

    def hash(self) -> str:
        """SHA-256 of all bytes, tensor after tensor."""
        digest = hashlib.sha256()
        for array in self.arrays.values():
            for start in range(0, len(array), CHUNK):
                digest.update(np.ascontiguousarray(array[start : start + CHUNK]).data)
        return digest.hexdigest()


def open_tokens(file: Path, rows: Rows, settings: TokenSettings) -> tuple[TeacherRecord, TokenFile]:
    """A teacher's record and its tensors, to be read by rows; not yet compared with their hash."""
    record = record_in_place(file, rows, "below")
    expected = settings.tensors(len(rows.labels))
    with safe_open(file, "np") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    if shapes != {name: shape for name, (_, shape) in expected.items()}:
        raise BankError(f"{file} has tensors {shapes}, the bank's rows need {expected}")
    sizes = {name: int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (dtype, shape) in expected.items()}
    start = file.stat().st_size - sum(sizes.values())  # safetensors has checked that the data end with the file
    arrays = {}
    for name, (dtype, shape) in expected.items():
        arrays[name] = open_array(file, dtype, start, (shape[0], shape[1]))
        start += sizes[name]
    return record, TokenFile(arrays)


def looks_like(arrays: Arrays, vocabulary: int) -> str:
    """What the rows were instead of logits, as far as sums and largest values tell: "probabilities", "percentages"."""
    target, top, _, mean, _ = arrays["scalars"].T
    total, largest = mean.astype(np.float64) * vocabulary, np.maximum(target, top)
    if not len(total):
        return ""
    ones = (np.abs(total - 1) <= SUMS_TO_ONE) & (largest <= 1 + 1e-3) & (target >= -1e-6)
    hundreds = (
        (np.abs(total - 100) <= 100 * SUMS_TO_ONE) & (largest <= 100.1) & (largest > 1 + 1e-3) & (target >= -1e-4)
    )
    shares = {"probabilities": ones.mean(), "percentages": hundreds.mean()}
    return next((kind for kind, share in shares.items() if share >= SHARES[kind]), "")


# --- collecting -----------------------------------------------------------------------------------------------------

ReadShard = Callable[[int, int], Arrays]


def collect_teacher(
    bank: Path, record: TeacherRecord, rows: Rows, settings: TokenSettings | None, read: ReadShard
) -> Iterator[int]:
    """Write one teacher of a bank, shard by shard; what is there already stays.

    A killed run, started again, goes on at the shard where it stopped and ends with the same bytes.

    Parameters
    ----------
    bank : Path
        Folder of the bank, made by `bank_files.create` with the same settings.
    record : TeacherRecord
        What is known of the teacher; its weights_hash, preprocessing and options stand for what its rows are made from.
    rows : Rows
        Of the bank.
    settings : TokenSettings or None
        How rows are kept; None where all logits are.
    read : callable
        Given two numbers of rows, what is kept of the rows from one to before the other: see `arrays_of`, or "logits".

    Yields
    ------
    int
        How many rows are there.

    Raises
    ------
    BankError
        The teacher, or a shard of it, was made from something else.
    """
    folder, count = bank / record.key, len(rows.labels)
    file, tensor = (FILE, "below") if settings else ("logits.safetensors", "logits")
    made_from = hash_of([*_made_from(record).values(), settings.stored if settings else record.dtype, rows.fingerprint])
    with locked(folder / ".lock"):
        remove_temporaries(folder)
        if (folder / file).exists():
            _must_be_same(folder / file, record, tensor)
            remove_shards(folder)
            yield count
            return
        starts = range(0, count, SHARD_ROWS)
        for index, start in enumerate(starts):
            stop = min(start + SHARD_ROWS, count)
            shapes = {name: shape for name, (_, shape) in settings.tensors(stop - start).items()} if settings else None
            stored = read_arrays(folder, index, made_from)
            if not _is_there(stored, shapes or {"logits": (stop - start, len(rows.classes))}):
                write_arrays(folder, index, read(start, stop), made_from)
            yield stop
        if settings:
            _join(folder, record, rows, settings, len(starts))
        else:
            join_shards(folder, record, rows, len(starts))


def _made_from(record: TeacherRecord) -> dict[str, str]:
    names = ("weights_hash", "preprocessing", "options", "built_by")
    return {name: getattr(record, name) for name in names}


def _must_be_same(file: Path, record: TeacherRecord, tensor: str) -> None:
    stored, _ = read_record(file, tensor)
    for name, now in {**_made_from(record), "dtype": record.dtype}.items():
        if getattr(stored, name) != now:
            raise BankError(
                f"{file} was made with {name} {getattr(stored, name)!r}, now given {now!r}: give the teacher another "
                "name, or remove the file"
            )


def _is_there(arrays: Arrays | None, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return arrays is not None and {name: array.shape for name, array in arrays.items()} == dict(shapes)


def _join(folder: Path, record: TeacherRecord, rows: Rows, settings: TokenSettings, shards: int) -> None:
    """Join the shards into one file, tensor after tensor, and remove them."""
    tensors = settings.tensors(len(rows.labels))

    def parts(name: str) -> Iterator[NDArray[Any]]:
        for index in range(shards):
            try:
                with safe_open(shard_file(folder, index), "np") as opened:
                    yield opened.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise BankError(f"{shard_file(folder, index)} is damaged: {error}") from None

    digest = hashlib.sha256()
    for name in tensors:
        for part in parts(name):
            digest.update(np.ascontiguousarray(part).data)
    small = {name: np.concatenate(list(parts(name))) for name in ("scalars", "label_rank")}
    record = finished(record, small, settings, digest.hexdigest())
    with replacing(folder / FILE) as temporary, open(temporary, "wb") as file:
        file.write(head_of(record, rows, tensors))
        for name in tensors:
            for part in parts(name):
                file.write(np.ascontiguousarray(part).data)
    remove_shards(folder)


def finished(record: TeacherRecord, arrays: Arrays, settings: TokenSettings, sha256: str) -> TeacherRecord:
    """The record with what its rows tell: accuracy, CM016 where they are no logits, and the hash of their bytes."""
    ranks = arrays["label_rank"]
    codes = [*filter(None, record.findings.split(",")), *(["CM016"] if looks_like(arrays, settings.vocabulary) else [])]
    counted = record.with_accuracy(int((ranks == 0).sum()), max(1, len(ranks)))
    return replace(counted, findings=join_codes(codes), sha256=sha256)
