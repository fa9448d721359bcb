"""What figures and page ask of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from capmismatch.data.bank import LogitBank
from capmismatch.selection.choice import Choice


class StudyFolder(Protocol):
    """A study whose stages have left tables; `capmismatch.Study` is one."""

    file: Path
    folder: Path
    progress: bool
    config: Any  # a `capmismatch.study.StudyConfig`, which is defined a floor above

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
