"""What simple rules lose among the twelve networks, in Markdown: the tables of README.md and docs/howto/pick.md.

    python data/cifar10/rule_numbers.py

Reads the shipped `bank/`, `results.csv` and `second.csv`. A row for each rule and a column for each setting: points
that the rule is expected to lose against the best teacher, with their 95 % interval, by the posterior of
`capmismatch.pick` for the test images. Below, the settings by their best teacher, and the choice. Takes half a minute.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

import capmismatch as cm

HERE = Path(__file__).parent
NAMES = ["accuracy", "classwise_ace", "derived_std", "derived_variance", "inherent_variance", "target_prob"]
RULES = ("highest derived_std", "lowest classwise_ace", "highest derived_variance", "most accurate", "largest")
SETTINGS = (
    "KD tau=2 student tau=1",
    "KD tau=4 student tau=1",
    "DKD",
    "ATS tau=4 other tau=3",
    "ISATS order m=1 tau=4",
    "ISATS unconstrained tau=4",
)


def probes() -> pd.DataFrame:
    """Probes of the networks that the rules go by."""
    return cm.probe(cm.LogitBank(HERE / "bank"), [4.0], NAMES, split="val", progress=False)


def losses(measured: pd.DataFrame, results: pd.DataFrame, settings: Iterable[str]) -> pd.DataFrame:
    """Points lost with their intervals, as text: a row for each rule, a column for each setting."""
    columns = {}
    for label in settings:
        rules = cm.pick(measured, results, label=label).rules.set_index("rule").loc[list(RULES)]
        columns[label] = [f"{r.regret:.1f} [{r.low:.1f}, {r.high:.1f}]" for r in rules.itertuples()]
    return pd.DataFrame(columns, index=RULES)


def show(table: pd.DataFrame) -> None:
    """Print the cells of a table in Markdown, each row after its rule."""
    for rule, cells in table.iterrows():
        print(f"{rule}: | {' | '.join(cells)} |")


def main() -> None:
    """Print both students' tables, the settings and the choice."""
    measured, results = probes(), cm.load_results(HERE / "results.csv")
    show(losses(measured, results, SETTINGS))
    print("\nThe second student, by ATS")
    show(losses(measured, cm.load_results(HERE / "second.csv"), ["ATS tau=4 other tau=3"]))
    choice = cm.pick(measured, results)
    print(f"\n{choice.settings[['label', 'teacher', 'score', 'p_best', 'tie']].round(3).to_string(index=False)}")
    print(f"\n{choice.title}; P(best) {choice.p_best:.2f}, expected regret {choice.expected_regret:.2f} points")


if __name__ == "__main__":
    main()
