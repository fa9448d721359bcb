"""Run every teacher of a family once over a data set and keep the logits in a bank, a shard of rows at a time."""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from capmismatch._utils.files import hash_of, locked, remove_temporaries
from capmismatch._utils.torchrun import ProcessGroup, process_group
from capmismatch.data.bank import LogitBank
from capmismatch.data.bank_files import (
    create,
    finish,
    leftovers,
    read_record,
    read_shard,
    remove_leftovers,
    write_shard,
)
from capmismatch.data.datasets import Dataset
from capmismatch.data.records import TeacherRecord
from capmismatch.data.rows import check_finite
from capmismatch.errors import BankError, InputError, must_be_one_of
from capmismatch.findings import FINDINGS
from capmismatch.sources.families import Family, Teacher
from capmismatch.sources.runners import NetworkRunner, Passes, SavedRunner, columns_of, recorded

SHARD_ROWS = 8192


def collect(
    family: Family,
    dataset: Dataset | None,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 256,
    dtype: str = "float32",
    device: str = "cpu",
    autocast: str | None = None,
    channels_last: bool = False,
    check_published: bool | None = None,
    progress: bool = True,
) -> LogitBank:
    """Fill a bank with the logits of every teacher on every row of a data set.

    What is there already is kept: a killed run, started again, goes on at the shard where it stopped and ends with the
    same bytes; teachers can be added to a bank later. Each teacher is locked while it runs, so that several processes
    can share the work; the second at one teacher waits. Under ``torchrun`` the processes share every teacher's shards
    instead, none padded and none done twice, and the bank has the bytes that one process would have written.

    A teacher that names its classes in another order than the data set is mapped by name (finding CM001), or refused
    where names do not tell.

    Parameters
    ----------
    family : from `load_family`
    dataset : from `load_dataset`; None takes the one that came with saved logits. Saved logits and a data set are
        matched by example id, class name and label.
    path : folder of the bank; made where it is missing
    batch_size : rows a forward pass
    dtype : "float32" or "float16", of the stored logits
    device : where the networks run, such as "cuda"; under ``torchrun`` each process takes its own
    autocast : "bfloat16" or "float16": let torch run in half precision what it deems safe
    channels_last : whether images lie in memory channel by channel (faster convolutions, other rounding)
    check_published : whether a teacher's accuracy is compared with the one that its source claims (finding CM002); by
        default where the data set is the one that it was measured on
    progress : whether to show a bar

    Returns
    -------
    LogitBank

    Raises
    ------
    InputError : a teacher gives NaN, or another number of classes than the data set has; or overflows float16
    BankError : the folder holds a bank of other data, or a teacher of that name with other weights

    Notes
    -----
    Device, autocast, channels_last and mapped columns are recorded where they differ from plain passes on the CPU, and
    a teacher that is there already must have been collected in the same way.
    """
    must_be_one_of(dtype, ("float32", "float16"), "dtype")
    passes = Passes(batch_size, device, autocast, channels_last)
    if dataset is None:
        dataset = family.dataset
    if dataset is None:
        raise InputError("expected a data set: only saved logits bring their own")
    data = dataset
    with process_group() as processes:
        processes.on_rank_zero(lambda: create(path, data.rows))
        processes.on_all_ranks(lambda: create(path, data.rows))  # each worker's data set must be this bank's
        folder, quiet = Path(path), not progress or processes.rank > 0
        with tqdm(total=_shards(data) * len(family), desc="collect", unit="shard", disable=quiet) as bar:
            for order, teacher in enumerate(family):
                bar.set_postfix_str(teacher.key)
                compare = teacher.published_on == data.name if check_published is None else check_published
                _Collector(teacher, order, data, folder, passes, dtype, compare, processes, bar).run()
    return LogitBank(folder)


def _shards(dataset: Dataset) -> int:
    return -(-len(dataset) // SHARD_ROWS)


class _Collector:
    """One teacher of a bank: its shards where they are missing, and the joined file."""

    def __init__(
        self,
        teacher: Teacher,
        order: int,
        dataset: Dataset,
        folder: Path,
        passes: Passes,
        dtype: str,
        compare: bool,
        processes: ProcessGroup,
        bar: Any,
    ) -> None:
        self.teacher, self.dataset, self.passes, self.dtype = teacher, dataset, passes, dtype
        self.processes, self.bar, self.home = processes, bar, folder / teacher.key
        self.whole = self.home / "logits.safetensors"
        self.record = TeacherRecord(
            teacher.family,
            teacher.name,
            teacher.seed,
            teacher.params,
            teacher.macs,
            teacher.source,
            teacher.weights_hash,
            teacher.preprocessing,
            dtype,
            order=order,
            options=recorded(teacher, dataset, passes),
            published=teacher.published if compare else None,
            findings="" if columns_of(teacher, dataset) is None else "CM001",
        )

    def run(self) -> None:
        """Collect what is missing, or check that what is there was collected in the same way."""
        if self.processes.on_rank_zero(lambda: not self.whole.exists() or bool(leftovers(self.home))):
            with ExitStack() as held:
                if self.processes.on_rank_zero(lambda: self._lacks(held)):
                    self.processes.on_all_ranks(self._fill)
                    self._tell(self.processes.on_rank_zero(self._finish))
                    return
        _check_same(self.record, self.whole, self.dataset)
        self.bar.update(_shards(self.dataset))

    def _lacks(self, held: ExitStack) -> bool:
        """Whether the file is missing, looked at under its lock, which is then held."""
        held.enter_context(locked(self.home / ".lock"))
        remove_temporaries(self.home)
        if not self.whole.exists():
            return True
        remove_leftovers(self.home)  # of another process meanwhile, or one that was killed before it had tidied up
        return False

    def _fill(self) -> None:
        """Write the shards of this worker that are missing."""
        runner = (
            SavedRunner(self.teacher, self.dataset)
            if self.teacher.saved
            else NetworkRunner(self.teacher, self.dataset, self.passes)
        )
        if self.record.macs is None and self.processes.rank == 0:
            self.record = replace(self.record, macs=runner.macs)
        made_from = hash_of(
            [
                self.teacher.weights_hash,
                self.teacher.preprocessing,
                self.dtype,
                self.dataset.rows.fingerprint,
                *filter(None, [self.record.options]),
            ]
        )
        for index in self.processes.share(_shards(self.dataset)):
            low, high = index * SHARD_ROWS, min((index + 1) * SHARD_ROWS, len(self.dataset))
            there = read_shard(self.home, index, made_from)
            if there is None or there.shape != (high - low, len(self.dataset.classes)):
                logits = _logits(runner, low, high, self.teacher, self.dataset, self.dtype)
                write_shard(self.home, index, logits, made_from)
            self.bar.update(self.processes.size)

    def _finish(self) -> TeacherRecord:
        return finish(self.home, self.record, self.dataset.rows, _shards(self.dataset))

    def _tell(self, record: TeacherRecord) -> None:
        """Warn of what a user should know about this teacher."""
        said = {
            "CM001": f"its columns were mapped to those of {self.dataset.name!r} by name",
            "CM002": f"{record.accuracy:.4f} on {self.dataset.name!r}, published {record.published or 0:.4f}",
        }
        for code in filter(None, record.findings.split(",")):
            if self.processes.rank == 0:
                warnings.warn(f"{code} {FINDINGS[code].title}: teacher {record.key}: {said[code]}", stacklevel=4)


def _logits(
    runner: SavedRunner | NetworkRunner, low: int, high: int, teacher: Teacher, dataset: Dataset, dtype: str
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


def _check_same(now: TeacherRecord, file: Path, dataset: Dataset) -> None:
    record, fingerprint = read_record(file)
    if fingerprint != dataset.rows.fingerprint:
        raise BankError(f"{file} was collected on other data (fingerprint {fingerprint[:12]}) than {dataset.name!r}")
    for what, stored, given in (
        ("name", (record.family, record.teacher, record.seed), (now.family, now.teacher, now.seed)),
        ("weights", record.weights_hash[:12], now.weights_hash[:12]),
        ("preprocessing", record.preprocessing, now.preprocessing),
        ("dtype", record.dtype, now.dtype),
        ("options", record.options, now.options),
    ):
        if stored != given:
            raise BankError(
                f"{file} was collected with {what} {stored!r}, now given {given!r}: give the teacher another name, or "
                "remove the file to collect anew"
            )
