"""Which teacher to distil from, how sure that is, and what simpler rules would have cost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch import _words as words
from capmismatch._choice import STUDENT_COLUMNS, Choice
from capmismatch._matching import with_families
from capmismatch._rules import COMPANIONS, DEFAULT_RULE, DERIVED, RULES, rule_choices, teacher_probes
from capmismatch._taught import Taught, draw_students, with_columns, with_teacher
from capmismatch.correlating import FEW_TEACHERS, rows_of, shared_teachers
from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.findings import without_muted

__all__ = ["Choice", "pick"]

_UNIT = ["family", "teacher"]
_Z95 = 1.959964

Floats = NDArray[np.float64]


def pick(
    probes: pd.DataFrame,
    results: pd.DataFrame | None = None,
    *,
    student: str | None = None,
    label: str | None = None,
    rule: str = "auto",
    split: str = "val",
    report_split: str = "test",
    n_boot: int = 2000,
    seed: int = 0,
    mute: Iterable[str] = (),
) -> Choice:
    """Choose a teacher, from its probes alone or with the accuracies of students taught so far.

    **Without results** the teachers are ranked by one probe, by default that of
    `capmismatch.picking.DEFAULT_RULE`. Teachers whose difference from the best has a 95 % interval that covers zero are
    tied with it; the standard errors are taken as independent, which is conservative since all teachers saw the same
    examples. Among the tied the smallest is taken, for it is the cheapest.

    **With results** each teacher's true accuracy is estimated from its students' seeds on `split`, shrunken toward
    what its probes and its peers predict (`capmismatch._posterior.posterior_draws`); the teacher with the highest
    estimate is taken. A teacher without students is predicted, with a wide interval. P(best), expected regret, ties
    and the gain over plain cross-entropy come from the same draws; accuracies, gains and the regret of rules are
    reported on `report_split`, which takes no part in choosing.

    Parameters
    ----------
    probes : DataFrame
        The probes table. Its teachers are the candidates.
    results : DataFrame, optional
        The results table.
    student : str, optional
        Default: all students; the choice is then the best on their mean accuracy.
    label : str, optional
        The setting. Default: for each student the one whose best teacher does best on `split`.
    rule : str
        ``"auto"`` (results where given, else the default rule), or a rule's name such as ``"largest"``.
    split, report_split : str
        Choose on the first, report on the second. Probes are read on `split`.
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
        If columns, the rule's probe, or rows for a split, student or label are missing (with a list of those there
        are), or if no teacher has both probes and results.

    Examples
    --------
    >>> probes = pd.DataFrame({"family": "resnet", "teacher": ["small", "middle", "large"], "params": [1e5, 4e5, 9e5],
    ...     "split": "val", "seed": 0, "tau": 4.0, "probe": "derived_std", "value": [0.03, 0.05, 0.04], "se": 0.001})
    >>> choice = pick(probes)
    >>> choice.teacher, choice.rule, choice.findings
    ('middle', 'highest derived_std', ['CM003'])
    """
    must_be_one_of(rule, ["auto", *RULES], "rule")
    require_columns(probes, [*_UNIT, "params", "split", "tau", "probe", "value", "se"], "the probes table")
    rows = rows_of(probes, split, "the probes table")
    rows = rows[np.isfinite(rows["value"])]
    long = teacher_probes(rows)
    wide = long.pivot(index=_UNIT, columns="probe", values="value")
    wide["params"] = rows.groupby(_UNIT)["params"].first()
    if results is None:
        return _by_rule(long, wide, DEFAULT_RULE if rule == "auto" else rule, mute)
    results = with_families(with_columns(results), rows)
    shared_teachers(rows, with_teacher(results))
    taught = draw_students(
        results, wide, student=student, label=label, split=split, report_split=report_split, n_boot=n_boot, seed=seed
    )
    return _by_results(taught, wide, rule, mute)


# Without results: one probe ---------------------------------------------------------------------------------------


def _by_rule(long: pd.DataFrame, wide: pd.DataFrame, rule: str, mute: Iterable[str]) -> Choice:
    used = RULES[rule]
    if used.probe not in wide or wide[used.probe].isna().all():
        there = sorted(set(long["probe"]))
        raise InputError(
            f"the rule {rule!r} needs the probe {used.probe!r}; the probes table has {there} on this split"
        )
    table, tau = _probe_table(long, wide, used.probe, used.sign)
    chosen, tied = table.iloc[0], table[table["tie"]]
    findings = ["CM007"] if len(tied) > 1 else []
    if len(tied) > 1 and tied["params"].notna().all():
        chosen = tied.iloc[int(tied["params"].argmin())]
    rules, missing = rule_choices(wide)
    rules = rules.assign(regret=np.nan, low=np.nan, high=np.nan)
    reasons = [
        *words.ranking(table, used, tau), *words.cheapest(tied, chosen),
        *words.rivals(rules, table, chosen, used), *words.left_out(missing),
    ]  # fmt: skip
    risks = ["No student has been taught yet: the rule is a prior, and what it costs in this setting is unknown."]
    risks += words.confidence_risk(table, used)
    students = pd.DataFrame(columns=list(STUDENT_COLUMNS))
    return _choice(chosen, rule, students, table, rules, reasons, risks, findings, mute, tau=tau)


def _probe_table(long: pd.DataFrame, wide: pd.DataFrame, probe: str, sign: int) -> tuple[pd.DataFrame, float | None]:
    """The teachers, best first by one probe, and the temperature it was taken at."""
    if probe == "params":
        table, tau = wide["params"].dropna().rename("score").reset_index().assign(se=0.0), None
    else:
        rows = long[long["probe"].eq(probe)]
        tau = float(rows["tau"].iloc[0]) if rows["tau"].notna().all() else None
        table = rows.rename(columns={"value": "score"})[[*_UNIT, "score", "se"]]
    table = table.merge(wide["params"].reset_index(), on=_UNIT)
    table = table.sort_values("score", ascending=sign < 0, kind="stable").reset_index(drop=True)
    best = table.iloc[0]
    apart = sign * (best["score"] - table["score"])
    # An unknown standard error gives no grounds to call two values equal.
    tie = (apart <= _Z95 * np.hypot(table["se"], best["se"]).fillna(0)) | (table.index == 0)
    half = _Z95 * table["se"]
    table = table.assign(low=table["score"] - half, high=table["score"] + half, p_best=np.nan, regret=np.nan, tie=tie)
    columns = [*_UNIT, "params", "score", "low", "high", "p_best", "regret", "tie"]
    if probe in DERIVED and set(COMPANIONS) <= set(wide):
        table = table.merge(wide[list(COMPANIONS)].reset_index(), on=_UNIT, how="left")
        columns += COMPANIONS
    return table[columns], tau


# With results: draws of every teacher's accuracy -------------------------------------------------------------------


def _by_results(taught: list[Taught], wide: pd.DataFrame, rule: str, mute: Iterable[str]) -> Choice:
    choosing = np.mean([part.choosing.draws for part in taught], axis=0)
    reporting = np.mean([part.reporting.draws for part in taught], axis=0)
    plain = None
    if all(part.plain is not None for part in taught):
        plain = np.mean([part.plain for part in taught if part.plain is not None], axis=0)
    table = _result_table(taught, wide, choosing, reporting, plain)
    rules, missing = rule_choices(wide)
    if rule in missing:
        raise InputError(f"the rule {rule!r} needs the probe {RULES[rule].probe!r}; there are {sorted(wide.columns)}")
    lost = 100 * (reporting.max(axis=1, keepdims=True) - reporting)
    place = wide.index.get_indexer(pd.MultiIndex.from_frame(rules[_UNIT]))
    low, high = np.quantile(lost[:, place], [0.025, 0.975], axis=0)
    rules = rules.assign(regret=lost[:, place].mean(axis=0), low=low, high=high)
    rules = rules.sort_values("regret", kind="stable").reset_index(drop=True)
    chosen = table.iloc[0]
    if rule != "auto":
        row = rules[rules["rule"].eq(rule)].iloc[0]
        chosen = table[table["teacher"].eq(row["teacher"]) & table["family"].eq(row["family"])].iloc[0]
    students = _student_table(taught, wide)
    reasons = [
        words.estimate(chosen), *words.settings(students), *words.ties(table, chosen), *words.gain(table, chosen),
        *words.rule_costs(rules), *words.left_out(missing),
    ]  # fmt: skip
    risks = words.result_risks(table, chosen, taught)
    findings = ["CM007"] if table["tie"].sum() > 1 else []
    return _choice(
        chosen, "results" if rule == "auto" else rule, students, table, rules, reasons, risks, findings, mute
    )


def _result_table(
    taught: list[Taught], wide: pd.DataFrame, choosing: Floats, reporting: Floats, plain: Floats | None
) -> pd.DataFrame:
    score = choosing.mean(axis=0)
    low, high = np.quantile(choosing, [0.025, 0.975], axis=0)
    best = int(np.argmax(score))
    apart = np.quantile(choosing[:, [best]] - choosing, 0.025, axis=0)
    table = (
        wide["params"]
        .reset_index()
        .assign(
            score=score,
            low=low,
            high=high,
            p_best=np.bincount(choosing.argmax(axis=1), minlength=len(score)) / len(choosing),
            regret=100 * (choosing.max(axis=1, keepdims=True) - choosing).mean(axis=0),
            tie=apart <= 0,
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


def _student_table(taught: list[Taught], wide: pd.DataFrame) -> pd.DataFrame:
    """Every student's own best teacher."""
    rows = []
    for part in taught:
        draws = part.choosing.draws
        best = int(np.argmax(draws.mean(axis=0)))
        family, teacher = wide.index[best]
        p_best = float((draws.argmax(axis=1) == best).mean())
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
