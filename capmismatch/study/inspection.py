"""A look at a whole study before it runs: all of it is loaded, each teacher runs one batch, the cost is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from capmismatch._utils.commands import command
from capmismatch._utils.progress import progress_bar
from capmismatch._utils.text import count, duration, format_count, table_text
from capmismatch._utils.torchrun import world_size
from capmismatch.data.records import STUDENT
from capmismatch.errors import CapmismatchError
from capmismatch.findings import explain
from capmismatch.study.checking import check_pick_of, check_teachers, read_results
from capmismatch.study.study import Study

ROWS = 256
"""How many held-out rows every teacher is run on; spread over all of them."""

STEPS = 4
"""Batches that a student is trained on to see how long one takes."""


@dataclass
class Inspection:
    """What a look at a study found.

    Attributes
    ----------
    problems : list of str
        What would fail, each as the stage would say it.
    notes : list of str
        What is odd: findings, and names that do not match.
    teachers : DataFrame
        One row per teacher: ``family, teacher, seed, params, accuracy`` (on the rows looked at), ``findings``, and
        ``seconds`` for all rows of a collection.
    cost : DataFrame
        One row per kind of work: ``what``, how many ``passes`` of one example, and the estimated ``hours``; NaN where
        nothing could be timed.
    about : list of str
        What was loaded.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    teachers: pd.DataFrame = field(default_factory=pd.DataFrame)
    cost: pd.DataFrame = field(default_factory=pd.DataFrame)
    about: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """Hours of all work; NaN where some of it could not be timed."""
        return float(self.cost["hours"].sum(skipna=False)) if len(self.cost) else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """All of it as values of JSON."""
        tables = {name: getattr(self, name).to_dict("records") for name in ("teachers", "cost")}
        return {"problems": self.problems, "notes": self.notes, "about": self.about, **tables, "hours": self.hours}


def inspect_study(study: Study) -> Inspection:
    """Load all that a study names, run one batch of each teacher, and count what the study will cost.

    Nothing is written but teachers that are trained here (``letters:mlp``), which are kept where the study keeps them.

    Parameters
    ----------
    study : Study
        Any, fresh or run already.

    Returns
    -------
    Inspection
        What would fail, what is odd, and the cost.
    """
    look = Inspection()
    _try(look, world_size)
    _try(look, study.check)
    data = _try(look, lambda: study.eval_data)
    family = _try(look, lambda: study.family)
    if data is not None:
        splits = ", ".join(f"{number} {name}" for name, number in data.rows.split_counts.items())
        look.about.append(f"data {data.name!r}: {len(data.classes)} classes, {splits}")
    if family is not None:
        look.about.append(f"teachers: {len(family)}")
        _try(look, lambda: check_teachers(study, [(teacher.family, teacher.name) for teacher in family]))
    if data is not None and family is not None:
        _look_at_teachers(study, family, data, look)
    results = _try(look, lambda: read_results(study)) if study.config.results is not None else None
    if results is not None:
        look.about.append(f"results: {count(len(results), 'row')}")
        _try(look, lambda: check_pick_of(study, results))
        if family is not None:
            _match_names(family, results, look)
    _count_cost(study, family, data, look)
    return look


def inspection_text(look: Inspection, study: Study) -> str:
    """What was found, for a terminal: teachers, cost, warnings and problems, and the command to run next.

    Parameters
    ----------
    look : Inspection
        Of `inspect_study`.
    study : Study
        The same study.

    Returns
    -------
    str
        Several paragraphs.
    """
    parts = ["\n".join(look.about)]
    if len(look.teachers):
        shown = look.teachers.assign(
            seed=["" if seed is None or seed != seed else f"{seed:.0f}" for seed in look.teachers["seed"]],
            params=[format_count(size, missing="") for size in look.teachers["params"]],
            accuracy=[f"{100 * value:.1f} %" for value in look.teachers["accuracy"]],
            collect=[duration(value) for value in look.teachers["seconds"]],
        )
        parts.append(table_text(shown.drop(columns="seconds"), len(shown)))
    if len(look.cost):
        shown = look.cost.assign(
            passes=[format_count(number) for number in look.cost["passes"]],
            time=[duration(3600 * hours) for hours in look.cost["hours"]],
        )
        total = f"total: about {duration(3600 * look.hours)}, students {study.workers} at a time"
        parts.append(f"{table_text(shown.drop(columns='hours'), len(shown))}\n{total}")
    for title, lines in (("Warnings", look.notes), ("Problems", look.problems)):
        if lines:
            parts.append("\n".join([title, *(f"  - {line}" for line in lines)]))
    if not look.problems:
        parts.append(f"No problems found. Next: {command('run', study.file, study.folder)}")
    return "\n\n".join(parts)


def _try(look: Inspection, load: Callable[[], Any]) -> Any:
    """What a stage loads; where that fails, its message becomes a problem, and None is given."""
    try:
        return load()
    except CapmismatchError as error:
        if str(error) not in look.problems:
            look.problems.append(str(error))
    except OSError as error:  # of a file that is there, and cannot be read
        look.problems.append(f"{type(error).__name__}: {error}")
    return None


# Teachers -------------------------------------------------------------------------------------------------------------


def _look_at_teachers(study: Study, family: Any, data: Any, look: Inspection) -> None:
    """Run each teacher, and each student of a family table, on some rows: what fails, what is odd, and how long."""
    from capmismatch.data.bank import bank_in_memory
    from capmismatch.diagnostics.checks import check
    from capmismatch.diagnostics.student_checks import check_students
    from capmismatch.sources.collecting import sample_logits
    from capmismatch.sources.in_memory import as_bank_entry, unprepared

    chosen = np.unique(np.linspace(0, len(data) - 1, min(ROWS, len(data))).astype(int))
    sample = data.take(chosen)
    rows, opened, seconds = [], [], {}
    networks = [*family, *(_try(look, lambda: study._data.students) or [])]
    with progress_bar(networks, desc="check", show=study.progress, unit="network") as bar:
        for order, teacher in enumerate(bar):
            bar.set_postfix_str(teacher.key)
            started = time.perf_counter()
            logits = _try(look, lambda one=teacher: sample_logits(one, sample, study.config.collect))  # type: ignore[misc]
            if logits is None:
                continue
            # Saved logits are read whole, whatever the number of rows.
            share = 1.0 if teacher.saved is not None else len(data) / len(sample)
            seconds[teacher.key] = share * (time.perf_counter() - started)
            opened.append(as_bank_entry(teacher, order, logits, sample.rows, unprepared(teacher, sample)))
    if not opened:
        return
    bank = bank_in_memory(sample.rows, opened)
    checks = [*check(bank).to_dict("records"), *check_students(bank).to_dict("records")]
    for record, of_teacher in zip([*bank.teachers, *bank.students], checks, strict=True):
        findings = sorted({*filter(None, f"{record.findings},{of_teacher['findings']}".split(","))})
        rows.append(
            {
                "family": record.family,
                "teacher": record.teacher + (" (student)" if record.role == STUDENT else ""),
                "seed": record.seed,
                "params": record.params,
                "accuracy": record.accuracy,
                "findings": ",".join(findings),
                "seconds": seconds[record.key],
            }
        )
        reason = f": {of_teacher['reason']}" if of_teacher["reason"] else ""
        look.notes += [
            f"{code} {explain(code).title}: {record.role or 'teacher'} {record.key}{reason}" for code in findings
        ]
    look.teachers = pd.DataFrame(rows)


def _match_names(family: Any, results: pd.DataFrame, look: Inspection) -> None:
    """Note teachers of the results that the study lacks, and the other way round; none in common is a problem."""
    there = {teacher.name for teacher in family}
    taught = {str(name) for name in results["teacher"] if name}
    if not there & taught:
        look.problems.append(
            f"no teacher has both logits and results: the study has {sorted(there)}, the results have {sorted(taught)}"
        )
        return
    if taught - there:
        look.notes.append(f"results of teachers that the study lacks are left out: {', '.join(sorted(taught - there))}")
    if there - taught:
        look.notes.append(f"teachers without students: {', '.join(sorted(there - taught))}")


# Cost -----------------------------------------------------------------------------------------------------------------


def _count_cost(study: Study, family: Any, data: Any, look: Inspection) -> None:
    """How many passes the study makes, and how long they take by what was timed."""
    if family is None or data is None:
        return
    networks = sum(teacher.saved is None for teacher in family)
    timed = look.teachers["seconds"].sum() if len(look.teachers) >= len(family) else float("nan")
    work = [("forward, teachers on held-out rows", networks * len(data), timed / 3600)]
    if study.config.distill is not None:
        train = _try(look, lambda: study.train_data)
        if train is not None:
            seen = len(train) * study.views.count
            work.append(("forward, teachers on training rows", networks * seen, timed / 3600 * seen / len(data)))
            work += _students(study, family, train, look)
    look.cost = pd.DataFrame(work, columns=["what", "passes", "hours"])


def _students(study: Study, family: Any, train: Any, look: Inspection) -> list[tuple[str, int, float]]:
    """The training of all students: one row for each architecture, timed by a few steps of plain training."""
    config = study.distillation
    recipe = _try(look, lambda: study.recipe)
    if recipe is None:
        return []
    units = len({(teacher.family, teacher.name) for teacher in family})
    runs = config.seeds * sum(units if method.has_teacher else 1 for method in config.methods)
    work = []
    for student in config.students:
        a_row = _try(look, lambda one=student: _seconds_for_a_row(study, one, recipe, train))  # type: ignore[misc]
        passes = runs * recipe.epochs * len(train)
        hours = float("nan") if a_row is None else passes * a_row / 3600 / study.workers
        work.append((f"forward and backward, {runs} students {student}", passes, hours))
    return work


def _seconds_for_a_row(study: Study, student: str, recipe: Any, train: Any) -> float:
    """Seconds that a student takes for one row, forward and backward, from a few steps."""
    from dataclasses import replace

    import torch

    from capmismatch._utils.machine import threads
    from capmismatch.distillation.student_trainer import Trainer
    from capmismatch.training.loop import fit

    trainer = Trainer(study)
    count = STEPS * recipe.batch_size  # of examples, or windows
    if trainer.is_text:
        inputs, labels = trainer.inputs[:, :count], trainer.labels[:count]
    else:
        rows = np.arange(min(len(train), count))
        inputs = torch.from_numpy(np.asarray(train.take(rows).inputs))[None]
        labels = torch.from_numpy(train.labels[rows])
    short = replace(recipe, epochs=1, milestones=(), warmup_epochs=0, keep_best=False, patience=0)
    with torch.random.fork_rng(devices=[]), threads(study.distillation.threads):
        network = trainer.build(student, seed=0)

        def once() -> float:
            started = time.perf_counter()
            options: dict[str, Any] = {"seed": 0, "prepare": trainer.prepare, "device": study.distillation.device}
            fit(network, inputs, labels, short, alone=True, **options)
            return time.perf_counter() - started

        once()  # the first steps of a process load what they need
        return once() / int((labels >= 0).sum())
