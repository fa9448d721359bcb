"""How far a student is from each teacher before it is taught: probes of the pair, rivals of those of one teacher."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.condensing import Condensed
from capmismatch._numerics.softmax import Softened
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.asked import temperatures_of
from capmismatch.diagnostics.example_values import sequence_index
from capmismatch.diagnostics.means import mean
from capmismatch.errors import InputError, must_be_one_of

Floats = NDArray[np.float64]
ROWS = 1 << 21  # logits of both sides that are compared at a time, over the width of a row
HALF = 2.0**-11  # relative precision of what is kept in float16
LEAST = 1e-300  # a probability below counts as 0: its logarithm does not


def _kl(p: Floats, q: Floats, skew: float) -> Floats:
    """KL(p || q), row by row; both sum to 1."""
    return np.where(p > LEAST, p * (np.log(np.maximum(p, LEAST)) - np.log(np.maximum(q, LEAST))), 0.0).sum(axis=1)


DIVERGENCES: Mapping[str, Callable[[Floats, Floats, float], Floats]] = {
    "kl": _kl,
    "reverse_kl": lambda p, q, skew: _kl(q, p, skew),
    "skewed_kl": lambda p, q, skew: _kl(p, skew * p + (1 - skew) * q, skew),
}
NAMES = (*DIVERGENCES, "rsr", "size_ratio")


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
        All that the bank's rows can tell by default, p the teacher's and q the student's probabilities:

        * "kl": :math:`KL(p \,\|\, q)`, what plain distillation lowers
        * "reverse_kl": :math:`KL(q \,\|\, p)`
        * "skewed_kl": :math:`KL(p \,\|\, \lambda p + (1 - \lambda) q)`
        * "rsr": expected rank under the student of what the teacher would say, over its expected surprise there
          (negative log-likelihood in nats), both at tau = 1: low where the teacher says what the student finds
          likely. Needs all columns
        * "size_ratio": the teacher's parameters over the student's
    skew : float, default 0.1
        :math:`\lambda` in [0, 1).
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.

    Returns
    -------
    DataFrame
        One row per teacher, probe and temperature, with the columns of `probe`'s table, so that both can be joined for
        `correlate` and `pick`, and

        * student: key of the student
        * known: of condensed rows, mean probability (of the teacher) of the tokens that are known of both; all others
          count as one token, so that a divergence is a lower bound, the nearer the higher this is

    Raises
    ------
    InputError
        An unknown student, probe or split, no other teacher, a temperature that is not positive, a number out of its
        range; of condensed rows "rsr", or a temperature whose sums they do not know.

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
    chosen = (
        [name for name in NAMES if not (bank.condensed and name == "rsr")] if names is None else [*dict.fromkeys(names)]
    )
    for name in chosen:
        must_be_one_of(name, NAMES, "probe of a pair")
        if name == "rsr":
            bank.must_keep_all("ranks under the student")
    teachers = [record for record in bank.teachers if record.key != student]
    if not teachers:
        raise InputError("pairs need a teacher beside the student: expected at least 2 in the bank, got 1")
    rows, clusters, temperatures = bank.select(split), sequence_index(bank, split), temperatures_of(taus, bank)
    pair = _CondensedPair if isinstance(bank, TokenBank) and bank.condensed else _DensePair
    table = []
    for record in teachers:
        measured = pair(bank, record.key, student, rows).measure(chosen, temperatures, skew)
        for name in chosen:
            for tau in temperatures if name in DIVERGENCES else [None]:
                table.append(
                    {
                        "family": record.family,
                        "teacher": record.teacher,
                        "params": math.nan if record.params is None else float(record.params),
                        "macs": math.nan if record.macs is None else float(record.macs),
                        "split": split or "all",
                        "seed": record.seed or 0,
                        "tau": math.nan if tau is None else tau,
                        "probe": name,
                        "student": student,
                        **_columns(name, tau, measured, clusters, (record, bank[student])),
                    }
                )
    return pd.DataFrame(table)


def _columns(
    name: str,
    tau: float | None,
    measured: Mapping[tuple[str, float | None], Floats],
    clusters: NDArray[np.int64] | None,
    sides: tuple[TeacherRecord, TeacherRecord],
) -> dict[str, float]:
    """Value, se, n and what else the table says of one probe."""
    if name == "size_ratio":
        teacher, student = (record.params or math.nan for record in sides)
        return {"value": teacher / student, "se": math.nan, "n": 1}
    if name == "rsr":
        rank, surprise = measured["rank", None], measured["surprise", None]
        ratio = float(rank.mean() / surprise.mean())
        spread = mean((rank - ratio * surprise) / surprise.mean(), clusters)  # the delta method, of a ratio of means
        return {**spread, "value": ratio}
    known = {"known": float(measured["known", tau].mean())} if ("known", tau) in measured else {}
    return {**mean(measured[name, tau], clusters), **known}


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
        p: Floats, q: Floats, names: list[str], tau: float, skew: float
    ) -> dict[tuple[str, float | None], Floats]:
        """Those that are asked for, of probabilities (n, C)."""
        return {(name, tau): DIVERGENCES[name](p, q, skew) for name in names if name in DIVERGENCES}


class _DensePair(_Pair):
    """Of all logits."""

    def some(
        self, rows: NDArray[np.int64], names: list[str], taus: list[float], skew: float
    ) -> dict[tuple[str, float | None], Floats]:
        """All columns are compared."""
        teacher, student = (torch.from_numpy(self.bank.take(key, rows)).double() for key in self.keys)
        found: dict[tuple[str, float | None], Floats] = {}
        for tau in taus:
            p, q = (torch.softmax(logits / tau, 1).numpy() for logits in (teacher, student))
            found |= self.divergences(p, q, names, tau, skew)
        if "rsr" in names:
            said = torch.softmax(teacher, 1)
            order = student.sort(dim=1, descending=True, stable=True).indices
            places = torch.arange(1, student.shape[1] + 1, dtype=torch.float64).expand_as(said)
            rank = torch.empty_like(said).scatter(1, order, places)
            found["rank", None] = (said * rank).sum(1).numpy()
            found["surprise", None] = -(said * torch.log_softmax(student, 1)).sum(1).numpy()
        return found


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
            p, q = (_with_the_rest(own, side, tau) for own, side in zip(logits, sides, strict=True))
            found |= self.divergences(p, q, names, tau, skew)
            found["known", tau] = 1.0 - p[:, -1]
        return found


def _head(rows: Condensed) -> Floats:
    """Logits of the likeliest wrong tokens."""
    head: Floats = rows.below.astype(np.float64) + rows.max_wrong[:, None]
    return head


def _with_the_rest(logits: Floats, rows: Condensed, tau: float) -> Floats:
    """Probabilities of known tokens, and of all others together."""
    logsumexp = Softened.of(CondensedParts.of(rows), tau).logsumexp.numpy()
    known = np.exp(logits / tau - logsumexp[:, None])
    rest = np.maximum(HALF, 1.0 - known.sum(axis=1, keepdims=True))  # a smaller one is rounding, and divides
    both = np.concatenate([known, rest], axis=1)
    whole: Floats = both / both.sum(axis=1, keepdims=True)
    return whole
