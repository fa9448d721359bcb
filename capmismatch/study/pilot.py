"""A pilot: short distillations that show which teacher to take where its probes cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from capmismatch._utils.files import write_table
from capmismatch._utils.text import count, format_chance, format_percent
from capmismatch.distillation.methods import Method
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.selection.candidates import Candidates, of_family, read_probes, rule_choices
from capmismatch.selection.choice import Choice
from capmismatch.selection.choice_parts import PilotRecord
from capmismatch.selection.evidence import EvidenceGroup, learn
from capmismatch.selection.first_guess import disputed_teachers
from capmismatch.selection.kept_choice import as_entries
from capmismatch.selection.picking import pick
from capmismatch.selection.rules import DEFAULT_RULE, RULES
from capmismatch.stats.matching import UNIT, splits_present
from capmismatch.stats.posterior import posterior_draws
from capmismatch.study.evidence_folders import as_given_pairs
from capmismatch.study.halving import HOPELESS, Judgement, Rung
from capmismatch.study.pilot_plan import PilotPlan, make_plan, settings_of
from capmismatch.study.pilot_rungs import RUNG_COLUMNS, Beliefs, compare_settings, compare_teachers
from capmismatch.study.pilot_runs import PLAIN, Arm, FinishedRuns, PilotRuns, Teacher, find_finished
from capmismatch.study.ready import make_ready
from capmismatch.study.study import Study
from capmismatch.study.tables import table_file

__all__ = ["RUNG_COLUMNS", "pilot"]


def pilot(
    study: Study,
    budget: float | str,
    *,
    evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]] | str | None = None,
    family: str | None = None,
    student: str | None = None,
    taus: Sequence[float] = (),
    tolerance: float = 0.3,
    n_boot: int = 2000,
    seed: int = 0,
    mute: Iterable[str] = (),
    tell: Callable[[str], object] = print,
) -> Choice:
    """Choose a teacher, a method and a temperature from a few students.

    Two rounds of successive halving: teachers by the study's first method, then every setting with the two teachers
    that are left. From rung to rung half of the arms go on, those most likely to be the best, with more training: up to
    the whole recipe's epochs first, then more seeds. Chances come from `capmismatch.stats.posterior.posterior_draws`,
    in which probes, evidence and earlier rungs take part; teachers that are dropped keep theirs. Where evidence rules
    teachers out before anything is trained (a chance below 1 %) they are left out, and a round ends early once the
    likeliest arm, with two seeds or more, is expected to lose less than the tolerance.

    A budget that is too small for all of that compares less, and the plan and the risks say what was left out: settings
    but the first, then plain cross-entropy, then second seeds, then teachers, those first that the probes (or the
    evidence) put last. Two teachers with one whole run each are the least.

    Every student is an ordinary run of the study, in ``runs/``: one stopped and started again goes on, nothing is
    trained twice, and runs of whole length are those of the full grid. Those that were finished before take part with
    all their seeds, and cost nothing. Choices are made on validation rows; test accuracies are told at the end.

    Parameters
    ----------
    study : Study
        With ``[distill]``, whose methods are the settings to choose from. Bank and probes are made where missing.
    budget : float or str
        What may be spent on new students: ``"20%"`` of the study's whole grid, or a number of whole runs.
    evidence : iterable of pairs of a probes and a results table, optional
        As for `capmismatch.pick`; by default what ``[pick]`` of the study says.
    family : str, optional
        As for `capmismatch.pick`; by default what ``[pick]`` of the study says.
    student : str, optional
        By default what ``[pick]`` says, else all of the study's students; arms are compared on their mean.
    taus : sequence of float
        Further temperatures to try of each setting that has one.
    tolerance : float
        As for `capmismatch.pick`, and what ends a round; with 0 the whole budget is spent.
    n_boot : int
        As for `capmismatch.pick`.
    seed : int
        As for `capmismatch.pick`.
    mute : iterable of str
        As for `capmismatch.pick`.
    tell : callable
        Takes the plan and its cost, in words, before anything is trained.

    Returns
    -------
    Choice
        As `capmismatch.pick` with results. Its table is of the students of the setting chosen, and predicts teachers
        that were dropped before it was tried; the reasons tell how sure the setting is, and the pair. `Choice.rungs`
        has one row per arm of each rung, with the columns

        - ``stage``: "teachers" or "settings";
        - ``rung``: its number within the stage, from 1;
        - ``family``, ``teacher``, ``label``: the arm;
        - ``epochs``: of each run;
        - ``seeds``: runs that every arm of the rung has at least;
        - ``accuracy``: mean validation accuracy, a share;
        - ``low``, ``high``: 95 % interval of the true accuracy;
        - ``p_best``: chance of being the best arm of the stage;
        - ``regret``: accuracy points that taking it is expected to lose against the best arm of the stage;
        - ``kept``: whether the arm went on.

        The table is left as ``tables/pick.parquet``, the rungs as ``tables/pilot.parquet``.

    Raises
    ------
    InputError
        If the budget is too small (the message says what would do), a name does not exist, or a stage of the study is
        missing.

    Notes
    -----
    A rung with fewer epochs has the recipe's schedule at that length, and is never shorter than half of it: see
    `halving.ladder` for what shorter ones are worth. The last rungs are of full length, with two seeds or
    more. What pilots lose in simulations, and whether their chances come true (``benchmarks/bench_pick.py``), stands in
    the docs on statistics.
    """
    study.distillation  # noqa: B018 - without students there is nothing to train, and nothing is made
    make_ready(study)
    bank = study.bank
    splits = splits_present(bank.rows.split)
    probes, defaults = study.load("probes"), study.pick_options()
    if defaults["metric"] != "accuracy":
        raise InputError(f"a pilot compares students by accuracy, [pick] says metric = {defaults['metric']!r}")
    pairs = as_given_pairs(defaults["evidence"] if evidence is None else evidence)
    family, student = family or defaults["family"], student or defaults["student"]
    profiles = read_probes(probes, splits[0])[1]
    if family is not None:
        profiles = of_family(profiles, family)
    students = study.distillation.students
    if student is not None:
        must_be_one_of(student, students, "student")
        students = (student,)

    candidates, groups = learn(profiles, pairs, split=splits[0], report_split=splits[-1], label=None)
    beliefs = Beliefs(candidates, groups, splits[0], tolerance, n_boot, np.random.default_rng(seed))
    teachers, settings, finished = _what_to_compare(study, budget, beliefs, students, taus)
    plan = make_plan(study, budget, teachers, students, settings, finished)
    tell(str(plan))

    runs = PilotRuns(study, plan.students, [*study.distillation.methods, *plan.settings])
    runs.read(finished, plan.epochs)
    by_teacher = compare_teachers(plan, runs, beliefs)
    by_setting = compare_settings(
        plan, runs, beliefs, [(family, teacher) for family, teacher, _ in by_teacher.finalists]
    )
    label = by_setting.finalists[0][2]
    epochs = runs.longest(label)
    if plan.plain_seeds:
        plain = [(*PLAIN, method.label) for method in study.distillation.methods if method.name == "CE"]
        runs.train(plain, Rung(1, epochs, plan.plain_seeds))

    results, more_evidence = runs.results_and_evidence(label, epochs)
    choice = pick(
        probes if family is None else probes[probes["family"].eq(family)],
        results,
        label=label,
        evidence=[*pairs, *((probes, table) for table in more_evidence)],
        split=splits[0],
        report_split=splits[-1],
        tolerance=tolerance,
        n_boot=n_boot,
        seed=seed,
        mute=mute,
    )
    rungs = pd.DataFrame([*by_teacher.rows(), *by_setting.rows()], columns=list(RUNG_COLUMNS))
    write_table(table_file(study.folder, "pilot"), rungs)
    reasons = (_spent(plan, rungs, runs.table), _how_sure(choice, by_setting.chances))
    record = PilotRecord(rungs, reasons, tuple(_too_small(plan)))
    choice = study.handing_over(replace(choice, rule="pilot", pilot=record))
    study.keep_pick(choice, pilot=as_entries(choice))
    return choice


def _what_to_compare(
    study: Study, budget: float | str, beliefs: Beliefs, students: tuple[str, ...], taus: Sequence[float]
) -> tuple[list[Teacher], list[Method], FinishedRuns]:
    """Teachers and settings, those to leave out first at the end, and their runs that are finished."""
    profiles = beliefs.candidates.profiles
    possible = _possible(beliefs.candidates, beliefs.evidence, beliefs.n_boot, beliefs.rng)
    teachers: list[Teacher] = [profiles.index[arm] for arm in possible]
    first, *further = settings_of(study, taus)
    plain = [method for method in study.distillation.methods if method.name == "CE"]
    finished = find_finished(study, budget, teachers, students, [first, *further, *plain])

    def seeds(method: Method) -> int:
        return sum(finished.of(teacher, method.label, students) for teacher in teachers)

    teachers.sort(key=lambda teacher: not finished.of(teacher, first.label, students))
    return teachers, [first, *sorted(further, key=seeds, reverse=True)], finished


def _possible(
    candidates: Candidates, evidence: Sequence[EvidenceGroup], n_boot: int, rng: np.random.Generator
) -> list[int]:
    """The teachers that the evidence does not rule out, likeliest first.

    Without evidence all: first those that the common rules take, then by the default rule.
    """
    profiles = candidates.profiles
    if not evidence:
        rule, disputed = RULES[DEFAULT_RULE], disputed_teachers(rule_choices(profiles)[0])
        scores = profiles.get(rule.probe, pd.Series(np.nan, profiles.index)).fillna(-np.inf * rule.sign)
        by_rule = np.argsort(-rule.sign * scores.to_numpy(), kind="stable").tolist()
        first = profiles.index.get_indexer(pd.MultiIndex.from_tuples(disputed)).tolist() if disputed else []
        return [*first, *(arm for arm in by_rule if arm not in first)]
    draws = posterior_draws(candidates.unmeasured(), n_boot, rng, [group.choosing for group in evidence]).means
    likely = Judgement.of(draws).chances
    order = np.argsort(-likely, kind="stable").tolist()
    return [arm for arm in order if likely[arm] >= HOPELESS or arm == order[0]]


def _too_small(plan: PilotPlan) -> list[str]:
    """What the budget was too small for."""
    risks = [str(plan.left_out)] if plan.left_out else []
    shortest = min(rung.epochs for rung in [*plan.by_teacher, *plan.by_setting])
    if shortest < plan.epochs:
        risks.append(
            f"The budget is too small for full runs: the first ones were dropped after {shortest} of {plan.epochs} "
            "epochs, and might be better after all of them."
        )
    return risks


@dataclass(frozen=True)
class PairChances:
    """How sure a pilot is of its setting.

    Attributes
    ----------
    pair : Arm
        The teacher and setting that were chosen.
    pairs : int
        How many were compared.
    chance : float or None
        Of the chosen pair to be the best; None where its teacher had been dropped before settings were compared.
    likeliest : Arm
        The pair with the highest chance.
    highest : float
        Its chance.
    setting : float
        Chance that the chosen setting is the best, with whichever teacher.
    """

    pair: Arm
    pairs: int
    chance: float | None
    likeliest: Arm
    highest: float
    setting: float

    @classmethod
    def of(cls, pair: Arm, chances: Mapping[Arm, float]) -> PairChances:
        """Read them from the chances of all pairs."""
        likeliest = max(chances, key=lambda other: chances[other])
        setting = sum(chance for (_, _, label), chance in chances.items() if label == pair[2])
        return cls(pair, len(chances), chances.get(pair), likeliest, chances[likeliest], setting)

    def __str__(self) -> str:
        teacher, label = "/".join(self.pair[:2]), self.pair[2]
        text = f"Of {self.pairs} pairs of teacher and setting, {teacher} "
        if self.chance is None:
            text += "is in none, because it was dropped before"
        else:
            text += f"with '{label}' is the best with a probability of {format_chance(self.chance)}"
        if self.pair != self.likeliest:
            other = "/".join(self.likeliest[:2])
            text += f"; the most likely best is {other} with '{self.likeliest[2]}' ({format_chance(self.highest)})"
        chance = format_chance(self.setting)
        return f"{text}. '{label}' is the best setting, with any teacher, with a probability of {chance}."


def _how_sure(choice: Choice, chances: Mapping[Arm, float]) -> str:
    """How likely the setting, and the pair of teacher and setting, are the best of those compared."""
    if not chances:
        return f"Only '{choice.label}' was tried: probabilities are those of the teachers in that setting."
    return str(PairChances.of((choice.family, choice.teacher, str(choice.label)), chances))


def _spent(plan: PilotPlan, rungs: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What was done."""
    students = runs.drop_duplicates([*UNIT, "student", "label", "seed", "epochs"])
    new = students[~students["finished_before"].astype(bool)]
    passes, before = int(new["epochs"].sum()) * plan.rows, len(students) - len(new)
    stages = rungs.groupby("stage", sort=False)["rung"].max()
    climbed = " and ".join(f"{count(int(number), 'rung')} of {stage}" for stage, number in stages.items())
    text = (
        f"A pilot of {climbed}: {count(len(new), 'student')}, {passes:,} forward and backward passes "
        f"({format_percent(passes / plan.whole_grid)} of the whole grid)"
    )
    return text + (f"; {count(before, 'student')} finished before." if before else ".")
