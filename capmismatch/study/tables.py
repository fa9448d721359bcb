"""Tables of a study, as its stages left them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pyarrow import ArrowException

from capmismatch._utils.commands import command
from capmismatch.errors import BankError, InputError

_MADE_BY = {"probes": "probe", "affinity": "ranks", "restored": "isats", "results": "distill", "links": "correlate"}


def table_file(folder: Path, name: str) -> Path:
    """Where a table of the study in `folder` lies."""
    return folder / "tables" / f"{name}.parquet"


def load_table(folder: Path, name: str, study: Path | None = None) -> pd.DataFrame:
    """A table of the study in `folder`, whose file is `study`, by default the one there.

    Raises
    ------
    InputError
        If it has not been made; the message says by which command it is.
    BankError
        If it cannot be read.
    """
    file = table_file(folder, name)
    if not file.exists():
        study = study or folder / "study.toml"
        made_by = command(_MADE_BY.get(name, name), study, folder)
        hint = f"run `{made_by}` first" if study.exists() else "expected the folder of a study that has run"
        raise InputError(f"there is no table {name!r} in {folder}: {hint}")
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError, ArrowException) as error:
        raise BankError(f"{file} is damaged, remove it to have it made anew: {error}") from None
