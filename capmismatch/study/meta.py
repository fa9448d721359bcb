"""Across studies: what every rule, and learning from the other families, would have lost in each family left out.

The unit is the family: teachers that were trained alike on one data set. For each family, student and setting, a rule
names a teacher from the probes, and its students are held against those of the teacher that *other seeds* showed to be
best. So no rule is charged with the luck of the best of many noisy means, and a regret may be negative.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from capmismatch.errors import InputError, must_be_one_of
from capmismatch.findings import explain
from capmismatch.selection.candidates import read_probes, rule_choices
from capmismatch.selection.picking import pick
from capmismatch.selection.repeats import without_repeats
from capmismatch.stats.across import mean_over, pooled_correlation
from capmismatch.stats.correlations import correlations
from capmismatch.stats.differences import teacher_differences
from capmismatch.stats.matching import of_student, resolve_split, with_families, with_teacher
from capmismatch.study.study import Study
from capmismatch.study.tables import load_table

Pair = tuple[pd.DataFrame, pd.DataFrame]
Columns = dict[tuple[str, float], pd.Series]  # by probe and temperature: a value of each teacher

FEWEST_TEACHERS = 3
"""A family with students of fewer teachers leaves nothing to choose."""

MISMATCH = 0.3
"""Accuracy points that the largest teacher has to lose for a family to count as one with mismatch."""

EVIDENCE, RANDOM, AGAINST = "evidence", "random", "largest"
REGIMES = ("all", "mismatch", "elsewhere")
RULE_COLUMNS = (
    "rule",
    "method",
    "label",
    "regime",
    "regret",
    "low",
    "high",
    "families",
    "less",
    "less_low",
    "less_high",
)


@dataclass(frozen=True)
class Meta:
    """What was found across families. Tables, best or strongest first; points are points of accuracy.

    Attributes
    ----------
    rules : DataFrame
        One row per rule, setting and regime:

        - ``rule`` : name of a rule, ``"evidence"`` (`capmismatch.pick` with the other families as evidence), or
          ``"random"`` (the mean over the teachers)
        - ``method, label`` : the setting; ``"all"`` for the mean over a family's settings
        - ``regime`` : ``"all"``; ``"mismatch"``, where the other seeds say that the largest teacher loses `MISMATCH`
          points or more; ``"elsewhere"``
        - ``regret, low, high`` : mean points lost over families and its 95 % interval; NaN with a single family
        - ``families`` : how many count
        - ``less, less_low, less_high`` : regret less that of the rule "largest" in the same families, paired
    probes : DataFrame
        One row per probe, temperature and setting: ``probe, tau, method, label``, the rank correlation with the
        students' accuracy (``value, low, high``: Fisher's z, random effects over families), ``heterogeneity`` (I2), and
        ``families``.
    ceiling : DataFrame
        The table of `capmismatch.teacher_differences` for each ``study, family``: how reliable the teachers' means are,
        and the highest correlation to expect.
    choices : DataFrame
        What the first table is made of, one row per rule, family, student, setting and half of the seeds: ``study,
        family, student, method, label, half, rule, teacher, regret, mismatch``.
    findings : list of str
        Codes; see `capmismatch.explain`.

    See Also
    --------
    meta : Makes it.
    """

    rules: pd.DataFrame
    probes: pd.DataFrame
    ceiling: pd.DataFrame
    choices: pd.DataFrame = field(repr=False)
    findings: list[str] = field(default_factory=list)

    def plot_table(self, name: str) -> pd.DataFrame | None:
        """The table from which `capmismatch.plots.forest` draws this; None by any other name than "forest"."""
        return self.forest() if name == "forest" else None

    def forest(self, rule: str = EVIDENCE, against: str = AGAINST, label: str = "all") -> pd.DataFrame:
        """How much more or less a rule loses than another one, family by family, for `capmismatch.plots.forest`.

        Parameters
        ----------
        rule, against : str
            Names in ``rules``.
        label : str
            A setting, or "all".

        Returns
        -------
        DataFrame
            One row per family, ``name, value, low, high, mean``, in points, then one of the mean over families. A
            family's interval is over its students, settings and halves, NaN where it has one.

        Raises
        ------
        InputError
            An unknown rule or setting.
        """
        for name in (rule, against):
            must_be_one_of(name, sorted(set(self.choices["rule"])), "rule")
        rows = self.choices
        if label != "all":
            must_be_one_of(label, sorted(set(rows["label"])), "label")
            rows = rows[rows["label"].eq(label)]
        wide = rows.pivot_table(index=_CELL, columns="rule", values="regret")
        difference = (wide[rule] - wide[against]).dropna()
        table: list[tuple[str, float, float, float, bool]] = []
        names = difference.index.get_level_values("study") + ": " + difference.index.get_level_values("family")
        for name, values in difference.groupby(names, sort=False):
            within = mean_over(values, values.index.get_level_values("label"))
            table.append((str(name), within.value, within.low, within.high, False))
        over = mean_over([value for _, value, *_ in table])
        table.append((f"mean of {over.units}", over.value, over.low, over.high, True))
        return pd.DataFrame(table, columns=["name", "value", "low", "high", "mean"])

    def __str__(self) -> str:
        families = self.choices[["study", "family"]].drop_duplicates()
        rows = self.rules[self.rules["label"].eq("all") & self.rules["regime"].eq("all")]
        lines = [f"{len(families)} families left out one at a time; points lost, 95 % intervals over families"]
        width = max(map(len, rows["rule"]), default=0)
        for rule, regret, low, high in zip(*(rows[name] for name in ("rule", "regret", "low", "high")), strict=True):
            lines.append(f"  {rule:<{width}}  {_interval(float(regret), float(low), float(high))}")
        lines += [str(explain(code)) for code in self.findings]
        return "\n".join(lines)


_CELL = ["study", "family", "student", "label", "half"]


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:6.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")


def meta(
    studies: Iterable[Study | str | os.PathLike[str] | Pair],
    *,
    split: str = "val",
    report_split: str = "test",
    evidence: bool = True,
    n_boot: int = 500,
    seed: int = 0,
) -> Meta:
    """Leave each family of several studies out in turn, and tell what rules and probes are worth there.

    Parameters
    ----------
    studies : iterable
        Studies, their folders, or pairs of a probes and a results table. A study may hold several families.
    split : str, default "val"
        On which probes are read.
    report_split : str, default "test"
        On which students are judged.
    evidence : bool, default True
        Whether to try `capmismatch.pick` with the other families as evidence, too: with many families it takes nearly
        all the time.
    n_boot, seed : int
        Draws of `capmismatch.pick` with the other families as evidence, and their seed.

    Returns
    -------
    Meta
        Tables of rules, probes and ceilings.

    Raises
    ------
    InputError
        No study is given, one lacks a table, or no family has students of three teachers.

    See Also
    --------
    capmismatch.pick : Chooses one teacher, also with evidence.
    capmismatch.shipped_evidence : The studies that come with the package.
    capmismatch.plots.forest : Draws `Meta.forest`.

    Notes
    -----
    Seeds are halved by turns; a teacher is best by the one half and judged on the other, both ways round. With single
    seeds the best is taken on `split` and judged on `report_split`, which share their runs: regrets of all rules are
    then too small alike. Whether the largest teacher loses is decided on the half that judges nothing. Few families say
    little: read the intervals. Students that are given twice, also under other names, count once, with a warning.

    Examples
    --------
    >>> teachers = pd.DataFrame({"teacher": ["small", "middle", "large"], "params": [1e5, 4e5, 9e5], "seed": 0})
    >>> measured = {"split": "val", "tau": np.nan, "probe": "accuracy", "value": [0.7, 0.8, 0.9], "se": 0.01}
    >>> probes = teachers.assign(family="net", **measured)
    >>> students = {"student": "tiny", "method": "KD", "label": "KD", "teacher_seed": 0, "family": "net"}
    >>> runs = pd.concat([teachers.assign(**students | {"seed": seed}) for seed in (0, 1)])
    >>> runs = runs.assign(split="test", accuracy=[0.6, 0.64, 0.62] * 2)
    >>> rules = meta([(probes, runs)]).rules.query("label == 'all' and regime == 'all'")
    >>> rules.set_index("rule")["regret"].round(1).to_dict()
    {'largest': 2.0, 'most accurate': 2.0, 'random': 2.0, 'smallest': 4.0}
    """
    families = [family for number, study in enumerate(studies, 1) for family in _families_of(study, number)]
    if not families:
        raise InputError("expected at least one study, got none")
    families = [family for family in _once(families) if family.has_choice(report_split)]
    if not families:
        raise InputError(f"no family has students of {FEWEST_TEACHERS} teachers in one setting: nothing to choose from")
    options = {"split": split, "report_split": report_split, "n_boot": n_boot, "seed": seed}
    rows = [row for family in families for row in _choices(family, families, evidence, options)]
    choices = pd.DataFrame(rows)
    found = ["CM037"] if len(families) < 5 else []
    if evidence and EVIDENCE not in set(choices["rule"]):
        found.append("CM038")
    return Meta(
        _rules_table(choices), _probes_table(families, split, report_split), _ceilings(families), choices, found
    )


@dataclass(frozen=True)
class _Family:
    """One family of one study."""

    study: str
    name: str
    probes: pd.DataFrame
    results: pd.DataFrame

    def on(self, split: str) -> pd.DataFrame:
        """The students on a split, or on what stands in for it."""
        return self.results[self.results["split"].eq(resolve_split(self.results["split"], split))]

    def has_choice(self, split: str) -> bool:
        """Whether some setting has students of enough teachers."""
        counts = self.on(split).groupby(["student", "label"])["teacher"].nunique()
        return bool(counts.ge(FEWEST_TEACHERS).any())


def _families_of(study: Any, number: int) -> Iterator[_Family]:
    """The families of a study, with their students."""
    if isinstance(study, tuple):
        name, (probes, results) = f"study {number}", study
    elif isinstance(study, Study):
        name, probes, results = study.config.name, study.load("probes"), study.load("results")
    else:
        folder = Path(study)
        name, probes, results = folder.name, load_table(folder, "probes"), load_table(folder, "results")
    results = with_teacher(with_families(results, probes))
    for family in sorted(set(results["family"]) & set(probes["family"])):
        own = probes[probes["family"].eq(family)]
        students = results[results["family"].eq(family) & results["teacher"].isin(own["teacher"])]
        if len(students):
            yield _Family(name, str(family), own[own["teacher"].isin(students["teacher"])], students)


def _once(families: Sequence[_Family]) -> list[_Family]:
    """The families without students that an earlier one has, too: a study that is given twice is one, also renamed."""
    _, kept, repeated = without_repeats(None, [(family.probes, family.results) for family in families])
    if repeated:
        warnings.warn(f"the same students were given twice, and are left out: {repeated}", stacklevel=3)
    left = {id(probes): results for probes, results in kept}
    return [replace(family, results=left[id(family.probes)]) for family in families if id(family.probes) in left]


def _choices(
    family: _Family, families: Sequence[_Family], learn: bool, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """What each rule takes in one family and what it loses there, by student, setting and half of the seeds."""
    others = [(other.probes, other.results) for other in families if other is not family] if learn else []
    rules_of: dict[str, dict[str, str]] = {}
    for label, of_label in family.results.groupby("label", sort=False):
        (learnt, others) = _learnt_choice(family, others, {**options, "label": str(label)})
        for student, rows in of_label.groupby("student", sort=False):
            by_rule = rules_of.setdefault(str(student), _by_rule(family, str(student), options["split"]))
            taken = by_rule if learnt is None else by_rule | {EVIDENCE: learnt}
            head = {"study": family.study, "family": family.name, "student": student}
            head |= {"method": rows["method"].iloc[0], "label": label}
            for half, (known, judged) in enumerate(_halves(rows, options["split"], options["report_split"])):
                if len(judged) >= FEWEST_TEACHERS:
                    yield from _losses(head | {"half": half}, taken, known, judged)


def _by_rule(family: _Family, student: str, split: str) -> dict[str, str]:
    """The teacher that each rule takes for a student."""
    at = resolve_split(family.probes["split"], split, among=None)
    named, _ = rule_choices(read_probes(family.probes, at, student)[1])
    return dict(zip(named["rule"], named["teacher"], strict=True))


def _losses(
    cell: dict[str, Any], taken: dict[str, str], known: pd.Series, judged: pd.Series
) -> Iterator[dict[str, Any]]:
    """What the teachers that rules take lose, by mean accuracies to know the best by and to judge by."""
    best, largest = float(judged[str(known.idxmax())]), str(taken.get(AGAINST, ""))
    cell = cell | {"mismatch": largest in known and bool(100 * (known.max() - known[largest]) >= MISMATCH)}
    for rule, teacher in taken.items():
        if teacher in judged:
            yield cell | {"rule": rule, "teacher": teacher, "regret": 100 * (best - judged[teacher])}
    yield cell | {"rule": RANDOM, "teacher": "", "regret": 100 * (best - judged.mean())}


def _learnt_choice(family: _Family, others: list[Pair], options: dict[str, Any]) -> tuple[str | None, list[Pair]]:
    """The teacher that `pick` takes with the other families as evidence, and those that can teach something."""
    if not others:
        return None, others
    try:
        return _quiet_pick(family, others, **options), others
    except InputError:  # such as a family with other probes, or with students of two teachers in each setting
        others = [pair for pair in others if _teaches(family, pair, options)]
        return (_quiet_pick(family, others, **options) if others else None), others


def _teaches(family: _Family, pair: Pair, options: dict[str, Any]) -> bool:
    try:
        _quiet_pick(family, [pair], **{**options, "n_boot": 1})
    except InputError:
        return False
    return True


def _quiet_pick(family: _Family, evidence: list[Pair], **options: Any) -> str:
    """The teacher that `pick` takes; its warnings are about single choices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pick(family.probes, evidence=evidence, **options).teacher


def _halves(rows: pd.DataFrame, split: str, report_split: str) -> Iterator[tuple[pd.Series, pd.Series]]:
    """Mean accuracy by teacher, twice: to know the best by, and to judge by; of the same teachers."""
    judged = rows[rows["split"].eq(resolve_split(rows["split"], report_split))]
    half = judged["seed"].rank(method="dense").astype(int) % 2
    if half.nunique() == 2:
        parts = [judged[half.eq(number)] for number in (0, 1)]
        pairs = [(parts[0], parts[1]), (parts[1], parts[0])]
    else:
        pairs = [(rows[rows["split"].eq(resolve_split(rows["split"], split))], judged)]
    for known, other in pairs:
        means = [_teacher_means(part) for part in (known, other)]
        both = means[0].index.intersection(means[1].index)
        yield means[0][both], means[1][both]


def _teacher_means(rows: pd.DataFrame) -> pd.Series:
    """Mean over a teacher's runs of the means over the students' seeds."""
    return rows.groupby(["teacher", "teacher_seed"])["accuracy"].mean().groupby(level="teacher").mean()


def _rules_table(choices: pd.DataFrame) -> pd.DataFrame:
    """Regret of every rule by setting and regime, a mean over families of their means."""
    every = pd.concat([choices, choices.assign(method="all", label="all")])
    table = []
    for regime in REGIMES:
        rows = every if regime == "all" else every[every["mismatch"].eq(regime == "mismatch")]
        for (method, label), setting in rows.groupby(["method", "label"], sort=False):
            family = setting.groupby(["study", "family", "rule"])["regret"].mean().unstack("rule")
            for rule in family:
                regret = mean_over(family[rule])
                less = mean_over(family[rule] - family[AGAINST] if AGAINST in family else [])
                values = (regret.value, regret.low, regret.high, regret.units, less.value, less.low, less.high)
                table.append((rule, method, label, regime, *values))
    frame = pd.DataFrame(table, columns=list(RULE_COLUMNS))
    frame = frame.assign(first=frame["label"].ne("all"), at=frame["regime"].map(REGIMES.index))
    by = ["first", "label", "at", "regret"]
    return frame.sort_values(by, kind="stable").drop(columns=["first", "at"]).reset_index(drop=True)


def _probes_table(families: Sequence[_Family], split: str, report_split: str) -> pd.DataFrame:
    """Rank correlations of each probe with the students, taken together over families."""
    found: dict[tuple[str, float, str, str], list[tuple[float, int]]] = {}
    for family in families:
        at = resolve_split(family.probes["split"], split, among=None)
        probed, columns_of = family.probes[family.probes["split"].eq(at)], dict[str, Columns]()
        for (method, label), rows in family.on(report_split).groupby(["method", "label"], sort=False):
            pairs: dict[tuple[str, float], list[tuple[pd.Series, pd.Series]]] = {}
            for student, one in rows.groupby("student"):
                columns = columns_of.setdefault(str(student), _probe_columns(probed, str(student)))
                means = _teacher_means(one)
                for key, column in columns.items():
                    pairs.setdefault(key, []).append((column, means))
            for (probe, tau), of_students in pairs.items():
                found.setdefault((probe, tau, str(method), str(label)), []).append(_mean_correlation(of_students))
    table = []
    for (probe, tau, method, label), of_families in found.items():
        pooled = pooled_correlation(*zip(*of_families, strict=True))
        values = (pooled.value, pooled.low, pooled.high, pooled.heterogeneity, pooled.families)
        table.append((probe, np.nan if tau < 0 else tau, method, label, *values))
    names = ["probe", "tau", "method", "label", "value", "low", "high", "heterogeneity", "families"]
    frame = pd.DataFrame(table, columns=names).dropna(subset="value")
    return frame.sort_values("value", key=abs, ascending=False, kind="stable").reset_index(drop=True)


def _probe_columns(probed: pd.DataFrame, student: str) -> Columns:
    """Each probe and temperature of the teachers, as one student meets them; -1 stands for no temperature."""
    rows = of_student(probed, student)
    columns: Columns = {("params", -1.0): rows.groupby("teacher")["params"].first()}
    for (probe, _), measured in rows.fillna({"tau": -1.0}).groupby(["probe", "tau"]):
        columns[str(probe), float(measured["tau"].iloc[0])] = measured.groupby("teacher")["value"].mean()
    return columns


def _mean_correlation(of_students: Sequence[tuple[pd.Series, pd.Series]]) -> tuple[float, int]:
    """Spearman's coefficient of a probe with the students' means, a mean in Fisher's z over the kinds of students."""
    scores, teachers = [], 0
    for column, means in of_students:
        both = pd.concat([column, means], axis=1, join="inner").dropna().to_numpy(float)
        if len(both) < FEWEST_TEACHERS or np.ptp(both[:, 0]) == 0 or np.ptp(both[:, 1]) == 0:
            continue
        group = np.zeros(len(both), dtype=np.int64)
        scores.append(float(correlations(both[:, :1], both[:, 1:], group, "spearman")[0, 0]))
        teachers = max(teachers, len(both))
    if not scores:
        return np.nan, 0
    return float(np.tanh(np.arctanh(np.clip(scores, -0.999, 0.999)).mean())), teachers


def _ceilings(families: Sequence[_Family]) -> pd.DataFrame:
    tables = [teacher_differences(family.results).assign(study=family.study, family=family.name) for family in families]
    table = pd.concat(tables, ignore_index=True)
    return table[["study", "family", *(name for name in table if name not in ("study", "family"))]]
