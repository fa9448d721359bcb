"""Whether the students of a bank are what they are taken for: the checks of teachers, as far as students can fail them.

A student before it is taught may guess, and be far below its size. But where its columns, rows or values are not those
of the teachers', probes of pairs compare what does not belong together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd

from capmismatch.data.bank import LogitBank
from capmismatch.data.bank_checks import check_bank
from capmismatch.diagnostics.checks import LEAST_ROWS, columns_moved, find_broken
from capmismatch.diagnostics.views import View, views_of
from capmismatch.findings import join_codes

MAY_BE = ("CM020", "CM046")
"""Findings that say nothing against a student: it guesses, or is unsure."""

WEAK = 0.5
"""Share of the teachers' median accuracy below which a student's answers say little of its rows."""


def check_students(bank: LogitBank) -> pd.DataFrame:
    """Tell which students of a bank are fit to be compared with its teachers.

    Parameters
    ----------
    bank : LogitBank
        With students beside its teachers, as ``[collect] students`` or ``role = "student"`` keep them.

    Returns
    -------
    DataFrame
        One row per student and training run, with the columns

        * ``family``, ``student``, ``seed``: which run of which student; seed 0 where none is known
        * ``params``: number of parameters, NaN where unknown
        * ``n``, ``accuracy``, ``chance``: as of `capmismatch.check`
        * ``findings``: codes, comma-separated: CM009 to CM011, CM019, CM021, CM041, and those of collecting. That a
          student guesses, is unsure, or is weak for its size, is none
        * ``usable``: False where its rows, columns or values are not what they are taken for
        * ``reason``: why not, in words; else ""

    See Also
    --------
    capmismatch.check : The same of teachers, and what is tested.
    capmismatch.pair_probes : Compares students with teachers.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 10, 1000)
    >>> nets = {name: 4 * np.eye(10)[labels] + rng.normal(size=(1000, 10)) for name in ("a", "b", "own", "moved")}
    >>> nets["moved"] = np.roll(nets["moved"], 1, axis=1)
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({**nets, "blank": rng.normal(size=(1000, 10))}, labels,
    ...     students=["own", "moved", "blank"])
    >>> check_students(bank)[["student", "usable", "findings"]].values.tolist()
    [['own', True, ''], ['moved', False, 'CM021'], ['blank', True, '']]
    """
    rows = []
    for student in bank.students:
        beside = copy.copy(bank)
        beside.teachers, beside.students = [*bank.teachers, student], []
        views = views_of(beside)
        own, of_values = views[-1], check_bank(beside)["findings"].iloc[-1].split(",")
        if own.of_texts or own.accuracy >= WEAK * np.median([view.accuracy for view in views[:-1]] or [0.0]):
            find_broken(views, beside, sizes=False)
        else:
            _mark_weak(own, views[:-1])
        against = {code: reason for code, reason in own.found if code not in MAY_BE}
        codes = [code for code in (*of_values, *own.codes) if code and code not in MAY_BE]
        row = own.row()
        rows.append(
            {
                "family": row["family"],
                "student": row["teacher"],
                **{name: row[name] for name in ("seed", "params", "n", "accuracy", "chance")},
                "findings": join_codes(codes),
                "usable": not against,
                "reason": "; ".join(against.values()),
            }
        )
    names = ["family", "student", "seed", "params", "n", "accuracy", "chance", "findings", "usable", "reason"]
    return pd.DataFrame(rows, columns=names)


def _mark_weak(own: View, teachers: Sequence[View]) -> None:
    """Mark what is odd of a student that knows little: untrained networks name few classes, and rank them anyhow."""
    if own.looks_like:
        own.mark("CM009", f"its values are {own.looks_like}, not logits")
    if len(own.labels) < LEAST_ROWS:
        return
    if own.lacking:
        own.mark("CM019", own.lacking)
    if reason := columns_moved(own, teachers):
        own.mark("CM021", reason)
