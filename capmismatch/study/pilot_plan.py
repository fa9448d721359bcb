"""What a pilot would do with a budget, and what that costs, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from capmismatch._utils.text import count, format_percent, join, start
from capmismatch.distillation.methods import Method
from capmismatch.distillation.runs import plan
from capmismatch.errors import InputError, must_be_positive
from capmismatch.study.halving import Rung, cost, ladder, least_budget, new_runs
from capmismatch.study.pilot_runs import PLAIN, FinishedRuns, Teacher
from capmismatch.study.study import Study

FINALISTS = 2
"""Teachers whose settings are compared, and arms in the last rung of each stage."""

PLAIN_SEEDS = 2
"""Seeds of plain cross-entropy, the baseline."""

ROUNDING = 1e-9
"""Whole runs by which a budget may be exceeded: shares in percent are rounded."""


@dataclass(frozen=True)
class LeftOut:
    """What there is no budget for; false where there is nothing.

    Attributes
    ----------
    settings : tuple of str
        Labels of settings that are not compared.
    plain_seeds : int
        Seeds of plain cross-entropy that are not trained.
    baseline : bool
        Whether there is no plain cross-entropy at all.
    second_seeds : bool
        Whether every arm has one seed alone.
    teachers : tuple of pairs of family and name
        Those that the probes, or the evidence, put last.
    enough : float
        Share of the study's whole grid from which on nothing is left out.
    """

    settings: tuple[str, ...] = ()
    plain_seeds: int = 0
    baseline: bool = False
    second_seeds: bool = False
    teachers: tuple[Teacher, ...] = ()
    enough: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.settings or self.plain_seeds or self.second_seeds or self.teachers)

    def __str__(self) -> str:
        if not self:
            return ""
        parts = []
        if self.settings:
            parts.append(f"the {'setting' if len(self.settings) == 1 else 'settings'} {_quoted(self.settings)}")
        if self.plain_seeds:
            parts.append("plain cross-entropy" if self.baseline else "a second seed of plain cross-entropy")
        if self.second_seeds:
            parts.append("second seeds, so probabilities are rough")
        if self.teachers:
            parts.append(f"{join(['/'.join(teacher) for teacher in self.teachers])}, which the probes rank last")
        text = start(f"left out because of the budget: {'; '.join(parts)}.")
        return f"{text} A budget of {_percent(self.enough)} covers everything."


@dataclass(frozen=True)
class PilotPlan:
    """Rungs and their cost at most.

    Attributes
    ----------
    teachers : tuple of pairs of family and teacher
        Those that start.
    students : tuple of str
        Names of architectures.
    settings : tuple of Method
        To compare; the first is that by which teachers are compared.
    by_teacher, by_setting : tuple of Rung
        Of the two stages; none where there is nothing to compare.
    plain_seeds : int
        Of plain cross-entropy, which is trained beside where the study has it.
    epochs : int
        Of the whole recipe.
    passes : int
        Forward and backward passes of students, at most.
    measured : int
        Forward passes over the rows held out, at most.
    whole_grid : int
        Passes of the study's whole grid of students.
    rows : int
        That a student is trained on.
    teacher_passes : int
        Forward passes over the students' training rows that no bank holds yet.
    finished : int
        Runs of the study that are taken as they are.
    left_out : LeftOut
        What there is no budget for.
    """

    teachers: tuple[Teacher, ...]
    students: tuple[str, ...]
    settings: tuple[Method, ...]
    by_teacher: tuple[Rung, ...]
    by_setting: tuple[Rung, ...]
    plain_seeds: int
    epochs: int
    passes: int
    measured: int
    whole_grid: int
    rows: int
    teacher_passes: int
    finished: int
    left_out: LeftOut

    def __str__(self) -> str:
        """What the pilot will do, and its cost."""
        names = "student" if len(self.students) == 1 else "students"
        labels = [method.label for method in self.settings]
        lines = [f"Pilot: {count(len(self.teachers), 'teacher')}, {names} {join(list(self.students))}."]
        if self.by_teacher:
            lines.append(f"Teachers, with '{labels[0]}': {_rungs_in_words(self.by_teacher)}.")
        if self.by_setting:
            lines.append(
                f"Settings {_quoted(labels)}, with the remaining teachers: {_rungs_in_words(self.by_setting)}."
            )
        if self.plain_seeds:
            lines.append(f"Baseline (plain cross-entropy): {self.epochs} epochs, {count(self.plain_seeds, 'seed')}.")
        if self.left_out:
            lines.append(str(self.left_out))
        if self.finished:
            are = "is" if self.finished == 1 else "are"
            lines.append(f"{count(self.finished, 'finished student')} of the study {are} reused at no cost.")
        lines.append(
            f"Maximum cost: {self.passes:,} forward and backward passes of students "
            f"({format_percent(self.passes / self.whole_grid)} of the whole grid's {self.whole_grid:,}), "
            f"{self.measured:,} forward passes to evaluate them, {self.teacher_passes:,} forward passes of teachers. "
            "Existing students are reused."
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Scope:
    """How much is to be compared: so many teachers, settings, and seeds of plain cross-entropy and of the last rung."""

    teachers: int
    settings: int
    plain: int
    seeds: int


def _scopes(teachers: int, settings: int, plain: bool) -> Iterator[_Scope]:
    """From all of the study to what hardly is a comparison.

    Settings go first, then the baseline, as a pilot asks for a teacher; then a second seed, then teachers. A seed less
    comes before a teacher less as one seed that all teachers share tells more of them (see `ladder`) than their probes.
    """
    for number in range(settings, 0, -1):
        yield _Scope(teachers, number, PLAIN_SEEDS * plain, 2)
    for number in range(teachers, min(2, teachers) - 1, -1):
        yield _Scope(number, 1, 0, 2)
        if plain:
            yield _Scope(number, 1, 1, 1)
        yield _Scope(number, 1, 0, 1)


@dataclass(frozen=True)
class _StagePrice:
    """What one stage costs for one student: so many arms, of so many networks a run, that have some whole runs."""

    arms: int
    networks: int
    finished: Sequence[int]

    def least(self, epochs: int, full_length: bool) -> float:
        """Epochs of training of the cheapest rungs."""
        if not self.arms:
            return 0
        return self.networks * least_budget(
            self.arms, epochs, finalists=FINALISTS, finished=self.finished, full_length=full_length
        )

    def rungs(self, epochs: int, budget: float, full_length: bool) -> tuple[Rung, ...]:
        """Rungs for a budget in epochs of training."""
        if not self.arms:
            return ()
        budget /= self.networks
        return tuple(
            ladder(self.arms, epochs, budget, finalists=FINALISTS, finished=self.finished, full_length=full_length)
        )

    def of(self, rungs: Sequence[Rung]) -> int:
        """Epochs of training of rungs at most."""
        return self.networks * cost(rungs, self.finished)


@dataclass(frozen=True)
class _Prices:
    """What scopes cost, in epochs of training for each student."""

    epochs: int
    networks: Sequence[int]  # trained in a run of each setting: the student, and its method's assistants
    finished: Sequence[Sequence[int]]  # whole runs, by setting and teacher
    finished_plain: int

    def plain(self, scope: _Scope) -> int:
        """Runs of plain cross-entropy that are missing."""
        return max(0, scope.plain - self.finished_plain)

    def teachers_stage(self, scope: _Scope) -> _StagePrice:
        """The stage that compares teachers; without arms where there is one teacher, but several settings."""
        arms = scope.teachers if scope.teachers > 1 or scope.settings == 1 else 0
        return _StagePrice(arms, self.networks[0], self.finished[0][: scope.teachers])

    def settings_stage(self, scope: _Scope, seeds: int) -> _StagePrice:
        """The stage that compares settings, where the finalists have so many seeds of the first; at worst, otherwise.

        Those teachers go on that have least.
        """
        by_setting = [sorted(row[: scope.teachers])[:FINALISTS] for row in self.finished[: scope.settings]]
        if self.teachers_stage(scope).arms:
            by_setting[0] = [max(seeds, number) for number in by_setting[0]]
        arms = min(FINALISTS, scope.teachers) * scope.settings if scope.settings > 1 else 0
        return _StagePrice(arms, max(self.networks[: scope.settings]), [n for row in by_setting for n in row])

    def least(self, scope: _Scope, full_length: bool = False) -> tuple[float, float]:
        """The cheapest rungs of both stages."""
        first = self.teachers_stage(scope)
        if scope.seeds == 1:
            return first.of(self._single(scope)), 0
        second = self.settings_stage(scope, 2)
        return first.least(self.epochs, full_length), second.least(self.epochs, full_length)

    def whole_runs(self, scope: _Scope, students: int) -> float:
        """The least budget for a scope, in whole runs."""
        return (sum(self.least(scope)) / self.epochs + self.plain(scope)) * students

    def rungs(self, scope: _Scope, budget: float) -> tuple[tuple[Rung, ...], tuple[Rung, ...]]:
        """Rungs of both stages for a budget that suffices: of full length if it pays for them in both."""
        budget -= self.plain(scope) * self.epochs
        if scope.seeds == 1:
            return self._single(scope), ()
        full_length = sum(self.least(scope, full_length=True)) <= budget
        least, first = self.least(scope, full_length), self.teachers_stage(scope)
        share = least[0] / sum(least) if sum(least) else self._even_share(scope)
        by_teacher = first.rungs(self.epochs, budget * share, full_length)
        second = self.settings_stage(scope, _last_seeds(by_teacher))
        return by_teacher, second.rungs(self.epochs, budget - first.of(by_teacher), full_length)  # what the first left

    def _single(self, scope: _Scope) -> tuple[Rung, ...]:
        """The rung of a scope with single seeds."""
        return (Rung(self.teachers_stage(scope).arms, self.epochs, 1),)

    def _even_share(self, scope: _Scope) -> float:
        """The first stage's share of a budget where both stages cost nothing at least."""
        stages = [bool(self.teachers_stage(scope).arms), bool(self.settings_stage(scope, 2).arms)]
        return stages[0] / sum(stages)


def _last_seeds(rungs: Sequence[Rung]) -> int:
    return rungs[-1].seeds if rungs else 0


def make_plan(
    study: Study,
    budget: float | str,
    teachers: Sequence[Teacher],
    students: Sequence[str],
    settings: Sequence[Method],
    finished: FinishedRuns | None = None,
) -> PilotPlan:
    """Rungs that a budget pays for; what it doesn't pay for is left out.

    Parameters
    ----------
    study : Study
        With a bank.
    budget : float or str
        As `capmismatch.pilot` takes it.
    teachers : sequence of pairs of family and teacher
        Those to leave out first come last.
    students : sequence of str
        Names of architectures.
    settings : sequence of Method
        Those to leave out first come last. The first is that by which teachers are compared.
    finished : FinishedRuns, optional
        Runs that cost nothing.

    Returns
    -------
    PilotPlan
        Of the widest comparison that the budget pays for.

    Raises
    ------
    InputError
        If the budget is no budget, or too small to compare two teachers.
    """
    finished = finished or FinishedRuns()
    epochs, rows = study.recipe.epochs, len(study.train_data)
    grid = sum(_networks(run.method) for run in plan(study, study.bank))
    plain = any(method.name == "CE" for method in study.distillation.methods)
    prices = _Prices(
        epochs,
        [_networks(method) for method in settings],
        [[finished.of(teacher, method.label, students) for teacher in teachers] for method in settings],
        finished.of(PLAIN, "CE", students),
    )
    scopes = list(_scopes(len(teachers), len(settings), plain))
    affordable = _whole_runs(budget, grid) + ROUNDING
    scope = next((scope for scope in scopes if prices.whole_runs(scope, len(students)) <= affordable), None)
    if scope is None:
        least = min(prices.whole_runs(scope, len(students)) for scope in scopes)
        raise InputError(
            f"expected a budget of at least {_percent(least / grid)!r} or {least:g} (whole runs) for "
            f"{count(scopes[-1].teachers, 'teacher')} and {count(len(students), 'student')}, got {budget!r}"
        )
    by_teacher, by_setting = prices.rungs(scope, affordable * epochs / len(students))
    first, second = prices.teachers_stage(scope), prices.settings_stage(scope, _last_seeds(by_teacher))
    spent = prices.plain(scope) * epochs + first.of(by_teacher) + second.of(by_setting)
    trained = sum([prices.plain(scope), *new_runs(by_teacher, first.finished), *new_runs(by_setting, second.finished)])
    starting = tuple(teachers[: scope.teachers])
    if plain:
        scope = replace(scope, plain=max(scope.plain, min(PLAIN_SEEDS, prices.finished_plain)))
    everything = scopes[0]
    left_out = LeftOut(
        tuple(method.label for method in settings[scope.settings :]),
        max(0, everything.plain - scope.plain),
        not scope.plain,
        scope.seeds < everything.seeds,
        tuple(teachers[scope.teachers :]),
        prices.whole_runs(everything, len(students)) / grid,
    )
    return PilotPlan(
        starting,
        tuple(students),
        tuple(settings[: scope.settings]),
        by_teacher,
        by_setting,
        scope.plain,
        epochs,
        passes=rows * len(students) * spent,
        measured=len(study.eval_data) * len(students) * trained,
        whole_grid=grid * epochs * rows,
        rows=rows,
        teacher_passes=_teacher_passes(study, starting, rows),
        finished=sum(finished.seeds.values()),
        left_out=left_out,
    )


def _percent(share: float) -> str:
    """A share of the grid that is surely no less.

    Examples
    --------
    >>> _percent(1 / 6)
    '16.7%'
    """
    return f"{math.ceil(1000 * share - 1e-9) / 10:g}%"


def _quoted(labels: Sequence[str]) -> str:
    return join([f"'{label}'" for label in labels])


def settings_of(study: Study, taus: Sequence[float]) -> tuple[Method, ...]:
    """The study's settings that have a teacher, and these with further temperatures.

    Raises
    ------
    InputError
        If there is none.
    """
    methods = [method for method in study.distillation.methods if method.name != "CE"]
    if not methods:
        raise InputError("a pilot needs a [[distill.methods]] with a teacher; the study has plain cross-entropy alone")
    more = [replace(method, tau=float(tau)) for method in methods if method.tau is not None for tau in taus]
    return tuple({method.label: method for method in [*methods, *more]}.values())


def _whole_runs(budget: float | str, grid: int) -> float:
    """A budget in runs of the whole recipe."""
    text = str(budget).strip()
    try:
        number = float(text.removesuffix("%"))
        must_be_positive(number, "budget")
    except ValueError:
        raise InputError(f"expected a budget such as '20%' of the grid or 12 (whole runs), got {budget!r}") from None
    return number / 100 * grid if text.endswith("%") else number


def _networks(method: Method) -> int:
    """Networks trained in a run at most: the student, and the assistants that its method goes through."""
    return 1 + len(method.assistants)


def _teacher_passes(study: Study, teachers: Sequence[Teacher], rows: int) -> int:
    """Forward passes of teachers over the views of the training rows that no bank holds."""
    views, folder = study.distillation.views, study.folder / "bank" / "views"
    keys = [record.key for record in study.bank.teachers if (record.family, record.teacher) in teachers]
    files = (folder / views.name(number) / key / "logits.safetensors" for number in range(views.count) for key in keys)
    return rows * sum(not file.exists() for file in files)


def _rungs_in_words(rungs: Sequence[Rung]) -> str:
    parts = [f"{rung.arms} for {rung.epochs} epochs with {count(rung.seeds, 'seed')}" for rung in rungs]
    return ", then ".join(parts)
