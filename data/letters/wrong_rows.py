"""What ISATS should do with rows that the teacher gets wrong: the numbers of README.md, from wrong.csv.

python data/letters/wrong_rows.py [RESULTS.csv]

Differences in test accuracy (points) against wrong="free", paired by teacher and student seed and averaged over the
students. Teachers and seeds both count as drawn, crossed with each other: the variance of the mean is that of the means
by teacher, plus that of the means by seed, less the rest, which both contain. Student's t, with the fewer degrees of
freedom of the two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from capmismatch import load_results


def crossed(table: np.ndarray) -> tuple[float, float, float]:
    """Mean, low and high of a table (teachers, seeds) whose rows and columns are both samples."""
    teachers, seeds = table.shape
    by_teacher, by_seed, mean = table.mean(1), table.mean(0), table.mean()
    rest = table - by_teacher[:, None] - by_seed[None] + mean
    error = (rest**2).sum() / (teachers - 1) / (seeds - 1) / table.size
    variance = max(by_teacher.var(ddof=1) / teachers + by_seed.var(ddof=1) / seeds - error, error)
    half = stats.t.ppf(0.975, min(teachers, seeds) - 1) * variance**0.5
    return mean, mean - half, mean + half


def tables(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Test accuracy in points by setting: students averaged, teachers (by size) in rows, seeds in columns."""
    test = results[results["split"].eq("test") & results["method"].ne("CE")]
    setting = test["wrong"].where(test["method"].eq("ISATS"), test["method"])
    by_size = test.groupby("teacher")["params"].first().sort_values().index
    return {
        str(name): 100 * rows.pivot_table(index="teacher", columns="seed", values="accuracy").loc[by_size]
        for name, rows in test.groupby(setting)
    }


def main(file: Path) -> None:
    """Print the table of README.md: overall, by third of the teachers, and by student."""
    results = load_results(file)
    accuracy = tables(results)
    widths = list(accuracy["free"].index)
    thirds = {"small": widths[:3], "middle": widths[3:5], "large": widths[5:]}
    print(
        f"free: {accuracy['free'].to_numpy().mean():.2f} %;",
        *(f"{name}: {', '.join(t)};" for name, t in thirds.items()),
    )
    for name, other in (("plain", "free"), ("target", "free"), ("KD", "free"), ("plain", "target"), ("plain", "KD")):
        less = accuracy[name] - accuracy[other]
        print(f"{name} less {other}: {'{:+.2f} [{:+.2f}, {:+.2f}]'.format(*crossed(less.to_numpy()))}", end="")
        print("".join(f"; {third} {less.loc[some].to_numpy().mean():+.2f}" for third, some in thirds.items()))
        print("   ", ", ".join(f"{teacher} {value:+.2f}" for teacher, value in less.mean(axis=1).items()))
    for student, rows in results.groupby("student"):
        own = tables(rows)
        for name in ("plain", "target", "KD"):
            less = (own[name] - own["free"]).to_numpy()
            print(f"{student}, {name} less free: {'{:+.2f} [{:+.2f}, {:+.2f}]'.format(*crossed(less))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("wrong.csv"))
