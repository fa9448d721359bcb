"""Remake the figures: ``letters/`` from the embedded study, ``cifar10/`` from the shipped tables, ``pairs/``.

``make figures`` runs this. ``pairs/`` is of a small study whose bank holds its student and features, ``pairs.toml``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from capmismatch import plots
from capmismatch.cli import demo
from capmismatch.study.study import Study

HERE = Path(__file__).parent
CIFAR10 = HERE.parent / "data" / "cifar10" / "analysis.toml"
PAIRS = ("kl", "wrong_rsr", "grace", "gradient_cosine", "cka", "logme", "nc1", "derived_std")


def copy_figures(study: Path, target: Path) -> None:
    """Replace the target's figures by those of a study's folder: the PDF, PNG and CSV of each."""
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    for file in sorted((study / "figures").iterdir()):
        if file.suffix in (".pdf", ".png", ".csv"):
            shutil.copyfile(file, target / file.name)


def without_figures(study: Path) -> Path:
    """A study's folder less its figures, which are kept while no table changes, even if the code has changed."""
    shutil.rmtree(study / "figures", ignore_errors=True)
    return study


def draw_pairs(folder: Path) -> None:
    """Run the study of pairs, as far as it is not done, and draw what other studies do not."""
    study = Study(HERE / "pairs.toml", folder)
    study.collect()
    probes, results = study.probe(), study.distill()
    links, setting = study.correlate(), {"student": "mlp24", "label": "KD tau=4 student tau=1"}
    with plots.figure_style(ratio=0.5):
        grid = plots.probe_vs_student_grid(probes, results, chosen=PAIRS, tau=4, links=links, **setting)
        plots.save(grid, HERE / "pairs" / "probe_vs_student_grid")
        plots.save(plots.fidelity_vs_capacity(results, student="mlp24"), HERE / "pairs" / "fidelity_vs_capacity")


def main() -> None:
    """Run the studies, as far as they are not done, and copy or draw their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--letters", type=Path, help="folder of the embedded study; what is there is kept")
    parser.add_argument("--cifar10", type=Path, help="folder of the CIFAR-10 study; what is there is kept")
    parser.add_argument("--pairs", type=Path, help="folder of the study of pairs; what is there is kept")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that train students")
    options = parser.parse_args()
    with TemporaryDirectory() as fresh:
        letters = without_figures(options.letters or Path(fresh, "letters"))
        demo(letters, workers=options.workers)
        copy_figures(letters, HERE / "letters")
        cifar10 = without_figures(options.cifar10 or Path(fresh, "cifar10"))
        Study(CIFAR10, cifar10).run()
        copy_figures(cifar10, HERE / "cifar10")
        draw_pairs(options.pairs or Path(fresh, "pairs"))


if __name__ == "__main__":
    main()
