"""From a choice to a student: the command that writes the teacher's soft labels, and the loss that takes them."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import pandas as pd

import capmismatch
from capmismatch.errors import InputError
from capmismatch.selection.rules import DEFAULT_TAU

SETTING = ("tau", "tau_other", "tau_student", "weight", "constraint", "margin", "wrong")
"""Columns of the results table that make a setting of a method."""

RARE = {
    "center": ("ATS", "ISATS"),
    "other": ("MatchKD", "ClassKD", "GRAFT"),
    "match": ("MatchKD",),
    "share": ("ClassKD",),
}
"""Further columns of a setting, and the methods that have them; in other rows such a column means something else."""

OF_SOFT_LABELS = {
    "KD": ("tau",),
    "ATS": ("tau", "tau_other", "center"),
    "ISATS": ("tau", "constraint", "margin", "center", "wrong"),
    "CalKD": ("tau",),
    "MatchKD": ("tau", "match", "other"),
    "ClassKD": ("tau", "share", "other"),
}
"""Methods whose soft labels a file can hold, and what they are made by; others need the teacher's logits."""


WITH_HELD_OUT = ("CalKD", "MatchKD")
"""Methods with a temperature of each teacher, which held-out rows tell."""

OF_TABLES = "soft labels: choice.soften(bank), where the bank holds the teacher's logits of training rows"
"""What stands in place of the command where nothing on disk is known to make soft labels of."""


def settings_in(tables: Iterable[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """The settings of results tables by their labels: name of the method, and what its row says of it.

    Examples
    --------
    >>> settings_in([pd.DataFrame({"label": ["KD tau=2", "CE"], "method": ["KD", "CE"], "tau": [2.0, None]})])
    {'KD tau=2': {'name': 'KD', 'tau': 2.0, 'tau_student': 2.0}}
    """
    settings: dict[str, dict[str, Any]] = {}
    for table in tables:
        if not {"label", "method"} <= set(table.columns):
            continue
        columns = [name for name in SETTING if name in table]
        rows = table[table["method"].ne("CE")].drop_duplicates("label")
        for row in rows.to_dict("records"):
            values = {str(name): row[name] for name in columns if not pd.isna(row[name]) and row[name] != ""}
            values |= {name: row[name] for name in _rare_in(row)}
            if options := _options(row.get("options")):
                values["options"] = options
            if row["method"] == "KD" and "tau" in values:  # by itself, KD has one temperature for both
                values.setdefault("tau_student", values["tau"])
            settings.setdefault(str(row["label"]), {"name": row["method"], **values})
    return settings


def lacks_temperature(setting: Mapping[str, Any]) -> bool:
    """Whether a setting of `settings_in` does not say the temperature that its method has.

    Examples
    --------
    >>> [lacks_temperature(setting) for setting in ({"name": "KD"}, {"name": "KD", "tau": 2.0}, {"name": "FitNet"})]
    [True, False, False]
    """
    if "tau" in setting:
        return False
    try:  # by the public name: this room does not know the one above it, which has the methods
        return capmismatch.Method(setting["name"]).tau is not None
    except InputError:  # one that needs more than its name, or another trainer's
        return False


def _rare_in(row: Mapping[Any, Any]) -> list[str]:
    """The further columns of its setting that a row of a results table has."""
    return [name for name, of in RARE.items() if row["method"] in of and not pd.isna(row.get(name)) and row[name] != ""]


def _options(cell: object) -> dict[str, Any]:
    """The options of a method in a cell, as JSON; none where it holds something else."""
    try:
        options = json.loads(str(cell))
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}


def soften_command(teacher: str, setting: Mapping[str, Any], source: str, options: Sequence[str] = ()) -> str:
    """The command that writes a teacher's soft labels, or its logits for methods that compare logits.

    Parameters
    ----------
    teacher : str
        Its key, or family and name.
    setting : mapping
        Of `settings_in`.
    source : str
        Study file, or folder of a bank.
    options : sequence of str
        What else that source asks for, such as ``("--split", "train")``.

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
    words = ["capmismatch", "soften", source, *options, "--teacher", teacher]
    words += ["--method", "logits" if fields is None else setting["name"].lower()]
    for name in fields or ():
        if name in setting:
            words += [f"--{name.replace('_', '-')}", _shown(setting[name])]
    return shlex.join([*words, "--out", "soft.safetensors"])


NEEDS = {"GRAFT": ", other=other_logits"}
"""What else the soft labels of a control are made of."""


def loss_line(setting: Mapping[str, Any]) -> str:
    """The line of Python that makes the loss of a setting, of student logits, labels and what `soften` wrote.

    A comment, where the setting is none that `capmismatch.Method` takes.

    Examples
    --------
    >>> loss_line({"name": "KD", "tau": 4.0, "weight": 0.5})
    'loss = cm.Method("KD", tau=4, weight=0.5).criterion()(student_logits, labels, soft_labels)'
    >>> loss_line({"name": "MyLoss", "tau": 4.0})
    '# the loss of "MyLoss" is your own code: it is no method of capmismatch'
    """
    values = {name: value for name, value in setting.items() if name != "name"}
    text = [f"{name}={_in_python(value)}" for name, value in values.items()]
    # by the public names, as a user would: this room does not know the one above it, which has the methods
    name = json.dumps(str(setting["name"]))
    if lacks_temperature(setting):
        return f"# the results do not say the temperature of {name}: take the loss of cm.Method({name}, tau=...)"
    try:
        method = capmismatch.Method(**setting)
        method.check_loss()
    except InputError as error:
        known = not str(error).startswith("method must be one of")
        why = f"the results lack some of it: {error}" if known else "it is no method of capmismatch"
        return f"# the loss of {name} is your own code: {' '.join(why.split())}"
    made = f"cm.Method({', '.join([name, *text])})"
    taken = "soft_labels" if setting["name"] in OF_SOFT_LABELS else "teacher_logits"
    if taken == "teacher_logits" and method.spec.kind == "soft labels":  # a control, which a file holds no labels of
        taken = f"{made}.soft_labels(teacher_logits, labels{NEEDS.get(setting['name'], '')})"
    return f"loss = {made}.criterion()(student_logits, labels, {taken})"


def _in_python(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _shown(value) if isinstance(value, Real) else repr(value)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):g}"


def first_setting(tau: float | None = None) -> dict[str, Any]:
    """What to teach by where no student tells: KD at a temperature, by default `DEFAULT_TAU`."""
    return {"name": "KD", "tau": DEFAULT_TAU if tau is None else tau}


def label_of(setting: Mapping[str, Any]) -> str:
    """The label of a setting.

    Examples
    --------
    >>> label_of(first_setting())
    'KD tau=4 student tau=1'
    """
    return str(capmismatch.Method(**setting).label)


class HandOver:
    """What a `capmismatch.Choice`, which is one, says of the way from it to a student."""

    @property
    def taught_by(self: Any) -> dict[str, Any]:
        """The setting to teach by: name of the method, and what else is known of it.

        Returns
        -------
        dict
            That of the choice; where students have different ones, that of the first student whose best teacher this
            is. Without students "KD" at the temperature of the probe, or 4; of language models at 1.
        """
        label = self.label
        if label is None and len(self.students):
            own = self.students["teacher"].eq(self.teacher) & self.students["family"].eq(self.family)
            label = str((self.students[own] if own.any() else self.students)["label"].iloc[0])
        if label in self.basis.methods:
            return dict(self.basis.methods[label])
        known = {} if self.tau is None or pd.isna(self.tau) else {"tau": self.tau}
        return (
            {"name": self.method, **known} if self.method else first_setting(self.setting.first_tau or known.get("tau"))
        )

    @property
    def _lacks_tau(self: Any) -> bool:
        """Whether the temperature of the setting to teach by is not known."""
        return lacks_temperature(self.taught_by)

    @property
    def without_tau(self: Any) -> str:
        """Why there is no command although the teacher's logits are there: "" or that a temperature is not known."""
        setting = self.taught_by
        if setting["name"] not in OF_SOFT_LABELS or not lacks_temperature(setting):
            return ""
        return f"soft labels need a temperature: the results of {setting['name']!r} do not say it, in a column tau"

    @property
    def command(self: Any) -> str:
        """The shell command that writes the teacher's soft labels of training rows.

        Returns
        -------
        str
            "" where none can, see `no_command`, or where no teacher is worth taking.
        """
        if self.takes_none or self.no_command or self.without_tau:
            return ""
        return soften_command(f"{self.family}/{self.teacher}", self.taught_by, self.source, self.soften_options)

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
            "train", "val" or "test"; all rows by default, with a warning where none of them is a training row.

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
        setting, teacher, held_out = self.taught_by, f"{self.family}/{self.teacher}", None
        if hasattr(bank, "training_banks"):
            of_training = split in (None, "train")
            held_out = bank.bank if setting["name"] in WITH_HELD_OUT else None
            bank, split = (bank.training_banks(), None) if of_training else ([bank.bank], split)
        elif split is None:
            _warn_without_training_rows(getattr(bank, "bank", bank))
        if setting["name"] in OF_SOFT_LABELS and lacks_temperature(setting):
            raise InputError(
                f"the results do not say the temperature of {setting['name']!r} (column tau): give it by "
                f"capmismatch.soft_labels(bank, {teacher!r}, capmismatch.Method({setting['name']!r}, tau=...))"
            )
        # by the public names, as a user would: this room does not know the one above it, which makes soft labels
        method = capmismatch.Method(**setting) if setting["name"] in OF_SOFT_LABELS else None
        return capmismatch.soft_labels(getattr(bank, "bank", bank), teacher, method, split=split, held_out=held_out)

    def to_dict(self: Any) -> dict[str, Any]:
        """The choice as plain values, for files and other programs.

        Returns
        -------
        dict
            Its attributes by their names, tables as lists of rows, and its sentences: title, reasons, risks.
        """
        plain = ["teacher", "family", "rule", "grade", "p_best", "expected_regret", "cheapest", "student", "label"]
        plain += ["method", "tau", "title", "reasons", "risks", "findings", "command", "no_command", "loss"]
        tables = ("table", "rules", "students", "settings", "trust", "rungs")
        return {name: getattr(self, name) for name in plain} | {
            name: getattr(self, name).to_dict("records") for name in tables
        }

    @property
    def _next(self: Any) -> list[str]:
        """Lines to copy: soft labels and loss; none where no teacher is worth taking."""
        return [] if self.takes_none else [self.command or f"# {self.no_command or self.without_tau}", self.loss]


def _warn_without_training_rows(banks: Any) -> None:
    """Warn where soft labels will be of validation and test rows alone."""
    splits = {name for bank in (banks if isinstance(banks, Sequence) else [banks]) for name in set(bank.rows.split)}
    if "train" not in splits:
        warnings.warn(
            f"soft labels of {' and '.join(sorted(map(str, splits), reverse=True))} rows, as the bank has no training "
            "rows: a student that learns from them is to be measured on other rows",
            stacklevel=3,
        )
