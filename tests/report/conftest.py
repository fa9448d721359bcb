from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with the file of that name in golden/; with WRITE_GOLDEN set, write the file instead."""

    def compare(name: str, text: str) -> None:
        file = Path(__file__).parent / "golden" / name
        if "WRITE_GOLDEN" in os.environ:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        expected = file.read_text(encoding="utf-8")
        assert text.splitlines() == expected.splitlines(), "reworded on purpose? run again with WRITE_GOLDEN=1"

    return compare
