"""All tables of a bank from one pass over it: each row is read, taken apart and sorted once, whoever asks.

`capmismatch.probe`, `rank_stability`, `affinity` and `restored_variance` each go over the bank by themselves. Here they
share the same blocks of rows: all rows of some classes, of all teachers, in one thread. What one asks for at a
temperature the others find there; rows are ranked in the precision they are stored in. Only the adaptive calibration
error reads a second time: it needs each class's probabilities over all rows. The temperature that calibrates a teacher
is searched among series that are kept of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from capmismatch import ranks as _ranks
from capmismatch._numerics.devices import as_device, thread_count
from capmismatch._numerics.plain_arrays import listed
from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch._numerics.threads import keep_memory, map_in_threads
from capmismatch._utils.progress import progress_bar
from capmismatch.data.bank import LogitBank
from capmismatch.diagnostics.asked import probes_of, specs_of, temperatures_of
from capmismatch.diagnostics.checks import unusable_columns
from capmismatch.diagnostics.example_values import (
    Affinities,
    AllRows,
    ClassGroup,
    Ints,
    Restored,
    RunningMeans,
    TeacherRows,
    Values,
    Wanted,
)
from capmismatch.diagnostics.features import feature_rows
from capmismatch.diagnostics.means import Means
from capmismatch.diagnostics.pairs import pair_rows
from capmismatch.diagnostics.table_rows import affinity_table, probe_rows, rank_table, restored_table_rows
from capmismatch.diagnostics.tables import METRICS, PAIR_METRICS
from capmismatch.errors import InputError, must_be_temperature
from capmismatch.probes import REGISTRY


class Tables(NamedTuple):
    """The tables of `capmismatch.probe`, `rank_stability`, `affinity` and `restored_variance`, as these give them."""

    probes: pd.DataFrame
    ranks: pd.DataFrame | None  # None of a single teacher
    affinity: pd.DataFrame
    restored: pd.DataFrame


class _OfGroup(NamedTuple):
    """What a thread has measured of all rows of some classes."""

    positions: Ints
    probes: list[Values]  # of each teacher
    classes: Ints
    affinities: Tensor  # (T, G, C)
    ranks: dict[str, np.ndarray]  # metric -> (P, n), or (P, G) for that of affinities


def all_tables(
    bank: LogitBank,
    taus: Iterable[float] | None = None,
    names: Iterable[str] | None = None,
    *,
    tau: float = 4.0,
    restored: dict[str, Any] | None = None,
    split: str | None = "val",
    device: str = "cpu",
    progress: bool = True,
) -> Tables:
    """Make the tables of probes, class ranks, class affinities and restored variance in one pass over a bank.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    taus : iterable of float, default (1, 2, 4, 8)
        Of `capmismatch.probe`.
    names : iterable of str, optional
        Of `capmismatch.probe`.
    tau : float, default 4.0
        Of `capmismatch.rank_stability` and `capmismatch.affinity`.
    restored : dict, optional
        Options of `capmismatch.restored_variance` from `tau_target` to `wrong`.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    Tables
        The same numbers as from the four functions one by one, to 1e-12 of themselves; no ranks of a single teacher.

    Raises
    ------
    InputError
        As these four raise it; a bank of texts, whose rows have no classes to share.

    Examples
    --------
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": 3 * np.eye(4), "b": 5 * np.eye(4)}, [0, 1, 2, 3])
    >>> [len(table) for table in all_tables(bank, taus=[1, 4], progress=False)]
    [86, 7, 24, 138]
    """
    if bank.of_texts:
        raise InputError("one pass makes tables of examples with classes; those of texts are made one by one")
    must_be_temperature(tau, "tau")
    asked = None if names is None else listed(names)
    temperatures, chosen = temperatures_of(taus, bank), probes_of(asked, bank)
    given = dict(restored or {})
    given["tau"] = given.pop("tau_target", None)
    of_bank = {name: given.pop(name, None) for name in ("tau", "tau_other", "bounds", "wrong")}
    specs, probes = specs_of(bank, of_bank, **given), [REGISTRY[name] for name in chosen]
    measured = _Pass(bank, Wanted(temperatures, probes), float(tau), specs, split, as_device(device))
    measured.run(progress)
    of_restored = [
        row
        for record, found in zip(bank.teachers, measured.restored, strict=True)
        for row in restored_table_rows(bank, record, specs, split, found.values, found.correct, None)
    ]
    marks = unusable_columns(bank)
    of_probes = [
        row
        for record, means in zip(bank.teachers, measured.means, strict=True)
        for row in probe_rows(
            bank,
            record,
            means.columns(record, probes),
            temperatures,
            chosen,
            split,
            marks,
        )
    ]
    of_probes += feature_rows(bank, asked, split, marks)
    of_probes += pair_rows(bank, temperatures, asked, split, marks)
    ranks = rank_table(bank, measured.pairs, measured.ranks, split or "all") if measured.ranks else None
    affinities = measured.affinities
    del measured  # what is kept of every row, before the largest table is made
    return Tables(
        pd.DataFrame(of_probes), ranks, affinity_table(bank, float(tau), affinities), pd.DataFrame(of_restored)
    )


class _Pass:
    """One pass over a bank, and what is kept of it."""

    def __init__(
        self,
        bank: LogitBank,
        wanted: Wanted,
        tau: float,
        specs: Sequence[SoftLabelSpec],
        split: str | None,
        device: torch.device,
    ) -> None:
        keep_memory()
        rows = bank.select(split)
        self.wanted, self.tau, self.device = wanted, tau, device
        self.teachers = [TeacherRows(bank, key, rows, device) for key in bank.keys]
        self.everyone = list(map_in_threads(self._all_rows, self.teachers, thread_count(device)))
        self.restored = [Restored(specs, len(rows), bank.of_texts) for _ in self.teachers]
        self.means = [RunningMeans(None) for _ in self.teachers]
        self.pairs = list(combinations(range(len(self.teachers)), 2))
        known = [metric for metric in METRICS if not metric.startswith("top") or int(metric[3]) < len(bank.classes)]
        self.ranks = {metric: Means(len(self.pairs)) for metric in (known if self.pairs else [])}
        self.affinities = Affinities(bank, split)

    def _all_rows(self, teacher: TeacherRows) -> AllRows:
        return AllRows(teacher, self.wanted.together, self.wanted.calibrated)

    def run(self, progress: bool) -> None:
        """Measure all rows, group by group, then what needs all rows of a teacher."""
        groups = self.teachers[0].class_groups() if len(self.teachers) else []
        with progress_bar(total=sum(map(len, groups)), desc="diagnosis", unit="row", show=progress) as bar:
            for found in map_in_threads(self._measure, groups, thread_count(self.device)):
                for means, values in zip(self.means, found.probes, strict=True):
                    means.add(found.positions, values)
                for metric, of_metric in found.ranks.items():
                    self.ranks[metric].add(of_metric)
                self.affinities.add(found.classes, found.affinities)
                bar.update(len(found.positions))
        for means, everyone in zip(self.means, self.everyone, strict=True):
            for positions, values in self.wanted.of_all(everyone):
                means.add(positions, values)

    def _measure(self, positions: Ints) -> _OfGroup:
        """All that is asked of all rows of some classes, of every teacher."""
        blocks = self.teachers[0].blocks(len(positions))
        stored = [teacher.stored(positions) for teacher in self.teachers] if len(blocks) == 1 else None
        classes = np.unique(self.teachers[0].labels[positions])
        probes, affinities = [], []
        for index, teacher in enumerate(self.teachers):
            restored, held = self.restored[index], None if stored is None else stored[index]
            others = {*self.wanted.temperatures, *restored.taus}
            group = ClassGroup(teacher, positions, self.wanted.around, others, self.tau, held)
            for block in group.blocks:
                softened = group.softened(block)
                restored.add(positions[block], softened[None].raw, softened)
            probes.append(self.wanted.of_group(group, positions, self.everyone[index]))
            affinities.append(group.affinities)
        matrices = torch.stack(affinities)
        return _OfGroup(
            positions, probes, classes, matrices, self._ranked(positions, blocks, stored, classes, matrices)
        )

    def _ranked(
        self, positions: Ints, blocks: list[slice], stored: list[np.ndarray] | None, classes: Ints, matrices: Tensor
    ) -> dict[str, np.ndarray]:
        """Each metric of all pairs of teachers, of rows and of classes."""
        per_example = [metric for metric in self.ranks if metric in PAIR_METRICS]
        parts: list[dict[str, Tensor]] = []
        for block in blocks if per_example else ():
            rows = positions[block]
            logits = [teacher.stored(rows) for teacher in self.teachers] if stored is None else stored
            on_device = [torch.from_numpy(of_teacher).to(self.device) for of_teacher in logits]
            parts.append(_ranks.rank_metrics(on_device, self.teachers[0].labels[rows], per_example, self.pairs))
        found = {metric: np.concatenate([part[metric].numpy() for part in parts], axis=1) for metric in per_example}
        if "affinity_tau_b" in self.ranks:
            compared = _ranks.rank_metrics(matrices, classes, ["wrong_tau_b"], self.pairs)
            found["affinity_tau_b"] = compared["wrong_tau_b"].numpy()
        return found
