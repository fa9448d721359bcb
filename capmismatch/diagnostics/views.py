"""What `check` keeps of each teacher: a few numbers of each example that it looks at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from capmismatch._numerics.devices import thread_count
from capmismatch._numerics.spacing import spaced
from capmismatch._numerics.threads import keep_memory, map_in_threads
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.looked_at import of_examples, rows_that_are_probabilities, token_columns
from capmismatch.diagnostics.row_forms import incomplete, incomplete_rows, incomplete_tokens, lowest_apart, tied_columns

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS = 5000
"""How many examples of each teacher are looked at, evenly spaced over the bank."""

ROWS_OF_PROBABILITIES = 0.9
"""From this share of rows on that look like probabilities, a teacher's logits are taken for some."""

COMPARED = 16
"""Examples at which teachers with equal predictions are compared logit by logit."""


@dataclass(eq=False)
class View:
    """What is kept of one teacher: a few numbers of each example that is looked at.

    Attributes
    ----------
    record : TeacherRecord
        Who it is.
    labels, top : array of shape (n,)
        The target, and the class with the highest logit.
    margin : array of shape (n,)
        How far the highest logit is above the next, in standard deviations of the example's logits.
    rank : array of shape (n,)
        Share of the other classes that the target's logit is above, ties counted half.
    by_chance : array of shape (n,)
        The mean of `rank` if the target were another example's.
    wrong_rank : array of shape (n,)
        As `rank` less `by_chance`, with the top class left out on both sides; where the teacher is wrong.
    first : array of shape (K, C)
        The logits of some examples.
    looks_like : str
        "probabilities" or the like where its values are no logits, else "".
    of_texts : bool
        Whether classes are tokens. Of condensed rows `rank` and `by_chance` are log probabilities of the label, by the
        teacher and by the labels' own frequencies; `wrong_rank` is not known.
    lacking : str
        Why its rows are no whole sets of logits, else "".
    confidence : array of shape (n,)
        The largest probability; of condensed rows none.
    above : array of shape (n,)
        How far the label's logit is above the highest other one; of condensed rows none.
    fixed : array of shape (C,)
        Which columns hold one value in all rows that are looked at; empty for condensed rows.
    """

    record: TeacherRecord
    labels: Ints
    top: Ints
    margin: Floats
    rank: Floats
    by_chance: Floats
    wrong_rank: Floats
    first: Floats
    looks_like: str
    classes: int
    of_texts: bool = False
    lacking: str = ""
    confidence: Floats = field(default_factory=lambda: np.empty(0))
    fixed: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    above: Floats = field(default_factory=lambda: np.empty(0))
    codes: list[str] = field(default_factory=list)
    found: list[tuple[str, str]] = field(default_factory=list)

    def mark(self, code: str, reason: str) -> None:
        """Call the teacher unusable."""
        self.codes.append(code)
        self.found.append((code, reason))

    @property
    def reasons(self) -> list[str]:
        """Why it is not usable, one for each time that it was marked."""
        return [reason for _, reason in self.found]

    @property
    def sound(self) -> bool:
        """Whether nothing has been found against it so far."""
        return not self.found

    @cached_property
    def hit(self) -> NDArray[np.bool_]:
        """Which examples it gets right."""
        return self.top == self.labels

    @cached_property
    def accuracy(self) -> float:
        """Share of examples that it gets right."""
        return float(self.hit.mean())

    def chance(self, rows: NDArray[np.bool_] | slice = slice(None)) -> float:
        """The accuracy of predictions as frequent as these, but made at random."""
        return chance_accuracy(self.labels[rows], self.top[rows], self.classes)

    def row(self) -> dict[str, object]:
        """The first columns of the table."""
        record = self.record
        examples = np.bincount(self.labels, minlength=self.classes)
        return {
            "family": record.family,
            "teacher": record.teacher,
            "seed": record.seed or 0,
            "params": np.nan if record.params is None else float(record.params),
            "n": len(self.labels),
            "accuracy": self.accuracy,
            "chance": self.chance(),
            "agreement": np.nan,
            "unseen": float((examples[self.top] == 0).mean()),
        }


def looked_at_rows(bank: LogitBank) -> Ints:
    """Rows evenly spaced over the bank."""
    return spaced(len(bank.rows.labels), ROWS)


def views_of(bank: LogitBank) -> list[View]:
    """A view of every teacher of a bank."""
    rows = looked_at_rows(bank)
    keep_memory()
    threads = thread_count(torch.device("cpu"))
    return list(map_in_threads(lambda record: _of_logits(bank, record, rows), bank.teachers, threads))


def _of_tokens(bank: TokenBank, record: TeacherRecord, rows: Ints) -> View:
    """The same of condensed rows."""
    labels, some = bank.rows.labels[rows], rows[spaced(len(rows), COMPARED)]
    columns, first = token_columns(bank, record.key, rows), bank.reference_columns(record.key, some).astype(np.float64)
    kind = "probabilities or percentages" if "CM016" in record.findings else ""
    counts, nothing = incomplete_tokens(bank.condensed_rows(record.key, rows)), np.zeros(0)
    why = incomplete(counts, len(rows), np.zeros((0, 3)), nothing, nothing.astype(np.int64))
    return View(record, labels, *columns, np.full(len(rows), np.nan), first, kind, len(bank.classes), True, why)


def _of_logits(bank: LogitBank, record: TeacherRecord, rows: Ints) -> View:
    """Read a teacher's logits, some rows at a time."""
    if isinstance(bank, TokenBank) and bank.condensed:
        return _of_tokens(bank, record, rows)
    labels, classes = bank.rows.labels[rows], len(bank.classes)
    priors = np.bincount(labels, minlength=classes) / max(1, len(labels))
    step = max(1, (1 << 19) // classes)
    parts, lowest, confidence, alike, lacking = [], [], [], np.zeros(3), np.zeros(3)
    tied = [np.zeros(0, np.int64)]
    fixed, reference = np.ones(classes, bool), bank.take(record.key, rows[:1])
    for start in range(0, len(rows), step):
        logits = bank.take(record.key, rows[start : start + step])
        parts.append(of_examples(logits, labels[start : start + step], priors))
        wide = logits.astype(np.promote_types(logits.dtype, np.float32), copy=False)  # processors know no halves
        confidence.append(_confidence(wide))
        alike += rows_that_are_probabilities(wide)
        fixed &= (wide == reference).all(axis=0)
        in_order = np.sort(wide, axis=1)
        lacking += incomplete_rows(in_order)
        lowest.append(lowest_apart(in_order))
        tied.append(tied_columns(in_order))
    top, margin, rank, by_chance, wrong_rank, above = (np.concatenate(column) for column in zip(*parts, strict=True))
    some = rows[spaced(len(rows), COMPARED)]
    kinds = ("probabilities", "percentages", "sigmoids (or other values in [0, 1])")
    share = alike / max(1, len(rows))
    looks_like = next((kind for kind, part in zip(kinds, share, strict=True) if part >= ROWS_OF_PROBABILITIES), "")
    first = bank.take(record.key, some).astype(np.float64)
    columns = (top, margin, rank, by_chance, wrong_rank)
    why = incomplete(lacking, len(rows), first, np.concatenate(lowest), np.concatenate(tied))
    return View(
        record,
        labels,
        *columns,
        first,
        looks_like,
        classes,
        bank.of_texts,
        why,
        np.concatenate([np.empty(0), *confidence]),
        fixed,
        above,
    )


def _confidence(logits: NDArray) -> Floats:
    """The largest probability of each row."""
    values = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    return np.asarray(1 / np.exp(values, out=values).sum(axis=1))


def chance_accuracy(labels: Ints, top: Ints, classes: int) -> float:
    """The expected accuracy if predictions and labels had nothing to do with one another."""
    if not len(labels):
        return np.nan
    of_labels, of_top = (np.bincount(column, minlength=classes) / len(labels) for column in (labels, top))
    return float(of_labels @ of_top)
