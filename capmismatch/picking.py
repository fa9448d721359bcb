"""Which teacher to distil from, how sure that is, and what simpler rules would have cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch import _words as words
from capmismatch._candidates import UNIT, Candidates, long_and_wide, of_family
from capmismatch._choice import STUDENT_COLUMNS, Choice
from capmismatch._evidence import Lesson, best_setting, elsewhere, learn
from capmismatch._matching import with_families
from capmismatch._posterior import posterior_draws
from capmismatch._rules import COMPANIONS, DEFAULT_RULE, DERIVED, RULES, rule_choices
from capmismatch._taught import Taught, draw_students, on_both_splits, with_columns, with_teacher
from capmismatch.correlating import FEW_TEACHERS, shared_teachers
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.findings import without_muted

__all__ = ["Choice", "pick"]

_Z95 = 1.959964

Floats = NDArray[np.float64]


def pick(
    probes: pd.DataFrame,
    results: pd.DataFrame | None = None,
    *,
    values: pd.DataFrame | None = None,
    evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]] = (),
    family: str | None = None,
    student: str | None = None,
    label: str | None = None,
    rule: str = "auto",
    split: str = "val",
    report_split: str = "test",
    n_boot: int = 2000,
    seed: int = 0,
    mute: Iterable[str] = (),
) -> Choice:
    """Choose a teacher: from its probes alone, with students of other families, or with its own students so far.

    **With probes alone** the teachers are ranked by one of them, by default that of
    `capmismatch.picking.DEFAULT_RULE`. Teachers whose difference from the best has a 95 % interval that covers zero are
    tied with it. With `values`, intervals and ties come from a bootstrap over the examples, which all teachers share,
    and over runs where a teacher has several; else standard errors are taken as independent, which is conservative.
    Among the tied the smallest is taken, for it is the cheapest.

    **With evidence**, students of other families or other students of these teachers, how far to trust each probe is
    learnt from it (`capmismatch._posterior.posterior_draws`: a ridge regression within families, its strength and how
    far it carries over weighed by leaving families out). The teacher with the highest prediction is taken; P(best)
    and expected regret come from draws of all teachers' accuracies. What each rule, and the evidence itself, would
    have lost there is in the table of rules.

    **With results** each teacher's true accuracy is estimated from its students' seeds on `split`, shrunken toward
    what its probes, its peers and the evidence predict; the teacher with the highest estimate is taken. A teacher
    without students is predicted, with a wide interval, and gives way to one with students that is tied with it.
    P(best), expected regret, ties and the gain over plain
    cross-entropy come from the same draws; accuracies, gains and the regret of rules are reported on `report_split`,
    which takes no part in choosing.

    Parameters
    ----------
    probes : DataFrame
        The probes table. Its teachers are the candidates.
    results : DataFrame, optional
        The results table.
    values : DataFrame, optional
        The table of `capmismatch.example_values` with the rule's probe at its temperature, on `split`.
    evidence : pairs of DataFrame
        ``(probes, results)`` of other studies. A family teaches something with three or more teachers taught.
    family : str, optional
        Choose among this family's teachers. The other families of `probes` are evidence, as far as `results` has them.
    student : str, optional
        Default: all students; the choice is then the best on their mean accuracy.
    label : str, optional
        The setting. Default: for each student the one whose best teacher does best on `split`.
    rule : str
        ``"auto"`` (results or evidence where given, else the default rule), or a rule's name such as ``"largest"``.
    split, report_split : str
        Choose on the first, report on the second. Probes are read on `split`. Results (and evidence) that have only
        one of the two, as other trainers leave them, serve for both; a risk then says that the report is too good.
    n_boot : int
        Draws.
    seed : int
        Equal seeds give equal choices.
    mute : iterable of str
        Codes of findings to leave out.

    Returns
    -------
    Choice

    Raises
    ------
    InputError
        If columns, the rule's probe, or rows for a split, family, student or label are missing (with a list of those
        there are), if no teacher has both probes and results, or if the evidence has nothing to learn from.

    Notes
    -----
    On simulated families that have only probes, with students of 1 to 6 other families (``benchmarks/bench_pick.py``),
    95 % intervals cover in 89-96 %, and P(best) is claimed within 0.15 of how often it comes true; with a single other
    family it is claimed too low, by up to 0.2.

    Examples
    --------
    >>> probes = pd.DataFrame({"family": "resnet", "teacher": ["small", "middle", "large"], "params": [1e5, 4e5, 9e5],
    ...     "split": "val", "seed": 0, "tau": 4.0, "probe": "derived_std", "value": [0.03, 0.05, 0.04], "se": 0.001})
    >>> choice = pick(probes)
    >>> choice.teacher, choice.rule, choice.findings
    ('middle', 'highest derived_std', ['CM003'])
    """
    must_be_one_of(rule, ["auto", *RULES], "rule")
    long, wide = long_and_wide(probes, split)
    pairs, only = list(evidence), ""
    if results is not None:
        results, only = on_both_splits(with_columns(results), split, report_split)
    if family is not None:
        long, wide = long[long["family"].eq(family)], of_family(wide, family)
        results, others = _apart(probes, results, family)
        pairs += others
    if results is None and not pairs:
        return _by_rule(long, wide, DEFAULT_RULE if rule == "auto" else rule, mute, values, n_boot, seed)
    candidates, lessons = learn(wide, pairs, split=split, report_split=report_split, label=label)
    if results is None:
        return _by_evidence(candidates, lessons, rule, n_boot, seed, mute)
    results = with_families(results, long)
    shared_teachers(long, with_teacher(results))
    groups = [lesson.choosing for lesson in lessons], [lesson.reporting for lesson in lessons]
    taught = draw_students(
        results, candidates, groups, student=student, label=label, split=split, report_split=report_split,
        n_boot=n_boot, seed=seed,
    )  # fmt: skip
    return _by_results(taught, wide, rule, mute, words.from_elsewhere(lessons), words.one_split_risk(only))


def _apart(
    probes: pd.DataFrame, results: pd.DataFrame | None, family: str
) -> tuple[pd.DataFrame | None, list[tuple[pd.DataFrame, pd.DataFrame]]]:
    """Results of a family (None where it has none), and those of the other families as evidence."""
    if results is None:
        return None, []
    results = with_families(results, probes)
    taught = with_teacher(results)
    own, others = taught["family"].eq(family), results["family"].ne(family) & results["family"].isin(probes["family"])
    pairs = [(probes[probes["family"].ne(family)], results[others])] if others.any() else []
    if not own.any() and not pairs:
        shared_teachers(probes, taught)
    return (results[~others] if own.any() else None), pairs


# Without results: one probe ---------------------------------------------------------------------------------------


def _by_rule(
    long: pd.DataFrame, wide: pd.DataFrame, rule: str, mute: Iterable[str], values: pd.DataFrame | None, n_boot: int,
    seed: int,
) -> Choice:  # fmt: skip
    used = RULES[rule]
    if used.probe not in wide or wide[used.probe].isna().all():
        there = sorted(set(long["probe"]))
        raise InputError(
            f"the rule {rule!r} needs the probe {used.probe!r}; the probes table has {there} on this split"
        )
    draws = None
    if values is not None and used.probe != "params":
        from capmismatch._rule_draws import rule_draws  # here, for it loads torch

        draws = rule_draws(values, long, used.probe, n_boot, seed)
    table, tau = _probe_table(long, wide, used.probe, used.sign, draws)
    chosen, tied = table.iloc[0], table[table["tie"]]
    findings = ["CM007"] if len(tied) > 1 else []
    if len(tied) > 1 and tied["params"].notna().all():
        chosen = tied.iloc[int(tied["params"].argmin())]
    rules, missing = rule_choices(wide)
    rules = rules.assign(regret=np.nan, low=np.nan, high=np.nan)
    beside = table[[*UNIT, "score", *(name for name in COMPANIONS if name in table), "tie"]]
    rules = rules.merge(beside, on=UNIT, how="left")
    reasons = [
        *words.ranking(table, used, tau), *words.cheapest(tied, chosen),
        *words.rivals(rules, chosen, used), *words.left_out(missing),
    ]  # fmt: skip
    risks = [
        "No student has been taught yet: the rule is a prior, and what it costs here is unknown. A pilot (--pilot) "
        "would tell."
    ]
    risks += words.confidence_risk(table, used)
    students = pd.DataFrame(columns=list(STUDENT_COLUMNS))
    return _choice(chosen, rule, students, table, rules, reasons, risks, findings, mute, tau=tau)


def _probe_table(
    long: pd.DataFrame, wide: pd.DataFrame, probe: str, sign: int, draws: pd.DataFrame | None
) -> tuple[pd.DataFrame, float | None]:
    """The teachers, best first by one probe, and the temperature it was taken at."""
    if probe == "params":
        table, tau = wide["params"].dropna().rename("score").reset_index().assign(se=0.0), None
    else:
        rows = long[long["probe"].eq(probe)]
        tau = float(rows["tau"].iloc[0]) if rows["tau"].notna().all() else None
        table = rows.rename(columns={"value": "score"})[[*UNIT, "score", "se"]]
    table = table.merge(wide["params"].reset_index(), on=UNIT)
    table = table.sort_values("score", ascending=sign < 0, kind="stable").reset_index(drop=True)
    if draws is None:
        best, half = table.iloc[0], _Z95 * table["se"]
        low, high = table["score"] - half, table["score"] + half
        # An unknown standard error gives no grounds to call two values equal.
        tie = sign * (best["score"] - table["score"]) <= _Z95 * np.hypot(table["se"], best["se"]).fillna(0)
    else:
        drawn = draws[pd.MultiIndex.from_frame(table[UNIT])].to_numpy()
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        tie = np.quantile(sign * (drawn[:, [0]] - drawn), 0.025, axis=0) <= 0
    table = table.assign(low=low, high=high, p_best=np.nan, regret=np.nan, tie=tie | (table.index == 0))
    columns = [*UNIT, "params", "score", "low", "high", "p_best", "regret", "tie"]
    if probe in DERIVED and set(COMPANIONS) <= set(wide):
        table = table.merge(wide[list(COMPANIONS)].reset_index(), on=UNIT, how="left")
        columns += COMPANIONS
    return table[columns], tau


# With evidence: what other families and students teach -----------------------------------------------------------


def _by_evidence(
    candidates: Candidates, lessons: Sequence[Lesson], rule: str, n_boot: int, seed: int, mute: Iterable[str]
) -> Choice:
    rng = np.random.default_rng(seed)
    wide = candidates.wide
    drawn = posterior_draws(candidates.unmeasured(), n_boot, rng, [lesson.choosing for lesson in lessons])
    table = wide["params"].reset_index().assign(**_columns(drawn.means), measured=False)
    table[["score", "low", "high"]] *= 100
    table = table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
    new_family = not set(candidates.families) & {lesson.kin for lesson in lessons}
    there = elsewhere(lessons, new_family, n_boot, rng)
    rules, missing = _rules_with_loss(wide, drawn.means, rule)
    rules = rules.assign(elsewhere=rules["rule"].map(there))
    chosen = table.iloc[0] if rule == "auto" else _taken(rules, table, rule)
    low, high = np.quantile(100 * drawn.slopes, [0.025, 0.975], axis=0)
    trust = pd.DataFrame(
        {"probe": candidates.names, "points": 100 * drawn.slopes.mean(axis=0), "low": low, "high": high}
    )
    setting, count = best_setting(lessons)
    reasons = [
        words.predicted(chosen), *words.ties(table, chosen), *words.trusted(trust, lessons),
        *words.cost_elsewhere(there, new_family), *words.setting_elsewhere(setting, count, lessons),
        *words.left_out(missing),
    ]  # fmt: skip
    risks = words.evidence_risks(table, chosen, lessons, new_family)
    findings = ["CM007"] if table["tie"].sum() > 1 else []
    students = pd.DataFrame(columns=list(STUDENT_COLUMNS))
    choice = _choice(
        chosen, "evidence" if rule == "auto" else rule, students, table, rules, reasons, risks, findings, mute,
        tau=setting.tau,
    )  # fmt: skip
    return replace(choice, label=setting.label, method=setting.method, trust=trust)


# With results: draws of every teacher's accuracy -------------------------------------------------------------------


def _by_results(
    taught: list[Taught], wide: pd.DataFrame, rule: str, mute: Iterable[str], reasons: list[str], risks: list[str]
) -> Choice:
    choosing = np.mean([part.choosing.draws for part in taught], axis=0)
    reporting = np.mean([part.reporting.draws for part in taught], axis=0)
    plain = None
    if all(part.plain is not None for part in taught):
        plain = np.mean([part.plain for part in taught if part.plain is not None], axis=0)
    table = _result_table(taught, wide, choosing, reporting, plain)
    rules, missing = _rules_with_loss(wide, reporting, rule)
    chosen = table.iloc[_tested_first(table)] if rule == "auto" else _taken(rules, table, rule)
    students = _student_table(taught, wide)
    reasons = [
        words.estimate(chosen), *words.settings(students), *words.ties(table, chosen), *words.gain(table, chosen),
        *words.rule_costs(rules), *reasons, *words.left_out(missing),
    ]  # fmt: skip
    risks = [*words.result_risks(table, chosen, taught), *risks]
    findings = ["CM007"] if table["tie"].sum() > 1 else []
    return _choice(
        chosen, "results" if rule == "auto" else rule, students, table, rules, reasons, risks, findings, mute
    )


def _result_table(
    taught: list[Taught], wide: pd.DataFrame, choosing: Floats, reporting: Floats, plain: Floats | None
) -> pd.DataFrame:
    table = (
        wide["params"]
        .reset_index()
        .assign(
            **_columns(choosing),
            measured=np.all([np.isfinite(part.choosing.means) for part in taught], axis=0),
            accuracy=np.mean([part.reporting.means for part in taught], axis=0),
            gain=np.nan,
            gain_low=np.nan,
            gain_high=np.nan,
        )
    )
    if plain is not None:
        gain = 100 * (reporting - plain[:, None])
        table["gain"] = gain.mean(axis=0)
        table["gain_low"], table["gain_high"] = np.quantile(gain, [0.025, 0.975], axis=0)
    return table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)


def _columns(draws: Floats) -> dict[str, Floats]:
    """What draws (n_boot, T) of accuracies say of each teacher."""
    score = draws.mean(axis=0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    best = int(np.argmax(score))
    return {
        "score": score, "low": low, "high": high,
        "p_best": np.bincount(draws.argmax(axis=1), minlength=len(score)) / len(draws),
        "regret": 100 * (draws.max(axis=1, keepdims=True) - draws).mean(axis=0),
        "tie": np.quantile(draws[:, [best]] - draws, 0.025, axis=0) <= 0,
    }  # fmt: skip


def _rules_with_loss(wide: pd.DataFrame, draws: Floats, rule: str) -> tuple[pd.DataFrame, list[str]]:
    """Whom every rule takes and what is lost by it, the least first; and the rules that lack their probe."""
    rules, missing = rule_choices(wide)
    if rule in missing:
        raise InputError(f"the rule {rule!r} needs the probe {RULES[rule].probe!r}; there are {sorted(wide.columns)}")
    lost = 100 * (draws.max(axis=1, keepdims=True) - draws)
    place = wide.index.get_indexer(pd.MultiIndex.from_frame(rules[UNIT]))
    low, high = np.quantile(lost[:, place], [0.025, 0.975], axis=0)
    rules = rules.assign(regret=lost[:, place].mean(axis=0), low=low, high=high)
    return rules.sort_values("regret", kind="stable").reset_index(drop=True), missing


def _taken(rules: pd.DataFrame, table: pd.DataFrame, rule: str) -> pd.Series:
    """The row of the teacher that a rule takes."""
    row = rules[rules["rule"].eq(rule)].iloc[0]
    return table[table["teacher"].eq(row["teacher"]) & table["family"].eq(row["family"])].iloc[0]


def _tested_first(table: pd.DataFrame) -> int:
    """Place of the best teacher; of those tied with it one that has students goes before one that is only predicted."""
    tested = table["tie"] & table["measured"]
    return int(table["score"].where(tested if tested.any() else table["tie"]).argmax())


def _student_table(taught: list[Taught], wide: pd.DataFrame) -> pd.DataFrame:
    """Every student's own best teacher."""
    rows = []
    for part in taught:
        own = pd.DataFrame(_columns(part.choosing.draws)).assign(measured=np.isfinite(part.choosing.means))
        best = _tested_first(own)
        family, teacher = wide.index[best]
        p_best = float(own["p_best"].iloc[best])
        gain = [np.nan] * 3
        if part.plain is not None:
            gained = 100 * (part.reporting.draws[:, best] - part.plain)
            gain = [gained.mean(), *np.quantile(gained, [0.025, 0.975])]
        setting = (part.student, part.label, part.method, part.tau)
        rows.append((*setting, family, teacher, p_best, part.reporting.means[best], part.plain_mean, *gain))
    return pd.DataFrame(rows, columns=list(STUDENT_COLUMNS))


def _choice(
    chosen: pd.Series,
    rule: str,
    students: pd.DataFrame,
    table: pd.DataFrame,
    rules: pd.DataFrame,
    reasons: list[str],
    risks: list[str],
    findings: list[str],
    mute: Iterable[str],
    tau: float | None = None,
) -> Choice:
    """Join the parts; a setting is named where all students share it."""
    if len(table) < FEW_TEACHERS:
        findings = [*findings, "CM003"]
        risks = [*risks, f"Only {len(table)} teachers were compared."]
    shared = {
        name: students[name].iloc[0] for name in ("student", "label", "method", "tau") if students[name].nunique() == 1
    }
    return Choice(
        teacher=str(chosen["teacher"]),
        family=str(chosen["family"]),
        rule=rule,
        student=shared.get("student"),
        label=shared.get("label"),
        method=shared.get("method"),
        tau=float(shared["tau"]) if "tau" in shared else tau,
        table=table,
        rules=rules,
        students=students,
        reasons=reasons,
        risks=[*risks, *words.edge_risk(table, chosen)],
        findings=without_muted(findings, mute),
    )
