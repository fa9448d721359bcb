"""The stages that read a study's bank: probes, class ranks with affinities, restored variance.

Each makes its table by itself. Where a whole study runs and more than one table is to be made, they come from one pass
over the bank.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from capmismatch.data.bank import LogitBank
from capmismatch.study.config import StudyConfig
from capmismatch.study.provenance import inputs_of_bank
from capmismatch.study.tables import is_current, kept_table

if TYPE_CHECKING:
    from capmismatch.diagnostics.one_pass import Tables


class Collected(Protocol):
    """What is asked of a study."""

    @property
    def config(self) -> StudyConfig:
        """Its settings."""

    @property
    def folder(self) -> Path:
        """Where its tables lie."""

    @property
    def progress(self) -> bool:
        """Whether to show bars."""

    @property
    def bank(self) -> LogitBank:
        """Its bank."""


class Diagnosis:
    """The tables of a study's bank, each kept while nothing behind it changes.

    Parameters
    ----------
    study : Collected
        Whose bank has been collected.
    """

    def __init__(self, study: Collected) -> None:
        self._study, self._config, self._shares = study, study.config, False
        self._bank: LogitBank = study.bank

    def all(self) -> None:
        """Make all tables that are not those of now."""
        inputs = {
            "probes": self._config.probe,
            "affinity": self._config.ranks,
            "ranks": self._config.ranks,
            "restored": self._config.isats,
        }
        outdated = [
            name
            for name, settings in inputs.items()
            if is_current(self._study.folder, name, inputs_of_bank(self._bank, settings)) is not True
        ]
        several = len(self._bank.teachers) > 1  # a single teacher has no ranks
        self._shares = len(outdated) > 1 and several and not self._bank.of_texts
        self.probes()
        self.ranks()
        self.restored()

    def probes(self) -> pd.DataFrame:
        """The probes table, on validation and on test rows."""

        def measure(split: str) -> pd.DataFrame:
            from capmismatch.diagnostics.tables import probe

            if self._shares and split == self._options["split"]:
                return self._together.probes
            settings, options = self._config.probe, {**self._options, "split": split}
            return probe(self._bank, settings.taus, settings.names, **options, progress=self._study.progress)

        def make() -> pd.DataFrame:
            return pd.concat([measure(split) for split in splits_of(self._bank)], ignore_index=True)

        return self._kept("probes", self._config.probe, make)

    def ranks(self) -> pd.DataFrame:
        """The table of class-rank stability; beside it, the affinity matrices, but for texts."""
        options = {"tau": self._config.ranks.tau, **self._options}

        def make_affinity() -> pd.DataFrame:
            from capmismatch.diagnostics.tables import affinity

            return self._together.affinity if self._shares else affinity(self._bank, **options)

        def make_ranks() -> pd.DataFrame:
            from capmismatch.diagnostics.tables import rank_stability

            if self._shares and self._together.ranks is not None:
                return self._together.ranks
            return rank_stability(self._bank, **options, progress=self._study.progress)

        if self._bank.rows.sequences is None:  # of a vocabulary nobody could read it
            self._kept("affinity", self._config.ranks, make_affinity)
        return self._kept("ranks", self._config.ranks, make_ranks)

    def restored(self) -> pd.DataFrame:
        """The table of restored variance."""

        def make() -> pd.DataFrame:
            from capmismatch.diagnostics.tables import restored_variance

            if self._shares:
                return self._together.restored
            settings = asdict(self._config.isats)
            return restored_variance(self._bank, **settings, **self._options, progress=self._study.progress)

        return self._kept("restored", self._config.isats, make)

    @cached_property
    def _options(self) -> dict[str, Any]:
        return {"split": splits_of(self._bank)[0], "device": self._config.probe.device}

    @cached_property
    def _together(self) -> Tables:
        """All tables on the rows to choose by, from one pass."""
        from capmismatch.diagnostics.one_pass import all_tables

        config = self._config
        return all_tables(
            self._bank,
            config.probe.taus,
            config.probe.names,
            tau=config.ranks.tau,
            restored=asdict(config.isats),
            **self._options,
            progress=self._study.progress,
        )

    def _kept(self, name: str, settings: Any, make: Any) -> pd.DataFrame:
        return kept_table(self._study.folder, name, inputs_of_bank(self._bank, settings), make)


def splits_of(bank: LogitBank) -> list[str]:
    """Splits of a bank to measure on, the one for choosing first."""
    from capmismatch.stats.matching import splits_present

    return splits_present(bank.rows.split)
