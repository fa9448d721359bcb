"""One small study for the whole room, its teachers trained and collected once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studies import GRID_STUDY, MakeStudy

from capmismatch.sources import letters
from capmismatch.study.study import Study

SHORT = letters.Recipe(epochs=2, batch_size=100)  # of the teachers


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study folder whose teachers are trained and collected: the others start from its files."""
    folder = tmp_path_factory.mktemp("collected")
    (folder / "study.toml").write_text(GRID_STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "RECIPE", SHORT)
        study = Study(folder / "study.toml", progress=False)
        study.collect()
        for view in range(2):
            study.view_bank(view)
    return folder


@pytest.fixture(scope="module")
def make_study(collected: Path) -> Iterator[MakeStudy]:
    """``make_study(folder, text=GRID_STUDY, **options)``: a study with the collected bank, in a folder of its own."""

    def make(folder: Path, text: str = GRID_STUDY, **options: Any) -> Study:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.toml").write_text(text)
        for name in ("bank", "teachers"):
            if not (folder / name).exists():
                (folder / name).symlink_to(collected / name)
        return Study(folder / "study.toml", progress=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "RECIPE", SHORT)
        yield make
