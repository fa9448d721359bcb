"""The numbers on rules in the pages are those that the script beside the data makes today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_rules_lose_among_the_shipped_networks(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "data" / "cifar10" / "rule_numbers.py"))["main"]()
    whole = capsys.readouterr().out.split("The second student")[0]
    readme = (ROOT / "data" / "cifar10" / "README.md").read_text(encoding="utf-8")
    rows = [line.split(": ")[1] for line in whole.splitlines() if ": |" in line]
    assert len(rows) == 5 and [row for row in rows if row not in readme] == []
