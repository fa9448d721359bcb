"""Run every teacher of a family once over a data set and keep the logits in a bank, a shard of rows at a time."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from capmismatch._bank_files import (
    create,
    finish,
    leftovers,
    read_record,
    read_shard,
    remove_leftovers,
    write_shard,
)
from capmismatch._files import hash_of, locked, remove_temporaries
from capmismatch._records import TeacherRecord, check_finite, class_columns
from capmismatch.bank import LogitBank
from capmismatch.datasets import Dataset
from capmismatch.errors import BankError, InputError, must_be_one_of
from capmismatch.families import Family, Teacher

SHARD_ROWS = 8192


def collect(
    family: Family,
    dataset: Dataset | None,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 256,
    dtype: str = "float32",
    device: str = "cpu",
    progress: bool = True,
) -> LogitBank:
    """Fill a bank with the logits of every teacher on every row of a data set.

    What is there already is kept: a killed run, started again, goes on at the shard where it stopped and ends with the
    same bytes; teachers can be added to a bank later. Each teacher is locked while it runs, so that several processes
    can share the work; the second at one teacher waits.

    Parameters
    ----------
    family : from `load_family`
    dataset : from `load_dataset`; None takes the one that came with saved logits. Saved logits and a data set are
        matched by example id, class name and label.
    path : folder of the bank; made where it is missing
    batch_size : rows a forward pass
    dtype : "float32" or "float16", of the stored logits
    device : where the networks run
    progress : whether to show a bar

    Returns
    -------
    LogitBank

    Raises
    ------
    InputError : a teacher gives NaN, or another number of classes than the data set has; or overflows float16
    BankError : the folder holds a bank of other data, or a teacher of that name with other weights
    """
    must_be_one_of(dtype, ("float32", "float16"), "dtype")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if dataset is None:
        dataset = family.dataset
    if dataset is None:
        raise InputError("expected a data set: only saved logits bring their own")
    folder = create(path, dataset.rows)
    with tqdm(total=_shards(dataset) * len(family), desc="collect", unit="shard", disable=not progress) as bar:
        for order, teacher in enumerate(family):
            bar.set_postfix_str(teacher.key)
            _collect_one(teacher, order, dataset, folder, batch_size, dtype, device, bar)
    return LogitBank(folder)


def _shards(dataset: Dataset) -> int:
    return -(-len(dataset) // SHARD_ROWS)


def _collect_one(
    teacher: Teacher, order: int, dataset: Dataset, folder: Path, batch_size: int, dtype: str, device: str, bar: Any
) -> None:
    home = folder / teacher.key
    whole = home / "logits.safetensors"
    if not whole.exists() or leftovers(home):
        with locked(home / ".lock"):
            remove_temporaries(home)
            if whole.exists():  # by another process meanwhile, or one that was killed before it had tidied up
                remove_leftovers(home)
            else:
                runner = _Saved(teacher, dataset) if teacher.saved else _Runner(teacher, dataset, batch_size, device)
                _fill(home, teacher, order, dataset, runner, dtype, bar)
                return
    _check_same(teacher, whole, dtype, dataset)
    bar.update(_shards(dataset))


def _fill(
    home: Path, teacher: Teacher, order: int, dataset: Dataset, runner: _Saved | _Runner, dtype: str, bar: Any
) -> None:
    record = TeacherRecord(
        teacher.family, teacher.name, teacher.seed, teacher.params, teacher.macs or runner.macs, teacher.source,
        teacher.weights_hash, teacher.preprocessing, dtype, order=order,
    )  # fmt: skip
    made_from = hash_of([teacher.weights_hash, teacher.preprocessing, dtype, dataset.rows.fingerprint])
    for index in range(_shards(dataset)):
        low, high = index * SHARD_ROWS, min((index + 1) * SHARD_ROWS, len(dataset))
        there = read_shard(home, index, made_from)
        if there is None or there.shape != (high - low, len(dataset.classes)):
            write_shard(home, index, _logits(runner, low, high, teacher, dataset, dtype), made_from)
        bar.update()
    finish(home, record, dataset.rows, _shards(dataset))


def _logits(
    runner: _Saved | _Runner, low: int, high: int, teacher: Teacher, dataset: Dataset, dtype: str
) -> NDArray[Any]:
    """Logits of some rows in the precision to be stored, checked."""
    logits = runner(low, high)
    if logits.ndim != 2 or len(logits) != high - low:
        raise InputError(
            f"expected logits of shape {(high - low, len(dataset.classes))}, got {logits.shape} from teacher "
            f"{teacher.key} on rows {low} to {high - 1} of {dataset.name!r}"
        )
    if logits.shape[1] != len(dataset.classes):
        raise InputError(
            f"expected {len(dataset.classes)} classes, as data set {dataset.name!r} has, got {logits.shape[1]} "
            f"from teacher {teacher.key}"
        )
    check_finite(logits, f"teacher {teacher.key} on {dataset.name!r}", low)
    with np.errstate(over="ignore"):
        stored = logits.astype(dtype)
    large = np.argwhere(~np.isfinite(stored))
    if len(large):
        row, column = large[0]
        raise InputError(
            f"expected logits that {dtype} can hold, got {logits[row, column]:g} at row {low + row}, class {column} of "
            f"teacher {teacher.key} on {dataset.name!r}: collect with dtype='float32'"
        )
    return stored


def _check_same(teacher: Teacher, file: Path, dtype: str, dataset: Dataset) -> None:
    record, fingerprint = read_record(file)
    if fingerprint != dataset.rows.fingerprint:
        raise BankError(f"{file} was collected on other data (fingerprint {fingerprint[:12]}) than {dataset.name!r}")
    for what, stored, now in (
        ("name", (record.family, record.teacher, record.seed), (teacher.family, teacher.name, teacher.seed)),
        ("weights", record.weights_hash[:12], teacher.weights_hash[:12]),
        ("preprocessing", record.preprocessing, teacher.preprocessing),
        ("dtype", record.dtype, dtype),
    ):
        if stored != now:
            raise BankError(
                f"{file} was collected with {what} {stored!r}, now given {now!r}: give the teacher another name, or "
                "remove the file to collect anew"
            )


class _Runner:
    """Forward passes of one network over ranges of rows; the network is made when it is first needed."""

    def __init__(self, teacher: Teacher, dataset: Dataset, batch_size: int, device: str) -> None:
        if teacher.module is None or teacher.prepare is None:
            raise InputError(f"teacher {teacher.key} has neither a network nor saved logits")
        self.make, self.prepare = teacher.module, teacher.prepare
        self.key, self.dataset, self.batch_size, self.device = teacher.key, dataset, batch_size, device

    @cached_property
    def network(self) -> nn.Module:
        return self.make().to(self.device).eval()

    @property
    def macs(self) -> int:
        from capmismatch.architectures import count_macs

        return count_macs(self.network, tuple(self.prepare(self.dataset.inputs[:1]).shape[1:]))

    def __call__(self, low: int, high: int) -> NDArray[Any]:
        parts = []
        with torch.inference_mode():
            for start in range(low, high, self.batch_size):
                batch = self.prepare(self.dataset.inputs[start : min(start + self.batch_size, high)])
                logits = self.network(batch.to(self.device))
                if not isinstance(logits, torch.Tensor):
                    kind = type(logits).__name__
                    raise InputError(f"expected a tensor of logits from teacher {self.key}, got {kind}")
                parts.append(logits.float().cpu().numpy())
        return np.concatenate(parts)


class _Saved:
    """Saved logits, put into the data set's order of rows by example id, and of columns by class name."""

    macs = None

    def __init__(self, teacher: Teacher, dataset: Dataset) -> None:
        assert teacher.saved is not None
        own, logits = teacher.saved()
        if own.fingerprint == dataset.rows.fingerprint:
            self.logits = logits
            return
        columns = class_columns(own.classes, dataset.classes, f"the saved logits of teacher {teacher.key}")
        place = {identity: row for row, identity in enumerate(own.ids)}
        missing = next((identity for identity in dataset.rows.ids if identity not in place), None)
        if missing is not None:
            raise InputError(
                f"teacher {teacher.key} has no saved logits for example {str(missing)!r} of data set {dataset.name!r}"
            )
        index = np.array([place[identity] for identity in dataset.rows.ids])
        labels = np.argsort(columns)[own.labels[index]]
        differs = np.flatnonzero(labels != dataset.labels)
        if len(differs):
            row = int(differs[0])
            raise InputError(
                f"expected the labels of {dataset.name!r}, got {dataset.classes[labels[row]]!r} with the saved logits "
                f"of {teacher.key} and {dataset.classes[dataset.labels[row]]!r} in the data set at example "
                f"{str(dataset.rows.ids[row])!r}"
            )
        self.logits = logits[index][:, columns]

    def __call__(self, low: int, high: int) -> NDArray[Any]:
        return np.asarray(self.logits[low:high])
