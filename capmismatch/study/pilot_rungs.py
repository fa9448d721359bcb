"""The two stages of a pilot: rung after rung, arms are trained and judged, and those most likely the best go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from capmismatch.selection.candidates import Candidates, Floats, measured
from capmismatch.selection.evidence import EvidenceGroup
from capmismatch.stats.groups import Group
from capmismatch.stats.posterior import posterior_draws
from capmismatch.study.halving import Judgement, Rung, halve
from capmismatch.study.pilot_plan import FINALISTS, PilotPlan
from capmismatch.study.pilot_runs import Arm, PilotRuns, Teacher

RUNG_COLUMNS = (
    *("stage", "rung", "family", "teacher", "label", "epochs", "seeds"),
    *("accuracy", "low", "high", "p_best", "regret", "kept"),
)
"""Columns of `Choice.rungs`."""


@dataclass(frozen=True)
class Beliefs:
    """What the chances of arms are computed from, besides the pilot's runs.

    Attributes
    ----------
    candidates : Candidates
        The teachers, by probe.
    evidence : sequence of EvidenceGroup
        What the evidence says of probes.
    split : str
        On which arms are compared.
    tolerance : float
        Accuracy points that do not matter: a stage ends once its likeliest arm is expected to lose less.
    n_boot : int
        Draws of a posterior.
    rng : Generator
        Of the draws.
    """

    candidates: Candidates
    evidence: Sequence[EvidenceGroup]
    split: str
    tolerance: float
    n_boot: int
    rng: np.random.Generator

    def teacher_draws(self, runs: pd.DataFrame, label: str, epochs: int) -> Floats:
        """Draws of every teacher's accuracy by a setting, from one student's runs; shorter ones are evidence."""
        with_label = runs.groupby("epochs").filter(lambda rows: rows["label"].eq(label).any())
        by_length = {length: self.candidates.groups(rows)[label] for length, rows in with_label.groupby("epochs")}
        current = by_length.pop(epochs)
        groups = [*(group.choosing for group in self.evidence), *by_length.values()]
        return posterior_draws(current, self.n_boot, self.rng, groups).means

    def pair_draws(self, runs: pd.DataFrame, pairs: Sequence[Arm], epochs: int) -> Floats:
        """Draws of every pair's accuracy, from one student's runs: pairs have nothing but each other to lean on."""
        units, means, noise = measured(runs[runs["epochs"].eq(epochs)])
        position = units.get_indexer(pd.MultiIndex.from_tuples(pairs))
        values = np.where(position < 0, np.nan, means[position])
        group = Group(values, noise.at(position), np.zeros((len(pairs), 0)), list(pairs), ["pairs"] * len(pairs))
        return posterior_draws(group, self.n_boot, self.rng).means


@dataclass(frozen=True)
class JudgedRung:
    """A rung whose arms have been trained and judged.

    Attributes
    ----------
    rung : Rung
        How long its arms were trained, and with how many seeds.
    arms : tuple of Arm
        Those that were trained.
    accuracy : mapping from Arm to float
        Mean accuracy on the choosing split, of the arms trained.
    low, high : mapping from Arm to float
        95 % interval of the true accuracy, of every arm of the stage.
    chances : mapping from Arm to float
        Chance of being the best, of every arm of the stage, those dropped before included.
    regret : mapping from Arm to float
        Accuracy points that taking it is expected to lose against the best arm of the stage.
    """

    rung: Rung
    arms: tuple[Arm, ...]
    accuracy: Mapping[Arm, float]
    low: Mapping[Arm, float]
    high: Mapping[Arm, float]
    chances: Mapping[Arm, float]
    regret: Mapping[Arm, float]


@dataclass(frozen=True)
class Stage:
    """A stage of a pilot that is over.

    Attributes
    ----------
    name : str
        "teachers" or "settings".
    rungs : tuple of JudgedRung
        From the first to the last; none where there was nothing to compare.
    finalists : tuple of Arm
        Those left, likeliest first.
    """

    name: str
    rungs: tuple[JudgedRung, ...]
    finalists: tuple[Arm, ...]

    @property
    def chances(self) -> Mapping[Arm, float]:
        """Of every arm to be the best, after the last rung; empty where nothing was compared."""
        return self.rungs[-1].chances if self.rungs else {}

    def rows(self) -> list[dict[str, Any]]:
        """One row per rung and arm, with the columns `RUNG_COLUMNS`."""
        following = [*(judged.arms for judged in self.rungs[1:]), self.finalists]
        return [
            {
                "stage": self.name,
                "rung": number,
                "family": arm[0],
                "teacher": arm[1],
                "label": arm[2],
                "epochs": judged.rung.epochs,
                "seeds": judged.rung.seeds,
                "accuracy": judged.accuracy[arm],
                "low": judged.low[arm],
                "high": judged.high[arm],
                "p_best": judged.chances[arm],
                "regret": judged.regret[arm],
                "kept": arm in next_arms,
            }
            for number, (judged, next_arms) in enumerate(zip(self.rungs, following, strict=False), start=1)
            for arm in judged.arms
        ]


def compare_teachers(plan: PilotPlan, runs: PilotRuns, beliefs: Beliefs) -> Stage:
    """Halve the teachers of a plan by its first setting, down to two."""
    label, index = plan.settings[0].label, beliefs.candidates.profiles.index
    alive = index.get_indexer(pd.MultiIndex.from_tuples(plan.teachers)).tolist()

    def draws_of(student_runs: pd.DataFrame, rung: Rung) -> Floats:
        return beliefs.teacher_draws(student_runs, label, rung.epochs)

    arms = [(*teacher, label) for teacher in index]
    stage = _climb("teachers", plan.by_teacher, arms, alive, runs, beliefs, draws_of)
    return replace(stage, finalists=stage.finalists[:FINALISTS])


def compare_settings(plan: PilotPlan, runs: PilotRuns, beliefs: Beliefs, teachers: Sequence[Teacher]) -> Stage:
    """Halve the pairs of the teachers that are left and the plan's settings."""
    pairs = [(*teacher, method.label) for method in plan.settings for teacher in teachers]

    def draws_of(student_runs: pd.DataFrame, rung: Rung) -> Floats:
        return beliefs.pair_draws(student_runs, pairs, rung.epochs)

    return _climb("settings", plan.by_setting, pairs, range(len(pairs)), runs, beliefs, draws_of)


def _climb(
    name: str,
    rungs: Sequence[Rung],
    arms: Sequence[Arm],
    alive: Sequence[int],
    runs: PilotRuns,
    beliefs: Beliefs,
    draws_of: Callable[[pd.DataFrame, Rung], Floats],
) -> Stage:
    """Train and judge the arms alive, rung after rung; `draws_of` one student's runs are of every arm's accuracy."""
    judged: list[JudgedRung] = []
    split = beliefs.split

    def judge(rung: Rung, survivors: list[int]) -> Judgement:
        trained = tuple(arms[arm] for arm in survivors)
        runs.train(trained, rung)
        draws = np.mean([draws_of(runs.of(student, split), rung) for student in runs.students], axis=0)
        likely, regret = judgement = Judgement.of(100 * draws)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        means = runs.accuracies(split, rung.epochs)
        accuracy = {arm: float(means[arm]) for arm in trained}
        per_arm = (dict(zip(arms, values, strict=True)) for values in (low, high, likely.tolist(), regret.tolist()))
        judged.append(JudgedRung(rung, trained, accuracy, *per_arm))
        return judgement

    survivors = halve(rungs, judge, alive, beliefs.tolerance) if rungs else alive
    return Stage(name, tuple(judged), tuple(arms[arm] for arm in survivors))
