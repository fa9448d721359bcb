"""Labels of tables of earlier versions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from capmismatch._utils.setting_labels import must_be_a_label, with_current_labels
from capmismatch.errors import InputError
from capmismatch.plots._common import rows_where
from capmismatch.stats.matching import rows_of_split, with_teacher

OLD = pd.DataFrame(
    [
        ("KD tau=4", "KD", 4.0, 1.0, "KD tau=4 student tau=1"),
        ("KD tau=4 student tau=4", "KD", 4.0, 4.0, "KD tau=4"),
        ("KD tau=4 student tau=2 w=0.9", "KD", 4.0, 2.0, "KD tau=4 student tau=2 w=0.9"),
        ("KD tau=4 w=0.9", "KD", 4.0, 1.0, "KD tau=4 student tau=1 w=0.9"),
        ("KD tau=1 w=1", "KD", 1.0, 1.0, "KD tau=1 w=1"),
        ("KD tau=40", "KD", 40.0, 1.0, "KD tau=40 student tau=1"),
        ("KD tau=4", "KD", 4.0, np.nan, "KD tau=4"),
        ("mine", "KD", 4.0, 1.0, "mine"),
        ("ATS tau=4/3", "ATS", 4.0, 1.0, "ATS tau=4 other tau=3"),
        ("ISATS none tau=4", "ISATS", 4.0, 1.0, "ISATS unconstrained tau=4"),
        ("CE", "CE", np.nan, np.nan, "CE"),
    ],
    columns=["label", "method", "tau", "tau_student", "now"],
)


def test_old_labels_become_those_of_now_once():
    found = with_current_labels(OLD)
    assert found["label"].tolist() == OLD["now"].tolist()
    assert with_current_labels(found)["label"].tolist() == OLD["now"].tolist()
    pd.testing.assert_frame_equal(found.drop(columns="label"), OLD.drop(columns="label"))


def test_other_tables_stay_as_they_are():
    links = OLD[["label", "method", "tau"]]
    assert with_current_labels(links) is links


def test_a_former_label_is_named_by_what_it_is_now() -> None:
    with pytest.raises(InputError, match=r"did you mean 'KD tau=4 student tau=1'\? 'KD tau=4' now means Hinton's"):
        must_be_a_label("KD tau=4", ["CE", "KD tau=4 student tau=1"])
    must_be_a_label("KD tau=4", ["KD tau=4", "KD tau=4 student tau=1"])


def test_tables_are_read_with_current_labels_wherever_they_enter() -> None:
    table = pd.DataFrame({"teacher": ["a", "b"], "split": "test", "accuracy": 0.5, "label": "KD tau=4", "method": "KD"})
    table = table.assign(tau=4.0, tau_student=1.0)
    for read in (with_teacher(table), rows_of_split(table, "test", "it"), rows_where(table, "it", split="test")):
        assert set(read["label"]) == {"KD tau=4 student tau=1"}
