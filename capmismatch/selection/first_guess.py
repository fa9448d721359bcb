"""What can be said without student results: which teachers the rules take, how far they disagree, and a pilot."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from capmismatch.selection.rules import DEFAULT_RULES, DEFAULT_TAU, RELEVANT
from capmismatch.stats.matching import UNIT

SEEDS = 2
"""Of each teacher in the smallest pilot: with one, the variation between seeds is unknown."""


@dataclass(frozen=True)
class SmallestPilot:
    """The fewest students that would show which rule is right.

    Attributes
    ----------
    teachers : tuple of (family, teacher)
        The first guess, and the teachers that the common rules take; where all take the same one, that and the next
        best.
    tau : float
        Temperature of the one setting to train in.
    seeds : int
        Of each teacher.
    """

    teachers: tuple[tuple[str, str], ...]
    tau: float
    seeds: int = SEEDS

    @property
    def runs(self) -> int:
        """Students to train.

        Examples
        --------
        >>> SmallestPilot((("mlp", "mlp8"), ("mlp", "mlp64")), tau=4.0).runs
        4
        """
        return self.seeds * len(self.teachers)

    @classmethod
    def of(
        cls, table: pd.DataFrame, rules: pd.DataFrame, chosen: tuple[str, str], tau: float | None
    ) -> SmallestPilot | None:
        """That of a choice by a probe alone, from its tables; None for a single teacher."""
        teachers = list(dict.fromkeys([chosen, *disputed_teachers(rules)]))
        if len(teachers) < 2:
            teachers += [unit for unit in table[UNIT].itertuples(index=False, name=None) if unit != chosen][:1]
        if len(teachers) < 2:
            return None
        return cls(tuple(teachers), DEFAULT_TAU if tau is None else tau)


def disputed_teachers(rules: pd.DataFrame) -> list[tuple[str, str]]:
    """The teachers that the common rules take, each once; that of the default rule first.

    Parameters
    ----------
    rules : DataFrame
        `Choice.rules`, or what `capmismatch.selection.candidates.rule_choices` gives.

    Returns
    -------
    list of (family, teacher)
        One or more; empty only where no rule could be followed.

    Examples
    --------
    >>> rules = pd.DataFrame({"rule": ["largest", "most accurate", "highest derived_std", "lowest ece"],
    ...     "family": "mlp", "teacher": ["mlp64", "mlp64", "mlp16", "mlp8"]})
    >>> disputed_teachers(rules)
    [('mlp', 'mlp64'), ('mlp', 'mlp16')]
    """
    taken = rules.set_index("rule")[UNIT]
    names = [name for name in reversed(RELEVANT) if name in taken.index]
    names = names or [name for name in DEFAULT_RULES if name in taken.index]
    return list(dict.fromkeys(taken.loc[names].itertuples(index=False, name=None)))
