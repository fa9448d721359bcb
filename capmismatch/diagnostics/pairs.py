"""How far a student is from each teacher before it is taught: probes of the pair, rivals of those of one teacher."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.condensing import Condensed
from capmismatch._numerics.last_layer import GraceSums, GradientSketch, with_ones
from capmismatch._numerics.plain_arrays import listed
from capmismatch._numerics.softmax import Softened
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.data.feature_files import Features
from capmismatch.data.records import STUDENT
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.asked import temperatures_of
from capmismatch.diagnostics.example_values import sequence_index
from capmismatch.diagnostics.features import alignment
from capmismatch.diagnostics.means import mean
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.probes import pairs as formulas
from capmismatch.probes.pairs import DIVERGENCES, PAIRS

Floats = NDArray[np.float64]
Column = tuple[str, float | None]
ROWS = 1 << 21  # logits of both sides that are compared at a time, over the width of a row
HALF = 2.0**-11  # relative precision of what is kept in float16
RATIOS = {"rsr": ("rank", "surprise"), "wrong_rsr": ("wrong rank", "wrong surprise")}
"""Ratios of means, and the values of each example that these are of."""


def pair_probes(
    bank: LogitBank,
    student: str,
    taus: Iterable[float] | None = None,
    names: Iterable[str] | None = None,
    *,
    skew: float = 0.1,
    split: str | None = "val",
) -> pd.DataFrame:
    r"""Compare each teacher of a bank with a student that is in it as well.

    Parameters
    ----------
    bank : LogitBank
        Of the teachers and the student, as it is before it is taught.
    student : str
        Its name or key in the bank.
    taus : iterable of float, optional
        Temperatures > 0 of the divergences; defaults as of `probe`.
    names : iterable of str, optional
        Names in `capmismatch.probes.PAIRS`; all that the bank can tell by default, p the teacher's and q the student's
        probabilities:

        * "kl": :math:`KL(p \,\|\, q)`, what plain distillation lowers
        * "reverse_kl": :math:`KL(q \,\|\, p)`
        * "skewed_kl": :math:`KL(p \,\|\, \lambda p + (1 - \lambda) q)`
        * "rsr": expected rank under the student of what the teacher would say, over its expected surprise there
          (negative log-likelihood in nats), both at tau = 1: low where the teacher says what the student finds
          likely. Needs all columns
        * "wrong_rsr": the same over the wrong classes alone, at each temperature
        * "size_ratio": the teacher's parameters over the student's
        * "size_gap": how far that is from 2.5, as a logarithm
        * "gradient_cosine", "grace": of gradients of the student's last layer; need its features
        * "cka": how alike both place the examples; needs features of both
    skew : float, default 0.1
        :math:`\lambda` in [0, 1).
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.

    Returns
    -------
    DataFrame
        One row per teacher, probe and temperature, with the columns of `probe`'s table, so that both can be joined for
        `correlate` and `pick`, and

        * student: name of the student where its role in the bank is "student", as results name it; else its key
        * known: of condensed rows, mean probability (of the teacher) of the tokens that are known of both; all others
          count as one token, so that a divergence is a lower bound, the nearer the higher this is

    Raises
    ------
    InputError
        An unknown student, probe or split, no other teacher, a temperature that is not positive, a number out of its
        range, features that the bank lacks; of condensed rows "rsr", or a temperature whose sums they do not know.

    References
    ----------
    Gu et al. 2024 (MiniLLM), arXiv 2306.08543, of the reverse divergence; Ko et al. 2024 (DistiLLM), arXiv 2402.03898,
    of the skewed one; "rank-surprisal ratio", arXiv 2601.14249. That what is grouped never has a larger divergence is
    the log-sum inequality.

    Examples
    --------
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"student": [[1.0, 0, 0]], "teacher": [[3.0, 0, 0]]}, [0])
    >>> pair_probes(bank, "logits/student", [1.0], ["kl", "reverse_kl"])[["teacher", "probe", "value"]].round(3)
       teacher       probe  value
    0  teacher          kl  0.275
    1  teacher  reverse_kl  0.391
    """
    student = bank.key_of(student)
    if not 0 <= skew < 1:
        raise InputError(f"expected skew in [0, 1), got {skew!r}")
    chosen = _chosen(bank, student, names)
    teachers = [record for record in bank.teachers if record.key != student]
    if not teachers:
        raise InputError("pairs need a teacher beside the student: expected at least 2 in the bank, got 1")
    asked = _Asked(chosen, temperatures_of(taus, bank), skew, split)
    return pd.DataFrame([row for record in teachers for row in _rows_of(bank, record, bank[student], asked)])


@dataclass(frozen=True)
class _Asked:
    """What is to be measured of each pair."""

    names: list[str]
    taus: list[float]
    skew: float
    split: str | None


def pairs_of(names: Iterable[str] | None, bank: LogitBank) -> list[str]:
    """Those of some names that are of pairs, where the bank has students; of None all."""
    if not bank.students or not bank.teachers:
        return []
    return [name for name in (PAIRS if names is None else names) if name in PAIRS]


def pair_rows(
    bank: LogitBank,
    taus: Iterable[float],
    names: Iterable[str] | None,
    split: str | None,
    marks: Mapping[str, Mapping[str, object]],
) -> list[dict[str, Any]]:
    """Rows of the probes table for each teacher and each student of a bank; means over the runs of a student.

    Parameters
    ----------
    bank : LogitBank
        With teachers, and students where any are to be compared.
    taus : iterable of float
        As of `pair_probes`.
    names : iterable of str, optional
        Of any probes; those of pairs are measured.
    split : str or None
        Rows to measure on.
    marks : mapping
        Teacher's key -> what the table says of whether it is usable.

    Returns
    -------
    list of dict
        Empty of a bank without students.
    """
    if not pairs_of(names, bank):
        return []
    wanted, temperatures = None if names is None else pairs_of(names, bank), list(taus)
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for student in bank.students:
        asked = _Asked(_chosen(bank, student.key, wanted), temperatures, 0.1, split)
        for teacher in bank.teachers:
            for row in _rows_of(bank, teacher, student, asked):
                place = (student.family, student.teacher, teacher.key, row["probe"], str(row["tau"]))
                rows.setdefault(place, []).append(row | dict(marks.get(teacher.key, {})))
    return [_mean_over_runs(of_runs) for of_runs in rows.values()]


def _mean_over_runs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of several, of runs of one student that were measured on the same examples."""
    values, errors = (np.array([row[name] for row in rows], dtype=float) for name in ("value", "se"))
    return rows[0] | {"value": float(values.mean()), "se": float(np.sqrt((errors**2).mean()))}


def _chosen(bank: LogitBank, student: str, names: Iterable[str] | None) -> list[str]:
    """Names of probes, each once; with None all that the bank can tell."""
    lacking = _lacking(bank, student)
    if names is None:
        return [name for name, probe in PAIRS.items() if not lacking & set(probe.needs)]
    chosen = list(dict.fromkeys(listed(names)))
    for name in chosen:
        must_be_one_of(name, PAIRS, "probe of a pair")
        needs = PAIRS[name].needs
        if "columns" in needs:
            bank.must_keep_all(f"values of the probe {name!r}")
        if "student features" in needs:
            bank.features_of(student)
        if "teacher features" in lacking & set(needs):
            bank.features_of(next(record.key for record in bank.teachers if record.key != student))
    return chosen


def _lacking(bank: LogitBank, student: str) -> set[str]:
    """What the bank cannot tell, of all that a probe may need."""
    lacking = {"columns"} if bank.condensed else set()
    if not bank.has_features(student):
        lacking.add("student features")
    if not any(bank.has_features(record.key) for record in bank.teachers if record.key != student):
        lacking.add("teacher features")
    return lacking


def _rows_of(bank: LogitBank, teacher: TeacherRecord, student: TeacherRecord, asked: _Asked) -> list[dict[str, Any]]:
    """Rows of the table of one pair."""
    columns = _measured(bank, teacher, student, asked)
    return [
        {
            "family": teacher.family,
            "teacher": teacher.teacher,
            "params": math.nan if teacher.params is None else float(teacher.params),
            "macs": math.nan if teacher.macs is None else float(teacher.macs),
            "split": asked.split or "all",
            "seed": teacher.seed or 0,
            "tau": math.nan if tau is None else tau,
            "probe": name,
            "student": student.teacher if student.role == STUDENT else student.key,
            **columns[name, tau],
        }
        for name in asked.names
        for tau in (asked.taus if PAIRS[name].tempered else [None])
    ]


def _measured(
    bank: LogitBank, teacher: TeacherRecord, student: TeacherRecord, asked: _Asked
) -> dict[Column, dict[str, float]]:
    """(probe, tau) -> value, se, n and what else the table says."""
    rows, clusters = bank.select(asked.split), sequence_index(bank, asked.split)
    sizes = teacher.params or math.nan, student.params or math.nan
    found: dict[Column, dict[str, float]] = {
        (name, None): {"value": getattr(formulas, name)(*sizes), "se": math.nan, "n": 1}
        for name in ("size_ratio", "size_gap")
    }
    if "cka" in asked.names:
        found["cka", None] = {"value": alignment(bank, teacher.key, student.key, rows), "se": math.nan, "n": len(rows)}
    kind = _CondensedPair if isinstance(bank, TokenBank) and bank.condensed else _DensePair
    pair = kind(bank, teacher.key, student.key, rows)
    values = pair.measure(asked.names, asked.taus, asked.skew)
    for name, tau in values:
        if name in DIVERGENCES:
            known = {"known": float(values["known", tau].mean())} if ("known", tau) in values else {}
            found[name, tau] = {**mean(values[name, tau], clusters), **known}
    for name, (above, below) in RATIOS.items():
        for tau in asked.taus if PAIRS[name].tempered else [None]:
            if (above, tau) in values:
                found[name, tau] = _ratio(values[above, tau], values[below, tau], clusters)
    if {"gradient_cosine", "grace"} & set(asked.names):
        found |= _of_gradients(pair, asked, clusters)
    return found


def _ratio(above: Floats, below: Floats, clusters: NDArray[np.int64] | None) -> dict[str, float]:
    """A ratio of means, with its standard error by the delta method."""
    ratio = formulas.ratio_of_means(above, below)
    if math.isnan(ratio):
        return {"value": math.nan, "se": math.nan, "n": 0}
    return {**mean((above - ratio * below) / below.mean(), clusters), "value": ratio}


def _of_gradients(pair: _Pair, asked: _Asked, clusters: NDArray[np.int64] | None) -> dict[Column, dict[str, float]]:
    """What the gradients of the student's last layer tell, temperature by temperature."""
    found: dict[Column, dict[str, float]] = {}
    count = len(pair.rows)
    for tau in asked.taus:
        if "gradient_cosine" in asked.names:
            found["gradient_cosine", tau] = _gradient_cosine(pair, tau, clusters)
        if "grace" in asked.names:
            groups = np.arange(count) if clusters is None else clusters
            sketch = GradientSketch(len(pair.bank.classes), pair.features.width + 1)
            sums = GraceSums(groups, sketch.size)
            for some, soft, _, features in pair.gradients(tau):
                sums.add(some, sketch(soft, features))
            found["grace", tau] = {"value": sums.value, "se": math.nan, "n": count}
    return found


def _gradient_cosine(pair: _Pair, tau: float, clusters: NDArray[np.int64] | None) -> dict[str, float]:
    """The cosine of two mean gradients, with its standard error by the delta method: a second pass over the rows."""
    means: list[Any] = [0.0, 0.0]
    for _, soft, hard, features in pair.gradients(tau):
        means = [total + side.T @ features for total, side in zip(means, (soft, hard), strict=True)]
    first, second = (total / max(len(pair.rows), 1) for total in means)
    value = formulas.cosine(first, second) if len(pair.rows) else math.nan
    if math.isnan(value):
        return {"value": math.nan, "se": math.nan, "n": 0}
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    units = first / lengths[0], second / lengths[1]
    moves = [(units[1] - value * units[0]) / lengths[0], (units[0] - value * units[1]) / lengths[1]]
    pulls = [
        sum(((side @ move) * features).sum(axis=1) for side, move in zip((soft, hard), moves, strict=True))
        for _, soft, hard, features in pair.gradients(tau)
    ]
    return {**mean(np.concatenate(pulls), clusters), "value": value}


class _Pair(ABC):
    """A teacher and a student on the same rows, some of them at a time."""

    def __init__(self, bank: LogitBank, teacher: str, student: str, rows: NDArray[np.int64]) -> None:
        self.bank, self.keys, self.rows = bank, (teacher, student), rows

    @property
    def width(self) -> int:
        """Numbers that a row takes while it is compared."""
        return len(self.bank.classes)

    def measure(self, names: list[str], taus: list[float], skew: float) -> dict[tuple[str, float | None], Floats]:
        """(name, tau) -> (n,) of each row."""
        step = max(1, ROWS // self.width)
        parts = [self.some(self.rows[at : at + step], names, taus, skew) for at in range(0, len(self.rows), step)]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}

    @abstractmethod
    def some(
        self, rows: NDArray[np.int64], names: list[str], taus: list[float], skew: float
    ) -> dict[tuple[str, float | None], Floats]:
        """The same of some rows."""

    @staticmethod
    def divergences(
        log_p: Floats, log_q: Floats, names: list[str], tau: float, skew: float
    ) -> dict[tuple[str, float | None], Floats]:
        """Those that are asked for, of logarithms of probabilities (n, C)."""
        return {(name, tau): DIVERGENCES[name](log_p, log_q, skew) for name in names if name in DIVERGENCES}

    @property
    def features(self) -> Features:
        """The student's features."""
        return self.bank.features_of(self.keys[1])

    def gradients(self, tau: float) -> Iterator[tuple[slice, Floats, Floats, Floats]]:
        """Some rows at a time: which, what soft labels and labels ask of each logit, and features with a constant."""
        step = max(1, ROWS // (self.width + self.features.width))
        for start in range(0, len(self.rows), step):
            some = slice(start, min(start + step, len(self.rows)))
            rows = self.rows[some]
            teacher, student = (self.bank.take(key, rows).astype(np.float64) for key in self.keys)
            soft = formulas.residuals(teacher / tau, student / tau)
            hard = formulas.label_residuals(self.bank.rows.labels[rows], student)
            yield some, soft, hard, with_ones(self.features.take(rows))


class _DensePair(_Pair):
    """Of all logits."""

    def some(
        self, rows: NDArray[np.int64], names: list[str], taus: list[float], skew: float
    ) -> dict[tuple[str, float | None], Floats]:
        """All columns are compared."""
        teacher, student = (self.bank.take(key, rows).astype(np.float64) for key in self.keys)
        labels = self.bank.rows.labels[rows]
        found: dict[tuple[str, float | None], Floats] = {}
        for tau in taus:
            if set(names) & set(DIVERGENCES):
                log_p, log_q = (log_softmax(logits / tau, axis=1) for logits in (teacher, student))
                found |= self.divergences(log_p, log_q, names, tau, skew)
            if "wrong_rsr" in names:
                found["wrong rank", tau], found["wrong surprise", tau] = _of_wrong(teacher / tau, student / tau, labels)
        if "rsr" in names:
            found["rank", None], found["surprise", None] = formulas.rank_and_surprise(teacher, student)
        return found


def _of_wrong(teacher: Floats, student: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Rank and surprise over the wrong classes; NaN with two classes, as there is one."""
    if teacher.shape[1] < 3:
        return np.full(len(teacher), np.nan), np.full(len(teacher), np.nan)
    return formulas.rank_and_surprise(*(formulas.wrong_alone(side, labels) for side in (teacher, student)))


class _CondensedPair(_Pair):
    """Of condensed rows: over the tokens that are known of both, with all others as one."""

    @property
    def width(self) -> int:
        assert isinstance(self.bank, TokenBank)
        return (self.bank.k or 1) ** 2

    def some(
        self, rows: NDArray[np.int64], names: list[str], taus: list[float], skew: float
    ) -> dict[tuple[str, float | None], Floats]:
        """Known of both are the label, the reference's likeliest tokens, and what is among the likeliest of both."""
        bank = self.bank
        assert isinstance(bank, TokenBank) and bank.reference is not None
        sides = [bank.condensed_rows(key, rows) for key in self.keys]
        at_reference = bank.condensed_rows(bank.reference, rows).ids
        in_student = sides[0].ids[:, :, None] == sides[1].ids[:, None, :]
        shared = in_student.any(axis=2) & ~(sides[0].ids[:, :, None] == at_reference[:, None, :]).any(axis=2)
        of_student = np.take_along_axis(_head(sides[1]), in_student.argmax(axis=2), axis=1)
        logits = []
        for key, side, own in zip(self.keys, sides, (_head(sides[0]), of_student), strict=True):
            there = bank.reference_columns(key, rows).astype(np.float64) + side.max_wrong[:, None]
            logits.append(np.concatenate([there, np.where(shared, own, -np.inf), side.target[:, None]], axis=1))
        found: dict[tuple[str, float | None], Floats] = {}
        for tau in taus:
            log_p, log_q = (_with_the_rest(own, side, tau) for own, side in zip(logits, sides, strict=True))
            found |= self.divergences(log_p, log_q, names, tau, skew)
            found["known", tau] = 1.0 - np.exp(log_p[:, -1])
        return found


def _head(rows: Condensed) -> Floats:
    """Logits of the likeliest wrong tokens."""
    head: Floats = rows.below.astype(np.float64) + rows.max_wrong[:, None]
    return head


def _with_the_rest(logits: Floats, rows: Condensed, tau: float) -> Floats:
    """Logarithms of the probabilities of known tokens, and of all others together."""
    known = logits / tau - Softened.of(CondensedParts.of(rows), tau).logsumexp.numpy()[:, None]
    rest = np.maximum(HALF, 1.0 - np.exp(known).sum(axis=1, keepdims=True))  # a smaller one is rounding
    both = np.concatenate([known, np.log(rest)], axis=1)
    whole: Floats = both - logsumexp(both, axis=1, keepdims=True)
    return whole
