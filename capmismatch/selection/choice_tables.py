"""The tables of a choice: teachers, rules, students and settings, with what draws of accuracies say of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.errors import InputError
from capmismatch.selection.candidates import UNIT
from capmismatch.selection.choice import SETTING_COLUMNS, STUDENT_COLUMNS
from capmismatch.selection.rules import COMPANIONS, DERIVED, RULES, rule_choices
from capmismatch.selection.settings import chances
from capmismatch.selection.students import Taught

_Z95 = 1.959964

Floats = NDArray[np.float64]


def probe_table(
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


def result_table(
    taught: Sequence[Taught], wide: pd.DataFrame, choosing: Floats, reporting: Floats, plain: Floats | None
) -> pd.DataFrame:
    """The teachers, best first by the draws to choose by, with their accuracies and gains on the split to report."""
    table = (
        wide["params"]
        .reset_index()
        .assign(
            **summary(choosing),
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


def summary(draws: Floats) -> dict[str, Floats]:
    """What draws (n_boot, T) of accuracies say of each teacher."""
    score = draws.mean(axis=0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    best = int(np.argmax(score))
    return {
        "score": score,
        "low": low,
        "high": high,
        "p_best": chances(draws),
        "regret": 100 * (draws.max(axis=1, keepdims=True) - draws).mean(axis=0),
        "tie": np.quantile(draws[:, [best]] - draws, 0.025, axis=0) <= 0,
    }


def rules_with_loss(wide: pd.DataFrame, draws: Floats, rule: str) -> tuple[pd.DataFrame, list[str]]:
    """Whom every rule takes and what is lost by it, the least first; and the rules that lack their probe."""
    rules, missing = rule_choices(wide)
    if rule in missing:
        raise InputError(f"the rule {rule!r} needs the probe {RULES[rule].probe!r}; there are {sorted(wide.columns)}")
    lost = 100 * (draws.max(axis=1, keepdims=True) - draws)
    place = wide.index.get_indexer(pd.MultiIndex.from_frame(rules[UNIT]))
    low, high = np.quantile(lost[:, place], [0.025, 0.975], axis=0)
    rules = rules.assign(regret=lost[:, place].mean(axis=0), low=low, high=high)
    return rules.sort_values("regret", kind="stable").reset_index(drop=True), missing


def taken(rules: pd.DataFrame, table: pd.DataFrame, rule: str) -> pd.Series:
    """The row of the teacher that a rule takes."""
    row = rules[rules["rule"].eq(rule)].iloc[0]
    return table[table["teacher"].eq(row["teacher"]) & table["family"].eq(row["family"])].iloc[0]


def best_tested(table: pd.DataFrame) -> int:
    """Place of the best teacher; of those tied with it one that has students goes before one that is only predicted."""
    tested = table["tie"] & table["measured"]
    return int(table["score"].where(tested if tested.any() else table["tie"]).argmax())


def student_table(taught: Sequence[Taught], wide: pd.DataFrame) -> pd.DataFrame:
    """Every student's own best teacher."""
    rows = []
    for part in taught:
        own = pd.DataFrame(summary(part.choosing.draws)).assign(measured=np.isfinite(part.choosing.means))
        best = best_tested(own)
        family, teacher = wide.index[best]
        p_best = float(own["p_best"].iloc[best])
        gain = [np.nan] * 3
        if part.plain is not None:
            gained = 100 * (part.reporting.draws[:, best] - part.plain)
            gain = [gained.mean(), *np.quantile(gained, [0.025, 0.975])]
        setting = (part.student, part.label, *part.named[part.label])
        rows.append((*setting, family, teacher, p_best, part.reporting.means[best], part.plain_mean, *gain))
    return pd.DataFrame(rows, columns=list(STUDENT_COLUMNS))


def setting_table(taught: Sequence[Taught], wide: pd.DataFrame) -> pd.DataFrame:
    """The settings of every student, each with its best teacher; those of a student that has one alone are left out."""
    rows = []
    for part in taught:
        for row in part.settings.table().to_dict("records"):
            label, place = row.pop("label"), row.pop("place")
            rows.append((part.student, label, *part.named[label], *wide.index[place], *row.values()))
    return pd.DataFrame(rows, columns=list(SETTING_COLUMNS))
