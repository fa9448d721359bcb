"""Run language models over a text and keep condensed rows: memory stays flat whatever the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.condense_settings import DTYPE, K, checked_betas
from capmismatch._numerics.condensing import as_rows, condense_labelled
from capmismatch.data.bank_files import create, read_settings
from capmismatch.data.datasets import Dataset
from capmismatch.data.records import TeacherRecord
from capmismatch.data.token_bank import MOST_DENSE
from capmismatch.data.token_files import FILE, TokenFile, TokenSettings, arrays_of, collect_teacher, open_tokens
from capmismatch.data.token_inputs import TokenInputs
from capmismatch.errors import InputError, must_be_one_of, must_count
from capmismatch.sources.families import Family, Teacher
from capmismatch.sources.runners import NetworkRunner, Passes, SavedRunner


@dataclass(frozen=True)
class Condensing:
    """How rows of a text are kept, as `capmismatch.collect` takes it.

    Attributes
    ----------
    k : int
        How many wrong tokens of each row are kept one by one.
    betas : str or iterable of float
        Inverse temperatures at which sums over all other tokens are kept.
    columns : int
        At how many random tokens logits are kept, for rank correlations.
    seed : int
        Of the choice of these.
    reference : str, optional
        Key of the teacher at whose likeliest tokens all others are read; by default that of the bank, or the largest.
    dense : bool, optional
        Whether all logits are kept; by default those of at most 4,096 tokens are.
    dtype : str, optional
        "float24", "float16" or "float32", of the kept tokens' logits; by default that of the bank, or float24.
    """

    k: int = K
    betas: str | Iterable[float] = "octaves"
    columns: int = 64
    seed: int = 0
    reference: str | None = None
    dense: bool | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        must_count(self.k, "k", least=2)
        must_count(self.columns, "columns", least=0)
        must_count(self.seed, "seed", least=0, most=2**64 - 1)

    def condenses(self, dataset: Dataset) -> bool:
        """Whether the rows of a data set are to be condensed."""
        if not isinstance(dataset.inputs, TokenInputs):
            if self.dense is False:
                raise InputError(f"rows of {dataset.name!r} are no positions of a text: all logits are kept")
            return False
        return len(dataset.classes) > MOST_DENSE if self.dense is None else not self.dense

    def settings(self, family: Family, dataset: Dataset, bank: Path) -> TokenSettings:
        """How the bank keeps rows, with the reference that it has, or gets."""
        width = len(dataset.classes)
        stored = read_settings(bank) if (bank / "bank.json").exists() else {}
        reference = self._reference(family, stored)
        rates = tuple(checked_betas(self.betas).tolist())
        return TokenSettings(
            width,
            min(self.k, width - 1),
            rates,
            min(self.columns, width - 1),
            self.seed,
            reference,
            self.dtype or stored.get("dtype", DTYPE),
        )

    def _reference(self, family: Family, stored: Mapping[str, Any]) -> str:
        keys, known = [teacher.key for teacher in family], stored.get("reference")
        if self.reference is not None:
            must_be_one_of(self.reference, [*keys, *([str(known)] if known else [])], "reference")
            return self.reference
        if known is not None:
            return str(known)
        return max(family, key=lambda teacher: teacher.params or -1).key


def collect_condensed(
    family: Family,
    dataset: Dataset,
    bank: Path,
    settings: TokenSettings,
    passes: Passes,
    record_of: Callable[[Teacher, int], TeacherRecord],
) -> Iterator[tuple[str, int]]:
    """Fill a bank with the condensed rows of every teacher on a text, shard by shard, the reference first.

    Yields
    ------
    tuple of str and int
        Key of the teacher at work, and how many of its rows are there.

    Raises
    ------
    InputError
        The bank's reference is neither there nor in the family, or a teacher gives something else than logits.
    BankError
        The folder holds a bank of other data, or a teacher of that name with other weights.
    """
    create(bank, dataset.rows, settings.stored)
    numbered = sorted(enumerate(family), key=lambda pair: pair[1].key != settings.reference)
    reference_file = bank / settings.reference / FILE
    if numbered[0][1].key != settings.reference and not reference_file.exists():
        raise InputError(f"expected the bank's reference {settings.reference!r} in the family, or collected before")
    for order, teacher in numbered:
        is_reference = teacher.key == settings.reference
        stored = None if is_reference else open_tokens(reference_file, dataset.rows, settings)[1]
        reader = _Reader(teacher, dataset, settings, passes, stored)
        for count in collect_teacher(bank, record_of(teacher, order), dataset.rows, settings, reader):
            yield teacher.key, count


class _Reader:
    """What is kept of some rows of one teacher, from passes over their whole windows, or saved logits."""

    def __init__(
        self, teacher: Teacher, dataset: Dataset, settings: TokenSettings, passes: Passes, reference: TokenFile | None
    ) -> None:
        # Saved logits lie in memory or in a file that is mapped: rows of them are read as they are needed.
        self.passes, saved = passes, teacher.saved is not None
        self.rows = SavedRunner(teacher, dataset) if saved else NetworkRunner(teacher, dataset, passes).rows
        self.dataset, self.settings, self.reference = dataset, settings, reference
        self.place = f"teacher {teacher.key} on {dataset.name!r}"

    def __call__(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        parts = [self._read(np.arange(low, high)) for low, high in self._batches(start, stop)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.settings.tensors(0)}

    def _batches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Rows of whole windows, as many as a pass takes, at least one."""
        window = self.dataset.inputs.window[start:stop]
        ends = [*(np.flatnonzero(np.diff(window)) + 1 + start).tolist(), stop]
        low = start
        for end, following in zip(ends, [*ends[1:], None], strict=True):
            if following is None or following - low > self.passes.batch_size:
                yield low, end
                low = end

    def _read(self, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        settings, labels = self.settings, self.dataset.labels[numbers]
        values = as_rows(self.rows(int(numbers[0]), int(numbers[-1]) + 1), self.place)
        if values.shape[1] != settings.vocabulary:
            raise InputError(
                f"expected logits of {settings.vocabulary} tokens from {self.place}, got {values.shape[1]}"
            )
        condensed = condense_labelled(values, numbers, labels, settings.k, np.array(settings.betas), place=self.place)
        at = condensed.ids if self.reference is None else self.reference.take(numbers, ("ids",))["ids"]
        return arrays_of(values, condensed, numbers, at, settings)
