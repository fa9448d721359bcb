"""What rules that need a teacher's accuracy and size alone would have lost on published tables.

    python data/published/rules.py

A ladder is one student under one method in one table, with two or more teachers whose accuracy and size are known; what
was likely copied from another table is left out. Regret is the accuracy of the best student of the ladder less that of
the student of the teacher that the rule takes, in points. The best is the best as printed, mostly of single runs, so
regret is too high for every rule; differences between rules are not. Papers are the independent units of intervals.
Writes rules.csv beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import capmismatch as cm
from capmismatch.stats.across import mean_over

LADDER = ["paper", "table", "dataset", "student", "method"]


def ladders() -> list[pd.DataFrame]:
    """The teachers of each ladder, a mean over repeats."""
    rows = cm.load_published().dropna(subset=["params", "teacher_accuracy"])
    rows = rows.groupby([*LADDER, "teacher"], as_index=False)[["params", "teacher_accuracy", "accuracy"]].mean()
    return [ladder for _, ladder in rows.groupby(LADDER) if len(ladder) > 1]


def losses(ladder: pd.DataFrame) -> dict[str, float]:
    """Points that each rule loses on one ladder."""
    lost = 100 * (ladder["accuracy"].max() - ladder["accuracy"])
    return {
        "most accurate": lost[ladder["teacher_accuracy"].idxmax()],
        "largest": lost[ladder["params"].idxmax()],
        "smallest": lost[ladder["params"].idxmin()],
        "least accurate": lost[ladder["teacher_accuracy"].idxmin()],
        "random": lost.mean(),
    }


def score() -> pd.DataFrame:
    """One row per rule and number of teachers in the ladder."""
    found = ladders()
    table = pd.DataFrame([losses(ladder) for ladder in found])
    papers = np.array([ladder["paper"].iloc[0] for ladder in found])
    several = np.array([len(ladder) >= 3 for ladder in found])
    rows = []
    for name, chosen in {"all": np.full(len(found), True), "three or more teachers": several}.items():
        for rule in table:
            lost, less = table[rule][chosen], (table[rule] - table["random"])[chosen]
            regret, difference = mean_over(lost, papers[chosen]), mean_over(less, papers[chosen])
            rows.append(
                {
                    "ladders": name,
                    "n": int(chosen.sum()),
                    "papers": regret.units,
                    "rule": rule,
                    "regret": regret.value,
                    "low": regret.low,
                    "high": regret.high,
                    "best": float((lost < 1e-9).mean()) if rule != "random" else np.nan,
                    "less_random": difference.value,
                    "less_random_low": difference.low,
                    "less_random_high": difference.high,
                }
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    scored = score()
    scored.to_csv(Path(__file__).with_name("rules.csv"), index=False, float_format="%.3f")
    print(scored.round(3).to_string(index=False))
