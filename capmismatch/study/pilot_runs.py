"""Finished runs of a study that a pilot takes as they are."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capmismatch._utils.files import hash_of, write_json
from capmismatch._utils.torchrun import process_group
from capmismatch.distillation.methods import Method
from capmismatch.distillation.runs import plan, run_folder
from capmismatch.study.short_study import short_study
from capmismatch.study.study import Study
from capmismatch.study.tables import table_file

PLAIN = ("", "")
"""The teacher of plain cross-entropy."""


@dataclass(frozen=True)
class Found:
    """How many seeds of whole length there are, from the first on, by (family, teacher), label and student."""

    seeds: Mapping[tuple[tuple[str, str], str, str], int] = field(default_factory=dict)

    def of(self, teacher: tuple[str, str], label: str, students: Iterable[str]) -> int:
        """Seeds that every one of these students has."""
        return min(self.seeds.get((teacher, label, student), 0) for student in students)

    def alike(self) -> dict[tuple[str, str, int], list[tuple[str, str]]]:
        """Teachers by label, student and number of seeds."""
        found: dict[tuple[str, str, int], list[tuple[str, str]]] = defaultdict(list)
        for (teacher, label, student), seeds in self.seeds.items():
            found[label, student, seeds].append(teacher)
        return found


def find(
    study: Study,
    budget: float | str,
    teachers: Sequence[tuple[str, str]],
    students: tuple[str, ...],
    methods: Iterable[Method],
) -> Found:
    """Runs that were finished before a pilot began.

    ``tables/pilot.json`` remembers them, for a pilot that is started again must not take its own runs for gifts and
    spend its budget anew. Another budget, other candidates or a results table that is new begin another pilot.
    """
    seen: dict[tuple[tuple[str, str], str, str], dict[int, Path]] = defaultdict(dict)
    for method in methods:
        whole = short_study(
            study, teachers, method, seeds=study.distillation.seeds, epochs=study.recipe.epochs, students=students
        )
        for run in plan(whole, whole.bank):
            teacher = (run.teacher.family, run.teacher.teacher) if run.teacher else PLAIN
            seen[teacher, method.label, run.student][run.seed] = run_folder(whole, run)
    with process_group() as processes:  # the same for all processes of torchrun
        done = processes.on_rank_zero(
            lambda: _finished(study, budget, [f for own in seen.values() for f in own.values()])
        )
    counts: Counter[tuple[tuple[str, str], str, str]] = Counter()
    for arm, own in seen.items():
        while counts[arm] in own and own[counts[arm]].name in done:
            counts[arm] += 1
    return Found({arm: seeds for arm, seeds in counts.items() if seeds})


def _finished(study: Study, budget: float | str, folders: Sequence[Path]) -> set[str]:
    """Names of the runs that are finished, and were when this pilot began."""
    done = {folder.name for folder in folders if (folder / "result.json").exists()}
    results, ledger = table_file(study.folder, "results"), study.folder / "tables" / "pilot.json"
    state = hashlib.sha256(results.read_bytes()).hexdigest() if results.exists() else None
    stamp = hash_of([str(budget), sorted(folder.name for folder in folders), state])
    try:
        kept: dict[str, Any] = json.loads(ledger.read_text(encoding="utf-8"))
        if kept["made_from"] == stamp:
            return done & set(kept["found"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or not ours: a new one
        pass
    write_json(ledger, {"made_from": stamp, "found": sorted(done)})
    return done
