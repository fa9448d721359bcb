"""Published results: what is in the table, its filters, and the scores of rules on its ladders."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capmismatch.data.published import load_published
from capmismatch.errors import InputError

RULES = Path(__file__).parents[2] / "data" / "published" / "rules.py"


@pytest.mark.parametrize(("kind", "rows"), [("table", 1259), ("digitised", 26), ("runs", 214)])
def test_every_figure_has_a_source_and_is_a_share(kind: str, rows: int) -> None:
    frame = load_published(kind)
    assert len(frame) == rows
    assert frame["accuracy"].between(0, 1).all()
    assert frame["source"].str.startswith("https://").all()
    without = frame["teacher"].eq("")
    assert (frame["method"].eq("CE") == without).mean() > 0.9
    assert not frame["student"].eq("").any()


def test_copies_are_left_out_unless_asked_for() -> None:
    every = load_published(copies=True)
    assert len(every) == 1468 and every["copied"].sum() == 209
    assert not load_published()["copied"].any()


def test_filters() -> None:
    rows = load_published(dataset="cifar-100", method=["KD", "dkd"], paper="Tian*")
    assert set(rows["dataset"]) == {"CIFAR-100"} and set(rows["method"]) <= {"KD", "DKD"}
    assert rows["paper"].str.startswith("Tian").all()
    assert len(load_published(method="KD")) < len(load_published())
    for wrong in ({"method": "magic"}, {"kind": "runs", "paper": "Tian*"}, {"kind": "rumours"}):
        with pytest.raises(InputError):
            load_published(**wrong)  # type: ignore[arg-type]


def test_rules_are_scored_on_its_ladders() -> None:
    specification = importlib.util.spec_from_file_location("published_rules", RULES)
    assert specification is not None and specification.loader is not None
    rules = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(rules)
    ladder = pd.DataFrame({"params": [1, 2, 3], "teacher_accuracy": [0.7, 0.9, 0.8], "accuracy": [0.72, 0.71, 0.69]})
    lost = {"most accurate": 1, "largest": 3, "smallest": 0, "least accurate": 0, "random": 4 / 3}
    assert rules.losses(ladder) == pytest.approx(lost)
    table, kept = rules.score(), pd.read_csv(RULES.with_suffix(".csv"))
    np.testing.assert_allclose(table.select_dtypes("number"), kept.select_dtypes("number"), atol=6e-4)
    whole = table[table["ladders"].eq("all")].set_index("rule")
    assert set(whole["n"]) == {163}
    assert whole["low"].lt(whole["regret"]).all() and whole["high"].gt(whole["regret"]).all()
