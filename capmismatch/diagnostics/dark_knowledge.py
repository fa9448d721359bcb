"""One example up close: the probabilities that each teacher gives the wrong classes, before and after ATS and ISATS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch.data.bank import LogitBank
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.asked import specs_of
from capmismatch.diagnostics.example_values import values_of
from capmismatch.errors import InputError
from capmismatch.probes import REGISTRY
from capmismatch.temperature import soft_labels, soften_parts

OTHERS = "(all others)"
"""What stands for all tokens together that condensed rows do not keep one by one."""


def dark_knowledge(
    bank: LogitBank,
    example: str | None = None,
    teachers: Sequence[str] | None = None,
    *,
    tau: float | None = None,
    tau_other: float | None = None,
    constraint: str = "order",
    margin: float | None = None,
    center: str = "mean",
    wrong: str | None = None,
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
    tau : float, optional
        Temperature of TS, and of the target's logit under ATS and ISATS; by default 4, and 1 of texts.
    tau_other : float, optional
        Temperature of the wrong classes under ATS; by default 3, and 0.75 of texts.
    constraint : {"order", "anchor", "none"}, default "order"
        Of `capmismatch.temperature.isats`.
    margin : float, optional
        Of `capmismatch.temperature.isats`; 1 by default with the constraint "order".
    center : {"mean", "none"}, default "mean"
        Of `capmismatch.temperature.ats` and `capmismatch.temperature.isats`.
    wrong : {"plain", "target", "free"}, optional
        Of `capmismatch.temperature.isats`; by default "free", and "plain" of texts.
    split : str or None, default "val"
        Where to look for an example; None for the whole bank.

    Returns
    -------
    DataFrame
        One row per teacher, method and class, with the columns

        * example: id of the example
        * family, teacher: names; where several runs of one teacher are shown, `teacher` is the key of the run
        * method: TS, ATS or ISATS
        * class: name of the class; of condensed rows the label, the reference teacher's likeliest wrong tokens and
          "(all others)"
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
    given = {"tau": tau, "tau_other": tau_other, "wrong": wrong}
    specs = specs_of(bank, given, constraint=constraint, margin=margin, center=center)
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
    runs = [bank[key] for key in teachers]
    one_run_each = len({(run.family, run.teacher) for run in runs}) == len(runs)
    frames = []
    for key, run in zip(teachers, runs, strict=True):
        for spec in specs:
            names, probability, is_target = _probabilities(bank, key, row, spec)
            frames.append(
                pd.DataFrame(
                    {
                        "example": str(bank.rows.ids[row]),
                        "family": run.family,
                        "teacher": run.teacher if one_run_each else key,
                        "method": spec.method,
                        "class": names,
                        "probability": probability,
                        "is_target": is_target,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _probabilities(
    bank: LogitBank, key: str, row: int, spec: SoftLabelSpec
) -> tuple[list[str], NDArray[np.float64], NDArray[np.bool_]]:
    """Names, soft label and which is the target, of all classes; of condensed rows those that are known.

    These are the label, the reference teacher's likeliest wrong tokens (for all teachers the same), and all others
    together.
    """
    label = int(bank.rows.labels[row])
    if not (isinstance(bank, TokenBank) and bank.condensed):
        logits = torch.from_numpy(np.array(bank.row(key, row))[None]).double()
        probability = soft_labels(spec, logits, torch.tensor([label]))[0].numpy()
        return list(bank.classes), probability, np.arange(len(bank.classes)) == label
    one = np.array([row])
    raw = CondensedParts.of(bank.condensed_rows(key, one))
    softened = soften_parts(spec, raw, ats_reads_wrong=True).softened
    tokens = bank.condensed_rows(bank.reference or key, one).ids[0].astype(np.int64)
    over_tau = torch.from_numpy(bank.reference_columns(key, one)).double() / torch.as_tensor(softened.tau).reshape(
        -1, 1
    )
    wrong = (over_tau.exp() * softened.wrong_scale[:, None])[0].numpy()
    target = float(softened.target_prob[0])
    probability = np.array([target, *wrong, max(0.0, 1.0 - target - float(wrong.sum()))])
    names = [bank.classes[label], *(bank.classes[token] for token in tokens), OTHERS]
    return names, probability, np.arange(len(names)) == 0


def _row_of(bank: LogitBank, example: str) -> int:
    """Row of the example with that id."""
    matches = np.flatnonzero(bank.rows.ids == str(example))
    if not len(matches):
        raise InputError(
            f"there is no example {example!r} in the bank; ids go from {str(bank.rows.ids[0])!r} to "
            f"{str(bank.rows.ids[-1])!r}"
        )
    return int(matches[0])


def _typical(bank: LogitBank, teachers: Sequence[str], tau: float, split: str | None) -> int:
    """Row of the example at the median of the last teacher's derived std, among those that all teachers get right."""
    rows, measured = bank.select(split), [REGISTRY[name] for name in ("accuracy", "derived_std")]
    of_teachers = [values_of(bank, key, [tau], measured, split, torch.device("cpu")) for key in teachers]
    candidates = np.flatnonzero(np.all([values["accuracy", None] > 0 for values in of_teachers], axis=0))
    if not len(candidates):
        raise InputError(f"no example of split {split!r} is right for all of {list(teachers)}: name one")
    order = np.argsort(of_teachers[-1]["derived_std", tau][candidates], kind="stable")
    return int(rows[candidates[order[len(order) // 2]]])
