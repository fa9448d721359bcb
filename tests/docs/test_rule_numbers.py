"""The numbers on rules in the pages are those that the script beside the data makes today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from capmismatch.selection import rules

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_rules_lose_among_the_shipped_networks(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "data" / "cifar10" / "rule_numbers.py"))["main"]()
    whole, rest = capsys.readouterr().out.split("In short\n")
    short = rest.split("\n\n")[0]
    readme, howto = (
        (ROOT / page).read_text(encoding="utf-8") for page in ("data/cifar10/README.md", "docs/howto/pick.md")
    )
    docstring = Path(rules.__file__).read_text(encoding="utf-8")
    rows = [line.split(": ")[1] for line in whole.splitlines() if ": |" in line]
    assert len(rows) == 5 and [row for row in rows if row not in readme] == []
    rows = [line.split(": ")[1] for line in short.splitlines() if ": |" in line]
    assert len(rows) == 3 and [row for row in rows if row not in howto] == []
    assert [row for row in rows if " ".join(row.strip("| ").split(" | ")) not in docstring] == []
