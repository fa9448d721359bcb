"""The commands that messages tell the user to run."""

from __future__ import annotations

import shlex
from pathlib import Path


def command(verb: str, file: Path, folder: Path | None = None) -> str:
    """The shell command of one stage of a study, as it is typed in the current folder.

    Parameters
    ----------
    verb : str
        Name of the stage, such as "collect".
    file : Path
        The study file.
    folder : Path, optional
        The study's folder, where that is not the file's.

    Returns
    -------
    str
        With quotes where the shell needs them.

    Examples
    --------
    >>> command("collect", Path("study.toml"), Path("elsewhere"))
    'capmismatch collect study.toml --folder elsewhere'
    """
    return shlex.join(["capmismatch", verb, shown_path(file), *folder_option(file, folder)])


def folder_option(file: Path, folder: Path | None) -> tuple[str, ...]:
    """The words of a command that name a study's folder; none where it is the study file's own."""
    if folder is None or folder.resolve() == file.resolve().parent:
        return ()
    return "--folder", shown_path(folder)


def shown_path(path: Path) -> str:
    """A path relative to the current folder where it lies below it, else absolute."""
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
