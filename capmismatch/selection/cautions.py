"""Sentences of a choice about its results: what was left out of them, what does not fit, which students disagree."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from capmismatch._utils.text import join
from capmismatch.selection.metric import ACCURACY, Metric
from capmismatch.selection.reasons import SHOWN_STUDENTS, named


def repeated(told: str) -> list[str]:
    """Results and evidence that were left out because they repeat others."""
    return [f"Left out because the same student runs were given twice: {told}."] if told else []


def unknown(teachers: Sequence[tuple[str, str]]) -> list[str]:
    """Teachers with students, but without probes: they are not compared."""
    names = ["/".join(filter(None, teacher)) for teacher in teachers]
    return [f"Results left out because their teachers have no probes: {join(names)}."] if names else []


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
