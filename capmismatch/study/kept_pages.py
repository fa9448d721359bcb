"""Figures and page of a study, kept while nothing that they show changes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from capmismatch._utils.files import hash_file, hash_of, locked, remove_temporaries, write_json
from capmismatch._version import __version__
from capmismatch.report.study_folder import StudyFolder
from capmismatch.study.provenance import inputs_of_bank
from capmismatch.study.tables import MADE_BY, gallery_manifest, table_hashes, write_manifest_of_figures

if TYPE_CHECKING:
    from capmismatch.selection.choice import Choice

TABLES = (*MADE_BY, "pilot")
"""Tables that figures and page may show."""

_ENDINGS = (".pdf", ".png", ".csv")


class Stages(StudyFolder, Protocol):
    """A study whose tables are known to be those of now, or not."""

    def refuse_outdated(self, table: str) -> bool:
        """Raise where a table was made from something else than is there now; else False."""


def stamp_of_figures(study: Stages) -> str:
    """A hash of all that the figures are drawn from; an InputError where a table is outdated."""
    names = [name for name in TABLES if study.has(name) and not study.refuse_outdated(name)]
    config = study.config
    settings = [repr(config.probe), repr(config.isats), study.options_of_pick(), config.pick.rule]
    settings += [config.ranks.noise_floor] if config.ranks.noise_floor else []
    has_bank = (study.folder / "bank" / "bank.json").exists()
    return hash_of([__version__, settings, table_hashes(study.folder, *names) if names else {}, has_bank])


def drawn_figures(study: Stages) -> list[Path]:
    """The figures of a study, drawn where those that are there are not of the tables of now."""
    current = _drawn(study)
    if current is not None:
        return current
    folder = study.folder / "figures"
    with locked(folder / ".lock"):
        current = _drawn(study)
        if current is None:
            from capmismatch.report.gallery import draw_all

            remove_temporaries(folder)
            stamp, before = stamp_of_figures(study), gallery_manifest(folder)
            current = draw_all(study)
            gone = {folder / name for name in before.get("figures", [])} - set(current)
            for file in (figure.with_suffix(ending) for figure in gone for ending in _ENDINGS):
                file.unlink(missing_ok=True)
            write_manifest_of_figures(folder, stamp, current)
    return current


def _drawn(study: Stages) -> list[Path] | None:
    """The figures that are there, in order; None unless they are those that the tables of now would give."""
    folder = study.folder / "figures"
    manifest = gallery_manifest(folder)
    if manifest.get("made_from") != stamp_of_figures(study):
        return None
    figures = [folder / name for name in manifest["figures"]]
    whole = all(file.with_suffix(ending).exists() for file in figures for ending in _ENDINGS)
    return figures if whole else None


def kept_page(study: Stages, choice: Choice, write: Callable[[], Path]) -> Path:
    """The page of a study, written unless the one that is there shows the same.

    Parameters
    ----------
    study : Stages
        Whose stages have run.
    choice : Choice
        Which the page is to show.
    write : callable
        Writes the page, and returns where it lies.

    Returns
    -------
    Path
        Of the page.
    """
    page, note = study.folder / "report.html", study.folder / "tables" / "report.json"
    shown = _shown(study, choice)
    if page.exists() and _read(note) == {"made_from": shown, "page": hash_file(page)}:
        return page
    note.unlink(missing_ok=True)  # killed in between, nothing vouches for another page
    page = write()
    write_json(note, {"made_from": shown, "page": hash_file(page)})
    return page


def _shown(study: Stages, choice: Choice) -> str:
    """A hash of all that the page shows, but for the times at which its tables were written."""
    from capmismatch.selection.kept_choice import as_entries

    pictures = {file.name: hash_file(file) for file in sorted((study.folder / "figures").glob("*.png"))}
    text = "" if study.file is None else study.file.read_text(encoding="utf-8")
    machine = [platform.python_version(), platform.platform()]
    bank = inputs_of_bank(study.bank, study.config)
    return hash_of([stamp_of_figures(study), repr(study.config), text, as_entries(choice), pictures, bank, machine])


def _read(note: Path) -> Any:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
