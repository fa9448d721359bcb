"""Make the tables of the shipped studies that `capmismatch.shipped_evidence` loads.

    python data/evidence/ship.py [--folder studies/letters]

Letters: runs the embedded study in that folder (a few minutes on two cores; what is done is kept). CIFAR-10: measures
the shipped logits of `data/cifar10/bank`, and takes the shipped results. Writes capmismatch/embedded/*.parquet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import capmismatch as cm
from capmismatch._utils.files import make_folder, write_table, write_text

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "capmismatch" / "embedded"
TAUS = (1.0, 2.0, 4.0, 8.0)


def letters(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probes and results of the embedded study."""
    make_folder(folder)
    if not (folder / "study.toml").exists():
        write_text(folder / "study.toml", (EMBEDDED / "study.toml").read_text(encoding="utf-8"))
    study = cm.load_study(folder / "study.toml")
    return probes_of(study.collect()), study.distill()


def cifar10() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probes of the shipped logits, and the shipped results."""
    at = ROOT / "data" / "cifar10"
    return probes_of(cm.LogitBank(at / "bank")), cm.load_results(at / "results.csv")


def probes_of(bank: cm.LogitBank) -> pd.DataFrame:
    """All probes on validation and test rows."""
    return pd.concat([cm.probe(bank, TAUS, split=split) for split in ("val", "test")], ignore_index=True)


def main() -> None:
    """Make all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "studies" / "letters", help="of the study on letters")
    options = parser.parse_args()
    for name, (probes, results) in {"letters": letters(options.folder), "cifar10": cifar10()}.items():
        write_table(EMBEDDED / f"{name}_probes.parquet", probes)
        write_table(EMBEDDED / f"{name}_results.parquet", results)
        print(name, len(probes), "probes,", len(results), "results")


if __name__ == "__main__":
    main()
