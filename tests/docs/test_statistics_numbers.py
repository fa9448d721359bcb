"""The numbers on teachers, methods and statistics in the pages are those that scripts print."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import capmismatch as cm

ROOT = Path(__file__).parents[2]
STUDY = (ROOT / "data/cifar10/README.md").read_text(encoding="utf-8")


def script(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(file: str) -> str:
    """A page as one line."""
    return " ".join((ROOT / file).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("results", ["results.csv", "second.csv"])
def test_the_table_of_methods(results: str) -> None:
    rows = "\n".join(script("data/cifar10/study_numbers.py").methods(results))
    assert rows in STUDY


def test_the_default_constraint_as_judged_in_the_pages() -> None:
    less = dict(
        line.strip().split(": ")
        for line in script("data/cifar10/study_numbers.py").default()
        if ": " in line[2:] and "[" in line
    )
    assert len(less) == 7
    for name in ("ISATS, order, margin 0", "ISATS, anchor", "ISATS, no constraint", "ATS, tau 4 and 3"):
        number = less[name].strip("*")
        assert number in " ".join(STUDY.split())
        for page in ("docs/concepts/isats.md", "data/README.md"):
            short = number.replace("+", "")
            assert short in flat(page).replace("+", "") or (name.startswith("ATS") and page.endswith("isats.md"))


def test_whether_teachers_differ() -> None:
    lines = list(script("data/cifar10/study_numbers.py").teachers())
    text = " ".join(STUDY.split())
    found = re.findall(r"F\(11, 11\) = ([\d.]+), p = 0?(\.\d+)", "\n".join(lines[1:9]))
    assert len(found) == 8
    for f, p in found:
        assert (f"{f}, {p}" in text or f"F = {f}, p = {p}" in text) or f"{float(f):.1f}, p < .001" in text
    assert sum(float(p) >= 0.05 for _, p in found) == 7 and "In seven of eight settings that is not shown" in text
    assert "seven of eight settings" in flat("README.md")


def test_what_size_costs() -> None:
    text = " ".join(STUDY.split())
    for line in script("data/cifar10/study_numbers.py").sizes():
        value, low, high = (float(number) for number in re.findall(r"[-+]\d\.\d", line))
        sides = {f"{abs(value)} [{low}, {high}]", f"{abs(value)} [{-high}, {-low}]"}
        assert any(side in text for side in sides), line


def test_the_letters_judged_with_one_noise() -> None:
    text = flat("data/letters/README.md")
    table = cm.setting_differences(
        cm.load_results(ROOT / "data/letters/constraints.csv"), against="ISATS order m=0 tau=4"
    )
    for row in table[table["label"].ne("CE")].to_dict("records"):
        value, low, high = (f"{100 * row[name]:+.2f}" for name in ("value", "low", "high"))
        established = row["low"] > 0 or row["high"] < 0
        assert established == (f"{value} [{low}, {high}]" in text), row["label"]
        assert (row["high_of_others"] < 0) == (row["label"] == "ISATS unconstrained tau=4")


def test_the_simulations_of_the_statistics_page() -> None:
    tables = script("benchmarks/bench_inference.py").markdown(pd.read_csv(ROOT / "benchmarks/inference.csv"))
    page = (ROOT / "docs/concepts/statistics.md").read_text(encoding="utf-8")
    assert list(tables) == ["settings", "best", "single", "probes"] or len(tables) == 4
    for table in tables.values():
        assert [row for row in table.splitlines() if row not in page] == []


def test_a_small_simulation_runs() -> None:
    bench = script("benchmarks/bench_inference.py")
    assert bench.best(60, teachers=6, seeds=2, spread=0.5)["in the set"] > 90
    assert bench.settings(4, seeds=2, by_seed=0.5, by_teacher=0.0, teachers=4).keys() == {
        "others",
        "these",
        "t over teachers",
    }
    assert bench.probes(20, teachers=7, link=0.0, alike=0.9)["max-T"] < 25
    assert bench.single(40, course="plateau")["two runs"] < 15
