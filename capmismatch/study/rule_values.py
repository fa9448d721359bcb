"""The probe of a selection rule for every example of a bank, so that a pick can say how sure its order is."""

from __future__ import annotations

import pandas as pd

from capmismatch.data.bank import LogitBank
from capmismatch.diagnostics.tables import example_values
from capmismatch.probes import REGISTRY
from capmismatch.selection.rules import DEFAULT_RULE, DEFAULT_TAU, RULES, RULES_FOR_TEXTS
from capmismatch.stats.matching import UNIT, nearest_tau
from capmismatch.stats.usable import of_texts


def rule_values(bank: LogitBank, probes: pd.DataFrame, rule: str, split: str, device: str) -> pd.DataFrame | None:
    """The probe of a rule, for every example.

    Parameters
    ----------
    bank : LogitBank
        With the logits of all teachers.
    probes : DataFrame
        The probes table.
    rule : str
        Its name; "auto" for the default.
    split : str
        Rows to measure on.
    device : str
        Where to compute, such as "cuda".

    Returns
    -------
    DataFrame or None
        As `capmismatch.example_values` gives it; None where no example has the probe, or where the bank lacks a teacher
        of the probes table.
    """
    measured = set(probes[UNIT].itertuples(index=False, name=None))
    by_default = RULES_FOR_TEXTS[0] if of_texts(probes) else DEFAULT_RULE
    used = RULES.get(by_default if rule == "auto" else rule)
    taus = probes.loc[probes["probe"].eq(used.probe), "tau"] if used else probes["tau"][:0]
    there = {(record.family, record.teacher) for record in bank.teachers}
    if used is None or not _has_values(used.probe) or taus.empty or measured - there:
        return None
    at = [nearest_tau(taus, DEFAULT_TAU)] if taus.notna().any() else []
    return example_values(bank, [used.probe], at, split=split, device=device)


def _has_values(probe: str) -> bool:
    """Whether a probe has a value for each example of one teacher."""
    return probe in REGISTRY and REGISTRY[probe].kind != "family"
