"""The line of Python that makes a chosen setting's loss, of what the results table holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tables

import capmismatch as cm
from capmismatch.distillation.results import complete, rare_columns
from capmismatch.selection.handover import label_of, loss_line, settings_in


@pytest.mark.parametrize(
    "method",
    [
        cm.Method("MatchKD", other="small", match="derived_std"),
        cm.Method("ClassKD", share=0.3),
        cm.Method("ATS", center="none"),
        cm.Method("TopK", options={"k": 5}),
    ],
    ids=lambda method: method.name,
)
def test_results_have_the_whole_setting_of_a_method(method: cm.Method) -> None:
    fields = {name: getattr(method, name) for name in ("tau", "tau_other", "tau_student", "weight")}
    row = {"teacher": "t", "method": method.name, "accuracy": 0.5, "label": method.label}
    table = complete(pd.DataFrame([row | fields | rare_columns(method)]))
    setting = settings_in([table])[method.label]
    line = loss_line(setting)
    assert label_of(setting) == method.label and line.startswith("loss = cm.Method(")
    made = line.removeprefix("loss = ").split(".criterion()")[0]
    assert eval(made, {"cm": cm}) == method


def test_a_column_of_that_name_of_another_method_is_none_of_its_setting() -> None:
    table = pd.DataFrame({"label": ["KD"], "method": "KD", "tau": 4.0, "share": 0.2, "options": "fast"})
    assert settings_in([table])["KD"] == {"name": "KD", "tau": 4.0, "tau_student": 4.0}


@pytest.mark.parametrize("tau", [4.0, np.nan])
def test_the_command_runs_as_printed_or_is_empty(tau: float) -> None:
    probes, results = tables.probes_table(tables.MLPS[:3]), tables.results_table(tables.MLPS[:3])
    probes, taught = (
        probes.assign(split="val"),
        results.query("method in ('CE', 'KD') and split == 'test'").assign(tau=tau),
    )
    taught = pd.concat([taught.assign(split=split) for split in ("val", "test")])
    choice = dataclasses.replace(cm.pick(probes, taught, n_boot=50), source="study.toml", no_command="")
    known = tau == 4.0
    assert ("--tau 4" in choice.command) == known and bool(choice.without_tau) == (not known)
