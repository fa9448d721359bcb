"""What figures and page ask of a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from capmismatch.data.bank import LogitBank

if TYPE_CHECKING:
    from capmismatch.selection.choice import Choice


class StudyFolder(Protocol):
    """A study whose stages have left tables: a `capmismatch.Study`, or the tables of a `capmismatch.Diagnosis`."""

    folder: Path
    progress: bool
    config: Any  # a `capmismatch.study.StudyConfig`, which is defined a floor above

    @property
    def file(self) -> Path | None:
        """The study file; None for tables that are in memory."""

    @property
    def bank(self) -> LogitBank:
        """The collected bank."""

    def has(self, table: str) -> bool:
        """Whether a table has been made."""

    def load(self, table: str) -> pd.DataFrame:
        """A table that a stage left."""

    def choice(self) -> Choice:
        """The choice of a teacher, as it was last made."""

    def options_of_pick(self) -> dict[str, Any]:
        """What was asked for beside the study's settings when it was made."""
