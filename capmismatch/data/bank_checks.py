"""Checks whether a bank's logits are fit to be measured; each finding has a code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from capmismatch._numerics.spacing import spaced
from capmismatch._utils.text import count, format_percent, start
from capmismatch.data.logit_checks import NOT_LOGITS
from capmismatch.findings import explain, join_codes

if TYPE_CHECKING:
    from capmismatch.data.bank import LogitBank

ROWS = 1000
"""How many examples of each teacher are looked at, evenly spaced over the bank."""

DRIFT = 0.1
"""From this mean logit on, in standard deviations of an example's logits, CM011 is given."""

COMMON_DRIFT = 0.75
"""Where this share of a family's runs drift, that is how its networks are: it costs nothing."""

TIED = 0.05
"""From this share of examples on that have two equal wrong classes, CM010 is given."""

TIED_TOKENS = 0.2
"""The same of condensed rows, for the share of neighbours among the likeliest tokens. Kept in float16 some 5 % of the
neighbours tie; logits that came in bfloat16, as many engines give them, half."""

NAMED = {"CM009", "CM019", "CM020", "CM021", "CM041"}
"""Findings of which the sentences name every teacher that is not usable."""


def check_bank(bank: LogitBank) -> pd.DataFrame:
    """Look for drift, ties and probabilities among every teacher's logits.

    Parameters
    ----------
    bank : LogitBank
        Of any number of teachers.

    Returns
    -------
    pandas.DataFrame
        One row per run, with the columns

        * ``family``, ``teacher``, ``seed``: which run of which teacher; seed 0 where none is known
        * ``drift``: mean logit over the mean standard deviation of an example's logits
        * ``tied``: share of examples of which two wrong classes have equal logits, in [0, 1]; of condensed rows the
          share of equal neighbours among the likeliest tokens
        * ``findings``: codes, comma-separated: those of collecting (CM001, CM002), and CM009, CM010,
          CM011, CM016

    See Also
    --------
    tell_checks : the findings in sentences.

    Examples
    --------
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": [[7.0, 2, 0], [2, 6, 1]], "b": [[2.0, -1, -1], [-1.5, 2, -0.5]]}, [0, 1])
    >>> check_bank(bank).round(2)[["teacher", "drift", "tied", "findings"]].values.tolist()
    [['a', 1.18, 0.0, 'CM011'], ['b', 0.0, 0.5, 'CM010']]
    """
    total = len(bank.rows.labels)
    picked = spaced(total, ROWS)
    runs = []
    for record in bank.teachers:
        drift, tied, kind = bank.looked_at(record.key, picked)
        applies = {
            "CM009": kind == "log-probabilities",
            "CM010": tied >= (TIED_TOKENS if bank.condensed else TIED),
            "CM011": abs(drift) >= DRIFT,
            "CM016": kind in NOT_LOGITS,
        }
        codes = join_codes([*filter(None, record.findings.split(",")), *(code for code in applies if applies[code])])
        runs.append((record.family, record.teacher, record.seed or 0, drift, tied, codes))
    checks = pd.DataFrame(runs, columns=["family", "teacher", "seed", "drift", "tied", "findings"])
    for _, of_family in checks.groupby("family"):
        if len(of_family) > 1 and of_family["drift"].abs().ge(DRIFT).mean() >= COMMON_DRIFT:
            kept = [join_codes({*cell.split(",")} - {"", "CM011"}) for cell in of_family["findings"]]
            checks.loc[of_family.index, "findings"] = kept
    return checks


def tell_checks(checks: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """The findings of `check_bank` in sentences, each followed by its code if it has one.

    Examples
    --------
    >>> checks = pd.DataFrame({"teacher": ["a", "b"], "seed": 0, "drift": [-0.4, 0.0], "tied": 0.0})
    >>> for sentence, code in tell_checks(checks.assign(findings=["CM011", ""])):
    ...     print(code, sentence)
    CM011 Logits not centred in 1 of 2 runs: the mean logit lies up to 0.40 standard deviations of an example's logits
    from zero (a seed 0).
    """
    total, codes = count(len(checks), "run"), checks["findings"].str.split(",")
    names = checks["teacher"] + " seed " + checks["seed"].astype(str)
    drift, tied = checks["drift"].abs(), checks["tied"]
    details = {
        "CM010": f": two wrong classes are equal in up to {format_percent(tied.max())} of examples "
        f"({names.iloc[tied.argmax()]})",
        "CM011": f": the mean logit lies up to {drift.max():.2f} standard deviations of an example's logits from zero "
        f"({names.iloc[drift.argmax()]})",
    }
    if "usable" in checks:
        bad = checks[~checks["usable"].astype(bool)]
        for code in sorted({code for cell in bad["findings"] for code in cell.split(",")} & NAMED):
            named = bad[bad["findings"].str.contains(code)]
            details[code] = ": left out of what follows, because of " + "; ".join(
                f"{row.family}/{row.teacher} seed {row.seed} ({row.reason})" for row in named.itertuples()
            )
    for code in sorted(set(codes.explode()) - {""}):
        affected = sum(code in codes_of_run for codes_of_run in codes)
        yield f"{start(explain(code).title)} in {affected} of {total}{details.get(code, '')}.", code
    if checks["findings"].eq("").all():
        yield (f"No problems in {total}: no drift of the mean logit, no ties, no probabilities.",)
