"""What the probe of a selection rule is of every example of a bank, so that a pick can say how sure its order is."""

from __future__ import annotations

import pandas as pd

from capmismatch.data.bank import LogitBank
from capmismatch.diagnostics.tables import example_values
from capmismatch.selection.rules import DEFAULT_RULE, DEFAULT_TAU, RULES
from capmismatch.stats.matching import UNIT, nearest_tau


def rule_values(bank: LogitBank, probes: pd.DataFrame, rule: str, split: str, device: str) -> pd.DataFrame | None:
    """What the probe of a rule ("auto" for the default) is of every example.

    None where no example has it, or where the bank lacks a teacher of the probes table.
    """
    measured = set(probes[UNIT].itertuples(index=False, name=None))
    used = RULES.get(DEFAULT_RULE if rule == "auto" else rule)
    taus = probes.loc[probes["probe"].eq(used.probe), "tau"] if used else probes["tau"][:0]
    if used is None or taus.empty or measured - {(record.family, record.teacher) for record in bank.teachers}:
        return None
    at = [nearest_tau(taus, DEFAULT_TAU)] if taus.notna().any() else []
    return example_values(bank, [used.probe], at, split=split, device=device)
