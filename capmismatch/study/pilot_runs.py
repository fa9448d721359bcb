"""The students of a pilot: those that the study had before, and those that it trains."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from capmismatch._utils.files import hash_file, hash_of, write_json
from capmismatch._utils.torchrun import process_group
from capmismatch.distillation.grid import distill
from capmismatch.distillation.methods import Method
from capmismatch.distillation.runs import plan, run_folder
from capmismatch.selection.candidates import UNIT
from capmismatch.selection.evidence import FEW
from capmismatch.study.halving import Rung
from capmismatch.study.short_study import short_study
from capmismatch.study.study import Study
from capmismatch.study.tables import table_file

Teacher = tuple[str, str]
"""Family and name."""

Arm = tuple[str, str, str]
"""What a rung trains and judges: a teacher's family and name, and the label of a setting."""

PLAIN: Teacher = ("", "")
"""The teacher of plain cross-entropy."""

_RUN = [*UNIT, "student", "label", "seed", "split", "epochs"]


@dataclass(frozen=True)
class FinishedRuns:
    """Students of full length that a study had before a pilot.

    Attributes
    ----------
    seeds : mapping from (teacher, label, student) to int
        How many seeds there are, from the first on.
    """

    seeds: Mapping[tuple[Teacher, str, str], int] = field(default_factory=dict)

    def of(self, teacher: Teacher, label: str, students: Iterable[str]) -> int:
        """Seeds that every one of these students has."""
        return min(self.seeds.get((teacher, label, student), 0) for student in students)

    def by_setting(self) -> dict[tuple[str, str, int], list[Teacher]]:
        """Teachers by label, student and number of seeds."""
        teachers: dict[tuple[str, str, int], list[Teacher]] = defaultdict(list)
        for (teacher, label, student), seeds in self.seeds.items():
            teachers[label, student, seeds].append(teacher)
        return teachers


def find_finished(
    study: Study,
    budget: float | str,
    teachers: Sequence[Teacher],
    students: tuple[str, ...],
    methods: Iterable[Method],
) -> FinishedRuns:
    """Runs that were finished before a pilot began.

    ``tables/pilot.json`` remembers them: a pilot that is started again must not take its own runs for finished ones and
    spend its budget again. Another budget, other candidates or a results table that is new begin another pilot.
    """
    folders: dict[tuple[Teacher, str, str], dict[int, Path]] = defaultdict(dict)
    for method in methods:
        short = short_study(
            study, teachers, method, seeds=study.distillation.seeds, epochs=study.recipe.epochs, students=students
        )
        for run in plan(short, short.bank):
            teacher = (run.teacher.family, run.teacher.teacher) if run.teacher else PLAIN
            folders[teacher, method.label, run.student][run.seed] = run_folder(short, run)
    every = [folder for by_seed in folders.values() for folder in by_seed.values()]
    with process_group() as processes:  # the same for all processes of torchrun
        done = processes.on_rank_zero(lambda: _done_before(study, budget, every))
    counts: Counter[tuple[Teacher, str, str]] = Counter()
    for key, by_seed in folders.items():
        while counts[key] in by_seed and by_seed[counts[key]].name in done:
            counts[key] += 1
    return FinishedRuns({key: seeds for key, seeds in counts.items() if seeds})


def _done_before(study: Study, budget: float | str, folders: Sequence[Path]) -> set[str]:
    """Names of the runs that are finished, and were when this pilot began."""
    done = {folder.name for folder in folders if (folder / "result.json").exists()}
    results, ledger = table_file(study.folder, "results"), study.folder / "tables" / "pilot.json"
    state = hash_file(results) if results.exists() else None
    stamp = hash_of([str(budget), sorted(folder.name for folder in folders), state])
    try:
        entry = json.loads(ledger.read_text(encoding="utf-8"))
        if entry["made_from"] == stamp:
            return done & set(entry["found"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or not ours: a new one
        pass
    write_json(ledger, {"made_from": stamp, "found": sorted(done)})
    return done


class PilotRuns:
    """Trains the students of a pilot, and gathers them with those finished before.

    Parameters
    ----------
    study : Study
        In whose folder the runs lie.
    students : tuple of str
        The architectures that are trained.
    methods : iterable of Method
        All settings that a student may be trained by.

    Attributes
    ----------
    table : DataFrame
        A results table (see `capmismatch.distill`) with the columns ``epochs``, the length of the run, and
        ``finished_before``, whether the study had it before the pilot.
    """

    def __init__(self, study: Study, students: tuple[str, ...], methods: Iterable[Method]) -> None:
        self.study, self.students = study, students
        self.methods = {method.label: method for method in methods}
        self.table = pd.DataFrame(columns=[*_RUN, "accuracy", "finished_before"])

    def read(self, finished: FinishedRuns, epochs: int) -> None:
        """Add the students that were finished before."""
        for (label, student, seeds), teachers in finished.by_setting().items():
            if label in self.methods:
                self._add(label, teachers, Rung(0, epochs, seeds), (student,), finished_before=True)

    def train(self, arms: Sequence[Arm], rung: Rung) -> None:
        """Train the students of some arms for as long and with as many seeds as a rung says, where they are missing."""
        for label in dict.fromkeys(label for _, _, label in arms):
            teachers = [(family, teacher) for family, teacher, other in arms if other == label]
            self._add(label, teachers, rung, self.students, finished_before=False)

    def of(self, student: str, split: str) -> pd.DataFrame:
        """Rows of one student on one split."""
        return self.table[self.table["student"].eq(student) & self.table["split"].eq(split)]

    def accuracies(self, split: str, epochs: int) -> pd.Series:
        """Mean accuracy of each arm on a split, of runs of one length, over students and seeds."""
        rows = self.table[self.table["split"].eq(split) & self.table["epochs"].eq(epochs)]
        return rows.groupby([*UNIT, "label"])["accuracy"].mean()

    def longest(self, label: str) -> int:
        """Epochs of the longest students of a setting."""
        return int(self.table.loc[self.table["label"].eq(label), "epochs"].max())

    def results_and_evidence(self, label: str, epochs: int) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """What a pick chooses by, and what it learns from.

        The results are all students of that length. The evidence is every other setting, and the chosen one at another
        length, each with three teachers or more; one table for each setting and length.
        """
        same_length, has_teacher = self.table["epochs"].eq(epochs), self.table["teacher"].ne("")
        other = self.table[has_teacher & ~(same_length & self.table["label"].eq(label))]
        tables = [rows for _, rows in other.groupby(["label", "epochs"], sort=True)]
        return self.table[same_length], [rows for rows in tables if len(rows[UNIT].drop_duplicates()) >= FEW]

    def _add(
        self, label: str, teachers: Sequence[Teacher], rung: Rung, students: tuple[str, ...], finished_before: bool
    ) -> None:
        """Train students, or read those that are there, and add them to the table."""
        short = short_study(
            self.study, teachers, self.methods[label], seeds=rung.seeds, epochs=rung.epochs, students=students
        )
        rows = distill(short).assign(epochs=rung.epochs, finished_before=finished_before)
        both = pd.concat([self.table, rows]) if len(self.table) else rows
        self.table = both.drop_duplicates(_RUN, ignore_index=True)
