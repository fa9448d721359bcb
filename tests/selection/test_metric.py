"""Picking by the likelihood of a text: less is better, and what is lost is told in nats."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from capmismatch import plots
from capmismatch.errors import InputError
from capmismatch.report import page_tables
from capmismatch.selection.kept_choice import as_entries, from_entries
from capmismatch.selection.picking import pick

MEANS = {"small": 3.80, "middle": 3.70, "large": 3.76}  # nats with each teacher; plain training 3.84


def table_of_probes() -> pd.DataFrame:
    params = {"small": 2e4, "middle": 9e4, "large": 6e5}
    rows = [
        {"family": "gru", "teacher": name, "seed": 0, "params": size, "split": "val", "probe": probe, "value": value}
        for name, size in params.items()
        for probe, value in (("accuracy", 0.3), ("nll", 3.5 - np.log10(size) / 10))
    ]
    return pd.DataFrame(rows).assign(tau=np.nan, se=0.001, n=1000, macs=np.nan)


def table_of_results() -> pd.DataFrame:
    """Three seeds, of which some are better for all; accuracies tell another story than likelihoods."""
    rows = []
    for teacher, nll in {"": 3.84, **MEANS}.items():
        for seed, shift in enumerate((-0.02, 0.0, 0.02)):
            for split in ("val", "test"):
                wiggle = 0.001 * ((7 * seed + 3 * len(teacher)) % 5 - 2)
                rows.append({"teacher": teacher, "seed": seed, "split": split, "nll": nll + shift + wiggle})
    frame = pd.DataFrame(rows).assign(student="gru16", teacher_seed=0, tau=1.0, n=1000)
    frame["family"] = np.where(frame["teacher"] == "", "", "gru")
    frame["method"] = np.where(frame["teacher"] == "", "CE", "KD")
    return frame.assign(
        label=frame["method"], accuracy=0.2 + 0.05 * (frame["teacher"] == "large") + 0.001 * frame["seed"]
    )


def test_the_least_likelihood_wins_and_regret_is_in_nats() -> None:
    probes, results = table_of_probes(), table_of_results()
    assert pick(probes, results).teacher == "large"  # by accuracy
    choice = pick(probes, results, metric="nll")
    assert (choice.teacher, choice.grade, choice.metric.unit) == ("middle", "clear", "nats")
    table = choice.table.set_index("teacher")
    measured = results[results["split"] == "val"].groupby("teacher")["nll"].mean()
    for name, nll in MEANS.items():
        assert table.loc[name, "score"] == pytest.approx(measured[name], abs=0.005)  # drawn toward the peers a little
        assert table.loc[name, "low"] < table.loc[name, "score"] < table.loc[name, "high"]
        assert table.loc[name, "regret"] == pytest.approx(nll - 3.70, abs=0.01)
        assert table.loc[name, "gain"] == pytest.approx(3.84 - nll, abs=0.01)
    assert table["nll"].between(3.6, 3.9).all() and "accuracy" not in table
    assert choice.table["teacher"].tolist() == ["middle", "large", "small"]  # best first
    assert choice.students["nll"].item() == pytest.approx(3.70, abs=0.01)
    assert choice.students["ce"].item() == pytest.approx(3.84, abs=0.005)
    rules = choice.rules.set_index("rule")["regret"]
    assert rules["largest"] == pytest.approx(0.06, abs=0.01) and rules["smallest"] == pytest.approx(0.10, abs=0.01)
    said = " ".join([*choice.reasons, *choice.risks])
    assert "NLL 3.7" in said and "nats" in said and "points" not in said and "%  accuracy" not in said
    axes = plots.pick_chart(choice.table)
    assert ["NLL" in axes[0].get_xlabel(), "nats" in axes[-1].get_xlabel()] == [True, True]


def test_pages_and_kept_choices_are_in_nats() -> None:
    choice = pick(table_of_probes(), table_of_results(), metric="nll")
    assert "nll" in repr(choice) and "accuracy points" not in repr(choice)
    assert {"score, nats", "regret, nats", "P(best)"} <= set(choice.shown_teachers())
    assert not any("%" in header for header in choice.shown_teachers())
    again = from_entries(json.loads(json.dumps(as_entries(choice))))
    assert again.metric == choice.metric and again.reasons == choice.reasons
    pd.testing.assert_frame_equal(again.table, choice.table)
    old = as_entries(pick(table_of_probes(), table_of_results()))
    del old["comparison"]["metric"]  # of before there was one
    assert from_entries(old).metric.name == "accuracy"
    tables = [page_tables.teachers(choice, table_of_probes()), *page_tables.students(choice), page_tables.rules(choice)]
    headers = {column.header for table in tables for column in table.columns}
    assert {"student NLL (nats)", "test NLL (nats)", "gain (nats)", "regret (nats)"} <= headers
    assert not [header for header in headers if "points" in header]


def test_the_tolerance_is_in_nats() -> None:
    probes, results = table_of_probes(), table_of_results()
    assert pick(probes, results, metric="nll").cheapest == "middle"
    assert pick(probes, results, metric="nll", tolerance=0.2).cheapest == "small"


def test_a_choice_by_accuracy_is_what_it_was() -> None:
    probes, results = table_of_probes(), table_of_results()
    plain, with_nll = pick(probes, results.drop(columns="nll")), pick(probes, results, metric="accuracy")
    pd.testing.assert_frame_equal(plain.table, with_nll.table)
    assert plain.reasons == with_nll.reasons and "points" in " ".join(plain.reasons)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results.drop(columns="nll"), "the results table lacks the column 'nll'"),
        (lambda results: results.assign(nll=-1.0), "expected NLL >= 0 in nats, got -1.0 for student 'gru16'"),
        (lambda results: results[results["seed"] == 0], "every teacher has a single student seed"),
        (lambda results: None, "the metric 'nll' compares students: give their results"),
    ],
)
def test_what_is_refused(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pick(table_of_probes(), change(table_of_results()), metric="nll")
    with pytest.raises(InputError, match=r"metric must be one of \['accuracy', 'nll'\]"):
        pick(table_of_probes(), table_of_results(), metric="loss")
