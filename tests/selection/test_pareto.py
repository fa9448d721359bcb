"""The Pareto front of student accuracy against teacher cost: by obvious loops, and beside `pick`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

import capmismatch as cm
from capmismatch.errors import InputError
from capmismatch.selection.pareto import on_front

SIZES = {"a": 1e5, "b": 2e5, "c": 4e5, "d": 8e5}
TRUE = {"": 0.60, "a": 0.61, "b": 0.64, "c": 0.63, "d": 0.66}


@pytest.fixture
def probes() -> pd.DataFrame:
    rows = [{"family": "f", "teacher": t, "params": size, "macs": 3e6 - size} for t, size in SIZES.items()]
    return pd.DataFrame(rows).assign(
        split="val", seed=0, tau=np.nan, probe="accuracy", value=[0.7, 0.8, 0.85, 0.9], se=0
    )


@pytest.fixture
def results() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"teacher": t, "student": "net", "seed": s, "split": split, "accuracy": true + 5e-4 * rng.standard_normal()}
        for t, true in TRUE.items()
        for s in range(3)
        for split in ("val", "test")
    ]
    table = pd.DataFrame(rows).assign(teacher_seed=0, tau=4.0, label="KD", method="KD")
    table["family"] = np.where(table["teacher"].eq(""), "", "f")
    table.loc[table["teacher"].eq(""), ["label", "method"]] = "CE"
    return table


@given(some.lists(some.tuples(some.integers(0, 3), some.sampled_from([1.0, 2.0, 3.0, np.nan])), min_size=1, max_size=7))
def test_the_front_by_an_obvious_loop(points: list[tuple[int, float]]) -> None:
    accuracy, cost = np.array([a for a, _ in points], float), np.array([c for _, c in points])
    expected = []
    for i, (mine, price) in enumerate(points):
        beaten = False
        for j, (other, others_price) in enumerate(points):
            cheaper, same = others_price < price, others_price == price
            if i != j and ((cheaper and other >= mine) or (same and (other > mine or (other == mine and j < i)))):
                beaten = True
        expected.append(not beaten and np.isfinite(price))
    assert on_front(accuracy[None], cost)[0].tolist() == expected


def test_teachers_that_a_smaller_one_equals_are_not_on_the_front(probes: pd.DataFrame, results: pd.DataFrame) -> None:
    table = cm.pareto_front(probes, results, n_boot=500)
    assert table["teacher"].tolist() == ["", "a", "b", "c", "d"]
    assert table["on_front"].tolist() == [True, True, True, False, True]
    assert (table["p_front"].round() == table["on_front"]).all() and table["params"].tolist() == [0, *SIZES.values()]
    np.testing.assert_allclose(table["accuracy"], list(TRUE.values()), atol=2e-3)
    choice = cm.pick(probes, results, n_boot=500)
    both = table.merge(choice.table, on="teacher", suffixes=("", "_pick"))
    np.testing.assert_allclose(both["accuracy"], both["accuracy_pick"], atol=2e-4)


def test_another_cost_is_another_front(probes: pd.DataFrame, results: pd.DataFrame) -> None:
    table = cm.pareto_front(probes, results, cost="macs", n_boot=500)
    assert table["teacher"].tolist() == ["", "d", "c", "b", "a"]
    assert table.loc[table["on_front"], "teacher"].tolist() == ["", "d"]
    some_known = probes.assign(macs=probes["macs"].where(probes["teacher"].ne("d")))
    table = cm.pareto_front(some_known, results, cost="macs", n_boot=500)
    assert table["teacher"].iloc[-1] == "d" and not table["on_front"].iloc[-1] and np.isnan(table["p_front"].iloc[-1])
    with pytest.raises(InputError, match="no 'macs' for any teacher"):
        cm.pareto_front(probes.drop(columns="macs"), results, cost="macs")
    with pytest.raises(InputError, match="cost"):
        cm.pareto_front(probes, results, cost="price")


def test_teachers_without_students_are_left_out(probes: pd.DataFrame, results: pd.DataFrame) -> None:
    table = cm.pareto_front(probes, results[results["teacher"].isin(["a", "b", "c"])], n_boot=500)
    assert table["teacher"].tolist() == ["a", "b", "c"]
