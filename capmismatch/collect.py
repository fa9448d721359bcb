"""Run every teacher of a family once over a data set and keep the logits in a bank. Resumable at every shard of rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from capmismatch.bank import (
    LogitBank,
    TeacherRecord,
    check_finite,
    create,
    finish,
    read_record,
    shard_is_whole,
    write_shard,
)
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
    same bytes; teachers can be added to a bank later. Each teacher is locked while it runs, so that several processes can
    share the work; the second at one teacher waits.

    Parameters
    ----------
    family : from `load_family`
    dataset : from `load_dataset`; None takes the one that came with saved logits. Saved logits and a data set are matched
        by example id and label.
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
    InputError : a teacher gives NaN or another number of classes than the data set has
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
    batches = sum(_shards(dataset) for _ in family)
    with tqdm(total=batches, desc="collect", unit="shard", disable=not progress) as bar:
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
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        if (home / "logits.safetensors").exists():
            _check_same(teacher, home / "logits.safetensors", dtype, dataset)
            bar.update(_shards(dataset))
            return
        runner = _Saved(teacher, dataset) if teacher.saved else _Runner(teacher, dataset, batch_size, device)
        for index in range(_shards(dataset)):
            low, high = index * SHARD_ROWS, min((index + 1) * SHARD_ROWS, len(dataset))
            if not shard_is_whole(home, index, (high - low, len(dataset.classes)), dtype):
                logits = runner(low, high)
                if logits.shape[1] != len(dataset.classes):
                    raise InputError(
                        f"expected {len(dataset.classes)} classes, as data set {dataset.name!r} has, got {logits.shape[1]} "
                        f"from teacher {teacher.key}"
                    )
                check_finite(logits, f"teacher {teacher.key} on {dataset.name!r}", low)
                stored = logits.astype(dtype)
                check_finite(stored, f"teacher {teacher.key} stored as {dtype}", low)
                write_shard(home, index, stored)
            bar.update()
        record = TeacherRecord(
            teacher.family, teacher.name, teacher.seed, teacher.params, teacher.macs or runner.macs, teacher.source,
            teacher.weights_hash, teacher.preprocessing, dtype, order=order,
        )
        finish(home, record, dataset.rows, _shards(dataset))


def _check_same(teacher: Teacher, file: Path, dtype: str, dataset: Dataset) -> None:
    record, fingerprint = read_record(file)
    if fingerprint != dataset.rows.fingerprint:
        raise BankError(f"{file} was collected on other data (fingerprint {fingerprint[:12]}) than {dataset.name!r}")
    for what, stored, now in (
        ("weights", record.weights_hash[:12], teacher.weights_hash[:12]),
        ("preprocessing", record.preprocessing, teacher.preprocessing),
        ("dtype", record.dtype, dtype),
    ):
        if stored != now:
            raise BankError(f"{file} was collected with {what} {stored!r}, now given {now!r}: remove it to collect anew")


class _Runner:
    """Forward passes of one network over ranges of rows."""

    def __init__(self, teacher: Teacher, dataset: Dataset, batch_size: int, device: str) -> None:
        self.teacher, self.dataset, self.batch_size, self.device = teacher, dataset, batch_size, device
        self.network: nn.Module | None = None
        self.macs: int | None = None

    def __call__(self, low: int, high: int) -> NDArray[Any]:
        prepare = self.teacher.prepare
        if self.teacher.module is None or prepare is None:
            raise InputError(f"teacher {self.teacher.key} has neither a network nor saved logits")
        if self.network is None:
            from capmismatch.architectures import count_macs

            self.network = self.teacher.module().to(self.device).eval()
            self.macs = count_macs(self.network, tuple(prepare(self.dataset.inputs[:1]).shape[1:]))
        parts = []
        with torch.inference_mode():
            for start in range(low, high, self.batch_size):
                batch = prepare(self.dataset.inputs[start : min(start + self.batch_size, high)])
                parts.append(self.network(batch.to(self.device)).float().cpu().numpy())
        return np.concatenate(parts)


class _Saved:
    """Saved logits, put into the data set's order by example id."""

    macs = None

    def __init__(self, teacher: Teacher, dataset: Dataset) -> None:
        assert teacher.saved is not None
        own, logits = teacher.saved()
        if own.fingerprint == dataset.rows.fingerprint:
            self.logits = logits
            return
        place = {identity: row for row, identity in enumerate(own.ids)}
        missing = next((identity for identity in dataset.rows.ids if identity not in place), None)
        if missing is not None:
            raise InputError(f"teacher {teacher.key} has no saved logits for example {missing!r} of data set {dataset.name!r}")
        index = np.array([place[identity] for identity in dataset.rows.ids])
        differs = np.flatnonzero(own.labels[index] != dataset.labels)
        if len(differs):
            row = int(differs[0])
            raise InputError(
                f"expected the labels of {dataset.name!r}, got label {own.labels[index[row]]} with the logits of {teacher.key} "
                f"and {dataset.labels[row]} in the data set at example {dataset.rows.ids[row]!r}"
            )
        self.logits = logits[index]

    def __call__(self, low: int, high: int) -> NDArray[Any]:
        return np.asarray(self.logits[low:high])
