"""The numbers that data/kjv/README.md tells are those of its table of students."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from capmismatch.distillation.results import load_results

FOLDER = Path(__file__).parents[2] / "data" / "kjv"


def test_the_readme_tells_the_students_likelihoods() -> None:
    spec = importlib.util.spec_from_file_location("kjv_numbers", FOLDER / "kjv_numbers.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    results = load_results(FOLDER / "demo.csv")
    assert len(results) == 2 * 26
    nll, told = script.likelihoods(results), (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"plain training **{nll.loc[('gru16', 'CE'), '']:.3f}**" in told
    for teacher in ("gru16", "gru32", "gru64", "gru128"):
        (line,) = [line for line in told.splitlines() if line.startswith(f"| {teacher} |")]
        cells = [cell.strip(" *") for cell in line.split("|")[4:7]]
        labels = ["KD tau=1 w=1", "KD tau=2 w=1", "RKD"]
        assert cells == [f"{nll.loc[('gru16', label), teacher]:.3f}" for label in labels]
    noise = script.seed_noise(results)["gru16"]
    assert noise.round(3).to_list() == pytest.approx([0.007, 0.009, 0.011, 0.053])
