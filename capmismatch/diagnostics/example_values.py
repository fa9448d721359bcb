"""What probes, class affinities and restored variances are of each example of one teacher, read from a bank in parts.

Rows are read class by class, so that the mean soft labels that some probes need are complete after a few rows, and no
(C, C) matrix is held. A row's numbers come from that row and its class alone. Whatever the number of threads and the
size of the groups, what is counted is the same to the last bit; other numbers are the same to some 1e-15 of themselves,
because a processor rounds logarithms in vectors and one by one in different ways, and both decide which it does.
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

from capmismatch._numerics.class_means import AroundClass, mean_by_class
from capmismatch._numerics.devices import at_once, on_host, threads
from capmismatch._numerics.softmax import (
    Asymmetric,
    LogitParts,
    Softened,
    WrongAlone,
    class_probabilities,
    in_octaves,
    take_apart,
)
from capmismatch._numerics.threads import blocks, each, in_order
from capmismatch.data.bank import LogitBank
from capmismatch.diagnostics.means import Means, mean
from capmismatch.probes import REGISTRY, Probe
from capmismatch.temperature import ISATSSetting, origin_of

GROUP_LOGITS = 1 << 20  # a thread works on at a time: large enough that calls cost little, small enough for memory
COLUMN_BYTES = 64 << 20  # of the classes whose probabilities over all examples are held at a time
SORTED = 1 << 20  # probabilities of some classes over all examples that a thread sorts at a time

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Values = dict[tuple[str, float | None], Floats]


def read(bank: LogitBank, key: str, rows: Ints, device: torch.device) -> LogitParts:
    """Logits of one teacher, taken apart; that they are finite has been checked when they entered the bank."""
    return take_apart(_widened(bank.take(key, rows), device), torch.from_numpy(bank.rows.labels[rows]).to(device))


def _widened(logits: NDArray[Any], device: torch.device) -> Tensor:
    """Half precision becomes single: compiled loops, like the processor, know no halves."""
    stored = torch.from_numpy(logits).to(device)
    return stored.to(torch.promote_types(stored.dtype, torch.float32))


def row_blocks(bank: LogitBank, rows: Ints, device: torch.device) -> list[slice]:
    """Slices of `rows` that are worked on at a time."""
    return blocks(len(rows), max(1, at_once(GROUP_LOGITS, device) // len(bank.classes)))


def class_groups(bank: LogitBank, rows: Ints, device: torch.device) -> list[Ints]:
    """Places in `rows` that are worked on at a time: all examples of some classes."""
    return groups_of_classes(bank.rows.labels[rows], at_once(GROUP_LOGITS, device) // len(bank.classes))


def values_of(
    bank: LogitBank, key: str, taus: Sequence[float], probes: Sequence[Probe], split: str | None, device: torch.device
) -> Values:
    """(probe, tau) -> (n,) values in the order of the bank's rows; tau is None for probes that do not depend on it."""
    rows = len(bank.select(split))
    found = {(p.name, tau): np.empty(rows) for p in probes for tau in (taus if p.tempered else [None])}
    for places, values in _measured(bank, key, taus, probes, split, device):
        for name, of_group in values.items():
            found[name][places] = of_group
    return found


def means_of(
    bank: LogitBank, key: str, taus: Sequence[float], probes: Sequence[Probe], split: str | None, device: torch.device
) -> dict[tuple[str, float | None], dict[str, float]]:
    """(probe, tau) -> value, se and n of the mean over examples, of which only some are held at a time."""
    found: dict[tuple[tuple[str, float | None], ...], Means] = {}
    for _, values in _measured(bank, key, taus, probes, split, device):
        if values:
            found.setdefault(tuple(values), Means(len(values))).add(np.stack([*values.values()]))
    of_family = [p for p in probes if p.kind == "family"]
    columns = {(p.name, None): mean(np.array([p.compute(bank[key].params or np.nan)])) for p in of_family}
    return columns | {name: means.columns(i) for names, means in found.items() for i, name in enumerate(names)}


def _measured(
    bank: LogitBank, key: str, taus: Sequence[float], probes: Sequence[Probe], split: str | None, device: torch.device
) -> Iterator[tuple[Ints, Values]]:
    """Places of some examples and their values, group after group in the order of classes; then what needs all."""
    kinds: dict[str, list[Probe]] = defaultdict(list)
    for p in probes:
        kinds[p.kind].append(p)
    rows = bank.select(split)
    temperatures = in_octaves(taus if any(p.tempered for p in probes) else [])
    of_examples = [(p, tau) for p in kinds["example"] for tau in (temperatures if p.tempered else [None])]
    of_spread = [(p, tau) for p in kinds["spread"] for tau in temperatures]
    confidence, correct, logsumexp = of_all = np.empty((3, len(rows)))
    bank.take(key, rows[:0])  # the bytes are checked here, not in every thread

    def run(places: Ints) -> tuple[Ints, Values]:
        """Measure the examples at `places`, which are all of their classes."""
        found: Values = {(p.name, tau): np.empty(len(places)) for p, tau in [*of_examples, *of_spread]}
        classes, group = np.unique(bank.rows.labels[rows[places]], return_inverse=True)
        parts = row_blocks(bank, places, device)

        @lru_cache(maxsize=1)  # nearly always there is one part, read once
        def softened(part: int) -> dict[float | None, Softened]:
            raw = read(bank, key, rows[places[parts[part]]], device)
            at_each = in_octaves({1.0, *temperatures})
            own: dict[float | None, Softened] = dict(zip(at_each, Softened.at_each(raw, at_each), strict=True))
            return own | {None: own[1.0]}

        def at_temperatures(part: int) -> tuple[list[Softened], Tensor]:
            return [softened(part)[tau] for tau in temperatures], torch.from_numpy(group[parts[part]]).to(device)

        for part, here in enumerate(parts):
            own = softened(part)
            for values, known in zip(of_all, (own[1].confidence, own[1].raw.correct, own[1].logsumexp), strict=True):
                values[places[here]] = on_host(known)
            for p, tau in of_examples:
                found[p.name, tau][here] = on_host(p.compute(own[tau]))
        if of_spread:
            sums = torch.zeros((len(temperatures), len(classes), len(bank.classes)), dtype=torch.float64, device=device)
            means = mean_by_class(map(at_temperatures, range(len(parts))), sums)
            for part, here in enumerate(parts):
                each_tau, its_class = at_temperatures(part)
                around = dict(zip(temperatures, AroundClass.of_each(each_tau, means, its_class), strict=True))
                for p, tau in of_spread:
                    found[p.name, tau][here] = on_host(p.compute(around[tau].softened, around[tau]))
        return places, found

    if any(kinds[kind] for kind in ("example", "spread", "calibration", "classes")):
        yield from in_order(run, class_groups(bank, rows, device), threads(device))
    everywhere = np.arange(len(rows))
    for p in kinds["calibration"]:
        shares = p.compute(torch.from_numpy(confidence), torch.from_numpy(correct))
        yield everywhere, {(p.name, None): shares.numpy()}
    for p in kinds["classes"]:
        yield everywhere, {(p.name, None): _over_classes(p, bank, key, rows, logsumexp, device)}


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


def _over_classes(p: Probe, bank: LogitBank, key: str, rows: Ints, logsumexp: Floats, device: torch.device) -> Floats:
    """A probe that looks at each class's probabilities over all examples: some classes at a time, to bound memory."""
    side_by_side = max(1, min(64, SORTED // max(1, len(rows))))
    width = side_by_side * bank.take(key, rows[:0]).itemsize * max(1, len(rows))
    total = np.zeros(len(rows))
    for classes in blocks(len(bank.classes), side_by_side * max(1, COLUMN_BYTES // width)):
        for share in _shares(p, bank, key, rows, logsumexp, classes, side_by_side, device):
            total += share
    return total / len(bank.classes)


def _shares(
    p: Probe,
    bank: LogitBank,
    key: str,
    rows: Ints,
    logsumexp: Floats,
    classes: slice,
    side_by_side: int,
    device: torch.device,
) -> Iterator[Floats]:
    """What the probe gives for `side_by_side` of some classes after the other, always in the same order."""
    labels, normaliser = (torch.from_numpy(values).to(device) for values in (bank.rows.labels[rows], logsumexp))
    columns = np.empty((classes.stop - classes.start, len(rows)), bank.take(key, rows[:0]).dtype)

    def fill(part: slice) -> None:
        columns[:, part] = bank.take(key, rows[part], classes).T

    def compute(part: slice) -> Floats:
        probs = class_probabilities(_widened(columns[part], device), normaliser)
        is_class = torch.arange(classes.start + part.start, classes.start + part.stop, device=device)[:, None] == labels
        return on_host(p.compute(probs.T, is_class.T))

    each(fill, row_blocks(bank, rows, device), threads(device))
    return in_order(compute, blocks(len(columns), side_by_side), threads(device))


def affinities(bank: LogitBank, tau: float, split: str | None, device: torch.device) -> Iterator[tuple[Ints, Tensor]]:
    """Some classes (G,) after the other, those with examples, and their rows of all teachers' affinity matrices.

    A row is the mean over the examples of its class of q~, the softmax over the wrong classes alone; (T, G, C).
    """
    rows = bank.select(split)
    for key in bank.keys:
        bank.take(key, rows[:0])  # the bytes are checked here, not in every thread
    for places in class_groups(bank, rows, device):
        classes, group = np.unique(bank.rows.labels[rows[places]], return_inverse=True)
        yield classes, _affinities(bank, tau, rows[places], torch.from_numpy(group).to(device), len(classes))


def _affinities(bank: LogitBank, tau: float, rows: Ints, group: Tensor, groups: int) -> Tensor:
    means = torch.zeros((len(bank.keys), groups, len(bank.classes)), dtype=torch.float64, device=group.device)
    parts = row_blocks(bank, rows, group.device)

    def run(teacher: int) -> None:
        raws = (read(bank, bank.keys[teacher], rows[part], group.device) for part in parts)
        wrong = (([WrongAlone.of(raw, tau)], group[part]) for raw, part in zip(raws, parts, strict=True))
        mean_by_class(wrong, means[teacher : teacher + 1])

    each(run, range(len(means)), threads(group.device))
    return means


def restored_values(
    bank: LogitBank, key: str, setting: ISATSSetting, tau_other: float, split: str | None, device: torch.device
) -> dict[tuple[str, str], Floats]:
    """(method, quantity) -> (n,) values, and ("", "right") where the arg max is the target."""
    rows = bank.select(split)
    shape = ("target_prob", "derived_variance", "derived_std", "inherent_variance")
    found = {(method, name): np.empty(len(rows)) for method in ("TS", "ATS", "ISATS") for name in (*shape, "flipped")}
    found |= {("ISATS", name): np.empty(len(rows)) for name in ("at_bound", "tau_other_mean")}
    found["", "right"] = np.empty(len(rows))
    bank.take(key, rows[:0])  # the bytes are checked here, not in every thread

    def run(part: slice) -> None:
        raw = read(bank, key, rows[part], device)
        search = setting.search(raw)
        ts = Asymmetric.of_two(raw, setting.tau_target, setting.tau_target, torch.zeros_like(raw.mean_logit))
        ats = Asymmetric.of_two(raw, setting.tau_target, tau_other, origin_of(raw, setting.center))
        values = {("", "right"): raw.correct}
        values |= {("ISATS", "at_bound"): search.at_bound, ("ISATS", "tau_other_mean"): search.tau_other}
        for method, softened in (("TS", ts), ("ATS", ats), ("ISATS", search.softened)):
            values[method, "flipped"] = search.flipped if method == "ISATS" else softened.flipped
            values |= {(method, name): REGISTRY[name].compute(softened) for name in shape}
        for name, value in values.items():
            found[name][part] = on_host(value)

    each(run, row_blocks(bank, rows, device), threads(device))
    return found
