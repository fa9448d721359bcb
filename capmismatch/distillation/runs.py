"""The runs of a grid of students: which there are, where each leaves its files, and what it left.

A run trains one student once: one architecture, one setting, one seed, and one training run of one teacher. It leaves a
folder ``runs/<hash of its configuration>/`` with ``config.json``, ``log.jsonl`` (one line per epoch, written as it
ends), every now and then a checkpoint, and, once it is done, ``result.json`` instead.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import pandas as pd

from capmismatch._utils.code import code_hash
from capmismatch._utils.commands import command
from capmismatch._utils.files import hash_of
from capmismatch.data.bank import SPLITS, LogitBank, TeacherRecord
from capmismatch.data.datasets import Dataset
from capmismatch.distillation.config import DistillConfig
from capmismatch.distillation.methods import Method
from capmismatch.distillation.results import OUTCOMES, complete, rare_columns
from capmismatch.errors import BankError, InputError
from capmismatch.selection.handover import SETTING
from capmismatch.training.recipes import Recipe

FORMAT = 1  # of a run's configuration; raised by changes that alter results


class Experiment(Protocol):
    """What a grid asks of a study."""

    file: Path
    folder: Path
    workers: int
    progress: bool
    engine: str | None
    address: str | None

    @property
    def distillation(self) -> DistillConfig:
        """Which students, by which methods."""

    @property
    def recipe(self) -> Recipe:
        """How students are trained."""

    @property
    def bank(self) -> LogitBank:
        """The teachers' logits on the rows that students are evaluated on."""

    @property
    def train_data(self) -> Dataset:
        """Training rows of the students."""

    @property
    def eval_data(self) -> Dataset:
        """Validation and test rows."""

    def view_bank(self, number: int) -> LogitBank:
        """The teachers' logits on a view of the training rows."""


@dataclass(frozen=True)
class Run:
    """One student to train.

    Attributes
    ----------
    student : str
        Its architecture.
    method : Method
        The setting.
    seed : int
        Which of the student's training runs; it seeds the initial weights and all random draws.
    teacher : TeacherRecord or None
        None for plain cross-entropy.
    other : TeacherRecord or None
        The second teacher of the method GRAFT.
    """

    student: str
    method: Method
    seed: int
    teacher: TeacherRecord | None
    other: TeacherRecord | None = None

    @property
    def name(self) -> str:
        """See `run_name`."""
        return run_name(self.student, self.method, self.seed, self.teacher.key if self.teacher else None)

    @property
    def columns(self) -> dict[str, Any]:
        """Who was taught by whom, as tables of students have it."""
        teacher = self.teacher
        return {
            "family": teacher.family if teacher else "",
            "teacher": teacher.teacher if teacher else "",
            "params": teacher.params if teacher else None,
            "teacher_seed": (teacher.seed or 0) if teacher else 0,
            "student": self.student,
            "label": self.method.label,
            "method": self.method.name,
            "seed": self.seed,
        }


def run_name(student: str, method: Method, seed: int, teacher: str | None) -> str:
    """What a run is called in messages and trackers.

    Examples
    --------
    >>> run_name("mlp24", Method("KD"), 1, "mlp/mlp48-s1")
    'mlp24 by KD tau=4 student tau=1 from mlp/mlp48-s1, seed 1'
    """
    source = f" from {teacher}" if teacher else ""
    return f"{student} by {method.label}{source}, seed {seed}"


def plan(study: Experiment, bank: LogitBank) -> list[Run]:
    """List every run of a study, teacher by teacher. Seed s of a student has the teacher's run s modulo its runs."""
    config = study.distillation
    by_teacher: dict[tuple[str, str], list[TeacherRecord]] = defaultdict(list)
    for record in bank.teachers:
        by_teacher[record.family, record.teacher].append(record)
    if not by_teacher and any(method.has_teacher for method in config.methods):
        collect = command("collect", study.file, study.folder)
        raise InputError(f"there is no teacher in {bank.path}: run `{collect}` to the end")
    runs = []
    for method in config.methods:
        teachers = list(by_teacher.values()) if method.has_teacher else [[None]]
        others: Sequence[TeacherRecord | None] = [None]
        if method.other is not None:
            others = by_teacher[unit_named(method.other, by_teacher, method.label)]
        for records in teachers:
            for student in config.students:
                runs += [
                    Run(student, method, seed, records[seed % len(records)], others[seed % len(others)])
                    for seed in range(config.seeds)
                ]
    return sorted(runs, key=lambda run: bank.keys.index(run.teacher.key) if run.teacher else -1)


def unit_named(name: str, units: Iterable[tuple[str, str]], label: str) -> tuple[str, str]:
    """Family and name of the one teacher that a setting names; InputError where none is named so, or several are."""
    units = list(units)
    found = [unit for unit in units if name in (unit[1], "/".join(unit))]
    if len(found) != 1:
        choices = ", ".join("/".join(unit) for unit in units)
        problem = "no teacher" if not found else "several teachers"
        raise InputError(f"{label} names {problem} {name!r}: expected one of {choices}")
    return found[0]


def config_of(study: Experiment, run: Run) -> dict[str, Any]:
    """Everything that decides a run's result; its hash names the run's folder."""
    config = study.distillation
    device = {} if config.device == "cpu" else {"device": config.device}
    threads = {} if config.threads == 1 else {"threads": config.threads}
    code = _code_of(study, run)
    return {
        "format": FORMAT,
        "student": run.student,
        "method": run.method.to_dict(),
        "seed": run.seed,
        "teacher": _identity(run.teacher),
        "train": study.train_data.rows.fingerprint,
        "eval": study.eval_data.rows.fingerprint,
        "views": asdict(config.views),
        "recipe": study.recipe.to_dict(),
        "center": list(config.center),
        "scale": list(config.scale),
        **device,
        **threads,
        **({"code": code} if code else {}),
        **({"other": _identity(run.other)} if run.other is not None else {}),
    }


def _identity(record: TeacherRecord | None) -> dict[str, Any] | None:
    """What a teacher is, for a hash."""
    if record is None:
        return None
    teacher = {"key": record.key, "weights": record.weights_hash, "preprocessing": record.preprocessing}
    # What earlier versions did not have is left out where there is none, so that hashes of their runs stay.
    return teacher | ({"built_by": record.built_by} if record.built_by else {})


_CODE: WeakKeyDictionary[Experiment, dict[tuple[str, ...], dict[str, str]]] = WeakKeyDictionary()


def _code_of(study: Experiment, run: Run) -> dict[str, str]:
    """`own_code` of a run's student and assistants, the same all through a study's life: files may be edited."""
    names = (run.student, *run.method.assistants)
    known = _CODE.setdefault(study, {})
    if names not in known:
        known[names] = own_code(names)
    return known[names]


def own_code(architectures: Iterable[str]) -> dict[str, str]:
    """A hash of the user's own code behind each architecture that is not one of this package's."""
    if "capmismatch.architectures.registry" not in sys.modules:  # nobody has registered any; it takes torch to load
        return {}
    from capmismatch.architectures.registry import builder_of

    hashes = {name: code_hash(builder_of(name)) for name in architectures if name}
    return {name: digest for name, digest in hashes.items() if digest}


def run_folder(study: Experiment, run: Run) -> Path:
    """Where a run leaves its files."""
    return study.folder / "runs" / hash_of(config_of(study, run))


def is_settled(folder: Path) -> bool:
    """Whether a run is done, or has failed since the latest command began."""
    # The folder is listed, as a client of NFS may believe for a minute that a file it asked for does not exist.
    return folder.exists() and not {"result.json", "error.txt"}.isdisjoint(os.listdir(folder))


def results_of(done: list[tuple[Run, Path]]) -> pd.DataFrame:
    """Return the results table of runs that are done.

    Parameters
    ----------
    done : list of (Run, Path)
        The runs, each with its folder.

    Returns
    -------
    DataFrame
        One row per run and split, with the columns of `capmismatch.load_results`.
    """
    rows = []
    for run, folder in done:
        _check_place(folder)
        result = read_result(folder)
        columns = {
            **run.columns,
            **{name: getattr(run.method, name) for name in SETTING},
            **rare_columns(run.method),
        }
        splits = dict(result["splits"])
        seen = {f"train_{name}": value for name, value in splits.pop("train", {}).items() if name in OUTCOMES}
        rows += [{**columns, "split": split, **values, **seen} for split, values in splits.items()]
    return complete(pd.DataFrame(rows))


def _check_place(folder: Path) -> None:
    """Raise unless a run's folder holds the run that it is named after: folders may have been exchanged or edited."""
    file = folder / "config.json"
    with _telling_damage(file):
        if (there := hash_of(json.loads(file.read_text(encoding="utf-8")))) != folder.name:
            raise ValueError(f"it is that of the run {there}")


def _check_values(split: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for what no training leaves."""
    accuracy, count = values["accuracy"], values["n"]
    if split not in SPLITS:
        raise ValueError(f"split {split!r}")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy {accuracy!r} on {split!r}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{count!r} rows of {split!r}")
    nll = values.get("nll", 0.0)
    if isinstance(nll, bool) or not isinstance(nll, int | float) or not 0 <= nll < math.inf:
        raise ValueError(f"nll {nll!r} on {split!r}")


def read_result(folder: Path) -> dict[str, Any]:
    """What a finished run has left: its accuracies by split, and the seconds that it took where it says so.

    Raises
    ------
    BankError
        Where the file is damaged, or holds what no training leaves.
    """
    with _telling_damage(folder / "result.json") as file:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not result["splits"]:
            raise ValueError("no splits")
        for split, values in result["splits"].items():
            _check_values(split, values)
    return result


def read_seconds(folder: Path) -> float:
    """How long a finished run took; NaN where it does not say.

    Raises
    ------
    BankError
        Where the file is damaged.
    """
    with _telling_damage(folder / "result.json") as file:
        seconds = json.loads(file.read_text(encoding="utf-8")).get("seconds", math.nan)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise ValueError(f"{seconds!r} seconds")
    return float(seconds)


@contextmanager
def _telling_damage(file: Path) -> Iterator[Path]:
    try:
        yield file
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BankError(f"{file} is damaged ({error}): remove it to train that student again") from None
