"""Run every teacher of a family once over a data set and keep the logits in a bank, a shard of rows at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.condense_settings import DTYPES, K
from capmismatch._utils.files import hash_of, locked, remove_temporaries
from capmismatch._utils.progress import progress_bar
from capmismatch._utils.torchrun import ProcessGroup, process_group
from capmismatch.data.bank import LogitBank
from capmismatch.data.bank_files import (
    create,
    join_shards,
    read_record,
    read_shard,
    remove_shards,
    rewrite_record,
    shard_files,
    write_shard,
)
from capmismatch.data.datasets import Dataset
from capmismatch.data.feature_files import FILE as FEATURE_FILE
from capmismatch.data.feature_files import SHARD as FEATURE_SHARD
from capmismatch.data.feature_files import (
    FeatureRecord,
    has_feature_shard,
    join_feature_shards,
    read_feature_record,
    write_feature_shard,
)
from capmismatch.data.opening import open_bank
from capmismatch.data.records import TeacherRecord
from capmismatch.data.rows import Rows, check_finite
from capmismatch.errors import BankError, InputError, must_be_one_of
from capmismatch.findings import FINDINGS, join_codes
from capmismatch.sources._tokenizers import tokenizer_findings
from capmismatch.sources.families import Family, Teacher
from capmismatch.sources.runners import NetworkRunner, Passes, SavedRunner, columns_of, options_of
from capmismatch.sources.token_collecting import Condensing, collect_condensed

SHARD_ROWS = 8192


def collect(
    family: Family,
    dataset: Dataset | None,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 256,
    dtype: str | None = None,
    device: str = "cpu",
    autocast: str | None = None,
    channels_last: bool = False,
    check_published: bool | None = None,
    progress: bool = True,
    k: int = K,
    betas: str | Iterable[float] = "octaves",
    columns: int = 64,
    seed: int = 0,
    reference: str | None = None,
    dense: bool | None = None,
    features: bool = False,
) -> LogitBank:
    """Fill a bank with the logits of every teacher on every row of a data set.

    What is there already stays: a killed run, started again, continues at the shard where it stopped and ends with the
    same bytes; teachers can be added to a bank later. Each teacher is locked while it runs, so that several processes
    can share the work; a second process at the same teacher waits. Under ``torchrun`` the processes share every
    teacher's shards instead, without padding or repetition, and the bank has the bytes that one process would have
    written.

    A teacher that names its classes in another order than the data set is mapped by name (finding CM001), or refused
    where the names do not match.

    Parameters
    ----------
    family : Family
        From `load_family`.
    dataset : Dataset or None
        From `load_dataset`; None takes the one that came with saved logits. Saved logits and a data set are matched by
        example id, class name and label.
    path : str or Path
        Folder of the bank; made where it is missing.
    batch_size : int
        Rows per forward pass.
    dtype : str, optional
        "float32" or "float16", of the stored logits, by default float32; of condensed rows also "float24", which is
        their default, see `token_bank_from_logits`.
    device : str
        Where the networks run, such as "cuda"; under ``torchrun`` each process takes its own.
    autocast : str, optional
        "bfloat16" or "float16": let torch run in half precision where it considers that safe.
    channels_last : bool
        Whether images lie in memory channel by channel (faster convolutions, other rounding).
    check_published : bool, optional
        Whether a teacher's accuracy is compared with the one that its source claims (finding CM002); by default where
        the data set is the one that it was measured on.
    progress : bool
        Whether to show a progress bar.
    k : int, default 64
        Of a text with more than 4,096 tokens: how many wrong tokens of each row are kept one by one. Such rows are
        condensed, see `capmismatch.condense`; passes are over whole windows.
    betas : {"octaves", "half"} or iterable of float, default "octaves"
        Of condensed rows: inverse temperatures at which sums over all other tokens are kept.
    columns : int, default 64
        Of condensed rows: at how many random tokens all teachers' logits are kept, for rank correlations; 0 for none.
    seed : int, default 0
        Of the choice of these tokens.
    reference : str, optional
        Of condensed rows: key of the teacher at whose likeliest tokens all others are read; by default the largest.
    dense : bool, optional
        Of a text: whether all logits are kept; by default those of at most 4,096 tokens are.
    features : bool, default False
        Whether to keep each network's features as well, in float16: what its last linear layer reads, or the output of
        the layer that `load_family` names (`feature_layer`). They lie beside its logits, from the same passes; of a
        teacher whose logits are there already it runs once more. Those of a bank come with its teachers; other saved
        logits bring none (finding CM050).

    Returns
    -------
    LogitBank
        The bank in the folder, with all teachers that it holds; a `TokenBank` of condensed rows.

    Raises
    ------
    InputError
        Where a teacher gives NaN, or another number of classes than the data set has, or overflows float16, or a
        language model has another tokenizer than the text.
    BankError
        Where the folder holds a bank of other data, or a teacher of that name with other weights.

    See Also
    --------
    load_family : the teachers.
    load_dataset : the examples.
    bank_from_arrays : a bank of logits that are in memory.

    Notes
    -----
    Device, autocast, channels_last and mapped columns are recorded where they differ from plain passes on the CPU, and
    a teacher that is there already must have been collected in the same way.

    Examples
    --------
    >>> import tempfile
    >>> from capmismatch import load_dataset, load_family
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     family = load_family("letters:mlp", widths=[4], seeds=1, folder=folder)
    ...     collect(family, load_dataset("letters", split={"test": 100}), f"{folder}/bank", progress=False).keys
    ['mlp/mlp4-s0']
    """
    if dtype is not None:
        must_be_one_of(dtype, DTYPES, "dtype")
    passes = Passes(batch_size, device, autocast, channels_last)
    data = dataset if dataset is not None else family.dataset
    if data is None:
        raise InputError("expected a data set: only saved logits bring their own")
    condensing = Condensing(k, betas, columns, seed, reference, dense, dtype)
    if condensing.condenses(data):
        if features:
            raise InputError("features are kept beside all logits: rows of this text are condensed, give dense=True")
        return _collect_condensed(family, data, Path(path), passes, condensing, check_published, progress)
    if dtype is not None:
        must_be_one_of(dtype, ("float32", "float16"), "dtype of all logits")
    with process_group() as processes:
        processes.on_rank_zero(lambda: create(path, data.rows))
        processes.on_all_ranks(lambda: create(path, data.rows))  # each worker's data set must be this bank's
        job = _Job(data, Path(path), passes, dtype or "float32", check_published, processes, features)
        quiet = not progress or processes.rank > 0
        total = job.shards * len(family)
        with progress_bar(desc="collect", show=not quiet, total=total, unit="shard") as bar:
            for order, teacher in enumerate(family):
                bar.set_postfix_str(teacher.key)
                _TeacherCollector(job, teacher, order, bar).run()
    return LogitBank(path)


def _collect_condensed(
    family: Family,
    data: Dataset,
    path: Path,
    passes: Passes,
    condensing: Condensing,
    check_published: bool | None,
    progress: bool,
) -> LogitBank:
    """The bank of a text whose rows are condensed; processes share it teacher by teacher."""
    with process_group() as processes:
        if processes.size > 1:
            raise InputError(
                "condensed rows are collected by single processes: start several without torchrun, each with some of "
                "the teachers"
            )
        settings = condensing.settings(family, data, path)
        job = _Job(data, path, passes, settings.dtype_of_below, check_published, processes)
        for teacher in family:
            _check_length(teacher.key)
        total = len(family) * len(data)
        with progress_bar(desc="collect", show=progress, total=total, unit="row") as bar:
            there = dict.fromkeys((teacher.key for teacher in family), 0)
            for key, count in collect_condensed(family, data, path, settings, passes, job.record_of):
                bar.set_postfix_str(key)
                bar.update(count - there[key])
                there[key] = count
        bank = open_bank(path)
        for record in bank.teachers:
            if record.key in there:
                warn_of(record, data.name, stacklevel=4)
    return bank


@dataclass(frozen=True)
class _Job:
    """What all teachers of one call of `collect` have in common."""

    dataset: Dataset
    bank_folder: Path
    passes: Passes
    dtype: str
    check_published: bool | None
    processes: ProcessGroup
    features: bool = False

    @property
    def shards(self) -> int:
        """How many shards the logits of one teacher make."""
        return -(-len(self.dataset) // SHARD_ROWS)

    def rows_of_shard(self, index: int) -> range:
        """The rows of a shard."""
        return range(index * SHARD_ROWS, min((index + 1) * SHARD_ROWS, len(self.dataset)))

    def record_of(self, teacher: Teacher, order: int) -> TeacherRecord:
        """What the bank will know of a teacher before its logits are there."""
        compare = self.check_published
        if compare is None:
            compare = teacher.published_on == self.dataset.name
        return TeacherRecord(
            family=teacher.family,
            teacher=teacher.name,
            seed=teacher.seed,
            params=teacher.params,
            macs=teacher.macs,
            source=teacher.source,
            weights_hash=teacher.weights_hash,
            preprocessing=teacher.preprocessing,
            dtype=self.dtype,
            order=order,
            options=options_of(teacher, self.dataset, self.passes),
            published=teacher.published if compare else None,
            findings=join_codes(
                [*filter(None, [self._order_finding(teacher)]), *tokenizer_findings(teacher, self.dataset)]
            ),
            built_by=teacher.built_by,
            role=teacher.role,
        )

    def _order_finding(self, teacher: Teacher) -> str:
        """CM001 where columns are mapped by name, CM018 where only the way is known in which its library sorts them.

        CM017 where nothing is known, and trainers put these classes in different orders.
        """
        if columns_of(teacher, self.dataset) is None:
            is_known = teacher.saved is not None or teacher.by_position
            is_known = is_known or teacher.output_names(self.dataset.classes) is not None or teacher.natural_order
            return "CM017" if self.dataset.doubt and not is_known else ""
        return "CM018" if teacher.classes is None else "CM001"


class _TeacherCollector:
    """One teacher of a bank: its shards where they are missing, and the joined file."""

    def __init__(self, job: _Job, teacher: Teacher, order: int, bar: Any) -> None:
        self.job, self.teacher, self.bar = job, teacher, bar
        _check_length(teacher.key)
        self.folder = job.bank_folder / teacher.key
        self.file = self.folder / "logits.safetensors"
        self.record = job.record_of(teacher, order)
        self.keeps_features = job.features and (teacher.saved is None or teacher.saved_features is not None)

    def run(self) -> None:
        """Collect what is missing, or check that what is there was collected in the same way."""
        processes = self.job.processes
        if self.job.features and not self.keeps_features and processes.rank == 0:
            message = f"CM050 {FINDINGS['CM050'].title}: teacher {self.teacher.key} brings saved logits alone"
            warnings.warn(message, stacklevel=3)
        if not processes.on_rank_zero(self._is_finished):
            with processes.lock_on_rank_zero(self.folder / ".lock"):
                if not processes.on_rank_zero(self._is_finished_after_tidying):
                    has_logits = processes.on_rank_zero(self.file.exists)
                    if has_logits:  # of before features were asked for
                        check_same(self.record, self.file, self.job.dataset)
                    processes.on_all_ranks(lambda: self._write_missing_shards(has_logits))
                    record = processes.on_rank_zero(lambda: self._join_shards(has_logits))
                    if not has_logits:
                        self._warn(record)
                    return
        check_same(self.record, self.file, self.job.dataset)
        self._check_features()
        processes.on_rank_zero(self._keep_up_to_date)
        self.bar.update(self.job.shards)

    def _is_finished(self) -> bool:
        return self._has_all and not shard_files(self.folder) and not shard_files(self.folder, FEATURE_SHARD)

    @property
    def _has_all(self) -> bool:
        """Whether the joined files that are asked for are there."""
        return self.file.exists() and (not self.keeps_features or (self.folder / FEATURE_FILE).exists())

    def _is_finished_after_tidying(self) -> bool:
        """Whether the joined file is there, once what killed processes have left is removed; only under the lock."""
        remove_temporaries(self.folder)
        if self.file.exists():
            remove_shards(self.folder)
        if (self.folder / FEATURE_FILE).exists():
            remove_shards(self.folder, FEATURE_SHARD)
        return self._has_all

    def _keep_up_to_date(self) -> None:
        """Bring what is known of the teacher, and decides no logit, to what its source says now: size, place."""
        rows = self.job.dataset.rows
        if _known_now(self.record, self.teacher, self.file, rows) is None:
            return
        with locked(self.folder / ".lock"):
            record = _known_now(self.record, self.teacher, self.file, rows)
            if record is not None:
                rewrite_record(self.file, record, rows)

    def _write_missing_shards(self, has_logits: bool = False) -> None:
        """Write the shards of this worker that are missing; none of logits where these are joined already."""
        job, runner = self.job, self._runner()
        if self.record.macs is None and job.processes.rank == 0:
            self.record = replace(self.record, macs=runner.macs)
        made_from, features_from = self._made_from(), self._features_made_from()
        has_features = not self.keeps_features or (self.folder / FEATURE_FILE).exists()
        for index in job.processes.share(job.shards):
            rows = job.rows_of_shard(index)
            whole = has_logits or self._has_logits_of(index, rows, made_from)
            if not has_features and not has_feature_shard(self.folder, index, len(rows), features_from):
                logits, features = runner.with_features(rows.start, rows.stop)
                if not whole:
                    checked = _checked(logits, rows.start, rows.stop, self.teacher, job.dataset, job.dtype)
                    write_shard(self.folder, index, checked, made_from)
                write_feature_shard(self.folder, index, features, features_from)
            elif not whole:
                logits = _logits(runner, rows.start, rows.stop, self.teacher, job.dataset, job.dtype)
                write_shard(self.folder, index, logits, made_from)
            self.bar.update(job.processes.size)

    def _has_logits_of(self, index: int, rows: range, made_from: str) -> bool:
        stored = read_shard(self.folder, index, made_from)
        return stored is not None and stored.shape == (len(rows), len(self.job.dataset.classes))

    def _features_made_from(self) -> str:
        """The same hash as of logits, with the layer."""
        return hash_of([self._made_from(), "features", self.teacher.feature_layer])

    def _check_features(self) -> None:
        """Raise unless features that are there are of the layer that is asked for."""
        if not self.keeps_features:
            return
        stored, _ = read_feature_record(self.folder / FEATURE_FILE)
        if stored.layer != self.teacher.feature_layer or stored.weights_hash != self.teacher.weights_hash:
            raise BankError(
                f"{self.folder / FEATURE_FILE} was collected with feature_layer {stored.layer!r} and weights "
                f"{stored.weights_hash[:12]!r}, now given {self.teacher.feature_layer!r} and "
                f"{self.teacher.weights_hash[:12]!r}: remove the file to collect again"
            )

    def _runner(self) -> SavedRunner | NetworkRunner:
        if self.teacher.saved:
            return SavedRunner(self.teacher, self.job.dataset)
        return NetworkRunner(self.teacher, self.job.dataset, self.job.passes)

    def _made_from(self) -> str:
        """A hash of all that decides a shard's bytes but its rows."""
        return hash_of(
            [
                self.teacher.weights_hash,
                self.teacher.preprocessing,
                self.job.dtype,
                self.job.dataset.rows.fingerprint,
                *filter(None, [self.record.options, self.record.built_by]),
            ]
        )

    def _join_shards(self, has_logits: bool) -> TeacherRecord:
        rows, shards = self.job.dataset.rows, self.job.shards
        if self.keeps_features and not (self.folder / FEATURE_FILE).exists():
            about = FeatureRecord(self.teacher.key, self.teacher.feature_layer, self.teacher.weights_hash)
            join_feature_shards(self.folder, about, rows, shards)
        return self.record if has_logits else join_shards(self.folder, self.record, rows, shards)

    def _warn(self, record: TeacherRecord) -> None:
        """Warn of the findings about this teacher."""
        if self.job.processes.rank == 0:
            warn_of(record, self.job.dataset.name, stacklevel=5)


def warn_of(record: TeacherRecord, data: str, stacklevel: int) -> None:
    """Warn of the findings about a teacher of a bank."""
    details = {
        "CM001": f"its columns were mapped to those of {data!r} by name",
        "CM018": f"its columns were taken in timm's order of {data!r}'s classes, with by_position=True as they are",
        "CM017": f"its columns were taken in the order of {data!r}'s classes; by_position=True says it is right",
        "CM002": f"{record.accuracy:.4f} on {data!r}, published {record.published or 0:.4f}",
        "CM016": "its rows are probabilities, percentages or sigmoids, not what comes before the last layer",
        "CM031": record.options,
        "CM033": f"its tokens were taken to be those of {data!r}",
    }
    for code in filter(None, record.findings.split(",")):
        message = f"{code} {FINDINGS[code].title}: teacher {record.key}: {details[code]}"
        warnings.warn(message, stacklevel=stacklevel)  # at the caller of `collect`


def sample_logits(teacher: Teacher, dataset: Dataset, settings: Any) -> NDArray[Any]:
    """Logits of one teacher on all rows of a small data set, with the checks of `collect`; nothing is kept.

    Parameters
    ----------
    teacher : Teacher
        Of a family.
    dataset : Dataset
        The rows.
    settings : CollectConfig
        With the arguments of `collect`.

    Returns
    -------
    ndarray of shape (N, C)
        In the precision to be stored.

    Raises
    ------
    InputError
        Where `collect` would.
    """
    passes = Passes(settings.batch_size, settings.device, settings.autocast, settings.channels_last)
    runner = SavedRunner(teacher, dataset) if teacher.saved else NetworkRunner(teacher, dataset, passes)
    return _logits(runner, 0, len(dataset), teacher, dataset, settings.dtype or "float32")


def _check_length(key: str) -> None:
    """Raise where a file system could not hold the names of a teacher's folders: most stop at 255 bytes."""
    longest = max(key.split("/"), key=len)
    if len(longest) > 255:
        raise InputError(
            f"expected names of teachers of up to 255 letters (other than plain ones count several times), got "
            f"{len(longest)} in {longest[:60]!r}...: give a shorter name"
        )


def _logits(
    runner: SavedRunner | NetworkRunner, low: int, high: int, teacher: Teacher, dataset: Dataset, dtype: str
) -> NDArray[Any]:
    """Logits of some rows in the precision to be stored, checked."""
    return _checked(runner(low, high), low, high, teacher, dataset, dtype)


def _checked(logits: NDArray[Any], low: int, high: int, teacher: Teacher, dataset: Dataset, dtype: str) -> NDArray[Any]:
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


def check_same(record: TeacherRecord, file: Path, dataset: Dataset) -> None:
    """Raise unless a joined file was collected from this teacher in the same way."""
    stored_record, fingerprint = read_record(file)
    if fingerprint != dataset.rows.fingerprint:
        raise BankError(f"{file} was collected on other data (fingerprint {fingerprint[:12]}) than {dataset.name!r}")
    stored, current = _collected_with(stored_record), _collected_with(record)
    for what in current:
        if stored[what] != current[what] and not (what == "network" and not stored[what]):  # not kept in earlier banks
            raise BankError(
                f"{file} was collected with {what} {stored[what]!r}, now given {current[what]!r}: give the teacher "
                "another name, or remove the file to collect again"
            )


def _collected_with(record: TeacherRecord) -> dict[str, Any]:
    """What must be the same when a teacher is collected again."""
    return {
        "name": (record.family, record.teacher, record.seed),
        "weights": record.weights_hash[:12],
        "preprocessing": record.preprocessing,
        "dtype": record.dtype,
        "options": record.options,
        "network": record.built_by,
    }


def _known_now(record: TeacherRecord, teacher: Teacher, file: Path, rows: Rows) -> TeacherRecord | None:
    """The record of a finished teacher as its source gives it now; None where that is what the file holds."""
    stored, _ = read_record(file)
    # Those of a network are counted as it runs; saved logits bring them, or there are none.
    macs = stored.macs if record.macs is None and teacher.saved is None else record.macs
    now = replace(record, macs=macs, accuracy=stored.accuracy, sha256=stored.sha256, built_by=stored.built_by)
    now = now.with_accuracy(round(stored.accuracy * len(rows.labels)), len(rows.labels))
    now = replace(now, accuracy=stored.accuracy)
    return None if now == stored else now
