"""The tables that a study's stages leave: where they lie, reading them, and keeping them while nothing changes."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyarrow import ArrowException

from capmismatch._utils.commands import command
from capmismatch._utils.files import hash_file, hash_of, locked, write_json, write_table
from capmismatch._utils.setting_labels import with_current_labels
from capmismatch._version import __version__
from capmismatch.errors import BankError, InputError

if TYPE_CHECKING:
    from capmismatch.selection.choice import Choice

MADE_BY = {
    "probes": "probe",
    "affinity": "ranks",
    "ranks": "ranks",
    "restored": "isats",
    "results": "distill",
    "curves": "distill",
    "links": "correlate",
    "pick": "pick",
}
"""Table -> the stage that makes it."""


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
        made_by = command(MADE_BY.get(name, name), study, folder)
        hint = f"run `{made_by}` first" if study.exists() else "expected the folder of a study that has run"
        raise InputError(f"there is no table {name!r} in {folder}: {hint}")
    return _parsed(file, file.read_bytes())


def _parsed(file: Path, content: bytes) -> pd.DataFrame:
    try:
        return with_current_labels(pd.read_parquet(io.BytesIO(content)))
    except (OSError, ValueError, ArrowException) as error:
        raise BankError(f"{file} is damaged, remove it to have it made again: {error}") from None


@dataclass(frozen=True)
class Stamp:
    """What the JSON file beside a table says: what the table was made from, and which table that was.

    Attributes
    ----------
    made_from : str
        Hash of the table's inputs.
    table : str
        SHA-256 of the table; "" in stamps of earlier versions.
    more : dict
        What else the stage noted.
    """

    made_from: str
    table: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def read_stamp(folder: Path, name: str) -> Stamp | None:
    """The stamp of a table; None where there is none that can be read."""
    try:
        entries = json.loads(table_file(folder, name).with_suffix(".json").read_text(encoding="utf-8"))
        more = {key: value for key, value in entries.items() if key not in ("made_from", "table")}
        return Stamp(str(entries["made_from"]), str(entries.get("table", "")), more)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stamp_of(inputs: Any) -> str:
    """What the stamp of a table holds that was made from these inputs."""
    return hash_of([__version__, inputs])


def keep(folder: Path, name: str, frame: pd.DataFrame, inputs: Any, **more: Any) -> None:
    """Write a table and its stamp, unless they are there; one command at a time.

    Parameters
    ----------
    folder : Path
        Of the study.
    name : str
        Of the table.
    frame : DataFrame
        The table.
    inputs : Any
        All that decides what is in it, as values of JSON.
    **more : Any
        What else to note.
    """
    stamp = stamp_of(inputs)
    with locked(_lock(folder, name)):
        if not _is_there(folder, name, frame, stamp, more):
            _write(folder, name, frame, stamp, more)


def _is_there(folder: Path, name: str, frame: pd.DataFrame, stamp: str, more: dict[str, Any]) -> bool:
    """Whether a table lies on disk as it would be written, so that the time of its file stays that of its making."""
    known = read_stamp(folder, name)
    if known is None or known.more != more:
        return False
    there = _stamped(folder, name, stamp)
    return there is not None and there.equals(frame.reset_index(drop=True))


def _write(folder: Path, name: str, frame: pd.DataFrame, stamp: str, more: dict[str, Any]) -> None:
    file = table_file(folder, name)
    file.with_suffix(".json").unlink(missing_ok=True)  # first: killed in between, no stamp vouches for the other table
    write_table(file, frame)
    write_json(file.with_suffix(".json"), {"made_from": stamp, "table": _hash(file.read_bytes()), **more})


def _lock(folder: Path, name: str) -> Path:
    return folder / "tables" / f".{name}.lock"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_current(folder: Path, name: str, inputs: Any) -> bool | None:
    """Whether a table on disk is the one that its stamp vouches for, and was made from these inputs.

    Returns
    -------
    bool or None
        None where no stamp tells.
    """
    stamp, file = read_stamp(folder, name), table_file(folder, name)
    if stamp is None or not file.exists():
        return None
    return stamp.made_from == stamp_of(inputs) and stamp.table in ("", _hash(file.read_bytes()))


def kept_choice(folder: Path, inputs: Any) -> Choice | None:
    """The choice that `pick` or a pilot left with the table "pick"; None where there is none of these inputs.

    That a pilot's is left out, because probes, results or settings of [pick] are others now, is told by a warning.
    """
    from capmismatch.selection.kept_choice import from_entries

    stamp = read_stamp(folder, "pick")
    if stamp is None or not table_file(folder, "pick").exists():
        return None
    entries = stamp.more.get("pilot", stamp.more.get("choice"))
    if not isinstance(entries, dict):
        return None
    if is_current(folder, "pick", inputs):
        return from_entries(entries)
    if "pilot" in stamp.more:
        warnings.warn("the pilot's choice was made from other probes, results or settings: left out", stacklevel=3)
    return None


def kept_table(folder: Path, name: str, inputs: list[Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table of a study, made again only if its inputs changed since.

    Beside the table lies a JSON file with a hash of what it was made from, and of the table, the stamp. While a table
    is made, no other command makes it: commands with other settings on one folder wait for each other.

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
    stamp = stamp_of(inputs)
    frame = _stamped(folder, name, stamp)  # without the lock first: a folder may be for reading alone
    if frame is None:
        with locked(_lock(folder, name)):
            frame = _stamped(folder, name, stamp)
            if frame is None:
                frame = make()
                _write(folder, name, frame, stamp, {})
    return frame


def _stamped(folder: Path, name: str, stamp: str) -> pd.DataFrame | None:
    """A table with this stamp; None where there is none, or another table than the one that the stamp vouches for."""
    known, file = read_stamp(folder, name), table_file(folder, name)
    if known is None or known.made_from != stamp or not file.exists():
        return None
    content = file.read_bytes()
    if known.table in ("", _hash(content)):
        return _parsed(file, content)
    _parsed(file, content)  # a damaged table is named; a whole one from elsewhere is made again
    return None


def table_hashes(folder: Path, *names: str) -> dict[str, str]:
    """SHA-256 of tables as they lie on disk, by name; by default of all."""
    files = [table_file(folder, name) for name in names] or sorted((folder / "tables").glob("*.parquet"))
    return {file.stem: hash_file(file) for file in files if file.exists()}


def gallery_manifest(folder: Path) -> dict[str, Any]:
    """What was drawn into a folder of figures, and from what; empty where nothing was."""
    try:
        manifest = json.loads((folder / "made_from.json").read_text(encoding="utf-8"))
        return {"made_from": str(manifest["made_from"]), "figures": [str(name) for name in manifest["figures"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_manifest_of_figures(folder: Path, stamp: str, figures: Iterable[Path]) -> None:
    """Note what was drawn into a folder of figures, and from what."""
    write_json(folder / "made_from.json", {"made_from": stamp, "figures": [file.name for file in figures]})


def accuracies(probes: pd.DataFrame) -> pd.DataFrame:
    """One row per teacher: identity, size, and accuracy on each split, from the probes table."""
    rows = probes[probes["probe"] == "accuracy"]
    keys = ["family", "teacher", "seed", "params", "macs"]
    wide = rows.pivot_table(index=keys, columns="split", values="value", sort=False, dropna=False)
    wide = wide.add_prefix("accuracy_").reset_index().rename_axis(columns=None)
    return wide.dropna(subset=[c for c in wide.columns if c.startswith("accuracy_")], how="all")
