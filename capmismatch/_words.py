"""The reasons and risks of a choice, in words with numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from capmismatch._rules import DEFAULT_TAU, RULES, Rule
from capmismatch._taught import Taught


def named(row: pd.Series) -> str:
    """The teacher of a row of a table, with its family."""
    return f"{row['family']}/{row['teacher']}"


def ranking(table: pd.DataFrame, rule: Rule, tau: float | None) -> list[str]:
    """How the best by a probe compares with the next."""
    how = "highest" if rule.sign > 0 else "lowest"
    at = "" if tau is None else f" at tau={tau:g}"
    sentences = [f"{named(table.iloc[0])} has the {how} {rule.probe}{at}: {_interval(table.iloc[0])}."]
    if tau is not None and tau != DEFAULT_TAU:
        sentences.append(f"The probes have no tau={DEFAULT_TAU:g}; tau={tau:g} is the nearest there is.")
    if len(table) > 1:
        sentences.append(f"Next comes {named(table.iloc[1])} with {_interval(table.iloc[1])}.")
    return sentences


def cheapest(tied: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """Who is tied, and why the chosen one is taken among them."""
    if len(tied) < 2:
        return []
    names = ", ".join(named(row) for _, row in tied.iterrows())
    why = f"{named(chosen)} is taken as the smallest, so the cheapest, of them ({chosen['params']:.3g} parameters)."
    if tied["params"].isna().any():
        why = f"{named(chosen)} is taken for its value, for not all their sizes are known."
    return [f"Too close to call between {names}: the 95 % intervals of their differences cover zero. {why}"]


def rivals(rules: pd.DataFrame, wide: pd.DataFrame, chosen: pd.Series, used: Rule) -> list[str]:
    """What the other rules take, and how both teachers stand on those rules' and on the used probe."""
    sentences = []
    own = wide.loc[(chosen["family"], chosen["teacher"])]
    agreeing = [row["rule"] for _, row in rules.iterrows() if named(row) == named(chosen) and row["rule"] != used.name]
    if agreeing:
        sentences.append(f"The same teacher is taken by: {', '.join(agreeing)}.")
    others = rules[[named(row) != named(chosen) and row["rule"] != used.name for _, row in rules.iterrows()]]
    for _, taking in others.groupby(["family", "teacher"], sort=False):
        row = taking.iloc[0]
        other = wide.loc[(row["family"], row["teacher"])]
        probes = {rule: RULES[rule].probe for rule in taking["rule"]}
        why = [
            f"'{rule}' ({probe} {_value(other[probe])} against {_value(own[probe])})" for rule, probe in probes.items()
        ]
        sentences.append(
            f"{named(row)} would be taken by {', '.join(why)}; "
            f"its {used.probe} is {_value(other[used.probe])} against {_value(own[used.probe])}."
        )
    return sentences


def left_out(missing: list[str]) -> list[str]:
    """Which rules had no probe to go by."""
    return [f"Rules left out because the table lacks their probe: {', '.join(missing)}."] if missing else []


def estimate(chosen: pd.Series) -> str:
    """The chosen teacher's estimate, chance and expected loss."""
    kind = "estimated from its students" if chosen["measured"] else "predicted from its probes, for it has no student"
    return (
        f"{named(chosen)}: accuracy {_interval(chosen)} on the choosing split, {kind}; it is the best teacher with a "
        f"chance of {chosen['p_best']:.0%}, and taking it is expected to lose {chosen['regret']:.2f} accuracy points."
    )


def settings(students: pd.DataFrame) -> list[str]:
    """Each student's best setting and teacher."""
    return [
        f"Student {row['student']} does best with '{row['label']}' and {named(row)} (best with a chance of "
        f"{row['p_best']:.0%}; accuracy to report: {_value(row['accuracy'])})."
        for _, row in students.iterrows()
    ]


def ties(table: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """Who cannot be told apart from the best, and what the cheapest of them would cost."""
    tied = table[table["tie"]]
    if len(tied) < 2:
        return [f"{named(table.iloc[0])} is better than every other teacher beyond the 95 % intervals."]
    names = ", ".join(named(row) for _, row in tied.iterrows())
    sentence = f"Too close to call between {names}."
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
    """What following each rule would have lost, the dearest first."""
    sentences = []
    for _, taking in rules.iloc[::-1].groupby(["family", "teacher"], sort=False):
        row, names = taking.iloc[0], ", ".join(f"'{rule}'" for rule in taking["rule"])
        loss = f"{row['regret']:.2f} points [{row['low']:.2f}, {row['high']:.2f}]"
        sentences.append(f"Following {names} ({named(row)}) would lose {loss}.")
    return sentences


def result_risks(table: pd.DataFrame, chosen: pd.Series, taught: list[Taught]) -> list[str]:
    """What could make the choice wrong although the numbers are right."""
    risks = []
    absent = table[~table["measured"]]
    if len(absent):
        names = ", ".join(named(row) for _, row in absent.iterrows())
        risks.append(f"Without students, and only predicted from probes with wide intervals: {names}.")
    if not all(part.choosing.has_seeds for part in taught):
        risks.append("Some students have a single seed: their noise is that of the examples alone, which is too small.")
    if named(chosen) == named(table.iloc[0]) and chosen["p_best"] < 0.5:
        risks.append(f"Another teacher is the best with a chance of {1 - chosen['p_best']:.0%}; more seeds would tell.")
    return risks


def edge_risk(table: pd.DataFrame, chosen: pd.Series) -> list[str]:
    """A choice at the end of the range of sizes may not be the best size."""
    sizes = table["params"]
    if len(table) < 3 or sizes.isna().any() or chosen["params"] not in (sizes.min(), sizes.max()):
        return []
    end = "smallest" if chosen["params"] == sizes.min() else "largest"
    return [f"{named(chosen)} is the {end} teacher here: a still {end.replace('est', 'er')} one may be better."]


def _gain(row: pd.Series) -> str:
    return f"{row['gain']:.2f} points [{row['gain_low']:.2f}, {row['gain_high']:.2f}]"


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return _value(row["score"])
    return f"{_value(row['score'])} [{_value(row['low'])}, {_value(row['high'])}]"


def _value(number: float) -> str:
    return "unknown" if np.isnan(number) else f"{number:.4g}"
