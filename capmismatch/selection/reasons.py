"""The sentences of a choice: its reasons and risks in words, made from its numbers when it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from capmismatch._utils.text import count, format_chance, format_count, format_number, join, start
from capmismatch.selection.evidence import EvidenceFacts
from capmismatch.selection.first_guess import SmallestPilot
from capmismatch.selection.handover import first_setting, label_of
from capmismatch.selection.metric import ACCURACY, Metric
from capmismatch.selection.rules import (
    COMPANIONS,
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

NAMED_RULES = 3
"""Rules that take the same teacher and are all named; of more, only how many there are and the first two."""

NAMED_IN_SHORT = 3
"""Teachers that a title names."""

SHOWN_SETTINGS = 3
"""Settings tied with the best that a risk names."""

SIGNIFICANT = 0.05
"""Level of the test of whether teachers differ."""

SHARED = 0.05
"""Points by which seeds move all students alike, below which it is not worth a sentence."""

FEW_FAMILIES = 3
"""With fewer families of evidence than this, leaving one out tells little."""

ALIKE = (
    "The seeds of each teacher agree to less than one example: are they different runs? They do not measure the noise "
    "between runs, so only the sampling noise of the examples is used."
)
"""What it means that `capmismatch.stats.groups.Noise.alike`."""

CLEAR, LEANING = 0.8, 0.5
"""P(best) from which on a choice is clear, and from which on it leans to a teacher."""

AHEAD = 2
"""How many times as probable as any other a teacher must be to lean to it: of two, one always has 0.5 or more."""

_GROUNDS = {
    "results": "its students' results",
    "evidence": "students of other teachers",
    "pilot": "a pilot",
}


VERDICTS = {"clear": "Take teacher", "leaning": "Leaning to teacher", "toss-up": "Toss-up:", "none": "First guess:"}
"""How a choice begins, by its grade."""


def grounds(rule: str) -> str:
    """What a choice is based on."""
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
        sentence += f" The next is {named(second)}: {_interval(second)}{_beside(second)}."
    if tau is not None and tau != DEFAULT_TAU:
        sentence += f" The probes have no tau={DEFAULT_TAU:g}; tau={tau:g} is the nearest."
    return [sentence]


def cheapest(tied: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """Who is tied, and why the chosen one is taken among them."""
    if len(tied) < 2:
        return []
    names = join([named(row) for _, row in tied.iterrows()])
    why = f"{named(chosen)} is the smallest of them ({format_count(chosen['params'])} parameters), so it is taken."
    if tied["params"].isna().any():
        why = f"Not all their sizes are known, so {named(chosen)} is taken, which has the best value."
    return [
        f"Too close to call between {names} on this probe: the 95 % intervals of their differences cover zero. Their "
        f"students may still differ. {why}"
    ]


def smallest_of(table: pd.DataFrame, chosen: pd.Series) -> str:
    """Piece of a title: that the chosen teacher is the smallest of those that tie, and not the best by the probe."""
    if named(chosen) == named(table.iloc[0]):
        return ""
    return f", the smallest of {table['tie'].sum()} tied teachers"


def spread_in_short(rules: pd.DataFrame) -> str:
    """End of a title: whether the rules agree."""
    names = list(dict.fromkeys(rules["teacher"]))
    teachers = rules.groupby(UNIT).ngroups
    if len(rules) < 2:
        return ""
    if teachers == 1:
        return f"; all {len(rules)} rules agree"
    named = f": {join(names)}" if teachers == len(names) <= NAMED_IN_SHORT else ""
    return f"; {len(rules)} rules name {teachers} teachers{named}"


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
    """Which teachers the common rules take instead, and how those teachers stand on the used probe."""
    sentences: list[str] = []
    if rules.groupby(UNIT).ngroups < 2 and named(rules.iloc[0]) == named(chosen):
        return ["All rules take it."]
    relevant, further = _by_teacher(rules[rules["rule"].ne(used.name)])
    for taking in relevant:
        row = taking.iloc[0]
        if named(row) == named(chosen):
            sentences.append(f"{_rules(taking)} {_take(taking)} the same teacher.")
            continue
        sentences.append(
            f"{_rules(taking)} {_take(taking)} {named(row)}: its {used.probe} is {_value(row['score'])}{_beside(row)}, "
            f"that of {named(chosen)} {_value(chosen['score'])}{_beside(chosen)}."
        )
    if further:
        clauses = [f"{_rules(taking)} {_take(taking)} {named(taking.iloc[0])}" for taking in further]
        sentences.append(f"Other rules: {'; '.join(clauses)}.")
    return sentences


def left_out(missing: Sequence[str], two_classes: bool = False) -> list[str]:
    """Which rules lack their probe."""
    sentences = [f"{start(TWO_CLASSES)}: rules that use them are left out."] if two_classes else []
    missing = [name for name in missing if not (two_classes and RULES[name].probe in OF_WRONG_CLASSES)]
    sentences += [f"Rules left out because the table lacks their probe: {', '.join(missing)}."] if missing else []
    return sentences


def unusable(teachers: str) -> list[str]:
    """Teachers that are not compared because something is wrong with them."""
    return [f"Left out as not usable: {teachers}."] if teachers else []


def prior_risk(pilot: SmallestPilot | None) -> str:
    """That no student results confirm the rule, and the smallest pilot that could."""
    risk = "There are no student results: the rule is a guess, and its regret here is unknown."
    if pilot is None:
        return risk
    names = join(["/".join(teacher) for teacher in pilot.teachers])
    setting = label_of(first_setting(pilot.tau))
    return (
        f"{risk} The smallest useful pilot trains {count(pilot.runs, 'student')}: {names} in one setting, such as "
        f"'{setting}', {count(pilot.seeds, 'seed')} each (--pilot {pilot.runs} starts with these teachers)."
    )


def without_probe(teachers: Sequence[tuple[str, str]], rule: Rule, tau: float | None) -> list[str]:
    """Teachers that cannot be ranked, because they lack the probe."""
    names = ["/".join(teacher) for teacher in teachers]
    at = "" if tau is None else f" at tau={tau:g}"
    return [f"Left out because {rule.probe}{at} is missing or not a number: {join(names)}."] if names else []


def confidence_risk(table: pd.DataFrame, rule: Rule) -> list[str]:
    """A derived probe without p_y and IV beside it may restate the teachers' confidence."""
    if rule.probe not in DERIVED or set(COMPANIONS) <= set(table):
        return []
    return [f"{rule.probe} may only restate confidence. The table lacks p_y and inherent_variance to check this."]


# By students' results -----------------------------------------------------------------------------------------------


def estimate(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY, only: str = "") -> str:
    """The chosen teacher's estimate, chance and expected regret; `only` is the only split of the results."""
    kind = "" if chosen["measured"] else f" (predicted: it has no student {_lacking(chosen, only)})"
    level, likely = metric.level(chosen["score"], chosen["low"], chosen["high"]), chance(table, chosen, metric)
    where = f" on {_split(only or 'val')} rows" if likely else ""
    return f"{named(chosen)}: {_split(only or 'val')} {metric.word} {level}{kind}{likely}{where}."


def settings(students: pd.DataFrame, compared: pd.DataFrame, metric: Metric = ACCURACY, only: str = "") -> list[str]:
    """Best setting and teacher of each of the first students, and how sure the setting is."""
    sentences = []
    for _, row in students.head(SHOWN_STUDENTS).iterrows():
        report = f"{_split(only or 'test')} {metric.word} {metric.level(row[metric.name])}"
        if np.isnan(row[metric.name]):
            report = f"no {_split(only or 'test')} results of {named(row)}"
        ahead = lead(compared[compared["student"].eq(row["student"])], metric)
        if len(students) == 1:
            sentences.append(f"Setting: '{row['label']}' with {named(row)}; {report}.{ahead}")
            continue
        likely = f"P(best) {format_chance(row['p_best'])}"
        sentences.append(f"Student '{row['student']}': '{row['label']}' with {named(row)}; {likely}; {report}.{ahead}")
    more = len(students) - len(sentences)
    return [*sentences, f"{count(more, 'more student')} in the table."] if more > 0 else sentences


def ties(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY) -> list[str]:
    """Which teachers are tied with the best."""
    tied = table[table["tie"]]
    if len(table) < 2:
        return []
    if len(tied) < 2:
        return [f"{named(table.iloc[0])} is better than every other teacher (95 % intervals)."]
    names = join([named(row) for _, row in tied.iterrows()])
    if chosen["p_best"] >= CLEAR:  # one-sided surer than the two-sided interval
        others = join([named(row) for _, row in tied.iterrows() if named(row) != named(chosen)])
        return [
            f"{named(chosen)} is the best with a probability of {format_chance(chosen['p_best'])}, but its lead over "
            f"{others} is not significant: the 95 % interval covers zero."
        ]
    sentence = (
        f"Too close to call between {names}."
        if len(tied) < len(table)
        else f"Too close to call: none of the {count(len(table), 'teacher')} is significantly worse than the best."
    )
    is_better = tied["score"] < chosen["score"] if metric.less_is_better else tied["score"] > chosen["score"]
    untested = tied[is_better & ~tied["measured"]]
    if len(untested):
        better = join([named(row) for _, row in untested.iterrows()])
        where = _lacking(untested.iloc[0]) if "accuracy" in untested else "in this setting"
        sentence += f" Predicted to be as good or better, but without students {where}: {better}."
    return [sentence]


def differences(tests: pd.DataFrame | None) -> list[str]:
    """Where differences between teachers are not reliable against the noise of seeds."""
    if tests is None:
        return []
    sentences = []
    for _, test in tests[tests["reliability"].lt(WANTED_RELIABILITY)].head(SHOWN_STUDENTS).iterrows():
        name = f"'{test['student']}', '{test['label']}'"
        shown = "differ" if test["p"] < SIGNIFICANT else "do not differ significantly"
        trials = "training runs of each teacher" if test["error"] == "training runs" else "seeds"
        more = f"{test['seeds_for_80']:.0f} {trials} would reach 0.8" if np.isfinite(test["seeds_for_80"]) else ""
        more = more or f"the number of {trials} to reach 0.8 is unknown"
        sentences.append(
            f"The teachers {shown} for {name}: F({test['df1']:.0f}, {test['df2']:.0f}) = {test['F']:.2f}, "
            f"p = {test['p']:.2g}. Reliability of their means: {test['reliability']:.2f} "
            f"[{test['low']:.2f}, {test['high']:.2f}]; {more}."
        )
    return sentences


def no_difference(tests: pd.DataFrame | None) -> str:
    """The end of a title where teachers do not differ significantly, or where no test could tell; else empty."""
    if tests is None or not len(tests) or (tests["p"] < SIGNIFICANT).any():
        return ""
    if tests["p"].isna().all():
        return "; whether the teachers differ cannot be tested"
    return "; the teachers do not differ significantly"


def cheapest_within(enough: pd.DataFrame, chosen: pd.Series, tolerance: float, metric: Metric = ACCURACY) -> list[str]:
    """The smallest of the teachers that are good enough, where it is not the chosen one; or why there is none."""
    within, known = f"{tolerance:g} {metric.unit}", enough.dropna(subset="params")
    if chosen.get("gain_high", np.nan) < 0:  # no teacher is worth taking
        return []
    if enough.empty:
        return [f"No teacher is within {within} of the best with a probability of 90 %."]
    if known.empty:
        names = join([named(row) for _, row in enough.iterrows()])
        return [f"Within {within} of the best: {names}. Sizes unknown, so the smallest of them is unknown."]
    cheapest = known.iloc[int(known["params"].argmin())]
    unsized = [named(row) for _, row in enough[enough["params"].isna()].iterrows()]
    beside = f" The size of {join(unsized)} is unknown." if unsized else ""
    if named(cheapest) == named(chosen) and not unsized:
        return []
    size, sure = f"{format_count(cheapest['params'])} parameters", format_chance(cheapest["within"])
    smallest = f"{named(cheapest)} ({size}; probability {sure})"
    return [f"The smallest teacher within {within} of the best is {smallest}.{beside}"]


def gain(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY, only: str = "") -> list[str]:
    """How the teachers compare with plain cross-entropy."""
    if table["gain"].isna().all():
        return ["There is no CE baseline for every student, so the gain cannot be computed."]
    if np.isnan(chosen["gain"]):
        return [f"No {_split(only or 'test')} results of {named(chosen)}: its gain is unknown."]
    if chosen["gain_high"] < 0:
        return [
            f"Students of {named(chosen)} are significantly worse than plain cross-entropy (gain "
            f"{_gain(chosen, metric)}): distillation costs accuracy here."
        ]
    if not (table["gain_low"] > 0).any():
        return [
            "No teacher is significantly better than plain cross-entropy "
            f"({named(chosen)} gains {_gain(chosen, metric)}): these results do not show that distillation helps."
        ]
    return [f"Gain over plain cross-entropy ({_split(only or 'test')}): {_gain(chosen, metric)}."]


def rule_costs(rules: pd.DataFrame, metric: Metric = ACCURACY, only: str = "") -> list[str]:
    """Expected regret of following the common rules, on the split to report."""
    if not rules["regret"].any():  # a single teacher
        return []
    losses = []
    relevant, further = _by_teacher(rules)
    for taking in relevant:
        row = taking.iloc[0]
        loss = metric.difference(row["regret"], row["low"], row["high"])
        losses.append(f"{_rules(taking, len(rules))} {_take(taking)} {named(row)}: expected regret {loss}.")
    if further:
        others = [
            f"{_rules(taking, len(rules))} {_take(taking)} {named(taking.iloc[0])} ({taking.iloc[0]['regret']:.2f})"
            for taking in further
        ]
        losses.append(f"Other rules, with expected regret: {'; '.join(others)}.")
    return [f"On {_split(only or 'test')} rows: {' '.join(losses)}"]


def from_elsewhere(evidence: EvidenceFacts | None) -> list[str]:
    """That an estimate uses evidence as well."""
    return [f"The estimates also use the students of {_extent(evidence)}."] if evidence else []


def result_risks(
    table: pd.DataFrame, chosen: pd.Series, seeds: SeedFacts, metric: Metric = ACCURACY, only: str = ""
) -> list[str]:
    """What could make the choice wrong although the numbers are right."""
    risks = []
    absent = table[~table["measured"]]
    for where, rows in absent.groupby(np.array([_lacking(row, only) for _, row in absent.iterrows()]), sort=False):
        names = ", ".join(named(row) for _, row in rows.iterrows())
        risks.append(f"Only predicted, with wide intervals, because they have no students {where}: {names}.")
    if seeds.alike:
        risks.append(ALIKE)
    elif seeds.single:
        risks.append("Some students have a single seed: the variation between seeds is unknown, so intervals are wide.")
    if seeds.shared >= SHARED:
        risks.append(
            f"Intervals compare teachers on the same seeds. With new seeds the {metric.word} of all students also "
            f"varies together, here by {seeds.shared:.1f} {metric.unit} (standard deviation between seeds)."
        )
    if chosen["tie"] and chosen["p_best"] < 0.5:
        another = format_chance(1 - chosen["p_best"])
        wanted = "more seeds" if table["measured"].sum() > 1 else "students of the other teachers"
        risks.append(f"Another teacher is the best with a probability of {another}; {wanted} would decide.")
    return risks


def setting_risks(compared: pd.DataFrame) -> list[str]:
    """That the best setting is uncertain."""
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
        return [f"The best setting is uncertain for {whose}: see the table of settings; more seeds would decide."]
    best, *tied = next(iter(unsettled.values()))
    names = [f"'{label}'" for label in tied[:SHOWN_SETTINGS]]
    names += [f"{len(tied) - len(names)} more"] if len(tied) > len(names) else []
    return [f"The best setting is uncertain: {join(names)} may be as good as '{best}'; more seeds would decide."]


def missing_probes(
    probes: Mapping[str, Sequence[tuple[str, str]]], among: Sequence[tuple[str, str]] | None = None
) -> list[str]:
    """Probes that predict, and that some teachers (of those in `among`) lack."""
    lacking = [
        f"{probe} of {join(names)}"
        for probe, teachers in probes.items()
        if (names := ["/".join(teacher) for teacher in teachers if among is None or teacher in among])
    ]
    return [f"Missing probes are set to their mean: {'; '.join(lacking)}."] if lacking else []


def one_split_risk(only: str) -> list[str]:
    """What it means that the results have one split alone ("" where they have both)."""
    if not only:
        return []
    return [
        f"There are results on {only!r} only. The same accuracies are used to choose and to report, so they are too "
        "optimistic. Evaluate the final student on other examples."
    ]


# By evidence ---------------------------------------------------------------------------------------------------------


def predicted(table: pd.DataFrame, chosen: pd.Series) -> str:
    """What the evidence predicts of the chosen teacher."""
    if len(table) < 2:
        return f"{named(chosen)} is the only teacher."
    return (
        f"{named(chosen)}: predicted student accuracy {chosen['score']:+.2f} points "
        f"[{chosen['low']:+.2f}, {chosen['high']:+.2f}] against the mean over these teachers{chance(table, chosen)}."
    )


def trusted(evidence: EvidenceFacts) -> list[str]:
    """How far each probe is trusted."""
    trust = evidence.trust
    if trust.empty:
        return []
    worth = [f"{r['probe']} {r['points']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for _, r in trust.iterrows()]
    where = f"Effect of each probe, learned from {_extent(evidence)}, in points per standard deviation"
    sentence = f"{where}: {join(worth)}."
    if not ((trust["low"] > 0) | (trust["high"] < 0)).any():
        sentence += " All these intervals cover zero: no probe has a significant effect."
    return [sentence]


def losses_elsewhere(evidence: EvidenceFacts) -> list[str]:
    """What choosing in this way, and the common rules, lost in the evidence."""
    losses = evidence.losses
    costs = [f"'{rule}' {losses[rule]:.2f}" for rule in RELEVANT if rule in losses]
    if "evidence" not in losses:
        return [f"Mean regret of the rules there (points): {join(costs)}."] if costs else []
    unit = "family" if evidence.new_family else "student"
    against = f"; rules: {join(costs)}" if costs else ""
    return [f"Leave-one-{unit}-out, this procedure lost {losses['evidence']:.2f} points{against}."]


def setting_elsewhere(label: str, compared: pd.DataFrame, evidence: EvidenceFacts) -> list[str]:
    """The setting that did best in the evidence, and how sure that is."""
    on_average = " on average" if evidence.groups > 1 and len(compared) else ""
    if evidence.students == 1:
        unit = "families"
    else:
        unit = "students" if evidence.families == 1 else "pairs of student and family"
    where = f" ({evidence.best_in} of {evidence.groups} {unit})" if evidence.groups > 1 else ""
    return [f"Setting: '{label}' was the best there{on_average}{where}.{lead(compared)}"]


def evidence_risks(table: pd.DataFrame, chosen: pd.Series, evidence: EvidenceFacts) -> list[str]:
    """What could make a choice by evidence wrong."""
    risks = ["These teachers have no such student yet: all numbers are predictions."]
    if evidence.new_family:
        risks[0] = "This family has no students yet: all numbers are predictions from its probes."
        if evidence.families < FEW_FAMILIES:
            families = _families(evidence.families)
            risks.append(
                f"With evidence from {families}, it is hardly known how well probes transfer to another family."
            )
    if evidence.alike:
        risks.append(ALIKE)
    risks.append("Points are on the scale of the other students; differences on your data may be larger or smaller.")
    if named(chosen) == named(table.iloc[0]) and chosen["p_best"] < 0.5:
        another = format_chance(1 - chosen["p_best"])
        risks.append(f"Another teacher is the best with a probability of {another}; a pilot (--pilot) would decide.")
    return risks


# However it was chosen ----------------------------------------------------------------------------------------------


def few(number: int) -> str:
    """That few teachers were compared."""
    return "There is one teacher: nothing is compared." if number == 1 else f"Only {number} teachers are compared."


def edge_risk(table: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """A choice at the end of the range of sizes may not be the best size."""
    sizes = table["params"]
    if len(table) < 3 or sizes.isna().any() or chosen["params"] not in (sizes.min(), sizes.max()):
        return []
    end = "smallest" if chosen["params"] == sizes.min() else "largest"
    return [f"{named(chosen)} is the {end} teacher here: an even {end.replace('est', 'er')} one may be better."]


# Pieces of sentences -------------------------------------------------------------------------------------------------


def chance(table: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY) -> str:
    """Half a sentence: how likely the chosen teacher is the best, and its expected regret."""
    if len(table) < 2:
        return ""
    regret = f"{chosen['regret']:.{3 if metric.less_is_better else 2}f} {metric.unit}"
    return f"; P(best) {format_chance(chosen['p_best'])}; expected regret {regret}"


def lead(compared: pd.DataFrame, metric: Metric = ACCURACY) -> str:
    """A sentence, after a space: how sure the best of several settings is."""
    if compared.empty:
        return ""
    best, following = compared.iloc[0], compared.iloc[1]
    ahead = metric.difference(following["behind"], following["low"], following["high"])
    return (
        f" Best of {len(compared)} settings with a probability of {format_chance(best['p_best'])}; ahead of "
        f"'{following['label']}' by {ahead}."
    )


def _families(number: int) -> str:
    """``1 family``, ``2 families``."""
    return f"{number} {'family' if number == 1 else 'families'}"


def _extent(evidence: EvidenceFacts) -> str:
    """How much evidence there is."""
    kinds = f" ({evidence.students} students)" if evidence.students > 1 else ""
    return f"{count(evidence.teachers, 'teacher')} in {_families(evidence.families)}{kinds}"


def _by_teacher(rules: pd.DataFrame) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """The rules that take each teacher, a frame per teacher: first those with a relevant rule, then the others."""
    rank = rules["rule"].map({rule: position for position, rule in enumerate(RELEVANT)})
    ordered = rules.assign(rank=rank).sort_values("rank", kind="stable", na_position="last")
    frames = [taking for _, taking in ordered.groupby(UNIT, sort=False)]
    relevant = [frame for frame in frames if frame["rank"].notna().any()]
    return relevant, [frame for frame in frames if frame["rank"].isna().all()]


def _rules(taking: pd.DataFrame, total: int = 0) -> str:
    """The names of rules; of many, how many of the `total` they are and the first two."""
    names = [f"'{rule}'" for rule in taking["rule"]]
    if len(names) <= NAMED_RULES:
        return join(names)
    extent = f"{len(names)} of {total} rules" if total else f"{len(names)} rules"
    return f"{extent}, among them {join(names[:2])},"


def _take(taking: pd.DataFrame) -> str:
    """``takes`` of one rule, ``take`` of several."""
    return "takes" if len(taking) == 1 else "take"


def _lacking(row: pd.Series, only: str = "") -> str:
    """Where a teacher has no students: in this setting, or only on the rows by which teachers are chosen."""
    return "in this setting" if pd.isna(row["accuracy"]) else f"on {_split(only or 'val')} rows in this setting"


def _split(name: str) -> str:
    """A split in words."""
    return "validation" if name == "val" else name


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
