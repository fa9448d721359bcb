"""What a pilot would do with a budget, and what that costs: told before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from capmismatch._utils.text import count, join, start
from capmismatch.distillation.methods import Method
from capmismatch.distillation.runs import plan
from capmismatch.errors import InputError, must_be_positive
from capmismatch.study.halving import Rung, cost, ladder, least_budget, new_runs
from capmismatch.study.pilot_runs import PLAIN, Found

if TYPE_CHECKING:
    from capmismatch.study.study import Study

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
    plain_seeds : of plain cross-entropy, which is trained beside where the study has it
    epochs : of the whole recipe
    passes : forward and backward passes of students, at most
    measured : forward passes over the rows held out, at most
    whole_grid : passes of the study's whole grid of students
    rows : that a student is trained on
    teacher_passes : forward passes over the students' training rows that no bank holds yet
    finished : runs of the study that are taken as they are
    left_out : what there is no budget for, in words; or nothing
    """

    teachers: tuple[tuple[str, str], ...]
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
    left_out: str

    def __str__(self) -> str:
        """What is going to be done, for how much."""
        names = "student" if len(self.students) == 1 else "students"
        lines = [f"Pilot: {count(len(self.teachers), 'teacher')}, {names} {join(list(self.students))}."]
        if self.by_teacher:
            lines.append(f"Teachers, by '{self.settings[0].label}': {_told(self.by_teacher)}.")
        if self.by_setting:
            lines.append(f"Settings {_quoted(self.settings)}, with the teachers left: {_told(self.by_setting)}.")
        if self.plain_seeds:
            lines.append(f"Plain cross-entropy beside: {self.epochs} epochs, {count(self.plain_seeds, 'seed')}.")
        if self.left_out:
            lines.append(self.left_out)
        if self.finished:
            are = "is" if self.finished == 1 else "are"
            lines.append(f"{count(self.finished, 'finished student')} of the study {are} used, at no cost.")
        lines.append(
            f"Cost at most: {self.passes:,} forward and backward passes of students "
            f"({self.passes / self.whole_grid:.0%} of the whole grid's {self.whole_grid:,}), {self.measured:,} forward "
            f"passes to measure them, {self.teacher_passes:,} forward passes of teachers. "
            "Students that are there are not trained again."
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

    Settings go first, then the baseline, for a pilot asks for a teacher; then a second seed, then teachers. A seed less
    comes before a teacher less as one seed that all teachers share tells more of them (see `ladder`) than their probes.
    """
    for number in range(settings, 0, -1):
        yield _Scope(teachers, number, PLAIN_SEEDS * plain, 2)
    for number in range(teachers, min(2, teachers) - 1, -1):
        yield _Scope(number, 1, 0, 2)
        if plain:
            yield _Scope(number, 1, 1, 1)
        yield _Scope(number, 1, 0, 1)


class _Prices:
    """What scopes cost, in epochs of training for each student."""

    def __init__(
        self,
        teachers: Sequence[tuple[str, str]],
        students: Sequence[str],
        settings: Sequence[Method],
        epochs: int,
        found: Found,
    ) -> None:
        self.epochs, self.settings = epochs, settings
        self.plain_there = found.of(PLAIN, "CE", students)
        self.there = [[found.of(teacher, method.label, students) for teacher in teachers] for method in settings]

    def weights(self, scope: _Scope) -> tuple[int, int]:
        """Networks trained in a run of each stage at most: the student, and its method's assistants."""
        return _weight(self.settings[:1]), _weight(self.settings[: scope.settings])

    def plain(self, scope: _Scope) -> int:
        """Runs of plain cross-entropy that are missing."""
        return max(0, scope.plain - self.plain_there)

    def arms(self, scope: _Scope) -> tuple[int, int]:
        """Arms of the two stages."""
        pairs = min(FINALISTS, scope.teachers) * scope.settings if scope.settings > 1 else 0
        return scope.teachers if scope.teachers > 1 or not pairs else 0, pairs

    def seeds_there(self, scope: _Scope, seeds: int) -> tuple[list[int], list[int]]:
        """Whole runs that arms have: in the first stage, and at least in the second, after so many seeds in it."""
        entering = [own[: scope.teachers] for own in self.there[: scope.settings]]
        pairs = [number for own in entering for number in sorted(own)[:FINALISTS]]
        if self.arms(scope)[0]:
            pairs[:FINALISTS] = [max(seeds, number) for number in pairs[:FINALISTS]]
        return entering[0], pairs

    def least(self, scope: _Scope, whole: bool = False) -> tuple[float, float]:
        """The cheapest rungs of both stages."""
        arms, there, weights = self.arms(scope), self.seeds_there(scope, 2), self.weights(scope)
        if scope.seeds == 1:
            return weights[0] * cost([Rung(arms[0], self.epochs, 1)], there[0]), 0
        first, second = (
            weight * least_budget(number, self.epochs, finalists=FINALISTS, there=own, whole=whole) if number else 0
            for weight, number, own in zip(weights, arms, there, strict=True)
        )
        return first, second

    def whole_runs(self, scope: _Scope, students: int) -> float:
        """The least budget for a scope, in whole runs."""
        return (sum(self.least(scope)) / self.epochs + self.plain(scope)) * students

    def rungs(self, scope: _Scope, budget: float) -> tuple[tuple[Rung, ...], tuple[Rung, ...]]:
        """Rungs of both stages for a budget that suffices: of whole length if it pays for them in both."""
        arms, weights = self.arms(scope), self.weights(scope)
        budget -= self.plain(scope) * self.epochs
        if scope.seeds == 1:
            return (Rung(arms[0], self.epochs, 1),), ()
        whole = sum(self.least(scope, whole=True)) <= budget
        least = self.least(scope, whole)
        share = least[0] / sum(least) if sum(least) else bool(arms[0]) / (bool(arms[0]) + bool(arms[1]))
        parts, spent, seeds = [], 0, 0
        for stage, (number, weight) in enumerate(zip(arms, weights, strict=True)):
            own = budget * share if stage == 0 else budget - spent  # the second takes what the first leaves
            there = self.seeds_there(scope, seeds)[stage]
            found = (
                ladder(number, self.epochs, own / weight, finalists=FINALISTS, there=there, whole=whole)
                if (number)
                else []
            )
            parts.append(tuple(found))
            spent, seeds = spent + weight * cost(found, there), found[-1].seeds if found else 0
        return parts[0], parts[1]


def make_plan(
    study: Study,
    budget: float | str,
    teachers: Sequence[tuple[str, str]],
    students: Sequence[str],
    settings: Sequence[Method],
    found: Found | None = None,
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
    settings : sequence of Method
        Those to leave out first come last. The first is that by which teachers are compared.
    found : Found, optional
        Runs that cost nothing.

    Raises
    ------
    InputError
        If the budget is no budget, or too small to compare two teachers.
    """
    found = found or Found()
    epochs, rows = study.recipe.epochs, len(study.train_data)
    grid = sum(_weight([run.method]) for run in plan(study, study.bank))
    plain = any(method.name == "CE" for method in study.distillation.methods)
    prices = _Prices(teachers, students, settings, epochs, found)
    scopes = list(_scopes(len(teachers), len(settings), plain))
    each = _whole_runs(budget, grid)
    scope = next((scope for scope in scopes if prices.whole_runs(scope, len(students)) <= each + 1e-9), None)
    if scope is None:
        needed = min(prices.whole_runs(scope, len(students)) for scope in scopes)
        raise InputError(
            f"expected a budget of at least {_percent(needed / grid)!r} or {needed:g} (whole runs) for "
            f"{count(scopes[-1].teachers, 'teacher')} and {count(len(students), 'student')}, got {budget!r}"
        )
    by_teacher, by_setting = prices.rungs(scope, (each + 1e-9) * epochs / len(students))
    there, weights = prices.seeds_there(scope, by_teacher[-1].seeds if by_teacher else 0), prices.weights(scope)
    whole = prices.plain(scope)
    spent, trained = whole * epochs, whole
    for rungs, own, weight in zip((by_teacher, by_setting), there, weights, strict=True):
        spent, trained = spent + weight * cost(rungs, own), trained + sum(new_runs(rungs, own))
    entering, kept = tuple(teachers[: scope.teachers]), tuple(settings[: scope.settings])
    if plain:
        scope = replace(scope, plain=max(scope.plain, min(PLAIN_SEEDS, prices.plain_there)))
    missing = _left_out(scopes[0], scope, teachers, settings)
    if missing:
        missing += f" Nothing is left out from {_percent(prices.whole_runs(scopes[0], len(students)) / grid)} on."
    return PilotPlan(
        entering,
        tuple(students),
        kept,
        by_teacher,
        by_setting,
        scope.plain,
        epochs,
        passes=rows * len(students) * spent,
        measured=len(study.eval_data) * len(students) * trained,
        whole_grid=grid * epochs * rows,
        rows=rows,
        teacher_passes=_teacher_passes(study, entering, rows),
        finished=sum(found.seeds.values()),
        left_out=missing,
    )


def _left_out(whole: _Scope, scope: _Scope, teachers: Sequence[tuple[str, str]], settings: Sequence[Method]) -> str:
    """What a scope lacks, in a sentence."""
    parts = []
    if scope.settings < whole.settings:
        others = settings[scope.settings :]
        parts.append(f"the {'setting' if len(others) == 1 else 'settings'} {_quoted(others)}")
    if scope.plain < whole.plain:
        parts.append("a second seed of plain cross-entropy" if scope.plain else "plain cross-entropy")
    if scope.seeds < whole.seeds:
        parts.append("second seeds, without which chances are rough")
    if scope.teachers < whole.teachers:
        names = ["/".join(teacher) for teacher in teachers[scope.teachers :]]
        parts.append(f"{join(names)}, put last by the probes")
    return start(f"left out to keep to the budget: {'; '.join(parts)}.") if parts else ""


def _percent(share: float) -> str:
    """A share of the grid that is surely no less.

    Examples
    --------
    >>> _percent(1 / 6)
    '16.7%'
    """
    return f"{math.ceil(1000 * share - 1e-9) / 10:g}%"


def _quoted(methods: Sequence[Method]) -> str:
    return join([f"'{method.label}'" for method in methods])


def settings_of(study: Study, taus: Sequence[float]) -> tuple[Method, ...]:
    """The study's settings that have a teacher, and these with further temperatures.

    Raises
    ------
    InputError
        If there is none.
    """
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
