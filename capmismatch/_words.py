"""The reasons and risks of a choice, in words with numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from capmismatch._estimates import Estimate
from capmismatch._evidence import Lesson
from capmismatch._phrases import count, join, short
from capmismatch._rules import COMPANIONS, DEFAULT_TAU, DERIVED, NAMES, RELEVANT, Rule
from capmismatch._taught import Taught

TOLD_STUDENTS = 3
FEW_FAMILIES = 3
"""With fewer families elsewhere than this, leaving one out tells little."""


def percent(share: float) -> str:
    """A chance as a whole percentage."""
    return f"{100 * share:.0f} %"


def named(row: pd.Series) -> str:
    """The teacher of a row of a table, with its family."""
    return f"{row['family']}/{row['teacher']}"


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
    why = f"{named(chosen)} is taken as the smallest, so the cheapest, of them ({chosen['params']:,.0f} parameters)."
    if tied["params"].isna().any():
        why = f"{named(chosen)} is taken for its value, for not all their sizes are known."
    return [f"Too close to call between {names}: the 95 % intervals of their differences cover zero. {why}"]


def rivals(rules: pd.DataFrame, chosen: pd.Series, used: Rule) -> list[str]:
    """Whom the rules that people go by would take instead, and how those teachers stand on the used probe."""
    sentences = []
    for taking in _relevant(rules[rules["rule"].ne(used.name)]):
        row = taking.iloc[0]
        if named(row) == named(chosen):
            sentences.append(f"{_rules(taking)} would take the same teacher.")
            continue
        sentences.append(
            f"{_rules(taking)} would take {named(row)}: its {used.probe} is {_value(row['score'])}{_beside(row)}, "
            f"against {_value(chosen['score'])}{_beside(chosen)} of {named(chosen)}."
        )
    return sentences


def left_out(missing: list[str]) -> list[str]:
    """Which rules had no probe to go by."""
    return [f"Rules left out because the table lacks their probe: {', '.join(missing)}."] if missing else []


def estimate(chosen: pd.Series) -> str:
    """The chosen teacher's estimate, chance and expected loss."""
    kind = "estimated from its students" if chosen["measured"] else "predicted, for it has no student in this setting"
    return (
        f"{named(chosen)}: accuracy {_accuracy(chosen)} on the choosing split, {kind}; it is the best teacher with a "
        f"chance of {percent(chosen['p_best'])}, and taking it is expected to lose {chosen['regret']:.2f} accuracy "
        "points."
    )


def predicted(chosen: pd.Series) -> str:
    """What the evidence predicts of the chosen teacher."""
    return (
        f"{named(chosen)}: the accuracy of its students is predicted to differ from the mean over these teachers by "
        f"{chosen['score']:+.2f} points [{chosen['low']:+.2f}, {chosen['high']:+.2f}]; it is the best with a chance of "
        f"{percent(chosen['p_best'])}, and taking it is expected to lose {chosen['regret']:.2f} points."
    )


def trusted(trust: pd.DataFrame, lessons: Sequence[Lesson]) -> list[str]:
    """How far each probe is trusted."""
    if trust.empty:
        return []
    worth = [f"{r['probe']} {r['points']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for _, r in trust.iterrows()]
    sentence = f"Learnt from {_lessons(lessons)}, in points for a standard deviation more of a probe: {join(worth)}."
    if not ((trust["low"] > 0) | (trust["high"] < 0)).any():
        sentence += " All these intervals cover zero: no probe is shown to matter."
    return [sentence]


def cost_elsewhere(there: pd.Series, new_family: bool) -> list[str]:
    """What choosing in this way, and the rules that people go by, lost in the evidence."""
    known = [rule for rule in RELEVANT if rule in there]
    costs = [f"'{rule}' {there[rule]:.2f}" for rule in known]
    if "evidence" not in there:
        return [f"There the rules lost on average (points): {join(costs)}."] if costs else []
    unit = "family" if new_family else "kind of student"
    others = f", against {join(costs)}" if costs else ""
    return [f"Chosen so for each {unit} there from the others, teachers lost {there['evidence']:.2f} points{others}."]


def setting_elsewhere(best: Lesson, count_best: int, lessons: Sequence[Lesson]) -> list[str]:
    """The method and temperature that did best in the evidence."""
    return [f"Setting: '{best.label}' did best there for {count_best} of {count(len(lessons), 'kind')} of student."]


def from_elsewhere(lessons: Sequence[Lesson]) -> list[str]:
    """That an estimate leans on evidence as well."""
    return [f"Estimates lean on other students too: {_lessons(lessons)}."] if lessons else []


def evidence_risks(
    table: pd.DataFrame, chosen: pd.Series, lessons: Sequence[Lesson], new_family: bool
) -> list[str]:
    """What could make a choice by evidence wrong."""
    risks = ["No student of this kind has been taught by these teachers yet: all is predicted."]
    families = len({lesson.kin for lesson in lessons})
    if new_family:
        risks[0] = "No student of this family has been taught yet: all is predicted from its probes."
        if families < FEW_FAMILIES:
            risks.append(f"With {count_families(families)} to learn from, how far probes carry over is hardly known.")
    risks.append("Points are on the scale of the evidence's students; other data may spread them more or less.")
    if named(chosen) == named(table.iloc[0]) and chosen["p_best"] < 0.5:
        another = percent(1 - chosen["p_best"])
        risks.append(f"Another teacher is the best with a chance of {another}; a pilot (--pilot) would tell.")
    return risks


def settings(students: pd.DataFrame) -> list[str]:
    """Best setting and teacher of each of the first students."""
    told = [
        f"Student {row['student']} does best with '{row['label']}' and {named(row)} (best with a chance of "
        f"{percent(row['p_best'])}; accuracy to report: {Estimate(row['accuracy']).percent()})."
        for _, row in students.head(TOLD_STUDENTS).iterrows()
    ]
    more = len(students) - len(told)
    return [*told, f"{count(more, 'more student')} in the table."] if more > 0 else told


def ties(table: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """Who cannot be told apart from the best, and what the cheapest of them would cost."""
    tied = table[table["tie"]]
    if len(tied) < 2:
        return [f"{named(table.iloc[0])} is better than every other teacher beyond the 95 % intervals."]
    names = join([named(row) for _, row in tied.iterrows()])
    sentence = f"Too close to call between {names}." if len(tied) < len(table) else (
        f"Too close to call: none of the {count(len(table), 'teacher')} is shown to be worse than the best."
    )  # fmt: skip
    untested = tied[(tied["score"] > chosen["score"]) & ~tied["measured"]]
    if len(untested):
        better = join([named(row) for _, row in untested.iterrows()])
        sentence += f" Predicted to do as well or better, but without a student in this setting: {better}."
    if tied["params"].notna().all():
        small = tied.iloc[int(tied["params"].argmin())]
        if named(small) != named(chosen):
            sentence += f" The cheapest is {named(small)}, expected to lose {small['regret']:.2f} points."
    return [sentence]


def gain(table: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """How the teachers compare with plain cross-entropy."""
    if table["gain"].isna().all():
        return ["The results lack plain cross-entropy (or have it not for every student): the gain is unknown."]
    if not (table["gain_low"] > 0).any():
        return [
            "No teacher beats plain cross-entropy by more than its interval: distillation is not shown to help here "
            f"({named(chosen)} gains {_gain(chosen)})."
        ]
    return [f"Over plain cross-entropy {named(chosen)} gains {_gain(chosen)} on the reporting split."]


def rule_costs(rules: pd.DataFrame) -> list[str]:
    """What following the rules that people go by would have lost."""
    losses = []
    for taking in _relevant(rules):
        row = taking.iloc[0]
        loss = f"{row['regret']:.2f} points [{row['low']:.2f}, {row['high']:.2f}]"
        losses.append(f"{_rules(taking)} ({named(row)}) would lose {loss}")
    return [f"{'; '.join(losses)}."] if losses else []


def result_risks(table: pd.DataFrame, chosen: pd.Series, taught: list[Taught]) -> list[str]:
    """What could make the choice wrong although the numbers are right."""
    risks = []
    absent = table[~table["measured"]]
    if len(absent):
        names = ", ".join(named(row) for _, row in absent.iterrows())
        risks.append(f"Without students in this setting, and only predicted, with wide intervals: {names}.")
    if not all(part.choosing.has_seeds for part in taught):
        risks.append("Some students have a single seed: their noise is that of the examples alone, which is too small.")
    if chosen["tie"] and chosen["p_best"] < 0.5:
        another = percent(1 - chosen["p_best"])
        risks.append(f"Another teacher is the best with a chance of {another}; more seeds would tell.")
    return risks


def one_split_risk(only: str) -> list[str]:
    """What it means that results are of one split alone."""
    if not only:
        return []
    return [
        f"There are results on {only!r} alone: what is reported was also chosen by, and looks better than it is. "
        "Measure the student that you take on other examples."
    ]


def edge_risk(table: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """A choice at the end of the range of sizes may not be the best size."""
    sizes = table["params"]
    if len(table) < 3 or sizes.isna().any() or chosen["params"] not in (sizes.min(), sizes.max()):
        return []
    end = "smallest" if chosen["params"] == sizes.min() else "largest"
    return [f"{named(chosen)} is the {end} teacher here: a still {end.replace('est', 'er')} one may be better."]


def confidence_risk(table: pd.DataFrame, rule: Rule) -> list[str]:
    """A derived probe without p_y and IV beside it may restate the teachers' confidence."""
    if rule.probe not in DERIVED or set(COMPANIONS) <= set(table):
        return []
    return [f"{rule.probe} may only restate confidence: p_y and the inherent variance, which would tell, are missing."]


def count_families(number: int) -> str:
    """``1 family``, ``2 families``."""
    return f"{number} {'family' if number == 1 else 'families'}"


def _lessons(lessons: Sequence[Lesson]) -> str:
    families = count_families(len({lesson.kin for lesson in lessons}))
    taught = sum(len(lesson.choosing.means) for lesson in lessons)
    return f"{taught} pairs of teacher and kind of student in {families}"


def _relevant(rules: pd.DataFrame) -> list[pd.DataFrame]:
    """The relevant rules, together with the others that take the same teacher; a frame a teacher."""
    rank = rules["rule"].map({rule: place for place, rule in enumerate(RELEVANT)})
    ordered = rules.assign(rank=rank).sort_values("rank", kind="stable", na_position="last")
    return [taking for _, taking in ordered.groupby(["family", "teacher"], sort=False) if taking["rank"].notna().any()]


def _rules(taking: pd.DataFrame) -> str:
    """The relevant rules by name, the others by their number."""
    known = [f"'{rule}'" for rule in taking["rule"][taking["rank"].notna()]]
    more = len(taking) - len(known)
    return join([*known, count(more, "other rule")] if more else known)


def _beside(row: pd.Series) -> str:
    """p_y and IV of a teacher in brackets, where its score is to be read with them."""
    if not set(COMPANIONS) <= set(row.index):
        return ""
    return f" ({', '.join(f'{NAMES[name]} {_value(row[name])}' for name in COMPANIONS)})"


def _gain(row: pd.Series) -> str:
    return f"{row['gain']:.2f} points [{row['gain_low']:.2f}, {row['gain_high']:.2f}]"


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return _value(row["score"])
    return f"{_value(row['score'])} [{_value(row['low'])}, {_value(row['high'])}]"


def _accuracy(row: pd.Series) -> str:
    return Estimate(row["score"], row["low"], row["high"]).percent()


def _value(number: float) -> str:
    return "unknown" if np.isnan(number) else short(number)
