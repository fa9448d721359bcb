"""What probes, class affinities and restored variances are of each example of one teacher, read from a bank in parts.

Rows are read class by class, so that the mean soft labels that some probes need are complete after a few rows, and no
(C, C) matrix is held. A row's numbers come from that row and its class alone: neither the size of the groups nor the
number of threads changes a bit of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._class_means import AroundClass
from capmismatch._softened import (
    Asymmetric,
    LogitParts,
    Softened,
    WrongAlone,
    add_to_classes,
    class_probabilities,
    in_octaves,
    kernels,
    take_apart,
)  # fmt: skip
from capmismatch._threads import blocks, each
from capmismatch.bank import LogitBank
from capmismatch.probes import REGISTRY, Probe
from capmismatch.temperature import ISATSSetting, origin_of

GROUP_LOGITS = 1 << 20  # a thread works on at a time: large enough that calls cost little, small enough for memory
COLUMN_BYTES = 64 << 20  # of the classes whose probabilities over all examples are held at a time
SORTED = 1 << 22  # probabilities of some classes over all examples that a thread sorts at a time

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Values = dict[tuple[str, float | None], Floats]


def threads() -> int:
    """As many as torch uses. Without compiled loops one: tensor operations use more by themselves."""
    return torch.get_num_threads() if kernels is not None else 1


def read(bank: LogitBank, key: str, rows: Ints) -> LogitParts:
    """Logits of one teacher, taken apart; that they are finite has been checked when they entered the bank."""
    return take_apart(_widened(bank.take(key, rows)), torch.from_numpy(bank.rows.labels[rows]))


def _widened(logits: NDArray[Any]) -> Tensor:
    """Half precision becomes single: compiled loops, like the processor, know no halves."""
    return torch.from_numpy(logits).to(torch.promote_types(torch.from_numpy(logits).dtype, torch.float32))


def row_blocks(bank: LogitBank, rows: Ints) -> list[slice]:
    """Slices of `rows` that a thread works on at a time."""
    return blocks(len(rows), max(1, GROUP_LOGITS // len(bank.classes)))


def class_groups(bank: LogitBank, rows: Ints) -> list[Ints]:
    """Places in `rows` that a thread works on at a time: all examples of some classes."""
    return groups_of_classes(bank.rows.labels[rows], GROUP_LOGITS // len(bank.classes))


def values_of(
    bank: LogitBank, key: str, taus: Sequence[float], probes: Sequence[Probe], split: str | None
) -> Values:
    """(probe, tau) -> (n,) values in the order of the bank's rows; tau is None for probes that do not depend on it."""
    kinds: dict[str, list[Probe]] = defaultdict(list)
    for p in probes:
        kinds[p.kind].append(p)
    rows = bank.select(split)
    temperatures = in_octaves(taus if any(p.tempered for p in probes) else [])
    of_examples = [(p, tau) for p in kinds["example"] for tau in (temperatures if p.tempered else [None])]
    of_spread = [(p, tau) for p in kinds["spread"] for tau in temperatures]
    found: Values = {(p.name, tau): np.empty(len(rows)) for p, tau in [*of_examples, *of_spread]}
    confidence, correct, logsumexp = np.empty((3, len(rows)))
    bank.take(key, rows[:0])  # the bytes are checked here, not in every thread

    def run(places: Ints) -> None:
        """Fill the values of the examples at `places`, which are all of their classes."""
        classes, group = np.unique(bank.rows.labels[rows[places]], return_inverse=True)
        parts = row_blocks(bank, places)

        @lru_cache(maxsize=1)  # nearly always there is one part, read once
        def softened(part: int) -> dict[float | None, Softened]:
            raw = read(bank, key, rows[places[parts[part]]])
            at_each = in_octaves({1.0, *temperatures})
            own: dict[float | None, Softened] = dict(zip(at_each, Softened.at_each(raw, at_each), strict=True))
            return own | {None: own[1.0]}

        means = torch.zeros((len(temperatures), len(classes), len(bank.classes)), dtype=torch.float64)
        for part, here in enumerate(parts):
            at, own = places[here], softened(part)
            confidence[at], correct[at], logsumexp[at] = own[1].confidence, own[1].raw.correct, own[1].logsumexp
            for p, tau in of_examples:
                found[p.name, tau][at] = p.compute(own[tau])
            if of_spread:
                add_to_classes([own[tau] for tau in temperatures], torch.from_numpy(group[here]), means)
        if not of_spread:
            return
        means /= torch.from_numpy(np.bincount(group))[:, None]
        for part, here in enumerate(parts):
            at, own = places[here], softened(part)
            around = AroundClass.of_each([own[tau] for tau in temperatures], means, torch.from_numpy(group[here]))
            its_class = dict(zip(temperatures, around, strict=True))
            for p, tau in of_spread:
                found[p.name, tau][at] = p.compute(own[tau], its_class[tau])

    if any(kinds[kind] for kind in ("example", "spread", "calibration", "classes")):
        each(run, class_groups(bank, rows), threads())
    for p in kinds["calibration"]:
        found[p.name, None] = p.compute(torch.from_numpy(confidence), torch.from_numpy(correct)).numpy()
    for p in kinds["classes"]:
        found[p.name, None] = _over_classes(p, bank, key, rows, logsumexp)
    for p in kinds["family"]:
        found[p.name, None] = np.array([p.compute(bank[key].params or np.nan)])
    return found


def groups_of_classes(labels: Ints, size: int) -> list[Ints]:
    """Places of the examples, sorted by class, cut between classes into groups of at most `size`, or one class.

    Examples
    --------
    >>> groups_of_classes(np.array([1, 0, 1, 2]), 3)
    [array([1, 0, 2]), array([3])]
    """
    order = np.argsort(labels, kind="stable")
    ends = [*(np.flatnonzero(np.diff(labels[order])) + 1), len(order)]
    cuts = [0]
    for end, following in zip(ends, [*ends[1:], math.inf], strict=True):
        if following - cuts[-1] > size:
            cuts.append(int(end))
    return [order[start:end] for start, end in pairwise(cuts)]


def _over_classes(p: Probe, bank: LogitBank, key: str, rows: Ints, logsumexp: Floats) -> Floats:
    """A probe that looks at each class's probabilities over all examples: some classes at a time, to bound memory."""
    at_once = max(1, min(64, SORTED // max(1, len(rows))))
    width = at_once * bank.take(key, rows[:0]).itemsize * max(1, len(rows))
    total = np.zeros(len(rows))
    for classes in blocks(len(bank.classes), at_once * max(1, COLUMN_BYTES // width)):
        for share in _shares(p, bank, key, rows, logsumexp, classes, at_once):
            total += share
    return total / len(bank.classes)


def _shares(
    p: Probe, bank: LogitBank, key: str, rows: Ints, logsumexp: Floats, classes: slice, at_once: int
) -> Iterator[Floats]:
    """What the probe gives for `at_once` of some classes after the other, always in the same order."""
    labels = torch.from_numpy(bank.rows.labels[rows])
    columns = np.empty((classes.stop - classes.start, len(rows)), bank.take(key, rows[:0]).dtype)
    parts = blocks(len(columns), at_once)
    found: dict[int, Floats] = {}

    def fill(part: slice) -> None:
        columns[:, part] = bank.take(key, rows[part], classes).T

    def compute(part: slice) -> None:
        probs = class_probabilities(_widened(columns[part]), torch.from_numpy(logsumexp))
        is_class = torch.arange(classes.start + part.start, classes.start + part.stop)[:, None] == labels
        found[part.start] = p.compute(probs.T, is_class.T).numpy()

    each(fill, row_blocks(bank, rows), threads())
    each(compute, parts, threads())
    return (found[part.start] for part in parts)


def affinity_matrix(bank: LogitBank, key: str, tau: float, split: str | None) -> Tensor:
    """(C, C), row y the mean of q~ over the examples of class y; NaN in the rows of classes without examples."""
    rows, classes = bank.select(split), len(bank.classes)
    labels = bank.rows.labels[rows]
    sums = torch.zeros((1, classes, classes), dtype=torch.float64)
    bank.take(key, rows[:0])  # the bytes are checked here, not in every thread

    def run(places: Ints) -> None:
        for part in row_blocks(bank, places):
            raw = read(bank, key, rows[places[part]])
            add_to_classes([WrongAlone.of(raw, tau)], raw.labels, sums)

    each(run, class_groups(bank, rows), threads())
    return sums[0] / torch.from_numpy(np.bincount(labels, minlength=classes))[:, None]


def restored_values(
    bank: LogitBank, key: str, setting: ISATSSetting, tau_other: float, split: str | None
) -> dict[tuple[str, str], Floats]:
    """(method, quantity) -> (n,) values, and ("", "right") where the arg max is the target."""
    rows = bank.select(split)
    shape = ("target_prob", "derived_variance", "derived_std", "inherent_variance")
    found = {(method, name): np.empty(len(rows)) for method in ("TS", "ATS", "ISATS") for name in (*shape, "flipped")}
    found |= {("ISATS", name): np.empty(len(rows)) for name in ("at_bound", "tau_other_mean")}
    found["", "right"] = np.empty(len(rows))
    bank.take(key, rows[:0])  # the bytes are checked here, not in every thread

    def run(part: slice) -> None:
        raw = read(bank, key, rows[part])
        search = setting.search(raw)
        found["", "right"][part] = raw.correct
        found["ISATS", "at_bound"][part], found["ISATS", "tau_other_mean"][part] = search.at_bound, search.tau_other
        ts = Asymmetric.of_two(raw, setting.tau_target, setting.tau_target, torch.zeros_like(raw.mean_logit))
        ats = Asymmetric.of_two(raw, setting.tau_target, tau_other, origin_of(raw, setting.center))
        for method, softened in (("TS", ts), ("ATS", ats), ("ISATS", search.softened)):
            found[method, "flipped"][part] = search.flipped if method == "ISATS" else softened.flipped
            for name in shape:
                found[method, name][part] = REGISTRY[name].compute(softened)

    each(run, row_blocks(bank, rows), threads())
    return found
