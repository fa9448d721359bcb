"""What the explorer shows, as tidy tables: everything that it draws is here first."""

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

from capmismatch._numerics.arrays import as_pair
from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch._numerics.softmax import take_apart
from capmismatch.data.bank import LogitBank
from capmismatch.data.records import stratified_order
from capmismatch.diagnostics.dark_knowledge import example_soft_labels
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.probes import REGISTRY
from capmismatch.ranks import rank_metrics
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

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Each of `QUANTITIES`, whether the arg max moved and, for ISATS, tau_other and whether it is at its bound."""
        result = soften_parts(self, take_apart(*as_pair(logits, labels)))
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
    teachers : keys in the bank
    softening : the method with its settings
    label : name of a class
    example : id of an example of that class
    """

    teachers: tuple[str, ...]
    softening: Softening
    label: str
    example: str


class Reader:
    """The tables of any view of a bank; what is slow to make is kept.

    Parameters
    ----------
    bank : a LogitBank
    split : whose rows are looked at; None for all of the bank
    n : means are taken over at most so many rows, drawn by class; None for all
    """

    def __init__(self, bank: LogitBank, split: str | None = "val", n: int | None = 1000) -> None:
        if not bank.teachers:
            raise InputError("expected a bank of at least one teacher, got none")
        if n is not None and n < 2:
            raise InputError(f"expected n of at least 2 rows, or None for all, got {n!r}")
        self.bank, self.n = bank, n
        self.split = split or "all"
        self.rows = bank.select(split)
        self.sample = self._some(self.rows)
        present = np.unique(bank.rows.labels[self.rows])
        self.classes = [bank.classes[label] for label in present]
        self.labels = dict(zip(bank.keys, _run_labels(bank), strict=True))
        self._logits: dict[str, Tensor] = {}
        self._measured: dict[tuple[str, Softening], pd.DataFrame] = {}

    def _some(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.n is None or len(rows) <= self.n:
            return rows
        return np.sort(rows[stratified_order(self.bank.rows.labels[rows], seed=0)[: self.n]])

    def _read(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.stack([self.bank.row(key, int(row)) for row in rows])

    def examples(self, label: str) -> list[str]:
        """Ids of the examples of a class, in the bank's order."""
        return [str(name) for name in self.bank.rows.ids[self._rows_of(label)]]

    def _class_rows(self, view: View) -> NDArray[np.int64]:
        return self._some(self._rows_of(view.label))

    def _rows_of(self, label: str) -> NDArray[np.int64]:
        must_be_one_of(label, self.classes, "class")
        return self.rows[self.bank.rows.labels[self.rows] == self.bank.classes.index(label)]

    def row(self, view: View) -> int:
        """Row of the chosen example in the bank."""
        return int(np.flatnonzero(self.bank.rows.ids == view.example)[0])

    def told(self, view: View, soft_labels: pd.DataFrame) -> str:
        """What the pictures leave out, in words: how many examples they are of, and what the method costs."""
        method, few, many = view.softening.method, len(self.sample), len(self.rows)
        over = f"all {many:,}" if few == many else f"{few:,} of the {many:,}"
        ranked = len(self._class_rows(view))
        words = [f"Means over {over} examples of split {self.split}, ranks over {ranked:,} of the class."]
        own = soft_labels[soft_labels["method"] == method].groupby("quantity")["value"]
        low, high = own.min(), own.max()
        if method != "TS":
            words.append(f"{method} moves the arg max of {_percent(low['flipped'], high['flipped'])} of them.")
        if method == "ISATS":
            words.append(f"Its search ends on a bound for {_percent(low['at_bound'], high['at_bound'])}.")
        return " ".join(words)

    def soft_labels(self, view: View) -> pd.DataFrame:
        """What the soft labels of each teacher are like, before and after.

        Returns
        -------
        Tidy DataFrame with columns family, teacher, params, macs, split, seed, label, method, quantity, value, se, n;
        quantity in target_prob, inherent_variance, derived_std, derived_variance, flipped and, for ISATS, tau_other and
        at_bound. `label` is the run's name in figures.
        """
        steps = view.softening.steps
        return pd.concat([self._soft_labels(key, step) for key in view.teachers for step in steps], ignore_index=True)

    def _soft_labels(self, key: str, softening: Softening) -> pd.DataFrame:
        if (key, softening) not in self._measured:
            if key not in self._logits:
                self._logits[key] = torch.from_numpy(self._read(key, self.sample)).double()
            labels = torch.from_numpy(self.bank.rows.labels[self.sample])
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
            found = softening.measure(self._logits[key], labels)
            rows = [{**head, "quantity": name, **_mean(values)} for name, values in found.items()]
            self._measured[key, softening] = pd.DataFrame(rows)
        return self._measured[key, softening]

    def class_ranks(self, view: View) -> pd.DataFrame:
        """How far each two of the teachers order the wrong classes alike, over the examples of the class.

        Returns
        -------
        Tidy DataFrame with the columns of `capmismatch.rank_stability`, and ``class``; no rows for a single teacher.
        """
        pairs = list(combinations(view.teachers, 2))
        rows = self._class_rows(view)
        if not pairs:
            return pd.DataFrame()
        logits = [self._read(key, rows) for key in view.teachers]
        out = []
        for (a, b), row in zip(pairs, rank_metrics(logits, self.bank.rows.labels[rows])["wrong_tau_b"], strict=True):
            first, second = self.bank[a], self.bank[b]
            out.append(
                {
                    "family_a": first.family,
                    "teacher_a": first.teacher,
                    "seed_a": first.seed or 0,
                    "family_b": second.family,
                    "teacher_b": second.teacher,
                    "seed_b": second.seed or 0,
                    "split": self.split,
                    "class": view.label,
                    "metric": "wrong_tau_b",
                    **_mean(row[~row.isnan()]),
                }
            )
        return pd.DataFrame(out)

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
    """Without the warning that the search of ISATS degenerates: `at_bound` tells it of each teacher."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ISATS without a constraint")
        yield


def _mean(values: Tensor) -> dict[str, float]:
    n = len(values)
    spread = float(values.std()) if n > 1 else math.nan
    return {"value": float(values.mean()) if n else math.nan, "se": spread / math.sqrt(n) if n else math.nan, "n": n}


def _percent(low: float, high: float) -> str:
    """A range of shares over teachers, or the one that all have."""
    least, most = f"{low:.0%}", f"{high:.0%}"
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
        places = dict.fromkeys(round(place) for place in np.linspace(0, len(keys) - 1, min(3, len(keys))))
        teachers = [keys[place] for place in places]
    if not teachers:
        raise InputError("expected at least one teacher, got none")
    for key in teachers:
        must_be_one_of(key, keys, "teacher key")
    label = reader.classes[0]
    return View(tuple(dict.fromkeys(teachers)), Softening(), label, reader.examples(label)[0])
