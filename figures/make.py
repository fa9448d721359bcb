"""Remake ``figures/letters/`` from the embedded study: ``make figures``, or ``python figures/make.py --study DIR``."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from capmismatch.cli import demo

LETTERS = Path(__file__).parent / "letters"


def copy_figures(study: Path, target: Path = LETTERS) -> None:
    """Replace the target's figures by those of a study's folder: the PDF, PNG and CSV of each."""
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    for file in sorted((study / "figures").iterdir()):
        if file.suffix in (".pdf", ".png", ".csv"):
            shutil.copyfile(file, target / file.name)


def main() -> None:
    """Run the embedded study, as far as it is not done, and copy its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, help="folder of the study; what is there is kept (default: a new one)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that train students")
    options = parser.parse_args()
    with TemporaryDirectory() as fresh:
        folder = options.study or Path(fresh)
        demo(folder, workers=options.workers)
        copy_figures(folder)


if __name__ == "__main__":
    main()
