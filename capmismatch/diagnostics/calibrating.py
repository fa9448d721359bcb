"""The temperature that calibrates a teacher, from one reading of all its rows.

Some rows tell where it lies, roughly. While all rows are read for other probes, the series of their slopes about that
temperature is kept, and the search among all of them reads no row again. Where it ends too far from there, all are read
once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from capmismatch._numerics.devices import thread_count, to_numpy
from capmismatch._numerics.rate_series import ORDERS, WITHIN, series, slope_near
from capmismatch._numerics.softmax import LogitParts, Parts
from capmismatch._numerics.spacing import spaced
from capmismatch._numerics.threads import run_in_threads
from capmismatch.probes.temperatures import calibrating_rate, slopes_of

SOME_ROWS = 2048
"""How many rows tell where to look: their temperature is within some 5 % of that of all."""

ROUGHLY = 1e-2  # relative
FAR = 0.4
"""Relative distance within which the series still leads to where the temperature is, roughly."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Readable(Protocol):
    """What is asked of a teacher's rows: `capmismatch.diagnostics.example_values.TeacherRows`."""

    device: torch.device
    condensed: bool

    @property
    def rates(self) -> tuple[float, float]:
        """Inverse temperatures between which one can be searched."""

    def __len__(self) -> int: ...

    def blocks(self, count: int) -> list[slice]:
        """Slices of `count` rows that a thread works on at a time."""

    def read(self, positions: Any) -> Parts:
        """Some rows, taken apart."""


class Calibration:
    """Slopes of the NLL of all n rows of a teacher, at inverse temperatures near the one that calibrates some of them.

    Parameters
    ----------
    teacher : Readable
        Whose rows. Of condensed ones nothing is kept: to read them again costs little.
    """

    def __init__(self, teacher: Readable) -> None:
        self._teacher, n = teacher, len(teacher)
        self._near = math.nan if teacher.condensed or not n else _roughly(teacher)
        kept = 0 if math.isnan(self._near) else n
        self._gap, self._terms = np.empty(kept), np.empty((ORDERS, kept))

    def add(self, positions: Ints, raw: Parts) -> None:
        """Take in some rows."""
        if math.isnan(self._near):
            return
        assert isinstance(raw, LogitParts)
        self._gap[positions] = to_numpy(raw.target_logit - raw.max_wrong_logit)
        self._terms[:, positions] = to_numpy(series(raw, self._near))

    def values(self, compute: Callable[..., Any]) -> Floats:
        """Values of `capmismatch.probes.temperatures.calibrating_values`, once all rows have been taken in."""
        for read_again in (False, True):
            if read_again:
                self._start_nearer()
            if math.isnan(self._near):
                break
            values: Floats = compute(self._slopes, self._bounds(WITHIN))
            if not np.isnan(values).any():
                return values
        again: Floats = compute(self._slopes_read_again, self._teacher.rates)
        return again

    def _bounds(self, within: float) -> tuple[float, float]:
        least, most = self._teacher.rates
        return max(least, self._near * (1 - within)), min(most, self._near * (1 + within))

    def _start_nearer(self) -> None:
        """Take in all rows about the temperature to which the series leads; none where it leads nowhere."""
        if not math.isnan(self._near):
            self._near = calibrating_rate(self._slopes, self._bounds(FAR), ROUGHLY)
        if math.isnan(self._near):
            return
        teacher, every = self._teacher, np.arange(len(self._teacher))
        run_in_threads(
            lambda block: self.add(every[block], teacher.read(every[block])),
            teacher.blocks(len(every)),
            thread_count(teacher.device),
        )

    def _slopes(self, rates: Sequence[float]) -> Floats:
        return np.stack([slope_near(self._terms, self._gap, self._near, rate) for rate in rates])

    def _slopes_read_again(self, rates: Sequence[float]) -> Floats:
        teacher, slopes = self._teacher, np.empty((len(rates), len(self._teacher)))

        def fill(block: slice) -> None:
            slopes[:, block] = to_numpy(slopes_of(teacher.read(block), rates))

        run_in_threads(fill, teacher.blocks(len(teacher)), thread_count(teacher.device))
        return slopes


def _roughly(teacher: Readable) -> float:
    """The inverse temperature that calibrates some rows, evenly spaced; NaN where none within the bounds does."""
    some = spaced(len(teacher), SOME_ROWS)
    parts = [teacher.read(some[block]) for block in teacher.blocks(len(some))]

    def slopes(rates: Sequence[float]) -> Floats:
        return to_numpy(torch.cat([slopes_of(part, rates) for part in parts], dim=1))

    return calibrating_rate(slopes, teacher.rates, ROUGHLY)
