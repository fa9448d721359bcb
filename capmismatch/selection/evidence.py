"""What other families and students teach: how far probes can be trusted, and what each rule lost there."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from capmismatch._utils.setting_labels import with_current_labels
from capmismatch.errors import InputError
from capmismatch.selection.candidates import Candidates, family_codes, of_family, predictors, read_probes, rule_choices
from capmismatch.selection.students import (
    SettingDraws,
    SplitDraws,
    average_settings,
    checked_results,
    methods_by_label,
    resolve_splits,
    usable_rows,
)
from capmismatch.stats.groups import Group
from capmismatch.stats.matching import UNIT, shared_teachers, with_families, with_teacher
from capmismatch.stats.posterior import posterior_draws

FEW = 3
"""A family with students of fewer teachers than this teaches nothing of its probes."""


@dataclass(frozen=True)
class EvidenceGroup:
    """One family with the results of one student, in the setting that was best for it.

    Attributes
    ----------
    family, student, label : str
        The family, the student, and its best setting.
    settings : SettingDraws
        How all its settings compare, on the split to choose on.
    methods : mapping from label to (str, float)
        Method and temperature of each setting.
    candidates : Candidates
        The family's teachers.
    choosing, reporting : Group
        Their students, on the split to choose on and on the one to report.
    """

    family: str
    student: str
    label: str
    settings: SettingDraws
    methods: Mapping[str, tuple[str, float]]
    candidates: Candidates
    choosing: Group
    reporting: Group

    @property
    def family_code(self) -> object:
        """What identifies the family in whatever table."""
        return self.candidates.families[0]


@dataclass(frozen=True)
class EvidenceFacts:
    """What the evidence is, in numbers.

    Attributes
    ----------
    groups, teachers, families, students : int
        Number of groups (a family and a student each), and of different teachers, families and students in them.
    alike : bool
        Whether the seeds of some group agree to less than one example.
    new_family : bool
        Whether no group is of the candidates' own family.
    best_in : int
        Number of groups in which the chosen setting was the best.
    losses : Series
        Accuracy points that each rule lost there; see `rule_losses`.
    trust : DataFrame
        See `Choice.trust`.
    """

    groups: int
    teachers: int
    families: int
    students: int
    alike: bool
    new_family: bool = False
    best_in: int = 0
    losses: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    trust: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def of(cls, groups: Sequence[EvidenceGroup]) -> EvidenceFacts:
        """The numbers of groups of evidence."""
        return cls(
            groups=len(groups),
            teachers=len({teacher for group in groups for teacher in group.candidates.identities}),
            families=len({group.family_code for group in groups}),
            students=len({group.student for group in groups}),
            alike=any(group.choosing.noise.alike for group in groups),
        )


def as_pairs(evidence: Iterable[object]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The evidence as a list of pairs of tables.

    Parameters
    ----------
    evidence : iterable
        Pairs of a probes and a results table.

    Returns
    -------
    list of (DataFrame, DataFrame)
        The same.

    Raises
    ------
    InputError
        If it is anything else, such as a single pair.
    """
    pairs = []
    for number, pair in enumerate(evidence):
        match pair:
            case (pd.DataFrame() as probes, pd.DataFrame() as results):
                pairs.append((probes, with_current_labels(results)))
            case _:
                raise InputError(
                    "expected evidence to be a list of pairs of tables, such as [(probes, results)], got "
                    f"{type(pair).__name__} as its item {number + 1}"
                )
    return pairs


def learn(
    profiles: pd.DataFrame,
    evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]],
    *,
    split: str,
    report_split: str,
    label: str | None,
    n_boot: int = 2000,
    seed: int = 0,
) -> tuple[Candidates, list[EvidenceGroup]]:
    """The teachers to choose among, and the evidence as one group per family and student.

    Parameters
    ----------
    profiles : DataFrame
        The teachers to choose among, by probe.
    evidence : pairs of a probes and a results table
        Of other studies or families.
    split, report_split : str
        The splits to choose and to report on, of the evidence, too.
    label : str, optional
        Take this setting where a student has it; else, and by default, that whose best teacher did best on `split`.
    n_boot, seed : int
        Of the draws by which settings are compared.

    Returns
    -------
    candidates : Candidates
        The teachers to choose among.
    groups : list of EvidenceGroup
        In order of the evidence, then by family and student.

    Raises
    ------
    InputError
        If a pair lacks columns or splits, has no teacher in common, or no family with three teachers with students.
    """
    tables = []
    for number, (probes, results) in enumerate(evidence):
        try:
            tables += families_of(probes, results, split, report_split)
        except InputError as error:
            raise InputError(f"evidence number {number + 1}: {error}") from error
    names = predictors(profiles)
    codes = family_codes([profiles, *(table.profiles for table in tables)])
    candidates = Candidates(profiles, names, tuple(codes[0]))
    rng = np.random.default_rng(seed)
    groups = [table.group(names, code, label, n_boot, rng) for table, code in zip(tables, codes[1:], strict=True)]
    return candidates, groups


def rule_losses(groups: Sequence[EvidenceGroup], new_family: bool, n_boot: int, rng: np.random.Generator) -> pd.Series:
    """Accuracy points that each rule lost on average over the groups, on the split to report; best first.

    The rule ``"evidence"`` chooses without the group's own students: for a new family from the groups of other
    families, else from all other groups. It is left out where there are none.
    """
    losses: list[dict[str, float]] = []
    for group in groups:
        draws = posterior_draws(group.reporting, n_boot, rng).means
        loss = 100 * (draws.max(axis=1, keepdims=True) - draws).mean(axis=0)
        profiles = group.candidates.profiles
        rules, _ = rule_choices(profiles)
        positions = profiles.index.get_indexer(pd.MultiIndex.from_frame(rules[UNIT]))
        by_rule = dict(zip(rules["rule"], loss[positions], strict=True))
        other_groups = [
            other for other in groups if (other.family_code != group.family_code if new_family else other is not group)
        ]
        if other_groups:
            unmeasured, learnt_from = group.candidates.unmeasured(), [other.choosing for other in other_groups]
            predicted = posterior_draws(unmeasured, n_boot, rng, learnt_from).means
            by_rule["evidence"] = float(loss[int(predicted.mean(axis=0).argmax())])
        losses.append(by_rule)
    return pd.DataFrame(losses).mean().sort_values(kind="stable")


def best_setting(groups: Sequence[EvidenceGroup]) -> tuple[str, pd.DataFrame]:
    """The setting that did best on average, and how the others compare with it (see `SettingDraws.table`).

    Where the groups do not have the same settings it is the one that was best most often, and the table is empty.
    """
    average = average_settings([group.settings for group in groups])
    if average is not None:
        table = average.table().drop(columns="position")
        methods, taus = zip(*groups[0].methods.values(), strict=True)
        named = pd.DataFrame({"label": list(groups[0].methods), "method": methods, "tau": taus})
        return average.best, named.merge(table, on="label", how="right")
    counts = pd.Series([group.label for group in groups]).value_counts(sort=False)
    return str(counts.idxmax()), pd.DataFrame()


@dataclass(frozen=True)
class FamilyTable:
    """One family and student of a pair of tables.

    Attributes
    ----------
    profiles : DataFrame
        The family's teachers, by probe.
    choosing, reporting : DataFrame
        Rows of the student's results, on the split to choose on and on the one to report.
    """

    profiles: pd.DataFrame
    choosing: pd.DataFrame
    reporting: pd.DataFrame

    def all_groups(self, names: tuple[str, ...], codes: Sequence[Hashable]) -> dict[str, Group]:
        """Its students in every setting, on the split to choose on; arguments as of `group`."""
        return Candidates(self.profiles, names, tuple(codes)).groups(self.choosing)

    def group(
        self,
        names: tuple[str, ...],
        codes: Sequence[Hashable],
        label: str | None,
        n_boot: int,
        rng: np.random.Generator,
    ) -> EvidenceGroup:
        """The table as evidence: its students in a setting; where they lack it, or none is asked for, in their best.

        `names` are the probes that predict, `codes` identify each teacher's family in whatever table.
        """
        teachers = Candidates(self.profiles, names, tuple(codes))
        choosing, reporting = teachers.groups(self.choosing), teachers.groups(self.reporting)
        compared = {label: choosing[label]} if label is not None and label in choosing else choosing
        settings = SettingDraws.of(SplitDraws.of_settings(compared, (), n_boot, rng))
        first = self.choosing.iloc[0]
        return EvidenceGroup(
            family=str(first["family"]),
            student=str(first["student"]),
            label=settings.best,
            settings=settings,
            methods=methods_by_label(self.choosing),
            candidates=teachers,
            choosing=choosing[settings.best],
            reporting=reporting[settings.best],
        )


def families_of(probes: pd.DataFrame, results: pd.DataFrame, split: str, report_split: str) -> list[FamilyTable]:
    """Each family and student of a pair of tables.

    Raises
    ------
    InputError
        If columns or splits are missing, no teacher is in both, or no family has three teachers with students.
    """
    profiles = read_probes(probes, split)[1]
    splits = resolve_splits(checked_results(results), split, report_split)
    results = with_families(results, probes)
    shared_teachers(probes, with_teacher(results))
    rows = usable_rows(results, profiles, splits)
    families = []
    for _, of_student in rows.groupby(["family", "student"], sort=True):
        enough = of_student.groupby("label")["teacher"].transform("nunique").ge(FEW)
        if enough.any():
            of_student = of_student[enough]
            first = of_student.iloc[0]
            of_pair = read_probes(probes, split, str(first["student"]))[1] if "student" in probes else profiles
            family = of_family(of_pair, str(first["family"]))
            choosing, reporting = (of_student[of_student["split"].eq(name)] for name in splits)
            families.append(FamilyTable(family, choosing, reporting))
    if not families:
        raise InputError(f"no family has {FEW} teachers with students in one setting, which evidence needs")
    return families
