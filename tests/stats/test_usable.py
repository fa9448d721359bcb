"""Tables of probes as people bring them."""

from __future__ import annotations

import pandas as pd
import pytest

from capmismatch.errors import InputError
from capmismatch.selection.picking import pick

PROBES = pd.DataFrame(
    [
        ("f", teacher, params, 0, "val", tau, probe, value + order / 100, 0.01)
        for order, (teacher, params) in enumerate([("a", 10), ("b", 20), ("c", 30)])
        for probe, tau, value in [("accuracy", float("nan"), 0.7), ("derived_std", 4.0, 0.2), ("nll", float("nan"), 1)]
    ],
    columns=["family", "teacher", "params", "seed", "split", "tau", "probe", "value", "se"],
)


@pytest.mark.parametrize("column", ["value", "tau", "params", "se"])
def test_numbers_that_stand_as_texts_are_the_same_numbers(column):
    text = PROBES[column].astype(str).str.replace(".", ",") if column != "params" else PROBES[column].astype(str)
    expected, got = pick(PROBES, n_boot=50), pick(PROBES.assign(**{column: text}), n_boot=50)
    pd.testing.assert_frame_equal(got.table, expected.table)
    assert got.teacher == expected.teacher


def test_a_text_that_is_no_number_is_named():
    wrong = PROBES.assign(value=PROBES["value"].astype(str).replace("0.71", "high"))
    with pytest.raises(InputError, match="a number as value, got 'high' in row 3, teacher 'b', of the probes table"):
        pick(wrong)
