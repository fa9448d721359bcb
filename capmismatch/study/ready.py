"""What a choice needs of a study before it can be made: made where it is missing, and told where it is left over."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

from capmismatch.errors import CapmismatchError
from capmismatch.study.config import StudyConfig
from capmismatch.study.provenance import read_manifest, what_changed
from capmismatch.study.tables import table_file

OF_STUDENTS = ("results", "curves", "links")
"""Tables that a study without students does not have."""


class Stages(Protocol):
    """The stages of a study that a choice rests on."""

    config: StudyConfig
    folder: Path
    file: Path

    @property
    def base(self) -> Path:
        """Folder that relative paths in the study file start from."""

    def collect(self) -> Any:
        """Logits of every teacher."""

    def probe(self) -> Any:
        """The probes table."""

    def distill(self) -> Any:
        """The results table."""


def make_ready(study: Stages) -> None:
    """Make what a choice reads, as ``run`` does: bank and probes, and the results where a file gives them.

    What is there already, and is still that of what the study file says, is kept. Students are not trained.

    Parameters
    ----------
    study : Stages
        The study.
    """
    tell_unnamed(study)
    bank = study.folder / "bank"
    if not (bank / "bank.json").exists() or what_changed(bank, study.config, study.base):
        study.collect()
    elif read_manifest(bank) is None:  # of an earlier version, or of a collection that was stopped
        _complete(study, bank)
    study.probe()
    if study.config.results is not None:
        study.distill()


def _complete(study: Stages, bank: Path) -> None:
    """Collect what a bank may lack; where its networks are no longer there, it is taken as it is."""
    try:
        study.collect()
    except CapmismatchError as error:
        warnings.warn(f"{bank} may lack teachers, and cannot be completed: {error}", stacklevel=5)


def is_named(config: StudyConfig, table: str) -> bool:
    """Whether a study file names what a table is of: students, and of learning curves those that are trained here."""
    if table not in OF_STUDENTS:
        return True
    return config.distill is not None or (config.results is not None and table != "curves")


def tell_unnamed(study: Stages) -> None:
    """Warn of tables of students that the study file no longer names."""
    left = [name for name in OF_STUDENTS if table_file(study.folder, name).exists()]
    if left and not is_named(study.config, "results"):
        warnings.warn(
            f"{study.folder / 'tables'} holds {' and '.join(left)} of students that {study.file.name} no longer "
            "names: they are ignored",
            stacklevel=3,
        )
