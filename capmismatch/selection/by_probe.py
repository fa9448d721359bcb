"""A choice by a probe alone, before any student was taught."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from capmismatch.errors import InputError
from capmismatch.findings import without_muted
from capmismatch.selection.candidates import number_of_classes, probe_draws, rule_choices, zero_by_definition
from capmismatch.selection.choice import Choice
from capmismatch.selection.choice_parts import Basis, Comparison, Missing, Setting
from capmismatch.selection.rules import (
    COMPANIONS,
    DEFAULT_RULES,
    DERIVED,
    FIRST_TAU_OF_TEXTS,
    OF_WRONG_CLASSES,
    RULES,
    RULES_FOR_TEXTS,
    TWO_CLASSES,
    Rule,
)
from capmismatch.stats.correlations import FEW_TEACHERS
from capmismatch.stats.estimates import Z95
from capmismatch.stats.matching import UNIT
from capmismatch.stats.usable import of_texts


def rule_to_follow(rule: str, probes: pd.DataFrame, profiles: pd.DataFrame) -> Rule:
    """The rule of a choice by a probe alone.

    Raises
    ------
    InputError
        If its probe is zero by definition, as there is a single wrong class.
    """
    used = RULES[_default_rule(probes, profiles) if rule == "auto" else rule]
    if used.probe in OF_WRONG_CLASSES and used.probe in zero_by_definition(probes):
        raise InputError(f"the rule {used.name!r} cannot be used here: {TWO_CLASSES}; use another rule")
    return used


def _default_rule(probes: pd.DataFrame, profiles: pd.DataFrame) -> str:
    """The rule to follow without results and evidence: the first whose probe was measured."""
    rules = RULES_FOR_TEXTS if of_texts(probes) else DEFAULT_RULES
    known = [name for name in rules if RULES[name].probe in profiles.dropna(axis=1, how="all")]
    return known[0] if known else rules[0]


def example_draws(
    values: pd.DataFrame | None,
    measurements: pd.DataFrame,
    profiles: pd.DataFrame,
    used: Rule,
    n_boot: int,
    seed: int,
) -> pd.DataFrame | None:
    """Draws of the rule's probe over examples, where their values are known."""
    if used.probe not in profiles or profiles[used.probe].isna().all():
        measured = sorted(set(measurements["probe"]))
        raise InputError(
            f"the rule {used.name!r} needs the probe {used.probe!r}; the probes table has {measured} on this split"
        )
    if values is None or used.probe == "params":
        return None
    return probe_draws(values, measurements, used.probe, n_boot, seed)


def unfit_teachers(
    measurements: pd.DataFrame, profiles: pd.DataFrame, plain: float = np.nan
) -> dict[tuple[str, str], str]:
    """Teachers that no choice takes, each with the reason: they guess, or a student without a teacher does better.

    Parameters
    ----------
    measurements, profiles : DataFrame
        As `capmismatch.selection.candidates.read_probes` returns them.
    plain : float
        Accuracy of the student without a teacher; NaN where it is unknown.

    Returns
    -------
    dict from (family, teacher) to str
        Empty where all are fit, where none is, or where accuracies are unknown.
    """
    rows = measurements[measurements["probe"].eq("accuracy")].set_index(UNIT)
    if rows.empty:
        return {}
    chance = 1 / number_of_classes(profiles)
    unfit = {}
    for unit, accuracy, error in zip(rows.index, rows["value"], rows["se"].fillna(0.0), strict=True):
        if accuracy < plain:
            unfit[unit] = f"accuracy {accuracy:.4f}, that of a student without a teacher {plain:.4f}"
        elif accuracy - Z95 * error <= chance:
            unfit[unit] = f"accuracy {accuracy:.4f}, by chance {chance:.4f}"
    return unfit if len(unfit) < len(rows) else {}


def by_probe(
    measurements: pd.DataFrame,
    profiles: pd.DataFrame,
    used: Rule,
    draws: pd.DataFrame | None,
    unfit: Mapping[tuple[str, str], str],
    mute: Iterable[str],
) -> Choice:
    """The best teacher by a rule's probe; the smallest of those tied with it. None of those that are unfit."""
    table, tau = _probe_table(measurements, profiles, used, draws, unfit)
    chosen, tied = table.iloc[0], table[table["tie"]]
    if len(tied) > 1 and tied["params"].notna().all():
        chosen = tied.iloc[int(tied["params"].argmin())]
    rules, missing_rules = rule_choices(profiles)
    rules = rules.assign(regret=np.nan, low=np.nan, high=np.nan)
    beside = [name for name in COMPANIONS if name in table]
    rules = rules.merge(table[[*UNIT, "score", "tie"]], on=UNIT, how="left")
    rules = rules.merge(profiles[beside].reset_index(), on=UNIT, how="left")
    ranked = pd.MultiIndex.from_frame(table[UNIT])
    told_unfit = tuple(f"{'/'.join(unit)} ({reason})" for unit, reason in unfit.items() if unit in ranked)
    unranked = tuple(teacher for teacher in profiles.index if teacher not in ranked)
    return Choice(
        teacher=str(chosen["teacher"]),
        family=str(chosen["family"]),
        rule=used.name,
        setting=Setting(tau=tau),
        comparison=Comparison(table, rules),
        basis=Basis(Missing(rules=tuple(missing_rules), teachers=unranked, unfit=told_unfit)),
        findings=without_muted([*findings_of(table, mute), *(["CM049"] if told_unfit else [])], mute),
    )


def _probe_table(
    measurements: pd.DataFrame,
    profiles: pd.DataFrame,
    used: Rule,
    draws: pd.DataFrame | None,
    unfit: Mapping[tuple[str, str], str],
) -> tuple[pd.DataFrame, float | None]:
    """The teachers, best first by the rule's probe, those that are unfit last; and the temperature it was taken at."""
    if used.probe == "params":
        table, tau = profiles["params"].dropna().rename("score").reset_index().assign(se=0.0), None
    else:
        rows = measurements[measurements["probe"].eq(used.probe)]
        tau = float(rows["tau"].iloc[0]) if rows["tau"].notna().all() else None
        table = rows.rename(columns={"value": "score"})[[*UNIT, "score", "se"]]
    table = table.merge(profiles["params"].reset_index(), on=UNIT)
    table = table.sort_values("score", ascending=used.sign < 0, kind="stable")
    is_unfit = pd.MultiIndex.from_frame(table[UNIT]).isin(list(unfit)) if unfit else np.zeros(len(table), dtype=bool)
    table = pd.concat([table[~is_unfit], table[is_unfit]], ignore_index=True)
    if draws is None:
        best, half = table.iloc[0], Z95 * table["se"]
        low, high = table["score"] - half, table["score"] + half
        # An unknown standard error gives no grounds to call two values equal.
        tie = used.sign * (best["score"] - table["score"]) <= Z95 * np.hypot(table["se"], best["se"]).fillna(0)
    else:
        drawn = draws[pd.MultiIndex.from_frame(table[UNIT])].to_numpy()
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        tie = np.quantile(used.sign * (drawn[:, [0]] - drawn), 0.025, axis=0) <= 0
    table = table.assign(low=low, high=high, p_best=np.nan, regret=np.nan, within=np.nan, tie=tie | (table.index == 0))
    table.loc[len(table) - int(is_unfit.sum()) :, "tie"] = False
    columns = [*UNIT, "params", "score", "low", "high", "p_best", "regret", "within", "tie"]
    if used.probe in DERIVED and set(COMPANIONS) <= set(profiles):
        table = table.merge(profiles[list(COMPANIONS)].reset_index(), on=UNIT, how="left")
        columns += COMPANIONS
    return table[columns], tau


def with_first_tau(choice: Choice, probes: pd.DataFrame) -> Choice:
    """The choice by a probe alone with the temperature to teach at, where language models have one of their own."""
    return replace(choice, setting=replace(choice.setting, first_tau=FIRST_TAU_OF_TEXTS if of_texts(probes) else None))


def findings_of(table: pd.DataFrame, mute: Iterable[str]) -> list[str]:
    """Codes of what limits the comparison of the teachers."""
    findings = ["CM007"] if table["tie"].sum() > 1 else []
    findings += ["CM003"] if len(table) < FEW_TEACHERS else []
    return without_muted(findings, mute)
