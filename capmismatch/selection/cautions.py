"""Sentences of a choice about its results: what was left out of them, what does not fit, which students disagree."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from capmismatch._utils.text import format_chance, join
from capmismatch.selection.metric import ACCURACY, Metric
from capmismatch.selection.outlook import Outlook
from capmismatch.selection.reasons import SHOWN_STUDENTS, named


def repeated(told: str) -> list[str]:
    """Results and evidence that were left out because they repeat others."""
    return [f"Left out because the same student runs were given twice: {told}."] if told else []


def unknown(teachers: Sequence[tuple[str, str]]) -> list[str]:
    """Teachers with students, but without probes: they are not compared."""
    names = ["/".join(filter(None, teacher)) for teacher in teachers]
    return [f"Results left out because their teachers have no probes: {join(names)}."] if names else []


def same_students(names: Sequence[str]) -> list[str]:
    """Teachers whose students cannot be told apart, row by row."""
    return [
        f"The students of {teachers} have the same accuracies in all seeds and splits: is one a copy of the other?"
        for teachers in names
    ]


def unknown_temperature(label: str) -> list[str]:
    """That results leave out the temperature of a setting ("" where they do not)."""
    return [f"The results do not say the temperature of '{label}' (column tau)."] if label else []


def outlying(runs: Sequence[str]) -> list[str]:
    """Students far out of line with the others."""
    if not runs:
        return []
    shown = [*runs[:SHOWN_STUDENTS], *([f"{len(runs) - SHOWN_STUDENTS} more"] if len(runs) > SHOWN_STUDENTS else [])]
    return [
        f"Runs that do not fit the others: {'; '.join(shown)}. Leave out a run that crashed: it widens all intervals."
    ]


def different_teachers(students: pd.DataFrame, chosen: pd.Series, metric: Metric = ACCURACY) -> list[str]:
    """That students want different teachers, and what the chosen one costs each of them."""
    if len(students) < 2 or not (students["regret_low"] > 0).any():
        return []
    digits = 3 if metric.less_is_better else 2
    costs = [
        f"'{row['student']}' {row['regret']:.{digits}f} against {named(row)}"
        for _, row in students.sort_values("regret", ascending=False, kind="stable").iterrows()
        if row["regret"] > 0
    ]
    more = [f"{len(costs) - SHOWN_STUDENTS} more students less"] if len(costs) > SHOWN_STUDENTS else []
    return [
        f"The best teacher differs between students. Regret of {named(chosen)} in {metric.unit}: "
        f"{join([*costs[:SHOWN_STUDENTS], *more])}. Take one teacher for each: student='...' or --student."
    ]


def unfit(teachers: Sequence[str]) -> list[str]:
    """Teachers that are ranked, but not taken."""
    return [f"Not taken, because they know too little: {join(list(teachers))}."] if teachers else []


def outlook(found: Outlook | None, chosen: pd.Series, rule: str) -> list[str]:
    """What the studies of the package say of the chosen teacher, and what the rule lost there."""
    if found is None:
        return []
    row = found.table[found.table["teacher"].eq(chosen["teacher"]) & found.table["family"].eq(chosen["family"])].iloc[0]
    first = found.table.iloc[0]
    best = "" if named(first) == named(chosen) else f"; they favour {named(first)} ({format_chance(first['p_best'])})"
    told = (
        f"By the students of {found.families} other families ({found.label}), P(best) of {named(chosen)} is "
        f"{format_chance(row['p_best'])}, and {row['regret']:.2f} points are expected to be lost{best}."
    )
    lost = found.loss(rule)
    if lost is None:
        return [told]
    interval = f"{lost['regret']:.2f} points [{lost['low']:.2f}, {lost['high']:.2f}]"
    return [
        f"{told} Chosen by '{rule}' as here, teachers lost {interval} in {lost['families']:.0f} of them, each left out."
    ]


def unlike(told: Sequence[str]) -> list[str]:
    """That nothing like these teachers was measured."""
    return [f"These teachers are unlike anything measured: {join(list(told))}."] if told else []
