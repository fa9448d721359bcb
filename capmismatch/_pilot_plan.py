"""What a pilot would do with a budget, and what that costs: told before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from capmismatch._halving import Rung, cost, ladder, least_budget
from capmismatch._phrases import count, join
from capmismatch.errors import InputError, must_be_positive
from capmismatch.grid import plan
from capmismatch.methods import Method

if TYPE_CHECKING:
    from capmismatch.study import Study

FINALISTS = 2
"""Teachers whose settings are compared, and arms in the last rung of each stage."""

PLAIN_SEEDS = 2
"""Seeds of plain cross-entropy, the baseline."""


@dataclass(frozen=True)
class PilotPlan:
    """Rungs and their cost at most.

    Attributes
    ----------
    teachers : pairs of family and teacher that start
    students : names
    settings : to compare; the first is that by which teachers are compared
    by_teacher, by_setting : rungs of the two stages; none where there is nothing to compare
    plain : whether plain cross-entropy is trained beside, as the study has it
    epochs : of the whole recipe
    whole_grid : passes of the study's whole grid of students
    rows, held_out : that a student is trained and measured on
    teacher_passes : forward passes over the students' training rows that no bank holds yet
    """

    teachers: tuple[tuple[str, str], ...]
    students: tuple[str, ...]
    settings: tuple[Method, ...]
    by_teacher: tuple[Rung, ...]
    by_setting: tuple[Rung, ...]
    plain: bool
    epochs: int
    whole_grid: int
    rows: int
    held_out: int
    teacher_passes: int

    @property
    def passes(self) -> int:
        """Forward and backward passes of students, at most."""
        return self.rows * len(self.students) * (
            _weight(self.settings[:1]) * cost(self.by_teacher) + _weight(self.settings) * cost(self.by_setting)
            + self.plain * PLAIN_SEEDS * self.epochs
        )  # fmt: skip

    def __str__(self) -> str:
        """What is going to be done, for how much."""
        runs = sum(rung.arms * rung.seeds for rung in [*self.by_teacher, *self.by_setting])
        measured = self.held_out * len(self.students) * (runs + PLAIN_SEEDS * self.plain)
        lines = [f"Pilot: {count(len(self.teachers), 'teacher')}, students {join(list(self.students))}."]
        if self.by_teacher:
            lines.append(f"Teachers, by '{self.settings[0].label}': {_told(self.by_teacher)}.")
        if self.by_setting:
            names = join([f"'{method.label}'" for method in self.settings])
            lines.append(f"Settings {names}, with the teachers left: {_told(self.by_setting)}.")
        if self.plain:
            lines.append(f"Plain cross-entropy beside: {self.epochs} epochs, {PLAIN_SEEDS} seeds.")
        lines.append(
            f"Cost at most: {self.passes:,} forward and backward passes of students "
            f"({self.passes / self.whole_grid:.0%} of the whole grid's {self.whole_grid:,}), {measured:,} forward "
            f"passes to measure them, {self.teacher_passes:,} forward passes of teachers. "
            "Students that are there are not trained again."
        )
        return "\n".join(lines)


def make_plan(
    study: Study, budget: float | str, teachers: Sequence[tuple[str, str]], students: Sequence[str],
    taus: Sequence[float],
) -> PilotPlan:
    """Rungs that a budget pays for.

    Parameters
    ----------
    study : Study
        With a bank.
    budget : float or str
        As `capmismatch.pilot` takes it.
    teachers : sequence of pairs of family and teacher
    students : sequence of str
    taus : sequence of float
        Further temperatures to try of each setting that has one.

    Raises
    ------
    InputError
        If the budget is no budget or too small, or the study has no setting with a teacher.
    """
    settings = _settings(study, taus)
    epochs, rows = study.recipe.epochs, len(study.train_data)
    grid = sum(_weight([run.method]) for run in plan(study, study.bank))
    plain = any(method.name == "CE" for method in study.distillation.methods)
    pairs = min(FINALISTS, len(teachers)) * len(settings) if len(settings) > 1 else 0
    arms = [len(teachers) if len(teachers) > 1 or not pairs else 0, pairs]
    least = [least_budget(number, epochs, finalists=FINALISTS) if number else 0 for number in arms]
    extra = PLAIN_SEEDS * epochs if plain else 0
    each = _whole_runs(budget, grid) * epochs / len(students) - extra
    if each < sum(least):
        needed = (sum(least) + extra) * len(students) / epochs
        raise InputError(
            f"expected a budget of at least {needed:g} whole runs ({needed / grid:.1%} of the grid's {grid}) for "
            f"{count(len(teachers), 'teacher')}, {count(len(students), 'student')} and "
            f"{count(len(settings), 'setting')}, got {budget!r}"
        )
    shares = [each * own / sum(least) for own in least]
    by_teacher, by_setting = (
        tuple(ladder(number, epochs, share, finalists=FINALISTS)) if number else ()
        for number, share in zip(arms, shares, strict=True)
    )
    return PilotPlan(
        tuple(teachers), tuple(students), settings, by_teacher, by_setting, plain, epochs,
        grid * epochs * rows, rows, len(study.eval_data), _teacher_passes(study, teachers, rows),
    )  # fmt: skip


def _settings(study: Study, taus: Sequence[float]) -> tuple[Method, ...]:
    given = [method for method in study.distillation.methods if method.name != "CE"]
    if not given:
        raise InputError("a pilot needs a [[distill.methods]] with a teacher; the study has plain cross-entropy alone")
    more = [replace(method, tau=float(tau)) for method in given if method.tau is not None for tau in taus]
    return tuple({method.label: method for method in [*given, *more]}.values())


def _whole_runs(budget: float | str, grid: int) -> float:
    """A budget in runs of the whole recipe."""
    text = str(budget).strip()
    try:
        number = float(text.removesuffix("%"))
        must_be_positive(number, "budget")
    except ValueError:
        raise InputError(f"expected a budget such as '20%' of the grid or 12 (whole runs), got {budget!r}") from None
    return number / 100 * grid if text.endswith("%") else number


def _weight(methods: Sequence[Method]) -> int:
    """Networks trained in a run at most: the student, and the assistants that its method goes through."""
    return max(1 + len(method.assistants) for method in methods)


def _teacher_passes(study: Study, teachers: Sequence[tuple[str, str]], rows: int) -> int:
    views, folder = study.distillation.views, study.folder / "bank" / "views"
    keys = [record.key for record in study.bank.teachers if (record.family, record.teacher) in teachers]
    files = (folder / views.name(number) / key / "logits.safetensors" for number in range(views.count) for key in keys)
    return rows * sum(not file.exists() for file in files)


def _told(rungs: Sequence[Rung]) -> str:
    parts = [f"{rung.arms} for {rung.epochs} epochs with {count(rung.seeds, 'seed')}" for rung in rungs]
    return ", then ".join(parts)
