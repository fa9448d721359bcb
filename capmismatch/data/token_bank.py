"""The bank of language models: every teacher's condensed rows at the same positions, in memory or on disk.

`capmismatch.data.token_files` says what lies on disk. Vocabularies of at most 4,096 tokens stay dense: their banks
keep all logits, and everything that works for classes works for them.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capmismatch._numerics.condense_settings import DTYPE, DTYPES, K, checked_betas
from capmismatch._numerics.condensing import (
    Condensed,
    as_rows,
    condense_labelled,
    labelled,
    log_sum_exp,
    refuse_padded_mass,
    token_count,
)
from capmismatch._numerics.spacing import spaced
from capmismatch.data.bank import LogitBank
from capmismatch.data.bank_files import create, open_logits, read_token_rows
from capmismatch.data.feature_files import features_in
from capmismatch.data.logit_checks import NOT_LOGITS, SHARES, SUMS_TO_ONE, looks_like
from capmismatch.data.records import TeacherRecord
from capmismatch.data.rows import Rows, check_finite, label_array, make_rows
from capmismatch.data.token_files import (
    FILE,
    TokenFile,
    TokenSettings,
    arrays_of,
    collect_teacher,
    condensed_of,
    finished,
    open_tokens,
)
from capmismatch.errors import BankError, InputError, must_be_a_count, must_be_one_of, must_count
from capmismatch.findings import explain, join_codes

MOST_DENSE = 4096
"""Tokens up to which a bank keeps all logits."""

BLOCK_BYTES = 64 << 20  # of logits that are condensed at a time
SAMPLED = 64  # rows by which arrays are told apart


class TokenBank(LogitBank):
    """Teachers' rows over a vocabulary at the same positions of a text; make one with `token_bank_from_logits`.

    A `LogitBank` whose rows are positions. Where `dense` is False, each row is condensed to its `k` likeliest wrong
    tokens and sums over all others, and what needs the logits of all tokens raises an `InputError`.

    Parameters
    ----------
    path : str or Path
        Folder of the bank.

    Attributes
    ----------
    settings : TokenSettings or None
        How rows are kept: `k`, `betas`, `columns`, `seed`, `reference`, `dtype`; None where all logits are.
    numbers : ndarray of int, shape (N,)
        Numbers of the rows in the bank that they come from; the random columns depend on them.

    Raises
    ------
    BankError
        Where the folder holds no bank, or a file of it is damaged or does not belong to it.

    See Also
    --------
    open_bank : Opens any bank.

    Examples
    --------
    >>> logits = np.random.default_rng(0).normal(size=(2, 5000))
    >>> bank = token_bank_from_logits({"net": logits}, [3, 4], k=8, columns=16)
    >>> bank.dense, bank.k, bank.condensed_rows("tokens/net", np.array([0])).ids.shape
    (False, 8, (1, 8))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path | None = Path(path)
        rows, stored = read_token_rows(self.path)
        self.settings = TokenSettings.of(stored, self.path) if stored else None
        if self.settings is None:
            opened = [open_logits(file, rows) for file in sorted(self.path.glob("*/*/logits.safetensors"))]
        else:
            opened = [open_tokens(file, rows, self.settings) for file in sorted(self.path.glob(f"*/*/{FILE}"))]
        self.numbers = np.arange(len(rows.labels))
        self._fill(rows, opened)
        self._features = features_in(self.path, rows, self.records)

    @property
    def dense(self) -> bool:
        """Whether all logits are kept, as they are of at most 4,096 tokens."""
        return self.settings is None

    @property
    def condensed(self) -> bool:
        """Whether rows are condensed: not `dense`."""
        return self.settings is not None

    @property
    def of_texts(self) -> bool:
        """True."""
        return True

    @property
    def k(self) -> int | None:
        """How many wrong tokens of each row are kept; None where all logits are."""
        return None if self.settings is None else self.settings.k

    @property
    def reference(self) -> str | None:
        """Key of the teacher at whose likeliest tokens all others are read; None where all logits are kept."""
        return None if self.settings is None else self.settings.reference

    def condensed_rows(self, key: str, rows: NDArray[np.int64]) -> Condensed:
        """Rows of one teacher, condensed, in the order given."""
        settings = self._must_be_condensed()
        return condensed_of(self._tokens(key).take(rows, settings.parts), rows, self.rows.labels[rows], settings)

    def random_columns(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, R) logits of one teacher, less each row's mean, at random wrong tokens: for all teachers the same."""
        if not self._must_be_condensed().columns:
            raise InputError("this bank was made with columns=0: it keeps no logits at random tokens, which ranks need")
        return self._tokens(key).take(rows, ("columns",))["columns"].astype(np.float32)

    def reference_columns(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, k) logits of one teacher, less its largest wrong one, at the reference's likeliest wrong tokens."""
        self._must_be_condensed()
        return self._tokens(key).take(rows, ("reference",))["reference"].astype(np.float32)

    def _must_be_condensed(self) -> TokenSettings:
        if self.settings is None:
            raise InputError(f"this bank keeps the logits of all {len(self.classes)} tokens: take them with `take`")
        return self.settings

    def _tokens(self, key: str) -> TokenFile:
        tokens: TokenFile = self._verified_logits(key)
        return tokens

    def take(self, key: str, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[Any]:
        """(n, V) logits of one teacher, where they are kept."""
        self.must_keep_all("a teacher's logits")
        return super().take(key, rows, columns)

    def must_keep_all(self, what: str) -> None:
        """Raise an InputError that names `what`, in the plural, where rows are condensed."""
        if self.settings is not None:
            raise InputError(
                f"{what} need all {self.settings.vocabulary} tokens: this bank keeps the {self.k} likeliest wrong "
                "tokens of each row, and sums over all others"
            )

    def looked_at(self, key: str, rows: NDArray[np.int64]) -> tuple[float, float, str]:
        """Drift, share of equal neighbours among the likeliest tokens, and what the rows look like."""
        if self.settings is None:
            return super().looked_at(key, rows)
        condensed = self.condensed_rows(key, rows)
        spread, mean = float(condensed.std.mean()), float(condensed.mean.mean())
        tied = float((np.diff(condensed.below.astype(np.float64), axis=1) == 0).mean())
        of_logs = np.abs(log_sum_exp(condensed)) <= SUMS_TO_ONE
        kind = "log-probabilities" if of_logs.mean() >= SHARES["log-probabilities"] else ""
        return mean / spread if spread else 0.0, tied, kind

    def _verify(self, record: TeacherRecord) -> None:
        if self.settings is None:
            super()._verify(record)
            return
        if record.sha256 and self._stored[record.key].hash() != record.sha256:
            file = record.key if self.path is None else self.path / record.key / FILE
            raise BankError(f"{file} is damaged: its rows do not match the hash stored with them")
        self._verified.add(record.key)

    def subset(self, *, classes: Sequence[str | int] | None = None, n: int | None = None, seed: int = 0) -> TokenBank:
        """A bank in memory with fewer positions, all teachers in it.

        Parameters
        ----------
        classes : None
            Some tokens alone cannot be taken.
        n : int, optional
            How many positions, drawn by token and split in proportion; all by default.
        seed : int
            Of that draw.

        Returns
        -------
        TokenBank
            In memory; accuracies and hashes are those of the subset.

        Raises
        ------
        InputError
            `classes` are given, or there are fewer than `n` positions.
        """
        if classes is not None:
            raise InputError("some tokens of a vocabulary cannot be taken: a softmax is over all of them; give n alone")
        index = np.arange(len(self.rows.labels))
        if n is not None:
            index = self._drawn(index, n, seed)
        old, sequences = self.rows, self.rows.sequences
        rows = Rows(
            old.name,
            old.labels[index],
            old.ids[index],
            old.split[index],
            old.classes,
            old.inputs_hash,
            None if sequences is None else sequences[index],
        )
        opened: list[tuple[TeacherRecord, Any]] = []
        for record in self.records:
            if self.settings is None:
                opened.append(self._cut(record, index, np.arange(len(self.classes)), rows))
            else:
                arrays = self._tokens(record.key).take(index)
                stored = TokenFile(arrays)
                opened.append((finished(replace(record, findings=""), arrays, self.settings, stored.hash()), stored))
        cut = _in_memory(rows, opened, self.settings, self.numbers[index])
        cut._features = {key: features.cut(index) for key, features in self._features.items()}
        return cut

    def __repr__(self) -> str:
        splits = ", ".join(f"{count} {name}" for name, count in self.rows.split_counts.items())
        kept = "all logits" if self.settings is None else f"the {self.k} likeliest of each row and sums over all others"
        texts = self.rows.sequences
        of_texts = "" if texts is None else f" in {len(np.unique(texts))} sequences"
        head = (
            f"TokenBank of {self.rows.name!r}: {len(self.teachers)} teachers, {len(self.classes)} tokens ({kept}), "
            f"{splits}{of_texts}"
        )
        return f"{head}\n{self.table().to_string(index=False)}" if self.teachers else head


def token_bank_from_logits(
    logits: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    sequences: ArrayLike | None = None,
    params: Mapping[str, int] | None = None,
    k: int = K,
    betas: str | Iterable[float] = "octaves",
    columns: int = 64,
    seed: int = 0,
    vocabulary: int | None = None,
    tokens: Sequence[str] | None = None,
    split: ArrayLike | None = None,
    reference: str | None = None,
    dense: bool | None = None,
    dtype: str = DTYPE,
    family: str = "tokens",
    name: str = "tokens",
    path: str | os.PathLike[str] | None = None,
) -> TokenBank:
    """Make a bank of language models' logits, condensed row by row, in memory or in a folder.

    Parameters
    ----------
    logits : mapping of str to array_like of shape (N, V)
        Each teacher's name and its logits at the same N positions. Arrays are read in blocks, so memory-mapped ones may
        be larger than memory. -inf masks a token for all rows.
    labels : array_like of shape (N,)
        The token that follows each position, in [0, V); positions with -100 are no rows.
    sequences : array_like of shape (N,), optional
        Number of the text, window or document that each position belongs to: standard errors are taken over these.
        Without it positions count as independent, and standard errors of running text are too small.
    params : mapping of str to int, optional
        Each teacher's number of parameters; orders the family.
    k : int, default 64
        How many wrong tokens of each row are kept one by one.
    betas : {"octaves", "half"} or iterable of float, default "octaves"
        Inverse temperatures at which sums over all other tokens are kept; see `capmismatch.condense`.
    columns : int, default 64
        At how many random tokens all teachers' logits are kept, for rank correlations; 0 for none.
    seed : int, default 0
        Of the choice of these tokens.
    vocabulary : int, optional
        The tokenizer's size, where logits have more columns (padding), which are cut: finding CM031.
    tokens : sequence of str, optional
        Names of the V tokens; their numbers by default.
    split : array_like of shape (N,), optional
        "train", "val" or "test" for each position, one for all positions of a sequence; all "val" by default.
    reference : str, optional
        The teacher at whose likeliest tokens all others are read; by default the largest, or the last.
    dense : bool, optional
        Whether to keep all logits; by default where there are at most 4,096 tokens. Such a bank has ``bank.dense``
        True and ``bank.k`` None, and works with all that classes work with.
    dtype : {"float24", "float16", "float32"}, default "float24"
        Of the kept tokens' logits, which are stored as distances from the row's largest wrong one; "float24" is a
        float16 and a byte of what rounding took. Dense banks keep float16 as it is, and else float32.
    family : str
        Name of the family.
    name : str
        Name of the data set.
    path : str or Path, optional
        Folder to keep the bank in, shard by shard of 8,192 rows: memory stays flat, and a killed run, started again,
        goes on where it stopped and ends with the same bytes. In memory by default.

    Returns
    -------
    TokenBank
        With the keys ``family/teacher``.

    Raises
    ------
    InputError
        NaN, infinite or cut logits, labels that are no tokens, teachers of other shapes, k below 2.
    BankError
        Where the folder holds a bank of other data, or of teachers of these names with other logits.

    See Also
    --------
    capmismatch.condense : What is kept of each row, and why that is enough.
    capmismatch.probe, capmismatch.rank_stability, capmismatch.restored_variance : The tables.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> logits = {name: generator.normal(size=(6, 5000)) for name in ("small", "large")}
    >>> bank = token_bank_from_logits(logits, [1, 2, 3, 4, 5, 6], sequences=[0, 0, 0, 1, 1, 1], k=16, columns=16)
    >>> bank.keys, bank.rows.ids.tolist()[:4]
    (['tokens/small', 'tokens/large'], ['0:0', '0:1', '0:2', '1:0'])
    """
    must_count(k, "k", least=2)
    must_count(columns, "columns", least=0)
    must_count(seed, "seed", least=0, most=2**64 - 1)
    must_be_one_of(dtype, DTYPES, "dtype")
    rates, teachers = checked_betas(betas), _teachers(logits)
    width, count = _shape(teachers, vocabulary)
    kept, targets = labelled(labels, count, width)
    if not len(kept):
        raise InputError("expected labels of at least one position, got -100 for all")
    rows = _make_rows(name, kept, targets, width if tokens is None else tokens, count, sequences, split)
    if len(rows.classes) != width:
        raise InputError(f"expected names of {width} tokens, got {len(rows.classes)}")
    records = _records(teachers, params, family, width)
    if dense if dense is not None else width <= MOST_DENSE:
        return _dense(rows, kept, records, path)
    chosen = _reference(records, reference)
    settings = TokenSettings(
        width, min(k, width - 1), tuple(rates.tolist()), min(columns, width - 1), seed, chosen.record.key, dtype
    )
    return _condensed(rows, kept, [chosen, *(one for one in records if one is not chosen)], settings, path)


# --- teachers' arrays -------------------------------------------------------------------------------------------------


class _Teacher:
    """One teacher's logits, of which blocks of rows are read, and what is known of it."""

    def __init__(self, values: Any, record: TeacherRecord, width: int) -> None:
        self.values, self.record, self.width = values, record, width
        self.place = f"logits of {record.teacher!r}"

    def read(self, rows: NDArray[np.int64]) -> Any:
        """(n, columns) of some rows, ascending."""
        first, last = int(rows[0]), int(rows[-1])
        block = self.values[first : last + 1]
        return as_rows(block if last - first + 1 == len(rows) else block[rows - first], self.place)

    def tokens(
        self, rows: NDArray[np.int64], settings: TokenSettings, labels: NDArray[np.int64]
    ) -> tuple[Any, Condensed]:
        """The same without padding, and condensed."""
        values, betas = self.read(rows), np.array(settings.betas)
        return values, condense_labelled(values, rows, labels, settings.k, betas, self.width, self.place)


def _teachers(logits: Mapping[str, ArrayLike]) -> dict[str, Any]:
    if not isinstance(logits, Mapping) or not logits:
        got = type(logits).__name__ if not isinstance(logits, Mapping) else "none"
        raise InputError(f"expected a mapping from teachers' names to logits of at least one, got {got}")
    teachers = {str(name): values for name, values in logits.items()}
    if len(teachers) < len(logits):
        raise InputError(f"expected distinct names of teachers, got {list(logits)}")
    return {
        name: values if getattr(values, "ndim", 0) == 2 else as_rows(values, f"logits of {name!r}")
        for name, values in teachers.items()
    }


def _shape(teachers: Mapping[str, Any], vocabulary: int | None) -> tuple[int, int]:
    """How many tokens and positions all teachers have."""
    widths = {name: int(values.shape[1]) for name, values in teachers.items()}
    counts = {name: int(values.shape[0]) for name, values in teachers.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"expected logits of the same positions for every teacher, got {counts}")
    if vocabulary is None and len(set(widths.values())) > 1:
        raise InputError(
            f"expected logits over one vocabulary, got columns {widths}: where the others are padding, give the "
            "tokenizer's size as vocabulary"
        )
    width = min(token_count(values, vocabulary, f"logits of {name!r}") for name, values in teachers.items())
    if width < 3:
        raise InputError(f"expected at least 3 tokens, got {width}")
    return width, next(iter(counts.values()))


def _make_rows(
    name: str,
    kept: NDArray[np.int64],
    labels: NDArray[np.int64],
    tokens: int | Sequence[str],
    count: int,
    sequences: ArrayLike | None,
    split: ArrayLike | None,
) -> Rows:
    """Rows of those of `count` positions that have a label, called by sequence and place in it."""
    names = [str(number) for number in range(tokens)] if isinstance(tokens, int) else tokens
    ids, numbers = kept.astype(str), None
    if sequences is not None:
        of_all = label_array(sequences, "sequences")
        if len(of_all) != count:
            raise InputError(f"expected the sequence of each of {count} positions, got {len(of_all)}")
        order = np.argsort(of_all, kind="stable")
        place = np.empty(len(of_all), np.int64)
        starts = np.flatnonzero(np.r_[True, np.diff(of_all[order]) != 0])
        place[order] = np.arange(len(of_all)) - np.repeat(starts, np.diff(np.r_[starts, len(of_all)]))
        numbers = of_all[kept]
        ids = np.array([f"{int(number)}:{at}" for number, at in zip(numbers, place[kept], strict=True)])
    chosen = None
    if split is not None:
        chosen = np.asarray(split)
        if chosen.shape != (count,):
            raise InputError(f"expected the split of each of {count} positions, got shape {chosen.shape}")
        chosen = chosen[kept]
    return make_rows(name, labels, names, ids=ids, split=chosen, sequences=numbers)


def _records(teachers: Mapping[str, Any], params: Mapping[str, int] | None, family: str, width: int) -> list[_Teacher]:
    sizes = {str(teacher): size for teacher, size in (params or {}).items()}
    for teacher, size in sizes.items():
        must_be_one_of(teacher, teachers, "teacher in params")
        must_be_a_count(size, f"params of teacher {teacher!r}")
    records = []
    for order, (teacher, values) in enumerate(teachers.items()):
        padded = int(values.shape[1]) - width
        record = TeacherRecord(
            family,
            teacher,
            params=sizes.get(teacher),
            source="arrays",
            order=order,
            options=f"{padded} padded columns cut" if padded else "",
            findings="CM031" if padded else "",
        )
        records.append(_Teacher(values, record, width))
    return records


def _reference(records: Sequence[_Teacher], name: str | None) -> _Teacher:
    if name is not None:
        must_be_one_of(name, [one.record.teacher for one in records], "reference")
        return next(one for one in records if one.record.teacher == name)
    return max(records, key=lambda one: (one.record.params or -1, one.record.order))


# --- the two kinds of bank --------------------------------------------------------------------------------------------


def _condensed(
    rows: Rows,
    kept: NDArray[np.int64],
    teachers: Sequence[_Teacher],
    settings: TokenSettings,
    path: str | os.PathLike[str] | None,
) -> TokenBank:
    """Condense all teachers, the reference first: the others are read at its likeliest tokens."""
    step = max(1, BLOCK_BYTES // (4 * settings.vocabulary))
    reference: TokenFile | None = None
    opened = []

    def reader(teacher: _Teacher) -> Callable[[int, int], dict[str, NDArray[Any]]]:
        def read(start: int, stop: int) -> dict[str, NDArray[Any]]:
            parts = []
            for low in range(start, stop, step):
                numbers = np.arange(low, min(low + step, stop))
                values, condensed = teacher.tokens(kept[numbers], settings, rows.labels[numbers])
                at = condensed.ids if reference is None else reference.take(numbers, ("ids",))["ids"]
                parts.append(arrays_of(values, condensed, numbers, at, settings))
            return {tensor: np.concatenate([part[tensor] for part in parts]) for tensor in settings.tensors(0)}

        return read

    folder = None if path is None else create(path, rows, settings.stored)
    for teacher in teachers:
        plain = replace(teacher.record, dtype=settings.dtype_of_below)
        if folder is None:
            stored = TokenFile(reader(teacher)(0, len(kept)))
            record = finished(plain, stored.arrays, settings, stored.hash())
        else:
            told = replace(plain, weights_hash=_fingerprint(teacher, kept))
            for _ in collect_teacher(folder, told, rows, settings, reader(teacher)):
                pass
            record, stored = open_tokens(folder / told.key / FILE, rows, settings)
        reference = stored if reference is None else reference
        opened.append((record, stored))
        _warn(record)
    return _in_memory(rows, opened, settings) if path is None else TokenBank(path)


def _fingerprint(teacher: _Teacher, kept: NDArray[np.int64]) -> str:
    """Tells arrays apart by some of their rows: reading all would take as long as condensing them."""
    some = spaced(len(kept), SAMPLED)
    digest = hashlib.sha256(repr((tuple(teacher.values.shape), str(teacher.values.dtype))).encode())
    for row in kept[some]:
        block = teacher.read(np.array([row]))
        digest.update(np.ascontiguousarray(block if isinstance(block, np.ndarray) else block.cpu().numpy()).data)
    return digest.hexdigest()


def _dense(
    rows: Rows, kept: NDArray[np.int64], teachers: Sequence[_Teacher], path: str | os.PathLike[str] | None
) -> TokenBank:
    """Keep all logits of all teachers."""
    folder = None if path is None else create(path, rows)
    opened: list[tuple[TeacherRecord, Any]] = []
    for teacher in teachers:
        half = str(teacher.values.dtype) in ("float16", "torch.float16")
        record = replace(teacher.record, dtype="float16" if half else "float32")

        def read(start: int, stop: int, teacher: _Teacher = teacher, dtype: str = record.dtype) -> dict[str, Any]:
            block = teacher.read(kept[start:stop])
            values = block if isinstance(block, np.ndarray) else block.cpu().numpy()
            logits, padded = values[:, : teacher.width], values[:, teacher.width :]
            check_finite(logits, teacher.place, start)
            if padded.shape[1]:
                within = np.logaddexp.reduce(logits, axis=1)
                refuse_padded_mass(padded, within, kept[start:stop], teacher.place, teacher.width)
            return {"logits": logits.astype(dtype)}

        if folder is None:
            logits = read(0, len(kept))["logits"]
            codes = [*filter(None, [record.findings]), *(["CM016"] if looks_like(logits) in NOT_LOGITS else [])]
            right = int((logits.argmax(1) == rows.labels).sum())
            stored = replace(record.with_accuracy(right, len(kept)), findings=join_codes(codes)), logits
        else:
            told = replace(record, weights_hash=_fingerprint(teacher, kept))
            for _ in collect_teacher(folder, told, rows, None, read):
                pass
            stored = open_logits(folder / told.key / "logits.safetensors", rows)
        opened.append(stored)
        _warn(stored[0])
    return _in_memory(rows, opened, None) if path is None else TokenBank(path)


def _warn(record: TeacherRecord) -> None:
    """Warn of what was found while the rows were read."""
    details = {"CM016": "its rows look like probabilities or percentages", "CM031": record.options}
    for code in filter(None, record.findings.split(",")):
        warnings.warn(f"{code} {explain(code).title}: teacher {record.key}: {details.get(code, '')}", stacklevel=4)


def _in_memory(
    rows: Rows,
    opened: Iterable[tuple[TeacherRecord, Any]],
    settings: TokenSettings | None,
    numbers: NDArray[np.int64] | None = None,
) -> TokenBank:
    bank = object.__new__(TokenBank)
    bank.path, bank.settings = None, settings
    bank.numbers = np.arange(len(rows.labels)) if numbers is None else numbers
    bank._fill(rows, opened)
    return bank
