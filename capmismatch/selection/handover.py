"""From a choice to a student: the command that writes the teacher's soft labels, and the loss that takes them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

import capmismatch

SETTING = ("tau", "tau_other", "tau_student", "weight", "constraint", "margin", "wrong")
"""Columns of the results table that make a setting of a method."""

OF_SOFT_LABELS = {
    "KD": ("tau",),
    "ATS": ("tau", "tau_other"),
    "ISATS": ("tau", "constraint", "margin", "wrong"),
}
"""Methods whose soft labels are made of the teacher alone, and what they are made by; others need its logits."""


def settings_in(tables: Iterable[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """The settings of results tables by their labels: name of the method, and what its row says of it.

    Examples
    --------
    >>> settings_in([pd.DataFrame({"label": ["KD tau=2", "CE"], "method": ["KD", "CE"], "tau": [2.0, None]})])
    {'KD tau=2': {'name': 'KD', 'tau': 2.0}}
    """
    settings: dict[str, dict[str, Any]] = {}
    for table in tables:
        if not {"label", "method"} <= set(table.columns):
            continue
        columns = [name for name in SETTING if name in table]
        rows = table[table["method"].ne("CE")].drop_duplicates("label")
        for row in rows[["label", "method", *columns]].to_dict("records"):
            values = {str(name): row[name] for name in columns if not pd.isna(row[name]) and row[name] != ""}
            settings.setdefault(str(row["label"]), {"name": row["method"], **values})
    return settings


def soften_command(teacher: str, setting: Mapping[str, Any], source: str) -> str:
    """The command that writes a teacher's soft labels, or its logits for methods that compare logits.

    Parameters
    ----------
    teacher : str
        Its key, or family and name.
    setting : mapping
        Of `settings_in`.
    source : str
        Study file, or folder of a bank.

    Returns
    -------
    str
        To be typed in a shell.

    Examples
    --------
    >>> soften_command("mlp/mlp48", {"name": "ATS", "tau": 4.0, "tau_other": 3.0, "weight": 0.5}, "study.toml")
    'capmismatch soften study.toml --teacher mlp/mlp48 --method ats --tau 4 --tau-other 3 --out soft.safetensors'
    """
    fields = OF_SOFT_LABELS.get(setting["name"])
    words = ["capmismatch", "soften", source, "--teacher", teacher]
    words += ["--method", "logits" if fields is None else setting["name"].lower()]
    for name in fields or ():
        if name in setting:
            words += [f"--{name.replace('_', '-')}", _shown(setting[name])]
    return shlex.join([*words, "--out", "soft.safetensors"])


def loss_line(setting: Mapping[str, Any]) -> str:
    """The line of Python that makes the loss of a setting, of student logits, labels and what `soften` wrote.

    Examples
    --------
    >>> loss_line({"name": "KD", "tau": 4.0, "weight": 0.5})
    'loss = cm.Method("KD", tau=4, weight=0.5).criterion()(student_logits, labels, soft_labels)'
    """
    values = {name: value for name, value in setting.items() if name != "name"}
    text = [
        f"{name}={_shown(value)}" if not isinstance(value, str) else f'{name}="{value}"'
        for name, value in values.items()
    ]
    taken = "soft_labels" if setting["name"] in OF_SOFT_LABELS else "teacher_logits"
    return (
        f"loss = cm.Method({', '.join([_quoted(setting['name']), *text])}).criterion()(student_logits, labels, {taken})"
    )


def _quoted(text: str) -> str:
    return f'"{text}"'


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):g}"


class HandOver:
    """What a `capmismatch.Choice`, which is one, says of the way from it to a student."""

    @property
    def taught_by(self: Any) -> dict[str, Any]:
        """The setting to teach by: name of the method, and what else is known of it.

        Returns
        -------
        dict
            That of the choice; where students have different ones, that of the first student whose best teacher this
            is. Without students "KD" at its temperature 4.
        """
        label = self.label
        if label is None and len(self.students):
            own = self.students["teacher"].eq(self.teacher) & self.students["family"].eq(self.family)
            label = str((self.students[own] if own.any() else self.students)["label"].iloc[0])
        if label in self.basis.methods:
            return dict(self.basis.methods[label])
        known = {} if self.tau is None or pd.isna(self.tau) else {"tau": self.tau}
        return {"name": self.method, **known} if self.method else {"name": "KD", "tau": 4.0}

    @property
    def command(self: Any) -> str:
        """The shell command that writes the teacher's soft labels for this setting; "" where none is worth taking."""
        return "" if self.takes_none else soften_command(f"{self.family}/{self.teacher}", self.taught_by, self.source)

    @property
    def loss(self: Any) -> str:
        """The line of Python that makes the loss of this setting; "" where no teacher is worth taking."""
        return "" if self.takes_none else loss_line(self.taught_by)

    def soften(self: Any, bank: Any, *, split: str | None = None) -> Any:
        """Make the teacher's soft labels for this setting (its logits, where the method compares logits).

        Parameters
        ----------
        bank : LogitBank, sequence of LogitBank, Study or Diagnosis
            Where the teacher's logits lie; several banks are several views of the inputs. Of a study its training rows.
        split : str, optional
            "train", "val" or "test"; all rows by default.

        Returns
        -------
        SoftLabels
            By example id; ``.write("soft.safetensors")`` leaves them as a file.

        Raises
        ------
        InputError
            If the bank lacks the teacher, or has no rows of that split.

        See Also
        --------
        capmismatch.soft_labels : The same for any teacher and method.
        """
        if hasattr(bank, "training_banks"):
            of_training = split in (None, "train")
            bank, split = (bank.training_banks(), None) if of_training else ([bank.bank], split)
        setting, teacher = self.taught_by, f"{self.family}/{self.teacher}"
        # by the public names, as a user would: this room does not know the one above it, which makes soft labels
        method = capmismatch.Method(**setting) if setting["name"] in OF_SOFT_LABELS else None
        return capmismatch.soft_labels(getattr(bank, "bank", bank), teacher, method, split=split)

    def to_dict(self: Any) -> dict[str, Any]:
        """The choice as plain values, for files and other programs.

        Returns
        -------
        dict
            Its attributes by their names, tables as lists of rows, and its sentences: title, reasons, risks.
        """
        plain = ["teacher", "family", "rule", "grade", "p_best", "expected_regret", "cheapest", "student", "label"]
        plain += ["method", "tau", "title", "reasons", "risks", "findings", "command", "loss"]
        tables = ("table", "rules", "students", "settings", "trust", "rungs")
        return {name: getattr(self, name) for name in plain} | {
            name: getattr(self, name).to_dict("records") for name in tables
        }

    @property
    def _next(self: Any) -> list[str]:
        """Lines to copy: soft labels and loss; none where no teacher is worth taking."""
        return [] if self.takes_none else [self.command, self.loss]
