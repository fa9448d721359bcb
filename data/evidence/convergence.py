"""Were the students of the study trained to the end? Those of twice the epochs against them, and two halves of seeds.

    python data/evidence/families.py --packages PACKAGES --folder studies/longer --epochs 80 --only marketing optdigits
    python data/evidence/convergence.py studies/families studies/longer

The teachers have to be the same: copy `teachers/` of each data set from one folder to the other first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr


def means(folder: Path, seeds: list[int] | None = None) -> pd.DataFrame:
    """Test accuracy in points, a row a teacher and a column a setting; and of plain students, in the row ""."""
    results = pd.read_parquet(folder / "tables" / "results.parquet")
    results = results[results["split"].eq("test") & (results["seed"].isin(seeds) if seeds else True)]
    return 100 * results.groupby(["teacher", "label"])["accuracy"].mean().unstack("label")


def agreement(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Mean over settings of the rank correlation over teachers."""
    taught = [label for label in a if label != "CE"]
    return float(np.mean([spearmanr(a[label].drop(""), b[label].drop("")).statistic for label in taught]))


def main() -> None:
    """Print a row a data set."""
    short, longer = (Path(folder) for folder in sys.argv[1:3])
    for place in sorted(path for path in longer.iterdir() if (path / "tables" / "results.parquet").exists()):
        now, then = means(place), means(short / place.name, [0, 1, 2])
        change = (now - then).drop(columns="CE").drop("").mean()
        halves = agreement(means(short / place.name, [0]), means(short / place.name, [1]))
        print(
            f"{place.name}: {change.mean():+.2f} points; "
            f"teachers' order {agreement(now, then):.2f}; two seeds {halves:.2f}"
        )
        print("  " + ", ".join(f"{label} {value:+.2f}" for label, value in change.items()))


if __name__ == "__main__":
    main()
