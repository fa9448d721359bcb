"""The runs of a grid of students: which there are, where each leaves its files, and what it left.

A run is a folder ``runs/<hash of its configuration>/`` with ``config.json``, ``log.jsonl`` (one line an epoch, as it
ends), every now and then a checkpoint, and, once it is done, ``result.json`` instead.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from capmismatch._utils.commands import command
from capmismatch._utils.files import hash_of
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.data.datasets import Dataset
from capmismatch.distillation.config import DistillConfig
from capmismatch.distillation.methods import Method
from capmismatch.distillation.results import SETTING, complete
from capmismatch.errors import BankError, InputError
from capmismatch.training.recipes import Recipe

FORMAT = 1  # of a run's configuration; a change that alters results must raise it


class Experiment(Protocol):
    """What a grid asks of a study."""

    file: Path
    folder: Path
    workers: int
    progress: bool
    engine: str
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
    """One student to train: which teacher (None for plain cross-entropy), which setting, which seed."""

    student: str
    method: Method
    seed: int
    teacher: TeacherRecord | None


def plan(study: Experiment, bank: LogitBank) -> list[Run]:
    """Every run of a study, teacher by teacher. Student seed s has the teacher's training run s modulo its runs."""
    settings = study.distillation
    by_teacher: dict[tuple[str, str], list[TeacherRecord]] = defaultdict(list)
    for record in bank.teachers:
        by_teacher[record.family, record.teacher].append(record)
    if not by_teacher and any(method.name != "CE" for method in settings.methods):
        collect = command("collect", study.file, study.folder)
        raise InputError(f"there is no teacher in {bank.path}: run `{collect}` to the end")
    runs = []
    for method in settings.methods:
        taught = list(by_teacher.values()) if method.name != "CE" else [[None]]
        for own in taught:
            for student in settings.students:
                runs += [Run(student, method, seed, own[seed % len(own)]) for seed in range(settings.seeds)]
    return sorted(runs, key=lambda run: bank.keys.index(run.teacher.key) if run.teacher else -1)


def config_of(study: Experiment, run: Run) -> dict[str, Any]:
    """All that decides a run's result; its hash names the run's folder."""
    settings = study.distillation
    taught, by = None, run.teacher
    if by is not None:
        taught = {"key": by.key, "weights": by.weights_hash, "preprocessing": by.preprocessing}
    device = {} if settings.device == "cpu" else {"device": settings.device}
    return {
        "format": FORMAT,
        "student": run.student,
        "method": asdict(run.method),
        "seed": run.seed,
        "teacher": taught,
        "train": study.train_data.rows.fingerprint,
        "eval": study.eval_data.rows.fingerprint,
        "views": asdict(settings.views),
        "recipe": study.recipe.to_dict(),
        "center": list(settings.center),
        "scale": list(settings.scale),
        **device,
    }


def run_folder(study: Experiment, run: Run) -> Path:
    """Where a run leaves its files."""
    return study.folder / "runs" / hash_of(config_of(study, run))


def run_name(run: Run) -> str:
    """What a run is called in messages."""
    taught = f" from {run.teacher.key}" if run.teacher else ""
    return f"{run.student} by {run.method.label}{taught}, seed {run.seed}"


def is_settled(folder: Path) -> bool:
    """Whether a run is done, or has failed since the latest command began."""
    # Listed, not asked for by name: a client of NFS may go on believing for a minute that there is no such file.
    return folder.exists() and not {"result.json", "error.txt"}.isdisjoint(os.listdir(folder))


def results_of(done: list[tuple[Run, Path]]) -> pd.DataFrame:
    """The results table of runs that are done, each with its folder."""
    rows = []
    for run, folder in done:
        teacher, result = run.teacher, _result(folder)
        head = {
            "family": teacher.family if teacher else "",
            "teacher": teacher.teacher if teacher else "",
            "params": teacher.params if teacher else None,
            "teacher_seed": (teacher.seed or 0) if teacher else 0,
            "student": run.student,
            "label": run.method.label,
            "method": run.method.name,
            "seed": run.seed,
            **{name: getattr(run.method, name) for name in SETTING},
        }
        rows += [{**head, "split": split, **values} for split, values in result["splits"].items()]
    return complete(pd.DataFrame(rows))


def _result(folder: Path) -> dict[str, Any]:
    file = folder / "result.json"
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not result["splits"]:
            raise ValueError("no splits")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(f"{file} is damaged ({error}): remove it to train that student anew") from None
    return result
