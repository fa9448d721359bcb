"""The numbers that data/kjv/README.md tells are those of its table of students."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from capmismatch.distillation.results import load_results

FOLDER = Path(__file__).parents[2] / "data" / "kjv"


README = (FOLDER / "README.md").read_text(encoding="utf-8")
SIX = [
    "KD tau=1 w=1",
    "ISATS order m=1 wrong=plain tau=1 w=1",
    "KD tau=2 w=1",
    "SKD",
    "TopK k=8 tail=renormalise",
    "RKD",
]
LOSSES = {
    "short": SIX,
    "long": SIX,
    "demo": ["KD tau=1 w=1", "KD tau=2 w=1", "RKD"],
}


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kjv_numbers", FOLDER / "kjv_numbers.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def _after(*marks: str) -> str:
    """The page from the last of some marks on, each looked for behind the one before."""
    told = README
    for mark in marks:
        told = told[told.index(mark) :]
    return told


@pytest.mark.parametrize(
    ("study", "student", "students", "teachers"),
    [
        ("short", "gru16", 222, 6),
        ("short", "gru32", 222, 6),
        ("long", "gru16", 222, 6),
        ("long", "gru32", 222, 6),
        ("demo", "gru16", 26, 4),
    ],
)
def test_the_readme_tells_the_students_likelihoods(study: str, student: str, students: int, teachers: int) -> None:
    results = load_results(FOLDER / f"{study}.csv")
    assert len(results) == 2 * students
    nll = _script().likelihoods(results)
    told = _after(f"`{study}.csv`", *([] if study == "demo" else [f"Student `{student}`"]))
    assert f"plain training **{nll.loc[(student, 'CE'), '']:.3f}**" in " ".join(told[:600].split())
    names = [name for name in nll if name]
    assert len(names) == teachers
    for teacher in names:
        line = next(line for line in told.splitlines() if line.startswith(f"| {teacher} |"))
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")[3:]]
        assert cells == [f"{nll.loc[(student, label), teacher]:.3f}" for label in LOSSES[study]]


@pytest.mark.parametrize("student", ["gru16", "gru32"])
def test_the_readme_tells_the_noise(student: str) -> None:
    script, results = _script(), load_results(FOLDER / "short.csv")
    least = script.least_difference(results)["least difference"]
    told = _after("`short.csv`", f"Student `{student}`").splitlines()
    line = next(line for line in told if line.startswith("| *two teachers differ"))
    cells = [cell.strip(" *") for cell in line.strip("|").split("|")[3:]]
    assert cells == [f"{least[(student, label)]:.3f}" for label in LOSSES["short"]]
    noise = script.seed_noise(load_results(FOLDER / "demo.csv"))["gru16"]
    assert noise.round(3).to_list() == pytest.approx([0.007, 0.009, 0.011, 0.053])


@pytest.mark.parametrize(
    ("study", "student"), [("short", "gru16"), ("short", "gru32"), ("long", "gru16"), ("long", "gru32")]
)
def test_the_readme_tells_the_named_differences_with_their_intervals(study: str, student: str) -> None:
    named = _script().named_difference(load_results(FOLDER / f"{study}.csv"), "gru192", "gru16")
    told = [line.strip() for line in _after("## The answers").splitlines()]
    line = next(line for line in told if line.startswith(f"| {study} | {student} |"))
    cells = [cell.strip() for cell in line.strip(" |").split("|")[2:]]
    rows = [named.loc[(student, label)] for label in LOSSES["short"]]
    assert cells == [f"{row['difference']:+.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in rows]
    assert all(row["all"] for row in rows)


def test_two_teachers_are_compared_by_students_t_after_effects_of_teacher_and_seed() -> None:
    """Against a paired test where there are two teachers: what an effect of each leaves is the paired noise."""
    generator = np.random.default_rng(0)
    nll = 4 + generator.normal(size=(2, 5)) + 3 * generator.normal(size=5)
    rows = [
        {"student": "s", "label": "KD", "teacher": teacher, "params": size, "seed": seed, "split": "test", "nll": value}
        for size, (teacher, values) in enumerate(zip(("a", "b"), nll, strict=True))
        for seed, value in enumerate(values)
    ]
    found = _script().named_difference(pd.DataFrame(rows), "b", "a", cells=1).loc[("s", "KD")]
    expected = stats.ttest_rel(nll[1], nll[0]).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_the_readme_tells_how_probes_rise_with_size() -> None:
    probes = pd.read_csv(FOLDER / "short-probes.csv")
    rising = _script().rise_with_size(probes, ["derived_std", "inherent_variance"], draws=200)
    told = rising["value"].round(2).unstack("tau")
    assert told.loc["derived_std"].to_dict() == {0.5: -0.92, 1.0: 0.99, 1.5: 0.99, 2.0: 0.99, 4.0: 0.95}
    assert (told.loc["inherent_variance"] >= 0.95).all() and (rising["low"] <= rising["value"]).all()
    means = probes[(probes["probe"] == "derived_std") & (probes["tau"] == 1)].groupby("params")["value"].mean()
    assert means.is_monotonic_increasing and len(means) == 6
