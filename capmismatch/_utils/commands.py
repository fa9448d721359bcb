"""What to type: the commands that messages tell to run."""

from __future__ import annotations

import shlex
from pathlib import Path


def command(verb: str, file: Path, folder: Path | None = None) -> str:
    """The command of a study's stage, to be typed where one is.

    Parameters
    ----------
    verb : the command's name
    file : the study file
    folder : the study's folder, where it is not the file's

    Examples
    --------
    >>> command("collect", Path("study.toml"), Path("elsewhere"))
    'capmismatch collect study.toml --folder elsewhere'
    """
    where = [] if folder is None or folder.resolve() == file.resolve().parent else ["--folder", _from_here(folder)]
    return shlex.join(["capmismatch", verb, _from_here(file), *where])


def _from_here(path: Path) -> str:
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
