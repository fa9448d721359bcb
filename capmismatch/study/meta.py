"""Across studies: what every rule, and learning from the other families, would have lost in each family left out.

The unit is the family: teachers that were trained alike on one data set. For each family, student and setting, a rule
names a teacher from the probes, and its students are held against those of the teacher that *other seeds* showed to be
best. So no rule is charged with the luck of the best of many noisy means, and a regret may be negative.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from capmismatch._utils.setting_labels import must_be_a_label
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.findings import explain
from capmismatch.selection.candidates import read_probes, rule_choices
from capmismatch.selection.left_out import LeftOut
from capmismatch.selection.repeats import without_repeats
from capmismatch.selection.rules import DEFAULT_TAU, RULES
from capmismatch.stats.across import contrasts, mean_over, pooled_correlation
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
CLAIMS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
"""Bins of the chances that are claimed."""

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
        family, student, method, label, half, rule, teacher, regret, mismatch``; of the evidence also ``p_best``, the
        chance that it claims among so many ``teachers``, and ``came_true``, that by the family's own students.
    correlations : DataFrame
        What the table of probes is made of, one row per family, probe, temperature and setting: ``study, family, probe,
        tau, method, label, value, teachers``.
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
    correlations: pd.DataFrame = field(repr=False)
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
            must_be_a_label(label, sorted(set(rows["label"])))
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

    def compared(self, against: str = AGAINST) -> pd.DataFrame:
        """The table of rules with another rule to compare with.

        Parameters
        ----------
        against : str
            A name in ``rules``, such as "most accurate".

        Returns
        -------
        DataFrame
            As ``rules``; ``less, less_low, less_high`` are the regret less that of this rule.

        Raises
        ------
        InputError
            An unknown rule.
        """
        must_be_one_of(against, sorted(set(self.choices["rule"])), "rule")
        return _rules_table(self.choices, against)

    def chances(self, carried: bool = False) -> pd.DataFrame:
        """How often the chances of being the best, as the evidence claims them, come true in the family left out.

        What is true is known as far as the family's own students tell: the chance by their seeds alone.

        Parameters
        ----------
        carried : bool, default False
            Hold what is left of the claims against that, too, after they were drawn toward one over the number of
            teachers by what `carried` finds in the other families: bins are then of these.

        Returns
        -------
        DataFrame
            One row per bin of `CLAIMS` with choices: ``low, high`` (of the bin), ``claimed, came_true`` (means),
            ``choices``, ``families``. Empty without evidence.
        """
        names = ["low", "high", "claimed", "came_true", "choices", "families"]
        rows = self._claims()
        if carried and len(rows):
            shares = {unit: self._carried(rows, unit) for unit in rows.index.unique()}
            even = 1 / rows["teachers"]
            rows = rows.assign(p_best=even + (rows["p_best"] - even) * rows.index.map(shares).to_numpy(float))
        table = []
        for low, high in pairwise(CLAIMS):
            own = rows[rows["p_best"].ge(low) & (rows["p_best"].lt(high) | (high == 1.0))] if len(rows) else rows
            if len(own):
                means = (own["p_best"].mean(), own["came_true"].mean())
                table.append((low, high, *means, len(own), own.index.nunique()))
        return pd.DataFrame(table, columns=names)

    def carried(self) -> float:
        r"""How much of the claimed chances carries over to a family left out: the slope b of what came true.

        .. math:: P_\text{true} - 1/T = b\,(P_\text{claimed} - 1/T), \qquad 0 \le b \le 1

        Returns
        -------
        float
            1 where claims are right, 0 where they say nothing; NaN without evidence.
        """
        rows = self._claims()
        return self._carried(rows, None) if len(rows) else np.nan

    def _claims(self) -> pd.DataFrame:
        """What was claimed and what came true, one row per family, student and setting; by family."""
        if "p_best" not in self.choices:
            return pd.DataFrame()
        rows = self.choices[self.choices["rule"].eq(EVIDENCE)].drop_duplicates(_CELL[:-1])
        return rows.dropna(subset=["p_best", "came_true"]).set_index(["study", "family"])

    @staticmethod
    def _carried(rows: pd.DataFrame, without: tuple[str, str] | None) -> float:
        others = rows if without is None else rows[rows.index != without]
        even = 1 / others["teachers"]
        claimed, true = others["p_best"] - even, others["came_true"] - even
        squares = float((claimed**2).sum())
        return float(np.clip((claimed * true).sum() / squares, 0.0, 1.0)) if squares > 0 else 0.0

    def contrasts(self, label: str = "all", against: str = "accuracy", tau: float = DEFAULT_TAU) -> pd.DataFrame:
        r"""How much more closely probes go with the students than one of them does, in the same families.

        A mixed model of Fisher's z, :math:`z \sim \text{probe} + (1 \mid \text{family})`; a family's z is the mean
        over its settings. Probes count with the sign that the rules of `capmismatch.selection.rules.RULES` give them,
        so that of "lowest nll" less is better; others are left out.

        Parameters
        ----------
        label : str
            A setting, or "all".
        against : str
            The probe to compare with.
        tau : float
            Temperature of the probes that have one.

        Returns
        -------
        DataFrame
            One row per probe, closest first: ``probe, tau, z`` (turned), ``less, low, high, p`` (z less that of
            `against`), ``families``.

        Raises
        ------
        InputError
            An unknown setting or probe.
        """
        rows = self.correlations
        if label != "all":
            must_be_a_label(label, sorted(set(rows["label"])))
            rows = rows[rows["label"].eq(label)]
        rows = rows[rows["tau"].isna() | rows["tau"].eq(tau)]
        rows = rows[rows["probe"].isin(list(_SIGNS))]
        must_be_one_of(against, sorted(set(rows["probe"])), "probe")
        z = np.arctanh(rows["value"].clip(-0.999, 0.999))
        wide = rows.assign(z=z).pivot_table(index=["study", "family"], columns="probe", values="z")
        wide = wide.dropna(axis=1, thresh=max(2, len(wide) // 2)).dropna()
        turned = wide * pd.Series(_SIGNS).reindex(wide.columns)
        found = contrasts(turned.to_numpy(), list(turned).index(against)) if against in turned and len(turned) else []
        taus = rows.groupby("probe")["tau"].first()
        table = [
            (probe, taus[str(probe)], turned[probe].mean(), one.value, one.low, one.high, one.p, len(turned))
            for probe, one in zip(turned, found, strict=True)
        ]
        names = ["probe", "tau", "z", "less", "low", "high", "p", "families"]
        frame = pd.DataFrame(table, columns=names)
        return frame.sort_values("z", ascending=False, kind="stable").reset_index(drop=True)

    def __str__(self) -> str:
        families = self.choices[["study", "family"]].drop_duplicates()
        rows = self.rules[self.rules["label"].eq("all") & self.rules["regime"].eq("all")]
        lines = [f"{len(families)} families left out one at a time; points lost, 95 % intervals over families"]
        width = max(map(len, rows["rule"]), default=0)
        for rule, regret, low, high in zip(*(rows[name] for name in ("rule", "regret", "low", "high")), strict=True):
            lines.append(f"  {rule:<{width}}  {_interval(float(regret), float(low), float(high))}")
        lines += [str(explain(code)) for code in self.findings]
        return "\n".join(lines)


_SIGNS = {rule.probe: rule.sign for rule in reversed(RULES.values())}  # of the first rule with a probe
_CELL = ["study", "family", "student", "label", "half"]


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:6.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")


def meta(
    studies: Iterable[Study | str | os.PathLike[str] | Pair],
    *,
    split: str = "val",
    report_split: str = "test",
    evidence: bool = True,
    rules: Mapping[str, Callable[[pd.DataFrame], str]] | None = None,
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
    rules : mapping from str to callable, optional
        Rules of one's own by their names: each gets the probes of a family and names a teacher.
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
    options = {"split": split, "report_split": report_split}
    left_out = _left_out(families, options | {"n_boot": n_boot, "seed": seed}) if evidence else None
    own = {} if rules is None else rules
    choices = pd.DataFrame(
        [row for number, family in enumerate(families) for row in _choices(family, number, left_out, own, options)]
    )
    found = ["CM037"] if len(families) < 5 else []
    if evidence and EVIDENCE not in set(choices["rule"]):
        found.append("CM038")
    linked = _correlations(families, split, report_split)
    return Meta(_rules_table(choices), _probes_table(linked), _ceilings(families), choices, linked, found)


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


def _left_out(families: Sequence[_Family], options: dict[str, Any]) -> LeftOut:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about single tables
        return LeftOut([(family.probes, family.results) for family in families], **options)


def _once(families: Sequence[_Family]) -> list[_Family]:
    """The families without students that an earlier one has, too: a study that is given twice is one, also renamed."""
    _, kept, repeated = without_repeats(None, [(family.probes, family.results) for family in families])
    if repeated:
        warnings.warn(f"the same students were given twice, and are left out: {repeated}", stacklevel=3)
    left = {id(probes): results for probes, results in kept}
    return [replace(family, results=left[id(family.probes)]) for family in families if id(family.probes) in left]


def _choices(
    family: _Family,
    number: int,
    left_out: LeftOut | None,
    own: Mapping[str, Callable[[pd.DataFrame], str]],
    options: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """What each rule takes in one family and what it loses there, by student, setting and half of the seeds."""
    rules_of: dict[str, dict[str, str]] = {}
    mine = {name: rule(family.probes) for name, rule in own.items()}
    for label, of_label in family.results.groupby("label", sort=False):
        learnt = None if left_out is None else left_out.predict(number, str(label))
        for student, rows in of_label.groupby("student", sort=False):
            if str(student) not in rules_of:
                rules_of[str(student)] = _by_rule(family, str(student), options["split"]) | mine
            taken = rules_of[str(student)] | ({} if learnt is None else {EVIDENCE: learnt.chosen})
            head = {"study": family.study, "family": family.name, "student": student}
            head |= {"method": rows["method"].iloc[0], "label": label}
            claims = {}
            if left_out is not None and learnt is not None:
                true = left_out.chance_of(number, str(student), str(label), learnt.chosen)
                claims = {"p_best": learnt.claim, "came_true": true, "teachers": float(len(learnt.teachers))}
            for half, (known, judged) in enumerate(_halves(rows, options["split"], options["report_split"])):
                if len(judged) >= FEWEST_TEACHERS:
                    yield from _losses(head | {"half": half}, taken, known, judged, claims)


def _by_rule(family: _Family, student: str, split: str) -> dict[str, str]:
    """The teacher that each rule takes for a student."""
    at = resolve_split(family.probes["split"], split, among=None)
    named, _ = rule_choices(read_probes(family.probes, at, student)[1])
    return dict(zip(named["rule"], named["teacher"], strict=True))


def _losses(
    cell: dict[str, Any], taken: dict[str, str], known: pd.Series, judged: pd.Series, claims: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """What the teachers that rules take lose, by mean accuracies to know the best by and to judge by."""
    best, largest = float(judged[str(known.idxmax())]), str(taken.get(AGAINST, ""))
    cell = cell | {"mismatch": largest in known and bool(100 * (known.max() - known[largest]) >= MISMATCH)}
    for rule, teacher in taken.items():
        if teacher in judged:
            lost = {"rule": rule, "teacher": teacher, "regret": 100 * (best - judged[teacher])}
            yield cell | lost | (claims if rule == EVIDENCE else {})
    yield cell | {"rule": RANDOM, "teacher": "", "regret": 100 * (best - judged.mean())}


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


def _rules_table(choices: pd.DataFrame, against: str = AGAINST) -> pd.DataFrame:
    """Regret of every rule by setting and regime, a mean over families of their means."""
    every = pd.concat([choices, choices.assign(method="all", label="all")])
    table = []
    for regime in REGIMES:
        rows = every if regime == "all" else every[every["mismatch"].eq(regime == "mismatch")]
        for (method, label), setting in rows.groupby(["method", "label"], sort=False):
            family = setting.groupby(["study", "family", "rule"])["regret"].mean().unstack("rule")
            for rule in family:
                regret = mean_over(family[rule])
                less = mean_over(family[rule] - family[against] if against in family else [])
                values = (regret.value, regret.low, regret.high, regret.units, less.value, less.low, less.high)
                table.append((rule, method, label, regime, *values))
    frame = pd.DataFrame(table, columns=list(RULE_COLUMNS))
    frame = frame.assign(first=frame["label"].ne("all"), at=frame["regime"].map(REGIMES.index))
    by = ["first", "label", "at", "regret"]
    return frame.sort_values(by, kind="stable").drop(columns=["first", "at"]).reset_index(drop=True)


def _correlations(families: Sequence[_Family], split: str, report_split: str) -> pd.DataFrame:
    """Rank correlation of each probe with the students, family by family and setting by setting."""
    rows: list[tuple[str, str, str, float, str, str, float, int]] = []
    for family in families:
        at = resolve_split(family.probes["split"], split, among=None)
        probed, columns_of = family.probes[family.probes["split"].eq(at)], dict[str, Columns]()
        for (method, label), of_label in family.on(report_split).groupby(["method", "label"], sort=False):
            pairs: dict[tuple[str, float], list[tuple[pd.Series, pd.Series]]] = {}
            for student, one in of_label.groupby("student"):
                columns = columns_of.setdefault(str(student), _probe_columns(probed, str(student)))
                means = _teacher_means(one)
                for key, column in columns.items():
                    pairs.setdefault(key, []).append((column, means))
            for (probe, tau), of_students in pairs.items():
                at_tau = np.nan if tau < 0 else tau
                found = _mean_correlation(of_students)
                rows.append((family.study, family.name, probe, at_tau, str(method), str(label), *found))
    return pd.DataFrame(rows, columns=["study", "family", "probe", "tau", "method", "label", "value", "teachers"])


def _probes_table(correlations: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of each probe with the students, taken together over families."""
    table = []
    by = ["probe", "tau", "method", "label"]
    for key, rows in correlations.groupby(by, sort=False, dropna=False):
        pooled = pooled_correlation(rows["value"], rows["teachers"])
        table.append((*key, pooled.value, pooled.low, pooled.high, pooled.heterogeneity, pooled.families))
    frame = pd.DataFrame(table, columns=[*by, "value", "low", "high", "heterogeneity", "families"])
    frame = frame.dropna(subset="value")
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
