"""Before any student was taught: what the title says, how far rules disagree, and the smallest pilot."""

from __future__ import annotations

import numpy as np
import pandas as pd

import capmismatch as cm

SIZES = [1e5, 2e5, 4e5, 8e5]


def probes(derived: list[float], accuracy: list[float], se: float = 1e-4) -> pd.DataFrame:
    """Teachers t0, t1, ..., the smallest first."""
    base = pd.DataFrame(
        {"family": "f", "teacher": [f"t{i}" for i in range(len(derived))], "params": SIZES[: len(derived)]}
    )
    tables = [
        base.assign(probe="derived_std", tau=4.0, value=derived),
        base.assign(probe="accuracy", tau=np.nan, value=accuracy),
    ]
    return pd.concat(tables).assign(split="val", seed=0, se=se)


def test_the_smallest_pilot_compares_the_teachers_that_the_rules_name() -> None:
    choice = cm.pick(probes([0.02, 0.05, 0.03, 0.01], [0.7, 0.8, 0.9, 0.85]))
    assert choice.grade == "none" and choice.teacher == "t2"
    pilot = choice.smallest_pilot
    assert pilot.teachers == (("f", "t2"), ("f", "t1"), ("f", "t3")) and (pilot.tau, pilot.seeds, pilot.runs) == (
        4.0,
        2,
        6,
    )
    # largest, smallest, most accurate and derived_std: each teacher once
    assert choice.title.startswith("First guess: f/t2, based on the rule") and choice.title.endswith(
        "4 rules name 4 teachers"
    )
    spread = next(reason for reason in choice.reasons if "disagree" in reason)
    assert "from 100,000 to 800,000 parameters" in spread and all(f"f/t{i} (1)" in spread for i in range(4))
    assert any(all(name in risk for name in ("f/t1", "f/t2", "f/t3", "--pilot 6")) for risk in choice.risks)


def test_language_models_are_to_be_taught_at_temperature_one() -> None:
    table = probes([0.02, 0.05, 0.03, 0.01], [0.7, 0.8, 0.9, 0.85]).assign(sequences=40)
    for rule in ("auto", "largest", "highest derived_std"):
        choice = cm.pick(table, rule=rule)
        assert choice.smallest_pilot.tau == choice.taught_by["tau"] == 1.0 and "tau=1" in choice.loss


def test_the_title_says_that_the_smallest_of_tied_teachers_is_taken() -> None:
    choice = cm.pick(probes([0.048, 0.05, 0.03, 0.01], [0.7, 0.8, 0.9, 0.85], se=0.003), rule="highest derived_std")
    assert choice.table["teacher"].iloc[0] == "t1" and choice.teacher == "t0"
    assert ", the smallest of 2 tied teachers," in choice.title
    assert choice.smallest_pilot.teachers[0] == ("f", "t0")


def test_where_all_agree_the_pilot_compares_with_the_next_and_one_teacher_needs_none() -> None:
    choice = cm.pick(probes([0.02, 0.05], [0.7, 0.8]))
    assert choice.smallest_pilot.teachers == (("f", "t1"), ("f", "t0"))
    alone = cm.pick(probes([0.02], [0.7]))
    assert alone.smallest_pilot is None and alone.title.startswith("Nothing to compare")
