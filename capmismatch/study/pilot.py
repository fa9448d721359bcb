"""A pilot: short distillations that tell which teacher to take where its probes cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from capmismatch._utils.files import write_table
from capmismatch._utils.text import count
from capmismatch.distillation.grid import distill
from capmismatch.distillation.methods import Method
from capmismatch.errors import must_be_one_of
from capmismatch.selection.candidates import UNIT, Candidates, Floats, long_and_wide, measured, of_family
from capmismatch.selection.choice import Choice
from capmismatch.selection.evidence import FEW, Lesson, learn
from capmismatch.selection.picking import pick
from capmismatch.selection.reasons import percent
from capmismatch.selection.rules import DEFAULT_RULE, RULES
from capmismatch.selection.settings import chances
from capmismatch.stats.posterior import Group, posterior_draws
from capmismatch.study.halving import HOPELESS, SURE, Rung, halve
from capmismatch.study.pilot_plan import FINALISTS, PilotPlan, make_plan, settings_of
from capmismatch.study.pilot_runs import PLAIN, Found, find
from capmismatch.study.short_study import short_study

if TYPE_CHECKING:
    from capmismatch.study.study import Study

__all__ = ["pilot"]

RUNG_COLUMNS = (
    *("stage", "rung", "family", "teacher", "label", "epochs", "seeds"),
    *("accuracy", "low", "high", "p_best", "kept"),
)
"""Columns of `Choice.rungs`."""

Chances = dict[tuple[str, str, str], float]
"""Of pairs of a teacher (family and name) and a setting, to be the best of them."""

_RUN = [*UNIT, "student", "label", "seed", "split", "epochs"]


def pilot(
    study: Study,
    budget: float | str,
    *,
    evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]] | None = None,
    family: str | None = None,
    student: str | None = None,
    taus: Sequence[float] = (),
    n_boot: int = 2000,
    seed: int = 0,
    mute: Iterable[str] = (),
    tell: Callable[[str], object] = print,
) -> Choice:
    """Choose a teacher, a method and a temperature by distilling a little.

    Two rounds of successive halving: teachers by the study's first method, then every setting with the two teachers
    that are left. From rung to rung half of the arms go on, those most likely to be the best, with more training: up to
    the whole recipe's epochs first, then more seeds. Chances come from `capmismatch.stats.posterior.posterior_draws`,
    in which probes, evidence and earlier rungs take part; teachers that are dropped keep theirs. Where evidence rules
    teachers out before anything is trained (a chance below 1 %) they are left out, and a round ends early once an arm
    is the best with a chance of 95 %.

    A budget that is too small for all of that compares less, and the plan and the risks say what was left out: settings
    but the first, then plain cross-entropy, then second seeds, then teachers, those first that the probes (or the
    evidence) put last. Two teachers with one whole run each are the least.

    Every student is an ordinary run of the study, in ``runs/``: one stopped and started again goes on, nothing is
    trained twice, and runs of whole length are those of the full grid. Those that were finished before take part with
    all their seeds, and cost nothing. Choices are made on validation rows; test accuracies are told at the end.

    Parameters
    ----------
    study : Study
        With a bank, a probes table, and ``[distill]``, whose methods are the settings to choose from.
    budget : float or str
        What may be spent on new students: ``"20%"`` of the study's whole grid, or a number of whole runs.
    evidence, family, n_boot, seed, mute
        As for `capmismatch.pick`; the first two are by default what ``[pick]`` of the study says.
    student : str, optional
        By default what ``[pick]`` says, else all of the study's students; arms are compared on their mean.
    taus : sequence of float
        Further temperatures to try of each setting that has one.
    tell : callable
        Takes the plan and its cost, in words, before anything is trained.

    Returns
    -------
    Choice
        As `capmismatch.pick` with results, and in `Choice.rungs` a row for each arm of each rung: ``stage, rung,
        family, teacher, label, epochs, seeds, accuracy, low, high, p_best, kept``: mean validation accuracy, the
        interval of the true one, and the chance of being the best arm; `seeds` is what every arm of the rung has at
        least. The teachers' table speaks of the students of the setting chosen, and predicts teachers that were dropped
        before it came on; the reasons tell how sure the setting is, and the pair. It is left as
        ``tables/pick.parquet``, the rungs as ``tables/pilot.parquet``.

    Raises
    ------
    InputError
        If the budget is too small (the message says what would do), a name does not exist, or a stage of the study is
        missing.

    Notes
    -----
    A rung with fewer epochs has the recipe's schedule at that length, and is never shorter than half of it: see
    `halving.ladder` for what shorter ones are worth. The last rungs are of full length, with two seeds or
    more. On simulated families of 12 teachers and budgets of 16 to 48 whole runs (``benchmarks/bench_pick.py``) a pilot
    loses 0.00-0.20 accuracy points against the best teacher, the same runs spent evenly 0.01-0.32, a teacher at random
    1.4, the largest 2.3.
    """
    bank = study.bank
    splits = [name for name in ("val", "test") if (bank.rows.split == name).any()]
    probes, said = study.load("probes"), study.pick_options()
    pairs = said["evidence"] if evidence is None else list(evidence)
    family, student = family or said["family"], student or said["student"]
    wide = long_and_wide(probes, splits[0])[1]
    if family is not None:
        wide = of_family(wide, family)
    students = study.distillation.students
    if student is not None:
        must_be_one_of(student, students, "student")
        students = (student,)
    candidates, lessons = learn(wide, pairs, split=splits[0], report_split=splits[-1], label=None)
    rng = np.random.default_rng(seed)
    alive: list[tuple[str, str]] = [wide.index[arm] for arm in _possible(candidates, lessons, n_boot, rng)]
    settings = settings_of(study, taus)
    plain = [method for method in study.distillation.methods if method.name == "CE"]
    found = find(study, budget, alive, students, [*settings, *plain])

    def finished(method: Method) -> int:
        return sum(found.of(teacher, method.label, students) for teacher in alive)

    alive.sort(key=lambda teacher: not found.of(teacher, settings[0].label, students))
    settings = (settings[0], *sorted(settings[1:], key=finished, reverse=True))
    plan = make_plan(study, budget, alive, students, settings, found)
    tell(str(plan))
    rungs = _Rungs(study, plan, found, candidates, lessons, splits[0], n_boot, rng)
    finalists = rungs.teachers(wide.index.get_indexer(pd.MultiIndex.from_tuples(plan.teachers)).tolist())
    label = rungs.settings(finalists)
    results, others = rungs.results(label)
    choice = pick(
        probes[pd.MultiIndex.from_frame(probes[UNIT]).isin(wide.index)],
        results,
        label=label,
        evidence=[*pairs, *((probes, other) for other in others)],
        split=splits[0],
        report_split=splits[-1],
        n_boot=n_boot,
        seed=seed,
        mute=mute,
    )
    table = pd.DataFrame(rungs.rows, columns=list(RUNG_COLUMNS))
    for name, frame in (("pilot", table), ("pick", choice.table)):
        write_table(study.folder / "tables" / f"{name}.parquet", frame)
    reasons = [_spent(plan, table, rungs.runs), *_sure(choice, rungs.pairs), *choice.reasons]
    return replace(choice, rule="pilot", rungs=table, reasons=reasons, risks=[*_hasty(plan), *choice.risks])


def _possible(candidates: Candidates, lessons: Sequence[Lesson], n_boot: int, rng: np.random.Generator) -> list[int]:
    """The teachers that the evidence does not rule out, likeliest first; without evidence all, by the default rule."""
    if not lessons:
        wide, rule = candidates.wide, RULES[DEFAULT_RULE]
        scores = wide.get(rule.probe, pd.Series(np.nan, wide.index)).fillna(-np.inf * rule.sign)
        return [int(arm) for arm in np.argsort(-rule.sign * scores.to_numpy(), kind="stable")]
    draws = posterior_draws(candidates.unmeasured(), n_boot, rng, [lesson.choosing for lesson in lessons]).means
    likely = chances(draws)
    order = [int(arm) for arm in np.argsort(-likely, kind="stable")]
    return order[:1] if likely[order[0]] >= SURE else [arm for arm in order if likely[arm] >= HOPELESS]


class _Rungs:
    """Trains rung after rung, judges its arms, and keeps what came out."""

    def __init__(
        self,
        study: Study,
        plan: PilotPlan,
        found: Found,
        candidates: Candidates,
        lessons: Sequence[Lesson],
        split: str,
        n_boot: int,
        rng: np.random.Generator,
    ) -> None:
        self.study, self.plan, self.candidates, self.lessons = study, plan, candidates, lessons
        self.split, self.n_boot, self.rng = split, n_boot, rng
        self.runs = pd.DataFrame(columns=[*_RUN, "accuracy", "found"])
        self.rows: list[dict[str, Any]] = []
        self.pairs: Chances = {}  # as they were last
        methods = {method.label: method for method in [*study.distillation.methods, *plan.settings]}
        for (label, student, seeds), teachers in found.alike().items():
            if label in methods:
                self._add(methods[label], teachers, Rung(0, plan.epochs, seeds), (student,), found=True)

    def teachers(self, alive: list[int]) -> list[tuple[str, str]]:
        """Halve the teachers by the first setting."""
        method, units = self.plan.settings[0], list(self.candidates.wide.index)

        def judge(rung: Rung, arms: list[int]) -> Floats:
            self._train(rung, [(units[arm], method) for arm in arms])
            draws = np.mean([self._teacher_draws(name, method.label, rung) for name in self.plan.students], axis=0)
            return self._record("teachers", rung, [(units[arm], method.label) for arm in arms], arms, draws)

        left = halve(self.plan.by_teacher, judge, alive)[:FINALISTS] if self.plan.by_teacher else alive
        self._mark([(units[arm], method.label) for arm in left], "teachers")
        return [units[arm] for arm in left]

    def settings(self, teachers: list[tuple[str, str]]) -> str:
        """Halve the pairs of teacher and setting; the label of the best."""
        pairs = [(teacher, method) for method in self.plan.settings for teacher in teachers]
        names = [(teacher, method.label) for teacher, method in pairs]
        units = pd.MultiIndex.from_tuples([(*teacher, label) for teacher, label in names])

        def judge(rung: Rung, arms: list[int]) -> Floats:
            self._train(rung, [pairs[arm] for arm in arms])
            draws = np.mean([self._pair_draws(name, units, rung) for name in self.plan.students], axis=0)
            self.pairs = {pair: float(chance) for pair, chance in zip(units, chances(draws), strict=True)}
            return self._record("settings", rung, [names[arm] for arm in arms], arms, draws)

        left = halve(self.plan.by_setting, judge, range(len(pairs))) if self.plan.by_setting else [0]
        self._mark([names[arm] for arm in left], "settings")
        return names[left[0]][1]

    def results(self, label: str) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """The longest students of a setting, with those of other settings and plain ones beside; and shorter ones.

        Each part is of one setting and length.
        """
        epochs = int(self.runs.loc[self.runs["label"].eq(label), "epochs"].max())
        if self.plan.plain_seeds:
            plain = next(method for method in self.study.distillation.methods if method.name == "CE")
            self._train(Rung(1, epochs, self.plan.plain_seeds), [(PLAIN, plain)])
        now, taught = self.runs["epochs"].eq(epochs), self.runs["teacher"].ne("")
        others = self.runs[taught & ~(now & self.runs["label"].eq(label))]
        parts = [part for _, part in others.groupby(["label", "epochs"], sort=True)]
        return self.runs[now], [part for part in parts if len(part[UNIT].drop_duplicates()) >= FEW]

    def _train(self, rung: Rung, arms: Sequence[tuple[tuple[str, str], Method]]) -> None:
        for label in dict.fromkeys(method.label for _, method in arms):
            own = [(teacher, method) for teacher, method in arms if method.label == label]
            self._add(own[0][1], [teacher for teacher, _ in own], rung, self.plan.students)

    def _add(
        self,
        method: Method,
        teachers: Sequence[tuple[str, str]],
        rung: Rung,
        students: tuple[str, ...],
        found: bool = False,
    ) -> None:
        """Train students, or read those that are there."""
        short = short_study(self.study, teachers, method, seeds=rung.seeds, epochs=rung.epochs, students=students)
        done = distill(short).assign(epochs=rung.epochs, found=found)
        both = pd.concat([self.runs, done]) if len(self.runs) else done
        self.runs = both.drop_duplicates(_RUN, ignore_index=True)

    def _of(self, student: str) -> pd.DataFrame:
        return self.runs[self.runs["student"].eq(student) & self.runs["split"].eq(self.split)]

    def _teacher_draws(self, student: str, label: str, rung: Rung) -> Floats:
        rows = self._of(student)
        taught = rows.groupby("epochs").filter(lambda own: own["label"].eq(label).any())
        groups = {epochs: self.candidates.groups(own)[label] for epochs, own in taught.groupby("epochs")}
        now = groups.pop(rung.epochs)
        evidence = [*(lesson.choosing for lesson in self.lessons), *groups.values()]
        return posterior_draws(now, self.n_boot, self.rng, evidence).means

    def _pair_draws(self, student: str, pairs: pd.MultiIndex, rung: Rung) -> Floats:
        """Pairs have nothing but each other to lean on."""
        rows = self._of(student)
        units, means, noise = measured(rows[rows["epochs"].eq(rung.epochs)])
        place = units.get_indexer(pairs)
        own, variances = (np.where(place < 0, np.nan, values[place]) for values in (means, noise.variances))
        noise = replace(noise, variances=variances)
        group = Group(own, noise, np.zeros((len(pairs), 0)), list(pairs), ["pairs"] * len(pairs))
        return posterior_draws(group, self.n_boot, self.rng).means

    def _record(
        self, stage: str, rung: Rung, names: Sequence[tuple[tuple[str, str], str]], arms: Sequence[int], draws: Floats
    ) -> Floats:
        likely = chances(draws)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        number = len({row["rung"] for row in self.rows if row["stage"] == stage}) + 1
        now = self.runs[self.runs["split"].eq(self.split) & self.runs["epochs"].eq(rung.epochs)]
        means = now.groupby([*UNIT, "label"])["accuracy"].mean()
        for (teacher, label), arm in zip(names, arms, strict=True):
            self.rows.append(
                {
                    "stage": stage,
                    "rung": number,
                    "family": teacher[0],
                    "teacher": teacher[1],
                    "label": label,
                    "epochs": rung.epochs,
                    "seeds": rung.seeds,
                    "accuracy": float(means[(*teacher, label)]),
                    "low": low[arm],
                    "high": high[arm],
                    "p_best": likely[arm],
                    "kept": False,
                }
            )
        return likely

    def _mark(self, left: Sequence[tuple[tuple[str, str], str]], stage: str) -> None:
        """Say of each arm of a stage whether it went on."""
        own = [row for row in self.rows if row["stage"] == stage]
        names = {(row["rung"], row["family"], row["teacher"], row["label"]) for row in own}
        last = max((row["rung"] for row in own), default=0)
        for row in own:
            arm = (row["family"], row["teacher"], row["label"])
            goes_on = (row["rung"] + 1, *arm) in names
            row["kept"] = goes_on if row["rung"] != last else (arm[:2], arm[2]) in left


def _hasty(plan: PilotPlan) -> list[str]:
    """What the budget was too small for."""
    risks = [plan.left_out] if plan.left_out else []
    shortest = min(rung.epochs for rung in [*plan.by_teacher, *plan.by_setting])
    if shortest < plan.epochs:
        risks.append(
            f"The budget was too small for whole runs: what was dropped first was dropped after {shortest} of "
            f"{plan.epochs} epochs, and may do better after all of them."
        )
    return risks


def _sure(choice: Choice, pairs: Chances) -> list[str]:
    """How likely the setting, and the pair of teacher and setting, are the best of those compared."""
    teacher, label = f"{choice.family}/{choice.teacher}", str(choice.label)
    if not pairs:
        return [f"Only '{label}' was tried: chances are those of the teachers in that setting."]
    pair, best = (choice.family, choice.teacher, label), max(pairs, key=lambda pair: pairs[pair])
    told = f"Of {len(pairs)} pairs of teacher and setting, "
    told += (
        f"{teacher} with '{label}' is the best with a chance of {percent(pairs[pair])}"
        if (pair in pairs)
        else f"{teacher} was in none, as it was dropped before"
    )
    if pair != best:
        told += f"; the likeliest is {best[0]}/{best[1]} with '{best[2]}', with {percent(pairs[best])}"
    setting = sum(chance for (_, _, other), chance in pairs.items() if other == label)
    return [f"{told}. That '{label}' is the best setting, with whichever teacher, has a chance of {percent(setting)}."]


def _spent(plan: PilotPlan, table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What was done."""
    students = runs.drop_duplicates([*UNIT, "student", "label", "seed", "epochs"])
    new = students[~students["found"].astype(bool)]
    passes, before = int(new["epochs"].sum()) * plan.rows, len(students) - len(new)
    stages = table.groupby("stage", sort=False)["rung"].max()
    rungs = " and ".join(f"{count(int(number), 'rung')} of {stage}" for stage, number in stages.items())
    told = (
        f"A pilot of {rungs}: {count(len(new), 'student')}, {passes:,} forward and backward passes "
        f"({passes / plan.whole_grid:.0%} of the whole grid)"
    )
    return told + (f", and {count(before, 'student')} finished before." if before else ".")
