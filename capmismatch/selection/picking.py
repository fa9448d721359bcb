"""Which teacher to distil from, how sure that is, and what simpler rules would have cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from capmismatch.errors import InputError, must_be_one_of, must_count
from capmismatch.findings import without_muted
from capmismatch.selection import evidence_reasons as learnt
from capmismatch.selection import reasons as words
from capmismatch.selection.candidates import UNIT, Candidates, long_and_wide, of_family
from capmismatch.selection.choice import STUDENT_COLUMNS, Choice
from capmismatch.selection.choice_tables import (
    best_tested,
    probe_table,
    result_table,
    rules_with_loss,
    setting_table,
    student_table,
    summary,
    taken,
)
from capmismatch.selection.evidence import Lesson, as_pairs, best_setting, elsewhere, learn
from capmismatch.selection.links import FEW_TEACHERS, shared_teachers
from capmismatch.selection.rules import COMPANIONS, DEFAULT_RULE, RULES, rule_choices
from capmismatch.selection.students import Taught, draw_students, on_both_splits, with_columns, with_teacher
from capmismatch.stats.matching import with_families
from capmismatch.stats.posterior import posterior_draws

__all__ = ["Choice", "pick"]


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
    `picking.DEFAULT_RULE`. Teachers whose difference from the best has a 95 % interval that covers zero are
    tied with it. With `values`, intervals and ties come from a bootstrap over the examples, which all teachers share,
    and over runs where a teacher has several; else standard errors are taken as independent, which is conservative.
    Among the tied the smallest is taken, for it is the cheapest.

    **With evidence**, students of other families or other students of these teachers, how far to trust each probe is
    learnt from it (`capmismatch.stats.posterior.posterior_draws`: a ridge regression within families, its strength and
    how far it carries over weighed by leaving families out). The teacher with the highest prediction is taken; P(best)
    and expected regret come from draws of all teachers' accuracies. What each rule, and the evidence itself, would
    have lost there is in the table of rules.

    **With results** each teacher's true accuracy is estimated from its students' seeds on `split`, shrunken toward
    what its probes, its peers and the evidence predict; the teacher with the highest estimate is taken. A teacher
    without students is predicted, with a wide interval, and gives way to one with students that is tied with it.
    P(best), expected regret, ties and the gain over plain cross-entropy come from the same draws; accuracies, gains and
    the regret of rules are reported on `report_split`, which takes no part in choosing. Settings are compared by their
    best teachers in these draws, too: `Choice.settings` tells which cannot be told from the best one. Where teachers
    share seeds all comparisons are within seeds, and intervals of accuracies are for these seeds. Noise comes from the
    seeds; where there is one, or where all agree, from the number of examples (column ``n``).

    Parameters
    ----------
    probes : DataFrame
        The probes table. Its teachers are the candidates.
    results : DataFrame, optional
        The results table; accuracies are shares in [0, 1].
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
        there are), if an accuracy is no share, if no teacher has both probes and results, or if the evidence is no list
        of pairs or has nothing to learn from.

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
    must_count(n_boot, "n_boot")
    pairs, only = as_pairs(evidence), ""
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
        results,
        candidates,
        groups,
        student=student,
        label=label,
        split=split,
        report_split=report_split,
        n_boot=n_boot,
        seed=seed,
    )
    return _by_results(taught, candidates, rule, mute, learnt.from_elsewhere(lessons), words.one_split_risk(only))


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
    long: pd.DataFrame,
    wide: pd.DataFrame,
    rule: str,
    mute: Iterable[str],
    values: pd.DataFrame | None,
    n_boot: int,
    seed: int,
) -> Choice:
    used = RULES[rule]
    if used.probe not in wide or wide[used.probe].isna().all():
        there = sorted(set(long["probe"]))
        raise InputError(
            f"the rule {rule!r} needs the probe {used.probe!r}; the probes table has {there} on this split"
        )
    draws = None
    if values is not None and used.probe != "params":
        from capmismatch.selection.rule_draws import rule_draws  # here, for it loads torch

        draws = rule_draws(values, long, used.probe, n_boot, seed)
    table, tau = probe_table(long, wide, used.probe, used.sign, draws)
    chosen, tied = table.iloc[0], table[table["tie"]]
    findings = ["CM007"] if len(tied) > 1 else []
    if len(tied) > 1 and tied["params"].notna().all():
        chosen = tied.iloc[int(tied["params"].argmin())]
    rules, missing = rule_choices(wide)
    rules = rules.assign(regret=np.nan, low=np.nan, high=np.nan)
    beside = [name for name in COMPANIONS if name in table]
    rules = rules.merge(table[[*UNIT, "score", "tie"]], on=UNIT, how="left")
    rules = rules.merge(wide[beside].reset_index(), on=UNIT, how="left")
    reasons = [
        *words.ranking(table, used, tau),
        *words.cheapest(tied, chosen),
        *words.rivals(rules, chosen, used),
        *words.left_out(missing),
    ]
    risks = [
        f"No student has been taught yet: the rule is a prior{words.measured_for(rule)}, and what it costs here is "
        "unknown. A pilot (--pilot) would tell."
    ]
    risks += [*words.without_probe(wide, table, used, tau), *words.confidence_risk(table, used)]
    students = pd.DataFrame(columns=list(STUDENT_COLUMNS))
    return _choice(chosen, rule, students, table, rules, reasons, risks, findings, mute, tau=tau)


# With evidence: what other families and students teach -----------------------------------------------------------


def _by_evidence(
    candidates: Candidates, lessons: Sequence[Lesson], rule: str, n_boot: int, seed: int, mute: Iterable[str]
) -> Choice:
    rng = np.random.default_rng(seed)
    wide = candidates.wide
    drawn = posterior_draws(candidates.unmeasured(), n_boot, rng, [lesson.choosing for lesson in lessons])
    table = wide["params"].reset_index().assign(**summary(drawn.means), measured=False)
    table[["score", "low", "high"]] *= 100
    table = table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
    new_family = not set(candidates.families) & {lesson.kin for lesson in lessons}
    there = elsewhere(lessons, new_family, n_boot, rng)
    rules, missing = rules_with_loss(wide, drawn.means, rule)
    rules = rules.assign(elsewhere=rules["rule"].map(there))
    chosen = table.iloc[0] if rule == "auto" else taken(rules, table, rule)
    low, high = np.quantile(100 * drawn.slopes, [0.025, 0.975], axis=0)
    trust = pd.DataFrame(
        {"probe": candidates.names, "points": 100 * drawn.slopes.mean(axis=0), "low": low, "high": high}
    )
    label, compared = best_setting(lessons)
    method, tau = next(lesson.named[label] for lesson in lessons if label in lesson.named)
    reasons = [
        learnt.predicted(table, chosen),
        *words.ties(table, chosen),
        *learnt.trusted(trust, lessons),
        *learnt.cost_elsewhere(there, new_family),
        *learnt.setting_elsewhere(label, compared, lessons),
        *words.left_out(missing),
    ]
    risks = [
        *learnt.evidence_risks(table, chosen, lessons, new_family),
        *words.unknown_probes(candidates, wide.index),
        *words.setting_risks(compared),
    ]
    findings = ["CM007"] if table["tie"].sum() > 1 else []
    students = pd.DataFrame(columns=list(STUDENT_COLUMNS))
    choice = _choice(
        chosen,
        "evidence" if rule == "auto" else rule,
        students,
        table,
        rules,
        reasons,
        risks,
        findings,
        mute,
        tau=tau,
    )
    return replace(choice, label=label, method=method, trust=trust, settings=compared)


# With results: draws of every teacher's accuracy -------------------------------------------------------------------


def _by_results(
    taught: list[Taught], candidates: Candidates, rule: str, mute: Iterable[str], reasons: list[str], risks: list[str]
) -> Choice:
    wide = candidates.wide
    choosing = np.mean([part.choosing.draws for part in taught], axis=0)
    reporting = np.mean([part.reporting.draws for part in taught], axis=0)
    plain = None
    if all(part.plain is not None for part in taught):
        plain = np.mean([part.plain for part in taught if part.plain is not None], axis=0)
    table = result_table(taught, wide, choosing, reporting, plain)
    rules, missing = rules_with_loss(wide, reporting, rule)
    chosen = table.iloc[best_tested(table)] if rule == "auto" else taken(rules, table, rule)
    students, compared = student_table(taught, wide), setting_table(taught, wide)
    reasons = [
        words.estimate(table, chosen),
        *words.settings(students, compared),
        *words.ties(table, chosen),
        *words.gain(table, chosen),
        *words.rule_costs(rules),
        *reasons,
        *words.left_out(missing),
    ]
    predicted = table.loc[~table["measured"], UNIT].itertuples(index=False, name=None)
    risks = [
        *words.result_risks(table, chosen, taught),
        *words.setting_risks(compared),
        *words.unknown_probes(candidates, predicted),
        *risks,
    ]
    findings = ["CM007"] if table["tie"].sum() > 1 else []
    choice = _choice(
        chosen, "results" if rule == "auto" else rule, students, table, rules, reasons, risks, findings, mute
    )
    return replace(choice, settings=compared)


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
        risks = [*risks, words.few(len(table))]
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
