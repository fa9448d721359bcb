"""Families left out one at a time: what the students of the others say of a family's teachers, and what came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from capmismatch.errors import InputError
from capmismatch.selection.candidates import Candidates, Floats, family_codes, predictors
from capmismatch.selection.evidence import EvidenceGroup, FamilyTable, families_of
from capmismatch.selection.students import chances
from capmismatch.stats.groups import Group
from capmismatch.stats.posterior import posterior_draws


@dataclass(frozen=True)
class Prediction:
    """What the other families say of a family's teachers in one setting.

    Attributes
    ----------
    teachers : tuple of str
        The family's.
    p_best : array of shape (T,)
        Predicted chance that each is the best.
    chosen : str
        The teacher with the highest prediction: the one that `pick` would take.
    """

    teachers: tuple[str, ...]
    p_best: Floats
    chosen: str

    @property
    def claim(self) -> float:
        """The chance of the chosen one."""
        return float(self.p_best[self.teachers.index(self.chosen)])


class LeftOut:
    """Families with students, each of which can be predicted from the others.

    Tables are read and students' noise is estimated once, not for every family that is left out, as `pick` would. The
    predictions are those of `pick`. Families that share a teacher count as one: none is evidence for another.

    Parameters
    ----------
    families : sequence of pairs of DataFrame
        Probes and results, of one family each.
    split, report_split : str
        As `capmismatch.pick` takes them.
    n_boot, seed : int
        Draws of each prediction, and their seed.
    """

    def __init__(
        self,
        families: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
        *,
        split: str,
        report_split: str,
        n_boot: int,
        seed: int,
    ) -> None:
        self._n_boot, self._seed = n_boot, seed
        self._tables: list[list[FamilyTable]] = []
        for probes, results in families:
            try:
                self._tables.append(families_of(probes, results, split, report_split))
            except InputError:  # students of two teachers in each setting, say: it teaches the others nothing
                self._tables.append([])
        flat = [(number, table) for number, tables in enumerate(self._tables) for table in tables]
        codes = family_codes([table.profiles for _, table in flat])
        self._flat = [(number, table, code) for (number, table), code in zip(flat, codes, strict=True)]
        self._groups: dict[tuple[tuple[str, ...], str], list[EvidenceGroup | None]] = {}
        self._own: dict[tuple[int, tuple[str, ...]], dict[str, dict[str, Group]]] = {}

    def predict(self, number: int, label: str) -> Prediction | None:
        """The prediction of a family in a setting; None where no other family can teach it."""
        mine = next(((table, code) for n, table, code in self._flat if n == number), None)
        if mine is None:
            return None
        table, code = mine
        names = predictors(table.profiles)
        groups = [
            group.choosing
            for (_, _, other), group in zip(self._flat, self._of_setting(names, label), strict=True)
            if group is not None and other[0] != code[0]
        ]
        if not groups:
            return None
        candidates = Candidates(table.profiles, names, tuple(code))
        draws = posterior_draws(candidates.unmeasured(), self._n_boot, np.random.default_rng(self._seed), groups).means
        teachers = tuple(str(teacher) for teacher in table.profiles.index.get_level_values("teacher"))
        return Prediction(teachers, chances(draws), teachers[int(draws.mean(axis=0).argmax())])

    def chance_of(self, number: int, student: str, label: str, teacher: str) -> float:
        """The chance, by the family's own students alone, that a teacher is the best; NaN where it has none."""
        table = next((one for one in self._tables[number] if one.reporting["student"].iloc[0] == student), None)
        if table is None:
            return np.nan
        names = predictors(table.profiles)
        known = self._own.setdefault((number, names), {})
        if student not in known:
            known[student] = Candidates(table.profiles, names, (0,) * len(table.profiles)).groups(table.reporting)
        group, teachers = known[student].get(label), list(table.profiles.index.get_level_values("teacher"))
        if group is None or not np.isfinite(group.means[teachers.index(teacher)]):
            return np.nan
        draws = posterior_draws(group, self._n_boot, np.random.default_rng(self._seed)).means
        return float(chances(draws)[teachers.index(teacher)])

    def _of_setting(self, names: tuple[str, ...], label: str) -> list[EvidenceGroup | None]:
        """All families as evidence of a setting, by the probes of some teachers."""
        if (names, label) not in self._groups:
            rng = np.random.default_rng(self._seed)
            made: list[EvidenceGroup | None] = []
            for _, table, code in self._flat:
                try:
                    made.append(table.group(names, code, label, self._n_boot, rng))
                except InputError:  # its seeds say nothing of the noise
                    made.append(None)
            self._groups[names, label] = made
        return self._groups[names, label]
