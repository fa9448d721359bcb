"""One temperature for all teachers, or one for each? The numbers of README.md, from temperatures.csv.

python data/letters/temperatures.py [RESULTS.csv]

Temperatures are chosen by validation accuracy on half of the seeds and judged by test accuracy on the other half, both
ways. Intervals are those of wrong_rows.py: teachers and seeds both count as drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from wrong_rows import crossed

from capmismatch import load_results

HALVES = (range(4), range(4, 8))
LARGEST = "mlp768"


def tables(results: pd.DataFrame, split: str) -> dict[str, pd.DataFrame]:
    """Accuracy in points by setting: teachers (by size) in rows, seeds in columns."""
    rows = results[results["split"].eq(split) & results["method"].ne("CE")]
    by_size = rows.groupby("teacher")["params"].first().sort_values().index
    return {
        str(label): 100 * of_label.pivot_table(index="teacher", columns="seed", values="accuracy").loc[by_size]
        for label, of_label in rows.groupby("label", sort=False)
    }


def shared(val: dict[str, pd.DataFrame], method: str, seeds: range) -> Callable[[str], str]:
    """The one setting of a method with the highest mean over teachers, for each of them."""
    means = {label: table[list(seeds)].to_numpy().mean() for label, table in val.items() if label.split()[0] == method}
    best = max(means, key=lambda label: means[label])
    return lambda teacher: best


def of_each(val: dict[str, pd.DataFrame], method: str, seeds: range) -> Callable[[str], str]:
    """For each teacher the setting of a method that is best for it."""
    labels = [label for label in val if label.split()[0] == method]
    return lambda teacher: max(labels, key=lambda label: val[label].loc[teacher, list(seeds)].mean())


def judged(val: dict[str, pd.DataFrame], test: dict[str, pd.DataFrame], choose: Callable, method: str) -> pd.DataFrame:
    """Test accuracy of each teacher and seed at the temperature that the other half of the seeds chose."""
    parts = []
    for chosen_on, judged_on in (HALVES, HALVES[::-1]):
        label_of = choose(val, method, chosen_on)
        some = list(judged_on)
        teachers = next(iter(test.values())).index
        parts.append(pd.DataFrame([test[label_of(one)].loc[one, some] for one in teachers], index=teachers))
    return pd.concat(parts, axis=1).sort_index(axis=1)


def ways(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Test accuracy, teachers in rows and seeds in columns, for each way of setting the temperature."""
    val, test = tables(results, "val"), tables(results, "test")
    found = {
        "shared tau": judged(val, test, shared, "KD"),
        "each teacher's best tau": judged(val, test, of_each, "KD"),
        "shared multiple of the calibrating tau": judged(val, test, shared, "CalKD"),
    }
    return found | {label: table for label, table in test.items() if label.startswith("MatchKD")}


def loss_of_largest(val: dict[str, pd.DataFrame], table: pd.DataFrame, chosen: pd.DataFrame) -> np.ndarray:
    """Points that the largest teacher loses, by seed, to the teacher that is best on the other half of the seeds."""
    lost = pd.Series(dtype=float)
    for chosen_on, judged_on in (HALVES, HALVES[::-1]):
        best = chosen[list(chosen_on)].mean(axis=1).idxmax()
        some = list(judged_on)
        lost = pd.concat([lost, table.loc[best, some] - table.loc[LARGEST, some]])
    return lost.sort_index().to_numpy(float)


def interval(values: np.ndarray) -> str:
    """Mean over seeds with its t interval."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():+.2f} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


def main(file: Path) -> None:
    """Print the tables of README.md."""
    results = load_results(file)
    val = tables(results, "val")
    print("Test accuracy by teacher and tau (%), mean over seeds")
    test = tables(results, "test")
    print(pd.DataFrame({label: table.mean(axis=1) for label, table in test.items()}).round(2).T.to_string())
    found = ways(results)
    base = found["shared tau"]
    for half in HALVES:
        label_of = of_each(val, "KD", half)
        print("seeds", list(half), "shared:", shared(val, "KD", half)(""), "|", shared(val, "CalKD", half)(""))
        print("   each:", ", ".join(f"{teacher} {label_of(teacher)}" for teacher in base.index))
    lost = {name: loss_of_largest(val, table, table) for name, table in found.items()}
    print(f"\nshared tau: mean {base.to_numpy().mean():.2f} %")
    for name, table in found.items():
        less = table - base
        line = "" if name == "shared tau" else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*crossed(less.to_numpy()))
        change = "" if name == "shared tau" else interval(lost[name] - lost["shared tau"])
        print(f"{name} | {line} | {interval(lost[name])} | {change}")
        print("   ", ", ".join(f"{teacher} {value:+.2f}" for teacher, value in less.mean(axis=1).items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("temperatures.csv"))
