from __future__ import annotations

from collections.abc import Iterator

import pytest

from capmismatch.diagnostics import checks


@pytest.fixture(scope="module", autouse=True)
def guessers_may_teach() -> Iterator[None]:
    """Teachers here are trained for a moment and guess: these tests are of what a study does, not of what it finds."""
    least, checks.LEAST_ROWS = checks.LEAST_ROWS, 10**9
    yield
    checks.LEAST_ROWS = least
