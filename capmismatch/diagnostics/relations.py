"""How much of the teachers' variance is between classes, and between groups of classes: a table of a bank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from capmismatch._numerics.devices import as_device, to_numpy
from capmismatch._numerics.softmax import Softened
from capmismatch._utils.progress import progress_bar
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.diagnostics.asked import temperatures_of
from capmismatch.diagnostics.example_values import Affinities, TeacherRows, affinities
from capmismatch.diagnostics.means import mean
from capmismatch.diagnostics.table_rows import identity, seed_of
from capmismatch.errors import InputError
from capmismatch.probes.groups import between_groups, checked_groups, find_groups, variance_of_means

FOUND_AT = 4.0  # temperature of the affinities by which groups are found

Groups = int | Sequence[int] | Mapping[str, Any]


def class_relations(
    bank: LogitBank,
    taus: Iterable[float] | None = None,
    *,
    groups: Groups | None = None,
    split: str | None = "val",
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    r"""Measure which part of each teacher's variance over wrong classes is between classes, and between groups of them.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    taus : iterable of float, optional
        Temperatures > 0; by default those of `probe`.
    groups : int or sequence of int or mapping, optional
        Superclasses: the number of each class's group, or a mapping from the name of each class to that of its group. A
        number alone asks for so many, which are found by the mean affinity of all teachers at tau = 4. By default none.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row per teacher, temperature and probe, with the columns of `capmismatch.probe`, so that both can be joined
        and correlated. Probes:

        * class_variance: mean over examples of the variance of their class's mean soft label
        * example_variance: mean derived variance less that, what examples of one class differ by
        * group_variance: mean of the part of the derived variance that is between `groups`

    Raises
    ------
    InputError
        Groups that do not fit the classes, an unknown split, a temperature that is not positive; condensed rows, which
        know no class means.

    See Also
    --------
    capmismatch.probes.class_variance, capmismatch.probes.group_variance : The formulas.

    Examples
    --------
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> rows = np.array([[4.0, 2, 0, 0], [4.0, 0, 2, 0], [0, 4.0, 2, 0], [0, 4.0, 2, 0]])
    >>> bank = bank_from_arrays({"a": rows}, [0, 0, 1, 1])
    >>> class_relations(bank, [1], groups=2, progress=False)[["probe", "value"]].round(5)
                  probe    value
    0    class_variance  0.00138
    1  example_variance  0.00083
    2    group_variance  0.00055
    """
    bank.must_keep_all("class relations")
    temperatures, where = temperatures_of(taus, bank), as_device(device)
    if not temperatures:
        raise InputError("expected taus, at least one, got none")
    numbers = None if groups is None else _numbers(bank, groups, split, where)
    rows: list[dict[str, Any]] = []
    with progress_bar(bank.teachers, desc="class relations", unit="teacher", show=progress) as bar:
        for record in bar:
            rows += _rows_of(bank, record, temperatures, numbers, split, where)
    return pd.DataFrame(rows)


def _rows_of(
    bank: LogitBank,
    record: TeacherRecord,
    taus: Sequence[float],
    groups: Tensor | None,
    split: str | None,
    device: torch.device,
) -> list[dict[str, Any]]:
    teacher = TeacherRows(bank, record.key, bank.select(split), device)
    classes, labels = len(bank.classes), teacher.labels
    own, between = np.empty((2, len(taus), len(teacher)))
    sums = torch.zeros(len(taus), classes, classes, dtype=torch.float64, device=device)
    for block in teacher.blocks(len(teacher)):
        for at, softened in enumerate(Softened.at_each(teacher.read(block), taus)):
            own[at, block] = to_numpy(softened.inherent_variance * softened.wrong_mass**2)
            sums[at].index_add_(0, softened.labels, softened.probs)
            if groups is not None:
                between[at, block] = to_numpy(between_groups(softened, groups))
    counts = torch.from_numpy(np.bincount(labels, minlength=classes)).to(sums)
    means = sums / counts[:, None]
    found = []
    for at, tau in enumerate(taus):
        of_class = to_numpy(variance_of_means(means[at]))[labels]
        columns = {"class_variance": of_class, "example_variance": own[at] - of_class}
        if groups is not None:
            columns["group_variance"] = between[at]
        head = {**identity(record), "split": split or "all", "seed": seed_of(record), "tau": tau}
        found += [{**head, "probe": name, **mean(values)} for name, values in columns.items()]
    return found


def _numbers(bank: LogitBank, groups: Groups, split: str | None, device: torch.device) -> Tensor:
    """Number of each class's group, (C,)."""
    classes = list(bank.classes)
    if isinstance(groups, Mapping):
        missing = next((name for name in classes if name not in groups), None)
        unknown = next((name for name in groups if name not in classes), None)
        if missing is not None or unknown is not None:
            problem = f"no group of class {missing!r}" if missing is not None else f"a group of {unknown!r}, no class"
            raise InputError(f"expected a group of each of {len(classes)} classes, got {problem}")
        return checked_groups(np.unique([str(groups[name]) for name in classes], return_inverse=True)[1], len(classes))
    if isinstance(groups, Integral) and not isinstance(groups, bool):
        return checked_groups(find_groups(_mean_affinity(bank, split, device), int(groups)), len(classes))
    return checked_groups(cast("Sequence[int]", groups), len(classes))


def _mean_affinity(bank: LogitBank, split: str | None, device: torch.device) -> np.ndarray:
    """(C, C) mean over teachers; NaN in rows of absent classes."""
    filled = Affinities(bank, split)
    for some, matrices in affinities(bank, FOUND_AT, split, device):
        filled.add(some, matrices)
    classes = len(bank.classes)
    matrix = np.full((classes, classes), np.nan)
    off = filled.present[:, None] != np.arange(classes)
    rows = np.zeros((len(filled.present), classes))
    rows[off] = filled.values.mean(0).ravel()
    matrix[filled.present] = rows
    return matrix
