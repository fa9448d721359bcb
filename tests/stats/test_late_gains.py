"""What students still gained in the last part of their training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy
import tables

from capmismatch.errors import InputError
from capmismatch.stats.late_gains import is_measured, late_gains


def test_the_gain_is_the_mean_over_runs_with_its_t_interval() -> None:
    curves = tables.curves_table(seeds=3)
    curves["val_accuracy"] += np.random.default_rng(0).normal(0, 0.003, len(curves))
    rows = curves[curves["label"].eq("KD tau=4")]
    wide = rows.pivot_table(index=["teacher", "seed"], columns="epoch", values="val_accuracy")
    gains = 100 * (wide[10] - wide[8])
    low, high = scipy.stats.t.interval(0.95, len(gains) - 1, gains.mean(), scipy.stats.sem(gains))
    row = late_gains(curves).set_index("label").loc["KD tau=4"]
    assert row["runs"] == len(gains) == 9 and row["epochs"] == 10
    assert row[["gain", "low", "high"]].tolist() == pytest.approx([gains.mean(), low, high])


@pytest.mark.parametrize(("late", "codes"), [(0.004, ["", "CM057"]), (0.0, ["", ""]), (0.001, ["", ""])])
def test_only_a_gain_that_matters_is_a_finding(late: float, codes: list[str]) -> None:
    found = late_gains(tables.curves_table(late=late))
    assert found["label"].tolist() == ["CE", "KD tau=4"] and found["findings"].tolist() == codes
    assert found["gain"].tolist() == pytest.approx([0.0, 200 * late])


def test_a_gain_that_runs_do_not_agree_on_is_no_finding() -> None:
    curves = tables.curves_table(seeds=2, late=0.0)
    last = curves["epoch"].eq(10) & curves["seed"].eq(0) & curves["label"].eq("CE")
    row = late_gains(curves.assign(val_accuracy=curves["val_accuracy"] + 0.02 * last)).set_index("label").loc["CE"]
    assert row["gain"] == pytest.approx(1.0) and row["low"] < 0 and row["findings"] == ""


def test_of_texts_a_gain_is_a_fall_of_the_likelihood_loss() -> None:
    curves = tables.curves_table(late=0.01)
    curves = curves.assign(val_nll=3 - curves["val_accuracy"]).drop(columns="val_accuracy")
    row = late_gains(curves).set_index("label").loc["KD tau=4"]
    assert row["gain"] == pytest.approx(0.02) and row["findings"] == "CM057"


def test_runs_that_did_not_measure_their_epochs_are_left_out() -> None:
    curves = tables.curves_table()
    curves.loc[curves["seed"].eq(1), "val_accuracy"] = np.nan
    assert late_gains(curves)["runs"].tolist() == [1, 3] and is_measured(curves)
    unmeasured = curves.assign(val_accuracy=np.nan)
    assert not is_measured(unmeasured)
    with pytest.raises(InputError, match="curves = true"):
        late_gains(unmeasured)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[table["epoch"].eq(1)], "two epochs or more"),
        (lambda table: table.drop(columns="seed"), "seed"),
        (lambda table: "curves", "table"),
    ],
    ids=["one epoch", "no seed", "no table"],
)
def test_what_is_no_table_of_curves_is_refused(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        late_gains(change(tables.curves_table()))


@pytest.mark.parametrize("last", [0, 1, float("nan"), "half"])
def test_the_last_part_is_a_share(last: object) -> None:
    with pytest.raises(InputError, match="last"):
        late_gains(tables.curves_table(), last=last)  # type: ignore[arg-type]


def test_a_run_of_two_epochs_gains_what_lies_between_them() -> None:
    curves = tables.curves_table(epochs=2)
    rows = curves[curves["label"].eq("CE")]
    means = 100 * rows.groupby("epoch")["val_accuracy"].mean()
    assert pd.Series(late_gains(curves)["gain"]).iloc[0] == pytest.approx(means[2] - means[1])
