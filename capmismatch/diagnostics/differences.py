"""How much teachers differ in a probe: on the same examples, so that what is hard for all of them cancels."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from capmismatch._numerics.devices import as_device
from capmismatch.data.bank import LogitBank
from capmismatch.diagnostics.asked import probes_of, temperatures_of
from capmismatch.diagnostics.example_values import sequence_index, values_of
from capmismatch.diagnostics.means import mean
from capmismatch.errors import InputError
from capmismatch.probes import REGISTRY


def probe_differences(
    bank: LogitBank,
    taus: Iterable[float] | None = None,
    names: Iterable[str] | None = None,
    *,
    reference: str | None = None,
    split: str | None = "val",
    device: str = "cpu",
) -> pd.DataFrame:
    """Compare teachers with one of them, example by example.

    Two teachers find the same examples hard, so the mean of their difference is known several times better than the
    difference of their means with independent errors: where a table of probes shows two intervals that overlap, the
    teachers may still differ beyond doubt.

    Parameters
    ----------
    bank : LogitBank
        Of at least two teachers.
    taus : iterable of float, optional
        Temperatures > 0 of the tempered probes; defaults as of `probe`.
    names : iterable of str, optional
        Names in `capmismatch.probes.REGISTRY` but log_params; by default all that the bank's rows can tell.
    reference : str, optional
        Name or key of the teacher that the others are compared with; the last, which is the largest, by default.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".

    Returns
    -------
    DataFrame
        One row per other teacher, probe and temperature, with the columns

        * family, teacher, seed: who is compared
        * reference: key of the one with whom
        * split: of the rows, or "all"
        * tau: temperature; NaN for probes that do not depend on it
        * probe: name in the registry
        * value: mean over the examples of the teacher's value less the reference's
        * se: standard error of `value`, taken over sequences where rows are positions of texts
        * n: number of examples
        * sequences: only of texts, how many sequences the examples come from

    Raises
    ------
    InputError
        A single teacher, an unknown reference, probe or split, a temperature that is not positive.

    See Also
    --------
    capmismatch.probe : The values themselves.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": [[3.0, 1, 0], [1, 0, 0]], "b": [[4.0, 1, 0], [2, 0, 0]]}, [0, 0])
    >>> probe_differences(bank, names=["nll"])[["teacher", "reference", "value", "se"]].round(3)
      teacher reference  value     se
    0       a  logits/b  0.208  0.104
    """
    if len(bank.teachers) < 2:
        raise InputError(f"differences compare teachers: expected at least 2 in the bank, got {len(bank.teachers)}")
    chosen_key = bank.keys[-1] if reference is None else bank.key_of(reference)
    chosen = [REGISTRY[name] for name in probes_of(names, bank, per_example=True)]
    temperatures, where, clusters = temperatures_of(taus, bank), as_device(device), sequence_index(bank, split)
    against = values_of(bank, chosen_key, temperatures, chosen, split, where)
    rows = []
    for record in bank.teachers:
        if record.key == chosen_key:
            continue
        values = values_of(bank, record.key, temperatures, chosen, split, where)
        for (name, tau), of_rows in values.items():
            rows.append(
                {
                    "family": record.family,
                    "teacher": record.teacher,
                    "seed": record.seed or 0,
                    "reference": chosen_key,
                    "split": split or "all",
                    "tau": math.nan if tau is None else tau,
                    "probe": name,
                    **mean(of_rows - against[name, tau], clusters),
                }
            )
    return pd.DataFrame(rows)
