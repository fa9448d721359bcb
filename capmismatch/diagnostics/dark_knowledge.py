"""One example up close: the probabilities that each teacher gives the wrong classes, before and after ATS and ISATS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from capmismatch import probes
from capmismatch._numerics.soft_label_spec import TAU, TAU_OTHER, WRONG_ROWS, SoftLabelSpec, compared_specs
from capmismatch.data.bank import LogitBank
from capmismatch.errors import InputError
from capmismatch.temperature import soft_labels


def dark_knowledge(
    bank: LogitBank,
    example: str | None = None,
    teachers: Sequence[str] | None = None,
    *,
    tau: float = TAU,
    tau_other: float = TAU_OTHER,
    constraint: str = "order",
    margin: float | None = None,
    center: str = "mean",
    wrong: str = WRONG_ROWS,
    split: str | None = "val",
) -> pd.DataFrame:
    """Soft labels of one example by several teachers under TS, ATS and ISATS.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    example : str, optional
        Id of the example. By default a typical one: among those of `split` that the shown teachers all get right, the
        one at the median of the last teacher's derived std.
    teachers : sequence of str, optional
        Names, or keys in the bank; of a teacher with several runs a name is the first. By default the first run of the
        smallest teacher and of the largest; unknown sizes count as largest.
    tau : float, default 4.0
        Temperature of TS, and of the target's logit under ATS and ISATS.
    tau_other : float, default 3.0
        Temperature of the wrong classes under ATS.
    constraint : {"order", "anchor", "none"}, default "order"
        Of `capmismatch.temperature.isats`.
    margin : float, optional
        Of `capmismatch.temperature.isats`; 1 by default with the constraint "order".
    center : {"mean", "none"}, default "mean"
        Of `capmismatch.temperature.ats` and `capmismatch.temperature.isats`.
    wrong : {"plain", "target", "free"}, default "free"
        Of `capmismatch.temperature.isats`.
    split : str or None, default "val"
        Where to look for an example; None for the whole bank.

    Returns
    -------
    DataFrame
        One row per teacher, method and class, with the columns

        * example: id of the example
        * family, teacher: names; where several runs of one teacher are shown, `teacher` is the key of the run
        * method: TS, ATS or ISATS
        * class: name of the class
        * probability: in [0, 1]; sums to 1 over the classes
        * is_target: whether the class is the example's label

    Raises
    ------
    InputError
        An unknown example, teacher or split; no example that all teachers get right; a setting out of its range.

    See Also
    --------
    capmismatch.plots.dark_knowledge : The figure of this table.
    capmismatch.restored_variance : The same methods over all examples.

    Examples
    --------
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": [[5.0, 2, 1]], "b": [[9.0, 1, 2]]}, [0], classes=["cat", "dog", "car"])
    >>> table = dark_knowledge(bank)
    >>> table[table.method == "TS"].pivot(index="class", columns="teacher", values="probability").round(2)
    teacher     a     b
    class
    car      0.20  0.13
    cat      0.54  0.76
    dog      0.26  0.10
    """
    specs = compared_specs(tau, tau_other, constraint, margin, center, wrong=wrong)
    return example_soft_labels(bank, specs, example, teachers, split=split)


def example_soft_labels(
    bank: LogitBank,
    specs: Sequence[SoftLabelSpec],
    example: str | None = None,
    teachers: Sequence[str] | None = None,
    *,
    split: str | None = "val",
) -> pd.DataFrame:
    """Soft labels of one example by several teachers, one row per teacher, spec and class.

    The typical example is chosen at the temperature of the first spec. Columns and defaults are those of
    `dark_knowledge`.
    """
    if teachers is None:
        first_runs = list({(run.family, run.teacher): run for run in reversed(bank.teachers)}.values())[::-1]
        by_size = sorted(first_runs, key=lambda run: run.params or math.inf)
        teachers = list(dict.fromkeys([by_size[0].key, by_size[-1].key]))
    teachers = [bank.key_of(name) for name in ([teachers] if isinstance(teachers, str) else teachers)]
    row = _typical(bank, teachers, specs[0].tau, split) if example is None else _row_of(bank, example)
    label = torch.tensor([int(bank.rows.labels[row])])
    runs = [bank[key] for key in teachers]
    one_run_each = len({(run.family, run.teacher) for run in runs}) == len(runs)
    frames = []
    for key, run in zip(teachers, runs, strict=True):
        logits = torch.from_numpy(np.array(bank.row(key, row))[None]).double()
        for spec in specs:
            frames.append(
                pd.DataFrame(
                    {
                        "example": str(bank.rows.ids[row]),
                        "family": run.family,
                        "teacher": run.teacher if one_run_each else key,
                        "method": spec.method,
                        "class": list(bank.classes),
                        "probability": soft_labels(spec, logits, label)[0].numpy(),
                        "is_target": np.arange(len(bank.classes)) == int(label),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _row_of(bank: LogitBank, example: str) -> int:
    """Row of the example with that id."""
    matches = np.flatnonzero(bank.rows.ids == str(example))
    if not len(matches):
        raise InputError(
            f"there is no example {example!r} in the bank; ids go from {bank.rows.ids[0]!r} to {bank.rows.ids[-1]!r}"
        )
    return int(matches[0])


def _typical(bank: LogitBank, teachers: Sequence[str], tau: float, split: str | None) -> int:
    """Row of the example at the median of the last teacher's derived std, among those that all teachers get right."""
    rows = bank.select(split)
    derived_std, all_correct = [], []
    for logits, labels in bank.aligned_chunks(teachers, split):
        all_correct.append(np.all([of_teacher.argmax(1) == labels for of_teacher in logits], axis=0))
        derived_std.append(probes.derived_std(logits[-1], labels, tau).numpy())
    candidates = np.flatnonzero(np.concatenate(all_correct))
    if not len(candidates):
        raise InputError(f"no example of split {split!r} is right for all of {list(teachers)}: name one")
    order = np.argsort(np.concatenate(derived_std)[candidates], kind="stable")
    return int(rows[candidates[order[len(order) // 2]]])
