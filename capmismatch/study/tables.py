"""The tables that a study's stages leave: where they lie, reading them, and keeping them while nothing changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from capmismatch._utils.commands import command
from capmismatch._utils.files import hash_of, write_json, write_table
from capmismatch._version import __version__
from capmismatch.errors import BankError, InputError

_MADE_BY = {"probes": "probe", "affinity": "ranks", "restored": "isats", "results": "distill", "links": "correlate"}


def table_file(folder: Path, name: str) -> Path:
    """Where a table of the study in `folder` lies."""
    return folder / "tables" / f"{name}.parquet"


def load_table(folder: Path, name: str, study: Path | None = None) -> pd.DataFrame:
    """Read a table of a study.

    Parameters
    ----------
    folder : Path
        Of the study.
    name : str
        Of the table, such as ``"probes"``.
    study : Path, optional
        The study file, for the command that the message names; by default the one in `folder`.

    Returns
    -------
    DataFrame
        As the stage left it.

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


def kept_table(folder: Path, name: str, inputs: list[Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table of a study, made anew only if its inputs changed since.

    Beside the table lies a JSON file with a hash of what it was made from, the stamp.

    Parameters
    ----------
    folder : Path
        Of the study.
    name : str
        Of the table.
    inputs : list
        All that decides what is in the table, as values of JSON.
    make : callable
        Computes the table.

    Returns
    -------
    DataFrame
        The table, read or made.
    """
    file = table_file(folder, name)
    stamp, stamp_file = hash_of([__version__, inputs]), file.with_suffix(".json")
    if file.exists() and is_stamped(stamp_file, stamp):
        return load_table(folder, name)
    frame = make()
    stamp_file.unlink(missing_ok=True)  # first: killed in between, no stamp must vouch for the other table
    write_table(file, frame)
    write_json(stamp_file, {"made_from": stamp})
    return frame


def is_stamped(file: Path, stamp: str) -> bool:
    """Whether the file of a stamp holds this one."""
    return file.exists() and stamp in file.read_text(encoding="utf-8")


def table_hashes(folder: Path, *names: str) -> dict[str, str]:
    """SHA-256 of tables as they lie on disk, by name; by default of all."""
    files = [table_file(folder, name) for name in names] or sorted((folder / "tables").glob("*.parquet"))
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()}
