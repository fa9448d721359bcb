"""Values of every example of one teacher: probes, class affinities and restored variances, read from a bank in blocks.

Rows are read class by class, so that the mean soft labels that some probes need are complete after a few rows, and no
(C, C) matrix is held. A row's numbers come from that row and its class alone. Whatever the number of threads and the
size of the groups, counts are the same to the last bit; other numbers are the same to some 1e-15 of themselves, because
a processor rounds logarithms in vectors and one by one in different ways, and both decide which it does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._numerics.cached import cached_property
from capmismatch._numerics.class_means import AroundClass, mean_by_class
from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.devices import logits_at_once, thread_count, to_numpy, uses_loops
from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch._numerics.softmax import (
    LogitParts,
    Parts,
    Softened,
    WrongAlone,
    class_probabilities,
    in_octaves,
    take_apart,
    with_class_sums,
)
from capmismatch._numerics.threads import blocks, keep_memory, map_in_threads, run_in_threads
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.calibrating import Calibration
from capmismatch.diagnostics.means import ClusteredMeans, Means, mean, running_means
from capmismatch.probes import REGISTRY, Probe
from capmismatch.probes.calibration import adaptive_error, adaptive_error_of_logits
from capmismatch.probes.temperatures import COOLEST, WARMEST
from capmismatch.temperature import soften_parts

GROUP_LOGITS = 1 << 20  # a thread works on at a time: large enough that calls cost little, small enough for memory
COLUMN_BYTES = 64 << 20  # of the classes whose probabilities over all examples are held at a time
SORTED = 1 << 20  # probabilities of some classes over all examples that a thread sorts at a time
RESTORED = ("target_prob", "derived_variance", "derived_std", "inherent_variance")  # probes of the restored variance

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Column = tuple[str, float | None]  # name of a probe, and the temperature; None for probes that do not depend on it
Values = dict[Column, Floats]


# ------------------------------------------------------------------------------------------------- rows of one teacher


class TeacherRows:
    """The rows of one teacher that are measured: n of them, in the bank's order, counted here from 0.

    Parameters
    ----------
    bank : LogitBank
        Where the logits lie.
    key : str
        The teacher's key in the bank.
    rows : ndarray of int, shape (n,)
        Rows of the bank.
    device : torch.device
        Where to compute.
    """

    def __init__(self, bank: LogitBank, key: str, rows: Ints, device: torch.device) -> None:
        self.bank, self.key, self.rows, self.device = bank, key, rows, device
        self.labels = bank.rows.labels[rows]
        self._tokens = bank if isinstance(bank, TokenBank) and bank.condensed else None
        self.condensed = self._tokens is not None
        # The bytes are checked here, not in every thread
        if self._tokens is not None:
            self.width, self.dtype = self._tokens.condensed_rows(key, rows[:0]).k, np.dtype(np.float32)
        else:
            self.width, self.dtype = len(bank.classes), bank.take(key, rows[:0]).dtype

    def __len__(self) -> int:
        return len(self.rows)

    def stored(self, positions: Ints | slice) -> NDArray[Any]:
        """(n, C) logits of some rows, as the bank has them."""
        return self.bank.take(self.key, self.rows[positions])

    def read(self, positions: Ints | slice, stored: NDArray[Any] | None = None) -> Parts:
        """Some rows, taken apart; that they are finite has been checked when they entered the bank."""
        if self._tokens is not None:
            return CondensedParts.of(self._tokens.condensed_rows(self.key, self.rows[positions]), self.device)
        logits = _widened(self.stored(positions) if stored is None else stored, self.device)
        return take_apart(logits, torch.from_numpy(self.labels[positions]).to(self.device))

    @property
    def rates(self) -> tuple[float, float]:
        """Inverse temperatures between which one can be searched: of condensed rows those whose sums were kept."""
        least, most = kept_rates(self.bank)
        return max(1 / WARMEST, least), min(1 / COOLEST, most)

    def blocks(self, count: int) -> list[slice]:
        """Slices of `count` rows that a thread works on at a time."""
        return blocks(count, max(1, logits_at_once(GROUP_LOGITS, self.device) // self.width))

    def class_groups(self) -> list[Ints]:
        """Positions that a thread works on at a time: all rows of some classes; of condensed rows any."""
        size = logits_at_once(GROUP_LOGITS, self.device) // self.width
        if self._tokens is not None:  # nothing is known of a token's mean soft label
            return [np.arange(block.start, block.stop) for block in blocks(len(self), max(1, size))]
        return groups_of_classes(self.labels, size)


def kept_rates(bank: LogitBank) -> tuple[float, float]:
    """Inverse temperatures between which probes are known: of condensed rows those whose sums were kept."""
    if not isinstance(bank, TokenBank) or not bank.condensed or bank.settings is None:
        return 0.0, math.inf
    betas = bank.settings.betas
    return min(betas), max(betas) / 2


def _widened(logits: NDArray[Any], device: torch.device) -> Tensor:
    """Half precision becomes single: compiled loops, like the processor, know no halves."""
    stored = torch.from_numpy(logits).to(device)
    return stored.to(torch.promote_types(stored.dtype, torch.float32))


def groups_of_classes(labels: Ints, size: int) -> list[Ints]:
    """Positions of the examples, sorted by class, cut between classes into groups of at most `size`, or one class.

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


# -------------------------------------------------------------------------------------------------------------- probes


class ClassGroup:
    """All rows of some classes, read block by block, at several temperatures.

    Only the block asked for last is held. Nearly always there is one, so its rows are read once; where a class has more
    rows than a block, each pass over the blocks reads them again.

    Parameters
    ----------
    teacher : TeacherRows
        Whose rows.
    positions : ndarray of int, shape (n,)
        All rows of some classes.
    temperatures : sequence of float
        At which rows are compared with the mean soft label of their class.
    others : iterable of float
        At which rows are asked for beside these and tau = 1.
    alone : float, optional
        Temperature of the class affinities.
    stored : ndarray, shape (n, C), optional
        The logits as the bank has them, where they have been read and there is one block.
    """

    def __init__(
        self,
        teacher: TeacherRows,
        positions: Ints,
        temperatures: Sequence[float],
        others: Iterable[float] = (),
        alone: float | None = None,
        stored: NDArray[Any] | None = None,
    ) -> None:
        self._teacher, self._positions, self._temperatures, self._alone = teacher, positions, temperatures, alone
        self._taus = in_octaves({1.0, *temperatures, *others, *([] if alone is None else [alone])})
        self._classes, self._class_index = np.unique(teacher.labels[positions], return_inverse=True)
        self._stored = stored
        self.blocks = teacher.blocks(len(positions))
        self._held: tuple[slice, dict[float | None, Softened]] | None = None
        self._sums: Tensor | None = None  # over classes, where they came with the rows

    def softened(self, block: slice) -> dict[float | None, Softened]:
        """The rows of a block at each temperature; None stands for tau = 1, where untempered probes are taken."""
        if self._held is None or self._held[0] != block:
            raw = self._teacher.read(self._positions[block], self._stored)
            by_tau: dict[float | None, Softened] = dict(zip(self._taus, self._at_each(raw, block), strict=True))
            self._held = block, by_tau | {None: by_tau[1.0]}
        return self._held[1]

    def _at_each(self, raw: Parts, block: slice) -> list[Softened]:
        """At each temperature; where there is one block, the sums over its classes come with it."""
        if len(self.blocks) > 1 or not self._order or not isinstance(raw, LogitParts) or not raw.compiled:
            return Softened.at_each(raw, self._taus)
        group, self._sums = self._class_index_of(block), self._no_sums()
        return with_class_sums(raw, self._taus, self._order, group, self._sums)

    def around(self, block: slice) -> dict[float | None, AroundClass]:
        """The rows of a block at each temperature, each beside the mean soft label of its class."""
        means = self._means  # first: it reads all blocks, and this one is to be the one held
        means = torch.stack([means[at] for at, (_, alone) in enumerate(self._order) if not alone])
        softened, class_index = self.softened(block), self._class_index_of(block)
        counts = torch.from_numpy(np.bincount(self._class_index)).to(class_index.device)
        compared = [softened[tau] for tau, alone in self._order if not alone]
        around = AroundClass.of_each(compared, means, class_index, counts)
        return dict(zip((tau for tau, alone in self._order if not alone), around, strict=True))

    @property
    def affinities(self) -> Tensor:
        """(G, C) rows of the affinity matrix."""
        return self._means[self._order.index((self._alone or 0.0, True))]

    @cached_property
    def _order(self) -> list[tuple[float, bool]]:
        """Temperatures of class means, and whether of the wrong classes alone; the latter shares its like's sums."""
        wanted = [(tau, False) for tau in self._temperatures]
        if self._alone is not None:
            wanted.append((self._alone, True))
        return sorted(wanted, key=lambda entry: (self._taus.index(entry[0]), entry[1]))

    @cached_property
    def _means(self) -> Tensor:
        """(T, G, C) mean soft labels of the classes, in `_order`."""
        if len(self.blocks) == 1:
            self.softened(self.blocks[0])
        if self._sums is not None:
            return self._sums.div_(torch.from_numpy(np.bincount(self._class_index))[:, None])
        return mean_by_class(map(self._at_temperatures, self.blocks), self._no_sums())

    def _no_sums(self) -> Tensor:
        """(T, G, C) zeros."""
        shape = len(self._order), len(self._classes), len(self._teacher.bank.classes)
        return torch.zeros(shape, dtype=torch.float64, device=self._teacher.device)

    def _at_temperatures(self, block: slice) -> tuple[list[Softened], Tensor]:
        """The rows of a block at each temperature, and which of the group's classes each row has."""
        softened = self.softened(block)
        rows = [softened[tau].wrong_alone() if alone else softened[tau] for tau, alone in self._order]
        return rows, self._class_index_of(block)

    def _class_index_of(self, block: slice) -> Tensor:
        return torch.from_numpy(self._class_index[block]).to(self._teacher.device)


class AllRows:
    """What is known of all n rows once each has been read: hits, and confidence and logsumexp at some temperatures.

    Parameters
    ----------
    teacher : TeacherRows
        Whose rows.
    taus : iterable of float
        Temperatures beside tau = 1, which None stands for.
    calibrated : bool
        Whether the temperature that calibrates the teacher is asked for; then some rows are read here.
    """

    def __init__(self, teacher: TeacherRows, taus: Iterable[float] = (), calibrated: bool = False) -> None:
        self._teacher = teacher
        self._calibration = Calibration(teacher) if calibrated else None
        self._correct = np.empty(len(teacher))
        self._confidence, self._logsumexp = ({tau: np.empty(len(teacher)) for tau in (None, *taus)} for _ in range(2))

    def __len__(self) -> int:
        return len(self._teacher)

    def add(self, positions: Ints, softened: Mapping[float | None, Softened]) -> None:
        """Take in some rows."""
        raw = softened[None].raw
        self._correct[positions] = to_numpy(raw.correct)
        if self._calibration is not None:
            self._calibration.add(positions, raw)
        for tau, confidence in self._confidence.items():
            confidence[positions] = to_numpy(softened[tau].confidence)
            self._logsumexp[tau][positions] = to_numpy(softened[tau].logsumexp)

    def over_bins(self, p: Probe, tau: float | None) -> Floats:
        """A probe that looks at the confidences and hits of all rows."""
        values: Tensor = p.compute(torch.from_numpy(self._confidence[tau]), torch.from_numpy(self._correct))
        return values.numpy()

    def calibrating(self, p: Probe, tau: float | None) -> Floats:
        """A temperature that is searched."""
        assert self._calibration is not None
        return self._calibration.values(p.compute)

    def mean_over_classes(self, p: Probe, tau: float | None) -> Floats:
        """A probe that looks at each class's probabilities over all rows: some classes at a time, to bound memory."""
        n, classes = len(self._teacher), len(self._teacher.bank.classes)
        side_by_side = max(1, min(64, SORTED // max(1, n)))
        width = side_by_side * self._teacher.dtype.itemsize * max(1, n)
        total = np.zeros(n)
        for some in blocks(classes, side_by_side * max(1, COLUMN_BYTES // width)):
            for share in self._shares(p, tau, some, side_by_side):
                total += share
        return total / classes

    def _shares(self, p: Probe, tau: float | None, classes: slice, side_by_side: int) -> Iterator[Floats]:
        """Values of the probe for `side_by_side` of some classes at a time, always in the same order."""
        teacher = self._teacher
        of_rows = (teacher.labels, self._logsumexp[tau])
        labels, logsumexp = (torch.from_numpy(values).to(teacher.device) for values in of_rows)
        columns = np.empty((classes.stop - classes.start, len(teacher)), teacher.dtype)
        rate = 1.0 if tau is None else 1 / tau
        by_class = labels.argsort(stable=True)
        numbers = torch.arange(classes.start, classes.stop + 1, device=teacher.device)
        begins = torch.searchsorted(labels[by_class], numbers)
        loops = p.compute is adaptive_error and uses_loops(teacher.device, columns.size)

        def fill(block: slice) -> None:
            columns[:, block] = teacher.bank.take(teacher.key, teacher.rows[block], classes).T

        def compute(some: slice) -> Floats:
            logits = _widened(columns[some], teacher.device)
            if loops:
                ends = begins[some.start : some.stop + 1]
                return to_numpy(adaptive_error_of_logits(logits, logsumexp, by_class, ends, rate))
            probs = class_probabilities(logits if tau is None else logits.double() / tau, logsumexp)
            return to_numpy(p.compute(probs.T, (numbers[some, None] == labels).T))

        run_in_threads(fill, teacher.blocks(len(teacher)), thread_count(teacher.device))
        return map_in_threads(compute, blocks(len(columns), side_by_side), thread_count(teacher.device))


class Kind(NamedTuple):
    """How probes of one kind get a value for each row."""

    needs: str  # "row": its own soft label; "class means": also that of its class; "all rows": all of the teacher
    compute: Callable[..., Any]  # of the probe and of a `Softened`, an `AroundClass`, or `AllRows` and the temperature


KINDS = {
    "example": Kind("row", lambda p, softened: p.compute(softened)),
    "spread": Kind("class means", lambda p, around: p.compute(around.softened, around)),
    "calibration": Kind("all rows", lambda p, everyone, tau: everyone.over_bins(p, tau)),
    "classes": Kind("all rows", lambda p, everyone, tau: everyone.mean_over_classes(p, tau)),
    "temperature": Kind("all rows", lambda p, everyone, tau: everyone.calibrating(p, tau)),
}


class Wanted:
    """Probes and temperatures, sorted by what they need.

    Parameters
    ----------
    taus : sequence of float
        Temperatures of the tempered probes.
    probes : sequence of Probe
        What to measure.
    """

    def __init__(self, taus: Sequence[float], probes: Sequence[Probe]) -> None:
        self.temperatures = in_octaves(taus if any(p.tempered for p in probes) else [])
        self.columns: dict[str, list[tuple[Probe, float | None]]] = defaultdict(list)
        for kind, (needs, _) in KINDS.items():
            of_kind = [p for p in probes if p.kind == kind]
            self.columns[needs] += [(p, tau) for p in of_kind for tau in (self.temperatures if p.tempered else [None])]

    @property
    def around(self) -> list[float]:
        """Temperatures of class means."""
        return self.temperatures if self.columns["class means"] else []

    @property
    def together(self) -> list[float]:
        """Temperatures at which all rows are looked at together."""
        wanted = {tau for _, tau in self.columns["all rows"] if tau is not None}
        return [tau for tau in self.temperatures if tau in wanted]

    @property
    def calibrated(self) -> bool:
        """Whether the temperature that calibrates a teacher is asked for."""
        return any(p.kind == "temperature" for p, _ in self.columns["all rows"])

    def of_group(self, group: ClassGroup, positions: Ints, everyone: AllRows) -> Values:
        """Values of all rows of some classes; `everyone` takes in what probes of all rows need."""
        values: Values = {}
        for p, tau in (*self.columns["row"], *self.columns["class means"]):
            values[p.name, tau] = np.empty(len(positions))
        for block in group.blocks:
            softened = group.softened(block)
            everyone.add(positions[block], softened)
            for p, tau in self.columns["row"]:
                values[p.name, tau][block] = to_numpy(KINDS[p.kind].compute(p, softened[tau]))
        for block in group.blocks if self.columns["class means"] else ():
            around = group.around(block)
            for p, tau in self.columns["class means"]:
                values[p.name, tau][block] = to_numpy(KINDS[p.kind].compute(p, around[tau]))
        return values

    def of_all(self, everyone: AllRows) -> Iterator[tuple[Ints, Values]]:
        """Positions and values of what needs all rows, once each has been read."""
        for p, tau in self.columns["all rows"]:
            yield np.arange(len(everyone)), {(p.name, tau): KINDS[p.kind].compute(p, everyone, tau)}


def _measured(
    bank: LogitBank, key: str, taus: Sequence[float], probes: Sequence[Probe], split: str | None, device: torch.device
) -> Iterator[tuple[Ints, Values]]:
    """Positions of some rows and their values: group after group in the order of classes, then what needs all rows."""
    wanted, teacher = Wanted(taus, probes), TeacherRows(bank, key, bank.select(split), device)
    everyone = AllRows(teacher, wanted.together, wanted.calibrated)
    if not any(wanted.columns.values()):
        return

    def measure(positions: Ints) -> tuple[Ints, Values]:
        """Values of all rows of some classes."""
        group = ClassGroup(teacher, positions, wanted.around, wanted.temperatures)
        return positions, wanted.of_group(group, positions, everyone)

    keep_memory()
    yield from map_in_threads(measure, teacher.class_groups(), thread_count(device))
    yield from wanted.of_all(everyone)


def values_of(
    bank: LogitBank, key: str, taus: Sequence[float], probes: Sequence[Probe], split: str | None, device: torch.device
) -> Values:
    """(probe, tau) -> (n,) values in the order of the bank's rows; tau is None for probes that do not depend on it."""
    count = len(bank.select(split))
    columns = {(p.name, tau): np.empty(count) for p in probes for tau in (taus if p.tempered else [None])}
    for positions, values in _measured(bank, key, taus, probes, split, device):
        for name, of_group in values.items():
            columns[name][positions] = of_group
    return columns


def sequence_index(bank: LogitBank, split: str | None) -> Ints | None:
    """Number, from 0, of the sequence of each row of a split; None where rows are no positions of texts."""
    if bank.rows.sequences is None:
        return None
    return np.unique(bank.rows.sequences[bank.select(split)], return_inverse=True)[1]


def means_of(
    bank: LogitBank, key: str, taus: Sequence[float], probes: Sequence[Probe], split: str | None, device: torch.device
) -> dict[Column, dict[str, float]]:
    """(probe, tau) -> value, se and n of the mean over examples, of which only some are held at a time."""
    running = RunningMeans(sequence_index(bank, split))
    for positions, values in _measured(bank, key, taus, probes, split, device):
        running.add(positions, values)
    return running.columns(bank[key], probes)


class RunningMeans:
    """Means of values that come group by group, over sequences (all examples' numbers) where there are any."""

    def __init__(self, clusters: Ints | None) -> None:
        self._clusters = clusters
        self._running: dict[tuple[Column, ...], Means | ClusteredMeans] = {}

    def add(self, positions: Ints, values: Values) -> None:
        """Take in some rows."""
        if values:
            means = self._running.setdefault(tuple(values), running_means(len(values), self._clusters))
            means.add(np.stack([*values.values()]), None if self._clusters is None else self._clusters[positions])

    def columns(self, record: TeacherRecord, probes: Sequence[Probe]) -> dict[Column, dict[str, float]]:
        """(probe, tau) -> value, se and n; with what probes of a family say of the teacher."""
        of_family = [p for p in probes if p.kind == "family"]
        columns: dict[Column, dict[str, float]] = {
            (p.name, None): mean(np.array([p.compute(record.params or np.nan)])) for p in of_family
        }
        found = {name: means.columns(i) for names, means in self._running.items() for i, name in enumerate(names)}
        return columns | found


# ---------------------------------------------------------------------------------------------------- class affinities


class Affinities:
    """Affinity matrices of all teachers without their diagonals, filled some classes at a time.

    Attributes
    ----------
    present, classes : ndarray of int
        Classes with examples, and all.
    values : ndarray, shape (T, P, C - 1)
        Rows of the P classes with examples.
    """

    def __init__(self, bank: LogitBank, split: str | None) -> None:
        self.present, self.classes = np.unique(bank.labels(split)), np.arange(len(bank.classes))
        self.values = np.empty((len(bank.keys), len(self.present), len(self.classes) - 1))

    def add(self, classes: Ints, matrices: Tensor) -> None:
        """Take in rows (T, G, C) of some classes (G,)."""
        off_diagonal = to_numpy(matrices)[:, classes[:, None] != self.classes]
        self.values[:, np.searchsorted(self.present, classes)] = off_diagonal.reshape(len(matrices), len(classes), -1)


def affinities(bank: LogitBank, tau: float, split: str | None, device: torch.device) -> Iterator[tuple[Ints, Tensor]]:
    """Some classes (G,) after the other, those with examples, and their rows of all teachers' affinity matrices.

    A row is the mean over the examples of its class of q~, the softmax over the wrong classes alone; (T, G, C).
    """
    rows = bank.select(split)
    teachers = [TeacherRows(bank, key, rows, device) for key in bank.keys]
    for positions in teachers[0].class_groups():
        classes, class_index = np.unique(teachers[0].labels[positions], return_inverse=True)
        yield classes, _affinities(teachers, tau, positions, torch.from_numpy(class_index).to(device), len(classes))


def _affinities(teachers: Sequence[TeacherRows], tau: float, positions: Ints, group: Tensor, groups: int) -> Tensor:
    """(T, G, C) of the rows at `positions`, whose classes are `group` (n,), each < G."""
    shape = len(teachers), groups, len(teachers[0].bank.classes)
    means = torch.zeros(shape, dtype=torch.float64, device=group.device)

    def fill(index: int) -> None:
        teacher = teachers[index]
        softened = (
            ([WrongAlone.of(teacher.read(positions[block]), tau)], group[block])
            for block in teacher.blocks(len(positions))
        )
        mean_by_class(softened, means[index : index + 1])

    run_in_threads(fill, range(len(means)), thread_count(group.device))
    return means


# --------------------------------------------------------------------------------------------------- restored variance


def restored_values(
    bank: LogitBank, key: str, specs: Sequence[SoftLabelSpec], split: str | None, device: torch.device
) -> tuple[dict[tuple[str, str], Floats], NDArray[np.bool_]]:
    """(method, quantity) -> (n,) values of each spec, and whether the teacher gets each row right, (n,)."""
    teacher = TeacherRows(bank, key, bank.select(split), device)
    restored = Restored(specs, len(teacher), bank.of_texts)
    keep_memory()
    run_in_threads(
        lambda block: restored.add(block, teacher.read(block), {}), teacher.blocks(len(teacher)), thread_count(device)
    )
    return restored.values, restored.correct


class Restored:
    """What soft labels of several kinds are like, for each of n examples.

    Parameters
    ----------
    specs : sequence of SoftLabelSpec
        How the soft labels are made.
    n : int
        How many examples.
    of_texts : bool
        Whether they are positions of texts.

    Attributes
    ----------
    values : dict
        (method, quantity) -> (n,).
    correct : ndarray of bool, shape (n,)
        Whether the teacher gets the example right.
    """

    def __init__(self, specs: Sequence[SoftLabelSpec], n: int, of_texts: bool) -> None:
        self._specs, self._of_texts = specs, of_texts
        self._probes = [*RESTORED, *(name for name, p in REGISTRY.items() if p.vocabulary and of_texts)]
        self.values: dict[tuple[str, str], Floats] = {}
        for spec in specs:
            searched = ("at_bound", "tau_other_mean") if spec.method == "ISATS" else ()
            self.values |= {(spec.method, name): np.empty(n) for name in (*self._probes, "flipped", *searched)}
        self.correct = np.empty(n, dtype=bool)

    @property
    def taus(self) -> set[float]:
        """Temperatures of wrong classes that do not differ between examples."""
        fixed = {"TS": "tau", "ATS": "tau_other"}
        return {float(getattr(spec, fixed[spec.method])) for spec in self._specs if spec.method in fixed}

    def add(self, positions: Ints | slice, raw: Parts, known: Mapping[float | None, Softened]) -> None:
        """Take in some rows, some temperatures of which may have been summed already."""
        self.correct[positions] = to_numpy(raw.correct)
        for spec in self._specs:
            result = soften_parts(spec, raw, ats_reads_wrong=self._of_texts)
            at = known.get(result.softened.tau) if isinstance(result.softened.tau, float | int) else None
            if at is not None:
                result.softened.sums = at.sums
            quantities = {name: REGISTRY[name].compute(result.softened) for name in self._probes}
            quantities |= {
                "flipped": result.flipped,
                "at_bound": result.at_bound,
                "tau_other_mean": result.tau_other,
            }
            for name, of_block in quantities.items():
                if (spec.method, name) in self.values:
                    self.values[spec.method, name][positions] = to_numpy(of_block)
