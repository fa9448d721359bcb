"""Which teacher to distil from, how sure that is, and what simpler rules would have cost.

Read from top to bottom: `pick` reads the tables and takes one of three ways, by a probe alone, by evidence, or by
results. Each turns draws of accuracies into tables, and these into a `Choice`, which makes its sentences when shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real

import numpy as np
import pandas as pd

from capmismatch.errors import (
    MOST_RESAMPLES,
    InputError,
    must_be_a_table,
    must_be_one_of,
    must_count,
    require_columns,
)
from capmismatch.findings import without_muted
from capmismatch.selection.by_probe import (
    by_probe,
    example_draws,
    findings_of,
    rule_to_follow,
    unfit_teachers,
    with_first_tau,
)
from capmismatch.selection.candidates import (
    Candidates,
    Floats,
    of_family,
    predictors,
    read_probes,
    rule_choices,
    zero_by_definition,
)
from capmismatch.selection.choice import Choice
from capmismatch.selection.choice_parts import (
    GAIN,
    SETTING_COLUMNS,
    STUDENT_COLUMNS,
    Basis,
    Comparison,
    Missing,
    Setting,
)
from capmismatch.selection.evidence import EvidenceFacts, EvidenceGroup, as_pairs, best_setting, learn, rule_losses
from capmismatch.selection.handover import settings_in
from capmismatch.selection.metric import Metric, metric_of
from capmismatch.selection.outlook import Outlook
from capmismatch.selection.repeats import without_repeats
from capmismatch.selection.rules import RULES
from capmismatch.selection.shipped import shipped_evidence
from capmismatch.selection.students import (
    SeedFacts,
    Splits,
    StudentResults,
    checked_results,
    draw_students,
    draw_summary,
    resolve_splits,
)
from capmismatch.stats.copies import same_students
from capmismatch.stats.differences import WANTED_RELIABILITY, taught_rows, tested
from capmismatch.stats.matching import (
    STUDENT_SPLITS,
    UNIT,
    only_student,
    resolve_split,
    shared_teachers,
    with_families,
    with_teacher,
)
from capmismatch.stats.outliers import outlying_runs
from capmismatch.stats.posterior import posterior_draws
from capmismatch.stats.usable import OF_UNUSABLE, of_texts, told, usable_tables

__all__ = ["Choice", "pick"]


def pick(
    probes: pd.DataFrame,
    results: pd.DataFrame | None = None,
    *,
    values: pd.DataFrame | None = None,
    evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]] | str | None = None,
    family: str | None = None,
    student: str | None = None,
    label: str | None = None,
    rule: str = "auto",
    split: str = "val",
    report_split: str = "test",
    tolerance: float | None = None,
    metric: str = "accuracy",
    n_boot: int = 2000,
    seed: int = 0,
    mute: Iterable[str] = (),
) -> Choice:
    """Choose a teacher: from its probes alone, with students of other families, or with its own students so far.

    **With probes alone** the teachers are ranked by one of them, by default their NLL: over the families whose students
    come with the package this rule loses least of those that look at the teachers alone, if by little
    (`capmismatch.selection.rules.DEFAULT_RULE`). What those students say of these teachers is `Choice.outlook`.
    Teachers that guess, or that are below a student without a teacher (rows of plain training as `results`), are not
    taken. Teachers whose difference from the best has a 95 % interval that covers zero are tied with it. With `values`,
    intervals and ties come from a bootstrap over the examples, which all teachers share, and over runs where a teacher
    has several; else standard errors are taken as independent, which is conservative. The smallest of the tied teachers
    is taken, because it is the cheapest; the title then says so, and how many teachers the rules name.
    `Choice.smallest_pilot` names the fewest students that would tell.

    **With evidence**, students of other families or other students of these teachers, how far to trust each probe is
    learnt from it (`capmismatch.stats.posterior.posterior_draws`: a ridge regression within families; its strength, and
    how far it carries over, are weighed by leaving families out). The teacher with the highest prediction is taken;
    P(best) and expected regret come from draws of all teachers' accuracies. The table of rules says what each rule, and
    the evidence itself, would have lost there.

    **With results** each teacher's true accuracy is estimated from its students' seeds on `split`, shrunken toward
    what its probes, its peers and the evidence predict; the teacher with the highest estimate is taken. A teacher
    without students is predicted, with a wide interval, and gives way to one with students that is tied with it.
    P(best), expected regret, ties and the gain over plain cross-entropy come from the same draws; accuracies, gains and
    the regret of rules are reported on `report_split`, which takes no part in choosing. Settings are compared by their
    best teachers in these draws, too: `Choice.settings` says which ones are tied with the best one. Where teachers
    share seeds, all comparisons are within seeds, and intervals of accuracies are for these seeds. Noise comes from the
    seeds; where there is a single seed, or where all agree, the number of examples (column ``n``) gives its least size,
    and up to 30 times that variance is allowed for.

    Parameters
    ----------
    probes : DataFrame
        The probes table. Its teachers are the candidates.
    results : DataFrame, optional
        The results table; accuracies are shares in [0, 1].
    values : DataFrame, optional
        The table of `capmismatch.example_values` with the rule's probe at its temperature, on `split`.
    evidence : pairs of DataFrame, or str
        ``(probes, results)`` of other studies. A family counts from three teachers; repeated runs once. "shipped" are
        the studies of `capmismatch.shipped_evidence`, "none" takes none. By default (None) those of the package give an
        outlook where there are no results, and nothing else.
    family : str, optional
        Choose among this family's teachers. The other families of `probes` are evidence, as far as `results` has them.
    student : str, optional
        Default: all students; the choice is then the best on their mean accuracy.
    label : str, optional
        The setting. Default: for each student the one in which its best teacher does best on `split`.
    rule : str
        ``"auto"`` (results or evidence where given, else the default rule), or a rule's name such as ``"largest"``.
    split, report_split : str
        Choose on the first, report on the second. Probes are read on `split`. Results (and evidence) that have only
        one of the two, as other trainers leave them, serve for both; a risk then says that the report is too good.
    tolerance : float
        Accuracy points (or nats), >= 0, that do not matter to you, 0.3 (or 0.01) by default: `Choice.cheapest` is the
        smallest teacher that loses no more than this against the best with a chance of 90 %.
    metric : str
        By what students are compared: "accuracy", or of language models "nll": scores and baselines are then NLLs, less
        being better, and gains and regret in nats. That needs two seeds of some student, to tell the noise.
    n_boot : int
        Number of draws, 20 or more.
    seed : int
        Equal seeds give equal choices.
    mute : iterable of str
        Codes of findings to leave out.

    Returns
    -------
    Choice
        The teacher, the tables that compare it with the others, and what speaks for and against it.

    Raises
    ------
    InputError
        If columns, the rule's probe, or rows for a split, family, student or label are missing (with a list of those
        there are), if an accuracy is not in [0, 1], if no teacher has both probes and results, or if the evidence is
        not a list of pairs or has nothing to learn from.

    See Also
    --------
    capmismatch.pilot : Distils a little where the probes cannot tell.
    capmismatch.correlate : Links every probe to the students' accuracy.
    capmismatch.plots.pick_chart : Draws the table of teachers.

    Notes
    -----
    On simulated families with and without evidence (``benchmarks/bench_reliability.py``, ``benchmarks/bench_pick.py``)
    P(best) comes true about as often as it claims. The table by bins, the expected regret beside the real one, and how
    far the accuracy and the gain to report are from the truth stand in the docs on statistics.

    Examples
    --------
    >>> probes = pd.DataFrame({"family": "resnet", "teacher": ["small", "middle", "large"], "params": [1e5, 4e5, 9e5],
    ...     "split": "val", "seed": 0, "tau": 4.0, "probe": "derived_std", "value": [0.03, 0.05, 0.04], "se": 0.001})
    >>> choice = pick(probes)
    >>> choice.teacher, choice.rule, choice.findings
    ('middle', 'highest derived_std', ['CM003'])
    """
    _must_be_tables(probes, results, values)
    must_be_one_of(rule, ["auto", *RULES], "rule")
    must_count(n_boot, "n_boot", least=20, most=MOST_RESAMPLES)  # of fewer draws a chance says nothing
    by, splits = metric_of(metric), Splits(split, report_split)
    if by.less_is_better and results is None:
        raise InputError(f"the metric {metric!r} compares students: give their results")
    tolerance = by.tolerance if tolerance is None else tolerance
    is_number = isinstance(tolerance, Real) and not isinstance(tolerance, bool)
    if not is_number or not 0 <= tolerance < np.inf:
        raise InputError(f"expected a tolerance in {by.unit} >= 0, got {tolerance!r}")
    must_count(seed, "seed", least=0)
    must_be_one_of(report_split, ["train", *STUDENT_SPLITS], "report_split")
    evidence, with_outlook = _evidence_asked_for(evidence, results)
    probes, results, unusable = usable_tables(probes, results)
    measurements, profiles = read_probes(probes, split, only_student(probes, results, student))
    pairs = [(theirs, by.compared(students)) for theirs, students in as_pairs(evidence)]
    results, plain = _without_plain_alone(results, split, student)
    if results is not None:
        results = by.compared(checked_results(results))
        splits = resolve_splits(results, split, report_split)
    if family is not None:
        measurements, profiles = measurements[measurements["family"].eq(family)], of_family(profiles, family)
        results, other_families = _split_by_family(probes, results, family)
        pairs += other_families
        unusable = unusable[unusable["family"].eq(family)]
    results, pairs, repeated = without_repeats(results, pairs)
    if repeated:
        warnings.warn(f"the same students were given twice, and are left out: {repeated}", stacklevel=2)
    candidates, groups = Candidates.of(profiles), list[EvidenceGroup]()
    if pairs:
        candidates, groups = learn(profiles, pairs, split=split, report_split=report_split, label=label)
    if results is not None:
        results = with_families(results, measurements)
        shared_teachers(measurements, with_teacher(results))
        students = draw_students(
            results,
            candidates,
            ([group.choosing for group in groups], [group.reporting for group in groups]),
            splits,
            student=student,
            label=label,
            n_boot=n_boot,
            seed=seed,
        )
        only = splits.choosing if splits.choosing == splits.reporting and split != report_split else ""
        choice = _by_results(students, candidates, groups, rule, tolerance, only, mute, by)
        choice = _with_facts(choice, results, splits.choosing, mute)
    elif pairs:
        choice = _by_evidence(candidates, groups, rule, tolerance, n_boot, seed, mute)
    else:
        used = rule_to_follow(rule, probes, profiles)
        if rule == "auto" and values is not None and not values["probe"].eq(used.probe).any():
            values = None  # they are of another rule's probe
        draws = example_draws(values, measurements, profiles, used, n_boot, seed)
        choice = by_probe(measurements, profiles, used, draws, unfit_teachers(measurements, profiles, plain), mute)
        choice = with_first_tau(choice, probes)
        if with_outlook and len(profiles) > 1 and not of_texts(probes):
            outlook = Outlook.of(candidates, label, tolerance, n_boot, seed)
            choice = _with_outlook(choice, outlook, mute)
    methods = settings_in([*([] if results is None else [results]), *(pair[1] for pair in pairs)])
    choice = replace(choice, basis=replace(choice.basis, methods=methods))
    return _with_left_out(choice, probes, unusable, repeated, mute)


def _must_be_tables(probes: pd.DataFrame, results: pd.DataFrame | None, values: pd.DataFrame | None) -> None:
    must_be_a_table(probes, "the probes table", "cm.pick(cm.probe(bank), results); or all at once, cm.diagnose(bank)")
    if results is not None:
        must_be_a_table(results, "the results table", 'results = cm.load_results("students.csv")')
    if values is not None:
        must_be_a_table(values, "the table of values", "values = cm.example_values(bank, ...)")
        require_columns(values, ["teacher", "probe", "value"], "the table of values")


def _evidence_asked_for(
    evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]] | str | None, results: pd.DataFrame | None
) -> tuple[Iterable[tuple[pd.DataFrame, pd.DataFrame]], bool]:
    """The evidence as pairs of tables, and whether the package's studies give an outlook."""
    if not isinstance(evidence, str):
        if evidence is not None and not isinstance(evidence, Iterable):
            raise InputError(f"expected evidence as pairs of tables, such as [(probes, results)], got {evidence!r}")
        return (() if evidence is None else evidence), evidence is None
    must_be_one_of(evidence, ["shipped", "none"], "evidence")
    return (shipped_evidence() if evidence == "shipped" else ()), False


def _with_outlook(choice: Choice, outlook: Outlook | None, mute: Iterable[str]) -> Choice:
    """The choice with what the package's studies say."""
    codes = ["CM048"] if outlook is not None and outlook.unlike else []
    basis = replace(choice.basis, outlook=outlook)
    return replace(choice, basis=basis, findings=without_muted([*choice.findings, *codes], mute))


def _without_plain_alone(
    results: pd.DataFrame | None, split: str, student: str | None
) -> tuple[pd.DataFrame | None, float]:
    """The results, None where no teacher taught any of the students; and what those students then reach, else NaN.

    Of several kinds of students the best counts, which asks most of a teacher.
    """
    if results is None or len(with_teacher(checked_results(results))):
        return results, np.nan
    rows = results[results["split"].eq(resolve_split(results["split"], split))]
    if student is not None:
        must_be_one_of(student, sorted(rows["student"].unique()), "student")
        rows = rows[rows["student"].eq(student)]
    return None, float(rows.groupby("student")["accuracy"].mean().max())


def _with_left_out(
    choice: Choice, probes: pd.DataFrame, unusable: pd.DataFrame, repeated: str, mute: Iterable[str]
) -> Choice:
    """The choice, which says what was left out of it: unusable teachers, probes zero by definition, repeated runs."""
    two_classes = bool(zero_by_definition(probes))
    if unusable.empty and not two_classes and not repeated:
        return choice
    missing = replace(choice.basis.missing, unusable=told(unusable), two_classes=two_classes, repeated=repeated)
    codes = [code for cell in unusable["findings"] for code in str(cell).split(",") if code in OF_UNUSABLE]
    codes += ["CM014"] if two_classes else []
    findings = without_muted([*choice.findings, *codes], mute)
    return replace(choice, basis=replace(choice.basis, missing=missing), findings=findings)


def _split_by_family(
    probes: pd.DataFrame, results: pd.DataFrame | None, family: str
) -> tuple[pd.DataFrame | None, list[tuple[pd.DataFrame, pd.DataFrame]]]:
    """Results of a family (None where it has none), and those of the other families as evidence."""
    if results is None:
        return None, []
    results = with_families(results, probes)
    students = with_teacher(results)
    in_others = results["family"].ne(family) & results["family"].isin(probes["family"])
    pairs = [(probes[probes["family"].ne(family)], results[in_others])] if in_others.any() else []
    in_family = bool(students["family"].eq(family).any())
    if not in_family and not pairs:
        shared_teachers(probes, students)
    return (results[~in_others] if in_family else None), pairs


# By evidence: what other families and students teach ------------------------------------------------------------------


def _by_evidence(
    candidates: Candidates,
    groups: Sequence[EvidenceGroup],
    rule: str,
    tolerance: float,
    n_boot: int,
    seed: int,
    mute: Iterable[str],
) -> Choice:
    """The teacher with the highest predicted accuracy of its students."""
    rng = np.random.default_rng(seed)
    profiles = candidates.profiles
    predicted = posterior_draws(candidates.unmeasured(), n_boot, rng, [group.choosing for group in groups])
    table = profiles["params"].reset_index().assign(**draw_summary(predicted.means, tolerance), measured=False)
    table[["score", "low", "high"]] *= 100
    table = table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
    new_family = not set(candidates.families) & {group.family_code for group in groups}
    losses = rule_losses(groups, new_family, n_boot, rng)
    rules, missing_rules = _rules_with_loss(profiles, predicted.means, rule)
    rules = rules.assign(elsewhere=rules["rule"].map(losses))
    chosen = table.iloc[0] if rule == "auto" else _taken_by(rules, table, rule)
    low, high = np.quantile(100 * predicted.slopes, [0.025, 0.975], axis=0)
    points = 100 * predicted.slopes.mean(axis=0)
    trust = pd.DataFrame({"probe": candidates.predictors, "points": points, "low": low, "high": high})
    given = {name for group in groups for name in predictors(group.candidates.profiles)}
    trust = trust[trust["probe"].isin(given)].reset_index(drop=True)  # of others nothing was learnt
    label, settings = best_setting(groups)
    method, tau = next(group.methods[label] for group in groups if label in group.methods)
    best_in = sum(group.label == label for group in groups)
    facts = replace(EvidenceFacts.of(groups), new_family=new_family, best_in=best_in, losses=losses, trust=trust)
    return Choice(
        teacher=str(chosen["teacher"]),
        family=str(chosen["family"]),
        rule="evidence" if rule == "auto" else rule,
        setting=Setting(label=label, method=method, tau=tau),
        comparison=Comparison(table, rules, settings=settings, tolerance=tolerance),
        basis=Basis(Missing(rules=tuple(missing_rules), probes=candidates.missing_probes), evidence=facts),
        findings=findings_of(table, mute),
    )


# By results: draws of every teacher's accuracy ------------------------------------------------------------------------


def _by_results(
    students: list[StudentResults],
    candidates: Candidates,
    groups: Sequence[EvidenceGroup],
    rule: str,
    tolerance: float,
    only_split: str,
    mute: Iterable[str],
    metric: Metric,
) -> Choice:
    """The teacher with the highest estimated accuracy on the mean over the students."""
    profiles = candidates.profiles
    choosing = np.mean([student.choosing.draws for student in students], axis=0)
    reporting = np.mean([student.reporting.draws for student in students], axis=0)
    baselines = [student.cross_entropy for student in students if student.cross_entropy is not None]
    baseline = np.mean(baselines, axis=0) if len(baselines) == len(students) else None
    table = _result_table(students, profiles, tolerance, (choosing, reporting, baseline))
    rules, missing_rules = _rules_with_loss(profiles, reporting, rule)
    plain = np.mean([student.cross_entropy_mean for student in students])
    able = _better_than_plain(table, metric.of_teachers(profiles), float(plain))
    chosen = able.iloc[_best_tested(able)] if rule == "auto" else _taken_by(rules, table, rule)
    position = list(profiles.index).index((chosen["family"], chosen["teacher"]))
    by_student, settings = _student_table(students, profiles, position), _setting_table(students, profiles)
    table, by_student = (metric.in_range(frame, ("score", "low", "high")) for frame in (table, by_student))
    settings = metric.in_range(settings, ("score",))
    missing = Missing(rules=tuple(missing_rules), probes=candidates.missing_probes, split=only_split)
    return Choice(
        teacher=str(chosen["teacher"]),
        family=str(chosen["family"]),
        rule="results" if rule == "auto" else rule,
        setting=Setting.shared(by_student),
        comparison=Comparison(table, rules, by_student, settings, tolerance, metric),
        basis=Basis(missing, SeedFacts.of(students), EvidenceFacts.of(groups) if groups else None),
        findings=without_muted([*findings_of(table, mute), *(["CM022"] if chosen["gain_high"] < 0 else [])], mute),
    )


def _with_facts(choice: Choice, results: pd.DataFrame, split: str, mute: Iterable[str]) -> Choice:
    """The choice with the test of whether its teachers differ at all, and students that are out of line.

    Both are of the settings that were chosen; teachers that the probes lack take no part.
    """
    taught, known = with_teacher(results), pd.MultiIndex.from_frame(choice.table[UNIT])
    there = pd.MultiIndex.from_frame(taught[UNIT]).isin(known)
    unknown = tuple(taught.loc[~there, UNIT].drop_duplicates().sort_values(UNIT).itertuples(index=False, name=None))
    rows = taught[there].merge(choice.students[["student", "label"]])
    differences, outliers = tested(taught_rows(rows, split)), tuple(outlying_runs(rows))
    codes = ["CM015"] if differences["reliability"].lt(WANTED_RELIABILITY).any() else []
    findings = without_muted([*choice.findings, *codes, *(["CM023"] if outliers else [])], mute)
    missing = replace(choice.basis.missing, unknown=unknown, same_students=tuple(same_students(taught[there])))
    basis = replace(choice.basis, missing=missing, differences=differences, outliers=outliers)
    return replace(choice, basis=basis, findings=findings)


def _result_table(
    students: Sequence[StudentResults],
    profiles: pd.DataFrame,
    tolerance: float,
    draws: tuple[Floats, Floats, Floats | None],
) -> pd.DataFrame:
    """The teachers, best first by the draws to choose by, with their accuracies and gains on the split to report.

    Accuracies are those of the posterior, drawn toward the peers: the mean of the very seeds by which a teacher was
    chosen is too high.
    """
    choosing, reporting, baseline = draws
    tested = np.all([np.isfinite(student.reporting.means) for student in students], axis=0)
    table = (
        profiles["params"]
        .reset_index()
        .assign(
            **draw_summary(choosing, tolerance),
            measured=np.all([np.isfinite(student.choosing.means) for student in students], axis=0),
            accuracy=np.where(tested, reporting.mean(axis=0), np.nan),
            gain=np.nan,
            gain_low=np.nan,
            gain_high=np.nan,
        )
    )
    if baseline is not None:
        gain = 100 * (reporting - baseline[:, None])
        table["gain"] = gain.mean(axis=0)
        table["gain_low"], table["gain_high"] = np.quantile(gain, [0.025, 0.975], axis=0)
        table.loc[table["measured"] & ~tested, list(GAIN)] = np.nan  # a prediction is no report
    return table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)


def _student_table(students: Sequence[StudentResults], profiles: pd.DataFrame, chosen: int) -> pd.DataFrame:
    """Every student's own best teacher, and what the chosen one costs it: `Choice.students`."""
    rows = []
    for student in students:
        teachers = pd.DataFrame(draw_summary(student.choosing.draws, 0.0))
        best = _best_tested(teachers.assign(measured=np.isfinite(student.choosing.means)))
        gain, reported = [np.nan] * 3, bool(np.isfinite(student.reporting.means[best]))
        if student.cross_entropy is not None and reported:
            gains = 100 * (student.reporting.draws[:, best] - student.cross_entropy)
            gain = [gains.mean(), *np.quantile(gains, [0.025, 0.975])]
        setting = (student.student, student.label, *student.methods[student.label])
        accuracy = student.reporting.draws[:, best].mean() if reported else np.nan
        accuracies = (accuracy, student.cross_entropy_mean)
        behind = 100 * (student.choosing.draws[:, best] - student.choosing.draws[:, chosen])
        best_of = (*profiles.index[best], float(teachers["p_best"].iloc[best]))
        rows.append((*setting, *best_of, *accuracies, *gain, behind.mean(), np.quantile(behind, 0.025)))
    return pd.DataFrame(rows, columns=list(STUDENT_COLUMNS))


def _setting_table(students: Sequence[StudentResults], profiles: pd.DataFrame) -> pd.DataFrame:
    """Every student's settings with their best teachers: `Choice.settings`; without students of a single setting."""
    rows = []
    for student in students:
        for row in student.settings.table().to_dict("records"):
            label, position = row.pop("label"), row.pop("position")
            rows.append((student.student, label, *student.methods[label], *profiles.index[position], *row.values()))
    return pd.DataFrame(rows, columns=list(SETTING_COLUMNS))


# What draws of accuracies say -----------------------------------------------------------------------------------------


def _rules_with_loss(profiles: pd.DataFrame, draws: Floats, rule: str) -> tuple[pd.DataFrame, list[str]]:
    """Whom every rule takes and what is lost by it, the least first; and the rules that lack their probe."""
    rules, missing = rule_choices(profiles)
    if rule in missing:
        raise InputError(
            f"the rule {rule!r} needs the probe {RULES[rule].probe!r}; there are {sorted(profiles.columns)}"
        )
    losses = 100 * (draws.max(axis=1, keepdims=True) - draws)
    by_rule = losses[:, profiles.index.get_indexer(pd.MultiIndex.from_frame(rules[UNIT]))]
    low, high = np.quantile(by_rule, [0.025, 0.975], axis=0)
    rules = rules.assign(regret=by_rule.mean(axis=0), low=low, high=high)
    return rules.sort_values("regret", kind="stable").reset_index(drop=True), missing


def _taken_by(rules: pd.DataFrame, table: pd.DataFrame, rule: str) -> pd.Series:
    """The row of the teacher that a rule takes."""
    row = rules[rules["rule"].eq(rule)].iloc[0]
    return table[table["teacher"].eq(row["teacher"]) & table["family"].eq(row["family"])].iloc[0]


def _best_tested(table: pd.DataFrame) -> int:
    """Position of the best teacher; one tied with it that has students goes before one that is only predicted."""
    tested = table["tie"] & table["measured"]
    return int(table["score"].where(tested if tested.any() else table["tie"]).argmax())


def _better_than_plain(table: pd.DataFrame, reached: pd.Series | None, plain: float) -> pd.DataFrame:
    """The teachers less those that have no student yet and are themselves worse than a student taught by none."""
    if reached is None or np.isnan(plain):
        return table
    own = reached.reindex(pd.MultiIndex.from_frame(table[UNIT])).to_numpy(float)
    able = table[table["measured"] | ~(own < plain)]
    return able.reset_index(drop=True) if able["tie"].any() else table
