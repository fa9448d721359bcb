"""One example up close: what each teacher says about the wrong classes, before and after ATS and ISATS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from capmismatch import probes
from capmismatch.data.bank import LogitBank
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.temperature import ats, isats, soften


def dark_knowledge(
    bank: LogitBank,
    example: str | None = None,
    teachers: Sequence[str] | None = None,
    *,
    tau: float = 4.0,
    tau_other: float = 3.0,
    constraint: str = "order",
    margin: float | None = None,
    split: str | None = "val",
) -> pd.DataFrame:
    """Soft labels of one example by several teachers under TS, ATS and ISATS.

    Parameters
    ----------
    bank : a LogitBank
    example : id of the example; by default a typical one: among those of `split` that the shown teachers all get
        right, the one at the median of the last teacher's derived std
    teachers : keys in the bank; by default the first run of the smallest and of the largest, unknown sizes last
    tau, tau_other, constraint, margin : as `capmismatch.restored_variance` takes them
    split : where to look for an example

    Returns
    -------
    Tidy DataFrame with columns example, family, teacher, method, class, probability, is_target.

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
    if teachers is None:
        first_runs = list({(run.family, run.teacher): run for run in reversed(bank.teachers)}.values())[::-1]
        by_size = sorted(first_runs, key=lambda run: run.params or math.inf)
        teachers = list(dict.fromkeys([by_size[0].key, by_size[-1].key]))
    for key in teachers:
        must_be_one_of(key, bank.keys, "teacher key")
    row = _typical(bank, teachers, tau, split) if example is None else _row_of(bank, example)
    label = torch.tensor([int(bank.rows.labels[row])])
    runs = [bank[key] for key in teachers]
    alone = len({(run.family, run.teacher) for run in runs}) == len(runs)  # else several runs of one teacher are shown
    frames = []
    for key, run in zip(teachers, runs, strict=True):
        logits = torch.from_numpy(np.array(bank.row(key, row))[None]).double()
        soft = {
            "TS": soften(logits, label, tau),
            "ATS": ats(logits, label, tau, tau_other),
            "ISATS": isats(logits, label, tau, constraint=constraint, margin=margin).probs,
        }
        for method, p in soft.items():
            frames.append(
                pd.DataFrame(
                    {
                        "example": str(bank.rows.ids[row]),
                        "family": run.family,
                        "teacher": run.teacher if alone else key,
                        "method": method,
                        "class": list(bank.classes),
                        "probability": p[0].numpy(),
                        "is_target": np.arange(len(bank.classes)) == int(label),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _row_of(bank: LogitBank, example: str) -> int:
    found = np.flatnonzero(bank.rows.ids == str(example))
    if not len(found):
        raise InputError(
            f"there is no example {example!r} in the bank; ids go from {bank.rows.ids[0]!r} to {bank.rows.ids[-1]!r}"
        )
    return int(found[0])


def _typical(bank: LogitBank, teachers: Sequence[str], tau: float, split: str | None) -> int:
    rows = bank.select(split)
    spread, right = [], []
    for parts, labels in bank.aligned_chunks(teachers, split):
        right.append(np.all([part.argmax(1) == labels for part in parts], axis=0))
        spread.append(probes.derived_std(parts[-1], labels, tau).numpy())
    candidates = np.flatnonzero(np.concatenate(right))
    if not len(candidates):
        raise InputError(f"no example of split {split!r} is right for all of {list(teachers)}: name one")
    order = np.argsort(np.concatenate(spread)[candidates], kind="stable")
    return int(rows[candidates[order[len(order) // 2]]])
