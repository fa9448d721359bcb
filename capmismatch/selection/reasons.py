"""The sentences of a choice: its reasons and risks in words, made from its numbers when it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from capmismatch._utils.text import count, format_chance, format_count, format_number, join, start
from capmismatch.selection.evidence import EvidenceFacts
from capmismatch.selection.first_guess import SmallestPilot
from capmismatch.selection.metric import ACCURACY, Metric
from capmismatch.selection.rules import (
    COMPANIONS,
    DEFAULT_RULE,
    DEFAULT_TAU,
    DERIVED,
    NAMES,
    OF_WRONG_CLASSES,
    RELEVANT,
    RULES,
    TWO_CLASSES,
    Rule,
)
from capmismatch.selection.students import SeedFacts
from capmismatch.stats.differences import WANTED_RELIABILITY
from capmismatch.stats.matching import UNIT

SHOWN_STUDENTS = 3
"""Students that the reasons speak of; all are in the table."""

SHOWN_SETTINGS = 3
"""Settings tied with the best that a risk names."""

SIGNIFICANT = 0.05
"""Level of the test of whether teachers differ."""

SHARED = 0.05
"""Points by which seeds move all students alike, below which it is not worth a sentence."""

FEW_FAMILIES = 3
"""With fewer families of evidence than this, leaving one out tells little."""

ALIKE = (
    "The seeds of each teacher agree to less than one example: were they different runs? They say nothing of the "
    "noise, so that of the examples is taken."
)
"""What it means that `capmismatch.stats.groups.Noise.alike`."""

_GROUNDS = {
    "results": "its students' results",
    "evidence": "the evidence of other students",
    "pilot": "a pilot",
}


VERDICTS = {"clear": "Take teacher", "leaning": "Leaning to teacher", "toss-up": "Toss-up:", "none": "First guess:"}
"""How a choice begins, by its grade."""


def grounds(rule: str) -> str:
    """What a choice was made by."""
    return _GROUNDS.get(rule, f"the rule '{rule}'")


def named(row: pd.Series) -> str:
    """The teacher of a row of a table, with its family."""
    return f"{row['family']}/{row['teacher']}"


# By a probe alone ----------------------------------------------------------------------------------------------------


def ranking(table: pd.DataFrame, rule: Rule, tau: float | None) -> list[str]:
    """How the best by a probe compares with the next, with p_y and IV beside a derived probe."""
    how = "highest" if rule.sign > 0 else "lowest"
    at = "" if tau is None else f" at tau={tau:g}"
    first = table.iloc[0]
    sentence = f"{named(first)} has the {how} {rule.probe}{at}: {_interval(first)}{_beside(first)}."
    if len(table) > 1:
        second = table.iloc[1]
        sentence += f" Next comes {named(second)} with {_interval(second)}{_beside(second)}."
    if tau is not None and tau != DEFAULT_TAU:
        sentence += f" The probes have no tau={DEFAULT_TAU:g}; tau={tau:g} is the nearest there is."
    return [sentence]


def cheapest(tied: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """Who is tied, and why the chosen one is taken among them."""
    if len(tied) < 2:
        return []
    names = join([named(row) for _, row in tied.iterrows()])
    why = f"{named(chosen)} is taken as the smallest, so the cheapest, of them ({format_count(chosen['params'])} parameters)."
    if tied["params"].isna().any():
        why = f"{named(chosen)} is taken for its value, because not all their sizes are known."
    return [
        f"Too close to call between {names} on this probe: the 95 % intervals of their differences cover zero, which "
        f"does not make their students equal. {why}"
    ]


def smallest_of(table: pd.DataFrame, chosen: pd.Series) -> str:
    """Piece of a title: that the chosen teacher is the smallest of those that tie, and not the best by the probe."""
    if named(chosen) == named(table.iloc[0]):
        return ""
    return f", the smallest of {table['tie'].sum()} that tie,"


def spread_in_short(rules: pd.DataFrame) -> str:
    """End of a title: whether the rules agree."""
    teachers = rules.groupby(UNIT).ngroups
    if len(rules) < 2:
        return ""
    return f"; {len(rules)} rules name {teachers} teachers" if teachers > 1 else f"; all {len(rules)} rules agree"


def spread_of_rules(rules: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """How many teachers the rules name, which most, and how far apart in size."""
    votes = rules.groupby(UNIT, sort=False).size().rename("votes").reset_index()
    if len(votes) < 2:
        return []
    votes = votes.merge(table[[*UNIT, "params"]], on=UNIT, how="left")
    votes = votes.sort_values(["votes", "params"], ascending=[False, True], kind="stable")
    counted = join([f"{named(row)} ({row['votes']})" for _, row in votes.iterrows()])
    sizes = votes["params"]
    known = sizes.notna().all() and sizes.max() > sizes.min()
    apart = f", from {format_count(sizes.min())} to {format_count(sizes.max())} parameters" if known else ""
    return [f"The {len(rules)} rules disagree: they name {len(votes)} of {len(table)} teachers{apart}: {counted}."]


def rivals(rules: pd.DataFrame, chosen: pd.Series, used: Rule) -> list[str]:
    """Whom the rules that people go by would take instead, and how those teachers stand on the used probe."""
    sentences: list[str] = []
    if rules.groupby(UNIT).ngroups < 2 and named(rules.iloc[0]) == named(chosen):
        return ["All rules would take it."]
    relevant, further = _by_teacher(rules[rules["rule"].ne(used.name)])
    for taking in relevant:
        row = taking.iloc[0]
        if named(row) == named(chosen):
            sentences.append(f"{_rules(taking)} would take the same teacher.")
            continue
        sentences.append(
            f"{_rules(taking)} would take {named(row)}: its {used.probe} is {_value(row['score'])}{_beside(row)}, "
            f"against {_value(chosen['score'])}{_beside(chosen)} of {named(chosen)}."
        )
    if further:
        first, *more = [(_rules(taking), named(taking.iloc[0])) for taking in further]
        clauses = [f"Of the other rules {first[0]} would take {first[1]}", *(f"{who} {whom}" for who, whom in more)]
        sentences.append("; ".join(clauses) + ".")
    return sentences


def left_out(missing: Sequence[str], two_classes: bool = False) -> list[str]:
    """Which rules had no probe to go by."""
    sentences = [f"{start(TWO_CLASSES)}: rules that go by them are left out."] if two_classes else []
    missing = [name for name in missing if not (two_classes and RULES[name].probe in OF_WRONG_CLASSES)]
    sentences += [f"Rules left out because the table lacks their probe: {', '.join(missing)}."] if missing else []
    return sentences


def unusable(teachers: str) -> list[str]:
    """Teachers that were not compared because something is wrong with them."""
    return [f"Left out, because they are not usable: {teachers}."] if teachers else []


def prior_risk(rule: str, pilot: SmallestPilot | None) -> str:
    """That no student has confirmed the rule, and the fewest students that would."""
    measured = " (where measured, cheap under plain KD, no better than others under ATS and ISATS)"
    risk = (
        f"No student has been taught yet: the rule is a prior{measured if rule == DEFAULT_RULE else ''}, and what it "
        "costs here is unknown."
    )
    if pilot is None:
        return risk
    names = join(["/".join(teacher) for teacher in pilot.teachers])
    return (
        f"{risk} The smallest pilot that would tell: {names} in one setting, such as KD at tau={pilot.tau:g}, "
        f"{count(pilot.seeds, 'seed')} each, so {count(pilot.runs, 'student')} (--pilot {pilot.runs} spends as much, "
        "and starts with these teachers)."
    )


def without_probe(teachers: Sequence[tuple[str, str]], rule: Rule, tau: float | None) -> list[str]:
    """Teachers that cannot be ranked, because they lack the probe."""
    names = ["/".join(teacher) for teacher in teachers]
    at = "" if tau is None else f" at tau={tau:g}"
    return [f"Left out because their {rule.probe}{at} is missing or not a number: {join(names)}."] if names else []


def confidence_risk(table: pd.DataFrame, rule: Rule) -> list[str]:
    """A derived probe without p_y and IV beside it may restate the teachers' confidence."""
    if rule.probe not in DERIVED or set(COMPANIONS) <= set(table):
        return []
    return [f"{rule.probe} may only restate confidence: p_y and the inherent variance, which would tell, are missing."]


# By students' results -----------------------------------------------------------------------------------------------


def estimate(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY) -> str:
    """The chosen teacher's estimate, chance and expected loss."""
    kind = (
        "estimated from its students" if chosen["measured"] else "predicted, because it has no student in this setting"
    )
    level, likely = metric.level(chosen["score"], chosen["low"], chosen["high"]), chance(table, chosen, metric)
    return f"{named(chosen)}: {metric.word} {level} on the choosing split, {kind}{likely}."


def settings(students: pd.DataFrame, compared: pd.DataFrame, metric: Metric = ACCURACY) -> list[str]:
    """Best setting and teacher of each of the first students, and how sure the setting is."""
    sentences = []
    for _, row in students.head(SHOWN_STUDENTS).iterrows():
        report = f"{metric.word} to report: {metric.level(row[metric.name])}"
        ahead = lead(compared[compared["student"].eq(row["student"])], metric)
        if len(students) == 1:
            sentences.append(f"Setting: '{row['label']}' with {named(row)} ({report}){ahead}.")
            continue
        likely = f"the best teacher with a chance of {format_chance(row['p_best'])}"
        sentences.append(
            f"Setting of '{row['student']}': '{row['label']}' with {named(row)} ({likely}; {report}){ahead}."
        )
    more = len(students) - len(sentences)
    return [*sentences, f"{count(more, 'more student')} in the table."] if more > 0 else sentences


def ties(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY) -> list[str]:
    """Which teachers are tied with the best, and what the cheapest of them would cost."""
    tied = table[table["tie"]]
    if len(table) < 2:
        return []
    if len(tied) < 2:
        return [f"{named(table.iloc[0])} is better than every other teacher beyond the 95 % intervals."]
    names = join([named(row) for _, row in tied.iterrows()])
    sentence = (
        f"Too close to call between {names}."
        if len(tied) < len(table)
        else (f"Too close to call: none of the {count(len(table), 'teacher')} is shown to be worse than the best.")
    )
    is_better = tied["score"] < chosen["score"] if metric.less_is_better else tied["score"] > chosen["score"]
    untested = tied[is_better & ~tied["measured"]]
    if len(untested):
        better = join([named(row) for _, row in untested.iterrows()])
        sentence += f" Predicted to do as well or better, but without a student in this setting: {better}."
    return [sentence]


def differences(tests: pd.DataFrame | None) -> list[str]:
    """Where the students do not tell the teachers apart reliably, beyond what the seed does."""
    if tests is None:
        return []
    sentences = []
    for _, test in tests[tests["reliability"].lt(WANTED_RELIABILITY)].head(SHOWN_STUDENTS).iterrows():
        name = f"'{test['student']}' by '{test['label']}'"
        shown = "differ" if test["p"] < SIGNIFICANT else "are not shown to differ"
        more = f"{test['seeds_for_80']:.0f} seeds would reach 0.8" if np.isfinite(test["seeds_for_80"]) else ""
        more = more or "no number of seeds is known to reach 0.8"
        sentences.append(
            f"The teachers {shown} for {name}: F({test['df1']:.0f}, {test['df2']:.0f}) = {test['F']:.2f}, "
            f"p = {test['p']:.2g}. Their means have a reliability of {test['reliability']:.2f} "
            f"[{test['low']:.2f}, {test['high']:.2f}]; {more}."
        )
    return sentences


def no_difference(tests: pd.DataFrame | None) -> str:
    """The end of a title where the students do not show that teachers differ; else empty."""
    if tests is None or not len(tests) or (tests["p"] < SIGNIFICANT).any():
        return ""
    return ": no difference between these teachers is shown"


def cheapest_within(
    cheapest: pd.Series | None, chosen: pd.Series, tolerance: float, metric: Metric = ACCURACY
) -> list[str]:
    """The smallest teacher that is good enough, where it is not the chosen one; or that none is."""
    if cheapest is None:
        return [f"No teacher is within {tolerance:g} {metric.unit} of the best with a chance of 90 %."]
    if named(cheapest) == named(chosen):
        return []
    size, sure = f"{format_count(cheapest['params'])} parameters", format_chance(cheapest["within"])
    within = f"{tolerance:g} {metric.unit}"
    return [f"The cheapest teacher within {within} of the best is {named(cheapest)} ({size}; {sure})."]


def gain(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY) -> list[str]:
    """How the teachers compare with plain cross-entropy."""
    if table["gain"].isna().all():
        return ["The results lack plain cross-entropy (or have it not for every student): the gain is unknown."]
    if not (table["gain_low"] > 0).any():
        return [
            "No teacher beats plain cross-entropy by more than its interval: distillation is not shown to help here "
            f"({named(chosen)} gains {_gain(chosen, metric)})."
        ]
    return [f"Over plain cross-entropy {named(chosen)} gains {_gain(chosen, metric)} on the reporting split."]


def rule_costs(rules: pd.DataFrame, metric: Metric = ACCURACY) -> list[str]:
    """What following the rules that people go by would have lost."""
    if not rules["regret"].any():  # a single teacher
        return []
    losses = []
    relevant, further = _by_teacher(rules)
    for taking in relevant:
        row = taking.iloc[0]
        loss = metric.difference(row["regret"], row["low"], row["high"])
        losses.append(f"{_rules(taking)} ({named(row)}) would lose {loss}")
    for taking in further:
        losses.append(f"{_rules(taking)} ({named(taking.iloc[0])}) {taking.iloc[0]['regret']:.2f}")
    return [f"{'; '.join(losses)}."] if losses else []


def from_elsewhere(evidence: EvidenceFacts | None) -> list[str]:
    """That an estimate leans on evidence as well."""
    return [f"Estimates lean on other students too: those of {_extent(evidence)}."] if evidence else []


def result_risks(table: pd.DataFrame, chosen: pd.Series, seeds: SeedFacts, metric: Metric = ACCURACY) -> list[str]:
    """What could make the choice wrong although the numbers are right."""
    risks = []
    absent = table[~table["measured"]]
    if len(absent):
        names = ", ".join(named(row) for _, row in absent.iterrows())
        risks.append(f"Without students in this setting, and only predicted, with wide intervals: {names}.")
    if seeds.alike:
        risks.append(ALIKE)
    elif seeds.single:
        risks.append("Some students have a single seed: how far seeds scatter is not known, so intervals are wide.")
    if seeds.shared >= SHARED:
        risks.append(
            "Intervals of accuracies are for these seeds, to compare teachers: new seeds may lift or lower all "
            f"students together (from seed to seed by {seeds.shared:.1f} {metric.unit} here, one standard deviation)."
        )
    if chosen["tie"] and chosen["p_best"] < 0.5:
        another = format_chance(1 - chosen["p_best"])
        risks.append(f"Another teacher is the best with a chance of {another}; more seeds would tell.")
    return risks


def setting_risks(compared: pd.DataFrame) -> list[str]:
    """That the best setting is not established."""
    if compared.empty:
        return []
    unsettled = {
        str(student): rows[rows["tie"]]["label"].tolist()
        for student, rows in compared.groupby(compared["student"] if "student" in compared else np.zeros(len(compared)))
        if rows["tie"].sum() > 1
    }
    if not unsettled:
        return []
    if len(unsettled) > 1 or ("student" in compared and compared["student"].nunique() > 1):
        whose = join([f"'{student}'" for student in unsettled])
        return [f"The setting is not settled for {whose}: see the ties among settings. More seeds would tell."]
    best, *tied = next(iter(unsettled.values()))
    names = [f"'{label}'" for label in tied[:SHOWN_SETTINGS]]
    names += [f"{len(tied) - len(names)} more"] if len(tied) > len(names) else []
    return [f"The setting is not settled: {join(names)} may be as good as '{best}'; more seeds would tell."]


def missing_probes(
    probes: Mapping[str, Sequence[tuple[str, str]]], among: Sequence[tuple[str, str]] | None = None
) -> list[str]:
    """Probes that predict, and that some teachers (of those in `among`) lack."""
    lacking = [
        f"{probe} of {join(names)}"
        for probe, teachers in probes.items()
        if (names := ["/".join(teacher) for teacher in teachers if among is None or teacher in among])
    ]
    return [f"Probes that are missing count as average: {'; '.join(lacking)}."] if lacking else []


def one_split_risk(only: str) -> list[str]:
    """What it means that the results have one split alone ("" where they have both)."""
    if not only:
        return []
    return [
        f"There are results on {only!r} alone: what is reported was also chosen by, and looks better than it is. "
        "Measure the student that you take on other examples."
    ]


# By evidence ---------------------------------------------------------------------------------------------------------


def predicted(table: pd.DataFrame, chosen: pd.Series) -> str:
    """What the evidence predicts of the chosen teacher."""
    if len(table) < 2:
        return f"{named(chosen)} is the only teacher that there is to choose."
    return (
        f"{named(chosen)}: the accuracy of its students is predicted to differ from the mean over these teachers by "
        f"{chosen['score']:+.2f} points [{chosen['low']:+.2f}, {chosen['high']:+.2f}]{chance(table, chosen)}."
    )


def trusted(evidence: EvidenceFacts) -> list[str]:
    """How far each probe is trusted."""
    trust = evidence.trust
    if trust.empty:
        return []
    worth = [f"{r['probe']} {r['points']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for _, r in trust.iterrows()]
    where = f"Learnt from the students of {_extent(evidence)}, in points for a standard deviation more of a probe"
    sentence = f"{where}: {join(worth)}."
    if not ((trust["low"] > 0) | (trust["high"] < 0)).any():
        sentence += " All these intervals cover zero: no probe is shown to matter."
    return [sentence]


def losses_elsewhere(evidence: EvidenceFacts) -> list[str]:
    """What choosing in this way, and the rules that people go by, lost in the evidence."""
    losses = evidence.losses
    costs = [f"'{rule}' {losses[rule]:.2f}" for rule in RELEVANT if rule in losses]
    if "evidence" not in losses:
        return [f"There the rules lost on average (points): {join(costs)}."] if costs else []
    unit = "family" if evidence.new_family else "kind of student"
    against = f", against {join(costs)}" if costs else ""
    return [f"Chosen so for each {unit} there from the others, teachers lost {losses['evidence']:.2f} points{against}."]


def setting_elsewhere(label: str, compared: pd.DataFrame, evidence: EvidenceFacts) -> list[str]:
    """The setting that did best in the evidence, and how sure that is."""
    on_average = " on average" if evidence.groups > 1 and len(compared) else ""
    if evidence.students == 1:
        unit = "families"
    else:
        unit = "kinds of student" if evidence.families == 1 else "kinds of student in their families"
    where = f" (for {evidence.best_in} of {evidence.groups} {unit})" if evidence.groups > 1 else ""
    return [f"Setting: '{label}' did best there{on_average}{where}{lead(compared)}."]


def evidence_risks(table: pd.DataFrame, chosen: pd.Series, evidence: EvidenceFacts) -> list[str]:
    """What could make a choice by evidence wrong."""
    risks = ["No student of this kind has been taught by these teachers yet: all is predicted."]
    if evidence.new_family:
        risks[0] = "No student of this family has been taught yet: all is predicted from its probes."
        if evidence.families < FEW_FAMILIES:
            families = _families(evidence.families)
            risks.append(f"With {families} to learn from, how far probes carry over is hardly known.")
    if evidence.alike:
        risks.append(ALIKE)
    risks.append("Points are on the scale of the evidence's students; other data may spread them more or less.")
    if named(chosen) == named(table.iloc[0]) and chosen["p_best"] < 0.5:
        another = format_chance(1 - chosen["p_best"])
        risks.append(f"Another teacher is the best with a chance of {another}; a pilot (--pilot) would tell.")
    return risks


# However it was chosen ----------------------------------------------------------------------------------------------


def few(number: int) -> str:
    """That few teachers were compared."""
    return "There is one teacher: nothing was compared." if number == 1 else f"Only {number} teachers were compared."


def edge_risk(table: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """A choice at the end of the range of sizes may not be the best size."""
    sizes = table["params"]
    if len(table) < 3 or sizes.isna().any() or chosen["params"] not in (sizes.min(), sizes.max()):
        return []
    end = "smallest" if chosen["params"] == sizes.min() else "largest"
    return [f"{named(chosen)} is the {end} teacher here: a still {end.replace('est', 'er')} one may be better."]


# Pieces of sentences -------------------------------------------------------------------------------------------------


def chance(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY) -> str:
    """Half a sentence: how likely the chosen teacher is the best, and what is lost where it is not."""
    if len(table) < 2:
        return ""
    unit = "nats" if metric.less_is_better else "accuracy points"
    loss = f"{chosen['regret']:.{3 if metric.less_is_better else 2}f} {unit}"
    return (
        f"; it is the best teacher with a chance of {format_chance(chosen['p_best'])}, and taking it is expected to "
        f"lose {loss}"
    )


def lead(compared: pd.DataFrame, metric: Metric = ACCURACY) -> str:
    """How sure the best of several settings is."""
    if compared.empty:
        return ""
    best, following = compared.iloc[0], compared.iloc[1]
    ahead = metric.difference(following["behind"], following["low"], following["high"])
    return (
        f", the best of {len(compared)} settings with a chance of {format_chance(best['p_best'])}; it leads "
        f"'{following['label']}' by {ahead}"
    )


def _families(number: int) -> str:
    """``1 family``, ``2 families``."""
    return f"{number} {'family' if number == 1 else 'families'}"


def _extent(evidence: EvidenceFacts) -> str:
    """How much evidence there is."""
    kinds = f" ({evidence.students} kinds of student)" if evidence.students > 1 else ""
    return f"{count(evidence.teachers, 'teacher')} in {_families(evidence.families)}{kinds}"


def _by_teacher(rules: pd.DataFrame) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """The rules that take each teacher, a frame per teacher: first those with a relevant rule, then the others."""
    rank = rules["rule"].map({rule: position for position, rule in enumerate(RELEVANT)})
    ordered = rules.assign(rank=rank).sort_values("rank", kind="stable", na_position="last")
    frames = [taking for _, taking in ordered.groupby(UNIT, sort=False)]
    relevant = [frame for frame in frames if frame["rank"].notna().any()]
    return relevant, [frame for frame in frames if frame["rank"].isna().all()]


def _rules(taking: pd.DataFrame) -> str:
    return join([f"'{rule}'" for rule in taking["rule"]])


def _beside(row: pd.Series) -> str:
    """p_y and IV of a teacher in brackets, where its score is to be read with them."""
    if not set(COMPANIONS) <= set(row.index):
        return ""
    return f" ({', '.join(f'{NAMES[name]} {_value(row[name])}' for name in COMPANIONS)})"


def _gain(row: pd.Series, metric: Metric) -> str:
    return metric.difference(row["gain"], row["gain_low"], row["gain_high"])


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return _value(row["score"])
    return f"{_value(row['score'])} [{_value(row['low'])}, {_value(row['high'])}]"


def _value(number: float) -> str:
    return "unknown" if np.isnan(number) else format_number(number)
