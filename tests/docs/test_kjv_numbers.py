"""The numbers that data/kjv/README.md tells are those of its table of students."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from capmismatch.distillation.results import load_results

FOLDER = Path(__file__).parents[2] / "data" / "kjv"


README = (FOLDER / "README.md").read_text(encoding="utf-8")
LOSSES = {
    "short": [
        "KD tau=1 w=1",
        "ISATS order m=1 wrong=plain tau=1 w=1",
        "KD tau=2 w=1",
        "SKD",
        "TopK k=8 tail=renormalise",
        "RKD",
    ],
    "demo": ["KD tau=1 w=1", "KD tau=2 w=1", "RKD"],
}


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kjv_numbers", FOLDER / "kjv_numbers.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize(("study", "students", "teachers"), [("short", 74, 6), ("demo", 26, 4)])
def test_the_readme_tells_the_students_likelihoods(study: str, students: int, teachers: int) -> None:
    results = load_results(FOLDER / f"{study}.csv")
    assert len(results) == 2 * students
    nll, told = _script().likelihoods(results), README[README.index(f"`{study}.csv`") :]
    assert f"plain training **{nll.loc[('gru16', 'CE'), '']:.3f}**" in " ".join(told[:600].split())
    names = [name for name in nll if name]
    assert len(names) == teachers
    for teacher in names:
        line = next(line for line in told.splitlines() if line.startswith(f"| {teacher} |"))
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")[3:]]
        assert cells == [f"{nll.loc[('gru16', label), teacher]:.3f}" for label in LOSSES[study]]


def test_the_readme_tells_the_noise() -> None:
    script = _script()
    noise = script.seed_noise(load_results(FOLDER / "demo.csv"))["gru16"]
    assert noise.round(3).to_list() == pytest.approx([0.007, 0.009, 0.011, 0.053])
    least = script.least_difference(load_results(FOLDER / "short.csv"))["least difference"]
    line = next(line for line in README.splitlines() if line.startswith("| *two teachers differ"))
    cells = [cell.strip(" *") for cell in line.strip("|").split("|")[3:]]
    assert cells == [f"{least[('gru16', label)]:.3f}" for label in LOSSES["short"]]


def test_the_readme_tells_how_probes_rise_with_size() -> None:
    probes = pd.read_csv(FOLDER / "short-probes.csv")
    rising = _script().with_size(probes, ["derived_std", "inherent_variance"])
    assert rising.loc["derived_std"].round(2).to_dict() == {0.5: -0.86, 1.0: 0.99, 2.0: 0.99}
    assert (rising.loc["inherent_variance"] > 0.98).all()
    means = probes[(probes["probe"] == "derived_std") & (probes["tau"] == 1)].groupby("params")["value"].mean()
    assert means.is_monotonic_increasing and len(means) == 6
