"""The numbers on ISATS in the pages are those that the scripts beside the data print."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def script(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_the_table_of_published_networks(capsys: pytest.CaptureFixture[str]) -> None:
    script("data/cifar10/isats_numbers.py").main()
    right, wrong = capsys.readouterr().out.split("Rows that the network gets wrong:")
    page = (ROOT / "docs/concepts/isats.md").read_text(encoding="utf-8")
    rows = [line for line in right.splitlines() if line.startswith("| ")]
    assert len(rows) == 9 and [row for row in rows if row not in page] == []
    free = [line for line in wrong.splitlines() if "`order`" in line or "`none`" in line]
    assert len(free) == 6 and all("| 100 % | 0 % | 0.00 |" in line for line in free)


def test_the_study_of_wrong_rows(capsys: pytest.CaptureFixture[str]) -> None:
    module = script("data/letters/wrong_rows.py")
    module.main(ROOT / "data/letters/wrong.csv")
    text = (ROOT / "data/letters/README.md").read_text(encoding="utf-8")
    lines = [line for line in capsys.readouterr().out.splitlines() if " less " in line and line[:3] != "mlp"]
    assert len(lines) == 5
    for line in lines:
        _, whole = line.split(": ", 1)
        overall, *thirds = whole.split("; ")
        cells = " | ".join([overall, *(third.split()[-1] for third in thirds)])
        assert f"| {cells} |" in text, line


def test_teachers_and_seeds_both_count_as_drawn() -> None:
    crossed = script("data/letters/wrong_rows.py").crossed
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):  # a variance of teachers, of seeds and of the rest
        table = rng.normal(size=(8, 1)) + rng.normal(size=(1, 8)) + rng.normal(size=(8, 8))
        _, low, high = crossed(table)
        covered += low < 0 < high
    assert 0.92 < covered / 400 < 0.995
