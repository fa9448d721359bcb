"""Which quantities rise and then fall as teachers grow: two tests of every probe, or of every setting of students."""

from __future__ import annotations

import math

import pandas as pd

from capmismatch.errors import InputError, must_be_a_table, require_columns
from capmismatch.findings import join_codes
from capmismatch.stats.correlations import FEW_TEACHERS
from capmismatch.stats.matching import with_teacher
from capmismatch.stats.peak import peak_of
from capmismatch.stats.two_lines import two_lines_of
from capmismatch.stats.usable import usable_tables

__all__ = ["disagree", "peaks"]

OF_PROBES = ("family", "split", "probe", "tau", "student")
OF_STUDENTS = ("family", "student", "label", "split")
LEVEL = 0.05
FOUND = ("teachers", "peak", "likely", "rise", "fall", "p", "break_at", "p_two_lines", "single", "findings", "reason")


def disagree(p_value: float, p_two_lines: float) -> bool:
    """Whether one test calls a peak and the other does not; unknown where one could not be made.

    Examples
    --------
    >>> disagree(0.01, 0.2), disagree(0.01, 0.02), disagree(0.01, float("nan"))
    (True, False, False)
    """
    return not math.isnan(p_value + p_two_lines) and (p_value < LEVEL) != (p_two_lines < LEVEL)


def peaks(table: pd.DataFrame) -> pd.DataFrame:
    """Test every quantity of a probes or results table for a rise that is followed by a fall with teacher size.

    Parameters
    ----------
    table : DataFrame
        Of `capmismatch.probe`, or of students (`capmismatch.load_results`), with sizes of the teachers in ``params``.

    Returns
    -------
    DataFrame
        One row per family, split, probe and temperature (and student, of probes of pairs); or per family, student,
        setting and split. Beside these:

        * teachers: how many have a value
        * peak: the teacher with the highest mean
        * likely: those among which the peak lies with a confidence of 95 %, separated by commas
        * rise, fall, p: of `capmismatch.stats.peak.peak`, against every course without a peak; of one quantity alone
        * break_at, p_two_lines: of `capmismatch.stats.two_lines.two_lines`
        * single: whether no teacher has two runs
        * findings: CM003 of few teachers, CM028 of single runs, CM051 where the two tests disagree
        * reason: why there is no test; else empty

    Raises
    ------
    InputError
        If a column is missing, or no teacher is usable.

    Notes
    -----
    Nothing is corrected for the number of quantities: of a hundred without a peak up to five have p < 0.05. Name the
    one you ask about first.

    Examples
    --------
    >>> hill = pd.DataFrame({"family": "f", "teacher": list("abcde"), "params": [1, 2, 4, 8, 16], "split": "val",
    ...     "probe": "derived_std", "tau": 4.0, "value": [0.1, 0.2, 0.3, 0.2, 0.1], "se": 0.01})
    >>> peaks(hill)[["probe", "peak", "single"]].values.tolist()
    [['derived_std', 'c', True]]
    """
    must_be_a_table(table, "the table", "cm.peaks(cm.probe(bank))")
    is_probes = "probe" in table
    value = "value" if is_probes else "accuracy"
    require_columns(table, ["family", "teacher", "params", "split", value], "the table")
    by = [name for name in (OF_PROBES if is_probes else OF_STUDENTS) if name in table]
    rows = usable_tables(table)[0] if is_probes else with_teacher(table)
    rows = rows[rows[value].notna()]
    found = []
    for names, of_quantity in rows.groupby(by, sort=False, dropna=False):
        found.append({**dict(zip(by, names, strict=True)), **_tested(of_quantity, value)})
    return pd.DataFrame(found, columns=[*by, *FOUND])


def _tested(rows: pd.DataFrame, value: str) -> dict[str, object]:
    """Both tests of one quantity, or why there are none."""
    paired, teachers = value == "accuracy", rows["teacher"].nunique()
    try:
        of_peak, lines = peak_of(rows, value=value, paired=paired), two_lines_of(rows, value=value, paired=paired)
    except InputError as error:
        nothing = dict.fromkeys(("rise", "fall", "p", "p_two_lines"), math.nan)
        names = {"peak": "", "likely": "", "break_at": "", "findings": "", "reason": str(error)}
        return {"teachers": teachers, **names, **nothing, "single": False}
    codes = {
        "CM003": teachers < FEW_TEACHERS,
        "CM028": of_peak.single,
        "CM051": disagree(of_peak.p_value, lines.p_value),
    }
    return {
        "teachers": teachers,
        "peak": of_peak.teacher,
        "likely": ",".join(of_peak.likely),
        "rise": of_peak.rise,
        "fall": of_peak.fall,
        "p": of_peak.p_value,
        "break_at": lines.break_at,
        "p_two_lines": lines.p_value,
        "single": of_peak.single,
        "findings": join_codes([code for code, holds in codes.items() if holds]),
        "reason": "",
    }
