"""Which teachers of a probes table are not to be used, and the tables without them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from capmismatch._utils.setting_labels import with_current_labels
from capmismatch._utils.text import DECIMAL_COMMA
from capmismatch.errors import InputError
from capmismatch.stats.matching import UNIT, with_families

RUN = [*UNIT, "seed"]

OF_UNUSABLE = ("CM009", "CM019", "CM020", "CM021", "CM041")
"""Findings for which a teacher may be called unusable."""

NUMBERS = ("params", "macs", "seed", "teacher_seed", "tau", "value", "se", "accuracy", "nll", "n")
"""Columns of probes and results that hold numbers, where they are there."""

_NO = ("false", "0", "0.0", "no")  # as text files and spreadsheets write it


def unusable_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The training runs that a table of probes (or of checks) calls unusable; none where it lacks that column.

    Returns
    -------
    DataFrame
        One row per run, with the columns family, teacher, seed, findings, reason.

    Examples
    --------
    >>> table = pd.DataFrame({"family": "f", "teacher": ["a", "b"], "seed": 0, "usable": [True, False],
    ...     "findings": ["", "CM020"], "reason": ["", "it guesses"]})
    >>> unusable_runs(table)[["teacher", "findings"]].values.tolist()
    [['b', 'CM020']]
    """
    columns = [*RUN, "findings", "reason"]
    if "usable" not in table:
        return pd.DataFrame(columns=columns)
    bad = table[table["usable"].astype(str).str.strip().str.lower().isin(_NO)]
    filled = bad.assign(seed=bad.get("seed", 0), findings=bad.get("findings", ""), reason=bad.get("reason", ""))
    return filled[columns].fillna({"findings": "", "reason": ""}).drop_duplicates(RUN).reset_index(drop=True)


def of_texts(probes: pd.DataFrame) -> bool:
    """Whether a table of probes is of language models: it says how many sequences its positions come from.

    Examples
    --------
    >>> of_texts(pd.DataFrame({"value": [1.0]})), of_texts(pd.DataFrame({"value": [1.0], "sequences": [12]}))
    (False, True)
    """
    return "sequences" in probes and bool(probes["sequences"].notna().any())


def without_runs(table: pd.DataFrame, runs: pd.DataFrame, seed: str = "seed") -> pd.DataFrame:
    """The rows of a table that are of none of these runs; `seed` names its column with the teacher's seed."""
    if runs.empty:
        return table
    out = set(runs[RUN].itertuples(index=False, name=None))
    seeds = table[seed] if seed in table else pd.Series(0, index=table.index)
    rows = zip(table["family"], table["teacher"], seeds, strict=True)
    return table[[row not in out for row in rows]]


def of_usable_teachers(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables less the rows of runs that the checks, or the probes, call unusable; all checks stay."""
    marks = next((tables[name] for name in ("checks", "probes") if name in tables), pd.DataFrame())
    bad, kept = unusable_runs(marks), dict(tables)
    if bad.empty:
        return kept
    for name, seed in {"probes": "seed", "restored": "seed", "results": "teacher_seed"}.items():
        if name in kept and set(UNIT) <= set(kept[name].columns):
            kept[name] = without_runs(kept[name], bad, seed)
    if "ranks" in kept and {"family_a", "family_b"} <= set(kept["ranks"].columns):
        for side in "ab":
            names = {f"{name}_{side}": name for name in ("family", "teacher", "seed")}
            sided = kept["ranks"][[name for name in names if name in kept["ranks"]]].rename(columns=names)
            kept["ranks"] = kept["ranks"].loc[without_runs(sided, bad).index]
    return {name: table for name, table in kept.items() if len(table)}


def usable_tables(
    probes: pd.DataFrame, results: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame]:
    """Probes and results of the usable teachers, and the runs that were left out (see `unusable_runs`).

    Raises
    ------
    InputError
        If no teacher is left, or a text stands where a number should.
    """
    probes = with_numbers(probes, "the probes table")
    results = None if results is None else with_current_labels(with_numbers(results, "the results table"))
    bad = unusable_runs(probes)
    if bad.empty:
        return probes, results, bad
    kept = without_runs(probes, bad)
    if kept.empty:
        raise InputError(f"expected at least one usable teacher in the probes table, got none: {told(bad)}")
    if results is not None and {*UNIT, "teacher_seed"} <= set(results.columns):
        results = without_runs(with_families(results, probes), bad, "teacher_seed")
    return kept, results, bad


def with_numbers(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """The table with numbers where its columns of numbers are texts, such as 0,71 of a file with decimal commas.

    Raises
    ------
    InputError
        For the first text that is no number.

    Examples
    --------
    >>> with_numbers(pd.DataFrame({"value": ["0,5", "0.25"], "teacher": "a"}), "the table")["value"].tolist()
    [0.5, 0.25]
    """
    texts = [name for name in NUMBERS if name in table and not pd.api.types.is_numeric_dtype(table[name])]
    for column in texts:
        given = table[column]
        text = given.astype(str).str.strip().str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
        missing = given.isna() | text.eq("")
        numbers = pd.to_numeric(text.mask(missing), errors="coerce")
        bad = numbers.isna() & ~missing & text.str.lower().ne("nan")
        if bad.any():
            row = table[bad].iloc[0]
            teacher = f", teacher {row['teacher']!r}," if "teacher" in table else ""
            raise InputError(
                f"expected a number as {column}, got {row[column]!r} in row {int(bad.to_numpy().argmax())}{teacher} of "
                f"{what}"
            )
        table = table.assign(**{column: numbers})
    return table


def told(bad: pd.DataFrame) -> str:
    """The runs that were left out, each with the reason.

    Examples
    --------
    >>> told(pd.DataFrame({"family": "f", "teacher": ["a"], "seed": 0, "findings": "CM020", "reason": "it guesses"}))
    'f/a (it guesses)'
    """
    several = bad.duplicated(UNIT, keep=False)
    names = bad["family"] + "/" + bad["teacher"] + np.where(several, " seed " + bad["seed"].astype(str), "")
    why = bad["reason"].where(bad["reason"].ne(""), bad["findings"])
    return ", ".join(f"{name} ({reason or 'not usable'})" for name, reason in zip(names, why, strict=True))
