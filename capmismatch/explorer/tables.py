"""What the explorer shows, as tidy tables; its pictures are drawn from them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._numerics.soft_label_spec import TOKEN_DEFAULTS, SoftLabelSpec
from capmismatch._numerics.softmax import Parts
from capmismatch._utils.text import format_percent
from capmismatch.data.bank import LogitBank
from capmismatch.data.rows import stratified_order
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.dark_knowledge import example_soft_labels
from capmismatch.diagnostics.example_values import TeacherRows
from capmismatch.diagnostics.means import mean
from capmismatch.diagnostics.token_tables import rank_values
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.probes import REGISTRY
from capmismatch.ranks import rank_metrics
from capmismatch.stats.matching import rows_of_kind
from capmismatch.temperature import soften_parts

QUANTITIES = ("target_prob", "inherent_variance", "derived_std", "derived_variance")


class Softening(SoftLabelSpec):
    """How the explorer makes soft labels, and what it measures of them.

    Examples
    --------
    >>> Softening("ATS", tau=4.0, tau_other=2.0).plain.label
    'TS tau=4'
    """

    @property
    def steps(self) -> list[Softening]:
        """Before and after; one step only where the method is TS itself."""
        return [self.plain] if self.method == "TS" else [self.plain, self]

    def measure(self, raw: Parts, of_texts: bool = False) -> dict[str, Tensor]:
        """Each of `QUANTITIES`, whether the arg max moved and, for ISATS, tau_other and whether it is at its bound."""
        result = soften_parts(self, raw, ats_reads_wrong=of_texts)
        values = {name: REGISTRY[name].compute(result.softened) for name in QUANTITIES}
        values["flipped"] = result.flipped.double()
        if self.method == "ISATS":
            values |= {"tau_other": result.tau_other, "at_bound": result.at_bound.double()}
        return values


@dataclass(frozen=True)
class View:
    """All that a user of the explorer chooses.

    Attributes
    ----------
    teachers : tuple of str
        Keys in the bank.
    softening : Softening
        The method with its settings.
    label : str
        Name of a class.
    example : str
        Id of an example of that class.
    """

    teachers: tuple[str, ...]
    softening: Softening
    label: str
    example: str


class Reader:
    """The tables of any view of a bank; what is slow to make is kept.

    Parameters
    ----------
    bank : LogitBank
        Of at least one teacher.
    split : str or None
        Whose rows are looked at; None for all of the bank.
    n : int or None
        Means are taken over at most so many rows, drawn by class; None for all.

    Attributes
    ----------
    rows : ndarray of int64
        Rows of the split in the bank.
    sample : ndarray of int64
        Those over which means are taken.
    classes : list of str
        Names of the classes that occur in the split.
    labels : dict of str to str
        Display name of each teacher's key.

    Raises
    ------
    InputError
        If the bank has no teacher or no such split, or `n` is below 2.
    """

    def __init__(self, bank: LogitBank, split: str | None = "val", n: int | None = 1000) -> None:
        if not bank.teachers:
            raise InputError("expected a bank of at least one teacher, got none")
        if n is not None and n < 2:
            raise InputError(f"expected n of at least 2 rows, or None for all, got {n!r}")
        self.bank, self.n = bank, n
        self.split = split or "all"
        self.rows = bank.select(split)
        self.sample = self._sampled(self.rows)
        present = np.unique(bank.rows.labels[self.rows])
        self.classes = [bank.classes[label] for label in present]
        self.labels = dict(zip(bank.keys, _run_labels(bank), strict=True))
        self._parts: dict[str, Parts] = {}
        self._measured: dict[tuple[str, Softening], pd.DataFrame] = {}

    def _sampled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """At most `n` of the rows, by class in their shares."""
        if self.n is None or len(rows) <= self.n:
            return rows
        return np.sort(rows[stratified_order(self.bank.rows.labels[rows], seed=0)[: self.n]])

    def _sequences(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Number of the sequence of each row, where rows are positions of texts."""
        sequences = self.bank.rows.sequences
        return None if sequences is None else np.unique(sequences[rows], return_inverse=True)[1]

    def examples(self, label: str) -> list[str]:
        """Ids of the examples of a class, in the bank's order."""
        return [str(name) for name in self.bank.rows.ids[self._rows_of(label)]]

    def _class_rows(self, view: View) -> NDArray[np.int64]:
        """Rows over which ranks are compared."""
        return self._sampled(self._rows_of(view.label))

    def _rows_of(self, label: str) -> NDArray[np.int64]:
        """Rows of a class in the split."""
        must_be_one_of(label, self.classes, "class")
        return self.rows[self.bank.rows.labels[self.rows] == self.bank.classes.index(label)]

    def row(self, view: View) -> int:
        """Row of the chosen example in the bank."""
        return int(np.flatnonzero(self.bank.rows.ids == view.example)[0])

    def note(self, view: View, soft_labels: pd.DataFrame) -> str:
        """What the pictures leave out, in words: how many examples they are of, and what the method costs."""
        method, few, many = view.softening.method, len(self.sample), len(self.rows)
        over = f"all {many:,}" if few == many else f"{few:,} of the {many:,}"
        ranked = len(self._class_rows(view))
        sentences = [f"Means over {over} examples of split {self.split}, ranks over {ranked:,} of the class."]
        means = rows_of_kind(soft_labels[soft_labels["method"] == method]).groupby("quantity")["value"]
        low, high = means.min(), means.max()
        if method != "TS":
            sentences.append(f"{method} moves the arg max of {_percent(low['flipped'], high['flipped'])} of them.")
        if method == "ISATS":
            sentences.append(f"Its search ends on a bound for {_percent(low['at_bound'], high['at_bound'])}.")
        if method != "TS":
            sentences += [_of_kind(soft_labels, method, kind) for kind in ("right", "wrong")]
        return " ".join(filter(None, sentences))

    def soft_labels(self, view: View) -> pd.DataFrame:
        """What the soft labels of each teacher are like, before and after.

        Parameters
        ----------
        view : View
            What is chosen.

        Returns
        -------
        DataFrame
            One row per teacher, method and quantity. Columns:

            * ``family, teacher, params, macs, seed``: the run, as in the bank's records
            * ``split``: whose rows
            * ``label``: the run's name in figures
            * ``method``: ``"TS"`` (before), then the method that is chosen
            * ``quantity``: one of `QUANTITIES`, ``flipped``, and for ISATS ``tau_other`` and ``at_bound``
            * ``rows``: "all" rows of the sample, those that the teacher gets "right", or those that it gets "wrong"
            * ``value``: mean over these rows
            * ``se``: its standard error
            * ``n``: how many rows

        See Also
        --------
        capmismatch.restored_variance : The same means over all rows.
        """
        steps = view.softening.steps
        return pd.concat([self._soft_labels(key, step) for key in view.teachers for step in steps], ignore_index=True)

    def _soft_labels(self, key: str, softening: Softening) -> pd.DataFrame:
        if (key, softening) not in self._measured:
            if key not in self._parts:
                self._parts[key] = TeacherRows(self.bank, key, self.sample, torch.device("cpu")).read(slice(None))
            raw, sequences = self._parts[key], self._sequences(self.sample)
            record = self.bank[key]
            head = {
                "family": record.family,
                "teacher": record.teacher,
                "params": math.nan if record.params is None else float(record.params),
                "macs": math.nan if record.macs is None else float(record.macs),
                "split": self.split,
                "seed": record.seed or 0,
                "label": self.labels[key],
                "method": softening.method,
            }
            right = raw.correct.cpu().numpy() > 0
            kinds = {"all": np.ones_like(right), "right": right, "wrong": ~right}
            rows = [
                {
                    **head,
                    "quantity": name,
                    "rows": kind,
                    **mean(values.double().cpu().numpy()[chosen], None if sequences is None else sequences[chosen]),
                }
                for name, values in softening.measure(raw, self.bank.of_texts).items()
                for kind, chosen in kinds.items()
            ]
            self._measured[key, softening] = pd.DataFrame(rows)
        return self._measured[key, softening]

    def class_ranks(self, view: View) -> pd.DataFrame:
        """How far each two of the teachers order the wrong classes alike, over the examples of the class.

        Parameters
        ----------
        view : View
            What is chosen.

        Returns
        -------
        DataFrame
            The columns of `capmismatch.rank_stability`, and ``class``, the class's name; empty for a single teacher.

        See Also
        --------
        capmismatch.rank_stability : The same over all classes.
        """
        pairs = list(combinations(view.teachers, 2))
        rows = self._class_rows(view)
        if not pairs:
            return pd.DataFrame()
        agreements = []
        metric, values = self._rank_values(view.teachers, rows)
        sequences = self._sequences(rows)
        for (a, b), row in zip(pairs, values, strict=True):
            known = ~np.isnan(row)
            first, second = self.bank[a], self.bank[b]
            agreements.append(
                {
                    "family_a": first.family,
                    "teacher_a": first.teacher,
                    "seed_a": first.seed or 0,
                    "family_b": second.family,
                    "teacher_b": second.teacher,
                    "seed_b": second.seed or 0,
                    "split": self.split,
                    "class": view.label,
                    "metric": metric,
                    **mean(row[known], None if sequences is None else sequences[known]),
                }
            )
        return pd.DataFrame(agreements)

    def _rank_values(self, keys: Sequence[str], rows: NDArray[np.int64]) -> tuple[str, NDArray[np.float64]]:
        """Kendall's tau-b over wrong classes of each two teachers, (P, n), and what it is called."""
        if isinstance(self.bank, TokenBank) and self.bank.condensed:
            pairs = list(combinations(range(len(keys)), 2))
            return "vocab_tau_b", rank_values(self.bank, ["vocab_tau_b"], rows, keys, pairs)["vocab_tau_b"]
        logits = [self.bank.take(key, rows) for key in keys]
        return "wrong_tau_b", rank_metrics(logits, self.bank.rows.labels[rows])["wrong_tau_b"].numpy()

    def example(self, view: View) -> pd.DataFrame:
        """Soft labels of the example, before and after: the columns of `capmismatch.dark_knowledge`."""
        frames = []
        with _quiet():
            for key in view.teachers:
                frame = example_soft_labels(self.bank, view.softening.steps, view.example, [key])
                frames.append(frame.assign(teacher=self.labels[key]))
        return pd.concat(frames, ignore_index=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that the search of ISATS degenerates: the tables have `at_bound` for each teacher."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ISATS without a constraint")
        yield


def _of_kind(soft_labels: pd.DataFrame, method: str, kind: str) -> str:
    """The derived variance of right or of wrong rows against that under TS, in words; nothing where it is unknown."""
    variance = soft_labels[soft_labels["quantity"] == "derived_variance"]
    value = rows_of_kind(variance, kind).pivot(index="label", columns="method", values="value")
    ratio = (value[method] / value["TS"]).dropna()
    if ratio.empty:
        return ""
    low, high = f"{ratio.min():.2g}", f"{ratio.max():.2g}"
    times = low if low == high else f"{low} to {high}"
    return f"Where the teacher is {kind}, the derived variance is {times} times that of TS."


def _percent(low: float, high: float) -> str:
    """A range of shares over teachers, or the one that all have."""
    least, most = format_percent(low), format_percent(high)
    return most if least == most else f"{least} to {most}"


def _run_labels(bank: LogitBank) -> list[str]:
    """The shortest name that tells each run from all others: teacher, with seed, with family, or its key."""

    def name(record: Any, family: bool, seed: bool) -> str:
        run = f" seed {record.seed}" if seed and record.seed is not None else ""
        return (f"{record.family}/" if family else "") + record.teacher + run

    for family, seed in ((False, False), (False, True), (True, False), (True, True)):
        names = [name(record, family, seed) for record in bank.teachers]
        if len(set(names)) == len(names):
            return names
    return bank.keys


def first_view(reader: Reader, teachers: Sequence[str] | None = None) -> View:
    """Three teachers from small to large, ISATS at its defaults, and the first example of the first class."""
    keys = reader.bank.keys
    if teachers is None:
        indices = dict.fromkeys(round(index) for index in np.linspace(0, len(keys) - 1, min(3, len(keys))))
        teachers = [keys[index] for index in indices]
    if not teachers:
        raise InputError("expected at least one teacher, got none")
    chosen = [reader.bank.key_of(name) for name in ([teachers] if isinstance(teachers, str) else teachers)]
    label = reader.classes[0]
    softening = Softening(**TOKEN_DEFAULTS) if reader.bank.of_texts else Softening()
    return View(tuple(dict.fromkeys(chosen)), softening, label, reader.examples(label)[0])
