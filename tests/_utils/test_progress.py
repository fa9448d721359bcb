"""Bars: seen in a terminal, a line in a log; and the words of a wait for the compiler."""

from __future__ import annotations

import io
import sys

import numba
import pytest

from capmismatch._utils import progress


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_and_a_terminal_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in ((io.StringIO(), "probe: 3 teachers\n"), (Terminal(), "3/3")):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.progress_bar(range(3), desc="probe", unit="teacher", file=stream) as bar:
            assert list(bar) == [0, 1, 2]
        assert shown in stream.getvalue()
        with progress.progress_bar(range(3), desc="quiet", show=False) as bar:
            assert list(bar) == [0, 1, 2]
        assert "quiet" not in stream.getvalue()


def test_compiling_is_told_once_and_only_where_it_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    kernel, second = numba.njit(lambda x: x + 1), numba.njit(lambda x: x + 2)
    with progress.progress_bar(desc="outer", show=True, total=1), progress.telling_of_compiling():
        kernel(1)
        second(1)
    assert stream.getvalue().count(progress.COMPILING) == 1
    with progress.telling_of_compiling():
        kernel(2)  # compiled already
    assert stream.getvalue().count(progress.COMPILING) == 1
